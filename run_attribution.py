#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "captum==0.9.0",
#     "datasets==5.2.0",
#     "filelock==4.2.12",
#     "huggingface_hub==2.4.0",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "pyarrow==26.0.1",
#     "pylatexenc==2.11",
#     "PyYAML==6.0.3",
#     "regex==2026.11.19",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
# ruff: noqa: RUF009 (HfArg is dataclasses.field)
"""Attribute a classifier's predictions to words by integrated gradients (Sundararajan et al. 2017).

The path leads from a baseline text, [CLS] PAD ... PAD [SEP], to the document, in the output of the
embedding layer. F is the logit of the target class. Each document gets the number of steps from 1
to 200 with the smallest completeness error, found with about 65 gradients instead of 20,100.
--n_steps auto gives the integral itself, also where F is rough, as on deep encoders; then, each
document states its error. --n_steps 50 runs captum. docs/step-search.md derives the search.

    python run_attribution.py --model_name_or_path runs/minilm --dataset_name data --output_dir DIR
    python run_attribution.py ... --test_file new.csv             # own texts, labeled or not
    accelerate launch --num_processes 4 run_attribution.py ...    # several GPUs, the same flags

In a notebook, the function ``attribute`` explains texts with a model and a tokenizer.

Text columns, their delimiter, the prefix and the length of the texts are those of the training: the
run folder remembers them. Writes attributions.jsonl, summary.json and a figure like the study's
figure 1 (attributions.png, attributions.tex). An interrupted run continues; a finished one only
draws its figure again.
"""

import argparse
import copy
import csv
import difflib
import errno
import functools
import hashlib
import html
import io
import itertools
import json
import logging
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

import accelerate
import datasets
import filelock
import matplotlib.colors
import numpy as np
import pandas as pd
import pyarrow.parquet
import regex
import torch
import transformers
import yaml
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from captum.attr import LayerIntegratedGradients
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    concatenate_datasets,
    load_dataset_builder,
)
from datasets.exceptions import DatasetsError
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.utils import httpx
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, Bbox
from numpy.polynomial.chebyshev import chebvander
from pylatexenc.latexencode import unicode_to_latex
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.hf_argparser import HfArg
from transformers.utils import cached_file

logger = logging.getLogger(__name__)

SCRIPT = "run_attribution.py"
SUMMARY = "summary.json"
SETTINGS = "partial/settings.json"  # what an interrupted run was asked to do
LOCK = "partial/lock"
OWN_FILES = (  # of an output folder; the page and faithfulness.json are those of tools/
    r"attributions\.(jsonl|html|png|tex)|summary\.json|faithfulness\.json"
    r"|partial/(settings\.json|lock|\d+\.jsonl)|partial-faithfulness/\w+\.jsonl"
)

METHODS = Literal[
    "gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"
]
MAX_STEPS = 1000
# Defaults of flags of the search that are refused without one, so that a given one is recognized
SEARCH_DEFAULTS = {"tolerance": 1e-5, "max_gradient_evaluations": 1000, "rough_evaluations": 280}
# Interpolation points of the search; each level contains the points of the one before.
LEVELS = (31, 61, 121, 241, 481)
# Of Kosloff and Tal-Ezer (1993); with 0, the points are Chebyshev's, which crowd at the ends.
MAP = 0.98
CHECKS = 4  # random points on which the interpolant is tested
# Factor on estimates of errors: v may have kinks, where coefficients decay more slowly.
SAFETY = 8
# Size of further coefficients relative to the last ones (docs/step-search.md, the size s_i)
ENVELOPE_FACTOR = 8
# Of the last third of the coefficients to the third before, so that the decay has a sum
LARGEST_RATIO = 0.9
# Rounding errors of sums, in standard deviations
ROUNDING_FACTOR = 4
# Coefficients below this many standard deviations are noise: 4, where the rounding of v is at the
# upper end of what was measured, 3 times the estimate.
NOISE_FACTOR = 12

# Where the path is rough, so that no level is going to resolve v:
FORECAST_LEVEL = 2  # the level of LEVELS from which on the decay may be extrapolated
FORECAST_SLACK = 100  # an extrapolated error this many times what is allowed is hopeless
PANELS_AT_ONCE = 16  # panels that are halved before the residuals are looked at again
# Of a panel's jump of v, the share that counts as its error beside its residual.
JUMP_SHARE = 0.1
NARROWEST = 1e-6  # float32 cannot halve narrower panels
LARGEST_STATED_ERROR = 0.2  # relative L1 norm, up to which attributions are said to be usable
TOP_WORDS = 3  # words without which the model is asked again
# Numbers of steps whose rules are evaluated, if the limit allows, and how many points they have.
RULES = 6
SMALLEST_RULE = 25

# What a batch may keep for the gradient, and how many numbers a layer keeps of a token, in
# multiples of the hidden size: about 20 for BERT-large (benchmarks/bench_attribution_memory.py).
# Weights have no gradient, so what only these would need is not kept.
ACTIVATION_BYTES = 4 * 2**30
FLOATS_PER_TOKEN = 20

# Of a text, at least this many characters for each token that is kept are given to the tokenizer.
# More follow while they do not suffice, but at most 64 times as many.
CHARACTERS_PER_TOKEN = 64

BASELINES = ("pad", "mask", "zero", "mean")

RED_TO_GREEN = matplotlib.colors.LinearSegmentedColormap.from_list(
    "", ["#e45854", "#ffffff", "#229e49"], 257
)
to_json = functools.partial(json.dumps, ensure_ascii=False, allow_nan=False)  # JSON knows no NaN

# A word as mathematicians write: atoms (a formula in dollars, a LaTeX command or accent, a group in
# braces, a mark of a sub- or superscript, a letter, a digit) with no space between them, or joined
# by a hyphen or an apostrophe.
BRACES = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
# Dollars are also amounts: "rose $5 to $7" is no formula. So a closing dollar that a digit follows
# does not end what begins with a digit or a blank, and one after a blank (not after "\\ ") stands
# before no word; $x $ is common in abstracts. A formula has no blank line.
IN_FORMULA = r"(?:[^$\\\n]|\\[\s\S]|\n(?!\s*\n))+"
CLOSING = r"(?:(?<!(?<!\\)\s)\$|\$(?![\w\\{(]))"
FORMULA = (
    r"\$\$(?:[^$\n]|\n(?!\s*\n))+\$\$"
    rf"|(?<!\\)\$(?:(?![\d\s]){IN_FORMULA}{CLOSING}|(?=[\d\s]){IN_FORMULA}{CLOSING}(?!\d))"
)
# In the module regex, \w holds the marks and joiners that belong to letters in Hindi, Persian and
# Hebrew, and to accents that are characters of their own; not the soft hyphen and the word joiner.
CHARACTER = r"[\w\p{N}^\u00ad\u2060]"
ATOM = (
    rf"(?:{FORMULA}|\\[A-Za-z]+\*?(?:{BRACES})*|\\['\"`^~=.](?:{BRACES}|\w)|[_^]?{BRACES}"
    rf"|{CHARACTER})"
)
# Anything else is a word of its own: a character as a reader sees it (\X), such as an emoji.
WORD = regex.compile(rf"{ATOM}+(?:(?:--?|[‐‑–'’]){ATOM}+|(?<=\d)[.,](?=\d){ATOM}+)*|(?!\s)\X")


class UserError(ValueError):
    """A mistake that the user can fix: attribute() raises it, the command line prints one line."""


# --------------------------------------------------------------------------------------------------
# Arguments
# --------------------------------------------------------------------------------------------------


@dataclass
class DataArguments:
    """Model, documents, output and figure."""

    model_name_or_path: str = HfArg(help="Run folder of run_classification.py, or a Hub id.")
    output_dir: str = HfArg(help="Folder for attributions.jsonl, .png, .tex and summary.json.")
    model_revision: str | None = HfArg(
        default=None, help="Branch, tag or commit of a model on the Hub."
    )
    dataset_name: str | None = HfArg(
        default=None, help="Dataset folder of fetch_arxiv.py, or a Hub id."
    )
    dataset_revision: str | None = HfArg(
        default=None, help="Branch, tag or commit of a dataset on the Hub."
    )
    split: str | None = HfArg(default=None, help="Split of the dataset. Default: test.")
    test_file: str | None = HfArg(
        default=None,
        help="File with the columns of the training: .csv, .tsv, .json, .jsonl or .parquet.",
    )
    csv_delimiter: str | None = HfArg(
        default=None, help=r"Separator of a CSV file, e.g. ';' or '\t'. Found by default."
    )
    json_field: str | None = HfArg(
        default=None, help="Key of the list of records in a JSON file, if it is one object."
    )
    text_column_names: list[str] | None = HfArg(
        default=None, help="Columns to join. Default: as in training."
    )
    text_column_delimiter: str | None = HfArg(
        default=None, help="Text between joined columns. Default: as in training."
    )
    label_column_name: str | None = HfArg(
        default=None, help="Column of the true classes, if there is one. Default: as in training."
    )
    label_delimiter: str | None = HfArg(
        default=None, help="Text between several classes. Default: as in training."
    )
    max_samples: int | None = HfArg(default=None, help="Use only the first documents.")
    text: list[str] | None = HfArg(default=None, help="One or more texts instead of a dataset.")
    text_file: str | None = HfArg(
        default=None, help="UTF-8 file with one text per line, instead of a dataset."
    )
    figure_ids: list[str] | None = HfArg(
        default=None, help="Documents of the figure. Default: 3 short ones."
    )
    figure_level: Literal["tokens", "words"] = HfArg(
        default="tokens", help="What the figure colors."
    )
    disable_tqdm: bool = HfArg(default=False, help="Disable the progress bar.")

    def __post_init__(self) -> None:
        sources = [self.dataset_name, self.test_file, self.text, self.text_file]
        if sources.count(None) != 3:
            raise UserError("give exactly one: --dataset_name, --test_file, --text, --text_file")
        # Flags that nothing would read
        if self.split is not None and self.dataset_name is None:
            raise UserError("--split requires --dataset_name; leave it out")
        if self.dataset_name is None and self.test_file is None:
            for name in (
                "text_column_names",
                "text_column_delimiter",
                "label_column_name",
                "label_delimiter",
            ):
                if getattr(self, name) is not None:
                    raise UserError(
                        f"--{name} requires --dataset_name or --test_file; leave it out"
                    )
        check_file_flags(self, [self.test_file] if self.test_file else [])
        if self.dataset_name is not None and self.split is None:
            self.split = "test"
        if self.max_samples is not None and self.max_samples < 1:
            raise UserError(f"--max_samples must be at least 1, not {self.max_samples}")
        if self.model_revision is not None and Path(self.model_name_or_path).is_dir():
            raise UserError(
                "--model_revision requires a name on the Hub; a local folder has no revisions"
            )
        if self.dataset_revision is not None and Path(self.dataset_name or ".").is_dir():
            raise UserError(
                "--dataset_revision requires a --dataset_name on the Hub; "
                "a local folder has no revisions"
            )


@dataclass
class AttributionArguments:
    """All that attributions of a text by a model depend on. Raises ValueError on invalid values."""

    target: str = HfArg(
        default="predicted", help="predicted, label (the true class), a class name, or all classes."
    )
    versus: str | None = HfArg(
        default=None, help="Attribute the logit of --target minus that of this class."
    )
    n_steps: str | None = HfArg(
        default=None,
        help="A number of steps for captum, or auto for the integral itself. Default: search "
        "(--n_steps_search).",
    )
    n_steps_search: list[int] | None = HfArg(
        default=None, help="Lowest and highest number of steps to search. Default: 1 200."
    )
    method: METHODS | None = HfArg(
        default=None,
        help="Quadrature rule; --n_steps auto has none. Default: gausslegendre.",
    )
    tolerance: float | None = HfArg(
        default=None,
        help="Allowed error of the search and of --n_steps auto, relative to |F(x) - F(b)|. "
        f"Default: {SEARCH_DEFAULTS['tolerance']}.",
    )
    max_gradient_evaluations: int | None = HfArg(
        default=None,
        help="Maximum number of gradients per document and class, for the search and --n_steps "
        f"auto. Default: {SEARCH_DEFAULTS['max_gradient_evaluations']}.",
    )
    rough_evaluations: int | None = HfArg(
        default=None,
        help="Maximum number of gradients for --n_steps auto where the path is too rough for "
        f"--tolerance. Default: {SEARCH_DEFAULTS['rough_evaluations']}.",
    )
    baseline: list[str] = HfArg(
        default_factory=lambda: ["pad"],
        help="pad, mask, zero or mean (of the vocabulary), in place of each token; one or several.",
    )
    text_prefix: str | None = HfArg(
        default=None, help="Put before every text. Default: as in training."
    )
    max_seq_length: int | None = HfArg(
        default=None, help="Maximum number of tokens of a text. Default: as in training, or 256."
    )
    merge_words: bool = HfArg(default=True, help="Treat $L^2$ or Kähler-Einstein as one word.")
    internal_batch_size: int | None = HfArg(
        default=None, help="Points on the path in a batch. Halved until it fits."
    )
    bf16: bool = HfArg(
        default=False, help="Compute in bfloat16: faster on a GPU, errors near 1 percent."
    )

    def __post_init__(self) -> None:
        # 1. Flags that nothing would read, and the defaults of those that are not given
        if self.n_steps == "auto" and self.method is not None:
            raise UserError(
                "--method is a rule with steps, and --n_steps auto has none; leave it out"
            )
        for name, value in SEARCH_DEFAULTS.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
            elif not self.searches:
                raise UserError(f"--{name} is for the search and --n_steps auto; leave it out")
            elif name == "rough_evaluations" and self.n_steps != "auto":
                raise UserError("--rough_evaluations is for --n_steps auto; leave it out")
        if self.method is None and self.n_steps != "auto":
            self.method = "gausslegendre"

        # 2. Ranges
        self.steps = self.parse_steps()
        if isinstance(self.baseline, str):
            self.baseline = [self.baseline]
        for name in self.baseline:
            if name not in BASELINES:
                raise UserError(f"--baseline {name} is not one of {', '.join(BASELINES)}")
        if not self.baseline or len(set(self.baseline)) < len(self.baseline):
            raise UserError(
                f"--baseline requires one or several of {', '.join(BASELINES)}, each once"
            )
        minima = {
            "max_gradient_evaluations": LEVELS[0] + CHECKS,
            "rough_evaluations": LEVELS[0] + CHECKS,
            "max_seq_length": 1,
            "internal_batch_size": 1,
        }
        for name, minimum in minima.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise UserError(f"--{name} must be at least {minimum}, not {value}")
        if not 0 < self.tolerance < 1:
            raise UserError(f"--tolerance must be between 0 and 1, not {self.tolerance}")
        if self.versus is not None:
            if self.target in ("predicted", "label", "all"):
                raise UserError("--versus requires a class as --target: --target A --versus B")
            if self.target == self.versus:
                raise UserError(
                    f"--versus requires another class than --target {self.target}: "
                    "--target A --versus B"
                )

    def parse_steps(self) -> tuple[int, ...]:
        """Return the numbers of steps to choose from; 0 stands for the integral."""
        if self.n_steps is not None and self.n_steps_search is not None:
            raise UserError("give --n_steps or --n_steps_search, not both")
        if self.n_steps == "auto":
            return (0,)
        least = 1 if self.method == "gausslegendre" else 2  # as in captum
        allowed = f"{self.method} takes {least} to {MAX_STEPS} steps"
        if self.n_steps is not None:
            number = str(self.n_steps)
            if not number.isdecimal() or not least <= int(number) <= MAX_STEPS:
                raise UserError(f"--n_steps {number}: {allowed}, or auto for the integral")
            return (int(number),)
        if self.n_steps_search is None:
            return tuple(range(least, 201))
        if len(self.n_steps_search) != 2:
            raise UserError(
                "--n_steps_search requires two numbers, the lowest and the highest, "
                f"not {self.n_steps_search}; {allowed}"
            )
        low, high = self.n_steps_search
        if not least <= low <= high <= MAX_STEPS:
            raise UserError(
                f"--n_steps_search {low} {high}: {allowed}, the lowest number comes first"
            )
        return tuple(range(low, high + 1))

    def record(self) -> dict:
        """Return the arguments as records hold them: a single baseline as its name."""
        settings = asdict(self)
        if len(self.baseline) == 1:
            settings["baseline"] = self.baseline[0]
        return settings

    @property
    def searches(self) -> bool:
        """Whether a search or the integral is asked for, not captum with a number of steps."""
        return self.n_steps in (None, "auto")


