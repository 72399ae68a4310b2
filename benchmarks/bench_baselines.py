#!/usr/bin/env python
"""Compare integrated gradients from several baselines, and other methods, on one model.

    for baseline in pad mask zero mean; do
        python run_attribution.py --model_name_or_path MODEL --dataset_name DATA --n_steps auto \\
            --max_samples 50 --baseline $baseline --output_dir attributions/$baseline
    done
    for baseline in pad mask; do
        python tools/measure_faithfulness.py --attribution_dir attributions/$baseline \\
            --n_mosaics 100 --dataset_name DATA
    done
    python benchmarks/bench_baselines.py attributions/pad attributions/mask attributions/zero \\
        attributions/mean --model_note "..."

The first folder is the reference: the other baselines are compared with it on the same mosaics, by
the paired t-test over mosaics and Holm's method, and its faithfulness.json has the other methods
(--methods) and the agreement of the baselines (--compare). Zero and mean have no mosaics, in which
words are replaced by a token.

Writes results/arxiv-dev/baselines-minilm.json: means with intervals, tests, costs, and the rows
of single documents and mosaics, from which every interval and test can be made again; a test
compares docs/attribution.md with it.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from common.statistics import add_holm  # noqa: E402
from faithfulness.estimates import paired, paired_test  # noqa: E402

METHOD = "integrated gradients"


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="attribution folders")
    parser.add_argument("--model_note", required=True, help="what the model is, for the file")
    parser.add_argument(
        "--output_file", type=Path, default=ROOT / "results/arxiv-dev/baselines-minilm.json"
    )
    return parser.parse_args()


def read(path: Path) -> dict:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def describe_attributions(folder: Path) -> dict:
    """Return how many attributions of a folder converged, and with how many gradients."""
    lines = (folder / "attributions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    errors = [row["relative_error"] for row in rows if row["relative_error"] is not None]
    return {
        "documents": len(rows),
        "gradient_evaluations": sum(row["gradient_evaluations"] for row in rows),
        "median_gradient_evaluations": median(row["gradient_evaluations"] for row in rows),
        "not_converged": sum(row["converged"] is not True for row in rows),
        "max_relative_error": max(errors),
    }


def scores_of(mosaics: dict) -> list[float]:
    """Return the score of integrated gradients on each mosaic."""
    return [mosaic["scores"][METHOD] for mosaic in mosaics["per_mosaic"]]


def main() -> None:
    arguments = parse_arguments()
    measured = {}
    attributions = {}
    for folder in arguments.folders:
        attributions[read(folder / "summary.json")["baseline"]] = describe_attributions(folder)
        if (folder / "faithfulness.json").exists():
            content = read(folder / "faithfulness.json")
            measured[content["baseline"]] = content
    (first, reference), *others = measured.items()

    # 1. The same mosaics with every baseline
    tests = []
    for baseline, content in others:
        for mosaic, other in zip(
            reference["mosaics"]["per_mosaic"], content["mosaics"]["per_mosaic"], strict=True
        ):
            if mosaic["chance"] != other["chance"]:
                raise SystemExit(f"the mosaics of {baseline} are not those of {first}")
        differences = paired(scores_of(reference["mosaics"]), scores_of(content["mosaics"]))
        tests.append({"baseline": baseline} | paired_test(differences))
    add_holm(tests)

    # 2. The file, with the rows of single documents and mosaics
    record = {
        "model": arguments.model_note,
        "device": reference["device"],
        "versions": reference["versions"],
        "date": reference["date"],
        "arguments": reference["arguments"],
        "attributions": attributions,
        "mosaics": {baseline: content["mosaics"] for baseline, content in measured.items()},
        f"{first} minus other baselines": tests,
        "agreement": reference["baselines"],
        "rankings": reference["rankings"],
        "statistics": reference["statistics"],
        "differences": reference["differences"],
        "disagreements": reference["disagreements"],
        "shown_once": reference["shown_once"],
        "cost": reference["cost"],
        "note": reference["note"],
        "per_document": reference["per_document"],
    }
    temporary = arguments.output_file.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, arguments.output_file)
    print(f"wrote {arguments.output_file}")


if __name__ == "__main__":
    main()
