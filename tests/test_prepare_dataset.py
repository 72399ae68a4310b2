"""Own texts become a dataset folder: columns, classes and splits as stated, every bad row named."""

import fcntl
import gzip
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from arxiv_server import full_disk as limited_file_size
from conftest import (
    LABELS,
    ROOT,
    SHARED_WORDS,
    assert_user_error,
    make_records,
    write_dataset,
    write_own_files,
)
from datasets import ClassLabel, Dataset, load_dataset
from hub_server import hub_server

from common.data import load_split


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """datasets remembers what it read by path, size and time; these files are small and young."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def prepared(folder):
    return load_dataset(str(folder))


@pytest.fixture
def own_csv(run, tmp_path):
    """``own_csv(train, test=None, *flags)`` prepares frames or file contents as CSV files."""

    def prepare(train, test=None, *flags, suffix=".csv"):
        words = []
        for split, content in (("train", train), ("test", test)):
            if content is None:
                continue
            path = tmp_path / f"{split}{suffix}"
            if isinstance(content, pd.DataFrame):
                content.to_csv(path, index=False)
            else:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
            words += [f"--{split}_file", path]
        return run("prepare_dataset", *words, "--output_dir", tmp_path / "data", *flags)

    return prepare


def rows(split="train", count=20, labels=("a", "b")):
    """Own texts of two classes: dicts with abstract and label."""
    return [
        {"abstract": f"{split} text, number {row}", "label": labels[row % len(labels)]}
        for row in range(count)
    ]


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
def test_files_with_other_columns_and_no_validation_split(run, tmp_path, kind):
    flags = write_own_files(tmp_path, kind)
    result = run(
        "prepare_dataset", *flags, "--validation_fraction", 0.2, "--output_dir", tmp_path / "data"
    )
    assert result.code == 0, result.err
    assert "no validation split: 16 training documents" in result.log
    splits = prepared(tmp_path / "data")
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 64,
        "validation": 16,
        "test": 20,
    }
    records = make_records()
    first = splits["test"][0]
    assert first == {
        "id": "test.0",
        "abstract": f"{records[80]['title']} {records[80]['abstract']}",
        "label": 0,
    }
    assert splits["test"].features["label"].names == LABELS
    # Stratified, no document in both
    assert all(15 <= 5 * splits["validation"]["label"].count(label) <= 20 for label in range(5))
    texts = [f"{record['title']} {record['abstract']}" for record in records[:80]]
    places = [
        texts.index(text) for split in ("train", "validation") for text in splits[split]["abstract"]
    ]
    assert sorted(places) == list(range(80))


def test_same_input_gives_the_same_files_and_the_manifest_names_them(run, tmp_path):
    flags = write_own_files(tmp_path)
    for name in ("one", "two"):
        assert run("prepare_dataset", *flags, "--output_dir", tmp_path / name).code == 0
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    )
    assert one == two and len(one) == 5
    manifest = json.loads(one["manifest.json"])
    assert manifest["counts"]["test"] == dict.fromkeys(LABELS, 4)
    assert len(manifest["sha256"]) == 3 and len(manifest["source_sha256"]) == 2
    assert (
        run("prepare_dataset", *flags, "--splits", "test", "--output_dir", tmp_path / "two").code
        == 0
    )
    assert list(prepared(tmp_path / "two")) == ["test"]


def test_every_script_reads_the_folder(run, tmp_path):
    """The SVM here; run_classification.py by its own tests, the others read the same columns."""
    assert (
        run("prepare_dataset", *write_own_files(tmp_path), "--output_dir", tmp_path / "data").code
        == 0
    )
    result = run(
        "run_baseline",
        "--dataset_name",
        tmp_path / "data",
        "--output_dir",
        tmp_path / "svm",
        "--C",
        1,
    )
    assert result.code == 0, result.err
    assert list(pd.read_csv(tmp_path / "svm" / "predictions.csv")["id"][:2]) == ["test.0", "test.1"]


def test_dataset_with_other_columns_keeps_ids_and_the_order_of_classes(run, tmp_path):
    names = ["sport", "business"]
    columns = {
        "id": range(20),
        "review": [f"text {row}" for row in range(20)],
        "topic": [0, 1] * 10,
    }
    part = Dataset.from_dict(columns).cast_column("topic", ClassLabel(names=names))
    (tmp_path / "hub").mkdir()
    for split in ("train", "test"):
        part.to_parquet(tmp_path / "hub" / f"{split}.parquet")
    flags = (
        "--dataset_name",
        tmp_path / "hub",
        "--text_column_names",
        "review",
        "--label_column_name",
        "topic",
    )
    assert run("prepare_dataset", *flags, "--output_dir", tmp_path / "data").code == 0
    splits = prepared(tmp_path / "data")
    assert splits["test"].features["label"].names == names
    assert splits["test"]["id"][:3] == ["0", "1", "2"]
    assert len(splits["validation"]) == 2


@pytest.mark.parametrize(
    ("labels", "names"),
    [([2, 10, 1], ["1", "2", "10"]), (["b", "NA", "None"], ["NA", "None", "b"])],
)
def test_labels_are_whole_numbers_or_any_names(run, tmp_path, labels, names):
    frame = pd.DataFrame({"abstract": [f"text {row}" for row in range(30)], "label": labels * 10})
    frame["id"] = [
        f"2001.{10 * row:05d}" for row in range(30)
    ]  # as a number 2001.00010 would lose its end
    frame.to_csv(tmp_path / "train.csv", index=False)
    result = run(
        "prepare_dataset", "--train_file", tmp_path / "train.csv", "--output_dir", tmp_path / "data"
    )
    assert result.code == 0, result.err
    train = prepared(tmp_path / "data")["train"]
    assert train.features["label"].names == names
    for row in train:
        number = int(row["abstract"].split()[1])
        assert (row["id"], names[row["label"]]) == (
            frame["id"][number],
            str(frame["label"][number]),
        )


# What can be wrong


@pytest.mark.parametrize(
    ("row", "column", "value", "words"),
    [
        (85, "abstract", " ", ["row 5", "validation", "empty"]),
        (3, "abstract", None, ["row 3", "train", "empty"]),
        (95, "id", "ag.00018", ["ag.00018", "test", "duplicated"]),
        (7, "id", "ag.00000", ["ag.00000", "train", "duplicated"]),
        (12, "label", None, ["row 12", "train", "no label"]),
        (92, "label", -1, ["row 2", "test", "no label"]),
        (4, "id", None, ["row 4", "train", "no id"]),
    ],
)
def test_bad_rows(run, tmp_path, row, column, value, words):
    records = make_records()
    records[row][column] = value
    write_dataset(tmp_path / "data", records)
    result = run(
        "prepare_dataset", "--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "out"
    )
    assert_user_error(result, *words)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--text_column_names", "body"], ["body", "abstract"]),
        (["--text_column_names", "published"], ["published", "not text", "Timestamp"]),
        (["--text_column_names", "categories"], ["categories", "not text"]),
        (["--label_column_name", "published"], ["published", "names or integers"]),
        (["--csv_delimiter", ";"], ["--csv_delimiter", ".csv"]),
        (["--json_field", "rows"], ["--json_field", ".json"]),
        (["--test_split_name", "dev"], ["--test_split_name", "'dev'", "it has train, validation"]),
        (["--test_split_name", "train"], ["must differ", "train, validation, train"]),
        (["--test_fraction", 0.1], ["--test_fraction", "a test split already"]),
        (["--validation_fraction", 0.1], ["--validation_fraction", "a validation split already"]),
        (["--label_delimiter", ""], ["--label_delimiter", "empty"]),
        (["--train_file", "train.csv"], ["--dataset_name", "--train_file"]),
        (["--splits", "dev"], ["--splits", "dev", "validation"]),
        (["--seed", 7], ["--seed", "--shuffle_words or --shuffle_train_dataset"]),
        (["--shuffle_words", "--seed", 2**32], ["--seed", "2**32 - 1", "4294967296"]),
        (["--shuffle_train_dataset", "--seed", -1], ["--seed", "2**32 - 1"]),
        (["--split_seed", 7], ["--split_seed", "no split is taken"]),
        (["--splits", "test", "--max_train_samples", 3], ["--max_train_samples", "no train split"]),
        (["--splits", "test", "--max_eval_samples", 3], ["--max_eval_samples", "no validation"]),
        (["--splits", "train", "--max_predict_samples", 3], ["--max_predict_samples", "no test"]),
        (["--splits", "test", "--shuffle_train_dataset"], ["--shuffle_train_dataset", "no train"]),
        (["--splits", "test", "--drop_leaked"], ["--drop_leaked", "training and validation"]),
        (["--label_colum_name", "kind"], ["--label_colum_name", "--label_column_name"]),
    ],
)
def test_bad_flags(run, tiny_dataset, tmp_path, flags, words):
    result = run(
        "prepare_dataset", "--dataset_name", tiny_dataset, "--output_dir", tmp_path / "out", *flags
    )
    assert_user_error(result, *words)


@pytest.mark.parametrize(
    ("value", "remedy"), [(1.0, "astype(int)"), (0.5, "regression"), (1e-05, "regression")]
)
def test_decimal_labels_are_refused(run, own_csv, value, remedy):
    frame = pd.DataFrame(make_records())[["abstract", "label"]].assign(label=value)
    assert_user_error(own_csv(frame), "'label'", "decimal", str(value), remedy)


@pytest.mark.parametrize("column", ["id", "label"])
def test_carriage_return_in_id_or_label_is_refused(run, tmp_path, column):
    """Python's csv module does not quote it: a reader of predictions.csv would see another row."""
    frame = pd.DataFrame(make_records())[["id", "abstract", "label"]]
    frame["label"] = [LABELS[label] for label in frame["label"]]
    frame[column] = [value.replace(".", "\r") for value in frame[column]]
    frame.to_json(tmp_path / "train.json", orient="records")
    files = ("--train_file", tmp_path / "train.json", "--output_dir", tmp_path / "out")
    assert_user_error(run("prepare_dataset", *files), "100 of 100 rows", "carriage return")
    frame["abstract"] += "\r"
    frame[column] = [value.replace("\r", ".") for value in frame[column]]
    frame.to_json(tmp_path / "train.json", orient="records")
    assert run("prepare_dataset", *files).code == 0


