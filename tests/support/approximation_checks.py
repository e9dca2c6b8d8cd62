"""What holds of the approximations on any number of ranks; called with a communicator."""

import numpy as np

from hpcnk.solve import RowSet
from hpcnk.solve.approximations import (
    block_diagonal,
    committee,
    leading_inducing,
    nystrom,
    random_inducing,
    subset_of_regressors,
)
from tests.support.regressions import (
    coefficients,
    cut,
    dense_blocks,
    dense_committee,
    dense_nystrom,
    dense_regressors,
    digits,
    regression_on,
)

N, SIZE = 301, 263  # odd; the ranks' blocks of rows have 256
RIDGES = (1e-1, 1e-3, 1e-6)
BUDGET = 37


def some_rows():
    """The leading rows of a smaller training set, less every seventh."""
    return RowSet(SIZE, (np.arange(N) < SIZE) & (np.arange(N) % 7 != 3))


def setting(comm):
    """The regression, the rows it has, and the dense matrices on these rows."""
    k, y, k_test, prior = digits(N)
    rows = some_rows()
    kept = np.flatnonzero(rows.keep)
    dense = (k[np.ix_(kept, kept)], k_test[:, kept], y[kept])
    return regression_on(comm, k, y, RIDGES, rows), kept, dense, prior


def agree(found, expected, tolerance):
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def check_low_rank(comm, method, formula, inducing_of):
    regression, kept, (k, k_test, y), _ = setting(comm)
    inducing = inducing_of(regression.operator, regression.rows.keep)
    fit = method(regression, inducing)
    alpha = coefficients(regression, fit)
    outside = np.setdiff1d(np.arange(N), inducing if formula is dense_regressors else kept)
    assert fit.sound == (True,) * len(RIDGES)
    assert not alpha[:, outside].any()
    places = np.searchsorted(kept, inducing)
    assert (kept[places] == inducing).all()
    for found, ridge in zip(alpha, regression.ridges, strict=True):
        # The formula itself squares K_mn, whose condition is 1e4 here: it is the less exact one.
        agree(digits(N)[2] @ found, formula(k, k_test, y, ridge, places), 1e-7)


def check_nystrom(comm):
    check_low_rank(comm, nystrom, dense_nystrom, lambda _, keep: leading_inducing(keep, BUDGET))


def check_regressors(comm):
    check_low_rank(
        comm, subset_of_regressors, dense_regressors, lambda _, keep: leading_inducing(keep, BUDGET)
    )


def check_random_inducing(comm):
    def drawn(operator, keep):
        rows = random_inducing(operator, keep, BUDGET, 5)
        assert len(rows) == BUDGET
        assert len(set(rows.tolist())) == BUDGET
        assert keep[rows].all()
        assert (np.diff(rows) > 0).all()
        assert (rows != leading_inducing(keep, BUDGET)).any()
        return rows

    check_low_rank(comm, nystrom, dense_nystrom, drawn)


def check_block_diagonal(comm):
    regression, kept, (k, k_test, y), _ = setting(comm)
    fit = block_diagonal(regression, BUDGET)
    assert fit.sound == (True,) * len(RIDGES)
    places = [np.searchsorted(kept, block) for block in cut(kept, BUDGET)]
    assert len(places) == 8
    for found, ridge in zip(coefficients(regression, fit), regression.ridges, strict=True):
        agree(digits(N)[2] @ found, dense_blocks(k, k_test, y, ridge, places), 1e-10)


def check_committee(comm):
    regression, kept, (k, k_test, y), prior = setting(comm)
    whole = digits(N)[2]
    said = committee(regression, BUDGET, lambda rows: whole[:, rows], prior)
    places = [np.searchsorted(kept, block) for block in cut(kept, BUDGET)]
    assert said.sound == (True,) * len(RIDGES)
    for i, ridge in enumerate(regression.ridges):
        means, variances = dense_committee(k, k_test, y, ridge, places, prior)
        agree(said.means[i], means, 1e-9)
        agree(said.variances[i], variances, 1e-9)


CHECKS = (
    check_nystrom,
    check_regressors,
    check_random_inducing,
    check_block_diagonal,
    check_committee,
)
