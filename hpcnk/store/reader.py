"""Reading tiles back, each checked against its checksum on the way."""

from __future__ import annotations

import os
from typing import Any

from numpy.typing import NDArray

from hpcnk.errors import StorageError
from hpcnk.store.files import (
    PAGE,
    aligned_empty,
    checksum,
    open_direct,
    raw,
    read_at,
    storage_errors,
)
from hpcnk.store.hdf5 import open_hdf5
from hpcnk.store.journal import read_journals
from hpcnk.store.layout import Layout


class TileReader:
    """Reads the finished tiles of one file. Needs no partner; any number of ranks may read.

    `checksums` maps the number of every finished tile to the CRC-32 of its bytes. `direct`: tiles
    that are put into arrays on a page (`aligned_empty`) are read past the system's cache, where the
    file system and the file allow it. That leaves the processor to others, and suits a file that
    the cache does not hold.
    """

    def __init__(self, layout: Layout, direct: bool = False) -> None:
        self.layout = layout
        self.checksums = _checksums(layout)
        with storage_errors("opening", layout.path):
            self._handle = os.open(layout.path, os.O_RDONLY)
        on_pages = layout.tiles_offset % PAGE == layout.tile_bytes % PAGE == 0
        use = direct and on_pages
        self._direct = open_direct(layout.path, layout.tiles_offset) if use else None

    @property
    def direct(self) -> bool:
        """Whether tiles can be read past the system's cache."""
        return self._direct is not None

    def read(self, number: int) -> NDArray[Any]:
        """Return one tile without its padding. Raises StorageError if its checksum is wrong."""
        tile = self.read_intact(number)
        if tile is None:
            raise StorageError(
                f"tile {number} of {self.layout.path} is damaged: its checksum differs "
                "from the one taken when it was written",
                f"`hpcnk verify {self.layout.path.parent}` lists all damaged tiles; "
                "`hpcnk run` computes them anew; have the disk checked",
            )
        return tile

    def read_intact(self, number: int) -> NDArray[Any] | None:
        """Return one tile without its padding, None if its checksum is wrong."""
        stored = self._empty()
        if not self.fill(number, stored):
            return None
        height, width = self.layout.grid.at(number).shape
        return stored[:height, :width]

    def intact(self, number: int) -> bool:
        """Return whether the tile's bytes are those that were written."""
        return self.fill(number, self._empty())

    def fill(self, number: int, stored: NDArray[Any]) -> bool:
        """Read one tile, padding included, into an array (tile, tile) of the file's type.

        Return whether its checksum is right. Any thread may call this.
        """
        offset = self.layout.tiles_offset + number * self.layout.tile_bytes
        with storage_errors("reading", self.layout.path):
            read_at(self._handle_for(stored), raw(stored), offset)
        return checksum(stored) == self.checksums[number]

    def _handle_for(self, stored: NDArray[Any]) -> int:
        if self._direct is None or stored.ctypes.data % PAGE:
            return self._handle
        return self._direct

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)
        if self._direct is not None:
            os.close(self._direct)

    def __enter__(self) -> TileReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _empty(self) -> NDArray[Any]:
        tile = self.layout.grid.tile
        return aligned_empty((tile, tile), self.layout.dtype)


def _checksums(layout: Layout) -> dict[int, int]:
    if not layout.complete:
        return read_journals(layout)
    with storage_errors("reading", layout.path), open_hdf5(layout.path) as file:
        return dict(enumerate(file["checksums"][:].tolist()))
