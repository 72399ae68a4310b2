#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "PyYAML==6.0.3",
# ]
# ///
"""Compare the finished runs of a study with its plan, before run_paper.sh changes a file.

    python tools/check_finished.py --output_dir paper < plan

A line of the plan, which standard input has, is one of these, with words quoted as for a shell:

- the command line of a run: --output_dir FOLDER, and the flags of run_classification.py or
  run_baseline.py.
- what runs are trained on, a network or a dataset: made, the name of its step, the folders of the
  runs that read it, --, and the command that makes it.

A finished run that was trained with other flags than those of its line, on another model or on
other data is refused with one line and status 2, and so is a command that would make a network or a
dataset anew, otherwise, under runs that have begun. The flags of a run are those that run_paper.sh
kept after its training (OUTPUT_DIR/logs/*.flags). A run from elsewhere has only its record, from
which not every flag can be told. Writes nothing; a notice names runs of another precision.
"""

import argparse
import hashlib
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import yaml

# Which steps are done, and what changes the speed, the log or the Hub, not the result
IGNORED = (
    "config output_dir do_train do_eval do_predict disable_tqdm logging_steps logging_strategy "
    "report_to run_name per_device_eval_batch_size dataloader_num_workers "
    "preprocessing_num_workers gradient_checkpointing use_cpu tf32 push_to_hub hub_model_id "
    "hub_private_repo hub_token"
).split()
PRECISIONS = ("bf16", "fp16")  # they follow the hardware; accelerate's configuration has one, too
PATHS = (
    "model_name_or_path dataset_name tokenizer_name train_file validation_file test_file "
    "config_name init_embeddings_from snapshot_file"
).split()
STEP, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"
BATCH = f"{STEP} times --{ACCUMULATION}"
# The flags that limit the number of rows of a split
LIMITS = {
    "train": "max_train_samples",
    "validation": "max_eval_samples",
    "test": "max_predict_samples",
}
# Flags whose value goes into the record as it is, with their defaults. Others are filled in by the
# model, the data or the machine, so that the record does not tell whether the flag was given.
DEFAULTS = {
    "run_classification.py": {
        "num_train_epochs": 10,
        "max_steps": -1,
        "weight_decay": 0.01,
        "label_smoothing_factor": 0,
        "lr_scheduler_type": "linear",
        "train_sampling_strategy": "group_by_length",
        "attention_dropout": None,
        "class_weights": "none",
        "long_texts": "truncate",
        "early_stopping_patience": 3,
        "max_train_samples": None,
        "max_eval_samples": None,
    },
    "run_baseline.py": {
        "ngram_max": [1, 2],
        "sublinear_tf": [0, 1],
        "C": [0.1, 0.3, 1, 3, 10, 30],
        "min_df": 1,
        "class_weight": "none",
        "calibrate": False,
        "max_train_samples": None,
        "max_eval_samples": None,
    },
}
REMEDY = "choose another OUTPUT_DIR, or move the run away"

Flags = dict[str, list[str]]


def fail(message: str) -> NoReturn:
    """Print a one-line error and exit with status 2, for a mistake that the user can fix."""
    print("error:", " ".join(message.splitlines()), file=sys.stderr)
    raise SystemExit(2)


def refuse(folder: Path, before: str, now: str) -> NoReturn:
    """Refuse a finished run. The texts complete: it is a finished run ..., not ..."""
    fail(f"{folder} is a finished run {before}, not {now}; {REMEDY}")


# Values and flags


def text(value) -> str:
    """Return a value of a record or a command line as text, such as 1e-05 for 0.00001 and 1e-5."""
    if isinstance(value, list):
        return ",".join(text(part) for part in value)
    words = {"True": "true", "False": "false", "None": ""}
    if str(value) in words:
        return words[str(value)]
    try:
        return str(float(value))
    except ValueError:
        return str(value)


def is_path(value: str) -> bool:
    """Whether a value is a path, not an id on the Hub, which is NAME or OWNER/NAME."""
    return value.startswith(("/", ".", "~")) or value.count("/") > 1 or Path(value).exists()


def same_source(before: str, now: str) -> bool:
    """Whether two values name the same model, dataset or file.

    A path may have been moved, and of a path a record has the last part only, so the name counts.
    Models of different owners on the Hub are different models.
    """
    if before == now:
        return True
    both_have_owners = "/" in before and "/" in now
    if both_have_owners and not is_path(before) and not is_path(now):
        return False
    return Path(before).name == Path(now).name


def same(flag: str, before, now: list[str]) -> bool:
    """Whether a flag has the same value in a record, or a kept command line, and in the plan."""
    if flag in PATHS:
        return same_source(text(before), text(now))
    return text(before) == text(now) or text(before) == text([Path(word).name for word in now])


def read_file_of_flags(names: list[str]) -> str:
    """Return the text of the file of --config. Exits with status 2 if it cannot be read."""
    try:
        return Path(*names).read_text(encoding="utf-8")
    except OSError as error:
        fail(f"cannot read --config {' '.join(names)}: {error.strerror}")
    except UnicodeDecodeError as error:
        fail(f"cannot read --config {' '.join(names)}: {error}")


