"""What is used where the exact solution is too dear, from the same stored tiles.

Each method takes a regression (rows, targets, ridges) and a budget. All but the committee give
coefficients alpha (n, columns) for the prediction K_*n alpha, zero on rows that they do not use.
"""

from hpcnk.solve.approximations.committee import Opinions, committee
from hpcnk.solve.approximations.experts import block_diagonal
from hpcnk.solve.approximations.inducing import leading_inducing, random_inducing
from hpcnk.solve.approximations.low_rank import nystrom, subset_of_regressors
from hpcnk.solve.approximations.regression import Fit, Regression, corner

__all__ = [
    "Fit",
    "Opinions",
    "Regression",
    "block_diagonal",
    "committee",
    "corner",
    "leading_inducing",
    "nystrom",
    "random_inducing",
    "subset_of_regressors",
]
