"""Word order: how much does a model lose when words are shuffled, in blocks or by sentence?"""

import logging

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from common.pages import p_text, percent
from common.statistics import ALPHA
from context.conditions import (
    METRIC_HEADER,
    Condition,
    condition_statistics,
    draw_conditions,
    metric_cells,
)
from context.documents import Documents
from context.models import Cache, Run, encode
from context.results import Evaluation, Measurement, Section, Summary, Table, logits_key
from context.text import change_text, interval
from context.words import SENTENCE, shuffle

logger = logging.getLogger(__name__)

NAME = "word_order"
TITLE = "Word order"


# Evaluation


def block_sizes(arguments) -> list[int | str]:
    """Return the numbers of words that stay together, sentences last."""
    return [*dict.fromkeys(arguments.block_sizes), SENTENCE]


def evaluate(runs: list[Run], documents: Documents, arguments, cache: Cache) -> Evaluation:
    """Evaluate all runs on the documents and on their shuffled versions.

    The logits are (documents, classes) for the original documents and (shuffles, documents,
    classes) for each block size. The record has the share of texts that shuffling changes.
    """
    evaluation = Evaluation(record={"runs": []})
    sizes = block_sizes(arguments)
    for number, run in enumerate(runs):
        total = len(run.words) * (1 + len(sizes) * arguments.n_shuffles)
        changed_texts = []
        with tqdm(
            total=total, desc=f"word order: {run.name}", unit="text", disable=arguments.disable_tqdm
        ) as bar:
            original = cache.document_logits(run, bar)
            evaluation.logits[logits_key(number, "original")] = original
            for index, size in enumerate(sizes):
                shuffled = shuffled_inputs(run, size, index, arguments)
                logits, changed = evaluate_shuffled(run, shuffled, original, cache, bar)
                evaluation.logits[logits_key(number, f"block-{size}")] = logits
                changed_texts.append({"block": size, "changed_texts": changed})
        evaluation.record["runs"].append({"conditions": changed_texts})
    return evaluation


def shuffled_inputs(run: Run, size: int | str, index: int, arguments) -> list:
    """Return the model's inputs for all documents, shuffled n_shuffles times.

    index is that of the block size among the sizes; it is a part of the seed.
    """
    numbers = list(range(len(run.words)))
    texts = []
    for shuffle_number in range(arguments.n_shuffles):
        for document in numbers:
            seed = [arguments.seed, index, shuffle_number, document]
            texts.append(shuffle(run.words[document], size, seed))
    return encode(run, texts, numbers * arguments.n_shuffles)


def evaluate_shuffled(
    run: Run, shuffled: list, original: np.ndarray, cache: Cache, bar: tqdm
) -> tuple[np.ndarray, float]:
    """Return the logits (shuffles, documents, classes) and the share of texts that changed.

    A text of one block, or of equal words, does not change; its logits are the original ones.
    """
    inputs = encode(run, run.words, list(range(len(run.words))))
    changed = []
    for index, item in enumerate(shuffled):
        if item != inputs[index % len(inputs)]:
            changed.append(index)
    bar.update(len(shuffled) - len(changed))
    n_shuffles = len(shuffled) // len(inputs)
    logits = np.tile(original, (n_shuffles, 1))
    if changed:
        logits[changed] = cache.evaluate(run, [shuffled[index] for index in changed], bar)
    return logits.reshape(n_shuffles, *original.shape), len(changed) / len(shuffled)


# Statistics


def summarize(measurement: Measurement, arguments) -> Summary:
    """Return what each run loses in each condition, with tests and intervals."""
    evaluation = measurement.evaluations[NAME]
    results = []
    for number, run in enumerate(measurement.runs):
        conditions = []
        for description in evaluation.record["runs"][number]["conditions"]:
            key = logits_key(number, f"block-{description['block']}")
            conditions.append(Condition(description, evaluation.logits[key]))
        original = evaluation.logits[logits_key(number, "original")]
        changes = condition_statistics(original, conditions, measurement, arguments)
        if run["kind"] == "svm":  # decision values have no probabilities
            for condition in changes.conditions:
                condition.pop("true_class_probability", None)
                condition.pop("total_variation", None)
        result = {key: run.get(key) for key in ("name", "folder", "kind", "commit")}
        result["cut_documents"] = run.get("cut_documents")
        result |= changes.original
        result["indifferent"] = is_indifferent(run, original, changes.conditions)
        result["conditions"] = changes.conditions
        if result["indifferent"] is False:
            logger.warning(
                "%s must not depend on word order, but does: %s", run["name"], run["folder"]
            )
        results.append(result)
    return Summary({"order": results})


def is_indifferent(run: dict, original: np.ndarray, conditions: list[dict]) -> bool | None:
    """Return whether shuffling single words leaves a run that cannot see their order as it is.

    None for a run that can see it, or where single words were not shuffled. This checks the tool:
    the counts of an SVM are exactly the same, the mean of vectors may differ by rounding.
    """
    singles = [condition for condition in conditions if condition["block"] == 1]
    if not run["order_free"] or not singles:
        return None
    if run["kind"] == "svm":
        bound = 0
    else:
        bound = 1e-4 * max(1, np.abs(np.nan_to_num(original, neginf=0)).max())
    single = singles[0]
    return bool(single["predictions_changed"] == 0 and single["max_change"] <= bound)


