"""Table 2 as text, LaTeX and picture, and comparison.md: what was found, in sentences."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from common.pages import plain, png
from common.text import escape_markdown, markdown_table, percent
from comparison.calibration import calibration_sentence
from comparison.paired_tests import (
    MARGIN_NOTES,
    METRICS,
    TEST_NOTES,
    detectable_sentence,
    pair_sentence,
)
from comparison.study_table import STUDY_DOCUMENTS

HEADER = ["model", "seeds", "accuracy", "95 % interval", "macro F1", "95 % interval"]
# The columns of HEADER in which the best value is bold.
METRIC_COLUMNS = {"accuracy": 2, "macro_f1": 4}
SHOWN_HARD_DOCUMENTS = 10
HARD_COLUMNS = [
    "id",
    "label",
    "majority_prediction",
    "runs_that_agree",
    "mean_confidence",
    "categories",
    "cross_listed",
]

# Table 2


def table_texts(row: dict) -> list[str]:
    """Return a row of table 2 as text, in percent."""
    mark = " †" if row["source"] == "study" else ""
    texts = [row["name"] + mark, str(row["seeds"])]
    for metric in METRICS:
        value, spread = row[metric], row[f"{metric}_sd"]
        low, high = row[f"{metric}_low"], row[f"{metric}_high"]
        texts.append(percent(value) + ("" if spread is None else f" ± {percent(spread)}"))
        texts.append("" if low is None else f"{percent(low)} to {percent(high)}")
    return texts


def best_cells(rows: list[dict]) -> set[tuple[int, int]]:
    """Return (row, column) of the best accuracy and macro F1 as shown, of the runs' rows only."""
    cells = set()
    for metric, column in METRIC_COLUMNS.items():
        shown = {
            number: percent(row[metric])
            for number, row in enumerate(rows)
            if row["source"] == "run"
        }
        best = percent(max(row[metric] for row in rows if row["source"] == "run"))
        cells |= {(number, column) for number, text in shown.items() if text == best}
    return cells


def table_markdown(rows: list[dict], documents: int) -> str:
    """Return table 2 as Markdown, with what its numbers are below it."""
    table = markdown_table(HEADER, [table_texts(row) for row in rows], best_cells(rows))
    about = (
        f"{documents:,} test documents, per cent. 95 % intervals; "
        "± is the standard deviation over seeds."
    )
    if any(row["source"] == "study" for row in rows):
        about += (
            f" † As the study reports it: one run, about {STUDY_DOCUMENTS:,} other documents, "
            "Wilson's interval."
        )
    return f"{table}\n{about}\n"


def table_csv(rows: list[dict]) -> pd.DataFrame:
    """Return the numbers of table 2."""
    columns = ["name", "source", "seeds"]
    for metric in METRICS:
        columns += [metric, f"{metric}_low", f"{metric}_high", f"{metric}_sd"]
    return pd.DataFrame(rows)[columns].rename(columns={"name": "model"})


def table_latex(rows: list[dict]) -> str:
    """Return table 2 as a booktabs tabular of escaped text."""
    texts = [table_texts(row) for row in rows]
    frame = pd.DataFrame(texts, columns=range(len(HEADER)))
    bold = pd.DataFrame("", frame.index, frame.columns)
    for row, column in best_cells(rows):
        bold.iloc[row, column] = "textbf:--rwrap;"
    style = frame.style.hide(axis="index")
    style = style.apply(lambda _: bold, axis=None).format(escape="latex")
    style = style.format_index(lambda column: HEADER[column].replace("%", r"\%"), axis="columns")
    text = style.to_latex(hrules=True, column_format="l" + "r" * (len(HEADER) - 1))
    return text.replace("±", r"$\pm$").replace("†", r"$^\dagger$")


