"""Stage 1: the kernel's tiles, each computed and stored by the rank that owns it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import any_rank, on_root, wait_for_all
from hpcnk.engine import Engine
from hpcnk.errors import Stopped, StorageError
from hpcnk.report import Progress, count, duration
from hpcnk.run.blocks import Blocks
from hpcnk.run.clock import Clock
from hpcnk.run.needs.kernel_memory import require_memory
from hpcnk.run.needs.space import require_disk
from hpcnk.run.prepare import require_inputs
from hpcnk.run.provenance import require_same
from hpcnk.run.session import Session
from hpcnk.run.stored import require_grid
from hpcnk.run.work import Work, engine_of_rank, ready_blocks, works
from hpcnk.store import (
    Layout,
    TileWriter,
    choose_driver,
    create,
    finished_tiles,
    mark_complete,
    read_journals,
    read_layout,
    require_regular,
)
from hpcnk.tiling import CrossGrid, TriangleGrid, deal

Result = Callable[[], NDArray[Any]]


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
    engine = engine_of_rank(session)
    driver, reason = choose_driver(session.deck.store.driver)
    session.say(f"kernel: back end {engine.backend} ({engine.reason}); store {driver} ({reason})")
    contents = require_inputs(session)
    train, test = works(session, engine, contents)
    files_to_fill: tuple[Work[Any], ...] = (train, test)
    if not on_root(session.comm, lambda: all(map(_is_complete, files_to_fill))):
        require_memory(session, engine)  # before files are made, whose tile size is then fixed
        require_disk(session, driver)
    start, clock = time.perf_counter(), Clock()
    files = on_root(session.comm, lambda: [_open(session, work) for work in files_to_fill])
    for work, file in zip(files_to_fill, files, strict=True):
        if file.layout.complete:
            session.say(f"{work.title}: complete already")
    computed = 0
    if not all(file.layout.complete for file in files):
        with ready_blocks(session, engine, clock, contents) as blocks:
            tiles = _Tiles(session, engine, clock, blocks, driver)
            computed = sum(map(tiles.fill, files_to_fill, files))
    spent = _Spent(computed, time.perf_counter() - start, session.comm.allgather(clock.seconds))
    if session.root and (computed or "kernel" not in session.folder.read_report()):
        _report(session, engine, driver, (train.grid, test.grid), spent)
    return True


def _is_complete(work: Work) -> bool:
    return work.path.exists() and read_layout(work.path).complete


def _open(session: Session, work: Work) -> _Opened:
    """Create the file or check the one that is there; return it and its finished tiles."""
    if not work.path.exists():
        create(work.path, work.grid, session.deck.kernel.dtype, work.provenance)
    layout = read_layout(work.path)
    if not layout.complete:
        require_regular(work.path)
    note = require_same(work.path, layout.provenance, work.provenance, layout.complete)
    require_grid(layout, work.grid, session.deck.kernel.dtype)
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

    def fill(self, work: Work, file: _Opened) -> int:
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

    def _compute(self, work: Work, layout: Layout, mine: list[int]) -> None:
        session = self.session
        progress = _progress(session, work, layout) if session.root else None
        with TileWriter(layout, self.driver, session.comm, session.faults.driver) as writer:
            for number, result in self._begun(work, mine):
                with self.clock.running():
                    block = result()
                writer.put(number, block)
                session.watchdog.beat()
                del block, result  # or they stay while the next one is computed
            writer.commit()  # before any rank believes that all have
            # Here all wait for the slowest, asleep. In closing, mpio would wait at full load, and
            # with an h5py that keeps the interpreter's lock the watchdog could not look.
            wait_for_all(session.comm)
        # And here for all tiles to be in the journals.
        stopped = any_rank(session.comm, bool(session.stop.requested))
        if progress:
            progress.close()
        if stopped:
            raise Stopped(
                f"{work.title}: stopped by a signal; every finished tile is stored",
                "start the same command again, on any number of ranks, to resume",
            )

    def _begun(self, work: Work, mine: list[int]) -> Iterator[tuple[int, Result]]:
        """Begin tiles until a signal comes, as many ahead as the engine likes."""
        begun: deque[tuple[int, Result]] = deque()
        for number, following in zip_longest(mine, mine[1:]):
            self.session.faults.step("kernel")
            if self.session.stop.is_requested_of_any():
                break
            begun.append((number, self._begin(work, number, following)))
            if len(begun) > self.engine.ahead:
                yield begun.popleft()
        yield from begun

    def _begin(self, work: Work, number: int, following: int | None) -> Result:
        """Begin one tile, and have the rows of the following one made ready meanwhile."""
        sides = [self.blocks.at(*side) for side in work.sides(work.grid.at(number))]
        if following is not None:
            for side in work.sides(work.grid.at(following)):
                self.blocks.ahead(*side)
        with self.clock.running():
            return self.engine.start_block(*sides).result


def _progress(session: Session, work: Work, layout: Layout) -> Progress:
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
    session.update_report(
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
