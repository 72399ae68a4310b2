"""The study's own table 2, and what its number of test documents could have shown.

The study publishes accuracies, not predictions, so its differences cannot be tested. Its accuracies
only bound the tests.
"""

from itertools import combinations

from common.statistics import ALPHA
from common.text import percent
from comparison.metrics import wilson_interval
from comparison.paired_tests import mcnemar_test
from comparison.power import ExactMcNemar, detectable_difference

# Nakada & Masada, table 2: accuracy and macro F1 in percent, one run each; the test split is a
# tenth of 47,350.
STUDY_DOCUMENTS = 4735
STUDY_TABLE = {
    "bert-large-cased": (90.90, 87.70),
    "e5-large-v2": (91.15, 88.60),
    "bge-large-en-v1.5": (91.59, 88.77),
    "gte-large": (91.00, 87.86),
    "mxbai-embed-large-v1": (90.60, 87.37),
    "GIST-large-Embedding-v0": (91.53, 88.76),
    "UAE-Large-V1": (90.83, 87.75),
    "TF-IDF + linear SVM": (90.54, 87.20),
}


def study_rows() -> list[dict]:
    """Return the study's table as rows of table 2.

    One run each, Wilson's interval for accuracy, none for macro F1.
    """
    rows = []
    for name, (accuracy, f1) in STUDY_TABLE.items():
        right = round(STUDY_DOCUMENTS * accuracy / 100)
        low, high = wilson_interval(right, STUDY_DOCUMENTS)
        rows.append(
            {
                "name": name,
                "source": "study",
                "seeds": 1,
                "accuracy": accuracy / 100,
                "macro_f1": f1 / 100,
                "accuracy_low": low,
                "accuracy_high": high,
                "accuracy_sd": None,
                "macro_f1_low": None,
                "macro_f1_high": None,
                "macro_f1_sd": None,
            }
        )
    return rows


def study_pairs(disagreement: float) -> list[dict]:
    """Return the bounds that the accuracies of two models set to the exact McNemar p-value.

    There is a row for each pair of the study's models. The smallest p belongs to the fewest
    disagreements (all errors of one model are errors of the other, too), the largest to the most
    (no document is missed by both), p_assumed to the assumed share of disagreements.
    """
    rows = []
    for (first, (accuracy, _)), (second, (other, _)) in combinations(STUDY_TABLE.items(), 2):
        right = round(STUDY_DOCUMENTS * accuracy / 100)
        other_right = round(STUDY_DOCUMENTS * other / 100)
        lead = abs(right - other_right)
        most = 2 * STUDY_DOCUMENTS - right - other_right
        # Documents that only the worse model gets right: the lead stays, so the number of
        # disagreements has its parity.
        most_losses = (most - lead) // 2
        assumed_losses = max(round((disagreement * STUDY_DOCUMENTS - lead) / 2), 0)
        assumed_losses = min(assumed_losses, most_losses)
        rows.append(
            {
                "model": first,
                "reference": second,
                "difference": round((accuracy - other) / 100, 6),
                "p_least": mcnemar_test(lead, 0),
                "p_assumed": mcnemar_test(assumed_losses + lead, assumed_losses),
                "p_most": mcnemar_test(most_losses + lead, most_losses),
            }
        )
    return rows


def largest_disagreement() -> float:
    """Return the largest possible share of documents on which exactly one of two models is right.

    It is that of the two least accurate models, if no document is missed by both.
    """
    return max(2 - (a + b) / 100 for (a, _), (b, _) in combinations(STUDY_TABLE.values(), 2))


def study_result(disagreement: float, observed: float | None) -> dict:
    """Return study.json: pairs, the difference that could be found, and sentences.

    disagreement is the assumed share of documents on which exactly one of two models is right,
    observed the median of the runs that are compared, if there is one.
    """
    pairs = study_pairs(disagreement)
    return {
        "documents": STUDY_DOCUMENTS,
        "disagreement_rate": disagreement,
        "pairs": pairs,
        "detectable_difference": study_detectable_difference(disagreement),
        "sentences": study_sentences(pairs, disagreement, observed),
    }


def study_detectable_difference(disagreement: float) -> float | None:
    """Return the difference that the exact McNemar test of one pair would find, power 80 %."""
    return detectable_difference(ExactMcNemar(disagreement), STUDY_DOCUMENTS, ALPHA)


def study_sentences(pairs: list[dict], disagreement: float, observed: float | None) -> list[str]:
    """Return what the study's documents could have shown; each sentence names its assumption."""
    always = sum(row["p_most"] < ALPHA for row in pairs)
    never = sum(row["p_least"] >= ALPHA for row in pairs)
    sentences = [
        "The study reports accuracies, not predictions, so its pairs cannot be tested. The "
        "accuracies only bound the paired test, since it is not known how often exactly one of two "
        f"models is right. Without a correction for {len(pairs)} pairs, {always} differences would "
        f"be significant at 5 percent whatever the errors, {never} could not be, whatever the "
        f"errors, and {len(pairs) - always - never} depend on them."
    ]
    sentences.append(power_sentence(disagreement, "assumed"))
    if observed:
        sentences.append(power_sentence(observed, "median of the runs compared here"))

    largest = max(abs(row["difference"]) for row in pairs)
    sentences.append(
        f"The largest difference in the study's accuracies is {percent(largest)} points."
    )
    names = []
    for row in pairs:
        if row["p_assumed"] < ALPHA:
            difference = percent(abs(row["difference"]))
            names.append(f"{row['model']} and {row['reference']} ({difference})")
    listed = ": " + "; ".join(names) if names else ""
    sentences.append(
        f"With {100 * disagreement:.1f} percent assumed, {len(names)} of the study's {len(pairs)} "
        f"differences would have p < 0.05 before correction{listed}. For macro F1 the table gives "
        "no such bound."
    )
    return sentences


def power_sentence(disagreement: float, source: str) -> str:
    """Return which difference the study's documents could have shown, given the disagreement."""
    least = study_detectable_difference(disagreement)
    if least is None:
        found = "no difference"
    else:
        found = f"only a difference of {percent(least)} points or more"
    return (
        f"If exactly one of two models is right on {100 * disagreement:.1f} percent of the "
        f"{STUDY_DOCUMENTS:,} documents ({source}), {found} in accuracy would be found "
        "with a power of 80 percent."
    )
