#!/usr/bin/env python
"""arXiv abstracts, labelled with their primary category, as a dataset folder that datasets.load_dataset opens.

    python fetch_arxiv.py --source snapshot --snapshot_file sample_data/abstracts.jsonl --output_dir data/sample
    python fetch_arxiv.py --source snapshot --snapshot_file arxiv-metadata-oai-snapshot.json --output_dir data/arxiv
    python fetch_arxiv.py --source api --output_dir data/arxiv                      from arXiv's search API, resumable
    python fetch_arxiv.py --ids_from manifest.json --output_dir data/arxiv          the papers and splits of a manifest
    python fetch_arxiv.py ... --push_to_hub --hub_dataset_id NAME                   and publish the folder

The defaults are the study's: five fields of mathematics, 2014 to 2023, split 8 : 1 : 1. snapshot reads the metadata
file that Cornell publishes on Kaggle (plain or .gz, no network); api and oai run harvest_arxiv.py, which keeps what it
fetched in the folder .fetch of --output_dir, and read its file in the same way.

Writes into --output_dir: data/{train,validation,test}-00000-of-00001.parquet (id, title, abstract, label, categories,
published), README.md (the dataset card) and manifest.json (arguments, counts, arXiv ids of every split). The same
records, arguments and seed give the same parquet files byte for byte, in whatever order the records arrive.
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
import runpy
import shlex
import shutil
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, date, datetime
from importlib.metadata import version
from itertools import count
from operator import itemgetter
from pathlib import Path
from typing import NoReturn

import datasets
import filelock
import huggingface_hub
import orjson
import yaml
from sklearn.model_selection import train_test_split
from tqdm import tqdm
from transformers import HfArgumentParser

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
FILES = ("manifest.json", "README.md", *(f"data/{split}-00000-of-00001.parquet" for split in SPLITS))
STUDY_COUNTS = {"math.AG": 19250, "math.CV": 6179, "math.DG": 15678, "math.MG": 3808, "math.SG": 2435}
STUDY_DATES = ("2014-01-01", "2023-12-31")
FIRST_DAY = date(1991, 8, 14)  # arXiv's first day
# An abstract is a notice of withdrawal if its opening says so; later on the word belongs to a sentence of its own.
WITHDRAWN = re.compile(
    r"\bwithdr(?:aw|awn|ew|awing)\b"
    r"|\b(?:paper|article|manuscript|note|preprint|submission) (?:has|is|was)(?: \w+){0,2} (?:removed|retracted)\b",
    re.IGNORECASE,
)
WITHDRAWN_WITHIN = 160  # characters
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
ARXIV_ID = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7}")
# archive: its subject classes (arxiv.org/category_taxonomy)
TAXONOMY = {
    "astro-ph": "CO EP GA HE IM SR",
    "cond-mat": "dis-nn mes-hall mtrl-sci other quant-gas soft stat-mech str-el supr-con",
    "cs": "AI AR CC CE CG CL CR CV CY DB DC DL DM DS ET FL GL GR GT HC IR IT LG LO MA MM MS NA NE NI OH OS PF PL RO "
    "SC SD SE SI SY",
    "econ": "EM GN TH",
    "eess": "AS IV SP SY",
    "math": "AC AG AP AT CA CO CT CV DG DS FA GM GN GR GT HO IT KT LO MG MP NA NT OA OC PR QA RA RT SG SP ST",
    "nlin": "AO CD CG PS SI",
    "physics": "acc-ph ao-ph app-ph atm-clus atom-ph bio-ph chem-ph class-ph comp-ph data-an ed-ph flu-dyn gen-ph "
    "geo-ph hist-ph ins-det med-ph optics plasm-ph pop-ph soc-ph space-ph",
    "q-bio": "BM CB GN MN NC OT PE QM SC TO",
    "q-fin": "CP EC GN MF PM PR RM ST TR",
    "stat": "AP CO ME ML OT TH",
} | dict.fromkeys("gr-qc hep-ex hep-lat hep-ph hep-th math-ph nucl-ex nucl-th quant-ph".split(), "")
CATEGORIES = [f"{a}.{c}" for a, names in TAXONOMY.items() for c in names.split()] + [a for a in TAXONOMY if "-" in a]


HARVEST_FLAGS = "page_size max_window delay_seconds timeout_seconds num_retries api_url oai_url".split()
PRIVATE_FLAGS = "output_dir disable_tqdm push_to_hub hub_dataset_id".split()  # not the data's


@dataclass
class FetchArguments:
    """What to fetch, from where, and how to split it."""

    output_dir: str = field(metadata={"help": "Dataset folder to write."})
    source: str = field(
        default="api",
        metadata={"help": "arXiv's search API, OAI-PMH or a metadata file.", "choices": ["api", "oai", "snapshot"]},
    )
    snapshot_file: str | None = field(
        default=None, metadata={"help": "Metadata snapshot: one JSON object a line, plain or gzip."}
    )
    skip_bad_lines: bool = field(default=False, metadata={"help": "Count broken snapshot lines instead of stopping."})
    categories: list[str] = field(
        default_factory=lambda: list(STUDY_COUNTS),
        metadata={"help": "Primary categories to keep; their order is that of the labels."},
    )
    start_date: str = field(default=STUDY_DATES[0], metadata={"help": "First day of version 1 to keep, UTC."})
    end_date: str = field(default=STUDY_DATES[1], metadata={"help": "Last day of version 1 to keep, UTC."})
    split_ratios: list[float] = field(
        default_factory=lambda: [0.8, 0.1, 0.1], metadata={"help": "Shares of training, validation and test."}
    )
    max_records_per_category: int | None = field(
        default=None, metadata={"help": "Keep a random sample of this size of every larger category."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of the sample and of the split."})
    ids_from: str | None = field(
        default=None,
        metadata={"help": "Rebuild the dataset of this manifest.json: its papers, labels, splits and their order."},
    )
    page_size: int = field(default=2000, metadata={"help": "api: entries a request, at most 2000."})
    max_window: int = field(default=30000, metadata={"help": "api: entries a query, at most 30000."})
    delay_seconds: float = field(default=3.0, metadata={"help": "Least time between two requests."})
    timeout_seconds: float = field(default=120.0, metadata={"help": "Give a silent connection up after this time."})
    num_retries: int = field(default=10, metadata={"help": "Times that a failed request or window is asked again."})
    api_url: str = field(default="https://export.arxiv.org/api/query", metadata={"help": "Address of the search API."})
    oai_url: str = field(default="https://oaipmh.arxiv.org/oai", metadata={"help": "Address of the OAI-PMH service."})
    push_to_hub: bool = field(default=False, metadata={"help": "Publish the folder on the Hugging Face Hub."})
    hub_dataset_id: str | None = field(default=None, metadata={"help": "Dataset id there, as user/name."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress."})


def fail(message: str) -> NoReturn:
    """End the program as every user's mistake ends it: one line on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


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


