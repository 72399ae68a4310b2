#!/usr/bin/env python
"""Tests and intervals of what run_context.py asked the models. Needs no model and no GPU.

    python context_statistics.py --context_dir context
    python context_statistics.py --context_dir context --attributions attributions/minilm attributions/layers-0

run_context.py starts it; started again by hand it takes more attribution folders or other numbers of resamples. Reads
evaluations/ in the folder, the folders of run_attribution.py and the SVM's model.skops, and writes context.json; then
render_context.py beside this file draws context.png, context.html and context.md.
"""

import argparse
import difflib
import json
import logging
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import numpy as np
import skops.io
import yaml
from scipy import stats
from scipy.special import softmax
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW
from transformers import HfArgumentParser

logger = logging.getLogger(__name__)

ALPHA = 0.05
MIN_WORDS = 10  # for a rank correlation
SHOWN_WORDS = 10
ROUNDING = 1e-5  # of logits in single precision
PACKAGES = ("numpy", "scipy", "statsmodels", "scikit-learn", "skops")


@dataclass
class StatisticsArguments:
    """What to read and how to test."""

    context_dir: str = field(metadata={"help": "Folder that run_context.py wrote; context.json is put there."})
    attributions: list[str] | None = field(
        default=None, metadata={"help": "Folders of run_attribution.py, instead of those run_context.py was given."}
    )
    n_permutations: int | None = field(
        default=None, metadata={"help": "Relabellings in each permutation test. Default: as run_context.py was told."}
    )
    n_resamples: int | None = field(default=None, metadata={"help": "Bootstrap samples of the documents, likewise."})
    min_occurrences: int | None = field(
        default=None, metadata={"help": "Documents in which a word must have been attributed to one class, likewise."}
    )
    render: bool = field(default=True, metadata={"help": "Draw the page, the picture and the summary."})

    def __post_init__(self):
        for name, bound in {"n_permutations": 99, "n_resamples": 100, "min_occurrences": 2}.items():
            if getattr(self, name) is not None and getattr(self, name) < bound:
                raise ValueError(f"--{name} must be at least {bound}, not {getattr(self, name)}")


def fail(message: str) -> NoReturn:
    """End the program as every user's mistake ends it: one line on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def one_line(error: BaseException) -> str:
    """A library's message as one line that fits an error line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


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
            fail(f"{arguments[0]} is no readable file of arguments (flag: value a line): {one_line(error)}")
        arguments = flags + arguments[1:]
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        fail(f"unknown argument {unknown[0]}; {f'did you mean {nearest[0]}?' if nearest else '--help lists all'}")
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:
        fail(one_line(error))


