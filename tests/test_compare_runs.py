"""tools/compare_runs.py: the command, exact identities, error rates by simulation, bad input."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from conftest import LABELS, assert_user_error, make_records, write_dataset
from hub_server import hub_server
from scipy import optimize, stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import cohen_kappa_score, f1_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

import compare_runs
from common.pages import escape_markdown, markdown_table
from common.statistics import add_holm, bootstrap, difference_test, percentile_interval


def write_run(
    folder, labels, predictions, scores="probabilities", ids=None, names=LABELS, **record
):
    """A run folder: labels and predictions are class numbers; scores is probabilities, decisions or None."""
    ids = [f"doc{number:04d}" for number in range(len(labels))] if ids is None else ids
    table = pd.DataFrame(
        {
            "id": ids,
            "label": [names[k] for k in labels],
            "prediction": [names[k] for k in predictions],
        }
    )
    if scores is not None:
        confidences = 0.5 + 0.45 * np.random.default_rng(len(labels)).random(len(labels))
        values = np.repeat((1 - confidences)[:, None] / (len(names) - 1), len(names), axis=1)
        values[np.arange(len(labels)), predictions] = confidences
        if scores == "decisions":
            values = values * 4 - 2
        table[list(names)] = values
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "predictions.csv", index=False, float_format="%.6f")
    if record:
        (folder / "run_arguments.json").write_text(json.dumps(record))
    return folder


def draw_predictions(generator, labels, accuracy, n_classes=5, difficulty=None):
    """Class numbers that are right with the given probability; a shared difficulty makes two models' errors alike."""
    chance = generator.random(len(labels)) if difficulty is None else difficulty
    noise = generator.normal(0, 0.15, len(labels)) if difficulty is not None else 0
    wrong = (labels + generator.integers(1, n_classes, len(labels))) % n_classes
    return np.where(chance + noise < accuracy, labels, wrong)


