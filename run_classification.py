#!/usr/bin/env python
"""Fine-tune an encoder for text classification with the Trainer: early stopping, mixed precision, one GPU or many.

    # a laptop: small model, few documents
    python run_classification.py --model_name_or_path M --dataset_name data/arxiv --output_dir runs/m \\
        --do_train --do_eval --do_predict --max_train_samples 2000 --gradient_accumulation_steps 1
    # the study: one 24 GB GPU, fp16
    accelerate launch --config_file accelerate_config.yaml run_classification.py --do_train --do_eval --do_predict \\
        --model_name_or_path BAAI/bge-large-en-v1.5 --dataset_name data/arxiv --output_dir runs/bge
    # several GPUs, or a file of arguments (flags after it override)
    accelerate launch --multi_gpu run_classification.py recipe.yaml --output_dir runs/bge

Defaults are the study's: 256 tokens, batches of 32, 16 accumulated, AdamW, early stopping on the validation loss with
patience 3, best model kept. The validation split decides when to stop; the test split is predicted once. Interrupt it
at any moment: the same command continues from the last complete checkpoint.

Writes into --output_dir: the model and tokenizer, train_results.json, eval_results.json, predict_results.json,
all_results.json, trainer_state.json, predictions.csv (probabilities, dataset order), confusion_matrix.png,
training_curve.png, run_arguments.json and README.md (the model card).
"""

import argparse
import difflib
import hashlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import datasets
import evaluate
import numpy as np
import pandas as pd
import torch
import yaml
from accelerate.utils import str_to_bool
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset
from datasets.fingerprint import Hasher
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from scipy.special import softmax
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from sklearn.utils.class_weight import compute_class_weight
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import ModelOutput
from transformers.trainer_pt_utils import LengthGroupedSampler

logger = logging.getLogger(__name__)

RUN_FILE = "run_arguments.json"
STUDY_BATCH_SIZE = 512  # documents an update: 32 a step, 16 steps accumulated
STUDY_DEFAULTS = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "gradient_accumulation_steps": None,  # what makes STUDY_BATCH_SIZE with the processes there are
    "learning_rate": 2e-5,
    "num_train_epochs": 10,  # an upper limit: early stopping decides
    "warmup_steps": 0.06,  # below 1 it is a share of all steps
    "weight_decay": 0.01,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,  # the best checkpoint and the last one
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "greater_is_better": False,
    "logging_steps": 10,
    "logging_nan_inf_filter": False,  # a loss that is no number must be seen, not averaged away
    "train_sampling_strategy": "group_by_length",
    "restore_callback_states_from_checkpoint": True,  # the patience that is used up
}
# What makes a run the same run: only then may its checkpoints be continued.
IDENTITY = (
    "model_name_or_path config_name tokenizer_name model_revision init_embeddings_from dataset_name "
    "dataset_config_name train_file validation_file validation_fraction text_column_names text_column_delimiter "
    "label_column_name max_seq_length text_prefix max_train_samples max_eval_samples attention_dropout class_weights "
    "early_stopping_patience learning_rate seed data_seed num_train_epochs max_steps warmup_steps weight_decay "
    "lr_scheduler_type optim train_sampling_strategy total_train_batch_size"
).split()
# What prepare_dataset.py is told.
PREPARED_BY = (
    "dataset_name dataset_config_name train_file validation_file test_file text_column_names text_column_delimiter "
    "label_column_name validation_fraction"
).split()


