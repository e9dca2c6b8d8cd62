"""Stage 3: predictions for the test rows, streamed over the test tiles, and their metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import on_root
from hpcnk.errors import UsageError
from hpcnk.report import score
from hpcnk.run.labels import read_targets
from hpcnk.run.prepare import require_inputs
from hpcnk.run.provenance import (
    require_same,
    solution_provenance,
    test_contents,
    train_contents,
)
from hpcnk.run.session import Session
from hpcnk.run.solve import DO_NOT_TRUST, require_complete, usable
from hpcnk.solve import cross_product
from hpcnk.solve.operator import HeldTile
from hpcnk.store import Layout, TileReader, read_arrays, read_attributes, read_shape, write_arrays
from hpcnk.tiling import deal

Array = NDArray[np.float64]
Results = dict[str, Any]


def predict(session: Session) -> bool:
    """Predict the test rows with every ridge; write predictions.h5 and the report. Collective.

    Return whether the predictions can be trusted: the chosen solution converged. Raises UsageError
    when an earlier stage is missing, MismatchError when its files are of another deck or data,
    StorageError for a damaged tile.
    """
    contents, folder = require_inputs(session), session.folder
    kernel = require_complete(session, folder.kernel, train_contents(contents))
    tested = test_contents(session.deck, contents)
    layout = require_complete(session, folder.test_kernel, tested)
    origin = solution_provenance(session.deck, kernel.id, contents)
    alpha, results = on_root(session.comm, lambda: _solution(session, origin))
    ridges, n, outputs = alpha.shape
    block = alpha.transpose(1, 0, 2).reshape(n, ridges * outputs)
    rows = read_shape(folder.inputs, "x_test")[0]
    product = cross_product(session.comm, rows, _stream(session, layout), block)
    predictions = product.reshape(-1, ridges, outputs).transpose(1, 0, 2)
    on_root(session.comm, lambda: _record(session, predictions, results))
    if not usable(results):
        session.say(f"WARNING: {DO_NOT_TRUST}")
    return usable(results)


def _solution(session: Session, origin: Results) -> tuple[Array, Results]:
    """Return the coefficients and what the solver said of them."""
    path = session.folder.solution
    advice = f"run `hpcnk solve {session.deck.source}` first"
    if not path.exists():
        raise UsageError(f"there is no solution in {session.folder.path}", advice)
    stored = read_attributes(path)
    ridges = stored.get("solve.ridge")
    if ridges != origin["solve.ridge"]:
        raise UsageError(f"{path} was solved for the ridges {ridges}", advice)
    require_same(path, stored, origin, complete=True)
    alpha, results = read_arrays(path, "alpha", "results")
    return alpha, json.loads(results.tobytes())


def _stream(session: Session, layout: Layout) -> Iterator[HeldTile]:
    with TileReader(layout) as reader:
        for number in deal(layout.grid, session.comm.size, session.comm.rank):
            yield layout.grid.at(number), reader.read(number)


def _record(session: Session, product: Array, results: Results) -> None:
    """Write the predictions, product (ridges, rows, outputs) decoded, and score them."""
    folder, targets = session.folder, read_targets(session.folder.inputs)
    predictions = [targets.decode(part) for part in product]
    target, encoded = read_arrays(folder.inputs, "target_test", "y_test")
    arrays = {f"test/{i}": values for i, values in enumerate(predictions)}
    write_arrays(folder.predictions, {**arrays, "test/target": target}, {"task": targets.task})
    metrics = [score(targets.task, values, target, encoded) for values in predictions]
    folder.update_report(**results, test=metrics)
    for ridge, values in zip(session.deck.solve.ridge, metrics, strict=True):
        chosen = "  <- chosen on the validation rows" if ridge == results["selected_ridge"] else ""
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
        session.say(f"test ({len(target)} rows): ridge {ridge:g}: {shown}{chosen}")
    session.events.write("test", metrics=metrics)
    session.say(f"results: {folder.report.with_suffix('.md')}, {folder.predictions}")
