#!/usr/bin/env python
"""Put a whole study on one page: data, training, comparison, attributions, context, versions and commands.

    python render_report.py --output_dir paper/report --dataset_name paper/data --runs paper/svm paper/layers-0 \\
        --comparison_dir paper/comparison --attribution_dirs paper/attribution --context_dir paper/context

Reads what the other scripts left in those folders, no model and no document, and writes index.html: one self-contained
page, without scripts, that links to the pages beside it. Every part is optional; one that is not given or not there is
left out, and the page says so. The same files give the same page, byte for byte.
"""

import argparse
import base64
import csv
import difflib
import json
import logging
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import jinja2
import yaml
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from markupsafe import Markup
from transformers import HfArgumentParser

logger = logging.getLogger(__name__)

COMMAND_WIDTH = 105
# Only what the project's scripts write. Everything else, such as a tag, a link or an image, is shown as text.
MARKDOWN = MarkdownIt("zero").enable(["heading", "list", "table", "backticks", "emphasis", "entity", "escape"])
EMBEDDED_RUNS = 12  # with pictures in the page; those of further runs are linked, so that the page stays light
NUMBER = re.compile(r"(?:[-+−±<>=.,%\d\s()\[\]†*]|to|e[-+]?\d)+")
# A path from the root of the file system inside a text, but no part of an address or of a relative path.
ABSOLUTE = re.compile(r"(?<![\w.:/~])(?:/[^\s/:,;'\"()<>]+){2,}")


@dataclass
class ReportArguments:
    """What goes into the report."""

    output_dir: str = field(metadata={"help": "Folder for index.html."})
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset folder of fetch_arxiv.py."})
    runs: list[str] = field(
        default_factory=list, metadata={"help": "Run folders of run_baseline.py and run_classification.py."}
    )
    comparison_dir: str | None = field(default=None, metadata={"help": "Folder of compare_runs.py."})
    attribution_dirs: list[str] = field(default_factory=list, metadata={"help": "Folders of run_attribution.py."})
    context_dir: str | None = field(default=None, metadata={"help": "Folder of run_context.py."})
    title: str = field(
        default="Do language models use context when classes share their vocabulary?",
        metadata={"help": "Title of the page."},
    )
    note: str | None = field(default=None, metadata={"help": "A remark that stands at the top of the page."})


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


@contextmanager
def written_by(script: str, path: Path) -> Iterator[None]:
    """A file that is half written, or another program's, is the user's mistake: one line that names it."""
    try:
        yield
    except OSError as error:
        fail(f"cannot read {error.filename or path}: {error.strerror}")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
        fail(f"{path} is half written or not what {script} writes ({reason}); run {script} again")


def read_json(path: Path) -> dict:
    """The object in a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    return content


def picture(path: Path, alt: str) -> dict | None:
    """A PNG file for the page, None if there is none."""
    if not path.is_file():
        return None
    with written_by("the script that draws it", path):
        content = path.read_bytes()
        if not (content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")):
            raise ValueError("no whole PNG file")
    return {"source": Markup("data:image/png;base64," + base64.b64encode(content).decode("ascii")), "alt": alt}


def short_path(path: str) -> str:
    """The last part of a path that says what it is: a model's folder may be called model."""
    parts = [part for part in path.split("/") if part]
    while len(parts) > 1 and re.fullmatch(r"model|checkpoint-\d+", parts[-1]):
        parts.pop()
    return parts[-1] if parts else path


def run_name(folder: Path) -> str:
    """A run by its folder; run_paper.sh puts a run of each learning rate into the model's folder."""
    parts = folder.absolute().parts
    return "/".join(parts[-2:] if parts[-1].startswith("lr-") else parts[-1:])


def public(value: object) -> object:
    """Text without the folders of this machine: of a path from the root only the last part is shown."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return ABSOLUTE.sub(lambda match: short_path(match[0]), value)


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def duration(seconds: float | None) -> str:
    """Seconds in words."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def interval(part: dict | None) -> str:
    """A mean with its interval; nothing where it is not defined."""
    return f"{part['mean']:.3f} ({part['low']:.3f} to {part['high']:.3f})" if part else ""


