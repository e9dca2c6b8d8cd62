"""Tiles of a symmetric matrix in a GPU's memory, and their products with many columns.

Entries stay in the type they have; strips of them are widened, so products and sums are in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.device.cuda import cupy_memory
from hpcnk.engine.device.kinds import DeviceArray
from hpcnk.tiling import Tile

STRIP_BYTES = 256 << 20  # of the float64 copy of some of a tile's rows

Stored = tuple[Tile, DeviceArray]


class DeviceMemory(Protocol):
    """A GPU's memory, or what stands in for it in tests. Methods may raise BackendError."""

    count: int  # GPUs of this host

    def active(self) -> AbstractContextManager[None]:
        """Make this the GPU that arithmetic on its arrays is done by, in the block."""

    def upload(self, array: NDArray[Any]) -> DeviceArray:
        """Copy an array to the device."""

    def zeros(self, shape: tuple[int, ...]) -> DeviceArray:
        """Allocate float64 zeros."""

    def download(self, array: DeviceArray) -> NDArray[Any]:
        """Copy an array back, when all work that was asked for is done."""

    def free_bytes(self) -> int:
        """Return the bytes that can still be allocated."""


def device_memory(local_rank: int) -> DeviceMemory:
    """Open the memory of a rank's GPU. Raises BackendError if there is no usable one."""
    return cupy_memory(local_rank)


def pass_bytes(n: int, columns: int) -> int:
    """Return the device memory of a product beside the tiles: vectors, sums, a strip twice."""
    return 2 * n * columns * 8 + 2 * STRIP_BYTES


def multiply(
    memory: DeviceMemory,
    tiles: Iterable[Stored],
    v: NDArray[np.float64],
    reach: Callable[[Tile], int],
) -> NDArray[np.float64]:
    """Return the product of upper-triangle tiles, and their mirror images, with v, (n, columns).

    `reach`: how many of the leading columns a tile is multiplied with.
    """
    with memory.active():
        vectors, sums = memory.upload(v), memory.zeros(v.shape)
        for tile, entries in tiles:
            _add(tile, entries, vectors[:, : reach(tile)], sums[:, : reach(tile)])
        return memory.download(sums)


def _add(tile: Tile, entries: DeviceArray, v: DeviceArray, sums: DeviceArray) -> None:
    height = max(1, STRIP_BYTES // (8 * entries.shape[1]))
    for start in range(0, entries.shape[0], height):
        strip = entries[start : start + height].astype(np.float64)
        rows = slice(tile.rows.start + start, tile.rows.start + start + strip.shape[0])
        sums[rows] += strip @ v[tile.columns]
        if not tile.symmetric:
            sums[tile.columns] += strip.T @ v[rows]
