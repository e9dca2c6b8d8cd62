"""What this machine has, what does not fit together, and what to do about it.

With a deck also what would keep its job from running here. Nothing is changed and nothing is left
behind, apart from the CPU engine, which is built for good.
"""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from hpcnk.comm import Communicator, active, launcher, library_version, place_on_host, world
from hpcnk.data import Description
from hpcnk.deck import Deck
from hpcnk.engine import device_problem
from hpcnk.engine.build import built_library, find_compiler
from hpcnk.engine.library import DTYPES, host_library
from hpcnk.errors import BackendError, HpcnkError, UsageError
from hpcnk.report import size
from hpcnk.run.folder import Folder
from hpcnk.run.guard.lock import running_holder
from hpcnk.run.guard.output import absolute, require_apart
from hpcnk.run.needs.filesystem import file_system
from hpcnk.run.needs.space import (
    Rows,
    check_coherence,
    check_limit,
    check_path,
    check_space,
    job_needs,
)
from hpcnk.run.threads import threads_per_rank
from hpcnk.run.tile_places import require_operator
from hpcnk.store import choose_driver, library
from hpcnk.version import __version__

# Under a name of its own at a site, or with a hash in a wheel; not its parts for C++ and Fortran.
_LIBMPI = re.compile(
    r"/libmpi(?!cxx|fort|_cxx|_mpifh|_usempi|_java)[-\w]*\.so[.\d]*( \(deleted\))?$"
)
Job = tuple[Deck, Description]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's letter; `advice` is empty when all is well."""

    subject: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{'PROBLEM' if self.advice else 'ok':8}{self.subject:10}{self.text}"
        return f"{line}\n{'':18}-> {self.advice}" if self.advice else line


def doctor(job: Job | None = None) -> list[Finding]:
    """Look at everything, with a job also at its deck and its output folder.

    Starts MPI; collective when started under a launcher. All ranks get what rank 0 found, and what
    other ranks found amiss and rank 0 did not.
    """
    mine = [_python(), _cpu(), *_mpi(), *_hdf5(), _libraries(_mapped_files()), _gpu()]
    comm = active()
    if job:
        mine += _job(*job, hosts=_hosts(comm) if comm else 1, root=launcher().rank == 0)
    return _together(mine, comm) if comm else mine


def _together(mine: list[Finding], comm: Communicator) -> list[Finding]:
    first, *others = comm.allgather(mine)
    for rank, findings in enumerate(others, 1):
        for finding in findings:
            if finding.advice and finding not in first:
                first.append(replace(finding, text=f"on rank {rank}: {finding.text}"))
    return first


def _hosts(comm: Communicator) -> int:
    return sum(number == 0 for number, _ in comm.allgather(place_on_host(comm)))


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
        threads = threads_per_rank(comm)
    except UsageError as error:
        return [Finding("mpi", error.what, error.advice)]
    mpirun = shutil.which("mpirun") or shutil.which("mpiexec") or "none on the PATH"
    return [
        Finding("mpi", f"{library_version()}; mpirun: {mpirun}"),
        Finding("launcher", f"{started.name}: {comm.size} rank(s), {threads} thread(s) each"),
    ]


def _hdf5() -> list[Finding]:
    found = library()
    driver, reason = choose_driver("auto")
    text = f"h5py {found['h5py']}, HDF5 {found['hdf5']}; store driver {driver} ({reason})"
    return [Finding("hdf5", text)]


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
    lines = (line.split(maxsplit=5) for line in maps.read_text(errors="replace").splitlines())
    return [fields[5] for fields in lines if len(fields) > 5]


def _gpu() -> Finding:
    """Without a GPU all is well: the CPU computes then."""
    problem = device_problem()
    return Finding("gpu", f"not used: {problem}" if problem else "usable: `backend: auto` takes it")


def _job(deck: Deck, data: Description, hosts: int, root: bool) -> list[Finding]:
    """Judge what a deck asks for; what lies on the disk is looked at by the first rank alone."""
    found = [
        _checked("backend", lambda: _backend(deck)),
        _checked("solve", lambda: _solve(deck)),
        _checked("store", lambda: _store(deck, hosts)),
    ]
    if root:
        found.append(_checked("output", lambda: _output(deck)))
        if not found[-1].advice:
            found.append(_checked("disk", lambda: _disk(deck, data)))
    return found


def _checked(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, look())
    except HpcnkError as error:
        return Finding(subject, error.what, error.advice or "see above")


def _backend(deck: Deck) -> str:
    """Say what will compute. Raises BackendError where the deck wants a GPU and there is none."""
    backend, problem = deck.kernel.backend, device_problem()
    if backend == "gpu" and problem:
        raise BackendError(
            f"the deck asks for backend gpu: {problem}",
            "start it where there is a GPU, or set `backend: auto` or `cpu` in the deck",
        )
    return f"the deck asks for {backend}"


def _solve(deck: Deck) -> str:
    """Say where tiles will be in the solve. Raises HpcnkError where they cannot be."""
    require_operator(deck)
    return f"the deck asks for operator {deck.solve.operator}"


def _store(deck: Deck, hosts: int) -> str:
    """Say how tiles will be written. Raises UsageError where they cannot be."""
    driver, reason = choose_driver(deck.store.driver)
    path = Folder(absolute(deck.output)).test_kernel
    check_coherence(file_system(path), driver, hosts)
    if active():
        check_path(path, driver)
    return f"{driver} ({reason})"


def _output(deck: Deck) -> str:
    """Say where the results will go. Raises UsageError if not there."""
    folder = Folder(absolute(deck.output))
    require_apart(deck, folder)
    folder.require_free_way()
    holder = running_holder(folder.path)
    if holder:
        raise UsageError(
            f"a run is at work in {folder.path}: {holder}",
            "wait for its end, or give the deck another `output`",
        )
    return f"{folder.path} on {file_system(folder.path)}"


def _disk(deck: Deck, data: Description) -> str:
    """Say what the files take. Raises StorageError if the disk cannot hold or take them."""
    folder = Folder(absolute(deck.output))
    rows = Rows(data.train_rows, data.test_rows, data.input_shape, data.outputs)
    needs = job_needs(folder, deck, rows)
    check_limit(needs)
    check_space(folder.path, needs)
    return f"{size(sum(need.missing for need in needs))} are still to be written, and there is room"
