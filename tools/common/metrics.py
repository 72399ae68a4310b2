"""Scores of predictions: one class or several classes per document, with or without probabilities.

A document has one label (``single_label_classification``) or any number of labels
(``multi_label_classification``). Labels and predictions are numbers of classes of shape
(documents,) for one label, and 0 or 1 of shape (documents, classes) for several. Scores are
(documents, classes): probabilities, or the decision values of an SVM.
"""

import re

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"

# What compute_scores can return, in the order of a table
METRICS = {
    "accuracy": "Accuracy",  # several labels: of the whole set of labels (subset accuracy)
    "f1": "Macro F1",
    "f1_micro": "Micro F1",
    "f1_weighted": "Weighted F1",
    "precision": "Macro precision",
    "recall": "Macro recall",
    "average_precision": "Macro average precision",
    "mcc": "Matthews correlation",
    "quadratic_kappa": "Quadratic kappa",
    "log_loss": "Log loss",
    "brier_score": "Brier score",
}
# Losses: smaller is better, and they are no shares, so a table does not show them in percent.
LOSSES = ("loss", "log_loss", "brier_score")


def metric_name(key: str, problem_type: str) -> str:
    """Return what a table calls a metric of METRICS."""
    if key == "accuracy" and problem_type == MULTI_LABEL:
        return "Subset accuracy"
    return METRICS[key]


def metric_text(key: str, value: float) -> str:
    """Return a metric as a table shows it: in percent, or a loss as it is."""
    return f"{value:.4f}" if key in LOSSES else f"{100 * value:.2f} %"


def compute_scores(
    labels: np.ndarray,
    predictions: np.ndarray,
    scores: np.ndarray,
    names: list[str],
    problem_type: str,
    are_probabilities: bool,
) -> dict[str, float]:
    """Return the metrics of METRICS that these labels and scores have.

    Macro averages are those over the classes that occur in labels or predictions; undefined values
    count as 0. Log loss is the mean negative logarithm of the probability of the truth. The Brier
    score is the mean of squared differences between probability and truth: for one label summed
    over the classes (0 to 2), for several labels averaged over them (0 to 1). Both need
    probabilities. Quadratic kappa needs at least three classes with integers as names.
    """
    if problem_type == MULTI_LABEL:
        return multi_label_scores(labels, predictions, scores, are_probabilities)

    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=0
    )
    results = {
        "accuracy": float(accuracy_score(labels, predictions)),
        "f1": float(f1),
        "f1_weighted": float(f1_score(labels, predictions, average="weighted", zero_division=0)),
        "precision": float(precision),
        "recall": float(recall),
        "mcc": 0.0,
    }
    if len(np.union1d(labels, predictions)) > 1:  # scikit-learn warns of a single class
        results["mcc"] = float(matthews_corrcoef(labels, predictions))
    if len(names) > 2 and all(re.fullmatch(r"-?\d+", name) for name in names):
        values = np.array([int(name) for name in names], dtype=float)
        results["quadratic_kappa"] = quadratic_kappa(values[labels], values[predictions])
    if are_probabilities:
        truth = np.eye(len(names))[labels]
        of_truth = scores[np.arange(len(labels)), labels]
        results["log_loss"] = float(-log_probability(of_truth).mean())
        results["brier_score"] = float(((scores - truth) ** 2).sum(axis=1).mean())
    return results


def multi_label_scores(
    labels: np.ndarray, predictions: np.ndarray, scores: np.ndarray, are_probabilities: bool
) -> dict[str, float]:
    """Return the metrics for several labels per document; the arrays are (documents, classes).

    Average precision is that over the classes that occur in the labels: without a document of a
    class there is no precision to average.
    """
    used = np.flatnonzero((labels + predictions).any(axis=0))
    precision = recall = f1 = np.zeros(1)
    if len(used) > 0:
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels[:, used], predictions[:, used], average=None, zero_division=0
        )
    ranked = [
        average_precision_score(labels[:, number], scores[:, number])
        for number in np.flatnonzero(labels.any(axis=0))
    ]
    results = {
        "accuracy": float((labels == predictions).all(axis=1).mean()),
        "f1": float(f1.mean()),
        "f1_micro": float(f1_score(labels.ravel(), predictions.ravel(), zero_division=0)),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "average_precision": float(np.mean(ranked)) if ranked else 0.0,
    }
    if are_probabilities:
        of_truth = np.where(labels == 1, scores, 1 - scores)
        results["log_loss"] = float(-log_probability(of_truth).mean())
        results["brier_score"] = float(((scores - labels) ** 2).mean())
    return results


def log_probability(probabilities: np.ndarray) -> np.ndarray:
    """Return logarithms; a probability of 0 counts as the smallest step of a float (2.2e-16)."""
    return np.log(np.maximum(probabilities, np.finfo(float).eps))


def quadratic_kappa(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Return Cohen's kappa with quadratic weights of numbers; 0 where it is undefined.

    One minus the mean squared difference over that of independent labels and predictions
    (Cohen, Psychological Bulletin 70:213-220, 1968).
    """
    by_chance = labels.var() + predictions.var() + (labels.mean() - predictions.mean()) ** 2
    if by_chance == 0:
        return 0.0
    return float(1 - ((labels - predictions) ** 2).mean() / by_chance)


def class_f1(
    labels: np.ndarray, predictions: np.ndarray, n_classes: int, problem_type: str
) -> np.ndarray:
    """Return the F1 of every class, shape (classes,); undefined values count as 0."""
    numbers = None if problem_type == MULTI_LABEL else range(n_classes)
    return f1_score(labels, predictions, labels=numbers, average=None, zero_division=0)


def choose_thresholds(labels: np.ndarray, scores: np.ndarray, default: float = 0.5) -> list[float]:
    """Return a threshold per class that maximizes its F1; a score of at least that is a label.

    A threshold lies halfway between two neighboring scores of documents. The default, 0 for
    decision values, is kept where no other threshold is better, as for a class without documents;
    among equals, the one closest to it is taken.
    """
    thresholds = []
    for number in range(labels.shape[1]):
        truth = labels[:, number]
        values = np.unique(scores[:, number])
        candidates = [default, values[0], *(values[1:] + values[:-1]) / 2]
        candidates = sorted(candidates, key=lambda threshold: abs(threshold - default))

        # Documents and labels at or above every candidate
        order = np.argsort(scores[:, number], kind="stable")
        first = np.searchsorted(scores[order, number], candidates, side="left")
        right = truth[order][::-1].cumsum()[::-1]
        n_right = np.append(right, 0)[first]
        n_predicted = len(truth) - first
        f1 = 2 * n_right / np.maximum(n_predicted + truth.sum(), 1)
        thresholds.append(float(candidates[f1.argmax()]))
    return thresholds


def predict_labels(
    scores: np.ndarray, problem_type: str, thresholds: list[float] | None = None
) -> np.ndarray:
    """Return the predictions: the class with the highest score, or each at its threshold."""
    if problem_type == MULTI_LABEL:
        return (scores >= np.array(thresholds)).astype(int)
    return scores.argmax(axis=1)
