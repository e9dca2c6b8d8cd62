"""Rows made ready for kernel blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import DataError

# A kernel is a sum of many entries, and a sum may overflow where its terms do not.
HEADROOM = 1e-9


@dataclass(frozen=True)
class Described:
    """What is known of each row alone, computed once for all tiles.

    `variances`: (rows, positions) in the engine's working dtype, S(x, x) at every pointwise layer
    and pixel. `diagonal`: (rows,) float64, the exact K(x, x). The same for every back end.
    """

    variances: NDArray
    diagonal: NDArray

    def __len__(self) -> int:
        return len(self.diagonal)

    def __getitem__(self, rows: slice) -> Described:
        return Described(self.variances[rows], self.diagonal[rows])


def checked(variances: NDArray, diagonal: NDArray, dtype: np.dtype) -> Described:
    """Round to the working dtype. Raises DataError naming the first row whose kernel overflows."""
    limit = float(np.finfo(dtype).max) * HEADROOM
    with np.errstate(invalid="ignore"):
        good = (np.abs(diagonal) < limit) & (variances < limit).all(axis=1)
    if not good.all():
        raise DataError(
            f"row {int(np.flatnonzero(~good)[0])}: its kernel overflows {dtype}",
            "scale the data down (normalise them), or use dtype: float64",
        )
    return Described(np.ascontiguousarray(variances, dtype), diagonal)
