"""The GPU engine: sub-batches of pairs, a kernel launch for every stage of each.

What leaves a stage lies in the device's memory until the next one has read it, so a sub-batch is as
many pairs as fit into a fixed budget. Kernels are asked for without waiting: `start_block` returns
while the device works, and a block is copied out while the next one is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.base import EngineBase
from hpcnk.engine.device.kinds import Device, DeviceArray
from hpcnk.engine.device.launch import Batch, Launcher
from hpcnk.engine.device.program import DeviceProgram, device_program
from hpcnk.engine.device.rows import DeviceRows, PendingBlock
from hpcnk.engine.host import HostEngine
from hpcnk.engine.prepared import Described
from hpcnk.kernels.plan import Plan
from hpcnk.kernels.spec import Architecture

PANELS = 8  # of a symmetric block without pixels: what lies below the diagonal panels is left out


class DeviceEngine(EngineBase):
    """Computes blocks of one architecture's kernel on a GPU.

    Pooled sums are added up in whatever order the device finds, so the last digits of a pooled
    kernel may differ from run to run; all else is the same every time. `threads` of the CPU
    describe the rows. Raises BackendError if the host library cannot be had, or CUDA fails.
    """

    backend = "gpu"
    ahead = 1

    def __init__(
        self, architecture: Architecture, kind: str, dtype: np.dtype, threads: int, device: Device
    ) -> None:
        super().__init__(architecture, kind, dtype, threads, device.name)
        self._device = device
        self._host = HostEngine(architecture, kind, dtype, threads, "describes rows")
        self._launcher = lru_cache(maxsize=8)(self._make_launcher)

    def describe(self, x: NDArray) -> Described:
        """Compute what is known of each row alone, on the CPU. Raises as HostEngine.describe."""
        return self._host.describe(x)

    def prepare(self, x: NDArray, described: Described | None = None) -> DeviceRows:
        """Send rows to the device; x is (rows, *input_shape). Raises as HostEngine.prepare."""
        rows = self._host.prepare(x, described)
        program = self._program(rows.plan)
        numbers = self._device.upload(program.laid_out(rows.x, rows.factors))
        inputs = self._device.upload(rows.x[:, :, 0]) if program.products else None
        return DeviceRows(rows.plan, rows.described, self._key, numbers, inputs)

    def block(self, left: DeviceRows, right: DeviceRows) -> NDArray:
        """Kernel of all rows of `left` with all rows of `right`, (left, right), in dtype."""
        return self.start_block(left, right).result()

    def symmetric_block(self, prepared: DeviceRows) -> NDArray:
        """Kernel of the rows with themselves: exactly symmetric, with the exact diagonal.

        Computes the pairs above the diagonal only.
        """
        return self.start_block(prepared).result()

    def start_block(self, left: DeviceRows, right: DeviceRows | None = None) -> PendingBlock:
        """Begin the block of `left` with `right`, or of `left` with itself without it."""
        if right is None:
            return self._start_symmetric(left)
        self._check_rows(left, right)
        shape = (len(left), len(right))
        if 0 in shape:
            return PendingBlock(None, np.empty(shape, self.dtype), None)
        out = self._device.empty(shape, self._working)
        if self._program(left.plan).products:
            self._multiply(left, right, out, 0, 0)
        else:
            pairs = shape[0] * shape[1]
            batch = Batch(left.numbers, right.numbers, shape, pairs)
            self._launcher(left.plan).run(batch, out, beat=self.beat)
        return PendingBlock(self._device.download(out), np.empty(0, self.dtype), None)

    def _start_symmetric(self, prepared: DeviceRows) -> PendingBlock:
        self._check_rows(prepared)
        count = len(prepared)
        if count == 0:
            return PendingBlock(None, np.empty((0, 0), self.dtype), None)
        out = self._device.empty((count, count), self._working)
        self._device.clear(out)
        if self._program(prepared.plan).products:
            for part in _panels(count):
                self._multiply(prepared[part], prepared[part.start :], out, part.start, part.start)
        else:
            pairs = count * (count - 1) // 2
            numbers = prepared.numbers
            batch = Batch(numbers, numbers, (count, count), pairs, upper=True)
            self._launcher(prepared.plan).run(batch, out, beat=self.beat)
        return PendingBlock(self._device.download(out), np.empty(0, self.dtype), prepared)

    def workspace_bytes(self, input_shape: tuple[int, ...]) -> int:
        """Bound the temporaries of `describe` and `prepare` in the host's memory, in bytes."""
        return self._host.workspace_bytes(input_shape) + self._host.prepared_bytes(input_shape)

    def prepared_bytes(self, input_shape: tuple[int, ...]) -> int:
        """Bound the bytes that one prepared row keeps in the host's memory: its description."""
        return self._host.prepared_bytes(input_shape)

    def device_bytes(self, input_shape: tuple[int, ...], tile: int, rows: int | None = None) -> int:
        """Bound the device memory that blocks of `tile` x `tile` pairs take, in bytes.

        `rows`: prepared rows kept at the same time, by default those of two tiles, each with a
        left and a right side. Two blocks may be on their way. CUDA itself takes about 0.5 GiB more.
        """
        plan = self.architecture.plan(input_shape)
        program = self._program(plan)
        kept = 4 * tile if rows is None else rows
        row = program.length + (plan.channels if program.products else 0)
        blocks = 3 if program.products else 2
        numbers = kept * row + blocks * tile * tile
        return numbers * self._working.itemsize + self._launcher(plan).bytes(tile * tile)

    def program(self, input_shape: tuple[int, ...]) -> DeviceProgram:
        """Show which kernels compute rows of this shape."""
        return self._program(self.architecture.plan(input_shape))

    # --- small parts

    def _program(self, plan: Plan) -> DeviceProgram:
        return device_program(plan, self._tangent, self._working.itemsize == 8)

    def _make_launcher(self, plan: Plan) -> Launcher:
        return Launcher(self._device, self._program(plan), self._working, self._tangent)

    def _multiply(
        self, left: DeviceRows, right: DeviceRows, out: DeviceArray, row: int, column: int
    ) -> None:
        """Rows without pixels: one matrix product, then all layers on its entries."""
        products = self._device.products(left.x, right.x)
        shape = (len(left), len(right))
        batch = Batch(left.numbers, right.numbers, shape, shape[0] * shape[1], products=products)
        self._launcher(left.plan).run(batch, out, row * out.shape[1] + column)


def _panels(count: int) -> Iterator[slice]:
    rows = max(1, -(-count // PANELS))
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))
