"""The embedded sample: its form, its originality (no text twice in part), how hard it is."""

import json
from collections import Counter
from datetime import datetime

import pytest
from conftest import LABELS, ROOT


@pytest.fixture(scope="module")
def records():
    lines = (ROOT / "sample_data" / "abstracts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_counts_ids_dates_and_layout(records):
    assert Counter(record["categories"].split()[0] for record in records) == dict.fromkeys(
        LABELS, 60
    )
    assert [record["id"] for record in records] == [
        f"sample.{number:05d}" for number in range(1, 301)
    ]
    dates = [
        datetime.strptime(record["versions"][0]["created"], "%a, %d %b %Y %H:%M:%S GMT")
        for record in records
    ]
    assert {date.year for date in dates} == set(range(2014, 2024))
    assert sum(len(record["categories"].split()) > 1 for record in records) >= 50
    snapshot_keys = set(
        "id submitter authors title comments journal-ref doi report-no categories license "
        "abstract versions update_date authors_parsed".split()
    )
    assert all(set(record) == snapshot_keys for record in records)


def test_lengths(records):
    lengths = [len(record["abstract"].split()) for record in records]
    assert 40 <= min(lengths) < 60
    assert 100 < max(lengths) <= 120


def test_no_two_alike(records):
    assert len({record["title"] for record in records}) == 300
    owner = {}
    for record in records:
        words = record["abstract"].lower().split()
        for start in range(len(words) - 7):
            window = tuple(words[start : start + 8])
            assert owner.setdefault(window, record["id"]) == record["id"], " ".join(window)


@pytest.mark.parametrize(
    "word", ["metric", "curvature", "moduli", "convex", "holomorphic", "symplectic"]
)
def test_shared_words_stand_in_every_class(records, word):
    classes = Counter(
        record["categories"].split()[0] for record in records if word in record["abstract"].lower()
    )
    assert min(classes[label] for label in LABELS) >= 6


def test_names_with_accents_and_latex(records):
    texts = [record["abstract"] for record in records]
    assert sum("$" in text for text in texts) >= 100
    assert sum(any(letter in text for letter in "äöüéèêçłńśźżÄÖÜŁ") for text in texts) >= 50
    kaehler = ("Kähler", 'K\\"ahler', 'K{\\"a}hler', "kähler")
    for label in LABELS:
        own = [
            text
            for record, text in zip(records, texts, strict=True)
            if record["categories"].startswith(label)
        ]
        assert sum(any(spelling in text for spelling in kaehler) for text in own) >= 6


def test_counting_words_is_neither_hopeless_nor_enough(run, tmp_path):
    sample = ROOT / "sample_data" / "abstracts.jsonl"
    fetched = run(
        "fetch_arxiv",
        "--source",
        "snapshot",
        "--snapshot_file",
        sample,
        "--output_dir",
        tmp_path / "data",
    )
    assert fetched.code == 0, fetched.err
    trained = run(
        "run_baseline", "--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "svm"
    )
    assert trained.code == 0, trained.err
    results = json.loads((tmp_path / "svm" / "predict_results.json").read_text())
    assert results["predict_samples"] == 30
    assert 0.60 <= results["predict_accuracy"] <= 0.95