def test_numbers_of_a_csv_are_texts_with_a_warning(own_csv):
    frame = pd.DataFrame({"abstract": range(100, 140), "label": ["a", "b"] * 20})
    result = own_csv(frame)
    assert result.code == 0, result.err
    assert "column 'abstract' of split 'train' has numbers alone" in result.log


@pytest.mark.parametrize(
    ("kind", "spoil", "words"),
    [
        ("csv", lambda line: line + ",one,two,three", ["line 15002"]),
        ("csv", lambda line: '"' + line, ["line 15002", "quotation marks"]),
        ("jsonl", lambda line: line[:-5], ["line 15002"]),
    ],
)
def test_broken_line_is_named(run, tmp_path, kind, spoil, words):
    """Also far from the start."""
    flags = write_own_files(tmp_path, kind)
    path = tmp_path / f"train.{kind}"
    lines = path.read_text().splitlines()
    lines += lines[1:] * 200
    lines[15001] = spoil(lines[15001])
    path.write_text("\n".join(lines) + "\n")
    result = run("prepare_dataset", *flags, "--output_dir", tmp_path / "out")
    assert_user_error(result, path, *words)


def test_file_that_is_not_utf8_not_there_or_of_another_kind(run, tmp_path):
    (tmp_path / "latin.csv").write_bytes("abstract,label\nKähler,a\n".encode("latin-1"))
    for name, words in {
        "latin.csv": ["UTF-8"],
        "none.csv": ["no such file"],
        "x.txt": [".csv", ".parquet"],
    }.items():
        (tmp_path / "x.txt").write_text("x")
        result = run(
            "prepare_dataset", "--train_file", tmp_path / name, "--output_dir", tmp_path / "out"
        )
        assert_user_error(result, tmp_path / name, *words)


def test_class_with_one_document_where_validation_is_carved_out(run, tmp_path):
    frame = pd.DataFrame(make_records())[:41][["abstract", "label"]]
    frame["label"] = [LABELS[label] for label in frame["label"] % 4]
    frame.loc[40, "label"] = "math.SG"
    frame.to_csv(tmp_path / "train.csv", index=False)
    result = run(
        "prepare_dataset", "--train_file", tmp_path / "train.csv", "--output_dir", tmp_path / "out"
    )
    assert_user_error(result, "--validation_fraction", "--validation_file", "'math.SG'")
    frame[:12].to_csv(tmp_path / "train.csv", index=False)
    result = run(
        "prepare_dataset", "--train_file", tmp_path / "train.csv", "--output_dir", tmp_path / "out"
    )
    assert_user_error(result, "--validation_fraction 0.1", "12 training documents")


def test_class_that_training_lacks_and_split_that_is_not_there(run, tmp_path):
    records = [
        record | {"label": record["label"] % 4} for record in make_records()[:80]
    ] + make_records()[80:]
    flags = write_own_files(tmp_path, "csv", records)
    assert_user_error(
        run("prepare_dataset", *flags, "--output_dir", tmp_path / "out"), "test", "math.SG"
    )
    result = run(
        "prepare_dataset", *flags[2:], "--splits", "train", "--output_dir", tmp_path / "out"
    )
    assert_user_error(result, "--train_file is required", "test")


def test_folder_of_something_else_and_folder_that_cannot_be_made(run, tiny_dataset, tmp_path):
    flags = write_own_files(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "README.md").write_text("precious")
    assert_user_error(run("prepare_dataset", *flags, "--output_dir", tmp_path / "thesis"), "thesis")
    for path in (tmp_path / "train.csv", tmp_path / "train.csv" / "data"):
        result = run("prepare_dataset", *flags, "--output_dir", path)
        assert_user_error(result, "--output_dir", path)


# Values are what the file says


def lines_of(records, separator=",", end="\n"):
    out = [separator.join(records[0])]
    out += [separator.join(f'"{value}"' for value in record.values()) for record in records]
    return end.join(out) + end


@pytest.mark.parametrize(
    ("content", "suffix", "says"),
    [
        (lines_of(rows()), ".csv", None),
        (lines_of(rows(), ";"), ".csv", "separated by ';'"),
        (lines_of(rows(), "\t"), ".csv", "separated by '\\t'"),
        (lines_of(rows(), "\t"), ".tsv", None),
        ("\ufeff" + lines_of(rows(), end="\r\n"), ".csv", None),  # Excel
        (lines_of(rows(), end="\r"), ".csv", None),  # old Mac
        (lines_of(rows(), end="\n\n"), ".csv", None),
        (json.dumps(rows(), indent=1), ".json", None),
        (json.dumps({"data": rows()}), ".json", "under 'data'"),
        (json.dumps({"version": 1, "data": rows()}, indent=1), ".json", "under 'data'"),
        ("\n\n".join(map(json.dumps, rows())), ".jsonl", None),
        ("\r\n".join(map(json.dumps, rows())), ".jsonl", None),
        ("\ufeff" + "\n".join(map(json.dumps, rows())), ".json", None),
    ],
)
def test_files_of_other_programs_are_read_by_their_rules(own_csv, tmp_path, content, suffix, says):
    flags = ("--validation_fraction", 0.2)
    result = own_csv(content, None, *flags, suffix=suffix)
    assert result.code == 0, result.err
    if says is None:
        assert "separated" not in result.log
    else:
        assert says in result.log
    splits = prepared(tmp_path / "data")
    texts = sorted(splits["train"]["abstract"][:] + splits["validation"]["abstract"][:])
    assert texts == sorted(record["abstract"] for record in rows())


