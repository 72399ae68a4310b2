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
#     "transformers==5.23.0",
# ]
# ///
"""Compare runs on the same test documents: table 2 with intervals, paired tests, calibration.

    python tools/compare_runs.py runs/svm runs/bert-large-cased runs/bge-large-en-v1.5 \\
        --output_dir comparison --paper
    python tools/compare_runs.py runs/svm runs/minilm-seed1 runs/minilm-seed2 runs/minilm-seed3 \\
        --output_dir comparison --dataset_name data/arxiv --reference runs/svm

Needs no model and no GPU and takes seconds. Reads predictions.csv of each run (columns id, label,
prediction and one column of scores per class) and, if present, run_arguments.json and
predict_results.json. Runs with the same model name (last part of model_name_or_path), learning
rate, dataset, number of training documents and sampling strategy but different seeds are pooled
into one row. A run without run_arguments.json is a row of its own, named after its folder.

Writes into --output_dir: comparison.json (everything), pairs.csv (the tests), per_class_f1.csv,
agreement.csv, slices.csv (accuracy on cross-listed and on confusable documents, and with any listed
category counted as right), hard_documents.csv (documents that every run gets wrong), table2.md,
.tex, .csv and .png (accuracy and macro F1 with 95% intervals), comparison.md (every test as a
sentence) and, if a run has probabilities, calibration.png. With --paper the study's own table is
added as marked rows, and study.json holds the bounds that its accuracies set to the tests that
cannot be made without its predictions. With --margin equivalence and non-inferiority are tested,
too.

All models are tested against the reference and against the SVM. Training counts as random only if
both models of a pair have several seeds; every result names its population. Below 20 documents no
tests are made, and below 150 the bootstrap of macro F1 is left out.

The rooms of tools/comparison: runs (read, check, pool), metrics, paired_tests (TESTS chooses),
calibration, slices, study_table, page.
"""

import json
import shlex
import sys
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pandas as pd

from common.cli import fail, parse_arguments, start_logging, versions
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
from comparison.metrics import (
    agreement_table,
    class_differences,
    evaluate,
    missing_interval_notes,
    model_row,
    per_class_table,
)
from comparison.page import comparison_page, plot_table, table_csv, table_latex, table_markdown
from comparison.paired_tests import (
    DEFAULT_MARGIN,
    compare_models,
    compared_models,
    default_pairs,
    detectable_sentence,
    pair_sentence,
)
from comparison.runs import Run, choose_reference, digest_of_predictions, pool_runs, read_runs
from comparison.slices import (
    hard_documents,
    hard_summary,
    listed_summary,
    load_categories,
    slices_table,
)
from comparison.study_table import study_result, study_rows

