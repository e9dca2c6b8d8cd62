"""Inputs brought to one scale, with statistics of the training rows alone.

All: the mean and standard deviation of each feature (vectors) or channel (sequences and images)
of the training set; bytes of images are divided by 255 first. Images: then each image minus its
mean over all values, divided by its L2 norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Scale:
    """Brings rows to the scale of the training rows. `mean`, `std`: (channels,)."""

    mean: Float64
    std: Float64

    def apply(self, x: Array, rows: RowNumbers, name: str) -> Float64:
        """Standardise rows (rows, *input_shape) and scale images (four axes) to unit length.

        Raises DataError for an image without contrast, naming it by `rows` and `name`, and for
        values too large to be squared.
        """
        values = _unit_bytes(x)
        values -= self.mean
        values /= self.std
        if x.ndim == 4:
            _unit_length(values, rows, name)
        return values


def fit_scale(x_train: Array) -> Scale:
    """Take the statistics of the training rows; what does not vary there is only centred.

    Raises DataError where a standard deviation overflows.
    """
    return Scale(*_statistics(_unit_bytes(x_train)))


def _unit_bytes(x: Array) -> Float64:
    """Copy to float64, bytes of images divided by 255."""
    values = as_float64(x)
    if x.ndim == 4 and x.dtype == np.uint8:
        values /= 255
    return values


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
