"""Where a rank's tiles come from in each pass, and their products with a block of vectors.

A tile above the diagonal serves both triangles: K_ij times block j and its transpose times block i.
The columns of a block stand in the order of falling training-set sizes, so those that reach a tile
are its leading ones: a tile that lies beyond a size costs the columns of that size nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import Sum
from hpcnk.solve.products import Products
from hpcnk.tiling import Tile

Array = NDArray[np.float64]
Sizes = NDArray[np.int64]
HeldTile = tuple[Tile, NDArray[Any]]
Wanted = Callable[[Tile], bool]


class TileSource(Protocol):
    """This rank's tiles, or some of them; all sources of all ranks hold every tile once."""

    def add_products(self, v: Array, sizes: Sizes, product: Sum) -> None:
        """Add the tiles' products with v, (n, columns), of these falling sizes, to a sum."""

    def tiles(self, wanted: Wanted) -> Iterator[HeldTile]:
        """Give the tiles wanted, each valid until the next one is taken."""


class ResidentTiles:
    """Tiles in this host's memory."""

    def __init__(self, held: Iterable[HeldTile], products: Products) -> None:
        self._held = list(held)
        self._products = products

    def tiles(self, wanted: Wanted) -> Iterator[HeldTile]:
        """Give the tiles wanted."""
        return (held for held in self._held if wanted(held[0]))

    def add_products(self, v: Array, sizes: Sizes, product: Sum) -> None:
        """Add the tiles' products with v to a sum."""
        add_products(self.tiles(within(sizes)), v, sizes, product, self._products)


def within(sizes: Sizes) -> Wanted:
    """Want the tiles that some of the columns, of falling sizes, reach."""
    largest = sizes[0] if len(sizes) else 0
    return lambda tile: tile.columns.start < largest


def every(tile: Tile) -> bool:
    """Want all tiles."""
    return True


def add_products(
    tiles: Iterable[HeldTile], v: Array, sizes: Sizes, product: Sum, products: Products
) -> None:
    """Add the products of tiles of the upper triangle with v, (n, columns), to a sum."""
    for tile, entries in tiles:
        columns = reach(tile, sizes)
        upper, lower = v[tile.rows, :columns], v[tile.columns, :columns]
        with product.addend(tile.rows, columns) as above:
            if tile.symmetric:
                products.add(entries, True, upper, lower, above, above)
                continue
            with product.addend(tile.columns, columns) as below:
                products.add(entries, False, upper, lower, above, below)


def reach(tile: Tile, sizes: Sizes) -> int:
    """Count the columns, of falling sizes, that are not zero on all of a tile's columns."""
    return int(np.searchsorted(-sizes, -tile.columns.start))
