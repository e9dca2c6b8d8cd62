"""Committing tiles: bytes, fsync, journal, fsync; and the final mark."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, Queue
from threading import Thread
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hpcnk.store.drivers import DRIVERS, Driver
from hpcnk.store.files import checksum, raw, storage_errors, write_at
from hpcnk.store.journal import Journal
from hpcnk.store.layout import Layout
from hpcnk.store.own import open_own

COMMIT_SECONDS = 1.0  # tiles finished within this time share one pair of fsyncs
WAITING = 1  # tiles that may wait while one is written and the next is computed
HELD = WAITING + 1  # tiles that a writer keeps in memory, at most

_Task: TypeAlias = Callable[[], None] | None  # None ends the thread
Wrap: TypeAlias = Callable[[Driver, Layout], Driver]


class TileWriter:
    """What one rank uses to add tiles to a file. Collective to make and to close.

    A thread writes while the next tile is computed. The mpio driver's writes are calls of MPI,
    which only the main thread may make: there they are done in `put`, and the thread does all that
    takes long on a disk, checksums and syncs. A tile is durable at the latest `COMMIT_SECONDS`
    after it was written, or when the writer is closed. What goes wrong in the thread is raised by
    the next call: StorageError when the disk fails. `wrap` may put a driver of its own in front of
    the real one.
    """

    def __init__(
        self, layout: Layout, driver: str, comm: Any, wrap: Wrap = lambda driver, layout: driver
    ) -> None:
        self._layout = layout
        self._pending: list[tuple[int, int]] = []
        with storage_errors("opening", layout.path):
            self._journal = Journal(layout, comm.rank)
            self._driver: Driver = wrap(DRIVERS[driver](layout, comm), layout)
        self._alone = comm.size == 1
        self._committed_at = time.monotonic()
        self._failure: BaseException | None = None
        self._tasks: Queue[_Task] = Queue(WAITING)
        self._thread = Thread(target=self._work, name="hpcnk-writer", daemon=True)
        self._thread.start()

    def put(self, number: int, block: NDArray[Any]) -> None:
        """Take one computed block of at most (tile, tile) entries to be stored, zero-padded.

        Waits while another one is waiting already. The block must not be changed afterwards.
        """
        self._raise_failure()
        tile = _padded(block, self._layout.grid.tile, self._layout.dtype)
        if not self._driver.any_thread:
            with storage_errors("writing", self._layout.path):
                self._driver.write(number, tile)
        self._tasks.put(partial(self._store, number, tile))

    def commit(self) -> None:
        """Make everything put so far durable."""
        self._tasks.put(self._commit)
        self._tasks.join()
        self._raise_failure()

    def close(self) -> None:
        """Commit and close. Collective under mpio."""
        self.commit()
        self._end_thread()
        self._journal.close()
        self._driver.close()

    def __enter__(self) -> TileWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close. After an error only a rank that is alone closes; others are about to be aborted.

        HDF5 must not find an open file when the interpreter ends, and closing is collective.
        """
        if kind is not None:
            self._give_up()
            return
        try:
            self.close()
        except BaseException:
            self._give_up()
            raise

    def _give_up(self) -> None:
        if self._alone:
            self._end_thread()  # first, for it uses the driver's file
            with suppress(OSError, RuntimeError):
                self._driver.close()

    def _work(self) -> None:
        """Do tasks until None. After a failure they are dropped, so that nobody waits for ever."""
        while True:
            try:
                task = self._tasks.get(timeout=COMMIT_SECONDS)
            except Empty:
                self._guarded(self._commit)  # the next tile may take hours
                continue
            if task is None:
                return
            self._guarded(task)
            del task  # or its tile stays in memory until the next one comes
            self._tasks.task_done()

    def _guarded(self, task: Callable[[], None]) -> None:
        """Keep the first failure for the main thread, whatever it is."""
        if self._failure is None:
            try:
                task()
            except BaseException as failure:
                self._failure = failure

    def _store(self, number: int, tile: NDArray[Any]) -> None:
        with storage_errors("writing", self._layout.path):
            if self._driver.any_thread:
                self._driver.write(number, tile)
            self._pending.append((number, checksum(tile)))
        if time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self._commit()

    def _commit(self) -> None:
        """Sync what is pending. The order is the protocol: data, then journal."""
        with storage_errors("writing", self._layout.path):
            if self._pending:
                self._driver.sync()
                self._journal.append(self._pending)
            self._pending = []
        self._committed_at = time.monotonic()

    def _end_thread(self) -> None:
        self._tasks.put(None)
        self._thread.join()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def write_tile_bytes(layout: Layout, number: int, tile: NDArray[Any]) -> None:
    """Write the first rows of a tile, or all, as raw bytes, and make them durable."""
    with open(open_own(layout.path, os.O_RDWR), "r+b") as file:
        write_at(file.fileno(), raw(tile), layout.tiles_offset + number * layout.tile_bytes)
        os.fsync(file.fileno())


def tile_checksum(layout: Layout, block: NDArray[Any]) -> int:
    """Return the checksum that a block would have once it is stored."""
    return checksum(_padded(block, layout.grid.tile, layout.dtype))


def replace_tile(layout: Layout, number: int, block: NDArray[Any]) -> None:
    """Put a tile in the place of a damaged one in a complete file. One rank calls this.

    First the bytes, then the checksum: after a kill in between the tile counts as damaged, as
    before. Raises StorageError.
    """
    tile = _padded(block, layout.grid.tile, layout.dtype)
    with storage_errors("writing", layout.path):
        write_tile_bytes(layout, number, tile)
        with open(open_own(layout.path, os.O_RDWR), "r+b") as file:
            entry = np.array([checksum(tile)], "<u4")
            write_at(file.fileno(), raw(entry), layout.checksums_offset + number * entry.itemsize)
            os.fsync(file.fileno())


def mark_complete(layout: Layout, checksums: NDArray[np.uint32]) -> None:
    """Fill in the checksums of all tiles, then the byte that says complete. One rank calls this.

    Both are raw writes into data sets that exist, so no kill can hurt the file's metadata.
    """
    with storage_errors("completing", layout.path):
        handle = open_own(layout.path, os.O_RDWR)
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
