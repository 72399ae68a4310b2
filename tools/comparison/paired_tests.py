"""Tests of two models on the same documents, and what so many documents can show.

A new test of significance is a function of (pair, null, alpha), like those under "Tests", and a
line in TESTS, the table from which ``choose_test`` takes the one that suits two models.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from common.statistics import ALPHA, difference_test, holm, percentile_interval
from common.text import p_text, percent
from comparison.runs import Model

MIN_TEST_DOCUMENTS = 20
MIN_BOOTSTRAP_DOCUMENTS = 150
POWER = 0.8
METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1"}
# The kinds of p-values, a family of tests each, and the verdict that each leads to.
FAMILIES = {"p": "distinguishable", "p_non_inferior": "non_inferior", "p_equivalent": "equivalent"}
TEST_NOTES = (
    "Two models of one seed each are compared by the exact McNemar test with Tango's score "
    "interval (accuracy) and by a paired bootstrap with {resamples:,} samples of the "
    "documents (macro F1); one seed against several by a paired t-test over documents "
    "(accuracy) and the same bootstrap. These tests are about new documents and these trained"
    " models, not about training them again. Where both models have several seeds, documents "
    "and seeds are random effects (Obuchowski-Rockette analysis with Hillis's degrees of "
    "freedom). p-values are corrected by Holm's method over all {family} tests. Each 95 % "
    "interval is for one comparison. The simultaneous intervals (Bonferroni) cover all "
    "{family} differences together with 95 %. Distinguishable means p < 0.05 after "
    "correction."
)
MARGIN_NOTES = (
    " With the margin of {margin:g} points, non-inferior means that a one-sided test rejects "
    "a difference of -{margin:g} points or less, and equivalent that a second one also "
    "rejects {margin:g} points or more, with p < 0.05 after Holm's correction over the "
    "{family} tests of each kind."
)


@dataclass
class Pair:
    """One metric of two models, the first minus the second being the difference that is tested.

    values are the metrics of each model, (1 + resamples, seeds): first on the documents, then on
    resamples of them. right says which seed of each model is right on which document, (seeds,
    documents).
    """

    metric: str
    values: tuple[np.ndarray, np.ndarray]
    right: tuple[np.ndarray, np.ndarray]

    @property
    def documents(self) -> int:
        return self.right[0].shape[1]

    @property
    def seeds(self) -> tuple[int, int]:
        return len(self.right[0]), len(self.right[1])

    def only_one_right(self) -> tuple[int, int]:
        """Return on how many documents only the first or only the second is right (one seed)."""
        first, second = self.right[0][0], self.right[1][0]
        return int((first & ~second).sum()), int((second & ~first).sum())


# Tests: functions of (pair, null, alpha) that return a difference with its interval (low, high) at
# level 1 - alpha and the p-value of the null hypothesis that the difference is null.


def mcnemar_pair(pair: Pair, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Test two accuracies of one seed each: McNemar's exact test, Tango's interval."""
    return accuracy_test(*pair.only_one_right(), pair.documents, null, alpha)


