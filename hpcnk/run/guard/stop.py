"""Ending cleanly on a signal: SIGTERM, SIGINT and SIGUSR1 set a flag that the loops look at.

Where ranks work for long without a word to each other, a file in the output folder carries the flag
from a rank that alone has got the signal to the others.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from hpcnk.comm import Communicator, any_rank
from hpcnk.errors import Stopped


class StopFlag:
    """Set by the first signal; a second SIGINT ends the process the hard way.

    A hard end loses no more than the tiles in flight either.
    """

    def __init__(self) -> None:
        self.requested = ""
        self._file: Path | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print(f"hpcnk: {self.requested} received, stopping soon", file=sys.stderr, flush=True)

    def share(self, file: Path) -> None:
        """Name the file. What an earlier run has left there must be gone."""
        self._file = file

    def is_requested_of_any(self) -> bool:
        """Return whether this rank, or as far as can be seen any other, has received a signal."""
        if self._file is None:
            return bool(self.requested)
        if self.requested:
            with suppress(OSError):  # then the others go on until they meet
                self._file.touch()
            return True
        return self._file.exists()

    def raise_if_requested(self, comm: Communicator) -> None:
        """Raise Stopped on all ranks if any of them has received a signal. Collective."""
        if any_rank(comm, bool(self.requested)):
            raise Stopped("stopped by a signal", "start the same command again to resume")
