"""Run folders: read them, check them against each other, pool the seeds of a model."""

import hashlib
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from common.cli import fail, one_line
from common.folders import read_json, run_name, short_path
from common.metrics import MULTI_LABEL, SINGLE_LABEL

BASELINE_NAME = "TF-IDF + linear SVM"
# The columns of predictions.csv that are not scores.
TEXT_COLUMNS = ("id", "label", "prediction")
# The columns of per_class_f1.csv that are not models.
CLASS_COLUMNS = ("class", "documents")
# Messages name the first of the rows that they are about.
SHOWN_EXAMPLES = 3
# Results are recorded as fractions; predictions.csv must give the same ones.
RESULTS_TOLERANCE = 1e-4
# Scores are written with a few digits, so two that were different may be equal.
SCORES_TOLERANCE = 1e-3
# Recorded arguments by which runs of one model are different rows, and how a row's name shows them.
VARIANTS = {
    "learning_rate": "learning rate {:g}",
    "dataset_name": "dataset {}",
    "max_train_samples": "{} training documents",
    "train_sampling_strategy": "sampling {}",
}
# What cannot change a result, in the records of earlier versions
# Copied from run_classification.py::NOT_IDENTIFYING
NOT_IDENTIFYING = (
    # Paths; the data itself is compared by fingerprints
    "output_dir dataset_name train_file validation_file test_file max_predict_samples "
    "train_split_name validation_split_name test_split_name csv_delimiter json_field "
    # Which steps are done
    "do_train do_eval do_predict resume_from_checkpoint "
    # Batches: total_train_batch_size counts
    "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
    "eval_accumulation_steps eval_use_gather_object pad_to_multiple_of torch_empty_cache_steps "
    # Logging and saving
    "logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_on_each_node "
    "log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id "
    "trackio_bucket_id trackio_static_space_id include_num_input_tokens_seen skip_memory_metrics "
    "debug save_strategy save_steps save_on_each_node save_total_limit save_only_model "
    "enable_jit_checkpoint "
    # Hub
    "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision "
    # Machine: mixed_precision counts
    "bf16 fp16 tf32 use_cpu local_rank activation_checkpointing activation_checkpointing_kwargs "
    "gradient_checkpointing gradient_checkpointing_kwargs torch_compile torch_compile_backend "
    "torch_compile_mode accelerator_config parallelism_config deepspeed fsdp fsdp_config "
    "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph "
    "ddp_backend ddp_timeout preprocessing_num_workers dataloader_num_workers "
    "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
    "dataloader_multiprocessing_context dataloader_in_order use_cache liger_kernel_config"
).split()
# Every other recorded argument makes runs different rows, too, except those in which the seeds of
# one model may differ. A flag that is not listed here therefore keeps runs apart.
NOT_COMPARED = (
    *NOT_IDENTIFYING,
    # Compared in another way: as the model's name and in VARIANTS
    *"model_name_or_path learning_rate max_train_samples train_sampling_strategy".split(),
    # The seeds
    *"seed data_seed".split(),
    # More metrics, which no prediction depends on, and how a training is continued
    *"metric_name ignore_data_skip restore_callback_states_from_checkpoint".split(),
    # Machine: seeds may be trained on different ones, in its precision (differences_of)
    *"mixed_precision bf16_full_eval fp16_full_eval attn_implementation full_determinism".split(),
    "average_tokens_across_devices",
)
# The name of a row has at most so many differences, each with at most so many characters.
SHOWN_DIFFERENCES = 3
SHOWN_CHARACTERS = 40


