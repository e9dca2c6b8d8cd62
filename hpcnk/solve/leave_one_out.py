"""Leave-one-out residuals: what each training row would be predicted without it, from one solve.

With A = P K P + ridge I and alpha = A^-1 y, leaving row i out changes its residual to

    y_i - f_-i(x_i) = alpha_i / [A^-1]_ii     (Rasmussen, Williams, equation 5.12).

The diagonal of A^-1 is that of M^-1, known exactly, plus an estimate from random signs z, the mean
of z * ((A^-1 - M^-1) z) (Bekas, Kokiopoulou, Saad 2007): it is unbiased, and its error is that of
M, a matrix near A. With as many vectors as rows the unit vectors are solved instead: exact to the
square of the tolerance. The diagonal lies in [1 / (K_ii + ridge), 1 / ridge]; an estimate outside
is moved there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import sum_over_ranks
from hpcnk.solve.conjugate_gradient import Systems, conjugate_gradient
from hpcnk.solve.matrices import Matrix, RowSet
from hpcnk.solve.nearby import Nearby
from hpcnk.solve.operator import Operator
from hpcnk.solve.probes import Probes
from hpcnk.solve.problem import Limits, Problem, Solution
from hpcnk.solve.spread import Array

Truths = NDArray[np.bool_]
Observe = Callable[[Systems], None]


@dataclass(frozen=True)
class Estimate:
    """How the diagonals are estimated: random vectors and their seed, when systems have converged,
    and how many columns are solved at once.
    """

    vectors: int
    seed: int
    limits: Limits
    width: int


@dataclass(frozen=True)
class InverseDiagonals:
    """Diagonals of the inverses, this rank's rows (rows, matrices), zero outside the row sets.

    `relative_error` (matrices,): the root mean square over the rows of the standard error, relative
    to the diagonal; 0 where it is exact, NaN for a single vector. `replaced` (matrices,): rows
    whose estimate was not positive, so that the diagonal of M^-1 stands there.
    """

    values: Array
    relative_error: Array
    replaced: Array
    passes: int
    converged: bool


def left_out(b: Array, x: Array, diagonals: Array) -> Array:
    """Return the prediction of each row without it, of targets b and solutions x; 0 outside."""
    used = diagonals > 0
    return np.where(used, b - x / np.where(used, diagonals, 1.0), 0.0)


def inverse_diagonals(
    operator: Operator,
    matrices: Sequence[Matrix],
    row_sets: Sequence[RowSet],
    nearby: Nearby,
    estimate: Estimate,
    observe: Observe = lambda systems: None,
) -> InverseDiagonals:
    """Return the diagonal of the inverse of each matrix. Collective.

    Exact where the estimate asks for at least as many vectors as the largest row set has rows.
    Raises SolveError when a product is not finite.
    """
    work = _Work(operator, matrices, row_sets, nearby, estimate, observe)
    if estimate.vectors >= max(row_sets[matrix.rows].count for matrix in matrices):
        return work.exact()
    return work.estimated()


class _Work:
    """The sums that the solves for vectors, some at a time, add to."""

    def __init__(
        self,
        operator: Operator,
        matrices: Sequence[Matrix],
        row_sets: Sequence[RowSet],
        nearby: Nearby,
        estimate: Estimate,
        observe: Observe,
    ) -> None:
        self._operator, self._spread = operator, operator.spread
        self._matrices, self._row_sets = matrices, row_sets
        self._nearby, self._estimate, self._observe = nearby, estimate, observe
        self._keep = np.stack([row_sets[m.rows].keep[self._spread.mine] for m in matrices], axis=1)
        self._chunk = max(1, estimate.width // len(matrices))
        self._passes, self._converged = 0, True

    def exact(self) -> InverseDiagonals:
        """Solve for all unit vectors."""
        spread = self._spread
        values = np.zeros(self._keep.shape)
        for start in range(0, spread.n, self._chunk):
            rows = np.arange(start, min(spread.n, start + self._chunk))
            here = (rows >= spread.mine.start) & (rows < spread.mine.stop)
            unit = np.zeros((spread.count, len(rows)))
            unit[rows[here] - spread.mine.start, np.flatnonzero(here)] = 1.0
            for column, solved in enumerate(self._solve(unit)):
                mine = rows[here] - spread.mine.start
                values[mine, column] = solved[mine, np.flatnonzero(here)]
        good = values > 0
        return self._within_bounds(values, good, np.zeros(len(self._matrices)))

    def estimated(self) -> InverseDiagonals:
        """Add the mean of z * ((A^-1 - M^-1) z) over random signs z to the diagonals of M^-1."""
        vectors = self._estimate.vectors
        probes = Probes(self._spread, self._estimate.seed)
        known = np.stack([self._nearby.inverse_diagonal(m) for m in self._matrices], axis=1)
        total, squares = np.zeros(known.shape), np.zeros(known.shape)
        for start in range(0, vectors, self._chunk):
            z = probes.signs(range(start, min(vectors, start + self._chunk)))
            near = self._nearby([(matrix, part) for matrix, part in self._parts(z)])
            for column, (solved, guess) in enumerate(zip(self._solve(z), near, strict=True)):
                change = z * (solved - guess)
                total[:, column] += change.sum(axis=1)
                squares[:, column] += (change**2).sum(axis=1)
        mean = total / vectors
        values = known + mean
        good = values > 0
        values = np.where(good, values, known)
        spread_of = np.maximum(squares / vectors - mean**2, 0.0) / max(vectors - 1, 1)
        errors = self._relative(spread_of, values) if vectors > 1 else np.nan
        return self._within_bounds(values, good, np.broadcast_to(errors, len(self._matrices)))

    def _parts(self, z: Array) -> list[tuple[Matrix, Array]]:
        """Return the vectors on the rows of each matrix."""
        keeps = zip(self._matrices, self._keep.T, strict=True)
        return [(matrix, np.where(keep[:, None], z, 0.0)) for matrix, keep in keeps]

    def _solve(self, z: Array) -> list[Array]:
        """Return A^-1 z for each matrix A."""
        count = z.shape[1]
        b = np.concatenate([part for _, part in self._parts(z)], axis=1)
        repeated = [matrix for matrix in self._matrices for _ in range(count)]
        solution: Solution = conjugate_gradient(
            self._operator,
            Problem(b, repeated, self._row_sets),
            self._nearby,
            self._estimate.limits,
            self._observe,
        )
        self._passes += solution.passes
        self._converged &= solution.converged
        return np.split(solution.x, len(self._matrices), axis=1)

    def _relative(self, variances: Array, values: Array) -> Array:
        """Return the root of the mean over the rows of the variances relative to the values."""
        ratio = np.where(self._keep, variances / np.where(self._keep, values, 1.0) ** 2, 0.0)
        (total,) = self._spread.totals(lambda rows: ratio[rows].sum(axis=0))
        return np.sqrt(total / [self._row_sets[m.rows].count for m in self._matrices])

    def _within_bounds(self, values: Array, good: Truths, errors: Array) -> InverseDiagonals:
        ridge = np.array([matrix.ridge for matrix in self._matrices])
        diagonal = self._operator.diagonal()[self._spread.mine, None] + ridge
        with np.errstate(divide="ignore"):
            values = np.clip(values, 1 / diagonal, 1 / ridge)
        replaced = (self._keep & ~good).sum(axis=0)
        return InverseDiagonals(
            np.where(self._keep, values, 0.0),
            errors,
            sum_over_ranks(self._spread.comm, replaced),
            self._passes,
            self._converged,
        )
