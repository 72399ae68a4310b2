"""What several tools share: arguments, errors, files, run folders, attribution folders, text and pages."""

import argparse
import base64
import difflib
import hashlib
import html
import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import datasets
import jinja2
import matplotlib.pyplot as plt
import numpy as np
import yaml
from scipy.special import stdtrit
from transformers import HfArgumentParser
from transformers.utils import cached_file

ALPHA = 0.05
MIN_INTERVAL_DOCUMENTS = 10  # with fewer, a 95 % interval is not reported


# Copied: the following lines are the same in the four scripts and in tools/common.py; a test compares them.
def fail(message: str) -> NoReturn:
    """Print a one-line error and exit with status 2."""
    if int(os.environ.get("RANK", 0)):
        time.sleep(10)  # the launcher stops this process if the first one has failed, too: one message is enough
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def parse_arguments(description: str, *dataclass_types: type, adapt: Callable | None = None, **defaults) -> tuple:
    """Parse the command line into dataclasses. A YAML or JSON file, given first or after --config, stands for flags.

    Flags override the file. ``adapt(namespace, unknown)`` may change the parsed values and the unknown words in place.
    Exits with status 2 on an unreadable file, an unknown flag or an invalid value.
    """
    style, usage = argparse.RawDescriptionHelpFormatter, "%(prog)s [--config FILE.yaml] [flags that override it]"
    parser = HfArgumentParser(dataclass_types, description=description, usage=usage, formatter_class=style)
    parser.allow_abbrev = False
    parser.set_defaults(**defaults)
    parser.error = fail
    words = sys.argv[1:]
    if words and words[0].endswith((".json", ".yaml", ".yml")):
        words.insert(0, "--config")
    if "--config" in words[:-1]:
        place = words.index("--config")
        try:
            content = yaml.safe_load(Path(words[place + 1]).read_text(encoding="utf-8"))  # JSON is YAML
            flags = [[f"--{key}", *(v if isinstance(v, list) else [v])] for key, v in content.items() if v is not None]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
            fail(f"cannot read arguments (a 'flag: value' a line) from {words[place + 1]}: {one_line(error)}")
        words = [str(word) for flag in flags for word in flag] + words[:place] + words[place + 2 :]
    namespace, unknown = parser.parse_known_args(words)
    if adapt:
        adapt(namespace, unknown)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        fail(f"unknown argument {unknown[0]}; {f'did you mean {nearest[0]}?' if nearest else '--help lists all'}")
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:
        fail(one_line(error))


def write(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it, so that readers see the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    os.replace(temporary, path)


# End of the copied lines.


def start_logging() -> logging.Logger:
    """Log to standard output, one line a message with its time; return the tools' logger."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # otherwise a line for every request to the Hub
    return logging.getLogger("tools")


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of installed packages, as a record of a run holds them."""
    return {"python": sys.version.split()[0]} | {package: version(package) for package in packages}


def open_output_dir(folder: Path, own_files: str) -> None:
    """Make an output folder. Exit with status 2 if it cannot be written or holds a file that a tool did not write.

    own_files is a regular expression for the names of the tool's files; temporary files of these are its own, too.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [path.name for path in folder.iterdir() if not re.fullmatch(rf"({own_files})(\.tmp)?", path.name)]
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}")
    if foreign:
        fail(f"--output_dir {folder} holds {min(foreign)}, which this tool did not write; choose another folder")
    if not os.access(folder, os.W_OK):
        fail(f"cannot write into --output_dir {folder}: it is read-only")


def write_files(folder: Path, contents: dict[str, str | bytes | None]) -> None:
    """Write files into a folder, each whole or not at all; None removes a file. Exit with status 2 if that fails."""
    try:
        for name, content in contents.items():
            if content is None:
                (folder / name).unlink(missing_ok=True)
            else:
                write(folder / name, content)
    except OSError as error:
        fail(f"cannot write into {folder}: {error.strerror}; free some space and run the command again")


def read_json(path: Path) -> dict:
    """Return the object in a JSON file. Exit with status 2 if it cannot be read or is not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        fail(f"cannot read {path}: {getattr(error, 'strerror', None) or one_line(error)}; run its script again")
    return content if isinstance(content, dict) else fail(f"{path} is not a JSON object; run its script again")


def read_attributions(folder: Path) -> tuple[list[dict], dict]:
    """Return the documents of an attribution folder and its summary. Exit with status 2 if they are not complete."""
    path = folder / "attributions.jsonl"
    required = ("id", "text", "label", "prediction", "target", "tokens", "attributions", "words", "word_attributions")
    try:
        documents = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        missing = [key for document in documents for key in required if key not in document]
    except (OSError, ValueError, TypeError) as error:
        fail(
            f"cannot read {path}: {getattr(error, 'strerror', None) or one_line(error)}; run run_attribution.py again"
        )
    if missing or not documents:
        fail(f"{path} has no {missing[0] if missing else 'documents'}; run run_attribution.py again")
    return documents, read_json(folder / "summary.json")


def attributions_digest(folder: Path) -> str:
    """Return the SHA-256 of the attributions and their faithfulness: a page with another one is out of date."""
    digest = hashlib.sha256()
    for name in ("attributions.jsonl", "faithfulness.json"):
        path = folder / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def faithfulness_table(folder: Path, summary: dict) -> dict | None:
    """Return header, rows (one a ranking) and note of faithfulness.json; None if it is of other attributions.

    Exits with status 2 if the file is damaged.
    """
    path = folder / "faithfulness.json"
    measured = read_json(path) if path.exists() else {}
    if path.exists() and "run" not in measured:
        fail(f"{path} is damaged (no 'run'); run tools/measure_faithfulness.py again")
    if not measured or measured["run"] != summary.get("run"):
        return None
    try:
        rankings, note = measured["rankings"], measured["note"]
        measures = list(next(iter(rankings.values())))
        rows = [[name, *(interval_text(values[key]) for key in measures)] for name, values in rankings.items()]
        if not any("to" in cell for row in rows for cell in row[1:]):
            note = note.replace(" with 95 % bootstrap intervals", "")
            note += f" Intervals are not reported for fewer than {MIN_INTERVAL_DOCUMENTS} documents."
        header = ["words ranked by", *(key.replace("_", " ") for key in measures)]
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, StopIteration) as error:
        fail(f"{path} is damaged ({one_line(error)}); run tools/measure_faithfulness.py again")
    return {"header": header, "rows": rows, "note": note}


