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
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "transformers==5.23.0",
# ]
# ///
"""Fit a logistic regression on the mean of the frozen hidden states of every layer (probing classifiers).

    python tools/probe_layers.py --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 \\
        --dataset_name data/arxiv --output_dir runs/probes
    python tools/compare_runs.py runs/svm runs/probes/layer-* --output_dir comparison

Layer 0 is the embedding layer, so its mean knows no word order except by position embeddings. The features are
standardized; --C is chosen for each layer by the loss on the validation split. Takes one forward pass over the dataset
and seconds for each layer, and gives the same result every time.

Writes to --output_dir a run folder layer-K for every layer, which tools/compare_runs.py reads: predictions.csv,
predict_results.json and run_arguments.json.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, precision_recall_fscore_support
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from common.cli import fail, one_line, parse_arguments, start_logging, versions
from common.data import dataset_commit, load_split
from common.folders import model_commit, short_path, write_files

logger = logging.getLogger(__name__)


@dataclass
class ProbeArguments:
    """Which model's hidden states to classify."""

    model_name_or_path: str = field(metadata={"help": "Model folder, or a model id on the Hub."})
    dataset_name: str = field(
        metadata={"help": "Dataset folder or Hub id with train, validation and test."}
    )
    output_dir: str = field(metadata={"help": "Folder of the run folders layer-0, layer-1, ..."})
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of a Hub model."}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."}
    )
    text_column_name: str = field(default="abstract", metadata={"help": "Column of the texts."})
    max_seq_length: int = field(
        default=256, metadata={"help": "Maximum number of tokens of a text."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Truncate the training split."}
    )
    batch_size: int = field(default=32, metadata={"help": "Documents in a forward pass."})
    C: list[float] = field(
        default_factory=lambda: [1e-4, 1e-3, 1e-2, 1e-1, 1.0],
        metadata={"help": "Values of the regularization strength C to try."},
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Disable the progress bar."})


def layer_means(
    model, tokenizer, texts: list[str], arguments: ProbeArguments, split: str
) -> np.ndarray:
    """Return the mean over the tokens of every hidden state: (documents, layers + 1, hidden size)."""
    lengths = [len(text) for text in texts]
    order = np.argsort(lengths, kind="stable")[::-1]
    means = None
    bar = tqdm(total=len(texts), desc=split, unit="doc", disable=arguments.disable_tqdm)
    for start in range(0, len(order), arguments.batch_size):
        rows = order[start : start + arguments.batch_size]
        options = {
            "truncation": True,
            "max_length": arguments.max_seq_length,
            "padding": True,
            "return_tensors": "pt",
        }
        batch = tokenizer([texts[row] for row in rows], **options).to(model.device)
        with torch.inference_mode():
            states = model(**batch, output_hidden_states=True).hidden_states
        mask = batch["attention_mask"][..., None].float()
        pooled = (
            torch.stack([(state.float() * mask).sum(1) / mask.sum(1) for state in states], dim=1)
            .cpu()
            .numpy()
        )
        means = np.empty((len(texts), *pooled.shape[1:]), np.float32) if means is None else means
        means[rows] = pooled
        bar.update(len(rows))
    bar.close()
    return means


def fit(train: tuple, validation: tuple, strengths: list[float]) -> tuple:
    """Return the classifier with the lowest validation loss, its C and the loss."""
    best = None
    for strength in sorted(strengths):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        classifier.fit(*train)
        loss = log_loss(
            validation[1], classifier.predict_proba(validation[0]), labels=classifier.classes_
        )
        if best is None or loss < best[2]:
            best = (classifier, strength, float(loss))
    return best


def main() -> None:
    # 1. Arguments, data
    start_logging()
    (arguments,) = parse_arguments(__doc__, ProbeArguments)
    if min(arguments.C, default=0) <= 0 or min(arguments.batch_size, arguments.max_seq_length) < 1:
        fail("--C needs values above 0, --batch_size and --max_seq_length integers from 1")
    if (arguments.max_train_samples or 1) < 1:
        fail(f"--max_train_samples must be at least 1, not {arguments.max_train_samples}")
    folder, column = Path(arguments.output_dir), arguments.text_column_name
    splits = {
        name: load_split(
            arguments.dataset_name, name, [column, "label"], arguments.dataset_revision
        )
        for name in ("train", "validation", "test")
    }
    if not hasattr(splits["train"].features["label"], "names"):
        fail(
            f"the labels of {arguments.dataset_name} have no names; tools/prepare_dataset.py makes such a dataset"
        )
    names = splits["train"].features["label"].names
    tables = {name: split.to_pandas() for name, split in splits.items()}
    tables["train"] = tables["train"][: arguments.max_train_samples]
    if absent := set(range(len(names))) - set(tables["train"]["label"]):
        fail(
            f"the training split has no document of class {names[min(absent)]}; give more with --max_train_samples"
        )

    # 2. Means of the hidden states
    options = {"revision": arguments.model_revision}
    try:
        tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path, **options)
        model = AutoModel.from_pretrained(
            arguments.model_name_or_path, dtype=torch.float32, **options
        )
    except (
        Exception
    ) as error:  # OSError, ValueError, KeyError or TypeError, by type of model, and the Hub's own
        fail(f"cannot load --model_name_or_path {arguments.model_name_or_path}: {one_line(error)}")
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    means = {
        name: layer_means(model, tokenizer, table[column].tolist(), arguments, name)
        for name, table in tables.items()
    }
    labels = {name: table["label"].to_numpy() for name, table in tables.items()}

    # 3. A classifier and a run folder for every layer
    paths = ("model_name_or_path", "dataset_name", "output_dir")
    shown = {key: short_path(getattr(arguments, key)) for key in paths}  # no path of this machine
    commits = {
        "model_commit": model_commit(arguments.model_name_or_path, arguments.model_revision),
        "dataset_commit": dataset_commit(splits["test"]),
    }
    for layer in range(means["test"].shape[1]):
        part = {name: (values[:, layer], labels[name]) for name, values in means.items()}
        classifier, strength, loss = fit(part["train"], part["validation"], arguments.C)
        probabilities = classifier.predict_proba(part["test"][0])
        prediction = probabilities.argmax(axis=1)
        right = float((prediction == labels["test"]).mean())
        scores = precision_recall_fscore_support(
            labels["test"], prediction, average="macro", zero_division=0
        )
        precision, recall, f1 = map(float, scores[:3])
        results = {"predict_accuracy": right, "predict_f1": f1, "predict_precision": precision}
        results |= {
            "predict_recall": recall,
            "predict_samples": len(prediction),
            "eval_loss": loss,
            "C": strength,
        }
        columns = {
            "label": [names[label] for label in labels["test"]],
            "prediction": [names[k] for k in prediction],
        }
        ids = tables["test"]["id"] if "id" in tables["test"] else map(str, range(len(prediction)))
        table = pd.DataFrame({"id": list(ids), **columns})
        table = pd.concat([table, pd.DataFrame(probabilities, columns=names)], axis=1)
        record = {
            "script": "probe_layers.py",
            "model_name_or_path": f"{short_path(arguments.model_name_or_path)}, mean of layer {layer}",
            "dataset_name": short_path(arguments.dataset_name),
            **commits,
            "arguments": asdict(arguments) | shown,
            "versions": versions("torch", "transformers", "scikit-learn", "datasets"),
        }
        place = folder / f"layer-{layer}"
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"cannot write into --output_dir {folder}: {error.strerror}")
        outputs = {"run_arguments.json": record, "predict_results.json": results}
        outputs = {
            name: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            for name, content in outputs.items()
        }
        write_files(
            place, outputs | {"predictions.csv": table.to_csv(index=False, float_format="%.6f")}
        )
        logger.info(
            "layer %d: C %g, validation loss %.4f, test accuracy %.2f %%",
            layer,
            strength,
            loss,
            100 * right,
        )
    logger.info(
        "next: python tools/compare_runs.py runs/svm %s/layer-* --output_dir comparison", folder
    )


if __name__ == "__main__":
    main()
