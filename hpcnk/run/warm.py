"""Starting a solve from an earlier solution of the same kernel and labels, at other ridges."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import on_root, rows_from_root
from hpcnk.errors import StorageError
from hpcnk.run.problem import Columns, Setting
from hpcnk.run.session import Session
from hpcnk.run.stored import read_solution
from hpcnk.solve import Spread
from hpcnk.store import read_attributes

Array = NDArray[np.float64]
_SAME = ("kernel file", "contents of the training data")


def earlier_solution(
    session: Session, spread: Spread, columns: Columns, origin: dict[str, str]
) -> Array | None:
    """Return this rank's rows of the solutions at the ridges nearest to those asked for now.

    None if there are none, or if the deck wants the same bits whatever was solved before.
    Collective.
    """
    if session.deck.solve.reproducible:
        return None
    held: list[Array] = []

    def find() -> bool:
        found = _find(session, columns, origin)
        held.extend([] if found is None else [found])
        return found is not None

    if not on_root(session.comm, find):
        return None
    session.say("solve: starting from the earlier solution at the nearest ridges")
    whole = held[0] if held else None
    return rows_from_root(session.comm, whole, len(columns.matrices), spread.blocks)


def _find(session: Session, columns: Columns, origin: dict[str, str]) -> Array | None:
    path = session.folder.solution
    if not path.exists():
        return None
    try:
        stored = read_attributes(path)
        if any(stored.get(key) != origin[key] for key in _SAME):
            return None
        alpha, results = read_solution(path, session.folder.inputs)
    except StorageError:  # told of where it was looked for first
        return None
    return _nearest(alpha, _settings(results), columns)


def _settings(results: dict[str, Any]) -> list[Setting]:
    return [Setting(entry["rows"], entry["ridge"]) for entry in results["solve"]]


def _nearest(alpha: Array, known: list[Setting], columns: Columns) -> Array:
    """Return (n, columns): for each setting the nearest ridge of its size, else zeros."""
    guess = np.zeros((alpha.shape[1], len(columns.matrices)))
    for number, setting in enumerate(columns.settings):
        here = [i for i, other in enumerate(known) if other.rows == setting.rows]
        if here:
            best = min(here, key=lambda i: _distance(known[i].ridge, setting.ridge))
            guess[:, columns.of(number)] = alpha[best]
    return guess


def _distance(one: float, other: float) -> float:
    tiny = np.finfo(float).tiny
    return float(abs(np.log(max(one, tiny)) - np.log(max(other, tiny))))
