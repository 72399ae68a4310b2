"""tools/comparison/runs.py: which runs belong together, and damaged run folders."""

import json

import numpy as np
import pandas as pd
import pytest
from compared_runs import edit, edit_bytes, results_of, write_pair, write_run
from conftest import LABELS, assert_user_error
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss

from comparison.runs import NOT_COMPARED, choose_reference, pool_runs, pooling_notes, read_runs
from run_classification import NOT_IDENTIFYING


@pytest.fixture
def pair(tmp_path):
    return write_pair(tmp_path)


def names_and_sizes(*folders):
    read = read_runs([str(folder) for folder in folders])
    return [(model.name, model.seeds) for model in pool_runs(read)]


def test_pooling(tmp_path):
    labels = np.zeros(3, dtype=int)

    def make(name, **record):
        return write_run(tmp_path / name, labels, labels, **record)

    a, b = (
        make(f"a{seed}", model_name_or_path="org/m", seed=seed, learning_rate=1e-5)
        for seed in (1, 2)
    )
    other = make("other", model_name_or_path="org/m", seed=1, learning_rate=3e-5)
    again = make("again", model_name_or_path="org/m/", seed=2, learning_rate=1e-5)
    bare = make("bare")
    packed = make("packed", model_name_or_path="/lib/minilm/model", seed=1)
    shallow = make(
        "shallow", model_name_or_path=None, config_name="configs/shallow/0_layers.json", seed=1
    )
    assert names_and_sizes(a, b) == [("m", 2)]
    assert names_and_sizes(a, b, other) == [
        ("m (learning rate 1e-05)", 2),
        ("m (learning rate 3e-05)", 1),
    ]
    assert names_and_sizes(b, again) == [("m (a2)", 1), ("m (again)", 1)]
    assert names_and_sizes(bare, packed, shallow) == [("bare", 1), ("minilm", 1), ("0_layers", 1)]
    parts = [
        make(
            f"v{number}", model_name_or_path="m", seed=seed, learning_rate=1e-5, arguments=arguments
        )
        for number, (seed, arguments) in enumerate(
            [
                (1, {"dataset_name": "data/x"}),
                (2, {"dataset_name": "/elsewhere/x"}),
                (1, {"dataset_name": "data/shuffled"}),
                (1, {"dataset_name": "data/x", "max_train_samples": 500}),
            ]
        )
    ]
    assert names_and_sizes(*parts) == [
        ("m (dataset x, all training documents)", 2),
        ("m (dataset shuffled, all training documents)", 1),
        ("m (dataset x, 500 training documents)", 1),
    ]
    # An SVM has no learning rate, and is named by its size as an encoder is.
    svms = [
        make(f"svm{size}", script="run_baseline.py", seed=1, arguments={"max_train_samples": size})
        for size in (None, 500)
    ]
    assert names_and_sizes(*svms) == [
        ("TF-IDF + linear SVM (all training documents)", 1),
        ("TF-IDF + linear SVM (500 training documents)", 1),
    ]
    baseline = make("folder")
    (baseline / "model.skops").touch()
    assert names_and_sizes(baseline) == [("TF-IDF + linear SVM", 1)]


def make_seeds(tmp_path, *records):
    """Folders of runs of the model org/m, with the seeds 1, 2 and so on, and these records."""
    labels = np.zeros(3, dtype=int)
    folders = []
    for number, record in enumerate(records):
        fields = {"model_name_or_path": "org/m", "seed": number + 1, "learning_rate": 1e-5}
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        write_run(folder, labels, labels, scores=None)
        (folder / "run_arguments.json").write_text(json.dumps(fields | record))
        folders.append(folder)
    return folders


