"""HDF5 files of named arrays with checksums, written whole and published by a rename."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import StorageError
from hpcnk.store.files import checksum, published, raw, storage_errors, write_at
from hpcnk.store.hdf5 import lay_out, open_hdf5

_SUM = "crc32 of "  # and the array's name: an attribute of the file


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> None:
    """Write the arrays (names may hold slashes) and attributes, replacing `path` in one step.

    One rank calls this. Raises StorageError.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    shapes = {name: (array.shape, array.dtype) for name, array in whole.items()}
    sums = {_SUM + name: checksum(array) for name, array in whole.items()}
    with published(path) as temporary:
        offsets = lay_out(temporary, shapes, {**attributes, **sums})
        with open(temporary, "r+b") as file:
            for name, offset in offsets.items():
                write_at(file.fileno(), raw(whole[name]), offset)


def read_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """Return the named arrays whole.

    Raises StorageError if the file or one of them is missing, or is not what was written.
    """
    with storage_errors("reading", path), open_hdf5(path) as file:
        return [_intact(path, file, name) for name in names]


def check_arrays(path: Path) -> None:
    """Read all arrays. Raises StorageError naming the first that is not what was written."""
    with storage_errors("reading", path), open_hdf5(path) as file:
        for key in file.attrs:
            if key.startswith(_SUM):
                _intact(path, file, key.removeprefix(_SUM))


def _intact(path: Path, file: h5py.File, name: str) -> NDArray[Any]:
    array = np.ascontiguousarray(file[name])
    if checksum(array) != file.attrs[_SUM + name]:
        raise StorageError(
            f"{name} in {path} is damaged: its checksum differs from the one taken when it was "
            "written",
            "remove the file and run the stage that writes it again; have the disk checked",
        )
    return array


def read_shape(path: Path, name: str) -> tuple[int, ...]:
    """Return the shape of one array."""
    with storage_errors("reading", path), open_hdf5(path) as file:
        return tuple(file[name].shape)


def read_rows(path: Path, name: str, rows: slice) -> NDArray[Any]:
    """Return some rows of one array."""
    with storage_errors("reading", path), open_hdf5(path) as file:
        return np.asarray(file[name][rows])


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of the file, the checksums of its arrays apart."""
    with storage_errors("reading", path), open_hdf5(path) as file:
        return {key: value for key, value in file.attrs.items() if not key.startswith(_SUM)}


def write_text(path: Path, text: str) -> None:
    """Write a text file, replacing `path` in one step. Raises StorageError."""
    with published(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