def table(caption: str, header: list, rows: list[list], hidden: bool = False) -> dict:
    """A table for the page; columns of numbers are aligned to the right. hidden: the caption is for screen readers."""
    texts = [["" if cell is None else cell for cell in row] for row in rows]
    plain = [[Markup(cell).striptags() if isinstance(cell, Markup) else str(cell) for cell in row] for row in texts]
    numeric = [n > 0 and all(NUMBER.fullmatch(row[n]) for row in plain if row[n]) for n in range(len(header))]
    return {"kind": "table", "caption": caption, "header": header, "rows": texts, "numeric": numeric, "hidden": hidden}


def inner(node: SyntaxTreeNode) -> Markup:
    """The text inside a heading, paragraph, list item or cell of Markdown, as HTML."""
    tokens = [part.token for part in node.walk() if part.type == "inline"]
    return Markup(MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}))


def blocks(text: str) -> list[dict]:
    """The Markdown that this project's scripts write, as headings, lists, tables and paragraphs.

    A table's caption is the paragraph before it that ends with a colon, otherwise the heading that it stands under.
    """
    text = public(text)
    found, heading, lines = [], "", text.splitlines()
    for node in SyntaxTreeNode(MARKDOWN.parse(text)).children:
        if node.type == "heading":
            heading = inner(node)
            found.append({"kind": "heading", "text": heading})
        elif node.type in ("bullet_list", "ordered_list"):
            found.append({"kind": "list", "items": [inner(item) for item in node.children]})
        elif node.type == "table":
            rows = [row for part in node.children for row in part.children]
            if not all(lines[row.map[0]].rstrip().endswith("|") for row in rows):
                raise ValueError(f"a table under {heading!r} is cut off")
            before = found[-1] if found else {"kind": ""}
            own = before["kind"] == "paragraph" and before["text"].endswith(":")
            caption = found.pop()["text"][:-1] if own else heading
            header, *cells = ([inner(cell) for cell in row.children] for row in rows)
            found.append(table(caption, header, cells, hidden=not own))
        elif node.type == "paragraph":
            found.append({"kind": "paragraph", "text": inner(node)})
            if found[-1]["text"].startswith("|"):
                raise ValueError(f"a table under {heading!r} is cut off")
    return found


def section_of(text: str, title: str) -> str:
    """What stands in a Markdown text under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def command(script: str, arguments: dict, *flags: str, comment: str = "") -> str:
    """The command line that a script's recorded arguments stand for, over several lines."""
    options = [["python", script], *([flag] for flag in flags)]
    for key, value in arguments.items():
        if value in (None, "None", "", []) or key in ("disable_tqdm", "total_train_batch_size"):
            continue
        values = value if isinstance(value, list) else [str(value).lower() if isinstance(value, bool) else value]
        options.append([f"--{key}", *(short_path(str(v)) if str(v).startswith("/") else str(v) for v in values)])
    lines = [""]
    for option in map(shlex.join, options):
        if len(lines[-1]) + len(option) >= COMMAND_WIDTH:
            lines.append("   ")
        lines[-1] += f" {option}"
    return comment + " \\\n".join(lines)[1:]


