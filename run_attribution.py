#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "captum==0.9.0",
#     "datasets==5.2.0",
#     "filelock==4.2.12",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pylatexenc==2.11",
#     "PyYAML==6.0.3",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
# ruff: noqa: RUF009 (HfArg is dataclasses.field)
"""Attribute a classifier's predictions to words with integrated gradients (Sundararajan et al., 2017).

The path leads from a baseline text, [CLS] PAD ... PAD [SEP], to the document in the embedding layer's output. F is the
logit of the target. Each document gets the number of steps from 1 to 200 with the smallest completeness error, found
with about 65 gradients instead of 20,100. --n_steps 50 runs captum. Writes attributions.jsonl, summary.json and figure
1 (attributions.png, attributions.tex). An interrupted run continues; a finished one only draws its figure again.

Laptop, one GPU: python run_attribution.py --model_name_or_path runs/minilm --dataset_name data --output_dir DIR
Several GPUs:    accelerate launch --num_processes 4 run_attribution.py (the same flags)
Notebook:        from run_attribution import attribute
"""

import argparse
import contextlib
import copy
import difflib
import functools
import hashlib
import html
import io
import itertools
import json
import logging
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

import accelerate
import datasets
import filelock
import matplotlib.colors
import numpy as np
import torch
import transformers
import yaml
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from captum.attr import LayerIntegratedGradients
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, Bbox
from numpy.polynomial.chebyshev import chebvander
from pylatexenc.latexencode import unicode_to_latex
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, HfArgumentParser
from transformers.hf_argparser import HfArg

logger = logging.getLogger(__name__)

OWN_FILES = (
    r"(attributions\.(jsonl|html|png|tex)|summary\.json|faithfulness\.json)(\.tmp)?|partial(-\w+)?"
)
METHODS = Literal[
    "gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"
]
RED_TO_GREEN = matplotlib.colors.LinearSegmentedColormap.from_list(
    "", ["#e45854", "#ffffff", "#229e49"], 257
)
to_json = functools.partial(json.dumps, ensure_ascii=False, allow_nan=False)  # JSON knows no NaN
LEVELS = (
    31,
    61,
    121,
    241,
    481,
)  # interpolation points of the search; each level contains the one before
MAP = 0.98  # of Kosloff and Tal-Ezer (1993); with 0, points are Chebyshev's, which crowd at the ends of the path
CHECKS = 4  # random points on which the interpolant is tested
SAFETY = 8  # factor on error estimates, as v may have kinks, where coefficients decay more slowly than estimated

# A word as mathematicians write: atoms (a formula in dollars, a LaTeX command or accent, a group in braces, a mark of
# a sub- or superscript, a letter, a digit) with no space between them, or joined by a hyphen or an apostrophe.
BRACES = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
FORMULA = r"\$\$[^$]+\$\$|(?<!\\)\$(?:[^$\\]|\\.)+\$"
ATOM = rf"(?:{FORMULA}|\\[A-Za-z]+\*?(?:{BRACES})*|\\['\"`^~=.](?:{BRACES}|\w)|[_^]?{BRACES}|[\w^])"
WORD = re.compile(rf"{ATOM}+(?:(?:--?|[‐‑–'’]){ATOM}+|(?<=\d)[.,](?=\d){ATOM}+)*|\S")


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
    split: str = HfArg(default="test", help="Split of the dataset.")
    text_column_names: list[str] = HfArg(
        default_factory=lambda: ["abstract"], help="Columns to join."
    )
    max_samples: int | None = HfArg(default=None, help="Use only the first documents.")
    text: list[str] | None = HfArg(default=None, help="One or more texts instead of a dataset.")
    text_file: str | None = HfArg(
        default=None, help="UTF-8 file with one text a line, instead of a dataset."
    )
    figure_ids: list[str] | None = HfArg(
        default=None, help="Documents of the figure. Default: 3 short ones."
    )
    figure_level: Literal["tokens", "words"] = HfArg(
        default="tokens", help="What the figure colors."
    )
    disable_tqdm: bool = HfArg(default=False, help="No progress bar.")


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
        default=None, help="A number: run captum. auto: the integral. Default: search."
    )
    n_steps_search: list[int] | None = HfArg(
        default=None, help="Lowest and highest number. Default: 1 200."
    )
    method: METHODS = HfArg(default="gausslegendre", help="Quadrature rule.")
    tolerance: float = HfArg(
        default=1e-5, help="Error of search and auto, relative to |F(x) - F(b)|."
    )
    max_gradient_evaluations: int = HfArg(
        default=1000, help="Limit of search and auto, per document and class."
    )
    baseline: Literal["pad", "mask"] = HfArg(default="pad", help="Token of the baseline text.")
    text_prefix: str | None = HfArg(
        default=None, help="Put before every text. Default: as in training."
    )
    max_seq_length: int | None = HfArg(
        default=None, help="In tokens. Default: as in training, or 256."
    )
    merge_words: bool = HfArg(default=True, help="Treat $L^2$ or Kähler-Einstein as one word.")
    internal_batch_size: int | None = HfArg(
        default=None, help="Points on the path in a batch. Halved until it fits."
    )
    bf16: bool = HfArg(
        default=False, help="Compute in bfloat16: faster on a GPU, errors near 1 per cent."
    )

    def __post_init__(self) -> None:
        check(
            self.n_steps is None or self.n_steps_search is None,
            "give --n_steps or --n_steps_search, not both",
        )
        least = 1 if self.method == "gausslegendre" else 2  # as in captum
        self.steps = (0,)  # stands for the integral
        if self.n_steps != "auto":
            ends = [self.n_steps] * 2 if self.n_steps else self.n_steps_search or [least, 200]
            low, high = (
                [int(end) if str(end).isdecimal() else 0 for end in ends]
                if len(ends) == 2
                else (0, 0)
            )
            takes = f"{self.method} takes {least} to 1000 steps"
            check(
                least <= low <= high <= 1000,
                f"--n_steps, --n_steps_search: {takes}, or auto, not {ends}",
            )
            self.steps = tuple(range(low, high + 1))
        minima = {
            "max_gradient_evaluations": LEVELS[0] + CHECKS,
            "max_seq_length": 1,
            "internal_batch_size": 1,
        }
        for name, minimum in minima.items():
            value = getattr(self, name)
            check(
                value is None or value >= minimum,
                f"--{name} must be at least {minimum}, not {value}",
            )
        check(0 < self.tolerance < 1, f"--tolerance must be between 0 and 1, not {self.tolerance}")
        contrast = self.versus is None or self.target not in {
            "predicted",
            "label",
            "all",
            self.versus,
        }
        check(contrast, "--versus needs another class as --target: --target A --versus B")


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


