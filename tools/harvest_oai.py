#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "filelock==4.2.12",
#     "jinja2==3.1.6",
#     "lxml==6.1.3",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "orjson==3.13.0",
#     "PyYAML==6.0.3",
#     "requests==2.34.2",
#     "scipy==1.17.1",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
#     "urllib3==2.8.0",
# ]
# ///
"""Harvest arXiv's metadata through OAI-PMH into a file in the layout of the metadata snapshot on Kaggle.

    python tools/harvest_oai.py --output_file arxiv-oai.jsonl.gz
    python fetch_arxiv.py --source snapshot --snapshot_file arxiv-oai.jsonl.gz --output_dir data/arxiv

The defaults are the study's five categories of mathematics, 2014 to 2023. OAI-PMH selects records by the day of their
last change, so all records that changed since --start_date are downloaded, and those whose first version is from
--start_date to --end_date are kept. Finished pages are kept in OUTPUT_FILE.work until the file is complete: after an
interruption the same command continues there. Requests are paced over one connection. A failed request is repeated
after growing pauses, or after the time that the server asks for. If a page does not arrive, the command names it and
exits with status 1.

Writes --output_file: one JSON object per line, gzip if the name ends in .gz, one line per paper.
"""

import contextlib
import gzip
import json
import logging
import os
import re
import shlex
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import NoReturn

import filelock
import orjson
import requests
from lxml import etree
from tqdm import tqdm
from transformers.hf_argparser import HfArg
from urllib3 import Retry
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProxyError, SSLError

from common.cli import fail, one_line, parse_arguments, start_logging
from common.folders import write

logger = logging.getLogger(__name__)

TERMS_DELAY = 3.0  # seconds between two requests, arXiv's terms of use
EARLIEST = "2005-09-16"  # arXiv's earliest datestamp; an earlier "from" is an error
UNREACHABLE = (ConnectTimeoutError, NewConnectionError, ProxyError, SSLError)
BUSY = [429, *range(500, 600)]
LONGEST_PAUSE, LONGEST_RETRY_AFTER = 300, 3600  # seconds
EMPTY_ANSWERS = 3  # "no records" is believed when it is repeated so often
OAI, ARXIV = "{http://www.openarchives.org/OAI/2.0/}", "{http://arxiv.org/OAI/arXiv/}"
CATEGORIES = "math.AG math.CV math.DG math.MG math.SG".split()


@dataclass
class HarvestArguments:
    """What to harvest, and how."""

    output_file: str = HfArg(help="File to write: JSON lines, gzip if the name ends in .gz.")
    oai_url: str = HfArg(
        default="https://oaipmh.arxiv.org/oai", help="Address of the OAI-PMH service."
    )
    categories: list[str] = field(
        default_factory=CATEGORIES.copy,
        metadata={"help": "Categories to harvest, including papers that only cross-list them."},
    )
    start_date: str = HfArg(
        default="2014-01-01", help="First day of version 1 of the papers to keep, UTC."
    )
    end_date: str = HfArg(
        default="2023-12-31", help="Last day of version 1 of the papers to keep, UTC."
    )
    delay_seconds: float = HfArg(default=TERMS_DELAY, help="Pause between two requests.")
    timeout_seconds: float = HfArg(
        default=120.0, help="Time after which a silent connection is given up."
    )
    num_retries: int = HfArg(default=10, help="Number of retries of a failed request.")
    disable_tqdm: bool = HfArg(default=False, help="Show no progress bar.")


