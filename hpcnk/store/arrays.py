"""HDF5 files of named arrays with checksums, written whole and published by a rename.

<name>       any shape  integers or reals
attributes              format, checksums and facts (JSON: the CRC-32 of each array; anything)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import StorageError
from hpcnk.store.attributes import read_text, require_format
from hpcnk.store.documents import parse_provenance
from hpcnk.store.files import checksum, published, raw, write_at
from hpcnk.store.hdf5 import lay_out, open_hdf5
from hpcnk.store.trust import own_dataset, refusal

FORMAT = "hpcnk arrays 2"


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> None:
    """Write the arrays (names may hold slashes) and attributes, replacing `path` in one step.

    The attributes are what JSON holds. One rank calls this. Raises StorageError.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    shapes = {name: (array.shape, array.dtype) for name, array in whole.items()}
    texts = {
        "format": FORMAT,
        "checksums": json.dumps({name: checksum(array) for name, array in whole.items()}),
        "facts": json.dumps(dict(attributes)),
    }
    with published(path) as temporary:
        offsets = lay_out(temporary, shapes, texts)
        with open(temporary, "r+b") as file:
            for name, offset in offsets.items():
                write_at(file.fileno(), raw(whole[name]), offset)


def read_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """Return the named arrays whole.

    Raises StorageError if the file or one of them is missing, or is not what was written.
    """
    with open_hdf5(path) as file:
        sums = _checksums(path, file)
        return [_intact(path, file, name, sums) for name in names]


def read_all_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of a file by their names. Raises StorageError as `read_arrays`."""
    with open_hdf5(path) as file:
        sums = _checksums(path, file)
        return {name: _intact(path, file, name, sums) for name in sums}


def check_arrays(path: Path) -> None:
    """Read all arrays. Raises StorageError naming the first that is not what was written."""
    with open_hdf5(path) as file:
        sums = _checksums(path, file)
        for name in sums:
            _intact(path, file, name, sums)


def _checksums(path: Path, file: h5py.File) -> dict[str, Any]:
    """Return the checksum of each array that the file should have."""
    advice = "remove the file and run the stage that writes it again"
    require_format(path, file, "file of arrays", FORMAT, advice)
    return parse_provenance(path, read_text(path, file, "checksums"))


def _intact(path: Path, file: h5py.File, name: str, sums: Mapping[str, Any]) -> NDArray[Any]:
    dataset = own_dataset(path, file, name)
    if name not in sums:
        raise refusal(path, f"{name} has no checksum")
    array = np.ascontiguousarray(dataset[()])
    if checksum(array) != sums[name]:
        raise StorageError(
            f"{name} in {path} is damaged: its checksum differs from the one taken when it was "
            "written",
            "remove the file and run the stage that writes it again; have the disk checked",
        )
    return array


def read_shape(path: Path, name: str) -> tuple[int, ...]:
    """Return the shape of one array."""
    with open_hdf5(path) as file:
        return tuple(own_dataset(path, file, name).shape)


def read_forms(path: Path, *names: str) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Return shape and type of arrays. Raises StorageError."""
    with open_hdf5(path) as file:
        found = (own_dataset(path, file, name) for name in names)
        return [(tuple(dataset.shape), dataset.dtype) for dataset in found]


def read_rows(path: Path, name: str, rows: slice) -> NDArray[Any]:
    """Return some rows of one array."""
    with open_hdf5(path) as file:
        return np.asarray(own_dataset(path, file, name)[rows])


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes that the arrays were written with. Raises StorageError."""
    with open_hdf5(path) as file:
        _checksums(path, file)
        return parse_provenance(path, read_text(path, file, "facts"))


def write_text(path: Path, text: str) -> None:
    """Write a text file, replacing `path` in one step. Raises StorageError."""
    with published(path) as temporary:
        temporary.unlink(missing_ok=True)  # a link of this name would have us write elsewhere
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