def data_part(folder: Path, made: dict) -> dict:
    """Counts, origin, what was dropped, checksums and caveats of a dataset folder."""
    path = folder / "manifest.json"
    with written_by("fetch_arxiv.py", path):
        manifest = read_json(path)
        counts, arguments = manifest["counts"], manifest["arguments"]
        labels = list(next(iter(counts.values())))
        total = sum(sum(split.values()) for split in counts.values())
        rows = []
        for name in [*labels, "all"]:
            cells = [sum(split.values()) if name == "all" else split[name] for split in counts.values()]
            rows.append([name, *(f"{n:,}" for n in (*cells, sum(cells))), f"{sum(cells) / total:.1%}"])
        tables = [table("Documents by label and split", ["label", *counts, "all", "share"], rows)]
        rows = [[reason, f"{number:,}"] for reason, number in manifest["dropped"].items()]
        tables.append(table("Records dropped, and why", ["reason", "records"], rows or [["none", "0"]]))
        tables.append(table("SHA-256 of the files", ["file", "SHA-256"], list(map(list, manifest["sha256"].items()))))
        source = arguments["source"]
        if arguments.get("snapshot_file"):
            source += f", {Path(arguments['snapshot_file']).name}"
        facts = [
            ("documents", f"{total:,} in {len(labels)} classes"),
            ("source", source),
            ("first version of the papers", f"{arguments['start_date']} to {arguments['end_date']}"),
            ("dataset made", manifest["date"]),
        ]
        made["versions"]["data"] = manifest["versions"]
        made["commands"].append(command("fetch_arxiv.py", arguments))
    card, text = folder / "README.md", ""
    with written_by("fetch_arxiv.py", card):
        if card.is_file():
            text = re.sub(r"\A---\n.*?\n---\n", "", card.read_text(encoding="utf-8"), flags=re.DOTALL)
        intro = [block for block in blocks(text.split("\n## ")[0]) if block["kind"] == "paragraph"]
        rules = [block for block in blocks(section_of(text, "Records")) if block["kind"] == "paragraph"]
        made["limits"] += blocks(section_of(text, "Know before use"))
    return {"facts": facts, "tables": tables, "intro": intro, "rules": rules}


def confusion_text(path: Path) -> str:
    """How many documents of each class were told right, for those who cannot see the confusion matrix."""
    if not path.is_file():
        return "Confusion matrix of the test split"
    with written_by("run_classification.py", path), path.open(encoding="utf-8", newline="") as file:
        pairs = Counter((row["label"], row["prediction"]) for row in csv.DictReader(file))
        totals, right = Counter(), Counter()
        for (label, prediction), number in pairs.items():
            totals[label] += number
            right[label] += number * (label == prediction)
        return "Confusion matrix of the test split. Right: " + "; ".join(
            f"{label} {right[label]:,} of {totals[label]:,}" for label in sorted(totals)
        )


