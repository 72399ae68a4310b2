#!/usr/bin/env python
"""Compare runs on the same test documents: table 2 with intervals, paired tests, agreement, calibration.

    python compare_runs.py runs/svm runs/bert-large-cased runs/bge-large-en-v1.5 --output_dir comparison --paper
    python compare_runs.py runs/svm runs/minilm-seed1 runs/minilm-seed2 runs/minilm-seed3 --output_dir comparison \\
        --dataset_name data/arxiv --reference runs/svm

Needs no model and no GPU: it reads each run's predictions.csv (columns id, label, prediction, then a column of scores
for every class) and, where present, run_arguments.json and predict_results.json. Runs with the same model name (last
part of model_name_or_path) and learning rate but different seeds are pooled into one row; a run without
run_arguments.json is a row of its own, named after its folder.

Writes into --output_dir: comparison.json (everything), pairs.csv (the tests), per_class_f1.csv, agreement.csv and
hard_documents.csv (every run is wrong); then render_comparison.py beside this file draws table2.md, .tex, .csv and
.png, comparison.md and calibration.png from them. Ends with a small table on standard output. Below 20 documents
the tests are left out.
"""

import argparse
import difflib
import json
import logging
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import combinations, combinations_with_replacement, product
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import yaml
from datasets import load_dataset
from scipy import stats
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from transformers import HfArgumentParser

logger = logging.getLogger(__name__)

SCRIPT = "compare_runs.py"
TABLES = ("pairs.csv", "per_class_f1.csv", "agreement.csv", "hard_documents.csv")
# What render_comparison.py makes of them.
RENDERED = tuple("table2.md table2.tex table2.csv table2.png comparison.md calibration.png study.json".split())
BASELINE_NAME = "TF-IDF + linear SVM"
MIN_TEST_DOCUMENTS = 20
CALIBRATION_BINS = 15
ALPHA = 0.05
PACKAGES = ("numpy", "scipy", "statsmodels", "scikit-learn", "pandas")
METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1"}


@dataclass
class CompareArguments:
    """What to compare with what, and how."""

    output_dir: str = field(metadata={"help": "Folder to write: new, empty, or written by this script before."})
    runs: list[str] = field(
        default_factory=list,
        metadata={"help": "Run folders, two or more. They are usually given first and without the flag."},
    )
    reference: str | None = field(
        default=None,
        metadata={"help": "Folder or name of the run that all are tested against; the most accurate if not given."},
    )
    paper: bool = field(default=False, metadata={"help": "Add the study's table 2 and what its test set could show."})
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Dataset folder or Hub id of the runs, for the categories of documents that all get wrong."},
    )
    n_resamples: int = field(default=10_000, metadata={"help": "Bootstrap samples of the documents."})
    seed: int = field(default=42, metadata={"help": "Seed of the bootstrap."})

    def __post_init__(self):
        if self.n_resamples < 100:
            raise ValueError(f"--n_resamples must be at least 100, not {self.n_resamples}")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, not {self.seed}")


def fail(message: str) -> NoReturn:
    """End the program as every user's mistake ends it: one line on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse_arguments(*dataclass_types: type) -> tuple:
    """Parse the command line; a first argument FILE.json or FILE.yaml stands for flags, later flags override it.

    Words that belong to no flag are appended to the first dataclass's ``runs``. Ends with exit code 2 on an unreadable
    file, an unknown flag (the nearest known one is named) or a bad value.
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
    namespace, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        fail(f"unknown argument {unknown[0]}; {f'did you mean {nearest[0]}?' if nearest else '--help lists all'}")
    namespace.runs = [*namespace.runs, *rest]
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:
        fail(" ".join(str(error).split()))


