"""Choosing the ridge: a solve without some of the training rows, scored on those."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import on_root
from hpcnk.data import validation_rows
from hpcnk.report import better, score
from hpcnk.run.labels import read_targets
from hpcnk.run.session import Session
from hpcnk.run.systems import Array, solve_systems
from hpcnk.solve import Restricted
from hpcnk.solve.operator import Operator

VALIDATION = "validation"


def validate(
    session: Session,
    operator: Operator,
    y: Array,
    target: NDArray[Any],
    origin: dict[str, str],
) -> dict[str, Any] | None:
    """Score every ridge on held-out training rows; None if the deck sets none aside. Collective."""
    data = session.deck.data
    if not data.validation:
        return None
    held = on_root(session.comm, lambda: validation_rows(target, data.validation, data.seed))
    keep = np.ones(operator.n, bool)
    keep[held] = False
    which = (VALIDATION, f"without {len(held)} rows")
    systems = solve_systems(session, Restricted(operator, keep), y, keep, which, origin)
    ridges, n, outputs = systems.x.shape
    block = np.ascontiguousarray(systems.x.transpose(1, 0, 2)).reshape(n, ridges * outputs)
    encoded = operator.apply(block)[held].reshape(-1, ridges, outputs)

    def metrics_of_ridges() -> list[dict[str, float]]:
        targets = read_targets(session.folder.inputs)
        predictions = [targets.decode(encoded[:, i]) for i in range(ridges)]
        return [score(targets.task, part, target[held], y[held]) for part in predictions]

    metrics = on_root(session.comm, metrics_of_ridges)
    summary = systems.summary(session.deck.solve.ridge)
    return {
        "rows": held,
        "metrics": metrics,
        "solve": summary,
        "selected": _select(metrics, [entry["converged"] for entry in summary]),
    }


def _select(metrics: list[dict[str, float]], converged: list[bool]) -> int:
    """Return the index of the best ridge, among the converged ones where there are any."""
    candidates = [i for i, good in enumerate(converged) if good] or list(range(len(metrics)))
    best = candidates[0]
    for i in candidates[1:]:
        if better(metrics[i], metrics[best]):
            best = i
    return best


def edge(ridges: tuple[float, ...], selected: float) -> str:
    """Say so when the best ridge may lie outside the list."""
    if selected == min(ridges):
        return "; it is the smallest of the list: a smaller one may be better"
    if selected == max(ridges):
        return "; it is the largest of the list: a larger one may be better"
    return ""
