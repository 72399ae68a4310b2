"""Calibration: whether the probabilities that runs give are the shares in which they are right."""

import matplotlib.pyplot as plt
import numpy as np

from common.pages import plain, png
from common.statistics import percentile_interval
from common.text import percent
from comparison.runs import Model, Run

CALIBRATION_BINS = 15
CALIBRATION_DRAWS = 1000
LINE_STYLES = ("-", "--", "-.", ":")


def calibration(
    confidences: np.ndarray, correct: np.ndarray, seed: int, n_draws: int = CALIBRATION_DRAWS
) -> dict:
    """Return the expected calibration error and the means of each bin.

    The error is that over bins of equal width (Guo et al., ICML 2017). calibrated_low and
    calibrated_high are the 95% band of the error that a calibrated model with these confidences
    shows on so many documents: right and wrong are drawn n_draws times with the probabilities that
    are stated (Bröcker & Smith, Weather and Forecasting 22:651-661, 2007).
    """
    documents = len(confidences)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.searchsorted(edges, confidences, side="right") - 1
    bins = np.clip(bins, 0, CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    stated = np.bincount(bins, confidences, minlength=CALIBRATION_BINS)
    right = np.bincount(bins, correct, minlength=CALIBRATION_BINS)

    generator = np.random.default_rng(seed)
    errors = []
    for _ in range(n_draws):
        drawn = generator.random(documents) < confidences
        drawn_right = np.bincount(bins, drawn, CALIBRATION_BINS)
        errors.append(np.abs(drawn_right - stated).sum())
    low, high = percentile_interval(np.array(errors) / documents)

    shown_bins = []
    for n, n_right, sum_stated in zip(count, right, stated, strict=True):
        if n > 0:
            shown_bins.append(
                {
                    "documents": int(n),
                    "confidence": float(sum_stated / n),
                    "accuracy": float(n_right / n),
                }
            )
    return {
        "ece": float(np.abs(right - stated).sum() / documents),
        "calibrated_low": low,
        "calibrated_high": high,
        "mean_confidence": float(confidences.mean()),
        "bins": shown_bins,
    }


def calibrate(
    models: list[Model], runs: list[Run], correct: np.ndarray, seed: int
) -> tuple[dict[str, dict], list[str]]:
    """Return the calibration of every model with probabilities, and a note on each run without.

    The numbers of a model are the means over its seeds; runs holds the calibration of each. correct
    says which run is right on which document.
    """
    results, notes = {}, []
    for model in models:
        of_runs = []
        for number in model.runs:
            run = runs[number]
            reason = reason_without_calibration(run)
            if reason is None:
                of_runs.append(calibration(run.confidence(), correct[number], seed))
            else:
                notes.append(f"Calibration is left out for {run.label}: {reason}.")
        if of_runs:
            result = {}
            for key in ("ece", "calibrated_low", "calibrated_high", "mean_confidence"):
                result[key] = float(np.mean([part[key] for part in of_runs]))
            result["runs"] = of_runs
            results[model.name] = result
    return results, notes


def reason_without_calibration(run: Run) -> str | None:
    """Return why the calibration of a run is left out; None if it is not."""
    if run.is_multi_label:
        return "it predicts several labels per document, which have no single confidence"
    if run.scores is None:
        return "it has no scores"
    if not run.has_probabilities:
        return "its scores are not probabilities"
    return run.reason_against_scores()


def calibration_sentence(name: str, result: dict) -> str:
    """Return the calibration of a model in words."""
    count = len(result["runs"])
    above = sum(run["ece"] > run["calibrated_high"] for run in result["runs"])
    below = sum(run["ece"] < run["calibrated_low"] for run in result["runs"])
    if count > 1:
        verdict = f"means of {count} seeds, of which {above} are above their band and {below} below"
    elif above:
        verdict = "above this band"
    elif below:
        verdict = "below this band"
    else:
        verdict = "within this band"
    return (
        f"{name}: expected calibration error {percent(result['ece'])} points, mean confidence "
        f"{percent(result['mean_confidence'])} percent; a calibrated model would have "
        f"{percent(result['calibrated_low'])} to {percent(result['calibrated_high'])} points here "
        f"({verdict})."
    )


def plot_calibration(results: dict[str, dict]) -> bytes:
    """Draw the reliability diagram: a line per run, a color per model.

    Where there are more models than colors, they also differ in the style of their lines.
    Larger markers have more documents.
    """
    figure, axes = plt.subplots(figsize=(6.4, 5.6))
    axes.plot([0, 1], [0, 1], "--", color="#888888", linewidth=1)
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for number, (name, result) in enumerate(results.items()):
        color = colors[number % len(colors)]
        line_style = LINE_STYLES[number // len(colors) % len(LINE_STYLES)]
        label = plain(f"{name[:50]} (ECE {100 * result['ece']:.1f})")
        for run in result["runs"]:
            x = [part["confidence"] for part in run["bins"]]
            y = [part["accuracy"] for part in run["bins"]]
            documents = np.array([part["documents"] for part in run["bins"]])
            sizes = 8 + 120 * documents / documents.sum()
            axes.plot(x, y, line_style, linewidth=1.4, color=color, label=label)
            axes.scatter(x, y, s=sizes, color=color, alpha=0.7)
            label = None  # one line in the legend per model
    axes.set_xlim(0, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_xlabel("probability of the prediction")
    axes.set_ylabel("share that is right")
    axes.legend(loc="best", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)
