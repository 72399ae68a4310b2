"""What all runs predict for the same documents."""

from dataclasses import dataclass

import numpy as np

# Smaller is better, and they are means over documents that need probabilities. They have no margin,
# since they are no shares.
LOSSES = {"log_loss": "log loss", "brier_score": "Brier score"}


@dataclass
class Evaluation:
    """What all runs predict for the test documents, and their metrics.

    labels is (documents,) and predictions (runs, documents), both numbers of answers: an answer is
    a class, or with several labels per document a set of them. holds says which classes are in
    which answer, (answers, classes). correct says which run is right on which document: with
    several labels, on all of them. draws holds accuracy and macro F1, (1 + resamples, runs) each:
    first on the documents, then on resamples of them. class_draws is the F1 of every class, (1 +
    resamples, runs, classes). losses holds log loss and Brier score of every document, (runs,
    documents) each, NaN for runs without; loss_reasons says why a run has none, or is None.
    """

    classes: list[str]
    labels: np.ndarray
    predictions: np.ndarray
    holds: np.ndarray
    correct: np.ndarray
    draws: dict[str, np.ndarray]
    class_draws: np.ndarray
    losses: dict[str, np.ndarray]
    loss_reasons: list[str | None]

    @property
    def documents(self) -> int:
        return len(self.labels)

    @property
    def class_f1(self) -> np.ndarray:
        """F1 of every class on the documents themselves, (runs, classes)."""
        return self.class_draws[0]

    @property
    def class_documents(self) -> np.ndarray:
        """The number of documents of every class, (classes,)."""
        return self.holds[self.labels].sum(axis=0)

    def reason_without(self, metric: str, runs: list[int]) -> str | None:
        """Return why some of these runs do not have a metric; None if all have it."""
        if metric in LOSSES:
            for number in runs:
                if self.loss_reasons[number] is not None:
                    return self.loss_reasons[number]
        return None
