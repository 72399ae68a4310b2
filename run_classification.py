#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "datasets==5.2.0",
#     "huggingface_hub==2.4.0",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "PyYAML==6.0.3",
#     "safetensors==0.8.0",
#     "scikit-learn==1.9.1",
#     "torch==2.13.0",
#     "transformers==5.23.0",
# ]
# ///
"""Fine-tune an encoder for text classification with the Trainer: early stopping, mixed precision, one GPU or many.

    # a laptop: a small model, few documents
    python run_classification.py --model_name_or_path M --dataset_name data/arxiv --output_dir runs/m \\
        --do_train --do_eval --do_predict --max_train_samples 2000 --gradient_accumulation_steps 1
    # the study: one 24 GB GPU, fp16; several GPUs: --multi_gpu instead of the file
    accelerate launch --config_file accelerate_config.yaml run_classification.py --do_train --do_eval --do_predict \\
        --model_name_or_path BAAI/bge-large-en-v1.5 --dataset_name data/arxiv --output_dir runs/bge

The defaults are the study's. The same command continues an interrupted run; a FILE.yaml of arguments may come first.

Writes to --output_dir: model, tokenizer, {train,eval,predict,all}_results.json, trainer_state.json, predictions.csv
(probabilities), confusion_matrix.png, training_curve.png, run_arguments.json and README.md (the model card).
"""

import argparse
import difflib
import io
import json
import logging
import math
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NoReturn

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import transformers
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset
from huggingface_hub import EvalResult, HfApi, ModelCardData
from safetensors import SafetensorError, safe_open
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
)
from sklearn.model_selection import train_test_split
from transformers import HfArgumentParser, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import cached_file, extract_commit_hash

logger = logging.getLogger(__name__)
RUN_FILE = "run_arguments.json"
STUDY_BATCH_SIZE = 512  # effective batch size: 32 a step, 16 accumulation steps
STUDY_DEFAULTS = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64
    if torch.accelerator.is_available()
    else 16,  # measured to be faster on a CPU
    "gradient_accumulation_steps": None,  # whatever makes STUDY_BATCH_SIZE with the number of processes
    "learning_rate": 2e-5,
    "num_train_epochs": 10,  # an upper limit: early stopping decides
    "warmup_steps": 0.06,  # a value below 1 is a ratio of all steps
    "weight_decay": 0.01,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,  # the best checkpoint and the last one
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "logging_steps": 10,
    "logging_nan_inf_filter": False,  # a NaN or infinite loss must be seen, not averaged away
    "train_sampling_strategy": "group_by_length",
    "restore_callback_states_from_checkpoint": True,  # the patience that is used up
}
# The arguments that identify a run: only a run with the same ones is continued or called finished.
IDENTITY = (
    "model_name_or_path tokenizer_name model_revision dataset_name dataset_config_name dataset_revision train_file "
    "validation_file validation_fraction text_column_names text_column_delimiter label_column_name max_seq_length "
    "text_prefix max_train_samples max_eval_samples attention_dropout class_weights early_stopping_patience "
    "learning_rate seed data_seed num_train_epochs max_steps warmup_steps weight_decay max_grad_norm optim optim_args "
    "lr_scheduler_type lr_scheduler_kwargs optim_target_modules adam_beta1 adam_beta2 adam_epsilon eval_strategy "
    "label_smoothing_factor neftune_noise_alpha eval_steps eval_delay load_best_model_at_end metric_for_best_model "
    "greater_is_better train_sampling_strategy total_train_batch_size"
).split()
AT_LEAST_1 = (
    "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps".split()
)
AT_LEAST_0 = (
    "learning_rate warmup_steps weight_decay attention_dropout early_stopping_patience seed".split()
)
# Arguments of the Trainer that would break the predictions, the metrics or the record of what ran.
REFUSED = (
    "prediction_loss_only batch_eval_metrics dataloader_drop_last auto_find_batch_size include_for_metrics "
    "label_names use_liger_kernel remove_unused_columns length_column_name eval_do_concat_batches"
).split()
RENAMED = {  # flags of transformers 4 and of its example script
    "group_by_length": "use --train_sampling_strategy group_by_length",
    "overwrite_output_dir": "delete the folder or choose another --output_dir",
    "no_cuda": "use --use_cpu",
    "save_safetensors": "safetensors is the only format",
    "logging_dir": "set the environment variable TENSORBOARD_LOGGING_DIR",
    "pad_to_max_length": "batches are padded to their longest text, or with --pad_to_multiple_of",
    "config_name": "tools/make_model.py writes an untrained model from a configuration",
}