@dataclass
class ModelArguments:
    """Which model, and how it is loaded."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained or fine-tuned model: a folder or a Hub id."}
    )
    config_name: str | None = field(
        default=None,
        metadata={"help": "Configuration (folder, file or Hub id) of a model to train from scratch instead."},
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer, if it is not the model's: a folder or a Hub id."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub model."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa or flash_attention_2; default: the model's best."}
    )
    attention_dropout: float | None = field(
        default=None,
        metadata={"help": "Dropout of attention weights; default the model's. 0 lets a CPU use its fused kernel."},
    )
    init_embeddings_from: str | None = field(
        default=None, metadata={"help": "Take the word embeddings of this pretrained model (with --config_name)."}
    )


@dataclass
class DataTrainingArguments:
    """Which texts and labels, and how they are prepared."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset folder written by fetch_arxiv.py, or a Hub dataset id."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    train_file: str | None = field(default=None, metadata={"help": "Own training data: .csv, .json(l) or .parquet."})
    validation_file: str | None = field(default=None, metadata={"help": "Own validation data, same columns."})
    test_file: str | None = field(default=None, metadata={"help": "Own test data, same columns."})
    text_column_names: list[str] = field(
        default_factory=lambda: ["abstract"],
        metadata={"help": "Column or columns of text; several are joined by --text_column_delimiter."},
    )
    text_column_delimiter: str = field(default=" ", metadata={"help": "What stands between joined columns."})
    label_column_name: str = field(default="label", metadata={"help": "Column of the classes: names or integers."})
    text_prefix: str = field(
        default="",
        metadata={"help": 'Put before every text, such as "query: " for e5; stored in the model\'s config.'},
    )
    max_seq_length: int = field(default=256, metadata={"help": "Word pieces of a text that the model sees."})
    pad_to_multiple_of: int | None = field(
        default=None, metadata={"help": "Pad batches to a multiple of this; default 8 with fp16 or bf16."}
    )
    validation_fraction: float = field(
        default=0.1,
        metadata={"help": "Share of training documents, stratified, used where there is no validation split."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only the first N training documents."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only the first N validation documents."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Use only the first N test documents."})
    preprocessing_num_workers: int | None = field(default=None, metadata={"help": "Processes that tokenise."})
    overwrite_cache: bool = field(default=False, metadata={"help": "Tokenise again, even if nothing changed."})
    class_weights: str = field(
        default="none",
        metadata={"help": "balanced weighs the loss by inverse class frequency.", "choices": ["none", "balanced"]},
    )
    early_stopping_patience: int = field(
        default=3, metadata={"help": "Evaluations without a better validation loss before training stops; 0 is never."}
    )


class ClassificationMetrics(evaluate.Metric):
    """Accuracy and macro-averaged precision, recall and F1, computed by scikit-learn: evaluate without the network."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value("int64"), "references": Value("int64")})
        return evaluate.MetricInfo(description=self.__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        precision, recall, f1, _ = precision_recall_fscore_support(
            references, predictions, average="macro", zero_division=0
        )
        accuracy = accuracy_score(references, predictions)
        return {"accuracy": accuracy, "f1": float(f1), "precision": float(precision), "recall": float(recall)}


class RunGuard(TrainerCallback):
    """Makes the order of documents depend on seed and epoch alone, and stops cleanly: at Ctrl-C with a checkpoint, and
    when the loss is no number."""

    def __init__(self) -> None:
        self.interrupted = False
        self.bad_step: int | None = None

    def interrupt(self, *_) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        logger.warning("stopping after this step; press Ctrl-C again to stop at once")

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # Without a generator of its own, length grouping draws from the global one, and a run that is continued in the
        # middle of an epoch would not see the documents that are left. With several processes the sampler lies deeper.
        batches = getattr(train_dataloader, "batch_sampler", None)
        sampler = getattr(batches, "batch_sampler", batches).sampler
        if isinstance(sampler, LengthGroupedSampler):
            seed = args.seed if args.data_seed is None else args.data_seed
            sampler.generator = torch.Generator().manual_seed(seed + int((state.epoch or 0) + 1e-6))

    def on_step_end(self, args, state, control, **kwargs):
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not math.isfinite(logs.get("loss", 0.0)) or not math.isfinite(logs.get("eval_loss", 0.0)):
            self.bad_step = state.global_step
            control.should_training_stop = True


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
    parser.set_defaults(**STUDY_DEFAULTS)
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
    adapt_to_machine(namespace)
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:
        fail(one_line(error))


def adapt_to_machine(namespace: argparse.Namespace) -> None:
    """Set what depends on the machine and on the task: accumulation to the study's batch, no fp16 on a CPU."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    cpu = namespace.use_cpu or str_to_bool(os.environ.get("ACCELERATE_USE_CPU", "false"))
    if cpu or not torch.accelerator.is_available():
        namespace.use_cpu, namespace.dataloader_pin_memory = True, False
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION")
        warn = logger.warning if int(os.environ.get("RANK", 0)) == 0 else logger.debug
        if namespace.fp16 or launched == "fp16":
            namespace.fp16 = False
            os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
            warn("fp16 needs a GPU and there is none: this run computes in fp32")
        threads, cores = torch.get_num_threads() * processes, os.cpu_count()
        if launched and threads < cores:  # accelerate launch gives a process one thread unless it is told otherwise
            warn("%d of %d cores are used; OMP_NUM_THREADS=%d uses all", threads, cores, cores // processes)
        devices = processes
    else:
        devices = max(processes, torch.accelerator.device_count() if processes == 1 else 1)
    if not namespace.do_train:  # otherwise these would switch evaluation on for a command that only predicts
        namespace.eval_strategy, namespace.load_best_model_at_end = "no", False
    if namespace.gradient_accumulation_steps is None:
        per_step = namespace.per_device_train_batch_size * devices
        namespace.gradient_accumulation_steps = max(1, round(STUDY_BATCH_SIZE / per_step))


def load_splits(
    arguments: DataTrainingArguments, needed: list[str], seed: int
) -> tuple[DatasetDict, list[str] | None]:
    """Read the splits with the columns ``id``, ``text``, ``label`` (class name), and the class names in their order.

    A dataset that is not as fetch_arxiv.py writes it goes through prepare_dataset.py, and so do files: it makes such a
    dataset of them, or says what is wrong and ends with exit code 2.
    """
    columns = [name for names in arguments.text_column_names for name in names.split(",")]
    label, splits = arguments.label_column_name, ("train", "validation", "test")
    files = [file for split in splits if (file := getattr(arguments, f"{split}_file"))]
    if bool(files) == bool(arguments.dataset_name):
        fail("give either --dataset_name or --train_file, --validation_file, --test_file")
    try:
        if files:
            content = [sha256(file) for file in files]
        else:
            dataset = load_dataset(arguments.dataset_name, arguments.dataset_config_name)
            content = [part.cache_files for part in dataset.values()]
    except Exception as error:  # datasets raises many kinds: no such folder, no network, broken parquet
        fail(f"cannot load {arguments.dataset_name or ', '.join(files)}: {one_line(error)}")
    if files or not all(split in dataset and is_ready(dataset[split], columns, label) for split in needed):
        dataset = load_dataset(prepare(arguments, needed, seed, content))
        columns, label = ["abstract"], "label"

    limits = (arguments.max_train_samples, arguments.max_eval_samples, arguments.max_predict_samples)
    limits = dict(zip(splits, limits, strict=True))
    names = dataset[needed[0]].features[label].names
    tables = DatasetDict()
    for split in needed:
        part = dataset[split]
        if (limit := limits[split]) is not None:
            if limit < 1:
                fail(f"the number of documents of split {split!r} must be at least 1, not {limit}")
            part = part.select(range(min(limit, len(part))))
        texts = map(arguments.text_column_delimiter.join, zip(*(part[column] for column in columns), strict=True))
        ids = part["id"] if "id" in part.column_names else (f"{split}.{row}" for row in range(len(part)))
        labels = [part.features[label].names[number] for number in part[label]]
        tables[split] = Dataset.from_dict({"id": list(map(str, ids)), "text": list(texts), "label": labels})
    return tables, names


def sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_ready(part: Dataset, columns: list[str], label: str) -> bool:
    """Whether a split can be used as it is: texts in the columns, numbered classes, ids that differ, nothing empty."""
    kinds = {getattr(part.features.get(column), "dtype", None) for column in columns}
    if not isinstance(part.features.get(label), ClassLabel) or not kinds <= {"string", "large_string"}:
        return False
    ids = part["id"] if "id" in part.column_names else range(len(part))
    filled = all(text and text.strip() for column in columns for text in part[column])
    labelled = all(number is not None and number >= 0 for number in part[label])
    return len(part) > 0 and filled and labelled and len(set(ids)) == len(part)


def prepare(arguments: DataTrainingArguments, needed: list[str], seed: int, content: list) -> str:
    """Have prepare_dataset.py make a dataset folder in the cache, once for the same content; return the folder."""
    given = {key: value for key in PREPARED_BY if (value := getattr(arguments, key)) is not None}
    given["text_column_names"] = ",".join(arguments.text_column_names)
    flags = [f"--{key}={value}" for key, value in given.items()] + [f"--seed={seed}", "--splits", *needed]
    folder = Path(datasets.config.HF_DATASETS_CACHE, "prepared", Hasher.hash([flags, content]))
    script = Path(__file__).with_name("prepare_dataset.py")
    if not (folder / "manifest.json").exists():
        if not script.exists():
            fail("files and datasets of other columns are prepared by prepare_dataset.py: put it beside this script")
        if code := subprocess.run([sys.executable, script, *flags, "--output_dir", folder]).returncode:
            raise SystemExit(code)
    return str(folder)


def load_model(
    arguments: ModelArguments, data: DataTrainingArguments, names: list[str], training: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load tokenizer and classifier, in fp32 whatever the checkpoint is stored in: mixed precision needs fp32 weights.

    When training, the classes become id2label and label2id; otherwise the model's own classes must be the dataset's.
    """
    source = arguments.model_name_or_path or arguments.config_name
    if not source or (arguments.model_name_or_path and arguments.config_name):
        fail("give --model_name_or_path, or --config_name with --tokenizer_name to train from scratch")
    tokenizer_name = arguments.tokenizer_name or source
    try:
        config = AutoConfig.from_pretrained(source, revision=arguments.model_revision)
        if training:
            config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
            config.text_prefix, config.max_seq_length = data.text_prefix, data.max_seq_length
        elif unknown := set(names) - set(config.id2label.values()):
            fail(f"model {source} knows {sorted(config.id2label.values())} but the dataset has {sorted(unknown)} too")
        else:  # texts as it was trained on
            data.text_prefix = data.text_prefix or getattr(config, "text_prefix", "")
            data.max_seq_length = min(data.max_seq_length, getattr(config, "max_seq_length", math.inf))
        try:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_name, revision=arguments.model_revision)
        except (OSError, ValueError, KeyError, TypeError) as error:
            fail(f"{tokenizer_name} has no tokenizer that can be loaded ({one_line(error)}); give --tokenizer_name")
        if tokenizer.vocab_size <= len(tokenizer.all_special_ids):  # what is made of a folder without its files
            fail(f"{tokenizer_name} has no tokenizer files; give --tokenizer_name")
        options = {"attn_implementation": arguments.attn_implementation} if arguments.attn_implementation else {}
        for key in ("attention_probs_dropout_prob", "attention_dropout"):  # as BERT and as newer encoders call it
            if arguments.attention_dropout is not None and hasattr(config, key):
                setattr(config, key, arguments.attention_dropout)
        if arguments.model_name_or_path:
            model = AutoModelForSequenceClassification.from_pretrained(
                source,
                config=config,
                revision=arguments.model_revision,
                dtype=torch.float32,
                ignore_mismatched_sizes=training,  # a head of another task is replaced
                **options,
            )
        else:
            config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
            if hasattr(config, "mask_token_id"):  # EuroBERT's default lies outside of a smaller vocabulary
                config.mask_token_id = tokenizer.mask_token_id
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, **options)
        if arguments.init_embeddings_from:
            given = AutoModel.from_pretrained(arguments.init_embeddings_from).get_input_embeddings().weight
            own = model.get_input_embeddings().weight
            if own.shape != given.shape:
                fail(
                    f"the embeddings of {arguments.init_embeddings_from} are {tuple(given.shape)} but the model needs "
                    f"{tuple(own.shape)}; take its tokenizer and its hidden size"
                )
            own.data.copy_(given)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        fail(f"cannot load model {source}: {one_line(error)}")

    positions = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    # RoBERTa counts positions from padding_idx + 1, so its table is longer than the texts that it takes.
    reserved = max((module.padding_idx + 1 for module in positions if getattr(module, "padding_idx", None)), default=0)
    limit = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", math.inf) - reserved)
    if not 2 < data.max_seq_length <= limit:
        fail(f"--max_seq_length {data.max_seq_length} is not between 3 and the {limit} positions of {source}")
    return model, tokenizer


def tokenize(
    dataset: Dataset, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: DataTrainingArguments
):
    """Return the split with input_ids, attention_mask, labels and length, read from disk if that was done before."""
    label2id, prefix, limit = model.config.label2id, data.text_prefix, data.max_seq_length
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()  # set by an earlier call, it would change the key
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else repr(tokenizer)
    key = Hasher.hash([dataset["text"][:], dataset["label"][:], label2id, prefix, limit, rules])
    cache = Path(datasets.config.HF_DATASETS_CACHE, "tokenised", f"{key}.arrow")

    def preprocess(batch: dict) -> dict:
        encoded = dict(tokenizer([prefix + text for text in batch["text"]], truncation=True, max_length=limit))
        encoded["labels"] = [label2id[label] for label in batch["label"]]
        encoded["length"] = [len(pieces) for pieces in encoded["input_ids"]]
        return encoded

    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        return dataset.map(
            preprocess,
            batched=True,
            remove_columns=dataset.column_names,
            num_proc=data.preprocessing_num_workers,
            cache_file_name=str(cache),
            load_from_cache_file=not data.overwrite_cache,
            desc="tokenising",
        )
    except OSError as error:
        fail(f"cannot write the tokenised texts into {cache.parent} ({one_line(error)}); set HF_DATASETS_CACHE")


def last_complete_checkpoint(folder: Path, model: PreTrainedModel) -> str | None:
    """The newest checkpoint that is whole: its weights can be opened, its state (written last) can be read.

    Ends with exit code 2 if its weights are not those of such a model.
    """
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            for weights in path.glob("*.safetensors"):
                with safe_open(weights, "pt") as held:  # checks that the file is as long as its header says
                    if any(shapes.get(name) != held.get_slice(name).get_shape() for name in held.keys()):  # noqa: SIM118
                        fail(f"{path} is a checkpoint of another model than --model_name_or_path; delete {folder}")
            return str(path)
        except (OSError, ValueError, SafetensorError):
            logger.warning("%s was cut off while it was written; the one before it is used", path)
    return None


def early_stopped(checkpoint: str | None, patience: int) -> bool:
    """Whether the checkpoint is the one at which early stopping had already ended the training."""
    if checkpoint is None or patience == 0:
        return False
    state = json.loads(Path(checkpoint, "trainer_state.json").read_text(encoding="utf-8"))
    stopping = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {})
    return stopping.get("attributes", {}).get("early_stopping_patience_counter", 0) >= patience


def predict_in_order(trainer: Trainer, dataset: Dataset, prefix: str) -> tuple[np.ndarray, dict[str, float]]:
    """Logits of shape (documents, classes) in dataset order, and the metrics.

    The documents are run sorted by length, which wastes no padding, and put back in order. The Trainer's own length
    grouping would permute the rows without telling, so it is switched off here.
    """
    trainer.args.train_sampling_strategy = "random"
    order = np.argsort(-np.array(dataset["length"]), kind="stable")
    output = trainer.predict(dataset.select(order), metric_key_prefix=prefix)
    logits = np.empty_like(output.predictions)
    logits[order] = output.predictions
    output.metrics[f"{prefix}_samples"] = len(dataset)
    # The Trainer's own figure is a mean over batches, which depends on their size and on the number of processes.
    exact = trainer.compute_loss_func(
        ModelOutput(logits=torch.tensor(output.predictions)), torch.tensor(output.label_ids)
    )
    output.metrics[f"{prefix}_loss"] = exact.item()
    return logits, output.metrics


def prepare_hub(training: TrainingArguments) -> None:
    """Create the repository before hours are spent on training; ends with exit code 2 if the Hub refuses it.

    A Hub that cannot be reached stops nothing: the run is then pushed at its end only. The token leaves the arguments,
    which the Trainer would pickle into the run folder and upload.
    """
    if training.hub_token:
        os.environ["HF_TOKEN"], training.hub_token = training.hub_token, None
    training.hub_model_id = training.hub_model_id or Path(training.output_dir).absolute().name
    if training.process_index:
        return
    try:
        private = training.hub_private_repo
        training.hub_model_id = HfApi().create_repo(training.hub_model_id, private=private, exist_ok=True).repo_id
    except Exception as error:  # the client's own kinds, those of its HTTP library, and OSError
        if isinstance(error, ValueError) or (isinstance(error, HfHubHTTPError) and error.response.status_code < 500):
            fail(f"no repository {training.hub_model_id} on the Hub ({one_line(error)}); see 'hf auth login'")
        logger.warning("the Hub cannot be reached (%s); the run will be pushed at its end", one_line(error))
        training.push_to_hub = False


def run_record(model: ModelArguments, data: DataTrainingArguments, training: TrainingArguments) -> dict:
    """What makes this run: arguments, seed and versions. Holds no token."""
    total = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    arguments = asdict(model) | asdict(data) | training.to_sanitized_dict() | {"total_train_batch_size": total}
    name = model.model_name_or_path or model.config_name
    # The bytes of a model folder are the same wherever it lies, so only its name counts as the model's.
    packages = ("torch", "transformers", "accelerate", "datasets", "evaluate", "scikit-learn")
    return {
        "script": "run_classification.py",
        "model_name_or_path": name,
        "dataset_name": data.dataset_name or data.train_file,
        "seed": training.seed,
        "learning_rate": training.learning_rate,
        "total_train_batch_size": total,
        "arguments": {key: arguments[key] for key in IDENTITY},
        "device": torch.cuda.get_device_name() if training.device.type == "cuda" else training.device.type,
        "precision": "fp16" if training.fp16 else "bf16" if training.bf16 else "fp32",
        "processes": training.world_size,
        "versions": {"python": sys.version.split()[0]} | {package: version(package) for package in packages},
    }


def check_output_dir(folder: Path, record: dict, arguments: TrainingArguments) -> bool:
    """Return whether the run in the folder is finished; refuse a folder that holds another run or something else."""
    finished = "predict" if arguments.do_predict else "eval" if arguments.do_eval else "train"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        contents = list(folder.iterdir())
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}")
    if not os.access(folder, os.W_OK):
        fail(f"cannot write into --output_dir {folder}: it is read-only")
    if not contents or not arguments.do_train:
        return False
    try:
        before = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["arguments"]
    except (OSError, ValueError, KeyError):
        fail(f"{folder} holds something else than a run of this script; choose another --output_dir")
    for key, value in record["arguments"].items():
        if before.get(key) != value:
            fail(f"{folder} holds a run with {key} {before.get(key)}, not {value}; choose another --output_dir")
    return (folder / f"{finished}_results.json").exists()


def write(path: Path, content: str) -> None:
    """Write text under a temporary name and rename it, so that no file is ever half there."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)


def main() -> None:
    # 1. Arguments, output folder, seed
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line a request otherwise
    model_arguments, data_arguments, training_arguments = parse_arguments(
        ModelArguments, DataTrainingArguments, TrainingArguments
    )
    if not (training_arguments.do_train or training_arguments.do_eval or training_arguments.do_predict):
        fail("nothing to do; give --do_train, --do_eval, --do_predict or several of them")
    if not training_arguments.output_dir:
        fail("give --output_dir")
    logger.setLevel(logging.INFO if training_arguments.should_log else logging.ERROR)
    folder = Path(training_arguments.output_dir)
    record = run_record(model_arguments, data_arguments, training_arguments)
    if check_output_dir(folder, record, training_arguments):
        logger.info("%s is finished; delete the folder to run it again", folder)
        return
    if record["total_train_batch_size"] != STUDY_BATCH_SIZE and training_arguments.do_train:
        logger.warning("%d documents an update (the study: %d)", record["total_train_batch_size"], STUDY_BATCH_SIZE)
    set_seed(training_arguments.seed)  # before the model: its head is drawn at random

    # 2. Texts and labels
    wanted = {
        "train": training_arguments.do_train,
        "validation": training_arguments.do_train or training_arguments.do_eval,
        "test": training_arguments.do_predict,
    }
    needed = [split for split in wanted if wanted[split]]
    with training_arguments.main_process_first(desc="reading the data"):
        splits, names = load_splits(data_arguments, needed, training_arguments.seed)
    if training_arguments.do_train:
        trained = set(splits["train"]["label"])
        for split in needed:
            if unseen := sorted(set(splits[split]["label"]) - trained):
                fail(f"split {split!r} has documents of {unseen[0]}, the training split has none; split the data anew")
        if len(trained) < 2:
            fail(f"all training documents are of the class {trained.pop()}; there is nothing to tell apart")

    # 3. Model and word pieces
    model, tokenizer = load_model(model_arguments, data_arguments, names, training_arguments.do_train)
    with training_arguments.main_process_first(desc="tokenising"):
        encoded = {split: tokenize(splits[split], model, tokenizer, data_arguments) for split in needed}
    for split, part in encoded.items():
        cut = np.mean(np.array(part["length"]) >= data_arguments.max_seq_length)
        logger.info("%s: %s documents, %.0f %% as long as the limit or cut", split, f"{len(part):,}", 100 * cut)

    # 4. Trainer
    half = training_arguments.fp16 or training_arguments.bf16
    metrics = ClassificationMetrics(keep_in_memory=True)
    weight = torch.ones(len(names))
    if data_arguments.class_weights == "balanced" and training_arguments.do_train:
        labels = encoded["train"]["labels"][:]
        known = np.unique(labels)
        weight[known] = torch.tensor(compute_class_weight("balanced", classes=known, y=labels), dtype=torch.float32)

    def compute_loss(outputs, labels, num_items_in_batch=None):
        """Mean cross-entropy over the documents of an update.

        transformers 5.23 takes a model's own loss for a sum over the whole update wherever its forward has keyword
        arguments; that of a BERT classifier is the mean of one step, so 16 accumulated steps would count 16-fold.
        """
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, weight.to(outputs.logits), reduction="sum")
        return loss / (num_items_in_batch if num_items_in_batch is not None else len(labels))

    guard = RunGuard()
    callbacks = [guard]
    if data_arguments.early_stopping_patience and training_arguments.do_train:
        callbacks.append(EarlyStoppingCallback(data_arguments.early_stopping_patience))
    if push := training_arguments.push_to_hub:
        prepare_hub(training_arguments)
    trainer = Trainer(
        model=model,
        args=training_arguments,
        train_dataset=encoded.get("train"),
        eval_dataset=encoded.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(
            tokenizer, pad_to_multiple_of=data_arguments.pad_to_multiple_of or (8 if half else None)
        ),
        compute_metrics=lambda output: metrics.compute(
            predictions=output.predictions.argmax(axis=1), references=output.label_ids
        ),
        compute_loss_func=compute_loss,
        callbacks=callbacks,
    )

    try:
        if trainer.is_world_process_zero() and (training_arguments.do_train or not (folder / RUN_FILE).exists()):
            write(folder / RUN_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

        # 5. Training
        if training_arguments.do_train:
            checkpoint = training_arguments.resume_from_checkpoint or last_complete_checkpoint(folder, model)
            if early_stopped(checkpoint, data_arguments.early_stopping_patience):
                trainer.args.num_train_epochs = 0  # only the best model is still to be loaded
            handler = signal.signal(signal.SIGINT, guard.interrupt)
            result = trainer.train(resume_from_checkpoint=checkpoint)
            signal.signal(signal.SIGINT, handler)
            if guard.bad_step is not None:
                best = trainer.state.best_model_checkpoint
                kept = f"the best model so far is in {best}" if best else "there was no evaluation before"
                fail(f"the loss is no number at step {guard.bad_step}; {kept}; lower --learning_rate or use --bf16")
            if guard.interrupted:
                logger.warning("saved in %s; the same command continues from there", folder)
                raise SystemExit(130)
            trainer.args.push_to_hub = False  # stage 8 pushes the complete folder, with its card
            trainer.save_model()
            trainer.save_metrics("train", result.metrics | {"train_samples": len(encoded["train"])})
            trainer.save_state()

        # 6. Validation split
        if training_arguments.do_eval:
            _, results = predict_in_order(trainer, encoded["validation"], "eval")
            trainer.save_metrics("eval", results)

        # 7. Test split, once
        if training_arguments.do_predict:
            logits, results = predict_in_order(trainer, encoded["test"], "predict")
            probabilities = softmax(logits.astype(np.float64), axis=1)
            id2label = [model.config.id2label[label] for label in range(model.config.num_labels)]
            predictions = probabilities.argmax(axis=1)
            table = pd.DataFrame(
                {
                    "id": splits["test"]["id"],
                    "label": splits["test"]["label"],
                    "prediction": [id2label[label] for label in predictions],
                }
                | {name: probabilities[:, label] for label, name in enumerate(id2label)}
            )
            if trainer.is_world_process_zero():
                write(folder / "predictions.csv", table.to_csv(index=False, float_format="%.6f"))
            trainer.save_metrics("predict", results)

    except (OSError, SafetensorError, MemoryError, RuntimeError) as error:
        # torch has no kinds of its own for a CPU without memory and for a checkpoint that cannot be written
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
            fail(
                "out of memory: lower --per_device_train_batch_size (accumulation makes up for it) or --max_seq_length"
            )
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        fail(f"cannot write into {folder}: {one_line(error)}; free some space, then the same command continues")

    # 8. Pictures, model card, Hub: from the files
    if not trainer.is_world_process_zero():
        return
    # A pickle of the arguments that nobody needs: run_arguments.json says the same.
    (folder / "training_args.bin").unlink(missing_ok=True)
    make_card = Path(__file__).with_name("make_card.py")
    if training_arguments.do_predict and (folder / "trainer_state.json").exists() and make_card.exists():
        command = [sys.executable, make_card, "--run_dir", folder]
        if push:
            command += ["--push_to_hub", "--hub_model_id", training_arguments.hub_model_id]
            command += ["--hub_private_repo"] if training_arguments.hub_private_repo else []
        if code := subprocess.run(command).returncode:
            raise SystemExit(code)
    for key in ("eval", "predict"):
        path = folder / f"{key}_results.json"
        if path.exists():
            results = json.loads(path.read_text(encoding="utf-8"))
            logger.info("%s: accuracy %.4f, macro F1 %.4f", key, results[f"{key}_accuracy"], results[f"{key}_f1"])


if __name__ == "__main__":
    main()
