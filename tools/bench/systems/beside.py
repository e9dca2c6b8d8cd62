"""Row e: the same systems by others, on the same cores, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.bench.systems.kernels import Kernel
from tools.bench.systems.peers import ask_peer
from tools.bench.systems.rows import RIDGES, TOLERANCE, Settings, _solve
from tools.bench.systems.table import Entry, seconds

SEVERAL = (RIDGES[0], RIDGES[2], RIDGES[4], RIDGES[6])
RANKS = (500, 100, 15)  # of linear_operator's preconditioner: its default is the last
SHARE = 0.05  # the rank of hpcnk's, over n
# Of the tiles that hpcnk holds, by type; it reads the others from the file in each pass. In float64
# the triangle alone is half of the whole matrix, which all others hold.
HELD = {"float32": 1.0, "float64": 0.6}


def beside_peers(settings: Settings) -> Iterator[Entry]:
    """e. Time and memory against each peer's best."""
    for kernel, path in settings.kernels:
        rank = int(SHARE * kernel.rows)
        wanted = {"ridges": list(SEVERAL), "kind": "greedy", "rank": rank, "limit": settings.limit}
        held = HELD[kernel.dtype]
        (ours,) = _solve(settings, kernel, path, wanted, held=held)
        took = ours["set_up_seconds"] + ours["seconds"]
        for python in settings.peers:
            for name in ("linear_operator_cg", "scipy_cg", "kernel_ridge"):
                theirs = _best(settings, python, name, kernel, path)
                yield from _entries(kernel, name, ours, took, theirs)


def _best(settings: Settings, python: str, name: str, kernel: Kernel, path: Path) -> dict[str, Any]:
    """Return the quickest answer at the residual asked for, in the types and ranks that help."""
    options = {
        "ridges": list(SEVERAL),
        "tolerance": TOLERANCE,
        "limit": settings.limit,
        "threads": settings.ranks,
    }
    tries: list[dict[str, Any]] = []
    for dtype, rank in _ways(name, kernel):
        if any(one["dtype"] == dtype != "float64" and not _good(one) for one in tries):
            continue  # rounding is in the way, whatever the rank
        found = ask_peer(python, name, path, kernel.rows, **options, dtype=dtype, rank=rank)
        tries.append({**found, "dtype": dtype, "rank": rank})
    good = [one for one in tries if _good(one)]
    return min(good, key=lambda one: one["seconds"]) if good else tries[-1]


def _ways(name: str, kernel: Kernel) -> list[tuple[str, int]]:
    """List types and ranks; the others have no preconditioner, and convert to float64."""
    if name != "linear_operator_cg":
        return [("float64", 0)]
    return [(dtype, rank) for dtype in dict.fromkeys((kernel.dtype, "float64")) for rank in RANKS]


def _good(found: dict[str, Any]) -> bool:
    return bool(found.get("done")) and found["residual"] <= 2 * TOLERANCE


def _entries(
    kernel: Kernel, name: str, ours: dict[str, Any], took: float, theirs: dict[str, Any]
) -> Iterator[Entry]:
    work = f"{len(SEVERAL)} ridges x 10 outputs, {name}"
    if "error" in theirs:
        yield Entry("e", work, kernel.title, "times faster", None, 2.0, measured=theirs["error"])
        return
    good = _good(theirs)
    said = f"{seconds(took)}; theirs {seconds(theirs['seconds'])}"
    if theirs.get("rank"):
        said += f", rank {theirs['rank']}, {theirs['dtype']}"
    if not good:
        found = theirs.get("residual")
        said += f", residual {found:.0e}" if found else ", not done"
    yield Entry(
        "e",
        work,
        kernel.title,
        "times faster",
        theirs["seconds"] / took,
        2.0,
        lower_bound=not good,
        measured=said,
        raw={"ours": ours, "theirs": theirs},
    )
    if theirs["megabytes"]:
        yield Entry(
            "e",
            f"memory beside {name}",
            kernel.title,
            "share of theirs",
            ours["megabytes"] / theirs["megabytes"],
            0.5,
            at_least=False,
            measured=f"{ours['megabytes']:,.0f} MB; theirs {theirs['megabytes']:,.0f} MB",
        )
