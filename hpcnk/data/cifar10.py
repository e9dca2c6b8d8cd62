"""CIFAR-10 as published: a folder of six batches, in the binary or in the Python version.

Training rows are numbered through data_batch_1 to data_batch_5; the version is told from the
names in the folder. The parent folder of `cifar-10-batches-bin` or `cifar-10-batches-py` will do.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from hpcnk.data.cifar10_binary import ROW_BYTES, BinaryBatch
from hpcnk.data.cifar10_python import PythonBatch
from hpcnk.data.source import Array, Description, Part, RowNumbers, gather, rows_per_block
from hpcnk.errors import DataError

CLASSES = 10
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST = ("test_batch",)
_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")


class Batch(Protocol):
    """One file of rows; a record is the label byte and the 3,072 pixel bytes of a row."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def rows(self) -> int:
        """How many rows it holds."""

    def records(self, start: int, stop: int) -> Array:
        """Rows start to stop - 1, (stop - start, 3073) uint8."""


class Cifar10:
    """Source of CIFAR-10: (32, 32, 3) uint8 images, classes 0 to 9."""

    def __init__(self, path: Path) -> None:
        folder = _find_folder(path)
        kind, suffix = _version(folder)
        _refuse_missing(folder, suffix)
        self._batches: dict[Part, list[Batch]] = {
            "train": [kind(folder / (name + suffix)) for name in _TRAIN],
            "test": [kind(folder / (name + suffix)) for name in _TEST],
        }

    def describe(self) -> Description:
        """Rows of both parts; the binary version reads no file for it."""
        return Description(
            (32, 32, 3), self._rows("train"), self._rows("test"), CLASSES, "classification"
        )

    def labels(self, part: Part) -> Array:
        """All classes of a part, (rows,) int64. Raises DataError for a label above 9."""
        return np.concatenate([_batch_labels(batch) for batch in self._batches[part]])

    def read(self, part: Part, rows: RowNumbers) -> tuple[Array, Array]:
        """Images (len(rows), 32, 32, 3) uint8 and classes; only batches with these rows are read.

        Raises DataError for a label above 9 and for a file that ends early.
        """
        records = np.empty((len(rows), ROW_BYTES), np.uint8)
        labels = np.empty(len(rows), np.int64)
        first = 0
        for batch in self._batches[part]:
            here = slice(*np.searchsorted(rows, [first, first + batch.rows]))
            inside = rows[here] - first
            gather(batch.records, inside, records[here])
            labels[here] = _checked(records[here, 0], inside, batch.path)
            first += batch.rows
        planes = records[:, 1:].reshape(-1, 3, 32, 32)
        return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels

    def _rows(self, part: Part) -> int:
        return sum(batch.rows for batch in self._batches[part])


def _batch_labels(batch: Batch) -> Array:
    step = rows_per_block(ROW_BYTES)
    starts = range(0, batch.rows, step)
    parts = [batch.records(i, min(i + step, batch.rows))[:, 0].copy() for i in starts]
    return _checked(np.concatenate(parts), np.arange(batch.rows), batch.path)


def _checked(labels: Array, rows: RowNumbers, path: Path) -> Array:
    bad = np.flatnonzero(labels >= CLASSES)
    if bad.size:
        raise DataError(
            f"row {rows[bad[0]]} of {path} has label {labels[bad[0]]}; CIFAR-10 has labels 0 to 9",
            "the file is damaged or another data set's: fetch it again",
        )
    return labels.astype(np.int64)


def _find_folder(path: Path) -> Path:
    if not os.path.isdir(path):
        raise DataError(
            f"{path} is not a folder", "data.path is the folder of the CIFAR-10 batches"
        )
    inner = [path / name for name in _FOLDERS if os.path.isdir(path / name)]
    if len(inner) > 1:
        raise DataError(
            f"{path} holds both {_FOLDERS[0]} and {_FOLDERS[1]}",
            "name one of the two in data.path",
        )
    return inner[0] if inner else path


def _version(folder: Path) -> tuple[type[BinaryBatch] | type[PythonBatch], str]:
    names = _TRAIN + _TEST
    if any(os.path.isfile(folder / f"{name}.bin") for name in names):
        return BinaryBatch, ".bin"
    if any(os.path.isfile(folder / name) for name in names):
        return PythonBatch, ""
    raise DataError(
        f"{folder} holds no CIFAR-10 batch: neither data_batch_1.bin nor data_batch_1",
        "data.path is the unpacked folder of the binary or of the Python version",
    )


def _refuse_missing(folder: Path, suffix: str) -> None:
    missing = [n + suffix for n in _TRAIN + _TEST if not os.path.isfile(folder / (n + suffix))]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}", "unpack the archive again")
