"""render_report.py: one page from the folders of a study; missing parts, foreign files, and a real browser."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, ROOT, assert_user_error
from test_compare_runs import write_run
from test_render_attribution import document, write_folder

import compare_runs
import render_report

HOSTILE = "<script>alert(1)</script>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PARTS = {"data": "Data", "training": "Training", "comparison": "Comparison", "attributions": "Attributions",
         "context": "Context", "limits": "Know before use", "made": "How it was made"}  # fmt: skip


def call(script, *arguments):
    """Run a script's main() with a command line."""
    before, sys.argv = sys.argv, list(map(str, (f"{script}.py", *arguments)))
    try:
        importlib.import_module(script).main()
    except SystemExit as stop:
        assert not stop.code, stop.code
    finally:
        sys.argv = before


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


def write_encoder(folder, labels, seed):
    """A run folder of run_classification.py, without the model, drawn by make_card.py."""
    shown = draw(labels, seed)
    write_run(folder, labels, shown)
    arguments = {
        "model_name_or_path": "/home/someone/models/tiny-bert/model", "config_name": None, "text_prefix": "query: ",
        "max_seq_length": 64, "lr_scheduler_type": "linear", "weight_decay": 0.01, "early_stopping_patience": 3,
        "num_train_epochs": 2.0, "dataset_name": "/home/someone/data", "data_seed": "None", "class_weights": "none",
    }  # fmt: skip
    record = {"script": "run_classification.py", "model_name_or_path": arguments["model_name_or_path"], "seed": seed}
    record |= {"dataset_name": "data", "learning_rate": 2e-5, "total_train_batch_size": 512, "arguments": arguments}
    record |= {
        "device": "cpu",
        "precision": "fp32",
        "processes": 2,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
    }
    right = float(np.mean(labels == shown))
    results = {f"predict_{key}": right for key in ("accuracy", "f1", "precision", "recall")}
    results |= {"eval_loss": 0.5, "eval_accuracy": 0.8, "eval_f1": 0.75, "epoch": 1.5, "train_runtime": 754.0}
    results |= {"predict_samples": len(labels), "train_loss": 0.6, "predict_loss": 0.6}
    state = {"best_global_step": 2, "log_history": [
        {"step": 1, "epoch": 1.0, "loss": 1.0, "learning_rate": 1e-5},
        {"step": 2, "epoch": 1.5, "eval_loss": 0.5, "eval_accuracy": 0.8, "eval_f1": 0.75},
    ]}  # fmt: skip
    for name, content in (("run_arguments", record), ("all_results", results), ("trainer_state", state)):
        write_json(folder / f"{name}.json", content)
    call("make_card", "--run_dir", folder)


