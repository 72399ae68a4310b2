"""Intervals and tests that several tools share."""

import numpy as np
from scipy import stats
from scipy.special import stdtrit

ALPHA = 0.05
MIN_INTERVAL_DOCUMENTS = 10  # with fewer, a 95% interval is not reported
RESAMPLES_PER_BLOCK = 250  # bounds the memory of the bootstrap
ROUNDING = 1e-12  # values that differ by less are the same: a mean of equal numbers is not exact


def bootstrap(
    labels: np.ndarray,
    predictions: np.ndarray,
    n_classes: int,
    n_resamples: int,
    seed: int,
    counts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracy and F1 of every class on the documents and on resamples of them.

    labels is (documents,) and predictions (rows, documents), both class numbers. The rest is that
    of ``bootstrap_label_sets``.
    """
    is_label = np.eye(n_classes, dtype=bool)[labels]
    is_prediction = np.eye(n_classes, dtype=bool)[predictions]
    return bootstrap_label_sets(is_label, is_prediction, n_resamples, seed, counts)


def bootstrap_label_sets(
    is_label: np.ndarray,
    is_prediction: np.ndarray,
    n_resamples: int,
    seed: int,
    counts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracy and F1 of every class where a document may have any number of labels.

    is_label is (documents, classes) and is_prediction (rows, documents, classes), both bool.
    Accuracy counts a document as right if all its labels and no others are predicted (subset
    accuracy). counts says how many documents each column stands for (default 1): documents with
    the same labels and the same predictions are exchangeable and can share a column.

    Accuracy is (1 + n_resamples, rows), F1 (1 + n_resamples, rows, classes). The first entry is for
    the documents themselves; all rows see the same resamples. F1 is NaN where a class is neither a
    label nor a prediction; np.nanmean over the classes is scikit-learn's macro F1 with
    zero_division=0.

    A resample is a multinomial draw of how often each document is taken, so that the counts of a
    confusion matrix are a matrix product.
    """
    documents, n_classes = is_label.shape
    rows = len(is_prediction)
    if counts is None:
        counts = np.ones(documents, dtype=int)
    counts = np.asarray(counts)
    total = counts.sum()

    # Indicators of what is counted for each document: right predictions of a class, predictions
    # of a class, documents with all labels right, and labels of a class.
    is_right = (is_prediction & is_label).swapaxes(0, 1).reshape(documents, -1)
    predicts = is_prediction.swapaxes(0, 1).reshape(documents, -1)
    is_exact = (is_prediction == is_label).all(axis=2).T
    indicators = np.concatenate([is_right, predicts, is_exact, is_label], axis=1).astype(float)
    sections = np.cumsum([rows * n_classes, rows * n_classes, rows])

    generator = np.random.default_rng(seed)
    accuracies, scores = [], []
    for start in range(0, n_resamples, RESAMPLES_PER_BLOCK):
        size = min(RESAMPLES_PER_BLOCK, n_resamples - start)
        draws = generator.multinomial(total, counts / total, size=size).astype(float)
        if start == 0:
            draws = np.concatenate([counts[None], draws])
        right, predicted, exact, labeled = np.split(draws @ indicators, sections, axis=1)
        right = right.reshape(len(draws), rows, n_classes)
        predicted = predicted.reshape(len(draws), rows, n_classes)
        # F1 = 2 TP / (2 TP + FP + FN), and the denominator is predictions plus labels.
        denominator = predicted + labeled[:, None]
        undefined = np.full(denominator.shape, np.nan)
        scores.append(np.divide(2 * right, denominator, out=undefined, where=denominator > 0))
        accuracies.append(exact / total)
    return np.concatenate(accuracies), np.concatenate(scores)


def percentile_interval(draws: np.ndarray, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws with level 1 - alpha, leaving out NaN."""
    defined = draws[~np.isnan(draws)]
    low, high = np.quantile(defined, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def difference_test(differences: np.ndarray) -> dict:
    """Return a bootstrapped difference with its 95% percentile interval and p of no difference.

    The first entry is the observed difference, the others are resamples. p is twice the smaller
    share of resamples on one side of 0, with one added to numerator and denominator, so it is
    never 0 (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 4.4).
    """
    differences = np.round(differences, 12)  # means of equal numbers are equal
    low, high = percentile_interval(differences[1:])
    draws = differences[1:][~np.isnan(differences[1:])]
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    return {"difference": float(differences[0]), "low": low, "high": high, "p": float(p)}


def least_p(changed: int) -> float:
    """Return the p-value that no exact test of so many changed documents can fall below.

    Were each change as likely to go the other way, all would go one way with this probability.
    """
    return min(1.0, 2.0 ** (1 - changed))


def documents_test(differences: np.ndarray, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Return the mean of the documents' differences, its interval and p of null (paired t-test)."""
    mean = float(differences.mean())
    if np.ptp(differences) < ROUNDING:
        p = 1.0 if abs(mean - null) < ROUNDING else least_p(len(differences))
        return {"difference": mean, "low": None, "high": None, "p": p}
    test = stats.ttest_1samp(differences, null)
    low, high = test.confidence_interval(1 - alpha)
    return {"difference": mean, "low": float(low), "high": float(high), "p": float(test.pvalue)}


def mean_interval(values: np.ndarray | list[float]) -> dict:
    """Return the mean of values with Student's 95% interval.

    low and high are None below MIN_INTERVAL_DOCUMENTS.
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < MIN_INTERVAL_DOCUMENTS:
        return {"mean": mean, "low": None, "high": None}
    if np.ptp(values) == 0:
        return {"mean": mean, "low": mean, "high": mean}
    quantile = stdtrit(len(values) - 1, 1 - ALPHA / 2)
    half = float(quantile * values.std(ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def holm(p_values: list[float]) -> list[float]:
    """Return the p-values of one family of tests after Holm's correction, in the same order."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    in_order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    for rank, number in enumerate(in_order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = largest
    return corrected


def add_holm(tests: list[dict]) -> None:
    """Add p_holm, Holm's correction of p, to tests of one family."""
    corrected = holm([test["p"] for test in tests])
    for test, p in zip(tests, corrected, strict=True):
        test["p_holm"] = p
