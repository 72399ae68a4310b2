#!/usr/bin/env python
"""Attribute a classifier's decision to the words of each document by integrated gradients (Sundararajan et al., 2017).

The path runs from a baseline text, [CLS] PAD ... PAD [SEP], to the document, in the space of the embedding layer's
output; what is attributed is the logit of the target class. Pieces of a word are summed, so no score is lost.

Laptop:       python run_attribution.py --model_name_or_path runs/minilm --dataset_name data --max_samples 12 \\
                  --output_dir attributions
One GPU:      the same command; it takes the GPU
Several:      accelerate launch --num_processes 4 run_attribution.py (the same flags)
Own text:     python run_attribution.py --model_name_or_path runs/minilm --output_dir attributions \\
                  --text "Every Kähler-Einstein metric on this surface is rigid."

Writes attributions.jsonl (a line a document) and summary.json; render_attribution.py beside this file then draws
attributions.html, attributions.png and attributions.tex from them. A stopped run continues when called again.
"""

import argparse
import bisect
import dataclasses
import difflib
import hashlib
import itertools
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, NoReturn

import accelerate
import datasets
import numpy as np
import psutil
import torch
import transformers
import yaml
from accelerate.utils.memory import should_reduce_batch_size
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, HfArgumentParser

logger = logging.getLogger(__name__)

