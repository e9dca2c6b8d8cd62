"""Small HDF5 files of named arrays, written whole and published by a rename."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcnk.store.files import open_hdf5, published, storage_errors


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> None:
    """Write the arrays (names may hold slashes) and attributes, replacing `path` in one step.

    One rank calls this. Raises StorageError.
    """
    with published(path) as temporary, h5py.File(temporary, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        for name, value in attributes.items():
            file.attrs[name] = value


def read_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """Return the named arrays whole. Raises StorageError if the file or one of them is missing."""
    with storage_errors("reading", path), open_hdf5(path) as file:
        return [np.asarray(file[name]) for name in names]


def read_shape(path: Path, name: str) -> tuple[int, ...]:
    """Return the shape of one array."""
    with storage_errors("reading", path), open_hdf5(path) as file:
        return tuple(file[name].shape)


def read_rows(path: Path, name: str, rows: slice) -> NDArray[Any]:
    """Return some rows of one array."""
    with storage_errors("reading", path), open_hdf5(path) as file:
        return np.asarray(file[name][rows])


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of the file."""
    with storage_errors("reading", path), open_hdf5(path) as file:
        return dict(file.attrs)


def write_text(path: Path, text: str) -> None:
    """Write a text file, replacing `path` in one step. Raises StorageError."""
    with published(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
