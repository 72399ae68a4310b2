#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "huggingface_hub==2.4.0",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "pyarrow==26.0.1",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "scipy==1.17.1",
#     "skops==0.16.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Train TF-IDF and a linear support vector machine, which only counts words, and predict.

    python run_baseline.py --dataset_name data/arxiv --output_dir runs/svm
    python run_baseline.py --train_file train.csv --test_file test.csv \\
        --text_column_names title,body --label_column_name kind --output_dir runs/svm
    # several labels per document, with a threshold per class; probabilities
    python run_baseline.py --train_file train.csv --test_file test.csv --label_column_name kinds \\
        --label_delimiter ";" --threshold auto --calibrate --output_dir runs/svm
    # predict other texts with a finished run; labels are not needed
    python run_baseline.py --model_name_or_path runs/svm --test_file new.csv --output_dir runs/new

n-grams, sublinear term frequency and C are chosen by macro F1 on the validation split. Vocabulary,
weights and the final model come from the training split alone, as an encoder's do. The test split,
if there is one, is predicted once, at the end. A finished run is not repeated.

Writes to --output_dir: model.skops, train_results.json, eval_results.json, all_results.json,
trainer_state.json (every setting tried), top_words.csv, top_words.png, run_arguments.json,
README.md (the model card) and, of the test split, predict_results.json, predictions.csv (decision
values, with --calibrate probabilities) and confusion_matrix.png or, with several labels,
class_curves.png. Texts without labels are predicted, and nothing is measured on them.
"""

import argparse
import contextlib
import csv
import difflib
import fcntl
import hashlib
import html
import io
import itertools
import json
import logging
import math
import os
import re
import shlex
import sys
import time
import traceback
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NoReturn

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow.parquet
import skops.io
import yaml
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
from huggingface_hub import EvalResult, HfApi, ModelCardData, try_to_load_from_cache
from huggingface_hub.utils import httpx
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC
from tqdm import tqdm

# transformers advises to install PyTorch, which this script does not need.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
from transformers import HfArgumentParser

logger = logging.getLogger(__name__)

SCRIPT = "run_baseline.py"
RUN_FILE = "run_arguments.json"
CHUNK = 10_000  # documents that are counted and weighted at once when a split is predicted
MAX_DRAWN_CLASSES = 30  # in one picture; those of more classes would take gigabytes
# Arguments that cannot change the results. Where the data is does not matter either: its rows do,
# and their fingerprints are compared.
NOT_IDENTIFYING = (
    "output_dir",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "disable_tqdm",
    "dataset_name",
    "dataset_config_name",
    "dataset_revision",
    "train_file",
    "validation_file",
    "test_file",
)


# 1. Arguments


@dataclass
class BaselineArguments:
    """Which settings to try, and where to write."""

    output_dir: str = field(metadata={"help": "Run folder to write."})
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Finished run folder of this script: predict with it, without training."},
    )
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
    calibrate: bool = field(
        default=False,
        metadata={"help": "Add probabilities, from a sigmoid that is fitted on validation."},
    )
    threshold: str | None = field(
        default=None,
        metadata={
            "help": "With several labels, auto: a threshold per class that maximizes its F1 on the "
            "validation split; with --calibrate, a probability may be given instead. Default: "
            "decision value 0, or probability 0.5."
        },
    )
    seed: int = field(
        default=42, metadata={"help": "Random seed of the solver and of --shuffle_train_dataset."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Push the run folder to the Hub."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Repository on the Hub. Default: the folder's name."}
    )
    hub_private_repo: bool = field(default=False, metadata={"help": "Create a private repository."})
    disable_tqdm: bool = field(default=False, metadata={"help": "Disable the progress bar."})


# Copied from tools/common/cli.py::fail
def fail(message: str) -> NoReturn:
    """Print a one-line error and exit with status 2, for a mistake that the user can fix.

    With the environment variable TRACEBACK=1, the traceback of the caught error comes first.
    """
    if os.environ.get("TRACEBACK") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if os.environ.get("RANK", "0") != "0":
        # Every process finds the same mistake. The launcher stops this one as soon as the first
        # process has exited, so the message appears once.
        time.sleep(10)
    # A file name may contain a line break. A progress bar must not share the line.
    tqdm.write("error: " + " ".join(message.splitlines()), file=sys.stderr)
    raise SystemExit(2)


# Copied from tools/common/cli.py::one_line
def one_line(error: BaseException) -> str:
    """Return the message of an error as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:  # transformers and datasets advise to run the code
        return "it asks to run code that comes with it, which is never done; choose another"
    if text.startswith("Repo id must"):  # the Hub's client was asked for a path
        return "there is no such folder, and it is not a name on the Hub either"
    return text[:300] or type(error).__name__


# Copied from tools/common/cli.py::read_config
def read_config(file: str) -> list[str]:
    """Return the flags that a YAML or JSON file of ``flag: value`` lines stands for.

    Values are passed on as they are written: YAML would take the words no and on for false and
    true. Exits with status 2 if the file cannot be read or is not such a mapping.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
        content = yaml.safe_load(text)  # JSON is YAML
        written = yaml.load(text, Loader=yaml.BaseLoader)  # all values are text
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"cannot read arguments from {file}: {one_line(error)}")
    if not isinstance(content, dict):
        fail(f"cannot read arguments from {file}: it must have a 'flag: value' on each line")
    words = []
    for flag, value in content.items():
        if value is None:
            continue
        words.append(f"--{flag}")
        if isinstance(value, dict):  # as TrainingArguments reads it
            words.append(json.dumps(value))
        else:
            value = written.get(str(flag), value)
            words.extend(map(str, value if isinstance(value, list) else [value]))
    return words


# Copied from tools/common/cli.py::show_defaults
def show_defaults(parser: HfArgumentParser) -> None:
    """Say in the help of each flag what its value is if it is not given."""
    for action in parser._actions:
        if action.option_strings[0].startswith("--no_"):  # made by the parser, with the same help
            action.help = f"The same as --{action.dest} false."
            continue
        text = action.help or ""
        default = action.default
        says_nothing = default is None or default is False or default in ("", [], argparse.SUPPRESS)
        if says_nothing or "efault" in text:
            continue
        values = default if isinstance(default, list | tuple) else [default]
        default = " ".join(str(getattr(value, "value", value)) for value in values)
        if not default.strip():  # a space is seen in quotes
            default = repr(default)
        action.help = f"{text} Default: {default.replace('%', '%%')}."


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
    show_defaults(parser)
    parser.error = fail

    words = sys.argv[1:]
    is_flag = bool(words) and words[0].startswith("-")  # such as --train_file=train.json
    if words and not is_flag and words[0].endswith((".json", ".yaml", ".yml")):
        words.insert(0, "--config")
    for index, word in enumerate(words):
        if word.startswith("--config="):
            words[index : index + 1] = word.split("=", 1)
    if words.count("--config") > 1:
        fail("--config is given more than once; give one file")
    if "--config" in words:
        index = words.index("--config")
        if index + 1 == len(words):
            fail("--config requires a file of arguments")
        words = read_config(words[index + 1]) + words[:index] + words[index + 2 :]

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


# Copied from tools/common/data.py::SPLITS
SPLITS = ("train", "validation", "test")


# Copied from tools/common/data.py::SINGLE_LABEL
SINGLE_LABEL = "single_label_classification"  # transformers' names of a problem_type
# Copied from tools/common/data.py::MULTI_LABEL
MULTI_LABEL = "multi_label_classification"


# Copied from tools/common/data.py::VALIDATION_FRACTION
VALIDATION_FRACTION = 0.1  # if --validation_fraction is not given


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


# Copied from tools/common/data.py::split_names
def split_names(names: list[str] | str) -> list[str]:
    """Return the columns of --text_column_names; "title,abstract" and "title abstract" are two."""
    joined = names if isinstance(names, str) else ",".join(names)
    return [name.strip() for name in joined.split(",")]


# Copied from tools/common/data.py::check_delimiter
def check_delimiter(given: str | None, columns: list[str]) -> None:
    """Exit with status 2 if --text_column_delimiter was given for one column: it joins nothing."""
    if given is not None and len(columns) == 1:
        fail(
            f"--text_column_delimiter: there is one column of text, {columns[0]}, so nothing is "
            "joined; leave it out"
        )


@dataclass
class RunDataArguments(DataArguments):
    """DataArguments with None for what is not given.

    It then comes from the run that predicts, or from TEXT_SETTINGS.
    """

    text_column_names: list[str] | None = field(
        default=None, metadata={"help": "Columns of text. Default: as in training, or abstract."}
    )
    text_column_delimiter: str | None = field(
        default=None,
        metadata={"help": "Text between joined columns. Default: as in training, or a space."},
    )
    label_column_name: str | None = field(
        default=None,
        metadata={
            "help": "Column of the classes: names, integers, or lists of them. Default: as in "
            "training, or label."
        },
    )


# What is not given comes from the run that predicts, or is this.
TEXT_SETTINGS = {
    "text_column_names": ["abstract"],
    "text_column_delimiter": " ",
    "label_column_name": "label",
}
# What has no meaning where a finished run predicts
TRAINING_ARGUMENTS = (
    # The model
    "ngram_max",
    "sublinear_tf",
    "C",
    "min_df",
    "class_weight",
    "calibrate",
    "seed",
    # Hub
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    # Splits other than test
    "train_file",
    "validation_file",
    "train_split_name",
    "validation_split_name",
    "validation_fraction",
    "test_fraction",
    "split_seed",
    "shuffle_train_dataset",
    "max_train_samples",
    "max_eval_samples",
)


def default_of(arguments: object, name: str) -> object:
    """Return the default of a field of a dataclass."""
    (value,) = [value for value in fields(arguments) if value.name == name]
    return value.default_factory() if callable(value.default_factory) else value.default


def value_if_not_given(arguments: object, name: str) -> object:
    """Return the value of a flag that is not given, after the data is read: it sets a fraction."""
    return VALIDATION_FRACTION if name == "validation_fraction" else default_of(arguments, name)


def check_arguments(arguments: BaselineArguments, data_arguments: DataArguments) -> None:
    """Exit with status 2 on arguments that have no meaning, or none with the others."""
    if arguments.model_name_or_path is not None:
        for name in TRAINING_ARGUMENTS:
            holder = arguments if hasattr(arguments, name) else data_arguments
            if getattr(holder, name) != default_of(holder, name):
                fail(f"--{name}: nothing is trained with --model_name_or_path; leave it out")
        if arguments.threshold == "auto":
            fail("--threshold auto is for training; a run has its thresholds already")
    elif arguments.threshold not in (None, "auto"):
        read_threshold(arguments.threshold)
        if not arguments.calibrate:
            fail(f"--threshold {arguments.threshold} is a probability: it requires --calibrate")
    if not arguments.C or min(arguments.C) <= 0 or not np.isfinite(arguments.C).all():
        fail(f"--C requires positive numbers, not {arguments.C}")
    if not arguments.ngram_max or min(arguments.ngram_max) < 1:
        fail(f"--ngram_max requires integers of 1 or more, not {arguments.ngram_max}")
    if not arguments.sublinear_tf or not set(arguments.sublinear_tf) <= {0, 1}:
        fail(f"--sublinear_tf requires 0, 1 or both, not {arguments.sublinear_tf}")
    if arguments.min_df < 1:
        fail(f"--min_df must be 1 or more, not {arguments.min_df}")
    if not 0 <= arguments.seed < 2**32:
        fail(f"--seed must be between 0 and 2**32 - 1, not {arguments.seed}")
    if arguments.hub_model_id and not arguments.push_to_hub:
        fail("--hub_model_id requires --push_to_hub")
    if arguments.hub_private_repo and not arguments.push_to_hub:
        fail("--hub_private_repo requires --push_to_hub")


# 2. Features, classifier, search of the setting, predictions


# Copied from run_classification.py::read_threshold
def read_threshold(text: str) -> float:
    """Return a threshold of probabilities. Exit with status 2 if it is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        fail(f"--threshold must be auto or a number between 0 and 1, not {text}")
    return value


