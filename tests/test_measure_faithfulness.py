"""measure_faithfulness.py: the measures against their definitions, interrupted calls, the table,
bad folders.
"""

import json
import math
import shutil

import numpy as np
import pytest
import scipy
import torch
from conftest import assert_user_error, write_tiny_model
from safetensors.torch import load_file, save_file
from test_render_attributions import call
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import measure_faithfulness

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
    assert measure_faithfulness.unexplained(scores, removed, lost) == pytest.approx(
        left / (lost**2).sum()
    )
    assert measure_faithfulness.unexplained(scores, removed, 3 * sums) == pytest.approx(
        0, abs=1e-12
    )
    assert measure_faithfulness.unexplained(np.zeros(6), removed, lost) == pytest.approx(1)
    assert math.isnan(measure_faithfulness.unexplained(scores, removed, np.zeros(40)))


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
    found = measure_faithfulness.unexplained(scores, removed, lost.numpy())
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
    assert "tau leave one out" in (folder / "attributions.html").read_text()
    content["run"] = "another"
    (folder / "faithfulness.json").write_text(json.dumps(content))
    run("render_attributions", "--attribution_dir", folder)
    assert "tau leave one out" not in (folder / "attributions.html").read_text()


def test_no_interval_from_few_documents(run, small_folder):
    """Below 10 documents a bootstrap interval means nothing: none is written or shown, and the page
    says why.
    """
    assert run("measure_faithfulness", "--attribution_dir", small_folder).code == 0
    content = measured(small_folder)
    cell = content["rankings"]["integrated gradients"]["sufficiency"]
    assert cell["low"] is None and cell["high"] is None and cell["documents"] == 2
    assert run("render_attributions", "--attribution_dir", small_folder).code == 0
    page = (small_folder / "attributions.html").read_text()
    assert f"{cell['mean']:.3f}</td>" in page and "95 %" not in page
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
    assert "measured from a text of\nEOS tokens" in (out / "attributions.html").read_text()


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
    assert len(evaluator.gradient_times_input(document)) == 3


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
    masks = measure_faithfulness.first_words(np.array([0.1, -3.0, 2.0, 0.0, 1.0, 0.5]))
    assert masks.sum(1).tolist() == [1, 1, 2, 3]
    assert masks[-1].tolist() == [False, False, True, False, True, True]
    generator = np.random.default_rng(0)
    assert measure_faithfulness.interval([None], generator) is None
    found = measure_faithfulness.interval(
        list(np.random.default_rng(1).normal(size=400)), generator
    )
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_undefined_values_are_valid_json(run, folder):
    """One word has no rank correlation: null, not NaN, which is not JSON."""
    line = json.loads((folder / "attributions.jsonl").read_text().split("\n")[0])
    tokens, ids = len(line["tokens"]), [None if k is None else 0 for k in line["word_ids"]]
    line |= {
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
