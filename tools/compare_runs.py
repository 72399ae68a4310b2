#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "scipy==1.17.1",
#     "statsmodels==0.15.0",
#     "transformers==5.23.0",
# ]
# ///
"""Compare runs on the same test documents: table 2 with intervals, paired tests, agreement and calibration.

    python tools/compare_runs.py runs/svm runs/bert-large-cased runs/bge-large-en-v1.5 --output_dir comparison --paper
    python tools/compare_runs.py runs/svm runs/minilm-seed1 runs/minilm-seed2 runs/minilm-seed3 \\
        --output_dir comparison --dataset_name data/arxiv --reference runs/svm

Needs no model and no GPU and takes seconds. Reads predictions.csv of each run (columns id, label, prediction and one
column of scores per class) and, if present, run_arguments.json and predict_results.json. Runs with the same model name
(last part of model_name_or_path), learning rate, dataset, number of training documents and sampling strategy but
different seeds are pooled into one row. A run without run_arguments.json is a row of its own, named after its folder.

Writes into --output_dir: comparison.json (everything), pairs.csv (the tests), per_class_f1.csv, agreement.csv,
slices.csv (accuracy on cross-listed and on confusable documents, and with any listed category counted as right),
hard_documents.csv (documents that every run gets wrong), table2.md, .tex, .csv and .png (accuracy and macro F1 with
95 % intervals), comparison.md (every test as a sentence) and, if a run has probabilities, calibration.png. With
--paper the study's own table is added as marked rows, and study.json holds the bounds that its accuracies set to the
tests that cannot be made without its predictions. With --margin equivalence and non-inferiority are tested, too.

All models are tested against the reference and against the SVM. Training counts as random only if both models of a
pair have several seeds; every result names its population. Below 20 documents no tests are made, and below 150 the
bootstrap of macro F1 is left out.
"""

import json
import math
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations, combinations_with_replacement, pairwise, product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import optimize, stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from common.cli import fail, one_line, parse_arguments, start_logging, versions
from common.data import dataset_commit, load_split
from common.folders import open_output_dir, read_json, run_name, short_path, write_files
from common.pages import escape_markdown, markdown_table, p_text, percent, plain, png
from common.statistics import ALPHA, add_holm, bootstrap, difference_test, percentile_interval

SCRIPT = "compare_runs.py"
OUTPUTS = (
    "comparison.json pairs.csv per_class_f1.csv agreement.csv slices.csv hard_documents.csv "
    "table2.md table2.tex table2.csv table2.png comparison.md calibration.png study.json"
).split()
BASELINE_NAME = "TF-IDF + linear SVM"
MIN_TEST_DOCUMENTS = 20
MIN_BOOTSTRAP_DOCUMENTS = 150
CALIBRATION_BINS = 15
CALIBRATION_DRAWS = 1000
POWER = 0.8
METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1"}
FAMILIES = {"p": "distinguishable", "p_non_inferior": "non_inferior", "p_equivalent": "equivalent"}
HEADER = ["model", "seeds", "accuracy", "95 % interval", "macro F1", "95 % interval"]
SHOWN_HARD_DOCUMENTS = 10
CLASS_COLUMNS = ("class", "documents")
# Recorded arguments by which runs of one model are different rows, and how a row's name shows them.
VARIANTS = {
    "learning_rate": "learning rate {:g}",
    "dataset_name": "dataset {}",
    "max_train_samples": "{} training documents",
    "train_sampling_strategy": "sampling {}",
}
HARD_COLUMNS = (
    "id label majority_prediction runs_that_agree mean_confidence categories cross_listed".split()
)
TEST_NOTES = (
    "Two models of one seed each are compared by the exact McNemar test with Tango's score interval (accuracy) and by "
    "a paired bootstrap with {resamples:,} samples of the documents (macro F1); one seed against several by a paired "
    "t-test over documents (accuracy) and the same bootstrap. These tests are about new documents and these trained "
    "models, not about training them again. Where both models have several seeds, documents and seeds are random "
    "effects (Obuchowski-Rockette analysis with Hillis's degrees of freedom). p-values are corrected by Holm's method "
    "over all {family} tests. Each 95 % interval is for one comparison. The simultaneous intervals (Bonferroni) cover "
    "all {family} differences together with 95 %. Distinguishable means p < 0.05 after correction."
)
MARGIN_NOTES = (
    " With the margin of {margin:g} points, non-inferior means that a one-sided test rejects a difference of "
    "-{margin:g} points or less, and equivalent that a second one also rejects {margin:g} points or more, with "
    "p < 0.05 after Holm's correction over the {family} tests of each kind."
)
# Nakada & Masada, table 2: accuracy and macro F1 in per cent, one run each; the test split is a tenth of 47,350.
STUDY_DOCUMENTS = 4735
STUDY_TABLE = {
    "bert-large-cased": (90.90, 87.70),
    "e5-large-v2": (91.15, 88.60),
    "bge-large-en-v1.5": (91.59, 88.77),
    "gte-large": (91.00, 87.86),
    "mxbai-embed-large-v1": (90.60, 87.37),
    "GIST-large-Embedding-v0": (91.53, 88.76),
    "UAE-Large-V1": (90.83, 87.75),
    "TF-IDF + linear SVM": (90.54, 87.20),
}