def run_part(folder: Path, embedded: bool, made: dict, link: Callable) -> dict:
    """A run: what trained it, how well it did, its pictures."""
    path = folder / "run_arguments.json"
    with written_by("the training script", path):
        record = read_json(path)
        script, arguments, source = record["script"], record["arguments"], str(record["model_name_or_path"])
        svm, name, batch = script == "run_baseline.py", run_name(folder), record.get("total_train_batch_size")
        model = source if svm else short_path(source).removesuffix(".json")
        made["versions"][name] = record["versions"]
    path = folder / "all_results.json"
    with written_by(script, path):
        results = read_json(path)
        done = {"--do_train": "train_loss", "--do_eval": "eval_loss", "--do_predict": "predict_loss"}
        flags = [flag for flag, key in done.items() if key in results]  # run_baseline.py has neither flags nor losses
        comment = f"# {batch} documents an update\n" if batch else ""
        options = {key: value for key, value in arguments.items() if key != "output_dir"}
        made["commands"].append(command(script, options, *flags, "--output_dir", name, comment=comment))
        if svm:
            frequency = "sublinear" if results["sublinear_tf"] else "plain"
            detail = f"n-grams up to {results['ngram_max']}, {frequency} term frequency, C = {results['C']:g}: best "
            detail += f"of {results['train_settings']} settings on the validation split."
        else:
            detail = f"At most {arguments['max_seq_length']} word pieces, {arguments['lr_scheduler_type']} schedule, "
            detail += f"weight decay {arguments['weight_decay']:g}, patience {arguments['early_stopping_patience']}"
            if arguments.get("text_prefix"):
                detail += f", text prefix {arguments['text_prefix']!r}"
            if arguments.get("config_name"):
                given, tokenizer = arguments.get("init_embeddings_from"), arguments.get("tokenizer_name")
                detail += f"; trained from scratch{f' on the word embeddings of {short_path(given)}' if given else ''}"
                detail += f", tokenizer of {short_path(tokenizer)}" if tokenizer else ""
            detail += "."
        rate = f"{record['learning_rate']:g}" if "learning_rate" in record else ""
        epochs = f"{results['epoch']:g} of {arguments['num_train_epochs']:g}" if "epoch" in results else ""
        device = f"{record['processes']} x {record['device']}" if "device" in record else ""
        setting = [name, model, rate, record["seed"], batch, epochs, record.get("precision"), device]
        setting.append(duration(results.get("train_runtime")))
        metrics = [results.get(f"{split}_{key}") for split in ("eval", "predict") for key in ("accuracy", "f1")]
        loss = f"{results['eval_loss']:.4f}" if "eval_loss" in results else ""
        result = [name, loss, *map(percent, metrics)]
    shown, linked = [], []
    for file, alt in (
        ("training_curve.png", f"Training and validation loss of {name} over the epochs"),
        ("confusion_matrix.png", f"{name}: {confusion_text(folder / 'predictions.csv')}"),
        ("top_words.png", f"The strongest words of each class in {name}"),
    ):
        if not embedded and (folder / file).is_file():
            linked.append((link(folder / file), file))
        elif found := picture(folder / file, alt):
            shown.append(found | {"wide": file == "top_words.png"})
    run = {"name": name, "model": model, "detail": detail, "setting": setting, "result": result}
    return run | {"pictures": shown, "links": linked}


def learning_rates(path: Path) -> dict:
    """The learning rates that were tried for a model, as run_paper.sh wrote them."""
    forms = {
        "learning_rate": ("learning rate", str),
        "eval_loss": ("validation loss", lambda text: f"{float(text):.4f}"),
        "eval_accuracy": ("validation accuracy, %", lambda text: percent(float(text))),
        "eval_f1": ("validation macro F1, %", lambda text: percent(float(text))),
        "epoch": ("epochs", lambda text: f"{float(text):g}"),
        "train_runtime": ("training time", lambda text: duration(float(text))),
    }
    with written_by("run_paper.sh", path), path.open(encoding="utf-8", newline="") as file:
        rows = [[form(row[name]) for name, (_, form) in forms.items()] for row in csv.DictReader(file)]
    caption = f"Learning rates of {path.parent.resolve().name}; the lowest validation loss was chosen"
    return table(caption, [name for name, _ in forms.values()], rows)


def comparison_part(folder: Path, made: dict, link: Callable) -> dict:
    """Table 2 and its tests: the summary of compare_runs.py, with its pictures."""
    path = folder / "comparison.json"
    with written_by("compare_runs.py", path):
        result = read_json(path)
        made["versions"]["comparison"] = result["versions"]
        made["commands"].append(command("compare_runs.py", result["arguments"]))
        values = [f"{m['name']} {percent(m['accuracy'])} and {percent(m['macro_f1'])}" for m in result["models"]]
        errors = [f"{name} {percent(part['ece'])}" for name, part in result["calibration"].items()]
    path = folder / "comparison.md"
    with written_by("compare_runs.py", path):
        text = blocks(path.read_text(encoding="utf-8"))[1:]  # without the title
        text[0] |= {"caption": "Table 2", "hidden": False}
    pictures = [
        picture(folder / "table2.png", f"Accuracy and macro F1 with 95 % intervals: {'; '.join(values)}"),
        picture(folder / "calibration.png", f"Reliability diagram; calibration error in points: {'; '.join(errors)}"),
    ]
    names = ("table2.csv", "table2.tex", "pairs.csv", "hard_documents.csv")
    links = [(link(folder / name), name) for name in names if (folder / name).is_file()]
    return {"blocks": text, "pictures": pictures, "links": links}