def check(condition: object, message: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)


@contextlib.contextmanager
def one_line_errors(prefix: str = "", *kinds: type):
    """Exit with status 2 and one line on errors of the given kinds."""
    try:
        yield
    except kinds as error:
        fail(prefix + one_line(error))


def read_documents(arguments: DataArguments) -> tuple[list[dict], list[str] | None, str | None]:
    """Return documents (dicts with id, text, label: a class name or None), the dataset's classes and its commit."""
    name, texts, classes, commit = arguments.dataset_name, arguments.text, None, None
    check(
        [name, texts, arguments.text_file].count(None) == 2,
        "give exactly one: --dataset_name, --text, --text_file",
    )
    if arguments.text_file is not None:
        texts = (
            Path(arguments.text_file)
            .read_text("utf-8-sig", "surrogateescape")
            .rstrip("\n")
            .split("\n")
        )
    documents = [
        {"id": f"text-{number}", "text": text, "label": None}
        for number, text in enumerate(texts or [], 1)
    ]
    if name is not None:
        with one_line_errors(f"cannot load --dataset_name {name}: ", Exception):
            splits = datasets.load_dataset(name, revision=arguments.dataset_revision)
        check(
            arguments.split in splits,
            f"{name} has no split {arguments.split!r}; it has {', '.join(splits)}",
        )
        rows, columns = splits[arguments.split], ",".join(arguments.text_column_names).split(",")
        for column in [*columns, "id", "label"]:
            check(
                column in rows.column_names,
                f"{name} has no column {column!r}, but {', '.join(rows.column_names)}",
            )
        classes = getattr(rows.features["label"], "names", None)
        check(classes, f"column 'label' of {name} is not a ClassLabel")
        commit = next(
            iter(re.findall(r"hf://[^@]+@(\w+)/", " ".join(rows.info.download_checksums or {}))),
            None,
        )
        for row in itertools.islice(rows, arguments.max_samples):
            label = (
                classes[row["label"]] if row["label"] is not None and row["label"] >= 0 else None
            )
            text = " ".join(str(row[column] or "") for column in columns)
            documents.append({"id": str(row["id"]), "text": text, "label": label})
    documents = documents[: arguments.max_samples]
    unique = len({document["id"] for document in documents}) == len(documents) > 0
    check(unique, f"split {arguments.split} of {name} has no documents, or an id is duplicated")
    for document in documents:
        readable = document["text"].strip() and not re.search("[\ud800-\udfff]", document["text"])
        check(readable, f"the text of document {document['id']} is empty or not valid UTF-8")
    return documents, classes, commit


def load_model(name: str, revision: str | None) -> tuple:
    """Return model (in float32) and tokenizer. Raises ValueError if they are incomplete or a weight is not finite."""
    settings = {"revision": revision, "dtype": torch.float32, "output_loading_info": True}
    with one_line_errors(f"cannot load a classifier from --model_name_or_path {name}: ", Exception):
        model, loading = AutoModelForSequenceClassification.from_pretrained(name, **settings)
    missing = sorted(loading["missing_keys"])[:1]
    check(
        not missing,
        f"{name} is not a trained classifier: it lacks the weights {missing}; fine-tune it first",
    )
    for weight, values in model.named_parameters():
        check(
            values.isfinite().all(),
            f"the weights {weight} of {name} are not all finite (NaN or infinity)",
        )
    with one_line_errors(
        f"{name} has no tokenizer; save the tokenizer next to the model: ", Exception
    ):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        check(
            len(tokenizer) > len(tokenizer.all_special_ids),
            "transformers found none and made an empty one",
        )
    return model, tokenizer


def align_words(words: list, tokens: list) -> tuple[list[int | None], list[list[int]]]:
    """Return every token's word and the spans of the words, from spans (start, end) of both; special tokens are None.

    A token that touches two words joins them; one without characters goes to the next word. Cut words are left out.
    """
    starts, ends = [start for start, _ in words], [end for _, end in words]
    word_ids, spans, reached = [], [], -1
    for token in tokens:
        if token is not None:
            first = min(int(np.searchsorted(ends, token[0], "right")), len(words) - 1)
            last = max(first, int(np.searchsorted(starts, token[1])) - 1)
            if first > reached:
                spans.append([starts[first], ends[last]])
            reached = max(reached, last)
            spans[-1][1] = ends[reached]
        word_ids.append(None if token is None else len(spans) - 1)
    return word_ids, spans


