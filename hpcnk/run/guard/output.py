"""Opening the output folder: one place, one run, seen by all ranks."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from hpcnk.comm import Communicator, agreement, on_root
from hpcnk.deck import Deck
from hpcnk.errors import StorageError, UsageError
from hpcnk.run.folder import Folder
from hpcnk.run.guard.lock import FolderLock, Taken, read_holder

PATIENCE = 10.0  # seconds in which a new file becomes visible on other hosts
_NAP = 0.2  # between looks


def open_folder(deck: Deck, comm: Communicator) -> tuple[Folder, Taken]:
    """Make the output folder and lock it for this run. Collective.

    A relative path is relative to the working directory of rank 0, for all ranks. Raises
    UsageError when the folder is that of the data or another run is at work in it, StorageError
    when it cannot be made or written, or is not the same on all hosts.
    """
    folder = Folder(on_root(comm, lambda: absolute(deck.output)))
    on_root(comm, lambda: _make(deck, folder))
    taken = on_root(comm, FolderLock(folder.path).acquire)
    host = on_root(comm, socket.gethostname)
    with agreement(comm):
        _require_seen(folder, taken, f"rank {comm.rank}", host)
    return folder, taken


def absolute(path: Path) -> Path:
    """Return a path that the working directory does not change. Raises StorageError."""
    try:
        return Path(os.path.abspath(path))
    except OSError as error:
        raise StorageError(
            f"{path} is relative to the working directory, which is gone ({error.strerror})",
            "change to a directory that exists, and start again",
        ) from error


def require_apart(deck: Deck, folder: Folder) -> None:
    """Raise UsageError if the results would stand among the data, or in their place."""
    if deck.data.path is None:
        return
    data, output = os.path.realpath(deck.data.path), os.path.realpath(folder.path)
    written = (folder.inputs, folder.variances, folder.kernel, folder.test_kernel)
    results = (folder.solution, folder.predictions)
    if data == output:
        what = f"the output folder {folder.path} is the folder of the data"
    elif data in [os.path.realpath(path) for path in (*written, *results)]:
        what = f"the data's file {deck.data.path} has the place of one that the run writes"
    else:
        return
    raise UsageError(what, "give the deck another `output`")


def _make(deck: Deck, folder: Folder) -> None:
    require_apart(deck, folder)
    folder.make()


def _require_seen(folder: Folder, taken: Taken, rank: str, host: str) -> None:
    """Wait until this rank reads the lock that rank 0, on `host`, has written."""
    path = folder.path / "lock"
    end = time.monotonic() + PATIENCE
    while not _reads(path, taken.text):
        if time.monotonic() > end:
            raise StorageError(
                f"{rank} on {socket.gethostname()} does not see {path}, which rank 0 on {host} has "
                "just written",
                "put `output` on a file system that all hosts share, under the same path",
            )
        time.sleep(_NAP)


def _reads(path: Path, text: str) -> bool:
    with suppress(OSError):
        os.listdir(path.parent)  # makes a client of a network file system look anew
        holder = read_holder(path)
        return holder is not None and holder.text == text
    return False
