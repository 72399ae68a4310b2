#!/usr/bin/env python
"""TF-IDF and a linear support vector machine: what can be told apart by counting words.

    python run_baseline.py --dataset_name data/arxiv --output_dir runs/svm

n-grams, sublinear term frequency and C are chosen by macro F1 on the validation split; the vocabulary, the weights and
the final model come from the training split alone, as an encoder's do. The test split is predicted once, at the end.

Writes into --output_dir: model.skops, train_results.json, eval_results.json, predict_results.json, all_results.json,
trainer_state.json (every setting tried), predictions.csv, top_words.csv, top_words.png, confusion_matrix.png,
run_arguments.json and README.md (the model card).
"""

import argparse
import difflib
import json
import logging
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import skops.io
import yaml
from datasets import ClassLabel, load_dataset
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC
from tqdm import tqdm
from transformers import HfArgumentParser

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
RUN_FILE = "run_arguments.json"


@dataclass
class BaselineArguments:
    """What to learn from, what to try, where to write."""

    dataset_name: str = field(metadata={"help": "Dataset folder written by fetch_arxiv.py, or a Hub dataset id."})
    output_dir: str = field(metadata={"help": "Run folder to write."})
    text_column_names: list[str] = field(
        default_factory=lambda: ["abstract"],
        metadata={"help": "Column or columns of text; several are joined by a blank."},
    )
    label_column_name: str = field(default="label", metadata={"help": "Column of the classes."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only the first N training documents."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only the first N validation documents."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Use only the first N test documents."})
    ngram_max: list[int] = field(
        default_factory=lambda: [1, 2], metadata={"help": "Longest n-grams to try: 1 is words, 2 words and pairs."}
    )
    sublinear_tf: list[int] = field(
        default_factory=lambda: [0, 1], metadata={"help": "Try raw counts (0), 1 + log(count) (1), or both."}
    )
    C: list[float] = field(
        default_factory=lambda: [0.1, 0.3, 1.0, 3.0, 10.0, 30.0], metadata={"help": "Values of the SVM's C to try."}
    )
    min_df: int = field(default=1, metadata={"help": "Leave out n-grams that stand in fewer training documents."})
    class_weight: str = field(
        default="none",
        metadata={"help": "balanced weighs classes by inverse frequency.", "choices": ["none", "balanced"]},
    )
    seed: int = field(default=42, metadata={"help": "Seed of the SVM's solver."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar."})


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


def load_splits(arguments: BaselineArguments) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Return the three splits as tables with the columns id, text and label (an integer), and the classes' names.

    Ends with exit code 2 if a split, a column or a text is missing, or if a later split has a class new to training.
    """
    columns = [name for names in arguments.text_column_names for name in names.split(",")]
    try:
        dataset = load_dataset(arguments.dataset_name)
    except Exception as error:  # datasets raises many kinds: no such folder, no network, broken parquet
        fail(f"cannot load dataset {arguments.dataset_name}: {one_line(error)}")
    for split in SPLITS:
        if split not in dataset or len(dataset[split]) == 0:
            fail(f"dataset {arguments.dataset_name} has no documents in split {split!r}; it has {list(dataset)}")
        for column in [*columns, arguments.label_column_name]:
            if column not in dataset[split].column_names:
                fail(f"column {column!r} is not in split {split!r}; columns are {dataset[split].column_names}")
    limits = (arguments.max_train_samples, arguments.max_eval_samples, arguments.max_predict_samples)
    for split, limit in zip(SPLITS, limits, strict=True):
        if limit is not None:
            if limit < 1:
                fail(f"the number of documents of split {split!r} must be at least 1, not {limit}")
            dataset[split] = dataset[split].select(range(min(limit, len(dataset[split]))))

    feature = dataset["train"].features[arguments.label_column_name]
    if isinstance(feature, ClassLabel):
        names = feature.names
    else:
        names = sorted({str(label) for label in dataset["train"][arguments.label_column_name]})
    splits, trained = {}, set()
    for split in SPLITS:
        frame = dataset[split].to_pandas()
        for column in columns:
            if frame[column].isna().any() or not frame[column].astype(str).str.strip().all():
                row = int(np.flatnonzero(frame[column].fillna("").astype(str).str.strip() == "")[0])
                fail(f"row {row} of split {split!r} has an empty {column!r}; remove it or fill it in")
        if isinstance(feature, ClassLabel):
            labels = frame[arguments.label_column_name].to_numpy()
        else:
            labels = pd.Index(names).get_indexer(frame[arguments.label_column_name].astype(str))
        trained = trained or set(labels)
        if unseen := sorted(set(labels) - trained):
            name = names[unseen[0]] if unseen[0] >= 0 else "a label"
            fail(f"split {split!r} has documents of {name} but the training split has none; make the splits anew")
        splits[split] = pd.DataFrame(
            {
                "id": frame["id"] if "id" in frame else [f"{split}.{row}" for row in range(len(frame))],
                "text": frame[columns].astype(str).agg(" ".join, axis=1),
                "label": labels,
            }
        )
    return splits, names


def search(train: pd.DataFrame, validation: pd.DataFrame, arguments: BaselineArguments) -> tuple[Pipeline, list[dict]]:
    """Try every setting; return the fitted pipeline with the best macro F1 on validation, and a row for each setting.

    Counts are made once per n-gram length and weighted once per setting, not once per C. A tie goes to the setting
    tried first: shorter n-grams, raw counts, smaller C.
    """
    counted = []
    for ngram_max in sorted(arguments.ngram_max):
        counter = CountVectorizer(ngram_range=(1, ngram_max), min_df=arguments.min_df)
        try:
            counted.append((ngram_max, counter, counter.fit_transform(train["text"])))
        except ValueError as error:
            fail(f"no usable words in the training texts ({error}); check --text_column_names and --min_df")
    best, best_f1, rows = None, -1.0, []
    total = len(counted) * len(arguments.sublinear_tf) * len(arguments.C)
    bar = tqdm(total=total, desc="settings", disable=arguments.disable_tqdm)
    for ngram_max, counter, train_counts in counted:
        validation_counts = counter.transform(validation["text"])
        for sublinear_tf in sorted(arguments.sublinear_tf):
            tfidf = TfidfTransformer(sublinear_tf=bool(sublinear_tf))
            train_matrix = tfidf.fit_transform(train_counts)
            validation_matrix = tfidf.transform(validation_counts)
            for C in sorted(arguments.C):
                start = time.perf_counter()
                class_weight = None if arguments.class_weight == "none" else arguments.class_weight
                svm = LinearSVC(C=C, class_weight=class_weight, random_state=arguments.seed)
                svm.fit(train_matrix, train["label"])
                metrics = compute_metrics(validation["label"], svm.predict(validation_matrix))
                rows.append(
                    {"ngram_max": ngram_max, "sublinear_tf": bool(sublinear_tf), "C": C}
                    | {f"eval_{key}": value for key, value in metrics.items()}
                    | {"train_runtime": round(time.perf_counter() - start, 3)}
                )
                if metrics["f1"] > best_f1:
                    best_f1, best = metrics["f1"], Pipeline([("counts", counter), ("tfidf", tfidf), ("svm", svm)])
                bar.set_postfix(best_f1=f"{best_f1:.4f}")
                bar.update()
    bar.close()
    return best, rows


def compute_metrics(references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-averaged precision, recall and F1, as fractions; a class never predicted has precision 0."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        references, predictions, average="macro", zero_division=0
    )
    accuracy = accuracy_score(references, predictions)
    return {"accuracy": accuracy, "f1": f1, "precision": precision, "recall": recall}


def decision_values(model: Pipeline, texts: pd.Series) -> np.ndarray:
    """Decision values of shape (documents, classes); with two classes scikit-learn gives one column, here two."""
    values = model.decision_function(texts)
    return np.column_stack([-values, values]) if values.ndim == 1 else values


def write(path: Path, content: str) -> None:
    """Write text under a temporary name and rename it, so that no file is ever half there."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)


def write_results(folder: Path, **results: dict) -> None:
    """Write each of train, eval, predict as <name>_results.json, and their union as all_results.json."""
    results["all"] = {key: value for result in results.values() for key, value in result.items()}
    for name, result in results.items():
        write(folder / f"{name}_results.json", json.dumps(result, indent=2, sort_keys=True) + "\n")


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Save and close a figure; no date goes into the file, so the same figure gives the same bytes."""
    temporary = path.with_name("tmp." + path.name)
    figure.savefig(temporary, dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    os.replace(temporary, path)


def top_words(model: Pipeline, names: list[str], n: int = 20) -> pd.DataFrame:
    """The n n-grams with the largest weight of each class: columns class, rank, word, coefficient."""
    words = model["counts"].get_feature_names_out()
    weights = model["svm"].coef_
    weights = np.vstack([-weights, weights]) if len(weights) == 1 else weights
    # The SVM knows the classes that occur in training, in the order of their numbers.
    rows = []
    for label, weight in zip(model["svm"].classes_, weights, strict=True):
        for rank, feature in enumerate(np.argsort(-weight, kind="stable")[:n], start=1):
            rows.append({"class": names[label], "rank": rank, "word": words[feature], "coefficient": weight[feature]})
    return pd.DataFrame(rows)


def plot_top_words(table: pd.DataFrame) -> plt.Figure:
    """One panel a class, the strongest word on top."""
    groups = list(table.groupby("class", sort=False))
    figure, panels = plt.subplots(1, len(groups), figsize=(2.6 * len(groups), 5), sharex=True, squeeze=False)
    for axes, (name, rows) in zip(panels[0], groups, strict=True):
        # A word from the data may hold a $: it is text here, not the start of a formula.
        axes.barh([word.replace("$", r"\$") for word in rows["word"]], rows["coefficient"], color="#1b7837")
        axes.invert_yaxis()
        axes.set_title(name)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("SVM coefficient")
    figure.tight_layout()
    return figure


def main() -> None:
    # 1. Arguments and output folder
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stdout
    )
    (arguments,) = parse_arguments(BaselineArguments)
    if min(arguments.C, default=0) <= 0:
        fail(f"--C needs positive numbers, not {arguments.C}")
    if not arguments.ngram_max or min(arguments.ngram_max) < 1 or not set(arguments.sublinear_tf) <= {0, 1}:
        fail("--ngram_max needs whole numbers from 1, --sublinear_tf needs 0, 1 or both")
    folder = Path(arguments.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / RUN_FILE).exists():
            fail(f"{folder} holds something else than a run of this script; choose another --output_dir")
        write(folder / RUN_FILE, run_record(arguments))
    except OSError as error:
        fail(f"cannot write into --output_dir {folder}: {error.strerror}")

    # 2. Data
    splits, names = load_splits(arguments)
    sizes = {split: len(table) for split, table in splits.items()}
    logger.info("%s training, %s validation, %s test documents, %d classes", *sizes.values(), len(names))

    # 3. The setting with the best macro F1 on validation
    start = time.perf_counter()
    model, rows = search(splits["train"], splits["validation"], arguments)
    best = max(rows, key=lambda row: row["eval_f1"])
    train_results = {
        "train_runtime": round(time.perf_counter() - start, 2),
        "train_samples": sizes["train"],
        "train_settings": len(rows),
        "train_features": int(model["svm"].coef_.shape[1]),
    }
    eval_results = {key: value for key, value in best.items() if key != "train_runtime"}
    eval_results["eval_samples"] = sizes["validation"]

    # 4. The test split, once
    scores = decision_values(model, splits["test"]["text"])
    classes = model["svm"].classes_
    predictions = classes[scores.argmax(axis=1)]
    predict_results = {
        f"predict_{key}": value for key, value in compute_metrics(splits["test"]["label"], predictions).items()
    }
    predict_results["predict_samples"] = sizes["test"]

    # 5. The run folder; predict_results.json comes last, since shell scripts take it for "finished"
    table = pd.DataFrame(
        {
            "id": splits["test"]["id"],
            "label": [names[label] for label in splits["test"]["label"]],
            "prediction": [names[label] for label in predictions],
        }
    )
    columns = dict(zip(classes, scores.T, strict=True))
    for label, name in enumerate(names):
        table[name] = columns.get(label, np.full(len(table), -np.inf))
    words = top_words(model, names)
    try:
        skops.io.dump(model, folder / "model.skops.tmp", compression=zipfile.ZIP_DEFLATED)
        os.replace(folder / "model.skops.tmp", folder / "model.skops")
        write(folder / "predictions.csv", table.to_csv(index=False, float_format="%.6f"))
        write(folder / "top_words.csv", words.to_csv(index=False, float_format="%.6f"))
        save_figure(plot_top_words(words), folder / "top_words.png")
        state = {"best_metric": best["eval_f1"], "best_metric_name": "eval_f1", "log_history": rows}
        write(folder / "trainer_state.json", json.dumps(state, indent=2) + "\n")
        write_results(folder, train=train_results, eval=eval_results, predict=predict_results)
    except OSError as error:
        fail(f"cannot write into {folder}: {error.strerror}; free some space and run the command again")

    # 6. Confusion matrix and model card, from the files
    make_card = Path(__file__).with_name("make_card.py")
    if make_card.exists():
        subprocess.run([sys.executable, make_card, "--run_dir", folder], check=True)
    else:
        logger.warning("no make_card.py beside this script: no confusion matrix and no model card are written")

    # 7. What came out
    logger.info("chosen: n-grams up to %d, sublinear_tf=%s, C=%g", best["ngram_max"], best["sublinear_tf"], best["C"])
    logger.info(
        "test accuracy %.4f, macro F1 %.4f on %d documents; everything is in %s",
        predict_results["predict_accuracy"],
        predict_results["predict_f1"],
        sizes["test"],
        folder,
    )


def run_record(arguments: BaselineArguments) -> str:
    """What made this run: arguments, seed and versions, as JSON."""
    packages = ("scikit-learn", "skops", "datasets", "numpy", "scipy")
    record = {
        "script": "run_baseline.py",
        "model_name_or_path": "TF-IDF + linear SVM",
        "dataset_name": arguments.dataset_name,
        "seed": arguments.seed,
        "arguments": asdict(arguments),
        "versions": {"python": sys.version.split()[0]} | {package: version(package) for package in packages},
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
