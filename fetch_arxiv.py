#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "arxiv==4.0.2",
#     "datasets==5.2.0",
#     "filelock==4.2.12",
#     "huggingface_hub==2.4.0",
#     "orjson==3.13.0",
#     "PyYAML==6.0.3",
#     "requests==2.34.2",
#     "scikit-learn==1.9.1",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
#     "urllib3==2.8.0",
# ]
# ///
"""Make a dataset folder of arXiv abstracts, labeled with their primary category, that datasets.load_dataset opens.

    python fetch_arxiv.py --source snapshot --snapshot_file arxiv-metadata-oai-snapshot.json --output_dir data/arxiv
    python fetch_arxiv.py --output_dir data/arxiv                           arXiv's search API, about an hour
    python fetch_arxiv.py --ids_from manifest.json --output_dir data/arxiv  the papers and splits of a manifest

The defaults are the study's: five fields of mathematics, 2014 to 2023, split 8:1:1. The snapshot is the metadata file
that Cornell publishes on Kaggle (plain or gzip) or a file of tools/harvest_oai.py. ``--source hub --hub_dataset
librarian-bots/arxiv-metadata-snapshot`` reads a mirror. ``--source api`` keeps finished windows of time in
OUTPUT_DIR/.fetch: the same command continues. A window that is not complete is named, with exit status 1.

Writes data/{train,validation,test}-00000-of-00001.parquet, README.md (dataset card) and manifest.json (arguments,
counts, ids). The same records, arguments and seed give the same parquet files byte for byte, in whatever order.
"""

import argparse
import contextlib
import difflib
import gzip
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import time
import traceback
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from importlib.metadata import version
from itertools import chain, count
from operator import itemgetter
from pathlib import Path
from typing import Literal, NoReturn

import arxiv
import datasets
import filelock
import huggingface_hub
import orjson
import requests
import yaml
from sklearn.model_selection import train_test_split
from tqdm import tqdm
from transformers.hf_argparser import HfArg, HfArgumentParser
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader, MaxRetryError

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
FILES = (
    "README.md",
    *(f"data/{split}-00000-of-00001.parquet" for split in SPLITS),
    "manifest.json",
)
STUDY_COUNTS = {
    "math.AG": 19250,
    "math.CV": 6179,
    "math.DG": 15678,
    "math.MG": 3808,
    "math.SG": 2435,
}
# An abstract is a withdrawal notice if it opens with such words; later in a text they usually mean something else.
WITHDRAWN = re.compile(
    r"(?i)\bwithdr(?:aw|awn|ew|awing)\b"
    r"|\b(?:paper|article|manuscript|note|preprint|submission) (?:has|is|was)(?: \w+){0,2} (?:removed|retracted)\b"
)
WITHDRAWN_WITHIN = 160  # characters
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
ARXIV_ID = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7}")
# Archives with their categories (arxiv.org/category_taxonomy)
TAXONOMY = """
astro-ph CO EP GA HE IM SR; cond-mat dis-nn mes-hall mtrl-sci other quant-gas soft stat-mech str-el supr-con;
cs AI AR CC CE CG CL CR CV CY DB DC DL DM DS ET FL GL GR GT HC IR IT LG LO MA MM MS NA NE NI OH OS PF PL RO SC SD SE
SI SY; econ EM GN TH; eess AS IV SP SY; math AC AG AP AT CA CO CT CV DG DS FA GM GN GR GT HO IT KT LO MG MP NA NT OA
OC PR QA RA RT SG SP ST; nlin AO CD CG PS SI; physics acc-ph ao-ph app-ph atm-clus atom-ph bio-ph chem-ph class-ph
comp-ph data-an ed-ph flu-dyn gen-ph geo-ph hist-ph ins-det med-ph optics plasm-ph pop-ph soc-ph space-ph; q-bio BM CB
GN MN NC OT PE QM SC TO; q-fin CP EC GN MF PM PR RM ST TR; stat AP CO ME ML OT TH; gr-qc; hep-ex; hep-lat; hep-ph;
hep-th; math-ph; nucl-ex; nucl-th; quant-ph
"""
ARCHIVES = [archive.split() for archive in TAXONOMY.split(";")]
CATEGORIES = [f"{archive}.{name}" for archive, *names in ARCHIVES for name in names]
CATEGORIES += [archive for archive, *_ in ARCHIVES if "-" in archive]

PAGE_LIMIT, QUERY_LIMIT, TERMS_DELAY = (
    2000,
    30000,
    3.0,
)  # arXiv's: entries per page and query, seconds per request
IDS_PER_REQUEST = 400  # the address stays shorter than 8 KB
EMPTY_ANSWERS = (
    3  # the API sometimes reports no entries for a window that has some: believed the third time
)
SOURCES = {
    "snapshot_file": "snapshot",
    "hub_dataset": "hub",
    "revision": "hub",
    "skip_bad_lines": "snapshot or hub",
}
SOURCES |= dict.fromkeys(
    "page_size max_window delay_seconds timeout_seconds num_retries api_url".split(), "api"
)
COLUMNS = [
    "id",
    "title",
    "abstract",
    "categories",
    "versions",
]  # of the snapshot, as read from the Hub
MANIFEST_FLAGS = "categories start_date end_date max_records_per_category split_ratios seed".split()
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")  # the Hub's


