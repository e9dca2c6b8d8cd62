"""Ranks fail together: one rank's error becomes the same error on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from hpcnk.comm.world import Communicator
from hpcnk.errors import HpcnkError

T = TypeVar("T")
_NAP = (
    0.002  # seconds between looks while rank 0 works, so that the waiting ranks leave it the cores
)


@contextmanager
def agreement(comm: Communicator) -> Iterator[None]:
    """Run a body without collective calls; if any rank raises HpcnkError, all raise. Collective.

    The error of the lowest failing rank is raised everywhere. Other exceptions are bugs: they are
    not agreed upon but abort the job from the rank that met them.
    """
    mine: HpcnkError | None = None
    try:
        yield
    except HpcnkError as error:
        mine = error
    errors = [error for error in comm.allgather(mine) if error is not None]
    if errors:
        _raise_agreed(errors[0])


def on_root(comm: Communicator, work: Callable[[], T]) -> T:
    """Run `work` on rank 0 alone; its result, or its HpcnkError, reaches all. Collective."""
    result: T | None = None
    error: HpcnkError | None = None
    if comm.rank == 0:
        try:
            result = work()
        except HpcnkError as caught:
            error = caught
    wait_for_all(comm)
    result, error = comm.bcast((result, error), root=0)
    if error is not None:
        _raise_agreed(error)
    return result


def any_rank(comm: Communicator, flag: bool) -> bool:
    """Return whether the flag is set on any rank. Collective."""
    return any(comm.allgather(flag))


def _raise_agreed(error: HpcnkError) -> NoReturn:
    error.agreed = True
    raise error


def wait_for_all(comm: Communicator) -> None:
    """Wait until all ranks are here, and leave the cores to those that still work. Collective."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(_NAP)
