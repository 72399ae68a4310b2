"""tools/harvest_oai.py: all that OAI-PMH sends is in the file, whatever the service does wrong."""

import gzip
import json
import multiprocessing
import os
import shlex
import signal
import time
from itertools import pairwise
from pathlib import Path

import filelock
import pytest
from arxiv_server import (
    arxiv_server,
    full_disk,
    hashes_from_snapshot,
    parquet_hashes,
    run_main,
    snapshot_entry,
    start,
    study_entries,
    timeout_flags,
    write_snapshot,
)
from conftest import LABELS, assert_user_error
from datasets import load_dataset

OTHER = ["math.GT", "math.AP", "cs.CG", "math-ph"]


def cross_lists(number=30):
    """Papers of other fields that cross-list one of the five."""
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
    """The hashes of the parquet files that the snapshot of the same records gives."""
    return hashes_from_snapshot(records, tmp_path_factory.mktemp("expected"))


def oai_flags(server, file, *more):
    return [
        *["--output_file", file, "--oai_url", server.oai_url, "--delay_seconds", 0.01],
        *[*timeout_flags(), "--disable_tqdm", *more],
    ]


@pytest.fixture
def harvest(run, server, tmp_path):
    """Run tools/harvest_oai.py against the local arXiv."""

    def call(*more, file=tmp_path / "oai.jsonl.gz"):
        return run("harvest_oai", *oai_flags(server, file, *more))

    return call


@pytest.fixture
def hashes_of(run, tmp_path):
    """Make a dataset folder of a file of records and return the hashes of its parquet files."""

    def call(file=tmp_path / "oai.jsonl.gz", folder=tmp_path / "dataset"):
        flags = [
            "--source",
            "snapshot",
            "--snapshot_file",
            file,
            "--output_dir",
            folder,
            "--disable_tqdm",
        ]
        result = run("fetch_arxiv", *flags)
        assert result.code == 0, result.err
        return parquet_hashes(folder)

    return call


def lines_of(file):
    data = file.read_bytes()
    return (gzip.decompress(data) if file.suffix == ".gz" else data).splitlines()


def test_file_gives_the_dataset_of_the_snapshot(harvest, server, hashes_of, expected, tmp_path):
    result = harvest()
    assert result.code == 0, result.err
    assert [path.name for path in tmp_path.iterdir()] == ["oai.jsonl.gz"], (
        "the work files are removed"
    )
    assert len({json.loads(line)["id"] for line in lines_of(tmp_path / "oai.jsonl.gz")}) == 130
    assert (
        f"python fetch_arxiv.py --source snapshot --snapshot_file {tmp_path / 'oai.jsonl.gz'}"
        in result.log
    )
    assert hashes_of() == expected
    assert [request["set"] for request in server.log if "set" in request] == [
        f"math:math:{name.split('.')[1]}" for name in LABELS
    ]
    assert all(request["from"] == "2014-01-01" for request in server.log if "set" in request)
    assert all("arxiv-confusable" in request["agent"] for request in server.log)
    assert server.most_connections == 1


def test_last_line_names_a_command_that_runs(harvest, run, monkeypatch, tmp_path):
    flags = ("--categories", "math.SG", "math.AG", "--start_date", "2014-02-01")
    result = harvest(*flags, file=tmp_path / "a file.jsonl")
    command = shlex.split(result.log.split("next: python ")[1])
    monkeypatch.chdir(tmp_path)
    done = run(command[0].removesuffix(".py"), *command[1:])
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "data/arxiv/manifest.json").read_text())
    assert manifest["arguments"]["categories"] == ["math.SG", "math.AG"]
    assert manifest["arguments"]["start_date"] == "2014-02-01"


def test_next_command_has_the_categories_of_an_archive(harvest, run, monkeypatch, tmp_path):
    """No paper has an archive as its primary category, nor an alias such as math.IT."""
    result = harvest("--categories", "hep-th", "math", "math.SG")
    assert result.code == 0, result.err
    command = shlex.split(result.log.split("next: python ")[1])
    categories = command[command.index("--categories") + 1 : command.index("--output_dir")]
    assert categories[:3] == ["hep-th", "math.AC", "math.AG"] and len(categories) == 31
    assert categories.count("math.SG") == 1 and "math.IT" not in categories
    monkeypatch.chdir(tmp_path)
    done = run(command[0].removesuffix(".py"), *command[1:])
    # It is a valid command, though this arXiv has no papers of most of them.
    assert done.code == 2 and "hep-th has 0 records" in done.err


