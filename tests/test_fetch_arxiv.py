"""fetch_arxiv.py: the dataset folder, the split, what is dropped, and what a user may get wrong."""

import gzip
import json
import random
import resource
import subprocess
import sys
from types import SimpleNamespace

import filelock
import pytest
import yaml
from arxiv_server import parquet_hashes, snapshot_entry, study_entries, text_of, write_snapshot
from conftest import LABELS, ROOT, assert_user_error
from datasets import load_dataset
from hub_server import hub_server


@pytest.fixture
def snapshot(tmp_path):
    return write_snapshot(tmp_path / "snapshot.jsonl", study_entries())


@pytest.fixture
def fetch_snapshot(run, snapshot, tmp_path):
    """Run fetch_arxiv.py on the snapshot, with further flags."""

    def call(*flags, file=snapshot, folder=tmp_path / "dataset"):
        common = ["--source", "snapshot", "--snapshot_file", file, "--output_dir", folder, "--disable_tqdm"]
        return run("fetch_arxiv", *common, *flags)

    return call


# The dataset folder


def test_dataset_folder_has_the_contract(fetch_snapshot, tmp_path):
    result = fetch_snapshot()
    assert result.code == 0, result.err
    folder = tmp_path / "dataset"
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    splits = ["train", "validation", "test"]
    assert written == {"README.md", "manifest.json", *(f"data/{name}-00000-of-00001.parquet" for name in splits)}

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
        assert all(manifest["counts"][name][c] == list(split["label"]).count(k) for k, c in enumerate(LABELS))
    assert {f"data/{name}": digest for name, digest in parquet_hashes(folder).items()} == manifest["sha256"]
    assert manifest["arguments"]["seed"] == 7
    assert str(tmp_path) not in json.dumps(manifest), "a published manifest must not tell the user's folders"


def test_card_can_be_read_by_the_hub(fetch_snapshot, tmp_path):
    fetch_snapshot()
    _, front, body = (tmp_path / "dataset/README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["license"] == "cc0-1.0"
    assert card["size_categories"] == ["n<1K"]
    paths = {item["split"]: item["path"] for item in card["configs"][0]["data_files"]}
    assert paths == {name: f"data/{name}-*" for name in ("train", "validation", "test")}
    assert "| math.SG |" in body
    assert "--snapshot_file snapshot.jsonl" in body


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
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["16", "2", "2", "20", "20.0%", "6,179", "13.0%"]
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
        "We show that a manifold with finitely many points removed can be retracted onto its boundary.",
    ]
    entries = study_entries()
    entries += [snapshot_entry(1000 + k, "math.AG", abstract=text) for k, text in enumerate(notices + kept)]
    entries += [snapshot_entry(2000, "math.AG", abstract=" \n "), snapshot_entry(2001, "math.AG", abstract=None)]
    entries += [snapshot_entry(3000 + k, name) for k, name in enumerate(["math.GT", "cs.CV", "math-ph", "math.A"])]
    early = [{"version": "v1", "created": "Tue, 31 Dec 2013 23:59:59 GMT"}, {"version": "v2", "created": "now"}]
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


def test_arguments_from_a_yaml_file(run, snapshot, tmp_path):
    recipe = {"source": "snapshot", "snapshot_file": str(snapshot), "seed": 1, "categories": LABELS[:3]}
    (tmp_path / "fetch.yaml").write_text(yaml.safe_dump(recipe))
    result = run("fetch_arxiv", tmp_path / "fetch.yaml", "--output_dir", tmp_path / "dataset", "--seed", 2)
    assert result.code == 0, result.err
    arguments = json.loads((tmp_path / "dataset/manifest.json").read_text())["arguments"]
    assert (arguments["seed"], arguments["categories"]) == (2, LABELS[:3])


# What a user may get wrong


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--categories", "math.AG", "math.DQ"], ["math.DQ", "did you mean math.QA"]),
        (["--categories", "math.AG"], ["at least two"]),
        (["--categories", "math.AG", "math.AG"], ["each once"]),
        (["--start_date", "2023-12-31", "--end_date", "2014-01-01"], ["2014-01-01 comes before --start_date"]),
        (["--start_date", "2014"], ["--start_date '2014'", "YYYY-MM-DD"]),
        (["--start_date", "1971-01-01"], ["1971-01-01", "1991-08-14"]),
        (["--end_date", "2991-01-01"], ["2991-01-01", "today"]),
        (["--split_ratios", "0.8", "0.1", "0.2"], ["0.8 0.1 0.2", "add to 1"]),
        (["--split_ratios", "0.9", "0.1"], ["three positive shares"]),
        (["--split_ratios", "0.9", "0.1", "0.0"], ["three positive shares"]),
        (["--max_records_per_category", "9"], ["at least 10"]),
        (["--sead", "1"], ["--sead", "--seed"]),
        (["--seed", "x"], ["--seed", "x"]),
        (["--source", "sanpshot"], ["sanpshot"]),
    ],
)
def test_bad_flags(fetch_snapshot, tmp_path, flags, words):
    assert_user_error(fetch_snapshot(*flags), *words)
    assert not (tmp_path / "dataset").exists()


