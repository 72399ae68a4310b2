# Sourced by run_quickstart.sh, run_paper.sh, run_findings.sh and run_tests.sh in the project's
# folder: the functions that these scripts share. set_up_environment creates .venv if needed,
# installs the pinned packages if they changed, and puts it first on PATH.

fail() {
    echo "error: $*" >&2
    exit 2
}

# Exit unless bash has associative arrays, mapfile, and empty arrays under set -u: macOS has bash 3.2.
# $1: major version, $2: minor version
require_bash() {
    (( $1 > 4 || ($1 == 4 && $2 >= 4) )) ||
        fail "this is bash $1.$2; install bash 4.4 or newer (on macOS: brew install bash)"
}
require_bash "${BASH_VERSINFO[0]}" "${BASH_VERSINFO[1]}"

# Exit unless commands are installed; minimal images lack some. $1: their package, rest: commands
require_commands() {
    local name
    for name in "${@:2}"; do
        command -v "$name" > /dev/null || fail "$name is not installed; it is part of $1"
    done
}
require_commands findutils find xargs
require_commands diffutils cmp

# Split a text into the array `words` as a shell does; quotes count, nothing is expanded.
split_into_words() {
    local text
    text=$(xargs -r printf '%s\n' <<< "$1" 2> /dev/null && echo end) ||
        fail "a quote is not closed in: $1"
    mapfile -t words <<< "$text"
    unset 'words[-1]'
}

# Print words on one line as a shell, xargs and Python's shlex read them, in any locale. bash's own
# %q and @Q write $'...' for some characters, which nothing but bash reads.
quote_words() {
    local word line="" quote="'\"'\"'"
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_.,:=@%+/-]+$ ]] || word=\'${word//\'/"$quote"}\'
        line+="${line:+ }$word"
    done
    printf '%s\n' "$line"
}

