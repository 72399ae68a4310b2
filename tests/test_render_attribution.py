"""render_attribution.py: the figure and the page from a folder alone, without a model."""

import json
import shutil
import struct
import subprocess

import pytest
from conftest import assert_user_error

import render_attribution


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
    summary = {"documents": len(documents), "labels": ["math.AG", "math.DG", "math.SG"], "steps": [1, 3]}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_files_of_the_figure(run, tmp_path):
    folder = write_folder(tmp_path / "out", [document(), document("1501.00002", label=None)])
    assert run("render_attribution", "--attribution_dir", folder).code == 0
    png = (folder / "attributions.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", png[16:20])[0] == 2000
    tex = (folder / "attributions.tex").read_text()
    assert tex.count(r"\piece{") == 10
    assert r"{\#\#hler}" in tex and r"\documentclass{article}" in tex and tex.rstrip().endswith(r"\end{document}")
    assert not list(folder.glob("*.tmp"))


def test_colours_follow_sign_and_size():
    white, green, red = (render_attribution.shade(score, 2.0) for score in (0.0, 2.0, -2.0))
    assert white == (255, 255, 255)
    assert green[1] > green[0] and green[1] > green[2] and red[0] > red[1] and red[0] > red[2]
    assert sum(render_attribution.shade(1.0, 2.0)) > sum(green)
    assert render_attribution.shade(0.0, 0.0) == white


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("Kähler", r"K\"{a}hler"),
        ("##ß_{n}^2", r"\#\#\ss{}\_\{n\}\textasciicircum{}2"),
        ("α λ Łódź", r"\ensuremath{\alpha} \ensuremath{\lambda} \L{}\'{o}d\'{z}"),
        ("a\\b 50% $x$ & ~", r"a\textbackslash{}b 50\% \$x\$ \& \textasciitilde{}"),
        ("ℝ", r"\texttt{U+211D}"),
    ],
)
def test_latex_is_escaped(text, latex):
    assert render_attribution.escape_latex(text) == latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a TeX: article and xcolor")
def test_latex_compiles(run, tmp_path):
    """Every character that LaTeX minds, accents, Greek, letters that the fonts lack, and a line to be broken."""
    tokens = ["[CLS]", *r"# $ % & _ { } ~ ^ \ ## [ ] < > | \" ' ` - -- \alpha $L^2$ K\"ahler".split()]
    tokens += ["Kähler", "##ß", "Łódź", "α", "ℝ", "∞", "数", "–", "“"] + ["geometry"] * 40
    one = document(tokens=tokens, attributions=[(-1) ** k * k / len(tokens) for k in range(len(tokens))])
    folder = write_folder(tmp_path / "out", [one])
    assert run("render_attribution", "--attribution_dir", folder).code == 0
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "attributions.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and (folder / "attributions.pdf").stat().st_size > 5000


def test_figure_by_id_and_words(run, tmp_path):
    folder = write_folder(tmp_path / "out", [document(), document("1501.00002", target="math.SG")])
    flags = ["--figure_ids", "1501.00002", "--figure_level", "words"]
    assert run("render_attribution", "--attribution_dir", folder, *flags).code == 0
    tex = (folder / "attributions.tex").read_text()
    assert "math.SG" in tex and "1501.00001" not in tex and r"{k\"{a}hler}" in tex and "##" not in tex


def test_bad_folders(run, tmp_path):
    assert_user_error(run("render_attribution", "--attribution_dir", tmp_path), "attributions.jsonl")
    folder = write_folder(tmp_path / "out", [document()])
    assert_user_error(run("render_attribution", "--attribution_dir", folder, "--figure_ids", "no"), "no")
    assert_user_error(run("render_attribution", "--attribution_dir", folder, "--figure_documents", 0), "0")
    none = write_folder(tmp_path / "none", [])
    assert_user_error(run("render_attribution", "--attribution_dir", none), "no document")
    broken = write_folder(tmp_path / "broken", [{"id": "a"}])
    assert_user_error(run("render_attribution", "--attribution_dir", broken), "line 1", "text")
    (broken / "attributions.jsonl").write_text("{")
    assert_user_error(run("render_attribution", "--attribution_dir", broken), "damaged")
