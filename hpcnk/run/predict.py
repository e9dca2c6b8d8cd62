"""Stage 3: predictions for the test rows, streamed over the test tiles, and their metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import broadcast, on_root
from hpcnk.data import Targets
from hpcnk.errors import SolveError, UsageError
from hpcnk.report import score
from hpcnk.run.labels import read_targets
from hpcnk.run.needs.solve_memory import preconditioner_room
from hpcnk.run.operators import open_operator
from hpcnk.run.preconditioners import make_preconditioner
from hpcnk.run.prepare import require_inputs
from hpcnk.run.problem import columns_of
from hpcnk.run.provenance import (
    require_same,
    solution_provenance,
    solver_settings,
    test_contents,
    train_contents,
)
from hpcnk.run.repair import repair
from hpcnk.run.session import Session
from hpcnk.run.solve import do_not_trust, require_complete, usable
from hpcnk.run.stored import read_labels, read_solution
from hpcnk.run.sums import make_sums, single_thread_if_reproducible
from hpcnk.run.uncertainty import predictive_variances, require_nngp
from hpcnk.solve import cross_product, make_products
from hpcnk.solve.tiles import HeldTile
from hpcnk.store import Layout, TileReader, differences, read_attributes, read_shape, write_arrays
from hpcnk.tiling import deal

Array = NDArray[np.float64]
Results = dict[str, Any]
HEADROOM = 2.0**20  # see hpcnk/comm/sums.py for what a bound may be too large


def predict(session: Session) -> bool:
    """Predict the test rows with every setting; write predictions.h5 and the report. Collective.

    Return whether the predictions can be trusted: the chosen solution converged. Raises UsageError
    when an earlier stage is missing, MismatchError when its files are of another deck or data,
    StorageError for a damaged tile.
    """
    session.enter("predict")
    contents, folder = require_inputs(session), session.folder
    kernel = require_complete(session, folder.kernel, train_contents(contents))
    tested = test_contents(session.deck, contents)
    layout = require_complete(session, folder.test_kernel, tested)
    origin = solution_provenance(session.deck, kernel.id, contents) | solver_settings(session.deck)
    single_thread_if_reproducible(session)
    alpha, results = _shared_solution(session, origin)
    settings, n, outputs = alpha.shape
    block = np.ascontiguousarray(alpha.transpose(1, 0, 2)).reshape(n, settings * outputs)
    largest = _largest(results) if session.deck.solve.reproducible else np.inf
    product = _product(session, layout, contents, block, largest)
    predictions = product.reshape(-1, settings, outputs).transpose(1, 0, 2)
    more = _variances(session, (kernel, layout), contents) if session.deck.predict.variance else {}
    on_root(session.comm, lambda: _record(session, predictions, more, results))
    if not usable(results):
        session.say(f"WARNING: {do_not_trust(results)}")
    return usable(results)


def _product(
    session: Session, layout: Layout, contents: dict[str, Any], block: Array, largest: float
) -> Array:
    """Return the test kernel times `block`; damaged tiles are made anew first. Collective."""
    sums, again = make_sums(session), False
    products = make_products(session.deck.kernel.backend, session.threads)
    rows = read_shape(session.folder.inputs, "x_test")[0]
    while True:
        damaged: list[int] = []
        tiles = _stream(session, layout, damaged)
        product = cross_product(sums, rows, tiles, block, products, largest)
        session.stop.raise_if_requested(session.comm)
        if not repair(session, layout, contents, damaged, again):
            break
        again = True
    if not np.isfinite(product).all():
        raise SolveError(
            "a prediction is not finite",
            "run `hpcnk verify` on the output folder; with solve.reproducible, test rows that are "
            "a million times larger than training rows cannot be added up: set it to false",
        )
    return product


def _variances(
    session: Session, layouts: tuple[Layout, Layout], contents: dict[str, Any]
) -> dict[str, Array]:
    """Return the predictive variances: with the training kernel, the test columns are solved."""
    require_nngp(session)
    kernel, tested = layouts
    y, _ = read_labels(session.folder.inputs, "train")
    room = preconditioner_room(session)
    with open_operator(session, kernel, contents) as operator:
        columns = columns_of(session.deck, y, np.arange(0), operator.diagonal())
        parts = (session, operator, columns.row_sets, columns.matrices, "variances")
        near = make_preconditioner(*parts, room=room).low_rank()
        made_from = test_contents(session.deck, contents)
        return predictive_variances(session, operator, columns, near, tested, made_from)


def _largest(results: Results) -> float:
    """Bound the test kernel's entries, generously: by the mean diagonal of the training kernel."""
    return HEADROOM * results["mean_diagonal"]


