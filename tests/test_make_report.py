"""make_report.py: one page of a study; missing parts, foreign files, and a real browser."""

import json
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from browser import browser, check_page, open_page  # noqa: F401
from conftest import LABELS, ROOT, assert_user_error
from sklearn.metrics import f1_score
from test_render_attributions import call, document, write_faithfulness, write_folder

import make_report

PICTURES = 9  # of the page of the whole study
HOSTILE = "<script>alert(1)</script>"
# The sections in their order: the answer first, checksums and the dataset card last
PARTS = {
    "answer": "Answer",
    "comparison": "Comparison",
    "context": "Context",
    "training": "Training",
    "attributions": "Attributions",
    "data": "Data",
    "limits": "Limitations",
    "made": "Arguments, versions, checksums",
}


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


def draw(folder, *names):
    """Pictures, as the scripts draw them into a folder."""
    figure = plt.figure(figsize=(3, 2))
    for name in names:
        figure.savefig(folder / name)
    plt.close(figure)


def write_predictions(folder, labels, seed, scores=lambda right: 0.9 if right else 0.6):
    """predictions.csv of a run that is right on most documents; returns its results."""
    generator = np.random.default_rng(seed)
    shown = np.where(
        generator.random(len(labels)) < 0.8, labels, generator.integers(0, 5, len(labels))
    )
    table = pd.DataFrame({"id": [f"doc{number:04d}" for number in range(len(labels))]})
    table["label"], table["prediction"] = [LABELS[k] for k in labels], [LABELS[k] for k in shown]
    for number, name in enumerate(LABELS):
        table[name] = np.where(shown == number, 0.8, 0.05)
    folder.mkdir(parents=True)
    table.to_csv(folder / "predictions.csv", index=False)
    f1 = f1_score(table["label"], table["prediction"], average="macro")
    return {
        "predict_samples": len(labels),
        "predict_accuracy": float(np.mean(labels == shown)),
        "predict_f1": float(f1),
    }


def write_encoder(folder, labels, seed):
    """A run folder of run_classification.py, without the model."""
    predict_results = write_predictions(folder, labels, seed)
    arguments = {
        "model_name_or_path": "/home/someone/models/tiny-bert/model",
        "config_name": None,
        "text_prefix": "query: ",
        "max_seq_length": 64,
        "lr_scheduler_type": "linear",
        "weight_decay": 0.01,
        "early_stopping_patience": 3,
        "num_train_epochs": 2.0,
        "dataset_name": "/home/jane doe/data",
        "data_seed": "None",
        "class_weights": "none",
    }
    record = {
        "script": "run_classification.py",
        "model_name_or_path": arguments["model_name_or_path"],
        "seed": seed,
    }
    record |= {
        "dataset_name": "data",
        "learning_rate": 2e-5,
        "total_train_batch_size": 512,
        "arguments": arguments,
    }
    record |= {"device": "cpu", "precision": "fp32", "processes": 2, "model_commit": "c0ffee"}
    record |= {"versions": {"python": "3.11.7", "torch": "2.13.0"}}
    results = predict_results | {"predict_precision": 0.8, "predict_recall": 0.8}
    results |= {
        "eval_loss": 0.5,
        "eval_accuracy": 0.8,
        "eval_f1": 0.75,
        "epoch": 1.5,
        "train_runtime": 754.0,
    }
    results |= {"train_loss": 0.6, "predict_loss": 0.6}
    write_json(folder / "run_arguments.json", record)
    write_json(folder / "all_results.json", results)
    draw(folder, "training_curve.png", "confusion_matrix.png")


def write_svm(folder, labels):
    """A run folder of run_baseline.py, without model and pictures."""
    predict_results = write_predictions(folder, labels, 9)
    record = {
        "script": "run_baseline.py",
        "model_name_or_path": "TF-IDF + linear SVM",
        "dataset_name": "data",
    }
    record |= {
        "seed": 42,
        "arguments": {"C": [0.1, 1.0], "output_dir": "svm"},
        "versions": {"python": "3.11.7"},
    }
    results = predict_results | {"eval_accuracy": 0.8, "eval_f1": 0.7}
    results |= {"ngram_max": 2, "sublinear_tf": True, "C": 1.0, "train_settings": 24}
    write_json(folder / "run_arguments.json", record)
    write_json(folder / "all_results.json", results)


