"""Attention window: how much does an encoder lose when a token sees few others?"""

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from context.conditions import (
    METRIC_HEADER,
    Condition,
    condition_statistics,
    draw_conditions,
    metric_cells,
)
from context.documents import Documents
from context.models import Cache, Run, encode, encoder_logits, encoder_states, join_tokens
from context.results import Evaluation, Measurement, Section, Summary, Table, logits_key
from context.text import change_text

NAME = "attention_window"
TITLE = "Attention window"


# Evaluation


# What models raise that pool with the mask, or expect another shape of it, which XLM asserts
MASK_ERRORS = (ValueError, TypeError, RuntimeError, LookupError, AttributeError, AssertionError)


def takes_windows(run: Run) -> bool:
    """Return whether the mask for each pair of tokens decides what a token of an encoder sees.

    If so, a mask with which all tokens see all changes nothing, a window does, and in a window of
    no neighbors a token sees only itself.
    """
    if run.model.config.is_encoder_decoder:  # the decoder would still see everything
        return False
    longest = max(run.words, key=len)
    whole = tuple(join_tokens(run, longest)[: run.max_length])
    half = tuple(join_tokens(run, longest[: len(longest) // 2]))
    precision = 1e-2 if run.bf16 else 1e-4
    try:
        expected = encoder_logits(run, [whole, half])
        full = encoder_logits(run, [whole, half], "full")
        alone = encoder_logits(run, [whole, half], 0)
        sees_neighbors = sees_neighbors_without_attention(run, whole, precision)
    except MASK_ERRORS:
        return False
    full_is_equal = np.abs(full - expected).max() < precision * max(1, np.abs(expected).max())
    window_differs = np.abs(alone - expected).max() > 1e-9
    return bool(full_is_equal and window_differs and not sees_neighbors)


def sees_neighbors_without_attention(run: Run, ids: tuple[int, ...], precision: float) -> bool:
    """Return whether a token changes with another one in a window of no neighbors.

    It does where embeddings join neighbors (MobileBERT) or layers convolve them (ConvBERT, some of
    DeBERTa). precision is the largest change, relative to the states, that is rounding.
    """
    middle = len(ids) // 2
    others = [token for token in ids if token != ids[middle]]
    changed = (*ids[:middle], others[0], *ids[middle + 1 :])
    before, after = encoder_states(run, [ids, changed], 0)
    change = np.abs(after - before)
    change[[0, middle]] = 0  # the first token sees all in any window
    return bool(change.max() > precision * max(1, np.abs(before).max()))


def evaluate(runs: list[Run], documents: Documents, arguments, cache: Cache) -> Evaluation:
    """Evaluate the encoders on the documents with attention limited to windows.

    The logits are (documents, classes) without a limit and for each window.
    """
    evaluation = Evaluation(record={"runs": []})
    for number, run in enumerate(runs):
        conditions = []
        if run.kind == "encoder" and run.can_pad and takes_windows(run):
            sizes = [*dict.fromkeys(arguments.window_sizes), "all"]
            inputs = encode(run, run.words, list(range(len(run.words))))
            with tqdm(
                total=len(inputs) * (1 + len(sizes)),
                desc=f"windows: {run.name}",
                unit="text",
                disable=arguments.disable_tqdm,
            ) as bar:
                original = cache.evaluate(run, inputs, bar)
                evaluation.logits[logits_key(number, "original")] = original
                for size in sizes:
                    logits = cache.evaluate(run, inputs, bar, size)
                    evaluation.logits[logits_key(number, f"window-{size}")] = logits
                    conditions.append({"window": size})
        evaluation.record["runs"].append({"conditions": conditions})
    return evaluation


# Statistics


def summarize(measurement: Measurement, arguments) -> Summary:
    """Return what each encoder loses with each window, with tests and intervals."""
    summary = Summary({"windows": []})
    evaluation = measurement.evaluations[NAME]
    for number, run in enumerate(measurement.runs):
        record = evaluation.record["runs"][number]
        if record["conditions"]:
            conditions = []
            for description in record["conditions"]:
                key = logits_key(number, f"window-{description['window']}")
                conditions.append(Condition(description, evaluation.logits[key][None]))
            original = evaluation.logits[logits_key(number, "original")]
            changes = condition_statistics(original, conditions, measurement, arguments)
            result = {"name": run["name"], "conditions": changes.conditions}
            summary.results["windows"].append(result)
        elif run["kind"] == "encoder":
            reason = "no mask for each pair of tokens decides what a token of the model sees."
            summary.left_out.append(
                f"The attention window is left out for {run['name']}: "
                f"{record.get('reason', reason)}"
            )
    return summary


# Text


def describe(result: dict) -> Section:
    """Return the section of the attention window."""
    section = Section(TITLE)
    for run in result["windows"]:
        for condition in (run["conditions"][0], run["conditions"][-1]):
            change = change_text("accuracy", condition["accuracy"])
            sentence = f"when a token sees {window_text(condition['window'])}, {change}."
            section.sentences.append(f"{run['name']}: {sentence}")
            if run["name"] == result["model"] and not section.answer:
                section.answer = sentence[0].upper() + sentence[1:]
        rows = []
        for condition in run["conditions"]:
            rows.append([str(condition["window"]), *metric_cells(condition)])
        header = ["tokens on either side", *METRIC_HEADER]
        section.tables.append(Table(f"{run['name']}, percent", header, rows))
    if result["windows"]:
        section.sentences.append(
            "The first special token still sees the whole text, and no token sees it; all tokens "
            "see the last special token, which sees only itself. The window of all tokens shows "
            "what this alone changes. The models were not trained with windows, so a loss shows "
            "what they do with context, not what the task needs."
        )
    return section


def window_text(window: int | str) -> str:
    """Return what a token sees."""
    if window == "all":
        return "all tokens"
    if window == 0:
        return "only itself"
    return f"itself and {window} tokens on either side"


# Drawing


def draw(axes: plt.Axes, result: dict) -> None:
    """Draw the change of accuracy by window size."""
    if result["windows"]:
        label = "tokens that a token sees on either side"
        draw_conditions(axes, result, result["windows"], "window", label)
