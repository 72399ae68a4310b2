"""Tests of two models on the same documents.

A new test of significance is a function of (pair, null, alpha), like those under "Tests", and a
line in TESTS, the table from which ``choose_test`` takes the one that suits two models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from common.statistics import (
    ALPHA,
    difference_test,
    documents_test,
    holm,
    least_p,
    percentile_interval,
)
from common.text import percent
from comparison.evaluation import LOSSES, Evaluation
from comparison.power import (
    ExactMcNemar,
    NormalPrecision,
    Precision,
    detectable_difference,
    documents_needed,
    precision_from_record,
    precision_record,
)
from comparison.runs import Model

MIN_TEST_DOCUMENTS = 20
MIN_BOOTSTRAP_DOCUMENTS = 150
# A model that is sure and wrong has a few large log losses. With fewer documents they are often all
# missing, and the interval covers the truth too rarely (benchmarks/results/statistics.json).
MIN_LOSS_DOCUMENTS = 150
# Differences of metrics by less than this are rounding.
SAME = 1e-12
# The largest difference that does not matter, where --margin names no other.
DEFAULT_MARGIN = 0.01
METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1"}
# The kinds of p-values, a family of tests each, and what each leads to.
FAMILIES = {
    "p": "distinguishable",
    "p_non_inferior": "non_inferior",
    "p_equivalent": "equivalent",
    "p_worse_beyond": "worse_beyond_margin",
}
# Which pairs of models are tested: --pairs.
Which = Literal["reference", "all"]
MAX_MODELS_FOR_ALL_PAIRS = 5
# A note names the first of the reasons for which tests are left out.
SHOWN_REASONS = 3
TEST_NOTES = (
    "Two models of one seed each are compared by the exact McNemar test with Tango's score "
    "interval (accuracy) and by a paired bootstrap with {resamples:,} samples of the "
    "documents (macro F1); one seed against several by a paired t-test over documents "
    "(accuracy) and the same bootstrap. Log loss and Brier score are compared by a paired t-test "
    "over documents. These tests are about new documents and these trained"
    " models, not about training them again. Where both models have several seeds, documents "
    "and seeds are random effects (Obuchowski-Rockette analysis with Hillis's degrees of "
    "freedom; the variance between seeds is at least what seeds must differ by on the same "
    "documents). p-values are corrected by Holm's method over all {family} tests. Each 95% "
    "interval is for one comparison. The simultaneous intervals (Bonferroni) cover all "
    "{family} differences together with 95 percent. Distinguishable means p < 0.05 after "
    "correction."
)
MARGIN_NOTES = (
    " With the margin of {margin}, non-inferior means that a one-sided test rejects "
    "a difference of -{margin} or less, and equivalent that a second one also "
    "rejects {margin} or more, with p < 0.05 after Holm's correction over all tests of "
    "accuracy and macro F1, for each kind."
)


@dataclass
class Pair:
    """One metric of two models, the first minus the second being the difference that is tested.

    values are the metrics of each model, (1 + resamples, seeds): first on the documents, then on
    resamples of them. right says which seed of each model is right on which document, (seeds,
    documents). losses, for the metrics of LOSSES, are those of every document, (seeds, documents);
    values is None then, since the mean of losses needs no resamples. changed is the number of
    documents for which any seed of one model predicts something else than one of the other.
    """

    metric: str
    values: tuple[np.ndarray, np.ndarray] | None
    right: tuple[np.ndarray, np.ndarray]
    losses: tuple[np.ndarray, np.ndarray] | None = None
    changed: int | None = None

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

    def document_differences(self) -> np.ndarray:
        """Return the difference on every document, means over seeds, (documents,)."""
        first, second = self.right if self.losses is None else self.losses
        return first.mean(axis=0) - second.mean(axis=0)

    def groups(self) -> tuple[list[SeedGroup], float, int | None]:
        """Return both models as the arguments of ``random_effects``."""
        if self.losses is not None:
            return groups_of_means(*self.losses)
        if self.metric == "accuracy":
            return groups_of_means(*self.right)
        return groups_of_draws([(1, self.values[0]), (-1, self.values[1])])


# Tests: functions of (pair, null, alpha) that return a difference with its interval (low, high) at
# level 1 - alpha and the p-value of the null hypothesis that the difference is null. low and high
# are None where nothing varies, which says nothing about how large a difference might be.


def mcnemar_pair(pair: Pair, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Test two accuracies of one seed each: McNemar's exact test, Tango's interval."""
    return accuracy_test(*pair.only_one_right(), pair.documents, null, alpha)


