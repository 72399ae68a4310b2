"""Texts and labels: dataset folders, Hub datasets and own files."""

import csv
import hashlib
import io
import itertools
import json
import logging
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow.parquet
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Value,
    concatenate_datasets,
    load_dataset_builder,
)
from datasets.exceptions import DatasetsError
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.utils import httpx

from common.cli import fail, one_line

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
# What reading a file or a Hub dataset raises for reasons that the user can mend: no such file, no
# network, no access, an unknown configuration, broken bytes.
LOAD_ERRORS = (OSError, ValueError, DatasetsError, httpx.HTTPError)


@dataclass
class DataArguments:
    """Texts and labels: a dataset folder, a Hub dataset or own files."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset folder, or a dataset id on the Hub."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of a Hub dataset."}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "Training data: .csv, .tsv, .json, .jsonl or .parquet."}
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Validation data with the same columns."}
    )
    test_file: str | None = field(
        default=None, metadata={"help": "Test data with the same columns."}
    )
    text_column_names: list[str] = field(
        default_factory=lambda: ["abstract"], metadata={"help": "Columns of text."}
    )
    text_column_delimiter: str = field(
        default=" ", metadata={"help": "Text between joined columns."}
    )
    label_column_name: str = field(
        default="label", metadata={"help": "Column of the classes: names or integers."}
    )
    label_names: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of the classes in the order of their numbers, if labels are 0, 1 ..."
        },
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Fraction of training held out when there is no validation split."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Truncate the training split."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Truncate the validation split."}
    )
    max_predict_samples: int | None = field(
        default=None, metadata={"help": "Truncate the test split."}
    )

    def __post_init__(self):
        # "title,abstract" and "title abstract" are the same two columns.
        if self.text_column_names is not None:  # None: a run decides
            names = ",".join(self.text_column_names).split(",")
            self.text_column_names = [name.strip() for name in names]


@dataclass
class LoadedData:
    """Splits with the columns id, text and label, and what the record of a run says about them."""

    splits: DatasetDict  # label is the same ClassLabel in every split, matched by name
    labels: list[str]  # names of the classes in the order of their numbers
    fingerprints: dict[str, str]  # of each split: the rows that are used
    commit: str | None  # of a dataset on the Hub


def load_splits(
    arguments: DataArguments, needed: list[str], seed: int, optional: list[str] | None = None
) -> LoadedData:
    """Load the splits that are needed, and the optional ones that exist.

    A missing validation split is a stratified share of training. Exits with status 2 if a needed
    split, a column, a text or a label is missing, an id is duplicated, or a split has a class that
    the training split lacks.
    """
    names = arguments.text_column_names
    if arguments.label_column_name in names:
        fail(
            f"--text_column_names has the --label_column_name {arguments.label_column_name!r}: "
            "the texts would give the classes away; choose another column"
        )
    if len(set(names)) < len(names):
        fail(f"--text_column_names names a column twice: {', '.join(names)}; name it once")

    # 1. Tables with the columns of the files; validation may have to be taken from training
    tables, commit = read_tables(arguments, needed, optional or [])
    wanted = [split for split in SPLITS if split in needed or split in (optional or [])]
    takes_validation = "validation" in wanted and "validation" not in tables and "train" in tables

    # 2. Tables with the columns id, text and label, a name
    tables = {split: check_rows(table, split, arguments) for split, table in tables.items()}
    names = match_labels(tables, arguments)
    if takes_validation:
        take_validation(tables, names, arguments.validation_fraction, seed)
    limits = {
        "train": arguments.max_train_samples,
        "validation": arguments.max_eval_samples,
        "test": arguments.max_predict_samples,
    }
    for split, limit in limits.items():
        if limit is not None and limit < 1:
            fail(f"the number of documents of split {split!r} must be at least 1, not {limit}")
    tables = {split: tables[split][: limits[split]] for split in wanted if split in tables}
    check_classes(tables, names)
    warn_about_leaks(tables)

    # 3. Numbers instead of names
    number = {name: place for place, name in enumerate(names)}
    kinds = {"id": Value("string"), "text": Value("string"), "label": ClassLabel(names=names)}
    splits = DatasetDict()
    for split, table in tables.items():
        columns = table.to_dict("list")
        columns["label"] = [number[name] for name in columns["label"]]
        splits[split] = Dataset.from_dict(columns, Features(kinds))
    fingerprints = {split: fingerprint(table) for split, table in tables.items()}
    return LoadedData(splits, names, fingerprints, commit)


def read_tables(
    arguments: DataArguments, needed: list[str], optional: list[str]
) -> tuple[dict[str, pd.DataFrame], str | None]:
    """Return the splits that are needed or optional as tables, and the commit of a Hub dataset.

    Training comes with them where a missing validation split has to be taken from it. Exits with
    status 2 if a needed split does not exist.
    """
    files = {split: getattr(arguments, f"{split}_file") for split in SPLITS}
    files = {split: file for split, file in files.items() if file}
    if arguments.dataset_name and files:
        fail("give either --dataset_name or files such as --train_file, not both")
    if not arguments.dataset_name and not files:
        fail("give either --dataset_name or --train_file, --validation_file, --test_file")
    commit = None
    loaded = files
    if arguments.dataset_name:
        loaded = load_hub_dataset(
            arguments.dataset_name, arguments.dataset_config_name, arguments.dataset_revision
        )
        commit = dataset_commit(next(iter(loaded.values())))

    wanted = {*needed, *optional} & {*loaded}
    if "validation" in (*needed, *optional) and "validation" not in loaded and "train" in loaded:
        wanted.add("train")
    for split in needed:
        is_taken = split == "validation" and "train" in loaded
        if split not in loaded and not is_taken:
            has = ", ".join(loaded)
            if files:
                fail(f"--{split}_file is required; the files given are those of {has}")
            fail(f"{arguments.dataset_name} has no split {split!r}; it has {has}")
    if not wanted:
        fail(f"the data has none of the splits {', '.join(SPLITS)}; it has {', '.join(loaded)}")
    tables = {}
    for split in SPLITS:
        if split not in wanted:
            continue
        if arguments.dataset_name:
            tables[split] = to_table(loaded[split].to_pandas(), loaded[split].features)
        else:
            tables[split] = read_file(files[split])
    return tables, commit


def load_hub_dataset(name: str, config: str | None, revision: str | None) -> DatasetDict:
    """Load a dataset folder or Hub dataset. Exit with status 2 if that fails."""
    if Path(name, "manifest.partial.json").exists():  # its files may be of two datasets
        fail(
            f"{name} is incomplete; run the command of tools/prepare_dataset.py that made it again"
        )
    if Path(name).is_dir() and re.search(r"[*?\[\]]", str(Path(name).resolve())):
        # datasets takes them for a pattern and would read the files of other folders, too.
        fail(f"the path of --dataset_name {name} has one of the signs * ? [ ]; rename the folder")
    try:
        builder = load_dataset_builder(name, config, revision=revision)
        files = builder.config.data_files or {}
        if Path(name).is_dir() and not class_names_agree(files, builder.info.features):
            return read_each_file(files)
        builder.download_and_prepare()
        loaded = builder.as_dataset()
    except LOAD_ERRORS as error:
        # "An error occurred while generating the dataset" has the reason in its cause.
        reason = error.__cause__ if isinstance(error.__cause__, ValueError | OSError) else error
        fail(f"cannot load --dataset_name {name}: {one_line(reason)}")
    if not class_names_agree(files, builder.info.features):
        fail(
            f"the files of {name} have the classes in different orders, so their numbers do not "
            "mean the same; download the files and give them as --train_file, --test_file"
        )
    return loaded


def class_names_agree(files: dict[str, list[str]], features: Features | None) -> bool:
    """Return whether the Parquet files of a dataset have the same names in every ClassLabel.

    If not, datasets would read the numbers of one file with the names of another. Features are
    those that the dataset itself declares. Files of the Hub count once they have been downloaded.
    """
    known = dict(features or {})
    for file in itertools.chain.from_iterable(files.values()):
        on_hub = re.fullmatch(r"hf://datasets/(.+)@([0-9a-f]{40})/(.+)", file)
        if on_hub:
            name, commit, path = on_hub.groups()
            file = try_to_load_from_cache(name, path, revision=commit, repo_type="dataset")
        if not isinstance(file, str) or not file.endswith(".parquet"):
            continue
        own = Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
        for column, feature in own.items():
            if isinstance(feature, ClassLabel) and known.setdefault(column, feature) != feature:
                return False
    return True


def read_each_file(files: dict[str, list[str]]) -> DatasetDict:
    """Return splits with the ClassLabels of their own Parquet files.

    Raises ValueError if those of one split differ.
    """
    splits = DatasetDict()
    for split, paths in files.items():
        splits[str(split)] = concatenate_datasets([Dataset.from_parquet(path) for path in paths])
    return splits


def dataset_commit(dataset: Dataset) -> str | None:
    """Return the commit of the Hub dataset that a split is of; None for a local folder."""
    files = dataset.cache_files
    match = re.search(r"/([0-9a-f]{40})/[^/]+$", files[0]["filename"]) if files else None
    return match and match[1]


def to_table(frame: pd.DataFrame, features: Features) -> pd.DataFrame:
    """Make every ClassLabel a categorical: the names in their order; -1, no label, is missing."""
    for column, feature in features.items():
        if isinstance(feature, ClassLabel):
            numbers = frame[column].fillna(-1).astype(int)
            numbers = numbers.where(numbers < feature.num_classes, -1)
            frame[column] = pd.Categorical.from_codes(numbers, feature.names)
    return frame


def read_file(file: str) -> pd.DataFrame:
    """Read a file by the rules of its format. Exit with status 2 if it breaks them."""
    suffix = Path(file).suffix.lower()
    if suffix not in (".csv", ".tsv", ".json", ".jsonl", ".parquet"):
        fail(f"cannot load {file}: it is not a .csv, .tsv, .json, .jsonl or .parquet file")
    try:
        if suffix == ".parquet":
            return read_parquet(file)
        content = Path(file).read_bytes()
    except FileNotFoundError:
        fail(f"cannot load {file}: no such file")
    except LOAD_ERRORS as error:
        fail(f"cannot load {file}: {one_line(error)}")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        fail(f"cannot load {file}: it is UTF-16; save it as UTF-8 (Excel: 'CSV UTF-8')")
    if content.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        fail(
            f"cannot load {file}: it is compressed or an Excel workbook; unpack it, or save as CSV"
        )
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        fail(f"cannot load {file}: line {line} has a NUL byte, as UTF-16 has; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail(f"cannot load {file}: {one_line(error)}; save the file as UTF-8 (Excel: 'CSV UTF-8')")
    return read_json(file, text) if suffix.startswith(".json") else read_csv(file, text)


def read_parquet(file: str) -> pd.DataFrame:
    """Read a Parquet file of datasets, with its ClassLabels, of pandas or of others."""
    table = pyarrow.parquet.read_table(file)
    written_by_datasets = b"huggingface" in (table.schema.metadata or {})
    features = Features.from_arrow_schema(table.schema) if written_by_datasets else Features()
    # Without pandas' own metadata, an index named id stays the column that it is in the file.
    return to_table(table.to_pandas(ignore_metadata=True), features)


def read_csv(file: str, text: str) -> pd.DataFrame:
    """Read comma-, semicolon- or tab-separated fields; every value is a text, as the file has it.

    The separator is the one that gives the header the most fields; a comma among equals.
    """
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than a long text
    header = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    separator = max(",;\t", key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
    if separator != ("\t" if file.lower().endswith(".tsv") else ","):
        logger.info("%s: fields are separated by %r", file, separator)
    # newline="" leaves line ends inside quotes as they are.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns, rows, wrong = [], [], []
    next_line = 1
    try:
        for row in reader:
            line, next_line = next_line, reader.line_num + 1
            if not row:  # a blank line
                continue
            if not columns:
                columns = row
            elif len(row) == len(columns):
                rows.append(row)
            else:
                wrong.append(line)
    except csv.Error as error:
        fail(
            f"cannot load {file}: the quotation marks of the row that starts in line {next_line} "
            f"do not match ({error}); quote the whole field, and write a mark inside it twice"
        )
    if wrong:
        lines = ", ".join(map(str, wrong[:3])) + (", ..." if len(wrong) > 3 else "")
        fail(
            f"cannot load {file}: {len(wrong)} of {len(rows) + len(wrong)} rows do not have the "
            f"{len(columns)} fields of the header, separated by {separator!r} (line {lines}); "
            "put fields that contain the separator into quotation marks"
        )
    return pd.DataFrame(rows, columns=columns, dtype=object)


def read_json(file: str, text: str) -> pd.DataFrame:
    """Read a list of objects, an object with such a list under "data", or an object a line."""
    line = 1
    try:
        decoder = json.JSONDecoder(object_pairs_hook=to_record)
        content, end = decoder.raw_decode(text.strip())
        if end < len(text.strip()):  # more than one value: an object a line
            content = []
            # A JSON string holds no line end, but it may hold U+2028, where splitlines() would cut.
            lines = re.split(r"\r\n|\r|\n", text)
            for line in range(1, len(lines) + 1):
                if lines[line - 1].strip():
                    content.append(decoder.decode(lines[line - 1]))
    except json.JSONDecodeError as error:
        line += error.lineno - 1
        fail(f"cannot load {file}: line {line} column {error.colno} is not JSON: {error.msg}")
    except ValueError as error:  # a key twice, or a number with thousands of digits
        fail(f"cannot load {file}: line {line} or a later one: {one_line(error)}")
    except RecursionError:
        fail(f"cannot load {file}: a value is nested too deeply")
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        logger.info("%s: the records are those under 'data'", file)
        content = content["data"]
    records = content if isinstance(content, list) else [content]
    wrong = [place for place, record in enumerate(records) if not isinstance(record, dict)]
    if isinstance(content, dict) and all(isinstance(value, dict) for value in content.values()):
        wrong = [0]  # what pandas writes unless it is told otherwise
    if wrong:
        fail(
            f"cannot load {file}: record {wrong[0]} is not an object of columns and values; "
            "pandas writes such a file with to_json(file, orient='records', lines=True)"
        )
    columns = dict.fromkeys(column for record in records for column in record)
    values = {column: [record.get(column) for record in records] for column in columns}
    return pd.DataFrame(values, dtype=object)


def to_record(pairs: list[tuple[str, object]]) -> dict:
    """Return an object of a JSON file. Raises ValueError if one of its values would be lost."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has {doubled!r} more than once")
    return record


