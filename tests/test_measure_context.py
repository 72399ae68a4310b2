"""tools/measure_context.py: the command, its files, bad input, interruptions."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import context_experiment
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from conftest import (
    LABELS,
    ROOT,
    assert_user_error,
    make_records,
    write_dataset,
    write_tiny_model,
)
from context_fixtures import FAMILIES, FEW, read, write_family
from datasets import Value, load_dataset
from hub_server import TOKEN, hub_server
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.metrics import accuracy_score, f1_score
from statsmodels.stats.multitest import multipletests
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import measure_context
from context import EXPERIMENTS, models
from context.word_variance import WORD_KINDS

pytest_plugins = ["context_fixtures"]


def read_logits(folder):
    """The logits in a folder's evaluations/, by experiment, run and condition."""
    with np.load(folder / "evaluations" / "logits.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def read_index(folder):
    return json.loads((folder / "evaluations" / "index.json").read_text(encoding="utf-8"))


def read_lines(folder):
    """The documents of a folder of run_attribution.py."""
    text = (folder / "attributions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def write_index(folder, index):
    # Evaluations of earlier versions have no digests, so that edits are not refused.
    index = {key: index[key] for key in index if key not in ("digest", "files")}
    text = json.dumps(index)
    (folder / "evaluations" / "index.json").write_text(text, encoding="utf-8")


# The command


def test_command_writes_everything(everything):
    files = {"context.json", "context.png", "context.html", "context.md", "evaluations"}
    assert {path.name for path in everything.iterdir()} == files
    result = read(everything)
    assert [run["name"] for run in result["order"]] == ["steep", "flat", "svm", "svm2"]
    blocks = [condition["block"] for condition in result["order"][0]["conditions"]]
    assert blocks == [1, 3, "sentence"]
    assert [row["name"] for row in result["attribution"]] == ["steep", "flat"]
    assert result["agreement"]
    assert {row["model"] for row in result["agreement"]} <= {"steep", "flat"}
    assert result["phrases"]["source"] == "typical n-grams"
    assert len(result["phrases"]["phrases"]) == 4
    assert result["arguments"]["seed"] == 42
    assert "torch" in result["versions"]


def test_models_without_order_are_indifferent_and_others_are_not(everything):
    steep, flat, svm, svm2 = read(everything)["order"]
    assert steep["indifferent"] is None
    assert flat["indifferent"] is True
    assert svm["indifferent"] is True
    assert svm2["indifferent"] is None
    for condition in svm["conditions"]:
        assert condition["max_change"] == 0 and condition["accuracy"]["p"] == 1
    for condition in flat["conditions"]:
        assert 0 <= condition["max_change"] < 1e-4 and condition["predictions_changed"] == 0
        assert condition["accuracy"]["difference"] == condition["macro_f1"]["difference"] == 0
        assert condition["accuracy"]["p"] == condition["macro_f1"]["p"] == 1
    assert steep["conditions"][0]["max_change"] > 0.1 and svm2["conditions"][0]["max_change"] > 1e-3


def test_unshuffled_numbers_are_those_of_the_run(everything, documents, runs):
    table = pd.read_csv(runs / "svm" / "predictions.csv")
    svm = read(everything)["order"][2]
    assert svm["accuracy"]["value"] == pytest.approx(
        accuracy_score(table["label"], table["prediction"])
    )
    assert svm["macro_f1"]["value"] == pytest.approx(
        f1_score(table["label"], table["prediction"], average="macro")
    )
    texts = load_dataset(str(documents))["test"]["abstract"]
    model = AutoModelForSequenceClassification.from_pretrained(runs / "steep").eval()
    tokenizer = AutoTokenizer.from_pretrained(runs / "steep")
    with torch.no_grad():
        expected = np.concatenate(
            [model(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in texts]
        )
    values = read_logits(everything)["word_order/run-0/original"]
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_page_is_self_contained_and_summary_says_what_was_found(everything):
    page = (everything / "context.html").read_text(encoding="utf-8")
    summary = (everything / "context.md").read_text(encoding="utf-8")
    assert not re.search(
        r"<script|<link(?! rel=\"icon\" href=\"data:,\")|@import|src=\"(?!data:)|href=\"(?!data:,)",
        page,
    )
    assert 'http-equiv="Content-Security-Policy"' in page and "default-src 'none'" in page
    HTMLParser().feed(page)
    for experiment in EXPERIMENTS:
        assert f"<summary>{experiment.TITLE}</summary>" in page
        assert f"## {experiment.TITLE}" in summary
    for sentence in ("flat does not see the word order", "its output does not", "moved apart"):
        assert sentence in page and sentence in summary
    assert (everything / "context.png").read_bytes()[:4] == b"\x89PNG"


def test_page_answers_first(everything):
    """Question, answers, picture, one table, the tests in fold-outs; versions last."""
    page = (everything / "context.html").read_text(encoding="utf-8")
    condition = read(everything)["order"][0]["conditions"][0]
    is_found = any(
        condition[name]["p_holm"] < 0.05 for name in ("accuracy", "true_class_probability")
    )
    answer = "Yes, the order of words: when single words are shuffled, "
    if not is_found:
        answer = answer.replace("Yes, the order of words", "Undecided")
    places = [
        page.index(text)
        for text in (
            "<h1>Does steep use context?</h1>",
            f"<strong>{answer}",
            "<li>Attention window: When a token sees only itself, ",
            "<figure",
            "Each test in one number per model",
            "<details><summary>Word order</summary>",
            "Versions:",
        )
    ]
    assert places == sorted(places)
    summary = (everything / "context.md").read_text(encoding="utf-8")
    assert summary.startswith(f"# Does steep use context?\n\n**{answer}")
    # Nothing but zeros: one sentence instead of two tables
    for name in ("flat", "svm"):
        assert f"{name}, change of F1" not in page + summary
        assert f"{name} does not see the word order" in summary
    assert "svm2, change of F1" in page and "svm2, change of F1" in summary


def test_a_change_without_significance_is_not_called_a_loss(everything):
    sentences = (everything / "context.md").read_text(encoding="utf-8").split("## Word order")[1]
    for run in read(everything)["order"]:
        if run["indifferent"]:
            continue
        for condition in run["conditions"]:
            test = condition["accuracy"]
            if condition["block"] not in (1, "sentence") or test["difference"] == 0:
                continue
            name = {1: "single words", "sentence": "sentences"}[condition["block"]]
            (line,) = [
                line
                for line in sentences.split("\n")
                if re.match(rf"- {run['name']}: with {name} shuffled, (accuracy|no change)", line)
            ]
            first = line.split("; ")[0]
            assert ("no change of accuracy is shown" in first) == (test["p_holm"] >= 0.05)
            assert ("accuracy changes by" in first) == (test["p_holm"] < 0.05)
            assert ("P(true" in line or "true class" in line) == (run["kind"] == "encoder")


def test_text_from_the_data_is_escaped(everything, tmp_path, run):
    shutil.copytree(everything, tmp_path / "out")
    index = read_index(tmp_path / "out")
    phrase = index["experiments"]["phrases"]["phrases"][0]
    phrase["phrase"] = "<script>alert(1)</script> $x$ | a_b"
    index["classes"] = ["<script>", "=1+1", "$", "math.MG", "math.SG"]
    index["runs"] = index["runs"][:1]  # the SVM has other classes now
    index["runs"][0]["name"] = "<b>$mo|del_1"
    for record in index["experiments"].values():
        if "runs" in record:
            record["runs"] = record["runs"][:1]
    index["arguments"]["attributions"] = []  # they explain other classes now
    write_index(tmp_path / "out", index)
    os.remove(tmp_path / "out" / "context.png")
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    page = (tmp_path / "out" / "context.html").read_text()
    summary = (tmp_path / "out" / "context.md").read_text()
    for text in ("<script>", "<b>", "<td>=1+1"):
        assert text not in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in summary
    assert r"\$x\$ \| a\_b" in summary
    assert (tmp_path / "out" / "context.png").read_bytes()[:4] == b"\x89PNG"


def test_tests_without_input_are_left_out_with_a_reason(context, tmp_path):
    assert context(tmp_path / "out", "--n_phrases", 0).code == 0
    result = read(tmp_path / "out")
    assert result["phrases"] is None
    assert result["attribution"] == []
    assert result["agreement"] == []
    left_out = [text.split(" is left out")[0] for text in result["left_out"]]
    assert left_out == ["The phrase test", "Attribution in context", "Agreement with the SVM"]
    assert "Agreement with the SVM is left out" in (tmp_path / "out" / "context.md").read_text()


def test_an_svm_alone_has_an_order_test(context, tmp_path):
    assert context(tmp_path / "out", model="svm2").code == 0
    result = read(tmp_path / "out")
    assert "needs an encoder" in result["left_out"][0]
    assert "total_variation" not in result["order"][0]["conditions"][0]


def test_second_call_computes_no_logits_and_gives_the_same_bytes(
    context, runs, tmp_path, monkeypatch
):
    assert context(tmp_path / "out", "--n_phrases", 2).code == 0
    first = (tmp_path / "out" / "context.json").read_bytes()

    def never(*arguments):
        raise AssertionError("computed twice")

    monkeypatch.setattr(models, "batches", never)
    assert context(tmp_path / "out", "--n_phrases", 2).code == 0
    assert (tmp_path / "out" / "context.json").read_bytes() == first
    # A run that lies elsewhere now is the same model.
    moved = shutil.copytree(runs / "steep", tmp_path / "moved" / "steep")
    assert context(tmp_path / "out", "--n_phrases", 2, model=moved).code == 0
    again = read(tmp_path / "out")["order"][0]
    assert again["conditions"] == json.loads(first)["order"][0]["conditions"]


def test_interrupted_work_continues(context, tmp_path, monkeypatch):
    assert context(tmp_path / "whole", "--n_phrases", 2).code == 0
    evaluate = models.encoder_logits
    calls = []

    def interrupted(run, batch, window=None):
        calls.append(len(batch))
        if sum(calls) > 120:
            raise KeyboardInterrupt
        return evaluate(run, batch, window)

    monkeypatch.setattr(models, "encoder_logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        context(tmp_path / "cut", "--n_phrases", 2)
    kept = sorted((tmp_path / "cut" / "evaluations").glob("*.npy"))
    assert kept and not (tmp_path / "cut" / "context.json").exists()
    times = {path: path.stat().st_mtime_ns for path in kept}
    monkeypatch.setattr(models, "encoder_logits", evaluate)
    assert context(tmp_path / "cut", "--n_phrases", 2).code == 0
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    whole = read(tmp_path / "whole")
    cut = read(tmp_path / "cut")
    assert whole["order"] == cut["order"]
    assert whole["phrases"] == cut["phrases"]


def test_seed_and_recipe_file(context, run, documents, runs, tmp_path):
    assert context(tmp_path / "a", "--n_phrases", 0, "--seed", 1).code == 0
    recipe = {
        "model_name_or_path": str(runs / "steep"),
        "dataset_name": str(documents),
        "n_phrases": 0,
        "seed": 2,
        "output_dir": str(tmp_path / "b"),
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert run("measure_context", tmp_path / "recipe.json", *FEW).code == 0
    first = read(tmp_path / "a")["order"][0]
    second = read(tmp_path / "b")["order"][0]
    assert first["accuracy"]["value"] == second["accuracy"]["value"]
    assert first["conditions"][0]["max_change"] != second["conditions"][0]["max_change"]


def test_windows_and_surrogates_are_reported(everything):
    result = read(everything)
    (windows,) = result["windows"]
    assert windows["name"] == "steep"
    assert [row["window"] for row in windows["conditions"]] == [0, 2, "all"]
    assert all(row["max_change"] > 0.01 for row in windows["conditions"])
    assert any("attention window is left out for flat" in text for text in result["left_out"])
    additive = {row["name"]: row["mean"] for row in result["surrogates"]}
    assert set(additive) == {"steep", "flat", "svm", "svm2"}
    assert additive["steep"] < additive["flat"]
    assert additive["flat"] > 0.9  # its words act through a mean


def test_moving_words_apart_does_not_change_a_model_without_layers(
    runs, documents, context, tmp_path
):
    assert context(tmp_path / "out", "--phrases", "convex bundle", model="flat").code == 0
    (row,) = read(tmp_path / "out")["phrases"]["phrases"]
    assert row["against_moved"]["p"] == 1 and row["against_moved"]["mean"] == 0
    assert row["moved_synergy"] == pytest.approx(row["synergy"]["mean"], abs=1e-4)
    assert row["documents"] == 20 and row["against_spans"]["mean"] != 0


def test_agreement_and_function_words_are_of_the_files(everything, attributions, runs):
    result = read(everything)
    model = skops.io.load(runs / "svm" / "model.skops")
    row = result["agreement"][0]
    assert result["agreement_svm"] == {"name": "svm", "order_free": True}
    lines = read_lines(attributions / "steep")
    shared = []
    for line, other in zip(lines, read_lines(attributions / "flat"), strict=True):
        if line["target"] == other["target"] == row["class"]:
            shared.append(line)
    part = row["differ_most"][0]
    column = model["counts"].vocabulary_[part["word"]]
    own = [line for line in shared if part["word"] in map(str.lower, line["words"])]
    counts = model["counts"].transform([line["text"] for line in own])
    tfidf = model["tfidf"].transform(counts).toarray()[:, column]
    coefficient = model["svm"].coef_[LABELS.index(row["class"]), column]
    assert part["svm"] == pytest.approx(np.mean(coefficient * tfidf)) and len(own) >= 3
    means = []
    for line in own:
        pairs = zip(line["words"], line["word_attributions"], strict=True)
        means.append(np.mean([score for word, score in pairs if word.lower() == part["word"]]))
    assert part["attribution"] == pytest.approx(np.mean(means))
    shares = []
    for line in lines:
        pairs = []
        for word, score in zip(line["words"], line["word_attributions"], strict=True):
            if re.search(r"\w", word):
                pairs.append((word.lower(), abs(score)))
        functions = sum(score for word, score in pairs if word in ENGLISH_STOP_WORDS)
        shares.append(functions / sum(score for _, score in pairs))
    model = next(part for part in result["attribution"] if part["name"] == row["model"])
    assert model["function_share"]["mean"] == pytest.approx(np.mean(shares))


def test_a_words_own_class_counts(attributions, everything):
    """Without a layer a word's attribution to one class comes from the word nearly alone."""
    flat = next(part for part in read(everything)["attribution"] if part["name"] == "flat")
    assert flat["all"]["icc"] > 0.5
    assert flat["all"]["low"] < flat["all"]["icc"] < flat["all"]["high"]
    steep = next(part for part in read(everything)["attribution"] if part["name"] == "steep")
    assert flat["all"]["groups"] == steep["all"]["groups"]  # the same words


def test_holm_over_the_sizes(everything):
    for run in read(everything)["order"]:
        tests = [condition["accuracy"] for condition in run["conditions"]]
        expected = multipletests([test["p"] for test in tests], method="holm")[1]
        assert [test["p_holm"] for test in tests] == pytest.approx(expected.tolist())


def test_bad_flags(context, tmp_path):
    assert_user_error(context(tmp_path / "o", "--n_shufles", 3), "--n_shufles", "--n_shuffles")
    assert_user_error(context(tmp_path / "o", "--n_shuffles", 0), "n_shuffles", "1")
    assert_user_error(context(tmp_path / "o", "--block_sizes", 0), "block_sizes")
    assert_user_error(context(tmp_path / "o", "--phrases", "metric"), "'metric'", "two words")
    result = context(tmp_path / "o", "--phrases", "unit disk", "of course")
    assert_user_error(result, "unit disk", "of course", "not in")
    assert_user_error(context(tmp_path / "o", "--max_seq_length", 1000), "1000", "128")
    assert_user_error(context(tmp_path / "o", "--split", "dev"), "'dev'", "test")
    assert_user_error(context(tmp_path / "o", "--text_column_names", "body"), "'body'", "abstract")
    assert_user_error(context(tmp_path / "o", "--max_samples", 19), "19", "20")
    assert_user_error(context(tmp_path / "o", "--attributions", tmp_path), "attributions.jsonl")
    result = context(tmp_path / "o", "--compare", tmp_path / "nothing")
    assert_user_error(result, "nothing", "model.skops")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--phrases", "convex bundle", "--n_phrases", 3], ["--n_phrases", "--phrases"]),
        (["--phrases", "convex bundle", "--phrase_split", "train"], ["--phrase_split", "--phra"]),
        (["--n_phrases", 0, "--phrase_split", "train"], ["--phrase_split", "--n_phrases 0"]),
        (["--n_phrases", 0, "--n_controls", 8], ["--n_controls", "--n_phrases 0"]),
        (["--min_occurrences", 5], ["--min_occurrences", "--attributions"]),
    ],
)
def test_flags_that_would_be_ignored_are_refused(context, tmp_path, flags, words):
    assert_user_error(context(tmp_path / "o", *flags), *words, "leave it out")
    assert not (tmp_path / "o").exists()


def test_phrases_that_do_not_occur_are_named(context, tmp_path):
    result = context(tmp_path / "out", "--phrases", "Convex bundle", "moduli stack")
    assert result.code == 0 and "'moduli stack'" in result.log
    assert read(tmp_path / "out")["phrases"]["not_found"] == ["moduli stack"]


def test_picture_has_a_panel_for_each_test_that_has_something_to_show(everything, monkeypatch):
    def titles(figure):
        return [axes.get_title(loc="left") for axes in figure.axes]

    monkeypatch.setattr(measure_context, "png", titles)
    result = read(everything)
    all_titles = measure_context.draw(result)
    assert [title[:3] for title in all_titles] == ["(a)", "(b)", "(c)", "(d)", "(e)", "(f)"]
    for model in result["attribution"]:
        model.update(dict.fromkeys(WORD_KINDS))
    result |= {"agreement": [], "windows": []}
    kept = ["(a) Word order", "(b) Additive surrogate", "(c) Phrases"]
    assert measure_context.draw(result) == kept


def test_phrases_of_few_documents_are_tested_together_only(context, documents, tmp_path):
    texts = load_dataset(str(documents), split="test")["abstract"]
    pairs = Counter()
    for text in texts:
        pairs.update(set(pairwise(re.findall(r"\w+", text.lower()))))
    rare = [" ".join(pair) for pair, number in pairs.items() if 2 <= number <= 5]
    result = context(tmp_path / "out", "--phrases", *rare)
    assert result.code == 0, result.err
    phrases = read(tmp_path / "out")["phrases"]
    assert len(phrases["phrases"]) == len(rare)
    assert phrases["against_moved"]["tested"] == 0
    assert "No phrase was compared in 6 documents, so none is tested alone." in result.log
    assert "0 of 0" not in result.log


def test_model_of_other_classes_and_models_that_cannot_answer(context, runs, tmp_path):
    write_tiny_model(tmp_path / "other", labels=["a", "b"])
    assert_user_error(
        context(tmp_path / "o", "--compare", tmp_path / "other"), "classes", "math.AG"
    )
    shutil.copytree(runs / "steep", tmp_path / "bare")
    for path in (tmp_path / "bare").glob("*token*"):
        path.unlink()
    (tmp_path / "bare" / "vocab.txt").unlink(missing_ok=True)
    assert_user_error(context(tmp_path / "o", "--compare", tmp_path / "bare"), "bare", "tokenizer")
    shutil.copytree(runs / "svm", tmp_path / "broken")
    (tmp_path / "broken" / "model.skops").write_bytes(b"no zip")
    assert_user_error(context(tmp_path / "o", "--compare", tmp_path / "broken"), "broken")


def test_dataset_with_duplicated_ids_or_empty_texts(context, tmp_path):
    records = make_records(80)
    records[-1]["id"] = records[-2]["id"]
    double = write_dataset(tmp_path / "double", records)
    assert_user_error(context(tmp_path / "o", dataset=double), "duplicated", "mg.00079")
    records = make_records(80)
    for record in records[-5:]:
        record["abstract"] = " "
    empty = write_dataset(tmp_path / "empty", records)
    result = context(tmp_path / "o", dataset=empty)
    # How many there are, and the first three
    assert_user_error(result, "5 documents", "'ag.00079', 'cv.00079', 'dg.00079', ...", "no text")
    result = context(tmp_path / "o", "--text_column_names", "title,abstract", dataset=empty)
    assert result.code == 0, result.err  # one column with a text is enough


def test_one_class_and_classes_absent_from_the_predictions(context, tmp_path):
    records = make_records(80)
    records = records[:360] + [record | {"label": 0} for record in records[360:]]
    data = write_dataset(tmp_path / "data", records)
    assert context(tmp_path / "out", "--n_phrases", 0, dataset=data).code == 0
    (run,) = read(tmp_path / "out")["order"]
    assert [part["class"] for part in run["conditions"][0]["classes"]] == ["math.AG"]


def test_folders_with_other_files_are_not_changed(context, run, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis.tex").write_text("mine")
    assert_user_error(context(tmp_path / "o"), "thesis.tex", "another folder")
    (tmp_path / "file").write_text("")
    assert_user_error(context(tmp_path / "file"), "file")
    (tmp_path / "empty").mkdir()
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "empty")
    assert_user_error(result, "empty", "evaluations", "measure_context.py")
    assert (tmp_path / "o" / "thesis.tex").read_text() == "mine"


def test_damaged_attributions(everything, run, attributions, tmp_path):
    shutil.copytree(everything, tmp_path / "out")
    shutil.copytree(attributions / "flat", tmp_path / "bad")
    (tmp_path / "bad" / "attributions.jsonl").write_text('{"id": 1}\n')
    only = ["--statistics_only", "--output_dir", tmp_path / "out"]
    result = run("measure_context", *only, "--attributions", tmp_path / "bad")
    assert_user_error(result, "bad", "run_attribution.py")
    assert read(tmp_path / "out") == read(everything)


def test_attributions_that_cannot_be_compared(everything, run, attributions, tmp_path):
    shutil.copytree(everything, tmp_path / "out")
    only = ["--statistics_only", "--output_dir", tmp_path / "out"]
    only += ["--attributions", attributions / "steep"]
    text = (attributions / "flat" / "attributions.jsonl").read_text()
    for name, changed in {
        "contrast": re.sub(r'"versus": null', '"versus": "math.AG"', text),
        "other": re.sub(r'"id": "', '"id": "other.', text),
    }.items():
        folder = shutil.copytree(attributions / "flat", tmp_path / name)
        (folder / "attributions.jsonl").write_text(changed)
    result = run("measure_context", *only, tmp_path / "contrast")
    assert_user_error(result, "contrast", "--versus")
    assert run("measure_context", *only, tmp_path / "other").code == 0
    result = read(tmp_path / "out")
    assert result["agreement"] == []
    assert all(row["all"] is None for row in result["attribution"])
    reason = "Documents that all models explain for the same class: 0."
    assert any(reason in text for text in result["left_out"])


def test_dataset_that_cannot_be_tested(context, tmp_path):
    assert_user_error(
        context(tmp_path / "o", dataset=write_dataset(tmp_path / "few", make_records(4))), "2", "20"
    )
    data = load_dataset(str(write_dataset(tmp_path / "data", make_records(80))))["test"]
    for name, changed in {
        "bare": data.remove_columns("label"),
        "text": data.cast_column("label", Value("string")),
    }.items():
        (tmp_path / name / "data").mkdir(parents=True)
        changed.to_parquet(tmp_path / name / "data" / "test-00000-of-00001.parquet")
        words = (
            ["no column 'label'"] if name == "bare" else ["not a ClassLabel", "prepare_dataset.py"]
        )
        assert_user_error(context(tmp_path / "o", dataset=tmp_path / name), name, *words)


def write_earlier_version(folder, with_windows):
    """Rewrite a folder's evaluations as earlier versions wrote them."""
    index = read_index(folder)
    logits = read_logits(folder)
    os.remove(folder / "evaluations" / "logits.npz")
    records = index.pop("experiments")
    del index["texts"]
    for number, run in enumerate(index["runs"]):
        del run["fingerprint"], run["text_column_names"], run["text_column_delimiter"]
        run["conditions"] = records["word_order"]["runs"][number]["conditions"]
        parts = [logits[f"word_order/run-{number}/original"][None]]
        for condition in run["conditions"]:
            parts.append(logits[f"word_order/run-{number}/block-{condition['block']}"])
        np.save(folder / "evaluations" / f"order-{number}.npy", np.concatenate(parts))
        if not with_windows:
            del run["commit"]
            continue
        run["windows"] = records["attention_window"]["runs"][number]["conditions"]
        run["additive_r2"] = records["additive_surrogate"]["runs"][number]["additive_r2"]
        if run["windows"]:
            parts = [logits[f"attention_window/run-{number}/original"]]
            for condition in run["windows"]:
                parts.append(logits[f"attention_window/run-{number}/window-{condition['window']}"])
            np.save(folder / "evaluations" / f"windows-{number}.npy", np.stack(parts))
    phrases = records["phrases"]
    index["phrase_source"] = phrases["source"]
    index["phrases"] = phrases["phrases"]
    index["phrases_not_found"] = phrases["not_found"]
    index["left_out"] = phrases["left_out"]
    if not with_windows:
        index["arguments"] |= {"render": True, "text_column_names": "abstract"}
        for name in ("window_sizes", "n_surrogate_documents", "phrase_split"):
            del index["arguments"][name]
        for name in ("model_revision", "dataset_revision"):
            del index["arguments"][name]
    write_index(folder, index)


def test_evaluations_of_the_version_before_give_the_same_results(everything, run, tmp_path):
    shutil.copytree(everything, tmp_path / "out")
    write_earlier_version(tmp_path / "out", with_windows=True)
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    for name in ("context.json", "context.md", "context.html"):
        assert (tmp_path / "out" / name).read_bytes() == (everything / name).read_bytes()


def test_evaluations_of_an_earlier_version_are_read(everything, run, tmp_path):
    shutil.copytree(everything, tmp_path / "out")
    write_earlier_version(tmp_path / "out", with_windows=False)
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    again = read(tmp_path / "out")
    before = read(everything)
    assert again["windows"] == again["surrogates"] == []
    assert "earlier version" in " ".join(again["left_out"])
    for key in ("phrases", "attribution", "agreement"):
        assert again[key] == before[key]


def test_full_disk_is_one_line(context, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("common.folders.write", full)
    assert_user_error(context(tmp_path / "o"), "No space left", "again")


def test_tokenizer_without_padding_token(context, runs, tmp_path):
    folder = write_family(tmp_path / "decoder", runs / "steep", *FAMILIES["decoder without PAD"])
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}))
    assert context(tmp_path / "out", model=folder).code == 0
    result = read(tmp_path / "out")
    assert any("no padding token" in text for text in result["left_out"])
    assert result["surrogates"] == []
    reason = "its tokenizer has no padding token to put in the place of a word."
    assert f"The additive surrogate is left out: {reason}" in result["left_out"]
    assert result["order"][0]["conditions"][0]["max_change"] > 0.01
    result = context(tmp_path / "o", "--phrases", "convex bundle", model=folder)
    assert_user_error(result, "--phrases", "padding token")


def test_surrogate_that_is_left_out_for_one_run_is_explained(context, runs, tmp_path):
    """The SVM has one."""
    folder = write_family(tmp_path / "decoder", runs / "steep", *FAMILIES["decoder without PAD"])
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}))
    assert context(tmp_path / "out", "--compare", runs / "svm", model=folder).code == 0
    result = read(tmp_path / "out")
    assert [row["name"] for row in result["surrogates"]] == ["svm"]
    (sentence,) = [text for text in result["left_out"] if "surrogate" in text]
    assert sentence == (
        "The additive surrogate is left out for decoder: its tokenizer has no padding token to put "
        "in the place of a word."
    )
    assert sentence in (tmp_path / "out" / "context.md").read_text()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_model_without_finite_logits(context, runs, tmp_path, value):
    model = AutoModelForSequenceClassification.from_pretrained(runs / "steep")
    model.classifier.bias.data[1] = value
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(runs / "steep").save_pretrained(tmp_path / "broken")
    assert_user_error(
        context(tmp_path / "o", model=tmp_path / "broken"), "broken", "NaN or infinite"
    )


