"""harvest_arxiv.py, and fetch_arxiv.py on top of it: everything comes, whatever a local arXiv does wrong."""

import gzip
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from itertools import pairwise

import arxiv
import filelock
import orjson
import pytest
from arxiv_server import arxiv_server, parquet_hashes, snapshot_entry, study_entries, write_snapshot
from conftest import LABELS, ROOT, assert_user_error
from datasets import load_dataset

OTHER = ["math.GT", "math.AP", "cs.CG", "math-ph"]


def cross_lists(number=30):
    """Papers of other fields that cross-list one of the five: a query for the five finds them too."""
    return [
        snapshot_entry(5000 + k, OTHER[k % 4], categories=f"{OTHER[k % 4]} {LABELS[k % 5]}") for k in range(number)
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
    folder = tmp_path_factory.mktemp("expected")
    snapshot = write_snapshot(folder / "snapshot.jsonl", records)
    command = [sys.executable, ROOT / "fetch_arxiv.py", "--source", "snapshot", "--snapshot_file", snapshot]
    subprocess.run([*command, "--output_dir", folder / "dataset"], check=True, capture_output=True)
    return parquet_hashes(folder / "dataset")


def flags(server, folder, *more, source="api", page_size=20):
    return [
        *["--source", source, "--output_dir", folder, "--api_url", server.api_url, "--oai_url", server.oai_url],
        *["--page_size", page_size, "--delay_seconds", 0.01, "--timeout_seconds", 0.5, "--disable_tqdm", *more],
    ]


@pytest.fixture
def fetch(run, server, tmp_path):
    """Run fetch_arxiv.py against the local arXiv."""

    def call(*more, folder=tmp_path / "dataset", **options):
        return run("fetch_arxiv", *flags(server, folder, *more, **options))

    return call


def plan_of(folder):
    return json.loads((folder / ".fetch/harvest/harvest.json").read_text())


# Everything comes, with few requests


def test_api_gives_the_bytes_of_the_snapshot(fetch, server, expected, tmp_path):
    result = fetch()
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "dataset") == expected
    assert len(server.log) == math.ceil(130 / 20)
    assert all("arxiv-confusable" in request["agent"] for request in server.log)
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    assert manifest["harvest"]["requests"] == len(server.log)
    assert manifest["harvest"]["records"] == 130
    assert manifest["dropped"] == {"other primary category": 30}


def test_oai_gives_the_bytes_of_the_snapshot(fetch, server, expected, tmp_path):
    result = fetch(source="oai")
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "dataset") == expected
    assert {request["set"] for request in server.log if "set" in request} == {
        f"math:math:{name.split('.')[1]}" for name in LABELS
    }
    assert all(request["from"] == "2014-01-01" for request in server.log if "set" in request)


def test_oai_knows_only_the_day(run, records, tmp_path):
    """Of papers with a time of day, OAI-PMH gives the same dataset but for that time."""
    moment = [{"version": "v1", "created": "Mon, 2 Jun 2014 17:05:09 GMT"}]
    entries = [entry | {"versions": moment} if number % 2 else entry for number, entry in enumerate(records)]
    rows = {}
    with arxiv_server(entries) as server:
        for source in ("api", "oai"):
            result = run("fetch_arxiv", *flags(server, tmp_path / source, source=source))
            assert result.code == 0, result.err
            dataset = load_dataset(str(tmp_path / source))
            rows[source] = [row for split in dataset.values() for row in split]
    assert any(row["published"].hour for row in rows["api"])
    midnight = {"hour": 0, "minute": 0, "second": 0}
    assert [row | {"published": row["published"].replace(**midnight)} for row in rows["api"]] == rows["oai"]


def test_few_requests_when_a_query_is_too_large(run, tmp_path):
    """A field that doubles within ten years, far more entries than a query may have: 1.25 x the fewest requests."""
    entries = []
    for number in range(4000):
        year, rest = divmod(10 * math.log2(1 + number / 4000), 1)
        moment = f"{1 + int(28 * rest)} Jun {2014 + int(year)} {number % 24:02d}:{number % 60:02d}:30 GMT"
        versions = [{"version": "v1", "created": f"Mon, {moment}"}]
        entries.append(snapshot_entry(number, LABELS[number % 5], abstract=f"Number {number}.", versions=versions))
    with arxiv_server(entries) as server:
        result = run("fetch_arxiv", *flags(server, tmp_path / "dataset", "--max_window", 1500, page_size=100))
        assert result.code == 0, result.err
        assert plan_of(tmp_path / "dataset")["records"] == 4000
        assert len(server.log) <= 1.25 * 4000 / 100
        assert max(int(request["start"]) for request in server.log) < 1500
        assert len(plan_of(tmp_path / "dataset")["windows"]) > 1


