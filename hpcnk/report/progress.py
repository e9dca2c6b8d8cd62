"""Progress of the tile phases: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from hpcnk.report.events import EventLog
from hpcnk.report.units import count, duration

LOG_SECONDS = 5.0
TERMINAL_SECONDS = 0.5
_WIDTH = 30


class Progress:
    """Watches a count of finished tiles from a thread of its own, until closed.

    `finished` returns the number of tiles done on all ranks and must be cheap; `pairs` is the
    number of kernel entries in all `total` tiles. The thread is a daemon and never calls MPI.
    """

    def __init__(
        self,
        title: str,
        total: int,
        pairs: int,
        finished: Callable[[], int],
        events: EventLog,
        stream: TextIO | None = None,
    ) -> None:
        self._title, self._total, self._pairs = title, total, pairs
        self._finished, self._events = finished, events
        self._stream = sys.stderr if stream is None else stream
        self._start, self._first = time.monotonic(), finished()
        self._bar = self._stream.isatty()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Show the last state and stop watching."""
        self._ended.set()
        self._thread.join()
        self._show()
        if self._bar:
            print(file=self._stream)

    def _watch(self) -> None:
        while not self._ended.wait(TERMINAL_SECONDS if self._bar else LOG_SECONDS):
            self._show()

    def _show(self) -> None:
        done = min(self._finished(), self._total)
        seconds = time.monotonic() - self._start
        rate = (done - self._first) / self._total * self._pairs / max(seconds, 1e-9)
        left = (self._total - done) / self._total * self._pairs
        eta = left / rate if rate > 0 else float("inf")
        self._print(done, rate, eta)
        self._events.write(
            "progress",
            phase=self._title,
            tiles_done=done,
            tiles=self._total,
            pairs_per_second=round(rate, 1),
            eta_seconds=round(eta, 1) if rate > 0 else None,
        )

    def _print(self, done: int, rate: float, eta: float) -> None:
        left = duration(eta) if eta != float("inf") else "unknown"
        text = f"{self._title}: {done} of {self._total} tiles, {count(rate)} pairs/s, {left} to go"
        if self._bar:
            filled = _WIDTH * done // self._total
            bar = "#" * filled + "." * (_WIDTH - filled)
            print(f"\r[{bar}] {text}\x1b[K", end="", file=self._stream, flush=True)
        else:
            print(text, file=self._stream, flush=True)
