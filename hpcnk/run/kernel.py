"""Stage 1: the kernel's tiles, each computed and stored by the rank that owns it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import agreement, any_rank, on_root, place_on_host
from hpcnk.engine import Engine, make_engine
from hpcnk.errors import BackendError, Stopped, StorageError
from hpcnk.report import Progress, count, duration
from hpcnk.run.blocks import Blocks, kept_blocks
from hpcnk.run.clock import Clock
from hpcnk.run.memory import require_memory
from hpcnk.run.prepare import require_inputs
from hpcnk.run.provenance import kernel_provenance, require_same, test_provenance
from hpcnk.run.session import Session
from hpcnk.run.variances import find_variances, known_rows
from hpcnk.store import (
    Layout,
    TileWriter,
    VariancesReader,
    choose_driver,
    create,
    finished_tiles,
    mark_complete,
    read_journals,
    read_layout,
    read_shape,
)
from hpcnk.tiling import CrossGrid, Tile, TriangleGrid, deal

Result = Callable[[], NDArray[Any]]
AnyGrid = TypeVar("AnyGrid", TriangleGrid, CrossGrid)


@dataclass(frozen=True)
class _Work(Generic[AnyGrid]):
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


@dataclass(frozen=True)
class _Opened:
    """A tile file that is there, and its finished tiles."""

    layout: Layout
    done: frozenset[int]


@dataclass(frozen=True)
class _Spent:
    """What this run computed, in how many seconds, and how many of them every rank's engine had."""

    pairs: int
    seconds: float
    engine: list[float]


def kernel(session: Session) -> bool:
    """Compute and store all tiles that are still missing, train by train and test by train.

    Collective. Raises MismatchError when the stored tiles belong to something else, StorageError
    when the disk fails, UsageError when there is too little memory, Stopped when a signal came.
    """
    session.begin("kernel")
    engine = _engine(session)
    driver, reason = choose_driver(session.deck.store.driver)
    session.say(f"kernel: back end {engine.backend} ({engine.reason}); store {driver} ({reason})")
    contents = require_inputs(session)
    train, test = _works(session, engine, contents)
    works: tuple[_Work[Any], ...] = (train, test)
    if not on_root(session.comm, lambda: all(map(_is_complete, works))):
        require_memory(session, engine)  # before files are made, whose tile size is then fixed
    start, clock = time.perf_counter(), Clock()
    files = on_root(session.comm, lambda: [_open(session, work) for work in works])
    for work, file in zip(works, files, strict=True):
        if file.layout.complete:
            session.say(f"{work.title}: complete already")
    computed = 0
    if not all(file.layout.complete for file in files):
        with _blocks(session, engine, clock, contents) as blocks:
            tiles = _Tiles(session, engine, clock, blocks, driver)
            computed = sum(map(tiles.fill, works, files))
    spent = _Spent(computed, time.perf_counter() - start, session.comm.allgather(clock.seconds))
    if session.root and (computed or "kernel" not in session.folder.read_report()):
        _report(session, engine, driver, (train.grid, test.grid), spent)
    return True


def _engine(session: Session) -> Engine:
    """Make this rank's engine. Collective. Raises BackendError, also if ranks found unlike ones."""
    kernel, comm = session.deck.kernel, session.comm
    number, _ = place_on_host(comm)
    with agreement(comm):
        engine = make_engine(
            session.architecture, kernel.kind, kernel.dtype, kernel.backend, session.threads, number
        )
    found = sorted(set(comm.allgather(engine.backend)))
    if len(found) > 1:
        error = BackendError(
            f"ranks found different back ends: {' and '.join(found)}",
            "take hosts of one kind, or set kernel.backend to one that all of them have",
        )
        error.agreed = True
        raise error
    return engine


def _works(
    session: Session, engine: Engine, contents: dict[str, Any]
) -> tuple[_Work[TriangleGrid], _Work[CrossGrid]]:
    deck, folder = session.deck, session.folder
    n, m = (read_shape(folder.inputs, name)[0] for name in ("x_train", "x_test"))
    made_from = (deck, session.architecture, engine.backend, contents)
    triangle, cross = TriangleGrid(n, deck.kernel.tile), CrossGrid(m, n, deck.kernel.tile)
    origin, test_origin = kernel_provenance(*made_from), test_provenance(*made_from)
    return (
        _Work("kernel", folder.kernel, triangle, origin, "x_train", "x_train"),
        _Work("test kernel", folder.test_kernel, cross, test_origin, "x_test", "x_train"),
    )


