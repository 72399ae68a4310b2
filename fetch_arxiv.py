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
"""Make a dataset folder of arXiv abstracts, labeled with their primary category.

    python fetch_arxiv.py --source snapshot --snapshot_file arxiv-metadata-oai-snapshot.json \\
        --output_dir data/arxiv
    python fetch_arxiv.py --output_dir data/arxiv                           # search API, an hour
    python fetch_arxiv.py --ids_from manifest.json --output_dir data/arxiv  # papers of a manifest

The defaults are the study's: five fields of mathematics, 2014 to 2023, split 8:1:1 at random;
``--split_by date`` trains on the oldest papers and tests on the newest ones. The snapshot is the
metadata file that Cornell publishes on Kaggle (plain or gzip) or a file of tools/harvest_oai.py.
``--source hub --hub_dataset librarian-bots/arxiv-metadata-snapshot`` reads a mirror.
``--source api`` keeps finished windows of time in OUTPUT_DIR/.fetch: the same command continues;
tell arXiv who you are with ``--contact you@example.org``. If a window stays incomplete, the
command names it and exits with status 1.

Writes a folder that datasets.load_dataset opens: README.md (dataset card), manifest.json
(arguments, counts, ids) and data/{train,validation,test}-00000-of-00001.parquet. The same records,
arguments and seed give the same parquet files byte for byte, regardless of input order.
"""

import argparse
import contextlib
import difflib
import functools
import gzip
import hashlib
import itertools
import json
import logging
import os
import re
import shlex
import shutil
import socket
import sys
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

import arxiv
import datasets
import filelock
import huggingface_hub
import orjson
import requests
import yaml
from datasets.exceptions import DatasetsError
from huggingface_hub.utils import httpx
from requests.adapters import HTTPAdapter
from sklearn.model_selection import train_test_split
from tqdm import tqdm
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import InvalidHeader, MaxRetryError

# transformers advises to install PyTorch, which this script does not need.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
from transformers.hf_argparser import HfArgumentParser

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
CARD = "README.md"
PARQUET_FILES = tuple(f"data/{split}-00000-of-00001.parquet" for split in SPLITS)
MANIFEST = "manifest.json"
FILES = (CARD, *PARQUET_FILES, MANIFEST)  # in the order of writing: the manifest marks a whole set
# While a command runs, and between two pieces of a harvest, these are in the dataset folder, too.
WORK_RECORD = ".fetch/fetch.json"
OWN_FILES = "|".join(
    [
        *map(re.escape, FILES),
        *(re.escape(f".fetch/partial/{file}") for file in FILES),
        r"\.fetch/(lock|fetch\.json)",
        r"\.fetch/[0-9a-f]{16}/[\w-]+\.\d+\.(jsonl|halved)\.gz",
    ]
)
UNFINISHED = r"\.fetch/(lock|fetch\.json)"
STUDY_COUNTS = {
    "math.AG": 19250,
    "math.CV": 6179,
    "math.DG": 15678,
    "math.MG": 3808,
    "math.SG": 2435,
}
STUDY_FLAGS = ("categories", "start_date", "end_date", "max_records_per_category")
# What --ids_from takes from a manifest
MANIFEST_FLAGS = (*STUDY_FLAGS, "split_by", "split_ratios", "seed")

# An abstract is a withdrawal notice if it opens by saying that the paper itself is withdrawn. The
# verb alone is not enough: players withdraw from coalitions, and points are removed from manifolds.
PAPER = r"(?:paper|article|manuscript|note|preprint|e-?print|submission|work)"
WITHDRAWN = re.compile(
    rf"""(?ix)
    # "This paper has been withdrawn", "the article was later removed"
    \b{PAPER}\s(?:has|have|had|is|was|were|are)(?:\s\w+){{0,2}}\s(?:withdrawn|removed|retracted)\b
    # "This paper has crucial flaws in the proof of Theorem 11.1 and so withdrawn"
    | \bthis\s{PAPER}\s.*\band\s(?:is\s)?(?:so|thus|hence|therefore)\s(?:is\s)?withdrawn\b
    # "I withdraw this paper", "we have withdrawn the first version of the article"
    | \bwithdr(?:aw|awn|ew|awing|aws)\s(?:this|the|our|my|that)\s(?:\w+\s){{0,4}}?{PAPER}\b
    # "I am withdrawing it"
    | \b(?:I|we|authors?)(?:\s\w+){{0,2}}\swithdr(?:aw|awn|ew|awing|aws)\sit\b
    # "Withdrawn", "Why withdrawn: ...", "Temporarily withdrawn due to an error"
    | ^\W*(?:(?:why|temporarily|now|has\sbeen|was|is)\s)?withdrawn\b
    | \bwithdrawn\sby\s(?:(?:the|its|all|both|one\sof\sthe)\s)*(?:authors?|submitters?|arxiv)\b
    """
)
WITHDRAWN_WITHIN = 160  # characters
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
ARXIV_ID = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7}")
# Copied from tools/common/arxiv_access.py::FIRST_DAY
FIRST_DAY = date(1991, 8, 14)  # of arXiv

# Copied from tools/common/arxiv_access.py::TAXONOMY
TAXONOMY = {
    "astro-ph": "CO EP GA HE IM SR",
    "cond-mat": "dis-nn mes-hall mtrl-sci other quant-gas soft stat-mech str-el supr-con",
    "cs": "AI AR CC CE CG CL CR CV CY DB DC DL DM DS ET FL GL GR GT HC IR IT LG LO MA MM MS NA NE "
    "NI OH OS PF PL RO SC SD SE SI SY",
    "econ": "EM GN TH",
    "eess": "AS IV SP SY",
    "gr-qc": "",
    "hep-ex": "",
    "hep-lat": "",
    "hep-ph": "",
    "hep-th": "",
    "math": "AC AG AP AT CA CO CT CV DG DS FA GM GN GR GT HO IT KT LO MG MP NA NT OA OC PR QA RA "
    "RT SG SP ST",
    "math-ph": "",
    "nlin": "AO CD CG PS SI",
    "nucl-ex": "",
    "nucl-th": "",
    "physics": "acc-ph ao-ph app-ph atm-clus atom-ph bio-ph chem-ph class-ph comp-ph data-an ed-ph "
    "flu-dyn gen-ph geo-ph hist-ph ins-det med-ph optics plasm-ph pop-ph soc-ph space-ph",
    "q-bio": "BM CB GN MN NC OT PE QM SC TO",
    "q-fin": "CP EC GN MF PM PR RM ST TR",
    "quant-ph": "",
    "stat": "AP CO ME ML OT TH",
}
# Copied from tools/common/arxiv_access.py::ALIASES
ALIASES = {
    "cs.NA": "math.NA",
    "cs.SY": "eess.SY",
    "math.IT": "cs.IT",
    "math.MP": "math-ph",
    "q-fin.EC": "econ.GN",
    "stat.TH": "math.ST",
}

PAGE_LIMIT = 2000  # entries per page, arXiv's
QUERY_LIMIT = 30000  # entries per query, arXiv's
IDS_PER_REQUEST = 400  # the address stays shorter than 8 KB
# The API sometimes reports no entries for a window that has some: believed the third time.
EMPTY_ANSWERS = 3
# A paper has the date of its submission and is listed when it is announced: after weekends,
# holidays and questions of the moderators. Until then a window of time may still grow.
SETTLED_AFTER = timedelta(days=7)
# A growing window of an interrupted command is used by one that goes on within this time.
KEPT_FOR = timedelta(days=1)
# Copied from tools/common/arxiv_access.py::TERMS_DELAY
TERMS_DELAY = 3.0  # seconds between two requests, arXiv's terms of use
# Copied from tools/common/arxiv_access.py::BUSY
BUSY = (429, *range(500, 600))  # statuses of a server that may answer later
# Copied from tools/common/arxiv_access.py::LONGEST_PAUSE
LONGEST_PAUSE = 300  # seconds, of the growing pauses between retries
# Copied from tools/common/arxiv_access.py::LONGEST_RETRY_AFTER
LONGEST_RETRY_AFTER = 3600  # seconds that a server may ask for
# Copied from tools/common/arxiv_access.py::CONTACT
CONTACT = re.compile(
    r"(?:mailto:)?[\w.+%-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}"
    r"|https?://[\w.-]+(?::\d{1,5})?(?:/[\w./~%+-]*)?",
    re.ASCII,
)
# Copied from tools/common/arxiv_access.py::LONGEST_CONTACT
LONGEST_CONTACT = 200  # characters

# The longest records, of collaborations with thousands of authors, have about 1 MB. A few bytes of
# gzip can stand for a line of gigabytes.
LONGEST_LINE = 16 * 2**20
HUB_COLUMNS = ["id", "title", "abstract", "categories", "versions"]  # of the snapshot
# What reading or writing on the Hub raises for reasons that the user can fix: no such dataset, no
# network, no access, damaged files.
HUB_ERRORS = (OSError, ValueError, EOFError, zlib.error, DatasetsError, httpx.HTTPError)
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")  # the Hub's


# Arguments


