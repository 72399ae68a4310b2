"""Metrics of every model with intervals, F1 of every class, agreement."""

from collections import Counter
from itertools import combinations, combinations_with_replacement, product

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint

from common.metrics import MULTI_LABEL
from common.statistics import ALPHA, bootstrap_label_sets, mean_interval
from comparison.evaluation import LOSSES, Evaluation
from comparison.paired_tests import (
    METRICS,
    MIN_BOOTSTRAP_DOCUMENTS,
    MIN_TEST_DOCUMENTS,
    group_of_means,
    mean_effects,
    pooled_test,
    varying_interval,
)
from comparison.runs import Model, Run, names_of

# predictions.csv has six decimals: what it shows as 0 is less than half a unit of the last one.
SMALLEST_PROBABILITY = 5e-7
# The methods of the intervals of class differences
OBUCHOWSKI_ROCKETTE = "Obuchowski-Rockette"
PAIRED_BOOTSTRAP = "paired bootstrap"
# F1 of a class with fewer documents takes few values, and its resamples fewer.
MIN_CLASS_DOCUMENTS = 30


def evaluate(runs: list[Run], n_resamples: int, seed: int) -> Evaluation:
    """Return the metrics of every run, on the documents and on resamples of them."""
    truth = runs[0].table["label"]
    problem_type = runs[0].problem_type

    # 1. Numbers of answers, and which classes each holds
    answers = sorted(set(truth).union(*(run.table["prediction"] for run in runs)))
    names_of_answers = [names_of(answer, problem_type) for answer in answers]
    classes = sorted(set().union(*names_of_answers))
    class_index = pd.Index(classes)
    holds = np.zeros((len(answers), len(classes)), dtype=bool)
    for number, names in enumerate(names_of_answers):
        holds[number, class_index.get_indexer(names)] = True
    index = pd.Index(answers)
    labels = index.get_indexer(truth)
    predictions = np.array([index.get_indexer(run.table["prediction"]) for run in runs])

    # 2. Resamples; documents with the same label and predictions share a column: much less work
    table = np.vstack([labels, predictions])
    patterns, counts = np.unique(table, axis=1, return_counts=True)
    accuracy, f1 = bootstrap_label_sets(
        holds[patterns[0]], holds[patterns[1:]], n_resamples, seed, counts=counts
    )

    # 3. Losses
    losses = {name: np.full((len(runs), len(truth)), np.nan) for name in LOSSES}
    reasons = []
    usual = usual_classes(runs)
    for number, run in enumerate(runs):
        reason = reason_without_losses(run) or reason_of_other_classes(run, usual)
        reasons.append(reason)
        if reason is None:
            for name, values in document_losses(run).items():
                losses[name][number] = values
    return Evaluation(
        classes=classes,
        labels=labels,
        predictions=predictions,
        holds=holds,
        correct=predictions == labels,
        draws={"accuracy": accuracy, "macro_f1": mean_of_defined(f1)},
        class_draws=f1,
        losses=losses,
        loss_reasons=reasons,
    )


def mean_of_defined(f1: np.ndarray) -> np.ndarray:
    """Return macro F1: the mean over the classes where F1 is defined, 0 if it is for none.

    It is for none where several labels per document are allowed and there is not a single one.
    """
    defined = ~np.isnan(f1)
    return np.nansum(f1, axis=-1) / np.maximum(defined.sum(axis=-1), 1)


def reason_without_losses(run: Run) -> str | None:
    """Return why a run has no log loss and no Brier score; None if it has."""
    if run.scores is None:
        return f"{run.label} has no scores"
    if not run.has_probabilities:
        return (
            f"the scores of {run.label} are not probabilities (an SVM has them with "
            "run_baseline.py --calibrate)"
        )
    reason = run.reason_against_scores()
    if reason is not None:
        return f"{reason} in {run.label}"
    return None


def usual_classes(runs: list[Run]) -> dict[str, tuple[str, ...]]:
    """Return the classes with scores of the runs with losses, by the label of a run that has them.

    The result has one entry, the set of classes that most runs have (the first, if tied); it is
    empty if no run has scores.
    """
    of_runs = {}
    for run in runs:
        if reason_without_losses(run) is None:
            of_runs[run.label] = tuple(sorted(run.scores.columns))
    if not of_runs:
        return {}
    usual = Counter(of_runs.values()).most_common(1)[0][0]
    label = next(label for label, classes in of_runs.items() if classes == usual)
    return {label: usual}


