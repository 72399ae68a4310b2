"""What the pages say about the findings is what the files of results/arxiv-dev say.

The comparisons themselves are recomputed from the kept predictions in
test_comparison_recomputed.py.
"""

import csv
import functools
import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy.stats import ttest_rel
from sklearn.metrics import f1_score
from statsmodels.stats.proportion import proportion_confint

from comparison.study_table import STUDY_TABLE
from comparison.verdict import two_digits

RESULTS = ROOT / "results" / "arxiv-dev"
SVM, MINILM, BAG = "TF-IDF + linear SVM", "all-MiniLM-L6-v2", "layers-0"
CALIBRATED = SVM  # of comparison-log-loss, where no other SVM is
SHUFFLED, ORDERED = f"{SVM} (dataset data-shuffled)", f"{SVM} (dataset data)"
BAG_SHUFFLED = f"{BAG} (dataset data-shuffled-{BAG})"
BAG_ORDERED = f"{BAG} (dataset data)"
# Their learning rates differ, too: each was searched.
MINILM_SHUFFLED = f"{MINILM} (learning rate 0.0001, dataset data-shuffled-{MINILM})"
MINILM_ORDERED = f"{MINILM} (learning rate 5e-05, dataset data)"
MINILM_ORDER = f"comparison-order-{MINILM}"
SIZES = (500, 1000, 2000, 4000)  # at which MiniLM was trained, besides all documents
SIZE_RATES = ("2e-5", "5e-5", "1e-4", "2e-4")
MPNET_RUN = "predictions/all-mpnet-base-v2-two-epochs"
CONTEXT = f"context-{MINILM}/context.json"
SAMPLING = f"{MINILM} (sampling {{}})"
PROBE = f"{MINILM}, mean of layer {{}}"
CONDITIONS = {
    "all words shuffled": {"block": 1},
    "pairs of words shuffled": {"block": 2},
    "sentences shuffled": {"block": "sentence"},
    "window of 0": {"window": 0},
    "window of 2": {"window": 2},
    "window of all": {"window": "all"},
}
PARTS = {"all": "all", "listed in another of the classes": "listed in another class"}


# Files and numbers


def from_json(name, *keys):
    value = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    for key in keys:
        value = value[key]
    return value


def from_csv(file_name, column, **row):
    with open(RESULTS / file_name, newline="", encoding="utf-8") as file:
        (found,) = [line for line in csv.DictReader(file) if row.items() <= line.items()]
    return found[column]


