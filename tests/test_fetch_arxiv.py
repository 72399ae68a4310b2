"""fetch_arxiv.py: the dataset folder, the harvest through the search API, user errors, the Hub."""

import gzip
import hashlib
import json
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import arxiv
import datasets
import filelock
import huggingface_hub
import pytest
import requests
import yaml
from arxiv_server import (
    MONTHS,
    arxiv_server,
    full_disk,
    hashes_from_snapshot,
    parquet_hashes,
    snapshot_entry,
    start,
    study_entries,
    text_of,
    timeout_flags,
    write_snapshot,
)
from conftest import LABELS, ROOT, assert_user_error
from datasets import Dataset, Features, List, Value, load_dataset
from hub_server import TOKEN, Handler, hub_server

from fetch_arxiv import may_grow


@pytest.fixture
def snapshot(tmp_path):
    return write_snapshot(tmp_path / "snapshot.jsonl", study_entries())


@pytest.fixture
def fetch_snapshot(run, snapshot, tmp_path):
    """Run fetch_arxiv.py on the snapshot, with further flags."""

    def call(*flags, file=snapshot, folder=tmp_path / "dataset"):
        common = [
            "--source",
            "snapshot",
            "--snapshot_file",
            file,
            "--output_dir",
            folder,
            "--disable_tqdm",
        ]
        return run("fetch_arxiv", *common, *flags)

    return call


# The dataset folder


def test_dataset_folder_has_the_contract(fetch_snapshot, tmp_path):
    result = fetch_snapshot()
    assert result.code == 0, result.err
    folder = tmp_path / "dataset"
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    splits = ["train", "validation", "test"]
    assert written == {
        "README.md",
        "manifest.json",
        *(f"data/{name}-00000-of-00001.parquet" for name in splits),
    }

    dataset = load_dataset(str(folder))
    assert list(dataset) == splits
    assert [len(dataset[name]) for name in splits] == [80, 10, 10]
    features = dataset["train"].features
    assert list(features) == ["id", "title", "abstract", "label", "categories", "published"]
    assert features["label"].names == LABELS
    assert str(features["published"].dtype) == "timestamp[ms, tz=UTC]"
    rows = {row["id"]: row for name in splits for row in dataset[name]}
    assert len(rows) == 100
    for entry in study_entries():
        row = rows[entry["id"]]
        assert row["abstract"] == " ".join(entry["abstract"].split())
        assert row["title"] == " ".join(entry["title"].split())
        assert row["categories"] == entry["categories"].split()
        assert LABELS[row["label"]] == row["categories"][0]
        assert f"{row['published']:%d %b %Y}".lstrip("0") in entry["versions"][0]["created"]
    for name in splits:
        assert set(dataset[name]["label"]) == set(range(5))


def test_manifest_names_everything(fetch_snapshot, tmp_path):
    fetch_snapshot("--seed", 7)
    folder = tmp_path / "dataset"
    manifest = json.loads((folder / "manifest.json").read_text())
    dataset = load_dataset(str(folder))
    for name, split in dataset.items():
        assert manifest["ids"][name] == list(split["id"])
        assert manifest["labels"][name] == list(split["label"])
        assert sum(manifest["counts"][name].values()) == len(split)
        assert all(
            manifest["counts"][name][c] == list(split["label"]).count(k)
            for k, c in enumerate(LABELS)
        )
    assert {f"data/{name}": digest for name, digest in parquet_hashes(folder).items()} == manifest[
        "sha256"
    ]
    assert manifest["arguments"]["seed"] == 7
    assert str(tmp_path) not in json.dumps(manifest), (
        "a published manifest must not tell the user's folders"
    )