def check_arguments(arguments: FetchArguments) -> None:
    """End with exit code 2 on values that cannot be meant, before anything is read or written."""
    for name in arguments.categories:
        if name not in CATEGORIES:
            nearest = difflib.get_close_matches(name, CATEGORIES, n=1, cutoff=0.0)[0]
            fail(f"arXiv has no category {name!r}; did you mean {nearest}? (https://arxiv.org/category_taxonomy)")
    names, ratios, limit = arguments.categories, arguments.split_ratios, arguments.max_records_per_category
    if len(set(names)) != len(names) or len(names) < 2:
        fail(f"--categories {' '.join(names)}: give at least two, each once")
    try:
        first, last = date.fromisoformat(arguments.start_date), date.fromisoformat(arguments.end_date)
    except ValueError as error:
        fail(f"--start_date {arguments.start_date!r} --end_date {arguments.end_date}: write YYYY-MM-DD ({error})")
    if last < first:
        fail(f"--end_date {last} comes before --start_date {first}")
    if first < FIRST_DAY or last > datetime.now(UTC).date():
        fail(f"dates {first} to {last}: arXiv has papers from {FIRST_DAY} to today")
    if len(ratios) != 3 or min(ratios) <= 0 or abs(sum(ratios) - 1) > 1e-6:
        fail(f"--split_ratios {' '.join(map(str, ratios))}: give three positive shares that add to 1, as 0.8 0.1 0.1")
    if limit is not None and limit < 10:
        fail(f"--max_records_per_category {limit}: give at least 10")
    if (arguments.source == "snapshot") != bool(arguments.snapshot_file):
        fail("--source snapshot and --snapshot_file FILE go together: one needs the other")
    if arguments.push_to_hub and not arguments.hub_dataset_id:
        fail("--push_to_hub needs --hub_dataset_id USER/NAME")


