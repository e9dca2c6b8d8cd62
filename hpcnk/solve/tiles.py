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
from hpcnk.solve.products import Placed, Products
from hpcnk.tiling import Tile

Array = NDArray[np.float64]
Sizes = NDArray[np.int64]
TOGETHER = 1 << 30  # entries times columns that one call multiplies: a tenth of a second or so
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
        add_products(self.tiles(within(sizes)), v, sizes, product, self._products, lasting=True)


def within(sizes: Sizes) -> Wanted:
    """Want the tiles that some of the columns, of falling sizes, reach."""
    largest = sizes[0] if len(sizes) else 0
    return lambda tile: tile.columns.start < largest


def every(tile: Tile) -> bool:
    """Want all tiles."""
    return True


def add_products(
    tiles: Iterable[HeldTile],
    v: Array,
    sizes: Sizes,
    product: Sum,
    products: Products,
    lasting: bool = False,
) -> None:
    """Add the products of tiles of the upper triangle with v, (n, columns), to a sum.

    `lasting`: whether tiles stay valid when the next is taken; some are multiplied at once then.
    """
    placed = (Placed(tile, entries, reach(tile, sizes)) for tile, entries in tiles)
    if not product.in_place:
        _add_each(placed, v, product, products)
        return
    with product.addend(slice(0, len(v)), v.shape[1]) as out:
        for group in _groups(placed, TOGETHER if lasting else 0):
            products.add_tiles(group, v, out)


def _groups(placed: Iterable[Placed], most: int) -> Iterator[list[Placed]]:
    """Give groups of so many entries times columns, or single tiles."""
    group, work = list[Placed](), 0
    for one in placed:
        group.append(one)
        work += one.entries.size * one.columns
        if work >= most:
            yield group
            group, work = [], 0
    if group:
        yield group


def _add_each(placed: Iterable[Placed], v: Array, product: Sum, products: Products) -> None:
    """Add the products of each tile as addends of their own."""
    for tile, entries, columns in placed:
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