def write_attribution(folder, model):
    """A folder of run_attribution.py with faithfulness and page."""
    write_folder(folder, [document(), document("1501.00002", label=None)])
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {
        "gradient_evaluations": 258,
        "forward_evaluations": 4,
        "seconds": 12.5,
        "truncated": 0,
    }
    summary |= {
        "median_relative_error": 1e-6,
        "max_relative_error": None,
        "not_converged": 1,
        "device": "cpu",
    }
    summary |= {
        "arguments": {
            "model_name_or_path": str(model),
            "method": "gausslegendre",
            "baseline": "pad",
            "target": "predicted",
        },
        "versions": {"python": "3.12.1", "torch": "2.13.0"},
    }
    write_json(folder / "summary.json", summary)
    write_faithfulness(folder)
    draw(folder, "attributions.png")
    call("render_attributions", "--attribution_dir", folder)


def write_context(folder, model):
    """A folder of measure_context.py."""
    folder.mkdir()
    arguments = {
        "model_name_or_path": str(model),
        "dataset_name": "data",
        "split": "test",
        "n_shuffles": 5,
        "seed": 1,
    }
    result = {
        "arguments": arguments,
        "versions": {"python": "3.11.7"},
        "device": "cpu",
        "documents": 40,
    }
    write_json(folder / "context.json", result | {"model": model.name})
    name = model.name.replace("_", "\\_")
    (folder / "context.md").write_text(
        f"# Does {name} use context?\n\n## Order of words\n\n"
        f"- {name}: with single words shuffled, accuracy changes by "
        f"-5.00 points.\n\n{name}, math.SG, percent:\n\n| shuffled | accuracy |\n| --- | ---: |\n"
        "| single words | 75.00 |\n\n## Left out\n\n"
        "- Phrases are left out for /data/runs/svm: too few.\n"
    )
    (folder / "context.html").write_text("a page")
    draw(folder, "context.png")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study: the sample, three runs of which two in run_paper.sh's layout, all other parts."""
    root = tmp_path_factory.mktemp("study")
    snapshot = [
        "--source",
        "snapshot",
        "--snapshot_file",
        ROOT / "sample_data" / "abstracts.jsonl",
        "--disable_tqdm",
    ]
    call("fetch_arxiv", *snapshot, "--output_dir", root / "data")
    labels = np.arange(40) % 5
    write_svm(root / "svm", labels)
    for seed in (1, 2):
        write_encoder(root / "tiny" / f"lr-2e-5-seed-{seed}", labels, seed)
    header = "learning_rate,eval_loss,eval_accuracy,eval_f1,epoch,train_runtime"
    (root / "tiny" / "learning_rates.csv").write_text(
        f"{header}\n2e-5,0.5,0.8,0.75,1.5,754\n5e-5,0.7,0.6,0.5,2,70\n1e-4,0.8,0.5,0.4,2,\n"
    )
    runs = [root / "svm", *sorted(root.glob("tiny/lr-*"))]
    call(
        "compare_runs", *runs, "--output_dir", root / "comparison", "--n_resamples", 200, "--paper"
    )
    write_attribution(root / "attribution", runs[1])
    write_context(root / "context", runs[1])
    return root


@pytest.fixture
def study(whole, tmp_path):
    """A copy to break."""
    return Path(shutil.copytree(whole, tmp_path / "study"))


def flags(study):
    return [
        "--output_dir",
        study / "report",
        "--dataset_name",
        study / "data",
        "--runs",
        study / "svm",
        *sorted(study.glob("tiny/lr-*")),
        "--comparison_dir",
        study / "comparison",
        "--attribution_dirs",
        study / "attribution",
        "--context_dir",
        study / "context",
    ]


def text_of(page):
    """What a reader sees of the HTML, blanks collapsed."""
    return " ".join(
        re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)).split()
    )


def render(run, study, *more):
    result = run("make_report", *flags(study), *more)
    assert result.code == 0, result.err
    return (study / "report" / "index.html").read_text(encoding="utf-8")


