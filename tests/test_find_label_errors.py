"""Suspicious labels come first, judged by models that never saw them; bad input is refused."""

import csv
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import LABELS, ROOT, assert_user_error, make_records, write_dataset
from datasets import Dataset, load_dataset
from statsmodels.stats.proportion import proportion_confint

from common.data import DataArguments, load_splits

NAMES = ["label_errors.csv", "label_errors.html", "label_errors.json"]
WRONG = {3: 1, 57: 0, 85: 2, 95: 4}  # document number -> label that it gets; in all three splits


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """datasets remembers what it read by path, size and time; these files are small and young."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def records_with_wrong_labels():
    """The tiny records, of which four have a wrong label and are cross-listed in the true class."""
    records = make_records()
    for number, label in WRONG.items():
        true = LABELS[records[number]["label"]]
        assert LABELS[label] != true
        records[number] |= {"label": label, "categories": [LABELS[label], true]}
    return records


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "data", records_with_wrong_labels())


@pytest.fixture
def find(run, tmp_path):
    """``find(data, ...)`` runs the tool into tmp_path/out."""

    def call(data, *flags, out="out"):
        folder = tmp_path / out
        return run("find_label_errors", "--dataset_name", data, "--output_dir", folder, *flags)

    return call


def read(folder):
    with open(folder / "label_errors.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((folder / "label_errors.json").read_text(encoding="utf-8"))


def write_run(folder, data, split="test", rows=None, scale=None, order=LABELS):
    """A run folder that predicts each document's own word's class with 0.8; return the frame."""
    part = load_dataset(str(data))[split]
    names = part.features["label"].names
    frame = pd.DataFrame({"id": part["id"], "label": [names[label] for label in part["label"]]})
    truth = [f"math.{name.split('.')[0].upper()}" for name in part["id"]]
    frame["prediction"] = truth
    for name in order:
        frame[name] = np.where(np.array(truth) == name, 0.8, 0.05)
        if scale is not None:
            frame[name] *= scale
    frame = frame.iloc[:rows]
    folder.mkdir(parents=True)
    frame.to_csv(folder / "predictions.csv", index=False)
    return frame


def test_wrong_labels_come_first_with_the_true_class_and_their_cross_listing(
    find, dataset, tmp_path
):
    result = find(dataset)
    assert result.code == 0, result.err
    rows, record = read(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == NAMES
    records = records_with_wrong_labels()
    expected = {records[number]["id"]: LABELS[label] for number, label in WRONG.items()}
    assert {row["id"]: row["given_label"] for row in rows[:4]} == expected
    for row in rows[:4]:
        assert row["suggested_label"] == f"math.{row['id'].split('.')[0].upper()}"
        assert float(row["probability_suggested"]) > float(row["probability_given"])
        assert (row["reported"], row["cross_listed"]) == ("yes", "yes")
    assert {row["split"] for row in rows[:4]} == {"train", "validation", "test"}
    # Every document is in the table, reported ones first, and the record counts them
    assert len({(row["split"], row["id"]) for row in rows}) == len(rows) == 100
    reported = [row["reported"] for row in rows]
    assert reported == sorted(reported, reverse=True)
    counts = record["counts"]
    assert (counts["documents"], counts["ranked"]) == (100, 100)
    assert counts["reported"] == reported.count("yes")
    assert counts["splits"]["test"]["ranked"] == 10
    assert sum(pair["reported"] for pair in counts["pairs"]) == counts["reported"]
    assert f"{counts['reported']} of 100 labels as possibly wrong" in result.log


def test_record_names_script_data_and_versions_and_no_path(find, dataset, tmp_path):
    assert find(dataset).code == 0
    _, record = read(tmp_path / "out")
    assert record["script"] == "find_label_errors.py"
    assert record["dataset_name"] == record["arguments"]["dataset_name"] == "data"
    assert record["labels"] == LABELS
    assert set(record["data_fingerprints"]) == {"train", "validation", "test"}
    assert {"python", "cleanlab", "scikit-learn"} <= set(record["versions"])
    assert record["arguments"]["C"] == 1.0 and record["arguments"]["folds"] == 5
    for name in NAMES:
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_cross_listing_and_chance_are_those_of_the_table(find, dataset, tmp_path):
    assert find(dataset).code == 0
    rows, record = read(tmp_path / "out")
    listed = record["cross_listed"]
    yes = [row["cross_listed"] == "yes" for row in rows]
    assert listed["top"]["count"] == sum(yes) and listed["top"]["n"] == 100
    low, high = proportion_confint(sum(yes), 100, method="wilson")
    assert [listed["top"]["low"], listed["top"]["high"]] == pytest.approx([low, high])
    # A third of the documents and the four wrong ones name one of four other classes
    others = [len(record["categories"]) - 1 for record in records_with_wrong_labels()]
    assert listed["random_class_of_all"]["share"] == pytest.approx(np.mean(others) / 4)
    reported = [hit for hit, row in zip(yes, rows, strict=True) if row["reported"] == "yes"]
    assert listed["reported"]["count"] == sum(reported) and listed["reported"]["n"] == len(reported)


def test_a_document_is_judged_by_models_that_did_not_see_its_text(find, tmp_path):
    """A word that only one document has says everything about a model that was trained on it.

    The same text twice, with the same wrong label: in different folds, each would vouch for the
    other.
    """
    records = make_records()
    for number, suffix in ((2, ""), (12, " "), (82, "")):
        words = "ricci zebra quagga okapi ricci"
        text = (words + suffix).upper() if suffix else words
        records[number] |= {"abstract": text, "label": 4}
    data = write_dataset(tmp_path / "data", records)
    assert find(data).code == 0
    rows, _ = read(tmp_path / "out")
    first = [row["id"] for row in rows[:3]]
    assert sorted(first) == sorted(records[number]["id"] for number in (2, 12, 82))
    assert all(row["suggested_label"] == "math.DG" for row in rows[:3])


def test_same_command_gives_the_same_files(find, dataset, tmp_path):
    assert find(dataset, out="one").code == 0
    assert find(dataset, out="two").code == 0
    one, two = ((tmp_path / name / NAMES[0]).read_bytes() for name in ("one", "two"))
    assert one == two


def test_texts_are_escaped_and_stand_as_they_are_on_the_page(find, tmp_path):
    records = records_with_wrong_labels()
    hostile = "</p><script>alert(1)</script> {{ 7 * 7 }} /usr/share/notes/file.txt ricci & <b>"
    records[3] |= {"abstract": hostile, "id": "<img src=x>"}
    data = write_dataset(tmp_path / "data", records)
    assert find(data, "--max_shown", 100).code == 0
    page = (tmp_path / "out" / "label_errors.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<img" not in page and "http" not in page.split("</style>")[1]
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7 * 7 }} /usr/share/notes/file.txt" in page
    assert "&lt;img src=x&gt;" in page
    assert page.count("<article>") == 100


def test_page_shows_the_first_documents_in_the_order_of_the_table(find, dataset, tmp_path):
    assert find(dataset, "--max_shown", 3).code == 0
    rows, _ = read(tmp_path / "out")
    page = (tmp_path / "out" / "label_errors.html").read_text(encoding="utf-8")
    shown = re.findall(r"<article>\s*<h2>\d+\. ([^<]+)</h2>", page)
    assert shown == [row["id"] for row in rows[:3]]
    assert "labels as possibly wrong" in page and "not trained on it" in page


def test_own_data_without_categories_and_validation(find, tmp_path):
    """Class names as strings, an own id, an own label column, two text columns."""
    records = records_with_wrong_labels()
    columns = {
        "id": [f"ticket-{number}" for number in range(100)],
        "subject": [record["title"] for record in records],
        "body": [record["abstract"] for record in records],
        "kind": [LABELS[record["label"]] for record in records],
    }
    (tmp_path / "own").mkdir()
    for split, rows in {"train": range(80), "test": range(80, 100)}.items():
        Dataset.from_dict(columns).select(rows).to_csv(tmp_path / "own" / f"{split}.csv")
    flags = ("--text_column_names", "subject,body", "--label_column_name", "kind")
    result = find(tmp_path / "own", *flags)
    assert result.code == 0, result.err
    rows, record = read(tmp_path / "out")
    assert {row["id"] for row in rows[:4]} == {f"ticket-{number}" for number in WRONG}
    assert {row["cross_listed"] for row in rows} == {""}
    assert record["cross_listed"] is None
    assert set(record["counts"]["splits"]) == {"train", "test"}
    assert "no categories" in result.log


def test_injected_noise_is_measured_and_leaves_the_table_alone(find, dataset, tmp_path):
    assert find(dataset, out="plain").code == 0
    result = find(dataset, "--inject_noise", 0.1, "--noise_seeds", 1, 2)
    assert result.code == 0, result.err
    rows, record = read(tmp_path / "out")
    assert rows == read(tmp_path / "plain")[0]
    assert record["injected_noise"]["fraction"] == 0.1
    seeds = record["injected_noise"]["seeds"]
    assert [measured["seed"] for measured in seeds] == [1, 2]
    for measured in seeds:
        assert measured["changed"] == 10
        assert measured["precision"] == pytest.approx(measured["found"] / measured["reported"])
        assert measured["recall"] == pytest.approx(measured["found"] / 10)
        assert measured["recall"] >= 0.7, "the words give the classes away"
        assert measured["suggestion_is_true"] > 0.8
        assert measured["filters"]["prune_by_noise_rate"]["found"] == measured["found"]
    assert "of labels changed at random (10.0 percent, 2 seeds)" in result.log


@pytest.fixture(scope="module")
def svm_run(tmp_path_factory, tiny_dataset):
    """A run of run_baseline.py on title and abstract of the tiny dataset; do not write into it."""
    import run_baseline

    folder = tmp_path_factory.mktemp("svm") / "svm"
    flags = ["--dataset_name", tiny_dataset, "--text_column_names", "title,abstract"]
    flags += ["--ngram_max", 1, "--sublinear_tf", 0, "--C", 3, "--min_df", 2]
    with pytest.MonkeyPatch.context() as patch:
        command = ["run_baseline.py", *flags, "--output_dir", folder]
        patch.setattr("sys.argv", list(map(str, command)))
        run_baseline.main()
    return folder


def test_setting_and_columns_come_from_an_svm_run(find, dataset, tmp_path, svm_run):
    result = find(dataset, "--svm_run", svm_run)
    assert result.code == 0, result.err
    arguments = read(tmp_path / "out")[1]["arguments"]
    expected = {"text_column_names": ["title", "abstract"], "ngram_max": 1, "sublinear_tf": 0}
    expected |= {"C": 3.0, "min_df": 2, "svm_run": "svm"}
    assert expected.items() <= arguments.items()
    result = find(dataset, "--svm_run", svm_run, "--C", 2, out="other")
    assert "--C 2.0 is used" in result.log
    assert read(tmp_path / "other")[1]["arguments"]["C"] == 2.0


def test_probabilities_of_runs_are_averaged_and_only_their_documents_ranked(
    find, dataset, tmp_path
):
    write_run(tmp_path / "runs" / "one", dataset)
    frame = write_run(tmp_path / "runs" / "two", dataset, order=LABELS[::-1], rows=5)
    frame[LABELS] = 0.2
    frame.to_csv(tmp_path / "runs" / "two" / "predictions.csv", index=False)
    result = find(dataset, "--runs", tmp_path / "runs" / "one", tmp_path / "runs" / "two")
    assert result.code == 0, result.err
    rows, record = read(tmp_path / "out")
    assert len(rows) == 10 and {row["split"] for row in rows} == {"test"}
    assert "90 documents are left out because no run predicted them" in result.log
    assert rows[0]["id"] == make_records()[95]["id"]
    assert rows[0]["suggested_label"] == LABELS[make_records()[95]["label"]]
    in_both = {row["id"]: row for row in rows if row["id"] in set(frame["id"])}
    assert len(in_both) == 5
    for row in in_both.values():
        assert float(row["probability_given"]) == pytest.approx((0.8 + 0.2) / 2)
    assert [run["documents"] for run in record["runs"]] == [10, 5]
    assert "training split" not in result.log


def test_runs_with_few_documents_of_a_class_are_warned_about_by_name(find, dataset, tmp_path):
    write_run(tmp_path / "six", dataset, rows=6)
    result = find(dataset, "--runs", tmp_path / "six")
    assert result.code == 0, result.err
    assert "one document of class 'math.AG', 'math.CV', 'math.DG', 'math.MG'" in result.log
    assert "May not flag" not in result.err
    write_run(tmp_path / "one", dataset, rows=1)
    result = find(dataset, "--runs", tmp_path / "one", out="single")
    assert_user_error(result, "of class 'math.AG'", "give more runs")


def test_runs_that_predicted_training_documents_are_warned_about(find, dataset, tmp_path):
    write_run(tmp_path / "run", dataset, split="train")
    result = find(dataset, "--runs", tmp_path / "run")
    assert result.code == 0, result.err
    assert "predicted documents of the training split" in result.log
    page = (tmp_path / "out" / "label_errors.html").read_text(encoding="utf-8")
    assert "predicted by run: if that run was" in page and "not trained on it" not in page


def test_finished_folder_is_said_to_be_finished_and_never_overwritten(find, dataset, tmp_path):
    assert find(dataset).code == 0
    (tmp_path / "out" / "label_errors.csv").write_text("my notes\n")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in NAMES}
    result = find(dataset)
    assert result.code == 0 and "is finished: nothing to do" in result.log
    assert_user_error(find(dataset, "--folds", 4), "--folds 5, now 4", "another folder")
    records = records_with_wrong_labels()
    records[3]["label"] = 3
    changed = write_dataset(tmp_path / "elsewhere" / "data", records)
    assert_user_error(find(changed), "other documents or labels")
    assert before == {name: (tmp_path / "out" / name).read_bytes() for name in NAMES}


def test_interrupted_command_continues(find, dataset, tmp_path, monkeypatch):
    import find_label_errors

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(find_label_errors, "find_label_issues", stop)
        with pytest.raises(KeyboardInterrupt):
            find(dataset)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["label_errors.json"]
    assert find(dataset).code == 0
    assert len(read(tmp_path / "out")[0]) == 100


def test_probabilities_that_say_nothing_are_called_so(find, dataset, tmp_path):
    result = find(dataset)
    assert "say nothing about these labels" not in result.log
    records = [
        record | {"abstract": f"alpha beta word{number}"}
        for number, record in enumerate(make_records())
    ]
    result = find(write_dataset(tmp_path / "noise", records), out="nothing")
    assert result.code == 0, result.err
    assert "The probabilities say nothing about these labels" in result.log
    page = (tmp_path / "nothing" / "label_errors.html").read_text(encoding="utf-8")
    assert "The probabilities say nothing about these labels" in page


def test_progress_bar_counts_documents(find, dataset):
    result = find(dataset)
    assert "5/5" in result.err and "100 of 100" in result.err
    assert "SVMs" not in find(dataset, "--disable_tqdm", out="quiet").err


# Bad input: one line, exit status 2


def test_class_with_fewer_documents_than_folds_is_refused(find, tmp_path):
    records = [r for r in make_records() if r["label"] != 4 or r["id"] < "sg.00004"]
    data = write_dataset(tmp_path / "data", records)
    result = find(data)
    assert_user_error(result, "'math.SG' has 4 documents", "--folds 5 requires 5", "--runs")
    assert not list((tmp_path / "out").iterdir()), "nothing is written before the check"
    # Two folds leave half of the documents, and the calibration takes three parts of them
    assert_user_error(find(data, "--folds", 2), "requires 6")
    assert_user_error(find(data, "--folds", 1), "--folds must be at least 2")


def test_noise_that_leaves_a_class_too_small_is_refused(find, tmp_path):
    data = write_dataset(tmp_path / "data", make_records(per_class=5))
    result = find(data, "--inject_noise", 0.4)
    assert_user_error(result, "after --inject_noise with seed 1", "--folds 5 requires 5")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--inject_noise", 0.7], ["between 0 and 0.5"]),
        (["--noise_seeds", 1], ["requires --inject_noise"]),
        (["--C", 0], ["--C must be a positive number"]),
        (["--C", "nan"], ["--C must be a positive number"]),
        (["--sublinear_tf", 2], ["0 or 1"]),
        (["--splits", "train", "dev"], ["no split 'dev'"]),
        (["--splits", "train", "train"], ["name it once"]),
        (["--text_column_names", "body"], ["no column 'body'"]),
        (["--text_column_names", "published"], ["is not text"]),
        (["--label_column_name", "categories"], ["several labels per document"]),
        (["--runs", "absent"], ["absent has no predictions.csv"]),
        (["--svm_run", "absent"], ["absent has no run_arguments.json"]),
        (["--runs", "one", "--svm_run", "two"], ["either --runs or --svm_run"]),
        (["--runs", "one", "--C", "1"], ["--C is for the SVM"]),
        (["--rank_by", "luck"], ["luck"]),
        (["--fold", "3"], ["did you mean --folds"]),
        (["--dataset_revision", "v1"], ["--dataset_revision is for the Hub", "leave it out"]),
    ],
)
def test_bad_arguments(find, tiny_dataset, flags, words):
    assert_user_error(find(tiny_dataset, *flags), *words)


def test_data_that_cannot_be_ranked(find, tmp_path):
    assert_user_error(find(tmp_path / "nowhere"), "cannot load --dataset_name")
    unlabeled = make_records()
    for record in unlabeled[90:]:
        record["label"] = -1
    data = write_dataset(tmp_path / "unlabeled", unlabeled)
    assert_user_error(find(data), "split 'test' has 10 documents", "without a label", "--splits")
    assert find(data, "--splits", "train", "validation").code == 0
    duplicated = make_records()
    duplicated[1]["id"] = duplicated[0]["id"]
    data = write_dataset(tmp_path / "duplicated", duplicated)
    assert_user_error(find(data, out="2"), "duplicated", duplicated[0]["id"])
    empty = make_records()
    empty[7]["abstract"] = "  "
    data = write_dataset(tmp_path / "empty", empty)
    assert_user_error(find(data, out="3"), "1 document", empty[7]["id"], "without text")
    one_class = [record | {"label": 0} for record in make_records()]
    data = write_dataset(tmp_path / "one-class", one_class)
    assert_user_error(find(data, out="4"), "at least two classes")


def test_runs_of_other_data_are_refused(find, dataset, tmp_path):
    frame = write_run(tmp_path / "run", dataset)
    path = tmp_path / "run" / "predictions.csv"
    flags = ("--runs", tmp_path / "run")

    frame.assign(id=[f"other.{row}" for row in range(len(frame))]).to_csv(path, index=False)
    assert_user_error(find(dataset, *flags), "10 documents (other.0, other.1, other.2, ...)")
    frame.assign(label="math.AG").to_csv(path, index=False)
    assert_user_error(find(dataset, *flags), "with another label", "predict again")
    frame.rename(columns={"math.SG": "math.GT"}).to_csv(path, index=False)
    assert_user_error(find(dataset, *flags), "only there ['math.GT']", "['math.SG']")
    frame.assign(**{"math.AG": -1.3}).to_csv(path, index=False)
    assert_user_error(find(dataset, *flags), "not probabilities", "decision values")
    frame[:0].to_csv(path, index=False)
    assert_user_error(find(dataset, *flags), "no rows")
    path.write_text("id,label\n1\n")
    assert_user_error(find(dataset, *flags), "predictions.csv")
    path.write_bytes(b"\xff\xfe\x00")
    assert_user_error(find(dataset, *flags), "cannot read")
    path.write_text(",".join(["id", "label", "prediction", *LABELS]) + "\n1,math.AG,math.AG,x\n")
    assert_user_error(find(dataset, *flags), "more or fewer values than its header")
    path.write_text("")
    assert_user_error(find(dataset, *flags), "no rows")


def record_fingerprint(folder, data, columns=("abstract",)):
    """Let a run say which texts it predicted, as run_classification.py does."""
    arguments = DataArguments(dataset_name=str(data), text_column_names=list(columns))
    fingerprints = load_splits(arguments, ["train", "validation", "test"], 42).fingerprints
    record = {"data_fingerprints": fingerprints, "arguments": {"text_column_names": list(columns)}}
    (folder / "run_arguments.json").write_text(json.dumps(record))


@pytest.mark.parametrize("columns", [["abstract"], ["title", "abstract"]])
def test_runs_of_other_texts_are_refused(find, dataset, tmp_path, columns):
    """Same ids and labels, but the abstracts have changed since."""
    write_run(tmp_path / "run", dataset)
    record_fingerprint(tmp_path / "run", dataset, columns)
    flags = ("--runs", tmp_path / "run")
    assert find(dataset, *flags).code == 0
    # The texts are read by other columns than the run's.
    assert find(dataset, *flags, "--text_column_names", "title", out="title").code == 0
    records = records_with_wrong_labels()
    records[-1]["abstract"] += " Version 2."
    changed = write_dataset(tmp_path / "changed", records)
    result = find(changed, *flags, out="other")
    assert_user_error(result, tmp_path / "run", "other texts", "predict again")


def test_delimiter_for_one_column_is_refused(find, dataset):
    result = find(dataset, "--text_column_delimiter", "; ")
    assert_user_error(result, "--text_column_delimiter", "one column of text, abstract")


def test_error_during_a_progress_bar_has_its_own_line(find, dataset):
    assert_user_error(find(dataset, "--min_df", 10_000), "--min_df 10000")


def test_several_labels_per_document_are_refused(find, dataset, tmp_path):
    write_run(tmp_path / "run", dataset)
    record = {"problem_type": "multi_label_classification", "script": "run_baseline.py"}
    (tmp_path / "run" / "run_arguments.json").write_text(json.dumps(record))
    for flag in ("--runs", "--svm_run"):
        result = find(dataset, flag, tmp_path / "run")
        assert_user_error(result, tmp_path / "run", "several labels per document")
    listed = load_dataset(str(dataset))["test"]
    labels = [[label] for label in listed["label"]]
    listed = listed.remove_columns("label").add_column("label", labels)
    (tmp_path / "listed").mkdir()
    listed.to_parquet(tmp_path / "listed" / "train.parquet")
    assert_user_error(find(tmp_path / "listed"), "'label'", "several labels per document")


def test_predictions_that_were_edited_are_refused(find, dataset, tmp_path):
    write_run(tmp_path / "run", dataset)
    path = tmp_path / "run" / "predictions.csv"
    flags = ["--runs", tmp_path / "run", "--max_shown", 1]
    content = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())  # by Excel
    result = find(dataset, *flags)
    assert result.code == 0
    header = content.split("\n")[0]
    names = header.split(",")
    names[3:5] = names[4], names[3]
    path.write_text(content.replace(header, ",".join(names), 1))
    result = find(dataset, *flags, "--seed", 1, out="mixed")
    words = ("is not the class with the highest probability", "mixed up", "predict again")
    assert_user_error(result, path, *words)
    first = content.split("\n")[1]
    identifier, label, prediction, *scores = first.split(",")
    unknown = ",".join([identifier, label, "math.XX", *scores])
    path.write_text(content.replace(first, unknown, 1))
    assert_user_error(find(dataset, *flags, out="o"), path, "'math.XX'", identifier)
    # Rounded to equal numbers, as six decimals are now and then
    equal = ",".join([identifier, label, prediction, *["0.2"] * len(scores)])
    path.write_text(content.replace(first, equal, 1))
    assert find(dataset, *flags, "--seed", 2, out="equal").code == 0
    path.write_text(content + "x\n")
    assert_user_error(find(dataset, *flags, out="o"), path, "1 document (x)", "values")
    path.write_text(content)
    (tmp_path / "run" / "predict_results.json").write_text('{"predict_accuracy": 0.01}')
    result = find(dataset, *flags, out="o")
    assert_user_error(result, "mixes two runs", "predict_accuracy")


@pytest.mark.parametrize(
    "arguments", [[1], {"text_column_names": 3}, {"text_column_delimiter": ["x"]}]
)
def test_damaged_record_of_a_run(find, dataset, tmp_path, arguments):
    write_run(tmp_path / "run", dataset)
    path = tmp_path / "run" / "run_arguments.json"
    path.write_text(json.dumps({"arguments": arguments}))
    assert_user_error(find(dataset, "--runs", tmp_path / "run"), path, "damaged")


def test_svm_runs_are_refused_where_they_do_not_belong(find, tiny_dataset, tmp_path, svm_run):
    assert_user_error(find(tiny_dataset, "--runs", svm_run), "not probabilities", "--svm_run")
    damaged = shutil.copytree(svm_run, tmp_path / "damaged")
    (damaged / "trainer_state.json").write_text('{"log_history": []}')
    result = find(tiny_dataset, "--svm_run", damaged)
    assert_user_error(result, "trainer_state.json is damaged")
    (damaged / "run_arguments.json").write_text('{"script": "run_classification.py"}')
    result = find(tiny_dataset, "--svm_run", damaged)
    assert_user_error(result, "not a run of run_baseline.py")


def test_foreign_and_unwritable_folders_are_refused_unchanged(find, dataset, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "label_errors.csv").write_text("mine")
    assert_user_error(find(dataset), "holds no label_errors.json")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert_user_error(find(dataset), "notes.txt")
    assert (tmp_path / "out" / "label_errors.csv").read_text() == "mine"
    (tmp_path / "file").write_text("")
    assert_user_error(find(dataset, out="file"), "is a file")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    assert_user_error(find(dataset, out="read-only"), "read-only")


# The documentation


def test_numbers_of_the_docs_are_those_of_the_file():
    text = " ".join((ROOT / "docs/label-errors.md").read_text(encoding="utf-8").split())
    path = ROOT / "results" / "arxiv-dev" / "label_errors.json"
    measured = json.loads(path.read_text(encoding="utf-8"))
    for row in docs_rows(measured):
        assert row in text, row


def percent(value):
    return f"{100 * value:.1f}"


def docs_rows(measured):
    """The rows of the tables of docs/label-errors.md."""
    real = measured["arxiv"]
    counts, listed = real["counts"], real["cross_listed"]
    yield f"{counts['reported']} of {counts['ranked']:,} labels"
    for name in ("top", "reported", "random_class_of_all", "random_class_of_top"):
        part = listed[name]
        yield f"| {part['n']:,} | {percent(part['share'])} | {interval(part)} |"
    part = listed["second_choice_of_rest"]
    yield f"| {part['n']:,} | {percent(part['share'])} | {interval(part)} |"
    difference = listed["difference"]
    yield f"{percent(difference['share'])} points (95% CI {interval(difference)})"
    for name, record in measured.items():
        for seed in record["injected_noise"]["seeds"]:
            cells = [seed["precision"], seed["recall"], seed["precision_of_top"]]
            cells += [seed["suggestion_is_true"], seed["unchanged_cross_listed"]]
            numbers = " | ".join(map(percent, cells))
            counted = f"{seed['changed']} | {seed['reported']:,} | {seed['found']}"
            yield f"| {name} | {seed['seed']} | {counted} | {numbers} |"
        for method in real["injected_noise"]["seeds"][0]["filters"]:
            parts = [s["filters"][method] for s in record["injected_noise"]["seeds"]]
            cells = [np.mean([part[key] for part in parts]) for key in ("precision", "recall")]
            yield f"| {name} | `{method}` | {' | '.join(map(percent, cells))} |"


def interval(part):
    return f"{percent(part['low'])} to {percent(part['high'])}"


def test_measured_figures_of_the_sample_are_what_the_command_finds(run, find, tmp_path):
    """Counts may differ by a document or two between processors."""
    snapshot = ROOT / "sample_data" / "abstracts.jsonl"
    flags = ("--source", "snapshot", "--snapshot_file", snapshot)
    assert run("fetch_arxiv", *flags, "--output_dir", tmp_path / "sample").code == 0
    assert find(tmp_path / "sample", "--inject_noise", 0.05).code == 0
    _, record = read(tmp_path / "out")
    path = ROOT / "results" / "arxiv-dev" / "label_errors.json"
    expected = json.loads(path.read_text(encoding="utf-8"))["sample"]
    assert record["data_fingerprints"] == expected["data_fingerprints"]
    assert record["counts"]["reported"] == pytest.approx(expected["counts"]["reported"], abs=2)
    measured = record["injected_noise"]["seeds"]
    for ours, theirs in zip(measured, expected["injected_noise"]["seeds"], strict=True):
        assert ours["found"] == pytest.approx(theirs["found"], abs=1)
        assert ours["reported"] == pytest.approx(theirs["reported"], abs=4)
