"""measure_faithfulness.py: the measures against their definitions, interrupted calls, the table,
bad folders.
"""

import json
import math
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import scipy
import torch
from conftest import (
    LABELS,
    OWN_WORDS,
    ROOT,
    SHARED_WORDS,
    assert_user_error,
    make_records,
    write_dataset,
    write_tiny_model,
)
from safetensors.torch import load_file, save_file
from test_render_attributions import call
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import measure_faithfulness
from common.folders import locked_folder
from common.pages import interval_text
from faithfulness import baselines, estimates, methods, mosaics, perturbations

TEXTS = [
    "we prove that the ricci curvature of a compact polytope is convex .",
    "every scheme bounds a floer volume",
]
WORDS = "convex floer scheme polytope ricci bundle geodesic boundary moduli volume".split()


@pytest.fixture(scope="module")
def steep_model(tmp_path_factory):
    """A random classifier whose prediction changes when words are left out."""
    return write_tiny_model(tmp_path_factory.mktemp("steep"), seed=3, initializer_range=0.4)


@pytest.fixture(scope="module")
def attributed(steep_model, tmp_path_factory):
    """A folder of run_attribution.py with 12 documents; copied for each test."""
    folder = tmp_path_factory.mktemp("attributed") / "out"
    texts = [
        *TEXTS,
        *(
            f"the {word} of a {other}"
            for word, other in zip(WORDS, WORDS[1:] + WORDS[:1], strict=True)
        ),
    ]
    flags = ["--text", *texts, "--n_steps", 30, "--disable_tqdm"]
    call("run_attribution", "--model_name_or_path", steep_model, "--output_dir", folder, *flags)
    return folder


@pytest.fixture
def folder(attributed, tmp_path):
    """The attribution folder, nothing measured yet."""
    return shutil.copytree(attributed, tmp_path / "out")


@pytest.fixture
def small_folder(folder):
    """The first two documents of the attribution folder."""
    lines = (folder / "attributions.jsonl").read_text().splitlines(keepends=True)
    (folder / "attributions.jsonl").write_text("".join(lines[:2]))
    return folder


def measured(folder):
    return json.loads((folder / "faithfulness.json").read_text())


def test_measures_are_those_of_the_definitions(run, small_folder, steep_model):
    """Comprehensiveness, sufficiency and tau of the first document, one text after the other
    through the model.
    """
    folder = small_folder
    assert run("measure_faithfulness", "--attribution_dir", folder, "--random_orders", 3).code == 0
    line = json.loads((folder / "attributions.jsonl").read_text().split("\n")[0])
    tokenizer = AutoTokenizer.from_pretrained(steep_model)
    model = AutoModelForSequenceClassification.from_pretrained(steep_model).eval()
    target = model.config.label2id[line["target"]]

    def evaluated(gone):
        ids = torch.tensor([tokenizer(line["text"])["input_ids"]])
        for token, word in enumerate(line["word_ids"]):
            if word in gone:
                ids[0, token] = tokenizer.pad_token_id
        logits = model(ids).logits[0]
        return logits[target].item(), logits.softmax(0)[target].item()

    scores, words = line["word_attributions"], set(range(len(line["words"])))
    whole = evaluated(set())
    without, alone = [], []
    for fraction in (0.05, 0.1, 0.2, 0.5):
        best = set(
            sorted(words, key=lambda word: -scores[word])[: math.ceil(fraction * len(words))]
        )
        without.append(whole[1] - evaluated(best)[1])
        alone.append(whole[1] - evaluated(words - best)[1])
    tau = scipy.stats.kendalltau(
        scores, [whole[0] - evaluated({word})[0] for word in sorted(words)]
    ).statistic
    found = measured(folder)["per_document"][0]["integrated gradients"]
    assert found["comprehensiveness"] == pytest.approx(np.mean(without), abs=1e-5)
    assert found["sufficiency"] == pytest.approx(np.mean(alone), abs=1e-5)
    assert found["tau_leave_one_out"] == pytest.approx(tau, abs=1e-6)


def test_infidelity_is_what_the_best_scaling_leaves_unexplained():
    """Against least squares without an intercept; 0 for scores that add up to the loss, 1 for no
    scores.
    """
    generator = np.random.default_rng(0)
    removed = generator.random((40, 6)) < 0.4
    scores, lost = generator.normal(size=6), generator.normal(size=40)
    sums = removed @ scores
    left = np.linalg.lstsq(sums[:, None], lost, rcond=None)[1][0]
    assert perturbations.unexplained(scores, removed, lost) == pytest.approx(left / (lost**2).sum())
    assert perturbations.unexplained(scores, removed, 3 * sums) == pytest.approx(0, abs=1e-12)
    assert perturbations.unexplained(np.zeros(6), removed, lost) == pytest.approx(1)
    assert math.isnan(perturbations.unexplained(scores, removed, np.zeros(40)))


def test_infidelity_is_that_of_captum():
    """captum's infidelity with normalize, divided by the mean square of the loss."""
    captum = pytest.importorskip("captum.metrics")
    generator = np.random.default_rng(1)
    removed, scores = generator.random((30, 5)) < 0.5, generator.normal(size=5)
    lost, sets = torch.from_numpy(generator.normal(size=30)), torch.from_numpy(removed).double()
    error = captum.infidelity(
        lambda kept: -lost if len(kept) > 1 else torch.zeros(1, dtype=torch.float64),
        lambda _: (sets, 1 - sets),
        torch.ones(1, 5, dtype=torch.float64),
        torch.from_numpy(scores)[None],
        n_perturb_samples=30,
        normalize=True,
    )
    found = perturbations.unexplained(scores, removed, lost.numpy())
    assert found == pytest.approx(float(error / lost.square().mean()))


def test_table_in_summary_and_page_and_the_same_twice(run, folder):
    for _ in range(2):
        result = run(
            "measure_faithfulness", "--attribution_dir", folder, "--internal_batch_size", 7
        )
        assert result.code == 0 and "next: python tools/render_attributions.py" in result.log
        content = measured(folder)
        table = content["rankings"]
        assert json.loads((folder / "summary.json").read_text())["faithfulness"] == table
    assert list(table) == [
        "integrated gradients", "gradient x input", "random", "integrated gradients minus random"
    ]  # fmt: skip
    for cells in table.values():
        for cell in cells.values():
            assert cell["low"] <= cell["mean"] <= cell["high"] and cell["documents"] == 12
    rows = [line["random"]["sufficiency"] for line in content["per_document"]]
    assert table["random"]["sufficiency"]["mean"] == pytest.approx(np.mean(rows))
    assert str(folder) not in (folder / "faithfulness.json").read_text()
    assert run("render_attributions", "--attribution_dir", folder).code == 0
    page = (folder / "attributions.html").read_text()
    assert "tau leave one out" in page
    method = "the paired t-test over the documents"
    assert method in content["statistics"] and method in page and "ootstrap" not in page
    content["run"] = "another"
    (folder / "faithfulness.json").write_text(json.dumps(content))
    run("render_attributions", "--attribution_dir", folder)
    assert "tau leave one out" not in (folder / "attributions.html").read_text()


