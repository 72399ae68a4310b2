"""TF-IDF + linear SVM: what it writes, that it is right, and what it says to mistakes."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import skops.io
from conftest import LABELS, assert_user_error, make_records, write_dataset, write_own_files
from datasets import load_dataset
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

FAST = ("--C", 1, 10, "--disable_tqdm")


@pytest.fixture(scope="module")
def finished(tiny_dataset, tmp_path_factory):
    """A finished run: its folder."""
    import sys

    import run_baseline

    folder = tmp_path_factory.mktemp("svm") / "run"
    argv = sys.argv
    sys.argv = [
        "run_baseline.py",
        "--dataset_name",
        str(tiny_dataset),
        "--output_dir",
        str(folder),
        *map(str, FAST),
    ]
    try:
        run_baseline.main()
    finally:
        sys.argv = argv
    return folder


def test_run_folder_is_complete(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "model.skops", "train_results.json", "eval_results.json", "predict_results.json",
        "all_results.json", "trainer_state.json", "predictions.csv", "top_words.csv",
        "top_words.png", "confusion_matrix.png", "run_arguments.json", "README.md",
    }  # fmt: skip


def test_predictions_follow_the_dataset_and_agree_with_metrics(finished, tiny_dataset):
    table = pd.read_csv(finished / "predictions.csv")
    test = load_dataset(str(tiny_dataset))["test"]
    assert list(table.columns) == ["id", "label", "prediction", *LABELS]
    assert list(table["id"]) == list(test["id"])
    assert list(table["label"]) == [LABELS[label] for label in test["label"]]
    assert list(table[LABELS].idxmax(axis=1)) == list(table["prediction"])
    results = json.loads((finished / "predict_results.json").read_text())
    assert results["predict_accuracy"] == pytest.approx(
        accuracy_score(table["label"], table["prediction"])
    )
    f1 = f1_score(table["label"], table["prediction"], average="macro")
    assert results["predict_f1"] == pytest.approx(f1)
    assert results["predict_samples"] == len(test)
    assert results["predict_mcc"] == pytest.approx(
        matthews_corrcoef(table["label"], table["prediction"])
    )
    union = json.loads((finished / "all_results.json").read_text())
    assert results.items() <= union.items()


def test_saved_model_is_safe_and_predicts_the_same(finished, tiny_dataset):
    assert skops.io.get_untrusted_types(file=finished / "model.skops") == []
    model = skops.io.load(finished / "model.skops")
    test = load_dataset(str(tiny_dataset))["test"]
    table = pd.read_csv(finished / "predictions.csv")
    np.testing.assert_allclose(model.decision_function(test["abstract"]), table[LABELS], atol=1e-6)


def test_setting_is_the_best_on_validation_and_only_training_words_are_known(
    finished, tiny_dataset
):
    state = json.loads((finished / "trainer_state.json").read_text())
    assert len(state["log_history"]) == 2 * 2 * 2
    assert state["best_metric"] == max(row["eval_f1"] for row in state["log_history"])
    from sklearn.feature_extraction.text import CountVectorizer

    model = skops.io.load(finished / "model.skops")
    train = load_dataset(str(tiny_dataset))["train"]
    known = (
        CountVectorizer(ngram_range=model["counts"].ngram_range).fit(train["abstract"]).vocabulary_
    )
    assert model["counts"].vocabulary_ == known


def test_strongest_words_are_the_ones_that_tell_the_classes_apart(finished):
    words = pd.read_csv(finished / "top_words.csv")
    assert list(words.groupby("class").size()) == [20] * 5
    first = words[words["rank"] == 1].set_index("class")["word"].to_dict()
    own = {"math.AG": "scheme", "math.CV": "plurisubharmonic", "math.DG": "ricci"}
    assert own.items() <= {label: word.split()[0] for label, word in first.items()}.items()


def results_without_times(folder):
    """The results of the test split that do not depend on how busy the machine was."""
    results = json.loads((folder / "predict_results.json").read_text())
    seconds, speed = results.pop("predict_runtime"), results.pop("predict_samples_per_second")
    assert seconds > 0 and speed > 0
    return results


def test_same_command_gives_the_same_bytes(run, finished, tiny_dataset, tmp_path):
    result = run(
        "run_baseline", "--dataset_name", tiny_dataset, "--output_dir", tmp_path / "again", *FAST
    )
    assert result.code == 0, result.err
    for name in (
        "predictions.csv",
        "top_words.csv",
        "confusion_matrix.png",
        "top_words.png",
    ):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes(), name
    assert results_without_times(tmp_path / "again") == results_without_times(finished)


def test_card_has_the_metrics_that_the_hub_reads(finished):
    from huggingface_hub import ModelCard

    card = ModelCard.load(finished / "README.md")
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    results = json.loads((finished / "predict_results.json").read_text())
    assert metrics["accuracy"] == pytest.approx(results["predict_accuracy"], abs=1e-4)
    assert metrics["f1"] == pytest.approx(results["predict_f1"], abs=1e-4)


def test_card_tells_classes_use_data_and_time(finished):
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard import metadata_load

    data = ModelCard.load(finished / "README.md").data
    assert data.to_dict() == metadata_load(finished / "README.md")
    card = (finished / "README.md").read_text()
    table = pd.read_csv(finished / "predictions.csv")
    f1 = f1_score(table["label"], table["prediction"], average=None, labels=LABELS)
    for name, value in zip(LABELS, f1, strict=True):
        assert f"| {name} | 16 | 2 | 2 | {100 * value:.2f} % |" in card
    record = json.loads((finished / "run_arguments.json").read_text())
    assert record["class_counts"]["train"] == dict.fromkeys(LABELS, 16)
    assert record["data_fingerprints"]["train"] in card
    assert "Intended for sorting and finding texts like the training data" in card
    assert "Hardware: a CPU; training took" in card


def test_two_classes(run, tmp_path):
    labels = LABELS[:2]
    write_dataset(tmp_path / "data", make_records(labels=labels), labels=labels)
    result = run(
        "run_baseline", "--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "run", *FAST
    )
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(table[labels].idxmax(axis=1)) == list(table["prediction"])
    words = pd.read_csv(tmp_path / "run" / "top_words.csv")
    assert words[words["rank"] == 1]["word"].str.split().str[0].to_list() == [
        "scheme",
        "plurisubharmonic",
    ]


def test_text_is_joined_from_several_columns(run, tiny_dataset, tmp_path):
    common = ("--dataset_name", tiny_dataset, *FAST, "--text_column_names")
    assert run("run_baseline", *common, "title,abstract", "--output_dir", tmp_path / "a").code == 0
    assert (
        run("run_baseline", *common, "title", "abstract", "--output_dir", tmp_path / "b").code == 0
    )
    a, b = ((tmp_path / name / "top_words.csv").read_text() for name in "ab")
    assert a == b
    assert "number" in skops.io.load(tmp_path / "a" / "model.skops")["counts"].vocabulary_


# Texts without labels


def card_answer(folder):
    """Run the example of the card in its folder; return what it prints."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code = code.replace('"A text to classify."', "TEXT")
    for name in ("model.skops", "run_arguments.json"):
        code = code.replace(f'"{name}"', repr(str(folder / name)))

    def answer(text):
        printed = []
        exec(compile(code, "card", "exec"), {"TEXT": text, "print": printed.append})
        return printed[0]

    return answer


