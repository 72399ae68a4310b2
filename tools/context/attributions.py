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
    name: str = ""  # of the model among all models that are explained


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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fail(
            f"{folder} is not a complete folder of run_attribution.py ({one_line(error)}); "
            "run it again"
        )
    return Attributions(folder, model, documents)


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
    """Read the folders of --attributions, with a name for each model.

    Exits with status 2 if one is of other classes or documents than those that are measured.
    """
    attributions = [read_folder(folder) for folder in arguments.attributions]
    names = unique_names([part.model for part in attributions])
    for part, name in zip(attributions, names, strict=True):
        part.name = name
        check_classes_of_targets(part, measurement.classes)
        check_texts(part, measurement.index)
    return attributions


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


def warn_of_another_model(arguments) -> None:
    """Warn if the first folder of --attributions explains another model than the measured one."""
    if not arguments.attributions:
        return
    model = read_folder(arguments.attributions[0]).model
    if Path(model).name != Path(arguments.model_name_or_path).name:
        logger.warning(
            "--attributions %s explains %s, not --model_name_or_path %s",
            arguments.attributions[0],
            model,
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