def test_one_category_has_no_next_command(harvest):
    """fetch_arxiv.py refuses it."""
    result = harvest("--categories", "math.SG")
    assert result.code == 0, result.err
    assert "next: " not in result.log
    assert "a dataset requires two categories or more" in result.log


def test_harvest_without_a_paper_writes_no_file(harvest, tmp_path):
    """fetch_arxiv.py could not read it."""
    days = ["--start_date", "2023-12-31", "--end_date", "2023-12-31"]
    result = harvest(*days)
    assert_user_error(result, "no paper of math.AG", "from 2023-12-31 to 2023-12-31", "dates")
    assert list(tmp_path.iterdir()) == []
    assert harvest().code == 0  # other dates start anew


def test_plain_file(harvest, tmp_path):
    assert harvest().code == 0
    assert harvest(file=tmp_path / "a folder" / "oai.jsonl").code == 0
    assert lines_of(tmp_path / "a folder/oai.jsonl") == lines_of(tmp_path / "oai.jsonl.gz")


def test_paper_of_several_sets_is_written_once(run, tmp_path):
    entries = [snapshot_entry(k, LABELS[k % 5], categories=" ".join(LABELS)) for k in range(40)]
    with arxiv_server(entries) as server:
        assert run("harvest_oai", *oai_flags(server, tmp_path / "oai.jsonl")).code == 0
    ids = [json.loads(line)["id"] for line in lines_of(tmp_path / "oai.jsonl")]
    assert sorted(ids) == sorted(entry["id"] for entry in entries)


def test_only_papers_within_the_dates_are_kept(harvest, server, tmp_path):
    assert harvest("--start_date", "20160101", "--end_date", "2017-12-31").code == 0
    years = {
        json.loads(line)["versions"][0]["created"].split()[3]
        for line in lines_of(tmp_path / "oai.jsonl.gz")
    }
    assert years == {"2016", "2017"}
    assert all(request["from"] == "2016-01-01" for request in server.log if "set" in request)


def test_dates_before_the_first_datestamp(harvest, server):
    assert harvest("--start_date", "1991-08-14").code == 0
    assert server.log[0]["from"] == "2005-09-16"


def test_oai_has_only_the_day(run, records, tmp_path):
    """For papers with a time of day, OAI-PMH gives the same dataset but for that time."""
    moment = [{"version": "v1", "created": "Mon, 2 Jun 2014 17:05:09 GMT"}]
    entries = [
        entry | {"versions": moment} if number % 2 else entry
        for number, entry in enumerate(records)
    ]
    with arxiv_server(entries) as server:
        assert run("harvest_oai", *oai_flags(server, tmp_path / "oai.jsonl")).code == 0
    write_snapshot(tmp_path / "snapshot.jsonl", entries)
    rows = {}
    for name in ("oai", "snapshot"):
        flags = [
            "--source",
            "snapshot",
            "--snapshot_file",
            tmp_path / f"{name}.jsonl",
            "--disable_tqdm",
        ]
        assert run("fetch_arxiv", *flags, "--output_dir", tmp_path / name).code == 0
        rows[name] = [row for split in load_dataset(str(tmp_path / name)).values() for row in split]
    assert any(row["published"].hour for row in rows["snapshot"])
    midnight = {"hour": 0, "minute": 0, "second": 0}
    without_time = [
        row | {"published": row["published"].replace(**midnight)} for row in rows["snapshot"]
    ]
    assert without_time == rows["oai"]


# Faults


FAULTS = [
    "503",
    "429 0",
    "500",
    "503 soon",
    "html",
    "cut",
    "cut feed",
    "reset",
    "silence",
    "no headers",
    "nothing",
    "drip",
    "drip, headers",
]


@pytest.mark.parametrize("fault", [*FAULTS, "bad token", "bad token, 400"])
def test_faults(harvest, server, hashes_of, expected, fault):
    server.faults = {0: fault, 1: fault, 4: fault}
    result = harvest(*timeout_flags(fault))
    assert result.code == 0, result.err
    assert hashes_of() == expected


@pytest.mark.parametrize("fault", ["bad token", "bad token, 400"])
def test_dead_token_starts_the_set_again(harvest, server, hashes_of, expected, fault):
    """The token of the first set's second page is dead: asking for it again is of no use."""
    server.faults = {1: fault}
    assert harvest().code == 0
    first, dead, again, *_ = server.log
    assert dead["resumptionToken"]
    assert again.get("resumptionToken") is None
    assert again["set"] == first["set"]
    assert hashes_of() == expected


