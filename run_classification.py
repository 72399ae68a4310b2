#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "datasets==5.2.0",
#     "evaluate==0.4.6",
#     "huggingface_hub==2.4.0",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "pyarrow==26.0.1",
#     "PyYAML==6.0.3",
#     "safetensors==0.8.0",
#     "scikit-learn==1.9.1",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Fine-tune an encoder or decoder for text classification with the Trainer, and predict with it.

    # a laptop: a small model, few documents
    python run_classification.py --model_name_or_path M --dataset_name data/arxiv \\
        --output_dir runs/m --do_train --do_eval --do_predict --max_train_samples 2000
    # the study: one 24 GB GPU, fp16; several GPUs:
    # configs/accelerate_multi_gpu.yaml
    accelerate launch --config_file accelerate_config.yaml run_classification.py \\
        --model_name_or_path BAAI/bge-large-en-v1.5 --dataset_name data/arxiv \\
        --output_dir runs/bge --do_train --do_eval --do_predict
    # other texts, with or without labels, with a model that was trained by this script
    python run_classification.py --model_name_or_path runs/m --test_file new.csv \\
        --output_dir runs/m-new --do_predict
    # several labels per document: lists, or texts such as "math.AG;math.DG"
    python run_classification.py --model_name_or_path M --train_file train.csv \\
        --test_file test.csv --text_column_names text --label_delimiter ";" --threshold auto \\
        --output_dir runs/several --do_train --do_eval --do_predict

The defaults are the study's. The same command continues an interrupted run. A FILE.yaml of
arguments may come first.

Writes to --output_dir: model, tokenizer, {train,eval,predict,all}_results.json,
trainer_state.json, predictions.csv (probabilities), confusion_matrix.png (with several labels
class_curves.png), training_curve.png, run_arguments.json and README.md (the model card).
"""

import argparse
import contextlib
import csv
import dataclasses
import difflib
import errno
import fcntl
import functools
import hashlib
import html
import inspect
import io
import itertools
import json
import logging
import math
import os
import re
import shlex
import signal
import sys
import time
import traceback
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NoReturn

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow.parquet
import torch
import transformers
import yaml
from accelerate.data_loader import BatchSamplerShard
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
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, try_to_load_from_cache
from huggingface_hub.utils import httpx
from safetensors import SafetensorError, safe_open
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
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EvalPrediction,
    HfArgumentParser,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler
from transformers.utils import cached_file, extract_commit_hash, is_sentencepiece_available

logger = logging.getLogger(__name__)
SCRIPT = "run_classification.py"
RUN_FILE = "run_arguments.json"

# 1. Arguments

STUDY_BATCH_SIZE = 512  # effective batch size: 32 per step, 16 accumulation steps
MIN_UPDATES_PER_EPOCH = 10  # by default; 512 documents per update need 5,120 documents for that
FEW_UPDATES = 50  # a training with fewer updates in all is warned about
STUDY_DEFAULTS = {
    "per_device_train_batch_size": 32,
    # 16 was measured to be faster on a CPU
    "per_device_eval_batch_size": 64 if torch.accelerator.is_available() else 16,
    "gradient_accumulation_steps": None,  # see choose_accumulation_steps
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
# How a text is made of a row and cut. A run stores these in its config.json, and whoever predicts
# with it uses them; the values here are those of a training without flags.
TEXT_SETTINGS = {
    "text_column_names": ["abstract"],
    "text_column_delimiter": " ",
    "text_prefix": "",
    "max_seq_length": 256,
}
# Copied from tools/common/data.py::VALIDATION_FRACTION
VALIDATION_FRACTION = 0.1  # if --validation_fraction is not given


# How splits are held out from training that the data lacks
SPLIT_SETTINGS = {
    "validation_fraction": VALIDATION_FRACTION,
    "test_fraction": None,
    "split_seed": 42,
}
# A flag of this list cannot change the result. All others identify a run: only a run with the same
# ones is continued or called finished. A new flag therefore counts unless it is added here.
NOT_IDENTIFYING = (
    # Paths; the data itself is compared by fingerprints
    "output_dir dataset_name train_file validation_file test_file max_predict_samples "
    "train_split_name validation_split_name test_split_name csv_delimiter json_field "
    # Which steps are done
    "do_train do_eval do_predict resume_from_checkpoint "
    # Batches: total_train_batch_size counts
    "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
    "eval_accumulation_steps eval_use_gather_object pad_to_multiple_of torch_empty_cache_steps "
    # Logging and saving
    "logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_on_each_node "
    "log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id "
    "trackio_bucket_id trackio_static_space_id include_num_input_tokens_seen skip_memory_metrics "
    "debug save_strategy save_steps save_on_each_node save_total_limit save_only_model "
    "enable_jit_checkpoint "
    # Hub
    "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision "
    # Machine: mixed_precision counts
    "bf16 fp16 tf32 use_cpu local_rank activation_checkpointing activation_checkpointing_kwargs "
    "gradient_checkpointing gradient_checkpointing_kwargs torch_compile torch_compile_backend "
    "torch_compile_mode accelerator_config parallelism_config deepspeed fsdp fsdp_config "
    "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph "
    "ddp_backend ddp_timeout preprocessing_num_workers dataloader_num_workers "
    "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
    "dataloader_multiprocessing_context dataloader_in_order use_cache liger_kernel_config"
).split()
# Arguments of the Trainer that would break the predictions, the metrics or the record of what ran
REFUSED = (
    "prediction_loss_only batch_eval_metrics dataloader_drop_last auto_find_batch_size "
    "include_for_metrics use_liger_kernel remove_unused_columns length_column_name "
    "eval_do_concat_batches"
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
        default=None,
        metadata={
            "help": "eager, sdpa or flash_attention_2. Default: eager for training with attention "
            "dropout on a CPU, else sdpa."
        },
    )
    attention_dropout: float | None = field(
        default=None, metadata={"help": "Dropout of the attention probabilities."}
    )
    text_prefix: str | None = field(
        default=None,
        metadata={
            "help": 'Prepended to every text, such as "query: " for e5. Default: as in training.'
        },
    )
    max_seq_length: int | None = field(
        default=None,
        metadata={"help": "Maximum number of tokens of a text. Default: as in training, or 256."},
    )
    pad_to_multiple_of: int | None = field(
        default=None,
        metadata={
            "help": "Pad batches to a multiple of this length. Default: 8 with mixed precision."
        },
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes for tokenization."}
    )
    long_texts: Literal["truncate", "windows"] = field(
        default="truncate",
        metadata={
            "help": "How evaluation and prediction after training read texts longer than "
            "--max_seq_length: truncate, or windows: average the logits of overlapping windows of "
            "that length."
        },
    )
    class_weights: Literal["none", "balanced"] = field(
        default="none",
        metadata={"help": "Class weights of the loss; with several labels, weights of positives."},
    )
    threshold: str | None = field(
        default=None,
        metadata={
            "help": "With several labels: the probability from which a class is predicted, or "
            "auto: one per class, chosen on the validation split. Default: as in training, or 0.5."
        },
    )
    metric_name: list[str] | None = field(
        default=None,
        metadata={
            "help": "More metrics of the package evaluate: names, or folders with their code, "
            "which is run."
        },
    )
    early_stopping_patience: int = field(
        default=3,
        metadata={"help": "Stop after this many evaluations without improvement; 0 disables."},
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

    It then comes from the run that predicts, or from TEXT_SETTINGS and SPLIT_SETTINGS.
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
    validation_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Fraction of training held out when there is no validation split. Default: as "
            "in training, or 0.1."
        },
    )
    split_seed: int | None = field(
        default=None,
        metadata={
            "help": "Seed of the splits that are held out from training. Default: as in training, "
            "or 42."
        },
    )


@dataclass
class RunTrainingArguments(TrainingArguments):
    """Those of the Trainer; --label_names is DataArguments' flag, the names of the classes."""

    label_names: list[str] | None = field(default=None, init=False)


def adapt_to_machine(namespace: argparse.Namespace, unknown: list[str]) -> None:
    """Name the successor of a renamed flag, and set what depends on the machine."""
    flags = {word.removeprefix("--").split("=")[0] for word in unknown}
    for name, remedy in RENAMED.items():
        if name in flags:
            fail(f"--{name} is not an argument of this script: {remedy}")

    is_on_cpu = (
        namespace.use_cpu
        or os.environ.get("ACCELERATE_USE_CPU") == "true"
        or not torch.accelerator.is_available()
    )
    if is_on_cpu:
        namespace.use_cpu = True
        namespace.dataloader_pin_memory = False
        if namespace.fp16:
            fail("--fp16 requires a GPU and this run has none; leave it out or give --bf16")
        launcher_wants_fp16 = os.environ.get("ACCELERATE_MIXED_PRECISION") == "fp16"
        if launcher_wants_fp16 and not namespace.bf16:
            os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
            if os.environ.get("RANK", "0") == "0":
                logger.warning("fp16 needs a GPU and there is none: this run computes in fp32")

    metric = (namespace.metric_for_best_model or "loss").removeprefix("eval_")
    if namespace.greater_is_better is None and metric in LOSSES:
        # TrainingArguments would only know those whose name ends in loss.
        namespace.greater_is_better = False
    if not namespace.do_train:
        # The study's defaults would switch evaluation on for a command that only predicts.
        namespace.eval_strategy = "no"
        namespace.load_best_model_at_end = False
    if namespace.deepspeed and namespace.gradient_accumulation_steps is None:
        fail("--deepspeed requires --gradient_accumulation_steps, the value of auto in its file")


def check_arguments(model: ModelArguments, training: TrainingArguments) -> None:
    """Exit with status 2 on arguments that cannot be honored or have no meaning."""
    for name in REFUSED:
        value = getattr(training, name)
        if value != getattr(TrainingArguments, name, []):
            fail(
                f"--{name} {value} is not supported: predictions, metrics or the record "
                "would be wrong"
            )

    check_numbers(model, training)
    if training.n_gpu > 1:  # the Trainer would use torch.nn.DataParallel and count the loss n times
        fail(
            f"{training.n_gpu} GPUs are visible to one process; start one for each with accelerate "
            "launch --multi_gpu, or set CUDA_VISIBLE_DEVICES=0"
        )

    # Processes that load the batches
    check_at_least("dataloader_num_workers", training.dataloader_num_workers, 0)
    for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        if getattr(training, name) and training.dataloader_num_workers == 0:
            fail(f"--{name} requires --dataloader_num_workers; leave it out")

    # Batches of another size than the record's, or an order that a continued run would not repeat
    loading = training.accelerator_config
    for name, is_wrong in (
        ("split_batches", loading.split_batches),
        ("use_seedable_sampler", not loading.use_seedable_sampler),
    ):
        if is_wrong:
            value = str(getattr(loading, name)).lower()
            fail(f"--accelerator_config with {name} {value} is not supported; leave {name} out")

    # What is done
    if not (training.do_train or training.do_eval or training.do_predict):
        fail("nothing to do; give --do_train, --do_eval, --do_predict or several of them")
    is_trained = training.do_train or Path(training.output_dir, "trainer_state.json").exists()
    if training.push_to_hub and not is_trained:
        fail(f"--push_to_hub requires --do_train or a trained run in {training.output_dir}")
    for name in ("hub_model_id", "hub_private_repo", "hub_revision"):
        if getattr(training, name) and not training.push_to_hub:
            fail(f"--{name} requires --push_to_hub")
    if model.model_revision != "main" and Path(model.model_name_or_path).is_dir():
        fail("--model_revision requires a name on the Hub; a local folder has no revisions")
    if training.resume_from_checkpoint and not training.do_train:
        fail(
            "--resume_from_checkpoint requires --do_train; to predict with a checkpoint, give it "
            "as --model_name_or_path"
        )
    checkpoint = training.resume_from_checkpoint or "true"
    if checkpoint.lower() != "true" and not Path(checkpoint, "trainer_state.json").exists():
        fail(
            f"--resume_from_checkpoint {checkpoint} is not a checkpoint; "
            "without it the last one is used"
        )

    # Several labels
    if model.threshold == "auto" and not (training.do_train and training.do_eval):
        fail(
            "--threshold auto requires --do_train and --do_eval: thresholds are chosen on the "
            "validation split after training, and the run keeps them"
        )
    if model.threshold not in (None, "auto"):
        read_threshold(model.threshold)
    check_best_model(model, training)


