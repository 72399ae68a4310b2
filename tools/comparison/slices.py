"""Parts of the test split, and the documents that every run gets wrong."""

from collections import Counter

import numpy as np
import pandas as pd

from common.cli import fail
from common.data import dataset_commit, load_split
from comparison.evaluation import Evaluation
from comparison.metrics import accuracy_interval, wilson_interval
from comparison.paired_tests import MIN_TEST_DOCUMENTS
from comparison.runs import Model, Run

CONFUSABLE_SHARE = 0.25


def load_categories(
    name: str, revision: str | None, ids: pd.Index
) -> tuple[list[list[str]] | None, str | None]:
    """Return the categories of each test document, in the order of ids, and the dataset's commit.

    The categories are None if the dataset has none, as own data; the commit is None for a local
    folder. Exits with status 2 if the dataset is not that of the runs.
    """
    dataset = load_split(name, "test", [], revision)
    commit = dataset_commit(dataset)
    has_categories = "categories" in dataset.column_names
    if "id" not in dataset.column_names:
        if has_categories:
            fail(
                f"{name} has no column 'id'; it has {', '.join(dataset.column_names)}; "
                "make it with fetch_arxiv.py or tools/prepare_dataset.py"
            )
        return None, commit

    rows = {str(value): row for row, value in enumerate(dataset["id"])}
    missing = [value for value in ids if value not in rows]
    if missing:
        fail(
            f"the test split of {name} lacks {len(missing)} of the runs' documents, such as "
            f"{', '.join(map(repr, missing[:3]))}; give the dataset that the runs were made with"
        )
    if not has_categories:
        return None, commit

    column = list(dataset["categories"])
    categories = []
    for value in ids:
        names = column[rows[value]] or []
        if isinstance(names, str):
            names = names.split()
        if not isinstance(names, list):
            fail(f"column 'categories' of {name} does not hold lists of categories")
        categories.append(names)
    return categories, commit


def listed_in_another_class(
    truth: pd.Series, categories: list[list[str]], classes: set[str]
) -> np.ndarray:
    """Return which documents have another class than their label among their categories."""
    flags = []
    for label, names in zip(truth, categories, strict=True):
        flags.append(bool(classes & set(names) - {label}))
    return np.array(flags)


# Documents that every run gets wrong


def hard_documents(runs: list[Run], categories: list[list[str]] | None) -> pd.DataFrame:
    """Return the documents that every run gets wrong, the most confident mistakes first.

    majority_prediction is what most runs predict (if tied, the first in the alphabet),
    mean_confidence the probability that runs give to their own prediction (of the runs that have
    probabilities of which the highest are their predictions), cross_listed whether
    the majority's class is another of the categories.
    """
    truth = runs[0].table["label"]
    predictions = pd.DataFrame(
        {run.label: run.table["prediction"] for run in runs}, index=truth.index
    )
    wrong = predictions.ne(truth, axis=0).all(axis=1).to_numpy()
    hard = predictions[wrong]

    majorities, supporters = [], []
    for row in hard.to_numpy():
        counts = Counter(row)
        name = min(counts, key=lambda name: (-counts[name], name))
        majorities.append(name)
        supporters.append(counts[name])
    confidences = []
    for run in runs:
        has_confidence = run.has_probabilities and not run.is_multi_label
        if has_confidence and run.reason_against_scores() is None:
            confidences.append(run.confidence()[wrong])
    table = pd.DataFrame({"id": truth.index[wrong], "label": truth[wrong].to_numpy()})
    table["majority_prediction"] = majorities
    table["runs_that_agree"] = supporters
    table["mean_confidence"] = np.mean(confidences, axis=0) if confidences else np.nan
    if categories is not None:
        listed = [names for names, keep in zip(categories, wrong, strict=True) if keep]
        table["categories"] = [" ".join(names) for names in listed]
        table["cross_listed"] = [
            name in names for name, names in zip(majorities, listed, strict=True)
        ]
    columns = hard.reset_index(drop=True).add_prefix("prediction of ")
    table = pd.concat([table, columns], axis=1)
    return table.sort_values(["mean_confidence", "id"], ascending=[False, True], ignore_index=True)