@contextlib.contextmanager
def owned_folder(folder: Path) -> Iterator[Path]:
    """Lock the dataset folder for this process and give its hidden work folder; refuse one that holds other things.

    What did not exist before and stayed empty is removed again, so a run that failed leaves nothing behind.
    """
    work = folder / ".fetch"
    try:
        names = {path.relative_to(folder).as_posix() for path in (*folder.glob("*"), *folder.glob("data/*"))}
        manifest = folder / "manifest.json"
        written_here = manifest.is_file() and '"script": "fetch_arxiv.py"' in manifest.read_text(errors="replace")
        foreign = names - {"data", ".fetch", *(FILES if written_here else [])}
        if foreign or (folder.exists() and not folder.is_dir()):
            fail(f"{folder} holds {min(foreign, default='no folder')}, not written here; give another --output_dir")
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
        for path in (work, folder):
            with contextlib.suppress(OSError):  # not empty: it stays
                path.rmdir()


def parse_record(line: bytes) -> dict:
    """Return a snapshot line's record: the other categories sorted, the date in ISO form, the texts as they stand."""
    entry = orjson.loads(line)
    first, *others = entry["categories"].split()
    _, day, month, year, clock, zone = entry["versions"][0]["created"].split()
    moment = f"{year}-{MONTHS.index(month) + 1:02d}-{day:0>2}T{clock}{zone.replace('GMT', '+00:00')}"
    return {
        "id": entry["id"],
        "title": entry["title"].strip(),
        "abstract": (entry["abstract"] or "").strip(),
        "categories": [first, *sorted(set(others) - {first})],
        "published": datetime.fromisoformat(moment).astimezone(UTC).isoformat(),
    }


def collapse(record: dict) -> dict:
    """Collapse the white space of the texts, in place; only worth its time for records that are wanted."""
    record["title"], record["abstract"] = " ".join(record["title"].split()), " ".join(record["abstract"].split())
    return record


def read_snapshot(path: Path, arguments: FetchArguments, ids: set[str], counts: Counter) -> Iterator[dict]:
    """Yield the records that may be wanted, or all if ids are wanted; count the others and broken lines.

    A whole line whose primary category is seen to be another is passed over unparsed. That is safe: within JSON text a
    quotation mark is escaped, so the marker only matches the key, which stands once in a record; and no JSON writer
    escapes the letters of a category. A line of other spacing or without an end is parsed.
    """
    number = parsed = 0
    try:
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(path.open("rb", buffering=2**18))
            size, zipped = os.fstat(raw.fileno()).st_size, raw.peek(2)[:2] == b"\x1f\x8b"
            if path.suffix == ".gz" and not zipped:
                fail(f"{path} is not gzip data, in spite of its name")
            stream = stack.enter_context(gzip.open(raw)) if zipped else raw
            if stream.peek(4096).lstrip()[:1] != b"{":
                fail(f"{path} does not start with a JSON object; the snapshot has one object a line (unpack a .zip)")
            bar = tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=arguments.disable_tqdm)
            marker = (re.search(rb'"categories"\s*:\s*"', stream.peek(2**16)) or [b'"categories": "'])[0]
            wanted, width = tuple(b"" if ids else name.encode() for name in arguments.categories), len(marker)
            for number, line in enumerate(stream, 1):
                at = line.find(marker)
                if at >= 0 and line[-2] == 125 and not line.startswith(wanted, at + width):  # 125: the closing brace
                    continue
                parsed += 1
                try:
                    if not line.isspace():
                        yield parse_record(line)
                except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                    if not arguments.skip_bad_lines:
                        fail(f"{path} line {number} is no arXiv record ({error!r}); --skip_bad_lines passes over such")
                    counts["bad lines"] += 1
                if not parsed % 1000:
                    bar.update(raw.tell() - bar.n)
            bar.update(size - bar.n)
            bar.close()
            counts["other primary category"] += number - parsed
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        fail(f"cannot read snapshot {path}, after {number} lines: {reason}; is it whole?")


