"""Sums and gathers of large float64 arrays, in pieces that every MPI library can count."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm.world import Communicator

MAX_BYTES = 1 << 30  # of one message; MPI counts elements in 32 bits


def sum_over_ranks(comm: Communicator, array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add the ranks' float64 arrays of equal shape, in place; all get the sum. Collective."""
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


def _pieces(array: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    if not array.flags.c_contiguous:
        raise ValueError("a reduction in place needs a C-contiguous array")
    flat = array.reshape(-1)
    step = max(1, MAX_BYTES // flat.itemsize)
    return [flat[start : start + step] for start in range(0, flat.size, step)]