@pytest.mark.parametrize("text", ["one\u2028two", "one\ntwo", "one\u0085two", 'say ""so""'])
def test_line_ends_and_marks_inside_a_text(own_csv, tmp_path, text):
    content = lines_of([record | {"abstract": record["abstract"] + text} for record in rows()])
    assert own_csv(content).code == 0
    text = text.replace('""', '"')
    assert all(row["abstract"].endswith(text) for row in prepared(tmp_path / "data")["train"])
    records = [record | {"abstract": record["abstract"] + text} for record in rows()]
    content = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    assert own_csv(content, suffix=".jsonl").code == 0
    assert all(row["abstract"].endswith(text) for row in prepared(tmp_path / "data")["train"])


@pytest.mark.parametrize(
    ("content", "suffix", "words"),
    [
        ("abstract,label\n" + "one, two,a\n" * 5, ".csv", ["5 of 5", "','", "line 2, 3, 4, ..."]),
        ("abstract,label\none,a\ntwo\n", ".csv", ["1 of 2", "line 3"]),
        (lines_of(rows()).encode("utf-16"), ".csv", ["UTF-16", "UTF-8"]),
        (lines_of(rows()).encode("utf-16-le"), ".csv", ["UTF-16", "UTF-8"]),
        ("", ".csv", ["no rows"]),
        ("abstract,label\n", ".csv", ["no rows"]),
        ("abstract,label,label\none,a,b\n", ".csv", ["'label'", "2 times"]),
        (" abstract, label\none,a\n", ".csv", ["' abstract'", "' label'"]),
        ("[]", ".json", ["no rows"]),
        ("[1, 2]", ".json", ["record 0", "not an object"]),
        (pd.DataFrame(rows()).to_json(), ".json", ["orient='records'"]),
        ('[{"abstract": "x", "label": "a"},\n{]', ".json", ["line 2"]),
        ("[" * 100_000, ".json", ["nested too deeply"]),
        ('{"abstract": "x", "label": %s}' % ("9" * 5000), ".json", ["line 1", "4300 digits"]),
        ('{"abstract": "x", "abstract": "y", "label": "a"}', ".json", ["'abstract'", "once"]),
        ('{"a": 1}\n{"b": 2}\n{"c": 3, "c": 4}\n', ".jsonl", ["line 3", "'c'"]),
        ("id,id,abstract,label\n1,2,x,a\n", ".csv", ["column 'id' occurs 2 times"]),
        (lines_of(rows(count=200)) + "te\0xt,a\n", ".csv", ["line 202", "NUL"]),
        (gzip.compress(lines_of(rows()).encode()), ".csv", ["compressed", "unpack"]),
        (b"PK\x03\x04" + bytes(99), ".csv", ["Excel workbook", "CSV"]),
        ("not json", ".json", ["line 1"]),
    ],
)
def test_files_that_break_the_rules_are_refused(own_csv, content, suffix, words):
    assert_user_error(own_csv(content, suffix=suffix), *words)


@pytest.mark.parametrize("names", [("a", "a\u200b"), ("\u00e9", "e\u0301"), ("a", "a\u00a0")])
def test_classes_that_look_alike_are_refused(own_csv, names):
    content = json.dumps(rows(labels=names))
    assert_user_error(own_csv(content, suffix=".json"), *map(ascii, names), "write them alike")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["kind"], ["--label_column_name 'kind'", "another column"]),
        (["title,kind"], ["--label_column_name 'kind'"]),
        (["title", "title"], ["title, title", "once"]),
    ],
)
@pytest.mark.parametrize("script", ["prepare_dataset", "run_baseline"])
def test_columns_that_cannot_be_the_text(run, tmp_path, script, columns, words):
    """A text that holds its label would be classified without a mistake."""
    flags = write_own_files(tmp_path)
    result = run(script, *flags, "--text_column_names", *columns, "--output_dir", tmp_path / "out")
    assert_user_error(result, *words)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["*", "dat?", "[d]ata"])
def test_folder_whose_name_is_a_pattern_is_refused(run, tmp_path, monkeypatch, name):
    """datasets would read the files of every folder that the pattern fits."""
    flags = write_own_files(tmp_path)
    assert run("prepare_dataset", *flags, "--output_dir", tmp_path / "data").code == 0
    result = run("prepare_dataset", *flags, "--output_dir", tmp_path / name)
    assert_user_error(result, name, "choose another folder")
    assert not (tmp_path / name).exists()
    shutil.copytree(tmp_path / "data", tmp_path / name)
    result = run(
        "run_baseline", "--dataset_name", tmp_path / name, "--output_dir", tmp_path / "svm"
    )
    assert_user_error(result, name, "rename it")


def test_name_that_is_too_long_and_name_with_a_line_end(run, tmp_path):
    flags = write_own_files(tmp_path)
    result = run("prepare_dataset", *flags, "--output_dir", tmp_path / ("l" * 300))
    assert_user_error(result, "File name too long")
    result = run(
        "prepare_dataset", *flags, "--train_file", "two\nlines.csv", "--output_dir", tmp_path / "o"
    )
    assert_user_error(result, "two lines.csv", "no such file")


def test_record_that_was_damaged(run, tmp_path):
    flags = write_own_files(tmp_path)
    for script, name, content in (
        ("prepare_dataset", "manifest.json", {"sha256": []}),
        ("run_baseline", "run_arguments.json", {"arguments": []}),
    ):
        folder = tmp_path / script
        folder.mkdir()
        record = json.dumps(content | {"script": f"{script}.py"})
        (folder / name).write_text(record)
        assert_user_error(run(script, *flags, "--output_dir", folder), name, "damaged")
        assert tree(folder) == {name: record.encode()}


def test_flag_whose_value_ends_like_a_file_of_arguments(run, tmp_path):
    write_own_files(tmp_path, "json")
    words = ["--text_column_names", "title", "--label_column_name", "kind"]
    result = run(
        "prepare_dataset", f"--train_file={tmp_path / 'train.json'}", *words,
        "--output_dir", tmp_path / "data",
    )  # fmt: skip
    assert result.code == 0, result.err


def test_text_longer_than_the_default_limit_of_csv(own_csv, tmp_path):
    records = [record | {"abstract": record["abstract"] + " word" * 40_000} for record in rows()]
    assert own_csv(pd.DataFrame(records)).code == 0
    assert len(prepared(tmp_path / "data")["train"][0]["abstract"]) > 200_000


def test_class_names_that_look_like_numbers_stay(own_csv, tmp_path):
    frame = pd.DataFrame(rows(labels=("01", "002"), count=40))
    assert own_csv(frame).code == 0
    assert prepared(tmp_path / "data")["train"].features["label"].names == ["01", "002"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, "b"], ["mixed kinds", "int such as 1", "str such as 'b'"]),
        ([1, "1"], ["mixed kinds"]),
        ([1, 2.5], ["mixed kinds", "float such as 2.5"]),
        ([1.0, 0.0], ["decimal", "astype(int)"]),
        ([["a"], "b"], ["lists and single ones", "'b'"]),
        ([["a", 1], ["b"]], ["mixed kinds", "int such as 1"]),
        ([["a", ""], ["b"]], ["an empty name", "['a', '']"]),
        ([["a"], ["a", "b"]], ["every training document", "'a'"]),
        (["b", " b"], ["' b'", "'b'", "white space"]),
        ([None, "a"], ["10 of 20", "row 0", "row 2", "row 4", "..."]),
    ],
)
def test_labels_that_are_not_alike(own_csv, labels, words):
    content = "\n".join(map(json.dumps, rows(labels=labels)))
    assert_user_error(own_csv(content, suffix=".jsonl"), *words)


def test_integer_labels_of_pandas_with_one_missing(own_csv):
    frame = pd.DataFrame(rows(labels=(0, 1)))
    frame.loc[7, "label"] = None
    assert_user_error(own_csv(frame), "decimal", "1 of 20", "astype(int)")


@pytest.mark.parametrize("without", [0, 5])
def test_ids_of_some_records_are_not_dropped(own_csv, without):
    records = [record | {"id": f"d{row}"} for row, record in enumerate(rows())]
    del records[without]["id"]
    result = own_csv(json.dumps(records), suffix=".json")
    assert_user_error(result, "1 of 20", "no id", f"row {without}")


