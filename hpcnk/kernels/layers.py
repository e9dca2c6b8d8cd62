"""The layers of an infinite-width network, as frozen values.

`filter`, `strides` and `window` are one integer for every spatial axis, or one integer per axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

Size: TypeAlias = "int | tuple[int, ...]"

W_STD = math.sqrt(2.0)
B_STD = 0.1


@dataclass(frozen=True)
class Conv:
    """Convolution over the spatial axes with random weights and a random bias."""

    filter: Size
    w_std: float = W_STD
    b_std: float = B_STD
    strides: Size = 1
    padding: str = "same"


@dataclass(frozen=True)
class Dense:
    """Fully connected layer; before the readout it acts on every pixel alone, as a 1 x 1 conv."""

    w_std: float = W_STD
    b_std: float = B_STD


@dataclass(frozen=True)
class Relu:
    """max(0, u)."""


@dataclass(frozen=True)
class Erf:
    """The error function."""


@dataclass(frozen=True)
class Gelu:
    """u * Phi(u), with the exact normal distribution function."""


@dataclass(frozen=True)
class LayerNorm:
    """Normalisation over the channels, pixel by pixel."""


@dataclass(frozen=True)
class AvgPool:
    """Mean over windows; strides equal the window, and an incomplete last window is dropped."""

    window: Size


@dataclass(frozen=True)
class GlobalAvgPool:
    """Readout: the mean over all pixels."""


@dataclass(frozen=True)
class Flatten:
    """Readout: pixels become channels."""


@dataclass(frozen=True)
class Residual:
    """The sum of two chains of layers; an empty shortcut is the identity."""

    branch: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()


Layer: TypeAlias = (
    "Conv | Dense | Relu | Erf | Gelu | LayerNorm | AvgPool | GlobalAvgPool | Flatten | Residual"
)
Pointwise: TypeAlias = "Relu | Erf | Gelu | LayerNorm"

LAYER_TYPES: dict[str, type] = {
    "conv": Conv,
    "dense": Dense,
    "relu": Relu,
    "erf": Erf,
    "gelu": Gelu,
    "layer_norm": LayerNorm,
    "avg_pool": AvgPool,
    "global_avg_pool": GlobalAvgPool,
    "flatten": Flatten,
    "residual": Residual,
}
LAYER_NAMES: dict[type, str] = {kind: name for name, kind in LAYER_TYPES.items()}


def name_of(layer: Layer) -> str:
    """Give the name that a deck uses for this layer."""
    return LAYER_NAMES[type(layer)]


def canonical(layers: tuple[Layer, ...]) -> list[object]:
    """Write layers as the JSON-able list of a deck, every default filled in."""
    return [_canonical_item(layer) for layer in layers]


def _canonical_item(layer: Layer) -> object:
    name = name_of(layer)
    if isinstance(layer, Residual):
        sides = {"branch": canonical(layer.branch), "shortcut": canonical(layer.shortcut)}
        return {name: sides}
    if isinstance(layer, AvgPool):
        return {name: _plain(layer.window)}
    options = {key: _plain(value) for key, value in vars(layer).items()}
    return {name: options} if options else name


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
