"""Folders that pass from one step to the next: open, read, check and write them."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from transformers.utils import cached_file

from common.cli import fail, one_line


def write_temporary(path: Path, content: str | bytes) -> Path:
    """Write a file under its temporary name and return that; a failed write leaves no file."""
    temporary = path.with_name(path.name + ".tmp")
    if temporary.is_symlink():  # writing would change the file that the link leads to
        temporary.unlink()
    try:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    except OSError:
        temporary.unlink(missing_ok=True)  # half a file takes space on a full disk
        raise
    return temporary


def write(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it: readers see the old or the new file."""
    os.replace(write_temporary(path, content), path)


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
    """Make an output folder, or check that an existing one is this script's; change nothing in it.

    records are paths of files inside the folder. Unless the folder is empty, one of them at least
    must be a JSON object with ``"script": script``. own_files is a regular expression for the paths
    of the script's files inside the folder, such as ``data/train.parquet``; with it, a folder with
    any other file is refused. Temporary files (``*.tmp``) of these are the script's own, too.

    Exits with status 2 if the folder cannot be written or is not the script's.
    """
    # A record that was being written first when the script was stopped is nothing yet.
    unfinished = "|".join(re.escape(name) + r"\.tmp" for name in records)
    try:
        if folder.exists() and not folder.is_dir():
            fail(f"--output_dir {folder} is a file; choose a folder")
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = find_foreign_file(folder, unfinished) is None
        foreign = find_foreign_file(folder, own_files) if own_files is not None else None
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

    Folders do not count. A symbolic link counts as a file and is not followed.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        if not re.fullmatch(rf"({own_files})(\.tmp)?", name):
            return name
    return None


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes of a script out of its output folder until the block ends.

    The lock is the folder's own, not a file; it ends with the process, however that ends.
    Exits with status 2 if another process has it.
    """
    handles = [os.open(folder, os.O_RDONLY)]

    def close() -> None:
        while handles:
            os.close(handles.pop())

    # A process that was forked from this one would keep the lock when this one is killed.
    os.register_at_fork(after_in_child=close)
    try:
        fcntl.flock(handles[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        close()
        fail(f"another process is writing into {folder}; wait until it has finished")
    except OSError:
        pass  # some network file systems have no locks
    try:
        yield
    finally:
        close()


# The folders that this process has locked, and what unlocks them at its end.
LOCKED: set[Path] = set()
UNTIL_EXIT = contextlib.ExitStack()


def lock_output_dir(folder: Path) -> None:
    """Keep other processes of a script out of its output folder until this process ends.

    Exits with status 2 if another process has locked it.
    """
    path = folder.resolve()
    if path not in LOCKED:
        UNTIL_EXIT.enter_context(locked_folder(path))
        LOCKED.add(path)


def check_dataset_path(folder: Path) -> None:
    """Exit with status 2 if datasets would take the path of a dataset folder for a pattern."""
    if re.search(r"[*?\[\]]", os.path.realpath(folder)):
        fail(
            f"the path of --output_dir {folder} contains one of the characters * ? [ ], so that no "
            "script could read the dataset; choose another folder"
        )


def check_names(arguments: object) -> None:
    """Exit with status 2 if a text on the command line is not UTF-8: no file could record it."""
    for flag, value in vars(arguments).items():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                continue
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                fail(f"--{flag} {text!a} is not UTF-8; rename it")


def digests(contents: dict[str, str | bytes | None]) -> dict[str, str]:
    """Return 16 digits of the SHA-256 of each file, for the record of the folder."""
    hashes = {}
    for name, content in contents.items():
        if content is not None:
            data = content if isinstance(content, bytes) else content.encode("utf-8")
            hashes[name] = hashlib.sha256(data).hexdigest()[:16]
    return hashes


def find_changed_file(folder: Path, record: dict) -> str | None:
    """Return a file of the folder that is not the one of its record's ``files``, or None.

    It was edited, or the script was stopped while it replaced an earlier result. Files that are not
    there do not count; records of earlier versions have no digests.
    """
    recorded = record.get("files")
    for name, digest in recorded.items() if isinstance(recorded, dict) else ():
        path = folder / name
        if path.is_file() and digests({name: path.read_bytes()})[name] != digest:
            return name
    return None


def write_files(folder: Path, contents: dict[str, str | bytes | None]) -> None:
    """Write files into a folder, each whole or not at all; None removes a file.

    Exits with status 2 if the disk is full or the folder is read-only.
    """
    try:
        for name, content in contents.items():
            if content is None:
                (folder / name).unlink(missing_ok=True)
            else:
                write(folder / name, content)
    except OSError as error:
        remedy = "run the command again"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space and run the command again"
        fail(f"cannot write into {folder}: {error.strerror}; {remedy}")


def stage_files(folder: Path, contents: dict[str, str | bytes]) -> dict[Path, Path]:
    """Write files under temporary names: temporary name -> the name that the file shall have.

    Raises OSError if one of them cannot be written, and then leaves none.
    """
    staged = {}
    try:
        for name, content in contents.items():
            staged[write_temporary(folder / name, content)] = folder / name
    except OSError:
        for temporary in staged:
            temporary.unlink(missing_ok=True)
        raise
    return staged


def read_json(path: Path) -> dict:
    """Return the object in a JSON file. Exits with status 2 if it cannot be read or is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}; run its script again")
    except (ValueError, RecursionError) as error:
        fail(f"cannot read {path}: {one_line(error)}; run its script again")
    if not isinstance(content, dict):
        fail(f"{path} is not a JSON object; run its script again")
    return content


