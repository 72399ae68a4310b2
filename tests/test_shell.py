"""The shell scripts: set-up, the quick start from any folder, completed steps are skipped."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

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


def test_old_bash_is_refused_in_one_line():
    """macOS has bash 3.2, where declare -A ended a script in the middle."""
    checked = "source ./setup_env.sh; require_bash"
    assert bash("-c", f"{checked} 4 4 && {checked} 5 0", cwd=ROOT).returncode == 0
    for version in ("3 2", "4 3"):
        result = bash("-c", f"{checked} {version}", cwd=ROOT)
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert result.stderr.startswith(f"error: this is bash {version.replace(' ', '.')}; install")


@pytest.mark.parametrize("script", ["run_quickstart.sh", "run_tests.sh", "run_paper.sh"])
def test_no_python_new_enough(tmp_path, script):
    copy_setup(tmp_path, script)
    result = bash(
        tmp_path / script, cwd="/", PYTHON="no-such-python", OUTPUT_DIR=str(tmp_path / "out")
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "3.11" in result.stderr and "no-such-python" in result.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("script", "missing", "package"),
    [
        ("run_paper.sh", "find", "findutils"),
        ("run_paper.sh", "xargs", "findutils"),
        ("run_tests.sh", "cmp", "diffutils"),
        ("run_quickstart.sh", "awk", "gawk or mawk"),
    ],
)
def test_missing_command_is_named(tmp_path, script, missing, package):
    """Minimal images lack some. Without find, a folder of somebody else looked empty."""
    copy_setup(tmp_path, script)
    (tmp_path / "bin").mkdir()
    for name in ("bash", "dirname", "find", "xargs", "cmp", "awk", "realpath"):
        if name != missing:
            (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    settings = {"PATH": str(tmp_path / "bin"), "OUTPUT_DIR": str(tmp_path / "out")}
    result = bash(tmp_path / script, cwd=tmp_path, **settings)
    assert result.returncode == 2, result.stderr
    assert result.stderr == f"error: {missing} is not installed; it is part of {package}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "python").exists(),
    reason="needs the .venv that run_tests.sh makes",
)
@pytest.mark.timeout(600)
def test_quick_start_runs_the_whole_chain_and_a_second_call_repeats_nothing(
    tmp_path, forked_python
):
    short = "--max_steps 2 --max_seq_length 32"
    settings = forked_python | {"TRAIN_ARGUMENTS": short, "OMP_NUM_THREADS": "1"}
    first = bash(ROOT / "run_quickstart.sh", cwd="/", OUTPUT_DIR=str(tmp_path / "q"), **settings)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Installing" not in first.stdout
    steps = re.findall(r"^ *\d+/13  \S.* (\d+ s|done before)$", first.stdout, re.MULTILINE)
    assert len(steps) == 13 and "done before" not in steps
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
        "data/manifest.json",
        "svm/model.skops",
        "minilm/model.safetensors",
        "layers-0/model.safetensors",
        "attribution/attributions.jsonl",
        "attribution-layers-0/attributions.jsonl",
        "context/context.json",
    )
    done = [tmp_path / "q" / name for name in names]
    before = [path.stat().st_mtime_ns for path in done]
    second = bash(ROOT / "run_quickstart.sh", cwd=tmp_path, OUTPUT_DIR="q", **settings)
    assert second.returncode == 0, second.stdout + second.stderr
    assert (
        second.stdout[second.stdout.rindex("test accuracy") :].splitlines()[1:4]
        == table.splitlines()[1:4]
    )
    assert before == [path.stat().st_mtime_ns for path in done]
    assert second.stdout.count("  done before\n") == 11, "all but comparison and report"
    assert (tmp_path / "q" / "report" / "index.html").read_text() == page

    # A run of other flags is not taken for finished, and nothing of it is replaced.
    settings["TRAIN_ARGUMENTS"] = "--max_steps 3 --max_seq_length 32"
    third = bash(ROOT / "run_quickstart.sh", cwd=tmp_path, OUTPUT_DIR="q", **settings)
    assert third.returncode != 0
    assert [line for line in third.stderr.splitlines() if line.startswith("error: ")]
    assert before == [path.stat().st_mtime_ns for path in done]


FAKE_TRAINER = r"""
printf '%s\n' "$*" >> "CALLS"
while [ "$1" != --output_dir ]; do shift; done
mkdir -p "$2"
echo '{}' > "$2/predict_results.json"
"""


@pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "python").exists(),
    reason="needs the .venv that run_tests.sh makes",
)
def test_flags_of_the_quick_start_hold_for_both_trainings(tmp_path):
    """They come last, and quotes keep blanks. Here the trainings are fakes, and the rest fails."""
    fake = tmp_path / "fake.sh"
    fake.write_text(FAKE_TRAINER.replace("CALLS", str(tmp_path / "calls.txt")))
    (tmp_path / "q" / "data").mkdir(parents=True)
    (tmp_path / "q" / "data" / "manifest.json").write_text("{}")
    (tmp_path / "q" / "quickstart.json").write_text('{"script": "run_quickstart.sh"}')
    settings = {
        "BASH_FUNC_python%%": f"() {{ case $1 in run_attribution.py) exit 3 ;; tools/*) : ;; "
        f'*.py) bash {fake} "$@" ;; *) command python "$@" ;; esac; }}',
        "BASH_FUNC_accelerate%%": f'() {{ bash {fake} "${{@:5}}"; }}',
        "TRAIN_ARGUMENTS": "--num_train_epochs 6 --text_prefix 'query: '",
        "OUTPUT_DIR": "q",
    }
    bash(ROOT / "run_quickstart.sh", cwd=tmp_path, **settings)
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    trainings = [call for call in calls if call.startswith("run_classification.py")]
    assert len(trainings) == 2
    for call in trainings:
        assert call.endswith(" --num_train_epochs 6 --text_prefix query: ")
    settings["TRAIN_ARGUMENTS"] = "--output_dir elsewhere"
    result = bash(ROOT / "run_quickstart.sh", cwd=tmp_path, **settings)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "TRAIN_ARGUMENTS has --output_dir" in result.stderr and "OUTPUT_DIR" in result.stderr


def test_quick_start_in_a_folder_whose_name_begins_with_a_dash(tmp_path):
    (tmp_path / "-x").mkdir()
    (tmp_path / "-x" / "notes.txt").touch()
    result = bash(ROOT / "run_quickstart.sh", cwd=tmp_path, OUTPUT_DIR="-x")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"error: {tmp_path}/-x holds notes.txt" in result.stderr


def test_rehearsal_takes_a_switch_for_what_it_says(tmp_path):
    """SMALL=0 asked for a small model, too."""
    result = bash(ROOT / "benchmarks" / "rehearse_large_model.sh", cwd=tmp_path, SMALL="0")
    assert result.returncode == 2
    assert result.stderr == "error: SMALL must be 1 or empty, not '0'\n"


@pytest.mark.skipif(not os.access("/usr/bin/time", os.X_OK), reason="GNU time is not installed")
@pytest.mark.parametrize("failing", ["training", "hub"])
def test_rehearsal_ends_when_its_training_or_its_hub_does(tmp_path, failing):
    """It neither waits for them for ever nor ends trainings of others. Here python is a fake."""
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "rehearse_large_model.sh", tmp_path / "benchmarks")
    copy_setup(tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    stamp = "".join((ROOT / name).read_text() for name in REQUIREMENTS)
    (tmp_path / ".venv" / "installed-requirements.txt").write_text(stamp)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(
        f"""#!/bin/bash
        case "$1 FAILING={failing}" in
            "-c "*) exit ;;
            "- "*) echo "no server" >&2; exit 3 ;;
            "run_classification.py FAILING=training") echo "error: it must fail"; exit 2 ;;
            run_classification.py*)
                [ ! -e "$OUTPUT_DIR/run/train_results.json" ] || exit 0
                mkdir -p "$OUTPUT_DIR/run/checkpoint-1"
                echo '{{"epoch": 1.0}}' > "$OUTPUT_DIR/run/train_results.json"
                touch "$OUTPUT_DIR/run/checkpoint-1/trainer_state.json"
                exec sleep 600 ;;
        esac
        """
    )
    python.chmod(0o755)
    name = f"python run_classification.py --model_name_or_path {tmp_path}/out/bert-large"
    somebody = subprocess.Popen([name, "600"], executable=shutil.which("sleep"))
    try:
        settings = {"OUTPUT_DIR": f"{tmp_path}/out", "OUTPUT_FILE": f"{tmp_path}/out.json"}
        result = bash(tmp_path / "benchmarks" / "rehearse_large_model.sh", cwd="/", **settings)
        assert somebody.poll() is None
    finally:
        somebody.kill()
        somebody.wait()
    assert result.returncode == 2
    if failing == "training":
        assert "error: it must fail\nerror: training-killed ended before its first" in result.stderr
    else:
        assert result.stderr.endswith("error: the Hub on loopback did not start, see above\n")
        assert "training-killed\t" in (tmp_path / "out" / "steps.tsv").read_text()


REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")


def copy_setup(folder, *scripts):
    """Copy scripts and what setup_env.sh reads."""
    for name in (*scripts, "setup_env.sh", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, folder)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_environment_of_somebody_else_is_left_alone(tmp_path, kind):
    copy_setup(tmp_path, "run_tests.sh")
    mine = tmp_path / (".venv" if kind == "folder" else "mine")
    (mine / "bin").mkdir(parents=True)
    (mine / "notes.txt").write_text("mine")
    if kind == "link":
        (tmp_path / ".venv").symlink_to(mine)
    result = bash(tmp_path / "run_tests.sh", cwd="/")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: .venv ")
    assert sorted(path.name for path in mine.iterdir()) == ["bin", "notes.txt"]


def test_own_environment_that_does_not_work_is_made_again(tmp_path):
    """Its Python is gone, or its creation was interrupted. Here venv and pip are fakes."""
    copy_setup(tmp_path, "run_tests.sh")
    (tmp_path / "a b").mkdir()
    fake = tmp_path / "a b" / "python3"
    fake.write_text(
        """#!/bin/bash
        case "$*" in
            --version) echo Python 3.12.0 ;;
            "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
            "-m pip install "*)
                echo "  Downloading torch-2.13.0-cp311-cp311-linux_x86_64.whl (514.2 MB)"
                echo "  Downloading six-1.17.0-py3-none-any.whl (11 kB)" ;;
        esac
        """
    )
    fake.chmod(0o755)
    (tmp_path / "bin").mkdir()
    for name in ("ruff", "python"):
        (tmp_path / "bin" / name).write_text('#!/bin/bash\necho "$(basename $0) $*"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "made-by-setup_env").touch()
    (tmp_path / ".venv" / "old").touch()
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    settings = {"PYTHON": str(fake), "PATH": path}
    result = bash(tmp_path / "run_tests.sh", cwd="/", **settings)
    assert result.returncode == 0, result.stderr
    assert "Creating .venv with Python 3.12.0" in result.stdout
    assert "  downloading torch, 514.2 MB\nInstalled in " in result.stdout
    assert not (tmp_path / ".venv" / "old").exists()
    stamp = (tmp_path / ".venv" / "installed-requirements.txt").read_text()
    assert stamp == "".join(
        (ROOT / name).read_text() for name in ("requirements.txt", "requirements-dev.txt")
    )

    # Nothing is made again, and arguments go to pytest as they are.
    shutil.copy(tmp_path / "bin" / "python", tmp_path / ".venv" / "bin" / "python")
    result = bash(tmp_path / "run_tests.sh", "-m", "not slow", "tests/x y.py", cwd="/", **settings)
    assert result.returncode == 0 and "Creating" not in result.stdout
    assert result.stdout.splitlines()[-1].startswith("python -m pytest --numprocesses ")
    assert result.stdout.splitlines()[-1].endswith(" -m not slow tests/x y.py")


@pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "python").exists(),
    reason="needs the .venv that run_tests.sh makes",
)
@pytest.mark.parametrize("script", ["run_quickstart.sh", "run_findings.sh"])
def test_folder_of_another_project_is_left_alone(tmp_path, script):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "all-MiniLM-L6-v2").write_text("mine")
    result = bash(ROOT / script, cwd="/", OUTPUT_DIR=str(tmp_path), DATASET="user/data")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"error: {tmp_path} holds models, which " in result.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["all-MiniLM-L6-v2", "models"]


def test_findings_without_records(tmp_path):
    for settings in ({}, {"SNAPSHOT_FILE": str(tmp_path / "none.jsonl")}):
        result = bash(ROOT / "run_findings.sh", cwd="/", OUTPUT_DIR=str(tmp_path / "f"), **settings)
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert "SNAPSHOT_FILE" in result.stderr and not (tmp_path / "f").exists()


def test_findings_read_a_snapshot_in_the_folder_of_the_caller(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("snapshot.jsonl", "out/notes.txt"):
        (tmp_path / name).touch()
    settings = {"SNAPSHOT_FILE": "snapshot.jsonl", "OUTPUT_DIR": "out"}
    result = bash(ROOT / "run_findings.sh", cwd=tmp_path, **settings)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"error: {tmp_path}/out holds notes.txt" in result.stderr


def write_finished_run(folder, score):
    """The files of a run that run_paper.sh takes for finished; without a score, a search run."""
    folder.mkdir(parents=True)
    for name in ("run_arguments.json", "eval_results.json", "model.safetensors"):
        (folder / name).write_text(json.dumps({"eval_loss": 0.5}))
    if score:
        (folder / "predict_results.json").write_text('{"predict_loss": 0.4}')
        (folder / "predictions.csv").write_text(f'id,label,prediction,a\n1,"a, b",c,{score}\n')


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DATASET": "a/b", "SNAPSHOT_FILE": "s"}, "give either SNAPSHOT_FILE or DATASET"),
        ({"DATASET": "a/b", "MODELS": "x"}, "this script gives MODELS itself; set ENCODERS, "),
        ({"DATASET": "a/b", "SEEDS": "1 2"}, "this script gives SEEDS itself; set ENCODERS, "),
        ({"DATASET": "a/b", "SHALLOW_ARGUMENTS": "--x"}, "gives SHALLOW_ARGUMENTS itself; set "),
        (
            {"DATASET": "a/b", "ENCODERS": "all-MiniLM-L6-v2 ", "MPNET_RATES": "1e-5"},
            "MPNET_RATES is set, and ENCODERS has no all-mpnet-base-v2; unset one of them",
        ),
        (
            {"DATASET": "a/b", "ENCODERS": "all-mpnet-base-v2", "MINILM_RATES": "1e-5"},
            "MINILM_RATES is set, and ENCODERS has no all-MiniLM-L6-v2; unset one of them",
        ),
    ],
)
def test_findings_refuse_variables_that_they_would_not_read(tmp_path, settings, message):
    result = bash(
        ROOT / "run_findings.sh", "--list", cwd=tmp_path, OUTPUT_DIR=str(tmp_path / "f"), **settings
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert message in result.stderr and not (tmp_path / "f").exists()


def test_findings_are_kept_and_restored(tmp_path):
    """Here run_paper.sh is a fake that trains nothing and fails, as after a full disk."""
    copy_setup(tmp_path, "run_findings.sh")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / "installed-requirements.txt").write_text(
        "".join((ROOT / name).read_text() for name in ("requirements.txt", "requirements-dev.txt"))
    )
    (tmp_path / "run_paper.sh").write_text('echo "fetch: $FETCH_ARGUMENTS"; exit 7\n')
    first, kept, second = (tmp_path / name for name in ("first", "kept", "second"))
    (first / "models" / "all-MiniLM-L6-v2").mkdir(parents=True)
    (first / "study.json").write_text('{"script": "run_paper.sh"}')
    write_finished_run(first / "svm", "0.123456789")
    write_finished_run(first / "layers-0" / "lr-1e-4-seed-1", "")
    (first / "layers-0" / "lr-2e-4-seed-1" / "checkpoint-3").mkdir(parents=True)
    (first / "attribution-layers-0").mkdir()
    summary = {"arguments": {"dataset_name": f"{first}/data"}}
    (first / "attribution-layers-0" / "summary.json").write_text(json.dumps(summary))
    settings = {"ENCODERS": "all-MiniLM-L6-v2", "RESULTS": str(kept), "LC_ALL": "C"}
    snapshot = tmp_path / "é's.jsonl"
    snapshot.touch()
    settings["SNAPSHOT_FILE"] = str(snapshot).removeprefix("/")  # as seen from the root

    result = bash(
        tmp_path / "run_findings.sh", "--train", cwd="/", OUTPUT_DIR=str(first), **settings
    )
    assert result.returncode == 7, result.stderr
    # In any locale, the words are quoted as Python reads them, too.
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("fetch: ")]
    assert shlex.split(line)[1:] == ["--source", "snapshot", "--snapshot_file", str(snapshot)]
    files = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    small = ["run_arguments.json", "eval_results.json"]
    svm = [*small, "predict_results.json", "predictions.csv"]
    assert files == {
        "results.json",
        "attribution-layers-0/summary.json",
        *(f"predictions/svm/{name}" for name in svm),
        *(f"predictions/layers-0/lr-1e-4-seed-1/{name}" for name in small),
    }
    rows = (kept / "predictions" / "svm" / "predictions.csv").read_text()
    assert rows == 'id,label,prediction,a\n1,"a, b",c,0.1235\n'

    summary = json.loads((kept / "attribution-layers-0" / "summary.json").read_text())
    assert summary == {"arguments": {"dataset_name": "data"}}

    # An empty folder goes on from there; what is there is left alone.
    (second / "models" / "all-MiniLM-L6-v2").mkdir(parents=True)
    (second / "study.json").write_text('{"script": "run_paper.sh"}')
    (second / "layers-0" / "lr-1e-4-seed-1" / "checkpoint-3").mkdir(parents=True)
    # Copies that were interrupted are removed, and other folders are not.
    for name in (".tmp-svm", "layers-0/.tmp-lr-1e-4-seed-1", "layers-0/lr-1e-4-seed-1.42.tmp"):
        write_finished_run(second / name, "")
    (second / "layers-0" / "mine.42.tmp").mkdir()
    result = bash(
        tmp_path / "run_findings.sh", "--list", cwd="/", OUTPUT_DIR=str(second), **settings
    )
    assert result.returncode == 7, result.stderr
    assert "svm is finished: its files are in" in result.stdout
    assert (second / "svm" / "predictions.csv").read_text() == rows
    results = {}
    for name in ("eval", "predict"):
        results |= json.loads((kept / "predictions" / "svm" / f"{name}_results.json").read_text())
    assert json.loads((second / "svm" / "all_results.json").read_text()) == results
    assert [path.name for path in (second / "layers-0" / "lr-1e-4-seed-1").iterdir()] == [
        "checkpoint-3"
    ]
    assert sorted(path.name for path in (second / "layers-0").iterdir()) == [
        "lr-1e-4-seed-1",
        "mine.42.tmp",
    ]
    assert not (second / ".tmp-svm").exists()

    # A folder with other things is refused before anything is trained.
    settings["RESULTS"] = str(tmp_path)
    result = bash(
        tmp_path / "run_findings.sh", "--train", cwd="/", OUTPUT_DIR=str(first), **settings
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"error: {tmp_path} holds " in result.stderr
