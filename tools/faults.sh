#!/usr/bin/env bash
# Let ranks fail in every way and stage, start again, and compare with a run that nothing happened
# to; then kill jobs at random moments. Sets the test environment up first. Arguments go to faults.py.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh
source tools/test_environment.sh

make_test_environment
export_test_environment
exec .venv-test/bin/python -m tools.faults "$@"
