"""Pivoted Cholesky preconditioner: one low-rank factor of K that serves all ridges.

K is approximated by L L^T with rank k, from k of its columns, each chosen where the remaining
diagonal is largest (Harbrecht, Peters, Schneider 2012). With the eigenvectors U and eigenvalues s
of L L^T, Woodbury's identity gives for every ridge

    (L L^T + ridge I)^-1 r = (r - U diag(s / (s + ridge)) U^T r) / ridge.

The rows of L and U are spread over the ranks in whole blocks, and all products are of one block, so
their bits do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from hpcnk.comm import Communicator, Sums, assemble_rows, on_root, sum_over_ranks
from hpcnk.solve.operator import SLACK, Array, Operator
from hpcnk.tiling import share_blocks

TINY = np.finfo(float).eps ** 2
ROWS = 256  # of a block

Precondition = Callable[[Array, Array], Array]  # (residuals (n, columns), ridges (columns,))


def identity(residuals: Array, ridges: Array) -> Array:
    """Return a copy of the residuals: no preconditioner."""
    return residuals.copy()


class LowRank:
    """Applies (U diag(s) U^T + ridge I)^-1.

    `u` holds this rank's rows of U, (rows, k); `s` has shape (k,). `floor` replaces a ridge of
    zero, or next to it: the mean of the diagonal that the factor leaves.
    """

    def __init__(self, sums: Sums, n: int, u: Array, s: Array, floor: float) -> None:
        self._sums = sums
        self._n = n
        self._rows = _mine(sums.comm, n)
        self._u = u
        self._s = s[:, None]
        self._floor = floor

    @property
    def rank(self) -> int:
        """Columns of the factor."""
        return self._u.shape[1]

    def __call__(self, residuals: Array, ridges: Array) -> Array:
        """Return the preconditioned residuals, equal on all ranks. Collective."""
        ridges = np.where(ridges > TINY * self._floor, ridges, self._floor)
        mine = residuals[self._rows]
        # U has columns of length 1, so a column's addends are at most as long as its residual.
        length = lambda: SLACK * np.sqrt((residuals**2).sum(axis=0))  # noqa: E731
        weights = self._sums.begin((self.rank, residuals.shape[1]), length)
        for block in _blocks(mine):
            weights.add(slice(None), self._u[block].T @ mine[block])
        scaled = weights.total() * (self._s / (self._s + ridges))
        done = np.empty_like(mine)
        for block in _blocks(mine):
            done[block] = (mine[block] - self._u[block] @ scaled) / ridges
        return assemble_rows(self._sums.comm, done, self._rows, self._n)


def pivoted_cholesky(
    operator: Operator, rank: int, observe: Callable[[], None] = lambda: None
) -> LowRank:
    """Return the preconditioner from at most `rank` columns of K. Collective.

    It stops early when the columns taken explain the whole diagonal to rounding. `observe` is
    called on all ranks before each column, and may end the work by raising on all of them.
    """
    factor, left = _factor(operator, rank, observe)
    u, s = _eigenpairs(operator, factor)
    return LowRank(operator.sums, operator.n, u, s, floor=left)


def _mine(comm: Communicator, n: int) -> slice:
    return share_blocks(n, comm.size, comm.rank, ROWS)


def _blocks(rows: Array) -> Iterator[slice]:
    """Cut this rank's rows into the blocks that all numbers of ranks have in common."""
    return (slice(start, start + ROWS) for start in range(0, len(rows), ROWS))


def _factor(operator: Operator, rank: int, observe: Callable[[], None]) -> tuple[Array, float]:
    """Return this rank's rows of L, (rows, k), and the mean of the diagonal left over."""
    comm, left = operator.sums.comm, operator.diagonal()
    tiny = np.finfo(float).eps * left.sum()
    mine = _mine(comm, operator.n)
    factor = np.zeros((mine.stop - mine.start, min(rank, operator.n)))
    for k in range(factor.shape[1]):
        observe()
        pivot = int(left.argmax())
        if left[pivot] <= tiny:
            factor = factor[:, :k].copy()
            break
        column = operator.column(pivot)[mine]
        row = _row(comm, factor[:, :k], mine, pivot)
        for block in _blocks(column):
            column[block] -= factor[block, :k] @ row
        factor[:, k] = column / np.sqrt(left[pivot])
        taken = assemble_rows(comm, factor[:, k : k + 1] ** 2, mine, operator.n)[:, 0]
        left = np.maximum(left - taken, 0.0)
        left[pivot] = 0.0
    return factor, max(left.mean(), tiny)


def _row(comm: Communicator, factor: Array, mine: slice, index: int) -> Array:
    """Return one row of the spread factor on all ranks."""
    row = np.zeros(factor.shape[1])
    if mine.start <= index < mine.stop:
        row[:] = factor[index - mine.start]
    return sum_over_ranks(comm, row)


def _eigenpairs(operator: Operator, factor: Array) -> tuple[Array, Array]:
    """Return this rank's rows of the eigenvectors of L L^T, and its eigenvalues above rounding.

    One rank diagonalises for all: two kinds of processors could choose opposite signs.
    """
    from scipy.linalg import eigh  # takes longer to import than all else: only where it is needed

    rank = factor.shape[1]
    trace = operator.diagonal().sum()  # L L^T has at most that of K
    gram = operator.sums.begin((rank, rank), lambda: np.full(rank, SLACK * trace))
    for block in _blocks(factor):
        gram.add(slice(None), factor[block].T @ factor[block])
    whole = gram.total()
    s, v = on_root(operator.sums.comm, lambda: eigh(whole))
    kept = s > np.finfo(float).eps * s.max(initial=0.0) * len(s)
    scaled = v[:, kept] / np.sqrt(s[kept])
    u = np.empty((len(factor), scaled.shape[1]))
    for block in _blocks(factor):
        u[block] = factor[block] @ scaled
    return u, s[kept]
