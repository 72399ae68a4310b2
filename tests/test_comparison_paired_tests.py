"""tools/comparison/paired_tests.py: identities, which test is chosen, error rates by simulation.

The simulations, marked slow, take 1 to 70 seconds each on two busy cores.
"""

from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest
from compared_runs import (
    draw_predictions,
    metrics_of_resamples,
    rate,
    results_of,
    truth_and_predictions,
    write_run,
)
from conftest import assert_user_error
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from benchmarks import bench_statistics
from common.statistics import add_holm, difference_test
from comparison import paired_tests


def test_pooled_test_without_document_noise_is_welchs_t_test():
    first, second = np.array([0.90, 0.92, 0.91]), np.array([0.88, 0.91, 0.89, 0.90])
    test = paired_tests.pooled_test([(1, np.tile(first, (51, 1))), (-1, np.tile(second, (51, 1)))])
    welch = stats.ttest_ind(first, second, equal_var=False)
    interval = welch.confidence_interval()
    expected = {
        "difference": first.mean() - second.mean(),
        "low": interval.low,
        "high": interval.high,
    }
    assert test == pytest.approx(expected | {"p": welch.pvalue})


def test_seeds_are_random_only_with_several_on_both_sides(tmp_path, run):
    generator, labels = np.random.default_rng(5), np.arange(200) % 5
    runs = {}
    for name, seed in product(("one", "two", "single"), (1, 2)):
        predictions = draw_predictions(generator, labels, 0.8)
        runs[name, seed] = write_run(
            tmp_path / f"{name}{seed}", labels, predictions, model_name_or_path=name, seed=seed
        )
    del runs["single", 2]
    call = (
        "compare_runs",
        "--output_dir",
        tmp_path / "out",
        "--n_resamples",
        200,
        "--reference",
        "one",
        "--pairs",
        "reference",
    )
    done = run(*call, *runs.values())
    assert done.code == 0, done.err
    rows = {(row["model"], row["metric"]): row for row in results_of(tmp_path / "out")["pairs"]}
    for metric, test in (("accuracy", "paired t-test"), ("macro_f1", "paired bootstrap")):
        assert rows["two", metric]["test"] == "Obuchowski-Rockette"
        assert rows["two", metric]["population"] == "new documents and new seeds"
        assert rows["single", metric]["test"] == test
        assert rows["single", metric]["population"] == "new documents and these trained models"
    right = {key: np.equal(*truth_and_predictions(folder)) for key, folder in runs.items()}
    difference = right["single", 1] - (right["one", 1] * 1.0 + right["one", 2]) / 2
    expected = stats.ttest_1samp(difference, 0)
    assert rows["single", "accuracy"]["p"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (rows["single", "accuracy"]["low"], rows["single", "accuracy"]["high"]) == pytest.approx(
        (low, high)
    )
    low, high = expected.confidence_interval(1 - 0.05 / len(rows))
    assert rows["single", "accuracy"]["high_simultaneous"] == pytest.approx(high)


def test_seeds_that_agree_by_chance_do_not_narrow_the_interval():
    """A variance between seeds below what their own documents give is raised to that."""
    generator = np.random.default_rng(0)
    chances = generator.beta(4, 1.5, 500)
    right = (generator.random((6, 500)) < chances).astype(float)
    # The same accuracy for all seeds, on documents that are not the same
    for row in right:
        surplus = int(row.sum() - 360)
        changed = np.flatnonzero(row == (surplus > 0))[: abs(surplus)]
        row[changed] = 1 - row[changed]
    first, second = right[:3], right[3:]
    effects = paired_tests.random_effects(*paired_tests.groups_of_means(first, second))
    differences = first.mean(axis=0) - second.mean(axis=0)
    by_documents = differences.var(ddof=1) / 500
    assert effects.estimate == 0
    assert effects.documents == pytest.approx(by_documents)
    assert effects.seeds == pytest.approx(0, abs=1e-12)
    assert effects.freedom == np.inf
    test = effects.test()
    assert test["high"] - test["low"] == pytest.approx(2 * 1.959964 * np.sqrt(by_documents))
    # Seeds that differ more than that add to it.
    first = first.copy()
    first[0, first[0] == 0] = 1
    wider = paired_tests.random_effects(*paired_tests.groups_of_means(first, second))
    assert wider.seeds > 0 and 2 <= wider.freedom < 20


def test_covariances_of_losses_are_those_of_resamples():
    """A mean per document needs no bootstrap: both ways give the same analysis."""
    generator = np.random.default_rng(1)
    losses = generator.exponential(size=(5, 300)) + generator.exponential(size=300)
    first, second = losses[:2], losses[2:]
    weights = generator.multinomial(300, np.full(300, 1 / 300), 4000)
    draws = np.vstack([losses.mean(axis=1), weights @ losses.T / 300])
    resampled = paired_tests.pooled_test([(1, draws[:, :2]), (-1, draws[:, 2:])])
    exact = paired_tests.random_effects(*paired_tests.groups_of_means(first, second)).test()
    width = exact["high"] - exact["low"]
    assert resampled["difference"] == pytest.approx(exact["difference"])
    assert resampled["high"] - resampled["low"] == pytest.approx(width, rel=0.05)


def test_few_changed_documents_bound_the_bootstraps_p():
    """Six changes, all for the better: the exact test gives 1/32, resamples alone much less."""
    labels = np.arange(400) % 5
    predictions = np.array([labels, labels])
    predictions[1, :6] = (labels[:6] + 1) % 5
    values = metrics_of_resamples(labels, predictions, 5, 1000, 0)["macro_f1"]
    right = predictions == labels
    pair = paired_tests.Pair("macro_f1", (values[:, :1], values[:, 1:]), (right[:1], right[1:]))
    assert paired_tests.bootstrap_pair(pair)["p"] < 0.02
    pair.changed = 6
    exact = paired_tests.mcnemar_test(6, 0)
    assert paired_tests.bootstrap_pair(pair)["p"] == pytest.approx(exact) == 2**-5


@pytest.mark.parametrize("lost", [1, 3, 5])
def test_few_losses_do_not_exclude_a_loss_of_the_margin(lost):
    """One model loses so many of 973 documents: p of macro F1 is near that of so few by chance.

    Resamples of three losses hardly ever have ten, though ten are often three by chance.
    """
    labels = np.arange(973) % 5
    predictions = np.array([labels, labels])
    predictions[0, :lost] = (labels[:lost] + 1) % 5
    values = metrics_of_resamples(labels, predictions, 5, 1000, 0)["macro_f1"]
    right = predictions == labels
    pair = paired_tests.Pair(
        "macro_f1", (values[:, :1], values[:, 1:]), (right[:1], right[1:]), changed=lost
    )
    test = partial(paired_tests.bootstrap_pair, pair)
    p = paired_tests.margin_tests(test, test(), 0.01)["p_non_inferior"]
    exact = stats.binom.cdf(lost, 973, 0.01)
    assert 0.75 * exact < p < 5 * exact
    alone = partial(paired_tests.bootstrap_test, np.subtract(*values.T))
    too_small = paired_tests.margin_tests(alone, alone(), 0.01)["p_non_inferior"]
    assert too_small < 0.75 * p


def test_decision_to_refuse_a_run():
    """Only what is shown to be worse beyond the margin is refused, of accuracy and macro F1."""
    common = {"reference": "old", "metric": "accuracy", "non_inferior": False}
    rows = [
        common | {"model": "lost", "worse_beyond_margin": True},
        common | {"model": "unclear", "worse_beyond_margin": False},
        common | {"model": "good", "worse_beyond_margin": False, "non_inferior": True},
        common | {"model": "rare", "metric": "macro_f1", "worse_beyond_margin": True},
        common | {"model": "loss", "metric": "log_loss", "worse_beyond_margin": None},
        common | {"model": "old", "reference": "other", "worse_beyond_margin": True},
    ]
    decision = paired_tests.decide(rows, "old")
    assert [row["model"] for row in decision.worse] == ["lost", "rare"]
    assert [row["model"] for row in decision.open] == ["unclear"]
    assert decision.tested and not paired_tests.decide([], "old").tested


@pytest.mark.parametrize(
    ("first", "second", "documents", "null"),
    [(12, 1, 44, 0.1), (31, 57, 973, -0.01), (5, 3, 40, 0.2)],
)
def test_tangos_score_by_maximum_likelihood(first, second, documents, null):
    """The variance is that of the likeliest share of disagreements, given the difference."""

    def loss(share):
        rest = 1 - 2 * share - null
        return -(
            first * np.log(share + null)
            + second * np.log(share)
            + (documents - first - second) * np.log(rest)
        )

    bounds = (max(0, -null) + 1e-12, (1 - null) / 2 - 1e-12)
    share = optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}
    ).x
    spread = np.sqrt(documents * (2 * share + null - null**2))
    score = paired_tests.tango_score(first, second, documents, null)
    assert score == pytest.approx((first - second - documents * null) / spread, rel=1e-5)
    assert paired_tests.tango_score(first, second, documents, 0) == pytest.approx(
        (first - second) / np.sqrt(first + second)
    )
    test = paired_tests.accuracy_test(first, second, documents)
    for bound, z in ((test["low"], 1.959964), (test["high"], -1.959964)):
        assert paired_tests.tango_score(first, second, documents, bound) == pytest.approx(
            z, rel=1e-5
        )


