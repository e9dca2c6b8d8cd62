"""The preconditioner that the deck asks for, made at its first use.

A solve that is over when it goes on needs none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from hpcnk.run.needs.solve_memory import Room
from hpcnk.run.plan.rates import PRODUCTS, product_seconds
from hpcnk.run.rank_choice import RankChoice, Work, largest_rank
from hpcnk.run.session import Session
from hpcnk.run.watched import between_passes
from hpcnk.solve import (
    Factor,
    Greedy,
    LowRank,
    Matrix,
    Operator,
    Random,
    RowSet,
    identity,
    nystrom,
    pivoted_cholesky,
)
from hpcnk.solve.products import make_products
from hpcnk.solve.spread import Array

BLOCK_BYTES = 1 << 28  # of whole vectors that are taken at once, unless the solve takes more
MOST_COLUMNS = 128  # at once
NYSTROM_SHARE, NYSTROM_MOST = 50, 500  # `auto`: n over the one, at most the other
NAMES = {
    "pivoted_cholesky": "greedily pivoted Cholesky",
    "random_cholesky": "randomly pivoted Cholesky",
    "nystrom": "randomised Nystrom",
}


class LazyPrecondition:
    """A preconditioner that is made when it is first used; the identity if `make` is None."""

    def __init__(self, make: Callable[[], LowRank] | None, rank: int = 0) -> None:
        self._make = make
        self._made: LowRank | None = None
        self._rank = rank

    @property
    def rank(self) -> int:
        """Columns of the factor; until it is made those of an earlier one, or 0."""
        return self._made.rank if self._made else self._rank

    @property
    def factor(self) -> Factor | None:
        """The factor, None where there is none yet."""
        return self._made.factor if self._made else None

    def low_rank(self) -> LowRank | None:
        """Return the preconditioner, made now if it has to be; None for none. Collective."""
        if self._made is None and self._make is not None:
            self._made = self._make()
        return self._made

    def __call__(self, parts: Sequence[tuple[Matrix, Array]]) -> list[Array]:
        """Return the approximate inverse of each matrix times its columns. Collective."""
        made = self.low_rank()
        return identity(parts) if made is None else made(parts)


def make_preconditioner(
    session: Session,
    operator: Operator,
    row_sets: Sequence[RowSet],
    matrices: Sequence[Matrix],
    rows: str,
    rank: int | None = None,
    room: Room | None = None,
    pass_seconds: Callable[[int], float] | None = None,
    known: Factor | None = None,
) -> LazyPrecondition:
    """Return what the deck asks for, for these matrices.

    `rows`: their rows in words; `rank`: that of an earlier factor, which is made again, the same;
    `room`: what it may take where the deck leaves the rank to the program;
    `pass_seconds(columns)`: time of one core for a pass over the kernel, if tiles are not resident.
    Both must be the same on all ranks. `known`: a factor of the same kernel, which is used if it
    has the rank. Using it may raise Stopped.
    """
    if session.deck.solve.preconditioner is None:
        return LazyPrecondition(None)

    def make() -> LowRank:
        start = time.perf_counter()
        factor = known
        if factor is None or rank not in (None, 0, factor.rank):
            factor = _factor(session, operator, _work(), rank or None, room)
        products = make_products(session.deck.kernel.backend, session.threads)
        made = LowRank(operator.spread, operator.sums, factor, row_sets, matrices, products)
        between_passes(session)
        _tell(session, factor, rows, time.perf_counter() - start)
        return made

    def _work() -> Work:
        limits, seconds = session.deck.solve, pass_seconds or _resident_pass(session, operator.n)
        return Work(
            operator.n, row_sets, matrices, limits.tolerance, limits.max_iterations, seconds
        )

    return LazyPrecondition(make, rank or 0)


def _factor(
    session: Session, operator: Operator, work: Work, rank: int | None, room: Room | None
) -> Factor:
    """Return the deck's factor; its rank is `rank` if given, the deck's, or chosen on the way."""
    asked = session.deck.solve.preconditioner
    assert asked is not None
    auto = rank is None and asked.rank == "auto"
    most = _most_columns(operator.n, len(work.matrices))
    between = lambda: between_passes(session)  # noqa: E731
    if auto:
        wanted = _largest(operator, work, room)
    else:
        wanted = rank if rank is not None else int(asked.rank)
    if asked.kind == "nystrom":
        if auto:
            wanted = min(wanted, nystrom_rank(operator.n))
        return nystrom(operator, wanted, asked.seed, between, most)
    pivoting = Greedy() if asked.kind == "pivoted_cholesky" else Random(asked.seed)
    enough = RankChoice(work) if auto else (lambda progress: False)
    return pivoted_cholesky(operator, wanted, pivoting, between, enough, most)


def nystrom_rank(n: int) -> int:
    """Return the rank of `auto` for nystrom, which cannot look at what it has: n / 50 at most 500.

    It costs as many products with the kernel as its rank, so a small one.
    """
    return max(1, min(n // NYSTROM_SHARE, NYSTROM_MOST))


def _largest(operator: Operator, work: Work, room: Room | None) -> int:
    """Return the largest rank that `auto` may come to."""
    row_sets = len({matrix.rows for matrix in work.matrices})
    ranks = 1 if operator.sums.ordered else operator.spread.comm.size
    n, matrices = operator.n, len(set(work.matrices))
    memory = None if room is None else room.bytes
    rank = largest_rank(n, -(-n // ranks), row_sets, -(-matrices // ranks), memory)
    return rank if room is None or room.columns is None else min(rank, room.columns)


def _most_columns(n: int, columns: int) -> int:
    """Return how many whole vectors may be held at once: those of the solve, or a few megabytes."""
    return int(np.clip(BLOCK_BYTES // (8 * n), min(columns, MOST_COLUMNS), MOST_COLUMNS))


def _resident_pass(session: Session, n: int) -> Callable[[int], float]:
    rates = PRODUCTS[session.deck.kernel.dtype].triangle
    return lambda columns: n**2 / 2 * product_seconds(rates, columns)


def _tell(session: Session, factor: Factor, rows: str, seconds: float) -> None:
    asked = session.deck.solve.preconditioner
    assert asked is not None
    session.say(
        f"solve: {rows}: preconditioner {NAMES[asked.kind]} of rank {factor.rank}, which explains "
        f"{100 * factor.share:.4g} % of the trace, made in {seconds:.1f} s"
    )