def read_page(name):
    """The text of a page in one line, so that line breaks do not matter."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def percent(value):
    return f"{100 * float(value):.2f}"


def signed(value):
    """Points with a sign."""
    return f"{100 * float(value):+.2f}"


def p_value(value):
    value = float(value)
    if value >= 0.995:
        return "1.00"
    digits = 3 if f"{value:.2g}" == "0.05" else 2  # on which side of 0.05
    return f"{value:.{digits}g}"


def interval_of(row, digits=3):
    return f"{row['low']:.{digits}f} to {row['high']:.{digits}f}"


def row_of(*cells):
    return f"| {' | '.join(cells)} |"


# Accuracy and log loss


def model_row(text, model):
    """A row of the table of models: accuracy with its interval, macro F1, log loss."""
    column = functools.partial(from_csv, "comparison/table2.csv", model=model, source="run")
    spread = f" ± {percent(column('accuracy_sd'))}" if column("accuracy_sd") else ""
    interval = f"{percent(column('accuracy_low'))} to {percent(column('accuracy_high'))}"
    loss = f"{float(column('log_loss')):.3f}" if column("log_loss") else ""
    accuracy = f"{percent(column('accuracy'))}{spread}"
    return row_of(
        text, column("seeds"), accuracy, interval, percent(column("macro_f1")), loss
    ).replace("|  |", "| |")


def calibrated_row(text):
    """The SVM with probabilities, from the comparison of log losses."""
    column = functools.partial(
        from_csv, "comparison-log-loss/table2.csv", model=CALIBRATED, source="run"
    )
    interval = f"{percent(column('accuracy_low'))} to {percent(column('accuracy_high'))}"
    numbers = [percent(column("macro_f1")), f"{float(column('log_loss')):.3f}"]
    return row_of(text, column("seeds"), percent(column("accuracy")), interval, *numbers)


def rate_row(text, model, rate):
    """A learning rate: lowest validation loss, accuracy of that epoch."""
    column = functools.partial(from_csv, f"{model}/learning_rates.csv", learning_rate=rate)
    numbers = [f"{float(column('eval_loss')):.4f}", percent(column("eval_accuracy"))]
    return row_of(text, rate, *numbers)


def pair_row(text, comparison, model, reference):
    """A difference of accuracy: interval; p and verdict in the family; documents needed."""
    row = {"model": model, "reference": reference, "metric": "accuracy"}
    column = functools.partial(from_csv, f"{comparison}/pairs.csv", **row)
    in_family = functools.partial(from_csv, "family/family.csv", comparison=comparison, **row)
    interval = f"{signed(column('low'))} to {signed(column('high'))}"
    needed = in_family("documents_needed")
    needed = f"{two_digits(int(needed)):,}" if needed else "only more seeds"
    cells = [text, f"{column('seeds')}, {column('reference_seeds')}", signed(column("difference"))]
    cells += [interval, p_value(in_family("p_holm")), in_family("verdict"), needed]
    return row_of(*cells, f"`{comparison}/`")


def loss_row(text, model, reference):
    """A difference of log loss: interval; p and verdict in the family."""
    row = {"model": model, "reference": reference, "metric": "log_loss"}
    column = functools.partial(from_csv, "comparison-log-loss/pairs.csv", **row)
    in_family = functools.partial(
        from_csv, "family/family.csv", comparison="comparison-log-loss", **row
    )
    low, high, difference = (f"{float(column(key)):+.3f}" for key in ("low", "high", "difference"))
    cells = [
        text,
        f"{column('seeds')}, {column('reference_seeds')}",
        difference,
        f"{low} to {high}",
    ]
    return row_of(*cells, p_value(in_family("p_holm")), in_family("verdict"))


def family_sentence():
    tests = from_csv_first("family/family.csv", "tests_in_family")
    return f"corrected by Holm's method for all {tests} tests"


def from_csv_first(name, column):
    with open(RESULTS / name, newline="", encoding="utf-8") as file:
        return next(csv.DictReader(file))[column]


def shuffled_bag_text():
    """The learning rate of the bag of embeddings on shuffled words."""
    with open(RESULTS / f"{BAG}-shuffled/learning_rates.csv", newline="", encoding="utf-8") as file:
        best = next(csv.DictReader(file))  # the rows are in the order of the validation loss
    return f"({best['learning_rate']} again, validation loss {float(best['eval_loss']):.4f})"


def order_text():
    """What MiniLM loses when it is trained and tested on shuffled words; nothing is decided."""
    names = {"model": MINILM_SHUFFLED, "reference": MINILM_ORDERED}
    column = functools.partial(from_csv, f"{MINILM_ORDER}/pairs.csv", metric="accuracy", **names)
    in_family = functools.partial(from_csv, "family/family.csv", comparison=MINILM_ORDER, **names)
    for metric in ("accuracy", "macro_f1", "log_loss", "brier_score"):
        assert in_family("verdict", metric=metric) == "undecided"
    difference, low, high = (signed(column(key)) for key in ("difference", "low", "high"))
    p, p_holm = p_value(column("p")), p_value(in_family("p_holm", metric="accuracy"))
    return [
        f"differs by {difference} points ({low} to {high}, p = {p_holm} after correction)",
        f"it is {difference.lstrip('-')} points less accurate (uncorrected p = {p})",
        f"the change is {difference} points ({low} to {high}), instead",
    ]


def minilm_p_text():
    """p of MiniLM against the SVM alone and in the family; against the calibrated SVM."""
    names = {"model": MINILM, "reference": SVM}
    row = names | {"metric": "accuracy"}
    alone = p_value(from_csv("comparison/pairs.csv", "p", **row))
    together = p_value(from_csv("family/family.csv", "p_holm", comparison="comparison", **row))
    tests = from_csv_first("family/family.csv", "tests_in_family")
    row = names | {"metric": "brier_score", "comparison": "comparison-log-loss"}
    brier = p_value(from_csv("family/family.csv", "p_holm", **row))
    row |= {"metric": "accuracy"}
    calibrated = functools.partial(from_csv, "family/family.csv", **row)
    change = " to ".join(signed(calibrated(column=key)) for key in ("low", "high"))
    change = f"{signed(calibrated(column='difference'))} points ({change}"
    assert calibrated(column="verdict") == "undecided"
    return [
        f"{change}, p = {p_value(calibrated(column='p_holm'))})",
        f"(uncorrected p = {alone}; p = {together} after correction for {tests} tests)",
        f"so is its Brier score (p = {brier})",
    ]


def cost_row(text, model):
    """Seconds of training, parameters, documents per second."""
    column = functools.partial(from_csv, "comparison/cost.csv", name=model)
    cells = [f"{float(column('train_seconds')):,.0f}", f"{int(float(column('parameters'))):,}"]
    cells += [f"{float(column('documents_per_second')):,.0f}", percent(column("accuracy"))]
    return row_of(text, *cells)


def mpnet_row():
    """The one training of all-mpnet-base-v2: scores of its kept predictions, seconds."""
    folder = f"{MPNET_RUN}/lr-5e-5-seed-1"
    predictions = pd.read_csv(RESULTS / folder / "predictions.csv")
    right = int((predictions["label"] == predictions["prediction"]).sum())
    low, high = proportion_confint(right, len(predictions), method="wilson")
    f1 = f1_score(predictions["label"], predictions["prediction"], average="macro")
    chosen = [row[row["label"]] for _, row in predictions.iterrows()]
    arguments = from_json(f"{folder}/run_arguments.json", "arguments")
    assert (arguments["num_train_epochs"], arguments["total_train_batch_size"]) == (2, 32)
    loss = from_json(f"{folder}/eval_results.json", "eval_loss")
    seconds = from_json(f"{folder}/train_results.json", "train_runtime")
    cells = [f"{loss:.4f}", percent(right / len(predictions)), f"{percent(low)} to {percent(high)}"]
    cells += [percent(f1), f"{-np.log(chosen).mean():.3f}", f"{seconds:,.0f}"]
    return row_of("all-mpnet-base-v2", "1", *cells)


def slice_row(text, part, model):
    """A row of the accuracies on a part of the test split."""
    column = functools.partial(from_csv, "comparison/slices.csv", slice=part, model=model)
    cells = []
    for key in ("accuracy", "any_listed"):
        interval = f"{percent(column(f'{key}_low'))} to {percent(column(f'{key}_high'))}"
        cells.append(f"{percent(column(key))} ({interval})")
    return row_of(text, column("documents"), *cells)


def curve_row(size):
    """Accuracy with so many training documents, and the difference to the SVM if it was tested."""
    svm = "svm" if size == 7787 else f"svm-{size}"
    cells = [f"{size:,}", percent(from_csv("runs.csv", "predict_accuracy", run=svm))]
    comparison = "comparison" if size == 7787 else f"comparison-size-{size}"
    if not (RESULTS / comparison).exists():
        return f"{row_of(*cells)} | | | | |"
    encoder = functools.partial(from_csv, f"{comparison}/table2.csv", model=MINILM, source="run")
    row = {"model": MINILM, "reference": SVM, "metric": "accuracy"}
    in_family = functools.partial(from_csv, "family/family.csv", comparison=comparison, **row)
    cells.append(f"{percent(encoder('accuracy'))} ± {percent(encoder('accuracy_sd'))}")
    cells.append(signed(in_family("difference")))
    cells.append(f"{signed(in_family('low'))} to {signed(in_family('high'))}")
    return row_of(*cells, p_value(in_family("p_holm")), in_family("verdict"))


def chosen_rate(size):
    """The learning rate with the lowest validation loss; the rows are in that order."""
    name = f"{MINILM}/learning_rates.csv" if size == 7787 else f"{MINILM}-{size}/learning_rates.csv"
    return from_csv_first(name, "learning_rate")


def size_rate_row(size):
    """The lowest validation losses of MiniLM's learning rates with so many training documents."""
    folder = f"predictions/{MINILM}" if size == 7787 else f"predictions/{MINILM}-{size}"
    losses = {}
    for rate in SIZE_RATES:
        run = f"{folder}/lr-{rate}-seed-1/eval_results.json"
        if (RESULTS / run).exists():
            losses[rate] = from_json(run, "eval_loss")
    assert chosen_rate(size) == min(losses, key=losses.get)
    if size == 7787:  # trained with the same flags, outside the study
        (run,) = [run for run in from_json("schedule.json", "runs") if run["learning_rate"] == 2e-4]
        losses["2e-4"] = min(epoch["eval_loss"] for epoch in run["validation"])
    cells = [f"{losses[rate]:.4f}" if rate in losses else "" for rate in SIZE_RATES]
    return row_of(f"{size:,}", *cells).replace("|  |", "| |")


