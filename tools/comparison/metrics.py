"""Accuracy and macro F1 of every model with intervals, F1 of every class, agreement."""

from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, product

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint

from common.statistics import ALPHA, bootstrap, percentile_interval
from comparison.paired_tests import (
    METRICS,
    MIN_BOOTSTRAP_DOCUMENTS,
    MIN_TEST_DOCUMENTS,
    pooled_test,
)
from comparison.runs import Model, Run


@dataclass
class Evaluation:
    """What all runs predict for the test documents, and their metrics.

    labels is (documents,) and predictions (runs, documents), both numbers of classes; correct says
    which run is right on which document. draws holds both metrics, (1 + resamples, runs) each:
    first on the documents, then on resamples of them. class_f1 is (runs, classes).
    """

    classes: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    correct: np.ndarray
    draws: dict[str, np.ndarray]
    class_f1: np.ndarray

    @property
    def documents(self) -> int:
        return len(self.labels)


def evaluate(runs: list[Run], n_resamples: int, seed: int) -> Evaluation:
    """Return the metrics of every run, on the documents and on resamples of them."""
    truth = runs[0].table["label"]
    classes = sorted(set(truth).union(*(run.table["prediction"] for run in runs)))
    index = pd.Index(classes)
    labels = index.get_indexer(truth)
    predictions = np.array([index.get_indexer(run.table["prediction"]) for run in runs])

    # Documents with the same label and predictions share a column: much less work.
    table = np.vstack([labels, predictions])
    patterns, counts = np.unique(table, axis=1, return_counts=True)
    accuracy, f1 = bootstrap(
        patterns[0], patterns[1:], len(classes), n_resamples, seed, counts=counts
    )
    return Evaluation(
        classes=classes,
        labels=labels,
        predictions=predictions,
        correct=predictions == labels,
        draws={"accuracy": accuracy, "macro_f1": np.nanmean(f1, axis=-1)},
        class_f1=f1[0],
    )


def model_row(model: Model, runs: list[Run], evaluation: Evaluation) -> dict:
    """Return a row of table 2: mean, deviation over seeds and 95% interval of both metrics.

    Where there are too few documents for an interval, its bounds are None.
    """
    draws = evaluation.draws
    members = []
    for number in model.runs:
        members.append(
            {
                "folder": runs[number].label,
                "seed": runs[number].seed,
                "accuracy": float(draws["accuracy"][0, number]),
                "macro_f1": float(draws["macro_f1"][0, number]),
            }
        )
    row = {
        "name": model.name,
        "is_baseline": model.is_baseline,
        "runs": members,
        "source": "run",
        "seeds": model.seeds,
    }
    for metric in METRICS:
        values = draws[metric][:, model.runs]
        low, high = metric_interval(metric, values, evaluation.correct[model.runs])
        row[metric] = float(values[0].mean())
        row[f"{metric}_sd"] = float(values[0].std(ddof=1)) if model.seeds > 1 else None
        row[f"{metric}_low"] = low
        row[f"{metric}_high"] = high
    return row


def metric_interval(
    metric: str, values: np.ndarray, correct: np.ndarray
) -> tuple[float | None, float | None]:
    """Return the 95% interval of a model's metric; None, None if there are too few documents.

    values is (1 + resamples, seeds), correct (seeds, documents). One seed: Wilson's interval of
    accuracy, the percentile interval of macro F1. Several: documents and seeds are random.
    """
    seeds, documents = correct.shape
    if seeds > 1:
        if documents < MIN_TEST_DOCUMENTS:
            return None, None
        test = pooled_test([(1, values)])
        low, high = test["low"], test["high"]
    elif metric == "accuracy":
        low, high = wilson_interval(int(correct.sum()), documents)
    elif documents >= MIN_BOOTSTRAP_DOCUMENTS:
        low, high = percentile_interval(values[1:, 0])
    else:
        return None, None
    return clip(low), clip(high)


def wilson_interval(right: int, documents: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share."""
    low, high = proportion_confint(right, documents, alpha=ALPHA, method="wilson")
    return float(low), float(high)


def clip(value: float) -> float:
    """Return a bound of an interval as a fraction between 0 and 1."""
    return float(np.clip(value, 0, 1))


def missing_interval_notes(documents: int) -> list[str]:
    """Return which intervals of table 2 are left out for so few documents."""
    notes = []
    if documents < MIN_BOOTSTRAP_DOCUMENTS:
        notes.append(
            "Intervals of macro F1 are left out for one seed: "
            f"fewer than {MIN_BOOTSTRAP_DOCUMENTS} documents."
        )
    if documents < MIN_TEST_DOCUMENTS:
        notes.append(
            f"Intervals are left out for several seeds: fewer than {MIN_TEST_DOCUMENTS} documents."
        )
    return notes


def per_class_table(models: list[Model], evaluation: Evaluation) -> tuple[pd.DataFrame, list[str]]:
    """Return the F1 of every class and model, mean over seeds, and notes on unused classes."""
    classes = evaluation.classes
    documents = np.bincount(evaluation.labels, minlength=len(classes))
    table = pd.DataFrame({"class": classes, "documents": documents})
    notes = []
    for model in models:
        table[model.name] = np.nan_to_num(evaluation.class_f1[model.runs]).mean(axis=0)
        predicted = set(evaluation.predictions[model.runs].ravel())
        unused = [name for number, name in enumerate(classes) if number not in predicted]
        if unused:
            notes.append(f"{model.name} never predicts {', '.join(unused)}: F1 is 0 there.")
    return table, notes


def agreement_table(
    models: list[Model], evaluation: Evaluation
) -> tuple[pd.DataFrame, float | None]:
    """Return the agreement of each pair of models and the median disagreement of their runs.

    Agreement is the mean over pairs of seeds; that of a model with itself is between its seeds.
    Disagreement is the share of documents that exactly one of two runs of different models gets
    right; None if there is one model only.
    """
    predictions, correct = evaluation.predictions, evaluation.correct
    rows, disagreements = [], []
    for first, second in combinations_with_replacement(models, 2):
        if first is second:
            pairs = list(combinations(first.runs, 2))
        else:
            pairs = list(product(first.runs, second.runs))
        if not pairs:
            continue
        same, kappa, one_right = [], [], []
        for a, b in pairs:
            share = float(np.mean(predictions[a] == predictions[b]))
            same.append(share)
            # If two runs predict one and the same class for all documents, chance agreement is 1
            # and kappa is 0/0.
            kappa.append(1.0 if share == 1 else cohen_kappa_score(predictions[a], predictions[b]))
            one_right.append(float(np.mean(correct[a] != correct[b])))
        if first is not second:
            disagreements += one_right
        rows.append(
            {
                "model": first.name,
                "other": second.name,
                "same_prediction": float(np.mean(same)),
                "cohen_kappa": float(np.mean(kappa)),
                "exactly_one_right": float(np.mean(one_right)),
            }
        )
    columns = ["model", "other", "same_prediction", "cohen_kappa", "exactly_one_right"]
    median = float(np.median(disagreements)) if disagreements else None
    return pd.DataFrame(rows, columns=columns), median
