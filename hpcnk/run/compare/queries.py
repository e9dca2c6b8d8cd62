"""The points that are predicted: training rows held out, and the test rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import FloatSums, agreement, sum_over_ranks
from hpcnk.errors import SolveError
from hpcnk.run.clock import Clock
from hpcnk.run.compare.ground import Ground
from hpcnk.run.first_reading import read_all
from hpcnk.run.session import Session
from hpcnk.run.variances import find_variances
from hpcnk.run.work import engine_of_rank
from hpcnk.solve import cross_product
from hpcnk.solve.approximations import corner
from hpcnk.solve.products import make_products
from hpcnk.solve.tiles import HeldTile
from hpcnk.store import Layout, TileReader, VariancesReader, read_shape
from hpcnk.store.variances import ROWS
from hpcnk.tiling import Tile, deal

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


class Queries(Protocol):
    """Points to be predicted, with their kernel by the training rows."""

    def product(self, alpha: Array) -> Array:
        """Return K_*n alpha, (queries, columns), from this rank's rows of alpha. Collective."""

    def columns(self, rows: Indices) -> Array:
        """Return K of the queries by these training rows, on all ranks. Collective."""

    def prior(self) -> Array:
        """Return k(x, x) of each query, (queries,), on all ranks. Collective."""


class HeldOut:
    """Training rows that are held out."""

    def __init__(self, ground: Ground) -> None:
        self._operator, self._held = ground.operator, ground.held
        self._diagonal = ground.diagonal

    def product(self, alpha: Array) -> Array:
        """Return the predictions. Collective. One pass over the kernel."""
        operator = self._operator
        return operator.spread.rows_at(operator.apply(alpha), self._held)

    def columns(self, rows: Indices) -> Array:
        """Return the kernel by these rows. Collective."""
        return corner(self._operator, self._held, rows)

    def prior(self) -> Array:
        """Return k(x, x)."""
        return self._diagonal[self._held]


class TestRows:
    """The test rows, whose tiles are read from the file whenever they are needed."""

    __test__ = False  # for pytest: this is no test

    def __init__(
        self, session: Session, ground: Ground, reader: TileReader, contents: dict[str, Any]
    ) -> None:
        self._session, self._spread, self._reader = session, ground.operator.spread, reader
        self._contents = contents
        self._products = make_products(session.deck.kernel.backend, session.threads)
        self.count = read_shape(session.folder.inputs, "x_test")[0]

    def product(self, alpha: Array) -> Array:
        """Return the predictions. Collective. Raises SolveError if one is not finite."""
        comm = self._session.comm
        whole, tiles = self._spread.whole(alpha), self._tiles(lambda tile: True)
        product = cross_product(FloatSums(comm), self.count, tiles, whole, self._products)
        if not np.isfinite(product).all():
            raise SolveError("a prediction is not finite", "run `hpcnk verify` on the folder")
        return product

    def columns(self, rows: Indices) -> Array:
        """Return the kernel by these rows. Collective."""
        found = np.zeros((self.count, len(rows)))

        def wanted(tile: Tile) -> bool:
            return bool(_inside(tile, rows).any())

        for tile, entries in self._tiles(wanted):
            here = np.flatnonzero(_inside(tile, rows))
            found[tile.rows, here] = entries[:, rows[here] - tile.columns.start]
        return sum_over_ranks(self._session.comm, found)

    def prior(self) -> Array:
        """Return k(x, x), found anew if the file of variances is gone. Collective."""
        session = self._session
        layout = find_variances(session, engine_of_rank(session), Clock(), self._contents)
        with agreement(session.comm), VariancesReader(layout) as reader:
            steps = range(0, self.count, ROWS)
            parts = [slice(start, min(start + ROWS, self.count)) for start in steps]
            return np.concatenate([reader.read("x_test", part)[1] for part in parts])

    def _tiles(self, wanted: Any) -> Iterator[HeldTile]:
        grid, comm = self._reader.layout.grid, self._session.comm
        for number in deal(grid, comm.size, comm.rank):
            tile = grid.at(number)
            if wanted(tile):
                self._session.watchdog.beat()
                yield tile, self._reader.read(number)


def _inside(tile: Tile, rows: Indices) -> NDArray[np.bool_]:
    return (rows >= tile.columns.start) & (rows < tile.columns.stop)


@contextmanager
def open_tests(
    session: Session, ground: Ground, layout: Layout, contents: dict[str, Any]
) -> Iterator[TestRows]:
    """Give the test rows of a complete file, once all its tiles are found sound. Collective.

    Tiles that are damaged are made anew. Raises StorageError, Stopped.
    """
    mine = sorted(deal(layout.grid, session.comm.size, session.comm.rank))
    read_all(session, layout, contents, mine, lambda tile, entries: None)
    with TileReader(layout) as reader:
        yield TestRows(session, ground, reader, contents)
