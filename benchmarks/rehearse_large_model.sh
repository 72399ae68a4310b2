#!/usr/bin/env bash
# Rehearse a model of the study's size on a CPU: nothing in the chain may break at 335 million
# parameters. BERT-large's configuration with random weights is trained for one update of 512
# documents (32 at a time, 16 accumulated), killed while it saves, continued by the same command,
# evaluated on 64 documents, used for predictions, pushed to a Hub on loopback, and two of its
# decisions are attributed. The accuracy means nothing.
#   DATASET=data/arxiv TOKENIZER=sentence-transformers/all-MiniLM-L6-v2 \
#       bash benchmarks/rehearse_large_model.sh
# Environment variables: OUTPUT_DIR, OUTPUT_FILE, TRAIN_ARGUMENTS (such as: --bf16),
# ATTRIBUTION_ARGUMENTS, and SMALL=1 for a model of two layers that only tests this script.
#
# Writes seconds and peak memory of each step and the size of the run folder to
# benchmarks/results/large_model.json. With --bf16, on two cores whose processor multiplies it, it
# takes 14 minutes and 23 GB of memory.
set -euo pipefail
unset CDPATH                                  # with it, cd may lead elsewhere
caller=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source ./setup_env.sh
resolve_paths OUTPUT_DIR OUTPUT_FILE
resolve_existing DATASET TOKENIZER
DATASET=${DATASET:-data/arxiv}
TOKENIZER=${TOKENIZER:-sentence-transformers/all-MiniLM-L6-v2}
OUTPUT_DIR=${OUTPUT_DIR:-rehearsal}
OUTPUT_FILE=${OUTPUT_FILE:-benchmarks/results/large_model.json}
TRAIN_ARGUMENTS=${TRAIN_ARGUMENTS:-}
ATTRIBUTION_ARGUMENTS=${ATTRIBUTION_ARGUMENTS:-}
SMALL=${SMALL:-}
check_switch SMALL
refuse_flags TRAIN_ARGUMENTS "$TRAIN_ARGUMENTS" output_dir=OUTPUT_DIR dataset_name=DATASET \
    model_name_or_path=
split_into_words "$TRAIN_ARGUMENTS"
train_arguments=("${words[@]}")
refuse_flags ATTRIBUTION_ARGUMENTS "$ATTRIBUTION_ARGUMENTS" output_dir=OUTPUT_DIR \
    dataset_name=DATASET model_name_or_path=
split_into_words "$ATTRIBUTION_ARGUMENTS"
attribution_arguments=("${words[@]}")
set_up_environment
[ -x /usr/bin/time ] || fail "/usr/bin/time is not installed; it is GNU time, Debian's package time"
open_folder "$OUTPUT_DIR" rehearse_large_model.sh rehearsal.json
model=$OUTPUT_DIR/bert-large run=$OUTPUT_DIR/run steps=$OUTPUT_DIR/steps.tsv
: > "$steps"

# Measure a step. $1: its name, rest: the command
measure() {
    local name=$1 status=0
    shift
    time_step "$name" "$@" || status=$?
    [ "$status" = 0 ] || fail_step "$name" "failed with exit status $status"
    record_step "$name"
}

# $1: name of the step, rest: the command
time_step() {
    echo "$(date +%H:%M:%S) $1"
    /usr/bin/time --quiet -f '%e\t%M' -o "$OUTPUT_DIR/time" "${@:2}" > "$OUTPUT_DIR/$1.log" 2>&1
}

# $1: name of the step
record_step() {
    printf '%s\t%s\n' "$1" "$(tail -n 1 "$OUTPUT_DIR/time")" | tee -a "$steps"
}

# $1: name of the step, $2: what happened
fail_step() {
    tail -n 5 "$OUTPUT_DIR/$1.log" >&2
    fail "$1 $2; log: $OUTPUT_DIR/$1.log"
}

