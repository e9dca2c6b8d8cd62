"""Pivoted Cholesky preconditioner: one low-rank factor of K that serves all ridges.

K is approximated by L L^T with rank k, from k of its columns, each chosen where the remaining
diagonal is largest (Harbrecht, Peters, Schneider 2012). With the eigenvectors U and eigenvalues s
of L L^T, Woodbury's identity gives for every ridge

    (L L^T + ridge I)^-1 r = (r - U diag(s / (s + ridge)) U^T r) / ridge.

The rows of L and U are spread over the ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh

from hpcnk.comm import Communicator, assemble_rows, on_root, sum_over_ranks
from hpcnk.solve.operator import Array, Operator
from hpcnk.tiling import share

TINY = np.finfo(float).eps ** 2

Precondition = Callable[[Array, Array], Array]  # (residuals (n, columns), ridges (columns,))


def identity(residuals: Array, ridges: Array) -> Array:
    """Return a copy of the residuals: no preconditioner."""
    return residuals.copy()


class LowRank:
    """Applies (U diag(s) U^T + ridge I)^-1.

    `u` holds this rank's rows of U, (rows, k); `s` has shape (k,). `floor` replaces a ridge of
    zero, or next to it: the mean of the diagonal that the factor leaves.
    """

    def __init__(self, comm: Communicator, n: int, u: Array, s: Array, floor: float) -> None:
        self._comm = comm
        self._n = n
        self._rows = share(n, comm.size, comm.rank)
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
        weights = sum_over_ranks(self._comm, self._u.T @ mine)
        weights *= self._s / (self._s + ridges)
        return assemble_rows(self._comm, (mine - self._u @ weights) / ridges, self._rows, self._n)


def pivoted_cholesky(
    comm: Communicator, operator: Operator, rank: int, observe: Callable[[], None] = lambda: None
) -> LowRank:
    """Return the preconditioner from at most `rank` columns of K. Collective.

    It stops early when the columns taken explain the whole diagonal to rounding. `observe` is
    called on all ranks before each column, and may end the work by raising on all of them.
    """
    factor, left = _factor(comm, operator, rank, observe)
    u, s = _eigenpairs(comm, factor)
    return LowRank(comm, operator.n, u, s, floor=left)


def _factor(
    comm: Communicator, operator: Operator, rank: int, observe: Callable[[], None]
) -> tuple[Array, float]:
    """Return this rank's rows of L, (rows, k), and the mean of the diagonal left over."""
    left = operator.diagonal()
    tiny = np.finfo(float).eps * left.sum()
    mine = share(operator.n, comm.size, comm.rank)
    factor = np.zeros((mine.stop - mine.start, min(rank, operator.n)))
    for k in range(factor.shape[1]):
        observe()
        pivot = int(left.argmax())
        if left[pivot] <= tiny:
            factor = factor[:, :k].copy()
            break
        column = operator.column(pivot)[mine]
        column -= factor[:, :k] @ _row(comm, factor[:, :k], mine, pivot)
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


def _eigenpairs(comm: Communicator, factor: Array) -> tuple[Array, Array]:
    """Return this rank's rows of the eigenvectors of L L^T, and its eigenvalues above rounding.

    One rank diagonalises for all: two kinds of processors could choose opposite signs.
    """
    gram = sum_over_ranks(comm, factor.T @ factor)
    s, v = on_root(comm, lambda: eigh(gram))
    kept = s > np.finfo(float).eps * s.max(initial=0.0) * len(s)
    return factor @ (v[:, kept] / np.sqrt(s[kept])), s[kept]
