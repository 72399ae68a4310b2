#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "jinja2==3.1.6",
#     "markdown-it-py==4.3.0",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "scipy==1.17.1",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Make one page of a whole study: the answer first, then comparison, context, training, data.

    python tools/make_report.py --output_dir paper/report --dataset_name paper/data \\
        --runs paper/svm paper/layers-0 --comparison_dir paper/comparison \\
        --attribution_dirs paper/attribution --context_dir paper/context

Reads the folders that the other scripts wrote, no model and no text of a document, and writes
index.html, one self-contained page without scripts and with links to the pages in those folders,
and report.json, its record. It begins with what the comparison answers, its picture and table 2;
arguments, versions, checksums and the dataset card come last. Every part is optional. A part that
is not given or not complete, or a run whose results contradict its predictions, is left out, and
the page says so; a page of attributions that is older than its data is not linked. The same files
give the same page, byte for byte.
"""

import csv
import hashlib
import html
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from markdown_it import MarkdownIt
from markdown_it.token import Token

from common.cards import as_list
from common.cli import fail, one_line, parse_arguments, start_logging
from common.folders import (
    attributions_digest,
    find_changed_file,
    hide_paths,
    lock_output_dir,
    open_output_dir,
    read_json,
    run_name,
    short_path,
    write_files,
)
from common.metrics import MULTI_LABEL
from common.pages import data_url, faithfulness_table, percent, render
from comparison.runs import (
    class_contradiction,
    contradiction,
    digest_of_predictions,
    has_other_data,
    problem_type_of,
    read_predictions,
    test_fingerprint,
)

SCRIPT = "make_report.py"
# What the project's scripts write. Anything else, such as a tag, a link or an image, is shown as
# text.
MARKDOWN = MarkdownIt("zero").enable(
    ["heading", "list", "table", "fence", "backticks", "emphasis", "entity", "escape"]
)
# More scores of a run, with the names that the table shows
SCORES = {
    "f1_micro": "micro F1",
    "f1_weighted": "weighted F1",
    "average_precision": "average precision",
    "mcc": "Matthews correlation",
    "quadratic_kappa": "quadratic kappa",
    "log_loss": "log loss",
    "brier_score": "Brier score",
}
# Pictures with many panels take the width of the page.
WIDE_PICTURES = ("top_words.png", "class_curves.png")
# A run has one of these, unless it only predicted texts without labels.
RESULT_KEYS = {"train_loss", "eval_accuracy", "predict_accuracy"}
EMBEDDED_RUNS = 12  # pictures of further runs are linked, so that the page stays small
# Lines of comparison.md that open and close what is folded, and pictures in the same folder
FOLD_OPENS = re.compile(r"<details><summary>(.*)</summary>")
FOLD_CLOSES = "</details>"
PICTURE = re.compile(r"!\[(.*)\]\(([\w-]+\.png)\)")
# The parts of a study: heading, flag, and the files without which a folder is left out.
PARTS = {
    "data": ("Data", "dataset_name", ("manifest.json",)),
    "training": ("Training", "runs", ("run_arguments.json", "all_results.json")),
    "comparison": ("Comparison", "comparison_dir", ("comparison.json", "comparison.md")),
    "learning_curve": (
        "Learning curve",
        "learning_curve_dir",
        ("learning_curve.json", "learning_curve.md"),
    ),
    "attributions": ("Attributions", "attribution_dirs", ("summary.json", "attributions.jsonl")),
    "context": ("Context", "context_dir", ("context.json", "context.md")),
}


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
    learning_curve_dir: str | None = field(
        default=None, metadata={"help": "Folder of tools/plot_learning_curve.py."}
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


@dataclass
class Page:
    """What the parts add to the page beside their own section.

    versions holds the versions of packages of each part, commands the arguments of each command,
    left_out a sentence for everything that is not on the page, warnings one for everything that
    its reader should know.
    """

    output: Path
    versions: dict[str, dict] = field(default_factory=dict)
    commands: list[dict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def link(self, path: Path) -> str:
        """Return the address of a file in another folder, relative to the page."""
        relative = os.path.relpath(path.resolve(), self.output.resolve())
        return quote(os.fsencode(Path(relative).as_posix()))


# Reading


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
    """Return a PNG file for the page; None if it does not exist.

    Exits with status 2 if it is damaged.
    """
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


def markdown(text: str, fold: bool = False, folder: Path | None = None) -> str:
    """Return Markdown of this project's scripts as HTML, without its title and YAML front matter.

    A table's caption is the paragraph before it that ends with a colon, otherwise the heading above
    it, for screen readers only. fold puts every table into a closed <details>. What the text folds
    itself stays folded. Pictures of folder become part of the page. Raises ValueError if a table or
    a fold is cut off.
    """
    text = hide_paths(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL))
    if re.search(r"^\|.*[^|\s]\s*$", text, re.MULTILINE):
        raise ValueError("a table is cut off")

    shown: list[str] = []
    lines: list[str] = []  # of Markdown since the last fold or picture
    above = ""  # the text of the last paragraph, heading or summary
    depth = 0

    def render_lines() -> None:
        nonlocal above
        content, above = markdown_block("\n".join(lines), above, fold, is_first=not shown)
        shown.append(content)
        lines.clear()

    for line in text.splitlines():
        opens, image = FOLD_OPENS.fullmatch(line), PICTURE.fullmatch(line)
        if opens:
            render_lines()
            above, depth = opens[1], depth + 1
            shown.append(f"<details><summary>{html.escape(above)}</summary>\n")
        elif line == FOLD_CLOSES:
            render_lines()
            shown.append("</details>\n")
            depth -= 1
            if depth < 0:
                raise ValueError("a fold is closed that was not opened")
        elif image and folder is not None:
            render_lines()
            shown.append(figure(folder / image[2], plain_text(image[1])))
        else:
            lines.append(line)
    render_lines()
    if depth:
        raise ValueError("a fold is cut off")
    return "".join(shown)


def plain_text(text: str) -> str:
    """Return escaped Markdown of one line as the text that it shows."""
    (line,) = MARKDOWN.parseInline(text) or [Token("inline", "", 0, children=[])]
    return "".join(part.content for part in line.children)


def figure(path: Path, alt: str) -> str:
    """Return a picture as HTML; empty if it does not exist."""
    shown = picture(path, alt)
    if shown is None:
        return ""
    return f'<figure class="plot"><img alt="{html.escape(alt)}" src="{shown["source"]}"></figure>\n'


def markdown_block(text: str, above: str, fold: bool, is_first: bool) -> tuple[str, str]:
    """Return Markdown without folds and pictures as HTML, and the last text above its end.

    above is the text above it, is_first whether it begins with the title, which is left out.
    """
    tokens: list[Token] = []
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
            is_caption = above.endswith(":") and bool(tokens)
            is_caption = is_caption and tokens[-1].type == "paragraph_close"
            if is_caption:
                del tokens[-3:]  # the paragraph that becomes the caption
            caption = html.escape(above.removesuffix(":"))
            # A summary or the heading shows the same words already.
            unseen = ' class="unseen"' if fold or not is_caption else ""
            tokens.append(html_token(f"<details><summary>{caption}</summary>" if fold else ""))
            tokens.append(
                html_token(f'<div class="wide" tabindex="0" role="region" aria-label="{caption}">')
            )
            tokens.append(token)
            tokens.append(html_token(f"<caption{unseen}>{caption}</caption>"))
        else:
            tokens.append(token)
        if token.type == "table_close":
            tokens.append(html_token("</div></details>" if fold else "</div>"))
        is_title = token.type == "heading_close" and token.tag == "h2" and len(tokens) == 3
        if is_title and is_first:
            tokens.clear()
    return MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}), above


def html_token(content: str) -> Token:
    """Return a piece of HTML among the tokens of a Markdown text."""
    return Token("html_block", "", 0, content=content)


def recorded(title: str, arguments: dict, **others: object) -> dict:
    """Return the recorded arguments of a command as a table.

    Of an absolute path only the last part is shown; what was not set is left out.
    """
    values = {f"--{key}": value for key, value in arguments.items()}
    values |= others
    rows = []
    for key, value in values.items():
        if value in (None, "None", "", []):
            continue
        texts = [last_part(str(part)) for part in (value if isinstance(value, list) else [value])]
        rows.append([key, " ".join(texts)])
    return {"title": title, "rows": rows}


def last_part(text: str) -> str:
    """Return the last part of an absolute path; any other text as it is."""
    return short_path(text) if text.startswith("/") else text


# Parts of the page


def data_part(folder: Path, page: Page) -> dict:
    """Return counts, origin, what was dropped, checksums and the card of a dataset folder.

    Checksums and card are at the end of the page.
    """
    path = folder / "manifest.json"
    manifest = read_json(path)
    with reading(path, "the script of the dataset"):
        counts, arguments = manifest["counts"], manifest["arguments"]
        labels = list(next(iter(counts.values()), ()))
        documents = documents_by_split(manifest)
        if documents is not None and not sum(documents.values()):
            raise ValueError("it counts no document")
        checksums = [list(pair) for pair in manifest["sha256"].items()]
        page.warnings += changed_data_warnings(folder, manifest["sha256"])
        tables = [
            (
                "Documents by class and split",
                ["class", *counts, "all", "share"],
                count_rows(counts, labels, documents),
            ),
            ("Dropped records by reason", ["reason", "records"], dropped_rows(manifest)),
        ]
        facts = [
            ("documents", documents_text(manifest, documents)),
            ("source", source_text(arguments)),
        ]
        if "start_date" in arguments:
            dates = f"{arguments['start_date']} to {arguments['end_date']}"
            facts.append(("first version of the papers", dates))
        if "date" in manifest:
            facts.append(("dataset made", manifest["date"]))
        page.versions["data"] = dict(manifest["versions"])
        page.commands.append(recorded(manifest.get("script", "fetch_arxiv.py"), arguments))

    card, limits, path = "", "", folder / "README.md"
    with reading(path, "the script of the dataset"):
        if path.is_file():
            card = path.read_text(encoding="utf-8")
        # The limitations are a section of their own at the end of the page.
        section = re.search(
            r"^## (?:.*limitations|Know before use)\n([^\0]*?)(?=^## |\Z)", card, re.MULTILINE
        )
        if section is not None:
            limits = markdown(section[1])
            card = card.replace(section[0], "")
        card = markdown(card)
    return {
        "facts": facts,
        "tables": tables,
        "checksums": checksums,
        "card": card,
        "limits": limits,
    }


def changed_data_warnings(folder: Path, checksums: dict[str, str]) -> list[str]:
    """Return a sentence on each file of a dataset folder that is not the one of its manifest.

    fetch_arxiv.py records the paths in the folder, tools/prepare_dataset.py the names in data/.
    """
    sentences = []
    for recorded, checksum in checksums.items():
        name = recorded if (folder / recorded).is_file() else f"data/{recorded}"
        file = folder / name
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() != checksum:
            sentences.append(
                f"Data: {name} is not the file of manifest.json, so the numbers of documents can "
                "be wrong; make the dataset again."
            )
    return sentences


def documents_by_split(manifest: dict) -> dict[str, int] | None:
    """Return the number of documents of each split of a dataset.

    None if it has several labels per document and is of an earlier version, which counted labels.
    """
    if "documents" in manifest:
        return manifest["documents"]
    if manifest.get("problem_type") == MULTI_LABEL:
        return None
    unlabeled = manifest.get("unlabeled", {})
    documents = {}
    for split, counts in manifest["counts"].items():
        documents[split] = sum(counts.values()) + unlabeled.get(split, 0)
    return documents


def documents_text(manifest: dict, documents: dict[str, int] | None) -> str:
    """Return how many documents, classes and labels a dataset has."""
    counts = manifest["counts"]
    classes = len(next(iter(counts.values()), ()))
    labels = f"{sum(sum(split.values()) for split in counts.values()):,} labels"
    if documents is None:
        return f"not recorded; {labels} of {classes} classes"
    text = f"{sum(documents.values()):,} in {classes} classes"
    if manifest.get("problem_type") == MULTI_LABEL:
        text += f", with {labels}"
    unlabeled = sum(manifest.get("unlabeled", {}).values())
    if unlabeled:
        text += f" ({unlabeled:,} documents without labels)"
    return text


def dropped_rows(manifest: dict) -> list[list[str]]:
    """Return the rows of the table of dropped records: fetch_arxiv.py's, prepare_dataset.py's."""
    dropped = list(manifest.get("dropped", {}).items())
    for split, reasons in manifest.get("dropped_rows", {}).items():
        for reason, number in reasons.items():
            dropped.append((f"{split}: {reason}", number))
    for split, number in manifest.get("leaked_removed", {}).items():
        dropped.append((f"{split}: a later split has the text, too", number))
    return [[reason, f"{number:,}"] for reason, number in dropped]


def count_rows(
    counts: dict[str, dict], labels: list[str], documents: dict[str, int] | None
) -> list[list[str]]:
    """Return the rows of the table of documents: a class in each, with its number in each split.

    Several labels per document, or none, make the classes' sum another one than that of documents.
    """
    rows = []
    by_class = {label: [split[label] for split in counts.values()] for label in labels}
    if documents is not None:
        by_class["all"] = [documents[split] for split in counts]
    total = None if documents is None else sum(documents.values())
    for name, numbers in by_class.items():
        texts = [f"{number:,}" for number in (*numbers, sum(numbers))]
        share = f"{sum(numbers) / total:.1%}" if total else ""
        rows.append([name, *texts, share])
    return rows


def source_text(arguments: dict) -> str:
    """Return where the documents of a dataset come from, as its arguments say."""
    sources = []
    for key in (
        "source",
        "snapshot_file",
        "hub_dataset",
        "dataset_name",
        "train_file",
        "validation_file",
        "test_file",
    ):
        text = arguments.get(key)
        if text:
            sources.append(short_path(text) if "/" in text else text)
    return ", ".join(sources)


def run_part(folder: Path, name: str, embedded: bool, page: Page) -> dict | None:
    """Return setting, results and pictures of a run.

    None, and a sentence in page.left_out, if its results contradict its predictions or it has none.
    Pictures that are not embedded are linked.
    """
    path = folder / "run_arguments.json"
    record, results = read_json(path), read_json(folder / "all_results.json")

    # 1. Results that the predictions do not show are not printed
    problem_type = problem_type_of(folder, record)
    predictions = digest = None
    if "predict_accuracy" in results and (folder / "predictions.csv").is_file():
        predictions, scores = read_predictions(folder / "predictions.csv", problem_type)
        reason = contradiction(folder, predictions, problem_type)
        reason = reason or class_contradiction(record, scores)
        if reason is not None:
            page.left_out.append(
                f"Training: {name} is left out, it is damaged or mixes two runs: {reason}; "
                "make the run again."
            )
            return None
        digest = digest_of_predictions(predictions)
    if "predict_samples" in results and not results.keys() & RESULT_KEYS:
        page.left_out.append(
            f"Training: {name} is left out, it only predicted texts without labels, so it has no "
            "results."
        )
        return None

    # 2. Setting and results
    with reading(path, "the training script"):
        arguments = record["arguments"]
        model = str(record["model_name_or_path"])
        if record["script"] != "run_baseline.py":
            model = short_path(model)
        setting = [
            name,
            model,
            "" if record.get("learning_rate") is None else f"{record['learning_rate']:g}",
            "" if record["seed"] is None else record["seed"],  # None: not known
            record.get("total_train_batch_size"),
            epochs_text(results, arguments),
            record.get("precision"),
            f"{record['processes']} x {record['device']}" if "device" in record else "",
        ]
        page.versions[name] = dict(record["versions"])
        command = recorded(
            f"{record['script']}: {name}",
            arguments,
            total_train_batch_size=record.get("total_train_batch_size"),
            dataset_commit=record.get("dataset_commit"),
            model_commit=record.get("model_commit"),
        )
        page.commands.append(command)
    with reading(folder / "all_results.json", record["script"]):
        if not results.keys() & RESULT_KEYS:
            raise ValueError("it has no results")
        setting.append(duration(results.get("train_runtime")))
        result = [
            name,
            f"{results['eval_loss']:.4f}" if "eval_loss" in results else "",
            percent(results.get("eval_accuracy")),
            percent(results.get("eval_f1")),
            percent(results.get("predict_accuracy")),
            percent(results.get("predict_f1")),
        ]
        more = {key: results[f"predict_{key}"] for key in SCORES if f"predict_{key}" in results}
        for key, value in more.items():
            more[key] = f"{value:.4f}"
        best = best_setting(results)

    # 3. Pictures
    shown, linked = [], []
    if problem_type == MULTI_LABEL:
        about_classes = ("class_curves.png", f"{name}: {class_curves_text(predictions)}")
    else:
        about_classes = ("confusion_matrix.png", f"{name}: {confusion_text(predictions)}")
    for file, alt in (
        ("training_curve.png", f"Training and validation loss of {name} by epoch"),
        about_classes,
        ("top_words.png", f"The words with the largest weights for each class in {name}"),
    ):
        path = folder / file
        if not path.is_file():
            continue
        if embedded:
            shown.append(picture(path, alt) | {"wide": file in WIDE_PICTURES})
        else:
            linked.append((page.link(path), file))
    return {
        "name": name,
        "model": model,
        "best": best,
        "setting": setting,
        "result": result,
        "scores": more,
        "is_multi_label": problem_type == MULTI_LABEL,
        "pictures": shown,
        "links": linked,
        "test_fingerprint": test_fingerprint(record),
        "folder": folder,
        "predictions_digest": digest,
    }


def epochs_text(results: dict, arguments: dict) -> str:
    """Return how many epochs a run trained, of how many."""
    if "epoch" not in results:
        return ""
    return f"{results['epoch']:g} of {arguments['num_train_epochs']:g}"


def best_setting(results: dict) -> str:
    """Return which setting the SVM's search chose, in words; empty for encoders."""
    if "train_settings" not in results:
        return ""
    frequency = "sublinear" if results["sublinear_tf"] else "plain"
    return (
        f"Best of {results['train_settings']} settings on the validation split: "
        f"C {results['C']:g}, n-grams up to {results['ngram_max']}, {frequency} term frequency."
    )


