#!/usr/bin/env python
"""Measure the search over 1..200 steps against captum's loop: one process, one model, the same
documents and batches.

    python benchmarks/bench_attribution.py --model_name_or_path runs/minilm --dataset_name data
    # hours on two cores
    python benchmarks/bench_attribution.py ... --captum_per_quartile 1 --exhaustive true
    # speed only; a GPU's job
    python benchmarks/bench_attribution.py ... --random_bert_large true --bf16 true

(a) The search of run_attribution.py on --max_samples documents, evenly over all lengths.
(b) captum's LayerIntegratedGradients for n = 1 ... 200, on --captum_per_quartile documents of each
quartile of the length: every n with --exhaustive, else n = 2, 50, 100, 150, 200, and the time of
the loop extrapolated by a line through these.

Agreement on captum's documents: the completeness error of captum at the n that the search chose,
against the smallest one of captum; the attributions against Gauss-Legendre with 200 points in
double precision, as a share of the stated error. Gradients per second and the share of a peak
(--peak_teraflops) count 4 FLOP for a token and a parameter outside the embeddings. Writes
benchmarks/results/attribution_captum.json.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from captum.attr import LayerIntegratedGradients
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import run_attribution  # noqa: E402


def synchronize() -> None:
    """Wait for the GPU, where there is one, so that clocks measure what they should."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def documents_of_all_lengths(name: str, split: str, number: int, tokenizer) -> list[str]:
    """Return abstracts of the split, evenly over the ranks of their length in tokens, from short to
    long.
    """
    texts = datasets.load_dataset(name)[split]["abstract"]
    texts = sorted(texts, key=lambda text: len(tokenizer(text)["input_ids"]))
    return [
        texts[k]
        for k in np.linspace(0, len(texts) - 1, min(number, len(texts))).round().astype(int)
    ]


def explain(
    model, tokenizer, line: dict, n: int, method: str, size: int
) -> tuple[np.ndarray, float]:
    """Return captum's attributions (tokens,) by a rule with n points, and F(x) - F(b), for a
    document's line.
    """
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(line["tokens"])], device=model.device)
    special = torch.tensor([[span is None for span in line["token_spans"]]], device=model.device)
    blank = torch.where(special, ids, tokenizer.pad_token_id)
    target = model.config.label2id[line["target"]]

    def logits(x: torch.Tensor) -> torch.Tensor:
        return model(input_ids=x, attention_mask=torch.ones_like(x)).logits

    captum = LayerIntegratedGradients(logits, model.base_model.embeddings)
    found = captum.attribute(
        ids, blank, target=target, n_steps=n, method=method, internal_batch_size=size
    )
    with torch.no_grad():
        difference = (logits(ids) - logits(blank))[0, target].item()
    return found.sum(-1)[0].cpu().double().numpy(), difference


def captum_loop(model, tokenizer, line: dict, every: list[int], method: str, size: int) -> dict:
    """Time captum and note its completeness errors for the numbers of steps in every; extrapolate
    to 1 ... 200.
    """
    seconds, gaps = [], []
    for n in every:
        synchronize()
        start = time.perf_counter()
        scores, difference = explain(model, tokenizer, line, n, method, size)
        synchronize()
        seconds.append(time.perf_counter() - start)
        gaps.append(abs(float(scores.sum()) - difference))
    slope, offset = np.polyfit(every, seconds, 1)
    measured = len(every) > 5
    whole = sum(seconds) if measured else float(slope * 20100 + offset * 200)
    loop = {"id": line["id"], "tokens": len(line["tokens"]), "seconds_of_the_loop": whole}
    return loop | {
        "extrapolated": not measured,
        "steps_measured": every,
        "seconds": seconds,
        "gaps": gaps,
    }