def rename_classes(run_folder, copy, classes):
    """Copy a run of an SVM whose record names these classes, in the order of their numbers."""
    shutil.copytree(run_folder, copy)
    (copy / "predictions.csv").unlink()
    record = {"script": "run_baseline.py", "labels": classes}
    (copy / "run_arguments.json").write_text(json.dumps(record))
    return copy


def test_classes_of_an_svm_are_matched_by_name(context, runs, tmp_path):
    other = rename_classes(runs / "svm", tmp_path / "other", ["cs.AI", *LABELS[1:]])
    result = context(tmp_path / "o", "--compare", other)
    assert_user_error(result, "only the run has 'cs.AI'", "only the dataset has 'math.AG'")
    same = rename_classes(runs / "svm", tmp_path / "same", LABELS)
    turned = rename_classes(runs / "svm", tmp_path / "turned", LABELS[::-1])
    assert context(tmp_path / "out", "--compare", same, turned, "--n_phrases", 0).code == 0
    logits = read_logits(tmp_path / "out")
    same = logits["word_order/run-1/original"]
    np.testing.assert_array_equal(same, logits["word_order/run-2/original"][:, ::-1])


def test_svm_of_an_earlier_version_has_its_classes_in_the_predictions(context, runs, tmp_path):
    folder = shutil.copytree(runs / "svm", tmp_path / "svm")
    (folder / "run_arguments.json").unlink()
    assert context(tmp_path / "a", model=folder).code == 0
    assert context(tmp_path / "b", model="svm").code == 0
    assert (
        read(tmp_path / "a")["order"][0]["accuracy"]
        == (read(tmp_path / "b")["order"][0]["accuracy"])
    )
    (folder / "predictions.csv").unlink()
    assert_user_error(context(tmp_path / "o", model=folder), "which classes", "run_baseline.py")