def test_everything_a_reviewer_asks_for_is_on_the_page(run, study):
    page = render(run, study, "--note", "A note for A & B.")
    assert re.findall(r'<h2 id="([^"]+)">([^<]+)', page) == list(PARTS.items())
    assert re.findall(r'<a href="#([^"]+)">', page) == list(PARTS)[1:]
    text = text_of(re.sub("</?strong>", "", page))
    manifest = json.loads((study / "data" / "manifest.json").read_text())
    comparison = (study / "comparison" / "comparison.md").read_text()
    sentences = [
        re.sub(r"\\(.)", r"\1", line).replace("**", "")
        for line in re.findall("^- (.*)$", comparison, re.MULTILINE)
    ]
    # Question, answer, picture and table come before everything else.
    order = ["Is a model better than", sentences[0], "40 test documents, percent", "On this page"]
    places = [text.index(words) for words in order]
    assert places == sorted(places) and "Difference of each model" in page[: page.index("<nav")]
    # What is for checking comes last.
    assert text.index("Versions") < text.index("SHA-256") < text.index("Dataset card")
    assert len(sentences) > 2
    for words in (
        "A note for A &amp; B.",
        "300 in 5 classes",
        "math.AG 48 6 6 60 20.0%",
        *manifest["sha256"].values(),
        "whose primary category is",
        "Stratified split 0.8:0.1:0.1, seed 42.",
        "Many papers belong to several fields.",
        "tiny/lr-2e-5-seed-1 tiny-bert 2e-05 1 512 1.5 of 2 fp32 2 x cpu 12 min 34 s",
        "5e-5 0.7000 60.00 50.00 2 70.0 s",
        "Best of 24 settings",
        "--text_prefix query: ",
        *sentences,
        "40 test documents",
        "bge-large-en-v1.5 †",
        "tau leave one out integrated gradients 0.500 (0.250 to 0.750)",
        "gradient evaluations 258",
        "documents that did not converge 1",
        "undefined",
        "with single words shuffled, accuracy changes by -5.00 points",
        "Phrases are left out for svm: too few.",
        "--num_train_epochs 2.0",
        "total_train_batch_size 512",
        "model_commit c0ffee",
        "--dataset_name data",
        "--C 0.1 1.0",
        "3.11.7",
        "3.12.1 (attributions in attribution)",
    ):
        assert words in text, words
    for name in ("attribution/attributions.html", "context/context.html", "comparison/pairs.csv"):
        assert f'href="../{name}"' in page and (study / "report" / f"../{name}").resolve().is_file()
    # Two training curves and confusion matrices, differences, table 2, cost, calibration, figure 1,
    # context.
    pictures = page.count('src="data:image/png;base64,')
    assert len(re.findall(r'<img alt="[^"]{20,}', page)) == pictures == PICTURES
    assert len(page) < 2_000_000
    assert "data-seed" not in page and "--data_seed" not in page  # it was not set
    for folder in (str(study), "/home/someone", "jane", "/tmp"):
        assert folder not in page


def test_limitations_of_an_older_card(run, study):
    (study / "data" / "README.md").write_text(
        "# A\n\nText.\n\n## Know before use\n\n- One.\n\n## Rebuild\n\nTwo.\n"
    )
    page = render(run, study)
    card, limits = page.index("<summary>Dataset card"), page.index('<h2 id="limits">')
    assert limits < page.index("<li>One.</li>") < card < page.index("Two.")
    assert page.count("One.") == 1


def test_same_files_same_bytes(run, study):
    first = render(run, study)
    shutil.rmtree(study / "report")
    assert render(run, study) == first


def test_page_is_sane_html(run, study):
    page = render(run, study)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert page.count("<table>") == page.count("<caption") == page.count("</table>") > 10
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
    result = run("make_report", "--output_dir", study / "report", "--runs", study / "svm")
    assert result.code == 0
    text = text_of((study / "report" / "index.html").read_text())
    for flag in ("--dataset_name", "--comparison_dir", "--attribution_dirs", "--context_dir"):
        assert f"no {flag} was given" in text
    assert "Not on this page" in text and "Versions" in text


def test_a_run_that_only_predicts(run, study):
    path = study / "tiny" / "lr-2e-5-seed-1" / "all_results.json"
    write_json(
        path,
        {key: value for key, value in json.loads(path.read_text()).items() if "predict" in key},
    )
    text = text_of(render(run, study))
    assert "tiny/lr-2e-5-seed-1 tiny-bert 2e-05 1 512 fp32 2 x cpu tiny/lr-2e-5-seed-2" in text


def test_own_data_without_source_and_date(run, study):
    """The manifest of own data has no source, no date, no dropped records, and there is no card."""
    path = study / "data" / "manifest.json"
    manifest = json.loads(path.read_text())
    kept = {key: manifest[key] for key in ("counts", "sha256", "versions")}
    arguments = {
        "dataset_name": None,
        "train_file": "/home/jane doe/my files/train.csv",
        "test_file": "b.csv",
    }
    write_json(path, kept | {"script": "prepare_dataset.py", "arguments": arguments})
    (study / "data" / "README.md").unlink()
    page = render(run, study)
    assert "source train.csv, b.csv" in text_of(page) and "jane" not in page
    assert "Dropped records" not in page and '<h2 id="limits">' not in page


