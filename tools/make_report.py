#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "jinja2==3.1.6",
#     "markdown-it-py==4.3.0",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "PyYAML==6.0.3",
#     "scipy==1.17.1",
#     "transformers==5.23.0",
# ]
# ///
"""Make one page of a whole study: data, training, comparison, attributions, context, arguments and versions.

    python tools/make_report.py --output_dir paper/report --dataset_name paper/data --runs paper/svm paper/layers-0 \\
        --comparison_dir paper/comparison --attribution_dirs paper/attribution --context_dir paper/context

Reads the folders that the other scripts wrote, no model and no text of a document, and writes index.html: one
self-contained page without scripts, with links to the pages in those folders. Every part is optional. A part that is
not given or not complete is left out, and the page says so; a page of attributions that is older than its data is not
linked. The same files give the same page, byte for byte.
"""

import csv
import html
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from common.cli import fail, one_line, parse_arguments, start_logging
from common.folders import (
    attributions_digest,
    hide_paths,
    read_json,
    run_name,
    short_path,
    write_files,
)
from common.pages import data_url, faithfulness_table, percent, render

# What the project's scripts write. Anything else, such as a tag, a link or an image, is shown as text.
MARKDOWN = MarkdownIt("zero").enable(
    ["heading", "list", "table", "fence", "backticks", "emphasis", "entity", "escape"]
)
EMBEDDED_RUNS = 12  # pictures of further runs are linked, so that the page stays small


@dataclass
class ReportArguments:
    """Arguments of the report."""

    output_dir: str = field(metadata={"help": "Folder for index.html."})
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Dataset folder of fetch_arxiv.py or tools/prepare_dataset.py."},
    )
    runs: list[str] = field(
        default_factory=list,
        metadata={"help": "Run folders of run_baseline.py and run_classification.py."},
    )
    comparison_dir: str | None = field(
        default=None, metadata={"help": "Folder of tools/compare_runs.py."}
    )
    attribution_dirs: list[str] = field(
        default_factory=list, metadata={"help": "Folders of run_attribution.py."}
    )
    context_dir: str | None = field(
        default=None, metadata={"help": "Folder of tools/measure_context.py."}
    )
    title: str = field(
        default="Do language models use context when classes share their vocabulary?",
        metadata={"help": "Title of the page."},
    )
    note: str | None = field(default=None, metadata={"help": "Note at the top of the page."})


@contextmanager
def reading(path: Path, script: str) -> Iterator[None]:
    """Exit with status 2 if the file in work is damaged or not one that the script writes."""
    try:
        yield
    except OSError as error:
        fail(f"cannot read {error.filename or path}: {error.strerror}; run {script} again")
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        csv.Error,
    ) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else one_line(error)
        fail(f"{path} is damaged or not a file of {script} ({reason}); run {script} again")


