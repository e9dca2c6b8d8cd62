#!/usr/bin/env bash
# Let ranks fail in every way and phase, start again, and compare with a run that nothing happened
# to. Needs the test environment, and makes it if it is not there. Arguments go to faults.py.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh
make_test_environment
exec .venv-test/bin/python -m tools.faults "$@"