def _shared_solution(session: Session, origin: Results) -> tuple[Array, Results]:
    """Read the solution on one rank for all. Collective."""
    held: list[Array] = []

    def read() -> Results:
        alpha, results = _solution(session, origin)
        held.append(alpha)
        return results

    results = on_root(session.comm, read)
    return broadcast(session.comm, held[0] if held else None), results


def _solution(session: Session, origin: Results) -> tuple[Array, Results]:
    """Return the coefficients and what the solver said of them."""
    path = session.folder.solution
    advice = f"run `hpcnk solve {session.deck.source}` first"
    if not path.exists():
        raise UsageError(f"there is no solution in {session.folder.path}", advice)
    stored = read_attributes(path)
    settings = ("solve.ridge", "solve.sizes", *solver_settings(session.deck))
    changed = differences(*({key: made.get(key) for key in settings} for made in (stored, origin)))
    if changed:
        raise UsageError(f"{path} was solved otherwise:\n  " + "\n  ".join(changed), advice)
    require_same(path, stored, origin, complete=True)
    return read_solution(path, session.folder.inputs)


def _stream(session: Session, layout: Layout, damaged: list[int]) -> Iterator[HeldTile]:
    """Give this rank's tiles, until a signal comes; note those that are damaged."""
    with TileReader(layout) as reader:
        for number in deal(layout.grid, session.comm.size, session.comm.rank):
            session.watchdog.beat()
            session.faults.step("predict")
            if session.stop.requested:
                return
            session.faults.flip("predict", layout, number)
            entries = reader.read_intact(number)
            if entries is None:
                damaged.append(number)
            else:
                yield layout.grid.at(number), entries


def _in_own_units(variances: Array, targets: Targets) -> Array:
    """Return variances (rows,) or (rows, outputs) as those of real targets: (rows, outputs)."""
    if targets.task == "classification":
        return variances
    return (variances if variances.ndim == 2 else variances[:, None]) * targets.std**2


def _scored(entry: Results, values: dict[str, float], results: Results) -> str:
    """Say how a setting did."""
    several = len({other["rows"] for other in results["solve"]}) > 1
    size = f"{entry['rows']} training rows, " if several else ""
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
    best = {"rows": entry["rows"], "ridge": entry["ridge"]} in results["selected"]
    chosen = "  <- chosen on the validation rows" if best else ""
    return f"{size}ridge {entry['ridge']:g}: {shown or 'no test row has a label'}{chosen}"


def _record(session: Session, product: Array, more: dict[str, Array], results: Results) -> None:
    """Write the predictions, product (settings, rows, outputs) decoded, and score them."""
    folder, targets = session.folder, read_targets(session.folder.inputs)
    predictions = [targets.decode(part) for part in product]
    encoded, target = read_labels(folder.inputs, "test")
    arrays = {f"test/{i}": values for i, values in enumerate(predictions)}
    arrays |= {name: _in_own_units(values, targets) for name, values in more.items()}
    with session.faults.writing("predict", folder.predictions):
        arrays |= {"test/target": target}
        write_arrays(folder.predictions, arrays, {"task": targets.task})
    labels = (target, encoded, targets.std)
    metrics = [score(targets.task, values, *labels) for values in predictions]
    session.update_report(**results, test=metrics)
    for entry, values in zip(results["solve"], metrics, strict=True):
        session.say(f"test ({len(target)} rows): {_scored(entry, values, results)}")
    session.events.write("test", metrics=metrics)
    session.say(f"results: {folder.report.with_suffix('.md')}, {folder.predictions}")
