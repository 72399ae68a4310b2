"""Scores: equal to scikit-learn's and to sums by hand; thresholds; what is left out when."""

import numpy as np
import pytest
import sklearn.metrics

from common.metrics import (
    METRICS,
    MULTI_LABEL,
    SINGLE_LABEL,
    choose_thresholds,
    class_f1,
    compute_scores,
    metric_name,
    metric_text,
    predict_labels,
)


def random_single(n_documents=300, n_classes=4, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(n_classes, size=n_documents)
    logits = generator.normal(size=(n_documents, n_classes)) + 2 * np.eye(n_classes)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, scores.argmax(axis=1), scores


def random_several(n_documents=300, n_classes=4, seed=0):
    generator = np.random.default_rng(seed)
    labels = (generator.random((n_documents, n_classes)) < 0.3).astype(int)
    scores = 1 / (1 + np.exp(1 - 2 * labels + generator.normal(size=labels.shape)))
    return labels, (scores >= 0.5).astype(int), scores


def test_scores_of_one_label_are_those_of_scikit_learn():
    labels, predictions, scores = random_single()
    names = list("abcd")
    found = compute_scores(labels, predictions, scores, names, SINGLE_LABEL, True)
    average = {"average": "macro"}
    assert found == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
            "f1": sklearn.metrics.f1_score(labels, predictions, **average),
            "f1_weighted": sklearn.metrics.f1_score(labels, predictions, average="weighted"),
            "precision": sklearn.metrics.precision_score(labels, predictions, **average),
            "recall": sklearn.metrics.recall_score(labels, predictions, **average),
            "mcc": sklearn.metrics.matthews_corrcoef(labels, predictions),
            "log_loss": sklearn.metrics.log_loss(labels, scores),
            "brier_score": sklearn.metrics.brier_score_loss(
                labels, scores, scale_by_half=False, labels=range(4)
            ),
        }
    )
    assert set(found) <= set(METRICS)


def test_scores_of_several_labels_are_those_of_scikit_learn():
    labels, predictions, scores = random_several()
    found = compute_scores(labels, predictions, scores, list("abcd"), MULTI_LABEL, True)
    average = {"average": "macro"}
    log_losses = [sklearn.metrics.log_loss(labels[:, n], scores[:, n]) for n in range(4)]
    brier_scores = [sklearn.metrics.brier_score_loss(labels[:, n], scores[:, n]) for n in range(4)]
    assert found == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
            "f1": sklearn.metrics.f1_score(labels, predictions, **average),
            "f1_micro": sklearn.metrics.f1_score(labels, predictions, average="micro"),
            "precision": sklearn.metrics.precision_score(labels, predictions, **average),
            "recall": sklearn.metrics.recall_score(labels, predictions, **average),
            "average_precision": sklearn.metrics.average_precision_score(labels, scores, **average),
            "log_loss": np.mean(log_losses),
            "brier_score": np.mean(brier_scores),
        }
    )
    assert set(found) <= set(METRICS)


@pytest.mark.parametrize(
    ("example", "problem_type"), [(random_single, SINGLE_LABEL), (random_several, MULTI_LABEL)]
)
def test_decision_values_have_no_log_loss_and_no_brier_score(example, problem_type):
    labels, predictions, scores = example()
    found = compute_scores(labels, predictions, 3 * scores, list("abcd"), problem_type, False)
    assert "accuracy" in found
    assert not {"log_loss", "brier_score"} & set(found)


def test_brier_score_of_a_certain_wrong_answer_is_2_and_log_loss_is_finite():
    labels, scores = np.array([0]), np.array([[0.0, 1.0]])
    found = compute_scores(labels, np.array([1]), scores, ["a", "b"], SINGLE_LABEL, True)
    assert found["brier_score"] == 2
    assert found["log_loss"] == pytest.approx(-np.log(np.finfo(float).eps))


def test_quadratic_kappa_is_that_of_consecutive_integers_by_scikit_learn():
    labels, predictions, scores = random_single()
    names = ["1", "2", "3", "4"]
    found = compute_scores(labels, predictions, scores, names, SINGLE_LABEL, True)
    expected = sklearn.metrics.cohen_kappa_score(labels, predictions, weights="quadratic")
    assert found["quadratic_kappa"] == pytest.approx(expected)


