"""What this machine has, what does not fit together, and what to do about it."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hpcnk.comm import launcher, library_version, world
from hpcnk.engine import device_problem
from hpcnk.engine.build import built_library, find_compiler
from hpcnk.engine.library import DTYPES, host_library
from hpcnk.errors import BackendError, UsageError
from hpcnk.run.threads import threads_per_rank
from hpcnk.store import choose_driver, library
from hpcnk.version import __version__

_LIBMPI = re.compile(r"/libmpi(ch)?\.so[.\d]*$")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's letter; `advice` is empty when all is well."""

    subject: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{'PROBLEM' if self.advice else 'ok':8}{self.subject:10}{self.text}"
        return f"{line}\n{'':18}-> {self.advice}" if self.advice else line


def doctor() -> list[Finding]:
    """Look at everything. Starts MPI; collective when started under a launcher."""
    return [_python(), _cpu(), *_mpi(), _hdf5(), _libraries(_mapped_files()), _gpu()]


def _python() -> Finding:
    return Finding("python", f"{platform.python_version()} in {sys.prefix}, hpcnk {__version__}")


def _cpu() -> Finding:
    """The compiler and what it made. The library is built here, so before MPI starts."""
    try:
        compiler = shlex.join(find_compiler())
        lanes = {name: host_library(name).lanes for name in DTYPES}
    except BackendError as error:
        return Finding("cpu", error.what, error.advice)
    widths = ", ".join(f"{number} lanes of {name}" for name, number in lanes.items())
    return Finding("cpu", f"engine built by {compiler} in {built_library()}: {widths}")


def _mpi() -> list[Finding]:
    started = launcher()
    try:
        comm = world()
    except UsageError as error:
        return [Finding("mpi", error.what, error.advice)]
    mpirun = shutil.which("mpirun") or shutil.which("mpiexec") or "none on the PATH"
    threads = threads_per_rank(comm)
    return [
        Finding("mpi", f"{library_version()}; mpirun: {mpirun}"),
        Finding("launcher", f"{started.name}: {comm.size} rank(s), {threads} thread(s) each"),
    ]


def _hdf5() -> Finding:
    found = library()
    driver, reason = choose_driver("auto")
    text = f"h5py {found['h5py']}, HDF5 {found['hdf5']}; store driver {driver} ({reason})"
    return Finding("hdf5", text)


def _libraries(mapped: Iterable[str]) -> Finding:
    """Judge the MPI libraries loaded by mpi4py and by h5py together: there must be one."""
    libraries = sorted({str(Path(name).resolve()) for name in mapped if _LIBMPI.search(name)})
    if len(libraries) > 1:
        return Finding(
            "libmpi",
            f"{len(libraries)} MPI libraries are loaded in one process: {', '.join(libraries)}",
            "make mpi4py and h5py use the same one: MPI4PY_LIBMPI=PATH chooses for mpi4py",
        )
    return Finding("libmpi", libraries[0] if libraries else "not visible on this system")


def _mapped_files() -> list[str]:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    return [line.split()[-1] for line in maps.read_text().splitlines()]


def _gpu() -> Finding:
    """Without a GPU all is well: the CPU computes then."""
    problem = device_problem()
    return Finding("gpu", f"not used: {problem}" if problem else "usable: `backend: auto` takes it")