def bootstrap(
    labels: np.ndarray, predictions: np.ndarray, n_classes: int, n_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy (1 + n_resamples, rows) and F1 (1 + n_resamples, rows, classes) of predictions on resampled documents.

    labels is (documents,), predictions (rows, documents), both class numbers. Every row sees the same resamples; the
    first entry is the documents as they are. A resample is how often each document is taken, so its counts are a
    matrix product. F1 is NaN where a class is neither a label nor a prediction.
    """
    support = np.eye(n_classes)[labels]
    predicted = np.eye(n_classes)[predictions].swapaxes(0, 1)  # (documents, rows, classes)
    cells = np.concatenate([predicted * support[:, None], predicted], axis=1).reshape(len(labels), -1)
    generator, chances = np.random.default_rng(seed), np.full(len(labels), 1 / len(labels))
    accuracies, scores = [], []
    for start in range(0, n_resamples + 1, 250):
        size = min(250, n_resamples + 1 - start)
        draws = generator.multinomial(len(labels), chances, size=size).astype(float)
        if start == 0:
            draws[0] = 1
        sums = (draws @ cells).reshape(size, 2, len(predictions), n_classes)
        total = sums[:, 1] + (draws @ support)[:, None]
        scores.append(np.divide(2 * sums[:, 0], total, out=np.full(total.shape, np.nan), where=total > 0))
        accuracies.append(sums[:, 0].sum(axis=-1) / len(labels))
    return np.concatenate(accuracies), np.concatenate(scores)


def difference_test(differences: np.ndarray) -> dict:
    """A difference (first entry), its 95 % percentile interval over the resamples (the others) and the p-value of 0.

    p is twice the smaller share of resamples on one side of 0, with one added above and below, so it is never 0
    (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 4.4).
    """
    differences = np.round(differences, 12)  # means of equal numbers are equal
    draws = differences[1:][~np.isnan(differences[1:])]
    low, high = np.quantile(draws, [ALPHA / 2, 1 - ALPHA / 2])
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    return {"difference": float(differences[0]), "low": float(low), "high": float(high), "p": float(p)}


def mean_interval(values: np.ndarray) -> dict:
    """Mean with Student's 95 % interval, which needs two values or more; of equal values it is the mean itself."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    low, high = DescrStatsW(values).tconfint_mean() if np.ptp(values) > 0 else (mean, mean)
    return {"mean": mean, "low": float(low), "high": float(high)}


def add_holm(tests: list[dict]) -> None:
    """Add p_holm to tests that belong together."""
    if tests:
        for test, p in zip(tests, multipletests([test["p"] for test in tests], method="holm")[1], strict=True):
            test["p_holm"] = float(p)


def order_statistics(run: dict, values: np.ndarray, index: dict) -> dict:
    """What a run loses when words are shuffled; values are (1 + sizes x shuffles, documents, classes).

    The metric of a block size is the mean over its shuffles. Every document is shuffled by itself, so resampling the
    documents resamples the shuffles, too. Macro F1 averages the classes that are a label or a prediction at all.
    """
    labels, classes, settings = np.array(index["labels"]), index["classes"], index["arguments"]
    shuffles, predictions = settings["n_shuffles"], values.argmax(axis=-1)
    accuracy, f1 = bootstrap(labels, predictions, len(classes), settings["n_resamples"], settings["seed"])
    metrics = {"accuracy": accuracy, "macro_f1": np.nanmean(f1, axis=-1)}
    metrics |= {name: f1[:, :, number] for number, name in enumerate(classes) if number in labels}
    result = {key: run[key] for key in ("name", "folder", "kind", "cut_documents")}
    for metric in ("accuracy", "macro_f1"):
        low, high = np.quantile(metrics[metric][1:, 0], [ALPHA / 2, 1 - ALPHA / 2])
        result[metric] = {"value": float(metrics[metric][0, 0]), "low": float(low), "high": float(high)}
    result |= {"indifferent": None, "conditions": []}
    finite = np.nan_to_num(values, neginf=0)
    for number, condition in enumerate(run["conditions"]):
        rows = slice(1 + number * shuffles, 1 + (number + 1) * shuffles)
        row = condition | {"max_change": float(np.abs(finite[rows] - finite[0]).max())}
        row["predictions_changed"] = float((predictions[rows] != predictions[0]).mean())
        tested = {}
        for metric, draws in metrics.items():
            means = draws[:, rows].mean(axis=1)
            tested[metric] = {"value": float(means[0])} | difference_test(means - draws[:, 0])
        row |= {metric: tested.pop(metric) for metric in ("accuracy", "macro_f1")}
        row["classes"] = [
            {"class": name, "documents": int((labels == classes.index(name)).sum())} | test
            for name, test in tested.items()
        ]
        if run["kind"] == "encoder":
            changes = softmax(values[rows], axis=-1) - softmax(values[0], axis=-1)
            row["true_class_probability"] = mean_interval(changes[:, np.arange(len(labels)), labels].mean(axis=0))
            row["total_variation"] = mean_interval(np.abs(changes).sum(axis=-1).mean(axis=0) / 2)
        if run["order_free"] and row["block"] == 1:
            # An SVM's counts are the same numbers; the mean of vectors in another order may differ in the last bits.
            bound = 0 if run["kind"] == "svm" else 1e-4 * max(1, np.abs(finite[0]).max())
            result["indifferent"] = bool(row["predictions_changed"] == 0 and row["max_change"] <= bound)
        result["conditions"].append(row)
    for metric in ("accuracy", "macro_f1"):
        add_holm([condition[metric] for condition in result["conditions"]])
    add_holm([test for condition in result["conditions"] for test in condition["classes"]])
    return result


def permutation_test(groups: list[list[float]], n_permutations: int, seed: int) -> dict | None:
    """Is the first value of each group larger or smaller than the others? None if no group has others.

    The statistic is the mean over groups of the first value less the mean of the others, with Student's interval over
    groups. If the first is exchangeable with the others, any value of a group could have been it: p is the share of
    such choices with a statistic at least as far from 0, both signs, the observed one counted (Phipson & Smyth, Stat.
    Appl. Genet. Mol. Biol. 9:39, 2010).
    """
    generator, total, differences = np.random.default_rng(seed), np.zeros(n_permutations), []
    for group in groups:
        if len(group) > 1:
            deviations = np.array(group) - np.mean(group)
            deviations[np.abs(deviations) < ROUNDING] = 0  # rounding is no effect
            deviations *= len(group) / (len(group) - 1)  # from the others' mean
            differences.append(deviations[0])
            total += deviations[generator.integers(len(group), size=n_permutations)]
    if not differences:
        return None
    extreme = np.abs(total) >= abs(sum(differences)) - 1e-9
    return mean_interval(differences) | {
        "groups": len(differences),
        "p": float((1 + extreme.sum()) / (1 + len(total))),
    }


def phrase_statistics(index: dict) -> dict | None:
    """Each phrase against other spans and against its own words moved apart, and all phrases together."""
    rows, settings = [], index["arguments"]
    for number, phrase in enumerate(index["phrases"]):
        found = phrase["occurrences"]
        row = {"phrase": phrase["phrase"], "documents": len(found)}
        row |= {"whole": float(np.mean([one["whole"] for one in found]))}
        row |= {"sum_of_words_alone": float(np.mean([sum(one["alone"]) for one in found]))}
        row |= {"sum_of_single_drops": float(np.mean([sum(one["drops"]) for one in found]))}
        row["synergy"] = mean_interval([one["synergy"] for one in found])
        for kind in ("spans", "moved"):
            controls = [value for one in found for value in one[kind]]
            row[f"{kind}_controls"] = len(controls)
            row[f"{kind}_synergy"] = float(np.mean(controls)) if controls else None
            groups = [[one["synergy"], *one[kind]] for one in found]
            row[f"against_{kind}"] = permutation_test(groups, settings["n_permutations"], settings["seed"] + number)
        rows.append(row)
    if not rows:
        return None
    result = {"source": index["phrase_source"], "not_found": index["phrases_not_found"], "phrases": rows}
    for kind in ("spans", "moved"):
        tests = [row[f"against_{kind}"] for row in rows if row[f"against_{kind}"]]
        add_holm(tests)
        result[f"against_{kind}"] = tests and {
            "tested": len(tests),
            "more": sum(test["p_holm"] < ALPHA and test["mean"] > 0 for test in tests),
            "less": sum(test["p_holm"] < ALPHA and test["mean"] < 0 for test in tests),
            "mean_over_phrases": mean_interval([test["mean"] for test in tests]),
        }
    return result


def run_name(folder: str) -> str:
    """A run's folder by its name; run_paper.sh's lr-RATE-seed-SEED is called after the model's folder around it."""
    path = Path(folder).resolve()
    return path.parent.name if re.fullmatch(r"lr-.+-seed-.+", path.name) else path.name


def read_attributions(folder: str) -> tuple[str, list[dict]]:
    """The model's name and, per document, its target and the scores of its words: lower case, no punctuation."""
    path, documents = Path(folder, "attributions.jsonl"), []
    try:
        arguments = json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))["arguments"]
        for text in path.read_text(encoding="utf-8").split("\n"):
            if text:
                line = json.loads(text)
                words = [re.sub(r"^\W+|\W+$", "", word).lower() for word in line["words"]]
                pairs = [
                    (word, float(score)) for word, score in zip(words, line["word_attributions"], strict=True) if word
                ]
                documents.append({"target": line["target"], "pairs": pairs})
        name = run_name(arguments["model_name_or_path"]) or folder
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{folder} is no finished folder of run_attribution.py: {one_line(error)}")
    return (name, documents) if documents else fail(f"{path} holds no document; run run_attribution.py again")


