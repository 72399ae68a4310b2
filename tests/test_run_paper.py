"""The study's script on a tiny dataset with two tiny models and a bag-of-embeddings classifier:
what it chooses, that completed steps are skipped, and the page that it ends with. Its queue:
several workers, failures, a job array, data variants, status, what it refuses.
"""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, assert_user_error, make_records, write_dataset, write_tiny_model

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "python").exists(), reason="run_tests.sh makes the environment"
)
MODELS, RATES, SEEDS = ("alpha", "beta"), ("3e-3", "1e-6"), ("1", "2")
SETTINGS = {
    "LEARNING_RATES": " ".join(RATES),
    "SEEDS": " ".join(SEEDS),
    "LAUNCH": "python",  # saves the launcher's start
    # The colon keeps the prefix apart from the first word, whichever word a shuffle puts there.
    "TRAIN_ARGUMENTS": "--max_seq_length 64 --per_device_train_batch_size 8 "
    "--gradient_accumulation_steps 1 --num_train_epochs 4 --disable_tqdm True --text_prefix floer:",
    "SHALLOW_LEARNING_RATES": "3e-3",
    "SHALLOW_ARGUMENTS": "--num_train_epochs 2",
    "ATTRIBUTION_ARGUMENTS": "--max_samples 1 --n_steps 4 --disable_tqdm",
    "FAITHFULNESS_SAMPLES": "1",
    "FAITHFULNESS_ARGUMENTS": "--methods gradient_x_input",
    "CONTEXT_ARGUMENTS": "--block_sizes 1 --window_sizes 1 --n_surrogate_documents 1 "
    "--n_shuffles 1 --n_phrases 0 --n_resamples 100 --disable_tqdm",
    "REPORT_ARGUMENTS": "--title Tiny",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def start(*arguments, script=ROOT / "run_paper.sh", cwd=ROOT, **settings):
    """Start a shell script with these environment variables; returns the process."""
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    return subprocess.Popen(
        ["bash", str(script), *map(str, arguments)],
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored if pytest is a background job
    )


def finish(process, timeout=500):
    """Wait for a process; returns it with its output in place of the pipes."""
    process.stdout, process.stderr = process.communicate(timeout=timeout)
    return process


def wait_for(condition, seconds=200):
    """Wait until the condition holds, and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a dataset and two tiny models."""
    folder = tmp_path_factory.mktemp("inputs")
    write_dataset(
        folder / "data", make_records(40)
    )  # 20 test documents, the fewest for a test of context
    for seed, name in enumerate(MODELS):
        write_tiny_model(folder / name, seed=seed)
    return folder


def settings_of(inputs):
    return SETTINGS | {
        "DATASET": inputs / "data",
        "MODELS": " ".join(str(inputs / name) for name in MODELS),
    }


@pytest.fixture(scope="module")
def study(inputs, forked_python, tmp_path_factory):
    """The whole study, one run after another; returns its folder and the finished process."""
    folder = tmp_path_factory.mktemp("study") / "paper"
    result = finish(start(**settings_of(inputs), **forked_python, OUTPUT_DIR=folder))
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result


@pytest.mark.timeout(600)  # on a slow machine
def test_two_models_two_learning_rates_two_seeds(inputs, study, forked_python):
    paper, result = study
    chosen = []
    for name in MODELS:
        folder = paper / name
        table = pd.read_csv(folder / "learning_rates.csv", dtype={"learning_rate": str})
        losses = {
            rate: json.loads((folder / f"lr-{rate}-seed-1" / "eval_results.json").read_text())[
                "eval_loss"
            ]
            for rate in RATES
        }
        assert dict(zip(table["learning_rate"], table["eval_loss"], strict=True)) == losses
        assert list(table["eval_loss"]) == sorted(losses.values())
        assert table["learning_rate"][0] == "3e-3"  # the other one learns nothing
        chosen += [folder / f"lr-3e-3-seed-{seed}" for seed in SEEDS]
    networks = [paper / "layers-0" / f"lr-3e-3-seed-{seed}" for seed in SEEDS]
    chosen += networks
    everything = sorted(path for path in paper.glob("*/lr-*"))
    assert len(everything) == 8  # two rates with the first seed, the better one with the second
    # Only what was chosen has seen the test split, with the prefix that it was trained with.
    assert [path for path in everything if (path / "predictions.csv").exists()] == sorted(chosen)
    assert {json.loads((run / "config.json").read_text())["text_prefix"] for run in chosen} == {
        "floer:"
    }
    assert not list(paper.rglob("checkpoint-*"))
    comparison = (paper / "comparison" / "comparison.md").read_text()
    assert "alpha" in comparison and "beta" in comparison
    record = json.loads((networks[0] / "run_arguments.json").read_text())["arguments"]
    assert record["model_name_or_path"] == "layers-0" and record["num_train_epochs"] == 2
    # The encoder whose first seed has the lowest validation loss is explained.
    best = min(
        (chosen[0], chosen[2]),
        key=lambda run: json.loads((run / "eval_results.json").read_text())["eval_loss"],
    )
    name = best.parent.name
    summary = json.loads((paper / f"attribution-{name}" / "summary.json").read_text())
    assert str(best) in json.dumps(summary)
    faithfulness = json.loads((paper / f"attribution-{name}" / "faithfulness.json").read_text())
    assert "gradient x input" in faithfulness["rankings"]
    summary = json.loads((paper / "attribution-layers-0" / "summary.json").read_text())
    assert summary["arguments"]["model_name_or_path"] == str(networks[0])
    context = json.loads((paper / f"context-{name}" / "context.json").read_text())
    assert [run["name"] for run in context["order"]] == [name, "svm", "layers-0"]
    assert context["order"][2]["indifferent"] is True
    assert [model["name"] for model in context["attribution"]] == [name, "layers-0"]
    table = pd.read_csv(paper / "runs.csv", index_col="run")
    assert set(table.index) == {"svm", *(str(run.relative_to(paper)) for run in everything)}
    assert table["predict_accuracy"].notna().sum() == 1 + len(chosen)
    page = (paper / "report" / "index.html").read_text()
    assert "<title>Tiny</title>" in page and str(paper.parent) not in page
    assert (
        all(f"{run.parent.name}/{run.name}" in page for run in chosen)
        and "Learning rates of alpha" in page
    )
    assert re.findall(r"it has no ([\w.]+\w)", page) == [
        "manifest.json"
    ]  # the dataset is not fetch_arxiv.py's
    assert result.stdout.splitlines()[-1].startswith(f"Done: {paper}/report/index.html")
    lines = [shlex.split(line) for line in (paper / "runs.txt").read_text().splitlines()]
    assert {line[0] for line in lines} == {"--output_dir"} and len(lines) == 5 + 6
    assert [line[1] for line in lines if line[-1] == "--do_predict"] == [str(run) for run in chosen]
    models = {line[3] for line in lines if line[1] == str(networks[1])}
    assert models == {str(paper / "models" / "seed-2" / "layers-0")}

    # Completed steps are skipped, missing ones are made. Weights are only needed by missing ones.
    (chosen[0] / "predict_results.json").unlink()
    (networks[0] / "model.safetensors").unlink()
    names = ("svm", f"attribution-{name}", "attribution-layers-0", f"context-{name}", "comparison")
    watched = [*everything, *(paper / name for name in names)]
    before = {
        path: path.stat().st_mtime_ns
        for folder in watched
        for path in Path(folder).rglob("*")
        if path.is_file() and folder != chosen[0]
    }
    predictions = (chosen[0] / "predictions.csv").read_bytes()
    result = finish(start(**settings_of(inputs), **forked_python, OUTPUT_DIR=paper))
    assert result.returncode == 0, result.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (chosen[0] / "predict_results.json").exists()
    assert (chosen[0] / "predictions.csv").read_bytes() == predictions

    # A step whose inputs changed is made again or refused. Here the weights are missing.
    text = (networks[0] / "predictions.csv").read_text()
    (networks[0] / "predictions.csv").write_text(text + "\n")
    result = finish(start(**settings_of(inputs), **forked_python, OUTPUT_DIR=paper))
    assert result.returncode == 2
    assert f"attribution-layers-0 needs the weights of {networks[0]}" in result.stderr
    # Runs of other data are not taken for finished.
    shutil.copytree(inputs / "data", paper.parent / "data")
    path = paper.parent / "data" / "data" / "test-00000-of-00001.parquet"
    pd.read_parquet(path)[:-1].to_parquet(path)
    settings = settings_of(inputs) | {"DATASET": paper.parent / "data", "OUTPUT_DIR": paper}
    result = finish(start(**settings, **forked_python))
    assert result.returncode == 2 and "has other data than the runs in" in result.stderr


# The queue


@pytest.mark.timeout(600)
def test_run_of_a_killed_worker_is_continued_by_another_with_the_same_predictions(
    inputs, study, forked_python, tmp_path
):
    paper, _ = study
    folder = tmp_path / "paper"
    settings = settings_of(inputs) | {
        "OUTPUT_DIR": folder,
        "WORKERS": 2,
        "SHALLOW": "",
        "SEEDS": "1",
    }
    settings["LEARNING_RATES"] = RATES[0]
    process = start("--train", **settings, **forked_python)
    state = wait_for(lambda: next(folder.glob("*/lr-*/checkpoint-*/trainer_state.json"), None))
    run = state.parent.parent
    os.killpg(os.getpgid(training_process(run)), signal.SIGKILL)  # the worker and its process
    log = folder / "logs" / f"{run.parent.name}-{run.name}.log"
    before = len(log.read_text())
    result = finish(process)
    assert result.returncode == 0, result.stderr[-3000:]
    epochs = [
        float(epoch) for epoch in re.findall(r"'epoch': '?([\d.]+)", log.read_text()[before:])
    ]
    assert epochs and min(epochs) > 1  # it continued after the first epoch
    assert not list(folder.rglob("checkpoint-*")) and not (folder / "svm").exists()
    for name in MODELS:
        files = [place / name / "lr-3e-3-seed-1" / "predictions.csv" for place in (paper, folder)]
        assert files[0].read_bytes() == files[1].read_bytes()
        losses = [
            pd.read_csv(place / name / "learning_rates.csv")["eval_loss"][0]
            for place in (paper, folder)
        ]
        assert losses[0] == losses[1]


def training_process(run):
    """Return the id of the Python process that trains a run."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:  # the process has ended
            continue
        if b"run_classification.py" in words and str(run).encode() in words:
            return int(entry.parent.name)
    raise AssertionError(f"nothing trains {run}")


FAKE = r"""
# Stands for run_classification.py, run_baseline.py and, with `python`, for the tools.
log() { echo "$1 $name ${CUDA_VISIBLE_DEVICES-none}" >> "EVENTS"; }
echo "$*" >> "EVENTS.calls"
words=("$@")
for number in "${!words[@]}"; do
    case ${words[$number]} in
        --output_dir | --attribution_dir) folder=${words[$number + 1]} ;;
        --learning_rate) rate=${words[$number + 1]} ;;
    esac
