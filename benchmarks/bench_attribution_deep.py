#!/usr/bin/env python
"""Measure attributions of a deep encoder against references of several thousand gradients.

    python benchmarks/bench_attribution_deep.py --model_name_or_path runs/mpnet \
        --dataset_name data --model_note "..." \
        --cache_dir bench-deep --ids 1809.04272 1609.02589 --reference_gradients 3000

The reference of a document is an integral by panels (run_attribution.integrate_panels): 257
equidistant points, then halving of the panels with the largest errors until --reference_gradients
are spent. Points are kept, so that the same command continues, and other settings take seconds.
reference_error is how far the integral by every other point of the reference is from it, as
relative L1 norm.

Against it stand --n_steps auto as users get it, with its stated error, and the study's rule: the
number of steps from 1 to --brute_force with the smallest completeness error. Its rules are
evaluated on the reference's path, v interpolated linearly between its points, so that 20,100
gradients are not needed.

With --reference_gradients 0 a row has no errors: it says what --n_steps auto does with the document
and what its points show of the path.

Writes a row per document and baseline into benchmarks/results/attribution_deep.json, for the first
of --rough_evaluations; what others give is under with_N.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import run_attribution  # noqa: E402
from run_attribution import (  # noqa: E402
    PathSearch,
    PathValues,
    integrate_panels,
    worst_panels,
)

START = 257  # equidistant points of a reference
SAVE_EVERY = 256  # gradients


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name_or_path", required=True, help="fine-tuned encoder")
    parser.add_argument("--dataset_name", required=True, help="dataset folder")
    parser.add_argument("--split", default="test", help="split of the dataset")
    parser.add_argument("--cache_dir", type=Path, required=True, help="where the paths are kept")
    parser.add_argument("--ids", nargs="+", required=True, help="documents of the split")
    parser.add_argument(
        "--baselines", nargs="+", default=["pad"], help="baselines of each document"
    )
    parser.add_argument("--max_seq_length", type=int, help="default: as in training")
    parser.add_argument(
        "--reference_gradients", type=int, default=3000, help="0: no reference, no errors"
    )
    parser.add_argument("--rough_evaluations", type=int, nargs="+", default=[280])
    parser.add_argument("--brute_force", type=int, default=200, help="largest number of steps")
    parser.add_argument("--model_note", required=True, help="what the model is, for the file")
    parser.add_argument(
        "--output_file", type=Path, default=ROOT / "benchmarks/results/attribution_deep.json"
    )
    return parser.parse_args()


def read_documents(arguments: argparse.Namespace, explainer) -> list[dict]:
    """Return the documents of --ids. Those that are cut at the maximum length are refused."""
    rows = datasets.load_dataset(arguments.dataset_name)[arguments.split]
    texts = dict(zip(rows["id"], rows["abstract"], strict=True))
    documents = []
    for name in arguments.ids:
        document = {"id": name, "text": texts[name], "label": None}
        explainer.encode(document)
        if document["truncated"]:
            raise SystemExit(f"{name} is longer than the maximum length")
        documents.append(document)
    return documents


class KeptPath:
    """F and its gradient along the path of a document; each point is evaluated once, and kept."""

    def __init__(self, explainer, embedded, file: Path) -> None:
        self.explainer = explainer
        self.embedded = embedded
        self.file = file
        self.alphas = np.empty(0)
        self.values = None
        if file.exists():
            with np.load(file) as content:
                self.alphas = content["alphas"]
                self.values = PathValues(content["f"], content["scale"], content["v"])
        self.saved = len(self.alphas)

    def evaluate(self, alphas: np.ndarray, one_by_one: bool = False) -> list[PathValues]:
        """Return the values at points, in the form that PathSearch takes."""
        new = np.setdiff1d(alphas, self.alphas)
        if len(new) > 0:
            (values,) = self.explainer.evaluate(self.embedded, new)
            places = np.full(len(new), len(self.alphas))
            self.values = values if self.values is None else self.values.insert(places, values)
            self.alphas = np.append(self.alphas, new)
        if len(self.alphas) >= self.saved + SAVE_EVERY:
            self.write()
        order = np.argsort(self.alphas)
        return [self.values[order[np.searchsorted(self.alphas[order], alphas)]]]

    def write(self) -> None:
        """Write all points, whole or not at all."""
        temporary = self.file.with_suffix(".tmp.npz")
        values = self.values
        np.savez(temporary, alphas=self.alphas, f=values.f, scale=values.scale, v=values.v)
        os.replace(temporary, self.file)
        self.saved = len(self.alphas)


def measure_reference(path: KeptPath, gradients: int) -> tuple[np.ndarray, PathValues]:
    """Return the points of a reference, ascending, and the values there."""
    alphas = np.linspace(0, 1, START)
    (values,) = path.evaluate(alphas)
    while len(alphas) < gradients:
        panels = integrate_panels(alphas, values)
        worst = worst_panels(alphas, [panels], min(32, gradients - len(alphas)))
        if len(worst) == 0:
            break
        middles = (alphas[worst] + alphas[worst + 1]) / 2
        (new,) = path.evaluate(middles)
        alphas = np.insert(alphas, worst + 1, middles)
        values = values.insert(worst + 1, new)
    path.write()
    return alphas, values


def relative_error(attributions: np.ndarray, reference: np.ndarray) -> float:
    """Return the L1 norm of the difference relative to that of the reference."""
    return float(np.abs(attributions - reference).sum() / np.abs(reference).sum())


def correlate_words(document: dict, attributions: np.ndarray, reference: np.ndarray) -> float:
    """Return Spearman's correlation of the attributions of words."""
    words = len(document["words"])
    ids = [words if word is None else word for word in document["word_ids"]]
    pair = [np.bincount(ids, scores)[:words] for scores in (attributions, reference)]
    return float(spearmanr(*pair)[0])


