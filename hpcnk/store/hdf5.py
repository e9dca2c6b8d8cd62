"""HDF5 files whose bytes we write ourselves.

HDF5 lays a file out, empty; the data follow as raw bytes at the data sets' offsets. So a disk that
fills is an error of our own write, while inside HDF5 it would surface when objects are destroyed,
or end the process (seen with HDF5 1.10 above the largest file size).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from hpcnk.errors import StorageError
from hpcnk.store.attributes import write_attributes
from hpcnk.store.files import storage_errors

STRIPE = 16 << 20  # bytes; large data sets start on a multiple, as parallel file systems like
_ALIGNED = 1 << 20  # bytes; from this size on
_METADATA = 64 << 10  # bytes that HDF5 itself may write

Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]


_DAMAGED = (
    "the file is damaged or was not written by hpcnk: remove it and run the stage that writes it "
    "again"
)
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# What h5py and NumPy raise on damaged bytes, beside what `storage_errors` knows.
_CAUSES = (ValueError, TypeError, AttributeError, OverflowError)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open for reading, also while a run writes to it, hence without HDF5's file lock.

    Whatever damaged bytes lead to, on opening or in the block, is raised as StorageError.
    """
    try:
        with storage_errors("reading", path):
            _require_signature(path)
            with h5py.File(path, "r", locking=False) as file:
                yield file
    except StorageError as error:
        if isinstance(error.__cause__, OSError) and not error.__cause__.errno:  # HDF5 itself
            raise StorageError(error.what, _DAMAGED) from error.__cause__
        raise
    except _CAUSES as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StorageError(f"reading {path} failed: {reason}", _DAMAGED) from error


def _require_signature(path: Path) -> None:
    """Refuse what is no HDF5 file from its first byte on, before the HDF5 library looks at it."""
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} is no regular file", "remove it, or name another folder")
    with open(path, "rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise StorageError(
                f"{path} is no HDF5 file", "remove it and run the stage that writes it again"
            )


def lay_out(path: Path, shapes: Shapes, attributes: Mapping[str, str | int]) -> dict[str, int]:
    """Create a file with empty contiguous data sets; return the offset of each in bytes.

    Data sets without entries have no offset. Raises OSError when the file system cannot hold the
    file; space for the data is not reserved.
    """
    _probe(path, shapes)
    with h5py.File(path, "w", alignment_threshold=_ALIGNED, alignment_interval=STRIPE) as file:
        for name, (shape, dtype) in shapes.items():
            _contiguous(file, name, shape, dtype)
        write_attributes(file, attributes)
        return {name: file[name].id.get_offset() for name in shapes if file[name].size}


def _probe(path: Path, shapes: Shapes) -> None:
    """Ask the file system for a file of this size, and for room for what HDF5 writes."""
    size = sum(
        int(np.prod(shape, dtype=object)) * dtype.itemsize for shape, dtype in shapes.values()
    )
    path.unlink(missing_ok=True)  # a link of this name would have us write to another place
    with open(path, "xb") as file:
        os.posix_fallocate(file.fileno(), 0, _METADATA)
        file.truncate(size + (len(shapes) + 1) * STRIPE)


def _contiguous(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Create a data set with early allocation, which only the low-level interface offers."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    h5py.h5d.create(
        file.id,
        name.encode(),
        h5py.h5t.py_create(dtype),
        h5py.h5s.create_simple(shape),
        dcpl=properties,
        lcpl=links,
    )
