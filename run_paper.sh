#!/usr/bin/env bash
# The study in one command: fetch, baseline, seven encoders with several learning rates each, a
# bag-of-embeddings classifier, table 2, figure 1, tests of context, and a page of it all.
# Completed steps are skipped, so call it again after an interruption, with the same variables.
#   bash run_paper.sh
#   bash run_paper.sh --status       what is finished, running and missing, and the time left
#   bash run_paper.sh --tables       stop training here: tables and pages of the finished models
#   MODELS="bge-large-en-v1.5 prajjwal1/bert-tiny" SEEDS="1 2 3" bash run_paper.sh
#   DATASET=data/mine OUTPUT_DIR=runs/mine TRAIN_ARGUMENTS="--bf16" bash run_paper.sh
#   SHALLOW="0 1 2" bash run_paper.sh               shallow networks with 0, 1 and 2 layers
#   SHUFFLED=1 SIZES="500 1000" bash run_paper.sh   also on shuffled words and on fewer documents
#
# Each model has learning rates, seeds and flags of its own with MODELS_FILE=models.txt in place of
# MODELS and SHALLOW. A line is a model, its rates, its seeds and its flags, which come after
# TRAIN_ARGUMENTS; an empty field is the default. Models are trained in this order:
#   # model                | rates          | seeds     | flags
#   bge-large-en-v1.5      | 1e-5 2e-5      | 1 2 3     | --bf16
#   models/all-MiniLM-L6-v2| 5e-5 1e-4 2e-4 | 1 2 3     | --num_train_epochs 4
#   layers-0               | 5e-4 1e-3 3e-3 | 1 2 3 4 5 |
# A model is the name of a file in configs/recipes or configs/shallow, a folder or a Hub id. Once
# its learning rates are trained with the first seed, the rate with the lowest validation loss is
# trained with the other seeds, whether or not the other models are that far.
#
# Each GPU of the machine trains a run of its own. $OUTPUT_DIR/runs.txt lists the runs, for job
# arrays (configs/slurm) too, and $OUTPUT_DIR/logs has the output of each:
#   bash run_paper.sh --list         fetch the data, write the list and stop
#   bash run_paper.sh --run 3        train the run in line 3 of the list, unless it is finished
#   bash run_paper.sh --train        train all runs and stop; machines with the same disk share them
#
# In the variables below, quotes keep blanks: TRAIN_ARGUMENTS='--text_prefix "query: "'. OUTPUT_DIR,
# DATASET, MODELS_FILE and folders of models may be relative to the folder that you are in; paths
# within flags are relative to the project's folder.
# For the table and the comparison, a run needs its small files only (predictions.csv,
# *_results.json, run_arguments.json); attributions and tests of context need its weights.
set -euo pipefail
unset CDPATH                                  # with it, cd may lead elsewhere
caller=$PWD
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
source ./setup_env.sh
resolve_paths OUTPUT_DIR MODELS_FILE
resolve_existing DATASET
# Those that are given: one that nothing would read is refused, or a notice names it.
given=" "
for variable in LEARNING_RATES SEEDS FETCH_ARGUMENTS SHALLOW_LEARNING_RATES SHALLOW_ARGUMENTS \
    SHALLOW_EMBEDDINGS SHUFFLE_ARGUMENTS SIZE_MODELS SIZE_LEARNING_RATES SIZE_SEEDS \
    SIZE_ARGUMENTS ATTRIBUTION_ARGUMENTS FAITHFULNESS_ARGUMENTS CONTEXT_ARGUMENTS; do
    [ -z "${!variable:-}" ] || given+="$variable "
done
OUTPUT_DIR=${OUTPUT_DIR:-paper}
DATASET=${DATASET:-}                          # a folder or Hub id; empty: fetched from arXiv
FETCH_ARGUMENTS=${FETCH_ARGUMENTS:-}          # such as: --source snapshot --snapshot_file FILE
MODELS_FILE=${MODELS_FILE:-}
if [ -z "$MODELS_FILE" ]; then
    MODELS=${MODELS:-bert-large-cased e5-large-v2 bge-large-en-v1.5 gte-large mxbai-embed-large-v1
        GIST-large-Embedding-v0 UAE-Large-V1}
    SHALLOW=${SHALLOW-0}                      # layers of shallow networks; empty: none
fi
LEARNING_RATES=${LEARNING_RATES:-1e-5 2e-5 3e-5 5e-5}
SEEDS=${SEEDS:-42}                            # the first chooses the learning rate
WORKERS=${WORKERS:-${LAUNCH:+1}}              # runs at a time; default: GPUs, or 1 with LAUNCH
# Several GPUs a run: configs/accelerate_multi_gpu.yaml
LAUNCH=${LAUNCH:-accelerate launch --quiet --config_file accelerate_config.yaml}
TRAIN_ARGUMENTS=${TRAIN_ARGUMENTS:-}          # more flags for run_classification.py
SHALLOW_LEARNING_RATES=${SHALLOW_LEARNING_RATES:-5e-4 1e-3 3e-3}
# After TRAIN_ARGUMENTS
SHALLOW_ARGUMENTS=${SHALLOW_ARGUMENTS:---gradient_accumulation_steps 1 --num_train_epochs 4}
SHALLOW_EMBEDDINGS=${SHALLOW_EMBEDDINGS:-}    # such as: --init_embeddings_from MODEL
SVM_ARGUMENTS=${SVM_ARGUMENTS:-}              # more flags for run_baseline.py
CALIBRATED=${CALIBRATED:-}                    # 1: compare log loss with a calibrated SVM, too
SHUFFLED=${SHUFFLED:-}                        # 1: train and test all models on shuffled words, too
SHUFFLE_ARGUMENTS=${SHUFFLE_ARGUMENTS:-}      # more flags for the prepare_dataset.py that shuffles
SIZES=${SIZES:-}                              # numbers of training documents for a learning curve
SIZE_MODELS=${SIZE_MODELS:-}                  # names of its models; default: all
SIZE_LEARNING_RATES=${SIZE_LEARNING_RATES:-}  # default: those of the model
SIZE_SEEDS=${SIZE_SEEDS:-}                    # default: the first three of the model
SIZE_ARGUMENTS=${SIZE_ARGUMENTS:-}            # more flags for these runs
COMPARE_ARGUMENTS=${COMPARE_ARGUMENTS:-}      # more flags for tools/compare_runs.py
# Names of the models to explain. Default: the encoder with the lowest validation loss and the
# shallow networks; empty: none.
EXPLAIN=${EXPLAIN-default}
# Enough documents for words that are in 20 documents of a class
ATTRIBUTION_ARGUMENTS=${ATTRIBUTION_ARGUMENTS:---max_samples 500}
FAITHFULNESS_SAMPLES=${FAITHFULNESS_SAMPLES:-50}   # documents to measure faithfulness on; 0: none
FAITHFULNESS_ARGUMENTS=${FAITHFULNESS_ARGUMENTS:-}    # more flags for tools/measure_faithfulness.py
CONTEXT_ARGUMENTS=${CONTEXT_ARGUMENTS:-}      # more flags for tools/measure_context.py
REPORT_ARGUMENTS=${REPORT_ARGUMENTS:-}        # more flags for tools/make_report.py

