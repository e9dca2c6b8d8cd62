"""Whether the arrays that a checkpoint gave can be a state of these systems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.solve.conjugate_gradient import NO_STATUS, Snapshot, Status

_VECTORS = ("x", "r", "p")  # (n, columns)
_NUMBERS = ("rz", "relative", "checked")  # (columns,)
_COUNTS = ("gainless", "iterations", "checking", "status")
_LISTS = ("left", "history")  # of any length
_MOST_COUNT = 1 << 53


def misfit_of_snapshot(snapshot: Snapshot, n: int, columns: int) -> str:
    """Say why a snapshot is none of `columns` systems with n rows; empty if it may be."""
    names = {*_VECTORS, *_NUMBERS, *_COUNTS, *_LISTS}
    if snapshot.keys() != names:
        return f"it holds {sorted(snapshot)!a:.200}"
    for name, array in snapshot.items():
        expected = _shape(name, n, columns, array)
        if array.shape != expected or array.dtype != _dtype(name):
            return f"{name} is {array.dtype} of shape {array.shape}, expected {expected}"
    bad = [name for name, good in _SOUND.items() if not good(snapshot[name])]
    if bad:
        return f"{bad[0]} holds a value that is impossible"
    return _misfit_of_columns(snapshot, columns)


def _shape(name: str, n: int, columns: int, array: NDArray[Any]) -> tuple[int, ...]:
    if name in _VECTORS:
        return (n, columns)
    return (array.size,) if name in _LISTS else (columns,)


def _dtype(name: str) -> np.dtype:
    if name == "checking":
        return np.dtype(np.uint8)
    return np.dtype(np.int64 if name in (*_COUNTS, "left") else np.float64)


def _within(low: float, high: float) -> Callable[[NDArray[Any]], bool]:
    return lambda array: bool(((array >= low) & (array <= high)).all())


def _finite(array: NDArray[Any]) -> bool:
    return bool(np.isfinite(array).all())


_SOUND: dict[str, Callable[[NDArray[Any]], bool]] = {
    **{name: _finite for name in (*_VECTORS, "rz")},
    **{name: _within(0, np.inf) for name in ("relative", "checked", "history")},
    **{name: _within(0, _MOST_COUNT) for name in ("gainless", "iterations")},
    "checking": _within(0, 1),
    "status": _within(NO_STATUS, len(Status) - 1),
}


def _misfit_of_columns(snapshot: Snapshot, columns: int) -> str:
    """A column is left, or it has ended, and then has a status."""
    left = snapshot["left"]
    if not np.array_equal(left, np.unique(left)) or not _within(0, columns - 1)(left):
        return f"left lists {left.tolist()!a:.100}, of {columns} columns"
    ended = np.delete(snapshot["status"], left)
    return "a column has ended without a status" if (ended == NO_STATUS).any() else ""
