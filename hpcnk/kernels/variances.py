"""What is known of each image alone: variances at every pointwise layer, and the exact K(x, x).

For the same pixel of the same image the correlation c is 1 exactly, so its S and T follow from
the variance alone (`nonlinearities.exact`), with no arccos near 1, where rounding would cost half
the digits. Done in float64, once an image. Where a later pool mixes pixels, the covariances of
different pixels of the image are carried along.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from hpcnk.kernels.layers import Pointwise
from hpcnk.kernels.nonlinearities import exact, factors
from hpcnk.kernels.pairs import apply_pieces, flat
from hpcnk.kernels.plan import Form, Plan, Step
from hpcnk.kernels.recursion import State, advance


def describe_images(plan: Plan, x: NDArray, tangent: bool, tiny: float) -> tuple[NDArray, NDArray]:
    """Return the variances (rows, positions) and the exact kernel (rows,) of each image.

    Float64 from inputs (channels, pixels, rows); relu takes a variance below `tiny` as 0. Positions
    are the pixels of the first pointwise layer, then of the next, in the order of the recursion.
    Values may overflow; the caller checks.
    """
    rule = SelfRule(tiny)
    with np.errstate(over="ignore", invalid="ignore"):
        state = State(_input_covariance(plan, x.astype(np.float64)), tangent=tangent)
        end = advance(plan.steps, state, rule)
    result = end.t if tangent else end.s
    assert result is not None, "a tangent kernel without trainable layers is refused earlier"
    none = np.empty((0, x.shape[-1]))
    return np.concatenate([none, *rule.variances]).T, result.reshape(-1)


def _input_covariance(plan: Plan, x: NDArray) -> NDArray:
    """S0 of each image with itself, (*spatial, [*spatial',] 1, rows)."""
    if plan.form == Form.FULL:
        products = np.matmul(x.transpose(2, 1, 0), x.transpose(2, 0, 1)).transpose(1, 2, 0)
    else:
        products = np.square(x).sum(axis=0)
    shape = plan.spatial * plan.form
    return np.ascontiguousarray(products).reshape(*shape, 1, x.shape[-1])


@dataclass
class SelfRule:
    """Pointwise layers for images with themselves; gathers each layer's variances on the way."""

    tiny: float
    variances: list[NDArray] = field(default_factory=list)

    def __call__(self, step: Step, state: State) -> State:
        """Apply the layer in place, equal pixels by the exact formula."""
        layer: Pointwise = step.layer  # type: ignore[assignment]
        q, t = _own(step, state.s), None if state.t is None else _own(step, state.t)
        self.variances.append(q.copy())
        variance, tangent = exact(layer, q, t)
        if step.form == Form.FULL:
            factor = factors(layer, q, self.tiny)
            left, right = factor[:, :, None, None, :], factor[:, None, :, None, :]
            apply_pieces(step, state, left, right)
        _set_own(step, state.s, variance)
        if state.t is not None and tangent is not None:
            _set_own(step, state.t, tangent)
        return state


def _own(step: Step, array: NDArray) -> NDArray:
    """Copy the entries of equal pixels: (pixels, rows)."""
    entries = flat(step, array)
    if step.form == Form.FULL:
        pixels = np.arange(len(entries))
        return entries[pixels, pixels, 0]
    return entries.reshape(prod(step.spatial), array.shape[-1]).copy()


def _set_own(step: Step, array: NDArray, values: NDArray) -> None:
    entries = flat(step, array)
    if step.form == Form.FULL:
        pixels = np.arange(len(entries))
        entries[pixels, pixels, 0] = values
    else:
        entries[...] = values.reshape(entries.shape)
