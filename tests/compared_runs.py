"""Synthetic run folders for the tests of tools/compare_runs.py and tools/comparison."""

import json

import numpy as np
import pandas as pd
from conftest import LABELS

from common.statistics import bootstrap


def write_run(
    folder, labels, predictions, scores="probabilities", ids=None, names=LABELS, **record
):
    """A run folder: labels and predictions are numbers; scores probabilities, decisions or None."""
    ids = [f"doc{number:04d}" for number in range(len(labels))] if ids is None else ids
    table = pd.DataFrame(
        {
            "id": ids,
            "label": [names[k] for k in labels],
            "prediction": [names[k] for k in predictions],
        }
    )
    if scores is not None:
        confidences = 0.5 + 0.45 * np.random.default_rng(len(labels)).random(len(labels))
        values = np.repeat((1 - confidences)[:, None] / (len(names) - 1), len(names), axis=1)
        values[np.arange(len(labels)), predictions] = confidences
        if scores == "decisions":
            values = values * 4 - 2
        table[list(names)] = values
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "predictions.csv", index=False, float_format="%.6f")
    if record:
        (folder / "run_arguments.json").write_text(json.dumps(record))
    return folder


def draw_predictions(generator, labels, accuracy, n_classes=5, difficulty=None):
    """Class numbers that are right with the given probability.

    A shared difficulty makes two models' errors alike.
    """
    chance = generator.random(len(labels)) if difficulty is None else difficulty
    noise = generator.normal(0, 0.15, len(labels)) if difficulty is not None else 0
    wrong = (labels + generator.integers(1, n_classes, len(labels))) % n_classes
    return np.where(chance + noise < accuracy, labels, wrong)


def results_of(folder):
    return json.loads((folder / "comparison.json").read_text(encoding="utf-8"))


def truth_and_predictions(run):
    table = pd.read_csv(run / "predictions.csv")
    return table["label"].to_numpy(), table["prediction"].to_numpy()


def metrics_of_resamples(labels, predictions, n_classes, n_resamples, seed):
    """Accuracy and macro F1, (1 + n_resamples, runs), as main() computes them."""
    patterns, counts = np.unique(np.vstack([labels, predictions]), axis=1, return_counts=True)
    accuracy, f1 = bootstrap(patterns[0], patterns[1:], n_classes, n_resamples, seed, counts=counts)
    return {"accuracy": accuracy, "macro_f1": np.nanmean(f1, axis=-1)}


def edit(path, change):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table).to_csv(path, index=False)


def edit_bytes(path, change):
    path.write_bytes(change(path.read_bytes()))


def rate(flags):
    return sum(flags) / len(flags)


def write_pair(tmp_path):
    """Two runs on 40 documents, without errors and with some, and a folder for the comparison."""
    labels = np.arange(40) % 5
    write_run(tmp_path / "good", labels, labels)
    write_run(tmp_path / "bad", labels, (labels + (labels == 1)) % 5)
    return tmp_path / "good", tmp_path / "bad", tmp_path / "out"