def test_runs_that_differ_in_more_than_the_seed_are_not_pooled(tmp_path):
    def rows(*records):
        return names_and_sizes(*make_seeds(tmp_path, *records))

    def rows_of_arguments(*arguments):
        return rows(*({"arguments": values} for values in arguments))

    assert rows_of_arguments(
        {"max_seq_length": 128, "text_prefix": "", "num_train_epochs": 10.0},
        {"max_seq_length": 128, "text_prefix": "", "num_train_epochs": 10},
        {"max_seq_length": 512, "text_prefix": "query: ", "num_train_epochs": 4.0},
    ) == [
        ("m (max_seq_length 128, num_train_epochs 10, text_prefix '')", 2),
        ("m (max_seq_length 512, num_train_epochs 4, text_prefix 'query: ')", 1),
    ]
    assert rows_of_arguments({"warmup_steps": 0.06}, {"warmup_steps": 0.1}) == [
        ("m (warmup_steps 0.06)", 1),
        ("m (warmup_steps 0.1)", 1),
    ]
    assert rows({"total_train_batch_size": 32}, {"total_train_batch_size": 64}) == [
        ("m (total_train_batch_size 32)", 1),
        ("m (total_train_batch_size 64)", 1),
    ]
    assert rows({"labels": ["a", "b"]}, {"labels": ["b", "a"]}, {"labels": ["a", "b", "c"]}) == [
        ("m (classes a b)", 2),
        ("m (classes a b c)", 1),
    ]
    # The name of a row is not a list of everything.
    many = [{f"flag{number}": value for number in range(5)} for value in (1, 2)]
    assert rows_of_arguments(*many) == [
        ("m (flag0 1, flag1 1, flag2 1 and 2 more)", 1),
        ("m (flag0 2, flag1 2, flag2 2 and 2 more)", 1),
    ]
    # Rows that differ in the learning rate, too
    lr = [{"learning_rate": rate, "arguments": {"weight_decay": rate}} for rate in (0.1, 0.2)]
    assert rows(*lr) == [
        ("m (learning rate 0.1, weight_decay 0.1)", 1),
        ("m (learning rate 0.2, weight_decay 0.2)", 1),
    ]


def test_what_seeds_may_differ_in(tmp_path):
    """Paths, seeds, logging and machine; what older runs do not record; None written as text."""
    first = {"data_seed": 1, "output_dir": "a", "logging_steps": 1, "max_seq_length": 128}
    first |= {"hub_model_id": "a", "mixed_precision": "bf16", "label_names": None}
    second = {"data_seed": 2, "output_dir": "b", "logging_steps": 9, "label_names": "None"}
    second |= {"hub_model_id": "b", "mixed_precision": "no", "train_sampling_strategy": "random"}
    folders = make_seeds(
        tmp_path,
        {"arguments": first, "precision": "bf16", "data_fingerprints": {"train": "0", "test": "2"}},
        {"arguments": second, "data_fingerprints": {"train": "1", "test": "2"}},
        {},
    )
    runs = read_runs([str(folder) for folder in folders])
    models = pool_runs(runs)
    assert [(model.name, model.seeds) for model in models] == [("m", 3)]
    assert pooling_notes(models, runs) == [
        "The 3 runs of m differ in more than their seed: precision (bf16, fp32), training "
        "documents."
    ]
    assert pooling_notes(pool_runs(runs[:1]), runs[:1]) == []
    # A run that does not say which of two it is belongs to neither.
    folders = make_seeds(
        tmp_path, *({"arguments": {"max_seq_length": length}} for length in (128, 512)), {}
    )
    assert names_and_sizes(*folders) == [
        ("m (max_seq_length 128)", 1),
        ("m (max_seq_length 512)", 1),
        ("m (max_seq_length not recorded)", 1),
    ]


def test_flags_that_cannot_change_a_result_do_not_keep_seeds_apart():
    """run_classification.py records none of them; earlier versions and other scripts did."""
    assert set(NOT_IDENTIFYING) - set(NOT_COMPARED) == set()


def test_models_of_two_organizations_are_two_models(tmp_path):
    labels = np.zeros(3, dtype=int)

    def make(folder, source, seed):
        record = {"model_name_or_path": source, "seed": seed, "learning_rate": 1e-5}
        return write_run(tmp_path / folder, labels, labels, **record)

    a1, a2 = (make(f"a{seed}", "Organization-A/m", seed) for seed in (1, 2))
    b3 = make("b3", "Organization-B/m", 3)
    local = make("local", "m", 4)
    assert names_and_sizes(a1, a2, b3) == [("Organization-A/m", 2), ("Organization-B/m", 1)]
    assert names_and_sizes(a1, a2) == [("m", 2)]
    assert names_and_sizes(a1, a2, local) == [("m", 3)]  # a copy of it in a folder


