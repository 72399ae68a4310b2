"""Folders that pass from one step to the next: open, read, check and write them."""

import hashlib
import json
import os
import re
from collections.abc import Collection
from pathlib import Path

from transformers.utils import cached_file

from common.cli import fail, one_line


def write(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it, so that readers see the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    os.replace(temporary, path)


def is_record(path: Path, script: str) -> bool:
    """Return whether a file is a JSON object that names the script that wrote its folder."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("script") == script


def open_output_dir(
    folder: Path, script: str, records: Collection[str], own_files: str | None = None
) -> None:
    """Make an output folder, or check that an existing one is this script's. Nothing is changed in it.

    records are the names of files of which one at least must be a JSON object with ``"script":
    script`` unless the folder is empty. own_files is a regular expression for the paths of the
    script's files inside the folder, such as ``data/train.parquet``; with it, a folder with any
    other file is refused. Temporary files (``*.tmp``) of these are the script's own, too.

    Exits with status 2 if the folder cannot be written or is not the script's.
    """
    try:
        if folder.exists() and not folder.is_dir():
            fail(f"--output_dir {folder} is a file; choose a folder")
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = next(folder.iterdir(), None) is None
        foreign = None
        if own_files is not None:
            foreign = find_foreign_file(folder, own_files)
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}")
    if foreign is not None:
        fail(
            f"--output_dir {folder} holds {foreign!r}, which {script} did not write; "
            "choose another folder"
        )
    if not is_empty and not any(is_record(folder / name, script) for name in records):
        fail(
            f"--output_dir {folder} is not empty and holds no {' or '.join(records)} of {script}; "
            "choose another folder"
        )
    if not os.access(folder, os.W_OK):
        fail(f"cannot write into --output_dir {folder}: it is read-only")


def find_foreign_file(folder: Path, own_files: str) -> str | None:
    """Return the path inside the folder of a file that does not match own_files, or None.

    A symbolic link counts as a file and is not followed.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        if not re.fullmatch(rf"({own_files})(\.tmp)?", name):
            return name
    return None


def write_files(folder: Path, contents: dict[str, str | bytes | None]) -> None:
    """Write files into a folder, each whole or not at all; None removes a file. Exit with status 2 if that fails."""
    try:
        for name, content in contents.items():
            if content is None:
                (folder / name).unlink(missing_ok=True)
            else:
                write(folder / name, content)
    except OSError as error:
        fail(
            f"cannot write into {folder}: {error.strerror}; free some space and run the command again"
        )


def read_json(path: Path) -> dict:
    """Return the object in a JSON file. Exit with status 2 if it cannot be read or is not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        fail(
            f"cannot read {path}: {getattr(error, 'strerror', None) or one_line(error)}; run its script again"
        )
    return (
        content
        if isinstance(content, dict)
        else fail(f"{path} is not a JSON object; run its script again")
    )


def read_attributions(folder: Path) -> tuple[list[dict], dict]:
    """Return the documents of an attribution folder and its summary. Exit with status 2 if they are not complete."""
    path = folder / "attributions.jsonl"
    required = (
        "id",
        "text",
        "label",
        "prediction",
        "target",
        "tokens",
        "attributions",
        "words",
        "word_attributions",
    )
    try:
        documents = [
            json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line
        ]
        missing = [key for document in documents for key in required if key not in document]
    except (OSError, ValueError, TypeError) as error:
        fail(
            f"cannot read {path}: {getattr(error, 'strerror', None) or one_line(error)}; run run_attribution.py again"
        )
    if missing or not documents:
        fail(
            f"{path} has no {missing[0] if missing else 'documents'}; run run_attribution.py again"
        )
    return documents, read_json(folder / "summary.json")


def attributions_digest(folder: Path) -> str:
    """Return the SHA-256 of the attributions and their faithfulness: a page with another one is out of date."""
    digest = hashlib.sha256()
    for name in ("attributions.jsonl", "faithfulness.json"):
        path = folder / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


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
    return re.sub(
        r"(?<![\w.:/~])(?:/[^\s/:,;'\"()<>]+){2,}", lambda match: short_path(match[0]), text
    )


def model_commit(name: str, revision: str | None) -> str | None:
    """Return the commit of a model that was loaded from the Hub; None for a local folder."""
    match = re.search(
        r"/snapshots/([0-9a-f]{40})/", cached_file(name, "config.json", revision=revision or "main")
    )
    return match and match[1]
