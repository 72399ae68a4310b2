"""The answer of a comparison: one sentence per model against the reference."""

from dataclasses import dataclass

from common.statistics import ALPHA
from common.text import escape_markdown, p_text, percent
from comparison.paired_tests import LOSSES
from comparison.power import MAX_DOCUMENTS, documents_suffice, precision_from_record


@dataclass
class Answer:
    """The verdict on one model against the reference.

    row is the test of the main metric, second that of macro F1 where there is one. The sentence is
    in three parts, of which the middle one is the verdict, so that pages can emphasize it.
    """

    row: dict
    second: dict | None
    parts: tuple[str, str, str]

    def text(self) -> str:
        """Return the sentence."""
        return "".join(self.parts)

    def markdown(self) -> str:
        """Return the sentence as Markdown, the verdict in bold."""
        start, verdict, end = self.parts
        # White space at the ends of a part is lost when it is escaped.
        space = " " if end.startswith(" ") else ""
        return f"{escape_markdown(start)} **{verdict}**{space}{escape_markdown(end)}"

    def record(self) -> dict:
        """Return the answer as comparison.json has it."""
        return {
            "model": self.row["model"],
            "verdict": self.row["verdict"],
            "difference": self.row["difference"],
            "low": self.row["low"],
            "high": self.row["high"],
            "documents_needed": self.row["documents_needed"],
            "sentence": self.text(),
        }


def find_answers(
    pairs: list[dict], reference: str, margin: float, titles: dict[str, str]
) -> list[Answer]:
    """Return the answer on every model that is tested against the reference (its name).

    pairs are the rows of pairs.csv, margin is a fraction and titles names the metrics, the main one
    first.
    """
    first_metric, second_metric, *_ = titles
    answers = []
    for row in pairs:
        if row["reference"] != reference or row["metric"] != first_metric:
            continue
        second = None
        for other in pairs:
            same_models = (other["model"], other["reference"]) == (row["model"], reference)
            if same_models and other["metric"] == second_metric:
                second = other
        answers.append(Answer(row, second, answer_parts(row, second, margin, titles)))
    return answers


def answer_parts(
    row: dict, second: dict | None, margin: float, titles: dict[str, str]
) -> tuple[str, str, str]:
    """Return the sentence on a model: before the verdict, the verdict, after it."""
    model, reference, verdict = row["model"], row["reference"], row["verdict"]
    size = points(100 * margin)
    numbers = f"{titles[row['metric']]} {difference_text(row)}"
    if verdict in ("better", "worse"):
        start, end = f"{model} is ", f" than {reference}: {numbers}"
        if row["equivalent"]:
            end += f", less than the margin of {size}"
    elif verdict == "within the margin":
        start, end = f"{model} is ", f" of {size} around {reference}: {numbers}"
    else:
        start, end = f"{model} against {reference} is ", f": {numbers}{disagreement_text(row)}"
    if second is not None and second["verdict"] != verdict:
        name = titles[second["metric"]]
        end += f"; {name} {difference_text(second)}: {second['verdict']}"
    if verdict == "undecided":
        end += f"; {needed_text(row, margin)}"
    return start, verdict, f"{end}."


def difference_text(row: dict) -> str:
    """Return a difference in points with its interval."""
    difference = f"{signed(row['difference'])} points"
    if row["low"] is None:
        return f"{difference} (no 95% CI, because nothing varies)"
    return f"{difference} (95% CI {signed(row['low'])} to {signed(row['high'])})"


def disagreement_text(row: dict) -> str:
    """Return why an undecided row has an interval without 0; empty if it has 0 in it."""
    if row["low"] is None or row["low"] <= 0 <= row["high"]:
        return ""
    if row["p"] >= ALPHA:
        # The test is exact, or bounded by the number of changed documents; the interval is not.
        return (
            f", but the test ({row['test']}, p {p_text(row['p'])}) finds no difference: the "
            "interval is approximate"
        )
    # The interval is for one comparison, the verdict for all tests together.
    return f", p {p_text(row['p_holm'])} after correction for {count(tests_of(row), 'test')}"


