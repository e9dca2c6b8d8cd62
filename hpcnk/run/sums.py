"""How this job adds up over its ranks: `solve.reproducible` of the deck."""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from hpcnk.comm import FixedPointSums, FloatSums, Sums
from hpcnk.run.session import Session


def make_sums(session: Session) -> Sums:
    """Return sums in fixed point if the deck wants the same bits from any number of ranks."""
    kind = FixedPointSums if session.deck.solve.reproducible else FloatSums
    return kind(session.comm)


def single_thread_if_reproducible(session: Session) -> None:
    """Keep BLAS to one thread then: how it cuts a product among threads may show in the last bits.

    For the rest of the job, whose kernel is there.
    """
    if session.deck.solve.reproducible:
        threadpool_limits(1)
