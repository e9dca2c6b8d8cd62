"""The architecture: a checked list of layers, read from a preset's name, a mapping or a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hpcnk.errors import ArchitectureError
from hpcnk.kernels.layers import Conv, Dense, Layer, canonical
from hpcnk.kernels.options import mapping, refuse
from hpcnk.kernels.plan import Plan, make_plan, operations
from hpcnk.kernels.presets import expand
from hpcnk.kernels.reading import read_layers
from hpcnk.kernels.rules import Problems, all_layers, rule_problems

KINDS = ("ntk", "nngp")


@dataclass(frozen=True)
class Architecture:
    """A valid infinite-width network. `preset` is the name it was read from, or None."""

    layers: tuple[Layer, ...]
    preset: str | None = field(default=None, compare=False)

    def canonical(self) -> list[object]:
        """Give the full list of layers with all defaults, JSON-able: what a hash is taken of."""
        return canonical(self.layers)

    def plan(self, input_shape: tuple[int, ...]) -> Plan:
        """Lay the layers out for rows of shape (channels,), (length, channels) or (h, w, channels).

        Raises ArchitectureError; its path is empty for a preset, whose layers no deck lists.
        """
        try:
            return make_plan(self.layers, tuple(int(size) for size in input_shape))
        except ArchitectureError as error:
            if self.preset is None:
                raise
            what = f"preset {self.preset!r}: {error.what}"
            raise ArchitectureError(what, (), error.advice) from None

    def check(self, input_shape: tuple[int, ...]) -> None:
        """Raise ArchitectureError if the network cannot take rows of this shape."""
        self.plan(input_shape)

    def check_kind(self, kind: str) -> None:
        """Raise ArchitectureError unless `kind` is ntk or nngp and has a kernel here."""
        if kind not in KINDS:
            raise ArchitectureError(f"kind: expected ntk or nngp, got {kind!r}", ())
        trainable = any(isinstance(layer, Conv | Dense) for layer in all_layers(self.layers))
        if kind == "ntk" and not trainable:
            raise ArchitectureError(
                "layers: no conv or dense layer, so the tangent kernel is zero",
                (),
                "add a dense layer at the end, or use kind: nngp",
            )

    def operations(self, input_shape: tuple[int, ...]) -> int:
        """Count el-layers a pair: covariance entries through one linear and one nonlinear layer.

        8,192 for cv8 and 3.36 million for myrtle10 on 32 x 32 images. Raises ArchitectureError.
        """
        return operations(self.plan(input_shape))


def parse(spec: object) -> Architecture:
    """Read an architecture from a preset's name, a mapping with `preset`, or a list of layers.

    Raises the first ArchitectureError found; `find_problems` lists all.
    """
    architecture, problems = _read(spec)
    if problems:
        raise problems[0]
    return architecture


def find_problems(spec: object) -> Problems:
    """List everything that is wrong with a spec; empty for a valid one."""
    return _read(spec)[1]


def _read(spec: object) -> tuple[Architecture, Problems]:
    if isinstance(spec, Architecture):
        return spec, []
    try:
        if isinstance(spec, str):
            return Architecture(expand(spec, {}), spec), []
        if isinstance(spec, Mapping):
            return _read_preset(spec), []
    except ArchitectureError as problem:
        return Architecture(()), [problem]
    return _read_list(spec)


def _read_preset(spec: Mapping[object, object]) -> Architecture:
    options = dict(mapping(spec, ()))
    name = options.pop("preset", None)
    if not isinstance(name, str):
        raise refuse((), "a mapping with a preset's name under `preset`", dict(spec))
    return Architecture(expand(name, options, ("preset",)), name)


def _read_list(spec: object) -> tuple[Architecture, Problems]:
    if not isinstance(spec, list | tuple):
        expected = "a preset's name, a mapping with `preset`, or a list of layers"
        return Architecture(()), [refuse((), expected, spec)]
    problems: Problems = []
    layers = read_layers(spec, (), problems)
    # A layer that could not be read leaves a gap, which the rules would report a second time.
    return Architecture(layers), problems or rule_problems(layers)