def check_numbers(model: ModelArguments, training: TrainingArguments) -> None:
    """Exit with status 2 on numbers that the library would take and that have no meaning."""
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        check_at_least(name, getattr(training, name), 1)
    for name in ("gradient_accumulation_steps", "eval_accumulation_steps"):
        check_at_least(name, getattr(training, name), 1)
    for name in ("learning_rate", "warmup_steps", "weight_decay"):
        check_at_least(name, getattr(training, name), 0)
    for name in ("seed", "data_seed"):
        value = getattr(training, name)
        if value is not None and not 0 <= value < 2**32:
            fail(f"--{name} must be between 0 and 2**32 - 1, not {value}")
    check_at_least("pad_to_multiple_of", model.pad_to_multiple_of, 1)
    check_at_least("preprocessing_num_workers", model.preprocessing_num_workers, 1)
    if model.attention_dropout is not None and not 0 <= model.attention_dropout < 1:
        fail(f"--attention_dropout must be at least 0 and below 1, not {model.attention_dropout}")
    check_at_least("early_stopping_patience", model.early_stopping_patience, 0)
    for name in ("logging_steps", "eval_steps", "save_steps"):  # below 1: a share of all steps
        value = getattr(training, name)
        if value is not None and value <= 0:
            fail(f"--{name} must be positive, not {value:g}")
    if not 0 <= training.label_smoothing_factor < 1:
        fail(
            f"--label_smoothing_factor must be at least 0 and below 1, "
            f"not {training.label_smoothing_factor}"
        )
    if training.max_steps == 0 or training.max_steps < -1:
        fail(f"--max_steps must be at least 1, or -1 for no limit, not {training.max_steps}")
    if training.max_steps == -1 and not 0 < training.num_train_epochs < math.inf:
        fail(f"--num_train_epochs must be positive, not {training.num_train_epochs}")


def check_best_model(model: ModelArguments, training: TrainingArguments) -> None:
    """Exit with status 2 on flags by which the best model would not be found or not be kept."""
    metric = (training.metric_for_best_model or "").removeprefix("eval_")
    if metric in BEST_MODEL_METRICS:
        is_greater_better = metric not in LOSSES
        if training.greater_is_better not in (None, is_greater_better):
            fail(
                f"--greater_is_better {str(not is_greater_better).lower()} would keep the model "
                f"with the worst {metric}; leave it out"
            )
    elif not model.metric_name:  # see check_metric_for_best_model
        names = ", ".join(BEST_MODEL_METRICS)
        fail(f"--metric_for_best_model must be one of {names}, not {metric!r}")
    if training.do_train and training.eval_strategy == "no" and model.early_stopping_patience:
        fail(
            "early stopping needs evaluations; give --early_stopping_patience 0 "
            "with --eval_strategy no"
        )
    saves_other_steps = (
        training.eval_strategy == "steps"
        and training.save_strategy == "steps"
        and training.save_steps != training.eval_steps
    )
    if training.do_train and training.load_best_model_at_end and saves_other_steps:
        fail(
            f"--save_steps {training.save_steps:g} must equal "
            f"--eval_steps {training.eval_steps:g}, "
            "or the best model would not be saved; or give --save_strategy best, or "
            "--load_best_model_at_end false"
        )


def check_at_least(name: str, value: float | None, least: int) -> None:
    """Exit with status 2 if a number is smaller, infinite or NaN; None stands for a default."""
    if value is not None and not least <= value < math.inf:
        fail(f"--{name} must be at least {least}, not {value}")


def read_threshold(text: str) -> float:
    """Return a threshold of probabilities. Exit with status 2 if it is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        fail(f"--threshold must be auto or a number between 0 and 1, not {text}")
    return value


# 2. Texts, classes, model


def load_config(arguments: ModelArguments) -> PretrainedConfig:
    """Return the configuration of the model. Exit with status 2 if there is none that can be used.

    No code of a model folder is run: one that needs it is refused.
    """
    source = arguments.model_name_or_path
    try:
        config = AutoConfig.from_pretrained(
            source, revision=arguments.model_revision, trust_remote_code=False
        )
    except Exception as error:  # the library checks every value, and the Hub's client has its kinds
        reason = one_line(error)
        if Path(source, "model.skops").exists():
            reason = "it is an SVM of run_baseline.py, which predicts with it; give an encoder"
        fail(f"cannot load model {source}: {reason}")
    # The encoder of a T5 alone is called none, but its class gets a decoder of random weights.
    if config.is_encoder_decoder or type(config).is_encoder_decoder:
        fail(
            f"cannot load model {source}: it is an encoder-decoder model, or a part of one; "
            "choose an encoder or a decoder"
        )
    # Some checkpoints ask for more than the logits, which the Trainer would collect for all
    # documents, or for tuples, which have no names.
    config.output_hidden_states = False
    config.output_attentions = False
    config.return_dict = True
    return config


def use_settings_of_run(
    model: ModelArguments,
    data: DataArguments,
    config: PretrainedConfig,
    used: dict | None,
) -> None:
    """Fill in what was not given of texts, labels and splits: as in training, or its defaults.

    used is the record of the run that predicts; None if this command trains.
    """
    given_delimiter = data.text_column_delimiter
    for name, default in TEXT_SETTINGS.items():
        arguments = data if hasattr(data, name) else model
        given = getattr(arguments, name)
        value = default if given is None else given
        trained = getattr(config, name, None)
        if used is not None and isinstance(trained, type(default)):
            if given is None:
                value = trained
            elif given != trained:
                logger.warning("--%s %r: the model was trained with %r", name, given, trained)
        setattr(arguments, name, value)
    check_delimiter(given_delimiter, split_names(data.text_column_names))
    recorded = used["arguments"] if used is not None else {}
    use_splits_of_run(data, used)
    if data.label_column_name is None:
        data.label_column_name = recorded.get("label_column_name") or "label"
    if data.label_names is None:  # they name numbers, or restrict lists, as in training
        data.label_names = recorded.get("label_names")
    # Labels of a CSV file cannot be lists; the run knows what is between them.
    delimiter = getattr(config, "label_delimiter", None)
    is_csv = (data.test_file or data.validation_file or "").lower().endswith((".csv", ".tsv"))
    if used is not None and data.label_delimiter is None and is_csv and isinstance(delimiter, str):
        data.label_delimiter = delimiter


def use_splits_of_run(data: DataArguments, used: dict | None) -> None:
    """Hold out the documents that the run held out: it was trained on the others.

    used is the record of the run that predicts; None if this command trains. Exits with status 2 on
    another value if the data has the same name.
    """
    recorded = used["arguments"] if used is not None else {}
    defaults = dict(SPLIT_SETTINGS)
    if recorded:  # earlier versions drew these splits with --seed
        defaults["split_seed"] = recorded.get("seed", defaults["split_seed"])
    trained = {name: recorded.get(name, default) for name, default in defaults.items()}
    source = data.dataset_name or data.train_file
    is_same_data = bool(recorded and source) and public_name(source) == used.get("dataset_name")
    for name, value in trained.items():
        given = getattr(data, name)
        if is_same_data and given is not None and given != value:
            fail(
                f"--{name} {given}: the model was trained with {value} on data of this name, so "
                "another split would contain texts that it was trained on; leave the flag out, or "
                "rename the data if it is different"
            )
        # For other data, the flags of this command decide what is held out. The usual fraction
        # stays None here: read_tables refuses a fraction beside a validation split.
        is_usual = name == "validation_fraction" and value == VALIDATION_FRACTION
        if given is None and (name == "split_seed" or (is_same_data and not is_usual)):
            setattr(data, name, value)


def check_split_flags(given: dict, used: dict | None, loaded: "LoadedData") -> None:
    """Exit with status 2 on flags of SPLIT_SETTINGS that were given and that drew nothing.

    A command that only predicts may repeat the flags of its training, whose record is used.
    """
    recorded = used["arguments"] if used is not None else {}
    new = {name for name, value in given.items() if value not in (None, recorded.get(name))}
    if "split_seed" in new and not loaded.held_out:
        fail("--split_seed: no split is taken from training; leave it out")
    if "validation_fraction" in new and "validation" not in loaded.held_out:
        fail("--validation_fraction: no validation split is taken from training; leave it out")
    if "test_fraction" in new and not loaded.held_out:
        fail("--test_fraction: no split is taken from training; leave it out")


def check_loss_of_run(model: ModelArguments, training: TrainingArguments, used: dict) -> None:
    """Exit with status 2 on flags of the loss that are not those of the run that predicts (used).

    Its losses are measured as in its training.
    """
    for holder, name, default in (
        (model, "class_weights", "none"),
        (training, "label_smoothing_factor", 0.0),
    ):
        given = getattr(holder, name)
        if given not in (default, used["arguments"].get(name, default)):
            fail(f"--{name} {given}: nothing is trained; leave it out")


# Copied from run_attribution.py::read_training_record
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


def has_generic_names(config: PretrainedConfig) -> bool:
    """Return whether a model's classes are called LABEL_0, LABEL_1, ...: nobody named them."""
    return all(re.fullmatch(r"LABEL_\d+", str(name)) for name in config.id2label.values())


def differing_classes(source: str, theirs: Collection[str], ours: Collection[str]) -> str:
    """Return what differs between the classes of a model (theirs) and of a dataset (ours)."""
    parts = []
    for owner, names in (
        ("the dataset", [name for name in ours if name not in theirs]),
        ("the model", [name for name in theirs if name not in ours]),
    ):
        if names:
            shown = ", ".join(repr(name) for name in names[:5])
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            parts.append(f"only {owner} has {shown}{more}")
    return f"the classes of {source} and of the dataset differ: {'; '.join(parts)}"


# ADAPT: the classes. A regression has none: run_stages() then sets config.num_labels to 1 instead.
def set_classes(
    config: PretrainedConfig,
    source: str,
    names: list[str],
    label_names: list[str] | None,
    do_train: bool,
) -> None:
    """Give the configuration the classes of the data (names), matched by name, never by number.

    A classifier with the same classes keeps their order, and with it the rows of its head. Exits
    with status 2 if a model that is not trained lacks a class of the data.
    """
    known = [config.id2label[number] for number in sorted(config.id2label)]
    if has_generic_names(config) and label_names and len(label_names) == len(known):
        known = list(label_names)
    if set(known) == set(names):
        classes = known
    elif do_train:
        classes = names
        if not has_generic_names(config):
            logger.warning(
                "%s; the head is trained for the dataset's", differing_classes(source, known, names)
            )
    elif set(names) <= set(known):
        classes = known  # the data lack a class
    elif has_generic_names(config):
        fail(
            f"{differing_classes(source, known, names)}; name the model's {len(known)} classes "
            "with --label_names, in the order of their numbers"
        )
    else:
        remedy = "write the labels as the model does, or train a model on these"
        if config.problem_type == MULTI_LABEL:
            remedy += "; --label_names with the model's classes leaves out other names in lists"
        fail(f"{differing_classes(source, known, names)}; {remedy}")
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: number for number, name in enumerate(classes)}


def forget_other_task(config: PretrainedConfig) -> None:
    """Remove what a checkpoint's earlier task left in its configuration.

    With another problem_type, for example, pipeline() would apply a sigmoid instead of a softmax.
    """
    config.problem_type = None
    for name in (
        "task_specific_params",
        "finetuning_task",
        "thresholds",
        "threshold",
        "label_delimiter",
    ):
        vars(config).pop(name, None)


@dataclass
class Task:
    """What is predicted, and how it follows from the probabilities."""

    classes: list[str]  # in the order of the model
    problem_type: str  # SINGLE_LABEL or MULTI_LABEL
    # Several labels per document: the least probability of a label, for every class
    thresholds: list[float] | None = None
    # While training with --threshold auto, those that are best for F1 are chosen in each evaluation
    chooses_thresholds: bool = False