def test_notes_on_pooled_runs_are_published(tmp_path, run):
    labels = np.arange(40) % 5
    for seed, precision in ((1, "bf16"), (2, "fp32")):
        record = {"model_name_or_path": "m", "seed": seed, "precision": precision}
        write_run(tmp_path / f"m{seed}", labels, labels, **record)
    other = write_run(tmp_path / "other", labels, (labels + (labels == 1)) % 5)
    call = ("compare_runs", tmp_path / "m1", tmp_path / "m2", other, "--n_resamples", 100)
    assert run(*call, "--output_dir", tmp_path / "out").code == 0
    note = "The 2 runs of m differ in more than their seed: precision (bf16, fp32)."
    assert note in results_of(tmp_path / "out")["notes"]
    assert note in (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")


BROKEN = {
    "other documents": (
        lambda t: t.assign(id=["x", *t["id"][1:]]),
        ["different test sets", "1 documents only"],
    ),
    "fewer documents": (
        lambda t: t[1:],
        ["different test sets", "1 documents only in the first, 0 only"],
    ),
    "other labels": (
        lambda t: t.assign(label=t["label"][::-1].to_numpy()),
        ["different labels", "doc00"],
    ),
    "double id": (lambda t: t.assign(id=["doc0001", *t["id"][1:]]), ["doc0001", "more than once"]),
    "empty id": (lambda t: t.assign(id=["", *t["id"][1:]]), ["no id in row 2"]),
    "empty ids": (lambda t: t.assign(id=""), ["no id in row 2, 3, 4 (40 such rows)"]),
    "no column of ids": (lambda t: t.drop(columns="id"), ["no column 'id'"]),
    "no prediction": (
        lambda t: t.assign(prediction=[*t["prediction"][:-1], " "]),
        ["no prediction in row 41"],
    ),
    "no documents": (lambda t: t[:0], ["has no documents"]),
    "score is not a number": (
        lambda t: t.assign(**{"math.AG": ["?", *t["math.AG"][1:]]}),
        ["not a number", "doc0000"],
    ),
    "score column missing": (
        lambda t: t.drop(columns="math.DG"),
        ["no column of scores for class 'math.DG'"],
    ),
    "score is NaN": (
        lambda t: t.assign(**{"math.AG": ["nan", *t["math.AG"][1:]]}),
        ["not a number", "'doc0000'"],
    ),
    "a column of text": (lambda t: t.assign(title="A title"), ["not a number", "column 'title'"]),
    "probability below 0": (
        lambda t: t.assign(**{"math.AG": ["-0.1", *t["math.AG"][1:]]}),
        ["do not sum to 1"],
    ),
    "class of two lines": (lambda t: t.assign(label="a\nb"), ["class 'a\\nb'"]),
}


DAMAGED = {
    "cut in a row": (lambda content: content[:-40], ["'doc0039'"]),
    "cut in the last score": (lambda content: content[:-5], ["'doc0039'", "do not sum to 1"]),
    "cut in the header": (lambda content: content[:20], ["has no documents"]),
    "empty": (lambda content: b"", ["No columns"]),
    "zeros at the end": (lambda content: content[:-300] + bytes(300), ["not a number"]),
    "another encoding": (lambda content: content.decode().encode("utf-16"), ["utf-8"]),
    "semicolons": (lambda content: content.replace(b",", b";"), ["no column 'id'"]),
    "decimal commas": (
        lambda content: content.replace(b",0.", b",0,"),
        ["more values than its header"],
    ),
    "a spreadsheet's semicolons": (
        lambda content: (
            b"\xef\xbb\xbf" + content.replace(b".", b"_").replace(b",", b";").replace(b"_", b",")
        ),
        ["semicolons", "no column 'id'", "save it with commas"],
    ),
    "tabs": (lambda content: content.replace(b",", b"\t"), ["tabs", "save it with commas"]),
    "an open quote": (
        lambda content: content.replace(b"doc0003", b'"doc0003'),
        ["EOF inside string"],
    ),
}


HARMLESS = {
    "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "lines of Windows": lambda content: content.replace(b"\n", b"\r\n"),
    "blank lines": lambda content: content.replace(b"\n", b"\n\n"),
    "no last line feed": lambda content: content[:-1],
}


RECORDS = {
    "predict_results.json": [
        '{"predict_accuracy": "0.8"}',
        '{"predict_accuracy": NaN}',
        '{"predict_samples": 41}',
        "null",
        "[" * 100_000,
    ],
    "run_arguments.json": [
        '{"learning_rate": "2e-5"}',
        '{"seed": [1]}',
        '{"seed": true}',
        '{"seed": 1e999}',
        '{"see',
    ],
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_predictions(case, pair, run):
    good, bad, output = pair
    change, words = BROKEN[case]
    edit(bad / "predictions.csv", change)
    result = run("compare_runs", good, bad, "--output_dir", output)
    assert_user_error(result, bad, *words)
    assert len(result.err.splitlines()) == 1 and not output.exists()


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_predictions(case, pair, run):
    good, bad, output = pair
    change, words = DAMAGED[case]
    edit_bytes(bad / "predictions.csv", change)
    result = run("compare_runs", good, bad, "--output_dir", output)
    assert_user_error(result, bad, *words)
    assert len(result.err.splitlines()) == 1 and not output.exists()


def test_layout_of_predictions_does_not_matter(pair, run):
    good, bad, output = pair
    call = ("compare_runs", good, bad, "--output_dir", output, "--n_resamples", 100)
    assert run(*call).code == 0
    expected, content = results_of(output), (bad / "predictions.csv").read_bytes()
    for name, change in HARMLESS.items():
        edit_bytes(bad / "predictions.csv", lambda _, change=change: change(content))
        assert run(*call).code == 0 and results_of(output) == expected, name
    (bad / "predictions.csv").write_bytes(content)
    edit(
        bad / "predictions.csv",
        lambda table: table[
            ["math.SG", "prediction", "math.AG", "id", "math.DG", "label", "math.CV", "math.MG"]
        ],
    )
    assert run(*call).code == 0 and results_of(output) == expected


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name in RECORDS for content in RECORDS[name]]
)
def test_bad_records(name, content, pair, run):
    good, bad, output = pair
    (bad / name).write_text(content)
    result = run("compare_runs", good, bad, "--output_dir", output)
    assert_user_error(result, bad)
    assert len(result.err.splitlines()) == 1