@dataclass
class ModelArguments:
    """Which model to fine-tune, what it reads and when to stop."""

    model_name_or_path: str = field(metadata={"help": "Model folder, or a model id on the Hub."})
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer, if it is not the model's."}
    )
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of a Hub model."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa or flash_attention_2."}
    )
    attention_dropout: float | None = field(
        default=None, metadata={"help": "Dropout of the attention probabilities."}
    )
    text_prefix: str = field(
        default="", metadata={"help": 'Prepended to every text, such as "query: " for e5.'}
    )
    max_seq_length: int = field(
        default=256, metadata={"help": "Maximum number of tokens of a text."}
    )
    pad_to_multiple_of: int | None = field(
        default=None, metadata={"help": "Defaults to 8 with mixed precision."}
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes for tokenization."}
    )
    class_weights: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "Class weights of the loss."}
    )
    early_stopping_patience: int = field(
        default=3, metadata={"help": "Evaluations without improvement; 0 is off."}
    )


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


# Copied from tools/common/data.py::SPLITS
SPLITS = ("train", "validation", "test")


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
    text_column_names: list[str] = field(
        default_factory=lambda: ["abstract"], metadata={"help": "Columns of text."}
    )
    text_column_delimiter: str = field(
        default=" ", metadata={"help": "Text between joined columns."}
    )
    label_column_name: str = field(
        default="label", metadata={"help": "Column of the classes: names or integers."}
    )
    label_names: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of the classes in the order of their numbers, if labels are 0, 1 ..."
        },
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Fraction of training held out when there is no validation split."},
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
        # "title,abstract" and "title abstract" are the same two columns.
        names = ",".join(self.text_column_names).split(",")
        self.text_column_names = [name.strip() for name in names]


# Copied from tools/common/data.py::load_splits
def load_splits(
    arguments: DataArguments, needed: list[str], seed: int, optional: list[str] | None = None
) -> LoadedData:
    """Load the splits that are needed, and the optional ones that exist.

    A missing validation split is a stratified share of training. Exits with status 2 if a needed
    split, a column, a text or a label is missing, an id is duplicated, or a split has a class that
    the training split lacks.
    """
    # 1. Tables with the columns of the files; validation may have to be taken from training
    tables, commit = read_tables(arguments, needed, optional or [])
    wanted = [split for split in SPLITS if split in needed or split in (optional or [])]
    takes_validation = "validation" in wanted and "validation" not in tables and "train" in tables

    # 2. Tables with the columns id, text and label, a name
    tables = {split: check_rows(table, split, arguments) for split, table in tables.items()}
    names = match_labels(tables, arguments)
    if takes_validation:
        take_validation(tables, names, arguments.validation_fraction, seed)
    limits = {
        "train": arguments.max_train_samples,
        "validation": arguments.max_eval_samples,
        "test": arguments.max_predict_samples,
    }
    for split, limit in limits.items():
        if limit is not None and limit < 1:
            fail(f"the number of documents of split {split!r} must be at least 1, not {limit}")
    tables = {split: tables[split][: limits[split]] for split in wanted if split in tables}
    check_classes(tables, names)
    warn_about_leaks(tables)

    # 3. Numbers instead of names
    number = {name: place for place, name in enumerate(names)}
    kinds = {"id": Value("string"), "text": Value("string"), "label": ClassLabel(names=names)}
    splits = DatasetDict()
    for split, table in tables.items():
        columns = table.to_dict("list")
        columns["label"] = [number[name] for name in columns["label"]]
        splits[split] = Dataset.from_dict(columns, Features(kinds))
    fingerprints = {split: fingerprint(table) for split, table in tables.items()}
    return LoadedData(splits, names, fingerprints, commit)


# Copied from tools/common/data.py::read_file
def read_file(file: str) -> pd.DataFrame:
    """Read a file by the rules of its format. Exit with status 2 if it breaks them."""
    suffix = Path(file).suffix.lower()
    if suffix not in (".csv", ".tsv", ".json", ".jsonl", ".parquet"):
        fail(f"cannot load {file}: it is not a .csv, .tsv, .json, .jsonl or .parquet file")
    try:
        if suffix == ".parquet":
            return read_parquet(file)
        content = Path(file).read_bytes()
    except FileNotFoundError:
        fail(f"cannot load {file}: no such file")
    except LOAD_ERRORS as error:
        fail(f"cannot load {file}: {one_line(error)}")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:1000]:
        fail(f"cannot load {file}: it is UTF-16; save it as UTF-8 (Excel: 'CSV UTF-8')")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail(f"cannot load {file}: {one_line(error)}; save the file as UTF-8 (Excel: 'CSV UTF-8')")
    return read_json(file, text) if suffix.startswith(".json") else read_csv(file, text)


