"""A small Gaussian process on real images, and its dense float64 solution."""

from functools import cache

import numpy as np

from hpcnk.engine import make_engine
from hpcnk.kernels import parse
from hpcnk.solve import (
    Diagonal,
    Greedy,
    LowRank,
    Matrix,
    PlainProducts,
    leading_rows,
    pivoted_cholesky,
)
from hpcnk.tiling import TriangleGrid, deal
from tests.support.dense import tile_operator

RIDGES = (1e-1, 1e-3, 1e-5)


@cache
def digits(n, m):
    """The NNGP of digits, of mean diagonal 1: K of n training rows, of m test rows with them, the
    test rows' own k(x, x), and three outputs of the training rows.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    engine = make_engine(parse({"preset": "fc", "depth": 2}), "nngp", "float64", "reference", 1)
    whole = engine.symmetric_block(engine.prepare(data.images[: n + m, ..., None] - 8.0))
    whole /= whole.diagonal().mean()
    y = np.eye(10)[data.target[:n]][:, :3] - 0.1
    return whole[:n, :n], whole[n:, :n], whole.diagonal()[n:], y


def row_sets(n):
    """All rows, the leading two thirds, and all with holes as missing labels make them."""
    holes = np.random.default_rng(0).random(n) < 0.7
    return [leading_rows(n, n), leading_rows(n, 2 * n // 3), leading_rows(n, n, holes)]


def matrices(sets, ridges=RIDGES):
    """Every set with every ridge."""
    return [Matrix(rows, ridge) for rows in range(len(sets)) for ridge in ridges]


def operator_of(sums, k, tile=64):
    """The matrix as tiles dealt over the ranks."""
    grid = TriangleGrid(len(k), tile)
    return tile_operator(sums, k, grid, deal(grid, sums.comm.size, sums.comm.rank))


def nearby_of(operator, sets, wanted, rank):
    """A preconditioner: the diagonal for rank 0."""
    if not rank:
        return Diagonal(operator.spread, operator.diagonal(), sets)
    factor = pivoted_cholesky(operator, rank, Greedy())
    return LowRank(operator.spread, operator.sums, factor, sets, wanted, PlainProducts())


def dense(k, sets, matrix):
    """The rows of a matrix, and P K P + ridge I on them."""
    keep = sets[matrix.rows].keep
    return keep, k[np.ix_(keep, keep)] + matrix.ridge * np.eye(int(keep.sum()))