OWN_FILES = r"(attributions\.(jsonl|html|png|tex)|summary\.json|faithfulness\.json)(\.tmp)?|partial-\d+\.jsonl(\.tmp)?"
MAX_STEPS = 1000
# More points in a batch than this gain no speed, only memory.
MAX_POINTS = {"cpu": 32, "cuda": 1024}

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
    text_column_names: str = field(
        default="abstract", metadata={"help": "Text columns of the dataset, separated by commas; joined by a blank."}
    )
    max_samples: int | None = field(default=None, metadata={"help": "Only the first so many documents."})
    text: list[str] | None = field(default=None, metadata={"help": "One or more texts, instead of a dataset."})
    text_file: str | None = field(default=None, metadata={"help": "UTF-8 file with one text a line, likewise."})
    text_prefix: str | None = field(
        default=None,
        metadata={"help": "Put before every text. Default: the one of the training, if any."},
    )
    max_seq_length: int | None = field(
        default=None,
        metadata={"help": "Cut at so many tokens. Default: as in training, or 256."},
    )
    n_steps: str = field(default="50", metadata={"help": "Number of integration steps, 1 to 1000."})
    method: Literal["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"] = field(
        default="gausslegendre", metadata={"help": "Quadrature rule."}
    )
    target: str = field(
        default="predicted", metadata={"help": "Class to explain: predicted, label (the true one) or a class name."}
    )
    baseline: Literal["pad", "mask"] = field(
        default="pad", metadata={"help": "Token that stands for 'no word' in the baseline text."}
    )
    merge_words: bool = field(
        default=True,
        metadata={"help": "Keep formulas, LaTeX commands and hyphenated names as single words; else the tokenizer's."},
    )
    internal_batch_size: int | None = field(
        default=None,
        metadata={"help": "Points of paths in one batch. Default: what fits in memory."},
    )
    bf16: bool = field(default=False, metadata={"help": "bfloat16 arithmetic: faster on a GPU, errors near 1 %."})
    render: bool = field(default=True, metadata={"help": "Draw the page and the figure."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar."})


def fail(message: str) -> NoReturn:
    """End the program as every user's mistake ends it: one line on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse_arguments(*dataclass_types: type) -> tuple:
    """Parse the command line; a first argument FILE.json or FILE.yaml stands for the flags it holds, later flags win.

    Ends with exit code 2 on an unreadable file, an unknown flag (the nearest known one is suggested) or a bad value.
    """
    parser = HfArgumentParser(
        dataclass_types,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = fail
    arguments = sys.argv[1:]
    if arguments and arguments[0].endswith((".json", ".yaml", ".yml")):
        try:
            recipe = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            fail(f"cannot read the arguments in {arguments[0]}: {' '.join(str(error).split())}")
        if not isinstance(recipe, dict):
            fail(f"{arguments[0]} must hold one mapping from flag names to values")
        flags = []
        for name, value in recipe.items():
            values = value if isinstance(value, list) else [value]
            if value is not None:
                flags += [f"--{name}", *(str(v).lower() if isinstance(v, bool) else str(v) for v in values)]
        arguments = flags + arguments[1:]
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    except ValueError as error:
        fail(" ".join(str(error).split()))
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0], known, n=1)
        fail(f"unknown argument {unknown[0]}{f'; did you mean {near[0]}?' if near else ''} (--help lists all)")
    return tuple(parsed)


def write_atomically(path: Path, text: str) -> None:
    """Write text to path so that a reader sees the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_documents(arguments: AttributionArguments) -> tuple[list[dict], list[str] | None]:
    """Return the documents, dicts with id, text and label (a class name or None), and the dataset's class names.

    Texts from the command line or a file have no label, and None stands for the class names.
    """
    sources = [arguments.dataset_name, arguments.text, arguments.text_file]
    if sum(source is not None for source in sources) != 1:
        fail("give exactly one of --dataset_name, --text and --text_file")
    names = None
    if arguments.dataset_name is None:
        texts = arguments.text
        if arguments.text_file is not None:
            try:
                texts = Path(arguments.text_file).read_text(encoding="utf-8").rstrip("\n").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                fail(f"cannot read --text_file {arguments.text_file}: {error}")
        documents = [{"id": f"text-{n}", "text": text, "label": None} for n, text in enumerate(texts, 1)]
    else:
        try:
            dataset = datasets.load_dataset(arguments.dataset_name)
        except Exception as error:  # the library raises its own, the Hub's, the file system's and pyarrow's
            fail(f"cannot load --dataset_name {arguments.dataset_name}: {first_line(error)}")
        if arguments.split not in dataset:
            fail(f"{arguments.dataset_name} has no split {arguments.split!r}; it has {', '.join(dataset)}")
        dataset = dataset[arguments.split]
        columns = [name.strip() for name in arguments.text_column_names.split(",")]
        for column in [*columns, "id", "label"]:
            if column not in dataset.column_names:
                fail(f"{arguments.dataset_name} has no column {column!r}; it has {', '.join(dataset.column_names)}")
        if not isinstance(dataset.features["label"], datasets.ClassLabel):
            fail(f"column 'label' of {arguments.dataset_name} is no ClassLabel, so its class names are unknown")
        names = dataset.features["label"].names
        if arguments.max_samples is not None:
            dataset = dataset.select(range(min(arguments.max_samples, len(dataset))))
        documents = [
            {
                "id": str(row["id"]),
                "text": " ".join(str(row[column] or "") for column in columns),
                "label": names[row["label"]] if row["label"] is not None and row["label"] >= 0 else None,
            }
            for row in dataset
        ]
    documents = documents[: arguments.max_samples]
    if not documents:
        fail("there is no document to attribute; check the split, the file and --max_samples")
    if len({document["id"] for document in documents}) < len(documents):
        fail(f"{arguments.dataset_name} has two documents of the same id in split {arguments.split}")
    for document in documents:
        if not document["text"].strip():
            fail(f"the text of document {document['id']} is empty; leave it out")
    return documents, names


def first_line(error: Exception) -> str:
    """The first line of a library's message, which is the one that names the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def load_model(arguments: AttributionArguments, device: torch.device) -> tuple:
    """Return tokenizer and model: float32, frozen, in evaluation mode; every weight checked to be finite."""
    name = arguments.model_name_or_path
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # OSError, ValueError, the Hub's and safetensors' own
        fail(f"cannot load a classifier from --model_name_or_path {name}: {first_line(error)}")
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        fail(f"{name} is no trained classifier: it has no weights for {missing}; fine-tune it first")
    if model.config.num_labels < 2:
        fail(f"{name} has {model.config.num_labels} output; attribution needs a classifier of two classes or more")
    for parameter_name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            fail(f"the weights {parameter_name} of {name} are not all finite (NaN or infinity); train it again")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # a missing tokenizer ends in OSError, ValueError or TypeError, by model type
        fail(f"{name} has no usable tokenizer ({first_line(error)}); save the tokenizer beside the model")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes an empty one where the files are missing
        fail(f"{name} has no tokenizer files; save the tokenizer beside the model")
    # A gradient with respect to the weights is never asked for: the activations that it would need are not kept.
    return tokenizer, model.requires_grad_(False).eval().to(device)


def align_words(
    words: list[tuple[int, int]], pieces: list[tuple[int, int] | None]
) -> tuple[list[int | None], list[list[int]]]:
    """Assign the pieces of a text, in order, to its words; both are given by their first character and the one after.

    None stands for a special token and stays None. A piece that touches two words joins them; one without characters
    (a lone mark of a word's start) goes to the word that follows. Words that no piece touches (cut off) are left out.
    Returns the number of every piece's word and the spans of the words.
    """
    starts, ends = [start for start, _ in words], [end for _, end in words]
    word_ids, spans, reached = [], [], -1
    for piece in pieces:
        if piece is None:
            word_ids.append(None)
            continue
        first = min(bisect.bisect_right(ends, piece[0]), len(words) - 1)
        last = max(first, bisect.bisect_left(starts, piece[1]) - 1)
        if first > reached:
            spans.append([starts[first], ends[last]])
        reached = max(reached, last)
        spans[-1][1] = ends[reached]
        word_ids.append(len(spans) - 1)
    return word_ids, spans


def encode(document: dict, tokenizer, max_length: int, merge_words: bool) -> None:
    """Add to the document: input_ids, tokens, special (mask), truncated, words, word_ids and spans in its text."""
    text = document["text"]
    truncated = len(tokenizer(text, verbose=False)["input_ids"]) > max_length
    settings = {"truncation": True, "max_length": max_length, "return_special_tokens_mask": True}
    encoding = tokenizer(text, return_offsets_mapping=tokenizer.is_fast, **settings)
    special = [bool(mask) for mask in encoding["special_tokens_mask"]]
    tokens = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    if tokenizer.is_fast:
        pieces = [None if mask else span for mask, span in zip(special, encoding["offset_mapping"], strict=True)]
        if merge_words:
            words = [match.span() for match in WORD.finditer(text)]
        else:
            words = [
                tuple(encoding.word_to_chars(k)) for k in sorted({k for k in encoding.word_ids() if k is not None})
            ]
        word_ids, word_spans = align_words(words, pieces)
        names = [text[start:end] for start, end in word_spans]
    else:  # No offsets: every piece is a word of its own.
        pieces = word_spans = None
        names = [token for token, mask in zip(tokens, special, strict=True) if not mask]
        numbers = itertools.count()
        word_ids = [None if mask else next(numbers) for mask in special]
    document |= {
        "input_ids": encoding["input_ids"],
        "special": special,
        "tokens": tokens,
        "token_spans": pieces,
        "words": names,
        "word_ids": word_ids,
        "word_spans": word_spans,
        "truncated": truncated,
    }


def quadrature(method: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in [0, 1] and weights, float64 of shape (n,), of a rule with n points; the weights sum to 1.

    ``riemann_trapezoid`` has the spacing 1/(n-1) and is therefore not captum 0.9's, whose weights sum to (n-1)/n.
    """
    k = np.arange(n)
    match method:
        case "gausslegendre":
            nodes, weights = np.polynomial.legendre.leggauss(n)
            return (1 + nodes) / 2, weights / 2
        case "riemann_left":
            return k / n, np.full(n, 1 / n)
        case "riemann_right":
            return (k + 1) / n, np.full(n, 1 / n)
        case "riemann_middle":
            return (2 * k + 1) / (2 * n), np.full(n, 1 / n)
        case "riemann_trapezoid":
            weights = np.full(n, 1 / (n - 1))
            weights[[0, -1]] /= 2
            return k / (n - 1), weights
    raise ValueError(method)


def embedding_layer(model) -> torch.nn.Module:
    """The layer whose output the path runs in: the sum of word, position and type embeddings where there is one."""
    return getattr(model.base_model, "embeddings", None) or model.get_input_embeddings()


def position_offset(layer: torch.nn.Module) -> int:
    """First position id: RoBERTa's kind counts from padding_idx + 1, all others from 0."""
    padding = getattr(getattr(layer, "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else padding + 1


def pad(rows: list[torch.Tensor], value: float = 0) -> torch.Tensor:
    """Stack tensors that differ in their first dimension, the token."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def embed(engine: SimpleNamespace, documents: list[dict]) -> None:
    """Add to the documents the embeddings, (tokens, hidden), and the logits, (classes,), of text and baseline."""
    for document in documents:
        ids = torch.tensor(document["input_ids"])
        blank = torch.where(torch.tensor(document["special"]), ids, engine.baseline_id)
        captured = []
        hook = engine.layer.register_forward_hook(lambda module, inputs, output, kept=captured: kept.append(output))
        extra = {}
        if engine.position_offset:
            # Left to itself the model would take a baseline of PAD ids for padding and shift its positions.
            extra["position_ids"] = (torch.arange(len(ids)) + engine.position_offset).repeat(2, 1).to(engine.device)
        pair = torch.stack([ids, blank]).to(engine.device)
        with torch.no_grad(), torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.bf16):
            logits = engine.model(input_ids=pair, attention_mask=torch.ones_like(pair), **extra).logits
        hook.remove()
        document["embedded"], document["baseline"] = captured[0].float()
        document["logits"], document["baseline_logits"] = logits.double().cpu().numpy()


def evaluate(engine: SimpleNamespace, rows: list[tuple[dict, float]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Evaluate points b + alpha (x - b) of the documents' paths, in batches.

    ``rows`` are pairs (document, alpha). Returns F, the target's logit, float64 of shape (rows,), and for every row
    v(alpha) = sum over the hidden dimension of grad F * (x - b), float64 of shape (tokens,). Running out of memory
    halves engine.batch_size for good.
    """
    values, integrands = [], []
    while len(values) < len(rows):
        batch = rows[len(values) : len(values) + engine.batch_size]
        try:
            value, integrand = evaluate_batch(engine, batch)
        except Exception as error:
            if not should_reduce_batch_size(error):
                raise
            if len(batch) == 1:
                fail(f"out of memory for one point of {len(batch[0][0]['input_ids'])} tokens; lower --max_seq_length")
            engine.batch_size = len(batch) // 2
            logger.warning("out of memory: going on with %d points a batch", engine.batch_size)
            continue
        values += value
        integrands += integrand
    return np.array(values), integrands


def evaluate_batch(engine: SimpleNamespace, rows: list[tuple[dict, float]]) -> tuple[list[float], list[np.ndarray]]:
    """evaluate() for rows that go through the model at once."""
    device = engine.device
    documents = [document for document, _ in rows]
    ids = pad([torch.tensor(document["input_ids"]) for document in documents], engine.pad_id).to(device)
    mask = pad([torch.ones(len(document["input_ids"]), dtype=torch.long) for document in documents]).to(device)
    baseline = pad([document["baseline"] for document in documents])
    difference = pad([document["embedded"] for document in documents]) - baseline
    alphas = torch.tensor([alpha for _, alpha in rows], dtype=torch.float32, device=device)
    points = torch.addcmul(baseline, alphas[:, None, None], difference).requires_grad_(True)
    target = torch.tensor([document["target_id"] for document in documents], device=device)
    engine.layer.forward = lambda *args, **kwargs: points
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=engine.bf16):
            logits = engine.model(input_ids=ids, attention_mask=mask).logits
        value = logits.gather(1, target[:, None]).squeeze(1)
        (gradient,) = torch.autograd.grad(value.sum(), points)
    finally:
        del engine.layer.forward
    integrand = (gradient.double() * difference.double()).sum(-1).cpu().numpy()
    rows_of_tokens = [row[: len(document["input_ids"])] for row, document in zip(integrand, documents, strict=True)]
    return value.detach().double().cpu().tolist(), rows_of_tokens


def attribute_fixed(engine: SimpleNamespace, documents: list[dict], method: str, n: int) -> None:
    """Add the attributions by a rule of n points, each evaluated, to the documents."""
    alphas, weights = quadrature(method, n)
    _, integrands = evaluate(engine, [(document, alpha) for document in documents for alpha in alphas])
    for k, document in enumerate(documents):
        target = document["target_id"]
        document.update(
            attributions=weights @ np.stack(integrands[k * n : (k + 1) * n]),
            n_steps=n,
            f_input=document["logits"][target],
            f_baseline=document["baseline_logits"][target],
            gradient_evaluations=n,
        )


def choose_target(document: dict, target: str, label2id: dict[str, int]) -> int:
    """The number of the class to explain."""
    if target == "predicted":
        return int(document["logits"].argmax())
    return label2id[document["label"] if target == "label" else target]


def result(document: dict, method: str, id2label: dict[int, str]) -> dict:
    """The line of attributions.jsonl that belongs to a document."""
    attributions = document["attributions"]
    word_attributions = np.zeros(len(document["words"]))
    for word, score in zip(document["word_ids"], attributions, strict=True):
        if word is not None:
            word_attributions[word] += score
    probabilities = np.exp(document["logits"] - document["logits"].max())
    probabilities /= probabilities.sum()
    difference = document["f_input"] - document["f_baseline"]
    delta = attributions.sum() - difference
    # Equal up to rounding in float32: a relative error would be a quotient of two roundings.
    rounding = 4 * np.finfo(np.float32).eps * max(abs(document["f_input"]), abs(document["f_baseline"]))
    return {
        "id": document["id"],
        "text": document["text"],
        "label": document["label"],
        "prediction": id2label[int(document["logits"].argmax())],
        "target": id2label[document["target_id"]],
        "probabilities": {id2label[k]: float(p) for k, p in enumerate(probabilities)},
        "tokens": document["tokens"],
        "attributions": attributions.tolist(),
        "words": document["words"],
        "word_attributions": word_attributions.tolist(),
        "word_ids": document["word_ids"],
        "token_spans": document["token_spans"],
        "word_spans": document["word_spans"],
        "truncated": document["truncated"],
        "method": method,
        "n_steps": document["n_steps"],
        "delta": float(delta),
        "relative_error": float(abs(delta / difference)) if abs(difference) > rounding else None,
        "f_input": float(document["f_input"]),
        "f_baseline": float(document["f_baseline"]),
        "gradient_evaluations": document["gradient_evaluations"],
        "forward_evaluations": 2,
    }


def choose_batch_size(engine: SimpleNamespace, document: dict) -> int:
    """Points that fit in half of the free memory, by what one point of the longest document keeps for its gradient."""
    kept = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        evaluate_batch(engine, [(document, 0.5)])
    weights = {parameter.untyped_storage().data_ptr() for parameter in engine.model.parameters()}
    bytes_a_point = sum(size for pointer, size in kept.items() if pointer not in weights)
    if engine.device.type == "cuda":
        free = torch.cuda.mem_get_info(engine.device)[0]
    else:
        free = psutil.virtual_memory().available
    return max(1, min(int(free / 2 / max(1, bytes_a_point)), MAX_POINTS.get(engine.device.type, 256)))


def json_lines(objects: Iterable[dict]) -> str:
    """The objects as JSON lines."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in objects)


def read_finished(output: Path, run: str) -> dict[str, dict]:
    """The documents, by id, that earlier or parallel processes of this very run wrote to the folder.

    A last line that a kill cut short is left out, and so is everything that belongs to another run.
    """
    finished = {}
    summary, done = output / "summary.json", output / "attributions.jsonl"
    same = summary.exists() and done.exists() and json.loads(summary.read_text(encoding="utf-8")).get("run") == run
    for path in [*([done] if same else []), *sorted(output.glob("partial-*.jsonl"))]:
        for text in path.read_text(encoding="utf-8").split("\n"):
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                break
            if line.pop("run", run) == run:
                finished[line["id"]] = line
    return finished


def fingerprint(arguments: AttributionArguments, documents: list[dict], model) -> str:
    """What the numbers depend on, as a SHA-256: results of another model, text or setting are never mixed in."""
    digest = hashlib.sha256()
    settings = dataclasses.asdict(arguments)
    for name in ("output_dir", "model_name_or_path", "disable_tqdm", "render", "internal_batch_size", "max_samples"):
        del settings[name]
    digest.update(json.dumps([settings, [[d["id"], d["text"], d["label"]] for d in documents]]).encode())
    for name, parameter in model.named_parameters():
        digest.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    # 1. Arguments
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(AttributionArguments)
    if not arguments.n_steps.isdecimal() or not 1 <= int(arguments.n_steps) <= MAX_STEPS:
        fail(f"--n_steps must be a whole number from 1 to {MAX_STEPS}, not {arguments.n_steps}")
    if arguments.method == "riemann_trapezoid" and int(arguments.n_steps) < 2:
        fail("--method riemann_trapezoid needs --n_steps 2 or more: its points are the ends of the path")
    for name in ("max_samples", "max_seq_length", "internal_batch_size"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            fail(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    output = Path(arguments.output_dir)
    if output.exists() and not output.is_dir():
        fail(f"--output_dir {output} is a file; name a folder")
    foreign = [path.name for path in output.glob("*") if not re.fullmatch(OWN_FILES, path.name)]
    if foreign:
        fail(f"--output_dir {output} holds {foreign[0]}, which this script did not write; name another folder")

    # 2. Device and processes
    process = accelerate.PartialState()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    # 3. Documents, model, tokenizer
    documents, dataset_labels = read_documents(arguments)
    tokenizer, model = load_model(arguments, process.device)
    id2label = {int(number): name for number, name in model.config.id2label.items()}
    label2id = {name: number for number, name in id2label.items()}
    if dataset_labels is not None and set(dataset_labels) != set(label2id):
        fail(
            f"the classes of {arguments.model_name_or_path} ({', '.join(label2id)}) are not those of "
            f"{arguments.dataset_name} ({', '.join(dataset_labels)}); take the model that was trained on these data"
        )
    if arguments.target == "label" and any(document["label"] is None for document in documents):
        fail("--target label needs documents with a label; give --dataset_name, or another --target")
    if arguments.target not in {"predicted", "label", *label2id}:
        fail(f"--target {arguments.target} is none of predicted, label, {', '.join(label2id)}")
    baseline_token = "pad_token" if arguments.baseline == "pad" else "mask_token"
    if getattr(tokenizer, baseline_token) is None:
        fail(f"the tokenizer of {arguments.model_name_or_path} has no {baseline_token}; choose another --baseline")

    # 4. Tokens and words
    layer = embedding_layer(model)
    positions = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    longest = min(positions - position_offset(layer), tokenizer.model_max_length)
    if arguments.max_seq_length is not None and arguments.max_seq_length > longest:
        fail(f"--max_seq_length {arguments.max_seq_length} is above the {longest} positions of the model")
    max_length = arguments.max_seq_length or min(longest, getattr(model.config, "max_seq_length", None) or 256)
    prefix = arguments.text_prefix
    if prefix is None:
        prefix = getattr(model.config, "text_prefix", None) or ""
    if not tokenizer.is_fast:
        logger.warning("the tokenizer knows no offsets: pieces are not merged into words")
    for document in documents:
        document["text"] = prefix + document["text"]
        encode(document, tokenizer, max_length, arguments.merge_words)
    truncated = [document["id"] for document in documents if document["truncated"]]
    if truncated:
        logger.warning(
            "%d of %d texts are longer than %d tokens and were cut (marked truncated): %s",
            len(truncated), len(documents), max_length, ", ".join(truncated[:5]) + (" ..." if truncated[5:] else ""),
        )  # fmt: skip

    # 5. Batches of documents of like length, shared out over the processes
    engine = SimpleNamespace(
        model=model,
        layer=layer,
        position_offset=position_offset(layer),
        baseline_id=getattr(tokenizer, f"{baseline_token}_id"),
        pad_id=tokenizer.pad_token_id or 0,
        device=process.device,
        bf16=arguments.bf16,
        batch_size=arguments.internal_batch_size,
    )
    order = sorted(documents, key=lambda document: -len(document["input_ids"]))
    if engine.batch_size is None:
        embed(engine, order[:1])
        order[0]["target_id"] = 0
        engine.batch_size = choose_batch_size(engine, order[0])
        logger.info("batches of %d points", engine.batch_size)
    size = max(1, engine.batch_size // int(arguments.n_steps))
    groups = [order[start : start + size] for start in range(0, len(order), size)]

    # 6. Attributions; what an interrupted call finished is kept
    try:
        output.mkdir(parents=True, exist_ok=True)
        finished = read_finished(output, run := fingerprint(arguments, documents, model))
        process.wait_for_everyone()
        if process.is_main_process:
            for path in output.glob("partial-*.jsonl"):
                path.unlink()
            write_atomically(output / "partial-0.jsonl", json_lines(line | {"run": run} for line in finished.values()))
        process.wait_for_everyone()
        partial = (output / f"partial-{process.process_index}.jsonl").open("a", encoding="utf-8")
    except OSError as error:
        fail(f"cannot write to --output_dir {output}: {error}")
    if finished:
        logger.info("%d of %d documents are finished already", len(finished), len(documents))
    todo = [group for group in groups if any(document["id"] not in finished for document in group)]
    todo = todo[process.process_index :: process.num_processes]
    with partial, tqdm(total=sum(map(len, todo)), unit="document", disable=arguments.disable_tqdm) as bar:
        for group in todo:
            start = time.perf_counter()
            embed(engine, group)
            for document in group:
                document["target_id"] = choose_target(document, arguments.target, label2id)
            attribute_fixed(engine, group, arguments.method, int(arguments.n_steps))
            seconds = (time.perf_counter() - start) / len(group)
            lines = [result(document, arguments.method, id2label) | {"seconds": seconds} for document in group]
            partial.write(json_lines(line | {"run": run} for line in lines))
            partial.flush()
            for document in group:
                del document["embedded"], document["baseline"]
            bar.update(len(group))
    process.wait_for_everyone()
    if not process.is_main_process:
        return

    # 7. Results in the documents' order, summary, page and figure
    finished = read_finished(output, run)
    lines = [finished[document["id"]] for document in documents]
    errors = [line["relative_error"] for line in lines if line["relative_error"] is not None]
    summary = {
        "documents": len(lines),
        "truncated": sum(line["truncated"] for line in lines),
        "gradient_evaluations": sum(line["gradient_evaluations"] for line in lines),
        "forward_evaluations": sum(line["forward_evaluations"] for line in lines),
        "seconds": sum(line["seconds"] for line in lines),
        "median_relative_error": statistics.median(errors) if errors else None,
        "max_relative_error": max(errors, default=None),
        "labels": list(label2id),
        "text_prefix": prefix,
        "max_seq_length": max_length,
        "device": str(process.device),
        "processes": process.num_processes,
        "arguments": dataclasses.asdict(arguments),
        "versions": {
            "python": sys.version.split()[0],
            **{module.__name__: module.__version__ for module in (torch, transformers, accelerate, datasets, np)},
        },
        "run": run,
    }
    try:
        write_atomically(output / "attributions.jsonl", json_lines(lines))
        write_atomically(output / "summary.json", json.dumps(summary, ensure_ascii=False, indent=2) + "\n")
    except OSError as error:
        fail(f"cannot write to --output_dir {output}: {error}")
    for path in output.glob("partial-*.jsonl"):
        path.unlink()
    logger.info(
        "%d documents, %d gradient evaluations, relative completeness error: median %s, largest %s",
        len(lines), summary["gradient_evaluations"], summary["median_relative_error"], summary["max_relative_error"],
    )  # fmt: skip
    renderer = Path(__file__).with_name("render_attribution.py")
    if not arguments.render:
        return
    if not renderer.exists():
        logger.warning("%s is not there: attributions.html, .png and .tex are not drawn", renderer)
        return
    raise SystemExit(subprocess.run([sys.executable, renderer, "--attribution_dir", output], check=False).returncode)


if __name__ == "__main__":
    main()