SCRIPT = "compare_runs.py"
# A pattern of every file that this script writes: others make a folder somebody else's.
OWN_FILES = (
    r"comparison\.(json|md)|(pairs|per_class_f1|agreement|slices|hard_documents)\.csv|"
    r"table2\.(md|tex|csv|png)|calibration\.png|study\.json"
)


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
            "SVM, else the run with the smallest loss on the validation split."
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
            "help": "The largest difference of accuracy or macro F1, in points, that does not "
            "matter: a model is within the margin if the tests exclude larger ones."
        },
    )
    pairs: Literal["reference", "all"] | None = field(
        default=None,
        metadata={
            "help": "Test each model against the reference and the SVM, or all pairs of models. "
            "Default: all pairs of up to five models."
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
        if self.dataset_revision and not self.dataset_name:
            raise ValueError("--dataset_revision requires --dataset_name")
        if self.disagreement_rate is None:
            self.disagreement_rate = 0.08 if self.paper else None
        elif not self.paper:
            raise ValueError("--disagreement_rate is about the study's table; give --paper, too")
        elif not 0 < self.disagreement_rate <= 1:
            raise ValueError(
                f"--disagreement_rate must be above 0 and at most 1, not {self.disagreement_rate:g}"
            )


def positional_runs(namespace, unknown: list[str]) -> None:
    """Move the words that belong to no flag into ``namespace.runs``."""
    namespace.runs = list(namespace.runs)
    flags = []
    for word in unknown:
        if word.startswith("-"):
            flags.append(word)
        else:
            namespace.runs.append(word)
    unknown[:] = flags


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
    for name in ("output_dir", "reference", "dataset_name"):
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


def main() -> None:
    # 1. Arguments, runs, output folder
    logger = start_logging()
    sys.argv[1:] = complete_switches(sys.argv[1:])
    (arguments,) = parse_arguments(__doc__, CompareArguments, adapt=positional_runs)
    if len(arguments.runs) < 2:
        fail(
            f"a comparison needs two runs or more, not {len(arguments.runs)}: "
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
    if runs[0].is_multi_label:
        categories = None  # they are the labels themselves
    models = pool_runs(runs)
    reference, reference_reason = choose_reference(arguments.reference, models, runs)
    which = arguments.pairs or default_pairs(models)
    output = Path(arguments.output_dir)
    open_output_dir(output, SCRIPT, ["comparison.json"], OWN_FILES)
    lock_output_dir(output)

    # 2. A row of table 2 for every model
    evaluation = evaluate(runs, arguments.n_resamples, arguments.seed)
    model_rows = [model_row(model, runs, evaluation) for model in models]

    # 3. The tests
    margin = arguments.margin / 100
    tests = compare_models(models, reference, evaluation, margin, which)
    pairs, notes = tests.pairs, tests.notes
    notes += missing_interval_notes(evaluation.documents)

    # 4. Classes, agreement, parts of the test split, calibration
    per_class, class_notes = per_class_table(models, evaluation)
    agreement, median_disagreement = agreement_table(models, evaluation)
    hard = hard_documents(runs, categories)
    slices = slices_table(
        models, runs, evaluation, categories, arguments.n_resamples, arguments.seed
    )
    calibrations, calibration_notes = calibrate(models, runs, evaluation.correct, arguments.seed)
    notes += class_notes
    if not arguments.dataset_name:
        notes.append("Cross-listing is left out: it needs the categories in --dataset_name.")
    elif runs[0].is_multi_label:
        notes.append("Cross-listing is left out: with several labels the categories are labels.")
    elif categories is None:
        notes.append(
            "Cross-listing is left out: the dataset has no column 'categories', "
            "which only arXiv records have."
        )
    notes += calibration_notes
    predictions = {run.label: digest_of_predictions(run.table) for run in runs}
    result = {
        "script": SCRIPT,
        "arguments": published_arguments(arguments, runs),
        "predictions": predictions,
        "dataset_commit": commit,
        "versions": versions("numpy", "scipy", "statsmodels", "scikit-learn", "pandas"),
        "documents": evaluation.documents,
        "classes": evaluation.classes,
        "reference": models[reference].name,
        "reference_reason": reference_reason,
        "pairs_tested": which,
        "margin": margin,
        "models": model_rows,
        "pairs": pairs,
        "not_tested": tests.not_tested,
        "median_disagreement": median_disagreement,
        "per_class_f1": per_class.to_dict("records"),
        "per_class_differences": class_differences(
            models, compared_models(models, reference, which), evaluation
        ),
        "agreement": agreement.to_dict("records"),
        "slices": slices.astype(object).where(slices.notna(), None).to_dict("records"),
        "listed": None
        if categories is None
        else listed_summary(models, runs, evaluation, categories),
        "hard_documents": hard_summary(hard, truth, categories, evaluation.classes),
        "calibration": calibrations,
        "notes": notes,
    }

    # 5. The study's rows and what its documents could have shown
    table_rows, study = list(model_rows), None
    if arguments.paper:
        table_rows += study_rows()
        study = study_result(arguments.disagreement_rate, median_disagreement)
    table = table_markdown(table_rows, evaluation.documents)

    # 6. The folder, comparison.json first, which makes it ours and has the digests of the others;
    #    files of an earlier comparison that this one does not have are removed
    csv = {"index": False, "float_format": "%.8g"}
    outputs = {
        "pairs.csv": pd.DataFrame(pairs).to_csv(**csv) if pairs else None,
        "per_class_f1.csv": per_class.to_csv(**csv),
        "agreement.csv": agreement.to_csv(**csv),
        "slices.csv": slices.to_csv(**csv),
        "hard_documents.csv": hard.to_csv(**csv),
        "table2.md": table,
        "table2.tex": table_latex(table_rows),
        "table2.csv": table_csv(table_rows).to_csv(**csv),
        "table2.png": plot_table(table_rows, evaluation.documents),
        "study.json": json.dumps(study, ensure_ascii=False, indent=2) + "\n" if study else None,
        "calibration.png": plot_calibration(calibrations) if calibrations else None,
        "comparison.md": comparison_page(result, table, study["sentences"] if study else [], hard),
    }
    result["files"] = digests(outputs)
    record = json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    outputs = {"comparison.json": record} | outputs
    write_files(output, outputs)

    # 7. What was found
    written = [name for name, content in outputs.items() if content is not None]
    logger.info("written to %s: %s", output, ", ".join(written))
    for note in notes:
        logger.info(note)
    for row in pairs:
        logger.info(pair_sentence(row, arguments.margin))
    logger.info(detectable_sentence(evaluation.documents, median_disagreement, len(pairs)))
    width = max(len(model.name) for model in models)
    print(f"\n{'model':<{width}}  test accuracy  macro F1")
    for row in model_rows:
        accuracy, macro_f1 = percent(row["accuracy"]), percent(row["macro_f1"])
        print(f"{row['name']:<{width}}  {accuracy:>13}  {macro_f1:>8}")
    print(f"next: {next_command(arguments)}")


if __name__ == "__main__":
    main()
