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
import math
import os
import sys
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

import jinja2
import markupsafe
import matplotlib
import yaml
from transformers import HfArgumentParser

matplotlib.use("Agg")
import matplotlib.pyplot as plt

logger = logging.getLogger(__name__)

REQUIRED = (
    "id text label prediction target tokens attributions words word_attributions method n_steps relative_error "
    "f_input f_baseline gradient_evaluations"
).split()
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
        "\\raggedright",
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


PAGE = r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>Integrated gradients of {{ number }} documents</title>
<style>
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --faint: #666; --line: #d8d8d8; --card: #fafafa;
  --plus: 26, 143, 60; --minus: 208, 44, 44; --bar: #4a76b8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181b; --faint: #9a9a9a; --line: #3a3d42;
  --card: #1e2125; --plus: 52, 190, 96; --minus: 235, 84, 84; --bar: #7aa5e6; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 0; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0 1rem; } th, td { padding: .15rem .8rem .15rem 0;
  text-align: left; } td + td { font-variant-numeric: tabular-nums; }
form { display: flex; flex-wrap: wrap; gap: .6rem 1rem; padding: .7rem; border: 1px solid var(--line);
  position: sticky; top: 0; background: var(--paper); z-index: 2; font-size: .9rem; }
article { border: 1px solid var(--line); background: var(--card); padding: .8rem 1rem; margin: 1rem 0; }
.meta, .note { color: var(--faint); font-size: .88rem; margin: .2rem 0; }
.wrong { font-weight: 700; }
.text { line-height: 2.1; margin: .6rem 0; overflow-wrap: anywhere; }
.text:focus-visible { outline: 2px solid var(--bar); outline-offset: 3px; }
.text span { border-radius: 3px; padding: 1px 1px; text-underline-offset: 3px; }
.plus { text-decoration: underline solid; } .minus { text-decoration: underline dashed; }
.text span:hover, .text span.at { outline: 2px solid var(--ink); }
.foot { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-end; font-size: .8rem; color: var(--faint); }
.class { display: grid; grid-template-columns: 6.5rem 8rem 3rem; gap: .4rem; align-items: center; line-height: 1.3; }
.class i { display: block; height: .6rem; background: var(--bar); }
#tip { position: fixed; z-index: 3; background: var(--ink); color: var(--paper); padding: .3rem .6rem;
  font-size: .85rem; border-radius: 4px; pointer-events: none; max-width: 22rem; }
