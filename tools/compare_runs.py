#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "huggingface_hub==2.4.0",
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "pyarrow==26.0.1",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "scipy==1.17.1",
#     "statsmodels==0.15.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Compare runs on the same test documents: is a model better, and by how much? Tests, table, cost.

    python tools/compare_runs.py runs/svm runs/bert-large-cased runs/bge-large-en-v1.5 \\
        --output_dir comparison --paper
    python tools/compare_runs.py runs/svm runs/minilm-seed1 runs/minilm-seed2 runs/minilm-seed3 \\
        --output_dir comparison --dataset_name data/arxiv --reference runs/svm

Needs no model and no GPU and takes seconds. Reads predictions.csv of each run (columns id, label,
prediction and one column of scores per class) and, if present, run_arguments.json and
predict_results.json. Runs of the same model (last part of model_name_or_path) that record the same
arguments but different seeds are pooled into one row. Paths, logging, saving and the machine do not
count; a difference in precision is named. Runs that differ in another argument are rows of their
own, which the row's name says. A run without run_arguments.json is a row of its own, named after
its folder.

The answer comes first, one sentence per model: better, worse, within the margin or undecided
against the reference (--reference, else the SVM, else the model with the best validation loss),
with the difference, its 95% interval and, if undecided, how many test documents would decide it.

    python tools/compare_runs.py runs/old runs/new --output_dir comparison --fail_if_worse runs/old

ends with exit status 3 if a run is worse than runs/old beyond the margin (--margin, 1 point).

Writes into --output_dir: comparison.md (the answers, then table, tests and details),
differences.png (the differences to the reference with 95% intervals and the margin), table2.md,
.tex, .csv and .png (every metric with 95% intervals), pairs.csv (the tests), all_pairs.png (which
of several models do not differ significantly), per_class_f1.csv, class_differences.csv and .png,
agreement.csv, slices.csv (accuracy on cross-listed and on confusable documents, and with any listed
category counted as right), hard_documents.csv (documents that every run gets wrong), cost.csv and
.png (training time, size and speed beside accuracy), learning_curve.png (models with several sizes
of the training split), calibration.png (runs with probabilities), comparison.json (everything).
With --paper the study's own table is added as marked rows, and study.json holds the bounds that its
accuracies set to the tests that cannot be made without its predictions.

All models are tested against the reference and against the SVM, and three to five models all
against each other (--pairs). Training counts as random only if both models of a pair have several
seeds; every result names its population. Below 20 documents no tests are made, and below 150 the
bootstrap of macro F1 is left out. With several labels per document a document is right if all its
labels and no others are predicted.