def test_card_can_be_read_by_the_hub(fetch_snapshot, tmp_path):
    fetch_snapshot()
    _, front, body = (tmp_path / "dataset/README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["license"] == "cc0-1.0"
    assert card["size_categories"] == ["n<1K"]
    paths = {item["split"]: item["path"] for item in card["configs"][0]["data_files"]}
    assert paths == {name: f"data/{name}-*" for name in ("train", "validation", "test")}
    assert "| math.SG " in body
    assert "the metadata snapshot snapshot.jsonl" in body
    assert "--ids_from manifest.json" in body


def test_sample_ids_are_not_called_arxiv(fetch_snapshot, tmp_path):
    entries = [entry | {"id": f"sample.{k:05d}"} for k, entry in enumerate(study_entries())]
    fetch_snapshot(file=write_snapshot(tmp_path / "sample.jsonl", entries))
    card = (tmp_path / "dataset/README.md").read_text()
    assert "license: other" in card
    assert "100 of the 100 records carry ids that are not arXiv's" in card


def test_same_records_in_another_order_give_the_same_bytes(fetch_snapshot, tmp_path):
    entries = study_entries()
    fetch_snapshot()
    random.Random(0).shuffle(entries)
    zipped = write_snapshot(tmp_path / "other.jsonl.gz", entries + entries[:7])
    result = fetch_snapshot(file=zipped, folder=tmp_path / "again")
    assert "duplicate id 7" in result.out
    assert parquet_hashes(tmp_path / "dataset") == parquet_hashes(tmp_path / "again")
    fetch_snapshot("--seed", 43, folder=tmp_path / "seed")
    assert parquet_hashes(tmp_path / "dataset") != parquet_hashes(tmp_path / "seed")


def test_a_label_is_its_place_in_the_categories_asked_for(fetch_snapshot, tmp_path):
    fetch_snapshot("--categories", "math.SG", "math.AG")
    train = load_dataset(str(tmp_path / "dataset"), split="train")
    assert train.features["label"].names == ["math.SG", "math.AG"]
    assert all(train.features["label"].names[row["label"]] == row["categories"][0] for row in train)


def test_counts_stand_beside_those_of_the_study(fetch_snapshot, tmp_path):
    result = fetch_snapshot()
    row = next(line for line in result.out.splitlines() if line.startswith("| math.CV"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        "16",
        "2",
        "2",
        "20",
        "20.0%",
        "6,179",
        "13.0%",
    ]
    other = fetch_snapshot("--end_date", "2020-12-31", folder=tmp_path / "other")
    assert "study" not in other.out


def test_what_is_dropped_is_counted(fetch_snapshot, tmp_path):
    notices = [
        "This paper has been withdrawn by the author due to a gap in Lemma 3.",
        "This article was later removed because of a mistake in its main theorem.",
        "The main construction contains a serious error and I am withdrawing it.",
    ]
    kept = [
        f"We show that {text_of(9001)} Points may be withdrawn from the boundary one by one.",
        "We show that a manifold with finitely many points removed can be retracted onto its "
        "boundary.",
    ]
    entries = study_entries()
    entries += [
        snapshot_entry(1000 + k, "math.AG", abstract=text) for k, text in enumerate(notices + kept)
    ]
    entries += [
        snapshot_entry(2000, "math.AG", abstract=" \n "),
        snapshot_entry(2001, "math.AG", abstract=None),
    ]
    entries += [
        snapshot_entry(3000 + k, name)
        for k, name in enumerate(["math.GT", "cs.CV", "math-ph", "math.A"])
    ]
    early = [
        {"version": "v1", "created": "Tue, 31 Dec 2013 23:59:59 GMT"},
        {"version": "v2", "created": "now"},
    ]
    entries += [snapshot_entry(4000, "math.DG", versions=early)]
    last = [{"version": "v1", "created": "Sun, 31 Dec 2023 23:59:59 GMT"}]
    entries += [snapshot_entry(4001, "math.DG", versions=last)]
    entries += [snapshot_entry(5000, "math.MG", abstract=entries[3]["abstract"])]
    result = fetch_snapshot(file=write_snapshot(tmp_path / "more.jsonl", entries))
    assert result.code == 0, result.err
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    assert manifest["dropped"] == {
        "withdrawn": 3,
        "empty abstract": 2,
        "other primary category": 4,
        "out of the dates": 1,
        "duplicate abstract": 1,
    }
    assert sum(map(len, manifest["ids"].values())) == 100 + len(kept) + 1


@pytest.mark.parametrize(
    ("abstract", "is_notice"),
    [
        ("This paper has been withdrawn by the authors.", True),
        ("This paper is withdrawn due to a gap in the proof of Theorem 2.", True),
        ("The note was retracted: Lemma 1 is false.", True),
        ("Withdrawn. See arXiv:1401.00001 for a correct proof.", True),
        ("[withdrawn] The main theorem is false.", True),
        ("Why withdrawn: the main theorem requires another hypothesis.", True),
        ("Temporarily withdrawn because of an error in Section 3.", True),
        ("To avoid possible confusion with a later paper, I withdraw this paper.", True),
        ("We have withdrawn the first version of the article.", True),
        ("The construction contains an error, and I am withdrawing it.", True),
        ("Lemma 4 is false. This has been withdrawn by the author.", True),
        ("This paper has flaws in the proof of Theorem 11.1 in Part II and so withdrawn.", True),
        ("A player may withdraw from a coalition at any time. We study the core.", False),
        ("In this paper, players who have withdrawn from a game come back later.", False),
        ("We withdraw the assumption of convexity from a theorem of Arrow.", False),
        ("A depositor withdraws money from a bank. This paper studies bank runs.", False),
        ("The surgeon's drug was withdrawn because of side effects; we model its market.", False),
        ("We show that points can be removed and the rest be retracted onto a curve.", False),
        ("Agents withdrawing this offer pay a price in the games of this paper.", False),
        ("Withdrawal strategies in public goods games are classified.", False),
    ],
)
def test_withdrawal_notice_speaks_of_the_paper(fetch_snapshot, tmp_path, abstract, is_notice):
    entries = [*study_entries(), snapshot_entry(7000, "math.AG", abstract=abstract)]
    result = fetch_snapshot(file=write_snapshot(tmp_path / "more.jsonl", entries))
    assert result.code == 0, result.err
    dropped = json.loads((tmp_path / "dataset/manifest.json").read_text())["dropped"]
    assert dropped == ({"withdrawn": 1} if is_notice else {})


@pytest.mark.parametrize("separators", [(",", ":"), (",", " : "), (", ", ":\t")])
def test_any_json_spacing_gives_the_same_records(fetch_snapshot, tmp_path, separators):
    fetch_snapshot()
    entries = [*study_entries(), *(snapshot_entry(3000 + k, "cs.LG") for k in range(5))]
    text = "".join(json.dumps(entry, separators=separators) + "\n" for entry in entries)
    (tmp_path / "spaced.jsonl").write_text(text.rstrip("\n"))
    result = fetch_snapshot(file=tmp_path / "spaced.jsonl", folder=tmp_path / "again")
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "dataset") == parquet_hashes(tmp_path / "again")


def test_larger_sample_contains_the_smaller(fetch_snapshot, tmp_path):
    ids = {}
    for size in (10, 15, 20):
        fetch_snapshot("--max_records_per_category", size, folder=tmp_path / f"{size}")
        manifest = json.loads((tmp_path / f"{size}/manifest.json").read_text())
        ids[size] = {identifier for split in manifest["ids"].values() for identifier in split}
        assert len(ids[size]) == 5 * size
        assert manifest["dropped"].get("over --max_records_per_category", 0) == 100 - 5 * size
    assert ids[10] < ids[15] < ids[20]


@pytest.mark.parametrize("flag", ["", "--config", "--config="])
def test_arguments_from_a_yaml_file(run, snapshot, tmp_path, flag):
    recipe = {
        "source": "snapshot",
        "snapshot_file": str(snapshot),
        "seed": 1,
        "categories": LABELS[:3],
    }
    file = tmp_path / "fetch.yaml"
    file.write_text(yaml.safe_dump(recipe))
    words = [f"{flag}{file}"] if flag in ("", "--config=") else [flag, file]
    words += ["--output_dir", tmp_path / "dataset", "--seed", 2]
    assert_user_error(
        run("fetch_arxiv", *words, "--config", file), "--config is given more than once"
    )
    result = run("fetch_arxiv", *words)
    assert result.code == 0, result.err
    arguments = json.loads((tmp_path / "dataset/manifest.json").read_text())["arguments"]
    assert (arguments["seed"], arguments["categories"]) == (2, LABELS[:3])


# The split by date


@pytest.fixture
def fetch_by_date(fetch_snapshot, tmp_path):
    """Split records by date of which every class has two in each year from 2014 to 2023."""
    entries = [snapshot_entry(number, LABELS[number // 10 % 5]) for number in range(100)]
    file = write_snapshot(tmp_path / "by-year.jsonl", entries)

    def call(*flags, **options):
        return fetch_snapshot("--split_by", "date", *flags, **({"file": file} | options))

    return call


def days_of(folder):
    """The days of each split, sorted."""
    days = {}
    for split, table in load_dataset(str(folder)).items():
        days[split] = sorted(moment.date().isoformat() for moment in table["published"])
    return days


def test_split_by_date_trains_on_the_past(fetch_by_date, tmp_path):
    result = fetch_by_date()
    assert result.code == 0, result.err
    folder = tmp_path / "dataset"
    days = days_of(folder)
    assert [len(days[split]) for split in ("train", "validation", "test")] == [80, 10, 10]
    assert days["train"][-1] <= days["validation"][0]
    assert days["validation"][-1] <= days["test"][0]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["arguments"]["split_by"] == "date"
    assert manifest["days"] == {split: [days[split][0], days[split][-1]] for split in days}
    card = " ".join((folder / "README.md").read_text().split())
    assert f"Split 0.8:0.1:0.1 by the day of version 1: train {days['train'][0]} to" in card
    assert f"test {days['test'][0]} to {days['test'][-1]}" in card
    assert "Stratified" not in card


def test_split_by_date_is_the_same_for_any_order_and_without_times_of_day(fetch_by_date, tmp_path):
    """Many papers of one day: their ids decide, as OAI-PMH has no times of day."""
    entries = []
    for number in range(100):
        clock = f"{(7 * number) % 24:02d}:{number % 60:02d}:00"
        day = f"Mon, {1 + number // 30} Jun 2015 {clock} GMT"
        entry = snapshot_entry(number, LABELS[number % 5], id=f"1506.{number:05d}")
        entries.append(entry | {"versions": [{"version": "v1", "created": day}]})
    ids = {}
    hashes = {}
    for name in ("in order", "reversed", "days"):
        records = entries[::-1] if name == "reversed" else entries
        if name == "days":
            text = re.sub(r"\d\d:\d\d:\d\d GMT", "00:00:00 GMT", json.dumps(entries))
            records = json.loads(text)
        file = write_snapshot(tmp_path / f"{name}.jsonl", records)
        folder = tmp_path / name
        assert fetch_by_date(file=file, folder=folder).code == 0
        ids[name] = json.loads((folder / "manifest.json").read_text())["ids"]
        hashes[name] = parquet_hashes(folder)
    assert hashes["in order"] == hashes["reversed"]
    assert ids["in order"] == ids["days"]
    # The cuts are within a day, so the larger ids of that day come later.
    assert sorted(ids["days"]["test"]) == [entry["id"] for entry in entries[-10:]]


def test_seed_decides_the_order_within_a_split_by_date(fetch_by_date, tmp_path):
    """--max_train_samples takes the first documents: these must not be the oldest."""
    for seed in (42, 43):
        fetch_by_date("--seed", seed, folder=tmp_path / str(seed))
    first, second = (
        json.loads((tmp_path / name / "manifest.json").read_text())["ids"]["train"]
        for name in ("42", "43")
    )
    assert first != second
    assert sorted(first) == sorted(second)
    days = [str(moment) for moment in load_dataset(str(tmp_path / "42"))["train"]["published"]]
    assert days != sorted(days)


def test_class_without_recent_papers_is_named(fetch_by_date, snapshot, tmp_path):
    result = fetch_by_date(file=snapshot)  # each of its classes has papers of two years only
    assert_user_error(result, "--split_by date", "math.AG", "the validation split")
    assert not (tmp_path / "dataset").exists()


def test_results_of_both_splits_in_the_docs_are_those_of_the_file():
    path = ROOT / "results/arxiv-dev/split-by-date.json"
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    for name, measured in models.items():
        cells = []
        for metric in ("accuracy", "macro_f1"):
            for part in ("random", "date", "difference"):
                estimate = measured[part][metric]
                value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
                cells.append(f"{value:.2f} ({low:.2f} to {high:.2f})")
        assert re.search(rf"\| {name}[^|]*\| {re.escape(' | '.join(cells))} \|", text), name
        assert measured["measured"] in text


# What a user may get wrong


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--categories", "math.AG", "math.DQ"], ["math.DQ", "did you mean math.QA"]),
        (["--categories", "math.AG"], ["at least two"]),
        (["--categories", "math.AG", "math.AG"], ["each once"]),
        (
            ["--start_date", "2023-12-31", "--end_date", "2014-01-01"],
            ["--end_date 2014-01-01", "earlier day first"],
        ),
        (["--start_date", "2014"], ["--start_date 2014", "YYYY-MM-DD"]),
        (["--start_date", "1971-01-01"], ["1971-01-01", "1991-08-14"]),
        (["--end_date", "2991-01-01"], ["2991-01-01", "today in UTC"]),
        (["--split_ratios", "0.8", "0.1", "0.2"], ["0.8 0.1 0.2", "sum to 1"]),
        (["--categories", "math.AG", "math.MP"], ["math.MP", "give math-ph"]),
        (["--categories", "math.AG", "stat.TH"], ["stat.TH", "give math.ST"]),
        (["--split_ratios", "0.9", "0.1"], ["three positive numbers"]),
        (["--split_ratios", "0.9", "0.1", "0.0"], ["three positive numbers"]),
        (["--split_ratios", "nan", "0.1", "0.1"], ["three positive numbers"]),
        (["--max_records_per_category", "9"], ["at least 10"]),
        (["--seed", "-1"], ["--seed", "4294967295"]),
        (["--page_size", "100"], ["--page_size", "--source api"]),
        (["--api_url", "http://127.0.0.1/"], ["--api_url", "--source api"]),
        (["--hub_dataset_id", "user/name"], ["--hub_dataset_id", "requires --push_to_hub"]),
        (["--sead", "1"], ["--sead", "--seed"]),
        (["--seed", "x"], ["--seed", "x"]),
        (["--source", "sanpshot"], ["sanpshot"]),
        (["--split_by", "day"], ["--split_by", "day"]),
        (
            ["--split_by", "date", "--start_date", "2015-06-01", "--end_date", "2015-06-01"],
            ["--split_by date", "2015-06-01", "--start_date"],
        ),
        (["--contact", "you@example.org"], ["--contact", "--source api"]),
    ],
)
def test_bad_flags(fetch_snapshot, tmp_path, flags, words):
    assert_user_error(fetch_snapshot(*flags), *words)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("name", ["a[1]", "a?", "*/dataset"])
def test_folder_that_no_script_could_read_is_refused(fetch_snapshot, tmp_path, name):
    result = fetch_snapshot(folder=tmp_path / name)
    assert_user_error(result, name, "one of the characters * ? [ ]", "another folder")
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot.jsonl"]


def test_class_with_too_few_records_is_named(fetch_snapshot, tmp_path):
    entries = study_entries()
    few = write_snapshot(
        tmp_path / "few.jsonl", [e for e in entries if not e["categories"].startswith("math.MG")]
    )
    assert_user_error(fetch_snapshot(file=few), "math.MG", "0 records", "at least 10")
    assert_user_error(
        fetch_snapshot("--split_ratios", 0.94, 0.03, 0.03), "math.AG", "20 records", "at least 33"
    )
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("per_class", [10, 11, 13, 19])
@pytest.mark.parametrize("ratios", [(0.8, 0.1, 0.1), (0.6, 0.1, 0.3), (0.5, 0.4, 0.1)])
def test_every_class_stands_in_every_split(per_class, ratios):
    from fetch_arxiv import SPLITS, FetchArguments, split_records

    arguments = FetchArguments(output_dir="", split_ratios=list(ratios))
    records = [{"id": k, "label": min(k // per_class, 4)} for k in range(4 * per_class + 200)]
    splits = split_records(records, arguments)
    assert sorted(r["id"] for name in SPLITS for r in splits[name]) == list(range(len(records)))
    for name, ratio in zip(SPLITS, ratios, strict=True):
        assert abs(len(splits[name]) - ratio * len(records)) <= 1
        assert {record["label"] for record in splits[name]} == set(range(5))


def spoil(path, kind, data):
    if kind == "truncated":
        path.write_bytes(data[:-200])
    elif kind == "truncated gzip":
        path.write_bytes(gzip.compress(data)[:-300])
    elif kind == "gzip in name only":
        path.write_bytes(data)
    elif kind == "spoilt gzip":
        zipped = bytearray(gzip.compress(data))
        zipped[len(zipped) // 2] ^= 255
        path.write_bytes(zipped)
    elif kind == "array":
        path.write_bytes(b"[" + data.replace(b"\n", b",") + b"]")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "other json":
        path.write_bytes(b'{"answer": 42}\n')


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("missing", "no.jsonl", ["cannot read snapshot", "No such file"]),
        ("truncated", "cut.jsonl", ["line 100"]),
        ("truncated gzip", "cut.jsonl.gz", ["cannot read snapshot", "complete"]),
        ("gzip in name only", "plain.jsonl.gz", ["not gzip data"]),
        ("spoilt gzip", "spoilt.jsonl.gz", ["cannot read snapshot"]),
        ("array", "array.json", ["one object per line"]),
        ("empty", "empty.json", ["does not start with a JSON object"]),
        ("folder", "folder", ["cannot read snapshot", "directory"]),
        ("other json", "other.json", ["line 1 is not an arXiv record", "categories"]),
    ],
)
def test_bad_snapshot_files(fetch_snapshot, snapshot, tmp_path, kind, name, words):
    bad = tmp_path / name
    spoil(bad, kind, snapshot.read_bytes())
    assert_user_error(fetch_snapshot(file=bad), bad, *words)
    assert not (tmp_path / "dataset").exists()


def test_snapshot_file_must_be_given(run, tmp_path):
    result = run("fetch_arxiv", "--source", "snapshot", "--output_dir", tmp_path / "dataset")
    assert_user_error(result, "--snapshot_file")


def test_broken_line_is_named_and_can_be_passed_over(fetch_snapshot, snapshot, tmp_path):
    lines = snapshot.read_text().splitlines()
    lines.insert(41, lines[41][: len(lines[41]) // 2])
    lines.insert(
        60,
        '{"id": "1401.00001", "title": "t", "categories": "math.AG", "abstract": "a", '
        '"versions": []}',
    )
    lines.insert(70, "")
    (tmp_path / "broken.jsonl").write_text("\n".join(lines))
    assert_user_error(fetch_snapshot(file=tmp_path / "broken.jsonl"), "line 42", "--skip_bad_lines")
    result = fetch_snapshot(
        "--skip_bad_lines", file=tmp_path / "broken.jsonl", folder=tmp_path / "skipped"
    )
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "skipped/manifest.json").read_text())["dropped"]["bad lines"] == 2
    fetch_snapshot()
    assert parquet_hashes(tmp_path / "dataset") == parquet_hashes(tmp_path / "skipped")


def test_broken_lines_are_counted_and_the_first_three_named(fetch_snapshot, snapshot, tmp_path):
    lines = snapshot.read_text().splitlines()
    for place in (10, 20, 30, 40, 50):
        lines[place] = '{"id": 5}'
    (tmp_path / "broken.jsonl").write_text("\n".join(lines))
    result = fetch_snapshot(file=tmp_path / "broken.jsonl")
    assert_user_error(result, "5 entries", "line 11", "line 21", "line 31", "--skip_bad_lines")
    assert "line 41" not in result.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": ""}, "the id is empty"),
        ({"id": " \n"}, "the id is empty"),
        ({"versions": [{"version": "v2", "created": "Mon, 2 Jan 2017 00:00:00 GMT"}]}, "v1"),
        ({"versions": []}, "v1"),
        ({"versions": [{"created": "Mon, 2 Jan 2017 00:00:00 GMT"}]}, "version"),
    ],
)
def test_record_without_an_id_or_a_date_of_version_1_is_named(
    fetch_snapshot, tmp_path, change, words
):
    entries = study_entries()
    entries[4] |= change
    file = write_snapshot(tmp_path / "changed.jsonl", entries)
    assert_user_error(fetch_snapshot(file=file), "line 5", words, "--skip_bad_lines")
    assert fetch_snapshot("--skip_bad_lines", file=file).code == 0
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    assert manifest["dropped"] == {"bad lines": 1}


def test_versions_in_another_order_have_the_date_of_the_first(fetch_snapshot, tmp_path):
    entries = study_entries()
    for entry in entries:
        later = {"version": "v2", "created": "Mon, 1 Jan 2024 00:00:00 GMT"}
        entry["versions"] = [later, *entry["versions"]]
    file = write_snapshot(tmp_path / "changed.jsonl", entries)
    assert fetch_snapshot(file=file).code == 0
    assert parquet_hashes(tmp_path / "dataset") == hashes_from_snapshot(
        study_entries(), tmp_path / "file"
    )


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_snapshot_from_a_pipe(fetch_snapshot, tmp_path, suffix):
    """With more records than the progress bar is updated for."""
    entries = study_entries(per_class=220)
    content = write_snapshot(tmp_path / f"large.jsonl{suffix}", entries).read_bytes()
    pipe = tmp_path / f"pipe{suffix}"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[content], daemon=True)
    writer.start()
    result = fetch_snapshot(file=pipe)
    assert result.code == 0, result.err
    writer.join()
    assert parquet_hashes(tmp_path / "dataset") == hashes_from_snapshot(entries, tmp_path / "file")


def test_line_without_end_takes_little_memory(fetch_snapshot, snapshot, tmp_path):
    """A few kilobytes of gzip can stand for a line of gigabytes."""
    file = tmp_path / "bomb.jsonl.gz"
    with gzip.open(file, "wb") as stream:
        stream.write(snapshot.read_bytes())
        stream.write(b'{"id": "1401.00001", "categories": "math.AG", "title": "')
        for _ in range(150):
            stream.write(bytes(2**20))
        stream.write(b'"}\n')
    tracemalloc.start()
    result = fetch_snapshot(file=file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_user_error(result, f"{file} line 101", "longer than 16 MiB", "--skip_bad_lines")
    assert peak < 100 * 2**20
    assert fetch_snapshot("--skip_bad_lines", file=file).code == 0
    dropped = json.loads((tmp_path / "dataset/manifest.json").read_text())["dropped"]
    assert dropped == {"bad lines": 1}
    fetch_snapshot(folder=tmp_path / "without")
    assert parquet_hashes(tmp_path / "dataset") == parquet_hashes(tmp_path / "without")


@pytest.mark.parametrize(
    "name", ["notes.txt", "data/mine.csv", "manifest.json", "README.md", "data/x/y"]
)
def test_folder_with_other_things_is_left_alone(fetch_snapshot, tmp_path, name):
    path = tmp_path / "dataset" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    named = name if name not in ("manifest.json", "README.md") else "holds no manifest.json"
    assert_user_error(fetch_snapshot(), tmp_path / "dataset", named, "choose another folder")
    assert [p for p in (tmp_path / "dataset").rglob("*") if p.is_file()] == [path]
    assert path.read_text() == "{}"


@pytest.mark.parametrize("name", ["data", ".fetch", ".fetch/partial"])
def test_link_to_a_folder_is_not_followed(fetch_snapshot, tmp_path, name):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("mine")
    link = tmp_path / "dataset" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(mine, target_is_directory=True)
    assert_user_error(fetch_snapshot(), repr(name), "choose another folder")
    assert link.is_symlink()
    assert [path.name for path in mine.iterdir()] == ["README.md"]
    assert (mine / "README.md").read_text() == "mine"


def test_refused_command_changes_nothing(fetch_snapshot, tmp_path):
    fetch_snapshot()
    folder = tmp_path / "dataset"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (tmp_path / "bad.jsonl").write_text('{"answer": 42}\n')
    assert_user_error(fetch_snapshot("--seed", 1, file=tmp_path / "bad.jsonl"), "line 1")
    assert_user_error(fetch_snapshot("--seed", -1), "--seed")
    assert_user_error(fetch_snapshot("--split_ratios", 0.96, 0.02, 0.02), "at least 50")
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    assert not (folder / ".fetch").exists()
    (tmp_path / "empty").mkdir()
    assert_user_error(
        fetch_snapshot(file=tmp_path / "bad.jsonl", folder=tmp_path / "empty"), "line 1"
    )
    assert not list((tmp_path / "empty").iterdir()), "the user's folder stays, and nothing in it"


def test_last_line_names_a_command_that_runs(fetch_snapshot, run, monkeypatch, tmp_path):
    folder = tmp_path / "a folder"
    result = fetch_snapshot(folder=folder)
    command = shlex.split(result.log.split("next: python ")[1])
    monkeypatch.chdir(tmp_path)
    done = run(command[0].removesuffix(".py"), *command[1:])
    assert done.code == 0, done.err
    assert (tmp_path / "runs/svm/predictions.csv").exists()


@pytest.mark.parametrize("moment", range(6))
def test_stopped_while_files_are_renamed_it_goes_on(fetch_snapshot, monkeypatch, tmp_path, moment):
    """Whichever files have been renamed, the folder stays this script's.

    Only a complete one has a manifest.
    """
    import fetch_arxiv

    def stop_at(number):
        calls = iter(range(100))

        def replace(source, target, original=fetch_arxiv.os.replace):
            if "dataset/.fetch" not in str(target) and next(calls) == number:
                raise KeyboardInterrupt
            original(source, target)

        return replace

    folder = tmp_path / "dataset"
    for seed in (1, 2):  # a new folder, and one with an earlier dataset
        with (
            monkeypatch.context() as patch,
            pytest.raises(KeyboardInterrupt) if moment < 5 else nullcontext(),
        ):
            patch.setattr(fetch_arxiv.os, "replace", stop_at(moment))
            assert fetch_snapshot("--seed", seed).code == 0
        assert (folder / "manifest.json").exists() == (moment == 5)
        result = fetch_snapshot("--seed", seed)
        assert result.code == 0, result.err
        manifest = json.loads((folder / "manifest.json").read_text())
        assert {
            f"data/{name}": digest for name, digest in parquet_hashes(folder).items()
        } == manifest["sha256"]


def test_killed_at_any_moment_the_snapshot_gives_the_same_bytes(snapshot, fetch_snapshot, tmp_path):
    assert fetch_snapshot().code == 0
    flags = [
        "--source",
        "snapshot",
        "--snapshot_file",
        snapshot,
        "--output_dir",
        tmp_path / "killed",
    ]
    process = start("fetch_arxiv", *flags)
    while process.is_alive() and not (tmp_path / "killed/.fetch/partial").exists():
        time.sleep(0.001)
    process.kill()
    process.join()
    assert fetch_snapshot(folder=tmp_path / "killed").code == 0
    assert parquet_hashes(tmp_path / "killed") == parquet_hashes(tmp_path / "dataset")


@pytest.mark.parametrize("names", [[], ["fetch.json.tmp"], ["lock"]])
def test_killed_before_the_record_it_goes_on(fetch_snapshot, tmp_path, names):
    (tmp_path / "dataset/.fetch").mkdir(parents=True)
    for name in names:
        (tmp_path / "dataset/.fetch" / name).touch()
    result = fetch_snapshot()
    assert result.code == 0, result.err
    assert {path.name for path in (tmp_path / "dataset").iterdir()} == {
        "README.md",
        "manifest.json",
        "data",
    }


def test_folder_with_a_name_that_is_too_long(fetch_snapshot, tmp_path):
    assert_user_error(fetch_snapshot(folder=tmp_path / ("l" * 300)), "File name too long")


@pytest.mark.parametrize("flag", ["--snapshot_file", "--output_dir"])
def test_names_that_are_not_utf8_are_refused_before_the_work(
    fetch_snapshot, snapshot, tmp_path, flag
):
    """No card and no next command could have them."""
    name = tmp_path / os.fsdecode(b"s\xff.jsonl")
    if flag == "--snapshot_file":
        shutil.copy(snapshot, name)
    assert_user_error(fetch_snapshot(flag, name), flag, "not UTF-8", "rename")
    assert not (tmp_path / "dataset").exists()
    assert flag == "--snapshot_file" or not name.exists()


def test_folder_that_cannot_be_written(fetch_snapshot, tmp_path):
    assert_user_error(fetch_snapshot(folder="/proc/dataset"), "cannot write into", "/proc/dataset")


@pytest.mark.parametrize("change", ["byte order mark", "carriage returns", "no newline at the end"])
def test_files_of_other_systems_give_the_same_bytes(fetch_snapshot, snapshot, tmp_path, change):
    fetch_snapshot()
    data = snapshot.read_bytes()
    changed = {
        "byte order mark": b"\xef\xbb\xbf" + data,
        "carriage returns": data.replace(b"\n", b"\r\n"),
        "no newline at the end": data.rstrip(b"\n"),
    }
    file = tmp_path / "a folder" / "päpers.jsonl"
    file.parent.mkdir()
    file.write_bytes(changed[change])
    result = fetch_snapshot(file=file, folder=tmp_path / "a folder" / "dataset")
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "a folder/dataset") == parquet_hashes(tmp_path / "dataset")
    assert f"--dataset_name '{tmp_path / 'a folder/dataset'}'" in result.log


@pytest.mark.parametrize("line", ["null", "[1]", '{"id": 704.1}', '"id"'])
def test_line_of_another_type_is_named(fetch_snapshot, snapshot, tmp_path, line):
    complete = {
        "title": "t",
        "categories": "math.AG",
        "abstract": "a",
        "versions": [{"created": "Mon, 2 Apr 2017 19:18:42 GMT"}],
    }
    value = json.loads(line)
    text = json.dumps(value | complete) if isinstance(value, dict) else line
    (tmp_path / "other.jsonl").write_text(snapshot.read_text() + text + "\n")
    assert_user_error(
        fetch_snapshot(file=tmp_path / "other.jsonl"), "line 101 is not an arXiv record"
    )


def test_output_dir_that_is_a_file(fetch_snapshot, tmp_path):
    (tmp_path / "dataset").write_text("mine")
    assert_user_error(fetch_snapshot(), tmp_path / "dataset")
    assert (tmp_path / "dataset").read_text() == "mine"


def test_own_folder_is_written_again(fetch_snapshot, tmp_path):
    fetch_snapshot()
    before = parquet_hashes(tmp_path / "dataset")
    assert fetch_snapshot("--seed", 1).code == 0
    assert parquet_hashes(tmp_path / "dataset") != before
    assert fetch_snapshot().code == 0
    assert parquet_hashes(tmp_path / "dataset") == before


def test_second_process_on_one_folder_stops(fetch_snapshot, tmp_path):
    (tmp_path / "dataset/.fetch").mkdir(parents=True)
    (tmp_path / "dataset/.fetch/fetch.json").write_text('{"script": "fetch_arxiv.py"}')
    with filelock.FileLock(tmp_path / "dataset/.fetch/lock"):
        assert_user_error(fetch_snapshot(), "another process", tmp_path / "dataset")
    assert fetch_snapshot().code == 0


def test_full_disk_leaves_the_old_dataset(fetch_snapshot, snapshot, tmp_path):
    fetch_snapshot()
    folder = tmp_path / "dataset"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with full_disk(8192):
        assert_user_error(
            fetch_snapshot("--seed", 5),
            "cannot write",
            folder,
            "an existing dataset there is unchanged",
        )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# The harvest through the search API


OTHER = ["math.GT", "math.AP", "cs.CG", "math-ph"]


def cross_lists(number=30):
    """Papers of other fields that cross-list one of the five: a query finds them, too."""
    return [
        snapshot_entry(5000 + k, OTHER[k % 4], categories=f"{OTHER[k % 4]} {LABELS[k % 5]}")
        for k in range(number)
    ]


@pytest.fixture(scope="module")
def records():
    return study_entries() + cross_lists()


@pytest.fixture
def server(records):
    with arxiv_server(records) as running:
        yield running


@pytest.fixture(scope="module")
def expected(records, tmp_path_factory):
    """The parquet files' hashes that the snapshot source gives for the same records."""
    return hashes_from_snapshot(records, tmp_path_factory.mktemp("expected"))


def api_flags(server, folder, *more, page_size=20):
    return [
        *[
            "--output_dir",
            folder,
            "--api_url",
            server.api_url,
            "--page_size",
            page_size,
            "--delay_seconds",
            0.01,
        ],
        *[*timeout_flags(), "--disable_tqdm", *more],
    ]


@pytest.fixture
def fetch(run, server, tmp_path):
    """Run fetch_arxiv.py against the local arXiv."""

    def call(*more, folder=tmp_path / "dataset", **options):
        return run("fetch_arxiv", *api_flags(server, folder, *more, **options))

    return call


def windows_of(folder, state="jsonl"):
    """The windows that are finished (or halved), and how many entries arXiv announced for each."""
    names = [path.name.split(".") for path in folder.glob(f".fetch/*/*.{state}.gz")]
    return {name: int(total) for name, total, *_ in names}


def interval(window):
    return f"[{window.replace('-', ' TO ')}]"


# Everything comes, with few requests


def test_the_local_arxiv_counts_the_connections_that_a_client_keeps_open(server):
    def ask(session):
        assert (
            session.get(server.api_url, params={"search_query": "none"}, timeout=10).status_code
            == 400
        )

    for _ in range(3):
        with requests.Session() as session:
            ask(session)
    assert server.most_connections == 1
    with requests.Session() as first, requests.Session() as second:
        ask(first)
        ask(second)
    assert server.most_connections == 2


def test_api_gives_the_bytes_of_the_snapshot(fetch, server, expected, tmp_path):
    result = fetch()
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "dataset") == expected
    assert len(server.log) == 1 + math.ceil(130 / 20), (
        "one request for the number of entries, one per page"
    )
    assert all("arxiv-confusable" in request["agent"] for request in server.log)
    assert server.most_connections == 1
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    assert manifest["harvest"]["requests"] == len(server.log)
    # A request that takes longer than the delay is not waited for.
    assert 0 <= manifest["harvest"]["waited_seconds"] <= 0.01 * (len(server.log) - 1) + 0.005
    assert manifest["dropped"] == {"other primary category": 30}