#tip[hidden] { display: none; }
svg text { fill: var(--faint); font-size: 10px; } svg path { fill: none; stroke: var(--bar); stroke-width: 1.2; }
svg circle { fill: rgb(var(--minus)); }
button, select, input { font: inherit; }
</style>
</head>
<body>
<h1>Integrated gradients of {{ number }} documents</h1>
<p class="note">Scores are contributions to the logit of the target class, from a text of PAD or MASK tokens to the
document. Green with a solid underline: for the class; red with a dashed underline: against it; darker: larger in this
document. Scores of a document add up to F(x) &minus; F(b) but for the error stated. Hover over a word, or focus a text
and use the arrow keys, for its score and its pieces.</p>
<table>{% for name, value in facts %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
{% if faithfulness %}<h2>Is the explanation true to the model?</h2>
<table><tr><th></th>{% for column in faithfulness.columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for name, cells in faithfulness.rows %}<tr><th>{{ name }}</th>{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}
</tr>{% endfor %}</table>
<p class="note">{{ faithfulness.note }}</p>{% endif %}
<form aria-label="Filters">
<label>show <select id="level"><option value="words">words<option value="pieces">pieces</select></label>
<label>class <select id="label"><option value="">all{% for label in labels %}<option>{{ label }}{% endfor %}</select>
</label>
<label>prediction <select id="correct"><option value="">all<option value="right">right<option value="wrong">wrong
</select></label>
<label>order <select id="order"><option value="">as given<option value="error">largest error first<option
value="margin">smallest margin first</select></label>
<label>find <input id="find" type="search" size="14"></label>
<output id="count"></output>
</form>
<main id="documents"></main>
<p><button id="more" type="button">Show more</button></p>
<div id="tip" role="status" aria-live="polite" hidden></div>
<script id="data" type="application/json">{{ data }}</script>
<script>
"use strict";
const page = JSON.parse(document.getElementById("data").textContent);
const $ = name => document.getElementById(name);
const STEP = 25;
let chosen = [], shown = 0;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function signed(value) { return (value < 0 ? "\u2212" : "+") + Math.abs(value).toPrecision(3); }

function say(span) {
  const box = span.getBoundingClientRect(), tip = $("tip");
  tip.textContent = span.dataset.say;
  tip.hidden = false;
  tip.style.left = Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = (box.top > tip.offsetHeight + 8 ? box.top - tip.offsetHeight - 6 : box.bottom + 6) + "px";
}

function coloured(text, score, largest, explanation) {
  const span = element("span", text), strength = largest > 0 ? Math.min(1, Math.abs(score) / largest) : 0;
  if (strength > 0.01) span.style.background = `rgba(var(--${score > 0 ? "plus" : "minus"}), ${0.8 * strength})`;
  if (strength > 0.1) span.className = score > 0 ? "plus" : "minus";
  span.dataset.say = explanation;
  return span;
}

function lineOf(doc, level) {
  const holder = element("p", undefined, "text");
  holder.tabIndex = 0;
  holder.setAttribute("role", "group");
  holder.setAttribute("aria-label", "text of " + doc.id);
  const items = level === "words" ? doc.words : doc.pieces;
  const largest = Math.max(...items.map(item => Math.abs(item[1])), 0);
  let last = 0;
  items.forEach((item, number) => {
    const pieces = level === "words"
      ? doc.pieces.filter((piece, k) => doc.of[k] === number).map(piece => `${piece[0]} ${signed(piece[1])}`) : [];
    const explanation = `${item[0]}: ${signed(item[1])}` + (pieces.length > 1 ? ` = ${pieces.join(", ")}` : "");
    if (level === "words" && item.length > 2) {
      holder.append(doc.text.slice(last, item[2]));
      last = item[3];
    } else if (number) holder.append(" ");
    holder.append(coloured(item[0], item[1], largest, explanation));
  });
  if (level === "words" && doc.cut) holder.append(" \u2026");
  return holder;
}

function curve(doc) {
  const width = 260, height = 70, space = "http://www.w3.org/2000/svg";
  const low = Math.min(...doc.gaps), high = Math.max(...doc.gaps, low + 1), [first, end] = page.steps;
  const x = n => 30 + (n - first) / Math.max(1, end - first) * (width - 40);
  const y = gap => 8 + (high - gap) / (high - low) * (height - 26);
  const make = (tag, attributes, text) => {
    const made = document.createElementNS(space, tag);
    for (const name in attributes) made.setAttribute(name, attributes[name]);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const svg = make("svg", {width, height, role: "img"});
  svg.append(make("title", {}, `completeness error by number of steps; chosen: ${doc.n}`));
  const points = doc.gaps.map((gap, k) => `${x(first + k).toFixed(1)} ${y(gap).toFixed(1)}`);
  svg.append(make("path", {d: "M" + points.join("L")}));
  svg.append(make("circle", {cx: x(doc.n), cy: y(doc.gaps[doc.n - first]), r: 3.5}));
  svg.append(make("text", {x: 0, y: 12}, "1e" + Math.round(high)));
  svg.append(make("text", {x: 0, y: height - 18}, "1e" + Math.round(low)));
  svg.append(make("text", {x: 30, y: height - 2}, `n = ${first} \u2026 ${end}, chosen ${doc.n}`));
  return svg;
}

function card(doc) {
  const holder = element("article");
  holder.append(element("h2", doc.id));
  const classes = `target ${doc.target}, predicted ${doc.prediction}, true ${doc.label ?? "unknown"}`;
  const meta = element("p", classes, "meta");
  if (doc.label !== null && doc.label !== doc.prediction) meta.append(element("span", " \u2014 wrong", "wrong"));
  if (doc.cut) meta.append(element("span", " \u2014 text cut at the limit of the model", "wrong"));
  holder.append(meta, lineOf(doc, $("level").value));
  const foot = element("div", undefined, "foot"), bars = element("div");
  page.labels.forEach((label, k) => {
    const row = element("div", undefined, "class"), track = element("span"), bar = element("i");
    bar.style.width = 100 * doc.probabilities[k] + "%";
    track.append(bar);
    row.append(element("span", label), track, element("span", doc.probabilities[k].toFixed(2)));
    bars.append(row);
  });
  foot.append(bars);
  if (doc.gaps) foot.append(curve(doc));
  const error = doc.error === null ? "undefined, as F(x) = F(b)" : doc.error.toExponential(1);
  foot.append(element("span", `F(x) \u2212 F(b) = ${signed(doc.difference)}; ${doc.n} steps of ${doc.method}; `
    + `relative completeness error ${error}; ${doc.evaluations} gradients` + (doc.exact ? "" : "; NOT CONVERGED")));
  holder.append(foot);
  return holder;
}

function more() {
  $("documents").append(...chosen.slice(shown, shown + STEP).map(card));
  shown = Math.min(chosen.length, shown + STEP);
  $("more").hidden = shown >= chosen.length;
  $("count").textContent = `${chosen.length} of ${page.documents.length} documents`;
}

function update() {
  const label = $("label").value, correct = $("correct").value, words = $("find").value.toLowerCase();
  chosen = page.documents.filter(doc => (!label || (doc.label ?? doc.prediction) === label)
    && (!correct || (doc.label !== null && (doc.label === doc.prediction) === (correct === "right")))
    && (!words || (doc.id + " " + doc.text).toLowerCase().includes(words)));
  if ($("order").value === "error") chosen.sort((a, b) => (b.error ?? -1) - (a.error ?? -1));
  if ($("order").value === "margin") chosen.sort((a, b) => a.margin - b.margin);
  shown = 0;
  $("documents").replaceChildren();
  more();
}

for (const name of ["level", "label", "correct", "order"]) $(name).addEventListener("change", update);
$("find").addEventListener("input", update);
$("more").addEventListener("click", more);
document.forms[0].addEventListener("submit", event => event.preventDefault());
$("documents").addEventListener("mouseover", event => {
  if (event.target.dataset.say) say(event.target);
  else $("tip").hidden = true;
});
$("documents").addEventListener("mouseleave", () => $("tip").hidden = true);
$("documents").addEventListener("keydown", event => {
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (!step || !event.target.classList.contains("text")) return;
  event.preventDefault();
  const spans = [...event.target.children], at = spans.findIndex(span => span.classList.contains("at"));
  const next = spans[Math.max(0, Math.min(spans.length - 1, at + step))];
  spans[at]?.classList.remove("at");
  next.classList.add("at");
  say(next);
});
$("documents").addEventListener("focusout", event => {
  event.target.querySelector?.(".at")?.classList.remove("at");
  $("tip").hidden = true;
});
update();
</script>
</body>
</html>
"""


def shown_document(document: dict, labels: list[str]) -> dict:
    """What the page needs of a document, scores to four digits, so that 500 documents stay light."""

    def short(value: float) -> float:
        return float(f"{value:.4g}")

    scores = document["word_attributions"]
    words = [[word, short(score)] for word, score in zip(document["words"], scores, strict=True)]
    for word, span in zip(words, document.get("word_spans") or [], strict=False):
        word += span
    pieces = zip(shown_pieces(document), document["attributions"], strict=True)
    probabilities = document.get("probabilities") or {document["prediction"]: 1.0}
    second, first = sorted([0.0, *probabilities.values()])[-2:]
    shown = {name: document[name] for name in ("id", "text", "label", "prediction", "target", "method")}
    shown |= {"words": words, "pieces": [[piece, short(score)] for piece, score in pieces]}
    shown |= {"of": document.get("word_ids") or [], "n": document["n_steps"], "cut": bool(document.get("truncated"))}
    shown |= {"probabilities": [round(probabilities.get(label, 0.0), 4) for label in labels], "margin": first - second}
    shown |= {"difference": short(document["f_input"] - document["f_baseline"]), "error": document["relative_error"]}
    shown |= {"evaluations": document["gradient_evaluations"], "exact": document.get("converged", True)}
    if len(document.get("gaps") or []) > 1:
        shown["gaps"] = [round(math.log10(max(gap, 1e-12)), 2) for gap in document["gaps"]]
    return shown


def faithfulness_table(measured: dict) -> dict:
    """The page's table of faithfulness.json: a row a ranking, a column a measure, mean and 95 % interval."""
    columns, rows = list(next(iter(measured["rankings"].values()))), []
    for ranking, values in measured["rankings"].items():
        found = [values[column] for column in columns]
        rows.append((ranking, [f"{v['mean']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" if v else "" for v in found]))
    return {"columns": [column.replace("_", " ") for column in columns], "rows": rows, "note": measured["note"]}


def write_page(documents: list[dict], summary: dict, measured: dict | None, path: Path) -> None:
    """Write the page; the documents go in as JSON that the page's own script shows as text, never as markup."""
    labels = summary.get("labels") or sorted({document["prediction"] for document in documents})
    data = {"labels": labels, "steps": summary.get("steps", [1, 1])}
    data["documents"] = [shown_document(document, labels) for document in documents]
    # "<" would let a text end the script element.
    packed = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    names = "device gradient_evaluations median_relative_error max_relative_error truncated not_converged".split()
    facts = [(name.replace("_", " "), summary[name]) for name in names if summary.get(name) is not None]
    facts = [(name, f"{value:.1e}" if isinstance(value, float) else value) for name, value in facts]
    facts += [
        (name.replace("_", " "), summary["arguments"][name])
        for name in ("model_name_or_path", "baseline")
        if name in summary.get("arguments", {})
    ]
    # Another run's measures say nothing about these attributions.
    table = faithfulness_table(measured) if measured and measured.get("run") == summary.get("run") else None
    template = jinja2.Environment(autoescape=True).from_string(PAGE)
    page = template.render(
        number=len(documents), labels=labels, facts=facts, faithfulness=table, data=markupsafe.Markup(packed)
    )
    write_atomically(path, page)


def main() -> None:
    # 1. Arguments and files
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(RenderArguments)
    folder = Path(arguments.attribution_dir)
    documents, summary, measured = read_folder(folder)

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
        write_page(documents, summary, measured, folder / "attributions.html")
        draw_png(lines, folder / "attributions.png")
        write_latex(lines, folder / "attributions.tex")
    except OSError as error:
        fail(f"cannot write to {folder}: {error}")
    logger.info("wrote %s, .png and .tex", folder / "attributions.html")


if __name__ == "__main__":
    main()
