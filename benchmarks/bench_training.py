#!/usr/bin/env python
"""Measure how fast an encoder is fine-tuned: settings of the Hugging Face example and our own.

    # two CPU cores, a small encoder (about eight minutes)
    python benchmarks/bench_training.py --dataset_name data/arxiv --model_name_or_path MODEL
    # one GPU, BERT-large with random weights
    python benchmarks/bench_training.py --dataset_name data/arxiv --config bert-large \\
        --tokenizer_name MODEL --steps 30 --output_file benchmarks/results/training_gpu.json
    # some settings only; their rows replace the ones in the file, the others stay
    python benchmarks/bench_training.py --dataset_name data/arxiv --model_name_or_path MODEL \\
        --settings example
    # does memory grow while lengths vary? resident memory and page faults during 200 steps, for
    # ways to allocate
    python benchmarks/bench_training.py --dataset_name data/arxiv --model_name_or_path MODEL \\
        --memory_steps 200 --settings ours_fp32 huge_pages \\
        --output_file benchmarks/results/training_memory.json
    # prediction instead of training: 1,000 documents as the example predicts them and as
    # run_classification.py does
    python benchmarks/bench_training.py --dataset_name data/arxiv --model_name_or_path MODEL \\
        --evaluate 1000 --output_file benchmarks/results/evaluation.json

Every setting trains with the Trainer in a process of its own, so that its peak memory is its own;
every step updates the weights. The batches are those that the sampler of the setting forms of the
whole training split: sorted by length and cut into as many parts as there are steps, and the middle
batch of each part is taken. A few steps then stand for an epoch, padding included. With
--memory_steps the batches come in the sampler's own order, as in a training.

Writes benchmarks/results/training.json: per setting documents/s, tokens/s (real ones, no padding),
the share of padding, peak memory and model FLOPs utilization (the share of the device's
matrix-product peak that real tokens get); seconds of the processor in the program and in the
kernel, page faults, and with --memory_steps how they grew.
"""

import argparse
import datetime
import json
import logging
import os
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from datasets import Dataset, load_dataset, load_from_disk
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DataCollatorWithPadding,
    HfArgumentParser,
    PretrainedConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

logger = logging.getLogger(__name__)