# Copied from tools/common/data.py::check_rows
def check_rows(frame: pd.DataFrame, split: str, arguments: DataArguments) -> pd.DataFrame:
    """Return the columns id, text and label. Exit with status 2 if a row is not right."""
    if len(frame) == 0:
        fail(f"split {split!r} has no rows")
    check_columns(frame, split, [*arguments.text_column_names, arguments.label_column_name])
    labels = frame[arguments.label_column_name]
    columns = [frame[column].tolist() for column in arguments.text_column_names]
    for name, column in zip(arguments.text_column_names, columns, strict=True):
        check_texts(column, f"column {name!r} of split {split!r}")
    texts = [join_texts(row, arguments.text_column_delimiter) for row in zip(*columns, strict=True)]
    ids = pd.Series([f"{split}.{row}" for row in range(len(frame))])
    problems = {}
    if "id" in frame:
        # Without an id, the row could not be found again; numbers for some rows alone would mix.
        problems["no id, which others have"] = frame["id"].map(is_missing)
        ids = frame["id"].astype(str).reset_index(drop=True)
        problems["a duplicated id"] = ids.duplicated()
    problems |= {
        f"an empty text in {', '.join(arguments.text_column_names)}": [not text for text in texts],
        "half a character (a lone surrogate)": [
            re.search("[\ud800-\udfff]", f"{identifier}{text}{label}") is not None
            for identifier, text, label in zip(ids, texts, labels, strict=True)
        ],
        f"no label in column {arguments.label_column_name!r}": labels.astype(object).map(
            is_missing
        ),
    }
    check_labels(labels, f"labels in column {arguments.label_column_name!r} of split {split!r}")
    for problem, is_wrong in problems.items():
        rows = [row for row, wrong in enumerate(is_wrong) if wrong]
        if rows:
            named = ", ".join(f"row {row} (id {ids[row]})" for row in rows[:3])
            verb = "has" if len(rows) == 1 else "have"
            fail(
                f"{len(rows)} of {len(frame)} rows of split {split!r} {verb} {problem}: {named}"
                f"{', ...' if len(rows) > 3 else ''}; correct or remove them (rows count from 0)"
            )
    if not isinstance(labels.dtype, pd.CategoricalDtype):
        labels = labels.map(str)
    return pd.DataFrame({"id": ids, "text": texts, "label": labels.reset_index(drop=True)})


# Copied from run_baseline.py::METRICS
METRICS = {
    "accuracy": "Accuracy",
    "f1": "Macro F1",
    "precision": "Macro precision",
    "recall": "Macro recall",
}


# Copied from run_baseline.py::NOT_UPLOADED
NOT_UPLOADED = ["checkpoint-*", "*.tmp", "*.bin", "_*"]


# Copied from run_baseline.py::compute_metrics
def compute_metrics(references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Return accuracy and macro-averaged F1, precision and recall; undefined values count as 0."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        references, predictions, average="macro", zero_division=0
    )
    return {
        "accuracy": float(accuracy_score(references, predictions)),
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
    }


# Copied from run_baseline.py::save_figure
def save_figure(figure: plt.Figure, path: Path) -> None:
    """Save and close a figure. The file holds no date, so the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    write(path, buffer.getvalue())


# Copied from run_baseline.py::plot_confusion_matrix
def plot_confusion_matrix(table: pd.DataFrame, names: list[str]) -> plt.Figure:
    """Plot the confusion matrix of predictions.csv: counts, in the color of the class's share."""
    counts = confusion_matrix(table["label"], table["prediction"], labels=names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(1.1 * len(names) + 1.5, len(names) + 1))
    # A $ in a name does not start a formula.
    shown = [name.replace("$", r"\$") for name in names]
    display = ConfusionMatrixDisplay(shares, display_labels=shown)
    display.plot(ax=axes, cmap="Blues", im_kw={"vmin": 0, "vmax": 1})
    for cell, count in zip(display.text_.flat, counts.flat, strict=True):
        cell.set_text(f"{count:,}")
    return figure


# Copied from run_baseline.py::public_name
def public_name(source: str) -> str:
    """Return a Hub id as it is and a local path as its last part: a card shows nobody's folders."""
    if Path(source).exists():
        return Path(source).absolute().name
    return source if source.count("/") == 1 else Path(source).name


# Copied from run_baseline.py::write_card
def write_card(
    folder: Path, library: str, title: str, record: dict, results: dict, text: str
) -> None:
    """Write README.md: metadata with a model-index, the metrics of the test split, and the text.

    Without metrics of the test split, those of the validation split stand there.
    """
    base = public_name(record["model_name_or_path"])
    dataset = public_name(record["dataset_name"])
    split, prefix = "validation", "eval"
    if "predict_accuracy" in results:
        split, prefix = "test", "predict"
    measured = {}
    for key in METRICS:
        if f"{prefix}_{key}" in results:
            measured[key] = round(results[f"{prefix}_{key}"], 4)
    kind = "skops" if library == "sklearn" else "generated_from_trainer"
    data = ModelCardData(
        library_name=library,
        pipeline_tag="text-classification",
        tags=["text-classification", kind],
        model_name=title,
        base_model=base if "/" in base else None,
        datasets=[dataset] if "/" in dataset else None,
        eval_results=[
            EvalResult(
                task_type="text-classification",
                task_name="Text classification",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split=split,
                metric_type=key,
                metric_name=METRICS[key],
                metric_value=value,
            )
            for key, value in measured.items()
        ],
    )
    lines = [f"---\n{data.to_yaml()}\n---\n", f"# {escape_markdown(title)}\n"]
    if measured:
        lines.append(f"| {results.get(f'{prefix}_samples')} {split} documents | percent |")
        lines.append("|---|---:|")
        lines += [f"| {METRICS[key]} | {100 * value:.2f} |" for key, value in measured.items()]
    write(folder / "README.md", "\n".join([*lines, "", text, ""]))


