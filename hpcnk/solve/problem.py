"""Systems to be solved, when a column of them ends, and what comes of it: for every solver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from hpcnk.solve.matrices import Matrix, RowSet
from hpcnk.solve.spread import Array

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Limits:
    """When a column ends: its true residual norm relative to that of b, and its iterations."""

    tolerance: float
    max_iterations: int


class Status(Enum):
    """How a column ended, in words."""

    CONVERGED = "converged"
    MAX_ITERATIONS = (
        "not converged within max_iterations: raise it, raise the preconditioner's rank, "
        "or raise the ridge"
    )
    STAGNATED = "stagnated: rounding keeps the true residual above the tolerance"
    INDEFINITE = (
        "indefinite: the stored kernel plus this ridge is not positive definite to rounding"
    )


@dataclass(frozen=True)
class Problem:
    """The systems: b has this rank's rows of all columns, (rows, columns).

    Column c has matrix `matrices[c]`, on the rows `row_sets[matrices[c].rows]`; b is zero outside.
    `block`: whether columns of one matrix search together.
    """

    b: Array
    matrices: Sequence[Matrix]
    row_sets: Sequence[RowSet]
    block: bool = True


@dataclass(frozen=True)
class Solution:
    """Solutions x, this rank's rows of all columns, and for each column how it went."""

    x: Array
    iterations: Integers
    true_relative_residual: Array
    status: list[Status]
    passes: int
    history: list[float] = field(default_factory=list)

    @property
    def converged(self) -> bool:
        """Whether all columns converged."""
        return all(status is Status.CONVERGED for status in self.status)
