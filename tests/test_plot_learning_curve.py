"""tools/plot_learning_curve.py: the points are those of the comparisons, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from compared_runs import draw_predictions, results_of, write_run
from conftest import LABELS, assert_user_error

SIZES = (20, 80)


@pytest.fixture
def comparisons(tmp_path, run):
    """The comparisons of two numbers of documents, of an SVM and of an encoder with two seeds."""
    folders = []
    for size in SIZES:
        runs = []
        for name, seed in (("svm", None), ("small", 1), ("small", 2)):
            folder = tmp_path / f"{name}-{size}-{seed}"
            runs.append(write_sized_run(folder, name, seed, size))
        folders.append(tmp_path / f"comparison-size-{size}")
        flags = ("--reference", runs[0], "--n_resamples", 200, "--output_dir", folders[-1])
        done = run("compare_runs", *runs, *flags)
        assert done.code == 0, done.err
    return folders


def write_sized_run(folder, name, seed, size, documents=200):
    """A run folder of a model that was trained on so many documents: the more, the better."""
    generator = np.random.default_rng([size, seed or 0])
    labels = np.arange(documents) % len(LABELS)
    predictions = draw_predictions(generator, labels, 0.5 + size / 200, len(LABELS))
    record = {"arguments": {"max_train_samples": size}, "seed": seed, "model_name_or_path": name}
    write_run(folder, labels, predictions, **record)
    (folder / "train_results.json").write_text(json.dumps({"train_samples": size}))
    return folder


def test_points_are_those_of_the_comparisons(comparisons, run, tmp_path):
    done = run("plot_learning_curve", *comparisons, "--output_dir", tmp_path / "curve")
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "curve" / "learning_curve.csv")
    assert len(table) == 4
    for size, folder in zip(SIZES, comparisons, strict=True):
        for cost in results_of(folder)["costs"]:
            of_model = table[(table["model"] == cost["name"]) & (table["train_samples"] == size)]
            (row,) = of_model.to_dict("records")
            for key in ("accuracy", "accuracy_low", "accuracy_high", "macro_f1"):
                assert row[key] == pytest.approx(cost[key], rel=1e-6)
            assert row["comparison"] == folder.name
    page = (tmp_path / "curve" / "learning_curve.md").read_text()
    assert "](learning_curve.png)" in page and "| small | 80 |" in page
    assert (tmp_path / "curve" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in (tmp_path / "curve" / "learning_curve.json").read_text()
    # In any order, the same curve; the files of the first call are replaced.
    again = run("plot_learning_curve", *reversed(comparisons), "--output_dir", tmp_path / "curve")
    assert again.code == 0, again.err
    assert pd.read_csv(tmp_path / "curve" / "learning_curve.csv").equals(table)


def test_page_of_the_study_shows_the_curve(comparisons, run, tmp_path):
    done = run("plot_learning_curve", *comparisons, "--output_dir", tmp_path / "curve")
    assert done.code == 0, done.err
    flags = ("--learning_curve_dir", tmp_path / "curve", "--output_dir", tmp_path / "report")
    done = run("make_report", *flags, "--comparison_dir", comparisons[1])
    assert done.code == 0, done.err
    page = (tmp_path / "report" / "index.html").read_text()
    curve = page[page.index('<h2 id="learning-curve">') :]
    assert curve.index("data:image/png;base64") < curve.index("training documents</th>")
    assert 'href="../curve/learning_curve.csv"' in curve
    edited = tmp_path / "curve" / "learning_curve.md"
    edited.write_text(edited.read_text().replace("small", "large"))
    done = run("make_report", *flags)
    assert_user_error(done, edited, "not the file that tools/plot_learning_curve.py wrote")


def test_what_is_no_curve_is_refused(comparisons, run, tmp_path):
    call = ("plot_learning_curve", "--output_dir", tmp_path / "curve")
    small, large = comparisons
    assert_user_error(run(*call), "give the comparisons")
    assert_user_error(run(*call, small), "no model was trained on two numbers of documents")
    assert_user_error(run(*call, small, tmp_path / "missing"), "missing")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "comparison.json").write_bytes((small / "comparison.json").read_bytes())
    result = run(*call, small, large, tmp_path / "copy")
    assert_user_error(result, "20 training documents is in comparison-size-20 and in copy")
    runs = [write_sized_run(tmp_path / name, name, None, 90, 150) for name in ("svm", "small")]
    done = run("compare_runs", *runs, "--n_resamples", 200, "--output_dir", tmp_path / "other")
    assert done.code == 0, done.err
    result = run(*call, small, tmp_path / "other")
    assert_user_error(result, "comparison-size-20 and other", "200 and 150", "one test split")
    comparison = json.loads((large / "comparison.json").read_text())
    comparison["per_class_f1"][0]["documents"] += 1
    (tmp_path / "split.json").write_text(json.dumps(comparison))
    result = run(*call, "--comparisons", small, tmp_path / "split.json")
    assert_user_error(result, "comparison-size-20 and split", "classes", "one test split")
    old = {"script": "compare_runs.py", "pairs_tested": "all", "models": [], "pairs": []}
    (tmp_path / "old.json").write_text(json.dumps(old))
    result = run(*call, "--comparisons", small, tmp_path / "old.json")
    assert_user_error(result, "old is a comparison of an earlier version")
    assert not (tmp_path / "curve").exists()