@dataclass
class FetchArguments:
    """What to fetch, from where, and how to split it."""

    output_dir: str = field(metadata={"help": "Dataset folder to write."})
    source: Literal["api", "snapshot", "hub"] = field(
        default="api", metadata={"help": "Search API, file, or dataset on the Hub."}
    )
    snapshot_file: str | None = field(
        default=None,
        metadata={"help": "snapshot: metadata file, an object per line, plain or gzip."},
    )
    hub_dataset: str | None = field(
        default=None, metadata={"help": "hub: id of a dataset with the columns of the snapshot."}
    )
    revision: str | None = field(
        default=None, metadata={"help": "hub: branch, tag or commit of that dataset."}
    )
    skip_bad_lines: bool = field(
        default=False,
        metadata={"help": "snapshot, hub: count invalid records instead of stopping."},
    )
    categories: list[str] = field(
        default_factory=lambda: [*STUDY_COUNTS], metadata={"help": "Primary categories."}
    )
    start_date: str = field(
        default="2014-01-01",
        metadata={"help": "First day of version 1 of the papers to keep, UTC."},
    )
    end_date: str = field(
        default="2023-12-31", metadata={"help": "Last day of version 1 of the papers to keep, UTC."}
    )
    split_by: Literal["random", "date"] = field(
        default="random",
        metadata={
            "help": "random: stratified by label. date: the oldest papers are for training, the "
            "newest for the test."
        },
    )
    split_ratios: list[float] = field(
        default_factory=lambda: [0.8, 0.1, 0.1],
        metadata={"help": "Fractions of train, validation and test."},
    )
    max_records_per_category: int | None = field(
        default=None, metadata={"help": "Keep a random sample of larger categories."}
    )
    seed: int = field(
        default=42, metadata={"help": "Random seed of the sample, of the split and of its order."}
    )
    ids_from: str | None = field(
        default=None,
        metadata={"help": "manifest.json: rebuild its dataset, with its labels and splits."},
    )
    page_size: int = field(
        default=PAGE_LIMIT, metadata={"help": "api: entries per request, at most 2000."}
    )
    max_window: int = field(
        default=QUERY_LIMIT,
        metadata={"help": "api: halve windows of time with more entries, at most 30000."},
    )
    delay_seconds: float = field(
        default=TERMS_DELAY, metadata={"help": "api: pause between two requests."}
    )
    timeout_seconds: float = field(
        default=120.0, metadata={"help": "api: time after which an unanswered request has failed."}
    )
    num_retries: int = field(
        default=10, metadata={"help": "api: retries without progress before the command gives up."}
    )
    api_url: str = field(
        default="https://export.arxiv.org/api/query",
        metadata={"help": "api: address of the search API."},
    )
    contact: str | None = field(
        default=None,
        metadata={"help": "api: your e-mail address, for the User-Agent of the requests."},
    )
    push_to_hub: bool = field(
        default=False, metadata={"help": "Publish the folder on the Hugging Face Hub."}
    )
    hub_dataset_id: str | None = field(
        default=None, metadata={"help": "Dataset id to publish as, user/name."}
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Disable the progress bars."})


# The sources that a flag is for
SOURCES_OF_FLAGS = {
    "snapshot_file": ["snapshot"],
    "hub_dataset": ["hub"],
    "revision": ["hub"],
    "skip_bad_lines": ["snapshot", "hub"],
    "page_size": ["api"],
    "max_window": ["api"],
    "delay_seconds": ["api"],
    "timeout_seconds": ["api"],
    "num_retries": ["api"],
    "api_url": ["api"],
    "contact": ["api"],
}


def changed_flags(arguments: FetchArguments) -> dict[str, object]:
    """Return the flags that differ from their defaults, with their values."""
    defaults = asdict(FetchArguments(output_dir=""))
    return {name: value for name, value in asdict(arguments).items() if value != defaults[name]}


def check_arguments(arguments: FetchArguments) -> None:
    """Exit with status 2 on invalid arguments, before anything is read or written."""
    check_categories(arguments.categories)
    check_dates(arguments)
    check_split(arguments)
    check_source(arguments)
    check_dataset_path(Path(arguments.output_dir))
    if arguments.push_to_hub and not arguments.hub_dataset_id:
        fail("--push_to_hub requires --hub_dataset_id USER/NAME")
    if arguments.hub_dataset_id and not arguments.push_to_hub:
        fail("--hub_dataset_id names the dataset to publish and requires --push_to_hub")


def check_categories(categories: list[str]) -> None:
    """Exit with status 2 unless these are at least two of arXiv's categories."""
    known = category_names()
    for name in categories:
        if name in ALIASES:
            primary = ALIASES[name]
            fail(
                f"--categories {name} is another name of {primary}, and no paper has it as its "
                f"primary category; give {primary}"
            )
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            fail(
                f"arXiv has no category {name!r}; did you mean {nearest}? "
                "(https://arxiv.org/category_taxonomy)"
            )
    shown = " ".join(categories)
    if len(set(categories)) != len(categories):
        fail(f"--categories {shown}: give each once")
    if len(categories) < 2:
        fail(f"--categories {shown}: give at least two categories")


def check_split(arguments: FetchArguments) -> None:
    """Exit with status 2 unless the sample and the split can be drawn with these arguments."""
    ratios = arguments.split_ratios
    are_positive = all(ratio > 0 for ratio in ratios)
    if len(ratios) != 3 or not are_positive or not abs(sum(ratios) - 1) <= 1e-6:
        fail(
            f"--split_ratios {' '.join(map(str, ratios))}: give three positive numbers that sum "
            "to 1, such as 0.8 0.1 0.1; every dataset has a train, a validation and a test split"
        )
    if arguments.split_by == "date" and arguments.start_date == arguments.end_date:
        fail(
            f"--split_by date: {arguments.start_date} is both the first and the last day; give an "
            "earlier --start_date or a later --end_date"
        )
    limit = arguments.max_records_per_category
    if limit is not None and limit < 10:
        fail(f"--max_records_per_category must be at least 10, not {limit}")
    if not 0 <= arguments.seed < 2**32:
        fail(f"--seed must be between 0 and 4294967295, not {arguments.seed}")


def check_source(arguments: FetchArguments) -> None:
    """Exit with status 2 unless the flags of the source, and no others, are given and valid."""
    for name in changed_flags(arguments):
        sources = SOURCES_OF_FLAGS.get(name, [arguments.source])
        if arguments.source not in sources:
            fail(f"--{name} requires --source {' or '.join(sources)}")
    if arguments.source == "snapshot" and not arguments.snapshot_file:
        fail("--source snapshot requires --snapshot_file")
    if arguments.source == "hub" and not arguments.hub_dataset:
        fail("--source hub requires --hub_dataset")
    if not 1 <= arguments.page_size <= PAGE_LIMIT:
        fail(f"--page_size {arguments.page_size}: arXiv returns 1 to {PAGE_LIMIT} entries per page")
    if not arguments.page_size <= arguments.max_window <= QUERY_LIMIT:
        fail(
            f"--max_window {arguments.max_window}: it must be between --page_size "
            f"({arguments.page_size}) and {QUERY_LIMIT}, arXiv's maximum"
        )
    check_requests(
        "--api_url",
        arguments.api_url,
        arguments.delay_seconds,
        arguments.timeout_seconds,
        arguments.num_retries,
    )
    check_contact(arguments.contact)


def check_ids(arguments: FetchArguments, ids: set[str]) -> None:
    """Exit with status 2 if arXiv's search API is to be asked for ids that it cannot have."""
    foreign = sorted(paper_id for paper_id in ids if not ARXIV_ID.fullmatch(paper_id))
    if arguments.source == "api" and foreign:
        fail(
            f"{len(foreign):,} ids of {arguments.ids_from} are not arXiv's, such as "
            f"{foreign[0]!r:.80}; give the --source that has these records"
        )


def read_manifest(arguments: FetchArguments) -> dict:
    """Return the manifest of --ids_from and take over its arguments.

    Exits with status 2 if it is not a manifest, or if its arguments contradict the given ones.
    """
    path = Path(arguments.ids_from)
    remedy = "give the manifest.json that fetch_arxiv.py wrote"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        # Manifests of earlier versions do not say how they were split: at random.
        asked = {"split_by": "random"} | manifest["arguments"]
        recorded = {name: asked[name] for name in MANIFEST_FLAGS}
        if recorded["split_by"] not in ("random", "date"):
            raise ValueError(f"split_by is {recorded['split_by']!r:.50}")
        number_of_labels = len(recorded["categories"])
        for split in SPLITS:
            for _, label in zip(manifest["ids"][split], manifest["labels"][split], strict=True):
                if label not in range(number_of_labels):
                    raise ValueError("it has labels without a category")
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"cannot read {path} ({one_line(error)}); {remedy}")
    for name, value in changed_flags(arguments).items():
        if name in recorded and value != recorded[name]:
            fail(f"--{name} differs from {path}; leave it out")
    for name, value in recorded.items():
        setattr(arguments, name, value)
    return manifest


# Reading a snapshot, a window of the API or a mirror: an entry is a line or a row with its place


class BadEntries:
    """Entries that are not records of arXiv: how many there are, and the first three."""

    def __init__(self):
        self.count = 0
        self.shown = []

    def add(self, place: str, problem: str) -> None:
        self.count += 1
        if len(self.shown) < 3:
            self.shown.append((place, problem))

    def describe(self) -> str:
        """Return one line with the number, the places and what is wrong there."""
        if self.count == 1:
            place, problem = self.shown[0]
            return f"{place} is not an arXiv record ({problem})"
        shown = ", ".join(f"{place} ({problem})" for place, problem in self.shown)
        more = ", ..." if self.count > len(self.shown) else ""
        return f"{self.count:,} entries are not arXiv records: {shown}{more}"