@dataclass
class CompareArguments:
    """What to compare and how."""

    output_dir: str = field(
        metadata={"help": "Folder to write: new, empty, or an earlier output of this script."}
    )
    runs: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Run folders, two or more. They are usually given without the flag, in any place."
        },
    )
    reference: str | None = field(
        default=None,
        metadata={
            "help": "Folder or name of the run that all others are tested against. Default: the most accurate."
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Dataset folder or Hub id of the runs, for the categories of documents that all get wrong."
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
            "help": "With --paper: assumed share of the study's documents on which exactly one of two models is "
            "right. Default: 0.08."
        },
    )
    margin: float | None = field(
        default=None,
        metadata={
            "help": "Margin in points, such as 1: also test whether each model is equivalent to its reference within "
            "the margin and whether it is non-inferior."
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
        if self.margin is not None and not 0 < self.margin < 100:
            raise ValueError(f"--margin is in points, above 0 and below 100, not {self.margin:g}")
        if self.dataset_revision and not self.dataset_name:
            raise ValueError("--dataset_revision needs --dataset_name")
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
    namespace.runs = [*namespace.runs, *(word for word in unknown if not word.startswith("-"))]
    unknown[:] = [word for word in unknown if word.startswith("-")]


def read_predictions(path: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return label and prediction of each document, indexed by id, and the scores, one column per class, or None.

    Exits with status 2 if the file cannot be read, a column or value is missing or an id is duplicated.
    """
    strings = dict.fromkeys(("id", "label", "prediction"), str)
    try:
        table = pd.read_csv(path, dtype=strings, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        fail(
            f"{path.parent} has no predictions.csv; give folders of finished runs (made with --do_predict)"
        )
    except (OSError, ValueError) as error:
        fail(f"cannot read {path}: {getattr(error, 'strerror', None) or one_line(error)}")
    for column in strings:
        if column not in table:
            fail(
                f"{path} has no column {column!r}; it needs id, label, prediction and one column of scores per class"
            )
        empty = np.flatnonzero(table[column].str.strip() == "")
        if len(empty):
            fail(
                f"{path} has no {column} in row {empty[0] + 2} ({len(empty)} such rows); make the run again"
            )
    if table.empty:
        fail(f"{path} has no documents; make the run again with a test split")
    if not isinstance(table.index, pd.RangeIndex):
        fail(
            f"{path} has rows with more values than its header has names (decimal commas?); make the run again"
        )
    doubles = table["id"][table["id"].duplicated()]
    if len(doubles):
        fail(
            f"{path} has document {doubles.iloc[0]!r:.80} more than once ({len(doubles)} such rows); remove them"
        )
    table = table.set_index("id")
    scores = table.drop(columns=["label", "prediction"])
    # pandas renames the column of a class with the name of one of the first columns.
    scores = scores.rename(columns={f"{name}.1": name for name in strings})
    if not scores.shape[1]:
        return table, None
    missing = sorted({*table["label"], *table["prediction"]} - set(scores.columns))
    if missing:
        fail(
            f"{path} has no column of scores for class {missing[0]!r:.80}; it has {list(scores.columns)!r:.200}"
        )
    for column in scores:
        scores[column] = pd.to_numeric(scores[column], errors="coerce")
        empty = scores.index[scores[column].isna()]
        if len(empty):
            fail(
                f"{path} has a score that is not a number, column {column!r:.80}, document {empty[0]!r:.80}"
            )
    return table[["label", "prediction"]], scores


def read_run(folder: str, label: str) -> dict:
    """Return a run: name, seed, learning rate, predictions and scores; label identifies it in what is published.

    probabilities says whether the scores of every document are a distribution. Exits with status 2 if the folder is
    not a finished run, is damaged or mixes two runs.
    """
    table, scores = read_predictions(Path(folder) / "predictions.csv")
    results, record = (
        read_json(path) if (path := Path(folder) / name).exists() else {}
        for name in ("predict_results.json", "run_arguments.json")
    )
    numbers = {key: results.get(key) for key in ("predict_samples", "predict_accuracy")}
    numbers |= {key: record.get(key) for key in ("seed", "learning_rate")}
    for key, value in numbers.items():
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            fail(f"{folder} records {key} {value!r:.80}, which is not a number; make the run again")
    found = {
        "predict_samples": len(table),
        "predict_accuracy": (table["label"] == table["prediction"]).mean(),
    }
    for key, value in found.items():
        if numbers[key] is not None and abs(numbers[key] - value) > 1e-4:
            fail(
                f"{folder} is damaged or mixes two runs: {key} is {value:.6g} in predictions.csv, {numbers[key]:.6g} "
                "in predict_results.json; make the run again"
            )
    is_baseline = (
        record.get("script") == "run_baseline.py" or (Path(folder) / "model.skops").exists()
    )
    source = str(record.get("model_name_or_path") or record.get("config_name") or "")
    name = short_path(source) if source else run_name(Path(folder).resolve())
    values = np.zeros((len(table), 1)) if scores is None else scores.to_numpy(dtype=float)
    is_distribution = np.isclose(values.sum(axis=1), 1, atol=1e-3) & np.all(values >= 0, axis=1)
    if 0.5 < is_distribution.mean() < 1:
        document = table.index[~is_distribution][0]
        fail(
            f"{folder}: the probabilities of document {document!r:.80} do not sum to 1 in predictions.csv; make the "
            "run again"
        )
    return {
        "folder": folder,
        "label": label,
        "name": BASELINE_NAME if is_baseline else name,
        "is_baseline": is_baseline,
        "seed": numbers["seed"],
        "variant": variant(record, numbers["learning_rate"]),
        "table": table,
        "scores": scores,
        "probabilities": bool(is_distribution.all()),
    }


def variant(record: dict, learning_rate: float | None) -> dict:
    """Return the values of VARIANTS in a run's record; what it does not have is left out."""
    arguments = record.get("arguments")
    values = {key: arguments.get(key) for key in VARIANTS} if isinstance(arguments, dict) else {}
    values |= {
        "learning_rate": learning_rate,
        "dataset_name": values.get("dataset_name") or record.get("dataset_name"),
    }
    if values["dataset_name"]:
        values["dataset_name"] = short_path(str(values["dataset_name"]))
    return {key: value for key, value in values.items() if value is not None}


def read_runs(folders: list[str]) -> list[dict]:
    """Read run folders and bring all into the document order of the first.

    A run's label is the shortest last part of its path that no other run has, so that the outputs do not show where
    the folders are on this machine. Exits with status 2 unless all runs have the same documents and labels.
    """
    paths = [Path(folder).resolve() for folder in folders]
    for path, count in Counter(paths).items():
        if count > 1:
            fail(f"run folder {path} is given {count} times; give each run once")
    runs = []
    for folder, path in zip(folders, paths, strict=True):
        length = 1 if run_name(path) == path.name else 2
        while sum(other.parts[-length:] == path.parts[-length:] for other in paths) > 1:
            length += 1
        runs.append(read_run(folder, "/".join(path.parts[-length:])))
    first, *others = runs
    for run in others:
        here, there = set(first["table"].index), set(run["table"].index)
        if here != there:
            fail(
                f"{first['folder']} and {run['folder']} predict different test sets: {len(here - there)} documents "
                f"only in the first, {len(there - here)} only in the second, such as {min(here ^ there)!r:.80}; "
                "compare runs made with the same dataset"
            )
        run["table"] = run["table"].loc[first["table"].index]
        other = np.flatnonzero(
            run["table"]["label"].to_numpy() != first["table"]["label"].to_numpy()
        )
        if len(other):
            fail(
                f"{first['folder']} and {run['folder']} give document {first['table'].index[other[0]]!r:.80} "
                f"different labels ({len(other)} such documents); compare runs made with the same dataset"
            )
        if run["scores"] is not None:
            run["scores"] = run["scores"].loc[first["table"].index]
    return runs


def pool_runs(runs: list[dict]) -> list[dict]:
    """Group the indices of the runs into the table's rows; the file's docstring says which runs belong together."""
    groups = {}
    for number, run in enumerate(runs):
        part = tuple(run["variant"].items()) if run["seed"] is not None else run["label"]
        groups.setdefault((run["name"], part), []).append(number)
    pooled = []
    for members in groups.values():
        seeds = [runs[number]["seed"] for number in members]
        # Runs with the same seed differ in something else, so they are not a sample of seeds.
        pooled += [members] if len(set(seeds)) == len(seeds) else [[number] for number in members]
    models = [
        {key: runs[members[0]][key] for key in ("name", "is_baseline")} | {"runs": members}
        for members in pooled
    ]
    for name, count in Counter(model["name"] for model in models).items():
        # The first columns of per_class_f1.csv are not models.
        rows = (
            [model for model in models if model["name"] == name]
            if count > 1 or name in CLASS_COLUMNS
            else []
        )
        first = [runs[model["runs"][0]] for model in rows]
        varying = [key for key in VARIANTS if len({run["variant"].get(key) for run in first}) > 1]
        shown = [
            ", ".join(
                text.format(run["variant"].get(key, "all"))
                for key, text in VARIANTS.items()
                if key in varying
            )
            for run in first
        ]
        is_clear = len(set(shown)) == count > 1 and all(
            "learning_rate" in run["variant"] for run in first
        )
        for model, run, text in zip(rows, first, shown, strict=True):
            model["name"] += f" ({text if is_clear else run['label']})"
    return models


def find_reference(reference: str | None, models: list[dict], runs: list[dict]) -> int:
    """Return the index of the row that --reference names by folder or name, or else of the most accurate row."""
    if reference is None:
        return max(
            range(len(models)),
            key=lambda number: (models[number]["accuracy"], models[number]["macro_f1"]),
        )
    for number, model in enumerate(models):
        folders = [Path(runs[member]["folder"]).resolve() for member in model["runs"]]
        if reference == model["name"] or Path(reference).resolve() in folders:
            return number
    fail(
        f"--reference {reference} is not one of the runs given: {', '.join(run['folder'] for run in runs)}"
    )


def mcnemar_test(only_first: int, only_second: int) -> float:
    """Return the exact two-sided McNemar p-value from the numbers of documents that exactly one model gets right."""
    return float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)


def tango_score(only_first: int, only_second: int, documents: int, null: float) -> float:
    """Return Tango's score statistic (Statistics in Medicine 17:891-908, 1998); for null = 0 it is McNemar's.

    It is about standard normal if null is the difference of two accuracies on the same documents. only_first and
    only_second count the documents that exactly one model gets right.
    """
    linear = (2 * documents - only_first + only_second) * null - only_first - only_second
    root = np.sqrt(max(0.0, linear**2 + 8 * documents * only_second * null * (1 - null)))
    share = max(
        0.0, (root - linear) / (4 * documents)
    )  # the likeliest share of only_second, given null
    surplus, variance = (
        only_first - only_second - documents * null,
        documents * (2 * share + null * (1 - null)),
    )
    if variance > 0:
        return surplus / np.sqrt(variance)
    return 0.0 if surplus == 0 else np.copysign(np.inf, surplus)


def accuracy_test(
    only_first: int, only_second: int, documents: int, null: float = 0.0, alpha: float = ALPHA
) -> dict:
    """Return the difference of two accuracies on the same documents, its interval and the p-value of null.

    The interval inverts Tango's score test. p is that of the exact McNemar test if null is 0, else of the score test.
    """
    z, edge = stats.norm.ppf(1 - alpha / 2), 1 - 1e-6
    bounds = []
    for bound, sign in ((-1.0, 1), (1.0, -1)):

        def excess(difference: float, sign: int = sign) -> float:
            return sign * tango_score(only_first, only_second, documents, difference) - z

        inside = excess(bound * edge) <= 0  # only if one model alone is right on all documents
        bounds.append(bound if inside else optimize.brentq(excess, -edge, edge))
    if null == 0:
        p = mcnemar_test(only_first, only_second)
    else:
        p = 2 * stats.norm.sf(abs(tango_score(only_first, only_second, documents, null)))
    return {
        "difference": (only_first - only_second) / documents,
        "low": bounds[0],
        "high": bounds[1],
        "p": float(p),
    }


def documents_test(differences: np.ndarray, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Return the mean of the documents' differences with its interval and the p-value of null (paired t-test)."""
    mean = float(differences.mean())
    if np.ptp(differences) == 0:
        return {"difference": mean, "low": mean, "high": mean, "p": float(mean == null)}
    found = stats.ttest_1samp(differences, null)
    low, high = found.confidence_interval(1 - alpha)
    return {"difference": mean, "low": float(low), "high": float(high), "p": float(found.pvalue)}


def bootstrap_test(differences: np.ndarray, null: float = 0.0, alpha: float = ALPHA) -> dict:
    """Return a difference (first entry) with the percentile interval of its resamples and the p-value of null."""
    low, high = percentile_interval(differences[1:], alpha)
    return {
        "difference": float(differences[0]),
        "low": low,
        "high": high,
        "p": difference_test(differences - null)["p"],
    }


def pooled_test(
    groups: list[tuple[int, np.ndarray]], null: float = 0.0, alpha: float = ALPHA
) -> dict:
    """Return a signed sum of models' means with its interval and the p-value of null; documents and seeds are random.

    Each group is (sign, the metric of every seed, (1 + resamples, seeds)): first on the documents, then on resamples
    of them. A group needs two seeds. Seeds are nested in models and crossed with documents, as readers with cases in
    diagnostic imaging, and this is the analysis made for that: the variance of Obuchowski & Rockette (Communications
    in Statistics B 24:285-308, 1995) for readers nested in treatments, error covariances from the bootstrap, t
    distribution with Hillis's degrees of freedom (Statistics in Medicine 26:596-619, 2007). A bootstrap over seeds,
    too, is the common alternative; with the usual three to five seeds its error rate depends on how much seeds differ.
    """
    estimate = float(sum(sign * values[0].mean() for sign, values in groups))
    document_variance = np.var(
        sum(sign * values[1:].mean(axis=1) for sign, values in groups), ddof=1
    )
    seed_variance, inverse_freedom = 0.0, 0.0
    for _, values in groups:
        n = values.shape[1]
        variance = np.var(values[0], ddof=1) / n
        covariance = np.cov(values[1:].T)
        shared = (covariance.sum() - np.trace(covariance)) / (n * (n - 1))
        # What one seed does on one document moves both variances: it is taken out of the documents' part.
        document_variance -= (np.trace(covariance) / n - shared) / n
        seed_variance += variance
        inverse_freedom += variance**2 / (n - 1)
    total = seed_variance + max(0.0, document_variance)
    if total == 0:
        # Every resample gives the same difference: the smallest p that so many resamples can show.
        half, p = 0.0, 1.0 if estimate == null else 1 / len(groups[0][1])
    else:
        freedom, error = (
            total**2 / inverse_freedom if inverse_freedom > 0 else np.inf,
            np.sqrt(total),
        )
        half = stats.t.ppf(1 - alpha / 2, freedom) * error
        p = 2 * stats.t.sf(abs(estimate - null) / error, freedom)
    return {
        "difference": estimate,
        "low": float(estimate - half),
        "high": float(estimate + half),
        "p": float(p),
    }


def measure(model: dict, draws: dict, correct: np.ndarray) -> None:
    """Add mean, standard deviation over seeds and 95 % interval of both metrics to a row of the table.

    draws are the metrics (1 + resamples, runs), correct says which run is right on which document. Where there are too
    few documents for an interval, its bounds are None.
    """
    members, documents = model["runs"], correct.shape[1]
    model["source"], model["seeds"] = "run", len(members)
    for metric in METRICS:
        values, interval = draws[metric][:, members], None
        if len(members) > 1 and documents >= MIN_TEST_DOCUMENTS:
            test = pooled_test([(1, values)])
            interval = test["low"], test["high"]
        elif len(members) == 1 and metric == "accuracy":
            interval = proportion_confint(
                int(correct[members].sum()), documents, alpha=ALPHA, method="wilson"
            )
        elif len(members) == 1 and documents >= MIN_BOOTSTRAP_DOCUMENTS:
            interval = percentile_interval(values[1:, 0])
        model[metric] = float(values[0].mean())
        model[f"{metric}_sd"] = float(values[0].std(ddof=1)) if len(members) > 1 else None
        low, high = np.clip(interval, 0, 1).tolist() if interval else (None, None)
        model |= {f"{metric}_low": low, f"{metric}_high": high}


def choose_test(
    first: dict, second: dict, metric: str, draws: dict, correct: np.ndarray
) -> dict | None:
    """Return the test of two models that suits their numbers of seeds: a function of null and alpha with its name.

    population says what is random: only with several seeds on both sides is it also the training. None if there are
    too few documents for the bootstrap.
    """
    a, b = (model["runs"] for model in (first, second))
    values = draws[metric][:, a], draws[metric][:, b]
    chosen = {"test": "paired bootstrap", "population": "new documents and these trained models"}
    chosen |= {"only_model_right": None, "only_reference_right": None}
    if min(len(a), len(b)) > 1:
        chosen |= {"test": "Obuchowski-Rockette", "population": "new documents and new seeds"}
        chosen["function"] = partial(pooled_test, [(1, values[0]), (-1, values[1])])
    elif metric == "accuracy" and len(a) == len(b) == 1:
        counts = [int((correct[m] & ~correct[n]).sum()) for m, n in ((a[0], b[0]), (b[0], a[0]))]
        chosen |= {
            "test": "exact McNemar",
            "only_model_right": counts[0],
            "only_reference_right": counts[1],
        }
        chosen["function"] = partial(accuracy_test, *counts, correct.shape[1])
    elif metric == "accuracy":
        chosen["test"] = "paired t-test"
        chosen["function"] = partial(
            documents_test, correct[a].mean(axis=0) - correct[b].mean(axis=0)
        )
    elif correct.shape[1] >= MIN_BOOTSTRAP_DOCUMENTS:
        chosen["function"] = partial(
            bootstrap_test, values[0].mean(axis=1) - values[1].mean(axis=1)
        )
    return chosen if "function" in chosen else None


def margin_tests(test: Callable, found: dict, margin: float) -> dict:
    """Return the p-values of non-inferiority and of equivalence within a margin (two one-sided tests).

    They are 1 if nothing varies, since then the documents cannot say how large a difference might be.
    """
    if found["low"] == found["high"]:
        return {"p_non_inferior": 1.0, "p_equivalent": 1.0}
    above, below = test(-margin)["p"] / 2, test(margin)["p"] / 2
    above = above if found["difference"] > -margin else 1 - above
    below = below if found["difference"] < margin else 1 - below
    return {"p_non_inferior": above, "p_equivalent": max(above, below)}


def run_tests(
    models: list[dict], reference: int, draws: dict, correct: np.ndarray, margin: float | None
) -> tuple[list[dict], list[str]]:
    """Return the tests of all models against the reference and against the baseline, and notes on what is not tested.

    All tests that are made are one family: Holm's method corrects their p-values, and the simultaneous intervals are
    Bonferroni's. Non-inferiority and equivalence within margin are a family each.
    """
    compared, pairs, notes = [], [], []
    for target in dict.fromkeys(
        [reference, *(n for n, model in enumerate(models) if model["is_baseline"])]
    ):
        compared += [
            (n, target) for n in range(len(models)) if n != target and (target, n) not in compared
        ]
    if (documents := correct.shape[1]) < MIN_TEST_DOCUMENTS:
        return [], [f"No tests: {documents} documents are fewer than {MIN_TEST_DOCUMENTS}."]
    if not compared:
        return [], ["No tests: all runs are seeds of one model."]
    chosen = {
        (*pair, metric): choose_test(models[pair[0]], models[pair[1]], metric, draws, correct)
        for pair, metric in product(compared, METRICS)
    }
    made = {key: test for key, test in chosen.items() if test}
    if left_out := len(chosen) - len(made):
        notes.append(
            f"{left_out} of {len(chosen)} tests are left out, all of macro F1: the paired bootstrap needs "
            f"{MIN_BOOTSTRAP_DOCUMENTS} documents, and there are {documents}."
        )
    for (first, second, metric), chosen_test in made.items():
        row = {
            "model": models[first]["name"],
            "reference": models[second]["name"],
            "metric": metric,
        }
        row |= {
            "documents": documents,
            "seeds": models[first]["seeds"],
            "reference_seeds": models[second]["seeds"],
        }
        test = chosen_test.pop("function")
        found, wide = test(), test(alpha=ALPHA / len(made))
        row |= (
            chosen_test
            | found
            | {"low_simultaneous": wide["low"], "high_simultaneous": wide["high"]}
        )
        row |= margin_tests(test, found, margin) if margin else {}
        pairs.append(row)
    for name, verdict in FAMILIES.items():
        tests = [{"p": row[name]} for row in pairs if name in row]
        add_holm(tests)
        for row, test in zip(pairs, tests, strict=False):
            row[f"{name}_holm"], row[verdict] = test["p_holm"], bool(test["p_holm"] < ALPHA)
    return pairs, notes


def agreement_table(
    models: list[dict], predictions: np.ndarray, correct: np.ndarray
) -> tuple[pd.DataFrame, list]:
    """Return the agreement of each pair of models and the disagreement of each pair of runs of different models.

    Agreement is the mean over pairs of seeds; that of a model with itself is between its seeds. Disagreement is the
    share of documents that exactly one of two runs gets right.
    """
    rows, disagreements = [], []
    for first, second in combinations_with_replacement(models, 2):
        pairs = list(
            combinations(first["runs"], 2)
            if first is second
            else product(first["runs"], second["runs"])
        )
        if not pairs:
            continue
        same = [float(np.mean(predictions[a] == predictions[b])) for a, b in pairs]
        # If two runs predict one and the same class for all documents, chance agreement is 1 and kappa is 0/0.
        kappa = [
            1.0 if share == 1 else cohen_kappa_score(predictions[a], predictions[b])
            for share, (a, b) in zip(same, pairs, strict=True)
        ]
        one_right = [float(np.mean(correct[a] != correct[b])) for a, b in pairs]
        disagreements += one_right if first is not second else []
        rows.append(
            [
                first["name"],
                second["name"],
                *(float(np.mean(part)) for part in (same, kappa, one_right)),
            ]
        )
    columns = ["model", "other", "same_prediction", "cohen_kappa", "exactly_one_right"]
    return pd.DataFrame(rows, columns=columns), disagreements


def per_class_table(
    models: list[dict],
    classes: list[str],
    labels: np.ndarray,
    f1: np.ndarray,
    predictions: np.ndarray,
) -> tuple[pd.DataFrame, list[str]]:
    """Return the F1 of every class and model, mean over seeds, and a note on each model that never predicts one."""
    columns = zip(
        CLASS_COLUMNS, (classes, np.bincount(labels, minlength=len(classes))), strict=True
    )
    notes, table = [], pd.DataFrame(dict(columns))
    for model in models:
        table[model["name"]] = np.nan_to_num(f1[model["runs"]]).mean(axis=0)
        unused = [
            name for number, name in enumerate(classes) if number not in predictions[model["runs"]]
        ]
        notes += (
            [f"{model['name']} never predicts {', '.join(unused)}: F1 is 0 there."]
            if unused
            else []
        )
    return table, notes


def load_categories(
    arguments: CompareArguments, ids: pd.Index
) -> tuple[list[list[str]], str | None]:
    """Return the categories of each test document, in the order of ids, and the dataset's commit on the Hub.

    Exits with status 2 if the dataset does not have them.
    """
    dataset = load_split(
        arguments.dataset_name, "test", ["id", "categories"], arguments.dataset_revision
    )
    categories = {
        str(name): names or []
        for name, names in zip(dataset["id"], dataset["categories"], strict=True)
    }
    missing = [name for name in ids if name not in categories]
    if missing:
        fail(
            f"the test split of {arguments.dataset_name} lacks {len(missing)} of the runs' documents, such as "
            f"{missing[0]}; give the dataset that the runs were made with"
        )
    found = [
        names.split() if isinstance(names, str) else names for names in map(categories.get, ids)
    ]
    if not all(isinstance(names, list) for names in found):
        fail(f"column 'categories' of {arguments.dataset_name} does not hold lists of categories")
    return found, dataset_commit(dataset)


def hard_documents(runs: list[dict], categories: list[list[str]] | None) -> pd.DataFrame:
    """Return the documents that every run gets wrong, the most confident mistakes first.

    majority_prediction is what most runs predict (if tied, the first in the alphabet), mean_confidence the probability
    that runs give to their own prediction, cross_listed whether the majority's class is another of the categories.
    """
    truth = runs[0]["table"]["label"]
    predictions = pd.DataFrame(
        {run["label"]: run["table"]["prediction"] for run in runs}, index=truth.index
    )
    wrong = predictions.ne(truth, axis=0).all(axis=1).to_numpy()
    table = pd.DataFrame({"id": truth.index[wrong], "label": truth[wrong].to_numpy()})
    hard = predictions[wrong]
    counts = [
        sorted(Counter(row).items(), key=lambda item: (-item[1], item[0]))[0]
        for row in hard.to_numpy()
    ]
    table["majority_prediction"] = [name for name, _ in counts]
    table["runs_that_agree"] = [count for _, count in counts]
    confidences = [confidence(run)[wrong] for run in runs if run["probabilities"]]
    table["mean_confidence"] = np.mean(confidences, axis=0) if confidences else np.nan
    if categories is not None:
        kept = [names for names, keep in zip(categories, wrong, strict=True) if keep]
        table["categories"] = [" ".join(names) for names in kept]
        table["cross_listed"] = [
            name in names for name, names in zip(table["majority_prediction"], kept, strict=True)
        ]
    table = pd.concat([table, hard.reset_index(drop=True).add_prefix("prediction of ")], axis=1)
    return table.sort_values(["mean_confidence", "id"], ascending=[False, True], ignore_index=True)


def confusable(runs: list[dict], share: float = 0.25) -> np.ndarray | None:
    """Return which documents are in the share with the closest two best scores of the first SVM; None without one."""
    for run in runs:
        if run["is_baseline"] and run["scores"] is not None and run["scores"].shape[1] > 1:
            best = np.sort(run["scores"].to_numpy(dtype=float), axis=1)
            order = np.argsort(best[:, -1] - best[:, -2], kind="stable")
            return np.isin(np.arange(len(order)), order[: round(share * len(order))])
    return None


def mean_with_interval(right: np.ndarray, n_resamples: int, seed: int) -> dict:
    """Return the mean of right (seeds, documents) with its 95 % interval, None below MIN_TEST_DOCUMENTS.

    One seed: Wilson's interval. Several: documents and seeds are random (Obuchowski-Rockette).
    """
    seeds, documents = right.shape
    low = high = None
    if documents >= MIN_TEST_DOCUMENTS and seeds == 1:
        low, high = map(
            float, proportion_confint(int(right.sum()), documents, alpha=ALPHA, method="wilson")
        )
    elif documents >= MIN_TEST_DOCUMENTS:
        weights = np.random.default_rng(seed).multinomial(
            documents, np.full(documents, 1 / documents), n_resamples
        )
        test = pooled_test([(1, np.vstack([right.mean(axis=1), weights @ right.T / documents]))])
        low, high = np.clip([test["low"], test["high"]], 0, 1).tolist()
    return {"mean": float(right.mean()), "low": low, "high": high}


def slices_table(
    models: list[dict],
    runs: list[dict],
    correct: np.ndarray,
    categories: list | None,
    arguments: CompareArguments,
) -> pd.DataFrame:
    """Return the accuracy of every model on parts of the test split, a row for each part and model.

    any_listed counts a prediction as right if it is any category of the document: the label is the primary one, and
    authors could have chosen another. Empty without the dataset's categories.
    """
    truth, everything = runs[0]["table"]["label"], np.ones(correct.shape[1], dtype=bool)
    masks, listed = {"all": everything}, None
    if (closest := confusable(runs)) is not None:
        masks |= {
            "SVM scores closest (a quarter)": closest,
            "SVM scores apart (the rest)": ~closest,
        }
    if categories is not None:
        pairs = [run["table"]["prediction"] for run in runs]
        listed = np.array(
            [[p in names for p, names in zip(column, categories, strict=True)] for column in pairs]
        )
        listed |= correct  # a dataset may leave the label out of the categories
        classes = set(truth)
        other = np.array(
            [bool(classes & set(n) - {t}) for n, t in zip(categories, truth, strict=True)]
        )
        masks |= {"listed in another class": other, "listed in one class": ~other}
    rows = []
    for (name, mask), model in product(masks.items(), models):
        if not mask.any():
            continue
        row = {
            "slice": name,
            "documents": int(mask.sum()),
            "model": model["name"],
            "seeds": len(model["runs"]),
        }
        for key, right in (("accuracy", correct), ("any_listed", listed)):
            part = right[model["runs"]][:, mask] if right is not None else None
            found = (
                mean_with_interval(part, arguments.n_resamples, arguments.seed)
                if part is not None
                else {}
            )
            row |= {
                key + end: found.get(of)
                for end, of in (("", "mean"), ("_low", "low"), ("_high", "high"))
            }
        rows.append(row)
    return pd.DataFrame(rows)


def confidence(run: dict) -> np.ndarray:
    """Return the probability that a run gives to its own prediction, one per document."""
    columns = run["scores"].columns.get_indexer(run["table"]["prediction"])
    return run["scores"].to_numpy()[np.arange(len(columns)), columns]


def calibration(confidences: np.ndarray, correct: np.ndarray, seed: int) -> dict:
    """Return the expected calibration error over bins of equal width (Guo et al., ICML 2017) and each bin's means.

    calibrated_low and calibrated_high are the 95 % band of the error that a calibrated model with these confidences
    shows on so many documents: right and wrong are drawn with the probabilities that are stated (Bröcker & Smith,
    Weather and Forecasting 22:651-661, 2007).
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidences, side="right") - 1, 0, CALIBRATION_BINS - 1)
    count, stated, right = (
        np.bincount(bins, weights, minlength=CALIBRATION_BINS)
        for weights in (None, confidences, correct)
    )
    generator = np.random.default_rng(seed)
    errors = [
        np.abs(
            np.bincount(bins, generator.random(len(bins)) < confidences, CALIBRATION_BINS) - stated
        ).sum()
        for _ in range(CALIBRATION_DRAWS)
    ]
    low, high = percentile_interval(np.array(errors) / len(bins))
    filled = count > 0
    return {
        "ece": float(np.abs(right - stated).sum() / len(bins)),
        "calibrated_low": low,
        "calibrated_high": high,
        "mean_confidence": float(confidences.mean()),
        "bins": [
            {"documents": int(n), "confidence": float(s / n), "accuracy": float(r / n)}
            for n, r, s in zip(count[filled], right[filled], stated[filled], strict=True)
        ],
    }


def calibrate(
    models: list[dict], runs: list[dict], correct: np.ndarray, seed: int
) -> tuple[dict[str, dict], list[str]]:
    """Return the calibration of every model that has probabilities and a note on each run that has none.

    The numbers of a model are the means over its seeds; runs holds the calibration of each.
    """
    results, notes = {}, []
    for model in models:
        found = []
        for number in model["runs"]:
            if runs[number]["probabilities"]:
                found.append(calibration(confidence(runs[number]), correct[number], seed))
            else:
                kind = (
                    "it has no scores"
                    if runs[number]["scores"] is None
                    else "its scores are not probabilities"
                )
                notes.append(f"Calibration is left out for {runs[number]['label']}: {kind}.")
        if found:
            means = {
                key: float(np.mean([run[key] for run in found]))
                for key in found[0]
                if key != "bins"
            }
            results[model["name"]] = means | {"runs": found}
    return results, notes


def calibration_sentence(name: str, result: dict) -> str:
    """Return the calibration of a model in words."""
    count = len(result["runs"])
    above = sum(run["ece"] > run["calibrated_high"] for run in result["runs"])
    below = sum(run["ece"] < run["calibrated_low"] for run in result["runs"])
    if count == 1:
        verdict = "above this band" if above else "below this band" if below else "within this band"
    else:
        verdict = f"means of {count} seeds, of which {above} are above their band and {below} below"
    return (
        f"{name}: expected calibration error {percent(result['ece'])} points, mean confidence "
        f"{percent(result['mean_confidence'])} %; a calibrated model would have {percent(result['calibrated_low'])} "
        f"to {percent(result['calibrated_high'])} points here ({verdict})."
    )


def detectable_difference(documents: int, disagreement: float) -> float | None:
    """Return the smallest difference in accuracy that McNemar's test finds with power 0.8 at level 0.05.

    disagreement is the share of documents on which exactly one model is right. Solves the sample-size formula of
    Connor (Biometrics 43:207-211, 1987). None if not even a model that wins every disagreement would be found.
    """
    z_alpha, z_power = stats.norm.ppf([1 - ALPHA / 2, POWER])

    def surplus(difference: float) -> float:
        spread = z_alpha * np.sqrt(disagreement) + z_power * np.sqrt(disagreement - difference**2)
        return documents - (spread / difference) ** 2

    if disagreement == 0 or surplus(disagreement) < 0:
        return None
    return float(optimize.brentq(surplus, disagreement * 1e-6, disagreement))


def study_pairs(disagreement: float) -> list[dict]:
    """Return for each pair of the study's models the bounds that its two accuracies set to the exact McNemar p-value.

    The smallest p belongs to the fewest disagreements (all errors of one model are errors of the other, too), the
    largest to the most (no document is missed by both), p_assumed to the assumed share of disagreements.
    """
    rows = []
    for (first, (a, _)), (second, (b, _)) in combinations(STUDY_TABLE.items(), 2):
        right = sorted(round(STUDY_DOCUMENTS * accuracy / 100) for accuracy in (a, b))
        lead, most = right[1] - right[0], 2 * STUDY_DOCUMENTS - sum(right)
        # The number of disagreements has the parity of the lead.
        assumed = min(
            max(round((disagreement * STUDY_DOCUMENTS - lead) / 2), 0), (most - lead) // 2
        )
        row = {"model": first, "reference": second, "difference": round((a - b) / 100, 6)}
        for name, losses in (
            ("p_least", 0),
            ("p_assumed", assumed),
            ("p_most", (most - lead) // 2),
        ):
            row[name] = mcnemar_test(losses + lead, losses)
        rows.append(row)
    return rows


def study_rows() -> list[dict]:
    """Return the study's table as rows of table 2: one run each, Wilson's interval for accuracy, none for macro F1."""
    rows = []
    for name, (accuracy, f1) in STUDY_TABLE.items():
        right = round(STUDY_DOCUMENTS * accuracy / 100)
        low, high = proportion_confint(right, STUDY_DOCUMENTS, alpha=ALPHA, method="wilson")
        row = {
            "name": name,
            "source": "study",
            "seeds": 1,
            "accuracy": accuracy / 100,
            "macro_f1": f1 / 100,
        }
        row |= {"accuracy_low": float(low), "accuracy_high": float(high), "accuracy_sd": None}
        rows.append(row | {"macro_f1_low": None, "macro_f1_high": None, "macro_f1_sd": None})
    return rows


def study_sentences(rows: list[dict], disagreement: float, observed: float | None) -> list[str]:
    """Return what the study's number of documents could have shown; each sentence names its assumption."""
    always = [row for row in rows if row["p_most"] < ALPHA]
    never = [row for row in rows if row["p_least"] >= ALPHA]
    assumed = [row for row in rows if row["p_assumed"] < ALPHA]
    sentences = [
        "The study reports accuracies, not predictions, so its pairs cannot be tested. The accuracies only bound the "
        "paired test, since it is not known how often exactly one of two models is right. Without a correction for "
        f"{len(rows)} pairs, {len(always)} differences would be significant at 5 % whatever the errors, "
        f"{len(never)} could not be whatever the errors, and {len(rows) - len(always) - len(never)} depend on them."
    ]
    for rate, kind in ((disagreement, "assumed"), (observed, "median of the runs compared here")):
        if rate:
            least = detectable_difference(STUDY_DOCUMENTS, rate)
            text = (
                "no difference"
                if least is None
                else f"only a difference of {percent(least)} points or more"
            )
            sentences.append(
                f"If exactly one of two models is right on {100 * rate:.1f} % of the {STUDY_DOCUMENTS:,} documents "
                f"({kind}), {text} in accuracy would be found with a power of 80 %."
            )
    largest = max(abs(row["difference"]) for row in rows)
    sentences.append(
        f"The largest difference in the study's accuracies is {percent(largest)} points."
    )
    names = "; ".join(
        f"{row['model']} and {row['reference']} ({percent(abs(row['difference']))})"
        for row in assumed
    )
    sentences.append(
        f"With {100 * disagreement:.1f} % assumed, {len(assumed)} of the study's {len(rows)} differences would have "
        f"p < 0.05 before correction{': ' + names if names else ''}. For macro F1 the table gives no such bound."
    )
    return sentences


def pair_sentence(row: dict, margin: float | None = None) -> str:
    """Return what a test found, in words; margin is in points."""
    shown = percent(abs(row["difference"]))
    word = "better than" if row["difference"] > 0 else "worse than"
    text = "as good as" if shown == "0.00" else f"{shown} points {word}"
    verdict = "distinguishable" if row["distinguishable"] else "not distinguishable"
    alone = [
        row[name]
        for name, n in (("model", "seeds"), ("reference", "reference_seeds"))
        if row[n] == 1
    ]
    caveat = (
        f" ({' and '.join(alone)}: one seed)"
        if max(row["seeds"], row["reference_seeds"]) > 1 and alone
        else ""
    )
    sentence = (
        f"{METRICS[row['metric']]}: {row['model']} is {text} {row['reference']}, 95 % interval {percent(row['low'])} "
        f"to {percent(row['high'])}, simultaneous {percent(row['low_simultaneous'])} to "
        f"{percent(row['high_simultaneous'])} ({row['test']}, p {p_text(row['p'])}, after Holm "
        f"{p_text(row['p_holm'])}): {verdict} on {row['documents']:,} documents, for {row['population']}{caveat}."
    )
    if margin:
        if row["equivalent"]:
            kind = "equivalent"
        else:
            kind = (
                "non-inferior, not shown to be equivalent"
                if row["non_inferior"]
                else "not shown to be non-inferior"
            )
        sentence += (
            f" Within {margin:g} points: {kind} (after Holm: non-inferior p {p_text(row['p_non_inferior_holm'])}, "
            f"equivalent p {p_text(row['p_equivalent_holm'])})."
        )
    return sentence


def detectable_sentence(documents: int, observed: float | None) -> str:
    """Return which differences the number of test documents can show at all."""
    if observed is None:
        return "All runs are seeds of one model: there is no difference to find."
    if observed == 0:
        return f"On these {documents:,} documents all models are right on the same ones: accuracy cannot tell them apart."
    least = detectable_difference(documents, observed)
    start = f"Exactly one of two models is right on {100 * observed:.1f} % of these {documents:,} documents (median)"
    if least is None:
        return f"{start}: with so few, hardly any difference between them can be told from chance."
    return (
        f"{start}: a difference of {percent(least)} points in accuracy would be found with a power of 80 % (before "
        "correction)."
    )


def table_texts(row: dict) -> list[str]:
    """Return a row of table 2 as text, in per cent."""
    texts = [row["name"] + (" †" if row["source"] == "study" else ""), str(row["seeds"])]
    for metric in METRICS:
        spread, low, high = (row[f"{metric}_{part}"] for part in ("sd", "low", "high"))
        texts.append(percent(row[metric]) + ("" if spread is None else f" ± {percent(spread)}"))
        texts.append("" if low is None else f"{percent(low)} to {percent(high)}")
    return texts


def latex(texts: list[list[str]], bold: set[tuple[int, int]]) -> str:
    """Return table 2 as a booktabs tabular of escaped text."""
    frame = pd.DataFrame(texts, columns=range(len(HEADER)))
    styles = pd.DataFrame("", frame.index, frame.columns)
    for row, column in bold:
        styles.iloc[row, column] = "textbf:--rwrap;"
    style = frame.style.hide(axis="index").apply(lambda _: styles, axis=None).format(escape="latex")
    style = style.format_index(lambda column: HEADER[column].replace("%", r"\%"), axis="columns")
    text = style.to_latex(hrules=True, column_format="l" + "r" * (len(HEADER) - 1))
    return text.replace("±", r"$\pm$").replace("†", r"$^\dagger$")


def plot_table(rows: list[dict], documents: int) -> bytes:
    """Draw accuracy and macro F1 of every row with 95 % intervals; the study's rows are hollow."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 1.2 + 0.38 * len(rows)), sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        for height, row in enumerate(rows):
            is_study = row["source"] == "study"
            color = "#888888" if is_study else "#1b7837"
            if row[f"{metric}_low"] is not None:
                low, high = 100 * row[f"{metric}_low"], 100 * row[f"{metric}_high"]
                axes.hlines(height, low, high, color=color, linewidth=1.6)
            axes.plot(
                100 * row[metric],
                height,
                "o",
                color=color,
                markerfacecolor="white" if is_study else color,
            )
        axes.set_xlabel(f"{title}, per cent (95 % interval)")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    names = [
        plain(row["name"][:50]) + (" (study)" if row["source"] == "study" else "") for row in rows
    ]
    panels[0].set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.5, -0.5))
    figure.suptitle(f"{documents:,} test documents")
    figure.tight_layout()
    return png(figure)


def plot_calibration(results: dict[str, dict]) -> bytes:
    """Draw the reliability diagram: a line per run, a color per model; larger markers have more documents."""
    figure, axes = plt.subplots(figsize=(6.4, 5.6))
    axes.plot([0, 1], [0, 1], "--", color="#888888", linewidth=1)
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for number, (name, result) in enumerate(results.items()):
        color = colors[number % len(colors)]
        label = plain(f"{name[:50]} (ECE {100 * result['ece']:.1f})")
        for run in result["runs"]:
            x, y, n = (
                np.array([part[key] for part in run["bins"]])
                for key in ("confidence", "accuracy", "documents")
            )
            axes.plot(x, y, linewidth=1.4, color=color, label=label)
            axes.scatter(x, y, s=8 + 120 * n / n.sum(), color=color, alpha=0.7)
            label = None
    axes.set(
        xlim=(0, 1.01),
        ylim=(-0.01, 1.01),
        xlabel="probability of the prediction",
        ylabel="share that is right",
    )
    axes.legend(loc="best", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def bullets(sentences: list[str]) -> str:
    """Return a Markdown list of escaped sentences."""
    return "\n".join(f"- {escape_markdown(sentence)}" for sentence in sentences)


def tests_text(result: dict) -> list[str]:
    """Return the paragraphs of comparison.md on the tests."""
    arguments, family = result["arguments"], len(result["pairs"])
    sentences = [pair_sentence(row, arguments["margin"]) for row in result["pairs"]]
    parts = ["## Tests", bullets(sentences) or "None was made."]
    if family:
        text = TEST_NOTES.format(resamples=arguments["n_resamples"], family=family)
        if arguments["margin"]:
            text += MARGIN_NOTES.format(margin=arguments["margin"], family=family)
        parts.append(text)
        if arguments["reference"] is None:
            parts.append(
                f"{escape_markdown(result['reference'])} is the reference because it is the most accurate on these "
                "very documents, which favors it a little. A reference that is chosen beforehand is fairer."
            )
    return parts


def slices_text(slices: list[dict]) -> list[str]:
    """Return the paragraphs of comparison.md on the parts of the test split."""

    def interval(row: dict, key: str) -> str:
        low, high = (row[key + end] for end in ("_low", "_high"))
        return percent(row[key]) + ("" if low is None else f" ({percent(low)} to {percent(high)})")

    text = (
        "Accuracy in per cent with 95 % intervals. *Any listed* counts each category of a document as right, not only "
        "the primary one. The SVM is at a disadvantage where its own two best scores are closest: compare the other "
        "models there with each other."
    )
    rows = [
        [
            row["slice"],
            f"{row['documents']:,}",
            row["model"],
            interval(row, "accuracy"),
            interval(row, "any_listed"),
        ]
        for row in slices
    ]
    header = ["documents", "number", "model", "accuracy", "any listed"]
    return ["## Parts of the test split", text, markdown_table(header, rows)]


def hard_documents_text(result: dict, hard: pd.DataFrame) -> list[str]:
    """Return the paragraphs of comparison.md on the documents that every run gets wrong."""
    found = result["hard_documents"]
    text = (
        f"Every run is wrong on {found['documents']:,} of {result['documents']:,} documents (hard_documents.csv). "
        "They are candidates for label noise, the more so the more confident the runs are."
    )
    if "cross_listed" in found:
        text += (
            f" On {found['cross_listed']:,} of them the majority's prediction is another category of the document; of "
            f"all documents, {100 * found['share_of_all_with_another']:.1f} % have another of these classes among "
            "their categories."
        )
    parts = ["## Documents that every run gets wrong", text]
    if len(hard):
        shown = hard.head(SHOWN_HARD_DOCUMENTS)
        shown = shown.assign(
            mean_confidence=shown["mean_confidence"].map(
                lambda p: "" if np.isnan(p) else f"{p:.3f}"
            )
        )
        columns = [name for name in HARD_COLUMNS if name in shown]
        header = [name.replace("_", " ") for name in columns]
        parts.append(markdown_table(header, shown[columns].to_numpy().tolist()))
    return parts


def summary(result: dict, table: str, study: list[str], hard: pd.DataFrame) -> str:
    """Return comparison.md: the table, then a sentence for every test, then everything else that was found."""
    parts = [
        "# Comparison of runs",
        table,
        detectable_sentence(result["documents"], result["median_disagreement"]),
    ]
    parts += tests_text(result)
    if study:
        parts += ["## The study's table", *study]
    names = [model["name"] for model in result["models"]]
    rows = [
        [row["class"], f"{row['documents']:,}", *(percent(row[name]) for name in names)]
        for row in result["per_class_f1"]
    ]
    parts += [
        "## F1 of every class, per cent",
        markdown_table(["class", "documents", *names], rows),
    ]
    rows = [
        [f"{row['model']} / {row['other']}", f"{row['cohen_kappa']:.3f}"]
        + [percent(row[key]) for key in ("same_prediction", "exactly_one_right")]
        for row in result["agreement"]
    ]
    header = ["models", "Cohen's kappa", "same prediction, %", "exactly one right, %"]
    parts += ["## Agreement", markdown_table(header, rows)]
    parts += slices_text(result["slices"])
    parts += hard_documents_text(result, hard)
    sentences = [calibration_sentence(name, part) for name, part in result["calibration"].items()]
    parts += ["## Calibration", bullets(sentences) or "Left out: no run has probabilities."]
    if result["notes"]:
        parts += ["## Notes", bullets(result["notes"])]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def check_output_dir(folder: Path) -> None:
    """Make the output folder. Exit with status 2 if it has a file that this script did not write."""
    open_output_dir(folder, "|".join(OUTPUTS))
    present = {path.name.removesuffix(".tmp") for path in folder.iterdir()} - {"comparison.json"}
    # comparison.json is written first, so it is there if another file is.
    path = folder / "comparison.json"
    if (read_json(path).get("script") != SCRIPT) if path.exists() else present:
        fail(
            f"{folder} has {min(present | {path.name})}, which {SCRIPT} did not write; choose another --output_dir"
        )


def published(arguments: CompareArguments, runs: list[dict]) -> dict:
    """Return the arguments as they are recorded: an absolute path of this machine becomes its last part."""
    record = asdict(arguments)
    for name in ("output_dir", "reference", "dataset_name"):
        if record[name] and Path(record[name]).is_absolute():
            record[name] = short_path(record[name])
    record["runs"] = [
        run["label"] if Path(run["folder"]).is_absolute() else run["folder"] for run in runs
    ]
    return record


def main() -> None:
    # 1. Arguments, runs, output folder
    logger = start_logging()
    # --paper is complete without a value, so that a run folder may follow it.
    sys.argv[1:] = [
        "--paper=true"
        if word == "--paper" and following.lower() not in ("true", "false", "yes", "no")
        else word
        for word, following in pairwise([*sys.argv[1:], ""])
    ]
    (arguments,) = parse_arguments(__doc__, CompareArguments, adapt=positional_runs)
    if len(arguments.runs) < 2:
        fail(
            f"a comparison needs two runs or more, not {len(arguments.runs)}: {SCRIPT} RUN RUN --output_dir DIR"
        )
    runs = read_runs(arguments.runs)
    truth = runs[0]["table"]["label"]
    categories, commit = (
        load_categories(arguments, truth.index) if arguments.dataset_name else (None, None)
    )
    check_output_dir(output := Path(arguments.output_dir))

    # 2. Both metrics of every run, on the documents and on resamples of them
    classes = sorted(set(truth).union(*(run["table"]["prediction"] for run in runs)))
    labels = pd.Index(classes).get_indexer(truth)
    predictions = np.array(
        [pd.Index(classes).get_indexer(run["table"]["prediction"]) for run in runs]
    )
    correct = predictions == labels
    patterns, counts = np.unique(np.vstack([labels, predictions]), axis=1, return_counts=True)
    accuracy, f1 = bootstrap(
        patterns[0],
        patterns[1:],
        len(classes),
        arguments.n_resamples,
        arguments.seed,
        counts=counts,
    )
    draws = {"accuracy": accuracy, "macro_f1": np.nanmean(f1, axis=-1)}

    # 3. A row of table 2 for every model, and the tests
    models = pool_runs(runs)
    for model in models:
        measure(model, draws, correct)
    reference = find_reference(arguments.reference, models, runs)
    margin = arguments.margin and arguments.margin / 100
    pairs, notes = run_tests(models, reference, draws, correct, margin)
    if len(labels) < MIN_BOOTSTRAP_DOCUMENTS:
        notes.append(
            f"Intervals of macro F1 are left out for one seed: fewer than {MIN_BOOTSTRAP_DOCUMENTS} documents."
        )
    if len(labels) < MIN_TEST_DOCUMENTS:
        notes.append(
            f"Intervals are left out for several seeds: fewer than {MIN_TEST_DOCUMENTS} documents."
        )

    # 4. Classes, agreement, documents that every run gets wrong, calibration
    per_class, unused = per_class_table(models, classes, labels, f1[0], predictions)
    agreement, disagreements = agreement_table(models, predictions, correct)
    hard = hard_documents(runs, categories)
    hard_summary = {"documents": len(hard)}
    if categories is None:
        unused.append("Cross-listing is left out: it needs the categories in --dataset_name.")
    else:
        other = [
            bool(set(names) & set(classes) - {name})
            for names, name in zip(categories, truth, strict=True)
        ]
        hard_summary |= {
            "cross_listed": int(hard["cross_listed"].sum()),
            "share_of_all_with_another": np.mean(other),
        }
    slices = slices_table(models, runs, correct, categories, arguments)
    calibrations, uncalibrated = calibrate(models, runs, correct, arguments.seed)
    for model in models:
        model["runs"] = [
            {"folder": runs[number]["label"], "seed": runs[number]["seed"]}
            | {metric: float(draws[metric][0, number]) for metric in METRICS}
            for number in model["runs"]
        ]
    result = {
        "script": SCRIPT,
        "arguments": published(arguments, runs),
        "dataset_commit": commit,
        "versions": versions("numpy", "scipy", "statsmodels", "scikit-learn", "pandas"),
        "documents": len(labels),
        "classes": classes,
        "reference": models[reference]["name"],
        "models": models,
        "pairs": pairs,
        "median_disagreement": float(np.median(disagreements)) if disagreements else None,
        "per_class_f1": per_class.to_dict("records"),
        "agreement": agreement.to_dict("records"),
        "slices": slices.astype(object).where(slices.notna(), None).to_dict("records"),
        "hard_documents": hard_summary,
        "calibration": calibrations,
        "notes": notes + unused + uncalibrated,
    }

    # 5. Table 2, with the study's rows
    rows = [*models, *(study_rows() if arguments.paper else [])]
    texts, bold = [table_texts(row) for row in rows], set()
    for metric, column in (("accuracy", 2), ("macro_f1", 4)):
        best = percent(max(model[metric] for model in models))
        bold |= {
            (number, column)
            for number, model in enumerate(models)
            if percent(model[metric]) == best
        }
    about = f"{len(labels):,} test documents, per cent. 95 % intervals; ± is the standard deviation over seeds."
    if arguments.paper:
        about += f" † As the study reports it: one run, about {STUDY_DOCUMENTS:,} other documents, Wilson's interval."
    table = markdown_table(HEADER, texts, bold) + f"\n{about}\n"
    numbers = [metric + end for metric in METRICS for end in ("", "_low", "_high", "_sd")]
    frame = pd.DataFrame(rows)[["name", "source", "seeds", *numbers]].rename(
        columns={"name": "model"}
    )
    study, sentences = None, []
    if arguments.paper:
        rate = arguments.disagreement_rate
        study = {
            "documents": STUDY_DOCUMENTS,
            "disagreement_rate": rate,
            "pairs": study_pairs(rate),
        }
        study["detectable_difference"] = detectable_difference(STUDY_DOCUMENTS, rate)
        study["sentences"] = sentences = study_sentences(
            study["pairs"], rate, result["median_disagreement"]
        )

    # 6. The folder, comparison.json first; files of an earlier comparison that this one does not have are removed
    csv = {"index": False, "float_format": "%.8g"}
    outputs = {
        "comparison.json": json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) + "\n",
        "pairs.csv": pd.DataFrame(pairs).to_csv(**csv) if pairs else None,
        "per_class_f1.csv": per_class.to_csv(**csv),
        "agreement.csv": agreement.to_csv(**csv),
        "slices.csv": slices.to_csv(**csv),
        "hard_documents.csv": hard.to_csv(**csv),
        "table2.md": table,
        "table2.tex": latex(texts, bold),
        "table2.csv": frame.to_csv(**csv),
        "table2.png": plot_table(rows, len(labels)),
        "study.json": json.dumps(study, ensure_ascii=False, indent=2) + "\n" if study else None,
        "calibration.png": plot_calibration(calibrations) if calibrations else None,
        "comparison.md": summary(result, table, sentences, hard),
    }
    write_files(output, outputs)

    # 7. What was found
    logger.info(
        "written to %s: %s", output, ", ".join(name for name, content in outputs.items() if content)
    )
    for sentence in [*result["notes"], *(pair_sentence(row, arguments.margin) for row in pairs)]:
        logger.info(sentence)
    logger.info(detectable_sentence(len(labels), result["median_disagreement"]))
    width = max(len(model["name"]) for model in models)
    print(f"\n{'model':<{width}}  test accuracy  macro F1")
    for model in models:
        print(
            f"{model['name']:<{width}}  {percent(model['accuracy']):>13}  {percent(model['macro_f1']):>8}"
        )
    data = ["--dataset_name", arguments.dataset_name] if arguments.dataset_name else []
    report = [
        "--output_dir",
        "report",
        "--comparison_dir",
        arguments.output_dir,
        *data,
        "--runs",
        *arguments.runs,
    ]
    print(f"next: {shlex.join(['python', 'tools/make_report.py', *report])}")


if __name__ == "__main__":
    main()
