"""Rows made ready for kernel blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.inputs import OVERFLOW_ADVICE, largest
from hpcnk.errors import DataError, UsageError


@dataclass(frozen=True)
class Described:
    """What is known of each row alone, computed once for all tiles.

    `variances`: (rows, positions) in the engine's working dtype, S(x, x) at every pointwise layer
    and pixel (of pixels that a stride skips: anything). `diagonal`: (rows,) float64, the exact
    K(x, x). The same for every back end.
    """

    variances: NDArray
    diagonal: NDArray

    def __len__(self) -> int:
        return len(self.diagonal)

    def __getitem__(self, rows: slice) -> Described:
        return Described(self.variances[rows], self.diagonal[rows])


def check_described(described: Described, rows: int, positions: int, working: np.dtype) -> None:
    """Raise UsageError unless it describes so many rows for an engine of this working dtype."""
    found = (described.variances.shape, described.variances.dtype, described.diagonal.shape)
    if found != ((rows, positions), working, (rows,)):
        raise UsageError(
            f"described: expected {positions} variances in {working} of {rows} rows, got "
            f"{found[1]} of shape {found[0]}",
            "describe the same rows with an engine of the same network and dtype",
        )


def a_slice(rows: Any, steps: bool = True) -> slice:
    """Return `rows`. Raises UsageError unless it is a slice; with a step only if those go."""
    if not isinstance(rows, slice) or (not steps and rows.step not in (None, 1)):
        raise UsageError(
            f"prepared rows: expected a slice{'' if steps else ' without a step'}, got {rows}",
            "take rows[start:stop]",
        )
    return rows


def checked(variances: NDArray, diagonal: NDArray, working: np.dtype, dtype: np.dtype) -> Described:
    """Round variances to the working dtype; the kernel itself is to be had in `dtype`.

    Raises DataError naming the first row whose kernel overflows one of the two.
    """
    with np.errstate(invalid="ignore"):
        good = np.abs(diagonal) < min(largest(working), largest(dtype))
        good &= (variances < largest(working)).all(axis=1)
    if not good.all():
        raise DataError(
            f"row {int(np.flatnonzero(~good)[0])}: its kernel overflows {dtype}", OVERFLOW_ADVICE
        )
    return Described(np.ascontiguousarray(variances, working), diagonal)
