"""The disk of a job: what its files will take, what the file system has and can hold."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcnk.comm import agreement, library_version, on_root, place_on_host
from hpcnk.deck import Deck
from hpcnk.engine.precision import working_dtype
from hpcnk.errors import DiskFull, StorageError, UsageError
from hpcnk.kernels import Architecture, parse
from hpcnk.report import size
from hpcnk.run.checkpoint import checkpoint_blocks
from hpcnk.run.folder import Folder
from hpcnk.run.needs.filesystem import FileSystem, file_system, nearest
from hpcnk.run.session import Session
from hpcnk.run.variances import positions
from hpcnk.store import (
    read_journals,
    read_layout,
    read_shape,
    read_variances_layout,
    storage_errors,
    variances_bytes,
)
from hpcnk.store.hdf5 import STRIPE
from hpcnk.store.journal import LINE_BYTES
from hpcnk.tiling import CrossGrid, Grid, TriangleGrid

FLOAT64 = 8  # bytes
SUM_BYTES = 4  # the checksum of one tile, in its file
SUNDRIES = 1 << 20  # bytes of reports, events, and what HDF5 keeps for itself
BLOCK = 512  # bytes, the unit of st_blocks everywhere
# Open MPI's own MPI-IO puts ".data.RANK" behind a path, into 256 bytes; 4.1 then aborts.
OMPIO_PATH = 240  # bytes


@dataclass(frozen=True)
class Rows:
    """The numbers that the sizes of files depend on, beside the deck."""

    train: int
    test: int
    input_shape: tuple[int, ...]
    outputs: int


@dataclass(frozen=True)
class Need:
    """One file, or files of a kind: the bytes when whole, and those that are on disk already."""

    name: str
    whole: int
    there: int = 0

    @property
    def missing(self) -> int:
        """Bytes that are still to come."""
        return max(0, self.whole - self.there)


def job_needs(folder: Folder, deck: Deck, rows: Rows) -> list[Need]:
    """Return what the job writes from its kernel stage on. Raises StorageError."""
    tile, entry = deck.kernel.tile, np.dtype(deck.kernel.dtype)
    triangle, cross = TriangleGrid(rows.train, tile), CrossGrid(rows.test, rows.train, tile)
    block = rows.outputs * len(deck.solve.ridge) * FLOAT64  # a row, for all systems
    return [
        _tiles(folder.kernel, triangle, entry),
        _tiles(folder.test_kernel, cross, entry),
        _variances(folder.variances, parse(deck.kernel.layers), entry, rows),
        # Written beside the old ones, if there are any, before these go.
        Need("results", (rows.train + rows.test) * block + rows.test * rows.outputs * FLOAT64),
        Need("the solver's checkpoints", checkpoint_blocks(deck) * rows.train * block),
        Need("reports and the like", SUNDRIES),
    ]


def check_space(folder: Path, needs: Sequence[Need]) -> None:
    """Raise StorageError unless the file system can hold the files, and has room for the missing.

    The folder may be absent: then its nearest parent counts. Leaves nothing behind.
    """
    place = nearest(folder)
    _check_largest(place, needs)
    missing, free = sum(need.missing for need in needs), free_bytes(place)
    if free is not None and missing > free:
        raise StorageError(
            f"the job still has to write {size(missing)} ({_listed(needs)}), and {size(free)} is "
            f"free on {file_system(place)}: {size(missing - free)} is missing",
            "free space, or put `output` on a larger file system; then start the same command "
            "again",
        )


def check_limit(needs: Sequence[Need]) -> None:
    """Raise StorageError if this process may not write files as large as the largest."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(needs, key=lambda need: need.whole)
    if limit != resource.RLIM_INFINITY and largest.whole > limit:
        raise StorageError(
            f"{largest.name} will have {size(largest.whole)}, and this process may write files of "
            f"at most {size(limit)}",
            "raise the limit with `ulimit -f`, or ask who set it",
        )


def free_bytes(place: Path) -> int | None:
    """Return the bytes that this user may still write to a file system, quotas apart.

    None where it does not tell. Raises StorageError.
    """
    with storage_errors("asking for the free space of", place):
        system = os.statvfs(place)
    return system.f_bavail * system.f_frsize if system.f_blocks else None


def check_coherence(system: FileSystem, driver: str, hosts: int) -> None:
    """Raise UsageError if hosts would write to one file past each other."""
    if driver == "posix" and hosts > 1 and system.cached_by_host:
        raise UsageError(
            f"the posix driver cannot write from {hosts} hosts to one file on {system}: each host "
            "has a cache of its own there",
            "install a parallel h5py (store.driver: mpio), put `output` on a parallel file system, "
            "or compute the kernel on one host",
        )


