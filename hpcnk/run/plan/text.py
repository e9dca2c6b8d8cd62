"""The plan in words."""

from __future__ import annotations

from collections.abc import Sequence

from hpcnk.report import count, duration, size
from hpcnk.run.plan.estimate import Estimate
from hpcnk.run.plan.rates import PROCESSOR
from hpcnk.run.plan.sizes import FILES, Place, Plan

EXAMPLE_PASSES = 50
WIDTH = 17


def describe_plan(plan: Plan, place: Place, times: Estimate, warnings: Sequence[str] = ()) -> str:
    """Return the plan as text for people."""
    lines = [
        *_work(plan, place),
        *_files(plan, place),
        *_memory(plan, place),
        *_transfers(plan),
        *_times(plan, place, times),
        *(("WARNING", text) for text in warnings),
    ]
    return "\n".join(f"{name:{WIDTH}}{text}" for name, text in lines)


Line = tuple[str, str]


def _work(plan: Plan, place: Place) -> list[Line]:
    operations = plan.operations_per_pair
    return [
        ("rows", f"{plan.train_rows} training, {plan.test_rows} test"),
        (
            "tiles",
            f"{plan.tiles} of {plan.tile} x {plan.tile} in kernel.h5, {plan.test_tiles} in "
            "test_kernel.h5",
        ),
        ("tile", f"{size(plan.tile_bytes)}"),
        (
            "tiles a rank",
            f"at most {plan.tiles_per_rank} and {plan.test_tiles_per_rank} on {place.ranks} "
            "rank(s)",
        ),
        ("pairs", count(plan.pairs)),
        (
            "operations",
            f"{count(operations)} a pair (covariance entries times layers), "
            f"{count(plan.pairs * operations)} in all",
        ),
        ("systems", f"{plan.systems} (outputs x ridges x sizes), one block"),
    ]


def _files(plan: Plan, place: Place) -> list[Line]:
    return [
        (
            "disk",
            f"{size(plan.disk_kernel)} kernel.h5, {size(plan.disk_test_kernel)} test_kernel.h5, "
            f"{size(plan.disk_inputs)} inputs.h5, {size(plan.disk_variances)} variances.h5, "
            f"{size(plan.disk_results)} solution.h5 and predictions.h5, "
            f"{size(plan.disk_checkpoints)} checkpoints",
        ),
        (
            "files",
            f"about {FILES}, and {2 * place.ranks} journals a start (one a rank and tile file)",
        ),
    ]


def _memory(plan: Plan, place: Place) -> list[Line]:
    kernel, solve = plan.kernel_memory_per_rank, plan.solve
    ranks, threads = place.ranks_on_host, place.threads
    held = plan.tiles_in_memory * plan.tile_bytes
    host = max(ranks * max(kernel.total, plan.solve_memory_per_rank), plan.prepare_memory)
    lines = [
        ("memory", f"{size(plan.prepare_memory)} on rank 0 to read and prepare the data"),
        (
            "memory a rank",
            f"{size(kernel.total)} in the kernel phase ({size(kernel.blocks)} for rows, "
            f"{size(kernel.tiles)} for tiles, {size(kernel.workspace)} for {threads} thread(s)); "
            f"{size(plan.solve_memory_per_rank)} in the solve ({size(held)} for tiles, "
            f"{size(solve.vectors)} for vectors, {size(solve.factor)} for the preconditioner"
            f"{_dense(plan)}); the interpreter takes 0.2 GB more",
        ),
        ("vectors", _vectors(plan)),
        ("tiles in a pass", _places(plan)),
        (
            "memory a host",
            f"{size(host)} for {ranks} rank(s) on {place.hosts} host(s), the interpreters apart",
        ),
    ]
    if plan.device_is_absent:
        lines.append(("GPU memory", "not known: this machine has no usable GPU"))
    if plan.device_memory_per_rank:
        lines.append(("GPU memory", f"{size(plan.device_memory_per_rank)} a rank"))
    return lines