def test_short_pauses_add_up(monkeypatch):
    """Each of them is shorter than what the manifest's two digits show."""
    import fetch_arxiv

    monkeypatch.setattr(fetch_arxiv.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(fetch_arxiv.time, "sleep", lambda seconds: None)
    pace = fetch_arxiv.Pace(0.004)
    for _ in range(10):
        pace.rest()
        pace.wait()
    assert pace.requests == 10
    assert pace.waited_seconds == pytest.approx(0.04)


def test_few_requests_when_a_query_is_too_large(run, tmp_path):
    """A field that doubles within ten years: at most 1.25 times the fewest requests."""
    entries = []
    for number in range(2000):
        year, rest = divmod(10 * math.log2(1 + number / 2000), 1)
        clock = f"{number % 24:02d}:{number % 60:02d}:30"
        moment = f"{1 + int(28 * rest)} Jun {2014 + int(year)} {clock} GMT"
        versions = [{"version": "v1", "created": f"Mon, {moment}"}]
        entries.append(
            snapshot_entry(
                number, LABELS[number % 5], abstract=f"Number {number}.", versions=versions
            )
        )
    with arxiv_server(entries) as server:
        result = run(
            "fetch_arxiv",
            *api_flags(server, tmp_path / "dataset", "--max_window", 750, page_size=50),
        )
        assert result.code == 0, result.err
        manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
        assert sum(map(len, manifest["ids"].values())) == 2000
        assert len(server.log) <= 1.25 * 2000 / 50
        assert max(int(request["start"]) for request in server.log) < 750
        assert len(windows_of(tmp_path / "dataset")) > 1
        assert server.most_connections == 1


def test_times_of_day_survive_windows(run, tmp_path):
    """Entries at the very edges of windows and within one minute are neither lost nor doubled."""
    entries = study_entries()
    for k, entry in enumerate(entries):
        hour = ["00:00:00", "00:00:30", "23:59:59", "12:00:00"][k % 4]
        entry["versions"][0]["created"] = f"Mon, {1 + k // 10} Mar 2015 {hour} GMT"
    with arxiv_server(entries) as server:
        days = ["--start_date", "2015-03-01", "--end_date", "2015-03-10", "--max_window", 20]
        result = run("fetch_arxiv", *api_flags(server, tmp_path / "dataset", *days, page_size=10))
    assert result.code == 0, result.err
    snapshot = write_snapshot(tmp_path / "snapshot.jsonl", entries)
    again = [
        "--source",
        "snapshot",
        "--snapshot_file",
        snapshot,
        "--output_dir",
        tmp_path / "again",
        *days[:4],
    ]
    assert run("fetch_arxiv", *again).code == 0
    assert parquet_hashes(tmp_path / "dataset") == parquet_hashes(tmp_path / "again")


def test_requests_keep_their_distance(fetch, server):
    server.faults = {1: "503", 2: "429 0", 3: "reset", 4: "cut", 5: "empty"}
    assert fetch("--delay_seconds", 0.05, page_size=50).code == 0
    times = [request["time"] for request in server.log]
    assert len(times) >= 8
    assert min(b - a for a, b in pairwise(times)) >= 0.05


# Faults


FAULTS = [
    *[
        "503",
        "429",
        "503 1",
        "429 1",
        "500",
        "html",
        "empty",
        "nothing",
        "cut",
        "cut feed",
        "reset",
        "silence",
    ],
    *["no headers", "503 soon", "429 Thu, 01 Jan 1970 00:00:00 GMT"],
    *["one more", "one less", "twice", "short", "out of order", "drip", "drip, headers"],
]


@pytest.mark.parametrize("places", [[0], [3, 6]])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault(fetch, server, expected, tmp_path, fault, places):
    server.faults = dict.fromkeys(places, fault)
    result = fetch(*timeout_flags(fault))
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "dataset") == expected
    assert server.most_connections == 1
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    assert manifest["harvest"]["requests"] == len(server.log)