def confusion_text(predictions: pd.DataFrame | None) -> str:
    """Return the confusion matrix in words, for readers who cannot see it."""
    if predictions is None:
        return "Confusion matrix of the test split"
    totals = Counter(predictions["label"])
    right = Counter(predictions["label"][predictions["label"] == predictions["prediction"]])
    classes = "; ".join(
        f"{label} {right[label]:,} of {totals[label]:,}" for label in sorted(totals)
    )
    return f"Confusion matrix of the test split. Right: {classes}"


def class_curves_text(predictions: pd.DataFrame | None) -> str:
    """Return what a run with several labels per document gets right, for those who see no picture.

    predictions has JSON lists of names.
    """
    if predictions is None:
        return "A picture for each class"
    totals, right = Counter(), Counter()
    for labels, predicted in zip(predictions["label"], predictions["prediction"], strict=True):
        names = set(json.loads(labels))
        totals.update(names)
        right.update(names & set(json.loads(predicted)))
    classes = "; ".join(f"{name} {right[name]:,} of {totals[name]:,}" for name in sorted(totals))
    return f"A picture for each class. Documents of the class that are found: {classes}"


def result_table(runs: list[dict]) -> tuple[list[str], list[list], str]:
    """Return header and rows of the results, and what they are if that is not plain.

    Scores beside accuracy and macro F1 have a column if some run records them.
    """
    header = [
        "run",
        "validation loss",
        "validation accuracy, %",
        "validation macro F1, %",
        "test accuracy, %",
        "test macro F1, %",
    ]
    shown = [key for key in SCORES if any(key in run["scores"] for run in runs)]
    header += [f"test {SCORES[key]}" for key in shown]
    rows = []
    for run in runs:
        rows.append([*run["result"], *(run["scores"].get(key, "") for key in shown)])
    several = [run["name"] for run in runs if run["is_multi_label"]]
    note = ""
    if several:
        note = (
            f"Several labels per document: {', '.join(several)}. There accuracy is the share of "
            "documents with all labels right and no others (subset accuracy)."
        )
    return header, rows, note


