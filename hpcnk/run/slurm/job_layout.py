"""Ranks, memory and time of a job at a site, from its plan and from the estimate of its times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpcnk.data import Description
from hpcnk.deck import Deck
from hpcnk.errors import UsageError
from hpcnk.report import duration, size
from hpcnk.run.plan.estimate import estimate
from hpcnk.run.plan.sizes import Place, Plan, plan
from hpcnk.run.slurm.site import Site

INTERPRETER = 250_000_000  # bytes of a rank before it has read anything: Python, NumPy, MPI
COMPILER = 1_000_000_000  # bytes on a node for the CPU engine's first use
SLACK = 1.1  # on top of the planned memory
MARGIN = 2  # times the estimated time: processors differ, and so do disks
START = 600  # seconds for starting, reading the data, and all else that no estimate knows
ROUND = 600  # seconds

Checked = tuple[Deck, Description]


@dataclass(frozen=True)
class Request:
    """What the user asks for; time in seconds. None: what the site has, and no limit `at_once`."""

    nodes: int
    ranks_per_node: int | None = None
    time: int | None = None
    at_once: int | None = None


@dataclass(frozen=True)
class Nodes(Place):
    """A place with the site's cpus instead of this machine's."""

    cpus: int = 1

    @property
    def threads(self) -> int:
        """Threads of a rank: all cpus of its task."""
        return self.cpus


@dataclass(frozen=True)
class Layout:
    """The numbers of a script; memory in bytes of a node, times in seconds."""

    place: Nodes
    memory: int
    time: int
    time_from: str
    warning: int


@dataclass(frozen=True)
class Work:
    """Seconds of a whole job, and of the tile that takes longest."""

    seconds: float
    tile_seconds: float


def lay_out(jobs: Sequence[Checked], site: Site, request: Request) -> Layout:
    """Return ranks, memory and time that suffice for each of these decks. Raises UsageError."""
    place = _place(site, request)
    plans = [plan(deck, data, place) for deck, data in jobs]
    memory = max(_memory(planned, place) for planned in plans)
    if memory > site.memory:
        raise UsageError(
            f"{place.ranks} ranks on {place.hosts} node(s) need {size(memory)} on a node, and a "
            f"node of {site.name} has {size(site.memory)}",
            "take more --nodes, fewer --ranks-per-node, or a deck with a smaller `tile`",
        )
    work = _longest(
        [_work(deck, planned, place, site) for (deck, _), planned in zip(jobs, plans, strict=True)]
    )
    time, time_from = _time(work, site, request)
    tile = int(MARGIN * work.tile_seconds) if work else 0
    return Layout(place, memory, time, time_from, min(max(site.warning, tile), time // 3))


def clock(seconds: int) -> str:
    """Return seconds as Slurm writes them: HH:MM:SS."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _place(site: Site, request: Request) -> Nodes:
    """Share out a node's cpus among its ranks. Raises UsageError for too many ranks."""
    ranks = request.ranks_per_node or site.ranks
    if ranks > site.cpus:
        raise UsageError(
            f"--ranks-per-node: {ranks} ranks, but a node of {site.name} has {site.cpus} cpus",
            f"ask for at most {site.cpus}",
        )
    return Nodes(ranks * request.nodes, request.nodes, cpus=site.cpus // ranks)


def _memory(planned: Plan, place: Place) -> int:
    """Bytes of a node, all that its ranks take included."""
    rank = max(planned.kernel_memory_per_rank.total, planned.solve_memory_per_rank)
    node = max(place.ranks_on_host * rank, planned.prepare_memory)
    return max(int(SLACK * node), COMPILER) + place.ranks_on_host * INTERPRETER


def _work(deck: Deck, planned: Plan, place: Place, site: Site) -> Work | None:
    """Estimate a job; None where the speed is not known, as that of the site's GPUs.

    The solver is taken to need all passes that the deck allows.
    """
    if site.gpus and deck.kernel.backend in ("auto", "gpu"):
        return None
    found = estimate(planned, place)
    if found.kernel_seconds is None or found.tile_seconds is None:
        return None
    solves = planned.solves * found.solve_seconds(planned.max_iterations)
    return Work(found.kernel_seconds + solves + found.predict_seconds, found.tile_seconds)


def _longest(works: Sequence[Work | None]) -> Work | None:
    """Return what is enough for each of them; None if one is not known."""
    known = [work for work in works if work]
    if len(known) < len(works):
        return None
    return Work(max(work.seconds for work in known), max(work.tile_seconds for work in known))


def _time(work: Work | None, site: Site, request: Request) -> tuple[int, str]:
    """Return the time limit in seconds and where it is from. Raises UsageError."""
    if request.time and request.time > site.time:
        raise UsageError(
            f"--time: {clock(request.time)} is longer than {site.name} allows, {clock(site.time)}",
            "ask for less: a job that is stopped goes on where it was",
        )
    if request.time:
        return request.time, "as asked for"
    if work is None:
        return site.time, "the site's longest, for the speed there is not known"
    wanted = ROUND * -(-int(START + MARGIN * work.seconds) // ROUND)
    if wanted > site.time:
        return site.time, f"the site's longest; the work may take {duration(work.seconds)}"
    return wanted, f"for at most {duration(work.seconds)} of work by measured rates, and a margin"