# Copied from tools/common/metrics.py::METRICS
METRICS = {
    "accuracy": "Accuracy",  # several labels: of the whole set of labels (subset accuracy)
    "f1": "Macro F1",
    "f1_micro": "Micro F1",
    "f1_weighted": "Weighted F1",
    "precision": "Macro precision",
    "recall": "Macro recall",
    "average_precision": "Macro average precision",
    "mcc": "Matthews correlation",
    "quadratic_kappa": "Quadratic kappa",
    "log_loss": "Log loss",
    "brier_score": "Brier score",
}
# Copied from tools/common/metrics.py::LOSSES
LOSSES = ("loss", "log_loss", "brier_score")


# Copied from tools/common/metrics.py::metric_name
def metric_name(key: str, problem_type: str) -> str:
    """Return what a table calls a metric of METRICS."""
    if key == "accuracy" and problem_type == MULTI_LABEL:
        return "Subset accuracy"
    return METRICS[key]


# Copied from tools/common/metrics.py::metric_text
def metric_text(key: str, value: float) -> str:
    """Return a metric as a table shows it: in percent, or a loss as it is."""
    return f"{value:.4f}" if key in LOSSES else f"{100 * value:.2f} %"


# Copied from tools/common/metrics.py::compute_scores
def compute_scores(
    labels: np.ndarray,
    predictions: np.ndarray,
    scores: np.ndarray,
    names: list[str],
    problem_type: str,
    are_probabilities: bool,
) -> dict[str, float]:
    """Return the metrics of METRICS that these labels and scores have.

    Macro averages are those over the classes that occur in labels or predictions; undefined values
    count as 0. Log loss is the mean negative logarithm of the probability of the truth. The Brier
    score is the mean of squared differences between probability and truth: for one label summed
    over the classes (0 to 2), for several labels averaged over them (0 to 1). Both need
    probabilities. Quadratic kappa needs at least three classes with integers as names.
    """
    if problem_type == MULTI_LABEL:
        return multi_label_scores(labels, predictions, scores, are_probabilities)

    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=0
    )
    results = {
        "accuracy": float(accuracy_score(labels, predictions)),
        "f1": float(f1),
        "f1_weighted": float(f1_score(labels, predictions, average="weighted", zero_division=0)),
        "precision": float(precision),
        "recall": float(recall),
        "mcc": 0.0,
    }
    if len(np.union1d(labels, predictions)) > 1:  # scikit-learn warns of a single class
        results["mcc"] = float(matthews_corrcoef(labels, predictions))
    if len(names) > 2 and all(re.fullmatch(r"-?\d+", name) for name in names):
        values = np.array([int(name) for name in names], dtype=float)
        results["quadratic_kappa"] = quadratic_kappa(values[labels], values[predictions])
    if are_probabilities:
        truth = np.eye(len(names))[labels]
        of_truth = scores[np.arange(len(labels)), labels]
        results["log_loss"] = float(-log_probability(of_truth).mean())
        results["brier_score"] = float(((scores - truth) ** 2).sum(axis=1).mean())
    return results


# Copied from tools/common/metrics.py::multi_label_scores
def multi_label_scores(
    labels: np.ndarray, predictions: np.ndarray, scores: np.ndarray, are_probabilities: bool
) -> dict[str, float]:
    """Return the metrics for several labels per document; the arrays are (documents, classes).

    Average precision is that over the classes that occur in the labels: without a document of a
    class there is no precision to average.
    """
    used = np.flatnonzero((labels + predictions).any(axis=0))
    precision = recall = f1 = np.zeros(1)
    if len(used) > 0:
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels[:, used], predictions[:, used], average=None, zero_division=0
        )
    ranked = [
        average_precision_score(labels[:, number], scores[:, number])
        for number in np.flatnonzero(labels.any(axis=0))
    ]
    results = {
        "accuracy": float((labels == predictions).all(axis=1).mean()),
        "f1": float(f1.mean()),
        "f1_micro": float(f1_score(labels.ravel(), predictions.ravel(), zero_division=0)),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "average_precision": float(np.mean(ranked)) if ranked else 0.0,
    }
    if are_probabilities:
        of_truth = np.where(labels == 1, scores, 1 - scores)
        results["log_loss"] = float(-log_probability(of_truth).mean())
        results["brier_score"] = float(((scores - labels) ** 2).mean())
    return results


# Copied from tools/common/metrics.py::log_probability
def log_probability(probabilities: np.ndarray) -> np.ndarray:
    """Return logarithms; a probability of 0 counts as the smallest step of a float (2.2e-16)."""
    return np.log(np.maximum(probabilities, np.finfo(float).eps))