# Let variables with paths be relative to $caller, the folder that the script was started in. They
# stay as they are if that is the project's folder, so that files name no folder of this machine.
# $@: names of variables
resolve_paths() {
    local variable path
    for variable in "$@"; do
        path=${!variable:-}
        [ -n "$path" ] || continue
        [[ $path != *[$'\t\r\n']* ]] ||
            fail "$variable has a tab or a line break; choose another name"
        if [[ $path != /* ]] && [ ! "$caller" -ef . ]; then
            path=${caller%/}/$path
        fi
        [[ $path != -* ]] || path=./$path
        printf -v "$variable" %s "$path"
    done
}

# The same for variables that may also be ids on the Hub: a path that exists there is meant.
resolve_existing() {
    local variable
    for variable in "$@"; do
        [[ -z ${!variable:-} || ${!variable} = /* || ! -e $caller/${!variable} ]] ||
            resolve_paths "$variable"
    done
}

# Put one blank between the words in variables, whatever stands there. $@: names of variables
normalize_words() {
    local variable words
    for variable in "$@"; do
        [ -n "${!variable+set}" ] || continue
        read -rd '' -a words <<< "${!variable}" || true
        printf -v "$variable" %s "${words[*]}"
    done
}

# Refuse a word that is there twice. $1: what they are, $2: a format of printf, %.20e for numbers,
# which may be written in several ways; rest: the words
check_distinct() {
    local word key LC_ALL=C
    local -A written=()
    for word in "${@:3}"; do
        printf -v key "$2" "$word"
        [ -z "${written[$key]:-}" ] || fail "$1 has ${written[$key]} and $word; give each once"
        written[$key]=$word
    done
}

# $@: names of variables
check_switch() {
    local variable
    for variable in "$@"; do
        [[ ${!variable} =~ ^1?$ ]] || fail "$variable must be 1 or empty, not '${!variable}'"
    done
}

# Refuse flags that a script gives itself.
# $1: name of a variable, $2: its text, rest: FLAG=WHAT_TO_SET_INSTEAD, or FLAG= if there is nothing
refuse_flags() {
    local word flag refused instead
    split_into_words "$2"
    for word in "${words[@]}"; do
        [[ $word = --* ]] || continue
        flag=${word%%=*}
        flag=${flag#--}
        for refused in "${@:3}"; do
            instead=${refused#*=}
            [ "${flag//-/_}" != "${refused%%=*}" ] ||
                fail "$1 has --$flag, which this script gives itself;" \
                    "${instead:+set }${instead:-remove it}${instead:+ instead}"
        done
    done
}

# Print the first Python that is new enough; it is asked for its version, not judged by its name.
find_python() {
    local candidate candidates=(python3 python3.13 python3.12 python3.11)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found (tried: ${candidates[*]}); install one or name it:" \
        "PYTHON=/path/to/python3.12 bash $0"
}

# $1: a Python
is_new_enough() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' 2> /dev/null
}

# Create .venv. One that does not work, for example because its Python was uninstalled, is made
# again if it is this project's; anything else under that name is left as it is.
make_environment() {
    local chosen
    chosen=$(find_python) || exit
    if [ -L .venv ]; then
        fail ".venv is a symbolic link to something without a Python 3.11 or newer; remove the link"
    fi
    if [ ! -e "$mark" ] && [ ! -e "$stamp" ] && [ -e .venv ] && ! rmdir .venv 2> /dev/null; then
        fail ".venv has no Python 3.11 or newer and is not this project's; move it away"
    fi
    echo "Creating .venv with $("$chosen" --version)"
    mkdir -p .venv
    touch "$mark"                             # by which an interrupted creation is recognized
    find .venv -mindepth 1 ! -path "$mark" -delete
    "$chosen" -m venv .venv || fail "cannot create .venv with $chosen, see above"
}

# Install the packages. The stamp holds the requirement files themselves: a changed pin installs
# again, anything else starts at once.
install_packages() {
    local start=$SECONDS
    echo "Installing requirements-dev.txt into .venv: a download of 2.8 GB the first time, most of it" \
        "PyTorch and its CUDA libraries"
    .venv/bin/python -m pip --version > /dev/null 2>&1 ||
        fail ".venv has no pip; move it away, and it is made again"
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off \
        -r requirements-dev.txt | show_downloads ||
        fail "cannot install requirements-dev.txt into .venv, see above; then run this again"
    cat requirements.txt requirements-dev.txt > "$stamp"
    echo "Installed in $((SECONDS - start)) seconds"
}

# Of what pip prints, show the files of 10 MB or more that it downloads, and the last step.
show_downloads() {
    local word file size unit
    while read -r word file size unit _; do
        size=${size#(}
        if [[ $word == Downloading && ($unit == "GB)" || ($unit == "MB)" && ${size%.*} -ge 10)) ]]; then
            file=${file##*/}
            echo "  downloading ${file%%-[0-9]*}, $size ${unit%)}"
        elif [ "$word" = Installing ]; then
            echo "  unpacking"
        fi
    done
}

# Create .venv and install into it if needed, and put it first on PATH.
set_up_environment() {
    local mark=.venv/made-by-setup_env stamp=.venv/installed-requirements.txt
    # Two scripts that start at once do not create it twice: this locks the project's folder.
    exec 8< .
    ! command -v flock > /dev/null || flock 8
    if ! is_new_enough .venv/bin/python; then
        make_environment
    fi
    if ! cat requirements.txt requirements-dev.txt | cmp -s - "$stamp"; then
        install_packages
    fi
    exec 8<&-
    export PATH="$PWD/.venv/bin:$PATH"
    export HF_HUB_DISABLE_TELEMETRY=1
}

# Create an output folder, or check that an existing one is this script's: nothing is written into
# a folder with other things. Runs that were copied there before the first call are accepted.
# $1: folder, $2: script, $3: its record in the folder
open_folder() {
    local entry
    if [ -e "$1" ] && [ ! -d "$1" ]; then
        fail "$1 is a file; choose a folder for the output"
    fi
    if ! mkdir -p "$1" 2> /dev/null || [ ! -w "$1" ]; then
        fail "cannot write into $1; choose another folder"
    fi
    if grep -qsF "\"script\": \"$2\"" "$1/$3"; then
        return
    fi
    while IFS= read -r -d '' entry; do
        if [[ ${entry##*/} != "$3".*tmp ]] && ! holds_runs "$entry"; then
            fail "$1 holds ${entry##*/}, which $2 did not write; choose another folder"
        fi
    done < <(find "$1/" -mindepth 1 -maxdepth 1 -print0)
    # Another process may do the same.
    printf '{"script": "%s"}\n' "$2" > "$1/$3.$$.tmp"
    mv "$1/$3.$$.tmp" "$1/$3"
}

# Whether a folder is a run, or holds nothing but runs of one model as run_paper.sh names them.
holds_runs() {
    local entry
    [ ! -e "$1/run_arguments.json" ] || return 0
    for entry in "$1"/*; do
        case ${entry##*/} in
            learning_rates.csv) ;;
            lr-*-seed-*) [ -e "$entry/run_arguments.json" ] || return 1 ;;
            *) return 1 ;;
        esac
    done
}

# Let a second process wait, so that two do not write the same files. $1: output folder
lock_folder() {
    mkdir -p "$1/logs"
    exec 7>> "$1/logs/steps.lock"
    command -v flock > /dev/null || return 0
    if ! flock --nonblock 7; then
        echo "Another process works in $1; waiting for it"
        flock 7
    fi
}

# Run a command unless its result is there and was made by the same command from the same files.
# What was made is kept in $OUTPUT_DIR/logs. Whether a result of another command may be replaced is
# for the command to decide: it says so and exits with status 2 if not.
# $1: name of the step, $2: its result, files that it depends on, --, the command
step() {
    local made=$OUTPUT_DIR/logs/$1.made
    ! is_made "$@" || return 0
    while [ "$1" != -- ]; do
        shift
    done
    shift
    "$@" || exit
    mkdir -p "$OUTPUT_DIR/logs"
    printf '%s\n' "$step_text" > "$made.tmp"
    mv "$made.tmp" "$made"
}

# Whether step has nothing to do; step_text is set to its command and the digests of its files.
is_made() {
    local made=$OUTPUT_DIR/logs/$1.made result=$2 word
    shift 2
    step_text="data ${data_digest:-}"
    while [ "$1" != -- ]; do
        step_text+=$'\n'$(sha256sum < "$1") || exit
        shift
    done
    for word in "$@"; do
        step_text+=$'\n'${word/#"$OUTPUT_DIR"/OUTPUT_DIR}    # it may be moved to another place
    done
    [ -e "$result" ] && [ -e "$made" ] && [ "$step_text" = "$(cat "$made")" ]
}