def test_all_faults_in_one_fetch(fetch, server, expected, tmp_path):
    server.faults = {3 * k: fault for k, fault in enumerate(FAULTS)}
    result = fetch("--max_window", 60, *timeout_flags("silence"), page_size=5)
    assert result.code == 0, result.err
    assert len(server.log) > max(server.faults), "every fault was met"
    assert parquet_hashes(tmp_path / "dataset") == expected


def test_retry_after_is_kept(fetch, server):
    server.faults = {0: "503 1"}
    assert fetch().code == 0
    assert server.log[1]["time"] - server.log[0]["time"] >= 1


def test_retry_after_of_a_page_is_kept(fetch, server):
    """The arxiv package shows no headers, but its requests go through the script's adapter."""
    until = []

    def rule(number, query):
        if number == 3:
            until.append(time.monotonic() + 1)
        if until and time.monotonic() < until[0]:
            return f"429 {math.ceil(until[0] - time.monotonic())}"

    server.fault = rule
    assert fetch().code == 0
    assert not [request for request in server.log[4:] if request["time"] < until[0]]


@pytest.mark.parametrize("place", [0, 1])
def test_pauses_grow(fetch, server, place):
    """Of refused requests (503), and of pages that do not arrive while their number does."""
    server.fault = lambda number, query: "503" if place == 0 and number < 5 else None
    if place:
        server.fault = lambda number, query: (
            "html" if query["max_results"] != "1" and number < 10 else None
        )
    assert fetch("--delay_seconds", 0.03).code == 0
    times = [request["time"] for request in server.log]
    if place:
        times = times[:11:2]
    assert times[5] - times[4] >= 0.48 > times[1] - times[0]


