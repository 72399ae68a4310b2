#!/usr/bin/env python
"""Does the model use context? Four tests on documents that it has not been trained on.

Order test: what do accuracy and macro F1 lose when the words are shuffled, in blocks of k words or by sentence?
Phrase test: does a phrase carry more than its words, more than other neighbouring words do, and more than the same
words standing apart? Attribution in context (--attributions): how much of the variance of a word's attribution lies
between words and how much between the documents they stand in? Agreement (--attributions and an SVM among the runs):
do the mean attributions rank the words as the SVM's coefficients do?

Laptop:    python run_context.py --model_name_or_path runs/minilm --dataset_name data --output_dir context \\
               --compare runs/svm runs/layers-0 --attributions attributions/minilm attributions/layers-0
One GPU:   the same command; it takes the GPU (--bf16 is faster there, and rounds more)
Several:   one command a model, each with CUDA_VISIBLE_DEVICES and an --output_dir of its own

This script asks the models. It writes evaluations/: logits by content, so that nothing is computed twice, after an
interruption neither, and index.json. context_statistics.py beside this file then makes every test and interval from
them (context.json), render_context.py draws context.png, context.html and context.md. Parts whose input is not given
are left out, and the results say so.
"""

import argparse
import difflib
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import datasets
import numpy as np
import skops.io
import torch
import yaml
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from sklearn.feature_selection import chi2
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, HfArgumentParser

logger = logging.getLogger(__name__)

OWN_FILES = r"context\.(json|html|png|md)(\.tmp)?|evaluations"
PACKAGES = ("torch", "transformers", "datasets", "numpy", "scikit-learn", "skops")
MIN_DOCUMENTS = 20
MIN_PHRASE_DOCUMENTS = 3  # fewer give a permutation test next to no power
MAX_OCCURRENCES = 20  # documents in which a phrase is looked at
MIN_GAP = 3  # words between the words of a phrase that is moved apart
PHRASE_WORDS = range(2, 5)  # how long the phrases are that this script looks for itself
SENTENCE = "sentence"