def read_snapshot(
    path: Path, arguments: FetchArguments, ids: set[str], counts: Counter, bad: BadEntries
) -> Iterator[tuple[str, bytes]]:
    """Yield place and line of the asked categories, or of all if there are ids; count the others.

    A complete line with another primary category is skipped without parsing it. That is safe:
    quotation marks inside JSON strings are escaped, so the marker matches only the key, which
    occurs once in a record, and no JSON writer escapes the letters of a category.

    Exits with status 2 on a damaged or different file.
    """
    number = parsed = 0
    wanted = tuple(name.encode() for name in arguments.categories)
    try:
        with path.open("rb", buffering=2**18) as raw:
            size = os.fstat(raw.fileno()).st_size
            stream = open_snapshot(path, raw)
            # The key as this file writes it, with its spaces: '"categories":"'
            match = re.search(rb'"categories"\s*:\s*"', stream.peek(2**16))
            marker = match[0] if match else b'"categories": "'
            bar = tqdm(
                total=size,
                unit="B",
                unit_scale=True,
                desc=path.name,
                disable=arguments.disable_tqdm,
            )
            lines = iter(functools.partial(stream.readline, LONGEST_LINE + 1), b"")
            for number, line in enumerate(lines, 1):
                if len(line) > LONGEST_LINE:
                    bad.add(f"{path} line {number}", f"longer than {LONGEST_LINE >> 20} MiB")
                    skip_rest_of_line(stream, line)
                    parsed += 1
                    continue
                start = line.find(marker)
                # Without its closing brace, a line is cut off: parsing it names the fault.
                is_whole = line.endswith((b"}\n", b"}\r\n"))
                can_be_skipped = is_whole and start >= 0 and not ids
                if can_be_skipped and not line.startswith(wanted, start + len(marker)):
                    continue
                parsed += 1
                if not line.isspace():
                    yield f"{path} line {number}", line
                # A pipe has no position, and no size: its progress is not shown.
                if parsed % 1000 == 0 and raw.seekable():
                    bar.update(raw.tell() - bar.n)
            bar.update(size - bar.n)
            bar.close()
            counts["other primary category"] += number - parsed
    except (OSError, EOFError, zlib.error) as error:
        fail(
            f"cannot read snapshot {path}, after {number} lines: {one_line(error)}; "
            "if it is not complete, delete it and get it again"
        )


def open_snapshot(path: Path, raw: BinaryIO) -> BinaryIO:
    """Return the stream of an open snapshot, unpacked. Exit with status 2 if it is not one."""
    is_gzip = raw.peek(2)[:2] == b"\x1f\x8b"
    if path.suffix == ".gz" and not is_gzip:
        fail(
            f"{path} is not gzip data, in spite of its name; rename it, or delete it and get it "
            "again"
        )
    stream = gzip.GzipFile(fileobj=raw) if is_gzip else raw
    if stream.peek(3)[:3] == b"\xef\xbb\xbf":  # a byte order mark
        stream.read(3)
    if stream.peek(4096).lstrip()[:1] != b"{":
        fail(
            f"{path} does not start with a JSON object; the snapshot has one object per line "
            "(unpack a .zip)"
        )
    return stream


def skip_rest_of_line(stream: BinaryIO, line: bytes) -> None:
    """Read on to the end of a line, piece by piece."""
    while line and not line.endswith(b"\n"):
        line = stream.readline(LONGEST_LINE)


def read_hub(arguments: FetchArguments, facts: dict) -> Iterator[tuple[str, dict]]:
    """Stream the rows of a dataset on the Hub with their places; put its commit into ``facts``.

    Exits with status 2 if the dataset cannot be read or lacks a column.
    """
    name = arguments.hub_dataset
    try:
        builder = datasets.load_dataset_builder(
            f"hf://datasets/{name}", revision=arguments.revision
        )
        stream = builder.as_streaming_dataset("all")
        # Only parquet files have a schema; the first row shows the columns of others.
        columns = stream.column_names or list(next(iter(stream), {}))
        for column in HUB_COLUMNS:
            if column not in columns:
                fail(f"{name} has no column {column}; it has {', '.join(columns)}")
        facts["dataset_commit"] = builder.hash
        builder.config.columns = HUB_COLUMNS  # parquet files are read by column
        tables = builder.as_streaming_dataset("all").with_format("arrow").iter(batch_size=1000)
        total = sum(split.num_examples for split in (builder.info.splits or {}).values()) or None
        with tqdm(desc=name, total=total, unit=" records", disable=arguments.disable_tqdm) as bar:
            for table in tables:
                for row in table.to_pylist():
                    yield f"{name} {row['id']}", row
                bar.update(len(table))
    except HUB_ERRORS as error:
        fail(
            f"cannot read {name} from the Hub: {one_line(error)}; check the id, --revision and the "
            "network; a private dataset requires `hf auth login` or HF_TOKEN"
        )


def parse_entries(
    entries: Iterator[tuple[str, bytes | dict]],
    arguments: FetchArguments,
    counts: Counter,
    bad: BadEntries,
) -> Iterator[dict]:
    """Yield the records of entries. At the end, count invalid ones, or exit with status 2."""
    for place, entry in entries:
        try:
            record = parse_entry(entry if isinstance(entry, dict) else orjson.loads(entry))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            bad.add(place, repr(error))
            continue
        yield record
    if bad.count and not arguments.skip_bad_lines:
        remedy = "--skip_bad_lines skips such entries"
        if arguments.source == "api":
            remedy = "delete the file and get it again"
        fail(f"{bad.describe()}; {remedy}")
    counts["bad lines"] = bad.count


def parse_entry(entry: dict) -> dict:
    """Return the columns of the dataset but for the label: white space collapsed, primary first.

    Raises ValueError, KeyError, TypeError, IndexError or AttributeError if it is no arXiv record.
    """
    primary, *others = entry["categories"].split()
    paper_id = entry["id"].strip()
    if not paper_id:
        raise ValueError("the id is empty")
    return {
        "id": paper_id,
        "title": " ".join(entry["title"].split()),
        "abstract": " ".join((entry["abstract"] or "").split()),
        "categories": [primary, *sorted(set(others) - {primary})],
        "published": parse_date(date_of_version_1(entry["versions"])),
    }


def date_of_version_1(versions: list[dict[str, str]] | dict[str, list[str]]) -> str:
    """Return the date of version 1, wherever it is in the list of versions.

    Raises ValueError, KeyError or TypeError if there is none.
    """
    if isinstance(versions, dict):  # a struct of lists, as some parquet files have it
        return versions["created"][versions["version"].index("v1")]
    for entry in versions:
        if entry["version"] == "v1":
            return entry["created"]
    raise ValueError("there is no version v1")


def parse_date(text: str) -> datetime:
    """Return the time of a date such as "Mon, 2 Apr 2007 19:18:42 GMT", in UTC.

    email.utils does the same in six times the time. Raises ValueError on another form.
    """
    _, day, month, year, clock, zone = text.split()
    month_number = MONTHS.index(month) + 1
    zone = zone.replace("GMT", "+00:00")
    moment = datetime.fromisoformat(f"{year}-{month_number:02d}-{day:0>2}T{clock}{zone}")
    return moment.astimezone(UTC)


# Selection and split


def select(records: Iterator[dict], arguments: FetchArguments, counts: Counter) -> list[dict]:
    """Return the records to keep, labeled and sorted by id; count what is dropped, by reason.

    The result is the same regardless of input order.
    """
    by_id = {}
    for record in records:
        reason = reason_to_drop(record, arguments)
        if reason is not None:
            counts[reason] += 1
            continue
        record["label"] = arguments.categories.index(record["categories"][0])
        if record["id"] in by_id:
            counts["duplicate id"] += 1
            record = min(record, by_id[record["id"]], key=orjson.dumps)
        by_id[record["id"]] = record
    kept = drop_repeated_abstracts(list(by_id.values()))
    counts["duplicate abstract"] = len(by_id) - len(kept)
    if arguments.max_records_per_category is not None:
        sample = draw_sample(kept, arguments.max_records_per_category, arguments.seed)
        counts["over --max_records_per_category"] = len(kept) - len(sample)
        kept = sample
    return sorted(kept, key=itemgetter("id"))


def reason_to_drop(record: dict, arguments: FetchArguments) -> str | None:
    """Return why a record does not belong to the dataset, or None."""
    if record["categories"][0] not in arguments.categories:
        return "other primary category"
    day = record["published"].date().isoformat()
    if not arguments.start_date <= day <= arguments.end_date:
        return "out of the dates"
    if not record["abstract"]:
        return "empty abstract"
    if WITHDRAWN.search(record["abstract"][:WITHDRAWN_WITHIN]):
        return "withdrawn"
    return None


def drop_repeated_abstracts(records: list[dict]) -> list[dict]:
    """Return one record per abstract, the earliest."""
    by_abstract = {}
    for record in sorted(records, key=itemgetter("published", "id")):
        by_abstract.setdefault(record["abstract"], record)
    return list(by_abstract.values())


def draw_sample(records: list[dict], limit: int, seed: int) -> list[dict]:
    """Return at most ``limit`` random records of each class; a larger sample contains a smaller."""

    def rank(record: dict) -> bytes:
        return hashlib.sha256(f"{seed} {record['id']}".encode()).digest()

    sample = []
    sizes = Counter()
    for record in sorted(records, key=rank):
        if sizes[record["label"]] < limit:
            sizes[record["label"]] += 1
            sample.append(record)
    return sample


