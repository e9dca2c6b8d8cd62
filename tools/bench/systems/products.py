"""Jobs that time products with the kernel, beside what the same ranks' processors can do."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hpcnk import store
from hpcnk.comm import FloatSums
from hpcnk.comm.world import Communicator
from hpcnk.solve import TileOperator
from hpcnk.tiling import deal
from tools.bench.systems.held import (
    MEGABYTE,
    Answer,
    from_file,
    grid_of,
    quickest,
    resident,
    together,
)

ORDER = 1536  # of the matrices whose product gives the GEMM rate
READ_BYTES = 384 * MEGABYTE  # a rank: far more than the caches hold
PIECE = 16 * MEGABYTE  # of a plain read


class Machine:
    """What the ranks' processors do at their best: float64 GEMM, and reads of memory."""

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        a = np.random.default_rng(comm.rank).standard_normal((ORDER, ORDER))
        long = np.ones(READ_BYTES // 8)
        self._gemm = partial(np.matmul, a, a, out=np.empty_like(a))
        self._read = partial(np.dot, long, long)

    def rates(self, seconds: float) -> Answer:
        """Measure all ranks at once, each rate for about so long. Collective."""
        return {
            "flops_per_s": 2 * ORDER**3 * self._comm.size / self._each(self._gemm, seconds),
            "bytes_per_s": READ_BYTES * self._comm.size / self._each(self._read, seconds),
        }

    def _each(self, work: Callable[[], object], seconds: float) -> float:
        """Return the mean seconds of one of several calls. Collective."""
        calls = math.ceil(seconds / together(self._comm, work))
        return together(self._comm, lambda: [work() for _ in range(calls)]) / calls


def products(
    comm: Communicator, path: str, rows: int, columns: list[int], seconds: float, rounds: int
) -> Answer:
    """Time products of tiles in memory, in turn with the machine's own rates. Collective.

    Other users of a machine slow both, so they are compared pair by pair, each of a pair measured
    for as long as the other.
    """
    operator, machine = resident(comm, Path(path), rows), Machine(comm)
    pairs: dict[int, list[Answer]] = {}
    for count in columns:
        work = partial(operator.apply, _block(operator, count))
        taken, passed = together(comm, work), 0.0
        pairs[count] = []
        while passed < rounds * seconds or len(pairs[count]) < rounds:
            rates = machine.rates(taken)
            taken = together(comm, work)
            passed += taken
            pairs[count].append({**rates, "seconds": taken})
    return {"n": operator.n, "bytes": _stored_bytes(Path(path), rows), "pairs": pairs}


def flops(n: int, columns: int) -> int:
    """Multiplications and additions of a product with all of the matrix."""
    return 2 * n * n * columns


def _block(operator: TileOperator, columns: int) -> np.ndarray:
    random = np.random.default_rng(1).standard_normal((operator.n, columns))
    return np.ascontiguousarray(random[operator.spread.mine])


def _stored_bytes(path: Path, rows: int) -> int:
    return grid_of(path, rows).count * store.read_layout(path).tile_bytes


def streamed(comm: Communicator, path: str, rows: int, columns: list[int], rounds: int) -> Answer:
    """Time products of tiles that come from a file that no cache holds. Collective.

    Each in turn with plain reads of the file, and the same product of tiles in memory.
    """
    file = Path(path)
    operator, held = _streamed_operator(comm, file, rows), resident(comm, file, rows)
    cold = forget(comm, file)
    turns: dict[int, list[Answer]] = {count: [] for count in columns}
    for _ in range(rounds):
        for count in columns:
            v = _block(operator, count)
            forget(comm, file)
            plain = together(comm, partial(_plain_reads, comm, file, rows))
            compute = together(comm, partial(held.apply, v))
            forget(comm, file)
            taken = together(comm, partial(operator.apply, v))
            turns[count].append({"plain": plain, "compute": compute, "seconds": taken})
    return {
        "n": operator.n,
        "bytes": _stored_bytes(file, rows),
        "cold": cold,
        "turns": turns,
    }


def _streamed_operator(comm: Communicator, path: Path, rows: int) -> TileOperator:
    grid = grid_of(path, rows)
    tiles = [grid.at(number) for number in deal(grid, comm.size, comm.rank)]
    return TileOperator(FloatSums(comm), grid.n, [from_file(path, rows, tiles)])


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