def check_path(path: Path, driver: str) -> None:
    """Raise UsageError if MPI-IO cannot take so long a path. MPI must be started."""
    length = len(os.fsencode(path))
    own = library_version().startswith("Open MPI") and "OMPI_MCA_io" not in os.environ
    if driver == "mpio" and own and length > OMPIO_PATH:
        raise UsageError(
            f"the path {path} has {length} bytes, and Open MPI writes to files with at most "
            f"{OMPIO_PATH}",
            "choose a shorter `output`, or store.driver: posix, or set OMPI_MCA_io=^ompio",
        )


def require_disk(session: Session, driver: str) -> None:
    """Raise StorageError if the disk cannot hold the job, UsageError if not from so many hosts.

    Collective. Nothing large has been written then.
    """
    comm, folder = session.comm, session.folder
    places = comm.allgather(place_on_host(comm))
    hosts = sum(number == 0 for number, _ in places)
    needs = on_root(comm, lambda: job_needs(folder, session.deck, _rows(folder)))
    with agreement(comm):
        check_limit(needs)
        check_coherence(file_system(folder.path), driver, hosts)
        check_path(folder.test_kernel, driver)
    on_root(comm, lambda: check_space(folder.path, needs))


@contextmanager
def full_disk_explained(session: Session) -> Iterator[None]:
    """Add to the error of a disk that fills in the body how much is missing."""
    try:
        yield
    except DiskFull as error:
        told = DiskFull(f"{error.what}{_lack(session)}", error.advice)
        told.agreed = error.agreed
        raise told from error


def _lack(session: Session) -> str:
    """Say how much is missing, if the disk can still be asked."""
    folder = session.folder
    with suppress(StorageError):
        needs = job_needs(folder, session.deck, _rows(folder))
        missing, free = sum(need.missing for need in needs), free_bytes(folder.path)
        if free is not None:
            return (
                f"; {size(missing)} is still to be written ({_listed(needs)}), {size(free)} is "
                f"free on {file_system(folder.path)}: {size(max(0, missing - free))} is missing"
            )
    return ""


def _rows(folder: Folder) -> Rows:
    """Find the numbers in the inputs file."""
    train, test, targets = (read_shape(folder.inputs, k) for k in ("x_train", "x_test", "y_train"))
    return Rows(train[0], test[0], train[1:], targets[1])


def _tiles(path: Path, grid: Grid, dtype: np.dtype) -> Need:
    tile = grid.tile**2 * dtype.itemsize + LINE_BYTES + SUM_BYTES
    return Need(path.name, grid.count * tile, _tiles_there(path, tile))


def _tiles_there(path: Path, tile: int) -> int:
    """Return the bytes that need no more room. Disks that compress have allocated less."""
    if not path.exists():
        return 0
    layout = read_layout(path)
    finished = layout.grid.count if layout.complete else len(read_journals(layout))
    return max(finished * tile, allocated(path))


def _variances(path: Path, architecture: Architecture, dtype: np.dtype, rows: Rows) -> Need:
    count = positions(architecture, rows.input_shape)
    itemsize = working_dtype(architecture, dtype).itemsize
    whole = sum(variances_bytes(n, count, itemsize) for n in (rows.train, rows.test))
    complete = path.exists() and read_variances_layout(path).complete
    return Need(path.name, whole, whole if complete else allocated(path))


def allocated(path: Path) -> int:
    """Return the bytes that a file takes on its disk, holes apart; 0 if it is not there."""
    try:
        return os.stat(path).st_blocks * BLOCK
    except FileNotFoundError:
        return 0


def _check_largest(place: Path, needs: Sequence[Need]) -> None:
    """Ask the file system for a sparse file of the largest size. Raises StorageError."""
    largest = max(needs, key=lambda need: need.whole)
    with storage_errors("writing to", place), tempfile.TemporaryFile(dir=place) as file:
        try:
            file.truncate(largest.whole + STRIPE)
        except OSError as error:
            if error.errno not in (errno.EFBIG, errno.EINVAL):
                raise
            raise StorageError(
                f"{largest.name} will have {size(largest.whole)}, and {file_system(place)} cannot "
                "hold so large a file",
                "put `output` on another file system",
            ) from error


def _listed(needs: Sequence[Need]) -> str:
    """Name the largest parts of what is missing."""
    parts = sorted((need for need in needs if need.missing), key=lambda need: -need.missing)
    return ", ".join(f"{size(need.missing)} {need.name}" for need in parts[:3])
