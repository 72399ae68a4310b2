"""Runs on changed documents: metrics of a condition against those of the original documents."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import softmax

from common.pages import percent, plain
from common.statistics import (
    add_holm,
    bootstrap,
    difference_test,
    mean_interval,
    percentile_interval,
)
from context.results import Measurement
from context.text import limits, model_styles

METRIC_HEADER = [
    "accuracy",
    "difference",
    "95% CI",
    "p (Holm)",
    "macro F1",
    "difference",
    "95% CI",
    "p (Holm)",
]


@dataclass
class Condition:
    """The documents, changed in one way, possibly several times."""

    description: dict  # the first keys of the condition in context.json
    logits: np.ndarray  # (repetitions, documents, classes)


@dataclass
class Changes:
    """Metrics of the original documents, and what each condition changes."""

    original: dict
    conditions: list[dict]


def condition_statistics(
    original: np.ndarray, conditions: list[Condition], measurement: Measurement, arguments
) -> Changes:
    """Return the metrics of the original documents, and how they differ in each condition.

    original is (documents, classes). The metric of a condition is the mean over its repetitions.
    Each document is changed by itself, so resampling the documents resamples the changes, too.
    Macro F1 averages over the classes that are a label or a prediction.
    """
    labels = measurement.labels
    classes = measurement.classes
    # All conditions see the same resamples, so all predictions go into one bootstrap.
    predictions = [original.argmax(axis=-1)[None]]
    rows = []  # of each condition in the bootstrap, whose row 0 is the original
    stop = 1
    for condition in conditions:
        predictions.append(condition.logits.argmax(axis=-1))
        rows.append(slice(stop, stop + len(condition.logits)))
        stop += len(condition.logits)
    accuracy, f1 = bootstrap(
        labels, np.concatenate(predictions), len(classes), arguments.n_resamples, arguments.seed
    )
    metrics = {"accuracy": accuracy, "macro_f1": np.nanmean(f1, axis=-1)}
    of_classes = {}
    for class_number, name in enumerate(classes):
        if class_number in labels:
            of_classes[name] = f1[:, :, class_number]

    changes = Changes(original={}, conditions=[])
    for metric, draws in metrics.items():
        low, high = percentile_interval(draws[1:, 0])
        changes.original[metric] = {"value": float(draws[0, 0]), "low": low, "high": high}
    for condition, place in zip(conditions, rows, strict=True):
        result = condition.description | describe_changes(original, condition)
        for metric, draws in metrics.items():
            result[metric] = metric_test(draws, place)
        result["classes"] = []
        for name, draws in of_classes.items():
            count = int((labels == classes.index(name)).sum())
            test = {"class": name, "documents": count} | metric_test(draws, place)
            result["classes"].append(test)
        result |= probability_changes(original, condition, labels)
        changes.conditions.append(result)

    # Families of tests: all conditions of a run for each metric; all classes of all conditions
    for metric in metrics:
        add_holm([result[metric] for result in changes.conditions])
    add_holm([test for result in changes.conditions for test in result["classes"]])
    return changes


def describe_changes(original: np.ndarray, condition: Condition) -> dict:
    """Return the largest change of a logit and the share of predictions that change."""
    # Minus infinity is a class that an SVM does not know.
    before = np.nan_to_num(original, neginf=0)
    after = np.nan_to_num(condition.logits, neginf=0)
    changed = condition.logits.argmax(axis=-1) != original.argmax(axis=-1)
    return {
        "max_change": float(np.abs(after - before).max()),
        "predictions_changed": float(changed.mean()),
    }


def metric_test(draws: np.ndarray, rows: slice) -> dict:
    """Return a metric's mean over the rows of a condition and its difference from row 0.

    draws is (1 + resamples, rows), the documents themselves first.
    """
    means = draws[:, rows].mean(axis=1)
    return {"value": float(means[0])} | difference_test(means - draws[:, 0])


def probability_changes(original: np.ndarray, condition: Condition, labels: np.ndarray) -> dict:
    """Return by how much probabilities change: that of the true class, and the total variation.

    Empty for scores that are not finite.
    """
    if not (np.isfinite(original).all() and np.isfinite(condition.logits).all()):
        return {}
    changes = softmax(condition.logits, axis=-1) - softmax(original, axis=-1)
    of_label = changes[:, np.arange(len(labels)), labels]
    variation = np.abs(changes).sum(axis=-1)
    return {
        "true_class_probability": mean_interval(of_label.mean(axis=0)),
        "total_variation": mean_interval(variation.mean(axis=0) / 2),
    }


def metric_cells(condition: dict) -> list[str]:
    """Return the cells under METRIC_HEADER."""
    cells = []
    for metric in ("accuracy", "macro_f1"):
        test = condition[metric]
        cells += [
            percent(test["value"]),
            percent(test["difference"]),
            limits(test),
            f"{test['p_holm']:.3f}",
        ]
    return cells


def draw_conditions(axes: plt.Axes, result: dict, runs: list[dict], key: str, label: str) -> None:
    """Draw the change of accuracy by condition, one line per run."""
    styles = model_styles(result)
    for place, run in enumerate(runs):
        tests = [condition["accuracy"] for condition in run["conditions"]]
        # Beside each other, so that no interval hides another one
        x = np.arange(len(tests)) + 0.08 * (place - (len(runs) - 1) / 2)
        difference = np.array([100 * test["difference"] for test in tests])
        low = np.array([100 * test["low"] for test in tests])
        high = np.array([100 * test["high"] for test in tests])
        style = styles[run["name"]]
        axes.vlines(x, low, high, color=style["color"], linewidth=1.2)
        axes.plot(x, difference, **style, markersize=4, linewidth=1, label=plain(run["name"]))
    labels = [str(condition[key]) for condition in runs[0]["conditions"]]
    axes.set_xticks(range(len(labels)), labels)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set(xlabel=label, ylabel="change of accuracy, points")
    # The last conditions change least, so there is room.
    axes.legend(fontsize=8, framealpha=0.8, edgecolor="none", loc="lower right")