def check_arguments(arguments: HarvestArguments) -> None:
    """Exit with status 2 on values that arXiv would refuse or that violate its terms of use."""
    for name in arguments.categories:
        if not re.fullmatch(r"[a-z]+(-[a-z]+)?(\.[A-Za-z-]+)?", name):
            fail(f"--categories {name}: arXiv's categories are written like math.AG or hep-th")
    try:
        days = [date.fromisoformat(day) for day in (arguments.start_date, arguments.end_date)]
    except ValueError as error:
        fail(
            f"--start_date {arguments.start_date} --end_date {arguments.end_date}: write YYYY-MM-DD ({error})"
        )
    arguments.start_date, arguments.end_date = (day.isoformat() for day in days)
    if days[1] < days[0]:
        fail(f"--end_date {days[1]} is before --start_date {days[0]}")
    if not (
        arguments.num_retries >= 0
        and 0 <= arguments.delay_seconds < 1e6
        and 0 < arguments.timeout_seconds < 1e6
    ):
        fail(
            "--num_retries and --delay_seconds must not be negative, --timeout_seconds must be positive"
        )
    address = re.fullmatch(r"https?://([\w.-]+)(:\d{1,5})?(/[^\s?#]*)?", arguments.oai_url)
    if not address:
        fail(f"--oai_url {arguments.oai_url} is not an http address")
    if (
        re.search(r"(^|\.)arxiv\.org$", address[1].lower())
        and arguments.delay_seconds < TERMS_DELAY
    ):
        fail(
            f"--delay_seconds {arguments.delay_seconds:g}: arXiv's terms of use ask for {TERMS_DELAY:g} s"
        )
    if Path(arguments.output_file).exists():
        fail(f"--output_file {arguments.output_file} exists; delete it, or give another name")


class OaiClient:
    """A paced connection to an OAI-PMH service; urllib3's Retry repeats requests that a busy server has refused."""

    def __init__(self, arguments: HarvestArguments):
        self.arguments, self.delay = arguments, arguments.delay_seconds
        self.requests, self.earliest, self.connected = 0, 0.0, False
        client = self

        class PoliteRetry(Retry):
            def sleep(self, response=None):  # urllib3's own does not pause before the first retry
                client.wait(
                    max(
                        client.delay, self.get_backoff_time(), self.get_retry_after(response) or 0.0
                    )
                )

        limits = {
            "backoff_max": LONGEST_PAUSE,
            "retry_after_max": LONGEST_RETRY_AFTER,
            "status_forcelist": BUSY,
        }
        retry = PoliteRetry(
            arguments.num_retries, connect=0, read=0, other=0, backoff_factor=self.delay, **limits
        )
        self.session = requests.Session()
        self.session.mount(arguments.oai_url, requests.adapters.HTTPAdapter(max_retries=retry))
        self.session.headers["User-Agent"] = (
            "arxiv-confusable-classification (harvest_oai.py; requests)"
        )

    def wait(self, seconds: float = 0.0) -> None:
        """Sleep until the next request may be sent, at least the given seconds, and count the request."""
        time.sleep(max(seconds, self.earliest - time.monotonic(), 0.0))
        self.requests += 1

    def get(self, query: dict[str, str]) -> etree._Element:
        """Return the root of the answer to a query, whose parts are all there.

        Raises RetryError if the server stays busy, RequestException, XMLSyntaxError or ValueError on other faults.
        """
        self.wait()
        try:
            response = self.session.get(
                self.arguments.oai_url, params=query, timeout=self.arguments.timeout_seconds
            )
        finally:
            self.earliest = time.monotonic() + self.delay
        self.connected = True
        response.raise_for_status()
        parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)
        root = etree.fromstring(response.content, parser)
        if root.tag != f"{OAI}OAI-PMH":
            raise ValueError(f"not an answer of OAI-PMH: <{etree.QName(root).localname}>")
        return root

    def page(self, query: dict[str, str]) -> tuple[list[dict], str | None]:
        """Return the records of a page and the token of the next page: "" after the last page.

        The token is None if the server no longer knows the token of the query. Raises RequestException on a refusal or
        after the last retry.
        """
        failures, fault = 0, ""
        while failures <= self.arguments.num_retries:
            try:
                root = self.get(query)
                error = root.find(f"{OAI}error")
                code = "" if error is None else error.get("code")
                fault = "an answer without records" if error is None else f"{code}: {error.text}"
                if code == "badResumptionToken":
                    return [], None
                if code not in ("", "noRecordsMatch"):
                    raise requests.HTTPError(fault)
                is_believed = failures >= min(EMPTY_ANSWERS - 1, self.arguments.num_retries)
                if is_believed or root.find(f"{OAI}ListRecords/{OAI}record") is not None:
                    return read_page(root)
            except (requests.exceptions.RetryError, requests.HTTPError):
                raise
            except (requests.RequestException, etree.XMLSyntaxError, ValueError) as error:
                if (
                    isinstance(getattr(error.args[0], "reason", None), UNREACHABLE)
                    and not self.connected
                ):
                    raise
                fault = one_line(error)
            failures += 1
            self.earliest = time.monotonic() + min(LONGEST_PAUSE, self.delay * 2**failures)
        raise requests.RequestException(f"{failures} failures in a row, the last: {fault}")