def quadrature(method: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points in [0, 1] and weights, float64 of shape (n,), of captum's rule with n points, its sum made 1."""
    if method == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(n)
        return (1 + nodes) / 2, weights / 2
    weights, shift = np.ones(n), {"riemann_middle": 0.5, "riemann_right": 1}.get(method, 0)
    weights[[0, -1]] = 0.5 if method == "riemann_trapezoid" else 1
    return (np.arange(n) + shift) / weights.sum(), weights / weights.sum()


def chebyshev(alphas: np.ndarray, degree: int) -> np.ndarray:
    """Return T_0(t) ... T_degree(t), (*alphas.shape, degree + 1); alpha = (1 + arcsin(MAP t) / arcsin(MAP)) / 2."""
    return chebvander(np.sin((2 * alphas - 1) * np.arcsin(MAP)) / MAP, degree)


@functools.cache
def search_matrices(method: str, steps: tuple[int, ...], points: int) -> tuple[np.ndarray, ...]:
    """Return the points of a level, ascending, and four matrices for interpolants of degree N = points - 1 on them.

    inverse: from values to coefficients of T_0 ... T_N. aliases: what interpolation makes of T_(N+1) ... T_(4N).
    moments, (steps + 1 + points, N + 1): T_0 ... T_N by the rules of n points, n in steps, the integral (n = 0) and
    the antiderivative at the points. factors: how far off these are for T_(N+1) ... T_(4N).
    """
    degree, t = 4 * (points - 1), -np.cos(np.pi * np.arange(points) / (points - 1))
    alphas = (1 + np.arcsin(MAP * t) / np.arcsin(MAP)) / 2
    nodes, weights = quadrature("gausslegendre", 16)
    widths = np.diff(alphas)[:, None]
    panels = np.einsum(
        "ij,ijk->ik", widths * weights, chebyshev(alphas[:-1, None] + widths * nodes, degree)
    )
    antiderivative = np.vstack([np.zeros(degree + 1), panels.cumsum(0)])
    rules = {0: antiderivative[-1]}
    for n in filter(None, steps):
        nodes, weights = quadrature(method, n)
        rules[n] = weights @ chebyshev(nodes, degree)
    moments, values = (
        np.vstack([*(rules[n] for n in (*steps, 0)), antiderivative]),
        chebyshev(alphas, degree),
    )
    inverse = np.linalg.inv(values[:, :points])
    aliases = inverse @ values[:, points:]
    return (
        alphas,
        inverse,
        aliases,
        moments[:, :points],
        np.abs(moments[:, points:] - moments[:, :points] @ aliases),
    )


def envelope(coefficients: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return sizes, (columns,), and decay, (3 N,), whose products bound the coefficients of degree N + 1 to 4 N.

    coefficients, (N + 1, columns), decay geometrically for an analytic function, at a rate that is the same for all
    tokens, which share the network, and which the map's singularity at t = 1 / MAP limits. Those below noise are 0.
    """
    degree, size = (
        len(coefficients) - 1,
        np.where(np.abs(coefficients) > noise, np.abs(coefficients), 0),
    )
    third, eighth = degree // 3, degree // 8
    ratio = size[-third:].max(0).sum() / max(
        size[-2 * third : -third].max(0).sum(), np.finfo(float).tiny
    )
    rate = max(min(ratio, 0.9) ** (1 / third), MAP / (1 + np.sqrt(1 - MAP**2)))
    last = (size[-eighth:] * rate ** np.arange(eighth - 1, -1, -1)[:, None]).max(0)
    return 8 * last, rate ** np.arange(1, 3 * degree + 1)


def choose(arguments: AttributionArguments, rows: np.ndarray, check_alphas: np.ndarray) -> dict:
    """Choose the number of steps with the smallest completeness error by an interpolant of v, which gives all rules.

    rows, (CHECKS + points, 2 + tokens), are values at check_alphas and on a level's points. An n is certain if its
    results are right to the tolerance and no n has a completeness error that is smaller by more. Among those with the
    smallest one up to rounding, the smallest n wins whose tokens, not only their sum, are near the integral: then, the
    document has converged. It is settled if more points would not change the choice.
    """
    table, tiny = rows[CHECKS:], np.finfo(float).tiny
    points, difference = len(table), table[-1, 0] - table[0, 0]
    _, inverse, aliases, moments, factors = search_matrices(
        arguments.method, arguments.steps, points
    )
    v_checks, v = np.split(np.column_stack([rows[:, 2:], rows[:, 2:].sum(1)]), [CHECKS])
    # Error of a float32 gradient; compared with float64 it was 0.1 to 3 times this on several encoders.
    unit = 2**-10 if arguments.bf16 else np.finfo(np.float32).eps
    rounding = unit * np.sqrt((table[:, 1] ** 2).mean())
    noise = 4 * np.hypot(
        rounding / np.sqrt(points), 2 * unit * np.abs(table[[0, -1], 0]).max()
    )  # of a sum
    f_tail = (inverse @ table[:, 0])[
        -(points // 8) :
    ]  # rounding errors of F, unless it is not resolved yet
    f_noise = max(noise, 4 * min(np.sqrt(points * (f_tail**2).mean()), 2 * rounding))
    coefficients = inverse @ v
    # Four standard deviations where rounding is at its upper end: what is left of it would look like slow decay.
    sizes, decay = envelope(coefficients, 12 * rounding * np.sqrt(2 / points))
    # Attributions and their sum by every rule and, last, the integral: (steps + 1, tokens + 1); their errors
    results, f = np.split(moments @ coefficients, [-points])
    errors, f_errors = np.split(np.outer(factors @ decay, sizes), [-points])
    # The estimate must hold for F, the antiderivative of the summed interpolant, and for v at the random points.
    f_off = np.abs(f[:, -1] - (table[:, 0] - table[0, 0])) - f_noise
    at_checks = chebyshev(check_alphas, 4 * (points - 1))
    v_off = np.abs(at_checks[:, :points] @ coefficients - v_checks) - 12 * rounding
    v_errors = np.outer(
        np.abs(at_checks[:, points:] - at_checks[:, :points] @ aliases) @ decay, sizes
    )
    errors *= max(
        1, *SAFETY * (f_off / (f_errors[:, -1] + tiny)), SAFETY * (v_off / (v_errors + tiny)).max()
    )
    gaps, distances = np.abs(results[:, -1] - difference), np.abs(results - results[-1])[:-1, :-1]
    allowed = max(arguments.tolerance * abs(difference), noise)
    smallest = max(0, (gaps - errors[:, -1])[:-1].min())
    certain = ((errors.max(1) <= allowed) & (gaps + errors[:, -1] <= smallest + allowed))[:-1]
    # Rounding errors move the border of certainty; for groups of 25 numbers, they seldom do.
    certain &= ~np.isin(groups := np.array(arguments.steps) // 25, groups[~certain])
    near = 10 * arguments.tolerance * np.abs(results[-1, :-1]).sum()
    is_near, candidates = distances.sum(1) <= near, certain if certain.any() else ~certain
    ties, wide_ties = (
        candidates & (gaps[:-1] <= gaps[:-1][candidates].min() + more) for more in (noise, allowed)
    )
    chosen = next(
        np.flatnonzero(part)[0]
        for part in (ties & is_near, wide_ties & is_near, ties)
        if part.any()
    )
    is_right = bool(
        certain.any() and errors[-1].max() <= allowed and gaps[-1] <= max(allowed, f_noise)
    )
    none_is_near = ((distances - errors[:-1, :-1] - errors[-1, :-1]).clip(0).sum(1) > near).all()
    found = {
        "f_input": float(table[-1, 0]),
        "f_baseline": float(table[0, 0]),
        "attributions": results[chosen, :-1],
    }
    found |= {
        "n_steps": arguments.steps[chosen] or points,
        "converged": is_right and bool(is_near[chosen]),
    }
    found["settled"] = found["converged"] or bool(is_right and none_is_near)
    found["attribution_errors"] = (
        distances[chosen] + SAFETY * (errors[chosen] + errors[-1])[:-1] + 5 * noise
    )
    return found | {"gaps": [float(f"{gap:.3g}") for gap in gaps[:-1]]}


def is_stable(
    arguments: AttributionArguments, rows: np.ndarray, check_alphas: np.ndarray, found: dict
) -> bool:
    """Return whether choose() finds the same with other rounding errors, 2.5 times those of MiniLM on a CPU."""
    errors = (
        np.random.default_rng(0).normal(size=(4, *rows.shape)) * np.finfo(np.float32).eps * rows
    )
    errors[:, :, 2:] *= (
        0.5 * np.linalg.norm(rows[:, 1]) / max(np.linalg.norm(rows[:, 2:]), np.finfo(float).tiny)
    )
    others = (choose(arguments, rows + one, check_alphas) for one in (*errors, *-errors))
    return all(
        one["settled"] * one["n_steps"] == found["settled"] * found["n_steps"] for one in others
    )


class Attribution(dict):
    """A line of attributions.jsonl, which a notebook shows as an article with the elements of attributions.html."""

    def _repr_html_(self) -> str:
        head = f'<h2>{html.escape(self["id"])}</h2><p class="meta">{html.escape(heading(self))}</p>'
        shown = figure_text(self, "words")
        words = " ".join(
            f'<span style="background: {color}">{html.escape(text)}</span>' for text, color in shown
        )
        return f'<article>{head}<p class="text" style="color: #1b1b1b; line-height: 1.8">{words}</p></article>'


@dataclass
class Explainer:
    """A classifier, frozen and on its device, with its tokenizer. Raises ValueError if arguments do not fit them."""

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    arguments: AttributionArguments

    def __post_init__(self) -> None:
        # Without gradients of the weights, the activations that these need are not kept.
        arguments, config, base = (
            self.arguments,
            self.model.config,
            self.model.requires_grad_(False).eval().base_model,
        )
        self.labels = [config.id2label[number] for number in range(config.num_labels)]
        check(
            len(self.labels) > 1,
            "the model has one output; attribution needs a classifier of two or more classes",
        )
        known = ["predicted", "label", "all", *self.labels]
        check(
            arguments.target in known,
            f"--target {arguments.target} is not one of {', '.join(known)}",
        )
        check(
            arguments.versus in {None, *self.labels},
            f"--versus {arguments.versus} is not one of {self.labels}",
        )
        self.baseline_token_id = getattr(self.tokenizer, f"{arguments.baseline}_token_id")
        check(
            self.baseline_token_id is not None,
            f"no {arguments.baseline} token in the tokenizer; change --baseline",
        )
        self.embedding_layer = getattr(base, "embeddings", None) or base.get_input_embeddings()
        padding = getattr(
            getattr(self.embedding_layer, "position_embeddings", None), "padding_idx", None
        )
        self.first_position = (
            0 if padding is None else padding + 1
        )  # RoBERTa counts from padding_idx + 1
        positions = getattr(config, "max_position_embeddings", None) or sys.maxsize
        longest = min(positions - self.first_position, self.tokenizer.model_max_length)
        shortest = self.tokenizer.num_special_tokens_to_add() + 1
        length = arguments.max_seq_length or min(
            longest, getattr(config, "max_seq_length", None) or 256
        )
        check(
            shortest <= length <= longest,
            f"--max_seq_length must be from {shortest} to {longest}, not {length}",
        )
        prefix, self.max_seq_length = getattr(config, "text_prefix", None) or "", length
        self.text_prefix = prefix if arguments.text_prefix is None else arguments.text_prefix
        self.batch_size = arguments.internal_batch_size or {"cpu": 16, "cuda": 512}.get(
            self.model.device.type, 64
        )

    def encode(self, document: dict) -> None:
        """Add input_ids, tokens, special (mask), truncated, words, word_ids, spans; put the prefix before the text."""
        text, is_fast = self.text_prefix + document["text"], self.tokenizer.is_fast
        flags = {"return_special_tokens_mask": True, "return_offsets_mapping": is_fast}
        encoding = self.tokenizer(text, truncation=True, max_length=self.max_seq_length, **flags)
        ids, masks = encoding["input_ids"], [bool(mask) for mask in encoding["special_tokens_mask"]]
        tokens = self.tokenizer.convert_ids_to_tokens(ids)
        spans = encoding["offset_mapping"] if is_fast else [(k, k + 1) for k in range(len(ids))]
        token_spans = [None if mask else span for mask, span in zip(masks, spans, strict=True)]
        words = [match.span() for match in WORD.finditer(text)]
        if not is_fast:  # without offsets, every token is a word of its own
            words = list(filter(None, token_spans))
        elif not self.arguments.merge_words:
            words = [
                encoding.word_to_chars(number) for number in sorted({*encoding.word_ids()} - {None})
            ]
        word_ids, word_spans = align_words(words, token_spans)
        names = [text[start:end] if is_fast else tokens[start] for start, end in word_spans]
        document |= {
            "input_ids": ids,
            "special": masks,
            "tokens": tokens,
            "words": names,
            "word_ids": word_ids,
        }
        document |= {
            "word_spans": word_spans if is_fast else None,
            "token_spans": token_spans if is_fast else None,
        }
        document |= {
            "text": text,
            "truncated": len(self.tokenizer(text, verbose=False)["input_ids"]) > len(ids),
        }

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits, (texts, classes), of ids, (texts, tokens). Positions are counted over PAD ids, too."""
        positions = (
            torch.arange(ids.shape[1], device=ids.device).expand_as(ids) + self.first_position
        )
        extra = {"position_ids": positions} if self.first_position else {}
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.arguments.bf16):
            return self.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), **extra
            ).logits.float()

    def embed(self, document: dict) -> None:
        """Add ids, (2, tokens), path, (2, tokens, hidden), and logits, (2, classes), of baseline and text; targets,
        the classes, and weights, (targets, classes): the functions F that are attributed are weights @ logits.
        """
        target, versus, layer, captured = (
            self.arguments.target,
            self.arguments.versus,
            self.embedding_layer,
            [],
        )
        text = torch.tensor(document["input_ids"], device=self.model.device)
        special = torch.tensor(document["special"], device=text.device)
        ids = torch.stack([torch.where(special, text, self.baseline_token_id), text])
        with torch.no_grad(), layer.register_forward_hook(lambda *call: captured.append(call[-1])):
            logits = self.forward(ids)
        check(
            logits.isfinite().all(),
            f"logits of document {document['id']} are not finite; train the model again",
        )
        with torch.no_grad(), layer.register_forward_hook(lambda *call: captured[0]):
            difference = (
                (self.forward(ids[[1, 1]]) - logits).abs().max()
            )  # with the masks and positions of the text
        same = len(captured) == 1 and difference <= (0.1 if self.arguments.bf16 else 1e-3) * (
            1 + logits.abs().max()
        )
        check(
            same,
            "it does not read a text by one embedding a token, or it pools another token of the baseline",
        )
        check(target != "label" or document["label"], "--target label needs documents with a label")
        names = {
            "predicted": [self.labels[int(logits[1].argmax())]],
            "label": [document["label"]],
            "all": self.labels,
        }
        document["targets"] = names.get(target, [target])
        one_hot = dict(
            zip(self.labels, torch.eye(len(self.labels), device=text.device), strict=True)
        ) | {None: 0}
        weights = torch.stack([one_hot[name] - one_hot[versus] for name in document["targets"]])
        document |= {"ids": ids, "path": captured[0].float(), "logits": logits, "weights": weights}

    def in_batches(self, compute: Callable) -> object:
        """Return compute(internal_batch_size=...), halved until it fits in memory. Raises ValueError if 1 does not."""
        # accelerate's find_executable_batch_size collects garbage in every call, longer than some documents take.
        while True:
            try:
                return compute(internal_batch_size=self.batch_size)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                check(
                    self.batch_size > 1,
                    "batch size 1 does not fit in memory; lower --max_seq_length",
                )
            self.batch_size //= 2
            clear_device_cache(garbage_collection=True)

    def evaluate(self, document: dict, alphas: np.ndarray) -> np.ndarray:
        """Evaluate points b + alpha (x - b) of the path. Returns float64 (targets, points, 2 + tokens): F, the sum of
        |grad F * (x - b)| (the scale of rounding errors) and v(alpha) = grad F * (x - b) summed over the hidden
        dimension. Raises ValueError if one is not finite.
        """

        def compute(internal_batch_size: int) -> np.ndarray:
            baseline, difference, tables = (
                document["path"][0],
                document["path"][1] - document["path"][0],
                [],
            )
            for batch in torch.tensor(alphas, dtype=torch.float32, device=baseline.device).split(
                internal_batch_size
            ):
                embedded = torch.addcmul(baseline, batch[:, None, None], difference).requires_grad_(
                    True
                )
                with self.embedding_layer.register_forward_hook(
                    lambda *call, embedded=embedded: embedded
                ):
                    f = (
                        document["weights"]
                        @ self.forward(document["ids"][1:].expand(len(batch), -1)).T
                    )
                gradients = [
                    torch.autograd.grad(one.sum(), embedded, retain_graph=True)[0] for one in f
                ]
                v = torch.stack(gradients).double() * difference.double()
                tables.append(
                    torch.cat([torch.stack([f.detach(), v.abs().sum((2, 3))], -1), v.sum(3)], -1)
                )
            return torch.cat(tables, 1).cpu().numpy()

        rows = self.in_batches(compute)
        check(
            np.isfinite(rows).all(),
            f"gradients of document {document['id']} are not finite; train the model again",
        )
        return rows

    def run_captum(self, document: dict, n: int) -> list[dict]:
        """Return what captum finds for every target. Its trapezoid weights sum to (n - 1) / n, which is corrected."""
        (baseline, ids), found = document["ids"].split(1), []
        settings = {"n_steps": n, "method": self.arguments.method, "return_convergence_delta": True}
        for one in document["weights"]:
            captum = LayerIntegratedGradients(
                lambda ids, one=one: self.forward(ids) @ one, self.embedding_layer
            )
            attributions, delta = self.in_batches(
                functools.partial(captum.attribute, ids, baseline, **settings)
            )
            scores = attributions.detach().sum(-1)[0].double().cpu().numpy()
            scores *= n / (n - 1) if self.arguments.method == "riemann_trapezoid" else 1
            ends = zip(("f_baseline", "f_input"), (document["logits"] @ one).tolist(), strict=True)
            found.append(
                dict(
                    ends,
                    attributions=scores,
                    n_steps=n,
                    gradient_evaluations=n,
                    captum_delta=float(delta),
                )
            )
        return found

    def search(self, document: dict, spent: int = 0) -> list[dict]:
        """Return what choose() finds for every target, on more and more points until it is settled."""
        arguments, limit = self.arguments, self.arguments.max_gradient_evaluations - spent
        matrices = functools.partial(search_matrices, arguments.method, arguments.steps)
        check_alphas = np.random.default_rng(
            [*hashlib.sha256(document["id"].encode()).digest()]
        ).uniform(size=CHECKS)
        tables = self.evaluate(document, np.append(check_alphas, matrices(LEVELS[0])[0]))
        for finer in (*LEVELS[1:], sys.maxsize):
            found = [choose(arguments, rows, check_alphas) for rows in tables]
            stable = (
                is_stable(arguments, rows, check_alphas, found[k]) for k, rows in enumerate(tables)
            )
            if (
                self.batch_size > 1
                and not arguments.bf16
                and 2 * tables.shape[1] <= limit
                and not all(stable)
            ):
                # Points that are evaluated one by one have the same rounding errors whatever the batch size is.
                one_by_one = replace(self, arguments=replace(arguments, internal_batch_size=1))
                return one_by_one.search(document, tables.shape[1])
            if all(one["settled"] for one in found) or finer + CHECKS > limit:
                break
            between = self.evaluate(document, matrices(finer)[0][1::2])
            tables = np.insert(tables, np.arange(CHECKS + 1, tables.shape[1]), between, axis=1)
        for k, one in enumerate(found):  # where points do not suffice, the rule itself is evaluated
            one["gradient_evaluations"] = tables.shape[1] + spent
            if (
                not one["settled"]
                and arguments.n_steps is None
                and tables.shape[1] + one["n_steps"] <= limit
            ):
                (rule,) = self.run_captum(
                    document | {"weights": document["weights"][[k]]}, one["n_steps"]
                )
                one["attribution_errors"] += np.abs(rule["attributions"] - one["attributions"])
                one["attributions"] = rule["attributions"]
                one["gradient_evaluations"] += one["n_steps"]
        return found

    def explain(self, document: dict) -> Attribution:
        """Return the attributions of an encoded document, a line of attributions.jsonl."""
        start, arguments, classes = time.perf_counter(), self.arguments, {}
        self.embed(document)
        searched = arguments.n_steps in {None, "auto"}
        found = self.search(document) if searched else self.run_captum(document, *arguments.steps)
        words = len(document["words"])  # special tokens are counted as one more word
        word_ids = [words if number is None else number for number in document["word_ids"]]
        for name, one in zip(document["targets"], found, strict=True):
            difference, scores = one["f_input"] - one["f_baseline"], one["attributions"]
            line = {
                key: np.asarray(value).tolist() for key, value in one.items() if key != "settled"
            }
            line |= {"method": arguments.method, "delta": float(scores.sum() - difference)}
            line |= {"word_attributions": np.bincount(word_ids, scores)[:words].tolist()}
            # Equal up to rounding in float32: a relative error would be a quotient of two rounding errors.
            equal = abs(difference) <= 4 * np.finfo(np.float32).eps * max(
                abs(one["f_input"]), abs(one["f_baseline"])
            )
            classes[name] = line | {
                "relative_error": None if equal else abs(line["delta"] / difference)
            }
        probabilities = dict(
            zip(self.labels, document["logits"][1].double().softmax(0).tolist(), strict=True)
        )
        prediction = max(probabilities, key=probabilities.get)
        target = prediction if len(classes) > 1 else document["targets"][0]
        names = (
            "id",
            "text",
            "label",
            "truncated",
            "tokens",
            "token_spans",
            "words",
            "word_spans",
            "word_ids",
        )
        line = {name: document[name] for name in names} | {
            "target": target,
            "versus": arguments.versus,
        }
        line |= {"prediction": prediction, "probabilities": probabilities, **classes[target]}
        line |= {"classes": classes} if len(classes) > 1 else {}
        line["gradient_evaluations"] = sum(one["gradient_evaluations"] for one in found)
        line["forward_evaluations"] = (
            4 if searched else 4 + 4 * len(found)
        )  # captum needs four itself
        return Attribution(line | {"seconds": time.perf_counter() - start})