def hard_summary(
    hard: pd.DataFrame,
    truth: pd.Series,
    categories: list[list[str]] | None,
    classes: list[str],
) -> dict:
    """Return how many documents every run gets wrong, and how many of them are cross-listed."""
    result = {"documents": len(hard)}
    if categories is not None:
        result["cross_listed"] = int(hard["cross_listed"].sum())
        result["share_of_all_with_another"] = np.mean(
            listed_in_another_class(truth, categories, set(classes))
        )
    return result


# Parts of the test split


def confusable(runs: list[Run]) -> np.ndarray | None:
    """Return which quarter of the documents has the closest two best scores of the first SVM.

    None without an SVM that has scores of several classes, one of which is right, and the highest
    of them for what it predicts.
    """
    for run in runs:
        if run.is_multi_label:
            return None
        if run.reason_against_scores() is not None:
            continue
        if run.is_baseline and run.scores is not None and run.scores.shape[1] > 1:
            best = np.sort(run.scores.to_numpy(dtype=float), axis=1)
            order = np.argsort(best[:, -1] - best[:, -2], kind="stable")
            closest = order[: round(CONFUSABLE_SHARE * len(order))]
            return np.isin(np.arange(len(order)), closest)
    return None


def mean_with_interval(right: np.ndarray) -> dict:
    """Return the mean of right (seeds, documents) with its 95% interval.

    The interval, that of ``accuracy_interval``, is None below MIN_TEST_DOCUMENTS.
    """
    low, high = None, None
    if right.shape[1] >= MIN_TEST_DOCUMENTS:
        low, high = accuracy_interval(right)
    return {"mean": float(right.mean()), "low": low, "high": high}


def slices_table(
    models: list[Model],
    runs: list[Run],
    evaluation: Evaluation,
    categories: list[list[str]] | None,
) -> pd.DataFrame:
    """Return the accuracy of every model on parts of the test split, a row for each part and model.

    any_listed counts a prediction as right if it is any category of the document: the label is the
    primary one, and authors could have chosen another. It is empty without categories.
    """
    truth = runs[0].table["label"]
    correct = evaluation.correct

    # 1. The parts
    parts = {"all": np.ones(evaluation.documents, dtype=bool)}
    closest = confusable(runs)
    if closest is not None:
        parts["SVM scores closest (a quarter)"] = closest
        parts["SVM scores apart (the rest)"] = ~closest
    if categories is not None:
        another = listed_in_another_class(truth, categories, set(truth))
        parts["listed in another class"] = another
        parts["listed in one class"] = ~another

    # 2. What counts as right
    listed = None
    if categories is not None:
        listed = np.array([predicts_listed(run, categories) for run in runs])
        listed |= correct  # a dataset may leave the label out of the categories

    # 3. The rows
    nothing = {"mean": None, "low": None, "high": None}
    rows = []
    for name, mask in parts.items():
        if not mask.any():
            continue
        for model in models:
            accuracy = mean_with_interval(correct[model.runs][:, mask])
            any_listed = nothing
            if listed is not None:
                any_listed = mean_with_interval(listed[model.runs][:, mask])
            rows.append(
                {
                    "slice": name,
                    "documents": int(mask.sum()),
                    "model": model.name,
                    "seeds": model.seeds,
                    "accuracy": accuracy["mean"],
                    "accuracy_low": accuracy["low"],
                    "accuracy_high": accuracy["high"],
                    "any_listed": any_listed["mean"],
                    "any_listed_low": any_listed["low"],
                    "any_listed_high": any_listed["high"],
                }
            )
    return pd.DataFrame(rows)


