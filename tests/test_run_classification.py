"""Fine-tuning: its files, order and metrics, that nothing is lost, what it says to mistakes."""

import ast
import functools
import importlib
import json
import multiprocessing
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import (
    _validate_launch_command,
    launch_command_parser,
    prepare_multi_gpu_env,
)
from conftest import (
    LABELS,
    OWN_WORDS,
    ROOT,
    SHARED_WORDS,
    assert_user_error,
    make_records,
    write_dataset,
    write_own_files,
    write_tiny_model,
)
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

FAST = (
    "--max_seq_length", 64, "--gradient_accumulation_steps", 1, "--per_device_train_batch_size", 8,
    "--learning_rate", 0.003, "--num_train_epochs", 8, "--disable_tqdm", True,
)  # fmt: skip
EVERYTHING = ("--do_train", "--do_eval", "--do_predict")
NO_TEST = ("--do_predict", "false")  # saves the time that pictures and card take


def command(model, dataset, folder, *more):
    return (
        "--model_name_or_path",
        model,
        "--dataset_name",
        dataset,
        "--output_dir",
        folder,
        *FAST,
        *EVERYTHING,
        *more,
    )


def launch(*arguments, config):
    """Run the script in one process as ``accelerate launch`` starts it; return what is finished.

    Nothing is forked here, unlike in the tests of several processes. With as many threads as this
    process has: sums in another order differ in the last digits.
    """
    how = ["--config_file", str(config), "--num_processes", "1"]
    how += ["--num_cpu_threads_per_process", str(torch.get_num_threads())]
    how += ["--main_process_port", "0"]  # a free one
    start = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *how,
        str(ROOT / "run_classification.py"),
    ]
    return subprocess.run(
        [*start, *map(str, arguments)], capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def finished(tiny_model, tiny_dataset, tmp_path_factory):
    """A finished run of the tiny model: its folder."""
    import run_classification

    folder = tmp_path_factory.mktemp("run") / "run"
    argv = sys.argv
    sys.argv = ["run_classification.py", *map(str, command(tiny_model, tiny_dataset, folder))]
    try:
        run_classification.main()
    finally:
        sys.argv = argv
    return folder


def test_run_folder_is_complete(finished):
    names = {path.name for path in finished.iterdir() if not path.name.startswith("checkpoint-")}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "train_results.json", "eval_results.json", "predict_results.json", "all_results.json",
        "trainer_state.json", "predictions.csv",
        "confusion_matrix.png", "training_curve.png", "run_arguments.json", "README.md",
    }  # fmt: skip
    results = json.loads((finished / "predict_results.json").read_text())
    assert (
        results["predict_accuracy"] >= 0.8
    )  # the tiny texts are easy: each holds a word of its class


def test_predictions_are_the_models_in_dataset_order(finished, tiny_dataset):
    table = pd.read_csv(finished / "predictions.csv")
    test = load_dataset(str(tiny_dataset))["test"]
    assert list(table.columns) == ["id", "label", "prediction", *LABELS]
    assert list(table["id"]) == list(test["id"])
    assert list(table["label"]) == [LABELS[label] for label in test["label"]]
    np.testing.assert_allclose(table[LABELS].sum(axis=1), 1, atol=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(finished).eval()
    tokenizer = AutoTokenizer.from_pretrained(finished)
    for row, text in zip(table.to_dict("records"), test["abstract"], strict=True):
        with torch.no_grad():
            probabilities = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
        np.testing.assert_allclose([row[label] for label in LABELS], probabilities, atol=1e-5)
        assert row["prediction"] == LABELS[probabilities.argmax()]


def test_metrics_are_those_of_the_predictions(finished):
    table = pd.read_csv(finished / "predictions.csv")
    results = json.loads((finished / "predict_results.json").read_text())
    assert results["predict_accuracy"] == pytest.approx(
        accuracy_score(table["label"], table["prediction"])
    )
    f1 = f1_score(table["label"], table["prediction"], average="macro")
    assert results["predict_f1"] == pytest.approx(f1)
    assert results["predict_samples"] == len(table)
    union = json.loads((finished / "all_results.json").read_text())
    assert {"train_loss", "eval_loss", "predict_loss", "eval_f1", "predict_recall"} <= set(union)


def test_best_model_is_the_one_kept(finished):
    state = json.loads((finished / "trainer_state.json").read_text())
    losses = [row["eval_loss"] for row in state["log_history"] if "eval_loss" in row]
    kept = json.loads((finished / "eval_results.json").read_text())["eval_loss"]
    assert kept == pytest.approx(min(losses), abs=1e-6)


def test_pipeline_gives_class_names(finished):
    classifier = pipeline("text-classification", str(finished))
    texts = ["the floer form floer of a manifold", "every ricci metric ricci is compact"]
    assert [answer["label"] for answer in classifier(texts)] == ["math.SG", "math.DG"]
    assert classifier.model.dtype == torch.float32


def test_card_has_the_metrics_that_the_hub_reads(finished):
    from huggingface_hub import ModelCard

    card = ModelCard.load(finished / "README.md")
    metrics = {result.metric_type: result.metric_value for result in card.data.eval_results}
    results = json.loads((finished / "predict_results.json").read_text())
    assert metrics["accuracy"] == pytest.approx(results["predict_accuracy"], abs=1e-4)
    assert metrics["f1"] == pytest.approx(results["predict_f1"], abs=1e-4)
    assert str(finished.parent) not in card.content


def test_finished_run_is_not_run_again_and_another_one_not_mixed_in(
    run, finished, tiny_model, tiny_dataset
):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    again = run("run_classification", *command(tiny_model, tiny_dataset, finished))
    assert again.code == 0
    assert "finished" in again.log
    other = run(
        "run_classification", *command(tiny_model, tiny_dataset, finished, "--learning_rate", 0.02)
    )
    assert_user_error(other, finished, "learning_rate", 0.02)
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


@pytest.mark.parametrize(
    "missing", ["README.md", "predictions.csv", "trainer_state.json", "all_results.json"]
)
def test_run_killed_after_a_file_was_due_is_completed(
    run, finished, tiny_model, tiny_dataset, tmp_path, missing
):
    """A run is not called finished before its predictions, its state and its card are there."""
    folder = tmp_path / finished.name
    shutil.copytree(finished, folder)
    later = {"README.md", "training_curve.png", "confusion_matrix.png", missing}
    if missing == "trainer_state.json":
        later |= {"eval_results.json", "predict_results.json", "predictions.csv"}
    if missing == "all_results.json":  # the card is older than the results
        later = set()
        os.utime(folder / "README.md", (0, 0))
        (folder / "README.md").write_text("an older card")
        os.utime(folder / "README.md", (0, 0))
    for name in later:
        (folder / name).unlink()
    result = run("run_classification", *command(tiny_model, tiny_dataset, folder))
    assert result.code == 0, result.err
    for name in ("README.md", "predictions.csv", "model.safetensors", "confusion_matrix.png"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    assert (folder / "trainer_state.json").exists()


def test_edited_card_is_kept_when_new_results_need_another(
    run, finished, tiny_model, tiny_dataset, tmp_path
):
    folder = tmp_path / finished.name
    shutil.copytree(finished, folder)
    card = folder / "README.md"
    written = card.read_text()
    again = command(tiny_model, tiny_dataset, folder)
    for number in (1, 2):
        card.write_text(written.replace("## Training", f"Edited {number} times.\n\n## Training"))
        (folder / "predict_results.json").unlink()  # as a first command without --do_predict
        (folder / "predictions.csv").unlink()
        result = run("run_classification", *again)
        assert result.code == 0, result.err
        assert f"README-edited-{number}.md" in result.log
        assert f"Edited {number} times." in (folder / f"README-edited-{number}.md").read_text()
        assert card.read_text() == written
    (folder / "predictions.csv").unlink()
    assert run("run_classification", *again).code == 0
    assert len(list(folder.glob("README*"))) == 3  # what the script wrote is replaced


def test_two_commands_in_one_folder(run, tiny_model, tiny_dataset, tmp_path):
    """The second one is refused while the first one runs, and changes nothing."""
    import run_classification

    folder = tmp_path / "run"
    folder.mkdir()
    with run_classification.locked_folder(folder):
        result = run("run_classification", *command(tiny_model, tiny_dataset, folder))
    assert_user_error(result, folder, "another process")
    assert not list(folder.iterdir())


def test_lock_ends_with_its_process_not_with_those_forked_from_it(tmp_path):
    """Workers that tokenize outlived a killed process, and the same command was refused."""
    import run_classification

    code = (
        "import os, sys, time, pathlib, run_classification\n"
        "with run_classification.locked_folder(pathlib.Path(sys.argv[1])):\n"
        "    child = os.fork()\n"
        "    if child: print(child, flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    try:
        with pytest.raises(SystemExit), run_classification.locked_folder(tmp_path):
            pass
        process.kill()
        process.wait()
        with run_classification.locked_folder(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("length", [("--num_train_epochs", 30), ("--max_steps", 300)])
def test_early_stopping_after_three_evaluations_without_a_better_loss(
    run, tiny_model, tiny_dataset, tmp_path, length
):
    worse = ("--learning_rate", 1.0, "--warmup_steps", 0, "--max_grad_norm", 0, *length, *NO_TEST)
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run", *worse)
    result = run("run_classification", *arguments)
    assert result.code == 0, result.err
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    losses = [
        row["eval_loss"] for row in state["log_history"] if row.get("eval_loss") and row["step"] > 0
    ]
    losses = list(dict.fromkeys(losses[: round(state["epoch"])]))
    best = losses.index(min(losses))
    assert state["epoch"] < 30
    assert round(state["epoch"]) == best + 1 + 3

    # As if it had been killed after the last checkpoint: patience that was used up stays used up.
    weights = load_file(tmp_path / "run" / "model.safetensors")
    for name in ("train_results.json", "eval_results.json", "model.safetensors"):
        (tmp_path / "run" / name).unlink()
    assert run("run_classification", *arguments).code == 0
    again = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert (
        json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"]
        == state["global_step"]
    )


def test_checkpoint_in_half_precision_is_trained_in_fp32(run, tiny_dataset, tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    AutoModelForSequenceClassification.from_pretrained(folder).to(torch.bfloat16).save_pretrained(
        folder
    )
    result = run(
        "run_classification",
        *command(folder, tiny_dataset, tmp_path / "run", "--num_train_epochs", 1, *NO_TEST),
    )
    assert result.code == 0, result.err
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_prediction_alone_with_a_finished_model(run, finished, tiny_dataset, tmp_path):
    arguments = (
        "--model_name_or_path",
        finished,
        "--dataset_name",
        tiny_dataset,
        "--output_dir",
        tmp_path / "run",
    )
    # The training chose eager attention. sdpa computes the same in another order and may differ in
    # the last digit.
    arguments += ("--do_predict", "--max_seq_length", 64, "--attn_implementation", "eager")
    result = run("run_classification", *arguments)
    assert result.code == 0, result.err
    assert (tmp_path / "run" / "predictions.csv").read_bytes() == (
        finished / "predictions.csv"
    ).read_bytes()


def test_text_prefix_is_used_and_stored(run, tiny_model, tiny_dataset, tmp_path):
    result = run(
        "run_classification",
        *command(
            tiny_model,
            tiny_dataset,
            tmp_path / "run",
            "--text_prefix",
            "floer ",
            "--num_train_epochs",
            1,
        ),
    )
    assert result.code == 0, result.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["text_prefix"] == "floer "
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    text = "floer " + load_dataset(str(tiny_dataset))["test"]["abstract"][0]
    with torch.no_grad():
        probabilities = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
    row = pd.read_csv(tmp_path / "run" / "predictions.csv").iloc[0]
    np.testing.assert_allclose(row[LABELS].astype(float), probabilities, atol=1e-5)


def test_class_weights_change_the_loss(run, tiny_model, tmp_path):
    records = [
        record for row, record in enumerate(make_records(40)) if record["label"] < 2 or row % 3 == 0
    ]
    write_dataset(tmp_path / "data", records)
    losses = []
    for weights in ("none", "balanced"):
        folder = tmp_path / weights
        more = ("--class_weights", weights, "--num_train_epochs", 1, *NO_TEST)
        assert (
            run("run_classification", *command(tiny_model, tmp_path / "data", folder, *more)).code
            == 0
        )
        losses.append(json.loads((folder / "train_results.json").read_text())["train_loss"])
    assert losses[0] != pytest.approx(losses[1], abs=1e-6)
    assert losses[0] == pytest.approx(losses[1], rel=0.3)  # weights average to 1: the same scale


def test_loss_after_the_training_is_that_of_the_training(run, tiny_model, tmp_path):
    """A run's own model evaluates with the weights of its classes, as the Trainer did."""
    records = [record for row, record in enumerate(make_records(40)) if row % 7 < 4]
    write_dataset(tmp_path / "data", records)
    flags = command(tiny_model, tmp_path / "data", tmp_path / "run")
    flags += ("--num_train_epochs", 1, "--class_weights", "balanced")
    assert run("run_classification", *flags, "--label_smoothing_factor", 0.1).code == 0
    names = ("eval_results.json", "predict_results.json")
    before = [json.loads((tmp_path / "run" / name).read_text()) for name in names]
    assert before[0]["eval_loss"] != pytest.approx(before[0]["eval_log_loss"], abs=1e-4)
    data = ("--dataset_name", tmp_path / "data", "--do_eval", "--do_predict")
    for folder in (tmp_path / "run", tmp_path / "other"):
        flags = ("--model_name_or_path", tmp_path / "run", *data, "--output_dir", folder)
        result = run("run_classification", *flags)
        assert result.code == 0, result.err
        after = [json.loads((folder / name).read_text()) for name in names]
        assert after[0]["eval_loss"] == pytest.approx(before[0]["eval_loss"], abs=1e-6)
        assert after[1]["predict_loss"] == pytest.approx(before[1]["predict_loss"], abs=1e-6)
        assert record_of(folder)["loss"]["label_smoothing_factor"] == 0.1


@pytest.mark.parametrize("flags", [("class_weights", "balanced"), ("label_smoothing_factor", 0.1)])
def test_flags_of_the_loss_without_a_training(run, finished, tiny_dataset, tmp_path, flags):
    more = (f"--{flags[0]}", flags[1], "--dataset_name", tiny_dataset, "--do_eval")
    more += ("--model_name_or_path", finished, "--output_dir", tmp_path / "run")
    assert_user_error(run("run_classification", *more), f"--{flags[0]}", "nothing is trained")


def test_loss_of_many_documents_in_half_precision_is_finite():
    """Their sum is more than float16 can hold."""
    import run_classification

    logits = np.random.default_rng(0).normal(size=(80_000, 5))
    labels = np.zeros(80_000, dtype=int)
    loss = functools.partial(
        run_classification.compute_loss, weight=torch.ones(5), label_smoothing=0.0
    )
    trainer = SimpleNamespace(compute_loss_func=loss, compute_metrics=lambda prediction: {})
    scores = run_classification.score_logits(trainer, logits.astype(np.float16), labels, "eval")
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item()
    assert scores["eval_loss"] == pytest.approx(expected, rel=1e-4)


def test_results_of_a_step_are_written_last(tmp_path, monkeypatch):
    """A run that is killed before is not finished: all_results.json would stay without them."""
    import run_classification

    written = []
    monkeypatch.setattr(run_classification, "write", lambda path, text: written.append(path.name))
    arguments = SimpleNamespace(output_dir=str(tmp_path))
    trainer = SimpleNamespace(args=arguments, is_world_process_zero=lambda: True)
    run_classification.save_metrics(trainer, "eval", {"eval_loss": 1.0})
    assert written == ["all_results.json", "eval_results.json"]


def test_record_of_predictions_does_not_invent_a_training(run, tiny_dataset, tmp_path):
    """The seed and the rate of a classifier that is no run are not known."""
    folder = write_tiny_model(tmp_path / "model")
    flags = ("--model_name_or_path", folder, "--dataset_name", tiny_dataset, "--do_predict")
    flags += ("--max_seq_length", 64, "--output_dir", tmp_path / "run")
    assert run("run_classification", *flags).code == 0
    record = record_of(tmp_path / "run")
    unknown = ("seed", "learning_rate", "total_train_batch_size")
    assert [record[name] for name in unknown] == [None, None, None]


@pytest.mark.parametrize("script", ["run_classification", "run_baseline"])
def test_revision_of_a_local_dataset(run, tiny_model, tiny_dataset, tmp_path, script):
    flags = ("--dataset_name", tiny_dataset, "--dataset_revision", "main")
    flags += ("--output_dir", tmp_path / "run")
    if script == "run_classification":
        flags += ("--model_name_or_path", tiny_model, "--do_train", "--do_eval")
    assert_user_error(run(script, *flags), "--dataset_revision", "local folder")
    for flag in ("--dataset_revision", "--dataset_config_name"):
        more = (*flags[4:], *write_own_files(tmp_path), flag, "main")
        assert_user_error(run(script, *more), f"{flag} requires --dataset_name")


def test_dropped_rows_of_every_command_are_kept(run, finished, tmp_path):
    frame = pd.DataFrame(make_records())
    frame["label"] = [LABELS[label] for label in frame["label"]]
    frame.loc[3, "abstract"] = " "
    frame[["id", "abstract", "label"]].to_csv(tmp_path / "new.csv", index=False)
    flags = ("--model_name_or_path", finished, "--output_dir", tmp_path / "run", "--drop_bad_rows")
    for file, step in (("--validation_file", "--do_eval"), ("--test_file", "--do_predict")):
        result = run("run_classification", *flags, file, tmp_path / "new.csv", step)
        assert result.code == 0, result.err
    dropped = record_of(tmp_path / "run")["dropped_rows"]
    assert [sum(counts.values()) for counts in dropped.values()] == [1, 1]
    assert set(dropped) == {"validation", "test"}


def test_accumulation_comes_near_the_studys_batch_and_says_how_near(run, tiny_model, tmp_path):
    """5,120 training documents are the least that give an epoch of ten updates of 512."""
    write_dataset(tmp_path / "data", make_records(per_class=1300))
    arguments = [*command(tiny_model, tmp_path / "data", tmp_path / "run", *NO_TEST)]
    place = arguments.index("--gradient_accumulation_steps")
    del arguments[place : place + 2]
    more = ("--per_device_train_batch_size", 24, "--max_steps", 1, "--max_eval_samples", 10)
    result = run("run_classification", *arguments, *more)
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "run" / "run_arguments.json").read_text())
    assert record["total_train_batch_size"] == 21 * 24
    assert "1 updates with an effective batch size of 504 (the study: 512)" in result.log


@pytest.mark.parametrize(
    ("documents", "per_step", "processes", "steps"),
    [(8000, 32, 1, 16), (8000, 8, 2, 32), (320, 32, 1, 1), (2000, 32, 1, 6), (50, 64, 4, 1)],
)
def test_default_accumulation_gives_ten_updates_an_epoch(documents, per_step, processes, steps):
    import run_classification

    training = SimpleNamespace(train_batch_size=per_step, world_size=processes)
    assert run_classification.choose_accumulation_steps(training, documents) == steps


def test_few_updates_are_announced_with_a_remedy(run, tiny_model, tiny_dataset, tmp_path):
    flags = ("--num_train_epochs", 2, *NO_TEST)
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "a", *flags))
    assert "up to 20 updates" in result.log
    warning = "few updates (20): the model may not learn the task; lower --per_device_train_batch"
    assert warning in result.log
    flags = ("--num_train_epochs", 1, "--gradient_accumulation_steps", 5, *NO_TEST)
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "b", *flags))
    warning = "few updates (2): the model may not learn the task; lower --gradient_accumulation"
    assert warning in result.log
    state = json.loads((tmp_path / "b" / "trainer_state.json").read_text())
    assert state["max_steps"] == 2