def test_times_of_day_survive_windows(run, tmp_path):
    """Entries at the very edges of windows and within one minute are neither lost nor doubled."""
    entries = study_entries()
    for k, entry in enumerate(entries):
        hour = ["00:00:00", "00:00:30", "23:59:59", "12:00:00"][k % 4]
        entry["versions"][0]["created"] = f"Mon, {1 + k // 10} Mar 2015 {hour} GMT"
    with arxiv_server(entries) as server:
        days = ["--start_date", "2015-03-01", "--end_date", "2015-03-10", "--max_window", 20]
        result = run("fetch_arxiv", *flags(server, tmp_path / "dataset", *days, page_size=10))
    assert result.code == 0, result.err
    snapshot = write_snapshot(tmp_path / "snapshot.jsonl", entries)
    again = ["--source", "snapshot", "--snapshot_file", snapshot, "--output_dir", tmp_path / "again", *days[:4]]
    assert run("fetch_arxiv", *again).code == 0
    assert parquet_hashes(tmp_path / "dataset") == parquet_hashes(tmp_path / "again")


def test_requests_keep_their_distance(fetch, server):
    server.faults = {1: "503", 2: "429 0", 3: "reset", 4: "cut", 5: "empty"}
    assert fetch("--delay_seconds", 0.15, page_size=50).code == 0
    times = [request["time"] for request in server.log]
    assert len(times) >= 8
    assert min(b - a for a, b in pairwise(times)) >= 0.15


# Faults


FAULTS = [
    *["503", "429", "503 1", "429 1", "500", "html", "empty", "nothing", "cut", "cut feed", "reset", "silence"],
    *["one more", "one less", "twice", "short", "out of order"],
]


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault(fetch, server, expected, tmp_path, fault, place):
    server.faults = {place: fault}
    result = fetch()
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "dataset") == expected


def test_all_faults_in_one_fetch(fetch, server, expected, tmp_path):
    server.faults = {2 * k: fault for k, fault in enumerate(FAULTS)}
    result = fetch("--max_window", 60, page_size=10)
    assert result.code == 0, result.err
    assert len(server.log) > max(server.faults), "every fault was met"
    assert parquet_hashes(tmp_path / "dataset") == expected


@pytest.mark.parametrize("fault", ["503", "html", "cut", "reset", "silence", "nothing", "bad token"])
def test_one_fault_of_oai(fetch, server, expected, tmp_path, fault):
    server.faults = {0: fault, 1: fault, 4: fault}
    result = fetch(source="oai")
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "dataset") == expected


def test_retry_after_is_kept(fetch, server):
    server.faults = {0: "503 2"}
    assert fetch().code == 0
    assert server.log[1]["time"] - server.log[0]["time"] >= 2


def test_pauses_grow(fetch, server):
    server.faults = dict.fromkeys(range(5), "503")
    assert fetch("--delay_seconds", 0.1).code == 0
    times = [request["time"] for request in server.log]
    assert times[5] - times[4] >= 1.6 > times[1] - times[0]


def test_entry_without_summary_is_counted_as_empty(fetch, server, tmp_path):
    server.fault = lambda number, query: "no summary"
    assert fetch(page_size=2000).code == 0
    assert json.loads((tmp_path / "dataset/manifest.json").read_text())["dropped"]["empty abstract"] == 1


def test_entry_without_date_does_not_stop_the_rest(fetch, server, tmp_path):
    """The package cannot read such an entry; the count of what came must still agree with what arXiv announces."""
    server.fault = lambda number, query: "no date"
    assert fetch(page_size=2000).code == 0
    assert plan_of(tmp_path / "dataset")["records"] == 129


def test_entry_that_arxiv_lists_and_counts_twice(fetch, server, expected, tmp_path):
    server.fault = lambda number, query: "twice, counted"
    result = fetch(page_size=2000)
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "dataset") == expected
    assert len(server.log) == 2


def test_window_without_entries_is_believed_only_after_asking_again(fetch, server, tmp_path):
    early = [{"version": "v1", "created": "Mon, 3 Feb 2014 10:00:00 GMT"}]
    server.records = [record | {"versions": early} for record in server.records]
    result = fetch("--max_window", 20)
    assert result.code == 0, result.err
    empty = [window for window in plan_of(tmp_path / "dataset")["windows"] if window["entries"] == 0]
    assert empty
    for window in empty:
        ends = f"[{window['from']} TO {window['to']}]"
        assert sum(ends in request.get("search_query", "") for request in server.log) == 3


