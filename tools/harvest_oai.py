#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "filelock==4.2.12",
#     "lxml==6.1.3",
#     "orjson==3.13.0",
#     "PyYAML==6.0.3",
#     "requests==2.34.2",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
#     "urllib3==2.8.0",
# ]
# ///
"""Harvest arXiv's metadata through OAI-PMH into a file in the layout of Kaggle's metadata snapshot.

    python tools/harvest_oai.py --output_file arxiv-oai.jsonl.gz --contact you@example.org
    python fetch_arxiv.py --source snapshot --snapshot_file arxiv-oai.jsonl.gz \\
        --output_dir data/arxiv

The defaults are the study's five categories of mathematics, 2014 to 2023. OAI-PMH selects records
by the day of their last change, so all records that changed since --start_date are downloaded, and
those whose first version is from --start_date to --end_date are kept. Finished pages are kept in
OUTPUT_FILE.work until the file is complete: after an interruption the same command continues there.
Requests are paced over one connection. A failed request is repeated after growing pauses, or after
the time that the server asks for. If a page does not arrive, the command names it and exits with
status 1.

Writes --output_file: one JSON object per line, gzip if the name ends in .gz, one line per paper.
"""

import contextlib
import gzip
import hashlib
import json
import logging
import os
import re
import shlex
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO

import filelock
import orjson
import requests
from lxml import etree
from tqdm import tqdm

from common.arxiv_access import (
    ALIASES,
    LONGEST_PAUSE,
    TAXONOMY,
    TERMS_DELAY,
    Pace,
    PoliteAdapter,
    category_names,
    check_contact,
    check_dates,
    check_requests,
    failure_reason,
    give_up,
    is_final,
    user_agent,
)
from common.cli import fail, one_line, parse_arguments, start_logging
from common.folders import check_names, find_foreign_file, is_record, write

logger = logging.getLogger(__name__)

EARLIEST = "2005-09-16"  # arXiv's earliest datestamp; an earlier "from" is an error
EMPTY_ANSWERS = 3  # "no records" of a whole set is believed when it is repeated so often
OAI = "{http://www.openarchives.org/OAI/2.0/}"
ARXIV = "{http://arxiv.org/OAI/arXiv/}"
CATEGORIES = ("math.AG", "math.CV", "math.DG", "math.MG", "math.SG")
# The groups of sets that are named after their archive; all other archives are in "physics".
OWN_GROUPS = ("cs", "econ", "eess", "math", "q-bio", "q-fin", "stat")
STATE = "state.json"
PAGES = "[0-9][0-9][0-9]-*.jsonl.gz"
WORK_FILES = r"state\.json|lock|output|\d{3}-\d{5,}\.jsonl\.gz"


# Arguments


