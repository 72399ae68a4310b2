"""Texts and labels: dataset folders, Hub datasets and own files."""

import hashlib
import io
import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset
from sklearn.model_selection import train_test_split

from common.cli import fail, one_line

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


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
        default=None, metadata={"help": "Training data: .csv, .json, .jsonl or .parquet."}
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
        metadata={"help": "Names of the classes 0, 1, ... of data or a model with numbers only."},
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of training to use without validation."}
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


@dataclass
class LoadedData:
    """The splits that are used, with the columns id, text and label (the same ClassLabel in all)."""

    splits: DatasetDict
    commit: str | None  # of a Hub dataset
    fingerprints: dict[str, str]  # split -> digest of the ids, texts and class names of its rows
    labels: list[str]


def fingerprint(ids: list[str], texts: list[str], labels: list[str]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of rows."""
    digest = hashlib.sha256()
    for row in zip(ids, texts, labels, strict=True):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:16]


def load_splits(arguments: DataArguments, needed: list[str], seed: int) -> LoadedData:
    """Load splits with the columns id, text and label (a ClassLabel).

    A missing validation split is a stratified share of training. Exits with status 2 if a split, column, text or label
    is missing, an id is duplicated, or a split has a class that the training split lacks.
    """
    files = {split: file for split in SPLITS if (file := getattr(arguments, f"{split}_file"))}
    if bool(arguments.dataset_name) == bool(files):
        fail("give either --dataset_name or --train_file, --validation_file, --test_file")
    source, loaded = arguments.dataset_name, {}
    try:
        for split, source in files.items():
            loaded[split] = read_file(source)
        if not files:
            loaded = load_dataset(
                source, arguments.dataset_config_name, revision=arguments.dataset_revision
            )
    except Exception as error:  # datasets, pandas and the Hub's client raise many kinds
        fail(f"cannot load {source}: {one_line(error)}")
    tables = {
        split: check_rows(loaded[split], split, arguments) for split in SPLITS if split in loaded
    }
    if "validation" in needed and "validation" not in tables and "train" in tables:
        try:
            options = {
                "test_size": arguments.validation_fraction,
                "stratify": tables["train"]["label"],
            }
            tables["train"], tables["validation"] = train_test_split(
                tables["train"], random_state=seed, **options
            )
        except (
            ValueError
        ) as error:  # a class with one document, or more classes than validation documents
            fail(
                f"cannot take --validation_fraction from training: {one_line(error)}; give a --validation_file"
            )
        logger.warning(
            "no validation split: %d training documents are used for it", len(tables["validation"])
        )
    for split in needed:
        if split not in tables:
            fail(f"{source} has no split {split!r}; it has {', '.join(loaded)}")
    label = next(iter(loaded.values())).features[arguments.label_column_name]
    if not isinstance(label, ClassLabel):
        values = set().union(*(table["label"] for table in tables.values()))
        label = ClassLabel(
            names=list(map(str, sorted(values, key=lambda value: (isinstance(value, str), value))))
        )
        tables = {split: table.astype({"label": str}) for split, table in tables.items()}
    if arguments.label_names and label.names == [str(n) for n in range(len(arguments.label_names))]:
        tables = {split: t.assign(label=t["label"].astype(int)) for split, t in tables.items()}
        label = ClassLabel(names=arguments.label_names)
    features = Features({"id": Value("string"), "text": Value("string"), "label": label})
    splits = DatasetDict()
    for split, flag in zip(SPLITS, ("train", "eval", "predict"), strict=True):
        if (limit := getattr(arguments, f"max_{flag}_samples")) is not None and limit < 1:
            fail(f"the number of documents of split {split!r} must be at least 1, not {limit}")
        if split in needed:
            splits[split] = Dataset.from_dict(tables[split][:limit].to_dict("list"), features)
    known = set(splits["train"]["label"]) if "train" in needed else set(range(label.num_classes))
    for split in needed:
        if unseen := set(splits[split]["label"]) - known:
            fail(
                f"split {split!r} has documents of class {label.names[min(unseen)]}, the training split has none"
            )
    if len(known) < 2:
        fail(
            f"all training documents are of class {label.names[min(known)]}; at least two classes are needed"
        )
    cached = next(iter(loaded.values())).cache_files
    commit = re.search(r"/([0-9a-f]{40})/[^/]+$", cached[0]["filename"]) if cached else None
    fingerprints = {
        split: fingerprint(part["id"], part["text"], [label.names[n] for n in part["label"]])
        for split, part in splits.items()
    }
    return LoadedData(splits, commit and commit[1], fingerprints, label.names)


def read_file(file: str) -> Dataset:
    """Read a file of texts and labels; a JSON file holds a list of objects or an object a line."""
    if file.endswith(".parquet"):
        return Dataset.from_parquet(file)
    if not file.endswith((".csv", ".json", ".jsonl")):
        raise ValueError("it is not a .csv, .json, .jsonl or .parquet file")
    try:
        text = Path(file).read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{error}; save the file as UTF-8") from error
    if file.endswith(
        ".csv"
    ):  # "NA" and "None" can be names of classes, and 2001.00010 is an id, not a number
        frame = pd.read_csv(
            io.StringIO(text), keep_default_na=False, na_values=[""], dtype={"id": str}
        )
        return Dataset.from_pandas(frame, preserve_index=False)
    return Dataset.from_list(
        json.loads(text if text[:1] == "[" else "[" + ",\n".join(text.splitlines()) + "]")
    )


def check_rows(part: Dataset, split: str, arguments: DataArguments) -> pd.DataFrame:
    """Return the columns id, text and label (a class name, or the number of a ClassLabel) of a split, rows checked."""
    columns, label = ",".join(arguments.text_column_names).split(","), arguments.label_column_name
    for column in (*columns, label):
        if column not in part.column_names:
            fail(
                f"column {column!r} is not in split {split!r}; its columns are {', '.join(part.column_names)}"
            )
    if len(part) == 0:
        fail(f"split {split!r} has no rows")
    for column in columns:
        if not str(getattr(part.features[column], "dtype", "")).endswith("string"):
            fail(f"column {column!r} of split {split!r} is not text but {part.features[column]}")
    kind = getattr(
        part.features[label], "dtype", "a list: several labels for one document are not supported"
    )
    if not re.fullmatch(r"(large_)?string|bool|u?int\d+", kind):
        fail(f"labels in column {label!r} must be names or integers, not {kind}")
    frame = part.to_pandas()
    texts, labels = frame[columns].fillna(""), frame[label]
    ids = (
        frame["id"].astype(str)
        if "id" in frame
        else pd.Series([f"{split}.{row}" for row in range(len(frame))])
    )
    numbered = isinstance(part.features[label], ClassLabel)
    problems = {
        f"has an empty text in {columns}": texts.apply(lambda column: column.str.strip() == "").any(
            axis=1
        ),
        f"has no label in column {label!r}": labels.isna() | (numbered & (labels == -1)),
        "has a duplicated id": ids.duplicated(),
    }
    for problem, rows in problems.items():
        if rows.any():
            row = int(rows.to_numpy().argmax())
            fail(f"row {row} (id {ids[row]}) of split {split!r} {problem}; correct or remove it")
    text = texts.agg(arguments.text_column_delimiter.join, axis=1)
    return pd.DataFrame({"id": ids, "text": text, "label": labels})


def load_split(
    name: str, split: str, columns: list[str], revision: str | None = None
) -> datasets.Dataset:
    """Load a split of a dataset folder or Hub dataset. Exit with status 2 if it or one of the columns is missing."""
    try:
        dataset = datasets.load_dataset(name, revision=revision)
    except (
        Exception
    ) as error:  # the library raises its own, the Hub's, the file system's and pyarrow's
        fail(f"cannot load --dataset_name {name}: {one_line(error)}")
    if split not in dataset:
        fail(f"{name} has no split {split!r}; it has {', '.join(dataset)}")
    for column in columns:
        if column not in dataset[split].column_names:
            fail(
                f"{name} has no column {column!r}; it has {', '.join(dataset[split].column_names)}"
            )
    return dataset[split]


def dataset_commit(dataset: datasets.Dataset) -> str | None:
    """Return the commit of the Hub dataset that a split was loaded from; None for a local folder."""
    files = dataset.cache_files
    match = re.search(r"/([0-9a-f]{40})/[^/]+$", files[0]["filename"]) if files else None
    return match and match[1]
