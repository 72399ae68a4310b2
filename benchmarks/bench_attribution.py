#!/usr/bin/env python
"""Measure the search over 1..200 steps against captum's loop, on the same fine-tuned model and the same documents.

    python benchmarks/bench_attribution.py --model_name_or_path runs/minilm --dataset_name data --max_seq_length 128
    python benchmarks/bench_attribution.py ... --captum_documents 5 --exhaustive true     # hours on two cores
    python benchmarks/bench_attribution.py --random_bert_large true --max_samples 4 ...   # speed only; a GPU's job

(a) captum's LayerIntegratedGradients for n = 1..200, one document after the other, on --captum_documents documents:
every n with --exhaustive, else n = 2, 50, 100, 150, 200, the loop's time extrapolated from a line through these and
labelled so. (b) run_attribution.py on all documents, as its user runs it. Agreement, on all documents: the error of
captum at the n that we chose, which no other n can undercut by more than itself, and our attributions against the
integral (--n_steps auto); on captum's documents: that error against the smallest one that captum found, and our
attributions against Gauss-Legendre with n = 400 in double precision. Writes benchmarks/results/attribution.json.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from captum.attr import LayerIntegratedGradients
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

ROOT = Path(__file__).resolve().parent.parent


def synchronise() -> None:
    """Wait for the GPU, where there is one, so that clocks tell the truth."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def attribute(output: Path, *flags: str | Path) -> list[dict]:
    """The lines that run_attribution.py writes."""
    command = [sys.executable, ROOT / "run_attribution.py", "--output_dir", output, *flags]
    subprocess.run(command, check=True)
    texts = (output / "attributions.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(text) for text in texts if text]


def explain(model, tokenizer, line: dict, n: int, method: str) -> tuple[np.ndarray, float]:
    """captum's attributions (tokens,) by a quadrature rule with n points, and F(x) - F(b), for a document's line."""
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(line["tokens"])], device=model.device)
    special = torch.tensor([[span is None for span in line["token_spans"]]], device=model.device)
    blank = torch.where(special, ids, tokenizer.pad_token_id)
    target = model.config.label2id[line["target"]]

    def logits(x: torch.Tensor) -> torch.Tensor:
        return model(input_ids=x, attention_mask=torch.ones_like(x)).logits

    explainer = LayerIntegratedGradients(logits, model.base_model.embeddings)
    found = explainer.attribute(ids, blank, target=target, n_steps=n, method=method, internal_batch_size=32)
    with torch.no_grad():
        difference = (logits(ids) - logits(blank))[0, target].item()
    return found.sum(-1)[0].cpu().double().numpy(), difference


def captum_loop(model, tokenizer, line: dict, every: list[int], method: str) -> dict:
    """Time and completeness errors of captum for the numbers of steps in every; the loop 1..200 extrapolated."""
    seconds, gaps = [], []
    for n in every:
        synchronise()
        start = time.perf_counter()
        scores, difference = explain(model, tokenizer, line, n, method)
        synchronise()
        seconds.append(time.perf_counter() - start)
        gaps.append(abs(float(scores.sum()) - difference))
    slope, offset = np.polyfit(every, seconds, 1)
    measured = len(every) > 5
    whole = sum(seconds) if measured else float(slope * 20100 + offset * 200)
    loop = {"id": line["id"], "tokens": len(line["tokens"]), "seconds_of_the_loop": whole}
    return loop | {"extrapolated": not measured, "steps_measured": every, "seconds": seconds, "gaps": gaps}


def relative_l1(scores: np.ndarray, reference: np.ndarray) -> float:
    """Sum of |scores - reference| as a share of the sum of |reference|."""
    return float(np.abs(scores - reference).sum() / np.abs(reference).sum())


def agreement(model, double, tokenizer, line: dict, loop: dict, method: str) -> dict:
    """Our choice against captum's smallest error, and our attributions against the converged ones in float64."""
    at_ours, difference = explain(model, tokenizer, line, line["n_steps"], method)
    reference, _ = explain(double, tokenizer, line, 400, "gausslegendre")
    ours = np.array(line["attributions"])
    chosen, smallest = abs(float(at_ours.sum()) - difference), min(loop["gaps"])
    return {
        "id": line["id"],
        "n_steps": line["n_steps"],
        "captum_gap_at_our_n": chosen,
        "smallest_captum_gap": smallest,
        "exhaustive": not loop["extrapolated"],
        "allowed": smallest + 1e-5 * abs(difference),
        "within": chosen <= smallest + 1e-5 * abs(difference),
        "relative_l1_to_float64": relative_l1(ours, reference),
        "largest_token_error": float(np.abs(ours - reference).max()),
        "largest_stated_error": max(line["attribution_errors"]),
    }


