"""The memory of the kernel phase: what one rank takes at its peak, and whether that is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np

from hpcnk.comm import agreement
from hpcnk.engine import Engine
from hpcnk.engine.precision import working_dtype
from hpcnk.engine.program import make_program
from hpcnk.errors import UsageError
from hpcnk.report import count, size
from hpcnk.run.blocks import kept_blocks
from hpcnk.run.needs.available import memory_share
from hpcnk.run.session import Session
from hpcnk.run.variances import PARTS, positions, rows_at_a_time
from hpcnk.store import read_shape
from hpcnk.store.journal import MOST_TILES
from hpcnk.store.writer import HELD
from hpcnk.tiling import CrossGrid, TriangleGrid

FLOAT64 = 8  # bytes
PINNED = 2  # blocks on their way from a GPU, in pinned memory, for each that is begun ahead
BLAS_BYTES = 3 << 20  # that matrix products of networks without pixels take, about
KEPT_BACK = 1.12  # the allocator does not give all of what is freed back to the system
VECTOR = 64  # bytes of the longest; rows of a tile that end within one are copied by the engine


@dataclass(frozen=True)
class Job:
    """What the memory depends on, beside the engine."""

    train_rows: int
    test_rows: int
    input_shape: tuple[int, ...]
    tile: int


@dataclass(frozen=True)
class KernelMemory:
    """Bytes of one rank: blocks of rows, tiles in flight, the engine's temporaries, variances.

    Variances are found before the first tile is computed.
    """

    blocks: int
    tiles: int
    workspace: int
    describing: int

    @property
    def total(self) -> int:
        """The peak."""
        return int(KEPT_BACK * (self.workspace + max(self.blocks + self.tiles, self.describing)))


def kernel_memory(engine: Engine, job: Job) -> KernelMemory:
    """Return the memory of the kernel phase on one rank."""
    plan = engine.architecture.plan(job.input_shape)
    return KernelMemory(
        blocks=_blocks(engine, job),
        tiles=_tiles(engine, job.tile),
        workspace=engine.workspace_bytes(job.input_shape) + (0 if plan.spatial else BLAS_BYTES),
        describing=_describing(engine, job),
    )


def _blocks(engine: Engine, job: Job) -> int:
    """Return the bytes of the blocks that are kept, while one of them is made."""
    row = engine.prepared_bytes(job.input_shape)
    block = min(job.tile, max(job.train_rows, job.test_rows))
    kept = min(kept_blocks(row, job.tile) * block, job.train_rows + job.test_rows)
    return kept * row + block * (_scaling(engine, job) + _turning(engine, job))


def _scaling(engine: Engine, job: Job) -> int:
    """Return the bytes of one row as it is read, and in float64 on the way to a lower precision."""
    in_float64 = FLOAT64 if working_dtype(engine.architecture, engine.dtype) != np.float64 else 0
    return prod(job.input_shape) * (engine.dtype.itemsize + in_float64)


def _turning(engine: Engine, job: Job) -> int:
    """Return the bytes of one row that are copied while vectors of rows are made of a block."""
    plan = engine.architecture.plan(job.input_shape)
    if not plan.spatial:
        return 0
    numbers = max(prod(job.input_shape), make_program(plan).factors)
    return numbers * working_dtype(engine.architecture, engine.dtype).itemsize


def _tiles(engine: Engine, tile: int) -> int:
    """Return the bytes of the tile that is computed, those that wait and are written."""
    working = working_dtype(engine.architecture, engine.dtype)
    copied = working != engine.dtype or tile * working.itemsize % VECTOR != 0
    return tile**2 * (
        (1 + HELD) * engine.dtype.itemsize + (copied + PINNED * engine.ahead) * working.itemsize
    )


def device_memory(engine: Engine, job: Job) -> int:
    """Return the GPU memory of one rank; 0 for engines that use none."""
    kept = kept_blocks(engine.prepared_bytes(job.input_shape), job.tile)
    return engine.device_bytes(job.input_shape, job.tile, kept * job.tile)


def _describing(engine: Engine, job: Job) -> int:
    """Return the bytes of the rows that are described at a time.

    Variances in float64, once more by rows, and rounded; inputs as read, and twice in float64.
    """
    features = prod(job.input_shape)
    count = positions(engine.architecture, job.input_shape)
    rows = min(rows_at_a_time(count + features), max(job.train_rows, job.test_rows))
    itemsize = engine.dtype.itemsize
    return rows * (count * (3 * FLOAT64) + features * (2 * itemsize + 3 * FLOAT64))


def require_memory(session: Session, engine: Engine) -> None:
    """Raise UsageError if the kernel phase needs more memory than this rank can have. Collective.

    Nothing large has been allocated then. A rank's share is an even one of its host's.
    """
    share, ranks = memory_share(session.comm)
    with agreement(session.comm):
        job = _job(session)
        _check_count(job)
        if share is not None:
            _check(engine, job, share, ranks)


def _job(session: Session) -> Job:
    train, test = (read_shape(session.folder.inputs, part) for part in PARTS)
    return Job(train[0], test[0], train[1:], session.deck.kernel.tile)


def there_is(share: int, ranks: int) -> str:
    """Say what memory one of so many ranks on a host can have."""
    return f"{size(share)} is there" + (f" for each of {ranks} ranks" if ranks > 1 else "")


def _check_count(job: Job) -> None:
    """Raise UsageError for more tiles than the lines of a journal can number."""
    grids = (
        TriangleGrid(job.train_rows, job.tile),
        CrossGrid(job.test_rows, job.train_rows, job.tile),
    )
    most = max(grid.count for grid in grids)
    if most > MOST_TILES:
        raise UsageError(
            f"kernel.tile {job.tile} cuts the kernel into {count(most)} tiles; journals number up "
            f"to {count(MOST_TILES)}",
            "set a larger kernel.tile: 512 to 8192 are usual",
        )


def _check(engine: Engine, job: Job, share: int, ranks: int) -> None:
    need = kernel_memory(engine, job)
    if need.total <= share:
        return
    raise UsageError(
        f"the kernel phase needs {size(need.total)} of memory a rank, and "
        f"{there_is(share, ranks)}: "
        f"{size(need.blocks)} for rows, {size(need.tiles)} for tiles of {job.tile}, "
        f"{size(need.workspace)} for {engine.threads} thread(s)",
        _advice(engine, job, need, share),
    )


def _advice(engine: Engine, job: Job, need: KernelMemory, share: int) -> str:
    """Name the largest tile that fits, the number of threads that do, or else more memory."""
    ways = []
    tile = largest(job.tile, lambda t: kernel_memory(engine, replace(job, tile=t)).total <= share)
    if tile:
        ways.append(
            f"set kernel.tile to {tile}, the largest that fits (a new `output` if it holds tiles)"
        )
    threads = _threads_that_fit(engine, need, share)
    if threads:
        ways.append(f"set OMP_NUM_THREADS to {threads}")
    ways.append("start fewer ranks on a host, or take hosts with more memory")
    return "; or ".join(ways)


def _threads_that_fit(engine: Engine, need: KernelMemory, share: int) -> int:
    """Return the largest number of threads that fit; 0 if not even one does."""
    one = need.workspace / engine.threads
    fits = (
        number
        for number in range(engine.threads, 0, -1)
        if replace(need, workspace=ceil(number * one)).total <= share
    )
    return next(fits, 0)


def largest(below: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number under `below` that fits, 0 if none does; fewer always fit too."""
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