def attribute(
    model, tokenizer, texts: list[str], labels: list[str] | None = None, **arguments
) -> list[Attribution]:
    """Attribute a classifier's predictions for texts; return the objects of attributions.jsonl, one a text.

    model, a PreTrainedModel, stays as it is; labels are the true classes for target="label". The other arguments are
    those of AttributionArguments: target="math.DG", n_steps="auto", ... Raises ValueError if one of them is not valid.
    """
    explainer, lines = (
        Explainer(copy.deepcopy(model).float(), tokenizer, AttributionArguments(**arguments)),
        [],
    )
    for number, (text, label) in enumerate(
        zip(texts, labels or [None] * len(texts), strict=True), 1
    ):
        document = {"id": f"text-{number}", "text": text, "label": label}
        explainer.encode(document)
        lines.append(explainer.explain(document))
    return lines


def heading(line: dict) -> str:
    """Return the classes of a document as text."""
    target = line["target"] + (f" rather than {line['versus']}" if line["versus"] else "")
    return f"target {target}, predicted {line['prediction']}, true {line['label'] or 'unknown'}"


def figure_text(line: dict, level: str) -> list[tuple[str, str]]:
    """Return tokens or words with their colors. WordPiece's marks stay; marks of blanks are replaced by the text."""
    texts, scores = line["tokens"], line["attributions"]
    if level == "words":
        texts, scores = line["words"], line["word_attributions"]
    elif line["token_spans"] and any(token[:1] in {"Ġ", "▁"} for token in texts):
        spans = [span or (0, 0) for span in line["token_spans"]]
        texts = [
            line["text"][i:j].strip() or token for (i, j), token in zip(spans, texts, strict=True)
        ]
    colors = RED_TO_GREEN(0.5 + 0.5 * np.array(scores) / (max(map(abs, scores), default=0) or 1))
    return list(zip(texts, map(matplotlib.colors.to_hex, colors), strict=True))