def test_interval_of_accuracies_without_disagreements():
    z = 1.959964**2
    test = paired_tests.accuracy_test(0, 0, 44)
    assert (test["low"], test["high"], test["p"]) == pytest.approx(
        (-z / (44 + z), z / (44 + z), 1), rel=1e-5
    )
    test = paired_tests.accuracy_test(30, 0, 30)
    assert (
        (test["difference"], test["high"]) == (1, 1)
        and 0.7 < test["low"] < 0.9
        and test["p"] < 1e-8
    )
    for documents in (1, 2, 7, 20):
        for first, second in product(range(documents + 1), repeat=2):
            if first + second <= documents:
                test, other = (
                    paired_tests.accuracy_test(*pair, documents, 0.1)
                    for pair in ((first, second), (second, first))
                )
                assert (
                    -1 <= test["low"] <= test["difference"] <= test["high"] <= 1
                    and 0 <= test["p"] <= 1
                )
                assert test["low"] == pytest.approx(-other["high"], abs=1e-6)


@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_predictions_have_p_one(tmp_path, run, seeds):
    """The mean of three equal losses differs from each by rounding, which is no difference."""
    labels = np.random.default_rng(0).integers(0, 5, 160)
    predictions = (labels + (np.arange(160) % 7 == 0)) % 5
    runs = [write_run(tmp_path / name, labels, predictions) for name in ("a", "b")]
    for seed in range(seeds):
        record = {"seed": seed, "model_name_or_path": "m"}
        runs.append(write_run(tmp_path / f"s{seed}", labels, predictions, **record))
    done = run("compare_runs", *runs, "--output_dir", tmp_path / "out", "--margin", 5)
    assert done.code == 0, done.err
    pairs = results_of(tmp_path / "out")["pairs"]
    assert len(pairs) == 12 and {row["p"] for row in pairs} == {row["p_holm"] for row in pairs} == {
        1.0
    }
    assert {row["test"] for row in pairs} == {"exact McNemar", "paired t-test", "paired bootstrap"}
    # Without a disagreement the bootstrap cannot say how large a difference might be; of accuracy
    # Tango's interval of no disagreement does, also where a model has several seeds.
    z = 1.959964**2
    for row in pairs:
        if row["metric"] == "accuracy":
            assert (row["low"], row["high"]) == pytest.approx((-z / (160 + z), z / (160 + z)), 1e-5)
            assert row["equivalent"]
        else:
            assert row["low"] is row["high"] is None and not row["equivalent"]
    assert {row["verdict"] for row in pairs} == {"within the margin", "undecided"}
    assert len(pd.read_csv(tmp_path / "out/hard_documents.csv")) == (predictions != labels).sum()