def draw(labels, seed):
    """Predictions of which most are right."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(len(labels)) < 0.8, labels, generator.integers(0, 5, len(labels)))


def write_svm(folder, labels):
    """A run folder of run_baseline.py, without model and pictures."""
    write_run(folder, labels, draw(labels, 9), scores="decisions")
    record = {"script": "run_baseline.py", "model_name_or_path": "TF-IDF + linear SVM", "dataset_name": "data"}
    record |= {"seed": 42, "arguments": {"C": [0.1, 1.0], "output_dir": "svm"}, "versions": {"python": "3.11.7"}}
    results = {"ngram_max": 2, "sublinear_tf": True, "C": 1.0, "train_settings": 24, "eval_accuracy": 0.8,
               "eval_f1": 0.7, "predict_accuracy": 0.8, "predict_f1": 0.8}  # fmt: skip
    write_json(folder / "run_arguments.json", record)
    write_json(folder / "all_results.json", results)


def write_attribution(folder, model):
    """A folder of run_attribution.py with faithfulness, drawn."""
    write_folder(folder, [document(), document("1501.00002", label=None)])
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"gradient_evaluations": 258, "forward_evaluations": 4, "seconds": 12.5, "truncated": 0, "run": "abc"}
    summary |= {"median_relative_error": 1e-6, "max_relative_error": None, "not_converged": 1, "device": "cpu"}
    summary |= {"arguments": {"model_name_or_path": str(model), "method": "gausslegendre", "baseline": "pad",
                              "target": "predicted"}, "versions": {"python": "3.12.1", "torch": "2.13.0"}}  # fmt: skip
    write_json(folder / "summary.json", summary)
    values = {"comprehensiveness": {"mean": 0.5, "low": 0.25, "high": 0.75}, "tau_leave_one_out": None}
    rankings = dict.fromkeys(("integrated gradients", "gradient x input", "random"), values)
    write_json(folder / "faithfulness.json", {"rankings": rankings, "note": "Means over 2.", "run": "abc"})
    call("render_attribution", "--attribution_dir", folder)


def write_context(folder, model):
    """A folder of run_context.py: the order test of one model, drawn."""
    test = {"value": 0.75, "difference": -0.05, "low": -0.1, "high": 0.0, "p": 0.04, "p_holm": 0.04}
    classes = [test | {"class": name, "documents": 8} for name in LABELS]
    condition = {"predictions_changed": 0.1, "max_change": 1.0, "accuracy": test, "macro_f1": test, "classes": classes}
    whole = {"value": 0.8, "low": 0.7, "high": 0.9}
    order = [{"name": model.name, "folder": str(model), "kind": "encoder", "cut_documents": 0, "indifferent": None,
              "accuracy": whole, "macro_f1": whole,
              "conditions": [condition | {"block": block} for block in (1, "sentence")]}]  # fmt: skip
    folder.mkdir()
    arguments = {"model_name_or_path": str(model), "dataset_name": "data", "split": "test", "n_shuffles": 5, "seed": 1}
    result = {"script": "context_statistics.py", "arguments": arguments, "versions": {"python": "3.11.7"}}
    result |= {"device": "cpu", "documents": 40, "classes": LABELS, "model": model.name, "order": order}
    result |= {"phrases": None, "attribution": [], "agreement": [], "left_out": ["Phrases are left out: too few."]}
    write_json(folder / "context.json", result)
    call("render_context", "--context_dir", folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study: the sample as data, three runs of which two in run_paper.sh's layout, and all other parts."""
    root = tmp_path_factory.mktemp("study")
    snapshot = ["--source", "snapshot", "--snapshot_file", ROOT / "sample_data" / "abstracts.jsonl", "--disable_tqdm"]
    call("fetch_arxiv", *snapshot, "--output_dir", root / "data")
    labels = np.arange(40) % 5
    write_svm(root / "svm", labels)
    for seed in (1, 2):
        write_encoder(root / "tiny" / f"lr-2e-5-seed-{seed}", labels, seed)
    header = "learning_rate,eval_loss,eval_accuracy,eval_f1,epoch,train_runtime"
    (root / "tiny" / "learning_rates.csv").write_text(f"{header}\n2e-5,0.5,0.8,0.75,1.5,754\n5e-5,0.7,0.6,0.5,2,70\n")
    runs = [root / "svm", *sorted(root.glob("tiny/lr-*"))]
    with pytest.MonkeyPatch.context() as patch:  # the renderer is called here, without a new interpreter
        patch.setattr(compare_runs, "__file__", str(root / "compare_runs.py"))
        call("compare_runs", *runs, "--output_dir", root / "comparison", "--n_resamples", 200)
    call("render_comparison", "--comparison_dir", root / "comparison", "--paper", "true")
    write_attribution(root / "attribution", runs[1])
    write_context(root / "context", runs[1])
    return root


@pytest.fixture
def study(whole, tmp_path):
    """A copy to break."""
    return Path(shutil.copytree(whole, tmp_path / "study"))


def flags(study):
    return [
        "--output_dir", study / "report", "--dataset_name", study / "data", "--runs", study / "svm",
        *sorted(study.glob("tiny/lr-*")), "--comparison_dir", study / "comparison", "--attribution_dirs",
        study / "attribution", "--context_dir", study / "context",
    ]  # fmt: skip


def text_of(page):
    """What a reader sees of the HTML, blanks collapsed."""
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)).split())


def render(run, study, *more):
    result = run("render_report", *flags(study), *more)
    assert result.code == 0, result.err
    return (study / "report" / "index.html").read_text(encoding="utf-8")