def select(records: Iterator[dict], arguments: FetchArguments, counts: Counter) -> list[dict]:
    """Return the records to keep, labelled and sorted by id; counts gets what is dropped, by reason.

    The result does not depend on the order of the records: of two with one id or one abstract a fixed one stays.
    """
    labels = {name: label for label, name in enumerate(arguments.categories)}
    by_id = {}
    for record in records:
        day = record["published"][:10]
        if record["categories"][0] not in labels:
            counts["other primary category"] += 1
        elif not arguments.start_date <= day <= arguments.end_date:
            counts["out of the dates"] += 1
        elif not collapse(record)["abstract"]:
            counts["empty abstract"] += 1
        elif WITHDRAWN.search(record["abstract"][:WITHDRAWN_WITHIN]):
            counts["withdrawn"] += 1
        else:
            record["label"] = labels[record["categories"][0]]
            if record["id"] in by_id:
                counts["duplicate id"] += 1
                record = min(record, by_id[record["id"]], key=orjson.dumps)
            by_id[record["id"]] = record
    oldest_last = sorted(by_id.values(), key=itemgetter("published", "id"), reverse=True)
    by_abstract = {record["abstract"]: record for record in oldest_last}
    counts["duplicate abstract"] = len(by_id) - len(by_abstract)
    kept = sorted(by_abstract.values(), key=itemgetter("id"))
    if limit := arguments.max_records_per_category:
        # A hash of seed and id orders each class: a larger sample contains the smaller one.
        kept.sort(key=lambda record: hashlib.sha256(f"{arguments.seed} {record['id']}".encode()).digest())
        ranks = defaultdict(count)
        sample = [record for record in kept if next(ranks[record["label"]]) < limit]
        counts["over --max_records_per_category"] = len(kept) - len(sample)
        kept = sorted(sample, key=itemgetter("id"))
    return kept


def split_records(records: list[dict], arguments: FetchArguments) -> dict[str, list[dict]]:
    """Return the three splits, stratified by label and shuffled by the seed.

    Ends with exit code 2 if a class has under 10 records, or too few to stand in every split.
    """
    least = max(10, round(1 / min(arguments.split_ratios)))
    sizes = Counter(record["label"] for record in records)
    for label, name in enumerate(arguments.categories):
        if sizes[label] < least:
            fail(f"category {name} has {sizes[label]} records, at least {least} are needed; check dates and source")
    validation, test = (round(len(records) * ratio) for ratio in arguments.split_ratios[1:])
    train, rest = split_in_two(records, validation + test, arguments.seed)
    validation, test = split_in_two(rest, test, arguments.seed)
    return dict(zip(SPLITS, (train, validation, test), strict=True))


def split_in_two(records: list[dict], size: int, seed: int) -> list[list[dict]]:
    """Return the records but a stratified random sample of this size, and the sample."""
    labels = [record["label"] for record in records]
    return train_test_split(records, test_size=size, stratify=labels, random_state=seed)


