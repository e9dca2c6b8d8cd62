"""The reference engine: kernel blocks by the plain NumPy recursions, the twin of the compiled ones.

Slow, and written for reading; used only where `backend: reference` asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from hpcnk.engine.base import PreparedRows
from hpcnk.engine.cuts import CutSize, Rectangle, cut, cut_size, cut_upper
from hpcnk.engine.inputs import checked_rows
from hpcnk.engine.pending import ComputesAtOnce
from hpcnk.engine.prepared import Described, a_slice, check_described, checked
from hpcnk.engine.threads import for_each
from hpcnk.engine.workspace import row_bytes, workspace_bytes
from hpcnk.kernels.images import Images, factors_of, pointwise_steps, scaled_input
from hpcnk.kernels.pairs import kernel_of_pairs
from hpcnk.kernels.plan import Form, Plan
from hpcnk.kernels.variances import describe_images

FLOAT64_BYTES = 8


@dataclass(frozen=True)
class ReferenceRows(PreparedRows):
    """Rows in the working dtype with all that is known of each alone; slices do not copy."""

    images: Images

    @property
    def nbytes(self) -> int:
        """Bytes held in memory, those of `described` apart."""
        return sum(array.nbytes for array in (self.images.x, *self.images.factors))

    def __getitem__(self, rows: slice) -> ReferenceRows:
        part = a_slice(rows)
        return ReferenceRows(self.plan, self.described[part], self.key, self.images[part])


class ReferenceEngine(ComputesAtOnce):
    """Computes blocks of one architecture's kernel; the same bytes for any `threads`."""

    backend = "reference"

    @cached_property
    def _blas(self) -> ThreadpoolController:
        return ThreadpoolController()

    def describe(self, x: NDArray) -> Described:
        """Compute what is known of each row alone; x is (rows, *input_shape).

        Raises ArchitectureError if the network cannot take such rows, DataError if a row holds a
        value that is not finite or its kernel overflows the working precision.
        """
        plan = self.architecture.plan(x.shape[1:])
        scaled = scaled_input(checked_rows(x, self.dtype, self._working), plan, self._working)
        rows = cut_size(plan, FLOAT64_BYTES).columns
        starts = range(0, max(1, len(x)), rows)
        parts: dict[int, tuple[NDArray, NDArray]] = {}

        def describe(first: int) -> None:
            part = scaled[..., first : first + rows]
            parts[first] = describe_images(plan, part, self._tangent, self._tiny)

        with self._blas.limit(limits=1, user_api="blas"):
            for_each(describe, starts, self.threads, self.beat)
        variances, diagonal = (
            np.concatenate(arrays) for arrays in zip(*(parts[k] for k in starts), strict=True)
        )
        return checked(variances, diagonal, self._working, self.dtype)

    def prepare(self, x: NDArray, described: Described | None = None) -> ReferenceRows:
        """Make rows ready for blocks; x is (rows, *input_shape). Raises as `describe` does."""
        plan = self.architecture.plan(x.shape[1:])
        described = described or self.describe(x)
        scaled = scaled_input(checked_rows(x, self.dtype, self._working), plan, self._working)
        positions = sum(prod(step.spatial) for step in pointwise_steps(plan.steps))
        check_described(described, len(x), positions, self._working)
        factors = factors_of(plan, described.variances, self._working, self._tiny)
        return ReferenceRows(plan, described, self._key, Images(scaled, factors))

    def block(self, left: ReferenceRows, right: ReferenceRows) -> NDArray:
        """Kernel of all rows of `left` with all rows of `right`, (left, right), in dtype."""
        self._check_rows(left, right)
        out = np.empty((len(left), len(right)), self.dtype)
        self._fill(out, left, right, list(cut(len(left), len(right), self._size(left.plan))))
        return out

    def symmetric_block(self, prepared: ReferenceRows) -> NDArray:
        """Kernel of the rows with themselves: exactly symmetric, with the exact diagonal.

        Computes the pairs above the diagonal only.
        """
        self._check_rows(prepared)
        count = len(prepared)
        out = np.empty((count, count), self.dtype)
        self._fill(out, prepared, prepared, list(cut_upper(count, self._size(prepared.plan))))
        for row in range(count):
            out[row + 1 :, row] = out[row, row + 1 :]
            out[row, row] = prepared.diagonal[row]
        return out

    def workspace_bytes(self, input_shape: tuple[int, ...]) -> int:
        """Bound the temporaries of all threads in `describe` and `block`, in bytes."""
        plan = self.architecture.plan(input_shape)
        pair = workspace_bytes(plan, self._size(plan), self._working.itemsize, self._tangent)
        own = CutSize(1, cut_size(plan, FLOAT64_BYTES).columns)
        most = max(pair, workspace_bytes(plan, own, FLOAT64_BYTES, self._tangent))
        return most * self.threads

    def prepared_bytes(self, input_shape: tuple[int, ...]) -> int:
        """Bound the bytes that one prepared row keeps in memory."""
        return row_bytes(self.architecture.plan(input_shape), self._working.itemsize)

    def _size(self, plan: Plan) -> CutSize:
        return cut_size(plan, self._working.itemsize)

    def _fill(
        self, out: NDArray, left: ReferenceRows, right: ReferenceRows, parts: list[Rectangle]
    ) -> None:
        def compute(part: Rectangle) -> None:
            rows, columns = left.images[part.rows], right.images[part.columns]
            if left.plan.form != Form.NONE:
                rows, columns = rows.packed(), columns.packed()
            out[part.rows, part.columns] = kernel_of_pairs(left.plan, rows, columns, self._tangent)

        with self._blas.limit(limits=1, user_api="blas"):
            for_each(compute, parts, self.threads, self.beat)