def own_frames():
    frame = pd.DataFrame(make_records())[["id", "abstract", "label", "categories"]]
    frame["label"] = [LABELS[label] for label in frame["label"]]
    return frame[:80], frame[80:]


@pytest.mark.parametrize("without", ["column", "empty", "-1"])
def test_test_file_without_labels_is_predicted_and_nothing_measured(run, tmp_path, without):
    train, test = own_frames()
    train[["id", "abstract", "label"]].to_csv(tmp_path / "train.csv", index=False)
    columns = ["id", "abstract"] if without == "column" else ["id", "abstract", "label"]
    test.assign(label="" if without == "empty" else -1)[columns].to_csv(
        tmp_path / "test.csv", index=False
    )
    result = run(
        "run_baseline", "--train_file", tmp_path / "train.csv", "--test_file",
        tmp_path / "test.csv", "--output_dir", tmp_path / "run", "--C", 1, "--ngram_max", 1,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "split 'test' has no labels in column 'label'" in result.log
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(table.columns) == ["id", "prediction", *LABELS]
    assert list(table["id"]) == list(test["id"])
    assert (table["prediction"] == list(test["label"])).mean() > 0.5
    assert results_without_times(tmp_path / "run") == {"predict_samples": 20}
    card = (tmp_path / "run" / "README.md").read_text()
    assert "The 20 test documents have no labels" in card
    assert "8 validation documents" in card
    assert not (tmp_path / "run" / "confusion_matrix.png").exists()
    record = json.loads((tmp_path / "run" / "run_arguments.json").read_text())
    assert record["problem_type"] == "single_label_classification"
    assert set(record["data_fingerprints"]) == {"train", "validation", "test"}


# Prediction with a finished run


def test_finished_run_predicts_other_texts_in_chunks(run, finished, tmp_path, monkeypatch):
    _, test = own_frames()
    test[["id", "abstract"]].to_csv(tmp_path / "new.csv", index=False)
    monkeypatch.setattr("run_baseline.CHUNK", 7)
    monkeypatch.setattr("run_baseline.search", None)
    flags = ("--model_name_or_path", finished, "--test_file", tmp_path / "new.csv")
    result = run("run_baseline", *flags, "--output_dir", tmp_path / "new")
    assert result.code == 0, result.err
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {
        "run_arguments.json", "predictions.csv", "predict_results.json", "all_results.json",
        "README.md",
    }  # fmt: skip
    table = pd.read_csv(tmp_path / "new" / "predictions.csv")
    assert list(table.columns) == ["id", "prediction", *LABELS]
    # The last ten are the test split of the run.
    before = pd.read_csv(finished / "predictions.csv").drop(columns="label")
    pd.testing.assert_frame_equal(table[10:].reset_index(drop=True), before)
    record = json.loads((tmp_path / "new" / "run_arguments.json").read_text())
    assert record["model_name_or_path"] == finished.name
    assert record["labels"] == LABELS
    assert str(tmp_path) not in json.dumps(record)
    card = (tmp_path / "new" / "README.md").read_text()
    assert "have no labels" in card and "model-index" not in card
    assert "is finished" in run("run_baseline", *flags, "--output_dir", tmp_path / "new").log


def test_finished_run_predicts_labeled_texts_and_is_measured(run, finished, tmp_path):
    _, test = own_frames()
    test[["id", "abstract", "label"]].to_json(tmp_path / "new.jsonl", orient="records", lines=True)
    result = run(
        "run_baseline", "--model_name_or_path", finished, "--test_file", tmp_path / "new.jsonl",
        "--output_dir", tmp_path / "new",
    )  # fmt: skip
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "new" / "predictions.csv")
    assert list(table["label"]) == list(test["label"])
    results = json.loads((tmp_path / "new" / "predict_results.json").read_text())
    assert results["predict_accuracy"] == (table["label"] == table["prediction"]).mean()
    assert (tmp_path / "new" / "confusion_matrix.png").exists()
    assert "| math.AG | 4 | " in (tmp_path / "new" / "README.md").read_text()


