"""The memory of the solve: what one rank takes at its peak, and whether that is there.

Tiles need not fit: those that do not are read, or computed, in each pass. What a rank cannot do
without are its vectors, its part of the preconditioner, and the buffers that tiles pass through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hpcnk.comm import agreement
from hpcnk.comm.reduce import MAX_BYTES
from hpcnk.deck import Deck
from hpcnk.errors import UsageError
from hpcnk.report import size
from hpcnk.run.needs.available import memory_share
from hpcnk.run.needs.kernel_memory import FLOAT64, largest, there_is
from hpcnk.run.rank_choice import largest_rank
from hpcnk.run.session import Session
from hpcnk.solve import cholesky
from hpcnk.solve.partial_cholesky import BLOCK
from hpcnk.solve.products import STRIP_BYTES
from hpcnk.solve.spread import ROWS
from hpcnk.solve.streamed import ring_bytes
from hpcnk.store import read_shape
from hpcnk.tiling import TriangleGrid, share_blocks

# Blocks of (rows of this rank, systems) float64 that are alive at once: in a step of conjugate
# gradients between two passes; during a pass; and beside those for sums in fixed point.
STEP, PASS, JOINING = 11, 10, 2
LIMBS = 2  # of a sum in fixed point
CUTTING = 5  # blocks of (tile, systems) by which an addend is cut into limbs
COLUMNS = 3  # blocks of (rows of this rank, columns) while columns of the factor are made
FACTORS = 2  # the preconditioner's rows of this rank, and those that they are made from
CORES = 4  # matrices (rank, rank) at work, beside those that stay
MOST_RANKS = 1 << 20  # no more are thought of
AUTO_BYTES = 1 << 30  # of a preconditioner whose rank is left to the run, on one rank of MPI
AUTO_SHARE = 8  # or the memory there is over this, if that is less
STORED = 3  # whole blocks on rank 0 while a state of the solve is written
PACKED = 250  # rows of vectors beside twice those of a tile that a thread's products pack
DENSE = 2  # matrices (n, n) in float64 on rank 0: the kernel, and what is factorised of it
SPARE = 0.95  # share of the memory there is that tiles are put into


@dataclass(frozen=True)
class SolveJob:
    """What the memory depends on. `systems`: outputs times `matrices`, which are ridges times
    `sets` of rows; `rank`: of the preconditioner, 0 for none; `entry`: bytes of an entry of a tile;
    `dense`: whether rank 0 factorises the whole kernel.
    """

    n: int
    tile: int
    systems: int
    entry: int
    rank: int
    reproducible: bool
    ranks: int
    matrices: int = 1
    sets: int = 1
    dense: bool = False

    @property
    def rows(self) -> int:
        """Rows of vectors of the first rank, which has the most."""
        first = share_blocks(self.n, self.ranks, 0, ROWS)
        return first.stop - first.start

    @property
    def held(self) -> int:
        """Tiles of the rank with the most."""
        return -(-TriangleGrid(self.n, self.tile).count // self.ranks)

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile, with its padding."""
        return self.tile**2 * self.entry


@dataclass(frozen=True)
class SolveMemory:
    """Bytes of the rank with the most. `tiles`: all of its tiles, if they stay in memory.

    Of `vectors`, `replicated` are whole on every rank; the rest is spread over the ranks. `dense`:
    the whole kernel on rank 0, if that is how it is solved.
    """

    tiles: int
    replicated: int
    spread: int
    factor: int
    buffers: int
    dense: int = 0

    @property
    def vectors(self) -> int:
        """All vectors at their peak."""
        return self.replicated + self.spread

    def of_host(self, ranks: int) -> int:
        """The peak of some ranks of one host, rank 0 among them, if no tile stays in memory."""
        return ranks * self.least - (ranks - 1) * self.dense

    @property
    def least(self) -> int:
        """The peak if no tile stays in memory."""
        return self.vectors + self.factor + self.buffers + self.dense

    @property
    def total(self) -> int:
        """The peak if all tiles do."""
        return self.tiles + self.least


@dataclass(frozen=True)
class Room:
    """What a preconditioner may take on one rank of MPI where the deck leaves its rank open: bytes,
    and columns; None: as many as these bytes hold.
    """

    bytes: int
    columns: int | None


def solve_job(deck: Deck, n: int, outputs: int, ranks: int, share: int | None = None) -> SolveJob:
    """Return what the deck asks for, with n training rows, on ranks with this share of memory."""
    job = _asked(deck, n, outputs, ranks, share)
    precondition = deck.solve.preconditioner
    left_open = precondition is not None and precondition.rank == "auto" and job.rank > 0
    if share is None or not left_open or job.reproducible:
        return job
    resident = deck.solve.operator == "resident"
    rank = largest(job.rank + 1, lambda number: _fits(replace(job, rank=number), share, resident))
    return replace(job, rank=max(1, rank))


