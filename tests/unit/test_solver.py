"""The solver on one rank, against dense float64 algebra."""

import numpy as np
import pytest
from scipy.linalg import solve as dense_solve

from hpcnk.comm import FixedPointSums
from hpcnk.errors import SolveError
from hpcnk.solve import (
    Limits,
    Restricted,
    Status,
    TileOperator,
    conjugate_gradient,
    cross_product,
    identity,
    operator,
    pivoted_cholesky,
)
from hpcnk.tiling import CrossGrid, TriangleGrid
from tests.support.dense import SUMS, DenseOperator, Single, kernel_matrix, tiles_of

N, OUTPUTS = 90, 3
RIDGES = (1e-1, 1e-3, 1e-5)


@pytest.fixture(scope="module")
def problem():
    k = kernel_matrix(N)
    y = np.random.default_rng(1).normal(size=(N, OUTPUTS))
    return k, y


def solve_all(k_operator, y, precondition=identity, tolerance=1e-9, limit=2000, **options):
    return conjugate_gradient(
        k_operator,
        np.tile(y, (1, len(RIDGES))),
        np.repeat(RIDGES, y.shape[1]),
        precondition,
        Limits(tolerance, limit),
        **options,
    )


def exact(k, y):
    return np.hstack([dense_solve(k + r * np.eye(len(k)), y, assume_a="pos") for r in RIDGES])