# --------------------------------------------------------------------------------------------------
# Model and documents
# --------------------------------------------------------------------------------------------------


def load_model(name: str, revision: str | None) -> tuple:
    """Return model (in float32) and tokenizer.

    Only safetensors are read, and no code in a folder runs. Raises UserError if they
    cannot be loaded, are incomplete, or a weight is not finite.
    """
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # those of transformers, of the Hub's client and of safetensors
        reason = one_line(error)
        if "ignore_mismatched_sizes" in reason:
            reason = "its weights have other sizes than its config.json says"
        if Path(name, "model.skops").exists():
            reason = "it is an SVM of run_baseline.py, which has no gradients; give an encoder"
        raise UserError(
            f"cannot load a classifier from --model_name_or_path {name}: {reason}"
        ) from error
    if loading["missing_keys"]:
        missing = examples(sorted(loading["missing_keys"]))
        raise UserError(
            f"{name} is not a trained classifier: it lacks {len(loading['missing_keys'])} weights "
            f"({missing}); fine-tune it first"
        )
    for weight, values in model.named_parameters():
        if not values.isfinite().all():
            raise UserError(
                f"the weights {weight} of {name} are not all finite (NaN or infinity); "
                "train it again"
            )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:  # as above
        raise UserError(
            f"{name} has no tokenizer; save the tokenizer next to the model: {one_line(error)}"
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers made an empty one
        raise UserError(f"{name} has no tokenizer; save the tokenizer next to the model")
    return model, tokenizer


@dataclass
class Columns:
    """The columns of a table that are read, and how a text and its classes are made of them.

    texts: joined by text_delimiter.
    label: of the true classes, which a table need not have.
    label_delimiter: between several classes in a text; None where a text is one class.
    """

    texts: list[str]
    text_delimiter: str
    label: str
    label_delimiter: str | None


def choose_columns(arguments: DataArguments, config: PretrainedConfig, recorded: dict) -> Columns:
    """Return the columns of texts and classes: those of the training, or those that are given.

    A run has those of the texts in config.json. Older runs have them in run_arguments.json only, or
    not at all; recorded are the arguments there. Raises UserError on --text_column_delimiter with
    one column of text, and on --label_delimiter if it is empty or the model chooses one class.
    """
    # 1. The texts
    trained_texts = trained_setting(config, "text_column_names", list)
    trained_delimiter = trained_setting(config, "text_column_delimiter", str)
    if trained_texts is None:
        trained_texts = recorded.get("text_column_names")
        trained_delimiter = recorded.get("text_column_delimiter")
    is_known = trained_texts is not None
    trained_texts = split_names(trained_texts or ["abstract"])
    if trained_delimiter is None:
        trained_delimiter = " "

    texts = trained_texts
    if arguments.text_column_names is not None:
        texts = split_names(arguments.text_column_names)
    elif not is_known:
        logger.info(
            "%s does not say which columns it was trained on: column 'abstract' is explained; "
            "--text_column_names changes it",
            arguments.model_name_or_path,
        )
    text_delimiter = trained_delimiter
    if arguments.text_column_delimiter is not None:
        if len(texts) == 1:
            raise UserError(
                f"--text_column_delimiter: there is one column of text, {texts[0]}, so nothing is "
                "joined; leave it out"
            )
        text_delimiter = arguments.text_column_delimiter
    if is_known:
        warn_if_not_as_trained("text_column_names", texts, trained_texts)
        if len(texts) > 1:
            warn_if_not_as_trained("text_column_delimiter", text_delimiter, trained_delimiter)

    # 2. The classes
    label = arguments.label_column_name or recorded.get("label_column_name") or "label"
    label_delimiter = arguments.label_delimiter
    if label_delimiter is None:
        label_delimiter = trained_setting(config, "label_delimiter", str)
        if label_delimiter is None:  # of a run before config.json had it
            label_delimiter = recorded.get("label_delimiter")
    elif not label_delimiter:
        raise UserError("--label_delimiter must not be empty")
    elif config.problem_type != MULTI_LABEL:
        raise UserError(
            f"--label_delimiter is for several labels per document, and "
            f"{arguments.model_name_or_path} chooses one class; leave it out"
        )
    return Columns(texts, text_delimiter, str(label), label_delimiter)


def trained_setting(config, name: str, kind: type):
    """Return what config.json says of the training; None if a run has another kind there."""
    value = getattr(config, name, None)
    return value if isinstance(value, kind) else None


# Copied from tools/common/data.py::split_names
def split_names(names: list[str] | str) -> list[str]:
    """Return the columns of --text_column_names; "title,abstract" and "title abstract" are two."""
    joined = names if isinstance(names, str) else ",".join(names)
    return [name.strip() for name in joined.split(",")]


def read_training_record(name: str, revision: str | None) -> dict:
    """Return run_arguments.json of a run, local or on the Hub, or only that it has no arguments.

    A checkpoint has that of its run, the folder above it.
    """
    unknown = {"arguments": {}}
    run = Path(name).absolute().parent
    is_checkpoint = re.fullmatch(r"checkpoint-\d+", Path(name).name) and Path(name).is_dir()
    if is_checkpoint and (run / "run_arguments.json").exists():
        name = str(run)
    path = cached_file(
        name,
        "run_arguments.json",
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return unknown
    try:
        record = dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not written by run_classification.py
        return unknown
    return record if isinstance(record.get("arguments"), dict) else unknown


def warn_if_not_as_trained(flag: str, given, trained) -> None:
    """Say that a flag makes texts other than those that the model was trained on."""
    if given is not None and trained is not None and given != trained:
        logger.warning("--%s is %r, but the model was trained with %r", flag, given, trained)


def read_texts(arguments: DataArguments) -> list[dict]:
    """Return the documents of --text or --text_file, with id, text and label (None)."""
    texts = arguments.text
    if arguments.text_file is not None:
        try:
            content = Path(arguments.text_file).read_text("utf-8-sig", "surrogateescape")
        except OSError as error:
            raise UserError(
                f"cannot read --text_file {arguments.text_file}: {error.strerror}"
            ) from error
        texts = content.rstrip("\n").split("\n")
    documents = [
        {"id": f"text-{number}", "text": text, "label": None}
        for number, text in enumerate(texts, 1)
    ]
    return documents[: arguments.max_samples]


def load_rows(arguments: DataArguments, columns: Columns) -> Dataset:
    """Return a split that has the columns of the texts.

    Raises UserError if it cannot be loaded or lacks one of them.
    """
    name = arguments.dataset_name
    splits = load_hub_dataset(name, None, arguments.dataset_revision)
    if arguments.split not in splits:
        raise UserError(f"{name} has no split {arguments.split!r}; it has {', '.join(splits)}")
    rows = splits[arguments.split]
    for column in columns.texts:
        if column not in rows.column_names:
            raise UserError(
                f"{name} has no column {column!r}, but {', '.join(rows.column_names)}; "
                "tools/prepare_dataset.py makes a dataset folder of own files"
            )
    for column in columns.texts:
        if not str(getattr(rows.features[column], "dtype", "")).endswith("string"):
            raise UserError(f"column {column!r} of {name} is not text but {rows.features[column]}")
    return rows


def read_rows(arguments: DataArguments, rows: Dataset, columns: Columns) -> pd.DataFrame:
    """Return the columns of a split that are needed: id, those of the texts, and the classes.

    Rows without ids are called test.0, test.1, ..., after the split, as in predictions.csv.
    """
    number = len(rows)
    if arguments.max_samples is not None:
        number = min(arguments.max_samples, number)
    kept = list(columns.texts)
    if "id" in rows.column_names:
        kept.append("id")
    names = None
    if columns.label in rows.column_names:
        kept.append(columns.label)
        names = class_names(rows.features[columns.label])
    frame = pd.DataFrame({column: list(rows[:number][column]) for column in kept}, dtype=object)
    if "id" not in frame.columns:
        frame["id"] = [f"{arguments.split}.{row}" for row in range(number)]
    if names is not None:
        frame[columns.label] = [name_label(value, names) for value in frame[columns.label]]
    return frame


def class_names(feature) -> list[str] | None:
    """Return the names of a ClassLabel, or of a list of them; None for other columns."""
    feature = getattr(feature, "feature", feature)
    return feature.names if isinstance(feature, ClassLabel) else None


def name_label(value, names: list[str]) -> str | list[str] | None:
    """Return the names of a number or a list of numbers of classes; -1 and None stand for none."""
    if isinstance(value, Collection):
        return [names[number] for number in value if name_of(number, names) is not None]
    return name_of(value, names)


def read_test_file(arguments: DataArguments, columns: Columns) -> pd.DataFrame:
    """Return the rows of --test_file, with an id.

    Raises UserError if a column is missing, occurs twice or is not text.
    """
    file = arguments.test_file
    frame = read_file(file, arguments.csv_delimiter, arguments.json_field)
    frame = frame.head(arguments.max_samples or sys.maxsize)
    for column in (*columns.texts, "id", columns.label):
        occurrences = list(frame.columns).count(column)
        if occurrences > 1:
            raise UserError(
                f"column {column!r} occurs {occurrences} times in {file}; rename or remove one"
            )
    for column in columns.texts:
        if column not in frame.columns:
            raise UserError(
                f"{file} has no column {column!r}, but {', '.join(map(str, frame.columns))}; "
                "choose --text_column_names"
            )
        wrong = [value for value in frame[column] if not is_missing(value)]
        wrong = [value for value in wrong if not isinstance(value, str)]
        if wrong:
            raise UserError(f"column {column!r} of {file} is not text: it has {wrong[0]!r}")
    if "id" not in frame.columns:
        frame["id"] = [f"test.{row}" for row in range(len(frame))]
    elif frame["id"].map(is_missing).any():
        raise UserError(f"some rows of {file} have no id, which others have; give all one, or none")
    return frame


def make_documents(frame: pd.DataFrame, columns: Columns, arguments: DataArguments) -> list[dict]:
    """Return the documents of a table: id, text and label, as names of classes, or None.

    Raises UserError if a flag is about labels that the table does not have.
    """
    labels = [None] * len(frame)
    if columns.label in frame.columns:
        values = frame[columns.label].astype(object).tolist()
        if arguments.label_delimiter is not None and values and all(map(is_list, values)):
            raise UserError(
                f"the labels in column {columns.label!r} are lists; leave out --label_delimiter, "
                "which splits texts"
            )
        labels = read_labels(values, columns.label_delimiter)
    else:
        for name in ("label_column_name", "label_delimiter"):
            if getattr(arguments, name) is not None:
                raise UserError(
                    f"--{name} requires a column of labels, but there is no {columns.label!r}, "
                    f"only {', '.join(map(str, frame.columns))}"
                )
    texts = zip(*(frame[column] for column in columns.texts), strict=True)
    return [
        {"id": str(name), "text": join_texts(parts, columns.text_delimiter), "label": label}
        for name, parts, label in zip(frame["id"], texts, labels, strict=True)
    ]


def read_labels(values: list, delimiter: str | None) -> list[str | list[str] | None]:
    """Return one or several names of classes for each value, or None where there is no label.

    An empty text beside a delimiter means none of the classes, unless all are missing.
    """
    has_labels = not all(map(is_missing, values))
    labels = []
    for value in values:
        if is_list(value):
            labels.append([str(name) for name in value])
        elif has_labels and delimiter is not None and isinstance(value, str):
            labels.append([name.strip() for name in value.split(delimiter) if name.strip()])
        else:
            labels.append(None if is_missing(value) else str(value))
    return labels


def fit_labels(
    documents: list[dict],
    explainer: "Explainer",
    declared: list[str],
    label_names: list[str] | None,
    source: str,
) -> None:
    """Make the labels of documents what the model predicts: one class, or a list of classes.

    declared are the classes that the dataset defines, label_names those that the training gave
    numbers. Other names in a list than the model's are dropped: it may hold all categories of a
    text. Raises UserError if a document has several classes and the model chooses one, or if the
    classes are not the model's.
    """
    if "-1" not in explainer.labels:  # then it stands for no label
        for document in documents:
            if document["label"] == "-1":
                document["label"] = None
    labeled = [document for document in documents if document["label"] is not None]
    for document in labeled:
        if not explainer.is_multi_label and not isinstance(document["label"], str):
            raise UserError(
                f"document {document['id']} of {source} has a list of classes, but the model "
                "chooses one of them; give another --label_column_name"
            )
    occurring = set(each_name(document["label"] for document in labeled))
    if label_names is not None:
        renamed = name_numbers(occurring, label_names, source, declared)
        if renamed is None:  # names that are numbers of others, too
            if explainer.arguments.target == "label":
                raise UserError(
                    f"the labels of {source} can be names of classes or numbers of others; write "
                    "numbers as LABEL_0, LABEL_1, ..., or give another --target"
                )
            logger.warning(
                "the labels of %s can be names of classes or numbers of others, so they are left "
                "out; write numbers as LABEL_0, LABEL_1, ...",
                source,
            )
            renamed = dict.fromkeys(occurring)
        for document in labeled:
            document["label"] = rename(document["label"], renamed)
        occurring = set(renamed.values()) - {None}
    names = declared or sorted(occurring)
    if explainer.is_multi_label:
        for document in labeled:
            label = each_name([document["label"]])
            document["label"] = [name for name in label if name in explainer.labels]
        if set(names) & set(explainer.labels):
            return
    if names:
        check_classes(names, explainer.labels, source)


# Copied from tools/common/data.py::is_list
def is_list(value: object) -> bool:
    """Return whether a value of a table is a list; Parquet files have them as arrays."""
    return isinstance(value, list | np.ndarray)


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


# Copied from tools/common/data.py::rename
def rename(label: str | list[str], renamed: dict[str, str]) -> str | list[str]:
    """Return a label, or each label of a list, by its other name."""
    if isinstance(label, list):
        return [renamed[name] for name in label]
    return renamed[label]


# Copied from tools/common/data.py::check_file_flags
def check_file_flags(arguments: DataArguments, files: Collection[str]) -> None:
    """Exit with status 2 on --csv_delimiter or --json_field without a file of that kind."""
    kinds = {"csv_delimiter": (".csv", ".tsv"), "json_field": (".json", ".jsonl")}
    for flag, suffixes in kinds.items():
        if getattr(arguments, flag) is None:
            continue
        if not any(file.lower().endswith(suffixes) for file in files):
            fail(f"--{flag} requires a {' or '.join(suffixes)} file; leave it out")


# Copied from tools/common/data.py::MULTI_LABEL
MULTI_LABEL = "multi_label_classification"


# Copied from tools/common/data.py::LOAD_ERRORS
LOAD_ERRORS = (OSError, ValueError, DatasetsError, httpx.HTTPError)


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


# Copied from tools/common/data.py::dataset_commit
def dataset_commit(dataset: Dataset) -> str | None:
    """Return the commit of the Hub dataset that a split is of; None for a local folder."""
    files = dataset.cache_files
    match = re.search(r"/([0-9a-f]{40})/[^/]+$", files[0]["filename"]) if files else None
    return match and match[1]


def examples(names: Collection[str]) -> str:
    """Return the first three names, and whether there are more."""
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")


def name_source(arguments: DataArguments) -> str:
    """Return where the documents are from, for messages."""
    return arguments.dataset_name or arguments.test_file or arguments.text_file or "--text"


def check_documents(documents: list[dict], source: str) -> None:
    """Raise UserError if there are no documents, or some cannot be explained."""
    if not documents:
        raise UserError(f"{source} has no documents")
    seen = set()
    problems = {"a duplicated id": [], "no text": [], "a text that is not valid UTF-8": []}
    for document in documents:
        name, text = document["id"], document["text"]
        if name in seen:
            problems["a duplicated id"].append(name)
        seen.add(name)
        if not text.strip():
            problems["no text"].append(name)
        if re.search("[\ud800-\udfff]", text):  # what surrogateescape made of other encodings
            problems["a text that is not valid UTF-8"].append(name)
    for problem, names in problems.items():
        if names:
            raise UserError(
                f"{len(names)} of {len(documents)} documents of {source} ({examples(names)}) "
                f"have {problem}; correct or remove them"
            )


def check_labels(documents: list[dict], source: str) -> None:
    """Raise UserError if a document has no label of the model's classes."""
    unlabeled = [document["id"] for document in documents if not document["label"]]
    if unlabeled:
        raise UserError(
            f"{len(unlabeled)} of {len(documents)} documents of {source} ({examples(unlabeled)}) "
            "have no label, which --target label requires; correct or remove them"
        )


def check_classes(names: list[str], labels: list[str], source: str) -> None:
    """Compare the classes of a dataset with the model's, by name; their order does not matter."""
    unknown = [name for name in names if name not in labels]
    unused = [name for name in labels if name not in names]
    if unknown:
        raise UserError(
            f"{source} has classes that the model lacks: {examples(list(map(repr, unknown)))}; "
            f"the model's others are {examples(list(map(repr, unused))) or 'none'}. Give the "
            "dataset that it was trained on, spell the classes alike, or explain texts by "
            "--text_file"
        )
    if unused:
        logger.warning(
            "%s lacks classes of the model: %s", source, examples(list(map(repr, unused)))
        )


# --------------------------------------------------------------------------------------------------
# Words
# --------------------------------------------------------------------------------------------------


def align_words(words: list, tokens: list) -> tuple[list[int | None], list[list[int]]]:
    """Return each token's word, None for special tokens, and the spans of the words.

    words and tokens are spans (start, end) in the text, those of special tokens None. A token that
    touches two words joins them; one without characters goes to the next word. Words that were cut
    off are left out.
    """
    starts = [start for start, _ in words]
    ends = [end for _, end in words]
    word_ids = []
    spans = []
    reached = -1  # the last of the words that the tokens so far belong to
    for token in tokens:
        if token is None:
            word_ids.append(None)
            continue
        first = min(int(np.searchsorted(ends, token[0], "right")), len(words) - 1)
        last = max(first, int(np.searchsorted(starts, token[1])) - 1)
        if first > reached:
            spans.append([starts[first], ends[last]])
        reached = max(reached, last)
        spans[-1][1] = ends[reached]
        word_ids.append(len(spans) - 1)
    return word_ids, spans


# --------------------------------------------------------------------------------------------------
# Quadrature, and the search for the number of steps
# --------------------------------------------------------------------------------------------------


@dataclass
class PathValues:
    """What is known of F at points b + alpha (x - b) of the path from the baseline to the text.

    f: (points,), the function that is attributed.
    scale: (points,), the sum of |grad F * (x - b)|, the scale of rounding errors of v.
    v: (points, tokens), grad F * (x - b) summed over the hidden dimension: the integrand.
    """

    f: np.ndarray
    scale: np.ndarray
    v: np.ndarray

    def __getitem__(self, points: slice | np.ndarray) -> "PathValues":
        return PathValues(self.f[points], self.scale[points], self.v[points])

    def __len__(self) -> int:
        return len(self.f)

    def insert(self, places: np.ndarray, other: "PathValues") -> "PathValues":
        """Return the points of both, those of other before the places."""
        return PathValues(
            np.insert(self.f, places, other.f),
            np.insert(self.scale, places, other.scale),
            np.insert(self.v, places, other.v, axis=0),
        )

    def v_and_sum(self) -> np.ndarray:
        """Return v and, as the last column, its sum, the derivative of F: (points, tokens + 1)."""
        return np.column_stack([self.v, self.v.sum(1)])


@dataclass
class Rules:
    """The points of a level of the search, and what every rule makes of interpolants on them.

    The interpolants have the degree N = points - 1 in the Chebyshev polynomials T_k of the mapped
    variable. There are steps + 1 + points functionals: the rules of n points for all n that are
    searched, the integral (n = 0), and the antiderivative at the points of the level.

    alphas: (points,), ascending from 0 to 1.
    inverse: (points, N + 1), from values at the points to coefficients of T_0 ... T_N.
    aliases: (N + 1, 3 N), what interpolation makes of T_(N+1) ... T_(4N).
    moments: (steps + 1 + points, N + 1), the functionals of T_0 ... T_N.
    factors: (steps + 1 + points, 3 N), how far off they are for T_(N+1) ... T_(4N).
    """

    alphas: np.ndarray
    inverse: np.ndarray
    aliases: np.ndarray
    moments: np.ndarray
    factors: np.ndarray


@dataclass
class Interpolant:
    """The interpolant of v, whose last column is the sum over the tokens, and its integrals.

    coefficients: (points, tokens + 1), of T_0 ... T_N.
    results: (steps + 1, tokens + 1), the attributions by every rule and, last, the integral.
    f: (points,), F - F(b) at the points: the antiderivative of the sum.
    """

    coefficients: np.ndarray
    results: np.ndarray
    f: np.ndarray


@dataclass
class ErrorBounds:
    """Bounds of the errors of Interpolant.results, and the rate of decay behind them.

    errors: (steps + 1, tokens + 1).
    rate: the factor from a coefficient to the next one.
    """

    errors: np.ndarray
    rate: float


@dataclass
class PanelSums:
    """The integral of v panel by panel, between neighboring points of the path.

    sums: (panels, tokens); those of a panel add up to the change of F over it.
    shared: (panels, tokens), the part of sums that shares out the residual.
    residuals: (panels,), what the trapezoidal rule missed of the change of F.
    jumps: (panels,), the sum over tokens of |v(right) - v(left)|, times the width.
    """

    sums: np.ndarray
    shared: np.ndarray
    residuals: np.ndarray
    jumps: np.ndarray

    @property
    def attributions(self) -> np.ndarray:
        """The integral over the path: (tokens,)."""
        return self.sums.sum(0)

    @property
    def panel_errors(self) -> np.ndarray:
        """An estimate of each panel's error, summed over the tokens: (panels,)."""
        return np.abs(self.residuals) + JUMP_SHARE * self.jumps


@dataclass
class Rounding:
    """Sizes of rounding errors: of v, of a sum of v over the path, of the values of F."""

    v: float
    total: float
    f: float


@dataclass
class Result:
    """The attributions of a document for one function F, as attributions.jsonl has them.

    attributions: (tokens,).
    method: the rule, or how a path was integrated without one: "integral" of the interpolant on
    n_steps points, or "panels" between them.
    evidence holds captum_delta of captum's, and of a search converged, attribution_errors (tokens,)
    and gaps, the completeness error of each number of steps.
    """

    f_input: float
    f_baseline: float
    attributions: np.ndarray
    n_steps: int
    method: str
    evidence: dict
    gradient_evaluations: int = 0


@dataclass
class Choice(Result):
    """A result of the search. It is settled if more points would not change it.

    is_rough: v decays so slowly that the finest level would not suffice either.
    """

    settled: bool = False
    is_rough: bool = False

    def take_panels(self, panels: PanelSums, errors: np.ndarray, points: int) -> None:
        """Take the attributions of a rough path, and the errors that they are stated to have."""
        self.attributions = panels.attributions
        self.n_steps = points
        self.method = "panels"
        self.state_errors(errors)

    def take_rule(
        self, rules: dict[int, np.ndarray], panels: PanelSums, errors: np.ndarray
    ) -> None:
        """Take the attributions, (tokens,), of the rule with the smallest completeness error.

        rules are those that were evaluated; panels integrate all their points, with these errors.
        Without any, the attributions stay those of the interpolant.
        """
        difference = self.f_input - self.f_baseline
        gaps = {n: float(abs(scores.sum() - difference)) for n, scores in rules.items()}
        if gaps:
            self.n_steps = min(gaps, key=gaps.get)
            self.attributions = rules[self.n_steps]
        distances = np.abs(self.attributions - panels.attributions)
        self.state_errors(distances + errors)
        self.evidence["evaluated_gaps"] = gaps

    def state_errors(self, errors: np.ndarray) -> None:
        """Record the errors, (tokens,), that the attributions are stated to have."""
        stated = relative_size(errors, self.attributions)
        self.evidence["attribution_errors"] = errors
        self.evidence["stated_error"] = stated
        is_useful = stated is not None and stated <= LARGEST_STATED_ERROR
        self.evidence["converged"] = "stated" if is_useful else False

    def outcome(self) -> int | None:
        """Return what other rounding errors must not change: the number of steps, if settled."""
        return self.n_steps if self.settled else None


def quadrature(method: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points in [0, 1] and weights, float64 of shape (n,), of captum's rule with n points.

    The weights are scaled so that their sum is 1, which captum's trapezoid weights are not.
    """
    # ADAPT: quadrature rule. A new one also goes into METHODS; --n_steps N runs captum's rule of
    # that name.
    if method == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(n)
        return (1 + nodes) / 2, weights / 2
    shift = {"riemann_middle": 0.5, "riemann_right": 1}.get(method, 0)
    weights = np.ones(n)
    weights[[0, -1]] = 0.5 if method == "riemann_trapezoid" else 1
    return (np.arange(n) + shift) / weights.sum(), weights / weights.sum()


def chebyshev(alphas: np.ndarray, degree: int) -> np.ndarray:
    """Return T_0(t) ... T_degree(t) of a mapped variable, (*alphas.shape, degree + 1).

    t is in [-1, 1]; alpha = (1 + arcsin(MAP t) / arcsin(MAP)) / 2 spreads the
    points (Kosloff and Tal-Ezer, 1993).
    """
    return chebvander(np.sin((2 * alphas - 1) * np.arcsin(MAP)) / MAP, degree)


@functools.cache
def search_rules(method: str, steps: tuple[int, ...], points: int) -> Rules:
    """Return a level of the search with so many points."""
    degree = 4 * (points - 1)
    t = -np.cos(np.pi * np.arange(points) / (points - 1))
    alphas = (1 + np.arcsin(MAP * t) / np.arcsin(MAP)) / 2

    # The antiderivative at the points: 16 Gauss-Legendre points between each two of them.
    nodes, weights = quadrature("gausslegendre", 16)
    widths = np.diff(alphas)[:, None]
    inner = chebyshev(alphas[:-1, None] + widths * nodes, degree)
    panels = np.einsum("ij,ijk->ik", widths * weights, inner)
    antiderivative = np.vstack([np.zeros(degree + 1), panels.cumsum(0)])

    rules = {0: antiderivative[-1]}
    for n in steps:
        if n > 0:
            nodes, weights = quadrature(method, n)
            rules[n] = weights @ chebyshev(nodes, degree)
    moments = np.vstack([*(rules[n] for n in (*steps, 0)), antiderivative])

    values = chebyshev(alphas, degree)
    inverse = np.linalg.inv(values[:, :points])
    aliases = inverse @ values[:, points:]
    factors = np.abs(moments[:, points:] - moments[:, :points] @ aliases)
    return Rules(alphas, inverse, aliases, moments[:, :points], factors)


def envelope(coefficients: np.ndarray, noise: float) -> tuple[np.ndarray, float]:
    """Return sizes, (columns,), and the rate of decay; sizes * rate**j bound further coefficients.

    These are the coefficients of degree N + j, j = 1 ... 3 N. Those given, (N + 1, columns), decay
    geometrically for an analytic function (Trefethen, 2013, theorem 8.1), at a rate that is the
    same for all tokens, which share the network, and which the map's singularity at t = 1 / MAP
    limits. Those below noise count as 0.
    """
    degree = len(coefficients) - 1
    size = np.where(np.abs(coefficients) > noise, np.abs(coefficients), 0)
    third, eighth = degree // 3, degree // 8
    last_third = size[-third:].max(0).sum()
    third_before = size[-2 * third : -third].max(0).sum()
    ratio = last_third / max(third_before, np.finfo(float).tiny)
    rate = max(min(ratio, LARGEST_RATIO) ** (1 / third), MAP / (1 + np.sqrt(1 - MAP**2)))
    # The largest of the last coefficients, each continued to the degree N.
    last = (size[-eighth:] * rate ** np.arange(eighth - 1, -1, -1)[:, None]).max(0)
    return ENVELOPE_FACTOR * last, float(rate)


def fit(rules: Rules, level: PathValues) -> Interpolant:
    """Interpolate v on a level; all rules, the integral and F follow without more gradients."""
    coefficients = rules.inverse @ level.v_and_sum()
    results, antiderivative = np.split(rules.moments @ coefficients, [-len(level)])
    return Interpolant(coefficients, results, antiderivative[:, -1])


def rounding_errors(rules: Rules, level: PathValues, bf16: bool) -> Rounding:
    """Return the sizes of rounding errors on a level."""
    points = len(level)
    # Of a float32 gradient; compared with float64 it was 0.1 to 3 times this on several encoders.
    unit = 2**-10 if bf16 else np.finfo(np.float32).eps
    of_v = unit * np.sqrt((level.scale**2).mean())
    total = ROUNDING_FACTOR * np.hypot(
        of_v / np.sqrt(points), 2 * unit * np.abs(level.f[[0, -1]]).max()
    )
    # The last coefficients of F are rounding errors, unless F is not resolved yet.
    f_tail = (rules.inverse @ level.f)[-(points // 8) :]
    of_f = max(total, ROUNDING_FACTOR * min(np.sqrt(points * (f_tail**2).mean()), 2 * of_v))
    return Rounding(of_v, total, of_f)


def bound_errors(
    rules: Rules,
    interpolant: Interpolant,
    level: PathValues,
    checks: PathValues,
    check_alphas: np.ndarray,
    rounding: Rounding,
) -> ErrorBounds:
    """Return bounds of the errors of interpolant.results.

    The coefficients that the interpolant lacks are bounded by the decay of those that it has. The
    bounds are raised until they hold where the truth is known: for F at the points of the level,
    and for v, (CHECKS, tokens + 1), at the random points of the checks.
    """
    points = len(level)
    coefficients = interpolant.coefficients
    tiny = np.finfo(float).tiny
    # What is left of rounding errors would look like slow decay.
    sizes, rate = envelope(coefficients, NOISE_FACTOR * rounding.v * np.sqrt(2 / points))
    decay = rate ** np.arange(1, rules.factors.shape[1] + 1)
    errors, antiderivative_errors = np.split(np.outer(rules.factors @ decay, sizes), [-points])

    f_off = np.abs(interpolant.f - (level.f - level.f[0])) - rounding.f
    f_errors = antiderivative_errors[:, -1]

    at_checks = chebyshev(check_alphas, 4 * (points - 1))
    inside, beyond = at_checks[:, :points], at_checks[:, points:]
    v_off = np.abs(inside @ coefficients - checks.v_and_sum()) - 12 * rounding.v
    v_errors = np.outer(np.abs(beyond - inside @ rules.aliases) @ decay, sizes)

    with np.errstate(over="ignore"):  # a discrepancy where no error was expected
        f_factor = (SAFETY * (f_off / (f_errors + tiny))).max()
        v_factor = (SAFETY * (v_off / (v_errors + tiny))).max()
    factor = max(1, f_factor, v_factor)
    if not np.isfinite(factor):
        return ErrorBounds(np.full_like(errors, np.inf), rate)  # nothing is known
    return ErrorBounds(errors * factor, rate)


def find_certain(
    steps: tuple[int, ...], gaps: np.ndarray, errors: np.ndarray, allowed: float
) -> np.ndarray:
    """Return for every number of steps, (steps,), whether it can be chosen with certainty.

    It is certain if its results are right to what is allowed, and none of the others has a
    completeness error that is smaller by more. gaps are the completeness errors, (steps,), and
    errors, (steps, tokens + 1), the bounds.
    """
    smallest = max(0, (gaps - errors[:, -1]).min())
    certain = (errors.max(1) <= allowed) & (gaps + errors[:, -1] <= smallest + allowed)
    # Rounding errors move the border of certainty; for groups of 25 numbers, they seldom do.
    groups = np.array(steps) // 25
    return certain & ~np.isin(groups, groups[~certain])


def pick_steps(
    gaps: np.ndarray, certain: np.ndarray, is_near: np.ndarray, noise: float, allowed: float
) -> int:
    """Return the index of the number of steps with the smallest completeness error.

    All arrays are (steps,). Errors that differ by rounding only tie. Of those, the smallest
    number wins whose tokens, not only their sum, are near the integral; if none is, of those that
    tie within what is allowed; else the smallest number that ties.
    """
    candidates = certain if certain.any() else np.ones_like(certain)
    smallest = gaps[candidates].min()
    ties = candidates & (gaps <= smallest + noise)
    wide_ties = candidates & (gaps <= smallest + allowed)
    for group in (ties & is_near, wide_ties & is_near):
        if group.any():
            return int(group.argmax())
    return int(ties.argmax())


def is_hopeless(bounds: ErrorBounds, points: int, allowed: float) -> bool:
    """Return whether even the finest level would not resolve the integral, at this rate of decay.

    Coefficients of a kink decay faster and faster, those of a rough function do not: the forecast
    is wrong in favor of going on.
    """
    if points < LEVELS[FORECAST_LEVEL]:
        return False
    forecast = bounds.errors[-1].max() * bounds.rate ** (LEVELS[-1] - points)
    return bool(forecast > FORECAST_SLACK * allowed)


def choose_steps(
    arguments: AttributionArguments, values: PathValues, check_alphas: np.ndarray
) -> Choice:
    """Choose the number of steps with the smallest completeness error.

    values are those at check_alphas, (CHECKS,), and then on a level's points. The document has
    converged if the choice is certain and the attributions are near the integral.
    """
    checks, level = values[:CHECKS], values[CHECKS:]
    rules = search_rules(arguments.method, arguments.steps, len(level))
    difference = level.f[-1] - level.f[0]

    # 1. Every rule by the interpolant, and how far off it can be
    interpolant = fit(rules, level)
    rounding = rounding_errors(rules, level, arguments.bf16)
    bounds = bound_errors(rules, interpolant, level, checks, check_alphas, rounding)

    # 2. Completeness errors of the rules, (steps,), and of the integral; distances of the rules'
    # attributions from the integral's, (steps, tokens)
    gaps = np.abs(interpolant.results[:, -1] - difference)
    rule_gaps, integral_gap = gaps[:-1], gaps[-1]
    rule_errors, integral_errors = bounds.errors[:-1], bounds.errors[-1]
    integral = interpolant.results[-1, :-1]
    distances = np.abs(interpolant.results[:-1, :-1] - integral)
    allowed = max(arguments.tolerance * abs(difference), rounding.total)
    near = 10 * arguments.tolerance * np.abs(integral).sum()
    is_near = distances.sum(1) <= near

    # 3. The choice
    certain = find_certain(arguments.steps, rule_gaps, rule_errors, allowed)
    chosen = pick_steps(rule_gaps, certain, is_near, rounding.total, allowed)
    integral_is_right = integral_errors.max() <= allowed and integral_gap <= max(
        allowed, rounding.f
    )
    is_right = bool(certain.any() and integral_is_right)
    converged = is_right and bool(is_near[chosen])
    # All numbers of steps are surely away from the integral: more points would not help.
    surely_away = (distances - rule_errors[:, :-1] - integral_errors[:-1]).clip(0).sum(1) > near
    attribution_errors = (
        distances[chosen]
        + SAFETY * (rule_errors[chosen] + integral_errors)[:-1]
        + 5 * rounding.total
    )
    return Choice(
        f_input=float(level.f[-1]),
        f_baseline=float(level.f[0]),
        attributions=interpolant.results[chosen, :-1],
        n_steps=arguments.steps[chosen] or len(level),
        method=arguments.method or "integral",
        settled=converged or bool(is_right and surely_away.all()),
        is_rough=is_hopeless(bounds, len(level), allowed),
        evidence={
            "converged": converged,
            "attribution_errors": attribution_errors,
            "stated_error": relative_size(attribution_errors, interpolant.results[chosen, :-1]),
            "gaps": [float(f"{gap:.3g}") for gap in rule_gaps],
        },
    )


def is_stable_choice(
    arguments: AttributionArguments, values: PathValues, check_alphas: np.ndarray, choice: Choice
) -> bool:
    """Return whether choose_steps finds the same with other rounding errors.

    They are 2.5 times as large as those of MiniLM on a CPU.
    """
    columns = 2 + values.v.shape[1]  # f, scale, and v of each token
    noise = np.random.default_rng(0).normal(size=(4, len(values), columns))
    noise *= np.finfo(np.float32).eps
    # Errors of v are as large as those of its summands, which may cancel.
    v_norm = max(np.linalg.norm(values.v), np.finfo(float).tiny)
    v_factor = 0.5 * np.linalg.norm(values.scale) / v_norm
    for errors in (*noise, *-noise):
        noisy_values = PathValues(
            f=values.f * (1 + errors[:, 0]),
            scale=values.scale * (1 + errors[:, 1]),
            v=values.v * (1 + v_factor * errors[:, 2:]),
        )
        other = choose_steps(arguments, noisy_values, check_alphas)
        if other.outcome() != choice.outcome():
            return False
    return True


# --------------------------------------------------------------------------------------------------
# The integral where the path is rough
# --------------------------------------------------------------------------------------------------


def relative_size(errors: np.ndarray, attributions: np.ndarray) -> float | None:
    """Return the relative L1 norm of errors, both (tokens,); None if nothing is attributed."""
    total = np.abs(attributions).sum()
    return float(np.abs(errors).sum() / total) if total > 0 else None


def integrate_panels(alphas: np.ndarray, values: PathValues) -> PanelSums:
    """Integrate v between each two of the points, alphas, (points,), from 0 to 1 and ascending.

    The trapezoidal rule misses a part of the change of F over the panel, which is known. This
    residual is shared among the tokens by |v|, the size of their gradients there, so that the
    attributions add up to F(x) - F(b).
    """
    widths = np.diff(alphas)[:, None]
    left, right = values.v[:-1], values.v[1:]
    sums = widths * (left + right) / 2
    residuals = np.diff(values.f) - sums.sum(1)
    sizes = np.abs(left) + np.abs(right)
    totals = sizes.sum(1, keepdims=True)
    shares = np.where(totals > 0, sizes / np.maximum(totals, np.finfo(float).tiny), 0)
    jumps = (widths * np.abs(right - left)).sum(1)
    shared = residuals[:, None] * shares
    return PanelSums(sums + shared, shared, residuals, jumps)


def state_panel_errors(alphas: np.ndarray, values: PathValues, panels: PanelSums) -> np.ndarray:
    """Return the errors, (tokens,), that the attributions of panels are stated to have.

    They are an estimate, no bound: what was shared out, without its signs, how much the
    attributions change if every other point is left out, and rounding errors. How often they hold
    is measured; see docs/step-search.md.
    """
    every_other = np.append(np.arange(0, len(alphas) - 1, 2), len(alphas) - 1)
    coarse = integrate_panels(alphas[every_other], values[every_other])
    unresolved = np.abs(panels.shared).sum(0)
    change = np.abs(panels.attributions - coarse.attributions)
    rounding = np.finfo(np.float32).eps * values.scale.mean() / values.v.shape[1]
    return unresolved + change + rounding


def worst_panels(alphas: np.ndarray, panels: list[PanelSums], number: int) -> np.ndarray:
    """Return the places, ascending, of the panels that are to be halved, at most so many.

    alphas: (points,). panels are those of every target; each counts by its own attributions.
    """
    errors = np.zeros(len(alphas) - 1)
    for target in panels:
        total = max(np.abs(target.attributions).sum(), np.finfo(float).tiny)
        errors = np.maximum(errors, target.panel_errors / total)
    errors[np.diff(alphas) < NARROWEST] = 0
    worst = np.argsort(-errors, kind="stable")[:number]
    return np.sort(worst[errors[worst] > 0])


def spread_numbers(steps: tuple[int, ...], number: int, limit: int) -> list[int]:
    """Return so many numbers of steps, whose sum is within the limit, ascending.

    They are spread over the upper half of the largest ones that the limit allows. If these would
    have fewer than SMALLEST_RULE points, there are fewer numbers, and none if not even one fits.
    """
    for count in range(min(number, len(steps)), 0, -1):
        largest = limit / (0.75 * count) if count > 1 else limit  # from n / 2 to n: 3 n / 4
        allowed = [n for n in steps if n <= largest]
        if len(allowed) < count or (count > 1 and allowed[-1] < SMALLEST_RULE):
            continue
        upper_half = [n for n in allowed if 2 * n >= allowed[-1]]
        indices = np.linspace(len(upper_half) - 1, 0, count).round().astype(int)
        numbers = sorted({upper_half[index] for index in indices})
        while sum(numbers) > limit:
            numbers.pop(0)
        return numbers
    return []


@dataclass
class EvaluatedPath:
    """Points of a path, (points,), in any order, and the values of every target there."""

    alphas: np.ndarray
    tables: list[PathValues]

    def __len__(self) -> int:
        return len(self.alphas)

    def add(self, places: np.ndarray, alphas: np.ndarray, tables: list[PathValues]) -> None:
        """Insert points and their values before the places."""
        self.alphas = np.insert(self.alphas, places, alphas)
        self.tables = [
            table.insert(places, new) for table, new in zip(self.tables, tables, strict=True)
        ]

    def sort(self) -> "EvaluatedPath":
        """Return the points in their order on the path, each once."""
        alphas, first = np.unique(self.alphas, return_index=True)
        return EvaluatedPath(alphas, [table[first] for table in self.tables])


@dataclass
class PathSearch:
    """The search for the number of steps, or for the integral, along the path of a document.

    It knows nothing of models: evaluate(alphas, one_by_one=False) returns the PathValues of every
    target at points of the path, (points,). Those that are evaluated one by one have the same
    rounding errors whatever the size of batches is; rounding_varies says that others have not.
    name seeds the random points of the checks.
    """

    evaluate: Callable[..., list[PathValues]]
    arguments: AttributionArguments
    name: str
    rounding_varies: bool = False

    def run(self) -> list[Choice]:
        """Return the choice of every target. docs/step-search.md derives how it is made."""
        limit = self.arguments.max_gradient_evaluations
        spent = 0
        choices, path, is_stable = self.refine(limit)
        if not is_stable:
            spent = len(path)
            again = replace(
                self,
                evaluate=functools.partial(self.evaluate, one_by_one=True),
                rounding_varies=False,
            )
            choices, path, _ = again.refine(limit - spent)
        for choice in choices:
            choice.gradient_evaluations = spent + len(path)
        if not all(choice.settled for choice in choices):
            if self.arguments.n_steps is None:
                self.evaluate_rules(choices, path, limit)
            else:
                self.halve_panels(choices, path, limit)
        return choices

    def refine(self, limit: int) -> tuple[list[Choice], EvaluatedPath, bool]:
        """Choose on more and more points until the choice is settled, or hopeless, everywhere.

        Returns the choices, the evaluated points, and False if rounding errors could change a
        choice. It then stops early, provided that the limit allows starting again with points that
        are evaluated one by one.
        """
        arguments = self.arguments
        seed = [*hashlib.sha256(self.name.encode()).digest()]
        check_alphas = np.random.default_rng(seed).uniform(size=CHECKS)
        rules = search_rules(arguments.method, arguments.steps, LEVELS[0])
        alphas = np.append(check_alphas, rules.alphas)
        path = EvaluatedPath(alphas, self.evaluate(alphas))
        for level, finer in enumerate(LEVELS):
            if level > 0:
                # Every other point of a level is new.
                rules = search_rules(arguments.method, arguments.steps, finer)
                new = rules.alphas[1::2]
                path.add(np.arange(CHECKS + 1, len(path)), new, self.evaluate(new))
            choices = [choose_steps(arguments, table, check_alphas) for table in path.tables]
            may_begin_again = self.rounding_varies and 2 * len(path) <= limit
            if may_begin_again and not self.are_stable(path, check_alphas, choices):
                return choices, path, False
            if all(choice.settled or choice.is_rough for choice in choices):
                break
            if finer == LEVELS[-1] or LEVELS[level + 1] + CHECKS > limit:
                break
        return choices, path, True

    def are_stable(
        self, path: EvaluatedPath, check_alphas: np.ndarray, choices: list[Choice]
    ) -> bool:
        """Return whether other rounding errors change no choice."""
        for table, choice in zip(path.tables, choices, strict=True):
            if not is_stable_choice(self.arguments, table, check_alphas, choice):
                return False
        return True

    def halve_panels(self, choices: list[Choice], path: EvaluatedPath, limit: int) -> None:
        """Integrate a rough path: halve the worst panels until so many gradients are spent.

        Changes the choices that are not settled. The limit is that of a rough path, if it is lower.
        """
        spent = choices[0].gradient_evaluations
        limit = max(spent, min(limit, self.arguments.rough_evaluations))
        path = path.sort()
        while True:
            panels = [integrate_panels(path.alphas, table) for table in path.tables]
            worst = worst_panels(path.alphas, panels, min(PANELS_AT_ONCE, limit - spent))
            if len(worst) == 0:
                break
            middles = (path.alphas[worst] + path.alphas[worst + 1]) / 2
            path.add(worst + 1, middles, self.evaluate(middles))
            spent += len(worst)
        for target, choice in enumerate(choices):
            choice.gradient_evaluations = spent
            if not choice.settled:
                errors = state_panel_errors(path.alphas, path.tables[target], panels[target])
                choice.take_panels(panels[target], errors, len(path))

    def evaluate_rules(self, choices: list[Choice], path: EvaluatedPath, limit: int) -> None:
        """Evaluate RULES real rules, or fewer by the limit, and take the smallest error of them.

        Changes the choices that are not settled. With so many points on the path, their integral
        by panels says how far the tokens of the rule are off.
        """
        spent = choices[0].gradient_evaluations
        numbers = spread_numbers(self.arguments.steps, RULES, limit - spent)
        rules = {}
        for n in numbers:
            nodes, weights = quadrature(self.arguments.method, n)
            tables = self.evaluate(nodes)
            rules[n] = [weights @ table.v for table in tables]
            path.add(np.full(n, len(path)), nodes, tables)
        path = path.sort()
        for target, choice in enumerate(choices):
            choice.gradient_evaluations = spent + sum(numbers)
            if not choice.settled:
                panels = integrate_panels(path.alphas, path.tables[target])
                errors = state_panel_errors(path.alphas, path.tables[target], panels)
                scores = {n: rules[n][target] for n in numbers}
                choice.take_rule(scores, panels, errors)


# --------------------------------------------------------------------------------------------------
# Attributions of a document
# --------------------------------------------------------------------------------------------------


class Attribution(dict):
    """A line of attributions.jsonl, which a notebook shows as attributions.html does."""

    def _repr_html_(self) -> str:
        name = html.escape(self["id"])
        words = " ".join(
            f'<span style="background: {color}">{html.escape(text)}</span>'
            for text, color in figure_text(self, "words")
        )
        sentence = without_sentence(self)
        without = "" if sentence is None else f'<p class="without">{html.escape(sentence)}</p>'
        return (
            f'<article><h2>{name}</h2><p class="answer">{html.escape(answer(self))}</p>'
            f'<p class="meta">{html.escape(truth(self))}</p>'
            f'<p class="text" style="color: #1b1b1b; line-height: 1.8">{words}</p>'
            f"{without}</article>"
        )


# Copied from tools/faithfulness/models.py::last_token_pooled
@contextmanager
def last_token_pooled(model: PreTrainedModel) -> Iterator[None]:
    """Let a decoder pool the last token, whichever it is, until the block ends.

    No token is PAD then for the head, which pools; below it, in the base model, PAD stays what it
    is.
    """
    config = model.config.get_text_config()
    pad_token_id = config.pad_token_id

    def set_pad(token_id: int | None) -> Callable:
        return lambda *call: setattr(config, "pad_token_id", token_id)

    handles = []
    if model.base_model is not model:
        handles = [
            model.base_model.register_forward_pre_hook(set_pad(pad_token_id)),
            model.base_model.register_forward_hook(set_pad(-1)),
        ]
    config.pad_token_id = -1
    try:
        yield
    finally:
        config.pad_token_id = pad_token_id
        for handle in handles:
            handle.remove()


@dataclass
class Baseline:
    """What takes the place of each token in the baseline text.

    name: PAD, MASK, EOS in place of PAD, ZERO or MEAN.
    token, token_id: of the tokenizer, or None for ZERO and MEAN.
    vector: (hidden,), the embedding of a token in ZERO and MEAN; None for the others.
    """

    name: str
    token: str | None
    token_id: int | None
    vector: torch.Tensor | None


@dataclass
class EmbeddedText:
    """A document in the embedding layer, and the functions F that are attributed, weights @ logits.

    ids: (2, tokens), of the baseline and of the text.
    path: (2, tokens, hidden), their outputs of the embedding layer, the ends of the path.
    logits: (2, classes).
    targets: the classes that are explained.
    weights: (targets, classes), 1 for the target, -1 for the class that it is compared with.
    """

    id: str
    baseline: Baseline
    ids: torch.Tensor
    path: torch.Tensor
    logits: torch.Tensor
    targets: list[str]
    weights: torch.Tensor


@dataclass
class ExplainedPath:
    """The attributions of a document from one baseline: what the file holds, by class."""

    embedded: EmbeddedText
    explanations: dict[str, dict]
    gradient_evaluations: int
    forward_evaluations: int


@dataclass
class Explainer:
    """A classifier, frozen and on its device, with its tokenizer.

    Raises UserError if the arguments do not fit them.
    """

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    arguments: AttributionArguments

    def __post_init__(self) -> None:
        # Without gradients of the weights, the activations that these need are not kept.
        self.model.requires_grad_(False)
        self.model.eval()
        config = self.model.config
        self.config_sha256 = config_digest(config)  # before anything can change it
        if config.is_encoder_decoder:
            raise self.refusal("encoder-decoders read a text twice")
        try:
            self.embeddings = self.model.get_input_embeddings()
        except NotImplementedError as error:  # transformers' answer for models without such a layer
            raise self.refusal("it has no embedding of tokens") from error
        # ADAPT: layer. Any module whose output is (texts, tokens, hidden) starts the path instead.
        base = self.model.base_model
        self.embedding_layer = getattr(base, "embeddings", None) or self.embeddings

        # RoBERTa and its relatives count positions from padding_idx + 1.
        position_embeddings = getattr(self.embedding_layer, "position_embeddings", None)
        padding_idx = getattr(position_embeddings, "padding_idx", None)
        self.first_position = 0 if padding_idx is None else padding_idx + 1
        self.pad_token_id = config.get_text_config().pad_token_id
        self.pools_last_token = False  # of the document at hand

        if set(config.id2label) != set(range(config.num_labels)):
            raise self.refusal("id2label in its config.json does not count the classes from 0")
        self.labels = [config.id2label[number] for number in range(config.num_labels)]
        self.check_classes()
        self.baselines = [self.find_baseline(name) for name in self.arguments.baseline]
        self.max_seq_length = self.find_length()
        self.check_attention()
        self.text_prefix = self.arguments.text_prefix
        if self.text_prefix is None:
            self.text_prefix = trained_setting(config, "text_prefix", str) or ""
        self.batch_size = self.arguments.internal_batch_size or self.default_batch_size()

    def refusal(self, reason: str) -> UserError:
        """Return the error that says why a model cannot be explained."""
        name = self.model.name_or_path
        return UserError(f"cannot attribute {name} ({type(self.model).__name__}): {reason}")

    def check_classes(self) -> None:
        """Raise UserError if classes have one name, or --target or --versus is none of them."""
        if len(self.labels) < 2:
            raise self.refusal("it has one output; a classifier has two or more classes")
        problem = self.model.config.problem_type
        self.is_multi_label = problem == MULTI_LABEL
        if problem not in (None, "single_label_classification", MULTI_LABEL):
            raise self.refusal(f"it does not choose classes (its config.json says {problem})")
        thresholds = trained_setting(self.model.config, "thresholds", list)
        self.thresholds = thresholds or [0.5] * len(self.labels)
        if len(self.thresholds) != len(self.labels):
            raise self.refusal(
                f"its config.json has {len(self.thresholds)} thresholds for {len(self.labels)} "
                "classes"
            )
        if len(set(self.labels)) < len(self.labels):
            raise self.refusal(f"id2label in its config.json names a class twice: {self.labels}")
        target, versus = self.arguments.target, self.arguments.versus
        known = ["predicted", "label", "all", *self.labels]
        if target not in known:
            raise UserError(f"--target {target} is not one of {', '.join(known)}")
        if versus is not None and versus not in self.labels:
            raise UserError(f"--versus {versus} is not one of {', '.join(self.labels)}")

    def find_baseline(self, name: str) -> Baseline:
        """Return the baseline with a name of BASELINES.

        Raises UserError if model or tokenizer lack it.
        """
        # ADAPT: baseline. Another token, such as UNK, takes two lines here.
        if name in ("zero", "mean"):
            if not isinstance(self.embeddings, torch.nn.Embedding):
                raise UserError(
                    f"--baseline {name} requires an embedding of each token; this model has "
                    f"{type(self.embeddings).__name__}; try --baseline pad"
                )
            # Of what the layer makes of every token: some models (Gemma) scale the weights there.
            ids = torch.arange(self.embeddings.num_embeddings, device=self.model.device)
            with torch.no_grad():
                mean = self.embeddings(ids).float().mean(0)
            vector = mean if name == "mean" else torch.zeros_like(mean)
            return Baseline(name.upper(), None, None, vector)
        token_id = getattr(self.tokenizer, f"{name}_token_id", None)
        shown = name.upper()
        if token_id is None and name == "pad":
            # As everyone does with GPT-2 and Llama, whose tokenizers have no PAD.
            shown = "EOS"
            token_id = self.tokenizer.eos_token_id
        if token_id is None:
            other = "pad" if name == "mask" else "mask"
            raise UserError(
                f"the tokenizer has no {name} token for the baseline text; try --baseline {other}"
            )
        self.check_ids([token_id])
        return Baseline(shown, self.tokenizer.convert_ids_to_tokens(token_id), token_id, None)

    def find_length(self) -> int:
        """Return how many tokens of a text are used: as given, as in training, or 256."""
        config = self.model.config
        given = self.arguments.max_seq_length
        positions = getattr(config, "max_position_embeddings", None) or -1
        # Models with relative positions have no limit (None, 0 or -1); tokenizers may have 1e30.
        longest = positions - self.first_position if positions > 0 else sys.maxsize
        longest = min(longest, self.tokenizer.model_max_length)
        shortest = self.tokenizer.num_special_tokens_to_add() + 1
        trained = trained_setting(config, "max_seq_length", int) or 256
        length = given or max(shortest, min(longest, trained))
        if length < shortest:
            raise UserError(
                f"--max_seq_length must be at least {shortest}, one token of text, not {length}"
            )
        if length > longest:
            raise UserError(
                f"--max_seq_length must be between {shortest} and {longest}, the model's maximum, "
                f"not {length}"
            )
        return length

    def check_attention(self) -> None:
        """Raise UserError if the model lengthens texts to whole windows or blocks: then there are
        more embeddings than tokens.
        """
        config = self.model.config
        if getattr(config, "attention_window", None):  # Longformer
            raise self.refusal("its attention pads texts to whole windows")
        if getattr(config, "attention_type", None) == "block_sparse":  # BigBird
            # Up to this length, transformers gives it full attention.
            longest = (5 + 2 * config.num_random_blocks) * config.block_size
            if self.max_seq_length > longest:
                raise self.refusal(
                    "its block-sparse attention pads texts to whole blocks; texts of up to "
                    f"{longest} tokens have full attention: --max_seq_length {longest}"
                )

    def default_batch_size(self) -> int:
        """Return how many points on a path are evaluated at once.

        On a CPU, 16, halved until the activations of the longest text are expected to fit into
        ACTIVATION_BYTES: where memory is short, a CPU swaps and does not say so. A GPU does, and
        the size is halved then.
        """
        device = self.model.device.type
        if device != "cpu":
            return 512 if device == "cuda" else 64
        config = self.model.config.get_text_config()
        layers = getattr(config, "num_hidden_layers", None) or 0
        hidden = getattr(config, "hidden_size", None) or 0
        per_point = 4 * FLOATS_PER_TOKEN * layers * hidden * self.max_seq_length  # in float32
        size = 16
        while size > 1 and size * per_point > ACTIVATION_BYTES:
            size //= 2
        return size

    def check_ids(self, ids: list[int]) -> None:
        """Raise UserError if the tokenizer has tokens that the model does not know."""
        known = getattr(self.embeddings, "num_embeddings", None)
        if known is not None and max(ids) >= known:
            raise self.refusal(
                f"its tokenizer has {len(self.tokenizer)} tokens, the model {known} embeddings; "
                "save the tokenizer that it was trained with"
            )

    def clip(self, text: str) -> str:
        """Return the beginning of a text that holds the tokens that are kept.

        To split a whole book into tokens would take minutes.
        """
        first = CHARACTERS_PER_TOKEN * self.max_seq_length
        for size in (first, 8 * first, 64 * first):
            if len(text) <= size:
                return text
            # A cut at a blank changes no token before it.
            end = text.rfind(" ", size // 2, size)
            beginning = text[: size if end == -1 else end]
            if len(self.tokenizer(beginning, verbose=False)["input_ids"]) > 2 * self.max_seq_length:
                break
        return beginning

    def encode(self, document: dict) -> None:
        """Add to a document its tokens, its words and their spans, and to its text the prefix."""
        is_fast = self.tokenizer.is_fast
        text = self.text_prefix + document["text"]
        clipped = self.clip(text)
        encoding = self.tokenizer(
            clipped,
            truncation=True,
            max_length=self.max_seq_length,
            return_special_tokens_mask=True,
            return_offsets_mapping=is_fast,
        )
        ids = encoding["input_ids"]
        special = [bool(mask) for mask in encoding["special_tokens_mask"]]
        self.check_ids(ids)
        tokens = self.tokenizer.convert_ids_to_tokens(ids)

        # Spans (start, end) of tokens and words; without offsets, every token is a word of its own.
        spans = encoding["offset_mapping"] if is_fast else [(k, k + 1) for k in range(len(ids))]
        token_spans = [None if mask else span for mask, span in zip(special, spans, strict=True)]
        if not is_fast:
            words = [span for span in token_spans if span is not None]
        elif self.arguments.merge_words:
            words = [match.span() for match in WORD.finditer(clipped)]
        else:
            numbers = {number for number in encoding.word_ids() if number is not None}
            words = [encoding.word_to_chars(number) for number in sorted(numbers)]
        word_ids, word_spans = align_words(words, token_spans)

        whole = self.tokenizer(clipped, verbose=False)["input_ids"]
        document.update(
            {
                "text": text,
                "truncated": len(whole) > len(ids) or len(clipped) < len(text),
                "input_ids": ids,
                "special": special,
                "tokens": tokens,
                "token_spans": token_spans if is_fast else None,
                "words": [text[i:j] if is_fast else tokens[i] for i, j in word_spans],
                "word_ids": word_ids,
                "word_spans": word_spans if is_fast else None,
            }
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits, (texts, classes), of ids, (texts, tokens). PAD has a position, too."""
        positions = {}
        if self.first_position:
            numbers = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            positions["position_ids"] = numbers + self.first_position
        with (
            torch.autocast(ids.device.type, torch.bfloat16, enabled=self.arguments.bf16),
            last_token_pooled(self.model) if self.pools_last_token else nullcontext(),
        ):
            output = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), **positions)
        return output.logits.float()

    def forward_from(self, embedded: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits of ids with an embedding layer's output, (texts, tokens, hidden)."""
        with self.embedding_layer.register_forward_hook(lambda *call: embedded):
            return self.forward(ids)

    def start_path(self, baseline: Baseline, special: torch.Tensor) -> AbstractContextManager:
        """Return a context in which the first of two texts is embedded as the baseline is.

        Only the vectors of ZERO and MEAN need it: positions and normalization follow as for a text.
        special: (tokens,), the tokens that stay as they are.
        """
        if baseline.vector is None:
            return nullcontext()

        def replace_tokens(module, arguments, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[0, ~special] = baseline.vector.to(output.dtype)
            return output

        return self.embeddings.register_forward_hook(replace_tokens)

    def embed(self, document: dict, baseline: Baseline | None = None) -> EmbeddedText:
        """Return the ends of the path of an encoded document, from the first baseline by default.

        Raises UserError if the model cannot be explained.
        """
        baseline = baseline or self.baselines[0]
        text = torch.tensor(document["input_ids"], device=self.model.device)
        special = torch.tensor(document["special"], device=text.device)
        ids = torch.stack([text, text])
        if baseline.token_id is not None:
            ids[0] = torch.where(special, text, baseline.token_id)

        # A decoder pools the last token that is not PAD. Texts are not padded here, so it is the
        # last one, which must be pooled in the baseline, too, where it may be PAD.
        self.pools_last_token = document["input_ids"][-1] != self.pad_token_id

        captured = []
        with (
            torch.no_grad(),
            self.start_path(baseline, special),
            self.embedding_layer.register_forward_hook(lambda *call: captured.append(call[-1])),
        ):
            logits = self.forward(ids)
        if not logits.isfinite().all():
            raise UserError(
                f"logits of document {document['id']} are not finite; train the model again"
            )
        # The same from the embedding layer's output, with the masks and positions of the text.
        reads_tokens_once = (
            len(captured) == 1
            and isinstance(captured[0], torch.Tensor)  # I-BERT's has a scale beside it
            and captured[0].shape[:2] == ids.shape
        )
        if reads_tokens_once:
            with torch.no_grad():
                difference = (self.forward_from(captured[0], ids[[1, 1]]) - logits).abs().max()
            allowed = (0.1 if self.arguments.bf16 else 1e-3) * (1 + logits.abs().max())
        if not reads_tokens_once or difference > allowed:
            raise self.refusal(
                "it does not read a text by one embedding a token, or it pools another token of "
                "the baseline"
            )
        targets = self.find_targets(document, self.probabilities(logits[1]))
        weights = torch.stack([self.logit_weights(name) for name in targets])
        path = captured[0].float()
        return EmbeddedText(document["id"], baseline, ids, path, logits, targets, weights)

    def find_targets(self, document: dict, probabilities: dict[str, float]) -> list[str]:
        """Return the classes that are explained."""
        target = self.arguments.target
        if target == "all":
            return self.labels
        if target == "label":
            if not document["label"]:
                raise UserError(
                    f"document {document['id']} has no label, which --target label requires"
                )
            classes = document["label"]
        elif target == "predicted":
            # Of several classes, a text may reach the threshold of none: then the most probable.
            classes = self.predict(probabilities) or max(probabilities, key=probabilities.get)
        else:
            classes = target
        return [classes] if isinstance(classes, str) else classes

    def logit_weights(self, target: str) -> torch.Tensor:
        """Return the weights, (classes,), of the logits in F."""
        one_hot = torch.eye(len(self.labels), device=self.model.device)
        weights = one_hot[self.labels.index(target)]
        if self.arguments.versus is not None:
            weights = weights - one_hot[self.labels.index(self.arguments.versus)]
        return weights

    def in_batches(self, compute: Callable) -> object:
        """Return compute(internal_batch_size=...), halved until it fits in memory.

        Raises UserError if 1 does not.
        """
        # accelerate's find_executable_batch_size collects garbage in every call, longer than some
        # documents take.
        while True:
            try:
                return compute(internal_batch_size=self.batch_size)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if self.batch_size == 1:
                    raise UserError(
                        "batch size 1 does not fit in memory; lower --max_seq_length"
                    ) from error
            self.batch_size //= 2
            clear_device_cache(garbage_collection=True)

    def evaluate(
        self, embedded: EmbeddedText, alphas: np.ndarray, one_by_one: bool = False
    ) -> list[PathValues]:
        """Evaluate every target's F and its gradient at points b + alpha (x - b) of the path.

        Raises UserError if a gradient is not finite.
        """

        def compute(internal_batch_size: int) -> list[torch.Tensor]:
            baseline, text = embedded.path
            difference = text - baseline
            points = torch.tensor(alphas, dtype=torch.float32, device=baseline.device)
            f, scale, v = [], [], []
            for batch in points.split(internal_batch_size):
                inputs = torch.addcmul(baseline, batch[:, None, None], difference)
                inputs.requires_grad_(True)
                logits = self.forward_from(inputs, embedded.ids[1:].expand(len(batch), -1))
                values = embedded.weights @ logits.T  # (targets, points)
                gradients = [
                    # The last target frees the activations: else they stay until the next batch
                    # has its own.
                    torch.autograd.grad(row.sum(), inputs, retain_graph=target + 1 < len(values))[0]
                    for target, row in enumerate(values)
                ]
                products = torch.stack(gradients).double() * difference.double()
                f.append(values.detach().double())
                scale.append(products.abs().sum((2, 3)))
                v.append(products.sum(3))
            return [torch.cat(parts, 1).cpu().numpy() for parts in (f, scale, v)]

        # Each of them has the targets as its first dimension.
        f, scale, v = compute(internal_batch_size=1) if one_by_one else self.in_batches(compute)
        if not all(np.isfinite(values).all() for values in (f, scale, v)):
            raise UserError(
                f"gradients of document {embedded.id} are not finite; train the model again"
            )
        return [PathValues(*values) for values in zip(f, scale, v, strict=True)]

    def run_rule(self, embedded: EmbeddedText, n: int) -> list[Result]:
        """Return what the rule with n points finds for every target, without captum.

        captum takes the ids of a baseline text, which ZERO and MEAN do not have.
        """
        nodes, weights = quadrature(self.arguments.method, n)
        tables = self.evaluate(embedded, nodes)
        results = []
        for target, table in zip(embedded.weights, tables, strict=True):
            f_baseline, f_input = (embedded.logits @ target).tolist()
            scores = weights @ table.v
            results.append(Result(f_input, f_baseline, scores, n, self.arguments.method, {}, n))
        return results

    def run_captum(self, embedded: EmbeddedText, n: int) -> list[Result]:
        """Return what captum finds for every target.

        Its trapezoid weights sum to (n - 1) / n, which is corrected.
        """
        if embedded.baseline.vector is not None:
            return self.run_rule(embedded, n)
        baseline, ids = embedded.ids.split(1)
        results = []
        for weights in embedded.weights:
            captum = LayerIntegratedGradients(
                lambda ids, weights=weights: self.forward(ids) @ weights, self.embedding_layer
            )
            attributions, delta = self.in_batches(
                functools.partial(
                    captum.attribute,
                    ids,
                    baseline,
                    n_steps=n,
                    method=self.arguments.method,
                    return_convergence_delta=True,
                )
            )
            scores = attributions.detach().sum(-1)[0].double().cpu().numpy()
            if self.arguments.method == "riemann_trapezoid":
                scores *= n / (n - 1)
            f_baseline, f_input = (embedded.logits @ weights).tolist()
            results.append(
                Result(
                    f_input,
                    f_baseline,
                    scores,
                    n,
                    self.arguments.method,
                    {"captum_delta": float(delta)},
                    n,
                )
            )
        return results

    def search(self, embedded: EmbeddedText) -> list[Choice]:
        """Return the choice of the number of steps, and its attributions, for every target."""
        search = PathSearch(
            functools.partial(self.evaluate, embedded),
            self.arguments,
            embedded.id,
            rounding_varies=self.batch_size > 1 and not self.arguments.bf16,
        )
        return search.run()

    def explain_path(self, document: dict, baseline: Baseline) -> ExplainedPath:
        """Return the attributions of an encoded document along the path from a baseline."""
        embedded = self.embed(document, baseline)
        # ADAPT: method. Another one takes the ends of the path, embedded.path, and returns Results.
        if self.arguments.searches:
            results = self.search(embedded)
            forward_evaluations = 4
        else:
            results = self.run_captum(embedded, self.arguments.steps[0])
            forward_evaluations = 4 + 4 * len(results)  # captum needs four itself
        explanations = {
            name: self.explanation(document, result)
            for name, result in zip(embedded.targets, results, strict=True)
        }
        gradient_evaluations = sum(result.gradient_evaluations for result in results)
        return ExplainedPath(embedded, explanations, gradient_evaluations, forward_evaluations)

    def explain(self, document: dict) -> Attribution:
        """Return the attributions of an encoded document, a line of attributions.jsonl."""
        start = time.perf_counter()
        paths = [self.explain_path(document, baseline) for baseline in self.baselines]
        embedded = paths[0].embedded
        probabilities = self.probabilities(embedded.logits[1])
        target = max(embedded.targets, key=probabilities.get)
        # Of every path: the attributions of the target, those of every class if there are several,
        # and what the model says without the strongest words.
        explained = {}
        for path in paths:
            of_target = path.explanations[target]
            without = self.without_top_words(
                document, path.embedded, of_target["word_attributions"]
            )
            classes = {"classes": path.explanations} if len(path.explanations) > 1 else {}
            name = path.embedded.baseline.name
            explained[name] = of_target | classes | {"without_top_words": without}
        first = explained[embedded.baseline.name]
        return Attribution(
            {
                # The document; label and prediction are lists if a text may have several classes
                "id": document["id"],
                "text": document["text"],
                "label": document["label"],
                "truncated": document["truncated"],
                # Tokens and words; spans are characters of the text
                "tokens": document["tokens"],
                "token_spans": document["token_spans"],
                "words": document["words"],
                "word_spans": document["word_spans"],
                "word_ids": document["word_ids"],
                # What is explained
                "target": target,
                "versus": self.arguments.versus,
                "prediction": self.predict(probabilities),
                "probabilities": probabilities,
                # Its attributions from the first baseline; those of every class, and from every
                # baseline, if more than one
                **{key: value for key, value in first.items() if key != "without_top_words"},
                **({"baselines": explained} if len(paths) > 1 else {}),
                "without_top_words": first["without_top_words"],
                # The cost
                "gradient_evaluations": sum(path.gradient_evaluations for path in paths),
                "forward_evaluations": sum(1 + path.forward_evaluations for path in paths),
                "seconds": time.perf_counter() - start,
            }
        )

    def probabilities(self, logits: torch.Tensor) -> dict[str, float]:
        """Return the probability of each class by logits, (classes,)."""
        logits = logits.double()
        scores = logits.sigmoid() if self.is_multi_label else logits.softmax(0)
        return dict(zip(self.labels, scores.tolist(), strict=True))

    def predict(self, probabilities: dict[str, float]) -> str | list[str]:
        """Return the predicted class, or the list of those that reach their thresholds."""
        if not self.is_multi_label:
            return max(probabilities, key=probabilities.get)
        thresholds = zip(self.labels, self.thresholds, strict=True)
        return [name for name, threshold in thresholds if probabilities[name] >= threshold]

    def without_top_words(
        self, document: dict, embedded: EmbeddedText, word_attributions: list[float]
    ) -> dict:
        """Return the three words that speak most for the target, and what the model says without.

        The words' embeddings are those of the baseline. There are fewer words if fewer speak for
        the target.
        """
        ranking = np.argsort(-np.array(word_attributions), kind="stable")[:TOP_WORDS]
        words = [int(word) for word in ranking if word_attributions[word] > 0]
        is_taken = torch.tensor([word in words for word in document["word_ids"]])
        is_taken = is_taken[:, None].to(embedded.path.device)
        with torch.no_grad():
            inputs = torch.where(is_taken, embedded.path[0], embedded.path[1])
            logits = self.forward_from(inputs[None], embedded.ids[1:])[0]
        return {"words": words, "probabilities": self.probabilities(logits)}

    def explanation(self, document: dict, result: Result) -> dict:
        """Return what attributions.jsonl holds of the attributions for one class."""
        scores = result.attributions
        words = len(document["words"])
        # Special tokens are counted as one more word.
        word_ids = [words if word is None else word for word in document["word_ids"]]
        difference = result.f_input - result.f_baseline
        delta = float(scores.sum() - difference)
        # Equal up to rounding in float32: a relative error would be a quotient of rounding errors.
        rounding = 4 * np.finfo(np.float32).eps * max(abs(result.f_input), abs(result.f_baseline))
        return {
            "f_input": result.f_input,
            "f_baseline": result.f_baseline,
            "attributions": scores.tolist(),
            "n_steps": result.n_steps,
            **{name: np.asarray(value).tolist() for name, value in result.evidence.items()},
            "gradient_evaluations": result.gradient_evaluations,
            "method": result.method,
            "delta": delta,
            "word_attributions": np.bincount(word_ids, scores)[:words].tolist(),
            "relative_error": None if abs(difference) <= rounding else abs(delta / difference),
        }


def attribute(
    model, tokenizer, texts: list[str], labels: list[str] | None = None, **arguments
) -> list[Attribution]:
    """Attribute a classifier's predictions; return the objects of attributions.jsonl, one per text.

    model, a PreTrainedModel, stays as it is; labels are the true classes for target="label". The
    other arguments are those of AttributionArguments: target="math.DG", n_steps="auto", ...
    Raises ValueError if one of them is not valid.
    """
    settings = AttributionArguments(**arguments)
    for name, values in (("texts", texts), ("labels", labels)):
        if isinstance(values, str):
            raise UserError(f"{name} is one text, {values[:30]!r}; give a list: [{name[:-1]}]")
    texts = list(texts)
    labels = [None] * len(texts) if labels is None else list(labels)
    if len(labels) != len(texts):
        raise UserError(
            f"there are {len(texts)} texts, but {len(labels)} labels; give one for each"
        )
    documents = []
    for number, (text, label) in enumerate(zip(texts, labels, strict=True), 1):
        if not isinstance(text, str):
            raise UserError(f"text {number} is {type(text).__name__}, not str")
        documents.append({"id": f"text-{number}", "text": text, "label": label})
    check_documents(documents, "texts")
    explainer = Explainer(copy.deepcopy(model).float(), tokenizer, settings)
    for label in each_name(labels):
        if label not in explainer.labels:
            raise UserError(f"the label {label!r} is not one of {', '.join(explainer.labels)}")
    if not explainer.is_multi_label and any(isinstance(label, list) for label in labels):
        raise UserError("a label is a list of classes, but the model chooses one of them")
    if settings.target == "label":
        check_labels(documents, "texts")
    lines = []
    for document in documents:
        explainer.encode(document)
        lines.append(explainer.explain(document))
    return lines


# --------------------------------------------------------------------------------------------------
# Figure 1
# --------------------------------------------------------------------------------------------------


def heading(line: dict) -> str:
    """Return the classes of a document as text."""
    target = line["target"] + (f" rather than {line['versus']}" if line["versus"] else "")
    predicted = name_classes(line["prediction"])
    true = "unknown" if line["label"] is None else name_classes(line["label"])
    return f"target {target}, predicted {predicted}, true {true}"


def name_classes(names: str | list[str]) -> str:
    """Return one or several classes, or none, as text."""
    if isinstance(names, str):
        return names
    return " + ".join(names) or "none"


def answer(line: dict) -> str:
    """Return what the model said and how sure it was, as attributions.html does."""
    names = as_list(line["prediction"])
    said = [f"{name} with probability {line['probabilities'][name]:.2f}" for name in names]
    return ", ".join(said) or "no class"


def truth(line: dict) -> str:
    """Return the true class, and what is explained where that is not the answer."""
    predicted, true = as_list(line["prediction"]), as_list(line["label"])
    if line["label"] is None:
        text = "true class: unknown"
    else:
        text = f"true class{'' if len(true) == 1 else 'es'}: {', '.join(true) or 'none'}"
        if set(predicted) != set(true):
            text += " \N{EM DASH} wrong"
    if line["versus"]:
        text += f"; explained: {line['target']} rather than {line['versus']}"
    elif predicted != [line["target"]]:
        text += f"; explained: {line['target']}"
    if line["truncated"]:
        text += " \N{EM DASH} text truncated at the maximum length"
    if not line["words"]:
        text += " \N{EM DASH} no scores of words, see the tokens"
    return text


# Copied from tools/common/cards.py::NUMBERS
NUMBERS = {1: "strongest word", 2: "two strongest words", 3: "three strongest words"}


# Copied from tools/common/cards.py::as_list
def as_list(classes: str | list[str] | None) -> list[str]:
    """Return the classes of a label or prediction: one, several, or none.

    Raises TypeError if they are neither a text nor a list of texts nor None.
    """
    names = [] if classes is None else classes if isinstance(classes, list) else [classes]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"a class is not a text: {classes!r}")
    return names


# Copied from tools/common/cards.py::without_sentence
def without_sentence(document: dict, measured: dict | None = None) -> str | None:
    """Return what the model says without the words that speak most for the target.

    document is a line of attributions.jsonl. measured is what tools/measure_faithfulness.py found,
    with the words deleted, too. None if neither knows, or if no word speaks for the target.
    """
    without = document.get("without_top_words") or measured
    probabilities = document.get("probabilities")
    if not without or not without["words"] or not probabilities:
        return None
    words = [document["words"][number] for number in without["words"]]
    strongest = NUMBERS.get(len(words), f"{len(words)} strongest words")
    target = document["target"]
    sentence = (
        f"Without the {strongest} ({', '.join(words)}): {target} "
        f"{without['probabilities'][target]:.2f} instead of {probabilities[target]:.2f}"
    )
    deleted = (
        measured and measured["words"] == without["words"] and measured["probabilities_deleted"]
    )
    if deleted:
        sentence += f" ({deleted[target]:.2f} with these words deleted, not replaced)"
    # Where the model chooses one class, and that is the explained one, it may choose another now.
    highest = max(without["probabilities"], key=without["probabilities"].get)
    if document["prediction"] == target != highest:
        sentence += f"; the prediction would be {highest}"
    return sentence + "."


def figure_text(line: dict, level: str) -> list[tuple[str, str]]:
    """Return tokens or words with their colors.

    WordPiece's marks stay (##); tokens with marks of blanks (Ġ, ▁) are replaced by the text.
    """
    texts, scores = line["tokens"], line["attributions"]
    if level == "words":
        texts, scores = line["words"], line["word_attributions"]
    elif line["token_spans"] and any(token[:1] in {"Ġ", "▁"} for token in texts):
        texts = [
            token if span is None else line["text"][span[0] : span[1]].strip() or token
            for span, token in zip(line["token_spans"], texts, strict=True)
        ]
    largest = max(map(abs, scores), default=0) or 1
    colors = RED_TO_GREEN(0.5 + 0.5 * np.array(scores) / largest)
    return list(zip(texts, map(matplotlib.colors.to_hex, colors), strict=True))


def choose_figure(lines: list[dict], ids: list[str] | None) -> list[dict]:
    """Return the documents of --figure_ids, or the three shortest that were not cut."""
    if ids is not None:
        by_id = {line["id"]: line for line in lines}
        return [by_id[name] for name in ids]
    return sorted(lines, key=lambda line: (line["truncated"], len(line["tokens"])))[:3]


def draw_png(lines: list[dict], level: str) -> bytes:
    """Return a PNG of 2,000 pixels width: documents as running text on attributions' colors."""
    figure = Figure(figsize=(10, 1), dpi=200)
    # Coordinates are inches from the upper left corner; the picture is cut to the text at the end.
    draw_text = functools.partial(
        figure.text, transform=Affine2D().scale(0.1, 1) + figure.transFigure, parse_math=False
    )
    y = 0.0
    for line in lines:
        draw_text(0.1, y - 0.3, f"{line['id']}: {heading(line)}", fontsize=8, style="italic")
        x = 0.1
        y -= 0.57
        for text, background in figure_text(line, level):
            box = {"facecolor": background, "edgecolor": "none", "pad": 2}
            artist = draw_text(x, y, text, fontsize=10, bbox=box)
            width = artist.get_window_extent().width / figure.dpi + 0.09
            if x + width > 10 and x > 0.1:  # the next line of text
                x = 0.1
                y -= 0.25
                artist.set_position((x, y))
            x += width
    buffer = io.BytesIO()
    extent = Bbox([[0, y - 0.15], [10, 0]])
    figure.savefig(buffer, format="png", bbox_inches=extent, metadata={"Software": None})
    return buffer.getvalue()


def latex(lines: list[dict], level: str) -> str:
    """Return the figure as a LaTeX document; its body can be pasted into a paper."""
    escape = functools.partial(
        unicode_to_latex, unknown_char_policy="unihex", unknown_char_warning=False
    )
    parts = [
        r"\documentclass{article}"
        r"\usepackage{amsmath,amssymb,textcomp,xcolor}\setlength{\fboxsep}{1pt}",
        r"\newcommand{\token}[2]{\colorbox[HTML]{#1}{\strut #2}\allowbreak\hspace{1pt}}"
        r"\begin{document}\raggedright",
        r"\noindent Green: contribution to the target class; red: against it; darker: larger.",
    ]
    for line in lines:
        title = f"{escape(line['id'])}: {escape(heading(line))}"
        parts.append(rf"\par\medskip\noindent\textit{{{title}}}\\")
        for text, color in figure_text(line, level):
            parts.append(rf"\token{{{color[1:].upper()}}}{{{escape(text)}}}%")
    parts += [r"\end{document}", ""]
    return "\n".join(parts)


# --------------------------------------------------------------------------------------------------
# The output folder: what it holds, interrupted and finished runs
# --------------------------------------------------------------------------------------------------


def identify(explainer: Explainer, documents: list[dict]) -> dict:
    """Return all that the attributions depend on, as settings.json and summary.json hold it.

    Model and documents are named by digests of weights and texts, not by their paths.
    """
    weights = hashlib.sha256()
    for key, values in explainer.model.state_dict().items():
        weights.update(key.encode() + values.cpu().numpy().tobytes())
    texts = [
        [document[key] for key in ("id", "text", "label", "word_spans", "input_ids")]
        for document in documents
    ]
    settings = explainer.arguments.record()
    del settings["internal_batch_size"]  # it does not change the results
    return settings | {
        "max_seq_length": explainer.max_seq_length,
        "text_prefix": explainer.text_prefix,
        "weights_sha256": weights.hexdigest(),
        "config_sha256": explainer.config_sha256,
        "documents_sha256": hashlib.sha256(to_json(texts).encode()).hexdigest(),
    }


# Copied from tools/faithfulness/models.py::config_digest
def config_digest(config: PretrainedConfig) -> str:
    """Return the SHA-256 of what a config.json says of a model, without its path and versions.

    Defaults do not count, as another version of transformers may have more of them.
    """
    content = config.to_diff_dict()
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        content.pop(key, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def check_settings(output: Path, recorded: dict, settings: dict) -> None:
    """Raise UserError if a folder holds results of other settings.

    Folders of version 0.2 have no config_sha256.
    """
    for name, value in settings.items():
        if name == "config_sha256" and name not in recorded:
            continue
        if name == "method" and value is None:  # of --n_steps auto; version 0.2 recorded a rule
            continue
        if name not in recorded:
            message = "attributions of an older version of this script"
        elif recorded[name] == value:
            continue
        elif name == "weights_sha256":
            message = "attributions of another model (other weights) than --model_name_or_path"
        elif name == "config_sha256":
            message = "attributions of another config.json (classes, thresholds, settings)"
        elif name == "documents_sha256":
            message = "attributions of other documents (texts, labels or their order)"
        else:
            message = f"attributions with --{name} {recorded[name]}, not {value}"
        raise UserError(f"{output} holds {message}; choose another folder")


def check_output_dir(output: Path) -> None:
    """Exit with status 2 if the folder cannot be written or is not this script's."""
    partial = output / "partial"
    if partial.is_dir() and not partial.is_symlink():
        # A run that was killed before its first record leaves the lock, and part of the record.
        inside = {path.relative_to(output).as_posix() for path in output.rglob("*")}
        if inside <= {"partial", LOCK, f"{SETTINGS}.tmp"}:
            return
    open_output_dir(output, SCRIPT, (SUMMARY, SETTINGS), OWN_FILES)


def open_output(output: Path, settings: dict) -> filelock.FileLock | None:
    """Make or open the output folder and lock it; return None if its run is finished already.

    Raises UserError if another process uses it or it holds results of other settings.
    """
    check_output_dir(output)
    lock = None
    if not (output / SUMMARY).exists():
        lock = filelock.FileLock(output / LOCK)
        try:
            (output / SETTINGS).parent.mkdir(exist_ok=True)
            lock.acquire(blocking=False)
        except filelock.Timeout as error:
            raise UserError(
                f"another process writes into --output_dir {output}; wait until it is finished"
            ) from error
        except OSError as error:
            raise UserError(f"cannot write into {output}: {error.strerror}") from error
        if not (output / SETTINGS).exists():
            record = {"script": SCRIPT, "settings": settings}
            write_files(output, {SETTINGS: to_json(record) + "\n"})
    record = output / SETTINGS if lock else output / SUMMARY
    try:
        recorded = json.loads(record.read_text(encoding="utf-8")).get("settings")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"cannot read {record}: {one_line(error)}; choose another folder as --output_dir"
        ) from error
    check_settings(output, recorded if isinstance(recorded, dict) else {}, settings)
    return lock


def read_finished(output: Path) -> dict[str, dict]:
    """Return the finished documents of an output folder by id."""
    finished = {}
    if (output / SUMMARY).exists():
        paths = [output / "attributions.jsonl"]
    else:
        paths = sorted((output / SETTINGS).parent.glob("*.jsonl"))
    for path in paths:
        try:
            for line in path.read_text(encoding="utf-8").split("\n"):
                if line:
                    document = json.loads(line)
                    finished[document["id"]] = document
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} is damaged ({one_line(error)}); remove it, or choose another --output_dir"
            ) from error
    return finished


