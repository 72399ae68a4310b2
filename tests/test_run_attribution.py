"""run_attribution.py through its command line: captum's numbers, completeness, words, figure, bad
input.
"""

import gc
import json
import os
import shutil
import struct
import subprocess
import time

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from conftest import LABELS, assert_user_error, make_records, write_dataset, write_tiny_model
from datasets import ClassLabel, Dataset, Features, List, Value
from safetensors.torch import load_file, save_file
from test_render_attributions import data_of
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CanineTokenizer,
)

import run_attribution
import run_classification

TEXT = "we prove that the ricci curvature of a compact polytope is convex ."


def read(folder):
    """The lines of attributions.jsonl and the summary."""
    lines = (folder / "attributions.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line], json.loads(
        (folder / "summary.json").read_text()
    )


@pytest.fixture
def attribute(run):
    """attribute(model, folder, flags...) runs the script on TEXT unless told other documents."""

    def call(model, folder, *flags):
        sources = {"--text", "--text_file", "--test_file", "--dataset_name"}
        given = sources & set(map(str, flags))
        common = ["--model_name_or_path", model, "--output_dir", folder, "--disable_tqdm"]
        return run("run_attribution", *common, *([] if given else ["--text", TEXT]), *flags)

    return call


@pytest.fixture(scope="session")
def steep_model(tmp_path_factory):
    """A random classifier with large weights: its logits move by units along a path, not by
    rounding errors.
    """
    return write_tiny_model(
        tmp_path_factory.mktemp("steep"), seed=3, initializer_range=0.4, hidden_dropout_prob=0.1
    )


def captum_attributions(folder, text, target, n, method):
    """Token attributions by captum 0.9 for [CLS] PAD ... PAD [SEP] and the BERT embedding layer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    blank = torch.full_like(ids, tokenizer.pad_token_id)
    blank[0, 0], blank[0, -1] = ids[0, 0], ids[0, -1]
    explainer = LayerIntegratedGradients(
        lambda x: model(x, attention_mask=torch.ones_like(x)).logits, model.bert.embeddings
    )
    return (
        explainer.attribute(ids, blank, target=target, n_steps=n, method=method)
        .sum(-1)[0]
        .detach()
        .double()
        .numpy()
    )


@pytest.mark.parametrize(
    "method", ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle"]
)
@pytest.mark.parametrize("n", [2, 7, 50])
def test_same_numbers_as_captum(attribute, steep_model, tmp_path, method, n):
    flags = ["--n_steps", n, "--method", method, "--target", "math.SG"]
    result = attribute(steep_model, tmp_path / "out", *flags)
    assert result.code == 0, result.err
    (line,), _ = read(tmp_path / "out")
    expected = captum_attributions(steep_model, TEXT, 4, n, method)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(line["attributions"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 10, 200])
def test_trapezoid_is_the_closed_form(n):
    """x^2 by n points at distance h = 1/(n-1) gives 1/3 + h^2/6, and a constant is integrated
    exactly.
    """
    alphas, weights = run_attribution.quadrature("riemann_trapezoid", n)
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    assert weights @ alphas**2 == pytest.approx(1 / 3 + 1 / (6 * (n - 1) ** 2), abs=1e-14)


@pytest.mark.parametrize(
    "method", ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle"]
)
def test_rules_of_one_point_integrate_a_constant(method):
    alphas, weights = run_attribution.quadrature(method, 1)
    assert weights.tolist() == [1.0]
    assert 0 <= alphas[0] <= 1


def test_trapezoid_where_captum_loses_a_share(attribute, steep_model, tmp_path):
    """captum's trapezoid weights sum to (n-1)/n; ours are its attributions times n/(n-1)."""
    attribute(steep_model, tmp_path / "out",
        "--n_steps", 10, "--method", "riemann_trapezoid", "--target", "math.AG")  # fmt: skip
    (line,), _ = read(tmp_path / "out")
    expected = captum_attributions(steep_model, TEXT, 0, 10, "riemann_trapezoid") * 10 / 9
    np.testing.assert_allclose(line["attributions"], expected, rtol=1e-4, atol=1e-5)


