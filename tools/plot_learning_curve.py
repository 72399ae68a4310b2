#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
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
"""Draw accuracy over the number of training documents, from the comparisons of each number.

    python tools/plot_learning_curve.py paper/comparison-size-500 paper/comparison-size-1000 \\
        paper/comparison --output_dir paper/learning-curve

Each comparison of tools/compare_runs.py has the models that were trained on one number of documents
and tests their differences. This command reads comparison.json of each folder (the file itself may
be given, too) and draws what they have together, with the intervals of the comparisons. It tests
nothing and extrapolates nothing.

Writes into --output_dir: learning_curve.csv, a row per model and number of documents;
learning_curve.png; learning_curve.md, the table; learning_curve.json, the record.
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
from common.text import markdown_table
from comparison.figures import plot_learning_curves
from comparison.page import share_text
from comparison.records import parse_comparisons, read_comparisons

SCRIPT = "plot_learning_curve.py"
OWN_FILES = r"learning_curve\.(json|csv|md|png)"
METRICS = ("accuracy", "macro_f1")


def main() -> None:
    # 1. Arguments and comparisons
    logger = start_logging()
    arguments = parse_comparisons(__doc__)
    if not arguments.comparisons:
        fail(f"give the comparisons: {SCRIPT} DIR DIR --output_dir DIR")
    check_names(arguments)
    comparisons = read_comparisons(arguments.comparisons)
    titles = common_titles(comparisons)
    curves = collect_curves(comparisons)
    output = Path(arguments.output_dir)
    open_output_dir(output, SCRIPT, ["learning_curve.json"], OWN_FILES)
    lock_output_dir(output)

    # 2. The files
    rows = [row for points in curves.values() for row in points]
    header = ["model", "training documents", *(f"{titles[name]}, %" for name in METRICS)]
    lines = []
    for row in rows:
        shares = []
        for name in METRICS:
            shares.append(share_text(row[name], row[f"{name}_low"], row[f"{name}_high"]))
        lines.append([row["model"], f"{row['train_samples']:,}", *shares])
    table = markdown_table(header, lines)
    about = (
        f"{titles['accuracy']} by the number of training documents, a line per model, with 95% "
        "intervals"
    )
    outputs = {
        "learning_curve.csv": pd.DataFrame(rows).to_csv(index=False, float_format="%.8g"),
        "learning_curve.md": (
            f"# Learning curve\n\n![{about}](learning_curve.png)\n\n"
            f"Metrics and their 95% intervals by the number of training documents:\n\n{table}"
        ),
        "learning_curve.png": plot_learning_curves(curves, "accuracy", titles["accuracy"]),
    }
    record = {
        "script": SCRIPT,
        "arguments": asdict(arguments)
        | {
            "output_dir": short_path(arguments.output_dir),
            "comparisons": list(comparisons),
        },
        "versions": versions("matplotlib", "numpy", "pandas"),
        "files": digests(outputs),
    }
    content = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    write_files(output, {"learning_curve.json": content} | outputs)

    # 3. What was found
    logger.info("written to %s: learning_curve.json, .csv, .md, .png", output)
    print(table)


def common_titles(comparisons: dict[str, dict]) -> dict[str, str]:
    """Return what the comparisons call their metrics. Exit with status 2 if they do not agree.

    With several labels per document, accuracy is the share of documents with exactly these.
    """
    first = next(iter(comparisons))
    for name, comparison in comparisons.items():
        if not {"titles", "documents", "costs", "per_class_f1"} <= comparison.keys():
            fail(f"{name} is a comparison of an earlier version; make it again")
    titles = comparisons[first]["titles"]
    for name, comparison in comparisons.items():
        if comparison["titles"] != titles:
            fail(f"{first} and {name} have other metrics; give comparisons of one task")
        if comparison["documents"] != comparisons[first]["documents"]:
            fail(
                f"{first} and {name} have different test documents "
                f"({comparisons[first]['documents']:,} and {comparison['documents']:,}); "
                "give comparisons on one test split"
            )
        if class_sizes(comparison) != class_sizes(comparisons[first]):
            fail(
                f"{first} and {name} have other numbers of test documents of the classes; give "
                "comparisons on one test split"
            )
    return titles


def class_sizes(comparison: dict) -> dict[str, int]:
    """Return the number of test documents of each class."""
    return {row["class"]: row["documents"] for row in comparison["per_class_f1"]}


def collect_curves(comparisons: dict[str, dict]) -> dict[str, list[dict]]:
    """Return the rows of each model in the order of the numbers of training documents.

    A row has model, train_samples, the metrics and their 95% intervals, and comparison, the name of
    the comparison that it is from. Exits with status 2 if a model has two rows of one number, or if
    no model has two numbers.
    """
    points = {}
    for name, comparison in comparisons.items():
        for cost in comparison["costs"]:
            if not cost["train_samples"]:
                continue  # a run that does not say it, such as one of another program
            size = int(cost["train_samples"])
            of_model = points.setdefault(cost["name"], {})
            if size in of_model:
                fail(
                    f"{cost['name']} with {size:,} training documents is in "
                    f"{of_model[size]['comparison']} and in {name}; give one of them"
                )
            row = {"model": cost["name"], "train_samples": size}
            for metric in METRICS:
                for key in (metric, f"{metric}_low", f"{metric}_high"):
                    row[key] = cost[key]
            of_model[size] = row | {"comparison": name}
    curves = {}
    for model, of_model in points.items():
        if len(of_model) > 1:
            curves[model] = [of_model[size] for size in sorted(of_model)]
    if not curves:
        fail("no model was trained on two numbers of documents; give the comparison of each number")
    return curves


if __name__ == "__main__":
    main()
