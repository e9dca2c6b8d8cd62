"""Arrays in a .npz file, read in a forward stream so that only the wanted rows are kept."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from hpcnk.data.damage import damage_reported
from hpcnk.data.layout import NAMES, refuse_missing
from hpcnk.data.source import Array, RowNumbers, gather
from hpcnk.errors import DataError

# What zipfile, zlib and NumPy's header parser raise on damaged bytes.
_CAUSES: tuple[type[Exception], ...] = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, SyntaxError, RuntimeError,
    OverflowError, MemoryError, TokenError, NotImplementedError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
# The most that deflate can shrink its input: 258 bytes in 2 bits.
_LARGEST_RATIO = 1032
_SUFFIX = ".npy"
_SKIP_BYTES = 2**24


class NpzArray:
    """One array of a .npz file: its header, read at once, and its rows, read when asked for."""

    def __init__(self, path: Path, member: zipfile.ZipInfo) -> None:
        self.path = path
        self.name = member.filename.removesuffix(_SUFFIX)
        self._member = member.filename
        with damage_reported(path, _CAUSES), zipfile.ZipFile(path) as archive:
            _refuse_impossible_size(path, member)
            with archive.open(member.filename) as stream:
                self.shape, self._fortran, self.dtype = _header(stream)
                self._start = stream.tell()
        expected = self._start + _count(self.shape) * self.dtype.itemsize
        if not self.dtype.hasobject and member.file_size != expected:
            raise DataError(
                f"{path}: {self.name} has {member.file_size} bytes; "
                f"its shape {self.shape} and type {self.dtype} make {expected}",
                "the file is damaged: write it again",
            )

    def read(self, rows: RowNumbers | None = None) -> Array:
        """These ascending rows, or all; the checksum of the whole array is verified."""
        wanted = np.arange(self.shape[0]) if rows is None else rows
        with (
            damage_reported(self.path, _CAUSES),
            zipfile.ZipFile(self.path) as archive,
            archive.open(self._member) as stream,
        ):
            _take(stream, self._start)
            picked = self._columns(stream) if self._fortran else self._rows(stream, wanted)
            while stream.read(_SKIP_BYTES):
                pass  # zipfile compares the checksum when it comes to the end
        return picked[wanted] if self._fortran else picked

    def _rows(self, stream: IO[bytes], wanted: RowNumbers) -> Array:
        row = np.dtype((self.dtype, self.shape[1:]))
        at = 0

        def forward(start: int, stop: int) -> Array:
            nonlocal at
            for skipped in range(at, start, _skip_rows(row)):
                _take(stream, (min(skipped + _skip_rows(row), start) - skipped) * row.itemsize)
            at = stop
            content = _take(stream, (stop - start) * row.itemsize)
            return np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])

        return gather(forward, wanted, np.empty((len(wanted), *self.shape[1:]), self.dtype))

    def _columns(self, stream: IO[bytes]) -> Array:
        """Return everything: in Fortran order a row's values lie all over the file."""
        content = _take(stream, _count(self.shape) * self.dtype.itemsize)
        return np.frombuffer(content, self.dtype).reshape(self.shape, order="F")


def open_npz(path: Path) -> dict[str, NpzArray]:
    """Return the four arrays by name; others are left alone.

    Raises DataError when one is missing or it is no readable .npz file.
    """
    with damage_reported(path, _CAUSES), zipfile.ZipFile(path) as archive:
        members = {m.filename.removesuffix(_SUFFIX): m for m in archive.infolist()}
    refuse_missing(path, members)
    return {name: NpzArray(path, members[name]) for name in NAMES}


def _skip_rows(row: np.dtype[Any]) -> int:
    return max(1, _SKIP_BYTES // max(1, row.itemsize))


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = npy.read_array_header_2_0(stream)
    else:
        raise ValueError(f"an array in .npy format {version}, which plain numbers never need")
    if any(length < 0 for length in shape):
        raise ValueError(f"an array of shape {shape}")
    return shape, fortran, dtype


def _refuse_impossible_size(path: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a size that these compressed bytes cannot unpack to, before it is allocated."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it uses a compression that numpy.savez does not write")
    ratio = _LARGEST_RATIO if member.compress_type == zipfile.ZIP_DEFLATED else 1
    if member.compress_size > path.stat().st_size:
        raise ValueError(f"{member.filename} is said to be larger than the file")
    if member.file_size > ratio * member.compress_size:
        raise ValueError(f"{member.filename} is said to unpack to {member.file_size} bytes")


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _take(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise EOFError(f"an array ends {size - len(content)} bytes early")
    return content
