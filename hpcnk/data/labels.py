"""Targets of the regression: centred one-hot rows, or standardised reals.

NaN among real labels stands for a label that is missing, and stays NaN when encoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.data.source import Array, RowNumbers, Task
from hpcnk.errors import DataError

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Targets:
    """How labels become the columns that are solved for, and how predictions come back.

    Classification: one-hot minus 1/classes. Regression: (y - mean) / std, with `mean` and `std`
    (outputs,) of the training rows that have a label; for classification these are 1/classes and 1.
    """

    task: Task
    classes: int | None
    mean: Float64
    std: Float64

    @property
    def outputs(self) -> int:
        """Number of columns."""
        return len(self.mean)

    def encode(self, y: Array) -> Float64:
        """Labels (n,) of integers or (n, outputs) of reals to targets (n, outputs)."""
        values = np.eye(self.outputs)[y] if self.task == "classification" else y
        return np.ascontiguousarray((values - self.mean) / self.std)

    def decode(self, predictions: Array) -> Float64:
        """Predictions (..., outputs): regression in the units of y; class scores unchanged."""
        if self.task == "classification":
            return np.asarray(predictions, np.float64)
        return np.asarray(predictions * self.std + self.mean, np.float64)


def fit_targets(y_train: Array, rows: RowNumbers, task: Task, classes: int | None) -> Targets:
    """Fit the encoding on the training labels, whose row numbers are `rows`.

    Each column over the rows that have a label of it. Raises DataError for a column of targets
    without any label, one that is constant, and one whose spread is no float64.
    """
    if task == "classification":
        if classes is None:
            raise DataError("classification without a number of classes", "give the classes")
        return Targets(task, classes, np.full(classes, 1 / classes), np.ones(classes))
    known = labelled(y_train)
    _refuse_without_label(known)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = np.nanmean(y_train, axis=0), np.nanstd(y_train, axis=0)
    constant = (np.nanmax(y_train, axis=0) == np.nanmin(y_train, axis=0)) | (std == 0)
    unusable = np.flatnonzero(constant | ~np.isfinite(std))
    if unusable.size:
        column = unusable[0]
        spread = np.where(constant, 0, std)[column]
        raise _unusable(column, y_train[:, column], rows, known[:, column], spread)
    return Targets(task, None, mean, std)


def labelled(y: Array) -> NDArray[np.bool_]:
    """Return which labels are there, (n, outputs), of real labels or encoded ones (n, outputs).

    Classes (n,), of which none can be missing, give one column.
    """
    return ~np.isnan(y).reshape(len(y), -1)


def _refuse_without_label(known: NDArray[np.bool_]) -> None:
    empty = np.flatnonzero(~known.any(axis=0))
    if empty.size:
        more = f", as have {empty.size - 1} more" if empty.size > 1 else ""
        raise DataError(
            f"column {empty[0]} of y_train has no label (only NaN) in the {len(known)} training "
            f"rows{more}",
            "drop the column, or select training rows that have labels of it",
        )


def _unusable(
    column: int, y: Array, rows: RowNumbers, known: NDArray[np.bool_], spread: float
) -> DataError:
    first, count = np.flatnonzero(known)[0], int(known.sum())
    over = f"{len(y)} rows" if count == len(y) else f"the {count} of {len(y)} rows with a label"
    return DataError(
        f"column {column} of y_train is {y[first]:.6g} in row {rows[first]} and has standard "
        f"deviation {spread:g} over {over}",
        "drop the column, rescale it, or select training rows in which it varies",
    )
