"""Additive surrogate: how much of a logit is a sum over words, and how much is interactions?"""

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from common.pages import percent, plain
from common.statistics import mean_interval
from context.documents import Documents
from context.models import ROUNDING, Cache, Run, join_tokens
from context.results import Evaluation, Measurement, Section, Summary
from context.text import interval, model_styles

NAME = "additive_surrogate"
TITLE = "Additive surrogate"


# Evaluation


def evaluate(runs: list[Run], documents: Documents, arguments, cache: Cache) -> Evaluation:
    """Fit an additive surrogate of the predicted class's logit for each of the first documents.

    The record of a run without one says why.
    """
    evaluation = Evaluation(record={"runs": []})
    for run in runs:
        predictions = cache.predictions(run)
        usable = []
        for document in range(len(run.words)):
            # An encoder gets PAD in the place of a word that is left out.
            if run.kind == "svm" or (run.joined[document] and run.pad_id is not None):
                usable.append(document)
        shares = []
        with tqdm(
            total=0, desc=f"surrogate: {run.name}", unit="text", disable=arguments.disable_tqdm
        ) as bar:
            for document in usable[: arguments.n_surrogate_documents]:
                kept = draw_kept_words(len(run.words[document]), [arguments.seed, document])
                inputs = partial_inputs(run, run.words[document], kept)
                bar.total += len(inputs)
                logits = cache.evaluate(run, inputs, bar)
                shares.append(additive_r2(kept, logits[:, predictions[document]]))
        record = {"additive_r2": shares}
        if not usable:
            record["reason"] = reason_to_leave_out(run)
        evaluation.record["runs"].append(record)
    return evaluation


def reason_to_leave_out(run: Run) -> str:
    """Return why no document of an encoder can lose words."""
    if run.pad_id is None:
        return "its tokenizer has no padding token to put in the place of a word."
    return "its tokenizer does not split texts at blanks."


def draw_kept_words(words: int, seed: list[int]) -> np.ndarray:
    """Return which words each text keeps (texts, words): each with probability 1/2.

    There are twice as many texts as words, and 20 more.
    """
    return np.random.default_rng(seed).random((2 * words + 20, words)) < 0.5


def partial_inputs(run: Run, words: list[str], kept: np.ndarray) -> list:
    """Return the model's input for each text (texts, words) that keeps some of the words."""
    inputs = []
    for row in kept:
        if run.kind == "svm":
            inputs.append(" ".join(word for word, keep in zip(words, row, strict=True) if keep))
        else:
            masked = frozenset(np.flatnonzero(~row).tolist())
            inputs.append(join_tokens(run, words, masked))
    return inputs


def additive_r2(kept: np.ndarray, values: np.ndarray) -> float | None:
    """Return the adjusted R2 of values (texts,) as a sum over the words that a text keeps.

    kept is (texts, words), 0 or 1. For words that are kept independently, the least-squares
    coefficients are the Banzhaf values (Hammer & Holzman, Zeitschrift fuer Operations Research
    36:3-21, 1992), and 1 - R2 is the share of interactions in the variance. None if the values do
    not vary.
    """
    count, words = kept.shape
    total = np.var(values, ddof=1)
    if total < ROUNDING**2:
        return None
    design = np.column_stack([np.ones(count), kept])
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    rest = values - design @ coefficients
    return float(1 - (rest @ rest) / (count - words - 1) / total)


# Statistics


def summarize(measurement: Measurement, arguments) -> Summary:
    """Return the mean R2 of each run's surrogates with its interval over documents."""
    record = measurement.evaluations[NAME].record
    rows = []
    reasons = {}
    for run, evaluated in zip(measurement.runs, record["runs"], strict=True):
        shares = [share for share in evaluated["additive_r2"] if share is not None]
        if not shares:
            reason = record.get("reason") or evaluated.get("reason")
            if reason is None and evaluated["additive_r2"]:
                reason = "its logits do not change when words are left out."
            reasons[run["name"]] = reason or "no document was evaluated for it."
            continue
        row = {"name": run["name"], "documents": len(shares)} | mean_interval(shares)
        if row["high"] is not None:
            row["high"] = min(1.0, row["high"])
        rows.append(row)
    if not rows and len(set(reasons.values())) == 1:
        left_out = [f"The additive surrogate is left out: {next(iter(reasons.values()))}"]
    else:
        left_out = [
            f"The additive surrogate is left out for {name}: {reason}"
            for name, reason in reasons.items()
        ]
    return Summary({"surrogates": rows}, left_out)


# Text


def describe(result: dict) -> Section:
    """Return the section of the additive surrogate."""
    section = Section(TITLE)
    for row in result["surrogates"]:
        if row["name"] == result["model"]:
            section.answer = (
                f"{percent(row['mean'])}% ({interval(row)}) of the variance of the logit is a sum "
                "over words, the rest is interactions, of order or not."
            )
        section.sentences.append(
            f"{row['name']}: {percent(row['mean'])}% ({interval(row)}) of the variance of the "
            "predicted class's logit is a sum over words, and the rest is interactions of words "
            "(R2 of the best additive surrogate on texts in which each word is left out with "
            f"probability 1/2; mean over {row['documents']} documents)."
        )
    if result["surrogates"]:
        section.sentences.append(
            "Interactions need not be order: a bag of words that is pooled by attention cannot see "
            "the order, and its words interact through their weights. Only the word order test and "
            "the phrases whose words are moved apart are about order."
        )
    return section


# Drawing


def draw(axes: plt.Axes, result: dict) -> None:
    """Draw the R2 of the additive surrogate of each run."""
    rows = result["surrogates"]
    if not rows:
        return
    styles = model_styles(result)
    for y, row in enumerate(rows):
        style = styles[row["name"]]
        if row["low"] is not None:
            axes.hlines(y, row["low"], row["high"], color=style["color"])
        axes.plot(row["mean"], y, **style)
    axes.set_yticks(range(len(rows)), [plain(row["name"]) for row in rows], fontsize=8)
    axes.set(
        xlim=(-0.03, 1.03),
        ylim=(len(rows) - 0.5, -0.5),
        xlabel="share of the logit's variance that is additive",
    )
