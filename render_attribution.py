#!/usr/bin/env python
"""Draw what run_attribution.py found: a page with every document and, for print, the study's figure. Needs no model.

    python render_attribution.py --attribution_dir attributions
    python render_attribution.py --attribution_dir attributions --figure_ids 1401.01234 1502.04321 --figure_level words

Reads attributions.jsonl and summary.json (and faithfulness.json where there is one) from the folder and writes
attributions.html (one self-contained file), attributions.png and attributions.tex beside them. Green stands for a
positive and red for a negative contribution to the target's logit; the larger it is in its document, the darker.
"""

import argparse
import difflib
import json
import logging
import os
import sys
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

import jinja2
import matplotlib
import yaml
from transformers import HfArgumentParser

matplotlib.use("Agg")
import matplotlib.pyplot as plt

logger = logging.getLogger(__name__)

REQUIRED = "id text label prediction target tokens attributions words word_attributions".split()
GREEN, RED = (0x1A, 0x8F, 0x3C), (0xD0, 0x2C, 0x2C)


@dataclass
class RenderArguments:
    """The command line."""

    attribution_dir: str = field(metadata={"help": "Folder that run_attribution.py wrote."})
    figure_documents: int = field(
        default=3, metadata={"help": "Documents in the figure: the shortest that were not cut, as in the study."}
    )
    figure_ids: list[str] | None = field(default=None, metadata={"help": "Documents in the figure, by id, instead."})
    figure_level: Literal["pieces", "words"] = field(
        default="pieces", metadata={"help": "Colour word pieces, as in the study, or whole words."}
    )


def fail(message: str) -> NoReturn:
    """End the program as every user's mistake ends it: one line on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def one_line(error: BaseException) -> str:
    """A library's message as one line that fits an error line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def parse_arguments(*dataclass_types: type) -> tuple:
    """Parse the command line; a first argument FILE.json or FILE.yaml stands for flags, later flags override it.

    Ends with exit code 2 on an unreadable file, an unknown flag (the nearest known one is named) or a bad value.
    """
    parser = HfArgumentParser(
        dataclass_types, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = fail
    arguments = sys.argv[1:]
    if arguments and arguments[0].endswith((".json", ".yaml", ".yml")):
        try:
            recipe = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))  # JSON is YAML
            recipe = {key: value for key, value in recipe.items() if value is not None}
            flags = [
                word
                for key, value in recipe.items()
                for word in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))
            ]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
            fail(f"{arguments[0]} is no readable file of arguments (flag: value a line): {one_line(error)}")
        arguments = flags + arguments[1:]
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        fail(f"unknown argument {unknown[0]}; {f'did you mean {nearest[0]}?' if nearest else '--help lists all'}")
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:
        fail(one_line(error))


def write_atomically(path: Path, text: str) -> None:
    """Write text to path so that a reader sees the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_folder(folder: Path) -> tuple[list[dict], dict, dict | None]:
    """Return the documents, the summary and, where measured, the faithfulness of the folder."""
    documents = []
    try:
        for number, line in enumerate((folder / "attributions.jsonl").read_text(encoding="utf-8").split("\n"), 1):
            if line:
                documents.append(json.loads(line))
                missing = [key for key in REQUIRED if key not in documents[-1]]
                if missing:
                    fail(
                        f"line {number} of {folder / 'attributions.jsonl'} has no {missing[0]}; run run_attribution.py"
                    )
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        faithfulness = folder / "faithfulness.json"
        measured = json.loads(faithfulness.read_text(encoding="utf-8")) if faithfulness.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{folder} is no finished folder of run_attribution.py: {error}")
    except (json.JSONDecodeError, TypeError) as error:
        fail(f"a file in {folder} is damaged ({error}); run run_attribution.py again")
    if not documents:
        fail(f"{folder / 'attributions.jsonl'} holds no document; run run_attribution.py again")
    return documents, summary, measured


def shade(score: float, largest: float) -> tuple[int, int, int]:
    """Colour of a score: white for 0, the full green or red for the document's largest absolute score."""
    strength = min(1.0, abs(score) / largest) if largest > 0 else 0.0
    return tuple(round(255 - strength * (255 - channel)) for channel in (GREEN if score > 0 else RED))