def read_json(path: Path) -> dict:
    """The object in a JSON file; empty if there is no such file. Exit code 2 if it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        fail(f"cannot read {path}: {' '.join(str(error).split())}")
    return content if isinstance(content, dict) else fail(f"{path} holds no JSON object; make the run again")


def read_run(folder: str) -> dict:
    """Read a run folder: its name, seed and learning rate, and its predictions as a table indexed by document id.

    scores is a table of one column per class, or None; probabilities says whether its rows are distributions. Ends
    with exit code 2 if the folder is not a run, or its ids are missing or doubled.
    """
    path = Path(folder) / "predictions.csv"
    strings = dict.fromkeys(("id", "label", "prediction"), str)
    try:
        table = pd.read_csv(path, dtype=strings, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        fail(f"{folder} holds no predictions.csv; give folders of finished runs (made with --do_predict)")
    except (OSError, ValueError) as error:
        fail(f"cannot read {path}: {' '.join(str(error).split())}")
    for column in strings:
        if column not in table:
            fail(f"{path} has no column {column!r}; it needs id, label, prediction and one column of scores per class")
        empty = np.flatnonzero(table[column].str.strip() == "")
        if len(empty):
            fail(f"{path} has no {column} in row {empty[0] + 2} ({len(empty)} such rows); make the run again")
    if table.empty:
        fail(f"{path} holds no documents; make the run again with a test split")
    doubled = table["id"][table["id"].duplicated()]
    if len(doubled):
        fail(f"{path} holds document {doubled.iloc[0]} more than once ({len(doubled)} such rows); remove the doubles")
    table = table.set_index("id")
    scores = table.drop(columns=["label", "prediction"])
    if has_scores := bool(scores.shape[1]):
        missing = sorted({*table["label"], *table["prediction"]} - set(scores.columns))
        if missing:
            fail(f"{path} has no column of scores for class {missing[0]}; it has {', '.join(scores.columns)}")
        scores = scores.apply(pd.to_numeric, errors="coerce")
        if scores.isna().to_numpy().any():
            fail(f"{path} has a score that is no number, document {scores.index[scores.isna().any(axis=1)][0]}")
    values = scores.to_numpy(dtype=float)
    sums_to_one = np.allclose(values.sum(axis=1), 1, atol=1e-3)
    correct = float((table["label"] == table["prediction"]).mean())
    recorded = read_json(Path(folder) / "predict_results.json").get("predict_accuracy")
    if recorded is not None and abs(recorded - correct) > 1e-4:
        fail(f"{folder} mixes two runs: accuracy is {correct:.4f} in predictions.csv, {recorded:.4f} in "
             "predict_results.json; make the run again")  # fmt: skip
    record = read_json(Path(folder) / "run_arguments.json")
    is_baseline = record.get("script") == "run_baseline.py" or (Path(folder) / "model.skops").exists()
    source = str(record.get("model_name_or_path") or record.get("config_name") or "")
    parts = [part.removesuffix(".json") for part in source.split("/") if part not in ("", ".")]
    # The last part may only say what kind of thing it is.
    while len(parts) > 1 and re.fullmatch(r"model|config|checkpoint-\d+", parts[-1]):
        parts.pop()
    return {
        "folder": folder,
        "name": BASELINE_NAME if is_baseline else parts[-1] if parts else Path(folder).resolve().name,
        "is_baseline": is_baseline,
        "seed": record.get("seed"),
        "learning_rate": record.get("learning_rate"),
        "table": table[["label", "prediction"]],
        "scores": scores if has_scores else None,
        "probabilities": has_scores and sums_to_one and bool(np.all(values >= 0)),
    }


def align_runs(runs: list[dict]) -> None:
    """Bring every run into the order of the first. Exit code 2 unless all have the same documents and labels."""
    first, *others = runs
    for run in others:
        here, there = set(first["table"].index), set(run["table"].index)
        if here != there:
            counts = f"{len(here - there)} documents only in the first, {len(there - here)} only in the second"
            fail(f"{first['folder']} and {run['folder']} predict different test sets: {counts}, such as "
                 f"{min(here ^ there)}; compare runs made with the same dataset")  # fmt: skip
        run["table"] = run["table"].loc[first["table"].index]
        other = np.flatnonzero(run["table"]["label"].to_numpy() != first["table"]["label"].to_numpy())
        if len(other):
            fail(f"{first['folder']} and {run['folder']} give document {first['table'].index[other[0]]} different "
                 f"labels ({len(other)} such documents); compare runs made with the same dataset")  # fmt: skip
        if run["scores"] is not None:
            run["scores"] = run["scores"].loc[first["table"].index]


def pool_runs(runs: list[dict]) -> list[dict]:
    """Group the numbers of the runs into the table's rows; see the file's docstring for the rule."""
    groups = {}
    for number, run in enumerate(runs):
        key = (run["name"], run["learning_rate"]) if run["seed"] is not None else (run["name"], run["folder"])
        groups.setdefault(key, []).append(number)
    pooled = []
    for members in groups.values():
        seeds = [runs[number]["seed"] for number in members]
        # The same seed twice: these runs differ in something else, so they are no sample of seeds.
        pooled += [members] if len(set(seeds)) == len(seeds) else [[number] for number in members]
    models = [
        {key: runs[members[0]][key] for key in ("name", "is_baseline")} | {"runs": members} for members in pooled
    ]
    for name, count in Counter(model["name"] for model in models).items():
        rows = [model for model in models if model["name"] == name] if count > 1 else []
        rates = [runs[model["runs"][0]]["learning_rate"] for model in rows]
        for model, rate in zip(rows, rates, strict=True):
            is_rate = None not in rates and len(set(rates)) == count
            model["name"] += f" (learning rate {rate:g})" if is_rate else f" ({runs[model['runs'][0]]['folder']})"
    return models


def find_reference(reference: str | None, models: list[dict], runs: list[dict]) -> int:
    """Number of the row that --reference means, by folder or by name; without it the most accurate row's."""
    if reference is None:
        return max(range(len(models)), key=lambda number: (models[number]["accuracy"], models[number]["macro_f1"]))
    for number, model in enumerate(models):
        folders = [Path(runs[member]["folder"]).resolve() for member in model["runs"]]
        if reference == model["name"] or Path(reference).resolve() in folders:
            return number
    fail(f"--reference {reference} is none of the runs given: {', '.join(run['folder'] for run in runs)}")


