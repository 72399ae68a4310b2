"""Agreement with the SVM: do the mean attributions rank the words as the SVM does?"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from common.cli import fail
from common.folders import run_name
from common.pages import p_cell, plain
from common.statistics import ALPHA, add_holm
from context.attributions import AttributedDocument, Scores, read_all, score_tables
from context.documents import Documents
from context.models import Cache, Run, load_svm
from context.results import Evaluation, Measurement, Section, Summary, Table
from context.text import limits, model_styles, number

NAME = "svm_agreement"
TITLE = "Agreement with the SVM"
MIN_WORDS = 20  # for a rank correlation
STORED_WORDS = 10  # on which a model and the SVM differ most
SHOWN_WORDS = 5


def evaluate(runs: list[Run], documents: Documents, arguments, cache: Cache) -> Evaluation:
    """Return nothing: the attributions are in --attributions, the weights in the SVM's folder."""
    return Evaluation()


# Statistics


def svm_contributions(
    run: Run,
    classes: list[str],
    pairs: list[tuple[str, str]],
    documents: list[AttributedDocument],
) -> np.ndarray:
    """Return coefficient times tf-idf of each pair of (class, word) in each document.

    The values are (pairs, documents); NaN if the SVM lacks the class or the word.
    """
    svm = run.model["svm"]
    coefficients = svm.coef_  # (classes, words)
    if len(coefficients) == 1:  # two classes: one row, for the second
        coefficients = np.vstack([-coefficients, coefficients])
    counts = run.model["counts"].transform([document.text for document in documents])
    tfidf = run.model["tfidf"].transform(counts).tocsc()
    vocabulary = run.model["counts"].vocabulary_
    values = np.full((len(pairs), len(documents)), np.nan)
    for row, (label, word) in enumerate(pairs):
        column = run.class_columns[classes.index(label)]
        index = vocabulary.get(word)
        if column >= 0 and index is not None:
            values[row] = coefficients[column, index] * tfidf[:, [index]].toarray()[:, 0]
    return values


