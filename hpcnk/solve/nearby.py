"""Matrices M near A = P K P + ridge I of which more is known: random estimates begin from them.

What is to be estimated of A, the diagonal of its inverse or its determinant, is known of M; only
the difference is left to random vectors, and it is small where M is a good preconditioner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hpcnk.solve.matrices import Matrix, RowSet
from hpcnk.solve.spread import Array, Spread


class Nearby(Protocol):
    """A preconditioner that knows its matrices M, on the rows of their row sets."""

    @property
    def rank(self) -> int:
        """Columns of the factor that M is made of."""

    def __call__(self, parts: Sequence[tuple[Matrix, Array]]) -> list[Array]:
        """Return M^-1 times the columns of each part. Collective."""

    def inverse_diagonal(self, matrix: Matrix) -> Array:
        """Return this rank's rows of the diagonal of M^-1, zero outside the row set. Collective."""

    def sample(self, matrix: Matrix, short: Array, long: Array) -> Array:
        """Return this rank's rows of vectors of covariance M, (rows, columns), zero outside.

        From standard normal ones: `short` (rank, columns), on all ranks, `long` (rows, columns).
        """

    def log_determinant(self, matrix: Matrix) -> float:
        """Return log det M. Collective."""


class Diagonal:
    """M is the diagonal of A: for want of a better one. `diagonal` (n,) of K, on all ranks."""

    rank = 0

    def __init__(self, spread: Spread, diagonal: Array, row_sets: Sequence[RowSet]) -> None:
        self._mine = spread.mine
        self._diagonal = diagonal
        self._row_sets = row_sets

    def __call__(self, parts: Sequence[tuple[Matrix, Array]]) -> list[Array]:
        """Return M^-1 times the columns of each part."""
        return [self.inverse_diagonal(matrix)[:, None] * part for matrix, part in parts]

    def inverse_diagonal(self, matrix: Matrix) -> Array:
        """Return this rank's rows of the diagonal of M^-1, zero outside the row set."""
        keep = self._row_sets[matrix.rows].keep[self._mine]
        return np.where(keep, 1 / self._values(matrix)[self._mine], 0.0)

    def sample(self, matrix: Matrix, short: Array, long: Array) -> Array:
        """Return this rank's rows of vectors of covariance M, zero outside the row set."""
        keep = self._row_sets[matrix.rows].keep[self._mine]
        return np.where(keep, np.sqrt(self._values(matrix)[self._mine]), 0.0)[:, None] * long

    def log_determinant(self, matrix: Matrix) -> float:
        """Return log det M."""
        return float(np.log(self._values(matrix)[self._row_sets[matrix.rows].keep]).sum())

    def _values(self, matrix: Matrix) -> Array:
        """Return the diagonal of A, 1 where it is zero: such a row of K is zero throughout."""
        values = self._diagonal + matrix.ridge
        return np.where(values > 0, values, 1.0)
