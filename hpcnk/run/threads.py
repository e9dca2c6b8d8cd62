"""How many threads a rank may use without treading on its neighbours."""

from __future__ import annotations

from hpcnk.comm import Communicator, ranks_on_cores
from hpcnk.engine import asked_threads, usable_cores


def threads_per_rank(comm: Communicator) -> int:
    """Return OMP_NUM_THREADS, or this rank's even share of the cores it may use. Collective.

    At least 1, and never more than those cores: BLAS threads that take turns on one core, where a
    launcher has bound the rank, make a solve many times slower. Raises UsageError if
    OMP_NUM_THREADS is no number.
    """
    cores = usable_cores()
    sharing = ranks_on_cores(comm, cores)
    return min(asked_threads() or max(1, len(cores) // sharing), len(cores))
