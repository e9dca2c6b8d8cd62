"""The CPU engine: source/host.cpp, several right rows at a time, one for each lane of a vector.

With a pair in every lane no lane needs another's numbers, so images of any size fill the vectors,
and what is read of the left row is one number for all lanes. Work is handed to threads by vectors
of right rows; the library lets go of the interpreter meanwhile. An entry's bytes do not depend on
the lane, the cut or the thread that computed it; without pixels, where the entry begins as one of a
matrix product, they may depend on the shape of the block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from threading import local

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from hpcnk.engine.base import PreparedRows
from hpcnk.engine.build import vector_bytes
from hpcnk.engine.inputs import checked_rows
from hpcnk.engine.library import Bound, HostLibrary, host_library
from hpcnk.engine.pending import ComputesAtOnce
from hpcnk.engine.prepared import Described, a_slice, check_described, checked
from hpcnk.engine.program import make_program
from hpcnk.engine.symmetric import complete
from hpcnk.engine.threads import for_each
from hpcnk.kernels.plan import Plan
from hpcnk.kernels.spec import Architecture

CHAIN_VECTORS = 64  # of a network without pixels, at a time: its few buffers fill the first cache
CHAIN_ROWS = 256
TASKS_PER_THREAD = 4  # so that threads end at about the same time
FLOAT64 = np.dtype(np.float64)


@dataclass(frozen=True)
class HostRows(PreparedRows):
    """Rows in the working dtype with the factors of every pointwise layer; slices share memory.

    `x`: (rows, channels, pixels), divided by sqrt(channels). `factors`: (rows, positions).
    """

    x: NDArray
    factors: NDArray
    lanes: int

    @property
    def nbytes(self) -> int:
        """Bytes held in memory once used on both sides of a block, those of `described` apart."""
        arrays = {id(array): array for array in (self.x, self.factors, *self.right)}
        return sum(array.nbytes for array in arrays.values())

    @cached_property
    def right(self) -> tuple[NDArray, NDArray]:
        """The same as vectors of rows: (vectors, positions, lanes), padded with zero rows."""
        if self.plan.spatial:
            return vectors(self.x, self.lanes), vectors(self.factors, self.lanes)
        # Without pixels a whole row of entries is computed at a time: (positions, columns).
        columns = -(-len(self) // self.lanes) * self.lanes
        factors = np.zeros((self.factors.shape[1], columns), self.factors.dtype)
        factors[:, : len(self)] = self.factors.T
        return self.x, factors

    def __getitem__(self, rows: slice) -> HostRows:
        part = a_slice(rows)
        x, factors = map(np.ascontiguousarray, (self.x[part], self.factors[part]))
        return HostRows(self.plan, self.described[part], self.key, x, factors, self.lanes)


def vectors(array: NDArray, lanes: int) -> NDArray:
    """Turn (rows, ...) into (vectors, positions, lanes)."""
    flat = array.reshape(len(array), prod(array.shape[1:]))
    padded = np.zeros((-(-len(flat) // lanes) * lanes, flat.shape[1]), flat.dtype)
    padded[: len(flat)] = flat
    turned = padded.reshape(len(padded) // lanes, lanes, flat.shape[1]).transpose(0, 2, 1)
    made = aligned(padded.nbytes).view(flat.dtype)[: padded.size].reshape(turned.shape)
    made[...] = turned
    return made


class HostEngine(ComputesAtOnce):
    """Computes blocks of one architecture's kernel on the CPU; the same bytes for any `threads`.

    All that computes raises BackendError if the compiled library cannot be had.
    """

    backend = "cpu"

    def __init__(
        self, architecture: Architecture, kind: str, dtype: np.dtype, threads: int, reason: str
    ) -> None:
        super().__init__(architecture, kind, dtype, threads, reason)
        self._spaces = local()
        self._bound = lru_cache(maxsize=8)(self._make_bound)

    @cached_property
    def _blas(self) -> ThreadpoolController:
        return ThreadpoolController()

    @cached_property
    def _library(self) -> HostLibrary:
        return host_library(self._working.name)

    @cached_property
    def _wide(self) -> HostLibrary:
        return host_library("float64")

    def describe(self, x: NDArray) -> Described:
        """Compute what is known of each row alone; x is (rows, *input_shape).

        Raises ArchitectureError if the network cannot take such rows, DataError if a row holds a
        value that is not finite or its kernel overflows the working precision.
        """
        plan = self.architecture.plan(x.shape[1:])
        bound, lanes = self._bound(plan, 1), self._wide.lanes
        groups = vectors(self._scaled(x, plan).astype(FLOAT64), lanes)
        variances = np.zeros((len(groups), bound.program.variances, lanes))
        kernel = np.zeros((len(groups), lanes))
        factors = bound.program.factors * lanes
        space = bound.program.workspace_bytes(lanes, FLOAT64.itemsize, self._tangent)

        def describe(group: int) -> None:
            work = self._workspace(space + factors * FLOAT64.itemsize).view(FLOAT64)
            found = (work[:factors], variances[group], kernel[group])
            self._wide.own(bound, self._tangent, groups[group], self._tiny, work[factors:], found)

        for_each(describe, range(len(groups)), self.threads, self.beat)
        by_row = variances.transpose(0, 2, 1).reshape(lanes * len(groups), variances.shape[1])
        return checked(by_row[: len(x)], kernel.reshape(-1)[: len(x)], self._working, self.dtype)

    def prepare(self, x: NDArray, described: Described | None = None) -> HostRows:
        """Make rows ready for blocks; x is (rows, *input_shape). Raises as `describe` does."""
        plan = self.architecture.plan(x.shape[1:])
        described = described or self.describe(x)
        bound = self._bound(plan, 1)
        check_described(described, len(x), bound.program.variances, self._working)
        factors = np.empty((len(x), bound.program.factors), self._working)
        variances = np.ascontiguousarray(described.variances)
        for row in range(len(x)):
            self._library.factors(bound, variances[row], self._tiny, factors[row])
        scaled = self._scaled(x, plan)
        return HostRows(plan, described, self._key, scaled, factors, self._library.lanes)

    def block(self, left: HostRows, right: HostRows) -> NDArray:
        """Kernel of all rows of `left` with all rows of `right`, (left, right), in dtype."""
        self._check_rows(left, right)
        return np.ascontiguousarray(self._compute(left, right, upper=False), self.dtype)

    def symmetric_block(self, prepared: HostRows) -> NDArray:
        """Kernel of the rows with themselves: exactly symmetric, with the exact diagonal.

        Computes the pairs above the diagonal, and those below it that share their vectors.
        """
        self._check_rows(prepared)
        out = np.ascontiguousarray(self._compute(prepared, prepared, upper=True), self.dtype)
        complete(out, prepared.diagonal)
        return out

    def workspace_bytes(self, input_shape: tuple[int, ...]) -> int:
        """Bound the temporaries of all threads in `describe` and `block`, in bytes."""
        plan = self.architecture.plan(input_shape)
        program = make_program(plan)
        own = program.workspace_bytes(vector_bytes() // 8, FLOAT64.itemsize, self._tangent)
        own += program.factors * vector_bytes()
        width = 1 if plan.spatial else CHAIN_VECTORS
        pairs = make_program(plan, width).workspace_bytes(
            vector_bytes() // self._working.itemsize, self._working.itemsize, self._tangent
        )
        return self.threads * (max(own, pairs) + ALIGNMENT)

    def prepared_bytes(self, input_shape: tuple[int, ...]) -> int:
        """Bound the bytes that one prepared row keeps in memory, for both sides of a block."""
        plan = self.architecture.plan(input_shape)
        program = make_program(plan)
        inputs = plan.channels * plan.pixels * (2 if plan.spatial else 1)
        numbers = inputs + 2 * program.factors + program.variances
        return self._working.itemsize * numbers + FLOAT64.itemsize

    # --- one block

    def _compute(self, left: HostRows, right: HostRows, upper: bool) -> NDArray:
        if not len(left) or not len(right):
            return np.empty((len(left), len(right)), self._working)
        fill = self._fill_pixels if left.plan.spatial else self._fill_chain
        columns = -(-len(right) // self._library.lanes) * self._library.lanes
        out = aligned(len(left) * columns * self._working.itemsize)
        block = out.view(self._working)[: len(left) * columns].reshape(len(left), columns)
        fill(block, left, right, upper)
        return block[:, : len(right)]

    def _fill_pixels(self, block: NDArray, left: HostRows, right: HostRows, upper: bool) -> None:
        bound, lanes = self._bound(left.plan, 1), self._library.lanes
        space = bound.program.workspace_bytes(lanes, self._working.itemsize, self._tangent)
        x, factors = right.right

        def compute(task: tuple[int, slice]) -> None:
            vector, rows = task
            out = block[rows, vector * lanes : (vector + 1) * lanes]
            self._library.pairs(
                bound,
                self._tangent,
                (left.x[rows], left.factors[rows]),
                (x[vector], factors[vector]),
                self._workspace(space),
                out,
            )

        for_each(compute, self._tasks(len(left), len(x), upper), self.threads, self.beat)

    def _tasks(self, rows: int, vectors: int, upper: bool) -> list[tuple[int, slice]]:
        """Cut a block into vectors of right rows and runs of left rows, the longest first."""
        wanted = TASKS_PER_THREAD * self.threads
        runs = max(1, -(-wanted // vectors)) if self.threads > 1 else 1
        tasks = []
        for vector in reversed(range(vectors)):
            end = min(rows, (vector + 1) * self._library.lanes) if upper else rows
            length = max(1, -(-end // runs))
            tasks += [
                (vector, slice(start, min(start + length, end))) for start in range(0, end, length)
            ]
        return tasks

    def _fill_chain(self, block: NDArray, left: HostRows, right: HostRows, upper: bool) -> None:
        """Rows without pixels: a matrix product, then all layers on its entries.

        By fixed runs of rows, each with one BLAS thread, so the bytes do not depend on the threads.
        """
        bound, lanes = self._bound(left.plan, CHAIN_VECTORS), self._library.lanes
        space = bound.program.workspace_bytes(lanes, self._working.itemsize, self._tangent)
        x, factors = right.right
        width = CHAIN_VECTORS * lanes
        block[:, len(right) :] = 0.0

        def compute(start: int) -> None:
            rows, first = slice(start, start + CHAIN_ROWS), start // width * width if upper else 0
            products = block[rows, first : len(right)]
            np.matmul(left.x[rows, :, 0], x[first:, :, 0].T, out=products)
            for column in range(first, block.shape[1], width):
                part = slice(column, column + width)
                self._library.chain(
                    bound, self._tangent, left.factors[rows], factors[:, part],
                    self._workspace(space), block[rows, part],
                )  # fmt: skip

        with self._blas.limit(limits=1, user_api="blas"):
            for_each(compute, range(0, len(left), CHAIN_ROWS), self.threads, self.beat)

    # --- small parts

    def _scaled(self, x: NDArray, plan: Plan) -> NDArray:
        """Turn rows (rows, *input_shape) into (rows, channels, pixels) / sqrt(channels)."""
        rows = checked_rows(x, self.dtype, self._working).reshape(
            len(x), plan.pixels, plan.channels
        )
        with np.errstate(over="ignore"):
            scaled = rows.astype(FLOAT64) / np.sqrt(plan.channels)
            return np.ascontiguousarray(scaled.transpose(0, 2, 1), self._working)

    def _make_bound(self, plan: Plan, width: int) -> Bound:
        return Bound(make_program(plan, width))

    def _workspace(self, size: int) -> NDArray:
        """Return this thread's workspace of at least `size` bytes; kept for the next block."""
        held = getattr(self._spaces, "held", None)
        if held is None or held.nbytes < size:
            self._spaces.held = None  # first let go of the smaller one
            held = self._spaces.held = aligned(size)
        return held


ALIGNMENT = 64


def aligned(size: int) -> NDArray:
    """Allocate `size` bytes that begin at a multiple of the longest vector."""
    whole = -(-size // ALIGNMENT) * ALIGNMENT
    raw = np.empty(whole + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + whole]
