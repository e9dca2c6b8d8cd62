"""An upper bound of the memory that one thread's sub-block takes beside inputs and result."""

from __future__ import annotations

from hpcnk.engine.cuts import CutSize, peak_entries
from hpcnk.kernels.layers import Erf, Gelu, LayerNorm, Relu
from hpcnk.kernels.nonlinearities import MAX_FACTORS
from hpcnk.kernels.pairs import PIECE_ENTRIES
from hpcnk.kernels.plan import Form, Plan, Step

# Whole arrays at once, at most: S and T before a filter, S after it, T after one and both axes.
TANGENT_ARRAYS = 5
COVARIANCE_ARRAYS = 3
# A residual sum keeps its input, and the first side's result, while a side is computed.
RESIDUAL_STATES = 2
# Temporaries of a pointwise formula (gelu has the most), each as large as one piece.
PIECE_ARRAYS = 16
# Code objects, views and lists; matters only for the smallest networks.
SMALL_CHANGE = 64 * 1024


def workspace_bytes(plan: Plan, size: CutSize, itemsize: int, tangent: bool) -> int:
    """Bound the bytes of a sub-block of `size` pairs, in entries of `itemsize` bytes."""
    pairs = size.rows * size.columns
    whole = peak_entries(plan) * pairs
    arrays = TANGENT_ARRAYS if tangent else COVARIANCE_ARRAYS
    arrays += RESIDUAL_STATES * (1 + tangent) * _depth(plan.steps)
    first_axis = plan.pixels if plan.form != Form.NONE else size.rows
    piece = max(PIECE_ENTRIES, whole // first_axis)
    images = (size.rows + size.columns) * plan.pixels * _per_pixel(plan)
    return itemsize * (arrays * whole + PIECE_ARRAYS * min(piece, whole) + images) + SMALL_CHANGE


def row_bytes(plan: Plan, itemsize: int) -> int:
    """Bound the bytes that one prepared row takes."""
    return itemsize * (plan.pixels * _per_pixel(plan) + 1)


def _depth(steps: tuple[Step, ...]) -> int:
    """Nesting of residual sums."""
    return max(
        (1 + _depth(step.branch + step.shortcut) for step in steps if step.branch), default=0
    )


def _per_pixel(plan: Plan) -> int:
    """Numbers kept for one pixel of one image: channels, and factors of the pointwise layers."""
    return plan.channels + MAX_FACTORS * _count(plan.steps)


def _count(steps: tuple[Step, ...]) -> int:
    own = sum(isinstance(step.layer, Relu | Erf | Gelu | LayerNorm) for step in steps)
    return own + sum(_count(step.branch + step.shortcut) for step in steps)
