"""Beginning a block now and taking it later, whatever the back end.

Start the next block before taking the last one's result: a GPU then computes while a block is
copied out and written. A CPU engine has computed the block when `start_block` returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from hpcnk.engine.device_engine import DeviceEngine
from hpcnk.engine.interface import Engine


class Pending(Protocol):
    """A block that was begun. Any thread may take its result, once or several times."""

    def result(self) -> NDArray:
        """Wait for the block, (left, right). Raises BackendError if the device failed meanwhile."""
        ...


@dataclass(frozen=True)
class _Computed:
    block: NDArray

    def result(self) -> NDArray:
        return self.block


def start_block(engine: Engine, left: Any, right: Any = None) -> Pending:
    """Begin the block of `left` with `right`, or of `left` with itself where `right` is None."""
    if isinstance(engine, DeviceEngine):
        if right is None:
            return engine.start_symmetric_block(left)
        return engine.start_block(left, right)
    block = engine.symmetric_block(left) if right is None else engine.block(left, right)
    return _Computed(block)