# Copied from tools/common/metrics.py::quadratic_kappa
def quadratic_kappa(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return Cohen's kappa with quadratic weights of numbers; 0 where it is undefined.

    One minus the mean squared difference over that of independent labels and predictions
    (Cohen, Psychological Bulletin 70:213-220, 1968).
    """
    by_chance = labels.var() + predictions.var() + (labels.mean() - predictions.mean()) ** 2
    if by_chance == 0:
        return 0.0
    return float(1 - ((labels - predictions) ** 2).mean() / by_chance)


# Copied from tools/common/metrics.py::choose_thresholds
def choose_thresholds(labels: np.ndarray, scores: np.ndarray, default: float = 0.5) -> list[float]:
    """Return a threshold per class that maximizes its F1; a score of at least that is a label.

    A threshold lies halfway between two neighboring scores of documents. The default, 0 for
    decision values, is kept where no other threshold is better, as for a class without documents;
    among equals, the one closest to it is taken.
    """
    thresholds = []
    for number in range(labels.shape[1]):
        truth = labels[:, number]
        values = np.unique(scores[:, number])
        candidates = [default, values[0], *(values[1:] + values[:-1]) / 2]
        candidates = sorted(candidates, key=lambda threshold: abs(threshold - default))

        # Documents and labels at or above every candidate
        order = np.argsort(scores[:, number], kind="stable")
        first = np.searchsorted(scores[order, number], candidates, side="left")
        right = truth[order][::-1].cumsum()[::-1]
        n_right = np.append(right, 0)[first]
        n_predicted = len(truth) - first
        f1 = 2 * n_right / np.maximum(n_predicted + truth.sum(), 1)
        thresholds.append(float(candidates[f1.argmax()]))
    return thresholds


# Copied from tools/common/metrics.py::predict_labels
def predict_labels(
    scores: np.ndarray, problem_type: str, thresholds: list[float] | None = None
) -> np.ndarray:
    """Return the predictions: the class with the highest score, or each at its threshold."""
    if problem_type == MULTI_LABEL:
        return (scores >= np.array(thresholds)).astype(int)
    return scores.argmax(axis=1)


def count_words(ngram_max: int, min_df: int, texts: pd.Series) -> tuple[CountVectorizer, object]:
    """Return a fitted counter of n-grams and the counts, a sparse matrix (documents, n-grams)."""
    # ADAPT: features. Anything with fit_transform and transform, such as
    # CountVectorizer(analyzer="char_wb", ngram_range=(2, 5)) for parts of words.
    counter = CountVectorizer(ngram_range=(1, ngram_max), min_df=min_df)
    try:
        return counter, counter.fit_transform(texts)
    except ValueError as error:  # nothing is left to count
        fail(
            f"no usable words in the training texts ({error}); check --text_column_names, --min_df"
        )


def make_classifier(C: float, arguments: BaselineArguments) -> LinearSVC:
    """Return an untrained classifier."""
    class_weight = None if arguments.class_weight == "none" else arguments.class_weight
    # ADAPT: classifier. It needs decision_function; class_coefficients() reads coef_ of shape
    # (classes, n-grams), for two classes (1, n-grams).
    return LinearSVC(C=C, class_weight=class_weight, random_state=arguments.seed)


@dataclass
class Trained:
    """What predicts: the model, and what makes classes of its decision values."""

    model: Pipeline
    names: list[str]  # of the classes in the order of their numbers
    problem_type: str
    thresholds: list[float] | None = None  # with several labels: of the scores, one per class
    # With --calibrate, the probability of a class is expit(-(slope * decision value + intercept))
    slopes: list[float] | None = None
    intercepts: list[float] | None = None

    @property
    def has_probabilities(self) -> bool:
        return self.slopes is not None


def label_array(labels: Iterable, n_classes: int, problem_type: str) -> np.ndarray:
    """Return numbers of classes, or with several labels 0 and 1 of shape (documents, classes)."""
    if problem_type != MULTI_LABEL:
        return np.array(labels)
    has_class = np.zeros((len(labels), n_classes), dtype=int)
    for row, numbers in enumerate(labels):
        has_class[row, np.array(numbers, dtype=int)] = 1
    return has_class


def decision_values(
    classifier: LinearSVC | OneVsRestClassifier, matrix: object, n_classes: int
) -> np.ndarray:
    """Return decision values of shape (documents, classes)."""
    values = classifier.decision_function(matrix)
    if values.ndim == 1:  # two classes: scikit-learn returns those of the second alone
        values = np.column_stack([-values, values])
    # A class without training documents is never predicted.
    scores = np.full((len(values), n_classes), -np.inf)
    scores[:, classifier.classes_] = values
    return scores


def to_probabilities(values: np.ndarray, trained: Trained) -> np.ndarray:
    """Return the probabilities of decision values; of one label, they sum to 1 per document."""
    probabilities = expit(-(np.array(trained.slopes) * values + np.array(trained.intercepts)))
    if trained.problem_type == MULTI_LABEL:
        return probabilities
    sums = probabilities.sum(axis=1, keepdims=True)
    uniform = np.full_like(probabilities, 1 / len(trained.names))
    return np.divide(probabilities, sums, out=uniform, where=sums > 0)


def predict_scores(trained: Trained, texts: pd.Series) -> np.ndarray:
    """Return decision values or probabilities of shape (documents, classes).

    The texts are counted in chunks, so that memory does not grow with the number of their n-grams.
    """
    features, classifier = trained.model[:-1], trained.model[-1]
    scores = np.empty((len(texts), len(trained.names)))
    for start in range(0, len(texts), CHUNK):
        matrix = features.transform(texts[start : start + CHUNK])
        values = decision_values(classifier, matrix, len(trained.names))
        if trained.has_probabilities:
            values = to_probabilities(values, trained)
        scores[start : start + CHUNK] = values
    return scores


def measure(labels: np.ndarray, scores: np.ndarray, trained: Trained) -> dict[str, float]:
    """Return the metrics of scores of shape (documents, classes)."""
    predictions = predict_labels(scores, trained.problem_type, trained.thresholds)
    # ADAPT: metrics. A dictionary of numbers; the settings are chosen by f1.
    return compute_scores(
        labels,
        predictions,
        scores,
        trained.names,
        trained.problem_type,
        trained.has_probabilities,
    )


def search(
    train: pd.DataFrame,
    validation: pd.DataFrame,
    names: list[str],
    problem_type: str,
    arguments: BaselineArguments,
) -> tuple[Trained, list[dict]]:
    """Fit every setting; return the model with the best macro F1 on validation, and all metrics.

    The texts are counted once per n-gram length and weighted once per setting, not once per C.
    Among equals the first setting wins: shorter n-grams, raw counts, smaller C. With --threshold
    auto, every setting is measured with the thresholds that suit it.
    """
    # Counted before the bar starts: a message about words must be on a line of its own.
    counted = []
    for ngram_max in sorted(arguments.ngram_max):
        counter, train_counts = count_words(ngram_max, arguments.min_df, train["text"])
        counted.append((ngram_max, counter, train_counts))
    train_labels = label_array(train["label"], len(names), problem_type)
    labels = label_array(validation["label"], len(names), problem_type)
    best = None
    best_f1 = -1.0
    rows = []
    total = len(arguments.ngram_max) * len(arguments.sublinear_tf) * len(arguments.C)
    bar = tqdm(total=total, desc="settings", disable=arguments.disable_tqdm)
    for ngram_max, counter, train_counts in counted:
        validation_counts = counter.transform(validation["text"])
        for sublinear_tf in sorted(arguments.sublinear_tf):
            tfidf = TfidfTransformer(sublinear_tf=bool(sublinear_tf))
            train_matrix = tfidf.fit_transform(train_counts)
            validation_matrix = tfidf.transform(validation_counts)
            for C in sorted(arguments.C):
                start = time.perf_counter()
                svm = make_classifier(C, arguments)
                if problem_type == MULTI_LABEL:
                    svm = OneVsRestClassifier(svm)  # one for each class
                model = Pipeline([("counts", counter), ("tfidf", tfidf), ("svm", svm)])
                trained = Trained(model, names, problem_type)
                svm.fit(train_matrix, train_labels)
                scores = decision_values(svm, validation_matrix, len(names))
                trained.thresholds = find_thresholds(labels, scores, trained, arguments)
                metrics = measure(labels, scores, trained)
                row = {"ngram_max": ngram_max, "sublinear_tf": bool(sublinear_tf), "C": C}
                for key, value in metrics.items():
                    row[f"eval_{key}"] = value
                row["train_runtime"] = round(time.perf_counter() - start, 3)
                rows.append(row)
                if metrics["f1"] > best_f1:
                    best_f1 = metrics["f1"]
                    best = trained
                bar.set_postfix(best_f1=f"{best_f1:.4f}")
                bar.update()
    bar.close()
    return best, rows


def find_thresholds(
    labels: np.ndarray, scores: np.ndarray, trained: Trained, arguments: BaselineArguments
) -> list[float] | None:
    """Return the thresholds of several labels: for decision values, or for probabilities."""
    if trained.problem_type != MULTI_LABEL:
        return None
    default = 0.5 if trained.has_probabilities else 0.0
    if arguments.threshold == "auto":
        return choose_thresholds(labels, scores, default)
    if arguments.threshold is not None and trained.has_probabilities:
        default = read_threshold(arguments.threshold)
    return [default] * len(trained.names)


def check_calibration(labels: np.ndarray, trained_labels: np.ndarray, names: list[str]) -> None:
    """Exit with status 2 unless validation has what --calibrate requires.

    That is a document of every trained class, and with several labels also one without it.
    """
    for number, name in enumerate(names):
        if labels.ndim == 2:
            is_usable = 0 < labels[:, number].sum() < len(labels)
            required = "documents with and without the label"
        else:
            is_usable = number in labels or number not in trained_labels
            required = "a document of class"
        if not is_usable:
            fail(f"--calibrate requires {required} {name!r} in the validation split; leave it out")


def calibrate(trained: Trained, validation: pd.DataFrame) -> None:
    """Fit a sigmoid per class to the decision values of the validation split (Platt scaling).

    The model stays as it is, and the two numbers of every sigmoid are kept in the record:
    scikit-learn's calibrated classifier is of types that skops does not trust.
    """
    features, classifier = trained.model[:-1], trained.model[-1]
    matrix = features.transform(validation["text"])
    labels = label_array(validation["label"], len(trained.names), trained.problem_type)
    # A class without training documents has the decision value -inf and the probability 0.
    trained.slopes = [-1.0] * len(trained.names)
    trained.intercepts = [0.0] * len(trained.names)
    if trained.problem_type == MULTI_LABEL:
        for number, estimator in enumerate(classifier.estimators_):
            (sigmoid,) = fit_sigmoids(estimator, matrix, labels[:, number])
            trained.slopes[number] = float(sigmoid.a_)
            trained.intercepts[number] = float(sigmoid.b_)
        return
    sigmoids = fit_sigmoids(classifier, matrix, labels)
    if len(sigmoids) == 1:  # two classes: that of the second; the first has the opposite values
        (sigmoid,) = sigmoids
        trained_classes = classifier.classes_
        trained.slopes[trained_classes[1]] = trained.slopes[trained_classes[0]] = float(sigmoid.a_)
        trained.intercepts[trained_classes[1]] = float(sigmoid.b_)
        trained.intercepts[trained_classes[0]] = -float(sigmoid.b_)
        return
    for number, sigmoid in zip(classifier.classes_, sigmoids, strict=True):
        trained.slopes[number] = float(sigmoid.a_)
        trained.intercepts[number] = float(sigmoid.b_)


def fit_sigmoids(classifier: LinearSVC, matrix: object, labels: np.ndarray) -> list:
    """Return the fitted sigmoids, with a_ and b_, of a classifier that stays as it is."""
    rows = np.arange(len(labels))
    # Nothing is trained, so that the same documents may be fitted and predicted.
    calibrated = CalibratedClassifierCV(FrozenEstimator(classifier), cv=[(rows, rows)])
    return calibrated.fit(matrix, labels).calibrated_classifiers_[0].calibrators


def predictions_table(
    documents: pd.DataFrame, scores: np.ndarray, trained: Trained
) -> pd.DataFrame:
    """Return the rows of predictions.csv: id, label, prediction and a score per class.

    Texts without labels have no label. With several labels, both are JSON lists.
    """
    predictions = predict_labels(scores, trained.problem_type, trained.thresholds)
    columns = {"id": documents["id"]}
    if "label" in documents:
        labels = label_array(documents["label"], len(trained.names), trained.problem_type)
        columns["label"] = show_labels(labels, trained.names)
    columns["prediction"] = show_labels(predictions, trained.names)
    # Put together, not assigned: a class may be called label.
    values = pd.DataFrame(scores, columns=trained.names)
    return pd.concat([pd.DataFrame(columns), values], axis=1)


def show_labels(labels: np.ndarray, names: list[str]) -> list[str]:
    """Return what predictions.csv shows of numbers, or of rows of 0 and 1: a JSON list."""
    if labels.ndim == 1:
        return [names[number] for number in labels]
    return [
        json.dumps([names[number] for number in np.flatnonzero(row)], ensure_ascii=False)
        for row in labels
    ]


def warn_if_never_predicted(labels: np.ndarray, predictions: np.ndarray, names: list[str]) -> None:
    """Warn about classes that occur and are never predicted: the model has not learned them."""
    missing = []
    for number, name in enumerate(names):
        occurs, is_predicted = (
            array[:, number].any() if array.ndim == 2 else (array == number).any()
            for array in (labels, predictions)
        )
        if occurs and not is_predicted:
            missing.append(name)
    if missing:
        logger.warning(
            "never predicted: %s, so accuracy says little; give more documents of these classes, "
            "larger values of --C or --class_weight balanced",
            quote_names(missing),
        )


def class_coefficients(classifier: LinearSVC | OneVsRestClassifier) -> np.ndarray:
    """Return the coefficients of the n-grams, of shape (trained classes, n-grams)."""
    if isinstance(classifier, OneVsRestClassifier):
        return np.vstack([estimator.coef_ for estimator in classifier.estimators_])
    weights = classifier.coef_
    return np.vstack([-weights, weights]) if len(weights) == 1 else weights


def top_words(model: Pipeline, names: list[str], n: int = 20) -> pd.DataFrame:
    """Return the n n-grams with the largest coefficient of each class.

    Columns: class, rank, word, coefficient.
    """
    words = model["counts"].get_feature_names_out()
    weights = class_coefficients(model["svm"])
    # The SVM has the classes that occur in training, in the order of their numbers.
    rows = []
    for label, weight in zip(model["svm"].classes_, weights, strict=True):
        best = np.argsort(-weight, kind="stable")[:n]
        for rank, feature in enumerate(best, start=1):
            rows.append((names[label], rank, words[feature], weight[feature]))
    return pd.DataFrame(rows, columns=["class", "rank", "word", "coefficient"])


def plot_top_words(table: pd.DataFrame) -> plt.Figure:
    """Plot the words of each class in a panel of its own, the largest coefficient on top.

    Of many classes, the first MAX_DRAWN_CLASSES are plotted.
    """
    groups = list(table.groupby("class", sort=False))
    drawn = groups[:MAX_DRAWN_CLASSES]
    n_columns = min(6, len(drawn))
    n_rows = math.ceil(len(drawn) / n_columns)
    figure, panels = plt.subplots(
        n_rows, n_columns, figsize=(2.6 * n_columns, 5 * n_rows), sharex=True, squeeze=False
    )
    for axes in panels.flat[len(drawn) :]:
        axes.set_axis_off()
    for axes, (name, rows) in zip(panels.flat, drawn, strict=False):
        # A $ in a word or a name does not start a formula.
        words = [word.replace("$", r"\$") for word in rows["word"]]
        axes.barh(words, rows["coefficient"], color="#1b7837")
        axes.invert_yaxis()
        axes.set_title(name.replace("$", r"\$"))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    label = "SVM coefficient"
    if len(groups) > len(drawn):
        label += f" (the first {len(drawn)} of {len(groups):,} classes; top_words.csv has all)"
    figure.supxlabel(label)
    figure.tight_layout()
    return figure


# 3. Texts and labels: dataset folders, Hub datasets and own files, checked row by row
#
# All scripts read data in the same way; the source of these functions is tools/common/data.py.


# Copied from tools/common/data.py::LOAD_ERRORS
LOAD_ERRORS = (OSError, ValueError, DatasetsError, httpx.HTTPError)


# Copied from tools/common/data.py::LoadedData
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


# Copied from tools/common/data.py::load_splits
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


# Copied from tools/common/data.py::check_data_arguments
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


# Copied from tools/common/data.py::check_file_flags
def check_file_flags(arguments: DataArguments, files: Collection[str]) -> None:
    """Exit with status 2 on --csv_delimiter or --json_field without a file of that kind."""
    kinds = {"csv_delimiter": (".csv", ".tsv"), "json_field": (".json", ".jsonl")}
    for flag, suffixes in kinds.items():
        if getattr(arguments, flag) is None:
            continue
        if not any(file.lower().endswith(suffixes) for file in files):
            fail(f"--{flag} requires a {' or '.join(suffixes)} file; leave it out")


# Copied from tools/common/data.py::data_files
def data_files(arguments: DataArguments) -> dict[str, str]:
    """Return the files that were given: split -> path."""
    files = {split: getattr(arguments, f"{split}_file") for split in SPLITS}
    return {split: file for split, file in files.items() if file}


# Copied from tools/common/data.py::read_tables
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


# Copied from tools/common/data.py::name_splits
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


# Copied from tools/common/data.py::load_hub_dataset
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


# Copied from tools/common/data.py::class_names_agree
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


# Copied from tools/common/data.py::read_each_file
def read_each_file(files: dict[str, list[str]]) -> DatasetDict:
    """Return splits with the ClassLabels of their own Parquet files.

    Raises ValueError if those of one split differ.
    """
    splits = DatasetDict()
    for split, paths in files.items():
        splits[str(split)] = concatenate_datasets([Dataset.from_parquet(path) for path in paths])
    return splits


# Copied from tools/common/data.py::dataset_commit
def dataset_commit(dataset: Dataset) -> str | None:
    """Return the commit of the Hub dataset that a split is of; None for a local folder."""
    files = dataset.cache_files
    match = re.search(r"/([0-9a-f]{40})/[^/]+$", files[0]["filename"]) if files else None
    return match and match[1]


# Copied from tools/common/data.py::to_table
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


# Copied from tools/common/data.py::name_of
def name_of(number: float | None, names: list[str]) -> str | None:
    """Return the name with a number; None, NaN, -1 and numbers that are too large have none."""
    if is_missing(number) or not 0 <= number < len(names):
        return None
    return names[int(number)]


# Copied from tools/common/data.py::FILE_TYPES
FILE_TYPES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


# Copied from tools/common/data.py::read_file
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


# Copied from tools/common/data.py::read_parquet
def read_parquet(file: str) -> pd.DataFrame:
    """Read a Parquet file of datasets, with its ClassLabels, of pandas or of others."""
    table = pyarrow.parquet.read_table(file)
    written_by_datasets = b"huggingface" in (table.schema.metadata or {})
    features = Features.from_arrow_schema(table.schema) if written_by_datasets else Features()
    # Without pandas' own metadata, an index named id stays the column that it is in the file.
    return to_table(table.to_pandas(ignore_metadata=True), features)


# Copied from tools/common/data.py::read_csv
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


# Copied from tools/common/data.py::read_json
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


# Copied from tools/common/data.py::to_record
def to_record(pairs: list[tuple[str, object]]) -> dict:
    """Return an object of a JSON file. Raises ValueError if one of its values would be lost."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has {doubled!r} more than once")
    return record


