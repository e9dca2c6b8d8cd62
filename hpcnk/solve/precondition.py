"""Preconditioners: one low-rank factor K ~ L L^T that serves all row sets and all ridges.

The matrix P K P + ridge I is replaced by L_S L_S^T + shift I, with L_S = P L, and Woodbury's
identity gives

    (L_S L_S^T + shift I)^-1 r = (r - L_S (shift I + L_S^T L_S)^-1 L_S^T r) / shift.

The shift is the ridge plus the mean of the diagonal that L L^T leaves of K. The ridge alone would
shift what L does not see by far too little where the kernel's own small eigenvalues are above the
ridge: then the eigenvalues that L does see lie far below all others, and rounding is amplified.

The rows of L are spread over the ranks; each small matrix in the middle, the core, is held and
solved by one rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import Sums, sum_over_ranks
from hpcnk.solve.cores import Core
from hpcnk.solve.matrices import Matrix, RowSet
from hpcnk.solve.operator import SLACK
from hpcnk.solve.products import Products
from hpcnk.solve.spread import Array, Spread

ROWS_AT_ONCE = 4096  # of L in one product, where sums need no order


class Precondition(Protocol):
    """Approximates the inverses of matrices."""

    def __call__(self, parts: Sequence[tuple[Matrix, Array]]) -> list[Array]:
        """Return new arrays, the approximate inverse of each matrix times its columns. Collective.

        An array has this rank's rows, (rows, columns), and is zero outside its matrix's row set.
        """


def identity(parts: Sequence[tuple[Matrix, Array]]) -> list[Array]:
    """Return copies: no preconditioner."""
    return [residuals.copy() for _, residuals in parts]


class Factor:
    """L with K ~ L L^T: `rows` (rows of this rank, rank), columns in the order of their weight,
    and one after the other in memory.

    `left`: the mean of the diagonal of K that it leaves; `share`: of the trace that it explains.
    """

    def __init__(self, rows: Array, left: float, share: float = 1.0) -> None:
        self.rows = np.asfortranarray(rows)
        self.left = left
        self.share = share

    @property
    def rank(self) -> int:
        """Number of columns."""
        return self.rows.shape[1]


class LowRank:
    """Applies (L_S L_S^T + shift I)^-1 for the matrices it was made for. Collective to make."""

    def __init__(
        self,
        spread: Spread,
        sums: Sums,
        factor: Factor,
        row_sets: Sequence[RowSet],
        matrices: Sequence[Matrix],
        products: Products,
    ) -> None:
        self._spread, self._sums, self._row_sets = spread, sums, row_sets
        self._products = products
        self.factor = factor
        self._l = factor.rows
        (squares,) = spread.totals(lambda rows: np.einsum("nk,nk->k", self._l[rows], self._l[rows]))
        self._square = float(squares.sum())  # bounds the square of any column's length
        used = sorted({matrix.rows for matrix in matrices})
        grams = self._grams(used)
        self._cores = {
            matrix: Core(grams[matrix.rows], self._shift(matrix))
            for turn, matrix in enumerate(sorted(set(matrices)))
            if turn % spread.comm.size == spread.comm.rank
        }

    @property
    def rank(self) -> int:
        """Columns of the factor."""
        return self.factor.rank

    def _shift(self, matrix: Matrix) -> float:
        return (matrix.ridge + self.factor.left) or 1.0  # of a zero matrix anything will do

    def _grams(self, numbers: Sequence[int]) -> dict[int, Array]:
        """Return L_S^T L_S of each row set; one that contains another adds only its own rows."""
        grams: dict[int, Array] = {}
        done = np.zeros(self._spread.n, bool)
        last = np.zeros((self.rank, self.rank))
        for number in sorted(numbers, key=lambda number: self._row_sets[number].count):
            keep = self._row_sets[number].keep
            if not keep[done].all():
                done, last = np.zeros_like(done), np.zeros_like(last)
            last = last + self._gram(keep & ~done)
            grams[number], done = last, keep
        return grams

    def _gram(self, keep: NDArray[np.bool_]) -> Array:
        mine = keep[self._spread.mine]
        bound = lambda: np.full(self.rank, SLACK * self._square)  # noqa: E731
        gram = self._sums.begin((self.rank, self.rank), bound)
        for part in self._parts():
            rows = self._l[part] if mine[part].all() else self._l[part][mine[part]]
            gram.add(slice(None), rows.T @ rows)
        return gram.total()

    def _parts(self) -> list[slice]:
        """Cut this rank's rows; into the common blocks where sums must not depend on ranks."""
        if self._sums.ordered:
            return list(self._spread.parts())
        return [slice(at, at + ROWS_AT_ONCE) for at in range(0, len(self._l), ROWS_AT_ONCE)]

    def __call__(self, parts: Sequence[tuple[Matrix, Array]]) -> list[Array]:
        """Return the preconditioned residuals. Collective."""
        if not parts:
            return []
        residuals = np.concatenate([r for _, r in parts], axis=1)
        widths = [r.shape[1] for _, r in parts]
        matrices = [matrix for matrix, _ in parts]
        weights = -self._solve(matrices, widths, self._project(residuals))
        for rows in self._parts():
            self._products.add_transposed(self._l[rows].T, weights, residuals[rows])
        return list(map(self._scaled, matrices, _split(residuals, widths)))

    def _project(self, residuals: Array) -> Array:
        """Return L^T r, (rank, columns), on all ranks."""
        columns = residuals.shape[1]
        begun = self._sums.begin((self.rank, columns), lambda: self._bound(residuals))
        for rows in self._parts():
            part = residuals[rows]
            with begun.addend(slice(0, self.rank), columns) as addend:
                self._products.add(self._l[rows].T, True, part, part, addend, addend)
        return begun.total()

    def _bound(self, residuals: Array) -> Array:
        """Bound the sums of |L^T r|: no column of L is longer than all of L."""
        (squares,) = self._spread.totals(lambda rows: (residuals[rows] ** 2).sum(axis=0))
        return SLACK * np.sqrt(self._square * squares)

    def _solve(self, matrices: Sequence[Matrix], widths: Sequence[int], right: Array) -> Array:
        """Apply to the columns of each matrix its core, on the rank that has it; all get all."""
        solved = [
            self._cores[matrix].solve(part) if matrix in self._cores else np.zeros_like(part)
            for matrix, part in zip(matrices, _split(right, widths), strict=True)
        ]
        whole = np.ascontiguousarray(np.concatenate(solved, axis=1))
        return sum_over_ranks(self._spread.comm, whole)

    def _scaled(self, matrix: Matrix, part: Array) -> Array:
        scaled = part / self._shift(matrix)
        scaled[~self._row_sets[matrix.rows].keep[self._spread.mine]] = 0.0
        return scaled

    def inverse_diagonal(self, matrix: Matrix) -> Array:
        """Return this rank's rows of the inverse's diagonal, zero outside the set. Collective."""
        root = np.zeros((self.rank, self.rank))
        if matrix in self._cores:
            root += self._cores[matrix].inverse_root()
        root = sum_over_ranks(self._spread.comm, root)
        diagonal = np.zeros(len(self._l))
        for rows in self._parts():
            explained = ((self._l[rows] @ root) ** 2).sum(axis=1)
            rest = np.maximum(1 - explained, np.finfo(float).eps)  # positive, but for rounding
            diagonal[rows] = rest / self._shift(matrix)
        diagonal[~self._row_sets[matrix.rows].keep[self._spread.mine]] = 0.0
        return diagonal

    def sample(self, matrix: Matrix, short: Array, long: Array) -> Array:
        """Return this rank's rows of vectors of covariance L_S L_S^T + shift I, zero outside S.

        From standard normal ones: `short` (rank, columns), on all ranks, `long` (rows, columns).
        """
        drawn = np.sqrt(self._shift(matrix)) * long
        for rows in self._parts():
            drawn[rows] += self._l[rows] @ short
        drawn[~self._row_sets[matrix.rows].keep[self._spread.mine]] = 0.0
        return drawn

    def log_determinant(self, matrix: Matrix) -> float:
        """Return log det (L_S L_S^T + shift I) on the rows of the set. Collective."""
        shift, count = self._shift(matrix), self._row_sets[matrix.rows].count
        mine = self._cores[matrix].log_determinant() if matrix in self._cores else 0.0
        total = sum_over_ranks(self._spread.comm, np.array([mine]))
        return float(total[0]) + (count - self.rank) * float(np.log(shift))


def _split(columns: Array, widths: Sequence[int]) -> list[Array]:
    return np.split(columns, np.cumsum(widths)[:-1], axis=1)