def other_data_warnings(runs: list[dict]) -> list[str]:
    """Return a sentence on each run that predicted other test data than the first."""
    recorded_runs = [run for run in runs if run["test_fingerprint"] is not None]
    sentences = []
    for run in recorded_runs[1:]:
        first = recorded_runs[0]
        if has_other_data(first["test_fingerprint"], run["test_fingerprint"]):
            sentences.append(
                f"{first['name']} and {run['name']} predicted other test data (data_fingerprints): "
                "their test results are not comparable."
            )
    return sentences


def training_parts(folders: list[Path], page: Page) -> list[dict]:
    """Return the runs that are shown, each under a name that no other has."""
    names = Counter(run_name(folder) for folder in folders)
    runs = []
    for folder in folders:
        name, path = run_name(folder), folder.absolute()
        if names[name] > 1:
            name = f"{path.parent.name}/{path.name}"
        run = run_part(folder, name, len(runs) < EMBEDDED_RUNS, page)
        if run is not None:
            runs.append(run)
    page.warnings += other_data_warnings(runs)
    return runs


def learning_rates(path: Path) -> tuple[str, list, list]:
    """Return caption, header and rows of the learning rates that run_paper.sh tried for a model."""
    header = [
        "learning rate",
        "validation loss",
        "validation accuracy, %",
        "validation macro F1, %",
        "epochs",
        "training time",
    ]
    rows = []
    with reading(path, "run_paper.sh"), path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            # Unknown where a run was continued from a checkpoint without times
            seconds = float(row["train_runtime"]) if row["train_runtime"] else None
            rows.append(
                [
                    row["learning_rate"],
                    f"{float(row['eval_loss']):.4f}",
                    percent(float(row["eval_accuracy"])),
                    percent(float(row["eval_f1"])),
                    f"{float(row['epoch']):g}",
                    duration(seconds),
                ]
            )
    model = path.parent.resolve().name
    caption = f"Learning rates of {model}; the lowest validation loss was chosen"
    return caption, header, rows


