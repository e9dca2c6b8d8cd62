"""Accuracy, mean squared error and R2, from scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import SolveError


def score(
    task: str, predictions: NDArray[Any], target: NDArray[Any], encoded: NDArray[Any]
) -> dict[str, float]:
    """Return the metrics that apply to the task.

    Classification: `predictions` (rows, classes) are scores, `target` (rows,) classes, `encoded`
    (rows, classes) their one-hot codes minus 1/classes, against which the squared error is taken.
    Regression: `predictions` and `target` (rows, outputs) are in the target's own units; NaN in
    `target` is a missing label. Each output is scored over the rows that have a label of it, then
    the mean is taken over the outputs with any, for R2 with two or more; a metric without such an
    output is left out. Raises SolveError for a prediction that is not finite.
    """
    if not np.isfinite(predictions).all():
        raise SolveError(
            "a prediction, in the units of the target, is not finite",
            "rescale the target; `hpcnk verify` checks the folder",
        )
    # Takes a second to import, which only the rank that scores should pay for.
    from sklearn.metrics import accuracy_score, mean_squared_error, r2_score

    if task == "classification":
        return {
            "accuracy": float(accuracy_score(target, predictions.argmax(axis=1))),
            "mean_squared_error": float(mean_squared_error(encoded, predictions)),
        }
    known = ~np.isnan(target)
    outputs = [(y[k], p[k]) for y, p, k in zip(target.T, predictions.T, known.T, strict=True)]
    scores = {
        "mean_squared_error": [mean_squared_error(y, p) for y, p in outputs if len(y)],
        "r2": [r2_score(y, p) for y, p in outputs if len(y) >= 2],
    }
    return {name: float(np.mean(values)) for name, values in scores.items() if values}


def better(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Return whether metrics `one` beat `other`: higher accuracy, then lower squared error."""
    return _rank(one) > _rank(other)


def _rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    return metrics.get("accuracy", 0.0), -metrics["mean_squared_error"]