def undecided_sizes_text(*sizes):
    """The sizes at which the difference from the SVM is undecided; the precision of the runs."""
    row = {"model": MINILM, "reference": SVM, "metric": "accuracy"}
    alone = []
    in_fp32 = []
    for size in sizes:
        comparison = f"comparison-size-{size}"
        verdict = from_csv("family/family.csv", "verdict", comparison=comparison, **row)
        assert verdict == "undecided"
        alone.append(p_value(from_csv(f"{comparison}/pairs.csv", "p", **row)))
        for rate in SIZE_RATES:
            for seed in (1, 2, 3):
                run = f"predictions/{MINILM}-{size}/lr-{rate}-seed-{seed}/run_arguments.json"
                if (RESULTS / run).exists() and from_json(run, "precision") != "bf16":
                    in_fp32.append((size, rate, seed))
    assert in_fp32 == [
        (1000, "1e-4", 3),
        (4000, "1e-4", 1),
        (4000, "1e-4", 2),
        (4000, "1e-4", 3),
        (4000, "2e-4", 1),
    ]
    *first, last = (f"{size:,}" for size in sizes)
    return [
        f"With {', '.join(first)} and {last} abstracts, the difference is undecided "
        f"(uncorrected p = {', '.join(alone[:-1])} and {alone[-1]})",
        "in bf16, except the third seed with 1,000 abstracts, and all those with 4,000 abstracts "
        "but the one at 5e-5, which are in fp32",
    ]