@pytest.mark.parametrize("fault", ["503", "nothing", "empty", "one more", "html", "silence"])
def test_missing_window_is_named_and_the_same_command_goes_on(fetch, server, expected, tmp_path, fault):
    server.fault = lambda number, query: fault if number > 5 else None
    result = fetch("--max_window", 60, "--num_retries", 1)
    assert result.code == 1
    assert len([line for line in result.err.splitlines() if line.startswith("incomplete: ")]) == 1
    assert "Traceback" not in result.err
    # A window that is said to be empty again and again is given away by the sum.
    assert ("the whole time has 130" if fault == "nothing" else "is missing") in result.err
    assert not (tmp_path / "dataset/manifest.json").exists()

    finished = [f"[{w['from']} TO {w['to']}]" for w in plan_of(tmp_path / "dataset")["windows"] if "entries" in w]
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


def test_killed_at_any_moment_it_goes_on(server, expected, tmp_path):
    command = [sys.executable, ROOT / "fetch_arxiv.py"]
    command += [*flags(server, tmp_path / "dataset", "--max_window", 40, "--delay_seconds", 0.1, page_size=10)]
    kills = 0
    for seconds in (0.05, 0.8):  # after the first request
        asked = len(server.log)
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while len(server.log) == asked and process.poll() is None:
            time.sleep(0.01)
        time.sleep(seconds)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills == 2
    before = plan_of(tmp_path / "dataset")
    finished = [f"[{w['from']} TO {w['to']}]" for w in before["windows"] if "entries" in w]
    assert finished
    asked = len(server.log)
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    assert parquet_hashes(tmp_path / "dataset") == expected
    later = " ".join(request["search_query"] for request in server.log[asked:])
    assert not any(window in later for window in finished)


def test_oai_goes_on_after_an_interruption(fetch, server, expected, tmp_path):
    server.fault = lambda number, query: "503" if number > 4 else None
    assert fetch("--num_retries", 0, source="oai").code == 1
    pages = sorted((tmp_path / "dataset/.fetch/harvest/windows").iterdir())
    assert len(pages) == 5
    server.fault = lambda number, query: None
    asked = len(server.log)
    assert fetch(source="oai").code == 0
    assert parquet_hashes(tmp_path / "dataset") == expected
    fetch(folder=tmp_path / "whole", source="oai")
    whole = len(list((tmp_path / "whole/.fetch/harvest/windows").iterdir()))
    assert len(server.log) - asked - whole == whole - 5


def test_another_split_needs_no_request(fetch, server, expected, tmp_path):
    fetch()
    asked = len(server.log)
    assert fetch("--seed", 1, "--split_ratios", 0.6, 0.2, 0.2).code == 0
    assert parquet_hashes(tmp_path / "dataset") != expected
    assert fetch().code == 0
    assert parquet_hashes(tmp_path / "dataset") == expected
    assert len(server.log) == asked


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--categories", "math.AG", "math.CV"], "categories"),
        (["--end_date", "2022-12-31"], "end_date"),
        (["--start_date", "2015-01-01"], "start_date"),
        (["--source", "oai"], "source"),
    ],
)
def test_cache_of_other_arguments_is_refused(fetch, server, expected, tmp_path, more, word):
    fetch()
    asked = len(server.log)
    assert_user_error(fetch(*more), f"other {word}", "delete")
    assert len(server.log) == asked
    assert parquet_hashes(tmp_path / "dataset") == expected


def test_spoilt_cache_is_named(fetch, tmp_path):
    fetch()
    (tmp_path / "dataset/.fetch/harvest/harvest.json").write_text("{")
    assert_user_error(fetch(), "harvest.json", "delete")


def test_second_process_on_one_folder_stops(fetch, server, tmp_path):
    (tmp_path / "dataset/.fetch/harvest").mkdir(parents=True)
    with filelock.FileLock(tmp_path / "dataset/.fetch/lock"):
        assert_user_error(fetch(), "another process")
    with filelock.FileLock(tmp_path / "dataset/.fetch/harvest/lock"):
        assert_user_error(fetch(), "another process")
    assert not server.log


def test_full_disk_keeps_finished_windows(server, expected, tmp_path):
    command = [sys.executable, ROOT / "fetch_arxiv.py", *flags(server, tmp_path / "dataset", "--max_window", 30)]
    result = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1400, 1400)),
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: cannot write")
    assert len(result.stderr.splitlines()) == 1
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    assert parquet_hashes(tmp_path / "dataset") == expected


# A published manifest


@pytest.mark.parametrize("source", ["api", "oai", "snapshot"])
def test_ids_from_rebuilds_the_dataset(fetch, run, server, expected, records, tmp_path, source):
    fetch("--seed", 5, "--max_records_per_category", 15)
    manifest = tmp_path / "dataset/manifest.json"
    published = parquet_hashes(tmp_path / "dataset")
    assert published != expected
    server.log.clear()
    more = ["--ids_from", manifest]
    if source == "snapshot":
        more += ["--snapshot_file", write_snapshot(tmp_path / "all.jsonl", records)]
    result = fetch(*more, folder=tmp_path / "again", source=source)
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "again") == published
    assert "parquet files: those of the manifest" in result.out
    assert "gone: 0 papers" in result.out
    if source == "api":
        assert len(server.log) == math.ceil(75 / 20)


