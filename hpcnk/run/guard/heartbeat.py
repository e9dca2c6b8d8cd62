"""One small file in which every rank shows how far it is: a line of fixed width a rank.

    20261123-071217-9f0c 000000000042 kernel   busy   \\n        run, beats, phase, busy or stalled

A rank writes its own line in place and reads all of them at once. What another run has left there,
and what cannot be read, counts as no sign.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpcnk.errors import StorageError
from hpcnk.store import open_own, read_regular, write_text

_LINE = re.compile(r"(\S{20}) (\d{12}) (.{12}) (busy   |stalled)\n")
LINE_BYTES = 20 + 1 + 12 + 1 + 12 + 1 + 7 + 1


@dataclass(frozen=True)
class Sign:
    """What one rank shows: a count that grows while it works, and whether it found a stall."""

    beats: int
    phase: str
    stalled: bool = False


@dataclass(frozen=True)
class Heartbeats:
    """The file of one run's signs. Its methods raise nothing: a disk may be what stands still."""

    path: Path
    run: str
    rank: int
    size: int

    def show(self, sign: Sign) -> None:
        """Write this rank's line."""
        state = "stalled" if sign.stalled else "busy   "
        line = f"{self.run} {sign.beats:012d} {sign.phase:12.12} {state}\n"
        with suppress(OSError, StorageError):
            handle = open_own(self.path, os.O_WRONLY)
            try:
                os.pwrite(handle, line.encode("ascii", "replace"), self.rank * LINE_BYTES)
            finally:
                os.close(handle)

    def read(self) -> list[Sign | None]:
        """Return the sign of every rank, None where there is none."""
        try:
            most = self.size * LINE_BYTES
            text = read_regular(self.path, most, os.O_NOFOLLOW).decode("ascii", "replace")
        except (OSError, StorageError):
            text = ""
        starts = range(0, self.size * LINE_BYTES, LINE_BYTES)
        return [self._sign(text[start : start + LINE_BYTES]) for start in starts]

    def remove(self) -> None:
        """Remove the file; the others' signs then go nowhere. One rank calls this, at the end."""
        with suppress(OSError):
            self.path.unlink()

    def _sign(self, line: str) -> Sign | None:
        found = _LINE.fullmatch(line)
        if found is None or found[1] != self.run:
            return None
        return Sign(int(found[2]), found[3].rstrip(), found[4] == "stalled")


def create_heartbeats(path: Path, size: int) -> str:
    """Make an empty file for so many ranks; return the run's name. One rank calls this.

    The name is the time of the start and a few random digits. Raises StorageError.
    """
    write_text(path, (" " * (LINE_BYTES - 1) + "\n") * size)
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