def counts_table(splits: dict[str, list[dict]], arguments: FetchArguments) -> str:
    """Return records per class and split as a Markdown table, beside the study's counts if they are comparable."""
    study = [arguments.categories, (arguments.start_date, arguments.end_date), arguments.max_records_per_category]
    study = study == [list(STUDY_COUNTS), STUDY_DATES, None]
    everything, everything_study = sum(map(len, splits.values())), sum(STUDY_COUNTS.values())
    rows = [["label", *SPLITS, "all", "share", *(["study", "share"] if study else [])]]
    for name in [*arguments.categories, "all"]:
        cells = [sum(name in ("all", arguments.categories[r["label"]]) for r in splits[split]) for split in SPLITS]
        rows.append([name, *(f"{n:,}" for n in (*cells, sum(cells))), f"{sum(cells) / everything:.1%}"])
        if study:
            number = STUDY_COUNTS.get(name, everything_study)
            rows[-1] += [f"{number:,}", f"{number / everything_study:.1%}"]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * (width - 1) + (":" if place else "-") for place, width in enumerate(widths)])
    cells = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def rebuild_splits(records: Iterator[dict], manifest: dict, counts: Counter) -> tuple[dict, list[str]]:
    """Return the splits of a published manifest, in its order and with its labels, and the ids that are gone."""
    wanted = {name for split in manifest["ids"].values() for name in split}
    by_id, splits = {}, {}
    for record in records:
        counts["other id"] += collapse(record)["id"] not in wanted
        by_id[record["id"]] = min(record, by_id.get(record["id"], record), key=orjson.dumps)
    for name in SPLITS:
        pairs = zip(manifest["ids"][name], manifest["labels"][name], strict=True)
        splits[name] = [by_id[identifier] | {"label": label} for identifier, label in pairs if identifier in by_id]
        if not splits[name]:
            fail(f"none of the papers of split {name} was found; is this the source of that manifest?")
    return splits, sorted(wanted - set(by_id))


def dataset_card(splits: dict[str, list[dict]], arguments: FetchArguments, counts: Counter, digests: dict) -> str:
    """Return README.md, for the Hub and its readers: origin, counts, what was dropped, caveats, how to rebuild."""
    everything = [record for name in SPLITS for record in splits[name]]
    foreign = sum(not ARXIV_ID.fullmatch(record["id"]) for record in everything)
    sizes = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
    source = {"api": "arXiv's search API", "oai": "arXiv's OAI-PMH service"}.get(arguments.source)
    source = source or f"the metadata snapshot {Path(arguments.snapshot_file).name}"
    origin = (
        "arXiv offers this metadata under CC0 1.0; the papers have licences\nof their own. arXiv does not endorse it."
    )
    if foreign:
        origin = (
            f"**{foreign:,} of the {len(everything):,} records carry ids that are not arXiv's**: the licence is that"
        )
        origin += "\nof the file they were read from."
    command = ["python", "fetch_arxiv.py"]
    for item in fields(arguments):
        value = getattr(arguments, item.name)
        default = item.default_factory() if callable(item.default_factory) else item.default
        if value != default and item.name not in (*PRIVATE_FLAGS, *HARVEST_FLAGS):
            value = Path(value).name if item.name in ("snapshot_file", "ids_from") else value
            command += [f"--{item.name}", *map(str, value if isinstance(value, list) else [value])]
    dropped = "\n".join(f"| {reason} | {number:,} |" for reason, number in sorted(counts.items()))
    # load_dataset's cache knows a local folder by its name and its configuration: without the digest, which the
    # description brings into that, it would give the records of an earlier dataset of the same name.
    return f"""---
license: {"other" if foreign else "cc0-1.0"}
language: en
pretty_name: arXiv abstracts in {len(arguments.categories)} categories
task_categories: [text-classification]
size_categories: [{sizes[max(0, len(str(len(everything))) - 3)]}]
tags: [arxiv, abstracts]
configs:
- config_name: default
  description: sha256 {hashlib.sha256("".join(digests.values()).encode()).hexdigest()}
  data_files: {json.dumps([{"split": name, "path": f"data/{name}-*"} for name in SPLITS])}
---

# arXiv abstracts: {", ".join(arguments.categories)}

Title and abstract of the papers whose *primary* category is one of {len(arguments.categories)} and whose first
version is dated {arguments.start_date} to {arguments.end_date}, for single-label classification.
Read from {source}. {origin}

| column | content |
| --- | --- |
| id | arXiv id without version |
| title, abstract | text as the authors wrote it, LaTeX included, white space collapsed |
| label | primary category |
| categories | all categories, the primary one first, the others in alphabetical order |
| published | time of version 1, UTC; 00:00 where the source knows only the day |

## Records

{counts_table(splits, arguments)}

Stratified split {":".join(f"{ratio:g}" for ratio in arguments.split_ratios)}, seed {arguments.seed}.

| dropped because | records |
| --- | ---: |
{dropped}

An abstract is a notice of withdrawal when its first {WITHDRAWN_WITHIN} characters hold withdraw, withdrawn, withdrew
or withdrawing, or say that the paper (article, manuscript, note, preprint, submission) is removed or retracted.
Of two records with the same abstract the earlier one stays, so that no text stands in two splits.

## Know before use

- The label is the primary category, chosen by authors and moderators; many papers belong to several fields.
- The column categories gives the label away: it is there to study cross-listing, not to predict from.
- The abstract is that of the latest version known to the source, the date that of the first version.

## Rebuild

```bash
{shlex.join(command)} --output_dir DIR
```

manifest.json holds all arguments, the counts, the SHA-256 of each parquet file and the arXiv ids of every split; with
`--ids_from manifest.json` the same papers are fetched again into the same splits.
"""


