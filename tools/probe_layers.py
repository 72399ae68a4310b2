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
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Fit a logistic regression on the mean of the frozen hidden states of every layer: probing.

    python tools/probe_layers.py --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 \\
        --dataset_name data/arxiv --output_dir runs/probes
    python tools/compare_runs.py runs/svm runs/probes/layer-* --output_dir comparison

Layer 0 is the embedding layer, so its mean knows no word order except by position embeddings. The
features are standardized; --C is chosen for each layer by the loss on the validation split. Takes
one forward pass over the dataset and seconds for each layer, and gives the same result every time.

Text columns, their delimiter, a prefix and the maximum length are those that the model was trained
with, where its config.json has them.

Writes to --output_dir a run folder layer-K for every layer, which tools/compare_runs.py reads:
predictions.csv, eval_results.json, predict_results.json and run_arguments.json.
"""

import json
import logging
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, precision_recall_fscore_support
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from transformers import (
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from common.cli import fail, one_line, parse_arguments, start_logging, versions
from common.data import (
    MULTI_LABEL,
    SPLITS,
    DataArguments,
    LoadedData,
    check_delimiter,
    load_splits,
    split_names,
)
from common.encoders import (
    DEFAULT_LENGTH,
    TEXT_SETTINGS,
    check_max_seq_length,
    maximum_length,
)
from common.folders import (
    check_names,
    check_revision,
    model_commit,
    open_output_dir,
    short_path,
    write_files,
)

logger = logging.getLogger(__name__)

SEED = 42  # of a validation split that is taken from training
RECORD = "run_arguments.json"
OWN_FILES = r"run_arguments\.json|(eval|predict)_results\.json|predictions\.csv"


# Arguments


@dataclass
class ProbeArguments:
    """Which model's hidden states to classify."""

    model_name_or_path: str = field(metadata={"help": "Model folder, or a model id on the Hub."})
    dataset_name: str = field(
        metadata={"help": "Dataset folder or Hub id with train, validation and test."}
    )
    output_dir: str = field(metadata={"help": "Folder of the run folders layer-0, layer-1, ..."})
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a Hub model."}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."}
    )
    text_column_names: list[str] | None = field(
        default=None, metadata={"help": "Columns of text. Default: as in training, or abstract."}
    )
    text_column_delimiter: str | None = field(
        default=None,
        metadata={"help": "Text between joined columns. Default: as in training, or a space."},
    )
    max_seq_length: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens of a text. Default: as in training, or 256 or the "
            "model's maximum."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Truncate the training split."}
    )
    batch_size: int = field(default=32, metadata={"help": "Documents in a forward pass."})
    C: list[float] = field(
        default_factory=lambda: [1e-4, 1e-3, 1e-2, 1e-1, 1.0],
        metadata={"help": "Values of C to try, the inverse of the regularization strength."},
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Disable the progress bar."})

    def __post_init__(self):
        if self.text_column_names is not None:
            self.text_column_names = split_names(self.text_column_names)


@dataclass
class TextArguments:
    """How the model reads a document: its own way of training unless a flag says otherwise."""

    text_column_names: list[str]
    text_column_delimiter: str
    text_prefix: str
    max_seq_length: int


def check_arguments(arguments: ProbeArguments) -> None:
    """Exit with status 2 on values that cannot be used."""
    if not arguments.C or not all(0 < C < float("inf") for C in arguments.C):
        fail(f"--C {' '.join(map(str, arguments.C))}: give numbers above 0")
    for flag in ("batch_size", "max_train_samples"):
        value = getattr(arguments, flag)
        if value is not None and value < 1:
            fail(f"--{flag} must be at least 1, not {value}")
    check_revision("dataset_revision", arguments.dataset_name, arguments.dataset_revision)
    check_revision("model_revision", arguments.model_name_or_path, arguments.model_revision)


def text_arguments(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, arguments: ProbeArguments
) -> TextArguments:
    """Return how documents are read: by the flags, then by the model's config, then by default.

    Warns about a flag that differs from the training of the model. Exits with status 2 if
    --max_seq_length is more than the model's positions, or if a delimiter joins nothing.
    """
    limit = maximum_length(model, tokenizer)
    if arguments.max_seq_length is not None:
        check_max_seq_length(arguments.max_seq_length, limit, arguments.model_name_or_path)
    asked = {
        "text_column_names": arguments.text_column_names
        and split_names(arguments.text_column_names),
        "text_column_delimiter": arguments.text_column_delimiter,
        "max_seq_length": arguments.max_seq_length,
    }
    recorded = {}
    for name, kind in TEXT_SETTINGS.items():
        value = getattr(model.config, name, None)
        recorded[name] = value if isinstance(value, kind) else None
    for name, value in asked.items():
        trained = recorded[name]
        if value is not None and trained is not None and value != trained:
            logger.warning("%s is %s, but the model was trained with %s", name, value, trained)
    columns = asked["text_column_names"] or recorded["text_column_names"]
    columns = columns or ["abstract"]
    delimiter = asked["text_column_delimiter"]
    check_delimiter(delimiter, columns)
    if delimiter is None:
        delimiter = recorded["text_column_delimiter"]
    return TextArguments(
        text_column_names=columns,
        text_column_delimiter=" " if delimiter is None else delimiter,
        text_prefix=recorded["text_prefix"] or "",
        max_seq_length=asked["max_seq_length"]
        or min(limit, recorded["max_seq_length"] or DEFAULT_LENGTH),
    )


# Features


def load_model(arguments: ProbeArguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model, in evaluation mode on the GPU if there is one, and its tokenizer.

    Weights are read from safetensors files only, and no code of the model's folder runs. Exits with
    status 2 if they cannot be loaded.
    """
    name = arguments.model_name_or_path
    options = {"revision": arguments.model_revision or "main", "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModel.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, **options
        )
    # OSError, ValueError, KeyError or TypeError, by type of model, the Hub's own, and those of
    # tokenizers and safetensors, which derive from Exception alone
    except Exception as error:
        fail(f"cannot load --model_name_or_path {name}: {one_line(error)}")
    if tokenizer.pad_token is None:  # a decoder's: any token can fill up what the mask hides
        if tokenizer.eos_token is None:
            fail(f"the tokenizer of {name} has neither a PAD nor an EOS token to fill up batches")
        tokenizer.pad_token = tokenizer.eos_token
    model.eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model, tokenizer


def layer_means(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    max_seq_length: int,
    batch_size: int,
    bar: tqdm,
) -> np.ndarray:
    """Return the mean of every hidden state over the tokens: (documents, layers + 1, size)."""
    # Texts of similar length share a batch, the longest first: a lack of memory shows at once.
    lengths = [len(text) for text in texts]
    order = np.argsort(lengths, kind="stable")[::-1]
    means = None
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer(
            [texts[row] for row in rows],
            truncation=True,
            max_length=max_seq_length,
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            states = model(**batch, output_hidden_states=True).hidden_states
        mask = batch["attention_mask"][..., None].float()  # (documents, tokens, 1)
        pooled = [(state.float() * mask).sum(1) / mask.sum(1) for state in states]
        pooled = torch.stack(pooled, dim=1).cpu().numpy()
        if means is None:
            means = np.empty((len(texts), *pooled.shape[1:]), np.float32)
        means[rows] = pooled
        bar.update(len(rows))
    return means


# Probes


@dataclass
class Probe:
    """A classifier of one layer's features, and how it was chosen."""

    classifier: Pipeline
    C: float
    loss: float  # on the validation split


def fit(
    train: np.ndarray,
    train_labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    values_of_C: list[float],
) -> Probe:
    """Return the classifier with the lowest validation loss; features are (documents, size)."""
    best = None
    for C in sorted(values_of_C):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))
        classifier.fit(train, train_labels)
        probabilities = classifier.predict_proba(validation)
        loss = float(log_loss(validation_labels, probabilities, labels=classifier.classes_))
        if best is None or loss < best.loss:
            best = Probe(classifier, C, loss)
    return best


