"""What the engines have in common: the settings, and prepared rows that know who made them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.precision import working_dtype
from hpcnk.engine.prepared import Described
from hpcnk.engine.threads import nothing
from hpcnk.errors import UsageError
from hpcnk.kernels.plan import Plan
from hpcnk.kernels.spec import Architecture


@dataclass(frozen=True)
class PreparedRows:
    """Rows made ready by one engine; `key` is that engine's."""

    plan: Plan
    described: Described
    key: tuple[str, ...]

    @property
    def diagonal(self) -> NDArray:
        """The exact K(x, x) of each row, float64."""
        return self.described.diagonal

    def __len__(self) -> int:
        return len(self.described)


class EngineBase:
    """The settings of one engine. Rows prepared by it carry its key.

    `beat` is called as parts of a block are over; whoever watches the work may set it.
    """

    backend: str

    def __init__(
        self, architecture: Architecture, kind: str, dtype: np.dtype, threads: int, reason: str
    ) -> None:
        self.architecture = architecture
        self.kind = kind
        self.dtype = dtype
        self.threads = threads
        self.reason = reason
        self.beat: Callable[[], None] = nothing
        self._tangent = kind == "ntk"
        self._working = working_dtype(architecture, dtype)
        self._tiny = float(np.finfo(self._working).tiny)
        self._key = (self.backend, kind, self._working.name)

    def _check_rows(self, *sides: Any) -> None:
        """Raise UsageError unless all are prepared rows of this engine and of one shape."""
        for rows in sides:
            if getattr(rows, "key", None) != self._key:
                raise UsageError(
                    f"rows prepared by another engine ({getattr(rows, 'key', type(rows).__name__)})"
                    f", this one is {self._key}",
                    "prepare the rows of both sides with the engine that computes the block",
                )
        if sides[0].plan != sides[-1].plan:
            raise UsageError(
                f"rows of {sides[0].plan.spatial} pixels against rows of {sides[-1].plan.spatial}",
                "prepare both with the same engine, from rows of the same shape",
            )
