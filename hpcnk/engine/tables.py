"""The structures of source/program.cuh, field by field."""

from __future__ import annotations

from ctypes import Structure, c_double, c_int, c_longlong

POINTS = ("none", "relu", "erf", "gelu", "layer_norm")  # numbered as enum Point
END_TENSOR, END_POOL, END_MEAN = range(3)
IMAGES = NOTHING = -1


def _ints(*names: str) -> list[tuple[str, type]]:
    return [(name, c_int) for name in names]


class Axis(Structure):
    """One axis of an operation."""

    _fields_ = _ints("inputs", "out", "filter", "stride", "pad", "scale")


class Operation(Structure):
    """A linear layer, perhaps a second term, perhaps a pointwise layer."""

    _fields_ = [
        *_ints("input", "plus", "input_tangent", "plus_tangent", "affine", "point", "conv3_relu"),
        *_ints("factor", "variance", "pixels", "ring"),
        ("place", c_longlong),
        ("y", Axis),
        ("x", Axis),
        ("weight", c_double),
        ("bias", c_double),
        ("plus_weight", c_double),
    ]


class Stage(Structure):
    """All that happens between two pools."""

    _fields_ = [
        *_ints("source", "source_tangent", "height", "width", "out_height", "out_width"),
        *_ints("stride_y", "stride_x", "reach_y", "reach_x", "ring"),
        ("place", c_longlong),
        *_ints("first", "operations", "last_tangent"),
        *_ints("end", "target", "window_y", "window_x", "target_height", "target_width"),
        ("scale", c_double),
    ]


class Tensor(Structure):
    """Where covariances lie between two stages."""

    _fields_ = [
        ("place", c_longlong),
        *_ints("height", "width", "planes_y", "planes_x", "reach_y", "reach_x"),
    ]


class Step(Structure):
    """A stage, or a sum of two tensors."""

    _fields_ = [
        *_ints("stage", "left", "right", "target", "left_tangent", "right_tangent"),
        ("left_weight", c_double),
        ("right_weight", c_double),
    ]


class Header(Structure):
    """The counts: struct Program."""

    _fields_ = [
        *_ints("steps", "stages", "operations", "tensors"),
        *_ints("pixels", "channels", "factors", "variances", "result", "result_tangent"),
        ("buffer_entries", c_longlong),
        ("tensor_entries", c_longlong),
        *_ints("widest", "reserved"),
    ]