# What a user gave in variables: lists of words, and flags that this script gives itself.
check_variables() {
    local training=(learning_rate=LEARNING_RATES seed=SEEDS dataset_name=DATASET
        output_dir=OUTPUT_DIR model_name_or_path=MODELS do_train= do_eval= do_predict=)
    normalize_words MODELS SHALLOW LEARNING_RATES SHALLOW_LEARNING_RATES SEEDS SIZES SIZE_MODELS \
        SIZE_LEARNING_RATES SIZE_SEEDS EXPLAIN
    check_distinct SIZES %s $SIZES
    check_distinct SIZE_MODELS %s $SIZE_MODELS
    check_distinct EXPLAIN %s $EXPLAIN
    check_rates SIZE_LEARNING_RATES $SIZE_LEARNING_RATES
    check_seeds SIZE_SEEDS $SIZE_SEEDS
    check_switch CALIBRATED SHUFFLED
    [[ $FAITHFULNESS_SAMPLES =~ ^(0|[1-9][0-9]*)$ ]] ||
        fail "FAITHFULNESS_SAMPLES must be a number of documents, or 0 for none," \
            "not '$FAITHFULNESS_SAMPLES'"
    check_is_read
    refuse_flags FETCH_ARGUMENTS "$FETCH_ARGUMENTS" output_dir=OUTPUT_DIR
    refuse_flags TRAIN_ARGUMENTS "$TRAIN_ARGUMENTS" "${training[@]}"
    refuse_flags SHALLOW_ARGUMENTS "$SHALLOW_ARGUMENTS" "${training[@]}"
    refuse_flags SHALLOW_EMBEDDINGS "$SHALLOW_EMBEDDINGS" config_name=SHALLOW seed=SEEDS \
        output_dir=OUTPUT_DIR
    refuse_flags SIZE_ARGUMENTS "$SIZE_ARGUMENTS" "${training[@]}" max_train_samples=SIZES
    refuse_flags SVM_ARGUMENTS "$SVM_ARGUMENTS" dataset_name=DATASET output_dir=OUTPUT_DIR \
        model_name_or_path=
    refuse_flags SHUFFLE_ARGUMENTS "$SHUFFLE_ARGUMENTS" dataset_name=DATASET \
        output_dir=OUTPUT_DIR tokenizer_name=MODELS max_seq_length=TRAIN_ARGUMENTS \
        text_prefix=TRAIN_ARGUMENTS shuffle_words=
    refuse_flags COMPARE_ARGUMENTS "$COMPARE_ARGUMENTS" dataset_name=DATASET \
        output_dir=OUTPUT_DIR reference=
    [[ " $COMPARE_ARGUMENTS" != *" --fail"[-_]"if"[-_]"worse"* ]] ||
        fail "COMPARE_ARGUMENTS has --fail_if_worse, which would end the study before its page;" \
            "run tools/compare_runs.py with it afterwards"
    refuse_flags ATTRIBUTION_ARGUMENTS "$ATTRIBUTION_ARGUMENTS" dataset_name=DATASET \
        output_dir=OUTPUT_DIR model_name_or_path=EXPLAIN
    refuse_flags FAITHFULNESS_ARGUMENTS "$FAITHFULNESS_ARGUMENTS" attribution_dir=EXPLAIN \
        max_samples=FAITHFULNESS_SAMPLES
    refuse_flags CONTEXT_ARGUMENTS "$CONTEXT_ARGUMENTS" dataset_name=DATASET \
        output_dir=OUTPUT_DIR model_name_or_path=EXPLAIN
    refuse_flags REPORT_ARGUMENTS "$REPORT_ARGUMENTS" dataset_name=DATASET output_dir=OUTPUT_DIR
}

# Refuse variables that another variable turns off. For those of models: note_unread.
check_is_read() {
    [ -z "$DATASET" ] || refuse_given "nothing is fetched with DATASET" FETCH_ARGUMENTS
    [ -n "$SHUFFLED" ] || refuse_given "nothing is shuffled without SHUFFLED=1" SHUFFLE_ARGUMENTS
    [ -n "$SIZES" ] || refuse_given "there is no learning curve without SIZES" SIZE_MODELS \
        SIZE_LEARNING_RATES SIZE_SEEDS SIZE_ARGUMENTS
    [ -n "$EXPLAIN" ] || refuse_given "no model is explained with an empty EXPLAIN" \
        ATTRIBUTION_ARGUMENTS FAITHFULNESS_ARGUMENTS CONTEXT_ARGUMENTS
    [ "$FAITHFULNESS_SAMPLES" != 0 ] ||
        refuse_given "no faithfulness is measured with FAITHFULNESS_SAMPLES=0" \
            FAITHFULNESS_ARGUMENTS
}

# $1: why nothing reads them, rest: names of variables
refuse_given() {
    local variable
    for variable in "${@:2}"; do
        [[ $given != *" $variable "* ]] || fail "$variable is set, but $1; unset one of them"
    done
}

# $1: whose they are, rest: learning rates
check_rates() {
    local word number='^([0-9]+[.]?[0-9]*|[.][0-9]+)([eE]-?[0-9]+)?$'
    for word in "${@:2}"; do
        [[ $word =~ $number ]] || fail "a learning rate of $1 is '$word', not a number"
    done
    check_distinct "the learning rates of $1" %.20e "${@:2}"
}

# $1: whose they are, rest: seeds
check_seeds() {
    local seed
    for seed in "${@:2}"; do
        [[ $seed =~ ^[0-9]+$ ]] || fail "a seed of $1 is '$seed', not an integer"
    done
    check_distinct "the seeds of $1" %.20e "${@:2}"
}

mode=${1:-}
case "$mode $#" in
    " 0" | "--list 1" | "--train 1" | "--status 1" | "--tables 1" | "--run 2") ;;
    *) fail "unknown arguments: $*; give --list, --train, --run N, --status, --tables or none" ;;