@pytest.mark.parametrize("seeds", [(1, 2), (2, 2)])
@pytest.mark.parametrize("changed", [0, 1, 4, 30])
def test_equal_seeds_are_no_surer_than_one(seeds, changed):
    """Seeds with the same predictions: interval and p are at least those of one seed each."""
    right = np.ones((2, 60), dtype=bool)
    right[1, :changed] = False
    members = (np.repeat(right[:1], seeds[0], axis=0), np.repeat(right[1:], seeds[1], axis=0))
    pair = paired_tests.Pair("accuracy", None, members)
    chosen = paired_tests.choose_test(pair)
    assert chosen.name == ("Obuchowski-Rockette" if seeds == (2, 2) else "paired t-test")
    for null, alpha in product((0, -0.02, 0.1), (0.05, 0.01)):
        found = chosen.function(pair, null, alpha)
        one_seed = paired_tests.accuracy_test(changed, 0, 60, null, alpha)
        assert found["difference"] == pytest.approx(one_seed["difference"])
        assert found["low"] <= one_seed["low"] + 1e-9 < one_seed["high"] - 1e-9 <= found["high"]
        assert found["p"] >= one_seed["p"] - 1e-12


def test_opposite_models_have_an_interval():
    """One is right everywhere and the other nowhere, with two seeds each: not -1 to -1, p 0."""
    pair = paired_tests.Pair("accuracy", None, (np.zeros((2, 30), bool), np.ones((2, 30), bool)))
    found = paired_tests.choose_test(pair).function(pair)
    assert (found["difference"], found["low"]) == (-1, -1) and -0.9 < found["high"] < -0.7
    assert 2.0**-29 <= found["p"] < 1e-6
    draws = np.tile([0.0, 0.0], (101, 1))
    f1 = paired_tests.Pair("macro_f1", (draws, draws + 1), pair.right)
    found = paired_tests.choose_test(f1).function(f1)
    assert found["low"] is found["high"] is None and 0 < found["p"] < 0.01


