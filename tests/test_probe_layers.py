"""tools/probe_layers.py: a logistic regression on the mean of every layer's hidden states."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LABELS, assert_user_error, make_records, write_dataset
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("probes") / "data", make_records(per_class=30))


def mean_states(model, tokenizer, texts):
    """(layers + 1, documents, hidden size)"""
    rows = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.no_grad():
            rows.append(torch.stack([state[0].mean(0) for state in model(**inputs).hidden_states]))
    return torch.stack(rows, dim=1).numpy()


def test_predictions_are_those_of_scikit_learn_on_transformers_states(
    run, dataset, tiny_model, tmp_path
):
    flags = (
        "--model_name_or_path",
        tiny_model,
        "--dataset_name",
        dataset,
        "--C",
        0.1,
        "--batch_size",
        7,
    )
    done = run("probe_layers", *flags, "--output_dir", tmp_path / "probes")
    assert done.code == 0, done.err
    model = AutoModel.from_pretrained(tiny_model, output_hidden_states=True).eval()
    tokenizer, folder = AutoTokenizer.from_pretrained(tiny_model), dataset / "data"
    tables = {
        name: pd.read_parquet(folder / f"{name}-00000-of-00001.parquet")
        for name in ("train", "test")
    }
    features = {
        name: mean_states(model, tokenizer, table["abstract"]) for name, table in tables.items()
    }
    layers = sorted(path.name for path in (tmp_path / "probes").iterdir())
    assert layers == [f"layer-{number}" for number in range(model.config.num_hidden_layers + 1)]
    for number, layer in enumerate(layers):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        probe.fit(features["train"][number], tables["train"]["label"])
        table = pd.read_csv(tmp_path / "probes" / layer / "predictions.csv", dtype={"id": str})
        assert table["id"].tolist() == tables["test"]["id"].tolist()
        assert np.allclose(
            table[list(LABELS)], probe.predict_proba(features["test"][number]), atol=2e-3
        )
        results = json.loads((tmp_path / "probes" / layer / "predict_results.json").read_text())
        assert results["predict_accuracy"] == pytest.approx(
            (table["label"] == table["prediction"]).mean()
        )
        assert results["C"] == 0.1
    assert run("probe_layers", *flags, "--output_dir", tmp_path / "again").code == 0
    same = [
        (tmp_path / name / "layer-1" / "predictions.csv").read_bytes()
        for name in ("probes", "again")
    ]
    assert same[0] == same[1]
    done = run(
        "compare_runs", *(tmp_path / "probes").iterdir(), "--output_dir", tmp_path / "comparison"
    )
    assert done.code == 0, done.err
    assert str(tmp_path) not in (tmp_path / "probes" / "layer-0" / "run_arguments.json").read_text()


def test_user_errors(run, dataset, tiny_model, tmp_path):
    flags = (
        "--model_name_or_path",
        tiny_model,
        "--dataset_name",
        dataset,
        "--output_dir",
        tmp_path / "out",
    )
    assert_user_error(run("probe_layers", *flags, "--C", 0), "--C")
    assert_user_error(run("probe_layers", *flags, "--max_train_samples", 1), "no document of class")
    assert_user_error(run("probe_layers", *flags, "--text_column_name", "body"), "'body'")
    bad = ("--model_name_or_path", tmp_path / "none", *flags[2:])
    assert_user_error(run("probe_layers", *bad), "--model_name_or_path", "none")
    (tmp_path / "file").touch()
    assert_user_error(run("probe_layers", *flags[:-1], tmp_path / "file"), "--output_dir")