@pytest.mark.parametrize("tile", [7, 32, 90, 200])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operator_is_the_matrix(problem, tile, dtype, monkeypatch):
    monkeypatch.setattr(operator, "STRIP_BYTES", 8 * 5 * 7)
    k, y = problem
    k = k.astype(dtype)
    grid = TriangleGrid(N, tile)
    tiles = TileOperator(SUMS, N, tiles_of(k, grid))
    np.testing.assert_allclose(tiles.apply(y), k.astype(float) @ y, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(tiles.diagonal(), k.diagonal())
    for index in (0, 6, 7, 40, N - 1):
        np.testing.assert_array_equal(tiles.column(index), k[:, index])


def test_cross_product_is_the_product():
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(11, 23)), rng.normal(size=(23, 4))
    tiles = tiles_of(k, CrossGrid(11, 23, 5))
    np.testing.assert_allclose(cross_product(SUMS, 11, tiles, v), k @ v, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("rank", [0, 1, 20, N, 5 * N])
def test_solutions_are_the_dense_ones(problem, rank):
    k, y = problem
    k_operator = DenseOperator(k)
    precondition = pivoted_cholesky(k_operator, rank) if rank else identity
    solution = solve_all(k_operator, y, precondition)
    assert solution.converged
    true = np.linalg.norm(
        np.tile(y, (1, 3)) - k @ solution.x - np.repeat(RIDGES, OUTPUTS) * solution.x, axis=0
    ) / np.linalg.norm(np.tile(y, (1, 3)), axis=0)
    assert true.max() <= 1e-9
    np.testing.assert_allclose(solution.true_relative_residual, true, rtol=0.1, atol=1e-13)
    np.testing.assert_allclose(solution.x, exact(k, y), rtol=1e-4, atol=1e-4)


def test_the_preconditioner_is_the_inverse_it_claims(problem):
    k, y = problem
    factor = pivoted_cholesky(DenseOperator(k), N)
    residuals = np.tile(y, (1, 3))
    ridges = np.repeat(RIDGES, OUTPUTS)
    np.testing.assert_allclose(factor(residuals, ridges), exact(k, y), rtol=1e-6, atol=1e-6)


def test_the_preconditioner_takes_the_largest_pivots():
    k = np.diag([1.0, 5.0, 3.0, 4.0, 2.0])
    factor = pivoted_cholesky(DenseOperator(k), 2)
    r = np.ones((5, 1))
    z = factor(r, np.array([0.5]))[:, 0]
    np.testing.assert_allclose(z, 1 / (np.array([0, 5.0, 0, 4.0, 0]) + 0.5), rtol=1e-12)


def test_iterations_fall_as_the_rank_grows(problem):
    k, y = problem
    k_operator = DenseOperator(k)
    worst = [solve_all(k_operator, y).iterations.max()]
    for rank in (10, 30, 60):
        factor = pivoted_cholesky(k_operator, rank)
        worst.append(solve_all(k_operator, y, factor).iterations.max())
    assert worst[1] < worst[0] and worst[2] < worst[1] and worst[3] < worst[2]


def test_residual_history_is_the_golden_one(problem):
    """CG in exact form on a small, well-conditioned system: its residuals are known numbers."""
    k, y = problem
    k_operator = DenseOperator(k)
    factor = pivoted_cholesky(k_operator, 30)
    history = conjugate_gradient(
        k_operator, y, np.full(OUTPUTS, 0.1), factor, Limits(1e-10, 100)
    ).history
    plain = _textbook(k + 0.1 * np.eye(N), y, factor, len(history) - 1)
    np.testing.assert_allclose(history[: len(plain)], plain, rtol=1e-5)


def _textbook(a, y, factor, steps):
    """Preconditioned CG column by column, as in the books; worst relative residual a step."""
    ridges = np.full(1, 0.1)
    histories = []
    for b in y.T:
        r, x = b.copy(), np.zeros_like(b)
        z = factor(r[:, None], ridges)[:, 0]
        p, rz, history = z, r @ z, []
        for _ in range(steps):
            q = a @ p
            step = rz / (p @ q)
            x, r = x + step * p, r - step * q
            history.append(np.linalg.norm(r) / np.linalg.norm(b))
            if history[-1] <= 1e-10:
                break
            z = factor(r[:, None], ridges)[:, 0]
            p, rz = z + (r @ z) / rz * p, r @ z
        histories.append(history)
    common = min(map(len, histories))
    return np.max([history[:common] for history in histories], axis=0)


def test_one_pass_serves_all_columns(problem):
    k, y = problem
    k_operator = DenseOperator(k)
    together = solve_all(k_operator, y)
    assert k_operator.products == together.passes
    assert together.passes <= together.iterations.max() + 2 + together.iterations.max() // 10


def test_converged_columns_leave_the_block(problem):
    k, y = problem
    k_operator = DenseOperator(k)
    solve_all(k_operator, y)
    assert k_operator.widths[0] == 9 and k_operator.widths[-1] < 9
    assert k_operator.widths == sorted(k_operator.widths, reverse=True)


def test_a_zero_column_is_solved_at_once(problem):
    k, y = problem
    y = y.copy()
    y[:, 1] = 0
    solution = solve_all(DenseOperator(k), y)
    assert solution.converged and not solution.x[:, 1::3].any()


def test_too_few_iterations_are_told(problem):
    k, y = problem
    solution = solve_all(DenseOperator(k), y, limit=3)
    assert set(solution.status) == {Status.MAX_ITERATIONS}
    assert (solution.iterations == 3).all() and not solution.converged


def test_a_drifted_recurrence_is_not_believed(problem):
    """The products are wrong for a while: CG's own residual says converged, the true one not."""
    k, y = problem

    class Lying(DenseOperator):
        def apply(self, v):
            product = super().apply(v)
            return product * (1.001 if self.products < 12 else 1.0)

    solution = solve_all(Lying(k), y, tolerance=1e-6)
    assert solution.converged
    residual = np.tile(y, (1, 3)) - k @ solution.x - np.repeat(RIDGES, OUTPUTS) * solution.x
    assert (
        np.linalg.norm(residual, axis=0) / np.linalg.norm(np.tile(y, (1, 3)), axis=0)
    ).max() < 2e-6


def test_stagnation_is_told(problem):
    k, y = problem
    solution = solve_all(DenseOperator(k.astype(np.float32)), y, tolerance=1e-15)
    assert set(solution.status[:OUTPUTS]) == {Status.STAGNATED}
    assert 1e-15 < solution.true_relative_residual[:OUTPUTS].max() < 1e-12


def test_an_indefinite_matrix_is_told(problem):
    k, y = problem
    solution = solve_all(DenseOperator(k - 0.5 * np.eye(N)), y)
    assert Status.INDEFINITE in solution.status
    assert "ridge" in Status.INDEFINITE.value


def test_nan_in_the_kernel_is_an_error(problem):
    k, y = problem
    k = k.copy()
    k[3, 4] = np.nan
    with pytest.raises(SolveError, match="not finite"):
        solve_all(DenseOperator(k), y)


def test_a_restriction_is_the_principal_submatrix(problem):
    k, y = problem
    keep = np.ones(N, bool)
    keep[[0, 5, 17, 88]] = False
    masked = np.where(keep[:, None], y, 0)
    restricted = Restricted(DenseOperator(k), keep)
    np.testing.assert_array_equal(restricted.diagonal(), np.where(keep, k.diagonal(), 0))
    factor = pivoted_cholesky(restricted, 30)
    solution = solve_all(restricted, masked, factor)
    assert not solution.x[~keep].any()
    inner = exact(k[np.ix_(keep, keep)], y[keep])
    np.testing.assert_allclose(solution.x[keep], inner, rtol=1e-4, atol=1e-4)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4, 9, 20, -1])  # -1: all but the last pass