done
mkdir -p "$folder"
case $1 in
    run_classification.py | run_baseline.py) ;;
    *)
        for file in manifest tokenizer summary context faithfulness family learning_curve; do
            echo '{}' > "$folder/$file.json"
        done
        echo '{"pairs": [{"p_holm": 1}]}' > "$folder/comparison.json"
        touch "$folder"/attributions.{jsonl,html}
        exit
        ;;
esac
name=${folder##*/}
[ $1 = run_baseline.py ] || name=$(basename "$(dirname "$folder")")/$name
log start
mkdir -p "$folder/checkpoint-1"
[[ -z ${HANG-} || $folder != *$HANG* ]] || sleep 600
sleep 0.2
echo "trained by $*"
[[ -z ${FAIL-} || $folder != *$FAIL* ]] || { echo "error: it must fail"; exit 7; }
results='{"eval_loss": 0.5, "eval_accuracy": 1, "eval_f1": 1, "epoch": 1, "train_runtime": 100}'
if [[ $* = *--do_train* || $1 = run_baseline.py ]]; then
    # Of a path, the last part is recorded.
    echo "{\"arguments\": {\"output_dir\": \"${folder##*/}\", \"learning_rate\": ${rate-null}}," \
        "\"versions\": {}}" \
        > "$folder/run_arguments.json"
fi
touch "$folder/model.safetensors"
echo $results | tee "$folder/train_results.json" > "$folder/eval_results.json"
if [[ ${@: -1} = --do_predict || $1 = run_baseline.py ]]; then
    echo id > "$folder/predictions.csv"
    echo $results > "$folder/predict_results.json"
fi
log end
"""


@pytest.fixture
def queue(tmp_path):
    """Settings of a study that is trained by a fake.

    It writes who trained what and when to events.txt, and all calls to events.txt.calls. The runs
    named in $FAIL fail, and those named in $HANG do not end.
    """
    fake = tmp_path / "fake.sh"
    fake.write_text(FAKE.replace("EVENTS", str(tmp_path / "events.txt")))
    (tmp_path / "bin").mkdir()
    return {
        "OUTPUT_DIR": tmp_path / "the paper",
        "DATASET": "user/data",
        "MODELS": "alpha user/beta",
        "LEARNING_RATES": "1e-5 2e-5 3e-5",
        "SEEDS": "1 2",
        "SHALLOW": "",
        "LAUNCH": f"bash {fake}",
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "BASH_FUNC_python%%": '() { case $1 in tools/check_finished.py) command python "$@" ;; '
        f'*.py) bash {fake} "$@" ;; *) command python "$@" ;; esac; }}',
    }


def events(folder, kind="start"):
    """The runs and GPUs of the events of a kind, in order."""
    lines = [line.split() for line in (folder / "events.txt").read_text().splitlines()]
    return [(run, gpu) for what, run, gpu in lines if what == kind]


def calls(folder):
    """The command lines of all calls, in order."""
    return (folder / "events.txt.calls").read_text().splitlines()


def script(folder, name, text):
    (folder / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / "bin" / name).chmod(0o755)


def test_each_gpu_trains_one_run_at_a_time(queue, tmp_path):
    script(tmp_path, "nvidia-smi", "printf '0\\n1\\n2\\n'")
    assert finish(start("--train", **queue)).returncode == 0
    assert {gpu for _, gpu in events(tmp_path)} == {
        "none"
    }  # a LAUNCH of one's own may use all GPUs

    (tmp_path / "events.txt").unlink()
    (tmp_path / "accelerate.sh").write_text(
        f'accelerate() {{ shift 4; {queue.pop("LAUNCH")} "$@"; }}'
    )
    queue |= {"OUTPUT_DIR": tmp_path / "three", "BASH_ENV": tmp_path / "accelerate.sh"}
    result = finish(start("--train", **queue))
    assert result.returncode == 0, result.stderr
    runs = [
        f"{name}/lr-{rate}-seed-1"
        for name in ("alpha", "beta")
        for rate in ("1e-5", "2e-5", "3e-5")
    ]
    chosen = [f"{name}/lr-1e-5-seed-{seed}" for name in ("alpha", "beta") for seed in (1, 2)]
    assert sorted(run for run, _ in events(tmp_path)) == sorted(runs + chosen)
    assert {gpu for _, gpu in events(tmp_path)} == {"0", "1", "2"}
    busy = set()
    for line in (tmp_path / "events.txt").read_text().splitlines():
        what, _, gpu = line.split()
        assert (gpu in busy) == (what == "end")
        busy ^= {gpu}
    assert "Run 1 of 6 on GPU" in result.stdout and "trained by" not in result.stdout
    assert "trained by" in (tmp_path / "three" / "logs" / "alpha-lr-2e-5-seed-1.log").read_text()
    assert not list((tmp_path / "three").rglob("checkpoint-*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_failed_run_is_named_after_the_others_have_finished(queue, tmp_path, workers):
    """Its model waits for it, and the other one does not."""
    queue["WORKERS"] = workers
    paper = queue["OUTPUT_DIR"]
    result = finish(start("--train", **queue, FAIL="alpha/lr-2e-5"))
    assert result.returncode == 1
    failed = paper / "alpha" / "lr-2e-5-seed-1"
    assert f"error: not finished: {failed};" in result.stderr
    assert "Run 2 failed: alpha/lr-2e-5-seed-1 (error: it must fail; log: " in result.stderr
    assert len(events(tmp_path)) == 6 + 2 and len(events(tmp_path, "end")) == 5 + 2
    assert {run.parent.name for run in paper.glob("*/*/predictions.csv")} == {
        "lr-1e-5-seed-1",
        "lr-1e-5-seed-2",
    }
    assert not list(paper.glob("alpha/*/predictions.csv"))
    assert len(list(paper.rglob("checkpoint-*"))) == 1  # the next call continues from it

    status = finish(start("--status", **queue)).stdout
    assert re.search(r"alpha/lr-2e-5-seed-1 +interrupted\n", status)
    assert re.search(r"alpha/lr-best-seed-2 +missing\n", status)
    assert re.search(r"beta/lr-1e-5-seed-2 +finished +0.5000 +100 s\n", status)
    seconds = 200 // workers  # two runs of alpha are left, and its others took 100 s each
    assert f"6 of 9 runs are finished; about {seconds} s left, without one run of a model" in status
    # All losses are 0.5, so the first rate is the best.
    assert "beta: the best learning rate, 1e-5, is the lowest of 1e-5 2e-5 3e-5; a" in status
    assert "alpha: the best" not in status  # its rates are not all trained

    if workers == 1:  # tables of what is finished, without training another encoder
        result = finish(start("--tables", **queue))
        assert result.returncode == 0, result.stderr
        assert "alpha is not finished; the tables are without it" in result.stdout
        call = next(call for call in calls(tmp_path) if call.startswith("tools/compare_runs.py"))
        assert "beta/lr-1e-5-seed-2" in call and "alpha" not in call
        assert f"--reference {paper}/svm" in call
        assert "beta: the best learning rate, 1e-5, is the lowest" in result.stdout
        assert [run for run, _ in events(tmp_path)][8:] == ["svm"]

    assert finish(start("--train", **queue)).returncode == 0
    trained = [run for run, _ in events(tmp_path) if run != "svm"]
    assert trained[8] == "alpha/lr-2e-5-seed-1" and len(trained) == 8 + 1 + 2
    # A checkpoint of somebody else stays, and so does one behind a link.
    (failed / "checkpoint-best").mkdir()
    (failed / "checkpoint-7").symlink_to(tmp_path / "bin")
    (failed / "checkpoint-8").mkdir()
    assert finish(start("--train", **queue)).returncode == 0
    assert [run for run, _ in events(tmp_path) if run != "svm"] == trained
    assert {path.name for path in failed.glob("checkpoint*")} == {"checkpoint-best", "checkpoint-7"}


def test_time_left_is_not_known_at_the_start(queue):
    assert finish(start("--list", **queue)).returncode == 0
    (line,) = finish(start("--status", **queue)).stdout.splitlines()[-1:]
    reason = "the time left is not known before a run of each model is finished"
    assert line == f"0 of 9 runs are finished; {reason}"


def test_models_file_shuffled_words_and_sizes(queue, tmp_path):
    """Each model has rates, seeds and flags, on all data, shuffled words and fewer documents."""
    del queue["MODELS"], queue["SHALLOW"]
    paper = queue["OUTPUT_DIR"]
    (tmp_path / "models.txt").write_text(
        """
# model | rates | seeds | flags
 user/alpha | 1e-5 2e-5 | 3 4 | --text_prefix "query: " --max_seq_length 64
layers-0    |           | 5   |\r
"""
    )
    queue |= {
        "MODELS_FILE": tmp_path / "models.txt",
        "SHALLOW_LEARNING_RATES": "1e-3",
        "SHALLOW_EMBEDDINGS": "--init_embeddings_from user/alpha",
        "CALIBRATED": "1",
        "SHUFFLED": "1",
        "SIZES": "500",
        "SIZE_MODELS": "alpha",
        "SIZE_LEARNING_RATES": "1e-5 4e-5",
        "COMPARE_ARGUMENTS": "--margin 1",
    }
    result = finish(start(**queue))
    assert result.returncode == 0, result.stderr
    # Both models have seeds of their own; one has rates, the other those of a network.
    assert [line for line in result.stdout.splitlines() if line.startswith("notice: ")] == [
        f"notice: {name} is set, and no model of this study reads it"
        for name in ("LEARNING_RATES", "SEEDS")
    ]
    assert {str(path.parent.relative_to(paper)) for path in paper.rglob("predictions.csv")} == {
        "svm",
        "svm-calibrated",
        "svm-shuffled",
        "svm-500",
        *(
            f"alpha{kind}/lr-1e-5-seed-{seed}"
            for kind in ("", "-shuffled", "-500")
            for seed in (3, 4)
        ),
        "layers-0/lr-1e-3-seed-5",
        "layers-0-shuffled/lr-1e-3-seed-5",
    }
    lines = [shlex.split(line) for line in (paper / "runs.txt").read_text().splitlines()]
    searched = {tuple(Path(line[1]).parts[-2:]) for line in lines}
    assert ("alpha-500", "lr-4e-5-seed-3") in searched
    assert ("alpha-500", "lr-2e-5-seed-3") not in searched
    assert ("alpha", "lr-4e-5-seed-3") not in searched
    arguments = {Path(line[1]).parent.name: line for line in lines}
    assert "query: " in arguments["alpha"] and "query: " not in arguments["layers-0"]
    assert "--max_train_samples" in arguments["alpha-500"]
    shuffled = str(paper / "data-shuffled-alpha")
    assert shuffled in arguments["alpha-shuffled"] and shuffled not in arguments["alpha-500"]
    commands = "\n".join(calls(tmp_path)) + "\n"
    cut = "--tokenizer_name user/alpha --max_seq_length 64 --text_prefix query: \n"
    assert f"data-shuffled-alpha {cut}" in commands
    assert "data-shuffled-layers-0 --tokenizer_name user/alpha --max_seq_length 256\n" in commands
    assert "data-shuffled\n" in commands  # the SVM reads whole texts
    for name in (
        "",
        "-log-loss",
        "-order-svm",
        "-order-alpha",
        "-order-layers-0",
        "-size-500",
    ):
        assert (paper / f"comparison{name}" / "comparison.json").exists()
    assert commands.count("compare_runs.py") == commands.count("--margin 1") == 6
    baselines = [call for call in calls(tmp_path) if call.startswith("run_baseline.py")]
    (calibrated,) = [call for call in baselines if "--calibrate" in call]
    assert f"--output_dir {paper}/svm-calibrated " in calibrated
    comparisons = [call for call in calls(tmp_path) if call.startswith("tools/compare_runs.py")]
    (log_loss,) = [call for call in comparisons if "/comparison-log-loss" in call]
    assert f"--reference {paper}/svm-calibrated" in log_loss
    assert f" {paper}/svm " not in log_loss and "alpha/lr-1e-5-seed-4" in log_loss
    # All comparisons are corrected as one family.
    (family,) = [call for call in calls(tmp_path) if call.startswith("tools/correct_together.py")]
    assert family.count(f"{paper}/comparison") == 6
    assert (paper / "family" / "family.json").exists()
    (curve,) = [call for call in calls(tmp_path) if call.startswith("tools/plot_learning_curve.py")]
    assert curve.split("learning_curve.py ")[1].startswith(
        f"{paper}/comparison {paper}/comparison-size-500 --output_dir"
    )
    assert f"--learning_curve_dir {paper}/learning-curve" in commands
    assert (paper / "context-alpha" / "context.json").exists()
    order = [run for run, _ in events(tmp_path)]
    assert order.index("alpha-500/lr-1e-5-seed-4") < order.index("layers-0/lr-1e-3-seed-5")

    # Nothing is repeated, also without weights, until a flag changes.
    for path in paper.rglob("model.safetensors"):
        path.unlink()
    before = len(calls(tmp_path))
    run = paper / "alpha" / "lr-1e-5-seed-3"
    shutil.copytree(run, run.with_name(f"{run.name}.4242.tmp"))  # a copy that was interrupted
    assert finish(start(**queue)).returncode == 0
    again = calls(tmp_path)[before:]
    assert [call.split()[0] for call in again] == ["tools/make_report.py"]
    rows = [name for name in pd.read_csv(paper / "runs.csv")["run"] if name.startswith("alpha/")]
    assert rows == [f"alpha/lr-{run}" for run in ("1e-5-seed-3", "1e-5-seed-4", "2e-5-seed-3")]
    result = finish(start(**queue, CONTEXT_ARGUMENTS="--n_shuffles 1"))
    assert result.returncode == 2 and "context-alpha needs the weights of" in result.stderr
    # The record of a finished run is compared with its line.
    path = paper / "alpha" / "lr-2e-5-seed-3" / "run_arguments.json"
    path.write_text(path.read_text().replace("2e-5", "0.25"))
    result = finish(start("--train", **queue))
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "is a finished run with --learning_rate 0.25, not 2e-5" in result.stderr


def train_with(queue, flags):
    """Train the study's runs with these flags; returns the finished process."""
    return finish(start("--train", **queue | {"TRAIN_ARGUMENTS": flags}))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--gradient_accumulation_steps 2 --bf16", "with --weight_decay 0.1, not without it"),
        (
            "--weight_decay 0.1 --gradient_accumulation_steps 4 --bf16",
            "with --per_device_train_batch_size times --gradient_accumulation_steps 64, not 128",
        ),
        (
            "--weight_decay 0.1 --gradient_accumulation_steps 2 --drop_bad_rows",
            "without --drop_bad_rows, not with --drop_bad_rows true",
        ),
        ("--weight_decay 0.2 --gradient_accumulation_steps 2", "with --weight_decay 0.1, not 0.2"),
    ],
)
def test_finished_run_of_other_flags_is_refused(queue, tmp_path, flags, message):
    """All flags of its training count: removed and added ones, and the batch size."""
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5", "SEEDS": "1"}
    trained = "--weight_decay 0.1 --gradient_accumulation_steps 2 --bf16"
    assert train_with(queue, trained).returncode == 0
    before = calls(tmp_path)
    result = train_with(queue, flags)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"alpha/lr-1e-5-seed-1 is a finished run {message}; choose" in result.stderr
    assert calls(tmp_path) == before


