"""What would break, or go badly, in a job as it is planned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcnk.report import count, duration, size
from hpcnk.run.needs.filesystem import file_system, nearest
from hpcnk.run.plan.estimate import Estimate
from hpcnk.run.plan.sizes import INTERPRETER, Place, Plan
from hpcnk.store.journal import LINE_BYTES, MOST_TILES

TIB = 1 << 40
# The largest file, by the kind of file system, with the usual blocks of 4 KiB.
LARGEST_FILE = {
    "ext2": 2 * TIB,
    "ext3": 2 * TIB,
    "ext4": 16 * TIB - 4096,
    "f2fs": 4 * TIB - (64 << 30),
    "vfat": (1 << 32) - 1,
    "xfs": (1 << 63) - 1,
    "btrfs": (1 << 63) - 1,
    "lustre": 2000 * 16 * TIB,  # stripes of at most 16 TiB on servers with ldiskfs
}
LUSTRE_OBJECT = 16 * TIB  # of one stripe
STRIPED_FROM = 1 << 36  # bytes: a file that deserves more than one disk
FEW_BYTES = 1 << 20  # a tile under this is no good write on a parallel file system
MANY_TILES = 10_000_000  # each takes some 100 bytes of a rank's memory in a restart
MANY_FILES = 10_000  # in one folder
WEEK = 7 * 24 * 3600.0
LEAD = 300.0  # seconds between a batch system's warning and the end of a job, usually
EVEN = 0.9  # share of the ranks' time that is worked in
MOSTLY = 0.5


@dataclass(frozen=True)
class Ground:
    """What the job stands on: its output folder, and the memory of a host, None if unknown."""

    output: Path
    host_memory: int | None = None


def hazards(plan: Plan, place: Place, times: Estimate, ground: Ground) -> list[str]:
    """Return warnings, each with what to do. Makes no files and asks no other host."""
    return [
        *_files(plan, ground.output),
        *_tile_sizes(plan, place),
        *_sharing(plan, place),
        *_limit(plan),
        *_memory(plan, place, ground.host_memory),
        *_tiles(plan, place, times, ground.host_memory),
        *_vectors(plan),
        *_times(times),
    ]


def _files(plan: Plan, output: Path) -> Iterator[str]:
    """Compare the files with what the file system can hold, as far as its kind tells."""
    system = file_system(output)
    largest = max(plan.disk_kernel, plan.disk_test_kernel)
    limit = LARGEST_FILE.get(system.kind)
    if limit is not None and largest > limit:
        yield (
            f"the largest file has {size(largest)}, and a file on {system} at most {size(limit)}: "
            "put `output` on another file system"
        )
    elif largest > LARGEST_FILE["ext4"]:
        yield (
            f"the largest file has {size(largest)}: no ext4 holds it (16 TiB); XFS, Lustre (in "
            f"{-(-largest // LUSTRE_OBJECT)} stripes or more), GPFS and BeeGFS do"
        )
    free = _free(output)
    if free is not None and plan.disk > free:
        yield (
            f"the files take {size(plan.disk)}, and {size(free)} is free on {system}: "
            f"{size(plan.disk - free)} is missing"
        )
    if largest > STRIPED_FROM:
        yield from _striping(largest, plan.tile_bytes, system.kind)


def _striping(largest: int, tile_bytes: int, kind: str) -> Iterator[str]:
    if kind in ("lustre", ""):
        where = "on Lustre"
    elif kind in LARGEST_FILE or kind == "tmpfs":
        where = "if `output` is to be on Lustre"
    else:
        return
    least = -(-largest // LUSTRE_OBJECT)
    stripes = "-c -1" if least > 1 or tile_bytes >= 16 << 20 else "-c 16"
    yield (
        f"{where}: stripe the folder before the first run, `lfs setstripe {stripes} -S 16M "
        f"OUTPUT`; a file of one stripe has the speed of one server"
        + (f", and this one needs {least} stripes at least" if least > 1 else "")
    )


def _free(output: Path) -> int | None:
    try:
        system = os.statvfs(nearest(output))
    except OSError:
        return None
    return system.f_bavail * system.f_frsize if system.f_blocks else None


def _tile_sizes(plan: Plan, place: Place) -> Iterator[str]:
    tiles = plan.tiles + plan.test_tiles
    if max(plan.tiles, plan.test_tiles) > MOST_TILES:
        yield (
            f"{count(tiles)} tiles are more than journals can number ({count(MOST_TILES)}): the "
            "kernel stage will refuse; set a larger kernel.tile"
        )
    elif tiles > MANY_TILES:
        yield (
            f"{count(tiles)} tiles: the journals take {size(tiles * LINE_BYTES)}, and a restart "
            f"some {size(100 * tiles)} of every rank's memory; set a larger kernel.tile"
        )
    if plan.tile_bytes < FEW_BYTES and plan.written_per_rank > 1 << 30:
        yield (
            f"a tile has {size(plan.tile_bytes)}: small writes are slow on parallel file systems; "
            "set a larger kernel.tile"
        )
    if 2 * place.ranks > MANY_FILES:
        yield (
            f"every start makes {2 * place.ranks} journals, one a rank and tile file: many for one "
            "folder; take fewer ranks with more threads"
        )


def _sharing(plan: Plan, place: Place) -> Iterator[str]:
    if place.ranks > plan.tiles:
        yield (
            f"{place.ranks} ranks for {plan.tiles} tiles: {place.ranks - plan.tiles} ranks have "
            "none; take fewer ranks or a smaller kernel.tile"
        )
    elif plan.pairs < EVEN * place.ranks * plan.pairs_per_rank:
        worked = plan.pairs / (place.ranks * plan.pairs_per_rank)
        yield (
            f"{plan.tiles_per_rank} tiles for a rank are few: {100 * (1 - worked):.0f} % of the "
            "ranks' time is waited; take a smaller kernel.tile"
        )


def _limit(plan: Plan) -> Iterator[str]:
    """Compare with what the deck grants the solve."""
    if plan.solve_limit is not None and plan.solve_least > plan.solve_limit:
        yield (
            f"the solve needs {size(plan.solve_least)} a rank, and solve.memory is "
            f"{size(plan.solve_limit)}: it will refuse; raise solve.memory, or take more ranks"
        )


def _memory(plan: Plan, place: Place, there: int | None) -> Iterator[str]:
    """Compare with the memory of a host."""
    if there is None:
        return
    ranks = place.ranks_on_host
    if plan.prepare_memory > there:
        yield (
            f"rank 0 needs {size(plan.prepare_memory)} to prepare the data, and a host has "
            f"{size(there)}"
        )
    kernel = ranks * (plan.kernel_memory_per_rank.total + INTERPRETER)
    if kernel > there:
        yield (
            f"the kernel phase needs {size(kernel)} on a host for {ranks} rank(s), and a host has "
            f"{size(there)}: set a smaller kernel.tile, or take fewer ranks with more threads"
        )
    solve = plan.solve.of_host(ranks) + ranks * INTERPRETER
    if solve > there:
        yield (
            f"the solve needs {size(solve)} on a host for {ranks} rank(s), tiles apart, and a host "
            f"has {size(there)}: {size(ranks * plan.solve.vectors)} vectors, "
            f"{size(ranks * plan.solve.factor)} preconditioner"
            f"{_whole_kernel(plan)}; take fewer ranks a host, solve for "
            "fewer ridges or sizes, or set a smaller solve.preconditioner.rank"
        )


def _whole_kernel(plan: Plan) -> str:
    dense = plan.solve.dense
    return f", {size(dense)} whole kernel (solve.method: cg needs none)" if dense else ""


def _tiles(plan: Plan, place: Place, times: Estimate, there: int | None) -> Iterator[str]:
    """Tiles that are read in each pass, and what would keep them in memory."""
    streamed = plan.streamed_per_pass
    if not streamed or there is None or plan.solve.least >= there // place.ranks_on_host:
        return
    ranks = place.ranks_on_host
    whole = (plan.tiles + place.ranks - 1) // place.ranks * plan.tile_bytes * place.ranks
    free = there - plan.solve.of_host(ranks) - ranks * INTERPRETER
    hosts = max(place.hosts + 1, -(-whole // max(1, free)))
    known = "" if times.stream_seconds is None else f", {duration(times.stream_seconds)}"
    yield (
        f"{plan.tiles_per_rank - plan.tiles_in_memory} of {plan.tiles_per_rank} tiles of a rank do "
        f"not fit into memory and are read in each pass ({size(place.ranks * streamed)} in "
        f"all{known}): about {hosts} hosts would hold all"
    )


def _vectors(plan: Plan) -> Iterator[str]:
    """What a rank must have beside its tiles, and what makes it less."""
    solve = plan.solve
    if solve.replicated > MOSTLY * solve.total and solve.replicated > 1 << 30:
        yield (
            f"vectors that are whole on every rank take {size(solve.replicated)} of the "
            f"{size(solve.total)} that a rank would need in the solve, and more ranks do not make "
            "this less: solve for fewer ridges or sizes at a time, or take fewer ranks with more "
            "threads"
        )
    if solve.factor > MOSTLY * solve.total and solve.factor > 1 << 30:
        yield (
            f"the preconditioner takes {size(solve.factor)} of every rank's {size(solve.total)} in "
            "the solve: set a smaller solve.preconditioner.rank, or take more ranks"
        )


def _times(times: Estimate) -> Iterator[str]:
    if times.kernel_seconds is not None and times.kernel_seconds > WEEK:
        yield (
            f"the kernel phase takes {_days(times.kernel_seconds)}: more than a week; take more "
            "ranks or cores, or faster ones, and count on restarts"
        )
    if times.tile_seconds is not None and times.tile_seconds > LEAD:
        yield (
            f"one tile takes {duration(times.tile_seconds)}: batch systems warn some "
            f"{duration(LEAD)} before they end a job, so tiles in flight are lost then; set a "
            "smaller kernel.tile, or a longer warning"
        )


def _days(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:.0f} days" if days < 1000 else f"{days / 365.25:.0f} years"
