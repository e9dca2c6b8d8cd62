"""From rows as stored to what kernels and solvers take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.data.examples import Examples
from hpcnk.data.labels import Targets, fit_targets
from hpcnk.data.normalize import as_float64, normalize
from hpcnk.data.whitening import apply_whitening, fit_whitening
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

    Everything is fitted on the training rows; those later held out to choose the ridge are among
    them. Costly with whitening (an eigendecomposition): one process should do it for all.
    Raises DataError for rows that cannot be normalised, constant targets, and a singular
    covariance.
    """
    if section.normalize:
        x_train, x_test = normalize(
            examples.x_train, examples.train_rows, examples.x_test, examples.test_rows
        )
    else:
        x_train, x_test = as_float64(examples.x_train), as_float64(examples.x_test)
    if section.whitening is not None:
        matrix = fit_whitening(x_train, section.whitening.regularization)
        apply_whitening(x_train, matrix)
        apply_whitening(x_test, matrix)
    targets = fit_targets(examples.y_train, examples.train_rows, examples.task, examples.classes)
    y_train, y_test = targets.encode(examples.y_train), targets.encode(examples.y_test)
    return Inputs(x_train, x_test, y_train, y_test, targets)
