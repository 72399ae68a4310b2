"""The training benchmark on a tiny model: rows that add up, and what it says to mistakes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_user_error, make_records, write_dataset
from transformers import AutoConfig

import run_classification
from benchmarks import bench_training


@pytest.fixture(scope="module")
def many_texts(tmp_path_factory):
    """A dataset of 640 documents, 512 of them for training: the least that it takes."""
    return write_dataset(tmp_path_factory.mktemp("many"), make_records(per_class=128))


@pytest.fixture
def bench(run, monkeypatch, many_texts, tiny_model, tmp_path):
    """Run the benchmark with every setting in this process (no imports) and a known peak."""

    def measure_here(name, encoded_dir, timeout_s):
        arguments = bench_training.parse_arguments()
        arguments.encoded_dir = encoded_dir
        if name == "peak":
            return {"fp32": 1e11, "bf16": 1e11}
        measure = (
            bench_training.measure_prediction if arguments.evaluate else bench_training.measure
        )
        return measure(arguments, name)

    monkeypatch.setattr(bench_training, "measure_apart", measure_here)
    flags = (
        "--dataset_name",
        many_texts,
        "--model_name_or_path",
        tiny_model,
        "--per_device_train_batch_size",
        8,
    )
    flags += ("--max_seq_length", 64, "--output_file", tmp_path / "table.json")

    def start(*more):
        result = run("benchmarks.bench_training", *flags, *more)
        if result.code:
            return result
        table = json.loads((tmp_path / "table.json").read_text())
        return SimpleNamespace(
            code=0, table=table, rows={row["setting"]: row for row in table["settings"]}
        )

    return start


def test_rows_and_ratios(bench):
    result = bench("--settings", "example", "ours_fp32", "--steps", 2)
    example, ours = result.rows["example"], result.rows["ours_fp32"]
    assert result.table["texts"]["number"] == 512
    assert (
        ours["ratio_to_example"] == ours["documents_per_second"] / example["documents_per_second"]
    )
    assert example["ratio_to_example"] == 1
    for row in result.rows.values():
        assert (row["steps"], row["precision"]) == (2, "fp32")
        assert row["documents_per_second"] == pytest.approx(16 / row["seconds"])
        assert row["model_flops_utilization"] == pytest.approx(row["flops_per_second"] / 1e11)
        assert 0 < row["resident_before_training_gib"] <= row["peak_memory_gib"]
        # What is padded to 64 pieces is more than what is padded to the longest of its batch.
        tokens = row["real_tokens_per_second"] * row["seconds"]
        assert row["padding_share"] == pytest.approx(1 - tokens / (64 * 16)) or row is ours
    assert ours["padding_share"] < 0.2 < example["padding_share"]

    # A setting that is measured alone takes its row's place; the other rows stay.
    again = bench("--settings", "ours_fp32", "--steps", 1)
    assert again.rows["example"] == example and again.rows["ours_fp32"]["steps"] == 1
    assert again.rows["ours_fp32"]["ratio_to_example"] == pytest.approx(
        again.rows["ours_fp32"]["documents_per_second"] / example["documents_per_second"]
    )


def test_prediction_the_examples_way_and_ours(bench):
    result = bench("--evaluate", 100)
    assert list(result.rows) == [name for name in bench_training.EVALUATION if "fp16" not in name]
    example, ours, large, bf16 = result.rows.values()
    assert [row["batch_size"] for row in (example, ours, large, bf16)] == [8, 16, 64, 16]
    assert [row["precision"] for row in (example, ours, large, bf16)] == [
        "fp32",
        "fp32",
        "fp32",
        "bf16",
    ]
    assert ours["batch_size"] == run_classification.STUDY_DEFAULTS["per_device_eval_batch_size"]
    assert (
        ours["ratio_to_example"] == ours["documents_per_second"] / example["documents_per_second"]
    )
    tokens = [row["real_tokens_per_second"] * row["seconds"] for row in (example, ours)]
    assert tokens[0] == pytest.approx(tokens[1])  # the same documents
    assert example["padding_share"] == pytest.approx(1 - tokens[0] / (64 * 100))
    assert 0 <= ours["padding_share"] < example["padding_share"]


def test_memory_is_looked_at_in_the_samplers_order(bench):
    result = bench("--settings", "pad_to_16", "--memory_steps", 5, "--memory_every", 2)
    looks = result.rows["pad_to_16"]["looks"]
    assert [look["step"] for look in looks] == [0, 2, 4, 5]
    assert looks[0]["seconds"] == 0
    for key in ("seconds", "user_seconds", "system_seconds", "page_faults", "peak_resident_gib"):
        values = [look[key] for look in looks]
        assert values == sorted(values)
    assert all(0 < look["resident_gib"] <= look["peak_resident_gib"] for look in looks)


def test_operations_are_those_of_the_matrix_products(tiny_model):
    config = AutoConfig.from_pretrained(tiny_model)
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    lengths = np.array([10, 37, 100])
    linear = layers * 2 * lengths * (4 * hidden**2 + 2 * hidden * inner)
    attention = layers * 4 * lengths**2 * hidden
    head = 2 * hidden**2 + 2 * hidden * config.num_labels
    expected = 3 * (linear + attention + head).sum()
    assert bench_training.count_flops(config, lengths) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("grouped", [True, False])
def test_batches_stand_for_an_epoch(grouped):
    lengths = np.random.default_rng(0).integers(10, 256, 2000).tolist()
    epoch = bench_training.order_batches(lengths, 32, grouped)
    rows = [row for batch in epoch for row in batch]
    assert len(rows) == len(set(rows)) == 2000 // 32 * 32
    picked = bench_training.pick_batches(lengths, 32, 4, grouped)
    longest = [max(lengths[row] for row in batch) for batch in picked]
    assert len(picked) == 4 and longest == sorted(longest, reverse=True)
    assert all(batch in epoch for batch in picked)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--settings", "fastest"], ["fastest", "ours_fp32"]),
        (["--settings", "ours_fp16"], ["ours_fp16", "GPU"]),
        (["--steps", 0], ["--steps", "0"]),
        (["--memory_steps", 0], ["--memory_steps"]),
        (["--evaluate", 0], ["--evaluate", "0"]),
        (["--evaluate", 10, "--settings", "example"], ["example", "ours_evaluate"]),
        (["--config", "bert-large"], ["--model_name_or_path", "--config"]),
        (["--text_column_name", "body"], ["cannot read the texts"]),
        (["--dataset_name", "no/such"], ["cannot read the texts"]),
        (["--stepps", 3], ["--stepps"]),
    ],
)
def test_bad_arguments(bench, flags, words):
    assert_user_error(bench(*flags), *words)


def test_too_few_texts(bench, tiny_dataset):
    assert_user_error(bench("--dataset_name", tiny_dataset), "80 training texts", "512")


def test_setting_that_fails_or_takes_too_long_has_a_row_that_says_so(
    monkeypatch, tmp_path, tiny_model
):
    flags = ["--dataset_name", "x", "--model_name_or_path", str(tiny_model)]
    monkeypatch.setattr("sys.argv", ["bench_training.py", *flags])
    row = bench_training.measure_apart("ours_fp32", str(tmp_path / "nowhere"), 200)
    assert row["setting"] == "ours_fp32" and "nowhere" in row["error"]
    assert (
        bench_training.measure_apart("example", str(tmp_path), 0.01)["error"]
        == "not done after 0.01 s (--timeout_s)"
    )