def test_flags_for_encoders_need_one(context, runs, tmp_path):
    result = context(tmp_path / "o", "--max_seq_length", 9, model="svm")
    assert_user_error(result, "--max_seq_length", "encoders")
    assert_user_error(context(tmp_path / "o", "--bf16", model="svm"), "--bf16", "encoders")
    result = context(tmp_path / "o", "--window_sizes", 3, model="svm")
    assert_user_error(result, "--window_sizes", "encoders")
    for flags in (["--phrases", "convex bundle"], ["--n_phrases", 3], ["--n_controls", 8]):
        result = context(tmp_path / "o", *flags, "--compare", runs / "flat", model="svm")
        assert_user_error(result, flags[0], "encoder", "--model_name_or_path")


def test_hostile_class_names_and_paths_with_blanks(run, tmp_path, monkeypatch):
    labels = ["<script>alert(1)</script>", "=1+1", "$x$", "a, b", "Ünïcode | class"]
    write_dataset(tmp_path / "my data", make_records(80), labels=labels)
    one = tmp_path / "my runs" / "one" / "<b>model $1"
    two = tmp_path / "my runs" / "two" / "<b>model $1"
    for folder in (one, two):
        write_tiny_model(folder, labels=labels, initializer_range=0.3)
    out = tmp_path / "my out"
    flags = ["--model_name_or_path", one, "--dataset_name", tmp_path / "my data", "--compare", two]
    flags += ["--output_dir", out, "--n_phrases", 2, "--n_controls", 8, *FEW]
    result = run("measure_context", *flags)
    assert result.code == 0, result.err
    names = [part["name"] for part in read(out)["order"]]
    assert names == ["one/<b>model $1", "two/<b>model $1"]
    page = (out / "context.html").read_text()
    summary = (out / "context.md").read_text()
    assert "<script>" not in page + summary
    assert "<b>" not in page + summary
    assert "&lt;script&gt;" in page
    # No path of this machine is published.
    assert str(tmp_path) not in page + summary + (out / "context.json").read_text()


