"""Attribution in context: how much of its variance lies between words, how much within a word?

A model that does not use context attributes about the same to a word in every document.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from common.pages import percent, plain
from common.statistics import MIN_INTERVAL_DOCUMENTS, mean_interval, percentile_interval
from context.attributions import Attributions, read_all, score_tables
from context.documents import Documents
from context.models import Cache, Run
from context.results import Evaluation, Measurement, Section, Summary, Table
from context.text import interval, limits, model_styles, number

NAME = "word_variance"
TITLE = "Attribution in context"
# Content words first: function words have little attribution, and a share of little says little.
WORD_KINDS = {"content": "content words", "function": "function words", "all": "all words"}
BLOCK = 250  # resamples that are computed together, to bound the memory


def evaluate(runs: list[Run], documents: Documents, arguments, cache: Cache) -> Evaluation:
    """Return nothing: the attributions are in the folders of --attributions."""
    return Evaluation()


# Statistics


def variance_components(
    scores: np.ndarray, weights: np.ndarray, word_weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance between words and within words, for each row of weights.

    scores is (words, documents), NaN where a document does not have the word; weights (resamples,
    documents) and word_weights (resamples, words) say how often each document and word is taken
    (default: each word once). The product of two scores of a word in different documents has the
    expectation of its squared mean, so no copies of one document, or of one word, are multiplied
    and both estimates are unbiased in every resample. Each word has the same weight. NaN if fewer
    than two words have two documents.
    """
    present = (~np.isnan(scores)).astype(float)
    filled = np.nan_to_num(scores)
    # Of each word in each resample (resamples, words)
    count = weights @ present.T
    total = weights @ filled.T
    squares = weights @ (filled**2).T
    # Copies of one document, which are not pairs of different documents
    same_count = weights**2 @ present.T
    same_squares = weights**2 @ (filled**2).T
    pairs = count**2 - same_count
    with np.errstate(divide="ignore", invalid="ignore"):
        product = np.where(pairs > 0, (total**2 - same_squares) / pairs, np.nan)
        usable = ~np.isnan(product)
        means = np.where(usable, total / count, 0)
        mean_squares = np.where(usable, squares / count, 0)
        taken = usable if word_weights is None else usable * word_weights
        words = taken.sum(axis=1)
        word_pairs = words**2 - (taken.astype(float) ** 2).sum(axis=1)
        # Mean product of the means of two different words
        sums = (taken * means).sum(axis=1)
        grand = (sums**2 - ((taken * means) ** 2).sum(axis=1)) / word_pairs
        product = (taken * np.nan_to_num(product)).sum(axis=1) / words
        mean_squares = (taken * mean_squares).sum(axis=1) / words
        between = np.where(word_pairs > 0, product - grand, np.nan)
        within = np.where(word_pairs > 0, mean_squares - product, np.nan)
    return between, within


