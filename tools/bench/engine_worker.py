"""hpcnk's engine timed in a process of its own, on the cores that it was given.

Started as `python -m tools.bench.engine_worker`.
"""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from hpcnk.engine import make_engine
from hpcnk.kernels import parse
from hpcnk.version import __version__
from tools.bench.channel import serve
from tools.bench.timing import Block, calibrated, seconds_of


class Worker:
    """One network at a time, on random rows that follow from a seed."""

    def versions(self) -> dict[str, str]:
        found = {"python": platform.python_version(), "hpcnk": __version__}
        for name in ("numpy", "cupy-cuda12x", "cupy-cuda13x"):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
        return found

    def network(
        self, layers: object, shape: list[int], dtype: str, backend: str, threads: int
    ) -> dict[str, Any]:
        """Make the engine; tell what it is and what the network costs."""
        self._architecture = parse(layers)
        self._shape, self._dtype = tuple(shape), dtype
        self._engine = make_engine(self._architecture, "ntk", dtype, backend, threads)
        # What is built at first use, and what is loaded then, belongs to no measurement.
        self._fitted(Block(1, 1))
        return {
            "canonical": self._architecture.canonical(),
            "operations": self._architecture.operations(self._shape),
            "backend": self._engine.backend,
            "reason": self._engine.reason,
        }

    def values(self, x1: list[Any], x2: list[Any]) -> dict[str, Any]:
        """The kernel of some rows."""
        left, right = (self._engine.prepare(np.asarray(x, self._dtype)) for x in (x1, x2))
        return {"values": np.asarray(self._engine.block(left, right), np.float64).tolist()}

    def calibrate(self, seconds: float, most: int) -> dict[str, int]:
        """Find a block that takes `seconds`, of `most` rows and columns at the most."""
        block = calibrated(lambda block: self._fitted(block), seconds, most)
        return {"rows": block.rows, "columns": block.columns, "calls": block.calls}

    def prepare(self, rows: int, columns: int, calls: int) -> dict[str, float]:
        """Prepare a block of this size for the measurements that follow."""
        self._block = Block(rows, columns, calls)
        seconds = seconds_of(lambda: self._load(self._block))
        return {"images": rows + columns, "seconds": seconds}

    def measured(self) -> dict[str, float]:
        """Time the block; `busy` is the share of the threads' time that the process computed."""
        processor = time.process_time()
        seconds = self._time_block(self._block)
        busy = (time.process_time() - processor) / (seconds * self._engine.threads)
        return {"pairs": self._block.pairs, "seconds": seconds, "busy": busy}

    def product(self) -> dict[str, float]:
        """Time the bare matrix product of the block's rows, in the same dtype and threads."""
        left, right = (part.reshape(len(part), -1) for part in self._rows)
        multiply = _device_product if self._engine.backend == "gpu" else _host_product
        return {"pairs": self._block.pairs, "seconds": multiply(left, right, self._block.calls)}

    def _fitted(self, block: Block) -> float:
        self._load(block)
        return self._time_block(block)

    def _load(self, block: Block) -> None:
        rng = np.random.default_rng(block.rows)
        self._rows = [
            rng.standard_normal((count, *self._shape), np.float32).astype(self._dtype)
            for count in (block.rows, block.columns)
        ]
        self._prepared = [self._engine.prepare(part) for part in self._rows]

    def _time_block(self, block: Block) -> float:
        left, right = self._prepared
        return sum(seconds_of(lambda: self._engine.block(left, right)) for _ in range(block.calls))


def _host_product(left: Any, right: Any, calls: int) -> float:
    return sum(seconds_of(lambda: left @ right.T) for _ in range(calls))


def _device_product(left: Any, right: Any, calls: int) -> float:
    """Operands and result stay on the GPU."""
    import cupy

    left, right = cupy.asarray(left), cupy.asarray(right)

    def multiply() -> None:
        left @ right.T
        cupy.cuda.get_current_stream().synchronize()

    multiply()
    return sum(seconds_of(multiply) for _ in range(calls))


if __name__ == "__main__":
    worker = Worker()
    serve(
        {
            "versions": worker.versions,
            "network": worker.network,
            "values": worker.values,
            "calibrate": worker.calibrate,
            "prepare": worker.prepare,
            "measured": worker.measured,
            "product": worker.product,
        }
    )