def test_results_that_contradict_the_predictions(pair, run):
    """Whichever result of whichever file was edited."""
    good, bad, output = pair
    for name in ("predict_results.json", "all_results.json"):
        for key, value in (("samples", 41), ("accuracy", 0.9), ("f1", 0.9)):
            (bad / name).write_text(json.dumps({f"predict_{key}": value}))
            result = run("compare_runs", good, bad, "--output_dir", output)
            assert_user_error(result, bad, "damaged or mixes two runs", f"predict_{key} is", name)
        (bad / name).write_text('{"predict_accuracy": 0.8}')
    (bad / "all_results.json").write_text('{"predict_f1": 0.7333333}')
    done = run("compare_runs", good, bad, "--output_dir", output, "--n_resamples", 100)
    assert done.code == 0, done.err


def test_runs_on_other_texts_are_not_compared_unless_that_is_wanted(pair, run):
    good, bad, output = pair
    for folder, fingerprint in ((good, "0123456789abcdef"), (bad, "fedcba9876543210")):
        record = {"data_fingerprints": {"train": "0" * 16, "test": fingerprint}}
        (folder / "run_arguments.json").write_text(json.dumps(record))
    call = ("compare_runs", good, bad, "--output_dir", output, "--n_resamples", 100)
    assert_user_error(run(*call), good, bad, "other test data", "--allow_other_texts")
    assert not output.exists()
    allowed = ("compare_runs", "--allow_other_texts", good, bad, *call[3:])
    assert run(*allowed).code == 0
    assert results_of(output)["arguments"]["allow_other_texts"] is True
    # Runs of earlier versions record nothing, and another training split is a matter of the runs.
    record = {"data_fingerprints": {"train": "1" * 16, "test": "0123456789abcdef"}}
    for content in ({}, {"data_fingerprints": None}, {"data_fingerprints": {}}, record):
        (bad / "run_arguments.json").write_text(json.dumps(content))
        assert run(*call).code == 0, content


