#!/usr/bin/env python
"""arXiv's search API or OAI-PMH interface -> one file of records in the layout of the Kaggle metadata snapshot.

    python harvest_arxiv.py --output_dir harvest --source api     five fields of mathematics, 2014 to 2023: an hour
    python harvest_arxiv.py --output_dir harvest --source oai     the same through OAI-PMH
    python fetch_arxiv.py --source snapshot --snapshot_file harvest/records.jsonl.gz --output_dir data/arxiv

fetch_arxiv.py --source api|oai does both steps in one command. Every finished window of time (api) or page (oai) is on
disk before the next is asked for: after an interruption the same command goes on there. Requests are paced over one
connection; faults are asked again with growing pauses. Either everything that arXiv announced has come (exit code 0),
or the window that is missing is named (exit code 1) and no records.jsonl.gz is written.

Writes into --output_dir: records.jsonl.gz, harvest.json (arguments, windows, requests) and windows/*.jsonl.gz.
"""

import argparse
import difflib
import gzip
import json
import logging
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qs, urlsplit

import arxiv
import filelock
import orjson
import requests
import yaml
from lxml import etree
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from transformers import HfArgumentParser
from urllib3.exceptions import InvalidHeader, MaxRetryError, NewConnectionError
from urllib3.util import Retry

logger = logging.getLogger(__name__)

USER_AGENT = "arxiv-confusable-classification/1.0 (fetch_arxiv.py; requests)"
PAGE_LIMIT, QUERY_LIMIT = 2000, 30000  # arXiv's: entries a page, entries a query
TERMS_DELAY = 3.0  # seconds between two requests, arXiv's terms of use
LONGEST_BACKOFF, LONGEST_RETRY_AFTER = 300, 3600  # seconds
EMPTY_ANSWERS = 3  # the API now and then says "no entries" of a window that has some: so often in a row it is believed
OAI_EARLIEST = "2005-09-16"  # arXiv's earliest datestamp; an earlier --from is an error
MINUTES = "%Y%m%d%H%M"
ATOM, OPENSEARCH = "{http://www.w3.org/2005/Atom}", "{http://a9.com/-/spec/opensearch/1.1/}"
OAI, OAI_ARXIV = "{http://www.openarchives.org/OAI/2.0/}", "{http://arxiv.org/OAI/arXiv/}"


