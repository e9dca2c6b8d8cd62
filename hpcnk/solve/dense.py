"""Dense algebra by Cholesky factors in float64, for kernels that fit on one rank: the solutions,
and exactly what `leave_one_out` and `determinant` estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import rows_from_root, rows_to_root, wait_for_all
from hpcnk.solve.cholesky import factorise
from hpcnk.solve.determinant import LogDeterminants
from hpcnk.solve.leave_one_out import InverseDiagonals
from hpcnk.solve.matrices import Matrix, RowSet
from hpcnk.solve.operator import Operator
from hpcnk.solve.problem import Problem, Solution, Status
from hpcnk.solve.spread import Array, dots

CHUNK = 256  # columns that are gathered at once


def dense_solution(operator: Operator, problem: Problem, tolerance: float) -> Solution:
    """Solve each matrix's systems on rank 0, which holds the whole kernel. Collective.

    One product checks the residuals: a system is converged below `tolerance`.
    """
    spread, columns = operator.spread, problem.b.shape[1]
    kernel = _whole_kernel(operator)
    b = rows_to_root(spread.comm, problem.b, spread.blocks)
    definite = np.ones(columns, np.int64)
    x = None if b is None or kernel is None else _solve(kernel, b, problem, definite)
    wait_for_all(spread.comm)
    spread.comm.Bcast(definite, root=0)
    mine = rows_from_root(spread.comm, x, columns, spread.blocks)
    relative = _residuals(operator, problem, mine)
    good = relative <= tolerance
    status = [_status(*verdict) for verdict in zip(definite.tolist(), good.tolist(), strict=True)]
    return Solution(mine, np.zeros(columns, np.int64), relative, status, 1)


def _status(definite: int, good: bool) -> Status:
    if not definite:
        return Status.INDEFINITE
    return Status.CONVERGED if good else Status.STAGNATED


def _whole_kernel(operator: Operator) -> Array | None:
    """Return K on rank 0, None elsewhere. Collective."""
    spread, n = operator.spread, operator.n
    kernel = np.empty((n, n)) if spread.comm.rank == 0 else None
    for start in range(0, n, CHUNK):
        chosen = np.arange(start, min(n, start + CHUNK))
        part = rows_to_root(spread.comm, operator.columns(chosen), spread.blocks)
        if kernel is not None:
            kernel[:, chosen] = part
    return kernel


def _solve(kernel: Array, b: Array, problem: Problem, definite: np.ndarray) -> Array:
    """Return the solutions; where a matrix is not positive definite zeros, and a note of it."""
    from scipy.linalg import cho_solve

    x = np.zeros_like(b)
    matrices = sorted(set(problem.matrices))
    for matrix, rows, factor in _factors(kernel, matrices, problem.row_sets):
        columns = np.flatnonzero([other == matrix for other in problem.matrices])
        if factor is None:
            definite[columns] = 0
            continue
        x[np.ix_(rows, columns)] = cho_solve((factor, True), b[np.ix_(rows, columns)])
    return x


def _factors(
    kernel: Array, matrices: Sequence[Matrix], row_sets: Sequence[RowSet]
) -> Iterator[tuple[Matrix, NDArray[np.int64], Array | None]]:
    """Give each matrix, its rows and its lower Cholesky factor, None if it is not definite.

    Zeros are above its diagonal.
    """
    for matrix in matrices:
        rows = np.flatnonzero(row_sets[matrix.rows].keep)
        part = kernel[np.ix_(rows, rows)]
        part[np.diag_indices(len(part))] += matrix.ridge
        part = part.T  # columns beside each other, as LAPACK has it
        try:
            factorise(part)
        except np.linalg.LinAlgError:
            yield matrix, rows, None
        else:
            yield matrix, rows, part


def dense_inverse_diagonals(
    operator: Operator, matrices: Sequence[Matrix], row_sets: Sequence[RowSet]
) -> InverseDiagonals:
    """Return the exact diagonal of the inverse of each matrix, from rank 0. Collective.

    It is 0 where a matrix is not positive definite, as outside its row set.
    """
    from scipy.linalg.lapack import dtrtri

    spread, kernel = operator.spread, _whole_kernel(operator)
    diagonals = None if kernel is None else np.zeros((operator.n, len(matrices)))
    if kernel is not None and diagonals is not None:
        for column, (_, rows, factor) in enumerate(_factors(kernel, matrices, row_sets)):
            if factor is not None:
                inverse, _ = dtrtri(factor, lower=1, overwrite_c=1)
                diagonals[rows, column] = np.einsum("ki,ki->i", inverse, inverse)
    wait_for_all(spread.comm)
    values = rows_from_root(spread.comm, diagonals, len(matrices), spread.blocks)
    nothing = np.zeros(len(matrices))
    return InverseDiagonals(values, nothing, nothing.astype(np.int64), 0, True)


def dense_log_determinants(
    operator: Operator, matrices: Sequence[Matrix], row_sets: Sequence[RowSet]
) -> LogDeterminants:
    """Return the exact log det of each matrix, from rank 0: two samples that agree. Collective."""
    spread, kernel = operator.spread, _whole_kernel(operator)
    volumes = np.full(len(matrices), np.nan)
    if kernel is not None:
        for number, (_, _, factor) in enumerate(_factors(kernel, matrices, row_sets)):
            if factor is not None:
                volumes[number] = 2 * np.log(factor.diagonal()).sum()
    wait_for_all(spread.comm)
    spread.comm.Bcast(volumes, root=0)
    return LogDeterminants(list(matrices), np.stack([volumes, volumes], axis=1), 0, True)


def _residuals(operator: Operator, problem: Problem, x: Array) -> Array:
    """Return the true relative residual of each column. Collective."""
    spread, product = operator.spread, operator.apply(x)
    for column, matrix in enumerate(problem.matrices):
        keep = problem.row_sets[matrix.rows].keep[spread.mine]
        product[:, column] = np.where(keep, product[:, column], 0.0) + matrix.ridge * x[:, column]
    rest = problem.b - product
    found, scale = spread.totals(dots(rest, rest), dots(problem.b, problem.b))
    return np.sqrt(np.divide(found, scale, out=np.zeros_like(found), where=scale > 0))
