"""How the rows of vectors are spread over the ranks, and what is summed over all rows.

Rows go in whole blocks of 256, each block to one rank. Sums over rows may be asked for in an order
that does not depend on the number of ranks: then they are formed block by block, and the blocks'
sums are gathered and added up in the order of the blocks.

All ranks get the numbers that rank 0 has, so that decisions made from them are the same
everywhere, whatever processors the ranks have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import Communicator, gather_rows, sum_over_ranks
from hpcnk.tiling import share_blocks

ROWS = 256  # of a block

Array = NDArray[np.float64]
Term = Callable[[slice], Array]  # the part of a sum that some of this rank's rows make up
T = TypeVar("T")


class Spread:
    """The rows 0 .. n - 1 over the ranks of a communicator; `mine` are this rank's.

    `ordered`: whether sums have the same bits for any number of ranks.
    """

    def __init__(self, comm: Communicator, n: int, ordered: bool = False) -> None:
        self.comm = comm
        self.n = n
        self.ordered = ordered
        self.blocks = [share_blocks(n, comm.size, rank, ROWS) for rank in range(comm.size)]
        self.mine = self.blocks[comm.rank]

    @property
    def count(self) -> int:
        """Number of this rank's rows."""
        return self.mine.stop - self.mine.start

    def parts(self) -> Iterator[slice]:
        """Cut this rank's rows, counted from 0, into the blocks that all spreads have in common."""
        return (slice(start, start + ROWS) for start in range(0, self.count, ROWS))

    def totals(self, *terms: Term) -> list[Array]:
        """Return each term summed over the rows of all ranks, equal on all ranks. Collective.

        A term is called with rows of this rank, counted from 0: with all of them, with the blocks
        one by one, or with none.
        """
        if not terms:
            return []
        empty = [term(slice(0, 0)) for term in terms]
        total = self._ordered(terms) if self.ordered else self._quick(terms)
        self.comm.Bcast(total, root=0)
        ends = np.cumsum([part.size for part in empty])[:-1]
        parts = zip(np.split(total, ends), empty, strict=True)
        return [part.reshape(like.shape) for part, like in parts]

    def _quick(self, terms: Sequence[Term]) -> Array:
        return sum_over_ranks(self.comm, _flat(terms, slice(0, self.count)))

    def _ordered(self, terms: Sequence[Term]) -> Array:
        blocks = [_flat(terms, part) for part in self.parts()]
        mine = np.stack(blocks) if blocks else np.empty((0, _flat(terms, slice(0, 0)).size))
        counts = [slice(-(-rows.start // ROWS), -(-rows.stop // ROWS)) for rows in self.blocks]
        return np.ascontiguousarray(gather_rows(self.comm, mine, counts).sum(axis=0))

    def inner(self, pairs: Sequence[tuple[Array, Array]]) -> list[Array]:
        """Return a^T b of each pair of spread matrices, equal on all ranks. Collective."""
        return self.totals(*(gram(a, b) for a, b in pairs))

    def whole(self, mine: Array) -> Array:
        """Return a spread matrix, (n, columns), on all ranks. Collective."""
        return gather_rows(self.comm, mine, self.blocks)

    def rows_at(self, mine: Array, indices: Sequence[int] | NDArray[np.int64]) -> Array:
        """Return these rows of a spread matrix on all ranks. Collective."""
        chosen = np.asarray(indices, np.int64)
        rows = np.zeros((len(chosen), mine.shape[1]))
        here = (chosen >= self.mine.start) & (chosen < self.mine.stop)
        rows[here] = mine[chosen[here] - self.mine.start]
        return sum_over_ranks(self.comm, rows)

    def decide(self, decision: Callable[[], T]) -> T:
        """Return what rank 0 computes from numbers that all ranks have. Collective."""
        result: Any = decision() if self.comm.rank == 0 else None
        return self.comm.bcast(result, root=0)


def gram(a: Array, b: Array) -> Term:
    """Make the term of a^T b."""
    return lambda rows: a[rows].T @ b[rows]


def dots(a: Array, b: Array) -> Term:
    """Make the term of the products of columns with columns, (columns,)."""
    return lambda rows: np.einsum("nc,nc->c", a[rows], b[rows])


def _flat(terms: Sequence[Term], rows: slice) -> Array:
    return np.concatenate([np.ravel(term(rows)) for term in terms])