def fit_layers(
    means: dict[str, np.ndarray], data: LoadedData, values_of_C: list[float]
) -> Iterator[tuple[int, Probe]]:
    """Yield the number of each layer with its probe."""
    train_labels = np.array(data.splits["train"]["label"])
    validation_labels = np.array(data.splits["validation"]["label"])
    for layer in range(means["train"].shape[1]):
        yield (
            layer,
            fit(
                means["train"][:, layer],
                train_labels,
                means["validation"][:, layer],
                validation_labels,
                values_of_C,
            ),
        )


# The run folders


def open_layer_folders(folder: Path, layers: int) -> list[Path]:
    """Make or check the run folder of every layer. Exits with status 2 if one is not this script's.

    Folders of layers that this model does not have would be taken for its own by compare_runs.py.
    """
    numbers = []
    if folder.is_dir():
        names = [path.name for path in folder.iterdir()]
        numbers = [int(name[6:]) for name in names if re.fullmatch(r"layer-\d+", name)]
    if numbers and max(numbers) >= layers:
        fail(
            f"--output_dir {folder} holds layer-{max(numbers)} of another model, this one has "
            f"layers 0 to {layers - 1}; choose another folder"
        )
    folders = [folder / f"layer-{layer}" for layer in range(layers)]
    for path in folders:
        open_output_dir(path, "probe_layers.py", [RECORD], OWN_FILES)
    return folders


