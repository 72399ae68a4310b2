"""tools/comparison/study_table.py: the bounds that the study's accuracies set."""

import json

import pytest
from compared_runs import write_pair
from conftest import assert_user_error
from scipy import stats

from comparison import study_table


@pytest.fixture
def pair(tmp_path):
    return write_pair(tmp_path)


def test_study_bounds():
    pairs = study_table.study_pairs(0.08)
    assert len(pairs) == 28
    for row in pairs:
        assert row["p_least"] <= row["p_assumed"] <= row["p_most"]
    # bge 91.59 % is 4,337 right, the SVM 90.54 % is 4,287: 50 more; at most 398 + 448 documents
    # separate them.
    row = next(
        row
        for row in pairs
        if row["model"].startswith("bge") and row["reference"].startswith("TF-IDF")
    )
    assert row["p_least"] == pytest.approx(stats.binomtest(50, 50).pvalue)
    assert row["p_most"] == pytest.approx(stats.binomtest(448, 846).pvalue)
    sentences = " ".join(study_table.study_sentences(pairs, 0.08, None))
    assert "28 pairs, 0 differences would be significant" in sentences
    assert "only a difference of 1.17 points or more" in sentences


def test_paper_and_disagreement_rate(pair, run):
    good, bad, output = pair
    call = ("compare_runs", "--output_dir", output, "--n_resamples", 100)
    assert run(*call, "--disagreement_rate", 0.06, "--paper", good, bad).code == 0
    study = json.loads((output / "study.json").read_text(encoding="utf-8"))
    assert study["disagreement_rate"] == 0.06 and study["detectable_difference"] < 0.0117
    assert "With 6.0 percent assumed" in (output / "comparison.md").read_text(encoding="utf-8")
    assert run(*call, good, bad, "--paper", "false").code == 0
    assert (
        "†" not in (output / "table2.md").read_text(encoding="utf-8")
        and not (output / "study.json").exists()
    )
    assert_user_error(run(*call, good, bad, "--papr"), "--papr", "--paper")
    # Two models that are right on 90.54 and 90.60 percent differ on 18.86 percent at most.
    assert study_table.largest_disagreement() == pytest.approx(0.1886)
    for rate in (0, 0.2, 1, "nan"):
        assert_user_error(
            run(*call, good, bad, "--paper", "--disagreement_rate", rate),
            *("--disagreement_rate", "0.1886"),
        )
    assert_user_error(
        run(*call, good, bad, "--disagreement_rate", 0.06), "--disagreement_rate", "--paper"
    )
    assert_user_error(
        run(*call, good, bad, "--dataset_revision", "main"),
        "--dataset_revision requires --dataset_name",
    )