def test_accuracy_is_the_same_test_in_every_command(tmp_path, run):
    """Its results do not depend on the other models, on --n_resamples or on --seed."""
    generator, labels = np.random.default_rng(3), np.arange(200) % 5
    runs = {}
    for name, seed in product("abc", (1, 2)):
        predictions = draw_predictions(generator, labels, 0.8)
        record = {"model_name_or_path": name, "seed": seed}
        runs[name, seed] = write_run(tmp_path / f"{name}{seed}", labels, predictions, **record)
    pair = [folder for (name, _), folder in runs.items() if name != "c"]
    calls = {
        "pair": (*pair, "--n_resamples", 100),
        "all": (*runs.values(), "--n_resamples", 150, "--seed", 7, "--pairs", "reference"),
    }
    found = {}
    for output, words in calls.items():
        done = run("compare_runs", *words, "--output_dir", tmp_path / output, "--reference", "a")
        assert done.code == 0, done.err
        result = results_of(tmp_path / output)
        (row,) = [
            row for row in result["pairs"] if (row["model"], row["metric"]) == ("b", "accuracy")
        ]
        keys = ("difference", "low", "high", "p", "p_equivalent", "se_documents", "se_seeds")
        numbers = [row[key] for key in keys]
        for model in result["models"][:2]:
            numbers += [model["accuracy_low"], model["accuracy_high"], model["seed_spread"]]
        for part in result["slices"][:2]:
            numbers += [part["accuracy_low"], part["accuracy_high"]]
        found[output] = numbers
    assert found["pair"] == pytest.approx(found["all"], rel=1e-12)


def test_margin(tmp_path, run):
    """Two runs that differ by half a point on 1,000 documents, a third that is six points worse."""
    labels = np.arange(1000) % 5
    wrong = {"good": range(100), "close": range(95, 200), "bad": range(50, 210)}
    runs = {}
    for name, numbers in wrong.items():
        predictions = labels.copy()
        predictions[list(numbers)] = (labels[list(numbers)] + 1) % 5
        runs[name] = write_run(tmp_path / name, labels, predictions)
    output = tmp_path / "out"
    call = (
        "compare_runs",
        *runs.values(),
        "--output_dir",
        output,
        "--n_resamples",
        500,
        "--reference",
        "good",
        "--pairs",
        "reference",
        "--margin",
    )
    assert run(*call, 4).code == 0
    rows = {(row["model"], row["metric"]): row for row in results_of(output)["pairs"]}
    assert results_of(output)["margin"] == 0.04 and len(rows) == 8
    for metric in ("accuracy", "macro_f1"):
        close, bad = rows["close", metric], rows["bad", metric]
        assert (
            close["equivalent"]
            and close["non_inferior"]
            and not bad["equivalent"]
            and not bad["non_inferior"]
        )
        assert close["verdict"] == "within the margin" and bad["verdict"] == "worse"
        assert bad["p_worse_beyond"] == pytest.approx(1 - bad["p_non_inferior"])
        assert close["p_non_inferior"] <= close["p_equivalent"] <= close["p_equivalent_holm"] < 0.05
    pairs = pd.read_csv(output / "pairs.csv")
    pairs = pairs[pairs["metric"].isin(paired_tests.METRICS)]  # losses have no margin
    for kind in ("p_non_inferior", "p_equivalent", "p_worse_beyond"):
        assert pairs[f"{kind}_holm"].to_numpy() == pytest.approx(
            multipletests(pairs[kind], method="holm")[1], rel=1e-6
        )
    # The smaller the margin, the more documents it needs.
    assert run(*call, 1).code == 0
    smaller = {(row["model"], row["metric"]): row for row in results_of(output)["pairs"]}
    assert not any(row["equivalent"] for row in smaller.values())
    for key in (("close", "accuracy"), ("close", "macro_f1")):
        assert smaller[key]["documents_needed"] > 10 * rows[key]["documents_needed"] > 1000
    assert smaller["close", "accuracy"]["verdict"] == "undecided"
    for margin in (0, -1, 100, "nan"):
        assert_user_error(run(*call, margin), "--margin", "points")


