"""tools/comparison/slices.py: parts of the test split, documents that every run gets wrong."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from compared_runs import draw_predictions, results_of, write_pair, write_run
from conftest import LABELS, ROOT, assert_user_error, make_records, write_dataset
from hub_server import hub_server


@pytest.fixture
def pair(tmp_path):
    return write_pair(tmp_path)


def test_confusable_documents_are_those_with_the_svms_closest_scores(tmp_path, run):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 80)
    record = {"model_name_or_path": "m", "learning_rate": 1e-5}
    runs = []
    for seed in (1, 2):
        predictions = draw_predictions(generator, labels, 0.7)
        runs.append(write_run(tmp_path / f"m{seed}", labels, predictions, seed=seed, **record))
    predictions = draw_predictions(generator, labels, 0.8)
    record = {"script": "run_baseline.py", "seed": 1}
    svm = write_run(tmp_path / "svm", labels, predictions, "decisions", **record)
    done = run("compare_runs", *runs, svm, "--output_dir", tmp_path / "out", "--n_resamples", 500)
    assert done.code == 0, done.err
    scores = np.sort(pd.read_csv(svm / "predictions.csv")[list(LABELS)].to_numpy(), axis=1)
    closest = np.argsort(scores[:, -1] - scores[:, -2], kind="stable")[:20]
    right = [
        pd.read_csv(folder / "predictions.csv").eval("label == prediction")[closest].mean()
        for folder in runs
    ]
    slices = pd.read_csv(tmp_path / "out/slices.csv").set_index(["slice", "model"])
    row = slices.loc[("SVM scores closest (a quarter)", "m")]
    assert (row["documents"], row["seeds"]) == (20, 2)
    assert row["accuracy"] == pytest.approx(np.mean(right))
    assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
    assert np.isnan(row["any_listed"])  # needs the categories of --dataset_name


def test_hard_documents_and_cross_listing(tmp_path, run):
    records = make_records(per_class=60)
    dataset = write_dataset(tmp_path / "data", records)
    test = records[270:]
    ids, labels = [record["id"] for record in test], np.array([record["label"] for record in test])
    predictions = labels.copy()
    predictions[:6] = (labels[:6] + 1) % 5
    other = predictions.copy()
    other[6] = (labels[6] + 2) % 5
    runs = [
        write_run(tmp_path / "a", labels, predictions, ids=ids),
        write_run(tmp_path / "b", labels, other, ids=ids),
    ]
    done = run("compare_runs", *runs, "--output_dir", tmp_path / "out", "--dataset_name", dataset)
    assert done.code == 0, done.err
    hard = pd.read_csv(tmp_path / "out/hard_documents.csv").set_index("id")
    assert sorted(hard.index) == sorted(ids[:6])
    for record, prediction in zip(test[:6], predictions, strict=False):
        row = hard.loc[record["id"]]
        assert (row["label"], row["majority_prediction"]) == (
            LABELS[record["label"]],
            LABELS[prediction],
        )
        assert row["categories"].split() == record["categories"]
        assert row["cross_listed"] == (LABELS[prediction] in record["categories"])
        assert 0.5 <= row["mean_confidence"] <= 0.95
    assert hard["mean_confidence"].is_monotonic_decreasing
    summary = results_of(tmp_path / "out")["hard_documents"]
    assert summary["cross_listed"] == hard["cross_listed"].sum() > 0
    assert summary["share_of_all_with_another"] == pytest.approx(
        np.mean([len(r["categories"]) > 1 for r in test])
    )

    slices = pd.read_csv(tmp_path / "out/slices.csv").set_index(["slice", "model"])
    listed = np.array(
        [LABELS[k] in record["categories"] for k, record in zip(predictions, test, strict=True)]
    )
    assert slices.loc[("all", "a"), "accuracy"] == pytest.approx((predictions == labels).mean())
    assert slices.loc[("all", "a"), "any_listed"] == pytest.approx(listed.mean())
    several = np.array([len(record["categories"]) > 1 for record in test])
    assert slices.loc[("listed in another class", "b"), "documents"] == several.sum()
    assert slices.loc[("listed in another class", "b"), "accuracy"] == pytest.approx(
        (other == labels)[several].mean()
    )
    assert "SVM scores closest (a quarter)" not in slices.index

    # What chance gives where any listed category counts
    chance = results_of(tmp_path / "out")["listed"]
    in_classes = np.array([len(set(record["categories"]) & set(LABELS)) for record in test])
    assert chance["random_guess"] == pytest.approx(in_classes.mean() / 5)
    assert chance["random_wrong_guess"] == pytest.approx((in_classes - 1).mean() / 4)
    errors = {row["model"]: row for row in chance["errors"]}
    wrong = predictions != labels
    assert errors["a"]["errors"] == wrong.sum() == 6
    assert errors["a"]["listed"] == pytest.approx(listed[wrong].mean())
    assert errors["a"]["random_wrong_guess"] == pytest.approx((in_classes[wrong] - 1).mean() / 4)
    of_listed = chance["cross_listed"]
    several = in_classes > 1
    assert of_listed["documents"] == several.sum()
    assert of_listed["random_guess"] == pytest.approx(in_classes[several].mean() / 5)
    assert of_listed["random_wrong_guess"] == pytest.approx((in_classes[several] - 1).mean() / 4)
    assert of_listed["errors"][0]["errors"] == (wrong & several).sum()
    assert of_listed["errors"][0]["listed"] == pytest.approx(listed[wrong & several].mean())
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert f"On the {several.sum()} documents that are listed in another class" in page
    assert f"a random guess is right on {100 * of_listed['random_guess']:.2f} percent" in page
    share = 100 * of_listed["errors"][0]["random_wrong_guess"]
    assert f"| a | {(wrong & several).sum():.1f} | " in page and f" | {share:.2f} |" in page
    for row in chance["classes"]:
        own = labels == LABELS.index(row["class"])
        assert row["documents"] == own.sum()
        assert row["cross_listed"] == pytest.approx((in_classes[own] > 1).mean())
        assert sum(row["listed_in"].values()) == (in_classes[own] - 1).sum()

    def with_categories(name, change):
        folder = tmp_path / name / "data"
        folder.mkdir(parents=True)
        table = pd.read_parquet(dataset / "data" / "test-00000-of-00001.parquet")
        table.assign(categories=change(table["categories"])).to_parquet(
            folder / "test-00000-of-00001.parquet"
        )
        return run(
            "compare_runs",
            *runs,
            "--output_dir",
            tmp_path / name / "out",
            "--dataset_name",
            folder.parent,
        )

    assert with_categories("text", lambda column: column.map(" ".join)).code == 0
    assert results_of(tmp_path / "text" / "out")["hard_documents"] == summary
    assert with_categories("null", lambda column: [None, *column[1:]]).code == 0
    assert_user_error(
        with_categories("numbers", lambda column: range(len(column))), "'categories'", "lists"
    )

    without = write_dataset(tmp_path / "less", records[:200])
    result = run(
        "compare_runs", *runs, "--output_dir", tmp_path / "none", "--dataset_name", without
    )
    assert_user_error(result, without, "lacks 30", "runs were made with")
    assert not (tmp_path / "none").exists()


def test_dataset_on_the_hub(pair, tmp_path):
    """A revision of a Hub dataset is read and the commit behind it is recorded."""
    records = make_records(per_class=60)
    labels = np.array([record["label"] for record in records[270:]])
    ids = [record["id"] for record in records[270:]]
    for name in ("good", "bad"):
        write_run(tmp_path / name, labels, (labels + (name == "bad")) % 5, ids=ids)
    write_dataset(tmp_path / "data", records)
    good, bad, output = pair
    upload = (
        "import sys, huggingface_hub; api = huggingface_hub.HfApi();"
        "api.create_repo(sys.argv[1], repo_type='dataset');"
        "print(api.upload_folder(repo_id=sys.argv[1], repo_type='dataset',"
        "folder_path=sys.argv[2]).oid)"
    )
    with hub_server() as hub:
        options = {"capture_output": True, "text": True, "env": hub.environment(tmp_path / "home")}
        name = "tester/abstracts"
        commit = subprocess.run(
            [sys.executable, "-c", upload, name, tmp_path / "data"], **options
        ).stdout.strip()
        command = [
            sys.executable,
            str(ROOT / "tools" / "compare_runs.py"),
            good,
            bad,
            "--output_dir",
            output,
            "--n_resamples",
            "100",
        ]
        done = subprocess.run(
            [*command, "--dataset_name", name, "--dataset_revision", "main"], **options
        )
    assert done.returncode == 0, done.stderr
    result = results_of(output)
    assert len(commit) == 40 and result["dataset_commit"] == commit
    assert (
        result["arguments"]["dataset_revision"] == "main"
        and "cross_listed" in result["hard_documents"]
    )