def read_recipe(content: str) -> Flags:
    """Return the flags in the text of a file for --config. Exits with status 2 if it has none."""
    flags = {}
    try:
        recipe = yaml.safe_load(content) or {}
    except yaml.YAMLError as error:
        fail(f"cannot read a file for --config: {' '.join(str(error).split())}")
    if not isinstance(recipe, dict):
        fail("cannot read a file for --config: it must have a 'flag: value' on each line")
    for flag, value in recipe.items():
        if value is not None:
            flags[flag.replace("-", "_")] = [
                str(part) for part in (value if isinstance(value, list) else [value])
            ]
    return flags


def read_flags(words: list[str], recipe: str | None = None) -> Flags:
    """Return the flags of a command line. The file of --config is read unless its text is given."""
    flags = {}
    flag = None
    for word in words:
        if word.startswith("--"):
            flag, has_value, value = word[2:].partition("=")
            flag = flag.replace("-", "_")  # the parser takes both
            flags[flag] = [value] if has_value else []
        elif flag is None:
            fail(f"'{word}' stands before the first flag of: {shlex.join(words)}; give a flag")
        else:
            flags[flag].append(word)
    if "config" in flags:
        if recipe is None:
            recipe = read_file_of_flags(flags["config"])
        flags = read_recipe(recipe) | flags
    return {flag: given or ["true"] for flag, given in flags.items()}


def difference(before: Flags, now: Flags) -> tuple[str, str] | None:
    """Return the first difference between the flags of a training and those of the plan, as text.

    None if there is none.
    """
    for flag in sorted(before.keys() | now.keys()):
        if flag not in now:
            return f"with --{flag} {' '.join(before[flag])}", "without it"
        if flag not in before:
            return f"without --{flag}", f"with --{flag} {' '.join(now[flag])}"
        if not same(flag, before[flag], now[flag]):
            return f"with --{flag} {' '.join(before[flag])}", " ".join(now[flag])
    return None


# Runs


def documents_in_a_step(flags: Flags) -> int | None:
    """Return the documents of one process for a step of the optimizer; None if the data decides."""
    try:
        return int(flags.get(STEP, ["32"])[0]) * int(flags[ACCUMULATION][0])
    except (LookupError, ValueError):
        return None


def compared(flags: Flags) -> Flags:
    """Return the flags that are compared, with the two of the batch size as one."""
    rest = {flag: given for flag, given in flags.items() if flag not in (*IGNORED, *PRECISIONS)}
    batch = documents_in_a_step(flags)
    if batch is not None:
        rest.pop(STEP, None)
        del rest[ACCUMULATION]
        rest[BATCH] = [str(batch)]
    return rest


def read_kept(logs: Path, folder: Path, is_svm: bool) -> Flags | None:
    """Return the flags that run_paper.sh kept of the run that is in the folder now, if it did."""
    name = folder.name if is_svm else f"{folder.parent.name}-{folder.name}"
    try:
        digest, line, *recipe = (logs / f"{name}.flags").read_text("utf-8").split("\n")
        results = (folder / "train_results.json").read_bytes()
    except OSError:
        return None
    if digest.split()[0] != hashlib.sha256(results).hexdigest():
        return None
    return read_flags(shlex.split(line), "\n".join(recipe))


def check_unkept(folder: Path, record: dict, flags: Flags) -> None:
    """Refuse a run whose record shows a flag that is not in its line, or another batch size."""
    for flag, default in DEFAULTS.get(record.get("script"), {}).items():
        recorded = record["arguments"].get(flag, default)
        if flag not in flags and text(recorded) != text(default):
            refuse(folder, f"with --{flag} {text(recorded)}", "without it")
    total = record.get("total_train_batch_size")
    processes = record.get("processes")
    batch = documents_in_a_step(flags)
    if total is None or processes is None or batch is None:
        return
    # One process may have used several GPUs, and the record does not say how many.
    is_exact = record.get("device") == "cpu"
    if total != batch * processes if is_exact else total % (batch * processes):
        refuse(folder, f"with a batch size of {total} in all", f"{batch * processes}")


def precision(flags: Flags) -> str | None:
    """Return the precision that flags ask for; None if they leave it to the launcher."""
    for name in PRECISIONS:
        if flags.get(name, ["false"])[0].lower() == "true":
            return name
    return None


@dataclass
class Checked:
    """What is known of the runs that were checked so far."""

    # (run, digest) by dataset, split and how its texts are read
    fingerprints: dict[str, tuple[Path, str]]
    other_precision: dict[Path, str]  # by run; one may be in two lines
    default_precision: str | None  # of a run without a flag; None if the launcher chooses