# Tests of context


def context_row(text, part, run, condition):
    """A row of the tests of context: difference of accuracy with its interval and p after Holm."""
    wanted = CONDITIONS[condition]
    (found,) = [one for one in from_json(CONTEXT, part) if one["name"] == run]
    (test,) = [one["accuracy"] for one in found["conditions"] if wanted.items() <= one.items()]
    interval = f"{signed(test['low'])} to {signed(test['high'])}"
    return row_of(text, condition, signed(test["difference"]), interval, p_value(test["p_holm"]))


def surrogate_row(text, run):
    (found,) = [one for one in from_json(CONTEXT, "surrogates") if one["name"] == run]
    return row_of(text, str(found["documents"]), f"{found['mean']:.3f}", interval_of(found))


def variance_text(name, kind):
    (one,) = [one for one in from_json(CONTEXT, "attribution") if one["name"] == name]
    return f"{one[kind]['icc']:.3f} ({interval_of(one[kind])})"


def function_words():
    shares = {}
    for one in from_json(CONTEXT, "attribution"):
        shares[one["name"]] = one
    mini, bag = (percent(shares[name]["function_share"]["mean"]) for name in (MINILM, BAG))
    words = percent(shares[MINILM]["function_share_of_words"]["mean"])
    return (
        f"carry {mini} percent of the absolute attribution in MiniLM and {bag} percent in the bag; "
        f"they are {words} percent of the words"
    )


def agreement_text():
    """Spearman's correlations with the SVM's weights, MiniLM against the bag, of each class."""
    texts = []
    rows = from_json(CONTEXT, "agreement")
    for bag in (row for row in rows if row["model"] == BAG):
        (mini,) = [row for row in rows if row["class"] == bag["class"] and row["model"] == MINILM]
        p = p_value(bag["difference"]["p_holm"])
        texts.append(f"{mini['rho']:.2f} against {bag['rho']:.2f} in {bag['class']} (p = {p})")
    return "Spearman's correlations are " + ", ".join(texts)


