"""How long a job will take, from its plan and from measured rates."""

from __future__ import annotations

from dataclasses import dataclass

from hpcnk.run.plan.rates import KERNEL, PRODUCTS, VECTORS, product_seconds
from hpcnk.run.plan.sizes import Place, Plan


@dataclass(frozen=True)
class Estimate:
    """Seconds; None where no rate is known.

    `kernel_seconds`: all tiles of the rank with the most; `tile_seconds`: one of them.
    `load_seconds`: checking and copying the tiles before the solve. `solve_pass_seconds`: one pass
    over the kernel, of which `vector_seconds` are spent on this rank's rows of vectors.
    `factor_seconds`: the Cholesky factors of a dense solve, without which there are passes.
    `predict_seconds`: all test tiles, reading included. These leave the network and the disk out,
    but for tiles that are streamed, where the disk's rate is known. `write_seconds`,
    `read_seconds`: all tiles through the disk, `stream_seconds`: those that are read in each pass,
    from the rate that the user gave.
    """

    kernel_seconds: float | None
    tile_seconds: float | None
    load_seconds: float
    solve_pass_seconds: float
    vector_seconds: float
    factor_seconds: float
    predict_seconds: float
    write_seconds: float | None
    read_seconds: float | None
    stream_seconds: float | None = None

    def solve_seconds(self, passes: int) -> float:
        """Return the time of one solve with so many passes, loading included."""
        disk = self.read_seconds or 0.0
        solving = passes * self.solve_pass_seconds + self.factor_seconds
        return max(disk, self.load_seconds) + solving


def estimate(
    plan: Plan,
    place: Place,
    pairs_per_second: float | None = None,
    disk_rate: float | None = None,
) -> Estimate:
    """Return the times of the phases at this place.

    `pairs_per_second` of one rank replaces the measured rates of the kernel, for processors unlike
    the measured one and for GPUs. `disk_rate`: bytes a second of all ranks together. Threads are
    taken to share work evenly; sums in fixed point are made by one thread. Tiles are read beside
    the products, and computed anew between them.
    """
    pair = _pair_seconds(plan, place, pairs_per_second)
    threads = 1 if plan.reproducible else place.threads
    rates = PRODUCTS["float32" if plan.entry_bytes == 4 else "float64"]
    tile = plan.tile**2
    held, crossed = plan.tiles_per_rank * tile, plan.test_tiles_per_rank * tile
    triangle = rates.reproducible if plan.reproducible else rates.triangle
    vectors = plan.vector_rows * plan.systems / VECTORS
    products = held * product_seconds(triangle, plan.systems) / threads
    anew = plan.tiles_per_rank * plan.tile_pairs if plan.tiles_outside == "recomputed" else 0
    streamed = place.ranks * plan.streamed_per_pass / disk_rate if disk_rate else None
    cross = product_seconds(rates.cross, plan.systems) / threads + 1 / rates.read
    tiles = plan.disk_kernel + plan.disk_test_kernel
    return Estimate(
        kernel_seconds=None if pair is None else plan.pairs_per_rank * pair,
        tile_seconds=None if pair is None else plan.tile_pairs * pair,
        load_seconds=held / rates.read,
        solve_pass_seconds=max(products, streamed or 0.0) + anew * (pair or 0.0) + vectors,
        vector_seconds=vectors,
        factor_seconds=_factor_seconds(plan.factorised) / place.threads,
        predict_seconds=crossed * cross,
        write_seconds=tiles / disk_rate if disk_rate else None,
        read_seconds=plan.disk_kernel / disk_rate if disk_rate else None,
        stream_seconds=streamed,
    )


def _factor_seconds(rows: tuple[int, ...]) -> float:
    """Return the time of one thread for Cholesky factors of so many rows: n^3 / 6 products each."""
    return sum(n**3 / 6 for n in rows) / KERNEL["float64"].products


def _pair_seconds(plan: Plan, place: Place, pairs_per_second: float | None) -> float | None:
    """Return the time that one rank takes for a pair."""
    if pairs_per_second is not None:
        return 1 / pairs_per_second
    if plan.pair_cost is None:
        return None
    return plan.pair_cost.seconds(KERNEL[plan.engine_dtype]) / place.threads