def attribution_part(folder: Path, made: dict, link: Callable) -> dict:
    """An attribution folder: the figure, what it cost and how exact it is, and whether it is true to the model."""
    path = folder / "summary.json"
    with written_by("run_attribution.py", path):
        summary = read_json(path)
        arguments, (low, high) = summary["arguments"], summary["steps"]
        name = run_name(Path(arguments["model_name_or_path"]))
        median, largest = (
            "undefined" if summary[key] is None else f"{summary[key]:.1e}"
            for key in ("median_relative_error", "max_relative_error")
        )
        steps = "the integral" if high == 0 else f"{low} steps" if low == high else f"best of {low} to {high} steps"
        facts = {
            "documents": f"{summary['documents']:,}",
            "of these cut at the limit": f"{summary['truncated']:,}",
            "gradient evaluations": f"{summary['gradient_evaluations']:,}",
            "forward evaluations": f"{summary['forward_evaluations']:,}",
            "time": duration(summary["seconds"]),
            "median relative completeness error": median,
            "largest relative completeness error": largest,
            "not converged": f"{summary['not_converged']:,}",
            "rule": f"{arguments['method']}, {steps}",
            "baseline; target": f"{arguments['baseline']}; {arguments['target']}",
            "device": summary["device"],
        }
        made["versions"][folder.resolve().name] = summary["versions"]
        made["commands"].append(command("run_attribution.py", arguments))
    path, faithfulness, note = folder / "faithfulness.json", None, ""
    with written_by("run_faithfulness.py", path):
        measured = read_json(path) if path.is_file() else None
        # Another run's measures say nothing about these attributions.
        if measured and measured["run"] == summary.get("run"):
            rankings = measured["rankings"]
            measures = list(next(iter(rankings.values())))
            rows = [[ranking, *(interval(values[m]) for m in measures)] for ranking, values in rankings.items()]
            header = ["words ranked by", *(measure.replace("_", " ") for measure in measures)]
            caption = f"Faithfulness for {name}: mean and 95 % interval"
            faithfulness, note = table(caption, header, rows), measured["note"]
    alt = f"Documents explained for {name}, each piece of text coloured by its attribution"
    page = folder / "attributions.html"
    return {
        "name": name,
        "facts": facts,
        "faithfulness": faithfulness,
        "note": note,
        "picture": picture(folder / "attributions.png", alt),
        "link": link(page) if page.is_file() else None,
    }


def context_part(folder: Path, made: dict, link: Callable) -> dict:
    """The tests of context: picture, sentences, tables."""
    path = folder / "context.json"
    with written_by("run_context.py", path):
        result = read_json(path)
        arguments = result["arguments"]
        made["versions"]["context"] = result["versions"]
        made["commands"].append(command("run_context.py", arguments))
        intro = f"Model in question: {result['model']}. {result['documents']:,} documents of split "
        intro += f"{arguments['split']}, shuffles of each: {arguments['n_shuffles']}, seed {arguments['seed']}, "
        intro += f"{result['device']}."
    path = folder / "context.md"
    with written_by("run_context.py", path):
        text = blocks(path.read_text(encoding="utf-8"))[1:]  # without the title
    alt = "Four panels: order of words, phrases, attribution in context, agreement with the SVM; in words below"
    page = folder / "context.html"
    return {
        "intro": intro,
        "blocks": text,
        "picture": picture(folder / "context.png", alt),
        "link": link(page) if page.is_file() else None,
    }


