#!/usr/bin/env bash
# Sets everything up in .venv (once), then runs the checks and the tests, offline and on all cores.
#   bash run_tests.sh                      everything
#   bash run_tests.sh -m "not slow"        without the long simulations
#   bash run_tests.sh tests/test_x.py -x   arguments go to pytest
#   PYTHON=python3.12 bash run_tests.sh    chooses the interpreter of a new .venv
set -euo pipefail
unset CDPATH                                  # with it, cd may lead elsewhere
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
source ./setup_env.sh
set_up_environment
export HF_HUB_OFFLINE=1
ruff check .
ruff format --check .
# Two workers more than cores, because some tests wait for servers, with one thread each. The tests
# of a file share their fixtures, so they stay in one worker.
export OMP_NUM_THREADS=1
workers=$(($(getconf _NPROCESSORS_ONLN) + 2))
exec python -m pytest --numprocesses "$workers" --dist loadfile --no-loadscope-reorder \
    --durations 10 "$@"
