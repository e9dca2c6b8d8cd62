"""Approximations against dense float64 formulas on real digits, on one rank."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from hpcnk.errors import SolveError, UsageError
from hpcnk.solve import RowSet
from hpcnk.solve.approximations import (
    block_diagonal,
    committee,
    leading_inducing,
    nystrom,
    random_inducing,
    subset_of_regressors,
)
from tests.support.approximation_checks import CHECKS, RIDGES, N, agree
from tests.support.dense import Single
from tests.support.regressions import coefficients, dense_exact, digits, operator_on, regression_on

COMM = Single()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small matrices gain nothing from threads, which wait for each other on a busy machine."""
    with threadpool_limits(1):
        yield


LOW_RANK = (nystrom, subset_of_regressors)


def predicted(regression, fit, k_test):
    return [k_test @ alpha for alpha in coefficients(regression, fit)]


@pytest.mark.parametrize("check", CHECKS)
def test_agrees_with_the_dense_formula(check):
    check(COMM)


@pytest.mark.parametrize("method", LOW_RANK)
def test_all_rows_as_inducing_rows_give_the_exact_solution(method):
    k, y, k_test, _ = digits(N)
    regression = regression_on(COMM, k, y, RIDGES)
    found = predicted(regression, method(regression, np.arange(N)), k_test)
    for mine, ridge in zip(found, regression.ridges, strict=True):
        agree(mine, dense_exact(k, k_test, y, ridge), 1e-7)


def test_one_block_gives_the_exact_solution():
    k, y, k_test, prior = digits(N)
    regression = regression_on(COMM, k, y, RIDGES)
    found = predicted(regression, block_diagonal(regression, N), k_test)
    said = committee(regression, N, lambda rows: k_test[:, rows], prior)
    for i, ridge in enumerate(regression.ridges):
        exact = dense_exact(k, k_test, y, ridge)
        agree(found[i], exact, 1e-10)
        agree(said.means[i], exact, 1e-10)
        variances = prior - dense_exact(k, k_test, k_test.T, ridge).diagonal()
        agree(said.variances[i], variances, 1e-9)


def test_without_a_ridge_the_full_rank_interpolates():
    k, y, _, _ = digits(N)
    regression = regression_on(COMM, k, y, (0.0,))
    for method in LOW_RANK:
        fit = method(regression, np.arange(N))
        assert fit.sound == (True,)
        agree(predicted(regression, fit, k)[0], y, 1e-6)
    assert nystrom(regression, np.arange(30)).sound == (False,)  # Q is singular
    assert not nystrom(regression, np.arange(30)).alpha.any()
    assert subset_of_regressors(regression, np.arange(30)).sound == (True,)


@pytest.mark.parametrize("method", LOW_RANK)
def test_equal_inducing_rows_are_taken_once(method):
    """K_mm is singular: a direction is dropped and nothing is made of its rounding."""
    k, y, k_test, _ = digits(N)
    twice = np.arange(N)
    twice[20] = 11
    k, k_test = k[np.ix_(twice, twice)], k_test[:, twice]
    regression = regression_on(COMM, k, y, RIDGES)
    every, others = np.arange(40), np.delete(np.arange(40), 20)
    both = [predicted(regression, method(regression, rows), k_test) for rows in (every, others)]
    for one, other in zip(*both, strict=True):
        agree(one, other, 1e-7)


@pytest.mark.parametrize("method", LOW_RANK)
def test_the_rounding_of_float32_entries_is_not_divided_by(method):
    """With equal rows up to rounding the prediction stays that of float64 to float32's digits."""
    exact, single = digits(N), digits(N, "float32")
    near = np.arange(N)
    near[20:30] = near[10:20]
    found = []
    for k, y, k_test, _ in (exact, single):
        k, k_test = k[np.ix_(near, near)].copy(), k_test[:, near]
        if k.dtype == np.float32:
            noise = np.random.default_rng(0).uniform(-1, 1, k.shape) * 2.0**-24
            k = (k * (1 + np.triu(noise, 1) + np.triu(noise, 1).T)).astype(np.float32)
        regression = regression_on(COMM, k, y, (1e-6,))
        found.append(predicted(regression, method(regression, np.arange(40)), k_test)[0])
    agree(found[1], found[0], 1e-5)  # 2e-2 where directions of rounding are kept


def test_a_ridge_that_is_too_small_is_told_of():
    k, y, k_test, prior = digits(N)
    twice = np.arange(N)
    twice[20] = 11
    k = k[np.ix_(twice, twice)] - 1e-3 * np.eye(N)  # indefinite
    regression = regression_on(COMM, k, y, (0.0, 1e-1))
    fit = block_diagonal(regression, 50)
    said = committee(regression, 50, lambda rows: k_test[:, rows], prior)
    assert fit.sound == said.sound == (False, True)
    assert not coefficients(regression, fit)[0].any()
    assert not said.means[0].any()
    assert np.isfinite(said.means).all()


def test_impossible_budgets_and_kernels_are_refused():
    k, y, _, _ = digits(N)
    rows = RowSet(100, (np.arange(N) < 100) & (np.arange(N) % 2 == 0))
    regression = regression_on(COMM, k, y, (0.1,), rows)
    for method in LOW_RANK:
        with pytest.raises(UsageError, match="from 1 to 100") as caught:
            method(regression, np.arange(101))
        assert caught.value.agreed
    with pytest.raises(UsageError, match="blocks of 101 for a training set of 100"):
        block_diagonal(regression, 101)
    with pytest.raises(UsageError, match="blocks of 0"):
        committee(regression, 0, lambda rows: k[:, rows], np.ones(N))
    broken = k.copy()
    broken[3, 4] = broken[4, 3] = np.nan
    for method in (block_diagonal, lambda r, m: nystrom(r, np.arange(m))):
        with pytest.raises(SolveError, match="not finite"):
            method(regression_on(COMM, broken, y, (0.1,)), 20)


def test_random_inducing_rows_end_with_the_rank():
    """Of rows that are all copies of twelve, at most twelve are taken."""
    k, _, _, _ = digits(N)
    copies = np.arange(N) % 12
    operator = operator_on(COMM, k[np.ix_(copies, copies)])
    found = random_inducing(operator, np.ones(N, bool), 50, 0)
    assert len(found) == 12
    assert set(copies[found]) == set(range(12))


def test_leading_inducing_rows():
    assert leading_inducing(np.array([False, True, True, False, True]), 2).tolist() == [1, 2]
