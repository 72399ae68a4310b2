"""The documentation: its commands run; scripts, flags, files and links exist; numbers are those of the files."""

import ast
import csv
import functools
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise

import pandas as pd
import pytest
from accelerate.commands.launch import launch_command_parser
from conftest import ROOT, write_own_files, write_tiny_model
from transformers import TrainingArguments

# In the order in which their commands build on each other
ORDER = ("data", "training", "attribution", "statistics", "findings", "report")
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ORDER)]
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL)
FILE = re.compile(r"`([^\s`$*]+\.(?:py|sh|yaml|json|jsonl|md|html|png|csv|tex|txt|cff|skops))`")
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"  # in the copy a folder of this name has a tiny model
RESULTS = ROOT / "results" / "arxiv-dev"


def blocks(page, language="bash"):
    """The marks and codes of a page's fenced blocks."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [(block["mark"], block["code"]) for block in found if block["language"] == language]


def prose(page):
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def commands(code):
    """The simple commands of a bash block, as lists of words."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(re.sub(r"(^|\s)#.*", "", re.sub(r"\$\(.*\)", "OUTPUT", line)))
        ends = [-1, *(place for place, word in enumerate(words) if word in {"&&", "||", "|", ";"}), len(words)]
        yield from (words[start + 1 : end] for start, end in pairwise(ends) if words[start + 1 : end])


@functools.cache
def flags(script):
    """The flags of a script, from its source: fields of its argument classes, or calls of add_argument."""
    source = (ROOT / script).read_text(encoding="utf-8")
    names = set(re.findall(r'add_argument\(\s*"--(\w+)"', source))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Arguments"):
            names |= {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)}
    if "TrainingArguments" in source and script == "run_classification.py":
        names |= {field.name for field in fields(TrainingArguments)}
    return {f"--{name}" for name in names | {"help", "config"}}


@functools.cache
def launcher_flags():
    actions = launch_command_parser()._actions
    return {option for action in actions for option in action.option_strings}


def all_scripts():
    return [path.relative_to(ROOT) for folder in (".", "tools", "benchmarks") for path in ROOT.glob(f"{folder}/*.py")]


def test_pages_are_short():
    limits = {page: 180 if page.name == "README.md" else 120 for page in PAGES}
    assert set(PAGES[1:]) == set((ROOT / "docs").glob("*.md"))
    assert not {page.name: limit for page, limit in limits.items() if page.read_text().count("\n") > limit}


def test_every_page_is_linked_once_from_the_readme():
    text = PAGES[0].read_text(encoding="utf-8")
    assert {page.name: text.count(f"](docs/{page.name})") for page in PAGES[1:]} == dict.fromkeys(
        (page.name for page in PAGES[1:]), 1
    )


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)", prose(page)):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_bash_block_is_run_or_listed():
    listed = set(re.findall(r"^\| ([a-z ]+) \| \w+ \|", (ROOT / "docs/report.md").read_text(), re.MULTILINE))
    marks = [mark for page in PAGES for mark, _ in blocks(page)]
    assert None not in marks, "mark each block: runnable, or not run: NAME"
    names = [mark.removeprefix("not run: ") for mark in marks if mark != "runnable"]
    assert sorted(names) == sorted(listed - {"command"})


def test_commands_name_scripts_and_flags_that_exist():
    checked = 0
    for page in PAGES:
        for words in (words for _, code in blocks(page) for words in commands(code)):
            place = next((n for n, word in enumerate(words) if re.fullmatch(r"[\w/]+\.(py|sh)", word)), None)
            if place is None:
                continue
            script = words[place]
            assert (ROOT / script).exists(), f"{page.name}: {script}"
            given = {word.split("=")[0] for word in words[place:] if word.startswith("--")}
            unknown = given - flags(script) if script.endswith(".py") else given
            assert not unknown, f"{page.name}: {script} has no {unknown}"
            if "launch" in words[:place]:
                assert not {word for word in words[:place] if word.startswith("--")} - launcher_flags(), page.name
            checked += 1
    assert checked > 25


def test_flags_in_the_text_exist():
    known = launcher_flags().union(*(flags(str(script)) for script in all_scripts()))
    for page in PAGES:
        for code in re.findall(r"`([^`]+)`", prose(page)):
            unknown = set(re.findall(r"(?<![\w-])--\w[\w-]*", code)) - known
            assert not unknown, f"{page.name}: {unknown}"


def test_files_in_the_text_exist_or_are_written_by_a_script():
    sources = [*all_scripts(), "run_paper.sh", "run_quickstart.sh"]
    code = "\n".join((ROOT / path).read_text(encoding="utf-8") for path in sources)
    for page in PAGES:
        for name in FILE.findall(prose(page)):
            places = (ROOT, RESULTS, ROOT / "configs", ROOT / "docs", ROOT / "tools")
            exists = any((place / name).exists() for place in places)
            assert exists or name.split("/")[-1] in code, f"{page.name}: {name}"


