#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
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
#     "skops==0.16.0",
#     "statsmodels==0.15.0",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Measure whether a model uses context, on documents that it was not trained on.

Word order: how much accuracy and macro F1 does the model lose when the words are shuffled, in
blocks of k words or by sentence? Attention window: how much does it lose when a token sees only w
tokens on either side? Additive surrogate: how much of the logit is a sum over words? Phrases: does
a phrase contribute more than its words, more than other neighboring words do, and more than the
same words moved apart? Attribution in context (--attributions): how much of the variance of a
word's attribution lies between words, and how much between the documents that contain them?
Agreement (--attributions and an SVM among the runs): do the mean attributions rank the words as the
SVM does? Each is a module of tools/context/.

Laptop:    python tools/measure_context.py --model_name_or_path runs/minilm --dataset_name data \\
               --output_dir context --compare runs/svm runs/layers-0 \\
               --attributions attributions/minilm attributions/layers-0
One GPU:   the same command; it uses the GPU (--bf16 is faster there, with larger rounding errors)
Several:   one command per model, each with CUDA_VISIBLE_DEVICES and its own --output_dir

Text columns, their delimiter, a prefix and the number of tokens are those of each run's training.

Writes context.json, context.png, context.html and context.md, and evaluations/ with the logits of
the models, so that an interrupted command continues. --statistics_only computes the statistics and
the drawings again from evaluations/, for example with other --attributions, without a model. Tests
whose input is missing are left out, and the results say so.
"""

import io
import json
import logging
import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from transformers.hf_argparser import HfArg

from common.cli import fail, one_line, parse_arguments, start_logging, versions
from common.data import split_names
from common.folders import (
    check_names,
    check_revision,
    digests,
    find_changed_file,
    hide_paths,
    lock_output_dir,
    open_output_dir,
    run_name,
    write_files,
)
from common.pages import data_url, escape_markdown, markdown_table, png, render
from context import EXPERIMENTS
from context.attributions import warn_of_another_model
from context.documents import Documents, read_documents, text_digest
from context.models import Cache, Run, load_runs, read_words
from context.results import Evaluation, Measurement, Section, Table, logits_key
from context.text import estimate_cell, number
from context.word_order import block_text
from context.words import normalize_phrase

logger = logging.getLogger(__name__)

SCRIPT = "measure_context.py"
OWN_FILES = r"context\.(json|html|png|md)|evaluations/(index\.json|logits\.npz|[\w-]+\.npy)"
PACKAGES = ("torch", "transformers", "datasets", "numpy", "scipy", "scikit-learn", "skops")
# The flags that --statistics_only may change.
STATISTICS_FLAGS = (
    "output_dir",
    "statistics_only",
    "attributions",
    "n_permutations",
    "n_resamples",
    "min_occurrences",
    "disable_tqdm",
)
# Flags that are refused where they would be ignored, so that it must be known if one was given
DEFAULTS = {
    "window_sizes": [0, 1, 2, 4],
    "n_phrases": 50,
    "phrase_split": "validation",
    "n_controls": 200,
    "min_occurrences": 10,
}
EARLIER = "evaluations/ is from an earlier version of this tool."
PANELS_IN_A_ROW = 3
PANEL_SIZE = (16 / 3, 4.25)  # inches


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
            "help": "More runs for the word order test; the first SVM is used for the agreement."
        },
    )
    attributions: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders of run_attribution.py; the one of --model_name_or_path comes first."
        },
    )
    split: str = HfArg(default="test", help="Split of the dataset.")
    text_column_names: list[str] | None = field(
        default=None,
        metadata={"help": "Text columns. Default: those of each run's training."},
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
    window_sizes: list[int] | None = field(
        default=None,
        metadata={
            "help": "Numbers of tokens on either side that a token sees in the attention test. "
            "Default: 0 1 2 4."
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
    phrase_split: str | None = HfArg(
        default=None,
        help="Split on which phrases are chosen; they are tested on --split. Default: validation.",
    )
    n_phrases: int | None = HfArg(
        default=None, help="Phrases to search for; 0 leaves the phrase test out. Default: 50."
    )
    n_controls: int | None = HfArg(
        default=None,
        help="Controls of each phrase: half other spans, half the words moved apart. Default: 200.",
    )
    n_permutations: int = HfArg(default=9999, help="Permutations of each permutation test.")
    n_resamples: int = HfArg(default=10_000, help="Bootstrap resamples of the documents.")
    min_occurrences: int | None = HfArg(
        default=None,
        help="Minimum number of documents in which a word is attributed to the same class. "
        "Default: 10.",
    )
    per_device_eval_batch_size: int = HfArg(default=32, help="Batch size.")
    bf16: bool = HfArg(default=False, help="Use bfloat16 mixed precision.")
    seed: int = HfArg(
        default=42, help="Seed of shuffles, controls, permutations and the bootstrap."
    )
    statistics_only: bool = HfArg(
        default=False,
        help="Compute statistics and drawings again from --output_dir's evaluations/, no model.",
    )
    disable_tqdm: bool = HfArg(default=False, help="Disable the progress bars.")

    def __post_init__(self):
        if self.text_column_names is not None:
            self.text_column_names = split_names(self.text_column_names)
        least = {
            "max_samples": 1,
            "n_shuffles": 1,
            "n_surrogate_documents": 0,
            "n_phrases": 0,
            "n_controls": 2,
            "n_permutations": 99,
            "n_resamples": 100,
            "min_occurrences": 2,
            "per_device_eval_batch_size": 1,
            "seed": 0,
        }
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"--{name} must be at least {bound}, not {value}")
        if self.window_sizes is not None and min(self.window_sizes, default=-1) < 0:
            raise ValueError("--window_sizes must be whole numbers from 0")
        if not self.block_sizes or min(self.block_sizes) < 1:
            raise ValueError("--block_sizes must be whole numbers from 1")
        for phrase in self.phrases:
            if " " not in normalize_phrase(phrase):
                raise ValueError(f"--phrases: {phrase!r} is not a phrase of two words or more")


def read_arguments() -> ContextArguments:
    """Parse the command line. With --statistics_only, what is not given is as it was recorded.

    Exits with status 2 on a bad flag, a missing one, or one that would need the models.
    """
    (arguments,) = parse_arguments(__doc__, ContextArguments)
    if not arguments.statistics_only:
        for flag in ("model_name_or_path", "dataset_name"):
            if not getattr(arguments, flag):
                fail(f"--{flag} is required without --statistics_only")
        refuse_ignored_flags(arguments, arguments)
        fill_in_defaults(arguments)
        return arguments

    # Once more, with the recorded arguments as defaults
    given_flags = arguments
    recorded = recorded_arguments(Path(arguments.output_dir))
    (arguments,) = parse_arguments(__doc__, ContextArguments, **recorded)
    for flag, value in recorded.items():
        given = getattr(arguments, flag)
        if flag not in STATISTICS_FLAGS and given != value:
            fail(
                f"--{flag} {given} requires the models: evaluations/ was made with {value}; "
                "leave out --statistics_only"
            )
    refuse_ignored_flags(given_flags, arguments)
    fill_in_defaults(arguments)
    return arguments


def refuse_ignored_flags(given: ContextArguments, arguments: ContextArguments) -> None:
    """Exit with status 2 if a flag was given that would be ignored beside the other arguments.

    given has the flags of the command line, arguments also what was recorded.
    """
    for flag in ("n_phrases", "phrase_split"):
        if arguments.phrases and getattr(given, flag) is not None:
            fail(f"--{flag} is for the search of phrases, but --phrases gives them; leave it out")
    for flag in ("phrase_split", "n_controls"):
        if arguments.n_phrases == 0 and getattr(given, flag) is not None:
            fail(f"--{flag} is for phrases, which --n_phrases 0 leaves out; leave it out, too")
    if given.min_occurrences is not None and not arguments.attributions:
        fail("--min_occurrences is for the words of --attributions; give these, or leave it out")
    folders = [arguments.model_name_or_path, *arguments.compare]
    are_svms = [Path(folder, "model.skops").exists() for folder in folders]
    if all(are_svms):
        for flag in ("max_seq_length", "bf16", "window_sizes"):
            if getattr(given, flag):
                fail(f"--{flag} is for encoders, but all runs are SVMs; leave it out")
    if are_svms[0]:
        for flag in ("phrases", "n_phrases", "phrase_split", "n_controls"):
            if getattr(given, flag):
                fail(
                    f"--{flag} is for the phrase test, which requires an encoder, but "
                    "--model_name_or_path is an SVM; leave it out"
                )


def fill_in_defaults(arguments: ContextArguments) -> None:
    """Set the flags that are neither given nor recorded, in place."""
    for flag, default in DEFAULTS.items():
        if getattr(arguments, flag) is None:
            setattr(arguments, flag, default)


def recorded_arguments(folder: Path) -> dict:
    """Return the arguments with which the models in a folder's evaluations/ were evaluated."""
    arguments = {}
    recorded = read_index(folder)["arguments"]
    for entry in fields(ContextArguments):
        if entry.name in recorded and entry.name not in ("output_dir", "statistics_only"):
            arguments[entry.name] = recorded[entry.name]
    # Earlier versions had one string of columns, or what was typed.
    arguments["text_column_names"] = split_names(arguments["text_column_names"])
    return arguments


