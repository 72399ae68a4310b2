"""tools/comparison/page.py: odd names of classes and runs in tables, LaTeX and pictures."""

import json
import os
import re
import shlex
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from compared_runs import draw_predictions, results_of, write_run
from conftest import LABELS, assert_user_error

from comparison import figures, page, verdict


@pytest.mark.parametrize(
    "case", ["plain", "one class, no other column", "names with markup", "names of columns"]
)
def test_odd_classes(case, tmp_path, run):
    names = {
        "one class, no other column": ["only"],
        "names with markup": [
            "<script>alert(1)</script>",
            "=1+1",
            "$x_1$ 5%",
            "a|b\\",
            "c\nd, été 数学",
        ],
        "names of columns": ["id", "label", "prediction", "class", "documents"],
    }.get(case, LABELS)
    labels = np.arange(30) % len(names)
    for name, wrong in (("a", 0), ("b", 1)):
        lines = [["id", "label", "prediction", *names]]
        for number, label in enumerate(labels):
            prediction = (label + wrong * (number == 3)) % len(names)
            lines.append(
                [
                    f"d{number}",
                    names[label],
                    names[prediction],
                    *(float(k == prediction) for k in range(len(names))),
                ]
            )
        (tmp_path / name).mkdir()
        pd.DataFrame(lines).to_csv(tmp_path / name / "predictions.csv", index=False, header=False)
    output = tmp_path / "out"
    done = run(
        "compare_runs", tmp_path / "a", tmp_path / "b", "--output_dir", output, "--n_resamples", 100
    )
    assert done.code == 0, done.err
    assert results_of(output)["classes"] == sorted(names)
    assert pd.read_csv(output / "per_class_f1.csv", keep_default_na=False)[
        "class"
    ].tolist() == sorted(names)
    text = (output / "comparison.md").read_text(encoding="utf-8")
    assert "<script" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in tables} <= {5, 6, 7, 8, 9}
    # Table 2, the test (30 documents are enough for accuracy only), F1 and its differences,
    # agreement, parts of the test split, the hard documents (none)
    assert len(tables) == 4 + (2 + 1) + (2 + len(names)) + (2 + len(names)) + 3 + 4


def test_odd_run_names(tmp_path, run):
    """A name may be that of a column or of another run, or markup; long names are drawn, too."""
    labels = np.arange(30) % 5
    names = ["documents", "class", "x/run", "y/run", "a $b_{1}^ & | <b>", "n" * 200]
    runs = [
        write_run(tmp_path / "my runs" / name, labels, (labels + (np.arange(30) == 3)) % 5)
        for name in names
    ]
    output = tmp_path / "an output"
    done = run("compare_runs", *runs, "--output_dir", output, "--n_resamples", 100)
    assert done.code == 0, done.err
    shown = ["documents (documents)", "class (class)", "run (x/run)", "run (y/run)", *names[4:]]
    assert [model["name"] for model in results_of(output)["models"]] == shown
    per_class = pd.read_csv(output / "per_class_f1.csv")
    assert (
        per_class.columns.tolist() == ["class", "documents", *shown]
        and per_class["documents"].tolist() == [6] * 5
    )
    assert r"a \$b\_\{1\}\textasciicircum \space \& | <b> & 1 &" in (
        output / "table2.tex"
    ).read_text(encoding="utf-8")
    assert r"| a \$b\_{1}^ &amp; \| &lt;b&gt; | 1 |" in (output / "table2.md").read_text(
        encoding="utf-8"
    )
    for path in output.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert shlex.split(done.out.splitlines()[-1])[-len(runs) :] == [str(folder) for folder in runs]