def predicts_listed(run: Run, categories: list[list[str]]) -> list[bool]:
    """Return for which documents a run predicts one of their categories."""
    predictions = run.table["prediction"]
    return [name in names for name, names in zip(predictions, categories, strict=True)]


# What "any listed category counts" would give by chance


def listed_summary(
    models: list[Model], runs: list[Run], evaluation: Evaluation, categories: list[list[str]]
) -> dict:
    """Return what chance gives where any listed category counts, and how often errors are listed.

    Of the categories of a document only the classes of the runs count, its label always among them.
    random_guess is the share that is right of guesses with equal chances for all classes,
    random_wrong_guess that of guesses among the classes other than the label. errors has for each
    model, pooled over its seeds, the share of its errors that are another listed class, with
    Wilson's interval for one seed, beside random_wrong_guess on the same documents. cross_listed
    has the same for the documents that are listed in another class, the only ones where it matters;
    None if there are none. classes has for each class the share of its documents that are listed in
    another one, and the number for each other one.
    """
    truth = runs[0].table["label"].to_numpy()
    classes = evaluation.classes
    index = {name: number for number, name in enumerate(classes)}
    listed = np.zeros((len(truth), len(classes)), dtype=bool)
    for row, names in enumerate(categories):
        listed[row, [index[name] for name in names if name in index]] = True
    is_label = np.array([[name == label for name in classes] for label in truth])
    another = listed & ~is_label

    # 1. Chance and errors, on all documents and on those that are cross-listed
    everything = np.ones(len(truth), dtype=bool)
    summary = listed_part(models, runs, evaluation, another, everything)
    cross_listed = another.any(axis=1)
    summary["cross_listed"] = None
    if cross_listed.any():
        summary["cross_listed"] = listed_part(models, runs, evaluation, another, cross_listed)

    # 2. Which classes are cross-listed to which
    of_classes = []
    for number, name in enumerate(classes):
        own = is_label[:, number]
        if not own.any():
            continue
        others = {}
        for other, other_name in enumerate(classes):
            if other != number:
                others[other_name] = int(another[own, other].sum())
        of_classes.append(
            {
                "class": name,
                "documents": int(own.sum()),
                "cross_listed": float(another[own].any(axis=1).mean()),
                "listed_in": others,
            }
        )
    summary["classes"] = of_classes
    return summary


def listed_part(
    models: list[Model],
    runs: list[Run],
    evaluation: Evaluation,
    another: np.ndarray,
    part: np.ndarray,
) -> dict:
    """Return chance levels and errors of ``listed_summary`` on a part of the documents.

    another says in which classes other than its label a document is listed, (documents, classes),
    part which documents count.
    """
    index = {name: number for number, name in enumerate(evaluation.classes)}
    n_classes = len(index)
    chance_of_wrong = another.sum(axis=1) / max(1, n_classes - 1)
    errors = []
    for model in models:
        total, hits, chances = 0, 0, 0.0
        for number in model.runs:
            wrong = part & ~evaluation.correct[number]
            predicted = np.array([index[name] for name in runs[number].table["prediction"]])
            total += int(wrong.sum())
            hits += int(another[wrong, predicted[wrong]].sum())
            chances += float(chance_of_wrong[wrong].sum())
        low, high = None, None
        if model.seeds == 1 and total >= MIN_TEST_DOCUMENTS:
            low, high = wilson_interval(hits, total)
        errors.append(
            {
                "model": model.name,
                "seeds": model.seeds,
                "errors": total / model.seeds,
                "listed": hits / total if total else None,
                "listed_low": low,
                "listed_high": high,
                "random_wrong_guess": chances / total if total else None,
            }
        )
    return {
        "documents": int(part.sum()),
        "random_guess": float((1 + another[part].sum(axis=1)).mean() / n_classes),
        "random_wrong_guess": float(chance_of_wrong[part].mean()),
        "errors": errors,
    }
