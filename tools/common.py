"""What several tools share: arguments, errors, files, run folders, attribution folders, text and pages."""

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
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import datasets
import jinja2
import matplotlib.pyplot as plt
import yaml
from transformers import HfArgumentParser


# Copied: the following lines are the same in the four scripts and in tools/common.py; a test compares them.
def fail(message: str) -> NoReturn:
    """Print a one-line error and exit with status 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def parse_arguments(description: str, *dataclass_types: type, adapt: Callable | None = None, **defaults) -> tuple:
    """Parse the command line into dataclasses. A YAML or JSON file of arguments may come first or after --config.

    Flags override the file. ``adapt(namespace, unknown)`` may change the parsed values and the unknown words in place
    before the dataclasses are made. Exits with status 2 on an unreadable file, an unknown flag or an invalid value.
    """
    parser = HfArgumentParser(
        dataclass_types,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file of arguments; flags override it.")
    parser.set_defaults(**defaults)
    config_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config")
    parser.error = config_parser.error = fail
    first_is_file = sys.argv[1:] and sys.argv[1].endswith((".json", ".yaml", ".yml"))
    config, words = config_parser.parse_known_args(["--config"] * bool(first_is_file) + sys.argv[1:])
    if config.config:
        try:
            content = yaml.safe_load(Path(config.config).read_text(encoding="utf-8"))  # JSON is YAML
            flags = [
                [f"--{key}", *map(str, value)]
                if isinstance(value, list)
                else [f"--{key}={json.dumps(value) if isinstance(value, dict) else value}"]
                for key, value in content.items()
                if value is not None
            ]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
            fail(f"cannot read arguments from {config.config} (one 'flag: value' a line): {one_line(error)}")
        words = [word for flag in flags for word in flag] + words
    namespace, unknown = parser.parse_known_args(words)
    del namespace.config
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


def write_files(folder: Path, contents: dict[str, str | bytes]) -> None:
    """Write files into a folder, each whole or not at all. Exit with status 2 if that fails."""
    try:
        for name, content in contents.items():
            write(folder / name, content)
    except OSError as error:
        fail(f"cannot write into {folder}: {error.strerror}; free some space and run the command again")


def read_json(path: Path) -> dict:
    """Return the object in a JSON file. Exit with status 2 if it cannot be read or is not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"cannot read {path}: {getattr(error, 'strerror', None) or one_line(error)}")
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


def percent(value: float | None) -> str:
    """Return a fraction in per cent with two digits, never as -0.00; empty for None."""
    return "" if value is None else f"{round(100 * value, 2) + 0.0:.2f}"


def p_text(p: float) -> str:
    """Return a p-value with its relation sign."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def escape_markdown(text: object) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", html.escape(str(text), quote=False))


def markdown_table(header: list[str], rows: list[list]) -> str:
    """Return a Markdown table of escaped text; the first column is aligned to the left, the others to the right."""
    lines = [" | ".join(map(escape_markdown, row)) for row in (header, *rows)]
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


def data_url(picture: bytes) -> str:
    """Return a PNG picture as the address of an <img> inside a page."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def render(template: str, **values) -> str:
    """Render a page of tools/templates. All values are escaped; the page includes the style sheet style.css."""
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(template).render(values)
