"""How many threads a rank may use without treading on its neighbours."""

from __future__ import annotations

import os

from hpcnk.comm.world import Communicator


def threads_per_rank(comm: Communicator) -> int:
    """Return this rank's share of the cores of its node, at least 1. Collective.

    OMP_NUM_THREADS wins where it is set. Otherwise the cores of the affinity mask are shared by the
    ranks of this node that have the same mask, so bound and unbound ranks come out right alike.
    """
    from mpi4py import MPI

    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    mask = cores()
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    same = local.allgather(mask).count(mask)
    local.Free()
    return int(asked) if asked.isdigit() and int(asked) > 0 else max(1, len(mask) // same)


def cores() -> frozenset[int]:
    """Return the processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))
