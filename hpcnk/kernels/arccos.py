"""arccos and the sine beside it, for cosines between 0 and 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Abramowitz and Stegun 4.4.46: arccos(h) = sqrt(1 - h) * (a0 + a1 h + ... + a7 h^7) on [0, 1] with
# an error below 2e-8, which float32 rounds away. NumPy's float32 arccos takes five times as long.
COEFFICIENTS = (
    1.5707963050,
    -0.2145988016,
    0.0889789874,
    -0.0501743046,
    0.0308918810,
    -0.0170881256,
    0.0066700901,
    -0.0012624911,
)


def angle_and_sine(h: NDArray) -> tuple[NDArray, NDArray]:
    """Return arccos(h) and sqrt(1 - h^2) for 0 <= h <= 1, in the precision of `h`."""
    root = 1.0 - h
    np.sqrt(root, out=root)
    angle = np.arccos(h) if h.dtype == np.float64 else _polynomial(h)
    if h.dtype != np.float64:
        angle *= root
    sine = h + 1.0
    np.sqrt(sine, out=sine)
    sine *= root
    return angle, sine


def _polynomial(h: NDArray) -> NDArray:
    """Evaluate the polynomial by Horner's rule."""
    value = h * COEFFICIENTS[-1]
    for coefficient in COEFFICIENTS[-2:0:-1]:
        value += coefficient
        value *= h
    value += COEFFICIENTS[0]
    return value
