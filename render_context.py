#!/usr/bin/env python
"""Put what context_statistics.py found into a picture, a page and sentences. Needs no model; takes seconds.

    python render_context.py --context_dir context

Reads context.json from the folder and writes beside it context.png (four panels for a paper), context.html (one
self-contained page, text escaped) and context.md (the same findings as sentences and tables).
"""

import argparse
import base64
import difflib
import html
import io
import json
import logging
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import jinja2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import yaml
from transformers import HfArgumentParser

logger = logging.getLogger(__name__)

ALPHA = 0.05
SHOWN_PHRASES = 12
SHOWN_WORDS = 5
COLOURS = ("#1b7837", "#762a83", "#2166ac", "#b35806", "#666666", "#c51b7d", "#35978f", "#000000")
MARKERS = "osD^vPX*"
PARTS = ("Order of words", "Phrases", "Attribution in context", "Agreement with the SVM")
KINDS = {"all": "all words", "content": "content words", "function": "function words"}


@dataclass
class RenderArguments:
    """What to draw."""

    context_dir: str = field(metadata={"help": "Folder with context.json; the files are put there, too."})


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


def percent(value: float) -> str:
    """A fraction in per cent, never as minus nought."""
    return f"{round(100 * value, 2) + 0.0:.2f}"


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def block_text(block: int | str) -> str:
    """What was shuffled."""
    if block == "sentence":
        return "sentences"
    return "single words" if block == 1 else f"blocks of {block} words"


def span(part: dict, form=percent) -> str:
    """An interval in words; there is none of a single value."""
    return "no interval" if part["low"] is None else f"{form(part['low'])} to {form(part['high'])}"


