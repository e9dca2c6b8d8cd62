"""Cholesky factors in blocks, against SciPy's own."""

import tracemalloc

import numpy as np
import pytest
import scipy.linalg

from hpcnk.solve import cholesky


def matrix(n):
    a = np.random.default_rng(n).standard_normal((n, n))
    return a @ a.T + 0.1 * np.eye(n)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 16, 50])
def test_the_factor_is_that_of_scipy(n, order, monkeypatch):
    monkeypatch.setattr(cholesky, "BLOCK", 8)
    whole = matrix(n)
    found = np.array(whole, order=order)
    found[np.triu_indices(n, 1)] = 1e9  # is not looked at
    cholesky.factorise(found)
    expected = scipy.linalg.cholesky(whole, lower=True) if n else whole
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert not np.triu(found, 1).any()


@pytest.mark.parametrize("row", [0, 3, 8, 29])
def test_a_matrix_that_is_not_definite(row, monkeypatch):
    monkeypatch.setattr(cholesky, "BLOCK", 8)
    whole = matrix(30)
    whole[row, row] = -1.0
    with pytest.raises(scipy.linalg.LinAlgError):
        cholesky.factorise(whole)


def test_the_memory_beside_the_matrix_is_as_planned(monkeypatch):
    monkeypatch.setattr(cholesky, "BLOCK", 64)
    whole = np.asfortranarray(matrix(1024))
    cholesky.factorise(whole.copy())  # what is imported does not count
    tracemalloc.start()
    try:
        cholesky.factorise(whole)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    block = 1024 * 64 * 8
    assert 1.5 * block < peak < cholesky.WORK * block
