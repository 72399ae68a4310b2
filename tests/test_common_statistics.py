"""tools/common/statistics.py: exact identities, error rates by simulation, time and memory.

The simulations, marked slow, take 1 to 70 seconds each on two busy cores.
"""

import time
import tracemalloc

import numpy as np
import pytest
from compared_runs import draw_predictions, metrics_of_resamples, rate
from scipy import stats
from sklearn.metrics import f1_score

from common.statistics import difference_test, percentile_interval


def test_bootstrap_is_scikit_learn_on_resampled_documents():
    generator = np.random.default_rng(3)
    labels = generator.choice(4, 40, p=[0.6, 0.3, 0.08, 0.02])
    predictions = np.array([draw_predictions(generator, labels, 0.7, 4) for _ in range(3)])
    # The documented draw: multinomial counts over the distinct columns, in sorted order.
    patterns, counts = np.unique(np.vstack([labels, predictions]), axis=1, return_counts=True)
    draws = metrics_of_resamples(labels, predictions, 4, 300, 5)
    assert draws["macro_f1"][0] == pytest.approx(
        [f1_score(labels, row, average="macro") for row in predictions]
    )
    weights = np.random.default_rng(5).multinomial(40, counts / 40, size=300)
    for number in range(300):
        sample = np.repeat(patterns, weights[number], axis=1)
        for run in range(3):
            expected = f1_score(sample[0], sample[1 + run], average="macro", zero_division=0)
            assert draws["macro_f1"][1 + number, run] == pytest.approx(expected, abs=1e-12)
            accuracy = (sample[0] == sample[1 + run]).mean()
            assert draws["accuracy"][1 + number, run] == pytest.approx(accuracy, abs=1e-12)


def f1_of_counts(labels, predictions, n_classes):
    cells = np.bincount(n_classes * labels + predictions, minlength=n_classes**2).reshape(
        n_classes, n_classes
    )
    return np.mean(2 * cells.diagonal() / (cells.sum(axis=0) + cells.sum(axis=1)))


def test_bootstrap_interval_agrees_with_scipy():
    generator = np.random.default_rng(11)
    labels = generator.integers(0, 3, 400)
    difficulty = generator.random(400)
    predictions = np.array(
        [draw_predictions(generator, labels, a, 3, difficulty) for a in (0.8, 0.85)]
    )
    draws = metrics_of_resamples(labels, predictions, 3, 10_000, 0)["macro_f1"]
    test = difference_test(draws[:, 1] - draws[:, 0])
    low, high, p = test["low"], test["high"], test["p"]

    def difference(truth, first, second):
        return f1_of_counts(truth, second, 3) - f1_of_counts(truth, first, 3)

    assert f1_of_counts(labels, predictions[0], 3) == pytest.approx(
        f1_score(labels, predictions[0], average="macro")
    )
    scipys = stats.bootstrap(
        (labels, *predictions),
        difference,
        paired=True,
        vectorized=False,
        n_resamples=5000,
        method="percentile",
        rng=1,
    )
    width = high - low
    assert low == pytest.approx(scipys.confidence_interval.low, abs=0.04 * width)
    assert high == pytest.approx(scipys.confidence_interval.high, abs=0.04 * width)
    # The p-value and the interval tell the same story.
    assert (p < 0.05) == (low > 0 or high < 0)


@pytest.mark.slow
def test_interval_of_macro_f1_covers_the_truth():
    """The 95% interval of a run's macro F1 holds the population's in 93 to 97 % of 1,000 sets."""
    generator = np.random.default_rng(2)
    shares = np.array([0.4, 0.14, 0.32, 0.08, 0.06])
    confusion = np.full((5, 5), 0.15 / 4) + np.eye(5) * (0.85 - 0.15 / 4)
    joint = shares[:, None] * confusion
    true_f1 = np.mean(2 * joint.diagonal() / (joint.sum(axis=0) + joint.sum(axis=1)))
    covered = []
    for _ in range(1000):
        cells = generator.choice(25, 1000, p=joint.ravel())
        labels, predictions = cells // 5, cells % 5
        draws = metrics_of_resamples(
            labels, predictions[None], 5, 1000, int(generator.integers(2**31))
        )["macro_f1"]
        low, high = percentile_interval(draws[1:, 0])
        covered.append(low <= true_f1 <= high)
    assert 0.93 <= rate(covered) <= 0.97, rate(covered)


@pytest.mark.slow
def test_eight_runs_of_the_studys_size_take_seconds():
    generator = np.random.default_rng(0)
    labels = generator.choice(5, 4735, p=[0.41, 0.13, 0.33, 0.08, 0.05])
    # Independent errors: the most distinct patterns, hence the most work.
    predictions = np.array([draw_predictions(generator, labels, 0.7) for _ in range(8)])
    start = time.process_time()
    draws = metrics_of_resamples(labels, predictions, 5, 10_000, 42)
    assert time.process_time() - start < 20
    assert draws["macro_f1"].shape == (10_001, 8)
    tracemalloc.start()
    metrics_of_resamples(labels, predictions, 5, 1000, 42)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
