"""Log marginal likelihood of Gaussian process regression, to compare ridges without a split.

For an output y of n labelled rows, with A = P K P + ridge I on these and alpha = A^-1 y, and an
amplitude s^2 by which kernel and noise are scaled together,

    log p(y) = -1/2 (y^T alpha / s^2 + log det A + n log(2 pi s^2)),

summed over the outputs. Unit amplitude: s^2 = 1. As the scale of a kernel of an infinite network is
arbitrary, the more useful one is the largest over s^2, common to all outputs: with N the sum of
their n,

    s^2 = sum y^T alpha / N,    log p = -1/2 (N + N log(2 pi s^2) + sum log det A).

See `determinant` for the determinants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.solve.determinant import LogDeterminants
from hpcnk.solve.matrices import Matrix, RowSet
from hpcnk.solve.spread import Array, Spread, dots


@dataclass(frozen=True)
class Evidence:
    """Log marginal likelihoods of all outputs together, natural logarithms.

    `profile` for the best amplitude, which is `amplitude` (s^2, squared units of the targets over
    those of the kernel), `unit` for s^2 = 1. `standard_error` of both, from the random vectors; NaN
    for a single one. All are NaN where a matrix is not positive definite.
    """

    profile: float
    standard_error: float
    amplitude: float
    unit: float


def fits(spread: Spread, b: Array, x: Array) -> Array:
    """Return y^T alpha of each column, (columns,), equal on all ranks. Collective."""
    return spread.totals(dots(b, x))[0]


def evidence(
    fit: Array,
    matrices: Sequence[Matrix],
    row_sets: Sequence[RowSet],
    determinants: LogDeterminants,
) -> Evidence:
    """Return the evidence of outputs, each with its y^T alpha and its matrix."""
    counts: NDArray[np.int64] = np.array([row_sets[matrix.rows].count for matrix in matrices])
    total = int(counts.sum())
    samples = np.sum([determinants.of(matrix) for matrix in matrices], axis=0)
    volume = float(samples.mean())
    amplitude = float(fit.sum()) / total
    unit = -0.5 * (float(fit.sum()) + volume + total * np.log(2 * np.pi))
    with np.errstate(divide="ignore", invalid="ignore"):
        profile = -0.5 * (total + total * np.log(2 * np.pi * amplitude) + volume)
    vectors = len(samples)
    error = samples.std(ddof=1) / np.sqrt(vectors) / 2 if vectors > 1 else np.nan
    return Evidence(float(profile), float(error), amplitude, float(unit))
