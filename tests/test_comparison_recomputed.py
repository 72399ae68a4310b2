"""A comparison recomputed from predictions.csv alone, with statsmodels, scipy and scikit-learn.

Nothing of tools/ is imported but the command itself: what comparison.json and pairs.csv say is
computed a second time from textbook functions. Tango's interval and the Obuchowski-Rockette
analysis are in no library; they are written down again here, from the papers.
"""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from compared_runs import write_run
from conftest import ROOT
from scipy import optimize, stats
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

DOCUMENTS = 250
NAMES = ["math.AG", "math.CV", "math.DG", "math.MG", "math.SG"]
SVM = "TF-IDF + linear SVM"
MARGIN = 0.02
FINDINGS = ROOT / "results" / "arxiv-dev"
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


@dataclass
class Comparison:
    """What compare_runs.py says, and the predictions of the runs of each model."""

    result: dict
    predictions: dict[str, list[pd.DataFrame]]

    def values(self, model, metric):
        """Accuracy or loss of every document, of shape (seeds, documents)."""
        return np.array([per_document(table, metric) for table in self.predictions[model]])


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
    members = {"m": ["m1", "m2", "m3"], "n": ["n1", "n2", "n3"], "single": ["single"], SVM: ["svm"]}
    predictions = {model: [tables[name] for name in names] for model, names in members.items()}
    result = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    return Comparison(result, predictions)


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
    weights = np.repeat([1 / len(first), -1 / len(second)], [len(first), len(second)])
    between_documents = weights @ covariance @ weights
    inverse, seeds, own_total = 0.0, 0.0, 0.0
    border = len(first)
    for block, values in (
        (covariance[:border, :border], first.mean(axis=1)),
        (covariance[border:, border:], second.mean(axis=1)),
    ):
        n = len(values)
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


def tango_interval(wins, losses, documents, alpha):
    """The differences that Tango's score does not reject."""
    z = stats.norm.ppf(1 - alpha / 2)
    center = (wins - losses) / documents
    low = optimize.brentq(lambda d: tango(wins, losses, documents, d) - z, -0.9, center)
    high = optimize.brentq(lambda d: tango(wins, losses, documents, d) + z, center, 0.9)
    return low, high


def widened(differences, interval, alpha):
    """An interval of accuracies of several seeds, at least Tango's of the fewest changes."""
    size = (differences**2).sum() / np.abs(differences).sum()
    changes = differences.sum() / size
    fewest = tango_interval(max(0, changes), max(0, -changes), len(differences), alpha)
    return min(interval[0], size * fewest[0]), max(interval[1], size * fewest[1])


def recompute(comparison, row, level):
    """Difference, interval, simultaneous interval and p of a row of accuracy or a loss."""
    first = comparison.values(row["model"], row["metric"])
    second = comparison.values(row["reference"], row["metric"])
    differences = first.mean(axis=0) - second.mean(axis=0)
    is_accuracy = row["metric"] == "accuracy"
    if is_accuracy and len(first) == len(second) == 1:
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        p = mcnemar([[0, wins], [losses, 0]], exact=True).pvalue
        bounds = [tango_interval(wins, losses, len(differences), alpha) for alpha in (0.05, level)]
        return differences.mean(), *bounds, p
    bounds = []
    for alpha in (0.05, level):
        if len(first) > 1 and len(second) > 1:
            _, low, high, p = obuchowski_rockette(first, second, 0.0, alpha)
        else:
            test = stats.ttest_1samp(differences, 0)
            low, high = test.confidence_interval(1 - alpha)
            p = test.pvalue
        bounds.append(widened(differences, (low, high), alpha) if is_accuracy else (low, high))
    return differences.mean(), *bounds, p


def bootstrap_macro_f1(comparison, row):
    """Difference of macro F1 with a percentile interval, by scipy's own bootstrap."""
    first, second = (comparison.predictions[row[side]] for side in ("model", "reference"))
    truth = first[0]["label"].map(NAMES.index).to_numpy()

    def macro_f1(labels, predicted):
        cells = np.bincount(5 * labels + predicted, minlength=25).reshape(5, 5)
        return np.mean(2 * cells.diagonal() / (cells.sum(axis=0) + cells.sum(axis=1)))

    def difference(documents):
        means = []
        for tables in (first, second):
            scores = []
            for table in tables:
                predicted = table["prediction"].map(NAMES.index).to_numpy()
                scores.append(macro_f1(truth[documents], predicted[documents]))
            means.append(np.mean(scores))
        return means[0] - means[1]

    found = stats.bootstrap(
        (np.arange(len(truth)),),
        difference,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=0,
    )
    return difference(np.arange(len(truth))), found