STUDY_BATCH_SIZE = 512
# What a setting changes against ours_fp32: sdpa, grouped by length, dynamic padding, fused AdamW.
# On a CPU, run_classification.py trains a model with attention dropout as eager_attention does.
CHANGES = {
    "example": {"padding": "static", "grouped": False},
    "ours_fp32": {},
    "no_length_grouping": {"grouped": False},
    "eager_attention": {"attention": "eager"},
    "no_fused_adamw": {"optim": "adamw_torch"},
    "pad_to_64": {"multiple": 64},
    "compile_pad_to_64": {"multiple": 64, "torch_compile": True},
    "no_attention_dropout": {"attention_dropout": 0.0},
    "ours_bf16": {"bf16": True, "multiple": 8},
    "ours_fp16": {"fp16": True, "multiple": 8},
    "example_fp16": {"padding": "static", "grouped": False, "fp16": True},
    "eager_attention_fp16": {"fp16": True, "multiple": 8, "attention": "eager"},
    "no_attention_dropout_fp16": {"fp16": True, "multiple": 8, "attention_dropout": 0.0},
    "compile_pad_to_64_fp16": {"fp16": True, "multiple": 64, "torch_compile": True},
    # Ways to allocate memory on a CPU, read by torch, glibc and oneDNN when the process starts
    "huge_pages": {"environment": {"THP_MEM_ALLOC_ENABLE": "1"}},
    "huge_pages_glibc": {"environment": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}},
    "huge_pages_own_maps": {
        "environment": {"THP_MEM_ALLOC_ENABLE": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"}
    },
    "own_maps": {"environment": {"MALLOC_MMAP_THRESHOLD_": "1048576"}},
    "keep_freed_memory": {
        "environment": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}
    },
    "few_arenas": {"environment": {"MALLOC_ARENA_MAX": "2"}},
    "small_onednn_cache": {"environment": {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8"}},
    "pad_to_8": {"multiple": 8},
    "pad_to_16": {"multiple": 16},
    "pad_to_32": {"multiple": 32},
}
# With --evaluate: the example's batch size and order of documents, and run_classification.py's
EVALUATION = {
    "example_evaluate": {"padding": "static", "batch_size": 8},
    "ours_evaluate": {"sorted": True, "batch_size": 64 if torch.cuda.is_available() else 16},
    "ours_evaluate_batch_64": {"sorted": True, "batch_size": 64},
    "ours_evaluate_bf16": {
        "sorted": True,
        "batch_size": 64 if torch.cuda.is_available() else 16,
        "bf16": True,
    },
    "example_evaluate_fp16": {"padding": "static", "batch_size": 8, "fp16": True},
    "ours_evaluate_fp16": {"sorted": True, "batch_size": 64, "fp16": True, "multiple": 8},
}
DEFAULTS = {"padding": "dynamic", "grouped": True, "attention": "sdpa", "multiple": None}
GPU_ONLY = {name for name, changes in (CHANGES | EVALUATION).items() if "fp16" in changes}
MEMORY = list(CHANGES)[
    list(CHANGES).index("huge_pages") :
]  # measured by name or with --memory_steps only


@dataclass
class BenchArguments:
    """What is measured, on which texts."""

    dataset_name: str = field(
        metadata={"help": "Dataset folder or Hub id; its training split gives the lengths."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained encoder: folder or Hub id."}
    )
    config: str | None = field(
        default=None,
        metadata={
            "help": "bert-large or a configuration (folder, file, Hub id) for random weights."
        },
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer, if it is not the model's."}
    )
    text_column_name: str = field(default="abstract", metadata={"help": "Column of the texts."})
    max_seq_length: int = field(
        default=256, metadata={"help": "Maximum number of tokens of a text."}
    )
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Documents a step."})
    steps: int = field(
        default=4,
        metadata={"help": "Measured steps a setting, after warm-up steps of all lengths."},
    )
    settings: list[str] | None = field(
        default=None,
        metadata={"help": f"Of {', '.join(CHANGES)}; default: all that the device can do."},
    )
    memory_steps: int | None = field(
        default=None,
        metadata={"help": "Train so many steps in the sampler's order and watch the memory."},
    )
    evaluate: int | None = field(
        default=None,
        metadata={"help": "Predict so many documents instead: the example's way and ours."},
    )
    memory_every: int = field(
        default=20, metadata={"help": "Steps from one look at the memory to the next."}
    )
    timeout_s: int = field(
        default=150, metadata={"help": "Seconds after which a setting is given up (compiling)."}
    )
    output_file: str = field(
        default="benchmarks/results/training.json", metadata={"help": "Where the table goes."}
    )
    one_setting: str | None = field(
        default=None,
        metadata={
            "help": "Measure this setting here and print it (what the parent process starts)."
        },
    )
    encoded_dir: str | None = field(
        default=None, metadata={"help": "Tokenized texts (for --one_setting)."}
    )


class Stopwatch(TrainerCallback):
    """Takes time and memory after the warm-up, after the last step and every ``every`` steps."""

    def __init__(self, warmup: int, every: int | None) -> None:
        self.warmup, self.every, self.looks = warmup, every, []

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step - self.warmup
        if (
            step == 0
            or state.global_step == state.max_steps
            or (step > 0 and self.every and step % self.every == 0)
        ):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.looks.append({"step": step} | use_of_machine())


def use_of_machine() -> dict[str, float]:
    """Time, memory and page faults of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return {
        "seconds": time.perf_counter(),
        "user_seconds": usage.ru_utime,
        "system_seconds": usage.ru_stime,
        "page_faults": usage.ru_minflt,
        "resident_gib": resident / 2**30,
        "peak_resident_gib": max(usage.ru_maxrss * 1024, resident)
        / 2**30,  # the kernel notes the maximum late
    }


def fail(message: str) -> NoReturn:
    """End the program as every user's mistake ends it: one line on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse_arguments() -> BenchArguments:
    """Parse the command line; ends with exit code 2 on a bad value."""
    parser = HfArgumentParser(
        BenchArguments,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = fail
    try:
        (arguments,) = parser.parse_args_into_dataclasses()
    except ValueError as error:  # an unknown flag
        fail(str(error))
    if bool(arguments.model_name_or_path) == bool(arguments.config):
        fail("give either --model_name_or_path or --config")
    for name in [
        *(arguments.settings or []),
        *([arguments.one_setting] if arguments.one_setting else []),
    ]:
        known = EVALUATION if arguments.evaluate else CHANGES
        if name not in known and name != "peak":
            fail(f"unknown setting {name}; there are {', '.join(known)}")
    for flag in ("steps", "memory_steps", "memory_every", "evaluate"):
        if (value := getattr(arguments, flag)) is not None and value < 1:
            fail(f"--{flag} must be at least 1, not {value}")
    return arguments


def load_config(arguments: BenchArguments, **changes) -> PretrainedConfig:
    """The model's configuration; ``bert-large`` needs no file."""
    if arguments.config == "bert-large":
        return BertConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            **changes,
        )
    return AutoConfig.from_pretrained(
        arguments.model_name_or_path or arguments.config, trust_remote_code=False, **changes
    )


def count_flops(config: PretrainedConfig, lengths: np.ndarray) -> float:
    """Floating-point operations of one training step for texts of these lengths, without padding.

    Matrix products only, counted by torch on a model without storage. A text costs a quadratic
    function of its length (linear layers and attention), so three lengths give it; the backward
    pass costs twice the forward one.
    """
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(
            config, attn_implementation="eager"
        ).eval()
    points, counts = np.array([16, 32, 64]), []  # short enough for any model
    for length in points:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(input_ids=torch.ones((1, int(length)), dtype=torch.long, device="meta"))
        counts.append(counter.get_total_flops())
    return 3 * float(np.polyval(np.polyfit(points, counts, 2), lengths).sum())


def measure_peak(precision: str) -> float:
    """Return the most FLOP/s that matrix products reach on this device: best of three sizes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    best = 0.0
    for size in (4096, 8192, 16384) if device == "cuda" else (1024, 1536, 2048):
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        for _ in range(6):
            start = time.perf_counter()
            left @ right
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def order_batches(lengths: list[int], batch_size: int, grouped: bool) -> list[list[int]]:
    """Return the rows of the batches of an epoch, in the order of the Trainer's sampler."""
    generator = torch.Generator().manual_seed(0)
    if grouped:
        order = list(LengthGroupedSampler(STUDY_BATCH_SIZE, lengths=lengths, generator=generator))
    else:
        order = torch.randperm(len(lengths), generator=generator).tolist()
    return [order[at : at + batch_size] for at in range(0, len(order) - batch_size + 1, batch_size)]


def pick_batches(lengths: list[int], batch_size: int, steps: int, grouped: bool) -> list[list[int]]:
    """Row numbers of ``steps`` batches that stand for an epoch, from the longest to the shortest.

    The batches of an epoch are sorted by their longest text; the middle one of each of ``steps``
    equal parts is taken.
    """
    batches = order_batches(lengths, batch_size, grouped)
    batches.sort(key=lambda batch: -max(lengths[row] for row in batch))
    return [batches[int((step + 0.5) * len(batches) / steps)] for step in range(steps)]


def pad(encoded: Dataset, tokenizer, setting: dict, max_seq_length: int) -> tuple:
    """Return the texts and the collator: padded to the maximum, or to the longest of a batch."""
    if setting["padding"] != "static":
        return encoded, DataCollatorWithPadding(tokenizer, pad_to_multiple_of=setting["multiple"])
    options = {"padding": "max_length", "max_length": max_seq_length}
    return encoded.map(lambda row: dict(tokenizer.pad(row, **options))), default_data_collator


def padded_lengths(
    batches: list, lengths: list[int], setting: dict, max_seq_length: int
) -> np.ndarray:
    """Return the length of the tensors of each batch."""
    if setting["padding"] == "static":
        return max_seq_length * np.ones(len(batches))
    multiple = setting["multiple"] or 1
    return np.array(
        [-(-max(lengths[row] for row in batch) // multiple) * multiple for batch in batches]
    )


def load_model(arguments: BenchArguments, setting: dict, vocab_size: int):
    """Return the classifier with five classes, pretrained or with random weights."""
    config = load_config(arguments, num_labels=5)
    options = {"attn_implementation": setting["attention"], "dtype": torch.float32}
    for key in ("attention_probs_dropout_prob", "attention_dropout"):
        if "attention_dropout" in setting and hasattr(config, key):
            setattr(config, key, setting["attention_dropout"])
    torch.manual_seed(0)
    if arguments.config:
        config.vocab_size = max(config.vocab_size, vocab_size)
        return AutoModelForSequenceClassification.from_config(config, **options)
    return AutoModelForSequenceClassification.from_pretrained(
        arguments.model_name_or_path,
        config=config,
        ignore_mismatched_sizes=True,
        use_safetensors=True,
        trust_remote_code=False,
        **options,
    )


def peak_memory(use: dict[str, float]) -> float:
    """Return the peak memory in GiB: the GPU's, or without one that of the process."""
    return (
        torch.cuda.max_memory_allocated() / 2**30
        if torch.cuda.is_available()
        else use["peak_resident_gib"]
    )


def measure_prediction(arguments: BenchArguments, name: str) -> dict:
    """Predict ``arguments.evaluate`` documents with one setting, after a batch to warm up."""
    setting = DEFAULTS | EVALUATION[name]
    encoded, batch_size = load_from_disk(arguments.encoded_dir), setting["batch_size"]
    tokenizer = AutoTokenizer.from_pretrained(
        arguments.tokenizer_name or arguments.model_name_or_path, trust_remote_code=False
    )
    # Any documents of the split, the same for every setting
    rows = np.random.default_rng(0).permutation(len(encoded))[: arguments.evaluate]
    lengths = np.array(encoded["length"])[rows]
    if setting.get("sorted"):
        order = np.argsort(-lengths, kind="stable")
        rows, lengths = rows[order], lengths[order]
    batches = [range(at, min(at + batch_size, len(rows))) for at in range(0, len(rows), batch_size)]
    padded = padded_lengths(batches, lengths, setting, arguments.max_seq_length)
    encoded, collator = pad(encoded.select(rows), tokenizer, setting, arguments.max_seq_length)
    model = load_model(arguments, setting, len(tokenizer))
    with tempfile.TemporaryDirectory() as scratch:
        options = TrainingArguments(
            output_dir=scratch,
            per_device_eval_batch_size=batch_size,
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            fp16="fp16" in setting,
            bf16_full_eval="bf16" in setting,
        )
        trainer = Trainer(model=model, args=options, data_collator=collator)
        trainer.predict(encoded.select(batches[0]))
        start = use_of_machine()
        trainer.predict(encoded)  # ends with the logits on the CPU
        end = use_of_machine()
    seconds = end["seconds"] - start["seconds"]
    return {
        "setting": name,
        "precision": next((key for key in ("bf16", "fp16") if key in setting), "fp32"),
        "documents_per_second": len(rows) / seconds,
        "real_tokens_per_second": float(lengths.sum() / seconds),
        "padding_share": float(
            1 - lengths.sum() / (padded * [len(batch) for batch in batches]).sum()
        ),
        "peak_memory_gib": peak_memory(end),
        "flops_per_second": count_flops(model.config, lengths) / 3 / seconds,  # the forward pass
        "seconds": seconds,
        "documents": len(rows),
        "batch_size": batch_size,
    }


def measure(arguments: BenchArguments, name: str) -> dict:
    """Train some steps with one setting; return its row: speed, memory and their parts."""
    setting = DEFAULTS | CHANGES[name]
    encoded = load_from_disk(arguments.encoded_dir)
    tokenizer = AutoTokenizer.from_pretrained(
        arguments.tokenizer_name or arguments.model_name_or_path, trust_remote_code=False
    )
    batch_size, lengths = arguments.per_device_train_batch_size, encoded["length"]
    if arguments.memory_steps:
        epoch = order_batches(lengths, batch_size, setting["grouped"])
        measured = [epoch[step % len(epoch)] for step in range(arguments.memory_steps)]
    else:
        measured = pick_batches(lengths, batch_size, arguments.steps, setting["grouped"])
    # Compiling and the kernels of a new shape are not counted: the warm-up sees long, middling and
    # short batches.
    warmup = pick_batches(
        lengths, batch_size, 4 if "torch_compile" in setting else 1, setting["grouped"]
    )
    rows = [row for batch in [*warmup, *measured] for row in batch]
    encoded, collator = pad(encoded.select(rows), tokenizer, setting, arguments.max_seq_length)
    padded = padded_lengths(measured, lengths, setting, arguments.max_seq_length)
    model = load_model(arguments, setting, len(tokenizer))
    stopwatch = Stopwatch(len(warmup), arguments.memory_every if arguments.memory_steps else None)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                per_device_train_batch_size=batch_size,
                max_steps=len(warmup) + len(measured),
                # The rows are in the order that the setting's sampler gave.
                train_sampling_strategy="sequential",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=torch.cuda.is_available(),
                **{
                    key: setting[key]
                    for key in ("optim", "bf16", "fp16", "torch_compile")
                    if key in setting
                },
            ),
            train_dataset=encoded,
            data_collator=collator,
            callbacks=[stopwatch],
        )
        before = use_of_machine()
        trainer.train()
    start, end = stopwatch.looks[0], stopwatch.looks[-1]
    used = {key: end[key] - start[key] for key in start}
    real = np.array([lengths[row] for batch in measured for row in batch])
    row = {
        "setting": name,
        "precision": next((key for key in ("bf16", "fp16") if key in setting), "fp32"),
        "documents_per_second": len(real) / used["seconds"],
        "real_tokens_per_second": float(real.sum() / used["seconds"]),
        "padding_share": float(1 - real.sum() / (padded.sum() * batch_size)),
        "peak_memory_gib": peak_memory(end),
        "resident_before_training_gib": before["resident_gib"],
        "flops_per_second": count_flops(model.config, real) / used["seconds"],
        "seconds": used["seconds"],
        "user_seconds": used["user_seconds"],
        "system_seconds": used["system_seconds"],
        "page_faults_per_step": used["page_faults"] / len(measured),
        "warmup_seconds": start["seconds"] - before["seconds"],
        "steps": len(measured),
    }
    if arguments.memory_steps:
        row["looks"] = [
            look | {"seconds": look["seconds"] - start["seconds"]} for look in stopwatch.looks
        ]
    return row


def measure_apart(name: str, encoded_dir: str, timeout_s: int) -> dict:
    """Measure one setting in a process of its own; its row says if it fails or takes too long."""
    command = [
        sys.executable,
        __file__,
        *sys.argv[1:],
        "--one_setting",
        name,
        "--encoded_dir",
        encoded_dir,
    ]
    environment = (
        os.environ
        | {"TOKENIZERS_PARALLELISM": "false"}
        | CHANGES.get(name, {}).get("environment", {})
    )
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return {"setting": name, "error": f"not done after {timeout_s} s (--timeout_s)"}
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or [
            f"exit code {result.returncode}"
        ]
        return {"setting": name, "error": lines[-1][:300]}
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    # 1. Arguments
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        level=logging.INFO,
        stream=sys.stdout,
    )
    arguments = parse_arguments()
    if arguments.one_setting == "peak":
        precisions = ["fp32", "bf16", "fp16"] if torch.cuda.is_available() else ["fp32", "bf16"]
        print(json.dumps({precision: measure_peak(precision) for precision in precisions}))
        return
    if arguments.one_setting:
        measure_one = measure_prediction if arguments.evaluate else measure
        print(json.dumps(measure_one(arguments, arguments.one_setting)))
        return
    every = EVALUATION if arguments.evaluate else [name for name in CHANGES if name not in MEMORY]
    names = arguments.settings or (
        ["ours_fp32", *MEMORY]
        if arguments.memory_steps
        else [name for name in every if name not in GPU_ONLY or torch.cuda.is_available()]
    )
    if GPU_ONLY & set(names) and not torch.cuda.is_available():
        fail(f"{', '.join(sorted(GPU_ONLY & set(names)))} need a GPU")

    # 2. Lengths of real texts, tokenized once for all settings
    try:
        texts = load_dataset(arguments.dataset_name, split="train")[arguments.text_column_name]
        tokenizer = AutoTokenizer.from_pretrained(
            arguments.tokenizer_name or arguments.model_name_or_path, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(
            f"cannot read the texts or the tokenizer ({' '.join(str(error).split())[:200]}); "
            "see --help"
        )
    if len(texts) < STUDY_BATCH_SIZE:
        fail(
            f"{arguments.dataset_name} has {len(texts)} training texts; "
            f"{STUDY_BATCH_SIZE} are needed"
        )
    start = time.perf_counter()
    encoded = dict(tokenizer(list(texts), truncation=True, max_length=arguments.max_seq_length))
    tokenizing = len(texts) / (time.perf_counter() - start)
    encoded |= {
        "labels": [row % 5 for row in range(len(texts))],
        "length": list(map(len, encoded["input_ids"])),
    }

    # 3. Every setting in its own process
    output = Path(arguments.output_file)
    rows = {}
    if arguments.settings and output.exists():
        rows = {
            row["setting"]: row
            for row in json.loads(output.read_text(encoding="utf-8"))["settings"]
        }
    with tempfile.TemporaryDirectory() as scratch:
        Dataset.from_dict(encoded).save_to_disk(scratch)
        peak = measure_apart("peak", scratch, arguments.timeout_s)
        logger.info(
            "matrix products: %s GFLOP/s",
            {key: round(value / 1e9, 1) for key, value in peak.items()},
        )
        for name in names:
            row = rows[name] = measure_apart(name, scratch, arguments.timeout_s)
            if "error" in row:
                logger.warning("%s: %s", name, row["error"])
                continue
            row["model_flops_utilization"] = row["flops_per_second"] / peak[row["precision"]]
            logger.info(
                "%-26s %6.1f documents/s %7.0f tokens/s %5.2f GiB %5.1f %% of the peak",
                name,
                row["documents_per_second"],
                row["real_tokens_per_second"],
                row["peak_memory_gib"],
                100 * row["model_flops_utilization"],
            )

    # 4. Table
    for row in rows.values():
        base = "example_evaluate" if row["setting"] in EVALUATION else "example"
        base = rows.get(f"{base}_fp16" if row.get("precision") == "fp16" else base, {})
        if "documents_per_second" in row and "documents_per_second" in base:
            row["ratio_to_example"] = row["documents_per_second"] / base["documents_per_second"]
    result = {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{torch.get_num_threads()} CPU cores",
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {"python": platform.python_version()}
        | {
            package: version(package)
            for package in ("torch", "transformers", "accelerate", "datasets")
        },
        "matrix_product_peak_flops_per_second": peak,
        "tokenized_documents_per_second": tokenizing,
        "texts": {
            "number": len(texts),
            "mean_length": float(np.mean(encoded["length"])),
            "quartiles": np.percentile(encoded["length"], [25, 50, 75]).tolist(),
        },
        "batch_size": arguments.per_device_train_batch_size,
        "max_seq_length": arguments.max_seq_length,
        "settings": [rows[name] for name in (*CHANGES, *EVALUATION) if name in rows],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(output.name + ".tmp")
    temporary.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, output)
    logger.info("wrote %s", output)


if __name__ == "__main__":
    main()