def test_empty_text_beside_a_full_one(own_csv, tmp_path):
    frame = pd.DataFrame(rows()).assign(title="title")
    frame.loc[::2, "title"] = ""
    flags = ("--text_column_names", "title,abstract")
    assert own_csv(frame, None, *flags).code == 0
    texts = prepared(tmp_path / "data")["train"]["abstract"][:]
    assert {text.split(" text")[0] for text in texts} == {"train", "title train"}
    frame.loc[4, "abstract"] = " "
    assert_user_error(own_csv(frame, None, *flags), "1 of 20", "row 4", "empty text")


@pytest.mark.parametrize("column", ["abstract", "label"])
def test_text_with_a_lone_surrogate(own_csv, column):
    records = rows()
    records[3][column] = "half \ud83d of a sign"
    assert_user_error(own_csv(json.dumps(records), suffix=".json"), "row 3", "surrogate")


def test_parquet_of_pandas_with_a_categorical_label(run, tmp_path):
    frame = pd.DataFrame(rows())
    frame["label"] = pd.Categorical(frame["label"], ["b", "a"])
    frame.to_parquet(tmp_path / "train.parquet")
    result = run(
        "prepare_dataset", "--train_file", tmp_path / "train.parquet",
        "--output_dir", tmp_path / "data",
    )  # fmt: skip
    assert result.code == 0, result.err
    train = prepared(tmp_path / "data")["train"]
    assert train.features["label"].names == ["b", "a"]
    assert [1 - int(text.split()[-1]) % 2 for text in train["abstract"]] == train["label"][:]


def test_parquet_of_pandas_with_the_ids_as_index(run, tmp_path):
    frame = pd.DataFrame(rows()).assign(id=[f"d{row}" for row in range(20)]).set_index("id")
    frame.to_parquet(tmp_path / "train.parquet")
    result = run(
        "prepare_dataset", "--train_file", tmp_path / "train.parquet", "--splits", "train",
        "--output_dir", tmp_path / "data",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert prepared(tmp_path / "data")["train"]["id"][:3] == ["d0", "d1", "d2"]


# Class names decide, never numbers


def test_parquet_files_with_class_labels_in_another_order(run, tmp_path):
    words = []
    for split, names in (("train", ["a", "b"]), ("test", ["b", "a"])):
        records = rows(split)
        labels = [names.index(record["label"]) for record in records]
        columns = {"abstract": [record["abstract"] for record in records], "label": labels}
        table = Dataset.from_dict(columns).cast_column("label", ClassLabel(names=names))
        table.to_parquet(tmp_path / f"{split}.parquet")
        words += [f"--{split}_file", tmp_path / f"{split}.parquet"]
    assert run("prepare_dataset", *words, "--output_dir", tmp_path / "data").code == 0
    test = prepared(tmp_path / "data")["test"]
    assert test.features["label"].names == ["a", "b"]
    assert test["label"][:] == [0, 1] * 10


def write_with_own_orders(folder, files):
    """Write Parquet files, each with ClassLabels in its own order; texts are a or b, as labels."""
    for name, order in files.items():
        split = name.split("-")[0]
        records = rows(split)
        columns = {
            "id": [f"{name} {row}" for row in range(len(records))],
            "abstract": [f"{name} {record['abstract']} {record['label']}" for record in records],
            "label": [order.index(record["label"]) for record in records],
        }
        table = Dataset.from_dict(columns).cast_column("label", ClassLabel(names=order))
        table.to_parquet(folder / "data" / f"{name}.parquet")
    return folder


@pytest.mark.parametrize("order", [["b", "a"], ["c", "b", "a"]])
def test_splits_of_a_folder_with_classes_in_another_order(run, tmp_path, order):
    """datasets.load_dataset reads the numbers of the test split with the names of training."""
    files = {"train-00000-of-00001": ["a", "b"], "test-00000-of-00001": order}
    folder = write_with_own_orders(tmp_path / "own", files)
    result = run("prepare_dataset", "--dataset_name", folder, "--output_dir", tmp_path / "data")
    assert result.code == 0, result.err
    for split, part in prepared(tmp_path / "data").items():
        names = part.features["label"].names
        assert names[:2] == ["a", "b"], split
        for row in part:
            assert row["abstract"].endswith(names[row["label"]]), split

    part = load_split(str(folder), "test", ["label"])
    assert [part.features["label"].names[number] for number in part["label"]] == ["a", "b"] * 10


def test_files_of_one_split_with_classes_in_another_order_are_refused(run, tmp_path):
    files = {"train-00000-of-00002": ["a", "b"], "train-00001-of-00002": ["b", "a"]}
    folder = write_with_own_orders(tmp_path / "own", files)
    result = run("prepare_dataset", "--dataset_name", folder, "--output_dir", tmp_path / "data")
    assert_user_error(result, folder, "['b', 'a']", "['a', 'b']")


def test_splits_on_the_hub_with_classes_in_another_order_are_refused(tmp_path):
    files = {"train-00000-of-00001": ["a", "b"], "test-00000-of-00001": ["b", "a"]}
    folder = write_with_own_orders(tmp_path / "own", files)
    upload = (
        "import sys, huggingface_hub; api = huggingface_hub.HfApi();"
        "api.create_repo('tester/own', repo_type='dataset');"
        "api.upload_folder(repo_id='tester/own', repo_type='dataset', folder_path=sys.argv[1])"
    )
    prepare = [ROOT / "tools/prepare_dataset.py", "--output_dir", tmp_path / "data"]
    with hub_server() as hub:
        # In processes of their own: the libraries read the Hub's address once.
        environment = hub.environment(tmp_path / "home")
        subprocess.run([sys.executable, "-c", upload, folder], env=environment, check=True)
        done = subprocess.run(
            [sys.executable, *prepare, "--dataset_name", "tester/own"],
            env=environment,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: the files of tester/own have the classes in different orders" in done.stderr
    assert not list((tmp_path / "data").iterdir())


def test_integers_of_one_file_are_the_texts_of_another(own_csv, run, tmp_path):
    (tmp_path / "train.json").write_text(json.dumps(rows(labels=(0, 1))))
    pd.DataFrame(rows("test", labels=(0, 1))).to_csv(tmp_path / "test.csv", index=False)
    files = ("--train_file", tmp_path / "train.json", "--test_file", tmp_path / "test.csv")
    assert run("prepare_dataset", *files, "--output_dir", tmp_path / "data").code == 0
    assert prepared(tmp_path / "data")["test"]["label"][:] == [0, 1] * 10


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("a", "c"), ["10 rows", "'c'", "'a', 'b'", "remove the rows"]),
        (("a", "B"), ["'B'", "'a', 'b'"]),
        ((0, 1), ["'0', '1'", "--label_names"]),
        (("a", "b "), ["'b '", "'b'", "white space"]),
    ],
)
def test_classes_of_the_test_split_that_training_lacks(own_csv, labels, words):
    result = own_csv(pd.DataFrame(rows()), pd.DataFrame(rows("test", labels=labels)))
    assert_user_error(result, *words)


@pytest.mark.parametrize("form", ["{}", "LABEL_{}"])
def test_label_names_name_numbers(own_csv, tmp_path, form):
    train = pd.DataFrame(rows(labels=("sport", "art")))
    test = pd.DataFrame(rows("test", labels=(form.format(1), form.format(0))))
    result = own_csv(train, test, "--label_names", "art", "sport")
    assert result.code == 0, result.err
    part = prepared(tmp_path / "data")["test"]
    assert part.features["label"].names == ["art", "sport"]
    assert part["label"][:] == [1, 0] * 10