def test_refusal_of_the_first_page_shows_its_reason(harvest, server):
    server.fault = lambda number, query: "400"
    result = harvest()
    assert result.code == 1
    assert "HTTP 400" in result.err and "Back soon" in result.err
    assert len(server.log) == 1


def test_requests_keep_their_distance(harvest, server):
    server.faults = {1: "503", 2: "429 0", 3: "reset", 5: "cut", 7: "html"}
    assert harvest("--delay_seconds", 0.1).code == 0
    times = [request["time"] for request in server.log]
    assert min(b - a for a, b in pairwise(times)) >= 0.1


def test_retry_after_is_kept(harvest, server):
    server.faults = {1: "503 1"}
    assert harvest().code == 0
    assert server.log[2]["time"] - server.log[1]["time"] >= 1


@pytest.mark.parametrize("fault", ["503", "html"])
def test_pauses_grow(harvest, server, fault):
    server.faults = dict.fromkeys(range(5), fault)
    assert harvest("--delay_seconds", 0.03).code == 0
    times = [request["time"] for request in server.log]
    assert times[5] - times[4] >= 0.48 > times[1] - times[0]


@pytest.mark.parametrize("fault", ["503", "html", "silence", "reset", "bad token"])
def test_missing_page_is_named_and_the_same_command_goes_on(
    harvest, server, hashes_of, expected, tmp_path, fault
):
    server.fault = lambda number, query: fault if number > 4 else None
    result = harvest("--num_retries", 1, *timeout_flags(fault))
    assert result.code == 1, result.err
    assert len(result.err.splitlines()) == 1
    assert "of math." in result.err and "is missing" in result.err
    assert not (tmp_path / "oai.jsonl.gz").exists()
    asked = len(server.log)
    server.fault = lambda number, query: None
    assert harvest().code == 0
    assert hashes_of() == expected
    if fault != "bad token":
        whole = sum(-(-26 // server.oai_page) for _ in LABELS)
        assert len(server.log) - asked == whole - 5


@pytest.mark.parametrize("fault", ["nothing", "same token", "tokens in a circle"])
def test_answer_to_a_token_that_lacks_the_rest_is_no_end(
    harvest, server, hashes_of, expected, tmp_path, fault
):
    """A token promises more records, and a new token or none."""
    server.oai_page = 6

    def rule(number, query):
        assert len(server.log) < 60, "the harvest does not end"
        return fault if "resumptionToken" in query else None

    server.fault = rule
    result = harvest("--num_retries", 3)
    assert result.code == 1, result.err
    assert len(result.err.splitlines()) == 1
    assert "of math.AG is missing" in result.err
    assert ("noRecordsMatch" if fault == "nothing" else "token of an earlier page") in result.err
    assert (tmp_path / "oai.jsonl.gz.work/000-00000.jsonl.gz").exists()
    assert not (tmp_path / "oai.jsonl.gz").exists()
    server.fault = lambda number, query: None
    assert harvest().code == 0
    assert server.log[-1].get("set") != server.log[0]["set"]
    assert sum(request.get("set") == "math:math:AG" for request in server.log) == 1
    assert hashes_of() == expected


def test_refusal_is_reported(harvest, server):
    server.fault = lambda number, query: "403"
    result = harvest()
    assert result.code == 1
    assert "403" in result.err
    assert len(server.log) == 1, "a refusal is not asked again"


def test_killed_at_any_moment_it_goes_on(server, harvest, tmp_path):
    assert harvest(file=tmp_path / "whole.jsonl.gz").code == 0
    requests = len(server.log)
    process = start(
        "harvest_oai", *oai_flags(server, tmp_path / "oai.jsonl.gz"), "--delay_seconds", 0.2
    )
    while len(server.log) < requests + 4 and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert (tmp_path / "oai.jsonl.gz.work/state.json").exists()
    assert harvest().code == 0
    assert len(server.log) <= 2 * requests + 1
    assert (tmp_path / "oai.jsonl.gz").read_bytes() == (tmp_path / "whole.jsonl.gz").read_bytes()


def kill_at_operation(number, arguments):
    """Run the harvest and kill it, as kill -9 does, before a file operation of the output.

    The operations are counted from the first write of the joined file on.
    """
    seen = []

    def watch(owner, name):
        original = getattr(owner, name)

        def call(path, *more, **options):
            if seen or Path(path).name == "output":
                seen.append(f"{name} {path}")
                if len(seen) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(path, *more, **options)

        setattr(owner, name, call)

    for name in ("write_bytes", "open", "unlink", "rmdir"):
        watch(Path, name)
    watch(os, "replace")
    run_main("harvest_oai", arguments)


@pytest.mark.parametrize("is_moved", [False, True])
def test_killed_at_the_end_no_paper_is_lost(is_moved, server, harvest, tmp_path):
    """From the join of the pages on, also if the user takes the finished file away."""
    flags = ["--categories", "math.AG", "math.CV"]
    assert harvest(*flags, file=tmp_path / "whole.jsonl").code == 0
    whole = (tmp_path / "whole.jsonl").read_bytes()
    file = tmp_path / "oai.jsonl"
    for number in range(1, 30):
        arguments = oai_flags(server, file, *flags)
        process = multiprocessing.get_context("fork").Process(
            target=kill_at_operation, args=(number, arguments)
        )
        process.start()
        process.join()
        was_killed = process.exitcode == -signal.SIGKILL
        if is_moved and file.exists():
            assert file.read_bytes() == whole
            file.unlink()
        if was_killed:
            again = harvest(*flags, file=file)
            # Where nothing but an empty folder or a lock was left, the file is simply there.
            assert again.code == 0 or "exists; delete it" in again.err
        if was_killed or not is_moved:
            assert file.read_bytes() == whole, number
            file.unlink()
        if not was_killed:
            break
    assert 10 < number < 29, "the last command was not killed, and all before were"


def test_token_of_yesterday_starts_its_set_again(server, harvest, hashes_of, expected, tmp_path):
    """A command is stopped, and its token is dead when the same command goes on."""
    server.fault = lambda number, query: "503" if number > 2 else None
    assert harvest("--num_retries", 0).code == 1
    state = json.loads((tmp_path / "oai.jsonl.gz.work/state.json").read_text())
    assert (state["set"], state["page"]) == (1, 1) and state["token"]
    asked = len(server.log)
    server.fault = lambda number, query: "bad token, 400" if number == asked else None
    assert harvest().code == 0
    dead, again = server.log[asked : asked + 2]
    assert dead["resumptionToken"] == state["token"]
    assert again["set"] == "math:math:CV"
    assert hashes_of() == expected


@pytest.mark.parametrize(
    ("contact", "shown"),
    [
        ("you@example.org", "mailto:you@example.org"),
        ("mailto:first.last+arxiv@sub.example.org", "mailto:first.last+arxiv@sub.example.org"),
        ("https://example.org/~you/harvest", "https://example.org/~you/harvest"),
    ],
)
def test_contact_stands_in_the_user_agent(harvest, server, tmp_path, contact, shown):
    server.fault = lambda number, query: "503" if number > 2 else None
    assert harvest("--contact", contact, "--num_retries", 0).code == 1
    agent = f"arxiv-confusable-classification (harvest_oai.py; requests; {shown})"
    assert {request["agent"] for request in server.log} == {agent}
    assert contact not in (tmp_path / "oai.jsonl.gz.work/state.json").read_text()


def test_full_disk_keeps_finished_pages(server, harvest, tmp_path):
    with full_disk(6000):  # the pages are smaller, the whole file is not
        assert_user_error(harvest(file=tmp_path / "oai.jsonl"), "cannot write")
    assert not (tmp_path / "oai.jsonl").exists()
    asked = len(server.log)
    assert harvest(file=tmp_path / "oai.jsonl").code == 0
    assert len(server.log) == asked
    assert len(lines_of(tmp_path / "oai.jsonl")) == 130


# User errors


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--start_date", "x"], ["--start_date x", "YYYY-MM-DD"]),
        (["--end_date", "2013-01-01"], ["--end_date 2013-01-01", "earlier day first"]),
        (["--end_date", "2991-01-01"], ["--end_date 2991-01-01", "today in UTC"]),
        (["--start_date", "1991-08-13"], ["--start_date 1991-08-13", "1991-08-14"]),
        (["--categories", "Mathematics!"], ["--categories Mathematics!", "math.AG"]),
        (["--categories", "math.AG", "cs.SY"], ["cs.SY", "give eess.SY"]),
        (["--categories", "math.DQ"], ["--categories math.DQ", "taxonomy"]),
        (["--categories", "math.AG", "math.AG"], ["each once"]),
        (["--num_retries", -1], ["--num_retries"]),
        (["--timeout_seconds", 0], ["--timeout_seconds"]),
        (["--delay_seconds", "nan"], ["--delay_seconds"]),
        (["--oai_url", "oaipmh.arxiv.org/oai"], ["--oai_url", "not an http address"]),
        (
            ["--oai_url", "https://oaipmh.arxiv.org/oai", "--delay_seconds", 1],
            ["--delay_seconds 1", "terms"],
        ),
        (["--oai_url", "http://127.0.0.1:9/oai"], ["no connection"]),
        (["--oai_url", "http://no-such-host.invalid/oai"], ["no connection"]),
        (["--page_size", 5], ["--page_size"]),
        (["--contact", "you"], ["--contact 'you'", "you@example.org"]),
        (["--contact", "you@example.org\r\nX-More: 1"], ["--contact", "you@example.org"]),
        (["--contact", "Zoë@example.org"], ["--contact"]),
        (["--contact", "a@b.org and c@d.org"], ["--contact"]),
        (["--contact", ""], ["--contact ''"]),
        (["--contact", f"you@{'a' * 200}.org"], ["--contact"]),
    ],
)
def test_user_errors(harvest, server, tmp_path, more, words):
    assert_user_error(harvest(*more), *words)
    assert not server.log
    assert not list(tmp_path.iterdir())


