"""The search over the numbers of steps: its mathematics, its honesty on functions and models, long
runs.

Simulations on random functions are marked as slow: they take 5 to 20 seconds each on one core,
200 functions in each of three settings.
"""

import json
import re
import subprocess
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_user_error, write_dataset, write_tiny_model
from scipy.special import erf
from scipy.stats import ttest_1samp
from statsmodels.stats.multitest import multipletests
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import run_attribution

METHODS = ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"]
TEXTS = [
    "we prove that the ricci curvature of a compact polytope is convex .",
    "every scheme bounds a floer volume",
]


@pytest.fixture(scope="module")
def smooth_model(tmp_path_factory):
    """A random classifier whose logits move by a tenth along a path, smoothly, as those of a
    trained one.
    """
    return write_tiny_model(tmp_path_factory.mktemp("smooth"), seed=3, initializer_range=0.15)


@pytest.fixture(scope="module")
def kinked_model(tmp_path_factory):
    """A steep random classifier with ReLUs: the integrand jumps, so the interpolant does not
    converge.
    """
    return write_tiny_model(
        tmp_path_factory.mktemp("kinked"), seed=3, initializer_range=0.4, hidden_act="relu"
    )


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory):
    """A random classifier of 24 layers."""
    return write_tiny_model(
        tmp_path_factory.mktemp("deep"), seed=3, initializer_range=0.3, num_hidden_layers=24
    )


