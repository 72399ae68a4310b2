"""The study's script as it is, on a tiny dataset with two tiny models: what it chooses, what it does not do twice."""

import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, write_tiny_model

MODELS, RATES, SEEDS = ("alpha", "beta"), ("3e-3", "1e-6"), ("1", "2")


def paper(dataset, folder):
    """Run the script offline; LAUNCH=python saves the launcher's start."""
    settings = {
        "OUTPUT_DIR": folder / "paper",
        "DATASET": dataset,
        "MODELS": " ".join(str(folder / name) for name in MODELS),
        "LEARNING_RATES": " ".join(RATES),
        "SEEDS": " ".join(SEEDS),
        "LAUNCH": "python",
        "TRAIN_ARGUMENTS": "--max_seq_length 64 --per_device_train_batch_size 8 --gradient_accumulation_steps 1 "
        "--num_train_epochs 4 --disable_tqdm True --text_prefix floer",
        "ATTRIBUTION_ARGUMENTS": "--max_samples 1 --n_steps 4",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    command = ["bash", str(ROOT / "run_paper.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.skipif(not (ROOT / ".venv" / "bin" / "python").exists(), reason="run_tests.sh makes the environment")
def test_two_models_two_learning_rates_two_seeds(tiny_dataset, tmp_path):
    for seed, name in enumerate(MODELS):
        write_tiny_model(tmp_path / name, seed=seed)
    result = paper(tiny_dataset, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]

    chosen = []
    for name in MODELS:
        folder = tmp_path / "paper" / name
        table = pd.read_csv(folder / "learning_rates.csv", dtype={"learning_rate": str})
        losses = {
            rate: json.loads((folder / f"lr-{rate}-seed-1" / "eval_results.json").read_text())["eval_loss"]
            for rate in RATES
        }
        assert dict(zip(table["learning_rate"], table["eval_loss"], strict=True)) == losses
        assert list(table["eval_loss"]) == sorted(losses.values())
        assert table["learning_rate"][0] == "3e-3"  # the other one learns nothing
        chosen += [folder / f"lr-3e-3-seed-{seed}" for seed in SEEDS]
    everything = sorted(path for path in (tmp_path / "paper").glob("*/lr-*"))
    assert len(everything) == 6  # two rates with the first seed, the better one with the second
    # Only what was chosen has seen the test split, with the prefix that it was trained with.
    assert [path for path in everything if (path / "predictions.csv").exists()] == sorted(chosen)
    assert {json.loads((run / "config.json").read_text())["text_prefix"] for run in chosen} == {"floer"}
    assert not list((tmp_path / "paper").rglob("checkpoint-*"))
    comparison = (tmp_path / "paper" / "comparison" / "comparison.md").read_text()
    assert "alpha" in comparison and "beta" in comparison
    best = min(chosen, key=lambda run: json.loads((run / "eval_results.json").read_text())["eval_loss"])
    summary = json.loads((tmp_path / "paper" / "attribution" / "summary.json").read_text())
    assert str(best) in json.dumps(summary)

    # What is done is not done again; what is missing is.
    (chosen[0] / "predict_results.json").unlink()
    watched = [*everything, tmp_path / "paper" / "svm", tmp_path / "paper" / "attribution"]
    before = {
        path: path.stat().st_mtime_ns
        for folder in watched
        for path in Path(folder).rglob("*")
        if path.is_file() and folder != chosen[0]
    }
    predictions = (chosen[0] / "predictions.csv").read_bytes()
    result = paper(tiny_dataset, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (chosen[0] / "predict_results.json").exists()
    assert (chosen[0] / "predictions.csv").read_bytes() == predictions
