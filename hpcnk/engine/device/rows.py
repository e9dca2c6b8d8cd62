"""Rows on a GPU, and blocks on their way back from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.base import PreparedRows
from hpcnk.engine.device.kinds import Copied, DeviceArray
from hpcnk.engine.prepared import a_slice
from hpcnk.engine.symmetric import complete


@dataclass(frozen=True)
class DeviceRows(PreparedRows):
    """Rows in the device's memory; slices share it.

    `numbers`: (rows, length), inputs and factors. `x`: (rows, channels), of a network without
    pixels, whose scalar products come from a matrix product.
    """

    numbers: DeviceArray
    x: DeviceArray | None

    @property
    def nbytes(self) -> int:
        """Bytes held in the device's memory."""
        return int(self.numbers.nbytes) + (0 if self.x is None else int(self.x.nbytes))

    def __getitem__(self, rows: slice) -> DeviceRows:
        part = a_slice(rows, steps=False)
        x = None if self.x is None else self.x[part]
        return DeviceRows(self.plan, self.described[part], self.key, self.numbers[part], x)


class PendingBlock:
    """A block that the device is computing or sending. `result` may be called by another thread."""

    def __init__(self, copied: Copied | None, empty: NDArray, rows: DeviceRows | None) -> None:
        self._copied = copied
        self._block = empty
        self._rows = rows

    def result(self) -> NDArray:
        """Wait for the block, (left, right) in the engine's dtype. Raises BackendError."""
        if self._copied is not None:
            self._block = np.ascontiguousarray(self._copied.result(), self._block.dtype)
            self._copied = None
            if self._rows is not None:
                complete(self._block, self._rows.diagonal)
        return self._block