def phrase_text():
    test = from_json(CONTEXT, "phrases", "against_moved")
    numbers = f"{interval_of(test)}, p = {p_value(test['p'])}"
    assert (test["tested"], test["more"], test["less"]) == (8, 0, 1)
    return (
        f"over {test['documents']} documents, a phrase adds {test['mean']:.3f} logits more than "
        f"the same words moved apart ({numbers})"
    )


def attribution_documents():
    """How many documents the attributions of both models are compared on."""
    (documents,) = {model["documents"] for model in from_json(CONTEXT, "attribution")}
    return f"of the {documents} abstracts that both models explain for the same class"


# Sampling strategies and probes of version 0.2.0


def probe_text(layer):
    names = {"model": PROBE.format(layer), "reference": PROBE.format(0)}
    column = functools.partial(from_csv, "probes-pairs.csv", metric="accuracy", **names)
    interval = f"{percent(column('low'))} to {percent(column('high'))}"
    return (
        f"by {percent(column('difference'))} points ({interval}, p = {p_value(column('p_holm'))})"
    )


def of_seeds(strategy, key):
    values = []
    for seed in (1, 2, 3):
        run = f"minilm-batch-80-{strategy}/seed-{seed}"
        values.append(float(from_csv("sampling-runs.csv", key, run=run)))
    return values


def sampling_row(strategy):
    """A sampling strategy: documents per second, validation loss, accuracy, macro F1, test."""
    rates = [4000 / seconds for seconds in of_seeds(strategy, "train_runtime")]
    numbers = f"{sum(rates) / 3:.1f} | {sum(of_seeds(strategy, 'eval_loss')) / 3:.3f}"
    column = functools.partial(
        from_csv, "sampling-table2.csv", model=SAMPLING.format(strategy), source="run"
    )
    accuracy = f"{percent(column('accuracy'))} ± {percent(column('accuracy_sd'))}"
    row = f"| `{strategy}` | {numbers} | {accuracy} | {percent(column('macro_f1'))}"
    if strategy == "group_by_length":
        return f"{row} | | | |"
    models = {"model": SAMPLING.format(strategy), "reference": SAMPLING.format("group_by_length")}
    assert from_csv("sampling-pairs.csv", "equivalent", metric="macro_f1", **models) == "True"
    column = functools.partial(from_csv, "sampling-pairs.csv", metric="accuracy", **models)
    interval = f"{percent(column('low'))} to {percent(column('high'))}"
    difference = signed(column("difference"))
    return f"{row} | {difference} | {interval} | {p_value(column('p_equivalent_holm'))} |"


def loss_p(strategy):
    """The p-value of a paired t-test of validation losses over seeds, against length grouping."""
    losses = of_seeds("group_by_length", "eval_loss"), of_seeds(strategy, "eval_loss")
    return ttest_rel(*losses).pvalue