# Text


def block_text(block: int | str) -> str:
    """Return what was shuffled."""
    if block == SENTENCE:
        return "sentences"
    if block == 1:
        return "single words"
    return f"blocks of {block} words"


def describe(result: dict) -> Section:
    """Return the section of the word order test."""
    section = Section(TITLE, answer=answer(result["order"][0]))
    for run in result["order"]:
        section.sentences += run_sentences(run, result["documents"])
        # Without order there is nothing in the tables but zeros.
        if not run["indifferent"]:
            section.tables += run_tables(run)
    return section


def answer(run: dict) -> str:
    """Return whether a run depends on the order of words."""
    name = run["name"]
    if run["indifferent"]:
        return f"No: {name} cannot see the order of words, and shuffling them changes nothing."
    condition = run["conditions"][0]
    accuracy = condition["accuracy"]
    probability = condition.get("true_class_probability")
    changes = [change_text("its accuracy", accuracy)]
    if probability:
        changes.append(change_text("the mean probability of the true class", probability))
    tests = [test for test in (accuracy, probability) if test]
    if any(test["p_holm"] < ALPHA for test in tests):
        verdict = "Yes, the order of words"
    else:
        verdict = "Undecided"
    return f"{verdict}: when {block_text(condition['block'])} are shuffled, {'; '.join(changes)}."


def run_sentences(run: dict, documents: int) -> list[str]:
    """Return the findings of a run's word order test."""
    name = run["name"]
    sentences = [
        f"{name}: accuracy {percent(run['accuracy']['value'])}% ({interval(run['accuracy'])}) "
        f"and macro F1 {percent(run['macro_f1']['value'])}% on the {documents:,} original "
        "documents."
    ]
    if run["indifferent"] is not None:
        single = next(condition for condition in run["conditions"] if condition["block"] == 1)
        state = "does not" if run["indifferent"] else "DOES: something is wrong"
        sentences.append(
            f"{name} does not see the word order, so its predictions must not depend on it; its "
            f"output {state} (largest change of a score {single['max_change']:.1e})."
        )
    if not run["indifferent"]:
        sentences += loss_sentences(run)
    if run["cut_documents"]:
        sentences.append(
            f"{run['cut_documents']:,} documents are longer than {name} reads. They were truncated "
            "before shuffling, so that a shuffled text has the same words."
        )
    return sentences


def loss_sentences(run: dict) -> list[str]:
    """Return what a run that sees the word order loses, and the class that loses most."""
    name = run["name"]
    sentences = []
    for condition in run["conditions"]:
        if condition["block"] in (1, SENTENCE):
            sentences.append(condition_sentence(name, condition))
    worst = min(run["conditions"], key=lambda condition: condition["macro_f1"]["difference"])
    loser = min(worst["classes"], key=lambda test: test["difference"])
    if loser["difference"] < 0 and loser["p_holm"] < ALPHA:
        sentences.append(
            f"{name}: {loser['class']} loses most: its F1 changes by "
            f"{percent(loser['difference'])} points with {block_text(worst['block'])} shuffled "
            f"({interval(loser)}; p after Holm over all "
            f"classes and sizes {p_text(loser['p_holm'])})."
        )
    elif loser["difference"] < 0:
        sentences.append(
            f"{name}: no class loses F1 distinguishably, by Holm's correction over all classes and "
            "sizes."
        )
    return sentences


def condition_sentence(name: str, condition: dict) -> str:
    """Return what a run loses in one condition: accuracy and, beside it, P(true class)."""
    changes = [change_text("accuracy", condition["accuracy"])]
    probability = condition.get("true_class_probability")
    if probability:
        changes.append(change_text("the mean probability of the true class", probability))
    return (
        f"{name}: with {block_text(condition['block'])} shuffled, {'; '.join(changes)}. "
        f"{percent(condition['predictions_changed'])}% of its predictions change."
    )


def run_tables(run: dict) -> list[Table]:
    """Return the tables of a run's word order test: its metrics, and the F1 of each class."""
    conditions = run["conditions"]
    metrics = Table(
        caption=f"{run['name']}, percent",
        header=["shuffled", *METRIC_HEADER],
        rows=[
            [block_text(condition["block"]), *metric_cells(condition)] for condition in conditions
        ],
    )
    losses = Table(
        caption=f"{run['name']}, change of F1 in points",
        header=["class (documents)", *(block_text(condition["block"]) for condition in conditions)],
        rows=[],
    )
    for index, test in enumerate(conditions[0]["classes"]):
        row = [f"{test['class']} ({test['documents']})"]
        for condition in conditions:
            row.append(percent(condition["classes"][index]["difference"]))
        losses.rows.append(row)
    return [metrics, losses]


# Drawing


def draw(axes: plt.Axes, result: dict) -> None:
    """Draw the change of accuracy by block size."""
    draw_conditions(axes, result, result["order"], "block", "words that stay together")