def split_records(records: list[dict], arguments: FetchArguments) -> dict[str, list[dict]]:
    """Return the splits, each in random order.

    Exits with status 2 if a class is too small for that.
    """
    least = max(10, round(1 / min(arguments.split_ratios)))
    sizes = Counter(record["label"] for record in records)
    small = [
        f"{name} has {sizes[label]} records"
        for label, name in enumerate(arguments.categories)
        if sizes[label] < least
    ]
    if small:
        fail(
            f"category {', '.join(small)}, at least {least} are required; check the dates and the "
            "source, or leave it out of --categories"
        )
    _, validation_ratio, test_ratio = arguments.split_ratios
    validation_size = round(len(records) * validation_ratio)
    test_size = round(len(records) * test_ratio)
    if arguments.split_by == "date":
        return split_by_date(records, validation_size, test_size, arguments)
    train, held_out = train_test_split(
        records,
        test_size=validation_size + test_size,
        stratify=[record["label"] for record in records],
        random_state=arguments.seed,
    )
    validation, test = train_test_split(
        held_out,
        test_size=test_size,
        stratify=[record["label"] for record in held_out],
        random_state=arguments.seed,
    )
    return {"train": train, "validation": validation, "test": test}


def split_by_date(
    records: list[dict], validation_size: int, test_size: int, arguments: FetchArguments
) -> dict[str, list[dict]]:
    """Return the splits by the day of version 1: the newest papers are the test split.

    Papers of one day are in the order of their ids, so that a source without times of day gives
    the same splits. Within a split the order is random: --max_train_samples of the other scripts
    takes the first ones. Exits with status 2 if a split lacks a class.
    """

    def day_and_id(record: dict) -> tuple[date, str]:
        return record["published"].date(), record["id"]

    def rank(record: dict) -> bytes:
        return hashlib.sha256(f"order {arguments.seed} {record['id']}".encode()).digest()

    in_order = sorted(records, key=day_and_id)
    first_test = len(in_order) - test_size
    first_validation = first_test - validation_size
    parts = {
        "train": in_order[:first_validation],
        "validation": in_order[first_validation:first_test],
        "test": in_order[first_test:],
    }
    splits = {}
    for split, papers in parts.items():
        present = {record["label"] for record in papers}
        for label, name in enumerate(arguments.categories):
            if label not in present:
                first, last = day_range(papers)
                fail(
                    f"--split_by date: category {name} has no paper of {first} to {last}, the "
                    f"{split} split; change the dates or --split_ratios, or leave it out of "
                    "--categories"
                )
        splits[split] = sorted(papers, key=rank)
    return splits


def day_range(records: list[dict]) -> tuple[str, str]:
    """Return the days of the oldest and of the newest record."""
    days = [record["published"].date().isoformat() for record in records]
    return min(days), max(days)


def rebuild_splits(
    records: Iterator[dict], manifest: dict, counts: Counter
) -> tuple[dict[str, list[dict]], list[str]]:
    """Return the splits of a published manifest, in its order and with its labels.

    The second value holds the ids of its papers that are gone. Exits with status 2 if those are all
    papers of a split.
    """
    wanted = manifest_ids(manifest)
    by_id = {}
    for record in records:
        if record["id"] in wanted:
            by_id[record["id"]] = min(record, by_id.get(record["id"], record), key=orjson.dumps)
        else:
            counts["other id"] += 1
    splits = {}
    for split in SPLITS:
        splits[split] = []
        pairs = zip(manifest["ids"][split], manifest["labels"][split], strict=True)
        for paper_id, label in pairs:
            if paper_id in by_id:
                splits[split].append(by_id[paper_id] | {"label": label})
        if not splits[split]:
            fail(f"no paper of the {split} split was found; is this the source of that manifest?")
    return splits, sorted(wanted - set(by_id))


def manifest_ids(manifest: dict) -> set[str]:
    """Return the ids of all splits of a manifest."""
    return {paper_id for ids in manifest["ids"].values() for paper_id in ids}


# The search API


@dataclass
class Window:
    """What arXiv has for a search: a finished file, a search that is too large, or nothing."""

    total: int  # entries that arXiv announces
    path: Path | None  # None if there are no entries

    @property
    def is_halved(self) -> bool:
        """Whether there were too many entries, so that the file is empty."""
        return self.path is not None and self.path.name.endswith(".halved.gz")


def may_grow(path: Path) -> bool:
    """Return whether a window was fetched so early that papers may have been added to it since."""
    dates = re.fullmatch(r"\d{12}-(\d{12})", path.name.split(".")[0])
    if dates is None:  # a window of ids
        return False
    end = datetime.strptime(dates[1], "%Y%m%d%H%M").replace(tzinfo=UTC)
    return fetched_at(path) < end + SETTLED_AFTER


def fetched_at(path: Path) -> datetime:
    """Return when a window was fetched, which is in the header of its gzip file.

    Files of earlier versions have no time there; that of the file itself changes with a copy.
    """
    with path.open("rb") as file:
        header = file.read(8)
    is_gzip = header.startswith(b"\x1f\x8b")
    seconds = int.from_bytes(header[4:], "little") if is_gzip else 0
    return datetime.fromtimestamp(seconds or path.stat().st_mtime, UTC)


class SearchPass:
    """One pass through the pages of a search, from the first entry to the last announced one.

    After an error the pass goes on at ``offset``.
    """

    def __init__(self):
        self.offset = 0  # entries that have come, of whatever content
        self.records = {}  # by id

    def read(self, entries: Iterator[dict]) -> None:
        """Take entries over until they end. Raises what reading them raises."""
        for record in entries:
            self.offset += 1
            self.records[record["id"]] = record


class SearchPasses:
    """Passes through a search that alternate the order, until nothing is missing."""

    def __init__(self, search: arxiv.Search):
        self.search = search
        self.records = {}  # of all passes, by id
        self.previous_ids = None  # of the last pass that came to its end
        self.current = SearchPass()

    def collect(self) -> int:
        """Take over the records of the current pass; return how many were not known yet."""
        known = len(self.records)
        self.records |= self.current.records
        return len(self.records) - known

    def are_complete(self, total: int) -> bool:
        """Return whether all papers have come, of ``total`` entries that arXiv announces.

        So it is if the number is right, or if the same papers came in both orders: then it includes
        entries that are listed twice or that have no date, which the arxiv package skips. Otherwise
        a pass that has come to its end is followed by one in the other order.
        """
        if self.current.offset < total:
            return False
        ids = self.current.records.keys()
        came_again = total > 0 and ids == self.previous_ids
        if len(self.records) == total or came_again:
            return True
        self.previous_ids = ids
        self.current = SearchPass()
        self.search.sort_order = other_order(self.search.sort_order)
        return False


class SearchApi:
    """arXiv's search API, asked politely and until everything that it announces has come.

    The arxiv package fetches and reads pages of entries, through the adapter mounted here. It does
    not show the number of entries that arXiv announces: ``count`` asks for it.
    """

    def __init__(self, arguments: FetchArguments):
        self.arguments = arguments
        self.pace = Pace(arguments.delay_seconds)
        self.adapter = PoliteAdapter(
            user_agent("fetch_arxiv.py", arguments.contact),
            self.pace,
            arguments.timeout_seconds,
            arguments.num_retries,
        )
        # The pauses and retries are the adapter's. The package has no parameter for a session, so
        # the adapter is mounted on the one that it made.
        self.client = arxiv.Client(arguments.page_size, delay_seconds=0, num_retries=0)
        self.client.query_url_format = arguments.api_url + "?{}"
        self.session = self.client._session
        self.session.mount("http://", self.adapter)
        self.session.mount("https://", self.adapter)

    def count(self, search: arxiv.Search) -> int:
        """Return how many entries arXiv announces. Raises RequestException or ValueError."""
        query = {
            "search_query": search.query,
            "id_list": ",".join(search.id_list),
            "start": 0,
            "max_results": 1,
            "sortBy": search.sort_by.value,
            "sortOrder": search.sort_order.value,
        }
        response = self.session.get(self.arguments.api_url, params=query)
        response.raise_for_status()
        total = re.search(r"totalResults[^<>]*>\s*(\d+)\s*<", response.text)
        is_error = re.search(r"<id>[^<>]*/api/errors", response.text)
        if total is None or is_error:
            raise ValueError(f"not a feed of papers: {re.sub('<[^<>]*>', ' ', response.text)}")
        return int(total[1])

    def entries(self, search: arxiv.Search, offset: int) -> Iterator[dict]:
        """Yield the entries of a search from ``offset`` on, in the snapshot's layout.

        Raises RequestException, ArxivError or ValueError.
        """
        for result in self.client.results(search, offset):
            if not result.primary_category:
                raise ValueError(f"a feed that ends within {result.entry_id}")
            created = format_datetime(result.published, usegmt=True)
            yield {
                "id": re.sub(r"v\d+$", "", result.get_short_id()),
                "title": result.title,
                "categories": " ".join([result.primary_category, *result.categories]),
                "abstract": result.summary,
                "versions": [{"version": "v1", "created": created}],
            }

    def read_on(
        self, passes: SearchPasses, most: int, expected: int | None
    ) -> tuple[int | None, str | None]:
        """Read entries of the current pass, unless the search has more than ``most``.

        Returns how many entries arXiv announces, if that is known, and what went wrong, if anything
        did. Raises RequestException or ArxivError on a refusal.
        """
        total = expected
        try:
            if total is None:
                total = self.count(passes.search)
            if passes.current.offset < total <= most:
                passes.current.read(self.entries(passes.search, passes.current.offset))
        except (arxiv.HTTPError, requests.RequestException) as error:
            if isinstance(error, arxiv.HTTPError) or is_final(error):
                raise
            return total, one_line(error)
        except (arxiv.ArxivError, ValueError) as error:
            return total, one_line(error)
        return total, None

    def fetch(
        self, search: arxiv.Search, most: int, expected: int | None
    ) -> tuple[int, dict[str, dict] | None]:
        """Return how many entries arXiv announces for a search, and the records by id.

        The records are None if there are more than ``most``. ``expected`` is the number of entries
        where it is known; a retry asks arXiv for it.

        Raises RequestException or ArxivError on a refusal or after num_retries failed retries.
        """
        passes = SearchPasses(search)
        failures = 0
        while True:
            total, fault = self.read_on(passes, most, expected)
            expected = None
            if total is not None and total > most:
                return total, None
            number_of_new = passes.collect()

            # No entries at all is believed only when it is said again and again.
            is_believed = total or failures >= min(EMPTY_ANSWERS - 1, self.arguments.num_retries)
            if total is not None and is_believed and passes.are_complete(total):
                return total, passes.records

            failures = 0 if number_of_new else failures + 1
            if failures > self.arguments.num_retries:
                fault = fault or f"{len(passes.records)} of {total} papers came"
                raise requests.RequestException(f"{failures} failures in a row, the last: {fault}")
            self.pace.rest(min(LONGEST_PAUSE, self.pace.delay * 2**failures))