@dataclass
class FetchArguments:
    """What to fetch, from where, and how to split it."""

    output_dir: str = HfArg(help="Dataset folder to write.")
    source: Literal["api", "snapshot", "hub"] = HfArg(
        default="api", help="Search API, file, or dataset on the Hub."
    )
    snapshot_file: str | None = HfArg(
        default=None, help="snapshot: metadata file, an object per line, plain or gzip."
    )
    hub_dataset: str | None = HfArg(
        default=None, help="hub: id of a dataset with the columns of the snapshot."
    )
    revision: str | None = HfArg(default=None, help="hub: branch, tag or commit of that dataset.")
    skip_bad_lines: bool = HfArg(
        default=False, help="snapshot, hub: count invalid records instead of stopping."
    )
    categories: list[str] = field(
        default_factory=lambda: [*STUDY_COUNTS], metadata={"help": "Primary categories."}
    )
    start_date: str = HfArg(
        default="2014-01-01", help="First day of version 1 of the papers to keep, UTC."
    )
    end_date: str = HfArg(
        default="2023-12-31", help="Last day of version 1 of the papers to keep, UTC."
    )
    split_ratios: list[float] = field(
        default_factory=lambda: [0.8, 0.1, 0.1], metadata={"help": "Split fractions."}
    )
    max_records_per_category: int | None = HfArg(
        default=None, help="Keep a random sample of larger categories."
    )
    seed: int = HfArg(default=42, help="Random seed of the sample and of the split.")
    ids_from: str | None = HfArg(
        default=None, help="manifest.json: rebuild its dataset, with its labels and splits."
    )
    page_size: int = HfArg(default=PAGE_LIMIT, help="api: entries per request, at most 2000.")
    max_window: int = HfArg(
        default=QUERY_LIMIT, help="api: halve windows of time with more entries, at most 30000."
    )
    delay_seconds: float = HfArg(default=TERMS_DELAY, help="api: pause between two requests.")
    timeout_seconds: float = HfArg(
        default=120.0, help="api: time after which an unanswered request has failed."
    )
    num_retries: int = HfArg(
        default=10, help="api: retries without progress before the command gives up."
    )
    api_url: str = HfArg(
        default="https://export.arxiv.org/api/query", help="api: address of the search API."
    )
    push_to_hub: bool = HfArg(default=False, help="Publish the folder on the Hugging Face Hub.")
    hub_dataset_id: str | None = HfArg(default=None, help="Dataset id to publish as, user/name.")
    disable_tqdm: bool = HfArg(default=False, help="Show no progress bars.")


# Copied from tools/common/cli.py::fail
def fail(message: str) -> NoReturn:
    """Print a one-line error and exit with status 2: the user can mend what it names.

    With the environment variable TRACEBACK=1, the traceback of the caught error comes first.
    """
    if os.environ.get("TRACEBACK") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if os.environ.get("RANK", "0") != "0":
        # Every process finds the same mistake. The launcher stops this one as soon as the first
        # process has exited, so the message appears once.
        time.sleep(10)
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


# Copied from tools/common/cli.py::one_line
def one_line(error: BaseException) -> str:
    """Return the message of an error as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


# Copied from tools/common/cli.py::read_config
def read_config(file: str) -> list[str]:
    """Return the flags that a YAML or JSON file of ``flag: value`` lines stands for.

    Exits with status 2 if the file cannot be read or is not such a mapping.
    """
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"cannot read arguments from {file}: {one_line(error)}")
    if not isinstance(content, dict):
        fail(f"cannot read arguments from {file}: it must have a 'flag: value' on each line")
    words = []
    for flag, value in content.items():
        if value is None:
            continue
        words.append(f"--{flag}")
        words.extend(map(str, value if isinstance(value, list) else [value]))
    return words


# Copied from tools/common/cli.py::parse_arguments
def parse_arguments(
    description: str, *dataclass_types: type, adapt: Callable | None = None, **defaults
) -> tuple:
    """Parse the command line into dataclasses.

    A YAML or JSON file, given first or after ``--config``, stands for flags; flags on the command
    line override it. ``adapt(namespace, unknown)`` may change the parsed values and the list of
    unknown words in place. ``defaults`` override those of the dataclasses.

    Exits with status 2 on an unreadable file, an unknown flag or an invalid value.
    """
    parser = HfArgumentParser(
        dataclass_types,
        description=description,
        usage="%(prog)s [--config FILE.yaml] [flags that override it]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.allow_abbrev = False
    parser.set_defaults(**defaults)
    parser.error = fail

    words = sys.argv[1:]
    if words and words[0].endswith((".json", ".yaml", ".yml")):
        words.insert(0, "--config")
    if "--config" in words:
        place = words.index("--config")
        if place + 1 == len(words):
            fail("--config requires a file of arguments")
        words = read_config(words[place + 1]) + words[:place] + words[place + 2 :]

    namespace, unknown = parser.parse_known_args(words)
    if adapt is not None:
        adapt(namespace, unknown)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "--help lists all"
        fail(f"unknown argument {unknown[0]}; {hint}")
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:  # raised by __post_init__ of the dataclasses
        fail(one_line(error))


# Copied from tools/common/folders.py::write
def write(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it: readers see the old or the new file."""
    temporary = path.with_name(path.name + ".tmp")
    if temporary.is_symlink():  # writing would change the file that the link leads to
        temporary.unlink()
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    os.replace(temporary, path)


def changed_flags(arguments: FetchArguments) -> dict[str, object]:
    """Return the flags that differ from their defaults, with their values."""
    defaults = asdict(FetchArguments(output_dir=""))
    return {name: value for name, value in asdict(arguments).items() if value != defaults[name]}


