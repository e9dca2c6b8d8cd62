"""Journals: one append-only text file a rank and start, a fixed-width line a finished tile.

    000000000042 1c291ca3 9f0c...e1\n        tile number, CRC-32 of its bytes, id of the tile file

A line that is torn, belongs to another tile file, or names a tile that the grid does not have is
ignored. The fixed width lets a
progress display count tiles from file sizes alone.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from hpcnk.store.documents import read_regular
from hpcnk.store.files import storage_errors, sync_file
from hpcnk.store.layout import Layout
from hpcnk.store.own import make_own_folder, require_own_folder

_LINE = re.compile(rb"(\d{12}) ([0-9a-f]{8}) ([0-9a-f]{32})")
LINE_BYTES = 12 + 1 + 8 + 1 + 32 + 1
MOST_TILES = 10**12  # that a line can tell apart
MOST_TILES = 10**12  # what the width of a line can number
_SPARE = 1000  # lines of a journal beyond one for each tile of the file


class Journal:
    """The journal that one rank writes in one start."""

    def __init__(self, layout: Layout, rank: int) -> None:
        folder = layout.journal
        make_own_folder(folder)
        self.path = folder / f"{time.time_ns():020d}-{os.getpid()}-{rank:06d}.log"
        self._id = layout.id
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._handle = os.open(self.path, flags, 0o644)
        sync_file(folder)

    def append(self, entries: list[tuple[int, int]]) -> None:
        """Add (tile, checksum) lines and make them durable. The tiles must be so already."""
        lines = "".join(f"{tile:012d} {checksum:08x} {self._id}\n" for tile, checksum in entries)
        data = memoryview(lines.encode())
        while data:
            data = data[os.write(self._handle, data) :]
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file; nothing more can be appended."""
        os.close(self._handle)


def read_journals(layout: Layout) -> dict[int, int]:
    """Return {tile: checksum} of all finished tiles, from the journals of all ranks and starts.

    Raises StorageError when a journal cannot be read, or is larger than any that hpcnk writes.
    Where a tile was written twice (its first journal line may have been lost with a node), the
    newest line counts.
    """
    finished: dict[int, int] = {}
    count = layout.grid.count
    with storage_errors("reading", layout.journal):
        require_own_folder(layout.journal)
        for path in _journals(layout.journal):
            content = read_regular(path, (count + _SPARE) * LINE_BYTES, os.O_NOFOLLOW)
            for line in content.split(b"\n")[:-1]:  # what follows the last \n is torn
                match = _LINE.fullmatch(line)
                if match and match[3].decode() == layout.id and int(match[1]) < count:
                    finished[int(match[1])] = int(match[2], 16)
    return finished


def finished_tiles(folder: Path) -> int:
    """Count journal lines by file sizes: cheap, for progress; an upper bound after a restart."""
    return sum(path.lstat().st_size // LINE_BYTES for path in _journals(folder))


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))