def word_scores(documents: list[dict], minimum: int) -> dict[tuple[str, str], list[float]]:
    """By (class explained, word) the word's mean score in each document, where there are so many documents or more.

    A word that speaks for one class speaks against another: only attributions to the same class are repetitions.
    """
    scores = defaultdict(list)
    for document in documents:
        here = defaultdict(list)
        for word, score in document["pairs"]:
            here[word].append(score)
        for word, values in here.items():
            scores[document["target"], word].append(float(np.mean(values)))
    return {key: values for key, values in sorted(scores.items()) if len(values) >= minimum}


def intraclass_correlation(groups: list[list[float]]) -> dict | None:
    """Share of the variance that lies between groups, ICC(1) of the one-way random-effects model.

    None if there are fewer than two groups, or no repetition or no variance in any of them.
    Every group counts the same, whatever its size: estimate and interval are those of Thomas & Hultquist (Annals of
    Statistics 6:582-587, 1978), from the unweighted means of the groups and their harmonic mean size; for groups of
    one size they are the usual ones of the analysis of variance. Both rest on normal effects. p is that of the F test
    of no difference between groups.
    """
    count, sizes = len(groups), np.array([len(group) for group in groups])
    freedom = sizes.sum() - count
    if count < 2 or freedom < 1:
        return None
    within = sum(len(group) * np.var(group) for group in groups) / freedom
    harmonic = stats.hmean(sizes)
    between = harmonic * np.var([np.mean(group) for group in groups], ddof=1)
    if within == 0:
        return None

    def share(ratio: float) -> float:
        return float((ratio - 1) / (ratio - 1 + harmonic))

    quantiles = stats.f.ppf([1 - ALPHA / 2, ALPHA / 2], count - 1, freedom)
    low, high = (max(0.0, share(between / within / quantile)) for quantile in quantiles)
    result = {"groups": count, "observations": int(sizes.sum()), "icc": max(0.0, share(between / within))}
    return result | {"low": low, "high": high, "p": float(stats.f_oneway(*groups).pvalue)}


