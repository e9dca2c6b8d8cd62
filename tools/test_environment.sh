# Functions that make the environment of the tests; sourced after environment.sh, not run.
#
# On Debian or Ubuntu with root or sudo: Open MPI and parallel HDF5 from the distribution, and an
# h5py built with MPI. Elsewhere wheels, and the tests of the mpio driver are skipped.

PACKAGES="openmpi-bin libopenmpi-dev libhdf5-openmpi-dev g++ pkg-config iproute2"
SLURM_PACKAGES="slurm-wlm munge"

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

can_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

have_packages() { dpkg -s $PACKAGES >/dev/null 2>&1; }

install_packages() {
    have_packages && return
    can_install || return 1
    say "installing $PACKAGES"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $PACKAGES >/dev/null
}

# Slurm's daemons start jobs as root alone, so the packages are of no use to others.
install_slurm() {
    dpkg -s $SLURM_PACKAGES >/dev/null 2>&1 && return
    if [ "$(id -u)" != 0 ] || ! can_install; then
        say "no root on Debian or Ubuntu: the tests under Slurm will be skipped"
        return
    fi
    say "installing $SLURM_PACKAGES"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends $SLURM_PACKAGES >/dev/null; } ||
        say "Slurm cannot be installed: its tests will be skipped"
}

# The fast route: built against the mpi4py wheel, without pip's isolation, which would compile an
# old mpi4py first.
build_parallel_h5py() {
    local hdf5
    hdf5=/usr/lib/$(gcc -dumpmachine)/hdf5/openmpi
    say "building h5py with MPI (2 to 4 minutes, once)"
    .venv-test/bin/python -m pip install --quiet 'setuptools>=77' cython pkgconfig numpy mpi4py
    H5PY_SETUP_REQUIRES=0 CC=mpicc HDF5_MPI=ON HDF5_DIR=$hdf5 .venv-test/bin/python -m pip install \
        --quiet --no-build-isolation --no-deps --no-binary=h5py h5py
}

make_test_environment() {
    local made_from parallel=no
    install_packages && parallel=yes
    made_from=$(fingerprint pyproject.toml tools/test_environment.sh)-$parallel
    is_ready .venv-test "$made_from" && return
    say "setting up .venv-test"
    make_venv .venv-test
    if [ $parallel = yes ]; then
        build_parallel_h5py
    else
        say "no root on Debian or Ubuntu: the tests of the mpio driver will be skipped"
    fi
    .venv-test/bin/python -m pip install $PIP_OPTIONS --editable '.[test]'
    if ! mpi_works .venv-test; then
        [ $parallel = no ] || die "the distribution's MPI does not work with mpi4py"
        .venv-test/bin/python -m pip install $PIP_OPTIONS --editable '.[mpi]'
    fi
    echo "$made_from" > .venv-test/.ready
}

# Where the tests find their MPI, and the environment of wheels alone.
export_test_environment() {
    unset PYTHONDONTWRITEBYTECODE  # jobs by the hundred start a fifth quicker from compiled modules
    export OPENBLAS_NUM_THREADS=1  # workers share the cores: BLAS threads would only wait for each other
    HPCNK_MPIRUN=$(mpirun_of .venv-test)
    HPCNK_WHEEL_PYTHON=$PWD/.venv/bin/python
    HPCNK_WHEEL_MPIRUN=$(mpirun_of .venv)
    export HPCNK_MPIRUN HPCNK_WHEEL_PYTHON HPCNK_WHEEL_MPIRUN
}
