"""Low-rank preconditioners against dense algebra, and the choice of their pivots and rank."""

from functools import partial
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from hpcnk.comm import FixedPointSums
from hpcnk.errors import BackendError
from hpcnk.run.plan.rates import PRODUCTS, product_seconds
from hpcnk.run.rank_choice import RankChoice, Work, largest_rank
from hpcnk.solve import (
    CompiledProducts,
    Factor,
    Greedy,
    Limits,
    LowRank,
    Matrix,
    PlainProducts,
    Progress,
    Random,
    all_rows,
    conjugate_gradient,
    leading_rows,
    nystrom,
    pivoted_cholesky,
)
from hpcnk.solve.cores import Core
from tests.support.dense import SUMS, DenseOperator, Single, kernel_matrix, systems

N = 300
PLAIN = PlainProducts()
MAKERS = {
    "greedy": lambda operator, rank: pivoted_cholesky(operator, rank, Greedy()),
    "random": lambda operator, rank: pivoted_cholesky(operator, rank, Random(3)),
    "nystrom": lambda operator, rank: nystrom(operator, rank, 3),
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def left_of(k, factor):
    """The trace of k that a factor leaves."""
    return np.trace(k) - (factor.rows**2).sum()


def best_left(k, rank):
    return np.linalg.eigvalsh(k)[: len(k) - rank].sum()


def dense_of(factor, row_set, matrix):
    """The matrix whose inverse a preconditioner is."""
    l = factor.rows[row_set.keep]  # noqa: E741
    return l @ l.T + (matrix.ridge + factor.left) * np.eye(len(l))


@pytest.mark.parametrize(
    "products", (PlainProducts, partial(CompiledProducts, 1), partial(CompiledProducts, 2))
)
def test_it_is_the_inverse_on_each_row_set(make, products):
    """Nested sets, one of which another contains, and masks that overlap."""
    try:
        products = products()
    except BackendError as error:
        pytest.skip(error.what)
    operator = DenseOperator(kernel_matrix(N))
    mask = np.random.default_rng(0).random(N) < 0.7
    sets = [
        leading_rows(N, 100),
        all_rows(N),
        leading_rows(N, 250, mask),
        leading_rows(N, 90, ~mask),
    ]
    matrices = [Matrix(s, ridge) for s in range(4) for ridge in (0.0, 1e-3, 1.0)]
    factor = make(operator, 40)
    precondition = LowRank(operator.spread, SUMS, factor, sets, matrices, products)
    b = np.random.default_rng(1).normal(size=(N, 3))
    parts = [(m, np.where(sets[m.rows].keep[:, None], b, 0.0)) for m in matrices]
    for (matrix, right), found in zip(parts, precondition(parts), strict=True):
        row_set = sets[matrix.rows]
        dense = dense_of(factor, row_set, matrix)
        np.testing.assert_allclose(dense @ found[row_set.keep], right[row_set.keep], atol=1e-7)
        assert not found[~row_set.keep].any()
        assert precondition.log_determinant(matrix) == pytest.approx(
            np.linalg.slogdet(dense)[1], abs=1e-6
        )
        np.testing.assert_allclose(
            precondition.inverse_diagonal(matrix)[row_set.keep],
            np.linalg.inv(dense).diagonal(),
            rtol=1e-6,
        )


def test_sums_in_fixed_point_give_the_same():
    operator = DenseOperator(kernel_matrix(N))
    factor, sets, matrices = MAKERS["random"](operator, 30), [all_rows(N)], [Matrix(0, 1e-2)]
    part = [(matrices[0], np.random.default_rng(1).normal(size=(N, 2)))]
    found = [
        LowRank(operator.spread, sums, factor, sets, matrices, PLAIN)(part)[0]
        for sums in (SUMS, FixedPointSums(Single()))
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-8, atol=1e-8)


def test_factors_explain_nearly_as_much_as_the_best(make):
    k = kernel_matrix(N)
    factor = make(DenseOperator(k), 40)
    assert factor.rank == 40
    assert left_of(k, factor) < 6 * best_left(k, 40)
    assert factor.left == pytest.approx(left_of(k, factor) / N, rel=1e-6)
    assert factor.share == pytest.approx(1 - left_of(k, factor) / np.trace(k), rel=1e-6)


def test_a_full_factor_is_the_kernel(make):
    k = kernel_matrix(60) + 0.1 * np.eye(60)
    factor = make(DenseOperator(k), 100)
    assert factor.rank == 60
    np.testing.assert_allclose(factor.rows @ factor.rows.T, k, atol=1e-9)


def test_greedy_is_as_good_as_one_by_one():
    k = kernel_matrix(N)
    rest = k.copy()
    for _ in range(40):
        pivot = rest.diagonal().argmax()
        rest -= np.outer(rest[pivot], rest[pivot]) / rest[pivot, pivot]
    assert left_of(k, MAKERS["greedy"](DenseOperator(k), 40)) < 1.1 * np.trace(rest)


class Fixed(Random):
    """Draws a given number of candidates whatever is asked for."""

    def __init__(self, seed, count):
        super().__init__(seed)
        self._count = count

    def propose(self, left, count):
        return super().propose(left, self._count)


def pivots_of(factor, k):
    """The order of the pivots: a pivot's row of L has nothing behind its own column."""
    rest, order = k.copy(), []
    for column in factor.rows.T:
        pivot = int(
            np.argmin(
                np.abs(rest / np.sqrt(rest.diagonal().clip(1e-12)) - column[:, None]).max(axis=0)
            )
        )
        order.append(pivot)
        rest = rest - np.outer(column, column)
    return tuple(order)


def one_by_one(k, order):
    """The probability of these pivots when they are drawn one by one."""
    rest, chance = k.copy(), 1.0
    for pivot in order:
        chance *= rest[pivot, pivot] / np.trace(rest)
        rest -= np.outer(rest[pivot], rest[pivot]) / rest[pivot, pivot]
    return chance


def test_random_pivots_have_the_distribution_of_those_drawn_one_by_one():
    """The candidates come in blocks of six of four rows, so most are drawn again or rejected."""
    root = np.array([[1.0, 0, 0], [0.9, 0.5, 0], [0.2, 0.8, 0.6], [0.1, 0.1, 1.2]])
    k = root @ root.T + 0.05 * np.eye(4)
    orders = list(permutations(range(4), 2))
    counts = dict.fromkeys(orders, 0)
    draws = 6000
    for seed in range(draws):
        counts[pivots_of(pivoted_cholesky(DenseOperator(k), 2, Fixed(seed, 6)), k)] += 1
    expected = [draws * one_by_one(k, order) for order in orders]
    assert min(expected) > 5
    assert chisquare(list(counts.values()), expected).pvalue > 1e-3


def test_a_rejected_candidate_may_be_accepted_when_drawn_again():
    pivoting = Random(0)
    block = np.array([[1.0, 0.99], [0.99, 1.0]])
    again = [len(pivoting.choose(block, np.array([0] + [1] * 200), 0.0)[0]) for _ in range(50)]
    assert np.mean(again) > 1.8  # 2 % of each of 200 trials are accepted


def test_leading_columns_do_not_depend_on_the_rank(make):
    """A resumed solve makes the factor again with the rank that was found."""
    if make is MAKERS["nystrom"]:
        pytest.skip("its vectors are mixed by the eigenvectors")
    operator = DenseOperator(kernel_matrix(N))
    many = make(operator, 90).rows
    for rank in (1, 17, 60):
        np.testing.assert_array_equal(make(operator, rank).rows, many[:, :rank])


def test_nystrom_does_not_depend_on_how_many_go_through_at_once():
    operator = DenseOperator(kernel_matrix(N))
    one, other = (nystrom(operator, 70, 0, most=most) for most in (32, 128))
    np.testing.assert_allclose(one.rows @ one.rows.T, other.rows @ other.rows.T, atol=1e-9)
    assert (np.diff((one.rows**2).sum(axis=0)) <= 1e-12).all()


def low_rank_kernel(n, rank):
    x = np.random.default_rng(0).normal(size=(n, rank))
    return x @ x.T


def noisy(n):
    """A smooth kernel in float32, which is not definite to rounding, with rows that are equal."""
    x = np.random.default_rng(0).normal(size=(n, 1))
    x[n // 2 :] = x[: n - n // 2]
    return np.exp(-((x - x.T) ** 2) / 50).astype(np.float32).astype(float)


HARD = {
    "low rank": low_rank_kernel(120, 7),
    "float32": noisy(120),
    "equal rows": np.kron(kernel_matrix(60), np.ones((2, 2))),
    "constant": np.ones((120, 120)),
    "zero": np.zeros((120, 120)),
    "indefinite": np.random.default_rng(0).normal(size=(120, 120)),
    "tiny": 1e-200 * kernel_matrix(120),
}


@pytest.mark.parametrize("ridge", [0.0, 1e-300, 1e-14, 1e-2])
@pytest.mark.parametrize("name", HARD)
def test_it_is_finite_and_positive_whatever_comes(make, name, ridge):
    k = (HARD[name] + HARD[name].T) / 2
    operator, matrix = DenseOperator(k), Matrix(0, ridge)
    factor = make(operator, 200)
    assert factor.rank <= 120
    precondition = LowRank(operator.spread, SUMS, factor, [all_rows(120)], [matrix], PLAIN)
    b = np.random.default_rng(0).normal(size=(120, 4))
    (found,) = precondition([(matrix, b)])
    assert np.isfinite(found).all()
    assert (np.einsum("nc,nc->c", b, found) > 0).all()
    assert np.isfinite(precondition.log_determinant(matrix))


def test_a_factor_of_noise_does_not_grow():
    """Where what is left is rounding, columns would be much longer than the diagonal allows."""
    k = noisy(400)
    for name in ("greedy", "random"):
        factor = MAKERS[name](DenseOperator(k), 400)
        assert (factor.rows**2).sum(axis=1).max() < 1 + 1e-4
        assert factor.share > 0.9999


@pytest.mark.parametrize("name", ["greedy", "random"])
def test_errors_larger_than_the_diagonal_make_no_columns(name):
    noise = np.random.default_rng(0).normal(size=(50, 50))
    k = 1e-3 * (noise + noise.T) * (1 - np.eye(50)) + 1e-6 * np.eye(50)
    factor = MAKERS[name](DenseOperator(k), 20)
    assert (factor.rows**2).sum(axis=1).max(initial=0.0) <= 2e-6


def test_cores_survive_dependent_columns():
    gram = np.ones((50, 50))
    solved = Core(gram - 1e-15 * np.eye(50), 0.0).solve(np.ones((50, 1)))
    np.testing.assert_allclose(gram @ solved, 1, rtol=1e-3)


def test_it_saves_passes(make):
    k, y = kernel_matrix(N), np.random.default_rng(0).normal(size=(N, 3))
    problem, operator = systems(y, [1e-4]), DenseOperator(k)
    precondition = LowRank(
        operator.spread, SUMS, make(operator, 60), problem.row_sets, problem.matrices, PLAIN
    )
    passes = [
        conjugate_gradient(operator, problem, p, Limits(1e-8, 2000)).passes
        for p in (lambda parts: [r.copy() for _, r in parts], precondition)
    ]
    assert passes[1] < passes[0] / 4


def test_the_shift_follows_what_is_left():
    """A ridge far below the kernel's own smallest eigenvalues must not set the scale."""
    k = kernel_matrix(N) + 0.05 * np.eye(N)
    y, operator = np.random.default_rng(0).normal(size=(N, 1)), DenseOperator(k)
    factor = MAKERS["greedy"](operator, 60)
    problem = systems(y, [1e-9])
    passes = []
    for left in (factor.left, 1e-12):
        low = LowRank(
            operator.spread,
            SUMS,
            Factor(factor.rows, left),
            problem.row_sets,
            problem.matrices,
            PLAIN,
        )
        passes.append(conjugate_gradient(operator, problem, low, Limits(1e-8, 2000)).passes)
    assert passes[0] <= passes[1] / 2


def test_nothing_is_concluded_from_the_first_columns():
    enough = RankChoice(work(8000, 1.0))
    assert [enough(Progress(rank, 1e-9, 1e-9, 1e-9)) for rank in (1, 2, 4, 8, 16, 32)] == [
        *[False] * 5,
        True,
    ]


def work(n, ridge, columns=10):
    seconds = lambda c: n**2 / 2 * product_seconds(PRODUCTS["float32"].triangle, c)  # noqa: E731
    return Work(n, [all_rows(n)], [Matrix(0, ridge)] * columns, 1e-8, 1000, seconds)


def chosen(n, ridge, power):
    """The rank for a kernel of mean diagonal 1 whose eigenvalues fall with this power."""
    enough = RankChoice(work(n, ridge))
    ranks = [2**i for i in range(7)] + list(range(128, n // 4, 64))
    for rank in ranks:
        left = n * float(rank) ** -power
        if enough(Progress(rank, left / n, left / n, left)):
            return rank
    return n // 4


def test_auto_wants_more_columns_where_they_pay():
    assert chosen(8000, 1e-2, 2.0) < chosen(8000, 1e-6, 2.0)
    assert chosen(8000, 1e-6, 0.02) <= 64  # nothing is gained by columns of a flat spectrum
    assert chosen(8000, 1.0, 3.0) <= 128  # few passes are needed anyway


def test_the_largest_rank_fits_into_the_memory():
    assert largest_rank(1000, 1000, 1, 1) == 250
    rank = largest_rank(10**6, 10**5, 2, 4, memory=1e9)
    assert 8 * rank * 10**5 + 8 * 9 * rank**2 <= 1e9 < 8 * (rank + 1) * 10**5 + 72 * (rank + 1) ** 2
    assert largest_rank(10**6, 10**6, 1, 1, memory=1.0) == 1
