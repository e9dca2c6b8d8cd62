"""Faults on purpose: HPCNK_FAULT makes one rank fail at a chosen moment, to test what then happens.

    HPCNK_FAULT=rank=1,phase=kernel,after=3,what=sigkill

`phase` is kernel, solve or predict; `after` counts this rank's steps of that phase that are over:
tiles computed, passes of the solver, tiles read. What may happen at a step:

    sigkill, sigterm, sigusr1   the signal, sent by the rank to itself
    raise                       an exception that nobody expects
    memory                      an allocation that no machine can give
    hang                        it never comes back

and at a write, where `after` counts the writes of the phase that were good (tiles, checkpoints,
the predictions):

    half                        half of it is written, then SIGKILL
    full, error                 the system says that the disk is full, or broken
    flip                        one bit differs on the disk, and nobody is told (kernel: in the tile
                                that is written; later phases: in a tile that is read)
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import UsageError
from hpcnk.store import Driver, Layout, storage_errors, write_tile_bytes

VARIABLE = "HPCNK_FAULT"
PHASES = ("kernel", "solve", "predict")
SIGNALS = {"sigkill": signal.SIGKILL, "sigterm": signal.SIGTERM, "sigusr1": signal.SIGUSR1}
STEPS = (*SIGNALS, "raise", "memory", "hang")
ERRORS = {"full": errno.ENOSPC, "error": errno.EIO}
WRITES = ("half", *ERRORS, "flip")
_IMPOSSIBLE = 1 << 60  # bytes


@dataclass(frozen=True)
class Fault:
    """One fault: which rank, in which phase, after how many steps or writes, and what happens."""

    rank: int
    phase: str
    after: int
    what: str


def parse_fault(text: str) -> Fault:
    """Read the value of HPCNK_FAULT. Raises UsageError that says what was expected."""
    fields = dict(field.partition("=")[::2] for field in text.split(","))
    try:
        fault = Fault(int(fields["rank"]), fields["phase"], int(fields["after"]), fields["what"])
    except (KeyError, ValueError) as error:
        raise _refusal(text) from error
    if len(fields) > 4 or fault.phase not in PHASES or fault.what not in STEPS + WRITES:
        raise _refusal(text)
    return fault


def _refusal(text: str) -> UsageError:
    return UsageError(
        f"{VARIABLE}: expected rank=NUMBER,phase={'|'.join(PHASES)},after=NUMBER,"
        f"what={'|'.join(STEPS + WRITES)}; got {text!r}",
        "it is for tests of what happens when a rank fails: unset it for a run that matters",
    )


class Faults:
    """What is to go wrong on this rank: nothing, where the variable is not set."""

    def __init__(self, rank: int, environment: Mapping[str, str] = os.environ) -> None:
        text = environment.get(VARIABLE, "")
        fault = parse_fault(text) if text else None
        self._fault = fault if fault and fault.rank == rank else None
        self._over: Counter[tuple[str, bool]] = Counter()

    def step(self, phase: str) -> None:
        """Count one step that begins; fail here if it is time."""
        if self._is_due(phase, STEPS):
            assert self._fault
            _happen(self._fault.what)

    @contextmanager
    def writing(self, phase: str, path: Path) -> Iterator[None]:
        """Do the write of a whole file in the body, or fail at it. Raises StorageError."""
        what = self._fault.what if self._fault and self._is_due(phase, WRITES) else ""
        if what in ERRORS:
            with storage_errors("writing", path):
                raise _system_error(what)
        yield
        if what == "half":
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def flip(self, phase: str, layout: Layout, number: int) -> None:
        """Flip a bit of a stored tile before it is read, if it is time."""
        if self._fault and self._fault.what == "flip" and self._is_due(phase, WRITES):
            with open(layout.path, "r+b") as file:
                file.seek(layout.tiles_offset + number * layout.tile_bytes + 5)
                byte = file.read(1)[0]
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ 1]))

    def driver(self, driver: Driver, layout: Layout) -> Driver:
        """Return the driver, or one in its place whose writes fail when it is time."""
        if self._fault and self._fault.phase == "kernel" and self._fault.what in WRITES:
            due = partial(self._is_due, "kernel", WRITES)
            return FaultyDriver(driver.any_thread, driver, layout, self._fault.what, due)
        return driver

    def _is_due(self, phase: str, kinds: tuple[str, ...]) -> bool:
        fault = self._fault
        if fault is None or fault.phase != phase or fault.what not in kinds:
            return False
        self._over[phase, kinds is STEPS] += 1
        return self._over[phase, kinds is STEPS] == fault.after + 1


@dataclass
class FaultyDriver:
    """A driver that fails at one of its writes."""

    any_thread: bool
    sound: Driver
    layout: Layout
    what: str
    due: Callable[[], bool]

    def write(self, number: int, tile: NDArray[Any]) -> None:
        """Write one whole tile, or fail at it."""
        if not self.due():
            self.sound.write(number, tile)
        elif self.what in ERRORS:
            raise _system_error(self.what)
        elif self.what == "half":
            write_tile_bytes(self.layout, number, tile[: len(tile) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            flipped = tile.copy()
            flipped.reshape(-1).view(np.uint8)[5] ^= 1
            self.sound.write(number, flipped)

    def sync(self) -> None:
        """As the sound driver."""
        self.sound.sync()

    def close(self) -> None:
        """As the sound driver."""
        self.sound.close()


def _system_error(what: str) -> OSError:
    return OSError(ERRORS[what], os.strerror(ERRORS[what]))


def _happen(what: str) -> None:
    if what in SIGNALS:
        signal.raise_signal(SIGNALS[what])  # to this thread, so it is seen at once
    elif what == "memory":
        np.ones(_IMPOSSIBLE, np.uint8)
    elif what == "hang":
        threading.Event().wait()
    else:
        raise RuntimeError(f"{VARIABLE} asked for an exception")
