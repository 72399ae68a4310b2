"""What the models of a comparison cost: training, size, speed of prediction, device."""

import json
import logging
from collections import Counter
from pathlib import Path

from common.cli import fail
from common.folders import read_json
from comparison.runs import Model, Run, different_settings, number_of

logger = logging.getLogger(__name__)

HEADER_LIMIT = 100_000_000  # bytes; the format's own limit for the header of a safetensors file
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
COST_NOTES = (
    "Seconds, documents per second and parameters are means over seeds, as the runs record them. "
    "The training time of the SVM is that of its whole search for settings; that of an encoder is "
    "one run, without the search for its learning rate. Times of different devices, or of a "
    "machine that did other work, too, are not comparable. Parameters are the numbers in an "
    "encoder's weights and the coefficients of an SVM."
)


def cost_of(run: Run) -> dict:
    """Return what a run records of its cost; None for what it does not.

    Exits with status 2 if a file of it is damaged.
    """
    folder = Path(run.folder)
    results = {}
    for name in ("all_results.json", "train_results.json", "predict_results.json"):
        if (folder / name).is_file():
            results |= read_json(folder / name)
    record = {}
    if (folder / "run_arguments.json").is_file():
        record = read_json(folder / "run_arguments.json")
    return {
        "train_seconds": positive(folder, results, "train_runtime"),
        "train_samples": positive(folder, results, "train_samples"),
        "documents_per_second": documents_per_second(folder, results),
        "parameters": count_parameters(folder, record, results),
        "device": device_text(record, run.is_baseline),
    }


def positive(folder: Path, results: dict, key: str) -> float | None:
    """Return a recorded number; None if there is none or it says nothing, as 0 seconds."""
    value = number_of(folder, results, key)
    return value if value is not None and value > 0 else None


def documents_per_second(folder: Path, results: dict) -> float | None:
    """Return how many test documents a run predicted per second."""
    speed = positive(folder, results, "predict_samples_per_second")
    documents = positive(folder, results, "predict_samples")
    seconds = positive(folder, results, "predict_runtime")
    if speed is None and documents is not None and seconds is not None:
        return documents / seconds
    return speed


def count_parameters(folder: Path, record: dict, results: dict) -> int | None:
    """Return the number of parameters of a run's model.

    Without its weights it is the recorded number; None if the run is of an earlier version.
    """
    features, labels = positive(folder, results, "train_features"), record.get("labels")
    if features is not None and isinstance(labels, list):
        # A linear SVM of two classes has one row of coefficients.
        rows = len(labels) if len(labels) > 2 else 1
        return int(features) * rows
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        recorded = record.get("parameters")
        return recorded if isinstance(recorded, int) else None
    return sum(count_numbers(path) for path in files)


def count_numbers(path: Path) -> int:
    """Return how many floating-point numbers a safetensors file holds, from its header alone.

    Exits with status 2 if it is damaged.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < HEADER_LIMIT else None
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    except ValueError:  # not UTF-8 or not JSON
        header = None
    total = 0
    try:
        for name, tensor in header.items():
            if name != "__metadata__" and tensor["dtype"] in FLOATS:
                numbers = 1
                for size in tensor["shape"]:
                    numbers *= int(size)
                total += numbers
    except (AttributeError, LookupError, TypeError, ValueError):
        fail(f"{path} is damaged, it has no header of safetensors; make the run again")
    return total


def device_text(record: dict, is_baseline: bool) -> str | None:
    """Return where and in which precision a run was made; the SVM knows processors only."""
    device = record.get("device")
    if not isinstance(device, str):
        return "cpu" if is_baseline and record else None
    text = device
    processes = record.get("processes")
    if isinstance(processes, int) and processes > 1:
        text = f"{processes} x {text}"
    if isinstance(record.get("precision"), str):
        text += f", {record['precision']}"
    return text


# In these, the points of a learning curve may differ: few documents need more epochs, for instance.
FITTED_TO_SIZE = (
    "max_train_samples learning_rate num_train_epochs max_steps warmup_steps "
    "total_train_batch_size early_stopping_patience"
).split()


def cost_rows(models: list[Model], rows: list[dict], runs: list[Run]) -> list[dict]:
    """Return a row for every model: its metrics and what it costs, means over its seeds.

    rows are those of table 2.
    """
    cost_table = []
    for model, row in zip(models, rows, strict=True):
        costs = [cost_of(runs[number]) for number in model.runs]
        cost = {}
        for key in ("train_seconds", "train_samples", "documents_per_second", "parameters"):
            values = [each[key] for each in costs if each[key] is not None]
            cost[key] = sum(values) / len(values) if values else None
        devices = dict.fromkeys(each["device"] for each in costs if each["device"] is not None)
        cost["device"] = "; ".join(devices)
        metrics = {key: value for key, value in row.items() if key.startswith(("acc", "macro"))}
        cost_table.append({"name": row["name"], **metrics, **cost})
    return cost_table


def learning_curves(models: list[Model], rows: list[dict], runs: list[Run]) -> dict[str, list]:
    """Return for each model that was trained on several numbers of documents its rows, in order.

    rows are those of ``cost_rows``. Models that differ in more than that number and the settings in
    FITTED_TO_SIZE, such as in their dataset or their texts, are curves of their own. Of two rows of
    a curve with the same number the one that was named first is taken, with a warning.
    """
    settings_of_name: dict[str, list[dict]] = {}
    for model in models:
        first = runs[model.runs[0]]
        settings_of_name.setdefault(first.name, []).append(first.settings)
    curves: dict[tuple, dict] = {}
    for model, row in zip(models, rows, strict=True):
        first = runs[model.runs[0]]
        size = row["train_samples"] or first.variant.get("max_train_samples")
        if not isinstance(size, int | float) or size <= 0:
            continue
        others = []
        for key, value in first.variant.items():
            if key not in FITTED_TO_SIZE:
                others.append((key, value))
        for key in different_settings(settings_of_name[first.name]):
            if key not in FITTED_TO_SIZE and key not in first.variant:
                others.append((key, first.settings.get(key)))
        points = curves.setdefault((first.name, *others), {})
        size = int(size)
        if size in points:
            logger.warning(
                "learning curve of %s: two rows have %d documents; %s, named first, is drawn, "
                "not %s",
                first.name,
                size,
                points[size]["name"],
                row["name"],
            )
        else:
            points[size] = row | {"train_samples": size}

    by_name = {}
    names = Counter(key[0] for key, points in curves.items() if len(points) > 1)
    for (name, *others), points in curves.items():
        if len(points) > 1:
            if names[name] > 1:
                name += f" ({', '.join(str(value) for _, value in others)})"
            by_name[name] = [points[size] for size in sorted(points)]
    return by_name