def write_bert_large(folder: Path, tokenizer_of: str, labels: dict) -> Path:
    """A randomly initialised BERT of 335 M parameters with the vocabulary of another model: for speed only."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    torch.manual_seed(0)
    size = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    label2id = {name: number for number, name in labels.items()}
    config = BertConfig(vocab_size=len(tokenizer), id2label=labels, label2id=label2id, **size)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    # 1. Arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True, help="fine-tuned BERT-like classifier")
    parser.add_argument("--dataset_name", required=True, help="dataset folder")
    parser.add_argument("--max_samples", type=int, default=50, help="documents of the search")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens of a document at most")
    parser.add_argument(
        "--method", default="gausslegendre", choices=["gausslegendre", "riemann_middle"], help="quadrature rule"
    )
    parser.add_argument("--captum_documents", type=int, default=5, help="documents of captum's loop, the shortest")
    parser.add_argument("--exhaustive", default="false", choices=["true", "false"], help="run captum for all 200 n")
    parser.add_argument(
        "--random_bert_large", default="false", choices=["true", "false"], help="speed of a random one"
    )
    parser.add_argument("--output_file", default=str(ROOT / "benchmarks/results/attribution.json"), help="JSON file")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        # 2. Ours
        model_folder = arguments.model_name_or_path
        if arguments.random_bert_large == "true":
            labels = AutoModelForSequenceClassification.from_pretrained(model_folder).config.id2label
            model_folder = write_bert_large(Path(scratch) / "large", model_folder, labels)
        flags = ["--model_name_or_path", model_folder, "--dataset_name", arguments.dataset_name, "--render", "false"]
        flags += ["--max_samples", str(arguments.max_samples), "--max_seq_length", str(arguments.max_seq_length)]
        start = time.perf_counter()
        lines = attribute(Path(scratch) / "ours", *flags, "--method", arguments.method)
        wall = time.perf_counter() - start
        integrals = attribute(Path(scratch) / "integral", *flags, "--n_steps", "auto")
        to_integral = [
            relative_l1(np.array(line["attributions"]), np.array(integral["attributions"]))
            for line, integral in zip(lines, integrals, strict=True)
        ]

        # 3. captum on the shortest documents, and the agreement
        device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        model, double = (
            AutoModelForSequenceClassification.from_pretrained(model_folder, dtype=dtype).eval().to(device)
            for dtype in (torch.float32, torch.float64)
        )
        # captum asks for two points at least, except in a Gauss-Legendre rule
        first = 1 if arguments.method == "gausslegendre" else 2
        every = list(range(first, 201)) if arguments.exhaustive == "true" else [2, 50, 100, 150, 200]
        at_ours = []
        for line in tqdm(lines, desc="captum at our n"):
            scores, difference = explain(model, tokenizer, line, line["n_steps"], arguments.method)
            at_ours.append(abs(float(scores.sum()) / difference - 1))
        loops, agreements = [], []
        for line in tqdm(sorted(lines, key=lambda line: len(line["tokens"]))[: arguments.captum_documents]):
            loops.append(captum_loop(model, tokenizer, line, every, arguments.method))
            agreements.append(agreement(model, double, tokenizer, line, loops[-1], arguments.method))

    # 4. Results
    ours = {line["id"]: line["seconds"] for line in lines}
    ratios = [loop["seconds_of_the_loop"] / ours[loop["id"]] for loop in loops]
    evaluations = [line["gradient_evaluations"] for line in lines]
    result = {
        "ours": {
            "documents": len(lines),
            "seconds_with_loading": wall,
            "seconds": sum(ours.values()),
            "median_tokens": float(np.median([len(line["tokens"]) for line in lines])),
            "median_gradient_evaluations": float(np.median(evaluations)),
            "largest_gradient_evaluations": max(evaluations),
            "not_converged": sum(not line["converged"] for line in lines),
            "median_relative_error": float(np.median([line["relative_error"] or 0.0 for line in lines])),
        },
        "captum": {"gradient_evaluations_a_document": 20100, "loops": loops},
        "speed_ratio": {"median": float(np.median(ratios)), "smallest": min(ratios), "largest": max(ratios)},
        "captum_relative_error_at_our_n": {
            "documents": len(at_ours),
            "median": float(np.median(at_ours)),
            "largest": max(at_ours),
            "above_1e-5": sum(error > 1e-5 for error in at_ours),
        },
        "relative_l1_to_the_integral": {
            "documents": len(to_integral),
            "median": float(np.median(to_integral)),
            "largest": max(to_integral),
        },
        "agreement": agreements,
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} x {os.cpu_count()}",
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "captum", "numpy")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "method": arguments.method,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    output = Path(arguments.output_file)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(output.name + ".tmp")
    temporary.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, output)
    print(
        json.dumps(
            {name: result[name] for name in ("ours", "speed_ratio", "captum_relative_error_at_our_n", "agreement")},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
