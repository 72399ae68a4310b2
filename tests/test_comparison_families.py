"""tools/correct_together.py and tools/comparison/families.py: several comparisons, one family."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from compared_runs import draw_predictions, results_of, write_run
from conftest import assert_user_error
from statsmodels.stats.multitest import multipletests

from comparison.families import one_family
from comparison.paired_tests import METRICS
from comparison.power import ExactMcNemar, detectable_difference, documents_needed


@pytest.fixture
def comparisons(tmp_path, run):
    """Two comparisons that have the pair (a, b) in common, once under other names and reversed."""
    generator = np.random.default_rng(0)
    labels, difficulty = generator.integers(0, 5, 300), generator.random(300)
    for name, accuracy in (("a", 0.9), ("b", 0.84), ("c", 0.8)):
        predictions = draw_predictions(generator, labels, accuracy, 5, difficulty)
        write_run(tmp_path / name, labels, predictions)
    shutil.copytree(tmp_path / "b", tmp_path / "copy-of-b")
    for output, first, second in (
        ("one", "a", "b"),
        ("two", "copy-of-b", "a"),
        ("three", "a", "c"),
    ):
        done = run(
            "compare_runs",
            *(tmp_path / first, tmp_path / second, "--reference", tmp_path / second),
            *("--output_dir", tmp_path / output, "--n_resamples", 200),
        )
        assert done.code == 0, done.err
    return tmp_path


def test_same_predictions_are_one_test_with_one_verdict(comparisons, run):
    folders = [comparisons / name for name in ("one", "two", "three")]
    done = run("correct_together", *folders, "--output_dir", comparisons / "together")
    assert done.code == 0, done.err
    table = pd.read_csv(comparisons / "together" / "family.csv")
    record = json.loads((comparisons / "together" / "family.json").read_text(encoding="utf-8"))
    assert len(table) == 12 and record["tests"] == 8 == table["tests_in_family"].unique()

    by_comparison = {name: part.set_index("metric") for name, part in table.groupby("comparison")}
    one, two, three = (by_comparison[name] for name in ("one", "two", "three"))
    for metric in one.index:
        assert one.loc[metric, "p_holm"] == two.loc[metric, "p_holm"]
        opposite = {"better": "worse", "worse": "better"}
        verdict = one.loc[metric, "verdict"]
        assert two.loc[metric, "verdict"] == opposite.get(verdict, verdict)
    expected = multipletests([*one["p"], *three["p"]], method="holm")[1]
    assert [*one["p_holm"], *three["p_holm"]] == pytest.approx(expected, rel=1e-6)
    alone = {row["metric"]: row for row in results_of(comparisons / "one")["pairs"]}
    assert one.loc["accuracy", "p_holm"] >= alone["accuracy"]["p_holm"]
    # What a test can find is at the level of the family, and takes more documents than alone.
    assert table["level"].to_numpy() == pytest.approx(0.05 / 8)
    row = one.loc["accuracy"]
    disagreement = (row["only_model_right"] + row["only_reference_right"]) / 300
    needed = documents_needed(ExactMcNemar(disagreement), 0.01, 0.05 / 8)
    assert row["documents_needed"] == needed > alone["accuracy"]["documents_needed"]
    least = detectable_difference(ExactMcNemar(disagreement), 300, 0.05 / 8)
    assert row["detectable_difference"] == pytest.approx(least, rel=1e-6)
    for metric in ("macro_f1", "log_loss"):
        mine, other = one.loc[metric], alone[metric]
        assert mine["detectable_difference"] > other["detectable_difference"]
    text = (comparisons / "together" / "family.md").read_text(encoding="utf-8")
    assert "12 tests of 3 comparisons, 8 of them distinct" in text


def test_tests_of_different_margins_are_not_one(comparisons, run):
    """A pair with a margin of 1 point and with one of 16: other tests, the same difference."""
    for name, margin in (("narrow", 1), ("wide", 16)):
        done = run(
            "compare_runs",
            *(comparisons / "a", comparisons / "b", "--reference", comparisons / "b"),
            *("--margin", margin, "--output_dir", comparisons / name, "--n_resamples", 200),
        )
        assert done.code == 0, done.err
    narrow, wide = (results_of(comparisons / name) for name in ("narrow", "wide"))
    rows = {}
    for row in one_family({"narrow": narrow, "wide": wide}):
        rows[row["comparison"], row["metric"]] = row
    for comparison, record in (("narrow", narrow), ("wide", wide)):
        for alone in record["pairs"]:
            together = rows[comparison, alone["metric"]]
            for kind in ("p", "p_non_inferior", "p_equivalent", "p_worse_beyond"):
                assert together[kind] == alone[kind], (comparison, alone["metric"], kind)
            assert together["p_holm"] == alone["p_holm"] and together["tests_in_family"] == 4
    margin_tests = [(name, metric) for name in ("narrow", "wide") for metric in METRICS]
    p_values = [rows[key]["p_equivalent"] for key in margin_tests]
    assert [rows[key]["p_equivalent_holm"] for key in margin_tests] == pytest.approx(
        multipletests(p_values, method="holm")[1]
    )
    assert p_values[0] > 0.1 > p_values[2]  # of accuracy


def test_comparisons_are_given_as_files_and_named_after_their_folders(comparisons, run):
    """The first one is a .json file, as a file of flags would be."""
    files = [comparisons / name / "comparison.json" for name in ("one", "two", "three")]
    together = comparisons / "together"
    for words in (files, [files[0], "--comparisons", *files[1:]], [files[0].parent, *files[1:]]):
        done = run("correct_together", *words, "--output_dir", together)
        assert done.code == 0, done.err
        record = json.loads((together / "family.json").read_text(encoding="utf-8"))
        assert record["arguments"]["comparisons"] == ["one", "two", "three"]
    done = run("correct_together", files[0], files[0].parent, "--output_dir", together)
    assert_user_error(done, "two comparisons are called one")
    (comparisons / "flags.json").write_text(json.dumps({"output_dir": str(together)}))
    done = run("correct_together", comparisons / "flags.json", *files)
    assert done.code == 0, done.err


def test_what_is_not_a_comparison_is_refused(tmp_path, run):
    record = {"script": "compare_runs.py", "pairs_tested": "all", "models": [], "pairs": []}
    files = {
        "one": record,
        "two": record,
        "report": {"script": "make_report.py"},
        "old": {"script": "compare_runs.py", "pairs": []},
        "no precision": record | {"pairs": [{"model": "a", "reference": "b"}]},
    }
    paths = {}
    for name, content in files.items():
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps(content))
    one, output = paths["one"], tmp_path / "out"
    call = ("correct_together", "--output_dir", output)
    assert_user_error(run(*call, one), "two comparisons or more, not 1")
    assert_user_error(run(*call, one, one), "two comparisons are called one")
    assert_user_error(run(*call, one, tmp_path / "missing"), "missing")
    assert_user_error(run(*call, one, paths["report"]), "not written by tools/compare_runs.py")
    for name in ("old", "no precision"):
        assert_user_error(run(*call, one, paths[name]), "earlier version", "again")
    assert_user_error(run(*call, one, paths["two"]), "none of the comparisons has a test")
    assert not output.exists()
