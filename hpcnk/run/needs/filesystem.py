"""Which file system a path lies on, and what of its habits a job must know."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")
# Each host has a cache of its own for these, and writes whole pages back from it.
_CACHED = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs"})
# Mount options by which a lock counts among the processes of one host alone.
_LOCAL_LOCKS = frozenset({"localflock", "nolock", "local_lock=all", "local_lock=flock"})


@dataclass(frozen=True)
class FileSystem:
    """Where a file system is mounted, its kind, such as "ext4", and its mount options."""

    mount: str
    kind: str
    options: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.mount} ({self.kind})" if self.kind else self.mount

    @property
    def cached_by_host(self) -> bool:
        """Whether hosts that write to one file at the same time may undo each other's writes."""
        return self.kind in _CACHED

    @property
    def locks_are_local(self) -> bool:
        """Whether a lock keeps out the processes of this host alone."""
        return bool(self.options & _LOCAL_LOCKS)


def file_system(path: Path) -> FileSystem:
    """Return the file system of a path; of its nearest parent that exists, where it is absent.

    Where the system does not tell (no Linux), mount and kind are the path and empty.
    """
    real = nearest(path).resolve()
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return FileSystem(str(real), "")
    return find_mount(real, lines)


def find_mount(path: Path, lines: Iterable[str]) -> FileSystem:
    """Return the mount that holds an absolute path, from the lines of mountinfo (see proc(5)).

    The longest mount point counts, and of equal ones the last: it hides the others.
    """
    found = FileSystem(str(path), "")
    depth = 0
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, _, *rest) = before.split(" "), after.split(" ")
        mount = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        if path.is_relative_to(mount) and len(mount.parts) >= depth:
            depth = len(mount.parts)
            options = frozenset(",".join([fields[5], *rest]).split(","))
            found = FileSystem(str(mount), kind, options)
    return found


def nearest(path: Path) -> Path:
    """Return the path itself, or the nearest of its parents that exists."""
    absolute = Path(os.path.abspath(path))
    return next(place for place in (absolute, *absolute.parents) if os.path.exists(place))
