"""The solver on one rank, against dense float64 algebra."""

import numpy as np
import pytest
from scipy.linalg import solve as dense_solve

from hpcnk.comm import FixedPointSums
from hpcnk.errors import SolveError
from hpcnk.solve import (
    Limits,
    PlainProducts,
    Problem,
    Status,
    conjugate_gradient,
    cross_product,
    dense_solution,
    identity,
    leading_rows,
    misfit_of_snapshot,
)
from hpcnk.tiling import CrossGrid, TriangleGrid
from tests.support.dense import (
    SUMS,
    DenseOperator,
    Single,
    kernel_matrix,
    low_rank,
    systems,
    tile_operator,
    tiles_of,
)

N, OUTPUTS = 90, 3
RIDGES = (1e-1, 1e-3, 1e-5)
BOTH = pytest.mark.parametrize("block", [True, False])


@pytest.fixture(scope="module")
def problem():
    k = kernel_matrix(N)
    y = np.random.default_rng(1).normal(size=(N, OUTPUTS))
    return k, y


def solve_all(k_operator, y, precondition=identity, tolerance=1e-9, limit=2000, **options):
    block = options.pop("block", True)
    return conjugate_gradient(
        k_operator,
        systems(y, RIDGES, options.pop("row_sets", None), block),
        precondition,
        Limits(tolerance, limit),
        **options,
    )


def preconditioner(k_operator, y, rank):
    return low_rank(k_operator, systems(y, RIDGES), rank)


def exact(k, y):
    return np.hstack([dense_solve(k + r * np.eye(len(k)), y, assume_a="pos") for r in RIDGES])


def true_residuals(k, y, x):
    b = np.tile(y, (1, len(RIDGES)))
    rest = b - k @ x - np.repeat(RIDGES, OUTPUTS) * x
    return np.linalg.norm(rest, axis=0) / np.linalg.norm(b, axis=0)


def rounding(k, y, x):
    """Say how far rounding moves true_residuals: several times what is seen of any BLAS."""
    b = np.tile(y, (1, len(RIDGES)))
    size = np.linalg.norm(k, 2) * np.linalg.norm(x, axis=0)
    return np.finfo(float).eps * size / np.linalg.norm(b, axis=0)