# 1. The model
layers=24 hidden=1024 heads=16
[ -z "$SMALL" ] || layers=2 hidden=64 heads=2
cat > "$OUTPUT_DIR/bert-large.json" <<JSON
{
  "model_type": "bert",
  "num_hidden_layers": $layers,
  "hidden_size": $hidden,
  "num_attention_heads": $heads,
  "intermediate_size": $((4 * hidden))
}
JSON
measure model python tools/make_model.py --config_name "$OUTPUT_DIR/bert-large.json" \
    --tokenizer_name "$TOKENIZER" --output_dir "$model"

# 2. One update of 512 documents, killed when the checkpoint is there, and continued
training=(python run_classification.py --model_name_or_path "$model" --dataset_name "$DATASET"
    --do_train --do_eval --max_train_samples 512 --max_eval_samples 64 --max_predict_samples 64
    --max_seq_length 256 --per_device_train_batch_size 32 --gradient_accumulation_steps 16
    --num_train_epochs 1 --learning_rate 2e-5 --disable_tqdm True --output_dir "$run"
    "${train_arguments[@]}")
# The process writes its id before it becomes the training.
rm -f "$OUTPUT_DIR/training.pid"
time_step training-killed \
    bash -c 'echo $$ > "$0" && exec "$@"' "$OUTPUT_DIR/training.pid" "${training[@]}" &
timed=$!
# An interruption stops it, too. As long as its parent lives, the id is its own.
trap '! kill -0 "$timed" 2> /dev/null || kill "$(cat "$OUTPUT_DIR/training.pid")"' EXIT
# The state is the last file of a checkpoint.
until [ -s "$OUTPUT_DIR/training.pid" ] && [ -e "$run/checkpoint-1/trainer_state.json" ]; do
    kill -0 "$timed" 2> /dev/null || fail_step training-killed "ended before its first checkpoint"
    sleep 0.1
done
kill -KILL "$(cat "$OUTPUT_DIR/training.pid")" 2> /dev/null ||
    fail_step training-killed "ended before it could be killed; choose an empty OUTPUT_DIR"
wait "$timed" || true                         # the status of a killed process
trap - EXIT
record_step training-killed
measure training-continued "${training[@]}"
grep -q '"epoch": 1.0' "$run/train_results.json" || fail "the continued training is not finished"

# 3. Predictions, by a process of their own, and the push
measure prediction python run_classification.py --model_name_or_path "$run" \
    --dataset_name "$DATASET" --max_predict_samples 64 --do_predict --output_dir "$run" \
    --disable_tqdm True
rm -f "$OUTPUT_DIR/hub.env"
python - "$OUTPUT_DIR/hub.env" <<'PYTHON' &
import sys, time
from pathlib import Path
sys.path.insert(0, "tests")
from hub_server import hub_server

file = Path(sys.argv[1])
with hub_server() as hub:
    variables = hub.environment(file.parent / "hub-cache")
    names = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_DISABLE_XET", "HF_TOKEN", "NO_PROXY")
    file.write_text("".join(f"{name}={variables[name]}\n" for name in names))
    while file.exists():
        time.sleep(0.1)
PYTHON
hub_process=$!
trap 'rm -f "$OUTPUT_DIR/hub.env"' EXIT       # the server ends when the file is gone
until [ -s "$OUTPUT_DIR/hub.env" ]; do
    kill -0 "$hub_process" 2> /dev/null || fail "the Hub on loopback did not start, see above"
    sleep 0.1
done
mapfile -t hub < "$OUTPUT_DIR/hub.env"
measure push env -u HF_HUB_OFFLINE "${hub[@]}" "${training[@]}" \
    --push_to_hub --hub_model_id tester/rehearsal
measure download env -u HF_HUB_OFFLINE "${hub[@]}" python - <<'PYTHON'
from huggingface_hub import HfApi

print([file.path for file in HfApi().list_repo_tree("tester/rehearsal")])
PYTHON
grep -q model.safetensors "$OUTPUT_DIR/download.log" || fail "the weights did not reach the Hub"
rm -f "$OUTPUT_DIR/hub.env"
wait

