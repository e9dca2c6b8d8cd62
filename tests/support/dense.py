"""Plain stand-ins for the distributed parts of the solver."""

import numpy as np

from hpcnk.comm import FloatSums


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
        self.products, self.widths = 0, []

    def apply(self, v):
        self.products += 1
        self.widths.append(v.shape[1])
        return self._k @ v

    def column(self, index):
        return self._k[:, index].copy()

    def diagonal(self):
        return self._k.diagonal().copy()


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