def draw_png(lines: list[dict], level: str) -> bytes:
    """Return a PNG of 2,000 pixels width: the documents as running text on the colors of their attributions."""
    figure, buffer, y = Figure(figsize=(10, 1), dpi=200), io.BytesIO(), 0.0
    place = functools.partial(
        figure.text, transform=Affine2D().scale(0.1, 1) + figure.transFigure, parse_math=False
    )
    for line in lines:
        place(0.1, y - 0.3, f"{line['id']}: {heading(line)}", fontsize=8, style="italic")
        x, y = 0.1, y - 0.57
        for text, background in figure_text(line, level):
            artist = place(
                x,
                y,
                text,
                fontsize=10,
                bbox={"facecolor": background, "edgecolor": "none", "pad": 2},
            )
            width = artist.get_window_extent().width / figure.dpi + 0.09
            if x + width > 10 and x > 0.1:
                x, y = 0.1, y - 0.25
                artist.set_position((x, y))
            x += width
    figure.savefig(
        buffer,
        format="png",
        bbox_inches=Bbox([[0, y - 0.15], [10, 0]]),
        metadata={"Software": None},
    )
    return buffer.getvalue()


def latex(lines: list[dict], level: str) -> str:
    """Return the figure as a LaTeX document; its body can be pasted into a paper."""
    escape = functools.partial(
        unicode_to_latex, unknown_char_policy="unihex", unknown_char_warning=False
    )
    parts = [
        r"\documentclass{article}\usepackage{amsmath,amssymb,textcomp,xcolor}\setlength{\fboxsep}{1pt}",
        r"\newcommand{\token}[2]{\colorbox[HTML]{#1}{\strut #2}\allowbreak\hspace{1pt}}\begin{document}\raggedright",
        r"\noindent Green: contribution to the target class; red: against it; darker: larger.",
    ]
    for line in lines:
        parts.append(
            rf"\par\medskip\noindent\textit{{{escape(line['id'])}: {escape(heading(line))}}}\\"
        )
        parts += [
            rf"\token{{{rgb[1:].upper()}}}{{{escape(text)}}}%"
            for text, rgb in figure_text(line, level)
        ]
    return "\n".join([*parts, r"\end{document}", ""])


