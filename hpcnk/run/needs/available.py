"""How much memory this machine, or what it grants to this job and this process, has left."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

from hpcnk.comm import Communicator, place_on_host

_CGROUP = Path("/sys/fs/cgroup")
# files of a control group, version 2 and version 1: limit, use, and what of it is file cache
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
# limits of one process (`ulimit -v`, `ulimit -d`), and the line of its status with what it uses
_LIMITS = ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:"))


def memory_share(comm: Communicator) -> tuple[int | None, int]:
    """Return the bytes that this rank can still take, None if unknown, and the ranks of its host.

    An even share of what the host has, or what the limits of the process leave, if that is less.
    Collective.
    """
    _, ranks = place_on_host(comm)
    host = available_memory()
    known = [] if host is None else [host // ranks]
    return min([*known, *process_limits()], default=None), ranks


def process_limits() -> Iterator[int]:
    """Give what each limit on this process's memory leaves of it, in bytes."""
    status = _lines(Path("/proc/self/status"))
    for limit, name in _LIMITS:
        most, _ = resource.getrlimit(limit)
        used = [int(line.split()[1]) * 1024 for line in status if line.startswith(name)]
        if most != resource.RLIM_INFINITY and used:
            yield max(0, most - used[0])


def available_memory() -> int | None:
    """Return the bytes that processes of this job can still take on this host; None if unknown.

    The least of what the system has and of what each control group around this process leaves.
    File cache counts as free, for the system gives it up when memory is asked for.
    """
    return min([*_system(), *_control_groups()], default=None)


def _system() -> Iterator[int]:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _control_groups() -> Iterator[int]:
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, group = line.split(":", 2)
        if controllers in ("", "memory"):
            root = _CGROUP / controllers
            inside = root / group.lstrip("/")
            for folder in (inside, *inside.parents):
                if folder.is_relative_to(root):  # limits of the groups around it hold as well
                    yield from _left(folder)


def _left(folder: Path) -> Iterator[int]:
    for limit, use, cache in _FILES:
        limits, uses = _lines(folder / limit), _lines(folder / use)
        if limits and uses and limits[0].isdigit():
            cached = [
                line.split()[1]
                for line in _lines(folder / "memory.stat")
                if line.split()[0] == cache
            ]
            yield int(limits[0]) - int(uses[0]) + sum(map(int, cached))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
