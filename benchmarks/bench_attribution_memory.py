#!/usr/bin/env python
"""Measure memory and speed of gradients along a path.

    python benchmarks/bench_attribution_memory.py                 # BERT-large, random weights
    python benchmarks/bench_attribution_memory.py --internal_batch_size 16
    python benchmarks/bench_attribution_memory.py --model_name_or_path runs/minilm
    python benchmarks/bench_attribution_memory.py --alternative_batch_size 16

A model in float32 (by default BERT-large's 335 M parameters), one text of --tokens tokens, --points
points on its path, evaluated as the search does. The peak is that of the process's resident memory,
with Python and torch. --alternative_batch_size is evaluated afterwards, in turn with the first,
five times each, and the row says how many times as long it takes (median of the pairs). Adds a row
to benchmarks/results/attribution_memory.json.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import run_attribution  # noqa: E402


def load_model(source: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a model and its tokenizer: those of a folder, or BERT-large with random weights."""
    if source is not None:
        model = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        return model, AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{k}" for k in range(30517))]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
    )
    return BertForSequenceClassification(config), tokenizer


def make_text(tokenizer: PreTrainedTokenizerBase, tokens: int) -> str:
    """Return a text of so many tokens, special ones included: words that are one token each."""
    words = []
    for word, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if word.isalnum() and tokenizer(word, add_special_tokens=False)["input_ids"] == [number]:
            words.append(word)
        if len(words) == tokens - 2:
            break
    return " ".join(words)


def compare_speed(explainer, embedded, points: int, alternative: int) -> float:
    """Return the median over five pairs of the seconds of the alternative by those of the first."""
    alphas = np.linspace(0, 1, points)
    first = explainer.batch_size
    ratios = []
    for _ in range(5):
        seconds = []
        for size in (first, alternative):
            explainer.batch_size = size
            start = time.perf_counter()
            explainer.evaluate(embedded, alphas)
            seconds.append(time.perf_counter() - start)
            if explainer.batch_size != size:
                raise SystemExit(f"batch size {size} does not fit into memory")
        ratios.append(seconds[1] / seconds[0])
    explainer.batch_size = first
    return round(statistics.median(ratios), 3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name_or_path", help="default: BERT-large with random weights")
    parser.add_argument("--internal_batch_size", type=int, help="default: that of the script")
    parser.add_argument("--alternative_batch_size", type=int, help="to compare the speed")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument(
        "--output_file", type=Path, default=ROOT / "benchmarks/results/attribution_memory.json"
    )
    arguments = parser.parse_args()

    model, tokenizer = load_model(arguments.model_name_or_path)
    text = make_text(tokenizer, arguments.tokens)
    parameters = sum(values.numel() for values in model.parameters())
    settings = run_attribution.AttributionArguments(
        internal_batch_size=arguments.internal_batch_size, max_seq_length=arguments.tokens
    )
    explainer = run_attribution.Explainer(model, tokenizer, settings)
    document = {"id": "text-1", "text": text, "label": None}
    explainer.encode(document)
    embedded = explainer.embed(document)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    used = time.process_time()
    explainer.evaluate(embedded, np.linspace(0, 1, arguments.points))
    row = {
        "model": Path(arguments.model_name_or_path or "BERT-large, random weights").name,
        "layers": model.config.num_hidden_layers,
        "internal_batch_size": explainer.batch_size,
        "is_default": arguments.internal_batch_size is None,
        "parameters": parameters,
        "tokens": len(document["tokens"]),
        "points": arguments.points,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "peak_gib_before": round(before / 2**20, 2),
        "seconds_per_gradient": round((time.perf_counter() - start) / arguments.points, 3),
        "cpu_seconds_per_gradient": round((time.process_time() - used) / arguments.points, 3),
        "device": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "date": datetime.date.today().isoformat(),
        "load_average": round(os.getloadavg()[0], 1),
    }
    if arguments.alternative_batch_size is not None:
        alternative = arguments.alternative_batch_size
        row["alternative_batch_size"] = alternative
        row["seconds_alternative_to_first"] = compare_speed(
            explainer, embedded, arguments.points, alternative
        )
    rows = []
    if arguments.output_file.exists():
        rows = json.loads(arguments.output_file.read_text(encoding="utf-8"))
    rows.append(row)
    arguments.output_file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
