"""Approximations against dense float64 formulas, with tiles and rows on several ranks."""

import pytest

from tests.support.approximation_checks import CHECKS

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("check", CHECKS)
def test_agrees_with_the_dense_formula(comm, check):
    if comm.size not in (1, 3):
        pytest.skip("1 and 3 ranks show it")
    check(comm)
