"""The kernel as an operator, its tiles where this machine has room and speed for them.

Each rank keeps as many tiles as its memory holds; the others are read in each pass, or computed
anew where that is quicker. Every tile is read and checked once before the first pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import agreement, on_root
from hpcnk.engine.device.tiles import DeviceMemory
from hpcnk.errors import StorageError
from hpcnk.run.first_reading import Take, read_all
from hpcnk.run.needs.solve_memory import (
    cache_share,
    least_share,
    require_solve_memory,
    solve_job,
)
from hpcnk.run.recomputing import Ground, settle
from hpcnk.run.session import Session
from hpcnk.run.sums import make_sums
from hpcnk.run.tile_places import (
    GPU,
    RESIDENT,
    STREAMED,
    Places,
    first_places,
    open_device,
    require_operator,
    room_on_device,
    tell,
)
from hpcnk.run.watched import PassWatch, WatchedOperator
from hpcnk.solve import Products, ResidentTiles, TileOperator
from hpcnk.solve.merged import MergedTiles
from hpcnk.solve.on_device import DeviceTiles
from hpcnk.solve.products import make_products
from hpcnk.solve.streamed import StreamedTiles
from hpcnk.solve.tiles import HeldTile, TileSource
from hpcnk.store import Copies, Layout, TileReader, read_shape
from hpcnk.tiling import Tile, deal

Held: TypeAlias = dict[int, HeldTile]


def require_solvable(session: Session) -> bool:
    """Refuse, before the kernel is computed, what its solve here would refuse. Collective.

    Nothing is asked for a solution that is there: `solve` looks whether it has to be made anew.
    Raises UsageError for too little memory, BackendError where a GPU is asked for and missing.
    """
    if on_root(session.comm, session.folder.solution.exists):
        return True
    require_solve_memory(session)
    with agreement(session.comm):
        require_operator(session.deck)
    return True


@contextmanager
def open_operator(
    session: Session, layout: Layout, contents: dict[str, Any]
) -> Iterator[TileOperator]:
    """Give the operator of a complete kernel file; its files and threads end with the block.

    Collective. Where the tiles come from is chosen, printed and reported. Raises UsageError if the
    memory does not do, or the deck's `solve.operator` is impossible here; StorageError for a tile
    that is damaged beyond repair; BackendError; Stopped, also from the operator's methods.
    """
    comm, grid = session.comm, layout.grid
    room = require_solve_memory(session)
    n, outputs = read_shape(session.folder.inputs, "y_train")
    job = solve_job(session.deck, n, outputs, comm.size, least_share(session))
    device = open_device(session)
    device_room = room_on_device(comm, device, job)
    mine = sorted(deal(grid, comm.size, comm.rank))
    with agreement(comm):
        places = first_places(session.deck, mine, layout.tile_bytes, room, device_room)
        on_device, held = _on_device(device, layout, places), dict[int, HeldTile]()
    seconds = read_all(session, layout, contents, mine, _keeper(places, on_device, held))
    products = make_products(session.deck.kernel.backend, session.threads)
    with ExitStack() as opened:
        ground = Ground(session, layout, contents, job, products, seconds, room)
        places, computed = settle(ground, places, opened)
        sources: list[TileSource] = [_resident(places, held, products)]
        cached = cache_share(session, job)
        if places.at(STREAMED):
            reader = opened.enter_context(_reader(layout, places, cached))
            sources.append(_streamed(reader, places.at(STREAMED), products))
            if reader.direct:
                why = f"{places.why[STREAMED]}; past the system's cache, which is too small"
                places = places.explained(STREAMED, why)
        sources += [computed] if computed else []
        del held
        tell(session, layout, places, seconds)
        watch = PassWatch(session)
        merged = MergedTiles(sources, products, watch.going)
        everything: list[TileSource] = [merged, *([on_device] if on_device else [])]
        yield WatchedOperator(make_sums(session), grid.n, everything, watch)


def _on_device(device: DeviceMemory | None, layout: Layout, places: Places) -> DeviceTiles | None:
    """Take the GPU's memory for this rank's tiles there."""
    tiles = [layout.grid.at(number) for number in places.at(GPU)]
    return DeviceTiles(device, tiles, np.dtype(layout.dtype)) if device and tiles else None


def _keeper(places: Places, on_device: DeviceTiles | None, held: Held) -> Take:
    """Return what keeps the tiles that stay, in memory or on the GPU, as they are read."""
    gpu, resident = set(places.at(GPU)), set(places.at(RESIDENT))
    copies = Copies()

    def take(tile: Tile, entries: NDArray[Any]) -> None:
        if tile.number in gpu and on_device is not None:
            on_device.hold(tile, entries)
        elif tile.number in resident:
            held[tile.number] = (tile, copies.add(entries))

    return take


def _resident(places: Places, held: Held, products: Products) -> TileSource:
    return ResidentTiles([held[number] for number in places.at(RESIDENT)], products)


def _reader(layout: Layout, places: Places, cached: int | None) -> TileReader:
    """Open the file for reads in each pass, past the system's cache if that has no room for what
    is read: putting it there costs time, and it is gone before it is wanted again.
    """
    read = len(places.at(STREAMED)) * layout.tile_bytes
    return TileReader(layout, direct=cached is not None and read > cached)


def _streamed(reader: TileReader, numbers: list[int], products: Products) -> TileSource:
    """Return the tiles that are read in each pass; one whose checksum is wrong ends the job."""
    layout = reader.layout

    def fill(number: int, stored: NDArray[Any]) -> None:
        if not reader.fill(number, stored):
            raise StorageError(
                f"tile {number} of {layout.path} changed during the solve: its checksum was right "
                "before the first pass, and is not now",
                "start the same command again: the tile is computed anew; have the disk and the "
                "memory of this machine checked",
            )

    tiles = [layout.grid.at(number) for number in numbers]
    return StreamedTiles(tiles, fill, layout.grid.tile, layout.dtype, products)
