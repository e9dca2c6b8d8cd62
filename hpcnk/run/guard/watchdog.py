"""Ends a job that stands still: all ranks write down their stacks, then the job ends with code 1.

Progress is what a rank itself counts (`beat`) or what any other one shows (see `heartbeat`),
so a rank that waits in a collective call for slower ones is no reason to end. Time is counted in
looks of a thread, LOOKS of them in the time limit, not by a clock: while a job is suspended, or the
machine asleep, nobody looks.

A call that keeps the interpreter's lock stops that thread too. For this there is a second line of
defence, the timer of `faulthandler`, which needs no lock: set anew at every look, it prints the
stacks and ends the process once looks stay away. It does go by the clock.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hpcnk.comm import Communicator, abort, on_root
from hpcnk.errors import HpcnkError, StorageError
from hpcnk.report import duration, printable
from hpcnk.run.guard.heartbeat import Heartbeats, Sign, create_heartbeats
from hpcnk.store import make_own_folder, open_own, require_own_folder

LOOKS = 20
# A sign takes one look to be written and one to be read: a beat less than the time limit after the
# last one is seen in time.
QUIET = LOOKS + 2
TIMER = QUIET + 2  # looks; when the others have found the stall, and before they have given up
ANSWER = 3  # looks to wait for the others' stacks, and
GRACE = 2.0  # seconds
STDERR = 2
STACKS = "stacks"  # the folder
_SHOWN = 8  # ranks that a message names

Signs = list[Sign | None]


class Watchdog:
    """Watches one rank from a thread of its own, inside `with`. Without signs it does nothing.

    `minutes`: how long nothing may move on any rank. `stacks`: the folder to write them to. `end`
    gets the message and ends all ranks.
    """

    def __init__(
        self,
        minutes: float,
        signs: Heartbeats | None,
        stacks: Path,
        end: Callable[[str], None] = lambda message: abort(message, 1),
    ) -> None:
        self._minutes, self._signs, self._stacks, self._end = minutes, signs, stacks, end
        self._look = minutes * 60 / LOOKS
        self._beats, self._phase = 0, "start"
        self._moved = time.localtime()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hpcnk-watchdog", daemon=True)

    def beat(self) -> None:
        """Count a step of the work that is over, such as a part of a tile."""
        self._beats += 1

    def enter(self, phase: str) -> None:
        """Name the phase that begins."""
        self._phase = phase
        self.beat()

    def __enter__(self) -> Watchdog:
        if self._signs:
            self._set_timer(TIMER * self._look)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._signs:
            self._ended.set()
            self._thread.join(GRACE)  # it may hang in a file system that the job needs no more
            faulthandler.cancel_dump_traceback_later()
            if self._signs.rank == 0:
                self._signs.remove()

    def _watch(self) -> None:
        assert self._signs
        quiet = 0
        known: Signs = [None] * (self._signs.size + 1)
        while not self._ended.wait(self._look):
            self._set_timer(TIMER * self._look)
            mine = Sign(self._beats, self._phase)
            self._signs.show(mine)
            seen = _newest(known, [mine, *self._signs.read()])
            quiet = quiet + 1 if seen == known else 0
            known = seen
            if quiet >= QUIET or any(sign.stalled for sign in seen if sign):
                self._end_job(self._signs)
                return
            if not quiet:
                self._moved = time.localtime()

    def _set_timer(self, seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)

    def _end_job(self, signs: Heartbeats) -> None:
        """Write the stacks down, wait until the others have done so too, and end all ranks."""
        patience = ANSWER * self._look + GRACE
        self._set_timer(3 * patience)  # the disk may hang, and even the call that ends all ranks
        self._write_stacks(signs)
        signs.show(Sign(self._beats, self._phase, stalled=True))
        silent = self._silent(signs, patience)
        if any(rank not in silent for rank in range(signs.rank)):
            self._ended.wait(patience)  # the first of those that answer speaks for all
        self._end(self._message(signs, silent))

    def _write_stacks(self, signs: Heartbeats) -> None:
        """Print that of the main thread, and write all to a file, if the disk lets us."""
        found = stacks()
        head = f"hpcnk: rank {signs.rank} of {signs.size} stands still in the phase {self._phase}"
        print(f"{head}\n{found[0]}", file=sys.stderr, flush=True)
        with suppress(OSError, StorageError):
            make_own_folder(self._stacks)
            make_own_folder(self._stacks / signs.run)
            path = self._stacks / signs.run / f"rank-{signs.rank:06d}.txt"
            handle = open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            with open(handle, "w", encoding="utf-8") as file:
                file.write("\n".join([head, *found]))

    def _silent(self, signs: Heartbeats, patience: float) -> list[int]:
        """Wait for all ranks' stacks; return the ranks that have not written theirs in time."""
        end = time.monotonic() + patience
        while True:
            found = signs.read()
            silent = [rank for rank, sign in enumerate(found) if not (sign and sign.stalled)]
            silent = [rank for rank in silent if rank != signs.rank]
            if not silent or time.monotonic() > end:
                return silent
            time.sleep(min(self._look, 0.1))

    def _message(self, signs: Heartbeats, silent: list[int]) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", self._moved)
        what = (
            f"no progress on any of {signs.size} rank(s) since {since}, in the phase "
            f"{self._phase}; the watchdog's limit is {duration(60 * self._minutes)}. "
            f"The stacks of all threads are in {self._stacks / signs.run}"
        )
        if silent:
            what += (
                f"\n  rank(s) {_some(silent)} did not answer: suspended, inside a call that never "
                "returned, or their host is gone"
            )
        error = HpcnkError(
            what,
            "start the same command again to resume; if the job was only slow, raise "
            "`watchdog: {minutes: ...}` in the deck",
        )
        return printable(str(error))


def open_watchdog(minutes: float | None, folder: Path, comm: Communicator) -> Watchdog:
    """Make the watchdog of this rank; None for one that does nothing. Collective.

    Raises StorageError when the file of signs cannot be made, or the folder of stacks is none.
    """
    if minutes is None:
        return Watchdog(0, None, folder)
    path = folder / "heartbeat"
    run = on_root(comm, lambda: _begin(folder / STACKS, path, comm.size))
    return Watchdog(minutes, Heartbeats(path, run, comm.rank, comm.size), folder / STACKS)


def _begin(stacks: Path, signs: Path, size: int) -> str:
    """Make the file of signs, where stacks can be written when there are any."""
    require_own_folder(stacks)
    return create_heartbeats(signs, size)


def stacks() -> list[str]:
    """Return the stack of every thread of this process as text, the main thread's first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != main)
    return [
        f"thread {names.get(thread, thread)}, most recent call last:\n"
        + "".join(traceback.format_stack(frame))
        for thread, frame in frames
    ]


def _newest(known: Signs, found: Signs) -> Signs:
    """Return what was found, and where no sign was, what was known: a bad disk is no progress."""
    return [now or before for now, before in zip(found, known, strict=True)]


def _some(ranks: list[int]) -> str:
    """List a few ranks."""
    more = len(ranks) - _SHOWN
    return ", ".join(map(str, ranks[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
