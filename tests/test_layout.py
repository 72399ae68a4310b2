"""The rules of the repository: whole scripts, tools that share rooms, equal copies, exact pins."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, assert_user_error, write_own_files

SCRIPTS = ("fetch_arxiv", "run_attribution", "run_baseline", "run_classification")
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))
ROOMS = {path.parent.name for path in (ROOT / "tools").glob("*/__init__.py")}
PATHS = {name: ROOT / f"{name}.py" for name in SCRIPTS} | {
    name: ROOT / "tools" / f"{name}.py" for name in TOOLS
}
# Names under which a package is imported, where they are not those of its distribution.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "PyYAML", "markdown_it": "markdown-it-py"}
# transformers loads models by torch, and its Trainer needs accelerate.
NEEDED_BY = {
    "Trainer": {"torch", "accelerate"},
    "AutoModel": {"torch"},
    "AutoModelForSequenceClassification": {"torch"},
}


def imports(path):
    """The modules that a file imports, without their submodules, and all names that occur in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module.split(".")[0])
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
    return modules, names


def imports_with_rooms(path):
    """Like imports, with those of the modules in tools/common and the other rooms that it uses."""
    modules, names = imports(path)
    todo, seen = [path], {path}
    while todo:
        for node in ast.walk(ast.parse(todo.pop().read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            if node.module.split(".")[0] not in ROOMS:
                continue
            file = ROOT / "tools" / (node.module.replace(".", "/") + ".py")
            found = [file] if file.exists() else []
            for alias in node.names:  # from context import phrases
                module = ROOT / "tools" / node.module.replace(".", "/") / f"{alias.name}.py"
                found += [module] if module.exists() else []
            package = ROOT / "tools" / node.module.split(".")[0] / "__init__.py"
            for module in [*found, package]:
                if module not in seen:
                    seen.add(module)
                    todo.append(module)
                    more_modules, more_names = imports(module)
                    modules |= more_modules
                    names |= more_names
    return modules, names


def pins():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_top_level_has_the_four_scripts_and_nothing_else_that_runs():
    assert sorted(path.stem for path in ROOT.glob("*.py")) == sorted(SCRIPTS)


@pytest.mark.parametrize("name", PATHS)
def test_script_is_whole(name):
    modules, _ = imports(PATHS[name])
    own = ROOMS if name in TOOLS else set()
    assert not modules & ({*PATHS, *ROOMS, "tools"} - own), "no script imports another"
    assert not modules & {"pickle", "joblib", "dill", "cloudpickle", "subprocess", "runpy"}
    assert ast.get_docstring(ast.parse(PATHS[name].read_text(encoding="utf-8"))), (
        "a script says what it does"
    )


@pytest.mark.parametrize("name", PATHS)
def test_inline_metadata_has_the_packages_that_are_imported_with_their_pins(name):
    text = PATHS[name].read_text(encoding="utf-8")
    block = re.search(r"^# /// script\n((?:#(?: .*)?\n)+?)# ///$", text, re.MULTILINE)
    metadata = tomllib.loads("".join(line[2:] + "\n" for line in block[1].splitlines()))
    assert metadata["requires-python"] == ">=3.11"
    modules, names = imports(PATHS[name])
    if name in TOOLS:
        modules, names = imports_with_rooms(PATHS[name])
    packages = {
        DISTRIBUTIONS.get(module, module)
        for module in modules - set(sys.stdlib_module_names) - ROOMS
    }
    packages = packages.union(*(NEEDED_BY[key] for key in NEEDED_BY if key in names))
    expected = [f"{package}=={pins()[package]}" for package in sorted(packages, key=str.lower)]
    assert metadata["dependencies"] == expected


BRITISH = re.compile(
    r"\b(?:\w*(?:colour|favour|neighbour|behaviour|honour|labelling|modelling)\w*|labelled|cancelled"
    r"|centred?|licences?|greys?|artefacts?|catalogue|whilst|analys(?:ed?|ing)|per cent"
    r"|(?:general|initial|normal|token|optim|recogn|summar|serial|organ|visual|random|standard"
    r"|regular|minim|maxim|categor|custom|special|util|penal)is(?:e[ds]?|ing|ation))\b",
    re.IGNORECASE,
)


WRITTEN = {".py", ".md", ".sh", ".yaml", ".json", ".html", ".cff", ".ipynb"}


def test_texts_have_us_spelling():
    checked = 0
    for folder in ("", "tools", "docs", "tests", "benchmarks", "configs", "notebooks"):
        for path in (ROOT / folder).glob("**/*" if folder else "*"):
            if path.suffix not in WRITTEN or path.name == "test_layout.py":
                continue
            found = BRITISH.findall(path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(ROOT)}: {found}"
            checked += 1
    assert checked > 100


def test_help_shows_defaults(run):
    result = run("run_attribution", "--help")
    text = " ".join(result.out.split())
    assert "Quadrature rule; --n_steps auto has none. Default: gausslegendre." in text
    assert "--no-merge_words" not in text
    assert "--no-merge-words The same as --merge_words false." in text
    assert text.count("Kähler-Einstein") == 1
    assert "Default: None" not in text and "Default: False" not in text
    text = " ".join(run("fetch_arxiv", "--help").out.split())
    assert "Fractions of train, validation and test. Default: 0.8 0.1 0.1." in text
    text = " ".join(run("run_classification", "--help").out.split())
    # The script's own default, not that of TrainingArguments
    assert re.search(r"--per_device_train_batch_size \S+, \S+ \S+ [^-]* Default: 32\.", text)


# Imports the slow packages once and without torch, then shows the help of each script in a process
# of its own.
HELP_WITHOUT_TORCH = """
import os, runpy, sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "torch" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Installed
import datasets, matplotlib.pyplot, pandas, sklearn.model_selection
for path in sys.argv[1:]:
    if os.fork() == 0:
        sys.argv = [path, "--help"]
        sys.path[0] = os.path.dirname(path)
        runpy.run_path(path, run_name="__main__")
    _, status = os.wait()
    assert status == 0, path
"""


def test_scripts_that_need_no_torch_start_without_it_and_do_not_miss_it():
    paths = [path for path in PATHS.values() if '"torch==' not in path.read_text("utf-8")]
    paths = [path for path in paths if '"transformers==' in path.read_text("utf-8")]
    assert {PATHS[name] for name in ("run_baseline", "fetch_arxiv")} < set(paths)
    result = subprocess.run(
        [sys.executable, "-c", HELP_WITHOUT_TORCH, *paths],
        env={name: os.environ[name] for name in os.environ if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage: ") == len(paths)
    assert "PyTorch" not in result.stdout + result.stderr


def test_no_load_of_a_model_may_run_code_or_read_a_pickle():
    """Keywords that are given as **settings are seen by the tests with hostile folders alone."""
    checked = 0
    for path in (*ROOT.glob("*.py"), *ROOT.glob("tools/**/*.py"), *ROOT.glob("benchmarks/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if not is_call or node.func.attr != "from_pretrained":
                continue
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            place = f"{path.name}:{node.lineno}"
            if None not in given:
                assert given.get("trust_remote_code") == "False", place
                if "Model" in ast.unparse(node.func.value):
                    assert given.get("use_safetensors") == "True", place
                checked += 1
    assert checked > 5


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_exact_pins(name):
    lines = [
        line
        for line in (ROOT / name).read_text().splitlines()
        if line and not line.startswith(("#", "-r"))
    ]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^ ]*", line), line


# Each of the four, copied alone into an empty folder, makes every file of its contract


@pytest.fixture(scope="module")
def alone(forked_python, tmp_path_factory):
    """``alone(name, *arguments)`` runs a copy of a script in a folder outside of the project."""

    def run_alone(name, *arguments):
        folder = tmp_path_factory.mktemp("alone")
        shutil.copy(PATHS[name], folder)
        command = ["bash", "-c", 'python "$@"', "bash", f"{name}.py", *map(str, arguments)]
        result = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | forked_python,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result

    return run_alone


@pytest.fixture(scope="module")
def sample(alone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "data"
    snapshot = ROOT / "sample_data" / "abstracts.jsonl"
    alone(
        "fetch_arxiv", "--source", "snapshot", "--snapshot_file", snapshot, "--output_dir", folder
    )
    return folder


@pytest.fixture(scope="module")
def trained(alone, sample, tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    flags = (
        "--model_name_or_path",
        tiny_model,
        "--dataset_name",
        sample,
        "--output_dir",
        folder,
        "--max_steps",
        2,
    )
    flags += (
        "--do_train",
        "--do_eval",
        "--do_predict",
        "--max_seq_length",
        32,
        "--gradient_accumulation_steps",
        1,
    )
    flags += (
        "--eval_strategy",
        "steps",
        "--eval_steps",
        1,
        "--save_strategy",
        "steps",
        "--save_steps",
        1,
    )
    alone("run_classification", *flags)
    return folder


def written(folder):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith("checkpoint-")}


def test_fetch_alone_writes_the_dataset_folder(sample):
    parquet = {f"data/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")}
    assert written(sample) == {"README.md", "manifest.json", *parquet}


RESULTS = {f"{name}_results.json" for name in ("train", "eval", "predict", "all")}
RUN_FILES = RESULTS | {
    "trainer_state.json",
    "run_arguments.json",
    "predictions.csv",
    "confusion_matrix.png",
    "README.md",
}


def test_baseline_alone_writes_the_run_folder(alone, sample, tmp_path):
    alone("run_baseline", "--dataset_name", sample, "--output_dir", tmp_path / "svm", "--C", 1)
    assert written(tmp_path / "svm") == RUN_FILES | {
        "model.skops",
        "top_words.csv",
        "top_words.png",
    }


def test_classification_alone_writes_the_run_folder(trained):
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert written(trained) == RUN_FILES | model | {"training_curve.png"}


def test_training_alone_reads_own_files(alone, tiny_model, tmp_path):
    flags = write_own_files(tmp_path)
    alone("run_baseline", *flags, "--output_dir", tmp_path / "svm", "--C", 1)
    assert len(pd.read_csv(tmp_path / "svm" / "predictions.csv")) == 20


def test_attribution_alone_writes_the_attribution_folder(alone, trained, sample, tmp_path):
    flags = (
        "--model_name_or_path",
        trained,
        "--dataset_name",
        sample,
        "--output_dir",
        tmp_path / "attributions",
    )
    alone("run_attribution", *flags, "--max_samples", 2, "--n_steps", 8)
    assert written(tmp_path / "attributions") == {
        "attributions.jsonl", "summary.json", "attributions.png", "attributions.tex",
    }  # fmt: skip
    picture = plt.imread(tmp_path / "attributions" / "attributions.png")
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 20, (
        "the figure is blank"
    )


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
@pytest.mark.timeout(600)
def test_uv_runs_a_script_with_its_inline_metadata(tmp_path):
    """uv makes an environment of the pins in the file; with no other copy of the project around."""
    shutil.copy(PATHS["run_baseline"], tmp_path)
    flags = write_own_files(tmp_path)
    environment = {
        key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")
    }
    command = [
        "uv",
        "run",
        "--no-project",
        "run_baseline.py",
        *map(str, flags),
        "--output_dir",
        "svm",
        "--C",
        "1",
    ]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=580
    )
    if result.returncode and re.search(
        r"error sending request|dns error|Failed to fetch|timed out", result.stderr
    ):
        pytest.skip(f"no package index: {result.stderr.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert written(tmp_path / "svm") >= RUN_FILES


@pytest.mark.parametrize(
    "script",
    ["run_attribution", "run_baseline", "run_classification", "make_model", "probe_layers"],
)
def test_names_that_are_not_utf8_are_refused_before_the_work(run, tmp_path, script):
    """No record of a run could have them."""
    name = tmp_path / os.fsdecode(b"o\xff")
    flags = ["--model_name_or_path", tmp_path, "--dataset_name", tmp_path]
    if script == "make_model":
        flags = flags[:2]
    assert_user_error(run(script, *flags, "--output_dir", name), "--output_dir", "not UTF-8")
    assert not name.exists()


@pytest.mark.parametrize("script", ["measure_faithfulness", "render_attributions"])
def test_folder_of_attributions_that_is_not_utf8_is_refused(run, tmp_path, script):
    """Of a measurement, only writing the result failed."""
    name = tmp_path / os.fsdecode(b"o\xff")
    assert_user_error(run(script, "--attribution_dir", name), "--attribution_dir", "not UTF-8")


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("fetch_arxiv", ["--output_dir", "out", "--seed"]),
        ("run_baseline", ["--output_dir", "out", "--dataset_name", "d", "--seed"]),
        (
            "run_classification",
            ["--output_dir", "out", "--model_name_or_path", "m", "--do_train", "--seed"],
        ),
        (
            "run_classification",
            ["--output_dir", "out", "--model_name_or_path", "m", "--do_train", "--data_seed"],
        ),
        ("make_model", [*"--output_dir out --config_name c --tokenizer_name t --seed".split()]),
        ("measure_faithfulness", ["--attribution_dir", "a", "--seed"]),
        ("find_label_errors", ["--output_dir", "out", "--dataset_name", "d", "--seed"]),
    ],
)
def test_seeds_that_no_generator_takes_are_refused(run, tmp_path, monkeypatch, script, flags, seed):
    monkeypatch.chdir(tmp_path)
    result = run(script, *flags, seed)
    assert_user_error(result, flags[-1], "between 0 and", seed)
    assert not list(tmp_path.iterdir())