def test_class_with_too_few_records_is_named(fetch_snapshot, tmp_path):
    entries = study_entries()
    few = write_snapshot(tmp_path / "few.jsonl", [e for e in entries if not e["categories"].startswith("math.MG")])
    assert_user_error(fetch_snapshot(file=few), "math.MG", "0 records", "at least 10")
    assert_user_error(fetch_snapshot("--split_ratios", 0.94, 0.03, 0.03), "math.AG", "20 records", "at least 33")
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
        ("truncated gzip", "cut.jsonl.gz", ["cannot read snapshot", "whole"]),
        ("gzip in name only", "plain.jsonl.gz", ["not gzip data"]),
        ("spoilt gzip", "spoilt.jsonl.gz", ["cannot read snapshot"]),
        ("array", "array.json", ["one object a line"]),
        ("empty", "empty.json", ["does not start with a JSON object"]),
        ("folder", "folder", ["cannot read snapshot", "directory"]),
        ("other json", "other.json", ["line 1 is no arXiv record", "categories"]),
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
    lines.insert(60, '{"id": "1401.00001", "title": "t", "categories": "math.AG", "abstract": "a", "versions": []}')
    lines.insert(70, "")
    (tmp_path / "broken.jsonl").write_text("\n".join(lines))
    assert_user_error(fetch_snapshot(file=tmp_path / "broken.jsonl"), "line 42", "--skip_bad_lines")
    result = fetch_snapshot("--skip_bad_lines", file=tmp_path / "broken.jsonl", folder=tmp_path / "skipped")
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "skipped/manifest.json").read_text())["dropped"]["bad lines"] == 2
    fetch_snapshot()
    assert parquet_hashes(tmp_path / "dataset") == parquet_hashes(tmp_path / "skipped")


@pytest.mark.parametrize("name", ["notes.txt", "data/mine.csv", "manifest.json", "README.md", "data/x/y"])
def test_folder_with_other_things_is_left_alone(fetch_snapshot, tmp_path, name):
    path = tmp_path / "dataset" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert_user_error(fetch_snapshot(), tmp_path / "dataset", name.replace("/y", ""), "another --output_dir")
    assert [p for p in (tmp_path / "dataset").rglob("*") if p.is_file()] == [path]
    assert path.read_text() == "{}"


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
    with filelock.FileLock(tmp_path / "dataset/.fetch/lock"):
        assert_user_error(fetch_snapshot(), "another process", tmp_path / "dataset")
    assert fetch_snapshot().code == 0


def test_full_disk_leaves_the_old_dataset(fetch_snapshot, snapshot, tmp_path):
    fetch_snapshot()
    folder = tmp_path / "dataset"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # A limit on the size of a file stands for the full disk: writing fails half-way in the same manner.
    result = subprocess.run(
        [
            *[sys.executable, ROOT / "fetch_arxiv.py", "--source", "snapshot", "--snapshot_file", snapshot],
            *["--output_dir", folder, "--seed", "5", "--disable_tqdm"],
        ],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: cannot write"), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# The Hub


@pytest.fixture
def push(snapshot, tmp_path):
    """Run fetch_arxiv.py --push_to_hub in a process of its own, for which the loopback Hub is the Hub."""

    def call(environment, *flags):
        command = [sys.executable, ROOT / "fetch_arxiv.py", "--source", "snapshot", "--snapshot_file", snapshot]
        command += [
            "--output_dir",
            tmp_path / "dataset",
            "--push_to_hub",
            "--hub_dataset_id",
            "abstracts",
            "--disable_tqdm",
        ]
        command = [str(word) for word in [*command, *flags]]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        return SimpleNamespace(code=result.returncode, out=result.stdout, err=result.stderr)

    return call


def test_pushed_dataset_is_the_folder(push, tmp_path):
    with hub_server() as hub:
        environment = hub.environment(tmp_path / "home")
        result = push(environment)
        assert result.code == 0, result.err
        pushed = hub.files("dataset", "tester/abstracts")
        folder = tmp_path / "dataset"
        local = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert {path: content for path, content in pushed.items() if path != ".gitattributes"} == local
        assert f"{hub.url}/datasets/tester/abstracts/commit/" in result.out
        assert "hf_loopback" not in result.out + result.err

        code = "import datasets, sys, json\nd = datasets.load_dataset(sys.argv[1])\n"
        code += "print(json.dumps([[str(d[s].features), [str(row) for row in d[s]]] for s in d]))"
        answers = [
            subprocess.run([sys.executable, "-c", code, str(name)], capture_output=True, text=True, env=environment)
            for name in ("tester/abstracts", folder)
        ]
        assert answers[0].returncode == 0, answers[0].stderr
        assert answers[0].stdout == answers[1].stdout

        # Other bytes under the same name replace the earlier ones.
        assert push(environment, "--seed", 1).code == 0
        assert hub.files("dataset", "tester/abstracts")["manifest.json"] != pushed["manifest.json"]
        assert len(hub.repos["dataset", "tester/abstracts"]) == 3


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no token", ["hf auth login", "HF_TOKEN"]),
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
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9" if case == "no network" else hub.url)
        hub.refuse = (403, "", "storage is full") if case == "refused" else None
        name = {"other owner": "somebody/abstracts", "bad name": "a b//c"}.get(case, "abstracts")
        result = fetch_snapshot("--push_to_hub", "--hub_dataset_id", name)
    assert_user_error(result, tmp_path / "dataset", "kept", *words)
    assert token not in result.err or not token
    assert load_dataset(str(tmp_path / "dataset"))["train"].num_rows == 80


def test_push_needs_a_name(fetch_snapshot, tmp_path):
    assert_user_error(fetch_snapshot("--push_to_hub"), "--hub_dataset_id")


def test_model_repositories_work_too(tmp_path):
    """The server is also for pushing models: the same client makes, fills, lists and reads a model repository."""
    code = """
import huggingface_hub as hub, pathlib, sys
folder = pathlib.Path(sys.argv[1]); folder.mkdir()
(folder / "config.json").write_text("{}"); (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
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
        result = subprocess.run(command, capture_output=True, text=True, env=hub.environment(tmp_path / "home"))
    assert result.stdout.strip().endswith("done"), result.stderr