esac
OUTPUT_DIR=${OUTPUT_DIR%/}
list=$OUTPUT_DIR/runs.txt
logs=$OUTPUT_DIR/logs
check_variables
set_up_environment
require_commands util-linux flock
export PYTHONUNBUFFERED=1                     # the log of a run shows its last line at once
cores=$(getconf _NPROCESSORS_ONLN)
gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null | grep -xE '[0-9]+' || true)
gpus=${CUDA_VISIBLE_DEVICES-$gpus}
gpus=(${gpus//,/ })
WORKERS=${WORKERS:-$((${#gpus[@]} > 1 ? ${#gpus[@]} : 1))}
[[ $WORKERS =~ ^[1-9][0-9]*$ ]] || fail "WORKERS must be a positive integer, not $WORKERS"

split_into_words "$LAUNCH"
launch=("${words[@]}")

# ------------------------------------------------------------------------------------------------
# One run

# Read a line of the list into run (its arguments), folder, name, result (a file that it has when
# it is finished) and log.
parse_line() {
    local group
    eval "run=($1)"                           # written by quote_words
    folder=${run[1]}
    group=${folder%/*}
    name=${group##*/}/${folder##*/}
    result=$folder/eval_results.json
    [ "${run[-1]}" != --do_predict ] || result=$folder/predict_results.json
    log=$logs/${name/\//-}.log
}

# Read line $1. Fails if it is empty: write_list has removed its run.
read_run() {
    local line
    [ "$1" -le "$(wc -l < "$list")" ] || fail "$list has no line $1"
    line=$(sed -n "$1p" "$list")
    [ -n "$line" ] || return 1
    parse_line "$line"
}

# Train the run of a line unless it is finished. The log is locked as long as this or the process
# that it started lives.
# $1: number of the line
# $2: seconds to wait for another process that trains the run; empty: until it ends
# $3: a file that marks a run that failed in this call
# Exit status: 0 it is finished, 1 it failed, 75 another process trains it
train() (
    number=$1 seconds_to_wait=$2 failure=${3:-}
    if ! read_run "$number"; then
        echo "Line $number of $list is empty: its run is not part of the study any more"
        exit
    fi
    exec 9>> "$log"
    flock ${seconds_to_wait:+--wait "$seconds_to_wait"} 9 || exit 75
    [ ! -e "$failure" ] || exit 1
    if [ ! -e "$result" ]; then
        SECONDS=0
        # rm_checkpoints and print_state read these files.
        if [[ " ${run[*]} " = *" --do_train "* ]]; then
            touch "$log.started"
        else
            touch "$log.predicting"
        fi
        log_size=$(stat -c %s "$log")
        gpu=${CUDA_VISIBLE_DEVICES:+ on GPU $CUDA_VISIBLE_DEVICES}
        echo "$(date +%H:%M:%S) Run $number of $(wc -l < "$list")$gpu: $name (log: $log)"
        # accelerate launch gives a process one CPU thread by default
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > WORKERS ? cores / WORKERS : 1))}
        command=("${launch[@]}" run_classification.py "${run[@]}")
        status=0
        if [ "$WORKERS" = 1 ]; then
            set +e
            "${command[@]}" 2>&1 | tee -ia "$log" 9>&-
            status=${PIPESTATUS[0]}
            set -e
        else
            "${command[@]}" >&9 2>&9 || status=$?
        fi
        if [ "$status" != 0 ] || [ ! -e "$result" ]; then
            # Of this start; the log has earlier ones, too.
            reason=$(tail -c "+$((log_size + 1))" "$log" | tail -n 50 | grep '^error: ' |
                tail -n 1 || true)
            echo "Run $number failed: $name (${reason:-exit status $status}; log: $log)" >&2
            [ -z "$failure" ] || touch "$failure"     # before another worker gets the lock
            exit 1
        fi
        # A call that only predicts says nothing about the training.
        [[ " ${run[*]} " != *" --do_train "* ]] || keep_flags "$log" "$folder" "${run[@]}"
        echo "$(date +%H:%M:%S) Run $number finished in $SECONDS s: $name$(validation_loss)"
    fi
    rm_checkpoints
)

# Keep the flags of a run that has just been trained, for check_finished. The digest tells whether
# the run in the folder is still that one.
# $1: log of the run, $2: its folder, rest: its command line
keep_flags() {
    local flags=${1%.log}.flags words position
    [ -e "$2/train_results.json" ] || return 0
    words=("${@:3}")
    {
        sha256sum < "$2/train_results.json"
        quote_words "${words[@]}"
        for position in "${!words[@]}"; do    # a recipe is flags, too, and it may be edited
            case ${words[$position]} in
                --config) cat "${words[$position + 1]}" ;;
                --config=*) cat "${words[$position]#*=}" ;;
            esac
        done
    } > "$flags.tmp"
    mv "$flags.tmp" "$flags"
}

validation_loss() {
    local loss='s/.*"eval_loss": *\([^,}]*\).*/, validation loss \1/p'
    sed -n "$loss" "$folder/eval_results.json" 2> /dev/null || true
}

# Remove the checkpoints of a finished run: the best model is in the run folder itself. Only of a
# run that was trained here; one from elsewhere may be linked, and its checkpoints are not ours.
rm_checkpoints() {
    local checkpoint
    [ -e "$log.started" ] && [ ! -L "$folder" ] && [ ! -L "${folder%/*}" ] || return 0
    for checkpoint in "$folder"/checkpoint-*; do
        [[ ${checkpoint##*/} =~ ^checkpoint-[0-9]+$ ]] || continue
        if [ -d "$checkpoint" ] && [ ! -L "$checkpoint" ]; then
            rm -rf "$checkpoint"
        fi
    done
}
if [ "$mode" = --run ]; then
    [ -e "$list" ] || fail "there is no $list; write it with: bash run_paper.sh --list"
    [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "--run takes the number of a line of $list, not $2"
    WORKERS=1
    train "$2" ""
    exit
fi

# ------------------------------------------------------------------------------------------------
# The plan: models, and groups of runs. A group is a model on one dataset with one number of
# training documents; its learning rate is chosen within it.

models=() model_name=() model_rates=() model_seeds=() model_flags=()
# $1: model, $2: learning rates, $3: seeds, $4: flags
add_model() {
    local model=$1 rates=$2 seeds=$3 flags=$4 name word
    if [ ! -e "configs/recipes/$model.yaml" ] && ! is_shallow "$model"; then
        resolve_existing model
    fi
    name=${model%/}
    name=${name##*/}
    [[ $name =~ ^[A-Za-z0-9_] ]] || fail "cannot name a folder after the model '$1'; rename it"
    case $name in
        data | data-shuffled* | models | models.txt | logs | family | learning-curve | svm | \
            svm-calibrated | svm-shuffled | svm-[0-9]* | comparison | comparison-* | \
            attribution-* | context-* | report | runs.txt* | runs.csv | runs.tmp | study.json*)
            fail "a model cannot be called $name here: this script writes files of that name" ;;
    esac
    for word in "${model_name[@]}"; do
        [ "$word" != "$name" ] || fail "two models are called $name; rename the folder of one"
    done
    [ -n "$rates" ] || fail "$name has no learning rates; give them in LEARNING_RATES"
    [ -n "$seeds" ] || fail "$name has no seeds; give them in SEEDS"
    check_rates "$name" $rates
    check_seeds "$name" $seeds
    models+=("$model")
    model_name+=("$name")
    model_rates+=("$rates")
    model_seeds+=("$seeds")
    model_flags+=("$flags")
}

is_shallow() {
    [ -e "configs/shallow/$1.json" ]
}

read_by_models=" "                            # variables with defaults that a model takes
# Read the lines of MODELS_FILE, or else MODELS and SHALLOW.
read_models() {
    local model rates seeds flags
    if [ -z "$MODELS_FILE" ]; then
        for model in $MODELS; do
            add_model "$model" "$LEARNING_RATES" "$SEEDS" "$TRAIN_ARGUMENTS"
            read_by_models+="LEARNING_RATES SEEDS "
        done
        for model in ${SHALLOW:+$(printf 'layers-%s ' $SHALLOW)}; do
            is_shallow "$model" ||
                fail "SHALLOW has ${model#layers-}, and there is no configs/shallow/$model.json"
            flags="$TRAIN_ARGUMENTS $SHALLOW_ARGUMENTS"
            add_model "$model" "$SHALLOW_LEARNING_RATES" "$SEEDS" "$flags"
            read_by_models+="SHALLOW_LEARNING_RATES SHALLOW_ARGUMENTS SHALLOW_EMBEDDINGS SEEDS "
        done
        [ ${#models[@]} != 0 ] || fail "MODELS and SHALLOW are empty; name a model"
        return
    fi
    [ -z "${MODELS:-}${SHALLOW:-}" ] || fail "give either MODELS_FILE or MODELS and SHALLOW"
    [ -r "$MODELS_FILE" ] || fail "cannot read MODELS_FILE $MODELS_FILE"
    while IFS='|' read -r model rates seeds flags || [ -n "$model" ]; do
        read -r model <<< "${model%$'\r'}"    # without the blanks around it
        [[ -n $model && $model != "#"* ]] || continue
        rates=${rates%$'\r'}
        seeds=${seeds%$'\r'}
        normalize_words rates seeds
        flags=${flags%$'\r'}
        refuse_flags MODELS_FILE "$flags" dataset_name=DATASET output_dir=OUTPUT_DIR \
            learning_rate="its second field" seed="its third field" \
            model_name_or_path="its first field" do_train= do_eval= do_predict=
        [ -n "$seeds" ] || read_by_models+="SEEDS "
        if is_shallow "$model"; then
            [ -n "$rates" ] || read_by_models+="SHALLOW_LEARNING_RATES "
            read_by_models+="SHALLOW_ARGUMENTS SHALLOW_EMBEDDINGS "
            rates=${rates:-$SHALLOW_LEARNING_RATES}
            flags="$SHALLOW_ARGUMENTS $flags"
        elif [ -z "$rates" ]; then
            read_by_models+="LEARNING_RATES "
        fi
        flags="$TRAIN_ARGUMENTS $flags"
        add_model "$model" "${rates:-$LEARNING_RATES}" "${seeds:-$SEEDS}" "$flags"
    done < "$MODELS_FILE"
    [ ${#models[@]} != 0 ] || fail "MODELS_FILE $MODELS_FILE has no models"
}

# Name the variables that are given and that no model of the plan reads.
note_unread() {
    local variable
    for variable in LEARNING_RATES SEEDS SHALLOW_LEARNING_RATES SHALLOW_ARGUMENTS \
        SHALLOW_EMBEDDINGS; do
        [[ $given != *" $variable "* || $read_by_models == *" $variable "* ]] ||
            echo "notice: $variable is set, and no model of this study reads it"
    done
}

groups=()                                     # folder
declare -A group_model group_data group_rates group_seeds group_flags
# $1: number of the model, $2: suffix of the name, $3: dataset, $4: learning rates, $5: seeds,
# $6: more flags
add_group() {
    local group=$OUTPUT_DIR/${model_name[$1]}$2
    if [[ -n $2 && " ${model_name[*]} " == *" ${group##*/} "* ]]; then
        fail "a model is called ${group##*/}, as the runs of another one are; rename it"
    fi
    groups+=("$group")
    group_model[$group]=$1
    group_data[$group]=$3
    group_rates[$group]=$4
    group_seeds[$group]=$5
    split_into_words "${model_flags[$1]} $6"
    local recipe=configs/recipes/${models[$1]}.yaml
    if [ -e "$recipe" ] && flag_value config "${words[@]}" > /dev/null; then
        fail "the flags of ${models[$1]} have a --config, and its recipe $recipe is one already;" \
            "give the flags themselves, or the model's id on the Hub"
    fi
    group_flags[$group]=$(quote_words "${words[@]}")
}

plan_groups() {
    local number size rates seeds word
    for word in $SIZE_MODELS; do
        [[ " ${model_name[*]} " == *" $word "* ]] ||
            fail "SIZE_MODELS has $word, which is not a model's name"
    done
    for word in $EXPLAIN; do
        [ "$EXPLAIN" != default ] || break
        [[ " ${model_name[*]} " == *" $word "* ]] ||
            fail "EXPLAIN has $word, which is not a model's name"
    done
    for size in $SIZES; do
        [[ $size =~ ^[1-9][0-9]*$ ]] ||
            fail "SIZES has '$size', which is not a number of documents"
    done
    for number in "${!models[@]}"; do
        rates=${model_rates[$number]}
        add_group "$number" "" "$DATASET" "$rates" "${model_seeds[$number]}" ""
        if [ -n "$SHUFFLED" ]; then
            add_group "$number" -shuffled "$OUTPUT_DIR/data-shuffled-${model_name[$number]}" \
                "$rates" "${model_seeds[$number]}" ""
        fi
        if [[ -n $SIZE_MODELS && " $SIZE_MODELS " != *" ${model_name[$number]} "* ]]; then
            continue
        fi
        read -ra seeds <<< "${model_seeds[$number]}"
        for size in $SIZES; do
            add_group "$number" "-$size" "$DATASET" "${SIZE_LEARNING_RATES:-$rates}" \
                "${SIZE_SEEDS:-${seeds[*]:0:3}}" "$SIZE_ARGUMENTS --max_train_samples $size"
        done
    done
}

# Print what a tokenizer is loaded from. $1: model
model_source() {
    if [ -e "configs/recipes/$1.yaml" ]; then
        sed -n 's/^model_name_or_path: *//p' "configs/recipes/$1.yaml"
    else
        echo "$1"
    fi
}

# Print the value of a flag in a command line, in which the last one counts. Status 1: it is not
# there, 2: it has no value.
# $1: flag, rest: the words
flag_value() {
    local flag=$1 value status=1
    shift
    local line=("$@")
    while [ $# != 0 ]; do
        case $1 in
            "--$flag" | "--${flag//_/-}")
                [[ $# != 1 && $2 != --* ]] || fail "--$flag has no value in: ${line[*]}; give one"
                value=$2
                status=0
                ;;
            "--$flag="* | "--${flag//_/-}="*)
                value=${1#*=}
                status=0
                ;;
        esac
        shift
    done
    [ $status != 0 ] || printf '%s\n' "$value"
    return $status
}

# Print the value of a flag in a file for --config, or nothing. $1: file, $2: flag
config_value() {
    [ -r "$1" ] || fail "cannot read --config $1"
    python - "$1" "$2" <<'PYTHON'
import sys, yaml
file, flag = sys.argv[1:]
try:
    with open(file, encoding="utf-8") as lines:
        flags = yaml.safe_load(lines) or {}
    if not isinstance(flags, dict):
        raise ValueError("it must have a 'flag: value' on each line")
except (ValueError, yaml.YAMLError) as error:
    print(f"error: cannot read --config {file}: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
value = flags.get(flag, flags.get(flag.replace("_", "-")))
print("" if value is None else value)
PYTHON
}

# Print the value of a flag for a group: in its flags, or else in the file of --config, which may be
# the recipe of its model; or nothing.
# $1: group, $2: flag
group_value() {
    local file=configs/recipes/${models[${group_model[$1]}]}.yaml status=0
    eval "words=(${group_flags[$1]})"
    flag_value "$2" "${words[@]}" || status=$?
    [ $status = 1 ] || return $status
    status=0
    flag_value config "${words[@]}" > /dev/null || status=$?
    case $status in
        0) file=$(flag_value config "${words[@]}") ;;
        1) [ -e "$file" ] || return 0 ;;
        *) return $status ;;
    esac
    config_value "$file" "$2"
}

# The tokenizer of shallow networks: the one that SHALLOW_EMBEDDINGS names, that of the model whose
# embeddings are copied, or that of the first encoder.
find_tokenizer() {
    local flag model status
    split_into_words "$SHALLOW_EMBEDDINGS"
    for flag in tokenizer_name init_embeddings_from; do
        status=0
        flag_value "$flag" "${words[@]}" || status=$?
        [ $status = 1 ] || return $status
    done
    for model in "${models[@]}"; do
        if ! is_shallow "$model"; then
            model_source "$model"
            return
        fi
    done
    fail "shallow networks take the tokenizer of an encoder, and there is none; give" \
        "SHALLOW_EMBEDDINGS='--tokenizer_name MODEL'"
}

# ------------------------------------------------------------------------------------------------
# The data and the networks that the runs need

# What runs read and this script makes is a source: fetched data, shuffled data, networks. The two
# functions below call $1 for each of them, with the name of its step, its result, --, and the
# command that makes it; source_runs has the runs that read it, source_files what it is made of.

# Data that are fetched
for_data() {
    local source_runs source_files=()
    [ -n "$is_fetched" ] || return 0
    source_runs=("$OUTPUT_DIR"/svm* "$OUTPUT_DIR"/*/lr-*-seed-*)
    split_into_words "$FETCH_ARGUMENTS"
    "$1" data "$DATASET/manifest.json" -- \
        python fetch_arxiv.py --output_dir "$DATASET" "${words[@]}"
}

# Shuffled data, and the untrained networks of each group, one for each seed
for_derived_sources() {
    local group number name seed config tokenizer length prefix source_runs source_files=()
    if [ -n "$SHUFFLED" ]; then
        source_runs=("$OUTPUT_DIR/svm-shuffled")
        for_shuffled "$1" svm data-shuffled
        for number in "${!models[@]}"; do
            name=${model_name[$number]}
            source_runs=("$OUTPUT_DIR/$name-shuffled"/lr-*-seed-*)
            tokenizer=$(group_value "$OUTPUT_DIR/$name-shuffled" tokenizer_name) || exit
            if [ -z "$tokenizer" ]; then
                tokenizer=$(model_source "${models[$number]}")
                ! is_shallow "$name" || tokenizer=$shallow_tokenizer
            fi
            # The texts of a model are cut where it stops reading before their words are shuffled,
            # so that they keep their words and lose their order only.
            length=$(group_value "$OUTPUT_DIR/$name-shuffled" max_seq_length) || exit
            prefix=$(group_value "$OUTPUT_DIR/$name-shuffled" text_prefix) || exit
            for_shuffled "$1" "$name" "data-shuffled-$name" --tokenizer_name "$tokenizer" \
                --max_seq_length "${length:-256}" ${prefix:+--text_prefix "$prefix"}
        done
    fi
    for group in "${groups[@]}"; do
        name=${model_name[${group_model[$group]}]}
        is_shallow "$name" || continue
        config=configs/shallow/$name.json
        source_files=("$config")
        for seed in ${group_seeds[$group]}; do
            source_runs=("$OUTPUT_DIR/$name"{,-shuffled,-[0-9]*}/lr-*-seed-"$seed")
            split_into_words "$SHALLOW_EMBEDDINGS"
            "$1" "make-$name-seed-$seed" "$OUTPUT_DIR/models/seed-$seed/$name/tokenizer.json" -- \
                python tools/make_model.py --config_name "$config" --seed "$seed" \
                --output_dir "$OUTPUT_DIR/models/seed-$seed/$name" \
                ${shallow_tokenizer:+--tokenizer_name "$shallow_tokenizer"} "${words[@]}"
        done
    done
}

# $1: the function to call, $2: name, $3: folder in OUTPUT_DIR, rest: more flags
for_shuffled() {
    split_into_words "$SHUFFLE_ARGUMENTS"
    "$1" "shuffle-$2" "$OUTPUT_DIR/$3/manifest.json" -- python tools/prepare_dataset.py \
        --dataset_name "$DATASET" --text_column_names abstract --shuffle_words --seed 1 \
        --output_dir "$OUTPUT_DIR/$3" "${@:4}" "${words[@]}"
}

# Print the line of a source for check_finished.
print_source() {
    quote_words made "$1" "${source_runs[@]}" "${@:3}"
}

# Make a source unless it is there. Under runs that have begun it stays as it is: check_finished has
# compared its command with the one that made it.
make_source() {
    local run
    for run in "${source_runs[@]}"; do
        [ ! -e "$2" ] || ! has_begun "$run" || return 0
    done
    step "$1" "$2" "${source_files[@]}" "${@:3}"
}

# Whether a run is finished or continues from a checkpoint
has_begun() {
    local file
    for file in "$1"/{train_results.json,eval_results.json,checkpoint-*/trainer_state.json}; do
        [ ! -e "$file" ] || return 0
    done
    return 1
}

# Print a digest of the files of a local dataset. Finished runs in OUTPUT_DIR are runs on these.
digest_of_data() {
    [ -d "$DATASET" ] || return 0
    (
        cd "$DATASET"
        find -L . -type f ! -name '.*' ! -name README.md ! -name manifest.json -print0 |
            LC_ALL=C sort -z | xargs -0r sha256sum | sha256sum | cut -c 1-16
    )
}

# Refuse runs of other data in OUTPUT_DIR. $1: digest of the data
check_data() {
    local before
    before=$(cat "$logs/data.sha256" 2> /dev/null || true)
    [ -z "$before" ] || [ "$before" = "$1" ] ||
        fail "$DATASET has other data than the runs in $OUTPUT_DIR; choose another OUTPUT_DIR"
}

# Make the data and the networks that the runs need.
make_sources() {
    for_data make_source
    data_digest=$(digest_of_data)
    check_data "$data_digest"
    # Another process may do the same.
    echo "$data_digest" > "$logs/data.sha256.$$.tmp"
    mv "$logs/data.sha256.$$.tmp" "$logs/data.sha256"
    for_derived_sources make_source
}

# ------------------------------------------------------------------------------------------------
# The list of runs

# Add a run to wanted. $1: group, $2: learning rate, $3: seed, rest: what is done
add_run() {
    local folder=$1/lr-$2-seed-$3 model=${models[${group_model[$1]}]} key
    local source=(--model_name_or_path "$model")
    eval "words=(${group_flags[$1]})"
    [ ! -e "configs/recipes/$model.yaml" ] || source=(--config "configs/recipes/$model.yaml")
    ! is_shallow "$model" || source=(--model_name_or_path "$OUTPUT_DIR/models/seed-$3/$model")
    words+=(--learning_rate "$2" --seed "$3" "${@:4}")
    if [ "${*: -1}" = --do_predict ] && lacks_predictions_only "$folder"; then
        eval "words=(${group_flags[$1]})"
        source=(--model_name_or_path "$folder")
        words+=(--do_predict)
    fi
    words=("${source[@]}" --dataset_name "${group_data[$1]}" "${words[@]}")
    key="${folder#"$OUTPUT_DIR"/} ${*: -1}"
    wanted[$key]=$(quote_words --output_dir "$folder" "${words[@]}")
    order+=("$key")
}

lacks_predictions_only() {
    [ -e "$1/eval_results.json" ] && has_weights "$1" && [ ! -e "$1/predict_results.json" ]
}

has_weights() {
    [ -e "$1/model.safetensors" ] || [ -e "$1/model.safetensors.index.json" ]
}

# Print the learning rate with the lowest validation loss; nobody has looked at the test split.
# $1: folder, $2: seed, rest: learning rates
best_rate() {
    python - "$@" <<'PYTHON'
import json, math, sys
from pathlib import Path
folder, seed, *rates = sys.argv[1:]


def loss(rate):
    path = Path(folder, f"lr-{rate}-seed-{seed}", "eval_results.json")
    value = json.loads(path.read_text())["eval_loss"]
    return math.inf if math.isnan(value) else value


print(min(rates, key=loss))
PYTHON
}

# Write learning_rates.csv of each group whose learning rates are trained, best one first.
write_learning_rates() {
    local group
    for group in "${groups[@]}"; do
        if choose_rate "$group"; then
            printf '%s\t%s\t%s\n' "$group" "$first_seed" "$rates"
        fi
    done | python /dev/fd/3 3<<'PYTHON'
import csv, json, math, os, sys
from pathlib import Path
keys = ["eval_loss", "eval_accuracy", "eval_f1", "epoch", "train_runtime"]
for line in sys.stdin:
    folder, seed, rates = line.split("\t")
    rows = []
    for rate in rates.split():
        results = {}
        for name in ("train", "eval", "all"):
            path = Path(folder, f"lr-{rate}-seed-{seed}", f"{name}_results.json")
            results |= json.loads(path.read_text()) if path.exists() else {}
        rows.append({"learning_rate": rate} | {key: results.get(key) for key in keys})
    rows.sort(key=lambda row: math.inf if math.isnan(row["eval_loss"]) else row["eval_loss"])
    path = Path(folder, "learning_rates.csv")
    with path.with_suffix(f".{os.getpid()}.tmp").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["learning_rate", *keys], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(file.name, path)
PYTHON
}

# Whether all learning rates of a group are trained. Sets rates, first_seed and, if they are, best.
choose_rate() {
    local rate
    rates=${group_rates[$1]} first_seed=${group_seeds[$1]%% *} best=""
    for rate in $rates; do
        [ -e "$1/lr-$rate-seed-$first_seed/eval_results.json" ] || return 1
    done
    best=${best_rates[$1]:-}
    [ -n "$best" ] || best=$(best_rate "$1" "$first_seed" $rates) ||
        fail "cannot choose a learning rate in $1, see above"
    best_rates[$1]=$best
}
declare -A best_rates

# Say so if the best learning rate of a group is the lowest or the highest of those that were tried:
# a better one may lie beyond it. $1: group
note_edge() {
    local sorted kind
    choose_rate "$1" || return 0
    sorted=($(printf '%s\n' $rates | sort -g))
    [ ${#sorted[@]} -gt 1 ] || return 0
    case $best in
        "${sorted[0]}") kind=lowest ;;
        "${sorted[-1]}") kind=highest ;;
        *) return 0 ;;
    esac
    echo "${1##*/}: the best learning rate, $best, is the $kind of $rates; a better one may lie" \
        "beyond it"
}

# Set wanted, the lines of the runs, and order, their keys: all learning rates with the first seed
# and, for each group where these are trained, the best one with all seeds. A key is GROUP/RUN and
# the last word of the line, so that a list may be moved with its folder.
declare -A wanted
order=()
plan_runs() {
    local group rate rates seed first_seed best
    wanted=()
    order=()
    for group in "${groups[@]}"; do
        first_seed=${group_seeds[$group]%% *}
        for rate in ${group_rates[$group]}; do
            add_run "$group" "$rate" "$first_seed" --do_train --do_eval --do_predict false
        done
    done
    for group in "${groups[@]}"; do
        choose_rate "$group" || continue
        for seed in ${group_seeds[$group]}; do
            add_run "$group" "$best" "$seed" --do_train --do_eval --do_predict
        done
    done
}

# Write the list. Lines that are there keep their numbers, by which a job array names them, so that
# a run that is not wanted any more leaves an empty line.
write_list() (
    exec 8>> "$logs/runs.lock"                # another machine may write the list, too
    flock 8
    plan_runs
    {
        if [ -e "$list" ]; then
            while IFS= read -r line; do
                if [ -n "$line" ]; then
                    parse_line "$line"
                    key="$name ${run[-1]}"
                    line=${wanted[$key]:-}
                    wanted[$key]=""
                fi
                echo "$line"
            done < "$list"
        fi
        for key in "${order[@]}"; do
            [ -z "${wanted[$key]}" ] || echo "${wanted[$key]}"
        done
    } > "$list.tmp"
    mv "$list.tmp" "$list"
    write_learning_rates
)

# Refuse finished runs that are not those of plan_runs, and networks or data that would be made
# otherwise than under the runs that read them. Nothing is written.
check_finished() {
    local svm key options=()
    # accelerate launch may choose a precision, python does not.
    [ "${launch[*]}" != python ] || options+=(--without_launcher)
    {
        for svm in $(list_svms); do
            set_svm_arguments "$svm"
            quote_words "${words[@]}" --do_predict
        done
        for key in "${order[@]}"; do
            echo "${wanted[$key]}"
        done
        for_data print_source
        for_derived_sources print_source
    } | python tools/check_finished.py --output_dir "$OUTPUT_DIR" "${options[@]}"
}

# ------------------------------------------------------------------------------------------------
# Status

# Print what is finished, running and missing, with the time that is left.
print_status() {
    local svm group rate seed
    {
        for svm in $(list_svms); do
            print_state "$OUTPUT_DIR" "$svm" predict
        done
        for group in "${groups[@]}"; do
            choose_rate "$group" || true
            for rate in $rates; do
                [ "$rate" = "$best" ] || print_state "$group" "lr-$rate-seed-$first_seed" eval
            done
            for seed in ${group_seeds[$group]}; do
                [[ -z $best && $seed = "$first_seed" ]] ||
                    print_state "$group" "lr-${best:-best}-seed-$seed" predict
            done
        done
    } | python /dev/fd/3 "$WORKERS" 3<<'PYTHON'
import json, sys
from pathlib import Path


def duration(seconds):
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min" if minutes >= 10 else f"{round(seconds)} s"


rows, times = [], {}
for line in sys.stdin:
    group, run, state, elapsed = line.rstrip("\n").split("\t")
    results = {}
    for part in ("train", "eval", "predict"):
        path = Path(group, run, f"{part}_results.json")
        results |= json.loads(path.read_text()) if path.exists() else {}
    seconds = sum(results.get(f"{part}_runtime", 0) for part in ("train", "eval", "predict"))
    if state in ("finished", "trained"):
        times.setdefault(group, []).append(seconds)
    name = run if run.startswith("svm") else f"{Path(group).name}/{run}"
    rows.append((group, name, state, float(elapsed), seconds, results.get("eval_loss")))

left = unknown = 0
width = max(len(name) for _, name, *_ in rows)
print(f"{'run':{width}}  state        validation loss  time")
for group, name, state, elapsed, seconds, loss in rows:
    time = ""
    if state in ("finished", "trained"):
        time = duration(seconds)
    elif state == "running":
        time = f"{duration(elapsed)} so far"
    if state in ("running", "interrupted", "missing"):
        if group in times:
            left += max(sum(times[group]) / len(times[group]) - elapsed, 0)
        else:
            unknown += 1
    loss = "" if loss is None else f"{loss:.4f}"
    print(f"{name:{width}}  {state:11}  {loss:15}  {time}".rstrip())
finished = sum(state == "finished" for _, _, state, *_ in rows)
text = f"{finished} of {len(rows)} runs are finished; "
if unknown and not left:
    text += "the time left is not known before a run of each model is finished"
else:
    text += f"about {duration(left / int(sys.argv[1]))} left"
    if unknown:
        runs = "one run of a model" if unknown == 1 else f"{unknown} runs of models"
        text += f", without {runs} of which no run is finished"
print(text)
PYTHON
    for group in "${groups[@]}"; do
        note_edge "$group"
    done
}

# Print folder, run, state and seconds so far. $1: folder, $2: run, $3: eval or predict
print_state() {
    local state=missing log=$logs/${1##*/}-$2.log elapsed=0 start
    [ "$1" != "$OUTPUT_DIR" ] || log=$logs/$2.log
    if [ -e "$1/$2/$3_results.json" ]; then
        state=finished
    elif [ -e "$log" ] && ! flock --shared --nonblock "$log" true; then
        state=running
        start=$(stat -c %Y "$log.started" "$log.predicting" 2> /dev/null | sort -n | tail -n 1 || true)
        elapsed=$(($(date +%s) - ${start:-$(date +%s)}))
    elif [ -e "$1/$2/eval_results.json" ]; then
        state=trained                         # the predictions are missing
    elif [ -d "$1/$2" ]; then
        state=interrupted
    fi
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$state" "$elapsed"
}

# ------------------------------------------------------------------------------------------------
# Training

# Print the numbers of the unfinished lines. Chosen learning rates come first, so that a model is
# finished before the next one begins.
list_unfinished() {
    local line number=0 others=()
    while IFS= read -r line; do
        number=$((number + 1))
        [ -n "$line" ] || continue
        parse_line "$line"
        if [ -e "$result" ]; then
            continue
        elif [ "${run[-1]}" = --do_predict ]; then
            echo "$number"
        else
            others+=("$number")
        fi
    done < "$list"
    [ ${#others[@]} = 0 ] || printf '%s\n' "${others[@]}"
}

# Train runs until none is left that this worker can train. A worker waits as long as others train,
# because a chosen learning rate may follow.
# $1: number of the worker, $2: folder with a file for each run that failed
work() {
    local group number status outcome waits=(0.2 0.5 1 2 5 10) waited=0
    [ "$WORKERS" = 1 ] || [ ${#gpus[@]} = 0 ] ||
        export CUDA_VISIBLE_DEVICES=${gpus[$1 % ${#gpus[@]}]}
    while true; do
        for group in "${groups[@]}"; do
            choose_rate "$group" || true      # here, since write_list is a process that forgets it
        done
        write_list
        outcome=nothing
        for number in $(list_unfinished); do
            # Another machine may have written the list since.
            read_run "$number" || continue
            [ ! -e "$2/${name/\//-}" ] || continue
            status=0
            train "$number" 0.05 "$2/${name/\//-}" || status=$?
            case $status in
                0) outcome=trained ;;
                75) outcome=busy ;;
            esac
            [ $outcome != trained ] || break
        done
        case $outcome in
            nothing) return ;;
            trained) waited=0 ;;
            busy)
                sleep "${waits[$waited]}"
                waited=$((waited < 5 ? waited + 1 : 5))
                ;;
        esac
    done
}

# Train all runs. If some fail, the others are trained before this exits with status 1.
workers=()
train_all() {
    local failures number line unfinished=()
    failures=$(mktemp -d)
    set -m                                    # a worker is a process group, stopped as a whole
    for number in $(seq "$WORKERS"); do
        work "$number" "$failures" &
        workers+=($!)
    done
    set +m
    wait
    workers=()
    rm -r "$failures"
    while IFS= read -r line; do
        [ -n "$line" ] || continue
        parse_line "$line"
        if [ ! -e "$result" ]; then
            unfinished+=("$folder")
        elif flock --nonblock "$log" true; then
            rm_checkpoints                    # those of a call that was killed
        fi
    done < "$list"
    if [ ${#unfinished[@]} != 0 ]; then
        echo "error: not finished: ${unfinished[*]};" \
            "the same command continues (logs: $logs)" >&2
        exit 1
    fi
}

# Print the names of the SVMs: on the data, with probabilities, on shuffled words, on fewer documents.
list_svms() {
    echo svm ${CALIBRATED:+svm-calibrated} ${SHUFFLED:+svm-shuffled} \
        ${SIZES:+$(printf 'svm-%s ' $SIZES)}
}

# Set the array `words` to the arguments of an SVM. $1: its name
set_svm_arguments() {
    local data=$DATASET more=()
    case $1 in
        svm) ;;
        svm-calibrated) more=(--calibrate) ;;
        svm-shuffled) data=$OUTPUT_DIR/data-shuffled ;;
        *) more=(--max_train_samples "${1#svm-}") ;;
    esac
    split_into_words "$SVM_ARGUMENTS"
    words=(--output_dir "$OUTPUT_DIR/$1" --dataset_name "$data" "${words[@]}" "${more[@]}")
}

train_svms() {
    local svm
    for svm in $(list_svms); do
        [ ! -e "$OUTPUT_DIR/$svm/predict_results.json" ] || continue
        (
            exec 9>> "$logs/$svm.log"
            flock 9
            [ ! -e "$OUTPUT_DIR/$svm/predict_results.json" ] || exit 0
            SECONDS=0
            touch "$logs/$svm.log.started"
            echo "$(date +%H:%M:%S) $svm (log: $logs/$svm.log)"
            set_svm_arguments "$svm"
            export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores}
            python run_baseline.py "${words[@]}" > >(exec 9>&-; tee -ia "$logs/$svm.log")
            keep_flags "$logs/$svm.log" "$OUTPUT_DIR/$svm" "${words[@]}"
            echo "$(date +%H:%M:%S) $svm finished in $SECONDS s"
        )
    done
}

# ------------------------------------------------------------------------------------------------
# Tables, figures, pages

# Set chosen to the runs of a group with its best learning rate. Fails if one is not finished.
set_chosen() {
    local seed
    chosen=()
    [ -n "${group_model[$1]:-}" ] && choose_rate "$1" || return 1
    for seed in ${group_seeds[$1]}; do
        [ -e "$1/lr-$best-seed-$seed/predict_results.json" ] || return 1
        chosen+=("$1/lr-$best-seed-$seed")
    done
}

# Compare runs. $1: folder in OUTPUT_DIR, rest: runs and flags
compare() {
    local run files=()
    for run in "${@:2}"; do
        if [ -e "$run/predictions.csv" ]; then
            files+=("$run/predictions.csv" "$run/run_arguments.json")
        fi
    done
    comparisons+=("$OUTPUT_DIR/$1")
    split_into_words "$COMPARE_ARGUMENTS"
    step "$1" "$OUTPUT_DIR/$1/comparison.json" "${files[@]}" -- \
        python tools/compare_runs.py "${@:2}" "${categories[@]}" --output_dir "$OUTPUT_DIR/$1" \
        "${words[@]}"
}

# Table 2 with tests; what the order of words is worth; the table for each number of documents
compare_models() {
    local group name size svm=$OUTPUT_DIR/svm
    encoders=() networks=() first_runs=() comparisons=()
    for name in "${model_name[@]}"; do
        if ! set_chosen "$OUTPUT_DIR/$name"; then
            echo "$name is not finished; the tables are without it"
        elif is_shallow "$name"; then
            networks+=("${chosen[@]}")
        else
            encoders+=("${chosen[@]}")
            first_runs+=("${chosen[0]}")
        fi
    done
    runs=("$svm" "${encoders[@]}" "${networks[@]}")
    for group in "${groups[@]}"; do
        note_edge "$group"
    done
    # To find cross-listed documents; own data has no categories.
    categories=(--dataset_name "$DATASET")
    ! grep -qs '"script": "prepare_dataset.py"' "$DATASET/manifest.json" || categories=()
    [ ${#runs[@]} = 1 ] || compare comparison "${runs[@]}" --reference "$svm" --paper

    # An SVM has decision values. Its log loss is that of probabilities, which change a few
    # predictions, so that it is a model of its own.
    if [[ -n $CALIBRATED && ${#runs[@]} != 1 ]]; then
        compare comparison-log-loss "$svm-calibrated" "${runs[@]:1}" --reference "$svm-calibrated"
    fi
    if [ -n "$SHUFFLED" ]; then
        compare comparison-order-svm "$svm" "$svm-shuffled" --reference "$svm" --allow_other_texts
        for name in "${model_name[@]}"; do
            set_chosen "$OUTPUT_DIR/$name" || continue
            local ordered=("${chosen[@]}")
            set_chosen "$OUTPUT_DIR/$name-shuffled" || continue
            compare "comparison-order-$name" "${ordered[@]}" "${chosen[@]}" \
                --reference "${ordered[0]}" --allow_other_texts
        done
    fi
    for size in $SIZES; do
        local sized=("$svm-$size")
        for name in "${model_name[@]}"; do
            ! set_chosen "$OUTPUT_DIR/$name-$size" || sized+=("${chosen[@]}")
        done
        [ ${#sized[@]} = 1 ] ||
            compare "comparison-size-$size" "${sized[@]}" --reference "$svm-$size"
    done
}

# They are published together, so their p-values are corrected as one family, too. A test split that
# is too small has no tests.
correct_together() {
    local files=("${comparisons[@]/%//comparison.json}")
    [ ${#files[@]} -gt 1 ] || return 0
    grep -q '"p_holm"' "${files[@]}" || return 0
    step family "$OUTPUT_DIR/family/family.json" "${files[@]}" -- \
        python tools/correct_together.py "${comparisons[@]}" --output_dir "$OUTPUT_DIR/family"
}

# The picture of SIZES: the comparisons of each number of documents, and the one of all.
draw_learning_curve() {
    local name drawn=()
    curve=()
    for name in "${comparisons[@]}"; do
        case ${name##*/} in
            comparison | comparison-size-*) drawn+=("$name") ;;
        esac
    done
    [[ -n $SIZES && ${#drawn[@]} -gt 1 ]] || return 0
    curve=(--learning_curve_dir "$OUTPUT_DIR/learning-curve")
    step learning-curve "$OUTPUT_DIR/learning-curve/learning_curve.json" \
        "${drawn[@]/%//comparison.json}" -- \
        python tools/plot_learning_curve.py "${drawn[@]}" --output_dir "$OUTPUT_DIR/learning-curve"
}

# Write $OUTPUT_DIR/runs.csv, a row for each finished run: all groups, all learning rates.
write_runs() {
    python - "$OUTPUT_DIR" $(list_svms) "${groups[@]##*/}" <<'PYTHON'
import csv, json, os, re, sys
from pathlib import Path
output, *groups = sys.argv[1:]
metrics = ["eval_loss", "eval_accuracy", "eval_f1"]
metrics += ["predict_loss", "predict_accuracy", "predict_f1"]
metrics += ["train_samples", "epoch", "train_runtime", "eval_runtime", "predict_runtime"]
packages = ["torch", "transformers", "scikit-learn"]
rows = []
for group in groups:
    folders = [Path(output, group)]
    for path in sorted(Path(output, group).glob("lr-*-seed-*")):
        if re.fullmatch(r"lr-.+-seed-\d+", path.name):  # not a copy that was interrupted
            folders.append(path)
    for folder in folders:
        results = {}
        for part in ("train", "eval", "predict"):
            path = folder / f"{part}_results.json"
            results |= json.loads(path.read_text()) if path.exists() else {}
        if not results:
            continue
        record = json.loads((folder / "run_arguments.json").read_text())
        row = {"run": folder.relative_to(output).as_posix()}
        row |= {key: record.get(key) for key in ("learning_rate", "seed", "device")}
        row |= {key: results.get(key) for key in metrics}
        rows.append(row | {key: record["versions"].get(key) for key in packages})
path = Path(output, "runs.csv")
with path.with_suffix(".tmp").open("w", newline="") as file:
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
os.replace(file.name, path)
PYTHON
}

# Print the encoder with the lowest validation loss among the given runs.
best_run() {
    python - "$@" <<'PYTHON'
import json, sys
from pathlib import Path


def loss(run):
    return json.loads(Path(run, "eval_results.json").read_text())["eval_loss"]


print(min(sys.argv[1:], key=loss))
PYTHON
}

# Set models_to_explain to names of finished models.
choose_models_to_explain() {
    local name best_encoder
    models_to_explain=()
    if [ "$EXPLAIN" != default ]; then
        for name in $EXPLAIN; do
            if set_chosen "$OUTPUT_DIR/$name"; then
                models_to_explain+=("$name")
            else
                echo "$name is not finished; it is not explained"
            fi
        done
        return
    fi
    [ "$mode" != --tables ] || return 0
    if [ ${#encoders[@]} != 0 ]; then
        best_encoder=$(best_run "${first_runs[@]}")
        models_to_explain+=("$(basename "$(dirname "$best_encoder")")")
    fi
    for name in "${model_name[@]}"; do
        ! is_shallow "$name" || models_to_explain+=("$name")
    done
}

# Set run to the run of a model that is explained: that of the first seed, whatever seeds are added.
# $1: name
set_run() {
    set_chosen "$OUTPUT_DIR/$1"
    run=${chosen[0]}
}

# Like step, for a step that needs the weights of $run.
step_with_weights() {
    is_made "$@" || has_weights "$run" ||
        fail "$1 needs the weights of $run, and there is no model.safetensors; copy it there," \
            "move the run away to train it again, or leave the model out of EXPLAIN"
    step "$@"
}

# Attributions, their faithfulness and their page. $1: name of the model
attribute() {
    local output=$OUTPUT_DIR/attribution-$1 run
    set_run "$1"
    split_into_words "$ATTRIBUTION_ARGUMENTS"
    step_with_weights "attribution-$1" "$output/summary.json" "$run/predictions.csv" -- \
        "${launch[@]}" run_attribution.py --model_name_or_path "$run" --dataset_name "$DATASET" \
        --split test --output_dir "$output" "${words[@]}"
    if [ "$FAITHFULNESS_SAMPLES" != 0 ]; then
        split_into_words "$FAITHFULNESS_ARGUMENTS"
        step_with_weights "faithfulness-$1" "$output/faithfulness.json" \
            "$output/attributions.jsonl" -- \
            python tools/measure_faithfulness.py --attribution_dir "$output" \
            --max_samples "$FAITHFULNESS_SAMPLES" "${words[@]}"
    fi
    local files=("$output/attributions.jsonl")
    [ ! -e "$output/faithfulness.json" ] || files+=("$output/faithfulness.json")
    step "page-$1" "$output/attributions.html" "${files[@]}" -- \
        python tools/render_attributions.py --attribution_dir "$output"
    attributions+=("$output")
}

# Does it use context? Compared with the SVM and the shallow networks. $1: name of an encoder
test_context() {
    local run name references=() files=() folders=("$OUTPUT_DIR/attribution-$1")
    for name in "${models_to_explain[@]}"; do
        is_shallow "$name" || continue
        set_run "$name"
        references+=("$run")
        files+=("$run/predictions.csv")
        folders+=("$OUTPUT_DIR/attribution-$name")
    done
    set_run "$1"
    files+=("$run/predictions.csv" "$OUTPUT_DIR/svm/predictions.csv")
    files+=("${folders[@]/%//attributions.jsonl}")
    split_into_words "$CONTEXT_ARGUMENTS"
    step_with_weights "context-$1" "$OUTPUT_DIR/context-$1/context.json" "${files[@]}" -- \
        python tools/measure_context.py --model_name_or_path "$run" --dataset_name "$DATASET" \
        --output_dir "$OUTPUT_DIR/context-$1" --compare "$OUTPUT_DIR/svm" "${references[@]}" \
        --attributions "${folders[@]}" "${words[@]}"
    contexts+=("$OUTPUT_DIR/context-$1")
}

explain_models() {
    local name
    attributions=() contexts=()
    choose_models_to_explain
    for name in "${models_to_explain[@]}"; do
        attribute "$name"
    done
    for name in "${models_to_explain[@]}"; do
        is_shallow "$name" || test_context "$name"
    done
}

# The whole study as one page. It has room for the tests of context of one model.
report() {
    split_into_words "$REPORT_ARGUMENTS"
    python tools/make_report.py --output_dir "$OUTPUT_DIR/report" --dataset_name "$DATASET" \
        --runs "${runs[@]}" --comparison_dir "$OUTPUT_DIR/comparison" \
        "${curve[@]}" \
        ${attributions:+--attribution_dirs "${attributions[@]}"} \
        ${contexts:+--context_dir "${contexts[0]}"} "${words[@]}"
    echo "Done: $OUTPUT_DIR/report/index.html, the whole study as one page (see also" \
        "$OUTPUT_DIR/comparison/comparison.md ${attributions[*]/%//attributions.html}" \
        "${contexts[*]/%//context.html})"
}

# ------------------------------------------------------------------------------------------------
# 1. The plan
read_models
note_unread
shallow_tokenizer=$(find_tokenizer)
is_fetched=""
if [ -z "$DATASET" ]; then
    is_fetched=1
    DATASET=$OUTPUT_DIR/data
fi
plan_groups
if [ "$mode" = --status ]; then
    [ -d "$logs" ] || fail "nothing has been started in $OUTPUT_DIR"
    print_status
    exit
fi

# 2. Finished runs must be those of the plan. Until that is known, no file is written.
if [ -z "$is_fetched" ] || [ -e "$DATASET/manifest.json" ]; then
    check_data "$(digest_of_data)"
fi
plan_runs
check_finished

# 3. Data, networks and the list of runs
open_folder "$OUTPUT_DIR" run_paper.sh study.json
mkdir -p "$logs"
make_sources
if [ "$mode" != --tables ]; then
    write_list
fi
if [ "$mode" = --list ]; then
    unfinished=$(list_unfinished | sort -n | paste -sd ,)
    count=$(tr , '\n' <<< "$unfinished" | grep -c . || true)
    echo "$list has $(grep -c . "$list") runs, $count of them not finished"
    array=${unfinished:+sbatch --array=$unfinished configs/slurm/runs.sbatch, or }
    echo "next: ${array}bash run_paper.sh"
    exit
fi

# 4. Training
trap 'for worker in "${workers[@]}"; do kill -- "-$worker" || true; done' EXIT
if [ "$mode" != --tables ]; then
    [ "$mode" = --train ] || train_svms
    train_all
fi
[ "$mode" != --train ] || exit 0

# 5. Tables, attributions, tests of context, and one page of it all. A second process waits.
lock_folder "$OUTPUT_DIR"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores}
train_svms
write_learning_rates
compare_models
correct_together
draw_learning_curve
write_runs
explain_models
report