def test_numbers_are_classes_where_the_training_named_them(run, finished, tmp_path):
    """Numbers of one file need not be those of another; --label_names says what they are."""
    files = []
    for name, frame in zip(("train", "test"), own_frames(), strict=True):
        files.append(tmp_path / f"{name}.csv")
        numbers = [LABELS.index(label) for label in frame["label"]]
        frame.assign(label=numbers)[["id", "abstract", "label"]].to_csv(files[-1], index=False)

    def predict(model, folder, *flags):
        model = ("--model_name_or_path", model, "--test_file", files[1])
        return run("run_baseline", *model, "--output_dir", tmp_path / folder, *flags)

    assert_user_error(predict(finished, "numbers"), "lacks classes", "'0', '1'", "--label_names")
    result = predict(finished, "named", "--label_names", *LABELS)
    assert result.code == 0, result.err

    train = ("--train_file", files[0], "--label_names", *LABELS, "--C", 1, "--ngram_max", 1)
    result = run("run_baseline", *train, "--output_dir", tmp_path / "run")
    assert result.code == 0, result.err
    result = predict(tmp_path / "run", "again")
    assert result.code == 0, result.err
    for folder in ("named", "again"):
        labels = pd.read_csv(tmp_path / folder / "predictions.csv")["label"]
        assert list(labels) == list(own_frames()[1]["label"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model_name_or_path", "nosuch"], ["nosuch", "no run folder"]),
        (["--C", 3], ["--C", "nothing is trained"]),
        (["--train_file", "new.csv"], ["--train_file", "nothing is trained"]),
        (["--calibrate"], ["--calibrate", "nothing is trained"]),
        (["--push_to_hub"], ["--push_to_hub", "nothing is trained"]),
        (["--threshold", "auto"], ["--threshold auto", "training"]),
        (["--threshold", 0.4], ["--threshold", "several labels"]),
        (["--label_names", "a", "b"], ["--label_names 'a', 'b'", "classes of the run"]),
        (["--label_delimiter", ";"], ["several labels per document", "predicts one label"]),
        (["--label_column_name", "id"], ["lacks classes", "'ag.00016'"]),
    ],
)
def test_bad_flags_of_prediction_with_a_run(run, finished, tmp_path, flags, words):
    own_frames()[1][["id", "abstract", "label"]].to_csv(tmp_path / "new.csv", index=False)
    flags = [tmp_path / flag if flag == "new.csv" else flag for flag in flags]
    result = run(
        "run_baseline", "--model_name_or_path", finished, "--test_file", tmp_path / "new.csv",
        "--output_dir", tmp_path / "new", *flags,
    )  # fmt: skip
    assert_user_error(result, *words)


