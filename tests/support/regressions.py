"""Small real regressions for the approximations, and the dense float64 formulas of each."""

from functools import cache

import numpy as np
from scipy.linalg import solve

from hpcnk import Kernel
from hpcnk.comm import FloatSums
from hpcnk.data.digits import Digits
from hpcnk.solve import PlainProducts, ResidentTiles, TileOperator, leading_rows
from hpcnk.solve.approximations import Regression
from hpcnk.tiling import TriangleGrid, deal
from tests.support.dense import tiles_of

TESTED = 40


@cache
def digits(n, dtype="float64"):
    """K of the leading n digits, targets, K of test rows by these, and its prior variances."""
    source = Digits()
    x, y = source.read("train", np.arange(n))
    x_test, _ = source.read("test", np.arange(TESTED))
    kernel = Kernel({"preset": "fc", "depth": 2}, dtype=dtype, backend="reference")
    prior = kernel(x_test).diagonal()
    return kernel(x), np.eye(10)[y] - 0.1, kernel(x_test, x), prior.astype(float)


def operator_on(comm, k, tile=48):
    """The matrix as an operator, its tiles dealt over the ranks."""
    grid = TriangleGrid(len(k), tile)
    held = tiles_of(k, grid, deal(grid, comm.size, comm.rank))
    return TileOperator(FloatSums(comm), len(k), [ResidentTiles(held, PlainProducts())])


def regression_on(comm, k, y, relative, rows=None):
    """A regression on some rows, with ridges relative to their mean diagonal."""
    operator = operator_on(comm, k)
    rows = rows or leading_rows(len(k), len(k))
    scale = k.diagonal()[rows.keep].mean()
    ridges = tuple(float(scale * ridge) for ridge in relative)
    return Regression(operator, rows, y[operator.spread.mine], ridges)


def coefficients(regression, fit):
    """All rows of a fit's coefficients, (ridges, n, outputs)."""
    whole = regression.operator.spread.whole(fit.alpha)
    return whole.reshape(len(whole), len(regression.ridges), -1).transpose(1, 0, 2)


def dense_exact(k, k_test, y, ridge):
    return k_test @ solve(k + ridge * np.eye(len(k)), y, assume_a="pos")


def dense_nystrom(k, k_test, y, ridge, inducing):
    k_nm = k[:, inducing]
    q = k_nm @ solve(k[np.ix_(inducing, inducing)], k_nm.T, assume_a="pos")
    return k_test @ solve(q + ridge * np.eye(len(k)), y, assume_a="pos")


def dense_regressors(k, k_test, y, ridge, inducing):
    k_nm, k_mm = k[:, inducing], k[np.ix_(inducing, inducing)]
    return k_test[:, inducing] @ solve(k_nm.T @ k_nm + ridge * k_mm, k_nm.T @ y, assume_a="pos")


def dense_blocks(k, k_test, y, ridge, blocks):
    return sum(dense_exact(k[np.ix_(b, b)], k_test[:, b], y[b], ridge) for b in blocks)


def dense_committee(k, k_test, y, ridge, blocks, prior):
    """Means and variances by the formula of one query at a time."""
    means, variances = np.empty((len(k_test), y.shape[1])), np.empty(len(k_test))
    for point, (row, own) in enumerate(zip(k_test, prior, strict=True)):
        precision, weighted = -(len(blocks) - 1) / own, 0.0
        for b in blocks:
            shifted = k[np.ix_(b, b)] + ridge * np.eye(len(b))
            variance = own - row[b] @ np.linalg.inv(shifted) @ row[b]
            precision += 1 / variance
            weighted = weighted + row[b] @ np.linalg.inv(shifted) @ y[b] / variance
        means[point], variances[point] = weighted / precision, 1 / precision
    return means, variances


def cut(rows, size):
    """Row numbers in blocks by their place among the leading rows."""
    rows = np.asarray(rows)
    found = [rows[rows // size == i] for i in range(rows.max() // size + 1)]
    return [block for block in found if len(block)]
