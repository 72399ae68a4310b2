"""The search over the numbers of steps, and what keeps long runs alive: batches, memory, kills, processes."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import scipy
import torch
from conftest import ROOT, write_dataset, write_tiny_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import run_attribution

METHODS = ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"]
TEXTS = ["we prove that the ricci curvature of a compact polytope is convex .", "every scheme bounds a floer volume"]


@pytest.fixture(scope="module")
def smooth_model(tmp_path_factory):
    """A random classifier whose logits move by a tenth along a path, smoothly, as those of a trained one."""
    return write_tiny_model(tmp_path_factory.mktemp("smooth"), seed=3, initializer_range=0.15)


@pytest.fixture(scope="module")
def kinked_model(tmp_path_factory):
    """A steep random classifier with ReLUs: the integrand jumps, so no interpolant of 257 points converges."""
    return write_tiny_model(tmp_path_factory.mktemp("kinked"), seed=3, initializer_range=0.4, hidden_act="relu")


def read(folder):
    """The lines of attributions.jsonl."""
    lines = (folder / "attributions.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def command(model, folder, *flags):
    """The command line of a run that draws nothing."""
    base = ["--model_name_or_path", model, "--output_dir", folder, "--render", "false", "--disable_tqdm"]
    return list(map(str, [*base, *([] if "--dataset_name" in flags else ["--text", *TEXTS]), *flags]))


def exhaustive(folder, text, target, method, steps):
    """Attributions (steps, tokens) by every rule, each of its points evaluated, and F(x) - F(b)."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = (
        AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    )
    engine = SimpleNamespace(model=model, layer=model.bert.embeddings, device=torch.device("cpu"), bf16=False)
    engine.batch_size, engine.method, engine.first_position = 64, method, 0
    engine.baseline_id = tokenizer.pad_token_id
    document = {"text": text}
    run_attribution.encode(document, tokenizer, 128, True)
    run_attribution.embed(engine, document)
    document["target_id"] = model.config.label2id[target]
    found = []
    for n in steps:
        run_attribution.attribute_fixed(engine, [document], n)
        found.append(document["attributions"])
    return np.stack(found), document["f_input"] - document["f_baseline"]


@pytest.mark.parametrize("method", METHODS)
def test_moments_are_what_the_rules_make_of_polynomials(method):
    """For a polynomial of degree 40 the interpolant is exact, and so is every rule's value from its coefficients."""
    coefficients = np.random.default_rng(0).normal(size=65) * (np.arange(65) <= 40)
    steps = (2, 3, 10, 21, 33, 200)
    moments = run_attribution.rule_moments(method, steps, 64)
    for n, row in zip(steps, moments, strict=True):
        alphas, weights = run_attribution.quadrature(method, n)
        direct = weights @ np.polynomial.chebyshev.chebval(2 * alphas - 1, coefficients)
        assert row @ coefficients == pytest.approx(direct, abs=1e-12)
    exact = run_attribution.rule_moments(method, (0,), 64)[0]
    antiderivative = np.polynomial.chebyshev.chebint(coefficients)
    ends = np.polynomial.chebyshev.chebval([1, -1], antiderivative)
    assert exact @ coefficients == pytest.approx((ends[0] - ends[1]) / 2, abs=1e-12)


