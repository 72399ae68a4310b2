"""What an experiment hands on: evaluations of the models, statistics, text and tables."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Evaluation:
    """What the models computed for one experiment."""

    record: dict = field(default_factory=dict)  # goes into evaluations/index.json
    logits: dict[str, np.ndarray] = field(default_factory=dict)  # into evaluations/logits.npz


@dataclass
class Measurement:
    """What evaluations/ holds: the evaluations of all experiments, and what they were made from."""

    index: dict  # arguments, classes, device, commits, versions, ids, labels, runs
    evaluations: dict[str, Evaluation]  # by the NAME of the experiment

    @property
    def runs(self) -> list[dict]:
        """The record of each run: name, folder, kind, order_free, commit, fingerprint, ..."""
        return self.index["runs"]

    @property
    def classes(self) -> list[str]:
        return self.index["classes"]

    @property
    def labels(self) -> np.ndarray:
        """The number of each document's class, (documents,)."""
        return np.array(self.index["labels"])


@dataclass
class Summary:
    """The statistics of one experiment, as context.json holds them."""

    results: dict[str, object]  # keys of context.json and what they hold
    left_out: list[str] = field(default_factory=list)  # sentences: what was left out, and why


@dataclass
class Table:
    """A table of a section."""

    caption: str
    header: list[str]
    rows: list[list]


@dataclass
class Section:
    """What the page and context.md say about an experiment; without sentences it is left out."""

    title: str
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    answer: str = ""  # one sentence on the measured model; the first one answers the question


def logits_key(run: int, condition: str) -> str:
    """Return the key of a run's logits in one condition, such as run-0/original."""
    return f"run-{run}/{condition}"