def check_table(comparison, rounding=0.0):
    """The scores of every model. rounding is how far off a mean of losses may be."""
    for model in comparison.result["models"]:
        members = comparison.predictions[model["name"]]
        expected = {"accuracy": [], "macro_f1": [], "log_loss": [], "brier_score": []}
        for table in members:
            truth, prediction = table["label"], table["prediction"]
            expected["accuracy"].append(accuracy_score(truth, prediction))
            expected["macro_f1"].append(f1_score(truth, prediction, average="macro"))
            if model["log_loss"] is None:  # decision values
                continue
            shares = table[NAMES].div(table[NAMES].sum(axis=1), axis=0).to_numpy()
            expected["log_loss"].append(log_loss(truth, shares, labels=NAMES))
            brier = brier_score_loss(truth, shares, labels=NAMES, scale_by_half=False)
            expected["brier_score"].append(brier)
        for name, values in expected.items():
            if not values:
                assert model[name] is None
                continue
            assert model[name] == pytest.approx(np.mean(values), abs=1e-5 + rounding), name
            if len(values) > 1:
                spread = pytest.approx(np.std(values, ddof=1), rel=1e-3, abs=rounding)
                assert model[f"{name}_sd"] == spread
        if len(members) == 1:
            documents = len(members[0])
            right = round(expected["accuracy"][0] * documents)
            interval = proportion_confint(right, documents, method="wilson")
            assert (model["accuracy_low"], model["accuracy_high"]) == pytest.approx(interval)
            for name in ("log_loss", "brier_score"):
                if model[name] is None:
                    continue
                values = per_document(members[0], name)
                interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
                found = (model[f"{name}_low"], model[f"{name}_high"])
                assert found == pytest.approx(interval, abs=1e-9 + rounding)


def check_tests(comparison, rounding=0.0):
    """Difference, intervals and p of every test of accuracy and of the losses."""
    rows = comparison.result["pairs"]
    level = 0.05 / len(rows)
    for row in rows:
        if row["metric"] == "macro_f1":
            continue
        difference, interval, wide, p = recompute(comparison, row, level)
        close = 1e-6 + rounding
        assert row["difference"] == pytest.approx(difference, abs=1e-9 + rounding)
        assert (row["low"], row["high"]) == pytest.approx(interval, abs=close)
        found = (row["low_simultaneous"], row["high_simultaneous"])
        assert found == pytest.approx(wide, abs=3 * close)
        assert row["p"] == pytest.approx(p, rel=0.1 if rounding else 1e-6)


def check_corrections(comparison):
    """Holm's correction and the verdicts."""
    rows = comparison.result["pairs"]
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


def check_equivalence(comparison, margin):
    """Equivalence of accuracies by a paired t-test, the one-sided way. Returns how many."""
    rows = [
        row
        for row in comparison.result["pairs"]
        if row["metric"] == "accuracy" and row["test"] == "paired t-test"
    ]
    for row in rows:
        first, second = (
            comparison.values(row[side], "accuracy").mean(axis=0) for side in ("model", "reference")
        )
        differences = first - second
        above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
        worse = stats.ttest_1samp(differences, -margin, alternative="less").pvalue
        assert row["p_non_inferior"] == pytest.approx(above)
        assert row["p_equivalent"] == pytest.approx(max(above, below))
        assert row["p_worse_beyond"] == pytest.approx(worse)
    return len(rows)


def test_comparison_is_recomputed_from_predictions(comparison):
    rows = comparison.result["pairs"]
    assert len(rows) == 6 * 4 and not comparison.result["not_tested"]
    tests = {row["test"] for row in rows if row["metric"] == "accuracy"}
    assert tests == {"exact McNemar", "paired t-test", "Obuchowski-Rockette"}
    check_table(comparison)
    check_tests(comparison)
    check_corrections(comparison)
    assert check_equivalence(comparison, MARGIN) == 4

    # Macro F1 of one model against the SVM by another bootstrap
    (row,) = [
        row
        for row in rows
        if row["metric"] == "macro_f1" and {row["model"], row["reference"]} == {"single", SVM}
    ]
    difference, found = bootstrap_macro_f1(comparison, row)
    assert row["difference"] == pytest.approx(difference)
    width = row["high"] - row["low"]
    assert row["low"] == pytest.approx(found.confidence_interval.low, abs=0.06 * width)
    assert row["high"] == pytest.approx(found.confidence_interval.high, abs=0.06 * width)


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in FINDINGS.glob("comparison*/comparison.json"))
)
def test_findings_are_recomputed_from_the_kept_predictions(name):
    """The published comparisons; their kept scores have four digits."""
    result = json.loads((FINDINGS / name / "comparison.json").read_text(encoding="utf-8"))
    predictions = {}
    for model in result["models"]:
        predictions[model["name"]] = [
            pd.read_csv(FINDINGS / "predictions" / run["folder"] / "predictions.csv")
            for run in model["runs"]
        ]
    comparison = Comparison(result, predictions)
    check_table(comparison, rounding=1e-3)
    check_tests(comparison, rounding=1e-3)
    check_corrections(comparison)
    check_equivalence(comparison, result["margin"])


def test_findings_have_comparisons():
    assert len(list(FINDINGS.glob("comparison*/comparison.json"))) >= 3
