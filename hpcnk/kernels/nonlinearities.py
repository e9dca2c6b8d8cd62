"""Pointwise layers: relu, erf, gelu and layer norm on covariances.

For every layer there are three functions.

- `factors(layer, q, tiny)`: what a pair needs of one image, from its variances q = S(x, x). This is
  computed once an image, so the pair's formulas below hold no square root of variances.
- `pointwise(layer, s, t, left, right)`: S and T (or None) of pairs, changed in place. `left` and
  `right` are the two images' factors, each of a shape that broadcasts against `s`.
- `exact(layer, q, t)`: the same for x with itself, where the correlation is 1 exactly.

The correlation c at a variance of zero is taken as 0. T is 0 there as well (its sums hold the same
zero variances), so any other choice gives the same kernel. Equations: relu, Cho and Saul 2009; erf,
Williams 1997; gelu, Tsuchida et al. 2021; layer norm with Neural Tangents' epsilon.
"""

from __future__ import annotations

from math import pi

import numpy as np
from numpy.typing import NDArray

from hpcnk.kernels.arccos import angle_and_sine
from hpcnk.kernels.layers import Erf, Gelu, Pointwise, Relu

LAYER_NORM_EPSILON = 1e-12
MAX_FACTORS = 3


def factors(layer: Pointwise, q: NDArray, tiny: float) -> NDArray:
    """Stack the per-image factors, shape (count, *q.shape); below `tiny` a variance counts as 0."""
    if isinstance(layer, Relu):
        seen = q >= tiny
        root = np.sqrt(np.where(seen, q, 0.0))
        return np.stack([np.divide(1.0, root, out=np.zeros_like(q), where=seen), root])
    if isinstance(layer, Erf):
        return (1.0 / np.sqrt(1.0 + 2.0 * q))[None]
    if isinstance(layer, Gelu):
        return np.stack([1.0 / np.sqrt(1.0 + q), np.sqrt(1.0 + q), q / (1.0 + q)])
    return (1.0 / np.sqrt(q + LAYER_NORM_EPSILON))[None]


def pointwise(
    layer: Pointwise, s: NDArray, t: NDArray | None, left: NDArray, right: NDArray
) -> None:
    """Change S and T of pairs in place."""
    if isinstance(layer, Relu):
        _relu(s, t, left, right)
    elif isinstance(layer, Erf):
        _erf(s, t, left, right)
    elif isinstance(layer, Gelu):
        _gelu(s, t, left, right)
    else:
        _layer_norm(s, t, left, right)


def exact(layer: Pointwise, q: NDArray, t: NDArray | None) -> tuple[NDArray, NDArray | None]:
    """Return the new variance and T of an image with itself, c = 1."""
    if isinstance(layer, Relu):
        variance, slope = 0.5 * q, np.full_like(q, 0.5)
    elif isinstance(layer, Erf):
        root = np.sqrt(1.0 + 4.0 * q)
        variance, slope = 2.0 / pi * np.arctan2(2.0 * q, root), 4.0 / pi / root
    elif isinstance(layer, Gelu):
        variance, slope = _gelu_exact(q)
    else:
        slope = 1.0 / (q + LAYER_NORM_EPSILON)
        variance = q * slope
    return variance, None if t is None else t * slope


def _relu(s: NDArray, t: NDArray | None, left: NDArray, right: NDArray) -> None:
    """S' = sqrt(q q') (sin a + (pi - a) c) / 2 pi and T' = T (pi - a) / 2 pi, with a = arccos c.

    Written with h = |c| and b = arccos h, since sin a - a h is an even function of c:
    S' = sqrt(q q') (sin b - b h) / 2 pi + max(S, 0) / 2, and a = b or pi - b by the sign of S.
    """
    inverse, root = zip(left, right, strict=True)
    h = np.abs(s)
    h *= inverse[0]
    h *= inverse[1]
    np.minimum(h, 1.0, out=h)
    angle, sine = angle_and_sine(h)
    if t is not None:
        share = np.subtract(pi / 2, angle)
        np.copysign(share, s, out=share)
        share += pi / 2
        share *= 1 / (2 * pi)
        t *= share
    angle *= h
    sine -= angle
    sine *= root[0]
    sine *= root[1]
    sine *= 1 / (2 * pi)
    np.maximum(s, 0.0, out=s)
    s *= 0.5
    s += sine


def _erf(s: NDArray, t: NDArray | None, left: NDArray, right: NDArray) -> None:
    """S' = 2/pi asin(2 S / sqrt(A A')), T' = T 4/pi / sqrt(A A' - 4 S^2), with A = 1 + 2 q."""
    scale = left[0] * right[0]
    s *= scale
    s *= 2.0
    np.clip(s, -1.0, 1.0, out=s)
    if t is not None:
        scale /= _cosine(s, left[0], right[0])
        scale *= 4 / pi
        t *= scale
    np.arcsin(s, out=s)
    s *= 2 / pi


def _gelu(s: NDArray, t: NDArray | None, left: NDArray, right: NDArray) -> None:
    """With rho = S / sqrt((1 + q)(1 + q')), k = sqrt(1 - rho^2), D = k sqrt((1 + q)(1 + q')).

    S' = (rho^2 / D + w w' D + S asin rho) / 2 pi + S / 4, where w = q / (1 + q);
    T' = T (1/4 + asin(rho) / 2 pi + (1 / D^2 + v v' - w w' + 1) rho / k / 2 pi), v = 1 / (1 + q).
    """
    inverse, root, share = (a * b for a, b in zip(left, right, strict=True))
    rho = np.clip(s * inverse, -1.0, 1.0)
    cosine = _cosine(rho, left[0], right[0])
    delta = cosine * root
    angle = np.arcsin(rho)
    if t is not None:
        slope = (1.0 / delta**2 + inverse**2 - share + 1.0) * (rho / cosine) + angle
        t *= 0.25 + slope / (2 * pi)
    s *= 0.25 + angle / (2 * pi)
    s += (rho**2 / delta + share * delta) / (2 * pi)


def _gelu_exact(q: NDArray) -> tuple[NDArray, NDArray]:
    delta = np.sqrt(1.0 + 2.0 * q)
    angle = np.arctan2(q, delta)
    variance = q * (0.25 + (q / ((1.0 + q) * delta) + angle / 2.0) / pi)
    slope = (1.0 / delta**2 + (1.0 - q) / (1.0 + q) + 1.0) * q / delta + angle
    return variance, 0.25 + slope / (2 * pi)


def _cosine(rho: NDArray, left: NDArray, right: NDArray) -> NDArray:
    """Compute sqrt(1 - rho^2), not below its smallest value, which S = sqrt(q q') takes.

    For erf (A = 1 + 2 q) and gelu (A = 1 + q) alike that is u + u' - u u', with u = 1 / A.
    """
    u, v = left**2, right**2
    return np.sqrt(np.maximum(1.0 - rho**2, u + v - u * v))


def _layer_norm(s: NDArray, t: NDArray | None, left: NDArray, right: NDArray) -> None:
    """S' = S / sqrt((q + eps)(q' + eps)), and T likewise."""
    scale = left[0] * right[0]
    s *= scale
    if t is not None:
        t *= scale
