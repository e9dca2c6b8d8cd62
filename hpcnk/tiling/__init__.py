"""Grids of tiles and who owns them: pure functions of (rows, tile, size, rank), without MPI."""

from hpcnk.tiling.grid import CrossGrid, Grid, Tile, TriangleGrid
from hpcnk.tiling.ownership import deal, share, share_blocks

__all__ = ["CrossGrid", "Grid", "Tile", "TriangleGrid", "deal", "share", "share_blocks"]