def read(folder):
    """The lines of attributions.jsonl."""
    lines = (folder / "attributions.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def command(model, folder, *flags):
    """The command line of a run."""
    base = ["--model_name_or_path", model, "--output_dir", folder, "--disable_tqdm"]
    return list(
        map(str, [*base, *([] if "--dataset_name" in flags else ["--text", *TEXTS]), *flags])
    )


def load(folder):
    """The model and the tokenizer of a folder."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def captum_attributions(folder, text, steps, **arguments):
    """Attributions (steps, tokens) by captum, a run for each number, and F(x) - F(b)."""
    model, tokenizer = load(folder)
    lines = []
    for n in steps:
        lines += run_attribution.attribute(model, tokenizer, [text], n_steps=str(n), **arguments)
    difference = lines[0]["f_input"] - lines[0]["f_baseline"]
    return np.array([line["attributions"] for line in lines]), difference


def integrate_in_float64(folder, text, target, n=1000):
    """Attributions (tokens,) of a BERT by Gauss-Legendre quadrature with n points in float64."""
    model, tokenizer = load(folder)
    model.double()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    blank = torch.where(torch.isin(ids, ids[0, [0, -1]]), ids, tokenizer.pad_token_id)
    with torch.no_grad():
        baseline, end = (model.bert.embeddings(input_ids=given) for given in (blank, ids))
    nodes, weights = np.polynomial.legendre.leggauss(n)
    points = torch.tensor((1 + nodes) / 2)[:, None, None]
    inputs = (baseline + points * (end - baseline)).requires_grad_()
    with model.bert.embeddings.register_forward_hook(lambda *call: inputs):
        ids = ids.expand(n, -1)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    (gradients,) = torch.autograd.grad(logits[:, model.config.label2id[target]].sum(), inputs)
    average = (torch.tensor(weights / 2)[:, None, None] * gradients).sum(0)
    return (average * (end - baseline)[0]).sum(-1).numpy()


def gradients(most=481):
    """The numbers of gradients of documents that settle: where rounding errors matter, a level is
    evaluated again.
    """
    levels = [level + run_attribution.CHECKS for level in run_attribution.LEVELS if level <= most]
    return {level + again for level in levels for again in (0, *levels) if again <= level}


def search(evaluate, name="text-1", **arguments):
    """What the search finds for a path whose values are evaluate(alphas): what attributions.jsonl
    holds, and settled.
    """
    path = run_attribution.PathSearch(
        lambda alphas, one_by_one=False: [evaluate(alphas)],
        run_attribution.AttributionArguments(**arguments),
        name,
        rounding_varies=True,
    )
    (choice,) = path.run()
    return vars(choice) | choice.evidence


def search_function(v, antiderivative, name="text-1", **arguments):
    """What search() finds for the integrand v(alpha), (points, tokens), in float32."""

    def evaluate(alphas):
        table, f = np.float32(v(alphas)), np.float32(antiderivative(alphas).sum(1))
        scale = 4 * np.abs(table).sum(1)
        return run_attribution.PathValues(f.astype(float), scale.astype(float), table.astype(float))

    return search(evaluate, name, **arguments)


@pytest.mark.parametrize("points", run_attribution.LEVELS[:3])
@pytest.mark.parametrize("method", METHODS)
def test_map_rules_are_exact_for_polynomials_of_the_level(method, points):
    """For a polynomial in t of the interpolant's degree, values by brute force: rules, integral,
    antiderivative.
    """
    rng, steps = np.random.default_rng(0), (2, 3, 10, 21, 33, 200)
    rules = run_attribution.search_rules(method, steps, points)
    alphas = rules.alphas
    coefficients = rng.normal(size=points) * 0.9 ** np.arange(points)
    assert alphas[0] == 0 and alphas[-1] == 1 and (np.diff(alphas) > 0).all()
    values = run_attribution.chebyshev(alphas, points - 1) @ coefficients
    np.testing.assert_allclose(rules.inverse @ values, coefficients, atol=1e-12)
    nodes, weights = np.polynomial.legendre.leggauss(600)

    def integral(end):
        return (
            end
            * weights
            / 2
            @ run_attribution.chebyshev(end * (1 + nodes) / 2, points - 1)
            @ coefficients
        )

    direct = []
    for n in steps:
        rule_nodes, rule_weights = run_attribution.quadrature(method, n)
        direct.append(
            rule_weights @ run_attribution.chebyshev(rule_nodes, points - 1) @ coefficients
        )
    expected = [*direct, integral(1), *map(integral, alphas)]
    np.testing.assert_allclose(rules.moments @ coefficients, expected, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_aliasing_factors_are_the_errors_of_the_interpolated_polynomials(method):
    """T_k of higher degree, interpolated by brute force: how far off rules, integral and
    antiderivative are.
    """
    points, steps, degree = 31, (2, 5, 40, 200), 77
    rules = run_attribution.search_rules(method, steps, points)
    values = run_attribution.chebyshev(rules.alphas, degree)[:, degree]
    aliased = rules.inverse @ values
    np.testing.assert_allclose(rules.aliases[:, degree - points], aliased, atol=1e-12)
    nodes, weights = np.polynomial.legendre.leggauss(600)
    direct = []
    for n in steps:
        rule_nodes, rule_weights = run_attribution.quadrature(method, n)
        direct.append(rule_weights @ run_attribution.chebyshev(rule_nodes, degree)[:, degree])
    direct.append(weights / 2 @ run_attribution.chebyshev((1 + nodes) / 2, degree)[:, degree])
    off = np.abs(direct - rules.moments[: len(steps) + 1] @ aliased)
    np.testing.assert_allclose(rules.factors[: len(steps) + 1, degree - points], off, atol=1e-12)


@pytest.mark.parametrize("pole", [0.3j, 0.1j, 0.75])
@pytest.mark.parametrize("method", METHODS)
def test_decay_bounds_the_errors_of_every_rule(method, pole):
    """Functions with a pole near the path: what the interpolant of 61 points makes of each rule.

    It is off by no more than stated, and the statement is not idle.
    """
    steps, points = tuple(range(2, 201)), 61
    functions = [
        lambda x: (1 / (x - 0.4 - pole)).real,
        lambda x: 3 * (np.exp(x) / (x - 0.4 - pole) ** 2).imag + x,
    ]
    rules = run_attribution.search_rules(method, steps, points)
    coefficients = rules.inverse @ np.stack([f(rules.alphas) for f in functions], 1)
    sizes, rate = run_attribution.envelope(coefficients, 1e-13)
    decay = rate ** np.arange(1, 3 * points - 2)
    stated = np.outer(rules.factors @ decay, sizes)[:200]
    predicted = (rules.moments @ coefficients)[:200]
    off = np.zeros_like(predicted)
    for k, n in enumerate((*steps, 0)):
        rule = ("gausslegendre", 1000) if n == 0 else (method, n)
        alphas, weights = run_attribution.quadrature(*rule)
        off[k] = np.abs(predicted[k] - [weights @ f(alphas) for f in functions])
    assert (off <= stated + 1e-11).all()
    assert stated.max() < 300 * max(off.max(), 1e-12)


KINDS = {
    "pole": lambda c, w, k: (
        lambda a: (1 / (a - c - 1j * w)).real,
        lambda a: np.log(a - c - 1j * w).real,
    ),
    "double pole": lambda c, w, k: (
        lambda a: (1 / (a - c - 1j * w) ** 2).imag,
        lambda a: (-1 / (a - c - 1j * w)).imag,
    ),
    "Gaussian": lambda c, w, k: (
        lambda a: np.exp(-(((a - c) / w) ** 2)),
        lambda a: w * np.sqrt(np.pi) / 2 * erf((a - c) / w),
    ),
    "tanh": lambda c, w, k: (
        lambda a: np.tanh((a - c) / w),
        lambda a: w * np.logaddexp((a - c) / w, (c - a) / w),
    ),
    "ReLU": lambda c, w, k: (
        lambda a: np.maximum(a - c, 0),
        lambda a: np.maximum(a - c, 0) ** 2 / 2,
    ),
    "step": lambda c, w, k: (lambda a: 1.0 * (a > c), lambda a: np.maximum(a - c, 0)),
    "wave": lambda c, w, k: (lambda a: np.cos(k * a + c), lambda a: np.sin(k * a + c) / k),
    "exponential": lambda c, w, k: (
        lambda a: np.exp(5 * c * a),
        lambda a: np.exp(5 * c * a) / (5 * c),
    ),
}


def random_function(seed, tokens=6):
    """An integrand of some tokens, random mixtures of one to three of KINDS and an exponential, and
    its integral.
    """
    rng = np.random.default_rng(seed)
    names = [*rng.choice(list(KINDS), size=rng.integers(1, 4)), "exponential"]
    pairs = [
        KINDS[name](rng.uniform(-0.1, 1.1), 10 ** rng.uniform(-2.5, 0), 10 ** rng.uniform(0, 2.7))
        for name in names
    ]
    sizes = rng.normal(size=(len(names), tokens)) * 10 ** rng.uniform(-3, 0, size=(len(names), 1))
    return (
        lambda a: np.stack([v(a) for v, _ in pairs], -1) @ sizes,
        lambda a: np.stack([integral(a) - integral(0.0) for _, integral in pairs], -1) @ sizes,
    )


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{}, {"n_steps": "auto"}, {"method": "riemann_middle"}], ids=str)
def test_checks_leave_no_wrong_certificate_on_100_random_functions(flags):
    """Poles, narrow Gaussians, kinks, steps, waves: converged is false or every token is within its
    stated error.
    """
    converged = 0
    for seed in range(100):
        v, antiderivative = random_function(seed)
        found = search_function(v, antiderivative, str(seed), **flags)
        off = np.abs(found["attributions"] - antiderivative(1.0))
        assert found["converged"] is not True or (off <= found["attribution_errors"]).all(), seed
        if found["converged"] is True:
            assert (
                max(found["attribution_errors"]) < 1e-2 * np.abs(antiderivative(1.0)).sum() + 1e-4
            )
        converged += found["converged"] is True
    assert converged > 40


@pytest.mark.parametrize("width", [0.003, 0.01, 0.03])
def test_checks_find_narrow_gaussians_that_cancel(width):
    """The sum of their integrals is 0, so completeness says nothing; F between them does."""
    v1, f1 = KINDS["Gaussian"](0.37, width, 0)
    v2, f2 = KINDS["Gaussian"](0.71, width, 0)
    v3, f3 = KINDS["exponential"](0.2, 0, 0)
    sizes = np.array([[5.0, 0.0], [-5.0, 0.0], [1.0, 2.0]])
    found = search_function(
        lambda a: np.stack([v1(a), v2(a), v3(a)], -1) @ sizes,
        lambda a: np.stack([f1(a) - f1(0.0), f2(a) - f2(0.0), f3(a) - f3(0.0)], -1) @ sizes,
    )
    truth = np.array([f1(1.0) - f1(0.0), f2(1.0) - f2(0.0), f3(1.0) - f3(0.0)]) @ sizes
    assert (found["converged"] is True) == (
        width > 0.003
    )  # 481 points resolve all but the narrowest
    off = np.abs(found["attributions"] - truth)
    assert found["converged"] is not True or (off <= found["attribution_errors"]).all()


@pytest.mark.parametrize("kind", ["ReLU", "step"])
def test_decay_of_a_kink_and_of_a_step(kind):
    v, integral = KINDS[kind](0.4321, 0, 0)
    found = search_function(
        lambda a: np.stack([v(a), 1 + a], -1), lambda a: np.stack([integral(a), a + a**2 / 2], -1)
    )
    off = np.abs(found["attributions"] - [integral(1.0), 1.5])
    assert (found["converged"] is True) == (
        kind == "ReLU"
    )  # a step in v cannot be resolved, a kink can
    assert found["converged"] is not True or (off <= found["attribution_errors"]).all()
    assert off.max() < 0.01 and found["gradient_evaluations"] <= 1000


def test_choice_is_not_one_step_with_a_gap_of_0_by_luck():
    """n = 1 falls on an interpolation point and is certain at once; its tokens, not their sum, are
    wrong.
    """
    found = search_function(
        lambda a: np.stack([np.cos(9 * a), 1 - np.cos(9 * a)], -1),
        lambda a: np.stack([np.sin(9 * a) / 9, a - np.sin(9 * a) / 9], -1),
    )
    assert found["n_steps"] > 1 and found["converged"]
    np.testing.assert_allclose(found["attributions"], [np.sin(9) / 9, 1 - np.sin(9) / 9], atol=1e-5)


@pytest.mark.parametrize("method", ["riemann_left", "riemann_right"])
def test_choice_of_a_rule_that_cannot_be_near_the_integral_does_not_converge(
    run, smooth_model, tmp_path, method
):
    result = run("run_attribution", *command(smooth_model, tmp_path / "out", "--method", method))
    run("run_attribution", *command(smooth_model, tmp_path / "auto", "--n_steps", "auto"))
    for line, integral in zip(read(tmp_path / "out"), read(tmp_path / "auto"), strict=True):
        off = np.abs(np.subtract(line["attributions"], integral["attributions"]))
        assert integral["converged"] and (off <= line["attribution_errors"]).all()
        assert line["converged"] == (off.sum() <= 1e-4 * np.abs(integral["attributions"]).sum())
        assert line["gradient_evaluations"] in gradients(241)  # more points would not help
    assert "--n_steps auto" in result.log


SMOOTH = ["pole", "double pole", "Gaussian", "tanh", "wave", "exponential"]


@pytest.mark.parametrize("flags", [{}, {"n_steps": "auto"}], ids=str)
@pytest.mark.parametrize("kind", SMOOTH)
def test_decay_of_smooth_functions_lets_them_converge(kind, flags):
    """Poles at a distance of 0.1, Gaussians of that width, 16 waves: all smooth KINDS."""
    v, integral = KINDS[kind](0.43, 0.1, 100.0)
    found = search_function(
        lambda a: np.stack([v(a), 1 + a], -1),
        lambda a: np.stack([integral(a) - integral(0.0), a + a**2 / 2], -1),
        **flags,
    )
    off = np.abs(found["attributions"] - [integral(1.0) - integral(0.0), 1.5])
    assert found["converged"] and (off <= found["attribution_errors"]).all()


@pytest.mark.parametrize(
    ("flags", "remedies"),
    [
        ([], ["--n_steps auto", "--baseline mask"]),
        (
            ["--n_steps", "auto"],
            ["--baseline mask", "--rough_evaluations 200 --max_gradient_evaluations 200"],
        ),
        (["--baseline", "mask"], ["--n_steps auto"]),
        (
            ["--n_steps", "auto", "--baseline", "mask", "--max_gradient_evaluations", 1000],
            ["--rough_evaluations 560"],
        ),
        (
            "--n_steps auto --baseline mask --max_gradient_evaluations 1000 "
            "--rough_evaluations 1000".split(),
            ["--tolerance 1e-04"],
        ),
    ],
)
def test_the_advice_was_not_given_already(run, kinked_model, tmp_path, flags, remedies):
    limit = [] if "--max_gradient_evaluations" in flags else ["--max_gradient_evaluations", 100]
    result = run("run_attribution", *command(kinked_model, tmp_path / "out", *limit, *flags))
    (warning,) = (line for line in result.log.splitlines() if "did not converge" in line)
    assert warning.endswith(" try " + " or ".join(remedies))


def test_rough_panels_add_up_to_the_change_of_f():
    """A linear v is integrated exactly; of any v, what is missing is shared out by |v|."""
    alphas = np.array([0, 0.25, 0.5, 1])
    v = np.stack([2 * alphas, 3 - alphas], 1)
    f = alphas**2 + 3 * alphas - alphas**2 / 2
    values = run_attribution.PathValues(f, np.zeros(4), v)
    panels = run_attribution.integrate_panels(alphas, values)
    np.testing.assert_allclose(panels.attributions, [1, 2.5])
    np.testing.assert_allclose(panels.residuals, 0, atol=1e-12)
    values.f[2:] += 0.3  # F rises by 0.3 more in the second panel, which v does not show
    panels = run_attribution.integrate_panels(alphas, values)
    np.testing.assert_allclose(panels.residuals, [0, 0.3, 0], atol=1e-12)
    shares = (v[1] + v[2]) / (v[1] + v[2]).sum()
    np.testing.assert_allclose(panels.attributions, [1, 2.5] + 0.3 * shares)
    assert panels.attributions.sum() == pytest.approx(f[-1] - f[0])


def test_rough_panels_that_are_halved_are_the_worst_of_any_target():
    alphas = np.array([0, 0.2, 0.4, 0.6, 0.8, 0.8 + 1e-7, 1])
    residuals = [[0, 0.1, 0, 0, 9, 0], [0, 0, 0, 0.2, 9, 0]]
    jumps = [[0.5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    sums = np.full((6, 2), 1.0)
    targets = [
        run_attribution.PanelSums(sums, sums, np.array(r), np.array(j))
        for r, j in zip(residuals, jumps, strict=True)
    ]
    # The panel of 1e-7 is too narrow for float32; a panel without any error stays.
    for number, expected in [(1, [3]), (2, [1, 3]), (9, [0, 1, 3])]:
        assert run_attribution.worst_panels(alphas, targets, number).tolist() == expected


def test_rough_numbers_of_real_rules_are_spread_over_the_upper_half():
    steps = tuple(range(1, 201))
    assert run_attribution.spread_numbers(steps, 6, 10_000) == [100, 120, 140, 160, 180, 200]
    for limit, count, largest in [(875, 6, 194), (300, 6, 66), (100, 5, 26), (35, 1, 35)]:
        numbers = run_attribution.spread_numbers(steps, 6, limit)
        assert len(numbers) == count and numbers[-1] == largest and sum(numbers) <= limit
        assert 2 * numbers[0] >= largest
    assert run_attribution.spread_numbers((7,), 6, 100) == [7]
    assert run_attribution.spread_numbers((7,), 6, 5) == []


@pytest.mark.parametrize("width", [1e-3, 1e-4, 0])
def test_rough_fronts_are_given_up_early_and_integrated_by_panels(width):
    """Steep fronts of F whose tokens rise at different places, on a smooth ground."""
    places = np.array([0.41, 0.43, 0.47])
    sizes = np.array([3.0, -2.0, 4.0])

    def antiderivative(a):
        return np.exp(a)[:, None] + sizes * (a[:, None] > places)

    def front(a):
        return np.exp(a)[:, None] + sizes * np.exp(-(((a[:, None] - places) / width) ** 2)) / (
            width * np.sqrt(np.pi)
        )

    def smooth_antiderivative(a):
        return np.exp(a)[:, None] + sizes * erf((a[:, None] - places) / width) / 2

    if width:
        found = search_function(front, smooth_antiderivative, n_steps="auto")
    else:
        # F jumps: no gradient shows it, so no token can be named for it.
        found = search_function(
            lambda a: np.exp(a)[:, None].repeat(3, 1), antiderivative, n_steps="auto"
        )
    truth = np.e - 1 + sizes
    assert found["gradient_evaluations"] == 280
    assert found["converged"] is not True
    assert sum(found["attributions"]) == pytest.approx(truth.sum(), rel=1e-4)
    off = np.abs(found["attributions"] - truth).sum()
    assert off <= found["stated_error"] * np.abs(found["attributions"]).sum()
    assert (off < 0.05 * np.abs(truth).sum()) == (width > 0)


@pytest.mark.parametrize("flags", [{}, {"n_steps": "auto"}], ids=str)
def test_rough_stated_errors_are_numbers_where_the_limit_leaves_nothing(flags):
    """F jumps and v does not show it; there are gradients for the first level only."""
    found = search_function(
        lambda a: np.exp(a)[:, None].repeat(2, 1),
        lambda a: np.exp(a)[:, None] + np.array([3, -1]) * (a[:, None] > 0.4),
        max_gradient_evaluations=35,
        **flags,
    )
    assert found["gradient_evaluations"] == 35 and found["converged"] is False
    assert np.isfinite(found["attribution_errors"]).all() and found["stated_error"] > 0.2


@pytest.mark.slow
def test_rough_stated_errors_hold_on_random_functions():
    """Of those that do not converge to the tolerance, in at least 95 percent."""
    holds = []
    for seed in range(60):
        v, antiderivative = random_function(seed)
        found = search_function(v, antiderivative, str(seed), n_steps="auto")
        if found["converged"] is not True:
            off = np.abs(found["attributions"] - antiderivative(1.0)).sum()
            holds.append(off <= found["stated_error"] * np.abs(found["attributions"]).sum())
            assert found["gradient_evaluations"] <= 485
    assert len(holds) > 10 and np.mean(holds) >= 0.95


@pytest.mark.parametrize("model", ["kinked_model", "deep_model"])
@pytest.mark.parametrize("flags", [[], ["--n_steps", "auto"]], ids=["search", "auto"])
def test_rough_paths_and_deep_models(request, run, tmp_path, model, flags):
    """Never a wrong certificate, never more gradients than allowed.

    The truth comes from float64.
    """
    folder = request.getfixturevalue(model)
    limit = 400
    if model == "deep_model":
        # Its logits change by 0.05 and 0.14; 1e-5 of that is rounding on some processors.
        flags = [*flags, "--tolerance", 1e-4]
    result = run(
        "run_attribution",
        *command(folder, tmp_path / "out", *flags, "--max_gradient_evaluations", limit),
    )
    assert result.code == 0
    for line in read(tmp_path / "out"):
        assert line["gradient_evaluations"] <= limit
        truth = integrate_in_float64(folder, line["text"], line["target"])
        off = np.abs(line["attributions"] - truth)
        if line["converged"] is True:
            assert (off <= line["attribution_errors"]).all()
        elif line["converged"] == "stated":
            assert off.sum() <= line["stated_error"] * np.abs(line["attributions"]).sum()
    converged = [line["converged"] is True for line in read(tmp_path / "out")]
    if model == "deep_model":
        # 24 smooth layers: the integral of every document, and the rule of one, must converge.
        assert all(converged) if "auto" in flags else any(converged)
    else:
        assert [line["converged"] for line in read(tmp_path / "out")] == ["stated", "stated"]
        assert "2 of 2 documents (text-1, text-2) did not converge to --tolerance" in result.log
        summary = json.loads((tmp_path / "out/summary.json").read_text())
        stated = [line["stated_error"] for line in read(tmp_path / "out")]
        assert summary["converged_to_stated_error"] == 2 and summary["not_converged"] == 0
        assert summary["max_stated_error"] == max(stated)
        for line in read(tmp_path / "out"):
            # The sum is exact by panels; of the real rules, the best one was taken.
            if flags:
                assert line["relative_error"] < 1e-4 and line["gradient_evaluations"] == 280
            else:
                gaps = line["evaluated_gaps"]
                assert len(gaps) > 1 and min(gaps, key=gaps.get) == str(line["n_steps"])
                assert abs(line["delta"]) == pytest.approx(min(gaps.values()))


@pytest.mark.parametrize("method", METHODS)
def test_choice_is_that_of_the_exhaustive_search(run, smooth_model, tmp_path, method):
    assert (
        run("run_attribution", *command(smooth_model, tmp_path / "out", "--method", method)).code
        == 0
    )
    steps = range(1 if method == "gausslegendre" else 2, 201)
    for line in read(tmp_path / "out"):
        assert line["gradient_evaluations"] in gradients()
        assert len(line["gaps"]) == len(steps)
        some = [*steps][::20]
        given = {"target": line["target"], "method": method}
        every, difference = captum_attributions(smooth_model, line["text"], some, **given)
        gaps = np.abs(every.sum(1) - difference)
        np.testing.assert_allclose(line["gaps"][::20], gaps, atol=5e-6, rtol=0.01)
        assert abs(line["delta"]) < min([*gaps, *line["gaps"]]) + 1e-5 * abs(difference) + 2e-6
        own, _ = captum_attributions(smooth_model, line["text"], [line["n_steps"]], **given)
        np.testing.assert_allclose(line["attributions"], own[0], atol=2e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", METHODS)
def test_noise_does_not_look_like_slow_decay(method, seed):
    """A smooth function with the largest rounding errors that encoders showed: 241 points do for
    every rule.
    """
    poles, rng = np.array([0.4 + 0.1j, 0.5 + 0.2j]), np.random.default_rng(seed)

    def evaluate(alphas):
        clean = (1 / (alphas[:, None] - poles)).real
        scale = 4 * np.abs(clean).sum(1)
        rounding = 3 * np.finfo(np.float32).eps * np.sqrt((scale**2).mean())
        noisy = clean + rng.normal(size=clean.shape) * rounding / np.sqrt(2)
        f = np.log(np.abs(alphas[:, None] - poles)).sum(1)
        return run_attribution.PathValues(f, scale, noisy)

    found = search(evaluate, str(seed), method=method)
    assert found["gradient_evaluations"] in gradients(241) and found["settled"]
    alphas, weights = run_attribution.quadrature(method, found["n_steps"])
    exact = weights @ (1 / (alphas[:, None] - poles)).real
    assert (np.abs(found["attributions"] - exact) <= found["attribution_errors"]).all()


def test_auto_states_an_error_that_holds(run, smooth_model, tmp_path):
    run("run_attribution", *command(smooth_model, tmp_path / "auto", "--n_steps", "auto"))
    run("run_attribution", *command(smooth_model, tmp_path / "many", "--n_steps", 600))
    run("run_attribution", *command(smooth_model, tmp_path / "search"))
    lines = (read(tmp_path / name) for name in ("auto", "many", "search"))
    for line, reference, searched in zip(*lines, strict=True):
        errors = np.abs(np.subtract(line["attributions"], reference["attributions"]))
        assert line["converged"] and (errors <= line["attribution_errors"]).all()
        assert max(line["attribution_errors"]) < 1e-3 * np.abs(line["attributions"]).sum()
        assert (
            line["n_steps"] in run_attribution.LEVELS
            and line["gradient_evaluations"] in gradients()
        )
        assert line["gradient_evaluations"] <= searched["gradient_evaluations"]


def test_bfloat16_works_and_shows_its_error(run, smooth_model, tmp_path):
    run("run_attribution", *command(smooth_model, tmp_path / "fine", "--n_steps", 20))
    assert (
        run(
            "run_attribution",
            *command(smooth_model, tmp_path / "coarse", "--n_steps", 20, "--bf16"),
        ).code
        == 0
    )
    assert run("run_attribution", *command(smooth_model, tmp_path / "search", "--bf16")).code == 0
    for fine, coarse in zip(read(tmp_path / "fine"), read(tmp_path / "coarse"), strict=True):
        scale = np.abs(fine["attributions"]).sum()
        away = np.abs(np.subtract(fine["attributions"], coarse["attributions"])).sum()
        assert 1e-5 * scale < away < 0.5 * scale


@pytest.mark.parametrize("flags", [["--n_steps", 12], []], ids=["captum", "search"])
def test_batches_and_short_memory_change_no_number(
    run, smooth_model, tiny_dataset, tmp_path, monkeypatch, flags
):
    """The same numbers and, where numbers of steps tie within rounding, the same choice."""
    flags = ["--dataset_name", tiny_dataset, "--max_samples", 6, *flags]
    for size in (1, 3, 7, 1000):
        run(
            "run_attribution",
            *command(smooth_model, tmp_path / str(size), *flags, "--internal_batch_size", size),
        )
    real = run_attribution.Explainer.forward

    def short_of_memory(self, ids):
        if len(ids) > 5:
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return real(self, ids)

    monkeypatch.setattr(run_attribution.Explainer, "forward", short_of_memory)
    run(
        "run_attribution",
        *command(smooth_model, tmp_path / "short", *flags, "--internal_batch_size", 64),
    )
    for lines in zip(
        *(read(tmp_path / name) for name in ("1", "3", "7", "1000", "short")), strict=True
    ):
        assert len({line["id"] for line in lines}) == len({line["n_steps"] for line in lines}) == 1
        for line in lines[1:]:
            np.testing.assert_allclose(line["attributions"], lines[0]["attributions"], atol=1e-6)


def test_stability_points_are_evaluated_one_by_one_where_rounding_matters(
    run, smooth_model, tmp_path, monkeypatch
):
    """Then, the result is that of batch size 1 to the last bit; both evaluations are counted."""
    monkeypatch.setattr(run_attribution, "is_stable_choice", lambda *given: False)
    for size in (1, 50):
        flags = ["--internal_batch_size", size]
        run("run_attribution", *command(smooth_model, tmp_path / str(size), *flags))
    for alone, several in zip(read(tmp_path / "1"), read(tmp_path / "50"), strict=True):
        assert several["attributions"] == alone["attributions"]
        assert several["n_steps"] == alone["n_steps"] and several["gaps"] == alone["gaps"]
        first_level = run_attribution.LEVELS[0] + run_attribution.CHECKS
        assert several["gradient_evaluations"] == alone["gradient_evaluations"] + first_level


def test_stability_finds_choices_that_rounding_errors_change():
    """A chosen n at the border of what is allowed is not stable; one in the middle is."""
    v, antiderivative = (
        (lambda a: np.stack([np.cos(9 * a), 1 + a], -1)),
        (lambda a: np.sin(9 * a) / 9 + a + a**2 / 2),
    )
    rng, stable = np.random.default_rng(0), []
    check_alphas = rng.uniform(size=run_attribution.CHECKS)
    rules = run_attribution.search_rules("gausslegendre", tuple(range(1, 201)), 61)
    alphas = np.append(check_alphas, rules.alphas)
    scale = 40 * np.abs(v(alphas)).sum(1)
    values = run_attribution.PathValues(antiderivative(alphas), scale, v(alphas))
    rows = np.column_stack([values.f, values.scale, values.v])
    for tolerance in np.geomspace(1e-5, 1e-3, 200):
        arguments = run_attribution.AttributionArguments(tolerance=tolerance)
        found = run_attribution.choose_steps(arguments, values, check_alphas)
        stable.append(run_attribution.is_stable_choice(arguments, values, check_alphas, found))
        errors = rng.normal(size=rows.shape) * np.finfo(np.float32).eps * 0.2 * np.abs(rows)
        noisy = rows + errors
        other = run_attribution.PathValues(noisy[:, 0], noisy[:, 1], noisy[:, 2:])
        other = run_attribution.choose_steps(arguments, other, check_alphas)
        assert other.n_steps == found.n_steps or not stable[-1]
    assert sum(stable) and stable.count(False) < 40


def test_no_memory_for_one_point_is_one_line(run, smooth_model, tmp_path, monkeypatch):
    real = run_attribution.Explainer.forward

    def out_of_memory(self, ids):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return real(self, ids)

    monkeypatch.setattr(run_attribution.Explainer, "forward", out_of_memory)
    assert_user_error(
        run("run_attribution", *command(smooth_model, tmp_path / "out")), "batch size"
    )


def test_a_killed_run_continues(run, kinked_model, tmp_path, fork_client):
    """Killed with -9 in the middle of the documents: the second call does the rest and nothing
    twice.
    """
    data = write_dataset(tmp_path / "data")
    documents = ["--dataset_name", data, "--split", "train", "--max_samples", 40, "--n_steps", 80]
    flags = command(kinked_model, tmp_path / "out", *documents)
    process = subprocess.Popen(
        [*fork_client, ROOT / "run_attribution.py", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    parts = tmp_path / "out"
    for _ in range(1200):
        if len(list(parts.glob("partial/*.jsonl"))) >= 3:
            break
        time.sleep(0.05)
    process.kill()
    process.communicate()  # until nobody can write to it any more
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("partial/*.jsonl")}
    assert 3 <= len(kept) < 40 and not (tmp_path / "out/attributions.jsonl").exists()
    written = {json.loads(path.read_text())["seconds"] for path in kept}
    other = run("run_attribution", *flags, "--method", "riemann_middle")
    assert_user_error(other, "--method gausslegendre", "another folder")
    again = run("run_attribution", *flags, "--disable_tqdm", "false")
    assert again.code == 0
    lines = read(tmp_path / "out")
    done = sum(line["seconds"] in written for line in lines)
    assert f"{done}/{len(lines)}" in again.err and f"{len(lines)}/{len(lines)}" in again.err
    assert written <= {line["seconds"] for line in lines}
    assert not list(parts.glob("partial*"))
    run("run_attribution", *command(kinked_model, tmp_path / "whole", *documents))
    for line, expected in zip(lines, read(tmp_path / "whole"), strict=True):
        assert line["id"] == expected["id"]
        np.testing.assert_allclose(line["attributions"], expected["attributions"], atol=1e-5)


def test_a_finished_run_is_not_done_again(run, smooth_model, tmp_path):
    flags = command(smooth_model, tmp_path / "out", "--n_steps", 4)
    run("run_attribution", *flags)
    first = read(tmp_path / "out")
    assert run("run_attribution", *flags).code == 0
    assert read(tmp_path / "out") == first  # with the seconds that the first call took


def test_two_processes_give_the_numbers_of_one(
    run, smooth_model, tiny_dataset, tmp_path, accelerate_launch
):
    flags = ["--dataset_name", tiny_dataset, "--internal_batch_size", 33]
    run("run_attribution", *command(smooth_model, tmp_path / "one", *flags))
    how = ["--multi_gpu", "--num_processes", 2, "--num_machines", 1, "--mixed_precision", "no"]
    how += ["--dynamo_backend", "no", "--main_process_port", 0]
    arguments = command(smooth_model, tmp_path / "two", *flags)
    process = accelerate_launch(*how, ROOT / "run_attribution.py", *arguments)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert json.loads((tmp_path / "two/summary.json").read_text())["processes"] == 2
    assert [line["id"] for line in one] == [line["id"] for line in two]
    for a, b in zip(one, two, strict=True):
        assert a["n_steps"] == b["n_steps"]
        np.testing.assert_allclose(a["attributions"], b["attributions"], atol=1e-6)


# Figures


def percent(share):
    return f"{100 * share:.2g} %"


def reference_row(row):
    """A document with a reference, as the first table of "Measured" shows it."""
    rule = row["brute_force"]
    cells = [
        row["id"],
        str(row["tokens"]),
        f"{row['reference_gradients']:,}",
        str(row["gradients"]),
        percent(row["stated_error"]),
        percent(row["true_error"]),
        f"{row['spearman']:.3f}",
        f"{row['front_10_percent']:.2f} to {row['front_90_percent']:.2f}",
        f"{rule['n_steps']}, {percent(rule['relative_gap'])}, {percent(rule['true_error'])}",
        percent(rule["error_with_the_most_steps"]),
    ]
    return f"| {' | '.join(cells)} |"


def baseline_row(rows, baseline, ids):
    """The documents of one baseline together, as the second table shows them."""
    rows = [row for row in rows if row["baseline"] == baseline and row["id"] in ids]
    median = {}
    for name in ("gradients", "stated_error", "front_10_percent", "front_90_percent"):
        median[name] = np.median([row[name] for row in rows])
    converged = [sum(row["converged"] == kind for row in rows) for kind in (True, "stated", False)]
    cells = [
        baseline.upper(),
        str(len(rows)),
        *map(str, converged),
        f"{median['gradients']:.0f}",
        percent(median["stated_error"]),
        f"{median['front_10_percent']:.2f} to {median['front_90_percent']:.2f}",
        f"{np.median([row['largest_to_median_gradient'] for row in rows]):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def ratio_rows(rows):
    """The stated errors from each other baseline relative to those from PAD on the same documents,
    as the third table shows them: paired t-tests of their logarithms, corrected together.
    """
    logs = {
        baseline: {
            row["id"]: np.log(row["stated_error"]) for row in rows if row["baseline"] == baseline
        }
        for baseline in ("pad", "mask", "zero", "mean")
    }
    of_pad = logs.pop("pad")
    changes = {
        baseline: np.array([value - of_pad[name] for name, value in by_document.items()])
        for baseline, by_document in logs.items()
    }
    tests = {baseline: ttest_1samp(change, 0) for baseline, change in changes.items()}
    corrected = multipletests([test.pvalue for test in tests.values()], method="holm")[1]
    lines = []
    for (baseline, change), p in zip(changes.items(), corrected, strict=True):
        low, high = np.exp(tests[baseline].confidence_interval())
        cells = [
            baseline.upper(),
            str(len(change)),
            f"{np.exp(change.mean()):.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{p:.2g}",
            str((change < 0).sum()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_constants_of_the_page_are_those_of_the_script():
    page = (ROOT / "docs" / "step-search.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d.]+) \| `([A-Z_]+)` \|", page, re.MULTILINE)
    assert len(rows) == 11
    for value, name in rows:
        assert getattr(run_attribution, name) == float(value), name


def test_figures_of_deep_encoders_are_those_of_their_file():
    page = (ROOT / "docs" / "step-search.md").read_text(encoding="utf-8")
    file = ROOT / "benchmarks" / "results" / "attribution_deep.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    for row in rows:
        assert row["relative_gap"] < 1e-4
        if "true_error" in row:
            assert reference_row(row) in page, reference_row(row)
    errors = [row["true_error"] for row in rows if "true_error" in row]
    assert f"The median error is {100 * np.median(errors):.2g} percent" in page
    within = sum(row["stated_error"] >= row["true_error"] for row in rows if "true_error" in row)
    text = " ".join(page.split())
    assert f"That {within} of {len(errors)} hold" in text and within == len(errors)
    rough = [row for row in rows if "true_error" in row and row["converged"] is not True]
    stated = [row["stated_error"] for row in rough]
    of_references = [row["reference_residuals"] + row["reference_error"] for row in rough]
    smaller = sum(new < old for new, old in zip(of_references, stated, strict=True))
    medians = [f"{100 * np.median(errors):.1f}" for errors in (of_references, stated)]
    assert (
        f"the stated error of the {len(rough)} rough paths is {medians[0]} percent in the median "
        f"instead of {medians[1]} percent with 280, and smaller on {smaller} of them"
    ) in text
    for row, error in zip(rough, of_references, strict=True):
        if not row["converged"]:
            assert f"That of {row['id']}, which did not converge, is {100 * error:.1f}" in text
    for baseline in {row["baseline"] for row in rows}:
        every = {row["id"] for row in rows if row["baseline"] == baseline}
        assert baseline_row(rows, baseline, every) in page, baseline_row(rows, baseline, every)
    for line in ratio_rows(rows):
        assert line in page, line
    # The rows of other baselines come from other trainings of the same model.
    logits = {row["id"]: row["f_input"] for row in rows if row["baseline"] == "pad"}
    assert all(abs(row["f_input"] - logits[row["id"]]) < 3e-6 for row in rows)
    # Each document that does not converge is named with its baseline and stated error.
    for row in rows:
        if row["converged"] is False:
            assert (
                f"{row['id']} ({row['tokens']} tokens) from {row['baseline'].upper()}, "
                f"{100 * row['stated_error']:.0f} percent"
            ) in text, row["id"]


def test_table_of_memory_is_that_of_its_file():
    page = (ROOT / "docs" / "attribution.md").read_text(encoding="utf-8")
    file = ROOT / "benchmarks" / "results" / "attribution_memory.json"
    for row in json.loads(file.read_text(encoding="utf-8")):
        cells = [row["model"], str(row["layers"]), f"{row['parameters']:,}"]
        cells += [str(row["internal_batch_size"]), str(row["peak_gib"])]
        cells.append(f"{row['cpu_seconds_per_gradient']:.2f}")
        assert f"| {' | '.join(cells)} |" in page, cells
        assert row["peak_gib"] <= 6
        if "alternative_batch_size" in row:
            ratio = row["seconds_alternative_to_first"]
            assert f"a batch of {row['alternative_batch_size']} took {ratio} times as long" in page
