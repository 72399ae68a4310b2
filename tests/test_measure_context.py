"""tools/measure_context.py: identities, error rates by simulation, bad input."""

import gc
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from conftest import (
    LABELS,
    ROOT,
    SHARED_WORDS,
    assert_user_error,
    make_records,
    write_dataset,
    write_tiny_model,
)
from datasets import Value, load_dataset
from hub_server import TOKEN, hub_server
from scipy import stats
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    GPT2Config,
    RobertaConfig,
    XLNetConfig,
)

import measure_context

FEW = [
    "--n_resamples",
    300,
    "--n_permutations",
    199,
    "--n_shuffles",
    2,
    "--block_sizes",
    1,
    3,
    "--n_controls",
    8,
]
FEW += ["--disable_tqdm", "--n_surrogate_documents", 3, "--window_sizes", 0, 2]
SIMULATIONS = 1000


def call(script, *arguments):
    """Run a script's main() with a command line, without the seconds that a new interpreter takes to import torch."""
    before, sys.argv = sys.argv, list(map(str, (f"{script}.py", *arguments)))
    try:
        importlib.import_module(script).main()
    except SystemExit as stop:
        assert not stop.code, stop.code
    finally:
        sys.argv = before


def read(folder):
    return json.loads((folder / "context.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    """A dataset folder with 40 test documents of two sentences; every second holds the phrase 'convex bundle'."""
    records = make_records(80)
    for number, record in enumerate(records):
        words = record["abstract"].split()
        words.insert(3, "convex bundle" if number % 2 else "geodesic")
        words.insert(7, "holds. We")
        record["abstract"] = " ".join(words)
    return write_dataset(tmp_path_factory.mktemp("documents"), records)


@pytest.fixture(scope="session")
def runs(tmp_path_factory, documents):
    """Run folders: steep (BERT whose logits depend on everything), flat (no layer), svm (words), svm2 (pairs, too)."""
    root = tmp_path_factory.mktemp("runs")
    write_tiny_model(root / "steep", seed=3, initializer_range=0.3)
    tokenizer = AutoTokenizer.from_pretrained(root / "steep")
    config = AutoConfig.from_pretrained(
        ROOT / "configs" / "shallow" / "layers-0.json", vocab_size=len(tokenizer), pad_token_id=0, hidden_size=48,
        id2label=dict(enumerate(LABELS)), label2id={name: number for number, name in enumerate(LABELS)},
        initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(root / "flat")
    tokenizer.save_pretrained(root / "flat")
    for name, length in (("svm", 1), ("svm2", 2)):
        (root / name).mkdir()
        texts, names = load_dataset(str(documents)), dict(enumerate(LABELS))
        model = Pipeline([("counts", CountVectorizer(ngram_range=(1, length))), ("tfidf", TfidfTransformer()),
                          ("svm", LinearSVC(random_state=0))])  # fmt: skip
        model.fit(texts["train"]["abstract"], texts["train"]["label"])
        skops.io.dump(model, root / name / "model.skops")
        table = {
            "label": texts["test"]["label"],
            "prediction": model.predict(texts["test"]["abstract"]),
        }
        pd.DataFrame(table).replace(names).to_csv(root / name / "predictions.csv")
    return root


@pytest.fixture(scope="session")
def attributions(tmp_path_factory, documents, runs):
    """Folders of run_attribution.py for steep and flat."""
    root = tmp_path_factory.mktemp("attributions")
    gc.freeze()  # the batch size search collects garbage for every document
    for name in ("steep", "flat"):
        flags = ["--dataset_name", documents, "--n_steps", 8, "--disable_tqdm"]
        call(
            "run_attribution",
            "--model_name_or_path",
            runs / name,
            "--output_dir",
            root / name,
            *flags,
        )
    gc.unfreeze()
    return root


@pytest.fixture(scope="session")
def everything(tmp_path_factory, documents, runs, attributions):
    """The folder of one command with all four parts, drawn: the whole chain of three scripts."""
    folder = tmp_path_factory.mktemp("context") / "out"
    flags = [
        "--dataset_name",
        documents,
        "--output_dir",
        folder,
        *FEW,
        "--min_occurrences",
        3,
        "--n_phrases",
        4,
    ]
    flags += ["--compare", runs / "flat", runs / "svm", runs / "svm2"]
    flags += ["--attributions", attributions / "steep", attributions / "flat"]
    call("measure_context", "--model_name_or_path", runs / "steep", *flags)
    return folder


@pytest.fixture
def context(run, documents, runs, monkeypatch):
    """context(folder, flags...) runs the tool on steep; the picture, which takes a second, is not drawn."""
    monkeypatch.setattr(measure_context, "draw", lambda result: b"")

    def run_script(folder, *flags, model="steep", dataset=documents):
        arguments = [
            "--model_name_or_path",
            runs / model,
            "--dataset_name",
            dataset,
            "--output_dir",
            folder,
            *FEW,
        ]
        return run("measure_context", *arguments, *flags)

    return run_script


def loaded(runs, documents, name, **changes):
    """Return a run and its documents, ready for evaluation, and the arguments."""
    settings = {
        "n_controls": 8,
        "n_shuffles": 2,
        "block_sizes": [1, 3],
        "seed": 5,
        "disable_tqdm": True,
    } | changes
    arguments = measure_context.ContextArguments(
        "", str(runs / name), dataset_name=str(documents), **settings
    )
    texts, classes, _ = measure_context.read_documents(arguments, "test")
    run = measure_context.load_encoder(str(runs / name), name, classes, None, arguments)
    measure_context.prepare_words(run, texts, arguments.seed)
    return run, texts, arguments


# The command


def test_command_writes_everything(everything):
    assert {path.name for path in everything.iterdir()} == {
        "context.json", "context.png", "context.html", "context.md", "evaluations",
    }  # fmt: skip
    result = read(everything)
    assert [run["name"] for run in result["order"]] == ["steep", "flat", "svm", "svm2"]
    assert [condition["block"] for condition in result["order"][0]["conditions"]] == [
        1,
        3,
        "sentence",
    ]
    assert [row["name"] for row in result["attribution"]] == ["steep", "flat"]
    assert {row["model"] for row in result["agreement"]} <= {"steep", "flat"} and result[
        "agreement"
    ]
    assert (
        result["phrases"]["source"] == "typical n-grams" and len(result["phrases"]["phrases"]) == 4
    )
    assert result["arguments"]["seed"] == 42 and "torch" in result["versions"]


def test_models_without_order_are_indifferent_and_others_are_not(everything):
    steep, flat, svm, svm2 = read(everything)["order"]
    assert (steep["indifferent"], flat["indifferent"], svm["indifferent"], svm2["indifferent"]) == (
        None, True, True, None,
    )  # fmt: skip
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
    values = np.load(everything / "evaluations" / "order-0.npy")
    np.testing.assert_allclose(values[0], expected, atol=1e-5)


def test_page_is_self_contained_and_summary_says_what_was_found(everything):
    page, summary = (
        (everything / name).read_text(encoding="utf-8") for name in ("context.html", "context.md")
    )
    assert not re.search(
        r"<script|<link(?! rel=\"icon\" href=\"data:,\")|@import|src=\"(?!data:)|href=\"(?!data:,)",
        page,
    )
    assert 'http-equiv="Content-Security-Policy"' in page and "default-src 'none'" in page
    HTMLParser().feed(page)
    for title in measure_context.PARTS:
        assert f"<h2>{title}</h2>" in page and f"## {title}" in summary
    for sentence in ("flat does not see the word order", "its output does not", "moved apart"):
        assert sentence in page and sentence in summary
    assert (everything / "context.png").read_bytes()[:4] == b"\x89PNG"


def test_text_from_the_data_is_escaped(everything, tmp_path, run):
    shutil.copytree(everything, tmp_path / "out")
    path = tmp_path / "out" / "evaluations" / "index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    index["phrases"][0]["phrase"] = "<script>alert(1)</script> $x$ | a_b"
    index["runs"][0]["name"] = "<b>$mo|del_1"
    index["classes"] = ["<script>", "=1+1", "$", "math.MG", "math.SG"]
    path.write_text(json.dumps(index), encoding="utf-8")
    os.remove(tmp_path / "out" / "context.png")
    index["runs"] = index["runs"][:1]  # the SVM has other classes now
    path.write_text(json.dumps(index), encoding="utf-8")
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    page, summary = (
        (tmp_path / "out" / name).read_text() for name in ("context.html", "context.md")
    )
    assert (
        "<script>" not in page
        and "&lt;script&gt;" in page
        and "<b>" not in page
        and "<td>=1+1" not in page
    )
    assert "<script>" not in summary and r"\$x\$ \| a\_b" in summary
    assert (tmp_path / "out" / "context.png").read_bytes()[:4] == b"\x89PNG"


def test_tests_without_input_are_left_out_with_a_reason(context, tmp_path):
    assert context(tmp_path / "out", "--n_phrases", 0).code == 0
    result = read(tmp_path / "out")
    assert result["phrases"] is None and result["attribution"] == [] and result["agreement"] == []
    assert [text.split(" is left out")[0] for text in result["left_out"]] == [
        "The phrase test", "Attribution in context", "Agreement with the SVM",
    ]  # fmt: skip
    assert "Agreement with the SVM is left out" in (tmp_path / "out" / "context.md").read_text()


def test_an_svm_alone_has_an_order_test(context, tmp_path):
    assert context(tmp_path / "out", model="svm2").code == 0
    result = read(tmp_path / "out")
    assert (
        "needs an encoder" in result["left_out"][0]
        and "total_variation" not in result["order"][0]["conditions"][0]
    )


def test_second_call_computes_no_logits_and_gives_the_same_bytes(
    context, runs, tmp_path, monkeypatch
):
    assert context(tmp_path / "out", "--n_phrases", 2).code == 0
    first = (tmp_path / "out" / "context.json").read_bytes()

    def never(*arguments):
        raise AssertionError("computed twice")

    monkeypatch.setattr(measure_context, "batches", never)
    assert context(tmp_path / "out", "--n_phrases", 2).code == 0
    assert (tmp_path / "out" / "context.json").read_bytes() == first
    # A run that lies elsewhere now is the same model.
    moved = shutil.copytree(runs / "steep", tmp_path / "moved" / "steep")
    assert context(tmp_path / "out", "--n_phrases", 2, model=moved).code == 0
    again, before = read(tmp_path / "out")["order"][0], json.loads(first)["order"][0]
    assert again["conditions"] == before["conditions"]


def test_interrupted_work_continues(context, tmp_path, monkeypatch):
    assert context(tmp_path / "whole", "--n_phrases", 2).code == 0
    evaluate, calls = measure_context.encoder_logits, []

    def interrupted(run, batch, window=None):
        calls.append(len(batch))
        if sum(calls) > 120:
            raise KeyboardInterrupt
        return evaluate(run, batch, window)

    monkeypatch.setattr(measure_context, "encoder_logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        context(tmp_path / "cut", "--n_phrases", 2)
    kept = sorted((tmp_path / "cut" / "evaluations").glob("*.npy"))
    assert kept and not (tmp_path / "cut" / "context.json").exists()
    times = {path: path.stat().st_mtime_ns for path in kept}
    monkeypatch.setattr(measure_context, "encoder_logits", evaluate)
    assert context(tmp_path / "cut", "--n_phrases", 2).code == 0
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    whole, cut = read(tmp_path / "whole"), read(tmp_path / "cut")
    assert (whole["order"], whole["phrases"]) == (cut["order"], cut["phrases"])


def test_seed_and_recipe_file(context, run, documents, runs, tmp_path):
    assert context(tmp_path / "a", "--n_phrases", 0, "--seed", 1).code == 0
    recipe = {"model_name_or_path": str(runs / "steep"), "dataset_name": str(documents), "n_phrases": 0, "seed": 2,
              "output_dir": str(tmp_path / "b")}  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert run("measure_context", tmp_path / "recipe.json", *FEW).code == 0
    first, second = (read(tmp_path / name)["order"][0] for name in "ab")
    assert first["accuracy"]["value"] == second["accuracy"]["value"]
    assert first["conditions"][0]["max_change"] != second["conditions"][0]["max_change"]


# Words, shuffles, phrases


def test_shuffle_keeps_words_and_blocks():
    words = [str(number) for number in range(23)]
    for size in (1, 2, 5, 30):
        shuffled = measure_context.shuffle(words, size, [1, 2])
        assert sorted(shuffled) == sorted(words)
        blocks = [words[start : start + size] for start in range(0, 23, size)]
        assert all(" ".join(block) in " ".join(shuffled) for block in blocks)
        assert (shuffled == words) == (size == 30)
    text = "We prove A. It holds, e.g. for B. What of C? The end."
    sentences = {"We prove A.", "It holds, e.g. for B.", "What of C?", "The end."}
    orders = {
        " ".join(measure_context.shuffle(text.split(), "sentence", [seed])) for seed in range(200)
    }
    assert len(orders) == 24
    assert all(all(sentence in order for sentence in sentences) for order in orders)


def test_joined_tokens_are_those_of_the_tokenizer(runs, documents, minilm):
    run, _, _ = loaded(runs, documents, "steep")
    assert all(run.joined)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    real = "Kähler--Einstein metrics ($c_1<0$) on non-compact $\\mathbb{C}^n$: L\\'evy's 3.14 test.".split()
    other = replace(run, tokenizer=tokenizer, prefix="query: ", max_length=64, pad_id=0)
    measure_context.prepare_words(other, [{"words": real}], 0)
    assert other.joined == [True]
    for seed in range(20):
        words = measure_context.shuffle(real, 1, [seed])
        assert (
            measure_context.join_tokens(other, words)
            == tokenizer("query: " + " ".join(words))["input_ids"]
        )
    masked = measure_context.join_tokens(other, real, frozenset({0}))
    length = len(tokenizer(real[0], add_special_tokens=False)["input_ids"])
    assert masked.count(0) == length and len(masked) == len(
        measure_context.join_tokens(other, real)
    )


def test_tokens_that_depend_on_their_neighbors_are_not_joined(runs, documents, tmp_path):
    """The tokenizer does not split at blanks, so tokens cannot be joined word by word; whole texts are tokenized."""
    from tokenizers import Tokenizer, models, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    texts = [" ".join(SHARED_WORDS)] * 5
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=30, special_tokens=special))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    shutil.copytree(runs / "steep", tmp_path / "runs" / "joint")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (tmp_path / "runs" / "joint" / name).unlink(missing_ok=True)
    fast.model_max_length = 128
    fast.save_pretrained(tmp_path / "runs" / "joint")
    run, _, _ = loaded(tmp_path / "runs", documents, "joint", max_seq_length=40)
    words = [measure_context.shuffle(words, 1, [n]) for n, words in enumerate(run.words)]
    inputs = measure_context.encode(run, words, list(range(len(words))))
    for item, text in zip(inputs, words, strict=True):
        assert item == run.tokenizer(" ".join(text), truncation=True, max_length=40)["input_ids"]


def test_long_texts_are_cut_before_they_are_shuffled(runs, documents):
    run, texts, _ = loaded(runs, documents, "steep", max_seq_length=10)
    for words, document in zip(run.words, texts, strict=True):
        assert words == document["words"][: len(words)] and 0 < len(words) < len(document["words"])
        assert len(measure_context.join_tokens(run, words)) <= 10
        assert len(measure_context.join_tokens(run, document["words"][: len(words) + 1])) > 10


def test_phrases_are_found_and_their_words_moved_apart():
    words = "We study the unit disk, unit disk. Every Unit Disk (unit) disk".split()
    expected = ["We", "study", "the", "unit", "unit", "Every", "Unit", "Disk", "(unit)"]
    assert [words[n] for n in measure_context.span_starts(words, 2)] == expected
    assert measure_context.occurrences(words, ["unit", "disk"]) == [3, 5, 8, 10]
    assert measure_context.occurrences(["a", "a", "a", "a", "a"], ["a", "a"]) == [
        0,
        2,
    ]  # without overlap
    generator = np.random.default_rng(0)
    places = set()
    for _ in range(1500):
        moved, ((unit,), (disk,)) = measure_context.move_apart(words, [[3], [4]], generator)
        assert sorted(moved) == sorted(words) and (moved[unit], moved[disk]) == ("unit", "disk,")
        assert [word for n, word in enumerate(moved) if n not in (unit, disk)] == words[:3] + words[
            5:
        ]
        assert abs(unit - disk) > measure_context.MIN_GAP
        places.add((unit, disk))
    assert len(places) == 9 * 8  # every pair of places that far apart, in both orders
    assert measure_context.move_apart(words[:4], [[0], [1], [2]], generator) is None
    moved, groups = measure_context.move_apart(
        list("abcdefabijklmnopqr"), [[0, 6], [1, 7]], generator
    )
    assert [[moved[n] for n in group] for group in groups] == [
        ["a", "a"],
        ["b", "b"],
    ]  # all occurrences are moved
    assert min(np.diff(sorted(np.ravel(groups)))) > measure_context.MIN_GAP


def test_typical_phrases_are_those_of_a_class():
    words = [
        f"some common words and {'unit disk' if n % 2 else 'floer theory'} here now".split()
        for n in range(20)
    ]
    documents = [{"words": text, "label": n % 2} for n, text in enumerate(words)]
    assert set(measure_context.typical_phrases(documents)[:2]) == {"unit disk", "floer theory"}
    assert (
        measure_context.typical_phrases([{"words": ["a", "b"], "label": n} for n in range(2)]) == []
    )


def test_phrases_are_not_tested_where_they_were_chosen(
    context, runs, documents, attributions, tmp_path
):
    run, texts, arguments = loaded(runs, documents, "steep", n_phrases=3)
    source, chosen, _ = measure_context.choose_phrases(run, texts, arguments)
    validation = measure_context.read_documents(arguments, "validation")[0]
    typical = measure_context.typical_phrases(validation)
    assert source == "typical n-grams" and len(chosen) == 3
    assert chosen == sorted(chosen, key=typical.index)
    # The attributed documents are the tested ones: their attributions must not choose.
    arguments.attributions = [str(attributions / "steep")]
    assert measure_context.choose_phrases(run, texts, arguments)[:2] == (source, chosen)
    other = shutil.copytree(attributions / "steep", tmp_path / "other")
    text = (other / "attributions.jsonl").read_text()
    (other / "attributions.jsonl").write_text(re.sub(r'"id": "', '"id": "validation.', text))
    arguments.attributions = [str(other)]
    assert measure_context.choose_phrases(run, texts, arguments)[0] == "attributions"
    assert_user_error(
        context(tmp_path / "o", "--phrase_split", "test"), "--phrase_split test", "--phrases"
    )


def synergy_by_hand(run, words, places, target):
    """whole - sum of parts from the model itself, with PAD in the places."""

    def value(hidden):
        ids = torch.tensor([measure_context.join_tokens(run, words, frozenset(hidden))])
        with torch.no_grad():
            return (
                run.model(input_ids=ids, attention_mask=torch.ones_like(ids))
                .logits[0, target]
                .item()
            )

    hidden = {place for group in places for place in group}
    nothing = value(hidden)
    return value([]) - nothing - sum(value(hidden - set(group)) - nothing for group in places)


@pytest.mark.parametrize("phrase", ["convex bundle", "convex bundle flow"])
def test_synergy_is_the_interaction_of_the_words(runs, documents, tmp_path, phrase):
    records = make_records(80)
    for record in records:
        record["abstract"] = (
            "On every " + phrase + " we prove " + record["abstract"] + " And a " + phrase
        )
    data = write_dataset(tmp_path / "data", records)
    run, _, arguments = loaded(runs, data, "steep")
    targets, size = np.arange(len(run.words)) % 5, len(phrase.split())
    (tmp_path / "cache").mkdir()
    with tqdm(total=0, disable=True) as bar:
        found = measure_context.evaluate_phrase(
            run, phrase, targets, arguments, tmp_path / "cache", bar
        )
    assert [one["document"] for one in found] == list(range(40))
    for one in found[:5]:
        words = run.words[one["document"]]
        places = [[2 + n, len(words) - size + n] for n in range(size)]  # both occurrences
        expected = synergy_by_hand(run, words, places, targets[one["document"]])
        assert one["synergy"] == pytest.approx(expected, abs=1e-4) and abs(expected) > 1e-4
        if size == 2:
            # The second difference: the drop of the whole less the single drops, with the opposite sign.
            assert one["synergy"] == pytest.approx(sum(one["drops"]) - one["whole"], abs=1e-4)
    assert all(one["spans"] and one["moved"] for one in found)


def window_by_hand(run, ids, window):
    """Logits of one text with attention limited by adding minus infinity to the scores, layer by layer."""
    size, model = len(ids), run.model
    seen = np.zeros((size, size), dtype=bool)
    for i in range(size):
        for j in range(size):
            near = abs(i - j) <= window or j == size - 1
            seen[i, j] = i == 0 or (i == j if i == size - 1 else near and j > 0)
    mask = torch.where(torch.tensor(seen), 0.0, -torch.inf)
    with torch.no_grad():
        states = model.bert.embeddings(torch.tensor([ids]))
        for layer in model.bert.encoder.layer:
            attention, heads = layer.attention.self, run.model.config.num_attention_heads
            query, key, value = (
                part(states).reshape(size, heads, -1).transpose(0, 1)
                for part in (attention.query, attention.key, attention.value)
            )
            weights = (query @ key.transpose(1, 2) / np.sqrt(query.shape[-1]) + mask).softmax(
                dim=-1
            )
            mixed = (weights @ value).transpose(0, 1).reshape(1, size, -1)
            states = layer.attention.output(mixed, states)
            states = layer.output(layer.intermediate(states), states)
        return model.classifier(model.bert.pooler(states)).numpy()[0]


def test_window_limits_what_a_token_sees(runs, documents):
    run, _, _ = loaded(runs, documents, "steep")
    texts = [tuple(ids) for ids in measure_context.encode(run, run.words[:6], range(6))]
    assert measure_context.takes_windows(run)
    for window in (0, 1, 3):
        values = measure_context.encoder_logits(run, texts, window)
        expected = [window_by_hand(run, ids, window) for ids in texts]
        np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_array_equal(
        measure_context.window_mask([4, 3], 0, True, True)[:, 0].int(),
        [[[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]],
         [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0]]],
    )  # fmt: skip


def test_windows_and_surrogates_are_reported(everything):
    result = read(everything)
    (windows,) = result["windows"]
    assert windows["name"] == "steep" and [row["window"] for row in windows["conditions"]] == [
        0,
        2,
        "all",
    ]
    assert all(row["max_change"] > 0.01 for row in windows["conditions"])
    assert any("attention window is left out for flat" in text for text in result["left_out"])
    additive = {row["name"]: row["mean"] for row in result["surrogates"]}
    assert set(additive) == {"steep", "flat", "svm", "svm2"}
    assert (
        additive["steep"] < additive["flat"] and additive["flat"] > 0.9
    )  # its words act through a mean


def test_moving_words_apart_does_not_change_a_model_without_layers(
    runs, documents, context, tmp_path
):
    assert context(tmp_path / "out", "--phrases", "convex bundle", model="flat").code == 0
    (row,) = read(tmp_path / "out")["phrases"]["phrases"]
    assert row["against_moved"]["p"] == 1 and row["against_moved"]["mean"] == 0
    assert row["moved_synergy"] == pytest.approx(row["synergy"]["mean"], abs=1e-4)
    assert row["documents"] == 20 and row["against_spans"]["mean"] != 0


# Statistics: known cases


def test_bootstrap_is_scikit_learn_on_resampled_documents():
    generator = np.random.default_rng(3)
    labels, predictions = generator.integers(0, 4, 60), generator.integers(0, 3, (3, 60))
    accuracy, f1 = measure_context.bootstrap(labels, predictions, 4, 40, 9)
    again = np.random.default_rng(9).multinomial(60, np.full(60, 1 / 60), size=40)
    again = np.concatenate([np.ones((1, 60), dtype=int), again])
    for draw, counts in enumerate(again):
        taken = np.repeat(np.arange(60), counts)
        for row in range(3):
            expected = f1_score(
                labels[taken], predictions[row, taken], average="macro", zero_division=0
            )
            assert np.nanmean(f1[draw, row]) == pytest.approx(expected)
            assert accuracy[draw, row] == pytest.approx(
                accuracy_score(labels[taken], predictions[row, taken])
            )


def test_variance_components_are_those_of_the_analysis_of_variance():
    generator = np.random.default_rng(1)
    scores = generator.normal(size=(12, 1)) + generator.normal(size=(12, 7))
    table = {"y": np.ravel(scores), "g": np.repeat(np.arange(12), 7)}
    between, within = anova_lm(ols("y ~ C(g)", table).fit())["mean_sq"]
    weights = np.ones((1, 7))
    result = np.ravel(measure_context.variance_components(scores, weights))
    assert result == pytest.approx([(between - within) / 7, within])
    # A document that is taken twice is not a repetition: the estimates are those from pairs of different documents.
    weights = np.array([[2, 1, 0, 1, 1, 1, 1]], dtype=float)
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    product = np.average([np.mean(scores[:, i] * scores[:, j]) for i, j in pairs],
                         weights=[weights[0, i] * weights[0, j] for i, j in pairs])  # fmt: skip
    second, means = (
        np.average(scores**2, axis=1, weights=weights[0]),
        np.average(scores, axis=1, weights=weights[0]),
    )
    grand = np.mean([means[i] * means[j] for i in range(12) for j in range(12) if i != j])
    result = np.ravel(measure_context.variance_components(scores, weights))
    assert result == pytest.approx([product - grand, second.mean() - product])
    assert measure_context.intraclass_correlation(np.ones((3, 20)), 100, 0) is None
    assert measure_context.intraclass_correlation(scores[:1], 100, 0) is None
    assert measure_context.intraclass_correlation(scores, 100, 0)["low"] is None  # seven documents


def test_sign_flip_test_is_exact_where_it_can_be_counted():
    assert measure_context.sign_flip_test([1.0] * 5, 99, 0) is None
    assert measure_context.sign_flip_test([1e-7] * 8, 99, 0)["p"] == 1  # rounding
    result = measure_context.sign_flip_test([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 99_999, 0)
    assert (
        result["p"] == pytest.approx(2 / 64, abs=0.003)
        and result["mean"] == 3.5
        and result["documents"] == 6
    )


def test_all_models_are_compared_on_the_same_words_and_documents():
    def document(target, **scores):
        return {
            "target": target,
            "text": "",
            "scores": {word: [score] for word, score in scores.items()},
        }

    first = {"1": document("A", x=1, y=2), "2": document("A", x=3, y=4), "3": document("B", x=5)}
    second = {
        "1": document("A", x=9, y=8),
        "2": document("A", x=7),
        "3": document("A", x=6),
        "4": document("A", y=1),
    }
    shared, pairs, scores = measure_context.score_tables([first, second], 1)
    assert (shared, pairs) == (["1", "2"], [("A", "x"), ("A", "y")])
    np.testing.assert_array_equal(scores, [[[1, 3], [2, np.nan]], [[9, 7], [8, np.nan]]])
    assert measure_context.score_tables([first, second], 2)[1] == [("A", "x")]


def test_agreement_is_spearmans():
    generator = np.random.default_rng(5)
    svm = generator.normal(size=(30, 12))
    scores = np.stack([svm + generator.normal(size=(30, 12)), svm, -svm])
    svm[:, :3] = np.nan  # only documents with both count
    pairs, arguments = (
        [("math.AG", f"word{n}") for n in range(30)],
        SimpleNamespace(n_resamples=500, seed=0),
    )
    rows = measure_context.agreement(["m", "same", "turned"], pairs, scores, svm, arguments)
    expected = stats.spearmanr(scores[0][:, 3:].mean(axis=1), svm[:, 3:].mean(axis=1))
    assert rows[0]["rho"] == pytest.approx(expected.statistic) and rows[0]["difference"] is None
    assert rows[0]["low"] < rows[0]["rho"] < rows[0]["high"] and rows[0]["words"] == 30
    assert rows[1]["rho"] == pytest.approx(1) and rows[2]["rho"] == pytest.approx(-1)
    assert rows[1]["difference"]["p"] < 0.01 and rows[2]["difference"]["value"] < 0
    assert abs(rows[0]["differ_most"][0]["rank_difference"]) >= abs(
        rows[0]["differ_most"][1]["rank_difference"]
    )
    assert (
        measure_context.agreement(["m"], pairs[:19], scores[:1, :19], svm[:19], arguments) == []
    )  # too few words


def test_agreement_and_function_words_are_of_the_files(everything, attributions, runs):
    result = read(everything)
    model = skops.io.load(runs / "svm" / "model.skops")
    row = result["agreement"][0]
    assert result["agreement_svm"] == {"name": "svm", "order_free": True}
    lines, other = (
        [
            json.loads(line)
            for line in (attributions / name / "attributions.jsonl").read_text().splitlines()
        ]
        for name in ("steep", "flat")
    )
    shared = [
        a for a, b in zip(lines, other, strict=True) if a["target"] == b["target"] == row["class"]
    ]
    part = row["differ_most"][0]
    column = model["counts"].vocabulary_[part["word"]]
    own = [line for line in shared if part["word"] in map(str.lower, line["words"])]
    tfidf = (
        model["tfidf"]
        .transform(model["counts"].transform([line["text"] for line in own]))
        .toarray()[:, column]
    )
    coefficient = model["svm"].coef_[LABELS.index(row["class"]), column]
    assert part["svm"] == pytest.approx(np.mean(coefficient * tfidf)) and len(own) >= 3
    means = []
    for line in own:
        means.append(np.mean([score for word, score in zip(line["words"], line["word_attributions"], strict=True)
                              if word.lower() == part["word"]]))  # fmt: skip
    assert part["attribution"] == pytest.approx(np.mean(means))
    shares = []
    for line in lines:
        pairs = [(word.lower(), abs(score)) for word, score in
                 zip(line["words"], line["word_attributions"], strict=True) if re.search(r"\w", word)]  # fmt: skip
        functions = sum(
            score for word, score in pairs if word in measure_context.ENGLISH_STOP_WORDS
        )
        shares.append(functions / sum(score for _, score in pairs))
    model = next(part for part in result["attribution"] if part["name"] == row["model"])
    assert model["function_share"]["mean"] == pytest.approx(np.mean(shares))


def test_a_words_own_class_counts(attributions, everything):
    """Without a layer a word's attribution to one class comes from the word nearly alone."""
    flat = next(part for part in read(everything)["attribution"] if part["name"] == "flat")
    assert (
        flat["all"]["icc"] > 0.5 and flat["all"]["low"] < flat["all"]["icc"] < flat["all"]["high"]
    )
    steep = next(part for part in read(everything)["attribution"] if part["name"] == "steep")
    assert flat["all"]["groups"] == steep["all"]["groups"]  # the same words


# Statistics: error rates by simulation


def share_within(share, low=0.03, high=0.07):
    assert low <= share <= high, share


def test_false_positives_and_coverage_of_the_order_test():
    generator = np.random.default_rng(11)
    hits, covered, macro_hits = 0, 0, 0
    for seed in range(SIMULATIONS):
        labels = generator.choice(3, 200, p=[0.5, 0.3, 0.2])
        chance = generator.beta(4, 1, 200)  # easy and hard documents
        right = generator.random((4, 200)) < chance
        predictions = np.where(right, labels, (labels + generator.integers(1, 3, (4, 200))) % 3)
        accuracy, f1 = measure_context.bootstrap(labels, predictions, 3, 400, seed)
        for values, macro in ((accuracy, False), (np.nanmean(f1, axis=-1), True)):
            test = measure_context.difference_test(values[:, 1:].mean(axis=1) - values[:, 0])
            hits += test["p"] < 0.05 and not macro
            macro_hits += test["p"] < 0.05 and macro
            covered += test["low"] <= 0 <= test["high"] and not macro
    share_within(hits / SIMULATIONS)
    share_within(macro_hits / SIMULATIONS)
    share_within(covered / SIMULATIONS, 0.93, 0.97)


@pytest.mark.parametrize("shape", ["heavy tails", "skewed"])
def test_false_positives_and_coverage_of_the_phrase_test(shape):
    """Documents differ in level and spread; a phrase and its controls are exchangeable within a document."""
    generator, hits, covered = np.random.default_rng(12), 0, 0
    for seed in range(SIMULATIONS):
        size = (20, 6)
        noise = (
            generator.standard_t(3, size)
            if shape == "heavy tails"
            else generator.exponential(size=size)
        )
        groups = generator.normal(size=(20, 1)) + noise * generator.gamma(2, size=(20, 1))
        result = measure_context.sign_flip_test(
            (groups[:, 0] - groups[:, 1:].mean(axis=1)).tolist(), 399, seed
        )
        hits += result["p"] < 0.05
        covered += result["low"] <= 0 <= result["high"]
    share_within(hits / SIMULATIONS)
    share_within(covered / SIMULATIONS, 0.92, 0.97)


def attributed_scores(generator, effects, documents, noise):
    """Scores of words in documents, each document with its own scale; a word is absent from many documents."""
    shape = (len(effects), documents)
    error = (
        generator.normal(size=shape) if noise == "normal" else generator.standard_t(2, shape) / 2
    )
    scores = (effects[:, None] + error) * generator.gamma(4, 1 / 4, size=documents)
    return np.where(generator.random(shape) < 0.4, scores, np.nan)


def ranked(scores):
    """Ranks from 0 to 1, as attribution_statistics() computes them."""
    present = ~np.isnan(scores)
    scores[present] = stats.rankdata(scores[present]) / present.sum()
    return scores


@pytest.mark.parametrize("noise", ["normal", "heavy tails"])
@pytest.mark.parametrize("spread", [0.7, 2.0])
def test_coverage_of_the_intraclass_correlation(noise, spread):
    generator, covered = np.random.default_rng(13), 0
    effects = spread * generator.normal(size=40)
    large = ranked(attributed_scores(generator, effects, 10_000, noise))
    between, within = np.ravel(measure_context.variance_components(large, np.ones((1, 10_000))))
    for seed in range(SIMULATIONS // 2):
        scores = ranked(attributed_scores(generator, effects, 80, noise))
        result = measure_context.intraclass_correlation(scores, 200, seed)
        covered += result["low"] <= between / (between + within) <= result["high"]
    share_within(2 * covered / SIMULATIONS, 0.92, 0.97)


@pytest.mark.parametrize("correlation", [0, 0.6])
def test_false_positives_and_coverage_of_the_agreement(correlation):
    """Two models that agree with the SVM equally well; words are a sample. With no correlation both tests are null."""
    generator, arguments = np.random.default_rng(14), SimpleNamespace(n_resamples=300, seed=0)
    expected, hits, differences, covered = 6 / np.pi * np.arcsin(correlation / 2), 0, 0, 0
    pairs = [("c", f"w{number}") for number in range(40)]
    for _ in range(SIMULATIONS):
        svm, *own = generator.normal(size=(3, 40, 1))
        models = [correlation * svm + np.sqrt(1 - correlation**2) * values for values in own]
        scores = np.stack(models) ** 3  # heavy tails do not matter to ranks
        first, second = measure_context.agreement(["a", "b"], pairs, scores, svm, arguments)
        hits += first["p"] < 0.05
        differences += second["difference"]["p"] < 0.05
        covered += first["low"] <= expected <= first["high"]
    share_within(differences / SIMULATIONS)
    share_within(covered / SIMULATIONS, 0.92, 0.97)
    assert 0.03 <= hits / SIMULATIONS <= 0.07 or (correlation and hits / SIMULATIONS > 0.9)


def test_additive_surrogate_finds_the_share_of_interactions():
    """F = sum of words + interactions of known variance: R2 is unbiased, and its interval over documents covers."""
    generator, covered, means = np.random.default_rng(15), 0, []
    for _ in range(SIMULATIONS // 4):
        values = []
        for _ in range(15):
            share, words = generator.beta(4, 2), generator.integers(8, 15)
            kept = generator.random((2 * words + 20, words)) < 0.5
            signs = 2 * kept - 1
            linear, pairs = generator.normal(size=words), generator.normal(size=(words, words))
            pairs = np.triu(pairs, 1)
            linear *= np.sqrt(share / (linear**2).sum())
            pairs *= np.sqrt((1 - share) / (pairs**2).sum())
            values.append(
                measure_context.additive_r2(
                    kept, signs @ linear + ((signs @ pairs) * signs).sum(axis=1)
                )
            )
        result = measure_context.mean_interval(values)
        means.append(result["mean"])
        covered += result["low"] <= 4 / 6 <= result["high"]
    assert np.mean(means) == pytest.approx(4 / 6, abs=0.02)
    share_within(4 * covered / SIMULATIONS, 0.91, 0.98)
    assert measure_context.additive_r2(kept, np.ones(len(kept))) is None
    assert measure_context.additive_r2(kept, kept @ np.arange(words) + 3.0) == pytest.approx(1)


def test_holm_over_the_sizes(everything):
    for run in read(everything)["order"]:
        tests = [condition["accuracy"] for condition in run["conditions"]]
        expected = multipletests([test["p"] for test in tests], method="holm")[1]
        assert [test["p_holm"] for test in tests] == pytest.approx(expected.tolist())


# Bad input


def test_bad_flags(context, tmp_path):
    assert_user_error(context(tmp_path / "o", "--n_shufles", 3), "--n_shufles", "--n_shuffles")
    assert_user_error(context(tmp_path / "o", "--n_shuffles", 0), "n_shuffles", "1")
    assert_user_error(context(tmp_path / "o", "--block_sizes", 0), "block_sizes")
    assert_user_error(context(tmp_path / "o", "--phrases", "metric"), "'metric'", "two words")
    assert_user_error(
        context(tmp_path / "o", "--phrases", "unit disk", "of course"),
        "unit disk",
        "of course",
        "not in",
    )
    assert_user_error(context(tmp_path / "o", "--max_seq_length", 1000), "1000", "128")
    assert_user_error(context(tmp_path / "o", "--split", "dev"), "'dev'", "test")
    assert_user_error(context(tmp_path / "o", "--text_column_names", "body"), "'body'", "abstract")
    assert_user_error(context(tmp_path / "o", "--max_samples", 19), "19", "20")
    assert_user_error(context(tmp_path / "o", "--attributions", tmp_path), "attributions.jsonl")
    assert_user_error(
        context(tmp_path / "o", "--compare", tmp_path / "nothing"), "nothing", "model.skops"
    )


def test_phrases_that_do_not_occur_are_named(context, tmp_path):
    result = context(tmp_path / "out", "--phrases", "Convex bundle", "moduli stack")
    assert result.code == 0 and "'moduli stack'" in result.log
    assert read(tmp_path / "out")["phrases"]["not_found"] == ["moduli stack"]


def test_panel_without_anything_to_show_says_so(everything, monkeypatch):
    monkeypatch.setattr(
        measure_context,
        "png",
        lambda figure: [[text.get_text() for text in axes.texts] for axes in figure.axes],
    )
    result = read(everything)
    assert not any("left out" in texts for texts in measure_context.draw(result))
    for model in result["attribution"]:
        model.update(dict.fromkeys(measure_context.WORD_KINDS))
    result |= {"agreement": [], "windows": []}
    assert ["left out" in texts for texts in measure_context.draw(result)] == [
        False,
        True,
        False,
        False,
        True,
        True,
    ]


def test_phrases_of_few_documents_are_tested_together_only(context, documents, tmp_path):
    texts = load_dataset(str(documents), split="test")["abstract"]
    pairs = Counter(
        pair for text in texts for pair in {*pairwise(re.findall(r"\w+", text.lower()))}
    )
    rare = [" ".join(pair) for pair, number in pairs.items() if 2 <= number <= 5]
    result = context(tmp_path / "out", "--phrases", *rare)
    assert result.code == 0, result.err
    phrases = read(tmp_path / "out")["phrases"]
    assert len(phrases["phrases"]) == len(rare) and phrases["against_moved"]["tested"] == 0
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
    assert_user_error(
        context(tmp_path / "o", dataset=write_dataset(tmp_path / "double", records)),
        "duplicated",
        "mg.00079",
    )
    records = make_records(80)
    records[-1]["abstract"] = " "
    assert_user_error(
        context(tmp_path / "o", dataset=write_dataset(tmp_path / "empty", records)), "no text"
    )


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
    result = run(
        "measure_context",
        "--statistics_only",
        "--output_dir",
        tmp_path / "out",
        "--attributions",
        tmp_path / "bad",
    )
    assert_user_error(result, "bad", "run_attribution.py")
    assert read(tmp_path / "out") == read(everything)


def test_attributions_that_cannot_be_compared(everything, run, attributions, tmp_path):
    shutil.copytree(everything, tmp_path / "out")
    only = [
        "--statistics_only",
        "--output_dir",
        tmp_path / "out",
        "--attributions",
        attributions / "steep",
    ]
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
    assert result["agreement"] == [] and all(row["all"] is None for row in result["attribution"])
    assert any(
        "Documents that all models explain for the same class: 0." in text
        for text in result["left_out"]
    )


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


def test_evaluations_of_an_earlier_version_are_read(everything, run, tmp_path):
    shutil.copytree(everything, tmp_path / "out")
    path = tmp_path / "out" / "evaluations" / "index.json"
    index = json.loads(path.read_text())
    for part in index["runs"]:
        del part["windows"], part["additive_r2"], part["commit"]
    index["arguments"] |= {"render": True, "text_column_names": "abstract"}
    for name in (
        "window_sizes",
        "n_surrogate_documents",
        "phrase_split",
        "model_revision",
        "dataset_revision",
    ):
        del index["arguments"][name]
    path.write_text(json.dumps(index))
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    again, before = read(tmp_path / "out"), read(everything)
    assert again["windows"] == again["surrogates"] == [] and "earlier version" in " ".join(
        again["left_out"]
    )
    for key in ("phrases", "attribution", "agreement"):
        assert again[key] == before[key]


def test_full_disk_is_one_line(context, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("common.folders.write", full)
    assert_user_error(context(tmp_path / "o"), "No space left", "again")


# Models that a practitioner has


DECODER = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.2}
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "initializer_range": 0.2}
BART = {
    "d_model": 32,
    "init_std": 0.2,
    "eos_token_id": 3,
    "bos_token_id": 2,
    "decoder_start_token_id": 3,
}
BART |= {f"{side}_{name}": value for side in ("encoder", "decoder")
         for name, value in {"layers": 2, "attention_heads": 2, "ffn_dim": 64}.items()}  # fmt: skip
ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
ENCODER |= {"initializer_range": 0.2, "max_position_embeddings": 130, "pad_token_id": 0}
FAMILIES = {
    "decoder": (GPT2Config, DECODER | {"pad_token_id": 0}),
    "decoder without PAD": (GPT2Config, DECODER),
    "roberta": (RobertaConfig, ENCODER),
    "xlnet": (XLNetConfig, XLNET),
    "bart": (BartConfig, BART | {"pad_token_id": 0}),
}


def write_family(folder, tokenizer_folder, config_class, settings):
    """A random classifier of a family with the tiny word-level tokenizer."""
    tokenizer, classes = AutoTokenizer.from_pretrained(tokenizer_folder), dict(enumerate(LABELS))
    labels = {"id2label": classes, "label2id": {name: number for number, name in classes.items()}}
    torch.manual_seed(0)
    config = config_class(vocab_size=len(tokenizer), **labels, **settings)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_and_masked_words_do_not_change_what_a_model_classifies(
    family, runs, documents, tmp_path
):
    """Decoders classify the last token that is not PAD: neither padding nor a masked last word may move it."""
    write_family(tmp_path / "runs" / "model", runs / "steep", *FAMILIES[family])
    run, _, _ = loaded(tmp_path / "runs", documents, "model")
    inputs = measure_context.encode(run, run.words, list(range(len(run.words))))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "runs" / "model").eval()
    with torch.no_grad():
        expected = np.concatenate(
            [model(input_ids=torch.tensor([ids])).logits.numpy() for ids in inputs]
        )
    with tqdm(disable=True) as bar:
        values = measure_context.evaluate(run, inputs, tmp_path, 32, bar)
        masked = [
            measure_context.join_tokens(run, words, frozenset({len(words) - 1}))
            for words in run.words
        ]
        together = measure_context.evaluate(run, masked, tmp_path, 32, bar)
        alone = np.concatenate(
            [measure_context.evaluate(run, [ids], tmp_path, 1, bar) for ids in masked]
        )
    np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together - values).max() > 0.05
    assert family not in ("xlnet", "bart") or measure_context.evaluate_windows(
        run, None, tmp_path
    ) == ([], None)
    if family.startswith("decoder"):
        with torch.no_grad():
            model.config.pad_token_id = (
                -1
            )  # so that it classifies the last token, also if it is PAD
            expected = np.concatenate(
                [model(input_ids=torch.tensor([ids])).logits.numpy() for ids in masked]
            )
        np.testing.assert_allclose(together, expected, atol=1e-5)


def test_tokenizer_without_padding_token(context, runs, tmp_path):
    folder = write_family(tmp_path / "decoder", runs / "steep", *FAMILIES["decoder without PAD"])
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}))
    assert context(tmp_path / "out", model=folder).code == 0
    result = read(tmp_path / "out")
    assert (
        "no padding token" in result["left_out"][0]
        and result["order"][0]["conditions"][0]["max_change"] > 0.01
    )
    assert_user_error(
        context(tmp_path / "o", "--phrases", "convex bundle", model=folder),
        "--phrases",
        "padding token",
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_model_without_finite_logits(context, runs, tmp_path, value):
    model = AutoModelForSequenceClassification.from_pretrained(runs / "steep")
    model.classifier.bias.data[1] = value
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(runs / "steep").save_pretrained(tmp_path / "broken")
    assert_user_error(
        context(tmp_path / "o", model=tmp_path / "broken"), "broken", "NaN or infinite"
    )


def test_svm_of_other_classes_or_in_another_order(context, runs, tmp_path):
    header = ["id", "label", "prediction"]
    for name, classes in {
        "same": LABELS,
        "turned": LABELS[::-1],
        "other": ["cs.AI", *LABELS[1:]],
    }.items():
        shutil.copytree(runs / "svm", tmp_path / name)
        (tmp_path / name / "predictions.csv").write_text(",".join(header + classes) + "\n")
    assert_user_error(
        context(tmp_path / "o", "--compare", tmp_path / "other"), "cs.AI", "math.AG", "classes"
    )
    assert (
        context(
            tmp_path / "out", "--compare", tmp_path / "same", tmp_path / "turned", "--n_phrases", 0
        ).code
        == 0
    )
    same, turned = (
        np.load(tmp_path / "out" / "evaluations" / f"order-{number}.npy") for number in (1, 2)
    )
    np.testing.assert_array_equal(same, turned[:, :, ::-1])
    assert_user_error(
        context(tmp_path / "o", "--max_seq_length", 9, model="svm"), "--max_seq_length", "encoders"
    )
    assert_user_error(context(tmp_path / "o", "--bf16", model="svm"), "--bf16", "encoders")
    assert_user_error(
        context(tmp_path / "o", "--phrases", "convex bundle", model="svm"), "--phrases", "encoder"
    )


def test_hostile_class_names_and_paths_with_blanks(run, tmp_path, monkeypatch):
    labels = ["<script>alert(1)</script>", "=1+1", "$x$", "a, b", "Ünïcode | class"]
    write_dataset(tmp_path / "my data", make_records(80), labels=labels)
    for folder in ("one", "two"):
        write_tiny_model(
            tmp_path / "my runs" / folder / "<b>model $1", labels=labels, initializer_range=0.3
        )
    models = [tmp_path / "my runs" / folder / "<b>model $1" for folder in ("one", "two")]
    flags = ["--dataset_name", tmp_path / "my data", "--compare", models[1], "--n_phrases", 2, *FEW]
    result = run(
        "measure_context",
        "--model_name_or_path",
        models[0],
        "--output_dir",
        tmp_path / "my out",
        *flags,
    )
    assert result.code == 0, result.err
    assert [part["name"] for part in read(tmp_path / "my out")["order"]] == [
        "one/<b>model $1",
        "two/<b>model $1",
    ]
    page, summary, record = (
        (tmp_path / "my out" / f"context.{kind}").read_text() for kind in ("html", "md", "json")
    )
    assert (
        "<script>" not in page + summary
        and "<b>" not in page + summary
        and "&lt;script&gt;" in page
    )
    assert str(tmp_path) not in page + summary + record  # no path of this machine is published


def test_columns_other_than_those_of_the_training_are_named(context, runs, tmp_path):
    shutil.copytree(runs / "steep", tmp_path / "steep")
    (tmp_path / "steep" / "run_arguments.json").write_text(
        json.dumps({"text_column_names": ["title,abstract"]})
    )
    result = context(tmp_path / "out", "--n_phrases", 0, model=tmp_path / "steep")
    assert result.code == 0 and "was trained on ['title', 'abstract']" in result.log
    result = context(
        tmp_path / "out",
        "--n_phrases",
        0,
        "--text_column_names",
        "title",
        "abstract",
        model=tmp_path / "steep",
    )
    assert result.code == 0 and "was trained on" not in result.log


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
        for module, name, value in (("huggingface_hub.constants", "HF_HUB_CACHE", str(tmp_path / "home" / "hub")),
                                    ("datasets.config", "HF_HUB_OFFLINE", False),
                                    ("datasets.config", "HF_ENDPOINT", hub.url)):  # fmt: skip
            monkeypatch.setattr(f"{module}.{name}", value)
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


# Interruptions


def test_killed_command_continues_to_the_same_bytes(run, documents, runs, tmp_path, monkeypatch):
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
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    process = subprocess.Popen(
        [sys.executable, ROOT / "tools" / "measure_context.py", *command],
        cwd=tmp_path / "killed", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    cache = tmp_path / "killed" / "out" / "evaluations"
    while process.poll() is None and len(list(cache.glob("*.npy"))) < 2:
        time.sleep(0.002)
    process.kill()
    process.wait()
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
    for path in (tmp_path / "out" / "evaluations").glob("*.npy"):
        path.write_bytes(path.read_bytes()[:-50])
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "out")
    assert_user_error(result, "evaluations", "out")
    assert context(tmp_path / "out", "--n_phrases", 2).code == 0
    assert (tmp_path / "out" / "context.json").read_bytes() == first


def test_statistics_only_takes_other_resamples_and_no_other_models(
    context, run, everything, tmp_path
):
    shutil.copytree(everything, tmp_path / "out")
    only = ["--statistics_only", "--output_dir", tmp_path / "out"]
    assert run("measure_context", *only).code == 0
    again, before = read(tmp_path / "out"), read(everything)
    assert {**again, "arguments": None} == {**before, "arguments": None}
    assert (
        run(
            "measure_context", *only, "--n_resamples", 200, "--min_occurrences", 4, "--seed", 42
        ).code
        == 0
    )
    again = read(tmp_path / "out")
    assert (
        again["attribution"][0]["min_occurrences"] == 4 and again["arguments"]["n_resamples"] == 200
    )
    assert (
        again["order"][0]["accuracy"]["low"] != before["order"][0]["accuracy"]["low"]
        or again != before
    )
    assert_user_error(
        run("measure_context", *only, "--n_shuffles", 3), "--n_shuffles 3", "--statistics_only"
    )
    assert_user_error(run("measure_context", *only, "--bf16"), "--bf16", "--statistics_only")
    assert_user_error(
        run("measure_context", "--output_dir", tmp_path / "o"), "--model_name_or_path", "required"
    )


def test_intervals_from_few_documents_are_not_reported(everything, tmp_path, run, attributions):
    shutil.copytree(everything, tmp_path / "out")
    few = shutil.copytree(attributions / "flat", tmp_path / "few")
    lines = (few / "attributions.jsonl").read_text().splitlines(keepends=True)
    (few / "attributions.jsonl").write_text("".join(lines[:8]))
    result = run("measure_context", "--statistics_only", "--output_dir", tmp_path / "out", "--attributions", few,
                 "--min_occurrences", 2)  # fmt: skip
    assert result.code == 0, result.err
    (model,) = read(tmp_path / "out")["attribution"]
    assert model["all"]["low"] is model["function_share"]["high"] is None
    summary = (tmp_path / "out" / "context.md").read_text()
    assert "no 95 % interval: fewer than 10 documents" in summary


# The page in a browser


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