def write_dataset(
    folder: Path, work: Path, splits: dict[str, list[dict]], arguments: FetchArguments, counts: Counter, extra: dict
) -> dict[str, str]:
    """Write the dataset folder, every file whole under work first and then renamed; return the parquet files' SHA-256.

    Ends with exit code 2 if that fails, a full disk say; an earlier dataset is then as it was.
    """
    text = datasets.Value("string")
    label, moment = datasets.ClassLabel(names=arguments.categories), datasets.Value("timestamp[ms, tz=UTC]")
    columns = {"id": text, "title": text, "abstract": text, "label": label, "categories": datasets.List(text)}
    features = datasets.Features(columns | {"published": moment})
    partial = work / "partial"
    datasets.disable_progress_bars()
    recorded = asdict(arguments) | {"output_dir": folder.name}
    recorded |= {name: recorded[name] and Path(recorded[name]).name for name in ("snapshot_file", "ids_from")}
    try:
        (partial / "data").mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        for name in SPLITS:
            values = {column: [record[column] for record in splits[name]] for column in features}
            values["published"] = [datetime.fromisoformat(moment) for moment in values["published"]]
            table = datasets.Dataset.from_dict(values, features=features)
            table.to_parquet(partial / f"data/{name}-00000-of-00001.parquet")
        digests = {file: hashlib.sha256((partial / file).read_bytes()).hexdigest() for file in FILES[2:]}
        counted = {name: Counter(arguments.categories[record["label"]] for record in splits[name]) for name in SPLITS}
        manifest = {
            "script": "fetch_arxiv.py",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "arguments": recorded,
            "counts": {name: {c: counted[name][c] for c in arguments.categories} for name in SPLITS},
            "dropped": dict(sorted(counts.items())),
            **extra,
            "sha256": digests,
            "versions": {name: version(name) for name in ("arxiv", "datasets", "pyarrow", "requests", "scikit-learn")},
            "ids": {name: [record["id"] for record in splits[name]] for name in SPLITS},
            "labels": {name: [record["label"] for record in splits[name]] for name in SPLITS},
        }
        written = json.dumps(manifest, ensure_ascii=False, indent=2) + "\n"
        (partial / "manifest.json").write_text(written, encoding="utf-8")
        (partial / "README.md").write_text(dataset_card(splits, arguments, counts, digests), encoding="utf-8")
        for file in FILES:
            os.replace(partial / file, folder / file)
    except OSError as error:
        fail(f"cannot write {folder}: {error.strerror or error}; an earlier dataset there is as it was")
    return digests


