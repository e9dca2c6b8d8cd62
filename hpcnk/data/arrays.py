"""Data sets of the user's own: one .npz or HDF5 file with x_train, y_train, x_test, y_test."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hpcnk.data.layout import StoredArray, check_layout
from hpcnk.data.npz import open_npz
from hpcnk.data.source import Array, Description, Part, RowNumbers, Task
from hpcnk.errors import DataError

# One-hot rows of more classes than this are a sign of targets stored as integers.
MOST_CLASSES = 65536


class Arrays:
    """Source of one file. Integer y are classes, real y regression targets, NaN a missing one.

    Classes count from 0 to the largest label of the two parts; at least half of them have a row.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays = _open(path)
        self._task: Task = check_layout(path, self._arrays)

    def describe(self) -> Description:
        """Shapes from the headers; for classification all labels are read as well."""
        x = self._arrays["x_train"]
        return Description(
            input_shape=x.shape[1:],
            train_rows=x.shape[0],
            test_rows=self._arrays["x_test"].shape[0],
            outputs=self._classes() if self._task == "classification" else self._targets(),
            task=self._task,
        )

    def labels(self, part: Part) -> Array:
        """Classes (rows,) int64 or targets (rows, outputs) float64 of all rows."""
        stored = self._arrays[f"y_{part}"]
        return self._checked(stored, stored.read(), None)

    def read(self, part: Part, rows: RowNumbers) -> tuple[Array, Array]:
        """Inputs, in the machine's byte order, and labels of these rows."""
        x, y = self._arrays[f"x_{part}"], self._arrays[f"y_{part}"]
        return _native(x.read(rows)), self._checked(y, y.read(rows), rows)

    def _targets(self) -> int:
        shape = self._arrays["y_train"].shape
        return shape[1] if len(shape) == 2 else 1

    def _classes(self) -> int:
        parts: tuple[Part, Part] = ("train", "test")
        seen = np.unique(np.concatenate([self.labels(part) for part in parts]))
        classes = 1 + int(seen[-1])
        if classes > 2 * len(seen):
            raise DataError(
                f"{self._path}: only {len(seen)} of the classes 0 to {seen[-1]} have a row",
                "number the classes from 0 up without gaps, or store real targets as floats",
            )
        if classes < 2:
            raise DataError(
                f"{self._path}: all labels are 0",
                "store the classes as integers from 0 up, or real targets as floats",
            )
        return classes

    def _checked(self, stored: StoredArray, y: Array, rows: RowNumbers | None) -> Array:
        if self._task == "regression":
            values = _native(y).astype(np.float64).reshape(len(y), -1)
            values[np.isnan(values)] = np.nan  # of the many bit patterns one, for the digest
            return values
        bad = np.flatnonzero((y < 0) | (y >= MOST_CLASSES))
        if bad.size:
            row = bad[0] if rows is None else rows[bad[0]]
            raise DataError(
                f"{self._path}: row {row} of {stored.name} has class {y[bad[0]]}; "
                f"classes run from 0 to at most {MOST_CLASSES - 1}",
                "number the classes from 0 up, or store real targets as floats",
            )
        return y.astype(np.int64)


def _open(path: Path) -> Mapping[str, StoredArray]:
    if not os.path.isfile(path):  # Path.is_file may raise where the path cannot be looked up
        raise DataError(f"there is no file {path}", "data.path names a .npz or HDF5 file")
    if path.suffix == ".npz":
        return open_npz(path)
    if path.suffix in (".h5", ".hdf5"):
        # An h5py built with MPI starts MPI when imported: only a deck that needs it pays for that.
        from hpcnk.data.hdf5 import open_hdf5

        return open_hdf5(path)
    raise DataError(
        f"{path} ends in {path.suffix or 'nothing'!r}", "arrays are read from .npz, .h5 or .hdf5"
    )


def _native(values: Array) -> Array:
    """Return the values in this machine's byte order; reals wider than 64 bits become float64."""
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
