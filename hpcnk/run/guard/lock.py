"""One run at a time in an output folder.

The lock is the operating system's (flock), held by rank 0 as long as its process lives, so a killed
run leaves none behind. The file's text says who holds it, since when; a run that ends cleanly
clears it. So text without a lock is what a run that died has left.

Where the file system has no locks, or locks that other hosts do not see, the text itself is the
lock. Then a run that died on this host is recognised, for its process is gone; of one on another
host nobody can tell, so it counts as alive until somebody removes the file.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from hpcnk.errors import UsageError
from hpcnk.run.needs.filesystem import file_system
from hpcnk.store import open_own, storage_errors

PATIENCE = 10.0  # seconds to wait for a run that is just ending
SETTLE = 1.0  # seconds after which, of two runs that wrote their text at once, the last one counts
_NAP = 0.2  # between looks
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_TEXT_BYTES = 1000  # more than any text has


@dataclass(frozen=True)
class Holder:
    """Who holds a folder. `told`: for people; `process`: what tells whether it still lives."""

    told: str
    process: str = ""

    @property
    def text(self) -> str:
        """The two lines of the lock file."""
        return f"{self.told}\n{self.process}\n"

    @property
    def is_gone(self) -> bool:
        """Whether the process has certainly ended: it was one of this host, and is none now."""
        place, _, rest = self.process.rpartition(" process ")
        number = rest.split(" ")[0]
        return bool(place) and place == _place() and _identity(number) != self.process


@dataclass(frozen=True)
class Taken:
    """A lock that was taken: a warning, and who had it before and died, both empty if all is well.

    `text` is what the lock file says now.
    """

    warning: str
    died: str
    text: str


class FolderLock:
    """The lock of one output folder. One rank uses it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        self._handle = -1
        self._owner = 0

    def acquire(self) -> Taken:
        """Take the lock until this process ends. Raises StorageError, and UsageError, naming the
        other run, if it still holds the lock after `PATIENCE`.
        """
        with storage_errors("opening", self.path):
            self._handle = open_own(self.path, os.O_RDWR | os.O_CREAT)
            locked = self._lock()
            before = _read(self._handle)
            warning = "" if locked else self._require_gone(before)
            mine = _this_process()
            self._write(mine.text)
            if not locked:
                self._require_last(mine)
        self._owner = os.getpid()
        atexit.register(self._release)  # not called when the process is killed or aborts
        return Taken(warning, before.told if before else "", mine.text)

    def _lock(self) -> bool:
        """Lock the file; return whether that keeps out other hosts too."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return not file_system(self.path).locks_are_local
            except BlockingIOError:
                if time.monotonic() > end:
                    raise self._refusal(_read(self._handle)) from None
                time.sleep(_NAP)  # the holder may be ending; flock has no time limit of its own
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return False

    def _require_gone(self, holder: Holder | None) -> str:
        """Raise UsageError unless nobody can be at work, going by the text; return a warning."""
        if holder and not holder.is_gone:
            raise self._refusal(
                holder, f"; if that run is gone, remove {self.path} and start again"
            )
        return (
            f"{file_system(self.path)} has no locks that all hosts see: the text of {self.path} "
            "alone keeps other runs out"
        )

    def _require_last(self, mine: Holder) -> None:
        """Raise UsageError if another run, started in the same moment, wrote after this one."""
        time.sleep(SETTLE)
        last = read_holder(self.path)
        if last != mine:
            raise self._refusal(last)

    def _write(self, text: str) -> None:
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, text.encode(), 0)
        os.fsync(self._handle)  # for the other hosts

    def _release(self) -> None:
        """Clear the text. The lock itself ends with the process."""
        if os.getpid() == self._owner:  # not in a child that was forked
            with suppress(OSError):
                os.ftruncate(self._handle, 0)

    def _refusal(self, holder: Holder | None, more: str = "") -> UsageError:
        return UsageError(
            f"another run is at work in {self.path.parent}: {_named(holder)}",
            f"wait for its end, or give the deck another `output`{more}",
        )


def running_holder(folder: Path) -> str:
    """Return who is at work in a folder, empty if nobody is. Changes nothing. Raises StorageError.

    Without locks that can be asked for, goes by the text.
    """
    path = folder / "lock"
    if not path.exists():
        return ""
    with storage_errors("reading", path):
        handle = open_own(path, os.O_RDONLY)
        try:
            holder = _read(handle)
            if _is_locked(handle):
                return _named(holder)
        finally:
            os.close(handle)
        unseen = holder and file_system(path).locks_are_local and not holder.is_gone
        return _named(holder) if unseen else ""


def read_holder(path: Path) -> Holder | None:
    """Return who a lock file names, None if nobody. Raises OSError, StorageError."""
    handle = open_own(path, os.O_RDONLY)
    try:
        return _read(handle)
    finally:
        os.close(handle)


def _is_locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        holder = _read(handle)
        return holder is not None and not holder.is_gone
    return False


def _read(handle: int) -> Holder | None:
    lines = os.pread(handle, _TEXT_BYTES, 0).decode(errors="replace").splitlines()
    return Holder(lines[0], "".join(lines[1:2])) if lines else None


def _named(holder: Holder | None) -> str:
    return holder.told if holder else "it has not said yet who it is"


def _this_process() -> Holder:
    now = datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds")
    told = f"process {os.getpid()} on {socket.gethostname()}, started {now}"
    return Holder(told, _identity(str(os.getpid())))


def _identity(process: str) -> str:
    """Name a process of this host for good: its number comes again, its start does not.

    Empty if there is no such process, or no Linux.
    """
    stat = _text(f"/proc/{process}/stat").rpartition(")")[2].split() if process.isdigit() else []
    if not stat or stat[0] in "ZX":  # dead, and not waited for yet
        return ""
    return f"{_place()} process {process} start {stat[19]}"


def _place() -> str:
    """Name what gives this process its number: the running system, and the space of numbers."""
    boot = _text("/proc/sys/kernel/random/boot_id").strip()
    try:
        return f"{boot} {os.readlink('/proc/self/ns/pid')}" if boot else ""
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