def reason_of_other_classes(run: Run, usual: dict[str, tuple[str, ...]]) -> str | None:
    """Return why the losses of a run are not comparable with those of ``usual_classes``.

    With several labels per document losses are means over the classes, and a class that nothing
    has makes them smaller. With one label per document they are not.
    """
    if not run.is_multi_label or run.scores is None:
        return None
    for label, classes in usual.items():
        if tuple(sorted(run.scores.columns)) != classes:
            return (
                f"the classes of {run.label} are not those of {label}, and losses are means over "
                "the classes"
            )
    return None


def document_losses(run: Run) -> dict[str, np.ndarray]:
    """Return log loss and Brier score of every document.

    One label: minus the logarithm of the probability of the label, and the squared differences
    between probabilities and truth summed over the classes (Brier, Monthly Weather Review 78:1-3,
    1950), 0 to 2. Several labels: the means over the classes of the same for each yes or no. Both
    scores are proper: smallest on average if the probabilities are the true ones (Gneiting &
    Raftery, Journal of the American Statistical Association 102:359-378, 2007). A probability of 0
    counts as SMALLEST_PROBABILITY.
    """
    # Sorted, so that sums do not depend on the order of the columns
    scores = run.scores[sorted(run.scores.columns)]
    probabilities = scores.to_numpy(dtype=float)
    truth = np.zeros(probabilities.shape, dtype=bool)
    for number, label in enumerate(run.table["label"]):
        columns = scores.columns.get_indexer(names_of(label, run.problem_type))
        truth[number, columns] = True
    squares = (probabilities - truth) ** 2
    if run.problem_type == MULTI_LABEL:
        of_truth = np.where(truth, probabilities, 1 - probabilities)
        logs = -np.log(np.maximum(of_truth, SMALLEST_PROBABILITY))
        return {"log_loss": logs.mean(axis=1), "brier_score": squares.mean(axis=1)}
    logs = -np.log(np.maximum(probabilities[truth], SMALLEST_PROBABILITY))
    return {"log_loss": logs, "brier_score": squares.sum(axis=1)}


def model_row(model: Model, runs: list[Run], evaluation: Evaluation) -> dict:
    """Return a row of table 2: mean, deviation over seeds and 95% interval of every metric.

    Where there are too few documents for an interval, its bounds are None; so are all numbers of
    log loss and Brier score without probabilities. seed_spread is the standard deviation by which
    seeds differ in accuracy beyond what they differ by on these documents by chance.
    """
    draws = evaluation.draws
    members = []
    for number in model.runs:
        member = {
            "folder": runs[number].label,
            "seed": runs[number].seed,
            "accuracy": float(draws["accuracy"][0, number]),
            "macro_f1": float(draws["macro_f1"][0, number]),
        }
        for name in LOSSES:
            has_loss = evaluation.loss_reasons[number] is None
            value = float(evaluation.losses[name][number].mean()) if has_loss else None
            member[name] = value
        members.append(member)
    row = {
        "name": model.name,
        "is_baseline": model.is_baseline,
        "runs": members,
        "source": "run",
        "seeds": model.seeds,
    }
    for metric in METRICS:
        values = draws[metric][:, model.runs]
        if metric == "accuracy":
            low, high = accuracy_interval(evaluation.correct[model.runs])
        else:
            low, high = macro_f1_interval(values, evaluation.documents)
        row[metric] = float(values[0].mean())
        row[f"{metric}_sd"] = float(values[0].std(ddof=1)) if model.seeds > 1 else None
        row[f"{metric}_low"] = low
        row[f"{metric}_high"] = high
    for name in LOSSES:
        row |= loss_columns(name, model, evaluation)
    row["seed_spread"] = None
    if model.seeds > 1 and evaluation.documents > 1:
        group = group_of_means(evaluation.correct[model.runs])
        row["seed_spread"] = float(np.sqrt(group.quality_variance))
    return row


