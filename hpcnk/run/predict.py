"""Stage 3: predictions for the test rows, streamed over the test tiles, and their metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import broadcast, on_root
from hpcnk.errors import SolveError, UsageError
from hpcnk.report import score
from hpcnk.run.labels import read_targets
from hpcnk.run.prepare import require_inputs
from hpcnk.run.provenance import (
    require_same,
    solution_provenance,
    solver_settings,
    test_contents,
    train_contents,
)
from hpcnk.run.repair import repair
from hpcnk.run.session import Session
from hpcnk.run.solve import DO_NOT_TRUST, require_complete, usable
from hpcnk.run.stored import read_labels, read_solution
from hpcnk.run.sums import make_sums, single_thread_if_reproducible
from hpcnk.solve import cross_product
from hpcnk.solve.operator import HeldTile
from hpcnk.store import Layout, TileReader, differences, read_attributes, read_shape, write_arrays
from hpcnk.tiling import deal

Array = NDArray[np.float64]
Results = dict[str, Any]
HEADROOM = 2.0**20  # see hpcnk/comm/sums.py for what a bound may be too large


def predict(session: Session) -> bool:
    """Predict the test rows with every ridge; write predictions.h5 and the report. Collective.

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
    ridges, n, outputs = alpha.shape
    block = np.ascontiguousarray(alpha.transpose(1, 0, 2)).reshape(n, ridges * outputs)
    largest = _largest(results) if session.deck.solve.reproducible else np.inf
    product = _product(session, layout, contents, block, largest)
    predictions = product.reshape(-1, ridges, outputs).transpose(1, 0, 2)
    on_root(session.comm, lambda: _record(session, predictions, results))
    if not usable(results):
        session.say(f"WARNING: {DO_NOT_TRUST}")
    return usable(results)


def _product(
    session: Session, layout: Layout, contents: dict[str, Any], block: Array, largest: float
) -> Array:
    """Return the test kernel times `block`; damaged tiles are made anew first. Collective."""
    sums, again = make_sums(session), False
    rows = read_shape(session.folder.inputs, "x_test")[0]
    while True:
        damaged: list[int] = []
        tiles = _stream(session, layout, damaged)
        product = cross_product(sums, rows, tiles, block, largest)
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
    settings = ("solve.ridge", *solver_settings(session.deck))
    changed = differences(*({key: made.get(key) for key in settings} for made in (stored, origin)))
    if changed:
        raise UsageError(f"{path} was solved otherwise:\n  " + "\n  ".join(changed), advice)
    require_same(path, stored, origin, complete=True)
    return read_solution(path, session.folder.inputs, len(session.deck.solve.ridge))


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


def _record(session: Session, product: Array, results: Results) -> None:
    """Write the predictions, product (ridges, rows, outputs) decoded, and score them."""
    folder, targets = session.folder, read_targets(session.folder.inputs)
    predictions = [targets.decode(part) for part in product]
    encoded, target = read_labels(folder.inputs, "test")
    arrays = {f"test/{i}": values for i, values in enumerate(predictions)}
    with session.faults.writing("predict", folder.predictions):
        write_arrays(folder.predictions, {**arrays, "test/target": target}, {"task": targets.task})
    metrics = [score(targets.task, values, target, encoded) for values in predictions]
    session.update_report(**results, test=metrics)
    for ridge, values in zip(session.deck.solve.ridge, metrics, strict=True):
        chosen = "  <- chosen on the validation rows" if ridge == results["selected_ridge"] else ""
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
        session.say(f"test ({len(target)} rows): ridge {ridge:g}: {shown}{chosen}")
    session.events.write("test", metrics=metrics)
    session.say(f"results: {folder.report.with_suffix('.md')}, {folder.predictions}")
