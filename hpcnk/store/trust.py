"""What we accept of an HDF5 file, for it may come from a stranger.

Our own files hold plain numbers, each data set in one piece inside the file. Anything else is
refused before its values are looked at: links to other places, values in other files, types that
HDF5 or NumPy would have to interpret, and sizes that the file does not have. Sparse files are as
good as others: sizes are those that the file system states, not blocks in use.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcnk.errors import StorageError

_LONGEST_NAME = 200  # characters, in a message


def own_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Return a data set once it is seen to lie in this file, in one piece, as plain numbers.

    Raises StorageError naming what it is instead.
    """
    dataset = _linked(path, file, name)
    if not isinstance(dataset, h5py.Dataset):
        raise refusal(path, f"{name} is no data set")
    _require_own_bytes(path, name, dataset)
    _require_plain_numbers(path, name, dataset)
    _require_within(path, name, dataset)
    return dataset


def own_offset(
    path: Path, file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype
) -> int:
    """Return where the bytes of a data set of this shape and type begin; 0 if it has none.

    Raises StorageError if it is another one.
    """
    dataset = own_dataset(path, file, name)
    if dataset.shape != shape or dataset.dtype != dtype:
        raise refusal(
            path,
            f"{name} is of type {dataset.dtype} and shape {dataset.shape}, "
            f"expected {dtype} and {shape}",
        )
    return int(dataset.id.get_offset() or 0)


def own_group(path: Path, file: h5py.File, name: str) -> h5py.Group:
    """Return a group that lies in this file. Raises StorageError."""
    group = _linked(path, file, name)
    if not isinstance(group, h5py.Group):
        raise refusal(path, f"{name} is no group")
    return group


def refusal(path: Path, what: str) -> StorageError:
    """Return the error that says why a file is not one of ours."""
    return StorageError(
        f"reading {path} failed: {what}",
        "the file is damaged or was not written by hpcnk: remove it and run the stage that "
        "writes it again",
    )


def _linked(path: Path, file: h5py.File, name: str) -> Any:
    """Follow a name through hard links alone, which cannot lead out of the file."""
    place: Any = file
    for step in name.split("/"):
        if not isinstance(place, h5py.Group) or not place.id.links.exists(step.encode()):
            raise refusal(path, f"{name[:_LONGEST_NAME]!a} is missing")
        if place.id.links.get_info(step.encode()).type != h5py.h5l.TYPE_HARD:
            raise refusal(path, f"{name} is a link to another place")
        place = place[step]
    return place


def _require_own_bytes(path: Path, name: str, dataset: h5py.Dataset) -> None:
    made = dataset.id.get_create_plist()
    if made.get_layout() != h5py.h5d.CONTIGUOUS or made.get_nfilters():
        raise refusal(path, f"the values of {name} do not lie in one piece")
    if made.get_external_count():
        raise refusal(path, f"the values of {name} lie in another file")


def _require_plain_numbers(path: Path, name: str, dataset: h5py.Dataset) -> None:
    """Accept integers and reals that are in the file as they are in memory."""
    stored = dataset.id.get_type()
    plain = stored.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
    if not plain or dataset.dtype.itemsize > 8 or h5py.h5t.py_create(dataset.dtype) != stored:
        raise refusal(path, f"the values of {name} are no plain numbers of this machine")


def _require_within(path: Path, name: str, dataset: h5py.Dataset) -> None:
    """Refuse a shape that the file has no room for, before anything is allocated for it."""
    shape, size = dataset.shape, os.stat(path).st_size
    if shape is None or max(shape, default=0) > size:
        raise refusal(path, f"{name} has shape {shape}, in a file of {size} bytes")
    wanted = math.prod(shape) * dataset.dtype.itemsize
    if not wanted:
        return
    offset = dataset.id.get_offset()
    if offset is None or offset + wanted > size:
        raise refusal(
            path,
            f"{name}, of shape {shape}, takes {wanted} bytes from byte {offset} on; "
            f"the file has {size}",
        )