def test_run_does_not_predict_into_its_own_folder(run, finished, tiny_dataset):
    before = contents(finished)
    flags = ("--model_name_or_path", finished, "--dataset_name", tiny_dataset)
    assert_user_error(run("run_baseline", *flags, "--output_dir", finished), "choose another")
    assert contents(finished) == before


def test_predictions_of_a_run_that_was_trained_again_are_not_called_finished(
    run, tiny_dataset, tmp_path
):
    training = ("--dataset_name", tiny_dataset, "--output_dir", tmp_path / "svm", "--disable_tqdm")
    assert run("run_baseline", *training, "--C", 1, "--seed", 7).code == 0
    predicting = ("--model_name_or_path", tmp_path / "svm", "--dataset_name", tiny_dataset)
    predicting += ("--output_dir", tmp_path / "new")
    assert run("run_baseline", *predicting).code == 0
    assert json.loads((tmp_path / "new" / "run_arguments.json").read_text())["seed"] == 7
    assert "is finished" in run("run_baseline", *predicting).log
    shutil.rmtree(tmp_path / "svm")
    assert run("run_baseline", *training, "--C", 0.01).code == 0
    assert_user_error(run("run_baseline", *predicting), "another model", "model.skops")


def test_run_of_an_earlier_version_is_still_finished(own_run, tmp_path):
    """Flags that it did not have had no effect."""
    assert own_run().code == 0
    path = tmp_path / "run" / "run_arguments.json"
    record = json.loads(path.read_text())
    for name in ("problem_type", "scores", "dropped_rows"):
        del record[name]
    for name in ("label_delimiter", "test_fraction", "train_split_name", "calibrate"):
        del record["arguments"][name]
    path.write_text(json.dumps(record))
    result = own_run()
    assert result.code == 0, result.err
    assert "is finished" in result.log


# Several labels per document


@pytest.fixture
def several(run, tiny_dataset, tmp_path):
    """``several(*flags)`` trains on the categories of the tiny dataset."""

    def train(*flags, folder="run"):
        return run(
            "run_baseline", "--dataset_name", tiny_dataset, "--label_column_name", "categories",
            "--C", 1, "--ngram_max", 1, "--sublinear_tf", 1, "--output_dir", tmp_path / folder,
            *flags,
        )  # fmt: skip

    return train


@pytest.mark.parametrize(
    ("flags", "threshold"),
    [([], 0.0), (["--threshold", "auto"], None), (["--calibrate", "--threshold", 0.3], 0.3)],
)
def test_several_labels(several, tiny_dataset, tmp_path, flags, threshold):
    result = several(*flags)
    assert result.code == 0, result.err
    folder = tmp_path / "run"
    record = json.loads((folder / "run_arguments.json").read_text())
    assert record["problem_type"] == "multi_label_classification"
    assert record["labels"] == LABELS
    if threshold is not None:
        assert record["thresholds"] == [threshold] * 5
    table = pd.read_csv(folder / "predictions.csv")
    test = load_dataset(str(tiny_dataset))["test"]
    labels = [json.loads(text) for text in table["label"]]
    assert labels == [sorted(names) for names in test["categories"]]
    assert any(len(names) == 2 for names in labels)
    is_predicted = table[LABELS].to_numpy() >= np.array(record["thresholds"]) - 1e-6
    for text, row in zip(table["prediction"], is_predicted, strict=True):
        assert json.loads(text) == [LABELS[number] for number in np.flatnonzero(row)]
    truth = np.array([[name in names for name in LABELS] for names in labels])
    results = json.loads((folder / "predict_results.json").read_text())
    assert results["predict_accuracy"] == (truth == is_predicted).all(axis=1).mean()
    for average, key in (("macro", "predict_f1"), ("micro", "predict_f1_micro")):
        f1 = f1_score(truth, is_predicted, average=average, zero_division=0)
        assert results[key] == pytest.approx(f1)
    assert ("predict_log_loss" in results) == ("--calibrate" in flags)
    assert "predict_average_precision" in results
    assert (folder / "class_curves.png").exists()
    assert not (folder / "confusion_matrix.png").exists()
    assert list(pd.read_csv(folder / "top_words.csv")["class"].unique()) == LABELS
    assert "Subset accuracy" in (folder / "README.md").read_text()
    answer = card_answer(folder)
    assert answer(test["abstract"][0]) == json.loads(table["prediction"][0])