def results_of(folder):
    return json.loads((folder / "comparison.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Seven runs on 300 documents: an SVM, encoders with one seed and with three, two without run_arguments.json."""
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
def compared(example, tmp_path_factory):
    """The output folder of one full call, and what it printed."""
    output = tmp_path_factory.mktemp("out") / "comparison"
    runs = [str(example / name) for name in ("svm", "big", "s1", "s2", "s3", "plain", "bare")]
    script = compare_runs.__file__
    done = subprocess.run([sys.executable, script, *runs, "--output_dir", output, "--paper", "--n_resamples", "2000"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    return output, done.stdout


def truth_and_predictions(run):
    table = pd.read_csv(run / "predictions.csv")
    return table["label"].to_numpy(), table["prediction"].to_numpy()


# The command


def test_command_writes_everything_and_ends_with_a_table(compared):
    output, printed = compared
    assert sorted(path.name for path in output.iterdir()) == sorted(compare_runs.OUTPUTS)
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
    # Everything against the best, and everything else against the SVM.
    assert results_of(compared[0])["reference"] == "big_model&co"
    accuracy = pairs[pairs["metric"] == "accuracy"]
    assert sorted(zip(accuracy["model"], accuracy["reference"], strict=True)) == sorted(
        [(name, "big_model&co") for name in ("TF-IDF + linear SVM", "small", "plain", "bare")]
        + [(name, "TF-IDF + linear SVM") for name in ("small", "plain", "bare")]
    )
    row = accuracy[(accuracy["model"] == "TF-IDF + linear SVM")].iloc[0]
    truth, svm = truth_and_predictions(example / "svm")
    _, big = truth_and_predictions(example / "big")
    table = pd.crosstab(svm == truth, big == truth)
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
    output, printed = compared
    text = (output / "comparison.md").read_text(encoding="utf-8")
    pairs = results_of(output)["pairs"]
    assert len(pairs) == 14
    for row in pairs:
        sentence = compare_runs.pair_sentence(row)
        assert f"- {escape_markdown(sentence)}\n" in text and sentence in printed
        assert ("not distinguishable" in sentence) == (row["p_holm"] >= 0.05)
        assert f"{100 * abs(row['difference']):.2f} points" in sentence
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
    assert markdown.count("†") == 9 and markdown.count("**") == 4
    assert markdown_table(["a|b"], [["c"]]).startswith(r"| a\|b |")
    row = compare_runs.latex([["a~b^c\\d{}$", *["1"] * 5]], set()).splitlines()[4]
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
        f"runs: [{example}/svm, {example}/bare]\noutput_dir: {output}\nn_resamples: 100\npaper: true\n"
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


# What the numbers are


def metrics_of_resamples(labels, predictions, n_classes, n_resamples, seed):
    """Accuracy and macro F1, (1 + n_resamples, runs), as main() computes them."""
    patterns, counts = np.unique(np.vstack([labels, predictions]), axis=1, return_counts=True)
    accuracy, f1 = bootstrap(patterns[0], patterns[1:], n_classes, n_resamples, seed, counts=counts)
    return {"accuracy": accuracy, "macro_f1": np.nanmean(f1, axis=-1)}


def test_bootstrap_is_scikit_learn_on_resampled_documents():
    generator = np.random.default_rng(3)
    labels = generator.choice(4, 40, p=[0.6, 0.3, 0.08, 0.02])
    predictions = np.array([draw_predictions(generator, labels, 0.7, 4) for _ in range(3)])
    # The documented draw: multinomial counts over the distinct columns, in sorted order.
    patterns, counts = np.unique(np.vstack([labels, predictions]), axis=1, return_counts=True)
    draws = metrics_of_resamples(labels, predictions, 4, 300, 5)
    assert draws["macro_f1"][0] == pytest.approx(
        [f1_score(labels, row, average="macro") for row in predictions]
    )
    weights = np.random.default_rng(5).multinomial(40, counts / 40, size=300)
    for number in range(300):
        sample = np.repeat(patterns, weights[number], axis=1)
        for run in range(3):
            expected = f1_score(sample[0], sample[1 + run], average="macro", zero_division=0)
            assert draws["macro_f1"][1 + number, run] == pytest.approx(expected, abs=1e-12)
            accuracy = (sample[0] == sample[1 + run]).mean()
            assert draws["accuracy"][1 + number, run] == pytest.approx(accuracy, abs=1e-12)


def f1_of_counts(labels, predictions, n_classes):
    cells = np.bincount(n_classes * labels + predictions, minlength=n_classes**2).reshape(
        n_classes, n_classes
    )
    return np.mean(2 * cells.diagonal() / (cells.sum(axis=0) + cells.sum(axis=1)))


def test_bootstrap_interval_agrees_with_scipy():
    generator = np.random.default_rng(11)
    labels = generator.integers(0, 3, 400)
    difficulty = generator.random(400)
    predictions = np.array(
        [draw_predictions(generator, labels, a, 3, difficulty) for a in (0.8, 0.85)]
    )
    draws = metrics_of_resamples(labels, predictions, 3, 10_000, 0)["macro_f1"]
    test = difference_test(draws[:, 1] - draws[:, 0])
    low, high, p = test["low"], test["high"], test["p"]

    def difference(truth, first, second):
        return f1_of_counts(truth, second, 3) - f1_of_counts(truth, first, 3)

    assert f1_of_counts(labels, predictions[0], 3) == pytest.approx(
        f1_score(labels, predictions[0], average="macro")
    )
    scipys = stats.bootstrap((labels, *predictions), difference, paired=True, vectorized=False, n_resamples=5000,
                             method="percentile", rng=1)  # fmt: skip
    width = high - low
    assert low == pytest.approx(scipys.confidence_interval.low, abs=0.04 * width)
    assert high == pytest.approx(scipys.confidence_interval.high, abs=0.04 * width)
    # The p-value and the interval tell the same story.
    assert (p < 0.05) == (low > 0 or high < 0)


def test_pooled_test_without_document_noise_is_welchs_t_test():
    first, second = np.array([0.90, 0.92, 0.91]), np.array([0.88, 0.91, 0.89, 0.90])
    test = compare_runs.pooled_test([(1, np.tile(first, (51, 1))), (-1, np.tile(second, (51, 1)))])
    welch = stats.ttest_ind(first, second, equal_var=False)
    interval = welch.confidence_interval()
    expected = {
        "difference": first.mean() - second.mean(),
        "low": interval.low,
        "high": interval.high,
    }
    assert test == pytest.approx(expected | {"p": welch.pvalue})


def test_seeds_are_random_only_with_several_on_both_sides(tmp_path, run):
    generator, labels = np.random.default_rng(5), np.arange(200) % 5
    runs = {}
    for name, seed in product(("one", "two", "single"), (1, 2)):
        predictions = draw_predictions(generator, labels, 0.8)
        runs[name, seed] = write_run(
            tmp_path / f"{name}{seed}", labels, predictions, model_name_or_path=name, seed=seed
        )
    del runs["single", 2]
    call = (
        "compare_runs",
        "--output_dir",
        tmp_path / "out",
        "--n_resamples",
        200,
        "--reference",
        "one",
    )
    done = run(*call, *runs.values())
    assert done.code == 0, done.err
    rows = {(row["model"], row["metric"]): row for row in results_of(tmp_path / "out")["pairs"]}
    for metric, test in (("accuracy", "paired t-test"), ("macro_f1", "paired bootstrap")):
        assert rows["two", metric]["test"] == "Obuchowski-Rockette"
        assert rows["two", metric]["population"] == "new documents and new seeds"
        assert rows["single", metric]["test"] == test
        assert rows["single", metric]["population"] == "new documents and these trained models"
        assert (
            "for new documents and these trained models (single: one seed)"
            in compare_runs.pair_sentence(rows["single", metric])
        )
    right = {key: np.equal(*truth_and_predictions(folder)) for key, folder in runs.items()}
    difference = right["single", 1] - (right["one", 1] * 1.0 + right["one", 2]) / 2
    expected = stats.ttest_1samp(difference, 0)
    assert rows["single", "accuracy"]["p"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (rows["single", "accuracy"]["low"], rows["single", "accuracy"]["high"]) == pytest.approx(
        (low, high)
    )
    low, high = expected.confidence_interval(1 - 0.05 / 4)
    assert rows["single", "accuracy"]["high_simultaneous"] == pytest.approx(high)


@pytest.mark.parametrize(
    ("first", "second", "documents", "null"),
    [(12, 1, 44, 0.1), (31, 57, 973, -0.01), (5, 3, 40, 0.2)],
)
def test_tangos_score_by_maximum_likelihood(first, second, documents, null):
    """The variance is that of the likeliest share of disagreements, given the difference."""

    def loss(share):
        rest = 1 - 2 * share - null
        return -(
            first * np.log(share + null)
            + second * np.log(share)
            + (documents - first - second) * np.log(rest)
        )

    bounds = (max(0, -null) + 1e-12, (1 - null) / 2 - 1e-12)
    share = optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}
    ).x
    spread = np.sqrt(documents * (2 * share + null - null**2))
    score = compare_runs.tango_score(first, second, documents, null)
    assert score == pytest.approx((first - second - documents * null) / spread, rel=1e-5)
    assert compare_runs.tango_score(first, second, documents, 0) == pytest.approx(
        (first - second) / np.sqrt(first + second)
    )
    test = compare_runs.accuracy_test(first, second, documents)
    for bound, z in ((test["low"], 1.959964), (test["high"], -1.959964)):
        assert compare_runs.tango_score(first, second, documents, bound) == pytest.approx(
            z, rel=1e-5
        )


def test_interval_of_accuracies_without_disagreements():
    z = 1.959964**2
    test = compare_runs.accuracy_test(0, 0, 44)
    assert (test["low"], test["high"], test["p"]) == pytest.approx(
        (-z / (44 + z), z / (44 + z), 1), rel=1e-5
    )
    test = compare_runs.accuracy_test(30, 0, 30)
    assert (
        (test["difference"], test["high"]) == (1, 1)
        and 0.7 < test["low"] < 0.9
        and test["p"] < 1e-8
    )
    for documents in (1, 2, 7, 20):
        for first, second in product(range(documents + 1), repeat=2):
            if first + second <= documents:
                test, other = (
                    compare_runs.accuracy_test(*pair, documents, 0.1)
                    for pair in ((first, second), (second, first))
                )
                assert (
                    -1 <= test["low"] <= test["difference"] <= test["high"] <= 1
                    and 0 <= test["p"] <= 1
                )
                assert test["low"] == pytest.approx(-other["high"], abs=1e-6)


def test_ece_known_case_and_scikit_learn():
    confidences = np.array([0.95, 0.95, 0.95, 0.95, 0.65, 0.65])
    result = compare_runs.calibration(confidences, np.array([1, 1, 1, 0, 1, 0], dtype=bool), 0)
    assert result["ece"] == pytest.approx(4 / 6 * 0.2 + 2 / 6 * 0.15)
    generator = np.random.default_rng(0)
    confidences, correct = generator.random(500), generator.random(500) < 0.6
    share, stated = calibration_curve(correct, confidences, n_bins=compare_runs.CALIBRATION_BINS)
    bins = compare_runs.calibration(confidences, correct, 0)["bins"]
    assert [part["accuracy"] for part in bins] == pytest.approx(share)
    assert [part["confidence"] for part in bins] == pytest.approx(stated)


def test_detectable_difference_has_the_stated_power():
    difference = compare_runs.detectable_difference(4735, 0.08)
    generator = np.random.default_rng(0)
    shares = [(0.08 + difference) / 2, (0.08 - difference) / 2, 0.92]
    found = [
        compare_runs.mcnemar_test(int(a), int(b)) < 0.05
        for a, b, _ in generator.multinomial(4735, shares, 2000)
    ]
    assert 0.77 < np.mean(found) < 0.83
    assert compare_runs.detectable_difference(30, 0.1) is None


def test_study_bounds():
    pairs = compare_runs.study_pairs(0.08)
    assert len(pairs) == 28
    for row in pairs:
        assert row["p_least"] <= row["p_assumed"] <= row["p_most"]
    # bge 91.59 % is 4,337 right, the SVM 90.54 % is 4,287: 50 more; at most 398 + 448 documents separate them.
    row = next(
        row
        for row in pairs
        if row["model"].startswith("bge") and row["reference"].startswith("TF-IDF")
    )
    assert row["p_least"] == pytest.approx(stats.binomtest(50, 50).pvalue)
    assert row["p_most"] == pytest.approx(stats.binomtest(448, 846).pvalue)
    sentences = " ".join(compare_runs.study_sentences(pairs, 0.08, None))
    assert "28 pairs, 0 differences would be significant" in sentences
    assert "only a difference of 1.15 points or more" in sentences


# Error rates, by simulation


def rate(flags):
    return sum(flags) / len(flags)


def test_false_positives_of_single_runs():
    """1,000 pairs of models that are equally good: McNemar and bootstrap reject 3 to 7 % at the level of 5 %."""
    generator = np.random.default_rng(0)
    exact, resampled = [], []
    for _ in range(1000):
        labels = generator.choice(5, 1000, p=[0.4, 0.14, 0.32, 0.08, 0.06])
        difficulty = generator.random(1000)
        predictions = np.array(
            [draw_predictions(generator, labels, 0.85, 5, difficulty) for _ in range(2)]
        )
        first, second = predictions == labels
        exact.append(
            compare_runs.mcnemar_test(int((first & ~second).sum()), int((second & ~first).sum()))
            < 0.05
        )
        draws = metrics_of_resamples(labels, predictions, 5, 500, int(generator.integers(2**31)))[
            "macro_f1"
        ]
        resampled.append(difference_test(draws[:, 0] - draws[:, 1])["p"] < 0.05)
    assert 0.03 <= rate(exact) <= 0.07, rate(exact)
    assert 0.03 <= rate(resampled) <= 0.07, rate(resampled)


@pytest.mark.parametrize("seed_spread", [0.0, 0.03], ids=["equal seeds", "unequal seeds"])
def test_false_positives_of_pooled_seeds(seed_spread):
    """1,000 pairs of equally good ways to train, three seeds each, whether seeds differ in quality or not."""
    generator = np.random.default_rng(1)
    found = {"accuracy": [], "macro_f1": []}
    for _ in range(1000):
        labels = generator.integers(0, 2, 600)
        chances = 0.5 + 0.48 * generator.beta(4, 1.5, 600)
        predictions = np.empty((6, 600), dtype=int)
        for model in range(2):
            own = chances + generator.normal(0, 0.08, 600)
            for seed in range(3):
                right = generator.random(600) < own + generator.normal(0, seed_spread)
                predictions[3 * model + seed] = np.where(right, labels, 1 - labels)
        draws = metrics_of_resamples(labels, predictions, 2, 200, int(generator.integers(2**31)))
        for metric, flags in found.items():
            groups = [(1, draws[metric][:, :3]), (-1, draws[metric][:, 3:])]
            test = compare_runs.pooled_test(groups)
            flags.append(test["p"] < 0.05)
            # The interval holds the differences that the test does not reject, so it covers 0 as often.
            assert flags[-1] != (test["low"] <= 0 <= test["high"])
    assert compare_runs.pooled_test(groups, null=test["low"])["p"] == pytest.approx(0.05)
    for metric, flags in found.items():
        assert 0.03 <= rate(flags) <= 0.07, (metric, rate(flags))


def test_interval_of_macro_f1_covers_the_truth():
    """The 95 % interval of one run's macro F1 holds the population's value in 93 to 97 % of 1,000 test sets."""
    generator = np.random.default_rng(2)
    shares = np.array([0.4, 0.14, 0.32, 0.08, 0.06])
    confusion = np.full((5, 5), 0.15 / 4) + np.eye(5) * (0.85 - 0.15 / 4)
    joint = shares[:, None] * confusion
    true_f1 = np.mean(2 * joint.diagonal() / (joint.sum(axis=0) + joint.sum(axis=1)))
    covered = []
    for _ in range(1000):
        cells = generator.choice(25, 1000, p=joint.ravel())
        labels, predictions = cells // 5, cells % 5
        draws = metrics_of_resamples(
            labels, predictions[None], 5, 1000, int(generator.integers(2**31))
        )["macro_f1"]
        low, high = percentile_interval(draws[1:, 0])
        covered.append(low <= true_f1 <= high)
    assert 0.93 <= rate(covered) <= 0.97, rate(covered)


def at_the_margin(test, truth):
    """Whether the interval covers the truth, and whether the test claims equivalence within a margin of the truth."""
    found = test()
    return found["low"] <= truth <= found["high"], compare_runs.margin_tests(test, found, truth)[
        "p_equivalent"
    ] < 0.05


def check_rates(outcomes):
    coverage, errors = np.mean(outcomes, axis=0)
    assert 0.92 <= coverage <= 0.97, coverage
    assert 0.03 <= errors <= 0.07, errors


def test_interval_of_a_difference_covers_the_truth():
    """The same for the difference of two runs' macro F1 where there is one."""
    generator = np.random.default_rng(4)
    # Two classes, errors shared in part: chances of (both right, only first, only second, neither) in either class.
    chances = np.array([[0.80, 0.08, 0.05, 0.07], [0.70, 0.12, 0.08, 0.10]])
    shares = np.array([0.6, 0.4])

    def population(right):
        first_class, second_class = shares * right
        table = np.array(
            [[first_class, shares[0] - first_class], [shares[1] - second_class, second_class]]
        )
        return np.mean(2 * table.diagonal() / (table.sum(axis=0) + table.sum(axis=1)))

    truth = population(chances[:, 0] + chances[:, 1]) - population(chances[:, 0] + chances[:, 2])
    outcomes = []
    for _ in range(1000):
        cells = generator.choice(8, 500, p=(shares[:, None] * chances).ravel())
        labels, outcome = cells // 4, cells % 4
        first = np.where(np.isin(outcome, (0, 1)), labels, 1 - labels)
        second = np.where(np.isin(outcome, (0, 2)), labels, 1 - labels)
        draws = metrics_of_resamples(
            labels, np.array([first, second]), 2, 1000, int(generator.integers(2**31))
        )
        outcomes.append(
            at_the_margin(
                partial(compare_runs.bootstrap_test, np.subtract(*draws["macro_f1"].T)), truth
            )
        )
    check_rates(outcomes)


@pytest.mark.parametrize(("documents", "shares"), [(60, (0.3, 0.05)), (1000, (0.07, 0.03))])
def test_errors_of_the_test_of_two_accuracies(documents, shares):
    """2,000 test sets where models differ by the margin: equivalence and non-inferiority are claimed in 3 to 7 %."""
    truth = shares[0] - shares[1]
    samples = (
        np.random.default_rng(6)
        .multinomial(documents, [*shares, 1 - sum(shares)], 2000)[:, :2]
        .tolist()
    )
    results = {}
    for first, second in {tuple(sample) for sample in samples}:
        swapped = partial(compare_runs.accuracy_test, second, first, documents)
        results[first, second] = (
            *at_the_margin(partial(compare_runs.accuracy_test, first, second, documents), truth),
            compare_runs.margin_tests(swapped, swapped(), truth)["p_non_inferior"] < 0.05,
        )
    check_rates([results[tuple(sample)][:2] for sample in samples])
    assert 0.03 <= rate([results[tuple(sample)][2] for sample in samples]) <= 0.07


def test_errors_where_one_model_has_one_seed():
    """Three trained models against one, 1,000 test sets: t-test of accuracy and bootstrap of macro F1."""
    generator, outcomes = np.random.default_rng(8), {"accuracy": [], "macro_f1": []}
    for _ in range(1000):
        labels = generator.integers(0, 2, 300)
        chances = 0.5 + 0.48 * generator.beta(
            4, 1.5, 300
        )  # mean accuracy and macro F1 of each of the three: 0.849
        right = generator.random((4, 300)) < np.vstack([chances, chances, chances, chances - 0.08])
        predictions = np.where(right, labels, 1 - labels)
        draws = metrics_of_resamples(labels, predictions, 2, 200, int(generator.integers(2**31)))
        models = {"runs": [0, 1, 2]}, {"runs": [3]}
        for metric, found in outcomes.items():
            chosen = compare_runs.choose_test(*models, metric, draws, right)
            assert (
                chosen["test"]
                == {"accuracy": "paired t-test", "macro_f1": "paired bootstrap"}[metric]
            )
            found.append(at_the_margin(chosen["function"], 0.08))
    for found in outcomes.values():
        check_rates(found)


def test_family_of_tests_is_wrong_in_five_per_cent():
    """Four models as good as the reference: any of them is called different, or any simultaneous interval fails."""
    generator, rejected, covered, cache = np.random.default_rng(9), [], [], {}
    for _ in range(1500):
        difficulty = generator.random(300) + generator.normal(0, 0.15, (5, 300))
        right = difficulty < 0.85
        tests = []
        for other in right[1:]:
            counts = int((right[0] & ~other).sum()), int((other & ~right[0]).sum())
            if counts not in cache:
                cache[counts] = compare_runs.accuracy_test(*counts, 300, alpha=0.05 / 4)
            tests.append(dict(cache[counts]))
        add_holm(tests)
        rejected.append(any(test["p_holm"] < 0.05 for test in tests))
        covered.append(all(test["low"] <= 0 <= test["high"] for test in tests))
    assert rate(rejected) <= 0.06 and rate(covered) >= 0.94, (rate(rejected), rate(covered))


def test_band_of_calibrated_models(monkeypatch):
    """The error of a calibrated model lies in the band for 92 to 97 % of 1,000 test sets, that of others above it."""
    monkeypatch.setattr(compare_runs, "CALIBRATION_DRAWS", 200)
    generator, within, above = np.random.default_rng(10), [], []
    for number in range(1000):
        confidences = 0.4 + 0.6 * generator.beta(3, 1, 250)
        for shift, found in ((0, within), (0.15, above)):
            result = compare_runs.calibration(
                confidences, generator.random(250) < confidences - shift, number
            )
            found.append(result["calibrated_low"] <= result["ece"] <= result["calibrated_high"])
    assert 0.92 <= rate(within) <= 0.97, rate(within)
    assert rate(above) < 0.2


def test_eight_runs_of_the_studys_size_take_seconds():
    generator = np.random.default_rng(0)
    labels = generator.choice(5, 4735, p=[0.41, 0.13, 0.33, 0.08, 0.05])
    # Independent errors: the most distinct patterns, hence the most work.
    predictions = np.array([draw_predictions(generator, labels, 0.7) for _ in range(8)])
    start = time.process_time()
    draws = metrics_of_resamples(labels, predictions, 5, 10_000, 42)
    assert time.process_time() - start < 20
    assert draws["macro_f1"].shape == (10_001, 8)
    tracemalloc.start()
    metrics_of_resamples(labels, predictions, 5, 1000, 42)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


# Which runs belong together


def names_and_sizes(*runs):
    runs = compare_runs.read_runs([str(folder) for folder in runs])
    return [(model["name"], len(model["runs"])) for model in compare_runs.pool_runs(runs)]


def test_pooling(tmp_path):
    labels = np.zeros(3, dtype=int)

    def make(name, **record):
        return write_run(tmp_path / name, labels, labels, **record)

    a, b = (
        make(f"a{seed}", model_name_or_path="org/m", seed=seed, learning_rate=1e-5)
        for seed in (1, 2)
    )
    other = make("other", model_name_or_path="org/m", seed=1, learning_rate=3e-5)
    again = make("again", model_name_or_path="org/m/", seed=2, learning_rate=1e-5)
    bare = make("bare")
    packed = make("packed", model_name_or_path="/lib/minilm/model", seed=1)
    shallow = make(
        "shallow", model_name_or_path=None, config_name="configs/shallow/0_layers.json", seed=1
    )
    assert names_and_sizes(a, b) == [("m", 2)]
    assert names_and_sizes(a, b, other) == [
        ("m (learning rate 1e-05)", 2),
        ("m (learning rate 3e-05)", 1),
    ]
    assert names_and_sizes(b, again) == [("m (a2)", 1), ("m (again)", 1)]
    assert names_and_sizes(bare, packed, shallow) == [("bare", 1), ("minilm", 1), ("0_layers", 1)]
    parts = [
        make(
            f"v{number}", model_name_or_path="m", seed=seed, learning_rate=1e-5, arguments=arguments
        )
        for number, (seed, arguments) in enumerate(
            [
                (1, {"dataset_name": "data/x"}),
                (2, {"dataset_name": "/elsewhere/x"}),
                (1, {"dataset_name": "data/shuffled"}),
                (1, {"dataset_name": "data/x", "max_train_samples": 500}),
            ]
        )
    ]
    assert names_and_sizes(*parts) == [
        ("m (dataset x, all training documents)", 2),
        ("m (dataset shuffled, all training documents)", 1),
        ("m (dataset x, 500 training documents)", 1),
    ]
    baseline = make("folder")
    (baseline / "model.skops").touch()
    assert names_and_sizes(baseline) == [("TF-IDF + linear SVM", 1)]


def test_confusable_documents_are_those_with_the_svms_closest_scores(tmp_path, run):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 80)
    runs = [write_run(tmp_path / f"m{seed}", labels, draw_predictions(generator, labels, 0.7), seed=seed,
                      model_name_or_path="m", learning_rate=1e-5) for seed in (1, 2)]  # fmt: skip
    svm = write_run(tmp_path / "svm", labels, draw_predictions(generator, labels, 0.8), "decisions",
                    script="run_baseline.py", seed=1)  # fmt: skip
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


# Odd input that is fine


def test_equal_predictions_have_p_one(tmp_path, run):
    labels = np.random.default_rng(0).integers(0, 5, 160)
    predictions = (labels + (np.arange(160) % 7 == 0)) % 5
    for name, record in (("a", {}), ("b", {}), ("s1", {"seed": 1}), ("s2", {"seed": 2})):
        write_run(
            tmp_path / name,
            labels,
            predictions,
            **(record and record | {"model_name_or_path": "m"}),
        )
    runs = [tmp_path / name for name in ("a", "b", "s1", "s2")]
    done = run("compare_runs", *runs, "--output_dir", tmp_path / "out", "--margin", 5)
    assert done.code == 0, done.err
    pairs = results_of(tmp_path / "out")["pairs"]
    assert len(pairs) == 4 and {row["p"] for row in pairs} == {row["p_holm"] for row in pairs} == {
        1.0
    }
    assert {row["test"] for row in pairs} == {"exact McNemar", "paired t-test", "paired bootstrap"}
    # Without a disagreement the bootstrap and the t-test cannot say how large a difference might be.
    assert {row["metric"] + row["test"] for row in pairs if row["equivalent"]} == {
        "accuracyexact McNemar"
    }
    assert "accuracy cannot tell them apart" in done.log
    assert len(pd.read_csv(tmp_path / "out/hard_documents.csv")) == (predictions != labels).sum()


def test_thirty_documents(tmp_path, run):
    generator, labels = np.random.default_rng(0), np.arange(30) % 5
    runs = [
        write_run(tmp_path / str(k), labels, draw_predictions(generator, labels, 0.8))
        for k in (1, 2)
    ]
    done = run("compare_runs", *runs, "--output_dir", tmp_path / "out")
    assert done.code == 0, done.err
    # The bootstrap of macro F1 is not reliable on so few documents.
    (row,) = results_of(tmp_path / "out")["pairs"]
    assert row["metric"] == "accuracy" and "1 of 2 tests are left out, all of macro F1" in done.log
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
    assert result["models"][0]["accuracy_low"] == result["models"][0]["accuracy_high"] == 1
    assert "no run has probabilities" in (tmp_path / "out/comparison.md").read_text(
        encoding="utf-8"
    )


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


def test_paper_and_disagreement_rate(pair, run):
    good, bad, output = pair
    call = ("compare_runs", "--output_dir", output, "--n_resamples", 100)
    assert run(*call, "--disagreement_rate", 0.06, "--paper", good, bad).code == 0
    study = json.loads((output / "study.json").read_text(encoding="utf-8"))
    assert study["disagreement_rate"] == 0.06 and study["detectable_difference"] < 0.0115
    assert "With 6.0 % assumed" in (output / "comparison.md").read_text(encoding="utf-8")
    assert run(*call, good, bad, "--paper", "false").code == 0
    assert (
        "†" not in (output / "table2.md").read_text(encoding="utf-8")
        and not (output / "study.json").exists()
    )
    assert_user_error(run(*call, good, bad, "--papr"), "--papr", "--paper")
    assert_user_error(
        run(*call, good, bad, "--paper", "--disagreement_rate", 0), "--disagreement_rate"
    )
    assert_user_error(
        run(*call, good, bad, "--disagreement_rate", 0.06), "--disagreement_rate", "--paper"
    )
    assert_user_error(
        run(*call, good, bad, "--dataset_revision", "main"),
        "--dataset_revision needs --dataset_name",
    )


# Bad input


def edit(path, change):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table).to_csv(path, index=False)


def edit_bytes(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.fixture
def pair(tmp_path):
    labels = np.arange(40) % 5
    write_run(tmp_path / "good", labels, labels)
    write_run(tmp_path / "bad", labels, (labels + (labels == 1)) % 5)
    return tmp_path / "good", tmp_path / "bad", tmp_path / "out"


BROKEN = {
    "other documents": (
        lambda t: t.assign(id=["x", *t["id"][1:]]),
        ["different test sets", "1 documents only"],
    ),
    "fewer documents": (
        lambda t: t[1:],
        ["different test sets", "1 documents only in the first, 0 only"],
    ),
    "other labels": (
        lambda t: t.assign(label=t["label"][::-1].to_numpy()),
        ["different labels", "doc00"],
    ),
    "double id": (lambda t: t.assign(id=["doc0001", *t["id"][1:]]), ["doc0001", "more than once"]),
    "empty id": (lambda t: t.assign(id=["", *t["id"][1:]]), ["no id in row 2"]),
    "no column of ids": (lambda t: t.drop(columns="id"), ["no column 'id'"]),
    "no prediction": (
        lambda t: t.assign(prediction=[*t["prediction"][:-1], " "]),
        ["no prediction in row 41"],
    ),
    "no documents": (lambda t: t[:0], ["has no documents"]),
    "score is not a number": (
        lambda t: t.assign(**{"math.AG": ["?", *t["math.AG"][1:]]}),
        ["not a number", "doc0000"],
    ),
    "score column missing": (
        lambda t: t.drop(columns="math.DG"),
        ["no column of scores for class 'math.DG'"],
    ),
    "score is NaN": (
        lambda t: t.assign(**{"math.AG": ["nan", *t["math.AG"][1:]]}),
        ["not a number", "'doc0000'"],
    ),
    "a column of text": (lambda t: t.assign(title="A title"), ["not a number", "column 'title'"]),
    "probability below 0": (
        lambda t: t.assign(**{"math.AG": ["-0.1", *t["math.AG"][1:]]}),
        ["do not sum to 1"],
    ),
    "class of two lines": (lambda t: t.assign(label="a\nb"), ["class 'a\\nb'"]),
}
DAMAGED = {
    "cut in a row": (lambda content: content[:-40], ["'doc0039'"]),
    "cut in the last score": (lambda content: content[:-5], ["'doc0039'", "do not sum to 1"]),
    "cut in the header": (lambda content: content[:20], ["has no documents"]),
    "empty": (lambda content: b"", ["No columns"]),
    "zeros at the end": (lambda content: content[:-300] + bytes(300), ["not a number"]),
    "another encoding": (lambda content: content.decode().encode("utf-16"), ["utf-8"]),
    "semicolons": (lambda content: content.replace(b",", b";"), ["no column 'id'"]),
    "decimal commas": (
        lambda content: content.replace(b",0.", b",0,"),
        ["more values than its header"],
    ),
    "an open quote": (
        lambda content: content.replace(b"doc0003", b'"doc0003'),
        ["EOF inside string"],
    ),
}
HARMLESS = {
    "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "lines of Windows": lambda content: content.replace(b"\n", b"\r\n"),
    "blank lines": lambda content: content.replace(b"\n", b"\n\n"),
    "no last line feed": lambda content: content[:-1],
}
RECORDS = {
    "predict_results.json": [
        '{"predict_accuracy": "0.8"}',
        '{"predict_accuracy": NaN}',
        '{"predict_samples": 41}',
        "null",
        "[" * 100_000,
    ],
    "run_arguments.json": [
        '{"learning_rate": "2e-5"}',
        '{"seed": [1]}',
        '{"seed": true}',
        '{"seed": 1e999}',
        '{"see',
    ],
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_predictions(case, pair, run):
    good, bad, output = pair
    change, words = BROKEN[case]
    edit(bad / "predictions.csv", change)
    result = run("compare_runs", good, bad, "--output_dir", output)
    assert_user_error(result, bad, *words)
    assert len(result.err.splitlines()) == 1 and not output.exists()


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_predictions(case, pair, run):
    good, bad, output = pair
    change, words = DAMAGED[case]
    edit_bytes(bad / "predictions.csv", change)
    result = run("compare_runs", good, bad, "--output_dir", output)
    assert_user_error(result, bad, *words)
    assert len(result.err.splitlines()) == 1 and not output.exists()


def test_layout_of_predictions_does_not_matter(pair, run):
    good, bad, output = pair
    call = ("compare_runs", good, bad, "--output_dir", output, "--n_resamples", 100)
    assert run(*call).code == 0
    expected, content = results_of(output), (bad / "predictions.csv").read_bytes()
    for name, change in HARMLESS.items():
        edit_bytes(bad / "predictions.csv", lambda _, change=change: change(content))
        assert run(*call).code == 0 and results_of(output) == expected, name
    (bad / "predictions.csv").write_bytes(content)
    edit(
        bad / "predictions.csv",
        lambda table: table[
            ["math.SG", "prediction", "math.AG", "id", "math.DG", "label", "math.CV", "math.MG"]
        ],
    )
    assert run(*call).code == 0 and results_of(output) == expected


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name in RECORDS for content in RECORDS[name]]
)
def test_bad_records(name, content, pair, run):
    good, bad, output = pair
    (bad / name).write_text(content)
    result = run("compare_runs", good, bad, "--output_dir", output)
    assert_user_error(result, bad)
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    "case", ["plain", "one class, no other column", "names with markup", "names of columns"]
)
def test_odd_classes(case, tmp_path, run):
    names = {
        "one class, no other column": ["only"],
        "names with markup": [
            "<script>alert(1)</script>",
            "=1+1",
            "$x_1$ 5%",
            "a|b\\",
            "c\nd, été 数学",
        ],
        "names of columns": ["id", "label", "prediction", "class", "documents"],
    }.get(case, LABELS)
    labels = np.arange(30) % len(names)
    for name, wrong in (("a", 0), ("b", 1)):
        lines = [["id", "label", "prediction", *names]]
        for number, label in enumerate(labels):
            prediction = (label + wrong * (number == 3)) % len(names)
            lines.append(
                [
                    f"d{number}",
                    names[label],
                    names[prediction],
                    *(float(k == prediction) for k in range(len(names))),
                ]
            )
        (tmp_path / name).mkdir()
        pd.DataFrame(lines).to_csv(tmp_path / name / "predictions.csv", index=False, header=False)
    output = tmp_path / "out"
    done = run(
        "compare_runs", tmp_path / "a", tmp_path / "b", "--output_dir", output, "--n_resamples", 100
    )
    assert done.code == 0, done.err
    assert results_of(output)["classes"] == sorted(names)
    assert pd.read_csv(output / "per_class_f1.csv", keep_default_na=False)[
        "class"
    ].tolist() == sorted(names)
    text = (output / "comparison.md").read_text(encoding="utf-8")
    assert "<script" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in tables} <= {4, 5, 6, 7}
    assert len(tables) == len(names) + 13


