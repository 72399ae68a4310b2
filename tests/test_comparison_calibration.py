"""tools/comparison/calibration.py: a known case, scikit-learn, the band of calibrated models.

The simulations, marked slow, take 1 to 70 seconds each on two busy cores.
"""

import numpy as np
import pytest
from compared_runs import rate
from sklearn.calibration import calibration_curve

from comparison import calibration


def test_ece_known_case_and_scikit_learn():
    confidences = np.array([0.95, 0.95, 0.95, 0.95, 0.65, 0.65])
    result = calibration.calibration(confidences, np.array([1, 1, 1, 0, 1, 0], dtype=bool), 0)
    assert result["ece"] == pytest.approx(4 / 6 * 0.2 + 2 / 6 * 0.15)
    generator = np.random.default_rng(0)
    confidences, correct = generator.random(500), generator.random(500) < 0.6
    share, stated = calibration_curve(correct, confidences, n_bins=calibration.CALIBRATION_BINS)
    bins = calibration.calibration(confidences, correct, 0)["bins"]
    assert [part["accuracy"] for part in bins] == pytest.approx(share)
    assert [part["confidence"] for part in bins] == pytest.approx(stated)


@pytest.mark.slow
def test_band_of_calibrated_models():
    """A calibrated model's error is in the band for 92 to 97 % of 1,000 sets, others' above it."""
    generator, within, above = np.random.default_rng(10), [], []
    for number in range(1000):
        confidences = 0.4 + 0.6 * generator.beta(3, 1, 250)
        for shift, found in ((0, within), (0.15, above)):
            result = calibration.calibration(
                confidences, generator.random(250) < confidences - shift, number, n_draws=200
            )
            found.append(result["calibrated_low"] <= result["ece"] <= result["calibrated_high"])
    assert 0.92 <= rate(within) <= 0.97, rate(within)
    assert rate(above) < 0.2


def test_twelve_models_are_drawn_in_twelve_ways(monkeypatch):
    """There are ten colors."""
    drawn = []
    monkeypatch.setattr(calibration, "png", drawn.append)
    part = {"confidence": 0.8, "accuracy": 0.7, "documents": 10}
    models = {
        f"model {number}": {"ece": 0.1, "runs": [{"bins": [part, part]}]} for number in range(12)
    }
    calibration.plot_calibration(models)
    (figure,) = drawn
    lines = figure.axes[0].lines[1:]  # the first is the diagonal
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12
