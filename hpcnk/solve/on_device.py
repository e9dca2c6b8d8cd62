"""Tiles that stay in a GPU's memory from pass to pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import Sum
from hpcnk.engine.device.tiles import DeviceMemory, Panels
from hpcnk.solve.tiles import Array, HeldTile, Sizes, Wanted, reach, within
from hpcnk.tiling import Tile


class DeviceTiles:
    """Tiles in the memory of a GPU, which forms their products in float64.

    In an order of its own, so not for sums that must have the same bits wherever tiles are.
    Allocates the memory of all `tiles`. Raises BackendError.
    """

    def __init__(self, memory: DeviceMemory, tiles: Iterable[Tile], dtype: np.dtype) -> None:
        self._held = Panels(memory, tiles, dtype)

    def hold(self, tile: Tile, entries: NDArray[Any]) -> None:
        """Copy a tile to the GPU."""
        self._held.write(tile, entries)

    def tiles(self, wanted: Wanted) -> Iterator[HeldTile]:
        """Copy the tiles wanted back, one after the other."""
        return ((tile, self._held.read(tile)) for tile in self._held.tiles if wanted(tile))

    def add_products(self, v: Array, sizes: Sizes, product: Sum) -> None:
        """Add the tiles' products with v to a sum: v is copied to the GPU, its sum back."""
        if any(map(within(sizes), self._held.tiles)):
            sums = self._held.multiply(v, lambda tile: reach(tile, sizes))
            product.add(slice(0, len(sums)), sums)