def intraclass_correlation(
    scores: np.ndarray, n_resamples: int, seed: int, resample_words: bool = True
) -> dict | None:
    """Return the share of the variance of the scores (words, documents) that lies between words.

    The interval is the percentile interval over resamples of the words and of the documents, each
    by itself (Owen, Ann. Appl. Stat. 1:386, 2007): both are samples. It is reliable for scores with
    bounded tails, such as ranks. None if there are fewer than two words or no variance.
    """
    if len(scores) < 2 or np.isnan(scores).all() or np.nanmax(scores) == np.nanmin(scores):
        return None
    words, documents = scores.shape
    generator = np.random.default_rng(seed)
    blocks = [
        np.stack(variance_components(scores, np.ones((1, documents)), np.ones((1, words))))
    ]  # the words and documents themselves come first
    for start in range(0, n_resamples, BLOCK):
        size = min(BLOCK, n_resamples - start)
        weights = draw_weights(documents, size, generator)
        word_weights = draw_weights(words, size, generator) if resample_words else None
        blocks.append(np.stack(variance_components(scores, weights, word_weights)))
    between, within = np.concatenate(blocks, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.clip(between / (between + within), 0, 1)
    if np.isnan(shares[0]):
        return None
    low = high = None
    if documents >= MIN_INTERVAL_DOCUMENTS and not np.isnan(shares[1:]).all():
        low, high = percentile_interval(shares[1:])
    return {
        "groups": words,
        "observations": int((~np.isnan(scores)).sum()),
        "icc": float(shares[0]),
        "low": low,
        "high": high,
        "between": float(between[0]),
        "within": float(within[0]),
    }


def draw_weights(size: int, n_resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Return how often each of size units is taken, for each resample (resamples, units)."""
    return generator.multinomial(size, np.full(size, 1 / size), size=n_resamples).astype(float)


def ranks(scores: np.ndarray) -> np.ndarray:
    """Return the ranks of scores (words, documents), from 0 to 1; NaN stays NaN.

    Attributions have heavy tails, with which no interval of a variance is reliable.
    """
    ranked = np.full(scores.shape, np.nan)
    present = ~np.isnan(scores)
    ranked[present] = stats.rankdata(scores[present]) / max(1, present.sum())
    return ranked


def function_shares(attributions: Attributions) -> dict:
    """Return the share of function words in the absolute attribution, and among the words.

    Both are means over documents.
    """
    shares = []
    shares_of_words = []
    for document in attributions.documents.values():
        total = 0
        of_function_words = 0
        words = 0
        function_words = 0
        for word, scores in document.scores.items():
            is_function = word in ENGLISH_STOP_WORDS
            for score in scores:
                total += abs(score)
                words += 1
                if is_function:
                    of_function_words += abs(score)
                    function_words += 1
        if total:
            shares.append(of_function_words / total)
            shares_of_words.append(function_words / words)
    return {
        "function_share": mean_interval(shares) if shares else None,
        "function_share_of_words": mean_interval(shares_of_words) if shares else None,
    }


def summarize(measurement: Measurement, arguments) -> Summary:
    """Return, for each model, the variance of its attributions between and within words."""
    if not arguments.attributions:
        reason = "Attribution in context is left out: it needs --attributions."
        return Summary({"attribution": []}, [reason])
    attributions = read_all(measurement, arguments)
    scores = score_tables(attributions, arguments.min_occurrences)
    is_function = np.array([word in ENGLISH_STOP_WORDS for _, word in scores.pairs], dtype=bool)
    kinds = {
        "all": np.ones(len(scores.pairs), dtype=bool),
        "content": ~is_function,
        "function": is_function,
    }
    rows = []
    for part, values in zip(attributions, scores.values, strict=True):
        row = {"name": part.name, "folder": part.folder, "documents": len(scores.ids)}
        ranked = ranks(values)
        for kind, chosen in kinds.items():
            row[kind] = intraclass_correlation(
                ranked[chosen], arguments.n_resamples, arguments.seed
            )
        row |= function_shares(part)
        row["min_occurrences"] = arguments.min_occurrences
        rows.append(row)
    summary = Summary({"attribution": rows})
    if any(row["all"] is None for row in rows):
        summary.left_out.append(
            "Variance of attributions is left out: fewer than two words are attributed to the same "
            f"class in {arguments.min_occurrences} documents. Documents that all models explain "
            f"for the same class: {len(scores.ids)}."
        )
    return summary


# Text


def describe(result: dict) -> Section:
    """Return the section of the variance of attributions."""
    section = Section(TITLE)
    rows = []
    for model in result["attribution"]:
        variance = model["content"]
        if variance and model is result["attribution"][0]:
            section.answer = (
                f"{percent(variance['icc'])}% ({interval(variance)}) of the variance of the rank "
                "of a content word's attribution lies between words, the rest between the "
                "documents that contain it."
            )
        section.sentences += model_sentences(model)
        for kind, text in WORD_KINDS.items():
            variance = model[kind]
            if variance:
                rows.append(
                    [
                        model["name"],
                        text,
                        f"{variance['groups']:,}",
                        f"{variance['observations']:,}",
                        f"{1000 * variance['between']:.2f}",
                        f"{1000 * variance['within']:.2f}",
                        number(variance["icc"]),
                        limits(variance, number),
                    ]
                )
    if rows:
        section.sentences.append(
            "Ranks go from 0 to 1, and intervals are over resampled words and documents. Where "
            "both variances are small, as for words of little attribution, their ratio says little "
            "about the use of context. What lies between documents need not be order: a model that "
            "weights its words by attention cannot see their order and attributes differently to a "
            "word beside other words."
        )
        header = ["model", "words", "pairs", "observations", "variance between words, 1/1000"]
        header += ["variance within words, 1/1000", "share between words", "95% CI"]
        section.tables.append(Table("Variance of the ranks of attributions", header, rows))
    return section


def model_sentences(model: dict) -> list[str]:
    """Return what the attributions of one model show."""
    sentences = []
    kind = "content" if model["content"] else "all"
    variance = model[kind]
    if variance:
        sentences.append(
            f"{model['name']}: {percent(variance['icc'])}% ({interval(variance)}) of the variance "
            f"of the rank of a word's attribution to a class lies between {WORD_KINDS[kind]}, the "
            f"rest between the documents that contain one ({variance['groups']:,} pairs of word "
            f"and class, each in {model['min_occurrences']} or more of {model['documents']:,} "
            "documents, the same for all models)."
        )
    share = model["function_share"]
    if share:
        sentences.append(
            f"Function words are {percent(model['function_share_of_words']['mean'])}% of the "
            f"words and carry {percent(share['mean'])}% ({interval(share)}) of the absolute "
            f"attribution of {model['name']}."
        )
    return sentences


# Drawing


def draw(axes: plt.Axes, result: dict) -> None:
    """Draw the intraclass correlation of each model by kind of word."""
    models = result["attribution"]
    if not any(model["all"] for model in models):
        return
    styles = model_styles(result)
    for index, model in enumerate(models):
        style = styles[model["name"]]
        for x, kind in enumerate(WORD_KINDS):
            variance = model[kind]
            if variance:
                # Models beside each other
                at = x + 0.12 * (index - (len(models) - 1) / 2)
                if variance["low"] is not None:
                    axes.vlines(at, variance["low"], variance["high"], color=style["color"])
                axes.plot(at, variance["icc"], **style)
        axes.plot([], [], **style, linestyle="", label=plain(model["name"]))
    axes.set_xticks(range(len(WORD_KINDS)), WORD_KINDS.values())
    axes.set(
        ylim=(-0.03, 1.03),
        xlim=(-0.5, len(WORD_KINDS) - 0.5),
        ylabel="share of variance between words",
    )
    axes.legend(fontsize=8, frameon=False)