@pytest.mark.slow
def test_false_positives_of_single_runs():
    """1,000 pairs of equally good models: McNemar and bootstrap reject 3 to 7 % at level 5 %."""
    generator = np.random.default_rng(0)
    exact, resampled = [], []
    for _ in range(1000):
        labels = generator.choice(5, 1000, p=[0.4, 0.14, 0.32, 0.08, 0.06])
        difficulty = generator.random(1000)
        predictions = np.array(
            [draw_predictions(generator, labels, 0.85, 5, difficulty) for _ in range(2)]
        )
        first, second = predictions == labels
        exact.append(
            paired_tests.mcnemar_test(int((first & ~second).sum()), int((second & ~first).sum()))
            < 0.05
        )
        draws = metrics_of_resamples(labels, predictions, 5, 500, int(generator.integers(2**31)))[
            "macro_f1"
        ]
        resampled.append(difference_test(draws[:, 0] - draws[:, 1])["p"] < 0.05)
    assert 0.03 <= rate(exact) <= 0.07, rate(exact)
    assert 0.03 <= rate(resampled) <= 0.07, rate(resampled)


@pytest.mark.slow
@pytest.mark.parametrize("seed_spread", [0.0, 0.03], ids=["equal seeds", "unequal seeds"])
def test_false_positives_of_pooled_seeds(seed_spread):
    """600 pairs of equally good ways to train, three seeds each, which may differ in quality.

    Where they do not, the test is conservative: see benchmarks/results/statistics.json.
    """
    generator = np.random.default_rng(1)
    found = {"accuracy": [], "macro_f1": []}
    for _ in range(600):
        labels = generator.integers(0, 2, 600)
        chances = 0.5 + 0.48 * generator.beta(4, 1.5, 600)
        predictions = np.empty((6, 600), dtype=int)
        for model in range(2):
            own = chances + generator.normal(0, 0.08, 600)
            for seed in range(3):
                right = generator.random(600) < own + generator.normal(0, seed_spread)
                predictions[3 * model + seed] = np.where(right, labels, 1 - labels)
        draws = metrics_of_resamples(labels, predictions, 2, 200, int(generator.integers(2**31)))
        for metric, flags in found.items():
            groups = [(1, draws[metric][:, :3]), (-1, draws[metric][:, 3:])]
            test = paired_tests.pooled_test(groups)
            flags.append(test["p"] < 0.05)
            # The interval holds what the test does not reject, so it covers 0 as often.
            assert flags[-1] != (test["low"] <= 0 <= test["high"])
    assert paired_tests.pooled_test(groups, null=test["low"])["p"] == pytest.approx(0.05)
    for metric, flags in found.items():
        assert 0.005 <= rate(flags) <= 0.07, (metric, rate(flags))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "spreads"),
    [((3, 3), (0.0, 0.0)), ((3, 3), (0.01, 0.01)), ((3, 5), (0.0, 0.02))],
    ids=["equal seeds", "seeds differ", "one model's seeds differ"],
)
def test_errors_with_several_seeds(seeds, spreads):
    """A difference is found, or equivalence claimed at the margin, in at most 7 % of 600 pairs."""
    generator = np.random.default_rng(2)
    row = bench_statistics.simulate_seeds(generator, 600, 300, seeds, spreads)
    assert 0.005 <= row["size"] <= 0.07, row
    assert row["equivalence_errors"] <= 0.07, row


