#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "huggingface_hub==2.4.0",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "skops==0.16.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""TF-IDF and a linear support vector machine: what can be told apart by counting words.

    python run_baseline.py --dataset_name data/arxiv --output_dir runs/svm
    python run_baseline.py --train_file train.csv --test_file test.csv --text_column_names title,body \\
        --label_column_name kind --output_dir runs/svm

n-grams, sublinear term frequency and C are chosen by macro F1 on the validation split. Vocabulary, weights and the
final model come from the training split alone, as an encoder's do. The test split is predicted once, at the end.

Writes to --output_dir: model.skops, train_results.json, eval_results.json, predict_results.json, all_results.json,
trainer_state.json (every setting tried), predictions.csv (decision values), top_words.csv, top_words.png,
confusion_matrix.png, run_arguments.json and README.md (the model card).
"""

import argparse
import difflib
import io
import json
import logging
import os
import re
import shlex
import sys
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NoReturn

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import skops.io
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset
from huggingface_hub import EvalResult, HfApi, ModelCardData
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
)
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC
from tqdm import tqdm
from transformers import HfArgumentParser

logger = logging.getLogger(__name__)

RUN_FILE = "run_arguments.json"


@dataclass
class BaselineArguments:
    """Which settings to try, and where to write."""

    output_dir: str = field(metadata={"help": "Run folder to write."})
    ngram_max: list[int] = field(
        default_factory=lambda: [1, 2],
        metadata={"help": "Maximum n-gram lengths to try: 1 is words, 2 also pairs."},
    )
    sublinear_tf: list[int] = field(
        default_factory=lambda: [0, 1],
        metadata={"help": "Try raw counts (0), 1 + log(count) (1), or both."},
    )
    C: list[float] = field(
        default_factory=lambda: [0.1, 0.3, 1.0, 3.0, 10.0, 30.0],
        metadata={"help": "Values of the SVM's C to try."},
    )
    min_df: int = field(
        default=1, metadata={"help": "Ignore n-grams that occur in fewer training documents."}
    )
    class_weight: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "balanced weights classes by inverse frequency."}
    )
    seed: int = field(
        default=42, metadata={"help": "Random seed of the solver and of a validation split."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Push the run folder to the Hub."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Repository on the Hub; the folder's name."}
    )
    hub_private_repo: bool = field(default=False, metadata={"help": "Create a private repository."})
    disable_tqdm: bool = field(default=False, metadata={"help": "Disable the progress bar."})


# Copied from tools/common/cli.py::fail
def fail(message: str) -> NoReturn:
    """Print a one-line error and exit with status 2: the user can mend what it names.

    With the environment variable TRACEBACK=1, the traceback of the caught error comes first.
    """
    if os.environ.get("TRACEBACK") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if os.environ.get("RANK", "0") != "0":
        # Every process finds the same mistake. The launcher stops this one as soon as the first
        # process has exited, so the message appears once.
        time.sleep(10)
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


# Copied from tools/common/cli.py::one_line
def one_line(error: BaseException) -> str:
    """Return the message of an error as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


# Copied from tools/common/cli.py::read_config
def read_config(file: str) -> list[str]:
    """Return the flags that a YAML or JSON file of ``flag: value`` lines stands for.

    Exits with status 2 if the file cannot be read or is not such a mapping.
    """
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"cannot read arguments from {file}: {one_line(error)}")
    if not isinstance(content, dict):
        fail(f"cannot read arguments from {file}: it must have a 'flag: value' on each line")
    words = []
    for flag, value in content.items():
        if value is None:
            continue
        words.append(f"--{flag}")
        words.extend(map(str, value if isinstance(value, list) else [value]))
    return words


