"""Finished comparisons of tools/compare_runs.py: named on a command line, and read."""

import functools
import sys
from dataclasses import dataclass, field
from pathlib import Path

from common.cli import fail, parse_arguments, take_positional
from common.folders import is_record, read_json, short_path

COMPARISON = "comparison.json"
COMPARISON_SCRIPT = "compare_runs.py"


@dataclass
class ComparisonsArguments:
    """Which comparisons are read together."""

    output_dir: str = field(
        metadata={"help": "Folder to write: new, empty, or an earlier output of this script."}
    )
    comparisons: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Output folders of tools/compare_runs.py, or comparison.json files. They are "
            "usually given without the flag. A comparison is called like its folder."
        },
    )


def parse_comparisons(description: str) -> ComparisonsArguments:
    """Return the arguments of the command line, on which comparisons need no flag."""
    sys.argv[1:] = name_first_comparison(sys.argv[1:])
    adapt = functools.partial(take_positional, name="comparisons")
    (arguments,) = parse_arguments(description, ComparisonsArguments, adapt=adapt)
    return arguments


def name_first_comparison(words: list[str]) -> list[str]:
    """Return the command line with --comparisons before a comparison.json that comes first.

    A .json file that comes first is otherwise taken for a file of flags.
    """
    if not words or not is_record(Path(words[0]), COMPARISON_SCRIPT):
        return words
    if "--comparisons" not in words:
        return ["--comparisons", *words]
    rest = words[1:]
    rest.insert(rest.index("--comparisons") + 1, words[0])
    return rest


def read_comparisons(paths: list[str]) -> dict[str, dict]:
    """Return the records of the comparisons by the name of their folder.

    A file that is not called comparison.json has its own name: several may share a folder.
    Exits with status 2 if one is missing, is not a comparison, or was made by an earlier version.
    """
    comparisons = {}
    for path in map(Path, paths):
        file = path / COMPARISON if path.is_dir() else path
        record = read_json(file)
        if record.get("script") != COMPARISON_SCRIPT:
            fail(f"{file} was not written by tools/compare_runs.py; give a comparison")
        has_precisions = all("precision" in row for row in record.get("pairs", []))
        if "pairs_tested" not in record or not has_precisions:
            fail(f"{file} is of an earlier version; make the comparison again")
        named_after = path.resolve()
        if not path.is_dir() and path.name == COMPARISON:
            named_after = named_after.parent
        name = short_path(str(named_after))
        if name in comparisons:
            fail(f"two comparisons are called {name}; give each once, under a name of its own")
        comparisons[name] = record
    return comparisons
