"""The run folder on the Hub: created, pushed while training and at the end, loaded back; every failure keeps the run.

The real client talks to a Hub on loopback (hub_server.py).
"""

import json
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import huggingface_hub
import pandas as pd
import pytest
from conftest import LABELS, assert_user_error
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
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # keeps the Hub that it was first used with


@pytest.fixture(scope="module")
def trained(tiny_model, tiny_dataset, tmp_path_factory):
    """A run folder without card and pictures, as it is when make_card.py starts; do not write into it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, folder)
    scores = [[0.6, 0.1, 0.1, 0.1, 0.1], [0.1, 0.6, 0.1, 0.1, 0.1]]
    table = pd.DataFrame(scores, columns=LABELS)
    table.insert(0, "id", ["ag.00001", "cv.00001"])
    table.insert(1, "label", LABELS[:2])
    table.insert(2, "prediction", LABELS[:2])
    table.to_csv(folder / "predictions.csv", index=False)
    results = {f"predict_{key}": 1.0 for key in ("accuracy", "f1", "precision", "recall")} | {"predict_samples": 2}
    history = [
        {"epoch": 1.0, "step": 10, "loss": 1.2, "learning_rate": 1e-3},
        {"epoch": 1.0, "step": 10, "eval_loss": 1.1, "eval_accuracy": 0.9, "eval_f1": 0.8},
        {"epoch": 2.0, "step": 20, "eval_loss": 1.3, "eval_accuracy": 0.8, "eval_f1": 0.7},
    ]
    record = {
        "script": "run_classification.py",
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tiny_dataset),
        "seed": 42,
        "learning_rate": 1e-3,
        "total_train_batch_size": 8,
        "arguments": {"text_prefix": "query: ", "max_seq_length": 64},
        "device": "cpu",
        "precision": "fp32",
        "processes": 1,
        "versions": {"python": "3.11"},
    }
    for name, content in {
        "all_results.json": results,
        "trainer_state.json": {"log_history": history, "best_global_step": 10},
        "run_arguments.json": record,
    }.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pushed_while_training_and_at_the_end_and_loaded_back_by_id(run, hub, tiny_model, tiny_dataset, tmp_path):
    folder = tmp_path / "run"
    result = run(
        "run_classification", "--model_name_or_path", tiny_model, "--dataset_name", tiny_dataset, *FAST, *EVERYTHING,
        "--output_dir", folder, "--num_train_epochs", 2, "--push_to_hub", "--hub_strategy", "every_save",
        "--hub_model_id", "tester/tiny-geometry", "--hub_token", TOKEN,
    )  # fmt: skip
    assert result.code == 0, result.err
    messages = [commit["message"] for commit in hub.repos["model", "tester/tiny-geometry"]]
    assert any(message.startswith("Training in progress") for message in messages)
    assert messages[-1] == "End of training"

    pushed = hub.files("model", "tester/tiny-geometry")
    local = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {name: content for name, content in pushed.items() if name != ".gitattributes"} == local
    assert {"README.md", "model.safetensors", "predictions.csv", "confusion_matrix.png", "trainer_state.json"} <= {
        *local
    }
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert {entry.metric_type for entry in card.data.eval_results} >= {"accuracy", "f1"}
    assert 'pipeline("text-classification", "tester/tiny-geometry")' in card.content

    assert TOKEN not in result.out + result.err + result.log
    for commit in hub.repos["model", "tester/tiny-geometry"]:
        assert not any(TOKEN.encode() in content for content in commit["files"].values()), commit["message"]
    assert not any(TOKEN.encode() in content for content in contents(folder).values())

    # A stranger, not logged in, with an empty cache.
    program = (
        "import json; from transformers import pipeline\n"
        'print(json.dumps(pipeline("text-classification", "tester/tiny-geometry")("floer ricci compact")))'
    )
    environment = hub.environment(tmp_path / "stranger", token=None)
    stranger = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert stranger.returncode == 0, stranger.stderr
    (answer,) = json.loads(stranger.stdout.splitlines()[-1])
    assert answer == pipeline("text-classification", str(folder))("floer ricci compact")[0]
    assert answer["label"] in LABELS


def test_hub_that_breaks_down_half_way_does_not_lose_the_run(run, hub, tiny_model, tiny_dataset, tmp_path):
    def break_down():
        while not any(path.endswith("/commit/main") for _, path in hub.log):
            time.sleep(0.005)
        hub.refuse = (403, "", "storage quota exceeded")

    threading.Thread(target=break_down, daemon=True).start()
    folder = tmp_path / "run"
    result = run(
        "run_classification", "--model_name_or_path", tiny_model, "--dataset_name", tiny_dataset, *FAST, *EVERYTHING,
        "--output_dir", folder, "--num_train_epochs", 2, "--push_to_hub", "--hub_model_id", "tester/tiny",
    )  # fmt: skip
    assert_user_error(
        result, folder, "complete", "storage quota exceeded", "make_card.py", "--hub_model_id tester/tiny"
    )
    assert json.loads((folder / "predict_results.json").read_text())["predict_samples"] == 10
    assert "model-index" in (folder / "README.md").read_text()

    hub.refuse = None
    line = next(line for line in result.err.splitlines() if line.startswith("error: "))
    again = shlex.split(line.split("to try again: ")[1])
    assert again[:2] == ["python", "make_card.py"]
    assert run("make_card", *again[2:]).code == 0
    assert hub.files("model", "tester/tiny")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert "training_args.bin" not in hub.files("model", "tester/tiny")


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((401, "", "Invalid credentials in Authorization header"), ["Invalid credentials"]),
        ((403, "", "You don't have the rights"), ["rights"]),
        ((500, "", "the disk of the Hub is full"), ["disk of the Hub"]),
        ("refused", ["onnect"]),
    ],
)
def test_push_that_fails(run, hub, folder, monkeypatch, refusal, words):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # the client's pauses
    if refusal == "refused":
        use_hub(monkeypatch, "http://127.0.0.1:9")  # nobody listens there
    else:
        hub.refuse = refusal
    before = contents(folder)
    result = run("make_card", "--run_dir", folder, "--push_to_hub", "--hub_model_id", "tester/tiny")
    again = f"python make_card.py --run_dir {folder} --push_to_hub --hub_model_id tester/tiny"
    assert_user_error(result, folder, *words, again)
    assert TOKEN not in result.out + result.err + result.log
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert {str(name) for name in after.keys() - before.keys()} == {
        "README.md",
        "confusion_matrix.png",
        "training_curve.png",
    }


def test_hub_that_refuses_is_found_before_training(run, hub, tiny_model, tiny_dataset, tmp_path):
    arguments = ("--model_name_or_path", tiny_model, "--dataset_name", tiny_dataset, *FAST, *EVERYTHING)
    arguments += ("--output_dir", tmp_path / "run", "--push_to_hub")
    hub.refuse = (401, "", "Invalid credentials in Authorization header")
    result = run("run_classification", *arguments, "--hub_model_id", "tester/tiny")
    assert_user_error(result, "tester/tiny", "Invalid credentials", "hf auth login")
    assert not list((tmp_path / "run").iterdir())
    hub.refuse = None
    result = run("run_classification", *arguments, "--hub_model_id", "two words")
    assert_user_error(result, "two words")


def test_hub_that_cannot_be_reached_is_tried_again_after_training(
    run, hub, tiny_model, tiny_dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    use_hub(monkeypatch, "http://127.0.0.1:9")  # make_card.py, started anew, finds the real one
    result = run(
        "run_classification", "--model_name_or_path", tiny_model, "--dataset_name", tiny_dataset, *FAST, *EVERYTHING,
        "--output_dir", tmp_path / "run", "--num_train_epochs", 1, "--push_to_hub", "--hub_model_id", "tester/tiny",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "will be pushed at its end" in result.log
    messages = [commit["message"] for commit in hub.repos["model", "tester/tiny"]]
    assert messages[1:] == ["End of training"]


def test_push_without_a_name_and_a_folder_that_is_no_run(run, folder, tmp_path):
    assert_user_error(run("make_card", "--run_dir", folder, "--push_to_hub"), "--hub_model_id")
    assert_user_error(run("make_card", "--run_dir", tmp_path / "nowhere"), tmp_path / "nowhere")
    (folder / "trainer_state.json").write_text("[]")
    assert_user_error(run("make_card", "--run_dir", folder), folder)
