"""The kernel matrix as an operator: each rank has its tiles, partial products are summed.

Vectors are spread over the ranks by rows. For a product every rank gathers the whole block of
vectors, forms what its tiles add to any row, and keeps its own rows of the sum over all ranks:
these two blocks are all that a rank holds whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import Sums, share_sum, sum_over_ranks
from hpcnk.solve.products import Products
from hpcnk.solve.spread import Spread
from hpcnk.solve.tiles import Array, HeldTile, Sizes, TileSource, every
from hpcnk.tiling import Tile

SLACK = 2.0  # of bounds on exact numbers, for rounding
Indices = NDArray[np.int64]


class Operator(Protocol):
    """A symmetric positive semi-definite matrix that all ranks apply together."""

    n: int
    spread: Spread
    sums: Sums

    def apply(self, v: Array, sizes: Sizes | None = None) -> Array:
        """Return this rank's rows of K v, for its rows of v. Collective.

        `sizes` (columns,), not increasing: a column is zero from its size on, and the product may
        be left out from there on. None: all columns have all rows.
        """

    def columns(self, indices: Indices) -> Array:
        """Return this rank's rows of these columns of K, (rows, columns). Collective."""

    def diagonal(self) -> Array:
        """Return the diagonal of K, shape (n,), on all ranks. Collective."""


class TileOperator:
    """The n x n kernel from the upper-triangle tiles of each rank's sources.

    All ranks' sources together must have every tile of the triangle once.
    """

    def __init__(self, sums: Sums, n: int, sources: Sequence[TileSource]) -> None:
        self.n = n
        self.sums = sums
        self.spread = Spread(sums.comm, n, sums.ordered)
        self._sources = list(sources)

    def apply(self, v: Array, sizes: Sizes | None = None) -> Array:
        """Return this rank's rows of K v, for its rows of v. Collective."""
        columns = v.shape[1]
        sizes = np.full(columns, self.n) if sizes is None else sizes
        product = self.sums.begin((self.n, columns), lambda: self._bound(v))
        whole = np.ascontiguousarray(self.spread.whole(v))
        for source in self._sources:
            source.add_products(whole, sizes, product)
        del whole
        return product.share(self.spread.blocks)

    def _bound(self, v: Array) -> Array:
        (lengths,) = self.spread.totals(lambda rows: np.abs(v[rows]).sum(axis=0))
        return self._largest * lengths

    @cached_property
    def _largest(self) -> float:
        """The largest entry, NaN if there is one. Collective."""
        tiles = (entries for source in self._sources for _, entries in source.tiles(every))
        mine = max(map(largest_of, tiles), default=0.0)
        return SLACK * float(np.max(self.sums.comm.allgather(mine)))

    def columns(self, indices: Indices) -> Array:
        """Return this rank's rows of these columns of K, (rows, columns). Collective."""
        columns = np.zeros((self.n, len(indices)))

        def wanted(tile: Tile) -> bool:
            return bool(_inside(tile.columns, indices).any() or _inside(tile.rows, indices).any())

        for source in self._sources:
            for tile, entries in source.tiles(wanted):
                _copy_columns(tile, entries, indices, columns)
        return share_sum(self.sums.comm, columns, self.spread.blocks)

    def diagonal(self) -> Array:
        """Return the diagonal of K, shape (n,), on all ranks. Collective."""
        return self._diagonal.copy()

    @cached_property
    def _diagonal(self) -> Array:
        diagonal = np.zeros(self.n)
        for source in self._sources:
            for tile, entries in source.tiles(lambda tile: tile.symmetric):
                diagonal[tile.rows] = entries.diagonal()
        return sum_over_ranks(self.sums.comm, diagonal)


def _inside(rows: slice, indices: Indices) -> NDArray[np.bool_]:
    return (indices >= rows.start) & (indices < rows.stop)


def _copy_columns(tile: Tile, entries: NDArray[Any], indices: Indices, columns: Array) -> None:
    """Copy what a tile holds of these columns of the whole matrix, of both triangles."""
    right = np.flatnonzero(_inside(tile.columns, indices))
    columns[tile.rows, right] = entries[:, indices[right] - tile.columns.start]
    if not tile.symmetric:
        left = np.flatnonzero(_inside(tile.rows, indices))
        columns[tile.columns, left] = entries[indices[left] - tile.rows.start].T


def cross_product(
    sums: Sums,
    m: int,
    tiles: Iterable[HeldTile],
    v: Array,
    products: Products,
    largest: float = np.inf,
) -> Array:
    """Return the product of an m x n matrix with v, (n, columns), on all ranks. Collective.

    All ranks' `tiles` together make up the matrix. They are consumed one at a time, so they can
    stream from a file. `largest` bounds the matrix's entries: sums in fixed point need it. The
    product is NaN if it does not hold.
    """
    product = sums.begin((m, v.shape[1]), lambda: SLACK * largest * np.abs(v).sum(axis=0))
    for tile, entries in tiles:
        with product.addend(tile.rows, v.shape[1]) as rows:
            products.add(entries, True, v[tile.columns], v[tile.columns], rows, rows)
            if largest < np.inf and not largest_of(entries) <= largest:
                rows[:] = np.nan  # the sum could overflow
    return product.total()


def largest_of(entries: NDArray[Any]) -> float:
    """Return max |entry|, without a copy of the tile; NaN if one is."""
    return float(np.max([entries.max(), -entries.min()]))