def check_rows(frame: pd.DataFrame, split: str, arguments: DataArguments) -> pd.DataFrame:
    """Return the columns id, text and label. Exit with status 2 if a row is not right."""
    if len(frame) == 0:
        fail(f"split {split!r} has no rows")
    check_columns(frame, split, [*arguments.text_column_names, arguments.label_column_name])
    labels = frame[arguments.label_column_name]
    columns = [frame[column].tolist() for column in arguments.text_column_names]
    for name, column in zip(arguments.text_column_names, columns, strict=True):
        check_texts(column, f"column {name!r} of split {split!r}")
    delimiter = arguments.text_column_delimiter
    texts = [join_texts(row, delimiter) for row in zip(*columns, strict=True)]
    ids = pd.Series([f"{split}.{row}" for row in range(len(frame))])
    problems = {}
    if "id" in frame:
        # Without an id, the row could not be found again; numbers for some rows alone would mix.
        problems["no id, which others have"] = frame["id"].map(is_missing)
        ids = frame["id"].astype(str).reset_index(drop=True)
        problems["a duplicated id"] = ids.duplicated()
    problems |= {
        f"an empty text in {', '.join(arguments.text_column_names)}": [not text for text in texts],
        "half a character (a lone surrogate)": [
            re.search("[\ud800-\udfff]", f"{identifier}{text}{label}") is not None
            for identifier, text, label in zip(ids, texts, labels, strict=True)
        ],
        f"no label in column {arguments.label_column_name!r}": labels.astype(object).map(
            is_missing
        ),
    }
    check_labels(labels, f"labels in column {arguments.label_column_name!r} of split {split!r}")
    for problem, is_wrong in problems.items():
        rows = [row for row, wrong in enumerate(is_wrong) if wrong]
        if rows:
            named = ", ".join(f"row {row} (id {ids[row]})" for row in rows[:3])
            verb = "has" if len(rows) == 1 else "have"
            fail(
                f"{len(rows)} of {len(frame)} rows of split {split!r} {verb} {problem}: {named}"
                f"{', ...' if len(rows) > 3 else ''}; correct or remove them (rows count from 0)"
            )
    return pd.DataFrame({"id": ids, "text": texts, "label": labels.reset_index(drop=True)})


