"""Inputs as the recursion takes them, and what is known of each image alone.

Images lie in the last axis, so that the arrays of a pair block are long runs of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from hpcnk.kernels.layers import Erf, Gelu, LayerNorm, Relu
from hpcnk.kernels.nonlinearities import factors
from hpcnk.kernels.plan import Plan, Step


@dataclass(frozen=True)
class Images:
    """Images, their per-layer factors and their kernel with themselves.

    `x`: (channels, pixels, rows), divided by sqrt(channels), so that S0 is a plain scalar product.
    `factors`: for each pointwise layer, in the order in which the recursion meets them, an array
    (count, pixels, rows); see `nonlinearities.factors`.
    """

    x: NDArray
    factors: tuple[NDArray, ...]

    def __len__(self) -> int:
        return int(self.x.shape[-1])

    def __getitem__(self, rows: slice) -> Images:
        """Take a range of rows, without copying."""
        factors = tuple(factor[..., rows] for factor in self.factors)
        return Images(self.x[..., rows], factors)

    def packed(self) -> Images:
        """Copy into contiguous arrays: a small cut of many rows is then read in long runs."""
        factors = tuple(np.ascontiguousarray(factor) for factor in self.factors)
        return Images(np.ascontiguousarray(self.x), factors)


def scaled_input(x: NDArray, plan: Plan, dtype: np.dtype) -> NDArray:
    """Turn rows (rows, *input_shape) into (channels, pixels, rows) / sqrt(channels), in `dtype`."""
    rows = x.reshape(len(x), plan.pixels, plan.channels).astype(np.float64)
    rows /= np.sqrt(plan.channels)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(rows.transpose(2, 1, 0), dtype=dtype)


def factors_of(plan: Plan, variances: NDArray, dtype: np.dtype, tiny: float) -> tuple[NDArray, ...]:
    """Compute every pointwise layer's factors from the variances (rows, positions) of images."""
    made, start = [], 0
    for step in pointwise_steps(plan.steps):
        pixels = prod(step.spatial)
        q = np.ascontiguousarray(variances[:, start : start + pixels].T, np.float64)
        made.append(factors(step.layer, q, tiny).astype(dtype))  # type: ignore[arg-type]
        start += pixels
    return tuple(made)


def pointwise_steps(steps: tuple[Step, ...]) -> Iterator[Step]:
    """List the pointwise layers in the order in which the recursion meets them."""
    for step in steps:
        if isinstance(step.layer, Relu | Erf | Gelu | LayerNorm):
            yield step
        yield from pointwise_steps(step.branch)
        yield from pointwise_steps(step.shortcut)