def test_attention_dropout_is_an_option_and_part_of_the_run(
    run, tiny_model, tiny_dataset, tmp_path
):
    arguments = command(
        tiny_model, tiny_dataset, tmp_path / "run", "--num_train_epochs", 1, *NO_TEST
    )
    assert run("run_classification", *arguments, "--attention_dropout", 0).code == 0
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text())["attention_probs_dropout_prob"]
        == 0
    )
    assert_user_error(run("run_classification", *arguments), "attention_dropout")


@pytest.mark.parametrize(
    ("given", "dropout", "do_train", "device", "chosen"),
    [
        (None, 0.1, True, "cpu", "eager"),
        (None, 0, True, "cpu", "sdpa"),
        (None, 0.1, False, "cpu", "sdpa"),
        (None, 0.1, True, "cuda", "sdpa"),  # the device is only named: no GPU is used
        ("sdpa", 0.1, True, "cpu", "sdpa"),
        ("eager", 0, False, "cpu", "eager"),
    ],
)
def test_attention_implementation_by_device_and_dropout(
    tiny_model, caplog, given, dropout, do_train, device, chosen
):
    import run_classification

    arguments = run_classification.ModelArguments(
        str(tiny_model), attn_implementation=given, attention_dropout=dropout
    )
    caplog.set_level("INFO")
    config = run_classification.load_config(arguments)
    model = run_classification.load_model(arguments, config, do_train, torch.device(device))
    assert model.config._attn_implementation == chosen
    logged = (
        "attention: eager, which is faster than sdpa on a CPU with attention dropout 0.1"
        in caplog.text
    )
    assert logged == (given is None and chosen == "eager")


def test_attention_implementation_is_not_saved(finished):
    assert "attn" not in (finished / "config.json").read_text()
    assert (
        AutoModelForSequenceClassification.from_pretrained(finished).config._attn_implementation
        == "sdpa"
    )


# Own data (every kind of bad row: test_prepare_dataset.py, which reads by the same lines)


@pytest.mark.parametrize("script", ["run_classification", "run_baseline"])
def test_own_files_without_a_validation_split(run, tiny_model, tmp_path, script):
    flags = (
        *write_own_files(tmp_path, texts=["body"]),
        "--validation_fraction",
        0.2,
        "--output_dir",
        tmp_path / "run",
    )
    if script == "run_classification":
        flags = ("--model_name_or_path", tiny_model, *flags, *FAST, *EVERYTHING)
    result = run(script, *flags)
    assert result.code == 0, result.err
    assert "no validation split: 16 training documents" in result.log
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert (results["train_samples"], results["eval_samples"], results["predict_samples"]) == (
        64,
        16,
        20,
    )
    assert results["predict_accuracy"] > 0.5
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(predictions["id"]) == [f"test.{row}" for row in range(20)]
    assert "train.csv" in (tmp_path / "run" / "README.md").read_text()


def test_splits_that_are_held_out_are_those_of_the_training(run, tiny_model, tmp_path):
    """Whatever --seed is: another test split would have texts that the model was trained on."""
    write_own_files(tmp_path, texts=["body"])
    data = ("--train_file", tmp_path / "train.csv", "--text_column_names", "body")
    data += ("--label_column_name", "kind", "--test_fraction", 0.25)
    short = (*FAST, "--num_train_epochs", 1)
    ids = {}
    for seed, split_seed in ((1, 7), (2, 7), (1, 8)):
        folder = tmp_path / f"run-{seed}-{split_seed}"
        flags = ("--seed", seed, "--split_seed", split_seed, "--output_dir", folder)
        flags = ("--model_name_or_path", tiny_model, *data, *short, *flags, *EVERYTHING)
        result = run("run_classification", *flags)
        assert result.code == 0, result.err
        ids[seed, split_seed] = list(pd.read_csv(folder / "predictions.csv")["id"])
    assert ids[1, 7] == ids[2, 7] != ids[1, 8]

    model = ("--model_name_or_path", tmp_path / "run-1-7", "--do_predict")
    predicting = (*model, *data, "--output_dir", tmp_path / "again")
    result = run("run_classification", *predicting)
    assert result.code == 0, result.err
    assert list(pd.read_csv(tmp_path / "again" / "predictions.csv")["id"]) == ids[1, 7]
    # A checkpoint knows no more than its run does.
    (checkpoint,) = (tmp_path / "run-1-7").glob("checkpoint-*")
    flags = ("--model_name_or_path", checkpoint, *data, "--do_predict")
    result = run("run_classification", *flags, "--output_dir", tmp_path / "checkpoint")
    assert result.code == 0, result.err
    assert list(pd.read_csv(tmp_path / "checkpoint" / "predictions.csv")["id"]) == ids[1, 7]
    # The validation split is cut from what is left, though no test split is asked for.
    flags = ("--model_name_or_path", tmp_path / "run-1-7", "--do_eval", *data[:-2])
    result = run("run_classification", *flags, "--output_dir", tmp_path / "eval")
    assert result.code == 0, result.err
    recorded = [record_of(tmp_path / name)["data_fingerprints"] for name in ("run-1-7", "eval")]
    assert recorded[0]["validation"] == recorded[1]["validation"]
    for more in (("--split_seed", 8), ("--test_fraction", 0.5), ("--validation_fraction", 0.3)):
        assert_user_error(run("run_classification", *predicting, *more), more[0], "trained with")
    # Other data with a test split, for which the seed of the run has no meaning
    flags = (*model, "--test_file", tmp_path / "test.csv", "--output_dir", tmp_path / "other")
    assert run("run_classification", *flags).code == 0


@pytest.mark.parametrize("flag", ["--split_seed", "--validation_fraction"])
@pytest.mark.parametrize("do", ["--do_train", "--do_predict"])
def test_flags_of_splits_where_none_is_held_out(
    run, finished, tiny_model, tiny_dataset, tmp_path, flag, do
):
    data = ("--dataset_name", tiny_dataset)
    model = tiny_model if do == "--do_train" else finished
    if do == "--do_predict" and flag == "--validation_fraction":
        write_own_files(tmp_path)
        data = ("--test_file", tmp_path / "test.csv", "--text_column_names", "body")
    flags = ("--model_name_or_path", model, *data, do, "--output_dir", tmp_path / "run")
    value = 7 if flag == "--split_seed" else 0.2
    result = run("run_classification", *flags, flag, value)
    assert_user_error(result, flag, "leave")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("script", ["run_classification", "run_baseline"])
def test_validation_fraction_beside_a_validation_split_is_refused(
    run, tiny_model, tiny_dataset, tmp_path, script
):
    flags = ("--dataset_name", tiny_dataset, "--output_dir", tmp_path / "run")
    if script == "run_classification":
        flags = ("--model_name_or_path", tiny_model, *flags, *EVERYTHING)
    result = run(script, *flags, "--validation_fraction", 0.3)
    assert_user_error(result, "--validation_fraction", "a validation split already")


def test_validation_fraction_of_a_training_beside_a_validation_split(
    run, tiny_model, tiny_dataset, tmp_path
):
    """A run that held out a share of its training is measured on data with a validation split."""
    training = ("--model_name_or_path", tiny_model, "--train_file", tmp_path / "train.csv")
    frame = pd.DataFrame(make_records())[["abstract", "label"]]
    frame["label"] = [LABELS[label] for label in frame["label"]]
    frame.to_csv(tmp_path / "train.csv", index=False)
    training += (*FAST, "--num_train_epochs", 1, "--validation_fraction", 0.3, "--do_train")
    assert run("run_classification", *training, "--output_dir", tmp_path / "run").code == 0
    assert record_of(tmp_path / "run")["arguments"]["validation_fraction"] == 0.3

    measuring = ("--model_name_or_path", tmp_path / "run", "--do_eval")
    measuring += ("--dataset_name", tiny_dataset, "--output_dir", tmp_path / "eval")
    result = run("run_classification", *measuring)
    assert result.code == 0, result.err

    # A command that only predicts may repeat the flags of the training, and no others.
    predicting = ("--model_name_or_path", tmp_path / "run", "--do_predict", "--test_file")
    predicting += (tmp_path / "train.csv", "--output_dir", tmp_path / "predictions")
    result = run("run_classification", *predicting, "--validation_fraction", 0.3)
    assert result.code == 0, result.err
    result = run("run_classification", *predicting, "--validation_fraction", 0.2)
    assert_user_error(result, "--validation_fraction: no validation split is taken")


@pytest.mark.parametrize("script", ["run_classification", "run_baseline"])
@pytest.mark.parametrize("number", [-1, None])
def test_lists_of_class_numbers_with_none_are_refused(run, tiny_model, tmp_path, script, number):
    """In datasets, -1 is the number of no class; as an index it would be the last one."""
    features = Features(abstract=Value("string"), label=List(ClassLabel(names=LABELS)))
    labels = [[number], *([number % 5, (number + 1) % 5] for number in range(39))]
    texts = [f"a text of number {number}" for number in range(40)]
    rows = Dataset.from_dict({"abstract": texts, "label": labels}, features)
    rows.to_parquet(tmp_path / "train.parquet")
    flags = ("--train_file", tmp_path / "train.parquet", "--output_dir", tmp_path / "run")
    if script == "run_classification":
        flags = ("--model_name_or_path", tiny_model, *flags, "--do_train", "--do_eval")
    assert_user_error(run(script, *flags), "empty name")


def test_predictions_of_another_dataset_do_not_go_into_the_run(
    run, finished, tiny_dataset, tmp_path
):
    """The card would say that they are of the run's dataset."""
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "predict_results.json").unlink()
    frame = pd.DataFrame(make_records(20))[["abstract", "label"]]
    frame["label"] = [LABELS[label] for label in frame["label"]]
    frame.to_csv(tmp_path / "other.csv", index=False)
    flags = ("--model_name_or_path", folder, "--do_predict", "--test_file", tmp_path / "other.csv")
    result = run("run_classification", *flags, "--output_dir", folder)
    assert_user_error(result, folder, "another test split", "--output_dir")

    out = tmp_path / "predictions"
    assert run("run_classification", *flags, "--output_dir", out).code == 0
    flags = ("--model_name_or_path", folder, "--do_eval", "--dataset_name", tiny_dataset)
    result = run("run_classification", *flags, "--output_dir", out)
    assert_user_error(result, out, "other.csv", tiny_dataset.name, "--output_dir")


def test_dictionary_in_a_file_of_flags(run, tiny_model, tiny_dataset, tmp_path):
    """As TrainingArguments takes them, such as lr_scheduler_kwargs."""
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run", *NO_TEST, "--max_steps", 2)
    lines = {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}}
    (tmp_path / "flags.yaml").write_text(json.dumps(lines))
    result = run("run_classification", "--config", tmp_path / "flags.yaml", *arguments)
    assert result.code == 0, result.err
    recorded = record_of(tmp_path / "run")["arguments"]
    assert recorded["lr_scheduler_kwargs"] == "{'num_cycles': 2}"