# Copied from run_baseline.py::push_folder
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


class RunMonitor(TrainerCallback):
    """Orders documents by seed and epoch alone, shows progress, and exits with status 2 at a NaN or infinite loss."""

    progress = start = None  # the Trainer's own progress callback; first step and time

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.start = self.start or (state.global_step, time.time())
        # Length grouping draws from the global generator, so a run that continues within an epoch would not see the
        # documents that are left; batch_rebalance ignores the seed. With several processes the sampler lies deeper.
        batches = getattr(train_dataloader, "batch_sampler", None)
        batches = getattr(batches, "batch_sampler", batches)
        sampler = getattr(batches, "sampler", batches)
        sampler.seed = args.seed if args.data_seed is None else args.data_seed
        sampler.generator = torch.Generator().manual_seed(
            sampler.seed + int((state.epoch or 0) + 1e-6)
        )

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.start[0] + 10:
            seconds = (time.time() - self.start[1]) / 10
            end = time.ctime(time.time() + seconds * (state.max_steps - state.global_step))
            logger.info(
                "%d updates of %.3g s: training takes until %s at most",
                state.max_steps,
                seconds,
                end,
            )
        if bar := getattr(self.progress, "training_bar", None):
            shown = {
                key: value
                for row in state.log_history
                for key, value in row.items()
                if key.endswith("loss")
            }
            if stopping := state.stateful_callbacks.get(
                "EarlyStoppingCallback"
            ):  # as of the last checkpoint
                used = stopping["attributes"]["early_stopping_patience_counter"]
                shown["patience"] = stopping["args"]["early_stopping_patience"] - used
            bar.set_postfix(shown)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not math.isfinite(logs.get("loss", 0.0)) or not math.isfinite(
            logs.get("eval_loss", 0.0)
        ):
            self.progress.on_train_end(args, state, control)  # closes the bar
            fail(f"NaN or infinite loss at step {state.global_step}; lower --learning_rate")


def adapt_to_machine(namespace: argparse.Namespace, unknown: list[str]) -> None:
    """Name the successor of a renamed flag, and set what depends on the machine: accumulation, no fp16 on a CPU."""
    for name in RENAMED.keys() & {word.removeprefix("--").split("=")[0] for word in unknown}:
        fail(f"--{name} is not an argument of this script: {RENAMED[name]}")
    processes, devices = int(os.environ.get("WORLD_SIZE", 1)), torch.accelerator.device_count()
    if (
        namespace.use_cpu
        or os.environ.get("ACCELERATE_USE_CPU") == "true"
        or not torch.accelerator.is_available()
    ):
        namespace.use_cpu, namespace.dataloader_pin_memory, devices = True, False, 1
        if namespace.fp16:
            fail("--fp16 needs a GPU and this run has none; leave it out or give --bf16")
        if (
            os.environ.get("ACCELERATE_MIXED_PRECISION") == "fp16" and not namespace.bf16
        ):  # the launcher's
            os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
            if os.environ.get("RANK", "0") == "0":
                logger.warning("fp16 needs a GPU and there is none: this run computes in fp32")
    if (
        not namespace.do_train
    ):  # the study's defaults would switch evaluation on for a command that only predicts
        namespace.eval_strategy, namespace.load_best_model_at_end = "no", False
    if namespace.gradient_accumulation_steps is None:
        per_step = max(1, namespace.per_device_train_batch_size) * (
            devices if processes == 1 else processes
        )
        namespace.gradient_accumulation_steps = max(1, round(STUDY_BATCH_SIZE / per_step))


