"""What a job will need, from the deck and the data set's shape alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hpcnk.data import Description
from hpcnk.deck import Deck
from hpcnk.engine import Engine, asked_threads, device_problem, make_engine, usable_cores
from hpcnk.engine.precision import working_dtype
from hpcnk.kernels import parse
from hpcnk.run.checkpoint import checkpoint_blocks
from hpcnk.run.needs.kernel_memory import FLOAT64, Job, KernelMemory, device_memory, kernel_memory
from hpcnk.run.needs.prepare_memory import PrepareMemory, prepare_memory
from hpcnk.run.needs.solve_memory import SPARE, SolveJob, SolveMemory, solve_job, solve_memory
from hpcnk.run.plan.cost import PairCost, pair_cost, unmeasured_layers
from hpcnk.run.problem import training_sizes
from hpcnk.run.variances import positions
from hpcnk.store import variances_bytes
from hpcnk.tiling import CrossGrid, Grid, TriangleGrid

INTERPRETER = 200 << 20  # bytes of a rank before it has read anything
FILES = 12  # beside journals: tiles, rows, results, checkpoints, reports, the lock


@dataclass(frozen=True)
class Place:
    """Where a job will run. Its hosts are taken to have as many cores as this one.

    `host_memory`: bytes of a host; None is unknown, and taken for enough.
    """

    ranks: int = 1
    hosts: int = 1
    host_memory: int | None = None

    @property
    def ranks_on_host(self) -> int:
        """Ranks of the host with the most."""
        return -(-self.ranks // self.hosts)

    @property
    def threads(self) -> int:
        """Threads of a rank, as the run will settle them."""
        return asked_threads() or max(1, len(usable_cores()) // self.ranks_on_host)


@dataclass(frozen=True)
class Plan:
    """Sizes in bytes and counts; `*_per_rank` are of the rank with the most.

    `pair_cost` is None where the speed of the kernel is not known here; `no_rate` says why.
    `vector_rows`: rows of vectors that are a rank's own. `tiles_in_memory`: tiles that stay there
    between passes, in `memory_for_tiles` (None: as much as they take); the others are
    `tiles_outside`, streamed or recomputed. `solve_least`: what the solve cannot do without, of
    `solve_limit`, the deck's `solve.memory` (None: not set). `factorised`: the rows of each matrix
    that rank 0 factorises in a solve, with `solve.method: dense`.
    """

    train_rows: int
    test_rows: int
    tile: int
    entry_bytes: int
    tiles: int
    test_tiles: int
    tiles_per_rank: int
    test_tiles_per_rank: int
    pairs: int
    pairs_per_rank: int
    tile_pairs: int
    operations_per_pair: float
    pair_cost: PairCost | None
    no_rate: str
    engine_dtype: str
    disk_kernel: int
    disk_test_kernel: int
    disk_inputs: int
    disk_variances: int
    disk_results: int
    disk_checkpoints: int
    prepare: PrepareMemory
    kernel_memory_per_rank: KernelMemory
    device_memory_per_rank: int
    device_is_absent: bool
    solve: SolveMemory
    vector_rows: int
    tiles_in_memory: int
    tiles_outside: str
    memory_for_tiles: int | None
    solve_least: int
    solve_limit: int | None
    systems: int
    solves: int
    max_iterations: int
    reproducible: bool
    factorised: tuple[int, ...]

    @property
    def prepare_memory(self) -> int:
        """Bytes that rank 0 takes to read and prepare the data."""
        return self.prepare.total

    @property
    def solve_memory_per_rank(self) -> int:
        """Bytes that a rank takes in the solve, with the tiles that stay in memory."""
        return self.solve.least + self.tiles_in_memory * self.tile_bytes

    @property
    def streamed_per_pass(self) -> int:
        """Bytes that a rank reads in each pass over the kernel."""
        streamed = self.tiles_per_rank - self.tiles_in_memory
        return streamed * self.tile_bytes if self.tiles_outside == "streamed" else 0

    @property
    def disk(self) -> int:
        """Bytes of all files together."""
        return (
            self.disk_kernel
            + self.disk_test_kernel
            + self.disk_inputs
            + self.disk_variances
            + self.disk_results
            + self.disk_checkpoints
        )

    @property
    def tile_bytes(self) -> int:
        """Bytes of one stored tile."""
        return self.tile**2 * self.entry_bytes

    @property
    def written_per_rank(self) -> int:
        """Bytes of tiles that a rank writes."""
        return (self.tiles_per_rank + self.test_tiles_per_rank) * self.tile_bytes

    @property
    def loaded_per_rank(self) -> int:
        """Bytes of tiles that a rank reads and checks once, before the solve."""
        return self.tiles_per_rank * self.tile_bytes

    @property
    def gathered_per_pass(self) -> int:
        """Bytes of the whole block of vectors, which every rank gets before each pass."""
        return self.train_rows * self.systems * FLOAT64

    @property
    def reduced_per_pass(self) -> int:
        """Bytes that every rank gives to the sum over ranks after each pass over the kernel."""
        limbs = 2 if self.reproducible else 1
        return limbs * self.train_rows * self.systems * FLOAT64


def plan(deck: Deck, data: Description, place: Place) -> Plan:
    """Return what the job needs at this place. Needs neither MPI nor the kernel.

    Raises BackendError for a back end that is not there.
    """
    n, m, tile = data.train_rows, data.test_rows, deck.kernel.tile
    triangle, cross = TriangleGrid(n, tile), CrossGrid(m, n, tile)
    entry = np.dtype(deck.kernel.dtype).itemsize
    features = int(np.prod(data.input_shape))
    ranks = place.ranks
    share = _share(deck, place)
    solve = solve_job(deck, n, data.outputs, ranks, share)
    systems, memory = solve.systems, solve_memory(solve)
    room = None if share is None else max(0, int(SPARE * (share - memory.least)))
    engine, job = _engine(deck, place.threads), Job(n, m, data.input_shape, tile)
    absent = deck.kernel.backend == "gpu" and engine.backend != "gpu"
    no_rate = _no_rate(engine, data.input_shape, absent)
    layers_plan = engine.architecture.plan(data.input_shape)
    return Plan(
        train_rows=n,
        test_rows=m,
        tile=tile,
        entry_bytes=entry,
        tiles=triangle.count,
        test_tiles=cross.count,
        tiles_per_rank=-(-triangle.count // ranks),
        test_tiles_per_rank=-(-cross.count // ranks),
        pairs=triangle.pairs + cross.pairs,
        pairs_per_rank=_most_pairs(triangle, ranks) + _most_pairs(cross, ranks),
        tile_pairs=min(tile, n) * min(tile, max(n, m)),
        operations_per_pair=engine.architecture.operations(data.input_shape),
        pair_cost=None if no_rate else pair_cost(layers_plan),
        no_rate=no_rate,
        engine_dtype=working_dtype(engine.architecture, engine.dtype).name,
        disk_kernel=triangle.count * tile**2 * entry,
        disk_test_kernel=cross.count * tile**2 * entry,
        disk_inputs=(n + m) * (features * entry + 2 * data.outputs * FLOAT64),
        disk_variances=_variances(engine, data),
        disk_results=(n + m) * systems * FLOAT64,
        disk_checkpoints=checkpoint_blocks(deck) * n * systems * FLOAT64,
        prepare=prepare_memory(deck, data),
        kernel_memory_per_rank=kernel_memory(engine, job),
        device_memory_per_rank=device_memory(engine, job),
        device_is_absent=absent,
        solve=memory,
        vector_rows=solve.rows,
        tiles_in_memory=_tiles_in_memory(deck, solve, room),
        tiles_outside="recomputed" if deck.solve.operator == "recomputed" else "streamed",
        memory_for_tiles=room,
        solve_least=memory.total if deck.solve.operator == "resident" else memory.least,
        solve_limit=_limit(deck),
        systems=systems,
        solves=2 if deck.data.validation else 1,
        max_iterations=deck.solve.max_iterations,
        reproducible=deck.solve.reproducible,
        factorised=_factorised(deck, n),
    )


def _factorised(deck: Deck, n: int) -> tuple[int, ...]:
    if deck.solve.method != "dense":
        return ()
    return tuple(size for size in training_sizes(deck, n) for _ in deck.solve.ridge)


def _share(deck: Deck, place: Place) -> int | None:
    """Return the bytes that a rank has for the solve, None if unknown."""
    host, limit = place.host_memory, _limit(deck)
    known = [] if host is None else [host // place.ranks_on_host - INTERPRETER]
    known += [] if limit is None else [limit]
    return max(0, min(known)) if known else None


def _limit(deck: Deck) -> int | None:
    """Return the bytes that the deck grants a rank in the solve, None if it leaves that open."""
    return None if deck.solve.memory is None else int(deck.solve.memory * 1e9)


def _tiles_in_memory(deck: Deck, job: SolveJob, room: int | None) -> int:
    """Return how many of a rank's tiles stay in memory, of the host or its GPU."""
    if deck.solve.operator in ("streamed", "recomputed"):
        return 0
    if room is None or deck.solve.operator in ("resident", "gpu"):
        return job.held
    return min(job.held, room // job.tile_bytes)


def resized(data: Description, train: int | None, test: int | None) -> Description:
    """Return the data set with other numbers of rows, as if it had them; None keeps a number."""
    rows = train or data.train_rows
    return replace(
        data,
        train_rows=rows,
        test_rows=test or data.test_rows,
        fit_rows=max(data.fit_rows, rows) if data.fit_rows else 0,
    )


def _engine(deck: Deck, threads: int) -> Engine:
    """Make the engine that the job will have; a GPU that is not here counts as the CPU."""
    kernel = deck.kernel
    absent = kernel.backend == "gpu" and device_problem()
    backend = "cpu" if absent else kernel.backend
    return make_engine(parse(kernel.layers), kernel.kind, kernel.dtype, backend, threads)


def _no_rate(engine: Engine, input_shape: tuple[int, ...], absent: bool) -> str:
    """Say why nobody can tell how fast the kernel is computed; empty where it is known."""
    if absent or engine.backend == "gpu":
        return "no GPU rate is known to plans"
    if engine.backend != "cpu":
        return f"no rate of the back end {engine.backend} has been measured"
    unknown = unmeasured_layers(engine.architecture.plan(input_shape))
    return f"no rate of {' and '.join(unknown)} has been measured" if unknown else ""


def _most_pairs(grid: Grid, ranks: int) -> int:
    """Bound the pairs of the first rank, which has the most: full tiles, then diagonal ones."""
    tiles = -(-grid.count // ranks)
    diagonal = grid.blocks if isinstance(grid, TriangleGrid) else 0
    full = -(-(grid.count - diagonal) // ranks)
    height = min(grid.tile, grid.m if isinstance(grid, CrossGrid) else grid.n)
    width = min(grid.tile, grid.n)
    halves = (tiles - full) * (height * (height + 1) // 2)
    return min(grid.pairs, full * height * width + halves)


def _variances(engine: Engine, data: Description) -> int:
    """Disk of variances.h5."""
    count = positions(engine.architecture, data.input_shape)
    itemsize = working_dtype(engine.architecture, engine.dtype).itemsize
    return sum(variances_bytes(n, count, itemsize) for n in (data.train_rows, data.test_rows))