# Copied from tools/common/data.py::check_columns
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


# Copied from tools/common/data.py::find_labels
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


# Copied from tools/common/data.py::is_list
def is_list(value: object) -> bool:
    """Return whether a value of a table is a list; Parquet files have them as arrays."""
    return isinstance(value, list | np.ndarray)


# Copied from tools/common/data.py::find_problem_type
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


# Copied from tools/common/data.py::find_order
def find_order(frames: dict[str, pd.DataFrame], labels: dict[str, pd.Series]) -> list[str] | None:
    """Return the classes in the order that the first split with one defines, or None."""
    for split, values in labels.items():
        if isinstance(values.dtype, pd.CategoricalDtype):
            return [str(name) for name in values.cat.categories]
        if values.name in frames[split].attrs:
            return frames[split].attrs[values.name]
    return None


# Copied from tools/common/data.py::check_rows
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


# Copied from tools/common/data.py::read_labels
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


# Copied from tools/common/data.py::is_written_list
def is_written_list(text: str) -> bool:
    """Return whether a text is the print of a list, such as ['a', 'b']."""
    return text.startswith("[") and text.endswith("]")


# Copied from tools/common/data.py::each_name
def each_name(labels: Iterable[str | list[str] | None]) -> list[str]:
    """Return the labels of all documents, one after another; lists are taken apart."""
    names = []
    for label in labels:
        if isinstance(label, list):
            names.extend(label)
        elif label is not None:
            names.append(label)
    return names