def test_finished_run_of_the_same_flags_is_accepted(queue, tmp_path):
    """Also on another machine: other paths, precision and division of the batch."""
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5", "SEEDS": "1"}
    trained = "--weight_decay 0.1 --gradient_accumulation_steps 2 --bf16"
    assert train_with(queue, trained).returncode == 0
    before = calls(tmp_path)
    result = train_with(queue, trained)
    assert result.returncode == 0 and "notice" not in result.stdout
    queue["OUTPUT_DIR"] = queue["OUTPUT_DIR"].rename(tmp_path / "moved")
    result = train_with(
        queue | {"MODELS": f"{tmp_path}/alpha"},
        "--per_device_train_batch_size 64 --gradient_accumulation_steps 1 --weight_decay 1e-1 "
        "--disable_tqdm True",
    )
    assert result.returncode == 0, result.stderr
    assert "notice: finished runs in another precision are kept: 1, such as" in result.stdout
    assert calls(tmp_path) == before
    # A run that was moved here in its place has flags of its own, and only its record says which.
    run = queue["OUTPUT_DIR"] / "alpha" / "lr-1e-5-seed-1"
    (run / "train_results.json").write_text("{}")
    assert train_with(queue, "").returncode == 0


@pytest.mark.parametrize("sign", [" ", "="])
def test_flags_of_a_recipe_count(queue, tmp_path, sign):
    """A file of flags that was edited since the training is another line."""
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5", "SEEDS": "1"}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("weight_decay: 0.1\n")
    assert train_with(queue, f"--config{sign}{recipe}").returncode == 0
    recipe.write_text("# another comment\nweight_decay: 1.0e-1\n")
    result = train_with(queue, f"--config{sign}{recipe}")
    assert result.returncode == 0, result.stderr
    recipe.write_text("weight_decay: 0.2\n")
    result = train_with(queue, f"--config{sign}{recipe}")
    assert result.returncode == 2
    assert "is a finished run with --weight_decay 0.1, not 0.2; choose" in result.stderr
    for content in ("- weight_decay\n", "weight_decay: {\n"):
        recipe.write_text(content)
        result = train_with(queue, f"--config{sign}{recipe}")
        assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
        assert "error: cannot read" in result.stderr and "--config" in result.stderr
    recipe.unlink()
    result = train_with(queue, f"--config{sign}{recipe}")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"cannot read --config {recipe}: No such file" in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--gradient_accumulation_steps 2", "with --attention_dropout 0.0, not without it"),
        (
            "--attention_dropout 0 --gradient_accumulation_steps 4",
            "with a batch size of 64 in all, not 128",
        ),
        ("--attention_dropout 0 --gradient_accumulation_steps 2 --fp16", None),
        ("--attention_dropout 0", None),  # the data decides on the batch size
    ],
)
def test_record_of_a_run_from_elsewhere_is_compared(queue, flags, message):
    run = queue["OUTPUT_DIR"] / "alpha" / "lr-1e-5-seed-1"
    run.mkdir(parents=True)
    for name in ("train", "eval", "predict"):
        (run / f"{name}_results.json").write_text('{"eval_loss": 0.1, "eval_runtime": 1}')
    record = {
        "script": "run_classification.py",
        "arguments": {"seed": 1, "num_train_epochs": 10.0, "attention_dropout": 0.0},
        "total_train_batch_size": 64,
        "processes": 1,
        "device": "cpu",
        "precision": "bf16",
    }
    (run / "run_arguments.json").write_text(json.dumps(record))
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5", "SEEDS": "1"}
    result = train_with(queue, flags)
    if message is None:
        assert result.returncode == 0, result.stderr
        assert ("(bf16, now fp16)" in result.stdout) == ("--fp16" in flags)
    else:
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert f"alpha/lr-1e-5-seed-1 is a finished run {message}; choose" in result.stderr


