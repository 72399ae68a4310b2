#!/usr/bin/env bash
# The study in one command: fetch, baseline, seven encoders with several learning rates, a bag-of-embeddings classifier,
# table 2, figure 1, tests of context, and a page of it all. Completed steps are skipped, so call it again after an
# interruption. Environment variables override everything:
#   bash run_paper.sh
#   MODELS="bge-large-en-v1.5 prajjwal1/bert-tiny" LEARNING_RATES="2e-5 5e-5" SEEDS="1 2 3" bash run_paper.sh
#   DATASET=data/mine OUTPUT_DIR=runs/mine TRAIN_ARGUMENTS="--bf16" bash run_paper.sh
#   SHALLOW="0 1 2" bash run_paper.sh         shallow networks with 0, 1 and 2 layers
# Each GPU of the machine trains a run of its own. $OUTPUT_DIR/runs.txt lists the runs, for job arrays (configs/slurm) too:
#   bash run_paper.sh --list                  fetch the data, write the list and stop
#   bash run_paper.sh --run 3                 train the run in line 3 of the list, unless it is finished, and stop
#   bash run_paper.sh --train                 train all runs and stop; several machines with the same disk share the work
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
OUTPUT_DIR=${OUTPUT_DIR:-paper}
DATASET=${DATASET:-}                          # a dataset folder or Hub id; empty: fetch from arXiv into $OUTPUT_DIR/data
FETCH_ARGUMENTS=${FETCH_ARGUMENTS:-}          # such as: --source snapshot --snapshot_file arxiv-metadata-oai-snapshot.json
MODELS=${MODELS:-bert-large-cased e5-large-v2 bge-large-en-v1.5 gte-large mxbai-embed-large-v1 GIST-large-Embedding-v0 UAE-Large-V1}
LEARNING_RATES=${LEARNING_RATES:-1e-5 2e-5 3e-5 5e-5}
SEEDS=${SEEDS:-42}                            # the first chooses the learning rate, the others repeat it
WORKERS=${WORKERS:-${LAUNCH:+1}}              # runs at a time; default: number of GPUs, or 1 if LAUNCH is given
LAUNCH=${LAUNCH:-accelerate launch --config_file accelerate_config.yaml}   # several GPUs a run: configs/accelerate_multi_gpu.yaml
TRAIN_ARGUMENTS=${TRAIN_ARGUMENTS:-}          # more flags for run_classification.py
SHALLOW=${SHALLOW-0}                          # numbers of layers of shallow networks (configs/shallow); empty: none
SHALLOW_LEARNING_RATES=${SHALLOW_LEARNING_RATES:-5e-4 1e-3 3e-3}
SHALLOW_ARGUMENTS=${SHALLOW_ARGUMENTS:---gradient_accumulation_steps 1 --num_train_epochs 4}   # after TRAIN_ARGUMENTS
SHALLOW_EMBEDDINGS=${SHALLOW_EMBEDDINGS:-}    # such as: --init_embeddings_from sentence-transformers/all-MiniLM-L6-v2
ATTRIBUTION_ARGUMENTS=${ATTRIBUTION_ARGUMENTS:---max_samples 500}   # enough for words in 20 documents of a class
FAITHFULNESS_SAMPLES=${FAITHFULNESS_SAMPLES:-50}   # documents to measure faithfulness on; 0: none
CONTEXT_ARGUMENTS=${CONTEXT_ARGUMENTS:-}      # more flags for tools/measure_context.py
REPORT_ARGUMENTS=${REPORT_ARGUMENTS:-}        # more flags for tools/make_report.py
mode=${1:-}
list=$OUTPUT_DIR/runs.txt
fail() {
    echo "error: $*" >&2
    exit 2
}
case "$mode $#" in
    " 0" | "--list 1" | "--train 1" | "--run 2") ;;
    *) fail "unknown arguments: $*; give --list, --train, --run N or none" ;;
