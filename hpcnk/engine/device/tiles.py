"""Tiles of a symmetric matrix in a GPU's memory, and their products with many columns.

A tile of 1,024 rows is a few microseconds of a GPU's time, less than it takes to ask for the work.
So the tiles of one block column stand below each other in one array, a panel P: the product of all
of them is one GEMM of cuBLAS, P V_j, and that of their mirror images another, P^T V, with the rows
of V that the panel's rows belong to. Entries stay in the type they have; some rows at a time are
widened, so products and sums are in float64. A GEMM reads the entries, so they are read twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.device.cuda import cupy_memory
from hpcnk.engine.device.kinds import DeviceArray
from hpcnk.tiling import Tile

BATCH_BYTES = 256 << 20  # of some rows' float64 entries, vectors and products
TEMPORARIES = 4  # float64 numbers for each row or column at work, and each vector


class DeviceMemory(Protocol):
    """A GPU's memory, or what stands in for it in tests. Methods may raise BackendError."""

    count: int  # GPUs of this host

    def active(self) -> AbstractContextManager[None]:
        """Make this the GPU that arithmetic on its arrays is done by, in the block."""

    def upload(self, array: NDArray[Any]) -> DeviceArray:
        """Copy an array to the device."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """Allocate without a value."""

    def zeros(self, shape: tuple[int, ...]) -> DeviceArray:
        """Allocate float64 zeros."""

    def write(self, array: NDArray[Any], target: DeviceArray) -> None:
        """Copy an array into contiguous device memory of its shape and type."""

    def download(self, array: DeviceArray) -> NDArray[Any]:
        """Copy an array back, when all work that was asked for is done."""

    def free_bytes(self) -> int:
        """Return the bytes that can still be allocated."""


def device_memory(local_rank: int) -> DeviceMemory:
    """Open the memory of a rank's GPU. Raises BackendError if there is no usable one."""
    return cupy_memory(local_rank)


def pass_bytes(n: int, tile: int, columns: int) -> int:
    """Return the device memory of a product beside the tiles: vectors, sums, a batch of rows."""
    width = min(n, tile)
    batch = max(BATCH_BYTES, _row_bytes(width, columns))
    return 8 * columns * (2 * n + TEMPORARIES * width) + batch


def _row_bytes(width: int, columns: int) -> int:
    """Return what a row of a panel takes in a batch."""
    return 8 * (width + TEMPORARIES * columns)


class Panel:
    """Tiles of one block column below each other, in the order of their rows."""

    def __init__(self, memory: DeviceMemory, tiles: Sequence[Tile], dtype: np.dtype) -> None:
        self.tiles = tiles
        ends = list(accumulate((tile.shape[0] for tile in tiles), initial=0))
        self._width = tiles[0].shape[1]
        self._columns = tiles[0].columns
        self._places = {
            tile.number: slice(*ends) for tile, ends in zip(tiles, pairwise(ends), strict=True)
        }
        self._mirrored = ends[-2] if tiles[-1].symmetric else ends[-1]
        self._rows = np.concatenate([np.arange(t.rows.start, t.rows.stop) for t in tiles])
        self._entries = memory.empty((ends[-1], self._width), dtype)
        self._memory = memory

    def entries(self, tile: Tile) -> DeviceArray:
        """Return where a tile's entries are, or belong."""
        return self._entries[self._places[tile.number]]

    def add_products(self, v: DeviceArray, sums: DeviceArray, columns: int) -> None:
        """Add the products with the leading columns of v, (n, columns), to theirs of the sums."""
        below = v[self._columns, :columns]
        for start, stop in self._batches(columns):
            wide = self._entries[start:stop].astype(np.float64, copy=False)
            sums[self._at(start, stop), :columns] += wide @ below
            stop = min(stop, self._mirrored)
            if start < stop:
                above = v[self._at(start, stop), :columns]
                sums[self._columns, :columns] += wide[: stop - start].T @ above

    def _batches(self, columns: int) -> Iterator[tuple[int, int]]:
        """Cut the rows into batches that fit their memory."""
        count = len(self._rows)
        most = max(1, BATCH_BYTES // _row_bytes(self._width, columns))
        return ((start, min(start + most, count)) for start in range(0, count, most))

    def _at(self, start: int, stop: int) -> slice | DeviceArray:
        """Return where rows of the panel stand in the matrix; a slice if they follow each other."""
        rows = self._rows[start:stop]
        if rows[-1] - rows[0] == len(rows) - 1:
            return slice(int(rows[0]), int(rows[-1]) + 1)
        return self._memory.upload(rows)


class Panels:
    """Tiles in a GPU's memory, all of it allocated at the start. Methods raise BackendError."""

    def __init__(self, memory: DeviceMemory, tiles: Iterable[Tile], dtype: np.dtype) -> None:
        self._memory = memory
        self.tiles = sorted(tiles, key=attrgetter("number"))
        columns: dict[int, list[Tile]] = {}
        for tile in self.tiles:  # those of a block column by rising rows
            columns.setdefault(tile.j, []).append(tile)
        self._panels = {j: Panel(memory, held, dtype) for j, held in columns.items()}

    def write(self, tile: Tile, entries: NDArray[Any]) -> None:
        """Copy a tile's entries to the device."""
        self._memory.write(np.ascontiguousarray(entries), self._panels[tile.j].entries(tile))

    def read(self, tile: Tile) -> NDArray[Any]:
        """Copy a tile's entries back."""
        return self._memory.download(self._panels[tile.j].entries(tile))

    def multiply(self, v: NDArray[np.float64], reach: Callable[[Tile], int]) -> NDArray[np.float64]:
        """Return the product of the tiles, and their mirror images, with v, (n, columns).

        `reach`: how many of the leading columns the tiles of a block column are multiplied with.
        """
        with self._memory.active():
            sums = self._memory.zeros(v.shape)
            self.add_products(self._memory.upload(v), sums, reach)
            return self._memory.download(sums)

    def add_products(self, v: DeviceArray, sums: DeviceArray, reach: Callable[[Tile], int]) -> None:
        """Ask for the products with vectors on the device, and do not wait for them."""
        for panel in self._panels.values():
            columns = reach(panel.tiles[0])
            if columns:
                panel.add_products(v, sums, columns)
