#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "scipy==1.17.1",
#     "transformers==5.23.0",
# ]
# ///
"""Make a dataset folder from own files or from a Hub dataset with other columns; every row is checked.

    python tools/prepare_dataset.py --train_file train.csv --test_file test.csv --text_column_names title,body \\
        --label_column_name kind --output_dir data/own
    python tools/prepare_dataset.py --dataset_name fancyzhx/ag_news --text_column_names text --output_dir data/ag_news
    python tools/prepare_dataset.py --dataset_name data/arxiv --shuffle_words --output_dir data/arxiv-shuffled

Every script reads the folder as --dataset_name and sees the same documents in the same splits. run_baseline.py and
run_classification.py also read such files and datasets themselves, with the same flags.

Labels are names or integers, in alphabetical or numerical order unless the dataset defines an order. A missing
validation split is a stratified tenth of the training split (--validation_fraction, --seed). --shuffle_words puts the
words of every text, separated by white space, in a random order. The same input and arguments give the same files.

Writes to --output_dir: data/{train,validation,test}-00000-of-00001.parquet with the columns id, abstract (the text)
and label, README.md (the dataset card) and manifest.json (arguments with the seed, SHA-256, counts).
"""

import hashlib
import io
import json
import logging
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from common import (
    fail,
    markdown_table,
    one_line,
    open_output_dir,
    parse_arguments,
    start_logging,
    versions,
    write_files,
)
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Value,
    disable_progress_bars,
    get_dataset_split_names,
    load_dataset,
)
from sklearn.model_selection import train_test_split

logger = logging.getLogger(__name__)


@dataclass
class PrepareArguments:
    """What to do with the texts, and where to write."""

    output_dir: str = field(metadata={"help": "Dataset folder to write."})
    splits: list[str] | None = field(default=None, metadata={"help": "Splits to write. Defaults to all."})
    shuffle_words: bool = field(default=False, metadata={"help": "Put the words of every text in a random order."})
    seed: int = field(default=42, metadata={"help": "Random seed of the validation split and of --shuffle_words."})


# Copied: the following lines are the same in run_baseline.py, run_classification.py and tools/prepare_dataset.py.
SPLITS = ("train", "validation", "test")


