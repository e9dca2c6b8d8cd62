"""The structures of source/device_work.cuh, field by field, and the constants beside them."""

from __future__ import annotations

from ctypes import Structure, c_double, c_float, c_int, c_longlong, c_void_p
from typing import Any

import numpy as np

MAX_LAYERS = 8
MAX_COLUMNS = 4
MAX_WINDOW = 4
CHAIN_SLOTS = 8
THREADS = 128
WARP = 32

_POINTERS = (
    "left", "right", "products", "tensors", "sums", "scratch", "out", "stage", "operations",
    "tables",
)  # fmt: skip
_LONGS = (
    "first", "count", "length", "tensor_entries", "scratch_entries", "out_stride",
    "products_stride", "source_place", "target_place",
)  # fmt: skip
_INTS = (
    "rows", "columns", "upper", "tangent", "pixels", "channels", "slots", "result", "left_tensor",
    "right_tensor", "target", "left_tangent", "right_tangent",
)  # fmt: skip


def _work(real: Any) -> list[tuple[str, Any]]:
    return [
        *((name, c_void_p) for name in _POINTERS),
        *((name, c_longlong) for name in _LONGS),
        *((name, c_int) for name in _INTS),
        ("left_weight", c_double),
        ("right_weight", c_double),
        ("weight", real * MAX_LAYERS),
        ("bias", real * MAX_LAYERS),
    ]


class Work32(Structure):
    """What a kernel is told, float32."""

    _fields_ = _work(c_float)


class Work64(Structure):
    """What a kernel is told, float64."""

    _fields_ = _work(c_double)


_SHAPE = (
    "height", "width", "channels", "layers", "columns", "images", "tangent", "source_tangent",
    "planes_y", "planes_x", "reach_y", "reach_x", "source_planes_y", "source_planes_x", "end",
    "window_y", "window_x", "target_height", "target_width", "target_planes_y", "target_planes_x",
    "target_reach_y", "target_reach_x", "first_factor", "chunk",
)  # fmt: skip


class Shape(Structure):
    """A stage of conv3_relu layers."""

    _fields_ = [(name, c_int) for name in _SHAPE]

    def text(self) -> str:
        """Give the fields as C declarators with initial values."""
        return ", ".join(f"{name} = {getattr(self, name)}" for name in _SHAPE)

    @property
    def groups(self) -> int:
        """Groups of lanes that one warp holds."""
        return int(WARP // (self.width // self.columns))


def work_type(dtype: np.dtype) -> type[Work32] | type[Work64]:
    """Return the structure for a working dtype."""
    return Work32 if dtype == np.float32 else Work64
