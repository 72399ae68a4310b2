"""tools/compare_runs.py: the command, what it writes, its flags and its output folder."""

import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from compared_runs import (
    draw_predictions,
    edit,
    edit_bytes,
    results_of,
    truth_and_predictions,
    write_pair,
    write_run,
)
from conftest import LABELS, assert_user_error
from scipy import stats
from sklearn.metrics import cohen_kappa_score, f1_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

import compare_runs
from common.text import escape_markdown, markdown_table
from comparison import page, verdict


@pytest.fixture
def pair(tmp_path):
    return write_pair(tmp_path)


FILES = [
    "agreement.csv",
    "all_pairs.png",
    "calibration.png",
    "class_differences.csv",
    "class_differences.png",
    "comparison.json",
    "comparison.md",
    "cost.csv",
    "differences.png",
    "hard_documents.csv",
    "pairs.csv",
    "per_class_f1.csv",
    "slices.csv",
    "study.json",
    "table2.csv",
    "table2.md",
    "table2.png",
    "table2.tex",
]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Seven runs on 300 documents: an SVM, encoders with one seed and three, two without record."""
    root = tmp_path_factory.mktemp("runs")
    generator = np.random.default_rng(7)
    labels = generator.choice(5, 300, p=[0.4, 0.14, 0.32, 0.08, 0.06])
    difficulty = generator.random(300)
    accuracies = {
        "svm": 0.8,
        "big": 0.86,
        "s1": 0.83,
        "s2": 0.84,
        "s3": 0.82,
        "plain": 0.7,
        "bare": 0.75,
    }
    draws = {
        name: draw_predictions(generator, labels, accuracy, difficulty=difficulty)
        for name, accuracy in accuracies.items()
    }
    encoder = {"script": "run_classification.py", "learning_rate": 2e-5}
    write_run(root / "svm", labels, draws["svm"], "decisions", script="run_baseline.py",
              model_name_or_path="TF-IDF + linear SVM", seed=42)  # fmt: skip
    write_run(
        root / "big", labels, draws["big"], **encoder, model_name_or_path="org/big_model&co", seed=1
    )
    for seed in (1, 2, 3):
        write_run(
            root / f"s{seed}",
            labels,
            draws[f"s{seed}"],
            **encoder,
            model_name_or_path="/m/small",
            seed=seed,
        )
    write_run(root / "plain", labels, draws["plain"], None)
    # Never says math.SG.
    write_run(
        root / "bare", labels, np.where(draws["bare"] == 4, 0, draws["bare"]), "probabilities"
    )
    return root


@pytest.fixture(scope="module")
def compared(example, tmp_path_factory, fork_client):
    """The output folder of one full call, and what it printed."""
    output = tmp_path_factory.mktemp("out") / "comparison"
    runs = [str(example / name) for name in ("svm", "big", "s1", "s2", "s3", "plain", "bare")]
    script = compare_runs.__file__
    flags = ["--output_dir", output, "--paper", "--n_resamples", "2000"]
    done = subprocess.run(
        [*fork_client, script, *runs, *map(str, flags)], capture_output=True, text=True, check=True
    )
    return output, done.stdout


def test_command_writes_everything_and_ends_with_a_table(compared):
    output, printed = compared
    assert sorted(path.name for path in output.iterdir()) == FILES
    *_, last = tail = printed.rstrip().splitlines()[-7:]
    assert last.startswith(
        f"next: python tools/make_report.py --output_dir report --comparison_dir {output} --runs "
    )
    assert tail[0].split() == ["model", "test", "accuracy", "macro", "F1"]
    assert re.fullmatch(r"TF-IDF \+ linear SVM +\d\d\.\d\d +\d\d\.\d\d", tail[1])
    assert [line.split()[0] for line in tail[2:-1]] == ["big_model&co", "small", "plain", "bare"]


def test_metrics_and_intervals(compared, example):
    result = results_of(compared[0])
    big = next(model for model in result["models"] if model["name"] == "big_model&co")
    truth, predictions = truth_and_predictions(example / "big")
    right = (truth == predictions).sum()
    assert big["accuracy"] == pytest.approx(right / 300)
    assert big["macro_f1"] == pytest.approx(f1_score(truth, predictions, average="macro"))
    low, high = proportion_confint(right, 300, method="wilson")
    assert (big["accuracy_low"], big["accuracy_high"]) == pytest.approx((low, high))
    assert big["macro_f1_low"] < big["macro_f1"] < big["macro_f1_high"]
    small = next(model for model in result["models"] if model["name"] == "small")
    accuracies = [
        np.mean(np.equal(*truth_and_predictions(example / f"s{seed}"))) for seed in (1, 2, 3)
    ]
    assert small["seeds"] == 3 and [run["seed"] for run in small["runs"]] == [1, 2, 3]
    assert small["accuracy"] == pytest.approx(np.mean(accuracies))
    assert small["accuracy_sd"] == pytest.approx(np.std(accuracies, ddof=1))


def test_pairs_agree_with_statsmodels(compared, example):
    pairs = pd.read_csv(compared[0] / "pairs.csv")
    # Everything against the SVM, and five models all against each other, each pair once.
    assert results_of(compared[0])["reference"] == "TF-IDF + linear SVM"
    accuracy = pairs[pairs["metric"] == "accuracy"]
    names = ["TF-IDF + linear SVM", "big_model&co", "small", "plain", "bare"]
    tested = [set(two) for two in zip(accuracy["model"], accuracy["reference"], strict=True)]
    assert all(set(two) in tested for two in combinations(names, 2)) and len(tested) == 10
    assert (accuracy["reference"] == "TF-IDF + linear SVM").sum() == 4
    row = accuracy[(accuracy["model"] == "big_model&co")].iloc[0]
    assert row["reference"] == "TF-IDF + linear SVM"
    truth, svm = truth_and_predictions(example / "svm")
    _, big = truth_and_predictions(example / "big")
    table = pd.crosstab(big == truth, svm == truth)
    assert row["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert row["p"] == pytest.approx(
        stats.binomtest(table.iloc[0, 1], table.iloc[0, 1] + table.iloc[1, 0]).pvalue
    )
    assert (row["only_model_right"], row["only_reference_right"]) == (
        table.iloc[1, 0],
        table.iloc[0, 1],
    )
    # All tests that are made are one family.
    assert pairs["p_holm"].to_numpy() == pytest.approx(
        multipletests(pairs["p"], method="holm")[1], rel=1e-6
    )
    assert (pairs["distinguishable"] == (pairs["p_holm"] < 0.05)).all()
    assert pairs["distinguishable"].any() and not pairs["distinguishable"].all()
    assert (pairs["low_simultaneous"] < pairs["low"]).all() and (
        pairs["high"] < pairs["high_simultaneous"]
    ).all()
    assert set(pairs["test"]) == {"exact McNemar", "paired bootstrap", "paired t-test"}
    # One seed of a model says nothing about other seeds.
    assert set(pairs["population"]) == {"new documents and these trained models"}


def test_a_sentence_for_every_pair(compared):
    output, _ = compared
    text = (output / "comparison.md").read_text(encoding="utf-8")
    result = results_of(output)
    # Ten pairs in accuracy and macro F1, three of them with probabilities on both sides.
    assert len(result["pairs"]) == 26
    for row in result["pairs"]:
        sentence = verdict.test_sentence(row, result["titles"])
        assert f"- {escape_markdown(sentence)}\n" in text
        decided = row["verdict"] in ("better", "worse")
        assert decided == (row["p_holm"] < 0.05) and f": {row['verdict']}. " in sentence
        if row["metric"] in ("accuracy", "macro_f1"):
            assert f"Difference {verdict.signed(row['difference'])} points" in sentence
    assert "distinguishable" not in text.split("how it is made")[0]
    assert "bare never predicts math.SG" in text
    assert "Cross-listing is left out" in text


def test_tables_and_escapes(compared):
    output, _ = compared
    table = pd.read_csv(output / "table2.csv")
    assert list(table["source"]) == ["run"] * 5 + ["study"] * 8
    study = table[table["source"] == "study"].set_index("model")
    assert study.loc["bge-large-en-v1.5", ["accuracy", "macro_f1"]].tolist() == pytest.approx(
        [0.9159, 0.8877]
    )
    assert study["macro_f1_low"].isna().all() and study["accuracy_low"].notna().all()
    latex = (output / "table2.tex").read_text(encoding="utf-8")
    assert (
        r"big\_model\&co & 1 & \textbf{" in latex and r"$\pm$" in latex and latex.count(r"\\") == 14
    )
    markdown = (output / "table2.md").read_text(encoding="utf-8")
    # Best in accuracy, macro F1, log loss and Brier score
    assert markdown.count("†") == 9 and markdown.count("**") == 8
    assert markdown_table(["a|b"], [["c"]]).startswith(r"| a\|b |")
    row = results_of(output)["models"][0] | {"name": "a~b^c\\d{}$"}
    row = page.table_latex([row], results_of(output)["titles"]).splitlines()[4]
    assert row.startswith(r"a\textasciitilde b\textasciicircum c\textbackslash d\{\}\$ & 1 &")
    for name in ("table2.png", "calibration.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")


def test_per_class_f1_and_agreement(compared, example):
    per_class = pd.read_csv(compared[0] / "per_class_f1.csv").set_index("class")
    truth, big = truth_and_predictions(example / "big")
    assert per_class["big_model&co"].to_numpy() == pytest.approx(
        f1_score(truth, big, labels=LABELS, average=None)
    )
    assert per_class.loc["math.SG", "bare"] == 0
    assert per_class["documents"].sum() == 300
    agreement = pd.read_csv(compared[0] / "agreement.csv").set_index(["model", "other"])
    seeds = [truth_and_predictions(example / f"s{seed}")[1] for seed in (1, 2, 3)]
    own = agreement.loc[("small", "small")]
    assert own["same_prediction"] == pytest.approx(
        np.mean([(a == b).mean() for a, b in combinations(seeds, 2)])
    )
    assert agreement.loc[("big_model&co", "small"), "cohen_kappa"] == pytest.approx(
        np.mean([cohen_kappa_score(big, seed) for seed in seeds])
    )


def test_calibration_is_for_probabilities_only(compared):
    result = results_of(compared[0])
    assert set(result["calibration"]) == {"big_model&co", "small", "bare"}
    # Seeds are separate: the same documents three times are not three times as many documents.
    small = result["calibration"]["small"]
    for run in small["runs"]:
        assert sum(part["documents"] for part in run["bins"]) == 300
    for key in ("ece", "calibrated_low", "calibrated_high"):
        assert small[key] == pytest.approx(np.mean([run[key] for run in small["runs"]]))
    assert small["ece"] > small["calibrated_high"] > small["calibrated_low"] > 0
    assert "means of 3 seeds, of which 3 are above" in (compared[0] / "comparison.md").read_text(
        encoding="utf-8"
    )
    notes = " ".join(result["notes"])
    assert re.search(r"left out for svm: its scores are not probabilities", notes)
    assert re.search(r"left out for plain: it has no scores", notes)


def test_same_seed_same_bytes(example, tmp_path, run):
    runs, folders = (example / "svm", example / "big"), (tmp_path / "one", tmp_path / "two")
    for folder in folders:
        done = run(
            "compare_runs",
            runs[0],
            "--output_dir",
            folder,
            "--seed",
            1,
            runs[1],
            "--n_resamples",
            200,
        )
        assert done.code == 0, done.err
    for path in folders[0].iterdir():
        if path.name != "comparison.json":  # it names the output folder
            assert path.read_bytes() == (folders[1] / path.name).read_bytes(), path.name
    one, two = (results_of(folder) | {"arguments": None} for folder in folders)
    assert one == two


def test_order_of_documents_is_nothing_and_seed_is_something(example, tmp_path, run):
    shuffled = shutil.copytree(example / "big", tmp_path / "big")
    edit(shuffled / "predictions.csv", lambda table: table.sample(frac=1, random_state=1))
    pairs = []
    for number, (big, seed) in enumerate(
        [(example / "big", 1), (shuffled, 1), (example / "big", 2)]
    ):
        folder = tmp_path / f"out{number}"
        done = run("compare_runs", example / "svm", big, "--output_dir", folder, "--seed", seed)
        assert done.code == 0, done.err
        pairs.append(results_of(folder)["pairs"])
    assert pairs[0] == pairs[1] != pairs[2]


def test_recipe_file_and_second_call(example, tmp_path, run):
    output = tmp_path / "out"
    recipe = tmp_path / "compare.yaml"
    recipe.write_text(
        f"runs: [{example}/svm, {example}/bare]\noutput_dir: {output}\n"
        "n_resamples: 100\npaper: true\n"
    )
    assert run("compare_runs", recipe, "--reference", example / "svm").code == 0
    assert results_of(output)["reference"] == "TF-IDF + linear SVM"
    assert (output / "calibration.png").exists() and (output / "study.json").exists()
    # A second call replaces what the first wrote; what it has no use for goes.
    assert run("compare_runs", example / "svm", example / "plain", "--output_dir", output).code == 0
    assert not (output / "calibration.png").exists() and not (output / "study.json").exists()
    assert [model["name"] for model in results_of(output)["models"]] == [
        "TF-IDF + linear SVM",
        "plain",
    ]


def test_thirty_documents(tmp_path, run):
    generator, labels = np.random.default_rng(0), np.arange(30) % 5
    runs = [
        write_run(tmp_path / str(k), labels, draw_predictions(generator, labels, 0.8))
        for k in (1, 2)
    ]
    done = run("compare_runs", *runs, "--output_dir", tmp_path / "out")
    assert done.code == 0, done.err
    # The bootstrap of macro F1 is not reliable on so few documents.
    pairs = results_of(tmp_path / "out")["pairs"]
    assert [row["metric"] for row in pairs] == ["accuracy"]
    assert "1 of 1 tests of macro F1 are left out" in done.log
    table = pd.read_csv(tmp_path / "out/table2.csv")
    assert (
        table["macro_f1"].notna().all()
        and table["macro_f1_low"].isna().all()
        and table["accuracy_low"].notna().all()
    )
    assert re.search(r"these 30 documents \(median\)", done.log)
    assert done.out.splitlines()[-4].split() == ["model", "test", "accuracy", "macro", "F1"]


def test_fewer_than_twenty_documents_get_a_table_and_no_test(tmp_path, run):
    generator, labels = np.random.default_rng(0), np.arange(19) % 5
    runs = [
        write_run(tmp_path / str(k), labels, draw_predictions(generator, labels, 0.8))
        for k in (1, 2)
    ]
    done = run("compare_runs", *runs, "--output_dir", tmp_path / "out")
    assert done.code == 0, done.err
    assert results_of(tmp_path / "out")["pairs"] == [] and not (tmp_path / "out/pairs.csv").exists()
    text = (tmp_path / "out/comparison.md").read_text(encoding="utf-8")
    assert "None was made." in text and "No tests: 19 documents are fewer than 20." in text
    assert done.out.splitlines()[-4].split() == ["model", "test", "accuracy", "macro", "F1"]


def test_one_model_with_seeds_has_no_pairs_and_one_class_no_kappa(tmp_path, run):
    labels = np.zeros(25, dtype=int)
    runs = [
        write_run(tmp_path / str(seed), labels, labels, None, model_name_or_path="m", seed=seed)
        for seed in (1, 2)
    ]
    done = run("compare_runs", *runs, "--output_dir", tmp_path / "out")
    assert done.code == 0, done.err
    result = results_of(tmp_path / "out")
    assert result["pairs"] == [] and "No tests: all runs are seeds of one model." in result["notes"]
    assert result["agreement"][0]["cohen_kappa"] == 1
    # Two seeds without an error show no more than one: Wilson's interval, and none of macro F1
    model = result["models"][0]
    wilson = proportion_confint(25, 25, method="wilson")
    assert (model["accuracy_low"], model["accuracy_high"]) == pytest.approx(wilson)
    assert model["macro_f1"] == 1 and model["macro_f1_low"] is model["macro_f1_high"] is None
    (part,) = result["slices"]
    assert (part["accuracy_low"], part["accuracy_high"]) == pytest.approx(wilson)
    assert "no run has probabilities" in (tmp_path / "out/comparison.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("documents", [1, 2, 3, 9, 19, 20])
@pytest.mark.parametrize("scores", ["probabilities", None])
def test_few_documents(documents, scores, tmp_path, run):
    labels = np.arange(documents) % 5
    runs = [
        write_run(
            tmp_path / f"s{seed}",
            labels,
            (labels + (labels == seed)) % 5,
            scores,
            model_name_or_path="m",
            seed=seed,
        )
        for seed in (1, 2, 3)
    ]
    runs.append(write_run(tmp_path / "other", labels, labels, scores))
    done = run("compare_runs", *runs, "--output_dir", tmp_path / "out", "--n_resamples", 100)
    assert done.code == 0, done.err
    assert (results_of(tmp_path / "out")["pairs"] == []) == (documents < 20)


def test_words_in_any_order(pair, run, tmp_path):
    good, bad, output = pair
    (tmp_path / "one.yaml").write_text(f"runs: {good}\noutput_dir: {output}\npaper: true\n")
    to, few, first = ("--output_dir", output), ("--n_resamples", 100), None
    for words in (
        [good, bad, *to, "--paper"],
        [*to, "--paper", good, bad],
        [good, *to, bad, "--paper", "true"],
        ["--paper", "True", good, *to, bad],
        ["--paper=true", "--runs", good, bad, *to],
        ["--runs", good, f"--output_dir={output}", bad, "--paper"],
        [tmp_path / "one.yaml", bad],
        [bad, "--config", tmp_path / "one.yaml"],
    ):
        done = run("compare_runs", *words, *few)
        assert done.code == 0, (words, done.err)
        first = first or results_of(output)
        assert results_of(output) == first and (output / "study.json").exists(), words


def test_bad_folders_and_flags(pair, run):
    good, bad, output = pair
    to = ("--output_dir", output)
    assert_user_error(run("compare_runs", good, *to), "two runs or more, not 1")
    assert_user_error(run("compare_runs", *to), "two runs or more, not 0")
    assert_user_error(run("compare_runs", good, bad, good, *to), good, "given 2 times")
    assert_user_error(run("compare_runs", good, good.parent, *to), "no predictions.csv")
    assert_user_error(
        run("compare_runs", good, bad, *to, "--reference", "elsewhere"), "elsewhere", good, "'bad'"
    )
    assert not output.exists()
    assert_user_error(
        run("compare_runs", good, bad, *to, "--refrence", good), "--refrence", "--reference"
    )
    assert_user_error(run("compare_runs", good, bad, *to, "--n_resamples", 5), "--n_resamples")
    assert_user_error(run("compare_runs", good, bad), "--output_dir")
    (bad / "predict_results.json").write_text('{"predict_accuracy": 0.5}')
    assert_user_error(run("compare_runs", good, bad, *to), bad, "0.8 in predictions.csv", "0.5 in")
    (bad / "predict_results.json").write_text("[1")
    assert_user_error(run("compare_runs", good, bad, *to), "predict_results.json")
    (bad / "predictions.csv").write_bytes(b"\xff\xfe\x00")
    assert_user_error(run("compare_runs", good, bad, *to), "predictions.csv")


def test_output_folder_of_someone_else_is_left_alone(pair, run):
    good, bad, output = pair
    output.mkdir()
    (output / "thesis.tex").write_text("mine")
    assert_user_error(run("compare_runs", good, bad, "--output_dir", output), output, "thesis.tex")
    assert os.listdir(output) == ["thesis.tex"]
    (output / "thesis.tex").rename(output / "calibration.png")
    assert_user_error(run("compare_runs", good, bad, "--output_dir", output), "comparison.json")
    # A record of another tool does not make the folder ours, and one of ours not what is beside it.
    for record in ("{}", '{"script": "make_report.py"}', '["compare_runs.py"]', "{"):
        (output / "comparison.json").write_text(record)
        assert_user_error(run("compare_runs", good, bad, "--output_dir", output), output)
        assert (output / "comparison.json").read_text() == record
    assert (output / "calibration.png").read_text() == "mine"
    (output / "comparison.json").write_text('{"script": "compare_runs.py"}')
    (output / "notes").mkdir()
    (output / "notes" / "table2.md").write_text("mine")
    assert_user_error(run("compare_runs", good, bad, "--output_dir", output), "notes/table2.md")
    assert (output / "calibration.png").read_text() == "mine"
    assert_user_error(
        run("compare_runs", good, bad, "--output_dir", output / "calibration.png"), "is a file"
    )
    assert_user_error(run("compare_runs", good, bad, "--output_dir", good), good)


def test_full_disk_is_one_line(pair, run, monkeypatch):
    good, bad, output = pair

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert_user_error(
        run("compare_runs", good, bad, "--output_dir", output), "No space left", output
    )
    assert os.listdir(output) == ["comparison.json.tmp"]


def test_interrupted_while_writing(pair, run, monkeypatch, tmp_path):
    """Whichever file was being written: the same command again makes the same folder."""
    good, bad, output = pair
    call = ("compare_runs", good, bad, "--n_resamples", 100, "--paper", "--output_dir")
    assert run(*call, tmp_path / "undisturbed").code == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "undisturbed").glob("[!c]*")}
    replace = os.replace
    for stop in (1, 2, 9):
        renamed = []

        def interrupted(source, target, stop=stop, renamed=renamed):
            renamed.append(target)
            if len(renamed) == stop:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(*call, output)
        monkeypatch.setattr(os, "replace", replace)
        assert run(*call, output).code == 0
        assert {path.name: path.read_bytes() for path in output.glob("[!c]*")} == expected
        shutil.rmtree(output)


def test_file_that_cannot_be_removed_is_one_line(pair, run):
    good, bad, output = pair
    call = ("compare_runs", good, bad, "--output_dir", output, "--n_resamples", 100)
    assert run(*call).code == 0
    (output / "study.json").mkdir()
    assert_user_error(run(*call), output, "directory")


def test_own_data_and_the_command_that_comes_next(pair, run, tmp_path, monkeypatch):
    """Own data has no categories: what is left out is said, and the last line runs as printed."""
    good, _, output = pair
    monkeypatch.chdir(tmp_path)
    table = pd.read_csv(good / "predictions.csv")
    (tmp_path / "own" / "data").mkdir(parents=True)
    table[["id", "label"]].to_parquet("own/data/test-00000-of-00001.parquet")
    call = ("compare_runs", "good", "bad", "--output_dir", "out", "--n_resamples", 100)
    done = run(*call, "--dataset_name", "own")
    assert done.code == 0, done.err
    notes = results_of(output)["notes"]
    assert any("no column 'categories'" in note for note in notes)
    assert "cross_listed" not in results_of(output)["hard_documents"]
    python, script, *words = shlex.split(done.out.splitlines()[-1].removeprefix("next: "))
    assert (python, script) == ("python", "tools/make_report.py")
    assert run("make_report", *words).code == 0
    assert "Is a model better than good" in (tmp_path / "report" / "index.html").read_text(
        encoding="utf-8"
    )

    # Without ids it can only be said that there are no categories.
    table[["label"]].to_parquet("own/data/test-00000-of-00001.parquet")
    assert run(*call, "--dataset_name", "own").code == 0
    table[["id"]][:30].to_parquet("own/data/test-00000-of-00001.parquet")
    result = run(*call, "--dataset_name", "own")
    assert_user_error(result, "lacks 10", "'doc0030', 'doc0031', 'doc0032'")


def test_scores_that_are_not_those_of_the_predictions(pair, run):
    """The names of two columns of scores are exchanged: nothing else in the file says so."""
    good, bad, output = pair
    flags = [good, bad, "--output_dir", output, "--n_resamples", 200]
    edit_bytes(bad / "predictions.csv", lambda text: text.replace(b"math.DG,math.MG", b"X,Y", 1))
    edit_bytes(bad / "predictions.csv", lambda text: text.replace(b"X,Y", b"math.MG,math.DG", 1))
    assert run("compare_runs", *flags).code == 0
    result = results_of(output)
    assert list(result["calibration"]) == ["good"]
    reason = "for bad: the prediction of 24 documents is not the class with the highest probability"
    assert any(reason in note for note in result["notes"])
    # Nothing else is computed from these columns.
    reason = "the prediction of 24 documents is not the class with the highest probability in bad"
    left_out = {row["metric"]: row["reason"] for row in result["not_tested"]}
    assert (left_out["log_loss"], left_out["brier_score"]) == (reason, reason)
    bad_row = result["models"][[model["name"] for model in result["models"]].index("bad")]
    assert bad_row["log_loss"] is bad_row["brier_score"] is None
    both_wrong = bad / "predictions.csv"
    (good / "predictions.csv").write_bytes(both_wrong.read_bytes())
    assert run("compare_runs", *flags).code == 0
    assert pd.read_csv(output / "hard_documents.csv")["mean_confidence"].isna().all()
    for folder in (good, bad):
        (folder / "run_arguments.json").write_text(json.dumps({"script": "run_baseline.py"}))
    assert run("compare_runs", *flags).code == 0
    assert set(pd.read_csv(output / "slices.csv")["slice"]) == {"all"}


def test_record_of_other_classes(pair, run):
    good, bad, output = pair
    (bad / "run_arguments.json").write_text(json.dumps({"labels": [*LABELS[:4], "math.GT"]}))
    result = run("compare_runs", good, bad, "--output_dir", output)
    assert_user_error(result, bad, "'math.SG'", "only in run_arguments.json: 'math.GT'")
    (bad / "run_arguments.json").write_text(json.dumps({"labels": LABELS[::-1]}))  # by name
    assert run("compare_runs", good, bad, "--output_dir", output, "--n_resamples", 100).code == 0


def test_number_with_hundreds_of_digits(pair, run):
    good, bad, output = pair
    (bad / "run_arguments.json").write_text('{"seed": 1' + 400 * "0" + "}")
    assert_user_error(run("compare_runs", good, bad, "--output_dir", output), bad, "seed")


def test_output_folder_whose_name_is_not_utf8(pair, run, tmp_path):
    good, bad, _ = pair
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    result = run("compare_runs", good, bad, "--output_dir", folder, "--n_resamples", 100)
    assert_user_error(result, "--output_dir", "is not UTF-8")
    assert not folder.exists()


def test_second_process_does_not_write_into_the_same_folder(pair, run):
    good, bad, output = pair
    flags = [good, bad, "--output_dir", output, "--n_resamples", 100]
    assert run("compare_runs", *flags).code == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    shutil.copytree(output, output.with_name("other"))
    descriptor = os.open(output.with_name("other"), os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as another process does
    flags[3] = output.with_name("other")
    result = run("compare_runs", bad, good, *flags[2:])
    assert_user_error(result, "another process is writing into", flags[3])
    assert {path.name: path.read_bytes() for path in flags[3].iterdir()} == before
    os.close(descriptor)
    assert run("compare_runs", bad, good, *flags[2:]).code == 0


# The answers


def answers_of(folder):
    return {answer["model"]: answer for answer in results_of(folder)["answers"]}


def write_family(root, wrong, documents, **record):
    """A run on documents in five classes that is wrong on the numbers given."""
    labels = np.arange(documents) % 5
    predictions = labels.copy()
    predictions[wrong] = (labels[wrong] + 1) % 5
    return write_run(root, labels, predictions, None, **record)


@pytest.fixture
def verdicts(tmp_path):
    """An SVM on 4,000 documents, and models that are better, worse, within the margin, undecided.

    Every model errs on other documents than the SVM, which is wrong on 400.
    """
    svm = {"script": "run_baseline.py", "model_name_or_path": "svm", "seed": 1}
    folders = [write_family(tmp_path / "svm", np.arange(400), 4000, **svm)]
    for name, errors in {
        "better": np.arange(100),
        "worse": np.arange(800),
        "within": np.r_[np.arange(396), np.arange(2000, 2005)],
        "undecided": np.r_[np.arange(200), np.arange(2000, 2230)],
    }.items():
        folders.append(write_family(tmp_path / name, errors, 4000))
    return folders


def test_the_answer_comes_first(verdicts, tmp_path, run):
    """One sentence per model with difference and interval, in page and log, and its documents."""
    output = tmp_path / "out"
    done = run("compare_runs", *verdicts, "--output_dir", output, "--n_resamples", 200)
    assert done.code == 0, done.err
    svm = "TF-IDF + linear SVM"
    answers = answers_of(output)
    assert {name: answer["verdict"] for name, answer in answers.items()} == {
        "better": "better",
        "worse": "worse",
        "within": "within the margin",
        "undecided": "undecided",
    }
    sentences = [answer["sentence"] for answer in answers.values()]
    assert sentences[0].startswith(f"better is better than {svm}: accuracy +7.50 points (95% CI +")
    assert sentences[1].startswith(f"worse is worse than {svm}: accuracy -10.00 points (95% CI -")
    assert sentences[2].startswith(
        f"within is within the margin of 1 point around {svm}: accuracy -0.03 points (95% CI -"
    )
    start = f"undecided against {svm} is undecided: accuracy -0.75 points (95% CI -"
    assert sentences[3].startswith(start)
    needed = answers["undecided"]["documents_needed"]
    shown = f"about {verdict.two_digits(needed):,} test documents would decide a difference of 1"
    assert needed > 4000 and shown in sentences[3] and "and there are 4,000" in sentences[3]

    # The page: question, answers, picture, table, tests; nothing else before them
    lines = (output / "comparison.md").read_text(encoding="utf-8").splitlines()
    assert lines[2].startswith(f"Is a model better than {svm} on the same 4,000 test documents?")
    assert lines[4].startswith(f"- better is **better** than {svm}: accuracy +7.50 points")
    places = []
    for start in ("- undecided against", "![Difference of each", "| model | seeds", "## Tests"):
        places.append(next(n for n, line in enumerate(lines) if line.startswith(start)))
    assert places == sorted(places)
    assert f"{svm} is the reference because it is the SVM." in lines
    # The log: the answers before anything else that was found
    found = [line for line in done.log.splitlines() if "compare_runs" in line]
    for line, sentence in zip(found, sentences, strict=False):
        assert line.endswith(sentence)


def test_the_margin_decides_what_is_within_it(verdicts, tmp_path, run):
    output = tmp_path / "out"
    flags = ["--output_dir", output, "--n_resamples", 200]
    assert run("compare_runs", *verdicts, *flags, "--margin", 3).code == 0
    assert answers_of(output)["undecided"]["verdict"] == "within the margin"
    assert results_of(output)["margin"] == pytest.approx(0.03)
    assert run("compare_runs", *verdicts, *flags, "--margin", 0.01).code == 0
    assert answers_of(output)["within"]["verdict"] == "undecided"


def test_fail_if_worse(verdicts, tmp_path, run):
    """Status 3 if a run is worse beyond the margin, 0 if it is not shown; the folder is written."""
    svm, better, worse, within, undecided = verdicts
    flags = ["--output_dir", tmp_path / "out", "--n_resamples", 200, "--fail_if_worse", svm]
    done = run("compare_runs", better, worse, svm, *flags)
    assert done.code == 3 and "Traceback" not in done.err
    assert "worse beyond the margin of 1 point: accuracy, worse against" in done.err
    assert "better against" not in done.err
    result = results_of(tmp_path / "out")
    assert result["reference"] == "TF-IDF + linear SVM"
    assert result["arguments"]["fail_if_worse"] == "svm"  # no path of this machine
    assert run("compare_runs", svm, better, within, *flags).code == 0
    done = run("compare_runs", svm, undecided, *flags)
    assert done.code == 0 and "not shown to be worse beyond the margin of 1 point" in done.err
    # Ten points are not more than the margin.
    assert run("compare_runs", svm, worse, *flags, "--margin", 20).code == 0


def test_fail_if_worse_that_cannot_decide_is_refused(verdicts, tmp_path, run):
    svm, better, *_ = verdicts
    flags = ["--output_dir", tmp_path / "out", "--n_resamples", 200]
    result = run("compare_runs", svm, better, *flags, "--fail_if_worse", "elsewhere")
    assert_user_error(result, "--fail_if_worse elsewhere is not one of the runs")
    assert "--reference" not in result.err
    result = run("compare_runs", svm, better, *flags, "--reference", "elsewhere")
    assert_user_error(result, "--reference elsewhere is not one of the runs")
    result = run("compare_runs", svm, better, *flags, "--fail_if_worse", svm, "--reference", better)
    assert_user_error(result, "--reference", "--fail_if_worse", "two references")
    assert_user_error(run("compare_runs", svm, better, *flags, "--pairs", "some"), "--pairs")
    assert_user_error(run("compare_runs", svm, better, *flags, "--margin", 0), "--margin")
    few = [write_family(tmp_path / f"few{k}", np.arange(k), 19) for k in (1, 2)]
    result = run("compare_runs", *few, *flags, "--fail_if_worse", few[0])
    assert_user_error(result, "--fail_if_worse requires 20 test documents", "19")
    seeds = []
    for seed in (1, 2):
        record = {"model_name_or_path": "m", "seed": seed}
        seeds.append(write_family(tmp_path / f"seed{seed}", np.arange(3), 30, **record))
    result = run("compare_runs", *seeds, *flags, "--fail_if_worse", seeds[0])
    assert_user_error(result, "--fail_if_worse", "seeds of one")
    assert not (tmp_path / "out").exists()


def test_pairs_of_svms_of_several_sizes(tmp_path, run):
    """The first SVM alone is a target beside the reference; a metric has one note."""
    folders = []
    for size in (None, 250, 500, 1000, 2000):
        record = {
            "script": "run_baseline.py",
            "seed": 1,
            "arguments": {"max_train_samples": size},
        }
        folders.append(write_family(tmp_path / f"svm-{size}", np.arange(4), 30, **record))
    encoder = write_family(tmp_path / "m", np.arange(3), 30, model_name_or_path="m", seed=1)
    output = tmp_path / "out"
    flags = ["--output_dir", output, "--n_resamples", 100, "--pairs", "reference"]
    done = run("compare_runs", *folders, encoder, *flags, "--reference", "m")
    assert done.code == 0, done.err
    result = results_of(output)
    first = "TF-IDF + linear SVM (all training documents)"
    assert {row["reference"] for row in result["pairs"]} == {"m", first}
    assert len(result["pairs"]) == 5 + 4
    others = {row["model"] for row in result["pairs"] if row["reference"] == first}
    assert "TF-IDF + linear SVM (500 training documents)" in others
    notes = [note for note in result["notes"] if "log loss" in note]
    assert len(notes) == 1 and notes[0].startswith("9 of 9 tests of log loss are left out: ")
    assert notes[0].endswith("; 2 more in comparison.json.")


# Cost, learning curve, several labels


def write_weights(path, shapes):
    """The header of a safetensors file, which is all that is read of it."""
    header = {"__metadata__": {"format": "pt"}}
    for name, (dtype, shape) in shapes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def test_cost_beside_accuracy(verdicts, tmp_path, run):
    svm, better, worse, *_ = verdicts
    record = {"script": "run_baseline.py", "labels": LABELS, "seed": 1}
    (svm / "run_arguments.json").write_text(json.dumps(record))
    (svm / "train_results.json").write_text('{"train_runtime": 12.5, "train_features": 1000}')
    record = {"device": "NVIDIA H200", "processes": 2, "precision": "bf16"}
    (better / "run_arguments.json").write_text(json.dumps(record))
    (better / "all_results.json").write_text(
        '{"train_runtime": 2062.6, "predict_samples_per_second": 77.243, "train_samples": 7787}'
    )
    write_weights(
        better / "model.safetensors",
        {"a": ("F32", [30, 100]), "ids": ("I64", [5]), "b": ("BF16", [7])},
    )
    output = tmp_path / "out"
    flags = ["--output_dir", output, "--n_resamples", 200]
    done = run("compare_runs", svm, better, worse, *flags)
    assert done.code == 0, done.err
    costs = pd.read_csv(output / "cost.csv").set_index("name")
    assert costs.loc["TF-IDF + linear SVM", "parameters"] == 5000
    assert costs.loc["TF-IDF + linear SVM", "device"] == "cpu"
    assert costs.loc["better", "parameters"] == 3007
    assert costs.loc["better", "documents_per_second"] == pytest.approx(77.243)
    text = (output / "comparison.md").read_text(encoding="utf-8")
    assert "| better | 97.50 | 2,063 | 3,007 | 77.2 | 2 x NVIDIA H200, bf16 |" in text
    assert "| worse |" not in text.split("## Cost")[1].split("## Details")[0]
    assert (output / "cost.png").read_bytes().startswith(b"\x89PNG")
    # A file that is cut off, or is none
    for content in (
        b"\xff" * 20,
        (5).to_bytes(8, "little") + b"[1,2]",
        b"",
        b"\x02" + 7 * b"\0" + b"{}x",
    ):
        (better / "model.safetensors").write_bytes(content)
        result = run("compare_runs", svm, better, *flags)
        if content.endswith(b"x"):  # a header without tensors is no mistake
            assert result.code == 0
        else:
            assert_user_error(result, better / "model.safetensors", "damaged")
    (better / "model.safetensors").unlink()
    # Without the weights, what the run recorded
    (better / "run_arguments.json").write_text(json.dumps(record | {"parameters": 3007}))
    assert run("compare_runs", svm, better, *flags).code == 0
    costs = pd.read_csv(output / "cost.csv").set_index("name")
    assert costs.loc["better", "parameters"] == 3007
    (better / "all_results.json").write_text('{"train_runtime": "long"}')
    assert_user_error(run("compare_runs", svm, better, *flags), "train_runtime")


def test_learning_curves_of_runs_with_several_sizes(tmp_path, run):
    folders = []
    for size, errors in ((500, 90), (1000, 60), (None, 40)):
        for seed in (1, 2):
            record = {
                "script": "run_classification.py",
                "model_name_or_path": "org/m",
                "learning_rate": 1e-4 if size else 2e-5,
                "seed": seed,
                "arguments": {"max_train_samples": size, "text_column_names": ["abstract"]},
            }
            folder = tmp_path / f"m-{size}-{seed}"
            write_family(folder, np.arange(errors + 5 * seed), 300, **record)
            if size is None:
                (folder / "train_results.json").write_text('{"train_samples": 7787}')
            folders.append(folder)
    output = tmp_path / "out"
    done = run("compare_runs", *folders, "--output_dir", output, "--n_resamples", 200)
    assert done.code == 0, done.err
    result = results_of(output)
    # Runs with other numbers of documents are rows of their own and points of one curve.
    assert [model["seeds"] for model in result["models"]] == [2, 2, 2]
    (curve,) = result["learning_curves"].values()
    assert [row["train_samples"] for row in curve] == [500, 1000, 7787]
    accuracies = [row["accuracy"] for row in curve]
    assert accuracies == sorted(accuracies) and all(row["accuracy_low"] for row in curve)
    text = (output / "comparison.md").read_text(encoding="utf-8")
    assert "## Number of training documents" in text and "| m | 7,787 | " in text
    assert (output / "learning_curve.png").exists()
    # Seeds and documents: what each contributes is written.
    assert "standard error, seeds (points)" in text

    # Of another learning rate of the same size it is said that it is not drawn.
    arguments = {"max_train_samples": 500, "text_column_names": ["abstract"]}
    record |= {"learning_rate": 9e-5, "arguments": arguments, "seed": 1}
    other = write_family(tmp_path / "m-other", np.arange(5), 300, **record)
    # Of other texts it is no point of this curve.
    record["arguments"] = {"max_train_samples": 250, "text_column_names": ["title", "abstract"]}
    titles = write_family(tmp_path / "m-titles", np.arange(5), 300, **record)
    runs = (*folders, other, titles)
    done = run("compare_runs", *runs, "--output_dir", output, "--n_resamples", 200)
    assert "two rows have 500 documents" in done.log
    (curve,) = results_of(output)["learning_curves"].values()
    assert [row["accuracy"] for row in curve] == accuracies


def write_several(folder, predicted, documents=60):
    """A run with several labels per document, right on all but every predicted-th."""
    rows = []
    for number in range(documents):
        labels = LABELS[: number % 3]
        found = labels if number % predicted else [LABELS[3]]
        scores = [0.9 if name in found else 0.1 for name in LABELS]
        rows.append([f"d{number}", json.dumps(labels), json.dumps(found), *scores])
    folder.mkdir()
    table = pd.DataFrame(rows, columns=["id", "label", "prediction", *LABELS])
    table.to_csv(folder / "predictions.csv", index=False)
    record = {"labels": LABELS, "problem_type": "multi_label_classification", "versions": {}}
    record |= {"script": "run_classification.py", "model_name_or_path": folder.name, "seed": 1}
    (folder / "run_arguments.json").write_text(json.dumps(record | {"arguments": {}}))
    results = {"predict_accuracy": (table["label"] == table["prediction"]).mean()}
    (folder / "all_results.json").write_text(json.dumps(results))
    return folder


def test_several_labels_per_document(tmp_path, run):
    """Accuracy is that of the whole set; the report shows such runs, too."""
    folders = [write_several(tmp_path / name, step) for name, step in (("a", 3), ("b", 4))]
    output = tmp_path / "out"
    done = run("compare_runs", *folders, "--output_dir", output, "--n_resamples", 200)
    assert done.code == 0, done.err
    result = results_of(output)
    assert result["models"][0]["accuracy"] == pytest.approx(2 / 3)
    assert result["answers"][0]["sentence"].startswith("b against a is undecided: subset accuracy")
    text = (output / "comparison.md").read_text(encoding="utf-8")
    assert "| model | seeds | subset accuracy |" in text and "| math.AG | 40 |" in text
    assert "Cross-listing is left out: every category is a label of its own." in text
    report = ("--comparison_dir", output, "--output_dir", tmp_path / "report")
    done = run("make_report", "--runs", *folders, *report)
    assert done.code == 0, done.err
    shown = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "Several labels per document: a, b. There accuracy is the share" in shown
    # Losses are means over the classes: one that nothing has makes them smaller by arithmetic.
    wide = write_several(tmp_path / "wide", 4)
    table = pd.read_csv(wide / "predictions.csv")
    table["math.XX"] = 0.001
    table.to_csv(wide / "predictions.csv", index=False)
    record = json.loads((wide / "run_arguments.json").read_text())
    record["labels"] = [*record["labels"], "math.XX"]
    (wide / "run_arguments.json").write_text(json.dumps(record))
    done = run("compare_runs", wide, *folders, "--output_dir", output, "--n_resamples", 200)
    assert done.code == 0, done.err
    result = results_of(output)
    reason = "the classes of wide are not those of a, and losses are means over the classes"
    left_out = {}
    for row in result["not_tested"]:
        if row["metric"] == "log_loss":
            left_out[row["model"], row["reference"]] = row["reason"]
    assert left_out["a", "wide"] == left_out["b", "wide"] == reason
    assert "150 documents" in left_out["b", "a"]
    losses = {model["name"]: model["log_loss"] for model in result["models"]}
    assert losses["wide"] is None and losses["a"] is not None
    # One kind of runs at a time
    one = write_run(tmp_path / "one", np.arange(60) % 5, np.arange(60) % 5)
    result = run("compare_runs", folders[0], one, "--output_dir", tmp_path / "other")
    assert_user_error(result, folders[0], "several labels per document")
