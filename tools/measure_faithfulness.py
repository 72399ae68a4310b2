#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "captum==0.9.0",
#     "datasets==5.2.0",
#     "huggingface_hub==2.4.0",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "pyarrow==26.0.1",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "scipy==1.17.1",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Measure whether attributions describe the model: does its prediction change without the words
they rank first, and do they find the words that are known to count?

    python tools/measure_faithfulness.py --attribution_dir attributions
    python tools/measure_faithfulness.py --attribution_dir attributions --max_samples 25 \\
        --methods gradient_x_input occlusion shapley --n_mosaics 100 --dataset_name data/arxiv
    python tools/measure_faithfulness.py --attribution_dir attributions \\
        --compare attributions-mask      # the same documents with another baseline

Reads attributions.jsonl and summary.json of run_attribution.py, takes words away and evaluates the
model again (on one GPU where there is one). It measures for each document:

- as defined by ERASER (DeYoung et al., ACL 2020), comprehensiveness, the probability of the target
  class lost without the words ranked first (larger is better), and sufficiency, the probability
  lost with only these words (smaller is better), both averaged over 5, 10, 20 and 50 percent of the
  words (AOPC); both with PAD in the place of the words, and with the words deleted;
- Kendall's tau with the loss of the logit when a single word is left out;
- infidelity (Yeh et al., NeurIPS 2019): how much of the loss of the logit without a random set of
  words the sum of their scores leaves unexplained;
- what the model says without the three strongest words.