def test_labels_with_a_delimiter_and_prediction_with_that_run(run, several, tmp_path):
    train, test = own_frames()
    for name, frame in (("train", train), ("test", test)):
        frame.assign(kinds=[" ; ".join(names) for names in frame["categories"]])[
            ["id", "abstract", "kinds"]
        ].to_csv(tmp_path / f"{name}.csv", index=False)
    result = run(
        "run_baseline", "--train_file", tmp_path / "train.csv", "--test_file",
        tmp_path / "test.csv", "--label_column_name", "kinds", "--label_delimiter", ";", "--C", 1,
        "--calibrate", "--output_dir", tmp_path / "own",
    )  # fmt: skip
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "own" / "predictions.csv")
    assert [json.loads(text) for text in table["label"]] == list(map(sorted, test["categories"]))
    result = run(
        "run_baseline", "--model_name_or_path", tmp_path / "own", "--test_file",
        tmp_path / "test.csv", "--output_dir", tmp_path / "again",
    )  # fmt: skip
    assert result.code == 0, result.err
    predictions = [(tmp_path / name / "predictions.csv").read_bytes() for name in ("own", "again")]
    assert predictions[0] == predictions[1]
    assert results_without_times(tmp_path / "again") == results_without_times(tmp_path / "own")


def test_lists_of_labels_are_restricted_to_the_named_classes(several, tmp_path):
    result = several("--label_names", "math.SG", "math.AG")
    assert result.code == 0, result.err
    assert "are not in --label_names and left out" in result.log
    record = json.loads((tmp_path / "run" / "run_arguments.json").read_text())
    assert record["labels"] == ["math.SG", "math.AG"]
    labels = pd.read_csv(tmp_path / "run" / "predictions.csv")["label"]
    assert set(labels) <= {"[]", '["math.SG"]', '["math.AG"]', '["math.SG", "math.AG"]'}
    assert "[]" in set(labels)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--label_names", "math.AG", "math.Ag"], ["no training document", "'math.Ag'"]),
        (["--label_delimiter", ";"], ["are lists", "--label_delimiter"]),
        (["--threshold", "1.5"], ["--threshold", "between 0 and 1", "1.5"]),
        (["--threshold", "half"], ["--threshold", "auto", "half"]),
        (["--threshold", "0.4"], ["0.4", "--calibrate"]),
        (["--label_delimiter", ".", "--label_names", "a.b"], ["'.'", "occurs in 'a.b'"]),
    ],
)
def test_bad_flags_of_several_labels(several, flags, words):
    assert_user_error(several(*flags), *words)


def test_threshold_of_one_label(run, tiny_dataset, tmp_path):
    flags = ("--dataset_name", tiny_dataset, "--threshold", "auto", "--output_dir", tmp_path / "r")
    assert_user_error(run("run_baseline", *flags), "--threshold", "several labels")


# Probabilities


@pytest.mark.parametrize("labels", [LABELS, LABELS[:2]])
def test_calibrated_probabilities_are_those_of_scikit_learn(run, tmp_path, labels):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    write_dataset(tmp_path / "data", make_records(labels=labels), labels=labels)
    result = run(
        "run_baseline", "--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "run",
        "--C", 1, "--calibrate",
    )  # fmt: skip
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    splits = load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    validation, test = splits["validation"], splits["test"]
    model = skops.io.load(tmp_path / "run" / "model.skops")
    rows = np.arange(len(validation))
    calibrated = CalibratedClassifierCV(FrozenEstimator(model), cv=[(rows, rows)])
    calibrated.fit(validation["abstract"][:], validation["label"][:])
    expected = calibrated.predict_proba(test["abstract"][:])
    np.testing.assert_allclose(table[labels], expected, atol=1e-6)
    assert list(table["prediction"]) == [labels[number] for number in expected.argmax(axis=1)]
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert {"predict_log_loss", "predict_brier_score", "eval_log_loss"} <= results.keys()
    record = json.loads((tmp_path / "run" / "run_arguments.json").read_text())
    assert record["scores"] == "probabilities"
    shown = card_answer(tmp_path / "run")(test["abstract"][0])
    assert {labels[number]: p for number, p in enumerate(expected[0])} == pytest.approx(shown)


