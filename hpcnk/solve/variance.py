"""Predictive variances of Gaussian process regression: test columns as right-hand sides.

With the kernel as the prior's covariance, of unit amplitude, and the ridge as the variance of the
noise, the variance of the function's value at x, without noise, is

    v(x) = k(x, x) - k_x^T (P K P + ridge I)^-1 P k_x,   k_x = K(training rows, x).

Conjugate gradients that start from zero give the second term to the square of their own error, and
never too large but for rounding: they err on the side of a larger variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hpcnk.solve.conjugate_gradient import Systems, conjugate_gradient
from hpcnk.solve.matrices import Matrix, RowSet
from hpcnk.solve.operator import Operator
from hpcnk.solve.precondition import Precondition
from hpcnk.solve.problem import Limits, Problem
from hpcnk.solve.spread import Array, dots
from hpcnk.solve.tiles import HeldTile

Observe = Callable[[Systems], None]


@dataclass(frozen=True)
class Variances:
    """Variances (matrices, test rows), on all ranks. `passes` over the kernel.

    Of the negative ones, `clipped` were within rounding and are 0 now; `negative` were not, and
    stand as they came: the stored kernel plus ridge is not positive definite there.
    """

    values: Array
    clipped: int
    negative: int
    passes: int
    converged: bool


def rows_of_tiles(n: int, tiles: Iterable[HeldTile], rows: slice) -> Array:
    """Return what tiles have of some rows of the test kernel, transposed: (n, test rows).

    `tiles` (test rows by training rows) must reach the rows. The sum over all ranks, each with its
    tiles, is whole.
    """
    found = np.zeros((n, rows.stop - rows.start))
    for tile, entries in tiles:
        first, last = max(tile.rows.start, rows.start), min(tile.rows.stop, rows.stop)
        part = entries[first - tile.rows.start : last - tile.rows.start]
        found[tile.columns, first - rows.start : last - rows.start] = part.T
    return found


def variances(
    operator: Operator,
    columns: Array,
    prior: Array,
    matrices: Sequence[Matrix],
    row_sets: Sequence[RowSet],
    precondition: Precondition,
    limits: Limits,
    rounding: float,
    observe: Observe = lambda systems: None,
) -> Variances:
    """Return the variances of some test rows under each matrix. Collective.

    `columns` (rows, test rows): this rank's rows of k_x; `prior` (test rows,): k(x, x); `rounding`:
    the relative one of the stored entries. Raises SolveError when a product is not finite.
    """
    spread, count = operator.spread, columns.shape[1]
    keeps = [row_sets[matrix.rows].keep[spread.mine] for matrix in matrices]
    b = np.concatenate([np.where(keep[:, None], columns, 0.0) for keep in keeps], axis=1)
    repeated = [matrix for matrix in matrices for _ in range(count)]
    solution = conjugate_gradient(
        operator, Problem(b, repeated, row_sets), precondition, limits, observe
    )
    explained, lengths = spread.totals(
        dots(b, solution.x), lambda rows: np.abs(solution.x[rows]).sum(axis=0)
    )
    shape = (len(matrices), count)
    values = prior - explained.reshape(shape)
    most = max(rounding, operator.n * np.finfo(np.float64).eps)  # of entries, or of sums of n
    slack = most * prior * (1 + lengths.reshape(shape)) ** 2
    clipped = (values < 0) & (values >= -slack)
    return Variances(
        np.where(clipped, 0.0, values),
        int(clipped.sum()),
        int((values < -slack).sum()),
        solution.passes,
        solution.converged,
    )
