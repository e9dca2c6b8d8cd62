"""The systems of a deck: training-set sizes x ridges x outputs, as columns of one block.

A setting is a size and a ridge. Columns stand setting by setting, sizes rising and ridges in the
deck's order, the outputs of a setting side by side. Each output is solved on its own labelled rows
of a size, less those held back for validation, with the ridge relative to the mean of the kernel's
diagonal over these rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.data import labelled
from hpcnk.deck import Deck
from hpcnk.errors import SolveError
from hpcnk.solve import Matrix, Problem, RowSet, leading_rows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """A training-set size, in rows, and a ridge relative to the mean diagonal."""

    rows: int
    ridge: float


@dataclass(frozen=True)
class Columns:
    """What each column of the block solves.

    `labels` (n, outputs) with zeros where there is none; `scale`: the mean of the kernel's diagonal
    over all rows in use.
    """

    settings: list[Setting]
    row_sets: list[RowSet]
    matrices: list[Matrix]
    labels: Array
    scale: float

    @property
    def outputs(self) -> int:
        """Columns of one setting."""
        return self.labels.shape[1]

    def of(self, setting: int) -> slice:
        """Return the columns of a setting."""
        return slice(setting * self.outputs, (setting + 1) * self.outputs)

    def problem(self, mine: slice, block: bool) -> Problem:
        """Return the systems for the solver, with this rank's rows of the right-hand sides."""
        b = np.empty((mine.stop - mine.start, len(self.matrices)))
        for column, matrix in enumerate(self.matrices):
            keep = self.row_sets[matrix.rows].keep[mine]
            b[:, column] = np.where(keep, self.labels[mine, column % self.outputs], 0.0)
        return Problem(b, self.matrices, self.row_sets, block)


def training_sizes(deck: Deck, n: int) -> list[int]:
    """Return the deck's training-set sizes, rising, the last one n."""
    return sorted({*(size for size in deck.solve.sizes if size < n), n})


def columns_of(deck: Deck, y: Array, held: NDArray[np.int64], diagonal: Array) -> Columns:
    """Lay out the systems. `y` (n, outputs) with NaN where there is no label, `held` the rows held
    back, `diagonal` (n,) of the kernel.

    Each output must have a row of each size. Raises SolveError for a diagonal that scales nothing.
    """
    there = labelled(y)
    there[held] = False
    row_sets: list[RowSet] = []
    settings, matrices = [], []
    for size in training_sizes(deck, len(y)):
        numbers = _row_sets_of_outputs(row_sets, there, size)
        means = [_mean_diagonal(row_sets[number], diagonal) for number in numbers]
        for ridge in deck.solve.ridge:
            settings.append(Setting(size, ridge))
            pairs = zip(numbers, means, strict=True)
            matrices += [Matrix(number, ridge * mean) for number, mean in pairs]
    used = there.any(axis=1)
    return Columns(
        settings, row_sets, matrices, np.where(there, y, 0.0), float(diagonal[used].mean())
    )


def _row_sets_of_outputs(
    row_sets: list[RowSet], there: NDArray[np.bool_], size: int
) -> Sequence[int]:
    """Return the number of each output's row set; outputs with the same labelled rows share it."""
    patterns, inverse = np.unique(there[:size], axis=1, return_inverse=True)
    first = len(row_sets)
    for pattern in patterns.T:
        keep = np.zeros(len(there), bool)
        keep[:size] = pattern
        row_sets.append(leading_rows(len(there), size, keep))
    return (first + np.ravel(inverse)).tolist()


def _mean_diagonal(row_set: RowSet, diagonal: Array) -> float:
    """Return trace(K)/n of the rows in use."""
    mean = float(diagonal[row_set.keep].mean())
    if not (np.isfinite(mean) and mean > 0):
        raise SolveError(
            f"trace(K)/n is {mean}, expected a positive number",
            "check the layers (b_std and w_std) and the data; `hpcnk verify` checks the tiles",
        )
    return mean
