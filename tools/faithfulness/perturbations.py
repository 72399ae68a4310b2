"""Measures of rankings of words: what the model says without the words that a method ranks first.

Words are taken away in two ways, because neither is fair alone. PAD in their place keeps the
positions of the others, but no text of the training looked so. Deleting their tokens leaves a text
without gaps, but moves the others together.
"""

import math

import numpy as np
import scipy
import torch

from faithfulness.models import Evaluator, removed_tokens

FRACTIONS = (0.05, 0.1, 0.2, 0.5)
TOP_WORDS = 3  # "without the three strongest words"
WORD_SETS = 50  # random sets of words left out, for infidelity
# Measures, and whether a larger value is better
MEASURES = {
    "comprehensiveness": True,
    "comprehensiveness_deleted": True,
    "sufficiency": False,
    "sufficiency_deleted": False,
    "tau_leave_one_out": True,
    "infidelity": False,
}
NOTE = (
    "Comprehensiveness: probability of the target class lost without the words ranked first "
    "(larger is better). Sufficiency: probability lost with only these words (smaller is better). "
    "Both are averaged over 5, 10, 20 and 50 percent of the words, replaced with PAD tokens, and, "
    "where it says deleted, with their tokens deleted. Tau: "
    "Kendall's rank correlation with leaving out single words. Infidelity: the share of the change "
    "of the logit without random sets of words that the sums of their scores, scaled to fit best, "
    "leave unexplained (0 to 1, smaller is better; random scores are positive, so their sums "
    "contain the number of words left out). None of them tells a good explanation from words whose "
    "loss makes a text unlike those of the training, so a method can score well by choosing words "
    "that break a text (Hsia et al., 2024)."
)


def first_words(scores: np.ndarray) -> np.ndarray:
    """Return the words ranked first, at least one, of every fraction: (fractions, words)."""
    rank = np.empty(len(scores), int)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return np.stack([rank < math.ceil(fraction * len(scores)) for fraction in FRACTIONS])


def unexplained(scores: np.ndarray, removed: np.ndarray, lost: np.ndarray) -> float:
    """Return the infidelity of scores (words,), normalized: the share of the squares of lost
    (sets,) that the sums of the scores of the words in removed (sets, words), scaled to fit best,
    leave unexplained. NaN where nothing is lost.
    """
    sums = removed @ scores
    if not lost.any():
        return math.nan
    return max(0.0, 1 - (sums @ lost) ** 2 / ((sums @ sums) * (lost @ lost))) if sums.any() else 1.0


def measure(
    evaluator: Evaluator, document: dict, rankings: dict[str, np.ndarray], removed: np.ndarray
) -> dict[str, dict]:
    """Return the measures of every ranking of a document, {ranking: {measure: value}}; None where
    one is undefined.

    rankings are scores (rows, words), whose measures are averaged over the rows; removed (sets,
    words) marks the sets of words that infidelity leaves out.
    """
    words = len(document["words"])
    # Every set of words that is left out, by name: (sets, words)
    masks = {
        "nothing": np.zeros((1, words), bool),
        "single words": np.eye(words, dtype=bool),
        "random sets": removed,
    }
    of_rankings = {}
    for name, rows in rankings.items():
        first = np.concatenate([first_words(row) for row in rows])
        of_rankings[f"{name}: first words"] = first
        of_rankings[f"{name}: all but the first words"] = ~first
    values = split(evaluator.without_words, document, masks | of_rankings)
    deleted = split(evaluator.with_words_deleted, document, of_rankings)

    logit, probability = values["nothing"][0]
    lost = logit - values["single words"][:, 0]
    lost_of_sets = logit - values["random sets"][:, 0]
    measures = {}
    for name, rows in rankings.items():
        taus = [math.nan]  # one word has no rank correlation
        if words > 1:
            taus = [scipy.stats.kendalltau(row, lost).statistic for row in rows]
        infidelities = [unexplained(row, removed, lost_of_sets) for row in rows]
        without, only = f"{name}: first words", f"{name}: all but the first words"
        means = {
            "comprehensiveness": probability - values[without][:, 1].mean(),
            "comprehensiveness_deleted": probability - deleted[without][:, 1].mean(),
            "sufficiency": probability - values[only][:, 1].mean(),
            "sufficiency_deleted": probability - deleted[only][:, 1].mean(),
            "tau_leave_one_out": np.mean(taus),
            "infidelity": np.mean(infidelities),
        }
        measures[name] = {
            key: float(mean) if math.isfinite(mean) else None for key, mean in means.items()
        }
    return measures


def split(evaluate, document: dict, masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what evaluate makes of each named array of masks, all evaluated in one pass."""
    values = evaluate(document, np.concatenate(list(masks.values())))
    ends = np.cumsum([len(mask) for mask in masks.values()])
    return dict(zip(masks, np.split(values, ends[:-1]), strict=True))


def without_strongest(evaluator: Evaluator, document: dict) -> dict:
    """Return what the model says without the words that speak most for the target class.

    words: the numbers of at most TOP_WORDS words, the strongest first, none that speaks against it.
    probabilities and probabilities_deleted: of every class, with PAD in their place and with their
    tokens deleted; the latter is None where no token is left.
    """
    scores = np.array(document["word_attributions"])
    strongest = np.argsort(-scores, kind="stable")[:TOP_WORDS]
    strongest = [int(word) for word in strongest if scores[word] > 0]
    removed = np.zeros((1, len(scores)), bool)
    removed[0, strongest] = True
    gone = torch.from_numpy(removed_tokens(document, removed)[0])
    text = document["input_ids"]
    replaced = torch.where(gone, evaluator.pad_token_id, text)
    deleted = text[~gone]
    return {
        "words": strongest,
        "probabilities": evaluator.probabilities(replaced, text),
        "probabilities_deleted": evaluator.probabilities(deleted, deleted)
        if len(deleted)
        else None,
    }