@dataclass
class DataArguments:
    """Texts and labels: a dataset folder, a Hub dataset or own files."""

    dataset_name: str | None = field(default=None, metadata={"help": "Dataset folder, or a dataset id on the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    train_file: str | None = field(default=None, metadata={"help": "Training data: .csv, .json, .jsonl or .parquet."})
    validation_file: str | None = field(default=None, metadata={"help": "Validation data with the same columns."})
    test_file: str | None = field(default=None, metadata={"help": "Test data with the same columns."})
    text_column_names: list[str] = field(default_factory=lambda: ["abstract"], metadata={"help": "Columns of text."})
    text_column_delimiter: str = field(default=" ", metadata={"help": "Text between joined columns."})
    label_column_name: str = field(default="label", metadata={"help": "Column of the classes: names or integers."})
    validation_fraction: float = field(default=0.1, metadata={"help": "Share of training to use without validation."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Truncate the training split."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Truncate the validation split."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Truncate the test split."})


def load_splits(arguments: DataArguments, needed: list[str], seed: int) -> tuple[DatasetDict, str | None]:
    """Load splits with the columns id, text and label (a ClassLabel), and the commit of a Hub dataset or None.

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
            loaded = load_dataset(source, arguments.dataset_config_name, revision=arguments.dataset_revision)
    except Exception as error:  # datasets, pandas and the Hub's client raise many kinds
        fail(f"cannot load {source}: {one_line(error)}")
    tables = {split: check_rows(loaded[split], split, arguments) for split in SPLITS if split in loaded}
    if "validation" in needed and "validation" not in tables and "train" in tables:
        try:
            options = {"test_size": arguments.validation_fraction, "stratify": tables["train"]["label"]}
            tables["train"], tables["validation"] = train_test_split(tables["train"], random_state=seed, **options)
        except ValueError as error:  # a class with one document, or more classes than validation documents
            fail(f"cannot take --validation_fraction from training: {one_line(error)}; give a --validation_file")
        logger.warning("no validation split: %d training documents are used for it", len(tables["validation"]))
    for split in needed:
        if split not in tables:
            fail(f"{source} has no split {split!r}; it has {', '.join(loaded)}")
    label = next(iter(loaded.values())).features[arguments.label_column_name]
    if not isinstance(label, ClassLabel):
        values = set().union(*(table["label"] for table in tables.values()))
        label = ClassLabel(names=list(map(str, sorted(values, key=lambda value: (isinstance(value, str), value)))))
        tables = {split: table.astype({"label": str}) for split, table in tables.items()}
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
            fail(f"split {split!r} has documents of class {label.names[min(unseen)]}, the training split has none")
    if len(known) < 2:
        fail(f"all training documents are of class {label.names[min(known)]}; at least two classes are needed")
    cached = next(iter(loaded.values())).cache_files
    commit = re.search(r"/([0-9a-f]{40})/[^/]+$", cached[0]["filename"]) if cached else None
    return splits, commit and commit[1]


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
    if file.endswith(".csv"):  # "NA" and "None" can be names of classes, and 2001.00010 is an id, not a number
        frame = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""], dtype={"id": str})
        return Dataset.from_pandas(frame, preserve_index=False)
    return Dataset.from_list(json.loads(text if text[:1] == "[" else "[" + ",\n".join(text.splitlines()) + "]"))


def check_rows(part: Dataset, split: str, arguments: DataArguments) -> pd.DataFrame:
    """Return the columns id, text and label (a class name, or the number of a ClassLabel) of a split, rows checked."""
    columns, label = ",".join(arguments.text_column_names).split(","), arguments.label_column_name
    for column in (*columns, label):
        if column not in part.column_names:
            fail(f"column {column!r} is not in split {split!r}; its columns are {', '.join(part.column_names)}")
    if len(part) == 0:
        fail(f"split {split!r} has no rows")
    for column in columns:
        if not str(getattr(part.features[column], "dtype", "")).endswith("string"):
            fail(f"column {column!r} of split {split!r} is not text but {part.features[column]}")
    kind = getattr(part.features[label], "dtype", "a list: several labels for one document are not supported")
    if not re.fullmatch(r"(large_)?string|bool|u?int\d+", kind):
        fail(f"labels in column {label!r} must be names or integers, not {kind}")
    frame = part.to_pandas()
    texts, labels = frame[columns].fillna(""), frame[label]
    ids = frame["id"].astype(str) if "id" in frame else pd.Series([f"{split}.{row}" for row in range(len(frame))])
    numbered = isinstance(part.features[label], ClassLabel)
    problems = {
        f"has an empty text in {columns}": texts.apply(lambda column: column.str.strip() == "").any(axis=1),
        f"has no label in column {label!r}": labels.isna() | (numbered & (labels == -1)),
        "has a duplicated id": ids.duplicated(),
    }
    for problem, rows in problems.items():
        if rows.any():
            row = int(rows.to_numpy().argmax())
            fail(f"row {row} (id {ids[row]}) of split {split!r} {problem}; correct or remove it")
    text = texts.agg(arguments.text_column_delimiter.join, axis=1)
    return pd.DataFrame({"id": ids, "text": text, "label": labels})


# End of the copied lines.


def shuffle_words(text: str, identifier: str, seed: int) -> str:
    """Return the words of a text in a random order that depends on the seed and the document's id alone."""
    digest = hashlib.sha256(f"{seed} {identifier}".encode()).digest()
    return " ".join(np.random.default_rng(list(digest)).permutation(text.split()))


def dataset_card(manifest: dict, names: list[str]) -> str:
    """Return README.md: the splits for datasets.load_dataset, and where the texts come from."""
    files = [{"split": split, "path": f"data/{split}-*"} for split in manifest["counts"]]
    # load_dataset caches a local folder by its name and configuration, so the description names the content.
    digest = hashlib.sha256("".join(manifest["sha256"].values()).encode()).hexdigest()
    source = manifest["arguments"]["dataset_name"] or ", ".join(manifest["source_sha256"])
    shuffled = f" The words of every text are in a random order (seed {manifest['arguments']['seed']})."
    rows = [[name, *(counts[name] for counts in manifest["counts"].values())] for name in names]
    return f"""---
task_categories: [text-classification]
configs:
- config_name: default
  description: sha256 {digest}
  data_files: {json.dumps(files)}
---

# Texts for classification

Made of {source}.{shuffled if manifest["arguments"]["shuffle_words"] else ""} Columns: id, abstract (the text), label.

{markdown_table(["label", *manifest["counts"]], rows)}
"""


def main() -> None:
    # 1. Arguments
    start_logging()
    disable_progress_bars()
    arguments, data = parse_arguments(__doc__, PrepareArguments, DataArguments)
    files = {split: file for split in SPLITS if (file := getattr(data, f"{split}_file"))}
    missing = [file for file in files.values() if not Path(file).is_file()]
    if missing and not data.dataset_name:
        fail(f"no such file: {missing[0]}")
    if unknown := {*(arguments.splits or [])} - {*SPLITS}:
        fail(f"--splits has {min(unknown)}; choose from {', '.join(SPLITS)}")
    if arguments.seed < 0:
        fail(f"--seed must be 0 or more, not {arguments.seed}")
    folder = Path(arguments.output_dir)

    # 2. The splits
    try:
        given = files or get_dataset_split_names(data.dataset_name, data.dataset_config_name, data.dataset_revision)
    except Exception:  # whatever is wrong with the dataset is reported when it is loaded
        given = SPLITS
    found = [split for split in SPLITS if split in given or (split == "validation" and "train" in given)]
    needed = arguments.splits or found or list(SPLITS)
    open_output_dir(folder, r"data|manifest\.json|README\.md")
    if (folder / "README.md").exists() and not (folder / "manifest.json").exists():  # the card is written last
        fail(f"{folder} holds a README.md that this tool did not write; choose another --output_dir")
    splits, commit = load_splits(data, needed, arguments.seed)
    label = splits[needed[0]].features["label"]

    # 3. The files
    contents, counts = {}, {}
    for split, part in splits.items():
        texts = part["text"]
        if arguments.shuffle_words:
            pairs = zip(part["text"], part["id"], strict=True)
            texts = [shuffle_words(text, identifier, arguments.seed) for text, identifier in pairs]
        columns = {"id": part["id"][:], "abstract": list(texts), "label": part["label"][:]}
        features = Features({"id": Value("string"), "abstract": Value("string"), "label": label})
        buffer = io.BytesIO()
        Dataset.from_dict(columns, features).to_parquet(buffer)
        contents[f"{split}-00000-of-00001.parquet"] = buffer.getvalue()
        counted = Counter(columns["label"])
        counts[split] = {name: counted[number] for number, name in enumerate(label.names)}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    sources = {Path(file).name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files.values()}
    recorded = {key: value for key, value in (asdict(arguments) | asdict(data)).items() if key != "output_dir"}
    manifest = {
        "script": "prepare_dataset.py",
        "arguments": recorded | {f"{split}_file": Path(file).name for split, file in files.items()},
        "dataset_commit": commit,
        "source_sha256": sources,
        "counts": counts,
        "sha256": digests,
        "versions": versions("datasets", "scikit-learn"),
    }
    if data.dataset_name and Path(data.dataset_name).exists():
        manifest["arguments"]["dataset_name"] = Path(data.dataset_name).name

    # 4. The folder; the card comes last
    try:
        (folder / "data").mkdir(exist_ok=True)
        for old in {path.name for path in folder.glob("data/*")} - set(contents):
            (folder / "data" / old).unlink()
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}")
    write_files(folder / "data", contents)
    card = dataset_card(manifest, label.names)
    write_files(
        folder, {"README.md": card, "manifest.json": json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"}
    )
    sizes = ", ".join(f"{len(part):,} {split}" for split, part in splits.items())
    logger.info("%s documents, %d classes", sizes, label.num_classes)
    logger.info("next: python run_baseline.py --dataset_name %s --output_dir runs/svm", folder)


if __name__ == "__main__":
    main()
