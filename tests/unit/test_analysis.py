"""Variances, leave-one-out residuals and evidence against dense float64, on real images.

Exact modes to 1e-6 relative. Stochastic ones within 4 standard errors, and these within what is
said here.
"""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from hpcnk.solve import (
    Estimate,
    Limits,
    LogDeterminants,
    Matrix,
    Quadrature,
    all_rows,
    evidence,
    fits,
    inverse_diagonals,
    left_out,
    log_determinants,
    rows_of_tiles,
    variances,
)
from hpcnk.solve.probes import Probes
from hpcnk.solve.spread import Spread
from hpcnk.tiling import CrossGrid
from tests.support.dense import SUMS, Single, tiles_of
from tests.support.small_gp import (
    RIDGES,
    dense,
    digits,
    matrices,
    nearby_of,
    operator_of,
    row_sets,
)

N, M = 240, 20
LIMITS = Limits(1e-10, 2000)
EPS = np.finfo(float).eps
RANKS = pytest.mark.parametrize("rank", [0, 40])


class Small:
    """The kernel, its systems on three row sets and three ridges, and a preconditioner."""

    def __init__(self, rank):
        self.k, self.cross, self.prior, self.y = digits(N, M)
        self.sets = row_sets(N)
        self.matrices = matrices(self.sets)
        self.operator = operator_of(SUMS, self.k)
        self.nearby = nearby_of(self.operator, self.sets, self.matrices, rank)

    def parts(self):
        return self.matrices, self.sets, self.nearby

    def dense(self):
        return [dense(self.k, self.sets, matrix) for matrix in self.matrices]

    def diagonals(self, vectors, width=10_000):
        estimate = Estimate(vectors, 0, LIMITS, width)
        return inverse_diagonals(self.operator, *self.parts(), estimate)


@pytest.fixture(scope="module")
def small():
    made = {}
    return lambda rank: made.setdefault(rank, Small(rank))


def test_a_row_has_its_probes_however_they_are_drawn():
    probes = Probes(Spread(Single(), 600), 3)
    for draw in (probes.signs, probes.normal, lambda vectors: probes.short(7, vectors)):
        whole = draw(range(5))
        np.testing.assert_array_equal(whole[:, 2:4], draw(range(2, 4)))
        assert np.linalg.matrix_rank(whole) == 5
    signs = probes.signs(range(5))
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert not np.array_equal(signs[:256], signs[256:512])
    other = Probes(Spread(Single(), 600), 4)
    assert not np.array_equal(signs, other.signs(range(5)))


@pytest.mark.parametrize("rows", [slice(0, 20), slice(3, 9), slice(7, 8)])
def test_test_columns_come_from_the_tiles_that_have_them(rows):
    _, cross, _, _ = digits(N, M)
    held = tiles_of(cross, CrossGrid(M, N, 7))
    wanted = [h for h in held if h[0].rows.start < rows.stop and h[0].rows.stop > rows.start]
    half = len(wanted) // 2
    found = sum(rows_of_tiles(N, part, rows) for part in (wanted[:half], wanted[half:]))
    np.testing.assert_array_equal(found, cross[rows].T)


@RANKS
def test_predictive_variances(small, rank):
    gp = small(rank)
    found = variances(gp.operator, gp.cross.T, gp.prior, *gp.parts(), LIMITS, EPS)
    assert found.converged and not found.negative
    for values, (keep, a) in zip(found.values, gp.dense(), strict=True):
        k = gp.cross[:, keep]
        expected = gp.prior - np.einsum("mi,im->m", k, np.linalg.solve(a, k.T))
        np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_only_variances_that_rounding_made_negative_are_clipped(small):
    gp = small(40)
    rest = ([gp.matrices[0]], gp.sets, gp.nearby, LIMITS, EPS)
    exact = variances(gp.operator, gp.cross.T, gp.prior, *rest).values[0]
    prior = gp.prior - exact - np.where(np.arange(M) < 5, 2e-15, 0.1)
    found = variances(gp.operator, gp.cross.T, prior, *rest)
    assert found.negative == M - 5
    np.testing.assert_allclose(found.values[0, 5:], -0.1, rtol=1e-6)
    assert (found.values[0, :5] >= 0).all() and found.clipped == (found.values == 0).sum() >= 1


