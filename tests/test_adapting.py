"""docs/adapting.md: every diff applies to the script, runs, and does what its sentences say."""

import ast
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LABELS, ROOT, assert_user_error, make_records
from safetensors.torch import load_file
from sklearn.metrics import balanced_accuracy_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

PAGE = (ROOT / "docs" / "adapting.md").read_text(encoding="utf-8")
DIFFS = {
    section.split("\n")[0]: re.search(r"^```diff\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[1]
    for section in PAGE.split("\n## ")[1:]
}
TWO_STEPS = (
    "--do_train --do_eval --do_predict --max_steps 2 --max_seq_length 32 "
    "--gradient_accumulation_steps 1 --eval_strategy steps --eval_steps 1 --save_strategy steps "
    "--save_steps 1"
).split()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """``adapted(title)`` applies the diff of a section to a copy of its script, without fuzz."""

    def apply(title):
        folder = tmp_path_factory.mktemp("adapted")
        name = re.match(r"--- a/(\w+\.py)\n\+\+\+ b/\1\n", DIFFS[title])[1]
        shutil.copy(ROOT / name, folder)
        (folder / "change.diff").write_text(DIFFS[title], encoding="utf-8")
        environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        subprocess.run(["git", "apply", "change.diff"], cwd=folder, env=environment, check=True)
        return folder / name

    return apply


@pytest.fixture(scope="module")
def start(forked_python):
    """``start(script, *arguments)`` runs a script in its folder; it must succeed."""

    def start_script(script, *arguments):
        command = ["bash", "-c", 'python "$@"', "bash", script.name, *map(str, arguments)]
        result = subprocess.run(
            command,
            cwd=script.parent,
            env=os.environ | forked_python,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result

    return start_script


@pytest.fixture(scope="module")
def train(start, tiny_model, tiny_dataset, tmp_path_factory):
    """``train(script, *flags)`` trains for two steps and returns the run folder and the log."""

    def train_script(script, *flags, data=("--dataset_name", tiny_dataset)):
        folder = tmp_path_factory.mktemp("runs") / "run"
        where = ("--model_name_or_path", tiny_model, *data, "--output_dir", folder)
        return folder, start(script, *where, *TWO_STEPS, *flags).stdout

    return train_script


@pytest.fixture(scope="module")
def usual_run(train):
    """A run of the unchanged script."""
    return train(ROOT / "run_classification.py")[0]


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def predictions(folder):
    return pd.read_csv(folder / "predictions.csv")


def adapt_places(path):
    """The function with its class, or the constant, in or before which each ADAPT stands."""
    code = path.read_text(encoding="utf-8")
    places = []
    for number in [n for n, line in enumerate(code.split("\n"), 1) if "# ADAPT:" in line]:
        names, body = [], ast.parse(code).body
        while body:
            node = next(node for node in body if number <= node.end_lineno)
            is_definition = isinstance(node, ast.ClassDef | ast.FunctionDef)
            if is_definition:
                names.append(node.name)
            elif not names:
                names.append(node.targets[0].id)
            body = node.body if is_definition and node.lineno < number else []
        places.append(names)
    return places


def test_the_page_lists_every_place_that_is_marked():
    table = PAGE.split("\n\n")[2]
    for path in (*ROOT.glob("*.py"), *ROOT.glob("tools/**/*.py")):
        for names in adapt_places(path):
            assert f"`{names[-1]}`" in table or f"`{'.'.join(names)}`" in table, names


@pytest.mark.parametrize("title", DIFFS)
def test_every_diff_applies(adapted, title):
    ast.parse(adapted(title).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def mean_pooling(adapted, train):
    """The script with another head and its run."""
    script = adapted("Another head")
    return script, train(script)[0]


def test_another_head_trains_and_predicts_again(mean_pooling, start, tiny_dataset, tmp_path):
    script, folder = mean_pooling
    assert read(folder, "config.json")["architectures"] == ["MeanPoolingBert"]
    weights = load_file(folder / "model.safetensors")
    assert not [name for name in weights if "pooler" in name]
    # Each text alone, without padding: the mean is that of its own tokens.
    where = ("--model_name_or_path", folder, "--output_dir", tmp_path / "again")
    flags = ("--dataset_name", tiny_dataset, "--do_predict", "--per_device_eval_batch_size", 1)
    start(script, *where, *flags)
    expected, found = predictions(folder), predictions(tmp_path / "again")
    np.testing.assert_allclose(found[LABELS], expected[LABELS], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "flags"), [("run_classification", ["--do_predict"]), ("run_attribution", [])]
)
def test_a_run_with_another_head_is_refused_by_the_unchanged_scripts(
    mean_pooling, run, tiny_dataset, tmp_path, name, flags
):
    where = ("--model_name_or_path", mean_pooling[1], "--output_dir", tmp_path / "output")
    result = run(name, *where, "--dataset_name", tiny_dataset, *flags)
    assert_user_error(result, "is not a trained classifier", "bert.pooler.dense.weight")


def test_focal_loss_counts_documents_of_high_probability_less(adapted, train, usual_run):
    script = adapted("Focal loss")
    folder, _ = train(script)
    table = predictions(folder)
    p = np.array([table[label][row] for row, label in enumerate(table["label"])])
    results = read(folder, "all_results.json")
    assert results["predict_loss"] == pytest.approx(np.mean(-((1 - p) ** 2) * np.log(p)), rel=1e-3)
    assert results["train_loss"] < 0.9 * read(usual_run, "all_results.json")["train_loss"]
    assert read(folder, "run_arguments.json")["arguments"]["focal_gamma"] == 2


def test_focal_loss_of_gamma_0_is_cross_entropy(adapted, train, usual_run):
    folder, _ = train(adapted("Focal loss"), "--focal_gamma", 0)
    found, expected = read(folder, "all_results.json"), read(usual_run, "all_results.json")
    for name in ("train_loss", "eval_loss", "predict_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


def test_lora_trains_few_parameters_and_saves_a_whole_model(
    adapted, start, train, tiny_model, tiny_dataset, tmp_path
):
    script = adapted("LoRA")
    pytest.importorskip("peft")
    folder, log = train(script, "--lora_rank", 2, "--learning_rate", 1e-2)
    trained, total = map(int, re.search(r"LoRA trains (\d+) of (\d+) parameters", log).groups())
    assert trained < 0.2 * total
    assert (folder / "checkpoint-2" / "adapter_model.safetensors").exists()
    assert not (folder / "adapter_model.safetensors").exists()

    # The weights have the names of the pretrained ones, and only linear layers have changed.
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "bert.encoder.layer.0.attention.self.query.weight" in changed
    assert "classifier.weight" in changed
    assert "bert.embeddings.word_embeddings.weight" not in changed

    # The unchanged script reads the run.
    where = ("--model_name_or_path", folder, "--output_dir", tmp_path / "again")
    unchanged = ROOT / "run_classification.py"
    start(unchanged, *where, "--dataset_name", tiny_dataset, "--do_predict")
    expected, found = predictions(folder), predictions(tmp_path / "again")
    np.testing.assert_allclose(found[LABELS], expected[LABELS], atol=1e-5)


def test_another_metric_chooses_the_best_model(adapted, train):
    script = adapted("Another metric for early stopping")
    folder, _ = train(
        script, "--metric_for_best_model", "balanced_accuracy", "--learning_rate", 1e-2
    )
    state = read(folder, "trainer_state.json")
    logged = [
        entry["eval_balanced_accuracy"]
        for entry in state["log_history"]
        if "eval_balanced_accuracy" in entry
    ]
    assert len(logged) == 2
    assert state["best_metric"] == max(logged)
    table = predictions(folder)
    expected = balanced_accuracy_score(table["label"], table["prediction"])
    assert read(folder, "predict_results.json")["predict_balanced_accuracy"] == pytest.approx(
        expected
    )
    assert "best validation balanced_accuracy" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def numbered_files(tmp_path_factory):
    """Files whose label is a tenth of the number of words, and in the test split other numbers."""
    folder = tmp_path_factory.mktemp("numbers")
    table = pd.DataFrame(make_records())[["id", "abstract"]]
    table["label"] = table["abstract"].str.split().str.len() / 10
    parts = {"train": table[:80], "validation": table[80:90], "test": table[90:].copy()}
    parts["test"]["label"] += 0.05
    for split, part in parts.items():
        part.to_csv(folder / f"{split}.csv", index=False)
    return folder


def test_regression_predicts_numbers(adapted, start, train, numbered_files, tmp_path):
    script = adapted("Regression")
    data = []
    for split in ("train", "validation", "test"):
        data += [f"--{split}_file", numbered_files / f"{split}.csv"]
    folder, _ = train(script, "--learning_rate", 1e-2, data=data)
    table = predictions(folder)
    assert table["label"].tolist() == pd.read_csv(numbered_files / "test.csv")["label"].tolist()
    assert table["prediction"].dtype == float
    assert table["prediction"].nunique() > 1
    results = read(folder, "all_results.json")
    mse = ((table["prediction"] - table["label"]) ** 2).mean()
    for name in ("predict_mse", "predict_loss"):
        assert results[name] == pytest.approx(mse, rel=1e-4)
    assert "predict_accuracy" not in results
    state = read(folder, "trainer_state.json")
    logged = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert len(set(logged)) == 2
    assert state["best_metric"] == min(logged) == pytest.approx(results["eval_mse"], rel=1e-4)

    # The model loads as what it is, the card says it, and no classes are drawn.
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "fine-tuned to predict a number" in card
    assert "confusion" not in card
    assert not (folder / "confusion_matrix.png").exists()

    where = ("--model_name_or_path", folder, "--output_dir", tmp_path / "again")
    start(script, *where, "--test_file", numbered_files / "test.csv", "--do_predict")
    found = predictions(tmp_path / "again")
    np.testing.assert_allclose(found["prediction"], table["prediction"], atol=1e-5)


def test_another_attribution_method_is_the_gradient_times_the_input(
    adapted, start, usual_run, tiny_dataset, tmp_path
):
    script = adapted("Another attribution method")
    where = ("--model_name_or_path", usual_run, "--dataset_name", tiny_dataset)
    flags = ("--method", "input_x_gradient", "--target", "math.DG", "--max_samples", 2)
    start(script, *where, "--output_dir", tmp_path / "attributions", *flags)
    lines = (tmp_path / "attributions" / "attributions.jsonl").read_text(encoding="utf-8")
    documents = [json.loads(line) for line in lines.splitlines()]
    assert len(documents) == 2

    model = AutoModelForSequenceClassification.from_pretrained(usual_run).eval()
    tokenizer = AutoTokenizer.from_pretrained(usual_run)
    for document in documents:
        assert document["method"] == "input_x_gradient"
        assert document["gradient_evaluations"] == document["n_steps"] == 1
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(document["tokens"])])
        captured = []
        layer = model.bert.embeddings
        with layer.register_forward_hook(lambda *call: captured.append(call[-1])):  # noqa: B023
            logit = model(ids).logits[0, LABELS.index("math.DG")]
        (gradient,) = torch.autograd.grad(logit, captured)
        expected = (gradient * captured[0]).sum(-1)[0].tolist()
        assert document["attributions"] == pytest.approx(expected, abs=1e-5)
