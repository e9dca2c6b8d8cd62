"""Tiles that changed on the disk after they were written: found by their checksums as they are
read for use, computed anew, each alone, and told of in the report.
"""

from __future__ import annotations

from typing import Any

from hpcnk.comm import agreement, on_root
from hpcnk.errors import StorageError
from hpcnk.run.clock import Clock
from hpcnk.run.session import Session
from hpcnk.run.work import Work, engine_of_rank, ready_blocks, works
from hpcnk.store import Layout, TileReader, check_arrays, replace_tile, tile_checksum

STAGE = "repair"  # its warnings stay in the report, for no later stage begins by this name


def repair(
    session: Session, layout: Layout, contents: dict[str, Any], mine: list[int], again: bool
) -> bool:
    """Compute the damaged tiles anew that this rank found, `mine`. Collective.

    Return whether there were any on any rank. Raises StorageError if tiles are damaged `again`
    after a repair, or were made by another back end than the one here; BackendError.
    """
    damaged = sorted(number for found in session.comm.allgather(mine) for number in found)
    if not damaged:
        return False
    if again:
        raise _failing(layout, damaged)
    # What tiles are made from must be sound itself; the variances are checked as they are read.
    on_root(session.comm, lambda: check_arrays(session.folder.inputs))
    engine = engine_of_rank(session)
    work = next(w for w in works(session, engine, contents) if w.path == layout.path)
    _require_backend(layout, work, damaged)
    with ready_blocks(session, engine, Clock(), contents) as blocks, agreement(session.comm):
        for number in mine:
            sides = [blocks.at(*side) for side in work.sides(layout.grid.at(number))]
            block = engine.start_block(*sides).result()
            _require_code(layout, work, number, tile_checksum(layout, block))
            replace_tile(layout, number, block)
    session.warn(
        STAGE,
        f"{layout.path.name}: {_named(damaged)} had changed on the disk (checksum) and was "
        "computed anew; have the disk and the memory of this machine checked",
    )
    return True


def _require_backend(layout: Layout, work: Work, damaged: list[int]) -> None:
    """Refuse to mix tiles of two engines in one file. The same on all ranks."""
    was, now = (made.get("kernel.backend") for made in (layout.provenance, work.provenance))
    if was != now:
        raise _agreed(
            f"{_named(damaged)} of {layout.path} is damaged, and was made by the back end {was}; "
            f"here there is {now}",
            f"start the same command where the back end {was} works: it computes the tile anew",
        )


def _require_code(layout: Layout, work: Work, number: int, found: int) -> None:
    """Refuse to mix tiles of two codes in one file, unless the bytes are those that were there."""
    was, now = (made.get("code", "unknown") for made in (layout.provenance, work.provenance))
    with TileReader(layout) as reader:
        if was != now and found != reader.checksums[number]:
            raise StorageError(
                f"tile {number} of {layout.path} is damaged, was made by hpcnk {was}, and "
                f"{now}, which this is, computes other bytes",
                f"repair it with the version that made it, or remove {layout.path.name} to have "
                "all of it computed anew",
            )


def _failing(layout: Layout, damaged: list[int]) -> StorageError:
    return _agreed(
        f"{_named(damaged)} of {layout.path} is damaged again right after it was written anew",
        "the disk or the memory of a machine is failing: move the output folder to another one",
    )


def _agreed(what: str, advice: str) -> StorageError:
    error = StorageError(what, advice)
    error.agreed = True
    return error


def _named(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"tile{'s' if len(numbers) > 1 else ''} {shown}{more}"