def check_arguments(arguments: FetchArguments) -> None:
    """Exit with status 2 on invalid or contradictory arguments, before anything is read or written."""
    for name in sorted({*arguments.categories} - {*CATEGORIES}):
        nearest = difflib.get_close_matches(name, CATEGORIES, n=1, cutoff=0.0)[0]
        fail(
            f"arXiv has no category {name!r}; did you mean {nearest}? (https://arxiv.org/category_taxonomy)"
        )
    names, ratios, limit = (
        arguments.categories,
        arguments.split_ratios,
        arguments.max_records_per_category,
    )
    try:
        first, last = (
            date.fromisoformat(arguments.start_date),
            date.fromisoformat(arguments.end_date),
        )
        arguments.start_date, arguments.end_date = (
            first.isoformat(),
            last.isoformat(),
        )  # 20140101 is a date, too
        if not date(1991, 8, 14) <= first <= last <= datetime.now(UTC).date():
            raise ValueError("give the earlier day first, from 1991-08-14 to today")
    except ValueError as error:
        fail(
            f"--start_date {arguments.start_date} --end_date {arguments.end_date}: {error}; write YYYY-MM-DD"
        )
    if len(set(names)) != len(names) or len(names) < 2:
        fail(f"--categories {' '.join(names)}: give at least two categories, each once")
    if len(ratios) != 3 or not min(ratios) > 0 or not abs(sum(ratios) - 1) <= 1e-6:
        fail(
            f"--split_ratios {' '.join(map(str, ratios))}: give three positive numbers that sum to 1, as 0.8 0.1 0.1"
        )
    if not (10 if limit is None else limit) >= 10 or not 0 <= arguments.seed < 2**32:
        fail("--max_records_per_category must be at least 10, --seed from 0 to 4294967295")
    if arguments.push_to_hub != bool(arguments.hub_dataset_id):
        fail("--push_to_hub and --hub_dataset_id USER/NAME need each other")
    for name in changed_flags(arguments):
        if arguments.source not in SOURCES.get(name, arguments.source):
            fail(f"--{name} needs --source {SOURCES[name]}")
    for source, flag in (("snapshot", "snapshot_file"), ("hub", "hub_dataset")):
        if arguments.source == source and not getattr(arguments, flag):
            fail(f"--source {source} needs --{flag}")
    if not 1 <= arguments.page_size <= PAGE_LIMIT:
        fail(f"--page_size {arguments.page_size}: arXiv returns 1 to {PAGE_LIMIT} entries per page")
    if not arguments.page_size <= arguments.max_window <= QUERY_LIMIT:
        fail(
            f"--max_window {arguments.max_window}: give --page_size ({arguments.page_size}) to {QUERY_LIMIT}"
        )
    if not (
        arguments.num_retries >= 0
        and 0 <= arguments.delay_seconds < 1e6
        and 0 < arguments.timeout_seconds < 1e6
    ):
        fail(
            "--num_retries and --delay_seconds must not be negative, --timeout_seconds must be positive"
        )
    address = re.fullmatch(r"https?://([\w.-]+)(:\d{1,5})?(/[^\s{}?#]*)?", arguments.api_url)
    if not address:
        fail(f"--api_url {arguments.api_url} is not an http address")
    if (
        re.search(r"(^|\.)arxiv\.org$", address[1].lower())
        and arguments.delay_seconds < TERMS_DELAY
    ):
        fail(
            f"--delay_seconds {arguments.delay_seconds:g}: arXiv's terms of use ask for {TERMS_DELAY:g} s"
        )


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[Path]:
    """Lock the dataset folder and yield its work folder. Exit with status 2 if it is in use or not this script's."""
    work = folder / ".fetch"
    try:
        names = {
            path.relative_to(folder).as_posix()
            for path in (*folder.glob("*"), *folder.glob("data/*"))
        }
        text = "".join(
            p.read_text(errors="replace")
            for p in (folder / FILES[0], folder / FILES[-1])
            if p.is_file()
        )
        is_own = '"script": "fetch_arxiv.py"' in text or "fetch_arxiv.py --ids_from" in text
        if foreign := names - {"data", ".fetch", *(FILES if is_own else [])}:
            fail(
                f"{folder} holds {min(foreign)}, which this script did not write; give another --output_dir"
            )
        work.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(work / "lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        fail(f"another process is writing into {folder}; wait for it, or give another --output_dir")
    except OSError as error:
        fail(f"cannot write into {folder}: {error.strerror or error}")
    try:
        yield work
    finally:
        shutil.rmtree(work / "partial", ignore_errors=True)
        (work / "lock").unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):  # not empty
            work.rmdir()
            folder.rmdir()


