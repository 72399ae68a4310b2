#!/usr/bin/env python
"""Make a dataset folder of your own texts, from files or from a Hub dataset with other columns; every row is checked.

    python prepare_dataset.py --train_file train.csv --test_file test.csv --text_column_names title,body \\
        --label_column_name kind --output_dir data/own
    python prepare_dataset.py --dataset_name fancyzhx/ag_news --text_column_names text --output_dir data/ag_news

Every script then reads the folder as --dataset_name, so that all of them see the same documents in the same splits.
run_classification.py starts this one by itself where it is given files, or a dataset that is not of this kind.

Labels are names or whole numbers; their order is the alphabetical (or numerical) one unless the dataset has its own. A
missing validation split is a stratified tenth of the training split (--validation_fraction, --seed), never of the test
split. The same input and arguments give the same files; prepared files are not prepared again.

Writes into --output_dir: data/{train,validation,test}-00000-of-00001.parquet with the columns id (the dataset's, else
split and row), abstract (the text, several columns joined) and label, and manifest.json (arguments, SHA-256, counts).
"""

import argparse
import difflib
import hashlib
import json
import logging
import os
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset
from sklearn.model_selection import train_test_split
from transformers import HfArgumentParser

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass
class PrepareArguments:
    """Which texts and labels, and where the folder goes."""

    output_dir: str = field(metadata={"help": "Dataset folder to write."})
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset folder or Hub dataset id."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    train_file: str | None = field(default=None, metadata={"help": "Training data: .csv, .json(l) or .parquet."})
    validation_file: str | None = field(default=None, metadata={"help": "Validation data, same columns."})
    test_file: str | None = field(default=None, metadata={"help": "Test data, same columns."})
    text_column_names: list[str] = field(
        default_factory=lambda: ["abstract"],
        metadata={"help": "Column or columns of text; several are joined by --text_column_delimiter."},
    )
    text_column_delimiter: str = field(default=" ", metadata={"help": "What stands between joined columns."})
    label_column_name: str = field(default="label", metadata={"help": "Column of the classes: names or integers."})
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Share of training documents, stratified, used where there is no validation split."},
    )
    splits: list[str] | None = field(
        default=None, metadata={"help": "Write these of train, validation, test only; default: all that there are."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of the validation split."})


def fail(message: str) -> NoReturn:
    """End the program as every user's mistake ends it: one line on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def one_line(error: BaseException) -> str:
    """A library's message as one line that fits an error line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def parse_arguments(*dataclass_types: type) -> tuple:
    """Parse the command line; a first argument FILE.json or FILE.yaml stands for flags, later flags override it.

    Ends with exit code 2 on an unreadable file, an unknown flag (the nearest known one is named) or a bad value.
    """
    parser = HfArgumentParser(
        dataclass_types, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = fail
    arguments = sys.argv[1:]
    if arguments and arguments[0].endswith((".json", ".yaml", ".yml")):
        try:
            recipe = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))  # JSON is YAML
            recipe = {key: value for key, value in recipe.items() if value is not None}
            flags = [
                word
                for key, value in recipe.items()
                for word in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))
            ]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
            fail(f"{arguments[0]} is no readable file of arguments (flag: value a line): {one_line(error)}")
        arguments = flags + arguments[1:]
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        fail(f"unknown argument {unknown[0]}; {f'did you mean {nearest[0]}?' if nearest else '--help lists all'}")
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:
        fail(one_line(error))


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(arguments: PrepareArguments, files: dict[str, str]) -> DatasetDict:
    """Read the files or the dataset; ends with exit code 2 if that fails, naming a broken line where there is one."""
    source = arguments.dataset_name or ", ".join(files.values())
    kinds = {Path(file).suffix.lstrip(".").replace("jsonl", "json") for file in files.values()}
    if files and (len(kinds) > 1 or not kinds <= {"csv", "json", "parquet"}):
        fail(f"the files must all be .csv, all .json (or .jsonl) or all .parquet: {source}")
    # "NA" and "None" can be names of classes, and 2001.00010 is an id, not a number
    options = {"keep_default_na": False, "na_values": [""], "converters": {"id": str}} if kinds == {"csv"} else {}
    try:
        if files:
            return load_dataset(*kinds, data_files=files, **options)
        return load_dataset(arguments.dataset_name, arguments.dataset_config_name)
    except Exception as error:  # datasets raises many kinds: no such folder, no network, a broken line
        reason = error.__cause__ or error
        remedy = "; save the file as UTF-8" if isinstance(reason, UnicodeDecodeError) else ""
        for file in files.values() if kinds == {"json"} else ():
            if number := first_bad_line(file):
                fail(f"cannot load {file}: line {number} is no JSON ({one_line(reason)}); correct or remove it")
        fail(f"cannot load {source}: {one_line(reason)}{remedy}")


