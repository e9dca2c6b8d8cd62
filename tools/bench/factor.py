"""Measure what a low-rank preconditioner costs a core: FACTOR of hpcnk/run/plan/rates.py.

OMP_NUM_THREADS=1 python tools/bench/factor.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcnk.comm import FloatSums, world
from hpcnk.solve import (
    CompiledProducts,
    LowRank,
    Matrix,
    PlainProducts,
    Random,
    ResidentTiles,
    TileOperator,
    all_rows,
    pivoted_cholesky,
)
from hpcnk.tiling import TriangleGrid

ROWS, RANK, TILE, FETCHED = 6000, 1000, 512, 128


def seconds(work: Callable[[], Any], times: int = 3) -> float:
    """Return the shortest of some runs."""
    best = np.inf
    for _ in range(times):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def operator() -> TileOperator:
    """Make a kernel of random rows in float32, in tiles."""
    x = np.random.default_rng(0).normal(size=(ROWS, 20))
    squares = (x**2).sum(axis=1)
    k = np.exp(-(squares[:, None] + squares - 2 * x @ x.T) / 100).astype(np.float32)
    grid = TriangleGrid(ROWS, TILE)
    tiles = [grid.at(number) for number in range(grid.count)]
    held = [(tile, np.ascontiguousarray(k[tile.rows, tile.columns])) for tile in tiles]
    return TileOperator(FloatSums(world()), ROWS, [ResidentTiles(held, PlainProducts())])


def measure() -> dict[str, Any]:
    """Return the rates, a second."""
    kernel, matrix = operator(), Matrix(0, 1e-3)
    some = np.sort(np.random.default_rng(1).choice(ROWS, FETCHED, replace=False))
    columns = ROWS * FETCHED / seconds(lambda: kernel.columns(some))
    factor = pivoted_cholesky(kernel, RANK, Random(0))
    made = seconds(lambda: pivoted_cholesky(kernel, RANK, Random(0)))

    def low_rank() -> LowRank:
        products = CompiledProducts(1)
        return LowRank(kernel.spread, kernel.sums, factor, [all_rows(ROWS)], [matrix], products)

    operations = 2.0 * ROWS * RANK**2 + RANK**3 / 3
    building = operations / (made - ROWS * RANK / columns + seconds(low_rank))
    application, precondition = {}, low_rank()
    for width in (10, 50):
        part = [(matrix, np.random.default_rng(2).normal(size=(ROWS, width)))]
        application[width] = ROWS * RANK / seconds(lambda part=part: precondition(part))
    return {"building": building, "columns": columns, "application": application}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