def test_words_in_a_file_of_flags_are_read_as_written(tmp_path):
    """YAML takes no and on for false and true, and --label_names became False and True."""
    import run_classification

    file = tmp_path / "flags.yaml"
    file.write_text("label_names: [no, 'yes', 01]\nbf16: true\nsave_strategy: no\nseed:\n")
    words = "--label_names no yes 01 --bf16 true --save_strategy no".split()
    assert run_classification.read_config(file) == words


def test_folders_that_the_trainer_would_delete_are_refused(
    run, finished, tiny_model, tiny_dataset, tmp_path
):
    folder = shutil.copytree(finished, tmp_path / "run")
    for name in ("train_results.json", "trainer_state.json", "predict_results.json"):
        (folder / name).unlink()
    checkpoint = next(folder.glob("checkpoint-*"))
    kept = shutil.copytree(checkpoint, folder / f"{checkpoint.name}-keep")
    result = run("run_classification", *command(tiny_model, tiny_dataset, folder))
    assert_user_error(result, kept, "delete it", "move it elsewhere")
    assert kept.exists()


def test_finished_training_without_checkpoints_does_not_begin_again(
    run, finished, tiny_model, tiny_dataset, tmp_path
):
    folder = shutil.copytree(finished, tmp_path / "run")
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    (folder / "predict_results.json").unlink()
    weights = (folder / "model.safetensors").read_bytes()
    result = run("run_classification", *command(tiny_model, tiny_dataset, folder))
    assert_user_error(result, folder, "leave out --do_train", "--model_name_or_path")
    assert (folder / "model.safetensors").read_bytes() == weights


def test_step_added_to_a_training_that_kept_its_best_checkpoint_only(
    run, tiny_model, tiny_dataset, tmp_path
):
    """The Trainer would go on from there, and train the last epochs a second time."""
    folder = tmp_path / "run"
    more = ("--num_train_epochs", 3, "--learning_rate", 1e-5, "--save_strategy", "best")
    more += ("--metric_for_best_model", "accuracy")
    first = command(tiny_model, tiny_dataset, folder, *more, *NO_TEST)
    assert run("run_classification", *first).code == 0
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-10"]
    weights = (folder / "model.safetensors").read_bytes()
    result = run("run_classification", *command(tiny_model, tiny_dataset, folder, *more))
    assert_user_error(result, folder, "30 steps", "step 10", "leave out --do_train")
    assert not (folder / "predictions.csv").exists()
    flags = ("--model_name_or_path", folder, "--dataset_name", tiny_dataset, "--do_predict")
    assert run("run_classification", *flags, "--output_dir", folder).code == 0
    assert (folder / "predictions.csv").exists()
    assert (folder / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("script", ["run_classification", "run_baseline"])
@pytest.mark.parametrize("flags", [(), ("--label_delimiter", ",")])
def test_lists_of_labels_that_were_written_as_text(run, tiny_model, tmp_path, script, flags):
    """pandas writes a column of lists into a CSV file in this way."""
    frame = pd.DataFrame(make_records())
    frame["label"] = [[LABELS[label], "other"] for label in frame["label"]]
    frame[["abstract", "label"]].to_csv(tmp_path / "train.csv", index=False)
    flags = ("--train_file", tmp_path / "train.csv", *flags, "--output_dir", tmp_path / "run")
    if script == "run_classification":
        flags = ("--model_name_or_path", tiny_model, *flags, "--do_train", "--do_eval")
    assert_user_error(run(script, *flags), "lists", ".parquet", "--label_delimiter")


@pytest.mark.parametrize("script", ["run_classification", "run_baseline"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda frame: frame.drop(columns="kind"), ["kind", "train", "title"]),
        (lambda frame: frame[:0], ["train", "no rows"]),
        (
            lambda frame: frame.assign(kind=frame["kind"].where(frame.index != 7)),
            ["row 7", "no label", "kind"],
        ),
        (
            lambda frame: frame.assign(kind=range(len(frame))),
            ["--validation_fraction", "--validation_file"],
        ),
    ],
)
def test_bad_own_files(run, tiny_model, tmp_path, script, spoil, words):
    flags = (*write_own_files(tmp_path), "--output_dir", tmp_path / "run")
    spoil(pd.read_csv(tmp_path / "train.csv")).to_csv(tmp_path / "train.csv", index=False)
    if script == "run_classification":
        flags = ("--model_name_or_path", tiny_model, *flags, *EVERYTHING)
    assert_user_error(run(script, *flags), *words)


# Several processes, mixed precision, interruptions


def test_accelerate_launch_with_the_studys_configuration_on_a_cpu(
    finished, tiny_model, tiny_dataset, tmp_path
):
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run")
    result = launch(*arguments, config=ROOT / "accelerate_config.yaml")
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count("fp16 needs a GPU") == 1
    assert json.loads((tmp_path / "run" / "run_arguments.json").read_text())["precision"] == "fp32"
    assert (tmp_path / "run" / "predictions.csv").read_bytes() == (
        finished / "predictions.csv"
    ).read_bytes()


def test_two_processes_predict_as_one_does(
    run, tiny_model, tiny_dataset, tmp_path, accelerate_launch
):
    how = ["--config_file", ROOT / "configs" / "accelerate_cpu.yaml", "--num_processes", 2]
    arguments = ["--model_name_or_path", tiny_model, "--dataset_name", tiny_dataset]
    arguments += ["--output_dir", tmp_path / "two", *EVERYTHING, "--max_seq_length", 64]
    arguments += ["--num_train_epochs", 1, "--per_device_train_batch_size", 8]
    arguments += ["--per_device_eval_batch_size", 3]
    process = accelerate_launch(
        *how, "--main_process_port", 0, ROOT / "run_classification.py", *arguments
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    record = json.loads((tmp_path / "two" / "run_arguments.json").read_text())
    assert (record["processes"], record["total_train_batch_size"]) == (2, 16)

    arguments = (
        "--model_name_or_path",
        tmp_path / "two",
        "--dataset_name",
        tiny_dataset,
        "--do_eval",
        "--do_predict",
    )
    assert (
        run(
            "run_classification",
            *arguments,
            "--output_dir",
            tmp_path / "one",
            "--max_seq_length",
            64,
        ).code
        == 0
    )
    one, two = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("one", "two"))
    assert list(two["id"]) == list(load_dataset(str(tiny_dataset))["test"]["id"])
    assert list(one["id"]) == list(two["id"])
    np.testing.assert_allclose(one[LABELS], two[LABELS], atol=2e-6)
    for split, key in product(("eval", "predict"), ("loss", "accuracy", "f1")):
        results = [
            json.loads((tmp_path / name / f"{split}_results.json").read_text())
            for name in ("one", "two")
        ]
        assert results[0][f"{split}_{key}"] == pytest.approx(results[1][f"{split}_{key}"], abs=1e-5)


@pytest.fixture
def batch_lengths(monkeypatch):
    """The padded lengths of all batches that the script makes."""
    lengths = []
    collate = transformers.DataCollatorWithPadding.__call__

    def spy(self, features):
        batch = collate(self, features)
        lengths.append(batch["input_ids"].shape[1])
        return batch

    monkeypatch.setattr(transformers.DataCollatorWithPadding, "__call__", spy)
    return lengths


@pytest.mark.parametrize("launched", ["bf16", "no"])
def test_precision_that_the_launcher_switches_on_is_recorded(
    run, tiny_model, tiny_dataset, tmp_path, monkeypatch, batch_lengths, launched
):
    """accelerate launch --mixed_precision and its configuration files set this variable."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    folder = tmp_path / "run"
    result = run(
        "run_classification", *command(tiny_model, tiny_dataset, folder, "--num_train_epochs", 1)
    )
    assert result.code == 0, result.err
    precision = {"no": "fp32"}.get(launched, launched)
    assert json.loads((folder / "run_arguments.json").read_text())["precision"] == precision
    assert f"{precision}, seed" in (folder / "README.md").read_text()
    assert all(length % 8 == 0 for length in batch_lengths) == (launched == "bf16")
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_fp16_has_a_gradient_scaler_and_fp32_weights(
    run, tiny_dataset, tmp_path, monkeypatch, batch_lengths
):
    """The fp16 path on a CPU, as if there were an accelerator and accelerate did not refuse.

    The fp16 arithmetic and the GradScaler are torch's own, on the CPU.
    """
    folder = write_tiny_model(tmp_path / "model")
    AutoModelForSequenceClassification.from_pretrained(folder).half().save_pretrained(folder)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    scalers, types = [], set()
    prepare = Accelerator.__init__

    def init(self, *args, **kwargs):
        prepare(self, *args, **kwargs)
        assert self.mixed_precision == "fp16" and self.scaler is None
        self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", init_scale=2.0**40)
        scalers.append(self.scaler)

    monkeypatch.setattr(Accelerator, "__init__", init)
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: (
            types.add(output.dtype) if isinstance(module, torch.nn.Linear) else None
        )
    )
    try:
        flags = ("--fp16", "--num_train_epochs", 3, "--dataloader_pin_memory", "false")
        result = run("run_classification", *command(folder, tiny_dataset, tmp_path / "run", *flags))
    finally:
        hook.remove()
    assert result.code == 0, result.err
    assert types == {torch.float16}
    assert scalers[0].get_scale() < 2.0**40  # gradients overflowed, and those steps were left out
    assert batch_lengths and all(length % 8 == 0 for length in batch_lengths)
    assert json.loads((tmp_path / "run" / "run_arguments.json").read_text())["precision"] == "fp16"
    assert "fp16, seed" in (tmp_path / "run" / "README.md").read_text()
    weights, before = (load_file(path / "model.safetensors") for path in (tmp_path / "run", folder))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert not torch.equal(weights["classifier.weight"], before["classifier.weight"].float())


def test_processes_check_the_output_folder_at_the_same_time(tmp_path):
    """Threads stand for the processes: each finds the folder empty and writable."""
    import run_classification

    def check(number):
        folder = tmp_path / str(number // 8)
        run_classification.open_output_dir(folder, "run_classification.py", ["run_arguments.json"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, range(1600)))
    assert len(list(tmp_path.iterdir())) == 200


def test_error_in_two_processes_is_shown_once_and_ends_both(
    tiny_model, tiny_dataset, tmp_path, accelerate_launch
):
    how = ["--config_file", ROOT / "configs" / "accelerate_cpu.yaml", "--num_processes", 2]
    how += ["--main_process_port", 0]
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run", "--max_seq_length", 10_000)
    process = accelerate_launch(*how, ROOT / "run_classification.py", *arguments)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert output.count("error: --max_seq_length") == 1, output


@pytest.mark.parametrize(
    ("name", "kind", "machines"),
    [
        ("cpu", "MULTI_GPU", 1),
        ("multi_gpu", "MULTI_GPU", 1),
        ("fsdp", "FSDP", 1),
        ("deepspeed_zero2", "DEEPSPEED", 1),
        ("two_nodes", "MULTI_GPU", 2),
    ],
)
def test_accelerate_reads_its_configurations(name, kind, machines):
    """Unknown keys and values are errors in accelerate's own reader and in its launcher."""
    path = str(ROOT / "configs" / f"accelerate_{name}.yaml")
    config = load_config_from_file(path)
    assert (config.distributed_type, config.num_machines) == (kind, machines)
    assert config.num_processes % machines == 0 and config.num_processes > 1
    arguments, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(
            ["--config_file", path, str(ROOT / "run_classification.py")]
        )
    )
    assert arguments.num_processes == config.num_processes
    assert arguments.mixed_precision == config.mixed_precision
    assert arguments.use_fsdp == (name == "fsdp")
    assert arguments.use_deepspeed == (name == "deepspeed_zero2")
    if name == "deepspeed_zero2":
        assert arguments.zero_stage == 2
    if name == "fsdp":
        environment = prepare_multi_gpu_env(arguments)
        assert environment["ACCELERATE_USE_FSDP"] == "true"
        assert environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"


def call_main(arguments, output, prepare):
    """In a process of its own: the script, its standard output and error in a file."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored if pytest is a background job
    import run_classification

    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.argv = ["run_classification.py", *map(str, arguments)]
    torch.set_num_threads(1)
    if prepare:
        prepare()
    run_classification.main()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """``start(arguments)`` runs the script in a process forked from one with the imports done.

    Its file ``.output`` holds what it printed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["run_classification"])

    def start_script(arguments, prepare=None):
        output = tmp_path_factory.mktemp("output") / "output.txt"
        process = context.Process(target=call_main, args=(arguments, output, prepare))
        process.start()
        process.output = output
        return process

    return start_script


def finish(process):
    """Wait for its end; code, out and err as the run fixture gives them."""
    process.join(timeout=200)
    text = process.output.read_text()
    return SimpleNamespace(code=process.exitcode, out=text, err=text)


def wait_for(process, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline, process.output.read_text()
        time.sleep(0.005)


def latest_step(folder):
    return max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), default=0)