@dataclass
class HarvestArguments:
    """What to ask arXiv for, and how politely."""

    output_dir: str = field(metadata={"help": "Folder of the harvest: finished windows, then records.jsonl.gz."})
    source: str = field(
        default="api", metadata={"help": "api is the search API, oai is OAI-PMH.", "choices": ["api", "oai"]}
    )
    categories: list[str] = field(
        default_factory=lambda: ["math.AG", "math.CV", "math.DG", "math.MG", "math.SG"],
        metadata={"help": "arXiv categories; papers that only cross-list one of them come too."},
    )
    start_date: str = field(default="2014-01-01", metadata={"help": "First day of version 1, YYYY-MM-DD, UTC."})
    end_date: str = field(default="2023-12-31", metadata={"help": "Last day of version 1, YYYY-MM-DD, UTC."})
    ids_from: str | None = field(
        default=None, metadata={"help": "api: fetch the papers whose ids this manifest.json holds, nothing else."}
    )
    page_size: int = field(default=PAGE_LIMIT, metadata={"help": "Entries a request, at most 2000."})
    max_window: int = field(
        default=QUERY_LIMIT, metadata={"help": "Split a window of time with more entries; smaller is slower, safer."}
    )
    delay_seconds: float = field(default=TERMS_DELAY, metadata={"help": "Least time between two requests."})
    timeout_seconds: float = field(default=120.0, metadata={"help": "Give a silent connection up after this time."})
    num_retries: int = field(default=10, metadata={"help": "Times that a failed request or window is asked again."})
    api_url: str = field(default="https://export.arxiv.org/api/query", metadata={"help": "Address of the search API."})
    oai_url: str = field(default="https://oaipmh.arxiv.org/oai", metadata={"help": "Address of the OAI-PMH service."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress."})


def fail(message: str) -> NoReturn:
    """End the program as every user's mistake ends it: one line on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def give_up(message: str) -> NoReturn:
    """End an incomplete harvest: one line on standard error, exit code 1."""
    print(f"incomplete: {message}; the same command continues there", file=sys.stderr)
    raise SystemExit(1)


def parse_arguments(*dataclass_types: type) -> tuple:
    """Parse the command line; a first argument FILE.json or FILE.yaml stands for flags, later flags override it.

    Ends with exit code 2 on an unreadable file, an unknown flag (the nearest known one is named) or a bad value.
    """
    parser = HfArgumentParser(
        dataclass_types, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = fail
    arguments = sys.argv[1:]
    if arguments and arguments[0].endswith((".json", ".yaml", ".yml")):
        try:
            recipe = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))  # JSON is YAML
            recipe = {key: value for key, value in recipe.items() if value is not None}
            flags = [
                word
                for key, value in recipe.items()
                for word in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))
            ]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
            fail(
                f"{arguments[0]} is no readable file of arguments (flag: value a line): {' '.join(str(error).split())}"
            )
        arguments = flags + arguments[1:]
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        fail(f"unknown argument {unknown[0]}; {f'did you mean {nearest[0]}?' if nearest else '--help lists all'}")
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:
        fail(" ".join(str(error).split()))


def check_arguments(arguments: HarvestArguments) -> None:
    """End with exit code 2 on values that arXiv would refuse or that break its terms of use."""
    if not 1 <= arguments.page_size <= PAGE_LIMIT:
        fail(f"--page_size {arguments.page_size}: arXiv gives 1 to {PAGE_LIMIT} entries a page")
    if not arguments.page_size <= arguments.max_window <= QUERY_LIMIT:
        fail(f"--max_window {arguments.max_window}: give --page_size ({arguments.page_size}) to {QUERY_LIMIT}")
    if arguments.num_retries < 0 or arguments.delay_seconds < 0 or arguments.timeout_seconds <= 0:
        fail("--num_retries and --delay_seconds must not be negative, --timeout_seconds must be positive")
    url = arguments.api_url if arguments.source == "api" else arguments.oai_url
    host = urlsplit(url).hostname
    if not host or urlsplit(url).scheme not in ("http", "https"):
        fail(f"--{arguments.source}_url {url} is no http address")
    if re.search(r"(^|\.)arxiv\.org$", host) and arguments.delay_seconds < TERMS_DELAY:
        fail(
            f"--delay_seconds {arguments.delay_seconds:g}: arXiv's terms ask for {TERMS_DELAY:g} between two requests"
        )
    try:
        days = [date.fromisoformat(day) for day in (arguments.start_date, arguments.end_date)]
    except ValueError as error:
        fail(f"dates are written YYYY-MM-DD: {error}")
    if days[1] < days[0]:
        fail(f"--end_date {days[1]} comes before --start_date {days[0]}")


class PoliteAdapter(HTTPAdapter):
    """Transport for a requests session: one connection, paced, with timeouts; only whole answers come through.

    Faults are asked again as urllib3's Retry says, whose own sleeping is not used: it makes no pause before the first
    retry, and would not see a broken feed with status 200. After a feed, total is what it announces for the query,
    and ids and repeats are what came since reset().
    """

    def __init__(self, arguments: HarvestArguments):
        super().__init__(pool_connections=1, pool_maxsize=1)
        self.delay, self.timeout = arguments.delay_seconds, arguments.timeout_seconds
        self.policy = Retry(
            total=arguments.num_retries,
            backoff_factor=arguments.delay_seconds,
            backoff_jitter=arguments.delay_seconds,
            backoff_max=LONGEST_BACKOFF,
            retry_after_max=LONGEST_RETRY_AFTER,
        )
        self.requests, self.waited, self.ready, self.answered = 0, 0.0, 0.0, False
        self.reset()

    def reset(self) -> None:
        self.total, self.ids, self.repeats = 0, set(), 0

    def send(self, request: requests.PreparedRequest, **options) -> requests.Response:
        """Return the answer; raise RetryError after the last retry, ConnectionError if there is no network at all."""
        request.headers["User-Agent"] = USER_AGENT
        options["timeout"] = self.timeout
        retry = self.policy
        while True:
            pause = max(0.0, self.ready - time.monotonic())
            time.sleep(pause)
            self.waited += pause
            self.requests += 1
            response = None
            try:
                response = super().send(request, **options)
                self.check(response, request.url)  # reads the body, so a cut connection shows here
                self.answered = True
                return response
            except (requests.RequestException, etree.XMLSyntaxError, ValueError) as error:
                reason = getattr(error.args[0], "reason", None) if error.args else None
                if not self.answered and isinstance(reason, NewConnectionError):
                    raise
                fault = error
            finally:
                self.ready = time.monotonic() + self.delay
            try:
                retry = retry.increment(request.method, request.url, error=fault)
            except MaxRetryError:
                raise requests.exceptions.RetryError(f"{self.policy.total + 1} tries, the last: {fault}") from fault
            pause = retry.get_backoff_time()
            if response is not None:
                try:
                    pause = max(pause, retry.get_retry_after(response.raw) or 0)
                except InvalidHeader as error:
                    logger.debug("%s", error)
            self.ready = max(self.ready, time.monotonic() + pause)
            logger.debug("%s; again in %.0f s", fault, pause)

    def check(self, response: requests.Response, url: str) -> None:
        """Raise RequestException, XMLSyntaxError or ValueError on a passing fault: a refusal is left to the caller."""
        if response.status_code == 429 or response.status_code >= 500 or not response.content:
            raise requests.RequestException(f"HTTP status {response.status_code}")
        if response.status_code != 200:
            return
        root = parse_xml(response.content)
        if root.tag not in (f"{ATOM}feed", f"{OAI}OAI-PMH"):
            raise requests.RequestException(f"a page <{etree.QName(root).localname}> in place of a feed")
        if root.tag == f"{ATOM}feed":
            ids = [entry.findtext(f"{ATOM}id", "") for entry in root.iterfind(f"{ATOM}entry")]
            if any("/api/errors" in name for name in ids):
                raise requests.RequestException(f"arXiv's error {root.findtext(f'{ATOM}entry/{ATOM}summary')!r}")
            total = int(root.findtext(f"{OPENSEARCH}totalResults") or 0)
            if not ids and total > int(parse_qs(urlsplit(url).query).get("start", ["0"])[0]):
                raise requests.RequestException(f"an empty page of a query with {total} entries")
            self.total = total
            self.ids.update(ids)
            self.repeats += len(ids) - len(set(ids))


def parse_xml(content: bytes) -> etree._Element:
    """Parse a whole XML document strictly; raise XMLSyntaxError if it is cut off or something else."""
    return etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True))


def as_snapshot(identifier: str, title: str, abstract: str, categories: list[str], created: datetime) -> dict:
    """Return a record in the snapshot's layout, with the fields that fetch_arxiv.py reads."""
    return {
        "id": re.sub(r"v\d+$", "", identifier),
        "title": title,
        "categories": " ".join(filter(None, categories)) or "none",
        "abstract": abstract,
        "versions": [{"version": "v1", "created": format_datetime(created, usegmt=True)}],
    }


def fetch_search(client: arxiv.Client, adapter: PoliteAdapter, search: arxiv.Search, most: int, tries: int):
    """Return the records of a search by id, or the announced number of entries if that is above most.

    The entries that came must be as many as the feed announces. Pages may shift while they are asked for, so a second
    try counts alone or together with the first. An entry that stands twice within a page may have taken the place of
    another; it is believed to be listed, and announced, twice if the next try brings nothing else.
    Raises RequestException if all that never comes true.
    """
    records, ids, previous, empty = {}, set(), None, 0
    for attempt in range(tries):
        adapter.reset()
        fresh = {}
        try:
            for result in client.results(search):
                if adapter.total > most:
                    return adapter.total
                names = [result.primary_category, *(c for c in result.categories if c != result.primary_category)]
                record = as_snapshot(result.get_short_id(), result.title, result.summary, names, result.published)
                fresh[record["id"]] = record
        except (arxiv.UnexpectedEmptyPageError, ValueError) as error:  # a total that shrank, a date that is none
            logger.debug("%s", error)
        records |= fresh
        ids |= adapter.ids
        empty += not adapter.total
        listed = adapter.total - adapter.repeats
        if adapter.total and len(adapter.ids) in (adapter.total, listed if adapter.ids == previous else adapter.total):
            return fresh
        if adapter.total and len(ids) == adapter.total:
            return records
        previous = adapter.ids
        if empty >= min(EMPTY_ANSWERS, tries):
            return {}
        logger.info("%d of %d entries came; asking again", len(adapter.ids), adapter.total)
        adapter.ready = time.monotonic() + min(LONGEST_BACKOFF, adapter.delay * 2**attempt)
    raise requests.RequestException(f"{len(ids)} of {adapter.total} entries came in {tries} tries")


def split_window(window: dict, total: int, most: int) -> list[dict]:
    """Return windows of equal time whose entries, total together, should stay under most.

    Neighbours share the minute between them: whether arXiv reads an upper end as the start or the end of its minute,
    no paper is lost, and one that comes twice is counted once.
    """
    parts = math.ceil(total / (0.8 * most))
    start, end = (datetime.strptime(window[edge], MINUTES) for edge in ("from", "to"))
    edges = {(start + k * (end - start) / parts).strftime(MINUTES) for k in range(parts)} | {window["to"]}
    return [{"from": a, "to": b} for a, b in pairwise(sorted(edges))]


def harvest_api(
    client: arxiv.Client, adapter: PoliteAdapter, arguments: HarvestArguments, plan: dict, window: dict, ids: list[str]
) -> list[dict] | None:
    """Return the records of a window of time or of ids; None if the plan now has smaller windows in its place."""
    ask = partial(fetch_search, client, adapter, tries=arguments.num_retries + 1)
    place = plan["windows"].index(window)
    if ids:
        wanted = ids[window["from"] : window["to"]]
        try:
            found = ask(arxiv.Search(id_list=wanted, max_results=None), most=QUERY_LIMIT)
        except arxiv.HTTPError as error:
            if error.status not in (400, 413, 414, 431) or len(wanted) == 1:
                raise
            # The address has become too long for the server: half as many ids from here on.
            plan["windows"][place:] = cut(window["from"], len(ids), len(wanted) // 2)
            return None
        if missing := sorted(set(wanted) - set(found)):
            found |= ask(arxiv.Search(id_list=missing, max_results=None), most=QUERY_LIMIT)
        return list(found.values())
    query = f"({' OR '.join(f'cat:{c}' for c in arguments.categories)})"
    search = arxiv.Search(
        f"{query} AND submittedDate:[{window['from']} TO {window['to']}]",
        max_results=None,
        sort_by=arxiv.SortCriterion.SubmittedDate,
        sort_order=arxiv.SortOrder.Ascending,
    )
    start, end = (datetime.strptime(window[edge], MINUTES) for edge in ("from", "to"))
    most = arguments.max_window if end - start > timedelta(minutes=1) else QUERY_LIMIT
    found = ask(search, most=most)
    if len(plan["windows"]) == 1:
        plan["total"] = found if isinstance(found, int) else len(adapter.ids)
    if isinstance(found, int):
        plan["windows"][place : place + 1] = split_window(window, found, most)
        return None
    plan["unreadable"] += max(0, len(adapter.ids) - len(found))
    return list(found.values())


def cut(start: int, end: int, size: int) -> list[dict]:
    """Return windows of at most size ids from start to end."""
    return [{"from": a, "to": min(a + size, end)} for a in range(start, end, size)]


def harvest_oai(session: requests.Session, arguments: HarvestArguments, window: dict) -> tuple[list[dict], str | None]:
    """Return the records of a set's next page, and the token of the page after it: "" after the last.

    Deleted records are left out. The token is None if arXiv no longer knows that of the page asked for.
    """
    query = {"verb": "ListRecords", "resumptionToken": window["token"]}
    if not window["token"]:
        # A record's datestamp is its latest change, so never before its first version.
        since = max(arguments.start_date, OAI_EARLIEST)
        query = {"verb": "ListRecords", "metadataPrefix": "arXiv", "set": window["set"], "from": since}
    for _ in range(EMPTY_ANSWERS):
        response = session.get(arguments.oai_url, params=query)
        response.raise_for_status()
        root = parse_xml(response.content)
        error = root.find(f"{OAI}error")
        if root.find(f"{OAI}ListRecords/{OAI}record") is not None:
            break
    if error is not None and error.get("code") == "badResumptionToken":
        return [], None
    if error is not None and error.get("code") != "noRecordsMatch":
        raise requests.RequestException(f"{error.get('code')}: {error.text}")
    records = []
    for metadata in root.iterfind(f"{OAI}ListRecords/{OAI}record/{OAI}metadata/{OAI_ARXIV}arXiv"):
        values = {etree.QName(child).localname: child.text or "" for child in metadata}
        title, abstract, categories = (values.get(key, "") for key in ("title", "abstract", "categories"))
        try:
            created = datetime.fromisoformat(values["created"]).replace(tzinfo=UTC)
            records.append(as_snapshot(values["id"], title, abstract, categories.split(), created))
        except (KeyError, ValueError) as error:
            logger.warning("passing over record %s: %r", values.get("id"), error)
    return records, (root.findtext(f"{OAI}ListRecords/{OAI}resumptionToken") or "").strip()


def oai_set(category: str) -> str:
    """Return the OAI-PMH set of a category: math:math:AG, physics:hep-th."""
    archive, _, name = category.partition(".")
    group = archive if archive in ("cs", "econ", "eess", "math", "q-bio", "q-fin", "stat") else "physics"
    return ":".join([group, archive, *([name] if name else [])])


def write_file(path: Path, chunks: Iterable[bytes]) -> None:
    """Write chunks so that the file is there whole or not at all; a full disk ends the program with exit code 2."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as stream:
            stream.writelines(chunks)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        fail(f"cannot write {path}: {error.strerror or error}; what is finished is kept, the same command goes on")


def write_window(path: Path, records: Iterable[dict]) -> None:
    """Write the records of a window as gzip'ed JSON lines, sorted by id."""
    lines = b"".join(orjson.dumps(record) + b"\n" for record in sorted(records, key=itemgetter("id")))
    write_file(path, [gzip.compress(lines, mtime=0)])


def load_plan(folder: Path, arguments: HarvestArguments) -> tuple[dict, list[str]]:
    """Return the plan of an earlier call with the same arguments, or a new one, and the ids asked for (api only).

    Ends with exit code 2 if the folder holds a harvest of other arguments, or something else.
    """
    ids = []
    if arguments.ids_from:
        try:
            splits = json.loads(Path(arguments.ids_from).read_text(encoding="utf-8"))["ids"]
            ids = sorted(name for split in splits.values() for name in split)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            fail(f"cannot read the ids in {arguments.ids_from}: {error!r}; give the manifest.json of a dataset")
    url = arguments.api_url if arguments.source == "api" else arguments.oai_url
    asked = {"source": arguments.source, "url": url, "ids": ids}
    if not ids or arguments.source == "oai":
        asked |= {
            "categories": arguments.categories,
            "start_date": arguments.start_date,
            "end_date": arguments.end_date,
            "ids": [],
        }
    try:
        plan = json.loads((folder / "harvest.json").read_text(encoding="utf-8"))
        other = next((key for key in asked if plan["asked"][key] != asked[key]), None)
    except FileNotFoundError:
        if any(path.name != "lock" for path in folder.iterdir()):
            fail(f"{folder} holds something else than a harvest; give another --output_dir")
        other, plan = None, {"asked": asked, "total": None, "requests": 0, "waited_seconds": 0.0, "records": None}
        plan["unreadable"] = 0  # entries that the arxiv package passes over, having no id or date
        end = date.fromisoformat(arguments.end_date) + timedelta(days=1)
        if arguments.source == "oai":
            plan["windows"] = [{"set": oai_set(c), "token": "", "page": 0, "got": 0} for c in arguments.categories]
        elif ids:
            plan["windows"] = cut(0, len(ids), arguments.page_size)
        else:
            plan["windows"] = [{"from": arguments.start_date.replace("-", "") + "0000", "to": f"{end:%Y%m%d}0000"}]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{folder}/harvest.json cannot be read ({error!r}); delete {folder} to start again")
    if other:
        fail(f"{folder} holds a harvest of other {other}; give another --output_dir, or delete it to start again")
    return plan, ids


def main() -> None:
    # 1. Arguments
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    logging.getLogger("arxiv").setLevel(logging.WARNING)
    (arguments,) = parse_arguments(HarvestArguments)
    check_arguments(arguments)
    folder = Path(arguments.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:
        fail(f"another process is harvesting into {folder}; wait for it, or give another --output_dir")
    except OSError as error:
        fail(f"cannot write into {folder}: {error.strerror or error}")

    with lock:
        harvest(arguments, folder)


def harvest(arguments: HarvestArguments, folder: Path) -> None:
    """Fetch what is not in the folder yet, window after window, and join the windows in records.jsonl.gz."""
    # 2. The plan: windows of time, of ids or sets, those done marked by their number of entries
    plan, ids = load_plan(folder, arguments)
    (folder / "windows").mkdir(exist_ok=True)
    if plan["records"] is not None:
        logger.info("%s holds all %s records already", folder, f"{plan['records']:,}")
        return
    adapter = PoliteAdapter(arguments)
    session = requests.Session()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    client = arxiv.Client(page_size=arguments.page_size, delay_seconds=0, num_retries=0)
    client.query_url_format = arguments.api_url + "?{}"
    client._session = session  # the package offers no other way to give it timeouts, pauses and retries
    done = {"requests": plan["requests"], "waited_seconds": plan["waited_seconds"]}

    def save() -> None:
        plan["requests"] = done["requests"] + adapter.requests
        plan["waited_seconds"] = round(done["waited_seconds"] + adapter.waited, 1)
        write_file(folder / "harvest.json", [json.dumps(plan, ensure_ascii=False, indent=2).encode() + b"\n"])

    # 3. Window after window
    kept, started, noted, fresh, restarts = Counter(), time.monotonic(), time.monotonic(), 0, 0
    bar = tqdm(unit=" entries", desc="arXiv", disable=arguments.disable_tqdm or not sys.stderr.isatty())
    while window := next((window for window in plan["windows"] if "entries" not in window), None):
        if arguments.source == "oai":
            name = f"{window['set'].replace(':', '-')}-{window['page']:05d}"
        else:
            name = f"{window['from']}-{window['to']}"
        try:
            if arguments.source == "oai":
                records, token = harvest_oai(session, arguments, window)
            else:
                records = harvest_api(client, adapter, arguments, plan, window, ids)
        except requests.ConnectionError as error:
            host = urlsplit(plan["asked"]["url"]).hostname
            fail(f"no connection to {host} ({error.args[0].reason}); with no network use --source snapshot instead")
        except (requests.RequestException, arxiv.ArxivError, KeyboardInterrupt) as error:
            save()
            give_up(f"window {name} is missing: {str(error) or 'interrupted'}")
        if arguments.source == "oai" and token is None:  # a token lives for a day: the set starts again
            restarts += 1
            if restarts > arguments.num_retries:
                give_up(f"window {name} is missing: its resumption token is refused again and again")
            for path in (folder / "windows").glob(f"{window['set'].replace(':', '-')}-*"):
                path.unlink()
            window |= {"token": "", "page": 0, "got": 0}
        elif records is not None:
            write_window(folder / "windows" / f"{name}.jsonl.gz", records)
            if arguments.source == "oai":
                window |= {"token": token, "page": window["page"] + 1, "got": window["got"] + len(records)}
            if arguments.source == "api" or not token:
                window["entries"] = window.get("got", len(records))
            kept.update(record["categories"].split()[0] for record in records)
            fresh += len(records)
        save()

        entries = sum(window.get("entries", window.get("got", 0)) for window in plan["windows"])
        seconds = time.monotonic() - started
        left = f", {(plan['total'] - entries) * seconds / fresh / 60:.0f} min left" if plan["total"] and fresh else ""
        classes = " ".join(f"{c} {kept[c]:,}" for c in arguments.categories)
        bar.total, bar.n = plan["total"], entries
        bar.set_postfix_str(f"{classes}; {plan['requests']} requests", refresh=True)
        if bar.disable and not arguments.disable_tqdm and (time.monotonic() > noted + 30 or not fresh):
            noted = time.monotonic()
            finished = sum("entries" in window for window in plan["windows"])
            logger.info(
                "%d of %d windows, %s entries (%s), %d requests, waited %.0f s%s",
                *(finished, len(plan["windows"]), f"{entries:,}", classes, plan["requests"]),
                *(plan["waited_seconds"], left),
            )
    bar.close()

    # 4. Is it everything? Then one file
    files = sorted((folder / "windows").glob("*.jsonl.gz"))
    found = {orjson.loads(line)["id"] for path in files for line in gzip.decompress(path.read_bytes()).splitlines()}
    counted = len(found) + plan["unreadable"]
    if arguments.source == "api" and not ids and counted < plan["total"]:
        whole = {"from": plan["windows"][0]["from"], "to": plan["windows"][-1]["to"]}
        harvest_api(client, adapter, arguments, {"windows": [whole], "unreadable": 0}, whole, ids)
        if not 0 < adapter.total <= counted:
            for window in plan["windows"]:
                if not window["entries"]:
                    del window["entries"]
            save()
            give_up(f"the windows hold {counted} papers, the whole time has {plan['total']} (or delete {folder})")
    write_file(folder / "records.jsonl.gz", (path.read_bytes() for path in files))
    plan["records"] = len(found)
    save()
    logger.info("%s records in %s, %d requests", f"{len(found):,}", folder / "records.jsonl.gz", plan["requests"])


if __name__ == "__main__":
    main()
