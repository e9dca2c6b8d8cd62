"""A few threads over a list of tasks; NumPy releases the interpreter lock inside of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

from hpcnk.errors import UsageError

Task = TypeVar("Task")


def nothing() -> None:
    """Do nothing."""


def for_each(
    work: Callable[[Task], None],
    tasks: Iterable[Task],
    threads: int,
    beat: Callable[[], None] = nothing,
) -> None:
    """Do `work` on every task. The first exception cancels the tasks not yet begun.

    `beat` is called by this thread as tasks are over.
    """
    if threads == 1:
        for task in tasks:
            work(task)
            beat()
        return
    running = [_pool(threads).submit(work, task) for task in tasks]
    try:
        for done in running:
            done.result()
            beat()
    finally:
        for left in running:
            left.cancel()
        wait(running)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Keep threads from call to call, and with them what they hold in thread-local memory."""
    return ThreadPoolExecutor(threads, thread_name_prefix="hpcnk")


# A forked child has the pools, but none of their threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def default_threads() -> int:
    """Give OMP_NUM_THREADS, at most the cores that this process may use. Raises UsageError."""
    return min(asked_threads() or len(usable_cores()), len(usable_cores()))


def asked_threads() -> int | None:
    """Give OMP_NUM_THREADS, None where it is not set. Raises UsageError if it is no number."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(
            f"OMP_NUM_THREADS: expected a whole number of at least 1, got {text!r}",
            "set it to the number of cores to use, or unset it",
        )
    return int(text)


def usable_cores() -> frozenset[int]:
    """List the cores in this process's affinity mask, where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))