# Copied from tools/common/cli.py::parse_arguments
def parse_arguments(
    description: str, *dataclass_types: type, adapt: Callable | None = None, **defaults
) -> tuple:
    """Parse the command line into dataclasses.

    A YAML or JSON file, given first or after ``--config``, stands for flags; flags on the command
    line override it. ``adapt(namespace, unknown)`` may change the parsed values and the list of
    unknown words in place. ``defaults`` override those of the dataclasses.

    Exits with status 2 on an unreadable file, an unknown flag or an invalid value.
    """
    parser = HfArgumentParser(
        dataclass_types,
        description=description,
        usage="%(prog)s [--config FILE.yaml] [flags that override it]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.allow_abbrev = False
    parser.set_defaults(**defaults)
    parser.error = fail

    words = sys.argv[1:]
    if words and words[0].endswith((".json", ".yaml", ".yml")):
        words.insert(0, "--config")
    if "--config" in words:
        place = words.index("--config")
        if place + 1 == len(words):
            fail("--config requires a file of arguments")
        words = read_config(words[place + 1]) + words[:place] + words[place + 2 :]

    namespace, unknown = parser.parse_known_args(words)
    if adapt is not None:
        adapt(namespace, unknown)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "--help lists all"
        fail(f"unknown argument {unknown[0]}; {hint}")
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:  # raised by __post_init__ of the dataclasses
        fail(one_line(error))


# Copied from tools/common/folders.py::write
def write(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it: readers see the old or the new file."""
    temporary = path.with_name(path.name + ".tmp")
    if temporary.is_symlink():  # writing would change the file that the link leads to
        temporary.unlink()
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    os.replace(temporary, path)


# Copied from tools/common/data.py::SPLITS
SPLITS = ("train", "validation", "test")


# Copied from tools/common/data.py::DataArguments
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


# Copied from tools/common/data.py::load_splits
def load_splits(
    arguments: DataArguments, needed: list[str], seed: int
) -> tuple[DatasetDict, str | None]:
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
    return splits, commit and commit[1]


# Copied from tools/common/data.py::read_file
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


# Copied from tools/common/data.py::check_rows
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


METRICS = {
    "accuracy": "Accuracy",
    "f1": "Macro F1",
    "precision": "Macro precision",
    "recall": "Macro recall",
}
NOT_UPLOADED = ["checkpoint-*", "*.tmp", "*.bin", "_*"]


def compute_metrics(references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Return accuracy and macro-averaged F1, precision and recall as fractions; undefined values count as 0."""
    averages = precision_recall_fscore_support(
        references, predictions, average="macro", zero_division=0
    )
    values = (accuracy_score(references, predictions), averages[2], averages[0], averages[1])
    return dict(zip(METRICS, map(float, values), strict=True))


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Save and close a figure. The file holds no date, so the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    write(path, buffer.getvalue())


def plot_confusion_matrix(table: pd.DataFrame, names: list[str]) -> plt.Figure:
    """Plot the confusion matrix of predictions.csv: counts as text, the share of the true class as color."""
    counts = confusion_matrix(table["label"], table["prediction"], labels=names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(1.1 * len(names) + 1.5, len(names) + 1))
    display = ConfusionMatrixDisplay(
        shares, display_labels=[name.replace("$", r"\$") for name in names]
    )
    display.plot(ax=axes, cmap="Blues", im_kw={"vmin": 0, "vmax": 1})
    for cell, count in zip(display.text_.flat, counts.flat, strict=True):
        cell.set_text(f"{count:,}")
    return figure


def public_name(source: str) -> str:
    """Return a Hub id as it is and a local path as its last part, so that a card shows nobody's folders."""
    return Path(source).name if Path(source).exists() or source.count("/") != 1 else source


def write_card(
    folder: Path, library: str, title: str, record: dict, results: dict, text: str
) -> None:
    """Write README.md: metadata with a model-index, the metrics of the test (else validation) split, and the text."""
    base, dataset = public_name(record["model_name_or_path"]), public_name(record["dataset_name"])
    split, prefix = ("test", "predict") if "predict_accuracy" in results else ("validation", "eval")
    measured = {
        key: round(results[f"{prefix}_{key}"], 4) for key in METRICS if f"{prefix}_{key}" in results
    }
    source = {"dataset_type": dataset, "dataset_name": dataset, "dataset_split": split}
    task = {"task_type": "text-classification", "task_name": "Text classification"}
    data = ModelCardData(
        library_name=library,
        pipeline_tag="text-classification",
        tags=["text-classification", "skops" if library == "sklearn" else "generated_from_trainer"],
        model_name=title,
        base_model=base if "/" in base else None,
        datasets=[dataset] if "/" in dataset else None,
        eval_results=[
            EvalResult(
                metric_type=key, metric_name=METRICS[key], metric_value=value, **task, **source
            )
            for key, value in measured.items()
        ],
    )
    head = (
        f"| {results.get(f'{prefix}_samples')} {split} documents | per cent |\n|---|---:|\n"
        if measured
        else ""
    )
    rows = "".join(f"| {METRICS[key]} | {100 * value:.2f} |\n" for key, value in measured.items())
    write(
        folder / "README.md", f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{head}{rows}\n{text}\n"
    )


def push_folder(
    folder: Path, repo_id: str, private: bool | None, revision: str | None = None
) -> None:
    """Upload a run folder to the Hub. If that fails, exit with status 2 and name the command that repeats it."""
    flags = [word for pattern in NOT_UPLOADED for word in ("--exclude", pattern)]
    flags += ["--private"] * bool(private) + ["--revision", str(revision)] * bool(revision)
    try:
        api = HfApi()
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # A pickle that the Trainer uploads during training is deleted.
        options = {
            "ignore_patterns": NOT_UPLOADED,
            "delete_patterns": ["training_args.bin"],
            "revision": revision,
        }
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message="End of training", **options
        )
    except (
        Exception
    ) as error:  # the client raises its own kinds, those of its HTTP library, and OSError
        command = shlex.join(["hf", "upload", repo_id, str(folder), ".", *flags])
        fail(
            f"{folder} is complete but could not be pushed ({one_line(error)}); to try again: {command}"
        )
    logger.info("pushed to %s", repo_id)


def search(
    train: pd.DataFrame, validation: pd.DataFrame, arguments: BaselineArguments
) -> tuple[Pipeline, list[dict]]:
    """Fit every setting; return the pipeline with the best macro F1 on validation, and the metrics of every setting.

    The texts are counted once per n-gram length and weighted once per setting, not once per C. Among equals the first
    setting wins: shorter n-grams, raw counts, smaller C.
    """
    counted = []
    for ngram_max in sorted(arguments.ngram_max):
        counter = CountVectorizer(ngram_range=(1, ngram_max), min_df=arguments.min_df)
        try:
            counted.append((ngram_max, counter, counter.fit_transform(train["text"])))
        except ValueError as error:
            fail(
                f"no usable words in the training texts ({error}); check --text_column_names and --min_df"
            )
    best, best_f1, rows = None, -1.0, []
    total = len(counted) * len(arguments.sublinear_tf) * len(arguments.C)
    bar = tqdm(total=total, desc="settings", disable=arguments.disable_tqdm)
    for ngram_max, counter, train_counts in counted:
        validation_counts = counter.transform(validation["text"])
        for sublinear_tf in sorted(arguments.sublinear_tf):
            tfidf = TfidfTransformer(sublinear_tf=bool(sublinear_tf))
            train_matrix = tfidf.fit_transform(train_counts)
            validation_matrix = tfidf.transform(validation_counts)
            for C in sorted(arguments.C):
                start = time.perf_counter()
                class_weight = None if arguments.class_weight == "none" else arguments.class_weight
                svm = LinearSVC(C=C, class_weight=class_weight, random_state=arguments.seed)
                svm.fit(train_matrix, train["label"])
                metrics = compute_metrics(validation["label"], svm.predict(validation_matrix))
                rows.append(
                    {"ngram_max": ngram_max, "sublinear_tf": bool(sublinear_tf), "C": C}
                    | {f"eval_{key}": value for key, value in metrics.items()}
                    | {"train_runtime": round(time.perf_counter() - start, 3)}
                )
                if metrics["f1"] > best_f1:
                    best_f1, best = (
                        metrics["f1"],
                        Pipeline([("counts", counter), ("tfidf", tfidf), ("svm", svm)]),
                    )
                bar.set_postfix(best_f1=f"{best_f1:.4f}")
                bar.update()
    bar.close()
    return best, rows


def decision_values(model: Pipeline, texts: pd.Series) -> np.ndarray:
    """Return decision values of shape (documents, classes); for two classes scikit-learn returns a single column."""
    values = model.decision_function(texts)
    return np.column_stack([-values, values]) if values.ndim == 1 else values


def write_results(folder: Path, **results: dict) -> None:
    """Write each of train, eval, predict as <name>_results.json, and their union as all_results.json."""
    results["all"] = {key: value for result in results.values() for key, value in result.items()}
    for name, result in results.items():
        write(folder / f"{name}_results.json", json.dumps(result, indent=2, sort_keys=True) + "\n")


def top_words(model: Pipeline, names: list[str], n: int = 20) -> pd.DataFrame:
    """Return the n n-grams with the largest coefficient of each class: columns class, rank, word, coefficient."""
    words = model["counts"].get_feature_names_out()
    weights = model["svm"].coef_
    weights = np.vstack([-weights, weights]) if len(weights) == 1 else weights
    # The SVM has the classes that occur in training, in the order of their numbers.
    rows = []
    for label, weight in zip(model["svm"].classes_, weights, strict=True):
        for rank, feature in enumerate(np.argsort(-weight, kind="stable")[:n], start=1):
            rows.append(
                {
                    "class": names[label],
                    "rank": rank,
                    "word": words[feature],
                    "coefficient": weight[feature],
                }
            )
    return pd.DataFrame(rows)


def plot_top_words(table: pd.DataFrame) -> plt.Figure:
    """Plot the words of each class in a panel of its own, the largest coefficient on top."""
    groups = list(table.groupby("class", sort=False))
    figure, panels = plt.subplots(
        1, len(groups), figsize=(2.6 * len(groups), 5), sharex=True, squeeze=False
    )
    for axes, (name, rows) in zip(panels[0], groups, strict=True):
        # A $ in a word does not start a formula.
        axes.barh(
            [word.replace("$", r"\$") for word in rows["word"]],
            rows["coefficient"],
            color="#1b7837",
        )
        axes.invert_yaxis()
        axes.set_title(name)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("SVM coefficient")
    figure.tight_layout()
    return figure


def describe_run(folder: Path, names: list[str], model_id: str | None) -> None:
    """Draw the confusion matrix and write the model card from the files of a finished run."""
    files = (RUN_FILE, "all_results.json", "trainer_state.json")
    record, results, state = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in files
    )
    table = pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False)
    save_figure(plot_confusion_matrix(table, names), folder / "confusion_matrix.png")
    dataset = public_name(record["dataset_name"])
    rows = "".join(
        f"| {row['ngram_max']} | {'yes' if row['sublinear_tf'] else 'no'} | {row['C']:g} | "
        f"{100 * row['eval_accuracy']:.2f} | {100 * row['eval_f1']:.2f} |\n"
        for row in sorted(state["log_history"], key=lambda row: -row["eval_f1"])
    )
    text = f"""TF-IDF and a linear SVM that classify texts of `{dataset}` as {", ".join(names)}.
The validation split chose the setting. `predictions.csv` has the decision values of every test document.

```python
import skops.io
model = skops.io.load("model.skops")
names = {names}
print(names[model.predict(["We classify compact manifolds whose Ricci form is positive."])[0]])
```

![confusion matrix](confusion_matrix.png)

## Settings

| n-grams up to | sublinear tf | C | validation accuracy | validation macro F1 |
|---|---|---|---|---|
{rows}
Versions: {", ".join(f"{name} {number}" for name, number in record["versions"].items())}."""
    title = (
        model_id.split("/")[-1]
        if model_id
        else f"TF-IDF and linear SVM on {dataset.split('/')[-1]}"
    )
    write_card(folder, "sklearn", title, record, results, text)


