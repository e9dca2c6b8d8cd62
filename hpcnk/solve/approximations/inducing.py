"""Inducing rows: the few that a low-rank approximation takes columns of the kernel from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import broadcast
from hpcnk.solve.operator import Indices, Operator
from hpcnk.solve.partial_cholesky import pivoted_cholesky
from hpcnk.solve.pivots import Chosen, Random
from hpcnk.solve.spread import Array, Spread
from hpcnk.solve.tiles import Sizes


def leading_inducing(keep: NDArray[np.bool_], count: int) -> Indices:
    """Return the first `count` rows of those to keep, in the order of the training set."""
    return np.flatnonzero(keep)[:count]


def random_inducing(operator: Operator, keep: NDArray[np.bool_], count: int, seed: int) -> Indices:
    """Return pivots of a randomly pivoted Cholesky factorisation of K on the rows to keep.

    Ascending; fewer than `count` if these explain the whole diagonal to rounding. Collective.
    """
    noted = _Noted(seed)
    factor = pivoted_cholesky(_Within(operator, keep), min(count, int(keep.sum())), noted)
    taken = np.sort(noted.pivots[: factor.rank])  # the last ones chosen may not have been worth it
    comm = operator.spread.comm
    return broadcast(comm, taken if comm.rank == 0 else None)


class _Noted(Random):
    """Random pivoting that remembers the pivots, on the rank that decides."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.pivots = np.arange(0)
        self._block = np.arange(0)

    def propose(self, left: Array, count: int) -> Indices:
        drawn = super().propose(left, count)
        self._block = np.unique(drawn)
        return drawn

    def choose(self, block: Array, turns: Indices, largest: float) -> Chosen:
        chosen, factor = super().choose(block, turns, largest)
        self.pivots = np.concatenate([self.pivots, self._block[chosen]])
        return chosen, factor


class _Within:
    """K of which nothing is to be explained outside some rows, so that no pivot lies there."""

    def __init__(self, operator: Operator, keep: NDArray[np.bool_]) -> None:
        self._operator, self._keep = operator, keep
        self.n, self.sums = operator.n, operator.sums
        self.spread: Spread = operator.spread

    def apply(self, v: Array, sizes: Sizes | None = None) -> Array:
        return self._operator.apply(v, sizes)

    def columns(self, indices: Indices) -> Array:
        columns = self._operator.columns(indices)
        columns[~self._keep[self.spread.mine]] = 0.0
        return columns

    def diagonal(self) -> Array:
        return np.where(self._keep, self._operator.diagonal(), 0.0)