def test_existing_file_is_left_alone(harvest, server, tmp_path):
    (tmp_path / "oai.jsonl.gz").write_text("mine")
    assert_user_error(harvest(), "oai.jsonl.gz exists")
    assert (tmp_path / "oai.jsonl.gz").read_text() == "mine"
    assert not server.log


def test_link_to_a_file_that_does_not_exist_is_left_alone(harvest, server, tmp_path):
    (tmp_path / "oai.jsonl.gz").symlink_to(tmp_path / "elsewhere")
    assert_user_error(harvest(), "oai.jsonl.gz exists")
    assert not server.log


def test_file_that_appears_meanwhile_is_left_alone(harvest, server, tmp_path):
    file = tmp_path / "oai.jsonl.gz"

    def rule(number, query):
        file.write_text("mine")

    server.fault = rule
    assert_user_error(harvest(), "oai.jsonl.gz exists")
    assert file.read_text() == "mine"
    file.unlink()
    asked = len(server.log)
    assert harvest().code == 0
    assert len(server.log) == asked, "the pages are still there"


@pytest.mark.parametrize("name", ["notes.txt", "000-00000.jsonl.gz", "a/b"])
def test_work_folder_of_somebody_else_is_left_alone(harvest, server, tmp_path, name):
    path = tmp_path / "oai.jsonl.gz.work" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert_user_error(harvest(), "oai.jsonl.gz.work")
    assert path.read_text() == "mine"
    assert not server.log