def read_finished(output: Path) -> dict[str, dict]:
    """Return the finished documents of an output folder by id."""
    paths = output.glob(
        "attributions.jsonl" if (output / "summary.json").exists() else "partial/*.jsonl"
    )
    lines = [
        json.loads(line)
        for path in paths
        for line in path.read_text(encoding="utf-8").split("\n")
        if line
    ]
    return {line["id"]: line for line in lines}


def open_output(output: Path, settings: dict) -> filelock.FileLock:
    """Lock an output folder. Raises ValueError if another process uses it or it holds results of other settings."""
    summary, record = output / "summary.json", output / "partial" / "settings.json"
    lock = filelock.FileLock(record.with_name("lock"))
    if not summary.exists():
        record.parent.mkdir(parents=True, exist_ok=True)
        with one_line_errors(
            f"another process writes into --output_dir {output}: ", filelock.Timeout
        ):
            lock.acquire(blocking=False)
        if not record.exists():
            write(record, to_json({"settings": settings}))
    found = json.loads((summary if summary.exists() else record).read_text(encoding="utf-8")).get(
        "settings", {}
    )
    for name, value in settings.items():
        old = found.get(name, "of an older version of this script")
        check(
            old == value,
            f"{output} holds attributions with --{name} {old}, not {value}; choose another folder",
        )
    return lock