def read_page(root: etree._Element) -> tuple[list[dict], str]:
    """Return the records of a page in the layout of the snapshot, deleted ones left out, and the next page's token."""
    records = []
    for metadata in root.iterfind(f"{OAI}ListRecords/{OAI}record/{OAI}metadata/{ARXIV}arXiv"):
        values = {
            etree.QName(child).localname: child.text or ""
            for child in metadata.iterchildren(tag=etree.Element)
        }
        try:
            created = datetime.fromisoformat(values["created"]).replace(tzinfo=UTC)
            records.append(
                {
                    "id": values["id"],
                    "title": values.get("title", ""),
                    "categories": " ".join(values.get("categories", "").split()) or "none",
                    "abstract": values.get("abstract", ""),
                    "versions": [
                        {"version": "v1", "created": format_datetime(created, usegmt=True)}
                    ],
                }
            )
        except (KeyError, ValueError) as error:
            logger.warning("skipping record %s: %s", values.get("id"), one_line(error))
    return records, (root.findtext(f"{OAI}ListRecords/{OAI}resumptionToken") or "").strip()


def oai_set(category: str) -> str:
    """Return the OAI-PMH set of a category: math:math:AG, physics:hep-th."""
    archive, _, name = category.partition(".")
    group = (
        archive
        if archive in ("cs", "econ", "eess", "math", "q-bio", "q-fin", "stat")
        else "physics"
    )
    return ":".join([group, archive, *([name] if name else [])])


def give_up(message: str) -> NoReturn:
    """Print in one line why a harvest is incomplete and exit with status 1."""
    print(f"incomplete: {message}; run the same command again to continue", file=sys.stderr)
    raise SystemExit(1)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make a work folder and lock it for this process. Exit with status 2 if that or a write in it fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / "lock", timeout=0):
            try:
                yield
            finally:
                (folder / "lock").unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()
    except filelock.Timeout:
        fail(
            f"another process is writing into {folder}; wait for it, or give another --output_file"
        )
    except OSError as error:
        fail(
            f"cannot write into {folder}: {error.strerror or error}; run the same command again to continue"
        )


def load_state(folder: Path, arguments: HarvestArguments) -> dict:
    """Return the state of an earlier call with the same arguments, or that of a new harvest.

    ``set`` is the number of finished sets, ``page`` that of finished pages of the current set, ``token`` that of its
    next page. Exits with status 2 if the folder holds a harvest with other arguments or if its state is damaged.
    """
    asked = {
        name: getattr(arguments, name)
        for name in ("oai_url", "categories", "start_date", "end_date")
    }
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        other = next((name for name in asked if state["asked"][name] != asked[name]), None)
    except FileNotFoundError:
        return {"asked": asked, "set": 0, "page": 0, "token": ""}
    except (ValueError, KeyError, TypeError) as error:
        fail(
            f"cannot read {folder / 'state.json'} ({one_line(error)}); delete {folder} to start again"
        )
    if other:
        fail(
            f"{folder} holds a harvest with other {other}; delete it to start again, or change --output_file"
        )
    return state