def check_inputs(arguments: ContextArguments) -> None:
    """Exit with status 2 if a folder is missing, or a revision is of a local folder."""
    for folder in arguments.attributions:
        if not Path(folder, "attributions.jsonl").is_file():
            fail(f"--attributions {folder} has no attributions.jsonl; run run_attribution.py")
    check_revision("model_revision", arguments.model_name_or_path, arguments.model_revision)
    check_revision("dataset_revision", arguments.dataset_name, arguments.dataset_revision)


# Evaluations


def evaluate_models(arguments: ContextArguments, folder: Path) -> None:
    """Evaluate all runs and write folder/index.json and folder/logits.npz.

    Logits that an interrupted command computed are read again. A command that is refused changes
    nothing but these.
    """
    documents = read_documents(
        arguments.dataset_name, arguments.dataset_revision, arguments.split, arguments.max_samples
    )
    runs = load_runs(arguments, documents)
    warn_of_another_model(arguments, runs[0].weights)
    for run in runs:
        read_words(run, documents, arguments.seed)
    arguments.text_column_names = runs[0].text_columns

    start_folder(folder)
    cache = Cache(folder, arguments.per_device_eval_batch_size)
    evaluations = {}
    for experiment in EXPERIMENTS:
        evaluations[experiment.NAME] = experiment.evaluate(runs, documents, arguments, cache)

    devices = [str(run.model.device) for run in runs if run.kind == "encoder"]
    index = {
        "script": SCRIPT,
        "arguments": asdict(arguments),
        "classes": documents.classes,
        "device": devices[0] if devices else "cpu",
        "dataset_commit": documents.commit,
        "model_commit": runs[0].commit,
        "versions": versions(*PACKAGES),
        "ids": documents.ids,
        "labels": documents.labels,
        "texts": digests_of_texts(runs, documents),
        "runs": [describe_run(run) for run in runs],
        "experiments": {name: part.record for name, part in evaluations.items()},
    }
    logits = {}
    for name, evaluation in evaluations.items():
        for key, values in evaluation.logits.items():
            logits[f"{name}/{key}"] = values
    buffer = io.BytesIO()
    np.savez(buffer, **logits)
    index["files"] = digests({"logits.npz": buffer.getvalue()})
    index["digest"] = index_digest(index)
    # A file of the old and one of the new evaluations never stand together as complete.
    write_files(folder, {"index.json": to_json({"script": SCRIPT})})
    write_files(folder, {"logits.npz": buffer.getvalue(), "index.json": to_json(index)})


