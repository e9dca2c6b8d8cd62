"""Regularised ZCA whitening.

With C = X^T X / n of the training rows, no centring, its eigenpairs (s, U) and
r = regularization * trace(C) / d, the transform is W = U diag(max(s, 0) + r)^(-1/2) U^T.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from hpcnk.data.normalize import blocks
from hpcnk.errors import DataError

Float64 = NDArray[np.float64]


def fit_whitening(x_train: Float64, regularization: float) -> Float64:
    """Return W (d, d), symmetric, for C-contiguous float64 rows (n, ...) of d values each.

    Raises DataError when C overflows, or is singular and the regularization does not help.
    """
    flat = x_train.reshape(len(x_train), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        covariance = flat.T @ flat / len(flat)
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
