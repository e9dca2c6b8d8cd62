"""Jobs that solve systems with a kernel whose tiles are in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg

from hpcnk.comm.world import Communicator
from hpcnk.solve import (
    CompiledProducts,
    Factor,
    Greedy,
    Limits,
    LowRank,
    Matrix,
    Operator,
    Problem,
    Random,
    Systems,
    TileOperator,
    conjugate_gradient,
    identity,
    leading_rows,
    nystrom,
    pivoted_cholesky,
)
from tools.bench.systems.held import THREADS, Answer, peak_megabytes, quickest, resident
from tools.bench.systems.kernels import targets

FACTORS: dict[str, Callable[[Operator, int], Factor]] = {
    "greedy": lambda operator, rank: pivoted_cholesky(operator, rank, Greedy()),
    "random": lambda operator, rank: pivoted_cholesky(operator, rank, Random(0)),
    "nystrom": lambda operator, rank: nystrom(operator, rank, 0),
    "eigenvectors": lambda operator, rank: _eigenvectors(operator, rank),
}


def _eigenvectors(operator: Operator, rank: int) -> Factor:
    """Return the best factor of its rank, on one rank of MPI: the exact leading eigenvectors.

    With the largest eigenvalue left as the shift they all become 1, and no smaller one is moved.
    """
    whole = operator.columns(np.arange(operator.n))
    leading = [operator.n - rank - 1, operator.n - 1]
    values, vectors = scipy.linalg.eigh(whole, subset_by_index=leading)
    cut = max(float(values[0]), 0.0)
    return Factor(vectors[:, 1:] * np.sqrt(np.maximum(values[1:] - cut, 0.0)), cut)


class OutOfTime(Exception):
    """The limit of a measurement has passed; `systems` is how far it came."""

    def __init__(self, systems: Systems) -> None:
        super().__init__()
        self.systems = systems


def solves(
    comm: Communicator, path: str, rows: int, wanted: list[dict[str, Any]], held: float = 1.0
) -> Answer:
    """Solve one list of systems after the other; see `_solve` for their options. Collective.

    `held`: the share of the tiles that stay in memory, as in `resident`.
    """
    operator = resident(comm, Path(path), rows, held)
    y = targets(Path(path), operator.n)[: operator.n]
    before = peak_megabytes(comm)
    answers = [_solve(operator, y, **options) for options in wanted]
    return {"runs": answers, "megabytes_loaded": before, "megabytes": peak_megabytes(comm)}


def _solve(
    operator: TileOperator,
    y: np.ndarray,
    ridges: list[float],
    sizes: list[int] | None = None,
    kind: str = "",
    rank: int = 0,
    block: bool = True,
    tolerance: float = 1e-6,
    limit: float = 300.0,
    widest: bool = False,
) -> Answer:
    """Solve for all outputs, ridges (relative to the mean diagonal) and sizes. Collective.

    `kind` and `rank`: of the preconditioner, none if empty. `limit`: seconds of the iteration.
    `widest`: also time the product with all columns.
    """
    spread, n = operator.spread, operator.n
    problem = _problem(operator, y, ridges, sizes or [n], block)
    began = time.perf_counter()
    precondition = identity
    if kind:
        factor = FACTORS[kind](operator, rank)
        precondition = LowRank(
            spread,
            operator.sums,
            factor,
            problem.row_sets,
            problem.matrices,
            CompiledProducts(THREADS),
        )
    set_up = max(spread.comm.allgather(time.perf_counter() - began))
    began = time.perf_counter()
    watch = partial(_watch, spread.comm, began + limit)
    try:
        found = conjugate_gradient(
            operator, problem, precondition, Limits(tolerance, 50_000), watch
        )
        done = True
    except OutOfTime as late:
        found, done = late.systems.solution(), False
    seconds = max(spread.comm.allgather(time.perf_counter() - began))
    product = _widest(operator, problem) if widest else None
    return {
        "columns": problem.b.shape[1],
        "set_up_seconds": set_up,
        "seconds": seconds,
        "passes": found.passes,
        "iterations": int(found.iterations.max()),
        "residual": float(found.true_relative_residual.max()) if done else None,
        "converged": done and found.converged,
        "widest_product_seconds": product,
        "rank": rank if kind else 0,
        "kind": kind or "none",
    }


def _problem(
    operator: TileOperator, y: np.ndarray, ridges: list[float], sizes: list[int], block: bool
) -> Problem:
    n, outputs = operator.n, y.shape[1]
    scale = float(operator.diagonal().mean())
    sets = [leading_rows(n, size) for size in sizes]
    settings = [Matrix(s, ridge * scale) for s in range(len(sets)) for ridge in ridges]
    matrices = [matrix for matrix in settings for _ in range(outputs)]
    mine = operator.spread.mine
    parts = [np.where(sets[m.rows].keep[mine, None], y[mine], 0.0) for m in settings]
    return Problem(np.concatenate(parts, axis=1), matrices, sets, block)


def _watch(comm: Communicator, end: float, systems: Systems) -> None:
    if comm.bcast(time.perf_counter() > end, root=0):
        raise OutOfTime(systems)


def _widest(operator: TileOperator, problem: Problem) -> float:
    """Time the product with the block as it is before any column has converged. Collective."""
    sizes = np.array([problem.row_sets[matrix.rows].size for matrix in problem.matrices])
    order = np.argsort(-sizes, kind="stable")
    v = np.ascontiguousarray(problem.b[:, order])
    comm = operator.spread.comm
    return quickest(comm, partial(operator.apply, v, sizes[order]), 1.0)