def remove_partial(output: Path) -> None:
    """Remove the files of an unfinished run, and no others."""
    folder = (output / SETTINGS).parent
    try:
        for path in folder.iterdir():
            if re.fullmatch(rf"({OWN_FILES})(\.tmp)?", path.relative_to(output).as_posix()):
                path.unlink()
        folder.rmdir()
    except OSError as error:  # the results are complete without it
        logger.warning("cannot remove %s: %s", folder, error.strerror)


def summarize(
    lines: list[dict],
    arguments: DataArguments,
    explainer: Explainer,
    identity: dict,
    text_format: dict,
    commits: dict,
    processes: int,
) -> dict:
    """Return the content of summary.json."""
    settings = explainer.arguments
    errors = [line["relative_error"] for line in lines if line["relative_error"] is not None]
    stated = [largest_stated_error(line) for line in lines if convergence(line) == "stated"]
    device = explainer.model.device
    return {
        "script": SCRIPT,
        # The documents, their cost and their completeness errors
        "documents": len(lines),
        "gradient_evaluations": sum(line["gradient_evaluations"] for line in lines),
        "forward_evaluations": sum(line["forward_evaluations"] for line in lines),
        "seconds": sum(line["seconds"] for line in lines),
        "truncated": sum(line["truncated"] for line in lines),
        "median_relative_error": float(np.median(errors)) if errors else None,
        "max_relative_error": max(errors, default=None),
        "converged_to_stated_error": len(stated),
        "median_stated_error": float(np.median(stated)) if stated else None,
        "max_stated_error": max(stated, default=None),
        "not_converged": sum(not convergence(line) for line in lines),
        # What the results depend on; run identifies them
        "run": hashlib.sha256(to_json(identity).encode()).hexdigest(),
        "settings": identity,
        "steps": [settings.steps[0], settings.steps[-1]],
        "labels": explainer.labels,
        **text_format,
        "text_prefix": explainer.text_prefix,
        "max_seq_length": explainer.max_seq_length,
        "baseline": explainer.baselines[0].name,
        "baseline_token": explainer.baselines[0].token,
        **several_baselines(explainer.baselines),
        # Where they are from
        **commits,
        "processes": processes,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "datasets": datasets.__version__,
        },
        "arguments": asdict(arguments) | settings.record(),
    }