class Harvest:
    """A resumable harvest through arXiv's search API: paced requests on one connection, a file per finished window.

    The arxiv package fetches pages, but shows neither the number announced nor a Retry-After: ``count`` asks for both.
    """

    def __init__(self, arguments: FetchArguments, folder: Path, ids: list[str]):
        self.arguments, self.delay = arguments, arguments.delay_seconds
        self.earliest, self.connected = (
            0.0,
            False,
        )  # when the next request may be sent; whether arXiv ever answered
        self.numbers = {"requests": 0, "waited_seconds": 0.0}  # of this run
        asked = ids or [*arguments.categories, arguments.start_date, arguments.end_date]
        self.folder = (
            folder / hashlib.sha256(" ".join([arguments.api_url, *asked]).encode()).hexdigest()[:16]
        )
        self.bar = tqdm(
            desc="arXiv", unit=" papers", total=len(ids) or None, disable=arguments.disable_tqdm
        )
        signal.signal(signal.SIGALRM, interrupt_request)

    def wait(self) -> None:
        """Sleep until the next request may be sent, and count the request."""
        pause = max(self.earliest - time.monotonic(), 0.0)
        time.sleep(pause)
        self.numbers["waited_seconds"] = round(self.numbers["waited_seconds"] + pause, 2)
        self.numbers["requests"] += 1

    def count(self, search: arxiv.Search) -> int:
        """Return how many entries arXiv announces. Raises what ``fetch`` catches."""
        query = {
            "search_query": search.query,
            "id_list": ",".join(search.id_list),
            "start": 0,
            "max_results": 1,
        }
        query |= {"sortBy": search.sort_by.value, "sortOrder": search.sort_order.value}
        self.wait()
        agent = {"User-Agent": "arxiv-confusable-classification (fetch_arxiv.py; requests)"}
        response = requests.get(
            self.arguments.api_url, query, headers=agent, timeout=self.arguments.timeout_seconds
        )
        self.earliest, self.connected = time.monotonic() + self.delay, True
        self.retry_after = Retry().get_retry_after(response.raw) or 0.0
        if response.status_code != 200:
            raise arxiv.HTTPError(response.url, 0, response.status_code)
        total = re.search(r"totalResults[^<>]*>\s*(\d+)\s*<", response.text)
        if not total or re.search(r"<id>[^<>]*/api/errors", response.text):
            raise ValueError(f"not a feed of papers: {re.sub('<[^<>]*>', ' ', response.text)}")
        return int(total[1])

    def records(self, search: arxiv.Search, offset: int) -> Iterator[dict]:
        """Yield the entries of a search in the snapshot's layout. Raises what ``fetch`` catches."""

        class PoliteClient(arxiv.Client):
            @property
            def query_url_format(self, harvest=self) -> str:  # read before every request
                harvest.wait()
                signal.setitimer(signal.ITIMER_REAL, harvest.arguments.timeout_seconds)
                return harvest.arguments.api_url + "?{}"

        for result in PoliteClient(
            self.arguments.page_size, delay_seconds=0, num_retries=0
        ).results(search, offset):
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.earliest, self.connected = time.monotonic() + self.delay, True
            if not result.primary_category:
                raise ValueError(f"a feed that ends within {result.entry_id}")
            yield {
                "id": re.sub(r"v\d+$", "", result.get_short_id()),
                "title": result.title,
                "categories": " ".join([result.primary_category, *result.categories]),
                "abstract": result.summary,
                "versions": [
                    {"version": "v1", "created": format_datetime(result.published, usegmt=True)}
                ],
            }

    def fetch(
        self, search: arxiv.Search, most: int, expected: int | None
    ) -> tuple[int, dict[str, dict] | None]:
        """Return how many entries arXiv announces for a search, and the records by id, or None if above ``most``.

        As many papers must come as are announced (``expected`` if known), in passes that alternate the order. If the
        same papers come in both orders, the number includes entries that are listed twice or that have no date, which
        the arxiv package skips. Raises RequestException or ArxivError on a refusal or after num_retries vain retries.
        """
        everything, fresh, previous, offset, failures = {}, {}, None, 0, 0
        while failures <= self.arguments.num_retries:
            before, backoff, total, fault, self.retry_after = (
                len(everything),
                self.delay,
                None,
                None,
                0.0,
            )
            try:
                total, expected = self.count(search) if expected is None else expected, None
                if total > most:
                    return total, None
                for record in self.records(search, offset) if offset < total else ():
                    offset += 1
                    fresh[record["id"]] = everything[record["id"]] = record
            except (arxiv.ArxivError, InvalidHeader, OSError, ValueError) as error:
                status, fault = getattr(error, "status", 500), one_line(error)
                is_unreachable = not self.connected and isinstance(
                    next(iter(error.args), None), MaxRetryError
                )
                if is_unreachable or (status < 500 and status != 429):
                    raise
                if total is not None and status in (
                    429,
                    503,
                ):  # only count() sees the server's Retry-After
                    backoff *= 16
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            is_believed = total or failures >= min(EMPTY_ANSWERS - 1, self.arguments.num_retries)
            if total is not None and offset >= total and is_believed:
                if len(everything) == total or (total and fresh.keys() == previous):
                    return total, everything
                previous, fresh, offset = fresh.keys(), {}, 0
                search.sort_order = next(
                    order for order in arxiv.SortOrder if order != search.sort_order
                )
            fault = fault or f"{len(everything)} of {total} papers came"
            failures = failures + 1 if len(everything) == before else 0
            self.earliest = time.monotonic() + max(
                self.retry_after, min(300.0, backoff * 2**failures)
            )
        raise requests.RequestException(f"{failures} failures in a row, the last: {fault}")

    def keep(
        self, name: str, search: arxiv.Search, most: int = QUERY_LIMIT
    ) -> tuple[int, Path | None]:
        """Fetch a window into a file, empty if above ``most``; return the number announced, and the file if above 0.

        Exits with status 2 without a connection or disk space, with 1 if arXiv does not send what it announces.
        """
        for path in self.folder.glob(f"{name}.*.gz"):
            return int(path.name.split(".")[1]), path
        try:
            total, records = self.fetch(search, most, len(search.id_list) or None)
            self.folder.mkdir(exist_ok=True)
            if records == {}:
                return total, None
            path = self.folder / f"{name}.{total}.{'halved' if records is None else 'jsonl'}.gz"
            lines = b"".join(
                orjson.dumps(record) + b"\n" for _, record in sorted((records or {}).items())
            )
            write(path, gzip.compress(lines, mtime=0))
        except (requests.RequestException, arxiv.ArxivError, KeyboardInterrupt) as error:
            if isinstance(error, requests.ConnectionError) and not self.connected:
                fail(
                    f"no connection to {self.arguments.api_url} ({error.args[0].reason}); use --source snapshot"
                )
            give_up(
                f"window {name} is missing: {getattr([*error.args, ''][0], 'reason', one_line(error))}"
            )
        except OSError as error:
            fail(
                f"cannot write into {self.folder}: {error.strerror or error}; run the same command again to continue"
            )
        self.bar.total = self.bar.total or total
        self.bar.update(len(records or ()))
        self.bar.set_postfix_str(f"window {name}, {self.numbers['requests']} requests")
        return total, path