@pytest.mark.parametrize("tile", [7, 32, 90, 200])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operator_is_the_matrix(problem, tile, dtype):
    k, y = problem
    k = k.astype(dtype)
    tiles = tile_operator(SUMS, k, TriangleGrid(N, tile))
    np.testing.assert_allclose(tiles.apply(y), k.astype(float) @ y, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(tiles.diagonal(), k.diagonal())
    chosen = np.array([N - 1, 0, 6, 7, 40])
    np.testing.assert_array_equal(tiles.columns(chosen), k[:, chosen])


@pytest.mark.parametrize("tile", [7, 32, 90])
def test_tiles_beyond_a_size_are_left_out(problem, tile):
    """Columns of falling sizes: a tile that a column does not reach is not multiplied with it."""
    k, y = problem
    grid, sizes = TriangleGrid(N, tile), np.array([N, 50, 7])
    v = np.where(np.arange(N)[:, None] < sizes, y, 0.0)
    poisoned = k.copy()
    reached = -(-50 // tile) * tile
    poisoned[:, reached:] = poisoned[reached:] = np.nan
    tiles = tile_operator(SUMS, poisoned, grid)
    product = tiles.apply(v[:, 1:], sizes[1:])
    for column, size in enumerate(sizes[1:]):
        expected = (k @ v[:, column + 1])[:size]
        np.testing.assert_allclose(product[:size, column], expected, rtol=1e-13, atol=1e-13)
    whole = tile_operator(SUMS, k, grid).apply(v, sizes)
    np.testing.assert_allclose(whole[:, 0], k @ v[:, 0], rtol=1e-13, atol=1e-13)


def test_cross_product_is_the_product():
    rng = np.random.default_rng(0)
    k, v = rng.normal(size=(11, 23)), rng.normal(size=(23, 4))
    tiles = tiles_of(k, CrossGrid(11, 23, 5))
    product = cross_product(SUMS, 11, tiles, v, PlainProducts())
    np.testing.assert_allclose(product, k @ v, rtol=1e-13, atol=1e-13)


@BOTH
@pytest.mark.parametrize("rank", [0, 1, 20, N, 5 * N])
def test_solutions_are_the_dense_ones(problem, rank, block):
    k, y = problem
    k_operator = DenseOperator(k)
    precondition = preconditioner(k_operator, y, rank) if rank else identity
    solution = solve_all(k_operator, y, precondition, block=block)
    assert solution.converged
    true = true_residuals(k, y, solution.x)
    assert true.max() <= 1e-9
    off = np.abs(solution.true_relative_residual - true)
    assert (off <= 0.01 * true + rounding(k, y, solution.x)).all()
    np.testing.assert_allclose(solution.x, exact(k, y), rtol=1e-4, atol=1e-4)


def test_iterations_fall_as_the_rank_grows(problem):
    k, y = problem
    k_operator = DenseOperator(k)
    worst = [solve_all(k_operator, y).iterations.max()]
    for rank in (10, 30, 60):
        factor = preconditioner(k_operator, y, rank)
        worst.append(solve_all(k_operator, y, factor).iterations.max())
    assert worst[1] < worst[0] and worst[2] < worst[1] and worst[3] < worst[2]


def test_residual_history_of_single_columns_is_that_of_the_books(problem):
    """CG in exact form on a small, well-conditioned system: its residuals are known numbers."""
    k, y = problem
    k_operator = DenseOperator(k)
    single = systems(y, [0.1], block=False)
    factor = low_rank(k_operator, single, 30)
    history = conjugate_gradient(k_operator, single, factor, Limits(1e-10, 100)).history
    plain = _textbook(k + 0.1 * np.eye(N), y, factor, single.matrices[0], len(history) - 1)
    np.testing.assert_allclose(history[: len(plain)], plain, rtol=1e-5)


def _textbook(a, y, factor, matrix, steps):
    """Preconditioned CG column by column, as in the books; worst relative residual a step."""
    histories = []
    for b in y.T:
        r, x = b.copy(), np.zeros_like(b)
        z = factor([(matrix, r[:, None])])[0][:, 0]
        p, rz, history = z, r @ z, []
        for _ in range(steps):
            q = a @ p
            step = rz / (p @ q)
            x, r = x + step * p, r - step * q
            history.append(np.linalg.norm(r) / np.linalg.norm(b))
            if history[-1] <= 1e-10:
                break
            z = factor([(matrix, r[:, None])])[0][:, 0]
            p, rz = z + (r @ z) / rz * p, r @ z
        histories.append(history)
    common = min(map(len, histories))
    return np.max([history[:common] for history in histories], axis=0)


def test_a_block_finds_the_best_solution_in_the_space_that_it_spans(problem):
    """After s passes the error is the least, in the norm of the matrix, over s powers of it."""
    k, y = problem
    a = k + 0.1 * np.eye(N)
    for steps in (1, 2, 4):
        found = conjugate_gradient(
            DenseOperator(k), systems(y, [0.1]), identity, Limits(1e-14, steps)
        ).x
        basis = np.linalg.qr(np.hstack([np.linalg.matrix_power(a, i) @ y for i in range(steps)]))[0]
        best = basis @ np.linalg.solve(basis.T @ a @ basis, basis.T @ y)
        np.testing.assert_allclose(found, best, rtol=1e-7, atol=1e-9)


def test_a_block_takes_fewer_passes(problem):
    k, y = problem
    passes = [solve_all(DenseOperator(k), y, block=block).passes for block in (True, False)]
    assert passes[0] < 0.7 * passes[1]


@pytest.mark.parametrize("same", [1.0, -3.0, 1 + 1e-9])
def test_dependent_columns_do_not_break_a_block(problem, same):
    k, y = problem
    y = np.column_stack([y[:, 0], same * y[:, 0], y[:, 1], y[:, 0] - y[:, 1]])
    k_operator = DenseOperator(k)
    solution = conjugate_gradient(k_operator, systems(y, [1e-3]), identity, Limits(1e-9, 2000))
    assert solution.converged and k_operator.widths[0] == 2
    expected = dense_solve(k + 1e-3 * np.eye(N), y, assume_a="pos")
    np.testing.assert_allclose(solution.x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("power", [2.5, 3.2, 4.0])
def test_rounding_does_not_slow_a_block(power):
    """Targets minus their mean depend on each other; the condition number is up to 1e9."""
    rng, n = np.random.default_rng(0), 200
    vectors = np.linalg.qr(rng.normal(size=(n, n)))[0]
    k = (vectors * np.arange(1.0, n + 1) ** -power) @ vectors.T
    y = rng.normal(size=(n, 10))
    y -= y.mean(axis=1, keepdims=True)
    solution = conjugate_gradient(
        DenseOperator(k), systems(y, [1e-9]), identity, Limits(1e-6, 4000)
    )
    exact = -(-n // 9)  # passes without rounding
    assert solution.converged and solution.passes < 7 * exact


@pytest.mark.parametrize("outputs,ridge,most", [(30, 1e-13, 30), (60, 1e-13, 40), (150, 1e-13, 30)])
def test_a_preconditioner_that_rounding_has_spoilt_still_serves(problem, outputs, ridge, most):
    """Of full rank, with a ridge near the rounding of float64, it is hardly symmetric."""
    k, _ = problem
    y = np.random.default_rng(0).normal(size=(N, outputs))
    together = systems(y, [ridge])
    factor = low_rank(DenseOperator(k), together, N)
    solution = conjugate_gradient(DenseOperator(k), together, factor, Limits(1e-8, 200))
    assert solution.converged and solution.passes <= most


@BOTH
def test_one_pass_serves_all_columns(problem, block):
    k, y = problem
    k_operator = DenseOperator(k)
    together = solve_all(k_operator, y, block=block)
    assert k_operator.products == together.passes
    assert together.passes <= together.iterations.max() + 2 + together.iterations.max() // 10


def test_a_column_that_rests_serves_its_group(problem):
    """Its directions stay in the block, its solution as it was when it was good enough."""
    k, y = problem
    k_operator, states = DenseOperator(k), []
    together = systems(y, RIDGES[-1:])
    solution = conjugate_gradient(
        k_operator, together, identity, Limits(1e-4, 500),
        lambda systems: states.append(systems.snapshot()["x"].copy()),
    )  # fmt: skip
    first, last = solution.iterations.min(), solution.iterations.max()
    assert solution.converged and first < last == solution.passes - 1
    assert k_operator.widths == [OUTPUTS] * solution.passes
    for column, ended in enumerate(solution.iterations):
        assert all(
            x[:, column].tobytes() == states[-1][:, column].tobytes() for x in states[ended:]
        )
    alone = [
        conjugate_gradient(DenseOperator(k), systems(y[:, [c]], RIDGES[-1:]), identity,
                           Limits(1e-4, 2000)).passes for c in range(OUTPUTS)
    ]  # fmt: skip
    assert solution.passes < min(alone)


def test_a_column_that_has_ended_stays_as_it_is(problem):
    """The first one converges, and the others stagnate, one later than the other."""
    k, y = problem
    y, states = np.hstack([k @ y[:, :1], y[:, 1:]]), []
    together = systems(y, [1e-3])
    solution = conjugate_gradient(
        DenseOperator(k), together, identity, Limits(3e-13, 2000),
        lambda systems: states.append({k: v.copy() for k, v in systems.snapshot().items()}),
    )  # fmt: skip
    assert solution.status[0] is Status.CONVERGED and Status.STAGNATED in solution.status
    ended = [state for state in states if 0 < state["left"].size < OUTPUTS]
    assert any(state["checking"].size for state in ended)
    for state in states:
        assert not misfit_of_snapshot(state, N, together.matrices)
        for column in np.setdiff1d(range(OUTPUTS), state["left"]):
            assert state["x"][:, column].tobytes() == solution.x[:, column].tobytes()


def test_columns_leave_with_their_group(problem):
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


@BOTH
def test_too_few_iterations_are_told(problem, block):
    k, y = problem
    solution = solve_all(DenseOperator(k), y, limit=3, block=block)
    assert set(solution.status) == {Status.MAX_ITERATIONS}
    assert (solution.iterations == 3).all() and not solution.converged


@BOTH
def test_a_drifted_recurrence_is_not_believed(problem, block):
    """The products are wrong for a while: CG's own residual says converged, the true one not."""
    k, y = problem

    class Lying(DenseOperator):
        def apply(self, v, sizes=None):
            product = super().apply(v)
            return product * (1.001 if self.products < 12 else 1.0)

    solution = solve_all(Lying(k), y, tolerance=1e-6, block=block)
    assert solution.converged
    assert true_residuals(k, y, solution.x).max() < 2e-6


@BOTH
def test_stagnation_is_told(problem, block):
    k, y = problem
    k = k.astype(np.float32)
    solution = solve_all(DenseOperator(k), y, tolerance=1e-15, block=block)
    assert set(solution.status[:OUTPUTS]) == {Status.STAGNATED}
    assert 1e-15 < solution.true_relative_residual[:OUTPUTS].max() < 1e-12


@BOTH
def test_an_indefinite_matrix_is_told(problem, block):
    k, y = problem
    solution = solve_all(DenseOperator(k - 0.5 * np.eye(N)), y, block=block)
    assert Status.INDEFINITE in solution.status
    assert "ridge" in Status.INDEFINITE.value


def test_one_direction_of_negative_curvature_is_enough():
    k = np.diag([3.0, -2.0, 1.0])
    together = systems(np.eye(3)[:, :2], [0.5])
    solution = conjugate_gradient(DenseOperator(k), together, identity, Limits(1e-9, 20))
    assert solution.status == [Status.INDEFINITE] * 2


def test_a_column_that_has_ended_is_not_given_up_with_its_group(problem):
    k, y = problem
    together, states, limits = systems(y, [1e-3]), [], Limits(1e-9, 500)
    conjugate_gradient(
        DenseOperator(k), together, identity, limits, lambda s: states.append(s.snapshot())
    )
    ended = {"left": np.array([1, 2]), "status": np.array([0, -1, -1])}
    negative = DenseOperator(k - 100 * np.eye(N))
    found = conjugate_gradient(negative, together, identity, limits, start={**states[0], **ended})
    assert found.status == [Status.CONVERGED, Status.INDEFINITE, Status.INDEFINITE]


def test_nan_in_the_kernel_is_an_error(problem):
    k, y = problem
    k = k.copy()
    k[3, 4] = np.nan
    with pytest.raises(SolveError, match="not finite"):
        solve_all(DenseOperator(k), y)


def row_sets():
    """All rows; leading ones; and two with rows left out, as by labels that are missing."""
    random = np.random.default_rng(3)
    return [
        leading_rows(N, N),
        leading_rows(N, 41),
        leading_rows(N, N, random.random(N) < 0.7),
        leading_rows(N, 60, random.random(N) < 0.5),
    ]


def exact_on(k, y, sets):
    parts = []
    for row_set in sets:
        rows = np.flatnonzero(row_set.keep)
        part = np.zeros((N, len(RIDGES) * OUTPUTS))
        part[rows] = exact(k[np.ix_(rows, rows)], y[rows])
        parts.append(part)
    return np.hstack(parts)


@BOTH
@pytest.mark.parametrize("rank", [0, 30])
def test_row_sets_are_principal_submatrices_solved_in_the_same_passes(problem, rank, block):
    k, y = problem
    sets = row_sets()
    k_operator = tile_operator(SUMS, k, TriangleGrid(N, 16))
    together = systems(y, RIDGES, sets, block)
    precondition = low_rank(k_operator, together, rank) if rank else identity
    limits = Limits(1e-9, 2000)
    solution = conjugate_gradient(k_operator, together, precondition, limits)
    assert solution.converged
    np.testing.assert_allclose(solution.x, exact_on(k, y, sets), rtol=1e-4, atol=1e-4)
    outside = np.repeat([~s.keep for s in sets], len(RIDGES) * OUTPUTS, axis=0).T
    assert not solution.x[outside].any()
    hardest = conjugate_gradient(
        k_operator, systems(y, RIDGES, sets[:1], block), precondition, limits
    )
    assert solution.passes <= 1.5 * hardest.passes


def test_the_dense_method_is_dense_algebra(problem):
    k, y = problem
    sets = row_sets()
    k_operator = tile_operator(SUMS, k, TriangleGrid(N, 16))
    solution = dense_solution(k_operator, systems(y, RIDGES, sets), 1e-9)
    assert solution.converged and solution.passes == 1
    expected = exact_on(k, y, sets)
    assert np.abs(solution.x - expected).max() <= 1e-8 * np.abs(expected).max()


def test_the_dense_method_solves_a_column_of_zeros(problem):
    k, y = problem
    y = y * [1.0, 0.0, 1.0]
    solution = dense_solution(DenseOperator(k), systems(y, RIDGES), 1e-9)
    assert solution.converged and not solution.x[:, 1::OUTPUTS].any()


def test_the_dense_method_tells_of_an_indefinite_matrix(problem):
    k, y = problem
    solution = dense_solution(DenseOperator(k - 0.5 * np.eye(N)), systems(y, [0.1, 1.0]), 1e-9)
    assert solution.status == [Status.INDEFINITE] * OUTPUTS + [Status.CONVERGED] * OUTPUTS
    assert not solution.x[:, :OUTPUTS].any()


@BOTH
def test_a_good_guess_saves_passes(problem, block):
    k, y = problem
    cold = solve_all(DenseOperator(k), y, block=block)
    k_operator = DenseOperator(k)
    ended = solve_all(k_operator, y, guess=exact(k, y), block=block)
    assert ended.converged and ended.passes == 1 and not ended.iterations.any()
    near = exact(k, y) * (1 + 1e-6)
    assert solve_all(DenseOperator(k), y, guess=near, block=block).passes < cold.passes


class Interrupted(Exception):
    pass


@BOTH
@pytest.mark.parametrize("after", [1, 4, 9, 20, -1])  # -1: all but the last pass
@pytest.mark.parametrize("tolerance", [1e-9, 1e-15])  # the second one ends in restarts
def test_a_solve_goes_on_from_a_snapshot_as_if_it_had_never_stopped(
    problem, after, tolerance, block
):
    k, y = problem
    factor = preconditioner(DenseOperator(k), y, 20)
    whole = solve_all(DenseOperator(k), y, factor, tolerance, block=block)
    after = after % whole.passes
    taken = {}

    def interrupt(state):
        if state.passes == after:
            taken.update({name: array.copy() for name, array in state.snapshot().items()})
            raise Interrupted

    with pytest.raises(Interrupted):
        solve_all(DenseOperator(k), y, factor, tolerance, observe=interrupt, block=block)
    k_operator = DenseOperator(k)
    resumed = solve_all(k_operator, y, factor, tolerance, start=taken, block=block)
    assert resumed.x.tobytes() == whole.x.tobytes()
    assert resumed.history == whole.history and resumed.status == whole.status
    assert resumed.iterations.tolist() == whole.iterations.tolist()
    assert k_operator.products == whole.passes - after


def test_a_snapshot_of_a_finished_solve_needs_no_pass(problem):
    k, y = problem
    last = {}
    whole = solve_all(DenseOperator(k), y, observe=lambda state: last.update(state.snapshot()))
    k_operator = DenseOperator(k)
    again = solve_all(k_operator, y, precondition=None, start=last)
    assert not k_operator.products and again.x.tobytes() == whole.x.tobytes()
    assert again.status == whole.status


@BOTH
def test_columns_that_a_lower_limit_ended_go_on_under_a_higher_one(problem, block):
    k, y = problem
    states = []
    keep = lambda s: states.append({n: a.copy() for n, a in s.snapshot().items()})  # noqa: E731
    stopped = solve_all(DenseOperator(k), y, limit=12, observe=keep, block=block)
    assert set(stopped.status) == {Status.MAX_ITERATIONS}
    same = DenseOperator(k)
    solve_all(same, y, limit=12, start=states[-1], block=block)
    assert not same.products
    ended_state = states[-1]
    ended = ended_state["status"]
    first = {"left": np.arange(1, 9), "status": np.where(np.arange(9), -1, ended)}
    first |= {} if block else {"group": np.arange(9) - 1}  # the first one's has ended with it
    early, late = states[5] | first, states[-2] | first | {"checking": np.arange(1, 9)}
    matrices = systems(y, RIDGES, block=block).matrices
    for state, width in ((states[-1], 9), (early, 7 if block else 9), (late, 9)):
        assert not misfit_of_snapshot(state, N, matrices)
        k_operator = DenseOperator(k)
        again = solve_all(k_operator, y, start=state, block=block, observe=keep)
        assert again.converged and again.iterations.min() > 12 and k_operator.widths[0] == width
        np.testing.assert_allclose(again.x, exact(k, y), rtol=1e-4, atol=1e-4)
    states.append(ended_state)
    for limit in (13, 14, 15, 16, 2000):  # each lets them go on a little
        again = solve_all(DenseOperator(k), y, limit=limit, start=states[-1], observe=keep,
                          block=block)  # fmt: skip
    assert again.converged
    assert {misfit_of_snapshot(state, N, matrices) for state in states} == {""}


def test_sums_in_fixed_point_hold_for_entries_far_above_the_diagonal():
    """No kernel, but a product must be right or none."""
    rng = np.random.default_rng(0)
    k = np.ones((64, 64)) * 40 + rng.normal(size=(64, 64))
    k = (k + k.T) / 2
    np.fill_diagonal(k, 1.0)
    tiles = tile_operator(FixedPointSums(Single()), k, TriangleGrid(64, 2))
    v = np.ones((64, 1))
    np.testing.assert_allclose(tiles.apply(v), k @ v, rtol=1e-13)
    k[5, 9] = k[9, 5] = np.nan
    tiles = tile_operator(FixedPointSums(Single()), k, TriangleGrid(64, 2))
    assert np.isnan(tiles.apply(v)).any()


def test_a_problem_may_have_one_column(problem):
    k, y = problem
    one = Problem(y[:, :1].copy(), systems(y[:, :1], [1e-2]).matrices, [leading_rows(N, N)])
    solution = conjugate_gradient(DenseOperator(k), one, identity, Limits(1e-9, 500))
    expected = dense_solve(k + 1e-2 * np.eye(N), y[:, :1], assume_a="pos")
    np.testing.assert_allclose(solution.x, expected, rtol=1e-5, atol=1e-6)
