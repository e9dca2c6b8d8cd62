"""Measure what the solve does to memory: products with tiles, vectors of CG, tiles read back.

    python tools/bench/solve.py [--output FOLDER]

One core, no network and no disk: tiles come from the page cache. Rates are by processor time, so
that little depends on what else runs; the best round counts. The rates that `hpcnk plan` uses
(hpcnk/run/plan/rates.py) are taken from the file that this leaves in results/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hpcnk import store
from hpcnk.comm import FixedPointSums, FloatSums, world
from hpcnk.solve import (
    CompiledProducts,
    Limits,
    Matrix,
    Problem,
    ResidentTiles,
    Spread,
    TileOperator,
    all_rows,
    conjugate_gradient,
    cross_product,
    identity,
)
from hpcnk.solve.products import built_products
from hpcnk.tiling import TriangleGrid
from tools.bench import machine
from tools.bench.results import write_json
from tools.bench.timing import repeated

TILE, BLOCKS = 4096, 4  # 10 tiles, 640 MB in float32: far more than any cache holds
COLUMNS = (10, 50)
VECTOR_ROWS, VECTOR_COLUMNS = 1_000_000, 10
SECONDS = 0.8  # least duration of one round
ROUNDS = 5

Row = dict[str, Any]


class Diagonal:
    """A diagonal K: what is left of an iteration when products cost next to nothing."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.sums = FloatSums(world())
        self.spread = Spread(world(), n)
        self._entries = np.linspace(1.0, 9.0, n)

    def apply(self, v: NDArray[Any], sizes: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Return K v."""
        return v * self._entries[:, None]

    def columns(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Not used without a preconditioner."""
        raise NotImplementedError

    def diagonal(self) -> NDArray[Any]:
        """Return the diagonal."""
        return self._entries


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--output", type=Path, default=results, help="folder for the JSON file")
    options = parser.parse_args(arguments)
    built_products()
    machine.pin(machine.usable_cores()[:1])
    with threadpool_limits(1):
        rows = [*products(), vectors(), *reads()]
    now = datetime.now(timezone.utc)
    path = options.output / f"solve-cpu-{now:%Y%m%d-%H%M}.json"
    write_json(path, {**header(now), "rows": rows})
    for row in rows:
        print(f"{row['name']:32}{row['entries_per_s']:.3g} entries/s   busy {row['busy']:.2f}")
    return 0


def header(now: datetime) -> Row:
    """Say when, where and of what the measurement is."""
    return {
        "format": 1,
        "what": "solve",
        "date": now.isoformat(timespec="seconds"),
        "threads": 1,
        "tile": TILE,
        "machine": machine.processor(),
        "code": machine.code(),
        "versions": {"python": sys.version.split()[0], "numpy": np.__version__},
    }


def products() -> list[Row]:
    """Time passes over the triangle, and over test tiles, in both precisions."""
    rows = []
    grid = TriangleGrid(TILE * BLOCKS, TILE)
    for dtype in ("float32", "float64"):
        random = np.random.default_rng(0)
        tiles = [
            (grid.at(k), random.standard_normal((TILE, TILE), np.float32).astype(dtype))
            for k in range(grid.count)
        ]
        floating, fixed = FloatSums(world()), FixedPointSums(world())
        held = [ResidentTiles(tiles, CompiledProducts(1))]
        operator = TileOperator(floating, grid.n, held)
        reproducible = TileOperator(fixed, grid.n, held)
        works = {
            "pass": operator.apply,
            "pass, reproducible": reproducible.apply,
            "cross": partial(_cross, floating, grid.n, tiles),
        }
        for columns in COLUMNS:
            v = random.standard_normal((grid.n, columns))
            for name, work in works.items():
                rows.append(timed(f"{name} {dtype} {columns}", _entries(tiles), work, v))
    return rows


def _cross(sums: FloatSums, n: int, tiles: list[Any], v: NDArray[Any]) -> NDArray[Any]:
    return cross_product(sums, n, tiles, v, CompiledProducts(1))


def _entries(tiles: list[Any]) -> int:
    return sum(entries.size for _, entries in tiles)


def vectors() -> Row:
    """Time what conjugate gradients do beside products: entries of one block of vectors a pass."""
    b = np.random.default_rng(1).standard_normal((VECTOR_ROWS, VECTOR_COLUMNS))
    operator, rows = Diagonal(VECTOR_ROWS), [all_rows(VECTOR_ROWS)]
    problem = Problem(b, [Matrix(0, 1.0)] * VECTOR_COLUMNS, rows, block=True)

    def solve(problem: Problem) -> int:
        return conjugate_gradient(operator, problem, identity, Limits(1e-15, 8)).passes

    return timed("vectors", b.size * solve(problem), solve, problem)


def reads() -> list[Row]:
    """Time reading tiles back from the page cache, checksums included."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "float64"):
            path, grid = Path(folder) / f"{dtype}.h5", TriangleGrid(TILE, TILE)
            store.create(path, grid, dtype, {})
            layout = store.read_layout(path)
            tile = np.random.default_rng(2).standard_normal((TILE, TILE)).astype(dtype)
            with store.TileWriter(layout, "posix", world()) as writer:
                writer.put(0, tile)
            with store.TileReader(layout) as reader:
                rows.append(timed(f"read {dtype}", tile.size, reader.read, 0))
    return rows


def timed(name: str, entries: int, work: Callable[[Any], object], argument: Any) -> Row:
    """Call `work` again and again; the best round counts."""
    work(argument)
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        calls, seconds = repeated(lambda: work(argument), SECONDS)
        busy = time.process_time() - start
        rounds.append({"calls": calls, "seconds": seconds, "processor_seconds": busy})
    best = max(rounds, key=lambda one: one["calls"] / one["processor_seconds"])
    return {
        "name": name,
        "entries": entries,
        "rounds": rounds,
        "entries_per_s": entries * best["calls"] / best["processor_seconds"],
        "busy": best["processor_seconds"] / best["seconds"],
    }


if __name__ == "__main__":
    sys.exit(main())
