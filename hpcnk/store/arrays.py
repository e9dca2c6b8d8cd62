"""Small HDF5 files of named arrays, written whole and published by a rename."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.store.files import published, raw, storage_errors, write_at
from hpcnk.store.hdf5 import lay_out, open_hdf5


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> None:
    """Write the arrays (names may hold slashes) and attributes, replacing `path` in one step.

    One rank calls this. Raises StorageError.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    shapes = {name: (array.shape, array.dtype) for name, array in whole.items()}
    with published(path) as temporary:
        offsets = lay_out(temporary, shapes, attributes)
        with open(temporary, "r+b") as file:
            for name, offset in offsets.items():
                write_at(file.fileno(), raw(whole[name]), offset)


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