def test_calibration_without_validation_documents_of_a_class(run, tmp_path):
    records = make_records()
    for record in records[80:90]:
        record["label"] %= 4
    write_dataset(tmp_path / "data", records)
    result = run(
        "run_baseline", "--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "run",
        "--calibrate",
    )  # fmt: skip
    assert_user_error(result, "--calibrate", "'math.SG'", "validation")


def test_scores_beside_accuracy(finished):
    results = json.loads((finished / "predict_results.json").read_text())
    assert {"predict_mcc", "predict_f1_weighted"} <= results.keys()
    assert "predict_log_loss" not in results  # decision values are no probabilities
    assert "Matthews correlation" in (finished / "README.md").read_text()


# What a user can do wrong


def test_dataset_that_is_not_there(run, tmp_path):
    result = run(
        "run_baseline", "--dataset_name", tmp_path / "none", "--output_dir", tmp_path / "run"
    )
    assert_user_error(result, tmp_path / "none")


def test_dataset_without_a_training_split(run, tmp_path):
    write_dataset(tmp_path / "data")
    (tmp_path / "data" / "data" / "train-00000-of-00001.parquet").unlink()
    result = run(
        "run_baseline", "--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "run"
    )
    assert_user_error(result, "'train'", tmp_path / "data", "it has validation, test")


def test_dataset_without_the_column(run, tiny_dataset, tmp_path):
    result = run(
        "run_baseline",
        "--dataset_name",
        tiny_dataset,
        "--output_dir",
        tmp_path,
        "--text_column_names",
        "body",
    )
    assert_user_error(result, "body", "abstract")


def test_empty_text(run, tmp_path):
    records = make_records()
    records[85]["abstract"] = "  "
    write_dataset(tmp_path / "data", records)
    result = run(
        "run_baseline", "--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "run"
    )
    assert_user_error(result, "row 5", "validation", "abstract")


def test_label_in_test_that_training_lacks(run, tmp_path):
    records = make_records(labels=LABELS)
    for record in records[:90]:
        record["label"] %= 4
    write_dataset(tmp_path / "data", records)
    result = run(
        "run_baseline", "--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "run"
    )
    assert_user_error(result, "test", "math.SG")


def test_output_folder_that_holds_something_else(run, tiny_dataset, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    result = run("run_baseline", "--dataset_name", tiny_dataset, "--output_dir", tmp_path)
    assert_user_error(result, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_folder_of_an_encoder_is_refused(run, tiny_dataset, tmp_path):
    (tmp_path / "run_arguments.json").write_text('{"script": "run_classification.py"}')
    (tmp_path / "predictions.csv").write_text("old")
    result = run("run_baseline", "--dataset_name", tiny_dataset, "--output_dir", tmp_path)
    assert_user_error(result, tmp_path, "run_baseline.py")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "run_arguments.json": '{"script": "run_classification.py"}',
        "predictions.csv": "old",
    }


# The record and the results belong together


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def own_run(run, tmp_path):
    """``own_run(*flags)`` runs the SVM on own files into one folder."""
    flags = write_own_files(tmp_path)

    def run_again(*more):
        return run("run_baseline", *flags, "--output_dir", tmp_path / "run", *FAST, *more)

    return run_again


@pytest.mark.parametrize("flag", ["--split_seed", "--max_predict_samples"])
def test_flags_of_a_split_that_nothing_reads(run, tiny_dataset, tmp_path, flag):
    """All splits exist, or there is no test split."""
    data = ("--dataset_name", tiny_dataset)
    if flag == "--max_predict_samples":
        data = write_own_files(tmp_path)
        data = (*data[:2], *data[4:])
    result = run("run_baseline", *data, "--output_dir", tmp_path / "run", *FAST, flag, 7)
    assert_user_error(result, flag, "leave it out")
    assert not list((tmp_path / "run").iterdir())


def test_finished_run_is_not_repeated(own_run, tmp_path):
    assert own_run().code == 0
    before = contents(tmp_path / "run")
    result = own_run()
    assert result.code == 0
    assert "is finished" in result.log
    assert contents(tmp_path / "run") == before


def test_interrupted_run_is_completed(own_run, tmp_path):
    assert own_run().code == 0
    before = contents(tmp_path / "run")
    for name in before.keys() - {"run_arguments.json", "model.skops"}:
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / "predictions.csv.tmp").write_text("half")
    result = own_run()
    assert result.code == 0
    assert "is finished" not in result.log
    assert contents(tmp_path / "run")["predictions.csv"] == before["predictions.csv"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seed", 7], ["seed 42, not 7"]),
        (["--min_df", 2], ["min_df"]),
        (["--class_weight", "balanced"], ["class_weight none, not balanced"]),
        (["--max_predict_samples", 5], ["max_predict_samples"]),
        (["--text_column_names", "title"], ["text_column_names"]),
        (
            ["--text_column_names", "title", "--text_column_delimiter", "; "],
            ["--text_column_delimiter", "one column of text, title"],
        ),
        (["--test_file", "nosuch.csv"], ["nosuch.csv", "no such file"]),
        (["--text_column_names", "body,nosuch"], ["nosuch"]),
    ],
)
def test_refused_command_leaves_the_finished_run_as_it_was(own_run, tmp_path, flags, words):
    assert own_run().code == 0
    before = contents(tmp_path / "run")
    assert_user_error(own_run(*flags), *words)
    assert contents(tmp_path / "run") == before