def test_defaults_that_finished_runs_are_compared_with_are_those_of_the_scripts():
    """tools/check_finished.py does not import the scripts, which takes seconds."""
    import check_finished
    import run_baseline
    import run_classification

    table = check_finished.DEFAULTS
    defaults = {"eval_strategy": "epoch", "save_strategy": "epoch", "use_cpu": True}
    defaults = run_classification.STUDY_DEFAULTS | defaults
    defaults["gradient_accumulation_steps"] = 1
    training = run_classification.TrainingArguments(output_dir="run", **defaults)
    data = run_classification.DataArguments(dataset_name="data")
    model = run_classification.ModelArguments(model_name_or_path="model")
    for flag, default in table["run_classification.py"].items():
        (holder,) = [part for part in (training, data, model) if hasattr(part, flag)]
        assert getattr(holder, flag) == default, flag
    baseline = run_baseline.BaselineArguments(output_dir="svm")
    data = run_baseline.DataArguments(dataset_name="data")
    for flag, default in table["run_baseline.py"].items():
        (holder,) = [part for part in (baseline, data) if hasattr(part, flag)]
        assert getattr(holder, flag) == default, flag
    batch = run_classification.STUDY_DEFAULTS["per_device_train_batch_size"]
    assert check_finished.documents_in_a_step({"gradient_accumulation_steps": ["2"]}) == 2 * batch


