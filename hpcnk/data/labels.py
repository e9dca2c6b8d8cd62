"""Targets of the regression: centred one-hot rows, or standardised reals."""

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
    (outputs,) of the training set; for classification these are 1/classes and 1.
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

    Raises DataError for a target column that is constant or whose spread is no float64.
    """
    if task == "classification":
        if classes is None:
            raise DataError("classification without a number of classes", "give the classes")
        return Targets(task, classes, np.full(classes, 1 / classes), np.ones(classes))
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = y_train.mean(axis=0), y_train.std(axis=0)
    constant = (y_train.max(axis=0) == y_train.min(axis=0)) | (std == 0)
    unusable = np.flatnonzero(constant | ~np.isfinite(std))
    if unusable.size:
        column = unusable[0]
        raise DataError(
            f"column {column} of y_train is {y_train[0, column]:.6g} in row {rows[0]} and has "
            f"standard deviation {np.where(constant, 0, std)[column]:g} over {len(rows)} rows",
            "drop the column, rescale it, or select training rows in which it varies",
        )
    return Targets(task, None, mean, std)