def test_other_rows_in_the_same_files_are_another_run(own_run, tmp_path):
    assert own_run().code == 0
    before = contents(tmp_path / "run")
    path = tmp_path / "test.csv"
    path.write_text(path.read_text().replace("metric", "area", 1))
    assert_user_error(own_run(), "other data", "data_fingerprints")
    assert contents(tmp_path / "run") == before


def test_record_has_what_prediction_has_to_know_and_no_path(own_run, tmp_path):
    assert own_run("--text_column_delimiter", " | ").code == 0
    text = (tmp_path / "run" / "run_arguments.json").read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text
    assert record["labels"] == LABELS
    assert set(record["data_fingerprints"]) == {"train", "validation", "test"}
    assert record["arguments"]["text_column_names"] == ["title", "body"]
    assert record["arguments"]["text_column_delimiter"] == " | "
    assert record["arguments"]["train_file"] == record["dataset_name"] == "train.csv"
    assert str(tmp_path) not in (tmp_path / "run" / "README.md").read_text()


def test_without_test_split_the_model_is_trained_and_nothing_invented(run, tmp_path):
    files = write_own_files(tmp_path)
    flags = [*files[:2], *files[4:]]
    result = run("run_baseline", *flags, "--output_dir", tmp_path / "run", *FAST)
    assert result.code == 0, result.err
    assert "no test split" in result.log
    assert "--do_predict" not in result.log
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "model.skops" in names
    assert not names & {"predictions.csv", "predict_results.json", "confusion_matrix.png"}
    union = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert not [key for key in union if key.startswith("predict")]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "8 validation documents" in card
    assert "There was no test split" in card


def test_card_of_classes_with_signs_of_markdown(run, tmp_path):
    from huggingface_hub import ModelCard

    names = ["a|b", "*c*", "<img src=x>", "$e: #f", "[g](h)"]
    records = make_records()
    frame = pd.DataFrame(
        {
            "abstract": [record["abstract"] for record in records],
            "label": [names[record["label"]] for record in records],
        }
    )
    frame[:80].to_csv(tmp_path / "train.csv", index=False)
    frame[80:].to_csv(tmp_path / "a#b *c*.csv", index=False)
    result = run(
        "run_baseline", "--train_file", tmp_path / "train.csv", "--test_file",
        tmp_path / "a#b *c*.csv", "--output_dir", tmp_path / "r_u_n", *FAST,
    )  # fmt: skip
    assert result.code == 0, result.err
    card = (tmp_path / "r_u_n" / "README.md").read_text()
    assert r"a\|b" in card
    assert r"\*c\*" in card
    assert "&lt;img" in card
    assert "manifold" not in card
    assert ModelCard.load(tmp_path / "r_u_n" / "README.md").data.eval_results
    code = card.split("```python\n")[1].split("```")[0]
    code = code.replace("model.skops", str(tmp_path / "r_u_n" / "model.skops"))
    exec(compile(code, "card", "exec"), {})


