"""Table 2 as text, LaTeX and picture, and comparison.md: what was found, in sentences."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from common.pages import plain, png
from common.text import escape_markdown, markdown_table, p_cell, percent
from comparison.calibration import calibration_sentence
from comparison.cost import COST_NOTES
from comparison.metrics import OBUCHOWSKI_ROCKETTE, PAIRED_BOOTSTRAP
from comparison.paired_tests import (
    LOSSES,
    MARGIN_NOTES,
    METRICS,
    TEST_NOTES,
    detectable_sentence,
)
from comparison.power import MAX_DOCUMENTS
from comparison.study_table import STUDY_DOCUMENTS
from comparison.verdict import (
    Answer,
    amount,
    needs_seeds,
    points,
    range_text,
    signed,
    test_sentence,
    two_digits,
)

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


def shown_losses(rows: list[dict]) -> list[str]:
    """Return which of log loss and Brier score a row has; the study's rows have none."""
    return [name for name in LOSSES if any(row.get(name) is not None for row in rows)]


def table_header(rows: list[dict], titles: dict[str, str]) -> list[str]:
    """Return the header of table 2."""
    header = ["model", "seeds"]
    for metric in METRICS:
        header += [titles[metric], "95% CI"]
    return header + [titles[name] for name in shown_losses(rows)]


def table_texts(row: dict, losses: list[str]) -> list[str]:
    """Return a row of table 2 as text: shares in percent, losses as they are."""
    mark = " †" if row["source"] == "study" else ""
    texts = [row["name"] + mark, str(row["seeds"])]
    for metric in METRICS:
        value, spread = row[metric], row[f"{metric}_sd"]
        low, high = row[f"{metric}_low"], row[f"{metric}_high"]
        texts.append(percent(value) + ("" if spread is None else f" ± {percent(spread)}"))
        texts.append("" if low is None else f"{percent(low)} to {percent(high)}")
    for name in losses:
        texts.append(loss_text(row.get(name)))
    return texts


def loss_text(value: float | None) -> str:
    """Return a log loss or Brier score as text; empty for None."""
    return "" if value is None else f"{value:.4f}"


def best_cells(rows: list[dict]) -> set[tuple[int, int]]:
    """Return (row, column) of the best values as shown, of the runs' rows only."""
    # The first two columns are name and seeds; each share is followed by its interval.
    columns = {metric: (2 + 2 * index, percent, max) for index, metric in enumerate(METRICS)}
    for index, name in enumerate(shown_losses(rows)):
        columns[name] = (2 + 2 * len(METRICS) + index, loss_text, min)
    cells = set()
    for metric, (column, text_of, better) in columns.items():
        values = {}
        for number, row in enumerate(rows):
            if row["source"] == "run" and row.get(metric) is not None:
                values[number] = row[metric]
        best = text_of(better(values.values()))
        cells |= {(number, column) for number, value in values.items() if text_of(value) == best}
    return cells


def table_markdown(rows: list[dict], documents: int, titles: dict[str, str]) -> str:
    """Return table 2 as Markdown, with what its numbers are below it."""
    losses = shown_losses(rows)
    texts = [table_texts(row, losses) for row in rows]
    table = markdown_table(table_header(rows, titles), texts, best_cells(rows))
    about = f"{documents:,} test documents, percent. ± is the standard deviation over seeds."
    if losses:
        names = " and ".join(titles[name] for name in losses)
        about += f" Smaller is better for {names}, which need probabilities."
    if any(row["source"] == "study" for row in rows):
        about += (
            f" † As the study reports it: one run, about {STUDY_DOCUMENTS:,} other documents, "
            "Wilson's interval."
        )
    return f"{table}\n{about}\n"


def table_csv(rows: list[dict]) -> pd.DataFrame:
    """Return the numbers of table 2."""
    columns = ["name", "source", "seeds"]
    for metric in (*METRICS, *LOSSES):
        columns += [metric, f"{metric}_low", f"{metric}_high", f"{metric}_sd"]
    return pd.DataFrame(rows).reindex(columns=columns).rename(columns={"name": "model"})