def written_texts(folder):
    """What the measured run read: columns and delimiter, in the record of the evaluations."""
    run = read_index(folder)["runs"][0]
    return run["text_column_names"], run["text_column_delimiter"]


def test_text_columns_are_those_of_the_encoder_s_training(context, runs, tmp_path):
    folder = shutil.copytree(runs / "steep", tmp_path / "steep")
    config = json.loads((folder / "config.json").read_text())
    config |= {"text_column_names": ["title", "abstract"], "text_column_delimiter": " . "}
    (folder / "config.json").write_text(json.dumps(config | {"max_seq_length": 64}))
    flags = ("--n_phrases", 0)
    result = context(tmp_path / "out", *flags, model=folder)
    assert result.code == 0, result.err
    assert "was trained on" not in result.log
    assert written_texts(tmp_path / "out") == (["title", "abstract"], " . ")
    assert read(tmp_path / "out")["arguments"]["text_column_names"] == ["title", "abstract"]
    same = context(tmp_path / "o", *flags, "--text_column_names", "title,abstract", model=folder)
    assert same.code == 0
    assert "was trained on" not in same.log
    assert read(tmp_path / "o")["order"] == read(tmp_path / "out")["order"]
    more = ("--text_column_names", "abstract", "--max_seq_length", 32)
    other = context(tmp_path / "other", *flags, *more, model=folder)
    assert other.code == 0
    assert other.log.count("was trained") == 2
    assert "trained on ['title', 'abstract'], not on --text_column_names ['abst" in other.log
    assert "trained with 64 tokens, not with --max_seq_length 32" in other.log


