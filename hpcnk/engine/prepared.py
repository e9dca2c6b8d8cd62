"""Rows made ready for kernel blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.kernels.images import Images
from hpcnk.kernels.plan import Plan


@dataclass(frozen=True)
class Prepared:
    """Rows in the working dtype with all that is known of each alone.

    `len` gives the rows; a slice such as `prepared[10:20]` takes some of them without copying.
    """

    plan: Plan
    images: Images

    @property
    def diagonal(self) -> NDArray:
        """The exact K(x, x) of each row, float64."""
        return self.images.diagonal

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        arrays = (self.images.x, self.images.diagonal, *self.images.factors)
        return sum(array.nbytes for array in arrays)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Prepared:
        return Prepared(self.plan, self.images[rows])


def joined(parts: Sequence[Images], x: NDArray) -> Images:
    """Put images described in parts back together; `x` holds the inputs of all."""
    layers = zip(*(part.factors for part in parts), strict=True)
    factors = tuple(np.concatenate(layer, axis=-1) for layer in layers)
    return Images(x, factors, np.concatenate([part.diagonal for part in parts]))