def _asked(deck: Deck, n: int, outputs: int, ranks: int, share: int | None) -> SolveJob:
    solve, kernel = deck.solve, deck.kernel
    sets = len({*solve.sizes, n})
    matrices = len(solve.ridge) * sets
    return SolveJob(
        n=n,
        tile=kernel.tile,
        systems=outputs * len(solve.ridge) * sets,
        entry=np.dtype(kernel.dtype).itemsize,
        rank=_rank(deck, n, ranks, (sets, matrices), share),
        reproducible=solve.reproducible,
        ranks=ranks,
        matrices=matrices,
        sets=sets,
        dense=solve.method == "dense",
    )


def _rank(deck: Deck, n: int, ranks: int, counts: tuple[int, int], share: int | None) -> int:
    """Return the largest rank that the preconditioner may have; `counts`: row sets, matrices."""
    asked = deck.solve.preconditioner
    if asked is None or deck.solve.method == "dense":
        return 0
    if asked.rank != "auto":
        return min(n, asked.rank)
    sets, matrices = counts
    ranks = 1 if deck.solve.reproducible else ranks
    memory = _automatic_bytes(deck, share)
    return largest_rank(n, -(-n // ranks), sets, -(-matrices // ranks), memory)


def preconditioner_room(session: Session) -> Room:
    """Return what the preconditioner may take on a rank, the same on all ranks.

    Collective, before tiles are read.
    """
    n, outputs = read_shape(session.folder.inputs, "y_train")
    share, ranks = least_share(session), session.comm.size
    job = solve_job(session.deck, n, outputs, ranks, share)
    return Room(_automatic_bytes(session.deck, share), job.rank or None)


def _automatic_bytes(deck: Deck, share: int | None) -> int:
    """Return what a preconditioner may take on one rank where the deck leaves that open.

    Bits that do not depend on the ranks need a rank that does not depend on their memory.
    """
    if share is None or deck.solve.reproducible:
        return AUTO_BYTES
    return min(AUTO_BYTES, share // AUTO_SHARE)


def solve_memory(job: SolveJob) -> SolveMemory:
    """Return the memory of the solve on the rank with the most; tiles are held padded."""
    replicated, spread = max(_step(job), _pass(job), _making(job), _storing(job), key=sum)
    tiles = job.held * job.tile_bytes
    return SolveMemory(
        tiles=tiles,
        replicated=replicated,
        spread=spread,
        factor=FACTORS * job.rows * job.rank * FLOAT64 + _cores(job),
        buffers=STRIP_BYTES + min(tiles, ring_bytes(job.tile_bytes)),
        dense=_whole(job) if job.dense else 0,
    )


def _whole(job: SolveJob) -> int:
    """Return the bytes of the kernel on rank 0, and what its factorisation takes."""
    return (DENSE * job.n + cholesky.WORK * min(job.n, cholesky.BLOCK)) * job.n * FLOAT64


def _packed(job: SolveJob) -> int:
    """Return what the products of a tile take on one thread."""
    return STRIP_BYTES + (2 * min(job.tile, job.n) + PACKED) * job.systems * FLOAT64


def _step(job: SolveJob) -> tuple[int, int]:
    """Return what is whole on this rank, and what is spread, between two passes."""
    return 0, STEP * job.rows * job.systems * FLOAT64


def _pass(job: SolveJob) -> tuple[int, int]:
    """The same in a pass: all vectors, and the sum of all products."""
    limbs = LIMBS if job.reproducible else 1
    cut = max(JOINING * job.rows, CUTTING * min(job.tile, job.n)) if job.reproducible else 0
    block = job.n * job.systems * FLOAT64
    gathered = block if job.ranks > 1 else 0
    return (
        gathered + limbs * block + _piece(job, block),
        (PASS * job.rows + cut) * job.systems * FLOAT64,
    )


def _making(job: SolveJob) -> tuple[int, int]:
    """The same while columns of the factor are made."""
    columns = min(BLOCK, job.rank)
    block = job.n * columns * FLOAT64
    spread = COLUMNS * columns + PASS * job.systems
    return block + _piece(job, block), spread * job.rows * FLOAT64


def _storing(job: SolveJob) -> tuple[int, int]:
    """The same on rank 0 while a state of the solve is gathered and written."""
    block = job.n * job.systems * FLOAT64
    whole = STORED * block + _piece(job, block) if job.ranks > 1 else 0
    return whole, STEP * job.rows * job.systems * FLOAT64


def _piece(job: SolveJob, block: int) -> int:
    """Return the bytes of one message's buffer: blocks that are larger go in pieces."""
    return MAX_BYTES if job.ranks > 1 and block > MAX_BYTES else 0


def _cores(job: SolveJob) -> int:
    """Return the bytes of the small matrices: one a set of rows, one a matrix of this rank."""
    if not job.rank:
        return 0
    return (job.sets + -(-job.matrices // job.ranks) + CORES) * job.rank**2 * FLOAT64


def require_solve_memory(session: Session) -> int | None:
    """Return the bytes that this rank has for tiles that stay in memory, None if unknown.

    Collective, before tiles are read. Raises UsageError if the solve needs more memory than a rank
    can have. A rank's share is an even one of its host's, or `solve.memory` if that is less.
    """
    n, outputs = read_shape(session.folder.inputs, "y_train")
    share, ranks = _share(session)
    job = solve_job(session.deck, n, outputs, session.comm.size, least_share(session))
    with agreement(session.comm):
        if share is not None:
            held = session.deck.solve.operator == "resident"
            check_solve_memory(job, share, ranks, held)
    return None if share is None else int(SPARE * (share - solve_memory(job).least))


def cache_share(session: Session, job: SolveJob) -> int | None:
    """Return the bytes of files that the system can keep in memory for this rank while it solves,
    its tiles in memory being there already; None if unknown. Collective.
    """
    share, _ = memory_share(session.comm)
    return None if share is None else max(0, share - solve_memory(job).least)


def least_share(session: Session) -> int | None:
    """Return the least memory that any rank has for the solve, None if unknown. Collective."""
    shares = session.comm.allgather(_share(session)[0])
    return min((share for share in shares if share is not None), default=None)


def _share(session: Session) -> tuple[int | None, int]:
    """Return the bytes that this rank can take, None if unknown, and the ranks of its host."""
    share, ranks = memory_share(session.comm)
    asked = session.deck.solve.memory
    known = [] if share is None else [share]
    return min([*known, *([] if asked is None else [int(asked * 1e9)])], default=None), ranks


def _fits(job: SolveJob, share: int, resident: bool) -> bool:
    need = solve_memory(job)
    return (need.total if resident else need.least) <= share


def check_solve_memory(
    job: SolveJob, share: int, ranks_on_host: int, resident: bool = False
) -> None:
    """Raise UsageError with the numbers and ways out if a rank needs more than its share.

    `resident`: all tiles must stay in memory.
    """
    if _fits(job, share, resident):
        return
    need = solve_memory(job)
    total = need.total if resident else need.least
    tiles = f"{size(need.tiles)} for {job.held} tiles of {job.tile}, " if resident else ""
    whole = f"{size(need.dense)} for the whole kernel on rank 0, " if job.dense else ""
    raise UsageError(
        f"the solve needs {size(total)} of memory a rank, and {there_is(share, ranks_on_host)}"
        f": {tiles}{whole}{size(need.vectors)} for vectors of {job.n} rows and {job.systems} "
        f"systems ({size(need.replicated)} of it on every rank), {size(need.factor)} for its part "
        f"of the preconditioner, {size(need.buffers)} for tiles on their way",
        _advice(job, share, resident),
    )


def _advice(job: SolveJob, share: int, resident: bool) -> str:
    """Name what would fit: more ranks, fewer systems, a smaller preconditioner."""

    def fits(changed: SolveJob) -> bool:
        return _fits(changed, share, resident)

    ways = ["set solve.operator to auto: tiles that do not fit are read in each pass"]
    ways = ways if resident and solve_memory(job).least <= share else []
    if job.dense and fits(replace(job, dense=False)):
        ways.append("set solve.method to cg, which never holds the whole kernel on one rank")
    ranks = _smallest(job.ranks, MOST_RANKS, lambda number: fits(replace(job, ranks=number)))
    if ranks:
        ways.append(
            f"start {ranks} ranks or more, no more of them on a host than now; no tile is computed "
            "again"
        )
    systems = largest(job.systems, lambda number: fits(replace(job, systems=number)))
    if systems:
        ways.append(f"solve for at most {systems} systems (outputs times ridges times sizes)")
    rank = largest(job.rank, lambda number: fits(replace(job, rank=number)))
    if rank:
        ways.append(f"set solve.preconditioner.rank to at most {rank}")
    ways.append(
        "take hosts with more memory, or fewer ranks on each, or raise solve.memory if it is set"
    )
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