def test_runnable_blocks_run(tmp_path):
    """In a copy, on tiny files and with a tiny model in place of MiniLM."""
    for script in all_scripts():
        (tmp_path / script).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / script, tmp_path / script)
    for folder in ("tools/templates", "configs", "sample_data"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    write_own_files(tmp_path)
    for name in ("train.csv", "test.csv"):
        pd.read_csv(tmp_path / name).rename(columns={"body": "text"}).to_csv(tmp_path / name, index=False)
    write_tiny_model(tmp_path / ENCODER, max_position_embeddings=256)
    codes = [code for page in PAGES for mark, code in blocks(page) if mark == "runnable"]
    assert len(codes) == 6
    environment = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(tmp_path), "MPLBACKEND": "Agg", "TQDM_DISABLE": "1"}
    script = "set -euo pipefail\n" + "\n".join(codes)
    result = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    written = """
        data/own/manifest.json data/sample/manifest.json data/sample-shuffled/manifest.json runs/own-svm/model.skops
        runs/own-minilm/predictions.csv models/layers-0/model.safetensors attributions/own/attributions.html
        comparison/comparison.json report/index.html
    """
    assert [name for name in written.split() if not (tmp_path / name).exists()] == []


# What the pages say about numbers, and the files that have them


def from_json(name, *keys):
    value = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    for key in keys:
        value = value[key]
    return value


def from_csv(name, column, **row):
    with open(RESULTS / name, newline="", encoding="utf-8") as file:
        (found,) = [line for line in csv.DictReader(file) if row.items() <= line.items()]
    return float(found[column])


SVM, MINILM = "TF-IDF + linear SVM", "all-MiniLM-L6-v2"


def percent(value):
    return f"{100 * value:.2f}"


def order_row(name, model, condition, block):
    """A row of the table of word order."""
    (run,) = [run for run in from_json("context.json", "order") if run["name"] == model]
    (test,) = [test["accuracy"] for test in run["conditions"] if test["block"] == block]
    numbers = [100 * test[key] for key in ("difference", "low", "high")]
    p = f"{test['p_holm']:.2g}" if test["p_holm"] < 0.995 else "1.00"
    sign = "+" if numbers[0] > 0 else ""
    return f"| {name} | {condition} | {sign}{numbers[0]:.2f} | {numbers[1]:.2f} to {numbers[2]:.2f} | {p} |"


def pair_row(first, second, seeds, model, reference, sign):
    """A row of the table of differences of accuracy."""
    column = functools.partial(from_csv, "pairs-minilm.csv", model=model, reference=reference, metric="accuracy")
    low, high = sorted(100 * sign * column(end) for end in ("low", "high"))
    numbers = f"{100 * sign * column('difference'):.1f} | {low:.1f} to {high:.1f}"
    return f"| {first} - {second} | {seeds} | {numbers} | {column('p'):.2g} | {column('p_holm'):.2g} |"


def readme_row(name, seeds, model, shuffled=None):
    """A row of the README's table."""
    row = f"| {name} | {seeds}"
    for metric in ("accuracy", "macro_f1"):
        column = functools.partial(from_csv, "table2.csv", model=model, source="run")
        row += f" | {percent(column(metric))}" + (f" ± {percent(column(f'{metric}_sd'))}" if seeds > 1 else "")
    _, _, difference, interval, _ = order_row("", shuffled, "", 1).split(" | ") if shuffled else [None] * 5
    return row + (f" | {difference} ({interval}) |" if shuffled else " | 0 |")


def seconds(layers, learning_rate, seed):
    return from_csv("ladder.csv", "train_seconds", layers=str(layers), learning_rate=learning_rate, seed=str(seed))


def tau(kind):
    numbers = from_json(f"faithfulness-{kind}.json", "rankings", "integrated gradients", "tau_leave_one_out")
    assert numbers["documents"] == 60
    return numbers["mean"], numbers["low"], numbers["high"]


