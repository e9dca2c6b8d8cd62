"""How much memory this machine, or what it grants to this job, has left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
# files of a control group, version 2 and version 1: limit, use, and what of it is file cache
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


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
