"""Own texts become a dataset folder: columns, classes and splits as stated, every bad row named."""

import json

import pandas as pd
import pytest
from conftest import LABELS, assert_user_error, make_records, write_dataset, write_own_files
from datasets import ClassLabel, Dataset, load_dataset


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """datasets remembers what it read by path, size and time; the files of these tests are small and young."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def prepared(folder):
    return load_dataset(str(folder))


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
        (["--text_column_names", "published"], ["published", "not text", "timestamp"]),
        (["--text_column_names", "categories"], ["categories", "not text"]),
        (["--label_column_name", "published"], ["published", "names or integers"]),
        (["--label_column_name", "categories"], ["categories", "several labels"]),
        (["--train_file", "train.csv"], ["--dataset_name", "--train_file"]),
        (["--splits", "dev"], ["--splits", "dev", "validation"]),
        (["--label_colum_name", "kind"], ["--label_colum_name", "--label_column_name"]),
    ],
)
def test_bad_flags(run, tiny_dataset, tmp_path, flags, words):
    result = run(
        "prepare_dataset", "--dataset_name", tiny_dataset, "--output_dir", tmp_path / "out", *flags
    )
    assert_user_error(result, *words)


@pytest.mark.parametrize(("column", "value"), [("label", 0.5), ("abstract", 7)])
def test_numbers_where_names_or_texts_are_expected(run, tmp_path, column, value):
    frame = pd.DataFrame(make_records())[["abstract", "label"]]
    frame[column] = value
    frame.to_csv(tmp_path / "train.csv", index=False)
    result = run(
        "prepare_dataset", "--train_file", tmp_path / "train.csv", "--output_dir", tmp_path / "out"
    )
    assert_user_error(result, column, "float64" if column == "label" else "int64")


@pytest.mark.parametrize(
    ("kind", "spoil", "words"),
    [
        ("csv", lambda line: line + ",one,two,three", ["line 15002"]),
        ("csv", lambda line: '"' + line, ["starting at row 15001"]),
        ("jsonl", lambda line: line[:-5], ["line 15002"]),
    ],
)
def test_broken_line_is_named(run, tmp_path, kind, spoil, words):
    """Far from the start: files are read in pieces."""
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
    assert_user_error(result, "--validation_fraction", "--validation_file")


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
    assert_user_error(result, "test.csv", "train")


def test_folder_of_something_else_and_folder_that_cannot_be_made(run, tiny_dataset, tmp_path):
    flags = write_own_files(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "README.md").write_text("precious")
    assert_user_error(run("prepare_dataset", *flags, "--output_dir", tmp_path / "thesis"), "thesis")
    for path in (tmp_path / "train.csv", tmp_path / "train.csv" / "data"):
        result = run("prepare_dataset", *flags, "--output_dir", path)
        assert_user_error(result, "cannot write", "--output_dir", path)