Random rankings and the methods of --methods are measured for comparison. --n_mosaics adds a test
with a known answer: texts of the sentences of two documents of different classes. --compare says
how much the attributions depend on the baseline. Writes faithfulness.json and adds its table to
summary.json. An interrupted measurement continues.
"""

import hashlib
import json
import logging
import platform
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.cli import fail, one_line, parse_arguments, start_logging, versions
from common.data import join_texts, load_hub_dataset
from common.folders import (
    check_names,
    check_revision,
    hide_paths,
    lock_output_dir,
    read_attributions,
    write_files,
)
from common.statistics import MIN_INTERVAL_DOCUMENTS
from faithfulness import baselines, mosaics
from faithfulness.estimates import (
    METHOD,
    compare_methods,
    disagreements,
    interval,
    paired,
    shown_once,
)
from faithfulness.methods import (
    INTEGRATED_GRADIENTS,
    METHODS,
    RANDOM,
    MethodSettings,
    check_baseline,
    check_methods,
    integrated_gradients,
)
from faithfulness.models import (
    Evaluator,
    baseline_token_id,
    check_model,
    check_weights,
    load_model,
    prepare,
)
from faithfulness.perturbations import MEASURES, NOTE, WORD_SETS, measure, without_strongest

logger = logging.getLogger(__name__)


# Arguments

# Defaults of flags that are refused where nothing reads them, so that a given one is recognized
DEFAULTS = {"shapley_samples": 10, "mosaic_sentences": 2, "n_steps": 50, "split": "test"}

# All random orders of a document are drawn at once, so their number is limited by memory.
MOST_RANDOM_ORDERS = 10_000


@dataclass
class FaithfulnessArguments:
    """Arguments of the measurement."""

    attribution_dir: str = field(metadata={"help": "Folder that run_attribution.py wrote."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Default: the model of the attributions."}
    )
    model_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of the model on the Hub. Default: as recorded."},
    )
    max_samples: int = field(
        default=50, metadata={"help": "Maximum number of documents, the first ones."}
    )
    methods: list[str] = field(
        default_factory=lambda: ["gradient_x_input"],
        metadata={"help": f"Methods to compare with: {', '.join(METHODS)}."},
    )
    shapley_samples: int | None = field(
        default=None,
        metadata={
            "help": "With --methods shapley: random orders of the words in each estimate. "
            f"Default: {DEFAULTS['shapley_samples']}."
        },
    )
    n_mosaics: int = field(
        default=0,
        metadata={"help": "Texts of two documents of different classes, such as 100. 0: none."},
    )
    mosaic_sentences: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of sentences of each document in a mosaic. "
            f"Default: {DEFAULTS['mosaic_sentences']}."
        },
    )
    n_steps: int | None = field(
        default=None,
        metadata={
            "help": "Steps of captum's integrated gradients on mosaics. "
            f"Default: {DEFAULTS['n_steps']}."
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Dataset of the mosaics' documents. Default: the attributed ones."},
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a dataset on the Hub."}
    )
    split: str | None = field(
        default=None,
        metadata={"help": f"Split of --dataset_name. Default: {DEFAULTS['split']}."},
    )
    compare: list[str] | None = field(
        default=None,
        metadata={
            "help": "Attribution folders of the same documents with other baselines; all documents "
            "are compared."
        },
    )
    random_orders: int = field(
        default=20, metadata={"help": "Random rankings of each document, averaged."}
    )
    seed: int = field(
        default=42,
        metadata={"help": "Seed of random rankings, Shapley values and mosaics."},
    )
    internal_batch_size: int = field(
        default=64, metadata={"help": "Texts in a batch; halved until it fits into memory."}
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Disable the progress bar."})

    def __post_init__(self):
        # 1. Flags that nothing would read
        if self.dataset_name is not None and self.n_mosaics == 0:
            raise ValueError("--dataset_name is for mosaics; give --n_mosaics, too")
        for name in ("mosaic_sentences", "n_steps"):
            if getattr(self, name) is not None and self.n_mosaics == 0:
                raise ValueError(f"--{name} is for mosaics; give --n_mosaics, too")
        for name in ("dataset_revision", "split"):
            if getattr(self, name) is not None and self.dataset_name is None:
                raise ValueError(f"--{name} requires --dataset_name")
        if self.shapley_samples is not None and "shapley" not in self.methods:
            raise ValueError("--shapley_samples is for --methods shapley; add shapley to --methods")

        # 2. The defaults of those that are not given, and the ranges
        for name, value in DEFAULTS.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        for name in (
            "max_samples",
            "shapley_samples",
            "mosaic_sentences",
            "n_steps",
            "random_orders",
            "internal_batch_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.random_orders > MOST_RANDOM_ORDERS:
            raise ValueError(
                f"--random_orders must be at most {MOST_RANDOM_ORDERS}, not {self.random_orders}"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must be between 0 and 2**32 - 1, not {self.seed}")
        if self.n_mosaics != 0 and self.n_mosaics < mosaics.MIN_MOSAICS:
            raise ValueError(
                f"--n_mosaics must be 0 or at least {mosaics.MIN_MOSAICS}, not {self.n_mosaics}"
            )


# The documents of the mosaics


def read_dataset(arguments: FaithfulnessArguments, summary: dict) -> list[dict]:
    """Return the labeled documents of --dataset_name, made as those of the attributions.

    Exits with status 2 if it lacks the split or a column.
    """
    name = arguments.dataset_name
    splits = load_hub_dataset(name, None, arguments.dataset_revision)
    if arguments.split not in splits:
        fail(f"{name} has no split {arguments.split!r}, but {', '.join(splits)}")
    rows = splits[arguments.split]
    columns = summary.get("text_column_names") or ["abstract"]
    for column in ("id", "label", *columns):
        if column not in rows.column_names:
            fail(f"{name} has no column {column!r}, but {', '.join(rows.column_names)}")
    names = getattr(rows.features["label"], "names", None)
    if names is None:
        fail(
            f"mosaics require one class for each text, and column 'label' of {name} is not a "
            "ClassLabel; give a dataset with one"
        )
    delimiter = summary.get("text_column_delimiter")
    documents = []
    for row in rows.select_columns(["id", "label", *columns]):
        if row["label"] is not None and row["label"] >= 0:
            text = join_texts([row[column] for column in columns], delimiter or " ")
            documents.append({"id": str(row["id"]), "text": text, "label": names[row["label"]]})
    return documents


def prepare_mosaics(
    arguments: FaithfulnessArguments,
    documents: list[dict],
    summary: dict,
    evaluator: Evaluator,
    tokenizer,
) -> list[tuple[mosaics.Mosaic, dict]]:
    """Return mosaics with their encoded texts. Exit with status 2 if too few are possible."""
    if arguments.n_mosaics == 0:
        return []
    if not tokenizer.is_fast:
        fail("mosaics require a fast tokenizer, which knows the place of each token in the text")
    model = evaluator.model
    if model.config.problem_type == "multi_label_classification":
        fail(
            f"mosaics are made of texts with one class each, and {model.name_or_path} predicts "
            "several labels per document; give --n_mosaics 0"
        )
    prefix = summary.get("text_prefix") or ""
    max_length = summary["max_seq_length"]

    if arguments.dataset_name is None:
        source = f"the documents of {arguments.attribution_dir}"
        candidates = [
            document | {"text": document["text"].removeprefix(prefix)} for document in documents
        ]
    else:
        source = f"split {arguments.split} of --dataset_name {arguments.dataset_name}"
        candidates = read_dataset(arguments, summary)
        unknown = {document["label"] for document in candidates} - set(model.config.label2id)
        if unknown:
            fail(f"{source} has the class {min(unknown)!r}, which the model lacks")

    def predict(document: dict) -> str:
        if "prediction" in document:  # of an attribution folder
            return document["prediction"]
        ids = tokenizer(prefix + document["text"], truncation=True, max_length=max_length)
        text = torch.tensor(ids["input_ids"])
        with torch.no_grad():
            logits = evaluator.logits(text[None], text)[0]
        return model.config.id2label[int(logits.argmax())]

    n_special = tokenizer.num_special_tokens_to_add()
    n_prefix = len(tokenizer(prefix, add_special_tokens=False)["input_ids"]) if prefix else 0
    max_tokens = (max_length - n_special - n_prefix) // 2

    def cut(text: str) -> str:
        return mosaics.first_sentences(text, arguments.mosaic_sentences, tokenizer, max_tokens)

    order = np.random.default_rng([arguments.seed, 0]).permutation(len(candidates))
    halves = mosaics.choose_halves(
        [candidates[place] for place in order], arguments.n_mosaics, predict, cut
    )
    made = mosaics.make_mosaics(halves, arguments.n_mosaics, arguments.seed, source)
    if len(made) < arguments.n_mosaics:
        logger.warning(
            "%d mosaics instead of %d: no more pairs of different classes in %s",
            len(made),
            arguments.n_mosaics,
            source,
        )
    return [
        (mosaic, mosaics.encode(mosaic, prefix, model.config.label2id, tokenizer))
        for mosaic in made
    ]


# What is measured of a document and of a mosaic


def timed(evaluator: Evaluator, compute: Callable[[], object]) -> tuple[object, dict]:
    """Return what compute returns, and its cost: evaluations and seconds."""
    evaluator.reset()
    start = time.perf_counter()
    result = compute()
    return result, {
        "gradient_evaluations": evaluator.gradient_evaluations,
        "forward_evaluations": evaluator.forward_evaluations,
        "seconds": time.perf_counter() - start,
    }


def spent_on_attributions(document: dict) -> dict:
    """Return what run_attribution.py spent on the attributions of a document, None if unknown.

    With several baselines or classes, only the gradients are counted for each.
    """
    if "baselines" in document or "classes" in document:
        several = document.get("classes") or document["baselines"]
        explanation = several.get(document["target"]) or next(iter(several.values()))
        gradients = explanation["gradient_evaluations"]
        return {"gradient_evaluations": gradients, "forward_evaluations": None, "seconds": None}
    return {
        key: document.get(key) for key in ("gradient_evaluations", "forward_evaluations", "seconds")
    }


def measure_document(
    evaluator: Evaluator,
    document: dict,
    number: int,
    arguments: FaithfulnessArguments,
    settings: MethodSettings,
) -> dict:
    """Return the measures of every ranking of the words of a document, and the methods' costs."""
    words = len(document["words"])
    generator = np.random.default_rng([arguments.seed, number])
    orders = generator.random((arguments.random_orders, words))
    # From almost no word to almost all: a share is drawn for each set, then its words.
    shares = generator.random((WORD_SETS, 1))
    removed = generator.random((WORD_SETS, words)) < shares

    rankings = {INTEGRATED_GRADIENTS: np.array(document["word_attributions"])[None]}
    cost = {INTEGRATED_GRADIENTS: spent_on_attributions(document)}
    for method in arguments.methods:
        name, function = METHODS[method]
        scores, cost[name] = timed(evaluator, partial(function, evaluator, document, settings))
        rankings[name] = scores[None]
    rankings[RANDOM] = orders

    measured, spent = timed(evaluator, lambda: measure(evaluator, document, rankings, removed))
    strongest = without_strongest(evaluator, document)
    return measured | {"cost": cost, "measured_with": spent, "without_strongest": strongest}