def contents(folder):
    """The bytes of each file in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            {"SHALLOW": "0", "SHALLOW_EMBEDDINGS": "--init_embeddings_from A"},
            {
                "SHALLOW": "0",
                "SHALLOW_EMBEDDINGS": "--init_embeddings_from B",
                "MODELS": "gamma alpha",
            },
            "layers-0/lr-1e-3-seed-1 is a run on a network made with --init_embeddings_from A, "
            "not B",
        ),
        (
            {"SHALLOW": "0"},
            {"SHALLOW": "0", "MODELS": "gamma alpha"},
            "layers-0/lr-1e-3-seed-1 is a run on a network made with --tokenizer_name alpha, not "
            "gamma",
        ),
        (
            {"SHUFFLED": "1"},
            {"SHUFFLED": "1", "SHUFFLE_ARGUMENTS": "--seed 9"},
            "alpha-shuffled/lr-1e-5-seed-1 is a run on data made with --seed 1, not 9",
        ),
        (
            {"DATASET": "", "FETCH_ARGUMENTS": "--seed 1"},
            {"DATASET": "", "FETCH_ARGUMENTS": ""},
            "alpha/lr-1e-5-seed-1 is a run on data made with --seed 1, not without it",
        ),
    ],
)
def test_networks_and_data_under_finished_runs_are_not_made_otherwise(
    queue, tmp_path, first, second, message
):
    """Also with one seed more, which would be pooled with those of another network."""
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5", "SHALLOW_LEARNING_RATES": "1e-3"}
    assert finish(start("--train", **queue | first | {"SEEDS": "1"})).returncode == 0
    calls_before = calls(tmp_path)
    before = contents(queue["OUTPUT_DIR"])
    result = finish(start("--train", **queue | second))
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"{message}; choose another OUTPUT_DIR" in result.stderr
    assert calls(tmp_path) == calls_before and contents(queue["OUTPUT_DIR"]) == before


def test_network_of_another_configuration_is_refused(queue, tmp_path):
    """The file in configs/shallow was edited since. Here the network's own copy is."""
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5", "SHALLOW_LEARNING_RATES": "1e-3"}
    queue |= {"SHALLOW": "0", "SEEDS": "1"}
    assert finish(start("--train", **queue)).returncode == 0
    before = calls(tmp_path)
    network = queue["OUTPUT_DIR"] / "models" / "seed-1" / "layers-0"
    config = json.loads((ROOT / "configs" / "shallow" / "layers-0.json").read_text())
    config |= {"architectures": ["EuroBertModel"], "vocab_size": 30522}
    (network / "config.json").write_text(json.dumps(config))
    assert finish(start("--train", **queue)).returncode == 0
    (network / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    result = finish(start("--train", **queue))
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "is a run on a network with hidden_size 64, and configs/shallow/" in result.stderr
    assert calls(tmp_path) == before


def test_refused_call_changes_no_file(queue, tmp_path):
    """Tasks of a job array that are pending train what the list said when they were submitted."""
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5 2e-5", "SEEDS": "1"}
    assert finish(start("--list", **queue)).returncode == 0
    assert finish(start("--run", 1, **queue)).returncode == 0
    before = contents(queue["OUTPUT_DIR"])
    result = finish(
        start("--list", **queue, TRAIN_ARGUMENTS="--weight_decay 0.5", SHALLOW_EMBEDDINGS="--x")
    )
    assert result.returncode == 2 and "not with --weight_decay 0.5; choose" in result.stderr
    assert contents(queue["OUTPUT_DIR"]) == before


def test_lines_of_the_list_keep_their_numbers(queue, tmp_path):
    """A run that the study has no more leaves an empty line, which a task skips."""
    queue |= {"MODELS": "alpha beta", "LEARNING_RATES": "1e-5 2e-5", "SEEDS": "1"}
    list_file = queue["OUTPUT_DIR"] / "runs.txt"
    assert finish(start("--list", **queue)).returncode == 0
    before = list_file.read_text().splitlines()
    result = finish(start("--list", **queue | {"LEARNING_RATES": "2e-5 3e-5"}))
    assert "runs.txt has 4 runs, 4 of them not finished" in result.stdout
    assert "--array=2,4,5,6 " in result.stdout
    lines = list_file.read_text().splitlines()
    assert lines[:4] == ["", before[1], "", before[3]]
    assert [shlex.split(line)[1].rsplit("/", 2)[1:] for line in lines[4:]] == [
        ["alpha", "lr-3e-5-seed-1"],
        ["beta", "lr-3e-5-seed-1"],
    ]
    result = finish(start("--run", 3, **queue))
    assert result.returncode == 0 and result.stdout.count("\n") == 1
    assert f"Line 3 of {list_file} is empty: its run is not part of the study" in result.stdout
    # A run that comes back gets another number, because the list may have been submitted.
    assert finish(start("--train", **queue)).returncode == 0
    lines = list_file.read_text().splitlines()
    assert lines[:6] == ["", before[1], "", before[3], "", ""] and lines[6] == before[0]
    # The list may be moved with its folder.
    moved = queue["OUTPUT_DIR"].rename(tmp_path / "moved")
    assert finish(start("--list", **queue | {"OUTPUT_DIR": moved})).returncode == 0
    text = (moved / "runs.txt").read_text()
    assert text.splitlines() == [
        line.replace(str(queue["OUTPUT_DIR"]), str(moved)).replace("'", "") for line in lines
    ]


def test_model_of_another_owner_is_another_model(queue):
    queue |= {"LEARNING_RATES": "1e-5", "SEEDS": "1"}
    assert finish(start("--train", **queue | {"MODELS": "google/bert"})).returncode == 0
    result = finish(start("--train", **queue | {"MODELS": "someone/bert"}))
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "with --model_name_or_path google/bert, not someone/bert; choose" in result.stderr
    result = finish(start("--train", **queue | {"MODELS": "google/bert", "DATASET": "other/data"}))
    assert result.returncode == 2 and "--dataset_name user/data, not other/data" in result.stderr
    # A copy in a folder
    assert finish(start("--train", **queue | {"MODELS": "/models/bert"})).returncode == 0


def test_kept_results_of_the_findings_are_accepted(queue, tmp_path):
    """They were trained in fp32 and in bf16; run_findings.sh goes on from them."""
    results = ROOT / "results" / "arxiv-dev"
    output = tmp_path / "findings"
    (output / "models" / "all-MiniLM-L6-v2").mkdir(parents=True)
    (output / "study.json").write_text('{"script": "run_paper.sh"}')
    for name in ("MODELS", "LEARNING_RATES", "SEEDS", "SHALLOW"):
        del queue[name]
    queue |= {"ENCODERS": "all-MiniLM-L6-v2", "ENCODER_SEEDS": "1", "OUTPUT_DIR": output}
    queue["RESULTS"] = results
    queue["LAUNCH"] = "python"  # no launcher chooses a precision, whatever this processor has
    result = finish(start("--list", script=ROOT / "run_findings.sh", **queue))
    assert result.returncode == 0, result.stderr
    assert "notice: finished runs in another precision are kept" in result.stdout
    for run in results.glob("predictions/*/lr-*"):
        assert f"{run.parent.name}/{run.name} is finished" in result.stdout
    queue["NUM_TRAIN_EPOCHS"] = "3"
    result = finish(start("--list", script=ROOT / "run_findings.sh", **queue))
    assert result.returncode == 2 and "with --num_train_epochs 4.0, not 3" in result.stderr


@pytest.mark.parametrize(
    "flag", ["--max_seq_length 64", "--max-seq-length 64", "--max-seq-length=64"]
)
def test_flags_of_runs_from_elsewhere_are_compared_in_either_spelling(queue, tmp_path, flag):
    run = queue["OUTPUT_DIR"] / "alpha" / "lr-1e-5-seed-1"
    run.mkdir(parents=True)
    for name in ("train", "eval", "predict"):
        (run / f"{name}_results.json").write_text('{"eval_loss": 0.1, "eval_runtime": 1}')
    (run / "run_arguments.json").write_text('{"arguments": {"seed": 1, "max_seq_length": 256}}')
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5", "SEEDS": "1"}
    result = train_with(queue, flag)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "with --max_seq_length 256, not 64; choose another OUTPUT_DIR" in result.stderr


def test_a_flag_in_another_spelling_is_the_same_flag(queue):
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5", "SEEDS": "1"}
    assert train_with(queue, "--weight_decay 0.1").returncode == 0
    assert train_with(queue, "--weight-decay 1e-1").returncode == 0


def test_runs_from_elsewhere_are_finished(queue, tmp_path):
    """Only their small files are here, before the first call."""
    run = queue["OUTPUT_DIR"] / "alpha" / "lr-1e-5-seed-1"
    run.mkdir(parents=True)
    for name in ("train", "eval", "predict"):
        (run / f"{name}_results.json").write_text('{"eval_loss": 0.1, "eval_runtime": 1}')
    (run / "run_arguments.json").write_text('{"arguments": {"seed": 1}}')
    (run / "predictions.csv").touch()
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5", "SEEDS": "1"}
    assert finish(start("--train", **queue)).returncode == 0
    assert not (tmp_path / "events.txt").exists()
    # Another one's folder is left alone.
    for name in ("report", "logs"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    result = finish(start("--train", **queue | {"OUTPUT_DIR": tmp_path / "mine"}))
    assert result.returncode == 2 and "which run_paper.sh did not write" in result.stderr
    assert sorted(path.name for path in (tmp_path / "mine").rglob("*")) == ["logs", "report"]


def finished_run(folder, fingerprints, **arguments):
    """Make a folder with the small files of a finished run; return its line of the plan."""
    folder.mkdir(parents=True)
    (folder / "eval_results.json").write_text("{}")
    record = {"arguments": arguments, "data_fingerprints": fingerprints}
    (folder / "run_arguments.json").write_text(json.dumps(record))
    return f"--output_dir {folder} --dataset_name data --do_eval\n"


def test_rows_of_finished_runs_may_differ_by_their_flags(run, tmp_path, monkeypatch):
    """Fewer validation documents, or another order of the training documents for each seed."""
    lines = [
        finished_run(tmp_path / "svm", {"train": "a", "validation": "b"}),
        finished_run(tmp_path / "m" / "few", {"validation": "c"}, max_eval_samples=5),
    ]
    for seed in (1, 2):
        order = {"shuffle_train_dataset": True, "seed": seed}
        lines.append(finished_run(tmp_path / "m" / f"seed-{seed}", {"train": f"{seed}"}, **order))
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(lines)))
    result = run("check_finished", "--output_dir", tmp_path)
    assert result.code == 0, result.err
    lines.append(finished_run(tmp_path / "m" / "other", {"validation": "d"}, max_eval_samples=5))
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(lines)))
    result = run("check_finished", "--output_dir", tmp_path)
    assert_user_error(result, "runs of different data (validation split)")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_stops_the_workers_and_the_next_call_continues(queue, tmp_path, number):
    process = start("--train", **queue, WORKERS=2, HANG="lr-")
    wait_for(lambda: (tmp_path / "events.txt").exists() and len(events(tmp_path)) == 2)
    begun = time.monotonic()
    process.send_signal(number)
    assert finish(process).returncode != 0  # also waits for the workers, which hold the pipes
    assert time.monotonic() - begun < 60
    assert finish(start("--train", **queue, WORKERS=2)).returncode == 0
    assert len(events(tmp_path)) == 2 + 10


