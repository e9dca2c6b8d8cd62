"""Log determinants of kernel matrices plus ridge by preconditioned stochastic Lanczos quadrature.

With a preconditioner M whose determinant is known, log det A = log det M + tr log(B),
B = M^-1/2 A M^-1/2. The trace is n times the mean of u^T log(B) u over random unit vectors u, each
taken by Gauss quadrature: with the tridiagonal matrix T that Lanczos' method makes from B and u,
u^T log(B) u ~ e_1^T log(T) e_1 (Ubaru, Chen, Saad 2017). Preconditioned conjugate gradients for
A x = z make the same T from their coefficients, without any root of M, if z is M^1/2 u times any
length (Gardner, Pleiss, Bindel, Weinberger, Wilson 2018): z is drawn with covariance M, so u is
uniform on the sphere.

The columns of all matrices and all random vectors go through K as one block. A column is over when
its quadrature stands still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import SolveError
from hpcnk.solve.matrices import Matrix, RowSet
from hpcnk.solve.nearby import Nearby
from hpcnk.solve.operator import Operator
from hpcnk.solve.probes import Probes
from hpcnk.solve.spread import Array, dots

FEW, SHARE = 4, 4  # between two looks at the quadrature: 4 steps, or 1 in 4 of those taken
EXHAUSTED = np.finfo(float).eps ** 2  # of the first squared residual: nothing is left to search

Observe = Callable[[int, int], None]  # passes so far, columns left


@dataclass(frozen=True)
class Quadrature:
    """Random vectors of each matrix and their seed; the steps of each at most; how little the mean
    logarithm of the eigenvalues may still change between two looks; columns at once.
    """

    vectors: int
    seed: int
    steps: int
    tolerance: float
    width: int


@dataclass(frozen=True)
class LogDeterminants:
    """`samples` (matrices, vectors), whose mean estimates log det; NaN: not positive definite.

    The vectors are the same for all matrices, so that differences between ridges are closer than
    the values.
    """

    matrices: list[Matrix]
    samples: Array
    passes: int
    converged: bool

    def of(self, matrix: Matrix) -> Array:
        """Return the samples of one matrix."""
        return self.samples[self.matrices.index(matrix)]


def log_determinants(
    operator: Operator,
    matrices: Sequence[Matrix],
    row_sets: Sequence[RowSet],
    nearby: Nearby,
    quadrature: Quadrature,
    observe: Observe = lambda passes, left: None,
) -> LogDeterminants:
    """Estimate log det of each matrix on its rows, of matrices that differ. Collective.

    `observe` is called on all ranks after each pass, and may end the work by raising on all.
    Raises SolveError when a product is not finite.
    """
    order = sorted(matrices, key=lambda matrix: -row_sets[matrix.rows].size)
    at_once = max(1, quadrature.width // quadrature.vectors)
    found: list[Array] = []
    passes, converged = 0, True
    for start in range(0, len(order), at_once):
        some = order[start : start + at_once]
        columns = _Columns(operator, some, row_sets, nearby, quadrature)
        while columns.left.size and columns.passes < quadrature.steps:
            columns.advance()
            observe(passes + columns.passes, columns.left.size)
        passes += columns.passes
        converged &= not columns.left.size
        found += columns.samples(row_sets)
    return LogDeterminants(order, np.array(found), passes, converged)


class _Columns:
    """Conjugate gradients from zero for random right-hand sides, column by column.

    `left` lists the columns that go on; r and p have those alone, this rank's rows.
    """

    def __init__(
        self,
        operator: Operator,
        matrices: Sequence[Matrix],
        row_sets: Sequence[RowSet],
        nearby: Nearby,
        quadrature: Quadrature,
    ) -> None:
        self._operator, self._spread, self._nearby = operator, operator.spread, nearby
        self._matrices, self._quadrature = matrices, quadrature
        self._number = np.repeat(np.arange(len(matrices)), quadrature.vectors)
        sets = [row_sets[matrix.rows] for matrix in matrices]
        self._sizes = np.array([rows.size for rows in sets], np.int64)[self._number]
        self._outside = [~rows.keep[self._spread.mine] for rows in sets]
        self._ridges = np.array([matrix.ridge for matrix in matrices])[self._number]
        self.left = np.arange(len(self._number))
        self.passes, self._next_look = 0, FEW
        self._lengths: list[list[float]] = [[] for _ in self._number]  # alpha of each step
        self._ratios: list[list[float]] = [[] for _ in self._number]  # beta of each step
        self._values = np.full(len(self._number), np.nan)  # mean log eigenvalue, as last taken
        self._r = self._draw()
        y = self._precondition()
        (self._rho,) = self._spread.totals(dots(self._r, y))
        self._first = self._rho
        self._p = y

    def _draw(self) -> Array:
        vectors = range(self._quadrature.vectors)
        probes = Probes(self._spread, self._quadrature.seed)
        short, long = probes.short(self._nearby.rank, vectors), probes.normal(vectors)
        drawn = [self._nearby.sample(matrix, short, long) for matrix in self._matrices]
        return np.concatenate(drawn, axis=1)

    def _groups(self) -> list[tuple[int, slice]]:
        """Return the matrices that columns are left of, and where these stand."""
        number = self._number[self.left]
        found = np.unique(number).tolist()
        ends = np.searchsorted(number, found, side="right").tolist()
        starts = [0, *ends[:-1]]
        return [(k, slice(a, b)) for k, a, b in zip(found, starts, ends, strict=True)]

    def _precondition(self) -> Array:
        parts = [(self._matrices[k], self._r[:, part]) for k, part in self._groups()]
        return np.concatenate(self._nearby(parts), axis=1)

    def advance(self) -> None:
        """Take one step with all columns that are left. Collective."""
        q = self._product()
        self.passes += 1
        (curvature,) = self._spread.totals(dots(self._p, q))
        self._require_finite(curvature)
        if not (curvature > 0).all():
            self._values[self.left[curvature <= 0]] = np.nan
            q = self._keep(curvature > 0, q)
            curvature = curvature[curvature > 0]
            if not self.left.size:
                return
        length = self._rho / curvature
        self._r -= q * length
        y = self._precondition()
        (rho,) = self._spread.totals(dots(self._r, y))
        ratio = rho / self._rho
        self._p = y + self._p * ratio
        self._rho = rho
        for column, alpha, beta in zip(self.left.tolist(), length, ratio, strict=True):
            self._lengths[column].append(float(alpha))
            self._ratios[column].append(float(beta))
        self._look()

    def _product(self) -> Array:
        """Return A p of each column."""
        q = self._operator.apply(self._p, self._sizes[self.left])
        for k, part in self._groups():
            q[self._outside[k], part] = 0.0
        return q + self._p * self._ridges[self.left]

    def _require_finite(self, curvature: Array) -> None:
        if not np.isfinite(curvature).all():
            raise SolveError(
                "the kernel's product with a random vector is not finite",
                "run `hpcnk verify` on the output folder; a tile holds NaN or infinity",
            )

    def _look(self) -> None:
        """Take the quadrature now and then; columns where it stands still are over."""
        over = ~(self._rho > EXHAUSTED * self._first[self.left])
        due = self.passes >= min(self._next_look, self._quadrature.steps)
        if due:
            self._next_look = self.passes + max(FEW, self.passes // SHARE)
        chosen = np.flatnonzero(over | due)
        if not chosen.size:
            return
        columns = self.left[chosen]
        values = np.array(self._spread.decide(lambda: [self._mean_log(c) for c in columns]))
        still = np.abs(values - self._values[columns]) <= self._quadrature.tolerance
        over[chosen] |= still | np.isnan(values)
        self._values[columns] = values
        self._keep(~over)

    def _mean_log(self, column: int) -> float:
        """Return e_1^T log(T) e_1, T of the steps that a column has taken."""
        from scipy.linalg import eigh_tridiagonal  # takes longer to import than all else

        lengths = np.array(self._lengths[column])
        ratios = np.array(self._ratios[column][:-1])
        diagonal = 1 / lengths
        diagonal[1:] += ratios / lengths[:-1]
        values, vectors = eigh_tridiagonal(diagonal, np.sqrt(ratios) / lengths[:-1])
        if not values.min() > 0:
            return float("nan")
        return float(vectors[0] ** 2 @ np.log(values))

    def _keep(self, going: NDArray[np.bool_], q: Array | None = None) -> Array:
        """Go on with some of the columns alone; return q of them."""
        q = self._p if q is None else q
        if going.all():
            return q
        self.left, self._rho = self.left[going], self._rho[going]
        q = np.ascontiguousarray(q[:, going])
        self._r = np.ascontiguousarray(self._r[:, going])
        self._p = np.ascontiguousarray(self._p[:, going])
        return q

    def samples(self, row_sets: Sequence[RowSet]) -> list[Array]:
        """Return the samples of log det of each matrix, (vectors,). Collective."""
        values = self._values.reshape(len(self._matrices), -1)
        return [
            self._nearby.log_determinant(matrix) + row_sets[matrix.rows].count * part
            for matrix, part in zip(self._matrices, values, strict=True)
        ]
