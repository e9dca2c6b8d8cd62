"""Attributes of an HDF5 file: text of fixed length, and single integers.

Not the text of variable length that h5py writes by itself: that lies in HDF5's global heap, and a
few changed bytes there end the process or keep it busy for ever (seen with HDF5 1.10.8), which
nothing in Python can catch. It is refused unread.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcnk.errors import StorageError
from hpcnk.store.trust import refusal

PIECE = 60_000  # bytes; an attribute holds 64 kB
_MOST_PIECES = 1000


def write_attributes(file: h5py.File, attributes: Mapping[str, str | int]) -> None:
    """Write texts and integers; a long text is cut into pieces, `name`, `name +1`, `name +2`."""
    for name, value in attributes.items():
        if not isinstance(value, str):
            file.attrs[name] = value
            continue
        content = value.encode()
        for number, start in enumerate(range(0, max(1, len(content)), PIECE)):
            piece = content[start : start + PIECE]
            form = h5py.string_dtype("utf-8", max(1, len(piece)))
            file.attrs.create(_piece(name, number), np.array(piece, form))


def read_text(path: Path, file: h5py.File, name: str) -> str:
    """Return an attribute that is printable text. Raises StorageError."""
    pieces: list[bytes] = []
    while len(pieces) < _MOST_PIECES and _present(file, _piece(name, len(pieces))):
        pieces.append(_value(path, file, _piece(name, len(pieces)), h5py.h5t.STRING))
    try:
        text = b"".join(pieces).decode()
    except UnicodeDecodeError:
        text = "\0"
    if not pieces or not text.isprintable():
        raise refusal(path, f"its attribute {name!r} is no printable text")
    return text


def read_count(path: Path, file: h5py.File, name: str) -> int:
    """Return an attribute that is an integer of at least 0. Raises StorageError."""
    value = int(_value(path, file, name, h5py.h5t.INTEGER)) if _present(file, name) else -1
    if value < 0:
        raise refusal(path, f"its attribute {name!r} is no count")
    return value


def require_format(path: Path, file: h5py.File, kind: str, expected: str, advice: str) -> None:
    """Raise StorageError unless the file says that it is of this format."""
    found = read_text(path, file, "format") if _present(file, "format") else None
    if found != expected:
        raise StorageError(
            f"{path} is no {kind}: expected the format {expected!r}, found {found!r:.80}", advice
        )


def _piece(name: str, number: int) -> str:
    return f"{name} +{number}" if number else name


def _present(file: h5py.File, name: str) -> bool:
    return bool(h5py.h5a.exists(file.id, name.encode()))


def _value(path: Path, file: h5py.File, name: str, wanted: int) -> Any:
    """Return a single value of this class, whose size the header bounds."""
    attribute = h5py.h5a.open(file.id, name.encode())
    stored = attribute.get_type()
    is_text = wanted == h5py.h5t.STRING
    if (
        attribute.shape != ()
        or stored.get_class() != wanted
        or (is_text and stored.is_variable_str())
        or attribute.get_storage_size() > (PIECE if is_text else 8)
    ):
        raise refusal(path, f"its attribute {name!r} is not as hpcnk writes it")
    value = np.empty((), attribute.dtype)
    attribute.read(value)
    return value[()]
