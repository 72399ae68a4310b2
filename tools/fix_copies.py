#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Keep the copies of a function equal to their source, as transformers' utils/check_copies.py does.

    python tools/fix_copies.py            # rewrite every copy from its source
    python tools/fix_copies.py --check    # change nothing; exit with status 1 if a copy differs

The four scripts are whole when copied alone, so they repeat some functions. A comment before a
function, class or constant names its source, a file of the repository and a name in it:

    # Copied from tools/common/cli.py::fail
    def fail(message: str) -> NoReturn: ...

Edit the source, then run this command. Imports are not copied; ruff names those that are missing.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMENT = re.compile(r"# Copied from (?P<file>[\w/.]+\.py)::(?P<name>\w+)\n")


def definitions(code: str) -> dict[str, tuple[int, int]]:
    """Return first line (from 0) and the line after the last of each top-level name of a file."""
    found = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = (first - 1, node.end_lineno)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = (node.lineno - 1, node.end_lineno)
    return found


def read_source(root: Path, file: str, name: str) -> list[str]:
    """Return the lines of a top-level name of a file. Raises ValueError if there is none."""
    path = root / file
    if not path.is_file():
        raise ValueError(f"there is no {file}")
    code = path.read_text(encoding="utf-8")
    places = definitions(code)
    if name not in places:
        raise ValueError(f"{file} does not define {name}")
    first, end = places[name]
    return code.splitlines(keepends=True)[first:end]


def fix(root: Path, code: str) -> tuple[str, list[str]]:
    """Return the code with every copy equal to its source, and the names of those that differed.

    Where the name is not defined after its comment yet, the source is inserted there.
    Raises ValueError if a source does not exist.
    """
    lines = code.splitlines(keepends=True)
    places = definitions(code)
    changed = []
    # From the last to the first, so that the places of the others stay right.
    for number in reversed(range(len(lines))):
        match = COMMENT.fullmatch(lines[number])
        if match is None:
            continue
        name = match["name"]
        source = read_source(root, match["file"], name)
        first, end = places.get(name, (-1, -1))
        if first != number + 1:
            first = end = number + 1
        if lines[first:end] != source:
            lines[first:end] = source
            changed.append(name)
    return "".join(lines), changed[::-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="Change nothing, report differences.")
    parser.add_argument("--root", type=Path, default=ROOT, help="Folder of the project.")
    arguments = parser.parse_args()
    root = arguments.root
    differs = False
    for path in sorted([*root.glob("*.py"), *root.glob("tools/**/*.py")]):
        code = path.read_text(encoding="utf-8")
        file = path.relative_to(root)
        try:
            fixed, changed = fix(root, code)
        except (ValueError, SyntaxError) as error:
            print(f"error: {file}: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        for name in changed:
            print(f"{file}: {name} {'differs from its source' if arguments.check else 'updated'}")
        differs = differs or bool(changed)
        if changed and not arguments.check:
            path.write_text(fixed, encoding="utf-8")
    if arguments.check and differs:
        print("run python tools/fix_copies.py", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
