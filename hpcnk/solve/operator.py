"""The kernel matrix as an operator: each rank holds its own tiles, partial products are summed.

A tile above the diagonal serves both triangles: K_ij times block j and its transpose times block i.
Tiles stay in the precision they are stored in; products and sums are in float64, so a strip of a
float32 tile is widened into a small buffer that stays in cache while BLAS reads it twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import Sum, Sums, sum_over_ranks
from hpcnk.tiling import Tile

Array = NDArray[np.float64]
HeldTile = tuple[Tile, NDArray[Any]]

STRIP_BYTES = 1 << 20  # of the float64 buffer: within the second-level cache of one core
SLACK = 2.0  # of bounds on exact numbers, for rounding


class Operator(Protocol):
    """A symmetric positive semi-definite matrix that all ranks apply together."""

    n: int
    sums: Sums

    def apply(self, v: Array) -> Array:
        """Return K v for v of shape (n, columns), equal on all ranks. Collective."""

    def column(self, index: int) -> Array:
        """Return column `index` of K, shape (n,). Collective."""

    def diagonal(self) -> Array:
        """Return the diagonal of K, shape (n,). Collective."""


class TileOperator:
    """The n x n kernel from the upper-triangle tiles that each rank holds.

    All ranks' tiles together must be every tile of the triangle once.
    """

    def __init__(self, sums: Sums, n: int, tiles: Iterable[HeldTile]) -> None:
        self.n = n
        self.sums = sums
        self._tiles = list(tiles)

    def apply(self, v: Array) -> Array:
        """Return K v for v of shape (n, columns), equal on all ranks. Collective."""
        product = self.sums.begin(v.shape, lambda: self._largest * np.abs(v).sum(axis=0))
        for tile, entries in self._tiles:
            _add_products(product, tile, entries, v)
        return product.total()

    @cached_property
    def _largest(self) -> float:
        """The largest entry, NaN if there is one. Collective."""
        mine = max((_largest_of(entries) for _, entries in self._tiles), default=0.0)
        return SLACK * float(np.max(self.sums.comm.allgather(mine)))

    def column(self, index: int) -> Array:
        """Return column `index` of K, shape (n,). Collective."""
        column = np.zeros(self.n)
        for tile, entries in self._tiles:
            if tile.columns.start <= index < tile.columns.stop:
                column[tile.rows] = entries[:, index - tile.columns.start]
            elif tile.rows.start <= index < tile.rows.stop:
                column[tile.columns] = entries[index - tile.rows.start]
        return sum_over_ranks(self.sums.comm, column)

    def diagonal(self) -> Array:
        """Return the diagonal of K, shape (n,). Collective."""
        diagonal = np.zeros(self.n)
        for tile, entries in self._tiles:
            if tile.symmetric:
                diagonal[tile.rows] = entries.diagonal()
        return sum_over_ranks(self.sums.comm, diagonal)


class Restricted:
    """A principal submatrix in the full matrix's coordinates: rows outside `keep` are zero."""

    def __init__(self, operator: Operator, keep: NDArray[np.bool_]) -> None:
        self.n = operator.n
        self.sums = operator.sums
        self._operator = operator
        self._outside = ~keep

    def apply(self, v: Array) -> Array:
        """Return P K v for v that is zero outside. Collective."""
        product = self._operator.apply(v)
        product[self._outside] = 0.0
        return product

    def column(self, index: int) -> Array:
        """Return the column with zeros outside. Collective."""
        column = self._operator.column(index)
        column[self._outside] = 0.0
        return column

    def diagonal(self) -> Array:
        """Return the diagonal with zeros outside. Collective."""
        diagonal = self._operator.diagonal()
        diagonal[self._outside] = 0.0
        return diagonal


def cross_product(
    sums: Sums, m: int, tiles: Iterable[HeldTile], v: Array, largest: float = np.inf
) -> Array:
    """Return the product of an m x n matrix with v, (n, columns). Collective.

    All ranks' `tiles` together make up the matrix. They are consumed one at a time, so they can
    stream from a file. `largest` bounds the matrix's entries: sums in fixed point need it. The
    product is NaN if it does not hold.
    """
    product = sums.begin((m, v.shape[1]), lambda: SLACK * largest * np.abs(v).sum(axis=0))
    for tile, entries in tiles:
        rows = np.empty((len(entries), v.shape[1]))
        for part, strip in _strips(entries):
            rows[part] = strip @ v[tile.columns]
        if largest < np.inf and not _largest_of(entries) <= largest:
            rows[:] = np.nan  # the sum could overflow
        product.add(tile.rows, rows)
    return product.total()


def _largest_of(entries: NDArray[Any]) -> float:
    """Return max |entry|, without a copy of the tile; NaN if one is."""
    return float(np.max([entries.max(), -entries.min()]))


def _add_products(product: Sum, tile: Tile, entries: NDArray[Any], v: Array) -> None:
    """Add a tile's products, each one addend, with its columns and with its rows."""
    rows, columns = np.empty((len(entries), v.shape[1])), np.zeros((entries.shape[1], v.shape[1]))
    for part, strip in _strips(entries):
        rows[part] = strip @ v[tile.columns]
        if not tile.symmetric:
            columns += strip.T @ v[tile.rows][part]
    product.add(tile.rows, rows)
    if not tile.symmetric:
        product.add(tile.columns, columns)


def _strips(entries: NDArray[Any]) -> Iterable[tuple[slice, Array]]:
    """Yield (rows, the same in float64) of a tile; a strip is valid until the next one is taken."""
    height = max(1, STRIP_BYTES // (8 * entries.shape[1]))
    buffer = np.empty((min(height, len(entries)), entries.shape[1]))
    for start in range(0, len(entries), height):
        rows = entries[start : start + height]
        strip = buffer[: len(rows)]
        strip[...] = rows
        yield slice(start, start + len(rows)), strip
