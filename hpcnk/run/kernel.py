"""Stage 1: the kernel's tiles, each computed and stored by the rank that owns it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import any_rank, on_root
from hpcnk.engine import Engine, make_engine
from hpcnk.errors import Stopped, StorageError
from hpcnk.report import Progress, count, duration
from hpcnk.run.blocks import Blocks
from hpcnk.run.prepare import require_inputs
from hpcnk.run.provenance import kernel_provenance, require_same, test_provenance
from hpcnk.run.session import Session
from hpcnk.store import (
    Layout,
    TileWriter,
    choose_driver,
    create,
    finished_tiles,
    mark_complete,
    read_journals,
    read_layout,
    read_shape,
)
from hpcnk.tiling import CrossGrid, Tile, TriangleGrid, deal

Compute = Callable[[Tile], NDArray[Any]]


AnyGrid = TypeVar("AnyGrid", TriangleGrid, CrossGrid)


@dataclass(frozen=True)
class _Work(Generic[AnyGrid]):
    """One tile file to fill."""

    title: str
    path: Path
    grid: AnyGrid
    provenance: dict[str, Any]
    compute: Compute


def kernel(session: Session) -> bool:
    """Compute and store all tiles that are still missing, train by train and test by train.

    Collective. Raises MismatchError when the stored tiles belong to something else, StorageError
    when the disk fails, Stopped when a signal came.
    """
    session.begin("kernel")
    engine = _engine(session)
    driver, reason = choose_driver(session.deck.store.driver)
    session.say(f"kernel: back end {engine.backend} ({engine.reason}); store {driver} ({reason})")
    contents = require_inputs(session)
    train, test = _works(session, engine, contents)
    start = time.perf_counter()
    computed = _fill(session, train, driver) + _fill(session, test, driver)
    seconds = time.perf_counter() - start
    if session.root and (computed or "kernel" not in session.folder.read_report()):
        _report(session, engine, driver, (train.grid, test.grid), computed, seconds)
    return True


def _engine(session: Session) -> Engine:
    kernel = session.deck.kernel
    return make_engine(
        session.architecture, kernel.kind, kernel.dtype, kernel.backend, session.threads
    )


def _works(
    session: Session, engine: Engine, contents: dict[str, Any]
) -> tuple[_Work[TriangleGrid], _Work[CrossGrid]]:
    deck, inputs = session.deck, session.folder.inputs
    n, m = (read_shape(inputs, name)[0] for name in ("x_train", "x_test"))
    train, test = (Blocks(engine, inputs, name) for name in ("x_train", "x_test"))
    made_from = (deck, session.architecture, engine.backend, contents)

    def triangle(tile: Tile) -> NDArray[Any]:
        if tile.symmetric:
            return engine.symmetric_block(train.at(tile.rows))
        return engine.block(train.at(tile.rows), train.at(tile.columns))

    def cross(tile: Tile) -> NDArray[Any]:
        return engine.block(test.at(tile.rows), train.at(tile.columns))

    size = deck.kernel.tile
    folder = session.folder
    return (
        _Work(
            "kernel", folder.kernel, TriangleGrid(n, size), kernel_provenance(*made_from), triangle
        ),
        _Work(
            "test kernel",
            folder.test_kernel,
            CrossGrid(m, n, size),
            test_provenance(*made_from),
            cross,
        ),
    )


def _fill(session: Session, work: _Work, driver: str) -> int:
    """Compute the missing tiles of one file; return the number of pairs that this took."""
    layout, done = on_root(session.comm, lambda: _open(session, work))
    if layout.complete:
        session.say(f"{work.title}: complete already")
        return 0
    if done:
        session.say(f"{work.title}: {len(done)} of {work.grid.count} tiles are there, resuming")
    mine = deal(work.grid, session.comm.size, session.comm.rank, done)
    _compute(session, work, layout, driver, mine)
    on_root(session.comm, lambda: _complete(layout))
    session.events.write("complete", phase=work.title)
    return work.grid.pairs - sum(work.grid.at(number).pairs for number in done)


def _open(session: Session, work: _Work) -> tuple[Layout, frozenset[int]]:
    """Create the file or check the one that is there; return it and its finished tiles."""
    if not work.path.exists():
        create(work.path, work.grid, session.deck.kernel.dtype, work.provenance)
    layout = read_layout(work.path)
    note = require_same(work.path, layout.provenance, work.provenance, layout.complete)
    if note:
        session.warn("kernel", note)
    done = frozenset() if layout.complete else frozenset(read_journals(layout))
    return layout, done


def _compute(session: Session, work: _Work, layout: Layout, driver: str, mine: list[int]) -> None:
    progress = _progress(session, work, layout) if session.root else None
    with TileWriter(layout, driver, session.comm) as writer:
        for number in mine:
            if session.stop.requested:
                break
            writer.put(number, work.compute(work.grid.at(number)))
    stopped = any_rank(session.comm, bool(session.stop.requested))
    if progress:
        progress.close()
    if stopped:
        raise Stopped(
            f"{work.title}: stopped by a signal; every finished tile is stored",
            "start the same command again, on any number of ranks, to resume",
        )


def _progress(session: Session, work: _Work, layout: Layout) -> Progress:
    return Progress(
        work.title,
        work.grid.count,
        work.grid.pairs,
        lambda: finished_tiles(layout.journal),
        session.events,
    )


def _complete(layout: Layout) -> None:
    checksums = read_journals(layout)
    missing = layout.grid.count - len(checksums)
    if missing:
        raise StorageError(
            f"{missing} tiles of {layout.path} have no line in {layout.journal}: somebody removed "
            "journals during the run",
            "start the same command again; these tiles are computed anew",
        )
    order = np.fromiter((checksums[k] for k in range(layout.grid.count)), np.uint32)
    mark_complete(layout, order)


def _report(
    session: Session,
    engine: Engine,
    driver: str,
    grids: tuple[TriangleGrid, CrossGrid],
    computed: int,
    seconds: float,
) -> None:
    deck, (train, test) = session.deck, grids
    rate = computed / seconds
    session.folder.update_report(
        kernel={
            "pairs": train.pairs + test.pairs,
            "pairs_computed_in_this_run": computed,
            "seconds": seconds,
            "pairs_per_second": rate,
            "train_rows": train.n,
            "test_rows": test.m,
            "tile": deck.kernel.tile,
            "tiles": train.count + test.count,
            "kind": deck.kernel.kind,
            "dtype": deck.kernel.dtype,
            "backend": engine.backend,
            "driver": driver,
        },
    )
    session.say(f"kernel: {count(computed)} pairs in {duration(seconds)}, {count(rate)} pairs/s")