def agreement(model, double, tokenizer, line: dict, loop: dict, method: str, size: int) -> dict:
    """Compare the search with captum's smallest error at captum's precision, and with the integral
    in float64.
    """
    at_ours, difference = explain(model, tokenizer, line, line["n_steps"], method, size)
    reference, _ = explain(double, tokenizer, line, 200, "gausslegendre", size)
    ours = np.array(line["attributions"])
    chosen, smallest = abs(float(at_ours.sum()) - difference), min(loop["gaps"])
    off = np.abs(ours - reference)
    return {
        "id": line["id"],
        "tokens": len(line["tokens"]),
        "n_steps": line["n_steps"],
        "captum_gap_at_our_n": chosen,
        "smallest_captum_gap": smallest,
        "exhaustive": not loop["extrapolated"],
        "allowed": smallest + 1e-5 * abs(difference),
        "within": chosen <= smallest + 1e-5 * abs(difference),
        "largest_difference_to_captum": float(np.abs(ours - at_ours).max()),
        "relative_l1_to_float64": float(off.sum() / np.abs(reference).sum()),
        "largest_token_error": float(off.max()),
        "largest_error_as_share_of_the_stated": float((off / line["attribution_errors"]).max()),
    }


def write_bert_large(
    folder: Path, tokenizer_of: str, labels: dict
) -> BertForSequenceClassification:
    """Return a randomly initialized BERT of 335 M parameters with the vocabulary of another model:
    for speed only.
    """
    torch.manual_seed(0)
    size = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    label2id = {name: number for number, name in labels.items()}
    vocabulary = len(AutoTokenizer.from_pretrained(tokenizer_of, trust_remote_code=False))
    return BertForSequenceClassification(
        BertConfig(vocab_size=vocabulary, id2label=labels, label2id=label2id, **size)
    )


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    boolean = {"default": "false", "choices": ["true", "false"]}
    parser.add_argument(
        "--model_name_or_path", required=True, help="fine-tuned BERT-like classifier"
    )
    parser.add_argument("--dataset_name", required=True, help="dataset folder")
    parser.add_argument("--split", default="test", help="split of the dataset")
    parser.add_argument("--max_samples", type=int, default=100, help="documents of the search")
    parser.add_argument(
        "--max_seq_length", type=int, default=256, help="tokens of a document at most"
    )
    parser.add_argument(
        "--internal_batch_size", type=int, default=16, help="points in a batch, for both"
    )
    parser.add_argument(
        "--method", default="gausslegendre", choices=["gausslegendre", "riemann_middle"]
    )
    parser.add_argument(
        "--captum_per_quartile", type=int, default=2, help="documents of captum's loop"
    )
    parser.add_argument("--exhaustive", **boolean, help="run captum for all 200 n")
    parser.add_argument(
        "--random_bert_large", **boolean, help="speed of a random BERT of 335 M parameters"
    )
    parser.add_argument("--bf16", **boolean, help="the search in bfloat16")
    parser.add_argument(
        "--peak_teraflops", type=float, help="of the device, for the share of the peak"
    )
    parser.add_argument("--note", default="", help="goes into the file")
    parser.add_argument(
        "--output_file",
        default=str(ROOT / "benchmarks/results/attribution_captum.json"),
        help="JSON file",
    )
    return parser.parse_args()