def check_columns(frame: pd.DataFrame, split: str, needed: list[str]) -> None:
    """Exit with status 2 unless a split has every column that is needed, and none of them twice."""
    columns = list(frame.columns)
    for column in needed:
        if column not in columns:
            names = ", ".join(map(repr, columns))
            fail(
                f"column {column!r} is not in split {split!r}; its columns are {names}: "
                "choose --text_column_names and --label_column_name"
            )
    for column in (*needed, "id"):
        if columns.count(column) > 1:
            fail(f"column {column!r} occurs {columns.count(column)} times in split {split!r}")


def is_missing(value: object) -> bool:
    """Return whether a value of a table is None, NaN, NaT or a text of white space alone."""
    if isinstance(value, str):
        return not value.strip()
    return pd.api.types.is_scalar(value) and bool(pd.isna(value))


def join_texts(texts: Iterable, delimiter: str) -> str:
    """Join the columns of a row; an empty column beside a full one leaves no delimiter."""
    return delimiter.join(text for text in texts if not is_missing(text))


def check_texts(values: list, name: str) -> None:
    """Exit with status 2 if a column holds something other than texts. Empty ones are allowed."""
    wrong = [
        row
        for row, value in enumerate(values)
        if not isinstance(value, str) and not is_missing(value)
    ]
    if wrong:
        kind = type(values[wrong[0]]).__name__
        fail(
            f"{name} is not text but {kind} in {len(wrong)} of {len(values)} rows, first in row "
            f"{wrong[0]}; choose other --text_column_names or write the values as texts"
        )
    if all(is_missing(value) or re.fullmatch(r"\s*[\d.,+-]+\s*", value) for value in values):
        logger.warning("%s has numbers alone, which are taken as texts", name)