def first_bad_line(file: str) -> int | None:
    """The number of the first line that is no JSON, in a file with an object a line; the library counts in blocks."""
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                json.loads(line.strip() or b"null")
            except ValueError:
                return number if number > 1 else None  # the first: a list over many lines
    return None


def unify(part: Dataset, split: str, arguments: PrepareArguments) -> Dataset:
    """The split with the columns id, abstract and label (a class name), row by row checked.

    Ends with exit code 2 where a column, a text or a label is missing or of another kind, or an id stands twice.
    """
    columns, label = arguments.text_column_names, arguments.label_column_name
    for column in (*columns, label):
        if column not in part.column_names:
            fail(f"column {column!r} is not in split {split!r}; columns are {part.column_names}")
    for column in columns:
        if not str(getattr(part.features[column], "dtype", "")).endswith("string"):
            fail(f"column {column!r} of split {split!r} holds no text but {part.features[column]}")
    feature = part.features[label]
    if not re.fullmatch(r"(large_)?string|bool|u?int\d+", getattr(feature, "dtype", "list")):
        fail(f"labels in column {label!r} must be names or whole numbers, not {feature}")
    seen = set()

    def unify_rows(batch: dict, rows: list[int]) -> dict:
        ids = [str(name) for name in batch["id"]] if "id" in batch else [f"{split}.{row}" for row in rows]
        texts = list(zip(*(batch[column] for column in columns), strict=True))
        for row, name, values, value in zip(rows, ids, texts, batch[label], strict=True):
            if any(text is None or not text.strip() for text in values):
                raise ValueError(f"row {row} of split {split!r} has an empty text in {columns}; remove the row")
            if value is None or (isinstance(feature, ClassLabel) and value < 0):
                raise ValueError(f"row {row} of split {split!r} has no label in column {label!r}; remove the row")
            if name in seen:
                raise ValueError(f"id {name!r} stands twice in split {split!r}; make ids unique")
            seen.add(name)
        labels = [feature.names[value] if isinstance(feature, ClassLabel) else str(value) for value in batch[label]]
        return {"id": ids, "abstract": [arguments.text_column_delimiter.join(t) for t in texts], "label": labels}

    try:
        return part.map(
            unify_rows,
            batched=True,
            with_indices=True,
            remove_columns=part.column_names,
            features=Features({name: Value("string") for name in ("id", "abstract", "label")}),
            load_from_cache_file=False,
            desc=f"checking {split}",
        )
    except (ValueError, OSError) as error:  # a bad row, a full disk
        fail(one_line(error))


def class_names(dataset: DatasetDict, column: str) -> list[str]:
    """The classes in the dataset's own order, else in alphabetical or numerical order."""
    for part in dataset.values():
        if isinstance(part.features[column], ClassLabel):
            return part.features[column].names
    values = {value for part in dataset.values() for value in part.unique(column)}
    return list(map(str, sorted(values, key=lambda value: (isinstance(value, str), value))))


