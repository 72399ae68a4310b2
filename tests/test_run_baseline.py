"""TF-IDF + linear SVM: what it writes, that it is right, and what it says to mistakes."""

import json

import numpy as np
import pandas as pd
import pytest
import skops.io
from conftest import LABELS, assert_user_error, make_records, write_dataset, write_own_files
from datasets import load_dataset
from sklearn.metrics import accuracy_score, f1_score

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


def test_same_command_gives_the_same_bytes(run, finished, tiny_dataset, tmp_path):
    result = run(
        "run_baseline", "--dataset_name", tiny_dataset, "--output_dir", tmp_path / "again", *FAST
    )
    assert result.code == 0, result.err
    for name in (
        "predictions.csv",
        "top_words.csv",
        "predict_results.json",
        "confusion_matrix.png",
        "top_words.png",
    ):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes(), name


def test_card_has_the_metrics_that_the_hub_reads(finished):
    from huggingface_hub import ModelCard

    card = ModelCard.load(finished / "README.md")
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    results = json.loads((finished / "predict_results.json").read_text())
    assert metrics["accuracy"] == pytest.approx(results["predict_accuracy"], abs=1e-4)
    assert metrics["f1"] == pytest.approx(results["predict_f1"], abs=1e-4)


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
        (["--max_eval_samples", "0"], ["validation"]),
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