def check_files(folder: Path, record: dict, script: str) -> None:
    """Exit with status 2 if a file of a folder is not the one that its record names."""
    changed = find_changed_file(folder, record)
    if changed is not None:
        fail(
            f"{folder / changed} is not the file that {script} wrote with its record "
            f"(edited, or {script} was stopped); run {script} again"
        )


def stale_comparison_warnings(result: dict, runs: list[dict]) -> list[str]:
    """Return a sentence on each run that has other predictions than those that were compared.

    Comparisons of earlier versions do not record them.
    """
    compared = result.get("predictions")
    sentences = []
    for label, digest in compared.items() if isinstance(compared, dict) else ():
        parts = tuple(label.split("/"))
        for run in runs:
            is_compared = run["folder"].resolve().parts[-len(parts) :] == parts
            if is_compared and run["predictions_digest"] not in (None, digest):
                sentences.append(
                    f"Comparison: {run['name']} has other predictions now than those that were "
                    "compared; run tools/compare_runs.py again."
                )
    return sentences


def comparison_part(folder: Path, runs: list[dict], page: Page) -> dict:
    """Return what tools/compare_runs.py found: the answers, picture and table, then the rest."""
    path = folder / "comparison.json"
    result = read_json(path)
    check_files(folder, result, "tools/compare_runs.py")
    page.warnings += stale_comparison_warnings(result, runs)
    with reading(path, "tools/compare_runs.py"):
        page.versions["comparison"] = dict(result["versions"])
        page.commands.append(recorded("compare_runs.py", result["arguments"]))
        metrics = []
        for model in result["models"]:
            accuracy, macro_f1 = percent(model["accuracy"]), percent(model["macro_f1"])
            metrics.append(f"{model['name']} {accuracy} and {macro_f1}")
        verdicts = [answer["verdict"] for answer in result.get("answers", [])]
    with reading(folder / "comparison.md", "tools/compare_runs.py"):
        opening, rest = split_opening((folder / "comparison.md").read_text(encoding="utf-8"))
        answer, text = markdown(opening, folder=folder), markdown(rest, folder=folder)
    if "<img" not in answer:  # a comparison of an earlier version
        about = f"Accuracy and macro F1 with 95% intervals: {'; '.join(metrics)}"
        answer = figure(folder / "table2.png", about) + answer

    links = []
    for name in ("table2.csv", "table2.tex", "pairs.csv", "cost.csv", "hard_documents.csv"):
        if (folder / name).is_file():
            links.append((page.link(folder / name), name))
    return {"answer": answer, "verdicts": verdicts, "text": text, "links": links}


