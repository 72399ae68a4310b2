"""Comparisons that are published together: one family of tests."""

from common.statistics import ALPHA
from comparison.paired_tests import FAMILIES, LOSSES, correct_kind, power_columns, verdict

# The kinds of p-values that are the same whichever of two models comes first.
SYMMETRIC = ("p", "p_equivalent")
# The kinds that are about the margin: with another one they are other tests.
OF_THE_MARGIN = ("p_non_inferior", "p_equivalent", "p_worse_beyond")
# What rows have for the correction only, or say about the family of their own comparison
LEFT_OUT = ("sides", "margin", "precision", "low_simultaneous", "high_simultaneous")


def one_family(comparisons: dict[str, dict]) -> list[dict]:
    """Return the tests of several comparisons with the correction of one family over all of them.

    comparisons are the records of comparison.json by name. The rows are those of pairs, each with
    its comparison, and with p-values after Holm's correction and a verdict that count every test
    once: two rows are one test if they compare the same metric of the same predictions, and with
    the same margin if the test is about it, in whatever comparison and under whatever names. So the
    same two sets of predictions have the same verdict wherever the margin is the same.
    level, detectable_difference and documents_needed are those of the whole family.
    """
    rows = []
    for name, comparison in comparisons.items():
        models = {model["name"]: model for model in comparison["models"]}
        for pair in comparison["pairs"]:
            sides = tuple(
                predictions_of(models[pair[side]], comparison["predictions"], pair["metric"])
                for side in ("model", "reference")
            )
            key_parts = {"sides": sides, "margin": comparison["margin"]}
            rows.append({"comparison": name} | key_parts | pair)

    for kind in FAMILIES:
        correct_once(rows, kind)
    tests = len({test_key(row, "p") for row in rows})
    for row in rows:
        row["verdict"] = verdict(row)
        row["tests_in_family"] = tests
        row.update(power_columns(row, ALPHA / tests, row["margin"]))
        for column in LEFT_OUT:
            del row[column]
    return rows


def correct_once(rows: list[dict], kind: str) -> None:
    """Add Holm's correction of one kind of p-value to rows of which several may be one test.

    Where bootstrap samples gave such rows different p-values, the largest is taken.
    """
    tested = [row for row in rows if row[kind] is not None]
    distinct: dict[tuple, dict] = {}
    for row in tested:
        test = distinct.setdefault(test_key(row, kind), {kind: 0.0})
        test[kind] = max(test[kind], row[kind])
    correct_kind(list(distinct.values()), kind)
    for row in tested:
        row.update(distinct[test_key(row, kind)])


def predictions_of(model: dict, digests: dict[str, str], metric: str) -> tuple:
    """Return what identifies a metric of a model: the predictions of its runs.

    The digests are those of labels and predictions. Losses depend on the probabilities, too, which
    the losses of the runs stand for.
    """
    parts = []
    for run in model["runs"]:
        loss = run[metric] if metric in LOSSES else None
        parts.append((digests[run["folder"]], loss))
    return tuple(sorted(parts, key=str))


def test_key(row: dict, kind: str) -> tuple:
    """Return what two rows have in common if they are one test of this kind."""
    sides = row["sides"]
    if kind in SYMMETRIC:
        sides = tuple(sorted(sides, key=str))
    margin = row["margin"] if kind in OF_THE_MARGIN else None
    return row["metric"], sides, margin