@dataclass
class HarvestArguments:
    """What to harvest, and how."""

    output_file: str = field(
        metadata={"help": "File to write: JSON lines, gzip if the name ends in .gz."}
    )
    oai_url: str = field(
        default="https://oaipmh.arxiv.org/oai", metadata={"help": "Address of the OAI-PMH service."}
    )
    categories: list[str] = field(
        default_factory=lambda: [*CATEGORIES],
        metadata={"help": "Categories to harvest, including papers that only cross-list them."},
    )
    start_date: str = field(
        default="2014-01-01",
        metadata={"help": "First day of version 1 of the papers to keep, UTC."},
    )
    end_date: str = field(
        default="2023-12-31",
        metadata={"help": "Last day of version 1 of the papers to keep, UTC."},
    )
    delay_seconds: float = field(
        default=TERMS_DELAY, metadata={"help": "Pause between two requests."}
    )
    timeout_seconds: float = field(
        default=120.0, metadata={"help": "Time after which an unanswered request has failed."}
    )
    num_retries: int = field(
        default=10, metadata={"help": "Number of retries of a failed request."}
    )
    contact: str | None = field(
        default=None,
        metadata={"help": "Your e-mail address, for the User-Agent of the requests."},
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Disable the progress bar."})


def check_arguments(arguments: HarvestArguments) -> None:
    """Exit with status 2 on values that arXiv would refuse or that violate its terms of use."""
    check_names(arguments)
    known = [*category_names(), *TAXONOMY]  # an archive is a set, too
    for name in arguments.categories:
        if name in ALIASES:
            primary = ALIASES[name]
            fail(
                f"--categories {name} is another name of {primary}, and no paper has it as its "
                f"primary category; give {primary}"
            )
        if name not in known:
            fail(
                f"--categories {name}: arXiv has no such category; they are written like math.AG "
                "or hep-th (https://arxiv.org/category_taxonomy)"
            )
    if len(set(arguments.categories)) != len(arguments.categories):
        fail(f"--categories {' '.join(arguments.categories)}: give each once")
    check_dates(arguments)
    check_requests(
        "--oai_url",
        arguments.oai_url,
        arguments.delay_seconds,
        arguments.timeout_seconds,
        arguments.num_retries,
    )
    check_contact(arguments.contact)
    check_output(Path(arguments.output_file))


def check_output(file: Path) -> None:
    """Exit with status 2 if the output file exists, or is a link to where a file may come."""
    if os.path.lexists(file) and not is_finished(file, work_folder(file)):
        fail(f"--output_file {file} exists; delete it, or give another name")


# Asking arXiv


@dataclass
class Page:
    """A page of records in the snapshot's layout."""

    records: list[dict]
    next_token: str  # empty after the last page


class DeadToken(Exception):
    """The server does not know the resumption token of a request any more."""


class OaiClient:
    """A paced connection to an OAI-PMH service."""

    def __init__(self, arguments: HarvestArguments):
        self.url = arguments.oai_url
        self.num_retries = arguments.num_retries
        self.pace = Pace(arguments.delay_seconds)
        self.adapter = PoliteAdapter(
            user_agent("harvest_oai.py", arguments.contact),
            self.pace,
            arguments.timeout_seconds,
            arguments.num_retries,
        )
        self.session = requests.Session()
        self.session.mount("http://", self.adapter)
        self.session.mount("https://", self.adapter)

    def get(self, query: dict[str, str]) -> etree._Element:
        """Return the root of the answer to a query.

        Raises DeadToken, RequestException, or ValueError if the answer is not one of OAI-PMH.
        """
        response = self.session.get(self.url, params=query)
        if response.status_code == 400:
            if "resumptionToken" in query:
                raise DeadToken
            reason = " ".join(re.sub("<[^<>]*>", " ", response.text).split())
            raise requests.HTTPError(f"HTTP 400: {reason}")
        response.raise_for_status()
        parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
        try:
            root = etree.fromstring(response.content, parser)
        except etree.XMLSyntaxError as error:
            raise ValueError(f"not XML: {one_line(error)}") from error
        if root.tag != f"{OAI}OAI-PMH":
            raise ValueError(f"not an answer of OAI-PMH: <{etree.QName(root).localname}>")
        return root

    def fetch_page(self, query: dict[str, str], used_tokens: set[str]) -> Page:
        """Return the page that a query asks for.

        used_tokens are the resumption tokens that have led to the pages so far. An answer that
        sends one of them again has no end, and is asked for again like any other fault.

        Raises DeadToken, or RequestException on a refusal or after the last retry.
        """
        failures = 0
        while True:
            try:
                root = self.get(query)
                fault = "an answer without records"
                error = root.find(f"{OAI}error")
                if error is not None:
                    fault = f"{error.get('code')}: {error.text}"
                    if error.get("code") == "badResumptionToken":
                        raise DeadToken
                    if error.get("code") != "noRecordsMatch":
                        raise requests.HTTPError(fault)
                has_records = root.find(f"{OAI}ListRecords/{OAI}record") is not None
                # A token promises more records. Without one, no records at all is believed only
                # when it is said again and again.
                may_be_empty = "resumptionToken" not in query
                is_repeated = failures >= min(EMPTY_ANSWERS - 1, self.num_retries)
                if has_records or (may_be_empty and is_repeated):
                    page = read_page(root)
                    if page.next_token not in used_tokens:
                        return page
                    fault = "the answer has the resumption token of an earlier page"
            except requests.RequestException as error:
                if is_final(error):
                    raise
                fault = one_line(error)
            except ValueError as error:
                fault = one_line(error)
            failures += 1
            if failures > self.num_retries:
                raise requests.RequestException(f"{failures} failures in a row, the last: {fault}")
            self.pace.rest(min(LONGEST_PAUSE, self.pace.delay * 2**failures))


def read_page(root: etree._Element) -> Page:
    """Return the page in an answer. Deleted records have no metadata and are left out."""
    records = []
    for metadata in root.iterfind(f"{OAI}ListRecords/{OAI}record/{OAI}metadata/{ARXIV}arXiv"):
        values = {}
        for child in metadata.iterchildren(tag=etree.Element):
            values[etree.QName(child).localname] = child.text or ""
        try:
            records.append(to_snapshot(values))
        except (KeyError, ValueError) as error:
            logger.warning("skipping record %s: %s", values.get("id"), one_line(error))
    token = root.findtext(f"{OAI}ListRecords/{OAI}resumptionToken") or ""
    return Page(records, token.strip())


def to_snapshot(values: dict[str, str]) -> dict:
    """Return a record of OAI-PMH in the snapshot's layout.

    Raises KeyError or ValueError without an id or a date.
    """
    created = datetime.fromisoformat(values["created"]).replace(tzinfo=UTC)
    return {
        "id": values["id"],
        "title": values.get("title", ""),
        "categories": " ".join(values.get("categories", "").split()) or "none",
        "abstract": values.get("abstract", ""),
        "versions": [{"version": "v1", "created": format_datetime(created, usegmt=True)}],
    }


def set_name(category: str) -> str:
    """Return the OAI-PMH set of a category: math:math:AG, physics:hep-th."""
    archive, _, name = category.partition(".")
    group = archive if archive in OWN_GROUPS else "physics"
    return ":".join([group, archive, name]) if name else f"{group}:{archive}"


# The work folder: finished pages and how far the harvest is


def work_folder(file: Path) -> Path:
    """Return the folder of the pages of an output file."""
    return Path(f"{file}.work")


@dataclass
class State:
    """How far a harvest is, as it stands in state.json."""

    asked: dict  # the arguments that decide what is harvested
    set: int = 0  # finished sets
    page: int = 0  # finished pages of the current set
    token: str = ""  # of the next page
    output: str = ""  # SHA-256 of the output file, once all pages are joined
    script: str = "harvest_oai.py"

    def save(self, folder: Path) -> None:
        write(folder / STATE, json.dumps(asdict(self)))


@contextlib.contextmanager
def open_work_folder(folder: Path, arguments: HarvestArguments) -> Iterator[State]:
    """Make or open the work folder, lock it for this process and yield the state of the harvest.

    Exits with status 2 if it is in use, holds another harvest or other files, or if a write in it
    fails. A folder with no finished page is removed again.
    """
    try:
        state = load_state(folder, arguments)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / STATE).exists():
            state.save(folder)  # first, so that the folder is known as this script's
        with filelock.FileLock(folder / "lock", timeout=0):
            try:
                # Another process may have gone on between reading the state and locking it.
                state = load_state(folder, arguments)
                remove_pages(folder, state)
                yield state
            finally:
                (folder / "lock").unlink(missing_ok=True)
                if next(folder.glob(PAGES), None) is None:
                    remove_work_files(folder)
    except filelock.Timeout:
        fail(
            f"another process is writing into {folder}; wait for it, or give another --output_file"
        )
    except OSError as error:
        fail(
            f"cannot write into {folder}: {error.strerror or error}; free some space and run the "
            "same command again to continue"
        )


