"""Ranks held in the middle of a kernel, however fast the machine and however busy.

They run for a slice of time and are stopped (SIGSTOP) before each look at the journal: a look that
comes late finds the kernel no further on.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psutil

from hpcnk.store import read_layout
from tests.support.folders import finished
from tests.support.mpi import Job

SLICE = 0.01  # seconds
LIMIT = 60  # seconds until the first tile


def hold(job: Job, kernel: Path) -> list[psutil.Process]:
    """Stop a job's ranks after the first tiles of its kernel are in the journal; return them."""
    lock = kernel.with_name("lock")
    while not (lock.exists() and lock.read_text()):
        assert job.process.poll() is None, job.wait().output
        time.sleep(SLICE)
    ranks = job.ranks()
    hold_ranks(ranks, kernel)
    return ranks


def hold_ranks(ranks: list[psutil.Process], kernel: Path) -> None:
    """The same for ranks that somebody else has started, and that have taken the folder's lock."""
    end = time.monotonic() + LIMIT
    while not finished(kernel):
        assert time.monotonic() < end, "no tile in all that time"
        release(ranks)
        time.sleep(SLICE)
        for rank in ranks:
            rank.suspend()
    count = read_layout(kernel).grid.count
    assert len(finished(kernel)) < count, "the kernel was complete in a slice: make it longer"


def release(ranks: list[psutil.Process]) -> None:
    """Let held ranks go on, those that live."""
    for rank in ranks:
        with suppress(psutil.NoSuchProcess):
            rank.resume()
