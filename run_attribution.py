#!/usr/bin/env python
"""Attribute a classifier's decision to the words of each document by integrated gradients (Sundararajan et al., 2017).

The path runs from a baseline text, [CLS] PAD ... PAD [SEP], to the document, in the space of the embedding layer's
output; what is attributed is the logit of the target class. By default the number of steps is, for every document,
the one from 1 to 200 with the smallest completeness error, found with 129 gradients or so instead of 20,100.

Laptop:   python run_attribution.py --model_name_or_path runs/minilm --dataset_name data --output_dir attributions
One GPU:  the same command; it takes the GPU
Several:  accelerate launch --num_processes 4 run_attribution.py (the same flags)

Writes attributions.jsonl (a line a document) and summary.json; then run_faithfulness.py and render_attribution.py
beside this file add faithfulness.json, attributions.html, .png and .tex. A stopped run continues when called again.
"""

import argparse
import difflib
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, NoReturn

import accelerate
import datasets
import numpy as np
import psutil
import scipy
import torch
import transformers
import yaml
from accelerate.utils.memory import should_reduce_batch_size
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, HfArgumentParser

logger = logging.getLogger(__name__)

OWN_FILES = r"(attributions\.(jsonl|html|png|tex)|summary\.json|faithfulness\.json)(\.tmp)?|partial-\w+"
MAX_STEPS = 1000
MAX_POINTS = {"cpu": 33, "cuda": 1024}  # in a batch: more gain no speed

# A word as a mathematician reads it: atoms with no space between, or joined by a hyphen or an apostrophe. An atom is a
# formula in dollars, a LaTeX command or accent, a brace group, a sub- or superscript mark, a letter or a digit.
BRACES = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
FORMULA = r"\$\$[^$]+\$\$|(?<!\\)\$(?:[^$\\]|\\.)+\$"
ATOM = rf"(?:{FORMULA}|\\[A-Za-z]+\*?(?:{BRACES})*|\\['\"`^~=.](?:{BRACES}|\w)|[_^]?{BRACES}|[\w^])"
WORD = re.compile(rf"{ATOM}+(?:(?:--?|[‐‑–'’]){ATOM}+|(?<=\d)[.,](?=\d){ATOM}+)*|\S")


