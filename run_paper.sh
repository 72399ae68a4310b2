#!/usr/bin/env bash
# The study in one command: fetch, baseline, seven encoders with a learning rate each, table 2, figure 1.
# What is done is not done again: call it as often as you like. Everything can be overridden by environment variables:
#   bash run_paper.sh
#   MODELS="bge-large-en-v1.5 prajjwal1/bert-tiny" LEARNING_RATES="2e-5 5e-5" SEEDS="1 2 3" bash run_paper.sh
#   DATASET=data/mine OUTPUT_DIR=runs/mine TRAIN_ARGUMENTS="--bf16" bash run_paper.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
OUTPUT_DIR=${OUTPUT_DIR:-paper}
DATASET=${DATASET:-}                          # a dataset folder or Hub id; empty: fetch from arXiv into $OUTPUT_DIR/data
FETCH_ARGUMENTS=${FETCH_ARGUMENTS:-}          # such as: --source snapshot --snapshot_file arxiv-metadata-oai-snapshot.json
MODELS=${MODELS:-bert-large-cased e5-large-v2 bge-large-en-v1.5 gte-large mxbai-embed-large-v1 GIST-large-Embedding-v0 UAE-Large-V1}
LEARNING_RATES=${LEARNING_RATES:-1e-5 2e-5 3e-5 5e-5}
SEEDS=${SEEDS:-42}                            # the first chooses the learning rate, the others repeat the chosen one
LAUNCH=${LAUNCH:-accelerate launch --config_file accelerate_config.yaml}   # several GPUs: configs/accelerate_multi_gpu.yaml
TRAIN_ARGUMENTS=${TRAIN_ARGUMENTS:-}          # more flags for run_classification.py
ATTRIBUTION_ARGUMENTS=${ATTRIBUTION_ARGUMENTS:---max_samples 12}
source ./setup_env.sh
# accelerate launch gives a process one CPU thread unless this is set
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}

# 1. Data
if [ -z "$DATASET" ]; then
    DATASET=$OUTPUT_DIR/data
    [ -e "$DATASET/manifest.json" ] || python fetch_arxiv.py --output_dir "$DATASET" $FETCH_ARGUMENTS
fi

# 2. Counting words
[ -e "$OUTPUT_DIR/svm/predict_results.json" ] || python run_baseline.py --dataset_name "$DATASET" --output_dir "$OUTPUT_DIR/svm"

# 3. Encoders. $1: model (name of a file in configs/recipes, or a model), $2: learning rate, $3: seed, rest: more flags
classify() {
    local recipe=configs/recipes/$1.yaml
    [ -e "$recipe" ] || recipe="--model_name_or_path $1"
    $LAUNCH run_classification.py $recipe --dataset_name "$DATASET" $TRAIN_ARGUMENTS --learning_rate "$2" --seed "$3" \
        --output_dir "$OUTPUT_DIR/$(basename "$1")/lr-$2-seed-$3" "${@:4}"
}

runs=("$OUTPUT_DIR/svm")
for model in $MODELS; do
    name=$(basename "$model")
    first_seed=${SEEDS%% *}
    for rate in $LEARNING_RATES; do
        run=$OUTPUT_DIR/$name/lr-$rate-seed-$first_seed
        [ -e "$run/eval_results.json" ] || classify "$model" "$rate" "$first_seed" --do_train --do_eval --do_predict false
        rm -rf "$run"/checkpoint-*             # the best model is in the run folder itself
    done
    # The lowest validation loss decides; the test split has not been looked at.
    best=$(python - "$OUTPUT_DIR/$name" "$first_seed" $LEARNING_RATES <<'PYTHON'
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
)
    for seed in $SEEDS; do
        run=$OUTPUT_DIR/$name/lr-$best-seed-$seed
        if [ ! -e "$run/eval_results.json" ]; then
            classify "$model" "$best" "$seed" --do_train --do_eval --do_predict
        elif [ ! -e "$run/predict_results.json" ]; then
            classify "$model" "$best" "$seed" --do_train false --do_eval false --do_predict --model_name_or_path "$run"
        fi
        rm -rf "$run"/checkpoint-*
        runs+=("$run")
    done
done

# 4. Table 2, with tests
python compare_runs.py "${runs[@]}" --dataset_name "$DATASET" --output_dir "$OUTPUT_DIR/comparison" --paper

# 5. Figure 1, from the encoder with the lowest validation loss
best=$(python - "${runs[@]:1}" <<'PYTHON'
import json, sys
from pathlib import Path
print(min(sys.argv[1:], key=lambda run: json.loads(Path(run, "eval_results.json").read_text())["eval_loss"]))
PYTHON
)
[ -e "$OUTPUT_DIR/attribution/summary.json" ] || $LAUNCH run_attribution.py \
    --model_name_or_path "$best" --dataset_name "$DATASET" --split test --output_dir "$OUTPUT_DIR/attribution" $ATTRIBUTION_ARGUMENTS
echo "Done: $OUTPUT_DIR/comparison/comparison.md, $OUTPUT_DIR/attribution/attributions.html"