def measure_mosaic(
    evaluator: Evaluator,
    mosaic: mosaics.Mosaic,
    document: dict,
    arguments: FaithfulnessArguments,
    settings: MethodSettings,
) -> dict:
    """Return the score of every method on a mosaic, the chance level, and the methods' costs."""
    (scores, error), spent = timed(
        evaluator, lambda: integrated_gradients(evaluator, document, settings)
    )
    shares = {INTEGRATED_GRADIENTS: mosaics.score(scores, document)}
    cost = {INTEGRATED_GRADIENTS: spent}
    for method in arguments.methods:
        name, function = METHODS[method]
        scores, cost[name] = timed(evaluator, partial(function, evaluator, document, settings))
        shares[name] = mosaics.score(scores, document)
    return {
        "ids": [half.id for half in mosaic.halves],
        "classes": [half.label for half in mosaic.halves],
        "target": mosaic.target,
        "words": len(document["words"]),
        "chance": mosaics.chance_level(document),
        "scores": shares,
        "relative_error": error,
        "cost": cost,
    }


# Results of an interrupted measurement


@dataclass
class Text:
    """A document or mosaic to measure: the name of its result in a file, and what measures it."""

    id: str
    measure: Callable[[], dict]


def result_line(text: Text, result: dict) -> str:
    """Return the result of a text as a line of a file."""
    return json.dumps({"id": text.id, "result": result}) + "\n"


