"""Attributions of the same documents with other baselines, compared word by word."""

from pathlib import Path

import numpy as np
import scipy

from common.cli import fail
from common.folders import read_attributions

TOP = 5  # words


def baseline_name(summary: dict) -> str:
    """Return the name of the first baseline of an attribution folder.

    Older folders have the flag only; EOS stands for PAD where a tokenizer has none. Raises
    AttributeError if the name is not a text.
    """
    recorded = summary.get("baseline") or summary.get("arguments", {}).get("baseline", "pad")
    return recorded.upper()


def top_words(scores: np.ndarray) -> set[int]:
    """Return the words with the largest scores, TOP of them or all there are."""
    return set(np.argsort(-scores, kind="stable")[:TOP].tolist())


def compare_document(document: dict, other: dict) -> dict[str, float | None]:
    """Return Spearman's correlation of the words' attributions and the shared part of the top
    words, with the part that random rankings would share.

    Spearman's correlation is None if one side gives all words the same score.
    """
    scores = np.array(document["word_attributions"], float)
    others = np.array(other["word_attributions"], float)
    spearman = None
    if len(scores) > 1 and np.ptp(scores) > 0 and np.ptp(others) > 0:
        spearman = float(scipy.stats.spearmanr(scores, others).statistic)
    first = top_words(scores)
    return {
        "spearman": spearman,
        "top_5_overlap": len(first & top_words(others)) / len(first),
        "top_5_overlap_by_chance": len(first) / len(scores),
    }


def from_baseline(document: dict, name: str) -> dict:
    """Return a line of attributions.jsonl as a run with only one of its baselines has it.

    Folders of version 0.2 have the other classes, and what the model says without the strongest
    words, from the first baseline only.
    """
    several = document.get("baselines")
    if not several:
        return document
    line = {key: value for key, value in document.items() if key != "baselines"}
    if name != next(iter(several)):
        line.pop("classes", None)
        line.pop("without_top_words", None)
    return line | several[name]


def own_baselines(documents: list[dict], summary: dict) -> list[tuple[str, list[dict]]]:
    """Return the other baselines of a folder that was made with several, by name, with a line for
    each document.
    """
    if not all(isinstance(document.get("baselines"), dict) for document in documents):
        return []
    first = baseline_name(summary)
    return [
        (name, [from_baseline(document, name) for document in documents])
        for name in documents[0]["baselines"]
        if name != first
    ]


def check_each_once(names: list[str]) -> None:
    """Exit with status 2 if two sets of attributions have the same baseline.

    Tables and the page name them by their baselines, and the agreement of a folder with itself
    says nothing.
    """
    if len(set(names)) < len(names):
        fail(f"--compare requires other baselines, each once; here are {', '.join(names)}")


def read_other(folder: str, documents: list[dict], summary: dict) -> tuple[str, list[dict]]:
    """Return the name of the baseline of another attribution folder and its lines for the
    documents.

    Exits with status 2 unless they are of the same model, texts, words and targets.
    """
    lines, other_summary = read_attributions(Path(folder))
    weights = []
    for content in (summary, other_summary):
        settings = content.get("settings")
        weights.append(settings.get("weights_sha256") if isinstance(settings, dict) else None)
    if weights[0] != weights[1]:
        fail(f"--compare {folder} has attributions of another model; baselines differ alone")
    by_id = {line["id"]: line for line in lines}
    matched = []
    for document in documents:
        other = by_id.get(document["id"])
        if other is None:
            fail(f"--compare {folder} lacks document {document['id']}; attribute the same ones")
        for key, remedy in (
            ("text", "attribute the same documents"),
            ("words", "give the same --merge_words and --max_seq_length"),
            ("target", "give the same --target"),
            ("versus", "give the same --versus"),
        ):
            if document.get(key) != other.get(key):
                fail(f"--compare {folder} has another {key} of document {document['id']}; {remedy}")
        if len(other["word_attributions"]) != len(document["words"]):
            fail(f"--compare {folder} is damaged (scores of {document['id']}); make it again")
        matched.append(other)
    try:
        name = baseline_name(other_summary)
        return name, [from_baseline(other, name) for other in matched]
    except (AttributeError, LookupError):
        fail(f"{folder}/summary.json is damaged (the baseline is no name); make it again")
