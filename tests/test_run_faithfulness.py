"""run_faithfulness.py: the measures by their definitions on a model small enough to recount, and bad folders."""

import json
import math

import numpy as np
import pytest
import scipy
import torch
from conftest import assert_user_error, write_tiny_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import run_faithfulness

TEXTS = ["we prove that the ricci curvature of a compact polytope is convex .", "every scheme bounds a floer volume"]


@pytest.fixture(scope="module")
def steep_model(tmp_path_factory):
    """A random classifier that changes its mind when words go."""
    return write_tiny_model(tmp_path_factory.mktemp("steep"), seed=3, initializer_range=0.4)


@pytest.fixture
def folder(run, steep_model, tmp_path):
    """A folder of run_attribution.py, nothing measured yet."""
    flags = ["--text", *TEXTS, "--n_steps", 30, "--render", "false", "--disable_tqdm"]
    run("run_attribution", "--model_name_or_path", steep_model, "--output_dir", tmp_path / "out", *flags)
    return tmp_path / "out"


def test_measures_are_those_of_the_definitions(run, folder, steep_model):
    """Comprehensiveness, sufficiency and tau of the first document, one text after the other through the model."""
    assert run("run_faithfulness", "--attribution_dir", folder, "--random_orders", 3).code == 0
    line = json.loads((folder / "attributions.jsonl").read_text().split("\n")[0])
    tokenizer = AutoTokenizer.from_pretrained(steep_model)
    model = AutoModelForSequenceClassification.from_pretrained(steep_model).eval()
    target = model.config.label2id[line["target"]]

    def judged(gone):
        ids = torch.tensor([tokenizer(line["text"])["input_ids"]])
        for token, word in enumerate(line["word_ids"]):
            if word in gone:
                ids[0, token] = tokenizer.pad_token_id
        logits = model(ids).logits[0]
        return logits[target].item(), logits.softmax(0)[target].item()

    scores, words = line["word_attributions"], set(range(len(line["words"])))
    whole = judged(set())
    without, alone = [], []
    for fraction in (0.05, 0.1, 0.2, 0.5):
        best = set(sorted(words, key=lambda word: -scores[word])[: math.ceil(fraction * len(words))])
        without.append(whole[1] - judged(best)[1])
        alone.append(whole[1] - judged(words - best)[1])
    tau = scipy.stats.kendalltau(scores, [whole[0] - judged({word})[0] for word in sorted(words)]).statistic
    found = json.loads((folder / "faithfulness.json").read_text())["per_document"][0]["integrated gradients"]
    assert found["comprehensiveness"] == pytest.approx(np.mean(without), abs=1e-5)
    assert found["sufficiency"] == pytest.approx(np.mean(alone), abs=1e-5)
    assert found["tau_leave_one_out"] == pytest.approx(tau, abs=1e-6)


def test_infidelity_is_what_the_best_scaling_leaves_unexplained():
    """Against least squares without an intercept; 0 for scores that add up to the loss, 1 for no scores."""
    generator = np.random.default_rng(0)
    removed = generator.random((40, 6)) < 0.4
    scores, lost = generator.normal(size=6), generator.normal(size=40)
    sums = removed @ scores
    left = np.linalg.lstsq(sums[:, None], lost, rcond=None)[1][0]
    assert run_faithfulness.unexplained(scores, removed, lost) == pytest.approx(left / (lost**2).sum())
    assert run_faithfulness.unexplained(scores, removed, 3 * sums) == pytest.approx(0, abs=1e-12)
    assert run_faithfulness.unexplained(np.zeros(6), removed, lost) == pytest.approx(1)
    assert math.isnan(run_faithfulness.unexplained(scores, removed, np.zeros(40)))


def test_table_in_summary_and_page_and_the_same_twice(run, folder):
    for _ in range(2):
        assert run("run_faithfulness", "--attribution_dir", folder, "--internal_batch_size", 7).code == 0
        content = json.loads((folder / "faithfulness.json").read_text())
        table = content["rankings"]
        assert json.loads((folder / "summary.json").read_text())["faithfulness"] == table
    assert list(table) == [
        "integrated gradients", "gradient x input", "random", "integrated gradients minus random"
    ]  # fmt: skip
    for cells in table.values():
        for cell in cells.values():
            assert cell["low"] <= cell["mean"] <= cell["high"]
    rows = [line["random"]["sufficiency"] for line in content["per_document"]]
    assert table["random"]["sufficiency"]["mean"] == pytest.approx(np.mean(rows))
    assert run("render_attribution", "--attribution_dir", folder).code == 0
    assert "tau leave one out" in (folder / "attributions.html").read_text()
    content["run"] = "another"
    (folder / "faithfulness.json").write_text(json.dumps(content))
    run("render_attribution", "--attribution_dir", folder)
    assert "tau leave one out" not in (folder / "attributions.html").read_text()


def test_one_command_measures_and_draws(run, steep_model, tmp_path):
    flags = ["--text", *TEXTS, "--n_steps", 5, "--disable_tqdm"]
    base = ["--model_name_or_path", steep_model, "--output_dir", tmp_path / "out"]
    assert run("run_attribution", *base, *flags).code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "attributions.html", "attributions.jsonl", "attributions.png", "attributions.tex", "faithfulness.json",
        "summary.json",
    ]  # fmt: skip


def test_first_words_and_intervals():
    """At least one word, the ceiling of the share, the largest signed scores first."""
    masks = run_faithfulness.first_words(np.array([0.1, -3.0, 2.0, 0.0, 1.0, 0.5]))
    assert masks.sum(1).tolist() == [1, 1, 2, 3]
    assert masks[-1].tolist() == [False, False, True, False, True, True]
    generator = np.random.default_rng(0)
    assert run_faithfulness.interval([math.nan], generator) is None
    found = run_faithfulness.interval(list(np.random.default_rng(1).normal(size=400)), generator)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_bad_folders(run, folder, tmp_path, tiny_model):
    assert_user_error(run("run_faithfulness", "--attribution_dir", tmp_path / "none"), "none")
    base = ["run_faithfulness", "--attribution_dir", folder]
    assert_user_error(run(*base, "--random_orders", 0), "--random_orders")
    assert_user_error(run(*base, "--model_name_or_path", tmp_path / "gone"), "gone")
    other = write_tiny_model(tmp_path / "other", labels=["math.NT", "math.GT"])
    assert_user_error(run(*base, "--model_name_or_path", other), "class")
    assert_user_error(run(*base, "--model_name_or_path", tiny_model), "wrong model")
    assert not (folder / "faithfulness.json").exists()