def write_own_data(folder, run, **files):
    """A dataset folder of tools/prepare_dataset.py, with several labels per document."""
    flags = []
    for split, rows in files.items():
        path = folder.parent / f"{split}.json"
        write_json(path, rows)
        flags += [f"--{split}_file", path]
    result = run(
        "prepare_dataset", *flags, "--drop_bad_rows", "--drop_leaked", "--output_dir", folder
    )
    assert result.code == 0, result.err
    return folder


def test_data_of_prepare_dataset(run, study, tmp_path):
    """Documents, not labels, are counted; what was dropped and all sources are there."""
    rows = []
    for number in range(40):
        labels = [["a"], ["b"], ["a", "b"], []][number % 4]
        rows.append({"abstract": f"text {number} {' '.join(labels)}", "label": labels})
    shutil.rmtree(study / "data")
    train = [*rows[:28], {"abstract": "", "label": ["a"]}, rows[30]]
    test = [{"abstract": row["abstract"]} for row in rows[32:]]
    folder = write_own_data(study / "data", run, train=train, validation=rows[28:32], test=test)
    page = text_of(render(run, study))
    assert "documents 40 in 2 classes, with 32 labels (8 documents without labels)" in page
    assert "a 14 2 0 16 40.0% b 14 2 0 16 40.0% all 28 4 8 40 100.0%" in page
    assert "train: an empty text in abstract 1 train: a later split has the text, too 1" in page
    assert "source train.json, validation.json, test.json" in page
    assert "not the file of manifest.json" not in page

    # A manifest of an earlier version
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["documents"]
    write_json(path, manifest)
    page = text_of(render(run, study))
    assert "documents not recorded; 32 labels of 2 classes" in page
    assert "a 14 2 0 16 b 14 2 0 16" in page
    write_json(path, manifest | {"problem_type": "single_label_classification"})
    page = text_of(render(run, study))
    assert "documents 40 in 2 classes (8 documents without labels)" in page

    path = folder / "data" / "train-00000-of-00001.parquet"
    pd.read_parquet(path)[:-1].to_parquet(path)
    page = text_of(render(run, study))
    assert "Data: data/train-00000-of-00001.parquet is not the file of manifest.json" in page


def test_faithfulness_of_another_run_is_not_shown(run, study):
    content = json.loads((study / "attribution" / "faithfulness.json").read_text())
    write_json(study / "attribution" / "faithfulness.json", content | {"run": "another"})
    assert "Faithfulness was not measured" in render(run, study)


def test_a_page_older_than_its_data_is_not_linked(run, study):
    folder = study / "attribution"
    write_faithfulness(folder, documents=41)
    result = run("make_report", *flags(study))
    assert result.code == 0 and "is older than its data" in result.log
    page = (study / "report" / "index.html").read_text()
    assert "attributions.html" not in page and "is older than its data" in page
    call("render_attributions", "--attribution_dir", folder)
    assert 'href="../attribution/attributions.html"' in render(run, study)


def test_arguments_of_attributions_in_words(run, study, tiny_model):
    """The integral has no rule, several baselines are no Python list, and texts stay where they
    are.
    """
    folder = study / "integral"
    given = ["--text", "A convex flow.", "A ricci metric.", "--n_steps", "auto"]
    given += ["--baseline", "pad", "mask", "--disable_tqdm", "--output_dir", folder]
    call("run_attribution", "--model_name_or_path", tiny_model, *given)
    folders = [study / "attribution", folder]
    result = run("make_report", "--output_dir", study / "report", "--attribution_dirs", *folders)
    assert result.code == 0, result.err
    rows = {}
    page = (study / "report" / "index.html").read_text()
    for cells in re.findall(r'<th scope="row">(.*?)</tr>', page, re.DOTALL):
        name, *texts = re.split(r"<[^>]+>\s*", cells.replace("</th>", ""))
        rows[name.strip()] = [text.strip() for text in texts if text.strip()]
    assert rows["rule"] == ["gausslegendre, best of 1 to 3 steps", "the integral"]
    assert rows["baseline; target"] == ["pad; predicted", "pad, mask; predicted"]
    assert "convex flow" not in page and "(2 texts)" in page


def test_links_into_folders_with_odd_names(run, study):
    (study / "attribution").rename(study / "a b#c%41?")
    result = run(
        "make_report", "--output_dir", study / "report", "--attribution_dirs", study / "a b#c%41?"
    )
    assert result.code == 0
    page = (study / "report" / "index.html").read_text()
    assert 'href="../a%20b%23c%2541%3F/attributions.html"' in page