def learning_curve_part(folder: Path, page: Page) -> dict:
    """Return what tools/plot_learning_curve.py drew: the picture and its table."""
    path = folder / "learning_curve.json"
    record = read_json(path)
    check_files(folder, record, "tools/plot_learning_curve.py")
    with reading(path, "tools/plot_learning_curve.py"):
        page.versions["learning curve"] = dict(record["versions"])
        page.commands.append(recorded("plot_learning_curve.py", record["arguments"]))
    with reading(folder / "learning_curve.md", "tools/plot_learning_curve.py"):
        text = (folder / "learning_curve.md").read_text(encoding="utf-8")
        shown = markdown(text, folder=folder)
    return {"text": shown, "link": page.link(folder / "learning_curve.csv")}


def split_opening(text: str) -> tuple[str, str]:
    """Return a Markdown text up to its first section, and the rest of it."""
    match = re.search(r"^## ", text, re.MULTILINE)
    place = len(text) if match is None else match.start()
    return text[:place], text[place:]


def attribution_part(folder: Path, page: Page) -> dict:
    """Return the figure of an attribution folder, its cost, its error and its faithfulness."""
    path, folder_name = folder / "summary.json", folder.resolve().name
    summary = read_json(path)
    with reading(path, "run_attribution.py"):
        arguments = summary["arguments"]
        name = run_name(arguments["model_name_or_path"])
        target = arguments["target"]
        if arguments.get("versus"):
            target += f" rather than {arguments['versus']}"
        facts = {
            "documents": f"{summary['documents']:,}",
            "truncated documents": f"{summary['truncated']:,}",
            "gradient evaluations": f"{summary['gradient_evaluations']:,}",
            "forward evaluations": f"{summary['forward_evaluations']:,}",
            "time": duration(summary["seconds"]),
            "median relative completeness error": error_text(summary["median_relative_error"]),
            "largest relative completeness error": error_text(summary["max_relative_error"]),
            "documents that did not converge": f"{summary['not_converged']:,}",
            "rule": rule_text(arguments["method"], *summary["steps"]),
            "baseline; target": f"{', '.join(as_list(arguments['baseline']))}; {target}",
            "device": summary["device"],
        }
        page.versions[f"attributions in {folder_name}"] = dict(summary["versions"])
        if arguments.get("text"):  # the documents themselves, which are not on the page
            arguments = arguments | {"text": f"({len(arguments['text'])} texts)"}
        command = recorded(
            f"run_attribution.py: {folder_name}",
            arguments,
            dataset_commit=summary.get("dataset_commit"),
            model_commit=summary.get("model_commit"),
        )
        page.commands.append(command)
    alt = f"Documents explained for {name}, each token colored by its attribution"
    return {
        "name": name,
        "folder": folder_name,
        "facts": facts,
        "link": attribution_page_link(folder, page),
        "faithfulness": faithfulness_table(folder, summary),
        "picture": picture(folder / "attributions.png", alt),
    }