def main() -> None:
    # 1. Model and documents
    arguments = parse_arguments()
    device, size = "cuda" if torch.cuda.is_available() else "cpu", arguments.internal_batch_size
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path, trust_remote_code=False)
    load = AutoModelForSequenceClassification.from_pretrained
    model, double = (
        load(
            arguments.model_name_or_path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
        )
        .eval()
        .requires_grad_(False)
        .to(device)
        for dtype in (torch.float32, torch.float64)
    )
    if arguments.random_bert_large == "true":
        model = write_bert_large(Path(), arguments.model_name_or_path, model.config.id2label)
        model = model.eval().requires_grad_(False).to(device)
        arguments.captum_per_quartile = 0
    texts = documents_of_all_lengths(
        arguments.dataset_name, arguments.split, arguments.max_samples, tokenizer
    )

    # 2. The search
    settings = {
        "method": arguments.method,
        "max_seq_length": arguments.max_seq_length,
        "internal_batch_size": size,
    }
    settings["bf16"] = arguments.bf16 == "true"
    run_attribution.attribute(
        model, tokenizer, texts[:1], **settings
    )  # matrices of the rules, warm caches
    lines = []
    for number, text in enumerate(tqdm(texts, desc="search"), 1):
        synchronize()
        (line,) = run_attribution.attribute(model, tokenizer, [text], **settings)
        lines.append(line | {"id": f"{arguments.split}-{number}"})

    # 3. captum on documents of every quartile of the length, and the agreement
    # captum asks for two points at least, except in a Gauss-Legendre rule
    first = 1 if arguments.method == "gausslegendre" else 2
    every = list(range(first, 201)) if arguments.exhaustive == "true" else [2, 50, 100, 150, 200]
    rng, loops, agreements = np.random.default_rng(0), [], []
    drawn = [
        k
        for quarter in np.array_split(np.arange(len(lines)), 4)
        for k in rng.choice(
            quarter, size=min(arguments.captum_per_quartile, len(quarter)), replace=False
        )
    ]
    for k in tqdm(drawn, desc="captum"):
        (again,) = run_attribution.attribute(
            model, tokenizer, [texts[k]], **settings
        )  # timed next to captum
        loop = captum_loop(model, tokenizer, lines[k], every, arguments.method, size)
        loops.append(
            loop
            | {
                "seconds_of_the_search": again["seconds"],
                "gradients": again["gradient_evaluations"],
            }
        )
        agreements.append(
            agreement(model, double, tokenizer, lines[k], loop, arguments.method, size)
        )

    # 4. Results
    evaluations = [line["gradient_evaluations"] for line in lines]
    parameters = sum(
        values.numel() for name, values in model.named_parameters() if "embeddings" not in name
    )
    tokens = sum(line["gradient_evaluations"] * len(line["tokens"]) for line in lines)
    seconds = sum(line["seconds"] for line in lines)
    errors = [line["relative_error"] or 0.0 for line in lines]
    result = {
        "search": {
            "documents": len(lines),
            "tokens": {name: int(f([len(line["tokens"]) for line in lines])) for name, f in
                       {"smallest": min, "median": np.median, "largest": max}.items()},
            "gradients": {name: float(f(evaluations)) for name, f in
                          {"median": np.median, "mean": np.mean, "largest": max}.items()}
            | {"percentile_95": float(np.percentile(evaluations, 95))},
            "not_converged": sum(not line["converged"] for line in lines),
            "median_relative_error": float(np.median(errors)),
            "seconds": seconds,
            "gradients_per_second": sum(evaluations) / seconds,
            "share_of_peak": arguments.peak_teraflops
            and 4 * parameters * tokens / seconds / arguments.peak_teraflops / 1e12,
        },
        "captum": {"gradient_evaluations_a_document": 20100, "loops": loops},
        "agreement": agreements,
    }  # fmt: skip
    if loops:
        ratios = [loop["seconds_of_the_loop"] / loop["seconds_of_the_search"] for loop in loops]
        total = sum(loop["seconds_of_the_loop"] for loop in loops) / sum(
            loop["seconds_of_the_search"] for loop in loops
        )
        result["speed_ratio"] = {"median": float(np.median(ratios)), "of_the_sums": total}
        result["speed_ratio"] |= {"smallest": min(ratios), "largest": max(ratios)}
    result |= {
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.machine()} x {os.cpu_count()}",
        "on_a_gpu": "measured" if device == "cuda" else "not measured",
        "threads": torch.get_num_threads(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "captum", "numpy")
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "method": arguments.method,
        "note": arguments.note,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    output = Path(arguments.output_file)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(output.name + ".tmp")
    temporary.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, output)
    print(
        json.dumps(
            {name: result.get(name) for name in ("search", "speed_ratio", "agreement")}, indent=2
        )
    )


if __name__ == "__main__":
    main()
