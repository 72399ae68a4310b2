"""The study's script on a tiny dataset with two tiny models and a bag-of-embeddings classifier: what it chooses, that
completed steps are skipped, and the page that it ends with."""

import json
import os
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, make_records, write_dataset, write_tiny_model

MODELS, RATES, SEEDS = ("alpha", "beta"), ("3e-3", "1e-6"), ("1", "2")


def paper(dataset, folder):
    """Run the script offline; LAUNCH=python saves the launcher's start."""
    # The colon keeps the prefix apart from the first word, whichever word a shuffle puts there.
    settings = {
        "OUTPUT_DIR": folder / "paper",
        "DATASET": dataset,
        "MODELS": " ".join(str(folder / name) for name in MODELS),
        "LEARNING_RATES": " ".join(RATES),
        "SEEDS": " ".join(SEEDS),
        "LAUNCH": "python",
        "TRAIN_ARGUMENTS": "--max_seq_length 64 --per_device_train_batch_size 8 --gradient_accumulation_steps 1 "
        "--num_train_epochs 4 --disable_tqdm True --text_prefix floer:",
        "SHALLOW_LEARNING_RATES": "3e-3",
        "SHALLOW_ARGUMENTS": "--num_train_epochs 2",
        "ATTRIBUTION_ARGUMENTS": "--max_samples 1 --n_steps 4 --disable_tqdm",
        "FAITHFULNESS_SAMPLES": "1",
        "CONTEXT_ARGUMENTS": "--block_sizes 1 --window_sizes 1 --n_surrogate_documents 1 --n_shuffles 1 --n_phrases 0 "
        "--n_resamples 100 --disable_tqdm",
        "REPORT_ARGUMENTS": "--title Tiny",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    command = ["bash", str(ROOT / "run_paper.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.skipif(not (ROOT / ".venv" / "bin" / "python").exists(), reason="run_tests.sh makes the environment")
@pytest.mark.timeout(600)  # a slow machine may need the double of two minutes
def test_two_models_two_learning_rates_two_seeds(tmp_path):
    dataset = write_dataset(tmp_path / "data", make_records(40))  # 20 test documents, the fewest for a test of context
    for seed, name in enumerate(MODELS):
        write_tiny_model(tmp_path / name, seed=seed)
    result = paper(dataset, tmp_path)
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
    networks = [tmp_path / "paper" / "layers-0" / f"lr-3e-3-seed-{seed}" for seed in SEEDS]
    chosen += networks
    everything = sorted(path for path in (tmp_path / "paper").glob("*/lr-*"))
    assert len(everything) == 8  # two rates with the first seed, the better one with the second
    # Only what was chosen has seen the test split, with the prefix that it was trained with.
    assert [path for path in everything if (path / "predictions.csv").exists()] == sorted(chosen)
    assert {json.loads((run / "config.json").read_text())["text_prefix"] for run in chosen} == {"floer:"}
    assert not list((tmp_path / "paper").rglob("checkpoint-*"))
    comparison = (tmp_path / "paper" / "comparison" / "comparison.md").read_text()
    assert "alpha" in comparison and "beta" in comparison
    record = json.loads((networks[0] / "run_arguments.json").read_text())["arguments"]
    assert record["model_name_or_path"].endswith("models/seed-1/layers-0") and record["num_train_epochs"] == 2
    best = min(chosen[:4], key=lambda run: json.loads((run / "eval_results.json").read_text())["eval_loss"])
    summary = json.loads((tmp_path / "paper" / "attribution" / "summary.json").read_text())
    assert str(best) in json.dumps(summary)
    summary = json.loads((tmp_path / "paper" / "attribution-layers-0" / "summary.json").read_text())
    assert summary["arguments"]["model_name_or_path"] == str(networks[0])
    context = json.loads((tmp_path / "paper" / "context" / "context.json").read_text())
    assert [run["name"] for run in context["order"]] == [best.parent.name, "svm", "layers-0"]
    assert context["order"][2]["indifferent"] is True
    assert [model["name"] for model in context["attribution"]] == [best.parent.name, "layers-0"]
    page = (tmp_path / "paper" / "report" / "index.html").read_text()
    assert "<title>Tiny</title>" in page and str(tmp_path) not in page
    assert all(f"{run.parent.name}/{run.name}" in page for run in chosen) and "Learning rates of alpha" in page
    assert re.findall(r"it has no ([\w.]+\w)", page) == ["manifest.json"]  # the dataset is not fetch_arxiv.py's
    assert result.stdout.splitlines()[-1].startswith(f"Done: {tmp_path / 'paper'}/report/index.html")

    # Completed steps are skipped, missing ones are made.
    (chosen[0] / "predict_results.json").unlink()
    names = ("svm", "attribution", "attribution-layers-0", "context")
    watched = [*everything, *(tmp_path / "paper" / name for name in names)]
    before = {
        path: path.stat().st_mtime_ns
        for folder in watched
        for path in Path(folder).rglob("*")
        if path.is_file() and folder != chosen[0]
    }
    predictions = (chosen[0] / "predictions.csv").read_bytes()
    result = paper(dataset, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (chosen[0] / "predict_results.json").exists()
    assert (chosen[0] / "predictions.csv").read_bytes() == predictions
