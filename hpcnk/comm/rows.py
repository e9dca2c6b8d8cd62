"""Matrices whose rows are spread over the ranks: put together, summed, sent out, in pieces.

`blocks` lists the rows of every rank, contiguous and in order. A piece has some of the columns, so
that no message is larger than MPI counts, and no buffer much larger than a message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import reduce
from hpcnk.comm.world import Communicator

Array = NDArray[np.float64]


def gather_rows(comm: Communicator, mine: Array, blocks: Sequence[slice]) -> Array:
    """Return all ranks' rows, (n, columns), on all ranks. Collective."""
    if comm.size == 1:
        return mine
    whole = np.empty((blocks[-1].stop, mine.shape[1]))
    for columns, counts in _pieces(whole.shape, blocks):
        piece = whole if columns is None else np.empty((len(whole), _width(columns)))
        part = mine if columns is None else mine[:, columns]
        comm.Allgatherv(np.ascontiguousarray(part), [piece, counts])
        if columns is not None:
            whole[:, columns] = piece
    return whole


def share_sum(comm: Communicator, whole: NDArray, blocks: Sequence[slice]) -> NDArray:
    """Add the ranks' matrices (n, columns) and return this rank's rows of the sum. Collective.

    Of float64 or int64.
    """
    if comm.size == 1:
        return whole
    rows = blocks[comm.rank]
    mine = np.empty((rows.stop - rows.start, whole.shape[1]), whole.dtype)
    for columns, counts in _pieces(whole.shape, blocks):
        piece = whole if columns is None else np.ascontiguousarray(whole[:, columns])
        part = mine if columns is None else np.empty((len(mine), _width(columns)), whole.dtype)
        comm.Reduce_scatter(piece, part, counts)
        if columns is not None:
            mine[:, columns] = part
    return mine


def rows_to_root(comm: Communicator, mine: Array, blocks: Sequence[slice]) -> Array | None:
    """Return all ranks' rows on rank 0, None elsewhere. Collective."""
    if comm.size == 1:
        return mine
    whole = np.empty((blocks[-1].stop, mine.shape[1])) if comm.rank == 0 else None
    for columns, counts in _pieces((blocks[-1].stop, mine.shape[1]), blocks):
        chosen = slice(None) if columns is None else columns
        part = np.ascontiguousarray(mine[:, chosen])
        piece = None if whole is None else np.empty((len(whole), part.shape[1]))
        comm.Gatherv(part, None if piece is None else [piece, counts], root=0)
        if whole is not None:
            whole[:, chosen] = piece
    return whole


def rows_from_root(
    comm: Communicator, whole: Array | None, columns: int, blocks: Sequence[slice]
) -> Array:
    """Return this rank's rows of rank 0's matrix, (n, columns). Collective."""
    rows = blocks[comm.rank]
    if whole is not None and comm.size == 1:
        return whole
    mine = np.empty((rows.stop - rows.start, columns))
    for chosen, counts in _pieces((blocks[-1].stop, columns), blocks):
        some = slice(None) if chosen is None else chosen
        part = np.empty_like(mine[:, some], order="C")
        piece = None if whole is None else np.ascontiguousarray(whole[:, some])
        comm.Scatterv(None if piece is None else [piece, counts], part, root=0)
        mine[:, some] = part
    return mine


def _pieces(
    shape: tuple[int, int], blocks: Sequence[slice]
) -> Iterator[tuple[slice | None, list[int]]]:
    """Cut the columns; give them (None: all in one) and the numbers that each rank has of them."""
    n, columns = shape
    most = max(1, reduce.MAX_BYTES // (8 * max(1, n)))
    for start in range(0, columns, most):
        stop = min(columns, start + most)
        counts = [(rows.stop - rows.start) * (stop - start) for rows in blocks]
        yield (None if stop - start == columns else slice(start, stop)), counts


def _width(columns: slice) -> int:
    return int(columns.stop - columns.start)