def plot_table(rows: list[dict], documents: int) -> bytes:
    """Draw accuracy and macro F1 of every row with 95% intervals; the study's rows are hollow."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 1.2 + 0.38 * len(rows)), sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        for height, row in enumerate(rows):
            is_study = row["source"] == "study"
            color = "#888888" if is_study else "#1b7837"
            if row[f"{metric}_low"] is not None:
                low, high = 100 * row[f"{metric}_low"], 100 * row[f"{metric}_high"]
                axes.hlines(height, low, high, color=color, linewidth=1.6)
            face = "white" if is_study else color
            axes.plot(100 * row[metric], height, "o", color=color, markerfacecolor=face)
        axes.set_xlabel(f"{title}, per cent (95 % interval)")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    names = []
    for row in rows:
        names.append(plain(row["name"][:50]) + (" (study)" if row["source"] == "study" else ""))
    panels[0].set_yticks(range(len(rows)), labels=names)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(f"{documents:,} test documents")
    figure.tight_layout()
    return png(figure)


# comparison.md


def comparison_page(
    result: dict, table: str, study_sentences: list[str], hard: pd.DataFrame
) -> str:
    """Return comparison.md: the table, a sentence for every test, then everything else."""
    parts = [
        "# Comparison of runs",
        table,
        detectable_sentence(
            result["documents"], result["median_disagreement"], len(result["pairs"])
        ),
        *tests_text(result),
    ]
    if study_sentences:
        parts += ["## The study's table", *study_sentences]
    parts += per_class_text(result)
    parts += agreement_text(result["agreement"])
    parts += slices_text(result["slices"])
    parts += hard_documents_text(result, hard)
    parts += calibration_text(result["calibration"])
    if result["notes"]:
        parts += ["## Notes", bullets(result["notes"])]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def bullets(sentences: list[str]) -> str:
    """Return a Markdown list of escaped sentences."""
    return "\n".join(f"- {escape_markdown(sentence)}" for sentence in sentences)


def tests_text(result: dict) -> list[str]:
    """Return the paragraphs on the tests."""
    pairs, arguments = result["pairs"], result["arguments"]
    margin = arguments["margin"]
    if not pairs:
        return ["## Tests", "None was made."]
    parts = ["## Tests", bullets([pair_sentence(row, margin) for row in pairs])]
    notes = TEST_NOTES.format(resamples=arguments["n_resamples"], family=len(pairs))
    if margin:
        notes += MARGIN_NOTES.format(margin=margin, family=len(pairs))
    parts.append(notes)
    parts.append(
        f"{escape_markdown(result['reference'])} is the reference: {result['reference_reason']}."
    )
    return parts


def per_class_text(result: dict) -> list[str]:
    """Return the paragraphs on the F1 of every class."""
    names = [model["name"] for model in result["models"]]
    rows = []
    for row in result["per_class_f1"]:
        scores = [percent(row[name]) for name in names]
        rows.append([row["class"], f"{row['documents']:,}", *scores])
    return [
        "## F1 of every class, per cent",
        markdown_table(["class", "documents", *names], rows),
    ]


def agreement_text(agreement: list[dict]) -> list[str]:
    """Return the paragraphs on the agreement of the models."""
    rows = []
    for row in agreement:
        rows.append(
            [
                f"{row['model']} / {row['other']}",
                f"{row['cohen_kappa']:.3f}",
                percent(row["same_prediction"]),
                percent(row["exactly_one_right"]),
            ]
        )
    header = ["models", "Cohen's kappa", "same prediction, %", "exactly one right, %"]
    return ["## Agreement", markdown_table(header, rows)]


def slices_text(slices: list[dict]) -> list[str]:
    """Return the paragraphs on the parts of the test split."""
    text = (
        "Accuracy in per cent with 95 % intervals. *Any listed* counts each category of a document "
        "as right, not only the primary one. The SVM is at a disadvantage where its own two best "
        "scores are closest: compare the other models there with each other."
    )
    rows = []
    for row in slices:
        accuracy = share_text(row["accuracy"], row["accuracy_low"], row["accuracy_high"])
        listed = share_text(row["any_listed"], row["any_listed_low"], row["any_listed_high"])
        rows.append([row["slice"], f"{row['documents']:,}", row["model"], accuracy, listed])
    header = ["documents", "number", "model", "accuracy", "any listed"]
    return ["## Parts of the test split", text, markdown_table(header, rows)]


def share_text(value: float | None, low: float | None, high: float | None) -> str:
    """Return a share with its interval, in percent."""
    if low is None:
        return percent(value)
    return f"{percent(value)} ({percent(low)} to {percent(high)})"


def hard_documents_text(result: dict, hard: pd.DataFrame) -> list[str]:
    """Return the paragraphs on the documents that every run gets wrong."""
    numbers = result["hard_documents"]
    text = (
        f"Every run is wrong on {numbers['documents']:,} of {result['documents']:,} documents "
        "(hard_documents.csv). They are candidates for label noise, the more so the more confident "
        "the runs are."
    )
    if "cross_listed" in numbers:
        text += (
            f" On {numbers['cross_listed']:,} of them the majority's prediction is another "
            "category of the document; of all documents, "
            f"{100 * numbers['share_of_all_with_another']:.1f} % have another of these classes "
            "among their categories."
        )
    parts = ["## Documents that every run gets wrong", text]
    if len(hard):
        shown = hard.head(SHOWN_HARD_DOCUMENTS)
        shown = shown.assign(mean_confidence=shown["mean_confidence"].map(confidence_text))
        columns = [name for name in HARD_COLUMNS if name in shown]
        header = [name.replace("_", " ") for name in columns]
        parts.append(markdown_table(header, shown[columns].to_numpy().tolist()))
    return parts


def confidence_text(value: float) -> str:
    """Return a mean confidence as text; empty if no run has probabilities."""
    return "" if np.isnan(value) else f"{value:.3f}"


def calibration_text(calibrations: dict[str, dict]) -> list[str]:
    """Return the paragraphs on calibration."""
    if not calibrations:
        return ["## Calibration", "Left out: no run has probabilities."]
    sentences = [calibration_sentence(name, part) for name, part in calibrations.items()]
    return ["## Calibration", bullets(sentences)]