def test_everything_a_reviewer_asks_for_is_on_the_page(run, study):
    page = render(run, study, "--note", "A note for A & B.")
    assert re.findall(r'<h2 id="([^"]+)">([^<]+)', page) == list(PARTS.items())
    assert re.findall(r'<a href="#([^"]+)">', page) == list(PARTS)
    text = text_of(page)
    manifest = json.loads((study / "data" / "manifest.json").read_text())
    for words in (
        "A note for A &amp; B.",
        "300 in 5 classes", "math.AG 48 6 6 60 20.0%", *manifest["sha256"].values(), "notice of withdrawal",
        "The label is the primary category",
        "tiny/lr-2e-5-seed-1 tiny-bert 2e-05 1 512 1.5 of 2 fp32 2 x cpu 12 min 34 s",
        "5e-5 0.7000 60.00 50.00 2 70.0 s", "best of 24 settings", "query: ",
        "Table 2", "macro F1: TF-IDF + linear SVM is ", "on 40 documents", "bge-large-en-v1.5 †", "Know before use",
        "tau leave one out integrated gradients 0.500 (0.250 to 0.750)",
        "gradient evaluations 258", "not converged 1", "undefined",
        "with single words shuffled accuracy falls by 5.00 points", "Phrases are left out: too few.",
        "--num_train_epochs 2.0", "# 512 documents an update", "3.11.7", "3.12.1 (attribution)",
    ):  # fmt: skip
        assert words in text, words
    for name in ("attribution/attributions.html", "context/context.html", "comparison/pairs.csv"):
        assert f'href="../{name}"' in page and (study / "report" / f"../{name}").resolve().is_file()
    # Two training curves and confusion matrices, table 2, calibration, figure 1, four panels.
    assert page.count('src="data:image/png;base64,') == 8
    assert len(re.findall(r'<img alt="[^"]{20,}', page)) == 8
    assert len(page) < 2_000_000
    assert "data-seed" not in page and "--data_seed" not in page  # it was not set
    for folder in (str(study), "/home/someone", "/tmp"):
        assert folder not in page


def test_same_files_same_bytes(run, study):
    first = render(run, study)
    shutil.rmtree(study / "report")
    assert render(run, study) == first


def test_page_is_sane_html(run, study):
    page = render(run, study)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert page.count("<table>") == page.count("<caption") == page.count("</table>")
    assert "<th>" not in page and page.count("<td") > 100
    assert "<script" not in page and not re.search(r'(src|href)="(https?:|//)', page)
    lxml = pytest.importorskip("lxml.html")
    for found in lxml.fromstring(page).iter("table"):
        widths = {len(row) for row in found.iter("tr")}
        assert len(widths) == 1, found.find("caption").text_content()


def test_what_is_not_given_or_not_there_is_left_out_and_said(run, study):
    shutil.rmtree(study / "context")
    (study / "tiny" / "lr-2e-5-seed-2" / "all_results.json").unlink()
    (study / "attribution" / "faithfulness.json").unlink()
    (study / "attribution" / "attributions.html").unlink()
    page = render(run, study)
    assert "context is left out, it has no context.json" in page and '<h2 id="context">' not in page
    assert "lr-2e-5-seed-2 is left out, it has no all_results.json" in page
    assert "Faithfulness was not measured" in page and "attributions.html" not in page
    result = run("render_report", "--output_dir", study / "report", "--runs", study / "svm")
    assert result.code == 0
    text = text_of((study / "report" / "index.html").read_text())
    for flag in ("--dataset_name", "--comparison_dir", "--attribution_dirs", "--context_dir"):
        assert f"no {flag} was given" in text
    assert "Not on this page" in text and "Versions" in text


def test_a_run_that_only_predicts(run, study):
    path = study / "tiny" / "lr-2e-5-seed-1" / "all_results.json"
    write_json(path, {key: value for key, value in json.loads(path.read_text()).items() if "predict" in key})
    text = text_of(render(run, study))
    assert "python run_classification.py --do_predict --output_dir tiny/lr-2e-5-seed-1" in text
    assert "--do_train --do_eval --do_predict --output_dir tiny/lr-2e-5-seed-2" in text


def test_faithfulness_of_another_run_is_not_shown(run, study):
    content = json.loads((study / "attribution" / "faithfulness.json").read_text())
    write_json(study / "attribution" / "faithfulness.json", content | {"run": "another"})
    assert "Faithfulness was not measured" in render(run, study)


def test_many_runs_are_linked_instead_of_embedded(run, study, monkeypatch):
    monkeypatch.setattr(render_report, "EMBEDDED_RUNS", 2)
    page = render(run, study)
    assert page.count('src="data:image/png;base64,') == 6
    assert 'href="../tiny/lr-2e-5-seed-2/confusion_matrix.png"' in page


def make_hostile(study):
    """Put markup into every name and sentence that a file can bring."""
    for path in [*study.rglob("*.json"), *study.rglob("*.md"), *study.rglob("*.csv")]:
        text = path.read_text(encoding="utf-8")
        for name in ("math.AG", "TF-IDF + linear SVM", "tiny-bert", "math.SG", "integrated gradients"):
            text = text.replace(name, HOSTILE.replace("/", "\\/") if path.suffix == ".json" else HOSTILE)
        path.write_text(text, encoding="utf-8")


