"""Intervals and tests that several tools share."""

import numpy as np
from scipy.special import stdtrit

ALPHA = 0.05
MIN_INTERVAL_DOCUMENTS = 10  # with fewer, a 95 % interval is not reported


def bootstrap(
    labels: np.ndarray,
    predictions: np.ndarray,
    n_classes: int,
    n_resamples: int,
    seed: int,
    counts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracy (1 + n_resamples, rows) and F1 (1 + n_resamples, rows, classes) on resampled documents.

    labels is (documents,), predictions (rows, documents), both class numbers. The first entry is for the documents
    themselves; all rows see the same resamples. counts says how many documents each column stands for (default 1):
    documents with the same label and predictions are exchangeable and can share a column. A resample is a multinomial
    draw of how often each document is taken, so the confusion counts are a matrix product. F1 is NaN where a class is
    neither a label nor a prediction; np.nanmean over the classes is scikit-learn's macro F1 with zero_division=0.
    """
    counts = np.ones(len(labels), dtype=int) if counts is None else np.asarray(counts)
    support = np.eye(n_classes)[labels]
    predicted = np.eye(n_classes)[predictions].swapaxes(0, 1)  # (documents, rows, classes)
    cells = np.concatenate([predicted * support[:, None], predicted], axis=1).reshape(
        len(labels), -1
    )
    generator, total = np.random.default_rng(seed), counts.sum()
    accuracies, scores = [], []
    for start in range(0, n_resamples, 250):  # blocks bound the memory
        draws = generator.multinomial(
            total, counts / total, size=min(250, n_resamples - start)
        ).astype(float)
        draws = np.concatenate([counts[None], draws]) if start == 0 else draws
        sums = (draws @ cells).reshape(len(draws), 2, len(predictions), n_classes)
        size = sums[:, 1] + (draws @ support)[:, None]
        scores.append(
            np.divide(2 * sums[:, 0], size, out=np.full(size.shape, np.nan), where=size > 0)
        )
        accuracies.append(sums[:, 0].sum(axis=-1) / total)
    return np.concatenate(accuracies), np.concatenate(scores)


def percentile_interval(draws: np.ndarray, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws with level 1 - alpha, leaving out NaN."""
    low, high = np.quantile(draws[~np.isnan(draws)], [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def difference_test(differences: np.ndarray) -> dict:
    """Return a bootstrapped difference with its 95 % percentile interval and the p-value of no difference.

    The first entry is the observed difference, the others are resamples. p is twice the smaller share of resamples on
    one side of 0, with one added to numerator and denominator, so it is never 0 (Davison & Hinkley, Bootstrap Methods
    and their Application, 1997, section 4.4).
    """
    differences = np.round(differences, 12)  # means of equal numbers are equal
    low, high = percentile_interval(differences[1:])
    draws = differences[1:][~np.isnan(differences[1:])]
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    return {"difference": float(differences[0]), "low": low, "high": high, "p": float(p)}


def mean_interval(values: np.ndarray | list[float]) -> dict:
    """Return the mean of values with Student's 95 % interval; low and high are None below MIN_INTERVAL_DOCUMENTS."""
    values = np.asarray(values, dtype=float)
    mean, low, high = float(values.mean()), None, None
    if len(values) >= MIN_INTERVAL_DOCUMENTS:
        half = stdtrit(len(values) - 1, 1 - ALPHA / 2) * values.std(ddof=1) / np.sqrt(len(values))
        low, high = (mean - float(half), mean + float(half)) if np.ptp(values) > 0 else (mean, mean)
    return {"mean": mean, "low": low, "high": high}


def add_holm(tests: list[dict]) -> None:
    """Add p_holm, Holm's correction of p, to tests of one family."""
    largest = 0.0
    for rank, test in enumerate(sorted(tests, key=lambda test: test["p"])):
        largest = max(largest, min(1.0, (len(tests) - rank) * test["p"]))
        test["p_holm"] = largest
