#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "cleanlab==2.9.0",
#     "datasets==5.2.0",
#     "huggingface_hub==2.4.0",
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "pyarrow==26.0.1",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "scipy==1.17.1",
#     "statsmodels==0.15.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Rank the documents of a dataset by how likely their label is wrong. Needs no GPU.

    python tools/find_label_errors.py --dataset_name data/arxiv --output_dir label-errors
    python tools/find_label_errors.py --dataset_name data/arxiv --svm_run runs/svm \\
        --inject_noise 0.05 --output_dir label-errors
    python tools/find_label_errors.py --dataset_name data/arxiv --runs runs/minilm/seed-1 \\
        runs/minilm/seed-2 --output_dir label-errors-minilm

Every document is judged by a model that never saw it. All splits are put together and cut into
--folds parts; the probabilities of each part are those of a calibrated linear SVM on TF-IDF that
was trained on the others. With --runs they are the probabilities in predictions.csv of runs of
run_classification.py, averaged over the runs, and only the documents that the runs predicted are
ranked. The package cleanlab compares the probabilities with the labels: it says which documents it
reports (confident learning) and in which order (label quality scores).

--inject_noise changes that fraction of the labels at random, once for each of --noise_seeds, and
measures how many of the changed labels are reported. Table and page are always those of the
dataset's own labels.

