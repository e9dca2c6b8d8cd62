"""Checkpoints of a solve: its state in one of two files in turn, each replaced in one step.

A kill while one is written leaves the other; so does damage to the newest. Rank 0 gathers, writes
and reads for all, whole rows, so the number of ranks may change.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import broadcast, on_root, rows_from_root, rows_to_root
from hpcnk.deck import Deck
from hpcnk.errors import StorageError
from hpcnk.run.session import Session
from hpcnk.run.stored import refusal
from hpcnk.solve import Matrix, Snapshot, Spread, Systems, misfit_of_snapshot
from hpcnk.solve.conjugate_gradient import SPREAD
from hpcnk.store import differences, read_all_arrays, read_attributes, storage_errors, write_arrays

TURNS = (0, 1)
PASSES = "passes"
RANK = "rank of the preconditioner"
_LIMIT = "solve.max_iterations"  # a state goes on under another limit too
Arrays = dict[str, NDArray[Any]]


def checkpoint_blocks(deck: Deck) -> int:
    """Count the blocks of vectors, (n, systems) float64, that checkpoints take on disk at most.

    Three a file: two files in turn, and a third one while it is written; with validation rows that
    of the first solve too. A signal stores one whatever the deck says.
    """
    return 3 * (4 if deck.data.validation else 3)


class Checkpoints:
    """The two files of one solve. `origin` is what a state must have been made from.

    `rank`: that of the preconditioner which the newest state was made with, None if there is none.
    """

    def __init__(self, session: Session, which: str, origin: dict[str, str]) -> None:
        self._session = session
        self._paths = [session.folder.checkpoint(which, turn) for turn in TURNS]
        self._origin = {key: origin[key] for key in origin if key != _LIMIT}
        self._turn = 0
        self._passes, self._time = 0, time.monotonic()
        self.rank: int | None = None

    def newest(self, spread: Spread, matrices: list[Matrix]) -> Snapshot | None:
        """Return the newest sound state of such systems, with this rank's rows of what is spread;
        None if there is none. Collective.
        """
        held: list[Arrays] = []

        def find() -> tuple[int, int, int] | None:
            found = self._newest(spread.n, matrices)
            if found is None:
                return None
            *numbers, arrays = found
            held.append(arrays)
            return numbers[0], numbers[1], numbers[2]

        found = on_root(spread.comm, find)
        if found is None:
            return None
        self._turn, self._passes, self.rank = found
        return _sent_out(spread, held[0] if held else {}, len(matrices))

    def _newest(self, n: int, matrices: list[Matrix]) -> tuple[int, int, int, Arrays] | None:
        ages = {turn: self._age(turn) for turn in TURNS}
        for turn in sorted(TURNS, key=lambda turn: -ages[turn][0]):
            passes, rank = ages[turn]
            if passes < 0:
                continue
            try:
                arrays = read_all_arrays(self._paths[turn])
                self._require_fit(turn, arrays, passes, misfit_of_snapshot(arrays, n, matrices))
            except StorageError as error:
                _refuse_trouble(error)
                self._session.warn("solve", f"a checkpoint cannot be used: {error.what}")
                continue
            return 1 - turn, passes, rank, arrays
        return None

    def _require_fit(self, turn: int, arrays: Snapshot, passes: int, found: str) -> None:
        """Raise StorageError unless the arrays are a state of such systems."""
        if not found and len(arrays["history"]) != passes:
            found = f"{len(arrays['history'])} passes in its history, expected {passes}"
        if found:
            raise refusal(self._paths[turn], found)

    def _age(self, turn: int) -> tuple[int, int]:
        """Return the passes over the kernel that a state has seen, -1 if it cannot be used, and the
        rank of its preconditioner.
        """
        path = self._paths[turn]
        if not path.exists():
            return -1, 0
        try:
            stored = read_attributes(path)
        except StorageError as error:
            _refuse_trouble(error)
            self._session.warn("solve", f"a checkpoint cannot be used: {error.what}")
            return -1, 0
        changed = differences({key: stored.get(key) for key in self._origin}, self._origin)
        if changed:
            self._session.say(
                f"solve: not from the checkpoint {path.name}, for {'; '.join(changed)}"
            )
            return -1, 0
        passes, rank = (
            stored[key] if type(stored.get(key)) is int else -1 for key in (PASSES, RANK)
        )
        return (passes, rank) if rank >= 0 else (-1, 0)

    def is_due(self, systems: Systems) -> bool:
        """Return whether it is time for the next one, by this rank's clock."""
        every = self._session.deck.solve.checkpoint
        if every is None:
            return False
        if every.iterations and systems.passes - self._passes >= every.iterations:
            return True
        return time.monotonic() - self._time >= 60 * every.minutes

    def write(self, spread: Spread, systems: Systems, rank: int) -> None:
        """Store the state, in the file that holds the older one. Collective.

        That of a solve that is over needs no other beside it. `rank`: of the preconditioner. Raises
        StorageError.
        """
        path, other = self._paths[self._turn], self._paths[1 - self._turn]
        arrays = _gathered(spread, systems.snapshot())

        def write() -> None:
            self._write(path, arrays, {PASSES: systems.passes, RANK: rank})
            if not systems.left.size:
                other.unlink(missing_ok=True)

        on_root(spread.comm, write)
        self._turn = 1 - self._turn
        self._passes, self._time = systems.passes, time.monotonic()

    def _write(self, path: Path, arrays: Arrays, numbers: dict[str, int]) -> None:
        with self._session.faults.writing("solve", path):
            write_arrays(path, arrays, {**self._origin, **numbers})
        self._session.events.write("checkpoint", file=path.name, iteration=numbers[PASSES])

    def remove(self) -> None:
        """Delete both files. One rank calls this. Raises StorageError."""
        for path in self._paths:
            with storage_errors("removing", path):
                path.unlink(missing_ok=True)


def _gathered(spread: Spread, snapshot: Snapshot) -> Arrays:
    """Return the state with all rows on rank 0, with none elsewhere. Collective."""
    arrays = dict(snapshot)
    for name in SPREAD:
        whole = rows_to_root(spread.comm, snapshot[name], spread.blocks)
        arrays[name] = np.empty(0) if whole is None else whole
    return arrays


def _sent_out(spread: Spread, arrays: Arrays, columns: int) -> Snapshot:
    """Give each rank its rows of what rank 0 has read, all of what is not spread. Collective."""
    names = spread.comm.bcast(sorted(arrays), root=0)
    mine: Arrays = {}
    for name in names:
        whole = arrays.pop(name, None)
        if name in SPREAD:
            mine[name] = rows_from_root(spread.comm, whole, columns, spread.blocks)
        else:
            mine[name] = broadcast(spread.comm, whole)
    return mine


def _refuse_trouble(error: StorageError) -> None:
    """Raise an error of the system: it may pass, and is no damage for which work is given up."""
    if isinstance(error.__cause__, OSError) and error.__cause__.errno:
        raise error
