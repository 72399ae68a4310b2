"""render_attributions.py: the page from a folder alone, without a model; damaged and unusual
folders.
"""

import importlib
import json
import re
import sys

import pytest
from conftest import assert_user_error

RANKINGS = ("integrated gradients", "gradient x input", "random")


def call(script, *arguments):
    """Run a script's main() with a command line, for fixtures of a module."""
    before, sys.argv = sys.argv, list(map(str, (f"{script}.py", *arguments)))
    try:
        importlib.import_module(script).main()
    except SystemExit as stop:
        assert not stop.code, stop.code
    finally:
        sys.argv = before


def document(name="1501.00001", **changes):
    """A line of attributions.jsonl."""
    return {
        "id": name,
        "text": "kähler metric",
        "label": "math.DG",
        "prediction": "math.AG",
        "target": "math.AG",
        "tokens": ["[CLS]", "ka", "##hler", "metric", "[SEP]"],
        "attributions": [0.0, 0.5, 0.25, -0.75, 0.0],
        "words": ["kähler", "metric"],
        "word_attributions": [0.75, -0.75],
        "word_ids": [None, 0, 0, 1, None],
        "word_spans": [[0, 6], [7, 13]],
        "token_spans": [None, [0, 2], [2, 6], [7, 13], None],
        "truncated": False,
        "probabilities": {"math.AG": 0.7, "math.DG": 0.2, "math.SG": 0.1},
        "method": "gausslegendre",
        "n_steps": 2,
        "relative_error": 1e-6,
        "f_input": 2.0,
        "f_baseline": 1.0,
        "gradient_evaluations": 129,
        "converged": True,
        "gaps": [1e-2, 1e-6, 3e-6],
    } | changes


def write_folder(folder, documents):
    """A folder as run_attribution.py leaves it."""
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in documents)
    (folder / "attributions.jsonl").write_text(lines, encoding="utf-8")
    summary = {
        "documents": len(documents),
        "labels": ["math.AG", "math.DG", "math.SG"],
        "steps": [1, 3],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_faithfulness(folder, documents=40, run="abc"):
    """Add faithfulness.json, as measure_faithfulness.py writes it, and the run to summary.json."""
    values = {"comprehensiveness": {"mean": 0.5, "low": 0.25, "high": 0.75, "documents": documents}}
    values |= {"tau_leave_one_out": None}
    note = f"Means over {documents} documents with 95 % bootstrap intervals. Tau: Kendall's."
    content = {"rankings": dict.fromkeys(RANKINGS, values), "note": note, "run": run}
    (folder / "faithfulness.json").write_text(json.dumps(content))
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"run": "abc"}))


def render(run, folder):
    result = run("render_attributions", "--attribution_dir", folder)
    assert result.code == 0, result.err
    return (folder / "attributions.html").read_text(encoding="utf-8")


def data_of(page):
    """The documents that the script of the page shows."""
    return json.loads(
        re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1]
    )


def test_page_and_nothing_else(run, tmp_path):
    folder = write_folder(tmp_path / "a folder", [document(), document("1501.00002", label=None)])
    result = run("render_attributions", "--attribution_dir", folder)
    assert result.code == 0 and f"--attribution_dirs '{folder}'" in result.log
    assert {path.name for path in folder.iterdir()} == {
        "attributions.html",
        "attributions.jsonl",
        "summary.json",
    }
    page = (folder / "attributions.html").read_text()
    assert "Integrated gradients of 2 documents" in page
    assert "Content-Security-Policy" in page and "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert [line["id"] for line in data_of(page)["documents"]] == ["1501.00001", "1501.00002"]
    assert render(run, folder) == page


def test_a_difference_shown_once_is_not_called_a_different_answer(run, tmp_path):
    folder = write_folder(tmp_path / "out", [document()])
    write_faithfulness(folder)
    path = folder / "faithfulness.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"shown_once": ["Sufficiency <b>: shown."]}))
    page = render(run, folder)
    assert "different answers" not in " ".join(page.split())
    assert "the other may miss it: Sufficiency &lt;b&gt;: shown." in page
    path.write_text(json.dumps(content | {"disagreements": ["Sufficiency: larger, smaller."]}))
    page = " ".join(render(run, folder).split())
    assert "give different answers:" in page and "may miss it" not in page


def test_faithfulness_is_shown_only_with_its_own_run(run, tmp_path):
    folder = write_folder(tmp_path / "out", [document()])
    write_faithfulness(folder)
    page = render(run, folder)
    assert "0.500 (0.250 to 0.750)" in page and "95 % bootstrap" in page
    write_faithfulness(folder, run="another")
    assert "0.500 (0.250" not in render(run, folder)


def test_no_interval_from_few_documents_of_an_older_folder(run, tmp_path):
    """Folders written before intervals of few documents were left out hold them, and the page does
    not show them.
    """
    folder = write_folder(tmp_path / "out", [document()])
    write_faithfulness(folder, documents=2)
    page = render(run, folder)
    assert "0.500</td>" in page and "0.250" not in page and "95 %" not in page
    assert "Intervals are not reported for fewer than 10 documents." in page


