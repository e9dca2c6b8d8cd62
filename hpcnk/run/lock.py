"""One run at a time in an output folder.

The lock is the operating system's (flock), held by rank 0 as long as its process lives, so a killed
run leaves none behind. The file's text is for people: who holds it, since when.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from pathlib import Path

from hpcnk.errors import UsageError
from hpcnk.store import storage_errors

PATIENCE = 10.0  # seconds to wait for a run that is just ending
_NAP = 0.2


class FolderLock:
    """The lock of one output folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._handle: int | None = None

    def acquire(self) -> str:
        """Take the lock, on one rank; return a warning, empty if all is well.

        Raises UsageError, naming the other run, if it still holds the lock after `PATIENCE`.
        """
        with storage_errors("opening", self._path):
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._wait(self._handle)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                return "this file system has no locks: see that no other run uses the folder"
            os.ftruncate(self._handle, 0)
            who = f"process {os.getpid()} on {socket.gethostname()}, started {time.ctime()}"
            os.pwrite(self._handle, who.encode(), 0)
        return ""

    def _wait(self, handle: int) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise self._refusal(handle) from None
                time.sleep(_NAP)  # the holder may be ending; flock has no time limit of its own

    def _refusal(self, handle: int) -> UsageError:
        holder = os.pread(handle, 1000, 0).decode(errors="replace")
        return UsageError(
            f"another run is at work in {self._path.parent}: {holder}",
            "wait for its end, or give the deck another `output`",
        )