def read_results(path: Path, todo: list[Text]) -> list[dict]:
    """Return the results that a file of an interrupted measurement has of the first texts.

    It ends before a line that was cut or that is not of the text that it should be of.
    """
    if not path.exists():
        return []
    results = []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for text, line in zip(todo, lines, strict=False):
        try:
            content = json.loads(line)
        except ValueError:
            break
        if not isinstance(content, dict) or content.get("id") != text.id:
            break
        results.append(content["result"])
    return results


def append_result(path: Path, text: Text, result: dict) -> None:
    """Add the result of a text to a file. Exit with status 2 if that fails."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(result_line(text, result))
    except OSError as error:
        fail(
            f"cannot write {path}: {error.strerror}; free some space, then the same command "
            "continues"
        )


def open_partial(folder: Path) -> None:
    """Make the folder of an interrupted measurement.

    Exit with status 2 if that fails or it is a link.
    """
    if folder.is_symlink():
        fail(f"{folder} is a link to another folder; remove it")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        fail(f"cannot write into {folder}: {error.strerror}")


def remove_partial(file: Path) -> None:
    """Remove the file of this measurement; one that was interrupted with other flags stays."""
    try:
        file.unlink()
        file.parent.rmdir()
    except OSError:
        pass  # the results are complete without it; or the folder holds other files


def complete(file: Path, todo: list[Text], disable_tqdm: bool) -> list[dict]:
    """Return the results of all of todo; those that a file holds already are not computed."""
    open_partial(file.parent)
    results = read_results(file, todo)
    if results:
        logger.info("%d of %d texts are measured already", len(results), len(todo))
    # Without the line that was being written when the call was interrupted
    kept = "".join(map(result_line, todo, results))
    write_files(file.parent, {file.name: kept})
    for number in tqdm(
        range(len(results), len(todo)),
        total=len(todo),
        initial=len(results),
        unit="text",
        disable=disable_tqdm,
    ):
        result = todo[number].measure()
        results.append(result)
        append_result(file, todo[number], result)
    return results


# Means, intervals, differences


def summarize(results: list[dict], names: list[str]) -> dict:
    """Return mean and interval of every measure of every ranking, and of the difference from random
    rankings.
    """
    table = {
        ranking: {
            name: interval([result[ranking][name] for result in results]) for name in MEASURES
        }
        for ranking in names
    }
    differences = {}
    for name in MEASURES:
        values = paired(
            [result[INTEGRATED_GRADIENTS][name] for result in results],
            [result[RANDOM][name] for result in results],
        )
        differences[name] = interval(values)
    return table | {"integrated gradients minus random": differences}


def summarize_costs(results: list[dict], names: list[str]) -> dict:
    """Return evaluations and seconds per document of every method, with intervals."""
    keys = ("gradient_evaluations", "forward_evaluations", "seconds")
    return {
        name: {key: interval([result["cost"][name][key] for result in results]) for key in keys}
        for name in names
        if name != RANDOM
    }


def summarize_mosaics(results: list[dict], arguments: FaithfulnessArguments) -> dict | None:
    """Return the methods' scores on mosaics and how far they are above the chance level."""
    if not results:
        return None
    names = list(results[0]["scores"])
    chance = [result["chance"] for result in results]
    scores = {name: [result["scores"][name] for result in results] for name in names}
    errors = [result["relative_error"] for result in results]
    return {
        "mosaics": len(results),
        "chance": interval(chance),
        "scores": {name: interval(scores[name]) for name in names},
        "above_chance": {name: interval(paired(scores[name], chance)) for name in names},
        "cost": summarize_costs(results, names),
        "median_relative_error": float(np.median(errors)),
        "seed": arguments.seed,
        "note": (
            "Share of the positive attribution to a class that falls on the sentences of that "
            "class, in texts of two documents of different classes that the model predicts "
            "rightly; each document is in one text. Chance: the share of the words that are there. "
            f"Integrated gradients are captum's with {arguments.n_steps} Gauss-Legendre steps."
        ),
        "per_mosaic": results,
    }