def attribution_statistics(name: str, folder: str, documents: list[dict], minimum: int) -> dict:
    """Variance between words and between documents, and the share of function words in the absolute attribution."""
    groups = word_scores(documents, minimum)
    result = {"name": name, "folder": folder, "documents": len(documents), "min_occurrences": minimum}
    for kind, keep in (("all", lambda word: True), ("content", lambda word: word not in ENGLISH_STOP_WORDS),
                       ("function", lambda word: word in ENGLISH_STOP_WORDS)):  # fmt: skip
        result[kind] = intraclass_correlation([values for (_, word), values in groups.items() if keep(word)])
    shares, counts = [], []
    for document in documents:
        total = sum(abs(score) for _, score in document["pairs"])
        own = [abs(score) for word, score in document["pairs"] if word in ENGLISH_STOP_WORDS]
        if total > 0:
            shares.append(sum(own) / total)
            counts.append(len(own) / len(document["pairs"]))
    result["function_share"] = mean_interval(shares) if shares else None
    result["function_share_of_words"] = mean_interval(counts) if counts else None
    return result


def read_coefficients(folder: str, classes: list[str]) -> dict[str, dict[str, float]]:
    """By class the SVM's coefficient of every single word."""
    try:
        model = skops.io.load(Path(folder, "model.skops"))
        svm, vocabulary = model["svm"], model["counts"].vocabulary_
    except Exception as error:  # skops and zipfile raise many kinds
        fail(f"cannot load {Path(folder, 'model.skops')}: {one_line(error)}")
    weights = np.vstack([-svm.coef_, svm.coef_]) if len(svm.coef_) == 1 else svm.coef_
    return {
        classes[number]: {word: float(row[place]) for word, place in vocabulary.items() if " " not in word}
        for number, row in zip(svm.classes_, weights, strict=True)
    }


def agreement(name: str, documents: list[dict], coefficients: dict, minimum: int) -> list[dict]:
    """By class Spearman's correlation between mean word attribution and SVM coefficient, and where they differ most.

    The interval is Bonett & Wright's (Psychometrika 65:23-28, 2000); p is scipy's, Holm-corrected over the classes.
    """
    means = {key: float(np.mean(values)) for key, values in word_scores(documents, minimum).items()}
    rows = []
    for label, weights in coefficients.items():
        words = [word for target, word in means if target == label and word in weights]
        if len(words) < MIN_WORDS:
            continue
        scores = np.array([means[label, word] for word in words])
        own = np.array([weights[word] for word in words])
        if np.ptp(scores) == 0 or np.ptp(own) == 0:
            continue
        rho, p = stats.spearmanr(scores, own)
        half = stats.norm.ppf(1 - ALPHA / 2) * np.sqrt((1 + rho**2 / 2) / (len(words) - 3))
        low, high = np.tanh(np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12)) + np.array([-half, half]))
        ranks = (stats.rankdata(scores) - stats.rankdata(own)) / len(words)
        order = np.argsort(-np.abs(ranks), kind="stable")[:SHOWN_WORDS]
        differ = [{"word": words[n], "attribution": scores[n], "coefficient": own[n], "rank_difference": ranks[n]}
                  for n in order]  # fmt: skip
        rows.append({"model": name, "class": label, "words": len(words), "rho": float(rho), "low": float(low),
                     "high": float(high), "p": float(p), "differ_most": differ})  # fmt: skip
    add_holm(rows)
    return rows


