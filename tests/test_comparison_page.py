"""tools/comparison/page.py: odd names of classes and runs in tables, LaTeX and pictures."""

import json
import os
import re
import shlex

import numpy as np
import pandas as pd
import pytest
from compared_runs import results_of, write_run
from conftest import LABELS, assert_user_error


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
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in tables} <= {4, 5, 6, 7}
    assert len(tables) == len(names) + 13


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