def test_entry_without_summary_is_counted_as_empty(fetch, server, tmp_path):
    server.fault = lambda number, query: "no summary"
    assert fetch(page_size=2000).code == 0
    assert (
        json.loads((tmp_path / "dataset/manifest.json").read_text())["dropped"]["empty abstract"]
        == 1
    )


def test_entry_without_date_does_not_stop_the_rest(fetch, server, records, tmp_path):
    """The package cannot read such an entry; what came must still agree with what is announced."""
    server.undated = {records[7]["id"]}
    assert fetch(page_size=2000).code == 0
    assert windows_of(tmp_path / "dataset") == {"201401010000-202401010000": 130}
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    assert (
        sum(map(len, manifest["ids"].values())) + manifest["dropped"]["other primary category"]
        == 129
    )


def test_entry_that_arxiv_lists_and_counts_twice(fetch, server, expected, tmp_path):
    server.fault = lambda number, query: "twice, counted"
    result = fetch(page_size=2000)
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "dataset") == expected
    assert len(server.log) == 4, "the number of entries and one page, in either order"


def test_window_without_entries_is_believed_only_after_asking_again(fetch, server, tmp_path):
    early = [
        [{"version": "v1", "created": f"Mon, 3 Feb {year} 10:00:00 GMT"}] for year in (2014, 2017)
    ]
    server.records = [
        record | {"versions": early[k % 2]} for k, record in enumerate(server.records)
    ]
    result = fetch("--max_window", 70)
    assert result.code == 0, result.err
    second_half = interval("201901010000-202401010000")
    assert sum(second_half in request["search_query"] for request in server.log) == 3


@pytest.mark.parametrize("fault", ["503", "nothing", "empty", "one more", "html", "silence"])
def test_missing_window_is_named_and_the_same_command_goes_on(
    fetch, server, expected, tmp_path, fault
):
    server.fault = lambda number, query: fault if number > 5 else None
    result = fetch("--max_window", 60, "--num_retries", 1, *timeout_flags(fault))
    assert result.code == 1
    assert len([line for line in result.err.splitlines() if line.startswith("incomplete: ")]) == 1
    assert "Traceback" not in result.err
    # A window that is said to be empty again and again is given away by the sum.
    assert ("but arXiv announces" if fault == "nothing" else "is missing") in result.err
    assert not (tmp_path / "dataset/manifest.json").exists()

    finished = [interval(window) for window in windows_of(tmp_path / "dataset")]
    assert finished
    asked = len(server.log)
    server.fault = lambda number, query: None
    result = fetch("--max_window", 60)
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "dataset") == expected
    later = " ".join(request["search_query"] for request in server.log[asked:])
    assert not any(window in later for window in finished), "a finished window was asked for again"


def test_refusal_is_reported(fetch, server):
    server.fault = lambda number, query: "403"
    result = fetch()
    assert result.code == 1
    assert "403" in result.err
    assert len(server.log) == 1, "a refusal is not asked again"


# Interruption


def test_killed_at_any_moment_it_goes_on(fetch, server, expected, tmp_path):
    flags = api_flags(
        server, tmp_path / "dataset", "--max_window", 40, "--delay_seconds", 0.1, page_size=10
    )
    kills = 0
    for seconds in (0.05, 0.8):  # after the first request
        asked = len(server.log)
        process = start("fetch_arxiv", *flags)
        while len(server.log) == asked and process.is_alive():
            time.sleep(0.01)
        time.sleep(seconds)
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills == 2
    finished = [interval(window) for window in windows_of(tmp_path / "dataset")]
    assert finished
    asked = len(server.log)
    assert fetch("--max_window", 40, page_size=10).code == 0
    assert parquet_hashes(tmp_path / "dataset") == expected
    later = " ".join(request["search_query"] for request in server.log[asked:])
    assert not any(window in later for window in finished)


def test_another_split_needs_no_request(fetch, server, expected, tmp_path):
    windows = ["--max_window", 60]
    assert fetch(*windows).code == 0
    asked = len(server.log)
    assert fetch(*windows, "--seed", 1, "--split_ratios", 0.6, 0.2, 0.2).code == 0
    assert parquet_hashes(tmp_path / "dataset") != expected
    assert fetch(*windows).code == 0
    assert parquet_hashes(tmp_path / "dataset") == expected
    assert len(server.log) == asked


def papers_of(day, number, first=9000):
    """Papers that were submitted on a day."""
    created = f"Mon, {day.day} {MONTHS[day.month - 1]} {day.year} 00:00:00 GMT"
    return [
        snapshot_entry(first + k, LABELS[k % 5], versions=[{"version": "v1", "created": created}])
        for k in range(number)
    ]


def set_time(window, moment):
    """Write another time of fetching into the header of a window."""
    content = window.read_bytes()
    seconds = int(moment.timestamp()).to_bytes(4, "little")
    window.write_bytes(content[:4] + seconds + content[8:])


def test_window_that_was_not_over_is_fetched_again(fetch, server, records, tmp_path):
    """arXiv lists a paper days after the day that it is dated to."""
    today = datetime.now(UTC).date()
    flags = ["--max_window", 60, "--end_date", today]
    server.records = [*records, *papers_of(today, 5)]
    assert fetch(*flags).code == 0
    first = json.loads((tmp_path / "dataset/manifest.json").read_text())
    assert first["harvest"]["windows_of_earlier_calls"] == 0
    kept = [interval(window) for window in windows_of(tmp_path / "dataset")]
    assert kept, "windows of years that are over are kept"
    for path in tmp_path.glob("dataset/.fetch/*/*.gz"):
        set_time(path, datetime(2025, 3, 4, tzinfo=UTC))

    server.records = [*server.records, *papers_of(today - timedelta(days=2), 10, first=9500)]
    asked = len(server.log)
    result = fetch(*flags)
    assert result.code == 0, result.err
    assert "come from an earlier call, the oldest of 2025-03-04" in result.log
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    number = sum(map(len, manifest["ids"].values()))
    assert number == sum(map(len, first["ids"].values())) + 10
    later = " ".join(request["search_query"] for request in server.log[asked:])
    assert not any(window in later for window in kept)
    harvest = manifest["harvest"]
    assert harvest["windows"] > harvest["windows_of_earlier_calls"] == len(kept)
    assert harvest["first_fetched"].startswith("2025-03-04")
    assert harvest["last_fetched"][:10] in (str(today), str(datetime.now(UTC).date()))
    card = (tmp_path / "dataset/README.md").read_text()
    assert f"search API from 2025-03-04 to {harvest['last_fetched'][:10]}." in card


