"""Data sets of the user's own: one .npz or HDF5 file with x_train, y_train, x_test, y_test.

Damage is refused as far as the HDF5 library survives it: damaged metadata of a chunked dataset
can, rarely, end the process inside old versions (seen once in some 10,000 random changes to a
tiny file, with HDF5 1.10.8), which nothing in Python can catch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcnk.data.damage import damage_reported
from hpcnk.data.layout import NAMES, StoredArray, check_layout, refuse_missing
from hpcnk.data.npz import open_npz
from hpcnk.data.source import Array, Description, Part, RowNumbers, Task, gather
from hpcnk.errors import DataError

# One-hot rows of more classes than this are a sign of targets stored as integers.
MOST_CLASSES = 65536

# What h5py raises on damaged files and on what NumPy has no type for.
_CAUSES: tuple[type[Exception], ...] = (
    OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError,
    MemoryError,
)  # fmt: skip
# No filter that keeps numbers apart shrinks them more than deflate can: 258 bytes in 2 bits.
_LARGEST_RATIO = 1032


class Arrays:
    """Source of one file. Integer y are classes, real y regression targets.

    Classes count from 0 to the largest label of the two parts.
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
        classes = 1 + max(int(self.labels(part).max()) for part in parts)
        if classes < 2:
            raise DataError(
                f"{self._path}: all labels are 0",
                "store the classes as integers from 0 up, or real targets as floats",
            )
        return classes

    def _checked(self, stored: StoredArray, y: Array, rows: RowNumbers | None) -> Array:
        if self._task == "regression":
            return _native(y).astype(np.float64).reshape(len(y), -1)
        bad = np.flatnonzero((y < 0) | (y >= MOST_CLASSES))
        if bad.size:
            row = bad[0] if rows is None else rows[bad[0]]
            raise DataError(
                f"{self._path}: row {row} of {stored.name} has class {y[bad[0]]}; "
                f"classes run from 0 to at most {MOST_CLASSES - 1}",
                "number the classes from 0 up, or store real targets as floats",
            )
        return y.astype(np.int64)


class Hdf5Array:
    """One dataset of an HDF5 file; its rows are read when asked for."""

    def __init__(self, path: Path, dataset: h5py.Dataset) -> None:
        self.path = path
        self.name = dataset.name.removeprefix("/")
        self.shape: tuple[int, ...] = dataset.shape or ()
        self.dtype: np.dtype[Any] = dataset.dtype

    def read(self, rows: RowNumbers | None = None) -> Array:
        """These ascending rows, or all."""
        wanted = np.arange(self.shape[0]) if rows is None else rows
        with damage_reported(self.path, _CAUSES), h5py.File(self.path, "r") as file:
            dataset = file[self.name]
            out = np.empty((len(wanted), *self.shape[1:]), self.dtype)
            return gather(lambda start, stop: dataset[start:stop], wanted, out)


def _open(path: Path) -> Mapping[str, StoredArray]:
    if not path.is_file():
        raise DataError(f"there is no file {path}", "data.path names a .npz or HDF5 file")
    if path.suffix == ".npz":
        return open_npz(path)
    if path.suffix in (".h5", ".hdf5"):
        return _open_hdf5(path)
    raise DataError(
        f"{path} ends in {path.suffix or 'nothing'!r}", "arrays are read from .npz, .h5 or .hdf5"
    )


def _open_hdf5(path: Path) -> Mapping[str, StoredArray]:
    with damage_reported(path, _CAUSES), h5py.File(path, "r") as file:
        refuse_missing(path, file)
        return {name: Hdf5Array(path, _own_dataset(path, file, name)) for name in NAMES}


def _own_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Return the dataset once it is seen to lie in this file, whole."""
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise DataError(
            f"{path}: {name} is a link to another place ({type(link).__name__})",
            "store the array itself in this file",
        )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise DataError(f"{path}: {name} is no array", "store a dataset by this name")
    if dataset.external or dataset.is_virtual:
        raise DataError(
            f"{path}: the values of {name} lie in other files",
            "store the array itself in this file",
        )
    _refuse_incomplete(path, dataset)
    return dataset


def _refuse_incomplete(path: Path, dataset: h5py.Dataset) -> None:
    """Refuse values that were never written, and sizes that the file cannot hold."""
    stored, size = dataset.id.get_storage_size(), path.stat().st_size
    ratio = 1 if dataset.chunks is None else _LARGEST_RATIO
    if stored > size or dataset.nbytes > ratio * stored or _chunks_lacking(dataset):
        raise DataError(
            f"{path}: {dataset.name} should have {dataset.nbytes} bytes, shape {dataset.shape}; "
            f"{stored} are stored, in a file of {size}",
            "the file is damaged or was not written to its end: write it again",
        )


def _chunks_lacking(dataset: h5py.Dataset) -> bool:
    if dataset.chunks is None:
        return False
    lengths = zip(dataset.shape, dataset.chunks, strict=True)
    expected = np.prod([-(-length // chunk) for length, chunk in lengths])
    return dataset.id.get_num_chunks() < expected


def _native(values: Array) -> Array:
    """Return the values in this machine's byte order; reals wider than 64 bits become float64."""
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
