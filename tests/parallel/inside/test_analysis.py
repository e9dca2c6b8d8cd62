"""Variances, leave-one-out and evidence on several ranks: right, and the bits of one rank."""

import numpy as np
import pytest

from hpcnk.comm import FixedPointSums, FloatSums, share_sum
from hpcnk.solve import (
    Estimate,
    Limits,
    Quadrature,
    dense_inverse_diagonals,
    dense_log_determinants,
    inverse_diagonals,
    log_determinants,
    rows_of_tiles,
    variances,
)
from hpcnk.tiling import CrossGrid, deal
from tests.support.dense import Single, tiles_of
from tests.support.small_gp import dense, digits, matrices, nearby_of, operator_of, row_sets

pytestmark = pytest.mark.mpi

N, M = 520, 6  # three blocks of rows, so none for a fourth rank
RIDGES = (1e-1, 1e-2)
GRID = CrossGrid(M, N, 64)
EPS = np.finfo(float).eps


def analysed(sums, rank, tolerance, vectors, width):
    """All results, whole, in the order of the matrices."""
    comm, limits = sums.comm, Limits(tolerance, 1000)
    k, cross, prior, _ = digits(N, M)
    sets = row_sets(N)
    wanted = matrices(sets, RIDGES)
    operator = operator_of(sums, k, tile=130)
    spread = operator.spread
    parts = (wanted, sets, nearby_of(operator, sets, wanted, rank))
    tiles = tiles_of(cross, GRID, deal(GRID, comm.size, comm.rank))
    columns = share_sum(comm, rows_of_tiles(N, tiles, slice(0, M)), spread.blocks)
    np.testing.assert_array_equal(columns, cross.T[spread.mine])
    variance = variances(operator, columns, prior, *parts, limits, EPS)
    diagonal = inverse_diagonals(operator, *parts, Estimate(vectors, 0, limits, width))
    determinant = log_determinants(operator, *parts, Quadrature(vectors, 0, 200, 1e-6, width))
    samples = np.array([determinant.of(matrix) for matrix in wanted])
    whole = spread.whole(diagonal.values)
    return variance.values, whole, diagonal.relative_error, samples


@pytest.mark.parametrize("rank, tolerance", [(0, 0.1), (30, 1e-3)])
def test_any_number_of_ranks_has_the_same_bits(comm, rank, tolerance):
    several, one = (analysed(FixedPointSums(c), rank, tolerance, 3, 12) for c in (comm, Single()))
    for found, expected in zip(several, one, strict=True):
        assert found.tobytes() == expected.tobytes()


def test_sums_in_any_order_are_as_right(comm):
    values, diagonals, errors, samples = analysed(FloatSums(comm), 30, 1e-9, 8, 100)
    k, cross, prior, _ = digits(N, M)
    sets = row_sets(N)
    for i, matrix in enumerate(matrices(sets, RIDGES)):
        keep, a = dense(k, sets, matrix)
        inverse = np.linalg.inv(a)
        exact = prior - np.einsum("mi,ij,mj->m", cross[:, keep], inverse, cross[:, keep])
        np.testing.assert_allclose(values[i], exact, rtol=1e-6)
        relative = diagonals[keep, i] / inverse.diagonal() - 1
        assert np.sqrt((relative**2).mean()) == pytest.approx(errors[i], rel=0.3)
        standard_error = samples[i].std(ddof=1) / np.sqrt(8)
        assert abs(samples[i].mean() + np.linalg.slogdet(inverse)[1]) < 4 * standard_error


def test_every_rank_has_the_dense_results(comm):
    k, _, _, _ = digits(N, M)
    sets = row_sets(N)
    wanted = matrices(sets, RIDGES)
    operator = operator_of(FloatSums(comm), k, tile=130)
    diagonals = operator.spread.whole(dense_inverse_diagonals(operator, wanted, sets).values)
    determinant = dense_log_determinants(operator, wanted, sets)
    for i, matrix in enumerate(wanted):
        keep, a = dense(k, sets, matrix)
        np.testing.assert_allclose(diagonals[keep, i], np.linalg.inv(a).diagonal(), rtol=1e-8)
        np.testing.assert_allclose(determinant.of(matrix), np.linalg.slogdet(a)[1], rtol=1e-10)
