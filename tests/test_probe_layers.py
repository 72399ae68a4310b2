"""tools/probe_layers.py: a logistic regression on the mean of every layer's hidden states."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LABELS, assert_user_error, make_records, write_dataset, write_tiny_model
from datasets import load_dataset
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel


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
    losses = {}
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
        evaluated = json.loads((tmp_path / "probes" / layer / "eval_results.json").read_text())
        losses[layer] = evaluated["eval_loss"]
    assert run("probe_layers", *flags, "--output_dir", tmp_path / "again").code == 0
    same = [
        (tmp_path / name / "layer-1" / "predictions.csv").read_bytes()
        for name in ("probes", "again")
    ]
    assert same[0] == same[1]
    text = (tmp_path / "probes" / "layer-0" / "run_arguments.json").read_text()
    assert str(tmp_path) not in text
    record = json.loads(text)
    assert record["labels"] == list(LABELS)
    assert set(record["data_fingerprints"]) == {"train", "validation", "test"}
    assert record["arguments"]["text_column_names"] == ["abstract"]
    assert record["arguments"]["max_seq_length"] == 128  # of the default 256 what it reads
    assert record["arguments"]["label_column_name"] == "label"
    done = run(
        "compare_runs", *(tmp_path / "probes").iterdir(), "--output_dir", tmp_path / "comparison"
    )
    assert done.code == 0, done.err
    # The reference is the layer with the smallest validation loss.
    result = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    assert result["reference_reason"] == "it has the smallest loss on the validation split"
    best = min(losses, key=losses.get)
    assert result["reference"].endswith(f"mean of layer {best.removeprefix('layer-')}")


@pytest.fixture
def probe(run, dataset, tiny_model, tmp_path):
    """Run tools/probe_layers.py with one value of C, and return the result."""

    def call(*flags, model=tiny_model, data=dataset, folder=tmp_path / "probes"):
        required = ("--model_name_or_path", model, "--dataset_name", data, "--output_dir", folder)
        return run("probe_layers", *required, "--C", 0.1, "--disable_tqdm", *flags)

    return call


def record_of(folder, layer=0):
    return json.loads((folder / f"layer-{layer}" / "run_arguments.json").read_text())


def test_texts_are_read_as_in_training(probe, tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    trained = {
        "text_column_names": ["title", "abstract"],
        "text_column_delimiter": " . ",
        "text_prefix": "",
        "max_seq_length": 20,
    }
    (model / "config.json").write_text(json.dumps(config | trained))
    result = probe(model=model, folder=tmp_path / "as-trained")
    assert result.code == 0, result.err
    assert "trained with" not in result.log
    record = record_of(tmp_path / "as-trained")
    assert {name: record["arguments"][name] for name in trained} == trained
    result = probe(
        "--text_column_names", "abstract", model=model, folder=tmp_path / "abstract-alone"
    )
    assert result.code == 0, result.err
    assert result.log.count("trained with ['title', 'abstract']") == 1
    other = record_of(tmp_path / "abstract-alone")
    assert other["arguments"]["text_column_names"] == ["abstract"]
    assert other["data_fingerprints"] != record["data_fingerprints"]
    result = probe("--text_column_delimiter", " | ", model=model, folder=tmp_path / "delimiter")
    assert result.code == 0, result.err
    assert "text_column_delimiter is  | , but" in result.log
    third = record_of(tmp_path / "delimiter")
    assert third["arguments"]["text_column_delimiter"] == " | "
    assert third["data_fingerprints"] != record["data_fingerprints"]


def test_delimiter_for_one_column_is_refused(probe):
    result = probe("--text_column_delimiter", "; ")
    assert_user_error(result, "--text_column_delimiter", "one column of text, abstract")


def test_length_is_at_most_the_model_s_positions(probe, tmp_path):
    model = write_tiny_model(tmp_path / "model", max_position_embeddings=12)
    for length in (13, 2):
        result = probe("--max_seq_length", length, model=model)
        assert_user_error(result, "between 3 and 12", f"maximum of {model}", f"not {length}")
    assert not (tmp_path / "probes").exists()
    result = probe(model=model)  # the default is 256
    assert result.code == 0, result.err
    assert record_of(tmp_path / "probes")["arguments"]["max_seq_length"] == 12
    # RoBERTa has more positions than it reads tokens.
    assert_user_error(
        probe("--max_seq_length", 13, model=write_roberta(tmp_path / "roberta", model)),
        "between 3 and 12",
    )


def write_roberta(folder, tokenizer_folder):
    """A random RoBERTa that reads 12 tokens, with the words of another model."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=14,
        pad_token_id=1,
    )
    RobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_revisions_of_local_folders_are_refused(probe, tiny_model, dataset, tmp_path):
    for flag, source in (("dataset_revision", dataset), ("model_revision", tiny_model)):
        assert_user_error(probe(f"--{flag}", "v1"), f"--{flag} is for the Hub", source)
    assert not (tmp_path / "probes").exists()


