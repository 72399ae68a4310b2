#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "huggingface_hub==2.4.0",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "pyarrow==26.0.1",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Make a dataset folder from own files or from a Hub dataset; every row is checked.

    python tools/prepare_dataset.py --train_file train.csv --test_file test.csv \\
        --text_column_names title,body --label_column_name kind --output_dir data/own
    python tools/prepare_dataset.py --dataset_name fancyzhx/ag_news --text_column_names text \\
        --output_dir data/ag_news
    # what word order is worth: the same words in their order, and shuffled
    python tools/prepare_dataset.py --dataset_name data/arxiv --output_dir data/arxiv-ordered \\
        --truncate --tokenizer_name sentence-transformers/all-MiniLM-L6-v2 --max_seq_length 256
    python tools/prepare_dataset.py --dataset_name data/arxiv --output_dir data/arxiv-shuffled \\
        --shuffle_words --tokenizer_name sentence-transformers/all-MiniLM-L6-v2 --max_seq_length 256

Every script reads the folder as --dataset_name and sees the same documents in the same splits.
run_baseline.py and run_classification.py also read such files and datasets themselves, with the
same flags.

Labels are names or integers, in alphabetical or numerical order unless the dataset or
--label_names defines one. Documents with several labels have lists of them, or texts with a
--label_delimiter. A missing validation split is a stratified share of the training split
(--validation_fraction, --split_seed), and with --test_fraction so is the test split. A test split
may lack labels. --drop_bad_rows drops and counts rows that would otherwise stop the command.
--drop_leaked removes training texts that another split has, too.
--shuffle_words puts the words of every text, separated by white space, in a random order. With
--tokenizer_name, a text is first cut after the last word that a model reads whole within
--max_seq_length tokens, so that models on both datasets read the same words. The same input and
arguments give the same files.

Writes to --output_dir: data/{train,validation,test}-00000-of-00001.parquet with the columns id,
abstract (the text) and label (or a list of labels), README.md (the dataset card) and manifest.json
(arguments with the seeds, SHA-256, counts). Files that this tool did not write are never replaced
or deleted.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import shlex
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, Value, disable_progress_bars

# transformers advises to install PyTorch, which a tokenizer does not need.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from common.cli import fail, one_line, parse_arguments, start_logging, versions
from common.data import (
    MULTI_LABEL,
    SPLITS,
    DataArguments,
    check_data_arguments,
    data_files,
    each_name,
    load_hub_dataset,
    load_splits,
    name_splits,
    normalize_text,
)
from common.folders import (
    check_dataset_path,
    check_names,
    is_record,
    locked_folder,
    open_output_dir,
    public_name,
    read_json,
    stage_files,
    write,
)
from common.text import escape_markdown, markdown_table

logger = logging.getLogger(__name__)

SCRIPT = "prepare_dataset.py"
DEFAULT_LENGTH = 256  # tokens that a model reads
# Written first and removed last: it names the files of an interrupted command as the tool's own.
PARTIAL_FILE = "manifest.partial.json"
OWN_FILES = (
    r"README\.md|manifest\.json|manifest\.partial\.json"
    r"|data/(train|validation|test)-00000-of-00001\.parquet"
)


@dataclass
class PrepareArguments:
    """What to do with the texts, and where to write."""

    output_dir: str = field(metadata={"help": "Dataset folder to write."})
    splits: list[str] | None = field(
        default=None, metadata={"help": "Splits to write. Defaults to all."}
    )
    drop_leaked: bool = field(
        default=False,
        metadata={
            "help": "Remove training texts that are also in the validation or test split, and "
            "validation texts that are also in the test split, regardless of white space and case. "
            "Splits that --splits leaves out are compared, too."
        },
    )
    truncate: bool = field(
        default=False,
        metadata={"help": "Keep the words that a model reads; requires --tokenizer_name."},
    )
    shuffle_words: bool = field(
        default=False,
        metadata={
            "help": "Put the words of every text in a random order; with --tokenizer_name, only "
            "the words that a model reads."
        },
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer (folder or Hub id) of that model."}
    )
    max_seq_length: int | None = field(
        default=None,
        metadata={"help": "Tokens that it reads, special tokens included. Default: 256."},
    )
    text_prefix: str = field(
        default="",
        metadata={"help": "What that model reads before every text; it takes some of its tokens."},
    )
    seed: int = field(
        default=42,
        metadata={"help": "Random seed of --shuffle_words and --shuffle_train_dataset."},
    )


