"""Tiles that are computed anew in each pass, for kernels that are quicker made than read.

Only by an engine that makes the bytes that are stored: the same back end, the same code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from itertools import zip_longest
from typing import Any

from hpcnk.comm import Sum
from hpcnk.engine import Engine
from hpcnk.engine.pending import Pending
from hpcnk.run.blocks import Blocks
from hpcnk.run.work import Work
from hpcnk.solve import Products
from hpcnk.solve.merged import closing_products
from hpcnk.solve.tiles import Array, HeldTile, Sizes, Wanted, within
from hpcnk.tiling import Tile


class ComputedTiles:
    """Tiles of one file that this rank's engine computes, in the order of their numbers."""

    def __init__(
        self,
        tiles: Iterable[Tile],
        work: Work[Any],
        engine: Engine,
        blocks: Blocks,
        products: Products,
    ) -> None:
        self._tiles = sorted(tiles, key=lambda tile: tile.number)
        self._work, self._engine, self._blocks = work, engine, blocks
        self._products = products

    def tiles(self, wanted: Wanted) -> Generator[HeldTile, None, None]:
        """Compute the tiles wanted, as many ahead as the engine likes.

        Raises DataError, StorageError, BackendError.
        """
        chosen = [tile for tile in self._tiles if wanted(tile)]
        begun: deque[tuple[Tile, Pending]] = deque()
        for tile, following in zip_longest(chosen, chosen[1:]):
            begun.append((tile, self._begin(tile, following)))
            if len(begun) > self._engine.ahead:
                yield _taken(begun)
        while begun:
            yield _taken(begun)

    def _begin(self, tile: Tile, following: Tile | None) -> Pending:
        """Begin one tile, and have the rows of the following one made ready meanwhile."""
        sides = [self._blocks.at(*side) for side in self._work.sides(tile)]
        for side in self._work.sides(following) if following else []:
            self._blocks.ahead(*side)
        return self._engine.start_block(*sides)

    def add_products(self, v: Array, sizes: Sizes, product: Sum) -> None:
        """Add the tiles' products with v to a sum. Raises as `tiles` does."""
        closing_products(self.tiles(within(sizes)), v, sizes, product, self._products)


def _taken(begun: deque[tuple[Tile, Pending]]) -> HeldTile:
    tile, pending = begun.popleft()
    return tile, pending.result()