def version_table(versions: dict[str, dict]) -> dict:
    """Every package with its version; where parts of the study differ, the parts are named."""
    rows, packages = [], {package: None for part in versions.values() for package in part}
    for package in sorted(packages, key=lambda name: (name != "python", name)):
        used = {}
        for name, part in versions.items():
            if package in part:
                used.setdefault(str(part[package]), []).append(name)
        text = next(iter(used)) if len(used) == 1 else "; ".join(f"{v} ({', '.join(p)})" for v, p in used.items())
        rows.append([package, text])
    return table("Versions", ["package", "version"], rows, hidden=True)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --faint: #5f5f5f; --line: #d8d8d8; --card: #f6f6f4;
  --link: #1a5fa8; --mark: #b35806; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181b; --faint: #a2a2a2; --line: #3a3d42;
  --card: #1f2226; --link: #8ab8ee; --mark: #f0a15a; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 68rem;
  margin: 1.5rem auto 4rem; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.3rem; margin-top: 3rem; padding-top: .8rem;
  border-top: 1px solid var(--line); } h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p, li, dl { max-width: 46rem; } a { color: var(--link); }
nav, .note, details { background: var(--card); padding: .6rem 1rem; margin: 1rem 0; }
.note { border-left: 4px solid var(--mark); max-width: 46rem; }
nav ul { columns: 14rem; padding-left: 1.1rem; margin: .3rem 0; }
.faint { color: var(--faint); font-size: .9em; }
.wide { overflow-x: auto; margin: 1rem 0; }
.wide:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .86rem; min-width: min(100%, 18rem); }
caption { text-align: left; font-weight: 600; padding-bottom: .35rem; }
th, td { padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { vertical-align: bottom; color: var(--faint); font-weight: 600; } tbody th { font-weight: 400; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.hash { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; } dt { color: var(--faint); }
dd { margin: 0; }
img { max-width: 100%; height: auto; background: #fff; margin: .4rem 0; }
.half { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.half img { max-width: min(100%, 32rem); max-height: 24rem; }
summary { cursor: pointer; font-weight: 600; }
pre { background: var(--card); padding: .6rem 1rem; font-size: .82rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } body { font-size: 15px; } }
@media print { :root { color-scheme: light; --ink: #000; --paper: #fff; --card: #fff; --faint: #444; --line: #bbb;
  --link: #000; } body { font-size: 10pt; max-width: none; margin: 0; } .wide { overflow: visible; }
  details::details-content { content-visibility: visible; block-size: auto; } nav { display: none; }
  img, tr, pre { break-inside: avoid; } h2, h3, caption { break-after: avoid; } table { font-size: 7.5pt; }
  th, td { padding-right: .4rem; } .n { white-space: normal; } }
</style>
</head>
<body>
{%- macro show_table(t) %}
<div class="wide" tabindex="0" role="region" aria-label="{{ t.caption|striptags }}"><table>
<caption{% if t.hidden %} class="unseen"{% endif %}>{{ t.caption }}</caption>
<thead><tr>{% for text in t.header %}
<th scope="col"{% if t.numeric[loop.index0] %} class="n"{% endif %}>{{ text }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in t.rows %}<tr><th scope="row">{{ row[0] }}</th>{% for text in row[1:] %}
<td{% if t.numeric[loop.index] %} class="n"{% elif t.header[loop.index] == "SHA-256" %} class="hash"{% endif %}>
{{- text }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{%- endmacro %}
{%- macro show(parts, fold=false) %}{% for part in parts %}
{% if part.kind == "heading" %}<h3>{{ part.text }}</h3>
{%- elif part.kind == "list" %}<ul>{% for item in part["items"] %}<li>{{ item }}</li>
{% endfor %}</ul>
{%- elif part.kind == "paragraph" %}<p>{{ part.text }}</p>
{%- elif fold %}<details><summary>{{ part.caption }}</summary>{{ show_table(part) }}</details>
{%- else %}{{ show_table(part) }}{% endif %}{% endfor %}
{%- endmacro %}
{%- macro show_picture(p) %}{% if p %}<img alt="{{ p.alt }}" src="{{ p.source }}">{% endif %}{% endmacro %}
{%- macro show_links(pairs) %}{% for address, text in pairs %}<a href="{{ address }}">{{ text }}</a>
{{- ", " if not loop.last }}{% endfor %}{% endmacro %}
<header>
<h1>{{ title }}</h1>
{% if note %}<p class="note" role="note">{{ note }}</p>{% endif %}
<nav aria-label="Contents"><strong>Contents</strong><ul>
{% for name, text in contents %}<li><a href="#{{ name }}">{{ text }}</a></li>
{% endfor %}</ul></nav>
{% if left_out %}<section aria-labelledby="left-out"><h2 id="left-out">Not on this page</h2><ul>
{% for text in left_out %}<li>{{ text }}</li>
{% endfor %}</ul></section>{% endif %}
</header>
<main>
{% if data %}<section aria-labelledby="data"><h2 id="data">Data</h2>
{{ show(data.intro) }}
<dl>{% for name, value in data.facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{{ show(data.tables[:2]) }}{{ show(data.rules) }}{{ show(data.tables[2:]) }}
</section>{% endif %}
{% if runs %}<section aria-labelledby="training"><h2 id="training">Training</h2>
{{ show(run_tables) }}{{ show(learning_rates) }}
{% for run in runs %}<details class="run"{% if runs|length < 4 %} open{% endif %}><summary>{{ run.name }}
{%- if run.model != run.name %}: {{ run.model }}{% endif %}</summary>
<p>{{ run.detail }}</p>
<div class="half">{% for p in run.pictures if not p.wide %}{{ show_picture(p) }}{% endfor %}</div>
{% for p in run.pictures if p.wide %}{{ show_picture(p) }}{% endfor %}
{% if run.links %}<p>Pictures beside this page: {{ show_links(run.links) }}</p>{% endif %}</details>
{% endfor %}</section>{% endif %}
{% if comparison %}<section aria-labelledby="comparison"><h2 id="comparison">Comparison</h2>
{{ show(comparison.blocks[:1]) }}
{{ show_picture(comparison.pictures[0]) }}
{{ show(comparison.blocks[1:]) }}
<div class="half">{{ show_picture(comparison.pictures[1]) }}</div>
{% if comparison.links %}<p>As files: {{ show_links(comparison.links) }}</p>{% endif %}</section>{% endif %}
{% if attributions %}<section aria-labelledby="attributions"><h2 id="attributions">Attributions</h2>
{% for part in attributions %}<h3>{{ part.name }}</h3>
{{ show_picture(part.picture) }}
<p class="faint">Green: for the class explained; red: against it; darker: larger in its document.
{%- if part.link %} <a href="{{ part.link }}">All documents, word by word: {{ part.link }}</a>{% endif %}</p>
{% if part.faithfulness %}{{ show_table(part.faithfulness) }}<p class="faint">{{ part.note }}</p>
{%- else %}<p>Faithfulness was not measured.</p>{% endif %}
{% endfor %}{{ show_table(attribution_table) }}</section>{% endif %}
{% if context %}<section aria-labelledby="context"><h2 id="context">Context</h2>
<p>{{ context.intro }}</p>
{{ show_picture(context.picture) }}
{% if context.link %}<p>As a page of its own: <a href="{{ context.link }}">{{ context.link }}</a></p>{% endif %}
{{ show(context.blocks, fold=true) }}</section>{% endif %}
{% if limits %}<section aria-labelledby="limits"><h2 id="limits">Know before use</h2>
{{ show(limits) }}</section>{% endif %}
<section aria-labelledby="made"><h2 id="made">How it was made</h2>
<h3>Commands</h3>
<p class="faint">As the folders record them, every argument spelled out. Of a path from the root only the last part is
shown.</p>
{% for text in commands %}<pre>{{ text }}</pre>
{% endfor %}<h3>Versions</h3>{{ show_table(versions) }}</section>
</main>
</body>
</html>
"""


def main() -> None:
    # 1. Arguments; which parts are there
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(ReportArguments)
    output = Path(arguments.output_dir)
    left_out = []

    def present(what: str, flag: str, folders: list[str], *files: str) -> list[Path]:
        """The folders that hold these files; of the others, and if there is none at all, the page says so."""
        found = []
        for folder in dict.fromkeys(folders):
            missing = [name for name in files if not Path(folder, name).is_file()]
            if not missing:
                found.append(Path(folder))
                continue
            left_out.append(f"{what}: {short_path(folder)} is left out, it has no {missing[0]}.")
        if not folders:
            left_out.append(f"{what}: no {flag} was given.")
        return found

    def one(folder: str | None) -> list[str]:
        return [folder] if folder else []

    folders = {
        "data": present("Data", "--dataset_name", one(arguments.dataset_name), "manifest.json"),
        "training": present("Training", "--runs", arguments.runs, "run_arguments.json", "all_results.json"),
        "comparison": present("Comparison", "--comparison_dir", one(arguments.comparison_dir), "comparison.json",
                              "comparison.md"),
        "attributions": present("Attributions", "--attribution_dirs", arguments.attribution_dirs, "summary.json"),
        "context": present("Context", "--context_dir", one(arguments.context_dir), "context.json", "context.md"),
    }  # fmt: skip
    if not any(folders.values()):
        fail("no part of a study is there; give --dataset_name, --runs, --comparison_dir, --attribution_dirs or "
             "--context_dir with folders that the other scripts wrote")  # fmt: skip

    def link(path: Path) -> str:
        return Path(os.path.relpath(path.resolve(), output.resolve())).as_posix()

    # 2. Parts, in the order in which they were made
    made = {"versions": {}, "commands": [], "limits": []}
    data = [data_part(folder, made) for folder in folders["data"]]
    runs = [run_part(folder, n < EMBEDDED_RUNS, made, link) for n, folder in enumerate(folders["training"])]
    tried = dict.fromkeys(folder.resolve().parent / "learning_rates.csv" for folder in folders["training"])
    comparison = [comparison_part(folder, made, link) for folder in folders["comparison"]]
    attributions = [attribution_part(folder, made, link) for folder in folders["attributions"]]
    context = [context_part(folder, made, link) for folder in folders["context"]]

    # 3. Page
    setting = ["run", "model", "learning rate", "seed", "documents an update", "epochs", "precision", "device"]
    result = ["run", "validation loss", "validation accuracy, %", "validation macro F1, %", "test accuracy, %"]
    run_tables = [
        table("Settings", [*setting, "training time"], [run["setting"] for run in runs]),
        table("Results", [*result, "test macro F1, %"], [run["result"] for run in runs]),
    ]
    names = {"data": "Data", "training": "Training", "comparison": "Comparison", "attributions": "Attributions",
             "context": "Context", "limits": "Know before use"}  # fmt: skip
    contents = [(key, text) for key, text in names.items() if folders.get(key, made["limits"])]
    cost = zip(*(part["facts"].items() for part in attributions), strict=True)
    cost = [[pairs[0][0], *(value for _, value in pairs)] for pairs in cost]
    page = jinja2.Environment(autoescape=True, finalize=public).from_string(PAGE)
    text = page.render(
        title=arguments.title,
        note=arguments.note,
        contents=[*([("left-out", "Not on this page")] if left_out else []), *contents, ("made", "How it was made")],
        left_out=left_out,
        data=data[0] if data else None,
        runs=runs,
        run_tables=run_tables,
        learning_rates=[learning_rates(path) for path in tried if path.is_file()],
        comparison=comparison[0] if comparison else None,
        attributions=attributions,
        attribution_table=table("Cost and error", ["", *(part["name"] for part in attributions)], cost),
        context=context[0] if context else None,
        limits=made["limits"],
        commands=made["commands"],
        versions=version_table(made["versions"]),
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        temporary = output / "index.html.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, output / "index.html")
    except OSError as error:
        fail(f"cannot write into --output_dir {output}: {error.strerror}; name another folder or free some space")
    for line in left_out:
        logger.info(line)
    logger.info("wrote %s (%.1f MB)", output / "index.html", len(text) / 1e6)


if __name__ == "__main__":
    main()