def test_no_interval_from_few_documents(run, small_folder):
    """Below 10 documents an interval means nothing: none is written or shown, and the page
    says why.
    """
    assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
    content = measured(small_folder)
    cell = content["rankings"]["integrated gradients"]["sufficiency"]
    assert cell["low"] is None and cell["high"] is None and cell["documents"] == 2
    assert run("render_attributions", "--attribution_dir", small_folder).code == 0
    page = (small_folder / "attributions.html").read_text()
    assert f"{cell['mean']:.3f}</td>" in page and "Student's" not in page
    assert "not reported for fewer than 10 documents" in page


def test_an_interrupted_measurement_continues(run, folder, monkeypatch):
    """Stopped after three documents: the second call measures the others, and the result is the
    same.
    """
    assert run("measure_faithfulness", "--attribution_dir", folder).code == 0
    whole, measure, calls = measured(folder), measure_faithfulness.measure, []
    (folder / "faithfulness.json").unlink()

    def interrupted(*arguments):
        calls.append(1)
        return measure(*arguments) if len(calls) != 4 else 1 / 0

    monkeypatch.setattr(measure_faithfulness, "measure", interrupted)
    with pytest.raises(ZeroDivisionError):
        run("measure_faithfulness", "--attribution_dir", folder)
    assert not (folder / "faithfulness.json").exists()
    (partial,) = (folder / "partial-faithfulness").iterdir()
    partial.write_text(partial.read_text() + '{"integrated gra')  # killed while writing a line
    assert run("measure_faithfulness", "--attribution_dir", folder).code == 0
    assert len(calls) == 4 + 9
    again = measured(folder)
    assert again["per_document"] == whole["per_document"] and again["rankings"] == whole["rankings"]
    assert again["forward_evaluations"] == whole["forward_evaluations"]
    assert again["differences"] == whole["differences"]
    assert not (folder / "partial-faithfulness").exists()


