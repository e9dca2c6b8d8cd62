"""Two ways to put a tile's bytes into the same file.

`mpio`: h5py built with MPI, independent writes. `posix`: raw bytes at the data set's offset, for
the serial h5py that comes from PyPI. The bytes are the same and each file reads with either.
Both end in the page cache of this node; `sync` is what makes them durable. (H5Fflush would not:
it is collective under mpio, and no commit under any driver.)
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import h5py
from numpy.typing import NDArray

from hpcnk.errors import UsageError
from hpcnk.store import files
from hpcnk.store.layout import Layout
from hpcnk.store.own import open_own


class Driver(Protocol):
    """Writes tiles to an existing tile file. Only the main thread calls `write` unless
    `any_thread`; `sync` may be called from any.
    """

    any_thread: bool

    def write(self, number: int, tile: NDArray[Any]) -> None:
        """Write one whole tile, shape (b, b), C-contiguous, in the file's dtype."""

    def sync(self) -> None:
        """Make all that this rank has written durable."""

    def close(self) -> None:
        """Close the file. Collective under mpio."""


class Posix:
    """Raw writes at the offset of the data set."""

    any_thread = True

    def __init__(self, layout: Layout, comm: Any) -> None:
        self._layout = layout
        self._handle = open_own(layout.path, os.O_RDWR)

    def write(self, number: int, tile: NDArray[Any]) -> None:
        """Write one whole tile."""
        offset = self._layout.tiles_offset + number * self._layout.tile_bytes
        files.write_at(self._handle, files.raw(tile), offset)

    def sync(self) -> None:
        """Make all that this rank has written durable."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


class Mpio:
    """Independent writes through parallel HDF5: each is a call of MPI."""

    any_thread = False

    def __init__(self, layout: Layout, comm: Any) -> None:
        self._handle = open_own(layout.path, os.O_RDWR)
        self._file = h5py.File(layout.path, "r+", driver="mpio", comm=comm)
        self._tiles = self._file["tiles"]

    def write(self, number: int, tile: NDArray[Any]) -> None:
        """Write one whole tile, by rows so that no transfer exceeds the limit of MPI-IO."""
        rows = max(1, files.MAX_TRANSFER // tile[0].nbytes)
        for start in range(0, len(tile), rows):
            self._tiles[number, start : start + rows] = tile[start : start + rows]

    def sync(self) -> None:
        """Make all that this rank has written durable."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file. Collective."""
        os.close(self._handle)
        self._file.close()


DRIVERS: dict[str, Any] = {"posix": Posix, "mpio": Mpio}


def choose_driver(asked: str) -> tuple[str, str]:
    """Return the driver's name and, in a few words, why. `asked` is auto, mpio or posix.

    Raises UsageError when mpio is asked for and h5py is a serial build.
    """
    parallel = bool(h5py.get_config().mpi)
    if asked == "mpio" and not parallel:
        raise UsageError(
            "store.driver: mpio needs an h5py built with MPI; this one is serial",
            "use `driver: auto` or `posix` (the same file), or install a parallel h5py",
        )
    if asked != "auto":
        return asked, "asked for by the deck"
    return ("mpio", "h5py is built with MPI") if parallel else ("posix", "h5py is a serial build")


def library() -> dict[str, Any]:
    """Return the versions of h5py and HDF5, and whether they are built with MPI."""
    return {
        "h5py": h5py.version.version,
        "hdf5": h5py.version.hdf5_version,
        "h5py_mpi": bool(h5py.get_config().mpi),
    }