def macro_f1(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Macro F1 from counts of shape (..., classes): mean over the classes that are a label or a prediction at all.

    The rule of sklearn.metrics.f1_score(average="macro", zero_division=0).
    """
    size = predicted + support
    scores = np.divide(2 * hits, size, out=np.zeros(np.broadcast(hits, size).shape), where=size > 0)
    return scores.sum(axis=-1) / (size > 0).sum(axis=-1)


def bootstrap(labels: np.ndarray, predictions: np.ndarray, n_classes: int, n_resamples: int, seed: int) -> dict:
    """Accuracy and macro F1, each (n_resamples, runs), of all runs on the same resamples of the documents.

    labels is (documents,), predictions (runs, documents), both class numbers. Documents alike in the label and every
    prediction are exchangeable, so a resample is one multinomial draw over the distinct patterns, and its confusion
    counts are a matrix product: no array of labels is ever resampled. Blocks of 250 draws bound the memory.
    """
    patterns, counts = np.unique(np.vstack([labels, predictions]), axis=1, return_counts=True)
    support = np.eye(n_classes)[patterns[0]]
    predicted = np.eye(n_classes)[patterns[1:]]
    cells = np.concatenate([predicted * support, predicted]).swapaxes(0, 1)  # (patterns, 2 x runs, classes)
    n_runs, n_documents = len(predictions), len(labels)
    generator = np.random.default_rng(seed)
    accuracies, scores = np.empty((n_resamples, n_runs)), np.empty((n_resamples, n_runs))
    for start in range(0, n_resamples, 250):
        block = slice(start, min(start + 250, n_resamples))
        draws = generator.multinomial(n_documents, counts / n_documents, size=block.stop - start).astype(float)
        sums = (draws @ cells.reshape(len(cells), -1)).reshape(len(draws), 2 * n_runs, n_classes)
        hits = sums[:, :n_runs]
        accuracies[block] = hits.sum(axis=-1) / n_documents
        scores[block] = macro_f1(hits, sums[:, n_runs:], (draws @ support)[:, None])
    return {"accuracy": accuracies, "macro_f1": scores}


def bootstrap_test(differences: np.ndarray) -> tuple[float, float, float]:
    """95 % percentile interval of a bootstrapped difference and the two-sided p-value that belongs to it.

    p is twice the smaller share of resamples on one side of 0, with one added above and below, so it is never 0
    (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 4.4).
    """
    low, high = np.quantile(differences, [ALPHA / 2, 1 - ALPHA / 2])
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(low), float(high), float(min(1.0, 2 * (tail + 1) / (len(differences) + 1)))


def mcnemar_test(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p-value from the numbers of documents that exactly one of the two models gets right."""
    return float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)