def test_quadratic_kappa_measures_distances_of_the_numbers():
    labels, predictions = np.array([0, 1, 2, 2]), np.array([0, 1, 2, 1])
    scores = np.eye(3)[predictions]
    near = compute_scores(labels, predictions, scores, ["0", "9", "10"], SINGLE_LABEL, False)
    far = compute_scores(labels, predictions, scores, ["0", "1", "10"], SINGLE_LABEL, False)
    assert near["quadratic_kappa"] > 0.9 > far["quadratic_kappa"]
    same = np.array([1, 1])
    constant = compute_scores(same, same, scores[:2], ["0", "1", "2"], SINGLE_LABEL, False)
    assert constant["quadratic_kappa"] == 0  # undefined


@pytest.mark.parametrize("names", [["0", "1"], ["a", "1", "2"]])
def test_no_quadratic_kappa_for_two_classes_or_names(names):
    labels = np.array([0, 1])
    scores = np.full((2, len(names)), 1 / len(names))
    assert "quadratic_kappa" not in compute_scores(
        labels, labels, scores, names, SINGLE_LABEL, True
    )


def test_class_that_nobody_has_and_nobody_predicts_does_not_count(recwarn):
    labels = np.array([[1, 0, 0], [0, 0, 0]])
    scores = np.array([[0.9, 0.1, 0.2], [0.2, 0.1, 0.1]])
    predictions = predict_labels(scores, MULTI_LABEL, [0.5, 0.5, 0.5])
    found = compute_scores(labels, predictions, scores, list("abc"), MULTI_LABEL, True)
    assert found["f1"] == found["accuracy"] == found["average_precision"] == 1
    nothing = np.zeros_like(labels)
    found = compute_scores(nothing, nothing, scores, list("abc"), MULTI_LABEL, True)
    assert found["accuracy"] == 1
    assert found["f1"] == found["f1_micro"] == found["average_precision"] == 0
    assert not recwarn


def best_f1(truth, scores):
    """The highest F1 of all thresholds, by trying every one."""
    tried = [*np.unique(scores), scores.max() + 1]
    return max(sklearn.metrics.f1_score(truth, scores >= one, zero_division=0) for one in tried)


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_reach_the_best_f1_of_every_class(seed):
    labels, _, scores = random_several(60, seed=seed)
    scores = scores.round(1)  # with ties
    thresholds = choose_thresholds(labels, scores)
    f1 = class_f1(labels, predict_labels(scores, MULTI_LABEL, thresholds), 4, MULTI_LABEL)
    expected = [best_f1(labels[:, number], scores[:, number]) for number in range(4)]
    assert f1.tolist() == pytest.approx(expected)


def test_threshold_stays_at_the_default_where_no_other_is_better():
    labels = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1]])
    scores = np.array([[0.8, 0.1, 0.7], [0.1, 0.2, 0.9], [0.7, 0.3, 0.6]])
    assert choose_thresholds(labels, scores) == [0.5, 0.5, 0.5]
    assert choose_thresholds(labels, scores - 0.5, default=0) == [0, 0, 0]


def test_threshold_lies_between_two_scores():
    labels = np.array([[1], [1], [0], [0]])
    scores = np.array([[0.9], [0.2], [0.1], [0.0]])
    assert choose_thresholds(labels, scores) == [pytest.approx(0.15)]


def test_every_document_of_a_class_may_be_above_its_threshold():
    labels = np.array([[1], [1]])
    scores = np.array([[0.3], [0.2]])
    thresholds = choose_thresholds(labels, scores)
    assert predict_labels(scores, MULTI_LABEL, thresholds).all()


def test_predictions_of_one_and_of_several_labels():
    scores = np.array([[0.2, 0.8, 0.0], [0.5, 0.3, 0.2]])
    assert predict_labels(scores, SINGLE_LABEL).tolist() == [1, 0]
    expected = [[0, 1, 0], [1, 1, 0]]
    assert predict_labels(scores, MULTI_LABEL, [0.5, 0.3, 0.3]).tolist() == expected


def test_names_and_numbers_of_a_table():
    assert metric_name("accuracy", SINGLE_LABEL) == "Accuracy"
    assert metric_name("accuracy", MULTI_LABEL) == "Subset accuracy"
    assert metric_text("f1", 0.91234) == "91.23 %"
    assert metric_text("log_loss", 0.91234) == "0.9123"
