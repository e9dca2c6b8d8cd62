"""Plain stand-ins for the distributed parts of the solver."""

import numpy as np

from hpcnk.comm import FloatSums
from hpcnk.solve import (
    Greedy,
    LowRank,
    Matrix,
    PlainProducts,
    Problem,
    ResidentTiles,
    Spread,
    TileOperator,
    all_rows,
    pivoted_cholesky,
)


class Single:
    """A communicator of one rank."""

    rank, size = 0, 1

    def Bcast(self, array, root):  # noqa: N802
        return None

    def Ibarrier(self):  # noqa: N802
        return self

    def Test(self):  # noqa: N802
        return True

    def bcast(self, value, root):
        return value

    def allgather(self, value):
        return [value]


SUMS = FloatSums(Single())


class DenseOperator:
    """A whole matrix on one rank; counts the products and the columns of each."""

    def __init__(self, k):
        self.n, self.sums, self._k = len(k), SUMS, k.astype(float)
        self.spread = Spread(SUMS.comm, self.n)
        self.products, self.widths = 0, []

    def apply(self, v, sizes=None):
        self.products += 1
        self.widths.append(v.shape[1])
        return self._k @ v

    def columns(self, indices):
        return self._k[:, indices]

    def diagonal(self):
        return self._k.diagonal().copy()


def systems(y, ridges, row_sets=None, block=True):
    """Every output with every ridge on every row set, in this order of columns from the last."""
    row_sets = [all_rows(len(y))] if row_sets is None else row_sets
    matrices, b = [], []
    for number, row_set in enumerate(row_sets):
        for ridge in ridges:
            matrices += [Matrix(number, ridge)] * y.shape[1]
            b.append(np.where(row_set.keep[:, None], y, 0.0))
    return Problem(np.hstack(b), matrices, row_sets, block)


def low_rank(operator, problem, rank, pivoting=None):
    """The preconditioner of a problem's matrices, greedy unless told otherwise."""
    factor = pivoted_cholesky(operator, rank, pivoting or Greedy())
    return LowRank(
        operator.spread, operator.sums, factor, problem.row_sets, problem.matrices, PlainProducts()
    )


def kernel_matrix(n, seed=0):
    """A positive definite matrix with a decaying spectrum, like a kernel's."""
    x = np.random.default_rng(seed).normal(size=(n, 4))
    return np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / 16)


def tiles_of(k, grid, numbers=None):
    """Cut a matrix into the grid's tiles."""
    numbers = range(grid.count) if numbers is None else numbers
    return [
        (grid.at(i), np.ascontiguousarray(k[grid.at(i).rows, grid.at(i).columns])) for i in numbers
    ]


def tile_operator(sums, k, grid, numbers=None):
    """The operator from the tiles of a matrix, by plain products."""
    return TileOperator(sums, grid.n, [ResidentTiles(tiles_of(k, grid, numbers), PlainProducts())])