# The keys of a line of attributions.jsonl that the tools read.
ATTRIBUTION_KEYS = (
    "id text label prediction target tokens attributions words word_attributions"
).split()


def read_attributions(folder: Path) -> tuple[list[dict], dict]:
    """Return the documents of an attribution folder and its summary.

    Exits with status 2 if they are not complete.
    """
    path = folder / "attributions.jsonl"
    remedy = "run run_attribution.py again"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        documents = [json.loads(line) for line in lines if line]
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}; {remedy}")
    except ValueError as error:
        fail(f"cannot read {path}: {one_line(error)}; {remedy}")
    if not documents:
        fail(f"{path} has no documents; {remedy}")
    for document in documents:
        for key in ATTRIBUTION_KEYS:
            if not isinstance(document, dict) or key not in document:
                fail(f"{path} has a document without {key!r}; {remedy}")
    return documents, read_json(folder / "summary.json")


def attributions_digest(folder: Path) -> str:
    """Return the SHA-256 of attributions and faithfulness; a page with another is out of date."""
    digest = hashlib.sha256()
    for name in ("attributions.jsonl", "faithfulness.json"):
        path = folder / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def short_path(path: str) -> str:
    """Return the last part of a path or Hub id that identifies it.

    A folder that is called model, config or checkpoint-N is named by the one around it.
    """
    parts = [part.removesuffix(".json") for part in path.split("/") if part not in ("", ".")]
    while len(parts) > 1 and re.fullmatch(r"model|config|checkpoint-\d+", parts[-1]):
        parts.pop()
    return parts[-1] if parts else path


def public_name(source: str) -> str:
    """Return a Hub id as it is and of a local path its last part: it may be published."""
    if Path(source).exists() or source.count("/") != 1:
        return os.path.basename(os.path.abspath(source))
    return source


def run_name(folder: str | Path) -> str:
    """Return the name of a run: that of its folder.

    The run folders of run_paper.sh, lr-RATE-seed-SEED, are named by the folder around them.
    """
    path = Path(folder).absolute()
    return path.parent.name if re.fullmatch(r"lr-.+-seed-.+", path.name) else path.name


def hide_paths(text: str) -> str:
    """Replace every absolute path in a text by its last part: a page shows nobody's folders."""
    return re.sub(
        r"(?<![\w.:/~])(?:/[^\s/:,;'\"()<>]+){2,}", lambda match: short_path(match[0]), text
    )


def check_revision(flag: str, source: str, revision: str | None) -> None:
    """Exit with status 2 if a revision was given for a local folder, which has none."""
    if revision and Path(source).exists():
        fail(f"--{flag} is for the Hub, but {source} is a local folder; leave it out")


def model_commit(name: str, revision: str | None) -> str | None:
    """Return the commit of a model that was loaded from the Hub; None for a local folder."""
    file = cached_file(name, "config.json", revision=revision) or ""
    match = re.search(r"/snapshots/([0-9a-f]{40})/", file)
    return match and match[1]