def pooled_test(groups: list[tuple[int, np.ndarray, np.ndarray]]) -> tuple[float, float, float, float]:
    """Estimate, 95 % interval and p-value (of 0) of a signed sum of models' means; documents and seeds are random.

    Each group is (sign, the metric of every seed (seeds,), its bootstrap over documents (resamples, seeds)). Seeds are
    nested in models and crossed with documents, as readers with cases in diagnostic imaging; this is the analysis made
    for that: the variance of Obuchowski & Rockette (Communications in Statistics B 24:285-308, 1995) for readers
    nested in treatments, error covariances from the bootstrap, t distribution with Hillis's degrees of freedom
    (Statistics in Medicine 26:596-619, 2007). A bootstrap over seeds too is the common alternative; with the usual
    three to five seeds its error rate depends on how much seeds differ. A group of one seed adds no seed variance.
    """
    estimate = sum(sign * values.mean() for sign, values, _ in groups)
    document_variance = np.var(sum(sign * draws.mean(axis=1) for sign, _, draws in groups), ddof=1)
    seed_variance, inverse_freedom = 0.0, 0.0
    for _, values, draws in groups:
        if (n := len(values)) > 1:
            variance = np.var(values, ddof=1) / n
            covariance = np.cov(draws.T)
            shared = (covariance.sum() - np.trace(covariance)) / (n * (n - 1))
            # What one seed does on one document moves both variances: it is taken out of the documents' part.
            document_variance -= (np.trace(covariance) / n - shared) / n
            seed_variance += variance
            inverse_freedom += variance**2 / (n - 1)
    total = seed_variance + max(0.0, document_variance)
    if total == 0:
        # Every resample gives the same difference: the smallest p that so many resamples can show.
        return (*(float(estimate),) * 3, 1.0 if estimate == 0 else 1 / (len(groups[0][2]) + 1))
    t = stats.t(total**2 / inverse_freedom if inverse_freedom > 0 else np.inf)
    half, p = t.ppf(1 - ALPHA / 2) * np.sqrt(total), 2 * t.sf(abs(estimate) / np.sqrt(total))
    return float(estimate), float(estimate - half), float(estimate + half), float(p)


def compare_pair(first: dict, second: dict, values: dict, draws: dict, correct: np.ndarray) -> list[dict]:
    """Two rows, accuracy and macro F1, on how the first model differs from the second; p-values as yet uncorrected."""
    rows, single = [], len(first["runs"]) == len(second["runs"]) == 1
    for metric in METRICS:
        row = {"model": first["name"], "reference": second["name"], "metric": metric, "documents": correct.shape[1]}
        row |= {"seeds": len(first["runs"]), "reference_seeds": len(second["runs"])}
        if single:
            (a,), (b,) = first["runs"], second["runs"]
            low, high, p = bootstrap_test(draws[metric][:, a] - draws[metric][:, b])
            difference, test = float(values[metric][a] - values[metric][b]), "paired bootstrap"
            row["only_model_right"] = int((correct[a] & ~correct[b]).sum())
            row["only_reference_right"] = int((correct[b] & ~correct[a]).sum())
            if metric == "accuracy":
                p, test = mcnemar_test(row["only_model_right"], row["only_reference_right"]), "exact McNemar"
        else:
            groups = [(sign, values[metric][model["runs"]], draws[metric][:, model["runs"]])
                      for sign, model in ((1, first), (-1, second))]  # fmt: skip
            (difference, low, high, p), test = pooled_test(groups), "Obuchowski-Rockette"
            row |= {"only_model_right": None, "only_reference_right": None}
        rows.append(row | {"difference": difference, "low": low, "high": high, "test": test, "p": p})
    return rows


