"""Low-rank factors from several ranks: the same bits as from one, and right for any spread."""

import numpy as np
import pytest

from hpcnk.comm import FixedPointSums, FloatSums
from hpcnk.solve import (
    Greedy,
    LowRank,
    Matrix,
    PlainProducts,
    Random,
    all_rows,
    leading_rows,
    nystrom,
    pivoted_cholesky,
)
from hpcnk.tiling import TriangleGrid, deal
from tests.support.dense import Single, kernel_matrix, tile_operator

pytestmark = pytest.mark.mpi

N, RANK = 700, 50
MAKERS = {
    "greedy": lambda operator: pivoted_cholesky(operator, RANK, Greedy()),
    "random": lambda operator: pivoted_cholesky(operator, RANK, Random(1)),
    "nystrom": lambda operator: nystrom(operator, RANK, 1),
}
GRID = TriangleGrid(N, 100)
SETS = [all_rows(N), leading_rows(N, 300), leading_rows(N, 700, np.arange(N) % 3 > 0)]
MATRICES = [Matrix(number, ridge) for number in range(3) for ridge in (1e-4, 1e-1)]


def found(make, sums):
    """The factor, what the preconditioner makes of some vectors, and what it says of itself."""
    comm = sums.comm
    operator = tile_operator(sums, kernel_matrix(N), GRID, deal(GRID, comm.size, comm.rank))
    spread, factor = operator.spread, make(operator)
    precondition = LowRank(spread, sums, factor, SETS, MATRICES, PlainProducts())
    b = np.random.default_rng(0).normal(size=(N, 2))[spread.mine]
    kept = [SETS[matrix.rows].keep[spread.mine, None] for matrix in MATRICES]
    parts = [(matrix, np.where(keep, b, 0.0)) for matrix, keep in zip(MATRICES, kept, strict=True)]
    results = [spread.whole(part) for part in precondition(parts)]
    determinants = [precondition.log_determinant(matrix) for matrix in MATRICES]
    return [spread.whole(np.ascontiguousarray(factor.rows)), *results, np.array(determinants)]


@pytest.mark.parametrize("name", MAKERS)
def test_any_number_of_ranks_gives_the_same_bits(comm, name):
    here = found(MAKERS[name], FixedPointSums(comm))
    alone = found(MAKERS[name], FixedPointSums(Single()))
    for one, other in zip(here, alone, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", MAKERS)
def test_any_number_of_ranks_gives_the_same_but_for_rounding(comm, name):
    here = found(MAKERS[name], FloatSums(comm))
    alone = found(MAKERS[name], FloatSums(Single()))
    products = [factor @ factor.T for factor in (here[0], alone[0])]
    np.testing.assert_allclose(*products, atol=1e-9)
    for one, other in zip(here[1:], alone[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())