# Copied from tools/common/data.py::is_missing
def is_missing(value: object) -> bool:
    """Return whether a value of a table is None, NaN, NaT or a text of white space alone."""
    if isinstance(value, str):
        return not value.strip()
    return pd.api.types.is_scalar(value) and bool(pd.isna(value))


# Copied from tools/common/data.py::join_texts
def join_texts(texts: Iterable, delimiter: str) -> str:
    """Join the columns of a row; an empty column beside a full one leaves no delimiter."""
    return delimiter.join(text for text in texts if not is_missing(text))


# Copied from tools/common/data.py::check_texts
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


# Copied from tools/common/data.py::check_labels
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


# Copied from tools/common/data.py::match_labels
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


# Copied from tools/common/data.py::rename
def rename(label: str | list[str], renamed: dict[str, str]) -> str | list[str]:
    """Return a label, or each label of a list, by its other name."""
    if isinstance(label, list):
        return [renamed[name] for name in label]
    return renamed[label]


# Copied from tools/common/data.py::keep_classes
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


# Copied from tools/common/data.py::visible_text
def visible_text(name: str) -> str:
    """Return what is seen of a name, with accents in one form and single spaces."""
    name = unicodedata.normalize("NFC", name)
    name = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    return " ".join(name.split())


# Copied from tools/common/data.py::name_numbers
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


# Copied from tools/common/data.py::quote_names
def quote_names(names: Collection[str]) -> str:
    """Return at most six names in quotes, so that spaces are seen."""
    shown = ", ".join(map(repr, sorted(names)[:6]))
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 6 else shown


# Copied from tools/common/data.py::take_from_training
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


# Copied from tools/common/data.py::draw_stratified
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


# Copied from tools/common/data.py::check_classes
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


# Copied from tools/common/data.py::normalize_text
def normalize_text(text: str) -> str:
    """Return a text without differences of white space and case."""
    return " ".join(text.split()).casefold()


# Copied from tools/common/data.py::warn_about_leaks
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


# Copied from tools/common/data.py::fingerprint
def fingerprint(table: pd.DataFrame) -> str:
    """Return 16 digits of the SHA-256 of the ids, texts and class names of a split, in order."""
    digest = hashlib.sha256()
    columns = [table[column].tolist() for column in ("id", "text", "label") if column in table]
    for row in zip(*columns, strict=True):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()[:16]


# 4. Bookkeeping: files, pictures, the record, the model card, the Hub


# Copied from tools/common/folders.py::write_temporary
def write_temporary(path: Path, content: str | bytes) -> Path:
    """Write a file under its temporary name and return that; a failed write leaves no file."""
    temporary = path.with_name(path.name + ".tmp")
    if temporary.is_symlink():  # writing would change the file that the link leads to
        temporary.unlink()
    try:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    except OSError:
        temporary.unlink(missing_ok=True)  # half a file takes space on a full disk
        raise
    return temporary


# Copied from tools/common/folders.py::write
def write(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it: readers see the old or the new file."""
    os.replace(write_temporary(path, content), path)


# Copied from tools/common/folders.py::is_record
def is_record(path: Path, script: str) -> bool:
    """Return whether a file is a JSON object that names the script that wrote its folder."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("script") == script


# Copied from tools/common/folders.py::open_output_dir
def open_output_dir(
    folder: Path, script: str, records: Collection[str], own_files: str | None = None
) -> None:
    """Make an output folder, or check that an existing one is this script's; change nothing in it.

    records are paths of files inside the folder. Unless the folder is empty, one of them at least
    must be a JSON object with ``"script": script``. own_files is a regular expression for the paths
    of the script's files inside the folder, such as ``data/train.parquet``; with it, a folder with
    any other file is refused. Temporary files (``*.tmp``) of these are the script's own, too.

    Exits with status 2 if the folder cannot be written or is not the script's.
    """
    # A record that was being written first when the script was stopped is nothing yet.
    unfinished = "|".join(re.escape(name) + r"\.tmp" for name in records)
    try:
        if folder.exists() and not folder.is_dir():
            fail(f"--output_dir {folder} is a file; choose a folder")
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = find_foreign_file(folder, unfinished) is None
        foreign = find_foreign_file(folder, own_files) if own_files is not None else None
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}")
    if foreign is not None:
        fail(
            f"--output_dir {folder} holds {foreign!r}, which {script} did not write; "
            "choose another folder"
        )
    if not is_empty and not any(is_record(folder / name, script) for name in records):
        fail(
            f"--output_dir {folder} is not empty and holds no {' or '.join(records)} of {script}; "
            "choose another folder"
        )
    if not os.access(folder, os.W_OK):
        fail(f"cannot write into --output_dir {folder}: it is read-only")


# Copied from tools/common/folders.py::check_names
def check_names(arguments: object) -> None:
    """Exit with status 2 if a text on the command line is not UTF-8: no file could record it."""
    for flag, value in vars(arguments).items():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                continue
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                fail(f"--{flag} {text!a} is not UTF-8; rename it")