@dataclass
class ContextArguments:
    """The command line."""

    model_name_or_path: str = field(metadata={"help": "Run folder of the model in question, or a Hub id."})
    dataset_name: str = field(metadata={"help": "Dataset folder of fetch_arxiv.py, or a Hub id."})
    output_dir: str = field(metadata={"help": "Folder to write: new, empty, or written by this script before."})
    compare: list[str] = field(
        default_factory=list, metadata={"help": "More runs for the order test; an SVM serves the agreement, too."}
    )
    attributions: list[str] = field(
        default_factory=list, metadata={"help": "Folders of run_attribution.py, that of the model in question first."}
    )
    split: str = field(default="test", metadata={"help": "Split of the dataset."})
    text_column_names: str = field(default="abstract", metadata={"help": "Text columns, separated by commas."})
    max_samples: int = field(default=1000, metadata={"help": "Only the first so many documents."})
    max_seq_length: int | None = field(default=None, metadata={"help": "Tokens to cut at. Default: as in training."})
    block_sizes: list[int] = field(
        default_factory=lambda: [1, 2, 3, 5, 10], metadata={"help": "Words that stay together in the order test."}
    )
    n_shuffles: int = field(default=5, metadata={"help": "Shuffles of every document at each block size."})
    phrases: list[str] = field(
        default_factory=list, metadata={"help": "Phrases. Default: the strongest of --attributions, or typical ones."}
    )
    n_phrases: int = field(default=50, metadata={"help": "Phrases to look for; 0 leaves the phrase test out."})
    n_controls: int = field(default=200, metadata={"help": "Controls a phrase: half other spans, half moved apart."})
    n_permutations: int = field(default=9999, metadata={"help": "Relabellings in each permutation test."})
    n_resamples: int = field(default=10_000, metadata={"help": "Bootstrap samples of the documents."})
    min_occurrences: int = field(default=20, metadata={"help": "Least documents of a word attributed to one class."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Texts in a batch."})
    bf16: bool = field(default=False, metadata={"help": "bfloat16 arithmetic: faster on a GPU."})
    seed: int = field(default=42, metadata={"help": "Seed of shuffles, controls, permutations and the bootstrap."})
    render: bool = field(default=True, metadata={"help": "Draw the page, the picture and the summary."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar."})

    def __post_init__(self):
        least = {"max_samples": 1, "n_shuffles": 1, "n_phrases": 0, "n_controls": 2, "seed": 0}
        least |= {"n_permutations": 99, "n_resamples": 100, "min_occurrences": 2, "per_device_eval_batch_size": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"--{name} must be at least {bound}, not {getattr(self, name)}")
        if not self.block_sizes or min(self.block_sizes) < 1:
            raise ValueError("--block_sizes needs whole numbers from 1")


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


def read_documents(arguments: ContextArguments) -> tuple[list[dict], list[str]]:
    """The documents, dicts with id, words (split at white space) and label (a number), and the class names."""
    name = arguments.dataset_name
    try:
        dataset = datasets.load_dataset(name)
    except Exception as error:  # the library raises its own, the Hub's, the file system's and pyarrow's
        fail(f"cannot load --dataset_name {name}: {one_line(error)}")
    if arguments.split not in dataset:
        fail(f"{name} has no split {arguments.split!r}; it has {', '.join(dataset)}")
    part = dataset[arguments.split]
    columns = [column.strip() for column in arguments.text_column_names.split(",")]
    for column in [*columns, "id", "label"]:
        if column not in part.column_names:
            fail(f"{name} has no column {column!r}; it has {', '.join(part.column_names)}")
    if not isinstance(part.features["label"], datasets.ClassLabel):
        fail(f"column 'label' of {name} is no ClassLabel, so its class names are unknown")
    documents = [
        {"id": str(row["id"]), "words": " ".join(str(row[c] or "") for c in columns).split(), "label": row["label"]}
        for row in part.select(range(min(arguments.max_samples, len(part))))
    ]
    if len(documents) < MIN_DOCUMENTS:
        fail(f"{len(documents)} documents are too few for a test; give at least {MIN_DOCUMENTS}")
    if len({document["id"] for document in documents}) < len(documents):
        fail(f"{name} has two documents of the same id in split {arguments.split}; make ids unique")
    for document in documents:
        if not document["words"] or document["label"] is None or document["label"] < 0:
            fail(f"document {document['id']} has no {'label' if document['words'] else 'text'}; leave it out")
    return documents, part.features["label"].names


def run_name(folder: str) -> str:
    """A run's folder by its name; run_paper.sh's lr-RATE-seed-SEED is called after the model's folder around it."""
    path = Path(folder).resolve()
    return path.parent.name if re.fullmatch(r"lr-.+-seed-.+", path.name) else path.name


def load_run(folder: str, classes: list[str], arguments: ContextArguments, device: torch.device) -> SimpleNamespace:
    """A run with what its evaluation needs; kind is svm or encoder, order_free says that word order cannot matter.

    columns are the places of the dataset's classes among the model's outputs.
    """
    run = SimpleNamespace(folder=folder, name=run_name(folder), device=device, bf16=arguments.bf16)
    if (path := Path(folder, "model.skops")).exists():
        try:
            model = skops.io.load(path)
            counts, svm = model["counts"], model["svm"]
            fingerprint = path.read_bytes()
        except Exception as error:  # skops and zipfile raise many kinds, untrusted types among them
            fail(f"cannot load {path}: {one_line(error)}")
        if len(svm.classes_) < 2 or max(svm.classes_) >= len(classes):
            fail(f"{folder} knows other classes than {arguments.dataset_name}; take a run of the same dataset")
        run.kind, run.model, run.order_free = "svm", model, tuple(counts.ngram_range) == (1, 1)
        run.n_classes = len(classes)
        run.fingerprint = hashlib.sha256(fingerprint).hexdigest()
        return run
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # OSError, ValueError, TypeError, the Hub's and safetensors' own
        fail(f"{folder} holds neither model.skops nor an encoder with its tokenizer: {one_line(error)}")
    if loading["missing_keys"]:
        fail(f"{folder} is no trained classifier: it has no weights for {min(loading['missing_keys'])}; fine-tune it")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes an empty one where the files are missing
        fail(f"{folder} has no tokenizer files; save the tokenizer beside the model")
    label2id = {label: number for number, label in model.config.id2label.items()}
    if set(label2id) != set(classes):
        fail(f"the classes of {folder} ({', '.join(label2id)}) are not those of the dataset ({', '.join(classes)})")
    config = model.config
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    # RoBERTa counts positions from padding_idx + 1, so its table is longer than the texts that it takes.
    run.position_offset = 0 if getattr(table, "padding_idx", None) is None else table.padding_idx + 1
    limit = min(getattr(config, "max_position_embeddings", 10**9) - run.position_offset, tokenizer.model_max_length)
    if arguments.max_seq_length is not None and not 2 < arguments.max_seq_length <= limit:
        fail(f"--max_seq_length {arguments.max_seq_length} is not between 3 and the {limit} positions of {folder}")
    run.max_length = arguments.max_seq_length or min(limit, getattr(config, "max_seq_length", None) or 256)
    run.prefix = getattr(config, "text_prefix", None) or ""
    run.kind, run.tokenizer, run.columns = "encoder", tokenizer, [label2id[label] for label in classes]
    run.order_free = config.model_type == "eurobert" and not config.num_hidden_layers
    run.order_free &= getattr(config, "classifier_pooling", None) != "bos"
    run.pad_id = tokenizer.pad_token_id or 0
    run.model = model.eval().requires_grad_(False).to(device)
    settings = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}  # it may move
    digest = hashlib.sha256(json.dumps([settings, run.columns, run.bf16], default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    run.fingerprint = digest.hexdigest()
    return run


def prepare_words(run: SimpleNamespace, documents: list[dict], seed: int) -> None:
    """Give an encoder the pieces of every distinct word, and the documents as far as they fit its limit.

    run.words are the documents' words without those that would be cut: a shuffled text then consists of the words of
    the original. run.assembled says of each whether its pieces, put together word by word, are what the tokenizer
    makes of a shuffled text; where they are not, its shuffled texts are tokenised themselves.
    """
    if run.kind == "svm":
        run.words = [document["words"] for document in documents]
        return
    vocabulary = sorted({word for document in documents for word in document["words"]})
    pieces = [run.tokenizer(form, add_special_tokens=False, verbose=False)["input_ids"]
              for form in (vocabulary, [f" {word}" for word in vocabulary])]  # fmt: skip
    run.head, run.tail = (dict(zip(vocabulary, ids, strict=True)) for ids in pieces)
    bare = run.tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = run.tokenizer("a")["input_ids"]
    place = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)
    prefix = run.tokenizer(run.prefix.rstrip(), add_special_tokens=False)["input_ids"]
    run.start, run.end = whole[:place] + prefix, whole[place + len(bare) :]
    if run.prefix:
        run.head = run.tail
    run.words = []
    for document in documents:
        lengths = np.cumsum([max(len(run.head[word]), len(run.tail[word])) for word in document["words"]])
        room = run.max_length - len(run.start) - len(run.end)
        run.words.append(document["words"][: max(1, int(np.searchsorted(lengths, room, side="right")))])
    shuffled = [shuffle(words, 1, [seed, n]) for n, words in enumerate(run.words)]
    expected = run.tokenizer([run.prefix + " ".join(words) for words in shuffled], verbose=False)["input_ids"]
    run.assembled = [len(ids) <= run.max_length and assemble(run, words) == ids
                     for words, ids in zip(shuffled, expected, strict=True)]  # fmt: skip


def assemble(run: SimpleNamespace, words: list[str], masked: frozenset[int] = frozenset()) -> list[int]:
    """Token ids of a text from the pieces of its words; every piece of a word at a place in masked becomes PAD."""
    ids = list(run.start)
    for place, word in enumerate(words):
        pieces = run.head[word] if place == 0 else run.tail[word]
        ids += [run.pad_id] * len(pieces) if place in masked else pieces
    return ids + run.end


def encode(run: SimpleNamespace, texts: list[list[str]], numbers: list[int]) -> list:
    """What the run's model reads for each text, given as words of the document with that number."""
    if run.kind == "svm":
        return [" ".join(words) for words in texts]
    inputs = [assemble(run, words) if run.assembled[n] else None for words, n in zip(texts, numbers, strict=True)]
    rest = [place for place, ids in enumerate(inputs) if ids is None]
    if rest:
        tokenised = run.tokenizer(
            [run.prefix + " ".join(texts[place]) for place in rest], truncation=True, max_length=run.max_length
        )
        for place, ids in zip(rest, tokenised["input_ids"], strict=True):
            inputs[place] = ids
    return inputs


def evaluate(run: SimpleNamespace, inputs: list, folder: Path, batch_size: int, bar: tqdm) -> np.ndarray:
    """Logits or decision values, (inputs, classes); equal inputs are computed once, and kept in folder by content."""
    digest = hashlib.sha256(run.fingerprint.encode())
    for item in inputs:
        digest.update(repr(item).encode())
    path = folder / f"{digest.hexdigest()[:32]}.npy"
    if path.exists():
        bar.update(len(inputs))
        return np.load(path, allow_pickle=False)
    keys = [item if isinstance(item, str) else tuple(item) for item in inputs]
    distinct = sorted(set(keys), key=lambda key: (-len(key), key))
    weights, rows = Counter(keys), []
    for start in range(0, len(distinct), batch_size):
        batch = distinct[start : start + batch_size]
        rows.append(svm_values(run, batch) if run.kind == "svm" else encoder_logits(run, batch))
        bar.update(sum(weights[key] for key in batch))
    place = {key: number for number, key in enumerate(distinct)}
    values = np.concatenate(rows)[[place[key] for key in keys]]
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, values)
    os.replace(temporary, path)
    return values


def svm_values(run: SimpleNamespace, texts: list[str]) -> np.ndarray:
    """Decision values by the dataset's classes; one that the SVM was not trained on gets minus infinity."""
    scores = run.model.decision_function(texts)
    scores = np.column_stack([-scores, scores]) if scores.ndim == 1 else scores
    values = np.full((len(texts), run.n_classes), -np.inf)
    values[:, run.model["svm"].classes_] = scores
    return values


def encoder_logits(run: SimpleNamespace, batch: list[tuple[int, ...]]) -> np.ndarray:
    """Logits of one batch by the dataset's classes."""
    length = max(map(len, batch))
    ids = torch.full((len(batch), length), run.pad_id)
    mask = torch.zeros((len(batch), length), dtype=torch.long)
    for row, item in enumerate(batch):
        ids[row, : len(item)] = torch.tensor(item)
        mask[row, : len(item)] = 1
    extra = {}
    if run.position_offset:  # PAD in the place of a word must not shift the positions
        extra["position_ids"] = (torch.arange(length) + run.position_offset).repeat(len(batch), 1).to(run.device)
    try:
        with torch.inference_mode(), torch.autocast(run.device.type, torch.bfloat16, enabled=run.bf16):
            logits = run.model(input_ids=ids.to(run.device), attention_mask=mask.to(run.device), **extra).logits
    except torch.OutOfMemoryError:
        fail("out of memory; lower --per_device_eval_batch_size, the same command continues")
    return logits[:, run.columns].double().cpu().numpy()


def shuffle(words: list[str], size: int | str, seed: list[int]) -> list[str]:
    """The words with their blocks in random order: blocks of so many words, or sentences, the order within kept."""
    if size == SENTENCE:
        ends = [n + 1 for n in range(len(words) - 1)
                if re.search(r"[.!?][)\]'\"”’]*$", words[n]) and re.match(r"[^a-z]", words[n + 1])]  # fmt: skip
        edges = [0, *ends, len(words)]
    else:
        edges = [*range(0, len(words), size), len(words)]
    blocks = [words[start:stop] for start, stop in pairwise(edges)]
    return [word for n in np.random.default_rng(seed).permutation(len(blocks)) for word in blocks[n]]


def order_test(run: SimpleNamespace, documents: list[dict], arguments: ContextArguments, folder: Path) -> tuple:
    """Evaluate a run on the documents as they are and shuffled in blocks of every size, by sentence last.

    Returns what index.json says of the run, and values of shape (1 + sizes x shuffles, documents, classes), originals
    first.
    """
    numbers, sizes = list(range(len(documents))), [*dict.fromkeys(arguments.block_sizes), SENTENCE]
    batch_size, changed = arguments.per_device_eval_batch_size, []
    total = len(numbers) * (1 + len(sizes) * arguments.n_shuffles)
    with tqdm(total=total, desc=f"order: {run.name}", unit="text", disable=arguments.disable_tqdm) as bar:
        inputs = encode(run, run.words, numbers)
        values = [original := evaluate(run, inputs, folder, batch_size, bar)]
        for place, size in enumerate(sizes):
            texts = [shuffle(run.words[n], size, [arguments.seed, place, s, n])
                     for s in range(arguments.n_shuffles) for n in numbers]  # fmt: skip
            shuffled = encode(run, texts, numbers * arguments.n_shuffles)
            # A text of one block, or of equal words, is what it was.
            moved = [n for n, item in enumerate(shuffled) if item != inputs[n % len(inputs)]]
            bar.update(len(shuffled) - len(moved))
            values.append(np.tile(original, (arguments.n_shuffles, 1)))
            if moved:
                values[-1][moved] = evaluate(run, [shuffled[n] for n in moved], folder, batch_size, bar)
            changed.append(len(moved) / len(shuffled))
    about = {name: getattr(run, name) for name in ("name", "folder", "kind", "order_free")}
    about["cut_documents"] = sum(len(w) < len(d["words"]) for w, d in zip(run.words, documents, strict=True))
    about["conditions"] = [{"block": s, "changed_texts": c} for s, c in zip(sizes, changed, strict=True)]
    return about, np.concatenate(values).reshape(-1, *original.shape)


def plain(word: str) -> str:
    """A word without case and without the punctuation around it; empty if it is nothing else."""
    return re.sub(r"^\W+|\W+$", "", word).lower()


def spans(words: list[str], size: int) -> list[int]:
    """Starts of all runs of so many words with no punctuation between them."""
    joined = [bool(plain(word)) and not re.search(r"[.,;:!?]$", word) for word in words]
    return [n for n in range(len(words) - size + 1) if all(joined[n : n + size - 1]) and plain(words[n + size - 1])]


def without_overlap(ranked: list[str], n: int) -> list[str]:
    """The first n phrases, leaving out any that contains or is part of one before it."""
    chosen = []
    for phrase in ranked:
        if not any(f" {phrase} " in f" {other} " or f" {other} " in f" {phrase} " for other in chosen):
            chosen.append(phrase)
    return chosen[:n]


def ngrams(words: list[str], sizes: range) -> list[str]:
    """All runs of so many words with no punctuation between them and no function word at an end."""
    found = [tuple(map(plain, words[n : n + size])) for size in sizes for n in spans(words, size)]
    return [" ".join(run) for run in found if not {run[0], run[-1]} & ENGLISH_STOP_WORDS]


def typical_phrases(texts: list[list[str]], labels: list[int], n: int) -> list[str]:
    """The pairs and triples of words whose presence in a document depends most on the class (chi-squared)."""
    counter = CountVectorizer(analyzer=lambda words: ngrams(words, range(2, 4)), min_df=MIN_PHRASE_DOCUMENTS)
    try:
        counts = counter.fit_transform(texts) > 0
    except ValueError:  # no phrase is in so many documents
        return []
    names = counter.get_feature_names_out()
    return without_overlap(names[np.argsort(-chi2(counts, labels)[0], kind="stable")].tolist(), n)


def attributed_phrases(folder: str, texts: list[list[str]], n: int) -> list[str]:
    """The runs of two to four words, each with a positive attribution, with the largest sum over documents.

    Attributions count as shares of their document's absolute sum. A run stands in MIN_PHRASE_DOCUMENTS texts or more.
    """
    path, strength = Path(folder, "attributions.jsonl"), defaultdict(float)
    try:
        for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
            document = json.loads(line)
            words, scores = list(map(plain, document["words"])), np.array(document["word_attributions"])
            scores /= np.abs(scores).sum() or 1
            for size in PHRASE_WORDS:
                for start in range(len(words) - size + 1):
                    run, share = words[start : start + size], scores[start : start + size]
                    if all(run) and min(share) > 0:
                        strength[" ".join(run)] += share.sum()
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{path} is no file of run_attribution.py: {one_line(error)}")
    frequency = Counter(phrase for words in texts for phrase in set(ngrams(words, PHRASE_WORDS)))
    ranked = sorted(strength, key=lambda phrase: (-strength[phrase], phrase))
    return without_overlap([phrase for phrase in ranked if frequency[phrase] >= MIN_PHRASE_DOCUMENTS], n)


def move_apart(words: list[str], places: range, generator: np.random.Generator) -> tuple[list[str], list[int]] | None:
    """The text with the words at the places put elsewhere, MIN_GAP others between them, and their new places.

    All other words keep their order. None if the text is too short for it.
    """
    rest = [word for n, word in enumerate(words) if n not in places]
    free = len(rest) + 1 - (len(places) - 1) * (MIN_GAP - 1)
    if free < len(places):
        return None
    gaps = np.sort(generator.choice(free, len(places), replace=False)) + np.arange(len(places)) * (MIN_GAP - 1)
    order = generator.permutation(np.array(places))
    for gap, place in zip(gaps[::-1], order[::-1], strict=True):
        rest.insert(gap, words[place])
    return rest, (gaps + np.arange(len(places))).tolist()


def phrase_test(
    run: SimpleNamespace, phrase: str, targets: np.ndarray, arguments: ContextArguments, folder: Path, bar: tqdm
) -> list[dict]:
    """Synergy of a phrase, of other spans and of its words moved apart, in each document that it occurs in.

    F is the logit of the predicted class; a word is taken out by putting PAD in its place, as in run_attribution.py.
    With v(T) = F(only T of the phrase left) - F(none left), synergy = v(phrase) - sum of v(single word): what the
    whole adds to its parts. For two words that is the second difference F(ij) - F(i) - F(j) + F(none), the term of the
    Shapley and Banzhaf interaction indices in which all other words are present (Grabisch & Roubens, Int. J. of Game
    Theory 28:547-565, 1999); for more, the sum of the Harsanyi dividends of all subsets of two words or more.
    """
    words_of_phrase = phrase.split()
    size, found = len(words_of_phrase), []
    for number, words in enumerate(run.words):
        starts = [n for n in spans(words, size) if [plain(word) for word in words[n : n + size]] == words_of_phrase]
        if starts and run.assembled[number]:
            found.append((number, starts))
    found = found[:MAX_OCCURRENCES]
    per_document = -(-arguments.n_controls // (2 * max(1, len(found))))
    arrangements = []
    for number, starts in found:
        words, own = run.words[number], range(starts[0], starts[0] + size)
        generator = np.random.default_rng([arguments.seed, number, *phrase.encode()])
        others = [n for n in spans(words, size) if all(abs(n - start) >= size for start in starts)]
        arrangements.append((number, "phrase", words, own))
        for n in generator.permutation(others)[:per_document].tolist():
            arrangements.append((number, "spans", words, range(n, n + size)))
        for moved in [move_apart(words, own, generator) for _ in range(per_document)]:
            arrangements += [(number, "moved", *moved)] if moved else []
    inputs = []
    for _, kind, words, places in arrangements:
        whole = frozenset(places)
        masks = [frozenset(), whole, *(whole - {place} for place in places)]
        masks += [frozenset({place}) for place in places] if kind == "phrase" else []
        inputs += [assemble(run, words, mask) for mask in masks]
    bar.total += len(inputs)
    logits = evaluate(run, inputs, folder, arguments.per_device_eval_batch_size, bar) if inputs else []
    occurrences, start = [], 0
    for number, kind, _, _ in arrangements:
        length = 2 + size * (2 if kind == "phrase" else 1)
        values = logits[start : start + length, targets[number]]
        start += length
        alone = values[2 : 2 + size] - values[1]
        synergy = float(values[0] - values[1] - alone.sum())
        if kind == "phrase":
            about = {"document": number, "synergy": synergy, "whole": float(values[0] - values[1])}
            about |= {"alone": alone.tolist(), "drops": (values[0] - values[2 + size :]).tolist()}
            occurrences.append(about | {"spans": [], "moved": []})
        else:
            occurrences[-1][kind].append(synergy)
    return occurrences


def main() -> None:
    # 1. Arguments and output folder
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(ContextArguments)
    phrases = [" ".join(filter(None, map(plain, phrase.split()))) for phrase in arguments.phrases]
    for given, phrase in zip(arguments.phrases, phrases, strict=True):
        if " " not in phrase:
            fail(f"--phrases: {given!r} is no phrase of two words or more")
    for attribution in arguments.attributions:
        if not Path(attribution, "attributions.jsonl").is_file():
            fail(f"--attributions {attribution} holds no attributions.jsonl; run run_attribution.py")
    output = Path(arguments.output_dir)
    cache = output / "evaluations"
    try:
        foreign = [path.name for path in output.glob("*") if not re.fullmatch(OWN_FILES, path.name)]
        if foreign:
            fail(f"--output_dir {output} holds {foreign[0]}, which this script did not write; name another folder")
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "index.json").unlink(missing_ok=True)
    except OSError as error:
        fail(f"cannot write into --output_dir {output}: {error.strerror}")

    # 2. Documents and runs
    documents, classes = read_documents(arguments)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    folders = dict.fromkeys([arguments.model_name_or_path, *arguments.compare])
    runs = [load_run(folder, classes, arguments, device) for folder in folders]
    names = Counter(run.name for run in runs)
    for run in runs:
        run.name = run.folder if names[run.name] > 1 else run.name
        prepare_words(run, documents, arguments.seed)
    main_run, left_out = runs[0], []

    # 3. Order test of every run
    index = {"script": "run_context.py", "arguments": asdict(arguments), "classes": classes, "device": str(device)}
    index |= {"versions": {"python": sys.version.split()[0]} | {package: version(package) for package in PACKAGES}}
    index |= {"ids": [d["id"] for d in documents], "labels": [d["label"] for d in documents], "runs": []}
    try:
        for number, run in enumerate(runs):
            about, values = order_test(run, documents, arguments, cache)
            index["runs"].append(about)
            np.save(cache / f"order-{number}.npy", values)
            if number == 0:
                targets = values[0].argmax(axis=-1)

        # 4. Phrase test of the model in question
        source, not_found, index["phrases"] = "given", [], []
        able = main_run.kind == "encoder" and any(main_run.assembled)
        if not able or not (arguments.n_phrases or phrases):
            reason = "--n_phrases is 0" if able else "it needs an encoder with a tokenizer that keeps words apart"
            left_out, phrases = [f"The phrase test is left out: {reason}."], []
        elif not phrases and arguments.attributions:
            source = "attributions"
            phrases = attributed_phrases(arguments.attributions[0], main_run.words, arguments.n_phrases)
        elif not phrases:
            source, phrases = "typical n-grams", typical_phrases(main_run.words, index["labels"], arguments.n_phrases)
        with tqdm(total=0, desc="phrases", unit="text", disable=arguments.disable_tqdm) as bar:
            for phrase in phrases:
                occurrences = phrase_test(main_run, phrase, targets, arguments, cache, bar)
                if occurrences:
                    index["phrases"].append({"phrase": phrase, "occurrences": occurrences})
                else:
                    not_found.append(phrase)
        if not_found:
            text = f"never in the {len(documents)} documents: {', '.join(map(repr, not_found))}"
            logger.warning(text) if index["phrases"] else fail(f"--phrases are {text}; give others")
        if not index["phrases"] and not left_out:
            left_out = [f"The phrase test is left out: no phrase is in {MIN_PHRASE_DOCUMENTS} documents."]
        index |= {"phrase_source": source, "phrases_not_found": not_found, "left_out": left_out}
        temporary = cache / "index.json.tmp"
        temporary.write_text(json.dumps(index, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, cache / "index.json")
    except OSError as error:
        fail(f"cannot write into {output}: {error.strerror}; free some space, then the same command continues")

    # 5. Tests, intervals and pictures
    statistics = Path(__file__).with_name("context_statistics.py")
    if not statistics.exists():
        logger.warning("%s is not there: context.json is not made", statistics)
        return
    command = [sys.executable, statistics, "--context_dir", output, "--render", str(arguments.render).lower()]
    raise SystemExit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
