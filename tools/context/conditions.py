"""Runs on changed documents: metrics of a condition against those of the original documents."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import softmax

from common.pages import p_cell, percent, plain
from common.statistics import (
    ALPHA,
    add_holm,
    bootstrap,
    difference_test,
    least_p,
    mean_interval,
)
from comparison.metrics import wilson_interval
from comparison.paired_tests import (
    Pair,
    mcnemar_pair,
    varying_interval,
    with_fewest_disagreements,
)
from context.results import Measurement
from context.significance import exchange_tests, mean_tests
from context.text import indifferent_runs, limits, model_styles

METRIC_HEADER = [
    "accuracy",
    "difference",
    "95% CI",
    "p (Holm)",
    "P(true class) changes by",
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
    With one repetition, p of accuracy is McNemar's, and that of F1 is of exchanged predictions;
    both are exact. The interval of the accuracy itself is Wilson's, that of its change Tango's, or
    the bootstrap's where that is wider. Macro F1 averages over the classes that are a label or a
    prediction; it has no interval where no resample differs.
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
        if metric == "accuracy":
            right = int((predictions[0][0] == labels).sum())
            low, high = wilson_interval(right, len(labels))
        else:
            low, high = varying_interval(draws[1:, 0])
        changes.original[metric] = {"value": float(draws[0, 0]), "low": low, "high": high}
    for condition, row in zip(conditions, rows, strict=True):
        result = condition.description | describe_changes(original, condition)
        for metric, draws in metrics.items():
            result[metric] = metric_test(draws, row)
        result["classes"] = []
        for name, draws in of_classes.items():
            count = int((labels == classes.index(name)).sum())
            test = {"class": name, "documents": count} | metric_test(draws, row)
            result["classes"].append(test)
        result["accuracy"] |= accuracy_change(result["accuracy"], original, condition, labels)
        if len(condition.logits) == 1:
            add_exchange_tests(result, original, condition, measurement, arguments)
        else:
            bound_p_values(result, original, condition)
        changes.conditions.append(result)
    add_probability_changes(changes.conditions, original, conditions, labels, arguments)

    # Families of tests: all conditions of a run for each metric; all classes of all conditions
    for metric in (*metrics, "true_class_probability"):
        add_holm([result[metric] for result in changes.conditions if metric in result])
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

    draws is (1 + resamples, rows), the documents themselves first. Where all resamples have the
    same difference, there is no interval (None): it says nothing about other documents.
    """
    means = draws[:, rows].mean(axis=1)
    differences = means - draws[:, 0]
    test = {"value": float(means[0])} | difference_test(differences)
    if varying_interval(differences[1:]) == (None, None):
        test |= {"low": None, "high": None}
    return test


def accuracy_change(
    test: dict, original: np.ndarray, condition: Condition, labels: np.ndarray
) -> dict:
    """Return interval and p of a change of accuracy from its bootstrap test.

    The bootstrap knows only the few documents that change, and nothing of those that others would
    show: of 20 documents none may change although 5 percent do. One repetition has Tango's score
    interval and McNemar's exact p instead; of several, the bootstrap is widened
    (``with_fewest_disagreements``).
    """
    before = original.argmax(axis=-1) == labels
    after = condition.logits.argmax(axis=-1) == labels
    pair = Pair("accuracy", None, (after, before[None]))
    if len(after) == 1:
        exact = mcnemar_pair(pair)
    else:
        exact = with_fewest_disagreements(test, pair, null=0.0, alpha=ALPHA)
    return {key: exact[key] for key in ("low", "high", "p")}


def add_exchange_tests(
    result: dict, original: np.ndarray, condition: Condition, measurement: Measurement, arguments
) -> None:
    """Replace the p-values of F1 in a condition with one repetition.

    A bootstrap of few changed documents finds too small p-values.
    """
    of_classes, macro = exchange_tests(
        measurement.labels,
        original.argmax(axis=-1),
        condition.logits[0].argmax(axis=-1),
        len(measurement.classes),
        arguments.n_permutations,
        arguments.seed,
    )
    result["macro_f1"]["p"] = macro
    for test in result["classes"]:
        test["p"] = float(of_classes[measurement.classes.index(test["class"])])


def bound_p_values(result: dict, original: np.ndarray, condition: Condition) -> None:
    """Raise p-values of F1, from the bootstrap, that so few changed documents cannot give."""
    changed = condition.logits.argmax(axis=-1) != original.argmax(axis=-1)
    bound = least_p(int(changed.any(axis=0).sum()))
    for test in (result["macro_f1"], *result["classes"]):
        test["p"] = max(test["p"], bound)


def add_probability_changes(
    results: list[dict],
    original: np.ndarray,
    conditions: list[Condition],
    labels: np.ndarray,
    arguments,
) -> None:
    """Add to each condition by how much P(true class) changes, and the total variation.

    Nothing is added where scores are not finite.
    """
    finite = []
    rows = []
    for result, condition in zip(results, conditions, strict=True):
        if not (np.isfinite(original).all() and np.isfinite(condition.logits).all()):
            continue
        changes = softmax(condition.logits, axis=-1) - softmax(original, axis=-1)
        finite.append(result)
        rows.append(changes[:, np.arange(len(labels)), labels].mean(axis=0))
        variation = np.abs(changes).sum(axis=-1)
        result["total_variation"] = mean_interval(variation.mean(axis=0) / 2)
    if rows:
        tests = mean_tests(np.array(rows), arguments.n_resamples, arguments.seed)
        for result, test in zip(finite, tests, strict=True):
            result["true_class_probability"] = test


def metric_cells(condition: dict) -> list[str]:
    """Return the cells under METRIC_HEADER."""

    def metric_cells_of(test: dict) -> list[str]:
        values = [percent(test["value"]), percent(test["difference"]), limits(test)]
        return [*values, p_cell(test["p_holm"])]

    probability = condition.get("true_class_probability")
    if probability:
        change = [percent(probability["mean"]), limits(probability)]
        change.append(p_cell(probability["p_holm"]))
    else:
        change = ["-", "-", "-"]
    accuracy = metric_cells_of(condition["accuracy"])
    return [*accuracy, *change, *metric_cells_of(condition["macro_f1"])]


def draw_conditions(axes: plt.Axes, result: dict, runs: list[dict], key: str, label: str) -> None:
    """Draw the change of accuracy by condition, one line per run.

    Runs that cannot see the order of words have no interval: they cannot change.
    """
    styles = model_styles(result)
    indifferent = indifferent_runs(result)
    for number, run in enumerate(runs):
        tests = [condition["accuracy"] for condition in run["conditions"]]
        # Beside each other, so that no interval hides another one
        x = np.arange(len(tests)) + 0.08 * (number - (len(runs) - 1) / 2)
        difference = np.array([100 * test["difference"] for test in tests])
        low = np.array([100 * test["low"] for test in tests])
        high = np.array([100 * test["high"] for test in tests])
        style = styles[run["name"]]
        if run["name"] not in indifferent:
            axes.vlines(x, low, high, color=style["color"], linewidth=1.2)
        axes.plot(x, difference, **style, markersize=4, linewidth=1, label=plain(run["name"]))
    labels = [str(condition[key]) for condition in runs[0]["conditions"]]
    axes.set_xticks(range(len(labels)), labels)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set(xlabel=label, ylabel="change of accuracy, points")
    # The last conditions change least, so there is room.
    axes.legend(fontsize=8, framealpha=0.8, edgecolor="none", loc="lower right")
