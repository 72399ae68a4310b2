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

import numpy as np
import pandas as pd
import pyarrow.parquet
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    List,
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
SINGLE_LABEL = "single_label_classification"  # transformers' names of a problem_type
MULTI_LABEL = "multi_label_classification"
FILE_TYPES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
VALIDATION_FRACTION = 0.1  # if --validation_fraction is not given
# What reading a file or a Hub dataset raises for reasons that the user can fix: no such file, no
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
    train_split_name: str = field(
        default="train", metadata={"help": "Split of the dataset to train on."}
    )
    validation_split_name: str = field(
        default="validation", metadata={"help": "Split of the dataset to validate on."}
    )
    test_split_name: str = field(
        default="test", metadata={"help": "Split of the dataset to test on."}
    )
    csv_delimiter: str | None = field(
        default=None,
        metadata={"help": r"Separator of a CSV file, e.g. ';' or '\t'. Found by default."},
    )
    json_field: str | None = field(
        default=None,
        metadata={"help": "Key of the list of records in a JSON file, if it is one object."},
    )
    text_column_names: list[str] = field(
        default_factory=lambda: ["abstract"], metadata={"help": "Columns of text."}
    )
    text_column_delimiter: str = field(
        default=" ", metadata={"help": "Text between joined columns."}
    )
    label_column_name: str = field(
        default="label",
        metadata={"help": "Column of the classes: names, integers, or lists of them."},
    )
    label_delimiter: str | None = field(
        default=None,
        metadata={"help": "Text between the labels of a document with several, e.g. ';'."},
    )
    label_names: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of the classes, in the order of their numbers, if the labels are 0, 1, "
            "...; if the labels are lists, only these names are kept."
        },
    )
    validation_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Fraction of training held out when there is no validation split. Default: 0.1."
        },
    )
    test_fraction: float | None = field(
        default=None,
        metadata={"help": "Fraction of training held out as the test split, if there is none."},
    )
    split_seed: int = field(
        default=42, metadata={"help": "Seed of the splits that are held out from training."}
    )
    drop_bad_rows: bool = field(
        default=False,
        metadata={
            "help": "Drop and count rows with an empty text, no label or a duplicated id, instead "
            "of stopping."
        },
    )
    shuffle_train_dataset: bool = field(
        default=False,
        metadata={"help": "Shuffle training with the seed before --max_train_samples cuts it."},
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
        if self.text_column_names is not None:  # None: a run decides
            self.text_column_names = split_names(self.text_column_names)


def split_names(names: list[str] | str) -> list[str]:
    """Return the columns of --text_column_names; "title,abstract" and "title abstract" are two."""
    joined = names if isinstance(names, str) else ",".join(names)
    return [name.strip() for name in joined.split(",")]


def check_delimiter(given: str | None, columns: list[str]) -> None:
    """Exit with status 2 if --text_column_delimiter was given for one column: it joins nothing."""
    if given is not None and len(columns) == 1:
        fail(
            f"--text_column_delimiter: there is one column of text, {columns[0]}, so nothing is "
            "joined; leave it out"
        )


@dataclass
class LoadedData:
    """Splits with the columns id, text and label, and what the record of a run says about them.

    label is the same ClassLabel in every split, matched by name, or with several labels per
    document a list of it, in the order of the numbers. A test split without labels has no such
    column; where no split has labels, problem_type is that of a single label, and labels are
    --label_names, if they were given.
    """

    splits: DatasetDict
    labels: list[str]  # names of the classes in the order of their numbers
    fingerprints: dict[str, str]  # of each split: the rows that are used
    commit: str | None  # of a dataset on the Hub
    problem_type: str  # SINGLE_LABEL or MULTI_LABEL
    dropped: dict[str, dict[str, int]]  # by --drop_bad_rows: rows of each split and reason
    held_out: list[str]  # the splits that are shares of training, drawn with --split_seed


def load_splits(
    arguments: DataArguments, needed: list[str], seed: int, optional: list[str] | None = None
) -> LoadedData:
    """Load the splits that are needed, and the optional ones that exist.

    A missing validation split, and with --test_fraction the test split, is a stratified share of
    training, drawn with --split_seed; seed is that of --shuffle_train_dataset. Labels may be
    missing in the test split alone, and then in all of its rows. Exits with status 2 if a needed
    split, a column, a text or a label is missing, an id is duplicated, or a split has a class that
    the training split lacks.
    """
    check_data_arguments(arguments)

    # 1. Tables with the columns of the files
    frames, taken, commit = read_tables(arguments, needed, optional or [])
    for split, frame in frames.items():
        check_columns(frame, split, arguments)
    labels = find_labels(frames, arguments)
    problem_type = find_problem_type(labels, arguments)

    # 2. Tables with the columns id, text and label: a name, or a list of names
    tables = {}
    dropped = {}
    order = find_order(frames, labels)
    for split in list(frames):
        frame = frames.pop(split)  # a large file is not kept twice
        tables[split], counts = check_rows(
            frame, labels.pop(split, None), problem_type, split, arguments
        )
        if counts:
            dropped[split] = counts
    names = match_labels(tables, order, problem_type, arguments)

    # 3. The rows that are used
    for split in taken:
        take_from_training(tables, split, names, problem_type, arguments)
    if arguments.shuffle_train_dataset and "train" in tables:
        tables["train"] = tables["train"].sample(frac=1, random_state=seed)
    limits = {
        "train": arguments.max_train_samples,
        "validation": arguments.max_eval_samples,
        "test": arguments.max_predict_samples,
    }
    wanted = [split for split in SPLITS if split in needed or split in (optional or [])]
    tables = {split: tables[split][: limits[split]] for split in wanted if split in tables}
    check_classes(tables, names, problem_type)
    warn_about_leaks(tables)

    # 4. Numbers instead of names
    number = {name: index for index, name in enumerate(names)}
    kinds = {"id": Value("string"), "text": Value("string")}
    splits = DatasetDict()
    for split, table in tables.items():
        columns = table.to_dict("list")
        features = Features(kinds)
        if "label" in table and problem_type == MULTI_LABEL:
            features["label"] = List(ClassLabel(names=names))
            columns["label"] = [[number[name] for name in label] for label in columns["label"]]
        elif "label" in table:
            features["label"] = ClassLabel(names=names)
            columns["label"] = [number[name] for name in columns["label"]]
        splits[split] = Dataset.from_dict(columns, features)
    fingerprints = {split: fingerprint(table) for split, table in tables.items()}
    return LoadedData(splits, names, fingerprints, commit, problem_type, dropped, taken)


def check_data_arguments(arguments: DataArguments) -> None:
    """Exit with status 2 on arguments that have no meaning, or none with the others."""
    columns = arguments.text_column_names
    if arguments.label_column_name in columns:
        fail(
            f"--text_column_names has the --label_column_name {arguments.label_column_name!r}: "
            "the texts would give the classes away; choose another column"
        )
    if len(set(columns)) < len(columns):
        fail(f"--text_column_names names a column twice: {', '.join(columns)}; name it once")
    files = data_files(arguments)
    if arguments.dataset_name and files:
        fail("give either --dataset_name or files such as --train_file, not both")
    if not arguments.dataset_name and not files:
        fail("give either --dataset_name or --train_file, --validation_file, --test_file")
    splits = [getattr(arguments, f"{split}_split_name") for split in SPLITS]
    for flag in ("dataset_config_name", "dataset_revision"):
        if files and getattr(arguments, flag) is not None:
            fail(f"--{flag} requires --dataset_name; leave it out with own files")
    if not arguments.dataset_name and splits != list(SPLITS):
        fail(
            "--train_split_name, --validation_split_name, --test_split_name require --dataset_name"
        )
    if len(set(splits)) < len(splits):
        fail(f"the splits to train, validate and test must differ, not {', '.join(splits)}")
    check_file_flags(arguments, files.values())
    for flag in ("max_train_samples", "max_eval_samples", "max_predict_samples"):
        limit = getattr(arguments, flag)
        if limit is not None and limit < 1:
            fail(f"--{flag} must be at least 1, not {limit}")
    if not 0 <= arguments.split_seed < 2**32:
        fail(f"--split_seed must be between 0 and 2**32 - 1, not {arguments.split_seed}")
    delimiter = arguments.label_delimiter
    if delimiter is not None and not delimiter:
        fail("--label_delimiter must not be empty")
    for name in arguments.label_names or []:
        if delimiter is not None and delimiter in name:
            fail(f"--label_delimiter {delimiter!r} occurs in {name!r} of --label_names")


def check_file_flags(arguments: DataArguments, files: Collection[str]) -> None:
    """Exit with status 2 on --csv_delimiter or --json_field without a file of that kind."""
    kinds = {"csv_delimiter": (".csv", ".tsv"), "json_field": (".json", ".jsonl")}
    for flag, suffixes in kinds.items():
        if getattr(arguments, flag) is None:
            continue
        if not any(file.lower().endswith(suffixes) for file in files):
            fail(f"--{flag} requires a {' or '.join(suffixes)} file; leave it out")


def data_files(arguments: DataArguments) -> dict[str, str]:
    """Return the files that were given: split -> path."""
    files = {split: getattr(arguments, f"{split}_file") for split in SPLITS}
    return {split: file for split, file in files.items() if file}


def read_tables(
    arguments: DataArguments, needed: list[str], optional: list[str]
) -> tuple[dict[str, pd.DataFrame], list[str], str | None]:
    """Read the splits that are needed or optional.

    Returns the tables, the splits that have to be taken from training in this order, and the commit
    of a Hub dataset. Exits with status 2 if a needed split does not exist.
    """
    files = data_files(arguments)
    commit = None
    loaded = files
    if arguments.dataset_name:
        dataset = load_hub_dataset(
            arguments.dataset_name, arguments.dataset_config_name, arguments.dataset_revision
        )
        commit = dataset_commit(next(iter(dataset.values())))
        loaded = name_splits(dataset, arguments)

    # Training is cut in the same way whatever is wanted of it, and whatever --seed is: texts that
    # were trained on are never predicted by another command.
    wanted = {*needed, *optional}
    taken = []
    if arguments.validation_fraction is None:
        arguments.validation_fraction = VALIDATION_FRACTION
    elif "validation" in loaded:
        fail("--validation_fraction: there is a validation split already; leave the flag out")
    if arguments.test_fraction is not None:
        if "test" in loaded:
            fail("--test_fraction: there is a test split already; leave the flag out")
        if "train" not in loaded:
            fail("--test_fraction takes the test split from training, and there is none")
        taken.append("test")
    if "validation" in wanted and "validation" not in loaded and "train" in loaded:
        taken.append("validation")
    for split in needed:
        if split not in loaded and split not in taken:
            if files:
                fail(f"--{split}_file is required; the files given are those of {', '.join(files)}")
            fail(
                f"{arguments.dataset_name} has no split "
                f"{getattr(arguments, f'{split}_split_name')!r}; it has {', '.join(dataset)}"
            )
    if wanted & {*taken}:
        wanted.add("train")
    elif "train" not in wanted:
        taken = []
    read = [split for split in SPLITS if split in wanted and split in loaded]
    if not read:
        has = ", ".join(dataset if arguments.dataset_name else files)
        fail(f"the data has none of the splits {', '.join(SPLITS)}; it has {has}")
    tables = {}
    for split in read:
        if arguments.dataset_name:
            tables[split] = to_table(loaded[split].to_pandas(), loaded[split].features)
        else:
            tables[split] = read_file(files[split], arguments.csv_delimiter, arguments.json_field)
    return tables, taken, commit


def name_splits(dataset: DatasetDict, arguments: DataArguments) -> dict[str, Dataset]:
    """Return the splits of a dataset by their use; --test_split_name dev calls dev test.

    Exits with status 2 if one that was named does not exist.
    """
    splits = {}
    for split in SPLITS:
        name = getattr(arguments, f"{split}_split_name")
        if name in dataset:
            splits[split] = dataset[name]
        elif name != split:
            fail(
                f"--{split}_split_name: {arguments.dataset_name} has no split {name!r}; "
                f"it has {', '.join(dataset)}"
            )
    return splits


def load_hub_dataset(name: str, config: str | None, revision: str | None) -> DatasetDict:
    """Load a dataset folder or Hub dataset. Exit with status 2 if that fails."""
    if Path(name, "manifest.partial.json").exists():  # its files may be of two datasets
        fail(
            f"{name} is incomplete; run the command of tools/prepare_dataset.py that made it again"
        )
    if Path(name).is_dir() and re.search(r"[*?\[\]]", str(Path(name).resolve())):
        # datasets takes them for a pattern and would read the files of other folders, too.
        fail(f"the path of --dataset_name {name} contains one of the characters * ? [ ]; rename it")
    if Path(name, "run_arguments.json").exists():
        fail(f"--dataset_name {name} is the folder of a run; give its dataset")
    if revision and Path(name).exists():
        fail(f"--dataset_revision is for the Hub, but {name} is a local folder; leave it out")
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
            has_names = isinstance(getattr(feature, "feature", feature), ClassLabel)  # also a list
            if has_names and known.setdefault(column, feature) != feature:
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
    """Replace the numbers of every ClassLabel by their names; -1, no label, becomes missing.

    A column of one label becomes a categorical, which knows the order of its names; those of lists
    are in ``frame.attrs[column]``.
    """
    for column, feature in features.items():
        if isinstance(feature, ClassLabel):
            numbers = frame[column].fillna(-1).astype(int)
            numbers = numbers.where(numbers < feature.num_classes, -1)
            frame[column] = pd.Categorical.from_codes(numbers, feature.names)
        elif isinstance(getattr(feature, "feature", None), ClassLabel):
            names = feature.feature.names
            frame.attrs[column] = names
            frame[column] = [
                None if label is None else [name_of(number, names) for number in label]
                for label in frame[column]
            ]
    return frame


def name_of(number: float | None, names: list[str]) -> str | None:
    """Return the name with a number; None, NaN, -1 and numbers that are too large have none."""
    if is_missing(number) or not 0 <= number < len(names):
        return None
    return names[int(number)]


def read_file(
    file: str, csv_delimiter: str | None = None, json_field: str | None = None
) -> pd.DataFrame:
    """Read a file by the rules of its format. Exit with status 2 if it breaks them."""
    suffix = Path(file).suffix.lower()
    if suffix not in FILE_TYPES:
        fail(f"cannot load {file}: it is not a .csv, .tsv, .json, .jsonl or .parquet file")
    try:
        if suffix == ".parquet":
            return read_parquet(file)
        content = Path(file).read_bytes()
    except FileNotFoundError:
        fail(f"cannot load {file}: no such file")
    except LOAD_ERRORS as error:
        fail(f"cannot load {file}: {one_line(error)}")
    if content.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        fail(
            f"cannot load {file}: it is compressed or an Excel workbook; unpack it, or save as CSV"
        )
    remedy = "save it as UTF-8 (Excel: 'CSV UTF-8')"
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        fail(f"cannot load {file}: line {line} has a NUL byte, as UTF-16 has; {remedy}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail(f"cannot load {file}: {one_line(error)}; {remedy}")
    if suffix.startswith(".json"):
        return read_json(file, text, json_field)
    return read_csv(file, content, csv_delimiter)


def read_parquet(file: str) -> pd.DataFrame:
    """Read a Parquet file of datasets, with its ClassLabels, of pandas or of others."""
    table = pyarrow.parquet.read_table(file)
    written_by_datasets = b"huggingface" in (table.schema.metadata or {})
    features = Features.from_arrow_schema(table.schema) if written_by_datasets else Features()
    # Without pandas' own metadata, an index named id stays the column that it is in the file.
    return to_table(table.to_pandas(ignore_metadata=True), features)


def read_csv(file: str, content: bytes, separator: str | None = None) -> pd.DataFrame:
    """Read comma-, semicolon- or tab-separated fields; every value is a text, as the file has it.

    Without a separator, it is the one of these that gives the header the most fields; a comma among
    equals.
    """
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than a long text
    if separator is None:
        start = content.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
        header = re.match(rb"[^\r\n]*", start)[0].decode("utf-8")
        separator = max(
            ",;\t", key=lambda mark: len(next(csv.reader([header], delimiter=mark), []))
        )
        if separator != ("\t" if file.lower().endswith(".tsv") else ","):
            logger.info("%s: fields are separated by %r", file, separator)
    separator = separator.replace("\\t", "\t")
    if len(separator) != 1 or separator in '"\r\n':
        fail(f"--csv_delimiter must be one character, and no quotation mark, not {separator!r}")
    # A wrapper of bytes, because io.StringIO would take four bytes for every character. newline=""
    # leaves line ends inside quotes as they are.
    stream = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    reader = csv.reader(stream, delimiter=separator, strict=True)
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


def read_json(file: str, text: str, field: str | None = None) -> pd.DataFrame:
    """Read a list of objects, an object with such a list under "data", or an object per line.

    With a field, the list is the one under that key.
    """
    line = 1
    try:
        decoder = json.JSONDecoder(object_pairs_hook=to_record)
        content, end = decoder.raw_decode(text.strip())
        if end < len(text.strip()):  # more than one value: an object per line
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
    if field is not None:
        if not isinstance(content, dict) or not isinstance(content.get(field), list):
            fail(f"cannot load {file}: it has no list under {field!r} (--json_field)")
        content = content[field]
    elif isinstance(content, dict) and isinstance(content.get("data"), list):
        logger.info("%s: the records are those under 'data'", file)
        content = content["data"]
    records = content if isinstance(content, list) else [content]
    wrong = [index for index, record in enumerate(records) if not isinstance(record, dict)]
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


def check_columns(frame: pd.DataFrame, split: str, arguments: DataArguments) -> None:
    """Exit with status 2 unless a split has rows and every column, and none of them twice.

    The test split may lack the label.
    """
    if len(frame) == 0:
        fail(f"split {split!r} has no rows")
    columns = list(frame.columns)
    needed = [*arguments.text_column_names, arguments.label_column_name]
    for column in needed:
        may_lack = split == "test" and column == arguments.label_column_name
        if column not in columns and not may_lack:
            names = ", ".join(map(repr, columns))
            fail(
                f"column {column!r} is not in split {split!r}; its columns are {names}: "
                "choose --text_column_names and --label_column_name"
            )
    for column in (*needed, "id"):
        if columns.count(column) > 1:
            fail(f"column {column!r} occurs {columns.count(column)} times in split {split!r}")


def find_labels(frames: dict[str, pd.DataFrame], arguments: DataArguments) -> dict[str, pd.Series]:
    """Return the labels of every split, without a test split that has none.

    Such a split, whose texts can only be predicted, lacks the column, or every label is missing or
    -1 (unless -1 is a class of training).
    """
    column = arguments.label_column_name
    labels = {split: frame[column] for split, frame in frames.items() if column in frame}
    if "test" not in frames:
        return labels
    if "test" in labels:
        values = labels["test"].astype(object)
        if not all(is_missing(value) or str(value) == "-1" for value in values):
            return labels
        if any(str(value) == "-1" for value in labels.get("train", ())):
            return labels
    labels.pop("test", None)
    logger.warning(
        "split 'test' has no labels in column %r (its columns are %s): its texts can be predicted, "
        "and nothing is measured on them",
        column,
        ", ".join(map(repr, frames["test"].columns)),
    )
    return labels


def is_list(value: object) -> bool:
    """Return whether a value of a table is a list; Parquet files have them as arrays."""
    return isinstance(value, list | np.ndarray)


def find_problem_type(labels: dict[str, pd.Series], arguments: DataArguments) -> str:
    """Return whether documents have one label or several: lists, or texts with a delimiter.

    Exits with status 2 if there is nothing that --label_delimiter could split.
    """
    has_lists = [any(map(is_list, values)) for values in labels.values()]
    if arguments.label_delimiter is None:
        return MULTI_LABEL if any(has_lists) else SINGLE_LABEL
    if labels and all(has_lists):
        fail(
            f"the labels in column {arguments.label_column_name!r} are lists; leave out "
            "--label_delimiter, which splits texts"
        )
    return MULTI_LABEL


def find_order(frames: dict[str, pd.DataFrame], labels: dict[str, pd.Series]) -> list[str] | None:
    """Return the classes in the order that the first split with one defines, or None."""
    for split, values in labels.items():
        if isinstance(values.dtype, pd.CategoricalDtype):
            return [str(name) for name in values.cat.categories]
        if values.name in frames[split].attrs:
            return frames[split].attrs[values.name]
    return None


def check_rows(
    frame: pd.DataFrame,
    labels: pd.Series | None,
    problem_type: str,
    split: str,
    arguments: DataArguments,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the columns id, text and label, if there are labels, and how many rows were dropped.

    Exits with status 2 if a row is not right and --drop_bad_rows does not drop it.
    """
    columns = [frame[column].tolist() for column in arguments.text_column_names]
    for name, column in zip(arguments.text_column_names, columns, strict=True):
        check_texts(column, f"column {name!r} of split {split!r}")
    delimiter = arguments.text_column_delimiter
    texts = [join_texts(row, delimiter) for row in zip(*columns, strict=True)]
    ids = pd.Series([f"{split}.{row}" for row in range(len(frame))], dtype=object)
    problems = {}
    if "id" in frame:
        # Without an id, the row could not be found again; numbers for some rows alone would mix.
        problems["no id, which others have"] = frame["id"].map(is_missing).to_numpy()
        ids = frame["id"].map(str).astype(object).reset_index(drop=True)
    names = [""] * len(frame)
    if labels is not None:
        names = read_labels(labels, problem_type, split, arguments)
    problems["half a character (a lone surrogate)"] = [
        re.search("[\ud800-\udfff]", "".join(each_name(row))) is not None
        for row in zip(ids, texts, names, strict=True)
    ]
    # Python's csv module would write it without quotation marks: predictions.csv would be broken.
    problems["a carriage return in the id or the label"] = [
        any("\r" in name for name in each_name(row)) for row in zip(ids, names, strict=True)
    ]
    is_empty = np.array([not text for text in texts])
    is_unlabeled = np.array([name is None for name in names])
    is_usable = ~is_empty & ~is_unlabeled
    droppable = {
        f"an empty text in {', '.join(arguments.text_column_names)}": is_empty,
        f"no label in column {arguments.label_column_name!r}": is_unlabeled,
        "a duplicated id": is_usable & ids.where(is_usable).duplicated().to_numpy(),
    }
    if not arguments.drop_bad_rows:
        problems |= droppable
        droppable = {}
    for problem, is_wrong in problems.items():
        rows = np.flatnonzero(is_wrong)
        if len(rows):
            named = ", ".join(f"row {row} (id {ids[row]})" for row in rows[:3])
            verb = "has" if len(rows) == 1 else "have"
            fail(
                f"{len(rows)} of {len(frame)} rows of split {split!r} {verb} {problem}: {named}"
                f"{', ...' if len(rows) > 3 else ''}; correct or remove them (rows count from 0)"
            )
    dropped = {}
    is_right = np.ones(len(frame), dtype=bool)
    for problem, is_wrong in droppable.items():
        count = int((is_right & is_wrong).sum())
        is_right &= ~is_wrong
        if count:
            dropped[problem] = count
            logger.warning("%d of %d rows of %r dropped: %s", count, len(frame), split, problem)
    if not is_right.any():
        fail(f"--drop_bad_rows would drop every row of split {split!r}; correct them")
    table = pd.DataFrame({"id": ids, "text": texts})
    if labels is not None:
        table["label"] = pd.Series(names, dtype=object)
    return table[is_right].reset_index(drop=True), dropped


def read_labels(
    labels: pd.Series, problem_type: str, split: str, arguments: DataArguments
) -> list[str | list[str] | None]:
    """Return the name, or the list of names, of every document; None where it is missing.

    An empty list, or an empty text beside --label_delimiter, means none of the classes. Exits with
    status 2 unless the labels are all names, all integers or all truth values.
    """
    column = f"labels in column {arguments.label_column_name!r} of split {split!r}"
    delimiter = arguments.label_delimiter
    values = labels.astype(object).tolist()
    texts = (value.strip() for value in values if isinstance(value, str) and value.strip())
    first = next(texts, "")
    # pandas writes lists into a CSV file in this way.
    if is_written_list(first) and all(map(is_written_list, texts)):
        fail(
            f"{column} are lists that were written as text, such as {first}; save them as .json or "
            ".parquet, or join the labels of each document with ';' and give --label_delimiter ';'"
        )
    documents = []
    for value in values:
        if is_list(value):
            documents.append(list(value))
        elif problem_type == MULTI_LABEL and delimiter is not None and isinstance(value, str):
            names = [name.strip() for name in value.split(delimiter)]
            documents.append([name for name in names if name])
        elif is_missing(value):
            documents.append(None)
        elif problem_type == MULTI_LABEL and delimiter is None:
            fail(f"{column} are lists and single ones such as {value!r}; write all as lists")
        else:
            documents.append(value if problem_type == SINGLE_LABEL else [value])
    check_labels(each_name(documents), len(documents), column)
    read = []
    for document in documents:
        if isinstance(document, list):
            if any(map(is_missing, document)):
                fail(f"{column} have an empty name in the list {document}; correct or remove it")
            document = list(dict.fromkeys(map(str, document)))
        read.append(document if document is None or isinstance(document, list) else str(document))
    return read


def is_written_list(text: str) -> bool:
    """Return whether a text is the print of a list, such as ['a', 'b']."""
    return text.startswith("[") and text.endswith("]")


def each_name(labels: Iterable[str | list[str] | None]) -> list[str]:
    """Return the labels of all documents, one after another; lists are taken apart."""
    names = []
    for label in labels:
        if isinstance(label, list):
            names.extend(label)
        elif label is not None:
            names.append(label)
    return names


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


def check_labels(labels: list, documents: int, name: str) -> None:
    """Exit with status 2 unless the labels are all names, all integers or all truth values."""
    values = [value.item() if isinstance(value, np.generic) else value for value in labels]
    values = [value for value in values if not is_missing(value)]
    kinds = sorted({type(value).__name__ for value in values})
    # A CSV file has them as texts, the smallest ones as 1e-05.
    decimal = r"\s*[+-]?(\d+\.\d*|\.\d+|\d+(?=e))(e[+-]?\d+)?\s*"
    is_decimal = (re.fullmatch(decimal, str(value), re.IGNORECASE) for value in values)
    if kinds == ["float"] or (values and all(is_decimal)):
        fractions = [value for value in values if not float(value).is_integer()]
        if fractions:
            fail(
                f"{name} are decimal numbers such as {fractions[0]}, not classes; write classes as "
                "names or integers, or see the regression in docs/adapting.md"
            )
        missing = max(0, documents - len(values))
        fail(
            f"{name} are decimal numbers such as {values[0]}, not names or integers; pandas makes "
            f"integers decimal where one is missing ({missing} of {documents} here): remove such "
            "rows, then convert with astype(int)"
        )
    if len(kinds) > 1:
        example = {type(value).__name__: value for value in reversed(values)}
        examples = ", ".join(f"{kind} such as {example[kind]!r}" for kind in kinds)
        fail(f"{name} are of mixed kinds: {examples}; write all of them in the same way")
    if kinds and kinds[0] not in ("str", "int", "bool"):
        fail(f"{name} must be names or integers, not {kinds[0]}")


def match_labels(
    tables: dict[str, pd.DataFrame],
    order: list[str] | None,
    problem_type: str,
    arguments: DataArguments,
) -> list[str]:
    """Return the names of the classes in their order; every label becomes one of them.

    The order is that of --label_names, else the one that the data defines, else alphabetical, or
    numerical if all are integers. Of lists of labels, names that --label_names lacks are dropped.
    """
    given = arguments.label_names
    if given is not None and len(set(given)) < len(given):
        fail(f"--label_names has a name twice: {quote_names(given)}")
    labeled = {split: table for split, table in tables.items() if "label" in table}
    everywhere = {name for table in labeled.values() for name in each_name(table["label"])}
    occurring = set()
    for split, table in labeled.items():
        own = set(each_name(table["label"]))
        if given is not None:
            renamed = name_numbers(own, given, split, everywhere)
            if renamed is None:
                fail(
                    f"split {split!r}: {quote_names(own)} can be names in --label_names or numbers "
                    "of others; write numbers as LABEL_0, LABEL_1, ..., or give names that are no "
                    "numbers"
                )
            table["label"] = [rename(label, renamed) for label in table["label"]]
            if problem_type == MULTI_LABEL and arguments.label_delimiter is None:
                keep_classes(table, given, split)
            own = set(each_name(table["label"]))
        occurring |= own
    spellings = {}
    for name in sorted(occurring):
        other = spellings.setdefault(visible_text(name), name)
        if other != name:
            fail(
                f"classes {other!a} and {name!a} differ only in white space, characters "
                "that are not seen or the form of accents; write them alike"
            )
        if arguments.label_delimiter is not None and arguments.label_delimiter in name:
            fail(f"--label_delimiter {arguments.label_delimiter!r} occurs in the class {name!r}")
    if given is not None:
        unknown = occurring - set(given)
        if unknown:
            fail(
                f"--label_names {quote_names(given)} lacks classes of the data: "
                f"{quote_names(unknown)}; write the names as the data does"
            )
        names = list(given)
    elif order is not None:
        # Another split may have names of its own; where training lacks them, check_classes says so.
        names = order + sorted(occurring - set(order))
    elif all(re.fullmatch(r"-?\d+", name) for name in occurring):
        names = sorted(occurring, key=lambda name: (int(name), name))
    else:
        names = sorted(occurring)
    if problem_type == MULTI_LABEL:
        number = {name: index for index, name in enumerate(names)}
        for table in labeled.values():
            table["label"] = [sorted(label, key=number.get) for label in table["label"]]
    return names


def rename(label: str | list[str], renamed: dict[str, str]) -> str | list[str]:
    """Return a label, or each label of a list, by its other name."""
    if isinstance(label, list):
        return [renamed[name] for name in label]
    return renamed[label]


def keep_classes(table: pd.DataFrame, names: list[str], split: str) -> None:
    """Remove from the lists of labels all but the given names, and say how many."""
    restricted = [[name for name in label if name in names] for label in table["label"]]
    total = sum(map(len, table["label"]))
    kept = sum(map(len, restricted))
    if kept < total:
        logger.info(
            "split %r: %d of %d labels are not in --label_names and left out; %d documents have "
            "none left",
            split,
            total - kept,
            total,
            restricted.count([]),
        )
    table["label"] = restricted


def visible_text(name: str) -> str:
    """Return what is seen of a name, with accents in one form and single spaces."""
    name = unicodedata.normalize("NFC", name)
    name = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    return " ".join(name.split())


def name_numbers(
    labels: set[str], names: list[str], split: str, everywhere: Collection[str] = ()
) -> dict[str, str] | None:
    """Map labels such as 0 or LABEL_0 to the names with these numbers, and others to themselves.

    Where the names are numbers themselves, a split that lacks a class can be read both ways; then
    everywhere, the labels of all splits, decides. None if it does not.
    """
    # 1. Only one reading is possible
    by_name = {label: label for label in labels}
    matches = {label: re.fullmatch(r"(?:LABEL_)?(\d+)", label) for label in labels}
    if None in matches.values():
        return by_name
    are_names = labels <= set(names)
    numbers = {label: int(match[1]) for label, match in matches.items()}
    highest = max(numbers.values(), default=0)
    if highest >= len(names):
        if are_names:
            return by_name
        fail(
            f"--label_names has {len(names)} names, and split {split!r} has a label {highest}; "
            "the first name is that of number 0"
        )
    by_number = {label: names[number] for label, number in numbers.items()}
    if not are_names:
        return by_number

    # 2. Both are: the names are numbers. Does any label of the data exclude one of them?
    every = labels.union(everywhere)
    if by_name == by_number or every == set(names):
        return by_name
    if not every <= set(names):
        return by_number
    if any(not label.isdecimal() or int(label) >= len(names) for label in every):
        return by_name
    return None


def quote_names(names: Collection[str]) -> str:
    """Return at most six names in quotes, so that spaces are seen."""
    shown = ", ".join(map(repr, sorted(names)[:6]))
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 6 else shown


def take_from_training(
    tables: dict[str, pd.DataFrame],
    split: str,
    names: list[str],
    problem_type: str,
    arguments: DataArguments,
) -> None:
    """Move a stratified share of training to a split. Exit with status 2 if that cannot be."""
    # Imported where it is used: a file with a validation split is read without waiting for it.
    from sklearn.model_selection import train_test_split

    train = tables["train"]
    flag = f"--{split}_fraction"
    fraction = getattr(arguments, f"{split}_fraction")
    if not 0 < fraction < 1:
        fail(f"{flag} must be between 0 and 1, not {fraction:g}")
    if problem_type == MULTI_LABEL:
        is_taken = draw_stratified(train["label"], fraction, arguments.split_seed)
        tables["train"], tables[split] = train[~is_taken], train[is_taken]
    else:
        counts = train["label"].value_counts()
        single = [name for name in names if counts.get(name) == 1]
        if single:
            fail(
                f"cannot take {flag} from training: there is only one document of "
                f"{quote_names(single)}; give a --{split}_file, or remove it"
            )
        # Numbers, not names: the draw depends on the order of the classes.
        numbers = train["label"].map({name: number for number, name in enumerate(names)})
        try:
            tables["train"], tables[split] = train_test_split(
                train, random_state=arguments.split_seed, test_size=fraction, stratify=numbers
            )
        except ValueError as error:  # fewer documents than classes
            fail(
                f"cannot take {flag} {fraction:g} from {len(train)} training documents: "
                f"{one_line(error)}; choose another fraction or give a --{split}_file"
            )
    if tables["train"].empty or tables[split].empty:
        fail(
            f"{flag} {fraction:g} of {len(train)} training documents leaves a split empty; choose "
            f"another fraction or give a --{split}_file"
        )
    logger.warning("no %s split: %d training documents are used for it", split, len(tables[split]))


def draw_stratified(labels: pd.Series, fraction: float, seed: int) -> np.ndarray:
    """Draw a share of documents with several labels; return a truth value per document.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011,
    https://doi.org/10.1007/978-3-642-23808-6_10): the rarest label goes first, each of its
    documents to the part that lacks most of this label, then to the one with more room. No label at
    all counts as one more label.
    """
    classes = sorted({name for label in labels for name in label})
    has_label = np.zeros((len(labels), len(classes) + 1), dtype=bool)
    for row, label in enumerate(labels):
        has_label[row, [classes.index(name) for name in label] or -1] = True
    shares = np.array([1 - fraction, fraction])
    wanted = np.outer(shares, has_label.sum(axis=0))  # documents: (parts, labels)
    room = shares * len(labels)
    side = np.full(len(labels), -1)  # 0: stays, 1: is drawn, -1: not decided
    order = np.random.default_rng(seed).permutation(len(labels))
    while (side < 0).any():
        left = has_label[side < 0].sum(axis=0)
        rarest = np.where(left > 0, left, len(labels) + 1).argmin()
        for row in order[has_label[order, rarest] & (side[order] < 0)]:
            chosen = np.lexsort((room, wanted[:, rarest]))[-1]
            side[row] = chosen
            wanted[chosen] -= has_label[row]
            room[chosen] -= 1
    return side == 1


def check_classes(tables: dict[str, pd.DataFrame], names: list[str], problem_type: str) -> None:
    """Exit with status 2 if a split has a class that training lacks, or training has only one.

    With several labels per document, training needs documents with and without each class.
    """
    if "train" not in tables:
        return
    counts = pd.Series(each_name(tables["train"]["label"]), dtype=object).value_counts()
    trained = set(counts.index)
    for split, table in tables.items():
        if "label" not in table:
            continue
        unknown = set(each_name(table["label"])) - trained
        if unknown:
            rows = sum(not unknown.isdisjoint(each_name([label])) for label in table["label"])
            fail(
                f"split {split!r} has {rows} rows of {quote_names(unknown)}, and the "
                f"training split only has {quote_names(trained)}; correct the names, name numbers "
                "with --label_names, or remove the rows"
            )
    if len(names if problem_type == MULTI_LABEL else trained) < 2:
        fail(
            f"the classes of the training documents are {quote_names(trained) or 'none'}; "
            "at least two classes are required"
        )
    if problem_type == MULTI_LABEL:
        for name in names:
            count = counts.get(name, 0)
            if count in (0, len(tables["train"])):
                fail(
                    f"{'no' if count == 0 else 'every'} training document has the label {name!r}, "
                    "so it cannot be learned; correct the name, or leave it out of --label_names"
                )


def normalize_text(text: str) -> str:
    """Return a text without differences of white space and case."""
    return " ".join(text.split()).casefold()


def warn_about_leaks(tables: dict[str, pd.DataFrame]) -> None:
    """Warn about texts that occur in two splits, exactly and regardless of white space and case."""
    if len(tables) < 2:
        return
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
            alike,
            len(texts[later]),
            later,
            earlier,
            same,
            earlier,
        )


def fingerprint(table: pd.DataFrame) -> str:
    """Return 16 digits of the SHA-256 of the ids, texts and class names of a split, in order."""
    digest = hashlib.sha256()
    columns = [table[column].tolist() for column in ("id", "text", "label") if column in table]
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