def check_labels(labels: pd.Series, name: str) -> None:
    """Exit with status 2 unless the labels are all names, all integers or all truth values."""
    values = [value for value in labels.astype(object).tolist() if not is_missing(value)]
    kinds = sorted({type(value).__name__ for value in values})
    if "list" in kinds or "ndarray" in kinds:
        fail(f"{name} are lists: several labels for one document are not supported")
    # A CSV file has them as texts.
    is_decimal = [re.fullmatch(r"\s*[+-]?\d+\.\d*\s*", str(value)) for value in values]
    if kinds == ["float"] or (values and all(is_decimal)):
        missing = len(labels) - len(values)
        fail(
            f"{name} are decimal numbers such as {values[0]}, not names or integers; pandas makes "
            f"integers decimal where one is missing ({missing} of {len(labels)} here): remove such "
            "rows, then convert with astype(int)"
        )
    if len(kinds) > 1:
        example = {type(value).__name__: value for value in reversed(values)}
        found = ", ".join(f"{kind} such as {example[kind]!r}" for kind in kinds)
        fail(f"{name} are of mixed kinds: {found}; write all of them in the same way")
    if kinds and kinds[0] not in ("str", "int", "bool"):
        fail(f"{name} must be names or integers, not {kinds[0]}")


def match_labels(tables: dict[str, pd.DataFrame], arguments: DataArguments) -> list[str]:
    """Return the names of the classes in their order; every label becomes one of them.

    The order is that of --label_names, else that of the first split with a ClassLabel, else
    alphabetical, or numerical if all are integers.
    """
    given = arguments.label_names
    if given is not None and len(set(given)) < len(given):
        fail(f"--label_names has a name twice: {quote_names(given)}")
    ordered = None
    for split, table in tables.items():
        labels = table["label"]
        if ordered is None and isinstance(labels.dtype, pd.CategoricalDtype):
            ordered = [str(name) for name in labels.cat.categories]
        labels = labels.astype(object).map(str)
        if given is not None:
            labels = name_numbers(labels, given, split)
        table["label"] = labels
    found = {name for table in tables.values() for name in table["label"]}
    spellings = {}
    for name in sorted(found):
        other = spellings.setdefault(visible_text(name), name)
        if other != name:
            fail(
                f"classes {other!a} and {name!a} differ only in white space, characters "
                "that are not seen or the form of accents; write them alike"
            )
    if given is not None:
        unknown = found - set(given)
        if unknown:
            fail(
                f"--label_names {quote_names(given)} lacks classes of the data: "
                f"{quote_names(unknown)}; write the names as the data does"
            )
        return list(given)
    if ordered is not None:
        # Another split may have names of its own; where training lacks them, check_classes says so.
        return ordered + sorted(found - set(ordered))
    if all(re.fullmatch(r"-?\d+", name) for name in found):
        return sorted(found, key=lambda name: (int(name), name))
    return sorted(found)