def check_arguments(model: ModelArguments, training: TrainingArguments) -> None:
    """Exit with status 2 on arguments that cannot be honored or have no meaning."""
    arguments = asdict(model) | vars(training)
    for name in REFUSED:
        if arguments[name] != getattr(TrainingArguments, name, []):
            fail(
                f"--{name} {arguments[name]} is not supported: predictions, metrics or the record would be wrong"
            )
    for name, least in (dict.fromkeys(AT_LEAST_1, 1) | dict.fromkeys(AT_LEAST_0, 0)).items():
        if (value := arguments[name]) is not None and not least <= value < math.inf:
            fail(f"--{name} must be at least {least}, not {value}")
    metric = (training.metric_for_best_model or "loss").removeprefix("eval_")
    checkpoint = training.resume_from_checkpoint or "true"
    if not (training.do_train or training.do_eval or training.do_predict):
        fail("nothing to do; give --do_train, --do_eval, --do_predict or several of them")
    trained = training.do_train or Path(training.output_dir, "trainer_state.json").exists()
    if (training.push_to_hub and not trained) or (
        training.hub_model_id and not training.push_to_hub
    ):
        fail(
            f"--hub_model_id needs --push_to_hub, that needs --do_train or a trained run in {training.output_dir}"
        )
    if not 0 <= training.label_smoothing_factor < 1 or metric not in ("loss", *METRICS):
        fail(
            f"--label_smoothing_factor must be in [0, 1), --metric_for_best_model in loss, {', '.join(METRICS)}"
        )
    if training.max_steps <= 0 and not 0 < training.num_train_epochs < math.inf:
        fail(f"--num_train_epochs must be positive, not {training.num_train_epochs}")
    if training.do_train and training.eval_strategy == "no" and model.early_stopping_patience:
        fail(
            "early stopping needs evaluations; give --early_stopping_patience 0 with --eval_strategy no"
        )
    if checkpoint.lower() != "true" and not Path(checkpoint, "trainer_state.json").exists():
        fail(
            f"--resume_from_checkpoint {checkpoint} is not a checkpoint; without it the last one is used"
        )


def load_model(arguments: ModelArguments, names: list[str], training: TrainingArguments) -> tuple:
    """Return the classifier, in fp32 for mixed precision, and its tokenizer; training sets the dataset's classes."""
    source, revision, step = arguments.model_name_or_path, arguments.model_revision, "model"
    try:
        config = transformers.AutoConfig.from_pretrained(source, revision=revision)
        if config.is_encoder_decoder:
            raise ValueError("it is an encoder-decoder model; choose an encoder or a decoder")
        if training.do_train:
            config.id2label, config.label2id = (
                dict(enumerate(names)),
                {name: i for i, name in enumerate(names)},
            )
            config.text_prefix, config.max_seq_length = (
                arguments.text_prefix,
                arguments.max_seq_length,
            )
        elif unknown := set(names) - set(config.id2label.values()):
            fail(
                f"the dataset has classes that {source} does not know: {sorted(unknown)}, not {config.id2label}"
            )
        else:  # texts as in training
            arguments.text_prefix = arguments.text_prefix or getattr(config, "text_prefix", "")
            arguments.max_seq_length = min(
                arguments.max_seq_length, getattr(config, "max_seq_length", math.inf)
            )
        keys = (
            "attention_probs_dropout_prob",
            "attention_dropout",
            "attn_pdrop",
        )  # in BERT, newer encoders, GPT-2
        if arguments.attention_dropout is not None:
            known = {key: arguments.attention_dropout for key in keys if hasattr(config, key)}
            config.update(
                known
                or fail(f"--attention_dropout is not known for models of type {config.model_type}")
            )
        attention, dropout = (
            arguments.attn_implementation,
            max(getattr(config, key, 0) for key in keys),
        )
        if (
            attention is None
            and dropout > 0
            and training.do_train
            and training.device.type == "cpu"
        ):
            attention = "eager"
            logger.info(
                "attention: eager, which is faster than sdpa on a CPU with attention dropout %g",
                dropout,
            )
        options = {"config": config, "revision": revision, "attn_implementation": attention}
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, ignore_mismatched_sizes=training.do_train, **options
        )
        step, source = "tokenizer", arguments.tokenizer_name or source
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=revision)
        # Without files transformers makes an empty tokenizer.
        if tokenizer.vocab_size <= len(tokenizer.all_special_ids) or tokenizer.pad_token is None:
            raise ValueError("it has no files or no padding token; give --tokenizer_name")
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
        fail(f"cannot load {step} {source}: {one_line(error)}")
    positions = [
        module for name, module in model.named_modules() if name.endswith("position_embeddings")
    ]
    # RoBERTa counts positions from padding_idx + 1, so its table is longer than the texts that it takes.
    reserved = max(
        (module.padding_idx + 1 for module in positions if getattr(module, "padding_idx", None)),
        default=0,
    )
    limit = min(
        tokenizer.model_max_length, getattr(config, "max_position_embeddings", math.inf) - reserved
    )
    if not 2 < arguments.max_seq_length <= limit:
        fail(
            f"--max_seq_length {arguments.max_seq_length} is not between 3 and the {limit} positions of the model"
        )
    return model, tokenizer


