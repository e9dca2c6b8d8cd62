"""A network's program as the GPU runs it: which kernel does each step, and where things lie.

The tables are those of `program.py` with other places: a row's factors lie pixel by pixel and each
layer's from an even place on, and a buffer holds a whole plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine import tables
from hpcnk.engine.device.buffers import buffer_sizes, last_readers, place_buffers
from hpcnk.engine.device.stream import stream_shape
from hpcnk.engine.device.tables import CHAIN_SLOTS, Shape
from hpcnk.engine.program import FACTORS, make_program
from hpcnk.engine.tables import END_MEAN, IMAGES, NOTHING
from hpcnk.kernels.plan import Plan

Table = TypeVar("Table", tables.Stage, tables.Operation)


@dataclass(frozen=True)
class Call:
    """One launch for every sub-batch of pairs. `name`: the kernel, without the prefix hpcnk_."""

    name: str
    stage: int = 0
    shape: Shape | None = None
    slots: int = 0
    scratch_entries: int = 0
    step: tables.Step | None = None


@dataclass(frozen=True)
class FactorPlace:
    """Factors of one pointwise layer: where they begin in the host's layout and in a row here."""

    host: int
    device: int
    numbers: int  # of each pixel
    pixels: int


@dataclass(frozen=True)
class DeviceProgram:
    """Tables and calls of one network for rows of one shape; sizes in numbers, not bytes."""

    plan: Plan
    stages: list[tables.Stage]
    operations: list[tables.Operation]
    tensors: list[tables.Tensor]
    calls: list[Call]
    inputs: int  # of a row's numbers, the part before its factors
    length: int  # of a row's numbers
    factors: list[FactorPlace]
    tensor_entries: int
    result: int
    result_tangent: bool
    products: bool  # one chain on scalar products that a matrix product makes

    @property
    def slots(self) -> int:
        """Partial sums of one pair, S or T."""
        return max((call.slots for call in self.calls), default=0)

    def laid_out(self, x: NDArray, factors: NDArray) -> NDArray:
        """Make rows (rows, length) of inputs (rows, channels, pixels) and the host's factors."""
        rows = np.zeros((len(x), self.length), factors.dtype)
        if self.inputs:
            _, channels, pixels = x.shape
            pairs = rows[:, : self.inputs].reshape(len(x), -1, pixels, 2)
            for channel in range(channels):
                pairs[:, channel // 2, :, channel % 2] = x[:, channel]
        for place in self.factors:
            size = place.numbers * place.pixels
            here = factors[:, place.host : place.host + size]
            by_pixel = here.reshape(-1, place.numbers, place.pixels).transpose(0, 2, 1)
            rows[:, place.device : place.device + size] = by_pixel.reshape(-1, size)
        return rows


@lru_cache(maxsize=32)
def device_program(plan: Plan, tangent: bool, wide: bool = False) -> DeviceProgram:
    """Lay a plan out for the GPU, `wide` in float64. Raises as `make_program` does."""
    return _Builder(plan, tangent, wide).build()


@dataclass
class _Builder:
    plan: Plan
    tangent: bool
    wide: bool
    calls: list[Call] = field(default_factory=list)

    def build(self) -> DeviceProgram:
        program = make_program(self.plan)
        self.stages = [_copy(stage) for stage in program.stages]
        self.operations = [_copy(operation) for operation in program.operations]
        self.tensors = program.tensors
        sizes = [self._place(number) for number in range(len(self.stages))]
        products = not self.plan.spatial and len(self.stages) == 1 and sizes[0] <= CHAIN_SLOTS
        inputs = 0 if products else 2 * -(-self.plan.channels // 2) * self.plan.pixels
        places, length = self._place_factors(inputs)
        if products:
            self.calls.append(Call("chain"))
        else:
            for step in program.steps:
                self._add(step, sizes)
            self.calls.append(Call("deliver"))
        head = program.header
        return DeviceProgram(
            self.plan, self.stages, self.operations, self.tensors, self.calls, inputs, length,
            places, int(head.tensor_entries), int(head.result), bool(head.result_tangent), products,
        )  # fmt: skip

    def _operations(self, stage: tables.Stage) -> list[tables.Operation]:
        return self.operations[stage.first : stage.first + stage.operations]

    def _place(self, number: int) -> int:
        """Give the buffers of a stage their places; return the entries they take in all."""
        stage = self.stages[number]
        operations = self._operations(stage)
        places, entries = place_buffers(buffer_sizes(stage, operations), last_readers(operations))
        stage.place = places[0]
        for operation, place in zip(operations, places[1:], strict=True):
            operation.place = place
        return entries

    def _place_factors(self, inputs: int) -> tuple[list[FactorPlace], int]:
        """Lay the layers' factors behind each other; return their places and a row's length."""
        places, length = [], inputs
        for operation in self.operations:
            numbers, pixels = FACTORS[operation.point], operation.pixels
            if numbers:
                places.append(FactorPlace(operation.factor, length, numbers, pixels))
                operation.factor = length
                length += -(-numbers * pixels // 2) * 2
        return places, max(2, length)

    def _add(self, step: tables.Step, sizes: Sequence[int]) -> None:
        if step.stage == NOTHING:
            planes = {_planes_of(self.tensors[k]) for k in (step.left, step.right, step.target)}
            assert len(planes) == 1, "a residual sum keeps offsets"
            self.calls.append(Call("add", step=step))
            return
        number = int(step.stage)
        stage = self.stages[number]
        if self._is_chain(stage, sizes[number]):
            self.calls.append(Call("chain", number))
            return
        shape = stream_shape(
            stage,
            self._operations(stage),
            self.tensors,
            self.plan.channels,
            self.tangent,
            self.wide,
        )
        slots = 0
        if stage.end == END_MEAN:
            slots = _planes(stage) if shape is None else shape.planes_y * shape.planes_x
        name = "planes" if shape is None else "stream"
        self.calls.append(Call(name, number, shape, slots, 0 if shape else sizes[number]))
        if slots:
            self.calls.append(Call("finish", number, slots=slots))

    @staticmethod
    def _is_chain(stage: tables.Stage, slots: int) -> bool:
        """Tell whether each pair has one entry in this stage, and few buffers at a time."""
        one = stage.height == stage.width == 1 and stage.source != IMAGES
        return bool(one and stage.end == END_MEAN and slots <= CHAIN_SLOTS)


def _planes(stage: tables.Stage) -> int:
    """Offsets that a stage is wanted at."""
    return int((2 * stage.reach_y + 1) * (2 * stage.reach_x + 1))


def _planes_of(tensor: tables.Tensor) -> tuple[int, int]:
    return int(tensor.planes_y), int(tensor.planes_x)


def _copy(table: Table) -> Table:
    return type(table).from_buffer_copy(table)
