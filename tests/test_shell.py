"""The shell scripts: set-up, the quick start from any folder, completed steps are skipped."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT


def bash(*arguments, cwd, timeout=500, **environment):
    return subprocess.run(
        ["bash", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.sh")))
def test_script_is_valid_bash(script):
    assert bash("-n", ROOT / script, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("script", ["run_quickstart.sh", "run_tests.sh", "run_paper.sh"])
def test_no_python_new_enough(tmp_path, script):
    for name in (script, "setup_env.sh", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    result = bash(
        tmp_path / script, cwd="/", PYTHON="no-such-python", OUTPUT_DIR=str(tmp_path / "out")
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "3.11" in result.stderr and "no-such-python" in result.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "python").exists(),
    reason="needs the .venv that run_tests.sh makes",
)
@pytest.mark.timeout(600)
def test_quick_start_runs_the_whole_chain_and_a_second_call_repeats_nothing(
    tmp_path, forked_python
):
    short = "--max_steps 2 --max_seq_length 32"
    settings = forked_python | {"TRAIN_ARGUMENTS": short, "OMP_NUM_THREADS": "2"}
    first = bash(ROOT / "run_quickstart.sh", cwd="/", OUTPUT_DIR=str(tmp_path / "q"), **settings)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Installing" not in first.stdout
    table = first.stdout[first.stdout.rindex("test accuracy") :]
    assert "TF-IDF + linear SVM" in table and "all-MiniLM-L6-v2" in table and "layers-0" in table
    pages = ["report/index.html", "attribution/attributions.html", "attribution/attributions.png"]
    assert table.index(pages[0]) < table.index(pages[1])
    for name in (
        *pages,
        "comparison/comparison.md",
        "context/context.html",
        "attribution-layers-0/attributions.png",
    ):
        assert (tmp_path / "q" / name).stat().st_size > 1000
    for name in (*pages, "comparison/comparison.md"):
        assert str(tmp_path / "q" / name) in table
    page = (tmp_path / "q" / "report" / "index.html").read_text()
    assert (
        "Do not cite these numbers" in page and "has no" not in page and str(tmp_path) not in page
    )
    names = (
        "data/manifest.json svm/model.skops minilm/model.safetensors layers-0/model.safetensors "
    )
    names += "attribution/attributions.jsonl attribution-layers-0/attributions.jsonl context/context.json"
    done = [tmp_path / "q" / name for name in names.split()]
    before = [path.stat().st_mtime_ns for path in done]
    second = bash(ROOT / "run_quickstart.sh", cwd=tmp_path, OUTPUT_DIR="q", **settings)
    assert second.returncode == 0, second.stdout + second.stderr
    assert (
        second.stdout[second.stdout.rindex("test accuracy") :].splitlines()[1:4]
        == table.splitlines()[1:4]
    )
    assert before == [path.stat().st_mtime_ns for path in done]
    assert (tmp_path / "q" / "report" / "index.html").read_text() == page
