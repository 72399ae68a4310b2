#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "PyYAML==6.0.3",
#     "scipy==1.17.1",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Render an attribution folder as a page: every document with its scores, word by word. Needs no
model.

    python tools/render_attributions.py --attribution_dir attributions
    python tools/render_attributions.py --attribution_dir attributions --compare attributions-mask

Reads what run_attribution.py wrote into the folder (attributions.jsonl, summary.json) and, where it
exists, faithfulness.json of tools/measure_faithfulness.py. Writes attributions.html into the same
folder: one self-contained file that requests nothing from elsewhere. Each document says in this
order: the prediction with its probability, the true class, the words, and what the model says
without the strongest ones. --compare adds attributions of the same documents with other baselines,
which the page shows on request. It shows words or subword tokens, filters, searches and sorts the
documents, and prints.
"""

import json
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from common.cards import as_list, without_sentence
from common.cli import fail, one_line, parse_arguments, start_logging
from common.folders import (
    attributions_digest,
    check_names,
    read_attributions,
    read_json,
    short_path,
    write_files,
)
from common.pages import faithfulness_table, interval_text, p_text, render
from faithfulness.baselines import (
    baseline_name,
    check_each_once,
    from_baseline,
    own_baselines,
    read_other,
)

# Keys of summary.json as the page names them: what a reader wants to know, and what is folded away
FACTS = {
    "documents": "documents",
    "truncated": "truncated documents",
    "text_column_names": "text columns",
    "not_converged": "documents that did not converge",
}
INTEGRATION = {
    "device": "device",
    "gradient_evaluations": "gradient evaluations",
    "median_relative_error": "median relative error",
    "max_relative_error": "largest relative error",
    "converged_to_stated_error": "documents right to the stated error only",
    "max_stated_error": "largest stated error",
}


@dataclass
class RenderArguments:
    """Arguments of the page."""

    attribution_dir: str = field(metadata={"help": "Folder that run_attribution.py wrote."})
    compare: list[str] | None = field(
        default=None,
        metadata={"help": "Attribution folders of the same documents with other baselines."},
    )


# A document


def shown_tokens(document: dict) -> list[str]:
    """Return the subword tokens as a page shows them.

    WordPiece tokens stay as they are (ka ##hler); where a mark stands for a blank, the text itself
    is shown.
    """
    tokens, spans = document["tokens"], document.get("token_spans")
    if spans is None or not any(token[:1] in {"Ġ", "▁"} for token in tokens):
        return tokens
    return [
        token if span is None else document["text"][span[0] : span[1]].strip() or token
        for token, span in zip(tokens, spans, strict=True)
    ]


def short(value: float) -> float:
    """Return a value with four significant digits: a page of 500 documents stays small."""
    return float(f"{value:.4g}")


def page_explanation(explained: dict) -> dict:
    """Return what the page needs of the attributions of a document to one class."""
    shown = {name: explained[name] for name in ("method", "n_steps", "gradient_evaluations")} | {
        "words": list(map(short, explained["word_attributions"])),
        "tokens": list(map(short, explained["attributions"])),
        "converged": explained.get("converged", True),
        "difference": short(explained["f_input"] - explained["f_baseline"]),
        "relative_error": None
        if explained["relative_error"] is None
        else short(explained["relative_error"]),
    }
    if explained.get("stated_error") is not None:
        shown["stated_error"] = short(explained["stated_error"])
    if len(explained.get("gaps") or []) > 1:
        shown["gaps"] = [round(math.log10(max(gap, 1e-12)), 2) for gap in explained["gaps"]]
    return shown


def page_explanations(document: dict) -> dict[str, dict]:
    """Return an explanation for each class that was explained, the target first.

    Raises ValueError if there is not one score for each word and token.
    """
    classes = {document["target"]: document} | document.get("classes", {})
    explanations = {name: page_explanation(explanation) for name, explanation in classes.items()}
    for explanation in explanations.values():
        if (len(explanation["words"]), len(explanation["tokens"])) != (
            len(document["words"]),
            len(document["tokens"]),
        ):
            raise ValueError(
                f"document {document['id']} does not have one score for each word and token"
            )
    return explanations


def page_document(
    document: dict, labels: list[str], baselines: list[dict], measured: dict | None
) -> dict:
    """Return what the page needs of a document.

    baselines are lines of the same document with other baselines; measured is what
    faithfulness.json says of the model without the strongest words of this one.
    """
    if not all(isinstance(document[name], str) for name in ("id", "text", "target")):
        raise TypeError(f"id, text or target of document {document['id']} is not a text")
    explanations = [page_explanations(document)]
    explanations += [page_explanations(other) for other in baselines]
    spans = [[start, end] for start, end in document.get("word_spans") or []]
    if spans and len(spans) != len(document["words"]):
        raise ValueError(f"document {document['id']} does not have one span for each word")

    predicted = as_list(document["prediction"])
    true = as_list(document["label"])
    probabilities = document.get("probabilities")
    if probabilities is None:  # of older folders
        probabilities = dict.fromkeys(predicted, 1.0)
    second, first = sorted([0.0, *probabilities.values()])[-2:]
    return {
        "id": document["id"],
        "text": document["text"],
        "truncated": bool(document.get("truncated")),
        # What the model said, and what is true; right is None without a true class
        "predicted": [[name, f"{probabilities[name]:.2f}"] for name in predicted],
        "true": None if document["label"] is None else true,
        "right": None if document["label"] is None else set(predicted) == set(true),
        "probabilities": [round(probabilities.get(label, 0.0), 4) for label in labels],
        "margin": first - second,
        # Which words
        "target": document["target"],
        "versus": document.get("versus"),
        "words": document["words"],
        "tokens": shown_tokens(document),
        "word_ids": document.get("word_ids") or [],
        "word_spans": spans or None,
        "explanations": explanations,
        # What it says without the strongest words, of each baseline
        "without": [
            without_sentence(document, measured),
            *map(without_sentence, baselines),
        ],
    }


# The whole folder

# How the tests of files without "statistics" were made; with few documents they err too often.
OLDER_STATISTICS = (
    "Percentile bootstrap over documents, which finds too many differences with few of them; "
    "measure_faithfulness.py now has the paired t-test. Holm's method corrects p over all rows."
)


def page_faithfulness(folder: Path, summary: dict) -> dict | None:
    """Return tables and sentences of faithfulness.json, and what was found of each document.

    None if there is none of these attributions. Exits with status 2 if it is damaged.
    """
    table = faithfulness_table(folder, summary)
    if table is None:
        return None
    path = folder / "faithfulness.json"
    content = read_json(path)
    try:
        extra_header, extra_rows = extra_columns(content)
        rows = [row + extra_rows.get(row[0], [""] * len(extra_header)) for row in table["rows"]]
        return {
            "header": table["header"] + extra_header,
            "rows": rows,
            "note": f"{table['note']}{shown_once_text(content)}",
            "tests": test_rows(content),
            "statistics": content.get("statistics") or OLDER_STATISTICS,
            "disagreements": content.get("disagreements") or [],
            "mosaics": mosaic_sentence(content),
            "baselines": baseline_rows(content),
            "own_baseline": content.get("baseline"),
            "without": {
                (row["id"], row["target"]): row["without_strongest"]
                for row in content.get("per_document") or []
                if "without_strongest" in row
            },
        }
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        fail(f"{path} is damaged ({one_line(error)}); run tools/measure_faithfulness.py again")


def shown_once_text(content: dict) -> str:
    """Return where only one of replacing and deleting words shows a difference; empty if nowhere.

    That is no disagreement of the two, so it stands below the table.
    """
    sentences = content.get("shown_once") or []
    if not sentences:
        return ""
    start = (
        "Where only one of replacing and deleting words shows a difference, the other may miss it:"
    )
    return f" {start} {' '.join(sentences)}"


def extra_columns(content: dict) -> tuple[list[str], dict[str, list[str]]]:
    """Return header and cells by ranking: scores on mosaics, evaluations and seconds."""
    columns = {}
    mosaics = content.get("mosaics")
    if mosaics:
        scores = mosaics["scores"] | {"random": mosaics["chance"]}
        columns["mosaic score"] = {name: interval_text(score) for name, score in scores.items()}
    cost = content.get("cost") or {}
    for key, header in (
        ("gradient_evaluations", "gradients per document"),
        ("forward_evaluations", "forward evaluations per document"),
        ("seconds", "seconds per document"),
    ):
        if cost:
            columns[header] = {name: cost_text(cells[key]) for name, cells in cost.items()}
    names = {name for cells in columns.values() for name in cells}
    rows = {name: [cells.get(name, "") for cells in columns.values()] for name in names}
    return list(columns), rows


def cost_text(mean: dict | None) -> str:
    """Return a mean number of evaluations or seconds with four digits; empty for None."""
    return "" if mean is None else f"{mean['mean']:,.4g}"


def test_rows(content: dict) -> list[list[str]]:
    """Return a row for each paired difference between integrated gradients and another ranking."""
    return [
        [
            f"{test['measure'].replace('_', ' ')}, against {test['method']}",
            interval_text({"mean": test["difference"]} | test),
            p_text(test["p_holm"]),
            test["documents"],
        ]
        for test in content.get("differences") or []
    ]


def mosaic_sentence(content: dict) -> str | None:
    """Return what the mosaics are and how many there were."""
    mosaics = content.get("mosaics")
    if not mosaics:
        return None
    return f"Mosaic score: means over {mosaics['mosaics']} texts. {mosaics['note']}"


def baseline_rows(content: dict) -> list[list[str]]:
    """Return a row for each other baseline that measure_faithfulness.py compared."""
    return [
        [
            comparison["baseline"],
            interval_text(comparison["spearman"]),
            interval_text(comparison["top_5_overlap"]),
            interval_text(comparison["top_5_overlap_by_chance"]),
            comparison["top_5_overlap"]["documents"],
        ]
        for comparison in content.get("baselines") or []
    ]


def page_facts(summary: dict, names: dict[str, str]) -> list[tuple[str, object]]:
    """Return names and values of what summary.json says about the whole folder."""
    facts = []
    for name, text in names.items():
        value = summary.get(name)
        if isinstance(value, float):
            value = f"{value:.1e}"
        if isinstance(value, list):
            value = ", ".join(value)
        if value is not None:
            facts.append((text, value))
    return facts


def model_name(summary: dict) -> list[tuple[str, str]]:
    """Return the model of an attribution folder as a fact, if it is recorded."""
    model = summary.get("arguments", {}).get("model_name_or_path")
    if not model:
        return []
    return [("model", short_path(model) if model.startswith("/") else model)]


def main() -> None:
    # 1. Arguments and files
    logger = start_logging()
    (arguments,) = parse_arguments(__doc__, RenderArguments)
    check_names(arguments)
    folder = Path(arguments.attribution_dir)
    documents, summary = read_attributions(folder)
    faithfulness = page_faithfulness(folder, summary)

    # 2. The documents as JSON, which the script of the page shows as text, never as markup
    try:
        labels = summary.get("labels")
        if not labels:
            labels = sorted({name for line in documents for name in as_list(line["prediction"])})
        low, high = summary.get("steps", [1, 1])
        searched = low < high
        facts = model_name(summary) + page_facts(summary, FACTS)
        numbers = page_facts(summary, INTEGRATION)
        others = own_baselines(documents, summary)
        others += [read_other(name, documents, summary) for name in arguments.compare or []]
        names = [baseline_name(summary), *(name for name, _ in others)]
        # Without the other baselines, so that numbers of the whole line are not shown as the first
        # one's
        documents = [from_baseline(document, names[0]) for document in documents]
        check_each_once(names)
        shown = []
        for number, document in enumerate(documents):
            measured = None
            if faithfulness is not None:
                measured = faithfulness["without"].get((document["id"], document["target"]))
            shown.append(
                page_document(
                    document,
                    labels,
                    [lines[number] for _, lines in others],
                    measured,
                )
            )
        data = {"labels": labels, "steps": [low, high], "baselines": names, "documents": shown}
        # NaN and infinite scores raise a ValueError: JSON does not have them.
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
        fail(
            f"attributions.jsonl or summary.json in {folder} is damaged ({reason}); "
            "run run_attribution.py again"
        )

    # 3. The page
    page = render(
        "attributions.html",
        source=attributions_digest(folder),
        number=len(documents),
        contrast=any(document.get("versus") for document in documents),
        baselines=names,
        searched=searched,
        facts=facts,
        numbers=numbers,
        faithfulness=faithfulness,
        labels=labels,
        choose_class=any(len(document["explanations"][0]) > 1 for document in shown),
        data=text.replace("<", "\\u003c"),  # "</script>" in a text would end the script element
    )
    write_files(folder, {"attributions.html": page.encode("utf-8", "replace")})
    logger.info("wrote %s", folder / "attributions.html")
    quoted = shlex.quote(str(folder))
    logger.info(
        "next: python tools/make_report.py --output_dir report --attribution_dirs %s", quoted
    )


if __name__ == "__main__":
    main()
