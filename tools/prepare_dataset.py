#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "datasets==5.2.0",
#     "jinja2==3.1.6",
#     "matplotlib==3.11.2",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "PyYAML==6.0.3",
#     "scikit-learn==1.9.1",
#     "scipy==1.17.1",
#     "transformers==5.23.0",
# ]
# ///
"""Make a dataset folder from own files or from a Hub dataset with other columns; every row is checked.

    python tools/prepare_dataset.py --train_file train.csv --test_file test.csv --text_column_names title,body \\
        --label_column_name kind --output_dir data/own
    python tools/prepare_dataset.py --dataset_name fancyzhx/ag_news --text_column_names text --output_dir data/ag_news
    python tools/prepare_dataset.py --dataset_name data/arxiv --shuffle_words --output_dir data/arxiv-shuffled

Every script reads the folder as --dataset_name and sees the same documents in the same splits. run_baseline.py and
run_classification.py also read such files and datasets themselves, with the same flags.

Labels are names or integers, in alphabetical or numerical order unless the dataset defines an order. A missing
validation split is a stratified tenth of the training split (--validation_fraction, --seed). --shuffle_words puts the
words of every text, separated by white space, in a random order. The same input and arguments give the same files.

Writes to --output_dir: data/{train,validation,test}-00000-of-00001.parquet with the columns id, abstract (the text)
and label, README.md (the dataset card) and manifest.json (arguments with the seed, SHA-256, counts).
"""

import hashlib
import io
import json
import logging
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from datasets import (
    Dataset,
    Features,
    Value,
    disable_progress_bars,
    get_dataset_split_names,
)

from common.cli import fail, parse_arguments, start_logging, versions
from common.data import SPLITS, DataArguments, load_splits
from common.folders import open_output_dir, write_files
from common.pages import markdown_table

logger = logging.getLogger(__name__)


@dataclass
class PrepareArguments:
    """What to do with the texts, and where to write."""

    output_dir: str = field(metadata={"help": "Dataset folder to write."})
    splits: list[str] | None = field(
        default=None, metadata={"help": "Splits to write. Defaults to all."}
    )
    shuffle_words: bool = field(
        default=False, metadata={"help": "Put the words of every text in a random order."}
    )
    seed: int = field(
        default=42, metadata={"help": "Random seed of the validation split and of --shuffle_words."}
    )


def shuffle_words(text: str, identifier: str, seed: int) -> str:
    """Return the words of a text in a random order that depends on the seed and the document's id alone."""
    digest = hashlib.sha256(f"{seed} {identifier}".encode()).digest()
    return " ".join(np.random.default_rng(list(digest)).permutation(text.split()))


def dataset_card(manifest: dict, names: list[str]) -> str:
    """Return README.md: the splits for datasets.load_dataset, and where the texts come from."""
    files = [{"split": split, "path": f"data/{split}-*"} for split in manifest["counts"]]
    # load_dataset caches a local folder by its name and configuration, so the description names the content.
    digest = hashlib.sha256("".join(manifest["sha256"].values()).encode()).hexdigest()
    source = manifest["arguments"]["dataset_name"] or ", ".join(manifest["source_sha256"])
    shuffled = (
        f" The words of every text are in a random order (seed {manifest['arguments']['seed']})."
    )
    rows = [[name, *(counts[name] for counts in manifest["counts"].values())] for name in names]
    return f"""---
task_categories: [text-classification]
configs:
- config_name: default
  description: sha256 {digest}
  data_files: {json.dumps(files)}
---

# Texts for classification

Made of {source}.{shuffled if manifest["arguments"]["shuffle_words"] else ""} Columns: id, abstract (the text), label.

{markdown_table(["label", *manifest["counts"]], rows)}
"""


def main() -> None:
    # 1. Arguments
    start_logging()
    disable_progress_bars()
    arguments, data = parse_arguments(__doc__, PrepareArguments, DataArguments)
    files = {split: file for split in SPLITS if (file := getattr(data, f"{split}_file"))}
    missing = [file for file in files.values() if not Path(file).is_file()]
    if missing and not data.dataset_name:
        fail(f"no such file: {missing[0]}")
    if unknown := {*(arguments.splits or [])} - {*SPLITS}:
        fail(f"--splits has {min(unknown)}; choose from {', '.join(SPLITS)}")
    if arguments.seed < 0:
        fail(f"--seed must be 0 or more, not {arguments.seed}")
    folder = Path(arguments.output_dir)

    # 2. The splits
    try:
        given = files or get_dataset_split_names(
            data.dataset_name, data.dataset_config_name, data.dataset_revision
        )
    except Exception:  # whatever is wrong with the dataset is reported when it is loaded
        given = SPLITS
    found = [
        split for split in SPLITS if split in given or (split == "validation" and "train" in given)
    ]
    needed = arguments.splits or found or list(SPLITS)
    open_output_dir(folder, r"data|manifest\.json|README\.md")
    if (folder / "README.md").exists() and not (
        folder / "manifest.json"
    ).exists():  # the card is written last
        fail(
            f"{folder} holds a README.md that this tool did not write; choose another --output_dir"
        )
    splits, commit = load_splits(data, needed, arguments.seed)
    label = splits[needed[0]].features["label"]

    # 3. The files
    contents, counts = {}, {}
    for split, part in splits.items():
        texts = part["text"]
        if arguments.shuffle_words:
            pairs = zip(part["text"], part["id"], strict=True)
            texts = [shuffle_words(text, identifier, arguments.seed) for text, identifier in pairs]
        columns = {"id": part["id"][:], "abstract": list(texts), "label": part["label"][:]}
        features = Features({"id": Value("string"), "abstract": Value("string"), "label": label})
        buffer = io.BytesIO()
        Dataset.from_dict(columns, features).to_parquet(buffer)
        contents[f"{split}-00000-of-00001.parquet"] = buffer.getvalue()
        counted = Counter(columns["label"])
        counts[split] = {name: counted[number] for number, name in enumerate(label.names)}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    sources = {
        Path(file).name: hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for file in files.values()
    }
    recorded = {
        key: value
        for key, value in (asdict(arguments) | asdict(data)).items()
        if key != "output_dir"
    }
    manifest = {
        "script": "prepare_dataset.py",
        "arguments": recorded | {f"{split}_file": Path(file).name for split, file in files.items()},
        "dataset_commit": commit,
        "source_sha256": sources,
        "counts": counts,
        "sha256": digests,
        "versions": versions("datasets", "scikit-learn"),
    }
    if data.dataset_name and Path(data.dataset_name).exists():
        manifest["arguments"]["dataset_name"] = Path(data.dataset_name).name

    # 4. The folder; the card comes last
    try:
        (folder / "data").mkdir(exist_ok=True)
        for old in {path.name for path in folder.glob("data/*")} - set(contents):
            (folder / "data" / old).unlink()
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}")
    write_files(folder / "data", contents)
    card = dataset_card(manifest, label.names)
    write_files(
        folder,
        {
            "README.md": card,
            "manifest.json": json.dumps(manifest, indent=2, ensure_ascii=False) + "\n",
        },
    )
    sizes = ", ".join(f"{len(part):,} {split}" for split, part in splits.items())
    logger.info("%s documents, %d classes", sizes, label.num_classes)
    logger.info("next: python run_baseline.py --dataset_name %s --output_dir runs/svm", folder)


if __name__ == "__main__":
    main()