@pytest.mark.slow
@pytest.mark.parametrize("setting", list(bench_statistics.SHARPNESS))
def test_interval_of_a_loss_difference_covers_the_truth(setting):
    generator = np.random.default_rng(3)
    row = bench_statistics.simulate_losses(generator, 400, 150, setting, population=200_000)
    for loss in paired_tests.LOSSES:
        assert 0.92 <= row[loss]["t-test"] <= 0.98, row


@pytest.mark.slow
def test_false_positives_with_several_labels():
    row = bench_statistics.simulate_label_sets(np.random.default_rng(4), 300, 150)
    for name, share in row["size"].items():
        assert 0.02 <= share <= 0.08, (name, share)


@pytest.mark.slow
def test_a_reference_that_is_best_by_chance_finds_too_many_differences():
    row = bench_statistics.simulate_reference(np.random.default_rng(5), 800, 300)
    found = row["any_different"]
    assert found["named beforehand"] <= 0.06
    assert found["best on these documents"] > found["named beforehand"]


@pytest.mark.slow
def test_fail_if_worse_refuses_what_is_worse_only():
    generator = np.random.default_rng(6)
    rows = {}
    for loss in (0.0, 0.01, 0.05):
        rows[loss] = bench_statistics.simulate_fail_if_worse(generator, 2000, 1000, loss, 0.01)
    assert rows[0.0]["refused"] <= 0.01
    assert 0.03 <= rows[0.01]["refused"] <= 0.07
    assert rows[0.05]["refused"] >= 0.9


def at_the_margin(test, truth):
    """Whether the interval covers the truth, and equivalence within that margin is claimed."""
    found = test()
    return found["low"] <= truth <= found["high"], paired_tests.margin_tests(test, found, truth)[
        "p_equivalent"
    ] < 0.05


def check_rates(outcomes):
    coverage, errors = np.mean(outcomes, axis=0)
    assert 0.92 <= coverage <= 0.97, coverage
    assert 0.03 <= errors <= 0.07, errors