def correlation_draws(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Fisher's z of Spearman's correlation of two lists of values, for each resample.

    weights (resamples, values) says how often each value is taken. Values are replaced by their
    ranks once, not anew in each resample.
    """
    a = stats.rankdata(first)
    b = stats.rankdata(second)
    total = weights.sum(axis=1)
    mean_a = weights @ a / total
    mean_b = weights @ b / total
    covariance = weights @ (a * b) / total - mean_a * mean_b
    with np.errstate(divide="ignore", invalid="ignore"):
        variance_a = weights @ a**2 / total - mean_a**2
        variance_b = weights @ b**2 / total - mean_b**2
        correlation = covariance / np.sqrt(variance_a * variance_b)
        return np.arctanh(np.clip(correlation, -1 + 1e-9, 1 - 1e-9))


def bootstrap_z(draws: np.ndarray, words: int) -> tuple[float, float, float]:
    """Return the limits of a 95% CI and the p-value of 0.

    The first of the draws is the estimate, the others are resamples of the words. Student's t has
    the standard deviation of the resamples.
    """
    scale = np.nanstd(draws[1:])
    t = stats.t(words - 1)
    half = t.ppf(1 - ALPHA / 2) * scale
    p = 2 * t.sf(abs(draws[0]) / scale) if scale > 0 else float(draws[0] == 0)
    return float(draws[0] - half), float(draws[0] + half), float(p)


def largest_differences(words: list[str], attributions: np.ndarray, svm: np.ndarray) -> list[dict]:
    """Return the words whose ranks differ most, with their values (words,).

    The difference of ranks is a share of the words.
    """
    differences = (stats.rankdata(attributions) - stats.rankdata(svm)) / len(words)
    largest = np.argsort(-np.abs(differences), kind="stable")[:STORED_WORDS]
    rows = []
    for index in largest:
        rows.append(
            {
                "word": words[index],
                "attribution": float(attributions[index]),
                "svm": float(svm[index]),
                "rank_difference": float(differences[index]),
            }
        )
    return rows


def agreement(names: list[str], scores: Scores, svm: np.ndarray, arguments) -> list[dict]:
    """Return, by class and model, how the words' mean attributions agree with those of the SVM.

    svm is (pairs, documents). The agreement is Spearman's correlation of a word's mean attribution
    with its mean share in the SVM's decision value, both averaged over the same documents. Words
    are the sample: the bootstrap draws words, the same ones for all models (paired). From the
    second model on, difference says how its correlation differs from that of the first, in Fisher's
    z.
    """
    rows = []
    generator = np.random.default_rng(arguments.seed)
    present = ~np.isnan(scores.values[0]) & ~np.isnan(svm)
    for label in dict.fromkeys(label for label, _ in scores.pairs):
        chosen = []
        for index, pair in enumerate(scores.pairs):
            if pair[0] == label and present[index].any():
                chosen.append(index)
        if len(chosen) < MIN_WORDS:
            continue
        svm_means = word_means(svm, present, chosen)
        model_means = [word_means(values, present, chosen) for values in scores.values]
        if any(np.ptp(means) == 0 for means in [svm_means, *model_means]):
            continue  # there is no correlation with equal numbers
        size = len(chosen)
        words = [scores.pairs[index][1] for index in chosen]
        weights = generator.multinomial(size, np.full(size, 1 / size), size=arguments.n_resamples)
        weights = np.concatenate([np.ones((1, size)), weights])
        first = None
        for name, means in zip(names, model_means, strict=True):
            draws = correlation_draws(svm_means, means, weights)
            low, high, p = bootstrap_z(draws, size)
            row = {
                "model": name,
                "class": label,
                "words": size,
                "rho": float(np.tanh(draws[0])),
                "difference": None,
                "low": float(np.tanh(low)),
                "high": float(np.tanh(high)),
                "p": p,
                "differ_most": largest_differences(words, means, svm_means),
            }
            if first is None:
                first = draws
            else:
                low, high, p = bootstrap_z(draws - first, size)
                value = float(draws[0] - first[0])
                row["difference"] = {"value": value, "low": low, "high": high, "p": p}
            rows.append(row)
    add_holm(rows)
    add_holm([row["difference"] for row in rows if row["difference"]])
    return rows


def word_means(values: np.ndarray, present: np.ndarray, chosen: list[int]) -> np.ndarray:
    """Return the mean over documents of the chosen rows of values (words, documents)."""
    return np.nanmean(np.where(present, values, np.nan)[chosen], axis=1)


def first_svm(runs: list[dict]) -> dict | None:
    """Return the first SVM among the runs, preferably one of single words."""
    svms = [run for run in runs if run["kind"] == "svm"]
    svms.sort(key=lambda run: not run["order_free"])
    return svms[0] if svms else None


def load_measured_svm(record: dict, classes: list[str]) -> Run:
    """Load an SVM that was measured. Exits with status 2 if its folder holds another one now."""
    run = load_svm(record["folder"], run_name(record["folder"]), classes)
    if record.get("fingerprint") not in (None, run.fingerprint):
        fail(
            f"{record['folder']} is not the SVM that was measured; run the command again without "
            "--statistics_only"
        )
    return run


def summarize(measurement: Measurement, arguments) -> Summary:
    """Return the agreement of each model's attributions with the SVM, by class."""
    svm = first_svm(measurement.runs)
    if svm is None or not arguments.attributions:
        reason = "it needs --attributions and an SVM run in --compare."
        return Summary(
            {"agreement": [], "agreement_svm": None},
            [f"Agreement with the SVM is left out: {reason}"],
        )
    attributions = read_all(measurement, arguments)
    scores = score_tables(attributions, arguments.min_occurrences)
    rows = []
    if scores.pairs:
        texts = [attributions[0].documents[identifier] for identifier in scores.ids]
        run = load_measured_svm(svm, measurement.classes)
        contributions = svm_contributions(run, measurement.classes, scores.pairs, texts)
        rows = agreement([part.name for part in attributions], scores, contributions, arguments)
    used = {key: svm[key] for key in ("name", "order_free")} if rows else None
    summary = Summary({"agreement": rows, "agreement_svm": used})
    missing = sorted(set(measurement.classes) - {row["class"] for row in rows})
    if missing:
        summary.left_out.append(
            f"Agreement with the SVM is left out for {', '.join(missing)}: fewer than {MIN_WORDS} "
            f"words in {arguments.min_occurrences} documents, or all scores are equal."
        )
    return summary


# Text


def describe(result: dict) -> Section:
    """Return the section of the comparison with the SVM."""
    section = Section(TITLE)
    rows = result["agreement"]
    if not rows:
        return section
    first_model = rows[0]["model"]
    correlations = [row["rho"] for row in rows if row["model"] == first_model]
    section.answer = (
        "The mean attribution of a word and its share in the SVM's decision value have a rank "
        f"correlation of {number(min(correlations))} to {number(max(correlations))} by class."
    )
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        section.sentences += model_sentences(name, own, first_model)
    svm = result["agreement_svm"]
    ngrams = "" if svm["order_free"] else ", which also has n-grams; its single words are compared"
    section.sentences.append(
        f"Intervals are over resampled words. The SVM is {svm['name']}{ngrams}."
    )
    section.tables.append(correlation_table(rows, first_model))
    section.tables.append(word_table(rows))
    return section


def model_sentences(name: str, rows: list[dict], first_model: str) -> list[str]:
    """Return how far one model agrees with the SVM. rows has a row for each class."""
    correlations = [row["rho"] for row in rows]
    significant = sum(row["p_holm"] < ALPHA for row in rows)
    sentences = [
        f"{name}: the mean attribution of a word and its mean share in the SVM's decision value "
        f"(coefficient times tf-idf) have a rank correlation of {number(min(correlations))} to "
        f"{number(max(correlations))}. {significant} of {len(rows)} classes are distinguishable "
        f"from no agreement (p < {ALPHA} after Holm)."
    ]
    tests = [row["difference"] for row in rows if row["difference"]]
    if tests:
        different = sum(test["p_holm"] < ALPHA for test in tests)
        sentences.append(
            f"{name}: {different} of {len(tests)} correlations are distinguishable from those of "
            f"{first_model} (p < {ALPHA} after Holm)."
        )
    return sentences


def correlation_table(rows: list[dict], first_model: str) -> Table:
    """Return the table of the correlations and of their differences from the first model's."""
    header = ["model", "class", "words", "Spearman's correlation", "95% CI", "p (Holm)"]
    header += [f"difference from {first_model}, Fisher's z", "95% CI", "p (Holm)"]
    lines = []
    for row in rows:
        line = [row["model"], row["class"], row["words"]]
        line += [number(row["rho"]), limits(row, number), p_cell(row["p_holm"])]
        difference = row["difference"]
        if difference:
            line += [
                number(difference["value"]),
                limits(difference, number),
                p_cell(difference["p_holm"]),
            ]
        else:
            line += ["-", "-", "-"]
        lines.append(line)
    return Table("Rank correlation with the SVM", header, lines)


def word_table(rows: list[dict]) -> Table:
    """Return the table of the words on which the models and the SVM differ most."""
    header = ["model", "class", "word", "mean attribution", "mean share in the SVM"]
    header += ["difference of rank (share)"]
    lines = []
    for row in rows:
        for word in row["differ_most"][:SHOWN_WORDS]:
            lines.append(
                [
                    row["model"],
                    row["class"],
                    word["word"],
                    number(word["attribution"]),
                    number(word["svm"]),
                    f"{word['rank_difference']:+.2f}",
                ]
            )
    return Table("Words on which they differ most", header, lines)


# Drawing


def draw(axes: plt.Axes, result: dict) -> None:
    """Draw the rank correlation with the SVM by class."""
    if not result["agreement"]:
        return
    classes = result["classes"]
    styles = model_styles(result)
    models = list(dict.fromkeys(row["model"] for row in result["agreement"]))
    for index, name in enumerate(models):
        rows = [row for row in result["agreement"] if row["model"] == name]
        beside = 0.12 * (index - (len(models) - 1) / 2)
        x = [classes.index(row["class"]) + beside for row in rows]
        low = [row["low"] for row in rows]
        high = [row["high"] for row in rows]
        style = styles[name]
        axes.vlines(x, low, high, color=style["color"])
        axes.plot(x, [row["rho"] for row in rows], **style, linestyle="", label=plain(name))
    axes.set_xticks(range(len(classes)), [plain(name) for name in classes], fontsize=8)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set(xlim=(-0.5, len(classes) - 0.5), ylim=(-1.03, 1.03))
    axes.set(ylabel="rank correlation with the SVM")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
