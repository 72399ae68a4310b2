#!/usr/bin/env bash
# The study in one command: fetch, baseline, seven encoders with several learning rates, a bag-of-embeddings classifier,
# table 2, figure 1, tests of context, and a page of it all. Completed steps are skipped, so call it again after an
# interruption. Environment variables override everything:
#   bash run_paper.sh
#   MODELS="bge-large-en-v1.5 prajjwal1/bert-tiny" LEARNING_RATES="2e-5 5e-5" SEEDS="1 2 3" bash run_paper.sh
#   DATASET=data/mine OUTPUT_DIR=runs/mine TRAIN_ARGUMENTS="--bf16" bash run_paper.sh
#   SHALLOW="0 1 2" bash run_paper.sh         shallow networks with 0, 1 and 2 layers
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
OUTPUT_DIR=${OUTPUT_DIR:-paper}
DATASET=${DATASET:-}                          # a dataset folder or Hub id; empty: fetch from arXiv into $OUTPUT_DIR/data
FETCH_ARGUMENTS=${FETCH_ARGUMENTS:-}          # such as: --source snapshot --snapshot_file arxiv-metadata-oai-snapshot.json
MODELS=${MODELS:-bert-large-cased e5-large-v2 bge-large-en-v1.5 gte-large mxbai-embed-large-v1 GIST-large-Embedding-v0 UAE-Large-V1}
LEARNING_RATES=${LEARNING_RATES:-1e-5 2e-5 3e-5 5e-5}
SEEDS=${SEEDS:-42}                            # the first chooses the learning rate, the others repeat it
LAUNCH=${LAUNCH:-accelerate launch --config_file accelerate_config.yaml}   # several GPUs: configs/accelerate_multi_gpu.yaml
TRAIN_ARGUMENTS=${TRAIN_ARGUMENTS:-}          # more flags for run_classification.py
SHALLOW=${SHALLOW-0}                          # numbers of layers of shallow networks (configs/shallow); empty: none
SHALLOW_LEARNING_RATES=${SHALLOW_LEARNING_RATES:-1e-3 3e-3}
SHALLOW_ARGUMENTS=${SHALLOW_ARGUMENTS:---gradient_accumulation_steps 1 --num_train_epochs 4}   # after TRAIN_ARGUMENTS
SHALLOW_EMBEDDINGS=${SHALLOW_EMBEDDINGS:-}    # such as: --init_embeddings_from sentence-transformers/all-MiniLM-L6-v2
ATTRIBUTION_ARGUMENTS=${ATTRIBUTION_ARGUMENTS:---max_samples 500}   # enough for words in 20 documents of a class
FAITHFULNESS_SAMPLES=${FAITHFULNESS_SAMPLES:-50}   # documents to measure faithfulness on; 0: none
CONTEXT_ARGUMENTS=${CONTEXT_ARGUMENTS:-}      # more flags for tools/measure_context.py
REPORT_ARGUMENTS=${REPORT_ARGUMENTS:-}        # more flags for tools/make_report.py
source ./setup_env.sh
# accelerate launch gives a process one CPU thread by default
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}

# 1. Data
if [ -z "$DATASET" ]; then
    DATASET=$OUTPUT_DIR/data
    [ -e "$DATASET/manifest.json" ] || python fetch_arxiv.py --output_dir "$DATASET" $FETCH_ARGUMENTS
fi

# 2. TF-IDF + linear SVM
[ -e "$OUTPUT_DIR/svm/predict_results.json" ] || python run_baseline.py --dataset_name "$DATASET" --output_dir "$OUTPUT_DIR/svm"

# 3. Encoders, and shallow networks with the tokenizer of the first of them
tokenizer=${MODELS%% *}
[ ! -e "configs/recipes/$tokenizer.yaml" ] || tokenizer=$(sed -n 's/^model_name_or_path: *//p' "configs/recipes/$tokenizer.yaml")
shallow=${SHALLOW:+$(printf 'layers-%s ' $SHALLOW)}