def interrupt_request(*_) -> NoReturn:
    """Signal handler: end a request that has taken --timeout_seconds."""
    raise TimeoutError("no answer within --timeout_seconds")


def give_up(message: str) -> NoReturn:
    """Print in one line why a harvest is incomplete and exit with status 1."""
    print(f"incomplete: {message}; run the same command again to continue", file=sys.stderr)
    raise SystemExit(1)


def fetch_window(harvest: Harvest, start: datetime, end: datetime) -> tuple[int, list[Path]]:
    """Fetch the papers of a window of time, in halves if there are more than --max_window; return number and files.

    The halves share one minute: no paper is lost whether arXiv includes the end of a window or not.
    """
    name, middle = (
        f"{start:%Y%m%d%H%M}-{end:%Y%m%d%H%M}",
        (start + (end - start) / 2).replace(second=0),
    )
    categories = " OR ".join(f"cat:{category}" for category in harvest.arguments.categories)
    query = f"({categories}) AND submittedDate:[{name.replace('-', ' TO ')}]"
    search = arxiv.Search(
        query, None, None, arxiv.SortCriterion.SubmittedDate, arxiv.SortOrder.Ascending
    )
    total, path = harvest.keep(
        name, search, harvest.arguments.max_window if start < middle else sys.maxsize
    )
    if path is None or ".jsonl" in path.name:
        return total, [path] if path else []
    (first, paths), (second, more) = (
        fetch_window(harvest, start, middle),
        fetch_window(harvest, middle, end),
    )
    if first + second < total:  # the number may be wrong: ask for it again
        path.unlink()
        total = harvest.keep(name, search, most=0)[0] or total
    if first + second < total:
        give_up(
            f"window {name} is missing: its halves have {first + second} papers, but arXiv announces {total}"
        )
    return total, paths + more


def run_harvest(arguments: FetchArguments, folder: Path, ids: list[str]) -> tuple[list[Path], dict]:
    """Fetch the windows that are not in the folder yet; return all their files and the numbers for the manifest."""
    harvest, start = Harvest(arguments, folder, ids), datetime.fromisoformat(arguments.start_date)
    with harvest.bar:
        if not ids:
            paths = fetch_window(
                harvest, start, datetime.fromisoformat(arguments.end_date) + timedelta(days=1)
            )[1]
            return paths, harvest.numbers
        starts = range(0, len(ids), IDS_PER_REQUEST)
        windows = [
            harvest.keep(f"ids-{i}", arxiv.Search("", ids[i : i + IDS_PER_REQUEST], None))
            for i in starts
        ]
        return [path for _, path in windows if path], harvest.numbers


def parse_records(
    entries: Iterator[tuple], arguments: FetchArguments, counts: Counter
) -> Iterator[dict]:
    """Yield the records of lines or rows, given with their places. Count invalid ones, or exit with status 2."""
    for place, entry in entries:
        try:
            entry = entry if isinstance(entry, dict) else orjson.loads(entry)
            first, *others = entry["categories"].split()
            versions = entry[
                "versions"
            ]  # some parquet files have a struct of lists instead of a list of structs
            created = (
                versions["created"][0] if isinstance(versions, dict) else versions[0]["created"]
            )
            _, day, month, year, clock, zone = created.split()
            moment = f"{year}-{MONTHS.index(month) + 1:02d}-{day:0>2}T{clock}{zone.replace('GMT', '+00:00')}"
            yield {
                "id": entry["id"].strip(),
                "title": " ".join(entry["title"].split()),
                "abstract": " ".join((entry["abstract"] or "").split()),
                "categories": [first, *sorted(set(others) - {first})],
                "published": datetime.fromisoformat(moment).astimezone(UTC),
            }
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if not arguments.skip_bad_lines:
                remedy = (
                    "delete it and get it again"
                    if arguments.source == "api"
                    else "--skip_bad_lines skips it"
                )
                fail(f"{place} is not an arXiv record ({error!r}); {remedy}")
            counts["bad lines"] += 1


def read_hub(arguments: FetchArguments, extra: dict) -> Iterator[tuple[str, dict]]:
    """Stream rows of a dataset on the Hub, each with its place; put its commit into ``extra``. Exits with status 2."""
    name = arguments.hub_dataset
    try:
        builder = datasets.load_dataset_builder(
            f"hf://datasets/{name}", revision=arguments.revision
        )
        stream = builder.as_streaming_dataset("all")
        found = stream.column_names or list(next(iter(stream)))  # only parquet files have a schema
        if missing := [column for column in COLUMNS if column not in found]:
            fail(f"{name} has no column {missing[0]}; it has {', '.join(found)}")
        extra["dataset_commit"] = builder.hash
        builder.config.columns = COLUMNS  # parquet files are read by column
        tables = builder.as_streaming_dataset("all").with_format("arrow").iter(batch_size=1000)
        total = sum(split.num_examples for split in (builder.info.splits or {}).values()) or None
        with tqdm(desc=name, total=total, unit=" records", disable=arguments.disable_tqdm) as bar:
            for table in tables:
                yield from ((f"{name} {row['id']}", row) for row in table.to_pylist())
                bar.update(len(table))
    except Exception as error:  # datasets, huggingface_hub, httpx and pyarrow raise many types
        remedy = "check the id, --revision and the network; a private dataset needs `hf auth login` or HF_TOKEN"
        fail(f"cannot read {name} from the Hub: {one_line(error)}; {remedy}")