# Copied from tools/common/folders.py::find_foreign_file
def find_foreign_file(folder: Path, own_files: str) -> str | None:
    """Return the path inside the folder of a file that does not match own_files, or None.

    Folders do not count. A symbolic link counts as a file and is not followed.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        if not re.fullmatch(rf"({own_files})(\.tmp)?", name):
            return name
    return None


# Copied from tools/common/folders.py::locked_folder
@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes of a script out of its output folder until the block ends.

    The lock is the folder's own, not a file; it ends with the process, however that ends.
    Exits with status 2 if another process has it.
    """
    handles = [os.open(folder, os.O_RDONLY)]

    def close() -> None:
        while handles:
            os.close(handles.pop())

    # A process that was forked from this one would keep the lock when this one is killed.
    os.register_at_fork(after_in_child=close)
    try:
        fcntl.flock(handles[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        close()
        fail(f"another process is writing into {folder}; wait until it has finished")
    except OSError:
        pass  # some network file systems have no locks
    try:
        yield
    finally:
        close()


# Copied from tools/common/text.py::escape_markdown
def escape_markdown(text: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|#$~])", r"\\\1", html.escape(line, quote=False))


NOT_UPLOADED = ["checkpoint-*", "*.tmp", "*.bin", "_*"]


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Save and close a figure. The file holds no date, so the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    write(path, buffer.getvalue())


def plot_confusion_matrix(table: pd.DataFrame, names: list[str]) -> plt.Figure:
    """Plot the confusion matrix of predictions.csv: counts, in the color of the class's share."""
    counts = confusion_matrix(table["label"], table["prediction"], labels=names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Memory and time grow with the square of the size, so it has a limit.
    size = min(len(names), MAX_DRAWN_CLASSES)
    figure, axes = plt.subplots(figsize=(1.1 * size + 1.5, size + 1))
    # A $ in a name does not start a formula.
    shown = [name.replace("$", r"\$") for name in names]
    display = ConfusionMatrixDisplay(shares, display_labels=shown)
    is_small = len(names) <= MAX_DRAWN_CLASSES
    display.plot(ax=axes, include_values=is_small, cmap="Blues", im_kw={"vmin": 0, "vmax": 1})
    display.im_.colorbar.set_label("Share of the true class")
    if is_small:
        for cell, count in zip(display.text_.flat, counts.flat, strict=True):
            cell.set_text(f"{count:,}")
    else:  # counts and names would not be readable
        order = f"{len(names):,} classes, in the order of the card"
        axes.set(xticks=[], yticks=[], xlabel=f"Predicted: {order}", ylabel=f"True: {order}")
    return figure


# Copied from run_classification.py::encode_names
def encode_names(column: pd.Series, names: list[str], problem_type: str) -> np.ndarray:
    """Return a column label or prediction of predictions.csv as numbers (see compute_scores)."""
    number = {name: index for index, name in enumerate(names)}
    if problem_type != MULTI_LABEL:
        return column.map(number).to_numpy()
    has_class = np.zeros((len(column), len(names)), dtype=int)
    for row, text in enumerate(column):
        for name in json.loads(text):
            has_class[row, number[name]] = 1
    return has_class


# Copied from run_classification.py::plot_class_curves
def plot_class_curves(
    labels: np.ndarray, scores: np.ndarray, names: list[str], thresholds: list[float]
) -> plt.Figure:
    """Plot precision over recall of every class, with a dot at its threshold.

    labels and scores are (documents, classes). Of many classes, the first MAX_DRAWN_CLASSES are
    plotted.
    """
    drawn = names[:MAX_DRAWN_CLASSES]
    n_columns = min(4, len(drawn))
    n_rows = math.ceil(len(drawn) / n_columns)
    figure, grid = plt.subplots(
        n_rows, n_columns, figsize=(3 * n_columns, 3 * n_rows), squeeze=False, layout="constrained"
    )
    for number, axes in enumerate(grid.flat):
        if number >= len(drawn):
            axes.set_axis_off()
            continue
        truth = labels[:, number]
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        # A $ in a name does not start a formula.
        title = names[number].replace("$", r"\$")
        if not truth.any():
            axes.set_title(f"{title}: no documents", fontsize=9)
            continue
        PrecisionRecallDisplay.from_predictions(truth, scores[:, number], ax=axes)
        axes.get_legend().remove()
        axes.set(xlabel="recall", ylabel="precision")
        axes.set_title(f"{title}: {truth.sum():,} documents", fontsize=9)
        predicted = scores[:, number] >= thresholds[number]
        if predicted.any():
            right = (truth[predicted] == 1).sum()
            axes.plot(right / truth.sum(), right / predicted.sum(), "o", color="C1")
    if len(names) > len(drawn):
        figure.suptitle(f"The first {len(drawn)} of {len(names):,} classes")
    return figure


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a large table as write() does, without a copy of the whole file in memory."""
    temporary = path.with_name(path.name + ".tmp")
    if temporary.is_symlink():
        temporary.unlink()
    table.to_csv(temporary, index=False, float_format="%.6f")
    os.replace(temporary, path)


# Copied from tools/common/folders.py::public_name
def public_name(source: str) -> str:
    """Return a Hub id as it is and of a local path its last part: it may be published."""
    if Path(source).exists() or source.count("/") != 1:
        return os.path.basename(os.path.abspath(source))
    return source


def write_card(folder: Path, title: str, record: dict, results: dict, text: str) -> None:
    """Write README.md: metadata with a model-index, the metrics of the test split, and the text.

    Without metrics of the test split, those of the validation split stand there.
    """
    dataset = public_name(record["dataset_name"])
    split, prefix = "validation", "eval"
    if "predict_accuracy" in results:
        split, prefix = "test", "predict"
    names = {}
    measured = {}
    for key in METRICS:
        if f"{prefix}_{key}" in results:
            names[key] = metric_name(key, record["problem_type"])
            measured[key] = round(results[f"{prefix}_{key}"], 4)
    data = ModelCardData(
        library_name="sklearn",
        pipeline_tag="text-classification",
        tags=["text-classification", "skops"],
        model_name=title,
        datasets=[dataset] if "/" in dataset else None,
        eval_results=[
            EvalResult(
                task_type="text-classification",
                task_name="Text classification",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=split,
                dataset_revision=record["dataset_commit"],
                metric_type=key,
                metric_name=names[key],
                metric_value=value,
            )
            for key, value in measured.items()
        ]
        or None,  # without metrics there is no model-index
    )
    lines = [f"---\n{data.to_yaml()}\n---\n", f"# {escape_markdown(title)}\n"]
    if measured:
        lines.append(f"| {results.get(f'{prefix}_samples')} {split} documents | |")
        lines.append("|---|---:|")
        lines += [
            f"| {names[key]} | {metric_text(key, value)} |" for key, value in measured.items()
        ]
    write(folder / "README.md", "\n".join([*lines, "", text, ""]))


def name_with_owner(repo_id: str) -> str:
    """Return the whole name of a repository: without an owner, it is that of who is logged in.

    Where the Hub cannot be asked, the name stays as it is, and the push says why.
    """
    if "/" in repo_id:
        return repo_id
    try:
        return f"{HfApi().whoami()['name']}/{repo_id}"
    except (OSError, ValueError, httpx.HTTPError):
        return repo_id


def push_folder(
    folder: Path, repo_id: str, private: bool | None, revision: str | None = None
) -> None:
    """Upload a run folder to the Hub. If that fails, exit with status 2 and name the command."""
    try:
        api = HfApi()
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message="End of training",
            ignore_patterns=NOT_UPLOADED,
            # A pickle that the Trainer uploads during training is deleted.
            delete_patterns=["training_args.bin"],
            revision=revision,
        )
    except (OSError, ValueError, httpx.HTTPError) as error:
        words = ["hf", "upload", repo_id, str(folder), "."]
        for pattern in NOT_UPLOADED:
            words += ["--exclude", pattern]
        if private:
            words.append("--private")
        if revision:
            words += ["--revision", revision]
        fail(
            f"{folder} is complete but could not be pushed ({one_line(error)}); "
            f"to try again: {shlex.join(words)}"
        )
    logger.info("pushed to %s", repo_id)


def run_record(
    arguments: BaselineArguments, data_arguments: DataArguments, data: LoadedData, labels: list[str]
) -> dict:
    """Return what identifies a run, its versions, and what predicting with it has to know."""
    recorded = asdict(arguments) | asdict(data_arguments)
    # A record may be published: no path of this machine.
    paths = ("output_dir", "model_name_or_path", "dataset_name")
    for key in (*paths, "train_file", "validation_file", "test_file"):
        if recorded[key] is not None:
            recorded[key] = public_name(recorded[key])
    versions = {"python": sys.version.split()[0]}
    for package in ("scikit-learn", "skops", "datasets", "numpy", "scipy"):
        versions[package] = version(package)
    return {
        "script": SCRIPT,
        "model_name_or_path": recorded["model_name_or_path"] or "TF-IDF + linear SVM",
        "dataset_name": recorded["dataset_name"] or recorded["train_file"] or recorded["test_file"],
        "dataset_commit": data.commit,
        "data_fingerprints": data.fingerprints,
        "dropped_rows": data.dropped,
        "labels": labels,
        "problem_type": data.problem_type,
        # Documents of every class; None: without labels
        "class_counts": {
            split: count_classes(dataset, data.labels) for split, dataset in data.splits.items()
        },
        "seed": arguments.seed,
        "arguments": recorded,
        "versions": versions,
    }


# Copied from run_classification.py::count_classes
def count_classes(split: Dataset, names: list[str]) -> dict[str, int] | None:
    """Return how many documents of a split have each class; None if it has no labels."""
    if "label" not in split.column_names:
        return None
    numbers = []
    for label in split["label"]:
        numbers += label if isinstance(label, list) else [label]
    counts = np.bincount(np.array(numbers, dtype=int), minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))


def is_finished(
    folder: Path, record: dict, arguments: BaselineArguments, data_arguments: DataArguments
) -> bool:
    """Return whether the folder holds this run, complete. Exit with status 2 on another one."""
    if not (folder / RUN_FILE).exists():
        return False
    before = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    recorded = before.get("arguments")
    if not isinstance(recorded, dict):
        fail(f"{folder / RUN_FILE} is damaged; choose another --output_dir or delete the folder")
    for key, value in record["arguments"].items():
        if key in NOT_IDENTIFYING:
            continue
        # A run of an earlier version of this script lacks flags, which had no effect then.
        holder = arguments if hasattr(arguments, key) else data_arguments
        value_before = recorded.get(key, value_if_not_given(holder, key))
        if value_before != value:
            fail(
                f"{folder} holds a run with --{key} {value_before}, not {value}; "
                "choose another --output_dir or delete the folder"
            )
    for key in ("labels", "data_fingerprints"):
        if before.get(key) != record[key]:
            fail(
                f"{folder} holds a run on other data ({key} differ); "
                "choose another --output_dir or delete the folder"
            )
    model = record.get("model_fingerprint")
    if before.get("model_fingerprint", model) != model:
        fail(
            f"{folder} holds predictions of another model {before['model_name_or_path']} (its "
            "model.skops differs); choose another --output_dir or delete the folder"
        )
    return (folder / "README.md").exists()  # the card is written last


def record_of_model(trained: Trained) -> dict:
    """Return what a record says about the scores, and what makes them of decision values."""
    record = {"scores": "probabilities" if trained.has_probabilities else "decision values"}
    if trained.thresholds is not None:
        record["thresholds"] = trained.thresholds
    if trained.has_probabilities:
        record["calibration"] = {"slopes": trained.slopes, "intercepts": trained.intercepts}
    return record


def read_run(source: str) -> tuple[Trained, dict]:
    """Return the model of a finished run, and its record. Exit with status 2 if it is none."""
    folder = Path(source)
    if not is_record(folder / RUN_FILE, SCRIPT):
        fail(f"--model_name_or_path {source} is no run folder of {SCRIPT}; choose another")
    record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    if not (folder / "model.skops").exists() or not (folder / "README.md").exists():
        fail(f"--model_name_or_path {source} is not finished; run its command again")
    try:
        model = skops.io.load(folder / "model.skops")
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        fail(f"cannot load {folder / 'model.skops'}: {one_line(error)}")
    calibration = record.get("calibration", {})
    trained = Trained(
        model,
        record["labels"],
        record.get("problem_type", SINGLE_LABEL),
        record.get("thresholds"),
        calibration.get("slopes"),
        calibration.get("intercepts"),
    )
    return trained, record


def write_results(folder: Path, **results: dict) -> None:
    """Write each of train, eval, predict as <name>_results.json, and all as all_results.json."""
    union = {key: value for result in results.values() for key, value in result.items()}
    # predict_results.json comes last: shell scripts take it for "finished".
    for name, result in {"all": union, **results}.items():
        write(folder / f"{name}_results.json", json.dumps(result, indent=2, sort_keys=True) + "\n")


def describe_predictions(
    folder: Path, record: dict, results: dict
) -> tuple[str, pd.DataFrame | None]:
    """Draw the picture of predictions.csv; return what the card says of it, and its table.

    The table is None without labels.
    """
    if "predict_samples" not in results:
        return "There was no test split.", None
    n_documents = f"{results['predict_samples']:,}"
    text = f"`predictions.csv` has the {record['scores']} of every test document."
    if "predict_accuracy" not in results:
        return (
            f"{text} The {n_documents} test documents have no labels, so nothing was measured "
            "on them.",
            None,
        )
    names = record["labels"]
    if record["problem_type"] == MULTI_LABEL:
        table = pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False)
        figure = plot_class_curves(
            encode_names(table.iloc[:, 1], names, MULTI_LABEL),
            table.iloc[:, 3:].astype(float).to_numpy(),
            names,
            record["thresholds"],
        )
        save_figure(figure, folder / "class_curves.png")
        picture = "![precision and recall of every class](class_curves.png)"
        return f"{text}\n\n{picture}", table
    # The scores are not read: they may be many.
    table = pd.read_csv(
        folder / "predictions.csv", dtype=str, keep_default_na=False, usecols=[1, 2]
    )
    save_figure(plot_confusion_matrix(table, names), folder / "confusion_matrix.png")
    return f"{text}\n\n![confusion matrix](confusion_matrix.png)", table


# Copied from run_classification.py::describe_data
def describe_data(record: dict) -> str:
    """Return the dataset with its revision, and the fingerprint of every split."""
    name = f"`{public_name(record['dataset_name'])}`"
    revision = record["dataset_commit"] or record["arguments"]["dataset_revision"]
    if revision:
        name += f", revision `{revision}`"
    parts = [f"{split} {digest}" for split, digest in record["data_fingerprints"].items()]
    return f"{name}; fingerprints of the rows that were used: {', '.join(parts)}."


# Copied from tools/common/metrics.py::class_f1
def class_f1(
    labels: np.ndarray, predictions: np.ndarray, n_classes: int, problem_type: str
) -> np.ndarray:
    """Return the F1 of every class, shape (classes,); undefined values count as 0."""
    numbers = None if problem_type == MULTI_LABEL else range(n_classes)
    return f1_score(labels, predictions, labels=numbers, average=None, zero_division=0)


# Copied from run_classification.py::class_table
def class_table(record: dict, predictions: pd.DataFrame | None) -> str:
    """Return the section with the documents of every class per split and its F1 on the test split.

    It is empty if no split has labels.
    """
    names = record["labels"]
    counts = {split: count for split, count in record["class_counts"].items() if count is not None}
    columns = {}
    for split in SPLITS:
        if split in counts:
            # A dataset may lack a class of the model.
            columns[f"{split} documents"] = [f"{counts[split].get(name, 0):,}" for name in names]
    if predictions is not None and "test" in counts:
        labels, predicted = (
            encode_names(predictions[column], names, record["problem_type"])
            for column in ("label", "prediction")
        )
        f1 = class_f1(labels, predicted, len(names), record["problem_type"])
        columns["test F1"] = [metric_text("f1", value) for value in f1]
    if not columns:
        return ""
    lines = ["## Classes\n", f"| class | {' | '.join(columns)} |"]
    lines.append(f"|---|{'---:|' * len(columns)}")
    for number, name in enumerate(names):
        cells = [escape_markdown(name), *(column[number] for column in columns.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", ""])


# Copied from run_classification.py::INTENDED_USE
INTENDED_USE = """\
Intended for sorting and finding texts like the training data, in the same language. The model \
knows only these classes, so a text on another subject may also be given one of them. The metrics \
here do not show how well it does on other kinds of text or on texts of another period."""


def describe_scores(record: dict) -> str:
    """Return what the card says about thresholds and probabilities."""
    sentences = []
    if "calibration" in record:
        sentences.append(
            "Probabilities come from a sigmoid per class that was fitted to the decision values of "
            "the validation split, so those of that split look better than they are."
        )
    if "thresholds" in record:
        shown = [
            f"{escape_markdown(name)} {threshold:.3g}"
            for name, threshold in zip(record["labels"], record["thresholds"], strict=True)
        ]
        sentences.append(
            f"A text has a label if its score is at least the threshold of the class: "
            f"{', '.join(shown)}."
        )
        if record["arguments"]["threshold"] == "auto":
            sentences.append("They were chosen for the F1 of each class on the validation split.")
    return " ".join(sentences)


def usage_example(record: dict) -> str:
    """Return the card's Python example, whose answers are those of predictions.csv."""
    lines = [
        "import skops.io",
        'model = skops.io.load("model.skops")',
        f"names = {record['labels']}",
    ]
    if record["problem_type"] != MULTI_LABEL and "calibration" not in record:
        return "\n".join([*lines, 'print(names[model.predict(["A text to classify."])[0]])'])
    lines.append('values = model.decision_function(["A text to classify."])')
    if "calibration" in record:
        lines = ["import json", "import numpy as np", "from scipy.special import expit", *lines]
        lines += [
            "if values.ndim == 1:  # two classes",
            "    values = np.column_stack([-values, values])",
            'sigmoids = json.load(open("run_arguments.json"))["calibration"]',
            'scale = np.array(sigmoids["slopes"])[model["svm"].classes_]',
            'shift = np.array(sigmoids["intercepts"])[model["svm"].classes_]',
            "values = expit(-(scale * values + shift))",
        ]
        if record["problem_type"] != MULTI_LABEL:
            lines += [
                "values /= values.sum(axis=1, keepdims=True)",
                'print({names[n]: p for n, p in zip(model["svm"].classes_, values[0])})',
            ]
            return "\n".join(lines)
    lines += [
        f"thresholds = {record['thresholds']}",
        "print([name for name, value, limit in zip(names, values[0], thresholds) "
        "if value >= limit])",
    ]
    return "\n".join(lines)


def describe_run(folder: Path, model_id: str | None) -> None:
    """Draw the predictions and write the model card from the files of a complete run."""
    record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    # A run of an earlier version
    earlier = {
        "problem_type": SINGLE_LABEL,
        "scores": "decision values",
        "dataset_commit": None,
        "class_counts": {},
    }
    record = earlier | record
    dataset = record["dataset_name"]
    classes = ", ".join(map(escape_markdown, record["labels"]))
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    source = escape_markdown(dataset)
    predicted, table = describe_predictions(folder, record, results)
    several = ", any number of them per text" if record["problem_type"] == MULTI_LABEL else ""
    if not (folder / "model.skops").exists():
        base = escape_markdown(record["model_name_or_path"])
        text = f"""Predictions of {base} for texts of {source}: {classes}{several}.
{predicted} {describe_scores(record)}

{class_table(record, table)}Data: {describe_data(record)}

Versions: {versions}."""
        title = f"Predictions of {record['model_name_or_path']} for {dataset.split('/')[-1]}"
        write_card(folder, title, record, results, text)
        return
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    rows = ""
    for row in sorted(state["log_history"], key=lambda row: -row["eval_f1"]):
        rows += (
            f"| {row['ngram_max']} | {'yes' if row['sublinear_tf'] else 'no'} | {row['C']:g} | "
            f"{100 * row['eval_accuracy']:.2f} | {100 * row['eval_f1']:.2f} |\n"
        )
    accuracy = metric_name("accuracy", record["problem_type"]).lower()
    text = f"""TF-IDF and a linear SVM that classify texts of {source} into the classes \
{classes}{several}.
The validation split chose the setting. {predicted} {describe_scores(record)}

```python
{usage_example(record)}
```

{INTENDED_USE}

{class_table(record, table)}## Training

Data: {describe_data(record)}
Seed {record["seed"]}. Hardware: a CPU; training took {results["train_runtime"]:.1f} s.

| n-grams up to | sublinear tf | C | validation {accuracy} | validation macro F1 |
|---|---|---|---|---|
{rows}
Versions: {versions}."""
    title = f"TF-IDF and linear SVM on {dataset.split('/')[-1]}"
    if model_id:
        title = model_id.split("/")[-1]
    write_card(folder, title, record, results, text)


def data_flags(arguments: DataArguments) -> str:
    """Return the flags of the data as they would be typed."""
    words = []
    for argument in fields(DataArguments):
        value = getattr(arguments, argument.name)
        if value == value_if_not_given(DataArguments, argument.name):
            continue
        words.append(f"--{argument.name}")
        if value is not True:
            words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)


def predict_test_split(
    trained: Trained, documents: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the rows of predictions.csv, and predict_results.json: metrics where labels are."""
    start = time.perf_counter()
    scores = predict_scores(trained, documents["text"])
    seconds = time.perf_counter() - start
    results = {
        "predict_samples": len(documents),
        "predict_runtime": round(seconds, 4),
        "predict_samples_per_second": round(len(documents) / seconds, 3),
    }
    if "label" in documents:
        labels = label_array(documents["label"], len(trained.names), trained.problem_type)
        for key, value in measure(labels, scores, trained).items():
            results[f"predict_{key}"] = value
        logger.info(
            "predict: accuracy %.4f, macro F1 %.4f on %d documents",
            results["predict_accuracy"],
            results["predict_f1"],
            len(documents),
        )
        predictions = predict_labels(scores, trained.problem_type, trained.thresholds)
        warn_if_never_predicted(labels, predictions, trained.names)
    else:
        logger.info("predict: %d documents without labels", len(documents))
    return predictions_table(documents, scores, trained), results


def train_and_predict(
    folder: Path, arguments: BaselineArguments, data_arguments: DataArguments
) -> None:
    """Choose the setting, predict the test split and write the run folder, which is locked."""
    # 1. Texts and labels; a test split is predicted where there is one
    data = load_splits(data_arguments, ["train", "validation"], arguments.seed, optional=["test"])
    if arguments.threshold is not None and data.problem_type != MULTI_LABEL:
        fail("--threshold requires several labels per document; leave it out")
    if data_arguments.split_seed != DataArguments.split_seed and not data.held_out:
        fail("--split_seed: no split is taken from training; leave it out")
    if data_arguments.max_predict_samples is not None and "test" not in data.splits:
        fail("--max_predict_samples: there is no test split; leave it out")
    names = data.labels
    tables = {split: dataset.to_pandas() for split, dataset in data.splits.items()}
    sizes = ", ".join(f"{len(table)} {split}" for split, table in tables.items())
    logger.info("documents: %s; %d classes", sizes, len(names))
    if "test" not in tables:
        logger.warning("no test split: the model is trained and saved, nothing is predicted")

    # 2. The same run is not repeated, another one is not overwritten
    record = run_record(arguments, data_arguments, data, names)
    repo_id = arguments.hub_model_id or folder.absolute().name
    if arguments.push_to_hub:
        repo_id = name_with_owner(repo_id)
    if is_finished(folder, record, arguments, data_arguments):
        logger.info("%s is finished; delete the folder to run it again", folder)
        if arguments.push_to_hub:
            describe_run(folder, repo_id)
            push_folder(folder, repo_id, arguments.hub_private_repo)
        return

    # 3. The setting with the best macro F1 on validation
    labels = label_array(tables["validation"]["label"], len(names), data.problem_type)
    if arguments.calibrate:
        train_labels = label_array(tables["train"]["label"], len(names), data.problem_type)
        check_calibration(labels, train_labels, names)
    start = time.perf_counter()
    trained, rows = search(
        tables["train"], tables["validation"], names, data.problem_type, arguments
    )
    best = max(rows, key=lambda row: row["eval_f1"])
    logger.info(
        "chosen: n-grams up to %d, sublinear_tf=%s, C=%g",
        best["ngram_max"],
        best["sublinear_tf"],
        best["C"],
    )
    evaluated = {key: value for key, value in best.items() if key != "train_runtime"}
    if arguments.calibrate:
        calibrate(trained, tables["validation"])
    scores = predict_scores(trained, tables["validation"]["text"])
    if arguments.calibrate:
        trained.thresholds = find_thresholds(labels, scores, trained, arguments)
        metrics = measure(labels, scores, trained)
        evaluated |= {f"eval_{key}": value for key, value in metrics.items()}
    record |= record_of_model(trained)
    results = {
        "train": {
            "train_runtime": round(time.perf_counter() - start, 2),
            "train_samples": len(tables["train"]),
            "train_settings": len(rows),
            "train_features": len(trained.model["counts"].vocabulary_),
        },
        "eval": evaluated | {"eval_samples": len(tables["validation"])},
    }

    # 4. The test split, once
    predictions = None
    if "test" in tables:
        predictions, results["predict"] = predict_test_split(trained, tables["test"])
    if "label" not in tables.get("test", ()):
        predicted = predict_labels(scores, trained.problem_type, trained.thresholds)
        warn_if_never_predicted(labels, predicted, names)

    # 5. The run folder: first the record, which tells whose it is; the card comes last
    words = top_words(trained.model, names)
    state = {"best_metric": best["eval_f1"], "best_metric_name": "eval_f1", "log_history": rows}
    with disk_explained(folder):
        write(folder / RUN_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        skops.io.dump(trained.model, folder / "model.skops.tmp", compression=zipfile.ZIP_DEFLATED)
        os.replace(folder / "model.skops.tmp", folder / "model.skops")
        if predictions is not None:
            write_table(folder / "predictions.csv", predictions)
        write(folder / "top_words.csv", words.to_csv(index=False, float_format="%.6f"))
        save_figure(plot_top_words(words), folder / "top_words.png")
        write(folder / "trainer_state.json", json.dumps(state, indent=2) + "\n")
        write_results(folder, **results)
        describe_run(folder, repo_id if arguments.push_to_hub else None)

    # 6. Hub
    if arguments.push_to_hub:
        push_folder(folder, repo_id, arguments.hub_private_repo)
    logger.info(
        "next: python run_classification.py --model_name_or_path MODEL --output_dir runs/encoder "
        "--do_train --do_eval%s %s",
        " --do_predict" if "test" in tables else "",
        data_flags(data_arguments),
    )


@contextlib.contextmanager
def disk_explained(folder: Path) -> Iterator[None]:
    """Exit with status 2 and one line where a file cannot be written."""
    try:
        yield
    except OSError as error:
        fail(
            f"cannot write into {folder}: {error.strerror or one_line(error)}; "
            "free some space and run the command again"
        )


def use_settings_of_run(data_arguments: DataArguments, before: dict, trained: Trained) -> None:
    """Fill in what was not given: columns, delimiters and classes are those of the run."""
    recorded = before["arguments"]
    given_delimiter = data_arguments.text_column_delimiter
    for name in TEXT_SETTINGS:
        given = getattr(data_arguments, name)
        if given is None:
            setattr(data_arguments, name, recorded[name])
        elif given != recorded[name] and name != "label_column_name":
            logger.warning("--%s %r: the run was trained with %r", name, given, recorded[name])
    check_delimiter(given_delimiter, split_names(data_arguments.text_column_names))
    given = data_arguments.label_names
    if given is not None and set(given) != set(trained.names):
        fail(
            f"--label_names {quote_names(given)} are not the classes of the run, "
            f"{quote_names(trained.names)}; leave the flag out"
        )
    if given is None:  # they name numbers, or restrict lists, as in training
        data_arguments.label_names = recorded.get("label_names")
    # Lists in other files need no delimiter.
    file = data_arguments.test_file or ""
    if data_arguments.label_delimiter is None and file.lower().endswith((".csv", ".tsv")):
        data_arguments.label_delimiter = recorded.get("label_delimiter")


def predict_with_run(
    folder: Path, arguments: BaselineArguments, data_arguments: DataArguments
) -> None:
    """Predict a test split with the model of a finished run, without training."""
    # 1. The run, texts and their labels, if there are any
    source = arguments.model_name_or_path
    trained, before = read_run(source)
    if Path(source).resolve() == folder.resolve():
        fail(f"--output_dir {folder} is the run that predicts; choose another")
    use_settings_of_run(data_arguments, before, trained)
    data = load_splits(data_arguments, ["test"], arguments.seed)
    documents = data.splits["test"].to_pandas()
    if "label" in documents and data.problem_type != trained.problem_type:
        kinds = {SINGLE_LABEL: "one label", MULTI_LABEL: "several labels"}
        fail(
            f"the texts have {kinds[data.problem_type]} per document, and {source} predicts "
            f"{kinds[trained.problem_type]}; see --label_delimiter"
        )
    unknown = set(data.labels) - set(trained.names)
    if "label" in documents and unknown:
        fail(
            f"{source} lacks classes of the texts: {quote_names(unknown)}; write the labels as it "
            f"does, {quote_names(trained.names)}, or give these as --label_names, which names "
            "numbers and leaves out other names in lists"
        )
    if "label" in documents and data.labels != trained.names:
        numbers = [trained.names.index(name) for name in data.labels]
        if data.problem_type == MULTI_LABEL:
            documents["label"] = [[numbers[n] for n in row] for row in documents["label"]]
        else:
            documents["label"] = [numbers[n] for n in documents["label"]]
    if arguments.threshold is not None:
        if trained.problem_type != MULTI_LABEL or not trained.has_probabilities:
            fail("--threshold requires a run with several labels and --calibrate; leave it out")
        trained.thresholds = [read_threshold(arguments.threshold)] * len(trained.names)

    # 2. The same predictions are not repeated, another run is not overwritten
    record = run_record(arguments, data_arguments, data, trained.names)
    record["problem_type"] = trained.problem_type
    record["seed"] = before["seed"]  # of the training
    record["training_data_fingerprints"] = before["data_fingerprints"]
    with (Path(source) / "model.skops").open("rb") as file:
        record["model_fingerprint"] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    record |= record_of_model(trained)
    if is_finished(folder, record, arguments, data_arguments):
        logger.info("%s is finished; delete the folder to run it again", folder)
        return

    # 3. Predictions and their folder
    predictions, results = predict_test_split(trained, documents)
    with disk_explained(folder):
        write(folder / RUN_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        write_table(folder / "predictions.csv", predictions)
        write_results(folder, predict=results)
        describe_run(folder, None)
    logger.info("%d predictions are in %s", len(predictions), folder / "predictions.csv")


def main() -> None:
    # 1. Arguments and output folder
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        level=logging.INFO,
        stream=sys.stdout,
    )
    # Otherwise there is a line for every request to the Hub.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    arguments, data_arguments = parse_arguments(__doc__, BaselineArguments, RunDataArguments)
    for holder in (arguments, data_arguments):
        check_names(holder)
    check_arguments(arguments, data_arguments)
    folder = Path(arguments.output_dir)
    open_output_dir(folder, SCRIPT, [RUN_FILE])
    # 2. Predict with a finished run, or train
    with locked_folder(folder):
        if arguments.model_name_or_path is not None:
            predict_with_run(folder, arguments, data_arguments)
            return
        given_delimiter = data_arguments.text_column_delimiter
        for name, default in TEXT_SETTINGS.items():
            if getattr(data_arguments, name) is None:
                setattr(data_arguments, name, default)
        check_delimiter(given_delimiter, data_arguments.text_column_names)
        train_and_predict(folder, arguments, data_arguments)


if __name__ == "__main__":
    main()