def other_order(order: arxiv.SortOrder) -> arxiv.SortOrder:
    """Return the opposite order."""
    if order == arxiv.SortOrder.Ascending:
        return arxiv.SortOrder.Descending
    return arxiv.SortOrder.Ascending


class Harvest:
    """A resumable harvest through arXiv's search API: a file per finished window."""

    def __init__(self, arguments: FetchArguments, work: Path, ids: list[str]):
        self.arguments = arguments
        self.ids = ids
        self.api = SearchApi(arguments)
        # Other arguments make other windows, so they have a folder of their own.
        asked = ids or [*arguments.categories, arguments.start_date, arguments.end_date]
        digest = hashlib.sha256(" ".join([arguments.api_url, *asked]).encode()).hexdigest()
        self.folder = work / digest[:16]
        self.written = set()  # the files of this call
        self.bar = tqdm(
            desc="arXiv", unit=" papers", total=len(ids) or None, disable=arguments.disable_tqdm
        )

    def run(self) -> list[Path]:
        """Fetch the windows that are not in the folder yet; return the files of all.

        Exits with status 2 without a connection or disk space, with status 1 if arXiv does not send
        what it announces.
        """
        with self.bar:
            if self.ids:
                return self.fetch_ids()
            start = datetime.fromisoformat(self.arguments.start_date)
            end = datetime.fromisoformat(self.arguments.end_date) + timedelta(days=1)
            return self.fetch_period(start, end)[1]

    def fetch_ids(self) -> list[Path]:
        """Fetch the papers with the asked ids, in windows of some ids each."""
        paths = []
        for start in range(0, len(self.ids), IDS_PER_REQUEST):
            search = arxiv.Search("", self.ids[start : start + IDS_PER_REQUEST], None)
            window = self.fetch_window(f"ids-{start}", search)
            if window.path is not None:
                paths.append(window.path)
        return paths

    def fetch_period(self, start: datetime, end: datetime) -> tuple[int, list[Path]]:
        """Fetch the papers of a period, in halves if there are more than --max_window.

        Returns the number of entries that arXiv announces, and the files. The halves share one
        minute: no paper is lost whether arXiv includes the end of a window or not.
        """
        middle = (start + (end - start) / 2).replace(second=0)
        can_be_halved = start < middle
        name = f"{start:%Y%m%d%H%M}-{end:%Y%m%d%H%M}"
        categories = " OR ".join(f"cat:{category}" for category in self.arguments.categories)
        search = arxiv.Search(
            query=f"({categories}) AND submittedDate:[{name.replace('-', ' TO ')}]",
            max_results=None,
            sort_by=arxiv.SortCriterion.SubmittedDate,
            sort_order=arxiv.SortOrder.Ascending,
        )
        most = self.arguments.max_window if can_be_halved else sys.maxsize
        window = self.fetch_window(name, search, most)
        if not window.is_halved:
            return window.total, [] if window.path is None else [window.path]

        first_total, first_paths = self.fetch_period(start, middle)
        second_total, second_paths = self.fetch_period(middle, end)
        total = window.total
        if first_total + second_total < total:  # the number may be wrong: ask for it again
            window.path.unlink()  # an empty file of this harvest, which marks the window as halved
            total = self.fetch_window(name, search, most=0).total or total
        if first_total + second_total < total:
            give_up(
                f"window {name} is missing: its halves have {first_total + second_total} papers, "
                f"but arXiv announces {total}"
            )
        return total, first_paths + second_paths

    def fetch_window(self, name: str, search: arxiv.Search, most: int = QUERY_LIMIT) -> Window:
        """Return a window that is in a file already, or fetch it and write its file."""
        now = datetime.now(UTC)
        for path in self.folder.glob(f"{name}.*.gz"):
            if not may_grow(path) or now - fetched_at(path) < KEPT_FOR:
                return Window(int(path.name.split(".")[1]), path)
            path.unlink()
        try:
            total, records = self.api.fetch(search, most, expected=len(search.id_list) or None)
        except (requests.RequestException, arxiv.ArxivError, KeyboardInterrupt) as error:
            reason = failure_reason(error)
            is_unreachable = (
                isinstance(error, requests.ConnectionError) and not self.api.adapter.is_connected
            )
            if is_unreachable:
                fail(f"no connection to {self.arguments.api_url} ({reason}); use --source snapshot")
            give_up(f"window {name} is missing: {reason}")
        path = self.write_window(name, total, records, now)
        self.bar.total = self.bar.total or total
        self.bar.update(len(records or ()))
        self.bar.set_postfix_str(f"window {name}, {self.api.pace.requests} requests")
        return Window(total, path)

    def write_window(
        self, name: str, total: int, records: dict | None, moment: datetime
    ) -> Path | None:
        """Write the file of a window: empty if it is too large. None for no records, not asked for.

        The number of entries that arXiv announced is in the name, the moment at which it was asked
        in the header. Exits with status 2 if the file cannot be written.
        """
        if records is not None and not records:
            return None
        state = "halved" if records is None else "jsonl"
        path = self.folder / f"{name}.{total}.{state}.gz"
        lines = b"".join(
            orjson.dumps(record) + b"\n" for _, record in sorted((records or {}).items())
        )
        try:
            self.folder.mkdir(exist_ok=True)
            write(path, gzip.compress(lines, mtime=int(moment.timestamp())))
        except OSError as error:
            fail(
                f"cannot write into {self.folder}: {error.strerror or error}; free some space and "
                "run the same command again to continue"
            )
        self.written.add(path)
        return path

    def describe(self, paths: list[Path]) -> dict:
        """Return what the manifest says of a harvest with the windows in these files."""
        moments = sorted(fetched_at(path).isoformat(timespec="seconds") for path in paths)
        earlier = [path for path in paths if path not in self.written]
        if earlier:
            logger.info(
                "%d of %d windows come from an earlier call, the oldest of %s; delete %s to fetch "
                "them again",
                len(earlier),
                len(paths),
                min(map(fetched_at, earlier)).date(),
                self.folder,
            )
        return {
            "requests": self.api.pace.requests,
            "waited_seconds": round(self.api.pace.waited_seconds, 2),
            "windows": len(paths),
            "windows_of_earlier_calls": len(earlier),
            "first_fetched": moments[0] if moments else None,
            "last_fetched": moments[-1] if moments else None,
        }

    def remove_growing_windows(self) -> None:
        """Remove the windows that are not settled, the dataset being complete.

        The next call fetches them again.
        """
        growing = [path for path in self.folder.glob("*.gz") if may_grow(path)]
        for path in growing:
            path.unlink()
        if growing:
            logger.info(
                "%d windows end less than %d days ago; the next call fetches them again",
                len(growing),
                SETTLED_AFTER.days,
            )
        with contextlib.suppress(OSError):  # not empty, or never made
            self.folder.rmdir()


# The dataset folder


@contextlib.contextmanager
def open_work_folder(folder: Path) -> Iterator[Path]:
    """Open and lock the dataset folder, yield .fetch, and tidy up when the block ends.

    Exits with status 2 if it is in use or not this script's. Leaves no trace in a new folder if
    nothing was written.
    """
    is_new = not os.path.exists(folder)  # False also for a name that is too long
    work = folder / ".fetch"
    record = folder / WORK_RECORD
    lock = filelock.FileLock(work / "lock")
    try:
        # A command that was killed before it wrote its record has left nothing but these.
        is_unfinished = work.is_dir() and find_foreign_file(folder, UNFINISHED) is None
        if not is_unfinished:
            open_output_dir(folder, "fetch_arxiv.py", (MANIFEST, WORK_RECORD), OWN_FILES)
        work.mkdir(exist_ok=True)
        # Without a manifest, this record tells the next call that the folder is this script's.
        write(record, json.dumps({"script": "fetch_arxiv.py"}) + "\n")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        fail(f"another process is writing into {folder}; wait for it, or give another --output_dir")
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror or error}")
    try:
        yield work
    finally:
        # Everything below .fetch is this script's: open_output_dir has refused other files.
        shutil.rmtree(work / "partial", ignore_errors=True)
        has_files = any((folder / file).exists() for file in FILES)
        has_windows = any(path.is_dir() for path in work.iterdir())
        if (folder / MANIFEST).exists() or not (has_files or has_windows):
            record.unlink(missing_ok=True)
        (work / "lock").unlink(missing_ok=True)
        lock.release()
        # rmdir removes empty folders only.
        with contextlib.suppress(OSError):
            work.rmdir()
        if is_new:
            for path in (folder / "data", folder):
                with contextlib.suppress(OSError):
                    path.rmdir()