def same_weights(one, two):
    one, two = (load_file(folder / "model.safetensors") for folder in (one, two))
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def long_run(start, tiny_model, tiny_dataset, tmp_path_factory):
    """Arguments of a run with many checkpoints, and the folder where it ran uninterrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    more = (
        "--num_train_epochs",
        8,
        "--early_stopping_patience",
        0,
        "--eval_strategy",
        "steps",
        "--eval_steps",
        7,
    )
    more += ("--save_strategy", "steps", "--save_steps", 7, "--learning_rate", 0.002, *NO_TEST)
    result = finish(start(command(tiny_model, tiny_dataset, folder, *more)))
    assert result.code == 0, result.err
    return more, folder


def test_run_killed_three_times_ends_with_the_same_weights(
    long_run, tiny_model, tiny_dataset, tmp_path, start
):
    more, uninterrupted = long_run
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run", *more)
    for kill_after in (7, 28, 49):
        process = start(arguments)
        wait_for(process, lambda step=kill_after: latest_step(tmp_path / "run") >= step)
        process.kill()
        process.join()
        assert not (tmp_path / "run" / "train_results.json").exists()
    result = finish(start(arguments))
    assert result.code == 0, result.err
    assert same_weights(uninterrupted, tmp_path / "run")
    results = [
        json.loads((folder / "all_results.json").read_text())
        for folder in (uninterrupted, tmp_path / "run")
    ]
    for key in ("train_loss", "eval_loss"):
        assert results[0][key] == results[1][key]
    assert results[1]["train_resumed_from_step"] > 0
    assert "train_resumed_from_step" not in results[0]
    # The time of the whole training, not only since the checkpoint
    history = json.loads((tmp_path / "run/trainer_state.json").read_text())["log_history"]
    seconds = sum(entry["seconds"] for entry in history if "loss" in entry)
    assert seconds < results[1]["train_runtime"] + 0.01
    logged = [
        [
            (entry["step"], entry["loss"])
            for entry in json.loads((folder / "trainer_state.json").read_text())["log_history"]
            if "loss" in entry
        ]
        for folder in (uninterrupted, tmp_path / "run")
    ]
    assert logged[0] == logged[1]
    mean = sum(
        loss * (step - before)
        for (step, loss), (before, _) in zip(logged[0], [(0, 0), *logged[0]], strict=False)
    )
    assert results[0]["train_loss"] == pytest.approx(mean / logged[0][-1][0])


def test_checkpoint_cut_off_while_written_is_passed_over(
    tiny_model, tiny_dataset, tmp_path, start, long_run
):
    more, uninterrupted = long_run
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run", *more)
    process = start((*arguments, "--save_total_limit", 5))
    wait_for(process, lambda: latest_step(tmp_path / "run") >= 21)
    process.kill()
    process.join()
    whole = [path.parent for path in (tmp_path / "run").glob("checkpoint-*/trainer_state.json")]
    newest = max(whole, key=lambda path: int(path.name.split("-")[1]))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    result = finish(start(arguments))
    assert result.code == 0, result.err
    assert f"{newest} cannot be continued" in result.out
    assert same_weights(uninterrupted, tmp_path / "run")


def test_checkpoints_without_an_optimizer_are_not_continued(
    tiny_model, tiny_dataset, tmp_path, start, long_run
):
    """The Trainer would go on with a new optimizer, from the start of the schedule."""
    more, uninterrupted = long_run
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run", *more, "--save_only_model")
    process = start(arguments)
    wait_for(process, lambda: latest_step(tmp_path / "run") >= 14)
    process.kill()
    process.join()
    result = finish(start(arguments))
    assert result.code == 0, result.err
    assert "weights only (--save_only_model)" in result.out
    assert "training starts again" in result.out
    assert same_weights(uninterrupted, tmp_path / "run")
    assert "train_resumed_from_step" not in json.loads(
        (tmp_path / "run" / "train_results.json").read_text()
    )


def wait_for_no_second_signal():
    """The Trainer waits 3 seconds for SIGKILL before it writes a checkpoint; the tiny run ends."""
    from transformers.trainer_jit_checkpoint import CheckpointManager

    CheckpointManager.__init__.__defaults__ = (0,)


def test_preempted_training_is_not_called_finished(
    tiny_model, tiny_dataset, tmp_path, start, long_run
):
    """On SIGTERM the Trainer writes a checkpoint and returns as if training had ended."""
    more, uninterrupted = long_run
    arguments = command(
        tiny_model, tiny_dataset, tmp_path / "run", *more, "--enable_jit_checkpoint"
    )
    process = start(arguments, wait_for_no_second_signal)
    wait_for(process, lambda: latest_step(tmp_path / "run") >= 14)
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM, process.output.read_text()
    assert "the same command continues" in process.output.read_text()
    assert not (tmp_path / "run" / "train_results.json").exists()
    result = finish(start(arguments))
    assert result.code == 0, result.err
    assert same_weights(uninterrupted, tmp_path / "run")


@pytest.fixture(scope="module")
def ended(start, tiny_model, tiny_dataset, tmp_path_factory):
    """``ended(name, step)`` copies a run as it was after that step; its arguments and the folder.

    The first of the three checkpoints is the best one: the accuracy stays the same.
    """
    source = tmp_path_factory.mktemp("ended") / "run"
    more = ("--num_train_epochs", 3, "--learning_rate", 1e-5, "--save_total_limit", 9, *NO_TEST)
    more += ("--metric_for_best_model", "accuracy")
    result = finish(start(command(tiny_model, tiny_dataset, source, *more)))
    assert result.code == 0, result.err
    state = json.loads((source / "trainer_state.json").read_text())
    assert state["best_global_step"] == 10

    def copy(name, step):
        folder = source.parent / name
        shutil.copytree(source, folder)
        for path in folder.iterdir():
            if path.is_dir() and int(path.name.split("-")[1]) > step:
                shutil.rmtree(path)
            elif path.is_file() and path.name != "run_arguments.json":
                path.unlink()
        for state in folder.glob("checkpoint-*/trainer_state.json"):
            state.write_text(state.read_text().replace(str(source), str(folder)))
        return folder, command(tiny_model, tiny_dataset, folder, *more)

    return source, copy


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("optimizer.pt", "no optimizer.pt"),
        ("model.safetensors", "no weights"),
        ("optimizer.pt cut off", "optimizer.pt is cut off"),
        ("trainer_state.json listed", "its trainer_state.json is not a state of the Trainer"),
    ],
)
def test_checkpoint_that_lacks_a_file_is_passed_over(start, ended, name, reason):
    """Somebody made room, or the power failed. The Trainer would start with a new optimizer."""
    source, copy = ended
    folder, arguments = copy(name.replace(" ", "-"), 20)
    file = folder / "checkpoint-20" / name.split()[0]
    if name.endswith("cut off"):
        file.write_bytes(file.read_bytes()[:-1000])
    elif name.endswith("listed"):
        file.write_text("[]")
    else:
        file.unlink()
    result = finish(start(arguments))
    assert result.code == 0, result.err
    assert "checkpoint-20 cannot be continued" in result.out
    assert reason in result.out
    assert same_weights(source / "checkpoint-30", folder / "checkpoint-30")


def test_file_with_the_name_of_a_checkpoint_is_refused(start, ended):
    """The Trainer deletes old checkpoints as folders, and would end in a traceback."""
    _, copy = ended
    folder, arguments = copy("file", 20)
    (folder / "checkpoint-5").write_text("mine")
    result = finish(start(arguments))
    assert_user_error(result, folder / "checkpoint-5", "is a file", "move it elsewhere")
    assert (folder / "checkpoint-5").read_text() == "mine"


def test_moved_run_folder_keeps_the_best_model(start, ended):
    """Stopped between its last checkpoint and its end, and continued elsewhere."""
    _, copy = ended
    folder, arguments = copy("scratch", 30)
    moved = folder.rename(folder.with_name("moved"))
    arguments = [moved if argument == folder else argument for argument in arguments]
    result = finish(start(arguments))
    assert result.code == 0, result.err
    assert same_weights(moved, moved / "checkpoint-10")
    assert not same_weights(moved, moved / "checkpoint-30")
    state = json.loads((moved / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == "checkpoint-10"


def test_given_checkpoint_must_be_a_whole_one_of_the_run(
    run, finished, tiny_model, tiny_dataset, tmp_path
):
    checkpoint = next(finished.glob("checkpoint-*"))
    flags = ("--resume_from_checkpoint", checkpoint)
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run", *flags))
    assert_user_error(result, "--resume_from_checkpoint", "--model_name_or_path")
    shutil.copytree(checkpoint, tmp_path / "run" / checkpoint.name)
    weights = tmp_path / "run" / checkpoint.name / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    flags = ("--resume_from_checkpoint", weights.parent)
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run", *flags))
    assert_user_error(result, "--resume_from_checkpoint", "cannot be continued")


def test_ctrl_c_says_how_to_continue(tiny_model, tiny_dataset, tmp_path, start, long_run):
    more, uninterrupted = long_run
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run", *more)
    process = start(arguments)
    wait_for(process, lambda: latest_step(tmp_path / "run") >= 14)
    os.kill(process.pid, signal.SIGINT)
    result = finish(process)
    assert result.code == 130, result.out
    assert "continues" in result.out
    assert "Traceback" not in result.out
    result = finish(start(arguments))
    assert result.code == 0, result.err
    assert same_weights(uninterrupted, tmp_path / "run")


def small_files():
    """Write nothing larger than 150 kB: the weights fit, the optimizer's state does not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))


def smaller_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))


@pytest.mark.parametrize("prepare", [small_files, smaller_files])
def test_full_disk_ends_the_run_with_a_line_and_it_continues_later(
    tiny_model, tiny_dataset, tmp_path, start, long_run, prepare
):
    more, uninterrupted = long_run
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run", *more)
    assert_user_error(finish(start(arguments, prepare)), tmp_path / "run", "free some space")
    result = finish(start(arguments))
    assert result.code == 0, result.err
    assert same_weights(uninterrupted, tmp_path / "run")


def little_memory():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000, resource.RLIM_INFINITY))


def test_batch_that_does_not_fit_into_memory(tiny_dataset, tmp_path, start):
    folder = write_tiny_model(tmp_path / "model", intermediate_size=200_000)
    more = ("--per_device_train_batch_size", 80, *NO_TEST)
    result = finish(start(command(folder, tiny_dataset, tmp_path / "run", *more), little_memory))
    assert_user_error(result, "out of memory", "--per_device_train_batch_size")


def become_nobody():
    if os.geteuid() == 0:  # root may write anywhere
        os.setuid(65534)


def test_output_folder_that_cannot_be_written(tiny_model, tiny_dataset, tmp_path, start):
    (tmp_path / "run").mkdir(mode=0o555)
    result = finish(start(command(tiny_model, tiny_dataset, tmp_path / "run"), become_nobody))
    assert_user_error(result, "cannot write", tmp_path / "run")


# What a user can do wrong


def test_nothing_to_do(run, tiny_model, tiny_dataset, tmp_path):
    arguments = (
        "--model_name_or_path",
        tiny_model,
        "--dataset_name",
        tiny_dataset,
        "--output_dir",
        tmp_path / "run",
    )
    assert_user_error(run("run_classification", *arguments), "--do_train")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max_seq_length", 10_000], ["--max_seq_length", "10000", "128"]),
        (["--model_name_or_path", "no-such-owner/no-such-model"], ["no-such-owner/no-such-model"]),
        (["--learning_rat", "1"], ["--learning_rat", "--learning_rate"]),
        (["--learning_rate", "quick"], ["--learning_rate", "quick"]),
        (["--text_column_names", "body"], ["body", "abstract"]),
        (["--train_file", "x.csv"], ["--dataset_name", "--train_file"]),
        (["--max_train_samples", "0"], ["train"]),
        (["--max_train_samples", "1"], ["training"]),
        (["--max_steps", "0"], ["--max_steps", "at least 1"]),
        (
            ["--metric_for_best_model", "accuracy", "--greater_is_better", "false"],
            ["--greater_is_better", "worst accuracy"],
        ),
        (["--greater_is_better", "true"], ["--greater_is_better", "worst loss"]),
        (["--seed", 2**32], ["--seed", "2**32"]),
        (["--pad_to_multiple_of", 0], ["--pad_to_multiple_of", "at least 1"]),
        (["--eval_accumulation_steps", 0], ["--eval_accumulation_steps", "at least 1"]),
        (["--text_prefix", "we prove that " * 30], ["--text_prefix", "--max_seq_length 64"]),
        (
            ["--max_seq_length", 128, "--pad_to_multiple_of", 100],
            ["--pad_to_multiple_of 100", "128 tokens, the model's maximum"],
        ),
        (["--preprocessing_num_workers", -1], ["--preprocessing_num_workers", "at least 1"]),
        (["--adam_beta1", 2], ["--optim adamw_torch", "beta"]),
        (["--attention_dropout", 1.5], ["--attention_dropout", "below 1"]),
        (["--lr_scheduler_type", "cosine_with_min_lr"], ["--lr_scheduler_type", "min_lr"]),
        (["--lr_scheduler_kwargs", '{"nope": 3}'], ["--lr_scheduler_kwargs", "nope"]),
        (["--model_revision", "main2"], ["--model_revision", "local folder"]),
        (["--hub_private_repo", "true"], ["--hub_private_repo", "--push_to_hub"]),
        (["--hub_revision", "new"], ["--hub_revision", "--push_to_hub"]),
    ],
)
def test_bad_flags(run, tiny_model, tiny_dataset, tmp_path, flags, words):
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run", *flags))
    assert_user_error(result, *words)


def test_several_gpus_without_a_launcher(run, tiny_model, tiny_dataset, tmp_path, monkeypatch):
    """torch.nn.DataParallel would use them, and the loss would be counted once for each."""
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", property(lambda arguments: 2))
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run"))
    assert_user_error(result, "2 GPUs", "accelerate launch", "CUDA_VISIBLE_DEVICES")


def test_fp16_without_a_gpu(run, tiny_model, tiny_dataset, tmp_path, monkeypatch):
    """The flag is refused; --bf16 overrides the fp16 of an accelerate file."""
    arguments = command(
        tiny_model, tiny_dataset, tmp_path / "run", "--num_train_epochs", 1, *NO_TEST
    )
    assert_user_error(run("run_classification", *arguments, "--fp16"), "--fp16", "GPU", "--bf16")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    result = run("run_classification", *arguments, "--bf16")
    assert result.code == 0, result.err
    assert "fp32" not in result.log
    assert json.loads((tmp_path / "run" / "run_arguments.json").read_text())["precision"] == "bf16"


def test_model_without_a_tokenizer(run, tiny_dataset, tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    result = run("run_classification", *command(folder, tiny_dataset, tmp_path / "run"))
    assert_user_error(result, folder, "tokenizer")


def test_encoder_decoder_and_tokenizer_without_padding(run, tiny_dataset, tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert_user_error(
        run("run_classification", *command(folder, tiny_dataset, tmp_path / "a")),
        "padding token",
        folder,
    )
    transformers.BartConfig(d_model=32, encoder_layers=1, decoder_layers=1).save_pretrained(folder)
    assert_user_error(
        run("run_classification", *command(folder, tiny_dataset, tmp_path / "b")), "encoder-decoder"
    )


def test_encoder_of_an_encoder_decoder_is_refused(run, tiny_model, tiny_dataset, tmp_path):
    """transformers would classify with a decoder of random weights."""
    config = transformers.T5Config(
        vocab_size=70, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
        decoder_start_token_id=0, is_encoder_decoder=False,
    )  # fmt: skip
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "model")
    result = run("run_classification", *command(tmp_path / "model", tiny_dataset, tmp_path / "run"))
    assert_user_error(result, "encoder-decoder")


def test_vocabulary_of_sentencepiece_without_the_package(run, tiny_dataset, tmp_path):
    """Such as DeBERTa-v3: transformers would advise to install tiktoken, which does not help."""
    if transformers.utils.is_sentencepiece_available():
        pytest.skip("sentencepiece is installed")
    config = transformers.DebertaV2Config(
        vocab_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    transformers.DebertaV2Model(config).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "spm.model").write_bytes(b"\n\x0e\n\x05[PAD]\x15\0\0\0\0\x18\x03")
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"vocab_type": "spm"}')
    result = run("run_classification", *command(tmp_path / "model", tiny_dataset, tmp_path / "run"))
    assert_user_error(result, tmp_path / "model", "pip install sentencepiece protobuf")


@pytest.mark.parametrize(
    "settings", [{"output_hidden_states": True, "output_attentions": True}, {"return_dict": False}]
)
def test_checkpoint_that_asks_for_other_outputs(run, tiny_dataset, tmp_path, settings):
    folder = write_tiny_model(tmp_path / "model")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    more = ("--num_train_epochs", 1)
    result = run("run_classification", *command(folder, tiny_dataset, tmp_path / "run", *more))
    assert result.code == 0, result.err
    assert not settings.keys() & json.loads((tmp_path / "run/config.json").read_text()).keys()


def test_encoder_without_a_table_of_embeddings(run, tiny_dataset, tmp_path):
    """CANINE reads characters and hashes them."""
    config = transformers.CanineConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=256, num_hash_buckets=64, local_transformer_stride=32,
        attend_from_chunk_width=32, attend_from_chunk_stride=32, attend_to_chunk_width=32,
        attend_to_chunk_stride=32,
    )  # fmt: skip
    transformers.CanineModel(config).save_pretrained(tmp_path / "model")
    transformers.CanineTokenizer().save_pretrained(tmp_path / "model")
    more = ("--num_train_epochs", 1, "--max_train_samples", 16)
    result = run(
        "run_classification", *command(tmp_path / "model", tiny_dataset, tmp_path / "run", *more)
    )
    assert result.code == 0, result.err
    assert (tmp_path / "run" / "predictions.csv").exists()