def shown_pieces(document: dict) -> list[str]:
    """The pieces for the eye: WordPiece as it is (ka ##hler); where a mark stands for a blank, the text itself."""
    tokens, spans = document["tokens"], document.get("token_spans")
    if spans is None or not any(token[:1] in {"Ġ", "▁"} for token in tokens):
        return tokens
    return [
        token if span is None else document["text"][span[0] : span[1]].strip() or token
        for token, span in zip(tokens, spans, strict=True)
    ]


def figure_line(document: dict, level: str) -> list[tuple[str, float]]:
    """The line of the figure that shows a document: (piece or word, score) pairs, special tokens included."""
    if level == "pieces":
        return list(zip(shown_pieces(document), document["attributions"], strict=True))
    line, shown = [], set()
    word_ids = document.get("word_ids") or []
    for token, word, score in zip(document["tokens"], word_ids, document["attributions"], strict=True):
        if word is None:
            line.append((token, score))
        elif word not in shown:
            shown.add(word)
            line.append((document["words"][word], document["word_attributions"][word]))
    return line


def draw_png(lines: list[tuple[dict, list[tuple[str, float]]]], path: Path) -> None:
    """Draw the documents as running text of coloured pieces, wrapped at the width of the page."""
    width, height, size, gap = 10.0, 0.25, 10, 0.06  # inches; points
    figure = plt.figure(figsize=(width, 1), dpi=200)
    renderer = figure.canvas.get_renderer()
    places, y = [], 0.1
    for document, line in lines:
        heading = f"{document['id']}   target {document['target']}"
        if document["label"] is not None:
            heading += f"   true {document['label']}   predicted {document['prediction']}"
        places.append((0.1, y, heading, None))
        largest = max(abs(score) for _, score in line)
        x, y = 0.1, y + height
        for piece, score in line:
            text = figure.text(0, 0, piece, fontsize=size, parse_math=False)
            extent = text.get_window_extent(renderer).width / figure.dpi + gap
            text.remove()
            if x + extent > width - 0.1 and x > 0.1:
                x, y = 0.1, y + height
            places.append((x, y, piece, (shade(score, largest), extent)))
            x += extent + 0.03
        y += 1.6 * height
    figure.set_size_inches(width, y)
    for x, top, text, box in places:
        colour = "black"
        if box is not None:
            rgb, extent = tuple(channel / 255 for channel in box[0]), box[1]
            figure.add_artist(
                plt.Rectangle((x / width, 1 - (top + 0.2) / y), extent / width, 0.21 / y, color=rgb, linewidth=0)
            )
            colour = "white" if 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] < 0.5 else "black"
            x += gap / 2
        figure.text(
            x / width,
            1 - (top + 0.15) / y,
            text,
            fontsize=size if box else size - 2,
            color=colour,
            style="normal" if box else "italic",
            parse_math=False,
        )
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, format="png")
    plt.close(figure)
    os.replace(temporary, path)


def escape_latex(text: str) -> str:
    """Text for plain LaTeX: specials escaped, accents as commands, Greek letters by name, the rest as code points."""
    accents = {
        "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u ", "\u0307": ".",
        "\u0308": '"', "\u030a": "r ", "\u030b": "H ", "\u030c": "v ", "\u0327": "c ", "\u0328": "k ",
    }  # fmt: skip
    letters = {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "ł": r"\l{}", "Ł": r"\L{}",
        "ø": r"\o{}", "Ø": r"\O{}", "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "–": "--", "—": "---",
        "‘": "`", "’": "'", "“": "``", "”": "''", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
        "#": r"\#", "$": r"\$", "%": r"\%", "&": r"\&", "_": r"\_", "{": r"\{", "}": r"\}", "ı": r"\i{}",
        "-": "{-}", "'": "{'}", "`": "{`}",
    }  # fmt: skip
    written = []
    for character in unicodedata.normalize("NFC", text):
        base, *marks = unicodedata.normalize("NFD", character)
        name = unicodedata.name(character, "").split()
        if character in letters:
            written.append(letters[character])
        elif character.isascii():
            written.append(character)
        elif len(marks) == 1 and marks[0] in accents and base.isascii():
            written.append(rf"\{accents[marks[0]]}{{{base}}}")
        elif name[:1] == ["GREEK"] and len(name) == 4 and name[3] not in {"OMICRON", "FINAL"} and name[1] == "SMALL":
            written.append(rf"\ensuremath{{\{name[3].lower().replace('lamda', 'lambda')}}}")
        else:
            written.append(rf"\texttt{{U+{ord(character):04X}}}")
    return "".join(written)


