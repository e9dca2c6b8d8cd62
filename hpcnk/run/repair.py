"""Tiles that changed on the disk after they were written: found by their checksums as they are
read for use, computed anew, each alone, and told of in the report.
"""

from __future__ import annotations

from typing import Any

from hpcnk.comm import agreement
from hpcnk.errors import StorageError
from hpcnk.run.clock import Clock
from hpcnk.run.session import Session
from hpcnk.run.work import Work, engine_of_rank, ready_blocks, works
from hpcnk.store import Layout, replace_tile

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
    engine = engine_of_rank(session)
    work = next(w for w in works(session, engine, contents) if w.path == layout.path)
    _require_backend(layout, work, damaged)
    with ready_blocks(session, engine, Clock(), contents) as blocks, agreement(session.comm):
        for number in mine:
            sides = [blocks.at(*side) for side in work.sides(layout.grid.at(number))]
            replace_tile(layout, number, engine.start_block(*sides).result())
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
