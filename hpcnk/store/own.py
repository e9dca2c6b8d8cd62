"""Opening what a run writes in place, in a folder that may come from a stranger.

A link there would have us write to a place outside the folder, a named pipe or a device would keep
us waiting.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hpcnk.errors import StorageError


def open_own(path: Path, flags: int) -> int:
    """Open a regular file of the output folder and return its handle; `flags` as for `os.open`.

    Raises OSError when the system refuses, StorageError if something else has the file's name.
    """
    require_regular(path)
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # put there since we looked
        os.close(handle)
        raise _refusal(path, "no regular file")
    return handle


def require_regular(path: Path) -> None:
    """Raise StorageError if a link, or anything but a regular file, has this name."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise _refusal(path, f"a symbolic link to {os.readlink(path)}")
    if not stat.S_ISREG(mode):
        raise _refusal(path, "no regular file")


def require_own_folder(path: Path) -> None:
    """Raise StorageError if a link, or anything but a folder, has this name."""
    if path.is_symlink():
        raise _refusal(path, f"a symbolic link to {os.readlink(path)}")
    if path.exists() and not path.is_dir():
        raise _refusal(path, "no folder")


def make_own_folder(path: Path) -> None:
    """Create a folder inside the output folder. Raises OSError, StorageError as `open_own`."""
    require_own_folder(path)
    path.mkdir(exist_ok=True)


def _refusal(path: Path, what: str) -> StorageError:
    return StorageError(
        f"{path} is {what}, and a run writes there",
        "remove it and start again; nothing is ever written through links in an output folder",
    )
