"""The Bayesian committee machine (Tresp 2000), with a query set of one point at a time.

Expert i, exact on its block of rows, says of a point x the mean f_i and the variance
v_i = k(x, x) - k_xi (K_ii + ridge I)^-1 k_ix. M experts together say

    f = v sum_i f_i / v_i    with    1/v = sum_i 1/v_i - (M - 1) / k(x, x).

Tresp combines the experts' joint covariances over a whole set of queries, which takes the kernel of
the queries among themselves; here each point is a query set of its own, as is usual. For the NTK
these are the variances of a Gaussian process whose covariance is the NTK.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hpcnk.comm import sum_over_ranks
from hpcnk.solve.approximations.experts import Expert, blocks_of, experts
from hpcnk.solve.approximations.regression import Regression, require_budget
from hpcnk.solve.operator import Indices
from hpcnk.solve.spread import Array

LEAST = np.finfo(float).eps  # of k(x, x): the variance that rounding leaves

# Return K of all queries by these training rows, (queries, rows), on all ranks. Collective.
QueryKernel = Callable[[Indices], Array]


@dataclass(frozen=True)
class Opinions:
    """What the committee says: means (ridges, queries, outputs), variances (ridges, queries), and
    for each ridge whether all experts' systems could be solved; if not, both are zero.
    """

    means: Array
    variances: Array
    sound: tuple[bool, ...]


def committee(regression: Regression, size: int, queries: QueryKernel, prior: Array) -> Opinions:
    """Predict queries with experts on blocks of `size` rows. Collective.

    `prior` are the queries' k(x, x), (queries,), positive. Raises UsageError for a block larger
    than the training set, SolveError for a kernel that is not finite.
    """
    said = _Said(len(regression.ridges), len(prior), regression.y.shape[1])
    require_budget("blocks", size, regression.rows.size)
    comm, blocks = regression.operator.spread.comm, blocks_of(regression.rows, size)
    for turn, expert in enumerate(experts(regression, size)):
        rows = blocks[turn * comm.size : (turn + 1) * comm.size]
        k_qi = _mine(queries, rows, comm.rank)
        if expert is not None and k_qi is not None:
            said.add(expert, k_qi, prior, regression.ridges)
    for part in (said.precision, said.weighted, said.broken):
        sum_over_ranks(comm, part)
    return said.combined(prior, len(blocks))


def _mine(queries: QueryKernel, blocks: Sequence[Indices], mine: int) -> Array | None:
    """Gather the kernel of the queries by each block; keep that of one rank's block. Collective."""
    kept = None
    for rank, rows in enumerate(blocks):
        found = queries(rows)
        kept = found if rank == mine else kept
    return kept


class _Said:
    """The sums over the experts: of 1/v_i, of f_i / v_i, and of those that failed."""

    def __init__(self, ridges: int, queries: int, outputs: int) -> None:
        self.precision = np.zeros((ridges, queries))
        self.weighted = np.zeros((ridges, queries, outputs))
        self.broken = np.zeros(ridges)

    def add(self, expert: Expert, k_qi: Array, prior: Array, ridges: tuple[float, ...]) -> None:
        """Add what one expert says."""
        from scipy.linalg import solve_triangular

        for i, ridge in enumerate(ridges):
            factor = expert.factor(ridge)
            if factor is None:
                self.broken[i] += 1
                continue
            half = solve_triangular(factor[0], k_qi.T, lower=True)
            means = half.T @ solve_triangular(factor[0], expert.y, lower=True)
            variances = np.maximum(prior - (half**2).sum(axis=0), LEAST * prior)
            self.precision[i] += 1 / variances
            self.weighted[i] += means / variances[:, None]

    def combined(self, prior: Array, members: int) -> Opinions:
        """Return what all experts say together."""
        sound = self.broken == 0
        precision = np.where(sound[:, None], self.precision - (members - 1) / prior, np.inf)
        weighted = np.where(sound[:, None, None], self.weighted, 0.0)
        return Opinions(weighted / precision[:, :, None], 1 / precision, tuple(sound.tolist()))