@pytest.mark.parametrize(
    ("train", "test", "names", "expected"),
    [
        ((0, 1, 2), (1, 2), ("1", "2", "3"), {"2", "3"}),  # "1" is a name, too
        ((1, 2, 3), (1, 2), ("1", "2", "3"), {"1", "2"}),
        ((0, 1, 2), (0, 1), ("2", "1", "0"), {"0", "1"}),
        (("LABEL_0", "LABEL_1"), (1,), ("1", "0"), {"0"}),
    ],
)
def test_names_that_are_numbers_are_read_alike_in_all_splits(
    own_csv, tmp_path, train, test, names, expected
):
    """A split without class 0 was read by itself, and every label of it was off by one."""
    tables = [pd.DataFrame(rows(count=30, labels=train)), pd.DataFrame(rows("test", labels=test))]
    result = own_csv(*tables, "--label_names", *names)
    assert result.code == 0, result.err
    part = prepared(tmp_path / "data")["test"]
    assert {part.features["label"].int2str(number) for number in part["label"]} == expected


def test_names_that_are_numbers_of_others_are_refused(own_csv):
    result = own_csv(pd.DataFrame(rows(labels=(1, 2))), None, "--label_names", "1", "2", "3")
    assert_user_error(result, "'1', '2'", "--label_names", "LABEL_0")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a"], ["--label_names 'a'", "'b'"]),
        (["a", "b", "a"], ["--label_names", "twice"]),
    ],
)
def test_label_names_that_do_not_fit(own_csv, names, words):
    assert_user_error(own_csv(pd.DataFrame(rows()), None, "--label_names", *names), *words)


@pytest.mark.parametrize(
    ("labels", "flags", "words"),
    [
        ([["a"], ["a", "b"], []], ["--label_names", "a"], ["classes", "are 'a';", "at least two"]),
        ([[], []], [], ["classes", "are none;", "at least two"]),
    ],
)
def test_lists_with_fewer_than_two_classes(own_csv, labels, flags, words):
    content = "".join(
        json.dumps({"id": str(row), "abstract": f"text {row}", "label": label}) + "\n"
        for row, label in enumerate(labels * 6)
    )
    assert_user_error(own_csv(content, None, *flags, suffix=".jsonl"), *words)


def test_label_names_with_a_number_beyond(own_csv):
    result = own_csv(pd.DataFrame(rows(labels=(1, 2))), None, "--label_names", "a", "b")
    assert_user_error(result, "2 names", "label 2", "number 0")


# Several labels per document


def several(split="train", count=60):
    """Own texts with lists of labels: c is rare, and some texts have none."""
    records = []
    for row in range(count):
        names = [name for name, step in (("a", 2), ("b", 3), ("c", 10)) if row % step == 0]
        records.append({"abstract": f"{split} text, number {row}", "label": names})
    return records


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_several_labels_are_lists_or_texts_with_a_delimiter(run, own_csv, tmp_path, kind):
    flags = ["--test_fraction", 0.1, "--validation_fraction", 0.2]
    if kind == "csv":
        frame = pd.DataFrame(several())
        frame["label"] = [" | ".join(names) for names in frame["label"]]
        result = own_csv(frame, None, *flags, "--label_delimiter", "|")
    elif kind == "json":
        result = own_csv(json.dumps(several()), None, *flags, suffix=".json")
    else:
        pd.DataFrame(several()).to_parquet(tmp_path / "train.parquet")
        result = run(
            "prepare_dataset", "--train_file", tmp_path / "train.parquet", *flags,
            "--output_dir", tmp_path / "data",
        )  # fmt: skip
    assert result.code == 0, result.err
    splits = prepared(tmp_path / "data")
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 42,
        "validation": 12,
        "test": 6,
    }
    names = splits["test"].features["label"].feature.names
    assert names == ["a", "b", "c"]
    expected = {record["abstract"]: record["label"] for record in several()}
    for part in splits.values():
        for row in part:
            assert [names[number] for number in row["label"]] == expected[row["abstract"]]
    # Stratified: 30, 20 and 6 documents have the labels, 20 have none.
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["problem_type"] == "multi_label_classification"
    for split, share in (("test", 0.1), ("validation", 0.18)):
        counts = manifest["counts"][split] | {"none": splits[split]["label"][:].count([])}
        for name, total in {"a": 30, "b": 20, "c": 6, "none": 20}.items():
            assert abs(counts[name] - share * total) < 1, (split, name)
    assert "a list of labels" in (tmp_path / "data" / "README.md").read_text()
    # What was written is read as it is.
    result = run(
        "prepare_dataset", "--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "again"
    )
    assert result.code == 0, result.err
    for split in splits:
        name = f"data/{split}-00000-of-00001.parquet"
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "data" / name).read_bytes()


def test_delimiter_that_occurs_in_a_class(own_csv, tmp_path):
    train = pd.DataFrame(several())
    train["label"] = ["; ".join(names) for names in train["label"]]
    train.to_csv(tmp_path / "train.csv", index=False)
    (tmp_path / "test.json").write_text(json.dumps([{"abstract": "x", "label": ["a;b"]}]))
    files = ("--test_file", tmp_path / "test.json", "--label_delimiter", ";")
    result = own_csv(train, None, *files)
    assert_user_error(result, "--label_delimiter ';'", "'a;b'")


def test_list_with_a_class_that_training_lacks(own_csv):
    test = [*several("test", 5), {"abstract": "x", "label": ["a", "d"]}]
    result = own_csv(json.dumps(several()), json.dumps(test), suffix=".json")
    assert_user_error(result, "1 rows of 'd'", "'a', 'b', 'c'")
    train = pd.DataFrame(several())
    train["label"] = ["; ".join(names) for names in train["label"]]
    flags = ("--label_delimiter", ";", "--label_names", "a", "b")
    assert_user_error(own_csv(train, None, *flags), "--label_names 'a', 'b'", "'c'")


def test_lists_of_numbers_get_names(own_csv, tmp_path):
    numbers = {"a": 0, "b": 1, "c": 2}
    records = [
        record | {"label": [numbers[name] for name in record["label"]]} for record in several()
    ]
    names = ("--label_names", "art", "book", "car")
    assert own_csv(json.dumps(records), None, *names, suffix=".json").code == 0
    train = prepared(tmp_path / "data")["train"]
    assert train.features["label"].feature.names == ["art", "book", "car"]
    assert [0, 1, 2] in train["label"][:] and [] in train["label"][:]


# Texts without labels


@pytest.mark.parametrize("kind", ["one", "several"])
def test_test_split_without_labels_is_written_and_read_again(run, own_csv, tmp_path, kind):
    train = rows() if kind == "one" else several()
    test = [{"abstract": "to be predicted"}, {"abstract": "so is this"}]
    result = own_csv(json.dumps(train), json.dumps(test), suffix=".json")
    assert result.code == 0, result.err
    assert "split 'test' has no labels in column 'label' (its columns are 'abstract')" in result.log
    assert prepared(tmp_path / "data")["test"]["label"][:] == [None, None]
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["unlabeled"] == {"test": 2}
    assert "The 2 texts of test have no labels" in (tmp_path / "data" / "README.md").read_text()
    flags = ("--dataset_name", tmp_path / "data", "--C", 1, "--output_dir", tmp_path / "svm")
    result = run("run_baseline", *flags)
    assert result.code == 0, result.err
    assert list(pd.read_csv(tmp_path / "svm" / "predictions.csv").columns[:2]) == [
        "id",
        "prediction",
    ]


def test_test_file_alone_without_labels(run, tmp_path):
    (tmp_path / "new.csv").write_text("abstract\nto be predicted\nso is this\n")
    flags = ("--test_file", tmp_path / "new.csv", "--splits", "test")
    result = run("prepare_dataset", *flags, "--output_dir", tmp_path / "data")
    assert result.code == 0, result.err
    assert prepared(tmp_path / "data")["test"].column_names == ["id", "abstract"]


def test_minus_one_is_a_class_where_training_has_it(own_csv, tmp_path):
    train = pd.DataFrame(rows(labels=(-1, 1)))
    test = pd.DataFrame(rows("test", labels=(-1,)))
    assert own_csv(train, test).code == 0
    assert set(prepared(tmp_path / "data")["test"]["label"]) == {0}


