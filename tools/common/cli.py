"""Command lines: arguments, one-line errors, logging, versions."""

import argparse
import difflib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import yaml
from tqdm import tqdm

# transformers advises to install PyTorch, without which its parser of arguments works as well.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
from transformers import HfArgumentParser


def fail(message: str) -> NoReturn:
    """Print a one-line error and exit with status 2, for a mistake that the user can fix.

    With the environment variable TRACEBACK=1, the traceback of the caught error comes first.
    """
    if os.environ.get("TRACEBACK") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if os.environ.get("RANK", "0") != "0":
        # Every process finds the same mistake. The launcher stops this one as soon as the first
        # process has exited, so the message appears once.
        time.sleep(10)
    # A file name may contain a line break. A progress bar must not share the line.
    tqdm.write("error: " + " ".join(message.splitlines()), file=sys.stderr)
    raise SystemExit(2)


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:  # transformers and datasets advise to run the code
        return "it asks to run code that comes with it, which is never done; choose another"
    if text.startswith("Repo id must"):  # the Hub's client was asked for a path
        return "there is no such folder, and it is not a name on the Hub either"
    return text[:300] or type(error).__name__


def read_config(file: str) -> list[str]:
    """Return the flags that a YAML or JSON file of ``flag: value`` lines stands for.

    Values are passed on as they are written: YAML would take the words no and on for false and
    true. Exits with status 2 if the file cannot be read or is not such a mapping.
    """
    try:
        text = Path(file).read_text(encoding="utf-8")
        content = yaml.safe_load(text)  # JSON is YAML
        written = yaml.load(text, Loader=yaml.BaseLoader)  # all values are text
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"cannot read arguments from {file}: {one_line(error)}")
    if not isinstance(content, dict):
        fail(f"cannot read arguments from {file}: it must have a 'flag: value' on each line")
    words = []
    for flag, value in content.items():
        if value is None:
            continue
        words.append(f"--{flag}")
        if isinstance(value, dict):  # as TrainingArguments reads it
            words.append(json.dumps(value))
        else:
            value = written.get(str(flag), value)
            words.extend(map(str, value if isinstance(value, list) else [value]))
    return words


def show_defaults(parser: HfArgumentParser) -> None:
    """Say in the help of each flag what its value is if it is not given."""
    for action in parser._actions:
        if action.option_strings[0].startswith("--no_"):  # made by the parser, with the same help
            action.help = f"The same as --{action.dest} false."
            continue
        text = action.help or ""
        default = action.default
        says_nothing = default is None or default is False or default in ("", [], argparse.SUPPRESS)
        if says_nothing or "efault" in text:
            continue
        values = default if isinstance(default, list | tuple) else [default]
        default = " ".join(str(getattr(value, "value", value)) for value in values)
        if not default.strip():  # a space is seen in quotes
            default = repr(default)
        action.help = f"{text} Default: {default.replace('%', '%%')}."


def parse_arguments(
    description: str, *dataclass_types: type, adapt: Callable | None = None, **defaults
) -> tuple:
    """Parse the command line into dataclasses.

    A YAML or JSON file, given first or after ``--config``, stands for flags; flags on the command
    line override it. ``adapt(namespace, unknown)`` may change the parsed values and the list of
    unknown words in place. ``defaults`` override those of the dataclasses.

    Exits with status 2 on an unreadable file, an unknown flag or an invalid value.
    """
    parser = HfArgumentParser(
        dataclass_types,
        description=description,
        usage="%(prog)s [--config FILE.yaml] [flags that override it]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.allow_abbrev = False
    parser.set_defaults(**defaults)
    show_defaults(parser)
    parser.error = fail

    words = sys.argv[1:]
    is_flag = bool(words) and words[0].startswith("-")  # such as --train_file=train.json
    if words and not is_flag and words[0].endswith((".json", ".yaml", ".yml")):
        words.insert(0, "--config")
    for index, word in enumerate(words):
        if word.startswith("--config="):
            words[index : index + 1] = word.split("=", 1)
    if words.count("--config") > 1:
        fail("--config is given more than once; give one file")
    if "--config" in words:
        index = words.index("--config")
        if index + 1 == len(words):
            fail("--config requires a file of arguments")
        words = read_config(words[index + 1]) + words[:index] + words[index + 2 :]

    namespace, unknown = parser.parse_known_args(words)
    if adapt is not None:
        adapt(namespace, unknown)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "--help lists all"
        fail(f"unknown argument {unknown[0]}; {hint}")
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:  # raised by __post_init__ of the dataclasses
        fail(one_line(error))


def start_logging() -> logging.Logger:
    """Log to standard output, one line a message with its time; return the tools' logger."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        level=logging.INFO,
        stream=sys.stdout,
    )
    # Otherwise there is a line for every request to the Hub.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    return logging.getLogger("tools")


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of installed packages, as a record of a run holds them."""
    return {"python": sys.version.split()[0]} | {package: version(package) for package in packages}


def take_positional(namespace: argparse.Namespace, unknown: list[str], name: str) -> None:
    """Move the words that belong to no flag into the list ``namespace.NAME``."""
    words = list(getattr(namespace, name))
    flags = []
    for word in unknown:
        if word.startswith("-"):
            flags.append(word)
        else:
            words.append(word)
    setattr(namespace, name, words)
    unknown[:] = flags