def test_run_that_another_process_trains_is_not_trained_twice(queue, tmp_path):
    processes = [start("--train", **queue, WORKERS=2) for _ in range(2)]
    assert [finish(process).returncode for process in processes] == [0, 0]
    started = [run for run, _ in events(tmp_path)]
    assert len(started) == 10 and started.count("alpha/lr-1e-5-seed-1") == 2  # training, prediction


def test_list_of_the_study(queue, tmp_path):
    for name in ("MODELS", "LEARNING_RATES", "SEEDS", "SHALLOW"):
        del queue[name]
    queue["OUTPUT_DIR"] = tmp_path / "paper"
    result = finish(start("--list", **queue))
    assert result.returncode == 0, result.stderr
    lines = [
        shlex.split(line) for line in (tmp_path / "paper" / "runs.txt").read_text().splitlines()
    ]
    recipes = {path.stem for path in (ROOT / "configs/recipes").glob("*.yaml")} - {
        "ModernBERT-large"
    }
    recipes.remove("granite-embedding-small-english-r2")
    assert {Path(line[3]).stem for line in lines if line[2] == "--config"} == recipes
    rates = {}
    for line in lines:
        rates.setdefault(Path(line[1]).parent.name, []).append(
            line[line.index("--learning_rate") + 1]
        )
        assert Path(line[1]).name == f"lr-{rates[Path(line[1]).parent.name][-1]}-seed-42"
    assert rates.pop("layers-0") == ["5e-4", "1e-3", "3e-3"]
    assert rates == {name: ["1e-5", "2e-5", "3e-5", "5e-5"] for name in recipes}
    assert f"--array={','.join(map(str, range(1, 32)))} configs/slurm/runs.sbatch" in result.stdout