def convergence(line: dict) -> bool | str:
    """Return whether a document converged: True, "stated", or False, the worst of its parts.

    Of captum's numbers of steps, nothing is known: True.
    """
    values = [part.get("converged", True) for part in explained_parts(line)]
    if False in values:
        return False
    return "stated" if "stated" in values else True


def largest_stated_error(line: dict) -> float:
    """Return the largest error that a part of a document is stated to have."""
    return max(part["stated_error"] or 0 for part in explained_parts(line))


def explained_parts(line: dict) -> list[dict]:
    """Return the attributions that a document has: its own, those of classes and of baselines."""
    parts = [line, *line.get("baselines", {}).values()]
    for part in list(parts):
        parts += part.get("classes", {}).values()
    return parts


def several_baselines(baselines: list[Baseline]) -> dict:
    """Return what summary.json says of more than one baseline; the first is named beside it."""
    if len(baselines) == 1:
        return {}
    tokens = {baseline.name: baseline.token for baseline in baselines}
    return {"baselines": tokens}


# Copied from tools/common/folders.py::model_commit
def model_commit(name: str, revision: str | None) -> str | None:
    """Return the commit of a model that was loaded from the Hub; None for a local folder."""
    file = cached_file(name, "config.json", revision=revision) or ""
    match = re.search(r"/snapshots/([0-9a-f]{40})/", file)
    return match and match[1]