def read_manifest(arguments: FetchArguments) -> dict:
    """Return the manifest that --ids_from names, and take from it the arguments that say what the dataset is."""
    try:
        manifest = json.loads(Path(arguments.ids_from).read_text(encoding="utf-8"))
        for name in ("categories", "start_date", "end_date", "split_ratios", "max_records_per_category", "seed"):
            setattr(arguments, name, manifest["arguments"][name])
        if any(len(manifest["ids"][name]) != len(manifest["labels"][name]) for name in SPLITS):
            raise ValueError("ids and labels differ in number")
        return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"cannot read {arguments.ids_from} ({error!r}); give the manifest.json of a dataset of fetch_arxiv.py")


def run_harvest(arguments: FetchArguments, folder: Path) -> dict:
    """Run harvest_arxiv.py, in this process so that both end together, and return what its harvest.json says."""
    script = Path(__file__).with_name("harvest_arxiv.py")
    if not script.is_file():
        fail(f"--source {arguments.source} needs {script}; copy it beside this script")
    command = [str(script), "--output_dir", str(folder), *(["--disable_tqdm"] if arguments.disable_tqdm else [])]
    more = ["ids_from"] if arguments.ids_from and arguments.source == "api" else []
    for name in ("source", "categories", "start_date", "end_date", *HARVEST_FLAGS, *more):
        value = getattr(arguments, name)
        command += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    previous, sys.argv = sys.argv, command
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = previous
    return json.loads((folder / "harvest.json").read_text(encoding="utf-8"))


def push(folder: Path, arguments: FetchArguments) -> None:
    """Put the folder on the Hub as it is; end with exit code 2 if that fails, the folder is kept."""
    kept = f"the dataset is kept in {folder}, the same command goes on from it"
    if not huggingface_hub.get_token():
        fail(f"no token for the Hub: run `hf auth login` or set HF_TOKEN; {kept}")
    try:
        api = huggingface_hub.HfApi()
        repo_id = api.create_repo(arguments.hub_dataset_id, repo_type="dataset", exist_ok=True).repo_id
        commit = api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=folder, allow_patterns=FILES)
    except Exception as error:  # huggingface_hub raises many kinds: refused, no such user, no network, offline mode
        fail(f"cannot push to {arguments.hub_dataset_id}: {' '.join(str(error).split())[:300]}; {kept}")
    logger.info("pushed: %s", commit.commit_url)


def main() -> None:
    # 1. Arguments
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(FetchArguments)
    manifest = read_manifest(arguments) if arguments.ids_from else None
    check_arguments(arguments)
    folder = Path(arguments.output_dir)

    with owned_folder(folder) as work:
        # 2. Records from the source
        counts, extra = Counter(), {}
        path = Path(arguments.snapshot_file or work / "harvest/records.jsonl.gz")
        if arguments.source != "snapshot":
            plan = run_harvest(arguments, path.parent)
            extra["harvest"] = {key: plan[key] for key in ("records", "requests", "waited_seconds")}
        ids = {name for split in manifest["ids"].values() for name in split} if manifest else set()
        records = read_snapshot(path, arguments, ids, counts)

        # 3. What is kept, and the split
        if manifest:
            splits, extra["gone"] = rebuild_splits(records, manifest, counts)
        else:
            splits = split_records(select(records, arguments, counts), arguments)
        counts = +counts  # without the reasons that did not occur

        # 4. The dataset folder
        digests = write_dataset(folder, work, splits, arguments, counts, extra)

    # 5. What came out
    print("dropped:", ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.items())) or "none")
    print(counts_table(splits, arguments))
    if manifest:
        print(f"gone: {len(extra['gone']):,} papers", *extra["gone"][:10], "..." if extra["gone"][10:] else "")
        print("parquet files:", "those" if digests == manifest["sha256"] else "others than those", "of the manifest")
    logger.info("wrote %s", folder)
    if arguments.push_to_hub:
        push(folder, arguments)


if __name__ == "__main__":
    main()