def error_text(error: float | None) -> str:
    """Return a relative error as text; it is undefined where the change of the score is 0."""
    return "undefined" if error is None else f"{error:.1e}"


def rule_text(method: str | None, low: int, high: int) -> str:
    """Return the rule and its smallest and largest number of steps in words.

    A number of 0 stands for the integral, which no rule of --method computed.
    """
    if high == 0:
        return "the integral"
    steps = f"{low} steps" if low == high else f"best of {low} to {high} steps"
    return f"{method}, {steps}"


def attribution_page_link(folder: Path, page: Page) -> str | None:
    """Return the address of the page of an attribution folder, if there is one of today's data."""
    path = folder / "attributions.html"
    if not path.is_file():
        return None
    if attributions_digest(folder) in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        return page.link(path)
    page.left_out.append(
        f"Attributions: the page of {folder.resolve().name} is older than its data and is not "
        "linked; run tools/render_attributions.py again."
    )
    return None


def context_part(folder: Path, page: Page) -> dict:
    """Return the tests of context: picture, sentences, tables."""
    path = folder / "context.json"
    result = read_json(path)
    check_files(folder, result, "tools/measure_context.py")
    with reading(path, "tools/measure_context.py"):
        arguments = result["arguments"]
        page.versions["context"] = dict(result["versions"])
        page.commands.append(recorded("measure_context.py", arguments))
        intro = (
            f"Model: {result['model']}. {result['documents']:,} documents of split "
            f"{arguments['split']}, {arguments['n_shuffles']} "
            f"shuffle{'' if arguments['n_shuffles'] == 1 else 's'} of each, "
            f"seed {arguments['seed']}, {result['device']}."
        )
    with reading(folder / "context.md", "tools/measure_context.py"):
        content = (folder / "context.md").read_text(encoding="utf-8")
        opening, rest = split_opening(content)
        # Texts that fold their tables themselves are shown as they are.
        fold = FOLD_CLOSES not in content.splitlines()
        answer = markdown(opening, fold, folder)
        text = markdown(rest, fold, folder)
    alt = "A panel for each test of context; the text below describes them"
    path = folder / "context.html"
    shown = None
    if "<img" not in answer:
        shown = picture(folder / "context.png", alt)
    return {
        "intro": intro,
        "answer": answer,
        "text": text,
        "picture": shown,
        "link": page.link(path) if path.is_file() else None,
    }


