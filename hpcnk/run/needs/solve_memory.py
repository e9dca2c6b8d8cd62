"""The memory of the solve: what one rank takes at its peak, and whether that is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hpcnk.comm import agreement
from hpcnk.deck import Deck
from hpcnk.errors import UsageError
from hpcnk.report import size
from hpcnk.run.needs.available import memory_share
from hpcnk.run.needs.kernel_memory import FLOAT64, largest, there_is
from hpcnk.run.session import Session
from hpcnk.solve.operator import STRIP_BYTES
from hpcnk.solve.preconditioner import ROWS
from hpcnk.store import read_shape
from hpcnk.tiling import TriangleGrid, share_blocks

# Blocks of (n, systems) float64: alive at once in one step of conjugate gradients; while products
# are summed; and those of integers beside them, for sums in fixed point.
VECTORS, SUMMING, LIMBS = 12, 5, 2
# The same of (tile, systems): products of a tile, and an addend that is cut into integers.
PRODUCTS, CUTTING = 2, 5
FACTORS = 2  # the preconditioner's rows of this rank, and those that they are made from
MOST_RANKS = 1 << 20  # no more are thought of


@dataclass(frozen=True)
class SolveJob:
    """What the memory depends on. `systems`: outputs times ridges; `rank`: of the preconditioner,
    0 for none; `entry`: bytes of one entry of a tile.
    """

    n: int
    tile: int
    systems: int
    entry: int
    rank: int
    reproducible: bool
    ranks: int


@dataclass(frozen=True)
class SolveMemory:
    """Bytes of the rank with the most: its tiles, all vectors, its part of the preconditioner."""

    tiles: int
    vectors: int
    factor: int
    buffers: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.tiles + self.vectors + self.factor + self.buffers


def solve_job(deck: Deck, n: int, outputs: int, ranks: int) -> SolveJob:
    """Return what the deck asks for, with n training rows."""
    solve, kernel = deck.solve, deck.kernel
    return SolveJob(
        n=n,
        tile=kernel.tile,
        systems=outputs * len(solve.ridge),
        entry=np.dtype(kernel.dtype).itemsize,
        rank=min(solve.preconditioner.rank, n) if solve.preconditioner else 0,
        reproducible=solve.reproducible,
        ranks=ranks,
    )


def solve_memory(job: SolveJob) -> SolveMemory:
    """Return the memory of the solve on the rank with the most; tiles are held padded."""
    held = -(-TriangleGrid(job.n, job.tile).count // job.ranks)
    first = share_blocks(job.n, job.ranks, 0, ROWS)
    return SolveMemory(
        tiles=held * job.tile**2 * job.entry,
        vectors=_vectors(job) * job.systems * FLOAT64,
        factor=FACTORS * (first.stop - first.start) * job.rank * FLOAT64,
        buffers=STRIP_BYTES,
    )


def _vectors(job: SolveJob) -> int:
    """Return the rows of all blocks of vectors together, in the step that has the most."""
    fixed, tile = job.reproducible, min(job.tile, job.n)
    summing = (SUMMING + LIMBS * fixed) * job.n + (PRODUCTS + CUTTING * fixed) * tile
    return max(VECTORS * job.n, summing)


def require_solve_memory(session: Session) -> None:
    """Raise UsageError if the solve needs more memory than a rank can have. Collective.

    To be called before tiles are loaded. A rank's share is an even one of its host's.
    """
    n, outputs = read_shape(session.folder.inputs, "y_train")
    job = solve_job(session.deck, n, outputs, session.comm.size)
    share, ranks = memory_share(session.comm)
    with agreement(session.comm):
        if share is not None:
            check_solve_memory(job, share, ranks)


def check_solve_memory(job: SolveJob, share: int, ranks_on_host: int) -> None:
    """Raise UsageError with the numbers and ways out if a rank needs more than its share."""
    need = solve_memory(job)
    if need.total <= share:
        return
    held = -(-TriangleGrid(job.n, job.tile).count // job.ranks)
    raise UsageError(
        f"the solve needs {size(need.total)} of memory a rank, and {there_is(share, ranks_on_host)}"
        f": {size(need.tiles)} for {held} tiles of {job.tile}, {size(need.vectors)} for vectors of "
        f"{job.n} rows and {job.systems} systems (every rank has them all), {size(need.factor)} "
        f"for its part of the preconditioner",
        _advice(job, share),
    )


def _advice(job: SolveJob, share: int) -> str:
    """Name what would fit: more ranks, fewer systems, a smaller preconditioner."""

    def fits(changed: SolveJob) -> bool:
        return solve_memory(changed).total <= share

    ways = []
    ranks = _smallest(job.ranks, MOST_RANKS, lambda number: fits(replace(job, ranks=number)))
    if ranks:
        ways.append(
            f"start {ranks} ranks or more, no more of them on a host than now; no tile is computed "
            "again"
        )
    systems = largest(job.systems, lambda number: fits(replace(job, systems=number)))
    if systems:
        ways.append(f"solve for at most {systems} systems (outputs times ridges)")
    rank = largest(job.rank, lambda number: fits(replace(job, rank=number)))
    if rank:
        ways.append(f"set solve.preconditioner.rank to at most {rank}")
    ways.append("take hosts with more memory, or fewer ranks on each")
    return "; or ".join(ways)


def _smallest(above: int, most: int, fits: Callable[[int], bool]) -> int:
    """Return the smallest number over `above` that fits, 0 if `most` does not; more always fit."""
    if not fits(most):
        return 0
    low, high = above, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