def test_output_file_with_a_name_that_is_too_long(harvest, tmp_path):
    assert_user_error(harvest(file=tmp_path / ("l" * 300)), "File name too long")


def test_output_file_with_a_name_that_is_not_utf8(harvest, server, tmp_path):
    """Checked before the harvest, because the next command could not be printed after it."""
    file = tmp_path / os.fsdecode(b"oai\xff.jsonl")
    assert_user_error(harvest(file=file), "--output_file", "UTF-8")
    assert not server.log
    assert not list(tmp_path.iterdir())


def test_work_folder_that_is_a_link_is_not_emptied(harvest, server, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "oai.jsonl.gz.work").symlink_to(tmp_path / "mine")
    assert_user_error(harvest(), "oai.jsonl.gz.work", "another --output_file")
    assert not server.log


@pytest.mark.parametrize("word", ["categories", "end_date", "start_date"])
def test_work_files_of_other_arguments_are_refused(harvest, server, word):
    server.fault = lambda number, query: "503" if number > 4 else None
    assert harvest("--num_retries", 0).code == 1
    other = {"categories": ["math.AG"], "end_date": ["2022-12-31"], "start_date": ["2015-01-01"]}[
        word
    ]
    assert_user_error(harvest(f"--{word}", *other), f"other {word}", "delete")


@pytest.mark.parametrize("name", ["state.json", "000-00000.jsonl.gz"])
def test_damaged_work_files_are_named(harvest, server, tmp_path, name):
    server.fault = lambda number, query: "503" if number > 4 else None
    assert harvest("--num_retries", 0).code == 1
    (tmp_path / "oai.jsonl.gz.work" / name).write_bytes(b"{")
    server.fault = lambda number, query: None
    assert_user_error(harvest(), name, "delete")
    assert not (tmp_path / "oai.jsonl.gz").exists()


def test_second_process_on_one_file_stops(harvest, server, tmp_path):
    (tmp_path / "oai.jsonl.gz.work").mkdir()
    with filelock.FileLock(tmp_path / "oai.jsonl.gz.work/lock"):
        assert_user_error(harvest(), "another process")
    assert not server.log