def harvest(client: OaiClient, folder: Path) -> None:
    """Download all pages of all sets that are not in the folder yet.

    Exits with status 2 if the service cannot be reached, with status 1 if it does not send a page.
    """
    arguments, state, restarts = client.arguments, load_state(folder, client.arguments), 0
    with tqdm(desc="arXiv", unit=" pages", disable=arguments.disable_tqdm) as bar:
        while state["set"] < len(arguments.categories):
            category = arguments.categories[state["set"]]
            query = {"verb": "ListRecords", "resumptionToken": state["token"]}
            if not state["token"]:
                # A record's datestamp is the day of its last change, so never before that of its first version.
                since = max(arguments.start_date, EARLIEST)
                query = {
                    "verb": "ListRecords",
                    "metadataPrefix": "arXiv",
                    "set": oai_set(category),
                    "from": since,
                }
            name = f"{state['set']:03d}-{state['page']:05d}"
            try:
                records, token = client.page(query)
            except (requests.RequestException, KeyboardInterrupt) as error:
                reason = (
                    getattr(error.args[0], "reason", one_line(error))
                    if error.args
                    else one_line(error)
                )
                if isinstance(error, requests.ConnectionError) and not client.connected:
                    fail(f"no connection to {arguments.oai_url}: {reason}")
                give_up(f"page {state['page'] + 1} of {category} is missing: {reason}")
            if token is None:  # tokens expire after a day: the set starts again
                restarts += 1
                if restarts > arguments.num_retries:
                    give_up(
                        f"page {state['page'] + 1} of {category} is missing: its resumption token is refused"
                    )
                state |= {"page": 0, "token": ""}
                write(folder / "state.json", json.dumps(state))
                for path in folder.glob(f"{state['set']:03d}-*.jsonl.gz"):
                    path.unlink()
            else:
                lines = b"".join(orjson.dumps(record) + b"\n" for record in records)
                write(folder / f"{name}.jsonl.gz", gzip.compress(lines, mtime=0))
                state |= {"page": state["page"] + 1, "token": token}
                if not token:
                    state |= {"set": state["set"] + 1, "page": 0}
                write(folder / "state.json", json.dumps(state))
                bar.update()
                bar.set_postfix_str(f"{category}, {client.requests} requests")


def join_pages(folder: Path, arguments: HarvestArguments) -> int:
    """Write the output file from all pages and return the number of papers.

    A paper that several sets contain is written once; papers outside of the dates are left out. Exits with status 2 if
    a page is damaged.
    """
    seen, temporary = set(), folder / "output.tmp"
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(temporary.open("wb"))
        if arguments.output_file.endswith(".gz"):
            stream = stack.enter_context(gzip.GzipFile("", "wb", fileobj=stream, mtime=0))
        for path in tqdm(
            sorted(folder.glob("*-*.jsonl.gz")),
            "joining",
            unit=" pages",
            disable=arguments.disable_tqdm,
        ):
            try:
                lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                fail(f"{path} is damaged ({one_line(error)}); delete {folder} to start again")
            for line in lines:
                record = orjson.loads(line)
                day = parsedate_to_datetime(record["versions"][0]["created"]).date().isoformat()
                if arguments.start_date <= day <= arguments.end_date and record["id"] not in seen:
                    seen.add(record["id"])
                    stream.write(line)
    os.replace(temporary, arguments.output_file)
    return len(seen)


def main() -> None:
    # 1. Arguments
    start_logging()
    (arguments,) = parse_arguments(__doc__, HarvestArguments)
    check_arguments(arguments)
    output, folder = Path(arguments.output_file), Path(arguments.output_file + ".work")

    with locked_folder(folder):
        # 2. The pages of all sets
        client = OaiClient(arguments)
        harvest(client, folder)

        # 3. One file
        number = join_pages(folder, arguments)
    shutil.rmtree(folder, ignore_errors=True)
    logger.info("wrote %s: %s papers, %d requests", output, f"{number:,}", client.requests)
    command = ["python", "fetch_arxiv.py", "--source", "snapshot", "--snapshot_file", str(output)]
    logger.info("next: %s --output_dir data/arxiv", shlex.join(command))


if __name__ == "__main__":
    main()
