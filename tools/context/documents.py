"""The documents that are measured."""

import hashlib
from collections import Counter
from dataclasses import dataclass

import datasets
import pandas as pd

from common.cli import fail
from common.data import dataset_commit, fingerprint, join_texts, load_split

MIN_DOCUMENTS = 20


@dataclass
class Documents:
    """The documents of a split. Every run reads the columns of them that it was trained on."""

    split: str
    ids: list[str]
    labels: list[int]  # numbers of classes
    classes: list[str]
    table: datasets.Dataset  # all columns of these documents
    split_table: datasets.Dataset  # of all documents of the split
    commit: str | None  # of a dataset on the Hub

    def words(self, columns: list[str], delimiter: str) -> list[list[str]]:
        """Return the words of each document, split at white space.

        Exits with status 2 if a column is missing or a document has no text.
        """
        for column in columns:
            if column not in self.table.column_names:
                fail(
                    f"split {self.split!r} has no column {column!r}; "
                    f"it has {', '.join(self.table.column_names)}"
                )
        words = []
        empty = []
        texts = self.join_columns(self.table, columns, delimiter)
        for identifier, text in zip(self.ids, texts, strict=True):
            words.append(text.split())
            if not words[-1]:
                empty.append(identifier)
        if empty:
            fail(
                f"{count_documents(empty)} of split {self.split!r} have no text in "
                f"{', '.join(columns)}; remove them"
            )
        return words

    def join_columns(
        self, table: datasets.Dataset, columns: list[str], delimiter: str
    ) -> list[str]:
        """Return the text of each row: its columns, joined; one that is empty is left out.

        Exits with status 2 if a column holds something other than texts.
        """
        for column in columns:
            feature = table.features[column]
            if not str(getattr(feature, "dtype", "")).endswith("string"):
                fail(
                    f"column {column!r} of split {self.split!r} is not text but {feature}; "
                    "choose other --text_column_names"
                )
        values = [table[column] for column in columns]
        return [join_texts(row, delimiter) for row in zip(*values, strict=True)]

    def fingerprint(self, columns: list[str], delimiter: str, max_samples: int | None) -> str:
        """Return 16 digits of the SHA-256 of the ids, texts and class names of the split.

        run_baseline.py and run_classification.py record the same number of the data that they use,
        of the first max_samples documents if that is not None.
        """
        table = self.split_table
        if max_samples is not None:
            table = table.select(range(min(max_samples, len(table))))
        labels = []
        for label in table["label"]:
            # Documents after the measured ones may lack a label; no run was made with these.
            labels.append("" if label is None or label < 0 else self.classes[label])
        ids = [str(identifier) for identifier in table["id"]]
        texts = self.join_columns(table, columns, delimiter)
        return fingerprint(pd.DataFrame({"id": ids, "text": texts, "label": labels}))


def count_documents(ids: list[str]) -> str:
    """Return how many documents these are, and the first three ids."""
    shown = ", ".join(repr(identifier) for identifier in ids[:3])
    more = ", ..." if len(ids) > 3 else ""
    return f"{len(ids)} document{'s' if len(ids) > 1 else ''} ({shown}{more})"


def read_documents(name: str, revision: str | None, split: str, max_samples: int) -> Documents:
    """Return the first max_samples documents of a split of a dataset folder or Hub dataset.

    Exits with status 2 if there are fewer than MIN_DOCUMENTS, duplicated ids, or documents without
    a label.
    """
    table = load_split(name, split, ["id", "label"], revision)
    if isinstance(table.features["label"], (datasets.List, datasets.LargeList)):
        fail(
            f"column 'label' of {name} has several labels per document, which measure_context.py "
            "does not support; give a dataset of one label per document"
        )
    if not isinstance(table.features["label"], datasets.ClassLabel):
        fail(
            f"column 'label' of {name} is not a ClassLabel; "
            "prepare the dataset with tools/prepare_dataset.py"
        )
    split_table = table
    table = table.select(range(min(max_samples, len(table))))
    if len(table) < MIN_DOCUMENTS:
        fail(
            f"{len(table)} documents of split {split!r} are too few; give at least {MIN_DOCUMENTS}"
        )
    ids = [str(identifier) for identifier in table["id"]]
    labels = list(table["label"])
    counts = Counter(ids)
    duplicated = [identifier for identifier, count in counts.items() if count > 1]
    if duplicated:
        fail(
            f"the ids of {count_documents(duplicated)} of split {split!r} are duplicated; "
            "make the ids unique"
        )
    unlabeled = []
    for identifier, label in zip(ids, labels, strict=True):
        if label is None or label < 0:
            unlabeled.append(identifier)
    if unlabeled:
        fail(f"{count_documents(unlabeled)} of split {split!r} have no label; remove them")
    classes = table.features["label"].names
    commit = dataset_commit(table)
    return Documents(split, ids, labels, classes, table, split_table, commit)


def text_digest(text: str) -> str:
    """Return the first 16 digits of the SHA-256 of a text; white space does not count."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:16]