def load_state(folder: Path, arguments: HarvestArguments) -> State:
    """Return the state of an earlier call with the same arguments, or that of a new harvest.

    Exits with status 2 if the folder holds other files, a harvest with other arguments, or a
    damaged state.
    """
    asked = {
        name: getattr(arguments, name)
        for name in ("oai_url", "categories", "start_date", "end_date")
    }
    if not os.path.lexists(folder):
        return State(asked)
    path = folder / STATE
    if not folder.is_dir() or folder.is_symlink():
        fail(f"{folder} is not a folder of this script; move it, or give another --output_file")
    foreign = find_foreign_file(folder, WORK_FILES)
    if foreign is not None:
        fail(
            f"{folder} holds {foreign!r}, which harvest_oai.py did not write; move it, or give "
            "another --output_file"
        )
    if not path.exists():
        if next(folder.glob(PAGES), None) is not None:
            fail(f"{folder} has pages but no {STATE}; delete it to start again")
        return State(asked)
    try:
        state = State(**json.loads(path.read_text(encoding="utf-8")))
        if not is_record(path, "harvest_oai.py"):
            raise ValueError("it is not a state of harvest_oai.py")
        for name, value in asked.items():
            if state.asked[name] != value:
                fail(
                    f"{folder} holds a harvest with other {name}; delete it to start again, or "
                    "change --output_file"
                )
    except (ValueError, KeyError, TypeError) as error:
        fail(f"cannot read {path} ({one_line(error)}); delete {folder} to start again")
    return state