@dataclass
class Run:
    """A run folder as far as a comparison needs it.

    table has the columns label and prediction and the ids as its index; scores has the same index
    and a column per class, or is None. With several labels per document (problem_type) label and
    prediction are JSON lists of sorted names, so that equal texts are equal sets. label identifies
    the run in what is published. variant holds those of VARIANTS that the run records, settings
    the other values in which the seeds of a model must agree, and differences those in which they
    may differ, all as texts. hub_id is organization/name of a model on the Hub, else None;
    eval_loss is the loss on the validation split.
    """

    folder: str
    label: str
    name: str
    is_baseline: bool
    seed: int | float | None
    variant: dict
    test_fingerprint: str | None
    table: pd.DataFrame
    scores: pd.DataFrame | None
    has_probabilities: bool
    settings: dict[str, str]
    differences: dict[str, str]
    hub_id: str | None
    problem_type: str = SINGLE_LABEL
    eval_loss: float | None = None

    @property
    def is_multi_label(self) -> bool:
        return self.problem_type == MULTI_LABEL

    def confidence(self) -> np.ndarray:
        """Return the probability that the run gives to its own prediction, one per document."""
        columns = self.scores.columns.get_indexer(self.table["prediction"])
        return self.scores.to_numpy()[np.arange(len(columns)), columns]

    def count_other_best(self) -> int:
        """Return of how many documents another class than the prediction has the highest score."""
        best = self.scores.to_numpy().max(axis=1)
        return int((self.confidence() < best - SCORES_TOLERANCE).sum())

    def reason_against_scores(self) -> str | None:
        """Return why the scores cannot be those of the predictions; None if they can be.

        A run may predict by a rule of its own, or its columns of scores were mixed up: both cannot
        be told apart, and of mixed up columns every number is wrong. With several labels per
        document a prediction is no single class.
        """
        others = 0 if self.is_multi_label or self.scores is None else self.count_other_best()
        if others == 0:
            return None
        noun = "document" if others == 1 else "documents"
        highest = "probability" if self.has_probabilities else "score"
        return f"the prediction of {others} {noun} is not the class with the highest {highest}"


@dataclass
class Model:
    """A row of table 2: the runs of one model that differ in their seed only."""

    name: str
    is_baseline: bool
    runs: list[int]  # numbers of the runs, in the order of the command line

    @property
    def seeds(self) -> int:
        return len(self.runs)


# predictions.csv


