#!/usr/bin/env python
"""Compare a model's results on a random split with those on a split by date of the same records.

    python fetch_arxiv.py ... --output_dir data/random
    python fetch_arxiv.py ... --split_by date --output_dir data/date
    python run_baseline.py --dataset_name data/random --output_dir runs/svm-random
    python run_baseline.py --dataset_name data/date --output_dir runs/svm-date
    python benchmarks/bench_split_by_date.py --model SVM --random runs/svm-random \\
        --date runs/svm-date --random_data data/random --date_data data/date

Several runs of one split (seeds of the model, or random splits of several seeds) are averaged. The
95% intervals are from resampled test documents; the test splits are taken for independent samples.

Writes results/arxiv-dev/split-by-date.json: an entry per model. Those of other models stay.
"""

import argparse
import csv
import datetime
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from common.statistics import bootstrap, percentile_interval  # noqa: E402

N_RESAMPLES = 10_000


def read_predictions(folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Return labels and predictions of a run's test documents, and the number of classes."""
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows} | {row["prediction"] for row in rows})
    labels = np.array([names.index(row["label"]) for row in rows])
    predictions = np.array([names.index(row["prediction"]) for row in rows])
    return labels, predictions, len(names)


def mean_draws(folders: list[Path], seed: int) -> dict[str, np.ndarray]:
    """Return accuracy and macro F1, the mean over runs, on the documents and on resamples."""
    accuracies = []
    scores = []
    for place, folder in enumerate(folders):
        labels, predictions, n_classes = read_predictions(folder)
        accuracy, f1 = bootstrap(labels, predictions[None], n_classes, N_RESAMPLES, seed + place)
        accuracies.append(accuracy[:, 0])
        scores.append(np.nanmean(f1[:, 0], axis=-1))
    return {"accuracy": np.mean(accuracies, axis=0), "macro_f1": np.mean(scores, axis=0)}


def estimate(draws: np.ndarray) -> dict:
    """Return an estimate with its 95% interval."""
    low, high = percentile_interval(draws[1:])
    return {"value": float(draws[0]), "low": low, "high": high}


def describe_data(folder: Path) -> dict:
    """Return how a dataset folder was split."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    described = {"split_by": manifest["arguments"]["split_by"]}
    described["seed"] = manifest["arguments"]["seed"]
    described["counts"] = {split: sum(n.values()) for split, n in manifest["counts"].items()}
    if "days" in manifest:
        described["days"] = manifest["days"]
    return described


def describe_run(folder: Path) -> dict:
    """Return the name of a run folder and what its record says of model and training."""
    record = json.loads((folder / "run_arguments.json").read_text(encoding="utf-8"))
    described = {"name": folder.name}
    for key in ("model_name_or_path", "learning_rate", "seed", "precision"):
        if record.get(key) is not None:
            described[key] = record[key]
    return described


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="Name of the model in the file.")
    parser.add_argument("--random", required=True, nargs="+", type=Path, help="Run folders.")
    parser.add_argument("--date", required=True, nargs="+", type=Path, help="Run folders.")
    parser.add_argument("--random_data", required=True, nargs="+", type=Path, help="Folders.")
    parser.add_argument("--date_data", required=True, type=Path, help="Dataset folder.")
    parser.add_argument(
        "--output_file", type=Path, default=ROOT / "results/arxiv-dev/split-by-date.json"
    )
    arguments = parser.parse_args()

    draws = {"random": mean_draws(arguments.random, 0), "date": mean_draws(arguments.date, 1000)}
    entry = {
        "measured": datetime.date.today().isoformat(),
        "device": f"{os.cpu_count()} CPU cores",
        "versions": {name: version(name) for name in ("numpy", "scikit-learn")},
        "runs": {
            "random": [describe_run(folder) for folder in arguments.random],
            "date": [describe_run(folder) for folder in arguments.date],
        },
    }
    for split, metrics in draws.items():
        entry[split] = {metric: estimate(values) for metric, values in metrics.items()}
    entry["difference"] = {
        metric: estimate(draws["date"][metric] - draws["random"][metric])
        for metric in draws["date"]
    }

    entry["data"] = {
        "random": [describe_data(folder) for folder in arguments.random_data],
        "date": describe_data(arguments.date_data),
    }

    path = arguments.output_file
    content = {"models": {}}
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
    content["script"] = "benchmarks/bench_split_by_date.py"
    content["models"][arguments.model] = entry
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    print(json.dumps(entry, indent=2))


if __name__ == "__main__":
    main()