def read_snapshot(
    path: Path, arguments: FetchArguments, ids: set[str], counts: Counter
) -> Iterator[tuple]:
    """Yield place and line of the asked categories, or of all if there are ids; count the other lines.

    A complete line with another primary category is skipped without parsing it. That is safe: quotation marks inside
    JSON strings are escaped, so the marker matches only the key, which occurs once in a record, and no JSON writer
    escapes the letters of a category. Exits with status 2 on a damaged or different file.
    """
    number = parsed = 0
    try:
        with path.open("rb", buffering=2**18) as raw:
            size, is_gzip = os.fstat(raw.fileno()).st_size, raw.peek(2)[:2] == b"\x1f\x8b"
            if path.suffix == ".gz" and not is_gzip:
                fail(
                    f"{path} is not gzip data, in spite of its name; rename it, or delete it and get it again"
                )
            stream = gzip.GzipFile(fileobj=raw) if is_gzip else raw
            stream.read(3 if stream.peek(3)[:3] == b"\xef\xbb\xbf" else 0)  # a byte order mark
            if stream.peek(4096).lstrip()[:1] != b"{":
                fail(
                    f"{path} does not start with a JSON object; the snapshot has one object per line (unpack a .zip)"
                )
            bar = tqdm(
                total=size,
                unit="B",
                unit_scale=True,
                desc=path.name,
                disable=arguments.disable_tqdm,
            )
            marker = (
                re.search(rb'"categories"\s*:\s*"', stream.peek(2**16)) or [b'"categories": "']
            )[0]
            wanted, width = (
                tuple(b"" if ids else name.encode() for name in arguments.categories),
                len(marker),
            )
            for number, line in enumerate(stream, 1):
                at = line.find(marker)
                if (
                    at >= 0 and line[-2] == 125 and not line.startswith(wanted, at + width)
                ):  # 125: the closing brace
                    continue
                parsed += 1
                if not line.isspace():
                    yield f"{path} line {number}", line
                if not parsed % 1000:
                    bar.update(raw.tell() - bar.n)
            bar.update(size - bar.n)
            bar.close()
            counts["other primary category"] += number - parsed
    except (OSError, EOFError, zlib.error) as error:
        remedy = "if it is not complete, delete it and get it again"
        fail(f"cannot read snapshot {path}, after {number} lines: {one_line(error)}; {remedy}")


def select(records: Iterator[dict], arguments: FetchArguments, counts: Counter) -> list[dict]:
    """Return the records to keep, labeled and sorted by id, whatever their order; count what is dropped."""
    by_id = {}
    for record in records:
        if record["categories"][0] not in arguments.categories:
            counts["other primary category"] += 1
        elif (
            not arguments.start_date <= record["published"].date().isoformat() <= arguments.end_date
        ):
            counts["out of the dates"] += 1
        elif not record["abstract"]:
            counts["empty abstract"] += 1
        elif WITHDRAWN.search(record["abstract"][:WITHDRAWN_WITHIN]):
            counts["withdrawn"] += 1
        else:
            record["label"] = arguments.categories.index(record["categories"][0])
            if record["id"] in by_id:
                counts["duplicate id"] += 1
                record = min(record, by_id[record["id"]], key=orjson.dumps)
            by_id[record["id"]] = record
    oldest_last = sorted(by_id.values(), key=itemgetter("published", "id"), reverse=True)
    by_abstract = {record["abstract"]: record for record in oldest_last}
    counts["duplicate abstract"] = len(by_id) - len(by_abstract)
    kept = sorted(by_abstract.values(), key=itemgetter("id"))
    if limit := arguments.max_records_per_category:
        # A hash of seed and id orders each class, so a larger sample contains the smaller one.
        kept.sort(
            key=lambda record: hashlib.sha256(f"{arguments.seed} {record['id']}".encode()).digest()
        )
        ranks = defaultdict(count)
        sample = [record for record in kept if next(ranks[record["label"]]) < limit]
        counts["over --max_records_per_category"] = len(kept) - len(sample)
        kept = sorted(sample, key=itemgetter("id"))
    return kept


def split_records(records: list[dict], arguments: FetchArguments) -> dict[str, list[dict]]:
    """Return the splits, stratified by label and shuffled. Exit with status 2 if a class is too small for that."""
    least = max(10, round(1 / min(arguments.split_ratios)))
    sizes = Counter(record["label"] for record in records)
    for label, name in enumerate(arguments.categories):
        if sizes[label] < least:
            fail(
                f"category {name} has {sizes[label]} records, at least {least} are needed; check dates and source"
            )
    validation_size, test_size = (
        round(len(records) * ratio) for ratio in arguments.split_ratios[1:]
    )
    parts, rest = [], records
    for size in (validation_size + test_size, test_size):
        labels = [record["label"] for record in rest]
        part, rest = train_test_split(
            rest, test_size=size, stratify=labels, random_state=arguments.seed
        )
        parts.append(part)
    return dict(zip(SPLITS, (*parts, rest), strict=True))


