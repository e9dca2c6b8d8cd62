"""Experts: exact regressions on blocks of leading rows, dealt over the ranks.

The blocks cut the leading rows of the training set into pieces of equal length, the last one
shorter; an expert has those rows of its block that are in the row set. As many experts as there are
ranks are at work at a time, one on each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcnk.comm import share_sum, sum_over_ranks
from hpcnk.solve.approximations.regression import Fit, Regression, corner, require_budget
from hpcnk.solve.matrices import RowSet
from hpcnk.solve.operator import Indices
from hpcnk.solve.spread import Array

Factor = tuple[Any, bool]  # as scipy.linalg.cho_factor gives it


@dataclass(frozen=True)
class Expert:
    """The rows of one block, their K (b, b) and their targets (b, outputs)."""

    rows: Indices
    k: Array
    y: Array

    def factor(self, ridge: float) -> Factor | None:
        """Return the Cholesky factor of K + ridge I, None if that is not positive definite."""
        from scipy.linalg import LinAlgError, cho_factor

        shifted = self.k + ridge * np.eye(len(self.k))
        try:
            return cho_factor(shifted, lower=True, overwrite_a=True)
        except LinAlgError:
            return None


def block_diagonal(regression: Regression, size: int) -> Fit:
    """Solve with the diagonal blocks of K, of `size` rows, in place of K. Collective.

    One block of all rows is the exact dense solution. Raises UsageError for a block larger than the
    training set, SolveError for a kernel that is not finite.
    """
    spread, outputs = regression.operator.spread, regression.y.shape[1]
    alpha = np.zeros((spread.n, len(regression.ridges) * outputs))
    broken = np.zeros(len(regression.ridges))
    for expert in experts(regression, size):
        if expert is None:
            continue
        for i, ridge in enumerate(regression.ridges):
            solved = _solve(expert, ridge)
            broken[i] += solved is None
            alpha[expert.rows, i * outputs : (i + 1) * outputs] = 0 if solved is None else solved
    sound = tuple((sum_over_ranks(spread.comm, broken) == 0).tolist())
    mine = share_sum(spread.comm, alpha, spread.blocks)
    return Fit(mine * np.repeat(sound, outputs), sound)


def _solve(expert: Expert, ridge: float) -> Array | None:
    from scipy.linalg import cho_solve

    factor = expert.factor(ridge)
    return None if factor is None else cho_solve(factor, expert.y)


def blocks_of(rows: RowSet, size: int) -> list[Indices]:
    """Return the numbers of the rows of each block, ascending; blocks without any are left out."""
    starts = range(0, rows.size, size)
    blocks = [start + np.flatnonzero(rows.keep[start : start + size]) for start in starts]
    return [block for block in blocks if block.size]


def experts(regression: Regression, size: int) -> Iterator[Expert | None]:
    """Give this rank's experts one by one; None where others still have one. Collective."""
    require_budget("blocks", size, regression.rows.size)
    comm, blocks = regression.operator.spread.comm, blocks_of(regression.rows, size)
    for start in range(0, len(blocks), comm.size):
        mine = None
        for rank, rows in enumerate(blocks[start : start + comm.size]):
            expert = _gather(regression, rows)
            mine = expert if rank == comm.rank else mine
        yield mine


def _gather(regression: Regression, rows: Indices) -> Expert:
    y = regression.operator.spread.rows_at(regression.y, rows)
    return Expert(rows, corner(regression.operator, rows, rows), y)