def test_dataset_contract_and_completeness(attribute, steep_model, tiny_dataset, tmp_path):
    out = tmp_path / "out"
    result = attribute(steep_model, out, "--dataset_name", tiny_dataset, "--n_steps", 300)
    assert result.code == 0, result.err
    lines, summary = read(out)
    assert [line["id"] for line in lines] == [record["id"] for record in make_records()[90:]]
    names = ["attributions.jsonl", "attributions.png", "attributions.tex", "summary.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert f"tools/render_attributions.py --attribution_dir {out}" in result.log
    for line in lines:
        assert line["label"] in LABELS and line["target"] == line["prediction"]
        assert len(line["tokens"]) == len(line["attributions"]) == len(line["word_ids"])
        assert line["tokens"][0] == "[CLS]" and line["tokens"][-1] == "[SEP]"
        assert line["attributions"][0] == line["attributions"][-1] == 0
        assert sum(line["word_attributions"]) == pytest.approx(sum(line["attributions"]), abs=1e-9)
        difference = line["f_input"] - line["f_baseline"]
        assert line["delta"] == pytest.approx(sum(line["attributions"]) - difference, abs=1e-9)
        assert line["relative_error"] == pytest.approx(abs(line["delta"] / difference))
        assert abs(line["delta"]) < 1e-4 * np.abs(line["attributions"]).sum()
        assert line["n_steps"] == line["gradient_evaluations"] == 300
    assert summary["documents"] == 10 and summary["gradient_evaluations"] == 3000
    # Five of our own and four of captum's for each document
    assert summary["forward_evaluations"] == 90
    errors = [line["relative_error"] for line in lines]
    assert summary["median_relative_error"] == pytest.approx(np.median(errors))
    assert summary["max_relative_error"] == max(errors)
    assert summary["arguments"]["n_steps"] == "300"


def test_targets_and_baselines(attribute, steep_model, tiny_dataset, tmp_path):
    found = {}
    for target, baseline in [("label", "pad"), ("math.MG", "pad"), ("math.MG", "mask")]:
        out = tmp_path / f"{target}-{baseline}"
        flags = ["--dataset_name", tiny_dataset, "--max_samples", 3, "--n_steps", 100]
        attribute(steep_model, out, *flags, "--target", target, "--baseline", baseline)
        found[target, baseline] = read(out)[0]
    assert all(line["target"] == line["label"] for line in found["label", "pad"])
    assert len(found["label", "pad"]) == 3
    for pad, mask in zip(found["math.MG", "pad"], found["math.MG", "mask"], strict=True):
        assert pad["target"] == mask["target"] == "math.MG"
        assert pad["f_input"] == mask["f_input"] and pad["f_baseline"] != mask["f_baseline"]


def change_config(model, **changes):
    """Write settings into the config.json of a model, and return the model."""
    config = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").write_text(json.dumps(config))
    return model


def test_several_baselines_in_one_call(attribute, steep_model, tmp_path):
    """Each has the numbers of a call of its own; the first is that of the document."""
    names = ["pad", "mask", "zero", "mean"]
    result = attribute(steep_model, tmp_path / "all", "--n_steps", 60, "--baseline", *names)
    assert result.code == 0, result.err
    (line,), summary = read(tmp_path / "all")
    assert list(line["baselines"]) == ["PAD", "MASK", "ZERO", "MEAN"]
    assert summary["baseline"] == "PAD" and list(summary["baselines"]) == list(line["baselines"])
    assert line["attributions"] == line["baselines"]["PAD"]["attributions"]
    assert line["gradient_evaluations"] == 4 * 60
    seen = set()
    for name in names:
        attribute(steep_model, tmp_path / name, "--n_steps", 60, "--baseline", name)
        (alone,), summary = read(tmp_path / name)
        assert summary["settings"]["baseline"] == name and "baselines" not in alone
        found = line["baselines"][name.upper()]
        np.testing.assert_allclose(found["attributions"], alone["attributions"], atol=1e-6)
        assert found["attributions"][0] == found["attributions"][-1] == 0
        assert abs(found["delta"]) < 1e-3 * np.abs(found["attributions"]).sum()
        seen.add(round(found["f_baseline"], 4))
    assert len(seen) == 3  # the embedding of PAD is 0 in an untrained BERT: PAD and ZERO agree


def test_every_class_from_every_baseline(attribute, run, steep_model, tmp_path):
    """In the file and on the page, each baseline has its own classes, its own strongest words and
    its own number of gradients.
    """
    flags = ["--n_steps", 20, "--target", "all", "--baseline"]
    attribute(steep_model, tmp_path / "both", *flags, "pad", "mask")
    attribute(steep_model, tmp_path / "mask", *flags, "mask")
    (line,), _ = read(tmp_path / "both")
    (alone,), _ = read(tmp_path / "mask")
    mask = line["baselines"]["MASK"]
    assert line["baselines"]["PAD"]["classes"] == line["classes"]
    assert list(mask["classes"]) == list(alone["classes"]) == LABELS
    for label in LABELS:
        np.testing.assert_allclose(
            mask["classes"][label]["attributions"],
            alone["classes"][label]["attributions"],
            atol=1e-6,
        )
    assert mask["without_top_words"]["words"] == alone["without_top_words"]["words"]

    assert run("render_attributions", "--attribution_dir", tmp_path / "both").code == 0
    html = (tmp_path / "both" / "attributions.html").read_text()
    assert "or from the baseline that is chosen below (MASK)" in html
    (shown,) = data_of(html)["documents"]
    pad, mask = shown["explanations"]
    assert list(pad) == list(mask)
    for label in LABELS:
        assert pad[label]["gradient_evaluations"] == mask[label]["gradient_evaluations"] == 20
        assert pad[label]["words"] != mask[label]["words"]
        expected = alone["classes"][label]["word_attributions"]
        np.testing.assert_allclose(mask[label]["words"], expected, rtol=1e-2, atol=1e-4)
    strongest = [line["words"][number] for number in alone["without_top_words"]["words"]]
    assert f"({', '.join(strongest)})" in shown["without"][1] != shown["without"][0]

    # A folder of version 0.2 has the other classes from the first baseline only.
    for found in line["baselines"].values():
        del found["classes"], found["without_top_words"]
    (tmp_path / "both" / "attributions.jsonl").write_text(json.dumps(line) + "\n")
    assert run("render_attributions", "--attribution_dir", tmp_path / "both").code == 0
    (shown,) = data_of((tmp_path / "both" / "attributions.html").read_text())["documents"]
    pad, mask = shown["explanations"]
    assert len(pad) == len(LABELS) and list(mask) == [line["target"]]
    assert shown["without"][0] and shown["without"][1] is None


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_baselines_of_a_vector_are_what_an_embedding_of_it_gives(
    attribute, steep_model, tmp_path, baseline
):
    """F of the baseline text: the same as that of a PAD whose embedding is the vector."""
    attribute(steep_model, tmp_path / "out", "--n_steps", 5, "--baseline", baseline)
    (line,), _ = read(tmp_path / "out")
    changed = shutil.copytree(steep_model, tmp_path / "model")
    weights = load_file(changed / "model.safetensors")
    table = weights["bert.embeddings.word_embeddings.weight"]
    table[0] = table.mean(0) if baseline == "mean" else 0
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    attribute(changed, tmp_path / "changed", "--n_steps", 5, "--target", line["target"])
    (expected,), _ = read(tmp_path / "changed")
    assert line["f_baseline"] == pytest.approx(expected["f_baseline"], abs=1e-5)


@pytest.mark.parametrize(
    ("names", "words"),
    [(["black"], ["black", "pad, mask, zero, mean"]), (["pad", "pad"], ["each once"])],
)
def test_bad_baselines(attribute, tiny_model, tmp_path, names, words):
    assert_user_error(attribute(tiny_model, tmp_path / "out", "--baseline", *names), *words)


def test_without_the_strongest_words(attribute, steep_model, tmp_path):
    """The probabilities are those of the text with PAD in place of the three strongest words."""
    attribute(steep_model, tmp_path / "out", "--n_steps", 50)
    (line,), _ = read(tmp_path / "out")
    scores = np.array(line["word_attributions"])
    words = line["without_top_words"]["words"]
    assert words == np.argsort(-scores)[:3].tolist() and (scores[words] > 0).all()
    model = AutoModelForSequenceClassification.from_pretrained(steep_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(steep_model)
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    ids[0, [word in words for word in line["word_ids"]]] = tokenizer.pad_token_id
    with torch.no_grad():
        expected = model(ids, attention_mask=torch.ones_like(ids)).logits.softmax(-1)[0]
    found = list(line["without_top_words"]["probabilities"].values())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def write_texts(file, rows):
    """Write rows as CSV, JSON lines or Parquet, by the name of the file."""
    frame = pd.DataFrame(rows)
    if file.suffix == ".csv":
        frame.to_csv(file, index=False)
    elif file.suffix == ".jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)
    return file


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("labeled", [True, False])
def test_own_files_with_and_without_labels(attribute, trained_on_titles, tmp_path, suffix, labeled):
    """The columns are those of the training; ids are those of the file, or numbers of rows."""
    rows = [
        {"title": "a scheme", "abstract": "every polytope ."},
        {"title": "ricci", "abstract": ""},
    ]
    if labeled:
        rows = [row | {"id": f"own-{k}", "label": LABELS[k]} for k, row in enumerate(rows)]
    file = write_texts(tmp_path / f"new{suffix}", rows)
    result = attribute(trained_on_titles, tmp_path / "out", "--test_file", file, "--n_steps", 2)
    assert result.code == 0, result.err
    lines, summary = read(tmp_path / "out")
    assert [line["text"] for line in lines] == ["a scheme | every polytope .", "ricci"]
    ids = ["own-0", "own-1"] if labeled else ["test.0", "test.1"]
    assert [line["id"] for line in lines] == ids
    assert [line["label"] for line in lines] == (LABELS[:2] if labeled else [None, None])
    assert summary["text_column_names"] == ["title", "abstract"]


def test_a_dataset_without_labels(attribute, tiny_model, tmp_path):
    """Labels of -1, and no column label: only --target label requires them."""
    records = [record | {"label": -1} for record in make_records()]
    data = write_dataset(tmp_path / "data", records)
    flags = ["--dataset_name", data, "--n_steps", 2, "--max_samples", 2]
    assert attribute(tiny_model, tmp_path / "out", *flags).code == 0
    assert [line["label"] for line in read(tmp_path / "out")[0]] == [None, None]
    result = attribute(tiny_model, tmp_path / "label", *flags, "--target", "label")
    assert_user_error(result, "2 of 2 documents", "--target label requires")


@pytest.mark.parametrize(
    ("rows", "flags", "words"),
    [
        ([{"body": "a scheme"}], [], ["no column 'abstract'", "--text_column_names"]),
        ([{"abstract": 7}], [], ["'abstract'", "not text"]),
        ([{"abstract": " "}], [], ["no text", "test.0"]),
        ([{"abstract": "a", "id": "x"}, {"abstract": "b", "id": None}], [], ["no id"]),
        ([{"abstract": "a scheme", "label": "math.XX"}], [], ["'math.XX'", "model lacks"]),
        ([{"abstract": "a scheme"}], ["--label_column_name", "kind"], ["'kind'", "abstract"]),
        ([{"abstract": "a", "label": ["math.AG"]}], [], ["list of classes", "test.0"]),
    ],
)
def test_own_files_that_cannot_be_explained(attribute, tiny_model, tmp_path, rows, flags, words):
    file = write_texts(tmp_path / "new.jsonl", rows)
    result = attribute(tiny_model, tmp_path / "out", "--test_file", file, "--n_steps", 2, *flags)
    assert_user_error(result, *words)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def multi_label_model(tmp_path):
    """A random classifier that may give a text several classes, with a threshold of each."""
    model = write_tiny_model(tmp_path / "multi", seed=3, initializer_range=0.4)
    return change_config(
        model, problem_type="multi_label_classification", thresholds=[0.5, 0.1, 0.9, 0.5, 0.3]
    )


def test_each_predicted_class_of_several_is_explained(attribute, multi_label_model, tmp_path):
    """Probabilities are sigmoids; the classes are those that reach their own thresholds."""
    result = attribute(multi_label_model, tmp_path / "out", "--n_steps", 30)
    assert result.code == 0, result.err
    (line,), _ = read(tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(multi_label_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(multi_label_model)
    with torch.no_grad():
        expected = model(**tokenizer(TEXT, return_tensors="pt")).logits.sigmoid()[0].tolist()
    np.testing.assert_allclose(list(line["probabilities"].values()), expected, atol=1e-5)
    thresholds = [0.5, 0.1, 0.9, 0.5, 0.3]
    reached = [k for k in range(5) if expected[k] >= thresholds[k]]
    assert line["prediction"] == [LABELS[k] for k in reached] and len(reached) > 1
    assert list(line["classes"]) == line["prediction"]
    assert line["target"] == LABELS[max(reached, key=lambda k: expected[k])]
    assert line["attributions"] == line["classes"][line["target"]]["attributions"]


@pytest.mark.parametrize(
    ("target", "explained"),
    [("all", LABELS), ("math.CV", ["math.CV"]), ("label", ["math.AG", "math.CV"])],
)
def test_targets_of_several_classes(
    attribute, multi_label_model, tiny_dataset, tmp_path, target, explained
):
    """The labels are the categories, restricted to the model's classes."""
    flags = ["--dataset_name", tiny_dataset, "--label_column_name", "categories"]
    flags += ["--split", "train", "--max_samples", 1, "--n_steps", 3, "--target", target]
    result = attribute(multi_label_model, tmp_path / "out", *flags)
    assert result.code == 0, result.err
    (line,), _ = read(tmp_path / "out")
    assert line["label"] == ["math.AG", "math.CV"]
    assert list(line.get("classes", [line["target"]])) == explained


def write_record(model, **arguments):
    """Write what run_attribution.py reads of the record of a training."""
    record = {"script": "run_classification.py", "arguments": arguments}
    (model / "run_arguments.json").write_text(json.dumps(record))


def labels_of(attribute, model, folder, rows, *flags):
    """The labels of own texts, after an attribution of two steps."""
    folder.mkdir()
    file = write_texts(folder / "new.jsonl", rows)
    result = attribute(model, folder / "out", "--test_file", file, "--n_steps", 2, *flags)
    assert result.code == 0, result.err
    return [line["label"] for line in read(folder / "out")[0]]


def test_labels_in_one_text_are_split_as_in_training(attribute, multi_label_model, tmp_path):
    """An empty text means none of the classes; if all are empty, there are no labels."""
    write_record(multi_label_model, label_column_name="kinds", label_delimiter=";")
    rows = [
        {"abstract": "a scheme", "kinds": "math.AG; math.DG"},
        {"abstract": "a polytope", "kinds": ""},
    ]
    labels = labels_of(attribute, multi_label_model, tmp_path / "some", rows)
    assert labels == [["math.AG", "math.DG"], []]
    assert labels_of(attribute, multi_label_model, tmp_path / "none", rows[1:]) == [None]


def test_the_label_delimiter_goes_where_the_model_goes(attribute, multi_label_model, tmp_path):
    """config.json has it, as the columns of the texts, for a model without its run folder."""
    path = multi_label_model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"label_delimiter": ";"}))
    rows = [{"abstract": "a scheme", "label": "math.AG; math.DG"}]
    labels = labels_of(attribute, multi_label_model, tmp_path / "some", rows)
    assert labels == [["math.AG", "math.DG"]]


def test_minus_one_in_a_list_of_numbers_is_no_class(attribute, multi_label_model, tmp_path):
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = {"abstract": Value("string"), "label": List(ClassLabel(names=LABELS))}
    rows = {"abstract": ["a scheme", "a knot", "a flow"], "label": [[0, -1], [-1], None]}
    (tmp_path / "data").mkdir()
    Dataset.from_dict(rows, Features(features)).to_parquet(tmp_path / "data" / "test.parquet")
    flags = ("--dataset_name", tmp_path / "data", "--n_steps", 2)
    result = attribute(multi_label_model, tmp_path / "out", *flags)
    assert result.code == 0, result.err
    assert [line["label"] for line in read(tmp_path / "out")[0]] == [[LABELS[0]], [], None]


@pytest.mark.parametrize(
    ("row", "delimiter", "words"),
    [
        ({"label": "math.AG"}, "", ["must not be empty"]),
        ({}, ";", ["requires a column of labels", "no 'label'", "abstract"]),
        ({"label": ["math.AG"]}, ";", ["'label' are lists", "leave out --label_delimiter"]),
    ],
)
def test_a_label_delimiter_that_splits_nothing_is_refused(
    attribute, multi_label_model, tmp_path, row, delimiter, words
):
    file = write_texts(tmp_path / "new.jsonl", [{"abstract": "a scheme"} | row])
    flags = ("--test_file", file, "--label_delimiter", delimiter)
    assert_user_error(
        attribute(multi_label_model, tmp_path / "out", *flags), "label_delimiter", *words
    )


def test_a_model_of_one_class_has_no_label_delimiter(attribute, tiny_model, tiny_dataset, tmp_path):
    flags = ("--dataset_name", tiny_dataset, "--label_delimiter", ";")
    result = attribute(tiny_model, tmp_path / "out", *flags)
    assert_user_error(result, "--label_delimiter", tiny_model, "one class", "leave it out")


def test_minus_one_is_a_class_where_the_model_has_it(attribute, tiny_model, tmp_path):
    rows = [{"abstract": "a scheme", "label": -1}, {"abstract": "a polytope", "label": 1}]
    model = write_tiny_model(tmp_path / "signs", labels=["-1", "1"])
    more = ("--target", "label")
    assert labels_of(attribute, model, tmp_path / "class", rows, *more) == ["-1", "1"]
    assert labels_of(attribute, tiny_model, tmp_path / "none", rows[:1]) == [None]


def test_numbers_are_the_classes_that_the_training_named(attribute, tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    rows = [{"abstract": "a scheme", "label": 1}]
    file = write_texts(tmp_path / "new.jsonl", rows)
    flags = ("--test_file", file, "--n_steps", 2)
    assert_user_error(attribute(model, tmp_path / "out", *flags), "'1'", "model lacks")
    write_record(model, label_names=LABELS)
    assert labels_of(attribute, model, tmp_path / "named", rows) == [LABELS[1]]


def test_names_that_are_numbers_of_others_are_left_out(attribute, tmp_path, caplog):
    """The training named 0, 1, 2 so; a few rows do not show whether "1" is a name or a number."""
    names = ["1", "2", "3"]
    model = write_tiny_model(tmp_path / "model", labels=names)
    write_record(model, label_names=names)
    rows = [{"abstract": "a scheme", "label": label} for label in (1, 2)]
    assert labels_of(attribute, model, tmp_path / "few", rows) == [None, None]
    assert "LABEL_0" in caplog.text
    flags = ("--test_file", tmp_path / "few" / "new.jsonl", "--n_steps", 2, "--target", "label")
    assert_user_error(attribute(model, tmp_path / "out", *flags), "LABEL_0", "--target")
    rows = [{"abstract": "a scheme", "label": label} for label in (0, 1)]
    assert labels_of(attribute, model, tmp_path / "numbers", rows) == ["1", "2"]


@pytest.mark.parametrize(
    "columns", ["id,abstract,abstract", "id,id,abstract", "label,label,abstract"]
)
def test_a_column_that_occurs_twice(attribute, tiny_model, tmp_path, columns):
    """The name of the column became the text."""
    file = tmp_path / "new.csv"
    file.write_text(f"{columns}\na,b,a scheme\nc,d,a curve\n")
    result = attribute(tiny_model, tmp_path / "out", "--test_file", file, "--n_steps", 2)
    assert_user_error(result, "occurs 2 times", file)


def test_lists_of_a_dataset_with_more_classes_than_the_model(attribute, tmp_path):
    """They are restricted to the model's classes, as in training; with none of them, refused."""
    several = {"problem_type": "multi_label_classification"}
    model = write_tiny_model(tmp_path / "model", labels=LABELS[:3])
    change_config(model, **several)
    rows = [{"id": "a", "abstract": "a scheme", "label": [0, 4]}]
    rows.append({"id": "b", "abstract": "a polytope", "label": [3]})
    kinds = {"id": Value("string"), "abstract": Value("string")}
    features = Features(kinds | {"label": List(ClassLabel(names=LABELS))})
    data = tmp_path / "data" / "data"
    data.mkdir(parents=True)
    Dataset.from_list(rows, features).to_parquet(data / "test-00000-of-00001.parquet")
    flags = ("--dataset_name", tmp_path / "data", "--n_steps", 2)
    result = attribute(model, tmp_path / "out", *flags)
    assert result.code == 0, result.err
    assert [line["label"] for line in read(tmp_path / "out")[0]] == [["math.AG"], []]

    other = change_config(write_tiny_model(tmp_path / "other", labels=["a", "b"]), **several)
    result = attribute(other, tmp_path / "refused", *flags)
    assert_user_error(result, "model lacks", "'math.AG'")


def test_delimiter_of_a_csv_file_and_field_of_a_json_file(attribute, tiny_model, tmp_path):
    (tmp_path / "new.csv").write_text("id|abstract\nx|a scheme, a polytope\n")
    rows = [{"id": "x", "abstract": "a scheme, a polytope"}]
    (tmp_path / "new.json").write_text(json.dumps({"rows": rows}))
    for name, flag in (
        ("new.csv", ("--csv_delimiter", "|")),
        ("new.json", ("--json_field", "rows")),
    ):
        flags = ("--test_file", tmp_path / name, "--n_steps", 2, *flag)
        result = attribute(tiny_model, tmp_path / f"out-{name}", *flags)
        assert result.code == 0, result.err
        (line,), _ = read(tmp_path / f"out-{name}")
        assert (line["id"], line["text"]) == ("x", "a scheme, a polytope")
    result = attribute(tiny_model, tmp_path / "out", "--csv_delimiter", "|")
    assert_user_error(result, "--csv_delimiter requires a .csv or .tsv file")


def test_the_default_batch_fits_into_the_memory_for_activations(
    attribute, steep_model, tmp_path, monkeypatch
):
    """A larger model or a longer text halves it, and the attributions stay the same."""
    sizes = []
    forward = run_attribution.Explainer.forward

    def record_size(self, ids):
        sizes.append(len(ids))
        return forward(self, ids)

    monkeypatch.setattr(run_attribution.Explainer, "forward", record_size)
    attribute(steep_model, tmp_path / "large", "--n_steps", "auto")
    assert max(sizes) == 16
    sizes.clear()
    layers, hidden, tokens = 2, 32, 128
    of_a_point = 4 * run_attribution.FLOATS_PER_TOKEN * layers * hidden * tokens
    monkeypatch.setattr(run_attribution, "ACTIVATION_BYTES", 5 * of_a_point)
    attribute(steep_model, tmp_path / "small", "--n_steps", "auto")
    assert max(sizes) == 4
    (large,), _ = read(tmp_path / "large")
    (small,), _ = read(tmp_path / "small")
    np.testing.assert_allclose(small["attributions"], large["attributions"], atol=1e-6)


def words_of(text):
    """The words of a text, every character a token of its own."""
    tokens = [(k, k + 1) for k, character in enumerate(text) if not character.isspace()]
    word_ids, spans = run_attribution.align_words(
        [m.span() for m in run_attribution.WORD.finditer(text)], tokens
    )
    assert sorted(set(word_ids)) == list(range(len(spans)))
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Kähler-Einstein metrics on $L^2$, (fano).",
         ["Kähler-Einstein", "metrics", "on", "$L^2$", ",", "(", "fano", ")", "."]),
        (r"of \mathbb{CP}^n is \emph{not}", ["of", r"\mathbb{CP}^n", "is", r"\emph{not}"]),
        (r"K\"ahler and Poincar\'{e}'s $\mathcal{O}_{X}(1) \to X$-bundle",
         [r"K\"ahler", "and", r"Poincar\'{e}'s", r"$\mathcal{O}_{X}(1) \to X$-bundle"]),
        ("Calabi--Yau, Gromov–Witten; C^{1,1} and x_{ij} 2.5",
         ["Calabi--Yau", ",", "Gromov–Witten", ";", "C^{1,1}", "and", "x_{ij}", "2.5"]),
        ("costs $5 more - or less", ["costs", "$", "5", "more", "-", "or", "less"]),
        (r"\frac{a_{1}}{b} \\ x", [r"\frac{a_{1}}{b}", "\\", "\\", "x"]),
        # Amounts are no formulas
        ("rose $5 million while it lost $7 million",
         ["rose", "$", "5", "million", "while", "it", "lost", "$", "7", "million"]),
        ("$AAPL, $TSLA: $5 (about $6)",
         ["$", "AAPL", ",", "$", "TSLA", ":", "$", "5", "(", "about", "$", "6", ")"]),
        ("a $ x $ or $x $, $3$, $$ a = b $$; 7$\\times$10, $\\ $i.e.",
         ["a", "$ x $", "or", "$x $", ",", "$3$", ",", "$$ a = b $$", ";", "7$\\times$10", ",",
          "$\\ $i", ".", "e", "."]),
        ("an operator $N exists for $(p,q)$-forms",
         ["an", "operator", "$", "N", "exists", "for", "$(p,q)$-forms"]),
        ("one $a\n\nb$ two $c\nd$", ["one", "$", "a", "b", "$", "two", "$c\nd$"]),
        # Marks and joiners belong to their letter
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("می\u200cخواهم برویم", ["می\u200cخواهم", "برویم"]),
        ("Ka\u0308hler-Einstein L²", ["Ka\u0308hler-Einstein", "L²"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("soft\u00adhyphen 👩\u200d🔬 👍🏽, a=\u0338b",
         ["soft\u00adhyphen", "👩\u200d🔬", "👍🏽", ",", "a", "=\u0338", "b"]),
    ],
)  # fmt: skip
def test_words_as_a_mathematician_reads_them(text, words):
    assert words_of(text) == words


def test_tokens_that_touch_two_words_join_them():
    """'),' as one token makes one word of two; a token without characters goes to the next word;
    None stays.
    """
    words = [(0, 1), (1, 2), (2, 3), (4, 7)]  # a ) , the
    assert run_attribution.align_words(
        words, [None, (0, 1), (1, 3), (3, 3), (3, 5), (5, 7), None]
    ) == (
        [None, 0, 1, 2, 2, 2, None],
        [[0, 1], [1, 3], [4, 7]],
    )


def test_names_in_subword_tokens_are_one_word(attribute, minilm, tmp_path):
    """The study's complaint was "ka ##hler": the name is one word with the sum of its tokens."""
    model = tmp_path / "model"
    labeled = AutoModelForSequenceClassification.from_pretrained(
        minilm, num_labels=5, dtype=torch.float32
    )
    labeled.save_pretrained(model)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(model)
    text = r"Kähler-Einstein metrics on fano $L^2$ spaces and \mathbb{CP}^n"
    for merge in ("true", "false"):
        attribute(model, tmp_path / merge, "--text", text,
            "--n_steps", 3, "--merge_words", merge)  # fmt: skip
    (merged,), _ = read(tmp_path / "true")
    assert merged["tokens"][1:3] == ["ka", "##hler"]
    assert merged["words"] == [
        "Kähler-Einstein",
        "metrics",
        "on",
        "fano",
        "$L^2$",
        "spaces",
        "and",
        r"\mathbb{CP}^n",
    ]
    own = [
        score
        for word, score in zip(merged["word_ids"], merged["attributions"], strict=True)
        if word == 0
    ]
    assert len(own) == 4 and merged["word_attributions"][0] == pytest.approx(sum(own))
    (split,), _ = read(tmp_path / "false")
    assert split["words"][:3] == ["Kähler", "-", "Einstein"]
    assert split["attributions"] == merged["attributions"]


def test_prefix_and_length_of_the_training(attribute, tmp_path, caplog):
    model = write_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"text_prefix": "every form ", "max_seq_length": 8})
    )
    result = attribute(model, tmp_path / "out",
                 "--n_steps", 5)  # fmt: skip
    (line,), summary = read(tmp_path / "out")
    assert line["text"] == "every form " + TEXT and line["words"][:3] == ["every", "form", "we"]
    assert len(line["tokens"]) == 8 and line["truncated"]
    assert result.code == 0 and "text-1" in caplog.text and "cut" in caplog.text
    assert (
        summary["text_prefix"] == "every form "
        and summary["max_seq_length"] == 8
        and summary["truncated"] == 1
    )
    attribute(model, tmp_path / "own", "--n_steps", 5,
        "--text_prefix", "", "--max_seq_length", 64)  # fmt: skip
    (line,), _ = read(tmp_path / "own")
    assert line["words"][0] == "we" and not line["truncated"]


