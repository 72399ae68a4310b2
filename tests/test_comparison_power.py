"""tools/comparison/power.py: the power of the tests that are used, at the level of their use."""

import json

import numpy as np
import pytest
from compared_runs import draw_predictions, results_of, write_run
from conftest import ROOT
from scipy import stats
from statsmodels.stats.power import TTestPower

from benchmarks import bench_statistics
from comparison.paired_tests import mcnemar_test
from comparison.power import (
    ExactMcNemar,
    NormalPrecision,
    detectable_difference,
    documents_needed,
    documents_suffice,
    precision_from_record,
    precision_record,
)


@pytest.mark.parametrize("level", [0.05, 0.05 / 4])
def test_detectable_difference_is_found_by_the_exact_test_in_eighty_percent(level):
    precision = ExactMcNemar(0.08)
    difference = detectable_difference(precision, 973, level)
    shares = [(0.08 + difference) / 2, (0.08 - difference) / 2, 0.92]
    samples = np.random.default_rng(0).multinomial(973, shares, 4000)[:, :2].tolist()
    p_values = {tuple(sample): mcnemar_test(*sample) for sample in samples}
    found = np.mean([p_values[tuple(sample)] < level for sample in samples])
    assert 0.78 < found < 0.82, found
    # The textbook's formula (Connor 1987) at level 5 % promises more than the exact test holds.
    z = stats.norm.ppf(1 - 0.05 / 2) + stats.norm.ppf(0.8)
    assert difference > z * np.sqrt(0.08 / 973)


def test_power_of_the_exact_test_is_a_sum_over_all_outcomes():
    documents, disagreement, difference, level = 40, 0.3, 0.2, 0.05
    shares = [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement]
    power = 0.0
    for wins in range(documents + 1):
        for losses in range(documents + 1 - wins):
            if mcnemar_test(wins, losses) <= level:
                rest = documents - wins - losses
                power += stats.multinomial.pmf([wins, losses, rest], documents, shares)
    assert ExactMcNemar(disagreement).power(difference, documents, level) == pytest.approx(power)


def test_documents_needed_by_a_t_test_are_those_of_statsmodels():
    spread, difference = 0.3, 0.02
    needed = documents_needed(NormalPrecision(0.0, spread**2), difference, 0.01)
    expected = TTestPower().solve_power(difference / spread, alpha=0.01, power=0.8)
    assert needed == pytest.approx(expected, rel=0.01)
    found = detectable_difference(NormalPrecision(0.0, spread**2), needed, 0.01)
    assert found == pytest.approx(difference, rel=0.01)


def test_documents_do_not_replace_seeds():
    """A variance that more documents do not reduce makes a small difference undecidable."""
    few_seeds = NormalPrecision(1e-5, 0.05, [(5e-6, 0.01, 2), (5e-6, 0.01, 2)])
    assert documents_needed(few_seeds, 0.01, 0.05) is None
    assert documents_needed(few_seeds, 0.05, 0.05) < 10_000
    assert documents_needed(NormalPrecision(0.0, 0.05), 0.01, 0.05) < 10_000
    assert not documents_suffice(few_seeds, 0.01, 0.05) and documents_suffice(few_seeds, 0.05, 0.05)
    # So many documents nobody has, but no seeds are missing.
    for precision in (NormalPrecision(0.0, 0.05), ExactMcNemar(0.08)):
        assert documents_needed(precision, 1e-5, 0.05) is None
        assert documents_suffice(precision, 1e-5, 0.05)


def test_a_precision_is_kept_in_json():
    groups = [(5e-6, 0.01, 2.0), (0.0, 0.02, np.inf)]
    for precision in (ExactMcNemar(0.08), NormalPrecision(1e-5, 0.05, groups)):
        text = json.dumps(precision_record(precision), allow_nan=False)
        assert precision_from_record(json.loads(text)) == precision


def test_a_difference_of_shares_is_never_larger_than_one():
    """Two seeds that differ much: only losses, which have no bound, can differ by 3."""
    few_seeds = NormalPrecision(0.05, 0.05, [(0.025, 0.01, 1), (0.025, 0.01, 1)])
    assert detectable_difference(few_seeds, 973, 0.05 / 8) is None
    loss = detectable_difference(few_seeds, 973, 0.05 / 8, largest=None)
    assert loss > 1 and few_seeds.power(loss, 973, 0.05 / 8) == pytest.approx(0.8, abs=1e-3)


def test_a_page_promises_no_difference_beyond_one(tmp_path, run):
    generator, labels = np.random.default_rng(0), np.arange(60) % 5
    folders = []
    for name, accuracies in (("a", (0.9, 0.3)), ("b", (0.4, 0.9))):
        for seed, accuracy in enumerate(accuracies):
            predictions = draw_predictions(generator, labels, accuracy)
            record = {"model_name_or_path": name, "seed": seed}
            folders.append(write_run(tmp_path / f"{name}{seed}", labels, predictions, **record))
    flags = ("--output_dir", tmp_path / "out", "--n_resamples", 200)
    assert run("compare_runs", *folders, *flags).code == 0
    rows = {row["metric"]: row for row in results_of(tmp_path / "out")["pairs"]}
    assert rows["accuracy"]["detectable_difference"] is None
    assert rows["macro_f1"]["detectable_difference"] is None
    page = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "Every test as a sentence" in page and "with a power of 80 percent." not in page


def test_a_difference_needs_as_many_disagreements():
    assert detectable_difference(ExactMcNemar(0.1), 30, 0.05) is None
    assert detectable_difference(ExactMcNemar(0.0), 1000, 0.05) is None
    # No disagreement was seen, so a difference of the margin would be all there is.
    assert documents_needed(ExactMcNemar(0.0), 0.01, 0.05) == documents_needed(
        ExactMcNemar(0.01), 0.01, 0.05
    )
    assert documents_needed(NormalPrecision(0.0, 0.0), 0.01, 0.05) > 500


def test_figures_of_the_documentation():
    """docs/statistics.md: tables of the simulation, and what a margin of 1 point needs."""
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    result = json.loads((ROOT / "benchmarks" / "results" / "statistics.json").read_text())
    assert bench_statistics.tables(result) in page
    page = " ".join(page.split())
    chances = result["reference"][0]["any_different"]
    for share in chances.values():
        assert f"{100 * share:.1f} percent" in page
    needed = documents_needed(ExactMcNemar(0.08), 0.01, 0.05)
    assert f"{round(needed, -2):,} documents" in page
    least = detectable_difference(ExactMcNemar(0.08), 973, 0.05)
    assert f"973 documents show {100 * least:.1f} points" in page
