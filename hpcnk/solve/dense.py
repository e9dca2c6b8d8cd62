"""The dense solution by Cholesky factorisation in float64, for kernels that fit on one rank."""

from __future__ import annotations

import numpy as np

from hpcnk.comm import rows_from_root, rows_to_root, wait_for_all
from hpcnk.solve.conjugate_gradient import Problem, Solution, Status
from hpcnk.solve.operator import Operator
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
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    x = np.zeros_like(b)
    for matrix in sorted(set(problem.matrices)):
        same = [other == matrix for other in problem.matrices]
        columns = np.flatnonzero(same)
        rows = np.flatnonzero(problem.row_sets[matrix.rows].keep)
        part = kernel[np.ix_(rows, rows)]
        part[np.diag_indices(len(part))] += matrix.ridge
        try:
            factor = cho_factor(part, lower=True, overwrite_a=True)
        except LinAlgError:
            definite[columns] = 0
            continue
        x[np.ix_(rows, columns)] = cho_solve(factor, b[np.ix_(rows, columns)])
    return x


def _residuals(operator: Operator, problem: Problem, x: Array) -> Array:
    """Return the true relative residual of each column. Collective."""
    spread, product = operator.spread, operator.apply(x)
    for column, matrix in enumerate(problem.matrices):
        keep = problem.row_sets[matrix.rows].keep[spread.mine]
        product[:, column] = np.where(keep, product[:, column], 0.0) + matrix.ridge * x[:, column]
    rest = problem.b - product
    found, scale = spread.totals(dots(rest, rest), dots(problem.b, problem.b))
    return np.sqrt(np.divide(found, scale, out=np.zeros_like(found), where=scale > 0))