def _vectors(plan: Plan) -> str:
    """Say what of the vectors every rank has whole, and what is spread over the ranks."""
    solve = plan.solve
    limbs = " in two integers" if plan.reproducible else ""
    return (
        f"whole on every rank: {size(solve.replicated)} (in a pass all vectors of {plan.systems} "
        f"systems, and the sum of their products{limbs}; or columns of the preconditioner as they "
        f"are made); spread over the ranks: {size(solve.spread)} of a rank's {plan.vector_rows} "
        "rows (the state of the solver)"
    )


def _places(plan: Plan) -> str:
    """Say where the tiles of a rank are."""
    total, held = plan.tiles_per_rank, plan.tiles_in_memory
    room = plan.memory_for_tiles
    there = "" if room is None else f", in {size(room)} that a rank has for them"
    if held == total:
        return f"all {total} of a rank resident{there}"
    rest = f"{total - held} {plan.tiles_outside}"
    if plan.tiles_outside == "streamed":
        rest += f" ({size(plan.streamed_per_pass)} read by a rank in each pass)"
    return f"of a rank {held} resident{there}, {rest}" if held else f"of a rank {rest}{there}"


def _dense(plan: Plan) -> str:
    dense = plan.solve.dense
    return f", {size(dense)} on rank 0 for the whole kernel" if dense else ""


def _transfers(plan: Plan) -> list[Line]:
    return [
        (
            "transfers",
            f"a rank writes {size(plan.written_per_rank)} of tiles, and reads "
            f"{size(plan.loaded_per_rank)} once for the solve; before a pass over the kernel it "
            f"gets {size(plan.gathered_per_pass)} of vectors, and after it sums "
            f"{size(plan.reduced_per_pass)} over all ranks",
        )
    ]


def _times(plan: Plan, place: Place, times: Estimate) -> list[Line]:
    cores = f"{place.threads} of them a rank" if place.threads > 1 else "one a rank"
    return [
        ("times", f"by what was measured on {PROCESSOR}, {cores}; network and disk apart"),
        ("  kernel", _kernel(plan, times)),
        ("  solve", _solve(plan, times)),
        ("  predict", _long(times.predict_seconds)),
        ("  disk", _disk(times)),
    ]


def _kernel(plan: Plan, times: Estimate) -> str:
    if times.kernel_seconds is None or times.tile_seconds is None:
        return f"unknown: {plan.no_rate}; give --pairs-per-second, of one rank"
    return f"{_long(times.kernel_seconds)}, {duration(times.tile_seconds)} a tile"


def _solve(plan: Plan, times: Estimate) -> str:
    twice = " in each of the two solves (the first is for the validation)"
    twice = twice if plan.solves > 1 else ""
    if plan.factorised:
        factors = len(plan.factorised)
        return (
            f"{duration(times.load_seconds)} to load, {_long(times.factor_seconds)} for "
            f"{factors} Cholesky {'factor' if factors == 1 else 'factors'} on rank 0{twice}"
        )
    totals = ", ".join(
        f"{_long(times.solve_seconds(plan.solves * passes))} for {passes} passes"
        for passes in sorted({EXAMPLE_PASSES, plan.max_iterations})
    )
    return (
        f"{duration(times.load_seconds)} to load, {duration(times.solve_pass_seconds)} a pass: "
        f"{totals}{twice}"
    )


def _disk(times: Estimate) -> str:
    if times.write_seconds is None or times.read_seconds is None:
        return "unknown: give --disk-rate, in GB/s of all ranks together"
    text = (
        f"{_long(times.write_seconds)} to write all tiles, {_long(times.read_seconds)} to read "
        "them for the solve"
    )
    streamed = times.stream_seconds
    return f"{text}, {duration(streamed)} those of each pass" if streamed else text


def _long(seconds: float) -> str:
    """Like `duration`, and in days from two days on."""
    days = seconds / 86400
    return duration(seconds) if days < 2 else f"{days:.4g} days"