def write_dataset(
    folder: Path,
    splits: dict[str, list[dict]],
    arguments: FetchArguments,
    counts: Counter,
    facts: dict,
) -> dict[str, str]:
    """Write the dataset folder and return the SHA-256 of the parquet files.

    Exits with status 2 if that fails.
    """
    partial = folder / ".fetch/partial"
    datasets.disable_progress_bars()
    # 1. All files, beside the existing ones
    try:
        (partial / "data").mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        digests = {}
        for split, file in zip(SPLITS, PARQUET_FILES, strict=True):
            make_table(splits[split], arguments.categories).to_parquet(partial / file)
            digests[file] = hashlib.sha256((partial / file).read_bytes()).hexdigest()
        manifest = make_manifest(splits, arguments, counts, facts, digests)
        write(partial / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
        write(partial / CARD, dataset_card(splits, arguments, counts, facts, digests))
    except OSError as error:
        fail(
            f"cannot write into {folder}: {error.strerror or error}; an existing dataset there is "
            "unchanged; free some space and run the same command again"
        )
    # 2. They take the places of this script's earlier files. Between two of them, the folder has no
    # manifest, which marks a whole dataset.
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        for file in FILES:
            os.replace(partial / file, folder / file)
    except OSError as error:
        fail(
            f"cannot write into {folder}: {error.strerror or error}; the dataset there is not "
            "whole; run the same command again"
        )
    return digests


def make_table(records: list[dict], categories: list[str]) -> datasets.Dataset:
    """Return the records of a split with the columns of the dataset folder."""
    text = datasets.Value("string")
    columns = {
        "id": text,
        "title": text,
        "abstract": text,
        "label": datasets.ClassLabel(names=categories),
        "categories": datasets.List(text),
        "published": datasets.Value("timestamp[ms, tz=UTC]"),
    }
    values = {column: [record[column] for record in records] for column in columns}
    return datasets.Dataset.from_dict(values, features=datasets.Features(columns))


def make_manifest(
    splits: dict[str, list[dict]],
    arguments: FetchArguments,
    counts: Counter,
    facts: dict,
    digests: dict[str, str],
) -> dict:
    """Return everything that is needed to rebuild the dataset; no path, no address of a person."""
    recorded = asdict(arguments)
    del recorded["contact"]
    recorded["output_dir"] = Path(os.path.abspath(arguments.output_dir)).name
    for name in ("snapshot_file", "ids_from"):
        if recorded[name] is not None:
            recorded[name] = Path(recorded[name]).name
    ids = {}
    labels = {}
    sizes = {}
    for split in SPLITS:
        ids[split] = [record["id"] for record in splits[split]]
        labels[split] = [record["label"] for record in splits[split]]
        sizes[split] = {
            name: labels[split].count(label) for label, name in enumerate(arguments.categories)
        }
    if arguments.split_by == "date":
        facts = facts | {"days": {split: day_range(splits[split]) for split in SPLITS}}
    packages = ("arxiv", "datasets", "pyarrow", "requests", "scikit-learn")
    return {
        "script": "fetch_arxiv.py",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "arguments": recorded,
        "counts": sizes,
        "dropped": dict(sorted(counts.items())),
        **facts,  # of the source: harvest, dataset_commit, gone; of the split: days
        "sha256": digests,
        "versions": {package: version(package) for package in packages},
        "ids": ids,
        "labels": labels,
    }


def describe_counts(counts: Counter) -> str:
    """Return the reasons for dropping records with their numbers, as "withdrawn 3, ..."."""
    return ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.items())) or "none"


def counts_table(splits: dict[str, list[dict]], arguments: FetchArguments) -> str:
    """Return records per class and split as a Markdown table.

    The study's counts stand beside them where they are comparable.
    """
    is_study = not changed_flags(arguments).keys() & set(STUDY_FLAGS)
    sizes = {}  # of each class, and of all: one number per split
    for label, name in enumerate(arguments.categories):
        sizes[name] = [
            sum(record["label"] == label for record in splits[split]) for split in SPLITS
        ]
    sizes["all"] = [len(splits[split]) for split in SPLITS]
    number_of_records = sum(sizes["all"])
    study = STUDY_COUNTS | {"all": sum(STUDY_COUNTS.values())}

    header = ["label", *SPLITS, "all", "share"]
    if is_study:
        header += ["study", "share"]
    rows = [header, ["-" * 10] + ["-" * 9 + ":"] * (len(header) - 1)]
    for name, numbers in sizes.items():
        row = [name, *(f"{number:,}" for number in numbers), f"{sum(numbers):,}"]
        row.append(f"{sum(numbers) / number_of_records:.1%}")
        if is_study:
            row += [f"{study[name]:,}", f"{study[name] / study['all']:.1%}"]
        rows.append(row)
    lines = []
    for name, *cells in rows:
        lines.append(f"| {name:10} | {' | '.join(f'{cell:>10}' for cell in cells)} |")
    return "\n".join(lines)


def describe_split(splits: dict[str, list[dict]], arguments: FetchArguments) -> str:
    """Return a sentence that says how the records were split."""
    ratios = ":".join(f"{ratio:g}" for ratio in arguments.split_ratios)
    if arguments.split_by == "random":
        return f"Stratified split {ratios}, seed {arguments.seed}."
    days = []
    for split in SPLITS:
        first, last = day_range(splits[split])
        days.append(f"{split} {first} to {last}")
    return (
        f"Split {ratios} by the day of version 1: {', '.join(days)}. The newest papers are the "
        f"test split, so the shares of the classes differ. Seed {arguments.seed}."
    )


def describe_days(facts: dict) -> str:
    """Return when the windows of a harvest were fetched, as the end of a sentence."""
    if "harvest" not in facts:
        return ""
    first, last = (facts["harvest"][f"{name}_fetched"][:10] for name in ("first", "last"))
    return f" on {first}" if first == last else f" from {first} to {last}"


def dataset_card(
    splits: dict[str, list[dict]],
    arguments: FetchArguments,
    counts: Counter,
    facts: dict,
    digests: dict[str, str],
) -> str:
    """Return README.md: source, counts, what was dropped, limitations, how to rebuild it."""
    records = [record for split in SPLITS for record in splits[split]]
    foreign = sum(not ARXIV_ID.fullmatch(record["id"]) for record in records)
    source_flags = ""  # the search API has all papers
    if foreign:
        source_flags = "--source snapshot --snapshot_file FILE "
        if arguments.source == "hub":
            source_flags = f"--source hub --hub_dataset {arguments.hub_dataset} "
        license_name = "other"
        origin = (
            f"**{foreign:,} of the {len(records):,} records carry ids that are not arXiv's**: "
            "see its license."
        )
    else:
        license_name = "cc0-1.0"
        origin = "arXiv offers this metadata under CC0 1.0; the papers have licenses of their own."
    source = {
        "api": f"arXiv's search API{describe_days(facts)}",
        "snapshot": f"the metadata snapshot {Path(arguments.snapshot_file or '').name}",
        "hub": f"{arguments.hub_dataset} on the Hugging Face Hub",
    }[arguments.source]
    size = SIZES[max(0, len(str(len(records))) - 3)]
    data_files = json.dumps([{"split": split, "path": f"data/{split}-*"} for split in SPLITS])
    # datasets' cache knows a local folder by its name and its configuration. The digest tells
    # folders of one name apart.
    digest = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
    return f"""---
license: {license_name}
language: en
pretty_name: arXiv abstracts in {len(arguments.categories)} categories
task_categories: [text-classification]
size_categories: [{size}]
tags: [arxiv, abstracts]
configs:
- config_name: default
  description: sha256 {digest}
  data_files: {data_files}
---

# arXiv abstracts: {", ".join(arguments.categories)}

Title and abstract of the papers whose *primary* category is one of {len(arguments.categories)} and
whose first version is dated {arguments.start_date} to {arguments.end_date}, for single-label text
classification. Read from {source}. {origin}

{counts_table(splits, arguments)}

{describe_split(splits, arguments)}
Records dropped: {describe_counts(counts)}. An abstract is taken for a withdrawal notice if its
first {WITHDRAWN_WITHIN} characters say that the paper itself is withdrawn, removed or retracted. Of
records with the same abstract only the earliest is kept.

## Columns and limitations

- id: arXiv id without version. title, abstract: as the authors wrote them, LaTeX included, white
  space collapsed.
- label: the primary category, chosen by authors and moderators. Many papers belong to several
  fields.
- categories: primary first, then alphabetical. They contain the label, so they must not be an input
  of a classifier.
- published: time of version 1 (UTC), 00:00 if the source has only the day. The abstract is that of
  the latest version.

`python fetch_arxiv.py --ids_from manifest.json {source_flags}--output_dir DIR` fetches the same
papers again into the same splits.
"""


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
    except HUB_ERRORS as error:
        fail(
            f"cannot push to {name}: {one_line(error)}; the dataset is kept in {folder}, "
            f"upload it with: {command}"
        )
    logger.info("pushed: %s", commit.commit_url)


# Copies of functions that the tools share


