"""Nystrom approximation and subset of regressors, from m inducing rows.

Both replace K by Q = K_nm K_mm^+ K_mn = B B^T, B = U S V^T (see `features`):

- Nystrom (Williams and Seeger 2001): (Q + ridge I) alpha = y, predicted with the exact test
  kernel, K_*n alpha. By U, alpha = U (S^2 + ridge)^-1 U^T y + (y - U U^T y) / ridge.
- subset of regressors (Silverman 1985): f_* = K_*m (K_mn K_nm + ridge K_mm)^-1 K_mn y, so its
  coefficients lie on the inducing rows alone: E D^(-1/2) V S (S^2 + ridge)^-1 U^T y.

One decomposition serves all outputs and all ridges.
"""

from __future__ import annotations

import numpy as np

from hpcnk.solve.approximations.features import Features, make_features
from hpcnk.solve.approximations.regression import Fit, Regression, require_budget
from hpcnk.solve.operator import Indices
from hpcnk.solve.spread import Array


def nystrom(regression: Regression, inducing: Indices) -> Fit:
    """Solve with Q in place of K. Collective.

    Without a ridge Q must have full rank. Raises UsageError for more inducing rows than rows,
    SolveError for a kernel that is not finite.
    """
    features, projected = _fitted(regression, inducing)
    left = _masked(regression) - features.u @ projected
    full = len(features.s) == regression.rows.count  # then nothing is left but rounding
    sound = tuple(ridge > 0 or full for ridge in regression.ridges)
    parts = []
    for ridge, good in zip(regression.ridges, sound, strict=True):
        alpha = features.u @ (projected * _inverse(features, ridge))
        if not full and good:
            alpha += left / ridge
        parts.append(alpha if good else np.zeros_like(alpha))
    return Fit(np.concatenate(parts, axis=1), sound)


def subset_of_regressors(regression: Regression, inducing: Indices) -> Fit:
    """Solve in the span of the inducing rows' columns. Collective.

    Raises UsageError for more inducing rows than rows, SolveError for a kernel that is not finite.
    """
    features, projected = _fitted(regression, inducing)
    spread = regression.operator.spread
    alpha = np.zeros((spread.count, len(regression.ridges) * projected.shape[1]))
    here = (inducing >= spread.mine.start) & (inducing < spread.mine.stop)
    weights = [projected * features.s[:, None] * _inverse(features, r) for r in regression.ridges]
    alpha[inducing[here] - spread.mine.start] = features.back[here] @ np.concatenate(
        weights, axis=1
    )
    return Fit(alpha, (True,) * len(regression.ridges))


def _fitted(regression: Regression, inducing: Indices) -> tuple[Features, Array]:
    """Return the features and U^T y, (rank, outputs)."""
    require_budget("inducing rows", len(inducing), regression.rows.size)
    features = make_features(regression, inducing)
    (projected,) = regression.operator.spread.inner([(features.u, _masked(regression))])
    return features, projected


def _masked(regression: Regression) -> Array:
    return np.where(regression.mine[:, None], regression.y, 0.0)


def _inverse(features: Features, ridge: float) -> Array:
    """Return 1 / (S^2 + ridge), (rank, 1); 0 where that is no number."""
    squares = features.s**2 + ridge
    good = squares > np.finfo(float).eps ** 2 * squares.max(initial=0.0)
    return np.where(good, 1 / np.where(good, squares, 1.0), 0.0)[:, None]
