"""Measure products of resident tiles against this machine's matrix products and memory.

    python tools/bench/products.py [--tile N] [--bytes GB] [--output FOLDER]

A product with c columns takes 4 c operations an entry (off the diagonal, both triangles), and reads
the entry once. So it cannot be faster than the slower of the two: the rate of a float64 matrix
product, and the rate of reading memory. Both are measured in the same run, beside each row, and
`share` is what of their limit is reached. Rates of one thread are by processor time, so that little
depends on what else runs; those of two are by the clock, and need an idle machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hpcnk.solve import CompiledProducts, PlainProducts, Products
from hpcnk.store import Copies
from tools.bench import machine
from tools.bench.results import write_json

COLUMNS = (10, 50, 200)
DTYPES = ("float32", "float64")
SQUARE = 1536  # of the matrix product
SECONDS, ROUNDS = 0.4, 5

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--output", type=Path, default=results, help="folder for the JSON file")
    parser.add_argument("--tile", type=int, default=4096, help="rows of a tile (default 4096)")
    parser.add_argument("--columns", type=int, nargs="+", default=COLUMNS, help="of the vectors")
    parser.add_argument("--bytes", type=float, default=0.5, help="GB of tiles (default 0.5)")
    options = parser.parse_args(arguments)
    rows = []
    for threads in (1, 2):
        if threads > len(machine.usable_cores()):
            break
        for dtype in DTYPES:
            tiles = resident(options.tile, dtype, int(options.bytes * 1e9))
            for columns in options.columns:
                rows.append(measured(tiles, columns, threads))
                print(text(rows[-1]), flush=True)
    now = datetime.now(timezone.utc)
    head = {
        "format": 1,
        "what": "products",
        "date": now.isoformat(timespec="seconds"),
        "tile": options.tile,
        "machine": machine.processor(),
        "code": machine.code(),
        "versions": {"python": sys.version.split()[0], "numpy": np.__version__},
    }
    write_json(options.output / f"products-cpu-{now:%Y%m%d-%H%M}.json", {**head, "rows": rows})
    return 0


def resident(size: int, dtype: str, most: int) -> list[NDArray[Any]]:
    """Make different tiles: more than any cache holds."""
    random, copies = np.random.default_rng(0), Copies()
    count = max(1, most // (size * size * np.dtype(dtype).itemsize))
    return [
        copies.add(random.standard_normal((size, size), np.float32).astype(dtype))
        for _ in range(count)
    ]


def measured(tiles: list[NDArray[Any]], columns: int, threads: int) -> Row:
    """Time the products and, in turns with them, what limits them; the best rounds count."""
    works = {
        "compiled": passes(CompiledProducts(threads), tiles, columns),
        "plain": passes(PlainProducts(), tiles, columns),
        "dgemm": matrix_product(),
        "read": reading(threads),
    }
    best = dict.fromkeys(works, 0.0)
    with threadpool_limits(threads):
        for _ in range(ROUNDS):
            for name, work in works.items():
                best[name] = max(best[name], rate(work, threads))
    itemsize = tiles[0].itemsize
    limit = min(best["dgemm"], best["read"] / itemsize * 4 * columns)
    return {
        "dtype": tiles[0].dtype.name,
        "columns": columns,
        "threads": threads,
        "rates": best,  # operations, and for `read` bytes, a second
        "limit": limit,
        "share": best["compiled"] / limit,
        "times_plain": best["compiled"] / best["plain"],
    }


Work = Callable[[], float]  # one call; returns operations or bytes


def rate(work: Work, threads: int) -> float:
    """Return operations or bytes a second of one round."""
    clock = time.process_time if threads == 1 else time.perf_counter
    done, start = 0.0, clock()
    while clock() < start + SECONDS:
        done += work()
    return done / (clock() - start)


def passes(products: Products, tiles: list[NDArray[Any]], columns: int) -> Work:
    """Return the product of the next tile, of all of them in turn."""
    size, turn = len(tiles[0]), 0
    v_rows, v_columns = np.random.default_rng(1).standard_normal((2, size, columns))
    rows, below = np.zeros((2, size, columns))

    def work() -> float:
        nonlocal turn
        turn = (turn + 1) % len(tiles)
        products.add(tiles[turn], False, v_rows, v_columns, rows, below)
        return 4.0 * tiles[turn].size * columns

    return work


def matrix_product() -> Work:
    """Return a product of two square matrices in float64, by the BLAS of NumPy."""
    a, b = np.random.default_rng(2).standard_normal((2, SQUARE, SQUARE))
    out = np.empty_like(a)

    def work() -> float:
        np.matmul(a, b, out=out)
        return 2.0 * SQUARE**3

    return work


def reading(threads: int) -> Work:
    """Return a scalar product with itself of 256 MB in each thread: little but reading."""
    parts = np.ones((threads, 1 << 25))
    pool = ThreadPoolExecutor(threads)

    def work() -> float:
        with threadpool_limits(1):
            list(pool.map(lambda part: np.dot(part, part), parts))
        return float(parts.nbytes)

    return work


def text(row: Row) -> str:
    """Say a row in one line."""
    rates = row["rates"]
    return (
        f"{row['dtype']:8}{row['columns']:4} columns {row['threads']} threads"
        f"{rates['compiled'] / 1e9:7.1f} GF/s, {row['share']:.2f} of the limit "
        f"(dgemm {rates['dgemm'] / 1e9:.1f} GF/s, read {rates['read'] / 1e9:.1f} GB/s), "
        f"{row['times_plain']:.1f} times plain"
    )


if __name__ == "__main__":
    sys.exit(main())
