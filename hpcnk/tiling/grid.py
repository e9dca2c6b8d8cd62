"""The two grids of a run: the upper triangle of train x train, and test x train.

A tile has a number, which is its place in the file. The triangle is numbered down its columns,

    0 1 3 6
      2 4 7        number = j (j + 1) / 2 + i,   i <= j
        5 8
          9

so that a tile's number does not depend on how many rows there are. All arithmetic is in Python
integers: five million rows make more tiles than 32 bits count at small tile sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import TypeAlias


@dataclass(frozen=True)
class Tile:
    """One tile: its number, its block row and column, and the matrix rows and columns it covers."""

    number: int
    i: int
    j: int
    rows: slice
    columns: slice
    symmetric: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that hold data; the stored square is padded with zeros."""
        return _length(self.rows), _length(self.columns)

    @property
    def pairs(self) -> int:
        """Kernel entries to compute; a symmetric tile needs one triangle and its diagonal."""
        height, width = self.shape
        return height * (height + 1) // 2 if self.symmetric else height * width


@dataclass(frozen=True)
class TriangleGrid:
    """The upper triangle of an n x n symmetric matrix in square tiles."""

    n: int
    tile: int

    def __post_init__(self) -> None:
        _check_sizes(self.n, self.tile)

    @property
    def blocks(self) -> int:
        """Number of block rows."""
        return -(-self.n // self.tile)

    @property
    def count(self) -> int:
        """Number of tiles, t (t + 1) / 2."""
        return self.blocks * (self.blocks + 1) // 2

    @property
    def pairs(self) -> int:
        """Kernel entries to compute, n (n + 1) / 2."""
        return self.n * (self.n + 1) // 2

    def number(self, i: int, j: int) -> int:
        """Return the number of the tile at block row i <= block column j."""
        if not 0 <= i <= j < self.blocks:
            raise IndexError(f"no tile ({i}, {j}) in a triangle of {self.blocks} blocks")
        return j * (j + 1) // 2 + i

    def at(self, number: int) -> Tile:
        """Return the tile of this number. Raises IndexError outside 0 .. count - 1."""
        _check_number(number, self.count)
        j = (isqrt(8 * number + 1) - 1) // 2
        i = number - j * (j + 1) // 2
        return Tile(
            number, i, j, _rows(i, self.tile, self.n), _rows(j, self.tile, self.n), symmetric=i == j
        )

    def order(self) -> Iterator[int]:
        """Full tiles first, then the diagonal ones, which cost half.

        Dealt round-robin in this order, ranks differ by at most one tile in number and in work;
        in plain number order the diagonal tiles would all fall on some of the ranks.
        """
        for j in range(self.blocks):
            for i in range(j):
                yield self.number(i, j)
        for j in range(self.blocks):
            yield self.number(j, j)


@dataclass(frozen=True)
class CrossGrid:
    """An m x n matrix (test rows by training columns) in square tiles, numbered along its rows."""

    m: int
    n: int
    tile: int

    def __post_init__(self) -> None:
        _check_sizes(self.m, self.tile)
        _check_sizes(self.n, self.tile)

    @property
    def block_columns(self) -> int:
        """Number of block columns."""
        return -(-self.n // self.tile)

    @property
    def count(self) -> int:
        """Number of tiles."""
        return -(-self.m // self.tile) * self.block_columns

    @property
    def pairs(self) -> int:
        """Kernel entries to compute, m n."""
        return self.m * self.n

    def at(self, number: int) -> Tile:
        """Return the tile of this number. Raises IndexError outside 0 .. count - 1."""
        _check_number(number, self.count)
        i, j = divmod(number, self.block_columns)
        return Tile(
            number, i, j, _rows(i, self.tile, self.m), _rows(j, self.tile, self.n), symmetric=False
        )

    def order(self) -> Iterator[int]:
        """All tiles, in the order of their numbers."""
        return iter(range(self.count))


Grid: TypeAlias = TriangleGrid | CrossGrid


def _rows(block: int, tile: int, n: int) -> slice:
    return slice(block * tile, min((block + 1) * tile, n))


def _length(rows: slice) -> int:
    return rows.stop - rows.start


def _check_sizes(rows: int, tile: int) -> None:
    if rows < 1 or tile < 1:
        raise ValueError(
            f"a grid needs at least one row and a tile of at least 1, got {rows=} {tile=}"
        )


def _check_number(number: int, count: int) -> None:
    if not 0 <= number < count:
        raise IndexError(f"no tile {number} in a grid of {count}")