def test_job_array(queue, tmp_path):
    """The tasks of both arrays as Slurm starts them; near its time limit, one requeues itself."""
    task = {
        "script": ROOT / "configs/slurm/runs.sbatch",
        "SLURM_ARRAY_JOB_ID": 5,
        "SLURM_CPUS_PER_TASK": 3,
    }
    for expected in ("1,2,3,4,5,6", "7,8,9,10"):
        result = finish(start("--list", **queue))
        (array,) = re.findall(r"sbatch --array=(\S+) configs/slurm/runs.sbatch", result.stdout)
        assert array == expected
        for number in array.split(","):
            assert finish(start(**queue, **task, SLURM_ARRAY_TASK_ID=number)).returncode == 0
    assert len(events(tmp_path)) == 10
    assert (
        finish(start(**queue, **task, SLURM_ARRAY_TASK_ID=4)).returncode == 0
    )  # finished: nothing to do
    assert len(events(tmp_path)) == 10
    result = finish(start("--list", **queue))
    assert "0 of them not finished" in result.stdout and "next: bash run_paper.sh" in result.stdout

    queue["OUTPUT_DIR"] = tmp_path / "second"
    finish(start("--list", **queue))
    result = finish(start(**queue, **task, SLURM_ARRAY_TASK_ID=2, FAIL="lr-2e-5"))
    assert (
        result.returncode != 0
        and "Run 2 failed: alpha/lr-2e-5-seed-1 (error: it must fail" in result.stderr
    )
    script(tmp_path, "scontrol", f'echo "$*" > {tmp_path}/requeued')
    process = start(**queue, **task, SLURM_ARRAY_TASK_ID=3, HANG="lr-3e-5")
    wait_for(lambda: events(tmp_path)[-1][0] == "alpha/lr-3e-5-seed-1")
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: (tmp_path / "requeued").exists())
    assert (tmp_path / "requeued").read_text() == "requeue 5_3\n"
    os.killpg(process.pid, signal.SIGTERM)  # as Slurm ends a task before it starts it again
    assert finish(process).returncode != 0
    assert finish(start(**queue, **task, SLURM_ARRAY_TASK_ID=3)).returncode == 0
    assert events(tmp_path, "end")[-1][0] == "alpha/lr-3e-5-seed-1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--list", "3"), ["--list 3", "--run N"]),
        (("--run",), ["--run"]),
        (("--run", "x"), ["--run takes the number of a line", "x"]),
        (("--run", "7"), ["runs.txt has no line 7"]),
        (("--train", "WORKERS=0"), ["WORKERS must be a positive integer", "0"]),
        (("--train", "MODELS=alpha user/alpha"), ["two models are called alpha"]),
        (("--train", "MODELS=alpha /"), ["cannot name a folder after the model '/'"]),
        (("--train", "MODELS=user/data"), ["cannot be called data"]),
        (("--train", "MODELS=user/family"), ["cannot be called family"]),
        (("--train", "LEARNING_RATES=1e-5 fast"), ["a learning rate of alpha is 'fast'"]),
        (("--train", "SEEDS=1 -2"), ["a seed of alpha is '-2'"]),
        (("--train", "SIZES=all"), ["SIZES has 'all'"]),
        (("--train", "SIZES=5", "SIZE_MODELS=gamma"), ["SIZE_MODELS has gamma"]),
        (("--train", "SIZE_MODELS=alpha"), ["SIZE_MODELS is set, but", "without SIZES"]),
        (("--train", "SIZE_SEEDS=1"), ["SIZE_SEEDS is set, but", "without SIZES"]),
        (("--train", "SIZE_LEARNING_RATES=1"), ["SIZE_LEARNING_RATES is set", "without SIZES"]),
        (
            ("--train", "SIZES=5", "SIZE_LEARNING_RATES=high"),
            ["a learning rate of SIZE_LEARNING_RATES is 'high'"],
        ),
        (("--train", "SIZE_ARGUMENTS=--x"), ["SIZE_ARGUMENTS is set, but", "without SIZES"]),
        (("--train", "SHUFFLE_ARGUMENTS=--seed 9"), ["SHUFFLE_ARGUMENTS is set", "SHUFFLED=1"]),
        (("--train", "FETCH_ARGUMENTS=--seed 1"), ["FETCH_ARGUMENTS is set", "DATASET"]),
        (
            ("--train", "EXPLAIN=", "ATTRIBUTION_ARGUMENTS=--max_samples 3"),
            ["ATTRIBUTION_ARGUMENTS is set", "EXPLAIN"],
        ),
        (
            ("--train", "EXPLAIN=", "CONTEXT_ARGUMENTS=--n_phrases 0"),
            ["CONTEXT_ARGUMENTS is set", "EXPLAIN"],
        ),
        (
            ("--train", "FAITHFULNESS_SAMPLES=0", "FAITHFULNESS_ARGUMENTS=--n_mosaics 3"),
            ["FAITHFULNESS_ARGUMENTS is set", "FAITHFULNESS_SAMPLES=0"],
        ),
        (("--train", "FAITHFULNESS_SAMPLES=all"), ["FAITHFULNESS_SAMPLES must be a number", "all"]),
        (("--train", "SHUFFLED=0"), ["SHUFFLED must be 1 or empty, not '0'"]),
        (
            ("--train", "MODELS=e5-large-v2", "TRAIN_ARGUMENTS=--config=mine.yaml"),
            ["the flags of e5-large-v2 have a --config", "configs/recipes/e5-large-v2.yaml"],
        ),
        (("--train", "CALIBRATED=no"), ["CALIBRATED must be 1 or empty, not 'no'"]),
        (("--train", "EXPLAIN=gamma"), ["EXPLAIN has gamma"]),
        (("--train", "SHALLOW=9"), ["SHALLOW has 9", "configs/shallow/layers-9.json"]),
        (("--train", "MODELS_FILE=models.txt"), ["give either MODELS_FILE or MODELS and SHALLOW"]),
        (("--train", "TRAIN_ARGUMENTS=--text_prefix it's"), ["a quote is not closed in", "it's"]),
        (
            ("--train", "LEARNING_RATES=5e-5 0.00005"),
            ["the learning rates of alpha has 5e-5 and 0"],
        ),
        (("--train", "LEARNING_RATES=1.2.3"), ["a learning rate of alpha is '1.2.3'"]),
        (("--train", "LEARNING_RATES= "), ["alpha has no learning rates", "LEARNING_RATES"]),
        (("--train", "SEEDS= "), ["alpha has no seeds", "SEEDS"]),
        (("--train", "SEEDS=1 2 01"), ["the seeds of alpha has 1 and 01; give each once"]),
        (("--train", "SIZES=500 500"), ["SIZES has 500 and 500; give each once"]),
        (("--train", "SIZES=5", "SIZE_SEEDS=1 1"), ["the seeds of SIZE_SEEDS has 1 and 1"]),
        (("--train", "SIZES=5", "SIZE_SEEDS=x"), ["a seed of SIZE_SEEDS is 'x'"]),
        (("--train", "MODELS= "), ["MODELS and SHALLOW are empty"]),
        (("--train", "EXPLAIN=default alpha"), ["EXPLAIN has default"]),
        (("--train", "TRAIN_ARGUMENTS=--learning_rate=1e-3"), ["set LEARNING_RATES instead"]),
        (("--train", "TRAIN_ARGUMENTS=--learning-rate 1"), ["set LEARNING_RATES instead"]),
        (("--train", "TRAIN_ARGUMENTS=--bf16 --seed 5"), ["TRAIN_ARGUMENTS has --seed", "SEEDS"]),
        (("--train", "TRAIN_ARGUMENTS=--output_dir x"), ["set OUTPUT_DIR instead"]),
        (("--train", "TRAIN_ARGUMENTS=--do_predict"), ["--do_predict", "remove it"]),
        (("--train", "SVM_ARGUMENTS=--output_dir x"), ["SVM_ARGUMENTS has --output_dir"]),
        (
            ("--train", "COMPARE_ARGUMENTS=--margin 1 --fail-if-worse svm"),
            ["COMPARE_ARGUMENTS has --fail_if_worse", "tools/compare_runs.py"],
        ),
        (
            ("--train", "SIZES=5", "SIZE_ARGUMENTS=--max_train_samples 5"),
            ["set SIZES instead"],
        ),
        (
            ("--train", "SHUFFLED=1", "TRAIN_ARGUMENTS=--bf16 --max_seq_length"),
            ["--max_seq_length has no value in: --bf16 --max_seq_length"],
        ),
    ],
)
def test_mistakes_are_one_line(queue, arguments, words, tmp_path):
    paper = queue["OUTPUT_DIR"]
    (paper / "logs").mkdir(parents=True)
    (paper / "runs.txt").write_text("--output_dir x --do_predict\n")
    (paper / "study.json").write_text('{"script": "run_paper.sh"}\n')
    settings = dict(word.split("=", 1) for word in arguments if "=" in word)
    result = finish(start(*(word for word in arguments if "=" not in word), **queue | settings))
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in ["error: ", *words])
    assert (paper / "runs.txt").read_text() == "--output_dir x --do_predict\n"