@pytest.mark.parametrize("case", ["several labels", "no test labels"])
def test_labels_that_cannot_be_probed(probe, dataset, tmp_path, case):
    splits = load_dataset(str(dataset))
    (tmp_path / "other").mkdir()
    for split, table in splits.items():
        labels = [LABELS[label] for label in table["label"]]
        table = table.remove_columns("label")
        if case == "several labels":
            table = table.add_column("label", [[name] for name in labels])
        elif split != "test":
            table = table.add_column("label", labels)
        table.to_parquet(tmp_path / "other" / f"{split}.parquet")
    words = {"several labels": "several labels per document", "no test labels": "has no labels"}
    assert_user_error(probe(data=tmp_path / "other"), tmp_path / "other", words[case])
    assert not (tmp_path / "probes").exists()


def test_folders_of_others_are_left_alone(probe, tiny_model, tmp_path):
    folder = tmp_path / "probes"
    (folder / "layer-1").mkdir(parents=True)
    (folder / "layer-1" / "predictions.csv").write_text("mine")
    assert_user_error(probe(), "layer-1", "choose another folder")
    assert (folder / "layer-1" / "predictions.csv").read_text() == "mine"
    deeper = write_tiny_model(tmp_path / "deeper", num_hidden_layers=4)
    assert probe(model=deeper, folder=tmp_path / "deep").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "deep").rglob("*.*")}
    assert_user_error(probe(folder=tmp_path / "deep"), "layer-4 of another model")
    assert {path: path.read_bytes() for path in (tmp_path / "deep").rglob("*.*")} == before


def test_interrupted_run_is_continued(probe, tmp_path):
    assert probe(folder=tmp_path / "whole").code == 0
    for name in ("layer-0", "layer-1"):
        (tmp_path / "probes" / name).mkdir(parents=True)
    record = tmp_path / "probes" / "layer-0" / "run_arguments.json"
    record.write_text('{"script": "probe_layers.py"}')
    result = probe()
    assert result.code == 0, result.err
    for path in (tmp_path / "whole").rglob("predictions.csv"):
        again = tmp_path / "probes" / path.relative_to(tmp_path / "whole")
        assert again.read_bytes() == path.read_bytes()


def test_pickle_is_not_loaded(probe, tmp_path):
    model = write_tiny_model(tmp_path / "model")
    torch.save(AutoModel.from_pretrained(model).state_dict(), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    assert_user_error(probe(model=model), "--model_name_or_path", "safetensors")
    assert not (tmp_path / "probes").exists()


def test_code_of_a_model_folder_does_not_run_and_nobody_is_asked(probe, monkeypatch, tmp_path):
    model = write_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "evil.Thing"}, "model_type": "unheard-of"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Thing: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    assert_user_error(probe(model=model), "--model_name_or_path")
    assert not (tmp_path / "ran").exists()
