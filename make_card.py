#!/usr/bin/env python
"""Draw a finished run and write its model card; push the run folder to the Hub if asked.

    python make_card.py --run_dir runs/bge
    python make_card.py --run_dir runs/bge --push_to_hub --hub_model_id me/bge-large-arxiv-geometry

run_baseline.py and run_classification.py start it at their end. It reads files only, so a card can be written again,
or a push that failed repeated, without the model.

Reads run_arguments.json, all_results.json, trainer_state.json and predictions.csv. Writes into the run folder
confusion_matrix.png, training_curve.png (encoders) and README.md with a model-index of the test metrics.
"""

import argparse
import difflib
import json
import logging
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml
from huggingface_hub import EvalResult, HfApi, ModelCardData
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from transformers import HfArgumentParser

logger = logging.getLogger(__name__)

METRICS = {"accuracy": "Accuracy", "f1": "Macro F1", "precision": "Macro precision", "recall": "Macro recall"}


@dataclass
class CardArguments:
    """Which run, and where it is to be published."""

    run_dir: str = field(metadata={"help": "Folder written by run_baseline.py or run_classification.py."})
    push_to_hub: bool = field(default=False, metadata={"help": "Upload the folder, without its checkpoints."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Repository on the Hub: name or owner/name."})
    hub_private_repo: bool = field(default=False, metadata={"help": "Make a new repository a private one."})


def fail(message: str) -> NoReturn:
    """End the program as every user's mistake ends it: one line on standard error, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def one_line(error: BaseException) -> str:
    """A library's message as one line that fits an error line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def parse_arguments(*dataclass_types: type) -> tuple:
    """Parse the command line; a first argument FILE.json or FILE.yaml stands for flags, later flags override it.

    Ends with exit code 2 on an unreadable file, an unknown flag (the nearest known one is named) or a bad value.
    """
    parser = HfArgumentParser(
        dataclass_types, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = fail
    arguments = sys.argv[1:]
    if arguments and arguments[0].endswith((".json", ".yaml", ".yml")):
        try:
            recipe = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))  # JSON is YAML
            recipe = {key: value for key, value in recipe.items() if value is not None}
            flags = [
                word
                for key, value in recipe.items()
                for word in (f"--{key}", *map(str, value if isinstance(value, list) else [value]))
            ]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
            fail(f"{arguments[0]} is no readable file of arguments (flag: value a line): {one_line(error)}")
        arguments = flags + arguments[1:]
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        nearest = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        fail(f"unknown argument {unknown[0]}; {f'did you mean {nearest[0]}?' if nearest else '--help lists all'}")
    try:
        return parser.parse_dict(vars(namespace))
    except (ValueError, ImportError) as error:
        fail(one_line(error))


def write(path: Path, content: str) -> None:
    """Write text under a temporary name and rename it, so that no file is ever half there."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Save and close a figure; no date goes into the file, so the same figure gives the same bytes."""
    temporary = path.with_name("tmp." + path.name)
    figure.savefig(temporary, dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    os.replace(temporary, path)


def plot_confusion_matrix(references: pd.Series, predictions: pd.Series, names: list[str]) -> plt.Figure:
    """Counts in the cells, colour by the share of the true class."""
    counts = confusion_matrix(references, predictions, labels=names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(1.1 * len(names) + 1.5, len(names) + 1))
    display = ConfusionMatrixDisplay(shares, display_labels=names)
    display.plot(ax=axes, cmap="Blues", include_values=False, im_kw={"vmin": 0, "vmax": 1})
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
    axes.set(xlabel="predicted", ylabel="true")
    display.figure_.axes[-1].set_ylabel("share of the true class")
    return figure


def plot_training(history: list[dict], best_step: int | None) -> plt.Figure:
    """Training and validation loss over the epochs, the best evaluation marked, the learning rate in grey."""
    log = pd.DataFrame(history)
    figure, axes = plt.subplots(figsize=(7, 4))
    for key, name, style in [("loss", "training", "-"), ("eval_loss", "validation", "o-")]:
        if key in log:
            rows = log[log[key].notna()]
            axes.plot(rows["epoch"], rows[key], style, label=name, markersize=4)
    if best_step and "eval_loss" in log:
        best = log[(log["step"] == best_step) & log["eval_loss"].notna()].head(1)
        axes.plot(best["epoch"], best["eval_loss"], "*", color="black", markersize=13, label="best")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.spines[["top"]].set_visible(False)
    if "learning_rate" in log:
        rows = log[log["learning_rate"].notna()]
        right = axes.twinx()
        right.plot(rows["epoch"], rows["learning_rate"], color="0.7", linewidth=1)
        right.set_ylabel("learning rate", color="0.5")
        right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        right.spines[["top"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def public_name(source: str) -> str:
    """A Hub id as it is, a local path as its last part: a card shows nobody's folders."""
    return Path(source).name if Path(source).exists() or source.count("/") != 1 else source


def model_card(record: dict, results: dict, state: dict, names: list[str], model_id: str | None) -> str:
    """The text of README.md: metadata that the Hub reads, then what it is, how good it is, how to use it."""
    base, dataset = public_name(record["model_name_or_path"]), public_name(record["dataset_name"])
    baseline = record["script"] == "run_baseline.py"
    title = model_id.split("/")[-1] if model_id else f"{base.split('/')[-1]} on {dataset}"
    measured = [(key, name, results[f"predict_{key}"]) for key, name in METRICS.items()]
    card = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="sklearn" if baseline else "transformers",
        pipeline_tag="text-classification",
        tags=["text-classification", *(["sklearn", "skops"] if baseline else ["generated_from_trainer"])],
        model_name=title,
        base_model=base if "/" in base else None,
        datasets=[dataset] if "/" in dataset else None,
        eval_results=[
            EvalResult(
                task_type="text-classification",
                task_name="Text classification",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_split="test",
                metric_type=key,
                metric_name=name,
                metric_value=round(value, 4),
            )
            for key, name, value in measured
        ],
    )
    lines = [
        f"---\n{card.to_yaml()}\n---\n",
        f"# {title}\n",
        f"`{base}` trained to tell {', '.join(names)} apart, on `{dataset}`. The validation split chose the "
        f"{'setting' if baseline else 'checkpoint (lowest loss)'}; the test split was used once.\n",
        f"| {results['predict_samples']:,} test documents | per cent |\n|---|---|",
        *(f"| {name} | {100 * value:.2f} |" for _, name, value in measured),
        "",
        *(use_baseline(names) if baseline else use_encoder(record["arguments"], model_id)),
        "\n![confusion matrix](confusion_matrix.png)\n\n## Training\n",
        *(describe_search(state) if baseline else describe_training(record, state)),
        "\nVersions: " + ", ".join(f"{name} {number}" for name, number in record["versions"].items()) + ".",
        f"\n`predictions.csv` has the {'decision values' if baseline else 'probabilities'} for every test document.",
    ]
    return "\n".join(lines) + "\n"


def use_baseline(names: list[str]) -> list[str]:
    """How to load the SVM: skops loads only types that it knows to be safe."""
    return [
        "```python",
        "import skops.io",
        'model = skops.io.load("model.skops")',
        f"names = {names}",
        'print(names[model.predict(["We classify compact manifolds whose Ricci form is positive."])[0]])',
        "```",
    ]


def use_encoder(arguments: dict, model_id: str | None) -> list[str]:
    """How to load the encoder, with the length and the prefix that it was trained with."""
    prefix, limit = arguments["text_prefix"], arguments["max_seq_length"]
    return [
        *([f"Every text was preceded by `{prefix}`: do the same.\n"] if prefix else []),
        "```python",
        "from transformers import pipeline",
        f'classifier = pipeline("text-classification", "{model_id or "."}")',
        f'text = "{prefix}We classify compact manifolds whose Ricci form is positive."',
        f"print(classifier(text, truncation=True, max_length={limit}))",
        "```",
    ]


def describe_search(state: dict) -> list[str]:
    """The settings tried, best first."""
    rows = sorted(state["log_history"], key=lambda row: -row["eval_f1"])
    return [
        "| n-grams up to | sublinear tf | C | validation accuracy | validation macro F1 |\n|---|---|---|---|---|",
        *(
            f"| {row['ngram_max']} | {'yes' if row['sublinear_tf'] else 'no'} | {row['C']:g} | "
            f"{100 * row['eval_accuracy']:.2f} | {100 * row['eval_f1']:.2f} |"
            for row in rows
        ),
    ]


def describe_training(record: dict, state: dict) -> list[str]:
    """Hyper-parameters, then a row an evaluation."""
    return [
        f"Learning rate {record['learning_rate']:g}, {record['total_train_batch_size']} documents an update, at most "
        f"{record['arguments']['max_seq_length']} word pieces, {record['precision']}, seed {record['seed']}, "
        f"{record['processes']} x {record['device']}.\n",
        "| epoch | step | validation loss | accuracy | macro F1 | |\n|---|---|---|---|---|---|",
        *(
            f"| {row['epoch']:.2f} | {row['step']} | {row['eval_loss']:.4f} | {100 * row['eval_accuracy']:.2f} | "
            f"{100 * row['eval_f1']:.2f} | {'best' if row['step'] == state['best_global_step'] else ''} |"
            for row in state["log_history"]
            if "eval_loss" in row and row["step"] > 0
        ),
        "\n![training curve](training_curve.png)",
    ]


def push(folder: Path, arguments: CardArguments) -> None:
    """Upload the folder; whatever fails, the folder stays as it is and the command that tries again is named."""
    again = shlex.join(
        ["python", "make_card.py", "--run_dir", str(folder), "--push_to_hub", "--hub_model_id", arguments.hub_model_id]
    )
    try:
        api = HfApi()
        repository = api.create_repo(arguments.hub_model_id, private=arguments.hub_private_repo or None, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            ignore_patterns=["checkpoint-*", "*.tmp", "*.bin", "_*"],
            delete_patterns=["training_args.bin"],  # a pickle that the Trainer uploads while it trains
            commit_message="End of training",
        )
    except Exception as error:  # the client raises its own kinds, those of its HTTP library, and OSError
        fail(f"{folder} is complete but could not be pushed ({one_line(error)}); to try again: {again}")
    logger.info("pushed to %s", repository.repo_id)


def main() -> None:
    # 1. Arguments
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line a request otherwise
    (arguments,) = parse_arguments(CardArguments)
    if arguments.push_to_hub and not arguments.hub_model_id:
        fail("--push_to_hub needs --hub_model_id owner/name")
    folder = Path(arguments.run_dir)

    # 2. What the run left
    try:
        record, results, state = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("run_arguments.json", "all_results.json", "trainer_state.json")
        )
        predictions = pd.read_csv(folder / "predictions.csv", dtype={"id": str, "label": str, "prediction": str})
        names = list(predictions.columns[3:])

        # 3. Pictures and card
        matrix = plot_confusion_matrix(predictions["label"], predictions["prediction"], names)
        save_figure(matrix, folder / "confusion_matrix.png")
        if record["script"] == "run_classification.py":
            curve = plot_training(state["log_history"], state["best_global_step"])
            save_figure(curve, folder / "training_curve.png")
        write(folder / "README.md", model_card(record, results, state, names, arguments.hub_model_id))
    except OSError as error:
        fail(f"{folder} is no finished run, or cannot be written into ({error.strerror}: {error.filename})")
    except (ValueError, KeyError, TypeError) as error:
        fail(f"{folder} holds files that are not those of a run of this project ({type(error).__name__}: {error})")

    # 4. Hub
    if arguments.push_to_hub:
        push(folder, arguments)


if __name__ == "__main__":
    main()