def visible_text(name: str) -> str:
    """Return what is seen of a name, with accents in one form and single spaces."""
    name = unicodedata.normalize("NFC", name)
    name = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    return " ".join(name.split())


def name_numbers(labels: pd.Series, names: list[str], split: str) -> pd.Series:
    """Return labels such as 0 or LABEL_0 as the names with these numbers; others as they are."""
    numbers = labels.str.extract(r"^(?:LABEL_)?(\d+)$", expand=False)
    if numbers.isna().any() or set(labels) <= set(names):
        return labels
    highest = int(numbers.astype(int).max())
    if highest >= len(names):
        fail(
            f"--label_names has {len(names)} names, and split {split!r} has a label {highest}; "
            "the first name is that of number 0"
        )
    return numbers.astype(int).map(dict(enumerate(names)))


def quote_names(names: Collection[str]) -> str:
    """Return at most six names in quotes, so that spaces are seen."""
    shown = ", ".join(map(repr, sorted(names)[:6]))
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 6 else shown


def take_validation(
    tables: dict[str, pd.DataFrame], names: list[str], fraction: float, seed: int
) -> None:
    """Move a stratified share of training to validation. Exit with status 2 if that cannot be."""
    # Imported where it is used: a file with a validation split is read without waiting for it.
    from sklearn.model_selection import train_test_split

    train = tables["train"]
    counts = train["label"].value_counts()
    single = [name for name in names if counts.get(name) == 1]
    if single:
        fail(
            "cannot take --validation_fraction from training: there is only one document of "
            f"{quote_names(single)}; give a --validation_file, or remove it"
        )
    # Numbers, not names: the draw depends on the order of the classes.
    numbers = train["label"].map({name: number for number, name in enumerate(names)})
    try:
        tables["train"], tables["validation"] = train_test_split(
            train, random_state=seed, test_size=fraction, stratify=numbers
        )
    except ValueError as error:  # fewer validation documents than classes, or a fraction of 1
        fail(
            f"cannot take --validation_fraction {fraction:g} from {len(train)} training documents: "
            f"{one_line(error)}; choose another fraction or give a --validation_file"
        )
    logger.warning(
        "no validation split: %d training documents are used for it", len(tables["validation"])
    )


