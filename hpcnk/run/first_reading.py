"""The reading of all tiles before the first pass: each is checked, and repaired if need be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import agreement
from hpcnk.errors import StorageError
from hpcnk.run.repair import repair
from hpcnk.run.session import Session
from hpcnk.solve.operator import largest_of
from hpcnk.solve.streamed import read_ahead, tiles_ahead
from hpcnk.store import Layout, TileReader
from hpcnk.tiling import Tile

Take = Callable[[Tile, NDArray[Any]], None]


def read_all(
    session: Session, layout: Layout, contents: dict[str, Any], mine: list[int], take: Take
) -> float:
    """Read this rank's tiles, give each to `take`; return the seconds that one took. Collective.

    Tiles that are damaged are made anew. `take` must copy what it keeps. Raises StorageError for a
    tile that cannot be repaired, or holds what is no number; Stopped.
    """
    start, missing = time.perf_counter(), mine
    seconds = 0.0
    for again in (False, True):
        with agreement(session.comm), TileReader(layout) as reader:
            missing = list(_damaged(session, reader, missing, take))
        seconds = seconds or (time.perf_counter() - start) / max(1, len(mine))
        session.stop.raise_if_requested(session.comm)
        if not repair(session, layout, contents, missing, again):
            break
    return seconds


def _damaged(session: Session, reader: TileReader, numbers: list[int], take: Take) -> Iterator[int]:
    """Take the tiles that are intact, give the numbers of the others; a signal ends it early."""
    layout = reader.layout
    side = layout.grid.tile
    ahead = tiles_ahead(layout.tile_bytes)
    count = min(ahead + 1, len(numbers))
    ring = [np.empty((side, side), layout.dtype) for _ in range(count)]
    wanted = _to_read(session, layout, numbers)
    with closing(read_ahead(wanted, reader.fill, lambda k: ring[k % count], ahead)) as reading:
        for number, stored, intact in reading:
            session.watchdog.beat()
            tile = layout.grid.at(number)
            if intact:
                entries = stored[: tile.shape[0], : tile.shape[1]]
                _require_finite(layout, number, entries)
                take(tile, entries)
            else:
                yield number


def _require_finite(layout: Layout, number: int, entries: NDArray[Any]) -> None:
    if not np.isfinite(largest_of(entries)):
        raise StorageError(
            f"tile {number} of {layout.path} holds a value that is not finite, though its checksum "
            "is right: it was written so",
            "remove the file and start the same command again; if it comes back, check "
            "kernel.layers (w_std, b_std) and the scale of the data",
        )


def _to_read(session: Session, layout: Layout, numbers: list[int]) -> Iterator[int]:
    for number in numbers:
        if session.stop.requested:
            return
        session.faults.flip("solve", layout, number)
        yield number
