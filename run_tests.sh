#!/usr/bin/env bash
# Sets everything up in .venv (once) and runs the checks and the tests, offline.
#   bash run_tests.sh                      everything
#   bash run_tests.sh tests/test_x.py -x   arguments go to pytest
#   PYTHON=python3.12 bash run_tests.sh    picks the interpreter for a new .venv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./setup_env.sh
export HF_HUB_OFFLINE=1
ruff check .
ruff format --check .
exec python -m pytest "$@"