def t_test_pair(pair: Pair, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Test two means over documents, of accuracies or of losses, by a paired t-test."""
    result = documents_test(pair.document_differences(), null, alpha)
    return with_fewest_disagreements(result, pair, null, alpha)


def bootstrap_pair(pair: Pair, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Test two metrics, means over seeds, on resamples of the documents.

    Resamples do not know how few documents make a difference: were the changes of so many as
    likely to go the other way, all would go one way with the probability below which p cannot fall.
    Nor do they know that a true difference of null needs documents that differ: a null other than 0
    is tested with the variance of the fewest such documents, too, as Tango's score test does.
    """
    first, second = pair.values
    differences = first.mean(axis=1) - second.mean(axis=1)
    result = bootstrap_test(differences, null, alpha)
    if null != 0:
        fewest = abs(null) * (1 - abs(null)) / pair.documents
        variance = max(fewest, float(np.nanvar(differences[1:], ddof=1)))
        score = (result["difference"] - null) / np.sqrt(variance)
        result["p"] = max(result["p"], float(2 * stats.norm.sf(abs(score))))
    elif pair.changed is not None:
        result["p"] = max(result["p"], least_p(pair.changed))
    return result


def obuchowski_rockette_pair(pair: Pair, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Test two metrics where documents and seeds are random."""
    result = random_effects(*pair.groups()).test(null, alpha)
    return with_fewest_disagreements(result, pair, null, alpha)


def with_fewest_disagreements(result: dict, pair: Pair, null: float, alpha: float) -> dict:
    """Return a test of two accuracies that is no surer than the difference allows; losses as given.

    Where few documents make the difference, their variance is small or 0, and an interval from it
    is too narrow: 40 documents on which all seeds are right do not show that none is ever wrong.
    The interval is never narrower than Tango's would be if no more documents differed than make
    this difference, each by as much as those that differ do (one for seeds that agree). p is never
    below that of the same score test nor, as in ``bootstrap_pair``, below the chance that so many
    changes all go one way.
    """
    if pair.metric != "accuracy":
        return result
    differences = pair.document_differences()
    changed = np.count_nonzero(differences)
    size = 1.0
    if changed:
        size = float((differences**2).sum() / np.abs(differences).sum())
    surplus = result["difference"] * pair.documents / size
    fewest = (max(0.0, surplus), max(0.0, -surplus), pair.documents)
    low, high = score_interval(*fewest, alpha)
    low, high = size * low, size * high
    p = result["p"]
    if abs(null) < size:
        p = max(p, score_p(*fewest, null / size))
    if null == 0:
        p = max(p, least_p(changed))
    if result["low"] is not None:
        low = min(low, result["low"])
        high = max(high, result["high"])
    return result | {"low": low, "high": high, "p": p}


# The precision of each: what its power depends on.


def mcnemar_precision(pair: Pair) -> Precision:
    return ExactMcNemar(sum(pair.only_one_right()) / pair.documents)


def t_test_precision(pair: Pair) -> Precision:
    return NormalPrecision(0.0, float(pair.document_differences().var(ddof=1)))


def bootstrap_precision(pair: Pair) -> Precision:
    first, second = pair.values
    draws = first[1:].mean(axis=1) - second[1:].mean(axis=1)
    return NormalPrecision(0.0, float(np.nanvar(draws, ddof=1)) * pair.documents)


def obuchowski_rockette_precision(pair: Pair) -> Precision:
    return random_effects(*pair.groups()).precision(pair.documents)


@dataclass(frozen=True)
class PairedTest:
    """A line of TESTS: a test with its name, what it is about and when it is taken.

    precision is what its power depends on; without it, the documents needed are not said.
    """

    name: str
    function: Callable[..., dict]
    metrics: tuple[str, ...]
    suits_seeds: Callable[[int, int], bool]  # of the numbers of seeds of both models
    population: str
    min_documents: int = MIN_TEST_DOCUMENTS
    counts_disagreements: bool = False  # only_model_right and only_reference_right are recorded
    precision: Callable[[Pair], Precision] | None = None


def both_several(first: int, second: int) -> bool:
    return min(first, second) > 1


def both_one(first: int, second: int) -> bool:
    return first == second == 1


def any_number(first: int, second: int) -> bool:
    return True


THESE_MODELS = "new documents and these trained models"
NEW_SEEDS = "new documents and new seeds"
# The first line that suits metric and seeds is the test; training is random in the first two only.
TESTS = (
    PairedTest(
        "Obuchowski-Rockette",
        obuchowski_rockette_pair,
        ("accuracy", "macro_f1"),
        both_several,
        NEW_SEEDS,
        precision=obuchowski_rockette_precision,
    ),
    PairedTest(
        "Obuchowski-Rockette",
        obuchowski_rockette_pair,
        ("log_loss", "brier_score"),
        both_several,
        NEW_SEEDS,
        min_documents=MIN_LOSS_DOCUMENTS,
        precision=obuchowski_rockette_precision,
    ),
    PairedTest(
        "exact McNemar",
        mcnemar_pair,
        ("accuracy",),
        both_one,
        THESE_MODELS,
        counts_disagreements=True,
        precision=mcnemar_precision,
    ),
    PairedTest(
        "paired t-test",
        t_test_pair,
        ("accuracy",),
        any_number,
        THESE_MODELS,
        precision=t_test_precision,
    ),
    PairedTest(
        "paired t-test",
        t_test_pair,
        ("log_loss", "brier_score"),
        any_number,
        THESE_MODELS,
        min_documents=MIN_LOSS_DOCUMENTS,
        precision=t_test_precision,
    ),
    PairedTest(
        "paired bootstrap",
        bootstrap_pair,
        ("macro_f1",),
        any_number,
        THESE_MODELS,
        min_documents=MIN_BOOTSTRAP_DOCUMENTS,
        precision=bootstrap_precision,
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


def tango_score(only_first: float, only_second: float, documents: int, null: float) -> float:
    """Return Tango's score statistic (Statistics in Medicine 17:891-908, 1998).

    It is about standard normal if null is the difference of two accuracies on the same documents,
    and McNemar's for null = 0. only_first and only_second count the documents that exactly one
    model gets right; as means over seeds they need not be whole numbers.
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
    low, high = score_interval(only_first, only_second, documents, alpha)
    if null == 0:
        p = mcnemar_test(only_first, only_second)
    else:
        p = score_p(only_first, only_second, documents, null)
    return {
        "difference": (only_first - only_second) / documents,
        "low": low,
        "high": high,
        "p": p,
    }


def score_p(only_first: float, only_second: float, documents: int, null: float) -> float:
    """Return the two-sided p of Tango's score test."""
    return float(2 * stats.norm.sf(abs(tango_score(only_first, only_second, documents, null))))


def score_interval(
    only_first: float, only_second: float, documents: int, alpha: float = ALPHA
) -> tuple[float, float]:
    """Return Tango's interval of the difference of two accuracies on the same documents."""
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
    return bounds[0], bounds[1]


def bootstrap_test(differences: np.ndarray, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Return a difference (first entry), the percentile interval of its resamples and p of null."""
    low, high = varying_interval(differences[1:], alpha)
    return {
        "difference": float(differences[0]),
        "low": low,
        "high": high,
        "p": difference_test(differences - null)["p"],
    }


def varying_interval(
    draws: np.ndarray, alpha: float = ALPHA
) -> tuple[float, float] | tuple[None, None]:
    """Return the percentile interval of resamples; None, None if all are the same."""
    if np.nanmax(draws) - np.nanmin(draws) < SAME:
        return None, None
    return percentile_interval(draws, alpha)


# Seeds and documents as random effects


@dataclass
class SeedGroup:
    """The seeds of one model: a metric of each, and how it varies with the documents.

    values is (seeds,) and covariance (seeds, seeds), that of the metrics over samples of the
    documents. sign is 1 or -1: what the group contributes to the estimate.
    """

    sign: int
    values: np.ndarray
    covariance: np.ndarray

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def own_variance(self) -> float:
        """The variance by which seeds differ because each errs on documents of its own.

        Two seeds of equal quality do not give the same metric on the same documents: their
        difference has twice this variance, that of a metric less the covariance of two seeds.
        """
        trace = np.trace(self.covariance)
        shared = (self.covariance.sum() - trace) / (self.seeds * (self.seeds - 1))
        return max(0.0, float(trace / self.seeds - shared))

    @property
    def quality_variance(self) -> float:
        """The variance between seeds beyond their own variance: seeds that are better or worse.

        It is 0 where the few seeds at hand differ by less than their own variance, as they may by
        chance; that is no evidence that new seeds would agree so well.
        """
        return max(0.0, float(np.var(self.values, ddof=1)) - self.own_variance)

    @property
    def freedom(self) -> float:
        """The degrees of freedom of the variance between seeds.

        Where it is raised to the seeds' own variance, documents estimate it, and there are many.
        """
        return self.seeds - 1 if self.quality_variance > 0 else np.inf


@dataclass
class RandomEffects:
    """A signed sum of models' means, and where its variance comes from.

    documents is the variance over new documents with these seeds, seeds what new seeds add to it.
    groups are what new seeds alone would give, for each model: (what seeds differ by in quality,
    what they differ by on their own documents, degrees of freedom), of its mean.
    """

    estimate: float
    documents: float
    seeds: float
    groups: list[tuple[float, float, float]]
    resamples: int | None  # None if the covariances are exact

    @property
    def freedom(self) -> float:
        """The degrees of freedom of the whole variance (Hillis 2007)."""
        inverse = sum((quality + own) ** 2 / freedom for quality, own, freedom in self.groups)
        return (self.documents + self.seeds) ** 2 / inverse if inverse > 0 else np.inf

    def test(self, null: float = 0.0, alpha: float = ALPHA) -> dict:
        """Return the estimate, its interval and p of null."""
        error = np.sqrt(self.documents + self.seeds)
        if error < SAME:
            # Nothing varies: the smallest p that so many resamples can show, and no interval
            smallest = 0.0 if self.resamples is None else 1 / (1 + self.resamples)
            p = 1.0 if abs(self.estimate - null) < SAME else smallest
            return {"difference": self.estimate, "low": None, "high": None, "p": p}
        half = stats.t.ppf(1 - alpha / 2, self.freedom) * error
        p = 2 * stats.t.sf(abs(self.estimate - null) / error, self.freedom)
        return {
            "difference": self.estimate,
            "low": float(self.estimate - half),
            "high": float(self.estimate + half),
            "p": float(p),
        }

    def precision(self, documents: int) -> NormalPrecision:
        """Return how exact the test would be on other numbers of documents."""
        quality = sum(quality for quality, _, _ in self.groups)
        other_variance = self.documents + self.seeds - quality
        groups = [(quality, own * documents, freedom) for quality, own, freedom in self.groups]
        return NormalPrecision(float(quality), float(other_variance * documents), groups)


def groups_of_draws(
    signed_values: list[tuple[int, np.ndarray]],
) -> tuple[list[SeedGroup], float, int]:
    """Return models as groups of seeds, the documents' variance of their sum, and the resamples.

    Each model is (sign, the metric of every seed, (1 + resamples, seeds)): first on the documents,
    then on resamples of them.
    """
    groups = []
    for sign, values in signed_values:
        groups.append(SeedGroup(sign, values[0], np.cov(values[1:].T)))
    sums = sum(sign * values[1:].mean(axis=1) for sign, values in signed_values)
    return groups, float(np.var(sums, ddof=1)), len(sums)


def groups_of_means(
    first: np.ndarray, second: np.ndarray
) -> tuple[list[SeedGroup], float, int | None]:
    """Return two models as groups of seeds, as groups_of_draws does, from values of documents.

    first and second are (seeds, documents): right or wrong, or losses. The covariance of means over
    documents needs no resamples, so it does not depend on what else is compared: it is that of the
    documents' values, divided by their number.
    """
    groups = [group_of_means(first), group_of_means(second, sign=-1)]
    differences = first.mean(axis=0) - second.mean(axis=0)
    return groups, float(np.var(differences, ddof=1)) / first.shape[1], None


def group_of_means(values: np.ndarray, sign: int = 1) -> SeedGroup:
    """Return a model as a group of seeds from values (seeds, documents)."""
    covariance = np.cov(values.astype(float)) / values.shape[1]
    return SeedGroup(sign, values.mean(axis=1), covariance)


def mean_effects(values: np.ndarray) -> RandomEffects:
    """Return the mean of a model's values (seeds, documents), documents and seeds being random."""
    variance = float(np.var(values.mean(axis=0), ddof=1)) / values.shape[1]
    return random_effects([group_of_means(values)], variance)


def random_effects(
    groups: list[SeedGroup], document_variance: float, resamples: int | None = None
) -> RandomEffects:
    """Return a signed sum of models' means with the variance that documents and seeds give it.

    A group needs two seeds. Seeds are nested in models and crossed with documents, as readers with
    cases in diagnostic imaging, and this is the analysis made for that: the variance of Obuchowski
    & Rockette (Communications in Statistics B 24:285-308, 1995) for readers nested in treatments,
    error covariances over the documents, t distribution with Hillis's degrees of freedom
    (Statistics in Medicine 26:596-619, 2007). One thing is changed: a variance between seeds below
    what seeds must differ by on the same documents is raised to that (SeedGroup.own_variance).
    Without it two or three seeds that happen to agree give an interval that is narrower than if
    nothing but the documents were random. A bootstrap over seeds, too, is the common alternative;
    with the usual three to five seeds its error rate depends on how much seeds differ.
    """
    parts, seed_part, own_part = [], 0.0, 0.0
    for group in groups:
        n = group.seeds
        quality = group.quality_variance / n
        own = group.own_variance / n
        parts.append((quality, own, group.freedom))
        seed_part += quality + own
        own_part += own
    # What one seed does on one document moves both variances: it is taken out of the documents'
    # part before both are added.
    total = seed_part + max(0.0, document_variance - own_part)
    return RandomEffects(
        estimate=float(sum(group.sign * group.values.mean() for group in groups)),
        documents=document_variance,
        seeds=max(0.0, total - document_variance),
        groups=parts,
        resamples=resamples,
    )


def pooled_test(
    signed_values: list[tuple[int, np.ndarray]], null: float = 0.0, alpha: float = ALPHA
) -> dict:
    """Return a signed sum of models' means, its interval and p of null; documents, seeds random.

    Each model is (sign, the metric of every seed, (1 + resamples, seeds)): first on the documents,
    then on resamples of them. The analysis is that of ``random_effects``.
    """
    return random_effects(*groups_of_draws(signed_values)).test(null, alpha)


def margin_tests(test: Callable[[float], dict], result: dict, margin: float) -> dict:
    """Return p of non-inferiority, of equivalence within a margin, and of being worse beyond it.

    Each is one-sided; equivalence is two one-sided tests (Schuirmann, Journal of Pharmacokinetics
    and Biopharmaceutics 15:657-680, 1987). test is a function of null, and result its result for 0.
    The p-values are 1 if nothing varies (there is no interval), since then the documents cannot say
    how large a difference might be.
    """
    if result["low"] is None:
        return {"p_non_inferior": 1.0, "p_equivalent": 1.0, "p_worse_beyond": 1.0}
    above = test(-margin)["p"] / 2
    below = test(margin)["p"] / 2
    worse = above
    if result["difference"] <= -margin:
        above = 1 - above
    else:
        worse = 1 - worse
    if result["difference"] >= margin:
        below = 1 - below
    return {
        "p_non_inferior": above,
        "p_equivalent": max(above, below),
        "p_worse_beyond": worse,
    }


# All tests of a comparison


@dataclass
class Tests:
    """The tests of a comparison, one family.

    pairs are the rows of pairs.csv (``test_row``), not_tested says which metrics of which pairs
    are left out: {"model", "reference", "metric", "reason"}. which is "reference" or "all": which
    pairs there are.
    """

    pairs: list[dict]
    not_tested: list[dict]
    notes: list[str]
    which: Which
    margin: float


def default_pairs(models: list[Model]) -> Which:
    """Return which pairs are tested if nobody says it: all of three to five models.

    All pairs of more models are so many tests that few would be decided. Two models have one pair.
    """
    return "all" if 2 < len(models) <= MAX_MODELS_FOR_ALL_PAIRS else "reference"


def compared_models(
    models: list[Model], reference: int, which: Which = "reference"
) -> list[tuple[int, int]]:
    """Return the pairs that are tested.

    With "reference" all models against the reference and against the first SVM, with "all" the
    other pairs, too. The reference is the second of a pair wherever it is one of them.
    """
    targets = [reference]
    # Only the first: with SVMs of several sizes, each as a target, most tests would be about sizes.
    targets += [number for number, model in enumerate(models) if model.is_baseline][:1]
    if which == "all":
        targets += range(len(models))
    compared = []
    for target in dict.fromkeys(targets):
        for number in range(len(models)):
            if number != target and (target, number) not in compared:
                compared.append((number, target))
    return compared


def compare_models(
    models: list[Model],
    reference: int,
    evaluation: Evaluation,
    margin: float = DEFAULT_MARGIN,
    which: Which = "reference",
) -> Tests:
    """Return the tests of accuracy, macro F1, log loss and Brier score of pairs of models.

    All tests that are made are one family: Holm's method corrects their p-values, and the
    simultaneous intervals are Bonferroni's. Non-inferiority, equivalence and being worse beyond
    the margin (a fraction), all of accuracy and macro F1 only, are a family each.
    """
    documents = evaluation.documents
    tests = Tests([], [], [], which, margin)
    compared = compared_models(models, reference, which)
    if documents < MIN_TEST_DOCUMENTS:
        tests.notes.append(f"No tests: {documents} documents are fewer than {MIN_TEST_DOCUMENTS}.")
        return tests
    if not compared:
        tests.notes.append("No tests: all runs are seeds of one model.")
        return tests

    # 1. Which tests there are: their number decides about the level of each
    made = []
    for first, second in compared:
        names = {"model": models[first].name, "reference": models[second].name}
        for metric in METRICS | LOSSES:
            reason = evaluation.reason_without(metric, models[first].runs + models[second].runs)
            if reason is None:
                pair = pair_of(metric, models[first], models[second], evaluation)
                test = choose_test(pair)
                if test is not None:
                    made.append((models[first], models[second], pair, test))
                    continue
                needed = MIN_LOSS_DOCUMENTS if metric in LOSSES else MIN_BOOTSTRAP_DOCUMENTS
                reason = f"it needs {needed} documents, and there are {documents}"
            tests.not_tested.append(names | {"metric": metric, "reason": reason})
    tests.notes += left_out_notes(tests.not_tested, len(compared))

    # 2. The tests
    for model, other, pair, test in made:
        tests.pairs.append(test_row(model, other, pair, test, ALPHA / len(made), margin))

    # 3. Holm's correction, in each family
    correct_family(tests.pairs)
    return tests


def pair_of(metric: str, model: Model, reference: Model, evaluation: Evaluation) -> Pair:
    """Return a metric of two models as it is tested."""
    members = (model.runs, reference.runs)
    right = tuple(evaluation.correct[runs] for runs in members)
    if metric in LOSSES:
        losses = tuple(evaluation.losses[metric][runs] for runs in members)
        return Pair(metric, None, right, losses)
    values = tuple(evaluation.draws[metric][:, runs] for runs in members)
    changed = np.zeros(evaluation.documents, dtype=bool)
    for first in model.runs:
        for second in reference.runs:
            changed |= evaluation.predictions[first] != evaluation.predictions[second]
    return Pair(metric, values, right, changed=int(changed.sum()))


def left_out_notes(not_tested: list[dict], pairs: int) -> list[str]:
    """Return a sentence for every metric of which tests are left out, with the first reasons."""
    reasons: dict[str, list[str]] = {}
    for row in not_tested:
        reasons.setdefault(row["metric"], []).append(row["reason"])
    names = METRICS | LOSSES
    notes = []
    for metric, given in reasons.items():
        distinct = list(dict.fromkeys(given))
        text = "; ".join(distinct[:SHOWN_REASONS])
        if len(distinct) > SHOWN_REASONS:
            text += f"; {len(distinct) - SHOWN_REASONS} more in comparison.json"
        notes.append(f"{len(given)} of {pairs} tests of {names[metric]} are left out: {text}.")
    return notes


def correct_family(rows: list[dict]) -> None:
    """Add Holm's correction of every kind of p-value, and the verdicts, to a family of tests."""
    for kind in FAMILIES:
        correct_kind(rows, kind)
    for row in rows:
        row["verdict"] = verdict(row)


def correct_kind(rows: list[dict], kind: str) -> None:
    """Add Holm's correction of one kind of p-value, and what it leads to; None stays out."""
    tested = [row for row in rows if row[kind] is not None]
    corrected = holm([row[kind] for row in tested])
    for row, p in zip(tested, corrected, strict=True):
        row[f"{kind}_holm"] = p
        row[FAMILIES[kind]] = bool(p < ALPHA)


def verdict(row: dict) -> str:
    """Return what a test shows of a model, after correction.

    "better" or "worse" if there is a difference, however small; "within the margin" if none is
    shown and one beyond the margin is excluded; else "undecided".
    """
    if row["distinguishable"]:
        is_larger = row["difference"] > 0
        return "better" if is_larger == row["higher_is_better"] else "worse"
    return "within the margin" if row["equivalent"] else "undecided"


def test_row(
    model: Model,
    reference: Model,
    pair: Pair,
    test: PairedTest,
    level: float,
    margin: float,
) -> dict:
    """Return a row of pairs.csv, before correction.

    difference, low and high (and the simultaneous ones) are model minus reference, in the units of
    the metric: fractions for accuracy and macro F1. The bounds are None where nothing varies.
    se_documents and se_seeds are the two parts of
    its standard error: with these seeds on new documents, and what new seeds add (None where
    training does not count as random). level is that of the test after correction for the family
    (alpha / number of tests, where Holm's method begins). At that level detectable_difference is
    the smallest one found with a power of 80 %, None if no possible one is, and documents_needed
    the number of documents on which a difference of the margin would be found; None if only more
    seeds would help, if it is more than power.MAX_DOCUMENTS, or if the metric has no margin.
    precision is what both are computed from (``precision_record``), None if it is not known.
    """
    result = test.function(pair)
    wide = test.function(pair, alpha=level)
    only_model_right, only_reference_right = None, None
    if test.counts_disagreements:
        only_model_right, only_reference_right = pair.only_one_right()
    has_margin = pair.metric in METRICS
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
        "difference": result["difference"],
        "low": result["low"],
        "high": result["high"],
        "p": result["p"],
        "low_simultaneous": wide["low"],
        "high_simultaneous": wide["high"],
        "higher_is_better": has_margin,
    }

    # Where the error comes from
    row |= {"se_documents": None, "se_seeds": None}
    if test.population == NEW_SEEDS:
        effects = random_effects(*pair.groups())
        row["se_documents"] = float(np.sqrt(effects.documents))
        row["se_seeds"] = float(np.sqrt(effects.seeds))

    # What so many documents can show
    row["precision"] = None
    if test.precision is not None:
        row["precision"] = precision_record(test.precision(pair))
    row |= power_columns(row, level, margin)

    # Differences beyond the margin
    kinds = {"p_non_inferior": None, "p_equivalent": None, "p_worse_beyond": None}
    if has_margin:
        kinds = margin_tests(lambda null: test.function(pair, null), result, margin)
    row |= kinds
    for kind in kinds:
        row |= {f"{kind}_holm": None, FAMILIES[kind]: None}
    return row


def power_columns(row: dict, level: float, margin: float) -> dict:
    """Return what the test of a row can find at a level after correction.

    The family may be that of the call or of several comparisons, so this is made from what the row
    keeps of its precision; without that, nothing is known.
    """
    columns = {"level": level, "detectable_difference": None, "documents_needed": None}
    if row["precision"] is None:
        return columns
    precision = precision_from_record(row["precision"])
    has_margin = row["metric"] in METRICS
    largest = 1.0 if has_margin else None  # of shares; losses have no bound
    columns["detectable_difference"] = detectable_difference(
        precision, row["documents"], level, largest
    )
    if has_margin:
        columns["documents_needed"] = documents_needed(precision, margin, level)
    return columns


# Whether a run is to be refused: compare_runs.py --fail_if_worse


@dataclass
class Decision:
    """What the tests say about every other model against the reference.

    worse are the rows of accuracy and macro F1 that are worse than the reference beyond the margin
    after correction, open those of which that is neither shown nor excluded (not non-inferior). A
    command fails if there is a row in worse, or if tested is False: nothing could be tested.
    """

    worse: list[dict]
    open: list[dict]
    tested: bool


def decide(pairs: list[dict], reference: str) -> Decision:
    """Return which models are worse than the reference (its name) beyond the margin.

    The margin is that of the tests. A model is worse if the hypothesis that it loses no more than
    the margin is rejected, one-sided, with p < 0.05 after Holm's correction. So a command that
    fails on it fails without need in at most 5 % of all comparisons, and chance alone, or a test
    split that is too small, does not fail it.
    """
    rows = []
    for row in pairs:
        if row["reference"] == reference and row["metric"] in METRICS:
            rows.append(row)
    worse = [row for row in rows if row["worse_beyond_margin"]]
    undecided = [row for row in rows if not row["worse_beyond_margin"] and not row["non_inferior"]]
    return Decision(worse, undecided, tested=bool(rows))


# Sentences


def detectable_sentence(documents: int, disagreement: float | None, tests: int = 1) -> str:
    """Return which differences the number of test documents can show at all.

    disagreement is the median share of documents on which exactly one of two models is right; None
    if there is only one model. tests is the number of tests for which p-values are corrected.
    """
    if disagreement is None:
        return "All runs are seeds of one model: there is no difference to find."
    if disagreement == 0:
        return (
            f"On these {documents:,} documents all models are right on the same ones: "
            "accuracy cannot tell them apart."
        )
    least = detectable_difference(ExactMcNemar(disagreement), documents, ALPHA / max(1, tests))
    corrected = f" (corrected for {tests} tests)" if tests > 1 else ""
    start = (
        f"Exactly one of two models is right on {100 * disagreement:.1f} percent of these "
        f"{documents:,} documents (median)"
    )
    if least is None:
        return f"{start}: with so few, hardly any difference between them can be told from chance."
    return (
        f"{start}: a difference of {percent(least)} points in accuracy would be found by "
        f"the exact McNemar test with a power of 80 percent{corrected}."
    )