@pytest.mark.slow
def test_interval_of_a_difference_covers_the_truth():
    """The same for the difference of two runs' macro F1 where there is one."""
    generator = np.random.default_rng(4)
    # Two classes, errors shared in part: chances of (both right, only first, only second, neither)
    # in either class.
    chances = np.array([[0.80, 0.08, 0.05, 0.07], [0.70, 0.12, 0.08, 0.10]])
    shares = np.array([0.6, 0.4])

    def population(right):
        first_class, second_class = shares * right
        table = np.array(
            [[first_class, shares[0] - first_class], [shares[1] - second_class, second_class]]
        )
        return np.mean(2 * table.diagonal() / (table.sum(axis=0) + table.sum(axis=1)))

    truth = population(chances[:, 0] + chances[:, 1]) - population(chances[:, 0] + chances[:, 2])
    outcomes = []
    for _ in range(1000):
        cells = generator.choice(8, 500, p=(shares[:, None] * chances).ravel())
        labels, outcome = cells // 4, cells % 4
        first = np.where(np.isin(outcome, (0, 1)), labels, 1 - labels)
        second = np.where(np.isin(outcome, (0, 2)), labels, 1 - labels)
        draws = metrics_of_resamples(
            labels, np.array([first, second]), 2, 1000, int(generator.integers(2**31))
        )
        outcomes.append(
            at_the_margin(
                partial(paired_tests.bootstrap_test, np.subtract(*draws["macro_f1"].T)), truth
            )
        )
    check_rates(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize(("documents", "shares"), [(60, (0.3, 0.05)), (1000, (0.07, 0.03))])
def test_errors_of_the_test_of_two_accuracies(documents, shares):
    """2,000 test sets where models differ by the margin: claims of equivalence in 3 to 7 %."""
    truth = shares[0] - shares[1]
    samples = (
        np.random.default_rng(6)
        .multinomial(documents, [*shares, 1 - sum(shares)], 2000)[:, :2]
        .tolist()
    )
    results = {}
    for first, second in {tuple(sample) for sample in samples}:
        swapped = partial(paired_tests.accuracy_test, second, first, documents)
        results[first, second] = (
            *at_the_margin(partial(paired_tests.accuracy_test, first, second, documents), truth),
            paired_tests.margin_tests(swapped, swapped(), truth)["p_non_inferior"] < 0.05,
        )
    check_rates([results[tuple(sample)][:2] for sample in samples])
    assert 0.03 <= rate([results[tuple(sample)][2] for sample in samples]) <= 0.07


@pytest.mark.slow
def test_errors_where_one_model_has_one_seed():
    """Three trained models against one, 1,000 sets: t-test of accuracy, bootstrap of macro F1."""
    generator, outcomes = np.random.default_rng(8), {"accuracy": [], "macro_f1": []}
    for _ in range(1000):
        labels = generator.integers(0, 2, 300)
        # The mean accuracy and macro F1 of each of the three is 0.849.
        chances = 0.5 + 0.48 * generator.beta(4, 1.5, 300)
        right = generator.random((4, 300)) < np.vstack([chances, chances, chances, chances - 0.08])
        predictions = np.where(right, labels, 1 - labels)
        draws = metrics_of_resamples(labels, predictions, 2, 200, int(generator.integers(2**31)))
        for metric, name in (("accuracy", "paired t-test"), ("macro_f1", "paired bootstrap")):
            values = (draws[metric][:, :3], draws[metric][:, 3:])
            pair = paired_tests.Pair(metric, values, (right[:3], right[3:]))
            chosen = paired_tests.choose_test(pair)
            assert chosen.name == name
            outcomes[metric].append(at_the_margin(partial(chosen.function, pair), 0.08))
    for found in outcomes.values():
        check_rates(found)


@pytest.mark.slow
def test_family_of_tests_is_wrong_in_five_percent():
    """Four models as good as the reference: any is called different, or any interval fails."""
    generator, rejected, covered, cache = np.random.default_rng(9), [], [], {}
    for _ in range(1500):
        difficulty = generator.random(300) + generator.normal(0, 0.15, (5, 300))
        right = difficulty < 0.85
        tests = []
        for other in right[1:]:
            counts = int((right[0] & ~other).sum()), int((other & ~right[0]).sum())
            if counts not in cache:
                cache[counts] = paired_tests.accuracy_test(*counts, 300, alpha=0.05 / 4)
            tests.append(dict(cache[counts]))
        add_holm(tests)
        rejected.append(any(test["p_holm"] < 0.05 for test in tests))
        covered.append(all(test["low"] <= 0 <= test["high"] for test in tests))
    assert rate(rejected) <= 0.06 and rate(covered) >= 0.94, (rate(rejected), rate(covered))


def test_a_new_test_is_a_function_and_a_line_in_the_table(tmp_path, run, monkeypatch):
    """It is chosen where its line says so, and the other lines stay what they were."""

    def sign_test(pair, null=0.0, alpha=0.05):
        found = paired_tests.mcnemar_pair(pair, null, alpha)
        wins, losses = pair.only_one_right()
        return found | {"p": float(stats.binomtest(wins, max(1, wins + losses)).pvalue)}

    line = paired_tests.PairedTest(
        "sign test", sign_test, ("accuracy",), paired_tests.both_one, paired_tests.THESE_MODELS
    )
    monkeypatch.setattr(paired_tests, "TESTS", (line, *paired_tests.TESTS))
    generator, labels = np.random.default_rng(0), np.arange(160) % 5
    for name in ("a", "b"):
        write_run(tmp_path / name, labels, draw_predictions(generator, labels, 0.8))
    folders = (tmp_path / "a", tmp_path / "b")
    done = run("compare_runs", *folders, "--output_dir", tmp_path / "out", "--n_resamples", 200)
    assert done.code == 0, done.err
    rows = {row["metric"]: row for row in results_of(tmp_path / "out")["pairs"]}
    assert rows["accuracy"]["test"] == "sign test"
    assert rows["macro_f1"]["test"] == "paired bootstrap"
    assert rows["accuracy"]["documents_needed"] is None  # its line names no precision
    assert "(sign test, p" in (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