def is_finished(file: Path, folder: Path) -> bool:
    """Return whether a file is the output of the harvest in the folder.

    A command that was killed afterwards has left its work files.
    """
    path = folder / STATE
    if file.is_symlink() or not file.is_file() or not is_record(path, "harvest_oai.py"):
        return False
    output = json.loads(path.read_text(encoding="utf-8")).get("output")
    with file.open("rb") as stream:
        return output == hashlib.file_digest(stream, "sha256").hexdigest()


def remove_pages(folder: Path, state: State) -> None:
    """Remove the pages that do not count as finished.

    A command that was killed between two writes has left them; they come again.
    """
    for path in folder.glob(PAGES):
        number, page = path.name.split(".")[0].split("-")
        if (int(number), int(page)) >= (state.set, state.page):
            path.unlink()


def finish(folder: Path, state: State) -> None:
    """Remove the work files, the output file being written."""
    # If this command is killed between two pages, the rest of them must not be taken for all.
    state.set = 0
    state.page = 0
    state.token = ""
    state.save(folder)
    remove_work_files(folder)


def remove_work_files(folder: Path) -> None:
    """Remove the files of this script, and the folder if nothing else is in it."""
    for pattern in (PAGES, STATE, "*.tmp", "output", "lock"):
        for path in folder.glob(pattern):
            path.unlink()
    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()


def harvest(client: OaiClient, arguments: HarvestArguments, folder: Path, state: State) -> None:
    """Download all pages of all sets that are not in the folder yet.

    Exits with status 2 if the service cannot be reached, with status 1 if it does not send a page.
    """
    with tqdm(desc="arXiv", unit=" pages", disable=arguments.disable_tqdm) as bar:
        while state.set < len(arguments.categories):
            harvest_set(client, arguments, folder, state, bar)


def harvest_set(
    client: OaiClient, arguments: HarvestArguments, folder: Path, state: State, bar: tqdm
) -> None:
    """Download the pages of the current set, and count it as finished."""
    category = arguments.categories[state.set]
    number = state.set
    # A record's datestamp is the day of its last change, so never before that of version 1.
    first_query = {
        "verb": "ListRecords",
        "metadataPrefix": "arXiv",
        "set": set_name(category),
        "from": max(arguments.start_date, EARLIEST),
    }
    used_tokens = set()
    restarts = 0
    while state.set == number:
        query = first_query
        if state.token:
            query = {"verb": "ListRecords", "resumptionToken": state.token}
            used_tokens.add(state.token)
        missing = f"page {state.page + 1} of {category} is missing"
        try:
            page = client.fetch_page(query, used_tokens)
        except DeadToken:  # tokens expire after a day: the set starts again
            restarts += 1
            if restarts > arguments.num_retries:
                give_up(f"{missing}: its resumption token is refused")
            restart_set(folder, state)
            used_tokens.clear()
            client.pace.rest(min(LONGEST_PAUSE, client.pace.delay * 2**restarts))
            continue
        except (requests.RequestException, KeyboardInterrupt) as error:
            reason = failure_reason(error)
            if isinstance(error, requests.ConnectionError) and not client.adapter.is_connected:
                fail(f"no connection to {arguments.oai_url}: {reason}; check --oai_url")
            give_up(f"{missing}: {reason}")
        lines = b"".join(orjson.dumps(record) + b"\n" for record in page.records)
        file = f"{number:03d}-{state.page:05d}.jsonl.gz"
        write(folder / file, gzip.compress(lines, mtime=0))
        state.page += 1
        state.token = page.next_token
        if not state.token:
            state.set += 1
            state.page = 0
        state.save(folder)
        bar.update()
        bar.set_postfix_str(f"{category}, {client.pace.requests} requests")