def load_split(name: str, split: str, columns: list[str], revision: str | None = None) -> datasets.Dataset:
    """Load a split of a dataset folder or Hub dataset. Exit with status 2 if it or one of the columns is missing."""
    try:
        dataset = datasets.load_dataset(name, revision=revision)
    except Exception as error:  # the library raises its own, the Hub's, the file system's and pyarrow's
        fail(f"cannot load --dataset_name {name}: {one_line(error)}")
    if split not in dataset:
        fail(f"{name} has no split {split!r}; it has {', '.join(dataset)}")
    for column in columns:
        if column not in dataset[split].column_names:
            fail(f"{name} has no column {column!r}; it has {', '.join(dataset[split].column_names)}")
    return dataset[split]


def dataset_commit(dataset: datasets.Dataset) -> str | None:
    """Return the commit of the Hub dataset that a split was loaded from; None for a local folder."""
    files = dataset.cache_files
    match = re.search(r"/([0-9a-f]{40})/[^/]+$", files[0]["filename"]) if files else None
    return match and match[1]


def model_commit(name: str, revision: str | None) -> str | None:
    """Return the commit of a model that was loaded from the Hub; None for a local folder."""
    match = re.search(r"/snapshots/([0-9a-f]{40})/", cached_file(name, "config.json", revision=revision or "main"))
    return match and match[1]


def short_path(path: str) -> str:
    """Return the last part of a path or Hub id that identifies it: a model's folder may be called model."""
    parts = [part.removesuffix(".json") for part in path.split("/") if part not in ("", ".")]
    while len(parts) > 1 and re.fullmatch(r"model|config|checkpoint-\d+", parts[-1]):
        parts.pop()
    return parts[-1] if parts else path


def run_name(folder: str | Path) -> str:
    """Return the name of a run: that of its folder, or of the folder around run_paper.sh's lr-RATE-seed-SEED."""
    path = Path(folder).absolute()
    return path.parent.name if re.fullmatch(r"lr-.+-seed-.+", path.name) else path.name


def hide_paths(text: str) -> str:
    """Replace every absolute path in a text by its last part, so that a page shows nobody's folders."""
    return re.sub(r"(?<![\w.:/~])(?:/[^\s/:,;'\"()<>]+){2,}", lambda match: short_path(match[0]), text)