FINDINGS = [
    lambda: pair_row("SVM", "MiniLM", "1, 1", SVM, MINILM, 1),
    lambda: pair_row("SVM", "layers-1", "1, 1", "layers-1", SVM, -1),
    lambda: pair_row("SVM", "layers-2", "1, 1", "layers-2", SVM, -1),
    lambda: pair_row("MiniLM", "layers-1", "1, 1", "layers-1", MINILM, -1),
    lambda: pair_row("MiniLM", "layers-2", "1, 1", "layers-2", MINILM, -1),
    lambda: pair_row("MiniLM", "layers-0", "1, 3", "layers-0", MINILM, -1),
    lambda: order_row("MiniLM", "minilm", "all words shuffled", 1),
    lambda: order_row("MiniLM", "minilm", "blocks of 2 words shuffled", 2),
    lambda: order_row("MiniLM", "minilm", "blocks of 3 words shuffled", 3),
    lambda: order_row("MiniLM", "minilm", "sentences shuffled", "sentence"),
    lambda: order_row("SVM", "svm", "all words shuffled", 1),
    lambda: order_row("SVM", "svm", "blocks of 2 words shuffled", 2),
    lambda: order_row("layers-1", "layers-1", "all words shuffled", 1),
    lambda: order_row("layers-2", "layers-2", "all words shuffled", 1),
    lambda: "{:.2f} (95 % interval {:.2f} to {:.2f}) in `layers-0`".format(*tau("layers-0")),
    lambda: "{:.2f} ({:.2f} to {:.2f}) in MiniLM".format(*tau("minilm")),
    lambda: f"{percent(from_json('minilm-2e-4.json', 'predict_accuracy'))} (`minilm-2e-4.json`)",
    lambda: f"a macro F1 of {percent(from_json('minilm-2e-4.json', 'predict_f1'))}",
    lambda: f"{from_json('minilm-2e-4.json', 'eval_loss'):.3f} instead of {from_json('minilm.json', 'eval_loss'):.3f}",
    lambda: f"on {100 * from_csv('agreement.csv', 'exactly_one_right', model=SVM, other=MINILM):.1f} %",
    lambda: f"that is {100 * from_csv('agreement.csv', 'exactly_one_right', model=MINILM, other='layers-0'):.1f} %",
    lambda: f"{from_json('svm.json', 'train_runtime'):.1f} s for the SVM",
    lambda: f"{from_json('minilm-2e-4.json', 'train_runtime'):,.0f} s for MiniLM at 2e-4",
    lambda: f"`minilm.json` records {from_json('minilm.json', 'train_runtime'):,.0f} s",
    lambda: "{:.0f}, {:.0f} and {:.0f} s for the seeds".format(*(seconds(0, "0.0005", seed) for seed in (1, 2, 3))),
    lambda: f"{seconds(1, '0.0002', 1):.0f} s for `layers-1`",
    lambda: f"{seconds(2, '0.0002', 1):.0f} s for `layers-2`",
    lambda: (
        f"{from_json('attribution-minilm.json', 'seconds'):,.0f} s for MiniLM and "
        f"{from_json('attribution-layers-0.json', 'seconds'):.0f} s for `layers-0`"
    ),
    lambda: (
        f"faithfulness {from_json('faithfulness-minilm.json', 'seconds'):,.0f} s and "
        f"{from_json('faithfulness-layers-0.json', 'seconds'):.0f} s"
    ),
    lambda: f"relative error is {from_json('attribution-minilm.json', 'max_relative_error'):.2f}",
    lambda: f"median {from_json('attribution-minilm.json', 'median_relative_error'):.4f} in MiniLM",
    lambda: (
        f"{from_json('svm.json', 'train_samples'):,} / {from_json('svm.json', 'eval_samples')} / "
        f"{from_json('svm.json', 'predict_samples')}"
    ),
]


@pytest.mark.parametrize("number", range(len(FINDINGS)))
def test_numbers_of_the_findings_are_those_of_the_files(number):
    expected = FINDINGS[number]()
    text = " ".join((ROOT / "docs/findings.md").read_text(encoding="utf-8").split())  # line breaks do not matter
    assert expected in text, expected


def test_numbers_of_the_readme_are_those_of_the_files():
    text = PAGES[0].read_text(encoding="utf-8")
    assert readme_row(f"{SVM} (words and pairs)", 1, SVM, "svm") in text
    assert readme_row(MINILM, 1, MINILM, "minilm") in text
    assert readme_row("bag-of-embeddings classifier", 3, "layers-0") in text
    assert readme_row("one layer, from scratch", 1, "layers-1", "layers-1") in text
    assert readme_row("two layers, from scratch", 1, "layers-2", "layers-2") in text
    first = pair_row("", "", "", SVM, MINILM, 1).split(" | ")
    assert f"by {first[2]} points (95 % interval {first[3]}, p = {first[5].removesuffix(' |')}" in text


def test_speed_tables_are_those_of_the_files():
    training = json.loads((ROOT / "benchmarks/results/training.json").read_text())
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    assert training["date"] in text
    for row in (row for row in training["settings"] if "error" not in row):
        numbers = f"| {row['documents_per_second']:.1f} | {row['ratio_to_example']:.1f} | "
        numbers += f"{row['real_tokens_per_second']:,.0f} | {row['peak_memory_gib']:.1f} GiB | "
        assert f"{numbers}{100 * row['model_flops_utilisation']:.0f} %" in text, row["setting"]
    fetch = json.loads((ROOT / "benchmarks/results/fetch.json").read_text())
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert fetch["date"] in text
    for row in fetch["results"]:
        numbers = f"{row['mb_per_second']:,.0f} | {row['times_json_loads']:.1f} | {row['peak_mib']:,.0f} MiB |"
        assert f"| {row['way']} | {numbers}" in text, row["way"]