def loss_columns(name: str, model: Model, evaluation: Evaluation) -> dict:
    """Return mean, deviation over seeds and 95% interval of a model's log loss or Brier score.

    One seed: Student's interval over the documents. Several: documents and seeds are random.
    """
    columns = {name: None, f"{name}_sd": None, f"{name}_low": None, f"{name}_high": None}
    if evaluation.reason_without(name, model.runs) is not None:
        return columns
    losses = evaluation.losses[name][model.runs]
    columns[name] = float(losses.mean())
    if model.seeds > 1:
        means = losses.mean(axis=1)
        columns[f"{name}_sd"] = float(means.std(ddof=1))
    if evaluation.documents < MIN_TEST_DOCUMENTS:
        return columns
    if np.ptp(losses) == 0:  # nothing varies, which is no evidence that nothing ever will
        return columns
    interval = mean_effects(losses).test() if model.seeds > 1 else mean_interval(losses[0])
    columns[f"{name}_low"] = max(0.0, interval["low"])
    columns[f"{name}_high"] = interval["high"]
    return columns


def accuracy_interval(right: np.ndarray) -> tuple[float | None, float | None]:
    """Return the 95% interval of a model's accuracy; None, None if there are too few documents.

    right is (seeds, documents). One seed: Wilson's interval. Several: documents and seeds are
    random. Where hardly a document varies, their variance is too small or 0, so the interval
    reaches as far as Wilson's would if all documents were right, or all wrong.
    """
    seeds, documents = right.shape
    if seeds == 1:
        return wilson_interval(int(right.sum()), documents)
    if documents < MIN_TEST_DOCUMENTS:
        return None, None
    test = mean_effects(right).test()
    mean = test["difference"]
    low, high = (mean, mean) if test["low"] is None else (test["low"], test["high"])
    low = min(low, wilson_interval(documents, documents)[0])
    high = max(high, wilson_interval(0, documents)[1])
    return clip(low), clip(high)


def macro_f1_interval(values: np.ndarray, documents: int) -> tuple[float | None, float | None]:
    """Return the 95% interval of a model's macro F1; None, None where there is none.

    values is (1 + resamples, seeds). One seed: the percentile interval. Several: documents and
    seeds are random. Too few documents have no interval, nor have resamples that are all the same.
    """
    if values.shape[1] > 1:
        if documents < MIN_TEST_DOCUMENTS:
            return None, None
        test = pooled_test([(1, values)])
        low, high = test["low"], test["high"]
    elif documents >= MIN_BOOTSTRAP_DOCUMENTS:
        low, high = varying_interval(values[1:, 0])
    else:
        return None, None
    return (None, None) if low is None else (clip(low), clip(high))