def bootstrap(
    labels: np.ndarray,
    predictions: np.ndarray,
    n_classes: int,
    n_resamples: int,
    seed: int,
    counts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracy (1 + n_resamples, rows) and F1 (1 + n_resamples, rows, classes) on resampled documents.

    labels is (documents,), predictions (rows, documents), both class numbers. The first entry is for the documents
    themselves; all rows see the same resamples. counts says how many documents each column stands for (default 1):
    documents with the same label and predictions are exchangeable and can share a column. A resample is a multinomial
    draw of how often each document is taken, so the confusion counts are a matrix product. F1 is NaN where a class is
    neither a label nor a prediction; np.nanmean over the classes is scikit-learn's macro F1 with zero_division=0.
    """
    counts = np.ones(len(labels), dtype=int) if counts is None else np.asarray(counts)
    support = np.eye(n_classes)[labels]
    predicted = np.eye(n_classes)[predictions].swapaxes(0, 1)  # (documents, rows, classes)
    cells = np.concatenate([predicted * support[:, None], predicted], axis=1).reshape(len(labels), -1)
    generator, total = np.random.default_rng(seed), counts.sum()
    accuracies, scores = [], []
    for start in range(0, n_resamples, 250):  # blocks bound the memory
        draws = generator.multinomial(total, counts / total, size=min(250, n_resamples - start)).astype(float)
        draws = np.concatenate([counts[None], draws]) if start == 0 else draws
        sums = (draws @ cells).reshape(len(draws), 2, len(predictions), n_classes)
        size = sums[:, 1] + (draws @ support)[:, None]
        scores.append(np.divide(2 * sums[:, 0], size, out=np.full(size.shape, np.nan), where=size > 0))
        accuracies.append(sums[:, 0].sum(axis=-1) / total)
    return np.concatenate(accuracies), np.concatenate(scores)


def percentile_interval(draws: np.ndarray, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the percentile interval of bootstrap draws with level 1 - alpha, leaving out NaN."""
    low, high = np.quantile(draws[~np.isnan(draws)], [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def difference_test(differences: np.ndarray) -> dict:
    """Return a bootstrapped difference with its 95 % percentile interval and the p-value of no difference.

    The first entry is the observed difference, the others are resamples. p is twice the smaller share of resamples on
    one side of 0, with one added to numerator and denominator, so it is never 0 (Davison & Hinkley, Bootstrap Methods
    and their Application, 1997, section 4.4).
    """
    differences = np.round(differences, 12)  # means of equal numbers are equal
    low, high = percentile_interval(differences[1:])
    draws = differences[1:][~np.isnan(differences[1:])]
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    return {"difference": float(differences[0]), "low": low, "high": high, "p": float(p)}


def mean_interval(values: np.ndarray | list[float]) -> dict:
    """Return the mean of values with Student's 95 % interval; low and high are None below MIN_INTERVAL_DOCUMENTS."""
    values = np.asarray(values, dtype=float)
    mean, low, high = float(values.mean()), None, None
    if len(values) >= MIN_INTERVAL_DOCUMENTS:
        half = stdtrit(len(values) - 1, 1 - ALPHA / 2) * values.std(ddof=1) / np.sqrt(len(values))
        low, high = (mean - float(half), mean + float(half)) if np.ptp(values) > 0 else (mean, mean)
    return {"mean": mean, "low": low, "high": high}


def interval_text(part: dict | None) -> str:
    """Return a mean with its interval, where there are enough documents for one; empty for None."""
    if part is None:
        return ""
    mean, low, high = (None if part[key] is None else round(part[key], 3) + 0.0 for key in ("mean", "low", "high"))
    few = part.get("documents", MIN_INTERVAL_DOCUMENTS) < MIN_INTERVAL_DOCUMENTS
    return f"{mean:.3f}" if low is None or few else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def add_holm(tests: list[dict]) -> None:
    """Add p_holm, Holm's correction of p, to tests of one family."""
    largest = 0.0
    for rank, test in enumerate(sorted(tests, key=lambda test: test["p"])):
        largest = max(largest, min(1.0, (len(tests) - rank) * test["p"]))
        test["p_holm"] = largest


def percent(value: float | None) -> str:
    """Return a fraction in per cent with two digits, never as -0.00; empty for None."""
    return "" if value is None else f"{round(100 * value, 2) + 0.0:.2f}"


def p_text(p: float) -> str:
    """Return a p-value with its relation sign."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def escape_markdown(text: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]|#$~])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def markdown_table(header: list[str], rows: list[list], bold: Collection[tuple[int, int]] = ()) -> str:
    """Return a Markdown table of escaped text; the first column is aligned to the left, the others to the right.

    bold are the (row, column) of cells in bold.
    """
    cells = [[escape_markdown(cell) for cell in row] for row in (header, *rows)]
    for row, column in bold:
        cells[1 + row][column] = f"**{cells[1 + row][column]}**"
    lines = [" | ".join(row) for row in cells]
    lines.insert(1, " | ".join(["---"] + ["---:"] * (len(header) - 1)))
    return "".join(f"| {line} |\n" for line in lines)


def plain(text: str) -> str:
    """Return text for matplotlib: a $ from the data does not start a formula."""
    return text.replace("$", r"\$")


def png(figure: plt.Figure) -> bytes:
    """Close a figure and return it as PNG; the bytes hold no date, so the same figure gives the same file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def numeric_columns(rows: list[list]) -> list[bool]:
    """Return for every column of a table whether its cells are numbers or intervals; empty cells do not count."""
    number = re.compile(r"(?:[-+−±<>=.,:%\d\s()\[\]†*]|to|e[-+]?\d)+")
    columns = [[str(cell) for cell in column if cell not in (None, "")] for column in zip(*rows, strict=True)]
    return [bool(column) and all(map(number.fullmatch, column)) for column in columns]


def data_url(picture: bytes) -> str:
    """Return a PNG picture as the address of an <img> inside a page."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def render(template: str, **values) -> str:
    """Render a page of tools/templates, which includes style.css. Values are escaped and show no absolute path."""
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.finalize = lambda value: (
        hide_paths(value) if type(value) is str and not value.startswith("data:") else value
    )
    environment.globals["numeric_columns"] = numeric_columns
    return environment.get_template(template).render(values)