def index_digest(index: dict) -> str:
    """Return a digest of all that index.json holds, by which an edited one is recognized."""
    content = {name: value for name, value in index.items() if name != "digest"}
    return digests({"index.json": json.dumps(content)})["index.json"]


def start_folder(folder: Path) -> None:
    """Make the folder of the evaluations, with a record that says whose it is."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        fail(f"cannot write into {folder}: {error.strerror}")
    if not (folder / "index.json").exists():
        write_files(folder, {"index.json": to_json({"script": SCRIPT})})


def describe_run(run: Run) -> dict:
    """Return what the statistics, the page and context.json say about a run."""
    return {
        "name": run.name,
        "folder": run.folder,
        "kind": run.kind,
        "order_free": run.order_free,
        "commit": run.commit,
        "cut_documents": run.cut_documents,
        "fingerprint": run.fingerprint,
        "weights_sha256": run.weights,
        "text_column_names": run.text_columns,
        "text_column_delimiter": run.delimiter,
    }


def digests_of_texts(runs: list[Run], documents: Documents) -> list[list[str]]:
    """Return, for each document, the digests of the texts that the runs read of it."""
    selections = {(tuple(run.text_columns), run.delimiter) for run in runs}
    digests = [[] for _ in documents.ids]
    for columns, delimiter in sorted(selections):
        for own, words in zip(digests, documents.words(list(columns), delimiter), strict=True):
            own.append(text_digest(" ".join(words)))
    return digests


def to_json(content: dict) -> str:
    """Return an object as JSON; numbers that JSON does not have are an error."""
    return json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def read_index(folder: Path) -> dict:
    """Return index.json of a folder's evaluations/. Exits with status 2 if it is not complete."""
    try:
        index = json.loads((folder / "evaluations" / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        fail(f"{folder} has no complete evaluations/ of tools/{SCRIPT}: {one_line(error)}")
    required = {"arguments", "labels", "ids", "classes", "versions", "device", "runs"}
    missing = required - set(index) if isinstance(index, dict) else required
    if missing:
        fail(
            f"{folder} has no complete evaluations/ of tools/{SCRIPT}: {min(missing)} is missing; "
            "run it without --statistics_only"
        )
    # Evaluations of earlier versions have no digests.
    changed = find_changed_file(folder / "evaluations", index)
    if index.get("digest", index_digest(index)) != index_digest(index):
        changed = "index.json"
    if changed is not None:
        fail(
            f"{folder / 'evaluations' / changed} is not the file that {SCRIPT} wrote; "
            "run it without --statistics_only"
        )
    return index


def read_measurement(folder: Path) -> Measurement:
    """Return what the models computed. Exits with status 2 if evaluations/ is not complete."""
    index = read_index(folder)
    try:
        if "experiments" not in index:
            return read_earlier_version(folder / "evaluations", index)
        evaluations = {}
        for name, record in index["experiments"].items():
            evaluations[name] = Evaluation(record)
        with np.load(folder / "evaluations" / "logits.npz", allow_pickle=False) as file:
            for key in file.files:
                name, _, logits_name = key.partition("/")
                evaluations[name].logits[logits_name] = file[key]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        fail(
            f"{folder} has no complete evaluations/ of tools/{SCRIPT}: {one_line(error)}; "
            "run it without --statistics_only"
        )
    missing = [experiment.NAME for experiment in EXPERIMENTS if experiment.NAME not in evaluations]
    if missing:
        fail(
            f"evaluations/ of {folder} were made without {', '.join(missing)}; "
            "run the command again without --statistics_only"
        )
    return Measurement(index, evaluations)


def read_earlier_version(folder: Path, index: dict) -> Measurement:
    """Return evaluations that an earlier version of this tool wrote.

    It had a file of logits for each run and experiment: the original documents, then the
    repetitions of one condition after the other.
    """
    order = Evaluation(record={"runs": []})
    windows = Evaluation(record={"runs": []})
    surrogate = Evaluation(record={"runs": []})
    for run_number, run in enumerate(index["runs"]):
        order.record["runs"].append({"conditions": run["conditions"]})
        logits = np.load(folder / f"order-{run_number}.npy", allow_pickle=False)
        order.logits[logits_key(run_number, "original")] = logits[0]
        parts = np.split(logits[1:], len(run["conditions"]))
        for condition, part in zip(run["conditions"], parts, strict=True):
            order.logits[logits_key(run_number, f"block-{condition['block']}")] = part

        conditions = {"conditions": run.get("windows", [])}
        if "windows" not in run:
            conditions["reason"] = EARLIER
        windows.record["runs"].append(conditions)
        if run.get("windows"):
            logits = np.load(folder / f"windows-{run_number}.npy", allow_pickle=False)
            windows.logits[logits_key(run_number, "original")] = logits[0]
            for condition, part in zip(run["windows"], logits[1:], strict=True):
                windows.logits[logits_key(run_number, f"window-{condition['window']}")] = part

        surrogate.record["runs"].append({"additive_r2": run.get("additive_r2", [])})
        if "additive_r2" not in run:
            surrogate.record["reason"] = EARLIER
    phrases = Evaluation(
        record={
            "source": index["phrase_source"],
            "phrases": index["phrases"],
            "not_found": index["phrases_not_found"],
            "left_out": index["left_out"],
        }
    )
    evaluations = {
        "word_order": order,
        "attention_window": windows,
        "additive_surrogate": surrogate,
        "phrases": phrases,
    }
    return Measurement(index, evaluations)


# Statistics and files


def summarize(measurement: Measurement, arguments: ContextArguments) -> dict:
    """Return the content of context.json: how it was made, and the results of all experiments."""
    index = measurement.index
    settings = asdict(arguments)
    del settings["statistics_only"]
    result = {
        "script": SCRIPT,
        "arguments": {name: published(value) for name, value in settings.items()},
        "device": index["device"],
        "model_commit": index.get("model_commit"),
        "dataset_commit": index.get("dataset_commit"),
        "versions": index["versions"] | versions("numpy", "scipy", "scikit-learn", "skops"),
        "documents": len(index["labels"]),
        "classes": measurement.classes,
        "model": measurement.runs[0]["name"],
    }
    left_out = []
    for experiment in EXPERIMENTS:
        summary = experiment.summarize(measurement, arguments)
        result |= summary.results
        left_out += summary.left_out
    result["left_out"] = left_out
    for part in (*result["order"], *result["attribution"]):
        part["folder"] = published(part["folder"])
    return result


def published(value: object) -> object:
    """Return a value of the arguments, with a folder's name in the place of an absolute path."""
    if isinstance(value, list):
        return [published(item) for item in value]
    if isinstance(value, str) and value.startswith("/"):
        return run_name(value)
    return value


def question(result: dict) -> str:
    """Return the question that the page answers."""
    return f"Does {result['model']} use context?"


def summary_table(result: dict) -> Table:
    """Return the table of all models: a row each, the main number of each experiment."""
    header = ["model", "accuracy, percent"]
    first_block = block_text(result["order"][0]["conditions"][0]["block"])
    header += [f"accuracy with {first_block} shuffled, points", "P(true class), points"]
    header += ["accuracy with the smallest window, points", "additive share of the logit"]
    header += ["attribution: share between content words"]
    windows = {run["name"]: run["conditions"][0] for run in result["windows"]}
    surrogates = {row["name"]: row for row in result["surrogates"]}
    attributed = {row["name"]: row["content"] for row in result["attribution"]}
    rows = []
    for run in result["order"]:
        name = run["name"]
        shuffled = run["conditions"][0]
        row = [name, estimate_cell(run["accuracy"], "value")]
        if run["indifferent"]:
            row += ["-", "-"]
        else:
            row.append(estimate_cell(shuffled["accuracy"], "difference"))
            row.append(estimate_cell(shuffled.get("true_class_probability"), "mean"))
        window = windows.get(name)
        row.append(estimate_cell(window and window["accuracy"], "difference"))
        row.append(estimate_cell(surrogates.get(name), "mean", number))
        row.append(estimate_cell(attributed.get(name), "icc", number))
        rows.append(row)
    caption = (
        "Each test in one number per model, with its 95% CI (a dash: not measured, or the model "
        "cannot see the order of words)"
    )
    return Table(caption, header, rows)


def markdown(result: dict, sections: list[Section], summary: Table) -> str:
    """Return context.md: question, answers, one table, then the sections with their tables."""
    answers = [section for section in sections if section.answer]
    parts = [f"# {escape_markdown(question(result))}"]
    parts.append(f"**{escape_markdown(answers[0].answer)}**")
    parts.append(markdown_list([f"{section.title}: {section.answer}" for section in answers[1:]]))
    parts += markdown_parts(summary)
    for section in sections:
        parts.append(f"## {section.title}")
        parts.append(markdown_list(section.sentences))
        for table in section.tables:
            parts += markdown_parts(table)
    if result["left_out"]:
        parts.append("## Left out")
        parts.append(markdown_list(result["left_out"]))
    parts = [part for part in parts if part]
    return hide_paths("\n\n".join(parts) + "\n")


def markdown_parts(table: Table) -> list[str]:
    """Return the caption of a table and the table."""
    text = markdown_table(table.header, table.rows).rstrip()
    return [f"{escape_markdown(table.caption)}:", text]


def markdown_list(sentences: list[str]) -> str:
    """Return sentences as a list in Markdown."""
    return "\n".join(f"- {escape_markdown(sentence)}" for sentence in sentences)


def draw(result: dict) -> bytes:
    """Return a PNG with a panel for each experiment that has something to show."""
    figure, axes = plt.subplots(1, len(EXPERIMENTS), squeeze=False)
    for experiment, panel in zip(EXPERIMENTS, axes[0], strict=True):
        experiment.draw(panel, result)
    panels = [panel for panel in axes[0] if panel.has_data()]
    columns = min(len(panels), PANELS_IN_A_ROW) or 1
    if len(panels) == 4:
        columns = 2
    rows = -(-len(panels) // columns) or 1
    figure.set_size_inches(PANEL_SIZE[0] * columns, PANEL_SIZE[1] * rows)
    grid = figure.add_gridspec(rows, columns)
    for experiment, panel in zip(EXPERIMENTS, axes[0], strict=True):
        if panel not in panels:
            panel.remove()
            continue
        index = panels.index(panel)
        panel.set_subplotspec(grid[index])
        letter = chr(ord("a") + index)
        panel.set_title(f"({letter}) {experiment.TITLE}", loc="left", fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return png(figure)


def main() -> None:
    # 1. Arguments and output folder
    start_logging()
    arguments = read_arguments()
    check_names(arguments)
    check_inputs(arguments)
    output = Path(arguments.output_dir)
    open_output_dir(output, SCRIPT, ("context.json", "evaluations/index.json"), OWN_FILES)
    lock_output_dir(output)

    # 2. Logits of all models
    if not arguments.statistics_only:
        evaluate_models(arguments, output / "evaluations")
    measurement = read_measurement(output)
    if arguments.statistics_only:
        warn_of_another_model(arguments, measurement.runs[0].get("weights_sha256"))

    # 3. Statistics
    result = summarize(measurement, arguments)

    # 4. Text and drawings
    sections = [experiment.describe(result) for experiment in EXPERIMENTS]
    sections = [section for section in sections if section.sentences]
    summary = summary_table(result)
    picture = draw(result)
    page = render(
        "context.html",
        result=result,
        question=question(result),
        sections=sections,
        summary=summary,
        picture=data_url(picture),
    )
    files = {
        "context.png": picture,
        "context.html": page,
        "context.md": markdown(result, sections, summary),
    }
    result["files"] = digests(files)
    write_files(output, {"context.json": to_json(result)} | files)
    for section in sections:  # the answers first
        if section.answer:
            logger.info(section.answer)
    for section in sections:
        for sentence in section.sentences:
            logger.info(sentence)
    for sentence in result["left_out"]:
        logger.info(sentence)
    logger.info("next: python tools/make_report.py --context_dir %s --output_dir report", output)


if __name__ == "__main__":
    main()