def test_training_and_validation_need_labels(own_csv):
    frame = pd.DataFrame(rows())
    assert_user_error(own_csv(frame.drop(columns="label")), "'label' is not in split 'train'")
    assert_user_error(own_csv(frame.assign(label="")), "20 of 20 rows", "'train'", "no label")


# Flags for splits, files and rows


def test_splits_of_other_names(run, tmp_path):
    (tmp_path / "hub").mkdir()
    for split in ("learn", "dev", "final"):
        part = Dataset.from_list(rows(split)).cast_column("label", ClassLabel(names=["a", "b"]))
        part.to_parquet(tmp_path / "hub" / f"{split}.parquet")
    files = [{"split": split, "path": f"{split}.parquet"} for split in ("learn", "dev", "final")]
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {json.dumps(files)}\n---\n"
    (tmp_path / "hub" / "README.md").write_text(card)
    flags = ("--train_split_name", "learn", "--validation_split_name", "dev")
    result = run(
        "prepare_dataset", "--dataset_name", tmp_path / "hub", *flags, "--test_split_name", "final",
        "--output_dir", tmp_path / "data",
    )  # fmt: skip
    assert result.code == 0, result.err
    for split, name in (("train", "learn"), ("validation", "dev"), ("test", "final")):
        assert prepared(tmp_path / "data")[split]["abstract"][0] == f"{name} text, number 0"
    result = run(
        "prepare_dataset", "--train_file", tmp_path / "x.csv", *flags,
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert_user_error(result, "--train_split_name", "--dataset_name")


def test_delimiter_of_a_csv_file_and_field_of_a_json_file(own_csv, tmp_path):
    result = own_csv(lines_of(rows(), "|"), None, "--csv_delimiter", "|")
    assert result.code == 0, result.err
    assert own_csv(lines_of(rows(), "\t"), None, "--csv_delimiter", r"\t").code == 0
    assert_user_error(
        own_csv(lines_of(rows()), None, "--csv_delimiter", "||"), "one character", "'||'"
    )
    content = json.dumps({"data": [], "rows": rows()})
    assert own_csv(content, None, "--json_field", "rows", suffix=".json").code == 0
    result = own_csv(content, None, "--json_field", "records", suffix=".json")
    assert_user_error(result, "no list under 'records'", "--json_field")


def test_test_fraction_takes_a_stratified_test_split_from_training(own_csv, run, tmp_path):
    frame = pd.DataFrame(rows(count=40))
    result = own_csv(frame, None, "--test_fraction", 0.25)
    assert result.code == 0, result.err
    assert "no test split: 10 training documents are used for it" in result.log
    splits = prepared(tmp_path / "data")
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 27,
        "validation": 3,
        "test": 10,
    }
    assert sorted(splits["test"]["label"]) == [0] * 5 + [1] * 5
    texts = [text for part in splits.values() for text in part["abstract"]]
    assert sorted(texts) == sorted(frame["abstract"])
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["arguments"]["test_fraction"] == 0.25
    # Training is the same where the test split is not wanted.
    flags = ("--train_file", tmp_path / "train.csv", "--test_fraction", 0.25)
    result = run(
        "prepare_dataset", *flags, "--splits", "train", "validation",
        "--output_dir", tmp_path / "two",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert prepared(tmp_path / "two")["train"]["id"][:] == splits["train"]["id"][:]
    for value in (0, 1, 1.5):
        result = own_csv(frame, None, "--test_fraction", value)
        assert_user_error(result, "--test_fraction", "between 0 and 1")


def test_bad_rows_are_dropped_and_counted(own_csv, tmp_path):
    train = [record | {"id": f"d{row}"} for row, record in enumerate(rows(count=30))]
    train[3]["abstract"] = " "
    train[5]["label"] = ""
    train[6]["id"] = "d3"  # the first one is dropped, so this one stays
    train[8]["id"] = "d9"
    result = own_csv(pd.DataFrame(train), None, "--drop_bad_rows", "--validation_fraction", 0.2)
    assert result.code == 0, result.err
    assert "1 of 30 rows of 'train' dropped: a duplicated id" in result.log
    splits = prepared(tmp_path / "data")
    ids = {identifier for part in splits.values() for identifier in part["id"]}
    assert ids == {record["id"] for record in train} - {"d5"}
    assert sum(map(len, splits.values())) == 27
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["dropped_rows"] == {
        "train": {
            "an empty text in abstract": 1,
            "no label in column 'label'": 1,
            "a duplicated id": 1,
        }
    }
    assert "1 rows of train were dropped: a duplicated id" in (
        tmp_path / "data" / "README.md"
    ).read_text().replace("\\", "")
    result = own_csv(pd.DataFrame(rows()).assign(abstract=" "), None, "--drop_bad_rows")
    assert_user_error(result, "every row of split 'train'")


def test_training_is_shuffled_before_it_is_truncated(own_csv, tmp_path):
    """Files are often sorted by class."""
    train = pd.DataFrame(rows(count=40)).sort_values("label")
    flags = ("--splits", "train", "--max_train_samples", 12)
    assert_user_error(own_csv(train, None, *flags), "are 'a'", "at least two classes")
    ids = []
    for seed in (1, 1, 2):
        assert own_csv(train, None, *flags, "--shuffle_train_dataset", "--seed", seed).code == 0
        part = prepared(tmp_path / "data")["train"]
        assert len(part) == 12 and set(part["label"]) == {0, 1}
        ids.append(part["id"][:])
    assert ids[0] == ids[1] != ids[2]


# Texts in two splits


def leaking():
    train = rows(count=30)
    test = rows("test")
    test[3]["abstract"] = train[4]["abstract"]
    test[5]["abstract"] = train[8]["abstract"].upper().replace(" ", "  ")
    return pd.DataFrame(train), pd.DataFrame(test)


def test_texts_in_training_and_test_are_counted(own_csv):
    result = own_csv(*leaking(), "--splits", "train", "test")
    assert result.code == 0, result.err
    assert "2 of 20 texts of split 'test' are also in split 'train'" in result.log
    assert "(1 to the letter)" in result.log
    assert "--drop_leaked" in result.log


def test_leaked_texts_are_dropped_from_training(own_csv, tmp_path):
    result = own_csv(*leaking(), "--splits", "train", "test", "--drop_leaked")
    assert result.code == 0, result.err
    splits = prepared(tmp_path / "data")
    assert (len(splits["train"]), len(splits["test"])) == (28, 20)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["leaked_removed"] == {"train": 2}
    assert manifest["counts"]["train"] == {"a": 13, "b": 15}
    assert "2 texts of train" in (tmp_path / "data" / "README.md").read_text()


def test_leaked_texts_are_dropped_though_the_test_split_is_not_written(own_csv, tmp_path):
    """And training is not cut for a validation split that nobody asked for."""
    result = own_csv(*leaking(), "--splits", "train", "--drop_leaked")
    assert result.code == 0, result.err
    splits = prepared(tmp_path / "data")
    assert {split: len(part) for split, part in splits.items()} == {"train": 28}
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["leaked_removed"] == {"train": 2}
    assert list(manifest["documents"]) == ["train"]

    train, _ = leaking()
    train.loc[7, "abstract"] = train["abstract"][9]
    flags = ("--splits", "train", "--drop_leaked", "--test_fraction", 0.5)
    removed = []
    for seed in (42, 7, 8):  # in one of the draws, the two equal texts are in different splits
        result = own_csv(train, None, *flags, "--split_seed", seed)
        assert result.code == 0, result.err
        manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
        removed.append(manifest["leaked_removed"].get("train", 0))
    assert 1 in removed, removed


def test_flags_of_splits_that_the_files_do_not_have_are_refused(own_csv):
    train, test = leaking()
    result = own_csv(train, None, "--splits", "train", "--drop_leaked")
    assert_user_error(result, "--drop_leaked", "no other split than train")
    result = own_csv(train, None, "--max_predict_samples", 3)
    assert_user_error(result, "--max_predict_samples", "no test split")
    result = own_csv(train, test, "--splits", "test", "--validation_fraction", 0.3)
    assert_user_error(result, "--validation_fraction", "no validation split")
    result = own_csv(None, test, "--split_seed", 7)
    assert_user_error(result, "--split_seed", "no split is taken")


def test_drop_leaked_that_would_leave_no_text_of_a_class(own_csv):
    train = pd.DataFrame(rows())
    result = own_csv(
        train, train[train["label"] == "b"], "--splits", "train", "test", "--drop_leaked"
    )
    assert_user_error(result, "--drop_leaked", "'b'")


# Files that are not ours


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_sources_and_notes_in_the_output_folder_stay(run, tmp_path):
    folder = tmp_path / "tickets"
    (folder / "data").mkdir(parents=True)
    flags = write_own_files(folder / "data")
    (folder / "data" / "notes.txt").write_text("precious")
    before = tree(folder)
    assert_user_error(run("prepare_dataset", *flags, "--output_dir", folder), "inside", "train.csv")
    assert tree(folder) == before


def test_folder_that_no_script_could_read_is_refused(run, tmp_path):
    flags = write_own_files(tmp_path)
    result = run("prepare_dataset", *flags, "--output_dir", tmp_path / "own [2]")
    assert_user_error(result, "own [2]", "one of the characters * ? [ ]", "another folder")
    assert not (tmp_path / "own [2]").exists()


@pytest.mark.parametrize("name", ["notes.txt", "data/notes.txt", "data/other.parquet"])
def test_foreign_file_in_a_prepared_folder(run, tmp_path, name):
    flags = write_own_files(tmp_path)
    assert run("prepare_dataset", *flags, "--output_dir", tmp_path / "data").code == 0
    (tmp_path / "data" / name).write_text("precious")
    before = tree(tmp_path / "data")
    result = run("prepare_dataset", *flags, "--drop_bad_rows", "--output_dir", tmp_path / "data")
    assert_user_error(result, name)
    assert tree(tmp_path / "data") == before


def test_data_file_that_was_changed_and_folder_of_another_script(run, tmp_path):
    flags = write_own_files(tmp_path)
    assert run("prepare_dataset", *flags, "--output_dir", tmp_path / "data").code == 0
    (tmp_path / "data/data/test-00000-of-00001.parquet").write_text("mine now")
    before = tree(tmp_path / "data")
    result = run("prepare_dataset", *flags, "--drop_bad_rows", "--output_dir", tmp_path / "data")
    assert_user_error(result, "test-00000-of-00001.parquet")
    assert tree(tmp_path / "data") == before
    (tmp_path / "arxiv").mkdir()
    (tmp_path / "arxiv" / "manifest.json").write_text('{"script": "fetch_arxiv.py"}')
    result = run("prepare_dataset", *flags, "--output_dir", tmp_path / "arxiv")
    assert_user_error(result, "arxiv", "manifest.json", "prepare_dataset.py")


def test_link_to_a_folder_is_not_followed(run, tmp_path):
    flags = write_own_files(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "train-00000-of-00001.parquet").write_text("precious")
    assert run("prepare_dataset", *flags, "--output_dir", tmp_path / "out").code == 0
    shutil.rmtree(tmp_path / "out" / "data")
    (tmp_path / "out" / "data").symlink_to(tmp_path / "elsewhere")
    assert_user_error(run("prepare_dataset", *flags, "--output_dir", tmp_path / "out"), "'data'")
    assert tree(tmp_path / "elsewhere") == {"train-00000-of-00001.parquet": b"precious"}


WRITING = ("write_bytes", "unlink", "rmdir", "mkdir")


def stop_at(monkeypatch, folder, number):
    """Stop at an operation on a file of the folder; one that writes leaves half a file."""
    calls = []

    def watch(owner, name):
        original = getattr(owner, name)

        def call(path, *more, **options):
            if folder in Path(path).parents:
                calls.append(f"{name} {Path(path).name}")
                if len(calls) == number:
                    if name == "write_bytes":
                        original(path, b"half")
                    raise KeyboardInterrupt
            return original(path, *more, **options)

        monkeypatch.setattr(owner, name, call)

    for name in WRITING:
        watch(Path, name)
    watch(os, "replace")
    return calls


@pytest.mark.parametrize("flags", [[], ["--splits", "test"]])
def test_interrupted_write_is_continued(run, tmp_path, monkeypatch, flags):
    """Wherever it is stopped, a dataset is the old one or seen to be incomplete.

    The same command then makes the same folder.
    """
    files = write_own_files(tmp_path)
    out, start, expected = tmp_path / "out", tmp_path / "start", tmp_path / "expected"
    other = ("--drop_bad_rows", *flags)
    assert run("prepare_dataset", *files, "--output_dir", start).code == 0
    assert run("prepare_dataset", *files, *other, "--output_dir", expected).code == 0
    was_stopped = True
    number = 0
    while was_stopped:
        number += 1
        shutil.copytree(start, out)
        with monkeypatch.context() as patch:
            calls = stop_at(patch, out, number)
            try:
                run("prepare_dataset", *files, *other, "--output_dir", out)
                was_stopped = False
            except KeyboardInterrupt:
                is_partial = (out / "manifest.partial.json").exists()
                written = {
                    name: content for name, content in tree(out).items() if ".tmp" not in name
                }
                assert is_partial or written in (tree(start), tree(expected)), calls
        assert run("prepare_dataset", *files, *other, "--output_dir", out).code == 0, calls
        assert tree(out) == tree(expected), calls
        shutil.rmtree(out)
    assert number > 12, "every file was written once more"


@pytest.mark.parametrize(
    "name",
    ["manifest.partial.json", "train-00000-of-00001.parquet", "README.md", "manifest.json"],
)
def test_full_disk_leaves_the_old_dataset(run, tmp_path, full_disk, name):
    files = write_own_files(tmp_path)
    out = tmp_path / "out"
    before = {}
    for _ in range(2):  # a new folder, and one with a dataset
        with full_disk(name):
            result = run("prepare_dataset", *files, "--drop_bad_rows", "--output_dir", out)
        assert_user_error(result, "cannot write", "No space left", "unchanged", "run the same")
        assert tree(out) == before
        assert run("prepare_dataset", *files, "--output_dir", out).code == 0
        before = tree(out)


def test_full_disk_leaves_no_half_file(run, tmp_path):
    files = write_own_files(tmp_path)
    out = tmp_path / "out"
    with limited_file_size(2000):
        result = run("prepare_dataset", *files, "--output_dir", out)
    assert_user_error(result, "cannot write", "unchanged")
    assert not list(out.iterdir())


@pytest.mark.parametrize("flag", ["--train_file", "--output_dir", "--text_column_names"])
def test_names_that_are_not_utf8_are_refused_before_anything_changes(run, tmp_path, flag):
    """No manifest could record them."""
    files = write_own_files(tmp_path)
    out = tmp_path / "out"
    assert run("prepare_dataset", *files, "--output_dir", out).code == 0
    before = tree(out)
    name = tmp_path / os.fsdecode(b"t\xff.csv")
    shutil.copy(tmp_path / "train.csv", name)
    result = run("prepare_dataset", *files, "--output_dir", out, flag, name)
    assert_user_error(result, flag, "not UTF-8", "rename")
    assert tree(out) == before


@pytest.mark.parametrize("script", ["prepare_dataset", "run_baseline"])
def test_folder_that_another_process_is_writing(run, tmp_path, script):
    flags = write_own_files(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    other = os.open(out, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    result = run(script, *flags, "--output_dir", out)
    assert_user_error(result, "another process", out)
    assert not list(out.iterdir())
    os.close(other)
    assert run(script, *flags, "--output_dir", out).code == 0


def test_folder_of_an_interrupted_command_is_not_read(run, tmp_path):
    """Its splits may be of two datasets."""
    flags = write_own_files(tmp_path)
    assert run("prepare_dataset", *flags, "--output_dir", tmp_path / "data").code == 0
    (tmp_path / "data" / "manifest.partial.json").write_text('{"script": "prepare_dataset.py"}')
    result = run(
        "run_baseline", "--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "svm"
    )
    assert_user_error(result, "incomplete", "prepare_dataset.py")


def test_next_command_runs_as_printed(run, tmp_path, monkeypatch):
    files = write_own_files(tmp_path)
    out = tmp_path / "own data"
    result = run("prepare_dataset", *files[:2], *files[4:], "--output_dir", out)
    assert result.code == 0, result.err
    command = shlex.split(result.log.strip().split("next: ")[1])
    monkeypatch.chdir(tmp_path)
    assert command[:2] == ["python", "run_baseline.py"]
    result = run("run_baseline", *command[2:], "--C", 1)
    assert result.code == 0, result.err


# Word order: the same words in both datasets


def long_records():
    words = " ".join(SHARED_WORDS)
    return [
        {"abstract": f"start{row} " + f"{words}, ricci. " * (row % 4), "label": "ab"[row % 2]}
        for row in range(20)
    ]


def test_truncated_and_shuffled_texts_have_the_same_words(own_csv, tiny_model, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    content = json.dumps(long_records())
    flags = ("--tokenizer_name", tiny_model, "--max_seq_length", 24)
    assert own_csv(content, None, *flags, "--truncate", suffix=".json").code == 0
    ordered = prepared(tmp_path / "data")["train"]
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["truncated"] == {"train": 14, "validation": 1}
    assert manifest["arguments"]["tokenizer_name"] == tiny_model.name
    assert "24 tokens" in (tmp_path / "data" / "README.md").read_text()
    assert own_csv(content, None, *flags, "--shuffle_words", suffix=".json").code == 0
    shuffled = prepared(tmp_path / "data")["train"]
    originals = {record["abstract"].split()[0]: record["abstract"] for record in long_records()}
    differ = 0
    for one, other in zip(ordered, shuffled, strict=True):
        assert one["id"] == other["id"]
        assert sorted(one["abstract"].split()) == sorted(other["abstract"].split())
        differ += one["abstract"].split() != other["abstract"].split()
        assert len(tokenizer(one["abstract"])["input_ids"]) <= 24
        assert len(tokenizer(other["abstract"])["input_ids"]) <= 24
        original = originals[one["abstract"].split()[0]]
        # Cut at a border of words, and no earlier than needed; short texts stay as they are.
        words = one["abstract"].split()
        assert original.split()[: len(words)] == words
        if len(words) < len(original.split()):
            longer = " ".join(original.split()[: len(words) + 1])
            assert len(tokenizer(longer)["input_ids"]) > 24
        else:
            assert one["abstract"] == original
    assert differ >= 10


def test_word_that_the_limit_cuts_is_left_out(own_csv, tiny_model, tmp_path):
    """ricci, is two tokens; the model would read ricci alone."""
    records = [
        {"abstract": f"metric {'ricci, ' * 5}" + f"convex {row}", "label": "ab"[row % 2]}
        for row in range(20)
    ]
    flags = ("--tokenizer_name", tiny_model, "--max_seq_length", 6, "--truncate")
    assert own_csv(json.dumps(records), None, *flags, suffix=".json").code == 0
    assert set(prepared(tmp_path / "data")["train"]["abstract"]) == {"metric ricci,"}


def test_prefix_of_the_model_takes_its_tokens(own_csv, tiny_model, tmp_path):
    from transformers import AutoTokenizer

    prefix = "metric curvature: "
    n_prefix = len(AutoTokenizer.from_pretrained(tiny_model).tokenize(prefix))
    assert n_prefix >= 3
    content = json.dumps(long_records())
    flags = ("--tokenizer_name", tiny_model, "--truncate")
    length = ("--max_seq_length", 24 - n_prefix)
    assert own_csv(content, None, *flags, *length, suffix=".json").code == 0
    expected = prepared(tmp_path / "data")["train"]["abstract"][:]
    flags += ("--text_prefix", prefix)
    assert own_csv(content, None, *flags, "--max_seq_length", 24, suffix=".json").code == 0
    assert prepared(tmp_path / "data")["train"]["abstract"][:] == expected
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["arguments"]["text_prefix"] == prefix


def test_long_word_takes_no_memory_of_all_words(own_csv, tmp_path):
    """The order is the one that shuffling an array of the words gave, as in published datasets."""
    frame = pd.DataFrame(rows())
    frame.loc[0, "abstract"] += " " + " ".join(f"w{k}" for k in range(3000)) + " " + "x" * 300_000
    tracemalloc.start()
    result = own_csv(frame, None, "--splits", "train", "--shuffle_words", "--seed", 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.code == 0, result.err
    assert peak < 100e6
    texts = {row["id"]: row["abstract"] for row in prepared(tmp_path / "data")["train"]}
    for row in range(1, 20):
        digest = hashlib.sha256(f"3 train.{row}".encode()).digest()
        generator = np.random.default_rng(list(digest))
        words = generator.permutation(frame["abstract"][row].split())
        assert texts[f"train.{row}"] == " ".join(words)


def test_shuffling_whole_texts_says_what_differs(own_csv):
    result = own_csv(pd.DataFrame(rows()), None, "--shuffle_words")
    assert result.code == 0, result.err
    assert "texts are shuffled whole" in result.log


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--truncate"], ["--truncate", "--tokenizer_name"]),
        (["--tokenizer_name", "M"], ["--tokenizer_name", "--truncate or --shuffle_words"]),
        (["--tokenizer_name", "nosuch", "--truncate"], ["cannot load --tokenizer_name nosuch"]),
        (["--tokenizer_name", "M", "--truncate", "--max_seq_length", 2], ["between 3 and"]),
        (["--shuffle_words", "--max_seq_length", 64], ["--max_seq_length requires --tokenizer"]),
        (["--shuffle_words", "--text_prefix", "x"], ["--text_prefix requires --tokenizer_name"]),
        (
            "--truncate --tokenizer_name M --max_seq_length 4 --text_prefix curvature:".split(),
            ["--text_prefix leaves no room for a text", "--max_seq_length"],
        ),
    ],
)
def test_bad_flags_of_truncation(own_csv, tiny_model, flags, words):
    flags = [tiny_model if flag == "M" else flag for flag in flags]
    words = [str(word) for word in words]
    assert_user_error(own_csv(pd.DataFrame(rows()), None, *flags), *words)


def test_length_is_recorded_where_texts_are_cut(own_csv, tiny_model, tmp_path):
    for flags, length in (
        (["--shuffle_words"], None),
        (["--shuffle_words", "--tokenizer_name", write_long_tokenizer(tiny_model, tmp_path)], 256),
    ):
        assert own_csv(pd.DataFrame(rows()), None, *flags).code == 0
        manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
        assert manifest["arguments"]["max_seq_length"] == length


def write_long_tokenizer(model, folder):
    """The tokenizer of a model, for texts of any length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, model_max_length=512)
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


def test_flags_of_a_hub_dataset_are_refused_for_local_data(run, own_csv, tiny_dataset, tmp_path):
    flags = ("--dataset_name", tiny_dataset, "--dataset_revision", "v1")
    result = run("prepare_dataset", *flags, "--output_dir", tmp_path / "data")
    assert_user_error(result, "--dataset_revision is for the Hub", tiny_dataset, "leave it out")
    for flag in ("--dataset_revision", "--dataset_config_name"):
        result = own_csv(pd.DataFrame(rows()), None, flag, "v1")
        assert_user_error(result, f"{flag} requires --dataset_name")


def test_tokenizer_that_wants_to_run_code_is_refused(own_csv, tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    auto_map = {"AutoTokenizer": ["code.Own", None], "AutoConfig": "code.Own"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    settings = {"tokenizer_class": "Own", "auto_map": auto_map}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    result = own_csv(pd.DataFrame(rows()), None, "--tokenizer_name", folder, "--truncate")
    # transformers also logs a warning, in tests into a stream that an earlier test has closed.
    assert result.code == 2
    assert "error: cannot load --tokenizer_name" in result.err
    assert "code of its own, which is never run" in result.err
    assert not (tmp_path / "ran").exists()