def t_test_pair(pair: Pair, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Test two mean accuracies by a t-test over the documents."""
    first, second = pair.right
    return documents_test(first.mean(axis=0) - second.mean(axis=0), null, alpha)


def bootstrap_pair(pair: Pair, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Test two metrics, means over seeds, on resamples of the documents."""
    first, second = pair.values
    return bootstrap_test(first.mean(axis=1) - second.mean(axis=1), null, alpha)


def obuchowski_rockette_pair(pair: Pair, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Test two metrics where documents and seeds are random."""
    first, second = pair.values
    return pooled_test([(1, first), (-1, second)], null, alpha)


@dataclass(frozen=True)
class PairedTest:
    """A line of TESTS: a test with its name, what it is about and when it is taken."""

    name: str
    function: Callable[..., dict]
    metrics: tuple[str, ...]
    suits_seeds: Callable[[int, int], bool]  # of the numbers of seeds of both models
    population: str
    min_documents: int = MIN_TEST_DOCUMENTS
    counts_disagreements: bool = False  # only_model_right and only_reference_right are recorded


def both_several(first: int, second: int) -> bool:
    return min(first, second) > 1


def both_one(first: int, second: int) -> bool:
    return first == second == 1


def any_number(first: int, second: int) -> bool:
    return True


THESE_MODELS = "new documents and these trained models"
NEW_SEEDS = "new documents and new seeds"
# The first line that suits metric and seeds is the test; training is random in the first only.
TESTS = (
    PairedTest(
        "Obuchowski-Rockette",
        obuchowski_rockette_pair,
        ("accuracy", "macro_f1"),
        both_several,
        NEW_SEEDS,
    ),
    PairedTest(
        "exact McNemar",
        mcnemar_pair,
        ("accuracy",),
        both_one,
        THESE_MODELS,
        counts_disagreements=True,
    ),
    PairedTest("paired t-test", t_test_pair, ("accuracy",), any_number, THESE_MODELS),
    PairedTest(
        "paired bootstrap",
        bootstrap_pair,
        ("macro_f1",),
        any_number,
        THESE_MODELS,
        min_documents=MIN_BOOTSTRAP_DOCUMENTS,
    ),
)


def choose_test(pair: Pair) -> PairedTest | None:
    """Return the test that suits a pair; None if it has too few documents for that."""
    for test in TESTS:
        if pair.metric in test.metrics and test.suits_seeds(*pair.seeds):
            return test if pair.documents >= test.min_documents else None
    raise ValueError(f"no test of {pair.metric} for {pair.seeds} seeds")


# Methods


def mcnemar_test(only_first: int, only_second: int) -> float:
    """Return the exact two-sided McNemar p-value.

    The arguments are the numbers of documents that exactly one model gets right.
    """
    return float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)


def tango_score(only_first: int, only_second: int, documents: int, null: float) -> float:
    """Return Tango's score statistic (Statistics in Medicine 17:891-908, 1998).

    It is about standard normal if null is the difference of two accuracies on the same documents,
    and McNemar's for null = 0. only_first and only_second count the documents that exactly one
    model gets right.
    """
    # The likeliest share of only_second, given null, solves a quadratic equation.
    linear = (2 * documents - only_first + only_second) * null - only_first - only_second
    root = np.sqrt(max(0.0, linear**2 + 8 * documents * only_second * null * (1 - null)))
    share = max(0.0, (root - linear) / (4 * documents))

    surplus = only_first - only_second - documents * null
    variance = documents * (2 * share + null * (1 - null))
    if variance > 0:
        return surplus / np.sqrt(variance)
    return 0.0 if surplus == 0 else np.copysign(np.inf, surplus)


def accuracy_test(
    only_first: int, only_second: int, documents: int, null: float = 0.0, alpha: float = ALPHA
) -> dict:
    """Return the difference of two accuracies on the same documents, its interval and p of null.

    The interval inverts Tango's score test. p is that of the exact McNemar test if null is 0, else
    of the score test.
    """
    z = stats.norm.ppf(1 - alpha / 2)
    edge = 1 - 1e-6
    bounds = []
    for bound, sign in ((-1.0, 1), (1.0, -1)):

        def excess(difference: float, sign: int = sign) -> float:
            return sign * tango_score(only_first, only_second, documents, difference) - z

        if excess(bound * edge) <= 0:  # only if one model alone is right on all documents
            bounds.append(bound)
        else:
            bounds.append(optimize.brentq(excess, -edge, edge))
    if null == 0:
        p = mcnemar_test(only_first, only_second)
    else:
        p = 2 * stats.norm.sf(abs(tango_score(only_first, only_second, documents, null)))
    return {
        "difference": (only_first - only_second) / documents,
        "low": bounds[0],
        "high": bounds[1],
        "p": float(p),
    }


def documents_test(differences: np.ndarray, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Return the mean of the documents' differences, its interval and p of null (paired t-test)."""
    mean = float(differences.mean())
    if np.ptp(differences) == 0:
        return {"difference": mean, "low": mean, "high": mean, "p": float(mean == null)}
    test = stats.ttest_1samp(differences, null)
    low, high = test.confidence_interval(1 - alpha)
    return {"difference": mean, "low": float(low), "high": float(high), "p": float(test.pvalue)}


def bootstrap_test(differences: np.ndarray, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Return a difference (first entry), the percentile interval of its resamples and p of null."""
    low, high = percentile_interval(differences[1:], alpha)
    return {
        "difference": float(differences[0]),
        "low": low,
        "high": high,
        "p": difference_test(differences - null)["p"],
    }


def pooled_test(
    groups: list[tuple[int, np.ndarray]], null: float = 0.0, alpha: float = ALPHA
) -> dict:
    """Return a signed sum of models' means, its interval and p of null; documents and seeds random.

    Each group is (sign, the metric of every seed, (1 + resamples, seeds)): first on the documents,
    then on resamples of them. A group needs two seeds. Seeds are nested in models and crossed with
    documents, as readers with cases in diagnostic imaging, and this is the analysis made for that:
    the variance of Obuchowski & Rockette (Communications in Statistics B 24:285-308, 1995) for
    readers nested in treatments, error covariances from the bootstrap, t distribution with Hillis's
    degrees of freedom (Statistics in Medicine 26:596-619, 2007). A bootstrap over seeds, too, is
    the common alternative; with the usual three to five seeds its error rate depends on how much
    seeds differ.
    """
    estimate = float(sum(sign * values[0].mean() for sign, values in groups))
    means_of_resamples = sum(sign * values[1:].mean(axis=1) for sign, values in groups)
    document_variance = np.var(means_of_resamples, ddof=1)
    seed_variance, inverse_freedom = 0.0, 0.0
    for _, values in groups:
        n = values.shape[1]
        variance = np.var(values[0], ddof=1) / n
        covariance = np.cov(values[1:].T)
        shared = (covariance.sum() - np.trace(covariance)) / (n * (n - 1))
        # What one seed does on one document moves both variances: it is taken out of the
        # documents' part.
        document_variance -= (np.trace(covariance) / n - shared) / n
        seed_variance += variance
        inverse_freedom += variance**2 / (n - 1)

    total = seed_variance + max(0.0, document_variance)
    if total == 0:
        # Every resample gives the same difference: the smallest p that so many resamples can show.
        half = 0.0
        p = 1.0 if estimate == null else 1 / len(groups[0][1])
    else:
        freedom = total**2 / inverse_freedom if inverse_freedom > 0 else np.inf
        error = np.sqrt(total)
        half = stats.t.ppf(1 - alpha / 2, freedom) * error
        p = 2 * stats.t.sf(abs(estimate - null) / error, freedom)
    return {
        "difference": estimate,
        "low": float(estimate - half),
        "high": float(estimate + half),
        "p": float(p),
    }


def margin_tests(test: Callable[[float], dict], found: dict, margin: float) -> dict:
    """Return p of non-inferiority and of equivalence within a margin (two one-sided tests).

    test is a function of null, and found its result for 0. The p-values are 1 if nothing varies,
    since then the documents cannot say how large a difference might be.
    """
    if found["low"] == found["high"]:
        return {"p_non_inferior": 1.0, "p_equivalent": 1.0}
    above = test(-margin)["p"] / 2
    below = test(margin)["p"] / 2
    if found["difference"] <= -margin:
        above = 1 - above
    if found["difference"] >= margin:
        below = 1 - below
    return {"p_non_inferior": above, "p_equivalent": max(above, below)}


# All tests of a comparison


def compared_models(models: list[Model], reference: int) -> list[tuple[int, int]]:
    """Return the pairs that are tested: all against the reference and against the baseline."""
    targets = [reference]
    targets += [number for number, model in enumerate(models) if model.is_baseline]
    compared = []
    for target in dict.fromkeys(targets):
        for number in range(len(models)):
            if number != target and (target, number) not in compared:
                compared.append((number, target))
    return compared


def run_tests(
    models: list[Model],
    reference: int,
    draws: dict[str, np.ndarray],
    correct: np.ndarray,
    margin: float | None,
) -> tuple[list[dict], list[str]]:
    """Return the tests against the reference and the baseline, and notes on what is not tested.

    draws are the metrics of the runs, (1 + resamples, runs) each, and correct says which run is
    right on which document. All tests that are made are one family: Holm's method corrects their
    p-values, and the simultaneous intervals are Bonferroni's. Non-inferiority and equivalence
    within margin (a fraction) are a family each.
    """
    documents = correct.shape[1]
    compared = compared_models(models, reference)
    if documents < MIN_TEST_DOCUMENTS:
        return [], [f"No tests: {documents} documents are fewer than {MIN_TEST_DOCUMENTS}."]
    if not compared:
        return [], ["No tests: all runs are seeds of one model."]

    # 1. Which tests there are: their number decides how wide the simultaneous intervals are
    made = []
    for first, second in compared:
        members = (models[first].runs, models[second].runs)
        for metric in METRICS:
            pair = Pair(
                metric=metric,
                values=(draws[metric][:, members[0]], draws[metric][:, members[1]]),
                right=(correct[members[0]], correct[members[1]]),
            )
            test = choose_test(pair)
            if test is not None:
                made.append((models[first], models[second], pair, test))
    total = len(compared) * len(METRICS)
    notes = []
    if len(made) < total:
        notes.append(
            f"{total - len(made)} of {total} tests are left out, all of macro F1: the paired "
            f"bootstrap needs {MIN_BOOTSTRAP_DOCUMENTS} documents, and there are {documents}."
        )

    # 2. The tests
    rows = []
    for model, other, pair, test in made:
        rows.append(test_row(model, other, pair, test, ALPHA / len(made), margin))

    # 3. Holm's correction, in each family
    for name, verdict in FAMILIES.items():
        if not rows or name not in rows[0]:
            continue
        corrected = holm([row[name] for row in rows])
        for row, p in zip(rows, corrected, strict=True):
            row[f"{name}_holm"] = p
            row[verdict] = bool(p < ALPHA)
    return rows, notes


def test_row(
    model: Model,
    reference: Model,
    pair: Pair,
    test: PairedTest,
    simultaneous_alpha: float,
    margin: float | None,
) -> dict:
    """Return a row of pairs.csv, before correction."""
    found = test.function(pair)
    wide = test.function(pair, alpha=simultaneous_alpha)
    only_model_right, only_reference_right = None, None
    if test.counts_disagreements:
        only_model_right, only_reference_right = pair.only_one_right()
    row = {
        "model": model.name,
        "reference": reference.name,
        "metric": pair.metric,
        "documents": pair.documents,
        "seeds": model.seeds,
        "reference_seeds": reference.seeds,
        "test": test.name,
        "population": test.population,
        "only_model_right": only_model_right,
        "only_reference_right": only_reference_right,
        "difference": found["difference"],
        "low": found["low"],
        "high": found["high"],
        "p": found["p"],
        "low_simultaneous": wide["low"],
        "high_simultaneous": wide["high"],
    }
    if margin is not None:
        row |= margin_tests(lambda null: test.function(pair, null), found, margin)
    return row


# What so many documents can show


def detectable_difference(documents: int, disagreement: float) -> float | None:
    """Return the smallest difference in accuracy that McNemar's test finds with power 0.8.

    disagreement is the share of documents on which exactly one model is right; the level is 0.05.
    Solves the sample-size formula of Connor (Biometrics 43:207-211, 1987). None if not even a model
    that wins every disagreement would be found.
    """
    z_alpha, z_power = stats.norm.ppf([1 - ALPHA / 2, POWER])

    def surplus(difference: float) -> float:
        spread = z_alpha * np.sqrt(disagreement) + z_power * np.sqrt(disagreement - difference**2)
        return documents - (spread / difference) ** 2

    if disagreement == 0 or surplus(disagreement) < 0:
        return None
    return float(optimize.brentq(surplus, disagreement * 1e-6, disagreement))


# Sentences


def pair_sentence(row: dict, margin: float | None = None) -> str:
    """Return what a test found, in words; margin is in points."""
    shown = percent(abs(row["difference"]))
    if shown == "0.00":
        relation = "as good as"
    elif row["difference"] > 0:
        relation = f"{shown} points better than"
    else:
        relation = f"{shown} points worse than"
    verdict = "distinguishable" if row["distinguishable"] else "not distinguishable"

    # One seed beside several: the reader might think that training was random.
    alone = []
    if row["seeds"] == 1:
        alone.append(row["model"])
    if row["reference_seeds"] == 1:
        alone.append(row["reference"])
    caveat = f" ({alone[0]}: one seed)" if len(alone) == 1 else ""

    sentence = (
        f"{METRICS[row['metric']]}: {row['model']} is {relation} {row['reference']}, "
        f"95 % interval {percent(row['low'])} to {percent(row['high'])}, "
        f"simultaneous {percent(row['low_simultaneous'])} to {percent(row['high_simultaneous'])} "
        f"({row['test']}, p {p_text(row['p'])}, after Holm {p_text(row['p_holm'])}): "
        f"{verdict} on {row['documents']:,} documents, for {row['population']}{caveat}."
    )
    if margin:
        sentence += margin_sentence(row, margin)
    return sentence


def margin_sentence(row: dict, margin: float) -> str:
    """Return what the tests within a margin (in points) found, in words."""
    if row["equivalent"]:
        kind = "equivalent"
    elif row["non_inferior"]:
        kind = "non-inferior, not shown to be equivalent"
    else:
        kind = "not shown to be non-inferior"
    return (
        f" Within {margin:g} points: {kind} "
        f"(after Holm: non-inferior p {p_text(row['p_non_inferior_holm'])}, "
        f"equivalent p {p_text(row['p_equivalent_holm'])})."
    )


def detectable_sentence(documents: int, disagreement: float | None) -> str:
    """Return which differences the number of test documents can show at all.

    disagreement is the median share of documents on which exactly one of two models is right; None
    if there is only one model.
    """
    if disagreement is None:
        return "All runs are seeds of one model: there is no difference to find."
    if disagreement == 0:
        return (
            f"On these {documents:,} documents all models are right on the same ones: "
            "accuracy cannot tell them apart."
        )
    least = detectable_difference(documents, disagreement)
    start = (
        f"Exactly one of two models is right on {100 * disagreement:.1f} % of these "
        f"{documents:,} documents (median)"
    )
    if least is None:
        return f"{start}: with so few, hardly any difference between them can be told from chance."
    return (
        f"{start}: a difference of {percent(least)} points in accuracy would be found "
        "with a power of 80 % (before correction)."
    )
