"""Tiles of a symmetric matrix in a GPU's memory, and their products with many columns.

A tile of 1,024 rows is a few microseconds of a GPU's time, less than it takes to ask for the work.
So tiles of one shape stand behind each other in one array, and a batched GEMM of cuBLAS multiplies
many: K_ij V_j for all of a batch, then V_i^T K_ij, which is the mirror image's product transposed
and needs no transposed copy of the tiles. Products of tiles in one block row are added up by a GEMM
with a matrix of zeros and ones, in an order that does not change. Entries stay in the type they
have; those of a batch are widened, so products and sums are in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.device.cuda import cupy_memory
from hpcnk.engine.device.kinds import DeviceArray
from hpcnk.tiling import Tile

BATCH_BYTES = 256 << 20  # of a batch's float64 entries, vectors and products
TEMPORARIES = 8  # float64 numbers for each row and column of a batch's tile, and each vector


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
    """Return the device memory of a product beside the tiles: vectors, sums, a batch."""
    height = _strip_height(min(n, tile))
    return 2 * n * columns * 8 + max(BATCH_BYTES, _part_bytes((height, min(n, tile)), columns))


def _part_bytes(shape: tuple[int, int], columns: int) -> int:
    """Return what a part of a tile takes in a batch."""
    height, width = shape
    return 8 * (height * width + TEMPORARIES * (height + width) * columns)


def _strip_height(width: int) -> int:
    """Return the rows of a tile that stay together: all, unless it is very large."""
    return max(1, BATCH_BYTES // (8 * width))


class Part(NamedTuple):
    """Some rows of a tile, most often all: those from `start`, which are `height`."""

    tile: Tile
    start: int
    height: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.tile.shape[1]


class Products:
    """A block of vectors and the sums of products with it, (n, columns), on a device."""

    def __init__(self, memory: DeviceMemory, v: NDArray[np.float64]) -> None:
        self._memory = memory
        self._v, self._sums = memory.upload(v), memory.zeros(v.shape)

    def add(self, entries: DeviceArray, parts: Sequence[Part], columns: int) -> None:
        """Add products of equal parts, (parts, height, width), with the leading columns."""
        wide, v, memory = entries.astype(np.float64, copy=False), self._v, self._memory
        height, width = parts[0].shape
        rows = np.array([part.tile.rows.start + part.start for part in parts])
        across = np.array([part.tile.columns.start for part in parts])
        mirrored = np.array([float(not part.tile.symmetric) for part in parts])
        below, above = (
            v[memory.upload(_places(starts, length)), :columns]
            for starts, length in ((across, width), (rows, height))
        )
        self._add_up(wide @ below, rows, np.ones(len(parts)))
        if mirrored.any():
            transposed = above.transpose(0, 2, 1) @ wide
            self._add_up(transposed.transpose(0, 2, 1), across, mirrored)

    def _add_up(
        self, addends: DeviceArray, starts: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> None:
        """Add the addends, (parts, length, columns), to the rows of the sums from `starts`."""
        count, length, columns = addends.shape
        blocks, which = np.unique(starts, return_inverse=True)
        chooser = np.zeros((len(blocks), count))
        chooser[which, np.arange(count)] = weights
        sums = self._memory.upload(chooser) @ addends.reshape(count, length * columns)
        places = self._memory.upload(_places(blocks, length))
        self._sums[places, :columns] += sums.reshape(len(blocks), length, columns)

    def result(self) -> NDArray[np.float64]:
        """Copy the sums back."""
        return self._memory.download(self._sums)


def _places(starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    return starts[:, None] + np.arange(length)


class Stack:
    """Parts of one shape, in one array on the device."""

    def __init__(self, memory: DeviceMemory, parts: Sequence[Part], dtype: np.dtype) -> None:
        self.parts = parts
        self._entries = memory.empty((len(parts), *parts[0].shape), dtype)

    def __getitem__(self, place: int | slice) -> DeviceArray:
        return self._entries[place]

    def multiply(self, products: Products, reach: Callable[[Tile], int]) -> None:
        """Add the products of all parts, each with so many of the leading columns."""
        for columns, group in groupby(range(len(self.parts)), lambda k: reach(self.parts[k].tile)):
            places = list(group)
            for batch in _batches(slice(places[0], places[-1] + 1), self.parts[0].shape, columns):
                products.add(self[batch], self.parts[batch], columns)


def _batches(places: slice, shape: tuple[int, int], columns: int) -> Iterator[slice]:
    """Cut places into batches that fit their memory; none where there are no columns."""
    most = max(1, BATCH_BYTES // _part_bytes(shape, columns))
    for start in range(places.start, places.stop, most) if columns else ():
        yield slice(start, min(start + most, places.stop))


class StackedTiles:
    """Tiles in a GPU's memory, all of it allocated at the start. Methods raise BackendError."""

    def __init__(self, memory: DeviceMemory, tiles: Iterable[Tile], dtype: np.dtype) -> None:
        self._memory = memory
        self.tiles = sorted(tiles, key=lambda tile: tile.number)  # by falling reach, too
        alike: dict[tuple[int, int], list[Part]] = {}
        self._held: dict[int, list[tuple[tuple[int, int], int]]] = {}
        for tile in self.tiles:
            for part in _parts(tile):
                stack = alike.setdefault(part.shape, [])
                self._held.setdefault(tile.number, []).append((part.shape, len(stack)))
                stack.append(part)
        self._stacks = {shape: Stack(memory, parts, dtype) for shape, parts in alike.items()}

    def write(self, tile: Tile, entries: NDArray[Any]) -> None:
        """Copy a tile's entries to the device."""
        for shape, place in self._held[tile.number]:
            stack = self._stacks[shape]
            start = stack.parts[place].start
            rows = np.ascontiguousarray(entries[start : start + shape[0]])
            self._memory.write(rows, stack[place])

    def read(self, tile: Tile) -> NDArray[Any]:
        """Copy a tile's entries back."""
        places = self._held[tile.number]
        return np.concatenate(
            [self._memory.download(self._stacks[shape][place]) for shape, place in places]
        )

    def multiply(self, v: NDArray[np.float64], reach: Callable[[Tile], int]) -> NDArray[np.float64]:
        """Return the product of the tiles, and their mirror images, with v, (n, columns).

        `reach`: how many of the leading columns a tile is multiplied with.
        """
        with self._memory.active():
            products = Products(self._memory, v)
            self.add_products(products, reach)
            return products.result()

    def add_products(self, products: Products, reach: Callable[[Tile], int]) -> None:
        """Ask for all products with vectors that are on the device, and do not wait for them."""
        for stack in self._stacks.values():
            stack.multiply(products, reach)


def _parts(tile: Tile) -> Iterator[Part]:
    height, width = tile.shape
    most = _strip_height(width)
    for start in range(0, height, most):
        yield Part(tile, start, min(most, height - start))