def version_rows(versions: dict[str, dict]) -> list[list[str]]:
    """Return a row for each package, Python first.

    Where parts of the study used different versions, the parts are named.
    """
    packages = {package for part in versions.values() for package in part}
    rows = []
    for package in sorted(packages, key=lambda name: (name != "python", name)):
        used_by: dict[str, list[str]] = {}
        for name, part in versions.items():
            if package in part:
                used_by.setdefault(str(part[package]), []).append(name)
        if len(used_by) == 1:
            text = next(iter(used_by))
        else:
            text = "; ".join(f"{number} ({', '.join(names)})" for number, names in used_by.items())
        rows.append([package, text])
    return rows


# The folders that are given


def find_folders(arguments: ReportArguments, page: Page) -> dict[str, list[Path]]:
    """Return the folders of each part that hold the files of PARTS.

    There is a sentence in page.left_out for every folder that does not, and for every part
    without a flag, except the learning curve, which few studies have.
    """
    folders = {}
    for part, (heading, flag, files) in PARTS.items():
        given = getattr(arguments, flag) or []
        if isinstance(given, str):
            given = [given]
        if not given and part != "learning_curve":
            page.left_out.append(f"{heading}: no --{flag} was given.")
        folders[part] = []
        for folder in dict.fromkeys(given):
            missing = [name for name in files if not Path(folder, name).is_file()]
            if missing:
                page.left_out.append(
                    f"{heading}: {short_path(folder)} is left out, it has no {missing[0]}."
                )
            else:
                folders[part].append(Path(folder))
    return folders


