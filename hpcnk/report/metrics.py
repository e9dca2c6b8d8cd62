"""Accuracy, mean squared error and R2, from scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import SolveError

STANDARDISED = "standardised_squared_error"


def score(
    task: str,
    predictions: NDArray[Any],
    target: NDArray[Any],
    encoded: NDArray[Any],
    std: NDArray[Any],
) -> dict[str, float]:
    """Return the metrics that apply to the task.

    Classification: `predictions` (rows, classes) are scores, `target` (rows,) classes, `encoded`
    (rows, classes) their one-hot codes minus 1/classes, against which the squared error is taken.
    Regression: `predictions` and `target` (rows, outputs) are in the target's own units; NaN in
    `target` is a missing label. Each output is scored over the rows that have a label of it, then
    the mean is taken over the outputs with any, for R2 with two or more; a metric without such an
    output is left out. The standardised squared error is in units of `std` (outputs,), the training
    rows' standard deviations, so that no output outweighs the others by its units. Raises
    SolveError for a prediction that is not finite.
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
    parts = zip(target.T, predictions.T, known.T, std, strict=True)
    outputs = [(y[k], p[k], unit) for y, p, k, unit in parts]
    scores = {
        "mean_squared_error": [mean_squared_error(y, p) for y, p, _ in outputs if len(y)],
        "r2": [r2_score(y, p) for y, p, _ in outputs if len(y) >= 2],
        STANDARDISED: [mean_squared_error(y / s, p / s) for y, p, s in outputs if len(y)],
    }
    return {name: float(np.mean(values)) for name, values in scores.items() if values}


def better(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Return whether metrics `one` beat `other`: higher accuracy, then lower squared error, of
    several outputs the standardised one.
    """
    return _rank(one) > _rank(other)


def _rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    error = metrics.get(STANDARDISED, metrics["mean_squared_error"])
    return metrics.get("accuracy", 0.0), -error
