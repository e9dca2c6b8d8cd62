"""What is known of each row alone, found once for the data set, its rows dealt over all ranks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from hpcnk.comm import agreement, any_rank, on_root
from hpcnk.engine import Described, Engine
from hpcnk.engine.precision import working_dtype
from hpcnk.engine.program import make_program
from hpcnk.errors import DataError, Stopped
from hpcnk.kernels import Architecture
from hpcnk.report import duration
from hpcnk.run.blocks import Known, placed
from hpcnk.run.clock import Clock
from hpcnk.run.folder import Folder
from hpcnk.run.provenance import variances_provenance
from hpcnk.run.session import Session
from hpcnk.store import (
    VariancesLayout,
    VariancesReader,
    VariancesWriter,
    create_variances,
    differences,
    mark_variances_complete,
    read_rows,
    read_shape,
    read_variances_layout,
)
from hpcnk.store.variances import ROWS
from hpcnk.tiling import share

PARTS = ("x_train", "x_test")
STEP_BYTES = 8 << 20  # of the float64 variances that are found at a time


def positions(architecture: Architecture, input_shape: tuple[int, ...]) -> int:
    """Count the variances of one row."""
    return make_program(architecture.plan(input_shape)).variances


def rows_at_a_time(numbers: int) -> int:
    """Return how many rows, in whole blocks, are described at a time; a row has so many numbers."""
    return max(1, STEP_BYTES // (max(1, numbers) * 8 * ROWS)) * ROWS


def find_variances(
    session: Session, engine: Engine, clock: Clock, contents: dict[str, Any]
) -> VariancesLayout:
    """Return the complete file of variances, made anew unless one is there that fits. Collective.

    A file made from something else is replaced: it costs little, and the tiles made from it are
    checked on their own. Raises DataError naming a row whose kernel overflows, StorageError,
    Stopped when a signal came.
    """
    start = time.perf_counter()
    layout = on_root(session.comm, lambda: _open(session, engine, contents))
    if layout.complete:
        return layout
    with agreement(session.comm):
        _describe(session, engine, clock, layout)
    if any_rank(session.comm, bool(session.stop.requested)):
        raise Stopped("variances: stopped by a signal", "start the same command again")
    on_root(session.comm, lambda: mark_variances_complete(layout))
    seconds = time.perf_counter() - start
    session.say(f"variances: {sum(layout.rows.values())} rows in {duration(seconds)}")
    session.events.write("complete", phase="variances", seconds=round(seconds, 3))
    return layout


def known_rows(reader: VariancesReader) -> Known:
    """Return a function that reads what is known of some rows."""

    def known(name: str, rows: slice) -> Described:
        return Described(*reader.read(name, rows))

    return known


def _open(session: Session, engine: Engine, contents: dict[str, Any]) -> VariancesLayout:
    """Return the layout of the file if it is complete and fits, else of a new one."""
    folder, architecture = session.folder, session.architecture
    dtype = working_dtype(architecture, engine.dtype)
    wanted = variances_provenance(
        session.deck, architecture, (engine.backend, dtype.name), contents
    )
    shapes = _shapes(folder)
    rows = {part: shape[0] for part, shape in shapes.items()}
    count = positions(architecture, shapes[PARTS[0]][1:])
    if folder.variances.exists():
        layout = read_variances_layout(folder.variances)
        changed = differences(layout.provenance, wanted)
        fits = (layout.rows, layout.positions, layout.dtype) == (rows, count, dtype)
        if layout.complete and fits and not changed:
            return layout
        if changed:
            session.say(f"variances: computed anew, for they are of something else: {changed[0]}")
    return create_variances(folder.variances, rows, count, dtype, wanted)


def _shapes(folder: Folder) -> dict[str, tuple[int, ...]]:
    return {part: read_shape(folder.inputs, part) for part in PARTS}


def _describe(session: Session, engine: Engine, clock: Clock, layout: VariancesLayout) -> None:
    """Find and store this rank's rows, in steps, until a signal comes."""
    with VariancesWriter(layout) as writer:
        for part, rows in _steps(session, layout):
            if session.stop.requested:
                return
            x = read_rows(session.folder.inputs, part, rows)
            try:
                with clock.running():
                    found = engine.describe(x)
            except DataError as error:
                raise placed(error, part, rows.start) from error
            diagonal = np.ascontiguousarray(found.diagonal, np.float64)
            writer.put(part, rows.start, np.ascontiguousarray(found.variances), diagonal)
            session.watchdog.beat()
        writer.sync()


def _steps(session: Session, layout: VariancesLayout) -> Iterator[tuple[str, slice]]:
    """Cut this rank's share, whole blocks in one piece of each part, into steps."""
    comm = session.comm
    features = int(np.prod(read_shape(session.folder.inputs, PARTS[0])[1:]))
    length = rows_at_a_time(layout.positions + features)
    for part in PARTS:
        blocks = share(layout.blocks(part), comm.size, comm.rank)
        end = min(blocks.stop * ROWS, layout.rows[part])
        for start in range(blocks.start * ROWS, end, length):
            yield part, slice(start, min(start + length, end))