def test_folders_with_markup_in_their_names(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = np.arange(30) % 5
    names = ["<script>alert(1)<", "a|b`c`", "[x](y) *z*"]
    for number, name in enumerate(names):
        write_run(tmp_path / name, labels, (labels + (np.arange(30) == number)) % 5)
    done = run("compare_runs", *names, "--output_dir", "out", "--n_resamples", 100)
    assert done.code == 0, done.err
    text = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text
    for line in text.splitlines():
        if line.startswith("|") and "Cohen" not in line:
            assert not re.search(r"(?<!\\)`", line)
    words = shlex.split(done.out.splitlines()[-1].removeprefix("next: "))
    assert run("make_report", *words[2:]).code == 0
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page and "a|b`c`" in page and "[x](y) *z*" in page


def test_folders_whose_names_are_not_text(tmp_path, run):
    """File systems allow any bytes; files that others read do not."""
    labels = np.arange(30) % 5
    good = write_run(tmp_path / "good", labels, labels)
    odd = write_run(tmp_path / "odd", labels, labels).rename(tmp_path / os.fsdecode(b"o\xffd"))
    result = run("compare_runs", good, odd, "--output_dir", tmp_path / "out")
    assert_user_error(result, "is not UTF-8", "rename")
    assert not (tmp_path / "out").exists()
    record = {"script": "run_classification.py", "model_name_or_path": "m", "seed": 1}
    (odd / "run_arguments.json").write_text(json.dumps(record | {"arguments": {}, "versions": {}}))
    (odd / "all_results.json").write_text('{"predict_accuracy": 1}')
    assert run("make_report", "--runs", odd, "--output_dir", tmp_path / "report").code == 0
    assert "o?d" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_models_are_all_that_cannot_grow(seed):
    """Against all subsets: groups hold no two models that are told apart, and no other fits in."""
    generator = np.random.default_rng(seed)
    count = 6
    is_apart = {pair for pair in combinations(range(count), 2) if generator.random() < 0.4}
    expected = []
    for size in range(1, count + 1):
        for group in combinations(range(count), size):
            others = set(range(count)) - set(group)
            joined = not any(pair in is_apart for pair in combinations(group, 2))
            grows = False
            for other in others:
                pairs = {tuple(sorted((other, member))) for member in group}
                grows |= not pairs & is_apart
            if joined and not grows and size > 1:
                expected.append(list(group))
    assert figures.groups_of_models(count, is_apart) == sorted(expected)


def test_models_are_grouped_only_if_all_pairs_are_tested():
    models = [
        {"name": name, "accuracy": value} for name, value in (("a", 0.7), ("b", 0.9), ("c", 0.8))
    ]
    pairs = []
    for model, reference, apart in (("b", "a", True), ("c", "a", False), ("c", "b", False)):
        pairs.append({"model": model, "reference": reference, "metric": "accuracy"})
        pairs[-1]["distinguishable"] = apart
    assert figures.group_names(models, pairs, "accuracy") == [["b", "c"], ["c", "a"]]
    assert figures.group_names(models, pairs[:2], "accuracy") is None
    assert figures.group_names(models[:2], pairs[:1], "accuracy") is None


def test_class_differences_name_the_method_of_their_intervals(tmp_path, run):
    """Both models with several seeds, one of them, and too few documents of every class."""
    generator, labels = np.random.default_rng(0), np.arange(150) % 5
    runs = {}
    for name, seeds in (("a", (1, 2)), ("b", (1, 2)), ("c", (1,))):
        runs[name] = []
        for seed in seeds:
            predictions = draw_predictions(generator, labels, 0.8)
            record = {"model_name_or_path": name, "seed": seed}
            folder = write_run(tmp_path / f"{name}{seed}", labels, predictions, **record)
            runs[name].append(folder)

    def compared(*folders):
        flags = ("--output_dir", tmp_path / "out", "--n_resamples", 100, "--reference", "a")
        assert run("compare_runs", *folders, *flags).code == 0
        rows = results_of(tmp_path / "out")["per_class_differences"]
        methods = {(row["model"], row["reference"]): row["method"] for row in rows}
        return methods, (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")

    random_seeds = "with intervals for new documents and new seeds (Obuchowski-Rockette)"
    bootstrap = "by the paired bootstrap of the documents. The simultaneous intervals"
    methods, page = compared(*runs["a"], *runs["b"])
    assert methods == {("b", "a"): "Obuchowski-Rockette"}
    assert f"{random_seeds}. The simultaneous intervals" in page and bootstrap not in page
    methods, page = compared(*runs["a"], *runs["c"])
    assert methods == {("c", "a"): "paired bootstrap"}
    assert bootstrap in page and random_seeds not in page
    methods, page = compared(*runs["a"], *runs["b"], *runs["c"])
    assert methods == {("b", "a"): "Obuchowski-Rockette", ("c", "a"): "paired bootstrap"}
    assert f"{random_seeds} where both models have several seeds, else {bootstrap}" in page
    for name in ("a1", "c1"):
        path = tmp_path / name / "predictions.csv"
        pd.read_csv(path)[:60].to_csv(path, index=False)
    methods, page = compared(runs["a"][0], runs["c"][0])
    assert methods == {("c", "a"): None}
    assert "no class has documents enough for an interval" in page and bootstrap not in page


def test_numbers_of_the_cost_table():
    numbers = (0.1234, 22.71, 999_700, 1_234_567, 999_400_000, 999_700_000, 2.5e9)
    assert [page.compact_number(number) for number in numbers] == [
        *("0.123", "22.7", "999,700", "1.23 M", "999 M", "1 G", "2.5 G")
    ]


def test_sentences_of_the_verdicts():
    """What the numbers of a row become in words, where the command line shows only some of it."""
    row = {"model": "a", "reference": "b", "metric": "accuracy", "documents": 973, "level": 0.005}
    row |= {"difference": -0.0062, "low": -0.0175, "high": -0.0001, "p_holm": 0.2}
    row |= {"verdict": "undecided", "documents_needed": None, "equivalent": False, "p": 0.02}
    row |= {"precision": {"fixed": 1e-4, "per_document": 0.05, "groups": [[5e-5, 0.01, 2]] * 2}}
    titles = {"accuracy": "accuracy", "macro_f1": "macro F1"}
    start, word, end = verdict.answer_parts(row, None, 0.01, titles)
    assert (start, word) == ("a against b is ", "undecided")
    assert "(95% CI -1.75 to -0.01), p = 0.200 after correction for 10 tests; more test" in end
    assert "test documents alone would not decide a difference of 1 point, because the" in end
    # Documents suffice, but they are more than anybody has.
    for precision in ({"disagreement": 0.08}, {"fixed": 0.0, "per_document": 0.05, "groups": []}):
        one_seed = row | {"precision": precision}
        *_, end = verdict.answer_parts(one_seed, None, 0.00001, titles)
        assert end.endswith(
            "; more than 100 million test documents would be needed to decide a difference of "
            "0.001 points."
        )
    # Without a correction the test itself does not reject: nothing was corrected for.
    exact = row | {"p": 0.0625, "p_holm": 0.0625, "test": "exact McNemar", "level": 0.05}
    *_, end = verdict.answer_parts(exact, None, 0.01, titles)
    assert (
        "-0.01), but the test (exact McNemar, p = 0.062) finds no difference: the interval is "
        "approximate; more"
        in end
        and "correction" not in end
    )
    *_, end = verdict.answer_parts(row | {"documents_needed": 974}, None, 0.01, titles)
    shown = "about 980 test documents would decide a difference of 1 point, and there are 973."
    assert end.endswith(f"; {shown}")
    for needed in (973, 800):  # no promise that fewer documents would decide
        *_, end = verdict.answer_parts(row | {"documents_needed": needed}, None, 0.01, titles)
        assert end.endswith(
            "; a true difference of 1 point is found on 973 test documents in at least 80 percent "
            "of all cases, so this one is smaller or takes more documents to show."
        )
    row |= {"verdict": "worse", "equivalent": True}
    second = row | {"metric": "macro_f1", "verdict": "undecided"}
    same = second | {"low": None, "high": None}
    *_, end = verdict.answer_parts(row, same, 0.01, titles)
    assert end.endswith("-0.62 points (no 95% CI, because nothing varies): undecided.")
    answer = verdict.Answer(row, second, verdict.answer_parts(row, second, 0.01, titles))
    assert answer.text() == (
        "a is worse than b: accuracy -0.62 points (95% CI -1.75 to -0.01), less than the margin of "
        "1 point; macro F1 -0.62 points (95% CI -1.75 to -0.01): undecided."
    )
    assert answer.markdown().startswith("a is **worse** than b: accuracy")
    assert [verdict.two_digits(n) for n in (7, 99, 101, 6123, 17000)] == [7, 99, 110, 6200, 17000]
