"""The tiles of several sources in one order, and a look at the clock between them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing

from hpcnk.comm import Sum
from hpcnk.solve.products import Products
from hpcnk.solve.tiles import (
    Array,
    HeldTile,
    ResidentTiles,
    Sizes,
    TileSource,
    Wanted,
    add_products,
    within,
)

Going = Callable[[], bool]


class MergedTiles:
    """The tiles of sources on this host, in the order of their numbers, wherever they come from.

    So a sum has the same bits whichever tiles are read, held or computed, and a file is read while
    tiles from memory are multiplied. Every source must give its tiles in that order. `going` is
    asked before each tile; once it says no, no more come: the pass is worth nothing then, and all
    ranks must be told.
    """

    def __init__(self, sources: Sequence[TileSource], products: Products, going: Going) -> None:
        self._sources, self._products, self._going = list(sources), products, going

    def tiles(self, wanted: Wanted) -> Generator[HeldTile, None, None]:
        """Give the tiles wanted, each valid until the next one is taken."""
        with ExitStack() as opened:
            begun = [source.tiles(wanted) for source in self._sources]
            for tiles in begun:
                if isinstance(tiles, Generator):  # may have threads, which this ends
                    opened.enter_context(closing(tiles))
            for held in heapq.merge(*begun, key=lambda held: held[0].number):
                if not self._going():
                    return
                yield held

    def add_products(self, v: Array, sizes: Sizes, product: Sum) -> None:
        """Add the tiles' products with v to a sum."""
        lasting = all(isinstance(source, ResidentTiles) for source in self._sources)
        tiles = self.tiles(within(sizes))
        closing_products(tiles, v, sizes, product, self._products, lasting)


def closing_products(
    tiles: Generator[HeldTile, None, None],
    v: Array,
    sizes: Sizes,
    product: Sum,
    products: Products,
    lasting: bool = False,
) -> None:
    """Add the products of tiles that a generator makes, and close it, whatever happens."""
    with closing(tiles):
        add_products(tiles, v, sizes, product, products, lasting)