FINDINGS = [
    (model_row, "SVM, words and pairs", SVM),
    (model_row, "MiniLM", MINILM),
    (model_row, "bag of MiniLM's word embeddings", BAG),
    (calibrated_row, "SVM, calibrated"),
    *((rate_row, "MiniLM", MINILM, rate) for rate in ("2e-5", "5e-5", "1e-4")),
    *(
        (rate_row, "MiniLM, shuffled words", f"{MINILM}-shuffled", rate)
        for rate in ("2e-5", "5e-5", "1e-4")
    ),
    *((rate_row, "bag of embeddings", BAG, rate) for rate in ("1e-4", "2e-4", "5e-4", "1e-3")),
    (family_sentence,),
    (pair_row, "MiniLM - SVM", "comparison", MINILM, SVM),
    (pair_row, "bag of embeddings - SVM", "comparison", BAG, SVM),
    (pair_row, "bag of embeddings - MiniLM", "comparison", BAG, MINILM),
    (pair_row, "SVM, shuffled - in order", "comparison-order-svm", SHUFFLED, ORDERED),
    (pair_row, "MiniLM, shuffled - in order", MINILM_ORDER, MINILM_SHUFFLED, MINILM_ORDERED),
    (
        pair_row,
        "bag of embeddings, shuffled - in order",
        "comparison-order-layers-0",
        BAG_SHUFFLED,
        BAG_ORDERED,
    ),
    (shuffled_bag_text,),
    (minilm_p_text,),
    (order_text,),
    (loss_row, "MiniLM - SVM, calibrated", MINILM, CALIBRATED),
    (loss_row, "bag of embeddings - SVM, calibrated", BAG, CALIBRATED),
    (loss_row, "bag of embeddings - MiniLM", BAG, MINILM),
    (cost_row, "SVM", SVM),
    (cost_row, "MiniLM", MINILM),
    (cost_row, "bag of embeddings", BAG),
    (mpnet_row,),
    *((curve_row, size) for size in (500, 1000, 2000, 4000, 7787)),
    (undecided_sizes_text, *SIZES),
    *((size_rate_row, size) for size in (*SIZES, 7787)),
    *(
        (slice_row, f"{name}: {text}", part, model)
        for name, model in (("SVM", SVM), ("MiniLM", MINILM))
        for text, part in PARTS.items()
    ),
    *((probe_text, layer) for layer in (5, 6)),
    *((sampling_row, name) for name in ("group_by_length", "batch_rebalance", "random")),
    *(
        (context_row, name, "order", run, condition)
        for name, run in (("MiniLM", MINILM), ("SVM, words and pairs", "svm"))
        for condition in (
            "all words shuffled",
            "pairs of words shuffled",
            "sentences shuffled",
        )
    ),
    *((context_row, "MiniLM", "windows", MINILM, f"window of {size}") for size in (0, 2, "all")),
    (surrogate_row, "SVM, words and pairs", "svm"),
    (surrogate_row, "MiniLM", MINILM),
    (surrogate_row, "bag of embeddings", BAG),
    *((variance_text, name, kind) for name in (MINILM, BAG) for kind in ("content", "all")),
    (function_words,),
    (agreement_text,),
    (phrase_text,),
    (attribution_documents,),
]


@pytest.mark.parametrize("number", range(len(FINDINGS)))
def test_numbers_of_the_findings_are_those_of_the_files(number):
    function, *arguments = FINDINGS[number]
    expected = function(*arguments)
    pages = read_page("docs/findings.md") + read_page("docs/training.md")
    for text in [expected] if isinstance(expected, str) else expected:
        assert text in pages, text


def test_validation_losses_in_training_are_those_of_the_files():
    text = read_page("docs/training.md")
    losses = f"p = {loss_p('batch_rebalance'):.2f} and {loss_p('random'):.2f}"
    assert losses in text
    runs = from_json("schedule.json", "runs")
    (fourth_rate,) = [run for run in runs if run["learning_rate"] == 2e-4]
    best = min(epoch["eval_loss"] for epoch in fourth_rate["validation"])
    assert f"reached {best:.4f} (`schedule.json`)" in read_page("docs/findings.md")


def test_lengths_of_the_schedule_are_those_of_the_files():
    text = read_page("docs/training.md")
    runs = [run for run in from_json("schedule.json", "runs") if run["learning_rate"] == 5e-5]
    for run in runs:
        best = min(run["validation"], key=lambda epoch: epoch["eval_loss"])
        trained = 4 if run["num_train_epochs"] == 4 else run["validation"][-1]["epoch"]
        cells = [run["num_train_epochs"], f"{best['eval_loss']:.4f}", best["epoch"], trained]
        assert f"| {' | '.join(map(str, cells))} | {run['train_runtime']:,} |" in text
    losses = []
    for seed in (1, 2, 3):
        run = f"predictions/{MINILM}/lr-5e-5-seed-{seed}"
        losses.append(from_json(f"{run}/eval_results.json", "eval_loss"))
    assert f"the three seeds range from {min(losses):.4f} to {max(losses):.4f}" in text
    assert round(losses[0], 5) == runs[0]["validation"][0]["eval_loss"]
    (*_, last) = from_json("schedule.json", "fp32")["validation"]
    assert f"in fp32 had reached {last['eval_loss']} after {last['epoch']} epochs" in text


def accuracy_of(model):
    column = functools.partial(from_csv, "comparison/table2.csv", model=model, source="run")
    interval = f"{percent(column('accuracy_low'))} to {percent(column('accuracy_high'))}"
    return column, percent(column("accuracy")), interval


