"""Raw transfers in pieces, publishing by rename, and errors that a user can act on."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from hpcnk.errors import DiskFull, StorageError

MAX_TRANSFER = 1 << 30  # bytes of one read or write; MPI-IO fails above 2 GiB

PAGE = 4096  # bytes: what direct reads begin and end on, in the file and in memory
PIECE = 64 << 20  # bytes of memory from which copies are cut

_LITTLE = 1 << 20  # bytes; with less room than this a failed write is taken for a full disk

_ADVICE = {
    errno.ENOSPC: "the file system is full: free space and start the same command again to resume",
    errno.EDQUOT: "your quota is used up: free space and start the same command again to resume",
    errno.EFBIG: "the file system, or `ulimit -f`, forbids so large a file: raise the limit, "
    "or put `output` elsewhere",
    errno.EACCES: "check who may read and write there, or choose another `output`",
    errno.EROFS: "the file system is read-only; choose another `output`",
    errno.ENAMETOOLONG: "the name, or the whole path, is too long; choose a shorter `output`",
}
_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def storage_errors(action: str, path: Path) -> Iterator[None]:
    """Turn what the system or HDF5 raises while touching `path` into a StorageError.

    A full disk or quota is a DiskFull.
    """
    try:
        yield
    except (OSError, KeyError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or (str(error) or repr(error)).splitlines()[0]
        # MPI-IO and HDF5 do not pass the system's reason on, so look whether the disk is full.
        number = getattr(error, "errno", None) or (errno.ENOSPC if _full(path) else 0)
        advice = _ADVICE.get(number, "check the path and the disk")
        kind = DiskFull if number in _IS_FULL else StorageError
        raise kind(f"{action} {path} failed: {reason}", advice) from error


def _full(path: Path) -> bool:
    try:
        system = os.statvfs(path.parent)
    except OSError:
        return False
    return system.f_bavail * system.f_frsize < _LITTLE


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; on success make it durable and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with storage_errors("writing", path):
            yield temporary
            sync_file(temporary)
            os.replace(temporary, path)
            sync_file(path.parent)
    finally:
        with suppress(OSError):  # what went wrong before is what must be told
            temporary.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Flush one file, or the entries of one folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def raw(array: NDArray[Any]) -> memoryview:
    """Return the bytes of a C-contiguous array without copying them."""
    return array.reshape(-1).view(np.uint8).data


def checksum(*arrays: NDArray[Any]) -> int:
    """Return the CRC-32 of the bytes of C-contiguous arrays, one after the other.

    zlib's value, by ISA-L: zlib itself is slower than a good disk.
    """
    found = 0
    for array in arrays:
        found = isal_zlib.crc32(raw(array), found)
    return found


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an uninitialised array whose bytes begin on a page, as direct reads want it."""
    wanted = np.dtype(dtype).itemsize * math.prod(shape)
    room = np.empty(wanted + PAGE, np.uint8)
    start = -room.ctypes.data % PAGE
    return room[start : start + wanted].view(dtype).reshape(shape)


class Copies:
    """Copies of arrays, each on pages of its own, cut from large pieces of memory.

    On a page, so that no vector of a copy lies in two lines of a cache; from large pieces, so that
    the system maps nearly all of it by huge pages, where it has them. A piece is given back with
    the last copy in it.
    """

    def __init__(self, piece_bytes: int = PIECE) -> None:
        self._piece_bytes = piece_bytes
        self._piece = np.empty(0, np.uint8)

    def add(self, entries: NDArray[Any]) -> NDArray[Any]:
        """Return a copy."""
        pages = -(-entries.nbytes // PAGE) * PAGE
        if pages > self._piece.size:
            self._piece = aligned_empty((max(pages, self._piece_bytes),), np.uint8)
        copy = self._piece[: entries.nbytes].view(entries.dtype).reshape(entries.shape)
        self._piece = self._piece[pages:]
        copy[...] = entries
        return copy


def open_direct(path: Path, offset: int) -> int | None:
    """Open a file for reads that go past the system's cache; None where that cannot be.

    One page is read at the offset: a file system may open such a file and refuse every read.
    """
    if not hasattr(os, "O_DIRECT"):
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return None
    try:
        os.preadv(handle, [raw(aligned_empty((PAGE,), np.uint8))], offset)
    except OSError:
        os.close(handle)
        return None
    return handle


def write_at(handle: int, data: memoryview, offset: int) -> None:
    """Write all bytes at the offset; the system may take fewer at a time than it is given."""
    done = 0
    while done < len(data):
        done += os.pwrite(handle, data[done : done + MAX_TRANSFER], offset + done)


def read_at(handle: int, data: memoryview, offset: int) -> None:
    """Fill `data` from the offset. Raises OSError when the file ends before."""
    done = 0
    while done < len(data):
        got = os.preadv(handle, [data[done : done + MAX_TRANSFER]], offset + done)
        if got == 0:
            raise OSError(errno.EIO, f"the file ends at byte {offset + done}")
        done += got
