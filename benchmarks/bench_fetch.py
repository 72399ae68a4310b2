#!/usr/bin/env python
"""How fast fetch_arxiv.py reads a metadata snapshot, and in how much memory, beside obvious ways.

    python benchmarks/bench_fetch.py --records ../shared/data/arxiv-metadata-dev.jsonl.gz
    python benchmarks/bench_fetch.py --records ../shared/data/arxiv-metadata-dev.jsonl.gz \\
        --size_mb 50 --repeats 1

The file read (1 GB by default, made once in benchmarks/work, which git ignores) repeats the lines
of --records with new ids in the proportions of the real snapshot: 1.6 percent of the lines have one
of the five primary categories. Every way runs in its own process with the file in the page cache.
It reads the file, keeps the records of the five categories from 2014 to 2023, and reports its time
without the imports and its peak memory with them. Writes benchmarks/results/fetch.json.
"""

import argparse
import gzip
import json
import os
import platform
import random
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import orjson
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
CATEGORIES = ["math.AG", "math.CV", "math.DG", "math.MG", "math.SG"]
SHARE = 0.016  # of the real snapshot's records that have one of the five primary categories
HEAD = """
import json, resource, sys, time
path, categories = sys.argv[1], set(sys.argv[2].split(","))
def wanted(entry):
    year = int(entry["versions"][0]["created"].split()[3])
    return entry["categories"].split()[0] in categories and 2014 <= year <= 2023
"""
WAYS = {
    "fetch_arxiv.py, reading and selecting": f"""
sys.path.insert(0, {str(ROOT)!r})
from collections import Counter
from pathlib import Path
from fetch_arxiv import BadEntries, FetchArguments, parse_entries, read_snapshot, select
arguments = FetchArguments(output_dir="", source="snapshot", snapshot_file=path, disable_tqdm=True)
counts, bad = Counter(), BadEntries()
start = time.perf_counter()
lines = read_snapshot(Path(path), arguments, set(), counts, bad)
kept = select(parse_entries(lines, arguments, counts, bad), arguments, counts)
# Ids are new but the texts repeat, and the script keeps one record per text: count them all here.
found = len(kept) + counts["duplicate abstract"]
""",
    "json.loads on every line": """
start = time.perf_counter()
kept = [entry for entry in map(json.loads, open(path, "rb")) if wanted(entry)]
found = len(kept)
""",
    "orjson.loads on every line": """
import orjson
start = time.perf_counter()
kept = [entry for entry in map(orjson.loads, open(path, "rb")) if wanted(entry)]
found = len(kept)
""",
    'datasets.load_dataset("json")': """
import datasets
datasets.disable_progress_bars()
start = time.perf_counter()
dataset = datasets.load_dataset("json", data_files=path, split="train", cache_dir=path + ".cache")
kept = dataset.filter(wanted)
found = len(kept)
""",
}
TAIL = """
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "peak_mib": peak, "found": found}))
"""


def make_snapshot(path: Path, records: Path, size: int) -> dict:
    """Write a snapshot of about ``size`` bytes in the real mix.

    Returns its bytes, its lines and how many records it should yield.
    """
    inside = []
    outside = []
    with gzip.open(records) as lines:
        for line in lines:
            entry = orjson.loads(line)
            is_inside = entry["categories"].split()[0] in CATEGORIES
            (inside if is_inside else outside).append(line)

    chooser = random.Random(0)
    written = count = found = 0
    partial = path.with_suffix(".tmp")
    with (
        partial.open("wb") as output,
        tqdm(total=size, unit="B", unit_scale=True, desc=path.name) as bar,
    ):
        while written < size:
            template = chooser.choice(inside if chooser.random() < SHARE else outside)
            head, rest = template.split(b'"id": "', 1)
            tail = rest.split(b'"', 1)[1]
            number = b"%04d.%05d" % (1000 + count // 100000, count % 100000)
            line = head + b'"id": "' + number + b'"' + tail
            output.write(line)
            written += len(line)
            count += 1
            bar.update(len(line))
            categories = line[line.index(b'"categories": "') + len(b'"categories": "') :]
            year = int(line[line.rindex(b'"created": "') :].split()[4])
            found += categories[:7].decode() in CATEGORIES and 2014 <= year <= 2023
    os.replace(partial, path)  # both in benchmarks/work, which this script makes
    return {"bytes": written, "lines": count, "found": found}


def processor() -> str:
    """Return the processor's name and the number of its cores that this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":")[1].strip()
                break
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return f"{name}, {cores} cores"


def main() -> None:
    # 1. Arguments
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--records", type=Path, required=True, help="snapshot (.gz) whose lines are repeated"
    )
    parser.add_argument(
        "--size_mb", type=int, default=1000, help="size of the file that is read, in 10^6 bytes"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of every way; the fastest counts"
    )
    parser.add_argument(
        "--output_file",
        type=Path,
        default=ROOT / "benchmarks/results/fetch.json",
        help="where to write",
    )
    arguments = parser.parse_args()

    # 2. The file
    work = ROOT / "benchmarks/work"
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"snapshot-{arguments.size_mb}mb.json"
    facts_path = work / f"snapshot-{arguments.size_mb}mb.facts"
    if not facts_path.exists():
        facts = make_snapshot(path, arguments.records, arguments.size_mb * 10**6)
        facts_path.write_text(json.dumps(facts), encoding="utf-8")
    facts = json.loads(facts_path.read_text(encoding="utf-8"))
    with path.open("rb") as stream:  # into the page cache
        while stream.read(2**24):
            pass

    # 3. Every way, in turn and several times
    results = {name: [] for name in WAYS}
    for _ in range(arguments.repeats):
        for name, code in WAYS.items():
            shutil.rmtree(f"{path}.cache", ignore_errors=True)  # of datasets, in benchmarks/work
            command = [sys.executable, "-c", HEAD + code + TAIL, str(path), ",".join(CATEGORIES)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            answer = json.loads(done.stdout)
            if answer["found"] != facts["found"]:
                sys.exit(
                    f"error: {name} found {answer['found']} records, the file has {facts['found']}"
                )
            results[name].append(answer)
            speed = facts["bytes"] / answer["seconds"] / 1e6
            print(f"{name}: {speed:,.0f} MB/s, {answer['peak_mib']:,.0f} MiB")
    shutil.rmtree(f"{path}.cache", ignore_errors=True)

    # 4. The results
    rows = []
    for name, answers in results.items():
        best = min(answer["seconds"] for answer in answers)
        rows.append(
            {
                "way": name,
                "mb_per_second": round(facts["bytes"] / best / 1e6, 1),
                "peak_mib": round(max(answer["peak_mib"] for answer in answers), 1),
                "seconds": [round(answer["seconds"], 3) for answer in answers],
            }
        )
    plain = next(row for row in rows if row["way"].startswith("json.loads"))
    for row in rows:
        row["times_json_loads"] = round(row["mb_per_second"] / plain["mb_per_second"], 2)
    report = {
        "command": f"python benchmarks/bench_fetch.py --records FILE --size_mb {arguments.size_mb} "
        f"--repeats {arguments.repeats}",
        "date": datetime.now(UTC).date().isoformat(),
        "device": processor(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("orjson", "datasets")},
        "file": facts,
        "results": rows,
    }
    arguments.output_file.parent.mkdir(parents=True, exist_ok=True)
    arguments.output_file.write_text(
        json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
    for row in rows:
        print(
            f"{row['way']:40} {row['mb_per_second']:8,.0f} MB/s {row['times_json_loads']:6} x "
            f"{row['peak_mib']:8} MiB"
        )


if __name__ == "__main__":
    main()
