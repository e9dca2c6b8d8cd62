"""What a job will need, from the deck and the data set's shape alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcnk.data import Description
from hpcnk.deck import Deck
from hpcnk.engine import make_engine
from hpcnk.kernels import parse
from hpcnk.report import count, size
from hpcnk.run.blocks import KEPT
from hpcnk.solve.operator import STRIP_BYTES
from hpcnk.tiling import CrossGrid, TriangleGrid, deal

FLOAT64 = 8  # bytes
WHITENING_SQUARES = 6  # covariance, eigenvectors, LAPACK's work space, the matrix: at once
CG_VECTORS = 8  # blocks of (n, systems) float64 alive at once in conjugate gradients, at most


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
    prepare_memory: int
    kernel_memory_per_rank: int
    solve_memory_per_rank: int
    systems: int


def plan(deck: Deck, data: Description, ranks: int) -> Plan:
    """Return what the job needs on this many ranks. Needs neither MPI nor a GPU nor the kernel."""
    n, m, tile = data.train_rows, data.test_rows, deck.kernel.tile
    triangle, cross = TriangleGrid(n, tile), CrossGrid(m, n, tile)
    entry = np.dtype(deck.kernel.dtype).itemsize
    features = int(np.prod(data.input_shape))
    most = -(-triangle.count // ranks)
    systems = data.outputs * len(deck.solve.ridge)
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
        prepare_memory=_prepare_memory(deck, n + m, features),
        kernel_memory_per_rank=_kernel_memory(deck, data, tile, entry),
        solve_memory_per_rank=_held_bytes(triangle, ranks, entry)
        + _vectors(deck, n, systems, ranks),
        systems=systems,
    )


def describe_plan(plan: Plan, ranks: int) -> str:
    """Return the plan as text for people."""
    flops = plan.pairs * plan.operations_per_pair
    return "\n".join(
        [
            f"rows             {plan.train_rows} training, {plan.test_rows} test",
            f"tiles            {plan.tiles} of {plan.tile} x {plan.tile} in kernel.h5, "
            f"{plan.test_tiles} in test_kernel.h5",
            f"tiles a rank     at most {plan.tiles_per_rank} on {ranks} rank(s)",
            f"pairs            {count(plan.pairs)}",
            f"operations       {count(plan.operations_per_pair)} a pair (covariance entries times "
            f"layers), {count(flops)} in all",
            f"disk             {size(plan.disk_kernel)} kernel.h5, "
            f"{size(plan.disk_test_kernel)} test_kernel.h5, {size(plan.disk_inputs)} inputs.h5",
            f"memory           {size(plan.prepare_memory)} on rank 0 to read and prepare the data",
            f"memory a rank    {size(plan.kernel_memory_per_rank)} for tiles (kernel phase), "
            f"{size(plan.solve_memory_per_rank)} in the solve; the interpreter takes 0.2 GB more",
            f"systems          {plan.systems} (outputs x ridges), one block",
        ]
    )


def _prepare_memory(deck: Deck, rows: int, features: int) -> int:
    """The data in float64, once more in the kernel's precision; whitening's square matrices."""
    squares = WHITENING_SQUARES * features**2 if deck.data.whitening else 0
    return (2 * rows * features + squares) * FLOAT64


def _kernel_memory(deck: Deck, data: Description, tile: int, entry: int) -> int:
    """Prepared blocks, one tile and its padded copy, the engine's temporaries of one thread."""
    kernel = deck.kernel
    engine = make_engine(parse(kernel.layers), kernel.kind, kernel.dtype, kernel.backend, 1)
    rows = min(tile, data.train_rows)
    blocks = 2 * KEPT * rows * engine.prepared_bytes(data.input_shape)
    return blocks + 2 * tile**2 * entry + engine.workspace_bytes(data.input_shape)


def _held_bytes(grid: TriangleGrid, ranks: int, entry: int) -> int:
    """Bytes of the tiles that the first rank holds in the solve; padded, as they are read."""
    return len(deal(grid, ranks, 0)) * grid.tile**2 * entry


def _vectors(deck: Deck, n: int, systems: int, ranks: int) -> int:
    """Vectors on every rank, this rank's rows of the preconditioner, and the strip buffer."""
    preconditioner = deck.solve.preconditioner
    factor = 2 * -(-n // ranks) * preconditioner.rank * FLOAT64 if preconditioner else 0
    return CG_VECTORS * n * systems * FLOAT64 + factor + STRIP_BYTES