def test_no_path_of_the_machine_is_shown(run, tmp_path):
    folder = write_folder(tmp_path / "out", [document()])
    summary = json.loads((folder / "summary.json").read_text())
    arguments = {"model_name_or_path": "/home/jane doe/runs/minilm/model", "baseline": "mask"}
    (folder / "summary.json").write_text(json.dumps(summary | {"arguments": arguments}))
    page = render(run, folder)
    assert "<dd>minilm</dd>" in page and "jane" not in page and str(tmp_path) not in page
    assert "MASK tokens" in page


def test_an_old_folder_stays_readable(run, tmp_path):
    """Only the keys that every version wrote."""
    optional = "word_ids word_spans token_spans truncated probabilities converged gaps".split()
    old = {key: value for key, value in document().items() if key not in optional}
    folder = write_folder(tmp_path / "out", [old])
    (folder / "summary.json").write_text("{}")
    (shown,) = data_of(render(run, folder))["documents"]
    assert shown["probabilities"] == [1.0]
    assert shown["explanations"][0]["math.AG"]["converged"] is True


def test_hostile_names_are_text(run, tmp_path):
    label = "</script><script>alert(1)</script>"
    one = document(
        label, label=label, prediction=label, target=label, text=label, probabilities={label: 1.0}
    )
    folder = write_folder(tmp_path / "out", [one])
    (folder / "summary.json").write_text(
        json.dumps({"labels": [label, "=1+1", '"><b>'], "device": label})
    )
    page = render(run, folder)
    assert page.count("<script") == 2 and "<b>" not in page
    assert data_of(page)["labels"][0] == label and data_of(page)["documents"][0]["text"] == label


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attributions": [0.0, float("nan"), 0.25, -0.75, 0.0]}, ["JSON"]),
        ({"f_input": float("inf")}, ["JSON"]),
        ({"attributions": [0.0]}, ["one score"]),
        ({"words": ["one"]}, ["one score"]),
        ({"classes": {"math.SG": {"attributions": [0.0]}}}, []),
        ({"word_attributions": None}, []),
        ({"relative_error": "<"}, []),
        ({"gaps": ["a", "b"]}, []),
        ({"probabilities": [0.5]}, []),
        ({"text": None}, ["text"]),
        ({"word_spans": [[0, 6]]}, ["span"]),
        ({"word_spans": [None, [0, 6]]}, []),
        ({"f_input": 10**400}, []),
    ],
)
def test_damaged_values_leave_no_blank_page(run, tmp_path, changes, words):
    folder = write_folder(tmp_path / "out", [document("fine"), document("broken", **changes)])
    result = run("render_attributions", "--attribution_dir", folder)
    assert_user_error(result, folder, "attributions.jsonl", "again", *words)
    assert not (folder / "attributions.html").exists()


def test_bad_folders(run, tmp_path, full_disk):
    assert_user_error(
        run("render_attributions", "--attribution_dir", tmp_path), "attributions.jsonl"
    )
    assert_user_error(run("render_attributions", "--attribution_dir", tmp_path / "none"), "none")
    none = write_folder(tmp_path / "none", [])
    assert_user_error(run("render_attributions", "--attribution_dir", none), "no document")
    broken = write_folder(tmp_path / "broken", [{"id": "a"}])
    for content, words in (
        ('{"id": "a"}', ["text"]),
        ("{", ["again"]),
        ("[1]", ["again"]),
        ("3", ["again"]),
        ("\x00\xff", ["again"]),
    ):
        (broken / "attributions.jsonl").write_text(content, encoding="latin-1")
        assert_user_error(
            run("render_attributions", "--attribution_dir", broken), "attributions.jsonl", *words
        )
    folder = write_folder(tmp_path / "out", [document()])
    for content in (
        "",
        "{",
        "[]",
        '{"steps": 1}',
        '{"labels": 1}',
        '{"arguments": []}',
        '{"steps": [null, 1]}',
        '{"arguments": {"baseline": null}}',
    ):
        (folder / "summary.json").write_text(content)
        assert_user_error(run("render_attributions", "--attribution_dir", folder), folder, "again")
    (folder / "summary.json").write_text("{}")
    for rankings in ("{}", '{"a": [1]}', '{"a": {"b": {"mean": 1%s}}}' % (400 * "0")):
        (folder / "faithfulness.json").write_text(
            f'{{"run": null, "rankings": {rankings}, "note": ""}}'
        )
        assert_user_error(
            run("render_attributions", "--attribution_dir", folder), "faithfulness.json", "again"
        )
    for content in (
        "",
        "{",
        "[]",
        "{}",
        '{"run": null}',
        '{"run": null, "rankings": {"a": {}}, "note": 3}',
    ):
        (folder / "faithfulness.json").write_text(content)
        assert_user_error(
            run("render_attributions", "--attribution_dir", folder), "faithfulness.json", "again"
        )
    (folder / "faithfulness.json").unlink()
    with full_disk("attributions.html"):
        assert_user_error(
            run("render_attributions", "--attribution_dir", folder), "cannot write", folder
        )
    assert_user_error(
        run("render_attributions", "--attribution_dir", folder, "--figure_ids", "a"), "--figure_ids"
    )
