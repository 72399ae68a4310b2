#!/usr/bin/env python
"""Measure how often the tests of tools/compare_runs.py are wrong, by simulation.

    python benchmarks/bench_statistics.py
    python benchmarks/bench_statistics.py --repeats 200 --output_file quick.json

Every line of the result is a setting, simulated --repeats times: two models whose true difference
is known, on new documents each time and with new seeds where the test is about new seeds. size is
the share of comparisons of equally good models in which a difference is found at level 5 %,
coverage the share of 95% intervals that hold the true difference, equivalence_errors the share in
which models that differ by the margin are called equivalent, false_alarms the share in which
--fail_if_worse refuses a model that is worse by exactly the margin. The standard error of a share
of 5 % is 0.4 points with 3,000 repeats. Settings that need a bootstrap are repeated less often
(repeats of the line).

Writes benchmarks/results/statistics.json.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import platform
import sys
import textwrap
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from common.statistics import (  # noqa: E402
    ALPHA,
    bootstrap,
    bootstrap_label_sets,
    difference_test,
    holm,
    percentile_interval,
)
from comparison.paired_tests import (  # noqa: E402
    accuracy_test,
    documents_test,
    groups_of_means,
    margin_tests,
    mcnemar_test,
    random_effects,
)

RESAMPLES = 500
# A test split of the size of the findings'.
DOCUMENTS = 973
CLASS_SHARES = np.array([0.4, 0.14, 0.32, 0.08, 0.06])


def rate(flags: list[bool]) -> float:
    return round(float(np.mean(flags)), 4)


# Seeds and documents


def draw_seeds(
    generator: np.random.Generator, documents: int, seeds: tuple[int, int], spreads: tuple
) -> list[np.ndarray]:
    """Return which seed of two equally good ways to train is right, (seeds, documents) each.

    spreads are the standard deviations of the seeds' quality. Both models find the same documents
    hard, up to differences of their own.
    """
    chances = 0.5 + 0.48 * generator.beta(4, 1.5, documents)
    right = []
    for n, spread in zip(seeds, spreads, strict=True):
        own = chances + generator.normal(0, 0.08, documents)
        quality = generator.normal(0, spread, (n, 1))
        right.append((generator.random((n, documents)) < own + quality).astype(float))
    return right


def without_floor(right: list[np.ndarray]) -> tuple[float, float, float]:
    """Return estimate, standard error and degrees of freedom without a floor of seeds' variance.

    That is the textbook's Obuchowski-Rockette analysis.
    """
    groups, document_variance, _ = groups_of_means(*right)
    seed_part, own_part, inverse = 0.0, 0.0, 0.0
    for group in groups:
        variance = group.values.var(ddof=1) / group.seeds
        seed_part += variance
        inverse += variance**2 / (group.seeds - 1)
        own_part += group.own_variance / group.seeds
    total = seed_part + max(0.0, document_variance - own_part)
    freedom = total**2 / inverse if inverse > 0 else 1e9
    return groups[0].values.mean() - groups[1].values.mean(), np.sqrt(total), freedom


def simulate_seeds(
    generator: np.random.Generator,
    repeats: int,
    documents: int,
    seeds: tuple[int, int],
    spreads: tuple[float, float],
) -> dict:
    """Simulate two equally good ways to train, several seeds each."""
    found = {"size": [], "equivalence_errors": [], "half_width": [], "floored": []}
    old = {"size": [], "equivalence_errors": [], "half_width": []}
    for _ in range(repeats):
        right = draw_seeds(generator, documents, seeds, spreads)
        groups = groups_of_means(*right)
        effects = random_effects(*groups)
        test = effects.test()
        found["size"].append(test["p"] < ALPHA)
        # Models that differ by the margin: the same estimate, shifted
        error = np.sqrt(effects.documents + effects.seeds)
        found["equivalence_errors"].append(
            test["difference"] < -error * stats.t.ppf(1 - ALPHA, effects.freedom)
        )
        found["half_width"].append((test["high"] - test["low"]) / 2)
        found["floored"].append(any(group.quality_variance == 0 for group in groups[0]))

        estimate, error, freedom = without_floor(right)
        half = error * stats.t.ppf(1 - ALPHA / 2, freedom)
        old["size"].append(abs(estimate) > half)
        old["equivalence_errors"].append(estimate < -error * stats.t.ppf(1 - ALPHA, freedom))
        old["half_width"].append(half)
    floored = np.array(found["floored"])
    row = {
        "repeats": repeats,
        "documents": documents,
        "seeds": list(seeds),
        "seed_sd_points": [round(100 * spread, 2) for spread in spreads],
        "size": rate(found["size"]),
        "coverage": round(1 - rate(found["size"]), 4),
        "equivalence_errors": rate(found["equivalence_errors"]),
        "median_half_width_points": round(100 * float(np.median(found["half_width"])), 3),
        "floored": rate(found["floored"]),
        "without_floor": {
            "size": rate(old["size"]),
            "equivalence_errors": rate(old["equivalence_errors"]),
            "median_half_width_points": round(100 * float(np.median(old["half_width"])), 3),
        },
    }
    if floored.any():
        row["size_where_floored"] = rate(np.array(found["size"])[floored])
        row["without_floor"]["size_where_floored"] = rate(np.array(old["size"])[floored])
    return row


# Log loss and Brier score

# How sharp the probabilities of the two models are: 1 is calibrated, more is overconfident.
SHARPNESS = {
    "two calibrated models": (1.0, 1.0),
    "a calibrated and an overconfident model": (1.0, 3.0),
    "a sharp and a flat model": (2.0, 0.5),
}


def draw_losses(
    generator: np.random.Generator, documents: int, sharpness: tuple[float, float]
) -> dict[str, np.ndarray]:
    """Return the differences of log loss and of Brier score on every document.

    The margin of the true class over the rest is the same for both models, up to noise.
    """
    shared = generator.normal(1.6, 1.6, documents)
    logs, squares = [], []
    for factor in sharpness:
        margin = factor * (shared + generator.normal(0, 0.6, documents))
        logs.append(np.logaddexp(0, -margin))
        squares.append(2 / (1 + np.exp(margin)) ** 2)
    return {"log_loss": logs[0] - logs[1], "brier_score": squares[0] - squares[1]}


def loss_intervals(
    generator: np.random.Generator, differences: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Return the 95% intervals of a mean by three methods."""
    test = documents_test(differences)
    documents = len(differences)
    weights = generator.multinomial(documents, np.full(documents, 1 / documents), RESAMPLES)
    means = weights @ differences / documents
    variances = weights @ differences**2 / documents - means**2
    errors = np.sqrt(np.maximum(variances, 1e-300) / documents)
    mean, error = differences.mean(), differences.std() / np.sqrt(documents)
    low, high = np.quantile((means - mean) / errors, [ALPHA / 2, 1 - ALPHA / 2])
    return {
        "t-test": (test["low"], test["high"]),
        "percentile bootstrap": percentile_interval(means),
        "studentized bootstrap": (mean - high * error, mean - low * error),
    }


