"""The kernel of every left image with every right image: (left rows) x (right rows) at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hpcnk.kernels.images import Images
from hpcnk.kernels.nonlinearities import pointwise
from hpcnk.kernels.plan import Form, Plan, Step
from hpcnk.kernels.recursion import PointwiseRule, State, advance

# Pointwise formulas hold half a dozen temporaries. They work through an array in pieces of about
# this many entries, so that the temporaries stay in the cache.
PIECE_ENTRIES = 65536


def kernel_of_pairs(plan: Plan, left: Images, right: Images, tangent: bool) -> NDArray:
    """Return T (S if not `tangent`) of all pairs, (left rows, right rows), in the images' dtype.

    Holds a few arrays of plan entries x pairs; the caller bounds the number of pairs.
    """
    state = State(input_covariance(plan, left.x, right.x), tangent=tangent)
    end = advance(plan.steps, state, pair_rule(left.factors, right.factors))
    result = end.t if tangent else end.s
    assert result is not None, "a tangent kernel without trainable layers is refused earlier"
    return result


def input_covariance(plan: Plan, left: NDArray, right: NDArray) -> NDArray:
    """S0 of all pairs, (*spatial, [*spatial',] a, b), from inputs (channels, pixels, rows)."""
    shape = plan.spatial * plan.form
    pairs = (left.shape[-1], right.shape[-1])
    if plan.form == Form.FULL:
        return _all_pixels(left, right).reshape(*shape, *pairs)
    by_pixel = np.matmul(left.transpose(1, 2, 0), right.transpose(1, 0, 2))
    return by_pixel.reshape(*shape, *pairs)


def _all_pixels(left: NDArray, right: NDArray) -> NDArray:
    """Scalar products of all pixels, (pixels, pixels', a, b), by one matrix product."""
    channels, pixels, a = left.shape
    b = right.shape[-1]
    product = left.reshape(channels, -1).T @ right.reshape(channels, -1)
    axes = product.reshape(pixels, a, pixels, b).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(axes)


def pair_rule(left: tuple[NDArray, ...], right: tuple[NDArray, ...]) -> PointwiseRule:
    """Make the rule for pointwise layers; it takes each layer's factors in turn."""
    factors = iter(zip(left, right, strict=True))

    def rule(step: Step, state: State) -> State:
        left_factor, right_factor = next(factors)
        apply_pieces(step, state, *spread(step.form, left_factor, right_factor))
        return state

    return rule


def spread(form: Form, left: NDArray, right: NDArray) -> tuple[NDArray, NDArray]:
    """Shape factors (count, pixels, rows) to broadcast against `flat` covariances."""
    if form == Form.FULL:
        return left[:, :, None, :, None], right[:, None, :, None, :]
    if form == Form.DIAGONAL:
        return left[:, :, :, None], right[:, :, None, :]
    return left[:, 0, :, None], right[:, 0, None, :]


def flat(step: Step, array: NDArray) -> NDArray:
    """View a covariance with one axis for all pixels of an image: ([pixels, [pixels',]] a, b)."""
    pixels = int(np.prod(step.spatial))
    return array.reshape((pixels,) * step.form + array.shape[-2:])


def apply_pieces(step: Step, state: State, left: NDArray, right: NDArray) -> None:
    """Apply a pointwise layer in place, piece by piece along the first axis of the flat view."""
    s = flat(step, state.s)
    t = None if state.t is None else flat(step, state.t)
    for rows in _pieces(s):
        pointwise(
            step.layer,  # type: ignore[arg-type]
            s[rows],
            None if t is None else t[rows],
            _rows(left, rows),
            _rows(right, rows),
        )


def _pieces(array: NDArray) -> Iterator[slice]:
    length = max(1, PIECE_ENTRIES * len(array) // max(1, array.size))
    for start in range(0, len(array), length):
        yield slice(start, start + length)


def _rows(factor: NDArray, rows: slice) -> NDArray:
    """Cut a factor (count, first axis, ...) like the covariance, unless it broadcasts there."""
    return factor if factor.shape[1] == 1 else factor[:, rows]
