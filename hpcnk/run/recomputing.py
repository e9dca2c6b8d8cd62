"""Whether a rank computes tiles anew in each pass rather than read them: measured, not guessed.

The engine is started only where its predicted speed comes near that of reading, or where the deck
asks for it; then a tile is computed, and the faster way is taken.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcnk.comm import agreement, any_rank
from hpcnk.deck import Deck
from hpcnk.engine import Engine, device_problem
from hpcnk.engine.precision import working_dtype
from hpcnk.errors import UsageError
from hpcnk.kernels import parse
from hpcnk.run.clock import Clock
from hpcnk.run.needs.kernel_memory import Job, kernel_memory
from hpcnk.run.needs.solve_memory import SolveJob
from hpcnk.run.plan.cost import pair_cost, unmeasured_layers
from hpcnk.run.plan.rates import KERNEL, PRODUCTS, product_seconds
from hpcnk.run.provenance import code_version
from hpcnk.run.recomputed import ComputedTiles
from hpcnk.run.session import Session
from hpcnk.run.tile_places import RECOMPUTED, RESIDENT, STREAMED, Places
from hpcnk.run.work import engine_of_rank, ready_blocks, works
from hpcnk.solve import Products
from hpcnk.solve.tiles import every
from hpcnk.store import Layout, read_shape

WORTH_TRYING = 3.0  # times as long as reading, as predicted; with more the engine is not started


@dataclass(frozen=True)
class Ground:
    """What the choice is made from. `seconds`: of reading a tile; `room`: bytes for tiles, or None.

    `job` describes the solve, `contents` the inputs.
    """

    session: Session
    layout: Layout
    contents: dict[str, Any]
    job: SolveJob
    products: Products
    seconds: float
    room: int | None

    @property
    def asked(self) -> str:
        """What the deck says of the places of tiles."""
        return self.session.deck.solve.operator


def settle(
    ground: Ground, places: Places, opened: ExitStack
) -> tuple[Places, ComputedTiles | None]:
    """Decide which tiles are computed anew; return the places, and the source of these tiles.

    Collective. Raises UsageError if the deck asks for what cannot be; BackendError, StorageError.
    """
    session = ground.session
    with agreement(session.comm):
        places, wish = _prospect(ground, places)
    if not any_rank(session.comm, wish):
        return places, None
    engine = engine_of_rank(session)
    work = works(session, engine, ground.contents)[0]
    blocks = opened.enter_context(ready_blocks(session, engine, Clock(), ground.contents))
    with agreement(session.comm):
        if not wish:
            return places, None
        room = make_room(places, ground.job, _engine_bytes(session, engine), ground.room)
        tiles = [ground.layout.grid.at(number) for number in room.at(STREAMED)]
        computed = ComputedTiles(tiles, work, engine, blocks, ground.products)
        return _measured(ground, places, room, computed)


def _prospect(ground: Ground, places: Places) -> tuple[Places, bool]:
    """Explain why tiles are read, as far as is known now, and say whether to try the engine."""
    problem = why_not(ground.session.deck, ground.layout.provenance)
    if ground.asked == RECOMPUTED:
        if problem:
            raise UsageError(
                f"solve.operator: recomputed is impossible: {problem}",
                "set solve.operator to auto or streamed; or have the kernel computed anew here",
            )
        return places, bool(places.at(STREAMED))
    if ground.asked != "auto" or not places.at(STREAMED):
        return places, False
    if problem:
        return places.explained(STREAMED, f"not computed anew: {problem}"), False
    seconds = predicted_seconds(ground.session, ground.job)
    if seconds is None:
        return places.explained(STREAMED, "how fast they are computed is not known"), False
    ratio = seconds / ground.seconds
    why = f"computing one is predicted to take {ratio:.2g} times as long"
    return places.explained(STREAMED, why), ratio <= WORTH_TRYING


def _measured(
    ground: Ground, before: Places, room: Places, computed: ComputedTiles
) -> tuple[Places, ComputedTiles | None]:
    """Compare the times of a tile, and take the shorter, unless the deck has decided."""
    ratio = time_ratio(_computing_seconds(computed), ground.seconds, ground.job)
    if ground.asked == RECOMPUTED or ratio < 1:
        why = f"with the products {ratio:.2g} times as long as reading them"
        return room.moved(STREAMED, RECOMPUTED, room.at(STREAMED), why), computed
    why = f"computing them anew takes {ratio:.2g} times as long"
    return before.explained(STREAMED, why), None


def why_not(deck: Deck, made: Mapping[str, Any]) -> str:
    """Say why tiles made by `made` cannot be computed to the same bits here; empty if they can."""
    here = "gpu" if deck.kernel.backend == "auto" and not device_problem() else deck.kernel.backend
    here = "cpu" if here == "auto" else here
    was = made.get("kernel.backend")
    if was != here:
        return f"kernel.h5 was made by the back end {was}, and here there is {here}"
    if made.get("code") != code_version():
        return f"kernel.h5 was made by hpcnk {made.get('code')}, this is {code_version()}"
    if here == "gpu" and deck.solve.reproducible:
        return "a GPU does not compute the same bits each time, as solve.reproducible asks for"
    return ""


def predicted_seconds(session: Session, job: SolveJob) -> float | None:
    """Predict the time of one tile from measured rates; None where nobody has measured."""
    kernel = session.deck.kernel
    plan = parse(kernel.layers).plan(read_shape(session.folder.inputs, "x_train")[1:])
    if kernel.backend not in ("auto", "cpu") or unmeasured_layers(plan):
        return None
    rates = KERNEL[working_dtype(session.architecture, _dtype(job)).name]
    return pair_cost(plan).seconds(rates) * min(job.tile, job.n) ** 2 / session.threads


def time_ratio(computing: float, reading: float, job: SolveJob) -> float:
    """Return how many times as long a tile takes that is computed, not read, its product included.

    Reading goes on beside the products; an engine and the products take turns on the cores.
    """
    entries = job.tile**2
    product = entries * product_seconds(PRODUCTS[_dtype(job).name].triangle, job.systems)
    return (computing + product) / max(reading, product)


def make_room(places: Places, job: SolveJob, engine_bytes: int, room: int | None) -> Places:
    """Let go of as many tiles in memory as an engine needs the room of."""
    held = places.at(RESIDENT)
    if room is None:
        return places
    keep = min(len(held), max(0, room - engine_bytes) // job.tile_bytes)
    gone = held[keep:]
    return places.moved(RESIDENT, STREAMED, gone, "more than memory holds") if gone else places


def _engine_bytes(session: Session, engine: Engine) -> int:
    """Return the memory of an engine at work."""
    train, test = (read_shape(session.folder.inputs, name) for name in ("x_train", "x_test"))
    return kernel_memory(engine, Job(train[0], test[0], train[1:], session.deck.kernel.tile)).total


def _computing_seconds(computed: ComputedTiles) -> float:
    """Compute up to two tiles, and return the time of the last: the first prepares much."""
    seconds = 0.0
    with closing(computed.tiles(every)) as tiles:
        for _ in range(2):
            start = time.perf_counter()
            if next(tiles, None) is not None:
                seconds = time.perf_counter() - start
    return seconds


def _dtype(job: SolveJob) -> np.dtype:
    return np.dtype(np.float32 if job.entry == 4 else np.float64)