def rebuild_splits(
    records: Iterator[dict], manifest: dict, counts: Counter
) -> tuple[dict, list[str]]:
    """Return the splits of a published manifest, in its order and with its labels, and the ids that are gone."""
    wanted = {name for split in manifest["ids"].values() for name in split}
    by_id, splits = {}, {}
    for record in records:
        if record["id"] in wanted:
            by_id[record["id"]] = min(record, by_id.get(record["id"], record), key=orjson.dumps)
        counts["other id"] += record["id"] not in wanted
    for name in SPLITS:
        pairs = zip(manifest["ids"][name], manifest["labels"][name], strict=True)
        splits[name] = [
            by_id[identifier] | {"label": label}
            for identifier, label in pairs
            if identifier in by_id
        ]
        if not splits[name]:
            fail(f"no paper of the {name} split was found; is this the source of that manifest?")
    return splits, sorted(wanted - set(by_id))


def counts_table(splits: dict[str, list[dict]], arguments: FetchArguments) -> str:
    """Return records per class and split as a Markdown table, next to the study's counts if they are comparable."""
    is_study = not changed_flags(arguments).keys() & set(MANIFEST_FLAGS[:4])
    everything, study = (
        sum(map(len, splits.values())),
        STUDY_COUNTS | {"all": sum(STUDY_COUNTS.values())},
    )
    rows = [["label", *SPLITS, "all", "share", *(["study", "share"] if is_study else [])]]
    for name in [*arguments.categories, "all"]:
        cells = [
            sum(name in ("all", arguments.categories[r["label"]]) for r in splits[split])
            for split in SPLITS
        ]
        rows.append(
            [name, *(f"{n:,}" for n in (*cells, sum(cells))), f"{sum(cells) / everything:.1%}"]
        )
        if is_study:
            rows[-1] += [f"{study[name]:,}", f"{study[name] / study['all']:.1%}"]
    rows.insert(1, ["-" * 10, *["-" * 9 + ":"] * (len(rows[0]) - 1)])
    return "\n".join(
        f"| {row[0]:10} | {' | '.join(f'{cell:>10}' for cell in row[1:])} |" for row in rows
    )


def dataset_card(
    splits: dict[str, list[dict]], arguments: FetchArguments, counts: Counter, digests: dict
) -> str:
    """Return README.md: source, counts, what was dropped, limitations and how to rebuild the dataset."""
    records = [record for name in SPLITS for record in splits[name]]
    foreign = sum(not ARXIV_ID.fullmatch(record["id"]) for record in records)
    origin = "arXiv offers this metadata under CC0 1.0; the papers have licenses of their own."
    if foreign:
        origin = f"**{foreign:,} of the {len(records):,} records carry ids that are not arXiv's**: see its license."
    source = {"snapshot": f"the metadata snapshot {Path(arguments.snapshot_file or '').name}"}
    source["api"], source["hub"] = (
        "arXiv's search API",
        f"{arguments.hub_dataset} on the Hugging Face Hub",
    )
    dropped = (
        ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.items())) or "none"
    )
    # datasets' cache knows a local folder by its name and configuration. The digest tells folders of one name apart.
    return f"""---
license: {"other" if foreign else "cc0-1.0"}
language: en
pretty_name: arXiv abstracts in {len(arguments.categories)} categories
task_categories: [text-classification]
size_categories: [{SIZES[max(0, len(str(len(records))) - 3)]}]
tags: [arxiv, abstracts]
configs:
- config_name: default
  description: sha256 {hashlib.sha256("".join(digests.values()).encode()).hexdigest()}
  data_files: {json.dumps([{"split": name, "path": f"data/{name}-*"} for name in SPLITS])}
---

# arXiv abstracts: {", ".join(arguments.categories)}

Title and abstract of the papers whose *primary* category is one of {len(arguments.categories)} and whose first version
is dated {arguments.start_date} to {arguments.end_date}, for single-label text classification. Read from
{source[arguments.source]}. {origin}

{counts_table(splits, arguments)}

Stratified split {":".join(f"{ratio:g}" for ratio in arguments.split_ratios)}, seed {arguments.seed}.
Records dropped: {dropped}. An abstract is taken for a withdrawal notice if its first {WITHDRAWN_WITHIN} characters say
that the paper is withdrawn, removed or retracted. Of records with the same abstract only the earliest is kept.

## Columns and limitations

- id: arXiv id without version. title, abstract: as the authors wrote them, LaTeX included, white space collapsed.
- label: the primary category, chosen by authors and moderators. Many papers belong to several fields.
- categories: primary first, then alphabetical. They contain the label, so they must not be an input of a classifier.
- published: time of version 1 (UTC), 00:00 if the source has only the day. The abstract is that of the latest version.

`python fetch_arxiv.py --ids_from manifest.json --output_dir DIR` fetches the same papers again into the same splits.
"""


