"""Checkpoints of a solve: its state in one of two files in turn, each replaced in one step.

A kill while one is written leaves the other; so does damage to the newest. All ranks hold the same
vectors, so rank 0 writes and reads for all, and the number of ranks may change.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hpcnk.comm import broadcast, on_root
from hpcnk.deck import Deck
from hpcnk.errors import StorageError
from hpcnk.run.session import Session
from hpcnk.run.stored import refusal
from hpcnk.solve import Snapshot, Systems, misfit_of_snapshot
from hpcnk.store import read_all_arrays, read_attributes, storage_errors, write_arrays

TURNS = (0, 1)
PASSES = "passes"


def checkpoint_blocks(deck: Deck) -> int:
    """Count the blocks of vectors, (n, systems) float64, that checkpoints take on disk at most.

    Three a file: two files in turn, and a third one while it is written; with validation rows that
    of the first solve too. A signal stores one whatever the deck says.
    """
    return 3 * (4 if deck.data.validation else 3)


class Checkpoints:
    """The two files of one solve. `origin` is what a state must have been made from."""

    def __init__(self, session: Session, which: str, origin: dict[str, str]) -> None:
        self._session = session
        self._paths = [session.folder.checkpoint(which, turn) for turn in TURNS]
        self._origin = origin
        self._turn = 0
        self._passes, self._time = 0, time.monotonic()

    def newest(self, rows: int, systems: int) -> Snapshot | None:
        """Return the newest sound state of such systems, None if there is none. Collective."""
        comm = self._session.comm
        arrays: dict[str, NDArray[Any]] = {}

        def find() -> tuple[int, int, list[str]] | None:
            found = self._newest(rows, systems)
            if found is None:
                return None
            turn, passes, stored = found
            arrays.update(stored)
            return turn, passes, sorted(stored)

        found = on_root(comm, find)
        if found is None:
            return None
        self._turn, self._passes, names = found
        return {name: broadcast(comm, arrays.get(name)) for name in names}

    def _newest(self, rows: int, systems: int) -> tuple[int, int, dict[str, NDArray[Any]]] | None:
        ages = {turn: self._age(turn) for turn in TURNS}
        for turn in sorted(TURNS, key=lambda turn: -ages[turn]):
            if ages[turn] < 0:
                continue
            try:
                arrays = read_all_arrays(self._paths[turn])
                self._require_fit(turn, arrays, ages[turn], (rows, systems))
            except StorageError as error:
                _refuse_trouble(error)
                self._session.warn("solve", f"a checkpoint cannot be used: {error.what}")
                continue
            return 1 - turn, ages[turn], arrays
        return None

    def _require_fit(
        self, turn: int, arrays: Snapshot, passes: int, shape: tuple[int, int]
    ) -> None:
        """Raise StorageError unless the arrays are a state of such systems."""
        found = misfit_of_snapshot(arrays, *shape)
        if not found and len(arrays["history"]) != passes:
            found = f"{len(arrays['history'])} passes in its history, expected {passes}"
        if found:
            raise refusal(self._paths[turn], found)

    def _age(self, turn: int) -> int:
        """Return the passes over the kernel that a state has seen, -1 if it cannot be used."""
        path = self._paths[turn]
        if not path.exists():
            return -1
        try:
            stored = read_attributes(path)
        except StorageError as error:
            _refuse_trouble(error)
            self._session.warn("solve", f"a checkpoint cannot be used: {error.what}")
            return -1
        fits = all(stored.get(key) == value for key, value in self._origin.items())
        passes = stored.get(PASSES)
        return passes if fits and type(passes) is int else -1

    def is_due(self, systems: Systems) -> bool:
        """Return whether it is time for the next one, by this rank's clock."""
        every = self._session.deck.solve.checkpoint
        if every is None:
            return False
        if every.iterations and systems.passes - self._passes >= every.iterations:
            return True
        return time.monotonic() - self._time >= 60 * every.minutes

    def write(self, systems: Systems) -> None:
        """Store the state, in the file that holds the older one. Collective.

        That of a solve that is over needs no other beside it. Raises StorageError.
        """
        path, other = self._paths[self._turn], self._paths[1 - self._turn]

        def write() -> None:
            self._write(path, systems)
            if not systems.left.size:
                other.unlink(missing_ok=True)

        on_root(self._session.comm, write)
        self._turn = 1 - self._turn
        self._passes, self._time = systems.passes, time.monotonic()

    def _write(self, path: Path, systems: Systems) -> None:
        attributes = {**self._origin, PASSES: systems.passes}
        with self._session.faults.writing("solve", path):
            write_arrays(path, systems.snapshot(), attributes)
        self._session.events.write("checkpoint", file=path.name, iteration=systems.passes)

    def remove(self) -> None:
        """Delete both files. One rank calls this. Raises StorageError."""
        for path in self._paths:
            with storage_errors("removing", path):
                path.unlink(missing_ok=True)


def _refuse_trouble(error: StorageError) -> None:
    """Raise an error of the system: it may pass, and is no damage for which work is given up."""
    if isinstance(error.__cause__, OSError) and error.__cause__.errno:
        raise error
