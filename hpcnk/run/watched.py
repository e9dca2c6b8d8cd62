"""Passes over the kernel that may take long: the watchdog hears of them, a signal ends them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hpcnk.comm import Sums, any_rank
from hpcnk.errors import Stopped
from hpcnk.run.session import Session
from hpcnk.solve import TileOperator
from hpcnk.solve.operator import Indices
from hpcnk.solve.tiles import Array, Sizes, TileSource

PATIENCE = 5.0  # seconds between two looks for a signal; shorter passes go on to their end


def between_passes(session: Session) -> None:
    """Show the watchdog that work goes on. Raises Stopped when a signal came. Collective."""
    session.watchdog.beat()
    session.stop.raise_if_requested(session.comm)


class PassWatch:
    """Looks up between the tiles of a pass. After a cut one, `require_whole` raises everywhere."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._cut = False
        self._looked = 0.0

    def begin(self) -> None:
        """Begin a pass."""
        self._looked = time.monotonic()

    def going(self) -> bool:
        """Return whether this rank's pass is to go on to its next tile."""
        self._session.watchdog.beat()
        if time.monotonic() - self._looked >= PATIENCE:
            self._cut = self._cut or self._session.stop.is_requested_of_any()
            self._looked = time.monotonic()
        return not self._cut

    def require_whole(self) -> None:
        """Raise Stopped on all ranks if any of them has cut its pass. Collective."""
        if any_rank(self._session.comm, self._cut):
            raise Stopped(
                "solve: stopped by a signal within a pass over the kernel; that pass is lost",
                "start the same command again, on any number of ranks, to go on",
            )


class WatchedOperator(TileOperator):
    """The operator of tiles; what came of a pass that a signal has cut is thrown away.

    Its methods raise Stopped on all ranks then; the caller's state is that before the call.
    """

    def __init__(self, sums: Sums, n: int, sources: Sequence[TileSource], watch: PassWatch) -> None:
        super().__init__(sums, n, sources)
        self._watch = watch

    def apply(self, v: Array, sizes: Sizes | None = None) -> Array:
        """Return this rank's rows of K v, for its rows of v. Collective. Raises Stopped."""
        self._watch.begin()
        product = super().apply(v, sizes)
        self._watch.require_whole()
        return product

    def columns(self, indices: Indices) -> Array:
        """Return this rank's rows of these columns of K. Collective. Raises Stopped."""
        self._watch.begin()
        columns = super().columns(indices)
        self._watch.require_whole()
        return columns

    def diagonal(self) -> Array:
        """Return the diagonal of K, shape (n,), on all ranks. Collective. Raises Stopped."""
        self._watch.begin()
        diagonal = super().diagonal()
        self._watch.require_whole()
        return diagonal