def check_arguments(arguments: PrepareArguments, data: DataArguments) -> None:
    """Exit with status 2 on arguments that have no meaning, and on sources inside the output."""
    for holder in (arguments, data):
        check_names(holder)
    check_dataset_path(Path(arguments.output_dir))
    for split in arguments.splits or []:
        if split not in SPLITS:
            fail(f"--splits has {split}; choose from {', '.join(SPLITS)}")
    if not 0 <= arguments.seed < 2**32:
        fail(f"--seed must be between 0 and 2**32 - 1, not {arguments.seed}")
    is_random = arguments.shuffle_words or data.shuffle_train_dataset
    if arguments.seed != PrepareArguments.seed and not is_random:
        fail("--seed requires --shuffle_words or --shuffle_train_dataset; leave it out")
    if arguments.drop_leaked and arguments.splits and {*arguments.splits} == {"test"}:
        fail("--drop_leaked changes training and validation, and --splits has neither")
    if arguments.truncate and not arguments.tokenizer_name:
        fail(
            "--truncate requires --tokenizer_name, the tokenizer of the model that reads the texts"
        )
    if arguments.tokenizer_name and not (arguments.truncate or arguments.shuffle_words):
        fail("--tokenizer_name requires --truncate or --shuffle_words")
    if arguments.max_seq_length is not None and not arguments.tokenizer_name:
        fail("--max_seq_length requires --tokenizer_name; without it texts are not cut")
    if arguments.text_prefix and not arguments.tokenizer_name:
        fail("--text_prefix requires --tokenizer_name; without it texts are not cut")
    output = os.path.realpath(arguments.output_dir)
    for key in ("dataset_name", "train_file", "validation_file", "test_file"):
        source = getattr(data, key)
        # os.path, because no such path is too long for it.
        is_local = source and os.path.exists(source)
        if is_local and Path(os.path.realpath(source)).is_relative_to(output):
            fail(f"--{key} {source} is inside --output_dir; choose another --output_dir")


def digest_own_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the Parquet files in the output folder.

    Exits with status 2 if one of them is not as this tool wrote it.
    """
    known = {}
    for name in ("manifest.json", PARTIAL_FILE):
        if is_record(folder / name, SCRIPT):
            record = read_json(folder / name)
            for digests in (record.get("sha256", {}), record.get("replaced_sha256", {})):
                if not isinstance(digests, dict):
                    fail(f"{folder / name} is damaged; choose another folder")
                for file, digest in digests.items():
                    known.setdefault(file, set()).add(digest)
    digests = {}
    for path in sorted(folder.glob("data/*.parquet")):
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        if digests[path.name] not in known.get(path.name, ()):
            fail(
                f"--output_dir {folder} holds data/{path.name}, which is not as {SCRIPT} wrote it; "
                "choose another folder"
            )
    return digests


def load_tokenizer(name: str, max_seq_length: int) -> PreTrainedTokenizerBase:
    """Return a tokenizer that knows where its tokens are in the text. Exit with status 2 if not."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = one_line(error)
        if "trust_remote_code" in str(error):
            reason = "it requires code of its own, which is never run; choose another"
        fail(f"cannot load --tokenizer_name {name}: {reason}")
    # Without files transformers makes an empty tokenizer.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        fail(f"cannot load --tokenizer_name {name}: it has no files of a tokenizer")
    if not tokenizer.is_fast:
        fail(f"--tokenizer_name {name} does not say where tokens are; choose a fast tokenizer")
    limit = tokenizer.model_max_length
    if not 3 <= max_seq_length <= limit:
        fail(f"--max_seq_length must be between 3 and {limit}, the tokenizer's maximum")
    return tokenizer


