"""The recursion of S (NNGP covariance) and T (tangent kernel) through the layers of a plan.

The equations of the linear layers, for a filter of f entries, weights w and bias b:
    conv     S' = w^2 / f * box(S) + b^2      T' = S' + w^2 / f * box(T)
    dense    S' = w^2 S + b^2                 T' = S' + w^2 T
    pools    S' = mean(S)                     T' = mean(T)
Pointwise layers come in through a function, for they differ between two images (`pairs.py`) and
an image with itself (`variances.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from numpy.typing import NDArray

from hpcnk.kernels.layers import (
    AvgPool,
    Conv,
    Dense,
    Erf,
    Flatten,
    Gelu,
    GlobalAvgPool,
    LayerNorm,
    Relu,
)
from hpcnk.kernels.linear import average_pool, box_sum, mean_pixels, same_pixels
from hpcnk.kernels.plan import Form, Step
from hpcnk.kernels.shapes import Spatial, per_axis


@dataclass(frozen=True)
class State:
    """S and T of a batch of pairs, of shape (*spatial, [*spatial',] a, b).

    `t` is None while T = 0 (before the first trainable layer) and always for `tangent=False`.
    """

    s: NDArray
    t: NDArray | None = None
    tangent: bool = True

    def each(self, change: Callable[[NDArray], NDArray]) -> State:
        """Apply a linear map to S and T."""
        return replace(self, s=change(self.s), t=None if self.t is None else change(self.t))


# May change the state's arrays in place.
PointwiseRule = Callable[[Step, State], State]


def advance(steps: tuple[Step, ...], state: State, pointwise: PointwiseRule) -> State:
    """Carry S and T through the steps; the arrays of `state` may be overwritten."""
    for step in steps:
        state = _advance_one(step, state, pointwise)
    return state


def _advance_one(step: Step, state: State, pointwise: PointwiseRule) -> State:
    layer = step.layer
    if isinstance(layer, Relu | Erf | Gelu | LayerNorm):
        return pointwise(step, state)
    if step.branch:
        return _residual(step, state, pointwise)
    if isinstance(layer, Conv):
        return _conv(step, layer, state)
    if isinstance(layer, Dense):
        return _affine(state, layer.w_std**2, layer.b_std)
    if isinstance(layer, AvgPool):
        pooled = state.each(lambda array: average_pool(array, layer, step.spatial))
        return lower(pooled, Form.FULL, step.out_form, step.out_spatial)
    assert isinstance(layer, Flatten | GlobalAvgPool)
    axes = len(step.spatial) * step.form
    return state.each(lambda array: mean_pixels(array, axes))


def _conv(step: Step, layer: Conv, state: State) -> State:
    entries = prod(per_axis(layer.filter, len(step.spatial)))
    summed = state.each(lambda array: box_sum(array, layer, step.spatial, step.form))
    return _affine(summed, layer.w_std**2 / entries, layer.b_std)


def _affine(state: State, weight: float, b_std: float) -> State:
    """S' = weight S + b^2 and T' = S' + weight T, in place."""
    s, t = state.s, state.t
    s *= weight
    s += b_std**2
    if t is not None:
        t *= weight
        t += s
    elif state.tangent:
        t = s.copy()
    return replace(state, s=s, t=t)


def _residual(step: Step, state: State, pointwise: PointwiseRule) -> State:
    branch = _side(step, step.branch, state.each(lambda array: array.copy()), pointwise)
    shortcut = _side(step, step.shortcut, state, pointwise)
    s = branch.s
    s += shortcut.s
    if branch.t is None or shortcut.t is None:
        return replace(branch, t=shortcut.t if branch.t is None else branch.t)
    t = branch.t
    t += shortcut.t
    return replace(branch, s=s, t=t)


def _side(step: Step, steps: tuple[Step, ...], state: State, pointwise: PointwiseRule) -> State:
    """Carry one side of a residual sum, which may need fewer entries than the other side."""
    form = steps[0].form if steps else step.out_form
    return advance(steps, lower(state, step.form, form, step.spatial), pointwise)


def lower(state: State, have: Form, want: Form, spatial: Spatial) -> State:
    """Drop the covariances of different pixels where only equal ones are wanted."""
    if have == Form.FULL and want == Form.DIAGONAL:
        return state.each(lambda array: same_pixels(array, spatial))
    return state