@pytest.mark.parametrize("days", [0, 2])
def test_growing_window_of_an_interrupted_command_is_used_for_a_day(
    fetch, server, records, tmp_path, days
):
    today = datetime.now(UTC).date()
    flags = ["--max_window", 60, "--end_date", today, "--split_ratios", 0.8, 0.1, 0.1]
    server.records = [*records, *papers_of(today, 5)]
    # Everything is fetched, and the command stops at the dataset.
    assert fetch(*flags, "--categories", *LABELS[:4], "math.QA").code == 2
    (window,) = [path for path in tmp_path.glob("dataset/.fetch/*/*.jsonl.gz") if may_grow(path)]
    set_time(window, datetime.now(UTC) - timedelta(days=days))
    asked = len(server.log)
    assert fetch(*flags, "--categories", *LABELS[:4], "math.QA").code == 2
    again = interval(window.name.split(".")[0]) in " ".join(
        request["search_query"] for request in server.log[asked:]
    )
    assert again == (days > 1)


def test_windows_of_an_earlier_version_have_the_time_of_their_files(fetch, server, tmp_path):
    assert fetch("--max_window", 60).code == 0
    for path in tmp_path.glob("dataset/.fetch/*/*.gz"):
        set_time(path, datetime.fromtimestamp(0, UTC))
        os.utime(path, (0, datetime(2024, 5, 6, tzinfo=UTC).timestamp()))
    asked = len(server.log)
    assert fetch("--max_window", 60).code == 0
    assert len(server.log) == asked
    assert "search API on 2024-05-06." in (tmp_path / "dataset/README.md").read_text()


@pytest.mark.parametrize(
    "more",
    [
        ["--categories", "math.AG", "math.CV"],
        ["--end_date", "2022-12-31"],
        ["--start_date", "2015-01-01"],
    ],
)
def test_other_arguments_do_not_use_the_cache(fetch, server, expected, tmp_path, more):
    fetch()
    asked = len(server.log)
    fetch(*more)
    assert len(server.log) > asked
    assert parquet_hashes(tmp_path / "dataset") != expected
    asked = len(server.log)
    assert fetch().code == 0
    assert len(server.log) == asked, "the earlier windows are still there"
    assert parquet_hashes(tmp_path / "dataset") == expected


@pytest.mark.parametrize(
    "content",
    [b"", b"spoilt", gzip.compress(b'{"id": "1', mtime=0)],
    ids=["empty", "text", "cut off"],
)
def test_spoilt_window_is_named_and_asked_for_again(fetch, expected, tmp_path, content):
    fetch("--max_window", 60)
    window = min(tmp_path.glob("dataset/.fetch/*/*.jsonl.gz"))
    window.write_bytes(content)
    assert_user_error(fetch("--max_window", 60), window, "delete")
    window.unlink()
    result = fetch("--max_window", 60)
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "dataset") == expected


def test_full_disk_keeps_finished_windows(fetch, server, expected, tmp_path):
    with full_disk(1400):
        assert_user_error(fetch("--max_window", 30), "cannot write")
    assert fetch("--max_window", 30).code == 0
    assert parquet_hashes(tmp_path / "dataset") == expected


@pytest.mark.parametrize(
    "name",
    ["fetch.json", "halved window", "window", "manifest.json", "README.md"],
)
def test_full_disk_at_any_file_is_one_line(fetch, server, expected, tmp_path, request, name):
    """What has come is kept, and the same command goes on."""
    disk_is_full = request.getfixturevalue("full_disk")
    if name.endswith("window"):
        fetch("--max_window", 100, folder=tmp_path / "other")
        state = "halved" if name == "halved window" else "jsonl"
        window, total = next(iter(windows_of(tmp_path / "other", state).items()))
        name = f"{window}.{total}.{state}.gz"
        server.log.clear()
    with disk_is_full(name):
        assert_user_error(fetch("--max_window", 100), "cannot write into")
    assert not (tmp_path / "dataset/manifest.json").exists()
    asked = len(server.log)
    assert fetch("--max_window", 100).code == 0
    assert parquet_hashes(tmp_path / "dataset") == expected
    if name in ("manifest.json", "README.md"):
        assert len(server.log) == asked, "all windows were there"


# Who asks


def test_contact_stands_in_the_user_agent_and_is_not_published(fetch, server, expected, tmp_path):
    assert fetch("--contact", "you@example.org").code == 0
    agent = "arxiv-confusable-classification (fetch_arxiv.py; requests; mailto:you@example.org)"
    assert {request["agent"] for request in server.log} == {agent}
    assert parquet_hashes(tmp_path / "dataset") == expected
    for name in ("manifest.json", "README.md"):
        assert "you@" not in (tmp_path / "dataset" / name).read_text()


# A published manifest


@pytest.fixture
def fetch_again(fetch, run, server, tmp_path):
    """Fetch the papers of the manifest in dataset/ into again/, from the API or a snapshot."""

    def call(source):
        more = ["--ids_from", tmp_path / "dataset/manifest.json"]
        if source == "api":
            return fetch(*more, folder=tmp_path / "again")
        file = write_snapshot(tmp_path / "all.jsonl", server.records)
        more += ["--source", "snapshot", "--snapshot_file", file, "--disable_tqdm"]
        return run("fetch_arxiv", *more, "--output_dir", tmp_path / "again")

    return call


@pytest.mark.parametrize("source", ["api", "snapshot"])
def test_ids_from_rebuilds_the_dataset(fetch, fetch_again, server, expected, tmp_path, source):
    fetch("--seed", 5, "--max_records_per_category", 15)
    published = parquet_hashes(tmp_path / "dataset")
    assert published != expected
    server.log.clear()
    result = fetch_again(source)
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "again") == published
    assert "parquet files: those of the manifest" in result.out
    assert "gone: 0 papers" in result.out
    if source == "api":
        assert len(server.log) == math.ceil(75 / 20), (
            "the number of entries is known: no request for it"
        )


def test_ids_from_rebuilds_a_split_by_date(fetch_by_date, run, tmp_path):
    fetch_by_date("--seed", 7)
    published = parquet_hashes(tmp_path / "dataset")
    flags = ["--source", "snapshot", "--snapshot_file", tmp_path / "by-year.jsonl"]
    flags += ["--ids_from", tmp_path / "dataset/manifest.json", "--output_dir", tmp_path / "again"]
    result = run("fetch_arxiv", *flags, "--disable_tqdm")
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "again") == published
    before, after = (
        json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("dataset", "again")
    )
    assert after["arguments"]["split_by"] == "date"
    assert after["days"] == before["days"]


def test_ids_from_a_manifest_of_an_earlier_version(fetch, fetch_again, tmp_path):
    """It does not say how it was split: that was at random."""
    fetch()
    path = tmp_path / "dataset/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["arguments"]["split_by"]
    path.write_text(json.dumps(manifest))
    published = parquet_hashes(tmp_path / "dataset")
    assert fetch_again("snapshot").code == 0
    assert parquet_hashes(tmp_path / "again") == published
    assert "Stratified split" in (tmp_path / "again/README.md").read_text()


@pytest.mark.parametrize("source", ["api", "snapshot"])
def test_ids_from_reports_papers_that_are_gone(
    fetch, fetch_again, server, records, tmp_path, source
):
    fetch()
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    gone = sorted(manifest["ids"]["train"][:2] + manifest["ids"]["test"][:1])
    moved = manifest["ids"]["train"][5]
    server.records = [
        record | ({"categories": "math.GT"} if record["id"] == moved else {})
        for record in records
        if record["id"] not in gone
    ]
    result = fetch_again(source)
    assert result.code == 0, result.err
    assert f"gone: 3 papers {' '.join(gone)}" in result.out
    assert "others than those of the manifest" in result.out
    again = json.loads((tmp_path / "again/manifest.json").read_text())
    assert again["gone"] == gone
    for name, ids in manifest["ids"].items():
        labels = dict(zip(ids, manifest["labels"][name], strict=True))
        assert again["ids"][name] == [i for i in ids if i not in gone]
        assert again["labels"][name] == [labels[i] for i in again["ids"][name]], (
            "labels are those published"
        )


def test_addresses_with_ids_stay_short(fetch, fetch_again, server, tmp_path):
    server.records = study_entries(100)
    fetch(page_size=2000)
    server.longest_address = 8000
    asked = len(server.log)
    result = fetch_again("api")
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "again") == parquet_hashes(tmp_path / "dataset")
    sizes = [
        len(request["id_list"].split(","))
        for request in server.log[asked:]
        if request["start"] == "0"
    ]
    assert sizes == [400, 100]


@pytest.mark.parametrize(
    "flag", [("--seed", 1), ("--categories", "math.AG", "math.CV"), ("--end_date", "2020-01-01")]
)
def test_ids_from_with_other_arguments_than_the_manifest(fetch, tmp_path, flag):
    fetch()
    result = fetch(
        "--ids_from", tmp_path / "dataset/manifest.json", *flag, folder=tmp_path / "again"
    )
    assert_user_error(result, flag[0], "differs", "manifest.json")


def test_ids_from_a_manifest_with_labels_of_no_category(fetch, tmp_path):
    fetch()
    path = tmp_path / "dataset/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["labels"]["test"][0] = 9
    path.write_text(json.dumps(manifest))
    assert_user_error(
        fetch("--ids_from", path, folder=tmp_path / "again"), "manifest.json", "labels"
    )


def test_two_processes_on_one_folder(fetch, server, expected, tmp_path):
    process = start("fetch_arxiv", *api_flags(server, tmp_path / "dataset"), "--delay_seconds", 0.3)
    while not server.log and process.is_alive():
        time.sleep(0.01)
    assert_user_error(fetch(), "another process is writing into", tmp_path / "dataset")
    process.join()
    assert process.exitcode == 0
    assert parquet_hashes(tmp_path / "dataset") == expected
    assert server.most_connections == 1


