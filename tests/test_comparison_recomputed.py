"""A comparison recomputed from predictions.csv alone, with statsmodels, scipy and scikit-learn.

Nothing of tools/ is imported but the command itself: what comparison.json and pairs.csv say is
computed a second time from textbook functions. Tango's interval and the Obuchowski-Rockette
analysis are in no library; they are written down again here, from the papers.
"""

import json

import numpy as np
import pandas as pd
import pytest
from compared_runs import write_run
from scipy import optimize, stats
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

DOCUMENTS = 250
NAMES = ["math.AG", "math.CV", "math.DG", "math.MG", "math.SG"]
MARGIN = 0.02
RESAMPLES = 4000


def write_probabilities(folder, generator, labels, difficulty, skill, **record):
    """A run with probabilities of its own for every document."""
    logits = generator.normal(0, 1, (DOCUMENTS, 5))
    logits[np.arange(DOCUMENTS), labels] += skill - 2 * difficulty
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    write_run(folder, labels, probabilities.argmax(axis=1), scores=None, **record)
    table = pd.read_csv(folder / "predictions.csv")
    table[NAMES] = probabilities
    table.to_csv(folder / "predictions.csv", index=False, float_format="%.6f")
    return folder


@pytest.fixture
def comparison(tmp_path, run):
    """Two models of three seeds, one of one seed and an SVM: every test of the table is used."""
    generator = np.random.default_rng(3)
    labels = generator.choice(5, DOCUMENTS, p=[0.3, 0.25, 0.2, 0.15, 0.1])
    difficulty = generator.normal(0, 1, DOCUMENTS)
    folders = {}
    for name, skill in (("m", 5.0), ("n", 4.2)):
        for seed in (1, 2, 3):
            folders[f"{name}{seed}"] = write_probabilities(
                tmp_path / f"{name}{seed}",
                *(generator, labels, difficulty, skill + generator.normal(0, 0.3)),
                model_name_or_path=name,
                seed=seed,
            )
    for name, record in (("single", {}), ("svm", {"script": "run_baseline.py"})):
        folders[name] = write_probabilities(
            tmp_path / name, generator, labels, difficulty, 4.0, **record
        )
    done = run(
        "compare_runs",
        *(*folders.values(), "--output_dir", tmp_path / "out", "--pairs", "all"),
        *("--n_resamples", RESAMPLES, "--margin", 100 * MARGIN),
    )
    assert done.code == 0, done.err
    tables = {name: pd.read_csv(folder / "predictions.csv") for name, folder in folders.items()}
    result = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    return tables, result


RUNS = {
    "m": ["m1", "m2", "m3"],
    "n": ["n1", "n2", "n3"],
    "single": ["single"],
    "TF-IDF + linear SVM": ["svm"],
}


def per_document(table, metric):
    """Accuracy or loss of every document."""
    truth = table["label"].to_numpy()
    probabilities = table[NAMES].to_numpy()
    if metric == "accuracy":
        return (truth == table["prediction"]).to_numpy(dtype=float)
    if metric == "log_loss":
        return -np.log(probabilities[np.arange(len(truth)), [NAMES.index(name) for name in truth]])
    one_hot = truth[:, None] == np.array(NAMES)
    return ((probabilities - one_hot) ** 2).sum(axis=1)


def tango(wins, losses, total, difference):
    """Tango's score, the variance by maximizing the likelihood numerically."""
    low, high = max(0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12

    def loss(q):
        cells = (wins, q + difference), (losses, q), (total - wins - losses, 1 - 2 * q - difference)
        return -sum(count * np.log(share) for count, share in cells)

    q = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    )
    variance = (2 * q.x + difference - difference**2) / total
    return ((wins - losses) / total - difference) / np.sqrt(variance)


