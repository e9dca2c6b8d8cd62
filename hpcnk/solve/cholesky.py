"""Cholesky factors of large matrices, in blocks.

OpenBLAS, which SciPy's wheels bring, crashes in the factorisation of a large matrix by two threads
(OpenMathLib/OpenBLAS issues 1413 and 2562; here from some 17,000 rows on). So SciPy factorises the
blocks of the diagonal alone, and the rest is left to triangular solves and matrix products: the
same operations, of which nearly all are in the products.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # rows
WORK = 3  # blocks of (n, BLOCK) at work beside the matrix


def factorise(a: NDArray[np.float64]) -> None:
    """Put the lower Cholesky factor of a symmetric matrix (n, n) in its place, zeros above it.

    Only the lower triangle is read. Raises LinAlgError if it is not positive definite: the matrix
    is of no use then.
    """
    from scipy.linalg import cholesky, solve_triangular  # takes longer to import than all else

    n = len(a)
    for start in range(0, n, BLOCK):
        stop = min(n, start + BLOCK)
        here = cholesky(a[start:stop, start:stop], lower=True)
        a[start:stop, start:stop] = here
        a[start:stop, stop:] = 0.0
        if stop == n:
            break
        below = solve_triangular(here, a[stop:, start:stop].T, lower=True).T
        a[stop:, start:stop] = below
        for row in range(stop, n, BLOCK):
            end = min(n, row + BLOCK)
            a.T[stop:end, row:end] -= below[: end - stop] @ below[row - stop : end - stop].T