def write_latex(lines: list[tuple[dict, list[tuple[str, float]]]], path: Path) -> None:
    """Write the figure as a document that plain article and xcolor compile; its body can be pasted into a paper."""
    parts = [
        "\\documentclass{article}",
        "\\usepackage{xcolor}",
        "\\setlength{\\fboxsep}{1pt}",
        "\\newcommand{\\piece}[2]{\\colorbox[HTML]{#1}{\\strut #2}\\allowbreak\\hspace{1pt}}",
        "\\begin{document}",
        "\\noindent Green: contribution for the target class; red: against it; darker: larger.\\par\\medskip",
    ]
    for document, line in lines:
        largest = max(abs(score) for _, score in line)
        parts.append(
            f"\\noindent\\textit{{{escape_latex(document['id'])}, target {escape_latex(document['target'])}}}\\\\"
        )
        for piece, score in line:
            colour = "".join(f"{channel:02X}" for channel in shade(score, largest))
            parts.append(f"\\piece{{{colour}}}{{{escape_latex(piece)}}}%")
        parts.append("\\par\\medskip")
    write_atomically(path, "\n".join([*parts, "\\end{document}", ""]))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Attributions</title>
<style>
body { font: 16px/1.9 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
mark { color: #000; padding: 1px 2px; border-radius: 3px; }
</style></head><body>
<h1>Integrated gradients of {{ documents | length }} documents</h1>
{% for document in documents %}
<article><h2>{{ document.id }}</h2>
<p>target {{ document.target }}, true {{ document.label or "unknown" }}, predicted {{ document.prediction }}{% if
document.truncated %} <strong>(text was cut at the model's limit)</strong>{% endif %}</p>
<p>{% for word, score in document.line %}<mark style="background: rgb{{ score | shade(document.largest) }}"
title="{{ '%+.4f' | format(score) }}">{{ word }}</mark> {% endfor %}</p></article>
{% endfor %}
</body></html>
"""


def write_page(documents: list[dict], path: Path) -> None:
    """Write the page, every text escaped."""
    environment = jinja2.Environment(autoescape=True)
    environment.filters["shade"] = shade
    shown = []
    for document in documents:
        line = list(zip(document["words"], document["word_attributions"], strict=True))
        shown.append(document | {"line": line, "largest": max((abs(score) for _, score in line), default=0)})
    write_atomically(path, environment.from_string(PAGE).render(documents=shown))


def main() -> None:
    # 1. Arguments and files
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(RenderArguments)
    folder = Path(arguments.attribution_dir)
    documents, _, _ = read_folder(folder)

    # 2. The documents of the figure
    by_id = {document["id"]: document for document in documents}
    if arguments.figure_ids is not None:
        unknown = [name for name in arguments.figure_ids if name not in by_id]
        if unknown:
            fail(f"--figure_ids: {folder} has no document {unknown[0]}")
        chosen = [by_id[name] for name in arguments.figure_ids]
    else:
        if arguments.figure_documents < 1:
            fail(f"--figure_documents must be at least 1, not {arguments.figure_documents}")
        ranked = sorted(documents, key=lambda document: (bool(document.get("truncated")), len(document["tokens"])))
        chosen = ranked[: arguments.figure_documents]
    lines = [(document, figure_line(document, arguments.figure_level)) for document in chosen]

    # 3. Page and figure
    try:
        write_page(documents, folder / "attributions.html")
        draw_png(lines, folder / "attributions.png")
        write_latex(lines, folder / "attributions.tex")
    except OSError as error:
        fail(f"cannot write to {folder}: {error}")
    logger.info("wrote %s, .png and .tex", folder / "attributions.html")


if __name__ == "__main__":
    main()
