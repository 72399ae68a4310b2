#!/usr/bin/env python
"""How fast a finished run predicts a large file, with and without labels, and in how much memory.

    python benchmarks/bench_unlabeled.py --run runs/svm --documents 1000000
    python benchmarks/bench_unlabeled.py --run runs/encoder --documents 20000

The file (benchmarks/work, which git ignores) has sentences of the sample's abstracts in random
order, each with a number, so that no two are the same. run_baseline.py or run_classification.py,
whichever made the run, predicts it in a process of its own, whose time (of the clock and of the
processors) and peak memory are those of the whole command. Both files have the same texts. Adds to
benchmarks/results/unlabeled.json.
"""

import argparse
import csv
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("datasets", "numpy", "pandas", "scikit-learn", "torch", "transformers")


def read_sentences(path: Path) -> list[str]:
    """Return the sentences of the abstracts in a metadata snapshot that have 40 to 200 letters."""
    sentences = []
    for line in path.read_text(encoding="utf-8").splitlines():
        abstract = " ".join(json.loads(line)["abstract"].split())
        sentences += re.split(r"(?<=[.?!]) ", abstract)
    return [sentence for sentence in sentences if 40 <= len(sentence) <= 200]


def write_texts(path: Path, documents: int, columns: list[str], label: tuple[str, list] | None):
    """Write a CSV file of short texts in the first of the columns; the others are empty.

    label is the name of a column and its classes, or None.
    """
    chooser = random.Random(0)
    sentences = read_sentences(ROOT / "sample_data/abstracts.jsonl")
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", *columns, *([label[0]] if label else [])])
        for number in range(documents):
            row = [f"d{number}", f"{number}: {chooser.choice(sentences)}", *[""] * len(columns[1:])]
            if label:
                row.append(label[1][number % len(label[1])])
            writer.writerow(row)


def predict(run: Path, script: str, file: Path) -> dict:
    """Predict a file with a finished run; return times and peak memory of the process."""
    output = file.with_suffix("")
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, str(ROOT / script), "--model_name_or_path", str(run)]
    command += ["--test_file", str(file), "--output_dir", str(output), "--disable_tqdm"]
    if script == "run_classification.py":
        command += ["True", "--do_predict"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        sys.exit(f"error: {' '.join(command)} failed")
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def processor() -> str:
    """Return the processor's name and the number of its cores that this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"model name\s*: (.*)", cpuinfo.read_text())
        name = match[1] if match else name
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    # 1. Arguments
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="finished run folder")
    parser.add_argument("--documents", type=int, default=1_000_000, help="texts in the file")
    parser.add_argument("--repeats", type=int, default=1, help="runs; the fastest counts")
    parser.add_argument(
        "--output_file",
        type=Path,
        default=ROOT / "benchmarks/results/unlabeled.json",
        help="where to write",
    )
    arguments = parser.parse_args()
    record = json.loads((arguments.run / "run_arguments.json").read_text(encoding="utf-8"))
    script = record["script"]
    columns = record["arguments"]["text_column_names"]
    label = (record["arguments"]["label_column_name"], record["labels"])

    # 2. Both files in turn; the results stand beside those of other runs
    work = ROOT / "benchmarks/work"
    work.mkdir(parents=True, exist_ok=True)
    report = {}
    if arguments.output_file.exists():
        report = json.loads(arguments.output_file.read_text(encoding="utf-8"))
    results = {}
    for name, column in (("without labels", None), ("with labels", label)):
        file = work / f"texts-{arguments.documents}-{'labeled' if column else 'unlabeled'}.csv"
        write_texts(file, arguments.documents, columns, column)
        measured = [predict(arguments.run, script, file) for _ in range(arguments.repeats)]
        best = min(measured, key=lambda row: row["cpu_seconds"])
        results[name] = best | {
            "documents_per_cpu_second": round(arguments.documents / best["cpu_seconds"], 1),
            "file_mib": round(file.stat().st_size / 2**20, 1),
        }
        print(f"{script}, {name}: {results[name]}", flush=True)
        report[f"{script}, {arguments.documents} documents"] = {
            "command": f"python benchmarks/bench_unlabeled.py --run RUN "
            f"--documents {arguments.documents} --repeats {arguments.repeats}",
            "date": datetime.now(UTC).date().isoformat(),
            "device": processor(),
            "load_average": [round(load, 1) for load in os.getloadavg()],
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in VERSIONS},
            "model": record["model_name_or_path"],
            "results": results,
        }
        arguments.output_file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=2) + "\n"
        arguments.output_file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