def write_run(
    folder: Path, probe: Probe, features: np.ndarray, data: LoadedData, record: dict
) -> None:
    """Predict the test split from features (documents, size), and write a layer's run folder."""
    test = data.splits["test"]
    labels = np.array(test["label"])
    probabilities = probe.classifier.predict_proba(features)
    predictions = probabilities.argmax(axis=1)
    accuracy = float((predictions == labels).mean())
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="macro", zero_division=0
    )
    results = {
        "predict_accuracy": accuracy,
        "predict_f1": float(f1),
        "predict_precision": float(precision),
        "predict_recall": float(recall),
        "predict_samples": len(predictions),
        "C": probe.C,
    }
    # Where compare_runs.py looks for it when it chooses the reference
    evaluated = {"eval_loss": probe.loss}
    columns = pd.DataFrame(
        {
            "id": test["id"],
            "label": [data.labels[label] for label in labels],
            "prediction": [data.labels[label] for label in predictions],
        }
    )
    scores = pd.DataFrame(probabilities, columns=data.labels)
    table = pd.concat([columns, scores], axis=1)
    # The record stands whole only beside its own results; until then it says whose folder it is.
    write_files(
        folder,
        {
            RECORD: json.dumps({"script": record["script"]}) + "\n",
            "eval_results.json": json.dumps(evaluated, indent=2) + "\n",
            "predict_results.json": json.dumps(results, indent=2) + "\n",
            "predictions.csv": table.to_csv(index=False, float_format="%.6f"),
        },
    )
    write_files(folder, {RECORD: json.dumps(record, indent=2, ensure_ascii=False) + "\n"})
    logger.info(
        "%s: C %g, validation loss %.4f, test accuracy %.2f percent",
        folder.name,
        probe.C,
        probe.loss,
        100 * accuracy,
    )


def run_record(
    arguments: ProbeArguments, reading: TextArguments, data: LoadedData, layer: int
) -> dict:
    """Return run_arguments.json of a layer; no path of this machine."""
    shown = asdict(arguments) | asdict(reading)
    for name in ("model_name_or_path", "dataset_name", "output_dir"):
        shown[name] = short_path(getattr(arguments, name))
    shown["label_column_name"] = "label"
    return {
        "script": "probe_layers.py",
        "model_name_or_path": f"{shown['model_name_or_path']}, mean of layer {layer}",
        "dataset_name": shown["dataset_name"],
        "model_commit": model_commit(arguments.model_name_or_path, arguments.model_revision),
        "dataset_commit": data.commit,
        "labels": data.labels,
        "data_fingerprints": data.fingerprints,
        "arguments": shown,
        "versions": versions("torch", "transformers", "scikit-learn", "datasets"),
    }


def main() -> None:
    # 1. Arguments, model, data
    start_logging()
    (arguments,) = parse_arguments(__doc__, ProbeArguments)
    check_names(arguments)
    check_arguments(arguments)
    model, tokenizer = load_model(arguments)
    reading = text_arguments(model, tokenizer, arguments)
    data_arguments = DataArguments(
        dataset_name=arguments.dataset_name,
        dataset_revision=arguments.dataset_revision,
        text_column_names=reading.text_column_names,
        text_column_delimiter=reading.text_column_delimiter,
        max_train_samples=arguments.max_train_samples,
    )
    data = load_splits(data_arguments, [*SPLITS], SEED)
    if data.problem_type == MULTI_LABEL:
        fail(
            f"{arguments.dataset_name} has several labels per document, which probe_layers.py does "
            "not support; give a dataset of one label per document"
        )
    if "label" not in data.splits["test"].column_names:
        fail(
            f"the test split of {arguments.dataset_name} has no labels, which probe_layers.py "
            "requires; give a dataset whose three splits have labels"
        )
    for label, name in enumerate(data.labels):
        if label not in data.splits["train"]["label"]:
            fail(
                f"the training split has no document of class {name!r}; give more with "
                "--max_train_samples"
            )
    layers = model.config.num_hidden_layers + 1
    folders = open_layer_folders(Path(arguments.output_dir), layers)

    # 2. Means of the hidden states
    means = {}
    for split in SPLITS:
        texts = [reading.text_prefix + text for text in data.splits[split]["text"]]
        with tqdm(
            total=len(texts), desc=split, unit="doc", disable=arguments.disable_tqdm
        ) as progress:
            means[split] = layer_means(
                model, tokenizer, texts, reading.max_seq_length, arguments.batch_size, progress
            )

    # 3. A classifier and a run folder for every layer
    for layer, probe in fit_layers(means, data, arguments.C):
        record = run_record(arguments, reading, data, layer)
        write_run(folders[layer], probe, means["test"][:, layer], data, record)
    logger.info(
        "next: python tools/compare_runs.py %s/layer-* --output_dir comparison",
        shlex.quote(arguments.output_dir),
    )


if __name__ == "__main__":
    main()