Writes to --output_dir: label_errors.csv (a row per document, the most suspicious first),
label_errors.html (a self-contained page of the first --max_shown) and label_errors.json (counts,
cross-listing, arguments, versions).
"""

import csv
import hashlib
import io
import json
import logging
import math
import shlex
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from scipy.sparse import csr_matrix
from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.model_selection import PredefinedSplit, StratifiedKFold
from sklearn.svm import LinearSVC
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint
from statsmodels.stats.weightstats import DescrStatsW
from tqdm import tqdm

from common.cli import fail, one_line, parse_arguments, start_logging, versions
from common.data import (
    MULTI_LABEL,
    SPLITS,
    check_delimiter,
    dataset_commit,
    fingerprint,
    join_texts,
    load_split,
    split_names,
)
from common.folders import (
    check_names,
    check_revision,
    lock_output_dir,
    open_output_dir,
    public_name,
    read_json,
    run_name,
    write_files,
)
from common.pages import render
from common.statistics import MIN_INTERVAL_DOCUMENTS
from comparison.runs import SCORES_TOLERANCE, contradiction, contradiction_message

logger = logging.getLogger(__name__)

SCRIPT = "find_label_errors.py"
RECORD = "label_errors.json"
TABLE = "label_errors.csv"
PAGE = "label_errors.html"
OWN_FILES = r"label_errors\.(json|csv|html)"
PACKAGES = ("cleanlab", "scikit-learn", "datasets", "numpy", "scipy", "statsmodels")

CALIBRATION_FOLDS = 3  # within the training documents of each fold
TOP = 100  # documents whose cross-listing is compared with chance
MAX_TEXT = 5000  # characters of a document on the page
ROUNDING = 0.01  # of probabilities in predictions.csv: six decimals for each class
# How cleanlab chooses what it reports; all are measured where noise is injected.
FILTERS = (
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
)
# The flags that a run may decide, with their values where no run does.
RUN_DEFAULTS = {
    "text_column_names": ["abstract"],
    "text_column_delimiter": " ",
    "label_column_name": "label",
}
SVM_DEFAULTS = {
    "ngram_max": 2,
    "sublinear_tf": 1,
    "C": 1.0,
    "min_df": 1,
    "class_weight": "none",
    "folds": 5,  # of the cross-validation here; no run has it
}
# Arguments that do not change what is found.
NOT_IDENTIFYING = ("output_dir", "disable_tqdm")


@dataclass
class LabelArguments:
    """Which documents, which probabilities, and where to write."""

    dataset_name: str = field(metadata={"help": "Dataset folder, or a dataset id on the Hub."})
    output_dir: str = field(
        metadata={"help": "Folder to write: new, empty, or written by this tool before."}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."}
    )
    splits: list[str] | None = field(
        default=None,
        metadata={"help": "Splits to rank. Default: train, validation and test, where they exist."},
    )
    text_column_names: list[str] | None = field(
        default=None, metadata={"help": "Columns of text. Default: the run's, else abstract."}
    )
    text_column_delimiter: str | None = field(
        default=None,
        metadata={"help": "Text between joined columns. Default: the run's, else a space."},
    )
    label_column_name: str | None = field(
        default=None, metadata={"help": "Column of the classes. Default: the run's, else label."}
    )
    runs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Runs of run_classification.py whose probabilities are averaged; "
            "without them, an SVM is trained."
        },
    )
    svm_run: str | None = field(
        default=None,
        metadata={"help": "Run of run_baseline.py whose setting the SVM takes, text included."},
    )
    folds: int | None = field(
        default=None,
        metadata={"help": "Parts of the documents, each judged by an SVM. Default: 5."},
    )
    ngram_max: int | None = field(
        default=None,
        metadata={"help": "Maximum n-gram length of the SVM. Default: the run's, else 2."},
    )
    sublinear_tf: int | None = field(
        default=None,
        metadata={"help": "Raw counts (0) or 1 + log(count) (1). Default: the run's, else 1."},
    )
    C: float | None = field(
        default=None, metadata={"help": "The SVM's C. Default: the run's, else 1."}
    )
    min_df: int | None = field(
        default=None,
        metadata={
            "help": "Ignore n-grams in fewer training documents. Default: the run's, else 1."
        },
    )
    class_weight: Literal["none", "balanced"] | None = field(
        default=None,
        metadata={"help": "balanced weights classes by inverse frequency. Default: the run's."},
    )
    filter_by: Literal[FILTERS] = field(
        default="prune_by_noise_rate",
        metadata={"help": "How cleanlab chooses the documents that it reports."},
    )
    rank_by: Literal["self_confidence", "normalized_margin", "confidence_weighted_entropy"] = field(
        default="self_confidence", metadata={"help": "cleanlab's label quality score."}
    )
    inject_noise: float | None = field(
        default=None,
        metadata={"help": "Measure what is found of this fraction of labels changed at random."},
    )
    noise_seeds: list[int] | None = field(
        default=None,
        metadata={"help": "A measurement for each of these seeds. Default: 1 2 3."},
    )
    max_shown: int = field(default=100, metadata={"help": "Documents on the page."})
    seed: int = field(default=42, metadata={"help": "Random seed of the folds and the SVM."})
    disable_tqdm: bool = field(default=False, metadata={"help": "Disable the progress bar."})

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must be between 0 and {2**32 - 1}, not {self.seed}")
        if self.max_shown < 0:
            raise ValueError(f"--max_shown must be at least 0, not {self.max_shown}")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"--folds must be at least 2, not {self.folds}")
        if self.ngram_max is not None and self.ngram_max < 1:
            raise ValueError(f"--ngram_max must be at least 1, not {self.ngram_max}")
        if self.min_df is not None and self.min_df < 1:
            raise ValueError(f"--min_df must be at least 1, not {self.min_df}")
        if self.sublinear_tf not in (None, 0, 1):
            raise ValueError(f"--sublinear_tf must be 0 or 1, not {self.sublinear_tf}")
        if self.C is not None and not 0 < self.C < math.inf:
            raise ValueError(f"--C must be a positive number, not {self.C}")
        if self.inject_noise is not None and not 0 < self.inject_noise < 0.5:
            raise ValueError(f"--inject_noise must be between 0 and 0.5, not {self.inject_noise}")
        if self.noise_seeds is not None and self.inject_noise is None:
            raise ValueError("--noise_seeds requires --inject_noise, e.g. --inject_noise 0.05")
        if self.noise_seeds is not None and min(self.noise_seeds) < 0:
            raise ValueError("--noise_seeds must be whole numbers from 0")
        if self.runs and self.svm_run:
            raise ValueError("give either --runs or --svm_run; with --runs no SVM is trained")
        if self.runs:
            for name in SVM_DEFAULTS:
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} is for the SVM; leave it out with --runs")


@dataclass
class Documents:
    """The documents of all splits, one after the other."""

    ids: list[str]
    splits: list[str]
    texts: list[str]
    labels: np.ndarray  # (documents,), numbers of the classes
    names: list[str]  # of the classes
    listed: np.ndarray | None  # (documents, classes): whether `categories` has the class
    fingerprints: dict[str, str]  # of each split
    commit: str | None  # of a dataset on the Hub


@dataclass
class Ranking:
    """What cleanlab says about each document."""

    probabilities: np.ndarray  # (documents, classes)
    suggested: np.ndarray  # (documents,): the most probable class other than the given one
    quality: np.ndarray  # (documents,): label quality score, the lower the more suspicious
    is_reported: np.ndarray  # (documents,)
    order: np.ndarray  # document numbers: what is reported first, then the rest, each by quality


# What a run decides


def read_svm_setting(folder: Path) -> dict:
    """Return the flags that a run of run_baseline.py stands for: text, label and the best setting.

    Exits with status 2 if the folder is not such a run.
    """
    if not (folder / "run_arguments.json").exists():
        fail(f"--svm_run {folder} has no run_arguments.json; give a run of run_baseline.py")
    record = read_json(folder / "run_arguments.json")
    if record.get("script") != "run_baseline.py":
        fail(f"--svm_run {folder} is not a run of run_baseline.py; encoders are given as --runs")
    state = read_json(folder / "trainer_state.json")
    try:
        best = max(state["log_history"], key=lambda row: row["eval_f1"])  # the first among equals
        setting = {
            "ngram_max": int(best["ngram_max"]),
            "sublinear_tf": int(best["sublinear_tf"]),
            "C": float(best["C"]),
        }
        if not (setting["ngram_max"] >= 1 and 0 < setting["C"] < math.inf):
            raise ValueError(f"n-grams up to {setting['ngram_max']}, C {setting['C']}")
    except (LookupError, TypeError, ValueError) as error:
        fail(f"{folder / 'trainer_state.json'} is damaged ({one_line(error)}); train again")
    return setting | read_setting(folder, ("min_df", "class_weight", *RUN_DEFAULTS))


def check_single_label(folder: Path, record: dict) -> None:
    """Exit with status 2 if a run has several labels per document."""
    if record.get("problem_type") == MULTI_LABEL:
        fail(
            f"{folder} has several labels per document, which {SCRIPT} does not support; give runs "
            "of one label per document"
        )


def read_setting(folder: Path, names: tuple[str, ...]) -> dict:
    """Return those of the flags that a run records. Exit with status 2 if one is damaged."""
    path = folder / "run_arguments.json"
    arguments = read_json(path).get("arguments", {})
    if not isinstance(arguments, dict):
        fail(f"{path} is damaged: 'arguments' is not an object; train again")
    setting = {}
    for name in names:
        value = arguments.get(name)
        if value is None:
            continue
        if name == "text_column_names":
            columns = value if isinstance(value, list) else [value]
            is_right = all(isinstance(column, str) for column in columns)
        else:
            is_right = type(value) is (int if name == "min_df" else str)
        if not is_right:
            fail(f"{path} is damaged: {name} is {value!r:.80}; train again")
        setting[name] = value
    return setting


def complete_arguments(arguments: LabelArguments) -> None:
    """Set the flags that were not given: as in the run, otherwise to their defaults."""
    sources = [arguments.svm_run] if arguments.svm_run else arguments.runs or []
    for source in sources:
        record_file = Path(source, "run_arguments.json")
        if record_file.exists():
            check_single_label(Path(source), read_json(record_file))
    recorded = {}
    source = arguments.svm_run
    if arguments.svm_run:
        recorded = read_svm_setting(Path(arguments.svm_run))
    elif arguments.runs and Path(arguments.runs[0], "run_arguments.json").exists():
        source = arguments.runs[0]
        recorded = read_setting(Path(source), tuple(RUN_DEFAULTS))
    if "text_column_names" in recorded:
        recorded["text_column_names"] = split_names(recorded["text_column_names"])
    if arguments.text_column_names is not None:
        arguments.text_column_names = split_names(arguments.text_column_names)

    defaults = RUN_DEFAULTS if arguments.runs else RUN_DEFAULTS | SVM_DEFAULTS
    given_delimiter = arguments.text_column_delimiter
    for name, default in defaults.items():
        given = getattr(arguments, name)
        if given is None:
            setattr(arguments, name, recorded.get(name, default))
        elif name in recorded and given != recorded[name]:
            logger.warning("--%s %s is used; %s has %s", name, given, source, recorded[name])
    check_delimiter(given_delimiter, arguments.text_column_names)
    if arguments.inject_noise is not None and arguments.noise_seeds is None:
        arguments.noise_seeds = [1, 2, 3]


# Documents


def read_documents(arguments: LabelArguments) -> Documents:
    """Read the documents of all splits. Labels are matched by name.

    Exits with status 2 if a split or column is missing, a document has no text or label, an id
    occurs twice in a split, or there are fewer than two classes.
    """
    wanted = arguments.splits or existing_splits(arguments)
    for split, count in Counter(wanted).items():
        if count > 1:
            fail(f"--splits names {split!r} {count} times; name it once")
    documents = Documents([], [], [], np.zeros(0, int), [], None, {}, None)
    label_names = []  # of each document
    categories = []  # of each document; None without that column
    for split in wanted:
        columns = [*arguments.text_column_names, arguments.label_column_name]
        dataset = load_split(arguments.dataset_name, split, columns, arguments.dataset_revision)
        documents.commit = dataset_commit(dataset)
        ids = [f"{split}.{row}" for row in range(len(dataset))]
        if "id" in dataset.column_names:
            ids = [str(value) for value in dataset["id"]]
        check_ids(ids, split)
        texts = read_texts(dataset, ids, split, arguments)
        names = read_labels(dataset, ids, split, arguments.label_column_name)
        documents.ids += ids
        documents.splits += [split] * len(dataset)
        documents.texts += texts
        table = pd.DataFrame({"id": ids, "text": texts, "label": names})
        documents.fingerprints[split] = fingerprint(table)
        label_names += names
        has_categories = "categories" in dataset.column_names
        categories += dataset["categories"] if has_categories else [None] * len(dataset)
        feature = dataset.features[arguments.label_column_name]
        if isinstance(feature, datasets.ClassLabel):
            documents.names += [name for name in feature.names if name not in documents.names]

    documents.names += sorted(set(label_names) - set(documents.names))
    number = {name: position for position, name in enumerate(documents.names)}
    documents.labels = np.array([number[name] for name in label_names])
    if len(set(label_names)) < 2:
        fail(f"all documents are of class {label_names[0]!r}; at least two classes are required")
    if any(isinstance(listed, list) and listed for listed in categories):
        documents.listed = np.zeros((len(categories), len(documents.names)), dtype=bool)
        for document, listed in enumerate(categories):
            for name in listed or []:
                if name in number:
                    documents.listed[document, number[name]] = True
    return documents


def existing_splits(arguments: LabelArguments) -> list[str]:
    """Return which of train, validation and test a dataset has. Exit with status 2 if none."""
    try:
        names = datasets.get_dataset_split_names(
            arguments.dataset_name, revision=arguments.dataset_revision
        )
    except Exception as error:  # the library raises its own, the Hub's and the file system's
        fail(f"cannot load --dataset_name {arguments.dataset_name}: {one_line(error)}")
    existing = [split for split in SPLITS if split in names]
    if not existing:
        fail(f"{arguments.dataset_name} has the splits {', '.join(names)}; name some in --splits")
    return existing


def first_rows(ids: list[str], rows: list[int]) -> str:
    """Return how many documents and the first three of them, for a message."""
    shown = ", ".join(ids[row] for row in rows[:3])
    more = ", ..." if len(rows) > 3 else ""
    return f"{len(rows)} document{'s' * (len(rows) > 1)} ({shown}{more})"


def check_ids(ids: list[str], split: str) -> None:
    """Exit with status 2 if the split is empty or an id is duplicated."""
    if not ids:
        fail(f"split {split!r} has no documents; leave it out of --splits")
    counts = Counter(ids)
    repeated = [name for name in counts if counts[name] > 1]
    if repeated:
        fail(
            f"{len(repeated)} ids of split {split!r} are duplicated, the first is {repeated[0]!r}; "
            "make the ids unique"
        )


def read_texts(
    dataset: datasets.Dataset, ids: list[str], split: str, arguments: LabelArguments
) -> list[str]:
    """Return the joined text columns. Exit with status 2 if a document has no text."""
    columns = []
    for name in arguments.text_column_names:
        if not str(getattr(dataset.features[name], "dtype", "")).endswith("string"):
            fail(f"column {name!r} of split {split!r} is not text but {dataset.features[name]}")
        columns.append(dataset[name])
    delimiter = arguments.text_column_delimiter
    texts = [join_texts(row, delimiter) for row in zip(*columns, strict=True)]
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        fail(f"split {split!r} has {first_rows(ids, empty)} without text; remove them")
    return texts


def read_labels(dataset: datasets.Dataset, ids: list[str], split: str, column: str) -> list[str]:
    """Return the class names of a split. Exit with status 2 if a document has no label."""
    feature = dataset.features[column]
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        fail(
            f"column {column!r} has several labels per document, which {SCRIPT} does not support; "
            "give a dataset of one label per document"
        )
    kind = str(getattr(feature, "dtype", "list"))
    if not kind.endswith(("string", "bool")) and "int" not in kind:
        fail(f"labels in column {column!r} must be names or integers, not {feature}")
    values = dataset[column]
    is_numbered = isinstance(feature, datasets.ClassLabel)
    missing = []
    for row, value in enumerate(values):
        if value is None or value == "" or (is_numbered and value < 0):
            missing.append(row)
    if missing:
        fail(
            f"split {split!r} has {first_rows(ids, missing)} without a label in column {column!r}; "
            "remove them, or name the other splits in --splits"
        )
    return [feature.names[value] if is_numbered else str(value) for value in values]


# Out-of-sample probabilities


def same_text(texts: list[str]) -> np.ndarray:
    """Return a group number per document; texts that differ in white space or case share one."""
    return pd.factorize(np.array([" ".join(text.lower().split()) for text in texts], object))[0]


def assign_folds(labels: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Return the fold of each document, stratified by label; a group is never cut.

    The first document of each group decides, and the others follow it.
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    fold_of_group = np.zeros(len(first), dtype=int)
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(folds.split(first, labels[first])):
        fold_of_group[held_out] = fold
    return fold_of_group[member]


def check_class_sizes(
    labels: np.ndarray, groups: np.ndarray, names: list[str], n_folds: int, cause: str = ""
) -> None:
    """Exit with status 2 if a class has too few documents for the folds and the calibration."""
    least = max(n_folds, CALIBRATION_FOLDS)
    while least - math.ceil(least / n_folds) < CALIBRATION_FOLDS:
        least += 1
    _, first = np.unique(groups, return_index=True)
    counts = np.bincount(labels[first], minlength=len(names))
    for label in np.unique(labels):
        if counts[label] < least:
            noun = "document" if counts[label] == 1 else "documents"
            fail(
                f"class {names[label]!r} has {counts[label]} {noun} with different texts{cause}, "
                f"and --folds {n_folds} requires {least}; "
                "add documents, merge or remove the class, or give --runs"
            )


def count_words(texts: list[str], arguments: LabelArguments) -> csr_matrix:
    """Return the n-gram counts of all documents. Exit with status 2 if there are no words."""
    counter = CountVectorizer(ngram_range=(1, arguments.ngram_max))
    try:
        return counter.fit_transform(texts)
    except ValueError as error:
        fail(f"no usable words in the texts ({one_line(error)}); check --text_column_names")


def svm_probabilities(
    counts: csr_matrix,
    labels: np.ndarray,
    groups: np.ndarray,
    n_classes: int,
    arguments: LabelArguments,
    bar: tqdm,
) -> np.ndarray:
    """Return probabilities of shape (documents, classes), each row by an SVM of the other folds.

    Platt's sigmoid of each class is fitted to decision values of held-out documents inside the
    training folds, and the classes are normalized. A class without documents has probability 0.
    """
    probabilities = np.zeros((len(labels), n_classes))
    folds = assign_folds(labels, groups, arguments.folds, arguments.seed)
    class_weight = None if arguments.class_weight == "none" else arguments.class_weight
    for fold in range(arguments.folds):
        train = folds != fold
        # The vocabulary and the document frequencies are those of the training folds alone.
        train_counts = counts[train]
        frequencies = np.bincount(train_counts.indices, minlength=counts.shape[1])
        known = np.flatnonzero(frequencies >= arguments.min_df)
        if len(known) == 0:
            fail(f"no n-gram occurs in --min_df {arguments.min_df} documents; lower it")
        tfidf = TfidfTransformer(sublinear_tf=bool(arguments.sublinear_tf))
        train_matrix = tfidf.fit_transform(train_counts[:, known])
        held_out_matrix = tfidf.transform(counts[~train][:, known])

        # ADAPT: another classifier with predict_proba.
        inner = assign_folds(labels[train], groups[train], CALIBRATION_FOLDS, arguments.seed)
        svm = LinearSVC(C=arguments.C, class_weight=class_weight, random_state=arguments.seed)
        model = CalibratedClassifierCV(
            svm, method="sigmoid", cv=PredefinedSplit(inner), ensemble=False
        )
        model.fit(train_matrix, labels[train])

        rows = np.flatnonzero(~train)
        probabilities[np.ix_(rows, model.classes_)] = model.predict_proba(held_out_matrix)
        bar.set_postfix(documents=f"{(folds <= fold).sum():,} of {len(labels):,}")
        bar.update()
    return probabilities


def read_predictions(folder: Path, names: list[str]) -> tuple[list[str], list[str], np.ndarray]:
    """Return ids, class names (empty without labels) and probabilities (documents, classes).

    Exits with status 2 if predictions.csv cannot be read, has other classes, or other scores.
    """
    path = folder / "predictions.csv"
    if not path.exists():
        fail(f"--runs: {folder} has no predictions.csv; give runs of run_classification.py")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
            lines = [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as error:
        fail(f"cannot read {path}: {one_line(error)}; predict again with run_classification.py")
    if len(lines) < 2:
        fail(f"{path} has no rows; predict again with run_classification.py")
    header, *rows = lines
    cut = [row[0] for row in rows if len(row) != len(header)]
    if cut:
        fail(
            f"{path} has {first_rows(cut, list(range(len(cut))))} with more or fewer values than "
            "its header; predict again with run_classification.py"
        )
    try:
        n_fixed = 3 if header[:3] == ["id", "label", "prediction"] else 2
        classes = header[n_fixed:]
        scores = np.array([row[n_fixed:] for row in rows], dtype=float)
    except ValueError as error:
        fail(f"cannot read {path}: {one_line(error)}; predict again with run_classification.py")
    if n_fixed == 2 and header[:2] != ["id", "prediction"]:
        fail(f"{path} does not start with the columns id, label, prediction; predict again")
    if sorted(classes) != sorted(names):
        only_run = sorted(set(classes) - set(names))
        only_data = sorted(set(names) - set(classes))
        fail(f"{path} has other classes: only there {only_run}, only in the dataset {only_data}")
    sums = scores.sum(axis=1)
    in_range = np.isfinite(scores).all() and scores.min() >= 0
    if not in_range or np.abs(sums - 1).max() > ROUNDING:
        fail(
            f"the scores in {path} are not probabilities (those of an SVM are decision values); "
            "give runs of encoders, or --svm_run instead of --runs"
        )
    ids = [row[0] for row in rows]
    labels = [row[1] for row in rows] if n_fixed == 3 else []
    predicted = [row[n_fixed - 1] for row in rows]
    if labels:
        reason = contradiction(folder, pd.DataFrame({"label": labels, "prediction": predicted}))
        if reason is not None:
            fail(contradiction_message(folder, reason))
    check_best_class(path, ids, predicted, pd.DataFrame(scores, columns=classes))
    columns = [classes.index(name) for name in names]
    return ids, labels, scores[:, columns] / sums[:, None]


def check_best_class(
    path: Path, ids: list[str], predicted: list[str], scores: pd.DataFrame
) -> None:
    """Exit with status 2 if a prediction is not the class with the highest probability.

    scores has the probabilities in predictions.csv, a column for each class. Where its columns are
    mixed up, every suggestion would be wrong; a run that predicts by another rule cannot be told
    from that.
    """
    columns = scores.columns.get_indexer(predicted)
    if (columns < 0).any():
        row = int(np.flatnonzero(columns < 0)[0])
        fail(
            f"{path} predicts {predicted[row]!r} for document {ids[row]}, which is none of its "
            "columns; predict again with run_classification.py"
        )
    of_predicted = scores.to_numpy()[np.arange(len(columns)), columns]
    others = np.flatnonzero(of_predicted < scores.to_numpy().max(axis=1) - SCORES_TOLERANCE)
    if len(others):
        fail(
            f"{path}: the prediction of {first_rows(ids, others.tolist())} is not the class with "
            "the highest probability, so its columns may be mixed up; predict again with "
            "run_classification.py"
        )


def check_texts_of_run(
    folder: Path, rows: list[int], is_labeled: bool, documents: Documents, arguments: LabelArguments
) -> None:
    """Exit with status 2 if the documents that a run predicted have other texts now.

    rows are their numbers, in the order of predictions.csv. Nothing is checked where the run does
    not record a fingerprint of its test split: runs of earlier versions, and of others.
    """
    path = folder / "run_arguments.json"
    record = read_json(path) if path.exists() else {}
    fingerprints = record.get("data_fingerprints")
    if not isinstance(fingerprints, dict) or "test" not in fingerprints:
        return
    setting = RUN_DEFAULTS | read_setting(folder, tuple(RUN_DEFAULTS))
    columns = split_names(setting["text_column_names"])
    delimiter = setting["text_column_delimiter"]
    texts = [documents.texts[row] for row in rows]
    is_read_alike = (columns, delimiter) == (
        arguments.text_column_names,
        arguments.text_column_delimiter,
    )
    if not is_read_alike:
        split = documents.splits[rows[0]]
        part = load_split(arguments.dataset_name, split, columns, arguments.dataset_revision)
        first = documents.splits.index(split)
        values = [part[name] for name in columns]
        joined = [join_texts(row, delimiter) for row in zip(*values, strict=True)]
        texts = [joined[row - first] for row in rows]
    table = {"id": [documents.ids[row] for row in rows], "text": texts}
    if is_labeled:
        table["label"] = [documents.names[documents.labels[row]] for row in rows]
    if fingerprint(pd.DataFrame(table)) != fingerprints["test"]:
        fail(
            f"{folder} predicted other texts than those of the dataset, which has changed since, "
            "or its predictions.csv was edited; predict again"
        )


def average_runs(arguments: LabelArguments, documents: Documents) -> tuple[np.ndarray, list[dict]]:
    """Return the mean probabilities (documents, classes) and a record per run.

    Rows of documents that no run predicted are NaN. A run's documents are found by id, and all
    have to be in one split. Exits with status 2 if a run is of other data.
    """
    total = np.zeros((len(documents.ids), len(documents.names)))
    n_runs = np.zeros(len(documents.ids))
    rows_of_split = {split: {} for split in documents.fingerprints}
    for row, (split, name) in enumerate(zip(documents.splits, documents.ids, strict=True)):
        rows_of_split[split][name] = row
    records = []
    for folder in map(Path, arguments.runs):
        ids, labels, scores = read_predictions(folder, documents.names)
        check_ids(ids, f"predictions of {folder}")
        overlaps = {s: sum(name in rows for name in ids) for s, rows in rows_of_split.items()}
        split = max(overlaps, key=overlaps.get)
        unknown = [row for row, name in enumerate(ids) if name not in rows_of_split[split]]
        if unknown:
            where = f"split {split!r}" if overlaps[split] else "any split"
            fail(
                f"{folder / 'predictions.csv'} has {first_rows(ids, unknown)} of {len(ids)} that "
                f"{'is' if len(unknown) == 1 else 'are'} not in {where} of the dataset; "
                "give runs of this dataset"
            )
        rows = [rows_of_split[split][name] for name in ids]
        own = [documents.names[label] for label in documents.labels[rows]]
        changed = [row for row, label in enumerate(labels) if label != own[row]]
        if changed:
            fail(
                f"{folder / 'predictions.csv'} has {first_rows(ids, changed)} with another label "
                "than the dataset, which has changed since; predict again"
            )
        check_texts_of_run(folder, rows, bool(labels), documents, arguments)
        if split == "train":
            logger.warning(
                "%s predicted documents of the training split: their ranks mean nothing "
                "if it was trained on them",
                folder,
            )
        total[rows] += scores
        n_runs[rows] += 1
        digest = hashlib.sha256((folder / "predictions.csv").read_bytes()).hexdigest()[:16]
        records.append({"name": run_name(folder), "split": split, "documents": len(ids)})
        records[-1]["predictions_sha256"] = digest
    with np.errstate(invalid="ignore"):
        return total / n_runs[:, None], records


def check_ranked_classes(documents: Documents) -> None:
    """Warn about classes of which the runs predicted one document; exit if it is a single class."""
    counts = np.bincount(documents.labels, minlength=len(documents.names))
    if np.count_nonzero(counts) < 2:
        name = documents.names[documents.labels[0]]
        fail(f"all documents that the runs predicted are of class {name!r}; give more runs")
    single = [name for name, count in zip(documents.names, counts, strict=True) if count == 1]
    if single:
        logger.warning(
            "the runs predicted one document of class %s, which cleanlab never reports",
            ", ".join(map(repr, single)),
        )


def select_documents(documents: Documents, rows: np.ndarray) -> Documents:
    """Return the documents of these rows."""
    return Documents(
        ids=[documents.ids[row] for row in rows],
        splits=[documents.splits[row] for row in rows],
        texts=[documents.texts[row] for row in rows],
        labels=documents.labels[rows],
        names=documents.names,
        listed=None if documents.listed is None else documents.listed[rows],
        fingerprints=documents.fingerprints,
        commit=documents.commit,
    )


# Ranking and what it is worth


def report(labels: np.ndarray, probabilities: np.ndarray, filter_by: str) -> np.ndarray:
    """Return which labels cleanlab reports: booleans of shape (documents,)."""
    with warnings.catch_warnings():
        # About classes with one document or none, by number; main() says it once, by name.
        warnings.filterwarnings("ignore", "May not flag all label issues", UserWarning)
        return find_label_issues(labels, probabilities, filter_by=filter_by, n_jobs=1)


def rank(labels: np.ndarray, probabilities: np.ndarray, arguments: LabelArguments) -> Ranking:
    """Ask cleanlab which labels contradict the probabilities, and in which order."""
    reported = report(labels, probabilities, arguments.filter_by)
    quality = get_label_quality_scores(labels, probabilities, method=arguments.rank_by)
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1.0
    # Among equals the earlier document comes first: np.lexsort is stable.
    order = np.lexsort((quality, ~reported))
    return Ranking(probabilities, others.argmax(axis=1), quality, reported, order)


def share(count: int, n: int) -> dict:
    """Return a share of n documents with Wilson's 95% interval."""
    low, high = proportion_confint(count, n, method="wilson")
    return {"count": int(count), "n": int(n), "share": count / n, "low": low, "high": high}


