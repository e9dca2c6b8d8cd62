"""Where each of a rank's tiles comes from in a pass, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hpcnk.comm import Communicator, agreement, place_on_host
from hpcnk.deck import Deck
from hpcnk.engine import device_problem, require_device
from hpcnk.engine.device.tiles import DeviceMemory, device_memory, pass_bytes
from hpcnk.errors import UsageError
from hpcnk.report import size
from hpcnk.run.needs.solve_memory import SolveJob
from hpcnk.run.session import Session
from hpcnk.store import Layout

GPU, RESIDENT, STREAMED, RECOMPUTED = KINDS = ("gpu", "resident", "streamed", "recomputed")
SPARE = 0.9  # share of a GPU's free memory that is used


@dataclass(frozen=True)
class Places:
    """The numbers of this rank's tiles by kind of place, and why there are any in it."""

    numbers: dict[str, list[int]]
    why: dict[str, str] = field(default_factory=dict)

    def at(self, kind: str) -> list[int]:
        """Return the numbers of the tiles of one kind, rising."""
        return self.numbers.get(kind, [])

    def moved(self, source: str, target: str, numbers: Sequence[int], why: str) -> Places:
        """Return the places after some tiles, all of one kind, became another kind."""
        gone = set(numbers)
        left = [number for number in self.at(source) if number not in gone]
        there = sorted([*self.at(target), *numbers])
        return Places(
            {**self.numbers, source: left, target: there},
            {**self.why, target: why} if numbers else self.why,
        )

    def explained(self, kind: str, why: str) -> Places:
        """Return the same with another reason for one kind."""
        return replace(self, why={**self.why, kind: why})


def first_places(
    deck: Deck, mine: list[int], tile_bytes: int, room: int | None, device_room: int
) -> Places:
    """Put this rank's tiles on the GPU, into memory, or leave them in the file.

    `room`, `device_room`: bytes for tiles; None is unlimited. Raises UsageError for a forced GPU
    that does not hold them.
    """
    asked = deck.solve.operator
    places = Places({STREAMED: mine}, {STREAMED: "as solve.operator asks for"})
    if asked in (STREAMED, RECOMPUTED):
        return places
    on_device = min(len(mine), device_room // tile_bytes)
    if asked == GPU and on_device < len(mine):
        raise UsageError(
            f"solve.operator: gpu: {len(mine)} tiles take {size(len(mine) * tile_bytes)} a rank, "
            f"and its GPU has room for {size(device_room)}",
            "start more ranks on more GPUs, or set solve.operator to auto: what a GPU does not "
            "hold stays on the host then",
        )
    chosen = spread_evenly(mine, on_device)
    places = places.moved(STREAMED, GPU, chosen, f"of {size(device_room)} a GPU has for a rank")
    left = places.at(STREAMED)
    count = len(left) if room is None or asked == RESIDENT else min(len(left), room // tile_bytes)
    limit = "" if room is None else f"of {size(max(room, 0))} a rank has for tiles"
    places = places.moved(STREAMED, RESIDENT, spread_evenly(left, count), limit)
    return places.explained(STREAMED, "more than memory holds")


def spread_evenly(numbers: list[int], count: int) -> list[int]:
    """Choose some numbers evenly: the file is read while tiles in between are multiplied."""
    return [numbers[k * len(numbers) // count] for k in range(max(0, count))]


def require_operator(deck: Deck) -> None:
    """Raise BackendError if the deck asks for tiles on a GPU and there is none."""
    if deck.solve.operator == GPU:
        require_device("solve.operator", "auto")


def open_device(session: Session) -> DeviceMemory | None:
    """Return the memory of this rank's GPU, None if none is to be used. Collective.

    Raises BackendError or UsageError if the deck asks for what cannot be.
    """
    deck, number = session.deck, place_on_host(session.comm)[0]
    with agreement(session.comm):
        require_operator(deck)
        wanted = deck.solve.operator == GPU or (
            deck.solve.operator == "auto"
            and not deck.solve.reproducible
            and deck.kernel.backend in ("auto", "gpu")
            and not device_problem()
        )
        return device_memory(number) if wanted else None


def room_on_device(comm: Communicator, memory: DeviceMemory | None, job: SolveJob) -> int:
    """Return the bytes that this rank's part of its GPU has for tiles. Collective.

    Raises BackendError.
    """
    _, ranks = place_on_host(comm)
    with agreement(comm):  # and nobody fills the GPU before all have looked
        free = SPARE * memory.free_bytes() / -(-ranks // memory.count) if memory else 0.0
    return max(0, int(free) - pass_bytes(job.n, job.tile, job.systems)) if memory else 0


def tell(session: Session, layout: Layout, places: Places, seconds: float) -> None:
    """Print where the tiles are, a line for each kind, and put it into the report. Collective.

    `seconds`: of reading a tile, on this rank.
    """
    found = session.comm.allgather((places, seconds))
    if not session.root:
        return
    ranks = [places for places, _ in found]
    total = layout.grid.count
    rates = [layout.tile_bytes / taken for _, taken in found if taken > 0]
    rate = sum(rates) / max(1, len(rates))
    report: dict[str, Any] = {"read_bytes_per_second": rate}
    for kind in KINDS:
        count = sum(len(places.at(kind)) for places in ranks)
        report[kind] = count
        if count:
            most = max(len(places.at(kind)) for places in ranks) * layout.tile_bytes
            reason = next(places.why[kind] for places in ranks if places.at(kind))
            session.say(f"solve: tiles: {count} of {total} {_SAYING[kind](most, rate, reason)}")
    session.update_report(tiles=report)


_Saying = Callable[[int, float, str], str]
_SAYING: dict[str, _Saying] = {
    GPU: lambda most, rate, why: f"in the memory of GPUs ({size(most)} {why})",
    RESIDENT: lambda most, rate, why: f"resident ({size(most)}{' ' if why else ''}{why})",
    STREAMED: lambda most, rate, why: f"streamed (read at {size(rate)}/s a rank; {why})",
    RECOMPUTED: lambda most, rate, why: f"recomputed in each pass ({why})",
}