def agreement_table(models: list[dict], predictions: np.ndarray, correct: np.ndarray) -> tuple[pd.DataFrame, list]:
    """Agreement of each pair of models, means over their seeds (a model with itself: of its seeds among each other),
    and for each pair of runs of different models the share of documents that exactly one is right on."""
    rows, disagreements = [], []
    for first, second in combinations_with_replacement(models, 2):
        pairs = list(combinations(first["runs"], 2) if first is second else product(first["runs"], second["runs"]))
        if not pairs:
            continue
        same = [float(np.mean(predictions[a] == predictions[b])) for a, b in pairs]
        # Two runs that name one and the same class for all documents: chance agreement is 1 and kappa is 0/0.
        kappa = [1.0 if share == 1 else cohen_kappa_score(predictions[a], predictions[b])
                 for share, (a, b) in zip(same, pairs, strict=True)]  # fmt: skip
        one_right = [float(np.mean(correct[a] != correct[b])) for a, b in pairs]
        disagreements += one_right if first is not second else []
        rows.append({"model": first["name"], "other": second["name"], "same_prediction": np.mean(same),
                     "cohen_kappa": np.mean(kappa), "exactly_one_right": np.mean(one_right)})  # fmt: skip
    columns = ["model", "other", "same_prediction", "cohen_kappa", "exactly_one_right"]
    return pd.DataFrame(rows, columns=columns), disagreements


def load_categories(dataset_name: str, ids: pd.Index) -> list[list[str]]:
    """The categories of each test document, in the order of ids. Exit code 2 if the dataset does not have them."""
    try:
        dataset = load_dataset(dataset_name, split="test")
    except Exception as error:  # datasets raises many kinds: no such folder, no network, broken parquet
        fail(f"cannot load the test split of dataset {dataset_name}: {' '.join(str(error).split())[:300]}")
    for column in ("id", "categories"):
        if column not in dataset.column_names:
            fail(f"dataset {dataset_name} has no column {column!r}; leave --dataset_name out to go without categories")
    categories = dict(zip(dataset["id"], dataset["categories"], strict=True))
    missing = [name for name in ids if name not in categories]
    if missing:
        fail(f"the test split of {dataset_name} lacks {len(missing)} of the runs' documents, such as {missing[0]}; "
             "give the dataset that the runs were made with")  # fmt: skip
    return [list(categories[name]) for name in ids]


def hard_documents(runs: list[dict], categories: list[list[str]] | None) -> pd.DataFrame:
    """Documents that every run gets wrong, the most confident mistakes first.

    majority_prediction is what most runs say (if tied, the first in the alphabet), mean_confidence the probability
    that runs give to their own prediction, cross_listed whether the majority's class is another of the categories.
    """
    truth = runs[0]["table"]["label"]
    predictions = pd.DataFrame({run["folder"]: run["table"]["prediction"] for run in runs}, index=truth.index)
    wrong = predictions.ne(truth, axis=0).all(axis=1).to_numpy()
    table = pd.DataFrame({"id": truth.index[wrong], "label": truth[wrong].to_numpy()})
    hard = predictions[wrong]
    counts = [sorted(Counter(row).items(), key=lambda item: (-item[1], item[0]))[0] for row in hard.to_numpy()]
    table["majority_prediction"] = [name for name, _ in counts]
    table["runs_that_agree"] = [count for _, count in counts]
    confidences = [confidence(run)[wrong] for run in runs if run["probabilities"]]
    table["mean_confidence"] = np.mean(confidences, axis=0) if confidences else np.nan
    if categories is not None:
        kept = [names for names, keep in zip(categories, wrong, strict=True) if keep]
        table["categories"] = [" ".join(names) for names in kept]
        table["cross_listed"] = [name in names for name, names in zip(table["majority_prediction"], kept, strict=True)]
    table = pd.concat([table, hard.reset_index(drop=True).add_prefix("prediction of ")], axis=1)
    return table.sort_values(["mean_confidence", "id"], ascending=[False, True], ignore_index=True)


def confidence(run: dict) -> np.ndarray:
    """The probability that a run gives to its own prediction, one per document."""
    columns = run["scores"].columns.get_indexer(run["table"]["prediction"])
    return run["scores"].to_numpy()[np.arange(len(columns)), columns]