def mean_share(values: np.ndarray) -> dict:
    """Return the mean over documents with Student's 95% interval, if there are enough of them."""
    low = high = None
    if len(values) >= MIN_INTERVAL_DOCUMENTS and np.ptp(values) > 0:
        low, high = map(float, DescrStatsW(values).tconfint_mean())
    return {"n": len(values), "share": float(values.mean()), "low": low, "high": high}


def measure_cross_listing(documents: Documents, ranking: Ranking) -> dict | None:
    """Return how many suggested classes the document is cross-listed in, and chance levels.

    None without categories. A random other class is each of the other classes with the same
    probability, so that its share needs no drawing.
    """
    if documents.listed is None:
        return None
    rows = np.arange(len(documents.ids))
    is_hit = documents.listed[rows, ranking.suggested]
    is_other = np.ones_like(documents.listed)
    is_other[rows, documents.labels] = False
    random_hit = (documents.listed & is_other).sum(axis=1) / (len(documents.names) - 1)
    top = ranking.order[:TOP]
    is_rest = ~ranking.is_reported
    is_rest[top] = False
    measured = {
        "top": share(is_hit[top].sum(), len(top)),
        "random_class_of_top": mean_share(random_hit[top]),
        "random_class_of_all": mean_share(random_hit),
    }
    if ranking.is_reported.any():
        count = is_hit[ranking.is_reported].sum()
        measured["reported"] = share(count, ranking.is_reported.sum())
    if is_rest.any():
        rest = share(is_hit[is_rest].sum(), is_rest.sum())
        measured["second_choice_of_rest"] = rest
        low, high = confint_proportions_2indep(
            measured["top"]["count"], measured["top"]["n"], rest["count"], rest["n"],
            method="newcomb",
        )  # fmt: skip
        difference = measured["top"]["share"] - rest["share"]
        measured["difference"] = {"share": difference, "low": float(low), "high": float(high)}
    return measured


