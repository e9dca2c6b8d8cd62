"""A job that times products with the kernel in a GPU's memory, beside what the GPU can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hpcnk import store
from hpcnk.comm import FloatSums
from hpcnk.comm.world import Communicator
from hpcnk.engine.device.tiles import Panels, device_memory
from hpcnk.solve import TileOperator
from hpcnk.solve.on_device import DeviceTiles
from hpcnk.tiling import Tile
from tools.bench.systems.held import Answer, grid_of, quickest

ORDER = 8192  # of the matrices whose product gives the GEMM rate
COPIED_NUMBERS = 1 << 29  # float64: 4 GiB


def device_products(
    comm: Communicator, path: str, rows: int, columns: list[int], seconds: float
) -> Answer:
    """Time products of tiles in a GPU's memory, whole and without the copies of the vectors."""
    import cupy

    memory, file = device_memory(0), Path(path)
    layout, grid = store.read_layout(file), grid_of(file, rows)
    tiles, dtype = [grid.at(number) for number in range(grid.count)], np.dtype(layout.dtype)
    source, bare = DeviceTiles(memory, tiles, dtype), Panels(memory, tiles, dtype)
    with store.TileReader(layout) as reader:
        for tile in tiles:
            height, width = tile.shape
            entries = np.ascontiguousarray(reader.read(tile.number)[:height, :width])
            source.hold(tile, entries)
            bare.write(tile, entries)
    operator = TileOperator(FloatSums(comm), grid.n, [source])
    whole, inside = {}, {}
    for count in columns:
        v = np.random.default_rng(1).standard_normal((grid.n, count))
        whole[count] = quickest(comm, partial(operator.apply, v), seconds)
        vectors, sums = memory.upload(v), memory.zeros(v.shape)
        work = partial(bare.add_products, vectors, sums, partial(_all, count))
        inside[count] = _seconds(cupy, work, seconds)
    return {
        "n": grid.n,
        "bytes": grid.count * layout.tile_bytes,
        "device": cupy.cuda.runtime.getDeviceProperties(0)["name"].decode(),
        "rates": _rates(cupy, seconds),
        "seconds": whole,
        "inside": inside,
    }


def _all(columns: int, tile: Tile) -> int:
    return columns


def _rates(cupy: Any, seconds: float) -> dict[str, float]:
    """Measure float64 GEMM, and a copy within the device's memory: bytes read and written."""
    square = cupy.random.standard_normal((ORDER, ORDER))
    gemm = _seconds(cupy, lambda: square @ square, seconds)
    long, other = cupy.ones(COPIED_NUMBERS), cupy.empty(COPIED_NUMBERS)
    copy = _seconds(cupy, lambda: cupy.copyto(other, long), seconds)
    return {"flops_per_s": 2 * ORDER**3 / gemm, "bytes_per_s": 2 * 8 * COPIED_NUMBERS / copy}


def _seconds(cupy: Any, work: Callable[[], object], seconds: float) -> float:
    """Return the seconds of the quickest of several calls, the GPU's work included."""
    best, passed = np.inf, 0.0
    while passed < seconds:
        cupy.cuda.get_current_stream().synchronize()
        start = time.perf_counter()
        work()
        cupy.cuda.get_current_stream().synchronize()
        last = time.perf_counter() - start
        best, passed = min(best, last), passed + last
    return best