def main() -> None:
    # 1. Arguments and output folder
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        level=logging.INFO,
        stream=sys.stdout,
    )
    logging.getLogger("httpx2").setLevel(
        logging.WARNING
    )  # otherwise a line for every request to the Hub
    arguments, data_arguments = parse_arguments(__doc__, BaselineArguments, DataArguments)
    if min(arguments.C, default=0) <= 0 or not np.isfinite(arguments.C).all():
        fail(f"--C needs positive numbers, not {arguments.C}")
    if (
        min(arguments.ngram_max, default=0) < 1
        or not set(arguments.sublinear_tf) <= {0, 1}
        or arguments.min_df < 1
    ):
        fail("--ngram_max and --min_df need integers from 1, --sublinear_tf needs 0, 1 or both")
    if not arguments.sublinear_tf or not 0 <= arguments.seed < 2**32:
        fail("--sublinear_tf needs 0, 1 or both, and --seed an integer from 0")
    if (arguments.hub_model_id or arguments.hub_private_repo) and not arguments.push_to_hub:
        fail("--hub_model_id and --hub_private_repo need --push_to_hub")
    folder = Path(arguments.output_dir)
    packages = ("scikit-learn", "skops", "datasets", "numpy", "scipy")
    record = {
        "script": "run_baseline.py",
        "model_name_or_path": "TF-IDF + linear SVM",
        "dataset_name": data_arguments.dataset_name or data_arguments.train_file,
        "seed": arguments.seed,
        "arguments": asdict(arguments) | asdict(data_arguments),
        "versions": {"python": sys.version.split()[0]}
        | {package: version(package) for package in packages},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / RUN_FILE).exists():
            fail(
                f"{folder} holds something other than a run of this script; choose another --output_dir"
            )
        write(folder / RUN_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}")

    # 2. Texts and labels
    splits, record["dataset_commit"] = load_splits(data_arguments, list(SPLITS), arguments.seed)
    names = splits["train"].features["label"].names
    tables = {split: part.to_pandas() for split, part in splits.items()}
    sizes = {split: len(table) for split, table in tables.items()}
    logger.info(
        "%s training, %s validation, %s test documents, %d classes", *sizes.values(), len(names)
    )

    # 3. The setting with the best macro F1 on validation
    start = time.perf_counter()
    model, rows = search(tables["train"], tables["validation"], arguments)
    best = max(rows, key=lambda row: row["eval_f1"])
    train_results = {
        "train_runtime": round(time.perf_counter() - start, 2),
        "train_samples": sizes["train"],
        "train_settings": len(rows),
        "train_features": int(model["svm"].coef_.shape[1]),
    }
    eval_results = {key: value for key, value in best.items() if key != "train_runtime"}
    eval_results["eval_samples"] = sizes["validation"]

    # 4. The test split, once
    scores, classes = decision_values(model, tables["test"]["text"]), model["svm"].classes_
    predictions = classes[scores.argmax(axis=1)]
    metrics = compute_metrics(tables["test"]["label"], predictions)
    predict_results = {f"predict_{key}": value for key, value in metrics.items()}
    predict_results["predict_samples"] = sizes["test"]
    table = tables["test"][["id", "label"]].assign(prediction=predictions)
    for column in ("label", "prediction"):
        table[column] = [names[label] for label in table[column]]
    values = np.full(
        (len(table), len(names)), -np.inf
    )  # a class without training documents is never predicted
    values[:, classes] = scores
    table = pd.concat(
        [table, pd.DataFrame(values, columns=names)], axis=1
    )  # a class may be called label

    # 5. The run folder; predict_results.json comes last, since shell scripts take it for "finished"
    words = top_words(model, names)
    try:
        write(folder / RUN_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        skops.io.dump(model, folder / "model.skops.tmp", compression=zipfile.ZIP_DEFLATED)
        os.replace(folder / "model.skops.tmp", folder / "model.skops")
        write(folder / "predictions.csv", table.to_csv(index=False, float_format="%.6f"))
        write(folder / "top_words.csv", words.to_csv(index=False, float_format="%.6f"))
        save_figure(plot_top_words(words), folder / "top_words.png")
        state = {"best_metric": best["eval_f1"], "best_metric_name": "eval_f1", "log_history": rows}
        write(folder / "trainer_state.json", json.dumps(state, indent=2) + "\n")
        write_results(folder, train=train_results, eval=eval_results, predict=predict_results)
        repo_id = arguments.hub_model_id or folder.absolute().name
        describe_run(folder, names, repo_id if arguments.push_to_hub else None)
    except OSError as error:
        fail(
            f"cannot write into {folder}: {error.strerror}; free some space and run the command again"
        )
    logger.info(
        "chosen: n-grams up to %d, sublinear_tf=%s, C=%g",
        best["ngram_max"],
        best["sublinear_tf"],
        best["C"],
    )
    summary = (metrics["accuracy"], metrics["f1"], sizes["test"])
    logger.info("predict: accuracy %.4f, macro F1 %.4f on %d documents", *summary)

    # 6. Hub
    if arguments.push_to_hub:
        push_folder(folder, repo_id, arguments.hub_private_repo)
    logger.info(
        "next: python run_classification.py --model_name_or_path ... --output_dir ... with the same data"
    )


if __name__ == "__main__":
    main()