def restart_set(folder: Path, state: State) -> None:
    """Forget the pages of the current set."""
    state.page = 0
    state.token = ""
    state.save(folder)
    remove_pages(folder, state)


# The output file


def join_pages(folder: Path, arguments: HarvestArguments, state: State) -> int:
    """Write the output file from all pages and return the number of papers.

    Exits with status 2 if there are none, if a page is damaged, or if the output file has appeared
    meanwhile.
    """
    file = Path(arguments.output_file)
    temporary = folder / "output"
    with temporary.open("wb") as raw:
        if file.suffix == ".gz":
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
                number = write_papers(folder, arguments, stream)
        else:
            number = write_papers(folder, arguments, raw)
    if number == 0:
        finish(folder, state)  # a call with other arguments starts anew
        fail(
            f"arXiv has no paper of {' '.join(arguments.categories)} whose first version is from "
            f"{arguments.start_date} to {arguments.end_date}; give other --categories or dates"
        )
    check_output(file)
    with temporary.open("rb") as stream:
        state.output = hashlib.file_digest(stream, "sha256").hexdigest()
    state.save(folder)
    os.replace(temporary, file)  # there was no such file a moment ago
    return number


def write_papers(folder: Path, arguments: HarvestArguments, stream: BinaryIO) -> int:
    """Write the papers within the dates, each once though several sets contain it; count them."""
    seen = set()
    paths = sorted(folder.glob(PAGES))
    for path in tqdm(paths, "joining", unit=" pages", disable=arguments.disable_tqdm):
        try:
            lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            fail(f"{path} is damaged ({one_line(error)}); delete {folder} to start again")
        for line in lines:
            record = orjson.loads(line)
            day = parsedate_to_datetime(record["versions"][0]["created"]).date().isoformat()
            is_asked_for = arguments.start_date <= day <= arguments.end_date
            if is_asked_for and record["id"] not in seen:
                seen.add(record["id"])
                stream.write(line)
    return len(seen)


def primary_categories(names: list[str]) -> list[str]:
    """Return the categories that a paper may have as its primary one, those of archives included.

    math stands for math.AC, math.AG and so on.
    """
    categories = []
    for name in names:
        members = [
            category
            for category in category_names()
            if category.partition(".")[0] == name and category not in ALIASES
        ]
        categories.extend(members if name in TAXONOMY else [name])
    return list(dict.fromkeys(categories))


def next_command(arguments: HarvestArguments) -> str:
    """Return the command that makes a dataset of the papers; its defaults are those of this one."""
    command = ["python", "fetch_arxiv.py", "--source", "snapshot"]
    command += ["--snapshot_file", arguments.output_file]
    if arguments.categories != [*CATEGORIES]:
        command += ["--categories", *primary_categories(arguments.categories)]
    defaults = HarvestArguments(output_file="")
    for name in ("start_date", "end_date"):
        value = getattr(arguments, name)
        if value != getattr(defaults, name):
            command += [f"--{name}", value]
    return shlex.join([*command, "--output_dir", "data/arxiv"])


def main() -> None:
    # 1. Arguments
    start_logging()
    (arguments,) = parse_arguments(__doc__, HarvestArguments)
    check_arguments(arguments)
    file = Path(arguments.output_file)
    folder = work_folder(file)

    with open_work_folder(folder, arguments) as state:
        if is_finished(file, folder):
            finish(folder, state)
            logger.info("%s was complete; its work files are removed", file)
            return

        # 2. The pages of all sets
        client = OaiClient(arguments)
        harvest(client, arguments, folder, state)

        # 3. One file
        number = join_pages(folder, arguments, state)
        finish(folder, state)
    logger.info("wrote %s: %s papers, %d requests", file, f"{number:,}", client.pace.requests)
    categories = primary_categories(arguments.categories)
    if len(categories) < 2:
        logger.info(
            "a dataset requires two categories or more: harvest another one together with %s",
            *categories,
        )
        return
    logger.info("next: %s", next_command(arguments))


if __name__ == "__main__":
    main()
