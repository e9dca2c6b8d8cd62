"""Which ranks share a node's cores and memory."""

from __future__ import annotations

from hpcnk.comm.world import Communicator


def place_on_host(comm: Communicator) -> tuple[int, int]:
    """Return this rank's number among the ranks of its node, and how many they are. Collective."""
    from mpi4py import MPI

    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    place = int(local.Get_rank()), int(local.Get_size())
    local.Free()
    return place


def ranks_on_cores(comm: Communicator, cores: frozenset[int]) -> int:
    """Return how many ranks of this node, this one included, may use just these cores. Collective.

    Launchers bind a rank to cores of its own, or all ranks of a node share them all.
    """
    from mpi4py import MPI

    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    same = local.allgather(cores).count(cores)
    local.Free()
    return same
