"""Solving (K + ridge I) alpha = Y with the tiles spread over the ranks, and predicting with it."""

from hpcnk.solve.conjugate_gradient import Solution, Status, conjugate_gradient
from hpcnk.solve.operator import Restricted, TileOperator, cross_product
from hpcnk.solve.preconditioner import LowRank, identity, pivoted_cholesky

__all__ = [
    "LowRank",
    "Restricted",
    "Solution",
    "Status",
    "TileOperator",
    "conjugate_gradient",
    "cross_product",
    "identity",
    "pivoted_cholesky",
]
