"""Which difference a test can find on so many documents, and how many documents it would need."""

from dataclasses import dataclass, field

import numpy as np
from scipy import optimize, stats

POWER = 0.8
MAX_DOCUMENTS = 10**8
# Numbers of disagreements this many standard deviations from their mean are left out.
TAIL = 6.5


@dataclass(frozen=True)
class ExactMcNemar:
    """The precision of McNemar's exact test.

    disagreement is the share of documents on which exactly one of two models is right.
    """

    disagreement: float

    def power(self, difference: float, documents: int, level: float) -> float:
        """Return the chance that the test at this two-sided level finds a true difference.

        The number of disagreements is binomial and so is, given that number, how many the better
        model wins; the critical values are those of the exact test (Duffy, Biometrics 40:433-440,
        1984). A difference cannot exceed the disagreement, which is raised to it.
        """
        difference = abs(difference)
        disagreement = min(1.0, max(self.disagreement, difference))
        if disagreement == 0:
            return 0.0
        wins = (disagreement + difference) / (2 * disagreement)
        mean = documents * disagreement
        spread = TAIL * np.sqrt(mean * (1 - disagreement)) + TAIL
        first = max(0, int(mean - spread))
        last = min(documents, int(mean + spread) + 1)
        counts = np.arange(first, last + 1)
        # The largest number of losses at which the exact test rejects; -1 if it never does
        critical = stats.binom.ppf(level / 2, counts, 0.5)
        critical -= 2 * stats.binom.cdf(critical, counts, 0.5) > level
        rejected = stats.binom.cdf(critical, counts, 1 - wins)
        rejected += stats.binom.cdf(critical, counts, wins)
        return float(stats.binom.pmf(counts, documents, disagreement) @ rejected)


@dataclass(frozen=True)
class NormalPrecision:
    """The precision of a test of a mean or a metric, about normal or t distributed.

    The variance of the difference on n documents is fixed + per_document / n. groups are the parts
    of it that few seeds estimate: (fixed, per_document, degrees of freedom) of each model. Without
    them the degrees of freedom are n - 1.
    """

    fixed: float
    per_document: float
    groups: list[tuple[float, float, int]] = field(default_factory=list)

    def power(self, difference: float, documents: int, level: float) -> float:
        """Return the chance that the test at this two-sided level finds a true difference.

        That is the noncentral t distribution; the wrong tail is left out. Where nothing varies,
        there are assumed to be as many disagreements as the difference needs.
        """
        variance = self.fixed + self.per_document / documents
        if variance == 0:
            variance = abs(difference) / documents
        if variance == 0:
            return 0.0
        freedom = self.freedom(variance, documents)
        critical = stats.t.ppf(1 - level / 2, freedom)
        shift = abs(difference) / np.sqrt(variance)
        if freedom > 1000 or shift > 30:  # scipy's noncentral t is slow or undefined there
            return float(stats.norm.sf(critical - shift))
        return float(stats.nct.sf(critical, freedom, shift))

    def freedom(self, variance: float, documents: int) -> float:
        """Return the degrees of freedom on so many documents (Hillis 2007, as the test's)."""
        if not self.groups:
            return documents - 1
        inverse = 0.0
        for fixed, per_document, freedom in self.groups:
            inverse += (fixed + per_document / documents) ** 2 / freedom
        return variance**2 / inverse if inverse > 0 else np.inf


Precision = ExactMcNemar | NormalPrecision


def precision_record(precision: Precision) -> dict:
    """Return what comparison.json keeps of a precision, from which it can be made again."""
    if isinstance(precision, ExactMcNemar):
        return {"disagreement": precision.disagreement}
    groups = []
    for fixed, per_document, freedom in precision.groups:
        # JSON has no infinity.
        groups.append([fixed, per_document, None if np.isinf(freedom) else freedom])
    return {"fixed": precision.fixed, "per_document": precision.per_document, "groups": groups}


def precision_from_record(record: dict) -> Precision:
    """Return the precision that comparison.json keeps."""
    if "disagreement" in record:
        return ExactMcNemar(record["disagreement"])
    groups = []
    for fixed, per_document, freedom in record["groups"]:
        groups.append((fixed, per_document, np.inf if freedom is None else freedom))
    return NormalPrecision(record["fixed"], record["per_document"], groups)


def detectable_difference(
    precision: Precision, documents: int, level: float, largest: float | None = 1.0
) -> float | None:
    """Return the smallest true difference that is found with a power of 80 %.

    level is that of the test after correction, and largest the largest possible difference: 1 of
    shares; None where there is no bound, as of losses. The result is None if no possible difference
    is found so: models that differ on so few documents cannot differ so much, or seeds differ more.
    """
    if isinstance(precision, ExactMcNemar):
        largest = precision.disagreement
    elif largest is None:
        largest = 1.0
        while precision.power(largest, documents, level) < POWER and largest < 1e6:
            largest *= 2

    def surplus(difference: float) -> float:
        return precision.power(difference, documents, level) - POWER

    if largest == 0 or surplus(largest) < 0:
        return None
    return float(optimize.brentq(surplus, 0.0, largest, xtol=1e-6))


def documents_needed(precision: Precision, difference: float, level: float) -> int | None:
    """Return on how many documents a true difference is found with a power of 80 %.

    level is that of the test after correction. Returns None if more than MAX_DOCUMENTS would be
    needed, or if more documents cannot help (``documents_suffice``). The power of the exact test
    rises in small steps that fall a little in between, so the result is right to about one percent.
    """

    def is_enough(documents: int) -> bool:
        return precision.power(difference, documents, level) >= POWER

    few, many = 2, 4
    while not is_enough(many):
        few, many = many, 2 * many
        if many > MAX_DOCUMENTS:
            return None
    while many - few > max(1, few // 500):
        middle = (few + many) // 2
        if is_enough(middle):
            many = middle
        else:
            few = middle
    return many


def documents_suffice(precision: Precision, difference: float, level: float) -> bool:
    """Return whether any number of documents finds a true difference with a power of 80 %.

    It does not where seeds differ too much: what they differ by in quality, more documents leave
    as it is, and only more seeds help.
    """
    if isinstance(precision, ExactMcNemar) or precision.fixed == 0:
        return True
    return precision.power(difference, np.inf, level) >= POWER