def test_text_columns_are_those_of_the_svm_s_training(context, run, documents, tmp_path):
    flags = ["--dataset_name", documents, "--C", 1, "--disable_tqdm"]
    flags += ["--text_column_names", "title,abstract", "--output_dir", tmp_path / "svm"]
    assert run("run_baseline", *flags).code == 0
    result = context(tmp_path / "out", model=tmp_path / "svm")
    assert result.code == 0, result.err
    assert written_texts(tmp_path / "out") == (["title", "abstract"], " ")
    predicted = pd.read_csv(tmp_path / "svm" / "predictions.csv")
    expected = accuracy_score(predicted["label"], predicted["prediction"])
    assert read(tmp_path / "out")["order"][0]["accuracy"]["value"] == pytest.approx(expected)
    result = context(tmp_path / "o", "--text_column_names", "abstract", model=tmp_path / "svm")
    assert result.code == 0
    assert "was trained on ['title', 'abstract'], not on --text_column_names" in result.log
    assert "other data" not in result.log


def test_column_of_the_training_that_the_dataset_lacks(context, runs, tmp_path):
    folder = shutil.copytree(runs / "steep", tmp_path / "steep")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"text_column_names": ["body"]}))
    assert_user_error(context(tmp_path / "o", model=folder), "'body'", "title, abstract")