def test_runs_of_one_name_are_told_apart(run, study):
    shutil.copytree(study / "svm", study / "other" / "svm")
    result = run(
        "make_report",
        "--output_dir",
        study / "report",
        "--runs",
        study / "svm",
        study / "other" / "svm",
    )
    assert result.code == 0
    text = text_of((study / "report" / "index.html").read_text())
    assert f"{study.name}/svm" in text and "other/svm" in text


def test_many_runs_are_linked_instead_of_embedded(run, study, monkeypatch):
    monkeypatch.setattr(make_report, "EMBEDDED_RUNS", 2)
    page = render(run, study)
    assert page.count('src="data:image/png;base64,') == PICTURES - 2
    assert 'href="../tiny/lr-2e-5-seed-2/confusion_matrix.png"' in page


def make_hostile(study):
    """Put markup into every name and sentence that a file can bring."""
    path = study / "comparison" / "comparison.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["files"]  # as in comparisons of earlier versions, of which edits are not seen
    write_json(path, record)
    for path in [*study.rglob("*.json"), *study.rglob("*.md"), *study.rglob("*.csv")]:
        text = path.read_text(encoding="utf-8")
        for name in ("math.AG", "TF-IDF + linear SVM", "tiny-bert", "integrated gradients"):
            hostile = HOSTILE.replace("/", "\\/") if path.suffix == ".json" else HOSTILE
            text = text.replace(name, hostile)
        path.write_text(text, encoding="utf-8")


def test_markup_is_shown_as_text(run, study):
    make_hostile(study)
    page = render(run, study, "--title", HOSTILE, "--note", HOSTILE)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)") > 20