def test_an_interrupted_measurement_of_other_scores_is_not_continued(
    run, small_folder, monkeypatch
):
    """The attributions were edited in between: all of them are measured again."""
    measure = measure_faithfulness.measure
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        return measure(*arguments) if len(calls) != 2 else 1 / 0

    monkeypatch.setattr(measure_faithfulness, "measure", interrupted)
    with pytest.raises(ZeroDivisionError):
        run("measure_faithfulness", "--attribution_dir", small_folder)
    lines = (small_folder / "attributions.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["word_attributions"] = first["word_attributions"][::-1]
    lines[0] = json.dumps(first)
    (small_folder / "attributions.jsonl").write_text("\n".join(lines) + "\n")
    assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
    assert len(calls) == 2 + 2


def test_results_of_other_documents_are_not_taken(run, small_folder, monkeypatch):
    """Lines of two processes among each other's, and those without an id of earlier versions."""
    assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
    whole = measured(small_folder)
    monkeypatch.setattr(measure_faithfulness, "remove_partial", lambda file: None)
    assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
    monkeypatch.undo()
    (partial,) = (small_folder / "partial-faithfulness").iterdir()
    first, second = partial.read_text().splitlines()
    without_id = json.dumps(json.loads(first)["result"])
    for lines in ([second, first], [first, first], [without_id, second]):
        partial.parent.mkdir(exist_ok=True)
        partial.write_text("\n".join(lines) + "\n")
        assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
        assert measured(small_folder)["per_document"] == whole["per_document"]
    # One that was interrupted with other flags is not lost.
    other = small_folder / "partial-faithfulness" / f"{'0' * 16}.jsonl"
    other.parent.mkdir()
    other.write_text(first)
    assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
    assert other.read_text() == first


def test_two_processes_on_one_folder(small_folder, fork_client):
    """The second one ends with one line and changes nothing."""
    before = sorted(path.name for path in small_folder.iterdir())
    words = ["tools/measure_faithfulness.py", "--attribution_dir", str(small_folder)]
    with locked_folder(small_folder.resolve()):
        second = subprocess.run(
            [*fork_client, *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert second.returncode == 2 and "another process" in second.stderr
    assert sorted(path.name for path in small_folder.iterdir()) == before


def test_a_model_with_almost_the_same_logits(run, small_folder, steep_model, tmp_path):
    """Another training of the same model is not the one that was attributed."""
    shutil.copytree(steep_model, tmp_path / "other")
    weights = load_file(steep_model / "model.safetensors")
    weights["classifier.bias"] += 1e-4
    save_file(weights, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    flags = ["--attribution_dir", small_folder, "--model_name_or_path", tmp_path / "other"]
    assert_user_error(run("measure_faithfulness", *flags), "other weights", "wrong model")
    assert not (small_folder / "partial-faithfulness").exists()


def test_hostile_model_folders(run, small_folder, steep_model, tmp_path):
    """A pickle is not loaded, and no code of a folder runs or asks whether it may."""
    base = ["measure_faithfulness", "--attribution_dir", small_folder, "--model_name_or_path"]
    pickled = shutil.copytree(steep_model, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert_user_error(run(*base, pickled), "cannot load", "pickled")

    hostile = shutil.copytree(steep_model, tmp_path / "hostile")
    config = json.loads((hostile / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    (hostile / "config.json").write_text(json.dumps(config))
    marker = tmp_path / "marker"
    (hostile / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    result = run(*base, hostile)
    assert_user_error(result, "cannot load", "hostile")
    assert not marker.exists() and "[y/N]" not in result.out


def test_eos_where_a_tokenizer_has_no_pad(run, steep_model, tmp_path):
    """As in run_attribution.py: EOS stands for PAD, and the note and the page say so."""
    model = shutil.copytree(steep_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(model)
    out = tmp_path / "out"
    flags = ["--text", *TEXTS, "--n_steps", 30, "--disable_tqdm"]
    call("run_attribution", "--model_name_or_path", model, "--output_dir", out, *flags)
    assert json.loads((out / "summary.json").read_text())["baseline"] == "EOS"
    assert run("measure_faithfulness", "--attribution_dir", out).code == 0
    assert "replaced with EOS tokens (there is no PAD)" in measured(out)["note"]
    assert run("render_attributions", "--attribution_dir", out).code == 0
    assert "measured from a text of EOS tokens" in (out / "attributions.html").read_text()


def test_only_own_files_are_removed(run, small_folder, tmp_path):
    partial = small_folder / "partial-faithfulness"
    partial.mkdir()
    (partial / "notes.txt").write_text("mine")
    assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
    assert [path.name for path in partial.iterdir()] == ["notes.txt"]
    shutil.rmtree(partial)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/0123456789abcdef.jsonl").write_text("{}")
    partial.symlink_to(tmp_path / "other")
    assert_user_error(run("measure_faithfulness", "--attribution_dir", small_folder), "link")
    assert (tmp_path / "other/0123456789abcdef.jsonl").exists()


SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_labels": 3,
}
SMALL |= {"intermediate_size": 32, "initializer_range": 0.5, "pad_token_id": 1}


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "llama"])
def test_pad_in_the_place_of_a_word_is_not_padding(family):
    """Positions and the token that a decoder classifies stay; computed once more from the
    embeddings themselves.
    """
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SMALL)
    model = AutoModelForSequenceClassification.from_config(config).eval().requires_grad_(False)
    evaluator = measure_faithfulness.Evaluator(model, pad_token_id=1, batch_size=4)
    document = {
        "input_ids": torch.tensor([5, 9, 13, 21, 8]),
        "word_ids": [None, 0, 1, 1, 2],
        "target_id": 2,
    }
    document |= {"versus_id": None, "words": list("abc")}
    removed = np.array(
        [[False, False, False], [False, False, True], [True, False, True], [False, True, False]]
    )
    found = evaluator.without_words(document, removed)
    for row, gone in zip(found, ([], [4], [1, 4], [2, 3]), strict=True):
        ids = document["input_ids"].clone()
        ids[gone] = 1
        embedded = model.get_input_embeddings()(ids[None])
        logits = model(
            inputs_embeds=embedded, attention_mask=torch.ones(1, 5, dtype=torch.long)
        ).logits[0]
        assert row == pytest.approx([logits[2].item(), logits.softmax(0)[2].item()], abs=1e-5)
    settings = methods.MethodSettings(1, n_steps=400, shapley_samples=2, seed=0)
    assert len(methods.gradient_x_input(evaluator, document, settings)) == 3
    scores, error = methods.integrated_gradients(evaluator, document, settings)
    nothing, everything = evaluator.without_words(document, np.array([[False] * 3, [True] * 3]))
    assert error < 0.02
    assert scores.sum() == pytest.approx(nothing[0] - everything[0], rel=0.05, abs=1e-3)


def test_of_several_labels_each_has_its_own_probability():
    """Sigmoid instead of softmax; with a class to compare with, that of the difference."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", problem_type="multi_label_classification", **SMALL)
    model = AutoModelForSequenceClassification.from_config(config).eval().requires_grad_(False)
    evaluator = measure_faithfulness.Evaluator(model, pad_token_id=1, batch_size=4)
    text = torch.tensor([5, 9, 13, 21, 8])
    logits = model(text[None]).logits[0]
    document = {"input_ids": text, "target_id": 2, "versus_id": None}
    found = evaluator.explained(text[None], document)[0]
    assert found.tolist() == pytest.approx([logits[2].item(), logits[2].sigmoid().item()], abs=1e-5)
    probabilities = evaluator.probabilities(text, text)
    assert list(probabilities.values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
    difference = (logits[2] - logits[0]).item()
    found = evaluator.explained(text[None], document | {"versus_id": 0})[0, 0].item()
    assert found == pytest.approx(difference, abs=1e-5)


def test_out_of_memory_halves_the_batch(run, small_folder, monkeypatch):
    assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
    whole, logits, sizes = measured(small_folder), measure_faithfulness.Evaluator.logits, []

    def small_memory(evaluator, ids, text):
        sizes.append(len(ids))
        if len(ids) > 20:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return logits(evaluator, ids, text)

    monkeypatch.setattr(measure_faithfulness.Evaluator, "logits", small_memory)
    assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
    assert max(sizes) == 64 and sizes[-1] <= 16
    found = [line["random"]["sufficiency"] for line in measured(small_folder)["per_document"]]
    assert found == pytest.approx(
        [line["random"]["sufficiency"] for line in whole["per_document"]], abs=1e-6
    )


def test_first_words_and_intervals():
    """At least one word, the ceiling of the share, the largest signed scores first."""
    masks = perturbations.first_words(np.array([0.1, -3.0, 2.0, 0.0, 1.0, 0.5]))
    assert masks.sum(1).tolist() == [1, 1, 2, 3]
    assert masks[-1].tolist() == [False, False, True, False, True, True]
    assert estimates.interval([None]) is None
    found = estimates.interval(list(np.random.default_rng(1).normal(size=400)))
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_few_documents_do_not_make_false_findings():
    """A family of 24 tests without a difference errs in 5 percent of all cases, also with 10
    documents, and intervals cover the mean in 95.
    """
    generator = np.random.default_rng(1)
    families, covered = [], []
    for _ in range(200):
        values = generator.normal(size=(24, 10))
        of_methods = {str(number): list(row) for number, row in enumerate(values)}
        tests = estimates.compare_methods({"m": of_methods | {"ours": [0.0] * 10}}, "ours")
        assert len(tests) == 24
        families.append(min(test["p_holm"] for test in tests) < 0.05)
        for row in values:
            cell = estimates.interval(list(row))
            covered.append(cell["low"] <= 0 <= cell["high"])
    assert 0.01 < np.mean(families) < 0.1
    assert 0.94 < np.mean(covered) < 0.96


def test_the_paired_test_is_scipys():
    first, second = np.random.default_rng(1).normal(size=(2, 15))
    first[3] = np.nan  # a document without a value is in no pair
    values = [None if np.isnan(value) else value for value in first]
    found = estimates.paired_test(estimates.paired(values, list(second)))
    scipys = scipy.stats.ttest_rel(first, second, nan_policy="omit")
    assert found["p"] == pytest.approx(scipys.pvalue) and found["documents"] == 14
    low, high = scipys.confidence_interval()
    assert [found["low"], found["high"]] == pytest.approx([low, high])
    # Equal numbers do not differ by their rounding errors.
    equal = estimates.paired_test([1e-16 * sign for sign in [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1]])
    assert equal["p"] == 1 and equal["difference"] == 0


def test_undefined_values_are_valid_json(run, folder):
    """One word has no rank correlation: null, not NaN, which is not JSON."""
    line = json.loads((folder / "attributions.jsonl").read_text().split("\n")[0])
    tokens, ids = len(line["tokens"]), [None if k is None else 0 for k in line["word_ids"]]
    line |= {
        "without_top_words": None,
        "words": ["all"],
        "word_attributions": [1.0],
        "word_ids": ids,
        "word_spans": [[0, tokens]],
    }
    (folder / "attributions.jsonl").write_text(json.dumps(line) + "\n")
    assert run("measure_faithfulness", "--attribution_dir", folder).code == 0

    def refuse(name):
        raise AssertionError(name)

    content = json.loads((folder / "faithfulness.json").read_text(), parse_constant=refuse)
    assert content["per_document"][0]["integrated gradients"]["tau_leave_one_out"] is None
    assert content["rankings"]["random"]["tau_leave_one_out"] is None
    assert run("render_attributions", "--attribution_dir", folder).code == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"word_ids": None},
        {"word_ids": [0]},
        {"word_attributions": [1.0]},
        {"word_attributions": "x"},
        {"f_input": float("nan")},
        {"text": 3},
        {"target": ["math.DG"]},
    ],
)
def test_a_damaged_document(run, small_folder, changes):
    lines = [
        json.loads(line) for line in (small_folder / "attributions.jsonl").read_text().splitlines()
    ]
    content = json.dumps(lines[0]) + "\n" + json.dumps(lines[1] | changes) + "\n"
    (small_folder / "attributions.jsonl").write_text(content)
    result = run("measure_faithfulness", "--attribution_dir", small_folder)
    assert_user_error(result, f"document {lines[1]['id']} of {small_folder}", "again")
    assert not (small_folder / "faithfulness.json").exists()


def test_bad_folders(run, folder, tmp_path, tiny_model):
    assert_user_error(run("measure_faithfulness", "--attribution_dir", tmp_path / "none"), "none")
    base = ["measure_faithfulness", "--attribution_dir", folder]
    assert_user_error(run(*base, "--random_orders", 0), "--random_orders")
    assert_user_error(run(*base, "--random_orders", 99_999_999_999), "--random_orders", 10_000)
    assert_user_error(run(*base, "--model_name_or_path", tmp_path / "gone"), "gone")
    other = write_tiny_model(tmp_path / "other", labels=["math.NT", "math.GT"])
    assert_user_error(run(*base, "--model_name_or_path", other), "class")
    assert_user_error(run(*base, "--model_name_or_path", tiny_model), "wrong model")
    assert not (folder / "faithfulness.json").exists()
    (folder / "partial-faithfulness").write_text("")  # stands for a folder that cannot be written
    assert_user_error(run(*base), "cannot write")
    (folder / "partial-faithfulness").unlink()
    (folder / "summary.json").write_text("{}")
    assert_user_error(run(*base), "summary.json", "again")
    lines = [
        json.loads(line) | {"words": []}
        for line in (folder / "attributions.jsonl").read_text().splitlines()
    ]
    (folder / "attributions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert_user_error(run(*base), "no document with words")
    (folder / "summary.json").write_text("{")
    assert_user_error(run(*base), "summary.json", "again")


# Perturbations: words replaced and deleted


def test_deleted_words_are_those_of_shorter_texts(run, small_folder, steep_model):
    """Comprehensiveness and sufficiency of the first document, the tokens really taken out."""
    assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
    line = json.loads((small_folder / "attributions.jsonl").read_text().split("\n")[0])
    tokenizer = AutoTokenizer.from_pretrained(steep_model)
    model = AutoModelForSequenceClassification.from_pretrained(steep_model).eval()
    target = model.config.label2id[line["target"]]
    ids = tokenizer(line["text"])["input_ids"]

    def probability(gone):
        left = [k for k, word in zip(ids, line["word_ids"], strict=True) if word not in gone]
        return model(torch.tensor([left])).logits[0].softmax(0)[target].item()

    scores, words = line["word_attributions"], set(range(len(line["words"])))
    lost, kept = [], []
    for fraction in (0.05, 0.1, 0.2, 0.5):
        n = math.ceil(fraction * len(words))
        first = set(sorted(words, key=lambda word: -scores[word])[:n])
        lost.append(probability(set()) - probability(first))
        kept.append(probability(set()) - probability(words - first))
    found = measured(small_folder)["per_document"][0]["integrated gradients"]
    assert found["comprehensiveness_deleted"] == pytest.approx(np.mean(lost), abs=1e-5)
    assert found["sufficiency_deleted"] == pytest.approx(np.mean(kept), abs=1e-5)
    assert found["comprehensiveness_deleted"] != found["comprehensiveness"]


def test_without_the_three_strongest_words(run, small_folder, steep_model):
    """What the page says of a document: the probability without them, replaced and deleted."""
    assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
    line = json.loads((small_folder / "attributions.jsonl").read_text().split("\n")[0])
    found = measured(small_folder)["per_document"][0]["without_strongest"]
    scores = line["word_attributions"]
    best = sorted(range(len(scores)), key=lambda word: -scores[word])[:3]
    best = [word for word in best if scores[word] > 0]
    assert found["words"] == best
    tokenizer = AutoTokenizer.from_pretrained(steep_model)
    model = AutoModelForSequenceClassification.from_pretrained(steep_model).eval()
    ids = tokenizer(line["text"])["input_ids"]
    gone = [word in best for word in line["word_ids"]]
    replaced = [tokenizer.pad_token_id if g else k for k, g in zip(ids, gone, strict=True)]
    left = [k for k, g in zip(ids, gone, strict=True) if not g]
    for key, text in (("probabilities", replaced), ("probabilities_deleted", left)):
        probabilities = model(torch.tensor([text])).logits[0].softmax(0).tolist()
        named = {model.config.id2label[k]: value for k, value in enumerate(probabilities)}
        assert found[key] == pytest.approx(named, abs=1e-5)


def test_where_replacing_and_deleting_disagree_is_said():
    """Only opposite differences that are both shown; agreement is not mentioned."""
    base = {"method": "occlusion", "low": 0.0, "high": 0.0}
    tests = [
        base | {"measure": "comprehensiveness", "difference": 0.2, "p_holm": 0.001},
        base | {"measure": "comprehensiveness_deleted", "difference": -0.1, "p_holm": 0.01},
        base | {"measure": "sufficiency", "difference": -0.2, "p_holm": 0.001},
        base | {"measure": "sufficiency_deleted", "difference": -0.1, "p_holm": 0.01},
    ]
    assert estimates.disagreements(tests) == [
        "Comprehensiveness of integrated gradients against occlusion: larger with words replaced "
        "(+0.200), smaller with words deleted (-0.100)."
    ]
    assert estimates.shown_once(tests) == []


def test_a_difference_that_is_shown_once_is_no_disagreement():
    """Significant against not significant, in either way of taking words away."""
    base = {"method": "occlusion", "low": 0.0, "high": 0.0}
    tests = [
        base | {"measure": "comprehensiveness", "difference": 0.2, "p_holm": 0.001},
        base | {"measure": "comprehensiveness_deleted", "difference": 0.18, "p_holm": 0.06},
        base | {"measure": "sufficiency", "difference": 0.05, "p_holm": 0.7},
        base | {"measure": "sufficiency_deleted", "difference": -0.1, "p_holm": 0.01},
        base | {"measure": "tau_leave_one_out", "difference": 0.1, "p_holm": 0.01},
    ]
    assert estimates.disagreements(tests) == []
    assert estimates.shown_once(tests) == [
        "Comprehensiveness of integrated gradients against occlusion: shown to be larger with "
        "words replaced (+0.200), no difference shown with words deleted (+0.180).",
        "Sufficiency of integrated gradients against occlusion: shown to be smaller with words "
        "deleted (-0.100), no difference shown with words replaced (+0.050).",
    ]
    undecided = [test | {"p_holm": 0.5} for test in tests]
    assert estimates.disagreements(undecided) == estimates.shown_once(undecided) == []


# Other methods


def additive_document(evaluator, scores):
    """A document for a fake evaluator whose logit is a sum over the words that are there."""
    return {"words": [str(k) for k in range(len(scores))], "scores": np.array(scores)}


class AdditiveEvaluator:
    """F = the sum of the scores of the words that are there, plus a bonus for the first two."""

    batch_size = 4
    bonus = 0.0

    def without_words(self, document, removed, token_id=None):
        there = ~removed
        f = there @ document["scores"] + self.bonus * (there[:, 0] & there[:, 1])
        return np.stack([f, f], 1)


def test_occlusion_and_shapley_values_are_those_of_the_definitions():
    """Of a sum, both are its terms; of a bonus for two words, occlusion gives each all of it and
    Shapley values share it.
    """
    evaluator = AdditiveEvaluator()
    document = additive_document(evaluator, [1.0, -2.0, 0.5])
    settings = methods.MethodSettings(0, n_steps=1, shapley_samples=3, seed=0)
    assert methods.occlusion(evaluator, document, settings) == pytest.approx([1, -2, 0.5])
    assert methods.shapley_values(evaluator, document, settings) == pytest.approx([1, -2, 0.5])
    evaluator.bonus = 1.0
    settings.shapley_samples = 400
    assert methods.occlusion(evaluator, document, settings) == pytest.approx([2, -1, 0.5])
    shared = methods.shapley_values(evaluator, document, settings)
    assert shared == pytest.approx([1.5, -1.5, 0.5], abs=0.1) and shared.sum() == pytest.approx(0.5)


def test_methods_are_measured_beside_integrated_gradients(run, folder):
    """One table with costs, paired differences and Holm's correction over all of them."""
    flags = ["--methods", "gradient_x_input", "occlusion", "shapley", "--shapley_samples", 2]
    flags += ["--random_orders", 2]
    assert run("measure_faithfulness", "--attribution_dir", folder, *flags).code == 0
    content = measured(folder)
    others = ["gradient x input", "occlusion", "Shapley values", "random"]
    assert list(content["rankings"]) == [
        "integrated gradients", *others, "integrated gradients minus random"
    ]  # fmt: skip
    tests = content["differences"]
    assert len(tests) == 6 * 4 and {test["method"] for test in tests} == set(others)
    for test in tests:
        assert test["low"] <= test["difference"] <= test["high"] and test["p_holm"] >= test["p"]
        rows = content["per_document"]
        pairs = [
            row["integrated gradients"][test["measure"]] - row[test["method"]][test["measure"]]
            for row in rows
        ]
        assert test["difference"] == pytest.approx(np.mean(pairs), abs=1e-9)
    cost = content["cost"]
    words = np.mean(
        [
            len(json.loads(line)["words"])
            for line in (folder / "attributions.jsonl").read_text().splitlines()
        ]
    )
    assert cost["occlusion"]["forward_evaluations"]["mean"] == pytest.approx(words + 1)
    assert cost["gradient x input"]["gradient_evaluations"]["mean"] == 1
    assert cost["integrated gradients"]["gradient_evaluations"]["mean"] == 30
    assert cost["Shapley values"]["forward_evaluations"]["mean"] >= 2 * (words - 1)
    assert all(cells["seconds"]["mean"] > 0 for cells in cost.values())
    assert content["device"] and content["date"] and content["versions"]["captum"]


def test_methods_that_cannot_be_computed(run, folder, monkeypatch):
    base = ["measure_faithfulness", "--attribution_dir", folder]
    assert_user_error(run(*base, "--methods", "lime"), "--methods lime", "occlusion, shapley")
    twice = ["--methods", "occlusion", "occlusion"]
    assert_user_error(run(*base, *twice), "occlusion twice")
    find_spec = methods.importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(
            methods.importlib.util,
            "find_spec",
            lambda name: None if name == "captum" else find_spec(name),
        )
        assert_user_error(run(*base, "--methods", "occlusion"), "captum", "pip install captum")
        assert_user_error(run(*base, "--n_mosaics", 10), "--n_mosaics requires the package captum")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"baseline": "ZERO"}))
    assert_user_error(run(*base, "--methods", "shapley"), "--methods shapley", "pad or mask")
    (folder / "summary.json").write_text(json.dumps(summary | {"baseline": "MASK"}))
    assert run(*base, "--methods", "occlusion").code == 0
    assert not (folder / "partial-faithfulness").exists()


def test_a_baseline_that_the_tokenizer_lacks(run, small_folder, steep_model, tmp_path):
    model = shutil.copytree(steep_model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.mask_token = None
    tokenizer.save_pretrained(model)
    summary = json.loads((small_folder / "summary.json").read_text())
    (small_folder / "summary.json").write_text(json.dumps(summary | {"baseline": "MASK"}))
    flags = ["--attribution_dir", small_folder, "--model_name_or_path", model]
    assert_user_error(run("measure_faithfulness", *flags), "MASK", "tokenizer", "lacks")


# Figures


def test_figures_of_the_docs_are_those_of_the_file():
    """Scores, differences and agreement of baselines in docs/attribution.md."""
    docs = " ".join((ROOT / "docs" / "attribution.md").read_text(encoding="utf-8").split())
    file = ROOT / "results" / "arxiv-dev" / "baselines-minilm.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    shown = []
    for baseline, of_mosaics in found["mosaics"].items():
        assert f"{of_mosaics['mosaics']} mosaics" in docs
        # The other methods stand in the table with the reference's baseline.
        names = of_mosaics["scores"] if baseline == "PAD" else ["integrated gradients"]
        for name in names:
            shown += [of_mosaics["scores"][name], of_mosaics["above_chance"][name]]
    for ranking, cells in found["rankings"].items():
        if ranking != "integrated gradients minus random":
            shown += cells.values()
    for agreement in found["agreement"]:
        shown += [agreement["spearman"], agreement["top_5_overlap"]]
    # Another training of the same model, on which two differences are shown that are not here
    other = json.loads(file.with_name("baselines-minilm-seed-2.json").read_text(encoding="utf-8"))
    tests = found["differences"] + found["PAD minus other baselines"]
    for test in other["differences"]:
        is_named = test["method"] in ("occlusion", "Shapley values")
        tests += [test] if test["measure"] == "mosaic_score" and is_named else []
    tests += other["PAD minus other baselines"]
    for test in tests:
        is_chance = test.get("measure") == "mosaic_score" and test["method"] == "random"
        shown += [] if is_chance else [test | {"mean": test["difference"]}]
    for cell in shown:
        assert interval_text(cell) in docs, interval_text(cell)
    tests = [test for test in found["differences"] if test["measure"] != "mosaic_score"]
    for test in tests:
        p = "p < 0.001" if test["p_holm"] < 0.001 else f"p = {test['p_holm']:.3f}"
        assert f"{interval_text(test | {'mean': test['difference']})}, {p}" in docs
    number = sum(test["p_holm"] < 0.05 for test in tests)
    assert f"of which {number} of {len(tests)} have p < 0.05" in docs
    assert not found["disagreements"]
    for attributed in found["attributions"].values():
        assert f"{attributed['gradient_evaluations']:,}" in docs
        assert attributed["not_converged"] == 0 and attributed["max_relative_error"] < 1e-5
        assert attributed["median_gradient_evaluations"] == 65


def test_the_file_of_a_comparison_of_baselines_can_be_tested_again(folder, tmp_path, monkeypatch):
    """The rows of single documents and mosaics are kept: tests are made of these."""
    call("measure_faithfulness", "--attribution_dir", folder)
    lines = (folder / "attributions.jsonl").read_text().splitlines()
    lines = [json.dumps(json.loads(line) | {"converged": True}) for line in lines]
    (folder / "attributions.jsonl").write_text("\n".join(lines))
    other = shutil.copytree(folder, tmp_path / "mask")
    for attributed, baseline, score in ((folder, "PAD", 0.6), (other, "MASK", 0.5)):
        content = measured(attributed) | {"baseline": baseline}
        rows = [
            {"chance": 0.5, "scores": {"integrated gradients": score + number / 100}}
            for number in range(10)
        ]
        rows[0]["scores"]["integrated gradients"] += 0.02
        content["mosaics"] = {"mosaics": 10, "per_mosaic": rows}
        (attributed / "faithfulness.json").write_text(json.dumps(content))
        summary = json.loads((attributed / "summary.json").read_text()) | {"baseline": baseline}
        (attributed / "summary.json").write_text(json.dumps(summary))
    words = ["bench_baselines.py", folder, other, "--model_note", "a test"]
    words += ["--output_file", tmp_path / "file.json"]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    runpy.run_path(str(ROOT / "benchmarks" / "bench_baselines.py"), run_name="__main__")
    found = json.loads((tmp_path / "file.json").read_text())
    assert found["per_document"] == measured(folder)["per_document"]
    assert found["statistics"] == estimates.METHOD
    first, second = (
        [row["scores"]["integrated gradients"] for row in found["mosaics"][name]["per_mosaic"]]
        for name in ("PAD", "MASK")
    )
    (test,) = found["PAD minus other baselines"]
    assert test | {"p_holm": None} == estimates.paired_test(estimates.paired(first, second)) | {
        "baseline": "MASK",
        "p_holm": None,
    }


# Mosaics


@pytest.fixture(scope="module")
def mosaic_dataset(tmp_path_factory):
    """A dataset folder whose 40 test documents have two sentences with words of their class."""
    records = make_records(per_class=80)
    for number, record in enumerate(records):
        own = OWN_WORDS[LABELS[record["label"]]]
        shared = SHARED_WORDS[number % len(SHARED_WORDS)]
        record["abstract"] = f"We {shared} a {own} {own} of. The {own} of {shared}."
    return write_dataset(tmp_path_factory.mktemp("mosaics"), records)


@pytest.fixture(scope="module")
def bag_model(tmp_path_factory):
    """A bag of embeddings with weights set by hand: the words of a class count for it and against
    all others, and all other words for nothing.
    """
    folder = write_tiny_model(tmp_path_factory.mktemp("bag"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(
        ROOT / "configs" / "shallow" / "layers-0.json",
        vocab_size=len(tokenizer),
        pad_token_id=0,
        hidden_size=8,
        num_attention_heads=1,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
    )
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.fill_(1)
            elif name == "dense.weight":
                weight.copy_(torch.eye(8))
        for number, label in enumerate(LABELS):
            token = tokenizer.convert_tokens_to_ids(OWN_WORDS[label])
            model.get_input_embeddings().weight[token, number] = 1
            model.classifier.weight[:, number] = -1
            model.classifier.weight[number, number] = 1
        model.get_input_embeddings().weight[:, 7] = 1  # so that no text has the length 0
    model.save_pretrained(folder)
    return folder


def attribute_tests(model, data, out):
    flags = ["--dataset_name", data, "--n_steps", 30, "--max_samples", 12, "--disable_tqdm"]
    call("run_attribution", "--model_name_or_path", model, "--output_dir", out, *flags)
    return out


def test_mosaics_of_a_bag_of_embeddings_are_solved(run, bag_model, mosaic_dataset, tmp_path):
    """All positive attribution is in the right half: 1.0, by every method."""
    folder = attribute_tests(bag_model, mosaic_dataset, tmp_path / "out")
    flags = ["--n_mosaics", 16, "--dataset_name", mosaic_dataset, "--n_steps", 20]
    flags += ["--methods", "occlusion", "shapley", "--shapley_samples", 2, "--random_orders", 1]
    assert run("measure_faithfulness", "--attribution_dir", folder, *flags).code == 0
    found = measured(folder)["mosaics"]
    assert found["mosaics"] == 16 and found["seed"] == 42
    for name in ("integrated gradients", "occlusion", "Shapley values"):
        assert found["scores"][name]["mean"] == pytest.approx(1.0, abs=1e-6), name
        assert found["above_chance"][name]["low"] > 0.3
    assert found["chance"]["mean"] == pytest.approx(0.5, abs=0.05)
    ids = [name for row in found["per_mosaic"] for name in row["ids"]]
    assert len(ids) == len(set(ids)) == 32
    for row in found["per_mosaic"]:
        assert row["target"] in row["classes"] and len(set(row["classes"])) == 2
    tests = [t for t in measured(folder)["differences"] if t["measure"] == "mosaic_score"]
    (by_chance,) = [test for test in tests if test["method"] == "random"]
    # The halves are equally long, so every mosaic has the same difference, and no interval.
    assert by_chance["difference"] == pytest.approx(0.5, abs=0.05)
    assert by_chance["low"] is None and by_chance["p_holm"] < 0.05


def test_mosaics_of_an_untrained_model_are_at_the_chance_level(
    run, steep_model, mosaic_dataset, tmp_path, monkeypatch
):
    """Its attributions know nothing of the classes, whichever class it predicts."""
    folder = attribute_tests(steep_model, mosaic_dataset, tmp_path / "out")
    choose = mosaics.choose_halves
    monkeypatch.setattr(  # an untrained model predicts next to nothing rightly
        mosaics,
        "choose_halves",
        lambda documents, n, predict, cut: choose(documents, n, lambda d: d["label"], cut),
    )
    flags = ["--n_mosaics", 20, "--dataset_name", mosaic_dataset, "--n_steps", 20]
    flags += ["--random_orders", 1]
    assert run("measure_faithfulness", "--attribution_dir", folder, *flags).code == 0
    found = measured(folder)["mosaics"]
    assert found["mosaics"] == 20
    for cell in found["above_chance"].values():
        assert cell["low"] < 0 < cell["high"], cell


def test_mosaics_continue_after_an_interruption(
    run, bag_model, mosaic_dataset, tmp_path, monkeypatch
):
    folder = attribute_tests(bag_model, mosaic_dataset, tmp_path / "out")
    flags = ["--n_mosaics", 10, "--dataset_name", mosaic_dataset, "--max_samples", 2]
    flags += ["--n_steps", 5, "--random_orders", 1]
    score, calls = mosaics.score, []

    def interrupted(*arguments):
        calls.append(1)
        return score(*arguments) if len(calls) != 7 else 1 / 0

    monkeypatch.setattr(mosaics, "score", interrupted)
    with pytest.raises(ZeroDivisionError):
        run("measure_faithfulness", "--attribution_dir", folder, *flags)
    (partial,) = (folder / "partial-faithfulness").iterdir()
    assert len(partial.read_text().splitlines()) == 2 + 3  # two methods on each mosaic
    assert run("measure_faithfulness", "--attribution_dir", folder, *flags).code == 0
    assert len(calls) == 7 + 14 and measured(folder)["mosaics"]["mosaics"] == 10


def test_halves_are_counted_with_the_blank_between_them():
    """Which is a token of its own, or changes the first one, in tokenizers of bytes."""

    def tokenizer(text, **flags):
        return {"input_ids": list(text)}

    assert mosaics.first_sentences("Ab. Cd.", 2, tokenizer, 8) == "Ab. Cd."
    assert mosaics.first_sentences("Ab. Cd.", 2, tokenizer, 7) == "Ab."


def test_mosaics_that_cannot_be_made(run, folder, bag_model, mosaic_dataset, tmp_path):
    base = ["measure_faithfulness", "--attribution_dir", folder]
    assert_user_error(run(*base, "--n_mosaics", 3), "--n_mosaics must be 0 or at least 10")
    assert_user_error(run(*base, "--dataset_name", "x"), "--dataset_name is for mosaics")
    # The attributed texts have no labels
    result = run(*base, "--n_mosaics", 10)
    assert_user_error(result, "only 0 mosaics are possible", "10 are needed", "--dataset_name")
    assert not (folder / "partial-faithfulness").exists()
    data = ["--n_mosaics", 10, "--dataset_name"]
    assert_user_error(run(*base, *data, tmp_path / "none"), "none")
    assert_user_error(run(*base, *data, mosaic_dataset, "--split", "dev"), "'dev'", "test")
    other = write_dataset(tmp_path / "other", make_records(), [*LABELS[:4], "math.NT"])
    assert_user_error(run(*base, *data, other), "math.NT", "the model lacks")
    out = attribute_tests(bag_model, mosaic_dataset, tmp_path / "few")
    base = ["measure_faithfulness", "--attribution_dir", out]
    assert_user_error(run(*base, "--n_mosaics", 10), "only 6 mosaics are possible")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset_revision", "main"], ["--dataset_revision requires --dataset_name"]),
        (["--split", "test"], ["--split requires --dataset_name"]),
        (["--n_mosaics", 10, "--split", "test"], ["--split requires --dataset_name"]),
        (["--n_steps", 50], ["--n_steps is for mosaics", "give --n_mosaics"]),
        (["--mosaic_sentences", 1], ["--mosaic_sentences is for mosaics", "give --n_mosaics"]),
        (["--shapley_samples", 10], ["--shapley_samples", "add shapley to --methods"]),
        (["--n_mosaics", 10, "--n_steps", 0], ["--n_steps must be at least 1, not 0"]),
    ],
)
def test_flags_that_nothing_would_read_are_refused(run, tmp_path, flags, words):
    result = run("measure_faithfulness", "--attribution_dir", tmp_path / "none", *flags)
    assert_user_error(result, *words)


def test_a_local_model_has_no_revision(run, small_folder):
    base = ["measure_faithfulness", "--attribution_dir", small_folder]
    result = run(*base, "--model_revision", "main")
    assert_user_error(result, "--model_revision", "local folder", "leave it out")


def test_defaults_of_flags_that_are_not_given(run):
    """As --help says them, and as the measurement uses and records them."""
    arguments = measure_faithfulness.FaithfulnessArguments("out")
    defaults = {"shapley_samples": 10, "mosaic_sentences": 2, "n_steps": 50, "split": "test"}
    assert {name: getattr(arguments, name) for name in defaults} == defaults
    shown = " ".join(run("measure_faithfulness", "--help").out.split())
    for value in defaults.values():
        assert f"Default: {value}." in shown
    given = measure_faithfulness.FaithfulnessArguments(
        "out", n_mosaics=10, n_steps=5, methods=["shapley"], shapley_samples=3
    )
    assert (given.n_steps, given.shapley_samples, given.mosaic_sentences) == (5, 3, 2)


def test_halves_are_whole_sentences_that_fit(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = "We prove a bound, e.g. for convex flow. The metric is compact! $X$ of Ricci flow."
    cut = mosaics.first_sentences
    assert cut(text, 1, tokenizer, 99) == "We prove a bound, e.g. for convex flow."
    assert cut(text, 9, tokenizer, 999) == text
    n_tokens = len(tokenizer("We prove a bound, e.g. for convex flow.")["input_ids"]) - 2
    assert cut(text, 9, tokenizer, n_tokens) == "We prove a bound, e.g. for convex flow."
    assert cut(text, 9, tokenizer, n_tokens - 1) == ""


def test_pairs_are_as_many_as_possible():
    """Of 3 + 2 + 1 documents, three pairs of different classes, each document in one."""
    halves = [mosaics.Half(str(k), label, "") for k, label in enumerate("AAABBC")]
    for seed in range(20):
        made = mosaics.pair_halves(halves, 10, seed)
        assert len(made) == mosaics.count_pairs(halves) == 3
        assert sorted(half.id for mosaic in made for half in mosaic.halves) == list("012345")
        assert all(mosaic.halves[0].label != mosaic.halves[1].label for mosaic in made)
    assert mosaics.count_pairs(halves[:4]) == 1
    places = [m.place for seed in range(20) for m in mosaics.pair_halves(halves, 10, seed)]
    assert 10 < sum(places) < 50


def test_the_prefix_of_a_mosaic_is_in_no_half(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    halves = (mosaics.Half("a", "A", "convex flow."), mosaics.Half("b", "B", "ricci metric bound."))
    document = mosaics.encode(mosaics.Mosaic(halves, 1), "prove: ", {"A": 0, "B": 1}, tokenizer)
    assert document["words"] == ["prove:", "convex", "flow.", "ricci", "metric", "bound."]
    assert document["in_target"].tolist() == [False, False, False, True, True, True]
    assert document["in_halves"].tolist() == [False, True, True, True, True, True]
    assert mosaics.chance_level(document) == 3 / 5 and document["target_id"] == 1
    assert mosaics.score(np.array([9.0, 1, -1, 2, 0, 1]), document) == 3 / 4
    assert mosaics.score(np.zeros(6), document) is None
    assert document["word_ids"][0] is None and document["word_ids"][-1] is None


# Other baselines


def test_compare_with_another_baseline(run, folder, steep_model, tmp_path):
    """Against scipy, word by word."""
    other = tmp_path / "mask"
    lines = [json.loads(line) for line in (folder / "attributions.jsonl").read_text().splitlines()]
    flags = ["--text", *(line["text"] for line in lines), "--n_steps", 30, "--baseline", "mask"]
    flags += ["--disable_tqdm", "--output_dir", other]
    call("run_attribution", "--model_name_or_path", steep_model, *flags)
    base = ["measure_faithfulness", "--attribution_dir", folder, "--random_orders", 1]
    assert run(*base, "--compare", other).code == 0
    assert measured(folder)["baseline"] == "PAD"
    (found,) = measured(folder)["baselines"]
    assert found["baseline"] == "MASK"
    others = [json.loads(line) for line in (other / "attributions.jsonl").read_text().splitlines()]
    expected = [
        scipy.stats.spearmanr(a["word_attributions"], b["word_attributions"]).statistic
        for a, b in zip(lines, others, strict=True)
    ]
    assert [row["spearman"] for row in found["per_document"]] == pytest.approx(expected)
    assert found["spearman"]["mean"] == pytest.approx(np.mean(expected))
    assert found["spearman"]["low"] < found["spearman"]["high"]


def test_every_baseline_is_compared_once(run, small_folder, tmp_path):
    """The agreement of a folder with itself says nothing; two rows MASK cannot be told apart."""
    other = shutil.copytree(small_folder, tmp_path / "mask")
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps(summary | {"baseline": "MASK"}))
    for script in ("measure_faithfulness", "render_attributions"):
        base = [script, "--attribution_dir", small_folder, "--compare"]
        assert_user_error(run(*base, small_folder), "--compare", "each once", "PAD, PAD")
        assert_user_error(run(*base, other, other), "--compare", "each once", "PAD, MASK, MASK")


def test_the_first_five_words_and_what_chance_shares():
    scores = np.arange(10.0)
    other = np.where(scores > 7, 20.0, -scores)  # shares 8 and 9; then 0, 1, 2
    found = baselines.compare_document(
        {"word_attributions": scores}, {"word_attributions": other.tolist()}
    )
    assert found["top_5_overlap"] == 2 / 5 and found["top_5_overlap_by_chance"] == 5 / 10
    flat = baselines.compare_document({"word_attributions": [1, 1]}, {"word_attributions": [1, 2]})
    assert flat["spearman"] is None and flat["top_5_overlap"] == 1
    same = baselines.compare_document({"word_attributions": scores}, {"word_attributions": scores})
    assert same["spearman"] == pytest.approx(1) and same["top_5_overlap"] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "another"}, ["lacks document", "same ones"]),
        ({"text": "another"}, ["another text", "same documents"]),
        ({"words": ["another"]}, ["another words", "--merge_words"]),
        ({"target": "math.XX"}, ["another target", "--target"]),
        ({"versus": "math.XX"}, ["another versus", "--versus"]),
        ({"word_attributions": [1.0]}, ["damaged"]),
    ],
)
def test_folders_that_cannot_be_compared(run, small_folder, tmp_path, changes, words):
    other = shutil.copytree(small_folder, tmp_path / "other")
    first, second = (other / "attributions.jsonl").read_text().splitlines()
    changed = json.dumps(json.loads(first) | changes)
    (other / "attributions.jsonl").write_text(f"{changed}\n{second}\n")
    result = run("measure_faithfulness", "--attribution_dir", small_folder, "--compare", other)
    assert_user_error(result, f"--compare {other}", *words)


def test_a_folder_of_another_model_is_not_compared(run, small_folder, tmp_path):
    other = shutil.copytree(small_folder, tmp_path / "other")
    summary = json.loads((other / "summary.json").read_text())
    summary["settings"]["weights_sha256"] = "0"
    (other / "summary.json").write_text(json.dumps(summary))
    result = run("measure_faithfulness", "--attribution_dir", small_folder, "--compare", other)
    assert_user_error(result, "another model")