def test_ids_that_arxiv_cannot_have_are_not_asked_for(fetch, server, run, tmp_path):
    """Of the sample, whose card names a command that works."""
    sample = ["--source", "snapshot", "--snapshot_file", ROOT / "sample_data/abstracts.jsonl"]
    assert run("fetch_arxiv", *sample, "--output_dir", tmp_path / "sample").code == 0
    manifest = tmp_path / "sample/manifest.json"
    result = fetch("--ids_from", manifest, folder=tmp_path / "again")
    assert_user_error(result, "300 ids of", "such as 'sample.00001'", "--source")
    assert server.log == [] and not (tmp_path / "again").exists()

    card = (tmp_path / "sample/README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"`python fetch_arxiv.py (--ids_from .*?)`", card)
    names = {"manifest.json": manifest, "FILE": sample[-1], "DIR": tmp_path / "again"}
    words = [names.get(word, word) for word in shlex.split(command)]
    result = run("fetch_arxiv", *words)
    assert result.code == 0 and "parquet files: those of the manifest" in result.out


@pytest.mark.parametrize("content", ["", "{}", '{"ids": 3}', "no json", "[]"])
def test_ids_from_something_else(fetch, tmp_path, content):
    (tmp_path / "some.json").write_text(content)
    assert_user_error(fetch("--ids_from", tmp_path / "some.json"), "some.json", "manifest.json")
    assert_user_error(fetch("--ids_from", tmp_path / "none.json"), "none.json")


# What a user may get wrong


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--page_size", 2001], ["--page_size 2001", "1 to 2000"]),
        (["--page_size", 0], ["--page_size 0"]),
        (["--max_window", 30001], ["--max_window 30001"]),
        (["--num_retries", -1], ["--num_retries"]),
        (["--timeout_seconds", 0], ["--timeout_seconds"]),
        (["--timeout_seconds", "nan"], ["--timeout_seconds"]),
        (["--delay_seconds", "inf"], ["--delay_seconds"]),
        (["--api_url", "export.arxiv.org/api/query"], ["--api_url", "not an http address"]),
        (["--api_url", "http://127.0.0.1/{}"], ["--api_url", "not an http address"]),
        (["--api_url", "http://127.0.0.1:123456/api"], ["--api_url", "not an http address"]),
        (
            ["--api_url", "https://export.arxiv.org/api/query", "--delay_seconds", 2.9],
            ["2.9", "terms"],
        ),
        (
            ["--api_url", "https://Export.arXiv.org/api/query", "--delay_seconds", 2.9],
            ["2.9", "terms"],
        ),
        (["--snapshot_file", "x.jsonl"], ["--snapshot_file", "--source snapshot"]),
        (["--skip_bad_lines"], ["--skip_bad_lines", "--source snapshot"]),
        (["--source", "oai"], ["oai", "snapshot"]),
        (["--contact", "nobody"], ["--contact 'nobody'", "you@example.org"]),
        (["--contact", "a@b.org\nX: 1"], ["--contact"]),
    ],
)
def test_bad_flags_of_the_api(fetch, server, tmp_path, more, words):
    assert_user_error(fetch(*more), *words)
    assert not server.log
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    "url", ["http://no-such-host.invalid/api/query", "http://127.0.0.1:9/api/query"]
)
def test_no_network_says_what_to_do(fetch, tmp_path, url):
    result = fetch("--api_url", url)
    assert_user_error(result, "no connection", "--source snapshot")
    assert not (tmp_path / "dataset/manifest.json").exists()


def test_network_lost_on_the_way_is_asked_again_later(run, records, tmp_path):
    with arxiv_server(records) as server:
        server.fault = lambda number, query: number > 2 and (server.socket.close() or "reset")
        more = api_flags(server, tmp_path / "dataset", "--num_retries", 2, "--max_window", 40)
        result = run("fetch_arxiv", *more)
    assert result.code == 1
    assert "is missing" in result.err


def test_only_the_session_of_the_arxiv_package_is_a_private_name():
    import ast

    tree = ast.parse((ROOT / "fetch_arxiv.py").read_text())
    names = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    private = {name for name in names if name.startswith("_") and not name.startswith("__")}
    assert private == {"_actions", "_session"}, "of argparse, and the session that has the adapter"
    assert isinstance(arxiv.Client.query_url_format, str)
    assert isinstance(arxiv.Client()._session, requests.Session)


# A mirror of the snapshot on the Hub


MIRROR = "tester/arxiv-metadata-snapshot"
TEXT_COLUMNS = (
    "id submitter authors title comments journal-ref doi report-no categories license abstract"
).split()


def mirror_features(**changes):
    """The columns and types of librarian-bots/arxiv-metadata-snapshot."""
    features = {name: Value("string") for name in TEXT_COLUMNS}
    features["versions"] = List({"version": Value("string"), "created": Value("string")})
    features |= {
        "update_date": Value("timestamp[s]"),
        "authors_parsed": List(List(Value("string"))),
    }
    return Features({name: kind for name, kind in (features | changes).items() if kind})


