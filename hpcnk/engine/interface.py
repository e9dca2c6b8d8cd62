"""What every engine can do; the back ends differ in where and how fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.pending import Pending
from hpcnk.engine.prepared import Described
from hpcnk.kernels.spec import Architecture


class Engine(Protocol):
    """Computes blocks of one architecture's kernel. Rows made by one engine fit that engine only.

    Prepared rows have a `len`, the exact `diagonal` (rows,) float64, `nbytes`, `described`, and
    slices that share memory.
    """

    backend: str
    reason: str
    architecture: Architecture
    kind: str
    dtype: np.dtype
    threads: int
    ahead: int  # blocks to begin before the first one's result is taken
    beat: Callable[[], None]  # called as parts of a block are over; may be set

    def describe(self, x: NDArray) -> Described:
        """Compute what is known of each row alone; x is (rows, *input_shape)."""
        ...

    def prepare(self, x: NDArray, described: Described | None = None) -> Any:
        """Make rows ready for blocks; x is (rows, *input_shape)."""
        ...

    def block(self, left: Any, right: Any) -> NDArray:
        """Kernel of all rows of `left` with all rows of `right`, (left, right), in dtype."""
        ...

    def symmetric_block(self, prepared: Any) -> NDArray:
        """Kernel of the rows with themselves: exactly symmetric, with the exact diagonal."""
        ...

    def start_block(self, left: Any, right: Any = None) -> Pending:
        """Begin the block of `left` with `right`, or of `left` with itself without it."""
        ...

    def workspace_bytes(self, input_shape: tuple[int, ...]) -> int:
        """Bound the temporaries of all threads on the host, in bytes."""
        ...

    def prepared_bytes(self, input_shape: tuple[int, ...]) -> int:
        """Bound the bytes that one prepared row keeps in memory."""
        ...

    def device_bytes(self, input_shape: tuple[int, ...], tile: int, rows: int | None = None) -> int:
        """Bound the GPU memory for tiles of `tile` rows and `rows` prepared rows, in bytes."""
        ...
