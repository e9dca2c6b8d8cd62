"""What there is to compute: two tile files, and the engine and the rows that they are made with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from hpcnk.comm import agreement, place_on_host
from hpcnk.engine import Engine, make_engine
from hpcnk.errors import BackendError
from hpcnk.run.blocks import Blocks, kept_blocks
from hpcnk.run.clock import Clock
from hpcnk.run.provenance import kernel_provenance, test_provenance
from hpcnk.run.session import Session
from hpcnk.run.variances import find_variances, known_rows
from hpcnk.store import VariancesReader, read_shape
from hpcnk.tiling import CrossGrid, Tile, TriangleGrid

AnyGrid = TypeVar("AnyGrid", TriangleGrid, CrossGrid)


@dataclass(frozen=True)
class Work(Generic[AnyGrid]):
    """One tile file to fill: rows of the array `left` against rows of the array `right`."""

    title: str
    path: Path
    grid: AnyGrid
    provenance: dict[str, Any]
    left: str
    right: str

    def sides(self, tile: Tile) -> list[tuple[str, slice]]:
        """List the rows that a tile is made from; a symmetric one is from one block alone."""
        left = (self.left, tile.rows)
        return [left] if tile.symmetric else [left, (self.right, tile.columns)]


def engine_of_rank(session: Session) -> Engine:
    """Make this rank's engine. Collective. Raises BackendError, also if ranks found unlike ones."""
    kernel, comm = session.deck.kernel, session.comm
    number, _ = place_on_host(comm)
    with agreement(comm):
        engine = make_engine(
            session.architecture, kernel.kind, kernel.dtype, kernel.backend, session.threads, number
        )
        engine.beat = session.watchdog.beat
    found = sorted(set(comm.allgather(engine.backend)))
    if len(found) > 1:
        error = BackendError(
            f"ranks found different back ends: {' and '.join(found)}",
            "take hosts of one kind, or set kernel.backend to one that all of them have",
        )
        error.agreed = True
        raise error
    return engine


def works(
    session: Session, engine: Engine, contents: dict[str, Any]
) -> tuple[Work[TriangleGrid], Work[CrossGrid]]:
    """Return the two files, train by train and test by train; `contents` describe the inputs."""
    deck, folder = session.deck, session.folder
    n, m = (read_shape(folder.inputs, name)[0] for name in ("x_train", "x_test"))
    made_from = (deck, session.architecture, engine.backend, contents)
    triangle, cross = TriangleGrid(n, deck.kernel.tile), CrossGrid(m, n, deck.kernel.tile)
    origin, test_origin = kernel_provenance(*made_from), test_provenance(*made_from)
    return (
        Work("kernel", folder.kernel, triangle, origin, "x_train", "x_train"),
        Work("test kernel", folder.test_kernel, cross, test_origin, "x_test", "x_train"),
    )


@contextmanager
def ready_blocks(
    session: Session, engine: Engine, clock: Clock, contents: dict[str, Any]
) -> Iterator[Blocks]:
    """Give the rows, prepared from the variances of the whole data set."""
    inputs = session.folder.inputs
    row_bytes = engine.prepared_bytes(read_shape(inputs, "x_train")[1:])
    kept = kept_blocks(row_bytes, session.deck.kernel.tile)
    layout = find_variances(session, engine, clock, contents)
    with (
        VariancesReader(layout) as reader,
        Blocks(engine, inputs, kept, known_rows(reader)) as blocks,
    ):
        yield blocks