# 4. Two decisions
measure attribution python run_attribution.py --model_name_or_path "$run" \
    --dataset_name "$DATASET" --split test --max_samples 2 --output_dir "$OUTPUT_DIR/attribution" \
    --disable_tqdm "${attribution_arguments[@]}"

# 5. The record
call="bash benchmarks/rehearse_large_model.sh"
for variable in ATTRIBUTION_ARGUMENTS TRAIN_ARGUMENTS; do
    [ -z "${!variable}" ] || call="$variable=$(quote_words "${!variable}") $call"
done
python - "$OUTPUT_DIR" "$OUTPUT_FILE" "$DATASET" "${training[*]}" "$call" <<'PYTHON'
import csv, datetime, json, os, platform, sys
from importlib.metadata import version
from pathlib import Path

folder, file = Path(sys.argv[1]), Path(sys.argv[2])
run = folder / "run"
with (folder / "steps.tsv").open() as lines:
    steps = [
        {"step": name, "seconds": float(seconds), "peak_memory_gb": round(int(kb) * 1024 / 1e9, 2)}
        for name, seconds, kb in csv.reader(lines, delimiter="\t")
    ]
record = json.loads((run / "run_arguments.json").read_text())
results = json.loads((run / "all_results.json").read_text())
summary = json.loads((folder / "attribution" / "summary.json").read_text())
parameters = sum(
    os.path.getsize(path) for path in run.glob("model*.safetensors")
) / 4  # float32; the header is less than a thousandth
size = {path.name: path.stat().st_size for path in run.iterdir() if path.is_file()}
checkpoints = [path for path in run.rglob("checkpoint-*/*") if path.is_file()]
cpu = next(
    line.split(":", 1)[1].strip()
    for line in Path("/proc/cpuinfo").read_text().splitlines()
    if line.startswith("model name")
)
# The usual accounting for AdamW with fp16 autocast: weights, gradients and two moments in float32,
# and a copy of the weights in fp16. Activations of a layer by Korthikanti et al. 2022,
# arXiv 2205.05198, equation 2, with dropout and without recomputation.
config = json.loads((run / "config.json").read_text())
hidden, heads = config["hidden_size"], config["num_attention_heads"]
batch_size, length = 32, 256
layer_bytes = length * batch_size * hidden * (34 + 5 * heads * length / hidden)
weights_gb = parameters * (4 + 4 + 8 + 2) / 1e9
activations_gb = layer_bytes * config["num_hidden_layers"] / 1e9
content = {
    "date": datetime.date.today().isoformat(),
    "device": f"{os.cpu_count()} cores, {cpu}",
    "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")}
    | {"python": platform.python_version()},
    "command": sys.argv[5],
    "training_command": sys.argv[4]
    .replace(str(folder), "rehearsal")
    .replace(sys.argv[3], Path(sys.argv[3]).name),
    "parameters": round(parameters),
    "precision": record.get("precision"),
    "steps": steps,
    "run_folder_gb": round(sum(size.values()) / 1e9, 2),
    "checkpoint_gb": round(sum(path.stat().st_size for path in checkpoints) / 1e9, 2),
    "train_runtime": results.get("train_runtime"),
    "eval_runtime": results.get("eval_runtime"),
    "attribution": {
        key: summary.get(key) for key in ("documents", "gradient_evaluations", "seconds")
    },
    "estimate_fp16_on_24_gb": {
        "what": "an estimate by accounting, not a measurement",
        "weights_gradients_moments_gb": round(weights_gb, 2),
        "activations_gb": round(activations_gb, 2),
        "total_gb": round(weights_gb + activations_gb, 2),
    },
}
temporary = file.with_suffix(".tmp")
temporary.write_text(json.dumps(content, indent=1) + "\n")
os.replace(temporary, file)
print(f"Done: {file}")
PYTHON
