"""Linear layers on one covariance array.

An array has the shape (*spatial, [*spatial',] a, b): the spatial axes once for `Form.DIAGONAL`,
twice for `Form.FULL`, and pairs of images in the last two axes, so that every shifted slice is a
few long runs of memory.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hpcnk.kernels.layers import AvgPool, Conv
from hpcnk.kernels.plan import Form
from hpcnk.kernels.shapes import Spatial, Window, conv_windows, pool_windows


def box_sum(array: NDArray, layer: Conv, spatial: Spatial, form: Form) -> NDArray:
    """Sum over the filter's shifts, the same shift on both pixels; pixels outside count as 0.

    The box is separable, so each spatial axis is summed on its own.
    """
    for axis, window in enumerate(conv_windows(layer, spatial)):
        array = _sum_shifts(array, _twins(axis, len(spatial), form), window)
    return array


def _twins(axis: int, count: int, form: Form) -> tuple[int, ...]:
    """Give a spatial axis and, in a full covariance, the same axis of the other image."""
    return (axis, axis + count) if form == Form.FULL else (axis,)


def _sum_shifts(array: NDArray, axes: tuple[int, ...], window: Window) -> NDArray:
    """Sum along one spatial axis, the first shift filling every output."""
    first, *others = _shifts(window, axes, array.shape[axes[0]])
    total = array[first[1]].copy()
    for writes, reads in others:
        total[writes] += array[reads]
    return total


Index = tuple[slice, ...]


@lru_cache(maxsize=1024)
def _shifts(window: Window, axes: tuple[int, ...], pixels: int) -> list[tuple[Index, Index]]:
    """Give outputs and inputs of every shift; first that of `pad`, which every output has."""
    order = [window.pad, *(shift for shift in range(window.size) if shift != window.pad)]
    overlaps = [_overlap(window, shift, pixels) for shift in order]
    return [
        (_at(axes, writes), _at(axes, reads))
        for writes, reads in overlaps
        if writes.start < writes.stop
    ]


def _overlap(window: Window, shift: int, pixels: int) -> tuple[slice, slice]:
    """Give the outputs for which this shift reads an input, and those inputs."""
    offset, stride = shift - window.pad, window.stride
    first = max(0, -(offset // stride))
    stop = min(window.outputs, (pixels - 1 - offset) // stride + 1)
    begin = first * stride + offset
    return slice(first, stop), slice(begin, (stop - 1) * stride + offset + 1, stride)


def _at(axes: tuple[int, ...], part: slice) -> Index:
    index = [slice(None)] * (axes[-1] + 1)
    for axis in axes:
        index[axis] = part
    return tuple(index)


def average_pool(array: NDArray, layer: AvgPool, spatial: Spatial) -> NDArray:
    """Mean over the windows of both images independently; `array` is a full covariance."""
    windows = pool_windows(layer, spatial)
    for axis, window in enumerate(windows + windows):
        outputs = array.shape[axis] // window
        total = array[_at((axis,), slice(0, outputs * window, window))].copy()
        for shift in range(1, window):
            total += array[_at((axis,), slice(shift, outputs * window, window))]
        total *= 1.0 / window
        array = total
    return array


def mean_pixels(array: NDArray, axes: int) -> NDArray:
    """Mean over the first `axes` axes, one after the other: short sums keep float32 exact."""
    for _ in range(axes):
        array = array.mean(axis=0)
    return array


def same_pixels(array: NDArray, spatial: Spatial) -> NDArray:
    """Reduce a full covariance to that of equal pixels."""
    pixels = np.arange(int(np.prod(spatial)))
    square = array.reshape(pixels.size, pixels.size, *array.shape[-2:])
    return square[pixels, pixels].reshape(*spatial, *array.shape[-2:])