def test_ids_that_a_spreadsheet_has_rewritten(tmp_path, run):
    labels = np.arange(40) % 5
    ids = [f"2001.{10 * number:05d}" for number in range(40)]
    write_run(tmp_path / "good", labels, labels, ids=ids)
    write_run(tmp_path / "edited", labels, labels, ids=[str(float(name)) for name in ids])
    call = ("compare_runs", tmp_path / "good", tmp_path / "edited")
    result = run(*call, "--output_dir", tmp_path / "out")
    assert_user_error(result, "40 documents only in the first", "'2001.00000'", "spreadsheet")


def test_class_names_that_differ_are_shown_in_quotes(pair, run):
    good, bad, output = pair
    edit(bad / "predictions.csv", lambda table: table.replace("math.SG", " math.SG"))
    edit_bytes(
        bad / "predictions.csv", lambda content: content.replace(b",math.SG\n", b", math.SG\n")
    )
    result = run("compare_runs", good, bad, "--output_dir", output)
    assert_user_error(result, "'math.SG' and ' math.SG'", "only in the second: ' math.SG'")


def test_records_of_odd_shapes_do_not_stop_a_comparison(pair, run):
    good, bad, output = pair
    for arguments in ([], "x", {"max_train_samples": [1]}, {"dataset_name": {"a": 1}}):
        record = {"seed": 1, "model_name_or_path": ["m"], "arguments": arguments}
        (bad / "run_arguments.json").write_text(json.dumps(record))
        call = ("compare_runs", good, bad, "--output_dir", output, "--n_resamples", 100)
        assert run(*call).code == 0, arguments


def test_reference_is_chosen_without_the_test_split(tmp_path):
    labels = np.arange(40) % 5
    worse = (labels + (labels == 1)) % 5

    def chosen(*folders, named=None):
        runs = read_runs([str(folder) for folder in folders])
        models = pool_runs(runs)
        number, reason = choose_reference(named, models, runs)
        return models[number].name, reason

    def make(name, predictions, losses=(), **record):
        folder = write_run(tmp_path / name, labels, predictions, **record)
        for loss in losses:
            (folder / "eval_results.json").write_text(json.dumps({"eval_loss": loss}))
        return folder

    best = make("best", labels, [0.6], model_name_or_path="best", seed=1)
    fits = [
        make(f"fits{seed}", worse, [loss], model_name_or_path="fits", seed=seed)
        for seed, loss in ((1, 0.4), (2, 0.6))
    ]
    silent = make("silent", labels)
    svm = make("svm", worse, script="run_baseline.py")
    assert chosen(best, *fits) == ("fits", "it has the smallest loss on the validation split")
    assert chosen(best, *fits, svm) == ("TF-IDF + linear SVM", "it is the SVM")
    assert chosen(fits[0], silent)[0] == "fits"  # the first: not every run has a loss
    assert chosen(silent, fits[0])[0] == "silent"
    assert chosen(best, *fits, svm, named="best") == ("best", "it was named")


def test_documents_without_labels_are_refused(pair, run):
    good, bad, output = pair
    edit(bad / "predictions.csv", lambda table: table.drop(columns="label"))
    result = run("compare_runs", good, bad, "--output_dir", output)
    assert_user_error(result, "no column 'label'", "documents without labels", "predict labeled")


# Several labels per document


def write_label_sets(folder, truth, predicted, probabilities=None, **record):
    """A run folder of a multi-label model; truth and predicted are (documents, classes) bool."""
    labels = np.zeros(len(truth), dtype=int)
    record = {"problem_type": "multi_label_classification"} | record
    write_run(folder, labels, labels, scores=None, **record)
    table = pd.read_csv(folder / "predictions.csv")

    def lists(flags):
        return [json.dumps([LABELS[k] for k in np.flatnonzero(row)[::-1]]) for row in flags]

    table["label"], table["prediction"] = lists(truth), lists(predicted)
    if probabilities is not None:
        table[LABELS] = probabilities
    table.to_csv(folder / "predictions.csv", index=False, float_format="%.6f")
    return folder


