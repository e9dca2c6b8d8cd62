# Functions shared by quickstart.sh and test.sh; sourced, not run. Works in the project's root.
#
# .venv       wheels alone: what a user gets. Its MPI is the machine's, or a wheel where there is none.
# .venv-test  on Debian and Ubuntu with root: the distribution's Open MPI, and h5py built against
#             its parallel HDF5. The two MPIs never meet in one process.

# Wheels alone; and an editable install by path, so that a folder called hpcnk in the working
# directory, such as a clone seen from above, does not hide the package.
PIP_OPTIONS="-qq --only-binary :all: --config-settings editable_mode=compat"

say() { printf '== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Open MPI refuses to run as root, or with more ranks than cores, unless it is told otherwise.
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' \
            >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.10 or newer with venv found (Debian: apt-get install python3-venv);" \
        "set PYTHON=/path/to/python3"
}

# fingerprint FILE...: what an environment was made from
fingerprint() { cat "$@" tools/environment.sh | cksum | tr -d ' '; }

# is_ready DIR FINGERPRINT
is_ready() { [ -x "$1/bin/python" ] && [ "$(cat "$1/.ready" 2>/dev/null)" = "$2" ]; }

# make_venv DIR: an empty environment with a current pip
make_venv() {
    local python
    python=$(find_python)
    rm -rf "$1"
    "$python" -m venv "$1"
    "$1/bin/python" -m pip install --quiet --upgrade pip
}

# mpi_works DIR: two ranks see each other with the mpirun that mpirun_of names
mpi_works() {
    local mpirun
    mpirun=$(mpirun_of "$1") || return 1
    timeout 60 "$mpirun" -n 2 "$1/bin/python" -c \
        'import sys; from mpi4py import MPI; sys.exit(MPI.COMM_WORLD.size != 2)' >/dev/null 2>&1
}

# mpirun_of DIR: the launcher that belongs to the environment
mpirun_of() {
    if [ -x "$1/bin/mpirun" ]; then echo "$PWD/$1/bin/mpirun"; else command -v mpirun; fi
}

# has_compiler: something for the CPU engine's first use; the same search as hpcnk/engine/build.py
has_compiler() {
    local name
    for name in ${CXX:-} c++ g++ clang++; do
        if command -v "$name" >/dev/null; then return 0; fi
    done
    return 1
}

# make_wheel_environment: .venv from wheels alone, once
make_wheel_environment() {
    local made_from
    made_from=$(fingerprint pyproject.toml)
    is_ready .venv "$made_from" && return
    say "setting up .venv from wheels"
    make_venv .venv
    .venv/bin/python -m pip install $PIP_OPTIONS --editable .
    if ! mpi_works .venv; then
        say "no working MPI on this machine: installing MPICH as a wheel"
        .venv/bin/python -m pip install $PIP_OPTIONS --editable '.[mpi]'
        mpi_works .venv || die "MPICH's wheel does not work here; .venv/bin/hpcnk doctor may tell why"
    fi
    if ! has_compiler; then
        say "no C++ compiler on this machine: installing one as a wheel (ziglang, 100 MB to fetch)"
        .venv/bin/python -m pip install $PIP_OPTIONS --editable '.[compiler]'
    fi
    echo "$made_from" > .venv/.ready
}
