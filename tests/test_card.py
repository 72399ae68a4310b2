"""The card is written from files alone, the same every time; a push that fails loses nothing."""

import json
import shutil
import sys

import pytest
from conftest import assert_user_error


@pytest.fixture(scope="module")
def svm(tiny_dataset, tmp_path_factory):
    import run_baseline

    folder = tmp_path_factory.mktemp("svm") / "run"
    argv = sys.argv
    sys.argv = ["run_baseline.py", "--dataset_name", str(tiny_dataset), "--output_dir", str(folder), "--C", "1"]
    try:
        run_baseline.main()
    finally:
        sys.argv = argv
    return folder


def test_card_and_picture_can_be_made_again(run, svm, tmp_path):
    shutil.copytree(svm, tmp_path / "run")
    for name in ("README.md", "confusion_matrix.png"):
        (tmp_path / "run" / name).unlink()
    assert run("make_card", "--run_dir", tmp_path / "run").code == 0
    for name in ("README.md", "confusion_matrix.png"):
        assert (tmp_path / "run" / name).read_bytes() == (svm / name).read_bytes()


def test_card_names_the_repository_and_no_folder_of_this_machine(run, svm, tmp_path):
    shutil.copytree(svm, tmp_path / "run")
    assert run("make_card", "--run_dir", tmp_path / "run", "--hub_model_id", "me/words").code == 0
    card = (tmp_path / "run" / "README.md").read_text()
    assert "# words" in card
    assert str(tmp_path) not in card and "/tmp" not in card


def test_no_run_there(run, tmp_path):
    assert_user_error(run("make_card", "--run_dir", tmp_path / "none"), tmp_path / "none", "run_arguments.json")


def test_files_of_something_else(run, svm, tmp_path):
    shutil.copytree(svm, tmp_path / "run")
    (tmp_path / "run" / "run_arguments.json").write_text("{}")
    assert_user_error(run("make_card", "--run_dir", tmp_path / "run"), tmp_path / "run")
    (tmp_path / "run" / "run_arguments.json").write_text("{")
    assert_user_error(run("make_card", "--run_dir", tmp_path / "run"), tmp_path / "run")


def test_push_needs_a_name(run, svm):
    assert_user_error(run("make_card", "--run_dir", svm, "--push_to_hub"), "--hub_model_id")


def test_push_without_the_hub_keeps_the_run_and_names_the_command(run, svm, tmp_path):
    shutil.copytree(svm, tmp_path / "run")
    before = {path.name for path in (tmp_path / "run").iterdir()}
    result = run("make_card", "--run_dir", tmp_path / "run", "--push_to_hub", "--hub_model_id", "me/words")
    assert_user_error(result, tmp_path / "run", "make_card.py", "--push_to_hub", "me/words")
    assert {path.name for path in (tmp_path / "run").iterdir()} == before
    metrics = json.loads((tmp_path / "run" / "predict_results.json").read_text())
    assert metrics == json.loads((svm / "predict_results.json").read_text())
