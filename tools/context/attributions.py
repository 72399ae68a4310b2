"""Attributions of run_attribution.py: of each word in each document, for several models."""

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.cli import fail, one_line
from common.folders import read_attributions
from context.documents import count_documents, text_digest
from context.models import unique_names
from context.results import Measurement
from context.words import normalize

logger = logging.getLogger(__name__)


@dataclass
class AttributedDocument:
    """The attributions of one document."""

    target: str  # name of the class to which the words are attributed
    text: str
    scores: dict[str, list[float]]  # of each normalized word, one for each occurrence


@dataclass
class Attributions:
    """A folder of run_attribution.py."""

    folder: str
    model: str  # folder or Hub id of the model that is explained
    documents: dict[str, AttributedDocument]  # by id
    name: str = ""  # of the model among all that are measured or explained
    weights: str | None = None  # SHA-256 of the model's weights; earlier versions have none


@dataclass
class Scores:
    """Attributions of several models to the same words in the same documents."""

    ids: list[str]
    pairs: list[tuple[str, str]]  # (class, word)
    values: np.ndarray  # (models, pairs, documents), NaN where a document lacks the word


def read_folder(folder: str) -> Attributions:
    """Read a folder of run_attribution.py.

    Exits with status 2 if it is not complete, or explains a contrast of classes.
    """
    lines, summary = read_attributions(Path(folder))
    prefix = str(summary.get("text_prefix") or "")
    documents = {}
    try:
        for line in lines:
            if line.get("versus"):
                fail(
                    f"--attributions {folder} explains a difference of classes (--versus); "
                    "give those of one class"
                )
            document = AttributedDocument(
                line["target"], line["text"].removeprefix(prefix), word_scores(line, prefix)
            )
            documents[str(line["id"])] = document
        model = str(summary["arguments"]["model_name_or_path"])
        weights = (summary.get("settings") or {}).get("weights_sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fail(
            f"{folder} is not a complete folder of run_attribution.py ({one_line(error)}); "
            "run it again"
        )
    return Attributions(folder, model, documents, weights=weights)


def word_scores(line: dict, prefix: str) -> dict[str, list[float]]:
    """Return the attributions of each normalized word of a document, without the prefix's words.

    The prefix stands before every text, so its words say nothing about a document.
    """
    spans = line.get("word_spans")  # attributions of earlier versions have none
    if not prefix or spans is None:
        spans = [(0, len(line["text"]))] * len(line["words"])
    scores = defaultdict(list)
    for word, score, span in zip(line["words"], line["word_attributions"], spans, strict=True):
        if normalize(word) and span[1] > len(prefix):
            scores[normalize(word)].append(float(score))
    return scores


def read_all(measurement: Measurement, arguments) -> list[Attributions]:
    """Read the folders of --attributions, with a name for each model: that of its run, if measured.

    Exits with status 2 if one is of other classes or documents than those that are measured.
    """
    attributions = [read_folder(folder) for folder in arguments.attributions]
    name_models(attributions, measurement.runs)
    for part in attributions:
        check_classes_of_targets(part, measurement.classes)
        check_texts(part, measurement.index)
    return attributions


def explains(attributions: Attributions, folder: str, weights: str | None) -> bool:
    """Return whether attributions are of the model in a folder: one of the same weights.

    Where one has no digest of its weights, the last two parts of the path are compared: the folder
    may have been moved, and every run of run_paper.sh is called lr-RATE-seed-SEED.
    """
    if attributions.weights is not None and weights is not None:
        return attributions.weights == weights
    explained = Path(attributions.model).parts[-2:]
    measured = Path(folder).parts[-2:]
    count = min(len(explained), len(measured))
    return explained[-count:] == measured[-count:]


