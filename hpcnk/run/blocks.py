"""Blocks of rows made ready for the engine, the last few of them kept, the next ones made ahead."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hpcnk.engine import Described, Engine
from hpcnk.errors import DataError
from hpcnk.store import read_rows

LEAST = 4  # both sides of the tile that is computed, and both of the next one
KEPT_BYTES = 64 << 20  # as many more as this holds: making a small block anew is not worth it

Known = Callable[[str, slice], Described]


def kept_blocks(row_bytes: int, rows: int) -> int:
    """Return how many blocks of so many rows are kept."""
    return max(LEAST, KEPT_BYTES // max(1, row_bytes * rows))


class Blocks:
    """Rows of the arrays in the inputs file, prepared block by block by a thread of its own.

    `kept`: blocks in memory at most. `known` gives what was found of the rows before; without it
    the engine finds that out anew. What goes wrong in the thread is raised by `at`: DataError,
    StorageError.
    """

    def __init__(
        self, engine: Engine, inputs: Path, kept: int = LEAST, known: Known | None = None
    ) -> None:
        self._engine, self._inputs, self._known = engine, inputs, known
        self._most = kept
        self._kept: OrderedDict[tuple[str, int, int], Future[Any]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hpcnk-blocks")

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread, after the block that it is at; let go of all blocks."""
        self._thread.shutdown(cancel_futures=True)
        self._kept.clear()

    def at(self, name: str, rows: slice) -> Any:
        """Return the prepared rows."""
        return self._begin(name, rows).result()

    def ahead(self, name: str, rows: slice) -> None:
        """Begin to prepare rows that will be asked for next."""
        self._begin(name, rows)

    def _begin(self, name: str, rows: slice) -> Future[Any]:
        key = (name, rows.start, rows.stop)
        block = self._kept.get(key)
        if block is None:
            while len(self._kept) >= self._most:
                self._kept.popitem(last=False)
            block = self._kept[key] = self._thread.submit(self._prepare, name, rows)
        self._kept.move_to_end(key)
        return block

    def _prepare(self, name: str, rows: slice) -> Any:
        x = read_rows(self._inputs, name, rows)
        known = self._known(name, rows) if self._known else None
        try:
            return self._engine.prepare(x, known)
        except DataError as error:
            raise placed(error, name, rows.start) from error


def placed(error: DataError, name: str, start: int) -> DataError:
    """Say where in the data set the rows stand that the error counts from 0."""
    where = f"{name}, counted from its row {start}"
    return DataError(f"{error.what} ({where})", error.advice)
