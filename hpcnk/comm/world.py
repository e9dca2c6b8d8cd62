"""Start MPI once, and end it for all ranks when one fails.

A rank that dies of an exception leaves the others waiting for ever in their next collective call,
so the interpreter's last resort, `sys.excepthook`, is made to abort the whole job here.
"""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import mpi4py

from hpcnk.comm.launcher import launcher
from hpcnk.errors import UsageError

if TYPE_CHECKING:
    from mpi4py.MPI import Comm as Communicator
else:
    Communicator = Any

# Only the main thread calls MPI. Said here, for an h5py built with MPI starts it when imported.
mpi4py.rc.thread_level = "funneled"

_started: list[Any] = []


def active() -> Communicator | None:
    """Return the communicator if `world` was called in this process, else None."""
    return _started[0] if _started else None


def world() -> Communicator:
    """Start MPI if need be and return a private copy of COMM_WORLD. Collective.

    Raises UsageError when no MPI library is found, or when the launcher started more ranks than
    MPI sees: then the launcher and the library belong to different MPIs, and every process would
    run the whole job.
    """
    if not _started:
        _started.append(_start())
        sys.excepthook = _abort_on_exception
    return _started[0]


def _start() -> Communicator:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"no MPI library could be loaded ({str(error).splitlines()[0]})",
            "load your site's MPI module, or `pip install mpich`; see `hpcnk doctor`",
        ) from error
    seen, started = MPI.COMM_WORLD.Get_size(), launcher()
    if started.size != seen:
        raise UsageError(
            f"{started.name} started {started.size} ranks, but the MPI library of this Python "
            f"({library_version()}) sees {seen}",
            "start with the mpirun of the same MPI; `hpcnk doctor` shows both",
        )
    return MPI.COMM_WORLD.Dup()


def abort(message: str, code: int) -> NoReturn:
    """Print this rank's message and end all ranks at once with this exit code. Needs no partner."""
    comm = _started[0]
    print(f"hpcnk: rank {comm.rank} of {comm.size}: {message}", file=sys.stderr, flush=True)
    comm.Abort(code)
    os._exit(code)  # Abort does not return, but nothing promises it


def _abort_on_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    abort("".join(traceback.format_exception(kind, error, trace)), 1)


def library_version() -> str:
    """Return the MPI library's own first line, such as "Open MPI v5.0.6". MPI must be started."""
    from mpi4py import MPI

    return MPI.Get_library_version().split(",")[0].splitlines()[0].strip("\0 \t")