def number(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"


def order_section(runs: list[dict], documents: int) -> dict:
    """Sentences and tables of the order test."""
    sentences, tables = [], []
    for run in runs:
        sentences.append(
            f"{run['name']}: accuracy {percent(run['accuracy']['value'])} % (95 % interval {span(run['accuracy'])}) "
            f"and macro F1 {percent(run['macro_f1']['value'])} % on the {documents:,} documents as they are."
        )
        for condition in run["conditions"]:
            test = condition["accuracy"]
            change = percent(abs(test["difference"]))
            verb = f"falls by {change} points" if test["difference"] < 0 else f"rises by {change} points"
            known = "distinguishable" if test["p_holm"] < ALPHA else "not distinguishable"
            if change == "0.00":
                verb = "stays"
            if condition["block"] in (1, "sentence"):
                sentences.append(
                    f"{run['name']}: with {block_text(condition['block'])} shuffled accuracy {verb} (95 % interval "
                    f"of the difference {span(test)}, p after Holm {p_text(test['p_holm'])}): {known} from no change. "
                    f"{percent(condition['predictions_changed'])} % of its predictions change."
                )
        worst = min(run["conditions"], key=lambda condition: condition["macro_f1"]["difference"])
        loser = min(worst["classes"], key=lambda part: part["difference"])
        if loser["difference"] < 0:
            known = "distinguishable" if loser["p_holm"] < ALPHA else "not distinguishable"
            sentences.append(
                f"{run['name']}: {loser['class']} loses most, {percent(-loser['difference'])} points of F1 with "
                f"{block_text(worst['block'])} shuffled (95 % interval of the difference {span(loser)}; {known} after "
                "Holm over all classes and sizes)."
            )
        if run["indifferent"] is not None:
            single = next(condition for condition in run["conditions"] if condition["block"] == 1)
            state = "came out so" if run["indifferent"] else "DID NOT come out so: something is wrong"
            sentences.append(
                f"{run['name']} cannot read the order of words and must be indifferent to it; it {state} (largest "
                f"change of a score {single['max_change']:.1e})."
            )
        if run["cut_documents"]:
            sentences.append(
                f"{run['cut_documents']:,} documents are longer than {run['name']} reads; what it does not read was "
                "left out before shuffling, so each text keeps its words."
            )
        header = ["shuffled", "accuracy", "difference", "95 % interval", "p (Holm)", "macro F1", "difference",
                  "95 % interval", "p (Holm)", "P(true class) changes by"]  # fmt: skip
        rows = []
        for condition in run["conditions"]:
            row = [block_text(condition["block"])]
            for metric in ("accuracy", "macro_f1"):
                test = condition[metric]
                row += [percent(test["value"]), percent(test["difference"]), span(test), f"{test['p_holm']:.3f}"]
            probability = condition.get("true_class_probability")
            rows.append([*row, f"{percent(probability['mean'])} ({span(probability)})" if probability else "-"])
        tables.append((f"{run['name']}, per cent", header, rows))
        header = ["class (documents)", *(block_text(condition["block"]) for condition in run["conditions"])]
        rows = [
            [f"{part['class']} ({part['documents']})"]
            + [percent(condition["classes"][place]["difference"]) for condition in run["conditions"]]
            for place, part in enumerate(run["conditions"][0]["classes"])
        ]
        tables.append((f"{run['name']}, difference of F1 in points", header, rows))
    return {"title": PARTS[0], "sentences": sentences, "tables": tables}


def phrase_section(phrases: dict | None, model: str) -> dict:
    """Sentences and table of the phrase test."""
    section = {"title": PARTS[1], "sentences": [], "tables": []}
    if phrases is None:
        return section
    sources = {"given": "as given", "attributions": "strong runs of words in the attributions",
               "typical n-grams": "n-grams typical of a class in these documents"}  # fmt: skip
    section["sentences"].append(
        f"{len(phrases['phrases'])} phrases ({sources[phrases['source']]}) were taken out of the texts as a whole and "
        f"word by word. Synergy is what the logit of the class that {model} predicts gains from the whole phrase "
        "beyond the sum of what each of its words brings alone: 0 means that the words act by themselves."
    )
    for kind, text in (("spans", "other neighbouring words of the same documents"),
                       ("moved", "the same words moved apart in the same documents")):  # fmt: skip
        total = phrases[f"against_{kind}"]
        if not total:
            section["sentences"].append(f"No comparison with {text} was possible: the documents are too short.")
            continue
        mean = total["mean_over_phrases"]
        section["sentences"].append(
            f"Compared with {text}, {total['more']} of {total['tested']} phrases have more synergy and "
            f"{total['less']} less (permutation test, p < {ALPHA} after Holm); over all phrases the mean difference "
            f"is {number(mean['mean'])} (95 % interval {span(mean, number)})."
        )
    section["sentences"].append(
        "Strong words saturate a logit, so a strong phrase can differ from other words without any context. Only the "
        "second comparison keeps the words and changes nothing but where they stand: it is the one that speaks for or "
        "against context."
    )
    if phrases["not_found"]:
        section["sentences"].append(f"Never in the documents: {', '.join(phrases['not_found'])}.")
    header = ["phrase", "documents", "whole", "sum of words alone", "sum of single drops", "synergy",
              "of other words", "p (Holm)", "moved apart", "p (Holm)"]  # fmt: skip
    rows = []
    for row in phrases["phrases"]:
        line = [row["phrase"], row["documents"], *(number(row[key]) for key in
                ("whole", "sum_of_words_alone", "sum_of_single_drops")), number(row["synergy"]["mean"])]  # fmt: skip
        for kind in ("spans", "moved"):
            test = row[f"against_{kind}"]
            line += [number(row[f"{kind}_synergy"]), f"{test['p_holm']:.3f}"] if test else ["-", "-"]
        rows.append(line)
    section["tables"].append(("Logits, means over the documents", header, rows))
    return section


def attribution_section(models: list[dict]) -> dict:
    """Sentences and table of the variance of attributions."""
    section, rows = {"title": PARTS[2], "sentences": [], "tables": []}, []
    for model in models:
        everything, share = model["all"], model["function_share"]
        if everything:
            section["sentences"].append(
                f"{model['name']}: {percent(everything['icc'])} % (95 % interval {span(everything)}) of the variance "
                "of a word's attribution to a class comes from the word itself, the rest from the document it "
                f"stands in ({everything['groups']:,} pairs of word and class, each in {model['min_occurrences']} "
                "documents or more)."
            )
        if share:
            section["sentences"].append(
                f"Function words are {percent(model['function_share_of_words']['mean'])} % of the words and carry "
                f"{percent(share['mean'])} % (95 % interval {span(share)}) of the absolute attribution of "
                f"{model['name']}."
            )
        for kind, text in KINDS.items():
            if part := model[kind]:
                rows.append([model["name"], text, f"{part['groups']:,}", f"{part['observations']:,}",
                             number(part["icc"]), span(part, number)])  # fmt: skip
    if rows:
        section["sentences"].append(
            "The interval takes words as a sample and documents as independent repetitions; attributions have heavy "
            "tails and words of one document share its length, so read it as a guide."
        )
        header = ["model", "words", "pairs", "observations", "intraclass correlation", "95 % interval"]
        section["tables"].append(("Share of the variance that lies between words", header, rows))
    return section


def agreement_section(rows: list[dict]) -> dict:
    """Sentences and table of the comparison with the SVM's coefficients."""
    section, lines = {"title": PARTS[3], "sentences": [], "tables": []}, []
    for row in rows:
        known = "distinguishable" if row["p_holm"] < ALPHA else "not distinguishable"
        section["sentences"].append(
            f"{row['class']}: {row['model']} and the SVM rank {row['words']:,} words with a correlation of "
            f"{number(row['rho'])} (Spearman, 95 % interval {span(row, number)}, p after Holm {p_text(row['p_holm'])})"
            f": {known} from no agreement."
        )
        for part in row["differ_most"][:SHOWN_WORDS]:
            lines.append([row["model"], row["class"], part["word"], number(part["attribution"]),
                          number(part["coefficient"]), f"{part['rank_difference']:+.2f}"])  # fmt: skip
    if lines:
        header = ["model", "class", "word", "mean attribution", "SVM coefficient", "difference of rank (share)"]
        section["tables"].append(("Words on which they differ most", header, lines))
    return section


def styles(result: dict) -> dict[str, dict[str, str]]:
    """Colour and marker for every model, the same in all panels; without colours the markers tell them apart."""
    names = [part["name"] for part in (*result["order"], *result["attribution"])]
    return {
        name: {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        for place, name in enumerate(dict.fromkeys(names))
    }


def plain_text(text: str) -> str:
    """Text for matplotlib: a $ from the data is no formula."""
    return text.replace("$", r"\$")


def draw_order(axes: plt.Axes, result: dict) -> None:
    """Accuracy lost by block size, a line a run."""
    runs = result["order"]
    for place, run in enumerate(runs):
        tests = [condition["accuracy"] for condition in run["conditions"]]
        x = np.arange(len(tests)) + 0.08 * (place - (len(runs) - 1) / 2)
        y = np.array([[100 * test[key] for test in tests] for key in ("difference", "low", "high")])
        style = styles(result)[run["name"]]
        axes.vlines(x, y[1], y[2], color=style["color"], linewidth=1.2)
        axes.plot(x, y[0], **style, markersize=4, linewidth=1, label=plain_text(run["name"]))
    labels = [str(condition["block"]) for condition in runs[0]["conditions"]]
    axes.set_xticks(range(len(labels)), labels)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set(xlabel="words that stay together", ylabel="change of accuracy, points")
    axes.legend(fontsize=8, framealpha=0.8, edgecolor="none", loc="lower right")  # large blocks change least


def draw_phrases(axes: plt.Axes, result: dict) -> None:
    """Synergy of the phrases that differ most from their words moved apart, beside their controls."""
    rows = sorted(
        result["phrases"]["phrases"],
        key=lambda row: -abs(row["against_moved"]["mean"] if row["against_moved"] else row["synergy"]["mean"]),
    )[:SHOWN_PHRASES]
    for y, row in enumerate(rows):
        if row["synergy"]["low"] is not None:
            axes.hlines(y, row["synergy"]["low"], row["synergy"]["high"], color=COLOURS[0], linewidth=1.2)
    for key, colour, marker, label in (
        ("synergy", COLOURS[0], "o", "phrase (95 % interval)"),
        ("spans_synergy", COLOURS[4], "x", "other neighbours"),
        ("moved_synergy", COLOURS[1], "D", "same words apart"),
    ):
        values = [row[key]["mean"] if key == "synergy" else row[key] for row in rows]
        places = [y for y, value in enumerate(values) if value is not None]
        axes.plot([values[y] for y in places], places, marker, color=colour, markersize=4.5, label=label)
    axes.set_yticks(range(len(rows)), [plain_text(row["phrase"]) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_xlabel("synergy, logit")
    axes.legend(fontsize=8, framealpha=0.8, edgecolor="none")


def draw_attribution(axes: plt.Axes, result: dict) -> None:
    """Intraclass correlation of every model by kind of word."""
    models = result["attribution"]
    for place, model in enumerate(models):
        style = styles(result)[model["name"]]
        for x, kind in enumerate(KINDS):
            if part := model[kind]:
                at = x + 0.12 * (place - (len(models) - 1) / 2)
                axes.vlines(at, part["low"], part["high"], color=style["color"])
                axes.plot(at, part["icc"], **style)
        axes.plot([], [], **style, linestyle="", label=plain_text(model["name"]))
    axes.set_xticks(range(len(KINDS)), KINDS.values())
    axes.set(ylim=(-0.03, 1.03), xlim=(-0.5, len(KINDS) - 0.5), ylabel="variance that comes from the word")
    axes.legend(fontsize=8, frameon=False)


def draw_agreement(axes: plt.Axes, result: dict) -> None:
    """Rank correlation with the SVM's coefficients by class."""
    models = list(dict.fromkeys(row["model"] for row in result["agreement"]))
    for place, name in enumerate(models):
        rows = [row for row in result["agreement"] if row["model"] == name]
        x = [result["classes"].index(row["class"]) + 0.12 * (place - (len(models) - 1) / 2) for row in rows]
        style = styles(result)[name]
        axes.vlines(x, [row["low"] for row in rows], [row["high"] for row in rows], color=style["color"])
        axes.plot(x, [row["rho"] for row in rows], **style, linestyle="", label=plain_text(name))
    axes.set_xticks(range(len(result["classes"])), map(plain_text, result["classes"]), fontsize=8)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.set(xlim=(-0.5, len(result["classes"]) - 0.5), ylim=(-1.03, 1.03))
    axes.set(ylabel="rank correlation with the SVM")
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def draw(result: dict) -> bytes:
    """The four panels as PNG; a part that was left out is an empty panel that says so."""
    figure, panels = plt.subplots(2, 2, figsize=(11, 8.5))
    keys, drawers = ("order", "phrases", "attribution", "agreement"), (draw_order, draw_phrases, draw_attribution,
                                                                      draw_agreement)  # fmt: skip
    for letter, axes, title, key, drawer in zip("abcd", panels.flat, PARTS, keys, drawers, strict=True):
        axes.set_title(f"({letter}) {title}", loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        if result[key]:
            drawer(axes, result)
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "left out", ha="center", va="center", color="#666666")
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Does {{ result.model }} use context?</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.85rem; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.3rem; }
td, th { padding: 0.2rem 0.6rem; border-bottom: 1px solid #888; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
.wide { overflow-x: auto; }
</style></head><body>
<h1>Does {{ result.model }} use context?</h1>
<p>{{ "{:,}".format(result.documents) }} documents of {{ result.arguments.dataset_name }}, split
{{ result.arguments.split }}; {{ result.arguments.n_shuffles }} shuffles of each; seed {{ result.arguments.seed }}.</p>
<img alt="The four tests in four panels" src="data:image/png;base64,{{ picture }}">
{% for section in sections %}
<section><h2>{{ section.title }}</h2>
{% for sentence in section.sentences %}<p>{{ sentence }}</p>
{% endfor %}
{% for caption, header, rows in section.tables %}<div class="wide"><table><caption>{{ caption }}</caption>
<tr>{% for text in header %}<th scope="col">{{ text }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for text in row %}<td>{{ text }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% endfor %}</section>
{% endfor %}
{% if result.left_out %}<section><h2>Left out</h2><ul>
{% for text in result.left_out %}<li>{{ text }}</li>
{% endfor %}</ul></section>{% endif %}
<p>Versions: {% for name, value in result.versions.items() %}{{ name }} {{ value }}{{ ", " if not loop.last }}{% endfor
%}.</p>
</body></html>
"""


def escape_markdown(text: object) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", html.escape(str(text), quote=False))


def markdown(result: dict, sections: list[dict]) -> str:
    """The summary: sentences first, tables after them."""
    parts = [f"# Does {escape_markdown(result['model'])} use context?"]
    for section in sections:
        parts.append(f"## {section['title']}")
        parts += [f"- {escape_markdown(sentence)}" for sentence in section["sentences"]]
        for caption, header, rows in section["tables"]:
            lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
            table = ["| " + " | ".join(map(str, line)) + " |" if n == 1 else
                     "| " + " | ".join(map(escape_markdown, line)) + " |" for n, line in enumerate(lines)]  # fmt: skip
            parts.append(f"\n{escape_markdown(caption)}:\n\n" + "\n".join(table))
    if result["left_out"]:
        parts.append("## Left out")
        parts += [f"- {escape_markdown(text)}" for text in result["left_out"]]
    text = "\n".join(f"\n{part}\n" if part.startswith("#") else part for part in parts)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main() -> None:
    # 1. Arguments and what context_statistics.py found
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(RenderArguments)
    folder = Path(arguments.context_dir)
    try:
        result = json.loads((folder / "context.json").read_text(encoding="utf-8"))
        sections = [
            order_section(result["order"], result["documents"]),
            phrase_section(result["phrases"], result["model"]),
            attribution_section(result["attribution"]),
            agreement_section(result["agreement"]),
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{folder} has no whole context.json; run run_context.py ({one_line(error)})")
    sections = [section for section in sections if section["sentences"]]

    # 2. Picture, page, summary
    picture = draw(result)
    page = jinja2.Environment(autoescape=True).from_string(PAGE)
    encoded = base64.b64encode(picture).decode("ascii")
    outputs = {
        "context.png": picture,
        "context.html": page.render(result=result, sections=sections, picture=encoded).encode(),
        "context.md": markdown(result, sections).encode(),
    }
    try:
        for name, content in outputs.items():
            temporary = folder / f"{name}.tmp"
            temporary.write_bytes(content)
            os.replace(temporary, folder / name)
    except OSError as error:
        fail(f"cannot write into {folder}: {error.strerror}; free some space and run the command again")
    logger.info("written into %s: %s", folder, ", ".join(outputs))
    for section in sections:
        for sentence in section["sentences"]:
            logger.info(sentence)


if __name__ == "__main__":
    main()
