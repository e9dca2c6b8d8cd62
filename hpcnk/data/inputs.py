"""From rows as stored to what kernels and solvers take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.data.examples import Examples
from hpcnk.data.labels import Targets, fit_targets
from hpcnk.data.normalize import Scale, as_float64, fit_scale
from hpcnk.data.source import Array, RowNumbers, rows_per_block
from hpcnk.data.whitening import apply_whitening, covariance_of, fit_whitening
from hpcnk.deck import DataSection

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Inputs:
    """Preprocessed data, all C-contiguous float64.

    `x_*` (rows, *input_shape); `y_*` (rows, outputs) as encoded by `targets`.
    """

    x_train: Float64
    x_test: Float64
    y_train: Float64
    y_test: Float64
    targets: Targets


def preprocess(examples: Examples, section: DataSection) -> Inputs:
    """Normalise, whiten and encode, as the deck says.

    Everything is fitted on the training rows, whitening if asked on all inputs of the data set's
    training part; rows later held out to choose the ridge are among them. Costly with whitening (an
    eigendecomposition): one process should do it for all. Raises DataError for rows that cannot be
    normalised, constant targets, and a singular covariance.
    """
    scale = fit_scale(examples.x_train) if section.normalize else None
    x_train = _scaled(scale, examples.x_train, examples.train_rows, "x_train")
    x_test = _scaled(scale, examples.x_test, examples.test_rows, "x_test")
    if section.whitening is not None:
        parts = [x_train] if examples.x_fit is examples.x_train else _fit_parts(scale, examples)
        matrix = fit_whitening(covariance_of(parts), section.whitening.regularization)
        apply_whitening(x_train, matrix)
        apply_whitening(x_test, matrix)
    targets = fit_targets(examples.y_train, examples.train_rows, examples.task, examples.classes)
    y_train, y_test = targets.encode(examples.y_train), targets.encode(examples.y_test)
    return Inputs(x_train, x_test, y_train, y_test, targets)


def _scaled(scale: Scale | None, x: Array, rows: RowNumbers, name: str) -> Float64:
    return as_float64(x) if scale is None else scale.apply(x, rows, name)


def _fit_parts(scale: Scale | None, examples: Examples) -> Iterator[Float64]:
    """Give the rows that whitening is fitted on, some at a time: there may be very many."""
    step = rows_per_block(examples.x_fit[0].size * 8)
    for start in range(0, len(examples.x_fit), step):
        part = slice(start, start + step)
        yield _scaled(scale, examples.x_fit[part], examples.fit_rows[part], "x_train")