@RANKS
def test_diagonals_of_the_preconditioner(small, rank):
    gp = small(rank)
    for matrix, (keep, _) in zip(gp.matrices, gp.dense(), strict=True):
        inverse = gp.nearby([(matrix, np.eye(N) * keep)])[0]
        found = gp.nearby.inverse_diagonal(matrix)
        np.testing.assert_allclose(found, np.where(keep, inverse.diagonal(), 0), rtol=1e-8)
        log_det = np.linalg.slogdet(inverse[np.ix_(keep, keep)])[1]
        assert gp.nearby.log_determinant(matrix) == pytest.approx(-log_det, rel=1e-8)


@RANKS
def test_samples_have_the_covariance_of_the_preconditioner(small, rank):
    """Unit vectors for normal ones: what comes is a root of M."""
    gp = small(rank)
    for matrix, (keep, _) in zip(gp.matrices, gp.dense(), strict=True):
        short, long = np.eye(rank, rank + N), np.eye(N, rank + N, rank)
        root = gp.nearby.sample(matrix, short, long)
        again = gp.nearby([(matrix, root @ root.T)])[0]
        np.testing.assert_allclose(again, np.diag(keep.astype(float)), atol=1e-7)


@pytest.mark.parametrize("width", [10_000, 700])
def test_exact_diagonals_of_the_inverse(small, width):
    gp = small(40)
    found = gp.diagonals(N, width)
    assert found.converged and not found.replaced.any() and not found.relative_error.any()
    for values, (keep, a) in zip(found.values.T, gp.dense(), strict=True):
        np.testing.assert_allclose(values[keep], np.linalg.inv(a).diagonal(), rtol=1e-6)
        assert not values[~keep].any()


def test_left_out_residuals_are_those_of_fits_without_the_row(small):
    gp = small(40)
    values = gp.diagonals(N).values
    for column, (keep, a) in enumerate(gp.dense()):
        y, x = gp.y * keep[:, None], np.zeros(gp.y.shape)
        x[keep] = np.linalg.solve(a, gp.y[keep])
        found = left_out(y, x, values[:, [column] * 3])
        assert not found[~keep].any()
        for row in range(0, int(keep.sum()), 50):
            rest = np.delete(np.arange(len(a)), row)
            alpha = np.linalg.solve(a[np.ix_(rest, rest)], gp.y[keep][rest])
            expected = a[row, rest] @ alpha
            np.testing.assert_allclose(found[keep][row], expected, rtol=1e-6, atol=1e-9)


@RANKS
def test_estimated_diagonals_of_the_inverse(small, rank):
    """With 32 vectors: 15 % at worst, and the standard error says so."""
    gp = small(rank)
    found = gp.diagonals(32, width=200)
    assert found.converged and not found.replaced.any()
    for column, (keep, a) in enumerate(gp.dense()):
        exact = np.linalg.inv(a).diagonal()
        relative = found.values[keep, column] / exact - 1
        stated = found.relative_error[column]
        assert stated < 0.16
        assert np.sqrt((relative**2).mean()) == pytest.approx(stated, rel=0.25)
        assert np.abs(relative).max() < 6 * stated
        assert np.abs(relative.mean()) < 4 * stated / np.sqrt(keep.sum())


def test_a_preconditioner_makes_estimates_better(small):
    plain, better = (small(rank).diagonals(16).relative_error for rank in (0, 40))
    assert (better < plain).all() and better[0] < 0.75 * plain[0]


@RANKS
def test_estimates_that_cannot_be_are_replaced(small, rank):
    gp = small(rank)
    found = gp.diagonals(1)
    assert (found.replaced > 0).sum() >= 6 and np.isnan(found.relative_error).all()
    for column, (keep, _) in enumerate(gp.dense()):
        matrix, values = gp.matrices[column], found.values[keep, column]
        low, high = 1 / (gp.k.diagonal() + matrix.ridge)[keep], 1 / matrix.ridge
        assert (values >= low).all() and (values <= high).all()
        known = np.clip(gp.nearby.inverse_diagonal(matrix)[keep], low, high)
        assert np.isclose(values, known, rtol=1e-12).sum() >= found.replaced[column]


@RANKS
def test_log_determinants(small, rank):
    """With 16 vectors: within 2 % of a log determinant."""
    gp = small(rank)
    quadrature = Quadrature(16, 0, 300, 1e-7, 10_000)
    seen = []
    found = log_determinants(
        gp.operator, *gp.parts(), quadrature, lambda passes, left: seen.append((passes, left))
    )
    assert found.converged and seen[-1] == (found.passes, 0)
    for matrix, (_, a) in zip(gp.matrices, gp.dense(), strict=True):
        samples = found.of(matrix)
        error = samples.std(ddof=1) / 4
        exact = np.linalg.slogdet(a)[1]
        assert error < 0.02 * abs(exact)
        assert abs(samples.mean() - exact) < 4 * error