@pytest.mark.parametrize("pole", [0.3j, 0.1j, 1.2])
@pytest.mark.parametrize("method", METHODS)
def test_stated_errors_of_the_rules_hold(method, pole):
    """Functions with a pole near the path: what the interpolant of degree 64 makes of each rule is off by no more than
    stated, and the statement is not idle."""
    steps = (*range(2, 201), 0)
    nodes = (1 - np.cos(np.pi * np.arange(65) / 64)) / 2
    functions = [lambda x: (1 / (x - 0.4 - pole)).real, lambda x: 3 * (np.exp(x) / (x - 0.4 - pole) ** 2).imag + x]
    coefficients = scipy.fft.dct(np.stack([f(nodes[::-1]) for f in functions], 1), type=1, axis=0) / 64
    coefficients[[0, -1]] /= 2
    stated = run_attribution.rule_errors(method, steps, 64) @ run_attribution.envelope(coefficients, 1e-14)
    predicted = run_attribution.rule_moments(method, steps, 64) @ coefficients
    real = np.zeros_like(predicted)
    for k, n in enumerate(steps):
        alphas, weights = run_attribution.quadrature(*(("gausslegendre", 1000) if n == 0 else (method, n)))
        real[k] = np.abs(predicted[k] - [weights @ f(alphas) for f in functions])
    assert (real <= stated + 1e-12).all()
    assert stated.max() < 300 * max(real.max(), 1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_search_finds_what_the_exhaustive_one_finds(run, smooth_model, tmp_path, method):
    assert run("run_attribution", *command(smooth_model, tmp_path / "out", "--method", method)).code == 0
    steps = range(2 if method == "riemann_trapezoid" else 1, 201)
    for line in read(tmp_path / "out"):
        assert line["gradient_evaluations"] in {33, 65, 129, 257} and line["converged"]
        assert len(line["gaps"]) == len(steps)
        some = [*steps][::9]
        every, difference = exhaustive(smooth_model, line["text"], line["target"], method, some)
        gaps = np.abs(every.sum(1) - difference)
        np.testing.assert_allclose(line["gaps"][::9], gaps, atol=5e-6, rtol=0.01)
        assert abs(line["delta"]) < min([*gaps, *line["gaps"]]) + 1e-5 * abs(difference) + 2e-6
        own, _ = exhaustive(smooth_model, line["text"], line["target"], method, [line["n_steps"]])
        np.testing.assert_allclose(line["attributions"], own[0], atol=2e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", METHODS)
def test_rounding_errors_do_not_look_like_slow_decay(method, seed):
    """A smooth function with the largest rounding errors that encoders showed: 257 points do for every rule."""
    alphas, poles = (1 - np.cos(np.pi * np.arange(257) / 256)) / 2, np.array([0.4 + 0.1j, 0.5 + 0.2j])
    clean = (1 / (alphas[:, None] - poles)).real  # two tokens
    scale = 4 * np.abs(clean).sum(1)
    rounding = 3 * np.finfo(np.float32).eps * np.sqrt((scale**2).mean())
    noisy = clean + np.random.default_rng(seed).normal(size=clean.shape) * rounding / np.sqrt(2)
    f = np.log(np.abs(alphas[:, None] - poles)).sum(1)
    document = {"table": np.column_stack([f, scale, noisy])}
    engine = SimpleNamespace(bf16=False, method=method, tolerance=1e-5)
    run_attribution.choose(engine, document, tuple(range(2, 201)))
    assert document["converged"]
    alphas, weights = run_attribution.quadrature(method, document["n_steps"])
    exact = weights @ (1 / (alphas[:, None] - poles)).real
    assert (np.abs(document["attributions"] - exact) <= document["attribution_errors"]).all()


def test_where_no_interpolant_converges_the_rules_are_evaluated(run, kinked_model, tmp_path):
    flags = ["--method", "riemann_middle", "--n_steps_search", 1, 40]
    assert run("run_attribution", *command(kinked_model, tmp_path / "out", *flags)).code == 0
    lines = read(tmp_path / "out")
    assert any(not line["converged"] for line in lines)
    for line in lines:
        every, difference = exhaustive(kinked_model, line["text"], line["target"], "riemann_middle", range(1, 41))
        gaps = np.abs(every.sum(1) - difference)
        assert abs(line["delta"]) < gaps.min() + 1e-4
        assert (line["gradient_evaluations"] > 257) == (not line["converged"])


def test_a_gap_of_0_by_luck_does_not_beat_right_attributions(monkeypatch):
    """One point: no gap, tokens wrong by 2 each. Two points: a gap within the tolerance, tokens right. The second."""
    v = {1.0: [3.0, -1.0], 0.5: [-0.99, 3.0]}
    monkeypatch.setattr(
        run_attribution, "evaluate", lambda engine, points: [np.array([0.0, 0.0, *v[alpha]]) for _, alpha in points]
    )
    integral = np.array([[1.0, 1.0, 2.0]] * 3)
    document = {"results": integral, "errors": np.full((3, 3), 1e-3), "gaps": np.zeros(2), "noise": 1e-6, "near": 0.1}
    document |= {"f_input": 2.0, "f_baseline": 0.0, "gradient_evaluations": 257}
    engine = SimpleNamespace(method="riemann_right", tolerance=1e-2)
    run_attribution.evaluate_candidates(engine, document, (1, 2))
    assert document["n_steps"] == 2 and document["gradient_evaluations"] == 260
    np.testing.assert_allclose(document["attributions"], [1.005, 1.0])


def test_auto_states_an_error_that_holds(run, smooth_model, tmp_path):
    run("run_attribution", *command(smooth_model, tmp_path / "auto", "--n_steps", "auto"))
    run("run_attribution", *command(smooth_model, tmp_path / "many", "--n_steps", 600))
    for line, reference in zip(read(tmp_path / "auto"), read(tmp_path / "many"), strict=True):
        errors = np.abs(np.subtract(line["attributions"], reference["attributions"]))
        assert line["converged"] and (errors <= line["attribution_errors"]).all()
        assert max(line["attribution_errors"]) < 1e-3 * np.abs(line["attributions"]).sum()
        assert line["n_steps"] == line["gradient_evaluations"] <= 257


def test_bfloat16_works_and_shows_its_error(run, smooth_model, tmp_path):
    run("run_attribution", *command(smooth_model, tmp_path / "fine", "--n_steps", 20))
    assert run("run_attribution", *command(smooth_model, tmp_path / "coarse", "--n_steps", 20, "--bf16")).code == 0
    for fine, coarse in zip(read(tmp_path / "fine"), read(tmp_path / "coarse"), strict=True):
        scale = np.abs(fine["attributions"]).sum()
        away = np.abs(np.subtract(fine["attributions"], coarse["attributions"])).sum()
        assert 1e-5 * scale < away < 0.5 * scale


def test_batches_and_short_memory_change_no_number(run, smooth_model, tiny_dataset, tmp_path, monkeypatch, caplog):
    flags = ["--dataset_name", tiny_dataset, "--n_steps", 12]
    run("run_attribution", *command(smooth_model, tmp_path / "one", *flags, "--internal_batch_size", 1))
    run("run_attribution", *command(smooth_model, tmp_path / "many", *flags, "--internal_batch_size", 64))
    real = run_attribution.evaluate_batch

    def short_of_memory(engine, points):
        if len(points) > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return real(engine, points)

    monkeypatch.setattr(run_attribution, "evaluate_batch", short_of_memory)
    run("run_attribution", *command(smooth_model, tmp_path / "short", *flags, "--internal_batch_size", 64))
    assert "out of memory: going on with 3 points a batch" in caplog.text
    for lines in zip(*(read(tmp_path / name) for name in ("one", "many", "short")), strict=True):
        assert len({line["id"] for line in lines}) == 1
        for line in lines[1:]:
            np.testing.assert_allclose(line["attributions"], lines[0]["attributions"], atol=1e-6)


def test_a_killed_run_continues(run, kinked_model, tmp_path):
    """Killed with -9 in the middle of the documents: the second call does the rest and nothing twice."""
    data = write_dataset(tmp_path / "data")
    flags = command(kinked_model, tmp_path / "out", "--dataset_name", data, "--split", "train", "--n_steps", 200)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, ROOT / "run_attribution.py", *flags], env=environment)
    parts = tmp_path / "out"
    for _ in range(600):
        if len(list(parts.glob("partial-*/*.jsonl"))) >= 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("partial-*/*.jsonl")}
    assert 3 <= len(kept) < 80 and not (tmp_path / "out/attributions.jsonl").exists()
    written = {json.loads(path.read_text().split("\n")[0])["seconds"] for path in kept}
    again = run("run_attribution", *flags, "--disable_tqdm", "false")
    assert again.code == 0
    lines = read(tmp_path / "out")
    done = sum(line["seconds"] in written for line in lines)
    assert f"{done}/{len(lines)}" in again.err and f"{len(lines)}/{len(lines)}" in again.err
    assert written <= {line["seconds"] for line in lines}
    assert not list(parts.glob("partial-*"))
    whole = command(kinked_model, tmp_path / "whole", "--dataset_name", data, "--split", "train", "--n_steps", 200)
    run("run_attribution", *whole)
    for line, expected in zip(lines, read(tmp_path / "whole"), strict=True):
        assert line["id"] == expected["id"]
        np.testing.assert_allclose(line["attributions"], expected["attributions"], atol=1e-5)


def test_a_finished_run_is_not_done_again_and_another_is(run, smooth_model, tmp_path):
    flags = command(smooth_model, tmp_path / "out", "--n_steps", 4)
    run("run_attribution", *flags)
    first = read(tmp_path / "out")
    run("run_attribution", *flags)
    assert read(tmp_path / "out") == first  # with the seconds that the first call took
    run("run_attribution", *flags[:-1], "5")
    assert [line["n_steps"] for line in read(tmp_path / "out")] == [5, 5]


def test_two_processes_give_the_numbers_of_one(run, smooth_model, tiny_dataset, tmp_path):
    flags = ["--dataset_name", tiny_dataset, "--internal_batch_size", 33]
    run("run_attribution", *command(smooth_model, tmp_path / "one", *flags))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    script = [ROOT / "run_attribution.py", *command(smooth_model, tmp_path / "two", *flags)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert json.loads((tmp_path / "two/summary.json").read_text())["processes"] == 2
    assert [line["id"] for line in one] == [line["id"] for line in two]
    for a, b in zip(one, two, strict=True):
        assert a["attributions"] == b["attributions"] and a["n_steps"] == b["n_steps"]
