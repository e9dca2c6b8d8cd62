"""Tiles that stay in a GPU's memory from pass to pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from hpcnk.comm import Sum
from hpcnk.engine.device.tiles import DeviceMemory, Stored, multiply
from hpcnk.solve.tiles import Array, HeldTile, Sizes, Wanted, reach, within
from hpcnk.tiling import Tile


class DeviceTiles:
    """Tiles in the memory of a GPU, which forms their products in float64.

    In an order of its own, so not for sums that must have the same bits wherever tiles are. Raises
    BackendError.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._held: list[Stored] = []

    def hold(self, tile: Tile, entries: NDArray[Any]) -> None:
        """Copy a tile to the GPU."""
        self._held.append((tile, self._memory.upload(entries)))

    def tiles(self, wanted: Wanted) -> Iterator[HeldTile]:
        """Copy the tiles wanted back, one after the other."""
        for tile, entries in self._held:
            if wanted(tile):
                yield tile, self._memory.download(entries)

    def add_products(self, v: Array, sizes: Sizes, product: Sum) -> None:
        """Add the tiles' products with v to a sum: v is copied to the GPU, its sum back."""
        wanted = within(sizes)
        tiles = [held for held in self._held if wanted(held[0])]
        if tiles:
            sums = multiply(self._memory, tiles, v, lambda tile: reach(tile, sizes))
            product.add(slice(0, len(sums)), sums)
