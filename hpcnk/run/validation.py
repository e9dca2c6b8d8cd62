"""Choosing the ridge: a solve without some of the training rows, scored on those."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import on_root
from hpcnk.report import better, score
from hpcnk.run.held import draw_held_rows
from hpcnk.run.labels import read_targets
from hpcnk.run.needs.solve_memory import Room
from hpcnk.run.problem import Columns, Setting, columns_of
from hpcnk.run.session import Session
from hpcnk.run.systems import Array, solve_systems
from hpcnk.solve.operator import Operator

VALIDATION = "validation"


def validate(
    session: Session,
    operator: Operator,
    y: Array,
    target: NDArray[Any],
    origin: dict[str, str],
    room: Room,
) -> dict[str, Any] | None:
    """Score every setting on held-out training rows; None if the deck sets none aside. Collective.

    `y` (n, outputs) are the encoded labels, NaN where there is none; `room`: for the
    preconditioner.
    """
    held = held_rows(session, target)
    if not held.size:
        return None
    columns = columns_of(session.deck, y, held, operator.diagonal())
    which = (VALIDATION, f"without {len(held)} rows")
    systems = solve_systems(session, operator, columns, which, origin, room)
    encoded = operator.spread.rows_at(operator.apply(systems.solution.x), held)

    def metrics_of_settings() -> list[dict[str, float]]:
        targets = read_targets(session.folder.inputs)
        parts = [encoded[:, columns.of(i)] for i in range(len(columns.settings))]
        decoded = [targets.decode(part) for part in parts]
        labels = (target[held], y[held], targets.std)
        return [score(targets.task, part, *labels) for part in decoded]

    metrics = on_root(session.comm, metrics_of_settings)
    summary = systems.summary()
    return {
        "rows": held,
        "factor": systems.precondition.factor,
        "metrics": metrics,
        "solve": summary,
        "selected": _select(columns, metrics, [entry["converged"] for entry in summary]),
    }


def held_rows(session: Session, target: NDArray[Any]) -> NDArray[np.int64]:
    """Return the training rows that the deck sets aside. Collective. Raises DataError."""
    return on_root(session.comm, lambda: draw_held_rows(session.deck, target))


def _select(
    columns: Columns, metrics: list[dict[str, float]], converged: list[bool]
) -> list[Setting]:
    """Return the best setting of each size, among the converged ones where there are any."""
    best = []
    for rows in sorted({setting.rows for setting in columns.settings}):
        here = [i for i, setting in enumerate(columns.settings) if setting.rows == rows]
        candidates = [i for i in here if converged[i]] or here
        first = candidates[0]
        for i in candidates[1:]:
            if better(metrics[i], metrics[first]):
                first = i
        best.append(columns.settings[first])
    return best


def edge(ridges: tuple[float, ...], selected: float) -> str:
    """Say so when the best ridge may lie outside the list."""
    if selected == min(ridges) and selected > 0:
        return "; it is the smallest of the list: a smaller one may be better"
    if selected == max(ridges):
        return "; it is the largest of the list: a larger one may be better"
    return ""