def simulate_losses(
    generator: np.random.Generator,
    repeats: int,
    documents: int,
    setting: str,
    population: int = 2_000_000,
) -> dict:
    """Simulate the interval of a difference of losses, one model each.

    The true difference is the mean over a population of so many documents.
    """
    sharpness = SHARPNESS[setting]
    everything = draw_losses(np.random.default_rng(0), population, sharpness)
    truth = {name: values.mean() for name, values in everything.items()}
    covered: dict[str, dict[str, list[bool]]] = {name: {} for name in truth}
    for _ in range(repeats):
        for name, differences in draw_losses(generator, documents, sharpness).items():
            for method, (low, high) in loss_intervals(generator, differences).items():
                covered[name].setdefault(method, []).append(low <= truth[name] <= high)
    row = {"repeats": repeats, "documents": documents, "setting": setting}
    for name, methods in covered.items():
        row[name] = {method: rate(flags) for method, flags in methods.items()}
    return row


# One trained model each


def draw_labels_and_predictions(
    generator: np.random.Generator, documents: int, accuracy: float, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and the predictions of equally good models that share what is hard."""
    labels = generator.choice(5, documents, p=CLASS_SHARES)
    difficulty = generator.random(documents) + generator.normal(0, 0.15, (rows, documents))
    wrong = (labels + generator.integers(1, 5, (rows, documents))) % 5
    return labels, np.where(difficulty < accuracy, labels, wrong)


def simulate_single(generator: np.random.Generator, repeats: int, documents: int) -> dict:
    """Simulate two equally good models: accuracy, macro F1, and F1 of the smallest class."""
    flags = {"exact McNemar": [], "paired bootstrap": [], "rarest_class": []}
    for _ in range(repeats):
        labels, predictions = draw_labels_and_predictions(generator, documents, 0.85, 2)
        first, second = predictions == labels
        only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
        flags["exact McNemar"].append(mcnemar_test(only_first, only_second) < ALPHA)
        patterns, counts = np.unique(np.vstack([labels, predictions]), axis=1, return_counts=True)
        seed = int(generator.integers(2**31))
        _, f1 = bootstrap(patterns[0], patterns[1:], 5, RESAMPLES, seed, counts)
        macro = np.nanmean(f1, axis=2)
        test = difference_test(macro[:, 0] - macro[:, 1])
        flags["paired bootstrap"].append(test["p"] < ALPHA)
        of_class = np.nan_to_num(f1[:, :, 4])
        low, high = percentile_interval(of_class[1:, 0] - of_class[1:, 1])
        flags["rarest_class"].append(low <= 0 <= high)
    return {
        "repeats": repeats,
        "documents": documents,
        "size": {name: rate(flags[name]) for name in ("exact McNemar", "paired bootstrap")},
        "rarest_class": {
            "mean_documents": round(documents * float(CLASS_SHARES[4])),
            "coverage": rate(flags["rarest_class"]),
        },
    }


def simulate_label_sets(generator: np.random.Generator, repeats: int, documents: int) -> dict:
    """Simulate two equally good models of several labels per document."""
    shares = np.array([0.5, 0.4, 0.3, 0.2, 0.15])
    subset, macro_f1 = [], []
    for _ in range(repeats):
        truth = generator.random((documents, 5)) < shares
        hardness = generator.random((documents, 5)) < 0.15
        predictions = []
        for _ in range(2):
            flipped = np.where(hardness, generator.random((documents, 5)) < 0.5, False)
            predictions.append(truth ^ flipped)
        predictions = np.array(predictions)
        first, second = (predictions == truth).all(axis=2)
        only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
        subset.append(mcnemar_test(only_first, only_second) < ALPHA)
        seed = int(generator.integers(2**31))
        _, f1 = bootstrap_label_sets(truth, predictions, RESAMPLES, seed)
        macro = np.nanmean(f1, axis=2)
        macro_f1.append(difference_test(macro[:, 0] - macro[:, 1])["p"] < ALPHA)
    return {
        "repeats": repeats,
        "documents": documents,
        "size": {"exact McNemar": rate(subset), "paired bootstrap": rate(macro_f1)},
    }


# Whole comparisons


def simulate_reference(generator: np.random.Generator, repeats: int, documents: int) -> dict:
    """Simulate five equally good models: how often any is called different from the reference.

    The reference is one that was named beforehand, or the most accurate on these documents.
    """
    named, best, cache = [], [], {}
    for _ in range(repeats):
        labels, predictions = draw_labels_and_predictions(generator, documents, 0.85, 5)
        right = predictions == labels
        for reference, outcomes in ((0, named), (int(right.sum(axis=1).argmax()), best)):
            p_values = []
            for number in range(5):
                if number != reference:
                    counts = (
                        int((right[reference] & ~right[number]).sum()),
                        int((right[number] & ~right[reference]).sum()),
                    )
                    if counts not in cache:
                        cache[counts] = mcnemar_test(*counts)
                    p_values.append(cache[counts])
            outcomes.append(min(holm(p_values)) < ALPHA)
    return {
        "repeats": repeats,
        "documents": documents,
        "models": 5,
        "any_different": {"named beforehand": rate(named), "best on these documents": rate(best)},
    }


def simulate_fail_if_worse(
    generator: np.random.Generator, repeats: int, documents: int, loss: float, margin: float
) -> dict:
    """Simulate a model that loses so much accuracy: how often --fail_if_worse refuses it."""
    disagreement = 0.08
    shares = [(disagreement - loss) / 2, (disagreement + loss) / 2, 1 - disagreement]
    samples = generator.multinomial(documents, shares, repeats)[:, :2]
    refused, cache = [], {}
    for wins, losses in samples.tolist():
        if (wins, losses) not in cache:

            def test(null: float, wins: int = wins, losses: int = losses) -> dict:
                return accuracy_test(wins, losses, documents, null)

            p = margin_tests(test, test(0.0), margin)["p_worse_beyond"]
            cache[wins, losses] = p < ALPHA
        refused.append(cache[wins, losses])
    return {
        "repeats": repeats,
        "documents": documents,
        "margin_points": round(100 * margin, 2),
        "loss_points": round(100 * loss, 2),
        "disagreement": disagreement,
        "refused": rate(refused),
    }


def simulate(repeats: int, seed: int) -> dict:
    """Return the results of all settings; each has random numbers of its own."""
    streams = iter(np.random.SeedSequence(seed).spawn(100))

    def generator() -> np.random.Generator:
        return np.random.default_rng(next(streams))

    seed_settings = []
    for seeds in ((2, 2), (3, 3), (5, 5)):
        for spreads in ((0.0, 0.0), (0.005, 0.005), (0.01, 0.01), (0.0, 0.02)):
            seed_settings.append((seeds, spreads))
    seed_settings += [((3, 5), (0.01, 0.005)), ((2, 5), (0.02, 0.0)), ((3, 3), (0.03, 0.03))]

    pooled = []
    for seeds, spreads in seed_settings:
        pooled.append(simulate_seeds(generator(), repeats, DOCUMENTS, seeds, spreads))
    losses = []
    for setting in SHARPNESS:
        for documents in (20, 50, 150, 500):
            losses.append(simulate_losses(generator(), repeats // 3, documents, setting))
    fewer = max(1, repeats // 5)  # these take the longest
    return {
        "several_seeds": pooled,
        "losses": losses,
        "single": [simulate_single(generator(), fewer, n) for n in (150, 500, DOCUMENTS)],
        "label_sets": [simulate_label_sets(generator(), fewer, n) for n in (150, 500)],
        "reference": [simulate_reference(generator(), repeats, DOCUMENTS)],
        "fail_if_worse": [
            simulate_fail_if_worse(generator(), repeats, n, loss, 0.01)
            for n in (300, DOCUMENTS, 4735)
            for loss in (0.0, 0.01, 0.03, 0.05)
        ],
    }


# The tables of docs/statistics.md


def text(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.1f}"


def caption(title: str, rows: list[dict]) -> list[str]:
    """Return the line above a table, with the number of simulations and what it leaves open."""
    (repeats,) = {row["repeats"] for row in rows}
    error = 100 * math.sqrt(0.05 * 0.95 / repeats)
    precision = f"a share of 5 or 95 has a standard error of {error:.1f}"
    title = f"{title}. {repeats:,} simulations a row; {precision}."
    return [*textwrap.wrap(title, 100), ""]


def tables(result: dict) -> str:
    """Return the results as Markdown tables."""
    several = result["several_seeds"]
    lines = [
        *caption("Several seeds of both models, 973 documents", several),
        "| SD of their quality, points | seeds | false differences, with the floor of the variance "
        "| without | false equivalence, with | without | half width of the 95% CI, points, with "
        "| without |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in several:
        spreads, seeds = row["seed_sd_points"], row["seeds"]
        old = row["without_floor"]
        cells = [
            f"{spreads[0]:g} and {spreads[1]:g}",
            f"{seeds[0]} and {seeds[1]}",
            text(row["size"]),
            text(old["size"]),
            text(row["equivalence_errors"]),
            text(old["equivalence_errors"]),
            f"{row['median_half_width_points']:.2f}",
            f"{old['median_half_width_points']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")

    lines += [
        "",
        *caption("Coverage of the 95% CI of a difference of losses", result["losses"]),
        "| models | documents | loss | t-test | percentile bootstrap | studentized bootstrap |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["losses"]:
        for name, title in (("log_loss", "log loss"), ("brier_score", "Brier score")):
            shares = [text(share) for share in row[name].values()]
            cells = [row["setting"], str(row["documents"]), title, *shares]
            lines.append(f"| {' | '.join(cells)} |")

    lines += [
        "",
        *caption("False differences of one seed each", result["single"] + result["label_sets"]),
        "| labels of a document | documents | accuracy, exact McNemar | macro F1, bootstrap |",
        "|---|---|---|---|",
    ]
    for title, name in (("one label", "single"), ("several labels", "label_sets")):
        for row in result[name]:
            sizes = row["size"]
            cells = [
                title,
                str(row["documents"]),
                text(sizes["exact McNemar"]),
                text(sizes["paired bootstrap"]),
            ]
            lines.append(f"| {' | '.join(cells)} |")

    lines += [
        "",
        *caption(
            "How often `--fail_if_worse` ends with status 3, margin 1 point, models that disagree "
            "on 8 percent of the documents",
            result["fail_if_worse"],
        ),
        "| documents | loses 0 points | 1 | 3 | 5 |",
        "|---|---|---|---|---|",
    ]
    refused: dict[int, list[str]] = {}
    for row in result["fail_if_worse"]:
        refused.setdefault(row["documents"], []).append(text(row["refused"]))
    for documents, shares in refused.items():
        lines.append(f"| {documents} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_file", default=str(ROOT / "benchmarks/results/statistics.json"))
    arguments = parser.parse_args()
    result = {
        "repeats": arguments.repeats,
        "resamples": RESAMPLES,
        "seed": arguments.seed,
        **simulate(arguments.repeats, arguments.seed),
        "device": f"{os.cpu_count()} CPU cores",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": importlib.metadata.version("scipy"),
            "statsmodels": importlib.metadata.version("statsmodels"),
        },
        "date": datetime.date.today().isoformat(),
        "command": "python benchmarks/bench_statistics.py "
        f"--repeats {arguments.repeats} --seed {arguments.seed}",
    }
    path = Path(arguments.output_file)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    print(f"written to {path}\n\n{tables(result)}")


if __name__ == "__main__":
    main()