def inject_noise(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of which a fraction is changed, and which; every other class is as likely."""
    generator = np.random.default_rng(seed)
    n_changed = max(1, round(fraction * len(labels)))
    changed = generator.choice(len(labels), n_changed, replace=False)
    classes, positions = np.unique(labels, return_inverse=True)  # without classes of no document
    steps = generator.integers(1, len(classes), n_changed)
    noisy = labels.copy()
    noisy[changed] = classes[(positions[changed] + steps) % len(classes)]
    is_changed = np.zeros(len(labels), dtype=bool)
    is_changed[changed] = True
    return noisy, is_changed


def precision_recall(is_reported: np.ndarray, is_changed: np.ndarray) -> dict:
    """Return counts, precision (None if nothing is reported) and recall of a report."""
    reported = int(is_reported.sum())
    found = int((is_reported & is_changed).sum())
    return {
        "reported": reported,
        "found": found,
        "precision": found / reported if reported else None,
        "recall": found / int(is_changed.sum()),
    }


def measure_noise(
    documents: Documents, noisy: np.ndarray, is_changed: np.ndarray, ranking: Ranking
) -> dict:
    """Return what is found of changed labels: by the report, by its variants, by the ranking."""
    found = ranking.is_reported & is_changed
    found_suggestions = (ranking.suggested == documents.labels)[found]
    # Reports of unchanged labels are not all wrong: some of these documents fit the other class.
    unchanged = np.flatnonzero(ranking.is_reported & ~is_changed)
    unchanged_cross_listed = None
    if documents.listed is not None and len(unchanged) > 0:
        is_hit = documents.listed[unchanged, ranking.suggested[unchanged]]
        unchanged_cross_listed = float(is_hit.mean())
    n_changed = int(is_changed.sum())
    variants = {}
    for name in FILTERS:
        reported = report(noisy, ranking.probabilities, name)
        variants[name] = precision_recall(reported, is_changed)
    by_quality = np.argsort(ranking.quality, kind="stable")
    return {
        "changed": n_changed,
        **precision_recall(ranking.is_reported, is_changed),
        # As many documents as were changed, by label quality alone
        "precision_of_top": float(is_changed[by_quality[:n_changed]].mean()),
        # Of the changed labels that are reported, how often is the true one suggested?
        "suggestion_is_true": float(found_suggestions.mean()) if found.any() else None,
        "unchanged_cross_listed": unchanged_cross_listed,
        "filters": variants,
    }


# Files


def public_arguments(arguments: LabelArguments) -> dict:
    """Return the arguments for the record; of a path only the last part."""
    record = asdict(arguments)
    record["output_dir"] = Path(arguments.output_dir).absolute().name
    record["dataset_name"] = public_name(arguments.dataset_name)
    if arguments.runs:
        record["runs"] = [run_name(folder) for folder in arguments.runs]
    if arguments.svm_run:
        record["svm_run"] = run_name(arguments.svm_run)
    return record


def is_finished(folder: Path, record: dict) -> bool:
    """Return whether the folder has the whole result of the same arguments and data.

    Exits with status 2 if it has the result of others, which would be overwritten.
    """
    if not (folder / RECORD).exists():
        return False
    earlier = read_json(folder / RECORD)
    if not earlier.get("is_complete"):
        return False
    differing = []
    for name, value in record["arguments"].items():
        before = earlier.get("arguments", {}).get(name)
        if name not in NOT_IDENTIFYING and before != value:
            differing.append(f"--{name} {before}, now {value}")
    if earlier.get("data_fingerprints") != record["data_fingerprints"]:
        differing.append("other documents or labels")
    if earlier.get("runs") != record["runs"]:
        differing.append("other predictions of --runs")
    if differing:
        fail(
            f"--output_dir {folder} has finished results of other arguments or data "
            f"({'; '.join(differing)}); choose another folder"
        )
    return (folder / TABLE).exists() and (folder / PAGE).exists()


def make_rows(documents: Documents, ranking: Ranking) -> list[dict]:
    """Return the rows of label_errors.csv, the most suspicious document first."""
    rows = []
    for number, document in enumerate(ranking.order, start=1):
        given = documents.labels[document]
        suggested = ranking.suggested[document]
        cross_listed = ""
        if documents.listed is not None:
            cross_listed = "yes" if documents.listed[document, suggested] else "no"
        rows.append(
            {
                "rank": number,
                "id": documents.ids[document],
                "split": documents.splits[document],
                "given_label": documents.names[given],
                "suggested_label": documents.names[suggested],
                "probability_given": f"{ranking.probabilities[document, given]:.6f}",
                "probability_suggested": f"{ranking.probabilities[document, suggested]:.6f}",
                "label_quality": f"{ranking.quality[document]:.6f}",
                "reported": "yes" if ranking.is_reported[document] else "no",
                "cross_listed": cross_listed,
            }
        )
    return rows


def csv_text(rows: list[dict]) -> str:
    """Return rows as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def percent(value: float) -> str:
    """Return a share as percent with one decimal."""
    return f"{100 * value:.1f}"


def percent_interval(counted: dict) -> str:
    """Return a share with its 95% interval, in percent."""
    if counted["low"] is None:
        return f"{percent(counted['share'])} percent"
    interval = f"95% CI {percent(counted['low'])} to {percent(counted['high'])}"
    return f"{percent(counted['share'])} percent ({interval})"


def describe(record: dict) -> list[str]:
    """Return the sentences at the top of the page, which are also logged."""
    counts = record["counts"]
    reported = counts["reported"]
    sentences = [
        f"cleanlab reports {reported:,} of {counts['ranked']:,} labels as possibly wrong "
        f"({percent(reported / counts['ranked'])} percent)."
    ]
    if record["accuracy"] <= record["majority_share"]:
        sentences.append(
            "The probabilities say nothing about these labels: their most probable class is right "
            f"for {percent(record['accuracy'])} percent of the documents, the most frequent class "
            f"for {percent(record['majority_share'])} percent. Check the text columns."
        )
    if counts["ranked"] < counts["documents"]:
        sentences.append(
            f"{counts['documents'] - counts['ranked']:,} documents are left out because no run "
            "predicted them."
        )
    noise = record["injected_noise"]
    if noise:
        recalls = [seed["recall"] for seed in noise["seeds"]]
        precisions = [seed["precision"] or 0.0 for seed in noise["seeds"]]
        sentences.append(
            f"Measured on this dataset: of labels changed at random "
            f"({percent(noise['fraction'])} percent, {len(recalls)} seeds) "
            f"{percent(np.mean(recalls))} percent are reported, and "
            f"{percent(np.mean(precisions))} percent of the reported labels are changed ones."
        )
    listed = record["cross_listed"]
    if listed is None:
        sentences.append("The dataset has no categories, so cross-listing is not known.")
    else:
        sentence = (
            f"Of the first {listed['top']['n']} documents, {percent_interval(listed['top'])} are "
            "cross-listed in the suggested class. By chance: "
            f"{percent_interval(listed['random_class_of_all'])} of all documents in a random other "
            "class"
        )
        if "second_choice_of_rest" in listed:
            rest = percent_interval(listed["second_choice_of_rest"])
            sentence += f", {rest} of those not reported in the model's choice of another class"
        sentences.append(sentence + ".")
    return sentences


def make_page(record: dict, documents: Documents, ranking: Ranking, rows: list[dict]) -> str:
    """Return the page: sentences, tables and the first documents with their texts."""
    shown = []
    limit = record["arguments"]["max_shown"]
    for row, document in zip(rows[:limit], ranking.order[:limit], strict=True):
        text = documents.texts[document]
        left_out = max(0, len(text) - MAX_TEXT)
        shown.append(row | {"text": text[:MAX_TEXT], "left_out": left_out})
    counts = record["counts"]
    split_rows = []
    for split, counted in counts["splits"].items():
        rate = percent(counted["reported"] / counted["ranked"])
        split_rows.append([split, f"{counted['ranked']:,}", f"{counted['reported']:,}", rate])
    pair_rows = [[pair["given"], pair["suggested"], pair["reported"]] for pair in counts["pairs"]]
    return render(
        "label_errors.html",
        dataset=record["dataset_name"],
        sentences=describe(record),
        source=record["probabilities"],
        is_out_of_sample=not record["runs"],
        in_sample=[run["name"] for run in record["runs"] if run["split"] == "train"],
        split_rows=split_rows,
        pair_rows=pair_rows,
        documents=shown,
        number=len(rows),
        table_file=TABLE,
        fingerprints=record["data_fingerprints"],
        arguments=[[name, str(value)] for name, value in record["arguments"].items()],
        versions=record["versions"],
    )


def count_reported(documents: Documents, ranking: Ranking) -> dict:
    """Return counts of ranked and reported documents: all, per split, and per pair of classes."""
    reported = np.flatnonzero(ranking.is_reported)
    splits = {}
    for split, ranked in Counter(documents.splits).items():
        found = sum(documents.splits[row] == split for row in reported)
        splits[split] = {"ranked": ranked, "reported": found}
    pairs = Counter((documents.labels[row], ranking.suggested[row]) for row in reported)
    pair_counts = []
    for (given, suggested), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
        names = {"given": documents.names[given], "suggested": documents.names[suggested]}
        pair_counts.append(names | {"reported": count})
    return {
        "ranked": len(documents.ids),
        "reported": len(reported),
        "splits": splits,
        "pairs": pair_counts,
    }


def main() -> None:
    # 1. Arguments and output folder
    start_logging()
    (arguments,) = parse_arguments(__doc__, LabelArguments)
    check_names(arguments)
    check_revision("dataset_revision", arguments.dataset_name, arguments.dataset_revision)
    complete_arguments(arguments)
    folder = Path(arguments.output_dir)
    open_output_dir(folder, SCRIPT, [RECORD], OWN_FILES)
    lock_output_dir(folder)

    # 2. Documents, and the runs that predicted them
    documents = read_documents(arguments)
    n_documents = len(documents.ids)
    n_classes = len(documents.names)
    logger.info("%s documents, %d classes", f"{n_documents:,}", n_classes)
    probabilities = None
    run_records = []
    groups = same_text(documents.texts)
    if arguments.runs:
        probabilities, run_records = average_runs(arguments, documents)
        predicted = np.flatnonzero(~np.isnan(probabilities[:, 0]))
        documents = select_documents(documents, predicted)
        probabilities = probabilities[predicted]
        source = f"mean of {len(run_records)} run{'s' * (len(run_records) > 1)}"
        check_ranked_classes(documents)
    else:
        check_class_sizes(documents.labels, groups, documents.names, arguments.folds)
        source = f"calibrated linear SVM on TF-IDF, {arguments.folds} folds"

    noisy_labels = []  # for each noise seed: labels, and which of them were changed
    for seed in arguments.noise_seeds or []:
        noisy, is_changed = inject_noise(documents.labels, arguments.inject_noise, seed)
        if not arguments.runs:
            cause = f" after --inject_noise with seed {seed}"
            check_class_sizes(noisy, groups, documents.names, arguments.folds, cause)
        noisy_labels.append((seed, noisy, is_changed))

    # 3. The record comes first, so that an interrupted command finds its folder again
    record = {
        "script": SCRIPT,
        "is_complete": False,
        "dataset_name": public_name(arguments.dataset_name),
        "dataset_commit": documents.commit,
        "data_fingerprints": documents.fingerprints,
        "labels": documents.names,
        "probabilities": source,
        "runs": run_records,
        "arguments": public_arguments(arguments),
        "versions": versions(*PACKAGES),
    }
    if is_finished(folder, record):
        logger.info("%s is finished: nothing to do", folder)
        return
    write_files(folder, {RECORD: json.dumps(record, indent=2, ensure_ascii=False) + "\n"})

    # 4. Probabilities and ranking, for the labels as they are and for each noise seed
    n_fits = 0 if arguments.runs else arguments.folds * (1 + len(noisy_labels))
    bar = tqdm(total=n_fits, desc="SVMs", disable=arguments.disable_tqdm or n_fits == 0)
    if not arguments.runs:
        counts = count_words(documents.texts, arguments)
        probabilities = svm_probabilities(
            counts, documents.labels, groups, n_classes, arguments, bar
        )
    ranking = rank(documents.labels, probabilities, arguments)
    noise_results = []
    for seed, noisy, is_changed in noisy_labels:
        if not arguments.runs:
            probabilities = svm_probabilities(counts, noisy, groups, n_classes, arguments, bar)
        noisy_ranking = rank(noisy, probabilities, arguments)
        measured = measure_noise(documents, noisy, is_changed, noisy_ranking)
        noise_results.append({"seed": seed} | measured)
    bar.close()

    # 5. The files; the record, complete, is the last one
    record["counts"] = {"documents": n_documents} | count_reported(documents, ranking)
    # A model that is no better than the most frequent class cannot find errors; the page says so.
    is_right = ranking.probabilities.argmax(axis=1) == documents.labels
    record["accuracy"] = float(is_right.mean())
    record["majority_share"] = float(np.bincount(documents.labels).max() / len(documents.ids))
    record["cross_listed"] = measure_cross_listing(documents, ranking)
    record["injected_noise"] = None
    if noise_results:
        record["injected_noise"] = {"fraction": arguments.inject_noise, "seeds": noise_results}
    rows = make_rows(documents, ranking)
    page = make_page(record, documents, ranking, rows)
    record["is_complete"] = True
    write_files(
        folder,
        {
            TABLE: csv_text(rows).encode("utf-8", "replace"),
            PAGE: page.encode("utf-8", "replace"),
            RECORD: json.dumps(record, indent=2, ensure_ascii=False) + "\n",
        },
    )
    for sentence in describe(record):
        logger.info("%s", sentence)
    logger.info("wrote %s", folder / PAGE)
    logger.info(
        "next: open %s and correct the labels in your source", shlex.quote(str(folder / PAGE))
    )


if __name__ == "__main__":
    main()
