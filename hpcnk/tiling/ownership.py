"""Static ownership: which rank takes which tile, and which rows of a vector."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from hpcnk.tiling.grid import Grid


def deal(grid: Grid, size: int, rank: int, done: Collection[int] = ()) -> list[int]:
    """Return the tile numbers of `rank`: every size-th of those that are not `done`.

    Round-robin over `grid.order()`, so all ranks together own every tile once, any two ranks
    differ by at most one tile, and a restart deals what is left over as evenly as the start did.
    """
    left = (number for number in grid.order() if number not in done) if done else grid.order()
    return list(islice(left, rank, None, size))


def share(n: int, size: int, rank: int) -> slice:
    """Return the contiguous rows of `rank` when n rows are split as evenly as they go."""
    quotient, rest = divmod(n, size)
    start = rank * quotient + min(rank, rest)
    return slice(start, start + quotient + (rank < rest))


def share_blocks(n: int, size: int, rank: int, block: int) -> slice:
    """Return the contiguous rows of `rank` when n rows are split between whole blocks.

    Block k has the rows from k block on, the last one fewer; so what is computed block by block
    does not depend on the number of ranks.
    """
    blocks = share(-(-n // block), size, rank)
    return slice(min(n, blocks.start * block), min(n, blocks.stop * block))
