"""From the items of a deck's `layers` list to layer values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hpcnk.errors import ArchitectureError
from hpcnk.kernels.layers import (
    B_STD,
    LAYER_TYPES,
    W_STD,
    AvgPool,
    Conv,
    Dense,
    Erf,
    Flatten,
    Gelu,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    Relu,
    Residual,
)
from hpcnk.kernels.options import (
    Path,
    choice,
    mapping,
    nearest,
    number,
    only_known,
    place,
    refuse,
    size,
)

PADDINGS = ("same", "valid")
Problems = list[ArchitectureError]


def read_layers(items: object, path: Path, problems: Problems) -> tuple[Layer, ...]:
    """Read a list of items; an item that cannot be read goes into `problems` and is left out."""
    if not isinstance(items, Sequence) or isinstance(items, str):
        problems.append(refuse(path, "a list of layers", items))
        return ()
    read = [_read_item(item, (*path, index), problems) for index, item in enumerate(items)]
    return tuple(layer for layer in read if layer is not None)


def _read_item(item: object, path: Path, problems: Problems) -> Layer | None:
    try:
        name, value = _name_and_value(item, path)
        if name == "residual":
            return _read_residual(value, (*path, name), problems)
        return READERS[name](value, (*path, name))
    except ArchitectureError as problem:
        problems.append(problem)
        return None


def _name_and_value(item: object, path: Path) -> tuple[str, object]:
    if isinstance(item, str):
        name, value = item, None
    elif isinstance(item, Mapping) and len(item) == 1:
        name, value = next(iter(item.items()))
    else:
        raise refuse(path, "a layer's name, or a mapping with one key", item)
    if name not in LAYER_TYPES:
        raise ArchitectureError(
            f"{place(path)}: unknown layer {name!r}", path, nearest(str(name), LAYER_TYPES)
        )
    return name, value


def _read_conv(value: object, path: Path) -> Conv:
    options = mapping(value, path)
    only_known(options, ("filter", "w_std", "b_std", "strides", "padding"), path)
    if "filter" not in options:
        raise ArchitectureError(f"{place(path)}: needs filter", path, "write {conv: {filter: 3}}")
    return Conv(
        filter=size(options["filter"], (*path, "filter")),
        w_std=number(options.get("w_std", W_STD), (*path, "w_std")),
        b_std=number(options.get("b_std", B_STD), (*path, "b_std")),
        strides=size(options.get("strides", 1), (*path, "strides")),
        padding=choice(options.get("padding", "same"), (*path, "padding"), PADDINGS),
    )


def _read_dense(value: object, path: Path) -> Dense:
    options = mapping(value, path)
    only_known(options, ("w_std", "b_std"), path)
    return Dense(
        w_std=number(options.get("w_std", W_STD), (*path, "w_std")),
        b_std=number(options.get("b_std", B_STD), (*path, "b_std")),
    )


def _read_avg_pool(value: object, path: Path) -> AvgPool:
    return AvgPool(size(value, path))


def _without_options(layer: Layer) -> Callable[[object, Path], Layer]:
    def read(value: object, path: Path) -> Layer:
        only_known(mapping(value, path), (), path)
        return layer

    return read


def _read_residual(value: object, path: Path, problems: Problems) -> Residual:
    options = mapping(value, path)
    only_known(options, ("branch", "shortcut"), path)
    if not options.get("branch"):
        raise ArchitectureError(
            f"{place(path)}: needs a branch of at least one layer",
            path,
            "write {residual: {branch: [relu, ...], shortcut: []}}",
        )
    return Residual(
        branch=read_layers(options["branch"], (*path, "branch"), problems),
        shortcut=read_layers(options.get("shortcut", []), (*path, "shortcut"), problems),
    )


READERS: dict[str, Callable[[object, Path], Layer]] = {
    "conv": _read_conv,
    "dense": _read_dense,
    "avg_pool": _read_avg_pool,
    "relu": _without_options(Relu()),
    "erf": _without_options(Erf()),
    "gelu": _without_options(Gelu()),
    "layer_norm": _without_options(LayerNorm()),
    "global_avg_pool": _without_options(GlobalAvgPool()),
    "flatten": _without_options(Flatten()),
}