The modules of tools/comparison: runs (read, check, pool), metrics, paired_tests (TESTS chooses),
power, calibration, slices, study_table, cost; verdict (the answers), figures, page.
"""

import functools
import json
import shlex
import sys
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pandas as pd

from common.cli import fail, parse_arguments, start_logging, take_positional, versions
from common.folders import (
    check_names,
    digests,
    lock_output_dir,
    open_output_dir,
    short_path,
    write_files,
)
from common.text import percent
from comparison.calibration import calibrate, plot_calibration
from comparison.cost import cost_rows, learning_curves
from comparison.figures import (
    group_names,
    plot_all_pairs,
    plot_classes,
    plot_cost,
    plot_differences,
    plot_learning_curves,
)
from comparison.metrics import (
    MIN_CLASS_DOCUMENTS,
    agreement_table,
    class_differences,
    evaluate,
    missing_interval_notes,
    model_row,
    per_class_table,
)
from comparison.page import (
    Pieces,
    comparison_page,
    plot_table,
    table_csv,
    table_latex,
    table_markdown,
)
from comparison.paired_tests import (
    DEFAULT_MARGIN,
    LOSSES,
    METRICS,
    MIN_TEST_DOCUMENTS,
    compare_models,
    compared_models,
    decide,
    default_pairs,
    detectable_sentence,
)
from comparison.runs import (
    Run,
    choose_reference,
    digest_of_predictions,
    find_reference,
    pool_runs,
    pooling_notes,
    read_runs,
)
from comparison.slices import (
    hard_documents,
    hard_summary,
    listed_summary,
    load_categories,
    slices_table,
)
from comparison.study_table import largest_disagreement, study_result, study_rows
from comparison.verdict import Answer, find_answers, points, test_sentence

SCRIPT = "compare_runs.py"
# A pattern of every file that this script writes: others make a folder somebody else's.
OWN_FILES = (
    r"comparison\.(json|md)|study\.json|table2\.(md|tex|csv|png)|"
    r"(pairs|per_class_f1|class_differences|agreement|slices|hard_documents|cost)\.csv|"
    r"(differences|all_pairs|class_differences|cost|learning_curve|calibration)\.png"
)
PICTURES = (
    "differences.png",
    "table2.png",
    "all_pairs.png",
    "class_differences.png",
    "cost.png",
    "learning_curve.png",
    "calibration.png",
)
# Exit status if --fail_if_worse finds a run that is worse; 2 is a user's mistake.
WORSE_STATUS = 3


@dataclass
class CompareArguments:
    """What to compare and how."""

    output_dir: str = field(
        metadata={"help": "Folder to write: new, empty, or an earlier output of this script."}
    )
    runs: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Run folders, two or more. They are usually given without the flag, in any "
            "place."
        },
    )
    reference: str | None = field(
        default=None,
        metadata={
            "help": "Folder or name of the run that all others are tested against. Default: the "
            "SVM, else the model with the best validation loss."
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Dataset folder or Hub id of the runs, for the categories of documents that "
            "all get wrong."
        },
    )
    dataset_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of a Hub dataset. Default: its main branch."},
    )
    paper: bool = field(
        default=False,
        metadata={"help": "Add the study's table 2 and what its test set could have shown."},
    )
    disagreement_rate: float | None = field(
        default=None,
        metadata={
            "help": "With --paper: assumed share of the study's documents on which exactly one of "
            "two models is right. Default: 0.08."
        },
    )
    allow_other_texts: bool = field(
        default=False,
        metadata={
            "help": "Compare runs that read other texts of the same documents, such as shuffled "
            "words."
        },
    )
    margin: float = field(
        default=100 * DEFAULT_MARGIN,
        metadata={
            "help": "Margin in points: a difference that does not matter. Tested is also whether "
            "each model is equivalent to its reference within it, non-inferior, or worse beyond it."
        },
    )
    fail_if_worse: str | None = field(
        default=None,
        metadata={
            "help": "Folder or name of a run, which becomes the reference: exit with status 3 if "
            "another one is worse than it beyond the margin."
        },
    )
    pairs: Literal["reference", "all"] | None = field(
        default=None,
        metadata={
            "help": "Which pairs are tested: all models against the reference and the SVM, or all "
            "against each other. Default: all of three to five models, else reference.",
        },
    )
    n_resamples: int = field(
        default=10_000, metadata={"help": "Number of bootstrap samples of the documents."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of the bootstrap."})

    def __post_init__(self):
        if self.n_resamples < 100:
            raise ValueError(f"--n_resamples must be at least 100, not {self.n_resamples}")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, not {self.seed}")
        if not 0 < self.margin < 100:
            raise ValueError(f"--margin is in points, above 0 and below 100, not {self.margin:g}")
        if self.fail_if_worse is not None:
            if self.reference not in (None, self.fail_if_worse):
                raise ValueError(
                    f"--reference {self.reference} and --fail_if_worse {self.fail_if_worse} name "
                    "two references; give --fail_if_worse alone"
                )
            self.reference = self.fail_if_worse
        if self.dataset_revision and not self.dataset_name:
            raise ValueError("--dataset_revision requires --dataset_name")
        if self.disagreement_rate is None:
            self.disagreement_rate = 0.08 if self.paper else None
        elif not self.paper:
            raise ValueError("--disagreement_rate is about the study's table; give --paper, too")
        elif not 0 < self.disagreement_rate <= largest_disagreement():
            raise ValueError(
                "--disagreement_rate must be above 0 and at most "
                f"{largest_disagreement():.4f}, since the study's models are right too often to "
                f"differ on more documents, not {self.disagreement_rate:g}"
            )


def complete_switches(words: list[str]) -> list[str]:
    """Return the command line with a value for each switch, so that a run folder may follow it."""
    completed = []
    for word, following in pairwise([*words, ""]):
        has_value = following.lower() in ("true", "false", "yes", "no")
        is_alone = word in ("--paper", "--allow_other_texts") and not has_value
        completed.append(f"{word}=true" if is_alone else word)
    return completed


def published_arguments(arguments: CompareArguments, runs: list[Run]) -> dict:
    """Return the arguments as they are recorded: of an absolute path only the last part."""
    record = asdict(arguments)
    for name in ("output_dir", "reference", "fail_if_worse", "dataset_name"):
        if record[name] and Path(record[name]).is_absolute():
            record[name] = short_path(record[name])
    record["runs"] = [run.label if Path(run.folder).is_absolute() else run.folder for run in runs]
    return record


def next_command(arguments: CompareArguments) -> str:
    """Return the command that usually comes next."""
    words = ["python", "tools/make_report.py", "--output_dir", "report"]
    words += ["--comparison_dir", arguments.output_dir]
    if arguments.dataset_name:
        words += ["--dataset_name", arguments.dataset_name]
    return shlex.join([*words, "--runs", *arguments.runs])


def metric_titles(runs: list[Run]) -> dict[str, str]:
    """Return the names of the metrics: with several labels all of them must be right."""
    titles = METRICS | LOSSES
    if runs[0].is_multi_label:
        titles |= {"accuracy": "subset accuracy"}
    return titles


def listing_notes(
    arguments: CompareArguments, runs: list[Run], categories: list[list[str]] | None
) -> list[str]:
    """Return why cross-listing is left out; nothing if it is not."""
    if runs[0].is_multi_label:
        return ["Cross-listing is left out: every category is a label of its own."]
    if not arguments.dataset_name:
        return ["Cross-listing is left out: it needs the categories in --dataset_name."]
    if categories is None:
        return [
            "Cross-listing is left out: the dataset has no column 'categories', "
            "which only arXiv records have."
        ]
    return []


def check_decidable(models: int, documents: int) -> None:
    """Exit with status 2 if --fail_if_worse could never find anything."""
    if models < 2:
        fail("--fail_if_worse compares models, and all runs are seeds of one; give another run")
    if documents < MIN_TEST_DOCUMENTS:
        fail(
            f"--fail_if_worse requires {MIN_TEST_DOCUMENTS} test documents, and there are "
            f"{documents}; predict more"
        )


def stop_if_worse(pairs: list[dict], reference: str, margin: float, titles: dict) -> None:
    """Exit with status 3 if a model is worse than the reference beyond the margin, a share."""
    decision = decide(pairs, reference)
    for row in decision.worse:
        print(
            f"worse beyond the margin of {points(100 * margin)}: {test_sentence(row, titles)}",
            file=sys.stderr,
        )
    if decision.worse:
        sys.exit(WORSE_STATUS)
    for row in decision.open:
        print(
            f"not shown to be worse beyond the margin of {points(100 * margin)}, and not excluded: "
            f"{test_sentence(row, titles)}",
            file=sys.stderr,
        )


def print_table(rows: list[dict], titles: dict[str, str]) -> None:
    """Print both metrics of every model."""
    width = max(len(row["name"]) for row in rows)
    headers = [f"test {titles['accuracy']}", titles["macro_f1"]]
    print(f"\n{'model':<{width}}  {headers[0]}  {headers[1]}")
    for row in rows:
        cells = []
        for metric, header in zip(METRICS, headers, strict=True):
            cells.append(f"{percent(row[metric]):>{len(header)}}")
        print(f"{row['name']:<{width}}  {'  '.join(cells)}")


def draw_pictures(
    result: dict, answers: list[Answer], table_rows: list[dict], calibrations: dict[str, dict]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the pictures by file name, and what each shows in words."""
    titles, margin, reference = result["titles"], result["margin"], result["reference"]
    accuracy = titles["accuracy"]
    pictures, about = {}, {}

    # 1. The answers
    if answers:
        groups = []
        for answer in answers:
            groups.append(
                {"model": answer.row["model"], "first": answer.row, "second": answer.second}
            )
        pictures["differences.png"] = plot_differences(groups, reference, margin, titles)
        about["differences.png"] = (
            f"Difference of each model to {reference} with its 95% interval, as in the sentences "
            f"above; shaded: the margin of {points(100 * margin)}"
        )

    # 2. Table 2
    pictures["table2.png"] = plot_table(table_rows, result["documents"], titles)
    metrics = []
    for row in result["models"]:
        metrics.append(f"{row['name']} {percent(row['accuracy'])} and {percent(row['macro_f1'])}")
    about["table2.png"] = f"{accuracy} and macro F1 with 95% intervals: {'; '.join(metrics)}"

    # 3. All pairs
    if result["groups"] is not None:
        pictures["all_pairs.png"] = plot_all_pairs(
            result["models"], result["groups"], "accuracy", accuracy
        )
        together = [" and ".join(group) for group in result["groups"]]
        about["all_pairs.png"] = (
            f"Models by {accuracy}; without a significant difference: "
            f"{'; '.join(together) or 'none'}"
        )

    # 4. Classes
    panels: dict[str, list] = {}
    for row in result["per_class_differences"]:
        has_panel = row["documents"] >= MIN_CLASS_DOCUMENTS
        if row["reference"] == reference and has_panel:
            panels.setdefault(row["model"], []).append(row)
    if panels:
        pictures["class_differences.png"] = plot_classes(panels, reference)
        about["class_differences.png"] = (
            f"Differences in F1 of every class to {reference}; the table has the numbers"
        )

    # 5. Cost and learning curves
    cost = plot_cost(result["costs"], "accuracy", accuracy)
    if cost is not None:
        pictures["cost.png"] = cost
        about["cost.png"] = f"{accuracy} over cost; the table has the numbers"
    if result["learning_curves"]:
        pictures["learning_curve.png"] = plot_learning_curves(
            result["learning_curves"], "accuracy", accuracy
        )
        about["learning_curve.png"] = (
            f"{accuracy} over the number of training documents; the table has the numbers"
        )

    # 6. Calibration
    if calibrations:
        pictures["calibration.png"] = plot_calibration(calibrations)
        errors = [f"{name} {percent(part['ece'])}" for name, part in calibrations.items()]
        about["calibration.png"] = (
            "Reliability diagram; expected calibration error in points: " + "; ".join(errors)
        )
    return pictures, about