def truncate_texts(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, max_seq_length: int, prefix: str = ""
) -> list[str]:
    """Cut texts after the last word that is whole within max_seq_length tokens, after the prefix.

    A word is what stands between white space. One that is cut by the limit is left out, because
    half a word would be another word, and where words are shuffled, at another place. A text that
    the model reads whole stays as it is.
    """
    encoded = tokenizer(
        [prefix + text for text in texts],
        truncation=True,
        max_length=max_seq_length,
        return_offsets_mapping=True,
    )
    cut = []
    for text, ids, offsets in zip(
        texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        # Special tokens have the offsets (0, 0).
        end = max(stop for _, stop in offsets) - len(prefix)
        is_whole = len(ids) < max_seq_length or not text[max(end, 0) :].strip()
        if is_whole:
            cut.append(text)
            continue
        if end <= 0:
            fail("--text_prefix leaves no room for a text; give a larger --max_seq_length")
        start = text[:end]
        if not text[end].isspace() and len(start.split()) > 1:
            start = start.rsplit(maxsplit=1)[0]
        cut.append(start.rstrip())
    return cut


def shuffle_words(text: str, identifier: str, seed: int) -> str:
    """Return the words of a text in an order that depends on the seed and the id alone."""
    words = text.split()
    digest = hashlib.sha256(f"{seed} {identifier}".encode()).digest()
    # Of places, not of words: an array of these would give each the space of the longest.
    order = np.random.default_rng(list(digest)).permutation(len(words))
    return " ".join(words[place] for place in order)


def check_data_flags(data: DataArguments, written: list[str] | None, existing: list[str]) -> None:
    """Exit with status 2 on flags of splits that are not written, or not taken from training.

    written are the --splits, existing the splits that the data has itself.
    """
    taken = []
    if "train" in existing and "validation" not in existing:
        taken.append("validation")
    if "train" in existing and data.test_fraction is not None:
        taken.append("test")
    written = written or [*existing, *taken]
    flags = {
        "shuffle_train_dataset": "train",
        "max_train_samples": "train",
        "validation_fraction": "validation",
        "max_eval_samples": "validation",
        "max_predict_samples": "test",
    }
    for flag, split in flags.items():
        if getattr(data, flag) and split not in written:
            fail(f"--{flag}: no {split} split is written; leave it out")
    # With --test_fraction, the other splits are what it leaves.
    is_drawn = {*written} & {*taken} or "test" in taken
    if data.split_seed != DataArguments.split_seed and not is_drawn:
        fail("--split_seed: no split is taken from training; leave it out")


def find_splits(data: DataArguments) -> list[str]:
    """Return the splits that the data has itself. Exits with status 2 if it cannot be read."""
    check_data_arguments(data)
    if not data.dataset_name:
        return list(data_files(data))
    dataset = load_hub_dataset(data.dataset_name, data.dataset_config_name, data.dataset_revision)
    return list(name_splits(dataset, data))


def drop_leaked(splits: DatasetDict) -> dict[str, int]:
    """Remove, in place, the texts of training and validation that a later split has, too.

    Returns the number of removed rows of each split that lost some. Exits with status 2 if there is
    no other split, or if a class has no training text left.
    """
    if len(splits) < 2:
        fail(f"--drop_leaked: there is no other split than {', '.join(splits)}; leave it out")
    later = set()
    removed = {}
    for split in reversed(SPLITS):
        if split not in splits:
            continue
        dataset = splits[split]
        texts = [normalize_text(text) for text in dataset["text"]]
        kept = [row for row, text in enumerate(texts) if text not in later]
        if len(kept) < len(dataset):
            removed[split] = len(dataset) - len(kept)
            splits[split] = dataset.select(kept)
        later.update(texts)
        if not kept:
            fail(f"--drop_leaked would remove every text of split {split!r}; make another split")
        if split == "train":
            names = class_names(dataset)
            lost = set(each_name(dataset["label"])) - set(each_name(splits[split]["label"]))
            if lost:
                fail(
                    f"--drop_leaked would remove every training text of {names[min(lost)]!r}; "
                    "remove the texts from the other splits"
                )
    return removed


def class_names(dataset: Dataset) -> list[str]:
    """Return the names of the classes of a split, whose label is a ClassLabel or a list of it."""
    feature = dataset.features["label"]
    return getattr(feature, "feature", feature).names


def source_digests(data: DataArguments) -> dict[str, str]:
    """Return the SHA-256 of the files that were read; those of the same name get their split's."""
    files = {}
    for split in SPLITS:
        file = getattr(data, f"{split}_file")
        if file:
            files[split] = Path(file)
    digests = {}
    for split, path in files.items():
        same_name = {other for other in files.values() if other.name == path.name}
        name = path.name if len(same_name) == 1 else f"{split}: {path.name}"
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def dataset_card(manifest: dict, names: list[str]) -> str:
    """Return README.md: the splits for datasets.load_dataset, and where the texts come from."""
    arguments = manifest["arguments"]
    files = [{"split": split, "path": f"data/{split}-*"} for split in manifest["counts"]]
    # load_dataset caches a local folder by its name and configuration, so the description names
    # the content.
    digest = hashlib.sha256("".join(manifest["sha256"].values()).encode()).hexdigest()
    source = arguments["dataset_name"] or ", ".join(manifest["source_sha256"])
    sentences = [f"Made of {escape_markdown(source)}."]
    for split, reasons in manifest["dropped_rows"].items():
        for reason, count in reasons.items():
            sentences.append(f"{count} rows of {split} were dropped: {escape_markdown(reason)}.")
    for split, count in manifest["leaked_removed"].items():
        sentences.append(f"{count} texts of {split} that a later split has, too, were removed.")
    if arguments["tokenizer_name"]:
        counts = ", ".join(f"{count} of {split}" for split, count in manifest["truncated"].items())
        sentences.append(
            f"Texts end with the last word that a model with the tokenizer of "
            f"{escape_markdown(arguments['tokenizer_name'])} reads whole within "
            f"{arguments['max_seq_length']} tokens (texts that were cut: {counts})."
        )
    if arguments["shuffle_words"]:
        sentences.append(
            f"The words of every text are in a random order (seed {arguments['seed']})."
        )
    if manifest["problem_type"] == MULTI_LABEL:
        sentences.append("Columns: id, abstract (the text), label (a list of labels).")
    else:
        sentences.append("Columns: id, abstract (the text), label.")
    for split, count in manifest["unlabeled"].items():
        sentences.append(f"The {count} texts of {split} have no labels.")
    rows = [[name, *(counts[name] for counts in manifest["counts"].values())] for name in names]
    return f"""---
task_categories: [text-classification]
configs:
- config_name: default
  description: sha256 {digest}
  data_files: {json.dumps(files)}
---

# Texts for classification

{" ".join(sentences)}

{markdown_table(["label", *manifest["counts"]], rows)}
"""


def write_dataset(
    folder: Path, contents: dict[str, bytes], manifest: dict, card: str, before: dict[str, str]
) -> None:
    """Write the dataset folder so that the same command continues after an interruption.

    before has the SHA-256 of the Parquet files that are there and may be replaced. Exits with
    status 2 if the new files cannot be written; an existing dataset is unchanged then.
    """
    files = {f"data/{name}": content for name, content in contents.items()}
    files["README.md"] = card
    files["manifest.json"] = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    partial = {"script": SCRIPT, "sha256": manifest["sha256"], "replaced_sha256": before}
    was_incomplete = (folder / PARTIAL_FILE).exists()
    # 1. All files, under temporary names. If this command is killed meanwhile, the partial manifest
    # says that they are this tool's.
    try:
        write(folder / PARTIAL_FILE, json.dumps(partial, indent=2) + "\n")
        (folder / "data").mkdir(exist_ok=True)
        staged = stage_files(folder, files)
    except OSError as error:
        if not was_incomplete:
            (folder / PARTIAL_FILE).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            (folder / "data").rmdir()
        fail(
            f"cannot write into --output_dir {folder}: {error.strerror}; an existing dataset there "
            "is unchanged; free some space and run the same command again"
        )
    # 2. They take the places of the earlier files. Meanwhile, the folder has no manifest, so that
    # others see that it is incomplete, too.
    try:
        for name in ("manifest.json", "README.md"):
            (folder / name).unlink(missing_ok=True)
        for temporary, path in staged.items():
            os.replace(temporary, path)
        for name in sorted(set(before) - set(contents)):
            (folder / "data" / name).unlink(missing_ok=True)
        # Left by an interrupted command; open_output_dir has refused the files of others.
        for path in (*folder.glob("*.tmp"), *folder.glob("data/*.tmp")):
            path.unlink()
        (folder / PARTIAL_FILE).unlink()
    except OSError as error:
        fail(
            f"cannot write into --output_dir {folder}: {error.strerror}; the dataset there is "
            "incomplete; run the same command again"
        )


def prepare(folder: Path, arguments: PrepareArguments, data: DataArguments) -> None:
    """Read, check and change the texts and write the dataset folder, which is open and locked."""
    before = digest_own_files(folder)
    tokenizer = None
    if arguments.tokenizer_name:
        if arguments.max_seq_length is None:
            arguments.max_seq_length = DEFAULT_LENGTH
        tokenizer = load_tokenizer(arguments.tokenizer_name, arguments.max_seq_length)

    # 1. The splits
    existing = find_splits(data)
    check_data_flags(data, arguments.splits, existing)
    optional = [] if arguments.splits else list(SPLITS)
    if arguments.splits and arguments.drop_leaked:
        # The others are read for the comparison. One that does not exist is not taken from
        # training for it: then the training split would be another than without --drop_leaked.
        optional = existing + ["test"] * (data.test_fraction is not None)
    loaded = load_splits(data, arguments.splits or [], arguments.seed, optional)
    splits = loaded.splits
    removed = drop_leaked(splits) if arguments.drop_leaked else {}
    if arguments.splits:
        written = [split for split in SPLITS if split in arguments.splits]
        splits = DatasetDict({split: splits[split] for split in written})
        removed = {split: count for split, count in removed.items() if split in splits}
    for split, count in removed.items():
        logger.info("%d texts of split %r are removed: a later split has them", count, split)

    # 2. Texts
    features = Features({"id": Value("string"), "abstract": Value("string")})
    for dataset in splits.values():
        if "label" in dataset.features:
            features["label"] = dataset.features["label"]
    contents = {}
    counts = {}
    unlabeled = {}
    truncated = {}
    for split, dataset in splits.items():
        ids = dataset["id"][:]
        texts = dataset["text"][:]
        if tokenizer is not None:
            whole = texts
            texts = truncate_texts(
                whole, tokenizer, arguments.max_seq_length, arguments.text_prefix
            )
            truncated[split] = sum(a != b for a, b in zip(whole, texts, strict=True))
        if arguments.shuffle_words:
            texts = [
                shuffle_words(text, identifier, arguments.seed)
                for text, identifier in zip(texts, ids, strict=True)
            ]
        buffer = io.BytesIO()
        columns = {"id": ids, "abstract": texts}
        counted = Counter()
        if "label" in dataset.features:
            columns["label"] = dataset["label"][:]
            counted.update(each_name(columns["label"]))
        else:
            unlabeled[split] = len(ids)
            if "label" in features:  # datasets.load_dataset requires the same columns in all splits
                columns["label"] = [None] * len(ids)
        counts[split] = {name: counted[number] for number, name in enumerate(loaded.labels)}
        Dataset.from_dict(columns, features).to_parquet(buffer)
        contents[f"{split}-00000-of-00001.parquet"] = buffer.getvalue()
    if arguments.shuffle_words and tokenizer is None:
        logger.warning(
            "texts are shuffled whole: a model that reads their first tokens alone reads other "
            "words than in the ordered texts; give --tokenizer_name and --max_seq_length"
        )

    # 3. Manifest and card
    recorded = asdict(arguments) | asdict(data)
    del recorded["output_dir"]
    for key in ("dataset_name", "tokenizer_name", "train_file", "validation_file", "test_file"):
        if recorded[key]:
            recorded[key] = public_name(recorded[key])
    manifest = {
        "script": SCRIPT,
        "arguments": recorded,
        "dataset_commit": loaded.commit,
        "source_sha256": source_digests(data),
        "tokenizer_sha256": None,
        "problem_type": loaded.problem_type,
        "documents": {split: len(dataset) for split, dataset in splits.items()},
        "counts": counts,  # of labels: a document may have several or none
        "unlabeled": unlabeled,
        "dropped_rows": loaded.dropped,
        "leaked_removed": removed,
        "truncated": truncated,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        "versions": versions("datasets", "scikit-learn", "tokenizers"),
    }
    if tokenizer is not None:
        definition = tokenizer.backend_tokenizer.to_str()
        manifest["tokenizer_sha256"] = hashlib.sha256(definition.encode()).hexdigest()

    # 4. The folder
    write_dataset(folder, contents, manifest, dataset_card(manifest, loaded.labels), before)
    sizes = ", ".join(f"{len(dataset):,} {split}" for split, dataset in splits.items())
    logger.info("%s documents, %d classes", sizes, len(loaded.labels))
    if truncated:
        logger.info("texts that were cut: %s", truncated)
    name = shlex.quote(arguments.output_dir)
    if "train" in splits:
        logger.info("next: python run_baseline.py --dataset_name %s --output_dir runs/svm", name)
    else:
        logger.info(
            "without training data; next: python run_classification.py --model_name_or_path RUN "
            "--dataset_name %s --output_dir OUT --do_predict",
            name,
        )


def main() -> None:
    # Arguments and output folder
    start_logging()
    disable_progress_bars()
    arguments, data = parse_arguments(__doc__, PrepareArguments, DataArguments)
    check_arguments(arguments, data)
    folder = Path(arguments.output_dir)
    open_output_dir(folder, SCRIPT, ["manifest.json", PARTIAL_FILE], OWN_FILES)
    with locked_folder(folder):
        prepare(folder, arguments, data)


if __name__ == "__main__":
    main()