def wilson_interval(right: int, documents: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share."""
    low, high = proportion_confint(right, documents, alpha=ALPHA, method="wilson")
    return float(low), float(high)


def clip(value: float) -> float:
    """Return a bound of an interval as a fraction between 0 and 1."""
    return float(np.clip(value, 0, 1))


def missing_interval_notes(documents: int) -> list[str]:
    """Return which intervals of table 2 are left out for so few documents."""
    notes = []
    if documents < MIN_BOOTSTRAP_DOCUMENTS:
        notes.append(
            "Intervals of macro F1 are left out for one seed: "
            f"fewer than {MIN_BOOTSTRAP_DOCUMENTS} documents."
        )
    if documents < MIN_TEST_DOCUMENTS:
        notes.append(
            f"Intervals are left out for several seeds: fewer than {MIN_TEST_DOCUMENTS} documents."
        )
    return notes


def per_class_table(models: list[Model], evaluation: Evaluation) -> tuple[pd.DataFrame, list[str]]:
    """Return the F1 of every class and model, mean over seeds, and notes on unused classes."""
    classes = evaluation.classes
    table = pd.DataFrame({"class": classes, "documents": evaluation.class_documents})
    notes = []
    for model in models:
        table[model.name] = np.nan_to_num(evaluation.class_f1[model.runs]).mean(axis=0)
        answers = np.unique(evaluation.predictions[model.runs])
        is_predicted = evaluation.holds[answers].any(axis=0)
        unused = [name for name, used in zip(classes, is_predicted, strict=True) if not used]
        if unused:
            notes.append(f"{model.name} never predicts {', '.join(unused)}: F1 is 0 there.")
    return table, notes


def class_differences(
    models: list[Model], compared: list[tuple[int, int]], evaluation: Evaluation
) -> list[dict]:
    """Return the paired difference of the F1 of every class, model minus reference.

    compared are the pairs that are tested. Several seeds on both sides: documents and seeds are
    random (Obuchowski-Rockette); else the percentile interval of the paired bootstrap. The
    simultaneous intervals (Bonferroni) cover all differences of all classes and pairs together with
    95 %. There are no p-values: classes show where two models differ, the tests whether they do.
    Classes with fewer than MIN_CLASS_DOCUMENTS documents, and those of which nothing varies, have
    no interval and no method (None).
    """
    f1 = np.nan_to_num(evaluation.class_draws)
    documents = evaluation.class_documents
    has_interval = documents >= MIN_CLASS_DOCUMENTS
    level = ALPHA / max(1, len(compared) * int(has_interval.sum()))
    rows = []
    for first, second in compared:
        model, reference = models[first], models[second]
        for number, name in enumerate(evaluation.classes):
            values = (f1[:, model.runs, number], f1[:, reference.runs, number])
            row = {
                "model": model.name,
                "reference": reference.name,
                "class": name,
                "documents": int(documents[number]),
                "difference": float(values[0][0].mean() - values[1][0].mean()),
                "low": None,
                "high": None,
                "low_simultaneous": None,
                "high_simultaneous": None,
                "method": None,
            }
            if has_interval[number]:
                row["low"], row["high"] = difference_interval(values, ALPHA)
            if row["low"] is not None:
                row["method"] = difference_method(values)
                wide = difference_interval(values, level)
                row["low_simultaneous"], row["high_simultaneous"] = wide
            rows.append(row)
    return rows


def difference_method(values: tuple[np.ndarray, np.ndarray]) -> str:
    """Return the name of the method of a difference of two metrics, (1 + resamples, seeds) each."""
    first, second = values
    return OBUCHOWSKI_ROCKETTE if min(first.shape[1], second.shape[1]) > 1 else PAIRED_BOOTSTRAP


def difference_interval(
    values: tuple[np.ndarray, np.ndarray], alpha: float
) -> tuple[float | None, float | None]:
    """Return the interval of a difference of two metrics, (1 + resamples, seeds) each.

    None, None where nothing varies.
    """
    first, second = values
    if difference_method(values) == OBUCHOWSKI_ROCKETTE:
        test = pooled_test([(1, first), (-1, second)], alpha=alpha)
        return test["low"], test["high"]
    return varying_interval(first[1:].mean(axis=1) - second[1:].mean(axis=1), alpha)


def agreement_table(
    models: list[Model], evaluation: Evaluation
) -> tuple[pd.DataFrame, float | None]:
    """Return the agreement of each pair of models and the median disagreement of their runs.

    Agreement is the mean over pairs of seeds; that of a model with itself is between its seeds.
    Disagreement is the share of documents that exactly one of two runs of different models gets
    right; None if there is one model only.
    """
    predictions, correct = evaluation.predictions, evaluation.correct
    rows, disagreements = [], []
    for first, second in combinations_with_replacement(models, 2):
        if first is second:
            pairs = list(combinations(first.runs, 2))
        else:
            pairs = list(product(first.runs, second.runs))
        if not pairs:
            continue
        same, kappa, one_right = [], [], []
        for a, b in pairs:
            share = float(np.mean(predictions[a] == predictions[b]))
            same.append(share)
            # If two runs predict one and the same class for all documents, chance agreement is 1
            # and kappa is 0/0.
            kappa.append(1.0 if share == 1 else cohen_kappa_score(predictions[a], predictions[b]))
            one_right.append(float(np.mean(correct[a] != correct[b])))
        if first is not second:
            disagreements += one_right
        rows.append(
            {
                "model": first.name,
                "other": second.name,
                "same_prediction": float(np.mean(same)),
                "cohen_kappa": float(np.mean(kappa)),
                "exactly_one_right": float(np.mean(one_right)),
            }
        )
    columns = ["model", "other", "same_prediction", "cohen_kappa", "exactly_one_right"]
    median = float(np.median(disagreements)) if disagreements else None
    return pd.DataFrame(rows, columns=columns), median