def test_model_with_other_labels_than_the_dataset(run, tiny_dataset, tmp_path):
    folder = write_tiny_model(tmp_path / "model", labels=["spam", "ham"])
    arguments = (
        "--model_name_or_path",
        folder,
        "--dataset_name",
        tiny_dataset,
        "--output_dir",
        tmp_path / "run",
    )
    assert_user_error(run("run_classification", *arguments, "--do_predict"), "ham", "math.AG")


def test_dataset_without_a_split(run, tiny_model, tmp_path):
    write_dataset(tmp_path / "data")
    (tmp_path / "data" / "data" / "test-00000-of-00001.parquet").unlink()
    result = run("run_classification", *command(tiny_model, tmp_path / "data", tmp_path / "run"))
    assert_user_error(result, "test", tmp_path / "data")


def test_label_in_test_that_training_lacks(run, tiny_model, tmp_path):
    records = make_records()
    for record in records[:90]:
        record["label"] %= 4
    write_dataset(tmp_path / "data", records)
    result = run("run_classification", *command(tiny_model, tmp_path / "data", tmp_path / "run"))
    assert_user_error(result, "test", "math.SG")


def test_all_documents_of_one_class(run, tiny_model, tmp_path):
    write_dataset(tmp_path / "data", [record | {"label": 2} for record in make_records()])
    result = run("run_classification", *command(tiny_model, tmp_path / "data", tmp_path / "run"))
    assert_user_error(result, "math.DG")


def test_checkpoint_of_another_architecture_in_the_output_folder(
    run, finished, tiny_model, tiny_dataset, tmp_path
):
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "predict_results.json").unlink()
    write_tiny_model(tmp_path / "other", hidden_size=16)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.copy(tmp_path / "other" / "model.safetensors", checkpoint)
    result = run("run_classification", *command(tiny_model, tiny_dataset, folder))
    assert_user_error(result, "checkpoint", "another model", folder)


def test_model_without_activation_checkpointing(run, tiny_model, tiny_dataset, tmp_path):
    """transformers ended with a traceback after the record was written."""
    config = transformers.AlbertConfig(
        vocab_size=100, embedding_size=16, hidden_size=16, intermediate_size=16,
        num_attention_heads=2, num_hidden_layers=1, num_labels=5,
    )  # fmt: skip
    transformers.AlbertForSequenceClassification(config).save_pretrained(tmp_path / "albert")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "albert")
    flags = command(tmp_path / "albert", tiny_dataset, tmp_path / "run", "--gradient_checkpointing")
    result = run("run_classification", *flags)
    assert_user_error(result, "--gradient_checkpointing", "AlbertForSequenceClassification")
    assert not list((tmp_path / "run").iterdir())


def test_output_folder_that_holds_something_else(run, tiny_model, tiny_dataset, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path))
    assert_user_error(result, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_nan_loss_ends_the_run_and_names_the_step(run, tiny_dataset, tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    weights = AutoModelForSequenceClassification.from_pretrained(folder)
    weights.classifier.weight.data.fill_(float("nan"))
    weights.save_pretrained(folder)
    more = ("--logging_steps", 2)
    result = run("run_classification", *command(folder, tiny_dataset, tmp_path / "run", *more))
    assert_user_error(result, "step 2", "--learning_rate")


def test_nan_loss_ends_the_bar_before_the_error(run, tiny_dataset, tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    weights = AutoModelForSequenceClassification.from_pretrained(folder)
    weights.classifier.weight.data.fill_(float("nan"))
    weights.save_pretrained(folder)
    result = run(
        "run_classification",
        *command(folder, tiny_dataset, tmp_path / "run", "--disable_tqdm", "false"),
    )
    assert_user_error(result, "NaN", "--learning_rate")


def test_bar_has_losses_and_patience_and_the_end_is_estimated(
    run, tiny_model, tiny_dataset, tmp_path
):
    more = ("--num_train_epochs", 3, "--learning_rate", 1.0, "--warmup_steps", 0, *NO_TEST)
    result = run(
        "run_classification",
        *command(tiny_model, tiny_dataset, tmp_path / "bar", *more, "--disable_tqdm", "false"),
    )
    assert result.code == 0, result.err
    state = json.loads((tmp_path / "bar" / "trainer_state.json").read_text())
    losses = [
        row["eval_loss"]
        for row in state["log_history"]
        if row.get("eval_loss") and row["step"] in (10, 20)
    ]
    (left,) = (3 - (second > first) for first, second in [losses[:2]])
    last = (
        result.err[: result.err.rindex("30/30 [")].splitlines()[-1]
        + result.err[result.err.rindex("30/30 [") :]
    )
    assert f"eval_loss={losses[1]:.3g}, patience={left}" in last and ", loss=" in last
    assert re.search(
        r"30 updates of [\d.e-]+ s: training takes until \w+ \w+ +\d+ [\d:]+ \d+ at most",
        result.log,
    )
    assert result.log.count("at most") == 1

    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "none", *more))
    assert result.code == 0, result.err
    assert "patience=" not in result.err
    assert result.log.count("at most") == 1


def test_nan_logits_of_a_model_that_only_predicts(run, tiny_dataset, tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    weights = AutoModelForSequenceClassification.from_pretrained(folder)
    weights.classifier.weight.data.fill_(float("nan"))
    weights.save_pretrained(folder)
    for split in ("eval", "predict"):
        flags = (
            "--model_name_or_path",
            folder,
            "--dataset_name",
            tiny_dataset,
            "--output_dir",
            tmp_path / split,
        )
        result = run("run_classification", *flags, "--max_seq_length", 64, f"--do_{split}")
        assert_user_error(result, "NaN", split, "--learning_rate")
        assert not list((tmp_path / split).glob("*_results.json"))


def test_attention_dropout_of_a_model_type_without_it(run, tiny_dataset, tmp_path):
    transformers.XLNetConfig(d_model=32, n_layer=1, n_head=2).save_pretrained(tmp_path / "model")
    flags = command(tmp_path / "model", tiny_dataset, tmp_path / "run", "--attention_dropout", 0)
    assert_user_error(run("run_classification", *flags), "--attention_dropout", "xlnet")


def test_recipe_file_with_flags_after_it(run, tiny_model, tiny_dataset, tmp_path):
    recipe = dict(zip(map(str, FAST[::2]), FAST[1::2], strict=True)) | {
        "--do_train": True,
        "--do_eval": True,
    }
    lines = [f"{key.lstrip('-')}: {str(value).lower()}" for key, value in recipe.items()]
    (tmp_path / "recipe.yaml").write_text(
        "\n".join([*lines, 'text_prefix: "query: "', f"model_name_or_path: {tiny_model}"])
    )
    arguments = (
        "--dataset_name",
        tiny_dataset,
        "--output_dir",
        tmp_path / "run",
        "--num_train_epochs",
        1,
    )
    result = run("run_classification", tmp_path / "recipe.yaml", *arguments)
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "run" / "run_arguments.json").read_text())["arguments"]
    assert (record["text_prefix"], record["num_train_epochs"]) == ("query: ", 1)


@pytest.mark.parametrize(
    "recipe", sorted(path.name for path in (ROOT / "configs" / "recipes").glob("*.yaml"))
)
def test_recipes_are_read_as_command_lines(run, tiny_dataset, tmp_path, recipe):
    """With no Hub the model cannot be loaded: the error comes after all flags are understood."""
    arguments = ("--dataset_name", tiny_dataset, "--output_dir", tmp_path / "run")
    assert_user_error(
        run("run_classification", ROOT / "configs" / "recipes" / recipe, *arguments),
        "cannot load model",
    )


@pytest.mark.parametrize("script", ["run_classification", "run_baseline"])
def test_classes_named_like_columns_keep_every_column(run, tiny_model, tmp_path, script):
    names = ["id", "label", "prediction", "=1+1", "<script>"]
    write_dataset(tmp_path / "data", labels=names, records=make_records())
    flags = ("--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "run")
    more = ("--model_name_or_path", tiny_model, *FAST, *EVERYTHING, "--num_train_epochs", 1)
    result = run(script, *flags, *(more if script == "run_classification" else ()))
    assert result.code == 0, result.err
    header = (tmp_path / "run" / "predictions.csv").read_text().splitlines()[0]
    assert header == ",".join(["id", "label", "prediction", *names])
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(table["id"]) == list(load_dataset(str(tmp_path / "data"))["test"]["id"])
    assert set(table["label"]) <= set(names)


def test_evaluation_in_bf16_is_recorded_and_leaves_the_weights_alone(
    run, tiny_model, tiny_dataset, tmp_path
):
    for name, more in {"fp32": (), "bf16": ("--bf16_full_eval",)}.items():
        result = run(
            "run_classification",
            *command(tiny_model, tiny_dataset, tmp_path / name, "--num_train_epochs", 1, *more),
        )
        assert result.code == 0, result.err
    record = json.loads((tmp_path / "bf16" / "run_arguments.json").read_text())
    assert record["precision"] == "fp32, evaluation in bf16"
    assert "fp32, evaluation in bf16, seed" in (tmp_path / "bf16" / "README.md").read_text()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("fp32", "bf16")]
    assert weights[0] == weights[1]
    predictions = [pd.read_csv(tmp_path / name / "predictions.csv") for name in ("fp32", "bf16")]
    change = (predictions[0][LABELS] - predictions[1][LABELS]).abs().to_numpy().max()
    assert 0 < change < 0.05


# The record and the results belong together


def record_of(folder):
    return json.loads((folder / "run_arguments.json").read_text())


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def other_texts(folder):
    """The tiny dataset with the texts of its test split changed."""
    records = make_records()
    for record in records[90:]:
        record["abstract"] += " bound"
    return write_dataset(folder, records)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--max_predict_samples", 5], "test split"),
        (["--dataset_name", "OTHER"], "test split"),
        (["--max_train_samples", 70], "max_train_samples"),
        (["--max_grad_norm", 2], "max_grad_norm"),
        (["--gradient_accumulation_steps", 2], "total_train_batch_size"),
        (["--bf16"], "mixed_precision"),
        (["--full_determinism"], "full_determinism"),
    ],
)
def test_finished_run_with_other_data_or_arguments_is_refused_and_keeps_its_record(
    run, finished, tiny_model, tiny_dataset, tmp_path, flags, word
):
    if "OTHER" in flags:
        flags = ["--dataset_name", other_texts(tmp_path / "data")]
    before = contents(finished)
    result = run("run_classification", *command(tiny_model, tiny_dataset, finished, *flags))
    assert_user_error(result, finished, word, "--output_dir")
    assert contents(finished) == before


