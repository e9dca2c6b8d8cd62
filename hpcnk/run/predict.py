"""Stage 3: predictions for the test rows, streamed over the test tiles, and their metrics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import on_root
from hpcnk.errors import UsageError
from hpcnk.report import score
from hpcnk.run.labels import read_targets
from hpcnk.run.prepare import require_inputs
from hpcnk.run.session import Session
from hpcnk.run.solve import require_complete
from hpcnk.solve import cross_product
from hpcnk.solve.operator import HeldTile
from hpcnk.store import Layout, TileReader, read_arrays, read_shape, write_arrays
from hpcnk.tiling import deal

Array = NDArray[np.float64]


def predict(session: Session) -> None:
    """Predict the test rows with every ridge; write predictions.h5 and the report. Collective.

    Raises UsageError when an earlier stage is missing, StorageError for a damaged tile.
    """
    require_inputs(session)
    folder = session.folder
    layout = on_root(session.comm, lambda: require_complete(session, folder.test_kernel))
    alpha = on_root(session.comm, lambda: _coefficients(session))
    ridges, n, outputs = alpha.shape
    rows = read_shape(folder.inputs, "x_test")[0]
    block = alpha.transpose(1, 0, 2).reshape(n, ridges * outputs)
    product = cross_product(session.comm, rows, _stream(session, layout), block)
    predictions = product.reshape(-1, ridges, outputs).transpose(1, 0, 2)
    on_root(session.comm, lambda: _record(session, predictions))


def _coefficients(session: Session) -> Array:
    path = session.folder.solution
    advice = f"run `hpcnk solve {session.deck.source}` first"
    if not path.exists():
        raise UsageError(f"there is no solution in {session.folder.path}", advice)
    alpha, ridge = read_arrays(path, "alpha", "ridge")
    if tuple(ridge) != tuple(session.deck.solve.ridge):
        raise UsageError(f"{path} was solved for the ridges {ridge.tolist()}", advice)
    return alpha


def _stream(session: Session, layout: Layout) -> Iterator[HeldTile]:
    with TileReader(layout) as reader:
        for number in deal(layout.grid, session.comm.size, session.comm.rank):
            yield layout.grid.at(number), reader.read(number)


def _record(session: Session, product: Array) -> None:
    """Write the predictions, product (ridges, rows, outputs) decoded, and score them."""
    folder, targets = session.folder, read_targets(session.folder.inputs)
    predictions = [targets.decode(part) for part in product]
    target, encoded = read_arrays(folder.inputs, "target_test", "y_test")
    arrays = {f"test/{i}": values for i, values in enumerate(predictions)}
    write_arrays(folder.predictions, {**arrays, "test/target": target}, {"task": targets.task})
    metrics = [score(targets.task, values, target, encoded) for values in predictions]
    report = folder.update_report(test=metrics)
    for ridge, values in zip(session.deck.solve.ridge, metrics, strict=True):
        chosen = "  <- chosen on the validation rows" if ridge == report["selected_ridge"] else ""
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
        session.say(f"test ({len(target)} rows): ridge {ridge:g}: {shown}{chosen}")
    session.events.write("test", metrics=metrics)
    session.say(f"results: {folder.report.with_suffix('.md')}, {folder.predictions}")
