"""Rules that a list of layers must keep whatever the shape of the data.

They are Neural Tangents' rules. Pre-activations are Gaussian after conv and dense layers and stay
so through pools, layer norm and residual sums; the input, a nonlinearity's output and a flattened
image are not Gaussian. Nonlinearities, layer norm and residual sums need Gaussian pre-activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hpcnk.errors import ArchitectureError
from hpcnk.kernels.layers import (
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
    name_of,
)
from hpcnk.kernels.options import Path, place

Problems = list[ArchitectureError]


@dataclass(frozen=True)
class Flow:
    """What is known between two layers: is the signal Gaussian, and has a readout been passed."""

    gaussian: bool = False
    read_out: bool = False


def rule_problems(layers: tuple[Layer, ...]) -> Problems:
    """List every broken rule, in the order of the layers."""
    if not layers:
        return [
            ArchitectureError(
                "layers: the list is empty",
                (),
                "a small example: [flatten, dense: {}, relu, dense: {}]",
            )
        ]
    problems: Problems = []
    end = _walk(layers, Flow(), (), problems)
    spatial = any(isinstance(layer, Conv | AvgPool) for layer in all_layers(layers))
    if spatial and not end.read_out and not problems:
        problems.append(no_readout(len(layers)))
    return problems


def no_readout(count: int) -> ArchitectureError:
    """Make the error for a network whose output still has pixels."""
    return ArchitectureError(
        "layers: no readout, the spatial axes are left at the end",
        (count - 1,),
        "add global_avg_pool or flatten before the last dense layer",
    )


def all_layers(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    """Go through all layers, those inside of residual sums included."""
    for layer in layers:
        yield layer
        if isinstance(layer, Residual):
            yield from all_layers(layer.branch)
            yield from all_layers(layer.shortcut)


def _walk(layers: tuple[Layer, ...], flow: Flow, path: Path, problems: Problems) -> Flow:
    for index, layer in enumerate(layers):
        flow = _step(layer, flow, (*path, index), problems)
    return flow


def _step(layer: Layer, flow: Flow, path: Path, problems: Problems) -> Flow:
    def broken(fact: str, advice: str) -> None:
        where = f"{place(path)} ({name_of(layer)})"
        problems.append(ArchitectureError(f"{where}: {fact}", path, advice))

    if isinstance(layer, Residual):
        return _residual(layer, flow, path, problems)
    if isinstance(layer, Relu | Erf | Gelu | LayerNorm) and not flow.gaussian:
        broken("its input is not Gaussian", "put a conv or dense layer before it")
    if isinstance(layer, Conv | AvgPool) and flow.read_out:
        broken("there are no spatial axes after the readout", "move it before the readout")
    if isinstance(layer, Flatten | GlobalAvgPool) and flow.read_out:
        broken("a second readout", "keep one of flatten and global_avg_pool")
    return _after(layer, flow)


def _after(layer: Layer, flow: Flow) -> Flow:
    if isinstance(layer, Conv | Dense):
        return replace(flow, gaussian=True)
    if isinstance(layer, Relu | Erf | Gelu):
        return replace(flow, gaussian=False)
    if isinstance(layer, Flatten):
        return Flow(gaussian=False, read_out=True)
    if isinstance(layer, GlobalAvgPool):
        return replace(flow, read_out=True)
    return flow


def _residual(layer: Residual, flow: Flow, path: Path, problems: Problems) -> Flow:
    ends = []
    for side, layers in (("branch", layer.branch), ("shortcut", layer.shortcut)):
        inner = (*path, "residual", side)
        end = _walk(layers, flow, inner, problems)
        if not end.gaussian:
            fact = f"{place(inner)}: a residual sum needs Gaussian terms, and this side is not"
            advice = "end it with a conv or dense layer (an empty shortcut passes the input on)"
            problems.append(ArchitectureError(fact, inner, advice))
        ends.append(end)
    if ends[0].read_out != ends[1].read_out:
        fact = f"{place(path)} (residual): one side has passed a readout and the other has not"
        problems.append(ArchitectureError(fact, path, "put the readout after the residual sum"))
    return Flow(gaussian=True, read_out=all(end.read_out for end in ends))