def mirror_files(entries, folder, features=None, shards=2, row_group=30):
    """The files of a mirror: parquet files as Dataset.push_to_hub writes them, and their card."""
    features = mirror_features() if features is None else features
    rows = []
    for entry in entries:
        row = dict.fromkeys(TEXT_COLUMNS) | {"authors_parsed": [["Müller", "Zoë", ""]]} | entry
        row["update_date"] = datetime.fromisoformat(entry["update_date"])
        if "versions" in features and isinstance(features["versions"], dict):
            row["versions"] = {
                key: [version[key] for version in entry["versions"]]
                for key in ("version", "created")
            }
        rows.append({name: row[name] for name in features})
    dataset = Dataset.from_list(rows, features=features)
    info = {
        "features": features._to_yaml_list(),
        "splits": [{"name": "train", "num_examples": len(rows), "num_bytes": 1}],
    }
    configs = [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
    ]
    card = yaml.safe_dump(
        {"configs": configs, "dataset_info": info, "license": "cc0-1.0"}, sort_keys=False
    )
    files = {"README.md": f"---\n{card}---\n# arXiv metadata\n".encode(), ".gitattributes": b""}
    for number in range(shards):
        path = folder / f"shard-{number}.parquet"
        dataset.shard(shards, number).to_parquet(path, batch_size=row_group)
        files[f"data/train-{number:05d}-of-{shards:05d}.parquet"] = path.read_bytes()
    return files


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running Hub that this process talks to, without a login, and an empty cache."""
    with hub_server() as server:
        server.publish = lambda files, name=MIRROR: publish(server, files, name)
        use_hub(monkeypatch, server.url, tmp_path / "cache")
        yield server


def use_hub(monkeypatch, url, cache):
    """Point the client in this process, which has read the environment long ago, at another Hub."""
    monkeypatch.setenv("HF_TOKEN", "")
    values = {
        "ENDPOINT": url,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": True,
    }
    values["HUGGINGFACE_CO_URL_TEMPLATE"] = url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in (values | {"HF_TOKEN_PATH": str(cache / "token")}).items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    for name, value in {
        "HF_ENDPOINT": url,
        "HF_HUB_OFFLINE": False,
        "STREAMING_READ_RETRY_INTERVAL": 0,
    }.items():
        monkeypatch.setattr(datasets.config, name, value)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", str(cache / "downloads"))
    # The instances keep the Hub that they were first used with.
    huggingface_hub.HfFileSystem.clear_instance_cache()


def publish(server, files, name):
    """Commit files to a dataset repository and return the commit."""
    commits = server.repos.setdefault(("dataset", name), [])
    commit = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
    commits.append({"oid": commit, "files": files, "message": "Upload dataset"})
    return commit


@pytest.fixture
def fetch_mirror(run, tmp_path):
    """Run fetch_arxiv.py --source hub with further flags."""

    def call(*flags, name=MIRROR, folder=tmp_path / "mirrored"):
        common = [
            "--source",
            "hub",
            "--hub_dataset",
            name,
            "--output_dir",
            folder,
            "--disable_tqdm",
        ]
        return run("fetch_arxiv", *common, *flags)

    return call


@pytest.mark.parametrize("form", ["list of structs", "struct of lists", "other dates"])
def test_mirror_gives_the_bytes_of_the_snapshot(
    hub, fetch_mirror, records, expected, tmp_path, form
):
    changes = {}
    if form == "struct of lists":
        changes["versions"] = {"version": List(Value("string")), "created": List(Value("string"))}
    elif form == "other dates":
        changes["update_date"] = Value("string")
    commit = hub.publish(mirror_files(records, tmp_path, mirror_features(**changes)))
    result = fetch_mirror()
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "mirrored") == expected
    manifest = json.loads((tmp_path / "mirrored/manifest.json").read_text())
    assert manifest["dataset_commit"] == commit
    assert manifest["arguments"]["hub_dataset"] == MIRROR
    assert manifest["dropped"] == {"other primary category": 30}
    card = (tmp_path / "mirrored/README.md").read_text()
    assert f"{MIRROR} on the Hugging Face Hub" in card
    assert "license: cc0-1.0" in card


def test_mirror_in_json_lines(hub, fetch_mirror, records, expected, tmp_path):
    lines = "".join(json.dumps(record) + "\n" for record in records)
    commit = hub.publish({"arxiv-metadata.jsonl": lines.encode()})
    result = fetch_mirror()
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "mirrored") == expected
    assert json.loads((tmp_path / "mirrored/manifest.json").read_text())["dataset_commit"] == commit


def test_progress_of_a_mirror(hub, run, records, tmp_path):
    hub.publish(mirror_files(records, tmp_path))
    result = run(
        "fetch_arxiv",
        "--source",
        "hub",
        "--hub_dataset",
        MIRROR,
        "--output_dir",
        tmp_path / "mirrored",
    )
    assert result.code == 0, result.err
    assert f"{MIRROR}: 100%" in result.err
    assert "130/130" in result.err


def test_revision_of_a_mirror(hub, fetch_mirror, records, expected, tmp_path):
    first = hub.publish(mirror_files(records, tmp_path))
    later = hub.publish(mirror_files(records[:80], tmp_path))
    for revision, folder in ((first, "first"), ("main", "main")):
        result = fetch_mirror("--revision", revision, folder=tmp_path / folder)
        assert result.code == 0, result.err
    manifests = [
        json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("first", "main")
    ]
    assert [manifest["dataset_commit"] for manifest in manifests] == [first, later]
    assert [manifest["arguments"]["revision"] for manifest in manifests] == [first, "main"]
    assert parquet_hashes(tmp_path / "first") == expected != parquet_hashes(tmp_path / "main")
    assert_user_error(
        fetch_mirror("--revision", "v9", folder=tmp_path / "none"), MIRROR, "v9", "--revision"
    )
    assert not (tmp_path / "none").exists()


def test_only_the_columns_needed_are_downloaded(
    hub, fetch_mirror, records, expected, monkeypatch, tmp_path
):
    sent = []

    def answer(handler, content, *more, original=Handler.answer):
        sent.append(len(content) if handler.command == "GET" and ".parquet" in handler.path else 0)
        original(handler, content, *more)

    monkeypatch.setattr(Handler, "answer", answer)
    wide = [
        record | {"authors": random.Random(k).randbytes(120_000).hex()}
        for k, record in enumerate(records)
    ]
    files = mirror_files(wide, tmp_path, shards=1, row_group=1000)
    hub.publish(files)
    result = fetch_mirror()
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "mirrored") == expected
    assert 0 < sum(sent) < sum(map(len, files.values())) / 2, (
        "the rest is what the client reads ahead"
    )


def test_ids_from_with_a_mirror(hub, fetch_mirror, records, expected, tmp_path):
    hub.publish(mirror_files(records, tmp_path))
    assert fetch_mirror("--seed", 5).code == 0
    manifest = tmp_path / "mirrored/manifest.json"
    result = fetch_mirror("--ids_from", manifest, folder=tmp_path / "again")
    assert result.code == 0, result.err
    assert "parquet files: those of the manifest" in result.out
    assert parquet_hashes(tmp_path / "again") == parquet_hashes(tmp_path / "mirrored") != expected


@pytest.mark.parametrize("column", ["versions", "categories"])
def test_missing_column_of_a_mirror(hub, fetch_mirror, records, tmp_path, column):
    hub.publish(mirror_files(records, tmp_path, mirror_features(**{column: None})))
    assert_user_error(
        fetch_mirror(), MIRROR, f"has no column {column}", "it has id, submitter, authors, title"
    )
    assert not (tmp_path / "mirrored").exists()


def test_bad_record_of_a_mirror_is_named_and_can_be_skipped(
    hub, fetch_mirror, records, expected, tmp_path
):
    bad = [
        snapshot_entry(6000, "math.AG", versions=[]),
        snapshot_entry(6001, "math.AG", categories=None),
    ]
    hub.publish(mirror_files([*records, *bad], tmp_path))
    result = fetch_mirror()
    assert_user_error(result, "2 entries are not", bad[0]["id"], bad[1]["id"], "--skip_bad_lines")
    result = fetch_mirror("--skip_bad_lines")
    assert result.code == 0, result.err
    assert (
        json.loads((tmp_path / "mirrored/manifest.json").read_text())["dropped"]["bad lines"] == 2
    )
    assert parquet_hashes(tmp_path / "mirrored") == expected


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("unknown", ["somebody/nothing", "doesn't exist", "hf auth login"]),
        ("bad name", ["a/b/c", "check the id"]),
        ("no files", [MIRROR, "check the id"]),
        ("no network", ["network"]),
        ("offline", ["network", "OfflineMode"]),
        ("damaged", [MIRROR, "parquet"]),
    ],
)
def test_mirror_that_cannot_be_read(hub, fetch_mirror, records, monkeypatch, tmp_path, case, words):
    files = mirror_files(records, tmp_path, shards=1)
    (path,) = (path for path in files if path.endswith(".parquet"))
    files[path] = files[path][:-100] if case == "damaged" else files[path]
    hub.publish({"notes.xyz": b"nothing to read"} if case == "no files" else files)
    if case == "no network":
        use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
        monkeypatch.setattr(
            time, "sleep", lambda seconds: None
        )  # of the client, which tries six times
    elif case == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    result = fetch_mirror(
        name={"unknown": "somebody/nothing", "bad name": "a/b/c"}.get(case, MIRROR)
    )
    assert_user_error(result, "cannot read", *words)
    assert not (tmp_path / "mirrored").exists()


def test_mirror_lost_on_the_way_can_be_read_again(
    hub, fetch_mirror, records, expected, monkeypatch, tmp_path
):
    monkeypatch.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 2)
    hub.publish(mirror_files(records, tmp_path))

    def answer(handler, *arguments, original=Handler.answer):
        if handler.command == "GET" and "00001-of-00002" in handler.path:
            handler.close_connection = True
            handler.connection.close()
        else:
            original(handler, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Handler, "answer", answer)
        patch.setattr(time, "sleep", lambda seconds: None)  # of the client
        assert_user_error(fetch_mirror(), MIRROR, "network")
    assert not (tmp_path / "mirrored").exists()
    result = fetch_mirror()
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "mirrored") == expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--source", "hub"], ["--source hub", "--hub_dataset"]),
        (
            ["--source", "hub", "--hub_dataset", MIRROR, "--page_size", 5],
            ["--page_size", "--source api"],
        ),
        (
            ["--source", "hub", "--hub_dataset", MIRROR, "--snapshot_file", "x"],
            ["--snapshot_file", "--source snapshot"],
        ),
        (["--hub_dataset", MIRROR], ["--hub_dataset", "--source hub"]),
        (["--revision", "main"], ["--revision", "--source hub"]),
        (
            ["--source", "snapshot", "--snapshot_file", "x", "--revision", "main"],
            ["--revision", "--source hub"],
        ),
    ],
)
def test_bad_flags_of_the_hub(run, tmp_path, flags, words):
    assert_user_error(run("fetch_arxiv", "--output_dir", tmp_path / "dataset", *flags), *words)
    assert not (tmp_path / "dataset").exists()


# Publishing on the Hub


def test_pushed_dataset_is_the_folder(fetch_snapshot, hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push = ["--push_to_hub", "--hub_dataset_id", "abstracts"]
    result = fetch_snapshot(*push)
    assert result.code == 0, result.err
    pushed = hub.files("dataset", "tester/abstracts")
    folder = tmp_path / "dataset"
    local = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    assert {path: content for path, content in pushed.items() if path != ".gitattributes"} == local
    assert f"{hub.url}/datasets/tester/abstracts/commit/" in result.log
    assert TOKEN not in result.out + result.err + result.log

    loaded = load_dataset("tester/abstracts", cache_dir=str(tmp_path / "datasets"))
    for split, expected in load_dataset(str(folder), cache_dir=str(tmp_path / "datasets")).items():
        assert loaded[split].features == expected.features
        assert loaded[split].to_list() == expected.to_list()

    # Other bytes under the same name replace the earlier ones.
    assert fetch_snapshot(*push, "--seed", 1).code == 0
    assert hub.files("dataset", "tester/abstracts")["manifest.json"] != pushed["manifest.json"]
    assert len(hub.repos["dataset", "tester/abstracts"]) == 3


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no token", ["hf auth login", "no token found"]),
        ("wrong token", ["Invalid", "abstracts"]),
        ("other owner", ["somebody/abstracts", "rights"]),
        ("refused", ["storage is full"]),
        ("bad name", ["a b//c"]),
        ("no network", ["cannot push"]),
        ("offline", ["cannot push", "offline"]),
    ],
)
def test_failed_push_keeps_the_dataset(fetch_snapshot, monkeypatch, tmp_path, case, words):
    from huggingface_hub import constants

    token = {"no token": "", "wrong token": "hf_wrong"}.get(case, "hf_loopback_test_token")
    with hub_server() as hub:
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", case == "offline")
        monkeypatch.setattr(
            constants, "ENDPOINT", "http://127.0.0.1:9" if case == "no network" else hub.url
        )
        hub.refuse = (403, "", "storage is full") if case == "refused" else None
        name = {"other owner": "somebody/abstracts", "bad name": "a b//c"}.get(case, "abstracts")
        result = fetch_snapshot("--push_to_hub", "--hub_dataset_id", name)
    assert_user_error(result, tmp_path / "dataset", "kept", *words)
    upload = shlex.join(["hf", "upload", name, str(tmp_path / "dataset"), "--repo-type", "dataset"])
    assert upload in result.err
    assert token not in result.err or not token
    assert load_dataset(str(tmp_path / "dataset"))["train"].num_rows == 80


def test_push_needs_a_name(fetch_snapshot, tmp_path):
    assert_user_error(fetch_snapshot("--push_to_hub"), "--hub_dataset_id")


def test_model_repositories_work_too(tmp_path):
    """The server is also for models: the client makes, fills, lists and reads a repository."""
    code = """
import huggingface_hub as hub, pathlib, sys
folder = pathlib.Path(sys.argv[1]); folder.mkdir()
(folder / "config.json").write_text("{}")
(folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
api = hub.HfApi()
name = api.create_repo("model", repo_type="model").repo_id
api.upload_folder(repo_id=name, folder_path=folder)
assert hub.whoami()["name"] == "tester"
assert set(api.list_repo_files(name)) == {".gitattributes", "config.json", "model.safetensors"}
got = hub.hf_hub_download(name, "model.safetensors")
assert pathlib.Path(got).read_bytes() == (folder / "model.safetensors").read_bytes()
assert hub.file_exists(name, "config.json") and not hub.file_exists(name, "other.json")
api.delete_file("config.json", name)
assert not hub.file_exists(name, "config.json")
snapshot = pathlib.Path(hub.snapshot_download(name))
assert {p.name for p in snapshot.iterdir()} == {".gitattributes", "model.safetensors"}
print("done")
"""
    with hub_server() as hub:
        command = [sys.executable, "-c", code, tmp_path / "model"]
        result = subprocess.run(
            command, capture_output=True, text=True, env=hub.environment(tmp_path / "home")
        )
    assert result.stdout.strip().endswith("done"), result.stderr
