"""Sums and gathers of large arrays, in pieces that every MPI library can count."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm.world import Communicator

MAX_BYTES = 1 << 30  # of one message; MPI counts elements in 32 bits


def sum_over_ranks(comm: Communicator, array: NDArray[Any]) -> NDArray[Any]:
    """Add the ranks' arrays of equal shape and dtype, in place; all get the sum. Collective."""
    if comm.size > 1:
        from mpi4py import MPI

        for piece in _pieces(array):
            comm.Allreduce(MPI.IN_PLACE, piece)
    return array


def assemble_rows(
    comm: Communicator, mine: NDArray[np.float64], rows: slice, n: int
) -> NDArray[np.float64]:
    """Put the ranks' contiguous row blocks together to n rows; all get the whole. Collective.

    `mine` has shape (rows, columns). The blocks must cover 0 .. n - 1 without overlap.
    """
    whole = np.zeros((n, mine.shape[1]))
    whole[rows] = mine
    return sum_over_ranks(comm, whole)


def broadcast(comm: Communicator, array: NDArray[Any] | None) -> NDArray[Any]:
    """Return rank 0's array on all ranks, of any dtype of numbers. Collective.

    Sent as raw bytes: pickled, as mpi4py would send it, an array may have 2^31 bytes at most.
    """
    mine = None if array is None else np.ascontiguousarray(array)
    shape, dtype = comm.bcast(None if mine is None else (mine.shape, mine.dtype.str), root=0)
    whole = np.empty(shape, dtype) if mine is None or comm.rank else mine
    for piece in _pieces(whole.reshape(-1).view(np.uint8)):
        comm.Bcast(piece, root=0)
    return whole


def _pieces(array: NDArray[Any]) -> list[NDArray[Any]]:
    if not array.flags.c_contiguous:
        raise ValueError("a reduction in place needs a C-contiguous array")
    flat = array.reshape(-1)
    step = max(1, MAX_BYTES // flat.itemsize)
    return [flat[start : start + step] for start in range(0, flat.size, step)]