def test_revisions_of_the_hub(run, runs, documents, tmp_path, monkeypatch):
    with hub_server() as hub:
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
        constants = {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
        constants["HUGGINGFACE_CO_URL_TEMPLATE"] = template.replace(
            huggingface_hub.constants.ENDPOINT, hub.url
        )
        for name, value in constants.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        cache = str(tmp_path / "home" / "hub")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)
        api, commits = huggingface_hub.HfApi(endpoint=hub.url, token=TOKEN), {}
        for kind, folder in (("model", runs / "steep"), ("dataset", documents)):
            api.create_repo("tester/name", repo_type=kind)
            commits[kind] = api.upload_folder(
                repo_id="tester/name", folder_path=folder, repo_type=kind
            ).oid
        flags = [
            "--model_name_or_path",
            "tester/name",
            "--dataset_name",
            "tester/name",
            "--n_phrases",
            0,
            *FEW,
        ]
        flags += ["--model_revision", commits["model"], "--dataset_revision", commits["dataset"]]
        result = run("measure_context", *flags, "--output_dir", tmp_path / "out")
        assert result.code == 0, result.err
        wrong = run(
            "measure_context",
            *flags,
            "--output_dir",
            tmp_path / "o",
            "--dataset_revision",
            "0" * 40,
        )
        assert_user_error(wrong, "tester/name")
    record = read(tmp_path / "out")
    assert (record["model_commit"], record["dataset_commit"]) == (
        commits["model"],
        commits["dataset"],
    )


def test_revision_of_a_local_folder_is_refused(context, tmp_path):
    assert_user_error(
        context(tmp_path / "o", "--model_revision", "main"), "--model_revision", "local folder"
    )
    assert_user_error(
        context(tmp_path / "o", "--dataset_revision", "main"), "--dataset_revision", "local folder"
    )


def test_killed_command_continues_to_the_same_bytes(
    run, documents, runs, tmp_path, monkeypatch, fork_client
):
    command = [
        "--model_name_or_path",
        runs / "steep",
        "--dataset_name",
        documents,
        "--output_dir",
        "out",
        *FEW,
    ]
    command = list(
        map(str, [*command, "--n_phrases", 4, "--n_shuffles", 40, "--compare", runs / "svm2"])
    )
    command += ["--n_controls", "8", "--window_sizes", "0", "2"]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    process = subprocess.Popen(
        [*fork_client, str(ROOT / "tools" / "measure_context.py"), *command],
        cwd=tmp_path / "killed", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    cache = tmp_path / "killed" / "out" / "evaluations"
    while process.poll() is None and len(list(cache.glob("*.npy"))) < 2:
        time.sleep(0.002)
    process.kill()
    process.communicate()  # until nobody can write to it any more
    assert list(cache.glob("*.npy")) and not (tmp_path / "killed" / "out" / "context.json").exists()
    for name in ("whole", "killed"):
        monkeypatch.chdir(tmp_path / name)
        assert run("measure_context", *command).code == 0
    for name in (
        "context.json",
        "context.md",
        "context.html",
        "context.png",
        "evaluations/index.json",
    ):
        assert (tmp_path / "whole" / "out" / name).read_bytes() == (
            tmp_path / "killed" / "out" / name
        ).read_bytes()


def test_damaged_evaluations(context, run, tmp_path):
    assert context(tmp_path / "out", "--n_phrases", 2).code == 0
    first = (tmp_path / "out" / "context.json").read_bytes()
    evaluations = tmp_path / "out" / "evaluations"
    for path in [*evaluations.glob("*.npy"), evaluations / "logits.npz"]:
        path.write_bytes(path.read_bytes()[:-50])
    only = ["--statistics_only", "--output_dir", tmp_path / "out"]
    assert_user_error(run("measure_context", *only), "evaluations", "out")
    assert context(tmp_path / "out", "--n_phrases", 2).code == 0
    assert (tmp_path / "out" / "context.json").read_bytes() == first
    (evaluations / "logits.npz").unlink()
    assert_user_error(run("measure_context", *only), "evaluations", "--statistics_only")
    (evaluations / "index.json").write_text('{"script": "measure_context.py"}')
    assert_user_error(run("measure_context", *only), "evaluations", "arguments is missing")


def test_statistics_only_takes_other_resamples_and_no_other_models(
    context, run, everything, tmp_path
):
    shutil.copytree(everything, tmp_path / "out")
    only = ["--statistics_only", "--output_dir", tmp_path / "out"]
    assert run("measure_context", *only).code == 0
    unlike = {"arguments": None, "files": None}  # the page shows the arguments
    again = read(tmp_path / "out")
    before = read(everything)
    assert {**again, **unlike} == {**before, **unlike}
    flags = ["--n_resamples", 200, "--min_occurrences", 4, "--seed", 42]
    assert run("measure_context", *only, *flags).code == 0
    again = read(tmp_path / "out")
    assert again["attribution"][0]["min_occurrences"] == 4
    assert again["arguments"]["n_resamples"] == 200
    # The same differences, other intervals
    test = again["order"][0]["conditions"][1]["macro_f1"]
    earlier = before["order"][0]["conditions"][1]["macro_f1"]
    assert test["difference"] == earlier["difference"]
    assert test["low"] != earlier["low"]
    result = run("measure_context", *only, "--n_shuffles", 3)
    assert_user_error(result, "--n_shuffles 3", "--statistics_only")
    assert_user_error(run("measure_context", *only, "--bf16"), "--bf16", "--statistics_only")
    result = run("measure_context", "--output_dir", tmp_path / "o")
    assert_user_error(result, "--model_name_or_path", "required")


def test_a_default_that_the_record_differs_from_is_not_ignored(run, everything, tmp_path):
    """--n_shuffles is 5 by default and 2 in the record: giving 5 asks for something else."""
    shutil.copytree(everything, tmp_path / "out")
    flags = ["--statistics_only", "--output_dir", tmp_path / "out", "--n_shuffles", 5]
    assert_user_error(run("measure_context", *flags), "--n_shuffles 5", "made with 2")
    recipe = {"statistics_only": True, "output_dir": str(tmp_path / "out"), "n_resamples": 200}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert run("measure_context", tmp_path / "recipe.json").code == 0
    settings = read(tmp_path / "out")["arguments"]
    assert (settings["n_resamples"], settings["n_shuffles"]) == (200, 2)


def test_intervals_from_few_documents_are_not_reported(everything, tmp_path, run, attributions):
    shutil.copytree(everything, tmp_path / "out")
    few = shutil.copytree(attributions / "flat", tmp_path / "few")
    lines = (few / "attributions.jsonl").read_text().splitlines(keepends=True)
    (few / "attributions.jsonl").write_text("".join(lines[:8]))
    flags = ["--output_dir", tmp_path / "out", "--attributions", few, "--min_occurrences", 2]
    result = run("measure_context", "--statistics_only", *flags)
    assert result.code == 0, result.err
    (model,) = read(tmp_path / "out")["attribution"]
    assert model["all"]["low"] is model["function_share"]["high"] is None
    summary = (tmp_path / "out" / "context.md").read_text()
    assert "no 95% CI: fewer than 10 documents" in summary


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_in_a_browser(everything, scheme):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium; apt-get install chromium")
    address, trouble = (everything / "context.html").as_uri(), []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(color_scheme=scheme)
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("data:", address)) or trouble.append(request.url)
            ),
        )
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(address)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("img").evaluate("image => image.naturalWidth") > 500
        assert page.locator("h1").text_content() == "Does steep use context?"
        browser.close()
    assert trouble == []


