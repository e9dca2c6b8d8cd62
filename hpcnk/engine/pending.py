"""Beginning a block now and taking it later.

Begin the next block before taking the last one's result: a GPU then computes while a block is
copied out and written. A CPU engine has computed the block when `start_block` returns.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from hpcnk.engine.base import EngineBase


class Pending(Protocol):
    """A block that was begun. Any thread may take its result, once or several times."""

    def result(self) -> NDArray:
        """Wait for the block, (left, right). Raises BackendError if the device failed meanwhile."""
        ...


@dataclass(frozen=True)
class Computed:
    """A block that is there."""

    block: NDArray

    def result(self) -> NDArray:
        """Return the block."""
        return self.block


class ComputesAtOnce(EngineBase):
    """What engines on the CPU share: nothing is begun before the last block is taken."""

    ahead = 0

    @abstractmethod
    def block(self, left: Any, right: Any) -> NDArray:
        """Kernel of all rows of `left` with all rows of `right`."""

    @abstractmethod
    def symmetric_block(self, prepared: Any) -> NDArray:
        """Kernel of the rows with themselves."""

    def start_block(self, left: Any, right: Any = None) -> Pending:
        """Compute the block of `left` with `right`, or of `left` with itself without it."""
        return Computed(self.symmetric_block(left) if right is None else self.block(left, right))

    def device_bytes(self, input_shape: tuple[int, ...], tile: int, rows: int | None = None) -> int:
        """Give the GPU memory that is needed: none."""
        return 0
