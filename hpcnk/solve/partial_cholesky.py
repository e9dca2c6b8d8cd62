"""Partial Cholesky factors of the kernel, from blocks of its columns.

Blocks begin with one column and grow while most candidates of a block are taken, for the first
pivots change the diagonal most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpcnk.comm import sum_over_ranks
from hpcnk.solve.operator import Operator
from hpcnk.solve.pivots import Indices, Pivoting
from hpcnk.solve.precondition import Factor
from hpcnk.solve.spread import Array

BLOCK = 128  # columns of the largest block
EPS = np.finfo(float).eps


@dataclass(frozen=True)
class Progress:
    """How far a factor has come: its columns, and what is left of K, per row.

    `left`: the mean of its diagonal; `least`: its smallest entry beside the pivots, which no
    eigenvalue at the lower end exceeds; `length`: the mean squared length of the newest columns,
    about as large as the largest eigenvalues that were left before them.
    """

    rank: int
    left: float
    least: float
    length: float


Enough = Callable[[Progress], bool]


def never(progress: Progress) -> bool:
    """Go on to the rank asked for."""
    return False


def pivoted_cholesky(
    operator: Operator,
    rank: int,
    pivoting: Pivoting,
    observe: Callable[[], None] = lambda: None,
    enough: Enough = never,
    most: int = BLOCK,
) -> Factor:
    """Return a factor of at most `rank` columns of K, at most `most` taken at once. Collective.

    It stops early when the columns explain the whole diagonal to rounding; where what is left is
    noise, in which no pivot is worth its column; and at `enough`. `observe` is called on all ranks
    before each block, and may end the work by raising on all.
    """
    growing = _Growing(operator, min(rank, operator.n))
    size = 1
    while growing.wanting:
        observe()
        proposed, taken = growing.add(pivoting, size)
        progress = growing.progress()
        if operator.spread.decide(lambda: not taken or enough(progress)):  # noqa: B023
            break
        size = min(most, 2 * size) if 2 * taken > proposed else max(1, size // 2)
    return growing.factor()


class _Growing:
    """A factor that grows by blocks of columns.

    L is held transposed, (rank, rows of this rank): a column's numbers are beside each other, and
    columns never reached take no memory.
    """

    def __init__(self, operator: Operator, rank: int) -> None:
        self._operator, self._spread = operator, operator.spread
        self._left = np.maximum(operator.diagonal(), 0.0)
        self._trace = float(self._left.sum())
        self._l = np.zeros((rank, self._spread.count))
        self._free = np.ones(operator.n, bool)
        self._rank, self._length = 0, 0.0

    @property
    def wanting(self) -> int:
        """Columns that may still be added."""
        done = self._left.max() <= EPS * self._trace
        return 0 if done else len(self._l) - self._rank

    def add(self, pivoting: Pivoting, count: int) -> tuple[int, int]:
        """Add columns; return how many were proposed, and how many taken. Collective."""
        drawn = self._spread.decide(lambda: pivoting.propose(self._left, count))
        candidates, turns = np.unique(drawn, return_inverse=True)
        new, pivots = self._columns(candidates, turns, pivoting)
        left = self._left - self._squares(new)
        left[pivots] = 0.0
        noise = not -left.min() <= self._left.max()  # of a definite matrix it is not negative
        if noise or not pivots.size:
            return len(drawn), 0
        self._left = np.maximum(left, 0.0)
        self._free[pivots] = False
        self._length = float(self._spread.totals(lambda rows: _lengths(new[:, rows]))[0].mean())
        self._l[self._rank : self._rank + pivots.size] = new
        self._rank += pivots.size
        return len(drawn), pivots.size

    def _columns(
        self, candidates: Indices, turns: Indices, pivoting: Pivoting
    ) -> tuple[Array, Indices]:
        """Return new columns of L, transposed, and the pivots chosen."""
        spread, l = self._spread, self._l[: self._rank]  # noqa: E741
        new = np.ascontiguousarray(self._operator.columns(candidates).T)
        ours = spread.rows_at(l.T, candidates)
        parts = list(spread.parts()) if self._operator.sums.ordered else [slice(0, spread.count)]
        for part in parts:
            new[:, part] -= ours @ l[:, part]
        block = spread.rows_at(new.T, candidates)
        elsewhere = float(np.delete(self._left, candidates).max(initial=0.0))
        chosen, factor = spread.decide(lambda: pivoting.choose(block, turns, elsewhere))
        taken = new[chosen]
        for part in parts if chosen.size else []:
            taken[:, part] = _divided(factor, taken[:, part])
        # Of too many the first: so the columns of a factor do not depend on the rank asked for.
        room = self.wanting
        return taken[:room], candidates[chosen[:room]]

    def _squares(self, new: Array) -> Array:
        """Return the squared lengths of the rows of new columns, (n,), on all ranks."""
        squares = np.zeros(self._operator.n)
        squares[self._spread.mine] = np.einsum("kn,kn->n", new, new)
        return sum_over_ranks(self._spread.comm, squares)

    def progress(self) -> Progress:
        """Return how far it has come."""
        least = self._left[self._free].min(initial=np.inf)
        return Progress(self._rank, float(self._left.mean()), float(least), self._length)

    def factor(self) -> Factor:
        """Return the columns taken."""
        left = float(self._left.sum())
        share = 1 - left / self._trace if self._trace > 0 else 1.0
        mean = max(left / self._operator.n, EPS * self._trace)
        return Factor(self._l[: self._rank].T, mean, share)


def _lengths(new: Array) -> Array:
    return np.einsum("kn,kn->k", new, new)


def _divided(factor: Array, right: Array) -> Array:
    """Return factor^-1 right, of a lower triangular factor."""
    from scipy.linalg.blas import dtrsm

    return dtrsm(1.0, factor, right.T, side=1, lower=1, trans_a=1).T
