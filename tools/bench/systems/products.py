"""Jobs that time products with the kernel, beside what the same ranks' processors can do."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hpcnk import store
from hpcnk.comm import FloatSums
from hpcnk.comm.world import Communicator
from hpcnk.solve import CompiledProducts, TileOperator
from hpcnk.solve.streamed import StreamedTiles
from hpcnk.tiling import deal
from tools.bench.systems.held import (
    MEGABYTE,
    THREADS,
    Answer,
    grid_of,
    quickest,
    resident,
    together,
)

ORDER = 1536  # of the matrices whose product gives the GEMM rate
READ_BYTES = 384 * MEGABYTE  # a rank: far more than the caches hold
PIECE = 16 * MEGABYTE  # of a plain read


def machine_rates(comm: Communicator, seconds: float) -> Answer:
    """Measure float64 GEMM and reads of memory, all ranks at once. Collective."""
    a = np.random.default_rng(comm.rank).standard_normal((ORDER, ORDER))
    out = np.empty_like(a)
    gemm = quickest(comm, partial(np.matmul, a, a, out=out), seconds)
    long = np.ones(READ_BYTES // 8)
    read = quickest(comm, partial(np.dot, long, long), seconds)
    return {
        "flops_per_s": 2 * ORDER**3 * comm.size / gemm,
        "bytes_per_s": READ_BYTES * comm.size / read,
    }


def products(
    comm: Communicator, path: str, rows: int, columns: list[int], seconds: float, rounds: int
) -> Answer:
    """Time products of tiles in memory, in turn with the machine's own rates. Collective."""
    operator = resident(comm, Path(path), rows)
    blocks = {c: _block(operator, c) for c in columns}
    machine, times = [], dict.fromkeys(columns, np.inf)
    for _ in range(rounds):
        machine.append(machine_rates(comm, seconds / 2))
        for count, v in blocks.items():
            last = quickest(comm, partial(operator.apply, v), seconds)
            times[count] = min(times[count], last)
    return {
        "n": operator.n,
        "bytes": _stored_bytes(Path(path), rows),
        "flops": {c: flops(operator.n, c) for c in columns},
        "machine": {key: max(one[key] for one in machine) for key in machine[0]},
        "seconds": times,
    }


def flops(n: int, columns: int) -> int:
    """Multiplications and additions of a product with all of the matrix."""
    return 2 * n * n * columns


def _block(operator: TileOperator, columns: int) -> np.ndarray:
    random = np.random.default_rng(1).standard_normal((operator.n, columns))
    return np.ascontiguousarray(random[operator.spread.mine])


def _stored_bytes(path: Path, rows: int) -> int:
    return grid_of(path, rows).count * store.read_layout(path).tile_bytes


def streamed(comm: Communicator, path: str, rows: int, columns: list[int], rounds: int) -> Answer:
    """Time products of tiles that come from a file that no cache holds. Collective."""
    file, times, plain = Path(path), dict.fromkeys(columns, np.inf), np.inf
    operator = _streamed_operator(comm, file, rows)
    cold = forget(comm, file)
    for _ in range(rounds):
        forget(comm, file)
        plain = min(plain, together(comm, partial(_plain_reads, comm, file, rows)))
        for count in columns:
            v = _block(operator, count)
            forget(comm, file)
            times[count] = min(times[count], together(comm, partial(operator.apply, v)))
    return {
        "n": operator.n,
        "bytes": _stored_bytes(file, rows),
        "cold": cold,
        "plain_seconds": plain,
        "seconds": times,
    }


def _streamed_operator(comm: Communicator, path: Path, rows: int) -> TileOperator:
    layout, grid = store.read_layout(path), grid_of(path, rows)
    reader = store.TileReader(layout)
    tiles = [grid.at(number) for number in deal(grid, comm.size, comm.rank)]
    source = StreamedTiles(
        tiles, reader.fill, grid.tile, np.dtype(layout.dtype), CompiledProducts(THREADS)
    )
    return TileOperator(FloatSums(comm), grid.n, [source])


def forget(comm: Communicator, path: Path) -> str:
    """Drop a file from the system's cache; say how. Collective."""
    how = ""
    if comm.rank == 0:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        how = "posix_fadvise"
        switch = Path("/proc/sys/vm/drop_caches")
        if os.access(switch, os.W_OK):
            switch.write_text("1\n")
            how += " and drop_caches"
    return comm.bcast(how, root=0)


def _plain_reads(comm: Communicator, path: Path, rows: int) -> None:
    """Read this rank's share of the tiles' bytes in large pieces, in order."""
    layout, total = store.read_layout(path), _stored_bytes(path, rows)
    start, stop = (total * part // comm.size for part in (comm.rank, comm.rank + 1))
    buffer = memoryview(bytearray(PIECE))
    with open(path, "rb", buffering=0) as file:
        for place in range(start, stop, PIECE):
            left = min(PIECE, stop - place)
            os.preadv(file.fileno(), [buffer[:left]], layout.tiles_offset + place)


def scaling(
    comm: Communicator, path: str, rows: int, columns: int, seconds: float, rounds: int
) -> Answer:
    """Time the product on 1, 2, 4, ... ranks, in turn; the others wait. Collective."""
    counts = [2**k for k in range(comm.size.bit_length()) if 2**k <= comm.size]
    groups = {count: comm.Split(int(comm.rank >= count), comm.rank) for count in counts}
    times: dict[int, float] = {}
    operators: dict[int, Any] = {}
    for count, group in groups.items():
        if comm.rank < count:
            operators[count] = resident(group, Path(path), rows)
    for _ in range(rounds):
        for count in counts:
            best = np.inf
            if comm.rank < count:
                work = partial(operators[count].apply, _block(operators[count], columns))
                best = quickest(groups[count], work, seconds)
            best = comm.bcast(best, root=0)
            times[count] = min(times.get(count, np.inf), best)
    return {"seconds": times, "n": grid_of(Path(path), rows).n}