def compare_all(results: list[dict], of_mosaics: list[dict], names: list[str]) -> list[dict]:
    """Return paired differences of integrated gradients to every other ranking, one family."""
    values = {
        measure: {name: [result[name][measure] for result in results] for name in names}
        for measure in MEASURES
    }
    if of_mosaics:
        scores = {
            name: [result["scores"][name] for result in of_mosaics]
            for name in of_mosaics[0]["scores"]
        }
        chance = [result["chance"] for result in of_mosaics]
        values["mosaic_score"] = scores | {RANDOM: chance}
    return compare_methods(values, INTEGRATED_GRADIENTS)


def compare_baselines(others: list[tuple[str, list[dict]]], documents: list[dict]) -> list[dict]:
    """Return how far the attributions with every other baseline agree with these."""
    comparisons = []
    for name, lines in others:
        rows = [
            baselines.compare_document(document, other)
            for document, other in zip(documents, lines, strict=True)
        ]
        comparisons.append(
            {"baseline": name}
            | {key: interval([row[key] for row in rows]) for key in rows[0]}
            | {
                "per_document": [
                    {"id": document["id"]} | row
                    for document, row in zip(documents, rows, strict=True)
                ]
            }
        )
    return comparisons


def main() -> None:
    # 1. Arguments, attributions, those with other baselines
    start_logging()
    (arguments,) = parse_arguments(__doc__, FaithfulnessArguments)
    check_names(arguments)
    with_mosaics = arguments.n_mosaics > 0
    check_methods(arguments.methods, with_mosaics)
    folder = Path(arguments.attribution_dir)
    documents, summary = read_attributions(folder)
    # Two processes would write their results among each other's.
    lock_output_dir(folder)
    # Comparing baselines needs no model, so it takes all documents.
    every = [document for document in documents if document["words"]]
    documents = [document for document in documents[: arguments.max_samples] if document["words"]]
    if not documents:
        fail(f"{folder} has no document with words; attribute a model with a fast tokenizer")
    others = baselines.own_baselines(every, summary)
    others += [baselines.read_other(name, every, summary) for name in arguments.compare or []]
    baselines.check_each_once([baselines.baseline_name(summary), *(name for name, _ in others)])

    # 2. Model and tokenizer
    try:
        recorded, max_length, run = summary["arguments"], summary["max_seq_length"], summary["run"]
        name = arguments.model_name_or_path or recorded["model_name_or_path"]
    except (KeyError, TypeError) as error:
        fail(f"{folder / 'summary.json'} is damaged (no {error}); run run_attribution.py again")
    revision = arguments.model_revision
    check_revision("model_revision", name, revision)
    if revision is None and arguments.model_name_or_path is None:
        revision = summary.get("model_commit") or recorded.get("model_revision")
    evaluator, tokenizer = load_model(name, revision, arguments.internal_batch_size)
    placed = "PAD" if tokenizer.pad_token_id is not None else "EOS"
    if placed == "EOS":
        logger.info("the tokenizer has no PAD: its EOS %r replaces words", tokenizer.eos_token)
    settings = MethodSettings(
        baseline_token_id(summary, tokenizer),
        arguments.n_steps,
        arguments.shapley_samples,
        arguments.seed,
    )
    check_baseline(arguments.methods, with_mosaics, settings.baseline_token_id)
    for document in documents:
        try:
            prepare(document, evaluator, tokenizer, max_length)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            fail(
                f"document {document['id']} of {folder} is damaged ({one_line(error)}); "
                "run run_attribution.py again"
            )
    check_weights(evaluator, summary)
    check_model(evaluator, documents[0])
    made = prepare_mosaics(arguments, documents, summary, evaluator, tokenizer)

    # 3. Measures of every document and mosaic; those that an interrupted call measured are kept
    # The name of their file stands for all that they depend on.
    basis = {
        "run": run,
        "model": [name, revision],
        "arguments": [arguments.random_orders, arguments.methods, arguments.seed],
        "settings": asdict(settings),
        "scores": [[document["id"], document["word_attributions"]] for document in documents],
        "mosaics": [asdict(mosaic) for mosaic, _ in made],
    }
    key = hashlib.sha256(json.dumps(basis).encode())
    partial_file = folder / "partial-faithfulness" / f"{key.hexdigest()[:16]}.jsonl"
    todo = [
        Text(
            document["id"],
            partial(measure_document, evaluator, document, number, arguments, settings),
        )
        for number, document in enumerate(documents)
    ]
    todo += [
        Text(
            "mosaic of " + " and ".join(half.id for half in mosaic.halves),
            partial(measure_mosaic, evaluator, mosaic, encoded, arguments, settings),
        )
        for mosaic, encoded in made
    ]
    results = complete(partial_file, todo, arguments.disable_tqdm)
    results, of_mosaics = results[: len(documents)], results[len(documents) :]

    # 4. Means, intervals, differences
    names = [INTEGRATED_GRADIENTS, *(METHODS[method][0] for method in arguments.methods), RANDOM]
    table = summarize(results, names)
    differences = compare_all(results, of_mosaics, names)
    few = len(results) < MIN_INTERVAL_DOCUMENTS
    intervals = "" if few else " with Student's 95% intervals"
    note = NOTE if placed == "PAD" else NOTE.replace("PAD tokens", "EOS tokens (there is no PAD)")
    content = {
        "script": Path(__file__).name,
        "rankings": table,
        "note": f"Means over {len(results)} documents{intervals}. {note}",
        "statistics": METHOD,
        "differences": differences,
        # Opposite differences with words replaced and deleted; differences that one of them shows
        "disagreements": disagreements(differences),
        "shown_once": shown_once(differences),
        "cost": summarize_costs(results, names),
        "mosaics": summarize_mosaics(of_mosaics, arguments),
        "baseline": baselines.baseline_name(summary),
        "baselines": compare_baselines(others, every),
        "per_document": [
            {"id": document["id"], "target": document["target"]}
            | {name: result[name] for name in names}
            | {"without_strongest": result["without_strongest"]}
            for document, result in zip(documents, results, strict=True)
        ],
        # What measuring the documents took, without the methods themselves
        "forward_evaluations": sum(
            result["measured_with"]["forward_evaluations"] for result in results
        ),
        "seconds": sum(result["measured_with"]["seconds"] for result in results),
        "arguments": {
            key: hide_paths(v) if isinstance(v, str) else v for key, v in asdict(arguments).items()
        },
        "device": describe_device(),
        "versions": versions("torch", "transformers", "captum", "scipy", "numpy"),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "run": run,
    }
    if content["arguments"]["compare"] is not None:
        content["arguments"]["compare"] = [hide_paths(other) for other in arguments.compare]

    # 5. The files
    parts = {"faithfulness.json": content, "summary.json": summary | {"faithfulness": table}}
    texts = {
        file: json.dumps(part, ensure_ascii=False, indent=2, allow_nan=False)
        for file, part in parts.items()
    }
    write_files(folder, {file: text + "\n" for file, text in texts.items()})
    remove_partial(partial_file)
    report(content)
    logger.info(
        "next: python tools/render_attributions.py --attribution_dir %s", shlex.quote(str(folder))
    )


def describe_device() -> str:
    """Return the device that evaluated the model."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def report(content: dict) -> None:
    """Log the means of faithfulness.json."""
    for ranking, cells in content["rankings"].items():
        shown = ", ".join(
            f"{measure} {cell['mean']:.3f}" for measure, cell in cells.items() if cell
        )
        logger.info("%s: %s", ranking, shown)
    measured = content["mosaics"]
    if measured:
        shown = ", ".join(
            f"{name} {cell['mean']:.3f}" for name, cell in measured["scores"].items() if cell
        )
        logger.info(
            "%d mosaics: %s, chance %.3f", measured["mosaics"], shown, measured["chance"]["mean"]
        )
    for sentence in content["disagreements"] + content["shown_once"]:
        logger.info("%s", sentence)
    for comparison in content["baselines"]:
        if comparison["spearman"]:
            logger.info(
                "baseline %s: Spearman's correlation of the words %.3f, %.2f of the 5 first words",
                comparison["baseline"],
                comparison["spearman"]["mean"],
                comparison["top_5_overlap"]["mean"],
            )


if __name__ == "__main__":
    main()
