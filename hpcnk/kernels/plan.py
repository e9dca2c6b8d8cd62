"""A plan: the layers laid out for data of one shape, with the covariance entries that each needs.

Only pools mix different pixels. Where no later layer does, the covariance of equal pixels is
enough (`Form.DIAGONAL`), which is (H W) entries a pair instead of (H W)^2 (`Form.FULL`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from math import prod

from hpcnk.errors import ArchitectureError
from hpcnk.kernels.layers import (
    AvgPool,
    Conv,
    Erf,
    Flatten,
    Gelu,
    GlobalAvgPool,
    Layer,
    Relu,
    Residual,
    name_of,
)
from hpcnk.kernels.options import Path, place
from hpcnk.kernels.rules import no_readout
from hpcnk.kernels.shapes import Spatial, output_spatial, shape_text

MAX_SPATIAL_AXES = 2


class Form(IntEnum):
    """How often the spatial axes stand in a covariance: entries a pair are pixels ** form."""

    NONE = 0
    DIAGONAL = 1
    FULL = 2


@dataclass(frozen=True)
class Step:
    """One layer with its input's and output's spatial sizes and forms."""

    layer: Layer
    spatial: Spatial
    form: Form
    out_spatial: Spatial
    out_form: Form
    branch: tuple[Step, ...] = ()
    shortcut: tuple[Step, ...] = ()

    @property
    def entries(self) -> int:
        """Covariance entries of one pair at the input."""
        return int(prod(self.spatial) ** self.form)

    @property
    def out_entries(self) -> int:
        """Covariance entries of one pair at the output."""
        return int(prod(self.out_spatial) ** self.out_form)


@dataclass(frozen=True)
class Plan:
    """Steps for inputs of `spatial` pixels with `channels` each; vectors are one pixel."""

    spatial: Spatial
    channels: int
    form: Form
    steps: tuple[Step, ...]

    @property
    def pixels(self) -> int:
        """Number of pixels of an input."""
        return prod(self.spatial)

    @property
    def entries(self) -> int:
        """Covariance entries of one pair of inputs."""
        return int(self.pixels**self.form)


@lru_cache(maxsize=64)
def make_plan(layers: tuple[Layer, ...], input_shape: tuple[int, ...]) -> Plan:
    """Lay out `layers` for inputs of shape (*spatial, channels).

    A leading flatten is done on the data, so fully connected networks see vectors. Raises
    ArchitectureError with the path of the first layer that does not fit.
    """
    *sizes, channels = _checked_shape(input_shape)
    spatial, start = tuple(sizes), 0
    if isinstance(layers[0], Flatten):
        channels, spatial, start = prod(input_shape), (), 1
    steps = _steps(layers[start:], spatial, Form.NONE, (), start)
    if (steps[-1].out_spatial if steps else spatial) != ():
        raise no_readout(len(layers))
    return Plan(spatial, channels, steps[0].form if steps else Form.NONE, steps)


def operations(plan: Plan) -> int:
    """Count el-layers a pair: covariance entries through one linear and one nonlinear layer."""
    conv = _total(plan.steps, (Conv,))
    nonlinear = _total(plan.steps, (Relu, Erf, Gelu))
    return max(1, conv, nonlinear)


def _total(steps: tuple[Step, ...], kinds: tuple[type, ...]) -> int:
    own = sum(step.out_entries for step in steps if isinstance(step.layer, kinds))
    return own + sum(_total(step.branch + step.shortcut, kinds) for step in steps)


def _checked_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not 1 <= len(shape) <= MAX_SPATIAL_AXES + 1 or min(shape) < 1:
        raise ArchitectureError(
            f"data of shape {tuple(shape)} a row are no vectors, sequences or images",
            (),
            "expected (channels,), (length, channels) or (height, width, channels), none of them 0",
        )
    return tuple(shape)


def _steps(
    layers: tuple[Layer, ...], spatial: Spatial, end: Form, path: Path, start: int = 0
) -> tuple[Step, ...]:
    """Lay out a chain whose last output is needed in the form `end`."""
    steps: list[Step] = []
    for index in range(len(layers)):
        form, out_form = _need(layers[index:], end), _need(layers[index + 1 :], end)
        step = _step(layers[index], spatial, form, out_form, (*path, start + index))
        spatial = step.out_spatial
        steps.append(step)
    return tuple(steps)


def _step(layer: Layer, spatial: Spatial, form: Form, out_form: Form, path: Path) -> Step:
    if isinstance(layer, Residual):
        return _residual(layer, spatial, form, out_form, path)
    after = _output(layer, spatial, path)
    return Step(layer, spatial, _reduced(form, spatial), after, _reduced(out_form, after))


def _residual(layer: Residual, spatial: Spatial, form: Form, out_form: Form, path: Path) -> Step:
    branch = _steps(layer.branch, spatial, out_form, (*path, "residual", "branch"))
    shortcut = _steps(layer.shortcut, spatial, out_form, (*path, "residual", "shortcut"))
    after = branch[-1].out_spatial
    beside = shortcut[-1].out_spatial if shortcut else spatial
    if after != beside:
        raise ArchitectureError(
            f"{place(path)} (residual): the branch ends with {shape_text(after)} pixels, "
            f"the shortcut with {shape_text(beside)}",
            path,
            "give both sides the same strides and paddings",
        )
    form, out_form = _reduced(form, spatial), _reduced(out_form, after)
    return Step(layer, spatial, form, after, out_form, branch, shortcut)


def _output(layer: Layer, spatial: Spatial, path: Path) -> Spatial:
    if isinstance(layer, Conv | AvgPool):
        return output_spatial(layer, spatial, path)
    if isinstance(layer, GlobalAvgPool) and not spatial:
        raise ArchitectureError(
            f"{place(path)} ({name_of(layer)}): the data are vectors, without spatial axes",
            path,
            "leave it out, or use images",
        )
    return () if isinstance(layer, Flatten | GlobalAvgPool) else spatial


def _reduced(form: Form, spatial: Spatial) -> Form:
    return form if spatial else Form.NONE


def _need(layers: tuple[Layer, ...], end: Form) -> Form:
    """Give the form in which a chain needs its input, when its output is needed as `end`."""
    form = end
    for layer in reversed(layers):
        if isinstance(layer, GlobalAvgPool | AvgPool):
            form = Form.FULL
        elif isinstance(layer, Flatten):
            form = Form.DIAGONAL
        elif isinstance(layer, Residual):
            form = max(_need(layer.branch, form), _need(layer.shortcut, form))
    return form
