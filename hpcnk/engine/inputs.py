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


def checked_rows(x: NDArray, dtype: np.dtype) -> NDArray:
    """Return `x`, or raise DataError with the first row that is not finite in `dtype`."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(x.astype(dtype)).all(axis=tuple(range(1, x.ndim)))
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise DataError(
            f"row {row}: holds a value that is NaN, infinite or beyond {dtype}",
            "remove the row or repair its values; scale very large data down",
        )
    return x
