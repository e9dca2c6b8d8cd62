#!/usr/bin/env bash
# Install what the tests need (once) and run all of them. Arguments go to pytest.
#
# On Debian or Ubuntu with root or sudo: Open MPI and parallel HDF5 from the distribution, and an
# h5py built with MPI. Elsewhere the tests run on wheels and those of the mpio driver are skipped.
# As root also Slurm, of which the tests start one of their own; elsewhere those say why they skip.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh
source tools/test_environment.sh

make_wheel_environment
make_test_environment
install_slurm
export_test_environment
# Jobs under mpirun and under Slurm wait a lot: three workers keep two cores busy. The files that
# take longest come first.
exec .venv-test/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"