# Copied from tools/common/cli.py::fail
def fail(message: str) -> NoReturn:
    """Print a one-line error and exit with status 2, for a mistake that the user can fix.

    With the environment variable TRACEBACK=1, the traceback of the caught error comes first.
    """
    if os.environ.get("TRACEBACK") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if os.environ.get("RANK", "0") != "0":
        # Every process finds the same mistake. The launcher stops this one as soon as the first
        # process has exited, so the message appears once.
        time.sleep(10)
    # A file name may contain a line break. A progress bar must not share the line.
    tqdm.write("error: " + " ".join(message.splitlines()), file=sys.stderr)
    raise SystemExit(2)


# Copied from tools/common/cli.py::one_line
def one_line(error: BaseException) -> str:
    """Return the message of an error as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:  # transformers and datasets advise to run the code
        return "it asks to run code that comes with it, which is never done; choose another"
    if text.startswith("Repo id must"):  # the Hub's client was asked for a path
        return "there is no such folder, and it is not a name on the Hub either"
    return text[:300] or type(error).__name__


# Copied from tools/common/cli.py::read_config
def read_config(file: str) -> list[str]:
    """Return the flags that a YAML or JSON file of ``flag: value`` lines stands for.

    Values are passed on as they are written: YAML would take the words no and on for false and
    true. Exits with status 2 if the file cannot be read or is not such a mapping.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
        content = yaml.safe_load(text)  # JSON is YAML
        written = yaml.load(text, Loader=yaml.BaseLoader)  # all values are text
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"cannot read arguments from {file}: {one_line(error)}")
    if not isinstance(content, dict):
        fail(f"cannot read arguments from {file}: it must have a 'flag: value' on each line")
    words = []
    for flag, value in content.items():
        if value is None:
            continue
        words.append(f"--{flag}")
        if isinstance(value, dict):  # as TrainingArguments reads it
            words.append(json.dumps(value))
        else:
            value = written.get(str(flag), value)
            words.extend(map(str, value if isinstance(value, list) else [value]))
    return words


# Copied from tools/common/cli.py::show_defaults
def show_defaults(parser: HfArgumentParser) -> None:
    """Say in the help of each flag what its value is if it is not given."""
    for action in parser._actions:
        if action.option_strings[0].startswith("--no_"):  # made by the parser, with the same help
            action.help = f"The same as --{action.dest} false."
            continue
        text = action.help or ""
        default = action.default
        says_nothing = default is None or default is False or default in ("", [], argparse.SUPPRESS)
        if says_nothing or "efault" in text:
            continue
        values = default if isinstance(default, list | tuple) else [default]
        default = " ".join(str(getattr(value, "value", value)) for value in values)
        if not default.strip():  # a space is seen in quotes
            default = repr(default)
        action.help = f"{text} Default: {default.replace('%', '%%')}."


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
    show_defaults(parser)
    parser.error = fail

    words = sys.argv[1:]
    is_flag = bool(words) and words[0].startswith("-")  # such as --train_file=train.json
    if words and not is_flag and words[0].endswith((".json", ".yaml", ".yml")):
        words.insert(0, "--config")
    for index, word in enumerate(words):
        if word.startswith("--config="):
            words[index : index + 1] = word.split("=", 1)
    if words.count("--config") > 1:
        fail("--config is given more than once; give one file")
    if "--config" in words:
        index = words.index("--config")
        if index + 1 == len(words):
            fail("--config requires a file of arguments")
        words = read_config(words[index + 1]) + words[:index] + words[index + 2 :]

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


# Copied from tools/common/folders.py::write_temporary
def write_temporary(path: Path, content: str | bytes) -> Path:
    """Write a file under its temporary name and return that; a failed write leaves no file."""
    temporary = path.with_name(path.name + ".tmp")
    if temporary.is_symlink():  # writing would change the file that the link leads to
        temporary.unlink()
    try:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    except OSError:
        temporary.unlink(missing_ok=True)  # half a file takes space on a full disk
        raise
    return temporary


# Copied from tools/common/folders.py::write
def write(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it: readers see the old or the new file."""
    os.replace(write_temporary(path, content), path)


# Copied from tools/common/folders.py::is_record
def is_record(path: Path, script: str) -> bool:
    """Return whether a file is a JSON object that names the script that wrote its folder."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("script") == script


# Copied from tools/common/folders.py::open_output_dir
def open_output_dir(
    folder: Path, script: str, records: Collection[str], own_files: str | None = None
) -> None:
    """Make an output folder, or check that an existing one is this script's; change nothing in it.

    records are paths of files inside the folder. Unless the folder is empty, one of them at least
    must be a JSON object with ``"script": script``. own_files is a regular expression for the paths
    of the script's files inside the folder, such as ``data/train.parquet``; with it, a folder with
    any other file is refused. Temporary files (``*.tmp``) of these are the script's own, too.

    Exits with status 2 if the folder cannot be written or is not the script's.
    """
    # A record that was being written first when the script was stopped is nothing yet.
    unfinished = "|".join(re.escape(name) + r"\.tmp" for name in records)
    try:
        if folder.exists() and not folder.is_dir():
            fail(f"--output_dir {folder} is a file; choose a folder")
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = find_foreign_file(folder, unfinished) is None
        foreign = find_foreign_file(folder, own_files) if own_files is not None else None
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}")
    if foreign is not None:
        fail(
            f"--output_dir {folder} holds {foreign!r}, which {script} did not write; "
            "choose another folder"
        )
    if not is_empty and not any(is_record(folder / name, script) for name in records):
        fail(
            f"--output_dir {folder} is not empty and holds no {' or '.join(records)} of {script}; "
            "choose another folder"
        )
    if not os.access(folder, os.W_OK):
        fail(f"cannot write into --output_dir {folder}: it is read-only")


# Copied from tools/common/folders.py::find_foreign_file
def find_foreign_file(folder: Path, own_files: str) -> str | None:
    """Return the path inside the folder of a file that does not match own_files, or None.

    Folders do not count. A symbolic link counts as a file and is not followed.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        if not re.fullmatch(rf"({own_files})(\.tmp)?", name):
            return name
    return None


# Copied from tools/common/folders.py::check_dataset_path
def check_dataset_path(folder: Path) -> None:
    """Exit with status 2 if datasets would take the path of a dataset folder for a pattern."""
    if re.search(r"[*?\[\]]", os.path.realpath(folder)):
        fail(
            f"the path of --output_dir {folder} contains one of the characters * ? [ ], so that no "
            "script could read the dataset; choose another folder"
        )


# Copied from tools/common/folders.py::check_names
def check_names(arguments: object) -> None:
    """Exit with status 2 if a text on the command line is not UTF-8: no file could record it."""
    for flag, value in vars(arguments).items():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                continue
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                fail(f"--{flag} {text!a} is not UTF-8; rename it")


# Copied from tools/common/arxiv_access.py::category_names
def category_names() -> list[str]:
    """Return the names of arXiv's categories. Older papers carry some archives as categories."""
    names = []
    for archive, endings in TAXONOMY.items():
        names.extend(f"{archive}.{ending}" for ending in endings.split())
        if "-" in archive:
            names.append(archive)
    return names


# Copied from tools/common/arxiv_access.py::check_dates
def check_dates(arguments: object) -> None:
    """Write start_date and end_date as YYYY-MM-DD. Exit with status 2 if that is impossible."""
    days = {}
    for flag in ("start_date", "end_date"):
        value = getattr(arguments, flag)
        try:
            days[flag] = date.fromisoformat(value)
        except ValueError as error:
            fail(f"--{flag} {value}: {error}; write YYYY-MM-DD")
        setattr(arguments, flag, days[flag].isoformat())  # 20140101 is a date, too
    if days["end_date"] < days["start_date"]:
        fail(
            f"--start_date {arguments.start_date} --end_date {arguments.end_date}: "
            "give the earlier day first"
        )
    today = datetime.now(UTC).date()  # where the day begins earlier, it is tomorrow already
    for flag, day in days.items():
        if not FIRST_DAY <= day <= today:
            fail(f"--{flag} {day}: give a day from {FIRST_DAY} to {today}, today in UTC")


# Copied from tools/common/arxiv_access.py::check_requests
def check_requests(
    url_flag: str, url: str, delay_seconds: float, timeout_seconds: float, num_retries: int
) -> None:
    """Exit with status 2 on an impossible way to ask, or one that violates arXiv's terms of use."""
    if num_retries < 0:
        fail(f"--num_retries {num_retries}: it must not be negative")
    if not 0 <= delay_seconds < 1e6:
        fail(f"--delay_seconds {delay_seconds:g}: give a number of seconds, at least 0")
    if not 0 < timeout_seconds < 1e6:
        fail(f"--timeout_seconds {timeout_seconds:g}: give a number of seconds above 0")
    address = re.fullmatch(r"https?://([\w.-]+)(:\d{1,5})?(/[^\s{}?#]*)?", url)
    if address is None:
        fail(f"{url_flag} {url} is not an http address")
    is_arxiv = re.search(r"(^|\.)arxiv\.org$", address[1].lower()) is not None
    if is_arxiv and delay_seconds < TERMS_DELAY:
        fail(
            f"--delay_seconds {delay_seconds:g}: arXiv's terms of use ask for {TERMS_DELAY:g} "
            "seconds between two requests"
        )


# Copied from tools/common/arxiv_access.py::check_contact
def check_contact(contact: str | None) -> None:
    """Exit with status 2 if --contact is not the address of a person or of a page."""
    if contact is None:
        return
    if len(contact) > LONGEST_CONTACT or CONTACT.fullmatch(contact) is None:
        fail(
            f"--contact {contact!r:.100} is neither an e-mail address nor that of a web page; "
            "write it like you@example.org"
        )


