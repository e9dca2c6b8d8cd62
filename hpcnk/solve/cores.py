"""The small matrices in the middle of Woodbury's identity: ridge I + L^T L."""

from __future__ import annotations

import numpy as np

from hpcnk.solve.cholesky import factorise
from hpcnk.solve.spread import Array


class Core:
    """Cholesky factor of ridge I + gram, scaled to a unit diagonal.

    The scaling keeps it accurate however the lengths of L's columns differ, so long as the scaled
    columns are far from dependent, as those of a pivoted factor are.
    """

    def __init__(self, gram: Array, ridge: float) -> None:
        core = gram + ridge * np.eye(len(gram))
        self._scale = 1 / np.sqrt(core.diagonal())
        core *= np.outer(self._scale, self._scale)
        self._factor = _cholesky(core)

    def solve(self, right: Array) -> Array:
        """Return the core's inverse times right, (rank, columns)."""
        from scipy.linalg import cho_solve

        if not right.size:
            return np.zeros_like(right)
        scale = self._scale[:, None]
        return scale * cho_solve((self._factor, True), scale * right)

    def inverse_root(self) -> Array:
        """Return R with R R^T the core's inverse, (rank, rank)."""
        from scipy.linalg import solve_triangular

        if not len(self._scale):
            return np.zeros((0, 0))
        return solve_triangular(self._factor, np.diag(self._scale), lower=True).T

    def log_determinant(self) -> float:
        """Return the logarithm of the core's determinant."""
        return 2 * float(np.log(self._factor.diagonal()).sum() - np.log(self._scale).sum())


def _cholesky(core: Array) -> Array:
    """Return the lower factor of a matrix of unit diagonal that rounding may have made indefinite.

    It is shifted by what rounding can do, which also keeps the preconditioner positive definite,
    and by more while that does not do.
    """
    shift = max(1, len(core)) * np.finfo(float).eps
    while len(core):
        factor = (core + shift * np.eye(len(core))).T  # columns beside each other, as LAPACK has it
        try:
            factorise(factor)
        except np.linalg.LinAlgError:
            shift *= 100
        else:
            return factor
    return core