def make_task(
    arguments: ModelArguments, config: PretrainedConfig, loaded: "LoadedData", used: dict | None
) -> Task:
    """Return what is predicted: what the data has, or without training what the model does.

    used is the record of the run that predicts; None if this command trains. Exits with status 2 if
    data and model do not agree, if --threshold has no meaning, or if thresholds were never chosen.
    """
    source = arguments.model_name_or_path
    problem_type = loaded.problem_type
    do_train = used is None
    if not do_train:
        problem_type = config.problem_type or SINGLE_LABEL
        if problem_type not in (SINGLE_LABEL, MULTI_LABEL) or config.num_labels < 2:
            fail(
                f"{source} does not choose among several classes ({config.problem_type or 'one'} "
                "output); choose another model, or train it with --do_train"
            )
        is_labeled = any("label" in split.column_names for split in loaded.splits.values())
        if is_labeled and problem_type != loaded.problem_type:
            fail(
                f"{source} is a model for {problem_type}, and the labels are those of "
                f"{loaded.problem_type}: see --label_column_name and --label_delimiter, or train "
                "it with --do_train"
            )
    task = Task([config.id2label[number] for number in sorted(config.id2label)], problem_type)
    threshold = arguments.threshold
    if problem_type == SINGLE_LABEL:
        if threshold is not None:
            fail("--threshold requires several labels per document; leave it out")
        return task

    trained = None if do_train else getattr(config, "thresholds", None)
    if threshold not in (None, "auto"):
        task.thresholds = [read_threshold(threshold)] * len(task.classes)
        if trained is not None and trained != task.thresholds:
            logger.warning("--threshold %s: the model has its own, %s", threshold, trained)
    elif trained is not None:
        task.thresholds = check_thresholds(trained, len(task.classes), source)
    elif not do_train and used["arguments"].get("threshold") == "auto":
        fail(
            f"{source} has no thresholds: its training was interrupted before it chose them, or it "
            "is a checkpoint; run the training command again, or give --threshold"
        )
    else:
        task.thresholds = [0.5] * len(task.classes)
        task.chooses_thresholds = threshold == "auto"
    return task


def check_thresholds(thresholds: object, n_classes: int, source: str) -> list[float]:
    """Return the thresholds of a model's config.json. Exit with status 2 if they are none."""
    is_right = isinstance(thresholds, list) and len(thresholds) == n_classes
    for threshold in thresholds if is_right else ():
        is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        is_right = is_right and is_number and 0 <= threshold <= 1
    if not is_right:
        fail(
            f"thresholds in config.json of {source} must be {n_classes} numbers between 0 and 1; "
            "correct them, or give --threshold"
        )
    return thresholds


# ADAPT: the model and its head. For LoRA, return peft.get_peft_model(model, ...) here.
def load_model(
    arguments: ModelArguments, config: PretrainedConfig, do_train: bool, device: torch.device
) -> PreTrainedModel:
    """Return the classifier, in fp32 for mixed precision; only safetensors are read, no pickle.

    Where training finds no head of the right size in the checkpoint, it is initialized at random.
    Exits with status 2 if a model that is not trained lacks weights.
    """
    # Its name in BERT, in newer encoders and in GPT-2
    names = [
        name
        for name in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
        if hasattr(config, name)
    ]
    if arguments.attention_dropout is not None:
        if not names:
            fail(f"--attention_dropout is not known for models of type {config.model_type}")
        config.update(dict.fromkeys(names, arguments.attention_dropout))
    dropout = max((getattr(config, name) or 0 for name in names), default=0)
    attention = arguments.attn_implementation
    if attention is None and dropout > 0 and do_train and device.type == "cpu":
        attention = "eager"
        logger.info(
            "attention: eager, which is faster than sdpa on a CPU with attention dropout %g",
            dropout,
        )
    source = arguments.model_name_or_path
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source,
            config=config,
            revision=arguments.model_revision,
            attn_implementation=attention,
            dtype=torch.float32,
            ignore_mismatched_sizes=do_train,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        # RuntimeError: weights of another size
        reason = one_line(error)
        if "ignore_mismatched_sizes" in reason:
            reason = "its weights have other sizes than its config.json says"
        if list(Path(source).glob("pytorch_model*.bin")):
            reason += "; its weights are a pickle, which is not loaded: convert them to safetensors"
        fail(f"cannot load model {source}: {reason}")
    missing = sorted(loading["missing_keys"])
    if missing and not do_train:
        fail(
            f"{source} is not a trained classifier: it lacks {len(missing)} weights "
            f"({', '.join(missing[:3])}); train it with --do_train, or predict with the script "
            "that trained it"
        )
    return model


def load_tokenizer(
    arguments: ModelArguments, model: PreTrainedModel, do_train: bool
) -> PreTrainedTokenizerBase:
    """Return the tokenizer, checked against the model; tell the model which token is padding.

    For training, tokens that were added to the tokenizer get embeddings.
    """
    source = arguments.tokenizer_name or arguments.model_name_or_path
    # The revision of the model says nothing about another repository.
    is_of_model = source == arguments.model_name_or_path
    revision = arguments.model_revision if is_of_model else "main"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises Exception itself
        reason = one_line(error)
        if "tiktoken" in reason and not is_sentencepiece_available():
            # transformers tries tiktoken last, whatever the file is, and asks for that package.
            reason = (
                "it has no tokenizer.json; where its vocabulary is a SentencePiece model, as that "
                "of DeBERTa-v3: pip install sentencepiece protobuf"
            )
        fail(f"cannot load tokenizer {source}: {reason}")
    # Without files transformers makes an empty tokenizer.
    if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        fail(f"cannot load tokenizer {source}: it has no files; give --tokenizer_name")
    if tokenizer.pad_token is None:
        # GPT-2, Llama: their end-of-text token, which no text holds, as is usual
        if tokenizer.eos_token is None:
            fail(
                f"cannot use tokenizer {source}: it has no padding token and no EOS token in its "
                "place; give --tokenizer_name"
            )
        tokenizer.pad_token = tokenizer.eos_token
        logger.info("no padding token: %r is used", tokenizer.eos_token)
    # The head of a decoder reads the last token that is not padding.
    model.config.pad_token_id = tokenizer.pad_token_id
    # Padding on the left, as for generation, would shift the positions of a text by the length of
    # its neighbors; XLNet's head reads the last position, which must not be padding.
    side = "left" if model.config.model_type == "xlnet" else "right"
    if tokenizer.padding_side != side:
        tokenizer.padding_side = side
        logger.info("batches are padded on the %s", side)
    embeddings = count_embeddings(model)
    if embeddings is None:
        return tokenizer
    vocabulary = tokenizer.get_vocab()
    largest = max(vocabulary.values())
    unknown = {token for token, number in vocabulary.items() if number >= embeddings}
    if unknown and do_train and unknown <= tokenizer.get_added_vocab().keys():
        # Words that somebody added to the tokenizer of a pretrained model
        model.resize_token_embeddings(largest + 1)
        logger.info("%d added tokens get new embeddings", len(unknown))
    elif unknown:
        fail(
            f"tokenizer {source} has tokens up to number {largest} and the model has {embeddings} "
            "embeddings; give the model's --tokenizer_name, or resize its embeddings "
            "(model.resize_token_embeddings) and save it"
        )
    return tokenizer


def count_embeddings(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model has embeddings of; None without a table (CANINE hashes)."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:  # transformers' answer for models without such a layer
        return None
    return table.num_embeddings if isinstance(table, torch.nn.Embedding) else None


def max_length_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return how many tokens of a text a model reads at most; None if it has no limit."""
    limits = [tokenizer.model_max_length]  # a very large number if nobody set it
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions > 0:  # XLNet has no limit: -1
        # RoBERTa counts positions from padding_idx + 1, so its table is longer than its texts.
        reserved = 0
        for name, module in model.named_modules():
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None):
                reserved = max(reserved, module.padding_idx + 1)
        limits.append(positions - reserved)
    limit = min(limits)
    return limit if limit < VERY_LARGE_INTEGER else None


def padded_length(length: int, multiple: int) -> int:
    """Return the length that is padded to a multiple."""
    return math.ceil(length / multiple) * multiple


def choose_padding(
    arguments: ModelArguments, training: TrainingArguments, limit: int | None
) -> int | None:
    """Return the multiple that the lengths of batches are padded to, or None.

    limit is the maximum number of tokens of the model.
    """
    if arguments.pad_to_multiple_of is not None or training.mixed_precision == "no":
        return arguments.pad_to_multiple_of
    if limit is not None and padded_length(arguments.max_seq_length, 8) > limit:
        return None
    return 8  # the sizes that the units for half precision work with


def check_max_seq_length(
    arguments: ModelArguments, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Exit with status 2 if the model cannot read so many tokens, or has no use for windows."""
    length = arguments.max_seq_length
    limit = max_length_of(model, tokenizer)
    if length < 3 or (limit is not None and length > limit):
        most = "any number" if limit is None else f"{limit}, the model's maximum"
        fail(f"--max_seq_length {length} must be between 3 and {most}")
    multiple = arguments.pad_to_multiple_of
    if limit is not None and multiple is not None and padded_length(length, multiple) > limit:
        fail(
            f"--pad_to_multiple_of {multiple} pads texts of --max_seq_length {length} to more than "
            f"{limit} tokens, the model's maximum; lower one of them"
        )
    if window_size(tokenizer, arguments.text_prefix, length) < 1:
        fail(
            f"--text_prefix fills --max_seq_length {length}, so that all texts would be the same; "
            "raise it"
        )
    if arguments.long_texts == "truncate":
        return
    if limit is None:
        fail(
            f"--long_texts windows is for models with a maximum length, and "
            f"{arguments.model_name_or_path} has none: raise --max_seq_length instead"
        )
    if not tokenizer.is_fast:  # the others do not tell where in the text a token stands
        fail(
            "--long_texts windows requires a tokenizer of the tokenizers library, not "
            f"{type(tokenizer).__name__}; leave it out"
        )
    if window_size(tokenizer, arguments.text_prefix, length) < 2:
        fail(f"--max_seq_length {length} leaves no room for a window; raise it")


# ADAPT: the preprocessing, such as pairs of texts, or the end of a text instead of its start.
def preprocess(
    rows: dict,
    tokenizer: PreTrainedTokenizerBase,
    text_prefix: str,
    max_seq_length: int,
    labels: list[int | float],
    n_classes: int,
) -> dict:
    """Tokenize rows of text and, if there is one, label.

    labels[n] is what the model, which has n_classes, calls class n of the dataset.
    """
    texts = [text_prefix + text for text in rows["text"]]
    encoded = dict(tokenizer(texts, truncation=True, max_length=max_seq_length))
    if "label" in rows:
        encoded["labels"] = [encode_label(label, labels, n_classes) for label in rows["label"]]
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]  # for batches of similar length
    return encoded


def encode_label(
    label: int | list[int], labels: list[int | float], n_classes: int
) -> int | float | list[float]:
    """Return the model's number of a class; of a list of classes, 1 or 0 for each of the model's.

    labels[n] is what the model calls class n of the dataset.
    """
    if not isinstance(label, list):
        return labels[label]
    has_class = [0.0] * n_classes  # floats, as the loss takes them
    for number in label:
        has_class[labels[number]] = 1.0
    return has_class


def encode_splits(
    splits: DatasetDict, encode: functools.partial, arguments: ModelArguments
) -> DatasetDict:
    """Return all splits preprocessed, and log how many of their texts have the maximum length.

    encode is preprocess() with its arguments.
    """
    encoded = DatasetDict()
    for split, dataset in splits.items():
        encoded[split] = dataset.map(
            encode,
            batched=True,
            desc="Tokenizing",
            remove_columns=dataset.column_names,
            num_proc=arguments.preprocessing_num_workers,
        )
    for split, dataset in encoded.items():
        is_long = np.array(dataset["length"]) >= arguments.max_seq_length
        logger.info(
            "%s: %s documents, %.0f %% have the maximum length",
            split,
            f"{len(dataset):,}",
            100 * is_long.mean(),
        )
    return encoded


def window_size(tokenizer: PreTrainedTokenizerBase, text_prefix: str, max_seq_length: int) -> int:
    """Return how many tokens of a text fit beside the prefix and the special tokens."""
    n_prefix = len(tokenizer(text_prefix, add_special_tokens=False)["input_ids"])
    return max_seq_length - n_prefix - tokenizer.num_special_tokens_to_add()