def test_arguments_that_cannot_change_the_result_leave_a_run_finished(
    run, finished, tiny_model, tiny_dataset, tmp_path
):
    copy = shutil.copytree(tiny_dataset, tmp_path / "elsewhere")
    flags = ("--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2)
    flags += ("--logging_steps", 3, "--per_device_eval_batch_size", 2)
    result = run("run_classification", *command(tiny_model, copy, finished, *flags))
    assert result.code == 0, result.err
    assert "finished" in result.log


def test_interrupted_run_does_not_continue_on_changed_data(
    run, finished, tiny_model, tiny_dataset, tmp_path
):
    folder = shutil.copytree(finished, tmp_path / "run")
    for name in ("train", "eval", "predict"):
        (folder / f"{name}_results.json").unlink()
    records = make_records()
    records[3]["abstract"] = records[4]["abstract"]
    write_dataset(tmp_path / "data", records)
    before = contents(folder)
    result = run("run_classification", *command(tiny_model, tmp_path / "data", folder))
    assert_user_error(result, folder, "train split", "--output_dir")
    assert contents(folder) == before


def test_predictions_of_other_data_go_to_another_folder_and_name_it(run, finished, tmp_path):
    records = [record | {"abstract": "floer " + record["abstract"]} for record in make_records(4)]
    frame = pd.DataFrame(records)
    frame["label"] = [LABELS[label] for label in frame["label"]]
    frame[["id", "abstract", "label"]].to_csv(tmp_path / "new.csv", index=False)
    flags = ("--model_name_or_path", finished, "--test_file", tmp_path / "new.csv", "--do_predict")
    before = contents(finished)
    result = run("run_classification", *flags, "--output_dir", finished)
    assert_user_error(result, finished, "test split", "--output_dir")
    assert contents(finished) == before

    result = run("run_classification", *flags, "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    record = record_of(tmp_path / "out")
    assert record["dataset_name"] == "new.csv"
    assert list(record["data_fingerprints"]) == ["test"]
    assert record["labels"] == LABELS
    assert record["learning_rate"] == 0.003  # the model's, which this command did not train
    card = (tmp_path / "out" / "README.md").read_text()
    assert "new.csv" in card and "| 20 test documents |" in card
    assert list(pd.read_csv(tmp_path / "out" / "predictions.csv")["id"]) == list(frame["id"])


def test_base_model_does_not_predict_into_a_trained_runs_folder(
    run, finished, tiny_model, tiny_dataset
):
    flags = ("--model_name_or_path", tiny_model, "--dataset_name", tiny_dataset)
    before = contents(finished)
    result = run("run_classification", *flags, "--output_dir", finished, "--do_predict")
    assert_user_error(result, finished, "another model", "--output_dir")
    assert contents(finished) == before


def test_published_files_have_no_path_of_the_machine(finished, tiny_model, tiny_dataset):
    for name in ("run_arguments.json", "trainer_state.json", "config.json", "README.md"):
        text = (finished / name).read_text()
        for path in (finished.parent, tiny_model.parent, tiny_dataset.parent):
            assert str(path) not in text, name
    assert record_of(finished)["model_name_or_path"] == tiny_model.name
    assert record_of(finished)["arguments"]["text_column_names"] == ["abstract"]
    assert set(record_of(finished)["data_fingerprints"]) == {"train", "validation", "test"}


# Best is best; a model that learned nothing says so


def test_checkpoints_at_other_steps_than_the_evaluations_are_refused(
    run, tiny_model, tiny_dataset, tmp_path
):
    flags = ("--eval_strategy", "steps", "--eval_steps", 4, "--save_strategy", "steps")
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run", *flags, "--save_steps", 8)
    assert_user_error(run("run_classification", *arguments), "--save_steps 8", "--eval_steps 4")
    assert not (tmp_path / "run").exists()


def test_last_model_is_not_called_the_best(run, tiny_model, tiny_dataset, tmp_path):
    flags = ("--load_best_model_at_end", "false", "--num_train_epochs", 2)
    flags += ("--early_stopping_patience", 0)
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run", *flags))
    assert result.code == 0, result.err
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Checkpoint: last step." in card
    assert "best" not in card


def test_model_that_predicts_one_class_is_warned_about_once(run, tiny_dataset, tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.classifier.bias.data[2] = 100
    model.save_pretrained(folder)
    more = ("--learning_rate", 1e-6, "--num_train_epochs", 1)
    result = run("run_classification", *command(folder, tiny_dataset, tmp_path / "run", *more))
    assert result.code == 0, result.err
    assert result.log.count("never predicts 'math.AG', 'math.CV', 'math.MG', 'math.SG'") == 1
    assert result.log.count("--class_weights balanced") == 1


def test_right_predictions_of_one_class_are_no_collapse():
    import run_classification

    task = run_classification.Task(run_classification.SINGLE_LABEL, LABELS)
    labels = np.full(8, 2)
    logits = np.eye(5)[labels]
    assert run_classification.find_collapse(labels, logits, task) is None
    assert "never predicts" in run_classification.find_collapse(labels, -logits, task)


@pytest.mark.parametrize("script", ["run_classification", "run_baseline"])
def test_pictures_of_many_classes_have_a_limit(script):
    """Memory grows with the square of the size: 100 classes took 6 GB."""
    module = importlib.import_module(script)
    names = [f"class {number}" for number in range(200)]
    table = pd.DataFrame({"label": names, "prediction": names})
    figures = [module.plot_confusion_matrix(table, names)]
    labels = np.eye(200, dtype=int)
    figures.append(module.plot_class_curves(labels, labels, names, [0.5] * 200))
    if script == "run_baseline":
        words = pd.DataFrame({"class": names, "word": "a", "coefficient": 1.0})
        figures.append(module.plot_top_words(words))
    for figure in figures:
        assert max(figure.get_size_inches()) <= 40
        plt.close(figure)


# Class names decide


def test_training_from_a_classifier_keeps_the_order_of_its_classes(
    run, finished, tiny_dataset, tmp_path
):
    model = AutoModelForSequenceClassification.from_pretrained(finished)
    order = [2, 0, 4, 1, 3]
    model.classifier.weight.data = model.classifier.weight.data[order].clone()
    model.classifier.bias.data = model.classifier.bias.data[order].clone()
    names = [LABELS[label] for label in order]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(finished).save_pretrained(tmp_path / "model")
    more = ("--learning_rate", 1e-9, "--num_train_epochs", 1)
    arguments = command(tmp_path / "model", tiny_dataset, tmp_path / "run", *more)
    result = run("run_classification", *arguments)
    assert result.code == 0, result.err
    results = json.loads((tmp_path / "run" / "predict_results.json").read_text())
    assert results["predict_accuracy"] >= 0.8
    assert record_of(tmp_path / "run")["labels"] == names
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert list(table.columns[3:]) == names
    np.testing.assert_allclose(
        table[LABELS], pd.read_csv(finished / "predictions.csv")[LABELS], atol=1e-4
    )


@pytest.mark.parametrize("lacking", [["run_arguments.json"], []])
def test_generic_class_names_of_a_checkpoint_are_named_by_a_flag(
    run, finished, tiny_dataset, tmp_path, lacking
):
    folder = shutil.copytree(finished, tmp_path / "model", ignore=lambda *_: lacking)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(number): f"LABEL_{number}" for number in range(5)}
    config["label2id"] = {f"LABEL_{number}": number for number in range(5)}
    (folder / "config.json").write_text(json.dumps(config))
    flags = ("--model_name_or_path", folder, "--dataset_name", tiny_dataset, "--do_predict")
    result = run("run_classification", *flags, "--output_dir", tmp_path / "a")
    assert_user_error(result, "'LABEL_0'", "'math.AG'", "--label_names")
    flags += ("--output_dir", tmp_path / "b", "--attn_implementation", "eager", "--label_names")
    result = run("run_classification", *flags, *LABELS)
    assert result.code == 0, result.err
    predictions = (tmp_path / "b" / "predictions.csv").read_bytes()
    assert predictions == (finished / "predictions.csv").read_bytes()


def test_other_spelling_of_a_class_is_quoted(run, finished, tmp_path):
    write_dataset(tmp_path / "data", make_records(), labels=[*LABELS[:4], " math.SG"])
    flags = ("--model_name_or_path", finished, "--dataset_name", tmp_path / "data", "--do_predict")
    result = run("run_classification", *flags, "--output_dir", tmp_path / "run")
    assert_user_error(result, "only the dataset has ' math.SG'", "only the model has 'math.SG'")


# What the run was trained with is what is used


def test_predicting_with_a_run_reads_the_texts_as_training_did(
    run, tiny_model, tiny_dataset, tmp_path
):
    texts = ("--text_column_names", "title,abstract", "--text_column_delimiter", " . ")
    texts += ("--text_prefix", "bound ", "--max_seq_length", 9, "--num_train_epochs", 1)
    trained = tmp_path / "run"
    result = run("run_classification", *command(tiny_model, tiny_dataset, trained, *texts))
    assert result.code == 0, result.err
    config = json.loads((trained / "config.json").read_text())
    assert config["text_column_names"] == ["title", "abstract"]
    assert config["text_column_delimiter"] == " . "
    assert (config["text_prefix"], config["max_seq_length"]) == ("bound ", 9)
    flags = ("--model_name_or_path", trained, "--dataset_name", tiny_dataset, "--do_predict")
    flags += ("--attn_implementation", "eager")
    result = run("run_classification", *flags, "--output_dir", tmp_path / "a")
    assert result.code == 0, result.err
    assert "was trained with" not in result.log
    predictions = (trained / "predictions.csv").read_bytes()
    assert (tmp_path / "a" / "predictions.csv").read_bytes() == predictions
    one_column = ("--text_column_names", "title", "--text_column_delimiter", "; ")
    result = run("run_classification", *flags, *one_column, "--output_dir", tmp_path / "one")
    assert_user_error(result, "--text_column_delimiter", "one column of text, title")
    more = ("--max_seq_length", 20, "--output_dir", tmp_path / "b")
    result = run("run_classification", *flags, *more)
    assert result.log.count("--max_seq_length 20: the model was trained with 9") == 1
    assert (tmp_path / "b" / "predictions.csv").read_bytes() != predictions
    result = run("run_classification", *flags, "--max_seq_length", 20, "--output_dir", trained)
    assert_user_error(result, trained, "max_seq_length", "--output_dir")


def test_what_an_earlier_task_left_in_the_configuration_does_not_survive(
    run, tiny_dataset, tmp_path
):
    folder = write_tiny_model(
        tmp_path / "model",
        problem_type="multi_label_classification",
        thresholds=[0.3] * 5,
        task_specific_params={"summarization": {"max_length": 20}},
        text_prefix="query: ",
    )
    flags = ("--num_train_epochs", 1, *NO_TEST)
    result = run("run_classification", *command(folder, tiny_dataset, tmp_path / "run", *flags))
    assert result.code == 0, result.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert not {"problem_type", "thresholds", "task_specific_params"} & set(config)
    assert config["text_prefix"] == ""
    answers = pipeline("text-classification", str(tmp_path / "run"), top_k=None)(["floer bound"])[0]
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)
    flags = ("--model_name_or_path", folder, "--dataset_name", tiny_dataset, "--do_predict")
    result = run(
        "run_classification", *flags, "--output_dir", tmp_path / "b", "--max_seq_length", 9
    )
    assert_user_error(result, folder, "multi_label_classification", "--do_train")


def test_card_has_an_example_of_no_domain_and_escaped_class_names(run, tiny_model, tmp_path):
    names = ["<script>x</script>", "a|b", "*bold*", "two\nlines", "$x_1$ isn't"]
    write_dataset(tmp_path / "data", make_records(), labels=names)
    flags = ("--num_train_epochs", 1)
    result = run(
        "run_classification", *command(tiny_model, tmp_path / "data", tmp_path / "run", *flags)
    )
    assert result.code == 0, result.err
    card = (tmp_path / "run" / "README.md").read_text()
    assert "manifold" not in card and "Ricci" not in card
    assert "Put a text here." in card
    assert "<script>" not in card
    assert r"a\|b, \*bold\*, two lines, \$x\_1\$ isn't" in card


# Models that are common


DECODERS = ["gpt2", "llama", "qwen2"]
ENCODERS = ["deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta", "xlnet"]


def small_model(kind, folder, tiny_model):
    """A base model of a family, with random weights and the tiny model's vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    size = {"vocab_size": len(tokenizer), "pad_token_id": 0}
    usual = size | {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 130,
    }  # fmt: skip
    tokens = {"bos_token_id": 2, "eos_token_id": 3}
    configs = {
        "deberta-v2": transformers.DebertaV2Config(
            **usual, relative_attention=True, pos_att_type=["p2c", "c2p"]
        ),
        "distilbert": transformers.DistilBertConfig(
            **size, dim=32, n_layers=2, n_heads=2, hidden_dim=64
        ),
        "electra": transformers.ElectraConfig(**usual, embedding_size=16),
        "llama": transformers.LlamaConfig(**usual, **tokens, num_key_value_heads=2),
        "modernbert": transformers.ModernBertConfig(
            **usual, **tokens, cls_token_id=2, sep_token_id=3, local_attention=8
        ),
        "roberta": transformers.RobertaConfig(**usual, **tokens),
        "xlm-roberta": transformers.XLMRobertaConfig(**usual, **tokens),
        "gpt2": transformers.GPT2Config(
            **size, n_embd=32, n_layer=2, n_head=2, n_positions=128, bos_token_id=2, eos_token_id=3
        ),
        "qwen2": transformers.Qwen2Config(
            **size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, intermediate_size=64, bos_token_id=2, eos_token_id=3,
        ),
        "xlnet": transformers.XLNetConfig(
            **size, d_model=32, n_layer=2, n_head=2, d_inner=64
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModel.from_config(configs[kind]).save_pretrained(folder)
    if kind in DECODERS:
        tokenizer.pad_token = None
        tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    side = "right" if kind == "xlnet" else "left"  # the wrong one, as for generation
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": side}))
    assert AutoTokenizer.from_pretrained(folder).padding_side == side
    return folder


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODERS])
def test_families_predict_in_padded_batches_as_alone(run, tiny_model, tiny_dataset, tmp_path, kind):
    """A decoder has no padding token, XLNet no limit of positions. docs/training.md lists these."""
    folder = small_model(kind, tmp_path / "model", tiny_model)
    flags = command(folder, tiny_dataset, tmp_path / "run", "--num_train_epochs", 1)
    result = run("run_classification", *flags, "--max_train_samples", 40)
    assert result.code == 0, result.err
    pad = "[SEP]" if kind in DECODERS else "[PAD]"
    assert record_of(tmp_path / "run")["pad_token"] == pad
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    assert record_of(tmp_path / "run")["parameters"] == model.num_parameters()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.pad_token == pad
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    texts = load_dataset(str(tiny_dataset))["test"]["abstract"]
    lengths = set()
    for row, text in zip(table[LABELS].to_numpy(), texts, strict=True):
        encoded = tokenizer(text, return_tensors="pt")
        lengths.add(encoded["input_ids"].shape[1])
        with torch.no_grad():
            probabilities = model(**encoded).logits.softmax(-1)[0]
        np.testing.assert_allclose(row, probabilities, atol=1e-4)
    assert len(lengths) > 1  # so that batches are padded


def test_classifier_whose_configuration_has_no_padding_token(
    run, tiny_model, tiny_dataset, tmp_path
):
    folder = small_model("gpt2", tmp_path / "model", tiny_model)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
    )
    model.config.pad_token_id = None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    flags = ("--model_name_or_path", folder, "--dataset_name", tiny_dataset, "--do_predict")
    flags += ("--output_dir", tmp_path / "run", "--max_seq_length", 64)
    result = run("run_classification", *flags)
    assert result.code == 0, result.err


def test_tokenizer_with_more_tokens_than_the_model_has_embeddings(run, tiny_dataset, tmp_path):
    folder = write_tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = tokenizer.get_vocab() | {"cohomology": len(tokenizer)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    result = run("run_classification", *command(folder, tiny_dataset, tmp_path / "run"))
    assert_user_error(result, folder, "embeddings", "--tokenizer_name")
    assert not list((tmp_path / "run").iterdir())


def test_tokens_that_were_added_to_the_tokenizer_get_embeddings(run, tiny_dataset, tmp_path):
    """For training; a classifier that only predicts was never trained on them."""
    folder = write_tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    tokenizer.add_tokens(["cohomology", "polytopes"])
    tokenizer.save_pretrained(folder)
    flags = ["--dataset_name", tiny_dataset, "--do_predict", "--output_dir", tmp_path / "out"]
    result = run("run_classification", "--model_name_or_path", folder, *flags)
    assert_user_error(result, folder, "embeddings", "--tokenizer_name")
    flags = ["--max_steps", 2, "--num_train_epochs", 1]
    result = run("run_classification", *command(folder, tiny_dataset, tmp_path / "run", *flags))
    assert result.code == 0, result.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["vocab_size"] == size + 2
    flags = ["--dataset_name", tiny_dataset, "--do_predict", "--output_dir", tmp_path / "again"]
    assert run("run_classification", "--model_name_or_path", tmp_path / "run", *flags).code == 0
    first, second = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("run", "again"))
    pd.testing.assert_frame_equal(first, second, atol=1e-5)


# Claims about security are true


def test_weights_as_a_pickle_are_not_loaded(run, tiny_dataset, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    folder = write_tiny_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"x": Hostile()}, folder / "pytorch_model.bin")
    for flags in ((), ("--do_train", "false", "--do_eval", "false")):
        arguments = command(folder, tiny_dataset, tmp_path / "run", *flags)
        assert_user_error(run("run_classification", *arguments), folder, "pickle", "safetensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_model_folder_is_not_run_and_nobody_is_asked(
    run, tiny_dataset, tmp_path, monkeypatch, file
):
    folder = write_tiny_model(tmp_path / "model")
    content = json.loads((folder / file).read_text())
    if file == "config.json":
        content |= {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"}
    else:
        content |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
        content["tokenizer_class"] = "EvilTokenizer"
    (folder / file).write_text(json.dumps(content))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    result = run("run_classification", *command(folder, tiny_dataset, tmp_path / "run"))
    if result.code:
        assert_user_error(result, folder)
    assert not (tmp_path / "executed").exists()


# Messages


def test_the_last_line_names_a_command_that_runs(run, finished, tiny_model, tiny_dataset, tmp_path):
    result = run(
        "run_classification",
        *command(tiny_model, tiny_dataset, tmp_path / "a run", "--num_train_epochs", 1),
    )
    words = shlex.split(result.log.split("next: ")[1])
    assert words[:2] == ["python", "run_attribution.py"]
    assert str(tiny_dataset) in words
    result = run("run_attribution", *words[2:], "--n_steps", 4, "--max_samples", 1)
    assert result.code == 0, result.err
    result = run(
        "run_classification",
        *command(tiny_model, tiny_dataset, tmp_path / "b", "--num_train_epochs", 1, *NO_TEST),
    )
    words = shlex.split(result.log.split("next: ")[1])
    assert str(tiny_dataset) not in words  # it may have no test split
    result = run("run_attribution", *words[2:], "--n_steps", 4)
    assert result.code == 0, result.err


def test_next_command_of_other_data_runs(run, finished, tmp_path):
    """A split with another name, and rows without ids, which predictions.csv numbers."""
    frame = pd.DataFrame(make_records())[["abstract", "label"]]
    frame["label"] = [LABELS[label] for label in frame["label"]]
    (tmp_path / "data").mkdir()
    for split, rows in (("train", frame[:80]), ("dev", frame[80:])):
        rows.to_json(tmp_path / "data" / f"{split}.jsonl", orient="records", lines=True)
    readme = "configs:\n- config_name: default\n  data_files:\n"
    for split in ("train", "dev"):
        readme += f"  - split: {split}\n    path: {split}.jsonl\n"
    (tmp_path / "data" / "README.md").write_text(f"---\n{readme}---\n")
    flags = ("--model_name_or_path", finished, "--dataset_name", tmp_path / "data")
    flags += ("--test_split_name", "dev", "--do_predict", "--output_dir", tmp_path / "run")
    result = run("run_classification", *flags)
    assert result.code == 0, result.err
    words = shlex.split(result.log.split("next: ")[1])
    assert words[words.index("--split") + 1] == "dev"
    result = run("run_attribution", *words[2:], "--n_steps", 4, "--max_samples", 1)
    assert result.code == 0, result.err


def test_several_processes_that_the_launcher_did_not_start(
    run, finished, tiny_model, tiny_dataset, monkeypatch
):
    """What accelerate launch --num_processes 2 sets where it starts one process."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    result = run("run_classification", *command(tiny_model, tiny_dataset, finished))
    assert "started one process" not in result.log
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    result = run("run_classification", *command(tiny_model, tiny_dataset, finished))
    assert result.log.count("started one process") == 1
    assert "configs/accelerate_cpu.yaml" in result.log


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2"), FileNotFoundError(2, "no config.json"), KeyError("x")]
)
def test_error_of_a_copiers_loss_is_a_traceback(
    run, tiny_model, tiny_dataset, tmp_path, monkeypatch, error
):
    def loss(*_, **__):
        raise error

    monkeypatch.setattr("run_classification.compute_loss", loss)
    with pytest.raises(type(error)):
        run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run"))