def find_checkpoint(folder: Path, patience: int) -> tuple[str | None, bool]:
    """Return the newest complete checkpoint or None, and whether early stopping had ended the training there."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
        try:
            for weights in path.glob("*.safetensors"):
                safe_open(weights, "pt")  # checks that the file is as long as its header says
            state = json.loads(
                (path / "trainer_state.json").read_text(encoding="utf-8")
            )  # is written last
            stopping = (
                state.get("stateful_callbacks", {})
                .get("EarlyStoppingCallback", {})
                .get("attributes", {})
            )
            return str(path), 0 < patience <= stopping.get("early_stopping_patience_counter", 0)
        except (OSError, ValueError, SafetensorError):
            logger.warning("%s is incomplete; the previous checkpoint is used", path)
    return None, False


def predict_in_order(trainer: Trainer, dataset: Dataset, prefix: str) -> np.ndarray:
    """Return logits of shape (documents, classes) in dataset order, and save the metrics."""
    # Batches hold documents of similar length; the Trainer's own grouping would leave the rows in that order.
    trainer.args.train_sampling_strategy = "random"
    order = np.argsort(-np.array(dataset["length"]), kind="stable")
    output = trainer.predict(dataset.select(order), metric_key_prefix=prefix)
    logits = output.predictions[np.argsort(order)]
    if not np.isfinite(logits).all():
        fail(
            f"the model gives NaN or infinite logits ({prefix}); train it again with a lower --learning_rate"
        )
    output.metrics[f"{prefix}_samples"] = len(dataset)
    # The Trainer's loss is a mean over batches, which depends on their size and on the number of processes.
    outputs = transformers.utils.ModelOutput(logits=torch.tensor(output.predictions))
    output.metrics[f"{prefix}_loss"] = trainer.compute_loss_func(
        outputs, torch.tensor(output.label_ids)
    ).item()
    trainer.log_metrics(prefix, output.metrics)
    trainer.save_metrics(prefix, output.metrics)
    return logits


def run_record(training: TrainingArguments, *others) -> dict:
    """Return what identifies this run: arguments, seed and versions. It holds no token."""
    arguments = training.to_sanitized_dict() | {
        key: value for other in others for key, value in asdict(other).items()
    }
    total = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    arguments["total_train_batch_size"] = total
    packages = ("torch", "transformers", "accelerate", "datasets", "scikit-learn")
    return {
        "script": "run_classification.py",
        "model_name_or_path": arguments["model_name_or_path"],
        "dataset_name": arguments["dataset_name"] or arguments["train_file"],
        "seed": training.seed,
        "learning_rate": training.learning_rate,
        "total_train_batch_size": total,
        "arguments": {key: arguments[key] for key in IDENTITY},
        "device": torch.cuda.get_device_name()
        if training.device.type == "cuda"
        else training.device.type,
        "processes": training.world_size,
        "versions": {"python": sys.version.split()[0]}
        | {package: version(package) for package in packages},
    }


def check_output_dir(folder: Path, record: dict, training: TrainingArguments) -> bool:
    """Return whether the run in the folder is finished; refuse a folder that holds another run or something else."""
    finished = "predict" if training.do_predict else "eval" if training.do_eval else "train"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(
            folder, os.W_OK
        ):  # no trial file: other processes are looking into the folder, too
            raise PermissionError(None, "permission denied")
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}")
    if not any(folder.iterdir()) or not training.do_train:
        return False
    try:
        before = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["arguments"]
    except (OSError, ValueError, KeyError):
        fail(
            f"{folder} holds something other than a run of this script; choose another --output_dir"
        )
    for key, value in record["arguments"].items():
        if before.get(key, value) != value:
            fail(
                f"{folder} holds a run with {key} {before[key]}, not {value}; choose another --output_dir"
            )
    return (folder / f"{finished}_results.json").exists()


def describe_run(folder: Path, model_id: str | None) -> None:
    """Draw the pictures and write the model card from the files of a trained run."""
    files = (RUN_FILE, "all_results.json", "trainer_state.json", "config.json")
    record, results, state, config = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in files
    )
    arguments, names, best = (
        record["arguments"],
        list(config["id2label"].values()),
        state["best_global_step"],
    )
    log, pictures = pd.DataFrame(state["log_history"]), "![training curve](training_curve.png)"
    figure, axes = plt.subplots(figsize=(7, 4))
    for key, label, style in [("loss", "training", "-"), ("eval_loss", "validation", "o-")]:
        if key in log:
            log.dropna(subset=key).plot(
                "epoch", key, ax=axes, style=style, label=label, ylabel="loss"
            )
    for epoch in log[log["step"] == best]["epoch"][:1]:
        axes.axvline(epoch, color="0.7", linestyle="--", label="best")
    axes.legend()
    save_figure(figure, folder / "training_curve.png")
    if (folder / "predictions.csv").exists():
        table = pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False)
        save_figure(plot_confusion_matrix(table, names), folder / "confusion_matrix.png")
        pictures = "![confusion matrix](confusion_matrix.png) " + pictures
    base, dataset = public_name(record["model_name_or_path"]), public_name(record["dataset_name"])
    prefix, limit = arguments["text_prefix"], arguments["max_seq_length"]
    note = f"\nIn training every text was preceded by `{prefix}`: do the same." if prefix else ""
    metric = f"best validation {arguments['metric_for_best_model']}" if best else "last step"
    batch, versions = (
        record["total_train_batch_size"],
        ", ".join(f"{k} {v}" for k, v in record["versions"].items()),
    )
    text = f"""`{base}`, fine-tuned to classify texts of `{dataset}` as {", ".join(names)}.{note}