def read_predictions(
    path: Path, problem_type: str = SINGLE_LABEL
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return label and prediction of each document, indexed by id, and the scores.

    With several labels per document both columns are JSON lists of sorted names. The scores have
    one column per class; they are None if the file has no such column. Exits with status 2 if the
    file cannot be read, a column or value is missing or an id is duplicated.
    """
    as_text = dict.fromkeys(TEXT_COLUMNS, str)
    try:
        with path.open(encoding="utf-8-sig") as file:
            check_separator(path, file.readline(10_000))
        table = pd.read_csv(path, dtype=as_text, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        fail(
            f"{path.parent} has no predictions.csv; give folders of finished runs "
            "(made with --do_predict)"
        )
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    except ValueError as error:  # of pandas: not UTF-8, no header, an open quote, rows too long
        fail(f"cannot read {path}: {one_line(error)}; make the run again")

    check_columns(path, table)
    repeated = table["id"][table["id"].duplicated()]
    if len(repeated):
        fail(
            f"{path} has document {quoted(set(repeated))} more than once "
            f"({len(repeated)} such rows); remove them"
        )
    table = table.set_index("id")
    scores = table.drop(columns=["label", "prediction"])
    # pandas renames the column of a class with the name of one of the first columns.
    scores = scores.rename(columns={f"{name}.1": name for name in TEXT_COLUMNS})
    table = table[["label", "prediction"]]
    if problem_type == MULTI_LABEL:
        table = table.apply(lambda column: sorted_lists(path, column))
    if scores.shape[1] == 0:
        return table, None
    return table, numeric_scores(path, table, scores, problem_type)


def sorted_lists(path: Path, column: pd.Series) -> pd.Series:
    """Return a column of JSON lists of names with the names sorted, each once.

    Exits with status 2 if a cell is something else.
    """
    texts = []
    for document, text in column.items():
        try:
            names = json.loads(text)
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            fail(
                f"{path} has {column.name} {text!r:.80} for document {document!r:.80}; a run with "
                'several labels per document has JSON lists there, such as ["math.AG"]; '
                "make the run again"
            )
        texts.append(json.dumps(sorted(set(names)), ensure_ascii=False))
    return pd.Series(texts, column.index, name=column.name)


def names_of(text: str, problem_type: str) -> list[str]:
    """Return the class names in a cell of label or prediction."""
    return json.loads(text) if problem_type == MULTI_LABEL else [text]


def check_separator(path: Path, header: str) -> None:
    """Exit with status 2 if the first line of predictions.csv has another separator than commas."""
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        cells = [cell.strip('"') for cell in header.split(mark)]
        if "id" in cells and "prediction" in cells:
            fail(
                f"{path} is separated by {name}, so it has no column 'id'; save it with commas "
                "and decimal points, or make the run again"
            )


def check_columns(path: Path, table: pd.DataFrame) -> None:
    """Exit with status 2 if predictions.csv lacks a column, has an empty cell in one or no rows."""
    if {"id", "prediction"} <= set(table.columns) and "label" not in table:
        fail(
            f"{path} has no column 'label': the run predicted documents without labels; "
            "predict labeled ones to compare runs"
        )
    for column in TEXT_COLUMNS:
        if column not in table:
            fail(
                f"{path} has no column {column!r}; it needs id, label, prediction and "
                "one column of scores per class"
            )
        empty = np.flatnonzero(table[column].str.strip() == "") + 2  # below the header, from 1
        if len(empty):
            shown = ", ".join(map(str, empty[:SHOWN_EXAMPLES]))
            fail(
                f"{path} has no {column} in row {shown} ({len(empty)} such rows); "
                "make the run again"
            )
    if table.empty:
        fail(f"{path} has no documents; make the run again with a test split")
    # pandas takes the first values of rows that are longer than the header for an index.
    if not isinstance(table.index, pd.RangeIndex):
        fail(
            f"{path} has rows with more values than its header has names (decimal commas?); "
            "make the run again"
        )


def numeric_scores(
    path: Path, table: pd.DataFrame, scores: pd.DataFrame, problem_type: str = SINGLE_LABEL
) -> pd.DataFrame:
    """Return the scores as numbers. Exit with status 2 if one is missing or not a number."""
    classes = set()
    for text in {*table["label"], *table["prediction"]}:
        classes.update(names_of(text, problem_type))
    missing = sorted(classes - set(scores.columns))
    if missing:
        fail(
            f"{path} has no column of scores for class {missing[0]!r:.80}; "
            f"it has {list(scores.columns)!r:.200}"
        )
    for column in scores:
        scores[column] = pd.to_numeric(scores[column], errors="coerce")
        empty = scores.index[scores[column].isna()]
        if len(empty):
            fail(
                f"{path} has a score that is not a number, column {column!r:.80}, "
                f"document {empty[0]!r:.80} ({len(empty)} such rows)"
            )
    return scores


# What a run records


def macro_f1(table: pd.DataFrame, problem_type: str) -> float:
    """Return the macro F1 over the classes that are a label or a prediction."""
    labels, predictions = table["label"], table["prediction"]
    if problem_type == SINGLE_LABEL:
        return f1_score(labels, predictions, average="macro", zero_division=0)
    true = [names_of(text, problem_type) for text in labels]
    predicted = [names_of(text, problem_type) for text in predictions]
    names = sorted(set().union(*true, *predicted))
    if not names:
        return 0.0
    binarizer = MultiLabelBinarizer(classes=names)
    return f1_score(
        binarizer.fit_transform(true),
        binarizer.transform(predicted),
        average="macro",
        zero_division=0,
    )


def contradiction(
    folder: Path, table: pd.DataFrame, problem_type: str = SINGLE_LABEL
) -> str | None:
    """Return in which result predict_results.json or all_results.json contradicts predictions.csv.

    None if they agree. A result that is not recorded is not compared. Exits with status 2 if one
    is not a number or a file is damaged.
    """
    measured = {
        "predict_samples": len(table),
        "predict_accuracy": (table["label"] == table["prediction"]).mean(),
    }
    for file in ("predict_results.json", "all_results.json"):
        path = folder / file
        if not path.exists():
            continue
        results = read_json(path)
        if results.get("predict_f1") is not None and "predict_f1" not in measured:
            measured["predict_f1"] = macro_f1(table, problem_type)
        for key, value in measured.items():
            recorded = number_of(folder, results, key)
            if recorded is not None and abs(recorded - value) > RESULTS_TOLERANCE:
                return f"{key} is {value:.6g} in predictions.csv, {recorded:.6g} in {file}"
    return None


def class_contradiction(record: dict, scores: pd.DataFrame | None) -> str | None:
    """Return in which classes run_arguments.json contradicts predictions.csv; None if they agree.

    Runs of earlier versions record no classes.
    """
    recorded = record.get("labels")
    if scores is None or not isinstance(recorded, list):
        return None
    recorded, columns = set(map(str, recorded)), set(scores.columns)
    if recorded == columns:
        return None
    return (
        f"classes only in predictions.csv: {quoted(columns - recorded) or 'none'}, "
        f"only in run_arguments.json: {quoted(recorded - columns) or 'none'}"
    )


def contradiction_message(folder: str | Path, reason: str) -> str:
    """Return what to say of a run whose results contradict its predictions."""
    return f"{folder} is damaged or mixes two runs: {reason}; make the run again"


def number_of(folder: str | Path, record: dict, key: str) -> int | float | None:
    """Return a recorded number; None if there is none. Exit with status 2 if it is not a number."""
    value = record.get(key)
    if value is None:
        return None
    # A bool is an int in Python, and JSON of Python may hold NaN and integers of any length.
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        fail(f"{folder} records {key} {value!r:.80}, which is not a number; make the run again")
    return value


def read_run(folder: str, label: str) -> Run:
    """Return a run; label identifies it in what is published.

    Exits with status 2 if the folder is not a finished run, is damaged or mixes two runs.
    """
    path = Path(folder)
    record = {}
    if (path / "run_arguments.json").exists():
        record = read_json(path / "run_arguments.json")
    problem_type = problem_type_of(folder, record)
    table, scores = read_predictions(path / "predictions.csv", problem_type)
    reason = contradiction(path, table, problem_type)
    if reason is not None:
        fail(contradiction_message(folder, reason))
    reason = class_contradiction(record, scores)
    if reason is not None:
        fail(contradiction_message(folder, reason))

    is_baseline = record.get("script") == "run_baseline.py" or (path / "model.skops").exists()
    source = str(record.get("model_name_or_path") or record.get("config_name") or "")
    if is_baseline:
        name = BASELINE_NAME
    elif source:
        name = short_path(source)
    else:
        name = run_name(path.resolve())
    values = variant(record, number_of(folder, record, "learning_rate"))
    return Run(
        folder=folder,
        label=label,
        name=name,
        is_baseline=is_baseline,
        seed=number_of(folder, record, "seed"),
        variant=values,
        test_fingerprint=test_fingerprint(record),
        table=table,
        scores=scores,
        has_probabilities=are_probabilities(folder, record, scores, problem_type),
        settings=settings_of(record, values),
        differences=differences_of(record),
        hub_id=None if is_baseline else hub_id_of(source),
        problem_type=problem_type,
        eval_loss=evaluation_loss(path),
    )


def problem_type_of(folder: str | Path, record: dict) -> str:
    """Return whether a run predicts one label or several; runs of earlier versions predict one.

    Exits with status 2 if the record names something else.
    """
    recorded = record.get("problem_type") or SINGLE_LABEL
    if recorded not in (SINGLE_LABEL, MULTI_LABEL):
        fail(
            f"{folder} records problem_type {recorded!r:.80}; compared are {SINGLE_LABEL} "
            f"and {MULTI_LABEL}"
        )
    return recorded


def evaluation_loss(folder: Path) -> float | None:
    """Return the loss on the validation split that a run records; None if it does not."""
    for file in ("eval_results.json", "all_results.json"):
        if (folder / file).exists():
            value = number_of(folder, read_json(folder / file), "eval_loss")
            if value is not None:
                return value
    return None


def digest_of_predictions(table: pd.DataFrame) -> str:
    """Return 16 digits of the SHA-256 of ids, labels and predictions, sorted; no scores."""
    digest = hashlib.sha256()
    for row in table[["label", "prediction"]].sort_index().itertuples():
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()[:16]


def are_probabilities(
    folder: str, record: dict, scores: pd.DataFrame | None, problem_type: str
) -> bool:
    """Return whether the scores are probabilities.

    With one label per document these are a distribution, and the command exits with status 2 if
    they are for most, but not all documents. With several labels each is between 0 and 1.
    """
    if scores is None or record.get("scores") == "decision values":
        return False
    values = scores.to_numpy(dtype=float)
    if problem_type == MULTI_LABEL:
        return bool(np.all((values >= 0) & (values <= 1)))
    is_distribution = np.isclose(values.sum(axis=1), 1, atol=1e-3) & np.all(values >= 0, axis=1)
    if 0.5 < is_distribution.mean() < 1:
        document = scores.index[~is_distribution][0]
        fail(
            f"{folder}: the probabilities of document {document!r:.80} do not sum to 1 "
            f"in predictions.csv ({(~is_distribution).sum()} such documents); make the run again"
        )
    return bool(is_distribution.all())


def arguments_of(record: dict) -> dict:
    """Return the arguments that a run records; none if the record is damaged or of another make."""
    arguments = record.get("arguments")
    return arguments if isinstance(arguments, dict) else {}


def variant(record: dict, learning_rate: float | None) -> dict:
    """Return the values of VARIANTS in a run's record; what it does not have is left out."""
    arguments = arguments_of(record)
    values = {
        "learning_rate": learning_rate,
        "dataset_name": arguments.get("dataset_name") or record.get("dataset_name"),
        "max_train_samples": arguments.get("max_train_samples"),
        "train_sampling_strategy": arguments.get("train_sampling_strategy"),
    }
    if values["dataset_name"]:
        values["dataset_name"] = short_path(str(values["dataset_name"]))
    settings = {}
    for key, value in values.items():
        if value is not None:
            # Runs are grouped by these values, and a damaged record may hold a list.
            settings[key] = value if isinstance(value, int | float | str) else str(value)
    return settings


def settings_of(record: dict, values: dict) -> dict[str, str]:
    """Return as texts what a run records in which the seeds of one model must agree.

    These are its arguments except NOT_COMPARED, its batch size and its classes, and of the values
    of VARIANTS those that tell nothing where they are not recorded. What the run does not record is
    left out.
    """
    arguments = arguments_of(record)
    settings = {}
    for name, value in arguments.items():
        if name not in NOT_COMPARED:
            settings[name] = setting_text(value)
    tokenizer = arguments.get("tokenizer_name")
    if isinstance(tokenizer, str) and Path(tokenizer).is_absolute():
        settings["tokenizer_name"] = setting_text(short_path(tokenizer))
    # A command that only predicts records its own arguments there, and here those of the training.
    if record.get("total_train_batch_size") is not None:
        settings["total_train_batch_size"] = setting_text(record["total_train_batch_size"])
    if isinstance(record.get("labels"), list):
        settings["classes"] = setting_text(sorted(map(str, record["labels"])))
    # max_train_samples is None where all documents are used, and an SVM has no learning rate.
    for name in ("dataset_name", "train_sampling_strategy"):
        if name in values:
            settings[name] = setting_text(values[name])
    return settings


def setting_text(value: object) -> str:
    """Return a recorded value as text, the same for equal values however they were written."""
    # transformers writes what JSON does not know as text, and so None.
    if value is None or value == "None":
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        is_clear = value != "" and value == value.strip() and value.isprintable()
        return value if is_clear else repr(value)
    if isinstance(value, list):
        return " ".join(map(setting_text, value))
    return json.dumps(value, sort_keys=True)


def differences_of(record: dict) -> dict[str, str]:
    """Return what a run records in which the seeds of a model may differ, but not without a word.

    What it does not record is left out.
    """
    arguments = arguments_of(record)
    precision = record.get("precision") or arguments.get("mixed_precision")
    differences = {
        "precision": "fp32" if precision == "no" else precision,
        "attention": arguments.get("attn_implementation"),
        "weights before training": record.get("model_fingerprint"),
        "training documents": fingerprint_of(record, "train"),
    }
    return {name: setting_text(value) for name, value in differences.items() if value is not None}


def hub_id_of(source: str) -> str | None:
    """Return organization/name of a model on the Hub; None for a folder and for any other path."""
    parts = source.rstrip("/").split("/")
    is_hub_id = len(parts) == 2 and parts[0] not in ("", ".", "..", "~")
    # A folder that is called model is named by the one around it, which is no organization.
    if not is_hub_id or short_path(source) != parts[1]:
        return None
    return "/".join(parts)


def test_fingerprint(record: dict) -> str | None:
    """Return the fingerprint of the test documents that a run records; None if it does not."""
    return fingerprint_of(record, "test")


def fingerprint_of(record: dict, split: str) -> str | None:
    """Return the fingerprint of a split that a run records; None if it does not."""
    fingerprints = record.get("data_fingerprints")
    if not isinstance(fingerprints, dict):
        return None
    fingerprint = fingerprints.get(split)
    return fingerprint if isinstance(fingerprint, str) else None


# Several runs


def read_runs(folders: list[str], allow_other_texts: bool = False) -> list[Run]:
    """Read run folders and bring all into the document order of the first.

    Exits with status 2 unless all runs have the same documents, labels and, if they record it,
    texts.
    """
    runs = []
    for folder, label in zip(folders, short_labels(folders), strict=True):
        runs.append(read_run(folder, label))
    tell_organizations_apart(runs)
    first = runs[0]
    for run in runs[1:]:
        check_same_problem(first, run)
        check_same_documents(first, run)
        order = first.table.index
        run.table = run.table.loc[order]
        check_same_labels(first, run)
        if run.scores is not None:
            run.scores = run.scores.loc[order]
    if not allow_other_texts:
        # Runs of earlier versions record no fingerprint.
        recorded = [run for run in runs if run.test_fingerprint is not None]
        for run in recorded[1:]:
            check_same_data(recorded[0], run)
    return runs


def tell_organizations_apart(runs: list[Run]) -> None:
    """Name models of the Hub in full where two organizations have one of the same name."""
    ids: dict[str, set[str]] = {}
    for run in runs:
        if run.hub_id is not None:
            ids.setdefault(run.name, set()).add(run.hub_id)
    for run in runs:
        if run.hub_id is not None and len(ids[run.name]) > 1:
            run.name = run.hub_id


def short_labels(folders: list[str]) -> list[str]:
    """Return for each run folder the shortest last part of its path that no other one has.

    So the outputs do not show where the folders are on this machine. Exits with status 2 if a
    folder is given twice.
    """
    paths = [Path(folder).resolve() for folder in folders]
    for path, count in Counter(paths).items():
        if count > 1:
            fail(f"run folder {path} is given {count} times; give each run once")
    for folder in folders:
        if not is_text(folder):
            fail(f"the name of run folder {folder!a} is not UTF-8; rename the folder")
    labels = []
    for path in paths:
        length = 1 if run_name(path) == path.name else 2
        while sum(other.parts[-length:] == path.parts[-length:] for other in paths) > 1:
            length += 1
        labels.append("/".join(path.parts[-length:]))
    return labels


def is_text(name: str) -> bool:
    """Return whether a name can be written into a file; file systems allow any bytes."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_same_problem(first: Run, other: Run) -> None:
    """Exit with status 2 if one run predicts one label per document and the other several."""
    if first.problem_type == other.problem_type:
        return
    several, one = (first, other) if first.is_multi_label else (other, first)
    fail(
        f"{several.folder} predicts several labels per document and {one.folder} one; "
        "compare runs of one kind"
    )


def check_same_documents(first: Run, other: Run) -> None:
    """Exit with status 2 unless two runs predict the same documents."""
    here, there = set(first.table.index), set(other.table.index)
    if here == there:
        return
    examples = []
    if here - there:
        examples.append(f"{quoted(here - there)} in the first")
    if there - here:
        examples.append(f"{quoted(there - here)} in the second")
    remedy = "compare runs made with the same dataset"
    numbers = numeric_ids(here)
    if numbers is not None and numbers == numeric_ids(there):
        # A spreadsheet turns 2001.00010 into 2001.0001 and 007 into 7.
        remedy = (
            "as numbers the ids are the same, so a spreadsheet has rewritten one of the files; "
            "make that run again"
        )
    fail(
        f"{first.folder} and {other.folder} predict different test sets: "
        f"{len(here - there)} documents only in the first, {len(there - here)} only in the second, "
        f"such as {' and '.join(examples)}; {remedy}"
    )


def quoted(names: set[str]) -> str:
    """Return the first names in quotes."""
    return ", ".join(f"{name!r:.80}" for name in sorted(names)[:SHOWN_EXAMPLES])


def numeric_ids(ids: set[str]) -> set[float] | None:
    """Return ids as numbers; None if one of them is not a number."""
    try:
        return {float(name.replace(",", ".")) for name in ids}
    except ValueError:
        return None


def check_same_labels(first: Run, other: Run) -> None:
    """Exit with status 2 unless two runs on the same documents have the same labels."""
    expected, labels = first.table["label"].to_numpy(), other.table["label"].to_numpy()
    different = np.flatnonzero(expected != labels)
    if not len(different):
        return
    number = different[0]
    message = (
        f"{first.folder} and {other.folder} give document {first.table.index[number]!r:.80} "
        f"different labels, {expected[number]!r:.80} and {labels[number]!r:.80} "
        f"({len(different)} such documents); "
    )
    only_first, only_other = set(expected) - set(labels), set(labels) - set(expected)
    if only_first or only_other:
        message += (
            f"classes only in the first: {quoted(only_first) or 'none'}, "
            f"only in the second: {quoted(only_other) or 'none'}; "
        )
    fail(f"{message}compare runs made with the same dataset")


def check_same_data(first: Run, other: Run) -> None:
    """Exit with status 2 if two runs record that they read other texts of the same documents."""
    if has_other_data(first.test_fingerprint, other.test_fingerprint):
        fail(
            f"{first.folder} and {other.folder} predicted other test data: ids and labels are the "
            "same, the texts are not (data_fingerprints in run_arguments.json); predict both on "
            "the same dataset, or give --allow_other_texts if they differ on purpose"
        )


def has_other_data(fingerprint: str | None, other: str | None) -> bool:
    """Return whether two recorded fingerprints of test data differ; older runs record none."""
    return fingerprint is not None and other is not None and fingerprint != other


# Rows of table 2


def pool_runs(runs: list[Run]) -> list[Model]:
    """Group runs into the rows of table 2: a row holds runs that differ in nothing but the seed.

    A run that records no seed is a row of its own.
    """
    groups: dict[tuple, list[int]] = {}
    for number, run in enumerate(runs):
        if run.seed is None:
            key = (run.name, run.label)
        else:
            variant = run.variant
            key = (run.name, variant.get("learning_rate"), variant.get("max_train_samples"))
        groups.setdefault(key, []).append(number)

    models = []
    for group in groups.values():
        for members in split_by_settings(group, runs):
            seeds = {runs[number].seed for number in members}
            first = runs[members[0]]
            if len(seeds) == len(members):
                models.append(Model(first.name, first.is_baseline, members))
                continue
            # Runs with the same seed differ in something else, so they are not a sample of seeds.
            for number in members:
                models.append(Model(first.name, first.is_baseline, [number]))

    for name, count in Counter(model.name for model in models).items():
        if count > 1 or name in CLASS_COLUMNS:
            rename([model for model in models if model.name == name], runs)
    return models


def split_by_settings(group: list[int], runs: list[Run]) -> list[list[int]]:
    """Return the runs of a group apart where their settings differ.

    A setting that a run does not record agrees with whatever the others have. Where the others
    differ in it, it cannot agree with all of them: such runs are apart, too.
    """
    different = different_settings([runs[number].settings for number in group])
    parts: dict[tuple, list[int]] = {}
    for number in group:
        key = tuple(runs[number].settings.get(name) for name in different)
        parts.setdefault(key, []).append(number)
    return list(parts.values())


def different_settings(settings: list[dict[str, str]]) -> list[str]:
    """Return the names of which two or more different values are recorded, sorted."""
    values: dict[str, set[str]] = {}
    for recorded in settings:
        for name, value in recorded.items():
            values.setdefault(name, set()).add(value)
    return sorted(name for name, distinct in values.items() if len(distinct) > 1)


def pooling_notes(models: list[Model], runs: list[Run]) -> list[str]:
    """Return in which recorded values beside the seed the runs of a row differ, such as precision.

    They do not keep seeds apart, since seeds may be trained on different machines.
    """
    notes = []
    for model in models:
        recorded = [runs[number].differences for number in model.runs]
        parts = []
        for name in different_settings(recorded):
            part = name
            if name in ("precision", "attention"):  # the others are digests, which say nothing
                values = sorted({values[name] for values in recorded if name in values})
                part += f" ({', '.join(values)})"
            parts.append(part)
        if parts:
            notes.append(
                f"The {model.seeds} runs of {model.name} differ in more than their seed: "
                f"{', '.join(parts)}."
            )
    return notes


def rename(models: list[Model], runs: list[Run]) -> None:
    """Tell models of one name apart by what they record, or else by a label of a run."""
    first_runs = [runs[model.runs[0]] for model in models]
    variants, settings = [], []
    for model in models:
        members = [runs[number] for number in model.runs]
        variants.append(merged([run.variant for run in members]))
        settings.append(merged([run.settings for run in members]))
    different = [name for name in different_settings(settings) if name not in VARIANTS]
    texts = []
    for own_variant, own_settings in zip(variants, settings, strict=True):
        differences = variant_texts(own_variant, variants)
        for name in different:
            differences.append(setting_difference(name, own_settings.get(name)))
        texts.append(first_differences(differences))
    # An SVM has no learning rate; any other run without one records too little.
    have_rates = all(run.is_baseline or "learning_rate" in run.variant for run in first_runs)
    is_clear = len(models) > 1 and len(set(texts)) == len(models) and have_rates
    for model, run, text in zip(models, first_runs, texts, strict=True):
        model.name += f" ({text if is_clear else run.label})"


def merged(records: list[dict]) -> dict:
    """Return what any run of a row records; runs that record the same name agree in it."""
    together = {}
    for record in records:
        together |= record
    return together


def variant_texts(own: dict, others: list[dict]) -> list[str]:
    """Return those values of VARIANTS in which rows of one name differ; own are those of a row."""
    parts = []
    for name, text in VARIANTS.items():
        values = {other.get(name) for other in others}
        if name != "max_train_samples":  # where None means all documents
            values.discard(None)
        if len(values) < 2:
            continue
        value = own.get(name)
        if value is not None:
            parts.append(text.format(value))
        elif name == "max_train_samples":
            parts.append(text.format("all"))
        else:
            parts.append(setting_difference(name, None))
    return parts


def setting_difference(name: str, value: str | None) -> str:
    """Return a setting as the name of a row shows it; None is one that the run does not record."""
    if value is None:
        return f"{name} not recorded"
    if len(value) > SHOWN_CHARACTERS:
        value = f"{value[:SHOWN_CHARACTERS]}..."
    return f"{name} {value}"


def first_differences(differences: list[str]) -> str:
    """Return the first differences of a row, and how many more there are."""
    text = ", ".join(differences[:SHOWN_DIFFERENCES])
    more = len(differences) - SHOWN_DIFFERENCES
    return f"{text} and {more} more" if more > 0 else text


def find_reference(flag: str, reference: str, models: list[Model], runs: list[Run]) -> int:
    """Return the number of the row that a flag names by its folder or its name.

    Exits with status 2 if there is none.
    """
    path = Path(reference).resolve()
    for number, model in enumerate(models):
        folders = [Path(runs[member].folder).resolve() for member in model.runs]
        if reference == model.name or path in folders:
            return number
    folders = ", ".join(run.folder for run in runs)
    names = ", ".join(repr(model.name) for model in models)
    fail(f"{flag} {reference} is not one of the runs given: {folders} (names: {names})")


def choose_reference(
    reference: str | None, models: list[Model], runs: list[Run]
) -> tuple[int, str]:
    """Return the number of the row that others are tested against, and why it is that one.

    That is the row that --reference names, else the first SVM, else the row with the smallest mean
    validation loss, else the first. Test documents are never asked: the most accurate model on them
    is partly the luckiest one, and tests against it reject too often.

    Exits with status 2 if --reference names no row.
    """
    if reference is not None:
        return find_reference("--reference", reference, models, runs), "it was named"
    for number, model in enumerate(models):
        if model.is_baseline:
            return number, "it is the SVM"
    losses = []
    for model in models:
        losses.append([runs[member].eval_loss for member in model.runs])
    if all(loss is not None for losses_of_model in losses for loss in losses_of_model):
        means = [sum(losses_of_model) / len(losses_of_model) for losses_of_model in losses]
        return means.index(min(means)), "it has the smallest loss on the validation split"
    return 0, "it comes first, and there is neither an SVM nor a validation loss of every run"
