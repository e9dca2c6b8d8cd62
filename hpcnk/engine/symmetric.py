"""What a symmetric block still lacks when the pairs above its diagonal are computed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def complete(block: NDArray, diagonal: NDArray) -> None:
    """Mirror what lies above the diagonal, and fill the exact diagonal in; in place."""
    mirror(block)
    np.fill_diagonal(block, diagonal)


def mirror(block: NDArray, size: int = 256) -> None:
    """Copy what lies above the diagonal of a square block below it, by blocks that fit caches."""
    for start in range(0, len(block), size):
        here, rest = slice(start, start + size), slice(start + size, None)
        block[rest, here] = block[here, rest].T
        upper = np.triu(block[here, here])
        block[here, here] = upper + np.triu(upper, 1).T