def cut_into_windows(
    rows: dict, tokenizer: PreTrainedTokenizerBase, text_prefix: str, max_seq_length: int
) -> dict:
    """Cut long texts into windows that the model reads whole; a short text is one window.

    A window has the maximum number of tokens and starts in the middle of the one before; the last
    one ends with the text. Windows are texts, so that the preprocessing is that of any text. One
    that starts inside a word may be tokenized differently there, and end a token earlier.
    Returns the columns text and document, the number of the row of the dataset that it is from.
    """
    size = window_size(tokenizer, text_prefix, max_seq_length)
    encoded = tokenizer(
        rows["text"],
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,  # it would warn of long texts
    )
    windows = {"text": [], "document": []}
    for document, text, offsets in zip(
        rows["document"], rows["text"], encoded["offset_mapping"], strict=True
    ):
        last = len(offsets) - size
        if last <= 0:
            starts = []
            windows["text"].append(text)
        else:
            starts = [*range(0, last, size // 2), last]
        for start in starts:
            first_character = offsets[start][0]
            end_character = offsets[start + size - 1][1]
            windows["text"].append(text[first_character:end_character])
        windows["document"] += [document] * max(len(starts), 1)
    return windows


def encode_windows(split: Dataset, encode: functools.partial) -> Dataset:
    """Return the windows of all texts of a split, preprocessed, with the column document.

    encode is preprocess() with its arguments; labels belong to documents and are left out.
    """
    texts = split.select_columns("text").add_column("document", range(len(split)))
    settings = {
        name: encode.keywords[name] for name in ("tokenizer", "text_prefix", "max_seq_length")
    }
    windows = texts.map(
        cut_into_windows, batched=True, remove_columns=texts.column_names, fn_kwargs=settings
    )
    return windows.map(encode, batched=True, desc="Tokenizing windows", remove_columns="text")


# 3. Loss, metrics, predictions


def balanced_weights(labels: np.ndarray, n_classes: int) -> torch.Tensor:
    """Return a weight per class, shape (classes,).

    One label: the inverse of a class's frequency, 1 on average. Several labels, where labels is
    (documents, classes), the weight of a document with the class: how many there are without it for
    one with it.
    """
    if labels.ndim == 2:
        counts = labels.sum(axis=0)
        weights = (len(labels) - counts) / np.maximum(counts, 1)
    else:
        counts = np.bincount(labels, minlength=n_classes)
        n_used = (counts > 0).sum()
        weights = counts.sum() / n_used / np.maximum(counts, 1)
    return torch.tensor(weights, dtype=torch.float32)


def describe_loss(
    arguments: ModelArguments,
    training: TrainingArguments,
    task: Task,
    encoded: DatasetDict,
    used: dict | None,
) -> dict:
    """Return class weights (class -> weight) and label smoothing, as the record has them.

    used is the record of the run that predicts, whose loss is measured; None if this command
    trains.
    """
    if used is not None and "loss" in used:
        weights = used["loss"]["class_weights"].values()
        # In the model's order; its classes may have got other names since.
        if len(weights) == len(task.classes):
            return used["loss"] | {"class_weights": dict(zip(task.classes, weights, strict=True))}
    weight = torch.ones(len(task.classes))
    if training.do_train and arguments.class_weights == "balanced":
        weight = balanced_weights(np.array(encoded["train"]["labels"]), len(task.classes))
    return {
        "class_weights": dict(zip(task.classes, weight.tolist(), strict=True)),
        "label_smoothing_factor": training.label_smoothing_factor,
    }


# ADAPT: the loss, such as a focal loss.
def compute_loss(
    outputs: transformers.utils.ModelOutput,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    *,
    weight: torch.Tensor,
    label_smoothing: float,
) -> torch.Tensor:
    """Return the mean cross-entropy over the documents of an optimizer step.

    With several labels per document, where labels is (documents, classes), it is the mean of the
    binary cross-entropy over the documents and classes. The loss is summed and divided by the
    number of labels of all accumulated batches. transformers 5.23 would count a BERT classifier's
    own loss, a mean over a batch, once per accumulated batch.
    """
    weight = weight.to(outputs.logits)
    if labels.ndim == 2:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            outputs.logits,
            labels.to(outputs.logits) * (1 - label_smoothing) + label_smoothing / 2,
            pos_weight=weight,
            reduction="sum",
        )
    else:
        loss = torch.nn.functional.cross_entropy(
            outputs.logits, labels, weight, reduction="sum", label_smoothing=label_smoothing
        )
    n_labels = labels.numel() if num_items_in_batch is None else num_items_in_batch
    return loss / n_labels


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


# What else an evaluation reports
TRAINER_METRICS = (
    "loss", "runtime", "samples", "samples_per_second", "steps_per_second", "windows",
)  # fmt: skip

# ADAPT: the metrics. A new one is computed in evaluate_logits and named here.
BEST_MODEL_METRICS = ("loss", *METRICS)


def evaluate_logits(
    output: EvalPrediction, task: Task, more_metrics: list["LoadedMetric"]
) -> dict[str, float]:
    """Return the metrics of the validation or test split."""
    if not np.isfinite(output.predictions).all():
        return {}  # RunMonitor ends the run
    if task.chooses_thresholds:
        task = choose_task_thresholds(task, output.predictions, output.label_ids)
    scores, predictions = make_predictions(output.predictions, task)
    labels = output.label_ids.astype(int)
    metrics = compute_scores(
        labels, predictions, scores, task.classes, task.problem_type, are_probabilities=True
    )
    for metric in more_metrics:
        metrics |= compute_metric(metric, labels, predictions, scores)
    return metrics


# ADAPT: from logits to predictions, such as another rule than a threshold.
def make_predictions(logits: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities, shape (documents, classes), and predictions.

    Predictions are the number of a class for every document, or with several labels per document
    1 or 0 for each class, (documents, classes).
    """
    logits = torch.tensor(logits, dtype=torch.float64)
    scores = logits.sigmoid() if task.problem_type == MULTI_LABEL else logits.softmax(dim=1)
    scores = scores.numpy()
    return scores, predict_labels(scores, task.problem_type, task.thresholds)


def choose_task_thresholds(task: Task, logits: np.ndarray, labels: np.ndarray) -> Task:
    """Return the task with the thresholds that are best for the F1 of every class on these."""
    scores, _ = make_predictions(logits, task)
    thresholds = choose_thresholds(labels.astype(int), scores)
    return dataclasses.replace(task, thresholds=thresholds, chooses_thresholds=False)


# Copied from tools/common/data.py::SINGLE_LABEL
SINGLE_LABEL = "single_label_classification"  # transformers' names of a problem_type


# Copied from tools/common/data.py::MULTI_LABEL
MULTI_LABEL = "multi_label_classification"


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


# Copied from tools/common/metrics.py::class_f1
def class_f1(
    labels: np.ndarray, predictions: np.ndarray, n_classes: int, problem_type: str
) -> np.ndarray:
    """Return the F1 of every class, shape (classes,); undefined values count as 0."""
    numbers = None if problem_type == MULTI_LABEL else range(n_classes)
    return f1_score(labels, predictions, labels=numbers, average=None, zero_division=0)


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


@dataclass
class LoadedMetric:
    """A metric of the package evaluate."""

    name: str
    module: object  # evaluate.EvaluationModule; load_metrics imports the package if it is needed
    takes_scores: bool  # probabilities instead of predictions
    options: dict[str, str]


def load_metrics(names: list[str], task: Task) -> list[LoadedMetric]:
    """Load metrics of the package evaluate: a name on the Hub, or a folder with the code.

    Each is tried on a few labels. Exits with status 2 if one cannot be loaded or computed, does not
    return a finite number, or repeats a name that another returns.
    """
    if not names:
        return []
    try:
        import evaluate  # here, because starting without it is faster
    except ImportError:
        fail("--metric_name requires the package evaluate: pip install evaluate")
    several = task.problem_type == MULTI_LABEL
    n_classes = len(task.classes)
    labels = np.eye(n_classes, dtype=int) if several else np.arange(n_classes)
    loaded = []
    taken = {}
    for name in names:
        configuration = "multilabel" if several else None
        try:
            module = evaluate.load(name, configuration, keep_in_memory=True)
            takes_scores = "prediction_scores" in module.features
            if takes_scores and not several and n_classes > 2:
                module = evaluate.load(name, "multiclass", keep_in_memory=True)
        except Exception as error:  # whatever the code of the metric raises
            fail(
                f"cannot load --metric_name {name}: {one_line(error)}; a name requires the Hub, "
                "and a folder must hold a file with its name and .py"
            )
        parameters = inspect.signature(module._compute).parameters
        options = {"average": "macro", "multi_class": "ovr"}
        options = {key: value for key, value in options.items() if key in parameters}
        if several:
            options.pop("multi_class", None)
        metric = LoadedMetric(name, module, takes_scores, options)
        for key in compute_metric(metric, labels, labels, np.eye(n_classes)):
            if key in TRAINER_METRICS:
                fail(f"--metric_name {name} returns {key!r}, which the Trainer reports; rename it")
            if key in taken:
                fail(f"--metric_name {taken[key]} and {name} both return {key!r}; leave one out")
            taken[key] = name
        loaded.append(metric)
    return loaded


def compute_metric(
    metric: LoadedMetric, labels: np.ndarray, predictions: np.ndarray, scores: np.ndarray
) -> dict[str, float]:
    """Return the numbers that a metric of the package evaluate gives, without built-in names.

    Exits with status 2 if it cannot be computed, if there is none, or one is NaN or infinite.
    """
    values = {"predictions": predictions}
    if metric.takes_scores:
        is_binary = labels.ndim == 1 and scores.shape[1] == 2
        values = {"prediction_scores": scores[:, 1] if is_binary else scores}
    try:
        results = metric.module.compute(references=labels, **values, **metric.options)
    except Exception as error:  # whatever the code of the metric raises
        fail(f"cannot compute --metric_name {metric.name}: {one_line(error)}")
    numbers = {}
    for key, value in (results or {}).items():
        if isinstance(value, int | float | np.number) and not isinstance(value, bool):
            numbers[str(key)] = float(value)
    if not numbers:
        fail(f"--metric_name {metric.name} does not return a number: {results}")
    for key, value in numbers.items():
        if not math.isfinite(value):
            fail(f"--metric_name {metric.name} returns {value} for {key!r}, not a finite number")
    return {key: value for key, value in numbers.items() if key not in METRICS}


def check_metric_for_best_model(
    training: TrainingArguments, task: Task, more_metrics: list[LoadedMetric]
) -> list[str]:
    """Return the names of the metrics that an evaluation gives: tried on a document per class.

    Exits with status 2 if --metric_for_best_model is none of them.
    """
    n_classes = len(task.classes)
    labels = np.arange(n_classes)
    if task.problem_type == MULTI_LABEL:
        labels = np.eye(n_classes)
    logits = 9 * np.eye(n_classes)
    names = ["loss", *evaluate_logits(EvalPrediction(logits, labels), task, more_metrics)]
    metric = (training.metric_for_best_model or "").removeprefix("eval_")
    if training.do_train and metric not in names:
        fail(f"--metric_for_best_model must be one of {', '.join(names)} here, not {metric!r}")
    return names


def predict_in_order(trainer: Trainer, dataset: Dataset, prefix: str) -> tuple[np.ndarray, dict]:
    """Return logits of shape (documents, classes) in dataset order, and runtimes as metrics.

    In a dataset of windows, the column document numbers the document of a window; the logits of its
    windows are averaged.
    """
    # Batches hold documents of similar length. The Trainer's own grouping would leave the rows in
    # that order.
    trainer.args.train_sampling_strategy = "random"
    order = np.argsort(-np.array(dataset["length"]), kind="stable")
    rows = dataset.select(order)
    if "labels" in rows.column_names:  # score_logits measures
        rows = rows.remove_columns("labels")
    output = trainer.predict(rows, metric_key_prefix=prefix)
    logits = output.predictions[np.argsort(order)]
    if not np.isfinite(logits).all():
        fail(
            f"the model gives NaN or infinite logits ({prefix}); "
            "train it again with a lower --learning_rate"
        )
    metrics = output.metrics
    if "document" in dataset.column_names:
        documents = np.array(dataset["document"])
        n_windows = np.bincount(documents)
        sums = np.zeros((len(n_windows), logits.shape[1]))
        np.add.at(sums, documents, logits)
        logits = (sums / n_windows[:, None]).astype(logits.dtype)
        metrics[f"{prefix}_windows"] = len(documents)
        seconds = metrics[f"{prefix}_runtime"]
        metrics[f"{prefix}_samples_per_second"] = round(len(logits) / seconds, 3)
    metrics[f"{prefix}_samples"] = len(logits)
    return logits, metrics


def score_logits(
    trainer: Trainer, logits: np.ndarray, labels: np.ndarray, prefix: str
) -> dict[str, float]:
    """Return the loss and the metrics of a split; the names start with the prefix.

    The Trainer's own loss is a mean over batches, which depends on their size and on the number of
    processes.
    """
    # A sum over all documents is too large for float16.
    outputs = transformers.utils.ModelOutput(logits=torch.tensor(logits, dtype=torch.float64))
    loss = trainer.compute_loss_func(outputs, torch.tensor(labels))
    metrics = trainer.compute_metrics(EvalPrediction(logits, labels))
    return {f"{prefix}_{key}": value for key, value in {"loss": loss.item(), **metrics}.items()}


def save_metrics(trainer: Trainer, prefix: str, metrics: dict) -> None:
    """Write all_results.json and PREFIX_results.json as the Trainer does, but each as a whole.

    The Trainer's own would be cut off in a run that is killed while it writes. The file of the step
    is written last: with it, the step counts as finished.
    """
    if not trainer.is_world_process_zero():
        return
    folder = Path(trainer.args.output_dir)
    together = folder / "all_results.json"
    known = json.loads(together.read_text(encoding="utf-8")) if together.exists() else {}
    for path, content in (
        (together, known | metrics),
        (folder / f"{prefix}_results.json", metrics),
    ):
        write(path, json.dumps(content, indent=4, sort_keys=True))


def predictions_table(
    test: Dataset, names: list[str], logits: np.ndarray, task: Task
) -> pd.DataFrame:
    """Return the columns id, label, prediction and a score per class, in dataset order.

    names are the classes in the order of the dataset's numbers. Several labels are a JSON list of
    names; without labels there is no such column.
    """
    scores, predictions = make_predictions(logits, task)
    columns = {"id": test["id"]}
    if "label" in test.column_names:
        columns["label"] = [name_classes(label, names) for label in test["label"]]
    if task.problem_type == MULTI_LABEL:
        predictions = [np.flatnonzero(row).tolist() for row in predictions]
    columns["prediction"] = [name_classes(numbers, task.classes) for numbers in predictions]
    # A class may be called label, so the columns are not assigned by name.
    return pd.concat([pd.DataFrame(columns), pd.DataFrame(scores, columns=task.classes)], axis=1)


def name_classes(numbers: int | list[int], names: list[str]) -> str:
    """Return the name of a class, or the names of several as a JSON list."""
    if isinstance(numbers, list):
        return json.dumps([names[number] for number in numbers], ensure_ascii=False)
    return names[numbers]


def find_collapse(labels: np.ndarray, logits: np.ndarray, task: Task) -> str | None:
    """Return in words how a model has learned too little to be used, or None."""
    scores, predictions = make_predictions(logits, task)
    labels = labels.astype(int)
    if task.problem_type == MULTI_LABEL:
        never = np.flatnonzero(labels.any(axis=0) & ~predictions.any(axis=0)).tolist()
        simplest = np.ones_like(labels)
        rule = "predicting every class"
    else:
        never = sorted(set(labels.tolist()) - set(predictions.tolist()))
        simplest = np.full_like(labels, np.bincount(labels).argmax())
        rule = "predicting one class"
    if never:
        return f"never predicts {', '.join(repr(task.classes[number]) for number in never)}"

    def macro_f1(given: np.ndarray) -> float:
        measured = compute_scores(labels, given, scores, task.classes, task.problem_type, False)
        return measured["f1"]

    if np.array_equal(predictions, labels):  # e.g. a split of one class
        return None
    chance = macro_f1(simplest)
    if macro_f1(predictions) <= chance:
        return f"has a macro F1 no better than always {rule} ({100 * chance:.1f} %)"
    return None


# 4. Training: order of the documents, progress, checkpoints


def choose_accumulation_steps(training: TrainingArguments, n_documents: int) -> int:
    """Return the accumulation steps for the study's batch, fewer where documents are few.

    With 512 documents per update, 320 documents would be one update per epoch, and a model would
    learn nothing: an epoch has at least 10 updates where the batch of a step allows it.
    """
    per_step = training.train_batch_size * training.world_size
    study = max(1, round(STUDY_BATCH_SIZE / per_step))
    few = max(1, n_documents // (MIN_UPDATES_PER_EPOCH * per_step))
    return min(study, few)


def count_updates(training: TrainingArguments, n_documents: int) -> int:
    """Return the number of optimizer steps of the training, as the Trainer counts them."""
    if training.max_steps > 0:
        return training.max_steps
    batches = math.ceil(n_documents / (training.train_batch_size * training.world_size))
    per_epoch = math.ceil(batches / training.gradient_accumulation_steps)
    return math.ceil(training.num_train_epochs * per_epoch)


def announce_training(training: TrainingArguments, n_documents: int, total_batch: int) -> None:
    """Log how many updates there will be, and warn if these are few."""
    updates = count_updates(training, n_documents)
    logger.info(
        "training: up to %d updates with an effective batch size of %d (the study: %d)",
        updates,
        total_batch,
        STUDY_BATCH_SIZE,
    )
    if updates >= FEW_UPDATES:
        return
    if training.max_steps > 0:
        remedy = "raise --max_steps"
    elif training.gradient_accumulation_steps > 1:
        remedy = "lower --gradient_accumulation_steps or raise --num_train_epochs"
    else:
        remedy = "lower --per_device_train_batch_size or raise --num_train_epochs"
    logger.warning("few updates (%d): the model may not learn the task; %s", updates, remedy)


def order_by_seed(dataloader: torch.utils.data.DataLoader, seed: int, epoch: int) -> None:
    """Let the order of an epoch's documents depend on the seed and the epoch alone.

    Length grouping draws from the global generator, so a run that continues within an epoch would
    not see the documents that are left; batch_rebalance ignores the seed. accelerate's sampler for
    "random" and the sequential one are right already.
    """
    batch_sampler = dataloader.batch_sampler
    if isinstance(batch_sampler, BatchSamplerShard):  # with several processes
        batch_sampler = batch_sampler.batch_sampler
    if isinstance(batch_sampler, BatchRebalanceSampler):
        batch_sampler.seed = seed
    elif isinstance(batch_sampler.sampler, LengthGroupedSampler):
        batch_sampler.sampler.generator = torch.Generator().manual_seed(seed + epoch)


class RunMonitor(TrainerCallback):
    """Orders documents by seed and epoch, shows progress, ends a run with a NaN loss (status 2)."""

    def __init__(self) -> None:
        self.progress = None  # the Trainer's own progress callback
        self.first_step = None
        self.first_time = None
        self.logged_time = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.logged_time = time.time()
        # A checkpoint has the path of the best one. Where the run folder was moved, or the command
        # runs in another folder, nothing is there, and the Trainer would keep the last model.
        if state.best_global_step is not None:
            best = Path(args.output_dir, f"checkpoint-{state.best_global_step}")
            if best.is_dir():
                state.best_model_checkpoint = str(best)

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if self.first_step is None:
            self.first_step = state.global_step
            self.first_time = time.time()
        seed = args.seed if args.data_seed is None else args.data_seed
        epoch = int((state.epoch or 0) + 1e-6)
        order_by_seed(train_dataloader, seed, epoch)

    def on_step_end(self, args, state, control, **kwargs):
        self.log_at_checkpoints(control)
        if state.global_step == self.first_step + 10:
            seconds = (time.time() - self.first_time) / 10
            end = time.ctime(time.time() + seconds * (state.max_steps - state.global_step))
            logger.info(
                "%d updates of %.3g s: training takes until %s at most",
                state.max_steps,
                seconds,
                end,
            )
        bar = getattr(self.progress, "training_bar", None)
        if bar is not None:
            self.show_losses(bar, state)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.log_at_checkpoints(control)

    def log_at_checkpoints(self, control) -> None:
        """Log the loss up to every checkpoint, so that a continued run knows it (see mean_loss)."""
        if control.should_save or control.should_evaluate or control.should_training_stop:
            control.should_log = True

    def show_losses(self, bar, state) -> None:
        """Show the last losses and, as of the last checkpoint, the patience that is left."""
        shown = {}
        for entry in state.log_history:
            shown |= {
                key: entry[key] for key in ("loss", "eval_loss", "train_loss") if key in entry
            }
        stopping = state.stateful_callbacks.get("EarlyStoppingCallback")
        if stopping:
            used = stopping["attributes"]["early_stopping_patience_counter"]
            shown["patience"] = stopping["args"]["early_stopping_patience"] - used
        bar.set_postfix(shown)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            # Checkpoints keep the log, and with it the time of a run that was interrupted.
            now = time.time()
            state.log_history[-1]["seconds"] = round(now - self.logged_time, 3)
            self.logged_time = now
        for key in ("loss", "eval_loss"):
            if not math.isfinite(logs.get(key, 0.0)):
                self.progress.on_train_end(args, state, control)  # closes the bar
                fail(f"NaN or infinite loss at step {state.global_step}; lower --learning_rate")


def mean_loss(log_history: list[dict]) -> float | None:
    """Return the training loss averaged over all updates, those before an interruption, too.

    A checkpoint holds the log, so this is the same for an interrupted and an uninterrupted run.
    """
    total = 0.0
    last_step = 0
    for entry in log_history:
        if "loss" in entry:
            total += entry["loss"] * (entry["step"] - last_step)
            last_step = entry["step"]
    return total / last_step if last_step else None


def training_seconds(log_history: list[dict]) -> float:
    """Return how long training took, with evaluations, before an interruption, too."""
    return sum(entry.get("seconds", 0.0) for entry in log_history)


@dataclass
class Checkpoint:
    """Where a training continues."""

    path: str
    step: int
    is_stopped: bool  # early stopping had ended the training there
    has_all_losses: bool  # the losses of all updates are in its log
    seconds: float | None  # of training until there; None if its log does not say


# What reading a checkpoint raises that is cut off, or has not all that a training needs
CHECKPOINT_ERRORS = (OSError, ValueError, KeyError, SafetensorError)


def read_checkpoint(path: Path, patience: int, model: torch.nn.Module) -> Checkpoint:
    """Return what a checkpoint says. Raises one of CHECKPOINT_ERRORS if it cannot be continued.

    Exits with status 2 if its weights are those of another architecture.
    """
    if (path / "checkpoint-is-incomplete.txt").exists():  # --enable_jit_checkpoint was killed
        raise ValueError("it is incomplete")
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for file in path.glob("*.safetensors"):
        # Opening it checks that the file is as long as its header says.
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                shape = weights.get_slice(name).get_shape()
                if shapes.get(name, shape) != shape:
                    fail(
                        f"{path} is a checkpoint of another model ({name} is {shape}, not "
                        f"{shapes[name]}); delete the folder {path.parent}"
                    )
    # The Trainer writes this file last, so it marks a complete checkpoint.
    state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    if not isinstance(state, dict):
        raise ValueError("its trainer_state.json is not a state of the Trainer")
    stopping = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {})
    used = stopping.get("attributes", {}).get("early_stopping_patience_counter", 0)
    is_stopped = 0 < patience <= used
    is_ended = is_stopped or state["global_step"] >= state["max_steps"]
    check_files_of_checkpoint(path, is_ended)
    logged = [entry for entry in state["log_history"] if "loss" in entry]
    has_all_losses = bool(logged) and logged[-1]["step"] == state["global_step"]
    has_all_times = has_all_losses and all("seconds" in entry for entry in logged)
    return Checkpoint(
        path=str(path),
        step=state["global_step"],
        is_stopped=is_stopped,
        has_all_losses=has_all_losses,
        seconds=training_seconds(logged) if has_all_times else None,
    )


def check_files_of_checkpoint(path: Path, is_ended: bool) -> None:
    """Raise ValueError if a checkpoint lacks a file that the Trainer reads, or one is cut off.

    is_ended: there is nothing left to train; only the best model is still to be loaded.
    """
    # FSDP and DeepSpeed have their own formats, in folders of these names.
    own_formats = ("pytorch_model_fsdp*", "global_step*")
    has_own_format = any(any(path.glob(pattern)) for pattern in own_formats)
    if not has_own_format and not any(path.glob("*.safetensors")):
        raise ValueError("it has no weights")
    # The Trainer would go on without them: with a new optimizer, from the start of the schedule.
    has_optimizer = any(path.glob("*optimizer*")) and (path / "scheduler.pt").exists()
    if not is_ended and not any(path.glob("rng_state*.pth")):
        raise ValueError("it has weights only (--save_only_model)")
    if not is_ended and not has_own_format and not has_optimizer:
        raise ValueError("it has no optimizer.pt or no scheduler.pt")
    # PyTorch writes ZIP archives, whose directory is at the end.
    for file in (*path.glob("*.pt"), *path.glob("*.pth")):
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{file.name} is cut off")


def find_checkpoint(folder: Path, patience: int, model: torch.nn.Module) -> Checkpoint | None:
    """Return the newest checkpoint of a run folder that can be continued, or None."""
    paths = [path for path in folder.iterdir() if re.fullmatch(r"checkpoint-\d+", path.name)]
    for path in sorted(paths, key=lambda path: -int(path.name.split("-")[1])):
        try:
            return read_checkpoint(path, patience, model)
        except CHECKPOINT_ERRORS as error:
            logger.warning(
                "%s cannot be continued, the previous checkpoint is used: %s",
                path,
                one_line(error),
            )
    if paths:
        logger.warning("no checkpoint can be continued: training starts again")
    return None


def read_given_checkpoint(
    path: Path, folder: Path, patience: int, model: torch.nn.Module
) -> Checkpoint:
    """Return the checkpoint of --resume_from_checkpoint. Exit with status 2 if it cannot be used.

    One of another run is refused: the record would tell of one training where there were two.
    """
    if path.resolve().parent != folder.resolve():
        fail(
            f"--resume_from_checkpoint {path} is not a checkpoint of --output_dir {folder}; "
            "give its weights as --model_name_or_path to start from them"
        )
    try:
        return read_checkpoint(path, patience, model)
    except CHECKPOINT_ERRORS as error:
        fail(
            f"--resume_from_checkpoint {path} cannot be continued: {one_line(error)}; leave the "
            "flag out to take the newest that can"
        )


def train_model(trainer: Trainer, folder: Path, patience: int) -> None:
    """Train from the last checkpoint, if there is one; write the model and what training gave.

    Files of the run folder: the model, train_results.json and trainer_state.json.
    """
    training = trainer.args
    n_documents = len(trainer.train_dataset)
    announce_training(training, n_documents, total_batch_size(training))
    if (training.resume_from_checkpoint or "true").lower() == "true":
        checkpoint = find_checkpoint(folder, patience, trainer.model)
    else:
        path = Path(training.resume_from_checkpoint)
        checkpoint = read_given_checkpoint(path, folder, patience, trainer.model)
    if checkpoint is not None and checkpoint.is_stopped:
        # Only the best model is still to be loaded.
        training.num_train_epochs = 0
        training.max_steps = -1
    result = trainer.train(resume_from_checkpoint=checkpoint and checkpoint.path)
    stop_if_preempted(trainer)
    metrics = result.metrics | {"train_samples": n_documents}
    metrics["train_loss"] = mean_loss(trainer.state.log_history)
    if checkpoint is not None:
        # The rates are those since this step; loss and time those of the whole training,
        # or left out.
        metrics["train_resumed_from_step"] = checkpoint.step
        if not checkpoint.has_all_losses:
            del metrics["train_loss"]
        if checkpoint.seconds is None:
            del metrics["train_runtime"]
        else:
            metrics["train_runtime"] += checkpoint.seconds
    training.push_to_hub = False  # stage 9 pushes the complete folder with its card
    trainer.save_model()
    save_metrics(trainer, "train", metrics)
    if trainer.state.best_model_checkpoint:
        # The file is published: no path of this machine
        trainer.state.best_model_checkpoint = Path(trainer.state.best_model_checkpoint).name
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(folder / "trainer_state.json.tmp"))
        os.replace(folder / "trainer_state.json.tmp", folder / "trainer_state.json")


def stop_if_preempted(trainer: Trainer) -> None:
    """Exit with the status of SIGTERM if --enable_jit_checkpoint ended training before its end.

    The Trainer returns as from a finished training; nothing may follow that calls it finished.
    """
    state = trainer.state
    if not trainer.args.enable_jit_checkpoint or state.global_step >= state.max_steps:
        return
    for callback in trainer.callback_handler.callbacks:
        used = getattr(callback, "early_stopping_patience_counter", None)
        if used is not None and used >= callback.early_stopping_patience:
            return
    logger.warning("interrupted at step %d; the same command continues", state.global_step)
    sys.exit(128 + signal.SIGTERM)


# 5. Texts and labels: dataset folders, Hub datasets and own files, checked row by row
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


# 6. Bookkeeping: the run's record, messages, the model card, the Hub


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


# Copied from tools/common/text.py::escape_markdown
def escape_markdown(text: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|#$~])", r"\\\1", html.escape(line, quote=False))


# Copied from run_baseline.py::NOT_UPLOADED
NOT_UPLOADED = ["checkpoint-*", "*.tmp", "*.bin", "_*"]


# Copied from run_baseline.py::save_figure
def save_figure(figure: plt.Figure, path: Path) -> None:
    """Save and close a figure. The file holds no date, so the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    write(path, buffer.getvalue())


# Copied from run_baseline.py::MAX_DRAWN_CLASSES
MAX_DRAWN_CLASSES = 30  # in one picture; those of more classes would take gigabytes


# Copied from run_baseline.py::plot_confusion_matrix
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


# Copied from tools/common/folders.py::public_name
def public_name(source: str) -> str:
    """Return a Hub id as it is and of a local path its last part: it may be published."""
    if Path(source).exists() or source.count("/") != 1:
        return os.path.basename(os.path.abspath(source))
    return source


# Copied from run_baseline.py::name_with_owner
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


def identifying_arguments(training: TrainingArguments, *others) -> dict:
    """Return the arguments that identify a run: all but those that cannot change its result."""
    sanitized = training.to_sanitized_dict()  # without tokens
    names = [item.name for item in dataclasses.fields(training) if item.init]
    values = {name: sanitized[name] for name in names}
    for other in others:
        values |= asdict(other)
    identifying = {}
    for name, value in values.items():
        if name not in NOT_IDENTIFYING and name not in REFUSED:
            identifying[name] = value
    for name in ("model_name_or_path", "tokenizer_name"):  # no path of this machine
        if identifying[name] is not None:
            identifying[name] = public_name(identifying[name])
    if identifying["metric_name"] is not None:
        identifying["metric_name"] = [public_name(name) for name in identifying["metric_name"]]
    identifying["mixed_precision"] = training.mixed_precision
    identifying["total_train_batch_size"] = total_batch_size(training)
    return json.loads(json.dumps(identifying))  # as a file gives them back


def total_batch_size(training: TrainingArguments) -> int:
    """Return the number of documents per optimizer step."""
    return training.train_batch_size * training.gradient_accumulation_steps * training.world_size


def weights_fingerprint(source: str) -> str | None:
    """Return the first digits of the SHA-256 of a local model's weights; None for a Hub model."""
    if not Path(source).is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(Path(source).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def run_record(
    model: ModelArguments,
    data: DataArguments,
    training: TrainingArguments,
    loaded: LoadedData,
    task: Task,
    used: dict | None,
) -> dict:
    """Return what identifies and describes this run, without tokens and paths of the machine.

    used is the record of the run that predicts; None if this command trains.
    """
    packages = ("torch", "transformers", "accelerate", "datasets", "scikit-learn")
    source = data.dataset_name or data.train_file or data.test_file or data.validation_file
    trained = {
        "seed": training.seed,
        "learning_rate": training.learning_rate,
        "total_train_batch_size": total_batch_size(training),
    }
    if used is not None:
        # A command that only predicts tells the training of the model that it uses; None: unknown.
        trained = {name: used.get(name) for name in trained}
    is_on_gpu = training.device.type == "cuda"
    return {
        "script": SCRIPT,
        # What was trained, on what
        "model_name_or_path": public_name(model.model_name_or_path),
        "model_fingerprint": weights_fingerprint(model.model_name_or_path),
        "dataset_name": public_name(source),
        "dataset_commit": loaded.commit,
        "data_fingerprints": loaded.fingerprints,
        "dropped_rows": loaded.dropped,
        "labels": task.classes,
        "problem_type": task.problem_type,
        "thresholds": None if task.chooses_thresholds else task.thresholds,
        "scores": "probabilities",
        # Documents of every class; None: without labels
        "class_counts": {
            split: count_classes(dataset, loaded.labels) for split, dataset in loaded.splits.items()
        },
        # How
        **trained,
        "arguments": identifying_arguments(training, model, data),
        # Where
        "device": torch.cuda.get_device_name() if is_on_gpu else training.device.type,
        "processes": training.world_size,
        "versions": {
            "python": sys.version.split()[0],
            **{package: version(package) for package in packages},
        },
    }


def count_classes(split: Dataset, names: list[str]) -> dict[str, int] | None:
    """Return how many documents of a split have each class; None if it has no labels."""
    if "label" not in split.column_names:
        return None
    numbers = []
    for label in split["label"]:
        numbers += label if isinstance(label, list) else [label]
    counts = np.bincount(np.array(numbers, dtype=int), minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))


def ask_for_base_card(model_name_or_path: str) -> dict[str, str | list[str]]:
    """Return license and language of a model on the Hub, as its card has them.

    Empty for a local model, without a network, and where the card does not say.
    """
    base = public_name(model_name_or_path)
    if "/" not in base:
        return {}
    try:
        metadata = ModelCard.load(base, ignore_metadata_errors=True).data
    except (OSError, ValueError, httpx.HTTPError, yaml.YAMLError):
        return {}
    fields = {}
    for name in ("license", "license_name", "license_link", "language"):
        value = getattr(metadata, name, None)
        if value:
            fields[name] = value
    return fields


def read_record(folder: Path) -> dict | None:
    """Return the record of the run in a folder, or None if it is no run folder of this script."""
    if not is_record(folder / RUN_FILE, SCRIPT):
        return None
    record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    # Runs of an earlier version had one label per document and the built-in metrics.
    earlier = {
        "problem_type": SINGLE_LABEL,
        "thresholds": None,
        "class_counts": {"test": {}},  # labels that were not counted
        "dropped_rows": {},
        "more_metrics": [],
        "base_card": {},
    }
    return earlier | record


def check_same_run(
    folder: Path, record: dict, before: dict, training: TrainingArguments, is_its_model: bool
) -> None:
    """Exit with status 2 if the folder holds another run (before) than this command's (record).

    is_its_model: the folder's own model predicts. Nothing is written.
    """
    if not training.do_train and not is_its_model and "train" in before["data_fingerprints"]:
        fail(f"{folder} holds a trained run of another model; choose another --output_dir")
    compared = dict(record["arguments"])
    if not training.do_train:
        names = [*TEXT_SETTINGS, "label_column_name", "long_texts", "metric_name"]
        if not is_its_model:
            names += ["model_name_or_path", "tokenizer_name", "model_revision"]
        if not is_its_model or compared["threshold"] is not None:
            names.append("threshold")  # by default a run's own model has the run's
        compared = {name: compared[name] for name in names}
    for name, value in compared.items():
        if before["arguments"].get(name, value) != value:
            fail(
                f"{folder} holds a run with {name} {before['arguments'][name]}, not {value}; "
                "choose another --output_dir"
            )
    has_other_weights = record["model_fingerprint"] != before.get("model_fingerprint")
    if has_other_weights and (training.do_train or not is_its_model):
        fail(
            f"{folder} holds a run with another model {before['model_name_or_path']} "
            "(its weights differ); choose another --output_dir"
        )
    # Two datasets in one folder would be one in its card. Files may be those of one dataset.
    names = (before["dataset_name"], record["dataset_name"])
    are_files = all(Path(name).suffix.lower() in FILE_TYPES for name in names)
    is_other_dataset = names[0] != names[1] and not are_files
    for split, digest in record["data_fingerprints"].items():
        known = before["data_fingerprints"].get(split)
        if known is None and is_other_dataset and not training.do_train:
            fail(f"{folder} holds a run on {names[0]}; choose another --output_dir for {names[1]}")
        has_result = split != "test" or (folder / "predict_results.json").exists()
        if (has_result or is_other_dataset) and known not in (None, digest):
            fail(
                f"{folder} holds a run with another {split} split (its rows differ); "
                "choose another --output_dir"
            )


def check_checkpoints(folder: Path, training: TrainingArguments) -> None:
    """Exit with status 2 if the Trainer would delete what is no checkpoint, or train once more."""
    names = sorted(path.name for path in folder.glob("checkpoint-*"))
    for name in names:
        if re.fullmatch(r"checkpoint-\d+", name) and not (folder / name).is_dir():
            fail(
                f"{folder / name} is a file, and the Trainer would take it for a checkpoint; move "
                "it elsewhere"
            )
    others = [name for name in names if re.match(r"checkpoint-\d+\D", name)]
    if others and training.save_total_limit is not None:
        fail(
            f"the Trainer would take {folder / others[0]} for a checkpoint and delete it; move it "
            "elsewhere"
        )
    written_last = [folder / "train_results.json", folder / "trainer_state.json"]
    if not all(path.exists() for path in written_last):
        return
    remedy = f"leave out --do_train and give --model_name_or_path {folder}"
    steps = [int(name.split("-")[1]) for name in names if re.fullmatch(r"checkpoint-\d+", name)]
    if not steps:
        fail(
            f"the training in {folder} is finished and has no checkpoint, so it would begin again; "
            f"{remedy}"
        )
    n_steps = json.loads(written_last[1].read_text(encoding="utf-8"))["global_step"]
    if max(steps) < n_steps:  # with --save_strategy best, the newest checkpoint is the best one
        fail(
            f"the training in {folder} is finished after {n_steps} steps and its newest checkpoint "
            f"is of step {max(steps)}, so the steps after it would be trained again; {remedy}"
        )


def is_finished(folder: Path, training: TrainingArguments) -> bool:
    """Return whether the results of all steps that are asked for are there."""
    # What a step writes last
    needed = ["train_results.json", "trainer_state.json"]
    if training.do_eval:
        needed.append("eval_results.json")
    if training.do_predict:
        needed += ["predict_results.json", "predictions.csv"]
    return all((folder / name).exists() for name in needed)


def is_described(folder: Path) -> bool:
    """Return whether the model card, which is written last, is newer than the results."""
    card = folder / "README.md"
    results = folder / "all_results.json"
    return card.exists() and card.stat().st_mtime_ns >= results.stat().st_mtime_ns


def save_thresholds(folder: Path, record: dict) -> None:
    """Write the record with its thresholds, and these into the model's config.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"thresholds": record["thresholds"]})
    write_json(folder / RUN_FILE, record)


def write_json(path: Path, content: dict) -> None:
    """Write an object as a readable JSON file."""
    write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def resources_explained(folder: Path) -> Iterator[None]:
    """End with one line where memory or disk do not suffice; let every other error through."""
    try:
        yield
    except KeyboardInterrupt:
        logger.warning(
            "interrupted; the same command continues from the last checkpoint in %s", folder
        )
        raise SystemExit(130) from None
    except (OSError, SafetensorError, MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            fail(
                "out of memory: lower --per_device_train_batch_size (accumulation follows) "
                "or --max_seq_length"
            )
        if is_unwritable(error):
            fail(
                f"cannot write into {folder}: {one_line(error)}; "
                "free some space, then the same command continues"
            )
        raise


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory did not suffice; torch has no kind of its own for that on a CPU."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "allocate memory" in str(error)


def is_unwritable(error: Exception) -> bool:
    """Return whether a file could not be written: full, too large, read-only or not allowed."""
    if isinstance(error, OSError):
        codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
        return error.errno in codes
    # torch's writer of archives, and safetensors, which passes on the system's message
    return "inline_container" in str(error) or "os error" in str(error)


def check_schedule(training: TrainingArguments, optimizer_class: type, settings: dict) -> None:
    """Exit with status 2 if the Trainer could not make the optimizer or the learning rate schedule.

    It would fail after the record is written. Both are made for one number.
    """
    parameter = torch.nn.Parameter(torch.zeros(1))
    if "optimizer_dict" in settings or "params" in settings:  # those of single layers
        optimizer = torch.optim.SGD([parameter])
    else:
        try:
            optimizer = optimizer_class([parameter], **settings)
        except ValueError as error:  # such as --adam_beta1 2
            name = training.optim.value
            fail(f"cannot use --optim {name} with these settings: {one_line(error)}")
    try:
        transformers.get_scheduler(
            training.lr_scheduler_type,
            optimizer,
            num_warmup_steps=0,
            num_training_steps=1,
            scheduler_specific_kwargs=training.lr_scheduler_kwargs,
        )
    except (ValueError, TypeError) as error:
        name = training.lr_scheduler_type.value
        fail(f"cannot use --lr_scheduler_type {name} with --lr_scheduler_kwargs: {one_line(error)}")


def check_packages_and_hub(
    training: TrainingArguments, model: PreTrainedModel, repo_id: str
) -> None:
    """Exit with status 2 if a package for a flag is missing or the Hub refuses the repository."""
    try:
        optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(training, model)
    except (ImportError, ValueError, RuntimeError) as error:
        fail(f"cannot use --optim {training.optim.value}: {one_line(error)}")
    if training.do_train:
        check_schedule(training, optimizer_class, settings)
    try:
        kinds = transformers.integrations.get_reporting_integration_callbacks(training.report_to)
        for kind in kinds:
            kind()
    except (ImportError, ValueError, RuntimeError) as error:
        fail(f"cannot use --report_to {' '.join(training.report_to)}: {one_line(error)}")
    if training.push_to_hub and training.process_index == 0:
        try:
            HfApi().create_repo(repo_id, private=training.hub_private_repo, exist_ok=True)
            if training.hub_revision:  # pushes during training would be lost
                HfApi().create_branch(repo_id, branch=training.hub_revision, exist_ok=True)
        except Exception as error:  # the client's kinds, those of its HTTP library, and OSError
            fail(f"cannot push to {repo_id} (see hf auth login): {one_line(error)}")


def warn_of_missing_processes() -> None:
    """Warn if accelerate launch was asked for several processes and started one.

    Its launcher for one process sets MASTER_ADDR only if --num_processes was larger than 1.
    """
    environment = os.environ
    is_launched = "ACCELERATE_MIXED_PRECISION" in environment
    if is_launched and "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment:
        logger.warning(
            "accelerate launch started one process, not several: give it "
            "--config_file configs/accelerate_multi_gpu.yaml (GPUs) or configs/accelerate_cpu.yaml"
        )


def describe_precision(mixed_precision: str, training: TrainingArguments) -> str:
    """Return the precision that was used, whether a flag or the launcher chose it."""
    precision = "fp32" if mixed_precision == "no" else mixed_precision
    if training.bf16_full_eval:
        precision += ", evaluation in bf16"
    if training.fp16_full_eval:
        precision += ", evaluation in fp16"
    return precision


def plot_training(state: dict, best_step: int | None) -> plt.Figure:
    """Plot the training and validation loss over the epochs."""
    log = pd.DataFrame(state["log_history"])
    figure, axes = plt.subplots(figsize=(7, 4))
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        if key in log:
            rows = log.dropna(subset=key)
            rows.plot("epoch", key, ax=axes, style=style, label=label, ylabel="loss")
    if best_step is not None and (log["step"] == best_step).any():
        epoch = log.loc[log["step"] == best_step, "epoch"].iloc[0]
        axes.axvline(epoch, color="0.7", linestyle="--", label="best")
    axes.legend()
    return figure


def describe_run(folder: Path, model_id: str | None) -> None:
    """Draw the pictures and write the model card from the files of a trained run."""
    record = read_record(folder)
    results, state = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("all_results.json", "trainer_state.json")
    )
    arguments = record["arguments"]
    # Without load_best_model_at_end, the last model is kept whatever the evaluations said.
    is_best_kept = arguments["load_best_model_at_end"] and state["best_model_checkpoint"]
    best_step = state["best_global_step"] if is_best_kept else None
    kept = f"best validation {arguments['metric_for_best_model']}" if is_best_kept else "last step"
    save_figure(plot_training(state, best_step), folder / "training_curve.png")
    pictures = "![training curve](training_curve.png)"
    table, picture = draw_predictions(folder, record)
    if picture:
        pictures = f"{picture} {pictures}"

    base = public_name(record["model_name_or_path"])
    dataset = public_name(record["dataset_name"])
    kind = "any number of" if record["problem_type"] == MULTI_LABEL else "one of"
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    seconds = training_seconds(state["log_history"])
    text = f"""`{base}`, fine-tuned to classify texts of `{dataset}` into {kind} the classes \
{", ".join(escape_markdown(name) for name in record["labels"])}.

{describe_use(record, model_id)}

{class_table(record, table)}## Training

Data: {describe_data(record)}

Checkpoint: {kept}. Learning rate {record["learning_rate"]:g}, \
effective batch size {record["total_train_batch_size"]}, \
at most {arguments["max_seq_length"]} tokens,
{record["precision"]}, seed {record["seed"]}. \
Hardware: {record["processes"]} x {record["device"]}; training took {seconds:.0f} s. \
Versions: {versions}.

{pictures}"""
    title = f"{base.split('/')[-1]} on {dataset.split('/')[-1]}"
    if model_id:
        title = model_id.split("/")[-1]
    write_card(folder, title, record, results, text)


def describe_predictions(folder: Path) -> None:
    """Draw the picture and write a card of predictions by a model of another folder."""
    record = read_record(folder)
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    base = public_name(record["model_name_or_path"])
    dataset = public_name(record["dataset_name"])
    table, picture = draw_predictions(folder, record)
    classes = ", ".join(escape_markdown(name) for name in record["labels"])
    text = f"""Results of `{base}` on texts of `{dataset}`; the model itself is not in this folder.
Classes: {classes}. At most {record["arguments"]["max_seq_length"]} tokens, {record["precision"]}.
{describe_rules(record)}

{class_table(record, table)}Data: {describe_data(record)}

{picture}"""
    write_card(folder, f"{base} on {dataset}", record, results, text)


def write_card(folder: Path, title: str, record: dict, results: dict, text: str) -> None:
    """Write README.md: metadata with a model-index, the metrics of the test split, and the text.

    Without metrics of the test split, those of the validation split stand there.
    """
    base = public_name(record["model_name_or_path"])
    dataset = public_name(record["dataset_name"])
    names = {key: metric_name(key, record["problem_type"]) for key in METRICS}
    names |= {key: key for key in record["more_metrics"]}
    split, prefix = "validation", "eval"
    if any(f"predict_{key}" in results for key in names):
        split, prefix = "test", "predict"
    measured = {}
    for key in names:
        if f"{prefix}_{key}" in results:
            measured[key] = round(results[f"{prefix}_{key}"], 4)

    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["text-classification", "generated_from_trainer"],
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
                dataset_revision=record["dataset_commit"],
                metric_type=key,
                metric_name=names[key],
                metric_value=value,
            )
            for key, value in measured.items()
        ]
        or None,  # an empty list would be an empty model-index
        **record["base_card"],
    )
    lines = [f"---\n{data.to_yaml()}\n---\n", f"# {escape_markdown(title)}\n"]
    if measured:
        lines.append(f"| {results.get(f'{prefix}_samples')} {split} documents | |")
        lines.append("|---|---:|")
        for key, value in measured.items():
            shown = metric_text(key, value) if key in METRICS else f"{value:.4f}"
            lines.append(f"| {escape_markdown(names[key])} | {shown} |")
    save_card(folder, "\n".join([*lines, "", text, ""]))


def save_card(folder: Path, text: str) -> None:
    """Write README.md. A card that is not as the script wrote it is kept under a new name.

    The last line, a comment, is the hash of what stands above it: it tells whether a card was
    edited. Cards of earlier versions lack it, so they are kept, too.
    """
    card = folder / "README.md"
    if card.exists():
        content = card.read_text(encoding="utf-8", errors="replace")
        if content != sign_card(content.rpartition("<!-- ")[0]):
            names = (folder / f"README-edited-{number}.md" for number in itertools.count(1))
            kept = next(path for path in names if not path.exists())
            card.rename(kept)
            logger.warning(
                "%s is not as this script wrote it: it is %s now; README.md has the new results",
                card,
                kept.name,
            )
    write(card, sign_card(text))


def sign_card(text: str) -> str:
    """Return the text with a comment that has its hash."""
    return f"{text}<!-- generated; {hashlib.sha256(text.encode()).hexdigest()[:16]} -->\n"


INTENDED_USE = """\
Intended for sorting and finding texts like the training data, in the same language. The model \
knows only these classes, so a text on another subject may also be given one of them. The metrics \
here do not show how well it does on other kinds of text or on texts of another period."""


def describe_use(record: dict, model_id: str | None) -> str:
    """Return the card's example, whose answers are those of predictions.csv, uses and limits."""
    prefix = record["arguments"]["text_prefix"]
    length = record["arguments"]["max_seq_length"]
    text = json.dumps(prefix + "Put a text here.", ensure_ascii=False)
    note = ""
    if prefix:
        note = f"In training every text was preceded by `{prefix}`: do the same.\n"
    if record["problem_type"] == MULTI_LABEL:
        example = f"""from transformers import pipeline
classifier = pipeline("text-classification", {json.dumps(model_id or ".")})
config = classifier.model.config
thresholds = {{config.id2label[n]: value for n, value in enumerate(config.thresholds)}}
text = {text}
answers = classifier(text, top_k=None, truncation=True, max_length={length})
print([answer for answer in answers if answer["score"] >= thresholds[answer["label"]]])"""
    else:
        example = f"""from transformers import pipeline
classifier = pipeline("text-classification", {json.dumps(model_id or ".")})
text = {text}
print(classifier(text, truncation=True, max_length={length}))"""
    return f"""{note}
```python
{example}
```

{describe_rules(record)}

{INTENDED_USE}"""


def describe_rules(record: dict) -> str:
    """Return how predictions follow from the texts and scores, where that is not the usual way."""
    sentences = []
    if record["problem_type"] == MULTI_LABEL:
        shown = []
        for name, threshold in zip(record["labels"], record["thresholds"], strict=True):
            shown.append(f"{escape_markdown(name)} {threshold:.3g}")
        chosen = "those of the model, or 0.5"
        if record["arguments"]["threshold"] == "auto":
            chosen = "each the best for F1 on the validation split"
        elif record["arguments"]["threshold"] is not None:
            chosen = "as given"
        sentences.append(
            "A text has a label if its probability is at least the threshold of the class "
            f"({chosen}): {', '.join(shown)}."
        )
    if record["arguments"].get("long_texts") == "windows":  # older runs lack it
        length = record["arguments"]["max_seq_length"]
        sentences.append(
            f"Longer texts were evaluated and predicted in overlapping windows of {length} tokens, "
            "whose logits are averaged; the pipeline reads the first of them only."
        )
    if record["class_counts"].get("test", {}) is None:
        sentences.append("The test texts have no labels, so nothing is measured on them.")
    return " ".join(sentences)


def describe_data(record: dict) -> str:
    """Return the dataset with its revision, and the fingerprint of every split."""
    name = f"`{public_name(record['dataset_name'])}`"
    revision = record["dataset_commit"] or record["arguments"]["dataset_revision"]
    if revision:
        name += f", revision `{revision}`"
    parts = [f"{split} {digest}" for split, digest in record["data_fingerprints"].items()]
    return f"{name}; fingerprints of the rows that were used: {', '.join(parts)}."


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


def draw_predictions(folder: Path, record: dict) -> tuple[pd.DataFrame | None, str]:
    """Draw the picture of predictions.csv; return its table and the picture in Markdown.

    Without predictions there is no table, and without labels no picture.
    """
    if not (folder / "predictions.csv").exists():
        return None, ""
    table = pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False)
    names = record["labels"]
    if record["class_counts"].get("test") is None:
        return table, ""
    if record["problem_type"] == MULTI_LABEL:
        labels = encode_names(table.iloc[:, 1], names, MULTI_LABEL)
        scores = table.iloc[:, 3:].astype(float).to_numpy()
        figure = plot_class_curves(labels, scores, names, record["thresholds"])
        save_figure(figure, folder / "class_curves.png")
        return table, "![precision and recall of every class](class_curves.png)"
    save_figure(plot_confusion_matrix(table, names), folder / "confusion_matrix.png")
    return table, "![confusion matrix](confusion_matrix.png)"


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


def next_command(
    folder: Path, model: ModelArguments, data: DataArguments, training: TrainingArguments
) -> str:
    """Return the command that usually comes next, as it runs."""
    source = str(folder) if training.do_train else model.model_name_or_path
    words = ["python", "run_attribution.py", "--model_name_or_path", source]
    # A configuration, and a test split taken from training, are nothing that it could load.
    has_split = training.do_predict and data.test_fraction is None
    if data.dataset_name and not data.dataset_config_name and has_split:
        words += ["--dataset_name", data.dataset_name]
        if data.dataset_revision:
            words += ["--dataset_revision", data.dataset_revision]
        if data.test_split_name != "test":
            words += ["--split", data.test_split_name]
    elif data.test_file and training.do_predict:
        words += ["--test_file", data.test_file]
        if data.csv_delimiter:
            words += ["--csv_delimiter", data.csv_delimiter]
        if data.json_field:
            words += ["--json_field", data.json_field]
    else:  # whether there is a test split is not known
        words += ["--text", "Put a text here."]
    words += ["--output_dir", f"{folder}-attribution"]
    return shlex.join(words)


def run_stages(
    arguments: ModelArguments, data: RunDataArguments, training: RunTrainingArguments
) -> None:
    """Train, evaluate, predict and describe, as the flags say: stages 2 to 9, after main()'s."""
    folder = Path(training.output_dir)
    repo_id = training.hub_model_id or folder.absolute().name
    if training.push_to_hub and training.process_index == 0:
        repo_id = name_with_owner(repo_id)
    should_push = training.push_to_hub  # the Trainer's own flag is switched off after training

    # 2. Texts and classes
    config = load_config(arguments)
    used = None  # the record of the run that predicts
    if not training.do_train:
        used = read_training_record(arguments.model_name_or_path, arguments.model_revision)
        check_loss_of_run(arguments, training, used)
    given_splits = {name: getattr(data, name) for name in SPLIT_SETTINGS}
    use_settings_of_run(arguments, data, config, used)
    needed = []
    if training.do_train:
        needed.append("train")
    if training.do_train or training.do_eval:
        needed.append("validation")
    if training.do_predict:
        needed.append("test")
    loaded = load_splits(data, needed, training.seed)
    check_split_flags(given_splits, used, loaded)
    set_classes(
        config, arguments.model_name_or_path, loaded.labels, data.label_names, training.do_train
    )
    task = make_task(arguments, config, loaded, used)
    more_metrics = load_metrics(arguments.metric_name or [], task)
    metric_names = check_metric_for_best_model(training, task, more_metrics)
    if training.do_train:
        forget_other_task(config)
        if task.problem_type == MULTI_LABEL:
            config.problem_type = task.problem_type
            # Not yet, if they are chosen after training
            config.thresholds = None if task.chooses_thresholds else task.thresholds
            config.label_delimiter = data.label_delimiter
        for name in TEXT_SETTINGS:
            holder = data if hasattr(data, name) else arguments
            setattr(config, name, getattr(holder, name))
    if training.gradient_accumulation_steps is None:
        n_documents = len(loaded.splits["train"]) if training.do_train else 1
        training.gradient_accumulation_steps = choose_accumulation_steps(training, n_documents)

    # 3. The run that the folder holds already
    record = run_record(arguments, data, training, loaded, task, used)
    record["more_metrics"] = [name for name in metric_names if name not in BEST_MODEL_METRICS]
    before = read_record(folder)
    source = Path(arguments.model_name_or_path)
    is_its_model = source.is_dir() and source.resolve() == folder.resolve()
    if before is not None:
        if "data_fingerprints" not in before:
            fail(
                f"{folder} holds a run of an earlier version, whose data cannot be compared; "
                "choose another --output_dir"
            )
        check_same_run(folder, record, before, training, is_its_model)
        if training.do_train and is_finished(folder, training):
            logger.info("%s is finished; delete the folder to run it again", folder)
            is_first = training.process_index == 0
            if is_first and (should_push or not is_described(folder)):
                with resources_explained(folder):
                    describe_run(folder, repo_id if should_push else None)
            if is_first and should_push:
                push_folder(folder, repo_id, training.hub_private_repo, training.hub_revision)
            return
        if training.do_train:
            check_checkpoints(folder, training)

    # 4. Model and tokens
    model = load_model(arguments, config, training.do_train, training.device)
    if training.activation_checkpointing and not model.supports_gradient_checkpointing:
        fail(
            f"--activation_checkpointing (or --gradient_checkpointing) is not supported by "
            f"{type(model).__name__}; leave it out"
        )
    tokenizer = load_tokenizer(arguments, model, training.do_train)
    check_max_seq_length(arguments, model, tokenizer)
    encode = functools.partial(
        preprocess,
        tokenizer=tokenizer,
        text_prefix=arguments.text_prefix,
        max_seq_length=arguments.max_seq_length,
        labels=[config.label2id[name] for name in loaded.labels],
        n_classes=config.num_labels,
    )
    encoded = encode_splits(loaded.splits, encode, arguments)
    # What is evaluated after training and predicted
    final = encoded
    if arguments.long_texts == "windows":
        final = DatasetDict()
        for split, dataset in loaded.splits.items():
            if split != "train":
                final[split] = encode_windows(dataset, encode)

    # 5. Trainer
    loss = describe_loss(arguments, training, task, encoded, used)
    weight = torch.tensor([loss["class_weights"][name] for name in task.classes])
    record["loss"] = loss
    monitor = RunMonitor()
    callbacks = [monitor]
    if training.do_train and arguments.early_stopping_patience:
        callbacks.append(transformers.EarlyStoppingCallback(arguments.early_stopping_patience))
    multiple = choose_padding(arguments, training, max_length_of(model, tokenizer))
    check_packages_and_hub(training, model, repo_id)
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=encoded.get("train"),
        eval_dataset=encoded.get("validation"),
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer, pad_to_multiple_of=multiple),
        compute_metrics=functools.partial(evaluate_logits, task=task, more_metrics=more_metrics),
        compute_loss_func=functools.partial(
            compute_loss, weight=weight, label_smoothing=loss["label_smoothing_factor"]
        ),
        callbacks=callbacks,
    )
    # The Trainer's progress bar, or its printer
    monitor.progress = trainer.callback_handler.callbacks[-1]
    record["precision"] = describe_precision(trainer.accelerator.mixed_precision, training)
    config_file = cached_file(
        arguments.model_name_or_path, "config.json", revision=arguments.model_revision
    )
    record["model_commit"] = extract_commit_hash(config_file, None)  # None for a local folder
    record["parameters"] = model.num_parameters()
    record["pad_token"] = tokenizer.pad_token
    # Asked here, because after a long training the network may be gone
    is_main = trainer.is_world_process_zero()
    record["base_card"] = {}
    if training.do_train and is_main:
        record["base_card"] = ask_for_base_card(arguments.model_name_or_path)
    if before is not None:
        # A run that is continued, or whose own model predicts, keeps what it knows.
        together = {}
        for name in ("data_fingerprints", "class_counts", "dropped_rows"):
            together[name] = before[name] | record[name]
        record = (before if is_its_model else record) | together
    collapsed = None

    with resources_explained(folder):
        if is_main:
            write_json(folder / RUN_FILE, record)

        # 6. Training
        if training.do_train:
            train_model(trainer, folder, arguments.early_stopping_patience)

        # 7. Validation split
        if training.do_eval:
            logits, metrics = predict_in_order(trainer, final["validation"], "eval")
            labels = np.array(encoded["validation"]["labels"])
            if task.chooses_thresholds:
                task = choose_task_thresholds(task, logits, labels)
                trainer.compute_metrics.keywords["task"] = task
                record["thresholds"] = task.thresholds
                logger.info("thresholds: %s", dict(zip(task.classes, task.thresholds, strict=True)))
                if is_main:
                    save_thresholds(folder, record)
            metrics |= score_logits(trainer, logits, labels, "eval")
            trainer.log_metrics("eval", metrics)
            save_metrics(trainer, "eval", metrics)
            collapsed = find_collapse(labels, logits, task)

        # 8. Test split, once
        if training.do_predict:
            logits, metrics = predict_in_order(trainer, final["test"], "predict")
            table = predictions_table(loaded.splits["test"], loaded.labels, logits, task)
            if is_main:
                write(folder / "predictions.csv", table.to_csv(index=False, float_format="%.6f"))
            if "labels" in encoded["test"].column_names:
                labels = np.array(encoded["test"]["labels"])
                metrics |= score_logits(trainer, logits, labels, "predict")
                collapsed = collapsed or find_collapse(labels, logits, task)
            trainer.log_metrics("predict", metrics)
            save_metrics(trainer, "predict", metrics)
        if collapsed is not None:
            logger.warning(
                "the model %s; try more --num_train_epochs, a smaller effective batch size "
                "(--gradient_accumulation_steps), a higher --learning_rate or "
                "--class_weights balanced",
                collapsed,
            )

        # 9. Pictures, model card, Hub
        if not is_main:
            return
        # A pickle of what run_arguments.json says
        (folder / "training_args.bin").unlink(missing_ok=True)
        if (folder / "trainer_state.json").exists():
            describe_run(folder, repo_id if should_push else None)
        else:
            describe_predictions(folder)
    if should_push:
        push_folder(folder, repo_id, training.hub_private_repo, training.hub_revision)
    logger.info("next: %s", next_command(folder, arguments, data, training))


def main() -> None:
    # 1. Arguments, output folder, seed
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stdout
    )
    # Otherwise there is a line for every request to the Hub.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    arguments, data, training = parse_arguments(
        __doc__,
        ModelArguments,
        RunDataArguments,
        RunTrainingArguments,
        adapt=adapt_to_machine,
        **STUDY_DEFAULTS,
    )
    logger.setLevel(logging.INFO if training.should_log else logging.ERROR)
    for holder in (arguments, data, training):
        check_names(holder)
    check_arguments(arguments, training)
    warn_of_missing_processes()
    folder = Path(training.output_dir)
    if training.hub_token:
        # Otherwise the Trainer would pickle it into the run folder and upload it.
        os.environ["HF_TOKEN"] = training.hub_token
        training.hub_token = None
    open_output_dir(folder, SCRIPT, [RUN_FILE])
    # Before the model is made: its head is initialized at random.
    transformers.set_seed(training.seed)

    # The first of several processes keeps other commands out of the folder.
    with locked_folder(folder) if training.process_index == 0 else contextlib.nullcontext():
        run_stages(arguments, data, training)


if __name__ == "__main__":
    main()