def name_models(attributions: list[Attributions], runs: list[dict]) -> None:
    """Name the model of each folder, in place: like the run that it is, others like no run.

    Tables and pictures find a model by its name.
    """
    taken = {run["name"] for run in runs}
    given = set()
    others = []
    for part in attributions:
        measured = [run for run in runs if explains(part, run["folder"], run.get("weights_sha256"))]
        # Of runs that are the same model, the one in its folder
        measured.sort(key=lambda run: Path(run["folder"]).absolute() != Path(part.model).absolute())
        if measured:
            part.name = numbered(measured[0]["name"], given)
            given.add(part.name)
        else:
            others.append(part)
    names = unique_names([part.model for part in others])
    for part, name in zip(others, names, strict=True):
        part.name = numbered(name, taken | given)
        given.add(part.name)


def numbered(name: str, taken: set[str]) -> str:
    """Return the name, with a number if it is taken."""
    number = 2
    unique = name
    while unique in taken:
        unique = f"{name} ({number})"
        number += 1
    return unique


def check_classes_of_targets(attributions: Attributions, classes: list[str]) -> None:
    """Exit with status 2 if a class that is explained is not one of the dataset's, by name."""
    targets = {document.target for document in attributions.documents.values()}
    unknown = sorted(targets - set(classes))
    if unknown:
        fail(
            f"--attributions {attributions.folder} explains "
            f"{', '.join(map(repr, unknown))}, the dataset has {', '.join(map(repr, classes))}; "
            "explain a run of these classes with run_attribution.py"
        )


def check_texts(attributions: Attributions, index: dict) -> None:
    """Exit with status 2 if documents with the ids of measured ones have other texts.

    index["texts"] has the digests of each document's text, one for each selection of columns that
    the runs read; evaluations of earlier versions have none.
    """
    if "texts" not in index:
        return
    digests = dict(zip(index["ids"], index["texts"], strict=True))
    different = []
    for identifier, document in attributions.documents.items():
        if identifier in digests and text_digest(document.text) not in digests[identifier]:
            different.append(identifier)
    if different:
        fail(
            f"--attributions {attributions.folder} has other texts than the dataset for "
            f"{count_documents(different)}; explain the documents that are measured with "
            "run_attribution.py, with the same --text_column_names"
        )


def warn_of_another_model(arguments, weights: str | None) -> None:
    """Warn if the first folder of --attributions explains another model than the measured one.

    weights is the digest of the measured model's weights; None if it has none.
    """
    if not arguments.attributions:
        return
    first = read_folder(arguments.attributions[0])
    if not explains(first, arguments.model_name_or_path, weights):
        logger.warning(
            "--attributions %s explains %s, not --model_name_or_path %s",
            arguments.attributions[0],
            first.model,
            arguments.model_name_or_path,
        )


def score_tables(attributions: list[Attributions], minimum: int) -> Scores:
    """Return the scores of words in documents for all models.

    Only documents that all models explain for the same class are used, and only words that occur in
    minimum of them: all models are compared on the same words and documents. A word that speaks for
    one class speaks against another, so only attributions to the same class are repetitions. A
    score is the mean over a word's occurrences.
    """
    first = attributions[0].documents
    others = [part.documents for part in attributions[1:]]
    shared = []
    for identifier, document in first.items():
        targets = [other[identifier].target for other in others if identifier in other]
        if len(targets) == len(others) and set(targets) <= {document.target}:
            shared.append(identifier)

    def shared_words(identifier: str) -> list[str]:
        words = []
        for word in first[identifier].scores:
            if all(word in other[identifier].scores for other in others):
                words.append(word)
        return words

    counts = Counter()
    for identifier in shared:
        for word in shared_words(identifier):
            counts[first[identifier].target, word] += 1
    pairs = sorted(pair for pair, count in counts.items() if count >= minimum)
    row_of = {pair: row for row, pair in enumerate(pairs)}
    values = np.full((len(attributions), len(pairs), len(shared)), np.nan)
    for column, identifier in enumerate(shared):
        for word in shared_words(identifier):
            row = row_of.get((first[identifier].target, word))
            if row is None:
                continue
            for model, part in enumerate(attributions):
                values[model, row, column] = np.mean(part.documents[identifier].scores[word])
    return Scores(shared, pairs, values)