@dataclass
class AttributionArguments:
    """The command line."""

    model_name_or_path: str = field(metadata={"help": "Run folder of run_classification.py, or a Hub id."})
    output_dir: str = field(metadata={"help": "Folder for attributions.jsonl, .html, .png, .tex and summary.json."})
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset folder of fetch_arxiv.py, or a Hub id."})
    split: str = field(default="test", metadata={"help": "Split of the dataset."})
    text_column_names: list[str] = field(default_factory=lambda: ["abstract"], metadata={"help": "Columns to join."})
    max_samples: int | None = field(default=None, metadata={"help": "Only the first so many documents."})
    text: list[str] | None = field(default=None, metadata={"help": "One or more texts, instead of a dataset."})
    text_file: str | None = field(default=None, metadata={"help": "UTF-8 file with one text a line, likewise."})
    text_prefix: str | None = field(default=None, metadata={"help": "Before every text. Default: the training's."})
    max_seq_length: int | None = field(default=None, metadata={"help": "In tokens. Default: the training's, or 256."})
    n_steps: str | None = field(default=None, metadata={"help": "A fixed n, or auto: the integral. Default: search."})
    n_steps_search: list[int] = field(default_factory=lambda: [1, 200], metadata={"help": "Lowest and highest n."})
    tolerance: float = field(default=1e-5, metadata={"help": "Error of search and auto, as a share of |F(x) - F(b)|."})
    method: Literal["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"] = field(
        default="gausslegendre", metadata={"help": "Quadrature rule."}
    )
    target: str = field(default="predicted", metadata={"help": "predicted, label (the true one) or a class name."})
    baseline: Literal["pad", "mask"] = field(default="pad", metadata={"help": "Token of the baseline text."})
    merge_words: bool = field(default=True, metadata={"help": "$L^2$ or Kähler-Einstein is one word."})
    internal_batch_size: int | None = field(default=None, metadata={"help": "Points at once. Default: what fits."})
    bf16: bool = field(default=False, metadata={"help": "bfloat16: faster on a GPU, errors near 1 per cent."})
    faithfulness_samples: int = field(default=50, metadata={"help": "Documents that run_faithfulness.py measures."})
    render: bool = field(default=True, metadata={"help": "Measure faithfulness, draw page and figure."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar."})


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


def write_lines(path: Path, objects: list[dict], indent: int | None = None) -> None:
    """Write objects as JSON, one after the other, so that a reader sees the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    lines = "".join(json.dumps(line, ensure_ascii=False, indent=indent) + "\n" for line in objects)
    temporary.write_text(lines, encoding="utf-8")
    os.replace(temporary, path)


def read_lines(paths: Iterable[Path]) -> dict[str, dict]:
    """The documents' lines in the files, by id."""
    texts = [text for path in paths for text in path.read_text(encoding="utf-8").split("\n") if text]
    return {line["id"]: line for line in map(json.loads, texts)}


def read_documents(arguments: AttributionArguments) -> tuple[list[dict], list[str] | None]:
    """Return the documents (dicts with id, text, label: a class name or None) and the dataset's classes or None."""
    name, texts, names = arguments.dataset_name, arguments.text, None
    if sum(source is not None for source in (name, texts, arguments.text_file)) != 1:
        fail("give exactly one of --dataset_name, --text and --text_file")
    if arguments.text_file is not None:
        try:
            texts = Path(arguments.text_file).read_text(encoding="utf-8").rstrip("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            fail(f"cannot read --text_file {arguments.text_file}: {error}")
    texts = (texts or [])[: arguments.max_samples]
    documents = [{"id": f"text-{number}", "text": text, "label": None} for number, text in enumerate(texts, 1)]
    if name is not None:
        try:
            splits = datasets.load_dataset(name)
        except Exception as error:  # the library's own, the Hub's, the file system's and pyarrow's
            fail(f"cannot load --dataset_name {name}: {one_line(error)}")
        if arguments.split not in splits:
            fail(f"{name} has no split {arguments.split!r}; it has {', '.join(splits)}")
        rows = splits[arguments.split]
        columns = [name for names in arguments.text_column_names for name in names.split(",")]
        for column in [*columns, "id", "label"]:
            if column not in rows.column_names:
                fail(f"{name} has no column {column!r}; it has {', '.join(rows.column_names)}")
        names = getattr(rows.features["label"], "names", None) or fail(f"column 'label' of {name} is no ClassLabel")
        for row in rows.take(min(arguments.max_samples or len(rows), len(rows))):
            label = names[row["label"]] if row["label"] is not None and row["label"] >= 0 else None
            text = " ".join(str(row[column] or "") for column in columns)
            documents.append({"id": str(row["id"]), "text": text, "label": label})
    if len({document["id"] for document in documents}) < len(documents) or not documents:
        fail(f"split {arguments.split} of {name} has no document, or two with the same id")
    if empty := [document["id"] for document in documents if not document["text"].strip()]:
        fail(f"the text of document {empty[0]} is empty; leave it out")
    return documents, names


def load_model(name: str) -> tuple:
    """Return tokenizer and model: float32, frozen, in evaluation mode; every weight checked to be finite."""
    settings = {"dtype": torch.float32, "output_loading_info": True}
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(name, **settings)
    except Exception as error:  # OSError, ValueError, the Hub's and safetensors' own
        fail(f"cannot load a classifier from --model_name_or_path {name}: {one_line(error)}")
    if loading["missing_keys"]:
        fail(f"{name} is no trained classifier: it has no weights {min(loading['missing_keys'])}; fine-tune it first")
    if model.config.num_labels < 2:
        fail(f"{name} has {model.config.num_labels} output; attribution needs a classifier of two classes or more")
    for weight, values in model.named_parameters():
        if not torch.isfinite(values).all():
            fail(f"the weights {weight} of {name} are not all finite (NaN or infinity); train it again")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # OSError, ValueError or TypeError, by type of model
        fail(f"{name} has no usable tokenizer ({one_line(error)}); save the tokenizer beside the model")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes an empty one where the files are missing
        fail(f"{name} has no tokenizer files; save the tokenizer beside the model")
    # A gradient with respect to the weights is never asked for: the activations that it would need are not kept.
    return tokenizer, model.requires_grad_(False).eval()


def align_words(words: list, pieces: list) -> tuple[list[int | None], list[list[int]]]:
    """Assign the pieces of a text, in order, to its words; both are given by their first character and the one after.

    A special token is None and stays None. A piece that touches two words joins them; one without characters (a lone
    mark of a word's start) goes to the next word. Words that no piece touches (cut off) are left out. Returns the
    number of every piece's word and the spans of the words.
    """
    starts, ends = [start for start, _ in words], [end for _, end in words]
    word_ids, spans, reached = [], [], -1
    for piece in pieces:
        if piece is None:
            word_ids.append(None)
            continue
        first = min(int(np.searchsorted(ends, piece[0], "right")), len(words) - 1)
        last = max(first, int(np.searchsorted(starts, piece[1])) - 1)
        if first > reached:
            spans.append([starts[first], ends[last]])
        reached = max(reached, last)
        spans[-1][1] = ends[reached]
        word_ids.append(len(spans) - 1)
    return word_ids, spans


def encode(document: dict, tokenizer, max_length: int, merge_words: bool) -> None:
    """Add to the document: input_ids, tokens, special (mask), truncated, words, word_ids and spans in its text."""
    text = document["text"]
    document["truncated"] = len(tokenizer(text, verbose=False)["input_ids"]) > max_length
    settings = {"truncation": True, "max_length": max_length, "return_special_tokens_mask": True}
    encoding = tokenizer(text, return_offsets_mapping=tokenizer.is_fast, **settings)
    ids, special = encoding["input_ids"], [bool(mask) for mask in encoding["special_tokens_mask"]]
    document |= {"input_ids": ids, "special": special, "tokens": tokenizer.convert_ids_to_tokens(ids)}
    if tokenizer.is_fast:
        pieces = [None if mask else span for mask, span in zip(special, encoding["offset_mapping"], strict=True)]
        words = [match.span() for match in WORD.finditer(text)]
        if not merge_words:
            numbers = dict.fromkeys(number for number in encoding.word_ids() if number is not None)
            words = [tuple(encoding.word_to_chars(number)) for number in numbers]
        word_ids, spans = align_words(words, pieces)
        names = [text[start:end] for start, end in spans]
    else:  # No offsets: every piece is a word of its own.
        pieces = spans = None
        word_ids = [None if mask else k - sum(special[:k]) for k, mask in enumerate(special)]
        names = [token for token, mask in zip(document["tokens"], special, strict=True) if not mask]
    document |= {"token_spans": pieces, "words": names, "word_ids": word_ids, "word_spans": spans}


def quadrature(method: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in [0, 1] and weights, float64 of shape (n,), of a rule with n points; the weights sum to 1.

    ``riemann_trapezoid`` has the spacing 1/(n-1) and is therefore not captum 0.9's, whose weights sum to (n-1)/n.
    """
    if method == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(n)
        return (1 + nodes) / 2, weights / 2
    if method == "riemann_trapezoid":
        weights = np.full(n, 1 / (n - 1))
        weights[[0, -1]] /= 2
        return np.arange(n) / (n - 1), weights
    shift = {"riemann_left": 0, "riemann_middle": 0.5, "riemann_right": 1}[method]
    return (np.arange(n) + shift) / n, np.full(n, 1 / n)


def embed(engine: SimpleNamespace, document: dict) -> None:
    """Add to the document path, (2, tokens, hidden), the embedded text and baseline, and logits, (2, classes)."""
    ids = torch.tensor(document["input_ids"])
    blank = torch.where(torch.tensor(document["special"]), ids, engine.baseline_id)
    pair = torch.stack([ids, blank]).to(engine.device)
    # Left to itself a RoBERTa would take the baseline's PAD ids for padding and shift its positions.
    positions = (torch.arange(len(ids)) + engine.first_position).repeat(2, 1).to(engine.device)
    extra = {"position_ids": positions} if engine.first_position else {}
    captured = []
    hook = engine.layer.register_forward_hook(lambda module, inputs, output: captured.append(output))
    with torch.no_grad(), torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.bf16):
        logits = engine.model(input_ids=pair, attention_mask=torch.ones_like(pair), **extra).logits
    hook.remove()
    document |= {"path": captured[0].float(), "logits": logits.double().cpu().numpy()}


def evaluate(engine: SimpleNamespace, points: list[tuple[dict, float]]) -> list[np.ndarray]:
    """Evaluate points b + alpha (x - b) of the documents' paths, given as pairs (document, alpha), in batches.

    Returns for every point a float64 array (2 + tokens,): F, the target's logit; the sum of |grad F * (x - b)|, the
    scale of rounding errors; v(alpha), grad F * (x - b) summed over the hidden dimension. Halves what does not fit.
    """
    rows = []
    while len(rows) < len(points):
        batch = points[len(rows) : len(rows) + engine.batch_size]
        try:
            rows += evaluate_batch(engine, batch)
        except Exception as error:
            if not should_reduce_batch_size(error):
                raise
            if len(batch) == 1:
                fail(f"out of memory for one point of {len(batch[0][0]['input_ids'])} tokens; lower --max_seq_length")
            engine.batch_size = len(batch) // 2
            logger.warning("out of memory: going on with %d points a batch", engine.batch_size)
    return rows


def evaluate_batch(engine: SimpleNamespace, points: list[tuple[dict, float]]) -> list[np.ndarray]:
    """evaluate() for points that go through the model at once."""
    documents = [document for document, _ in points]
    pad = functools.partial(pad_sequence, batch_first=True)
    ids = pad([torch.tensor(document["input_ids"]) for document in documents]).to(engine.device)
    mask = pad([torch.ones(len(document["input_ids"]), dtype=torch.long) for document in documents]).to(engine.device)
    baseline = pad([document["path"][1] for document in documents])
    difference = pad([document["path"][0] for document in documents]) - baseline
    alphas = torch.tensor([alpha for _, alpha in points], dtype=torch.float32, device=engine.device)
    embedded = torch.addcmul(baseline, alphas[:, None, None], difference).requires_grad_(True)
    target = torch.tensor([document["target_id"] for document in documents], device=engine.device)
    engine.layer.forward = lambda *args, **kwargs: embedded
    try:
        with torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.bf16):
            logits = engine.model(input_ids=ids, attention_mask=mask).logits
        value = logits.gather(1, target[:, None])
        (gradient,) = torch.autograd.grad(value.sum(), embedded)
    finally:
        del engine.layer.forward
    product = gradient.double() * difference.double()
    table = torch.cat([value.detach().double(), product.abs().sum((1, 2))[:, None], product.sum(-1)], 1).cpu().numpy()
    return [row[: 2 + len(document["input_ids"])] for row, document in zip(table, documents, strict=True)]


def attribute_fixed(engine: SimpleNamespace, documents: list[dict], n: int) -> None:
    """Add the attributions by a rule of n points, each evaluated, to the documents."""
    alphas, weights = quadrature(engine.method, n)
    rows = evaluate(engine, [(document, alpha) for document in documents for alpha in alphas])
    for k, document in enumerate(documents):
        scores = weights @ np.stack(rows[k * n : (k + 1) * n])[:, 2:]
        document |= {"attributions": scores, "n_steps": n, "gradient_evaluations": n}
        document["f_input"], document["f_baseline"] = document["logits"][:, document["target_id"]]


def envelope(coefficients: np.ndarray, noise: float) -> np.ndarray:
    """Bounds on the Chebyshev coefficients of degree N + 1 to 4 N, from those up to N: (3 N, columns).

    The coefficients of an analytic function decay geometrically, at a rate that its nearest singularity sets
    (Trefethen, Approximation Theory and Approximation Practice, theorem 8.1). All tokens share the network and with it
    the singularities, so the rate is taken from all columns, the size from each: the size of the last eighth, the rate
    from it to the one before or from quarter to quarter, whichever decays less. Eight times that, since the smallest n
    that is certain lies where the estimate is tight. Coefficients below ``noise`` are rounding errors.
    """
    degree = len(coefficients) - 1
    size = np.where(np.abs(coefficients) > noise, np.abs(coefficients), 0)
    rates = []
    for part in (8, 4):
        before, last = (half.max(0) for half in np.split(size[-2 * degree // part :], 2))
        rates.append(min(last.sum() / max(before.sum(), np.finfo(float).tiny), 0.9) ** (part / degree))
    return 8 * size[-degree // 8 :].max(0) * max(rates) ** np.arange(1, 3 * degree + 1)[:, None]


@functools.cache
def rule_moments(method: str, steps: tuple[int, ...], degree: int) -> np.ndarray:
    """What the rules of n points, n in steps, make of T_0(2a - 1) ... T_degree(2a - 1): (steps, degree + 1).

    n = 0 stands for the integral itself, which a Gauss-Legendre rule gives exactly up to degree 2n - 1.
    """
    moments = np.zeros((len(steps), degree + 1))
    moments[:, ::2] = 1 / (1 - np.arange(0, degree + 1, 2) ** 2)
    for k, n in enumerate(steps):
        if n and (method != "gausslegendre" or 2 * n <= degree):
            alphas, weights = quadrature(method, n)
            moments[k] = weights @ np.polynomial.chebyshev.chebvander(2 * alphas - 1, degree)
    return moments


@functools.cache
def rule_errors(method: str, steps: tuple[int, ...], degree: int) -> np.ndarray:
    """How far off the interpolant of a degree is on T_k, degree < k <= 4 degree, for each rule: (steps, 3 degree).

    On its nodes T_k looks like a polynomial of lower degree, its alias; the rules' values of the two differ.
    """
    moments = rule_moments(method, steps, 4 * degree)
    above = np.arange(degree + 1, 4 * degree + 1)
    alias = np.abs((above + degree) % (2 * degree) - degree)
    return np.abs(moments[:, above] - moments[:, alias])


def choose(engine: SimpleNamespace, document: dict, steps: tuple[int, ...]) -> None:
    """Choose n by the document's table (values on Chebyshev points) and add attributions, gaps and their errors.

    An n is certain if, by the estimated errors, no other one has a completeness error smaller by more than tolerance *
    |F(x) - F(b)| or rounding, and its attributions are right to that. converged says that there is one, and that the
    integral's own completeness error, which ought to be 0, does not contradict the estimates.
    """
    # Of one float32 gradient; against float64 it was 0.1 to 3 times this on several encoders. bfloat16: near 1.
    unit = 2**-10 if engine.bf16 else np.finfo(np.float32).eps
    table = document["table"]
    degree, difference = len(table) - 1, table[-1, 0] - table[0, 0]
    v = np.column_stack([table[:, 2:], table[:, 2:].sum(1)])  # the last column is dF/d alpha
    coefficients = scipy.fft.dct(v[::-1], type=1, axis=0) / degree  # of T_k(2 alpha - 1)
    coefficients[[0, -1]] /= 2
    rounding = unit * np.sqrt((table[:, 1] ** 2).mean())
    noise = 4 * np.hypot(rounding / np.sqrt(degree), unit * np.abs(table[[0, -1], 0]).max())
    rows = (*steps, 0)  # the last one is the integral
    results = rule_moments(engine.method, rows, 4 * degree)[:, : degree + 1] @ coefficients
    # Four standard deviations where rounding is at its upper end: what is left of it would look like slow decay.
    errors = rule_errors(engine.method, rows, degree) @ envelope(coefficients, 12 * rounding * np.sqrt(2 / degree))
    away = np.abs(results - results[-1])[:-1, :-1]
    gaps, uncertain = np.abs(results[:, -1] - difference), errors[:, -1]
    allowed = max(engine.tolerance * abs(difference), noise)
    near = 10 * engine.tolerance * np.abs(results[-1, :-1]).sum()
    smallest = max(0, (gaps - uncertain)[:-1].min())
    certain = ((errors.max(1) <= allowed) & (gaps + uncertain <= smallest + allowed))[:-1]
    document["converged"] = bool(certain.any() and gaps[-1] <= allowed)
    able = np.flatnonzero(certain if certain.any() else ~certain)
    ties = able[gaps[able] <= gaps[able].min() + noise]
    exact = ties[away[ties].sum(1) <= near]
    chosen = (exact if len(exact) else ties)[0]
    document |= {"results": results, "errors": errors, "gaps": gaps[:-1], "noise": noise, "near": near}
    document |= {"f_input": table[-1, 0], "f_baseline": table[0, 0], "gradient_evaluations": degree + 1}
    document |= {"n_steps": steps[chosen] or degree + 1, "attributions": results[chosen, :-1]}
    document["attribution_errors"] = away[chosen] + errors[chosen, :-1] + noise


def evaluate_candidates(engine: SimpleNamespace, document: dict, steps: tuple[int, ...]) -> None:
    """Evaluate the rules that the estimates of choose() cannot rule out, up to the first that is within the tolerance.

    No completeness error is below 0, so within the tolerance nothing better than a tie is left to be found.
    """
    results, errors, gaps, noise = (document[name] for name in ("results", "errors", "gaps", "noise"))
    difference, uncertain = document["f_input"] - document["f_baseline"], errors[:-1, -1]
    exact = document["near"] + errors[-1, :-1].sum()
    best = None
    for k in np.flatnonzero(gaps - uncertain <= (gaps + uncertain).min()):
        alphas, weights = quadrature(engine.method, steps[k])
        rows = evaluate(engine, [(document, alpha) for alpha in alphas])
        scores = weights @ np.stack(rows)[:, 2:]
        gaps[k] = abs(scores.sum() - difference)
        document["gradient_evaluations"] += steps[k]
        away = np.abs(scores - results[-1, :-1])
        good = gaps[k] <= max(engine.tolerance * abs(difference), noise) and away.sum() <= exact
        if good or best is None or gaps[k] < gaps[best] - noise:
            best = k
            document |= {"attributions": scores, "n_steps": steps[k]}
            document["attribution_errors"] = away + errors[-1, :-1] + noise
        if good:
            break


def attribute_adaptive(engine: SimpleNamespace, documents: list[dict], steps: tuple[int, ...]) -> None:
    """Add to the documents the attributions of the n in steps with the smallest completeness error.

    Every rule's result is a weighted sum of values of v, so one interpolant of v gives all of them. It is refined on
    nested Clenshaw-Curtis points, 33 to 257, until the choice is certain to tolerance * |F(x) - F(b)| or to rounding;
    where 257 points do not do, the n in question are evaluated themselves. Errors that differ by no more than rounding
    are ties; the smallest n wins, and before it the smallest whose attributions, not only their sum, are right to 10 *
    tolerance. steps = (0,) asks for the integral of the interpolant.
    """
    pending = documents
    for degree in (32, 64, 128, 256):
        nodes = (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2
        fresh = np.arange(degree + 1) if degree == 32 else np.arange(1, degree, 2)
        rows = evaluate(engine, [(document, alpha) for document in pending for alpha in nodes[fresh]])
        for document, start in zip(pending, range(0, len(rows), len(fresh)), strict=True):
            table = np.empty((degree + 1, len(rows[start])))
            table[::2] = document.get("table", 0)
            table[fresh] = rows[start : start + len(fresh)]
            document["table"] = table
            choose(engine, document, steps)
        pending = [document for document in pending if not document["converged"]]
    for document in pending if steps != (0,) else []:
        evaluate_candidates(engine, document, steps)


def result(document: dict, method: str, id2label: dict[int, str]) -> dict:
    """The line of attributions.jsonl that belongs to a document."""
    f_input, f_baseline, scores = float(document["f_input"]), float(document["f_baseline"]), document["attributions"]
    delta = float(scores.sum() - (f_input - f_baseline))
    # Equal up to rounding in float32: a relative error would be a quotient of two roundings.
    equal = abs(f_input - f_baseline) <= 4 * np.finfo(np.float32).eps * max(abs(f_input), abs(f_baseline))
    of_words = np.zeros(len(document["words"]) + 1)  # the last one collects the special tokens
    np.add.at(of_words, [-1 if number is None else number for number in document["word_ids"]], scores)
    probabilities = scipy.special.softmax(document["logits"][0])
    line = {name: document[name] for name in ("id", "text", "label", "truncated")}
    line |= {"prediction": id2label[int(probabilities.argmax())], "target": id2label[document["target_id"]]}
    line["probabilities"] = {id2label[k]: float(share) for k, share in enumerate(probabilities)}
    line |= {name: document[name] for name in ("tokens", "token_spans", "words", "word_spans", "word_ids")}
    line |= {"attributions": scores.tolist(), "word_attributions": of_words[:-1].tolist(), "method": method}
    line |= {"n_steps": document["n_steps"], "delta": delta, "f_input": f_input, "f_baseline": f_baseline}
    line["relative_error"] = None if equal else abs(delta / (f_input - f_baseline))
    line |= {"gradient_evaluations": document["gradient_evaluations"], "forward_evaluations": 2}
    if "gaps" in document:
        line |= {"converged": document["converged"], "attribution_errors": document["attribution_errors"].tolist()}
        line["gaps"] = [float(f"{gap:.3g}") for gap in document["gaps"]]
    return line


def choose_batch_size(engine: SimpleNamespace, document: dict) -> int:
    """Points that fit in half of the free memory, by what a further point of the longest document keeps."""
    embed(engine, document)
    document["target_id"], kept, sums = 0, [], []
    for points in (1, 2):
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
            evaluate_batch(engine, [(document, 0.5)] * points)
        sums.append(sum(kept))
    on_gpu = engine.device.type == "cuda"
    free = torch.cuda.mem_get_info(engine.device)[0] if on_gpu else psutil.virtual_memory().available
    return max(1, min(int(free / 2 / max(1, sums[1] - 2 * sums[0])), MAX_POINTS.get(engine.device.type, 256)))


def main() -> None:
    # 1. Arguments
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(AttributionArguments)
    fixed, ends = arguments.n_steps not in {None, "auto"}, arguments.n_steps_search
    if fixed:
        ends = [int(arguments.n_steps) if arguments.n_steps.isdecimal() else 0] * 2
    if len(ends) != 2 or not 1 <= ends[0] <= ends[1] <= MAX_STEPS:
        fail(f"--n_steps {arguments.n_steps or ends}: a number from 1 to {MAX_STEPS}, or auto; a search has two")
    least = 2 if arguments.method == "riemann_trapezoid" else 1
    if ends[1] < least:
        fail(f"--method {arguments.method} needs 2 steps or more: its points are the ends of the path")
    steps = (0,) if arguments.n_steps == "auto" else tuple(range(max(ends[0], least), ends[1] + 1))
    for name in ("max_samples", "max_seq_length", "internal_batch_size"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            fail(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    if not 0 < arguments.tolerance < 1:
        fail(f"--tolerance must be between 0 and 1, not {arguments.tolerance}")
    output = Path(arguments.output_dir)
    foreign = [path for path in output.glob("*") if not re.fullmatch(OWN_FILES, path.name)]
    if foreign or output.is_file():
        fail(f"--output_dir {output}: this script did not write {(foreign or [output])[0].name}; name another folder")

    # 2. Documents, model, tokenizer
    process = accelerate.PartialState(cpu=not torch.accelerator.is_available())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    documents, dataset_labels = read_documents(arguments)
    tokenizer, model = load_model(arguments.model_name_or_path)
    id2label = {int(number): name for number, name in model.config.id2label.items()}
    label2id = {name: number for number, name in id2label.items()}
    if dataset_labels is not None and set(dataset_labels) != set(label2id):
        fail(f"the model's classes {list(label2id)} are not the dataset's, {dataset_labels}; one is the wrong one")
    if arguments.target == "label" and any(document["label"] is None for document in documents):
        fail("--target label needs documents with a label; give --dataset_name, or another --target")
    if arguments.target not in {"predicted", "label", *label2id}:
        fail(f"--target {arguments.target} is none of predicted, label, {', '.join(label2id)}")
    baseline_id = getattr(tokenizer, f"{arguments.baseline}_token_id")
    if baseline_id is None:
        fail(f"the tokenizer of {arguments.model_name_or_path} has no {arguments.baseline} token; try --baseline")

    # 3. Tokens and words
    layer = getattr(model.base_model, "embeddings", None) or model.get_input_embeddings()
    positions = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    padding = getattr(getattr(layer, "position_embeddings", None), "padding_idx", None)
    first_position = 0 if padding is None else padding + 1  # RoBERTa's kind counts from padding_idx + 1
    longest = min(positions - first_position, tokenizer.model_max_length)
    if (arguments.max_seq_length or 0) > longest:
        fail(f"--max_seq_length {arguments.max_seq_length} is above the {longest} positions of the model")
    max_length = arguments.max_seq_length or min(longest, getattr(model.config, "max_seq_length", None) or 256)
    trained = getattr(model.config, "text_prefix", None) or ""
    prefix = trained if arguments.text_prefix is None else arguments.text_prefix
    if not tokenizer.is_fast:
        logger.warning("the tokenizer knows no offsets: pieces are not merged into words")
    for document in documents:
        document["text"] = prefix + document["text"]
        encode(document, tokenizer, max_length, arguments.merge_words)
    if cut := [document["id"] for document in documents if document["truncated"]]:
        logger.warning("%d texts are longer than %d tokens and were cut: %s", len(cut), max_length, ", ".join(cut[:9]))

    # 4. Groups of documents of like length, shared out over the processes; what an interrupted call finished is kept
    engine = SimpleNamespace(model=model.to(process.device), layer=layer, baseline_id=baseline_id)
    engine.device, engine.bf16, engine.batch_size = process.device, arguments.bf16, arguments.internal_batch_size
    engine.first_position, engine.method, engine.tolerance = first_position, arguments.method, arguments.tolerance
    order = sorted(documents, key=lambda document: -len(document["input_ids"]))
    if engine.batch_size is None:
        engine.batch_size = choose_batch_size(engine, dict(order[0]))
        logger.info("batches of up to %d points", engine.batch_size)
    size = max(1, engine.batch_size // (steps[0] if fixed else 33))
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    # What the numbers depend on: results of another model, text or setting are never mixed in.
    settings = [arguments.n_steps, steps, arguments.tolerance, arguments.method, arguments.target, arguments.bf16]
    texts = [[document[name] for name in ("id", "text", "label", "word_spans", "input_ids")] for document in documents]
    digest = hashlib.sha256(json.dumps([settings, baseline_id, texts]).encode())
    for weight, values in model.named_parameters():
        digest.update(weight.encode() + values.detach().cpu().numpy().tobytes())
    run = digest.hexdigest()
    partial, lines_file, summary_file = map(output.joinpath, (f"partial-{run}", "attributions.jsonl", "summary.json"))
    try:
        partial.mkdir(parents=True, exist_ok=True)
        done = summary_file.exists() and json.loads(summary_file.read_text(encoding="utf-8")).get("run") == run
        finished = read_lines([lines_file] if done else partial.glob("*.jsonl"))
    except (OSError, ValueError) as error:
        fail(f"cannot use --output_dir {output}: {error}")
    logger.info("%d of %d documents are finished already", len(finished), len(documents))
    mine = groups[process.process_index :: process.num_processes]
    todo = [group for group in mine if any(document["id"] not in finished for document in group)]

    # 5. Attributions
    names = [document["id"] for document in documents]
    total, left = (sum(map(len, part)) for part in (mine, todo))
    hidden = arguments.disable_tqdm or not process.is_main_process
    bar = tqdm(total=total, initial=total - left, unit="document", disable=hidden)
    for group in todo:
        start = time.perf_counter()
        for document in group:
            embed(engine, document)
            name = document["label"] if arguments.target == "label" else arguments.target
            predicted = int(document["logits"][0].argmax())
            document["target_id"] = predicted if arguments.target == "predicted" else label2id[name]
        if fixed:
            attribute_fixed(engine, group, steps[0])
        else:
            attribute_adaptive(engine, group, steps)
        seconds = (time.perf_counter() - start) / len(group)
        lines = [result(document, arguments.method, id2label) | {"seconds": seconds} for document in group]
        write_lines(partial / f"{names.index(lines[0]['id'])}-{len(group)}.jsonl", lines)
        for document in group:
            document.clear()
        bar.update(len(group))
    bar.close()
    process.wait_for_everyone()
    if not process.is_main_process:
        return

    # 6. Results in the documents' order, summary, page and figure
    finished |= read_lines(partial.glob("*.jsonl"))
    lines = [finished[name] for name in names]
    errors = [line["relative_error"] for line in lines if line["relative_error"] is not None]
    summary, tools = {"documents": len(lines)}, (torch, transformers, accelerate, datasets, np, scipy)
    for name in ("gradient_evaluations", "forward_evaluations", "seconds", "truncated"):
        summary[name] = sum(line[name] for line in lines)
    summary |= {"median_relative_error": float(np.median(errors)) if errors else None}
    summary |= {"max_relative_error": max(errors, default=None), "steps": [steps[0], steps[-1]], "run": run}
    summary |= {"not_converged": sum(not line.get("converged", True) for line in lines), "labels": list(label2id)}
    summary |= {"text_prefix": prefix, "max_seq_length": max_length, "processes": process.num_processes}
    summary["device"] = torch.cuda.get_device_name() if process.device.type == "cuda" else str(process.device)
    summary["versions"] = {"python": sys.version.split()[0]} | {tool.__name__: tool.__version__ for tool in tools}
    summary["arguments"] = asdict(arguments)
    try:
        write_lines(lines_file, lines)
        write_lines(summary_file, [summary], indent=2)
        for folder in output.glob("partial-*"):
            shutil.rmtree(folder)
    except OSError as error:
        fail(f"cannot write to --output_dir {output}: {error}")
    logger.info("%s", {name: summary[name] for name in list(summary)[:7]})
    after = [["run_faithfulness.py", "--max_samples", str(arguments.faithfulness_samples)], ["render_attribution.py"]]
    for script, *flags in after[arguments.faithfulness_samples < 1 :] if arguments.render else []:
        beside = Path(__file__).with_name(script)
        if beside.exists():
            subprocess.run([sys.executable, beside, "--attribution_dir", output, *flags], check=True)
        else:
            logger.warning("%s is not there: what it writes is missing from %s", beside, output)


if __name__ == "__main__":
    main()
