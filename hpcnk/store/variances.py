"""The file of variances: what is known of each row alone, found once and read by all ranks.

    <part>/variances  [n, positions]  float32 or float64, S(x, x) at every pointwise layer and pixel
    <part>/diagonal   [n]             float64, the exact K(x, x)
    <part>/checksums  [blocks]        uint32, CRC-32 of each block of rows: variances, then diagonal
    complete          [1]             uint8, 1 when all rows are there
    attributes                        format, provenance (JSON)

A part is an array of the inputs file. The file is laid out whole under a temporary name and
renamed into place; then every rank writes its own blocks of rows as raw bytes and makes them
durable, and when all have, one byte says that the file is complete. One that is not complete is
made anew, for it costs n pairs of the kernel's n^2/2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import StorageError
from hpcnk.store.attributes import read_text, require_format
from hpcnk.store.documents import parse_provenance
from hpcnk.store.files import checksum, published, raw, read_at, storage_errors, sync_file, write_at
from hpcnk.store.hdf5 import lay_out, open_hdf5
from hpcnk.store.own import open_own
from hpcnk.store.trust import own_dataset, own_group, own_offset, refusal

FORMAT = "hpcnk variances 2"
ROWS = 64  # of a block, which has one checksum and is read and written as a whole
_COMPLETE = "complete"
_DIAGONAL = np.dtype(np.float64)
_CHECKSUM = np.dtype("<u4")
_MARK = np.dtype(np.uint8)
_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_MOST_PARTS = 16  # an inputs file has two

Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]
Opening = Callable[[Path], int]  # gives a handle


@dataclass(frozen=True)
class VariancesLayout:
    """What a file of variances says of itself; `rows` of each part, `offsets` of its data sets."""

    path: Path
    rows: Mapping[str, int]
    positions: int
    dtype: np.dtype
    provenance: dict[str, Any]
    complete: bool
    offsets: Mapping[str, int]

    def blocks(self, part: str) -> int:
        """Count the blocks of rows of one part."""
        return -(-self.rows[part] // ROWS)


def variances_bytes(rows: int, positions: int, itemsize: int) -> int:
    """Return the bytes on disk of so many rows."""
    return rows * (positions * itemsize + _DIAGONAL.itemsize) + -(-rows // ROWS) * 4


def create_variances(
    path: Path,
    rows: Mapping[str, int],
    positions: int,
    dtype: np.dtype,
    provenance: Mapping[str, Any],
) -> VariancesLayout:
    """Lay an empty file out and publish it, replacing any other. One rank calls this.

    Raises StorageError when the file system refuses.
    """
    shapes: Shapes = {_COMPLETE: ((1,), _MARK)}
    for part, n in rows.items():
        shapes |= _shapes(part, n, positions, dtype)
    attributes = {"format": FORMAT, "provenance": json.dumps(provenance, sort_keys=True)}
    with published(path) as temporary:
        offsets = lay_out(temporary, shapes, attributes)
        with open(temporary, "r+b") as file:
            write_at(file.fileno(), memoryview(b"\0"), offsets[_COMPLETE])
    return read_variances_layout(path)


def _shapes(part: str, n: int, positions: int, dtype: np.dtype) -> Shapes:
    """Return shape and type of the data sets of one part of n rows."""
    return {
        f"{part}/variances": ((n, positions), dtype),
        f"{part}/diagonal": ((n,), _DIAGONAL),
        f"{part}/checksums": ((-(-n // ROWS),), _CHECKSUM),
    }


def read_variances_layout(path: Path) -> VariancesLayout:
    """Read what the file says of itself.

    Raises StorageError if it is no file of variances, or claims what it does not hold.
    """
    with open_hdf5(path) as file:
        advice = "remove the file; it is computed anew"
        require_format(path, file, "file of variances", FORMAT, advice)
        return _layout(path, file)


def _layout(path: Path, file: h5py.File) -> VariancesLayout:
    parts = [part for part in file if part != _COMPLETE]
    if not 0 < len(parts) <= _MOST_PARTS or not all(map(str.isidentifier, parts)):
        raise refusal(path, f"variances of {len(parts)} parts, {parts[:_MOST_PARTS]!a:.200}")
    sample = _table(path, file, parts[0])
    rows = {part: len(_table(path, file, part)) for part in parts}
    shapes: Shapes = {_COMPLETE: ((1,), _MARK)}
    for part, n in rows.items():
        shapes |= _shapes(part, n, sample.shape[1], sample.dtype)
    offsets = {
        name: own_offset(path, file, name, shape, dtype) for name, (shape, dtype) in shapes.items()
    }
    return VariancesLayout(
        path=path,
        rows=rows,
        positions=int(sample.shape[1]),
        dtype=sample.dtype,
        provenance=parse_provenance(path, read_text(path, file, "provenance")),
        complete=bool(file[_COMPLETE][0]),
        offsets=offsets,
    )


def _table(path: Path, file: h5py.File, part: str) -> h5py.Dataset:
    """Return the variances of one part, (rows, positions) real numbers."""
    own_group(path, file, part)
    table = own_dataset(path, file, f"{part}/variances")
    if table.ndim != 2 or table.dtype not in _DTYPES:
        raise refusal(path, f"{part}/variances of type {table.dtype} and shape {table.shape}")
    return table


class _Open:
    """The file's raw bytes, for reading or writing."""

    def __init__(self, layout: VariancesLayout, begin: Opening) -> None:
        self.layout = layout
        with storage_errors("opening", layout.path):
            self._handle = begin(layout.path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, name: str, row: int, row_bytes: int) -> int:
        # A data set without entries has the place 0, and nothing is read or written there.
        return self.layout.offsets[name] + row * row_bytes

    def _places(self, part: str, row: int) -> tuple[int, int, int]:
        layout = self.layout
        return (
            self._place(f"{part}/variances", row, layout.positions * layout.dtype.itemsize),
            self._place(f"{part}/diagonal", row, _DIAGONAL.itemsize),
            self._place(f"{part}/checksums", row // ROWS, _CHECKSUM.itemsize),
        )


class VariancesWriter(_Open):
    """Adds rows to a file. Needs no partner: ranks write different rows."""

    def __init__(self, layout: VariancesLayout) -> None:
        super().__init__(layout, lambda path: open_own(path, os.O_RDWR))

    def put(self, part: str, start: int, variances: NDArray[Any], diagonal: NDArray[Any]) -> None:
        """Store whole blocks of rows from the row `start`, the first of a block."""
        sums = [
            checksum(variances[first : first + ROWS], diagonal[first : first + ROWS])
            for first in range(0, len(diagonal), ROWS)
        ]
        arrays = (variances, diagonal, np.array(sums, _CHECKSUM))
        with storage_errors("writing", self.layout.path):
            for array, place in zip(arrays, self._places(part, start), strict=True):
                write_at(self._handle, raw(array), place)

    def sync(self) -> None:
        """Make all that this rank has written durable."""
        with storage_errors("writing", self.layout.path):
            os.fsync(self._handle)


def mark_variances_complete(layout: VariancesLayout) -> None:
    """Set the byte that says complete, when all ranks have synced. One rank calls this."""
    with storage_errors("completing", layout.path):
        with open(open_own(layout.path, os.O_RDWR), "r+b") as file:
            write_at(file.fileno(), memoryview(b"\x01"), layout.offsets[_COMPLETE])
        sync_file(layout.path)


class VariancesReader(_Open):
    """Reads rows of a complete file, each block checked on the way. Any number of ranks may."""

    def __init__(self, layout: VariancesLayout) -> None:
        super().__init__(layout, lambda path: os.open(path, os.O_RDONLY))

    def read(self, part: str, rows: slice) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return variances (rows, positions) and diagonal (rows,).

        Raises StorageError if they are not what was written.
        """
        if rows.stop > self.layout.rows.get(part, 0):
            raise refusal(self.layout.path, f"it lacks the rows to {rows.stop} of {part}")
        start = rows.start // ROWS * ROWS
        stop = min(-(-rows.stop // ROWS) * ROWS, self.layout.rows[part])
        variances, diagonal, sums = self._stored(part, start, stop)
        for number, stored in enumerate(sums.tolist()):
            block = slice(number * ROWS, (number + 1) * ROWS)
            if checksum(variances[block], diagonal[block]) != stored:
                raise self._damaged(part, start + number * ROWS)
        inner = slice(rows.start - start, rows.stop - start)
        return variances[inner], diagonal[inner]

    def check(self) -> None:
        """Read all rows. Raises StorageError naming the first that are not what was written."""
        for part, start in self._blocks():
            self.read(part, slice(start, min(start + ROWS, self.layout.rows[part])))

    def _blocks(self) -> Iterator[tuple[str, int]]:
        for part, n in self.layout.rows.items():
            yield from ((part, start) for start in range(0, n, ROWS))

    def _stored(
        self, part: str, start: int, stop: int
    ) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.uint32]]:
        variances = np.empty((stop - start, self.layout.positions), self.layout.dtype)
        diagonal = np.empty(stop - start, _DIAGONAL)
        sums = np.empty(-(-(stop - start) // ROWS), _CHECKSUM)
        arrays: tuple[NDArray[Any], ...] = (variances, diagonal, sums)
        with storage_errors("reading", self.layout.path):
            for array, place in zip(arrays, self._places(part, start), strict=True):
                read_at(self._handle, raw(array), place)
        return variances, diagonal, sums

    def _damaged(self, part: str, row: int) -> StorageError:
        return StorageError(
            f"the variances of {part} in {self.layout.path} are damaged: the checksum of the rows "
            f"from {row} on differs from the one taken when they were written",
            "remove the file and start the same command again, which computes it anew; have the "
            "disk checked",
        )