def tests_of(row: dict) -> int:
    """Return how many tests the verdict of a row is corrected for."""
    return round(ALPHA / row["level"])


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def needed_text(row: dict, margin: float) -> str:
    """Return how many test documents would decide a difference of the margin (a fraction).

    That many find it in 80 percent of all cases. Where there are as many, the sentence promises no
    decision: the true difference may be smaller, or this is one of the other cases.
    """
    size = points(100 * margin)
    needed, documents = row["documents_needed"], row["documents"]
    if needed is None and needs_seeds(row, margin):
        return (
            f"more test documents alone would not decide a difference of {size}, because the seeds "
            "differ too much: train more seeds"
        )
    if needed is None:
        return (
            f"more than {MAX_DOCUMENTS // 10**6} million test documents would be needed to decide "
            f"a difference of {size}"
        )
    if needed <= documents:
        return (
            f"a true difference of {size} is found on {documents:,} test documents in at least 80 "
            "percent of all cases, so this one is smaller or takes more documents to show"
        )
    return (
        f"about {two_digits(needed):,} test documents would decide a difference of {size}, and "
        f"there are {documents:,}"
    )


def needs_seeds(row: dict, margin: float) -> bool:
    """Return whether only more seeds, not more documents, could show a difference of the margin."""
    if row["precision"] is None:
        return False
    precision = precision_from_record(row["precision"])
    return not documents_suffice(precision, margin, row["level"])


# Every test


def amount(row: dict, value: float) -> str:
    """Return a difference as text: in points, or a loss as it is."""
    if row["metric"] in LOSSES:
        return f"{round(value, 4) + 0.0:+.4f}"
    return signed(value)


def range_text(row: dict, kind: str = "") -> str:
    """Return an interval of a test, or the simultaneous one; empty where nothing varies."""
    low, high = row[f"low{kind}"], row[f"high{kind}"]
    return "" if low is None else f"{amount(row, low)} to {amount(row, high)}"


def test_sentence(row: dict, titles: dict[str, str]) -> str:
    """Return what a test found, in words; titles names the metrics."""
    is_loss = row["metric"] in LOSSES
    unit = " (negative is better)" if is_loss else " points"
    intervals = "no 95% CI because nothing varies"
    if row["low"] is not None:
        intervals = f"95% CI {range_text(row)}, simultaneous {range_text(row, '_simultaneous')}"

    # One seed beside several: the reader might think that training was random.
    alone = []
    if row["seeds"] == 1:
        alone.append(row["model"])
    if row["reference_seeds"] == 1:
        alone.append(row["reference"])
    caveat = f" ({alone[0]}: one seed)" if len(alone) == 1 else ""

    sentence = (
        f"{titles[row['metric']]}, {row['model']} against {row['reference']}: {row['verdict']}. "
        f"Difference {amount(row, row['difference'])}{unit}, {intervals} ({row['test']}, p "
        f"{p_text(row['p'])}, after Holm {p_text(row['p_holm'])}), for {row['population']}{caveat}."
    )
    if not is_loss:
        sentence += (
            f" Margin, after Holm: non-inferior p {p_text(row['p_non_inferior_holm'])}, equivalent "
            f"p {p_text(row['p_equivalent_holm'])}, worse beyond it p "
            f"{p_text(row['p_worse_beyond_holm'])}."
        )
    if row["detectable_difference"] is not None:
        least = row["detectable_difference"]
        size = f"{least:.4f}" if is_loss else f"{percent(least)} points"
        sentence += f" It finds a difference of {size} with a power of 80 percent."
    return sentence


def two_digits(number: int) -> int:
    """Return a number rounded up to two significant digits."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit


def signed(value: float) -> str:
    """Return a fraction in percent with its sign."""
    text = percent(value)
    return text if text.startswith("-") or text == "0.00" else f"+{text}"


def points(value: float) -> str:
    """Return a number of points in words."""
    return "1 point" if value == 1 else f"{value:g} points"
