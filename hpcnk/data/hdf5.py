"""The arrays of an HDF5 file, read only if they lie in that file, whole.

Damage is refused as far as the HDF5 library survives it: damaged metadata of a chunked dataset
can, rarely, end the process inside old versions (seen once in some 10,000 random changes to a
tiny file, with HDF5 1.10.8), which nothing in Python can catch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcnk.data.damage import damage_reported
from hpcnk.data.layout import NAMES, StoredArray, refuse_missing
from hpcnk.data.source import Array, RowNumbers, gather
from hpcnk.errors import DataError

# What h5py raises on damaged files and on what NumPy has no type for.
_CAUSES: tuple[type[Exception], ...] = (
    OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError,
    MemoryError,
)  # fmt: skip
# No filter that keeps numbers apart shrinks them more than deflate can: 258 bytes in 2 bits.
_LARGEST_RATIO = 1032


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


def open_hdf5(path: Path) -> Mapping[str, StoredArray]:
    """Return the four arrays of a file. Raises DataError for what is missing or damaged."""
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
    ratio, needed = _claimed(dataset)
    if stored > size or needed > ratio * stored or _chunks_lacking(dataset):
        raise DataError(
            f"{path}: {dataset.name} should have {needed} bytes, shape {dataset.shape}; "
            f"{stored} are stored, in a file of {size}",
            "the file is damaged or was not written to its end: write it again",
        )


def _claimed(dataset: h5py.Dataset) -> tuple[int, int]:
    """Return how far the stored bytes may have been shrunk, and how many they should make.

    In Python's integers: h5py's own product of the lengths can overflow, and be small.
    """
    itemsize = dataset.dtype.itemsize
    if dataset.chunks is None:
        return 1, math.prod(dataset.shape or ()) * itemsize
    # Stored chunks are whole. HDF5 1.10 believes their shape, whatever they unpack to.
    return _LARGEST_RATIO, _chunk_count(dataset) * math.prod(dataset.chunks) * itemsize


def _chunks_lacking(dataset: h5py.Dataset) -> bool:
    """Whether chunks are missing, or reach beyond an array that cannot grow."""
    if dataset.chunks is None:
        return False
    axes = zip(dataset.shape, dataset.chunks, dataset.maxshape, strict=True)
    beyond = any(chunk > length == most for length, chunk, most in axes)
    return beyond or dataset.id.get_num_chunks() < _chunk_count(dataset)


def _chunk_count(dataset: h5py.Dataset) -> int:
    lengths = zip(dataset.shape, dataset.chunks, strict=True)
    return math.prod(-(-length // chunk) for length, chunk in lengths)
