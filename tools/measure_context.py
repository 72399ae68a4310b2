#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "scipy==1.17.1",
#     "skops==0.16.0",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Measure whether a model uses context, on documents that it was not trained on.

Word order: how much accuracy and macro F1 does the model lose when the words are shuffled, in blocks of k words or by
sentence? Attention window: how much does it lose when a token sees only w tokens on either side? Additive surrogate:
how much of the logit is a sum over words? Phrases: does a phrase contribute more than its words, more than other
neighboring words do, and more than the same words moved apart? Attribution in context (--attributions): how much of
the variance of a word's attribution lies between words, and how much between the documents that contain them?
Agreement (--attributions and an SVM among the runs): do the mean attributions rank the words as the SVM does?

Laptop:    python tools/measure_context.py --model_name_or_path runs/minilm --dataset_name data --output_dir context \\
               --compare runs/svm runs/layers-0 --attributions attributions/minilm attributions/layers-0
One GPU:   the same command; it uses the GPU (--bf16 is faster there, with larger rounding errors)
Several:   one command per model, each with CUDA_VISIBLE_DEVICES and its own --output_dir

Writes context.json, context.png, context.html and context.md, and evaluations/ with the logits of the models, so that
an interrupted command continues. --statistics_only computes the statistics and the drawings again from evaluations/,
for example with other --attributions, without a model. Tests whose input is missing are left out, and the results
say so.
"""

import argparse
import csv
import hashlib
import io
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import groupby, pairwise
from pathlib import Path

import datasets
import matplotlib.pyplot as plt
import numpy as np
import skops.io
import torch
from matplotlib.ticker import MaxNLocator
from scipy import stats
from scipy.special import softmax
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from sklearn.feature_selection import chi2
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.hf_argparser import HfArg

from common.cli import fail, one_line, parse_arguments, start_logging, versions
from common.data import dataset_commit, load_split
from common.folders import (
    hide_paths,
    model_commit,
    open_output_dir,
    read_attributions,
    read_json,
    run_name,
    write_files,
)
from common.pages import (
    data_url,
    escape_markdown,
    markdown_table,
    p_text,
    percent,
    plain,
    png,
    render,
)
from common.statistics import (
    ALPHA,
    MIN_INTERVAL_DOCUMENTS,
    add_holm,
    bootstrap,
    difference_test,
    mean_interval,
    percentile_interval,
)

logger = logging.getLogger(__name__)

OWN_FILES = r"context\.(json|html|png|md)|evaluations"
PACKAGES = ("torch", "transformers", "datasets", "numpy", "scipy", "scikit-learn", "skops")
# The flags that --statistics_only may change.
STATISTICS_FLAGS = (
    "output_dir",
    "attributions",
    "n_permutations",
    "n_resamples",
    "min_occurrences",
    "disable_tqdm",
)
MIN_DOCUMENTS = 20
MIN_CHOICE_DOCUMENTS = 3  # that contain a phrase, where phrases are chosen
MIN_PHRASE_DOCUMENTS = 6  # with fewer, a sign-flip test cannot reach p < 0.05
MAX_PHRASE_DOCUMENTS = 50  # in which a phrase is tested
MIN_GAP = 3  # words between the words of a phrase that are moved apart
PHRASE_WORDS = range(2, 5)  # length of the phrases that are taken from attributions
MIN_WORDS = 20  # for a rank correlation
STORED_WORDS, SHOWN_WORDS, SHOWN_PHRASES = 10, 5, 12
ROUNDING = 1e-5  # of logits in single precision
SENTENCE = "sentence"
EARLIER = "evaluations/ is from an earlier version of this tool."
COLORS = ("#1b7837", "#762a83", "#2166ac", "#b35806", "#666666", "#c51b7d", "#35978f", "#000000")
MARKERS = "osD^vPX*"
PARTS = (
    "Word order",
    "Attention window",
    "Additive surrogate",
    "Phrases",
    "Attribution in context",
)
PARTS += ("Agreement with the SVM",)
METRIC_HEADER = (
    "accuracy",
    "difference",
    "95 % interval",
    "p (Holm)",
    "macro F1",
    "difference",
    "95 % interval",
)
METRIC_HEADER += ("p (Holm)",)
WORD_KINDS = {"all": "all words", "content": "content words", "function": "function words"}


@dataclass
class ContextArguments:
    """Arguments of the tests."""

    output_dir: str = HfArg(help="Folder to write: new, empty, or written by this tool before.")
    model_name_or_path: str | None = HfArg(
        default=None, help="Run folder or Hub id of the model to test."
    )
    model_revision: str | None = HfArg(
        default=None, help="Branch, tag or commit of --model_name_or_path on the Hub."
    )
    dataset_name: str | None = HfArg(default=None, help="Dataset folder or Hub id.")
    dataset_revision: str | None = HfArg(
        default=None, help="Branch, tag or commit of --dataset_name on the Hub."
    )
    compare: list[str] = field(
        default_factory=list,
        metadata={
            "help": "More runs for the word order test; the first SVM among them is used for the agreement."
        },
    )
    attributions: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders of run_attribution.py; the one of --model_name_or_path comes first."
        },
    )
    split: str = HfArg(default="test", help="Split of the dataset.")
    text_column_names: list[str] = field(
        default_factory=lambda: ["abstract"], metadata={"help": "Text columns."}
    )
    max_samples: int = HfArg(
        default=1000, help="Maximum number of documents; the first ones are used."
    )
    max_seq_length: int | None = HfArg(
        default=None, help="Maximum number of tokens. Default: the model's value in training."
    )
    block_sizes: list[int] = field(
        default_factory=lambda: [1, 2, 3, 5, 10],
        metadata={"help": "Numbers of words that stay together in the word order test."},
    )
    n_shuffles: int = HfArg(default=5, help="Shuffles of each document for each block size.")
    window_sizes: list[int] = field(
        default_factory=lambda: [0, 1, 2, 4],
        metadata={
            "help": "Numbers of neighboring tokens on either side that a token sees in the attention test."
        },
    )
    n_surrogate_documents: int = HfArg(
        default=30, help="Documents for the additive surrogate; 0 leaves it out."
    )
    phrases: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Phrases to test. Default: strong n-grams of --attributions, or typical ones."
        },
    )
    phrase_split: str = HfArg(
        default="validation", help="Split on which phrases are chosen; they are tested on --split."
    )
    n_phrases: int = HfArg(default=50, help="Phrases to search for; 0 leaves the phrase test out.")
    n_controls: int = HfArg(
        default=200, help="Controls of each phrase: half other spans, half the words moved apart."
    )
    n_permutations: int = HfArg(default=9999, help="Permutations of each permutation test.")
    n_resamples: int = HfArg(default=10_000, help="Bootstrap resamples of the documents.")
    min_occurrences: int = HfArg(
        default=10,
        help="Minimum number of documents in which a word is attributed to the same class.",
    )
    per_device_eval_batch_size: int = HfArg(default=32, help="Batch size.")
    bf16: bool = HfArg(default=False, help="Use bfloat16 mixed precision.")
    seed: int = HfArg(
        default=42, help="Seed of shuffles, controls, permutations and the bootstrap."
    )
    statistics_only: bool = HfArg(
        default=False,
        help="Compute statistics and drawings again from evaluations/ in --output_dir, without a model.",
    )
    disable_tqdm: bool = HfArg(default=False, help="Disable the progress bars.")

    def __post_init__(self):
        if not self.model_name_or_path or not self.dataset_name:
            raise ValueError(
                "--model_name_or_path and --dataset_name are required without --statistics_only"
            )
        least = {
            "max_samples": 1,
            "n_shuffles": 1,
            "n_surrogate_documents": 0,
            "n_phrases": 0,
            "n_controls": 2,
        }
        least |= {"seed": 0, "n_permutations": 99, "n_resamples": 100, "min_occurrences": 2}
        least["per_device_eval_batch_size"] = 1
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"--{name} must be at least {bound}, not {getattr(self, name)}")
        if not self.window_sizes or min(self.window_sizes) < 0:
            raise ValueError("--window_sizes needs whole numbers from 0")
        if not self.block_sizes or min(self.block_sizes) < 1:
            raise ValueError("--block_sizes needs whole numbers from 1")
        for phrase in self.phrases:
            if " " not in normalize_phrase(phrase):
                raise ValueError(f"--phrases: {phrase!r} is not a phrase of two words or more")


DEFAULTS = {
    entry.name: entry.default if entry.default_factory is MISSING else entry.default_factory()
    for entry in fields(ContextArguments)
    if entry.name != "output_dir"
}


def complete_arguments(namespace: argparse.Namespace, unknown: list[str]) -> None:
    """Set the arguments that were not given (None): with --statistics_only as recorded, otherwise to their defaults.

    Exits with status 2 if --statistics_only is given with a flag that would need the models.
    """
    recorded = (
        read_evaluations(Path(namespace.output_dir))[0]["arguments"]
        if namespace.statistics_only
        else {}
    )
    for name, default in DEFAULTS.items():
        given, value = getattr(namespace, name), recorded.get(name, default)
        value = (
            [value] if isinstance(default, list) and isinstance(value, str) else value
        )  # of an older folder
        if given is None:
            setattr(namespace, name, value)
        elif recorded and name not in (*STATISTICS_FLAGS, "statistics_only") and given != value:
            fail(
                f"--{name} {given} needs the models, evaluations/ was made with {value}; leave out --statistics_only"
            )


@dataclass
class Run:
    """A model and what its evaluation needs. Everything from tokenizer on is for encoders only."""

    folder: str
    name: str
    kind: str  # svm or encoder
    model: object  # a scikit-learn pipeline or a transformers model
    fingerprint: str  # SHA-256 of all that determines the logits
    columns: list[
        int
    ]  # for each class of the dataset, its column in the model's output; -1 if it has none
    order_free: bool  # whether the model's input does not contain the word order
    commit: str | None = None  # of a model from the Hub
    tokenizer: object = None
    prefix: str = ""
    max_length: int = 0
    pad_id: int | None = None
    position_offset: int = 0  # RoBERTa's first position; 0 lets the model count the positions
    can_pad: bool = True  # whether padding a batch leaves the logits as they are
    bf16: bool = False
    # Set by prepare_words
    words: list[list[str]] = field(
        default_factory=list
    )  # of each document, as far as the model reads it
    joined: list[bool] = field(
        default_factory=list
    )  # whether a document's tokens are those of its words, joined
    first_tokens: dict[str, list[int]] = field(
        default_factory=dict
    )  # token ids of a word that starts the text
    other_tokens: dict[str, list[int]] = field(
        default_factory=dict
    )  # token ids of a word after a blank
    start: list[int] = field(default_factory=list)  # token ids before the words
    end: list[int] = field(default_factory=list)


# Documents and runs


def text_columns(names: str | list[str]) -> list[str]:
    """Return the columns of --text_column_names, which are separated by blanks or commas."""
    return [
        name.strip() for name in (names if isinstance(names, str) else ",".join(names)).split(",")
    ]


def read_documents(
    arguments: ContextArguments, split: str
) -> tuple[list[dict], list[str], str | None]:
    """Return the documents (id, words split at white space, label as a number), the class names, the Hub's commit.

    Exits with status 2 if there are fewer than MIN_DOCUMENTS, duplicated ids, or documents without text or label.
    """
    name, columns = arguments.dataset_name, text_columns(arguments.text_column_names)
    part = load_split(name, split, [*columns, "id", "label"], arguments.dataset_revision)
    if not isinstance(part.features["label"], datasets.ClassLabel):
        fail(
            f"column 'label' of {name} is not a ClassLabel; prepare the dataset with tools/prepare_dataset.py"
        )
    documents = [
        {
            "id": str(row["id"]),
            "words": " ".join(str(row[c] or "") for c in columns).split(),
            "label": row["label"],
        }
        for row in part.select(range(min(arguments.max_samples, len(part))))
    ]
    if len(documents) < MIN_DOCUMENTS:
        fail(
            f"{len(documents)} documents of split {split} are too few; give at least {MIN_DOCUMENTS}"
        )
    for name, count in Counter(document["id"] for document in documents).items():
        if count > 1:
            fail(f"id {name} is duplicated in split {split}; make the ids unique")
    for document in documents:
        if not document["words"] or document["label"] is None or document["label"] < 0:
            fail(
                f"document {document['id']} has no {'label' if document['words'] else 'text'}; remove it"
            )
    return documents, part.features["label"].names, dataset_commit(part)


def unique_names(folders: list[str]) -> list[str]:
    """Return the names of runs; runs of the same name are named with the folder around them, then with numbers."""
    names = [run_name(folder) for folder in folders]
    names = [
        "/".join(Path(folder).absolute().parts[-2:]) if names.count(name) > 1 else name
        for name, folder in zip(names, folders, strict=True)
    ]
    return [
        f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names, start=1)
    ]


def load_svm(folder: str, name: str, classes: list[str]) -> Run:
    """Load a run of run_baseline.py. Exits with status 2 if it cannot be read or has other classes."""
    path = Path(folder, "model.skops")
    try:
        model = skops.io.load(path)
        counts, known = model["counts"], [int(number) for number in model["svm"].classes_]
        fingerprint = hashlib.sha256(path.read_bytes())
    except Exception as error:  # skops and zipfile raise many kinds, untrusted types among them
        fail(f"cannot load {path}: {one_line(error)}")
    table = Path(folder, "predictions.csv")
    try:
        header = (
            next(csv.reader(table.open(encoding="utf-8", newline="")), []) if table.exists() else []
        )
    except (OSError, ValueError, csv.Error) as error:
        fail(f"cannot read {table}: {one_line(error)}; run run_baseline.py again")
    names = header[header.index("prediction") + 1 :] if "prediction" in header else []
    names = names or classes  # without predictions.csv the classes must have the same order
    if set(names) != set(classes) or len(known) < 2 or max(known) >= len(classes):
        own = (
            ", ".join(names)
            if set(names) != set(classes)
            else f"{len(known)} numbers up to {max(known)}"
        )
        fail(f"the classes of {folder} ({own}) are not those of the dataset ({', '.join(classes)})")
    places = {names[number]: column for column, number in enumerate(known)}
    columns = [places.get(label, -1) for label in classes]
    fingerprint.update(b"" if columns == sorted(columns) else repr(columns).encode())
    order_free = tuple(counts.ngram_range) == (1, 1)
    return Run(folder, name, "svm", model, fingerprint.hexdigest(), columns, order_free)


def load_encoder(
    folder: str, name: str, classes: list[str], revision: str | None, arguments: ContextArguments
) -> Run:
    """Load a run of run_classification.py or a model of the Hub.

    Exits with status 2 if it is not a trained classifier of the dataset's classes with a tokenizer.
    """
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            folder, revision=revision or "main", dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision or "main")
    except Exception as error:  # OSError, ValueError, TypeError, the Hub's and safetensors' own
        fail(
            f"{folder} holds neither model.skops nor a classifier with its tokenizer: {one_line(error)}"
        )
    if loading["missing_keys"]:
        fail(
            f"{folder} is not a trained classifier: {min(loading['missing_keys'])} has no weights; fine-tune it"
        )
    if len(tokenizer) <= len(
        tokenizer.all_special_ids
    ):  # transformers makes an empty one where the files are missing
        fail(f"{folder} has no tokenizer files; save the tokenizer next to the model")
    config, label2id = (
        model.config,
        {label: number for number, label in model.config.id2label.items()},
    )
    if set(label2id) != set(classes):
        fail(
            f"the classes of {folder} ({', '.join(label2id)}) are not those of the dataset ({', '.join(classes)})"
        )
    order_free = config.model_type == "eurobert" and not config.num_hidden_layers
    order_free &= getattr(config, "classifier_pooling", None) != "bos"
    columns = [label2id[label] for label in classes]
    run = Run(
        folder,
        name,
        "encoder",
        model,
        "",
        columns,
        order_free,
        commit=model_commit(folder, revision),
    )
    run.tokenizer, run.prefix, run.bf16 = (
        tokenizer,
        getattr(config, "text_prefix", None) or "",
        arguments.bf16,
    )
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    # RoBERTa counts positions from padding_idx + 1, so its table is longer than the texts that it reads.
    run.position_offset = (
        0 if getattr(table, "padding_idx", None) is None else table.padding_idx + 1
    )
    positions = (
        getattr(config, "max_position_embeddings", None) or -1
    )  # T5 has no such number, XLNet has -1
    limit = min(
        positions - run.position_offset if positions > 0 else 10**9, tokenizer.model_max_length
    )
    if arguments.max_seq_length is not None and not 2 < arguments.max_seq_length <= limit:
        fail(
            f"--max_seq_length {arguments.max_seq_length} is not between 3 and the {limit} positions of {folder}"
        )
    run.max_length = arguments.max_seq_length or min(
        limit, getattr(config, "max_seq_length", None) or 256
    )
    settings = {
        name: value for name, value in config.to_dict().items() if name != "_name_or_path"
    }  # it may move
    digest = hashlib.sha256(json.dumps([settings, columns, run.bf16], default=str).encode())
    for key, tensor in model.state_dict().items():
        digest.update(key.encode() + tensor.numpy().tobytes())
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model.eval().requires_grad_(False).to(device)
    probe_padding(run)
    digest.update(b"" if run.can_pad else b"batches of one length")
    run.fingerprint = digest.hexdigest()
    return run


def probe_padding(run: Run) -> None:
    """Find out what padding does to the logits of an encoder and set pad_id and can_pad.

    Decoders such as GPT-2 classify the last token that is not PAD, and do not notice PAD tokens behind it. With PAD in
    the place of a word they would classify another token. They get -1 for PAD, which no text contains, and, like
    models that padding on the right disturbs (XLNet), only batches of one length.
    """
    config, tokenizer = run.model.config, run.tokenizer
    run.pad_id = (
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else config.pad_token_id
    )
    if config.pad_token_id is None:
        config.pad_token_id = -1
    ids, padding = tuple(tokenizer("a text of a few words")["input_ids"]), (run.pad_id or 0,) * 3
    bf16, run.bf16 = run.bf16, False
    try:
        alone, padded = encoder_logits(run, [ids])[0], encoder_logits(run, [ids + padding, ids])[1]
        seen = encoder_logits(run, [ids + padding])[0]
    except Exception as error:  # models raise many kinds if they do not take token ids and a mask
        fail(f"{run.folder} cannot classify a text: {one_line(error)}; give another model")
    if not np.isfinite([alone, padded, seen]).all():
        fail(f"{run.folder} gives NaN or infinite logits; train it again or give another model")
    tolerance = 1e-4 * max(1, np.abs(alone).max())
    ignores_padding = np.abs(seen - alone).max() < tolerance
    run.can_pad = not ignores_padding and bool(np.abs(padded - alone).max() < tolerance)
    run.bf16 = bf16
    if ignores_padding:
        config.pad_token_id = -1


def load_runs(arguments: ContextArguments, classes: list[str]) -> list[Run]:
    """Load --model_name_or_path and the runs of --compare, each folder once."""
    folders = list(dict.fromkeys([arguments.model_name_or_path, *arguments.compare]))
    runs, columns = [], text_columns(arguments.text_column_names)
    for folder, name in zip(folders, unique_names(folders), strict=True):
        revision = None if runs else arguments.model_revision
        if Path(folder, "model.skops").exists():
            runs.append(load_svm(folder, name, classes))
        else:
            runs.append(load_encoder(folder, name, classes, revision, arguments))
        if (record := Path(folder, "run_arguments.json")).exists():
            trained = text_columns(read_json(record).get("text_column_names") or columns)
            if trained != columns:
                logger.warning(
                    "%s was trained on %s, not on --text_column_names %s", name, trained, columns
                )
    for flag in ("max_seq_length", "bf16"):
        if getattr(arguments, flag) and all(run.kind == "svm" for run in runs):
            fail(f"--{flag} is for encoders, but all runs are SVMs; leave it out")
    return runs


# Tokens and logits


def prepare_words(run: Run, documents: list[dict], seed: int) -> None:
    """Set the tokens of each distinct word, and the documents as far as they fit the maximum length.

    A document keeps the words that are not truncated, so that a shuffled text consists of the words of the original.
    run.joined says of each document whether the tokens of its words, joined, are the tokenizer's tokens of a shuffled
    text; otherwise its shuffled texts are tokenized as a whole.
    """
    if run.kind == "svm":
        run.words = [document["words"] for document in documents]
        return
    vocabulary = sorted({word for document in documents for word in document["words"]})
    tokens = [
        run.tokenizer(form, add_special_tokens=False, verbose=False)["input_ids"]
        for form in (vocabulary, [f" {word}" for word in vocabulary])
    ]
    run.first_tokens, run.other_tokens = (dict(zip(vocabulary, ids, strict=True)) for ids in tokens)
    bare = run.tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = run.tokenizer("a")["input_ids"]
    place = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)
    prefix = run.tokenizer(run.prefix.rstrip(), add_special_tokens=False)["input_ids"]
    run.start, run.end = whole[:place] + prefix, whole[place + len(bare) :]
    if run.prefix:
        run.first_tokens = run.other_tokens
    run.words = []
    for document in documents:
        lengths = [
            max(len(run.first_tokens[word]), len(run.other_tokens[word]))
            for word in document["words"]
        ]
        room = run.max_length - len(run.start) - len(run.end)
        kept = int(np.searchsorted(np.cumsum(lengths), room, side="right"))
        run.words.append(document["words"][: max(1, kept)])
    shuffled = [shuffle(words, 1, [seed, n]) for n, words in enumerate(run.words)]
    expected = run.tokenizer([run.prefix + " ".join(words) for words in shuffled], verbose=False)[
        "input_ids"
    ]
    run.joined = [
        len(ids) <= run.max_length and join_tokens(run, words) == ids
        for words, ids in zip(shuffled, expected, strict=True)
    ]


def join_tokens(run: Run, words: list[str], masked: frozenset[int] = frozenset()) -> list[int]:
    """Return the token ids of a text from those of its words; every token of a word at a masked place becomes PAD."""
    ids = list(run.start)
    for place, word in enumerate(words):
        tokens = run.first_tokens[word] if place == 0 else run.other_tokens[word]
        ids += [run.pad_id] * len(tokens) if place in masked else tokens
    return ids + run.end


def encode(run: Run, texts: list[list[str]], numbers: list[int]) -> list:
    """Return the model's input for each text, given as words of the document with that number."""
    if run.kind == "svm":
        return [" ".join(words) for words in texts]
    inputs = [
        join_tokens(run, words) if run.joined[n] else None
        for words, n in zip(texts, numbers, strict=True)
    ]
    rest = [place for place, ids in enumerate(inputs) if ids is None]
    if rest:
        tokenized = run.tokenizer(
            [run.prefix + " ".join(texts[place]) for place in rest],
            truncation=True,
            max_length=run.max_length,
        )
        for place, ids in zip(rest, tokenized["input_ids"], strict=True):
            inputs[place] = ids
    return inputs


