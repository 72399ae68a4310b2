"""Tests of the experiments: a mean over documents, and documents classified twice."""

import numpy as np
from scipy import stats

from common.statistics import ALPHA, MIN_INTERVAL_DOCUMENTS
from context.models import ROUNDING

BLOCK = 500  # resamples that are computed together, to bound the memory
MOST_EXACT = 12  # changed documents of which all exchanges are counted


# A mean over documents


def mean_tests(values: np.ndarray, n_resamples: int, seed: int) -> list[dict]:
    """Test for each row of values (tests, documents) whether its mean is 0.

    p and the 95% interval are of one method, the studentized bootstrap with equal tails (Davison &
    Hinkley, Bootstrap Methods and their Application, 1997, sections 2.4 and 5.2): documents are
    drawn again, and (mean of the resample - mean) / (its standard error) has the distribution of
    (mean - true mean) / (standard error). Signs that are drawn at random would test symmetry, and
    Student's t normal means: both find effects of skewed values too often. Student's t is used
    where a share of the resamples has no variance, as with few values that are not 0. The interval
    is None for few documents.
    """
    values = np.where(np.abs(values) < ROUNDING, 0, values)  # a rounding error is not an effect
    documents = values.shape[1]
    means = values.mean(axis=1)
    errors = values.std(axis=1) / np.sqrt(documents)
    generator = np.random.default_rng(seed)
    blocks = []
    for start in range(0, n_resamples, BLOCK):
        size = min(BLOCK, n_resamples - start)
        chances = np.full(documents, 1 / documents)
        weights = generator.multinomial(documents, chances, size=size).astype(float)
        resampled = weights @ values.T / documents
        variance = weights @ (values**2).T / documents - resampled**2
        # What is left of equal values is rounding.
        variance = np.where(variance > 1e-12 * values.var(axis=1), variance, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (resampled - means) / np.sqrt(variance / documents)
        blocks.append(np.nan_to_num(ratio, nan=0.0, posinf=np.inf, neginf=-np.inf))
    ratios = np.concatenate(blocks)
    return [
        one_mean_test(mean, error, ratio, documents)
        for mean, error, ratio in zip(means, errors, ratios.T, strict=True)
    ]


def one_mean_test(mean: float, error: float, ratios: np.ndarray, documents: int) -> dict:
    """Return mean, interval, number of documents and p of one test from its resampled ratios."""
    if error == 0:
        # All documents agree. If they were as likely to have the other sign:
        p = 1.0 if mean == 0 else 2.0 ** (1 - documents)
        low = high = mean
    else:
        # The ratios beyond which p would be less than 0.05, so that p and interval agree
        beyond = max(1, int(np.ceil(ALPHA / 2 * (len(ratios) + 1))) - 1)
        in_order = np.sort(ratios)
        lower, upper = in_order[beyond - 1], in_order[-beyond]
        observed = mean / error
        if np.isfinite([lower, upper]).all():
            tail = min((ratios <= observed).sum(), (ratios >= observed).sum())
            p = min(1.0, 2 * (tail + 1) / (len(ratios) + 1))
        else:
            error *= np.sqrt(documents / (documents - 1))
            upper = stats.t.ppf(1 - ALPHA / 2, documents - 1)
            lower = -upper
            p = 2 * stats.t.sf(abs(mean / error), documents - 1)
        low = mean - upper * error
        high = mean - lower * error
    has_interval = documents >= MIN_INTERVAL_DOCUMENTS
    return {
        "mean": float(mean),
        "low": float(low) if has_interval else None,
        "high": float(high) if has_interval else None,
        "documents": documents,
        "p": float(p),
    }


# Documents that are classified twice


def exchange_tests(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    n_classes: int,
    n_permutations: int,
    seed: int,
) -> tuple[np.ndarray, float]:
    """Return p of no difference in the F1 of each class, and in macro F1.

    first and second (documents,) are the predicted classes of two classifications. If they are
    equally good, a document's two predictions could be exchanged. All exchanges of the documents
    whose prediction differs are counted if these are few, and n_permutations random ones otherwise
    (Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9:39, 2010).
    """
    differ = np.flatnonzero(first != second)
    size = len(differ)
    if size == 0:
        return np.ones(n_classes), 1.0
    if size <= MOST_EXACT and 2**size <= n_permutations + 1:
        numbers = np.arange(2**size)
        exchanged = (numbers[:, None] >> np.arange(size)) & 1
    else:
        generator = np.random.default_rng(seed)
        exchanged = generator.integers(0, 2, size=(n_permutations, size))
        exchanged = np.concatenate([np.zeros((1, size), dtype=int), exchanged])  # as observed
    exchanged = exchanged.astype(float)

    def counts(predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which class is predicted, and rightly, (documents, classes)."""
        predicted = np.eye(n_classes)[predictions]
        return predicted, predicted * (predictions == labels)[:, None]

    labeled = np.bincount(labels, minlength=n_classes)
    predicted_first, right_first = counts(first)
    predicted_second, right_second = counts(second)
    moved_predicted = exchanged @ (predicted_second - predicted_first)[differ]
    moved_right = exchanged @ (right_second - right_first)[differ]
    scores = []
    for predicted, right, sign in (
        (predicted_first, right_first, 1),
        (predicted_second, right_second, -1),
    ):
        numerator = 2 * (right.sum(axis=0) + sign * moved_right)
        denominator = predicted.sum(axis=0) + sign * moved_predicted + labeled
        undefined = np.full(denominator.shape, np.nan)
        scores.append(np.divide(numerator, denominator, out=undefined, where=denominator > 0))
    of_classes = np.nan_to_num(scores[1]) - np.nan_to_num(scores[0])
    macro = np.nanmean(scores[1], axis=1) - np.nanmean(scores[0], axis=1)
    differences = np.column_stack([of_classes, macro])
    p = (np.abs(differences) >= np.abs(differences[0]) - 1e-12).mean(axis=0)
    return p[:-1], float(p[-1])
