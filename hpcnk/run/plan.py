"""What a job will need, from the deck and the data set's shape alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcnk.data import Description
from hpcnk.deck import Deck
from hpcnk.engine import Engine, asked_threads, device_problem, make_engine, usable_cores
from hpcnk.engine.precision import working_dtype
from hpcnk.kernels import parse
from hpcnk.report import count, size
from hpcnk.run.memory import Job, KernelMemory, device_memory, kernel_memory
from hpcnk.run.variances import positions
from hpcnk.solve.operator import STRIP_BYTES
from hpcnk.store import variances_bytes
from hpcnk.tiling import CrossGrid, TriangleGrid, deal

FLOAT64 = 8  # bytes
WHITENING_SQUARES = 6  # covariance, eigenvectors, LAPACK's work space, the matrix: at once
CG_VECTORS = 8  # blocks of (n, systems) float64 alive at once in conjugate gradients, at most


@dataclass(frozen=True)
class Place:
    """Where a job will run. Its hosts are taken to have as many cores as this one."""

    ranks: int = 1
    hosts: int = 1

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
    """Sizes in bytes and counts; `*_per_rank` are of the rank with the most."""

    train_rows: int
    test_rows: int
    tile: int
    tiles: int
    test_tiles: int
    tiles_per_rank: int
    pairs: int
    operations_per_pair: float
    disk_kernel: int
    disk_test_kernel: int
    disk_inputs: int
    disk_variances: int
    disk_results: int
    prepare_memory: int
    kernel_memory_per_rank: KernelMemory
    device_memory_per_rank: int
    device_is_absent: bool
    solve_memory_per_rank: int
    systems: int


def plan(deck: Deck, data: Description, place: Place) -> Plan:
    """Return what the job needs at this place. Needs neither MPI nor the kernel.

    Raises BackendError for a back end that is not there.
    """
    n, m, tile = data.train_rows, data.test_rows, deck.kernel.tile
    triangle, cross = TriangleGrid(n, tile), CrossGrid(m, n, tile)
    entry = np.dtype(deck.kernel.dtype).itemsize
    features = int(np.prod(data.input_shape))
    ranks = place.ranks
    most = -(-triangle.count // ranks)
    systems = data.outputs * len(deck.solve.ridge)
    engine, job = _engine(deck, place.threads), Job(n, m, data.input_shape, tile)
    return Plan(
        train_rows=n,
        test_rows=m,
        tile=tile,
        tiles=triangle.count,
        test_tiles=cross.count,
        tiles_per_rank=most,
        pairs=triangle.pairs + cross.pairs,
        operations_per_pair=parse(deck.kernel.layers).operations(data.input_shape),
        disk_kernel=triangle.count * tile**2 * entry,
        disk_test_kernel=cross.count * tile**2 * entry,
        disk_inputs=(n + m) * (features * entry + 2 * data.outputs * FLOAT64),
        disk_variances=_variances(engine, data),
        disk_results=(n + m) * systems * FLOAT64,
        prepare_memory=_prepare_memory(deck, n + m, features) + data.fit_rows * features * FLOAT64,
        kernel_memory_per_rank=kernel_memory(engine, job),
        device_memory_per_rank=device_memory(engine, job),
        device_is_absent=deck.kernel.backend == "gpu" and engine.backend != "gpu",
        solve_memory_per_rank=_held_bytes(triangle, ranks, entry)
        + _vectors(deck, n, systems, ranks),
        systems=systems,
    )


def describe_plan(plan: Plan, place: Place) -> str:
    """Return the plan as text for people."""
    flops = plan.pairs * plan.operations_per_pair
    return "\n".join(
        [
            f"rows             {plan.train_rows} training, {plan.test_rows} test",
            f"tiles            {plan.tiles} of {plan.tile} x {plan.tile} in kernel.h5, "
            f"{plan.test_tiles} in test_kernel.h5",
            f"tiles a rank     at most {plan.tiles_per_rank} on {place.ranks} rank(s)",
            f"pairs            {count(plan.pairs)}",
            f"operations       {count(plan.operations_per_pair)} a pair (covariance entries times "
            f"layers), {count(flops)} in all",
            f"disk             {size(plan.disk_kernel)} kernel.h5, "
            f"{size(plan.disk_test_kernel)} test_kernel.h5, {size(plan.disk_inputs)} inputs.h5, "
            f"{size(plan.disk_variances)} variances.h5, "
            f"{size(plan.disk_results)} solution.h5 and predictions.h5",
            *_memory_lines(plan, place),
            f"systems          {plan.systems} (outputs x ridges), one block",
        ]
    )


def _memory_lines(plan: Plan, place: Place) -> list[str]:
    kernel, solve = plan.kernel_memory_per_rank, plan.solve_memory_per_rank
    ranks, threads = place.ranks_on_host, place.threads
    host = max(ranks * max(kernel.total, solve), plan.prepare_memory)
    lines = [
        f"memory           {size(plan.prepare_memory)} on rank 0 to read and prepare the data",
        f"memory a rank    {size(kernel.total)} in the kernel phase ({size(kernel.blocks)} for "
        f"rows, {size(kernel.tiles)} for tiles, {size(kernel.workspace)} for {threads} thread(s)), "
        f"{size(solve)} in the solve; the interpreter takes 0.2 GB more",
        f"memory a host    {size(host)} for {ranks} rank(s) on {place.hosts} host(s), the "
        "interpreters apart",
    ]
    if plan.device_is_absent:
        lines.append("GPU memory       not known: this machine has no usable GPU")
    if plan.device_memory_per_rank:
        lines.append(f"GPU memory       {size(plan.device_memory_per_rank)} a rank")
    return lines


def _prepare_memory(deck: Deck, rows: int, features: int) -> int:
    """The data in float64, once more in the kernel's precision; whitening's square matrices."""
    squares = WHITENING_SQUARES * features**2 if deck.data.whitening else 0
    return (2 * rows * features + squares) * FLOAT64


def _engine(deck: Deck, threads: int) -> Engine:
    """Make the engine that the job will have; a GPU that is not here counts as the CPU."""
    kernel = deck.kernel
    absent = kernel.backend == "gpu" and device_problem()
    backend = "cpu" if absent else kernel.backend
    return make_engine(parse(kernel.layers), kernel.kind, kernel.dtype, backend, threads)


def _variances(engine: Engine, data: Description) -> int:
    """Disk of variances.h5."""
    count = positions(engine.architecture, data.input_shape)
    itemsize = working_dtype(engine.architecture, engine.dtype).itemsize
    return sum(variances_bytes(n, count, itemsize) for n in (data.train_rows, data.test_rows))


def _held_bytes(grid: TriangleGrid, ranks: int, entry: int) -> int:
    """Bytes of the tiles that the first rank holds in the solve; padded, as they are read."""
    return len(deal(grid, ranks, 0)) * grid.tile**2 * entry


def _vectors(deck: Deck, n: int, systems: int, ranks: int) -> int:
    """Vectors on every rank, this rank's rows of the preconditioner, and the strip buffer."""
    preconditioner = deck.solve.preconditioner
    factor = 2 * -(-n // ranks) * preconditioner.rank * FLOAT64 if preconditioner else 0
    return CG_VECTORS * n * systems * FLOAT64 + factor + STRIP_BYTES