# Texts without labels


def write_texts(path, n=6, **columns):
    """Write own texts as a CSV file with the column abstract and others."""
    texts = [record["abstract"] for record in make_records(4)][:n]
    pd.DataFrame({"id": [f"new.{row}" for row in range(n)], "abstract": texts} | columns).to_csv(
        path, index=False
    )
    return path


@pytest.mark.parametrize("columns", [{}, {"label": -1}, {"label": ""}])
def test_texts_without_labels_are_predicted_and_nothing_is_measured(
    run, finished, tmp_path, columns
):
    file = write_texts(tmp_path / "new.csv", **columns)
    flags = ("--model_name_or_path", finished, "--test_file", file, "--do_predict")
    result = run("run_classification", *flags, "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table.columns) == ["id", "prediction", *LABELS]
    classifier = pipeline("text-classification", str(finished))
    texts = pd.read_csv(file)["abstract"].tolist()
    assert [answer["label"] for answer in classifier(texts)] == table["prediction"].tolist()

    results = json.loads((tmp_path / "out" / "predict_results.json").read_text())
    assert results["predict_samples"] == 6
    measured = {"predict_loss", "predict_accuracy", "predict_f1", "predict_log_loss"}
    assert not measured & set(results)
    assert record_of(tmp_path / "out")["class_counts"] == {"test": None}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "no labels, so nothing is measured" in card
    assert "confusion" not in card and "model-index" not in card
    assert not (tmp_path / "out" / "confusion_matrix.png").exists()
    assert f"--test_file {file}" in result.log.split("next: python run_attribution.py")[1]


def test_training_with_a_test_split_without_labels(run, tiny_model, tmp_path):
    files = write_own_files(tmp_path, texts=["body"])
    test = pd.read_csv(tmp_path / "test.csv").drop(columns="kind")
    test.to_csv(tmp_path / "test.csv", index=False)
    flags = ("--model_name_or_path", tiny_model, *files, *FAST, *EVERYTHING)
    more = ("--num_train_epochs", 1, "--output_dir", tmp_path / "run")
    result = run("run_classification", *flags, *more)
    assert result.code == 0, result.err
    assert list(pd.read_csv(tmp_path / "run" / "predictions.csv").columns[:2]) == [
        "id",
        "prediction",
    ]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| 8 validation documents |" in card  # measured there, and said so
    assert run("run_classification", *flags, *more).log.count("is finished") == 1


# Several labels per document


def write_several(folder, kind="parquet", labels=LABELS):
    """Write files whose documents have one label, two, or none: the words of their classes."""
    rows = []
    for number, record in enumerate(make_records(30)):
        names = [LABELS[record["label"]]]
        words = record["abstract"]
        if number % 3 == 0:
            names.append(LABELS[(record["label"] + 1) % 5])
            words += f" {OWN_WORDS[names[1]]} {OWN_WORDS[names[1]]}"
        if number % 10 == 9:
            for word in OWN_WORDS.values():
                words = words.replace(word, "bound")
            names = []
        rows.append({"id": f"doc.{number}", "abstract": words, "label": names})
    table = pd.DataFrame(rows)
    parts = {"train": table[:110], "validation": table[110:130], "test": table[130:]}
    flags = []
    for split, part in parts.items():
        path = folder / f"{split}.{kind}"
        if kind == "csv":
            part.assign(label=part["label"].map("; ".join)).to_csv(path, index=False)
        elif kind == "jsonl":
            part.to_json(path, orient="records", lines=True)
        else:
            part.to_parquet(path)
        flags += [f"--{split}_file", path]
    return flags


SEVERAL = (*FAST, *EVERYTHING, "--num_train_epochs", 10, "--learning_rate", 0.005)


@pytest.fixture(scope="module")
def several(tiny_model, tmp_path_factory):
    """A finished run with several labels per document and thresholds of its own: its folder."""
    import run_classification

    folder = tmp_path_factory.mktemp("several")
    flags = ["--model_name_or_path", tiny_model, *write_several(folder), *SEVERAL]
    flags += ["--threshold", "auto", "--metric_for_best_model", "f1", "--output_dir"]
    argv = sys.argv
    sys.argv = ["run_classification.py", *map(str, [*flags, folder / "run"])]
    try:
        run_classification.main()
    finally:
        sys.argv = argv
    return folder / "run"


def several_predictions(folder):
    """Labels, predictions and probabilities of predictions.csv as arrays, (documents, classes)."""
    table = pd.read_csv(folder / "predictions.csv")
    labels, predictions = (
        np.array([[name in json.loads(text) for name in LABELS] for text in table[column]])
        for column in ("label", "prediction")
    )
    return labels.astype(int), predictions.astype(int), table[LABELS].to_numpy()


def test_several_labels_are_learned_and_measured(several):
    labels, predictions, scores = several_predictions(several)
    assert (labels.sum(axis=1) == 0).any() and (labels.sum(axis=1) == 2).any()
    results = json.loads((several / "predict_results.json").read_text())
    assert results["predict_f1"] > 0.8
    expected = {
        "accuracy": accuracy_score(labels, predictions),
        "f1": f1_score(labels, predictions, average="macro"),
        "f1_micro": f1_score(labels, predictions, average="micro"),
        "average_precision": average_precision_score(labels, scores, average="macro"),
        "brier_score": np.mean((labels - scores) ** 2),
        "log_loss": results["predict_loss"],  # both are the mean binary cross-entropy
    }
    for key, value in expected.items():
        assert results[f"predict_{key}"] == pytest.approx(value, abs=2e-5), key


def test_thresholds_are_chosen_on_the_validation_split_and_kept(several):
    thresholds = record_of(several)["thresholds"]
    config = json.loads((several / "config.json").read_text())
    assert config["thresholds"] == thresholds
    assert config["problem_type"] == record_of(several)["problem_type"]
    assert config["problem_type"] == "multi_label_classification"
    assert thresholds != [0.5] * 5
    _, predictions, scores = several_predictions(several)
    np.testing.assert_array_equal(predictions, scores >= np.array(thresholds))
    # The best model is the one with the best F1 at the best thresholds of each evaluation.
    state = json.loads((several / "trainer_state.json").read_text())
    logged = [entry["eval_f1"] for entry in state["log_history"] if "eval_f1" in entry]
    assert state["best_metric"] == max(logged)
    kept = json.loads((several / "eval_results.json").read_text())["eval_f1"]
    assert kept == pytest.approx(max(logged))


def test_pictures_and_card_of_several_labels(several):
    assert (several / "class_curves.png").exists()
    assert not (several / "confusion_matrix.png").exists()
    card = (several / "README.md").read_text()
    for words in ("Subset accuracy", "Macro average precision", "class_curves.png", "threshold"):
        assert words in card


def card_example(folder):
    """The Python block of a model card."""
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]


@pytest.mark.parametrize("name", ["finished", "several"])
def test_example_of_the_card_gives_the_answers_of_predictions_csv(
    request, monkeypatch, capsys, tiny_dataset, name
):
    folder = request.getfixturevalue(name)
    if name == "finished":
        texts = load_dataset(str(tiny_dataset))["test"]["abstract"]
    else:
        texts = pd.read_parquet(folder.parent / "test.parquet")["abstract"]
    table = pd.read_csv(folder / "predictions.csv")
    monkeypatch.chdir(folder)
    for text, row in list(zip(texts, table.to_dict("records"), strict=True))[:4]:
        code = card_example(folder).replace("Put a text here.", text)
        capsys.readouterr()
        exec(code, {})
        answers = ast.literal_eval(capsys.readouterr().out)
        found = sorted(answer["label"] for answer in answers)
        expected = row["prediction"]
        assert found == (sorted(json.loads(expected)) if name == "several" else [expected])
        for answer in answers:
            assert answer["score"] == pytest.approx(row[answer["label"]], abs=1e-5)


def test_run_with_several_labels_predicts_again_with_its_own_thresholds(run, several, tmp_path):
    test = ("--test_file", several.parent / "test.parquet", "--do_predict")
    flags = ("--model_name_or_path", several, *test, "--attn_implementation", "eager")
    result = run("run_classification", *flags, "--output_dir", tmp_path / "a")
    assert result.code == 0, result.err
    predictions = (several / "predictions.csv").read_bytes()
    assert (tmp_path / "a" / "predictions.csv").read_bytes() == predictions
    assert "class_curves.png" in (tmp_path / "a" / "README.md").read_text()

    result = run("run_classification", *flags, "--threshold", 0.9, "--output_dir", tmp_path / "b")
    assert result.code == 0, result.err
    assert "--threshold 0.9: the model has its own" in result.log
    _, found, scores = several_predictions(tmp_path / "b")
    np.testing.assert_array_equal(found, scores >= 0.9)
    assert record_of(tmp_path / "b")["thresholds"] == [0.9] * 5
    other = run("run_classification", *flags, "--threshold", 0.8, "--output_dir", tmp_path / "b")
    assert_user_error(other, "threshold", "--output_dir")


@pytest.mark.parametrize(("kind", "more"), [("csv", ["--label_delimiter", ";"]), ("jsonl", [])])
def test_several_labels_in_other_files_and_positive_weights(run, tiny_model, tmp_path, kind, more):
    files = write_several(tmp_path, kind)
    flags = ("--model_name_or_path", tiny_model, *files, *SEVERAL, "--num_train_epochs", 1)
    flags += ("--class_weights", "balanced", "--output_dir", tmp_path / "run")
    result = run("run_classification", *flags, *more)
    assert result.code == 0, result.err
    assert record_of(tmp_path / "run")["thresholds"] == [0.5] * 5
    labels, predictions, scores = several_predictions(tmp_path / "run")
    np.testing.assert_array_equal(predictions, scores >= 0.5)
    # The loss of the test split has the weights of the training split, too.
    train = pd.read_json(files[1], lines=True) if kind == "jsonl" else None
    if train is not None:
        share = np.array([[name in row for name in LABELS] for row in train["label"]]).mean(axis=0)
        losses = -(
            labels * np.log(scores) * (1 - share) / share + (1 - labels) * np.log(1 - scores)
        )
        results = json.loads((tmp_path / "run" / "predict_results.json").read_text())
        assert results["predict_loss"] == pytest.approx(losses.mean(), abs=1e-4)
    else:  # the run knows what is between labels
        flags = ("--model_name_or_path", tmp_path / "run", "--test_file", tmp_path / "test.csv")
        flags += ("--do_predict", "--output_dir", tmp_path / "again")
        assert run("run_classification", *flags).code == 0
        assert several_predictions(tmp_path / "again")[0].tolist() == labels.tolist()


def test_cross_listed_categories_as_labels(run, tiny_model, tmp_path):
    """Of the lists of categories, the named classes are kept."""
    records = make_records()
    for record in records[::4]:
        record["categories"] = [*record["categories"], "math.QA"]
    write_dataset(tmp_path / "data", records)
    several = ("--label_column_name", "categories", "--label_names", *LABELS)
    arguments = command(tiny_model, tmp_path / "data", tmp_path / "run", *several)
    result = run("run_classification", *arguments, "--num_train_epochs", 1)
    assert result.code == 0, result.err
    labels, _, _ = several_predictions(tmp_path / "run")
    test = load_dataset(str(tmp_path / "data"))["test"]
    expected = [[int(name in row) for name in LABELS] for row in test["categories"]]
    assert labels.tolist() == expected

    # The run knows the column and the classes.
    flags = ("--model_name_or_path", tmp_path / "run", "--dataset_name", tmp_path / "data")
    flags += ("--do_predict", "--output_dir", tmp_path / "again")
    result = run("run_classification", *flags)
    assert result.code == 0, result.err
    assert several_predictions(tmp_path / "again")[0].tolist() == expected


def test_binary_cross_entropy_is_the_mean_over_documents_and_classes_of_a_step():
    import run_classification

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator)
    labels = (torch.rand(8, 5, generator=generator) < 0.4).float()
    outputs = transformers.utils.ModelOutput(logits=logits)
    weight = torch.ones(5)
    whole = run_classification.compute_loss(outputs, labels, weight=weight, label_smoothing=0.0)
    mean = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert whole == pytest.approx(mean)
    parts = 0
    for rows in (slice(0, 3), slice(3, 8)):  # as the Trainer accumulates batches
        part = transformers.utils.ModelOutput(logits=logits[rows])
        parts += run_classification.compute_loss(
            part, labels[rows], torch.tensor(40), weight=weight, label_smoothing=0.0
        )
    assert parts == pytest.approx(mean)
    smooth = run_classification.compute_loss(outputs, labels, weight=weight, label_smoothing=0.2)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels * 0.8 + 0.1)
    assert smooth == pytest.approx(expected)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--threshold", "1.5"], ["--threshold", "between 0 and 1", "1.5"]),
        (["--threshold", "high"], ["--threshold", "auto", "high"]),
        (["--threshold", "nan"], ["--threshold", "nan"]),
        (["--threshold", "auto", "--do_train", "false"], ["--threshold auto", "--do_train"]),
        (["--threshold", "0.3"], ["--threshold", "several labels"]),
        (["--long_texts", "cut"], ["--long_texts", "cut"]),
    ],
)
def test_bad_flags_of_several_labels(run, tiny_model, tiny_dataset, tmp_path, flags, words):
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run", *flags))
    assert_user_error(result, *words)


def test_model_and_labels_of_different_kinds(run, finished, several, tiny_dataset, tmp_path):
    out = ("--do_predict", "--output_dir", tmp_path / "run")
    flags = ("--model_name_or_path", several, "--dataset_name", tiny_dataset)
    result = run("run_classification", *flags, *out)
    assert_user_error(result, several, "multi_label_classification", "--label_column_name")
    flags = ("--model_name_or_path", finished, "--test_file", several.parent / "test.parquet")
    assert_user_error(run("run_classification", *flags, *out), finished, "multi_label")


