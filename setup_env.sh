# Sourced by run_quickstart.sh, run_paper.sh and run_tests.sh from the project's folder: makes .venv if there is none,
# installs the pinned packages if they changed, puts it first on PATH.
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
    chosen=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' 2>/dev/null; then
            chosen=$candidate
            break
        fi
    done
    if [ -z "$chosen" ]; then
        echo "error: no Python 3.11 or newer found (tried: ${PYTHON:-python3 python3.13 python3.12 python3.11}); install one or name it: PYTHON=/path/to/python3.12 bash $0" >&2
        exit 2
    fi
    echo "Making .venv with $("$chosen" --version)"
    rm -rf .venv
    "$chosen" -m venv .venv
fi

# The stamp holds the requirement files themselves: a changed pin installs again, anything else starts at once.
stamp=.venv/installed-requirements.txt
if ! cat requirements.txt requirements-dev.txt | cmp -s - "$stamp"; then
    echo "Installing requirements-dev.txt into .venv (a few minutes the first time)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
    cat requirements.txt requirements-dev.txt > "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
export HF_HUB_DISABLE_TELEMETRY=1