def check_classes(tables: dict[str, pd.DataFrame], names: list[str]) -> None:
    """Exit with status 2 if a split has a class that training lacks, or training has only one."""
    if "train" not in tables:
        return
    trained = set(tables["train"]["label"])
    for split, table in tables.items():
        is_unknown = ~table["label"].isin(trained)
        unknown = set(table["label"][is_unknown])
        if unknown:
            fail(
                f"split {split!r} has {is_unknown.sum()} rows of {quote_names(unknown)}, and the "
                f"training split only has {quote_names(trained)}; correct the names, name numbers "
                "with --label_names, or remove the rows"
            )
    if len(trained) < 2:
        fail(
            f"all training documents are of class {quote_names(trained)}; "
            "at least two classes are required"
        )


def normalize_text(text: str) -> str:
    """Return a text without differences of white space and case."""
    return " ".join(text.split()).casefold()


def warn_about_leaks(tables: dict[str, pd.DataFrame]) -> None:
    """Warn about texts that stand in two splits, exactly and regardless of white space and case."""
    texts = {split: table["text"].tolist() for split, table in tables.items()}
    plain = {split: list(map(normalize_text, texts[split])) for split in texts}
    for earlier, later in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if earlier not in texts or later not in texts:
            continue
        seen = set(plain[earlier])
        alike = sum(text in seen for text in plain[later])
        if not alike:
            continue
        seen = set(texts[earlier])
        same = sum(text in seen for text in texts[later])
        logger.warning(
            "%d of %d texts of split %r are also in split %r, regardless of white space and "
            "case (%d to the letter): results on them are too good; "
            "tools/prepare_dataset.py --drop_leaked removes them from %s",
            *(alike, len(texts[later]), later, earlier, same, earlier),
        )


def fingerprint(table: pd.DataFrame) -> str:
    """Return 16 digits of the SHA-256 of the ids, texts and class names of a split, in order."""
    digest = hashlib.sha256()
    columns = (table[column].tolist() for column in ("id", "text", "label"))
    for row in zip(*columns, strict=True):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()[:16]


def load_split(name: str, split: str, columns: list[str], revision: str | None = None) -> Dataset:
    """Load a split of a dataset. Exit with status 2 if it or one of the columns is missing."""
    dataset = load_hub_dataset(name, None, revision)
    if split not in dataset:
        fail(f"{name} has no split {split!r}; it has {', '.join(dataset)}")
    for column in columns:
        if column not in dataset[split].column_names:
            names = ", ".join(dataset[split].column_names)
            fail(f"{name} has no column {column!r}; it has {names}")
    return dataset[split]
