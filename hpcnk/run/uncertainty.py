"""Predictive variances of the test rows: a few test columns at a time, solved for all settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcnk.comm import agreement, on_root, share_sum
from hpcnk.errors import UsageError
from hpcnk.report import passes
from hpcnk.run.advice import against_rounding
from hpcnk.run.analysis import columns_at_once, distinct, nearby_of
from hpcnk.run.problem import Columns
from hpcnk.run.provenance import require_same, settings_provenance
from hpcnk.run.session import Session
from hpcnk.run.watched import between_passes
from hpcnk.solve import Limits, Nearby, Operator, Variances, rows_of_tiles, variances
from hpcnk.solve.spread import Array
from hpcnk.store import Layout, TileReader, VariancesReader, read_variances_layout
from hpcnk.tiling import deal

STAGE = "predict"


def predictive_variances(
    session: Session,
    operator: Operator,
    columns: Columns,
    precondition: Nearby | None,
    layout: Layout,
    contents: dict[str, Any],
) -> dict[str, Array]:
    """Return the variances by the names of their data sets, on all ranks. Collective.

    `test/variance/<setting>` (test rows,), or (test rows, outputs) where outputs have labels of
    different rows. They are those of the function, without noise, under a prior of unit amplitude:
    in units of the kernel. `layout` of the test kernel, `contents` of the test data;
    `precondition`: that of the solve, None if it had none. Raises UsageError for a kernel that is
    no covariance or not complete, StorageError for a damaged tile, SolveError, Stopped.
    """
    require_nngp(session)
    prior = on_root(session.comm, lambda: _prior(session, contents))
    matrices = distinct(columns.matrices)
    nearby = nearby_of(operator, columns, precondition)
    width = columns_at_once(operator.n, len(columns.matrices))
    chunk = max(1, width // len(matrices))
    starts = range(0, len(prior), chunk)
    session.say(
        f"variance: {len(prior)} test rows x {len(matrices)} matrices, {chunk} rows at a time"
    )
    parts = [
        _some(session, operator, columns, nearby, layout, prior, slice(start, start + chunk))
        for start in starts
    ]
    _tell(session, parts)
    values = np.concatenate([part.values for part in parts], axis=1)
    return {
        f"test/variance/{i}": _of_setting(columns, i, values) for i in range(len(columns.settings))
    }


def require_nngp(session: Session) -> None:
    """Raise UsageError for a tangent kernel, which is no covariance of what is predicted."""
    if session.deck.kernel.kind != "nngp":
        raise UsageError(
            "the predictive variance with a tangent kernel is not that of a Gaussian process: a "
            "network trained by gradient descent has another, which needs both kernels",
            "set kernel.kind: nngp, or predict.variance: false",
        )


def _prior(session: Session, contents: dict[str, Any]) -> Array:
    """Return k(x, x) of the test rows, as it was found before the tiles."""
    path = session.folder.variances
    layout = read_variances_layout(path) if path.exists() else None
    if layout is None or not layout.complete:
        raise UsageError(
            f"{path} is not complete", f"run `hpcnk kernel {session.deck.source}` first"
        )
    wanted = settings_provenance(session.deck, session.architecture) | contents
    del wanted["kernel.tile"]
    require_same(path, layout.provenance, wanted, complete=True)
    with VariancesReader(layout) as reader:
        return reader.read("x_test", slice(0, layout.rows["x_test"]))[1]


def _some(
    session: Session,
    operator: Operator,
    columns: Columns,
    nearby: Nearby,
    layout: Layout,
    prior: Array,
    rows: slice,
) -> Variances:
    """Return the variances of some test rows under all matrices."""
    deck, rows = session.deck.solve, slice(rows.start, min(rows.stop, len(prior)))
    between_passes(session)
    return variances(
        operator,
        _test_columns(session, operator, layout, rows),
        prior[rows],
        distinct(columns.matrices),
        columns.row_sets,
        nearby,
        Limits(deck.tolerance, deck.max_iterations),
        float(np.finfo(layout.dtype).eps),
        lambda systems: between_passes(session),
    )


def _test_columns(session: Session, operator: Operator, layout: Layout, rows: slice) -> Array:
    """Return this rank's rows of K(training rows, some test rows). Collective."""
    comm, grid = session.comm, layout.grid
    mine = map(grid.at, deal(grid, comm.size, comm.rank))
    wanted = [t for t in mine if t.rows.start < rows.stop and t.rows.stop > rows.start]
    with agreement(comm), TileReader(layout) as reader:
        tiles = ((tile, reader.read(tile.number)) for tile in wanted)
        found = rows_of_tiles(operator.n, tiles, rows)
    return share_sum(comm, found, operator.spread.blocks)


def _of_setting(columns: Columns, number: int, values: Array) -> Array:
    """Return the variances of a setting's outputs, once if they are all of one matrix."""
    matrices = distinct(columns.matrices)
    rows = [matrices.index(matrix) for matrix in columns.matrices[columns.of(number)]]
    return values[rows[0]] if len(set(rows)) == 1 else values[rows].T


def _tell(session: Session, parts: list[Variances]) -> None:
    clipped, negative = (sum(getattr(part, name) for part in parts) for name in _KINDS)
    session.say(
        f"variance: done in {passes(sum(part.passes for part in parts))} over the kernel; "
        f"{clipped} were negative by rounding and are 0"
    )
    if negative:
        session.warn(
            STAGE,
            f"variance: {negative} are negative by more than rounding: the stored kernel plus "
            f"ridge is not positive definite there; {against_rounding(session.deck)}",
        )
    if not all(part.converged for part in parts):
        session.warn(
            STAGE,
            "variance: not all of its systems reached the tolerance, so that some variances are "
            "too large; raise solve.max_iterations or the preconditioner's rank",
        )


_KINDS = ("clipped", "negative")