def picture(path: Path, alt: str) -> dict | None:
    """Return a PNG file for the page; None if it does not exist. Exit with status 2 if it is damaged."""
    if not path.is_file():
        return None
    with reading(path, "the script that drew it"):
        content = path.read_bytes()
        if not (content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")):
            raise ValueError("not a complete PNG file")
    return {"source": data_url(content), "alt": alt}


def duration(seconds: float | None) -> str:
    """Return seconds as text; empty for None."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def markdown(text: str, fold: bool = False) -> str:
    """Return Markdown of this project's scripts as HTML, without its title and its YAML front matter.

    A table's caption is the paragraph before it that ends with a colon, otherwise the heading above it, for screen
    readers only. fold puts every table into a closed <details>. Raises ValueError if a table is cut off.
    """
    text = hide_paths(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL))
    if re.search(r"^\|.*[^|\s]\s*$", text, re.MULTILINE):
        raise ValueError("a table is cut off")
    tokens, above = [], ""

    def add_html(content: str) -> None:
        tokens.append(Token("html_block", "", 0, content=content))

    for token in MARKDOWN.parse(text):
        if str(token.attrs.pop("style", "")).endswith("right"):
            token.attrs["class"] = "n"
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
        if token.type == "inline" and token.level == 1:
            above = "".join(part.content for part in token.children)
        if token.type == "th_open":
            token.attrs["scope"] = "col"
        if token.type == "table_open":
            caption, unseen = html.escape(above.removesuffix(":")), ' class="unseen"'
            if above.endswith(":") and tokens[-1].type == "paragraph_close":
                del tokens[-3:]  # the paragraph that becomes the caption
                unseen = unseen if fold else ""
            add_html(f"<details><summary>{caption}</summary>" if fold else "")
            add_html(f'<div class="wide" tabindex="0" role="region" aria-label="{caption}">')
        tokens.append(token)
        if token.type == "table_open":
            add_html(f"<caption{unseen}>{caption}</caption>")
        if token.type == "table_close":
            add_html("</div></details>" if fold else "</div>")
        if token.type == "heading_close" and token.tag == "h2" and len(tokens) == 3:
            tokens.clear()  # the title
    return MARKDOWN.renderer.render(tokens, MARKDOWN.options, {})


def recorded(title: str, arguments: dict, **others: object) -> dict:
    """Return the recorded arguments of a command as a table; of an absolute path only the last part is shown."""
    rows = []
    for key, value in ({f"--{key}": value for key, value in arguments.items()} | others).items():
        if value not in (None, "None", "", []):
            values = map(str, value if isinstance(value, list) else [value])
            rows.append(
                [
                    key,
                    " ".join(short_path(text) if text.startswith("/") else text for text in values),
                ]
            )
    return {"title": title, "rows": rows}


def data_part(folder: Path, made: dict) -> dict:
    """Return counts, origin, what was dropped, checksums and the card of a dataset folder."""
    path = folder / "manifest.json"
    manifest = read_json(path)
    with reading(path, "the script of the dataset"):
        counts, arguments = manifest["counts"], manifest["arguments"]
        labels = list(next(iter(counts.values()), ()))
        total = sum(sum(split.values()) for split in counts.values())
        rows = []
        for name in [*labels, "all"]:
            cells = [
                sum(split.values()) if name == "all" else split[name] for split in counts.values()
            ]
            rows.append(
                [name, *(f"{n:,}" for n in (*cells, sum(cells))), f"{sum(cells) / total:.1%}"]
            )
        tables = [("Documents by class and split", ["class", *counts, "all", "share"], rows)]
        dropped = [
            [reason, f"{number:,}"] for reason, number in manifest.get("dropped", {}).items()
        ]
        tables.append(("Dropped records by reason", ["reason", "records"], dropped))
        tables.append(
            (
                "SHA-256 of the files",
                ["file", "SHA-256"],
                list(map(list, manifest["sha256"].items())),
            )
        )
        keys = ("source", "snapshot_file", "hub_dataset", "dataset_name", "train_file", "test_file")
        source = [arguments.get(key) for key in keys]
        facts = [("documents", f"{total:,} in {len(labels)} classes")]
        facts.append(
            (
                "source",
                ", ".join(short_path(text) if "/" in text else text for text in source if text),
            )
        )
        if "start_date" in arguments:
            facts.append(
                (
                    "first version of the papers",
                    f"{arguments['start_date']} to {arguments['end_date']}",
                )
            )
        if "date" in manifest:
            facts.append(("dataset made", manifest["date"]))
        made["versions"]["data"] = dict(manifest["versions"])
        made["commands"].append(recorded(manifest.get("script", "fetch_arxiv.py"), arguments))
    card, limits = folder / "README.md", ""
    with reading(card, "the script of the dataset"):
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        if found := re.search(
            r"^## (?:.*limitations|Know before use)\n([^\0]*?)(?=^## |\Z)", text, re.MULTILINE
        ):
            limits = markdown(found[1])
            text = text.replace(found[0], "")
        return {"facts": facts, "tables": tables, "card": markdown(text), "limits": limits}


def confusion_text(path: Path) -> str:
    """Return the confusion matrix in words, for readers who cannot see it."""
    if not path.is_file():
        return "Confusion matrix of the test split"
    with reading(path, "the training script"), path.open(encoding="utf-8", newline="") as file:
        pairs = Counter((row["label"], row["prediction"]) for row in csv.DictReader(file))
        if not pairs:
            raise ValueError("it has no rows")
    totals, right = Counter(), Counter()
    for (label, prediction), number in pairs.items():
        totals[label] += number
        right[label] += number * (label == prediction)
    classes = "; ".join(
        f"{label} {right[label]:,} of {totals[label]:,}" for label in sorted(totals)
    )
    return f"Confusion matrix of the test split. Right: {classes}"


def run_part(folder: Path, name: str, embedded: bool, made: dict, link) -> dict:
    """Return setting, results and pictures of a run."""
    path = folder / "run_arguments.json"
    record, results = read_json(path), read_json(folder / "all_results.json")
    with reading(path, "the training script"):
        arguments, source = record["arguments"], str(record["model_name_or_path"])
        model = source if record["script"] == "run_baseline.py" else short_path(source)
        made["versions"][name] = dict(record["versions"])
        others = {
            key: record.get(key)
            for key in ("total_train_batch_size", "dataset_commit", "model_commit")
        }
        made["commands"].append(recorded(f"{record['script']}: {name}", arguments, **others))
        rate = f"{record['learning_rate']:g}" if "learning_rate" in record else ""
        epochs = (
            f"{results['epoch']:g} of {arguments['num_train_epochs']:g}"
            if "epoch" in results
            else ""
        )
        device = f"{record['processes']} x {record['device']}" if "device" in record else ""
        setting = [name, model, rate, record["seed"], record.get("total_train_batch_size"), epochs]
        setting += [record.get("precision"), device]
    with reading(folder / "all_results.json", record["script"]):
        if not results.keys() & {"train_loss", "eval_accuracy", "predict_accuracy"}:
            raise ValueError("it has no results")
        setting.append(duration(results.get("train_runtime")))
        metrics = [
            results.get(f"{split}_{key}")
            for split in ("eval", "predict")
            for key in ("accuracy", "f1")
        ]
        loss = f"{results['eval_loss']:.4f}" if "eval_loss" in results else ""
        best = ""
        if "train_settings" in results:
            best = f"Best of {results['train_settings']} settings on the validation split: C {results['C']:g}, "
            best += f"n-grams up to {results['ngram_max']}, {'sublinear' if results['sublinear_tf'] else 'plain'} "
            best += "term frequency."
        result = [name, loss, *map(percent, metrics)]
    shown, linked = [], []
    for file, alt in (
        ("training_curve.png", f"Training and validation loss of {name} by epoch"),
        ("confusion_matrix.png", f"{name}: {confusion_text(folder / 'predictions.csv')}"),
        ("top_words.png", f"The words with the largest weights for each class in {name}"),
    ):
        if not embedded and (folder / file).is_file():
            linked.append((link(folder / file), file))
        elif found := picture(folder / file, alt):
            shown.append(found | {"wide": file == "top_words.png"})
    part = {"name": name, "model": model, "best": best, "setting": setting, "result": result}
    return part | {"pictures": shown, "links": linked}


def learning_rates(path: Path) -> tuple[str, list, list]:
    """Return caption, header and rows of the learning rates that run_paper.sh tried for a model."""
    header = [
        "learning rate",
        "validation loss",
        "validation accuracy, %",
        "validation macro F1, %",
        "epochs",
    ]
    rows = []
    with reading(path, "run_paper.sh"), path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            metrics = [percent(float(row[key])) for key in ("eval_accuracy", "eval_f1")]
            cells = [
                row["learning_rate"],
                f"{float(row['eval_loss']):.4f}",
                *metrics,
                f"{float(row['epoch']):g}",
            ]
            rows.append([*cells, duration(float(row["train_runtime"]))])
    caption = (
        f"Learning rates of {path.parent.resolve().name}; the lowest validation loss was chosen"
    )
    return caption, [*header, "training time"], rows


def comparison_part(folder: Path, made: dict, link) -> dict:
    """Return table 2 and its tests, as tools/compare_runs.py describes them, with its pictures."""
    path = folder / "comparison.json"
    result = read_json(path)
    with reading(path, "tools/compare_runs.py"):
        made["versions"]["comparison"] = dict(result["versions"])
        made["commands"].append(recorded("compare_runs.py", result["arguments"]))
        values = [
            f"{m['name']} {percent(m['accuracy'])} and {percent(m['macro_f1'])}"
            for m in result["models"]
        ]
        errors = [f"{name} {percent(part['ece'])}" for name, part in result["calibration"].items()]
    with reading(folder / "comparison.md", "tools/compare_runs.py"):
        text = markdown((folder / "comparison.md").read_text(encoding="utf-8"))
    table = picture(
        folder / "table2.png", f"Accuracy and macro F1 with 95 % intervals: {'; '.join(values)}"
    )
    alt = f"Reliability diagram; expected calibration error in points: {'; '.join(errors)}"
    names = ("table2.csv", "table2.tex", "pairs.csv", "hard_documents.csv")
    links = [(link(folder / name), name) for name in names if (folder / name).is_file()]
    return {
        "text": text,
        "table": table,
        "calibration": picture(folder / "calibration.png", alt),
        "links": links,
    }


def attribution_part(folder: Path, made: dict, link) -> dict:
    """Return the figure of an attribution folder, its cost, its error and its faithfulness."""
    path = folder / "summary.json"
    summary = read_json(path)
    with reading(path, "run_attribution.py"):
        arguments, (low, high) = summary["arguments"], summary["steps"]
        name = run_name(arguments["model_name_or_path"])
        errors = [summary[key] for key in ("median_relative_error", "max_relative_error")]
        median, largest = ("undefined" if error is None else f"{error:.1e}" for error in errors)
        steps = (
            "the integral"
            if high == 0
            else f"{low} steps"
            if low == high
            else f"best of {low} to {high} steps"
        )
        target = arguments["target"] + (
            f" rather than {arguments['versus']}" if arguments.get("versus") else ""
        )
        facts = {
            "documents": f"{summary['documents']:,}",
            "truncated documents": f"{summary['truncated']:,}",
            "gradient evaluations": f"{summary['gradient_evaluations']:,}",
            "forward evaluations": f"{summary['forward_evaluations']:,}",
            "time": duration(summary["seconds"]),
            "median relative completeness error": median,
            "largest relative completeness error": largest,
            "documents that did not converge": f"{summary['not_converged']:,}",
            "rule": f"{arguments['method']}, {steps}",
            "baseline; target": f"{arguments['baseline']}; {target}",
            "device": summary["device"],
        }
        made["versions"][f"attributions in {folder.resolve().name}"] = dict(summary["versions"])
        others = {key: summary.get(key) for key in ("dataset_commit", "model_commit")}
        made["commands"].append(
            recorded(f"run_attribution.py: {folder.resolve().name}", arguments, **others)
        )
    part = {"name": name, "folder": folder.resolve().name, "facts": facts, "link": None}
    part["faithfulness"] = faithfulness_table(folder, summary)
    alt = f"Documents explained for {name}, each token colored by its attribution"
    part["picture"] = picture(folder / "attributions.png", alt)
    page = folder / "attributions.html"
    if page.is_file():
        if attributions_digest(folder) in page.read_text(encoding="utf-8", errors="replace")[:2000]:
            part["link"] = link(page)
        else:
            made["left_out"].append(
                f"Attributions: the page of {folder.resolve().name} is older than its data and is not linked; run "
                "tools/render_attributions.py again."
            )
    return part


def context_part(folder: Path, made: dict, link) -> dict:
    """Return the tests of context: picture, sentences, tables."""
    path = folder / "context.json"
    result = read_json(path)
    with reading(path, "tools/measure_context.py"):
        arguments = result["arguments"]
        made["versions"]["context"] = dict(result["versions"])
        made["commands"].append(recorded("measure_context.py", arguments))
        intro = f"Model: {result['model']}. {result['documents']:,} documents of split {arguments['split']}, "
        intro += f"{arguments['n_shuffles']} shuffles of each, seed {arguments['seed']}, {result['device']}."
    with reading(folder / "context.md", "tools/measure_context.py"):
        text = markdown((folder / "context.md").read_text(encoding="utf-8"), fold=True)
    alt = "The six tests of context in six panels; the text below describes them"
    page = folder / "context.html"
    part = {"intro": intro, "text": text, "picture": picture(folder / "context.png", alt)}
    return part | {"link": link(page) if page.is_file() else None}


def version_rows(versions: dict[str, dict]) -> list[list[str]]:
    """Return a row for each package; where parts of the study used different versions, the parts are named."""
    rows, packages = [], {package for part in versions.values() for package in part}
    for package in sorted(packages, key=lambda name: (name != "python", name)):
        used = {}
        for name, part in versions.items():
            if package in part:
                used.setdefault(str(part[package]), []).append(name)
        text = (
            next(iter(used))
            if len(used) == 1
            else "; ".join(f"{v} ({', '.join(p)})" for v, p in used.items())
        )
        rows.append([package, text])
    return rows


def present(
    what: str, flag: str, folders: list[str], files: tuple[str, ...], left_out: list[str]
) -> list[Path]:
    """Return the folders that hold these files; a sentence in left_out for every other one, and if there is none."""
    found = []
    for folder in dict.fromkeys(folders):
        missing = [name for name in files if not Path(folder, name).is_file()]
        if missing:
            left_out.append(f"{what}: {short_path(folder)} is left out, it has no {missing[0]}.")
        else:
            found.append(Path(folder))
    if not folders:
        left_out.append(f"{what}: no {flag} was given.")
    return found


def main() -> None:
    # 1. Arguments; the parts that exist
    logger = start_logging()
    (arguments,) = parse_arguments(__doc__, ReportArguments)
    output = Path(arguments.output_dir)
    made = {"versions": {}, "commands": [], "left_out": []}
    folders = {}
    for key, flag, files in (
        ("data", "dataset_name", ("manifest.json",)),
        ("training", "runs", ("run_arguments.json", "all_results.json")),
        ("comparison", "comparison_dir", ("comparison.json", "comparison.md")),
        ("attributions", "attribution_dirs", ("summary.json", "attributions.jsonl")),
        ("context", "context_dir", ("context.json", "context.md")),
    ):
        given = getattr(arguments, flag)
        given = given if isinstance(given, list) else [given] if given else []
        folders[key] = present(key.capitalize(), f"--{flag}", given, files, made["left_out"])
    if not any(folders.values()):
        fail("no part of a study exists; give --dataset_name, --runs, --comparison_dir, --attribution_dirs or "
             "--context_dir with folders that the other scripts wrote")  # fmt: skip

    def link(path: Path) -> str:
        return quote(Path(os.path.relpath(path.resolve(), output.resolve())).as_posix())

    # 2. The parts, in the order in which they were made
    data = [data_part(folder, made) for folder in folders["data"]]
    names = Counter(run_name(folder) for folder in folders["training"])
    runs = []
    for folder in folders["training"]:
        name, path = run_name(folder), folder.absolute()
        name = f"{path.parent.name}/{path.name}" if names[name] > 1 else name
        runs.append(run_part(folder, name, len(runs) < EMBEDDED_RUNS, made, link))
    tried = dict.fromkeys(
        folder.resolve().parent / "learning_rates.csv" for folder in folders["training"]
    )
    comparison = [comparison_part(folder, made, link) for folder in folders["comparison"]]
    attributions = [attribution_part(folder, made, link) for folder in folders["attributions"]]
    of_model = Counter(part["name"] for part in attributions)
    for part in attributions:
        part["name"] += f" ({part['folder']})" if of_model[part["name"]] > 1 else ""
    context = [context_part(folder, made, link) for folder in folders["context"]]

    # 3. The page
    cost = zip(*(part["facts"].items() for part in attributions), strict=True)
    page = render(
        "report.html",
        title=arguments.title,
        note=arguments.note,
        left_out=made["left_out"],
        data=data[0] if data else None,
        runs=runs,
        learning_rates=[learning_rates(path) for path in tried if path.is_file()],
        comparison=comparison[0] if comparison else None,
        attributions=attributions,
        cost=[[pairs[0][0], *(value for _, value in pairs)] for pairs in cost],
        context=context[0] if context else None,
        commands=made["commands"],
        versions=version_rows(made["versions"]),
    )
    path = output / "index.html"
    try:
        output.mkdir(parents=True, exist_ok=True)
        if path.exists() and "Content-Security-Policy" not in path.read_text(
            encoding="utf-8", errors="replace"
        ):
            fail(f"{path} is not a page of this tool; choose another --output_dir")
    except OSError as error:
        fail(f"cannot write into --output_dir {output}: {error.strerror}; choose another folder")
    write_files(output, {"index.html": page.encode("utf-8", "replace")})
    for line in made["left_out"]:
        logger.warning(line)
    logger.info("wrote %s (%.1f MB); open it in a browser", path, len(page) / 1e6)


if __name__ == "__main__":
    main()
