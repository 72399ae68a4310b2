#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "PyYAML==6.0.3",
#     "scipy==1.17.1",
#     "transformers==5.23.0",
# ]
# ///
"""Render an attribution folder as a page: every document with its scores, word by word. Needs no
model.

    python tools/render_attributions.py --attribution_dir attributions

Reads what run_attribution.py wrote into the folder (attributions.jsonl, summary.json) and, where it
exists, faithfulness.json of tools/measure_faithfulness.py. Writes attributions.html into the same
folder: one self-contained file that requests nothing from elsewhere. It shows words or subword
tokens, filters, searches and sorts the documents, and prints.
"""

import json
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from common.cli import fail, one_line, parse_arguments, start_logging
from common.folders import attributions_digest, read_attributions, short_path, write_files
from common.pages import faithfulness_table, render

FACTS = {
    "device": "device",
    "gradient_evaluations": "gradient evaluations",
    "median_relative_error": "median relative error",
    "max_relative_error": "largest relative error",
    "truncated": "truncated documents",
    "not_converged": "documents that did not converge",
    "text_column_names": "text columns",
}  # keys of summary.json as the page names them


@dataclass
class RenderArguments:
    """Arguments of the page."""

    attribution_dir: str = field(metadata={"help": "Folder that run_attribution.py wrote."})


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


def page_explanation(found: dict) -> dict:
    """Return what the page needs of the attributions of a document to one class."""
    shown = {name: found[name] for name in ("method", "n_steps", "gradient_evaluations")} | {
        "words": list(map(short, found["word_attributions"])),
        "tokens": list(map(short, found["attributions"])),
        "converged": found.get("converged", True),
        "difference": short(found["f_input"] - found["f_baseline"]),
        "relative_error": None
        if found["relative_error"] is None
        else short(found["relative_error"]),
    }
    if len(found.get("gaps") or []) > 1:
        shown["gaps"] = [round(math.log10(max(gap, 1e-12)), 2) for gap in found["gaps"]]
    return shown


def page_document(document: dict, labels: list[str]) -> dict:
    """Return what the page needs of a document, with an explanation for each class that was
    explained.
    """
    if not all(isinstance(document[name], str) for name in ("id", "text", "prediction", "target")):
        raise TypeError(
            f"id, text, prediction or target of document {document['id']} is not a text"
        )
    classes = {document["target"]: document} | document.get("classes", {})
    explanations = {name: page_explanation(found) for name, found in classes.items()}
    for found in explanations.values():
        if (len(found["words"]), len(found["tokens"])) != (
            len(document["words"]),
            len(document["tokens"]),
        ):
            raise ValueError(
                f"document {document['id']} does not have one score for each word and token"
            )
    spans = [[start, end] for start, end in document.get("word_spans") or []]
    if spans and len(spans) != len(document["words"]):
        raise ValueError(f"document {document['id']} does not have one span for each word")
    probabilities = document.get("probabilities") or {document["prediction"]: 1.0}
    second, first = sorted([0.0, *probabilities.values()])[-2:]
    shown = {
        name: document[name] for name in ("id", "text", "label", "prediction", "target", "words")
    }
    return shown | {
        "versus": document.get("versus"),
        "tokens": shown_tokens(document),
        "word_ids": document.get("word_ids") or [],
        "word_spans": spans or None,
        "truncated": bool(document.get("truncated")),
        "probabilities": [round(probabilities.get(label, 0.0), 4) for label in labels],
        "margin": first - second,
        "explanations": explanations,
    }


def page_facts(summary: dict) -> list[tuple[str, object]]:
    """Return the names and values of what the page says about the whole folder."""
    facts = []
    for name, text in FACTS.items():
        value = summary.get(name)
        if isinstance(value, float):
            value = f"{value:.1e}"
        if isinstance(value, list):
            value = ", ".join(value)
        if value is not None:
            facts.append((text, value))
    model = summary.get("arguments", {}).get("model_name_or_path")
    if model:
        facts.append(("model", short_path(model) if model.startswith("/") else model))
    return facts


def main() -> None:
    # 1. Arguments and files
    logger = start_logging()
    (arguments,) = parse_arguments(__doc__, RenderArguments)
    folder = Path(arguments.attribution_dir)
    documents, summary = read_attributions(folder)
    faithfulness = faithfulness_table(folder, summary)

    # 2. The documents as JSON, which the script of the page shows as text, never as markup
    try:
        labels = summary.get("labels") or sorted({document["prediction"] for document in documents})
        low, high = summary.get("steps", [1, 1])
        searched = low < high
        facts = page_facts(summary)
        # Older folders have the flag only; EOS stands for PAD where a tokenizer has none.
        baseline = summary.get("baseline") or summary.get("arguments", {}).get("baseline", "pad")
        baseline = baseline.upper()
        shown = [page_document(document, labels) for document in documents]
        data = {"labels": labels, "steps": [low, high], "documents": shown}
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
        baseline=baseline,
        searched=searched,
        facts=facts,
        faithfulness=faithfulness,
        labels=labels,
        choose_class=any(len(document["explanations"]) > 1 for document in shown),
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