def main() -> None:
    # 1. Arguments and what run_context.py left
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(StatisticsArguments)
    folder = Path(arguments.context_dir)
    try:
        index = json.loads((folder / "evaluations" / "index.json").read_text(encoding="utf-8"))
        values = [np.load(folder / "evaluations" / f"order-{n}.npy", allow_pickle=False)
                  for n in range(len(index["runs"]))]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{folder} is no finished folder of run_context.py: {one_line(error)}")
    settings, left_out = index["arguments"], list(index["left_out"])
    for name in ("attributions", "n_permutations", "n_resamples", "min_occurrences"):
        if getattr(arguments, name) is not None:
            settings[name] = getattr(arguments, name)

    # 2. Order and phrases
    order = [order_statistics(run, logits, index) for run, logits in zip(index["runs"], values, strict=True)]
    for run in order:
        if run["indifferent"] is False:
            logger.warning("%s must not depend on the order of words, but does: %s", run["name"], run["folder"])
    phrases = phrase_statistics(index)

    # 3. Attributions, by themselves and against the SVM
    attributed = [(*read_attributions(path), path) for path in settings["attributions"]]
    names = Counter(name for name, _, _ in attributed)
    attributed = [(path if names[name] > 1 else name, documents, path) for name, documents, path in attributed]
    minimum = settings["min_occurrences"]
    attribution = [attribution_statistics(name, path, documents, minimum) for name, documents, path in attributed]
    if not attributed:
        left_out.append("Attribution in context is left out: it needs --attributions.")
    for row in attribution:
        if row["all"] is None:
            left_out.append(f"Variance of attributions is left out for {row['name']}: fewer than two words were "
                            f"attributed to one class in {minimum} of {row['documents']} documents.")  # fmt: skip
    svm = next((run["folder"] for run in index["runs"] if run["kind"] == "svm"), None)
    correlations = []
    if svm is None or not attributed:
        left_out.append("Agreement with the SVM is left out: it needs --attributions and an SVM run in --compare.")
    else:
        coefficients = read_coefficients(svm, index["classes"])
        for name, documents, _ in attributed:
            rows = agreement(name, documents, coefficients, minimum)
            correlations += rows
            if missing := sorted(set(index["classes"]) - {row["class"] for row in rows}):
                left_out.append(f"Agreement of {name} with the SVM is left out for {', '.join(missing)}: fewer than "
                                f"{MIN_WORDS} words in {minimum} documents, or all alike.")  # fmt: skip

    # 4. context.json, then the pictures
    result = {
        "script": "context_statistics.py",
        "arguments": settings,
        "versions": index["versions"] | {package: version(package) for package in PACKAGES},
        "device": index["device"],
        "documents": len(index["labels"]),
        "classes": index["classes"],
        "model": order[0]["name"],
        "order": order,
        "phrases": phrases,
        "attribution": attribution,
        "agreement": correlations,
        "left_out": left_out,
    }
    try:
        temporary = folder / "context.json.tmp"
        temporary.write_text(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False) + "\n", "utf-8")
        os.replace(temporary, folder / "context.json")
    except OSError as error:
        fail(f"cannot write into {folder}: {error.strerror}; free some space and run the command again")
    for text in left_out:
        logger.info(text)
    renderer = Path(__file__).with_name("render_context.py")
    if not arguments.render:
        return
    if not renderer.exists():
        logger.warning("%s is not there: the page, the picture and the summary are not drawn", renderer)
        return
    raise SystemExit(subprocess.run([sys.executable, renderer, "--context_dir", folder], check=False).returncode)


if __name__ == "__main__":
    main()