def carve_validation(dataset: DatasetDict, arguments: PrepareArguments) -> None:
    """Move a stratified share of the training split into a validation split; the rows keep their order."""
    column = arguments.label_column_name
    if column not in dataset["train"].column_names:
        fail(f"column {column!r} is not in split 'train'; columns are {dataset['train'].column_names}")
    labels = list(map(str, dataset["train"][column]))
    try:
        train, validation = train_test_split(
            range(len(labels)), test_size=arguments.validation_fraction, stratify=labels, random_state=arguments.seed
        )
    except ValueError as error:
        few = min(Counter(labels).items(), key=lambda item: item[1])
        fail(
            f"cannot take --validation_fraction {arguments.validation_fraction} out of training, where {few[0]!r} "
            f"has {few[1]} of {len(labels)} documents: {one_line(error)}"
        )
    dataset["validation"] = dataset["train"].select(sorted(validation))
    dataset["train"] = dataset["train"].select(sorted(train))
    logger.warning("no validation split: %s training documents are used for it", f"{len(validation):,}")


def main() -> None:
    # 1. Arguments
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(PrepareArguments)
    arguments.text_column_names = [name for names in arguments.text_column_names for name in names.split(",")]
    files = {split: file for split in SPLITS if (file := getattr(arguments, f"{split}_file"))}
    if bool(files) == bool(arguments.dataset_name):
        fail("give either --dataset_name or --train_file, --validation_file, --test_file")
    for file in files.values():
        if not Path(file).is_file():
            fail(f"no such file: {file}")
    if unknown := {*(arguments.splits or [])} - {*SPLITS}:
        fail(f"--splits has {min(unknown)}; there are {', '.join(SPLITS)}")
    folder = Path(arguments.output_dir)
    if folder.is_dir() and {path.name for path in folder.iterdir()} - {"data", "manifest.json"}:
        fail(f"{folder} holds something else than a dataset of this script; choose another --output_dir")

    # 2. The splits
    dataset = load(arguments, files)
    wanted = arguments.splits or [split for split in SPLITS if split in dataset or split == "validation"]
    if "validation" in wanted and "validation" not in dataset and "train" in dataset:
        carve_validation(dataset, arguments)
    for split in wanted:
        if split not in dataset or len(dataset[split]) == 0:
            source = arguments.dataset_name or ", ".join(files.values())
            fail(f"{source} has no documents in split {split!r}; it has {', '.join(dataset)}")
    dataset = DatasetDict({split: dataset[split] for split in wanted})

    # 3. Every row, and the classes
    unified = {split: unify(part, split, arguments) for split, part in dataset.items()}
    label = ClassLabel(names=class_names(dataset, arguments.label_column_name))
    counts = {split: Counter(part["label"]) for split, part in unified.items()}
    for split in counts:
        if "train" in counts and (unseen := sorted(counts[split].keys() - counts["train"].keys())):
            fail(f"split {split!r} has documents of {unseen[0]}, the training split has none; split the data anew")

    # 4. The folder; the manifest comes last
    manifest = {
        "script": "prepare_dataset.py",
        "arguments": {key: value for key, value in asdict(arguments).items() if key != "output_dir"},
        "source_sha256": {file: sha256(file) for file in files.values()},
        "counts": {split: {name: counts[split][name] for name in label.names} for split in counts},
        "sha256": {},
        "versions": {package: version(package) for package in ("datasets", "scikit-learn")},
    }
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for split, part in unified.items():
            path = folder / "data" / f"{split}-00000-of-00001.parquet"
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            part.cast_column("label", label).to_parquet(temporary)
            os.replace(temporary, path)
            manifest["sha256"][path.name] = sha256(path)
        for old in {*folder.glob("data/*")} - {folder / "data" / name for name in manifest["sha256"]}:
            old.unlink()
        temporary = folder / f"manifest.json.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, folder / "manifest.json")
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {one_line(error)}")
    sizes = ", ".join(f"{len(part):,} {split}" for split, part in unified.items())
    logger.info("%s documents, %d classes: --dataset_name %s", sizes, label.num_classes, folder)


if __name__ == "__main__":
    main()
