"""Training in several processes, started as on two machines, gives what one process gives."""

import json
import socket

import numpy as np
import pandas as pd
import pytest
from conftest import LABELS, ROOT, write_tiny_model
from safetensors.torch import load_file

# The order of "group_by_length" depends on the number of accumulation steps, that of "random" does
# not.
FLAGS = (
    "--do_train", "--do_eval", "--do_predict", "--max_seq_length", 64, "--num_train_epochs", 2,
    "--logging_steps", 1,
    "--per_device_train_batch_size", 4, "--per_device_eval_batch_size", 3, "--learning_rate", 0.003,
    "--train_sampling_strategy", "random", "--disable_tqdm", True,
)  # fmt: skip


@pytest.mark.timeout(500)
def test_two_machines_with_two_processes_each_train_and_predict_as_one_process_does(
    run, tiny_dataset, tmp_path, accelerate_launch
):
    """Four batches of four processes are the four accumulated batches of one.

    Without dropout, nothing is random.
    """
    model = write_tiny_model(
        tmp_path / "model", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    arguments = ("--model_name_or_path", model, "--dataset_name", tiny_dataset, *FLAGS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    how = ["--config_file", ROOT / "configs" / "accelerate_two_nodes.yaml", "--num_processes", 4]
    how += ["--mixed_precision", "no", "--main_process_ip", "127.0.0.1"]
    how += ["--main_process_port", port]
    of_four = [*arguments, "--gradient_accumulation_steps", 1, "--output_dir", tmp_path / "four"]
    script = ROOT / "run_classification.py"
    processes = [
        accelerate_launch(*how, "--machine_rank", rank, script, *of_four) for rank in (0, 1)
    ]
    of_one = [*arguments, "--gradient_accumulation_steps", 4, "--output_dir", tmp_path / "one"]
    result = run("run_classification", *of_one)
    assert result.code == 0, result.err
    for process in processes:
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output[-3000:]

    records = [
        json.loads((tmp_path / name / "run_arguments.json").read_text()) for name in ("one", "four")
    ]
    assert [record["processes"] for record in records] == [1, 4]
    assert [record["total_train_batch_size"] for record in records] == [16, 16]
    states = [
        json.loads((tmp_path / name / "trainer_state.json").read_text()) for name in ("one", "four")
    ]
    losses = [
        [entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in states
    ]
    assert len(losses[0]) == 10
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-4)
    one, four = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "four"))
    for name in one:
        # A key bias shifts all scores of a query alike, so its gradient is rounding error, which
        # Adam scales up.
        tolerance = 1e-3 if name.endswith("key.bias") else 1e-5
        np.testing.assert_allclose(four[name], one[name], atol=tolerance, err_msg=name)
    one, four = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("one", "four"))
    assert list(one["id"]) == list(four["id"]) and one[LABELS].std().min() > 1e-4
    np.testing.assert_allclose(four[LABELS], one[LABELS], atol=1e-4)
    results = [
        json.loads((tmp_path / name / "all_results.json").read_text()) for name in ("one", "four")
    ]
    for key in ("eval_loss", "eval_accuracy", "predict_loss", "predict_f1"):
        assert results[1][key] == pytest.approx(results[0][key], abs=1e-4)
