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
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcnk.errors import StorageError
from hpcnk.store.files import published, storage_errors, write_at
from hpcnk.store.hdf5 import lay_out, open_hdf5
from hpcnk.tiling import CrossGrid, Grid, TriangleGrid

FORMAT = "hpcnk tiles 1"


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
    shapes = {
        "tiles": ((grid.count, grid.tile, grid.tile), np.dtype(dtype)),
        "checksums": ((grid.count,), np.dtype(np.uint32)),
        "complete": ((1,), np.dtype(np.uint8)),
    }
    attributes = {
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


def read_layout(path: Path) -> Layout:
    """Read the layout of a tile file. Raises StorageError if it is none."""
    with storage_errors("reading", path), open_hdf5(path) as file:
        if file.attrs.get("format") != FORMAT:
            raise StorageError(
                f"{path} is no tile file: expected the format {FORMAT!r}, "
                f"found {file.attrs.get('format')!r}",
                "give the run another `output`, or remove the file",
            )
        return _layout(path, file)


def _layout(path: Path, file: h5py.File) -> Layout:
    n, m, tile = (int(file.attrs[key]) for key in ("n", "m", "tile"))
    return Layout(
        path=path,
        id=str(file.attrs["id"]),
        grid=CrossGrid(m, n, tile) if m else TriangleGrid(n, tile),
        dtype=file["tiles"].dtype,
        provenance=json.loads(file.attrs["provenance"]),
        complete=bool(file["complete"][0]),
        tiles_offset=file["tiles"].id.get_offset(),
        checksums_offset=file["checksums"].id.get_offset(),
        complete_offset=file["complete"].id.get_offset(),
    )
