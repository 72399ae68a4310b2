"""tools/make_model.py: its folder, its record, and what it refuses to load."""

import json

import pytest
import torch
from conftest import assert_user_error, write_tiny_model
from transformers import AutoConfig, AutoModel

import run_classification
from common.encoders import TEXT_SETTINGS

FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def make(run, tiny_model, tmp_path):
    """Keep the first layer of a model."""

    def call(*flags, model=tiny_model, folder=tmp_path / "first"):
        required = ("--model_name_or_path", model, "--num_hidden_layers", 1)
        return run("make_model", *required, "--output_dir", folder, *flags)

    return call


def test_folder_has_model_tokenizer_and_record(make, tiny_model, tmp_path):
    result = make()
    assert result.code == 0, result.err
    folder = tmp_path / "first"
    assert {path.name for path in folder.iterdir()} == {*FILES, "make_model.json"}
    text = (folder / "make_model.json").read_text()
    record = json.loads(text)
    assert record["script"] == "make_model.py"
    assert record["arguments"]["num_hidden_layers"] == 1
    assert record["num_parameters"] == AutoModel.from_pretrained(folder).num_parameters()
    assert str(tmp_path) not in text and str(tiny_model) not in text


def test_own_folder_is_written_again_and_others_are_left_alone(make, tmp_path):
    assert make().code == 0
    before = (tmp_path / "first/model.safetensors").read_bytes()
    assert make().code == 0
    assert (tmp_path / "first/model.safetensors").read_bytes() == before
    # A model that somebody else has made, with the same files
    other = write_tiny_model(tmp_path / "other", seed=5)
    contents = {path: path.read_bytes() for path in other.iterdir()}
    assert_user_error(make(folder=other), "other", "make_model.json", "choose another folder")
    assert {path: path.read_bytes() for path in other.iterdir()} == contents


def test_task_of_a_classifier_does_not_survive(make, tmp_path):
    """Nor how its texts were read; the prefix is said, because an encoder may need it."""
    given = write_tiny_model(tmp_path / "given", problem_type="multi_label_classification")
    config = json.loads((given / "config.json").read_text())
    settings = {
        "text_column_names": ["title"],
        "text_column_delimiter": " . ",
        "text_prefix": "query: ",
        "max_seq_length": 20,
        "thresholds": [0.1] * 5,
        "label_delimiter": ";",
    }
    config |= settings
    (given / "config.json").write_text(json.dumps(config))
    result = make(model=given)
    assert result.code == 0, result.err
    assert "began with 'query: '" in result.log and "--text_prefix" in result.log
    config = AutoConfig.from_pretrained(tmp_path / "first")
    assert config.problem_type is None
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert [name for name in settings if hasattr(config, name)] == []
    assert set(TEXT_SETTINGS) == set(run_classification.TEXT_SETTINGS)


def test_revision_of_local_folders_is_refused(make, tiny_model, tmp_path):
    result = make("--model_revision", "v1")
    assert_user_error(result, "--model_revision is for the Hub", tiny_model, "leave it out")
    assert not (tmp_path / "first").exists()


def test_pickle_is_not_loaded(make, tmp_path):
    given = write_tiny_model(tmp_path / "given")
    torch.save(AutoModel.from_pretrained(given).state_dict(), given / "pytorch_model.bin")
    (given / "model.safetensors").unlink()
    assert_user_error(make(model=given), "--model_name_or_path", "safetensors")


@pytest.mark.parametrize("name", ["AutoConfig", "AutoModel"])
def test_code_of_a_model_folder_does_not_run_and_nobody_is_asked(make, tmp_path, monkeypatch, name):
    given = write_tiny_model(tmp_path / "given")
    config = json.loads((given / "config.json").read_text())
    config |= {"auto_map": {name: "evil.Thing"}, "model_type": "unheard-of"}
    (given / "config.json").write_text(json.dumps(config))
    (given / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Thing: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    assert_user_error(make(model=given), "--model_name_or_path")
    assert not (tmp_path / "ran").exists()