def compare(document: dict, attributions, reference: np.ndarray) -> dict:
    """Return what a row says of attributions."""
    attributions = np.asarray(attributions)
    return {
        "true_error": relative_error(attributions, reference),
        "spearman": correlate_words(document, attributions, reference),
    }


def describe_path(alphas: np.ndarray, values: PathValues) -> dict:
    """Return where F rises, and the sizes of jumps of v."""
    change = values.f[-1] - values.f[0]
    share = (values.f - values.f[0]) / change
    total = np.abs(values.v).sum(1)
    return {
        "f_baseline": float(values.f[0]),
        "f_input": float(values.f[-1]),
        "front_10_percent": float(alphas[np.argmax(share > 0.1)]),
        "front_90_percent": float(alphas[np.argmax(share > 0.9)]),
        "variation_over_change": float(np.abs(np.diff(values.f)).sum() / abs(change)),
        "largest_to_median_gradient": float(total.max() / np.median(total)),
    }


def brute_force(
    document: dict, alphas: np.ndarray, values: PathValues, reference: np.ndarray, most: int
) -> dict:
    """Return the study's rule: of 1 to most steps, the smallest completeness error."""
    change = values.f[-1] - values.f[0]
    gaps = []
    scores = []
    for n in range(1, most + 1):
        nodes, weights = run_attribution.quadrature("gausslegendre", n)
        v = np.stack([np.interp(nodes, alphas, column) for column in values.v.T], 1)
        scores.append(weights @ v)
        gaps.append(abs(scores[-1].sum() - change))
    best = int(np.argmin(gaps))
    return {
        "n_steps": best + 1,
        "relative_gap": float(gaps[best] / abs(change)),
        **compare(document, scores[best], reference),
        "error_with_the_most_steps": relative_error(scores[-1], reference),
    }


def measure_document(
    arguments: argparse.Namespace, explainer, document: dict, baseline: str
) -> dict:
    """Return the row of a document and a baseline."""
    embedded = explainer.embed(document, explainer.find_baseline(baseline))
    file = arguments.cache_dir / f"{document['id'].replace('/', '_')}-{baseline}.npz"
    path = KeptPath(explainer, embedded, file)
    row = {
        "id": document["id"],
        "tokens": len(document["tokens"]),
        "baseline": baseline,
        "target": embedded.targets[0],
    }
    reference = None
    if arguments.reference_gradients > 0:
        alphas, values = measure_reference(path, arguments.reference_gradients)
        panels = integrate_panels(alphas, values)
        reference = panels.attributions
        coarse = integrate_panels(
            np.append(alphas[:-1:2], 1), values[[*range(0, len(alphas) - 1, 2), -1]]
        )
        row |= {
            "reference_gradients": len(alphas),
            "reference_error": relative_error(coarse.attributions, reference),
            "reference_residuals": float(np.abs(panels.residuals).sum() / np.abs(reference).sum()),
            **describe_path(alphas, values),
            "brute_force": brute_force(document, alphas, values, reference, arguments.brute_force),
        }
    for limit in arguments.rough_evaluations:
        settings = replace(explainer.arguments, rough_evaluations=limit)
        search = PathSearch(path.evaluate, settings, document["id"], rounding_varies=False)
        (choice,) = search.run()
        found = {
            "gradients": choice.gradient_evaluations,
            "forwards": 5,
            "converged": choice.evidence["converged"],
            "stated_error": choice.evidence["stated_error"],
            "relative_gap": float(
                abs(choice.attributions.sum() - choice.f_input + choice.f_baseline)
                / abs(choice.f_input - choice.f_baseline)
            ),
        }
        if reference is not None:
            found |= compare(document, choice.attributions, reference)
        row |= found if limit == arguments.rough_evaluations[0] else {f"with_{limit}": found}
    path.write()
    if reference is None:
        order = np.argsort(path.alphas)
        row |= describe_path(path.alphas[order], path.values[order])
    return row


def main() -> None:
    arguments = parse_arguments()
    arguments.cache_dir.mkdir(parents=True, exist_ok=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        arguments.model_name_or_path,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path, trust_remote_code=False)
    settings = run_attribution.AttributionArguments(
        n_steps="auto",
        max_seq_length=arguments.max_seq_length,
        baseline=arguments.baselines,
    )
    explainer = run_attribution.Explainer(model, tokenizer, settings)
    rows = []
    for document in read_documents(arguments, explainer):
        for baseline in arguments.baselines:
            row = measure_document(arguments, explainer, document, baseline)
            rows.append(row)
            print(json.dumps(row), flush=True)
            write_record(arguments, rows)


def write_record(arguments: argparse.Namespace, new: list[dict]) -> None:
    """Add rows to the file, each with device, versions, date and command, and order them."""
    command = " ".join(word if "/" not in word else Path(word).name for word in sys.argv)
    origin = {
        "model": arguments.model_note,
        "device": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        },
        "date": datetime.date.today().isoformat(),
        "command": f"python {command}",
    }
    rows = []
    if arguments.output_file.exists():
        rows = json.loads(arguments.output_file.read_text(encoding="utf-8"))
    by_key = {(row["id"], row["baseline"]): row for row in rows}
    by_key |= {(row["id"], row["baseline"]): row | origin for row in new}
    ordered = sorted(by_key.values(), key=lambda row: (row["tokens"], row["id"], row["baseline"]))
    arguments.output_file.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
