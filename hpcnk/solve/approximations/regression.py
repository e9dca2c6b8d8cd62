"""What an approximation is fitted to, and what it gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import SolveError, UsageError
from hpcnk.solve.matrices import RowSet
from hpcnk.solve.operator import Indices, Operator
from hpcnk.solve.spread import Array

PIECE = 256  # columns of K that are taken at a time: each rank sums so many of all rows


@dataclass(frozen=True)
class Regression:
    """Targets y on some rows of K, for each of several ridges.

    `y` has this rank's rows, (rows, outputs); those outside `rows` are not looked at. `ridges` are
    absolute.
    """

    operator: Operator
    rows: RowSet
    y: Array
    ridges: tuple[float, ...]

    @property
    def mine(self) -> NDArray[np.bool_]:
        """Which of this rank's rows are in the row set."""
        return self.rows.keep[self.operator.spread.mine]


@dataclass(frozen=True)
class Fit:
    """Coefficients of the prediction K_*n alpha: this rank's rows, (rows, ridges x outputs).

    The columns of one ridge stand together, in the order of the ridges. `sound` says of each ridge
    whether the system could be solved in float64; if not, its columns are zero.
    """

    alpha: Array
    sound: tuple[bool, ...]


def require_budget(name: str, budget: int, rows: int) -> None:
    """Raise UsageError unless 1 <= budget <= rows. The same on all ranks."""
    if not 1 <= budget <= rows:
        error = UsageError(
            f"{name} of {budget} for a training set of {rows} rows",
            f"give a number from 1 to {rows}",
        )
        error.agreed = True
        raise error


def corner(operator: Operator, rows: Indices, columns: Indices) -> Array:
    """Return these rows and columns of K in float64, on all ranks. Collective.

    Raises SolveError if an entry is not finite.
    """
    found = np.empty((len(rows), len(columns)))
    for part in pieces(len(columns)):
        found[:, part] = operator.spread.rows_at(operator.columns(columns[part]), rows)
    require_finite(found)
    return found


def pieces(columns: int) -> Iterator[slice]:
    """Cut columns into those that are taken at a time."""
    return (slice(start, start + PIECE) for start in range(0, columns, PIECE))


def require_finite(entries: Array) -> None:
    """Raise SolveError unless all entries, equal on all ranks, are finite."""
    if not np.isfinite(entries).all():
        raise SolveError(
            "an entry of the kernel is not finite",
            "run `hpcnk verify` on the output folder; a tile holds NaN or infinity",
        )