def check_run(words: list[str], output: Path, checked: Checked) -> None:
    """Refuse the finished run of a line if it is not what the line says."""
    folder = Path(words[1])
    is_svm = folder.parent == output
    part = "predict" if words[-1] == "--do_predict" else "eval"
    if not (folder / f"{part}_results.json").exists():
        return
    try:
        record = json.loads((folder / "run_arguments.json").read_text("utf-8"))
        arguments = record["arguments"]
    except (OSError, ValueError, LookupError, TypeError):
        fail(f"cannot read the run_arguments.json of the finished run {folder}")
    flags = read_flags(words)
    only_predicts = Path(flags.get("model_name_or_path", [""])[0]) == folder
    if only_predicts:
        del flags["model_name_or_path"]
    for flag, given in flags.items():
        if flag in arguments and flag not in IGNORED and not same(flag, arguments[flag], given):
            refuse(folder, f"with --{flag} {arguments[flag]}", " ".join(given))
    if not only_predicts:
        kept = read_kept(output / "logs", folder, is_svm)
        if kept is None:
            check_unkept(folder, record, flags)
        else:
            differs = difference(compared(kept), compared(flags))
            if differs:
                refuse(folder, *differs)
        if kept is not None:
            before, now = precision(kept), precision(flags)
            is_other = now != before
        else:  # the record says what ran, with or without a flag
            before, now = record.get("precision"), precision(flags) or checked.default_precision
            is_other = None not in (before, now) and now != before
        if is_other:
            names = [name or "without a flag" for name in (before, now)]
            checked.other_precision[folder] = f"{folder} ({names[0]}, now {names[1]})"
    read_as = [arguments.get(key) for key in ("text_column_names", "text_column_delimiter")]
    for split, digest in record.get("data_fingerprints", {}).items():
        rows = [arguments.get(LIMITS[split])]
        if split == "train" and arguments.get("shuffle_train_dataset"):
            rows.append(arguments.get("seed"))
        key = json.dumps([flags["dataset_name"], split, rows, *read_as])
        other, before = checked.fingerprints.setdefault(key, (folder, digest))
        if digest != before:
            fail(f"{folder} and {other} are runs of different data ({split} split)")


# What runs are trained on


def has_begun(run: Path) -> bool:
    """Whether a run is finished, or will continue from a checkpoint."""
    names = ("train_results.json", "eval_results.json", "checkpoint-*/trainer_state.json")
    return any(next(run.glob(name), None) for name in names)


def with_output(word: str, output: Path) -> str:
    """Return a word that run_paper.sh kept, in which OUTPUT_DIR stands for that folder."""
    if word.startswith("OUTPUT_DIR/"):
        return f"{output}/{word.removeprefix('OUTPUT_DIR/')}"
    return word


def check_config(flags: Flags, run: Path) -> None:
    """Refuse a network whose configuration was edited since it was made."""
    config = Path(flags["config_name"][0])
    network = Path(flags["output_dir"][0], "config.json")
    if not network.exists():
        return
    made = json.loads(network.read_text("utf-8"))
    for key, value in json.loads(config.read_text("utf-8")).items():
        # The class is that of the network without a head.
        if key != "architectures" and text(made.get(key)) != text(value):
            fail(
                f"{run} is a run on a network with {key} {made.get(key)}, and {config} says "
                f"{value}; {REMEDY}"
            )


def check_made(words: list[str], output: Path) -> None:
    """Refuse a command that makes a network or data otherwise than under the runs that read it."""
    split = words.index("--")
    step, *runs = words[1:split]
    begun = [Path(run) for run in runs if has_begun(Path(run))]
    if not begun:
        return
    # Either command is python, a script and flags.
    now = read_flags(words[split + 3 :])
    try:
        kept = (output / "logs" / f"{step}.made").read_text("utf-8").splitlines()
    except OSError:
        return  # the runs come from elsewhere
    kept = kept[kept.index("--") + 3 :]
    before = read_flags([with_output(word, output) for word in kept])
    del before["output_dir"]
    differs = difference(before, {flag: now[flag] for flag in now if flag != "output_dir"})
    is_network = "config_name" in now
    if differs:
        what = "a network" if is_network else "data"
        fail(f"{begun[0]} is a run on {what} made {differs[0]}, not {differs[1]}; {REMEDY}")
    if is_network:
        check_config(now, begun[0])


def main() -> None:
    # 1. Arguments
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", required=True, help="Folder of the study.")
    parser.add_argument(
        "--without_launcher",
        action="store_true",
        help="A run without a flag of its precision is in fp32: no launcher chooses another.",
    )
    arguments = parser.parse_args()
    output = Path(arguments.output_dir)

    # 2. The lines of the plan
    checked = Checked({}, {}, "fp32" if arguments.without_launcher else None)
    for line in sys.stdin:
        words = shlex.split(line)
        if words[0] == "made":
            check_made(words, output)
        else:
            check_run(words, output, checked)

    # 3. What is no mistake
    descriptions = list(checked.other_precision.values())
    if descriptions:
        print(
            "notice: finished runs in another precision are kept: "
            f"{len(descriptions)}, such as {descriptions[0]}"
        )


if __name__ == "__main__":
    main()