@pytest.fixture
def label_sets(tmp_path):
    """Truth, and the predictions and probabilities of two models, of 200 documents."""
    generator = np.random.default_rng(0)
    truth = generator.random((200, 5)) < [0.5, 0.4, 0.3, 0.2, 0.1]
    models = {}
    for name, noise in (("good", 0.8), ("bad", 1.4)):
        logits = 2 * (2 * truth - 1) + generator.normal(0, 2 * noise, truth.shape)
        probabilities = np.round(1 / (1 + np.exp(-logits)), 6)
        models[name] = (probabilities >= 0.5, probabilities)
    return truth, models


def test_runs_with_several_labels_are_compared(tmp_path, run, label_sets):
    truth, models = label_sets
    folders = []
    for name, (predicted, probabilities) in models.items():
        folder = write_label_sets(tmp_path / name, truth, predicted, probabilities)
        scores = f1_score(truth, predicted, average="macro", zero_division=0)
        results = {"predict_f1": scores, "predict_accuracy": accuracy_score(truth, predicted)}
        (folder / "predict_results.json").write_text(json.dumps(results))
        folders.append(folder)
    output = tmp_path / "out"
    call = ("compare_runs", *folders, "--n_resamples", 200, "--output_dir", output)
    done = run(*call, "--reference", "bad")
    assert done.code == 0, done.err
    result = results_of(output)
    for row in result["models"]:
        predicted, probabilities = models[row["name"]]
        assert row["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
        assert row["macro_f1"] == pytest.approx(
            f1_score(truth, predicted, average="macro", zero_division=0)
        )
        logs = [log_loss(truth[:, k], probabilities[:, k]) for k in range(5)]
        assert row["log_loss"] == pytest.approx(np.mean(logs), rel=1e-4)
        squares = [brier_score_loss(truth[:, k], probabilities[:, k]) for k in range(5)]
        assert row["brier_score"] == pytest.approx(np.mean(squares))
    rows = {row["metric"]: row for row in result["pairs"]}
    assert {metric: row["test"] for metric, row in rows.items()} == {
        "accuracy": "exact McNemar",
        "macro_f1": "paired bootstrap",
        "log_loss": "paired t-test",
        "brier_score": "paired t-test",
    }
    good, bad = ((models[name][0] == truth).all(axis=1) for name in ("good", "bad"))
    assert rows["accuracy"]["only_model_right"] == (good & ~bad).sum()
    assert rows["macro_f1"]["low"] < rows["macro_f1"]["difference"] < rows["macro_f1"]["high"]
    per_class = {row["class"]: row for row in result["per_class_f1"]}
    assert per_class["math.CV"]["good"] == pytest.approx(
        f1_score(truth[:, 1], models["good"][0][:, 1])
    )
    assert per_class["math.CV"]["documents"] == truth[:, 1].sum()
    assert any("several labels per document" in note for note in result["notes"])

    # What predict_results.json says must be what predictions.csv gives.
    (folders[0] / "predict_results.json").write_text(json.dumps({"predict_f1": 0.1}))
    assert_user_error(run(*call), "good", "predict_f1")


def test_mistakes_with_several_labels(tmp_path, run, label_sets):
    truth, models = label_sets
    good = write_label_sets(tmp_path / "good", truth, *models["good"])
    one = write_run(tmp_path / "one", np.zeros(200, dtype=int), np.zeros(200, dtype=int))
    bad = write_label_sets(tmp_path / "bad", truth, *models["bad"])
    call = ("compare_runs", "--output_dir", tmp_path / "out", good)
    assert_user_error(run(*call, one), "several labels per document", "compare runs of one kind")
    content = (bad / "predictions.csv").read_text()
    edit(bad / "predictions.csv", lambda table: table.assign(label="math.AG"))
    assert_user_error(run(*call, bad), "doc0000", "JSON lists")
    (bad / "predictions.csv").write_text(content)
    record = {"problem_type": "regression"}
    (bad / "run_arguments.json").write_text(json.dumps(record))
    assert_user_error(run(*call, bad), "'regression'", "single_label_classification")