def save_array(path: Path, values: np.ndarray) -> None:
    """Write an array as .npy. Exits with status 2 if that fails."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_files(path.parent, {path.name: buffer.getvalue()})


def batches(run: Run, inputs: list, size: int) -> Iterator[list]:
    """Yield the inputs, sorted by length, in batches; in batches of one length where padding changes the logits."""
    for _, group in groupby(inputs, key=lambda item: run.can_pad or len(item)):
        items = list(group)
        yield from (items[start : start + size] for start in range(0, len(items), size))


def evaluate(
    run: Run,
    inputs: list,
    folder: Path,
    batch_size: int,
    bar: tqdm,
    window: int | str | None = None,
) -> np.ndarray:
    """Return logits or decision values (inputs, classes). Equal inputs are computed once. For window, see window_mask.

    The values are kept in folder under the hash of model and inputs, so that nothing is computed again.
    """
    digest = hashlib.sha256(
        (run.fingerprint + ("" if window is None else f"window {window}")).encode()
    )
    for item in inputs:
        digest.update(repr(item).encode())
    path = folder / f"{digest.hexdigest()[:32]}.npy"
    if path.exists():
        try:
            values = np.load(path, allow_pickle=False)
            if len(values) == len(inputs):
                bar.update(len(inputs))
                return values
        except (OSError, ValueError, EOFError):
            pass  # a damaged file is computed again
    keys = [item if isinstance(item, str) else tuple(item) for item in inputs]
    distinct = sorted(set(keys), key=lambda key: (-len(key), key))
    weights, rows = Counter(keys), []
    for batch in batches(run, distinct, batch_size):
        rows.append(
            svm_values(run, batch) if run.kind == "svm" else encoder_logits(run, batch, window)
        )
        bar.update(sum(weights[key] for key in batch))
    place = {key: number for number, key in enumerate(distinct)}
    values = np.concatenate(rows)[[place[key] for key in keys]]
    if not np.isfinite(values[:, np.array(run.columns) >= 0]).all():
        fail(f"{run.folder} gives NaN or infinite scores; train it again or give another run")
    save_array(path, values)
    return values


def svm_values(run: Run, texts: list[str]) -> np.ndarray:
    """Return decision values by the dataset's classes; minus infinity for a class that the SVM does not know."""
    scores = run.model.decision_function(texts)
    scores = np.column_stack([-scores, scores]) if scores.ndim == 1 else scores
    return np.column_stack([scores, np.full(len(texts), -np.inf)])[:, run.columns]