def test_foreign_and_half_written_files(run, study):
    for name in (
        "data/manifest.json",
        "svm/run_arguments.json",
        "svm/all_results.json",
        "comparison/comparison.json",
        "attribution/summary.json",
        "attribution/faithfulness.json",
        "context/context.json",
        "data/README.md",
    ):
        content = (study / name).read_bytes()
        damaged = (content[: len(content) // 2], b"[1, 2]", b'{"counts": 3}', b"\xff\xfe", b"")
        for broken in (b"\xff\xfe", b"| a | b |\n| -") if name.endswith(".md") else damaged:
            (study / name).write_bytes(broken)
            assert_user_error(run("make_report", *flags(study)), study / name, "again")
        (study / name).write_bytes(content)
    counts = json.dumps(
        {"counts": {"train": {"a": 0}}, "arguments": {}, "sha256": {}, "versions": {}}
    )
    none = json.dumps({"counts": {}, "arguments": {}, "sha256": {}, "versions": {}})
    for name, broken in (
        ("data/manifest.json", none),
        ("data/manifest.json", counts),
        ("svm/predictions.csv", '"\x00'),
        ("comparison/comparison.md", "# t\n\n| a | b |\n| --- | --- |\n| 1"),
        ("comparison/comparison.md", "# t\n\n| a | b |\n| --"),
        ("tiny/learning_rates.csv", "learning_rate,eval_loss\n1,2\n"),
        ("svm/predictions.csv", "id,text\n1,2\n"),
    ):
        content = (study / name).read_bytes()
        (study / name).write_text(broken)
        assert_user_error(run("make_report", *flags(study)), study / name)
        (study / name).write_bytes(content)
    png = study / "comparison" / "table2.png"
    png.write_bytes(png.read_bytes()[:1000])
    assert_user_error(run("make_report", *flags(study)), png)


@pytest.mark.parametrize("name", ["comparison.md", "table2.png", "pairs.csv"])
def test_comparison_with_a_file_of_another_one_is_refused(run, study, name):
    """compare_runs.py was stopped while it replaced an earlier comparison, or it is edited."""
    path = study / "comparison" / name
    path.write_bytes(path.read_bytes() + b"\n")
    result = run("make_report", *flags(study))
    assert_user_error(result, path, "tools/compare_runs.py", "run")
    assert not (study / "report" / "index.html").exists()
    path.unlink()  # only small files were copied
    if name != "comparison.md":
        assert run("make_report", *flags(study)).code == 0


def test_context_with_a_text_of_another_one_is_refused(run, study):
    record = json.loads((study / "context" / "context.json").read_text())
    write_json(study / "context" / "context.json", record | {"files": {"context.md": "0123"}})
    result = run("make_report", *flags(study))
    assert_user_error(result, study / "context" / "context.md", "tools/measure_context.py")


def test_comparison_of_earlier_predictions_is_named(run, study):
    assert "other predictions" not in text_of(render(run, study))
    path = study / "svm" / "predictions.csv"
    table = pd.read_csv(path)
    table["prediction"] = table["label"]
    table.to_csv(path, index=False)
    results = json.loads((study / "svm" / "all_results.json").read_text())
    ones = {"predict_accuracy": 1.0, "predict_f1": 1.0}
    write_json(study / "svm" / "all_results.json", results | ones)
    page = text_of(render(run, study))
    assert "Comparison: svm has other predictions now than those that were compared" in page
    assert page.count("other predictions now") == 1


def test_run_with_scores_of_other_classes_is_left_out(run, study):
    path = study / "svm" / "run_arguments.json"
    write_json(path, json.loads(path.read_text()) | {"labels": ["math.AG", "cs.AI"]})
    page = text_of(render(run, study))
    assert "Training: svm is left out" in page
    assert "only in run_arguments.json: 'cs.AI'" in page.replace("&#39;", "'")


def test_data_that_changed_since_its_manifest_are_named(run, study):
    path = study / "data" / "data" / "test-00000-of-00001.parquet"
    pd.read_parquet(path)[:-1].to_parquet(path)
    page = text_of(render(run, study))
    assert "Data: data/test-00000-of-00001.parquet is not the file of manifest.json" in page


def test_bad_commands(run, study, tmp_path, full_disk):
    assert_user_error(run("make_report"), "--output_dir")
    assert_user_error(
        run("make_report", "--output_dir", tmp_path / "r"), "--dataset_name", "--context_dir"
    )
    assert_user_error(
        run("make_report", "--output_dir", tmp_path / "r", "--runs", tmp_path / "none"), "no part"
    )
    assert not (tmp_path / "r").exists()
    assert_user_error(run("make_report", *flags(study), "--run", 1), "--runs")
    (tmp_path / "file").write_text("")
    (study / "page").mkdir()
    (study / "page" / "index.html").write_text("somebody's page")
    arguments = ["--output_dir", study / "page", "--runs", study / "svm"]
    assert_user_error(run("make_report", *arguments), study / "page", "report.json")
    (study / "page" / "report.json").write_text('{"script": "compare_runs.py"}')
    assert_user_error(run("make_report", *arguments), study / "page", "report.json")
    assert (study / "page" / "index.html").read_text() == "somebody's page"
    for folder in ("svm", "comparison", "data"):  # of the study itself
        arguments = ["--output_dir", study / folder, "--runs", study / "svm"]
        assert_user_error(run("make_report", *arguments), study / folder, "not empty")
        assert not (study / folder / "index.html").exists()
    with full_disk("report.json"):
        arguments = ["--output_dir", study / "full", "--runs", study / "svm"]
        assert_user_error(run("make_report", *arguments), "No space left")
    arguments = ["--output_dir", tmp_path / "file" / "report", "--runs", study / "svm"]
    assert_user_error(run("make_report", *arguments), tmp_path / "file", "--output_dir")


def test_folds_and_pictures_of_a_text(tmp_path):
    """Lines that fold, and pictures of the same folder; anything like them in a name is text."""
    draw(tmp_path, "a.png")
    text = "# T\n\n![a \\[b\\] &lt;c&gt;](a.png)\n\n<details><summary>More & more</summary>\n\n"
    text += "| a | b |\n|---|---:|\n| x | 1 |\n\n</details>\n\nEnd ![x](a.png)\n\n![y](none.png)\n"
    shown = make_report.markdown(text, folder=tmp_path)
    assert shown.count("<img") == 1 and 'alt="a [b] &lt;c&gt;"' in shown
    assert "<details><summary>More &amp; more</summary>" in shown
    assert '<caption class="unseen">More &amp; more</caption>' in shown
    assert "<p>End ![x](a.png)</p>" in shown and "none.png" not in shown
    assert "![a" in make_report.markdown(text) and "T" not in re.sub("<[^>]*>", "", shown)
    for broken in ("a\n\n</details>\n", "<details><summary>a</summary>\n\nb\n"):
        with pytest.raises(ValueError, match="fold"):
            make_report.markdown(broken)
    folded = make_report.markdown("<details open><summary>a</summary>\n\n <details>\n")
    assert "<details" not in folded


def test_a_comparison_of_an_earlier_version_is_shown(run, study):
    """Without answers and pictures in its text: table 2 with its picture is the answer."""
    path = study / "comparison" / "comparison.json"
    record = json.loads(path.read_text())
    for key in ("answers", "files", "margin"):
        del record[key]
    write_json(path, record)
    (study / "comparison" / "comparison.md").write_text(
        "# Comparison of runs\n\n| model | accuracy |\n| --- | ---: |\n| svm | 80.00 |\n\n"
        "## Tests\n\n- svm is as good as it was.\n"
    )
    page = render(run, study)
    assert "Accuracy and macro F1 with 95% intervals" in page[: page.index("<nav")]
    assert "svm is as good as it was" in page[page.index("<nav") :]


def test_without_a_comparison_the_results_are_the_answer(run, study):
    result = run("make_report", "--output_dir", study / "report", "--runs", study / "svm")
    assert result.code == 0
    page = (study / "report" / "index.html").read_text()
    before = text_of(page[: page.index("<nav")])
    assert "The runs were not compared" in before and "test accuracy, %" in before
    assert text_of(page).count("validation loss") == 1


def test_a_run_with_several_labels_per_document(run, study):
    """Instead of the confusion matrix a picture per class, described in words."""
    folder = study / "several"
    folder.mkdir()
    rows = [["1", '["b", "a"]', '["a"]', 0.9, 0.4], ["2", "[]", "[]", 0.1, 0.2]]
    table = pd.DataFrame(rows, columns=["id", "label", "prediction", "a", "b"])
    table.to_csv(folder / "predictions.csv", index=False)
    record = json.loads((study / "svm" / "run_arguments.json").read_text())
    record |= {"problem_type": "multi_label_classification", "labels": ["a", "b"]}
    write_json(folder / "run_arguments.json", record)
    results = {"predict_accuracy": 0.5, "predict_f1": 0.5, "predict_f1_micro": 2 / 3}
    write_json(folder / "all_results.json", results)
    one = json.loads((study / "svm" / "all_results.json").read_text())
    one |= {"predict_f1_weighted": 0.4321, "predict_quadratic_kappa": 0.1234}
    write_json(study / "svm" / "all_results.json", one)
    draw(folder, "class_curves.png")
    flags = ["--output_dir", study / "page", "--runs", folder, study / "svm"]
    assert run("make_report", *flags).code == 0
    page = (study / "page" / "index.html").read_text()
    assert "Documents of the class that are found: a 1 of 1; b 0 of 1" in page
    text = text_of(page)
    assert "test micro F1" in text and "several 50.00 50.00 0.6667" in text
    assert "test weighted F1" in text and "test quadratic kappa" in text
    assert "0.4321 0.1234" in text
    assert "Several labels per document: several." in text
    write_json(folder / "run_arguments.json", record | {"problem_type": "regression"})
    assert_user_error(run("make_report", *flags), folder, "regression")


def test_a_run_on_texts_without_labels_is_left_out(run, study):
    folder = study / "unlabeled"
    folder.mkdir()
    table = pd.DataFrame([["1", "a", 0.9]], columns=["id", "prediction", "a"])
    table.to_csv(folder / "predictions.csv", index=False)
    record = json.loads((study / "svm" / "run_arguments.json").read_text())
    write_json(folder / "run_arguments.json", record)
    write_json(folder / "all_results.json", {"predict_samples": 1, "predict_runtime": 0.1})
    flags = ["--output_dir", study / "page", "--runs", folder, study / "svm"]
    assert run("make_report", *flags).code == 0
    page = text_of((study / "page" / "index.html").read_text())
    assert "unlabeled is left out, it only predicted texts without labels" in page


def test_folders_of_this_machine_are_shortened():
    text = make_report.markdown(
        "left out for /data/runs/svm: it has, models/tiny, ../a/b, https://a.b/c and 1/2/3 stay"
    )
    assert (
        text
        == "<p>left out for svm: it has, models/tiny, ../a/b, https://a.b/c and 1/2/3 stay</p>\n"
    )
    rows = make_report.recorded(
        "x", {"a": "/home/jane doe/minilm/model", "b": ["/a/b/checkpoint-12", "c/d"], "e": None}
    )
    assert rows["rows"] == [["--a", "minilm"], ["--b", "b c/d"]]


def test_markdown_of_the_other_scripts():
    text = "---\na: b\n---\n\n# T\n\n## H\n\n- a\\_b &lt;c&gt;\n- *d* **e** `f`\n\n"
    text += "rows <i>:\n\n| a | b |\n|---|---:|\n| x\\|y | 1 |\n\n| c |\n|---|\n| 2 |\n"
    shown = make_report.markdown(text)
    assert "<h3>H</h3>" in shown and "T" not in re.sub("<[^>]*>", "", shown)
    assert (
        "<li>a_b &lt;c&gt;</li>" in shown
        and "<em>d</em> <strong>e</strong> <code>f</code>" in shown
    )
    assert "<caption>rows &lt;i&gt;</caption>" in shown and 'aria-label="rows &lt;i&gt;"' in shown
    assert (
        shown.count("rows &lt;i&gt;") == 4
    )  # caption and label, also of the table without a caption
    assert '<caption class="unseen">rows' in shown
    assert "<td>x|y</td>" in shown and '<td class="n">1</td>' in shown
    folded = make_report.markdown(text, fold=True)
    assert (
        folded.count("<details><summary>rows &lt;i&gt;</summary>")
        == 2
        == folded.count("</div></details>")
    )
    shown = make_report.markdown("<b>x</b> [y](https://a.b) ![z](c.png) `<i>`")
    assert (
        shown == "<p>&lt;b&gt;x&lt;/b&gt; [y](https://a.b) ![z](c.png) <code>&lt;i&gt;</code></p>\n"
    )
    shown = make_report.markdown("1. one\n2. two\n\n> said\n\n```\n<code>\n```\n")
    assert (
        "<li>two</li>" in shown and "&gt; said" in shown and "&lt;code&gt;" in shown
    )  # nothing is dropped


def test_in_a_browser(run, study, browser):  # noqa: F811
    """Wide and narrow, light and dark: no complaint, no request; it prints what is folded."""
    make_hostile(study)
    render(run, study)
    path = study / "report" / "index.html"
    check_page(browser, path)
    with open_page(browser, path) as page:
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 100)")
        for name in PARTS:
            assert page.locator(f"#{name}").count() == 1
        folds = page.locator("details").filter(has=page.locator("table"))
        folded = folds.first.locator("table").first
        assert not folded.is_visible()
        folds.first.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert folded.is_visible()
        page.keyboard.press("Enter")
        page.emulate_media(media="print")
        assert folded.is_visible()


@pytest.mark.parametrize("file", ["all_results.json", "predict_results.json"])
def test_results_that_contradict_the_predictions_are_not_printed(run, study, file):
    """As tools/compare_runs.py, which refuses such a run."""
    path = study / "svm" / file
    results = json.loads((study / "svm" / "all_results.json").read_text())
    for key, value in (("accuracy", 0.9931), ("f1", 0.9931), ("samples", 39)):
        write_json(path, results | {f"predict_{key}": value})
        page = render(run, study)
        assert "Training: svm is left out, it is damaged or mixes two runs" in page
        assert f"predict_{key} is" in page and "99.31" not in re.sub("0.9931", "", page)
        assert "Best of 24 settings" not in page and "tiny/lr-2e-5-seed-1" in page
    record = json.loads((study / "report" / "report.json").read_text())
    assert any("svm is left out" in sentence for sentence in record["left_out"])
    call = ("compare_runs", study / "svm", study / "tiny" / "lr-2e-5-seed-1")
    result = run(*call, "--output_dir", study / "out")
    assert_user_error(result, study / "svm", "damaged or mixes two runs")


def test_runs_on_other_test_data_are_named(run, study):
    assert "other test data" not in render(run, study)
    names = ["svm", "tiny/lr-2e-5-seed-1", "tiny/lr-2e-5-seed-2"]
    for name, fingerprint in zip(names, ("0" * 16, "1" * 16, "0" * 16), strict=True):
        path = study / name / "run_arguments.json"
        record = json.loads(path.read_text())
        write_json(path, record | {"data_fingerprints": {"test": fingerprint}})
    page = render(run, study)
    assert page.count("predicted other test data") == 1
    assert "svm and tiny/lr-2e-5-seed-1 predicted other test data" in page


def test_record_makes_the_folder_ours(run, study):
    """A second call replaces the page; what others put beside it stays."""
    render(run, study)
    record = json.loads((study / "report" / "report.json").read_text())
    assert record["script"] == "make_report.py" and str(study) not in json.dumps(record)
    (study / "report" / "notes.txt").write_text("mine")
    (study / "report" / "index.html").unlink()  # as an interruption after the record leaves it
    render(run, study)
    assert (study / "report" / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in (study / "report").iterdir()) == [
        "index.html",
        "notes.txt",
        "report.json",
    ]
