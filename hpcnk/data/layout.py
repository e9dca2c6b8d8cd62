"""Whether four stored arrays make a data set: names, types, shapes and lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hpcnk.data.source import Array, RowNumbers, Task
from hpcnk.errors import DataError

NAMES = ("x_train", "y_train", "x_test", "y_test")
_INPUTS = "(rows, features), (rows, length, channels) or (rows, height, width, channels)"


class StoredArray(Protocol):
    """An array in a file, whose header is known and whose rows can be read."""

    @property
    def name(self) -> str:
        """Its name in the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, rows first."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its type, as stored."""

    def read(self, rows: RowNumbers | None = None) -> Array:
        """These ascending rows, or all. Raises DataError on damage."""


def refuse_missing(path: Path, present: Iterable[str]) -> None:
    """Raise DataError unless the file holds the four arrays, saying what it does hold."""
    held = list(present)
    missing = [name for name in NAMES if name not in held]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(held) or 'nothing'}",
            f"store {', '.join(NAMES)}",
        )


def check_layout(path: Path, arrays: Mapping[str, StoredArray]) -> Task:
    """Return the task that the arrays describe, from their headers alone.

    Integer y of shape (rows,) are classes; real y, (rows,) or (rows, outputs), are targets.
    Raises DataError for anything else, naming the array and what it should be.
    """
    for name in NAMES:
        _check_array(path, arrays[name])
    for part in ("train", "test"):
        _check_lengths(path, arrays[f"x_{part}"], arrays[f"y_{part}"])
    _check_inputs_agree(path, arrays["x_train"], arrays["x_test"])
    return _task(path, arrays["y_train"], arrays["y_test"])


def _check_array(path: Path, array: StoredArray) -> None:
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: {array.name} holds values of type {array.dtype}",
            "store integers or reals" + (" of one shape" if array.dtype.hasobject else ""),
        )
    axes: tuple[int, ...] = (2, 3, 4)
    wanted = _INPUTS
    if array.name.startswith("y"):
        is_real = array.dtype.kind == "f"
        axes, wanted = ((1, 2), "(rows,) or (rows, outputs)") if is_real else ((1,), "(rows,)")
    if len(array.shape) not in axes or 0 in array.shape:
        raise DataError(
            f"{path}: {array.name}, of type {array.dtype}, has shape {array.shape}",
            f"it should be {wanted}, no length 0"
            + ("; integer y are classes, real targets are floats" if wanted == "(rows,)" else ""),
        )


def _check_lengths(path: Path, x: StoredArray, y: StoredArray) -> None:
    if x.shape[0] != y.shape[0]:
        raise DataError(
            f"{path}: {x.name} has {x.shape[0]} rows and {y.name} has {y.shape[0]}",
            "store one label for each row",
        )


def _check_inputs_agree(path: Path, train: StoredArray, test: StoredArray) -> None:
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{path}: a row of x_train has shape {train.shape[1:]}, of x_test {test.shape[1:]}",
            "store inputs of one shape",
        )
    # uint8 images are divided by 255: one part alone must not be.
    if (train.dtype == np.uint8) != (test.dtype == np.uint8):
        raise DataError(
            f"{path}: x_train is of type {train.dtype} and x_test of type {test.dtype}",
            "store both as bytes (0 to 255), or neither",
        )


def _task(path: Path, train: StoredArray, test: StoredArray) -> Task:
    if (train.dtype.kind == "f") != (test.dtype.kind == "f"):
        raise DataError(
            f"{path}: y_train is of type {train.dtype} and y_test of type {test.dtype}",
            "store both as integers (classes), or both as floats (targets)",
        )
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{path}: y_train has shape {train.shape} and y_test {test.shape}",
            "store as many targets for test rows as for training rows",
        )
    return "regression" if train.dtype.kind == "f" else "classification"
