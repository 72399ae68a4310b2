"""Means, intervals and paired differences over documents or mosaics, and their table."""

import numpy as np

from common.statistics import (
    ALPHA,
    MIN_INTERVAL_DOCUMENTS,
    add_holm,
    documents_test,
    mean_interval,
)

# How intervals and p-values are computed, for faithfulness.json. With the 10 to 50 documents that
# are usual here, percentile bootstrap intervals are too narrow: a family of 24 tests without any
# difference then has a false finding in 14 percent of all cases with 30 documents, and in 37
# percent with 10, instead of 5.
METHOD = (
    "Intervals are Student's, at 95%. Differences have the paired t-test over the documents (of "
    "the mosaic score over the mosaics), and Holm's method corrects p over all of them."
)


def interval(values: list[float | None]) -> dict | None:
    """Return the mean over the documents and Student's 95% interval; None without a defined value.

    low and high are None for fewer than MIN_INTERVAL_DOCUMENTS documents.
    """
    values = [value for value in values if value is not None]
    if not values:
        return None
    return mean_interval(values) | {"documents": len(values)}


def paired(first: list[float | None], second: list[float | None]) -> list[float | None]:
    """Return first minus second, None where one is not defined."""
    return [None if a is None or b is None else a - b for a, b in zip(first, second, strict=True)]


def paired_test(values: list[float | None]) -> dict | None:
    """Return the mean of paired differences, Student's interval and p by the paired t-test.

    None for fewer than MIN_INTERVAL_DOCUMENTS of them.
    """
    defined = np.array([value for value in values if value is not None])
    if len(defined) < MIN_INTERVAL_DOCUMENTS:
        return None
    # Rounded, because differences of equal numbers must not differ by rounding errors alone: the
    # test would be of these.
    return documents_test(np.round(defined, 12)) | {"documents": len(defined)}


def compare_methods(values: dict[str, dict[str, list]], reference: str) -> list[dict]:
    """Return the tests of reference minus every other method, for every measure.

    values are {measure: {method: value of each document}}. All tests are one family: Holm's method
    corrects their p-values.
    """
    tests = []
    for measure, of_methods in values.items():
        for method, of_documents in of_methods.items():
            if method == reference:
                continue
            test = paired_test(paired(of_methods[reference], of_documents))
            if test is not None:
                tests.append({"measure": measure, "method": method} | test)
    add_holm(tests)
    return tests


def verdict(test: dict) -> str:
    """Return the sign of a difference that the test can tell from 0, or "undecided"."""
    if test["p_holm"] >= ALPHA:
        return "undecided"
    return "larger" if test["difference"] > 0 else "smaller"


def disagreements(tests: list[dict]) -> list[str]:
    """Return sentences on where replacing and deleting words show differences of opposite sign."""
    sentences = []
    for replaced, deleted in replaced_and_deleted(tests):
        if {verdict(replaced), verdict(deleted)} == {"larger", "smaller"}:
            sentences.append(
                f"{subject(replaced)}: {verdict(replaced)} with words replaced "
                f"({replaced['difference']:+.3f}), {verdict(deleted)} with words deleted "
                f"({deleted['difference']:+.3f})."
            )
    return sentences


def shown_once(tests: list[dict]) -> list[str]:
    """Return sentences on where only one of replacing and deleting words shows a difference.

    That is no disagreement: what a test does not show may be there, too.
    """
    sentences = []
    for replaced, deleted in replaced_and_deleted(tests):
        shown, other = ("replaced", replaced), ("deleted", deleted)
        if verdict(replaced) == "undecided":
            shown, other = other, shown
        if verdict(shown[1]) == "undecided" or verdict(other[1]) != "undecided":
            continue
        sentences.append(
            f"{subject(replaced)}: shown to be {verdict(shown[1])} with words {shown[0]} "
            f"({shown[1]['difference']:+.3f}), no difference shown with words {other[0]} "
            f"({other[1]['difference']:+.3f})."
        )
    return sentences


def replaced_and_deleted(tests: list[dict]) -> list[tuple[dict, dict]]:
    """Return the pairs of tests of one measure and method, with words replaced and deleted."""
    by_name = {(test["measure"], test["method"]): test for test in tests}
    pairs = []
    for (measure, method), test in by_name.items():
        deleted = by_name.get((f"{measure}_deleted", method))
        if deleted is not None:
            pairs.append((test, deleted))
    return pairs


def subject(test: dict) -> str:
    """Return what a test compares, in words."""
    return f"{test['measure'].capitalize()} of integrated gradients against {test['method']}"