def window_mask(
    lengths: list[int], window: int | str, has_first: bool, has_last: bool
) -> torch.Tensor:
    """Return an attention mask (texts, 1, queries, keys), true where a token sees another one.

    A token sees itself and window tokens on either side ("all": all tokens). The first special token, which encoders
    classify, sees all tokens and is seen by none: otherwise it would pass the whole text on to every token in the next
    layer. The last special token sees only itself, so it carries nothing, and is seen by all: encoders attend to it
    where they attend to nothing. With "full", all tokens see all.
    """
    size = max(lengths)
    places, length = torch.arange(size), torch.tensor(lengths)[:, None, None]
    mask = torch.ones((len(lengths), size, size), dtype=torch.bool)
    if window != "full":
        last = (places == length - 1) if has_last else torch.zeros_like(mask)
        distance = (places[:, None] - places).abs()
        mask &= (distance <= (size if window == "all" else window)) | last
        mask &= ~last.transpose(1, 2) | (distance == 0)
        if has_first:
            mask[:, :, 0] = False
            mask[:, 0, :] = True
    is_padding = (
        places[:, None] >= length
    )  # what padding sees does not matter, but it must see something
    return ((mask | is_padding) & (places < length))[:, None]


def encoder_logits(
    run: Run, batch: list[tuple[int, ...]], window: int | str | None = None
) -> np.ndarray:
    """Return the logits of one batch by the dataset's classes."""
    lengths, device = list(map(len, batch)), run.model.device
    ids = torch.full((len(batch), max(lengths)), run.pad_id or 0)
    mask = torch.zeros(ids.shape, dtype=torch.long)
    for row, item in enumerate(batch):
        ids[row, : len(item)] = torch.tensor(item)
        mask[row, : len(item)] = 1
    if window is not None:
        mask = window_mask(lengths, window, bool(run.start), bool(run.end))
        if (
            run.model.config._attn_implementation != "sdpa"
        ):  # the others add the mask to the attention scores
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    extra = {}
    if run.position_offset:  # PAD in the place of a word must not shift the positions
        extra["position_ids"] = (
            (torch.arange(ids.shape[1]) + run.position_offset).repeat(len(batch), 1).to(device)
        )
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=run.bf16):
            logits = run.model(
                input_ids=ids.to(device), attention_mask=mask.to(device), **extra
            ).logits
    except torch.OutOfMemoryError:
        fail("out of memory; lower --per_device_eval_batch_size, the same command continues")
    return logits[:, run.columns].double().cpu().numpy()


# Word order


def shuffle(words: list[str], size: int | str, seed: list[int]) -> list[str]:
    """Return the words with their blocks in random order: blocks of size words, or sentences; blocks stay intact."""
    if size == SENTENCE:
        ends = [
            n + 1
            for n in range(len(words) - 1)
            if re.search(r"[.!?][)\]'\"”’]*$", words[n]) and re.match(r"[^a-z]", words[n + 1])
        ]
        edges = [0, *ends, len(words)]
    else:
        edges = [*range(0, len(words), size), len(words)]
    blocks = [words[start:stop] for start, stop in pairwise(edges)]
    return [
        word for n in np.random.default_rng(seed).permutation(len(blocks)) for word in blocks[n]
    ]


def evaluate_order(
    run: Run, documents: list[dict], arguments: ContextArguments, folder: Path
) -> tuple:
    """Evaluate a run on the documents and on their shuffled versions.

    Returns the run's record for index.json and values of shape (1 + sizes x shuffles, documents, classes): the
    original documents, then every block size in turn, sentences last.
    """
    numbers, sizes = list(range(len(documents))), [*dict.fromkeys(arguments.block_sizes), SENTENCE]
    batch_size, changed = arguments.per_device_eval_batch_size, []
    total = len(numbers) * (1 + len(sizes) * arguments.n_shuffles)
    with tqdm(
        total=total, desc=f"word order: {run.name}", unit="text", disable=arguments.disable_tqdm
    ) as bar:
        inputs = encode(run, run.words, numbers)
        values = [original := evaluate(run, inputs, folder, batch_size, bar)]
        for place, size in enumerate(sizes):
            texts = [
                shuffle(run.words[n], size, [arguments.seed, place, s, n])
                for s in range(arguments.n_shuffles)
                for n in numbers
            ]
            shuffled = encode(run, texts, numbers * arguments.n_shuffles)
            # A text of one block, or of equal words, does not change.
            moved = [n for n, item in enumerate(shuffled) if item != inputs[n % len(inputs)]]
            bar.update(len(shuffled) - len(moved))
            values.append(np.tile(original, (arguments.n_shuffles, 1)))
            if moved:
                values[-1][moved] = evaluate(
                    run, [shuffled[n] for n in moved], folder, batch_size, bar
                )
            changed.append(len(moved) / len(shuffled))
    record = {
        name: getattr(run, name) for name in ("name", "folder", "kind", "order_free", "commit")
    }
    record["cut_documents"] = sum(
        len(w) < len(d["words"]) for w, d in zip(run.words, documents, strict=True)
    )
    record["conditions"] = [
        {"block": s, "changed_texts": c} for s, c in zip(sizes, changed, strict=True)
    ]
    return record, np.concatenate(values).reshape(-1, *original.shape)


# Attention window and additive surrogate