# A new experiment


def test_a_new_experiment_is_one_file_and_one_more_name(
    runs, documents, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(measure_context, "EXPERIMENTS", (*EXPERIMENTS, context_experiment))
    panels = []
    save = measure_context.png

    def read_figure(figure):
        for axes in figure.axes:
            panels.append((axes.get_title(loc="left"), len(axes.patches)))
        return save(figure)

    monkeypatch.setattr(measure_context, "png", read_figure)
    flags = ["--model_name_or_path", runs / "svm", "--dataset_name", documents, *FEW]
    result = run("measure_context", *flags, "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    lengths = read(tmp_path / "out")["lengths"]
    texts = [len(text.split()) for text in load_dataset(str(documents))["test"]["abstract"]]
    assert lengths == {"shortest": min(texts), "longest": max(texts)}
    sentence = f"{min(texts)} to {max(texts)} words are read."
    for name in ("context.html", "context.md"):
        page = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "Length of the documents" in page
        assert sentence in page
    assert panels[:3][-1] == ("(c) Length of the documents", 2)
    # From its evaluations, without the models
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    assert read(tmp_path / "out")["lengths"] == lengths


def test_evaluations_without_a_new_experiment(everything, run, tmp_path, monkeypatch):
    shutil.copytree(everything, tmp_path / "out")
    monkeypatch.setattr(measure_context, "EXPERIMENTS", (*EXPERIMENTS, context_experiment))
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "out")
    assert_user_error(result, "without document_length", "--statistics_only")
    assert read(tmp_path / "out") == read(everything)


# Other data than those that are measured


def test_attributions_of_other_texts_classes_or_models(everything, run, attributions, tmp_path):
    shutil.copytree(everything, tmp_path / "out")
    only = ["--statistics_only", "--output_dir", tmp_path / "out", "--attributions"]
    lines = (attributions / "steep" / "attributions.jsonl").read_text().splitlines()
    changed = {}
    for name, key, value in (
        ("texts", "text", "Another dataset has a document of this id."),
        ("classes", "target", "cs.AI"),
    ):
        changed[name] = shutil.copytree(attributions / "steep", tmp_path / name)
        rows = [json.dumps(json.loads(line) | {key: value}) for line in lines]
        (changed[name] / "attributions.jsonl").write_text("\n".join(rows) + "\n")
    assert_user_error(run("measure_context", *only, changed["texts"]), "other texts", "40 doc")
    assert_user_error(run("measure_context", *only, changed["classes"]), "'cs.AI'", "'math.AG'")
    assert read(tmp_path / "out") == read(everything)
    result = run("measure_context", *only, attributions / "flat")
    assert result.code == 0, result.err
    assert "flat, not --model_name_or_path" in result.log
    assert (
        "not --model_name_or_path" not in run("measure_context", *only, attributions / "steep").log
    )


def write_attributions_of(folder, source, model, with_weights=True):
    """A copy of an attribution folder that says that it explains the model in another folder."""
    shutil.copytree(source, folder)
    summary = json.loads((folder / "summary.json").read_text())
    summary["arguments"]["model_name_or_path"] = str(model)
    if not with_weights:
        del summary["settings"]["weights_sha256"]
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_attributions_are_of_the_run_with_their_weights(context, runs, attributions, tmp_path):
    """Every run of run_paper.sh is called lr-RATE-seed-SEED, and a folder may have been moved."""
    for seed, source in ((1, "steep"), (2, "flat")):
        shutil.copytree(runs / source, tmp_path / "alpha" / f"lr-5e-5-seed-{seed}")
    moved = write_attributions_of(
        tmp_path / "a", attributions / "steep", "old/alpha/lr-5e-5-seed-9"
    )
    other = write_attributions_of(tmp_path / "b", attributions / "flat", "alpha/lr-5e-5-seed-1")
    run = tmp_path / "alpha" / "lr-5e-5-seed-1"
    flags = ["--compare", tmp_path / "alpha" / "lr-5e-5-seed-2", "--min_occurrences", 3]
    result = context(tmp_path / "out", *flags, "--attributions", moved, other, model=run)
    assert result.code == 0, result.err
    assert "not --model_name_or_path" not in result.log
    content = read(tmp_path / "out")
    names = ["alpha/lr-5e-5-seed-1", "alpha/lr-5e-5-seed-2"]
    assert [row["name"] for row in content["order"]] == names
    assert [row["name"] for row in content["attribution"]] == names
    rows = measure_context.summary_table(content).rows
    assert [row[0] for row in rows] == names and "-" not in [row[-1] for row in rows]
    result = context(tmp_path / "out", *flags, "--attributions", other, model=run)
    assert f"{other} explains alpha/lr-5e-5-seed-1, not --model_name_or_path {run}" in result.log


def test_attributions_without_weights_are_compared_by_path(
    everything, run, runs, attributions, tmp_path
):
    shutil.copytree(everything, tmp_path / "out")
    flags = ["--statistics_only", "--output_dir", tmp_path / "out", "--attributions"]
    for number, (model, is_same) in enumerate(
        [(runs / "steep", True), (f"old/{runs.name}/steep", True), ("other/steep", False)]
    ):
        folder = write_attributions_of(
            tmp_path / str(number), attributions / "steep", model, with_weights=False
        )
        result = run("measure_context", *flags, folder)
        assert result.code == 0, result.err
        assert ("not --model_name_or_path" not in result.log) == is_same
        (row,) = read(tmp_path / "out")["attribution"]
        assert row["name"] == ("steep" if is_same else "steep (2)")


def test_words_of_a_prefix_are_not_words_of_the_documents(everything, run, attributions, tmp_path):
    """run_attribution.py explains the text with its prefix."""
    shutil.copytree(everything, tmp_path / "out")
    folder = shutil.copytree(attributions / "steep", tmp_path / "steep")
    prefix = "query: "
    lines = []
    for line in read_lines(folder):
        line["text"] = prefix + line["text"]
        shift = len(prefix)
        spans = [[start + shift, end + shift] for start, end in line["word_spans"]]
        line["word_spans"] = [[0, 5], [5, 6], *spans]
        line["words"] = ["query", ":", *line["words"]]
        line["word_attributions"] = [1.0, 2.0, *line["word_attributions"]]
        lines.append(json.dumps(line) + "\n")
    (folder / "attributions.jsonl").write_text("".join(lines))
    summary = json.loads((folder / "summary.json").read_text()) | {"text_prefix": prefix}
    (folder / "summary.json").write_text(json.dumps(summary))
    only = ["--statistics_only", "--output_dir", tmp_path / "out", "--attributions"]
    results = []
    for explained in (attributions / "steep", folder):
        result = run("measure_context", *only, explained)
        assert result.code == 0, result.err
        results.append(read(tmp_path / "out")["attribution"][0])
        del results[-1]["folder"]
    assert results[0] == results[1]


def test_column_that_is_not_text(context, tmp_path):
    result = context(tmp_path / "o", "--text_column_names", "categories")
    assert_user_error(result, "'categories'", "not text", "--text_column_names")


def test_record_has_the_digests_of_the_text_and_the_picture(everything):
    files = read(everything)["files"]
    assert set(files) == {"context.md", "context.html", "context.png"}
    for name, digest in files.items():
        assert hashlib.sha256((everything / name).read_bytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", ["classes", "labels", "ids", "runs"])
def test_edited_evaluations_are_refused(everything, run, tmp_path, name):
    shutil.copytree(everything, tmp_path / "out")
    path = tmp_path / "out" / "evaluations" / "index.json"
    index = json.loads(path.read_text())
    index[name].reverse()
    path.write_text(json.dumps(index))
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "out")
    assert_user_error(result, path, "--statistics_only")
    assert read(tmp_path / "out") == read(everything)


def test_another_svm_in_the_folder_of_the_measured_one(context, run, runs, attributions, tmp_path):
    svm = shutil.copytree(runs / "svm", tmp_path / "svm")
    flags = ["--n_phrases", 0, "--compare", svm]
    assert context(tmp_path / "out", *flags).code == 0
    shutil.copy(runs / "svm2" / "model.skops", svm)
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "out",
                 "--attributions", attributions / "steep", "--min_occurrences", 3)  # fmt: skip
    assert_user_error(result, "not the SVM that was measured", "--statistics_only")