def obuchowski_rockette(first, second, null, alpha):
    """Difference, interval and p of two sets of seeds, (seeds, documents), of a mean per document.

    The covariances are those of means over documents. A variance between seeds below what their
    own documents give is raised to it and then counts as known.
    """
    runs = np.vstack([first, second])
    covariance = np.cov(runs) / runs.shape[1]
    n = len(first)
    weights = np.repeat([1 / n, -1 / n], n)
    between_documents = weights @ covariance @ weights
    inverse, seeds, own_total = 0.0, 0.0, 0.0
    for block, values in (
        (covariance[:n, :n], first.mean(axis=1)),
        (covariance[n:, n:], second.mean(axis=1)),
    ):
        shared = block[~np.eye(n, dtype=bool)].mean()
        own = block.diagonal().mean() - shared
        variance = values.var(ddof=1)
        if variance > own:
            inverse += (variance / n) ** 2 / (n - 1)
        seeds += max(variance, own) / n
        own_total += own / n
    total = seeds + max(0, between_documents - own_total)
    freedom = total**2 / inverse if inverse else 1e12
    difference = weights @ runs.mean(axis=1)
    half = stats.t.ppf(1 - alpha / 2, freedom) * np.sqrt(total)
    p = 2 * stats.t.sf(abs(difference - null) / np.sqrt(total), freedom)
    return difference, difference - half, difference + half, p


def recompute(tables, row, level):
    """Difference, interval, simultaneous interval and p of a row of accuracy or a loss."""
    first, second = (
        np.array([per_document(tables[run], row["metric"]) for run in RUNS[row[side]]])
        for side in ("model", "reference")
    )
    if len(first) > 1 and len(second) > 1:
        difference, low, high, p = obuchowski_rockette(first, second, 0.0, 0.05)
        wide = obuchowski_rockette(first, second, 0.0, level)[1:3]
        return difference, (low, high), wide, p
    differences = first.mean(axis=0) - second.mean(axis=0)
    if row["metric"] == "accuracy" and len(first) == len(second) == 1:
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        p = mcnemar([[0, wins], [losses, 0]], exact=True).pvalue
        bounds = []
        for alpha in (0.05, level):
            z = stats.norm.ppf(1 - alpha / 2)
            center = (wins - losses) / DOCUMENTS
            low = optimize.brentq(
                lambda d, z=z: tango(wins, losses, DOCUMENTS, d) - z, -0.9, center
            )
            high = optimize.brentq(
                lambda d, z=z: tango(wins, losses, DOCUMENTS, d) + z, center, 0.9
            )
            bounds.append((low, high))
        return differences.mean(), *bounds, p
    test = stats.ttest_1samp(differences, 0)
    wide = test.confidence_interval(1 - level)
    return differences.mean(), tuple(test.confidence_interval(0.95)), tuple(wide), test.pvalue


def bootstrap_macro_f1(tables, row):
    """Difference of macro F1 with a percentile interval, by scipy's own bootstrap."""
    truth = tables["svm"]["label"].map(NAMES.index).to_numpy()
    predictions = {}
    for name, table in tables.items():
        predictions[name] = table["prediction"].map(NAMES.index).to_numpy()

    def macro_f1(labels, predicted):
        cells = np.bincount(5 * labels + predicted, minlength=25).reshape(5, 5)
        return np.mean(2 * cells.diagonal() / (cells.sum(axis=0) + cells.sum(axis=1)))

    def difference(documents):
        means = []
        for side in ("model", "reference"):
            scores = [
                macro_f1(truth[documents], predictions[run][documents]) for run in RUNS[row[side]]
            ]
            means.append(np.mean(scores))
        return means[0] - means[1]

    found = stats.bootstrap(
        (np.arange(DOCUMENTS),),
        difference,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=0,
    )
    return difference(np.arange(DOCUMENTS)), found