def write_dataset(
    folder: Path, splits: dict, arguments: FetchArguments, counts: Counter, extra: dict
) -> dict:
    """Write the dataset folder and return the SHA-256 of the parquet files. Exit with status 2 if that fails."""
    text, categories = datasets.Value("string"), arguments.categories
    columns = {
        "id": text,
        "title": text,
        "abstract": text,
        "label": datasets.ClassLabel(names=categories),
    }
    columns |= {
        "categories": datasets.List(text),
        "published": datasets.Value("timestamp[ms, tz=UTC]"),
    }
    partial = folder / ".fetch/partial"
    datasets.disable_progress_bars()
    recorded = asdict(arguments) | {"output_dir": folder.name}
    recorded |= {
        name: recorded[name] and Path(recorded[name]).name for name in ("snapshot_file", "ids_from")
    }
    try:
        (partial / "data").mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        for name in SPLITS:
            values = {column: [record[column] for record in splits[name]] for column in columns}
            table = datasets.Dataset.from_dict(values, features=datasets.Features(columns))
            table.to_parquet(partial / f"data/{name}-00000-of-00001.parquet")
        digests = {
            file: hashlib.sha256((partial / file).read_bytes()).hexdigest() for file in FILES[1:4]
        }
        labels = {name: [record["label"] for record in splits[name]] for name in SPLITS}
        manifest = {
            "script": "fetch_arxiv.py",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "arguments": recorded,
            "counts": {
                s: {c: labels[s].count(k) for k, c in enumerate(categories)} for s in SPLITS
            },
            "dropped": dict(sorted(counts.items())),
            **extra,
            "sha256": digests,
            "versions": {
                name: version(name)
                for name in ("arxiv", "datasets", "pyarrow", "requests", "scikit-learn")
            },
            "ids": {name: [record["id"] for record in splits[name]] for name in SPLITS},
            "labels": labels,
        }
        write(partial / "manifest.json", json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
        write(partial / "README.md", dataset_card(splits, arguments, counts, digests))
        (folder / FILES[-1]).unlink(
            missing_ok=True
        )  # the manifest comes last: it marks a complete dataset
        for file in FILES:
            os.replace(partial / file, folder / file)
    except OSError as error:
        fail(
            f"cannot write {folder}: {error.strerror or error}; an earlier dataset there is as it was"
        )
    return digests


def read_manifest(arguments: FetchArguments) -> dict:
    """Return the manifest of --ids_from and take over its arguments. Exit with status 2 if they contradict others."""
    try:
        manifest = json.loads(Path(arguments.ids_from).read_text(encoding="utf-8"))
        recorded = {name: manifest["arguments"][name] for name in MANIFEST_FLAGS}
        pairs = [
            pair
            for name in SPLITS
            for pair in zip(manifest["ids"][name], manifest["labels"][name], strict=True)
        ]
        if not {label for _, label in pairs} <= set(range(len(recorded["categories"]))):
            raise ValueError("it has labels without a category")
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(
            f"cannot read {arguments.ids_from} ({one_line(error)}); give the manifest.json that fetch_arxiv.py wrote"
        )
    for name, value in changed_flags(arguments).items():
        if value != recorded.get(name, value):
            fail(f"--{name} differs from {arguments.ids_from}; leave it out")
    vars(arguments).update(recorded)
    return manifest


def push(folder: Path, arguments: FetchArguments) -> None:
    """Upload the folder to the Hub. Exit with status 2 if that fails; the folder is kept."""
    name = arguments.hub_dataset_id
    command = shlex.join(
        ["hf", "upload", name, str(folder), "--repo-type", "dataset", "--exclude", ".fetch/*"]
    )
    try:
        api = huggingface_hub.HfApi(token=True)  # an error if there is none
        repo_id = api.create_repo(name, repo_type="dataset", exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo_id, repo_type="dataset", folder_path=folder, allow_patterns=FILES
        )
    except Exception as error:  # huggingface_hub raises many types: refused, no such user, no network, offline mode
        fail(
            f"cannot push to {name}: {one_line(error)}; the dataset is kept in {folder}, upload it with: {command}"
        )
    logger.info("pushed: %s", commit.commit_url)


def main() -> None:
    # 1. Arguments
    logging.basicConfig(
        format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    logging.getLogger("arxiv").setLevel(logging.WARNING)
    (arguments,) = parse_arguments(__doc__, FetchArguments)
    manifest = read_manifest(arguments) if arguments.ids_from else None
    check_arguments(arguments)
    folder = Path(arguments.output_dir)

    with locked_folder(folder) as work:
        # 2. Records from the source
        counts, extra, paths = Counter(), {}, [Path(arguments.snapshot_file or "")]
        ids = {name for split in manifest["ids"].values() for name in split} if manifest else set()
        if arguments.source == "api":
            paths, extra["harvest"] = run_harvest(arguments, work, sorted(ids))
        entries = chain.from_iterable(read_snapshot(path, arguments, ids, counts) for path in paths)
        if arguments.source == "hub":
            entries = read_hub(arguments, extra)
        records = parse_records(entries, arguments, counts)

        # 3. Selection and split
        if manifest:
            splits, extra["gone"] = rebuild_splits(records, manifest, counts)
        else:
            splits = split_records(select(records, arguments, counts), arguments)
        counts = +counts  # without the reasons that did not occur

        # 4. The dataset folder
        digests = write_dataset(folder, splits, arguments, counts, extra)

    # 5. Summary and upload
    print(
        "dropped:",
        ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.items())) or "none",
    )
    print(counts_table(splits, arguments))
    if manifest:
        print(
            f"gone: {len(extra['gone']):,} papers",
            *extra["gone"][:10],
            "..." if extra["gone"][10:] else "",
        )
        print(
            f"parquet files: {'' if digests == manifest.get('sha256') else 'others than '}those of the manifest"
        )
    if arguments.push_to_hub:
        push(folder, arguments)
    logger.info(
        "next: python run_baseline.py --dataset_name %s --output_dir runs/svm",
        shlex.quote(str(folder)),
    )


if __name__ == "__main__":
    main()