def convergence_remedies(explainer: Explainer) -> str:
    """Return what helps documents that do not converge: flags that were not given."""
    settings = explainer.arguments
    if settings.bf16:
        return "leave out --bf16, whose errors are larger than --tolerance"
    remedies = []
    if settings.n_steps is None:
        remedies.append("--n_steps auto")
    if settings.baseline == ["pad"] and explainer.tokenizer.mask_token_id is not None:
        # Models that normalize first are steepest where the embedding of PAD is 0.
        remedies.append("--baseline mask")
    limit = min(settings.rough_evaluations, settings.max_gradient_evaluations)
    if settings.n_steps == "auto" and limit < SEARCH_DEFAULTS["max_gradient_evaluations"]:
        flags = f"--rough_evaluations {2 * limit}"
        if 2 * limit > settings.max_gradient_evaluations:
            flags += f" --max_gradient_evaluations {2 * limit}"
        remedies.append(flags)
    if not remedies and 10 * settings.tolerance < 1:
        remedies.append(f"--tolerance {10 * settings.tolerance:.0e}")
    if not remedies:
        remedies.append("another --baseline")
    return "try " + " or ".join(remedies)


def report(summary: dict, lines: list[dict], explainer: Explainer) -> None:
    """Log the numbers of a run, and what documents that did not converge mean for a reader."""
    shown = [
        "documents", "gradient_evaluations", "forward_evaluations", "seconds", "truncated",
        "median_relative_error", "max_relative_error", "converged_to_stated_error",
        "not_converged",
    ]  # fmt: skip
    logger.info("%s", {name: summary[name] for name in shown})
    stated = [line for line in lines if convergence(line) == "stated"]
    if stated:
        errors = [largest_stated_error(line) for line in stated]
        logger.warning(
            "%d of %d documents (%s) did not converge to --tolerance %s, because F is too rough on "
            "the path. Their attributions are off by a stated %.1f %% in the median and %.1f %% at "
            "most (sum of the errors to sum of the sizes): strong words can be read, the order of "
            "weak ones cannot; for smaller errors, %s",
            len(stated),
            len(lines),
            examples([line["id"] for line in stated]),
            explainer.arguments.tolerance,
            100 * np.median(errors),
            100 * max(errors),
            convergence_remedies(explainer),
        )
    failed = [line["id"] for line in lines if not convergence(line)]
    if failed:
        logger.warning(
            "%d of %d documents (%s) did not converge within --max_gradient_evaluations %d: not "
            "even the order of their strong words is sure; %s",
            len(failed),
            len(lines),
            examples(failed),
            explainer.arguments.max_gradient_evaluations,
            convergence_remedies(explainer),
        )


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