def against_svm(column):
    names = {"model": MINILM, "reference": SVM, "metric": "accuracy"}
    return float(from_csv("comparison/pairs.csv", column, **names))


def shuffled_at_test_time():
    """MiniLM on test abstracts whose words are all shuffled."""
    (run,) = [one for one in from_json(CONTEXT, "order") if one["name"] == MINILM]
    (condition,) = [one for one in run["conditions"] if one["block"] == 1]
    return condition


def trained_on_shuffled_words():
    """The difference of accuracy to MiniLM in order, with its interval."""
    names = {"model": MINILM_SHUFFLED, "reference": MINILM_ORDERED, "metric": "accuracy"}
    column = functools.partial(from_csv, f"{MINILM_ORDER}/pairs.csv", **names)
    difference, low, high = (signed(column(key)) for key in ("difference", "low", "high"))
    return f"{difference} points ({low} to {high})"


def test_numbers_of_the_readme_are_those_of_the_files():
    text = read_page("README.md")
    svm, svm_accuracy, svm_interval = accuracy_of(SVM)
    minilm, minilm_accuracy, minilm_interval = accuracy_of(MINILM)
    assert f"{svm_accuracy} percent (95% CI {svm_interval}, n = 973 test abstracts)" in text
    assert f"{minilm_accuracy} ({minilm_interval}, three seeds)" in text
    difference, low, high = (signed(against_svm(key)) for key in ("difference", "low", "high"))
    assert f"{difference} points ({low} to {high})" in text
    accuracy = shuffled_at_test_time()["accuracy"]
    interval = f"{signed(accuracy['low'])} to {signed(accuracy['high'])}"
    assert f"{signed(accuracy['difference'])} points ({interval})" in text
    assert f"difference is {trained_on_shuffled_words()} with three seeds each" in text
    assert f"| {minilm_accuracy} | {percent(minilm('macro_f1'))} |" in text
    for name, scores in STUDY_TABLE.items():
        row = f"| {name} | {scores[0]:.2f} | {scores[1]:.2f} | "
        if name == SVM:
            row += f"{svm_accuracy} | {percent(svm('macro_f1'))} |"
        else:
            row += "not run | |"
        assert row in text


def test_numbers_of_related_work_are_those_of_the_files():
    text = read_page("docs/related.md")
    _, svm, _ = accuracy_of(SVM)
    _, minilm, _ = accuracy_of(MINILM)
    difference, low, high = (signed(against_svm(key)) for key in ("difference", "low", "high"))
    change = f"{difference} (95% CI {low} to {high})"
    assert f"SVM: {svm} | MiniLM (22 M), three seeds: {minilm} | {change} |" in text
    assert f"between {difference} and about +2 points" in text
    shuffled = shuffled_at_test_time()
    accuracy = shuffled["accuracy"]
    changed = f"{signed(accuracy['low'])} to {signed(accuracy['high'])}"
    assert f"{100 * (1 - shuffled['predictions_changed']):.1f} percent of all predictions" in text
    assert f"accuracy {signed(accuracy['difference'])} points ({changed})" in text
    names = {"model": SHUFFLED, "reference": ORDERED, "metric": "accuracy"}
    row = f"| shuffled in training and test | accuracy {trained_on_shuffled_words()} |"
    assert row in text
    difference, low, high = (
        signed(from_csv("comparison-order-svm/pairs.csv", key, **names))
        for key in ("difference", "low", "high")
    )
    assert f"accuracy {difference} points ({low} to {high})" in text
    row = {"slice": PARTS["listed in another of the classes"], "model": SVM}
    right, listed = (
        percent(from_csv("comparison/slices.csv", key, **row)) for key in ("accuracy", "any_listed")
    )
    wanted = f"SVM: {right} percent name the primary category, {listed} percent any listed"
    assert wanted in text
    changes = []
    for name in ("SVM", "MiniLM"):
        change = from_json("split-by-date.json", "models", name, "difference", "accuracy")
        value, low, high = (f"{100 * change[key]:.2f}" for key in ("value", "low", "high"))
        changes.append(
            f"{value} points ({low} to {high})" if name == "SVM" else f"{value} ({low} to {high})"
        )
    assert f"accuracy of the SVM {changes[0]}, of MiniLM {changes[1]}" in text