@contextmanager
def _blocks(
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


def _is_complete(work: _Work) -> bool:
    return work.path.exists() and read_layout(work.path).complete


def _open(session: Session, work: _Work) -> _Opened:
    """Create the file or check the one that is there; return it and its finished tiles."""
    if not work.path.exists():
        create(work.path, work.grid, session.deck.kernel.dtype, work.provenance)
    layout = read_layout(work.path)
    note = require_same(work.path, layout.provenance, work.provenance, layout.complete)
    if note:
        session.warn("kernel", note)
    return _Opened(layout, frozenset() if layout.complete else frozenset(read_journals(layout)))


@dataclass(frozen=True)
class _Tiles:
    """Computes tiles, while the last one is written and the next one's rows are made ready."""

    session: Session
    engine: Engine
    clock: Clock
    blocks: Blocks
    driver: str

    def fill(self, work: _Work, file: _Opened) -> int:
        """Compute the missing tiles of one file; return the number of pairs that this took."""
        session, layout, done = self.session, file.layout, file.done
        if layout.complete:
            return 0
        if done:
            session.say(f"{work.title}: {len(done)} of {work.grid.count} tiles are there, resuming")
        self._compute(work, layout, deal(work.grid, session.comm.size, session.comm.rank, done))
        on_root(session.comm, lambda: _complete(layout))
        session.events.write("complete", phase=work.title)
        return work.grid.pairs - sum(work.grid.at(number).pairs for number in done)

    def _compute(self, work: _Work, layout: Layout, mine: list[int]) -> None:
        session = self.session
        progress = _progress(session, work, layout) if session.root else None
        with TileWriter(layout, self.driver, session.comm) as writer:
            for number, result in self._begun(work, mine):
                with self.clock.running():
                    block = result()
                writer.put(number, block)
                del block, result  # or they stay while the next one is computed
        stopped = any_rank(session.comm, bool(session.stop.requested))
        if progress:
            progress.close()
        if stopped:
            raise Stopped(
                f"{work.title}: stopped by a signal; every finished tile is stored",
                "start the same command again, on any number of ranks, to resume",
            )

    def _begun(self, work: _Work, mine: list[int]) -> Iterator[tuple[int, Result]]:
        """Begin tiles until a signal comes, as many ahead as the engine likes."""
        begun: deque[tuple[int, Result]] = deque()
        for number, following in zip_longest(mine, mine[1:]):
            if self.session.stop.requested:
                break
            begun.append((number, self._begin(work, number, following)))
            if len(begun) > self.engine.ahead:
                yield begun.popleft()
        yield from begun

    def _begin(self, work: _Work, number: int, following: int | None) -> Result:
        """Begin one tile, and have the rows of the following one made ready meanwhile."""
        sides = [self.blocks.at(*side) for side in work.sides(work.grid.at(number))]
        if following is not None:
            for side in work.sides(work.grid.at(following)):
                self.blocks.ahead(*side)
        with self.clock.running():
            return self.engine.start_block(*sides).result


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
    spent: _Spent,
) -> None:
    deck, (train, test) = session.deck, grids
    rate = spent.pairs / spent.seconds
    mean = float(np.mean(spent.engine))
    seconds = {"max": max(spent.engine), "mean": mean}
    share = {name: value / spent.seconds for name, value in seconds.items()}
    session.folder.update_report(
        kernel={
            "pairs": train.pairs + test.pairs,
            "pairs_computed_in_this_run": spent.pairs,
            "seconds": spent.seconds,
            "engine_seconds": seconds,
            "engine_share": share,
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
    session.say(
        f"kernel: {count(spent.pairs)} pairs in {duration(spent.seconds)}, {count(rate)} pairs/s, "
        f"{100 * share['mean']:.1f} % of the time in the engine"
    )