def test_text_file_and_arguments_file(run, tiny_model, tmp_path):
    (tmp_path / "texts.txt").write_text("we prove\nthe metric\n", encoding="utf-8")
    recipe = {"n_steps": 4, "text_file": str(tmp_path / "texts.txt"), "disable_tqdm": True}
    recipe |= {"model_name_or_path": str(tiny_model), "output_dir": str(tmp_path / "out")}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert run("run_attribution", tmp_path / "recipe.json", "--n_steps", 6).code == 0
    lines, _ = read(tmp_path / "out")
    assert [line["text"] for line in lines] == ["we prove", "the metric"]
    assert [line["n_steps"] for line in lines] == [6, 6]


def test_equal_logits_have_no_relative_error(attribute, tmp_path):
    model = write_tiny_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["classifier.weight"] = torch.zeros_like(weights["classifier.weight"])
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    result = attribute(model, tmp_path / "out",
                 "--n_steps", 5)  # fmt: skip
    assert result.code == 0, result.err
    (line,), summary = read(tmp_path / "out")
    assert line["relative_error"] is None and summary["median_relative_error"] is None
    assert "NaN" not in (tmp_path / "out/attributions.jsonl").read_text()


BAD_ARGUMENTS = {
    "no value": (["--text_file"], ["--text_file"]),
    "two sources": (["--text", "a", "--text_file", "b"], ["exactly one"]),
    "steps 0": (["--text", TEXT, "--n_steps", 0], ["--n_steps", "1000"]),
    "steps 1001": (["--text", TEXT, "--n_steps", 1001], ["--n_steps", "1000"]),
    "steps word": (["--text", TEXT, "--n_steps", "many"], ["--n_steps", "many"]),
    "two kinds of steps": (
        ["--n_steps", 5, "--n_steps_search", 1, 9],
        ["--n_steps ", "--n_steps_search"],
    ),
    "search of one": (["--n_steps_search", 5], ["--n_steps_search", "1000"]),
    "search backwards": (["--n_steps_search", 9, 5], ["--n_steps_search", "9"]),
    "limit": (["--max_gradient_evaluations", 10], ["--max_gradient_evaluations", "35"]),
    "trapezoid of 1": (
        ["--text", TEXT, "--n_steps", 1, "--method", "riemann_trapezoid"],
        ["riemann_trapezoid"],
    ),
    "method": (["--text", TEXT, "--method", "simpson"], ["simpson"]),
    # Flags that nothing would read
    "rule of the integral": (
        ["--n_steps", "auto", "--method", "riemann_left"],
        ["--method", "--n_steps auto has none"],
    ),
    "tolerance of captum": (["--n_steps", 5, "--tolerance", "1e-3"], ["--tolerance is for"]),
    "limit of captum": (
        ["--n_steps", 5, "--max_gradient_evaluations", 50],
        ["--max_gradient_evaluations is for the search"],
    ),
    "rough captum": (["--n_steps", 5, "--rough_evaluations", 100], ["--rough_evaluations is for"]),
    "rough search": (["--rough_evaluations", 100], ["--rough_evaluations is for --n_steps auto"]),
    "split of a text": (["--split", "train"], ["--split requires --dataset_name"]),
    "split of a file": (
        ["--test_file", "x.csv", "--split", "train"],
        ["--split requires --dataset_name"],
    ),
    "column of a text": (["--text_column_names", "title"], ["--text_column_names requires"]),
    "delimiter of a text": (
        ["--text_column_delimiter", ";"],
        ["--text_column_delimiter requires"],
    ),
    "label of texts": (["--label_column_name", "x"], ["--label_column_name requires"]),
    "labels of texts": (["--label_delimiter", ";"], ["--label_delimiter requires"]),
    "target": (["--text", TEXT, "--target", "math.NT"], ["math.NT", "math.AG"]),
    "label of a text": (["--text", TEXT, "--target", "label"], ["--target label"]),
    "empty text": (["--text", "fine", "  "], ["1 of 2", "(text-2)", "no text"]),
    "empty texts": (["--text", *"    "], ["4 of 4", "text-1, text-2, text-3, ...", "no text"]),
    "text file": (["--text_file", "nowhere.txt"], ["nowhere.txt"]),
    "dataset": (["--dataset_name", "/nowhere/at/all"], ["/nowhere/at/all"]),
    "too long": (
        ["--text", TEXT, "--max_seq_length", 500],
        ["--max_seq_length must be between 3 and 128, the model's maximum, not 500"],
    ),
    "too short": (
        ["--text", TEXT, "--max_seq_length", 2],
        ["--max_seq_length must be at least 3", "not 2"],
    ),
    "Latin-1": (["--text", "K\udce4hler"], ["--text", "UTF-8"]),
    "versus without target": (["--versus", "math.AG"], ["--versus", "--target A --versus B"]),
    "versus itself": (
        ["--target", "math.AG", "--versus", "math.AG"],
        ["--versus", "another class"],
    ),
    "versus nothing": (
        ["--target", "math.AG", "--versus", "math.NT"],
        ["--versus math.NT", "math.SG"],
    ),
    "figure of another": (["--figure_ids", "text-2"], ["--figure_ids", "text-2"]),
    "revision of a folder": (["--model_revision", "main"], ["--model_revision", "folder"]),
    "revision of no data": (["--dataset_revision", "main"], ["--dataset_revision", "folder"]),
    "no samples": (["--text", TEXT, "--max_samples", 0], ["--max_samples"]),
    "misspelt": (["--text", TEXT, "--methd", "x"], ["--methd", "--method"]),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(attribute, tiny_model, tmp_path, case):
    arguments, words = BAD_ARGUMENTS[case]
    result = attribute(tiny_model, tmp_path / "out", *arguments)
    assert_user_error(result, *words)
    assert not (tmp_path / "out").exists()


def test_bad_datasets(run, tiny_model, tiny_dataset, tmp_path):
    base = [
        "run_attribution",
        "--model_name_or_path",
        tiny_model,
        "--output_dir",
        tmp_path / "out",
        "--n_steps",
        2,
    ]
    assert_user_error(run(*base), "exactly one")
    assert_user_error(
        run(*base, "--dataset_name", tiny_dataset, "--split", "dev"), "dev", "validation"
    )
    assert_user_error(
        run(*base, "--dataset_name", tiny_dataset, "--text_column_names", "body"),
        "body",
        "abstract",
    )
    assert_user_error(
        run(*base, "--dataset_name", tiny_dataset, "--text_column_delimiter", "; "),
        "--text_column_delimiter",
        "one column of text, abstract",
    )
    records = make_records()
    records[-1]["abstract"] = " "
    assert_user_error(
        run(*base, "--dataset_name", write_dataset(tmp_path / "empty", records)),
        records[-1]["id"],
        "no text",
    )


def test_labels_of_model_and_dataset_differ(attribute, tiny_dataset, tmp_path):
    model = write_tiny_model(tmp_path / "model", labels=["math.AG", "math.NT"])
    result = attribute(model, tmp_path / "out", "--dataset_name",
                 tiny_dataset)  # fmt: skip
    assert_user_error(
        result, "'math.CV', 'math.DG', 'math.MG', ...", "the model's others are 'math.NT'"
    )


def test_classes_are_matched_by_name(attribute, tmp_path, tiny_dataset):
    """The model's classes in another order and one more: labels are names, and the log says what
    differs.
    """
    model = write_tiny_model(tmp_path / "model", labels=["math.NT", *reversed(LABELS)])
    flags = ["--dataset_name", tiny_dataset, "--n_steps", 2, "--target", "label"]
    result = attribute(model, tmp_path / "out", *flags)
    assert result.code == 0, result.err
    assert "lacks classes of the model: 'math.NT'" in result.log
    lines, _ = read(tmp_path / "out")
    records = make_records()[90:]
    assert [line["target"] for line in lines] == [LABELS[record["label"]] for record in records]


def test_spellings_of_classes_are_shown_with_quotes(attribute, tmp_path, tiny_dataset):
    spelled = [" math.AG", *LABELS[1:]]
    model = write_tiny_model(tmp_path / "model", labels=spelled)
    result = attribute(model, tmp_path / "out", "--dataset_name", tiny_dataset)
    assert_user_error(result, "lacks: 'math.AG';", "' math.AG'", "spell the classes alike")


def test_a_class_that_the_model_names_twice(attribute, tmp_path):
    model = write_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["id2label"]["1"] = "math.AG"
    (model / "config.json").write_text(json.dumps(config))
    assert_user_error(attribute(model, tmp_path / "out"), "twice")


def test_classes_that_are_counted_from_1(attribute, tmp_path):
    model = write_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {str(number + 1): name for number, name in enumerate(LABELS)}
    (model / "config.json").write_text(json.dumps(config))
    assert_user_error(attribute(model, tmp_path / "out"), model, "id2label", "from 0")


def test_a_device_without_float64_is_not_used(attribute, tiny_model, tmp_path, monkeypatch):
    """On a Mac torch has an accelerator, but not for the float64 of the sums."""
    chosen = []

    def record_device(cpu):
        chosen.append(cpu)
        raise run_attribution.UserError("far enough")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(run_attribution.accelerate, "PartialState", record_device)
    assert_user_error(attribute(tiny_model, tmp_path / "out"), "far enough")
    assert chosen == [True]


@pytest.fixture
def trained_on_titles(tmp_path):
    """A run of title and abstract, as run_classification.py writes its config.json and
    run_arguments.json.
    """
    model = write_tiny_model(tmp_path / "run")
    format_of_texts = {"text_column_names": ["title", "abstract"], "text_column_delimiter": " | "}
    config = json.loads((model / "config.json").read_text()) | format_of_texts
    (model / "config.json").write_text(json.dumps(config))
    recorded = {"script": "run_classification.py", "arguments": format_of_texts}
    (model / "run_arguments.json").write_text(json.dumps(recorded))
    return model


def texts_of(attribute, model, folder, tiny_dataset, *flags):
    """The texts, the log and the summary of a run on the tiny dataset."""
    base = ["--dataset_name", tiny_dataset, "--n_steps", 2, "--max_samples", 2]
    result = attribute(model, folder, *base, *flags)
    assert result.code == 0, result.err
    lines, summary = read(folder)
    return [line["text"] for line in lines], result.log, summary


@pytest.mark.parametrize("where", ["config.json", "run_arguments.json"])
def test_texts_are_made_as_in_training(attribute, trained_on_titles, tiny_dataset, tmp_path, where):
    """Text columns and delimiter are those of the run; older runs have them in run_arguments.json
    only.
    """
    if where == "run_arguments.json":
        config = json.loads((trained_on_titles / "config.json").read_text())
        del config["text_column_names"], config["text_column_delimiter"]
        (trained_on_titles / "config.json").write_text(json.dumps(config))
    texts, log, summary = texts_of(attribute, trained_on_titles, tmp_path / "out", tiny_dataset)
    records = make_records()[90:92]
    assert texts == [f"{record['title']} | {record['abstract']}" for record in records]
    assert "WARNING" not in log
    assert summary["text_column_names"] == ["title", "abstract"]
    assert summary["text_column_delimiter"] == " | "


def test_columns_that_differ_from_the_training_are_used_with_a_warning(
    attribute, trained_on_titles, tiny_dataset, tmp_path
):
    flags = ["--text_column_names", "abstract,title", "--text_column_delimiter", "; "]
    texts, log, _ = texts_of(attribute, trained_on_titles, tmp_path / "out", tiny_dataset, *flags)
    record = make_records()[90]
    assert texts[0] == f"{record['abstract']}; {record['title']}"
    warnings = [line for line in log.splitlines() if "WARNING" in line]
    assert len(warnings) == 2
    assert "--text_column_names is ['abstract', 'title'], but the model was trained" in warnings[0]
    assert "--text_column_delimiter is '; '" in warnings[1]


def test_an_empty_column_gives_the_text_of_the_training(
    attribute, run, trained_on_titles, tmp_path
):
    """No delimiter stands for a title that is empty, blank or missing."""
    records = make_records()
    for record, title in zip(records[90:93], ["", " ", None], strict=True):
        record["title"] = title
    dataset = write_dataset(tmp_path / "data", records)
    flags = ["--n_steps", 2, "--max_samples", 3, "--dataset_name", dataset]
    assert attribute(trained_on_titles, tmp_path / "out", *flags).code == 0
    explained = [line["text"] for line in read(tmp_path / "out")[0]]
    assert explained == [record["abstract"] for record in records[90:93]]
    data = run_classification.DataArguments(
        dataset_name=str(dataset),
        text_column_names=["title", "abstract"],
        text_column_delimiter=" | ",
    )
    trained = run_classification.load_splits(data, ["test"], seed=1).splits["test"]
    assert explained == trained["text"][:3]


def test_labels_have_the_names_of_their_own_split(attribute, tiny_model, tmp_path):
    """datasets alone would read the numbers of the test split with the names of the training."""
    records = make_records()
    write_dataset(tmp_path / "data", records)
    other = LABELS[::-1]
    turned = [record | {"label": 4 - record["label"]} for record in records]
    write_dataset(tmp_path / "turned", turned, labels=other)
    test_file = "data/test-00000-of-00001.parquet"
    shutil.copyfile(tmp_path / "turned" / test_file, tmp_path / "data" / test_file)
    flags = ["--n_steps", 2, "--max_samples", 5, "--dataset_name", tmp_path / "data"]
    assert attribute(tiny_model, tmp_path / "out", *flags).code == 0
    labels = [line["label"] for line in read(tmp_path / "out")[0]]
    assert labels == [LABELS[record["label"]] for record in records[90:95]]


def test_an_incomplete_dataset_folder_is_refused(attribute, tiny_model, tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset, tmp_path / "data")
    (tmp_path / "data" / "manifest.partial.json").write_text("{}")
    flags = ["--n_steps", 2, "--dataset_name", tmp_path / "data"]
    assert_user_error(attribute(tiny_model, tmp_path / "out", *flags), "incomplete")


def test_settings_of_another_kind_in_the_configuration_are_not_taken(
    attribute, tmp_path, tiny_dataset
):
    """A checkpoint of others may have something else under the names of this project."""
    model = write_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config |= {"max_seq_length": "long", "text_prefix": 3, "text_column_names": 5}
    (model / "config.json").write_text(json.dumps(config))
    texts, _, summary = texts_of(attribute, model, tmp_path / "out", tiny_dataset)
    assert texts[0] == make_records()[90]["abstract"]
    assert summary["text_prefix"] == "" and summary["max_seq_length"] == 128


def test_a_model_that_does_not_choose_classes_is_refused(attribute, tmp_path):
    """Its output is no logit, so the probabilities would be wrong."""
    model = change_config(write_tiny_model(tmp_path / "model"), problem_type="regression")
    assert_user_error(attribute(model, tmp_path / "out"), "does not choose classes", "regression")
    assert not (tmp_path / "out").exists()


def test_weights_of_other_sizes_than_the_configuration_says(attribute, run, tiny_dataset, tmp_path):
    model = write_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {"intermediate_size": 32}
    (model / "config.json").write_text(json.dumps(config))
    assert_user_error(attribute(model, tmp_path / "out"), model, "sizes", "config.json")
    flags = ["--dataset_name", tiny_dataset, "--do_predict", "--output_dir", tmp_path / "run"]
    result = run("run_classification", "--model_name_or_path", model, *flags)
    assert_user_error(result, model, "sizes", "config.json")


def test_a_run_that_does_not_say_its_columns(attribute, tiny_model, tiny_dataset, tmp_path):
    texts, log, _ = texts_of(attribute, tiny_model, tmp_path / "out", tiny_dataset)
    assert texts[0] == make_records()[90]["abstract"]
    assert "does not say which columns" in log


def test_prefix_and_length_that_differ_from_the_training(attribute, tmp_path):
    model = write_tiny_model(tmp_path / "model", text_prefix="every form ", max_seq_length=16)
    flags = ["--n_steps", 2, "--text_prefix", "", "--max_seq_length", 32]
    result = attribute(model, tmp_path / "out", *flags)
    warnings = [line for line in result.log.splitlines() if "WARNING" in line]
    assert len(warnings) == 2 and "--text_prefix is ''" in warnings[0]
    assert "--max_seq_length is 32, but the model was trained with 16" in warnings[1]


def test_hostile_folders(attribute, tiny_model, tmp_path):
    """A pickle is not loaded, and code of a model's folder does not run; nothing asks whether it
    may.
    """
    pickled = shutil.copytree(tiny_model, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert_user_error(attribute(pickled, tmp_path / "out"), "cannot load", "pickled")

    marker = tmp_path / "marker"
    code = f"open({str(marker)!r}, 'w')\nfrom transformers import BertConfig as Evil\n"
    for name, automatic in (
        ("config.json", {"AutoConfig": "evil.Evil"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Evil", None]}),
    ):
        hostile = shutil.copytree(tiny_model, tmp_path / name)
        (hostile / "evil.py").write_text(code)
        content = json.loads((hostile / name).read_text()) | {"auto_map": automatic}
        if name == "config.json":
            content |= {"model_type": "evil"}
        else:
            content |= {"tokenizer_class": "EvilTokenizer"}
        (hostile / name).write_text(json.dumps(content))
        result = attribute(hostile, tmp_path / f"out-{name}", "--n_steps", 2)
        assert not marker.exists() and "[y/N]" not in result.out
        if result.code:
            assert_user_error(result, name)


def test_a_full_and_a_read_only_disk(attribute, tiny_model, tmp_path, full_disk):
    """One line that says what to do; after that, the same command continues."""
    out = tmp_path / "out"
    flags = ["--text", TEXT, "every form", "--n_steps", 2]
    for name in ("settings.json", "1.jsonl", "summary.json"):
        with full_disk(name):
            assert_user_error(
                attribute(tiny_model, out, *flags), "No space left", "free some space"
            )
    result = attribute(tiny_model, out, *flags)
    assert result.code == 0 and "2 of 2 documents are finished already" in result.log

    (tmp_path / "file").write_text("")
    assert_user_error(attribute(tiny_model, tmp_path / "file/out"), "cannot write", "file/out")


def test_only_own_files_are_removed(attribute, tiny_model, tmp_path):
    """The folder of another project, links to folders, an own folder with a file of the user."""
    other = tmp_path / "other"
    (other / "partial").mkdir(parents=True)
    (other / "partial/1.jsonl").write_text("{}")
    (other / "summary.json").write_text('{"documents": 3}')
    assert_user_error(attribute(tiny_model, other), "not empty", "another folder")
    assert (other / "partial/1.jsonl").read_text() == "{}"

    linked = tmp_path / "linked"
    linked.mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/1.jsonl").write_text("{}")
    os.symlink(tmp_path / "precious", linked / "partial")
    assert_user_error(attribute(tiny_model, linked), "'partial'", "another folder")
    assert (tmp_path / "precious/1.jsonl").exists()

    own = tmp_path / "own"
    flags = ["--n_steps", 2]
    assert attribute(tiny_model, own, *flags).code == 0
    assert json.loads((own / "summary.json").read_text())["script"] == "run_attribution.py"
    (own / "partial").mkdir()
    (own / "partial/notes.txt").write_text("mine")
    assert_user_error(attribute(tiny_model, own, *flags), "partial/notes.txt")
    assert (own / "partial/notes.txt").read_text() == "mine"


def test_a_finished_folder_that_was_changed(attribute, tiny_model, tmp_path):
    out = tmp_path / "out"
    flags = ["--text", TEXT, "every form", "--n_steps", 2]
    attribute(tiny_model, out, *flags)
    whole = (out / "attributions.jsonl").read_text()
    (out / "attributions.jsonl").write_text(whole.split("\n")[0] + "\n")
    assert_user_error(attribute(tiny_model, out, *flags), "lacks 1 documents (text-2)")
    (out / "attributions.jsonl").write_text(whole[:-20])
    assert_user_error(attribute(tiny_model, out, *flags), "attributions.jsonl", "damaged")
    assert not (out / "partial").exists()


@pytest.mark.parametrize(
    "text", ["we prove that " * 400_000, "x" * 5_000_000], ids=["words", "one"]
)
def test_a_text_of_many_megabytes_is_cut_before_it_is_split(attribute, tiny_model, tmp_path, text):
    """The same attributions as for its beginning; to split it whole would take minutes."""
    (tmp_path / "book.txt").write_text(text + "\n")
    flags = ["--n_steps", 2, "--max_seq_length", 16]
    start = time.monotonic()
    result = attribute(tiny_model, tmp_path / "out", "--text_file", tmp_path / "book.txt", *flags)
    assert result.code == 0, result.err
    assert time.monotonic() - start < 60
    (line,), _ = read(tmp_path / "out")
    assert line["truncated"] and line["text"] == text
    attribute(tiny_model, tmp_path / "short", "--text", text[:2000], *flags)
    (short,), _ = read(tmp_path / "short")
    assert line["attributions"] == short["attributions"] and len(line["words"]) == len(
        short["words"]
    )
    assert [word[:50] for word in line["words"]] == [word[:50] for word in short["words"]]


def test_errors_of_a_programmer_are_tracebacks(attribute, tiny_model, tmp_path, monkeypatch):
    """Only a user's mistake is one line: whoever adapts the script needs a traceback."""

    def wrong(self, document):
        raise ValueError("of a copier's own code")

    monkeypatch.setattr(run_attribution.Explainer, "explain", wrong)
    with pytest.raises(ValueError, match="copier"):
        attribute(tiny_model, tmp_path / "out", "--n_steps", 2)


def test_bad_models(attribute, tiny_model, tmp_path):
    out = tmp_path / "out"
    assert_user_error(attribute("nobody/no-such-model", out), "nobody/no-such-model")

    headless = tmp_path / "headless"
    BertModel(
        BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(headless)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(headless)
    assert_user_error(attribute(headless, out), "headless", "classifier")

    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_model / name, bare)
    assert_user_error(attribute(bare, out), "bare", "tokenizer")

    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["classifier.bias"][2] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert_user_error(attribute(broken, out), "classifier.bias", "NaN")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(attribute, tiny_model, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    result = attribute(
        tiny_model,
        tmp_path,
    )
    assert_user_error(result, "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert_user_error(attribute(tiny_model, tmp_path / "thesis.tex"), "thesis.tex", "--output_dir")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    "flags", [[], ["--n_steps", "auto"], ["--n_steps", 3]], ids=["search", "auto", "captum"]
)
def test_a_text_without_tokens(attribute, tiny_model, tmp_path, flags):
    """A zero-width space: only [CLS] and [SEP] are left, and text and baseline are the same."""
    out = tmp_path / "out"
    result = attribute(tiny_model, out, "--text", "\u200b", "--figure_level", "words", *flags)
    assert result.code == 0, result.err
    ((line,), _) = read(out)
    assert (
        line["tokens"] == ["[CLS]", "[SEP]"]
        and line["words"] == []
        and line["relative_error"] is None
    )


def test_a_tokenizer_without_offsets_gives_tokens_as_words(tiny_model):
    document = {"text": "so 2-convex"}
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model)
    model.resize_token_embeddings(2**16)  # ids are code points, those of special tokens larger
    tokenizer = CanineTokenizer()
    tokenizer.model_max_length = 64
    arguments = run_attribution.AttributionArguments()
    explainer = run_attribution.Explainer(model, tokenizer, arguments)
    explainer.encode(document)
    assert document["token_spans"] is None and document["word_spans"] is None
    assert "".join(document["words"]) == "so 2-convex" and len(document["tokens"]) == 13
    assert document["word_ids"] == [None, *range(11), None] and not document["truncated"]


def line_of(name="1501.00001", **changes):
    """A line of attributions.jsonl."""
    return {
        "id": name,
        "text": "kähler metric",
        "label": "math.DG",
        "prediction": "math.AG",
        "target": "math.AG",
        "versus": None,
        "tokens": ["[CLS]", "ka", "##hler", "metric", "[SEP]"],
        "attributions": [0.0, 0.5, 0.25, -0.75, 0.0],
        "words": ["kähler", "metric"],
        "word_attributions": [0.75, -0.75],
        "word_ids": [None, 0, 0, 1, None],
        "word_spans": [[0, 6], [7, 13]],
        "token_spans": [None, [0, 2], [2, 6], [7, 13], None],
        "truncated": False,
    } | changes


def test_the_figure_shows_the_three_shortest_documents_that_were_not_cut(
    attribute, tiny_model, tmp_path
):
    texts = [
        "every form ",
        "we prove that every form",
        "bound",
        "we prove convex " * 90,
        "flow under bound",
    ]
    out = tmp_path / "out"
    flags = ["--n_steps", 2, "--text", *texts, "--target", "math.AG", "--versus", "math.SG"]
    assert attribute(tiny_model, out, *flags, "--max_seq_length", 5).code == 0
    png = (out / "attributions.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", png[16:20])[0] == 2000
    tex = (out / "attributions.tex").read_text()
    assert tex.count(r"\token{") == 4 + 3 + 5
    assert [name for name in ("text-1", "text-3", "text-5") if name in tex] == [
        "text-1",
        "text-3",
        "text-5",
    ]
    assert (
        "text-2" not in tex and "text-4" not in tex and "target math.AG rather than math.SG" in tex
    )
    assert r"\documentclass{article}" in tex and tex.rstrip().endswith(r"\end{document}")
    assert not list(out.glob("*.tmp"))
    kept = (out / "attributions.jsonl").stat().st_mtime_ns
    again = ["--figure_ids", "text-2", "text-1", "--figure_level", "words"]
    result = attribute(tiny_model, out, *flags, "--max_seq_length", 5, *again)
    tex = (out / "attributions.tex").read_text()
    assert "5 of 5 documents are finished" in result.log and tex.index("text-2") < tex.index(
        "text-1"
    )
    assert (out / "attributions.jsonl").stat().st_mtime_ns == kept and "text-3" not in tex


def test_words_and_marks_in_the_figure():
    words = run_attribution.figure_text(line_of(), "words")
    assert words == [("kähler", "#229e49"), ("metric", "#e45854")]
    tokens = run_attribution.figure_text(line_of(), "tokens")
    assert [token for token, _ in tokens] == ["[CLS]", "ka", "##hler", "metric", "[SEP]"]
    marked = line_of(tokens=["<s>", "ĠkÃ¤", "hler", "Ġmetric", "</s>"])
    assert [token for token, _ in run_attribution.figure_text(marked, "tokens")] == [
        "<s>",
        "kä",
        "hler",
        "metric",
        "</s>",
    ]


def test_colors_follow_sign_and_size():
    scores = [0.0, 2.0, -2.0, 1.0, 0.0]
    colors = [
        background
        for _, background in run_attribution.figure_text(line_of(attributions=scores), "tokens")
    ]
    assert colors[:3] == ["#ffffff", "#229e49", "#e45854"]
    assert sum(bytes.fromhex(colors[3][1:])) > sum(bytes.fromhex(colors[1][1:]))
    none = line_of(attributions=[0.0] * 5)
    assert {background for _, background in run_attribution.figure_text(none, "tokens")} == {
        "#ffffff"
    }


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs a TeX: article, amsmath and xcolor"
)
def test_latex_compiles(tmp_path):
    """Every character that LaTeX minds, accents, Greek, letters that the fonts lack, and a line to
    be broken.
    """
    tokens = [
        "[CLS]",
        *r"# $ % & _ { } ~ ^ \ ## [ ] < > | \" ' ` - -- \alpha $L^2$ K\"ahler".split(),
    ]
    tokens += [
        "Kähler",
        "##ß",
        "Łódź",
        "Poincaré",
        "Hölder",
        "α",
        "ℝ",
        "∞",
        "⊗",
        "数",
        "–",
        "“",
    ] + ["geometry"] * 40
    scores = [(-1) ** k * k / len(tokens) for k in range(len(tokens))]
    tex = run_attribution.latex(
        [line_of(tokens=tokens, attributions=scores, label="50 % & <x>")], "tokens"
    )
    (tmp_path / "attributions.tex").write_text(tex, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "attributions.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and (tmp_path / "attributions.pdf").stat().st_size > 5000


def test_png_of_a_line_to_be_broken():
    one = line_of(
        tokens=["geometry"] * 60, attributions=[0.1] * 60, token_spans=None, word_ids=[None] * 60
    )
    low, high = (run_attribution.draw_png([line], "tokens") for line in (line_of(), one))
    heights = [struct.unpack(">I", png[20:24])[0] for png in (low, high)]
    assert heights[1] > heights[0] + 3 * 50


def test_a_byte_order_mark_is_no_part_of_the_text(attribute, tiny_model, tmp_path):
    (tmp_path / "texts.txt").write_bytes(b"\xef\xbb\xbfwe prove\n")
    assert (
        attribute(
            tiny_model, tmp_path / "out", "--n_steps", 2, "--text_file", tmp_path / "texts.txt"
        ).code
        == 0
    )
    assert read(tmp_path / "out")[0][0]["text"] == "we prove"


@pytest.mark.parametrize("flags", [["--n_steps", 3], [], ["--n_steps", "auto"]])
def test_infinite_logits_are_one_line(attribute, tiny_model, tmp_path, flags):
    """Finite weights whose product overflows: the logits are infinite; NaN would be no JSON."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["classifier.weight"] = torch.full_like(weights["classifier.weight"], 3e38)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert_user_error(attribute(model, tmp_path / "out", *flags), "text-1", "not finite")
    assert not (tmp_path / "out").exists()


def test_infinite_gradients_are_one_line(attribute, tiny_model, tmp_path):
    """Logits that are finite at both ends of the path, and gradients that overflow."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["classifier.weight"] *= 0
    weights["classifier.weight"][0, 0] = 1e38
    weights["bert.embeddings.LayerNorm.weight"] *= 1e-3
    weights["bert.encoder.layer.0.attention.self.query.weight"] *= 1e20
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    result = attribute(model, tmp_path / "out", "--target", "math.AG")
    assert_user_error(result, "not finite")
    assert not (tmp_path / "out/attributions.jsonl").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--method", "riemann_left"], "--method"),
        (["--n_steps", 9], "--n_steps 8"),
        (["--target", "math.SG"], "--target"),
        (["--target", "math.AG", "--versus", "math.SG"], "--target"),
        (["--baseline", "mask"], "--baseline"),
        (["--max_seq_length", 5], "--max_seq_length 128"),
        (["--text", "every form"], "other documents"),
        (["--merge_words", "false"], "--merge_words"),
    ],
)
def test_other_settings_do_not_replace_what_is_there(attribute, tiny_model, tmp_path, flags, named):
    attribute(tiny_model, tmp_path / "out", "--n_steps", 8)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    first = [] if "--n_steps" in flags else ["--n_steps", 8]
    assert_user_error(
        attribute(tiny_model, tmp_path / "out", *first, *flags), named, "another folder"
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_another_model_and_an_older_folder_are_refused(attribute, tiny_model, tmp_path):
    out = tmp_path / "out"
    attribute(tiny_model, out, "--n_steps", 2)
    other = write_tiny_model(tmp_path / "other", seed=5)
    assert_user_error(
        attribute(other, out, "--n_steps", 2), "--model_name_or_path", "another folder"
    )
    summary = json.loads((out / "summary.json").read_text())
    del summary["settings"]
    (out / "summary.json").write_text(json.dumps(summary))
    assert_user_error(attribute(tiny_model, out, "--n_steps", 2), "older version", "another folder")


def test_a_changed_configuration_is_noticed(attribute, run, steep_model, tmp_path, monkeypatch):
    """Other names of the classes, another activation: of finished and interrupted runs."""
    model = shutil.copytree(steep_model, tmp_path / "model")
    flags = ["--text", TEXT, "every form", "--n_steps", 2]
    attribute(model, tmp_path / "done", *flags)
    explain = run_attribution.Explainer.explain

    def stopped(self, document):
        return explain(self, document) if document["id"] == "text-1" else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(run_attribution.Explainer, "explain", stopped)
        with pytest.raises(ZeroDivisionError):
            attribute(model, tmp_path / "stopped", *flags)
    names = {str(number): f"new {number}" for number in range(len(LABELS))}
    before = (model / "config.json").read_text()
    for changes in ({"id2label": names}, {"hidden_act": "relu"}):
        change_config(model, **changes)
        for out in (tmp_path / "done", tmp_path / "stopped"):
            assert_user_error(attribute(model, out, *flags), "another config.json", str(out))
        result = run("measure_faithfulness", "--attribution_dir", tmp_path / "done")
        assert_user_error(result, "has another config.json")
        (model / "config.json").write_text(before)
    # What another version of transformers would write, and a folder of version 0.2
    change_config(model, transformers_version="5.0.0", dtype="float16")
    assert attribute(model, tmp_path / "stopped", *flags).code == 0
    summary = json.loads((tmp_path / "done" / "summary.json").read_text())
    del summary["settings"]["config_sha256"]
    (tmp_path / "done" / "summary.json").write_text(json.dumps(summary))
    assert attribute(model, tmp_path / "done", *flags).code == 0


def test_two_runs_into_one_folder_at_once(attribute, tiny_model, tmp_path):
    partial = tmp_path / "out/partial"
    partial.mkdir(parents=True)
    with filelock.FileLock(partial / "lock"):
        assert_user_error(
            attribute(tiny_model, tmp_path / "out", "--n_steps", 2), "another process", "out"
        )
    assert attribute(tiny_model, tmp_path / "out", "--n_steps", 2).code == 0


@pytest.mark.parametrize(
    ("texts", "labels", "words"),
    [
        ("A text.", None, ["texts is one text", "give a list"]),
        (["A text."], "math.AG", ["labels is one text", "give a list"]),
        (["A text.", " "], None, ["1 of 2 documents of texts (text-2) have no text"]),
        ([3], None, ["text 1 is int"]),
        ([], None, ["texts has no documents"]),
        (["A text.", "Two."], ["math.AG"], ["2 texts, but 1 labels"]),
        (["A text."], ["math.XX"], ["'math.XX' is not one of", "math.AG"]),
        (["A text."], [0], ["0 is not one of"]),
        (["A text."], [["math.AG"]], ["list of classes"]),
        (["A text."], [None], ["have no label"]),
    ],
)
def test_attribute_names_the_mistake(tiny_model, texts, labels, words):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model)
    target = "label" if labels else "predicted"
    with pytest.raises(ValueError) as error:
        run_attribution.attribute(model, tokenizer, texts, labels, n_steps=2, target=target)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "flags", [{"n_steps": 5}, {"n_steps": "auto"}, {"target": "all", "n_steps": 3}, {}]
)
def test_attribute_returns_the_objects_of_the_file(attribute, steep_model, tmp_path, flags):
    tokenizer = AutoTokenizer.from_pretrained(steep_model)
    model = AutoModelForSequenceClassification.from_pretrained(
        steep_model, dtype=torch.float32
    ).train()
    texts = [TEXT, "every scheme bounds <b> a floer volume"]
    lines = run_attribution.attribute(model, tokenizer, texts, **flags)
    assert model.training and all(values.requires_grad for values in model.parameters())
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    attribute(steep_model, tmp_path / "out", "--text", *texts, *words)
    for line, expected in zip(lines, read(tmp_path / "out")[0], strict=True):
        page, line = line._repr_html_(), json.loads(json.dumps(line))
        assert list(line) == list(expected)
        for name in set(line) - {"seconds", "classes", "captum_delta", "gaps", "relative_error"}:
            assert (
                line[name] == pytest.approx(expected[name], abs=1e-5, rel=1e-4)
                if "attr" in name
                else True
            )
            assert type(line[name]) is type(expected[name])
        assert "#229e49" in page or "#e45854" in page
        assert "<b> " not in page and line["words"][0] in page
    with pytest.raises(ValueError, match=r"math\.NT"):
        run_attribution.attribute(model, tokenizer, texts, target="math.NT")
    with pytest.raises(ValueError, match="label"):
        run_attribution.attribute(model, tokenizer, texts, target="label")


@pytest.mark.parametrize("flags", [{"n_steps": 5}, {"n_steps": "auto"}])
def test_no_document_waits_for_the_garbage_collector(steep_model, monkeypatch, flags):
    """A full collection takes longer than a short document where many objects live, as after
    imports in a notebook.
    """
    tokenizer = AutoTokenizer.from_pretrained(steep_model)
    model = AutoModelForSequenceClassification.from_pretrained(steep_model, dtype=torch.float32)
    collections = []
    monkeypatch.setattr(gc, "collect", lambda *generation: collections.append(generation))
    run_attribution.attribute(model, tokenizer, [TEXT], **flags)
    assert not collections and gc.get_freeze_count() == 0


@pytest.mark.parametrize("flags", [["--n_steps", 40], ["--n_steps", "auto"]])
def test_versus_and_all_are_consistent(attribute, steep_model, tmp_path, flags):
    """A contrast is the difference of two classes; the classes of --target all are those of single
    targets.
    """
    found = {}
    targets = {
        "AG": ["--target", "math.AG"],
        "SG": ["--target", "math.SG"],
        "all": ["--target", "all"],
        "contrast": ["--target", "math.AG", "--versus", "math.SG"],
    }
    for name, more in targets.items():
        result = attribute(steep_model, tmp_path / name, *flags, *more)
        assert result.code == 0, result.err
        ((found[name],), _) = read(tmp_path / name)
    assert found["contrast"]["versus"] == "math.SG" and list(found["all"]["classes"]) == LABELS
    difference = np.subtract(found["AG"]["attributions"], found["SG"]["attributions"])
    np.testing.assert_allclose(found["contrast"]["attributions"], difference, atol=1e-5)
    for name in ("AG", "SG"):
        one = found["all"]["classes"][f"math.{name}"]
        np.testing.assert_allclose(one["attributions"], found[name]["attributions"], atol=1e-5)
        assert one["f_input"] == pytest.approx(found[name]["f_input"], abs=1e-5)
    best = found["all"]["classes"][found["all"]["prediction"]]
    assert (
        found["all"]["attributions"] == best["attributions"]
        and found["all"]["target"] == found["all"]["prediction"]
    )
    counts = [one["gradient_evaluations"] for one in found["all"]["classes"].values()]
    assert found["all"]["gradient_evaluations"] == sum(counts)