def test_odd_run_names(tmp_path, run):
    """A name may be the name of a column, markup, or that of another run; pictures of long names are drawn, too."""
    labels = np.arange(30) % 5
    names = ["documents", "class", "x/run", "y/run", "a $b_{1}^ & | <b>", "n" * 200]
    runs = [
        write_run(tmp_path / "my runs" / name, labels, (labels + (np.arange(30) == 3)) % 5)
        for name in names
    ]
    output = tmp_path / "an output"
    done = run("compare_runs", *runs, "--output_dir", output, "--n_resamples", 100)
    assert done.code == 0, done.err
    shown = ["documents (documents)", "class (class)", "run (x/run)", "run (y/run)", *names[4:]]
    assert [model["name"] for model in results_of(output)["models"]] == shown
    per_class = pd.read_csv(output / "per_class_f1.csv")
    assert (
        per_class.columns.tolist() == ["class", "documents", *shown]
        and per_class["documents"].tolist() == [6] * 5
    )
    assert r"a \$b\_\{1\}\textasciicircum \space \& | <b> & 1 &" in (
        output / "table2.tex"
    ).read_text(encoding="utf-8")
    assert r"| a \$b\_{1}^ &amp; \| &lt;b&gt; | 1 |" in (output / "table2.md").read_text(
        encoding="utf-8"
    )
    for path in output.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert shlex.split(done.out.splitlines()[-1])[-len(runs) :] == [str(folder) for folder in runs]


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
        run("compare_runs", good, bad, *to, "--reference", "elsewhere"), "elsewhere", good
    )
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
    assert_user_error(run("compare_runs", good, bad, "--output_dir", output), "calibration.png")
    assert (output / "calibration.png").read_text() == "mine"
    assert_user_error(
        run("compare_runs", good, bad, "--output_dir", output / "calibration.png"), "cannot write"
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
    """Whichever file was being written: the same command again makes the same folder as an undisturbed one."""
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
        "print(api.upload_folder(repo_id=sys.argv[1], repo_type='dataset', folder_path=sys.argv[2]).oid)"
    )
    with hub_server() as hub:
        options = {"capture_output": True, "text": True, "env": hub.environment(tmp_path / "home")}
        name = "tester/abstracts"
        commit = subprocess.run(
            [sys.executable, "-c", upload, name, tmp_path / "data"], **options
        ).stdout.strip()
        command = [
            sys.executable,
            compare_runs.__file__,
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


def test_margin(tmp_path, run):
    """Two runs that differ by half a point on 1,000 documents, and a third that is six points worse."""
    labels = np.arange(1000) % 5
    wrong = {"good": range(100), "close": range(95, 200), "bad": range(50, 210)}
    runs = {}
    for name, numbers in wrong.items():
        predictions = labels.copy()
        predictions[list(numbers)] = (labels[list(numbers)] + 1) % 5
        runs[name] = write_run(tmp_path / name, labels, predictions)
    output = tmp_path / "out"
    call = (
        "compare_runs",
        *runs.values(),
        "--output_dir",
        output,
        "--n_resamples",
        500,
        "--reference",
        "good",
        "--margin",
    )
    assert run(*call, 4).code == 0
    rows = {(row["model"], row["metric"]): row for row in results_of(output)["pairs"]}
    assert results_of(output)["arguments"]["margin"] == 4 and len(rows) == 4
    for metric in ("accuracy", "macro_f1"):
        close, bad = rows["close", metric], rows["bad", metric]
        assert (
            close["equivalent"]
            and close["non_inferior"]
            and not bad["equivalent"]
            and not bad["non_inferior"]
        )
        assert close["p_non_inferior"] <= close["p_equivalent"] <= close["p_equivalent_holm"] < 0.05
    pairs = pd.read_csv(output / "pairs.csv")
    for kind in ("p_non_inferior", "p_equivalent"):
        assert pairs[f"{kind}_holm"].to_numpy() == pytest.approx(
            multipletests(pairs[kind], method="holm")[1], rel=1e-6
        )
    text = (output / "comparison.md").read_text(encoding="utf-8")
    assert (
        text.count("Within 4 points: equivalent (") == 2
        and text.count("Within 4 points: not shown to be") == 2
    )
    assert "With the margin of 4 points" in text
    # The smaller the margin, the more documents it needs.
    assert run(*call, 1).code == 0
    assert not any(row["equivalent"] for row in results_of(output)["pairs"])
    for margin in (0, -1, 100, "nan"):
        assert_user_error(run(*call, margin), "--margin", "points")
