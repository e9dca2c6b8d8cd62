"""Checks of the arrays that a user or a reader hands over."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcnk.errors import DataError, UsageError


def as_rows(values: ArrayLike, name: str) -> NDArray:
    """Take numbers of shape (rows, ...). Raises UsageError for anything else."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UsageError(f"{name}: no array can be made of it ({error})", ROWS_ADVICE) from None
    if array.dtype.kind not in "fiub":
        raise UsageError(f"{name}: expected real numbers, got dtype {array.dtype}", ROWS_ADVICE)
    if array.ndim < 2:
        raise UsageError(f"{name}: expected rows, got shape {array.shape}", ROWS_ADVICE)
    return array


ROWS_ADVICE = (
    "pass an array of shape (rows, channels), (rows, length, channels) "
    "or (rows, height, width, channels)"
)


# A kernel is a sum of many entries, and a sum may overflow where its terms do not.
HEADROOM = 1e-9
OVERFLOW_ADVICE = "scale the data down (normalise them), or use dtype: float64"


def largest(dtype: np.dtype) -> float:
    """Give the bound under which numbers of a kernel must stay."""
    return float(np.finfo(dtype).max) * HEADROOM


def checked_rows(x: NDArray, dtype: np.dtype, working: np.dtype) -> NDArray:
    """Return `x`, or raise DataError with the first row that cannot be computed with.

    Every value must be finite in `dtype`, and the row's square not overflow `working`.
    """
    flat = x.reshape(len(x), -1) if len(x) else x.reshape(0, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(flat.astype(dtype)).all(axis=1)
        small = np.square(flat, dtype=np.float64).sum(axis=1) < largest(working)
    if not finite.all():
        raise DataError(
            f"row {int(np.flatnonzero(~finite)[0])}: holds a value that is NaN, infinite or "
            f"beyond {dtype}",
            "remove the row or repair its values; scale very large data down",
        )
    if not small.all():
        row = int(np.flatnonzero(~small)[0])
        raise DataError(f"row {row}: its kernel overflows {dtype}", OVERFLOW_ADVICE)
    return x