def test_classes_that_are_never_predicted_are_named(run, tmp_path):
    rows = [{"abstract": f"same words w{row}", "label": "common"} for row in range(95)]
    rows += [{"abstract": f"same words x{row}", "label": "rare"} for row in range(5)]
    frame = pd.DataFrame(rows)
    for split in ("train", "validation", "test"):
        frame.assign(abstract=frame["abstract"] + f" {split}").to_csv(
            tmp_path / f"{split}.csv", index=False
        )
    files = [
        word
        for split in ("train", "validation", "test")
        for word in (f"--{split}_file", tmp_path / f"{split}.csv")
    ]
    result = run("run_baseline", *files, "--output_dir", tmp_path / "run", "--C", 0.01)
    assert result.code == 0, result.err
    assert result.log.count("never predicted: 'rare'") == 1
    assert "class_weight balanced" in result.log


def test_folder_that_is_read_only(run, tiny_dataset, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    result = run("run_baseline", "--dataset_name", tiny_dataset, "--output_dir", folder)
    assert_user_error(result, "read-only", folder)


def test_full_disk(run, tiny_dataset, tmp_path, monkeypatch):
    def write(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("run_baseline.write", write)
    result = run("run_baseline", "--dataset_name", tiny_dataset, "--output_dir", tmp_path / "r")
    assert_user_error(result, "No space left on device", "free some space")


def test_error_of_a_changed_script_is_a_traceback(run, tiny_dataset, tmp_path, monkeypatch):
    """Whoever adapts the script sees his own mistake, not one line about something else."""
    monkeypatch.setattr("run_baseline.make_classifier", lambda C, arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("run_baseline", "--dataset_name", tiny_dataset, "--output_dir", tmp_path / "run")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--C", "0"], ["--C"]),
        (["--C", "one"], ["--C"]),
        (["--ngram_max", "0"], ["--ngram_max"]),
        (["--max_train_sample", "5"], ["--max_train_sample", "--max_train_samples"]),
        (["--max_eval_samples", "0"], ["--max_eval_samples", "at least 1"]),
        (["--min_df", "1000"], ["--min_df"]),
    ],
)
def test_bad_flags(run, tiny_dataset, tmp_path, flags, words):
    result = run(
        "run_baseline", "--dataset_name", tiny_dataset, "--output_dir", tmp_path / "run", *flags
    )
    assert_user_error(result, *words)


def test_arguments_from_a_file_with_flags_after_it(run, tiny_dataset, tmp_path):
    (tmp_path / "svm.yaml").write_text(
        f"dataset_name: {tiny_dataset}\nC: [1, 10]\nseed: 1\ndisable_tqdm: true\n"
    )
    result = run(
        "run_baseline", tmp_path / "svm.yaml", "--output_dir", tmp_path / "run", "--seed", 7
    )
    assert result.code == 0, result.err
    arguments = json.loads((tmp_path / "run" / "run_arguments.json").read_text())["arguments"]
    assert (arguments["C"], arguments["seed"]) == ([1.0, 10.0], 7)


def test_arguments_file_that_is_broken(run, tmp_path):
    (tmp_path / "svm.yaml").write_text("just words")
    assert_user_error(run("run_baseline", tmp_path / "svm.yaml"), "svm.yaml")
    assert_user_error(run("run_baseline", tmp_path / "none.json"), "none.json")


def test_a_run_folder_in_the_place_of_data_or_encoder(run, tiny_model, tiny_dataset, tmp_path):
    svm = tmp_path / "svm"
    assert run("run_baseline", "--dataset_name", tiny_dataset, "--output_dir", svm).code == 0
    is_run = f"{svm} is the folder of a run"
    for script, flags in (
        ("run_baseline", ()),
        ("run_classification", ("--model_name_or_path", tiny_model, "--do_train")),
        ("find_label_errors", ()),
    ):
        output = ("--output_dir", tmp_path / script)
        assert_user_error(run(script, "--dataset_name", svm, *flags, *output), is_run)
    is_svm = f"{svm}: it is an SVM of run_baseline.py"
    for script, flags in (
        ("run_classification", ("--dataset_name", tiny_dataset, "--do_predict")),
        ("run_attribution", ("--text", "A curve.")),
    ):
        output = ("--output_dir", tmp_path / f"{script}-of-svm")
        assert_user_error(run(script, "--model_name_or_path", svm, *flags, *output), is_svm)