@pytest.mark.parametrize("character", ["\t", "\n"])
def test_folder_with_a_tab_or_line_break_is_refused(queue, tmp_path, character):
    queue["OUTPUT_DIR"] = tmp_path / f"a{character}b"
    result = finish(start("--list", **queue))
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "OUTPUT_DIR has a tab or a line break" in result.stderr
    assert not queue["OUTPUT_DIR"].exists()


def test_blanks_around_words_do_not_count(queue):
    queue |= {"MODELS": "\n alpha ", "LEARNING_RATES": " 1e-5\n", "SEEDS": "\n1\t2"}
    assert finish(start("--train", **queue)).returncode == 0
    runs = sorted(path.name for path in (queue["OUTPUT_DIR"] / "alpha").glob("*/"))
    assert runs == ["lr-1e-5-seed-1", "lr-1e-5-seed-2"]


def test_changed_flags_are_noticed_in_the_c_locale(queue, tmp_path):
    """bash quotes other characters there as no other program reads them."""
    queue |= {"OUTPUT_DIR": tmp_path / "é it's", "LC_ALL": "C", "MODELS": "alpha"}
    queue |= {"LEARNING_RATES": "1e-5", "SEEDS": "1"}
    flags = "--text_prefix 'é: '"
    assert train_with(queue, flags).returncode == 0
    assert train_with(queue, flags).returncode == 0
    result = train_with(queue, "--text_prefix 'è: '")
    assert result.returncode == 2 and "with --text_prefix é: , not è: ; choose" in result.stderr
    (line,) = {*(queue["OUTPUT_DIR"] / "runs.txt").read_text().splitlines()[:1]}
    assert shlex.split(line)[1] == f"{tmp_path}/é it's/alpha/lr-1e-5-seed-1"
    words = subprocess.run(["xargs", "printf", "%s\n"], input=line, text=True, capture_output=True)
    assert words.stdout.splitlines() == shlex.split(line)


def test_paths_are_relative_to_the_folder_of_the_caller(queue, tmp_path):
    """Folders that CDPATH leads to do not count."""
    mine = tmp_path / "mine"
    for name in ("data", "models/alpha", f"elsewhere/{ROOT.name}", "elsewhere/data"):
        (mine / name).mkdir(parents=True)
    (mine / "data" / "rows.csv").write_text("1")
    (mine / "models.txt").write_text("models/alpha | 1e-5 | 1 |\n")
    del queue["MODELS"], queue["SHALLOW"]
    queue |= {"OUTPUT_DIR": "-out", "DATASET": "data", "MODELS_FILE": "models.txt"}
    script = os.path.relpath(ROOT / "run_paper.sh", mine)
    result = finish(start("--list", script=script, cwd=mine, **queue, CDPATH=mine / "elsewhere"))
    assert result.returncode == 0, result.stderr
    words = shlex.split((mine / "-out" / "runs.txt").read_text())
    assert words[:6] == [
        "--output_dir",
        f"{mine}/-out/alpha/lr-1e-5-seed-1",
        "--model_name_or_path",
        f"{mine}/models/alpha",
        "--dataset_name",
        f"{mine}/data",
    ]
    (mine / "data" / "rows.csv").write_text("2")
    result = finish(start("--list", script=script, cwd=mine, **queue))
    assert result.returncode == 2 and "has other data than the runs in" in result.stderr


def test_model_whose_name_begins_like_a_file_of_the_study(queue):
    queue |= {"MODELS": "facebook/data2vec-text-base user/context svmlike reporter"}
    assert finish(start("--list", **queue)).returncode == 0


def test_reason_of_a_failure_is_that_of_the_last_start(queue, tmp_path):
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5", "SEEDS": "1"}
    result = finish(start("--train", **queue, FAIL="lr-1e-5"))
    assert "(error: it must fail; log: " in result.stderr
    (tmp_path / "killed.sh").write_text("kill -KILL $$\n")
    queue["LAUNCH"] = f"bash {tmp_path}/killed.sh"
    result = finish(start("--train", **queue))
    assert "(exit status 137; log: " in result.stderr and "must fail" not in result.stderr


@pytest.mark.parametrize("link", ["", "alpha", "alpha/lr-1e-5-seed-1"])
def test_checkpoints_of_runs_from_elsewhere_stay(queue, tmp_path, link):
    """Also behind a link to a run or to the runs of a model. It is only predicted with here."""
    run = queue["OUTPUT_DIR"] / "alpha" / "lr-1e-5-seed-1"
    queue |= {"MODELS": "alpha", "LEARNING_RATES": "1e-5", "SEEDS": "1"}
    run.mkdir(parents=True)
    (run / "checkpoint-7").mkdir()
    for name in ("train", "eval"):
        (run / f"{name}_results.json").write_text('{"eval_loss": 0.1, "eval_runtime": 1}')
    (run / "run_arguments.json").write_text('{"arguments": {"seed": 1}}')
    (run / "model.safetensors").touch()
    if link:
        folder = queue["OUTPUT_DIR"] / link
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        (queue["OUTPUT_DIR"] / "study.json").write_text('{"script": "run_paper.sh"}')
        (queue["OUTPUT_DIR"] / "logs").mkdir()
        (queue["OUTPUT_DIR"] / "logs" / "alpha-lr-1e-5-seed-1.log.started").touch()
    assert finish(start("--train", **queue)).returncode == 0
    assert "--do_predict" in calls(tmp_path)[0]
    assert (run / "predict_results.json").exists() and (run / "checkpoint-7").exists()


def test_shuffled_texts_are_cut_where_the_model_stops_reading(queue, tmp_path):
    """Its length and its prefix come from flags in either form, or from the recipe."""
    queue |= {"MODELS": "alpha e5-large-v2", "SHUFFLED": "1"}
    result = finish(start("--list", **queue, TRAIN_ARGUMENTS="--max_seq_length=64"))
    assert result.returncode == 0, result.stderr
    alpha, e5 = [call for call in calls(tmp_path) if "--max_seq_length" in call]
    assert alpha.endswith("--tokenizer_name alpha --max_seq_length 64")
    assert e5.endswith(
        "--tokenizer_name intfloat/e5-large-v2 --max_seq_length 64 --text_prefix query: "
    )
    # Shallow networks alone have the tokenizer that is named.
    (tmp_path / "models.txt").write_text("layers-0 | | |\n")
    del queue["MODELS"], queue["SHALLOW"]
    queue |= {"MODELS_FILE": tmp_path / "models.txt", "OUTPUT_DIR": tmp_path / "second"}
    result = finish(start("--list", **queue, SHALLOW_EMBEDDINGS="--tokenizer_name=T"))
    assert result.returncode == 0, result.stderr
    (call,) = [call for call in calls(tmp_path)[3:] if "--max_seq_length" in call]
    assert call.endswith("--tokenizer_name T --max_seq_length 256")
    # Copied embeddings are those of their own model's tokens, whatever the encoders are.
    (tmp_path / "models.txt").write_text("user/alpha | | |\nlayers-0 | | |\n")
    queue |= {"OUTPUT_DIR": tmp_path / "third", "SHUFFLED": ""}
    queue |= {"SHALLOW_EMBEDDINGS": "--init_embeddings_from user/beta"}
    result = finish(start("--list", **queue))
    assert result.returncode == 0, result.stderr
    call = [call for call in calls(tmp_path) if "make_model.py" in call][-1]
    assert "--tokenizer_name user/beta --init_embeddings_from user/beta" in call


def test_run_without_a_list(queue):
    result = finish(start("--run", "1", **queue))
    assert result.returncode == 2 and "bash run_paper.sh --list" in result.stderr