def test_log_determinants_do_not_depend_on_how_many_columns_go_at_once(small):
    gp = small(40)
    at_once, in_parts = (
        log_determinants(gp.operator, *gp.parts(), Quadrature(4, 0, 300, 1e-9, width))
        for width in (10_000, 9)
    )
    assert in_parts.passes > at_once.passes
    np.testing.assert_allclose(in_parts.samples, at_once.samples, rtol=1e-6)


def test_quadrature_that_is_cut_short_says_so(small):
    gp = small(0)
    found = log_determinants(gp.operator, *gp.parts(), Quadrature(4, 0, 3, 1e-9, 10_000))
    assert not found.converged and found.passes == 3 and np.isfinite(found.samples).all()


def test_an_indefinite_matrix_has_no_determinant(small):
    gp = small(0)
    bad = [Matrix(0, 1e-3), Matrix(0, -0.1)]
    found = log_determinants(
        gp.operator, bad, gp.sets, small(0).nearby, Quadrature(4, 0, 300, 1e-6, 100)
    )
    assert np.isfinite(found.of(bad[0])).all() and np.isnan(found.of(bad[1])).any()


@pytest.mark.parametrize("sets", [[0, 0, 0], [0, 1, 2]])
def test_the_evidence_of_known_determinants(small, sets):
    gp = small(0)
    chosen = [Matrix(rows, RIDGES[1]) for rows in sets]
    systems = [(*dense(gp.k, gp.sets, matrix), y) for matrix, y in zip(chosen, gp.y.T, strict=True)]
    x, b = np.zeros(gp.y.shape), np.zeros(gp.y.shape)
    for column, (keep, a, y) in enumerate(systems):
        x[keep, column], b[keep, column] = np.linalg.solve(a, y[keep]), y[keep]
    different = list(dict.fromkeys(chosen))
    exact = [np.linalg.slogdet(dense(gp.k, gp.sets, matrix)[1])[1] for matrix in different]
    samples = np.array(exact)[:, None] + [[-3.0, 0.0, 3.0]]
    fit = fits(gp.operator.spread, b, x)
    found = evidence(fit, chosen, gp.sets, LogDeterminants(different, samples, 0, True))

    def likelihood(amplitude):
        parts = [
            multivariate_normal(np.zeros(len(a)), amplitude * a).logpdf(y[keep])
            for keep, a, y in systems
        ]
        return sum(parts)

    assert found.unit == pytest.approx(likelihood(1.0), rel=1e-9)
    assert found.profile == pytest.approx(likelihood(found.amplitude), rel=1e-9)
    assert found.profile > max(likelihood(found.amplitude * c) for c in (0.9, 1.1))
    # Three outputs whose determinants err together, and half of that.
    assert found.standard_error == pytest.approx(3 * 3 / np.sqrt(3) / 2)
    one = LogDeterminants(different, samples[:, 1:2], 0, True)
    assert np.isnan(evidence(fit, chosen, gp.sets, one).standard_error)


def test_the_evidence_chooses_the_ridge_that_made_the_targets(small):
    gp = small(40)
    ridges = (1e-4, 1e-2, 1.0)
    k = dense(gp.k, [all_rows(N)], Matrix(0, 1e-2))[1]
    y = 7 * np.linalg.cholesky(k) @ np.random.default_rng(1).normal(size=(N, 3))
    chosen = [Matrix(0, ridge) for ridge in ridges]
    nearby = nearby_of(gp.operator, gp.sets, chosen, 40)
    quadrature = Quadrature(8, 0, 300, 1e-6, 100)
    found = log_determinants(gp.operator, chosen, gp.sets, nearby, quadrature)
    values = []
    for matrix in chosen:
        x = np.linalg.solve(dense(gp.k, gp.sets, matrix)[1], y)
        fit = fits(gp.operator.spread, y, x)
        values.append(evidence(fit, [matrix] * 3, gp.sets, found))
    assert np.argmax([value.profile for value in values]) == 1
    assert values[1].amplitude == pytest.approx(49, rel=0.2)