def table_latex(rows: list[dict], titles: dict[str, str]) -> str:
    """Return table 2 as a booktabs tabular of escaped text."""
    header, losses = table_header(rows, titles), shown_losses(rows)
    texts = [table_texts(row, losses) for row in rows]
    frame = pd.DataFrame(texts, columns=range(len(header)))
    bold = pd.DataFrame("", frame.index, frame.columns)
    for row, column in best_cells(rows):
        bold.iloc[row, column] = "textbf:--rwrap;"
    style = frame.style.hide(axis="index")
    style = style.apply(lambda _: bold, axis=None).format(escape="latex")
    style = style.format_index(lambda column: header[column].replace("%", r"\%"), axis="columns")
    text = style.to_latex(hrules=True, column_format="l" + "r" * (len(header) - 1))
    return text.replace("±", r"$\pm$").replace("†", r"$^\dagger$")


def plot_table(rows: list[dict], documents: int, titles: dict[str, str]) -> bytes:
    """Draw accuracy and macro F1 of every row with 95% intervals; the study's rows are hollow."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 1.2 + 0.38 * len(rows)), sharey=True)
    for axes, metric in zip(panels, METRICS, strict=True):
        for height, row in enumerate(rows):
            is_study = row["source"] == "study"
            color = "#888888" if is_study else "#1b7837"
            if row[f"{metric}_low"] is not None:
                low, high = 100 * row[f"{metric}_low"], 100 * row[f"{metric}_high"]
                axes.hlines(height, low, high, color=color, linewidth=1.6)
            face = "white" if is_study else color
            axes.plot(100 * row[metric], height, "o", color=color, markerfacecolor=face)
        has_intervals = any(row[f"{metric}_low"] is not None for row in rows)
        axes.set_xlabel(f"{titles[metric]}, percent{' (95% CI)' if has_intervals else ''}")
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


@dataclass
class Pieces:
    """What comparison.md shows beside the numbers of comparison.json.

    pictures holds for the name of each picture what it shows, in words.
    """

    table: str
    hard: pd.DataFrame
    study_sentences: list[str]
    pictures: dict[str, str]

    def picture(self, name: str) -> str:
        """Return a picture as Markdown; empty if there is none of this name."""
        if name not in self.pictures:
            return ""
        return f"![{escape_markdown(self.pictures[name])}]({name})"


def comparison_page(result: dict, answers: list[Answer], pieces: Pieces) -> str:
    """Return comparison.md: question, answers, first picture, table 2, tests; then the details.

    What not everybody reads is folded. result is comparison.json.
    """
    parts = ["# Comparison of runs", question_text(result), *answer_paragraphs(result, answers)]
    first = "differences.png" if "differences.png" in pieces.pictures else "table2.png"
    parts += [pieces.picture(first), pieces.table, reference_text(result)]
    parts += tests_text(result)
    parts += all_pairs_text(result, pieces)
    parts += learning_curve_text(result, pieces)
    parts += cost_text(result, pieces)

    parts += ["## Details"]
    if first != "table2.png":
        parts += fold("Accuracy and macro F1 as a picture", [pieces.picture("table2.png")])
    parts += fold("Pairs of models without the reference", other_pairs_text(result))
    parts += fold("Classes", per_class_text(result, pieces))
    parts += fold("Seeds and documents", variance_text(result))
    parts += fold("Agreement", agreement_text(result["agreement"]))
    parts += fold("Parts of the test split", slices_text(result))
    parts += fold("Documents that every run gets wrong", hard_documents_text(result, pieces.hard))
    parts += fold("Calibration", calibration_text(result["calibration"], pieces))
    parts += fold("The study's table", list(pieces.study_sentences))
    parts += fold("Notes", [bullets(result["notes"])] if result["notes"] else [])
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def bullets(sentences: list[str]) -> str:
    """Return a Markdown list of escaped sentences."""
    return "\n".join(f"- {escape_markdown(sentence)}" for sentence in sentences)


def fold(title: str, parts: list[str]) -> list[str]:
    """Return paragraphs behind a title that opens them; nothing without paragraphs.

    The lines of HTML are those that tools/make_report.py and GitHub know.
    """
    parts = [part for part in parts if part]
    if not parts:
        return []
    return [f"<details><summary>{title}</summary>", *parts, "</details>"]


def question_text(result: dict) -> str:
    """Return the question that the comparison answers."""
    documents, margin = f"{result['documents']:,}", points(100 * result["margin"])
    reference = escape_markdown(result["reference"])
    if len(result["models"]) == 1:
        return f"How good is {reference} on these {documents} test documents?"
    return (
        f"Is a model better than {reference} on the same {documents} test documents? "
        f"A difference of less than {margin} does not matter here (the margin)."
    )


def answer_paragraphs(result: dict, answers: list[Answer]) -> list[str]:
    """Return the answers, a line each, or why there are none."""
    if not answers:
        return [bullets([note for note in result["notes"] if note.startswith("No tests")])]
    return ["\n".join(f"- {answer.markdown()}" for answer in answers)]


def reference_text(result: dict) -> str:
    """Return why the reference is the reference."""
    if len(result["models"]) == 1:
        return ""
    reference = escape_markdown(result["reference"])
    return f"{reference} is the reference because {result['reference_reason']}."


def tests_text(result: dict) -> list[str]:
    """Return the tests against the reference as a table; each as a sentence and how, folded."""
    pairs, arguments = result["pairs"], result["arguments"]
    if not pairs:
        return ["## Tests", "None was made."]
    against_reference = [row for row in pairs if row["reference"] == result["reference"]]
    name = escape_markdown(result["reference"])
    parts = ["## Tests", f"Against {name}:", test_table(against_reference, result)]
    parts.append(
        detectable_sentence(result["documents"], result["median_disagreement"], len(pairs))
    )
    sentences = [test_sentence(row, result["titles"]) for row in pairs]
    notes = TEST_NOTES.format(resamples=arguments["n_resamples"], family=len(pairs))
    notes += MARGIN_NOTES.format(margin=points(100 * result["margin"]), family=len(pairs))
    parts += fold("Every test as a sentence, and how it is made", [bullets(sentences), notes])
    return parts


def test_table(pairs: list[dict], result: dict) -> str:
    """Return tests as a Markdown table; a reference that is everywhere is not named."""
    references = {row["reference"] for row in pairs}
    rows = []
    for row in pairs:
        rows.append(
            [
                row["model"] if len(references) == 1 else pair_name(row),
                result["titles"][row["metric"]],
                amount(row, row["difference"]),
                range_text(row),
                p_cell(row["p_holm"]),
                row["verdict"],
                needed_cell(row, result["margin"]),
            ]
        )
    header = [
        "model" if len(references) == 1 else "models",
        "metric",
        "difference",
        "95% CI",
        "p after Holm",
        "verdict",
        "documents to find the margin",
    ]
    return markdown_table(header, rows)


def needed_cell(row: dict, margin: float) -> str:
    """Return how many documents a test needs to find the margin; empty if only seeds help."""
    if row["documents_needed"] is not None:
        return f"{two_digits(row['documents_needed']):,}"
    if row["metric"] in LOSSES or row["precision"] is None or needs_seeds(row, margin):
        return ""
    return f"> {MAX_DOCUMENTS:,}"


def pair_name(row: dict) -> str:
    """Return the two models of a test."""
    return f"{row['model']} / {row['reference']}"


def all_pairs_text(result: dict, pieces: Pieces) -> list[str]:
    """Return the picture of all pairs of models; nothing if there is none."""
    picture = pieces.picture("all_pairs.png")
    if not picture:
        return []
    text = (
        "A bar joins models without a significant difference between any two (p of at least 0.05 "
        "after Holm's correction over all tests)."
    )
    return ["## All pairs of models", picture, text]


def other_pairs_text(result: dict) -> list[str]:
    """Return the tests that are not against the reference."""
    others = [row for row in result["pairs"] if row["reference"] != result["reference"]]
    return [test_table(others, result)] if others else []


def learning_curve_text(result: dict, pieces: Pieces) -> list[str]:
    """Return the picture and the numbers of models with several sizes of the training split."""
    if not result["learning_curves"]:
        return []
    rows = []
    for name, points_of_model in result["learning_curves"].items():
        for row in points_of_model:
            accuracy = share_text(row["accuracy"], row["accuracy_low"], row["accuracy_high"])
            macro_f1 = share_text(row["macro_f1"], row["macro_f1_low"], row["macro_f1_high"])
            rows.append([name, f"{row['train_samples']:,}", accuracy, macro_f1])
    accuracy = f"{result['titles']['accuracy']}, %"
    header = ["model", "training documents", accuracy, "macro F1, %"]
    return [
        "## Number of training documents",
        pieces.picture("learning_curve.png"),
        *fold("Number of training documents: the table", [markdown_table(header, rows)]),
    ]


def cost_text(result: dict, pieces: Pieces) -> list[str]:
    """Return what the models cost, as a table and a picture; nothing if no run says it."""
    rows = []
    for row in result["costs"]:
        numbers = [row["train_seconds"], row["parameters"], row["documents_per_second"]]
        if any(value is not None for value in numbers):
            cells = ["" if value is None else compact_number(value) for value in numbers]
            rows.append([row["name"], percent(row["accuracy"]), *cells, row["device"]])
    if not rows:
        return []
    header = [
        "model",
        f"{result['titles']['accuracy']}, %",
        "seconds of training",
        "parameters",
        "documents per second",
        "device",
    ]
    return [
        "## Cost",
        pieces.picture("cost.png"),
        markdown_table(header, rows),
        *fold("Cost: what the numbers are", [COST_NOTES]),
    ]


def compact_number(value: float) -> str:
    """Return a positive number; from a million on with three digits and a unit."""
    if value >= 1e6:
        value = float(f"{value:.3g}")  # 999,700,000 is 1 G
    for unit, name in ((1e9, " G"), (1e6, " M")):
        if value >= unit:
            return f"{value / unit:.3g}{name}" if value < 1000 * unit else f"{value:,.0f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def variance_text(result: dict) -> list[str]:
    """Return how much seeds and documents contribute to the error of each difference."""
    rows = []
    for row in result["pairs"]:
        if row["se_seeds"] is None or row["metric"] not in METRICS:
            continue
        total = row["se_documents"] ** 2 + row["se_seeds"] ** 2
        share = row["se_seeds"] ** 2 / total if total > 0 else None
        rows.append(
            [
                pair_name(row),
                result["titles"][row["metric"]],
                percent(row["se_documents"]),
                percent(row["se_seeds"]),
                percent(share),
            ]
        )
    if not rows:
        return [
            "No two models have several seeds each, so what seeds contribute to the error of a "
            "difference is not known."
        ]
    header = [
        "models",
        "metric",
        "standard error, documents (points)",
        "standard error, seeds (points)",
        "share of seeds in the variance, %",
    ]
    text = (
        "The standard error of a difference has two parts: that of these trained models on new "
        "documents, and what new seeds add. Where the share of seeds is large, more seeds help; "
        "where it is small, only more documents do."
    )
    return [text, markdown_table(header, rows)]


def per_class_text(result: dict, pieces: Pieces) -> list[str]:
    """Return the paragraphs on the F1 of every class, and how models differ in it."""
    names = [model["name"] for model in result["models"]]
    rows = []
    for row in result["per_class_f1"]:
        scores = [percent(row[name]) for name in names]
        rows.append([row["class"], f"{row['documents']:,}", *scores])
    parts = [
        pieces.picture("class_differences.png"),
        "F1 in percent:",
        markdown_table(["class", "documents", *names], rows),
    ]

    differences = []
    for row in result["per_class_differences"]:
        cells = [pair_name(row), row["class"], signed(row["difference"])]
        cells += [class_range(row["low"], row["high"])]
        cells += [class_range(row["low_simultaneous"], row["high_simultaneous"])]
        differences.append(cells)
    if differences:
        header = ["models", "class", "difference", "95% CI", "simultaneous 95% CI"]
        parts += [
            class_methods_text(result["per_class_differences"]),
            markdown_table(header, differences),
        ]
    return parts


def class_methods_text(rows: list[dict]) -> str:
    """Return how the intervals of class differences are made, as they were."""
    methods = {row["method"] for row in rows} - {None}
    if not methods:
        return "Differences in F1 in points; no class has documents enough for an interval:"
    text = "Differences in F1 in points, with intervals "
    if methods == {OBUCHOWSKI_ROCKETTE}:
        text += "for new documents and new seeds (Obuchowski-Rockette)."
    elif methods == {PAIRED_BOOTSTRAP}:
        text += "by the paired bootstrap of the documents."
    else:
        text += (
            "for new documents and new seeds (Obuchowski-Rockette) where both models have several "
            "seeds, else by the paired bootstrap of the documents."
        )
    return (
        f"{text} The simultaneous intervals cover all of them together with 95 percent; classes "
        "with few documents, and classes where nothing varies, have none:"
    )


def class_range(low: float | None, high: float | None) -> str:
    """Return an interval in points; empty for None."""
    return "" if low is None else f"{signed(low)} to {signed(high)}"


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
    if not rows:
        return []
    header = ["models", "Cohen's kappa", "same prediction, %", "exactly one right, %"]
    return [markdown_table(header, rows)]


def slices_text(result: dict) -> list[str]:
    """Return the paragraphs on the parts of the test split."""
    text = "Accuracy in percent with 95% CI."
    if result["listed"] is not None:
        text += (
            " *Any listed* counts each category of a document as right, not only the primary one."
        )
    if any(row["slice"].startswith("SVM scores") for row in result["slices"]):
        text += (
            " The SVM is at a disadvantage where its own two best scores are closest: compare the "
            "other models there with each other."
        )
    rows = []
    for row in result["slices"]:
        accuracy = share_text(row["accuracy"], row["accuracy_low"], row["accuracy_high"])
        listed = share_text(row["any_listed"], row["any_listed_low"], row["any_listed_high"])
        rows.append([row["slice"], f"{row['documents']:,}", row["model"], accuracy, listed])
    header = ["documents", "number", "model", "accuracy", "any listed"]
    return [text, markdown_table(header, rows), *listed_text(result["listed"])]


def listed_text(listed: dict | None) -> list[str]:
    """Return what chance gives where any listed category counts; nothing without categories."""
    if listed is None:
        return []
    text = (
        "Chance, where any listed category counts: a random guess is right on "
        f"{percent(listed['random_guess'])} percent of the documents, and a random wrong class is "
        f"another listed one on {percent(listed['random_wrong_guess'])} percent."
    )
    parts = [text, "Errors that are another listed class (per seed):", errors_table(listed)]
    cross_listed = listed["cross_listed"]
    if cross_listed is not None:
        parts += [
            f"On the {cross_listed['documents']:,} documents that are listed in another class, the "
            "only ones where it matters, a random guess is right on "
            f"{percent(cross_listed['random_guess'])} percent and a random wrong class is another "
            f"listed one on {percent(cross_listed['random_wrong_guess'])} percent. Errors on these "
            "documents (per seed):",
            errors_table(cross_listed),
        ]
    rows = []
    for row in listed["classes"]:
        others = [f"{name} {number:,}" for name, number in row["listed_in"].items() if number]
        share = percent(row["cross_listed"])
        rows.append([row["class"], f"{row['documents']:,}", share, ", ".join(others)])
    return [
        *parts,
        "Documents of each class that are cross-listed in another of the classes:",
        markdown_table(["class", "documents", "cross-listed, %", "listed in"], rows),
    ]


def errors_table(part: dict) -> str:
    """Return how many errors of each model are another listed class, beside chance."""
    rows = []
    for row in part["errors"]:
        share = share_text(row["listed"], row["listed_low"], row["listed_high"])
        chance = percent(row["random_wrong_guess"])
        rows.append([row["model"], f"{row['errors']:,.1f}", share, chance])
    header = ["model", "errors", "another listed class, %", "by chance on the same documents, %"]
    return markdown_table(header, rows)


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
            f"{100 * numbers['share_of_all_with_another']:.1f} percent have another of these "
            "classes among their categories."
        )
    parts = [text]
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


def calibration_text(calibrations: dict[str, dict], pieces: Pieces) -> list[str]:
    """Return the paragraphs on calibration."""
    if not calibrations:
        return ["Left out: no run has probabilities of a single label."]
    sentences = [calibration_sentence(name, part) for name, part in calibrations.items()]
    return [pieces.picture("calibration.png"), bullets(sentences)]