```python
from transformers import pipeline
classifier = pipeline("text-classification", "{model_id or "."}")
text = "{prefix}We classify compact manifolds whose Ricci form is positive."
print(classifier(text, truncation=True, max_length={limit}))
```

Checkpoint: {metric}. Learning rate {record["learning_rate"]:g}, effective batch size {batch}, at most {limit} tokens,
{record["precision"]}, seed {record["seed"]}, {record["processes"]} x {record["device"]}. Versions: {versions}.

{pictures}"""
    write_card(
        folder,
        "transformers",
        (model_id or f"{base} on {dataset}").split("/")[-1],
        record,
        results,
        text,
    )


def main() -> None:
    # 1. Arguments, output folder, seed
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stdout
    )
    logging.getLogger("httpx2").setLevel(
        logging.WARNING
    )  # otherwise a line for every request to the Hub
    kinds = (ModelArguments, DataArguments, TrainingArguments)
    arguments, data, training = parse_arguments(
        __doc__, *kinds, adapt=adapt_to_machine, **STUDY_DEFAULTS
    )
    logger.setLevel(logging.INFO if training.should_log else logging.ERROR)
    check_arguments(arguments, training)
    folder, push, record = (
        Path(training.output_dir),
        training.push_to_hub,
        run_record(training, arguments, data),
    )
    repo_id = training.hub_model_id or folder.absolute().name
    if (
        training.hub_token
    ):  # otherwise the Trainer would pickle it into the run folder and upload it
        os.environ["HF_TOKEN"], training.hub_token = training.hub_token, None
    if check_output_dir(folder, record, training):
        logger.info("%s is finished; delete the folder to run it again", folder)
        if push and training.process_index == 0:
            describe_run(folder, repo_id)
            push_folder(folder, repo_id, training.hub_private_repo, training.hub_revision)
        return
    if record["total_train_batch_size"] != STUDY_BATCH_SIZE and training.do_train:
        logger.warning(
            "effective batch size %d (the study: %d)",
            record["total_train_batch_size"],
            STUDY_BATCH_SIZE,
        )
    transformers.set_seed(
        training.seed
    )  # before the model is made: its head is initialized at random

    # 2. Texts and labels, model, tokens
    wanted = (training.do_train, training.do_train or training.do_eval, training.do_predict)
    needed = [split for split, given in zip(SPLITS, wanted, strict=True) if given]
    splits, record["dataset_commit"] = load_splits(data, needed, training.seed)
    names = splits[needed[0]].features["label"].names
    model, tokenizer = load_model(arguments, names, training)
    id2label, label2id = model.config.id2label, model.config.label2id

    def preprocess(batch: dict) -> dict:
        texts = [arguments.text_prefix + text for text in batch["text"]]
        encoded = dict(tokenizer(texts, truncation=True, max_length=arguments.max_seq_length))
        encoded["labels"] = [label2id[names[label]] for label in batch["label"]]
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        return encoded

    options = {
        "remove_columns": ["id", "text", "label"],
        "num_proc": arguments.preprocessing_num_workers,
    }
    encoded = splits.map(preprocess, batched=True, desc="Tokenizing", **options)
    for split, part in encoded.items():
        long = np.mean(np.array(part["length"]) >= arguments.max_seq_length)
        logger.info(
            "%s: %s documents, %.0f %% have the maximum length", split, f"{len(part):,}", 100 * long
        )

    # 3. Loss
    balanced = arguments.class_weights == "balanced" and training.do_train
    counts = (
        np.bincount(encoded["train"]["labels"][:], minlength=len(names))
        if balanced
        else np.ones(len(id2label))
    )
    weight = torch.tensor(
        counts.sum() / (counts > 0).sum() / np.maximum(counts, 1), dtype=torch.float32
    )

    def compute_loss(outputs, labels, num_items_in_batch=None):
        """Return the mean cross-entropy over the documents of an optimizer step."""
        # transformers 5.23 would count a BERT classifier's own loss, a mean over a batch, once per accumulated batch.
        options = {"reduction": "sum", "label_smoothing": training.label_smoothing_factor}
        loss = torch.nn.functional.cross_entropy(
            outputs.logits, labels, weight.to(outputs.logits), **options
        )
        return loss / (num_items_in_batch if num_items_in_batch is not None else len(labels))

    # 4. Trainer
    callbacks = [monitor := RunMonitor()]
    if arguments.early_stopping_patience and training.do_train:
        callbacks.append(transformers.EarlyStoppingCallback(arguments.early_stopping_patience))
    multiple = arguments.pad_to_multiple_of or (None if training.mixed_precision == "no" else 8)
    try:
        Trainer.get_optimizer_cls_and_kwargs(training, model)  # its package may be missing
        trainer = Trainer(
            model=model,
            args=training,
            train_dataset=encoded.get("train"),
            eval_dataset=encoded.get("validation"),
            processing_class=tokenizer,
            data_collator=transformers.DataCollatorWithPadding(
                tokenizer, pad_to_multiple_of=multiple
            ),
            compute_metrics=lambda output: compute_metrics(
                output.label_ids, output.predictions.argmax(axis=1)
            ),
            compute_loss_func=compute_loss,
            callbacks=callbacks,
        )
    except (
        Exception
    ) as error:  # no package for --report_to, --optim or --deepspeed, no access to the Hub
        fail(
            f"cannot start{f' or push to {repo_id} (see hf auth login)' if push else ''}: {one_line(error)}"
        )
    monitor.progress = trainer.callback_handler.callbacks[
        -1
    ]  # the Trainer's progress bar, or its printer
    half = ["bf16"] * training.bf16_full_eval + ["fp16"] * training.fp16_full_eval
    record["precision"] = ", evaluation in ".join(
        [trainer.accelerator.mixed_precision.replace("no", "fp32"), *half]
    )
    config_file = cached_file(
        arguments.model_name_or_path, "config.json", revision=arguments.model_revision
    )
    record["model_commit"] = extract_commit_hash(config_file, None)  # None for a local folder

    try:
        if trainer.is_world_process_zero() and (
            training.do_train or not (folder / RUN_FILE).exists()
        ):
            write(folder / RUN_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

        # 5. Training
        if training.do_train:
            checkpoint, stopped = find_checkpoint(folder, arguments.early_stopping_patience)
            if (training.resume_from_checkpoint or "true").lower() != "true":
                checkpoint, stopped = training.resume_from_checkpoint, False
            if stopped:
                trainer.args.num_train_epochs = 0  # only the best model is still to be loaded
            result = trainer.train(resume_from_checkpoint=checkpoint)
            trainer.args.push_to_hub = False  # stage 8 pushes the complete folder with its card
            trainer.save_model()
            trainer.save_metrics("train", result.metrics | {"train_samples": len(encoded["train"])})
            trainer.save_state()

        # 6. Validation split
        if training.do_eval:
            predict_in_order(trainer, encoded["validation"], "eval")

        # 7. Test split, once
        if training.do_predict:
            logits = predict_in_order(trainer, encoded["test"], "predict")
            probabilities = torch.tensor(logits, dtype=torch.float64).softmax(dim=1).numpy()
            table = (
                splits["test"]
                .to_pandas()[["id", "label"]]
                .replace({"label": dict(enumerate(names))})
            )
            classes = [id2label[label] for label in range(len(id2label))]
            table["prediction"] = [classes[label] for label in probabilities.argmax(axis=1)]
            table = pd.concat(
                [table, pd.DataFrame(probabilities, columns=classes)], axis=1
            )  # one may be called label
            if trainer.is_world_process_zero():
                write(folder / "predictions.csv", table.to_csv(index=False, float_format="%.6f"))

        # 8. Pictures, model card, Hub
        if not trainer.is_world_process_zero():
            return
        (folder / "training_args.bin").unlink(
            missing_ok=True
        )  # a pickle of what run_arguments.json says
        if (folder / "trainer_state.json").exists():
            describe_run(folder, repo_id if push else None)
    except KeyboardInterrupt:
        logger.warning(
            "interrupted; the same command continues from the last checkpoint in %s", folder
        )
        raise SystemExit(130) from None
    except (OSError, SafetensorError, MemoryError, RuntimeError) as error:
        # torch has no kinds of its own for a CPU without memory and for a checkpoint that cannot be written
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(
            error
        ):
            fail(
                "out of memory: lower --per_device_train_batch_size (accumulation follows) or --max_seq_length"
            )
        if "size mismatch" in str(error):
            fail(f"the checkpoint in {folder} is one of another model; delete the folder")
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        fail(
            f"cannot write into {folder}: {one_line(error)}; free some space, then the same command continues"
        )
    if push:
        push_folder(folder, repo_id, training.hub_private_repo, training.hub_revision)
    logger.info(
        "next: python run_attribution.py --model_name_or_path %s --output_dir attributions ...",
        folder,
    )


if __name__ == "__main__":
    main()
