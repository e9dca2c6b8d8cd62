"""Solving (K + ridge I) alpha = Y with the tiles spread over the ranks, and predicting with it."""

from hpcnk.solve.conjugate_gradient import Snapshot, Systems, conjugate_gradient
from hpcnk.solve.dense import dense_inverse_diagonals, dense_log_determinants, dense_solution
from hpcnk.solve.determinant import LogDeterminants, Quadrature, log_determinants
from hpcnk.solve.evidence import Evidence, evidence, fits
from hpcnk.solve.leave_one_out import Estimate, InverseDiagonals, inverse_diagonals, left_out
from hpcnk.solve.matrices import Matrix, RowSet, all_rows, leading_rows
from hpcnk.solve.nearby import Diagonal, Nearby
from hpcnk.solve.nystrom import nystrom
from hpcnk.solve.operator import Operator, TileOperator, cross_product
from hpcnk.solve.partial_cholesky import Progress, pivoted_cholesky
from hpcnk.solve.pivots import Greedy, Random
from hpcnk.solve.precondition import Factor, LowRank, Precondition, identity
from hpcnk.solve.problem import Limits, Problem, Solution, Status
from hpcnk.solve.products import (
    CompiledProducts,
    PlainProducts,
    Products,
    built_products,
    make_products,
)
from hpcnk.solve.snapshot import misfit_of_snapshot
from hpcnk.solve.spread import Spread
from hpcnk.solve.tiles import ResidentTiles, TileSource
from hpcnk.solve.variance import Variances, rows_of_tiles, variances

__all__ = [
    "CompiledProducts",
    "Diagonal",
    "Estimate",
    "Evidence",
    "Factor",
    "Greedy",
    "InverseDiagonals",
    "Limits",
    "LogDeterminants",
    "LowRank",
    "Matrix",
    "Nearby",
    "Operator",
    "PlainProducts",
    "Precondition",
    "Problem",
    "Products",
    "Progress",
    "Quadrature",
    "Random",
    "ResidentTiles",
    "RowSet",
    "Snapshot",
    "Solution",
    "Spread",
    "Status",
    "Systems",
    "TileOperator",
    "TileSource",
    "Variances",
    "all_rows",
    "built_products",
    "conjugate_gradient",
    "cross_product",
    "dense_inverse_diagonals",
    "dense_log_determinants",
    "dense_solution",
    "evidence",
    "fits",
    "identity",
    "inverse_diagonals",
    "leading_rows",
    "left_out",
    "log_determinants",
    "make_products",
    "misfit_of_snapshot",
    "nystrom",
    "pivoted_cholesky",
    "rows_of_tiles",
    "variances",
]