@pytest.mark.parametrize("tolerance", [1e-9, 1e-15])  # the second one ends in restarts
def test_a_solve_goes_on_from_a_snapshot_as_if_it_had_never_stopped(problem, after, tolerance):
    k, y = problem
    factor = pivoted_cholesky(DenseOperator(k), 20)
    whole = solve_all(DenseOperator(k), y, factor, tolerance)
    after = after % whole.passes
    taken = {}

    def interrupt(systems):
        if systems.passes == after:
            taken.update({name: array.copy() for name, array in systems.snapshot().items()})
            raise Interrupted

    with pytest.raises(Interrupted):
        solve_all(DenseOperator(k), y, factor, tolerance, observe=interrupt)
    k_operator = DenseOperator(k)
    resumed = solve_all(k_operator, y, factor, tolerance, start=taken)
    assert resumed.x.tobytes() == whole.x.tobytes()
    assert resumed.history == whole.history and resumed.status == whole.status
    assert resumed.iterations.tolist() == whole.iterations.tolist()
    assert k_operator.products == whole.passes - after


def test_a_snapshot_of_a_finished_solve_needs_no_pass(problem):
    k, y = problem
    last = {}
    whole = solve_all(DenseOperator(k), y, observe=lambda systems: last.update(systems.snapshot()))
    k_operator = DenseOperator(k)
    again = solve_all(k_operator, y, precondition=None, start=last)
    assert not k_operator.products and again.x.tobytes() == whole.x.tobytes()
    assert again.status == whole.status


def test_sums_in_fixed_point_hold_for_entries_far_above_the_diagonal():
    """No kernel, but a product must be right or none."""
    rng = np.random.default_rng(0)
    k = np.ones((64, 64)) * 40 + rng.normal(size=(64, 64))
    k = (k + k.T) / 2
    np.fill_diagonal(k, 1.0)
    tiles = TileOperator(FixedPointSums(Single()), 64, tiles_of(k, TriangleGrid(64, 2)))
    v = np.ones((64, 1))
    np.testing.assert_allclose(tiles.apply(v), k @ v, rtol=1e-13)
    k[5, 9] = k[9, 5] = np.nan
    tiles = TileOperator(FixedPointSums(Single()), 64, tiles_of(k, TriangleGrid(64, 2)))
    assert np.isnan(tiles.apply(v)).any()
