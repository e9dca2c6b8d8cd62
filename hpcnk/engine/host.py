"""The host engine: kernel blocks by the NumPy recursions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from hpcnk.engine.cuts import CutSize, Rectangle, cut, cut_size, cut_upper
from hpcnk.engine.inputs import checked_rows
from hpcnk.engine.prepared import Prepared, joined
from hpcnk.engine.threads import for_each
from hpcnk.engine.workspace import row_bytes, workspace_bytes
from hpcnk.errors import UsageError
from hpcnk.kernels.images import Images, scaled_input
from hpcnk.kernels.layers import Erf, Gelu
from hpcnk.kernels.pairs import kernel_of_pairs
from hpcnk.kernels.plan import Form, Plan
from hpcnk.kernels.rules import all_layers
from hpcnk.kernels.spec import Architecture
from hpcnk.kernels.variances import describe_images

FLOAT64_BYTES = 8


class HostEngine:
    """Computes blocks of one architecture's kernel on the CPU; the same bytes for any `threads`."""

    backend = "cpu"

    def __init__(
        self, architecture: Architecture, kind: str, dtype: np.dtype, threads: int, reason: str
    ) -> None:
        self.architecture = architecture
        self.kind = kind
        self.dtype = dtype
        self.threads = threads
        self.reason = reason
        self._tangent = kind == "ntk"
        self._working = np.dtype(np.float64) if _crosses_zero(architecture) else dtype
        self._blas = ThreadpoolController()

    def prepare(self, x: NDArray) -> Prepared:
        """Compute what is known of each row of `x` alone; x is (rows, *input_shape).

        Raises ArchitectureError if the network cannot take such rows, DataError if a row holds a
        value that is not finite or overflows the working precision.
        """
        plan = self.architecture.plan(x.shape[1:])
        scaled = scaled_input(checked_rows(x, self.dtype), plan, self._working)
        rows = cut_size(plan, FLOAT64_BYTES).columns
        starts = range(0, max(1, len(x)), rows)
        parts: dict[int, Images] = {}

        def describe(first: int) -> None:
            part = scaled[..., first : first + rows]
            parts[first] = describe_images(plan, part, self._tangent, first)

        with self._blas.limit(limits=1, user_api="blas"):
            for_each(describe, starts, self.threads)
        return Prepared(plan, joined([parts[first] for first in starts], scaled))

    def block(self, left: Prepared, right: Prepared) -> NDArray:
        """Kernel of all rows of `left` with all rows of `right`, (left, right), in dtype."""
        if left.plan != right.plan:
            raise UsageError(
                f"rows of {left.plan.spatial} pixels against rows of {right.plan.spatial}",
                "prepare both with the same engine, from rows of the same shape",
            )
        out = np.empty((len(left), len(right)), self.dtype)
        self._fill(out, left, right, list(cut(len(left), len(right), self._size(left.plan))))
        return out

    def symmetric_block(self, prepared: Prepared) -> NDArray:
        """Kernel of the rows with themselves: exactly symmetric, with the exact diagonal.

        Computes the pairs above the diagonal only.
        """
        count = len(prepared)
        out = np.empty((count, count), self.dtype)
        self._fill(out, prepared, prepared, list(cut_upper(count, self._size(prepared.plan))))
        for row in range(count):
            out[row + 1 :, row] = out[row, row + 1 :]
            out[row, row] = prepared.diagonal[row]
        return out

    def workspace_bytes(self, input_shape: tuple[int, ...]) -> int:
        """Bound the temporaries of one thread in `prepare` and `block`, in bytes."""
        plan = self.architecture.plan(input_shape)
        pair = workspace_bytes(plan, self._size(plan), self._working.itemsize, self._tangent)
        own = CutSize(1, cut_size(plan, FLOAT64_BYTES).columns)
        return max(pair, workspace_bytes(plan, own, FLOAT64_BYTES, self._tangent))

    def prepared_bytes(self, input_shape: tuple[int, ...]) -> int:
        """Bound the bytes that one prepared row keeps in memory."""
        return row_bytes(self.architecture.plan(input_shape), self._working.itemsize)

    def _size(self, plan: Plan) -> CutSize:
        return cut_size(plan, self._working.itemsize)

    def _fill(
        self, out: NDArray, left: Prepared, right: Prepared, rectangles: list[Rectangle]
    ) -> None:
        def compute(part: Rectangle) -> None:
            rows, columns = left.images[part.rows], right.images[part.columns]
            if left.plan.form != Form.NONE:
                rows, columns = rows.packed(), columns.packed()
            out[part.rows, part.columns] = kernel_of_pairs(left.plan, rows, columns, self._tangent)

        with self._blas.limit(limits=1, user_api="blas"):
            for_each(compute, rectangles, self.threads)


def _crosses_zero(architecture: Architecture) -> bool:
    """Tell whether the kernel is near 0 for unlike images, as with erf and gelu it is.

    A float32 recursion would lose the relative accuracy of such entries; so it runs in float64.
    """
    return any(isinstance(layer, Erf | Gelu) for layer in all_layers(architecture.layers))
