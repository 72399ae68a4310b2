"""Run folders on the Hub: pushed while training and at the end; a failed push keeps the run.

The real client talks to a Hub on loopback (hub_server.py).
"""

import importlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
from conftest import LABELS, ROOT, assert_user_error, fork_server
from hub_server import TOKEN, hub_server
from test_run_classification import EVERYTHING, FAST
from transformers import pipeline


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running Hub that this process and the ones it starts talk to, logged in."""
    with hub_server() as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        use_hub(monkeypatch, server.url)
        yield server


def use_hub(monkeypatch, url):
    """Point the client in this process, which has read the environment long ago, at another Hub."""
    for name, value in {
        "ENDPOINT": url,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setattr(
        "transformers.utils.hub._hf_api", None
    )  # keeps the Hub that it was first used with


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_pushed_while_training_and_at_the_end_and_loaded_back_by_id(
    run, hub, tiny_model, tiny_dataset, tmp_path
):
    folder = tmp_path / "run"
    result = run(
        "run_classification", "--model_name_or_path", tiny_model, "--dataset_name", tiny_dataset,
        *FAST, *EVERYTHING, "--output_dir", folder, "--num_train_epochs", 2, "--push_to_hub",
        "--hub_strategy", "every_save",
        "--hub_model_id", "tester/tiny-geometry", "--hub_token", TOKEN,
    )  # fmt: skip
    assert result.code == 0, result.err
    messages = [commit["message"] for commit in hub.repos["model", "tester/tiny-geometry"]]
    assert any(message.startswith("Training in progress") for message in messages)
    assert messages[-1] == "End of training"

    pushed = hub.files("model", "tester/tiny-geometry")
    local = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {name: content for name, content in pushed.items() if name != ".gitattributes"} == local
    assert {
        "README.md",
        "model.safetensors",
        "predictions.csv",
        "confusion_matrix.png",
        "trainer_state.json",
    } <= {*local}
    assert not list(folder.glob("README-edited-*"))  # nobody else has written a card
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert {entry.metric_type for entry in card.data.eval_results} >= {"accuracy", "f1"}
    assert 'pipeline("text-classification", "tester/tiny-geometry")' in card.content

    assert TOKEN not in result.out + result.err + result.log
    for commit in hub.repos["model", "tester/tiny-geometry"]:
        assert not any(TOKEN.encode() in content for content in commit["files"].values()), commit[
            "message"
        ]
    assert not any(TOKEN.encode() in content for content in contents(folder).values())

    # A stranger, not logged in, with an empty cache.
    program = (
        "import json; from transformers import pipeline\n"
        'classifier = pipeline("text-classification", "tester/tiny-geometry")\n'
        'print(json.dumps(classifier("floer ricci compact")))'
    )
    environment = hub.environment(tmp_path / "stranger", token=None)
    stranger = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert stranger.returncode == 0, stranger.stderr
    (answer,) = json.loads(stranger.stdout.splitlines()[-1])
    assert answer == pipeline("text-classification", str(folder))("floer ricci compact")[0]
    assert answer["label"] in LABELS


def test_branch_exists_before_the_first_push_during_training(
    run, hub, tiny_model, tiny_dataset, tmp_path
):
    """Otherwise what is pushed while it trains is refused by the Hub, and nobody is told."""
    result = run(
        "run_classification", "--model_name_or_path", tiny_model, "--dataset_name", tiny_dataset,
        *FAST, *EVERYTHING, "--output_dir", tmp_path / "run", "--num_train_epochs", 2,
        "--push_to_hub", "--hub_strategy", "every_save", "--hub_revision", "trial",
        "--hub_model_id", "tester/tiny-geometry", "--hub_token", TOKEN,
    )  # fmt: skip
    assert result.code == 0, result.err
    commits = hub.repos["model", "tester/tiny-geometry"]
    messages = [commit["message"] for commit in commits if commit["branch"] == "trial"]
    assert any(message.startswith("Training in progress") for message in messages)
    assert messages[-1] == "End of training"
    on_main = [commit["message"] for commit in commits if commit["branch"] == "main"]
    assert on_main == ["initial commit"]


def pushed_again(result, folder):
    """Run the hf upload command that the error line names, with the real client."""
    line = next(line for line in result.err.splitlines() if line.startswith("error: "))
    words = shlex.split(line.split("to try again: ")[1])
    assert words[:2] == ["hf", "upload"] and str(folder) in words
    hf = Path(sys.executable).with_name("hf")
    done = subprocess.run(
        [hf, *words[1:]], env=os.environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_hub_that_breaks_down_half_way_does_not_lose_the_run(
    run, hub, tiny_model, tiny_dataset, tmp_path
):
    def break_down():
        while not any(path.endswith("/commit/main") for _, path in hub.log):
            time.sleep(0.005)
        hub.refuse = (403, "", "storage quota exceeded")

    threading.Thread(target=break_down, daemon=True).start()
    folder = tmp_path / "run"
    arguments = (
        "--model_name_or_path", tiny_model, "--dataset_name", tiny_dataset, *FAST, *EVERYTHING,
        "--output_dir", folder, "--num_train_epochs", 2, "--push_to_hub",
        "--hub_model_id", "tester/tiny",
    )  # fmt: skip
    result = run("run_classification", *arguments)
    assert_user_error(result, folder, "complete", "storage quota exceeded", "hf upload tester/tiny")
    assert json.loads((folder / "predict_results.json").read_text())["predict_samples"] == 10
    assert "model-index" in (folder / "README.md").read_text()
    hub.refuse = None
    pushed_again(result, folder)
    pushed = hub.files("model", "tester/tiny")
    assert pushed["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert pushed["README.md"] == (folder / "README.md").read_bytes()

    # The same command again: nothing is trained, the Hub is brought up to date.
    (folder / "predictions.csv").write_bytes((folder / "predictions.csv").read_bytes() + b"\n")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    result = run("run_classification", *arguments)
    assert result.code == 0, result.err
    assert "finished" in result.log and before == (folder / "model.safetensors").stat().st_mtime_ns
    pushed = hub.files("model", "tester/tiny")
    assert pushed["predictions.csv"] == (folder / "predictions.csv").read_bytes()
    assert not [
        name for name in pushed if name.startswith("checkpoint-") or name == "training_args.bin"
    ]


def test_best_model_and_card_are_pushed_without_predictions(
    run, hub, tiny_model, tiny_dataset, tmp_path
):
    folder = tmp_path / "run"
    result = run(
        "run_classification", "--model_name_or_path", tiny_model, "--dataset_name", tiny_dataset,
        *FAST, "--do_train", "--do_eval", "--output_dir", folder, "--num_train_epochs", 1,
        "--push_to_hub", "--hub_model_id", "tiny",
    )  # fmt: skip
    assert result.code == 0, result.err
    pushed = hub.files("model", "tester/tiny")
    assert 'pipeline("text-classification", "tester/tiny")' in pushed["README.md"].decode()
    assert pushed["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert pushed["README.md"] == (folder / "README.md").read_bytes()
    assert {entry.dataset_split for entry in card.data.eval_results} == {"validation"}
    assert "training_curve.png" in pushed and "confusion_matrix.png" not in pushed


@pytest.mark.parametrize("script", ["run_classification", "run_baseline"])
def test_name_without_an_owner_is_that_of_the_user(hub, monkeypatch, script):
    """The example of a card must name the repository as others find it."""
    name_with_owner = importlib.import_module(script).name_with_owner
    assert name_with_owner("svm") == "tester/svm"
    assert name_with_owner("lab/svm") == "lab/svm"
    use_hub(monkeypatch, "http://127.0.0.1:9")  # nobody listens there
    assert name_with_owner("svm") == "svm"


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, "", "Invalid credentials in Authorization header"), ["Invalid credentials"]),
        ((403, "", "You don't have the rights"), ["rights"]),
        ((500, "", "the disk of the Hub is full"), ["disk of the Hub"]),
        ("refused", ["onnect"]),
    ],
)
def test_push_of_the_baseline_that_fails(
    run, hub, tiny_dataset, tmp_path, monkeypatch, refusal, words
):
    monkeypatch.setattr(
        "huggingface_hub.utils._http.time.sleep", lambda seconds: None
    )  # the client's pauses
    if refusal == "refused":
        use_hub(monkeypatch, "http://127.0.0.1:9")  # nobody listens there
    else:
        hub.refuse = refusal
    folder = tmp_path / "a run"
    flags = ("--dataset_name", tiny_dataset, "--output_dir", folder, "--C", 1, "--disable_tqdm")
    result = run("run_baseline", *flags, "--push_to_hub", "--hub_model_id", "tester/svm")
    assert_user_error(result, folder, *words, "hf upload tester/svm")
    assert TOKEN not in result.out + result.err + result.log
    assert {"README.md", "confusion_matrix.png", "model.skops"} <= {
        path.name for path in folder.iterdir()
    }
    hub.refuse = None
    if refusal != "refused":
        pushed_again(result, folder)
        assert (
            hub.files("model", "tester/svm")["model.skops"] == (folder / "model.skops").read_bytes()
        )


def test_push_without_a_trained_run_is_refused(run, hub, tiny_model, tiny_dataset, tmp_path):
    flags = (
        "--model_name_or_path",
        tiny_model,
        "--dataset_name",
        tiny_dataset,
        "--output_dir",
        tmp_path / "run",
    )
    result = run(
        "run_classification",
        *flags,
        "--do_predict",
        "--push_to_hub",
        "--hub_model_id",
        "tester/tiny",
    )
    assert_user_error(result, "--push_to_hub", "--do_train", tmp_path / "run")
    assert not hub.log


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("run_classification", ["--hub_model_id", "tester/tiny", "--do_train"]),
        ("run_baseline", ["--hub_model_id", "tester/svm"]),
        ("run_baseline", ["--hub_private_repo"]),
    ],
)
def test_repository_without_a_push_is_refused(
    run, tiny_model, tiny_dataset, tmp_path, script, flags
):
    more = ("--model_name_or_path", tiny_model) if script == "run_classification" else ()
    result = run(
        script, "--dataset_name", tiny_dataset, "--output_dir", tmp_path / "run", *more, *flags
    )
    assert_user_error(result, flags[0], "--push_to_hub")
    assert not (tmp_path / "run").exists()


def test_hub_that_refuses_is_found_before_training(run, hub, tiny_model, tiny_dataset, tmp_path):
    arguments = (
        "--model_name_or_path",
        tiny_model,
        "--dataset_name",
        tiny_dataset,
        *FAST,
        *EVERYTHING,
    )
    arguments += ("--output_dir", tmp_path / "run", "--push_to_hub")
    hub.refuse = (401, "", "Invalid credentials in Authorization header")
    result = run("run_classification", *arguments, "--hub_model_id", "tester/tiny")
    assert_user_error(result, "tester/tiny", "Invalid credentials", "hf auth login")
    assert not list((tmp_path / "run").iterdir())
    hub.refuse = None
    result = run("run_classification", *arguments, "--hub_model_id", "two words")
    assert_user_error(result, "two words")


@pytest.fixture
def call(hub, tmp_path):
    """``call(script, *flags)`` runs a script on the Hub's dataset, which this process cannot read.

    The libraries read the Hub's address when they are imported.
    """
    environment = hub.environment(tmp_path / "home")
    with fork_server(tmp_path / "socket", environment) as client:

        def run_on_hub(script, *flags):
            command = [*client, ROOT / f"{script}.py", "--dataset_name", "tester/tiny", *flags]
            return subprocess.run(
                list(map(str, command)),
                env=environment,
                capture_output=True,
                text=True,
                timeout=240,
            )

        yield run_on_hub


def test_revisions_are_recorded_with_their_commits(hub, call, tiny_model, tiny_dataset, tmp_path):
    api = huggingface_hub.HfApi()
    commits = {}
    for kind, folder in (("model", tiny_model), ("dataset", tiny_dataset)):
        api.create_repo("tester/tiny", repo_type=kind)
        commits[kind] = api.upload_folder(
            repo_id="tester/tiny", repo_type=kind, folder_path=folder
        ).oid
        api.upload_file(  # the main branch moves on
            path_or_fileobj=b"later",
            path_in_repo="later.txt",
            repo_id="tester/tiny",
            repo_type=kind,
        )
    # A tokenizer of another repository, which has no such commit
    api.create_repo("tester/words")
    api.upload_folder(
        repo_id="tester/words", folder_path=tiny_model, allow_patterns=["config.json", "tokenizer*"]
    )
    api.upload_file(
        path_or_fileobj=b"---\nlicense: apache-2.0\nlanguage:\n- en\n---\n# Tiny\n",
        path_in_repo="README.md",
        repo_id="tester/tiny",
    )

    for script, more in (
        ("run_baseline", ()),
        ("run_classification", ("--model_name_or_path", "tester/tiny", "--model_revision",
                                commits["model"], "--tokenizer_name", "tester/words",
                                *FAST, *EVERYTHING, "--num_train_epochs", 1)),
    ):  # fmt: skip
        result = call(
            script,
            "--dataset_revision",
            commits["dataset"],
            "--output_dir",
            tmp_path / script,
            *more,
        )
        assert result.returncode == 0, result.stderr
        record = json.loads((tmp_path / script / "run_arguments.json").read_text())
        assert record["dataset_commit"] == commits["dataset"]
        assert record["arguments"]["dataset_revision"] == commits["dataset"]
    assert record["model_commit"] == commits["model"]
    name = "run_attribution"
    flags = ("--model_name_or_path", "tester/tiny", "--model_revision", commits["model"])
    flags += ("--dataset_revision", commits["dataset"], "--max_samples", 2, "--n_steps", 5)
    result = call(name, "--output_dir", tmp_path / name, *flags)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / name / "summary.json").read_text())
    assert summary["dataset_commit"] == commits["dataset"]
    assert summary["model_commit"] == commits["model"]
    # What the card of the base model says, and what the Hub checks of a card
    card = huggingface_hub.ModelCard.load(tmp_path / "run_classification" / "README.md")
    assert (card.data.license, card.data.language) == ("apache-2.0", ["en"])
    assert (card.data.base_model, card.data.datasets) == ("tester/tiny", ["tester/tiny"])
    assert f"`tester/tiny`, revision `{commits['dataset']}`" in card.content
    assert {entry.dataset_revision for entry in card.data.eval_results} == {commits["dataset"]}
    card.validate()
    result = call(
        "run_baseline", "--dataset_revision", "nowhere", "--output_dir", tmp_path / "none"
    )
    assert result.returncode == 2 and result.stderr.count("error: ") == 1
    assert "tester/tiny" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("run_classification", ["--dataset_name", ROOT / "sample_data", "--do_train"]),
        ("run_attribution", ["--text", "a curve"]),
        ("probe_layers", ["--dataset_name", ROOT / "sample_data"]),
    ],
)
@pytest.mark.parametrize("name", ["./missing", "runs/minilm/missing"])
def test_model_folder_that_does_not_exist(run, tmp_path, script, flags, name):
    """The Hub's client says how a "Repo id" must be written, but a folder was meant."""
    result = run(script, "--model_name_or_path", name, *flags, "--output_dir", tmp_path / "out")
    assert_user_error(result, f"{name}: there is no such folder, and it is not a name on the Hub")