def published_arguments(arguments: ReportArguments) -> dict:
    """Return the arguments as they are recorded: of an absolute path only the last part."""
    record = {}
    for key, value in asdict(arguments).items():
        if isinstance(value, list):
            record[key] = [last_part(text) for text in value]
        elif isinstance(value, str) and key not in ("title", "note"):
            record[key] = last_part(value)
        else:
            record[key] = value
    return record


def printable(text: str) -> str:
    """Return a text with a question mark for what is not UTF-8, as names of folders may be."""
    return text.encode("utf-8", "replace").decode("utf-8")


def main() -> None:
    # 1. Arguments; the parts that exist
    logger = start_logging()
    (arguments,) = parse_arguments(__doc__, ReportArguments)
    output = Path(arguments.output_dir)
    page = Page(output)
    folders = find_folders(arguments, page)
    if not any(folders.values()):
        fail(
            "no part of a study exists; give --dataset_name, --runs, --comparison_dir, "
            "--attribution_dirs or --context_dir with folders that the other scripts wrote"
        )
    open_output_dir(output, SCRIPT, ["report.json"])
    lock_output_dir(output)

    # 2. The parts, in the order in which they were made; the page has another order
    data = [data_part(folder, page) for folder in folders["data"]]
    runs = training_parts(folders["training"], page)
    tried = dict.fromkeys(
        folder.resolve().parent / "learning_rates.csv" for folder in folders["training"]
    )
    comparison = []
    for folder in folders["comparison"]:
        comparison.append(comparison_part(folder, runs, page))
    curves = [learning_curve_part(folder, page) for folder in folders["learning_curve"]]
    attributions = [attribution_part(folder, page) for folder in folders["attributions"]]
    of_model = Counter(part["name"] for part in attributions)
    for part in attributions:
        if of_model[part["name"]] > 1:
            part["name"] += f" ({part['folder']})"
    costs = []
    for fact in attributions[0]["facts"] if attributions else ():
        costs.append([fact, *(part["facts"][fact] for part in attributions)])
    context = [context_part(folder, page) for folder in folders["context"]]

    # 3. The page
    header, results, about_results = result_table(runs)
    content = render(
        "report.html",
        results_header=header,
        results=results,
        about_results=about_results,
        title=arguments.title,
        note=arguments.note,
        left_out=page.left_out,
        warnings=page.warnings,
        data=data[0] if data else None,
        runs=runs,
        learning_rates=[learning_rates(path) for path in tried if path.is_file()],
        comparison=comparison[0] if comparison else None,
        learning_curve=curves[0] if curves else None,
        attributions=attributions,
        cost=costs,
        context=context[0] if context else None,
        commands=page.commands,
        versions=version_rows(page.versions),
    )

    # 4. The folder; the record comes first, which makes it ours
    record = {"script": SCRIPT, "arguments": published_arguments(arguments)}
    record |= {"left_out": page.left_out, "warnings": page.warnings}
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    # Names of folders may hold bytes that are not UTF-8.
    write_files(
        output,
        {
            "report.json": text.encode("utf-8", "replace"),
            "index.html": content.encode("utf-8", "replace"),
        },
    )
    for line in [*page.left_out, *page.warnings]:
        logger.warning(printable(line))
    path = printable(str(output / "index.html"))
    logger.info("wrote %s (%.1f MB); open it in a browser", path, len(content) / 1e6)


if __name__ == "__main__":
    main()