def test_run_of_other_data_is_named(context, runs, documents, tmp_path):
    table = load_dataset(str(documents))["test"]
    digest = hashlib.sha256()
    for row in table:
        content = [row["id"], row["title"] + " | " + row["abstract"], LABELS[row["label"]]]
        digest.update(json.dumps(content).encode() + b"\n")
    folder = shutil.copytree(runs / "svm", tmp_path / "same")
    settings = {"text_column_names": ["title", "abstract"], "text_column_delimiter": " | "}
    record = {"script": "run_baseline.py", "labels": LABELS, "arguments": settings}
    record["data_fingerprints"] = {"test": digest.hexdigest()[:16]}
    (folder / "run_arguments.json").write_text(json.dumps(record))
    assert "other data" not in context(tmp_path / "out", model=folder).log
    other = shutil.copytree(folder, tmp_path / "other")
    record["data_fingerprints"]["test"] = "0123456789abcdef"
    (other / "run_arguments.json").write_text(json.dumps(record))
    result = context(tmp_path / "o", "--compare", folder, model=other)
    assert result.code == 0, result.err
    assert result.log.count("was made with other data of split 'test'") == 1
    assert "other was made with other data" in result.log


# What is not loaded


def test_no_pickle_and_no_code_of_a_model_is_loaded(context, runs, tmp_path):
    pickled = shutil.copytree(runs / "steep", tmp_path / "pickled")
    model = AutoModelForSequenceClassification.from_pretrained(pickled)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert_user_error(context(tmp_path / "o", model=pickled), "pickled", "safetensors")
    hostile = shutil.copytree(runs / "steep", tmp_path / "hostile")
    config = json.loads((hostile / "config.json").read_text())
    config |= {"model_type": "hostile", "auto_map": {"AutoConfig": "code.HostileConfig"}}
    (hostile / "config.json").write_text(json.dumps(config))
    (hostile / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert_user_error(context(tmp_path / "o", model=hostile), "hostile")
    assert not (tmp_path / "ran").exists()


def test_several_labels_per_document_are_refused(context, documents, runs, tmp_path):
    """By the record of a run, by a model's config, and in the dataset."""
    several = "several labels per document"
    shutil.copytree(runs / "svm", tmp_path / "svm")
    record = json.loads((tmp_path / "svm" / "run_arguments.json").read_text())
    record["problem_type"] = "multi_label_classification"
    (tmp_path / "svm" / "run_arguments.json").write_text(json.dumps(record))
    result = context(tmp_path / "out", "--compare", tmp_path / "svm")
    assert_user_error(result, tmp_path / "svm", several)
    shutil.copytree(runs / "steep", tmp_path / "steep")
    config = json.loads((tmp_path / "steep" / "config.json").read_text())
    config["problem_type"] = "multi_label_classification"
    (tmp_path / "steep" / "config.json").write_text(json.dumps(config))
    result = context(tmp_path / "out", model=tmp_path / "steep")
    assert_user_error(result, tmp_path / "steep", several)
    (tmp_path / "data").mkdir()
    for kind in ("listed", "unlabeled"):
        table = load_dataset(str(documents))["test"]
        labels = [[label] for label in table["label"]]
        table = table.remove_columns("label")
        if kind == "listed":
            table = table.add_column("label", labels)
        (tmp_path / kind).mkdir()
        table.to_parquet(tmp_path / kind / "test.parquet")
        result = context(tmp_path / "out", dataset=tmp_path / kind)
        assert_user_error(result, several if kind == "listed" else "no column 'label'")


def test_tokenizer_of_another_model(context, runs, tmp_path):
    folder = shutil.copytree(runs / "steep", tmp_path / "steep")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["manifoldish"])
    tokenizer.save_pretrained(folder)
    assert_user_error(context(tmp_path / "o", model=folder), "tokens", "embeds 41", "save")


def test_tokenizer_that_cuts_the_beginning(context, runs, tmp_path):
    folder = shutil.copytree(runs / "steep", tmp_path / "steep")
    tokenizer = AutoTokenizer.from_pretrained(folder, truncation_side="left")
    tokenizer.save_pretrained(folder)
    assert context(tmp_path / "out", "--n_phrases", 0, model=folder).code == 0
    result = context(tmp_path / "o", "--max_seq_length", 8, model=folder)
    assert_user_error(result, "cuts the beginning", "--max_seq_length")


# Folders


def test_a_refused_command_leaves_a_finished_folder_as_it_is(everything, context, run, tmp_path):
    folder = shutil.copytree(everything, tmp_path / "out")

    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.suffix != ".npy"}
    assert_user_error(context(folder, "--phrases", "of course"), "of course")
    assert_user_error(context(folder, "--max_seq_length", 1000), "1000")
    after = {path: path.read_bytes() for path in folder.rglob("*.*") if path.suffix != ".npy"}
    assert after == before
    result = run("measure_context", "--statistics_only", "--output_dir", folder)
    assert result.code == 0, result.err


def test_folder_of_another_tool_is_refused(context, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "context.json").write_text('{"mine": 1}')
    assert_user_error(context(folder), "context.json", "another folder")
    assert (folder / "context.json").read_text() == '{"mine": 1}'
    assert list(folder.iterdir()) == [folder / "context.json"]