def takes_windows(run: Run) -> bool:
    """Return whether an encoder takes a mask for each pair of tokens: a full one changes nothing, a window does."""
    if run.model.config.is_encoder_decoder:  # the decoder would still see everything
        return False
    words = max(run.words, key=len)
    ids, short = (
        tuple(join_tokens(run, words)[: run.max_length]),
        tuple(join_tokens(run, words[: len(words) // 2])),
    )
    try:
        expected, full = (
            encoder_logits(run, [ids, short]),
            encoder_logits(run, [ids, short], "full"),
        )
        window = encoder_logits(run, [ids, short], 0)
    except Exception:  # models raise many kinds if they pool with the mask or expect another shape
        return False
    tolerance = (1e-2 if run.bf16 else 1e-4) * max(1, np.abs(expected).max())
    return bool(
        np.abs(full - expected).max() < tolerance and np.abs(window - expected).max() > 1e-9
    )


def evaluate_windows(
    run: Run, arguments: ContextArguments, folder: Path
) -> tuple[list, np.ndarray | None]:
    """Evaluate a run on the documents with attention limited to windows.

    Returns the conditions for index.json and values of shape (1 + windows, documents, classes), without a limit first.
    """
    if run.kind == "svm" or not run.can_pad or not takes_windows(run):
        return [], None
    sizes, inputs = (
        [*dict.fromkeys(arguments.window_sizes), "all"],
        encode(run, run.words, range(len(run.words))),
    )
    total, values = len(inputs) * (1 + len(sizes)), []
    with tqdm(
        total=total, desc=f"windows: {run.name}", unit="text", disable=arguments.disable_tqdm
    ) as bar:
        for window in (None, *sizes):
            values.append(
                evaluate(run, inputs, folder, arguments.per_device_eval_batch_size, bar, window)
            )
    return [{"window": size} for size in sizes], np.stack(values)


def additive_r2(kept: np.ndarray, values: np.ndarray) -> float | None:
    """Return the adjusted R2 of values (texts,) as a sum over the words that a text keeps (texts, words), 0 or 1.

    For words that are kept independently, the least-squares coefficients are the Banzhaf values (Hammer & Holzman,
    Zeitschrift fuer Operations Research 36:3-21, 1992), and 1 - R2 is the share of interactions in the variance. None
    if the values do not vary.
    """
    count, words = kept.shape
    total = np.var(values, ddof=1)
    if total < ROUNDING**2:
        return None
    design = np.column_stack([np.ones(count), kept])
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(1 - (rest @ rest) / (count - words - 1) / total)


def evaluate_surrogate(
    run: Run, targets: np.ndarray, arguments: ContextArguments, folder: Path
) -> list[float | None]:
    """Return the R2 of an additive surrogate of the predicted class's logit for each of the first documents.

    In twice as many texts as the document has words, and 20 more, each word is left out with probability 1/2. For an
    encoder, PAD takes its place.
    """
    able = [
        n
        for n in range(len(run.words))
        if run.kind == "svm" or (run.joined[n] and run.pad_id is not None)
    ]
    able, found = able[: arguments.n_surrogate_documents], []
    with tqdm(
        total=0, desc=f"surrogate: {run.name}", unit="text", disable=arguments.disable_tqdm
    ) as bar:
        for number in able:
            words = run.words[number]
            kept = (
                np.random.default_rng([arguments.seed, number]).random(
                    (2 * len(words) + 20, len(words))
                )
                < 0.5
            )
            if run.kind == "svm":
                inputs = [
                    " ".join(word for word, keep in zip(words, row, strict=True) if keep)
                    for row in kept
                ]
            else:
                inputs = [
                    join_tokens(run, words, frozenset(np.flatnonzero(~row).tolist()))
                    for row in kept
                ]
            bar.total += len(inputs)
            values = evaluate(run, inputs, folder, arguments.per_device_eval_batch_size, bar)
            found.append(additive_r2(kept, values[:, targets[number]]))
    return found


# Phrases


def normalize(word: str) -> str:
    """Return a word in lower case without punctuation around it; empty if it is only punctuation."""
    return re.sub(r"^\W+|\W+$", "", word).lower()


def normalize_phrase(phrase: str) -> str:
    """Return a phrase as its normalized words."""
    return " ".join(filter(None, map(normalize, phrase.split())))


def span_starts(words: list[str], size: int) -> list[int]:
    """Return the starts of all spans of size words with no punctuation between them."""
    joined = [bool(normalize(word)) and not re.search(r"[.,;:!?]$", word) for word in words]
    starts = range(len(words) - size + 1)
    return [n for n in starts if all(joined[n : n + size - 1]) and normalize(words[n + size - 1])]


def occurrences(words: list[str], phrase: list[str]) -> list[int]:
    """Return the starts of all occurrences of a phrase, given as normalized words, that do not overlap."""
    found = []
    for start in span_starts(words, len(phrase)):
        here = list(map(normalize, words[start : start + len(phrase)]))
        if here == phrase and (not found or start >= found[-1] + len(phrase)):
            found.append(start)
    return found


def without_overlap(ranked: list[str], n: int) -> list[str]:
    """Return the first n phrases, leaving out each that contains, or is part of, one before it."""
    chosen = []
    for phrase in ranked:
        if not any(
            f" {phrase} " in f" {other} " or f" {other} " in f" {phrase} " for other in chosen
        ):
            chosen.append(phrase)
    return chosen[:n]


def ngrams(words: list[str], sizes: range) -> list[str]:
    """Return all n-grams of these sizes with no punctuation inside and no function word at either end."""
    found = [
        tuple(map(normalize, words[n : n + size]))
        for size in sizes
        for n in span_starts(words, size)
    ]
    return [" ".join(words) for words in found if not {words[0], words[-1]} & ENGLISH_STOP_WORDS]


def typical_phrases(documents: list[dict]) -> list[str]:
    """Return bigrams and trigrams; the first depend most on the class (chi-squared of their presence)."""
    texts, labels = (
        [document["words"] for document in documents],
        [document["label"] for document in documents],
    )
    counter = CountVectorizer(
        analyzer=lambda words: ngrams(words, range(2, 4)), min_df=MIN_CHOICE_DOCUMENTS
    )
    try:
        counts = counter.fit_transform(texts) > 0
    except ValueError:  # no phrase is in so many documents
        return []
    return counter.get_feature_names_out()[
        np.argsort(-chi2(counts, labels)[0], kind="stable")
    ].tolist()


def attributed_phrases(documents: list[dict]) -> list[str]:
    """Return n-grams of words with positive attributions, those with the largest attribution over documents first.

    Attributions are divided by the absolute sum of their document.
    """
    strength = defaultdict(float)
    for document in documents:
        words, scores = (
            list(map(normalize, document["words"])),
            np.array(document["word_attributions"]),
        )
        scores = scores / (np.abs(scores).sum() or 1)
        for size in PHRASE_WORDS:
            for start in range(len(words) - size + 1):
                ngram, share = words[start : start + size], scores[start : start + size]
                if all(ngram) and min(share) > 0 and not {ngram[0], ngram[-1]} & ENGLISH_STOP_WORDS:
                    strength[" ".join(ngram)] += share.sum()
    return sorted(strength, key=lambda phrase: (-strength[phrase], phrase))


def choose_phrases(
    run: Run, documents: list[dict], arguments: ContextArguments
) -> tuple[str, list[str], list[str]]:
    """Return where the phrases come from, the phrases, and a sentence why the phrase test is left out, if it is.

    Phrases are chosen on other documents than they are tested on: on the attributed documents that are not tested, or
    else on those of --phrase_split. Only the tested documents' number of occurrences matters.
    """
    given = list(map(normalize_phrase, arguments.phrases))
    reason = None
    if run.kind == "svm":
        reason = "it needs an encoder"
    elif run.pad_id is None:
        reason = f"the tokenizer of {run.name} has no padding token"
    elif not any(run.joined):
        reason = f"the tokenizer of {run.name} does not split texts at blanks"
    elif not (arguments.n_phrases or given):
        reason = "--n_phrases is 0"
    if reason and given:
        fail(f"--phrases cannot be tested: {reason}")
    if reason:
        return "given", [], [f"The phrase test is left out: {reason}."]
    if given:
        return "given", given, []
    tested = {document["id"] for document in documents}
    attributed = (
        read_attributions(Path(arguments.attributions[0]))[0] if arguments.attributions else []
    )
    attributed = [document for document in attributed if str(document["id"]) not in tested]
    source = "attributions" if attributed else "typical n-grams"
    if attributed:
        ranked = attributed_phrases(attributed)
    elif arguments.phrase_split == arguments.split:
        fail(
            f"--phrase_split {arguments.split} is --split: choose phrases on other documents, or give --phrases"
        )
    else:
        ranked = typical_phrases(read_documents(arguments, arguments.phrase_split)[0])
    frequency = Counter(
        phrase for words in run.words for phrase in set(ngrams(words, PHRASE_WORDS))
    )
    ranked = [phrase for phrase in ranked if frequency[phrase] >= MIN_PHRASE_DOCUMENTS]
    return source, without_overlap(ranked, arguments.n_phrases), []


def move_apart(
    words: list[str], groups: list[list[int]], generator: np.random.Generator
) -> tuple[list[str], list[list[int]]] | None:
    """Move the words at the places in all groups elsewhere, with MIN_GAP or more others between them.

    Returns the words in the new order and the new places of each group; all other words keep their order. None if the
    text is too short.
    """
    places = [place for group in groups for place in group]
    rest = [word for n, word in enumerate(words) if n not in places]
    free = len(rest) + 1 - (len(places) - 1) * (MIN_GAP - 1)
    if free < len(places):
        return None
    gaps = np.sort(generator.choice(free, len(places), replace=False)) + np.arange(len(places)) * (
        MIN_GAP - 1
    )
    order = generator.permutation(np.array(places)).tolist()
    for gap, place in zip(gaps[::-1], order[::-1], strict=True):
        rest.insert(gap, words[place])
    moved = dict(zip(order, (gaps + np.arange(len(places))).tolist(), strict=True))
    return rest, [[moved[place] for place in group] for group in groups]


def arrange_phrase(run: Run, phrase: str, arguments: ContextArguments) -> list[tuple]:
    """Return the texts of the phrase test: (document, kind, words, the places of each word of the phrase or control).

    A word has one place for each occurrence of the phrase in the document. In each document, kind is first "phrase",
    then "spans" (other neighboring words, with all their occurrences) and "moved" (all words of the phrase moved
    apart).
    """
    target, size = phrase.split(), len(phrase.split())

    def places(starts: list[int]) -> list[list[int]]:
        return [[start + n for start in starts] for n in range(size)]

    found = [(n, occurrences(words, target)) for n, words in enumerate(run.words) if run.joined[n]]
    found = [(n, starts) for n, starts in found if starts][:MAX_PHRASE_DOCUMENTS]
    controls = -(-arguments.n_controls // (2 * max(1, len(found))))  # of each kind in each document
    arrangements = []
    for number, starts in found:
        words, own = run.words[number], places(starts)
        generator = np.random.default_rng([arguments.seed, number, *phrase.encode()])
        others = [
            n for n in span_starts(words, size) if all(abs(n - start) >= size for start in starts)
        ]
        arrangements.append((number, "phrase", words, own))
        for n in generator.permutation(others)[:controls].tolist():
            control = occurrences(words, list(map(normalize, words[n : n + size])))
            arrangements.append((number, "spans", words, places(control)))
        for moved in [move_apart(words, own, generator) for _ in range(controls)]:
            arrangements += [(number, "moved", *moved)] if moved else []
    return arrangements


def evaluate_phrase(
    run: Run, phrase: str, targets: np.ndarray, arguments: ContextArguments, folder: Path, bar: tqdm
) -> list[dict]:
    """Return the synergy of a phrase, of other spans and of its words moved apart, for each document that contains it.

    F is the logit of the predicted class; PAD replaces a word that is taken out, as in run_attribution.py, at all
    occurrences of the phrase. With v(T) = F(only T of the phrase is left) - F(nothing of it is left), the synergy is
    v(phrase) - sum of v(word): what the whole adds to its parts. For two words it is the second difference F(ij) -
    F(i) - F(j) + F(none), the term of the Shapley and Banzhaf interaction indices with all other words present
    (Grabisch & Roubens, Int. J. of Game Theory 28:547-565, 1999); for more, the sum of the Harsanyi dividends of all
    subsets of two words or more.
    """
    arrangements, size, inputs = arrange_phrase(run, phrase, arguments), len(phrase.split()), []
    for _, kind, words, groups in arrangements:
        whole = frozenset(place for group in groups for place in group)
        masks = [frozenset(), whole, *(whole - set(group) for group in groups)]
        masks += [frozenset(group) for group in groups] if kind == "phrase" else []
        inputs += [join_tokens(run, words, mask) for mask in masks]
    bar.total += len(inputs)
    logits = (
        evaluate(run, inputs, folder, arguments.per_device_eval_batch_size, bar) if inputs else []
    )
    found, start = [], 0
    for number, kind, _, _ in arrangements:
        length = 2 + size * (2 if kind == "phrase" else 1)
        values = logits[start : start + length, targets[number]]
        start += length
        alone = values[2 : 2 + size] - values[1]
        synergy = float(values[0] - values[1] - alone.sum())
        if kind == "phrase":
            record = {"document": number, "synergy": synergy, "whole": float(values[0] - values[1])}
            record |= {"alone": alone.tolist(), "drops": (values[0] - values[2 + size :]).tolist()}
            found.append(record | {"spans": [], "moved": []})
        else:
            found[-1][kind].append(synergy)
    return found


def evaluate_models(arguments: ContextArguments, folder: Path) -> None:
    """Evaluate all runs and write folder/index.json, and order-N.npy for run N. Completed steps are skipped."""
    documents, classes, dataset_revision = read_documents(arguments, arguments.split)
    labels, runs = [document["label"] for document in documents], load_runs(arguments, classes)
    for run in runs:
        prepare_words(run, documents, arguments.seed)
    device = next((str(run.model.device) for run in runs if run.kind == "encoder"), "cpu")
    index = {
        "script": "measure_context.py",
        "arguments": asdict(arguments),
        "classes": classes,
        "device": device,
    }
    index |= {
        "dataset_commit": dataset_revision,
        "model_commit": runs[0].commit,
        "versions": versions(*PACKAGES),
    }
    index |= {"ids": [document["id"] for document in documents], "labels": labels, "runs": []}
    targets = []
    for number, run in enumerate(runs):
        record, values = evaluate_order(run, documents, arguments, folder)
        targets.append(values[0].argmax(axis=-1))
        save_array(folder / f"order-{number}.npy", values)
        record["windows"], values = evaluate_windows(run, arguments, folder)
        if record["windows"]:
            save_array(folder / f"windows-{number}.npy", values)
        record["additive_r2"] = evaluate_surrogate(run, targets[-1], arguments, folder)
        index["runs"].append(record)

    source, phrases, left_out = choose_phrases(runs[0], documents, arguments)
    index |= {"phrase_source": source, "phrases": [], "phrases_not_found": []}
    with tqdm(total=0, desc="phrases", unit="text", disable=arguments.disable_tqdm) as bar:
        for phrase in phrases:
            found = evaluate_phrase(runs[0], phrase, targets[0], arguments, folder, bar)
            if found:
                index["phrases"].append({"phrase": phrase, "occurrences": found})
            else:
                index["phrases_not_found"].append(phrase)
    if missing := index["phrases_not_found"]:
        text = f"not in the {len(documents)} documents: {', '.join(map(repr, missing))}"
        if source == "given" and not index["phrases"]:
            fail(f"--phrases are {text}; give others")
        logger.warning(text)
    if not index["phrases"] and not left_out:
        left_out = [
            f"The phrase test is left out: no phrase is in {MIN_PHRASE_DOCUMENTS} documents."
        ]
    index["left_out"] = left_out
    write_files(folder, {"index.json": json.dumps(index, ensure_ascii=False, indent=2) + "\n"})


def read_evaluations(folder: Path) -> tuple[dict, list[np.ndarray], list[np.ndarray | None]]:
    """Return index.json of a folder's evaluations and the logits of each run: of shuffled texts and of windows.

    Exits with status 2 if they are not complete. A folder of an earlier version has no windows.
    """
    cache = folder / "evaluations"
    try:
        index = json.loads((cache / "index.json").read_text(encoding="utf-8"))
        order = [
            np.load(cache / f"order-{n}.npy", allow_pickle=False) for n in range(len(index["runs"]))
        ]
        windows = [
            np.load(cache / f"windows-{n}.npy", allow_pickle=False) if run.get("windows") else None
            for n, run in enumerate(index["runs"])
        ]
        missing = {"arguments", "labels", "classes", "left_out", "phrases", "versions"} - set(index)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        fail(
            f"{folder} has no complete evaluations/ of tools/measure_context.py: {one_line(error)}"
        )
    if missing:
        fail(
            f"{folder} has no complete evaluations/ of tools/measure_context.py: {min(missing)} is missing"
        )
    return index, order, windows


# Statistics


def condition_statistics(
    conditions: list[dict],
    values: np.ndarray,
    index: dict,
    arguments: ContextArguments,
    repetitions: int,
) -> tuple[dict, list[dict]]:
    """Return the metrics of the original documents, and how they differ in each condition.

    values is (1 + conditions x repetitions, documents, classes), the original documents first. The metric of a
    condition is the mean over its repetitions. Each document is changed by itself, so resampling the documents
    resamples the shuffles, too. Macro F1 averages over the classes that are a label or a prediction.
    """
    labels, classes, predictions = (
        np.array(index["labels"]),
        index["classes"],
        values.argmax(axis=-1),
    )
    accuracy, f1 = bootstrap(
        labels, predictions, len(classes), arguments.n_resamples, arguments.seed
    )
    metrics = {"accuracy": accuracy, "macro_f1": np.nanmean(f1, axis=-1)}
    original = {}
    for metric, draws in metrics.items():
        low, high = percentile_interval(draws[1:, 0])
        original[metric] = {"value": float(draws[0, 0]), "low": low, "high": high}
    metrics |= {name: f1[:, :, number] for number, name in enumerate(classes) if number in labels}
    finite, results = np.nan_to_num(values, neginf=0), []
    for number, condition in enumerate(conditions):
        rows = slice(1 + number * repetitions, 1 + (number + 1) * repetitions)
        row = condition | {"max_change": float(np.abs(finite[rows] - finite[0]).max())}
        row["predictions_changed"] = float((predictions[rows] != predictions[0]).mean())
        tests = {}
        for metric, draws in metrics.items():
            means = draws[:, rows].mean(axis=1)
            tests[metric] = {"value": float(means[0])} | difference_test(means - draws[:, 0])
        row |= {metric: tests.pop(metric) for metric in original}
        row["classes"] = [
            {"class": name, "documents": int((labels == classes.index(name)).sum())} | test
            for name, test in tests.items()
        ]
        if np.isfinite(values).all():
            changes = softmax(values[rows], axis=-1) - softmax(values[0], axis=-1)
            row["true_class_probability"] = mean_interval(
                changes[:, np.arange(len(labels)), labels].mean(axis=0)
            )
            row["total_variation"] = mean_interval(np.abs(changes).sum(axis=-1).mean(axis=0) / 2)
        results.append(row)
    for metric in original:
        add_holm([row[metric] for row in results])
    add_holm([test for row in results for test in row["classes"]])
    return original, results


def order_statistics(
    run: dict, values: np.ndarray, index: dict, arguments: ContextArguments
) -> dict:
    """Return what a run loses when words are shuffled; values are (1 + sizes x shuffles, documents, classes)."""
    result = {key: run.get(key) for key in ("name", "folder", "kind", "commit", "cut_documents")}
    original, conditions = condition_statistics(
        run["conditions"], values, index, arguments, arguments.n_shuffles
    )
    result |= original | {"indifferent": None, "conditions": conditions}
    for row in conditions:
        if run["kind"] == "svm":  # decision values have no probabilities
            row.pop("true_class_probability", None)
            row.pop("total_variation", None)
        if run["order_free"] and row["block"] == 1:
            # The counts of an SVM are exactly the same; the mean of vectors may differ by rounding.
            size = np.abs(np.nan_to_num(values[0], neginf=0)).max()
            bound = 0 if run["kind"] == "svm" else 1e-4 * max(1, size)
            result["indifferent"] = bool(
                row["predictions_changed"] == 0 and row["max_change"] <= bound
            )
    return result


def surrogate_statistics(run: dict) -> dict | None:
    """Return the mean R2 of a run's additive surrogates with its interval over documents; None without any."""
    values = [value for value in run.get("additive_r2", []) if value is not None]
    if not values:
        return None
    result = {"name": run["name"], "documents": len(values)} | mean_interval(values)
    return result | {"high": result["high"] and min(1.0, result["high"])}


def sign_flip_test(values: list[float], n_permutations: int, seed: int) -> dict | None:
    """Test whether the mean of one value per document is 0. None for fewer than MIN_PHRASE_DOCUMENTS documents.

    Under the null hypothesis the values are symmetric about 0, so each sign could be the other one: p is the share of
    random signs with a mean at least as far from 0, counting the observed one (Phipson & Smyth, Stat. Appl. Genet.
    Mol. Biol. 9:39, 2010). The interval is Student's.
    """
    if len(values) < MIN_PHRASE_DOCUMENTS:
        return None
    values = np.where(np.abs(values) < ROUNDING, 0, values)  # a rounding error is not an effect
    signs = np.random.default_rng(seed).choice([-1, 1], size=(n_permutations, len(values)))
    extreme = np.abs(signs @ values) >= abs(values.sum()) - 1e-9
    p = float((1 + extreme.sum()) / (1 + n_permutations))
    return mean_interval(values) | {"documents": len(values), "p": p}


def phrase_statistics(index: dict, arguments: ContextArguments) -> dict | None:
    """Test each phrase against other spans and against its own words moved apart, and all phrases together.

    The unit is the document: its value is the synergy of the phrase minus the mean synergy of its controls in the same
    document; for all phrases together, the mean over the phrases that the document contains.
    """
    rows, of_documents = [], {kind: defaultdict(list) for kind in ("spans", "moved")}
    for number, phrase in enumerate(index["phrases"]):
        found = phrase["occurrences"]
        row = {"phrase": phrase["phrase"], "documents": len(found)}
        row |= {"whole": float(np.mean([one["whole"] for one in found]))}
        row |= {"sum_of_words_alone": float(np.mean([sum(one["alone"]) for one in found]))}
        row |= {"sum_of_single_drops": float(np.mean([sum(one["drops"]) for one in found]))}
        row["synergy"] = mean_interval([one["synergy"] for one in found])
        for kind in ("spans", "moved"):
            compared = {
                one["document"]: one["synergy"] - np.mean(one[kind]) for one in found if one[kind]
            }
            for document, value in compared.items():
                of_documents[kind][document].append(value)
            means = [np.mean(one[kind]) for one in found if one[kind]]
            row[f"{kind}_controls"] = sum(len(one[kind]) for one in found)
            row[f"{kind}_synergy"] = float(np.mean(means)) if means else None
            row[f"against_{kind}"] = sign_flip_test(
                list(compared.values()), arguments.n_permutations, arguments.seed + number
            )
        rows.append(row)
    if not rows:
        return None
    result = {
        "source": index["phrase_source"],
        "not_found": index["phrases_not_found"],
        "phrases": rows,
    }
    for kind, values in of_documents.items():
        tests = [row[f"against_{kind}"] for row in rows if row[f"against_{kind}"]]
        add_holm(tests)
        together = sign_flip_test(
            [np.mean(v) for v in values.values()], arguments.n_permutations, arguments.seed
        )
        result[f"against_{kind}"] = together and together | {
            "tested": len(tests),
            "more": sum(test["p_holm"] < ALPHA and test["mean"] > 0 for test in tests),
            "less": sum(test["p_holm"] < ALPHA and test["mean"] < 0 for test in tests),
        }
    return result


def read_word_attributions(folder: str) -> tuple[str, dict[str, dict]]:
    """Return the model's folder and, by document id, its target, its text and the scores of each normalized word.

    Exits with status 2 if the folder is not a complete one of run_attribution.py, or explains a contrast of classes.
    """
    lines, summary = read_attributions(Path(folder))
    try:
        documents = {}
        for line in lines:
            if line.get("versus"):
                fail(
                    f"--attributions {folder} explains a difference of classes (--versus); give those of one class"
                )
            scores = defaultdict(list)
            for word, score in zip(
                map(normalize, line["words"]), map(float, line["word_attributions"]), strict=True
            ):
                if word:
                    scores[word].append(score)
            documents[str(line["id"])] = {
                "target": line["target"],
                "text": line["text"],
                "scores": scores,
            }
        return str(summary["arguments"]["model_name_or_path"]), documents
    except (ValueError, KeyError, TypeError) as error:
        fail(
            f"{folder} is not a complete folder of run_attribution.py ({one_line(error)}); run it again"
        )


def score_tables(
    models: list[dict[str, dict]], minimum: int
) -> tuple[list[str], list[tuple], np.ndarray]:
    """Return documents, pairs of (class, word) and the words' scores (models, pairs, documents), NaN where absent.

    Only documents that all models explain for the same class are used, and only words that occur in minimum of them:
    all models are compared on the same words and documents. A word that speaks for one class speaks against another,
    so only attributions to the same class are repetitions. A score is the mean over a word's occurrences.
    """
    first, *others = models
    shared = [
        name
        for name, document in first.items()
        if all(name in other and other[name]["target"] == document["target"] for other in others)
    ]
    counts = Counter(
        (first[name]["target"], word)
        for name in shared
        for word in first[name]["scores"]
        if all(word in other[name]["scores"] for other in others)
    )
    pairs = sorted(pair for pair, count in counts.items() if count >= minimum)
    rows = {pair: row for row, pair in enumerate(pairs)}
    scores = np.full((len(models), len(pairs), len(shared)), np.nan)
    for column, name in enumerate(shared):
        for word in first[name]["scores"]:
            row = rows.get((first[name]["target"], word))
            if row is not None and all(word in other[name]["scores"] for other in others):
                scores[:, row, column] = [np.mean(model[name]["scores"][word]) for model in models]
    return shared, pairs, scores


def variance_components(scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance between words and within words, for each row of weights.

    scores is (words, documents), NaN where a document does not have the word; weights (resamples, documents) says how
    often each document is taken. The product of two scores of a word in different documents has the expectation of
    its squared mean, so no copies of one document are multiplied and both estimates are unbiased in every resample.
    Each word has the same weight. NaN if fewer than two words have two documents.
    """
    present, filled = (~np.isnan(scores)).astype(float), np.nan_to_num(scores)
    count, total, squares = (weights @ part.T for part in (present, filled, filled**2))
    same_count, same_squares = (weights**2 @ part.T for part in (present, filled**2))
    pairs = count**2 - same_count
    with np.errstate(divide="ignore", invalid="ignore"):
        product = np.where(pairs > 0, (total**2 - same_squares) / pairs, np.nan)
        usable = ~np.isnan(product)
        means, second = (np.where(usable, part / count, 0) for part in (total, squares))
        words = usable.sum(axis=1)
        grand = (means.sum(axis=1) ** 2 - (means**2).sum(axis=1)) / (words * (words - 1))
        product, second = np.nansum(product, axis=1) / words, second.sum(axis=1) / words
        return np.where(words > 1, product - grand, np.nan), np.where(
            words > 1, second - product, np.nan
        )


def intraclass_correlation(scores: np.ndarray, n_resamples: int, seed: int) -> dict | None:
    """Return the share of the variance of the scores (words, documents) that lies between words.

    The interval is the percentile interval over resamples of the documents. It is reliable for scores with bounded
    tails, such as ranks. None if there are fewer than two words or no variance.
    """
    if len(scores) < 2 or np.isnan(scores).all() or np.nanmax(scores) == np.nanmin(scores):
        return None
    documents, generator, parts = scores.shape[1], np.random.default_rng(seed), []
    for start in range(0, n_resamples, 250):
        size = min(250, n_resamples - start)
        draws = generator.multinomial(documents, np.full(documents, 1 / documents), size=size)
        draws = np.concatenate([np.ones((1, documents), dtype=int), draws]) if start == 0 else draws
        parts.append(np.stack(variance_components(scores, draws.astype(float))))
    between, within = np.concatenate(parts, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.clip(between / (between + within), 0, 1)
    if np.isnan(shares[0]):
        return None
    low, high = (
        percentile_interval(shares[1:]) if documents >= MIN_INTERVAL_DOCUMENTS else (None, None)
    )
    result = {
        "groups": len(scores),
        "observations": int((~np.isnan(scores)).sum()),
        "icc": float(shares[0]),
    }
    return result | {
        "low": low,
        "high": high,
        "between": float(between[0]),
        "within": float(within[0]),
    }


def attribution_statistics(
    documents: dict[str, dict], words: list[str], scores: np.ndarray, arguments: ContextArguments
) -> dict:
    """Return the variance between words and between documents, and the attribution share of function words.

    scores is (words, documents). The variances are those of their ranks, from 0 to 1, because attributions have heavy
    tails, with which no interval of a variance is reliable.
    """
    ranks, present = np.full(scores.shape, np.nan), ~np.isnan(scores)
    ranks[present] = stats.rankdata(scores[present]) / max(1, present.sum())
    function, result = np.array([word in ENGLISH_STOP_WORDS for word in words], dtype=bool), {}
    for kind, rows in {
        "all": np.ones(len(words), dtype=bool),
        "content": ~function,
        "function": function,
    }.items():
        result[kind] = intraclass_correlation(ranks[rows], arguments.n_resamples, arguments.seed)
    shares, counts = [], []
    for document in documents.values():
        sizes = [
            (word in ENGLISH_STOP_WORDS, abs(score))
            for word, own in document["scores"].items()
            for score in own
        ]
        if total := sum(size for _, size in sizes):
            shares.append(sum(size for is_function, size in sizes if is_function) / total)
            counts.append(sum(is_function for is_function, _ in sizes) / len(sizes))
    result["function_share"] = mean_interval(shares) if shares else None
    result["function_share_of_words"] = mean_interval(counts) if counts else None
    return result


def svm_contributions(
    folder: str, classes: list[str], pairs: list[tuple], documents: list[dict]
) -> np.ndarray:
    """Return coefficient times tf-idf of each pair of (class, word) in each document; NaN if the SVM lacks either."""
    run = load_svm(folder, run_name(folder), classes)
    svm, vocabulary = run.model["svm"], run.model["counts"].vocabulary_
    weights = np.vstack([-svm.coef_, svm.coef_]) if len(svm.coef_) == 1 else svm.coef_
    counts = run.model["counts"].transform([document["text"] for document in documents])
    tfidf = run.model["tfidf"].transform(counts).tocsc()
    values = np.full((len(pairs), len(documents)), np.nan)
    for row, (label, word) in enumerate(pairs):
        column, place = (
            run.columns[classes.index(label)] if label in classes else -1,
            vocabulary.get(word),
        )
        if column >= 0 and place is not None:
            values[row] = weights[column, place] * tfidf[:, [place]].toarray()[:, 0]
    return values


def correlation_draws(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Fisher's z of Spearman's correlation of two lists of values for each row of weights (resamples, values).

    Values are replaced by their ranks once, not anew in each resample.
    """
    a, b = stats.rankdata(first), stats.rankdata(second)
    total = weights.sum(axis=1)
    mean_a, mean_b = weights @ a / total, weights @ b / total
    covariance = weights @ (a * b) / total - mean_a * mean_b
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt((weights @ a**2 / total - mean_a**2) * (weights @ b**2 / total - mean_b**2))
        return np.arctanh(np.clip(covariance / scale, -1 + 1e-9, 1 - 1e-9))


def bootstrap_z(draws: np.ndarray, words: int) -> tuple[float, float, float]:
    """Return a 95 % interval and the p-value of 0, from Student's t with the standard deviation of the resamples.

    The first of the draws is the estimate, the others are resamples of the words.
    """
    scale, t = np.nanstd(draws[1:]), stats.t(words - 1)
    half = t.ppf(1 - ALPHA / 2) * scale
    p = 2 * t.sf(abs(draws[0]) / scale) if scale > 0 else float(draws[0] == 0)
    return float(draws[0] - half), float(draws[0] + half), float(p)


def largest_differences(words: list[str], attributions: np.ndarray, svm: np.ndarray) -> list[dict]:
    """Return the words whose ranks differ most, with their values and the difference as a share of the words."""
    ranks = (stats.rankdata(attributions) - stats.rankdata(svm)) / len(words)
    keys = ("word", "attribution", "svm", "rank_difference")
    rows = list(
        zip(keys, (words, attributions.tolist(), svm.tolist(), ranks.tolist()), strict=True)
    )
    largest = np.argsort(-np.abs(ranks), kind="stable")[:STORED_WORDS]
    return [{key: values[n] for key, values in rows} for n in largest]


def agreement(
    names: list[str],
    pairs: list[tuple],
    scores: np.ndarray,
    svm: np.ndarray,
    arguments: ContextArguments,
) -> list[dict]:
    """Return, by class and model, Spearman's correlation of a word's mean attribution with its mean share in the SVM.

    scores is (models, pairs, documents), svm (pairs, documents), both averaged over the same documents. Words are the
    sample: the bootstrap draws words, the same ones for all models (paired). From the second model on, difference says
    how its correlation differs from that of the first, in Fisher's z.
    """
    rows, generator = [], np.random.default_rng(arguments.seed)
    present = ~np.isnan(scores[0]) & ~np.isnan(svm)
    for label in dict.fromkeys(label for label, _ in pairs):
        chosen = [n for n, pair in enumerate(pairs) if pair[0] == label and present[n].any()]
        if len(chosen) < MIN_WORDS:
            continue
        means = [
            np.nanmean(np.where(present, part, np.nan)[chosen], axis=1) for part in (svm, *scores)
        ]
        if any(np.ptp(values) == 0 for values in means):
            continue
        size = len(chosen)
        weights = generator.multinomial(size, np.full(size, 1 / size), size=arguments.n_resamples)
        weights = np.concatenate([np.ones((1, size)), weights])
        for place, name in enumerate(names):
            draws = correlation_draws(means[0], means[1 + place], weights)
            low, high, p = bootstrap_z(draws, size)
            row = {
                "model": name,
                "class": label,
                "words": size,
                "rho": float(np.tanh(draws[0])),
                "difference": None,
            }
            row |= {"low": float(np.tanh(low)), "high": float(np.tanh(high)), "p": p}
            row["differ_most"] = largest_differences(
                [pairs[n][1] for n in chosen], means[1 + place], means[0]
            )
            if place == 0:
                first = draws
            else:
                low, high, p = bootstrap_z(draws - first, size)
                row["difference"] = {
                    "value": float(draws[0] - first[0]),
                    "low": low,
                    "high": high,
                    "p": p,
                }
            rows.append(row)
    add_holm(rows)
    add_holm([row["difference"] for row in rows if row["difference"]])
    return rows


def attribution_results(
    index: dict, arguments: ContextArguments, left_out: list[str]
) -> tuple[list[dict], list[dict], dict | None]:
    """Return the statistics of the attributions, their agreement with the SVM, and the SVM. Appends to left_out."""
    minimum = arguments.min_occurrences
    attributed = [read_word_attributions(folder) for folder in arguments.attributions]
    names, attribution, correlations = unique_names([model for model, _ in attributed]), [], []
    svms = sorted(
        (run for run in index["runs"] if run["kind"] == "svm"),
        key=lambda run: not run["order_free"],
    )
    if not attributed:
        left_out.append("Attribution in context is left out: it needs --attributions.")
    else:
        shared, pairs, scores = score_tables([documents for _, documents in attributed], minimum)
        for place, (name, (_, documents)) in enumerate(zip(names, attributed, strict=True)):
            row = {"name": name, "folder": arguments.attributions[place], "documents": len(shared)}
            row |= attribution_statistics(
                documents, [word for _, word in pairs], scores[place], arguments
            )
            attribution.append(row | {"min_occurrences": minimum})
        if any(row["all"] is None for row in attribution):
            left_out.append(
                f"Variance of attributions is left out: fewer than two words are attributed to the same class in "
                f"{minimum} documents. Documents that all models explain for the same class: {len(shared)}."
            )
    if not svms or not attributed:
        left_out.append(
            "Agreement with the SVM is left out: it needs --attributions and an SVM run in --compare."
        )
    else:
        if pairs:
            texts = [attributed[0][1][name] for name in shared]
            svm = svm_contributions(svms[0]["folder"], index["classes"], pairs, texts)
            correlations = agreement(names, pairs, scores, svm, arguments)
        if missing := sorted(set(index["classes"]) - {row["class"] for row in correlations}):
            left_out.append(
                f"Agreement with the SVM is left out for {', '.join(missing)}: fewer than {MIN_WORDS} words in "
                f"{minimum} documents, or all scores are equal."
            )
    used = {key: svms[0][key] for key in ("name", "order_free")} if correlations else None
    return attribution, correlations, used


def compute_statistics(
    index: dict,
    order_values: list[np.ndarray],
    window_values: list[np.ndarray | None],
    arguments: ContextArguments,
) -> dict:
    """Return the content of context.json, except for the record of how it was made."""
    left_out = list(index["left_out"])
    order = [
        order_statistics(run, values, index, arguments)
        for run, values in zip(index["runs"], order_values, strict=True)
    ]
    for run in order:
        if run["indifferent"] is False:
            logger.warning(
                "%s must not depend on word order, but does: %s", run["name"], run["folder"]
            )
    windows = []
    for run, values in zip(index["runs"], window_values, strict=True):
        if values is not None:
            conditions = condition_statistics(
                run["windows"], values, index, arguments, repetitions=1
            )[1]
            windows.append({"name": run["name"], "conditions": conditions})
        elif run["kind"] == "encoder":
            left_out.append(
                f"The attention window is left out for {run['name']}: "
                + (
                    "the model does not take a mask for each pair of tokens."
                    if "windows" in run
                    else EARLIER
                )
            )
    surrogates = [row for row in map(surrogate_statistics, index["runs"]) if row]
    if not surrogates:
        reason = (
            EARLIER
            if "additive_r2" not in index["runs"][0]
            else "no document was evaluated for it."
        )
        left_out.append(f"The additive surrogate is left out: {reason}")
    attribution, correlations, svm = attribution_results(index, arguments, left_out)
    return {
        "documents": len(index["labels"]),
        "classes": index["classes"],
        "model": order[0]["name"],
        "order": order,
        "windows": windows,
        "surrogates": surrogates,
        "phrases": phrase_statistics(index, arguments),
        "attribution": attribution,
        "agreement": correlations,
        "agreement_svm": svm,
        "left_out": left_out,
    }


# Text: each section is a dict of title, sentences and tables (caption, header, rows)


def block_text(block: int | str) -> str:
    """Return what was shuffled."""
    if block == SENTENCE:
        return "sentences"
    return "single words" if block == 1 else f"blocks of {block} words"


def number(value: float) -> str:
    """Return a number with three digits, never as -0.000."""
    return f"{round(value, 3) + 0.0:.3f}"


def limits(part: dict, form=percent) -> str:
    """Return the limits of an interval for a table cell."""
    return "-" if part["low"] is None else f"{form(part['low'])} to {form(part['high'])}"


def interval(part: dict, form=percent) -> str:
    """Return the interval of a part for a sentence, or why there is none."""
    if part["low"] is None:
        return f"no 95 % interval: fewer than {MIN_INTERVAL_DOCUMENTS} documents"
    return f"95 % interval {limits(part, form)}"


def verdict(p_holm: float, null: str) -> str:
    """Return whether a test found a difference from the null."""
    return f"{'' if p_holm < ALPHA else 'not '}distinguishable from {null}"


def order_sentences(run: dict, documents: int) -> list[str]:
    """Return the findings of a run's word order test."""
    name = run["name"]
    sentences = [
        f"{name}: accuracy {percent(run['accuracy']['value'])} % ({interval(run['accuracy'])}) and macro F1 "
        f"{percent(run['macro_f1']['value'])} % on the {documents:,} original documents."
    ]
    for condition in run["conditions"]:
        test, change = condition["accuracy"], percent(abs(condition["accuracy"]["difference"]))
        verb = (
            f"{'falls' if test['difference'] < 0 else 'rises'} by {change} points"
            if change != "0.00"
            else "stays"
        )
        if condition["block"] in (1, SENTENCE):
            sentences.append(
                f"{name}: with {block_text(condition['block'])} shuffled, accuracy {verb} ({interval(test)}, p after "
                f"Holm {p_text(test['p_holm'])}): {verdict(test['p_holm'], 'no change')}. "
                f"{percent(condition['predictions_changed'])} % of its predictions change."
            )
    worst = min(run["conditions"], key=lambda condition: condition["macro_f1"]["difference"])
    loser = min(worst["classes"], key=lambda part: part["difference"])
    if loser["difference"] < 0:
        sentences.append(
            f"{name}: {loser['class']} loses most, {percent(-loser['difference'])} points of F1 with "
            f"{block_text(worst['block'])} shuffled ({interval(loser)}; {verdict(loser['p_holm'], 'no change')} after "
            "Holm over all classes and sizes)."
        )
    if run["indifferent"] is not None:
        single = next(condition for condition in run["conditions"] if condition["block"] == 1)
        state = "does not" if run["indifferent"] else "DOES: something is wrong"
        sentences.append(
            f"{name} does not see the word order, so its predictions must not depend on it; its output {state} "
            f"(largest change of a score {single['max_change']:.1e})."
        )
    if run["cut_documents"]:
        sentences.append(
            f"{run['cut_documents']:,} documents are longer than {name} reads. They were truncated before shuffling, "
            "so that a shuffled text has the same words."
        )
    return sentences


def metric_cells(condition: dict) -> list[str]:
    """Return the table cells of a condition: for accuracy and macro F1, value, difference, interval and p."""
    tests = [condition["accuracy"], condition["macro_f1"]]
    cells = [
        [percent(t["value"]), percent(t["difference"]), limits(t), f"{t['p_holm']:.3f}"]
        for t in tests
    ]
    return cells[0] + cells[1]


def order_tables(run: dict) -> list[tuple]:
    """Return the tables of a run's word order test."""
    rows = []
    for condition in run["conditions"]:
        probability = condition.get("true_class_probability")
        cells = [block_text(condition["block"]), *metric_cells(condition)]
        rows.append(
            [
                *cells,
                f"{percent(probability['mean'])} ({limits(probability)})" if probability else "-",
            ]
        )
    classes = [
        "class (documents)",
        *(block_text(condition["block"]) for condition in run["conditions"]),
    ]
    losses = [
        [f"{part['class']} ({part['documents']})"]
        + [percent(condition["classes"][place]["difference"]) for condition in run["conditions"]]
        for place, part in enumerate(run["conditions"][0]["classes"])
    ]
    header = ["shuffled", *METRIC_HEADER, "P(true class) changes by"]
    return [
        (f"{run['name']}, per cent", header, rows),
        (f"{run['name']}, change of F1 in points", classes, losses),
    ]


def order_section(runs: list[dict], documents: int) -> dict:
    """Return the section of the word order test."""
    return {
        "title": PARTS[0],
        "sentences": [sentence for run in runs for sentence in order_sentences(run, documents)],
        "tables": [table for run in runs for table in order_tables(run)],
    }


def window_section(runs: list[dict]) -> dict:
    """Return the section of the attention window."""
    section = {"title": PARTS[1], "sentences": [], "tables": []}
    for run in runs:
        for condition in (run["conditions"][0], run["conditions"][-1]):
            test, size = condition["accuracy"], condition["window"]
            seen = "all tokens" if size == "all" else f"itself and {size} tokens on either side"
            section["sentences"].append(
                f"{run['name']}: when a token sees {'only itself' if size == 0 else seen}, accuracy changes by "
                f"{percent(test['difference'])} points ({interval(test)}, p after Holm {p_text(test['p_holm'])}): "
                f"{verdict(test['p_holm'], 'no change')}."
            )
        rows = [
            [str(condition["window"]), *metric_cells(condition)] for condition in run["conditions"]
        ]
        section["tables"].append(
            (f"{run['name']}, per cent", ["tokens on either side", *METRIC_HEADER], rows)
        )
    if runs:
        section["sentences"].append(
            "The first special token still sees the whole text, and no token sees it; all tokens see the last special "
            "token, which sees only itself. The window of all tokens shows what this alone changes. The models were "
            "not trained with windows, so a loss shows what they do with context, not what the task needs."
        )
    return section


def surrogate_section(rows: list[dict]) -> dict:
    """Return the section of the additive surrogate."""
    section = {"title": PARTS[2], "sentences": [], "tables": []}
    for row in rows:
        section["sentences"].append(
            f"{row['name']}: {percent(row['mean'])} % ({interval(row)}) of the variance of the predicted class's "
            "logit is a sum over words, and the rest is interactions of words (R2 of the best additive surrogate on "
            f"texts in which each word is left out with probability 1/2; mean over {row['documents']} documents)."
        )
    return section


def phrase_table(phrases: list[dict]) -> tuple:
    """Return the table of the phrases."""
    header = [
        "phrase",
        "documents",
        "whole",
        "sum of words alone",
        "sum of single drops",
        "synergy",
    ]
    header += ["of other words", "p (Holm)", "moved apart", "p (Holm)"]
    rows = []
    for row in phrases:
        values = [
            row["whole"],
            row["sum_of_words_alone"],
            row["sum_of_single_drops"],
            row["synergy"]["mean"],
        ]
        cells = [row["phrase"], row["documents"], *map(number, values)]
        for kind in ("spans", "moved"):
            test = row[f"against_{kind}"]
            cells += (
                [number(row[f"{kind}_synergy"]), f"{test['p_holm']:.3f}"] if test else ["-", "-"]
            )
        rows.append(cells)
    return "Logits, means over the documents", header, rows


def phrase_section(phrases: dict | None, model: str) -> dict:
    """Return the section of the phrase test."""
    section = {"title": PARTS[3], "sentences": [], "tables": []}
    if phrases is None:
        return section
    sources = {
        "given": "as given",
        "attributions": "strong n-grams in the attributions of other documents",
        "typical n-grams": "n-grams typical of a class in other documents",
    }
    section["sentences"].append(
        f"{len(phrases['phrases'])} phrases ({sources[phrases['source']]}) were masked as a whole and word by word, "
        "at all their occurrences. The synergy of a phrase is what the whole phrase adds to the logit of the class "
        f"that {model} predicts, minus the sum of what each of its words adds alone. A synergy of 0 means that the "
        "words act independently."
    )
    for kind, text in (
        ("spans", "other neighboring words of the same documents"),
        ("moved", "the same words moved apart in the same documents"),
    ):
        total = phrases[f"against_{kind}"]
        if not total:
            section["sentences"].append(
                f"A comparison with {text} needs {MIN_PHRASE_DOCUMENTS} documents that are long enough."
            )
            continue
        if total["tested"]:
            counts = (
                f"{total['more']} of {total['tested']} phrases have more and {total['less']} less"
            )
            alone = f"{counts} (p < {ALPHA} after Holm)."
        else:
            alone = f"No phrase was compared in {MIN_PHRASE_DOCUMENTS} documents, so none is tested alone."
        section["sentences"].append(
            f"Compared with {text}, the synergy of phrases differs by {number(total['mean'])} logits "
            f"({interval(total, number)}; sign-flip test over {total['documents']} documents, p "
            f"{p_text(total['p'])}): {verdict(total['p'], 'no difference')}. {alone}"
        )
    section["sentences"].append(
        "Strong words saturate a logit, so a strong phrase can differ from other words without any use of context. "
        "Only the second comparison keeps the words and changes nothing but their places, so only it speaks for or "
        "against the use of context."
    )
    if phrases["not_found"]:
        section["sentences"].append(f"Not in the documents: {', '.join(phrases['not_found'])}.")
    section["tables"].append(phrase_table(phrases["phrases"]))
    return section


def attribution_section(models: list[dict]) -> dict:
    """Return the section of the variance of attributions."""
    section, rows = {"title": PARTS[4], "sentences": [], "tables": []}, []
    for model in models:
        everything, share = model["all"], model["function_share"]
        if everything:
            section["sentences"].append(
                f"{model['name']}: {percent(everything['icc'])} % ({interval(everything)}) of the variance of the "
                "rank of a word's attribution to a class lies between words, the rest between the documents that "
                f"contain it ({everything['groups']:,} pairs of word and class, each in {model['min_occurrences']} or "
                f"more of {model['documents']:,} documents, the same for all models)."
            )
        if share:
            section["sentences"].append(
                f"Function words are {percent(model['function_share_of_words']['mean'])} % of the words and carry "
                f"{percent(share['mean'])} % ({interval(share)}) of the absolute attribution of {model['name']}."
            )
        for kind, text in WORD_KINDS.items():
            if part := model[kind]:
                cells = [f"{1000 * part[key]:.2f}" for key in ("between", "within")]
                counts = [f"{part['groups']:,}", f"{part['observations']:,}"]
                rows.append(
                    [
                        model["name"],
                        text,
                        *counts,
                        *cells,
                        number(part["icc"]),
                        limits(part, number),
                    ]
                )
    if rows:
        section["sentences"].append(
            "Ranks go from 0 to 1, and intervals are over resampled documents. Where both variances are small, as for "
            "words of little attribution, their ratio says little about the use of context."
        )
        header = ["model", "words", "pairs", "observations", "variance between words, 1/1000"]
        header += ["variance within words, 1/1000", "share between words", "95 % interval"]
        section["tables"].append(("Variance of the ranks of attributions", header, rows))
    return section


def agreement_section(rows: list[dict], svm: dict | None) -> dict:
    """Return the section of the comparison with the SVM."""
    section, lines, words = {"title": PARTS[5], "sentences": [], "tables": []}, [], []
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        section["sentences"].append(
            f"{name}: the mean attribution of a word and its mean share in the SVM's decision value (coefficient "
            f"times tf-idf) have a rank correlation of {number(min(row['rho'] for row in own))} to "
            f"{number(max(row['rho'] for row in own))}. {sum(row['p_holm'] < ALPHA for row in own)} of {len(own)} "
            f"classes are distinguishable from no agreement (p < {ALPHA} after Holm)."
        )
        if tests := [row["difference"] for row in own if row["difference"]]:
            section["sentences"].append(
                f"{name}: {sum(test['p_holm'] < ALPHA for test in tests)} of {len(tests)} correlations are "
                f"distinguishable from those of {rows[0]['model']} (p < {ALPHA} after Holm)."
            )
    for row in rows:
        part = row["difference"]
        cells = (
            [number(part["value"]), limits(part, number), f"{part['p_holm']:.3f}"]
            if part
            else ["-"] * 3
        )
        own = [number(row["rho"]), limits(row, number), f"{row['p_holm']:.3f}"]
        lines.append([row["model"], row["class"], row["words"], *own, *cells])
        for part in row["differ_most"][:SHOWN_WORDS]:
            values = [
                number(part["attribution"]),
                number(part["svm"]),
                f"{part['rank_difference']:+.2f}",
            ]
            words.append([row["model"], row["class"], part["word"], *values])
    if lines:
        section["sentences"].append(
            f"Intervals are over resampled words. The SVM is {svm['name']}"
            + (
                "."
                if svm["order_free"]
                else ", which also has n-grams; its single words are compared."
            )
        )
        header = ["model", "class", "words", "Spearman's correlation", "95 % interval", "p (Holm)"]
        header += [f"difference from {rows[0]['model']}, Fisher's z", "95 % interval", "p (Holm)"]
        section["tables"].append(("Rank correlation with the SVM", header, lines))
        header = [
            "model",
            "class",
            "word",
            "mean attribution",
            "mean share in the SVM",
            "difference of rank (share)",
        ]
        section["tables"].append(("Words on which they differ most", header, words))
    return section


def markdown(result: dict, sections: list[dict]) -> str:
    """Return context.md: the sentences of each section, then its tables."""
    parts = [f"# Does {escape_markdown(result['model'])} use context?"]
    for section in sections:
        parts.append(f"## {section['title']}")
        parts.append(
            "\n".join(f"- {escape_markdown(sentence)}" for sentence in section["sentences"])
        )
        for caption, header, rows in section["tables"]:
            parts += [f"{escape_markdown(caption)}:", markdown_table(header, rows).rstrip()]
    if result["left_out"]:
        parts += [
            "## Left out",
            "\n".join(f"- {escape_markdown(text)}" for text in result["left_out"]),
        ]
    return hide_paths("\n\n".join(parts) + "\n")


# Drawing


def model_styles(result: dict) -> dict[str, dict[str, str]]:
    """Return color and marker of each model, the same in all panels; the markers suffice without colors."""
    names = dict.fromkeys(part["name"] for part in (*result["order"], *result["attribution"]))
    return {
        name: {"color": COLORS[place % len(COLORS)], "marker": MARKERS[place % len(MARKERS)]}
        for place, name in enumerate(names)
    }


def draw_conditions(axes: plt.Axes, result: dict, runs: list[dict], key: str, label: str) -> None:
    """Draw the change of accuracy by condition, one line per run."""
    for place, run in enumerate(runs):
        tests = [condition["accuracy"] for condition in run["conditions"]]
        x = np.arange(len(tests)) + 0.08 * (place - (len(runs) - 1) / 2)
        y = np.array([[100 * test[key] for test in tests] for key in ("difference", "low", "high")])
        style = model_styles(result)[run["name"]]
        axes.vlines(x, y[1], y[2], color=style["color"], linewidth=1.2)
        axes.plot(x, y[0], **style, markersize=4, linewidth=1, label=plain(run["name"]))
    labels = [str(condition[key]) for condition in runs[0]["conditions"]]
    axes.set_xticks(range(len(labels)), labels)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set(xlabel=label, ylabel="change of accuracy, points")
    axes.legend(
        fontsize=8, framealpha=0.8, edgecolor="none", loc="lower right"
    )  # the last ones change least


def draw_order(axes: plt.Axes, result: dict) -> None:
    """Draw the change of accuracy by block size."""
    draw_conditions(axes, result, result["order"], "block", "words that stay together")


def draw_windows(axes: plt.Axes, result: dict) -> None:
    """Draw the change of accuracy by window size."""
    draw_conditions(
        axes, result, result["windows"], "window", "tokens that a token sees on either side"
    )


def draw_surrogates(axes: plt.Axes, result: dict) -> None:
    """Draw the R2 of the additive surrogate of each run."""
    for y, row in enumerate(result["surrogates"]):
        style = model_styles(result)[row["name"]]
        if row["low"] is not None:
            axes.hlines(y, row["low"], row["high"], color=style["color"])
        axes.plot(row["mean"], y, **style)
    names = [plain(row["name"]) for row in result["surrogates"]]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(
        xlim=(-0.03, 1.03),
        ylim=(len(names) - 0.5, -0.5),
        xlabel="share of the logit's variance that is additive",
    )


def draw_phrases(axes: plt.Axes, result: dict) -> None:
    """Draw the synergy of the phrases that differ most from their words moved apart, and of their controls."""
    rows = sorted(
        result["phrases"]["phrases"],
        key=lambda row: (
            -abs(row["against_moved"]["mean"] if row["against_moved"] else row["synergy"]["mean"])
        ),
    )[:SHOWN_PHRASES]
    for y, row in enumerate(rows):
        if row["synergy"]["low"] is not None:
            axes.hlines(
                y, row["synergy"]["low"], row["synergy"]["high"], color=COLORS[0], linewidth=1.2
            )
    for key, color, marker, label in (
        ("synergy", COLORS[0], "o", "phrase (95 % interval)"),
        ("spans_synergy", COLORS[4], "x", "other neighboring words"),
        ("moved_synergy", COLORS[1], "D", "same words moved apart"),
    ):
        values = [row[key]["mean"] if key == "synergy" else row[key] for row in rows]
        places = [y for y, value in enumerate(values) if value is not None]
        axes.plot(
            [values[y] for y in places], places, marker, color=color, markersize=4.5, label=label
        )
    axes.set_yticks(range(len(rows)), [plain(row["phrase"]) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("synergy, logit")
    axes.legend(fontsize=8, framealpha=0.8, edgecolor="none")


def draw_attribution(axes: plt.Axes, result: dict) -> None:
    """Draw the intraclass correlation of each model by kind of word."""
    models = result["attribution"]
    for place, model in enumerate(models):
        style = model_styles(result)[model["name"]]
        for x, kind in enumerate(WORD_KINDS):
            if part := model[kind]:
                at = x + 0.12 * (place - (len(models) - 1) / 2)
                if part["low"] is not None:
                    axes.vlines(at, part["low"], part["high"], color=style["color"])
                axes.plot(at, part["icc"], **style)
        axes.plot([], [], **style, linestyle="", label=plain(model["name"]))
    axes.set_xticks(range(len(WORD_KINDS)), WORD_KINDS.values())
    axes.set(
        ylim=(-0.03, 1.03),
        xlim=(-0.5, len(WORD_KINDS) - 0.5),
        ylabel="share of variance between words",
    )
    axes.legend(fontsize=8, frameon=False)


def draw_agreement(axes: plt.Axes, result: dict) -> None:
    """Draw the rank correlation with the SVM's coefficients by class."""
    models = list(dict.fromkeys(row["model"] for row in result["agreement"]))
    for place, name in enumerate(models):
        rows = [row for row in result["agreement"] if row["model"] == name]
        x = [
            result["classes"].index(row["class"]) + 0.12 * (place - (len(models) - 1) / 2)
            for row in rows
        ]
        style = model_styles(result)[name]
        axes.vlines(
            x, [row["low"] for row in rows], [row["high"] for row in rows], color=style["color"]
        )
        axes.plot(x, [row["rho"] for row in rows], **style, linestyle="", label=plain(name))
    axes.set_xticks(range(len(result["classes"])), map(plain, result["classes"]), fontsize=8)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set(xlim=(-0.5, len(result["classes"]) - 0.5), ylim=(-1.03, 1.03))
    axes.set(ylabel="rank correlation with the SVM")
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def draw(result: dict) -> bytes:
    """Return the six panels as PNG; a test that was left out is an empty panel that says so."""
    figure, panels = plt.subplots(2, 3, figsize=(16, 8.5))
    drawers = {
        "order": draw_order,
        "windows": draw_windows,
        "surrogates": draw_surrogates,
        "phrases": draw_phrases,
        "attribution": draw_attribution,
        "agreement": draw_agreement,
    }
    shown = result | {"attribution": [model for model in result["attribution"] if model["all"]]}
    for letter, axes, title, (key, drawer) in zip(
        "abcdef", panels.flat, PARTS, drawers.items(), strict=True
    ):
        axes.set_title(f"({letter}) {title}", loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        if shown[key]:
            drawer(axes, result)
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "left out", ha="center", va="center", color="#666666")
    figure.tight_layout()
    return png(figure)


def published(value: object) -> object:
    """Return a value of the arguments, with the name of the folder in the place of an absolute path."""
    if isinstance(value, list):
        return list(map(published, value))
    return run_name(value) if isinstance(value, str) and value.startswith("/") else value


def main() -> None:
    # 1. Arguments and output folder
    start_logging()
    (arguments,) = parse_arguments(
        __doc__, ContextArguments, adapt=complete_arguments, **dict.fromkeys(DEFAULTS, None)
    )
    for folder in arguments.attributions:
        if not Path(folder, "attributions.jsonl").is_file():
            fail(f"--attributions {folder} has no attributions.jsonl; run run_attribution.py")
    for flag, name in (
        ("model", arguments.model_name_or_path),
        ("dataset", arguments.dataset_name),
    ):
        if getattr(arguments, f"{flag}_revision") and Path(name).exists():
            fail(f"--{flag}_revision is for the Hub, but {name} is a local folder; leave it out")
    output = Path(arguments.output_dir)
    open_output_dir(output, OWN_FILES)

    # 2. Logits of all models
    if not arguments.statistics_only:
        evaluations = output / "evaluations"
        try:
            evaluations.mkdir(exist_ok=True)
            (evaluations / "index.json").unlink(missing_ok=True)
        except OSError as error:
            fail(f"cannot write into {evaluations}: {error.strerror}")
        evaluate_models(arguments, evaluations)
    index, order_values, window_values = read_evaluations(output)

    # 3. Statistics
    settings = {
        name: published(value)
        for name, value in asdict(arguments).items()
        if name != "statistics_only"
    }
    result = {"script": "measure_context.py", "arguments": settings, "device": index["device"]}
    result |= {key: index.get(key) for key in ("model_commit", "dataset_commit")}
    result["versions"] = index["versions"] | versions("numpy", "scipy", "scikit-learn", "skops")
    result |= compute_statistics(index, order_values, window_values, arguments)
    for part in (*result["order"], *result["attribution"]):
        part["folder"] = published(part["folder"])

    # 4. Text and drawings
    sections = [
        order_section(result["order"], result["documents"]),
        window_section(result["windows"]),
        surrogate_section(result["surrogates"]),
        phrase_section(result["phrases"], result["model"]),
        attribution_section(result["attribution"]),
        agreement_section(result["agreement"], result["agreement_svm"]),
    ]
    sections = [section for section in sections if section["sentences"]]
    picture = draw(result)
    page = render("context.html", result=result, sections=sections, picture=data_url(picture))
    content = json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    outputs = {
        "context.png": picture,
        "context.html": page,
        "context.md": markdown(result, sections),
    }
    write_files(output, {"context.json": content} | outputs)
    for sentence in [text for section in sections for text in section["sentences"]] + result[
        "left_out"
    ]:
        logger.info(sentence)
    logger.info("next: python tools/make_report.py --context_dir %s --output_dir report", output)


if __name__ == "__main__":
    main()
