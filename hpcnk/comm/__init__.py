"""MPI: the world, agreed errors, reductions in pieces, the share of a node. Only here is mpi4py.

Importing this package does not start MPI; `world()` does.
"""

from hpcnk.comm.agree import agreement, any_rank, on_root, wait_for_all
from hpcnk.comm.launcher import Launcher, launcher
from hpcnk.comm.node import place_on_host, ranks_on_cores
from hpcnk.comm.reduce import assemble_rows, broadcast, sum_over_ranks
from hpcnk.comm.rows import gather_rows, rows_from_root, rows_to_root, share_sum
from hpcnk.comm.sums import FixedPointSums, FloatSums, Sum, Sums
from hpcnk.comm.world import Communicator, abort, active, library_version, world

__all__ = [
    "Communicator",
    "FixedPointSums",
    "FloatSums",
    "Launcher",
    "Sum",
    "Sums",
    "abort",
    "active",
    "agreement",
    "any_rank",
    "assemble_rows",
    "broadcast",
    "gather_rows",
    "launcher",
    "library_version",
    "on_root",
    "place_on_host",
    "ranks_on_cores",
    "rows_from_root",
    "rows_to_root",
    "share_sum",
    "sum_over_ranks",
    "wait_for_all",
    "world",
]
