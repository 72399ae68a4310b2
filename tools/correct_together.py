#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "scipy==1.17.1",
#     "statsmodels==0.15.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Correct the p-values of several comparisons that are published together as one family.

    python tools/correct_together.py comparisons/models comparisons/order comparisons/sizes \\
        --output_dir comparisons/together

Each comparison of tools/compare_runs.py corrects for its own tests only. Ten comparisons that are
published as one set of findings have ten chances of a false one. This command reads
comparison.json of each folder (the file itself may be given, too) and corrects again, for all tests
of all comparisons (Holm's method).
Tests of the same two sets of predictions count once, whatever the runs are called, and have the
same verdict everywhere. What a test can find (detectable_difference, documents_needed) is at the
level of the whole family, too.

Writes into --output_dir: family.csv, every test with its corrected p-values and verdict; family.md,
the tests whose verdict changes, and the number of tests; family.json, the record.
"""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from common.cli import fail, start_logging, versions
from common.folders import (
    check_names,
    digests,
    lock_output_dir,
    open_output_dir,
    short_path,
    write_files,
)
from common.text import markdown_table, p_text
from comparison.families import one_family
from comparison.paired_tests import LOSSES, METRICS
from comparison.records import parse_comparisons, read_comparisons

SCRIPT = "correct_together.py"
OWN_FILES = r"family\.(json|csv|md)"


def changed(rows: list[dict], comparisons: dict[str, dict]) -> list[list[str]]:
    """Return the tests whose verdict is another one than in their comparison, as a table."""
    before = {}
    for name, comparison in comparisons.items():
        for row in comparison["pairs"]:
            before[name, row["model"], row["reference"], row["metric"]] = row
    texts = []
    for row in rows:
        old = before[row["comparison"], row["model"], row["reference"], row["metric"]]
        if old["verdict"] != row["verdict"]:
            metric = (METRICS | LOSSES)[row["metric"]]
            texts.append(
                [
                    row["comparison"],
                    f"{row['model']} against {row['reference']}",
                    metric,
                    f"{old['verdict']} (p {p_text(old['p_holm'])})",
                    f"{row['verdict']} (p {p_text(row['p_holm'])})",
                ]
            )
    return texts


def main() -> None:
    # 1. Arguments and comparisons
    logger = start_logging()
    arguments = parse_comparisons(__doc__)
    if len(arguments.comparisons) < 2:
        fail(
            f"a family requires two comparisons or more, not {len(arguments.comparisons)}: "
            f"{SCRIPT} DIR DIR --output_dir DIR"
        )
    check_names(arguments)
    comparisons = read_comparisons(arguments.comparisons)
    rows = one_family(comparisons)
    if not rows:
        fail("none of the comparisons has a test; they need 20 documents and two models")
    output = Path(arguments.output_dir)
    open_output_dir(output, SCRIPT, ["family.json"], OWN_FILES)
    lock_output_dir(output)

    # 2. What changes
    tests = rows[0]["tests_in_family"]
    changes = changed(rows, comparisons)

    # 3. The files
    text = (
        f"{len(rows)} tests of {len(comparisons)} comparisons, {tests} of them distinct, are one "
        "family: p-values after Holm's correction are for all of them.\n"
    )
    if changes:
        header = ["comparison", "models", "metric", "alone", "as one family"]
        text += f"\nOther verdicts than alone:\n\n{markdown_table(header, changes)}"
    else:
        text += "\nEvery verdict is the same as alone.\n"
    outputs = {
        "family.csv": pd.DataFrame(rows).to_csv(index=False, float_format="%.8g"),
        "family.md": f"# Comparisons corrected together\n\n{text}",
    }
    record = {
        "script": SCRIPT,
        "arguments": asdict(arguments)
        | {
            "output_dir": short_path(arguments.output_dir),
            "comparisons": list(comparisons),
        },
        "digests": {name: digest_of(comparison) for name, comparison in comparisons.items()},
        "tests": tests,
        "versions": versions("numpy", "pandas"),
        "files": digests(outputs),
    }
    content = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    write_files(output, {"family.json": content} | outputs)

    # 4. What was found
    logger.info("written to %s: family.json, family.csv, family.md", output)
    print(text)


def digest_of(record: dict) -> str:
    """Return 16 digits of the SHA-256 of a comparison's record."""
    return digests({"record": json.dumps(record, sort_keys=True)})["record"]


if __name__ == "__main__":
    main()
