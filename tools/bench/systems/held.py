"""What the jobs of the benchmark have in common: a rank's tiles, clocks over ranks, memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from hpcnk import store
from hpcnk.comm import FloatSums
from hpcnk.comm.world import Communicator
from hpcnk.solve import CompiledProducts, ResidentTiles, TileOperator, TileSource
from hpcnk.solve.merged import MergedTiles
from hpcnk.solve.streamed import StreamedTiles
from hpcnk.tiling import Tile, TriangleGrid, deal

THREADS = 1  # of a rank
MEGABYTE = 1 << 20


def grid_of(path: Path, rows: int) -> TriangleGrid:
    """Return the grid of the leading rows, whose tiles have the same numbers in the file."""
    stored = store.read_layout(path).grid
    assert isinstance(stored, TriangleGrid)
    return TriangleGrid(min(rows, stored.n), stored.tile)


def resident(comm: Communicator, path: Path, rows: int, share: float = 1.0) -> TileOperator:
    """Return the kernel of the leading rows with this rank's tiles in memory. Collective.

    `share`: of the tiles that are held; the others, spread evenly among these, are read past the
    system's cache in each pass.
    """
    grid, products = grid_of(path, rows), CompiledProducts(THREADS)
    tiles = [grid.at(number) for number in deal(grid, comm.size, comm.rank)]
    stay = [int(share * (k + 1)) > int(share * k) for k in range(len(tiles))]
    held, copies = [], store.Copies()
    with store.TileReader(store.read_layout(path)) as reader:
        for tile in compress(tiles, stay):
            height, width = tile.shape
            held.append((tile, copies.add(reader.read(tile.number)[:height, :width])))
    source: TileSource = ResidentTiles(held, products)
    if not all(stay):
        others = [tile for tile, stays in zip(tiles, stay, strict=True) if not stays]
        source = MergedTiles([source, from_file(path, rows, others)], products, lambda: True)
    return TileOperator(FloatSums(comm), grid.n, [source])


def from_file(path: Path, rows: int, tiles: list[Tile]) -> StreamedTiles:
    """Return the tiles as a source that reads them past the system's cache in each pass."""
    layout = store.read_layout(path)
    reader = store.TileReader(layout, direct=True)
    side = grid_of(path, rows).tile
    return StreamedTiles(
        tiles, reader.fill, side, np.dtype(layout.dtype), CompiledProducts(THREADS)
    )


def together(comm: Communicator, work: Callable[[], object]) -> float:
    """Let all ranks work at once; return the seconds until the last one is done. Collective."""
    comm.Barrier()
    start = time.perf_counter()
    work()
    return max(comm.allgather(time.perf_counter() - start))


def quickest(comm: Communicator, work: Callable[[], object], seconds: float) -> float:
    """Return the seconds of the quickest of several calls, for about so long. Collective."""
    best, passed = np.inf, 0.0
    while passed < seconds:
        last = together(comm, work)
        best, passed = min(best, last), passed + last
    return best


def peak_megabytes(comm: Communicator) -> float:
    """Return the ranks' largest resident memories so far, added up. Collective."""
    return float(sum(comm.allgather(process_peak())))


def process_peak() -> float:
    """Return this process's largest resident memory so far, in MB."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


Answer = dict[str, Any]