@pytest.mark.parametrize("source", ["api", "snapshot"])
def test_ids_from_reports_papers_that_are_gone(fetch, server, records, tmp_path, source):
    fetch()
    manifest = json.loads((tmp_path / "dataset/manifest.json").read_text())
    gone = sorted(manifest["ids"]["train"][:2] + manifest["ids"]["test"][:1])
    moved = manifest["ids"]["train"][5]
    server.records = [
        record | ({"categories": "math.GT"} if record["id"] == moved else {})
        for record in records
        if record["id"] not in gone
    ]
    more = ["--ids_from", tmp_path / "dataset/manifest.json"]
    if source == "snapshot":
        more += ["--snapshot_file", write_snapshot(tmp_path / "all.jsonl", server.records)]
    result = fetch(*more, folder=tmp_path / "again", source=source)
    assert result.code == 0, result.err
    assert f"gone: 3 papers {' '.join(gone)}" in result.out
    assert "others than those of the manifest" in result.out
    again = json.loads((tmp_path / "again/manifest.json").read_text())
    assert again["gone"] == gone
    for name, ids in manifest["ids"].items():
        labels = dict(zip(ids, manifest["labels"][name], strict=True))
        assert again["ids"][name] == [i for i in ids if i not in gone]
        assert again["labels"][name] == [labels[i] for i in again["ids"][name]], "labels are those published"


def test_ids_from_asks_for_fewer_ids_where_an_address_is_too_long(fetch, server, tmp_path):
    fetch()
    server.longest_address = 400
    asked = len(server.log)
    result = fetch("--ids_from", tmp_path / "dataset/manifest.json", folder=tmp_path / "again", page_size=2000)
    assert result.code == 0, result.err
    assert parquet_hashes(tmp_path / "again") == parquet_hashes(tmp_path / "dataset")
    sizes = [len(request["id_list"].split(",")) for request in server.log[asked:]]
    assert sizes[:4] == [100, 50, 25, 12]
    assert sum(sizes[3:]) == 100


@pytest.mark.parametrize("content", ["", "{}", '{"ids": 3}', "no json"])
def test_ids_from_something_else(fetch, tmp_path, content):
    (tmp_path / "some.json").write_text(content)
    assert_user_error(fetch("--ids_from", tmp_path / "some.json"), "some.json", "manifest.json of a dataset")
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
        (["--api_url", "export.arxiv.org/api/query"], ["--api_url", "no http address"]),
        (["--api_url", "https://export.arxiv.org/api/query", "--delay_seconds", 2.9], ["2.9", "terms"]),
        (["--snapshot_file", "x.jsonl"], ["--snapshot_file", "--source snapshot"]),
    ],
)
def test_bad_flags(fetch, server, tmp_path, more, words):
    assert_user_error(fetch(*more), *words)
    assert not server.log
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/api/query", "http://127.0.0.1:9/api/query"])
def test_no_network_says_what_to_do(fetch, tmp_path, url):
    result = fetch("--api_url", url)
    assert_user_error(result, "no connection", "--source snapshot")
    assert not (tmp_path / "dataset/manifest.json").exists()


def test_network_lost_on_the_way_is_asked_again_later(run, records, tmp_path):
    with arxiv_server(records) as server:
        server.fault = lambda number, query: number > 2 and (server.socket.close() or "reset")
        more = flags(server, tmp_path / "dataset", "--num_retries", 2, "--max_window", 40)
        result = run("fetch_arxiv", *more)
    assert result.code == 1
    assert "is missing" in result.err


def test_harvest_alone_writes_a_snapshot(run, server, expected, tmp_path):
    result = run("harvest_arxiv", *flags(server, tmp_path / "harvest"))
    assert result.code == 0, result.err
    path = tmp_path / "harvest/records.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    assert len({orjson.loads(line)["id"] for line in lines}) == 130
    run("fetch_arxiv", "--source", "snapshot", "--snapshot_file", path, "--output_dir", tmp_path / "dataset")
    assert parquet_hashes(tmp_path / "dataset") == expected
    assert_user_error(run("harvest_arxiv", *flags(server, tmp_path / "dataset")), "something else")
    assert_user_error(run("harvest_arxiv", *flags(server, tmp_path / "x", "--start_date", "x")), "YYYY-MM-DD")


def test_the_client_is_that_of_the_arxiv_package():
    """What the harvest relies on within the package, beyond its documented interface."""
    client = arxiv.Client()
    assert client._session.get
    assert client.query_url_format.endswith("?{}")


def test_progress_in_a_log_file(fetch):
    quiet = fetch()
    assert quiet.err == ""
    assert os.linesep + "|" in quiet.out