# $1: model (one of $shallow, the name of a file in configs/recipes, or a model), $2: learning rate, $3: seed, rest: flags
classify() {
    local recipe=configs/recipes/$1.yaml more=""
    [ -e "$recipe" ] || recipe="--model_name_or_path $1"
    if [[ " $shallow" == *" $1 "* ]]; then
        local untrained=$OUTPUT_DIR/models/seed-$3/$1
        [ -e "$untrained/tokenizer.json" ] || python tools/make_model.py --config_name "configs/shallow/$1.json" \
            --tokenizer_name "$tokenizer" $SHALLOW_EMBEDDINGS --seed "$3" --output_dir "$untrained"
        recipe="--model_name_or_path $untrained" more=$SHALLOW_ARGUMENTS
    fi
    $LAUNCH run_classification.py $recipe --dataset_name "$DATASET" $TRAIN_ARGUMENTS $more --learning_rate "$2" \
        --seed "$3" --output_dir "$OUTPUT_DIR/$(basename "$1")/lr-$2-seed-$3" "${@:4}"
}

encoders=() networks=()
for model in $MODELS $shallow; do
    name=$(basename "$model")
    first_seed=${SEEDS%% *}
    rates=$LEARNING_RATES
    [[ " $shallow" != *" $model "* ]] || rates=$SHALLOW_LEARNING_RATES
    for rate in $rates; do
        run=$OUTPUT_DIR/$name/lr-$rate-seed-$first_seed
        [ -e "$run/eval_results.json" ] || classify "$model" "$rate" "$first_seed" --do_train --do_eval --do_predict false
        rm -rf "$run"/checkpoint-*             # the best model is in the run folder itself
    done
    # The lowest validation loss decides; the test split has not been looked at.
    best=$(python - "$OUTPUT_DIR/$name" "$first_seed" $rates <<'PYTHON'
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
            $LAUNCH run_classification.py --model_name_or_path "$run" --dataset_name "$DATASET" $TRAIN_ARGUMENTS \
                --output_dir "$run" --do_predict
        fi
        rm -rf "$run"/checkpoint-*
        if [[ " $shallow" == *" $model "* ]]; then networks+=("$run"); else encoders+=("$run"); fi
    done
done
runs=("$OUTPUT_DIR/svm" "${encoders[@]}" "${networks[@]}")

# 4. Table 2, with tests
categories=(--dataset_name "$DATASET")        # to find cross-listed documents; own data has no categories
! grep -qs '"script": "prepare_dataset.py"' "$DATASET/manifest.json" || categories=()
python tools/compare_runs.py "${runs[@]}" "${categories[@]}" --output_dir "$OUTPUT_DIR/comparison" --paper

# 5. Figure 1, from the encoder with the lowest validation loss, and the same of the shallow networks
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

# 6. Does it use context?
[ -e "$OUTPUT_DIR/context/context.json" ] || python tools/measure_context.py --model_name_or_path "$best" --dataset_name "$DATASET" \
    --output_dir "$OUTPUT_DIR/context" --compare "$OUTPUT_DIR/svm" "${references[@]}" \
    --attributions "${attributions[@]}" $CONTEXT_ARGUMENTS

# 7. The whole study as one page
python tools/make_report.py --output_dir "$OUTPUT_DIR/report" --dataset_name "$DATASET" --runs "${runs[@]}" \
    --comparison_dir "$OUTPUT_DIR/comparison" --attribution_dirs "${attributions[@]}" \
    --context_dir "$OUTPUT_DIR/context" $REPORT_ARGUMENTS
echo "Done: $OUTPUT_DIR/report/index.html, the whole study as one page (see also $OUTPUT_DIR/comparison/comparison.md," \
    "$OUTPUT_DIR/attribution/attributions.html, $OUTPUT_DIR/context/context.html)"
