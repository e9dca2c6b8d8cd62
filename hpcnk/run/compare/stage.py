"""The stage `compare`: fit every item, choose its ridge on held-out rows, score the test rows.

An item is a method with a training-set size and a budget. Its ridge is chosen by a fit without the
rows held out, on which all ridges are scored; then it is fitted with that ridge on all rows of the
size, and the test rows are scored, once. Items that are in compare.json already are not computed
again; the exact solutions of all sizes that are not there are computed in the same passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import on_root
from hpcnk.data import labelled
from hpcnk.errors import UsageError
from hpcnk.report import duration
from hpcnk.run.compare.ground import Ground
from hpcnk.run.compare.items import EXACT, Item, asked_items
from hpcnk.run.compare.queries import open_tests
from hpcnk.run.compare.record import Record
from hpcnk.run.compare.results import publish
from hpcnk.run.compare.trial import Trial
from hpcnk.run.needs.compare_memory import session_with_room
from hpcnk.run.operators import open_operator
from hpcnk.run.prepare import require_inputs
from hpcnk.run.provenance import (
    solution_provenance,
    solver_settings,
    test_contents,
    train_contents,
)
from hpcnk.run.session import Session
from hpcnk.run.solve import require_complete
from hpcnk.run.stored import read_labels
from hpcnk.run.sums import single_thread_if_reproducible
from hpcnk.run.validation import held_rows
from hpcnk.store import Layout

STAGE = "compare"
Rows = NDArray[np.int64]


def require_comparable(session: Session) -> bool:
    """Refuse what cannot be compared, before a kernel is computed for it. Collective.

    Raises DeckError for sizes and budgets that are impossible, UsageError where no ridge can be
    chosen or memory is short.
    """
    require_inputs(session)
    items, held = _items(session)
    session_with_room(session, items, len(held))
    return True


def compare(session: Session) -> bool:
    """Fit all items and write compare.json, compare.csv and the plot. Collective.

    Return whether all items could be solved. Raises UsageError when the kernel is not complete or
    memory is short, MismatchError, StorageError, SolveError, Stopped.
    """
    session.begin(STAGE)
    contents = require_inputs(session)
    layout = require_complete(session, session.folder.kernel, train_contents(contents))
    tested = test_contents(session.deck, contents)
    test_layout = require_complete(session, session.folder.test_kernel, tested)
    items, held = _items(session)
    origin = _origin(session, layout.id, contents)
    record = Record(session, origin, {"name": session.deck.name, "task": contents["task"]})
    left = [item for item in items if not record.holds(item)]
    if len(left) < len(items):
        session.say(f"compare: {len(items) - len(left)} of {len(items)} items are there already")
    if left:
        single_thread_if_reproducible(session)
        roomy = session_with_room(session, items, len(held))
        _fill(roomy, record, left, held, (layout, test_layout), contents)
    return publish(session, record.write(items))


def _items(session: Session) -> tuple[list[Item], Rows]:
    """Return what is to be compared, and the rows held out. Collective."""
    deck = session.deck
    labels = on_root(session.comm, lambda: read_labels(session.folder.inputs, "train"))
    held = held_rows(session, labels[1])
    if not held.size and len(deck.solve.ridge) > 1:
        raise _agreed(
            UsageError(
                f"solve.ridge has {len(deck.solve.ridge)} values and no row is held out to choose "
                "from them for each method",
                "set data.validation (0.1 holds out a tenth of the rows), or give one ridge",
            )
        )
    return on_root(session.comm, lambda: asked_items(deck, len(labels[0]), held)), held


def _agreed(error: UsageError) -> UsageError:
    error.agreed = True
    return error


def _origin(session: Session, kernel_id: str, contents: dict[str, Any]) -> dict[str, str]:
    """Return what entries must have been made from."""
    made = solution_provenance(session.deck, kernel_id, contents) | solver_settings(session.deck)
    made |= test_contents(session.deck, contents)
    made.pop("solve.sizes", None)
    return {key: str(value) for key, value in made.items()} | {
        "compare.inducing": session.deck.compare.inducing
    }


def _fill(
    session: Session,
    record: Record,
    left: list[Item],
    held: Rows,
    layouts: tuple[Layout, Layout],
    contents: dict[str, Any],
) -> None:
    """Compute the items that are left, and record each. Collective."""
    y, _ = read_labels(session.folder.inputs, "train")
    there = labelled(y)
    labels = np.where(there, y, 0.0)
    with open_operator(session, layouts[0], contents) as operator:
        ground = Ground(session, operator, operator.diagonal(), labels, there, held)
        with open_tests(session, ground, layouts[1], contents) as tests:
            trial = Trial(ground, tests)
            for some in _batches(left):
                session.watchdog.beat()
                session.stop.raise_if_requested(session.comm)
                for item, entry in zip(some, trial.entries(some), strict=True):
                    record.add(item, entry)
                    seconds = duration(sum(entry["seconds"].values()))
                    session.say(f"compare: {item}: {_shown(entry)} ({seconds})")


def _batches(items: list[Item]) -> list[list[Item]]:
    """Put the items of an exact method together, for they share the passes over the kernel."""
    exact = [[item for item in items if item.method == method] for method in EXACT]
    return [some for some in exact if some] + [[i] for i in items if i.method not in EXACT]


def _shown(entry: dict[str, Any]) -> str:
    if entry["test"] is None:
        return "could not be solved with any ridge"
    metrics = (f"{name.replace('_', ' ')} {value:.4g}" for name, value in entry["test"].items())
    return f"ridge {entry['ridge']:g}, {', '.join(metrics)}"