def test_training_that_ended_before_its_thresholds_were_chosen(
    run, tiny_model, tmp_path, monkeypatch
):
    """It predicted with 0.5, which nobody chose, and then ended with a traceback."""
    import run_classification

    def interrupt(*_):
        raise KeyboardInterrupt

    flags = ["--model_name_or_path", tiny_model, *write_several(tmp_path), *SEVERAL]
    flags += ["--num_train_epochs", 1, "--threshold", "auto", "--output_dir", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(run_classification, "predict_in_order", interrupt)
        assert run("run_classification", *flags).code == 130
    test = ("--test_file", tmp_path / "test.parquet", "--do_predict")
    for model in (tmp_path / "run", *(tmp_path / "run").glob("checkpoint-*")):
        predict = ("--model_name_or_path", model, *test, "--output_dir", tmp_path / "run")
        result = run("run_classification", *predict)
        assert_user_error(result, model, "thresholds", "--threshold")
        predict = (*predict[:-1], tmp_path / f"predictions-{model.name}", "--threshold", 0.5)
        result = run("run_classification", *predict)
        assert result.code == 0, result.err


@pytest.mark.parametrize("thresholds", [[0.5] * 4, [0.5] * 4 + [2], {"a": 1}, "0.5"])
def test_thresholds_of_a_model_that_are_none(run, several, tmp_path, thresholds):
    folder = shutil.copytree(several, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"thresholds": thresholds}))
    flags = ("--model_name_or_path", folder, "--test_file", several.parent / "test.parquet")
    result = run("run_classification", *flags, "--do_predict", "--output_dir", tmp_path / "run")
    assert_user_error(result, "thresholds", folder, "--threshold")


# Metrics of the package evaluate

METRIC = """
import datasets
import evaluate

class Own(evaluate.Metric):
    def _info(self):
        number = datasets.Value("int32")
        kinds = {"predictions": number, "references": number}
        if self.config_name == "multilabel":
            kinds = {name: datasets.Sequence(number) for name in kinds}
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features(kinds),
        )

    def _compute(self, predictions, references):
        same = sum(p == r for p, r in zip(predictions, references))
        return RESULT
"""


@pytest.fixture
def metric(tmp_path, monkeypatch):
    """``metric(result, name)`` writes the folder of a metric that returns the result."""
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_CACHE", str(tmp_path / "cache"))

    def write_metric(result, name="wrong"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(METRIC.replace("RESULT", result))
        return folder

    return write_metric


WRONG = "{'wrong': len(references) - same, 'accuracy': 7, 'words': 'many'}"


def test_metric_of_a_folder_is_computed_and_chooses_the_best_model(
    run, metric, tiny_model, tiny_dataset, tmp_path
):
    more = ("--metric_name", metric(WRONG), "--metric_for_best_model", "wrong")
    more += ("--greater_is_better", "false", "--num_train_epochs", 3)
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run", *more)
    result = run("run_classification", *arguments)
    assert result.code == 0, result.err
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    for prefix in ("eval", "predict"):
        wrong = results[f"{prefix}_samples"] * (1 - results[f"{prefix}_accuracy"])
        assert results[f"{prefix}_wrong"] == pytest.approx(wrong)
        assert results[f"{prefix}_accuracy"] <= 1  # the built-in one
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    logged = [entry["eval_wrong"] for entry in state["log_history"] if "eval_wrong" in entry]
    assert state["best_metric"] == min(logged)
    assert record_of(tmp_path / "run")["arguments"]["metric_name"] == ["wrong"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"| wrong | {results['predict_wrong']:.4f} |" in card


def test_metric_of_a_folder_with_several_labels(run, metric, several, tmp_path):
    flags = ("--model_name_or_path", several, "--test_file", several.parent / "test.parquet")
    flags += ("--metric_name", metric("{'exact': same / len(references)}", "exact"), "--do_predict")
    result = run("run_classification", *flags, "--output_dir", tmp_path / "run")
    assert result.code == 0, result.err
    results = json.loads((tmp_path / "run" / "predict_results.json").read_text())
    assert results["predict_exact"] == pytest.approx(results["predict_accuracy"])


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("{'words': 'many'}", ["does not return a number"]),
        ("{}", ["does not return a number"]),
        ("{'x': float('nan')}", ["returns nan for", "'x'"]),
        ("1 / 0", ["cannot compute", "division by zero"]),
        ("{'runtime': 7.0}", ["returns 'runtime'", "the Trainer reports"]),
        ("{'x': 1.0}); (", ["cannot load --metric_name"]),
    ],
)
def test_metric_that_gives_no_number(
    run, metric, tiny_model, tiny_dataset, tmp_path, result, words
):
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run")
    found = run("run_classification", *arguments, "--metric_name", metric(result))
    assert_user_error(found, "--metric_name", *words)
    assert not list((tmp_path / "run").iterdir())


def test_metric_that_the_test_split_cannot_give(run, metric, finished, tiny_dataset, tmp_path):
    """Such as an area under the curve where a class is missing: the predictions are kept."""
    flags = ("--model_name_or_path", finished, "--dataset_name", tiny_dataset, "--do_predict")
    flags += ("--metric_name", metric("{'share': 1 / (len(set(references)) - 2)}"))
    flags += ("--max_predict_samples", 2, "--output_dir", tmp_path / "run")
    result = run("run_classification", *flags)
    assert_user_error(result, "cannot compute --metric_name", "division by zero")
    assert len(pd.read_csv(tmp_path / "run" / "predictions.csv")) == 2


def test_metric_that_cannot_be_loaded_or_has_a_name_twice(
    run, metric, tiny_model, tiny_dataset, tmp_path
):
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run")
    result = run("run_classification", *arguments, "--metric_name", "accuracy")
    assert_user_error(result, "cannot load --metric_name accuracy", "requires the Hub")
    folders = [metric(WRONG, "one"), metric(WRONG, "two")]
    result = run("run_classification", *arguments, "--metric_name", *folders)
    assert_user_error(result, "both return 'wrong'")
    more = ("--metric_name", folders[0], "--metric_for_best_model", "right")
    result = run("run_classification", *arguments, *more)
    assert_user_error(result, "--metric_for_best_model", "wrong", "not 'right'")


@pytest.mark.parametrize("name", ["average_precision", "quadratic_kappa"])
def test_metric_for_best_model_that_such_data_does_not_have(
    run, tiny_model, tiny_dataset, tmp_path, name
):
    more = ("--metric_for_best_model", name)
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run", *more))
    assert_user_error(result, "--metric_for_best_model", "mcc", f"not {name!r}")


def test_lowest_brier_score_is_the_best(run, tiny_model, tiny_dataset, tmp_path):
    more = ("--metric_for_best_model", "brier_score", "--num_train_epochs", 3, *NO_TEST)
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run", *more))
    assert result.code == 0, result.err
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    logged = [entry["eval_brier_score"] for entry in state["log_history"] if "eval_f1" in entry]
    assert state["best_metric"] == min(logged)


# Texts that are longer than the model reads


def test_windows_average_the_logits_of_overlapping_parts(run, finished, tmp_path):
    records = make_records(4)
    texts = [record["abstract"] for record in records[:6]]
    texts[1] = " ".join(texts)  # several windows
    frame = pd.DataFrame({"abstract": texts, "label": [LABELS[n % 5] for n in range(6)]})
    frame.to_csv(tmp_path / "new.csv", index=False)
    flags = ("--model_name_or_path", finished, "--test_file", tmp_path / "new.csv", "--do_predict")
    flags += ("--max_seq_length", 30)
    tables = {}
    for mode in ("truncate", "windows"):
        out = ("--long_texts", mode, "--output_dir", tmp_path / mode)
        result = run("run_classification", *flags, *out)
        assert result.code == 0, result.err
        tables[mode] = pd.read_csv(tmp_path / mode / "predictions.csv")
    short = [0, 2, 3, 4, 5]
    np.testing.assert_allclose(
        tables["windows"][LABELS].loc[short], tables["truncate"][LABELS].loc[short], atol=2e-6
    )

    model = AutoModelForSequenceClassification.from_pretrained(finished).eval()
    tokenizer = AutoTokenizer.from_pretrained(finished)
    ids = tokenizer(texts[1], add_special_tokens=False)["input_ids"]
    last = len(ids) - 28
    logits = []
    for start in [*range(0, last, 14), last]:
        window = [tokenizer.cls_token_id, *ids[start : start + 28], tokenizer.sep_token_id]
        with torch.no_grad():
            logits.append(model(torch.tensor([window])).logits[0])
    expected = torch.stack(logits).mean(0).softmax(-1)
    np.testing.assert_allclose(tables["windows"][LABELS].loc[1].astype(float), expected, atol=1e-5)
    results = json.loads((tmp_path / "windows" / "predict_results.json").read_text())
    assert (results["predict_samples"], results["predict_windows"]) == (6, 5 + len(logits))
    assert "overlapping windows of 30 tokens" in (tmp_path / "windows" / "README.md").read_text()
    other = run("run_classification", *flags, "--output_dir", tmp_path / "windows")
    assert_user_error(other, "long_texts", "--output_dir")


def test_windows_begin_with_the_prefix(run, finished, tmp_path):
    import run_classification

    tokenizer = AutoTokenizer.from_pretrained(finished)
    words = " ".join(SHARED_WORDS[:20])
    rows = {"document": [7, 8], "text": [words, "floer bound"]}
    windows = run_classification.cut_into_windows(rows, tokenizer, "floer ", 9)
    assert windows["document"] == [7] * (len(windows["text"]) - 1) + [8]
    assert windows["text"][-1] == "floer bound"
    assert words.startswith(windows["text"][0]) and words.endswith(windows["text"][-2])
    for text in windows["text"][:-1]:
        assert len(tokenizer("floer " + text)["input_ids"]) == 9
    covered = set(" ".join(windows["text"][:-1]).split())
    assert covered == set(words.split())


def test_windows_for_a_model_without_a_limit(run, tiny_model, tiny_dataset, tmp_path):
    folder = small_model("xlnet", tmp_path / "model", tiny_model)
    arguments = command(folder, tiny_dataset, tmp_path / "run", "--long_texts", "windows")
    assert_user_error(run("run_classification", *arguments), folder, "windows", "--max_seq_length")
    arguments = command(folder, tiny_dataset, tmp_path / "run", "--max_seq_length", 1)
    assert_user_error(run("run_classification", *arguments), "between 3 and any number")


def test_windows_after_a_training_are_used_for_the_results(run, tiny_model, tiny_dataset, tmp_path):
    more = ("--long_texts", "windows", "--max_seq_length", 9, "--num_train_epochs", 1)
    result = run("run_classification", *command(tiny_model, tiny_dataset, tmp_path / "run", *more))
    assert result.code == 0, result.err
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["eval_windows"] > results["eval_samples"] == 10
    assert results["predict_windows"] > results["predict_samples"] == 10
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    found = accuracy_score(table["label"], table["prediction"])
    assert results["predict_accuracy"] == pytest.approx(found)


# The flags of the ancestor, and the card


def test_names_of_splits_and_shuffled_training(run, tiny_model, tiny_dataset, tmp_path):
    """What is validation in one command is the test split of another."""
    names = ("--validation_split_name", "test", "--test_split_name", "validation")
    more = ("--shuffle_train_dataset", "--max_train_samples", 40, "--num_train_epochs", 1)
    arguments = command(tiny_model, tiny_dataset, tmp_path / "run", *names, *more)
    result = run("run_classification", *arguments)
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    data = load_dataset(str(tiny_dataset))
    assert list(table["id"]) == list(data["validation"]["id"])
    counts = record_of(tmp_path / "run")["class_counts"]["train"]
    assert sum(counts.values()) == 40
    first = [LABELS[label] for label in data["train"]["label"][:40]]
    assert counts != {name: first.count(name) for name in LABELS}  # 8 of each


def test_card_tells_classes_use_data_hardware_and_time(finished, tiny_dataset):
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard import metadata_load

    path = finished / "README.md"
    card = ModelCard.load(path)
    assert card.data.to_dict() == metadata_load(path)
    assert card.data.library_name == "transformers"
    table = pd.read_csv(finished / "predictions.csv")
    f1 = f1_score(table["label"], table["prediction"], average=None, labels=LABELS)
    for name, value in zip(LABELS, f1, strict=True):
        assert f"| {name} | 16 | 2 | 2 | {100 * value:.2f} % |" in card.content
    record = record_of(finished)
    assert record["class_counts"]["train"] == dict.fromkeys(LABELS, 16)
    assert "Intended for sorting and finding texts" in card.content
    assert record["data_fingerprints"]["train"] in card.content
    assert re.search(r"Hardware: 1 x cpu; training took \d+ s\.", card.content)
    results = json.loads((finished / "predict_results.json").read_text())
    assert f"| Log loss | {results['predict_log_loss']:.4f} |" in card.content
    assert f"| Matthews correlation | {100 * results['predict_mcc']:.2f} % |" in card.content


def test_table_of_families_is_what_the_tests_do():
    from test_attribution_families import FAMILIES, REFUSED

    page = (ROOT / "docs" / "training.md").read_text()
    cells = r"^\| `([\w-]+)` \|[^|]*\| (yes|refused|not tested) \| (yes|refused) \|$"
    rows = re.findall(cells, page, re.MULTILINE)
    trained = {"bert", "canine", "eurobert", *DECODERS, *ENCODERS}
    attributed = {name.split()[0] for name in FAMILIES}
    refused = set(REFUSED)
    assert {name for name, _, _ in rows} == trained | attributed | refused
    for name, is_trained, is_attributed in rows:
        assert (is_trained == "yes") == (name in trained), name
        assert (is_attributed == "yes") == (name in attributed), name


def test_figures_of_long_texts_are_those_of_their_file():
    found = json.loads((ROOT / "results" / "arxiv-dev" / "long-texts.json").read_text())
    page = " ".join((ROOT / "docs" / "training.md").read_text().split())
    accuracies = [100 * found[name]["accuracy"] for name in ("truncate", "windows_averaged")]
    difference = found["accuracy_difference"]
    points = [100 * difference[key] for key in ("difference", "low", "high")]
    assert found["only_windows_right"] == found["only_truncate_right"] == 3
    for words in (
        f"{found['documents']} of {found['test_documents']} test documents",
        "{:.2f} percent of them with truncation and on {:.2f} percent with windows".format(
            *accuracies
        ),
        f"({found['windows']} windows in all): each alone is right on 3",
        "{:.2f} points (95% interval {:.2f} to {:.2f}".format(*points),
        f"p = {difference['p']:g}",
        f"{found['windows_averaged']['log_loss']:.3f} with windows and "
        f"{found['truncate']['log_loss']:.3f} without",
    ):
        assert words in page, words


def test_figures_of_several_labels_are_those_of_their_file():
    page = (ROOT / "docs" / "training.md").read_text()
    found = json.loads((ROOT / "results" / "arxiv-dev" / "multi-label-svm.json").read_text())
    for result in found["runs"]:
        test = result["test"]
        values = [test["predict_accuracy"], result["test_exact_of_one"]]
        values += [result["test_exact_of_several"], test["predict_f1"], test["predict_f1_micro"]]
        values.append(test["predict_average_precision"])
        cells = [f"{100 * value:.2f}" for value in values]
        name = f"SVM with `{result['flags']}`" if result["flags"] else "SVM"
        assert f"| {name} | {' | '.join(cells)} |" in page