esac
source ./setup_env.sh
command -v flock > /dev/null || fail "flock is not installed; it is part of util-linux"
cores=$(getconf _NPROCESSORS_ONLN)
gpus=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null | grep -xE '[0-9]+' || true)}
gpus=(${gpus//,/ })
WORKERS=${WORKERS:-$((${#gpus[@]} > 1 ? ${#gpus[@]} : 1))}
[[ $WORKERS =~ ^[1-9][0-9]*$ ]] || fail "WORKERS must be a positive integer, not $WORKERS"

# Read line $1 of the list into run (arguments), folder, result (a file that a finished run has) and log.
read_run() {
    eval "run=($(sed -n "$1p" "$list"))"
    [ ${#run[@]} -gt 1 ] || fail "$list has no line $1"
    folder=${run[1]}
    result=$folder/eval_results.json
    [ "${run[-1]}" != --do_predict ] || result=$folder/predict_results.json
    log=$OUTPUT_DIR/logs/$(basename "$(dirname "$folder")")-$(basename "$folder").log
}

# Train the run in line $1 unless it is finished. The log is locked as long as this or the started process lives.
# $2: --nonblock to skip a run that another process trains, or empty to wait for that process
train() (
    read_run "$1"
    exec 9>> "$log"
    flock $2 9 || exit
    if [ ! -e "$result" ]; then
        echo "Run $1 of $(wc -l < "$list")${CUDA_VISIBLE_DEVICES:+ on GPU $CUDA_VISIBLE_DEVICES}: $folder"
        # accelerate launch gives a process one CPU thread by default
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > WORKERS ? cores / WORKERS : 1))}
        output=(1 2)
        [ "$WORKERS" = 1 ] || output=(9 9)
        if ! $LAUNCH run_classification.py "${run[@]}" >&"${output[0]}" 2>&"${output[1]}"; then
            echo "Run $1 failed: $folder" >&2
            exit 1
        fi
    fi
    rm -rf "$folder"/checkpoint-*             # the best model is in the run folder itself
)
if [ "$mode" = --run ]; then
    [ -e "$list" ] || fail "there is no $list; write it with: bash run_paper.sh --list"
    [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "--run takes the number of a line of $list, not $2"
    WORKERS=1
    train "$2" ""
    exit
fi

# 1. Data
if [ -z "$DATASET" ]; then
    DATASET=$OUTPUT_DIR/data
    [ -e "$DATASET/manifest.json" ] || python fetch_arxiv.py --output_dir "$DATASET" $FETCH_ARGUMENTS
fi

# 2. List of runs: encoders, and shallow networks with the tokenizer of the first of them
tokenizer=${MODELS%% *}
[ ! -e "configs/recipes/$tokenizer.yaml" ] || tokenizer=$(sed -n 's/^model_name_or_path: *//p' "configs/recipes/$tokenizer.yaml")
shallow=${SHALLOW:+$(printf 'layers-%s ' $SHALLOW)}
first_seed=${SEEDS%% *}

# Print a line of the list: the arguments of run_classification.py.
# $1: model (one of $shallow, the name of a file in configs/recipes, or a model), $2: learning rate, $3: seed, rest: flags
print_run() {
    local folder model=(--model_name_or_path "$1") more=""
    folder=$OUTPUT_DIR/$(basename "$1")/lr-$2-seed-$3
    [ ! -e "configs/recipes/$1.yaml" ] || model=(--config "configs/recipes/$1.yaml")
    if [[ " $shallow" == *" $1 "* ]]; then
        model=(--model_name_or_path "$OUTPUT_DIR/models/seed-$3/$1") more=$SHALLOW_ARGUMENTS
        [ -e "${model[1]}/tokenizer.json" ] || python tools/make_model.py --config_name "configs/shallow/$1.json" \
            --tokenizer_name "$tokenizer" $SHALLOW_EMBEDDINGS --seed "$3" --output_dir "${model[1]}" >&2
    fi
    if [ "${*: -1}" = --do_predict ] && [ -e "$folder/eval_results.json" ]; then
        set -- --output_dir "$folder" --model_name_or_path "$folder" --dataset_name "$DATASET" $TRAIN_ARGUMENTS --do_predict
    else
        set -- --output_dir "$folder" "${model[@]}" --dataset_name "$DATASET" $TRAIN_ARGUMENTS $more \
            --learning_rate "$2" --seed "$3" "${@:4}"
    fi
    printf '%q ' "${@:1:$#-1}"
    printf '%q\n' "${*: -1}"
}

# Print the learning rate with the lowest validation loss; the test split has not been looked at.
# $1: folder, rest: learning rates
best_rate() {
    python - "$1" "$first_seed" "${@:2}" <<'PYTHON'
import json, sys
from pathlib import Path
import pandas as pd
folder, seed, *rates = sys.argv[1:]
rows = []
for rate in rates:
    results = json.loads(Path(folder, f"lr-{rate}-seed-{seed}", "all_results.json").read_text())
    keys = ["eval_loss", "eval_accuracy", "eval_f1", "epoch", "train_runtime"]
    rows.append({"learning_rate": rate} | {key: results[key] for key in keys})
table = pd.DataFrame(rows).sort_values("eval_loss", kind="stable")
table.to_csv(Path(folder, "learning_rates.csv"), index=False)
print(table["learning_rate"].iloc[0])
PYTHON
}

# Write the list: all learning rates with the first seed and, once these are trained, the best one with all seeds.
write_list() (
    trained=1
    declare -A rates
    mkdir -p "$OUTPUT_DIR/logs"
    exec 9>> "$OUTPUT_DIR/logs/runs.lock"     # another machine may write the list, too
    flock 9
    {
        for model in $MODELS $shallow; do
            rates[$model]=$LEARNING_RATES
            [[ " $shallow" != *" $model "* ]] || rates[$model]=$SHALLOW_LEARNING_RATES
            for rate in ${rates[$model]}; do
                print_run "$model" "$rate" "$first_seed" --do_train --do_eval --do_predict false
                [ -e "$OUTPUT_DIR/$(basename "$model")/lr-$rate-seed-$first_seed/eval_results.json" ] || trained=0
            done
        done
        if [ $trained = 1 ]; then
            for model in $MODELS $shallow; do
                best=$(best_rate "$OUTPUT_DIR/$(basename "$model")" ${rates[$model]})
                for seed in $SEEDS; do
                    print_run "$model" "$best" "$seed" --do_train --do_eval --do_predict
                done
            done
        fi
    } > "$list.tmp"
    mv "$list.tmp" "$list"
)
if [ "$mode" = --list ]; then
    write_list
    unfinished=()
    for number in $(seq "$(wc -l < "$list")"); do
        read_run "$number"
        [ -e "$result" ] || unfinished+=("$number")
    done
    echo "$list has $(wc -l < "$list") runs, ${#unfinished[@]} of them not finished"
    next=$(IFS=,; echo "${unfinished[*]}")
    echo "next: ${next:+sbatch --array=$next configs/slurm/runs.sbatch, or }bash run_paper.sh"
    exit
fi

# 3. Training: each worker takes the first run that no other worker has taken
# $1: number of the worker, $2: folder of the runs that are taken
work() {
    [ "$WORKERS" = 1 ] || [ ${#gpus[@]} = 0 ] || export CUDA_VISIBLE_DEVICES=${gpus[$1 % ${#gpus[@]}]}
    for number in $(seq "$(wc -l < "$list")"); do
        ! mkdir "$2/$number" 2> /dev/null || train "$number" --nonblock || true
    done
}

# Train all runs of the list. If some fail, the others are trained before this exits with status 1.
train_list() {
    local taken number failed=()
    taken=$(mktemp -d)
    set -m                                    # a worker is a process group, which can be stopped as a whole
    for number in $(seq "$WORKERS"); do
        work "$number" "$taken" &
        workers+=($!)
    done
    set +m
    wait
    workers=()
    rm -r "$taken"
    for number in $(seq "$(wc -l < "$list")"); do
        read_run "$number"
        [ -e "$result" ] || flock "$log" true # another machine may be training it
        [ -e "$result" ] || failed+=("$folder")
    done
    if [ ${#failed[@]} != 0 ]; then
        echo "error: not finished: ${failed[*]}; the same command continues (logs: $OUTPUT_DIR/logs)" >&2
        exit 1
    fi
}
workers=()
trap 'for worker in "${workers[@]}"; do kill -- "-$worker" || true; done' EXIT
write_list
train_list                                    # all learning rates
write_list
train_list                                    # the best one with all seeds, and predictions
[ "$mode" != --train ] || exit 0

# 4. TF-IDF + linear SVM
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores}
[ -e "$OUTPUT_DIR/svm/predict_results.json" ] || python run_baseline.py --dataset_name "$DATASET" --output_dir "$OUTPUT_DIR/svm"

# 5. Table 2, with tests
encoders=() networks=()
for number in $(seq "$(wc -l < "$list")"); do
    read_run "$number"
    [[ $result == */predict_results.json ]] || continue
    if [[ " $shallow" == *" $(basename "$(dirname "$folder")") "* ]]; then networks+=("$folder"); else encoders+=("$folder"); fi
done
runs=("$OUTPUT_DIR/svm" "${encoders[@]}" "${networks[@]}")
categories=(--dataset_name "$DATASET")        # to find cross-listed documents; own data has no categories
! grep -qs '"script": "prepare_dataset.py"' "$DATASET/manifest.json" || categories=()
python tools/compare_runs.py "${runs[@]}" "${categories[@]}" --output_dir "$OUTPUT_DIR/comparison" --paper

# 6. Figure 1, from the encoder with the lowest validation loss, and the same of the shallow networks
best=$(python - "${encoders[@]}" <<'PYTHON'
import json, sys
from pathlib import Path
print(min(sys.argv[1:], key=lambda run: json.loads(Path(run, "eval_results.json").read_text())["eval_loss"]))
PYTHON
)
# $1: run, $2: folder
attribute() {
    [ -e "$2/summary.json" ] || $LAUNCH run_attribution.py --model_name_or_path "$1" --dataset_name "$DATASET" \
        --split test --output_dir "$2" $ATTRIBUTION_ARGUMENTS
    [ "$FAITHFULNESS_SAMPLES" = 0 ] || [ -e "$2/faithfulness.json" ] || python tools/measure_faithfulness.py \
        --attribution_dir "$2" --max_samples "$FAITHFULNESS_SAMPLES"
    [ -e "$2/attributions.html" ] || python tools/render_attributions.py --attribution_dir "$2"
}
attribute "$best" "$OUTPUT_DIR/attribution"
attributions=("$OUTPUT_DIR/attribution")
references=()
for run in "${networks[@]}"; do
    name=$(basename "$(dirname "$run")")
    [[ " ${references[*]} " != *"/$name/"* ]] || continue    # one seed of each
    references+=("$run")
    attribute "$run" "$OUTPUT_DIR/attribution-$name"
    attributions+=("$OUTPUT_DIR/attribution-$name")
done

# 7. Does it use context?
[ -e "$OUTPUT_DIR/context/context.json" ] || python tools/measure_context.py --model_name_or_path "$best" --dataset_name "$DATASET" \
    --output_dir "$OUTPUT_DIR/context" --compare "$OUTPUT_DIR/svm" "${references[@]}" \
    --attributions "${attributions[@]}" $CONTEXT_ARGUMENTS

# 8. The whole study as one page
python tools/make_report.py --output_dir "$OUTPUT_DIR/report" --dataset_name "$DATASET" --runs "${runs[@]}" \
    --comparison_dir "$OUTPUT_DIR/comparison" --attribution_dirs "${attributions[@]}" \
    --context_dir "$OUTPUT_DIR/context" $REPORT_ARGUMENTS
echo "Done: $OUTPUT_DIR/report/index.html, the whole study as one page (see also $OUTPUT_DIR/comparison/comparison.md," \
    "$OUTPUT_DIR/attribution/attributions.html, $OUTPUT_DIR/context/context.html)"
