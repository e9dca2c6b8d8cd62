"""Named architectures, each expanded into its list of layers.

| preset | options beside `w_std` and `b_std` | layers |
|---|---|---|
| `fc`, or `fc3` for depth 3 | `depth` | flatten, depth x [dense, relu], dense |
| `cv`, or `cv8` for depth 8 | `depth` | depth x [conv 3, relu], flatten, dense |
| `myrtle5`, `myrtle7`, `myrtle10` | | 3 blocks of [conv 3, relu], avg_pool 2 between, gap, dense |
| `tuned` | `first_filter` (3), `convs_per_block` (3), `readout` (gap or flatten), `hidden_dense` (0) | as Myrtle; the first filter is free, `hidden_dense` x [dense, relu] before the last dense |
"""  # noqa: E501

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hpcnk.errors import ArchitectureError
from hpcnk.kernels.layers import (
    B_STD,
    W_STD,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Layer,
    Relu,
)
from hpcnk.kernels.options import Path, choice, integer, nearest, number, only_known

MYRTLE_CONVS = {"myrtle5": (2, 1, 1), "myrtle7": (2, 2, 2), "myrtle10": (3, 3, 3)}
PRESET_NAMES = ("fc", "cv", "cv8", "myrtle5", "myrtle7", "myrtle10", "tuned")
READOUTS = ("gap", "flatten")
MAX_DEPTH = 1000
MAX_HIDDEN_DENSE = 2

Options = Mapping[str, object]
Layers = tuple[Layer, ...]


@dataclass(frozen=True)
class Weights:
    """The standard deviations that every conv and dense layer of a preset shares."""

    w_std: float = W_STD
    b_std: float = B_STD

    def conv(self, size: int) -> Conv:
        """Make a convolution with a square filter."""
        return Conv(size, self.w_std, self.b_std)

    def dense(self) -> Dense:
        """Make a dense layer."""
        return Dense(self.w_std, self.b_std)


STANDARD = Weights()


def fc(depth: int, weights: Weights = STANDARD) -> Layers:
    """Fully connected: flatten, depth x [dense, relu], dense."""
    return (Flatten(), *_hidden(depth, weights), weights.dense())


def cv(depth: int, weights: Weights = STANDARD) -> Layers:
    """Convolutions without pooling: depth x [conv 3, relu], flatten, dense."""
    return (*_block(depth, weights), Flatten(), weights.dense())


def myrtle(convs: tuple[int, int, int], weights: Weights = STANDARD) -> Layers:
    """Three blocks of [conv 3, relu] with pools between, a global pool, dense."""
    first, second, third = (_block(count, weights) for count in convs)
    blocks = (*first, AvgPool(2), *second, AvgPool(2), *third)
    return (*blocks, GlobalAvgPool(), weights.dense())


def tuned(
    first_filter: int = 3,
    convs_per_block: int = 3,
    readout: str = "gap",
    hidden_dense: int = 0,
    weights: Weights = STANDARD,
) -> Layers:
    """Myrtle with a free first filter, convolutions per block, readout and hidden dense layers."""
    count = convs_per_block
    blocks = myrtle((count, count, count), weights)[1:-2]
    end = GlobalAvgPool() if readout == "gap" else Flatten()
    top = (end, *_hidden(hidden_dense, weights), weights.dense())
    return (weights.conv(first_filter), *blocks, *top)


def expand(name: str, options: Options, path: Path = ()) -> Layers:
    """Expand a preset's name and options; raises ArchitectureError with the option's path."""
    if name == "gntk":
        raise ArchitectureError(
            "preset 'gntk': graphs are not supported by this version",
            path,
            "use a preset for vectors, sequences or images: " + ", ".join(PRESET_NAMES),
        )
    family, depth = _split(name)
    if family not in FAMILIES:
        raise ArchitectureError(f"unknown preset {name!r}", path, nearest(name, PRESET_NAMES))
    if depth is not None:
        only_known(options, ("w_std", "b_std"), ())
        options = {**options, "depth": depth}
    return FAMILIES[family](options)


def _split(name: str) -> tuple[str, int | None]:
    """Split `cv8` into `cv` and 8; other names stay whole."""
    found = re.fullmatch(r"(fc|cv)([1-9][0-9]{0,8})", name)
    return (found[1], int(found[2])) if found else (name, None)


def _hidden(depth: int, weights: Weights) -> Layers:
    return (weights.dense(), Relu()) * depth


def _block(depth: int, weights: Weights) -> Layers:
    return (weights.conv(3), Relu()) * depth


def _weights(options: Options) -> Weights:
    return Weights(
        number(options.get("w_std", W_STD), ("w_std",)),
        number(options.get("b_std", B_STD), ("b_std",)),
    )


def _deep(family: str, build: Callable[[int, Weights], Layers]) -> Callable[[Options], Layers]:
    def read(options: Options) -> Layers:
        only_known(options, ("depth", "w_std", "b_std"), ())
        if "depth" not in options:
            raise ArchitectureError(
                f"preset {family!r} needs a depth",
                (),
                f"write {family}8 or {{preset: {family}, depth: 8}}",
            )
        depth = integer(options["depth"], ("depth",), 1, MAX_DEPTH)
        return build(depth, _weights(options))

    return read


def _myrtle(name: str) -> Callable[[Options], Layers]:
    def read(options: Options) -> Layers:
        only_known(options, ("w_std", "b_std"), ())
        return myrtle(MYRTLE_CONVS[name], _weights(options))

    return read


def _tuned(options: Options) -> Layers:
    known = ("first_filter", "convs_per_block", "readout", "hidden_dense", "w_std", "b_std")
    only_known(options, known, ())
    return tuned(
        integer(options.get("first_filter", 3), ("first_filter",), 1),
        integer(options.get("convs_per_block", 3), ("convs_per_block",), 1, MAX_DEPTH),
        choice(options.get("readout", "gap"), ("readout",), READOUTS),
        integer(options.get("hidden_dense", 0), ("hidden_dense",), 0, MAX_HIDDEN_DENSE),
        _weights(options),
    )


FAMILIES: dict[str, Callable[[Options], Layers]] = {
    "fc": _deep("fc", fc),
    "cv": _deep("cv", cv),
    **{name: _myrtle(name) for name in MYRTLE_CONVS},
    "tuned": _tuned,
}
