"""Whether the arrays that a checkpoint gave can be a state of these systems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.solve.conjugate_gradient import NO_GROUP, NO_STATUS, SPREAD, Snapshot
from hpcnk.solve.matrices import Matrix
from hpcnk.solve.problem import Status

_NUMBERS = ("relative", "checked")  # (columns,)
_COUNTS = ("gainless", "iterations", "status", "group", "width")
_LISTS = ("left", "checking", "history")  # of any length
NAMES = frozenset({*SPREAD, "weights", *_NUMBERS, *_COUNTS, *_LISTS})
_MOST_COUNT = 1 << 53


def misfit_of_snapshot(snapshot: Snapshot, n: int, matrices: list[Matrix]) -> str:
    """Say why a snapshot, with all n rows, is none of systems with these matrices; empty if it may
    be.
    """
    if snapshot.keys() != NAMES:
        return f"it holds {sorted(snapshot)!a:.200}"
    columns = len(matrices)
    for name, array in snapshot.items():
        expected = _shape(name, n, columns, array)
        if array.shape != expected or array.dtype != _dtype(name):
            return f"{name} is {array.dtype} of shape {array.shape}, expected {expected}"
    bad = [name for name, good in _sound(columns).items() if not good(snapshot[name])]
    if bad:
        return f"{bad[0]} holds a value that is impossible"
    return _misfit_of_columns(snapshot, columns) or _misfit_of_groups(snapshot, matrices)


def _shape(name: str, n: int, columns: int, array: NDArray[Any]) -> tuple[int, ...]:
    if name in SPREAD:
        return (n, columns)
    if name == "weights":
        return (columns, columns)
    return (array.size,) if name in _LISTS else (columns,)


def _dtype(name: str) -> np.dtype:
    return np.dtype(np.int64 if name in (*_COUNTS, "left", "checking") else np.float64)


def _within(low: float, high: float) -> Callable[[NDArray[Any]], bool]:
    return lambda array: bool(((array >= low) & (array <= high)).all())


def _finite(array: NDArray[Any]) -> bool:
    return bool(np.isfinite(array).all())


def _sound(columns: int) -> Mapping[str, Callable[[NDArray[Any]], bool]]:
    return {
        **{name: _finite for name in (*SPREAD, "weights")},
        **{name: _within(0, np.inf) for name in ("relative", "checked", "history")},
        **{name: _within(0, _MOST_COUNT) for name in ("gainless", "iterations")},
        "status": _within(NO_STATUS, len(Status) - 1),
        "group": _within(NO_GROUP, columns - 1),
        "width": _within(0, columns),
    }


def _misfit_of_columns(snapshot: Snapshot, columns: int) -> str:
    """A column is left, without a status or found indefinite, or it has ended and has one."""
    left = snapshot["left"]
    if not np.array_equal(left, np.unique(left)) or not _within(0, columns - 1)(left):
        return f"left lists {left.tolist()!a:.100}, of {columns} columns"
    going = (NO_STATUS, list(Status).index(Status.INDEFINITE))
    if not np.isin(snapshot["status"][left], going).all():
        return "a column that is left has the status of one that has ended"
    ended = np.delete(snapshot["status"], left)
    return "a column has ended without a status" if (ended == NO_STATUS).any() else ""


def _misfit_of_groups(snapshot: Snapshot, matrices: list[Matrix]) -> str:
    """A column that is left is in one group, whose columns have one matrix, or is checked.

    A group has a column that is left, and all of those are checked or none.
    """
    group, width, checking = snapshot["group"], snapshot["width"], snapshot["checking"]
    left = snapshot["left"]
    alone = left[group[left] == NO_GROUP]
    if len(np.unique(checking)) < checking.size or not np.isin(checking, left).all():
        return "columns are checked that are not left"
    if not np.isin(alone, checking).all():
        return "the columns that are left are not those searched for and checked"
    for number in range(group.max(initial=NO_GROUP) + 1):
        columns = np.flatnonzero(group == number)
        if not columns.size or len({matrices[column] for column in columns}) > 1:
            return f"group {number} is none of one matrix"
        checked = np.isin(columns[np.isin(columns, left)], checking)
        if not checked.size or checked.any() != checked.all():
            return f"group {number} has ended, or is both searched for and checked"
        if (width[columns] != width[columns[0]]).any() or width[columns[0]] > columns.size:
            return f"group {number} has directions that do not fit"
    return ""
