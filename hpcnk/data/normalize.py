"""Inputs brought to one scale, with statistics of the training rows alone.

All: the mean and standard deviation of each feature (vectors) or channel (sequences and images)
of the training set; bytes of images are divided by 255 first. Images: then each image minus its
mean over all values, divided by its L2 norm.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hpcnk.data.source import Array, RowNumbers, rows_per_block
from hpcnk.errors import DataError

Float64 = NDArray[np.float64]

# An image whose spread is this small beside its values consists of rounding errors.
_ROUNDING = 64 * np.finfo(np.float64).eps


def as_float64(x: Array) -> Float64:
    """Return a C-contiguous float64 copy, the values unchanged."""
    return np.array(x, dtype=np.float64, order="C")


def normalize(
    x_train: Array, train_rows: RowNumbers, x_test: Array, test_rows: RowNumbers
) -> tuple[Float64, Float64]:
    """Standardise both parts by the training part, and scale images to unit length.

    Both are (rows, *input_shape); four axes make an image. A feature or channel that does not
    vary in training is only centred. Raises DataError for an image without contrast, naming
    part and row, and for values too large to be squared.
    """
    is_image = x_train.ndim == 4
    train, test = as_float64(x_train), as_float64(x_test)
    if is_image and x_train.dtype == np.uint8:
        train /= 255
        test /= 255
    mean, std = _statistics(train)
    for values in (train, test):
        values -= mean
        values /= std
    if is_image:
        _unit_length(train, train_rows, "x_train")
        _unit_length(test, test_rows, "x_test")
    return train, test


def blocks(x: Float64) -> Iterator[Float64]:
    """Views (rows, values of a row) of a C-contiguous array, small enough to compute with."""
    flat = x.reshape(len(x), -1)
    step = rows_per_block(flat.shape[1] * 8)
    for start in range(0, len(flat), step):
        yield flat[start : start + step]


def _statistics(x: Float64) -> tuple[Float64, Float64]:
    """Mean and standard deviation over all axes but the last, 1 where nothing varies."""
    channels = x.shape[-1]
    count = x.size // channels
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sum(b.reshape(-1, channels).sum(axis=0) for b in blocks(x)) / count
        squares = (((b.reshape(-1, channels) - mean) ** 2).sum(axis=0) for b in blocks(x))
        std = np.sqrt(sum(squares) / count)
    if not np.isfinite(std).all():
        channel = np.flatnonzero(~np.isfinite(std))[0]
        raise DataError(
            f"the standard deviation of x_train along its last axis, entry {channel}, overflows",
            "rescale the inputs",
        )
    axes = tuple(range(x.ndim - 1))
    constant = x.max(axis=axes) == x.min(axis=axes)
    # The rounded mean of equal values may differ from them.
    mean = np.where(constant, x.reshape(-1, channels)[0], mean)
    return mean, np.where(constant | (std == 0), 1.0, std)


def _unit_length(x: Float64, rows: RowNumbers, name: str) -> None:
    """Centre each image on its mean and divide it by its L2 norm, in place."""
    done = 0
    for block in blocks(x):
        with np.errstate(over="ignore", invalid="ignore"):
            before = np.linalg.norm(block, axis=1)
            block -= block.mean(axis=1, keepdims=True)
            norm = np.linalg.norm(block, axis=1)
        bad = np.flatnonzero((norm <= _ROUNDING * before) | ~np.isfinite(norm))
        if bad.size:
            fault = "has no contrast" if np.isfinite(norm[bad[0]]) else "is too large to be squared"
            raise DataError(
                f"row {rows[done + bad[0]]} of {name}, an image, {fault} after normalisation",
                "drop or repair this row, or set data.normalize to false",
            )
        block /= norm[:, np.newaxis]
        done += len(block)
