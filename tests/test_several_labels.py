"""A real run with several labels per document, in every tool that reads runs: it works, or a line
says why not.
"""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LABELS, ROOT, assert_user_error
from test_render_attributions import call
from test_run_classification import FAST, write_several
from transformers import AutoModelForSequenceClassification, AutoTokenizer


@pytest.fixture(scope="module")
def folders(tiny_model, tiny_dataset, tmp_path_factory):
    """Own CSV files, and finished runs of an encoder and an SVM on them."""
    folder = tmp_path_factory.mktemp("several")
    files = [*write_several(folder, "csv"), "--label_delimiter", ";", "--threshold", "auto"]
    flags = ["--model_name_or_path", tiny_model, *FAST, "--num_train_epochs", 5]
    flags += ["--learning_rate", 0.005, "--do_train", "--do_eval", "--do_predict"]
    call("run_classification", *files, *flags, "--output_dir", folder / "encoder")
    flags = ["--C", 1, "--ngram_max", 1, "--calibrate", "--disable_tqdm"]
    call("run_baseline", *files, *flags, "--output_dir", folder / "svm")
    return folder


@pytest.mark.parametrize("target", ["predicted", "all", "math.DG"])
def test_attributions_are_measured_and_shown(run, folders, tmp_path, target):
    """What is measured is the class's own probability, a sigmoid."""
    flags = ("--test_file", folders / "test.csv", "--max_samples", 4, "--target", target)
    flags += ("--n_steps", 5, "--disable_tqdm", "--output_dir", tmp_path / "out")
    result = run("run_attribution", "--model_name_or_path", folders / "encoder", *flags)
    assert result.code == 0, result.err
    text = (tmp_path / "out" / "attributions.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    table = pd.read_csv(folders / "encoder" / "predictions.csv")[:4]
    for column in ("label", "prediction"):
        assert [line[column] for line in lines] == list(map(json.loads, table[column]))

    flags = ("--attribution_dir", tmp_path / "out")
    more = ("--random_orders", 2, "--methods", "occlusion", "--disable_tqdm")
    result = run("measure_faithfulness", *flags, *more)
    assert result.code == 0, result.err
    measured = json.loads((tmp_path / "out" / "faithfulness.json").read_text())["per_document"]
    assert [found["target"] for found in measured] == [line["target"] for line in lines]
    found = measured[0]["without_strongest"]
    tokenizer = AutoTokenizer.from_pretrained(folders / "encoder")
    model = AutoModelForSequenceClassification.from_pretrained(folders / "encoder").eval()
    ids = tokenizer(lines[0]["text"], return_tensors="pt")["input_ids"]
    ids[0, [word in found["words"] for word in lines[0]["word_ids"]]] = tokenizer.pad_token_id
    with torch.no_grad():
        expected = model(ids, attention_mask=torch.ones_like(ids)).logits[0].sigmoid()
    np.testing.assert_allclose(list(found["probabilities"].values()), expected, atol=1e-5)

    assert run("render_attributions", *flags).code == 0
    page = (tmp_path / "out" / "attributions.html").read_text()
    assert all(line["id"] in page for line in lines)


def test_mosaics_are_made_of_texts_with_one_class(run, folders, tmp_path):
    flags = ("--test_file", folders / "test.csv", "--max_samples", 2, "--n_steps", 2)
    flags += ("--disable_tqdm", "--output_dir", tmp_path / "out")
    call("run_attribution", "--model_name_or_path", folders / "encoder", *flags)
    flags = ("--attribution_dir", tmp_path / "out", "--n_mosaics", 10)
    assert_user_error(run("measure_faithfulness", *flags), "mosaics", "one class", "--n_mosaics 0")


def test_runs_are_compared_and_reported(run, folders, tmp_path):
    runs = (folders / "encoder", folders / "svm")
    few = ("--n_resamples", 200)
    for name, shown in (("comparison", runs), ("again", runs[::-1])):
        result = run("compare_runs", *shown, "--output_dir", tmp_path / name, *few)
        assert result.code == 0, result.err
    compared = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    for model, folder in zip(compared["models"], runs, strict=True):
        results = json.loads((folder / "predict_results.json").read_text())
        assert model["accuracy"] == pytest.approx(results["predict_accuracy"])
        assert model["macro_f1"] == pytest.approx(results["predict_f1"])
    both = (tmp_path / "comparison", tmp_path / "again")
    result = run("correct_together", *both, "--output_dir", tmp_path / "together")
    assert result.code == 0, result.err
    assert "subset accuracy" in (tmp_path / "comparison" / "comparison.md").read_text()

    flags = ("--runs", *runs, "--comparison_dir", tmp_path / "comparison")
    result = run("make_report", *flags, "--output_dir", tmp_path / "report")
    assert result.code == 0, result.err
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Several labels per document: encoder, svm." in page
    assert "test average precision" in page


def test_tools_for_one_label_refuse_such_a_run(run, folders, tiny_dataset, tmp_path):
    several = "several labels per document"
    flags = ("--dataset_name", tiny_dataset, "--output_dir", tmp_path / "out")
    encoder = ("--model_name_or_path", folders / "encoder")
    result = run("measure_context", *encoder, *flags, "--split", "train")
    assert_user_error(result, "encoder", several)
    result = run("find_label_errors", "--runs", folders / "encoder", *flags)
    assert_user_error(result, "encoder", several)
    result = run("find_label_errors", "--svm_run", folders / "svm", *flags)
    assert_user_error(result, "svm", several)
    assert not list((tmp_path / "out").glob("*.json"))


def test_layers_of_such_a_run_are_probed_on_data_with_one_label(
    run, folders, tiny_dataset, tmp_path
):
    """A probe reads the hidden states and has a classifier of its own."""
    flags = ("--model_name_or_path", folders / "encoder", "--dataset_name", tiny_dataset)
    flags += ("--C", 0.1, "--disable_tqdm", "--output_dir", tmp_path / "probes")
    result = run("probe_layers", *flags)
    assert result.code == 0, result.err
    record = json.loads((tmp_path / "probes" / "layer-0" / "run_arguments.json").read_text())
    assert record["labels"] == LABELS


def test_notebook_says_that_it_is_for_one_label(folders, tmp_path, monkeypatch):
    notebook = json.loads((ROOT / "notebooks/explain_a_decision.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    (tmp_path / "notebooks").mkdir()
    shutil.copytree(folders / "encoder", tmp_path / "quickstart/minilm")
    monkeypatch.chdir(tmp_path / "notebooks")
    names = {}
    exec(cells[0], names)
    with pytest.raises(ValueError, match=r"several labels per document.*--target all"):
        exec(cells[1], names)
