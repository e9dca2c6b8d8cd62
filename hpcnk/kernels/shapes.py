"""Spatial sizes through conv and pool layers.

Padding `same` gives ceil(size / stride) outputs; the zeros that this takes are split evenly, an odd
one going to the end. So even filters are well defined, and agree with Neural Tangents (XLA).
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcnk.errors import ArchitectureError
from hpcnk.kernels.layers import AvgPool, Conv, Layer, Size, name_of
from hpcnk.kernels.options import Path, place

Spatial = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """A filter along one axis: output o reads inputs o * stride - pad + k for k < size."""

    size: int
    stride: int
    pad: int
    outputs: int


def per_axis(value: Size, axes: int) -> tuple[int, ...]:
    """Repeat one size for every axis; a list is left as it is."""
    return (value,) * axes if isinstance(value, int) else value


def conv_windows(layer: Conv, spatial: Spatial) -> tuple[Window, ...]:
    """Give the filter of each axis; `outputs` is 0 where a valid filter does not fit."""
    filters = per_axis(layer.filter, len(spatial))
    strides = per_axis(layer.strides, len(spatial))
    return tuple(
        _window(pixels, size, stride, layer.padding)
        for pixels, size, stride in zip(spatial, filters, strides, strict=True)
    )


def _window(pixels: int, size: int, stride: int, padding: str) -> Window:
    if padding == "valid":
        return Window(size, stride, 0, max(0, (pixels - size) // stride + 1))
    outputs = -(-pixels // stride)
    missing = max(0, (outputs - 1) * stride + size - pixels)
    return Window(size, stride, missing // 2, outputs)


def pool_windows(layer: AvgPool, spatial: Spatial) -> tuple[int, ...]:
    """Give the window of each axis."""
    return per_axis(layer.window, len(spatial))


def output_spatial(layer: Conv | AvgPool, spatial: Spatial, path: Path) -> Spatial:
    """Give the sizes after a conv or pool; raises ArchitectureError where it does not fit."""
    _check_axes(layer, spatial, path)
    if isinstance(layer, Conv):
        after = tuple(window.outputs for window in conv_windows(layer, spatial))
    else:
        windows = pool_windows(layer, spatial)
        after = tuple(size // window for size, window in zip(spatial, windows, strict=True))
    if min(after) < 1:
        raise _misfit(
            layer,
            path,
            f"larger than its input of {shape_text(spatial)} pixels",
            "use a smaller one, fewer pools, or larger images",
        )
    return after


def _check_axes(layer: Conv | AvgPool, spatial: Spatial, path: Path) -> None:
    if not spatial:
        raise _misfit(
            layer, path, "the data are vectors, without spatial axes", "use dense layers, or images"
        )
    sizes = (layer.filter, layer.strides) if isinstance(layer, Conv) else (layer.window,)
    for size in sizes:
        if isinstance(size, tuple) and len(size) != len(spatial):
            raise _misfit(
                layer,
                path,
                f"{list(size)} is for {len(size)} spatial axes, the data have {len(spatial)}",
                "write one integer, or one per axis",
            )


def _misfit(layer: Layer, path: Path, fact: str, advice: str) -> ArchitectureError:
    return ArchitectureError(f"{place(path)} ({name_of(layer)}): {fact}", path, advice)


def shape_text(spatial: Spatial) -> str:
    """Write sizes as `32 x 32`; data without spatial axes are `1`."""
    return " x ".join(map(str, spatial)) or "1"