# Copied from tools/common/folders.py::write_files
def write_files(folder: Path, contents: dict[str, str | bytes | None]) -> None:
    """Write files into a folder, each whole or not at all; None removes a file.

    Exits with status 2 if the disk is full or the folder is read-only.
    """
    try:
        for name, content in contents.items():
            if content is None:
                (folder / name).unlink(missing_ok=True)
            else:
                write(folder / name, content)
    except OSError as error:
        remedy = "run the command again"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space and run the command again"
        fail(f"cannot write into {folder}: {error.strerror}; {remedy}")


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


# --------------------------------------------------------------------------------------------------
# From the command line to the output folder
# --------------------------------------------------------------------------------------------------


def explain_documents(arguments: DataArguments, settings: AttributionArguments) -> None:
    """Attribute documents and write the output folder. Raises UserError on a user's mistake."""
    name = arguments.model_name_or_path
    revision = arguments.model_revision
    output = Path(arguments.output_dir)
    if output.exists():
        check_output_dir(output)

    # 1. Model, tokenizer, documents
    # Attributions are summed in float64, which Apple's MPS lacks.
    has_float64 = torch.accelerator.is_available() and not torch.backends.mps.is_available()
    process = accelerate.PartialState(cpu=not has_float64)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if not process.is_main_process:
        logger.setLevel(logging.ERROR)  # every process would say the same
    model, tokenizer = load_model(name, revision)
    commits = {"dataset_commit": None, "model_commit": model_commit(name, revision)}
    recorded = read_training_record(name, revision)["arguments"]
    text_format = {}
    declared = []  # the classes that the dataset defines
    if arguments.dataset_name is None and arguments.test_file is None:
        documents = read_texts(arguments)
    else:
        columns = choose_columns(arguments, model.config, recorded)
        text_format = {
            "text_column_names": columns.texts,
            "text_column_delimiter": columns.text_delimiter,
        }
        if arguments.dataset_name is not None:
            rows = load_rows(arguments, columns)
            commits["dataset_commit"] = dataset_commit(rows)
            frame = read_rows(arguments, rows, columns)
            declared = class_names(rows.features.get(columns.label)) or []
        else:
            frame = read_test_file(arguments, columns)
        documents = make_documents(frame, columns, arguments)
    check_documents(documents, name_source(arguments))
    missing = set(arguments.figure_ids or []) - {document["id"] for document in documents}
    if missing:
        raise UserError(f"--figure_ids {examples(sorted(missing))}: there is no such document")

    # 2. Tokens and words. A first document shows whether the model can be explained
    warn_if_not_as_trained(
        "text_prefix", settings.text_prefix, trained_setting(model.config, "text_prefix", str)
    )
    warn_if_not_as_trained(
        "max_seq_length",
        settings.max_seq_length,
        trained_setting(model.config, "max_seq_length", int),
    )
    explainer = Explainer(model.to(process.device), tokenizer, settings)
    source = name_source(arguments)
    fit_labels(documents, explainer, declared, recorded.get("label_names"), source)
    if settings.target == "label":
        check_labels(documents, source)
    for baseline in explainer.baselines:
        if baseline.name == "EOS":
            logger.info(
                "the tokenizer has no PAD: its EOS %r is the token of the baseline text",
                baseline.token,
            )
    hide_bar = arguments.disable_tqdm or process.process_index > 0
    for document in tqdm(documents, desc="tokens", unit="document", disable=hide_bar, leave=False):
        explainer.encode(document)
    explainer.embed(documents[0])
    cut = [document["id"] for document in documents if document["truncated"]]
    if cut:
        logger.warning(
            "%d texts were cut at %d tokens: %s", len(cut), explainer.max_seq_length, examples(cut)
        )

    # 3. The output folder: what an interrupted call with the same settings finished is kept
    identity = identify(explainer, documents)
    lock = open_output(output, identity) if process.is_main_process else None
    process.wait_for_everyone()
    finished = read_finished(output)
    ids = [document["id"] for document in documents]
    missing = [name for name in ids if name not in finished]
    if missing and (output / SUMMARY).exists():
        raise UserError(
            f"attributions.jsonl in {output} lacks {len(missing)} documents ({examples(missing)}), "
            "so it was changed; choose another --output_dir"
        )
    logger.info("%d of %d documents are finished already", len(finished), len(documents))

    # 4. Attributions, each in a file of its own until all are finished
    mine = range(process.process_index, len(documents), process.num_processes)
    todo = [number for number in mine if ids[number] not in finished]
    for number in tqdm(
        todo,
        total=len(mine),
        initial=len(mine) - len(todo),
        unit="document",
        disable=hide_bar,
    ):
        line = explainer.explain(documents[number])
        write_files(output / "partial", {f"{number}.jsonl": to_json(line)})
        documents[number].clear()
    process.wait_for_everyone()
    if not process.is_main_process:
        return

    # 5. Results in the documents' order, the figure, and the summary, which marks the folder as
    # finished
    finished = read_finished(output)
    lines = [finished[name] for name in ids]
    chosen = choose_figure(lines, arguments.figure_ids)
    figure = {
        "attributions.png": draw_png(chosen, arguments.figure_level),
        "attributions.tex": latex(chosen, arguments.figure_level),
    }
    write_files(output, figure)
    if lock is not None:
        summary = summarize(
            lines, arguments, explainer, identity, text_format, commits, process.num_processes
        )
        results = {
            "attributions.jsonl": "".join(to_json(line) + "\n" for line in lines),
            SUMMARY: to_json(summary, indent=2) + "\n",  # last: it marks the folder as finished
        }
        write_files(output, results)
        lock.release()
        report(summary, lines, explainer)
    if (output / "partial").is_dir():
        remove_partial(output)
    logger.info(
        "next: python tools/render_attributions.py --attribution_dir %s", shlex.quote(str(output))
    )


def main() -> None:
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        level=logging.INFO,
        stream=sys.stdout,
    )
    arguments, settings = parse_arguments(__doc__, DataArguments, AttributionArguments)
    for holder in (arguments, settings):
        check_names(holder)
    try:
        explain_documents(arguments, settings)
    except UserError as error:
        fail(one_line(error))


if __name__ == "__main__":
    main()
