"""The layout of a tile file: created whole in one go, then only raw bytes in it change.

    tiles      [T, b, b]   float32 or float64; contiguous, allocated early, never filled
    checksums  [T]         uint32, CRC-32 of each tile's bytes; valid once complete
    complete   [1]         uint8, 1 when all tiles are there
    attributes             format, id, n, m (0 for a triangle), tile, provenance (JSON)

Contiguous because a chunked file of 187,000 tiles needs a B-tree of many megabytes that is
rewritten while tiles are in flight; never filled so that 50 TB are created in a moment.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcnk.store.attributes import read_count, read_text, require_format
from hpcnk.store.documents import parse_provenance
from hpcnk.store.files import published, write_at
from hpcnk.store.hdf5 import lay_out, open_hdf5
from hpcnk.store.trust import own_dataset, own_offset, refusal
from hpcnk.tiling import CrossGrid, Grid, TriangleGrid

FORMAT = "hpcnk tiles 2"
_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_CHECKSUM = np.dtype(np.uint32)
_MARK = np.dtype(np.uint8)


@dataclass(frozen=True)
class Layout:
    """What a tile file says of itself, and where its raw bytes lie."""

    path: Path
    id: str
    grid: Grid
    dtype: np.dtype
    provenance: dict[str, Any]
    complete: bool
    tiles_offset: int
    checksums_offset: int
    complete_offset: int

    @property
    def tile_bytes(self) -> int:
        """Bytes of one stored tile, padding included."""
        return self.grid.tile**2 * self.dtype.itemsize

    @property
    def journal(self) -> Path:
        """The folder with the journals of this file."""
        return self.path.with_name(self.path.name + ".journal")


def create(path: Path, grid: Grid, dtype: str, provenance: dict[str, Any]) -> None:
    """Lay an empty tile file out and publish it under `path`. One rank calls this.

    Raises StorageError when the file system refuses.
    """
    shapes = _shapes(grid, np.dtype(dtype))
    attributes: dict[str, str | int] = {
        "format": FORMAT,
        "id": uuid.uuid4().hex,
        "n": grid.n,
        "m": grid.m if isinstance(grid, CrossGrid) else 0,
        "tile": grid.tile,
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    with published(path) as temporary:
        offsets = lay_out(temporary, shapes, attributes)
        with open(temporary, "r+b") as file:
            write_at(file.fileno(), memoryview(b"\0"), offsets["complete"])


def _shapes(grid: Grid, dtype: np.dtype) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    return {
        "tiles": ((grid.count, grid.tile, grid.tile), dtype),
        "checksums": ((grid.count,), _CHECKSUM),
        "complete": ((1,), _MARK),
    }


def read_layout(path: Path) -> Layout:
    """Read the layout of a tile file.

    Raises StorageError if it is none, or claims what the file does not hold.
    """
    with open_hdf5(path) as file:
        advice = "give the run another `output`, or remove the file"
        require_format(path, file, "tile file", FORMAT, advice)
        return _layout(path, file)


def _layout(path: Path, file: h5py.File) -> Layout:
    grid, tiles = _grid(path, file), own_dataset(path, file, "tiles")
    if tiles.dtype not in _DTYPES:
        raise refusal(path, f"tiles of type {tiles.dtype}, expected float32 or float64")
    offsets = {
        name: own_offset(path, file, name, shape, dtype)
        for name, (shape, dtype) in _shapes(grid, tiles.dtype).items()
    }
    return Layout(
        path=path,
        id=_id(path, file),
        grid=grid,
        dtype=tiles.dtype,
        provenance=parse_provenance(path, read_text(path, file, "provenance")),
        complete=bool(file["complete"][0]),
        tiles_offset=offsets["tiles"],
        checksums_offset=offsets["checksums"],
        complete_offset=offsets["complete"],
    )


def _grid(path: Path, file: h5py.File) -> Grid:
    n, m, tile = (read_count(path, file, name) for name in ("n", "m", "tile"))
    if not n or not tile:
        raise refusal(path, f"a grid of {n} rows in tiles of {tile}")
    return CrossGrid(m, n, tile) if m else TriangleGrid(n, tile)


def _id(path: Path, file: h5py.File) -> str:
    found = read_text(path, file, "id")
    if not re.fullmatch("[0-9a-f]{32}", found):
        raise refusal(path, f"the id {found:.80}, expected 32 hexadecimal digits")
    return found
