"""Regularised ZCA whitening.

With C = X^T X / n of training rows, no centring, its eigenpairs (s, U) and
r = regularization * trace(C) / d, the transform is W = U diag(max(s, 0) + r)^(-1/2) U^T.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hpcnk.data.normalize import blocks
from hpcnk.errors import DataError

Float64 = NDArray[np.float64]


def covariance_of(parts: Iterable[Float64]) -> Float64:
    """Return C (d, d) of all rows of the parts, each (rows, ...) of d values, float64."""
    total, rows = np.zeros((1, 1)), 0
    for part in parts:
        flat = part.reshape(len(part), -1)
        with np.errstate(over="ignore", invalid="ignore"):
            total = total + flat.T @ flat
        rows += len(flat)
    return total / rows


def fit_whitening(covariance: Float64, regularization: float) -> Float64:
    """Return W (d, d), symmetric, from C, which is overwritten.

    Raises DataError when C overflows, or is singular and the regularization does not help.
    """
    import scipy.linalg  # takes longer to import than all else: only where it is needed

    if not np.isfinite(covariance).all():
        raise DataError("the covariance of x_train overflows", "rescale the inputs")
    d = len(covariance)
    ridge = regularization * np.trace(covariance) / d
    s, U = scipy.linalg.eigh(covariance, overwrite_a=True, driver="evd")
    spectrum = np.maximum(s, 0) + ridge
    if spectrum[0] <= d * np.finfo(np.float64).eps * spectrum[-1]:
        raise DataError(
            f"whitening: the covariance of x_train is singular to rounding "
            f"(eigenvalues {spectrum[0]:.2g} to {spectrum[-1]:.2g} with "
            f"regularization {regularization:g})",
            "set data.whitening.regularization to 0.001 or more",
        )
    U *= spectrum**-0.25
    return U @ U.T


def apply_whitening(x: Float64, matrix: Float64) -> None:
    """Multiply each row, flattened, by W, in place; `x` is C-contiguous float64."""
    for block in blocks(x):
        block[:] = block @ matrix