def test_markup_is_shown_as_text(run, study):
    make_hostile(study)
    page = render(run, study, "--title", HOSTILE, "--note", HOSTILE)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)") > 20


def test_foreign_and_half_written_files(run, study):
    for name in (
        "data/manifest.json", "svm/run_arguments.json", "svm/all_results.json", "comparison/comparison.json",
        "attribution/summary.json", "attribution/faithfulness.json", "context/context.json",
    ):  # fmt: skip
        content = (study / name).read_bytes()
        for broken in (content[: len(content) // 2], b"[1, 2]", b'{"counts": 3}', b"\xff\xfe", b""):
            (study / name).write_bytes(broken)
            assert_user_error(run("render_report", *flags(study)), study / name, "again")
        (study / name).write_bytes(content)
    for name, broken in (
        ("comparison/comparison.md", "# t\n\n| a | b |\n| --- | --- |\n| 1"),
        ("comparison/comparison.md", "# t\n\n| a | b |\n| --"),
        ("tiny/learning_rates.csv", "learning_rate,eval_loss\n1,2\n"),
        ("svm/predictions.csv", "id,text\n1,2\n"),
    ):
        content = (study / name).read_bytes()
        (study / name).write_text(broken)
        assert_user_error(run("render_report", *flags(study)), study / name)
        (study / name).write_bytes(content)
    png = study / "comparison" / "table2.png"
    png.write_bytes(png.read_bytes()[:1000])
    assert_user_error(run("render_report", *flags(study)), png)


def test_bad_commands(run, study, tmp_path):
    assert_user_error(run("render_report"), "--output_dir")
    assert_user_error(run("render_report", "--output_dir", tmp_path / "r"), "--dataset_name", "--context_dir")
    assert_user_error(run("render_report", "--output_dir", tmp_path / "r", "--runs", tmp_path / "none"), "no part")
    assert not (tmp_path / "r").exists()
    assert_user_error(run("render_report", *flags(study), "--run", 1), "--runs")
    (tmp_path / "file").write_text("")
    arguments = ["--output_dir", tmp_path / "file" / "report", "--runs", study / "svm"]
    assert_user_error(run("render_report", *arguments), tmp_path / "file", "--output_dir")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("left out for /data/runs/svm: it has", "left out for svm: it has"),
        ("models/tiny, ../a/b, https://a.b/c and 1/2/3 stay", "models/tiny, ../a/b, https://a.b/c and 1/2/3 stay"),
        ("/home/me/minilm/model", "minilm"),
        ("(/a/b/checkpoint-12)", "(b)"),
    ],
)
def test_folders_of_this_machine_are_shortened(text, shown):
    assert render_report.public(text) == shown


def test_markdown_of_the_other_scripts():
    found = render_report.blocks(
        "# T\n\n- a\\_b &lt;c&gt;\n- *d* **e** `f`\n\nrows:\n\n| a | b |\n|---|---|\n| x\\|y | 1 |\n"
    )
    assert [block["kind"] for block in found] == ["heading", "list", "table"]
    assert found[1]["items"] == ["a_b &lt;c&gt;", "<em>d</em> <strong>e</strong> <code>f</code>"]
    (text,) = render_report.blocks("<b>x</b> [y](https://a.b) ![z](c.png) `<i>`")
    assert text["text"] == "&lt;b&gt;x&lt;/b&gt; [y](https://a.b) ![z](c.png) <code>&lt;i&gt;</code>"
    kinds = [block["kind"] for block in render_report.blocks("1. one\n2. two\n\n> said\n\n```\ncode\n```\n")]
    assert kinds == ["list", "paragraph", "paragraph"]  # nothing is dropped
    assert (found[2]["caption"], found[2]["rows"], found[2]["numeric"]) == ("rows", [["x|y", "1"]], [False, True])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium; apt-get install chromium")
def test_in_a_browser(run, study):
    """Nothing is asked for, nothing complained of; it fits a phone, has a dark mode and prints what is folded."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    make_hostile(study)
    render(run, study)
    address, trouble = (study / "report" / "index.html").as_uri(), []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: trouble.append(dialog.message))
        page.on("request", lambda request: request.url == address or trouble.append(request.url))
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 100)")
        for name in PARTS:
            assert page.locator(f"#{name}").count() == 1
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
        page.locator("summary").first.focus()
        page.keyboard.press("Enter")
        folded = page.locator("#context ~ details table, details table").first
        assert not folded.is_visible()
        page.emulate_media(media="print", color_scheme="light")
        assert folded.is_visible()
        browser.close()
    assert trouble == []
