"""The rows of the table by their letters: what is run, and what it is judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from hpcnk.engine import device_problem
from tools.bench.systems.kernels import Kernel
from tools.bench.systems.launch import ask
from tools.bench.systems.products import flops
from tools.bench.systems.table import Entry, seconds

COLUMNS = (10, 50, 200)
RIDGES = tuple(10.0**power for power in range(-6, 2))
HARDEST = RIDGES[0]
SHARES = (0.125, 0.25, 0.5, 1.0)  # the nested training-set sizes
KINDS = ("greedy", "random", "nystrom")
TOLERANCE = 1e-6
RATES = ("flops_per_s", "bytes_per_s")
EXACT_ROWS = 3000  # of which all eigenvectors can be found
OUTPUTS = 10


@dataclass(frozen=True)
class Settings:
    """How long measurements take, and where things are."""

    kernels: tuple[tuple[Kernel, Path], ...]
    peers: tuple[str, ...]
    ranks: int
    cores: int
    seconds: float = 1.0  # least duration of a timing
    rounds: int = 5
    limit: float = 300.0  # of one solve


Rows = Iterator[Entry]


def resident_products(settings: Settings) -> Rows:
    """a. Products with tiles in memory."""
    for kernel, path in settings.kernels:
        found = ask(settings.ranks, "products", **_product_options(settings, kernel, path))
        for columns in COLUMNS:
            pairs = found["pairs"][str(columns)]
            rates = {name: max(pair[name] for pair in pairs) for name in RATES}
            limit, which = _limit(found, rates, columns)
            took = min(pair["seconds"] for pair in pairs)
            middle = median(_limit(found, pair, columns)[0] / pair["seconds"] for pair in pairs)
            yield Entry(
                "a",
                f"product, {columns} columns, in memory",
                kernel.title,
                f"share of {which}",
                limit / took,
                0.8,
                predicted=seconds(limit),
                measured=f"{seconds(took)}, {_rates(found, columns, took)}; "
                f"median of {len(pairs)} pairs {middle:.2f}",
                raw=found,
            )


def _product_options(settings: Settings, kernel: Kernel, path: Path) -> dict[str, Any]:
    return {
        "path": str(path),
        "rows": kernel.rows,
        "columns": list(COLUMNS),
        "seconds": settings.seconds,
        "rounds": settings.rounds,
    }


def _limit(found: Mapping[str, Any], rates: Mapping[str, float], columns: int) -> tuple[float, str]:
    """Return the least seconds of a product, and what sets them."""
    compute = flops(found["n"], columns) / rates["flops_per_s"]
    read = found["bytes"] / rates["bytes_per_s"]
    return (compute, "the GEMM rate") if compute > read else (read, "reading memory")


def _rates(found: Mapping[str, Any], columns: int, took: float) -> str:
    compute, read = flops(found["n"], columns) / took, found["bytes"] / took
    return f"{compute / 1e9:.1f} GF/s, {read / 1e9:.2f} GB/s"


def streamed_products(settings: Settings) -> Rows:
    """b. Products with tiles from the disk."""
    for kernel, path in settings.kernels:
        options = _product_options(settings, kernel, path)
        del options["seconds"]
        found = ask(settings.ranks, "streamed", **options)
        for columns in COLUMNS:
            turns = found["turns"][str(columns)]
            plain, compute, took = (
                min(turn[name] for turn in turns) for name in ("plain", "compute", "seconds")
            )
            middle = median(max(t["plain"], t["compute"]) / t["seconds"] for t in turns)
            yield Entry(
                "b",
                f"product, {columns} columns, cold file",
                kernel.title,
                f"share of {'the disk' if plain > compute else 'the product in memory'}",
                max(plain, compute) / took,
                0.85,
                predicted=seconds(max(plain, compute)),
                measured=f"{seconds(took)}, {found['bytes'] / took / 1e9:.2f} GB/s"
                f" (disk {found['bytes'] / plain / 1e9:.2f}); "
                f"median of {len(turns)} turns {middle:.2f}",
                raw=found,
            )


def many_systems(settings: Settings) -> Rows:
    """c. All ridges, outputs and sizes in one block, against the hardest ridge alone."""
    for kernel, path in settings.kernels:
        n = kernel.rows
        common = {"kind": "greedy", "rank": n // 20, "limit": settings.limit}
        sizes = [int(share * n) for share in SHARES]
        one, many = _solve(
            settings,
            kernel,
            path,
            {"ridges": [HARDEST], **common},
            {"ridges": list(RIDGES), "sizes": sizes, "widest": True, **common},
        )
        columns = many["columns"]
        yield Entry(
            "c",
            f"{columns} systems against {one['columns']}",
            kernel.title,
            "times the passes",
            many["passes"] / one["passes"],
            1.5,
            at_least=False,
            predicted=f"{one['passes']} passes",
            measured=f"{many['passes']} passes{_unfinished(many)}",
            raw={"one": one, "many": many},
        )
        expected = many["passes"] * many["widest_product_seconds"]
        yield Entry(
            "c",
            f"{columns} systems, all but the set-up",
            kernel.title,
            "times its passes of the widest product",
            many["seconds"] / expected,
            1.0,
            at_least=False,
            predicted=seconds(expected),
            measured=f"{seconds(many['seconds'])}{_unfinished(many)}",
        )


def _solve(
    settings: Settings, kernel: Kernel, path: Path, *wanted: dict[str, Any], held: float = 1.0
) -> list[dict[str, Any]]:
    asked = {"path": str(path), "rows": kernel.rows, "wanted": list(wanted), "held": held}
    answer = ask(settings.ranks, "solves", **asked)
    return [{**run, "megabytes": answer["megabytes"]} for run in answer["runs"]]


def _unfinished(run: Mapping[str, Any]) -> str:
    return "" if run["converged"] else " (did not converge)"


def preconditioners(settings: Settings) -> Rows:
    """d. A preconditioner of rank n / 10 against none."""
    for kernel, path in settings.kernels:
        common = {"ridges": [HARDEST], "limit": settings.limit}
        wanted = [common, *({**common, "kind": kind, "rank": kernel.rows // 10} for kind in KINDS)]
        plain, *found = _solve(settings, kernel, path, *wanted)
        best = _best_possible(settings, kernel, path)
        for run in found:
            work = f"{run['kind']}, rank {run['rank']:,}, against none"
            yield Entry(
                "d",
                work,
                kernel.title,
                "share of the iterations",
                run["iterations"] / plain["iterations"],
                0.2,
                at_least=False,
                predicted=best,
                measured=f"{run['iterations']}{_unfinished(run)} of {plain['iterations']}"
                f"{_unfinished(plain)}",
                raw={"with": run, "none": plain},
            )
            whole = run["set_up_seconds"] + run["seconds"]
            yield Entry(
                "d",
                f"{run['kind']}, rank {run['rank']:,}, set-up",
                kernel.title,
                "share of the solve",
                run["set_up_seconds"] / whole,
                0.2,
                at_least=False,
                measured=f"{seconds(run['set_up_seconds'])} of {seconds(whole)};"
                f" none: {seconds(plain['seconds'])}",
            )


def _best_possible(settings: Settings, kernel: Kernel, path: Path) -> str:
    """Say what the exact eigenvectors would do, on some of the rows."""
    few = replace(kernel, rows=min(kernel.rows, EXACT_ROWS))
    common = {"ridges": [HARDEST], "limit": settings.limit}
    best = {**common, "kind": "eigenvectors", "rank": few.rows // 10}
    plain, found = _solve(replace(settings, ranks=1), few, path, common, best)
    share = found["iterations"] / plain["iterations"]
    return f"{share:.2f} by exact eigenvectors of {few.rows:,} rows"


def rank_scaling(settings: Settings) -> Rows:
    """f. The product on 1, 2, 4, ... ranks of one thread."""
    most = min(16, settings.cores)
    if most < 2:
        return
    for kernel, path in settings.kernels:
        options = _product_options(settings, kernel, path) | {"columns": 50}
        found = ask(most, "scaling", **options)
        times = {int(ranks): took for ranks, took in found["seconds"].items()}
        for ranks, took in times.items():
            if ranks == 1:
                continue
            yield Entry(
                "f",
                f"product, 50 columns, 1 to {ranks} ranks",
                kernel.title,
                "efficiency",
                times[1] / took / ranks,
                0.9,
                predicted=seconds(times[1] / ranks),
                measured=seconds(took),
                raw=found,
            )


def block_or_columns(settings: Settings) -> Rows:
    """g. Block CG against column-wise CG: which needs fewer passes."""
    for kernel, path in settings.kernels:
        for kind, rank in (("", 0), ("greedy", kernel.rows // 20)):
            common = {"ridges": [1e-4], "kind": kind, "rank": rank, "limit": settings.limit}
            block, single = _solve(settings, kernel, path, common, {**common, "block": False})
            yield Entry(
                "g",
                f"block against column-wise CG, {kind or 'no preconditioner'}",
                kernel.title,
                "share of the passes",
                block["passes"] / single["passes"],
                at_least=False,
                measured=f"{block['passes']}{_unfinished(block)} ({seconds(block['seconds'])}),"
                f" {single['passes']}{_unfinished(single)} ({seconds(single['seconds'])})",
                raw={"block": block, "single": single},
            )


def device_products(settings: Settings) -> Rows:
    """h. Products with tiles in a GPU's memory; nothing where there is no GPU."""
    for kernel, path in () if device_problem() else settings.kernels:
        options = _product_options(settings, kernel, path)
        del options["rounds"]
        found = ask(1, "device_products", **options)
        for columns in COLUMNS:
            limit, which = _limit(found, found["rates"], columns)
            took, inside = (found[name][str(columns)] for name in ("seconds", "inside"))
            yield Entry(
                "h",
                f"product, {columns} columns, on {found['device']}",
                kernel.title,
                f"share of {which}",
                limit / took,
                predicted=seconds(limit),
                measured=f"{seconds(took)}, {_rates(found, columns, took)}; without the copies of "
                f"vectors {seconds(inside)}, {limit / inside:.2f}",
                raw=found,
            )


Maker = Callable[[Settings], Rows]
ROWS: dict[str, Maker] = {
    "a": resident_products,
    "b": streamed_products,
    "c": many_systems,
    "d": preconditioners,
    "f": rank_scaling,
    "g": block_or_columns,
    "h": device_products,
}
