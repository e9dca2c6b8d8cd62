"""What the jobs of the benchmark have in common: a rank's tiles, clocks over ranks, memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hpcnk import store
from hpcnk.comm import FloatSums
from hpcnk.comm.world import Communicator
from hpcnk.solve import CompiledProducts, ResidentTiles, TileOperator
from hpcnk.tiling import TriangleGrid, deal

THREADS = 1  # of a rank
MEGABYTE = 1 << 20


def grid_of(path: Path, rows: int) -> TriangleGrid:
    """Return the grid of the leading rows, whose tiles have the same numbers in the file."""
    stored = store.read_layout(path).grid
    assert isinstance(stored, TriangleGrid)
    return TriangleGrid(min(rows, stored.n), stored.tile)


def resident(comm: Communicator, path: Path, rows: int) -> TileOperator:
    """Return the kernel of the leading rows with this rank's tiles in memory. Collective."""
    grid, held = grid_of(path, rows), []
    with store.TileReader(store.read_layout(path)) as reader:
        for number in deal(grid, comm.size, comm.rank):
            tile = grid.at(number)
            height, width = tile.shape
            held.append((tile, np.ascontiguousarray(reader.read(number)[:height, :width])))
    source = ResidentTiles(held, CompiledProducts(THREADS))
    return TileOperator(FloatSums(comm), grid.n, [source])


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
