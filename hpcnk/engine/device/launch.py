"""Launches a program's kernels over sub-batches of pairs."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import Structure, sizeof
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcnk.engine import tables
from hpcnk.engine.device.kinds import Device, DeviceArray
from hpcnk.engine.device.program import Call, DeviceProgram
from hpcnk.engine.device.source import STREAM, Compiled, stream_module
from hpcnk.engine.device.tables import THREADS, WARP, Shape, work_type
from hpcnk.engine.threads import nothing

BUDGET_BYTES = 1 << 30  # tensors and partial sums of a sub-batch
SCRATCH_BYTES = 1 << 28  # planes too large for shared memory, of all blocks at work
MOST_PAIRS = 1 << 20  # of a sub-batch: numbers of planes stay below 2^31
BLOCKS_EACH = 16  # blocks of `planes` for every multiprocessor


@dataclass(frozen=True)
class Batch:
    """Pairs to compute: a rectangle of rows, or with `upper` the different pairs of one list."""

    left: DeviceArray
    right: DeviceArray
    shape: tuple[int, int]
    pairs: int
    upper: bool = False
    products: DeviceArray | None = None


class Launcher:
    """One program on one device, with its workspace, which is kept from block to block."""

    def __init__(
        self, device: Device, program: DeviceProgram, working: np.dtype, tangent: bool
    ) -> None:
        self._device = device
        self._program = program
        self._working = working
        self._tangent = tangent
        self._module = Compiled(working.name)
        self._stages = _table(device, program.stages)
        self._operations = _table(device, program.operations)
        self._tensors = _table(device, program.tensors)
        self._spaces: dict[str, DeviceArray] = {}

    @property
    def _pair_numbers(self) -> int:
        """Numbers that one pair of a sub-batch keeps."""
        return (1 + self._tangent) * (self._program.tensor_entries + self._program.slots)

    def _most(self, pairs: int) -> int:
        """Pairs of a sub-batch."""
        if self._program.products:
            return pairs
        fit = BUDGET_BYTES // (self._pair_numbers * self._working.itemsize)
        return int(max(1, min(pairs, fit, MOST_PAIRS)))

    def bytes(self, pairs: int) -> int:
        """Give the device memory of a block of so many pairs, its rows and its result apart."""
        numbers = 0 if self._program.products else self._pair_numbers * self._most(pairs)
        scratch = max((self._scratch(call)[1] for call in self._program.calls), default=0)
        held = sum(table.nbytes for table in (self._stages, self._operations, self._tensors))
        return int((numbers + scratch) * self._working.itemsize + held)

    def run(
        self,
        batch: Batch,
        out: DeviceArray,
        offset: int = 0,
        beat: Callable[[], None] = nothing,
    ) -> None:
        """Compute all pairs of a batch into `out`, beginning at entry `offset`.

        `beat` is called as sub-batches have been sent to the device, which takes only a few ahead.
        """
        if not batch.pairs:
            return
        most = self._most(batch.pairs)
        tensors = sums = None
        if not self._program.products:
            count = most * (1 + self._tangent)
            tensors = self._space("tensors", count * self._program.tensor_entries)
            sums = self._space("sums", count * self._program.slots)
        for first in range(0, batch.pairs, most):
            work = self._work(batch, first, min(most, batch.pairs - first))
            work.out = self._device.address(out) + offset * self._working.itemsize
            work.out_stride = out.shape[1]
            if tensors is not None and sums is not None:
                self._device.clear(tensors)
                work.tensors = self._device.address(tensors)
                work.sums = self._device.address(sums)
            for call in self._program.calls:
                self._launch(call, work)
            beat()

    def _work(self, batch: Batch, first: int, count: int) -> Any:
        program = self._program
        return work_type(self._working)(
            left=self._device.address(batch.left),
            right=self._device.address(batch.right),
            products=0 if batch.products is None else self._device.address(batch.products),
            products_stride=batch.shape[1],
            tables=self._device.address(self._tensors),
            first=first,
            count=count,
            length=program.length,
            tensor_entries=program.tensor_entries,
            rows=batch.shape[0],
            columns=batch.shape[1],
            upper=batch.upper,
            tangent=self._tangent,
            pixels=program.plan.pixels,
            channels=program.plan.channels,
            result=program.result,
        )

    # --- one kernel

    def _launch(self, call: Call, work: Any) -> None:
        stage = self._program.stages[call.stage]
        work.stage = self._device.address(self._stages) + call.stage * sizeof(tables.Stage)
        size = sizeof(tables.Operation)
        work.operations = self._device.address(self._operations) + stage.first * size
        work.slots = call.slots
        if call.shape is not None:
            self._launch_stream(call.shape, stage, work)
        elif call.name == "planes":
            self._launch_planes(call, work)
        elif call.step is not None:
            self._launch_add(call.step, work)
        else:
            self._launch_threads(call.name, work, work.count)

    def _launch_threads(self, name: str, work: Any, threads: int) -> None:
        blocks = -(-threads // THREADS)
        self._device.launch(self._module, f"hpcnk_{name}", blocks, THREADS, work)

    def _launch_stream(self, shape: Shape, stage: tables.Stage, work: Any) -> None:
        operations = self._program.operations[stage.first : stage.first + stage.operations]
        for number, operation in enumerate(operations):
            work.weight[number], work.bias[number] = operation.weight, operation.bias
        work.target_place = self._program.tensors[stage.target].place
        if stage.source != tables.IMAGES:
            work.source_place = self._program.tensors[stage.source].place
        chunks = -(-work.count * shape.planes_y // shape.chunk)
        warps = -(-chunks * shape.planes_x // shape.groups)
        module = stream_module(self._working, shape)
        self._device.launch(module, STREAM, warps, WARP, work)

    def _launch_planes(self, call: Call, work: Any) -> None:
        stage = self._program.stages[call.stage]
        blocks, scratch = self._scratch(call)
        planes = (2 * stage.reach_y + 1) * (2 * stage.reach_x + 1) * work.count
        work.scratch_entries = call.scratch_entries
        work.scratch = self._device.address(self._space("scratch", scratch)) if scratch else 0
        shared = self._sums_bytes + (0 if scratch else self._plane_bytes(call))
        self._device.launch(
            self._module, "hpcnk_planes", min(blocks, planes), THREADS, work, shared
        )

    def _launch_add(self, step: tables.Step, work: Any) -> None:
        work.left_tensor, work.right_tensor, work.target = step.left, step.right, step.target
        work.left_tangent, work.right_tangent = step.left_tangent, step.right_tangent
        work.left_weight, work.right_weight = step.left_weight, step.right_weight
        to = self._program.tensors[step.target]
        entries = to.planes_y * to.planes_x * to.height * to.width
        pairs = work.count
        work.count = pairs * entries
        self._launch_threads("add", work, work.count)
        work.count = pairs

    # --- memory

    @property
    def _sums_bytes(self) -> int:
        return 2 * THREADS * self._working.itemsize

    def _plane_bytes(self, call: Call) -> int:
        return call.scratch_entries * (1 + self._tangent) * self._working.itemsize

    def _scratch(self, call: Call) -> tuple[int, int]:
        """Blocks of a `planes` launch, and numbers of scratch, 0 where shared memory is enough."""
        blocks = self._device.multiprocessors * BLOCKS_EACH
        each = self._plane_bytes(call)
        if call.name != "planes" or each + self._sums_bytes <= self._device.shared_bytes:
            return blocks, 0
        blocks = max(1, min(blocks, SCRATCH_BYTES // each))
        return blocks, blocks * each // self._working.itemsize

    def _space(self, name: str, numbers: int) -> DeviceArray:
        """Return memory of at least so many numbers, kept for the next sub-batch."""
        held = self._spaces.get(name)
        if held is None or held.size < numbers:
            self._spaces.pop(name, None)  # first let go of the smaller one
            held = self._spaces[name] = self._device.empty((max(1, numbers),), self._working)
        return held


def _table(device: Device, items: list[Any]) -> DeviceArray:
    """Send structures to the device as bytes."""
    return device.upload(np.frombuffer(b"".join(map(_bytes, items)) or b"\0" * 8, np.uint8))


def _bytes(item: Structure) -> bytes:
    return bytes(item)
