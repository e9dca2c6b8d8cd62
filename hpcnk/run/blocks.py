"""Blocks of rows made ready for the engine, the last few of them kept."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from typing import Any

from hpcnk.engine import Engine
from hpcnk.errors import DataError
from hpcnk.store import read_rows

KEPT = 4  # a rank walks down a block column, so one side of its tiles stays the same for long


class Blocks:
    """Rows of one array of the inputs file, prepared block by block."""

    def __init__(self, engine: Engine, path: Path, name: str) -> None:
        self._engine, self._path, self._name = engine, path, name
        self._prepared = lru_cache(maxsize=KEPT)(self._prepare)

    def at(self, rows: slice) -> Any:
        """Return the prepared rows."""
        return self._prepared(rows.start, rows.stop)

    def _prepare(self, start: int, stop: int) -> Any:
        rows = read_rows(self._path, self._name, slice(start, stop))
        try:
            return self._engine.prepare(rows)
        except DataError as error:
            where = f"{self._name}, counted from its row {start}"
            raise DataError(f"{error.what} ({where})", error.advice) from error