def calibration(confidences: np.ndarray, correct: np.ndarray) -> dict:
    """Expected calibration error over bins of equal width (Guo et al., ICML 2017) and each bin's means."""
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    count, right, stated = (
        np.histogram(confidences, edges, weights=weights)[0] for weights in (None, correct.astype(float), confidences)
    )
    filled = count > 0
    return {
        "ece": float(np.abs(right - stated).sum() / count.sum()),
        "mean_confidence": float(confidences.mean()),
        "bins": [
            {"documents": int(n), "confidence": float(s / n), "accuracy": float(r / n)}
            for n, r, s in zip(count[filled], right[filled], stated[filled], strict=True)
        ],
    }


def check_output_dir(folder: Path) -> None:
    """Make the output folder. Exit code 2 if it holds anything that this script or its renderer did not write."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = {path.name.removesuffix(".tmp") for path in folder.iterdir() if path.name != "comparison.json.tmp"}
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}")
    # comparison.json is written first, so it is there whenever another file is.
    foreign = present - {"comparison.json", *TABLES, *RENDERED}
    if foreign or (present and read_json(folder / "comparison.json").get("script") != SCRIPT):
        fail(f"{folder} holds {min(foreign or present)}, which {SCRIPT} did not write; choose another --output_dir")


def write_outputs(folder: Path, outputs: dict[str, str]) -> None:
    """Write every file under a temporary name and rename it; what else an earlier comparison wrote is removed."""
    try:
        for name, content in outputs.items():
            temporary = folder / f"{name}.tmp"
            temporary.write_text(content, encoding="utf-8")
            os.replace(temporary, folder / name)
        for name in {*TABLES, *RENDERED} - set(outputs):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}; free some space and run the command again")


def main() -> None:
    # 1. Arguments, runs, output folder
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(CompareArguments)
    if len(arguments.runs) < 2:
        fail(f"a comparison needs two runs or more, not {len(arguments.runs)}: {SCRIPT} RUN RUN --output_dir DIR")
    for folder, count in Counter(Path(folder).resolve() for folder in arguments.runs).items():
        if count > 1:
            fail(f"run folder {folder} is given {count} times; name each run once")
    runs = [read_run(folder) for folder in arguments.runs]
    align_runs(runs)
    truth = runs[0]["table"]["label"]
    categories = load_categories(arguments.dataset_name, truth.index) if arguments.dataset_name else None
    check_output_dir(output := Path(arguments.output_dir))

    # 2. Metrics of every run, and the same on resampled documents
    classes = sorted(set(truth).union(*(run["table"]["prediction"] for run in runs)))
    labels = pd.Index(classes).get_indexer(truth)
    predictions = np.array([pd.Index(classes).get_indexer(run["table"]["prediction"]) for run in runs])
    correct = predictions == labels
    values = {
        "accuracy": np.array([accuracy_score(labels, row) for row in predictions]),
        "macro_f1": np.array([f1_score(labels, row, average="macro", zero_division=0) for row in predictions]),
    }
    draws = bootstrap(labels, predictions, len(classes), arguments.n_resamples, arguments.seed)

    # 3. A row of table 2 for every model, seeds pooled
    models = pool_runs(runs)
    for model in models:
        members = model["runs"]
        model["source"], model["seeds"] = "run", len(members)
        for metric in METRICS:
            own, resampled = values[metric][members], draws[metric][:, members]
            if len(members) > 1:
                interval = pooled_test([(1, own, resampled)])[1:3]
            elif metric == "accuracy":
                interval = proportion_confint(int(correct[members].sum()), len(labels), alpha=ALPHA, method="wilson")
            else:
                interval = bootstrap_test(resampled[:, 0])[:2]
            model[metric] = float(own.mean())
            model[f"{metric}_sd"] = float(own.std(ddof=1)) if len(members) > 1 else None
            model[f"{metric}_low"], model[f"{metric}_high"] = (float(min(1, max(0, bound))) for bound in interval)
    reference = find_reference(arguments.reference, models, runs)

    # 4. Tests against the reference and against the baseline
    notes, pairs, compared = [], [], []
    for target in dict.fromkeys([reference, *(n for n, model in enumerate(models) if model["is_baseline"])]):
        compared += [(n, target) for n in range(len(models)) if n != target and (target, n) not in compared]
    if len(labels) < MIN_TEST_DOCUMENTS:
        notes.append(f"No tests: {len(labels)} documents are fewer than {MIN_TEST_DOCUMENTS}.")
    elif not compared:
        notes.append("No tests: all runs are seeds of one model.")
    else:
        for number, target in compared:
            pairs += compare_pair(models[number], models[target], values, draws, correct)
        for metric in METRICS:
            rows = [row for row in pairs if row["metric"] == metric]
            for row, p in zip(rows, multipletests([row["p"] for row in rows], method="holm")[1], strict=True):
                row["p_holm"], row["distinguishable"] = float(p), bool(p < ALPHA)

    # 5. Classes, agreement, documents that every run gets wrong, calibration
    by_class = np.array([f1_score(labels, row, labels=range(len(classes)), average=None, zero_division=0)
                         for row in predictions])  # fmt: skip
    per_class = pd.DataFrame({"class": classes, "documents": np.bincount(labels, minlength=len(classes))})
    for model in models:
        per_class[model["name"]] = by_class[model["runs"]].mean(axis=0)
        unused = [name for number, name in enumerate(classes) if number not in predictions[model["runs"]]]
        notes += [f"{model['name']} never predicts {', '.join(unused)}: F1 is 0 there."] if unused else []
    agreement, disagreements = agreement_table(models, predictions, correct)
    hard = hard_documents(runs, categories)
    hard_summary = {"documents": len(hard)}
    if categories is None:
        notes.append("Cross-listing is left out: it needs the categories in --dataset_name.")
    else:
        other = [bool(set(names) & set(classes) - {name}) for names, name in zip(categories, truth, strict=True)]
        hard_summary |= {"cross_listed": int(hard["cross_listed"].sum()), "share_of_all_with_another": np.mean(other)}
    calibrations = {}
    for model in models:
        members = [number for number in model["runs"] if runs[number]["probabilities"]]
        if members:
            stated = np.concatenate([confidence(runs[number]) for number in members])
            calibrations[model["name"]] = calibration(stated, correct[members].ravel())
        for number in model["runs"]:
            kind = "no scores" if runs[number]["scores"] is None else "decision values, not probabilities"
            if number not in members:
                notes.append(f"Calibration is left out for {runs[number]['folder']}: it has {kind}.")

    # 6. The folder, the drawings, the table on standard output
    for model in models:
        model["runs"] = [{key: runs[number][key] for key in ("folder", "seed")}
                         | {metric: float(values[metric][number]) for metric in METRICS}
                         for number in model["runs"]]  # fmt: skip
    result = {
        "script": SCRIPT,
        "arguments": asdict(arguments),
        "versions": {"python": sys.version.split()[0]} | {package: version(package) for package in PACKAGES},
        "documents": len(labels),
        "classes": classes,
        "reference": models[reference]["name"],
        "models": models,
        "pairs": pairs,
        "median_disagreement": float(np.median(disagreements)) if disagreements else None,
        "per_class_f1": per_class.to_dict("records"),
        "agreement": agreement.to_dict("records"),
        "hard_documents": hard_summary,
        "calibration": calibrations,
        "notes": notes,
    }
    tables = (pd.DataFrame(pairs), per_class, agreement, hard)
    outputs = {"comparison.json": json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) + "\n"}
    for name, rows in zip(TABLES, tables, strict=True):
        if name != "pairs.csv" or pairs:
            outputs[name] = rows.to_csv(index=False, float_format="%.8g")
    write_outputs(output, outputs)
    for note in notes:
        logger.info(note)
    renderer = Path(__file__).with_name("render_comparison.py")
    if renderer.exists():
        done = subprocess.run([sys.executable, renderer, "--comparison_dir", output], check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
    else:
        logger.warning("%s is not there: the tables and pictures are not drawn", renderer)
    width = max(len(model["name"]) for model in models)
    print(f"\n{'model':<{width}}  test accuracy  macro F1")
    for model in models:
        print(f"{model['name']:<{width}}  {100 * model['accuracy']:>13.2f}  {100 * model['macro_f1']:>8.2f}")


if __name__ == "__main__":
    main()
