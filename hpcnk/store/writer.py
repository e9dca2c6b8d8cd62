"""Committing tiles: bytes, fsync, journal, fsync; and the final mark."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.store.drivers import DRIVERS, Driver
from hpcnk.store.files import checksum, raw, storage_errors, write_at
from hpcnk.store.journal import Journal
from hpcnk.store.layout import Layout

COMMIT_SECONDS = 1.0  # tiles finished within this time share one pair of fsyncs


class TileWriter:
    """What one rank uses to add tiles to a file. Collective to make and to close.

    A tile is durable after the commit that follows it: at the latest `COMMIT_SECONDS` after the
    one before, or when the writer is closed. Raises StorageError when the disk fails.
    """

    def __init__(self, layout: Layout, driver: str, comm: Any) -> None:
        self._layout = layout
        self._pending: list[tuple[int, int]] = []
        with storage_errors("opening", layout.path):
            self._journal = Journal(layout, comm.rank)
            self._driver: Driver = DRIVERS[driver](layout, comm)
        self._alone = comm.size == 1
        self._committed_at = time.monotonic()

    def put(self, number: int, block: NDArray[Any]) -> None:
        """Store one computed block of at most (tile, tile) entries, padded with zeros."""
        tile = _padded(block, self._layout.grid.tile, self._layout.dtype)
        with storage_errors("writing", self._layout.path):
            self._driver.write(number, tile)
            self._pending.append((number, checksum(tile)))
            if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
                self.commit()

    def commit(self) -> None:
        """Make everything put so far durable. The order is the protocol: data, then journal."""
        with storage_errors("writing", self._layout.path):
            if self._pending:
                self._driver.sync()
                self._journal.append(self._pending)
            self._pending = []
        self._committed_at = time.monotonic()

    def close(self) -> None:
        """Commit and close. Collective under mpio."""
        self.commit()
        self._journal.close()
        self._driver.close()

    def __enter__(self) -> TileWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close. After an error only a rank that is alone closes; others are about to be aborted.

        HDF5 must not find an open file when the interpreter ends, and closing is collective.
        """
        if kind is None:
            self.close()
        elif self._alone:
            with suppress(OSError, RuntimeError):
                self._driver.close()


def mark_complete(layout: Layout, checksums: NDArray[np.uint32]) -> None:
    """Fill in the checksums of all tiles, then the byte that says complete. One rank calls this.

    Both are raw writes into data sets that exist, so no kill can hurt the file's metadata.
    """
    with storage_errors("completing", layout.path):
        handle = os.open(layout.path, os.O_RDWR)
        try:
            write_at(
                handle,
                raw(np.ascontiguousarray(checksums, "<u4")),
                layout.checksums_offset,
            )
            os.fsync(handle)
            write_at(handle, memoryview(b"\x01"), layout.complete_offset)
            os.fsync(handle)
        finally:
            os.close(handle)


def _padded(block: NDArray[Any], tile: int, dtype: np.dtype) -> NDArray[Any]:
    if block.shape == (tile, tile):
        return np.ascontiguousarray(block, dtype)
    padded = np.zeros((tile, tile), dtype)
    padded[: block.shape[0], : block.shape[1]] = block
    return padded