@one_line_errors("", ValueError, OSError, RuntimeError)
def main() -> None:
    # 1. Arguments
    style = {"format": "%(asctime)s %(levelname)s %(message)s", "datefmt": "%H:%M:%S"}
    logging.basicConfig(**style, level=logging.INFO, stream=sys.stdout)
    arguments, settings = parse_arguments(__doc__, DataArguments, AttributionArguments)
    name, revision, output = (
        arguments.model_name_or_path,
        arguments.model_revision,
        Path(arguments.output_dir),
    )
    check(
        arguments.max_samples is None or arguments.max_samples > 0,
        "--max_samples must be at least 1",
    )
    for flag, place in (
        ("model_revision", name),
        ("dataset_revision", arguments.dataset_name or "."),
    ):
        on_hub = getattr(arguments, flag) is None or not Path(place).is_dir()
        check(on_hub, f"--{flag} needs a name on the Hub; a local folder has no revisions")
    foreign = [path.name for path in output.glob("*") if not re.fullmatch(OWN_FILES, path.name)]
    check(
        not foreign and not output.is_file(),
        f"{output} holds {foreign}; choose another folder as --output_dir",
    )

    # 2. Documents, model, tokenizer
    process = accelerate.PartialState(cpu=not torch.accelerator.is_available())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    documents, classes, dataset_commit = read_documents(arguments)
    ids = [document["id"] for document in documents]
    check(
        {*(arguments.figure_ids or [])} <= {*ids},
        f"--figure_ids {arguments.figure_ids}: not all are documents",
    )
    model, tokenizer = load_model(name, revision)
    commit = re.search(
        r"/snapshots/(\w{40})/",
        transformers.utils.cached_file(name, "config.json", revision=revision),
    )
    with one_line_errors(f"cannot attribute {name} ({type(model).__name__}): ", Exception):
        explainer = Explainer(model.to(process.device), tokenizer, settings)
        for document in documents:
            explainer.encode(document)
        explainer.embed(dict(documents[0]))
    check(
        not classes or {*classes} == {*explainer.labels},
        f"the model has classes {explainer.labels}, not {classes}",
    )
    if cut := [document["id"] for document in documents if document["truncated"]]:
        logger.warning(
            "%d texts were cut at %d tokens: %s",
            len(cut),
            explainer.max_seq_length,
            ", ".join(cut[:9]),
        )

    # 3. The output folder: what an interrupted call with the same settings finished is kept
    texts = [
        [document[key] for key in ("id", "text", "label", "word_spans", "input_ids")]
        for document in documents
    ]
    weights = hashlib.sha256()
    for key, values in model.state_dict().items():
        weights.update(key.encode() + values.cpu().numpy().tobytes())
    identity = asdict(settings) | {
        key: getattr(explainer, key) for key in ("max_seq_length", "text_prefix")
    }
    identity |= {"model_name_or_path": f"weights {weights.hexdigest()[:16]}"}
    identity |= {
        "dataset_name": f"documents {hashlib.sha256(to_json(texts).encode()).hexdigest()[:16]}"
    }
    del identity["internal_batch_size"]
    lock = open_output(output, identity) if process.is_main_process else None
    process.wait_for_everyone()

    # 4. Attributions
    finished, mine = (
        read_finished(output),
        documents[process.process_index :: process.num_processes],
    )
    logger.info("%d of %d documents are finished already", len(finished), len(documents))
    todo = [document for document in mine if document["id"] not in finished]
    hidden = arguments.disable_tqdm or process.process_index > 0
    for document in tqdm(
        todo, total=len(mine), initial=len(mine) - len(todo), unit="document", disable=hidden
    ):
        write(
            output / f"partial/{ids.index(document['id'])}.jsonl",
            to_json(explainer.explain(document)),
        )
        document.clear()
    process.wait_for_everyone()
    if not process.is_main_process:
        return

    # 5. Results in the documents' order, figure, and the summary, which marks the folder as finished
    finished = read_finished(output)
    lines = [finished[key] for key in ids]
    shortest = sorted(lines, key=lambda line: (line["truncated"], len(line["tokens"])))[:3]
    chosen = [finished[key] for key in arguments.figure_ids] if arguments.figure_ids else shortest
    write(output / "attributions.png", draw_png(chosen, arguments.figure_level))
    write(output / "attributions.tex", latex(chosen, arguments.figure_level))
    if not (output / "summary.json").exists():
        write(output / "attributions.jsonl", "".join(to_json(line) + "\n" for line in lines))
        errors = [line["relative_error"] for line in lines if line["relative_error"] is not None]
        sums, tools = (
            "gradient_evaluations forward_evaluations seconds truncated",
            (torch, transformers, datasets),
        )
        summary = {"documents": len(lines)} | {
            key: sum(line[key] for line in lines) for key in sums.split()
        }
        summary |= {"median_relative_error": float(np.median(errors)) if errors else None}
        summary |= {"max_relative_error": max(errors, default=None)}
        summary |= {"not_converged": sum(not line.get("converged", True) for line in lines)}
        logger.info("%s", summary)
        summary |= {
            "run": hashlib.sha256(to_json(identity).encode()).hexdigest(),
            "settings": identity,
        }
        summary |= {
            "steps": [settings.steps[0], settings.steps[-1]],
            "processes": process.num_processes,
        }
        summary |= {
            key: getattr(explainer, key) for key in ("labels", "text_prefix", "max_seq_length")
        }
        summary |= {"dataset_commit": dataset_commit, "model_commit": commit and commit[1]}
        summary["device"] = (
            torch.cuda.get_device_name() if process.device.type == "cuda" else str(process.device)
        )
        summary["versions"] = {"python": sys.version.split()[0]} | {
            tool.__name__: tool.__version__ for tool in tools
        }
        summary["arguments"] = asdict(arguments) | asdict(settings)
        write(output / "summary.json", to_json(summary, indent=2) + "\n")
        lock.release()
        for folder in output.glob("partial*"):
            shutil.rmtree(folder)
        if summary["not_converged"]:
            hint = "%d documents did not converge within --max_gradient_evaluations %d; use --n_steps auto"
            logger.warning(hint, summary["not_converged"], settings.max_gradient_evaluations)
    logger.info("next: python tools/render_attributions.py --attribution_dir %s", output)


if __name__ == "__main__":
    main()
