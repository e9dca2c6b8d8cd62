"""The matrices of the systems: principal submatrices of one kernel, each plus a ridge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RowSet:
    """The rows of one training set: those `keep` (n,) of the leading `size` ones.

    Left out are rows held back for validation, and those without a label.
    """

    size: int
    keep: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """Number of rows in the set."""
        return int(self.keep.sum())


class Matrix(NamedTuple):
    """P K P + ridge I, with P the projection on row set number `rows`; `ridge` is absolute."""

    rows: int
    ridge: float


def leading_rows(n: int, size: int, keep: NDArray[np.bool_] | None = None) -> RowSet:
    """Return the set of the leading rows, of those to `keep` if some are left out."""
    chosen = np.arange(n) < size
    return RowSet(size, chosen if keep is None else chosen & keep)


def all_rows(n: int) -> RowSet:
    """Return the set of all rows."""
    return leading_rows(n, n)


def sizes_of(matrices: Sequence[Matrix], row_sets: Sequence[RowSet]) -> NDArray[np.int64]:
    """Return the size of each matrix's row set."""
    return np.array([row_sets[matrix.rows].size for matrix in matrices], np.int64)