# Copied from tools/common/arxiv_access.py::user_agent
def user_agent(script: str, contact: str | None) -> str:
    """Return the User-Agent of a script's requests, with the address of who sends them."""
    purpose = f"{script}; requests"
    if contact is not None:
        is_mail = "@" in contact and not contact.startswith("mailto:")
        purpose += f"; mailto:{contact}" if is_mail else f"; {contact}"
    return f"arxiv-confusable-classification ({purpose})"


# Copied from tools/common/arxiv_access.py::Pace
class Pace:
    """The pauses between requests: at least ``delay`` seconds from the end of one to the next."""

    def __init__(self, delay: float):
        self.delay = delay
        self.earliest = 0.0  # when the next request may be sent
        self.started = 0.0  # when the last request was sent
        self.requests = 0
        self.waited_seconds = 0.0

    def wait(self) -> None:
        """Sleep until the next request may be sent, and count that request."""
        pause = max(self.earliest - time.monotonic(), 0.0)
        time.sleep(pause)
        self.waited_seconds += pause
        self.requests += 1
        self.started = time.monotonic()

    def rest(self, seconds: float = 0.0) -> None:
        """A request has ended: let the next one wait for the delay, or longer."""
        self.earliest = max(self.earliest, time.monotonic() + max(self.delay, seconds))


# Copied from tools/common/arxiv_access.py::PacedRetry
class PacedRetry(Retry):
    """urllib3's retries of a request, each counted and paced like any other request."""

    def __init__(self, *arguments, pace: Pace, **options):
        super().__init__(*arguments, **options)
        self.pace = pace

    def new(self, **options) -> Retry:  # urllib3 makes a new object for every retry
        return super().new(pace=self.pace, **options)

    def sleep(self, response=None) -> None:
        """Wait for the growing pause, or for the Retry-After of the answer if that is longer."""
        pause = self.get_backoff_time()
        if response is not None:
            # A header that is neither a number nor a date asks for nothing.
            with contextlib.suppress(InvalidHeader):
                pause = max(pause, self.get_retry_after(response) or 0.0)
        self.pace.rest(pause)
        self.pace.wait()


# Copied from tools/common/arxiv_access.py::deadline
@contextlib.contextmanager
def deadline(seconds: float, shutdown: Callable[[], None]) -> Iterator[threading.Event]:
    """Shut a connection down after some seconds; the event says whether that has happened.

    The timeout of a socket bounds a silence, not a server that sends a byte now and then.
    """
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        # There is nothing to shut down if the last byte has come meanwhile.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            shutdown()

    timer = threading.Timer(max(seconds, 0.0), end)
    timer.start()
    try:
        yield is_late
    finally:
        timer.cancel()


# Copied from tools/common/arxiv_access.py::PunctualConnection
class PunctualConnection:
    """A connection whose headers must come whole within its timeout: urllib3 may retry then."""

    def getresponse(self):
        shutdown = functools.partial(self.sock.shutdown, socket.SHUT_RD)
        with deadline(self.timeout, shutdown) as is_late:
            response = super().getresponse()
        # Headers that were cut off look like whole ones.
        if is_late.is_set():
            raise TimeoutError("no complete headers within --timeout_seconds")
        return response


# Copied from tools/common/arxiv_access.py::PunctualHTTPConnection
class PunctualHTTPConnection(PunctualConnection, HTTPConnection):
    pass


# Copied from tools/common/arxiv_access.py::PunctualHTTPSConnection
class PunctualHTTPSConnection(PunctualConnection, HTTPSConnection):
    pass


# Copied from tools/common/arxiv_access.py::PunctualHTTPPool
class PunctualHTTPPool(HTTPConnectionPool):
    ConnectionCls = PunctualHTTPConnection


# Copied from tools/common/arxiv_access.py::PunctualHTTPSPool
class PunctualHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = PunctualHTTPSConnection


# Copied from tools/common/arxiv_access.py::PoliteAdapter
class PoliteAdapter(HTTPAdapter):
    """Requests over one connection: paced, repeated by urllib3, and ended when they take too long.

    Answers with status 429 or 5xx and broken connections are repeated. A server that has never
    answered counts as unreachable: connecting to it is not tried again. An answer must be whole
    within ``timeout`` seconds.
    """

    def __init__(self, user_agent: str, pace: Pace, timeout: float, num_retries: int):
        self.user_agent = user_agent
        self.pace = pace
        self.timeout = timeout
        self.num_retries = num_retries
        self.is_connected = False  # whether the server has ever answered
        retries = PacedRetry(
            num_retries,
            connect=0,
            other=0,  # such as a certificate that is not valid
            status_forcelist=BUSY,
            backoff_factor=pace.delay,
            backoff_max=LONGEST_PAUSE,
            retry_after_max=LONGEST_RETRY_AFTER,
            pace=pace,
        )
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=retries)

    def init_poolmanager(self, *arguments, **options) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {
            "http": PunctualHTTPPool,
            "https": PunctualHTTPSPool,
        }

    def add_headers(self, request: requests.PreparedRequest, **options) -> None:
        request.headers["User-Agent"] = self.user_agent

    def send(self, request, stream=False, timeout=None, verify=True, cert=None, proxies=None):
        """Send a request when its time has come; return the answer with its whole body.

        Raises RequestException, whose first argument is a MaxRetryError if urllib3 has given up.
        """
        self.pace.wait()
        try:
            response = super().send(request, True, self.timeout, verify, cert, proxies)
            if not self.is_connected:
                self.is_connected = True
                self.max_retries = self.max_retries.new(connect=self.num_retries)
            self.read_body(response)
        finally:
            self.pace.rest()
        return response

    def read_body(self, response: requests.Response) -> None:
        """Read the body. Raises ReadTimeout if the time of the request ends before it does."""
        remaining = self.pace.started + self.timeout - time.monotonic()
        with deadline(remaining, response.raw.shutdown) as is_late:
            try:
                response.content  # noqa: B018 (reads the body and keeps it)
            except requests.RequestException:
                if not is_late.is_set():
                    raise
        # A body of unknown length that was cut off looks like a whole one.
        if is_late.is_set():
            raise requests.ReadTimeout("no complete answer within --timeout_seconds")


# Copied from tools/common/arxiv_access.py::is_final
def is_final(error: Exception) -> bool:
    """Return whether asking again is of no use: a refusal, or urllib3 has asked again in vain."""
    if isinstance(error, requests.HTTPError):
        return True
    return bool(error.args) and isinstance(error.args[0], MaxRetryError)


# Copied from tools/common/arxiv_access.py::failure_reason
def failure_reason(error: BaseException) -> str:
    """Return in one line why a request failed, without the address of the request."""
    if error.args and isinstance(error.args[0], MaxRetryError):
        return one_line(error.args[0].reason)
    return one_line(error)


# Copied from tools/common/arxiv_access.py::give_up
def give_up(message: str) -> NoReturn:
    """Print in one line why a harvest is incomplete and exit with status 1."""
    print(f"incomplete: {message}; run the same command again to continue", file=sys.stderr)
    raise SystemExit(1)


def main() -> None:
    # 1. Arguments
    logging.basicConfig(
        format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    # The arxiv package logs every page.
    logging.getLogger("arxiv").setLevel(logging.WARNING)
    (arguments,) = parse_arguments(__doc__, FetchArguments)
    check_names(arguments)
    manifest = None
    ids = set()  # of the papers to fetch, if a manifest says which
    if arguments.ids_from:
        manifest = read_manifest(arguments)
        ids = manifest_ids(manifest)
    check_arguments(arguments)
    check_ids(arguments, ids)
    folder = Path(arguments.output_dir)

    with open_work_folder(folder) as work:
        # 2. Records from the source
        counts = Counter()  # of what is dropped, by reason
        facts = {}  # for the manifest
        bad = BadEntries()
        if arguments.source == "hub":
            entries = read_hub(arguments, facts)
        elif arguments.source == "snapshot":
            entries = read_snapshot(Path(arguments.snapshot_file), arguments, ids, counts, bad)
        else:
            harvest = Harvest(arguments, work, sorted(ids))
            paths = harvest.run()
            facts["harvest"] = harvest.describe(paths)
            entries = itertools.chain.from_iterable(
                read_snapshot(path, arguments, ids, counts, bad) for path in paths
            )
        records = parse_entries(entries, arguments, counts, bad)

        # 3. Selection and split
        if manifest is None:
            splits = split_records(select(records, arguments, counts), arguments)
        else:
            splits, facts["gone"] = rebuild_splits(records, manifest, counts)
        counts = +counts  # without the reasons that did not occur

        # 4. The dataset folder
        digests = write_dataset(folder, splits, arguments, counts, facts)
        if arguments.source == "api":
            harvest.remove_growing_windows()

    # 5. Summary and upload
    print(f"dropped: {describe_counts(counts)}")
    print(counts_table(splits, arguments))
    if manifest is not None:
        gone = facts["gone"]
        shown = [*gone[:10], "..."] if len(gone) > 10 else gone
        print(" ".join([f"gone: {len(gone):,} papers", *shown]))
        is_same = digests == manifest.get("sha256")
        print(f"parquet files: {'' if is_same else 'others than '}those of the manifest")
    if arguments.push_to_hub:
        push(folder, arguments)
    logger.info(
        "next: python run_baseline.py --dataset_name %s --output_dir runs/svm",
        shlex.quote(str(folder)),
    )


if __name__ == "__main__":
    main()