def pairs_table(pairs: list[dict]) -> pd.DataFrame:
    """Return pairs.csv: the tests, without what only correct_together.py reads."""
    return pd.DataFrame(pairs).drop(columns="precision")


def main() -> None:
    # 1. Arguments, runs, output folder
    logger = start_logging()
    sys.argv[1:] = complete_switches(sys.argv[1:])
    (arguments,) = parse_arguments(
        __doc__, CompareArguments, adapt=functools.partial(take_positional, name="runs")
    )
    if len(arguments.runs) < 2:
        fail(
            f"a comparison requires two runs or more, not {len(arguments.runs)}: "
            f"{SCRIPT} RUN RUN --output_dir DIR"
        )
    runs = read_runs(arguments.runs, arguments.allow_other_texts)
    check_names(arguments)
    truth = runs[0].table["label"]
    categories, commit = None, None
    if arguments.dataset_name:
        categories, commit = load_categories(
            arguments.dataset_name, arguments.dataset_revision, truth.index
        )
    notes = listing_notes(arguments, runs, categories)
    if runs[0].is_multi_label:
        categories = None
    models = pool_runs(runs)
    if arguments.fail_if_worse is not None:
        find_reference("--fail_if_worse", arguments.fail_if_worse, models, runs)
        check_decidable(len(models), len(truth))
    reference, reason = choose_reference(arguments.reference, models, runs)
    output = Path(arguments.output_dir)
    open_output_dir(output, SCRIPT, ["comparison.json"], OWN_FILES)
    lock_output_dir(output)

    # 2. A row of table 2 for every model, and what it costs
    evaluation = evaluate(runs, arguments.n_resamples, arguments.seed)
    model_rows = [model_row(model, runs, evaluation) for model in models]
    costs = cost_rows(models, model_rows, runs)

    # 3. The tests and the answers
    margin, titles = arguments.margin / 100, metric_titles(runs)
    which = arguments.pairs or default_pairs(models)
    tests = compare_models(models, reference, evaluation, margin, which)
    pairs = tests.pairs
    answers = find_answers(pairs, models[reference].name, margin, titles)
    notes = tests.notes + missing_interval_notes(evaluation.documents) + notes
    notes += pooling_notes(models, runs)

    # 4. Classes, agreement, parts of the test split, calibration
    per_class, class_notes = per_class_table(models, evaluation)
    of_classes = class_differences(models, compared_models(models, reference), evaluation)
    agreement, median_disagreement = agreement_table(models, evaluation)
    hard = hard_documents(runs, categories)
    slices = slices_table(models, runs, evaluation, categories)
    listed = None
    if categories is not None:
        listed = listed_summary(models, runs, evaluation, categories)
    calibrations, calibration_notes = calibrate(models, runs, evaluation.correct, arguments.seed)
    notes += class_notes + calibration_notes
    result = {
        "script": SCRIPT,
        "arguments": published_arguments(arguments, runs),
        "predictions": {run.label: digest_of_predictions(run.table) for run in runs},
        "dataset_commit": commit,
        "versions": versions("numpy", "scipy", "statsmodels", "scikit-learn", "pandas"),
        "documents": evaluation.documents,
        "classes": evaluation.classes,
        "problem_type": runs[0].problem_type,
        "titles": titles,
        # The answers
        "reference": models[reference].name,
        "reference_reason": reason,
        "margin": margin,
        "answers": [answer.record() for answer in answers],
        # What they rest on
        "models": model_rows,
        "pairs": pairs,
        "not_tested": tests.not_tested,
        "pairs_tested": tests.which,
        "groups": group_names(model_rows, pairs, "accuracy") if which == "all" else None,
        "median_disagreement": median_disagreement,
        # Details
        "costs": costs,
        "learning_curves": learning_curves(models, costs, runs),
        "per_class_f1": per_class.to_dict("records"),
        "per_class_differences": of_classes,
        "agreement": agreement.to_dict("records"),
        "slices": slices.astype(object).where(slices.notna(), None).to_dict("records"),
        "listed": listed,
        "hard_documents": hard_summary(hard, truth, categories, evaluation.classes),
        "calibration": calibrations,
        "notes": notes,
    }

    # 5. The study's rows and what its documents could have shown
    table_rows, study = list(model_rows), None
    if arguments.paper:
        table_rows += study_rows()
        study = study_result(arguments.disagreement_rate, median_disagreement)

    # 6. The folder, comparison.json first, which makes it ours and has the digests of the others;
    #    files of an earlier comparison that this one does not have are removed
    pictures, about_pictures = draw_pictures(result, answers, table_rows, calibrations)
    table = table_markdown(table_rows, evaluation.documents, titles)
    pieces = Pieces(table, hard, study["sentences"] if study else [], about_pictures)
    csv = {"index": False, "float_format": "%.8g"}
    outputs = {
        "pairs.csv": pairs_table(pairs).to_csv(**csv) if pairs else None,
        "per_class_f1.csv": per_class.to_csv(**csv),
        "class_differences.csv": pd.DataFrame(of_classes).to_csv(**csv) if of_classes else None,
        "agreement.csv": agreement.to_csv(**csv),
        "slices.csv": slices.to_csv(**csv),
        "hard_documents.csv": hard.to_csv(**csv),
        "cost.csv": pd.DataFrame(costs).to_csv(**csv),
        "table2.md": table,
        "table2.tex": table_latex(table_rows, titles),
        "table2.csv": table_csv(table_rows).to_csv(**csv),
        "study.json": json.dumps(study, ensure_ascii=False, indent=2) + "\n" if study else None,
        "comparison.md": comparison_page(result, answers, pieces),
    }
    for name in PICTURES:
        outputs[name] = pictures.get(name)
    result["files"] = digests(outputs)
    record = json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    outputs = {"comparison.json": record} | outputs
    write_files(output, outputs)

    # 7. What was found: the answers come first
    for answer in answers:
        logger.info(answer.text())
    for note in notes:
        logger.info(note)
    logger.info(detectable_sentence(evaluation.documents, median_disagreement, len(pairs)))
    written = [name for name, content in outputs.items() if content is not None]
    logger.info("written to %s: %s", output, ", ".join(written))
    print_table(model_rows, titles)
    print(f"next: {next_command(arguments)}")
    if arguments.fail_if_worse is not None:
        stop_if_worse(pairs, models[reference].name, margin, titles)


if __name__ == "__main__":
    main()
