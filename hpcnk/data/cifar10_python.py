"""A batch of CIFAR-10's Python version: a pickled dict with `data` and `labels`.

A pickle is a program. The unpickler here admits the five names that a pickled NumPy array of
bytes needs and replaces each by a stand-in that only keeps what it is given, so that nothing of
the file's choosing runs. What it may claim of memory is bounded by its own size.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hpcnk.data.damage import damage_reported
from hpcnk.data.source import Array
from hpcnk.errors import DataError

_PIXELS = 3072
# A published batch has 31 MB, and 46 MB as Python 3 writes it.
LARGEST_BATCH = 64 * 2**20
# A published batch takes 40,000 steps to build, four for each of its rows.
MOST_STEPS = 500_000


class PythonBatch:
    """One pickled batch; read whole, when it is first needed, and kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return len(self._table)

    def records(self, start: int, stop: int) -> Array:
        """Rows start to stop - 1, (stop - start, 3073) uint8: label, then pixels."""
        return self._table[start:stop]

    @cached_property
    def _table(self) -> Array:
        content = _unpickle(self.path)
        pixels = _pixels(_entry(content, "data", self.path), self.path)
        labels = _labels(_entry(content, "labels", self.path), len(pixels), self.path)
        return np.concatenate([labels[:, np.newaxis], pixels], axis=1)


class _ArrayState:
    """Stands in for `numpy.ndarray`: takes what a pickled array consists of."""

    shape: Any = None
    dtype: Any = None
    fortran_order: Any = None
    raw: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, self.shape, self.dtype, self.fortran_order, self.raw = state


class _DtypeState:
    """Stands in for `numpy.dtype`: keeps the type's name."""

    def __init__(self, name: Any, *_flags: Any) -> None:
        self.name = name

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Byte order and alignment: nothing that a single byte has."""


_ENCODE = ("_codecs", "encode")
_RECONSTRUCT = (
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
)
_ADMITTED = {
    ("numpy", "ndarray"): _ArrayState,
    ("numpy", "dtype"): _DtypeState,
}


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, content: bytes, path: Path) -> None:
        # Python 2 wrote these files: its strings are bytes.
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._path = path
        self._bytes_left = len(content)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _ENCODE:
            return self._encode
        if (module, name) in _RECONSTRUCT:
            return lambda *_arguments: _ArrayState()  # made anew: a pickle may set its attributes
        if (module, name) not in _ADMITTED:
            raise DataError(
                f"{self._path} is a pickle that asks for {module}.{name}; "
                "only NumPy arrays are admitted",
                "do not open this file elsewhere; fetch CIFAR-10 again from its publisher",
            )
        return _ADMITTED[module, name]

    def _encode(self, text: str, encoding: str) -> bytes:
        """Undo how Python 3 writes bytes in protocol 2: as text, each character in the file."""
        self._bytes_left -= len(text)
        if encoding != "latin1" or self._bytes_left < 0:
            raise pickle.UnpicklingError("bytes that Python does not write so")
        return text.encode("latin1")


def _unpickle(path: Path) -> Any:
    """Content of the pickle. Damaged pickles may raise nearly anything, hence `Exception`."""
    with damage_reported(path, (Exception,)):
        size = path.stat().st_size
        if size > LARGEST_BATCH:
            raise DataError(
                f"{path} has {size} bytes; a CIFAR-10 batch has 31 MB, "
                f"and more than {LARGEST_BATCH} are not read",
                "the file is not one of CIFAR-10's: fetch it again",
            )
        content = path.read_bytes()
        _refuse_bombs(content)
        return _RestrictedUnpickler(content, path).load()


def _refuse_bombs(content: bytes) -> None:
    """Refuse what would take far more memory than the file has bytes.

    That is a memo slot beyond the file's size, for the unpickler makes room for all slots before,
    and a program of very many steps, each of which may make an object.
    """
    for step, (opcode, argument, position) in enumerate(pickletools.genops(content)):
        is_slot = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
        if is_slot and int(str(argument)) > len(content):
            raise pickle.UnpicklingError(f"{opcode.name} to slot {argument} at byte {position}")
        if step > MOST_STEPS:
            raise pickle.UnpicklingError(f"more than {MOST_STEPS} steps, by byte {position}")


def _entry(content: Any, name: str, path: Path) -> Any:
    if isinstance(content, dict):
        for key in (name.encode(), name):
            if key in content:
                return content[key]
    raise DataError(
        f"{path} holds no dict with the entry {name!r}", "fetch CIFAR-10's Python version again"
    )


def _pixels(array: Any, path: Path) -> Array:
    if not _is_pixel_table(array):
        raise DataError(
            f"{path}: its data is no table of bytes, {_PIXELS} a row",
            "the file is damaged or another data set's: fetch it again",
        )
    flat = np.frombuffer(array.raw, np.uint8)
    if array.fortran_order:
        return flat.reshape(_PIXELS, -1).T
    return flat.reshape(-1, _PIXELS)


def _is_pixel_table(array: Any) -> bool:
    return (
        isinstance(array, _ArrayState)
        and isinstance(array.dtype, _DtypeState)
        and array.dtype.name in ("u1", b"u1")
        and isinstance(array.raw, bytes)
        and len(array.raw) > 0
        and array.shape == (len(array.raw) // _PIXELS, _PIXELS)
        and len(array.raw) % _PIXELS == 0
    )


def _labels(labels: Any, rows: int, path: Path) -> Array:
    if not isinstance(labels, list) or len(labels) != rows:
        raise DataError(f"{path}: its labels are no list of {rows} numbers", "fetch it again")
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label <= 255:
            raise DataError(
                f"row {row} of {path} has label {_shown(label)}; CIFAR-10 has labels 0 to 9",
                "the file is damaged or another data set's: fetch it again",
            )
    return np.array(labels, np.uint8)


def _shown(label: Any) -> str:
    """Write a number; of other things their kind alone, for to write them may take for ever."""
    return f"{label!r:.50}" if type(label) in (int, float) else f"of type {type(label).__name__}"
