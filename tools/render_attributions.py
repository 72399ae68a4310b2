#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "PyYAML==6.0.3",
#     "scipy==1.17.1",
#     "transformers==5.23.0",
# ]
# ///
"""Render an attribution folder as a page: every document with its scores, word by word. Needs no model.

    python tools/render_attributions.py --attribution_dir attributions

Reads what run_attribution.py wrote into the folder (attributions.jsonl, summary.json) and, where it exists,
faithfulness.json of tools/measure_faithfulness.py. Writes attributions.html into the same folder: one self-contained
file that requests nothing from elsewhere. It shows words or subword tokens, filters, searches and sorts the documents,
and prints.
"""

import json
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from common import (
    attributions_digest,
    fail,
    faithfulness_table,
    one_line,
    parse_arguments,
    read_attributions,
    render,
    short_path,
    start_logging,
    write_files,
)

FACTS = {
    "device": "device",
    "gradient_evaluations": "gradient evaluations",
    "median_relative_error": "median relative error",
    "max_relative_error": "largest relative error",
    "truncated": "truncated documents",
    "not_converged": "documents that did not converge",
}  # keys of summary.json as the page names them


@dataclass
class RenderArguments:
    """Arguments of the page."""

    attribution_dir: str = field(metadata={"help": "Folder that run_attribution.py wrote."})


def shown_tokens(document: dict) -> list[str]:
    """Return the subword tokens as a page shows them.

    WordPiece tokens stay as they are (ka ##hler); where a mark stands for a blank, the text itself is shown.
    """
    tokens, spans = document["tokens"], document.get("token_spans")
    if spans is None or not any(token[:1] in {"Ġ", "▁"} for token in tokens):
        return tokens
    return [
        token if span is None else document["text"][span[0] : span[1]].strip() or token
        for token, span in zip(tokens, spans, strict=True)
    ]


def page_document(document: dict, labels: list[str]) -> dict:
    """Return what the page needs of a document, scores to four digits, so that 500 documents stay small."""

    def short(value: float) -> float:
        return float(f"{value:.4g}")

    if not all(isinstance(document[name], str) for name in ("id", "text", "prediction", "target")):
        raise TypeError(f"id, text, prediction or target of document {document['id']} is not a text")
    words = zip(document["words"], document["word_attributions"], strict=True)
    words = [[word, short(score)] for word, score in words]
    for word, span in zip(words, document.get("word_spans") or [], strict=False):
        word += span
    tokens = zip(shown_tokens(document), document["attributions"], strict=True)
    probabilities = document.get("probabilities") or {document["prediction"]: 1.0}
    second, first = sorted([0.0, *probabilities.values()])[-2:]
    names = "id text label prediction target method n_steps gradient_evaluations"
    shown = {name: document[name] for name in names.split()} | {
        "relative_error": None if document["relative_error"] is None else short(document["relative_error"]),
        "versus": document.get("versus"),
        "words": words,
        "tokens": [[token, short(score)] for token, score in tokens],
        "word_ids": document.get("word_ids") or [],
        "truncated": bool(document.get("truncated")),
        "converged": document.get("converged", True),
        "probabilities": [round(probabilities.get(label, 0.0), 4) for label in labels],
        "margin": first - second,
        "difference": short(document["f_input"] - document["f_baseline"]),
    }
    if len(document.get("gaps") or []) > 1:
        shown["gaps"] = [round(math.log10(max(gap, 1e-12)), 2) for gap in document["gaps"]]
    return shown


def page_facts(summary: dict) -> list[tuple[str, object]]:
    """Return the names and values of what the page says about the whole folder."""
    facts = [(text, summary[name]) for name, text in FACTS.items() if summary.get(name) is not None]
    facts = [(name, f"{value:.1e}" if isinstance(value, float) else value) for name, value in facts]
    model = summary.get("arguments", {}).get("model_name_or_path")
    return [*facts, ("model", short_path(model) if model.startswith("/") else model)] if model else facts


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
        facts, baseline = page_facts(summary), summary.get("arguments", {}).get("baseline", "pad")
        shown = [page_document(document, labels) for document in documents]
        data = {"labels": labels, "steps": [low, high], "documents": shown}
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
    ) as error:  # also NaN, infinity
        reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
        fail(f"attributions.jsonl or summary.json in {folder} is damaged ({reason}); run run_attribution.py again")

    # 3. The page
    contrasts = {document.get("versus") for document in documents}
    several = len({document["id"] for document in documents}) < len(documents)
    page = render(
        "attributions.html",
        source=attributions_digest(folder),
        number=len({document["id"] for document in documents}),
        explained="the logit of the target class"
        if contrasts == {None}
        else "the logit of the target class minus that of the other class",
        baseline=baseline.upper(),
        searched=low < high,
        facts=facts,
        faithfulness=faithfulness,
        labels=labels,
        targets=sorted({document["target"] for document in documents}) if several else [],
        data=text.replace("<", "\\u003c"),  # "</script>" in a text would end the script element
    )
    write_files(folder, {"attributions.html": page.encode("utf-8", "replace")})
    logger.info("wrote %s", folder / "attributions.html")
    quoted = shlex.quote(str(folder))
    logger.info("next: python tools/make_report.py --output_dir report --attribution_dirs %s", quoted)


if __name__ == "__main__":
    main()
