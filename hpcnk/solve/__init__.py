"""Solving (K + ridge I) alpha = Y with the tiles spread over the ranks, and predicting with it."""

from hpcnk.solve.conjugate_gradient import (
    Limits,
    Snapshot,
    Solution,
    Status,
    Systems,
    conjugate_gradient,
)
from hpcnk.solve.operator import Restricted, TileOperator, cross_product
from hpcnk.solve.preconditioner import LowRank, identity, pivoted_cholesky
from hpcnk.solve.snapshot import misfit_of_snapshot

__all__ = [
    "Limits",
    "LowRank",
    "Restricted",
    "Snapshot",
    "Solution",
    "Status",
    "Systems",
    "TileOperator",
    "conjugate_gradient",
    "cross_product",
    "identity",
    "misfit_of_snapshot",
    "pivoted_cholesky",
]