def test_comparison_is_recomputed_from_predictions(comparison):
    tables, result = comparison
    rows = result["pairs"]
    assert len(rows) == 6 * 4 and not result["not_tested"]
    level = 0.05 / len(rows)

    # 1. The table
    for model in result["models"]:
        members = [tables[run] for run in RUNS[model["name"]]]
        probabilities = [t[NAMES].div(t[NAMES].sum(axis=1), axis=0).to_numpy() for t in members]
        accuracies = [accuracy_score(t["label"], t["prediction"]) for t in members]
        macro = [f1_score(t["label"], t["prediction"], average="macro") for t in members]
        logs, briers = [], []
        for t, shares in zip(members, probabilities, strict=True):
            logs.append(log_loss(t["label"], shares, labels=NAMES))
            briers.append(brier_score_loss(t["label"], shares, labels=NAMES, scale_by_half=False))
        expected = {
            "accuracy": accuracies,
            "macro_f1": macro,
            "log_loss": logs,
            "brier_score": briers,
        }
        for name, values in expected.items():
            assert model[name] == pytest.approx(np.mean(values), abs=1e-5), name
            if len(values) > 1:
                assert model[f"{name}_sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-3)
        if len(members) == 1:
            right = round(accuracies[0] * DOCUMENTS)
            interval = proportion_confint(right, DOCUMENTS, method="wilson")
            assert (model["accuracy_low"], model["accuracy_high"]) == pytest.approx(interval)
            for name in ("log_loss", "brier_score"):
                values = per_document(members[0], name)
                interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
                assert (model[f"{name}_low"], model[f"{name}_high"]) == pytest.approx(interval)

    # 2. Every test of accuracy and of the losses; where accuracies of several seeds are compared,
    #    the comparison takes its covariances from resamples, so it agrees but for their chance
    tests = set()
    for row in rows:
        tests.add((row["metric"], row["test"]))
        if row["metric"] == "macro_f1":
            continue
        difference, interval, wide, p = recompute(tables, row, level)
        is_resampled = row["metric"] == "accuracy" and row["test"] == "Obuchowski-Rockette"
        close = {"abs": 0.03 * (interval[1] - interval[0]) if is_resampled else 1e-6}
        assert row["difference"] == pytest.approx(difference, abs=1e-9)
        assert (row["low"], row["high"]) == pytest.approx(interval, **close)
        found = (row["low_simultaneous"], row["high_simultaneous"])
        assert found == pytest.approx(wide, abs=3 * close["abs"])
        assert row["p"] == pytest.approx(p, rel=0.1 if is_resampled else 1e-6)
    assert {test for metric, test in tests if metric == "accuracy"} == {
        "exact McNemar",
        "paired t-test",
        "Obuchowski-Rockette",
    }

    # 3. Macro F1 of one model against the SVM by another bootstrap
    for row in rows:
        if row["metric"] == "macro_f1" and {row["model"], row["reference"]} == {
            "single",
            "TF-IDF + linear SVM",
        }:
            difference, found = bootstrap_macro_f1(tables, row)
            assert row["difference"] == pytest.approx(difference)
            width = row["high"] - row["low"]
            assert row["low"] == pytest.approx(found.confidence_interval.low, abs=0.06 * width)
            assert row["high"] == pytest.approx(found.confidence_interval.high, abs=0.06 * width)

    # 4. Holm's correction and the verdicts
    for kind in ("p", "p_equivalent", "p_non_inferior", "p_worse_beyond"):
        tested = [row for row in rows if row[kind] is not None]
        expected = multipletests([row[kind] for row in tested], method="holm")[1]
        assert [row[f"{kind}_holm"] for row in tested] == pytest.approx(expected)
    for row in rows:
        gain = row["difference"] if row["higher_is_better"] else -row["difference"]
        if row["p_holm"] < 0.05:
            assert row["verdict"] == ("better" if gain > 0 else "worse")
        elif row["p_equivalent"] is not None and row["p_equivalent_holm"] < 0.05:
            assert row["verdict"] == "within the margin"
        else:
            assert row["verdict"] == "undecided"

    # 5. Equivalence of accuracies by a paired t-test, the one-sided way
    for row in rows:
        if row["metric"] == "accuracy" and row["test"] == "paired t-test":
            values = [
                np.mean([per_document(tables[run], "accuracy") for run in RUNS[row[side]]], axis=0)
                for side in ("model", "reference")
            ]
            differences = values[0] - values[1]
            above = stats.ttest_1samp(differences, -MARGIN, alternative="greater").pvalue
            below = stats.ttest_1samp(differences, MARGIN, alternative="less").pvalue
            worse = stats.ttest_1samp(differences, -MARGIN, alternative="less").pvalue
            assert row["p_non_inferior"] == pytest.approx(above)
            assert row["p_equivalent"] == pytest.approx(max(above, below))
            assert row["p_worse_beyond"] == pytest.approx(worse)
