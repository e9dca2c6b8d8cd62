"""Residuals and search directions of groups of columns, in the form that survives rounding.

A group's residuals are the product of a basis (rows, directions) and weights (directions, columns).
The basis is made orthonormal in each step, in the inner product of the preconditioner M^-1, so that
what makes the columns' residuals nearly dependent, or of different sizes, stands in the weights
alone: a small matrix, that loses nothing. This is the block CG that keeps its pace in rounding
(Dubrulle, "Retooling the method of block conjugate gradients", ETNA 2001; Meurant and Tichy 2025
compare it with the other forms). With one column it is the usual CG.

    slope   = p^T basis               step = (p^T A p)^-1 slope
    x      += p step weights          t = basis - A p step
    basis back = t                    basis^T M^-1 basis = I: back is a square root of t^T M^-1 t
    weights = back weights            p = M^-1 basis + p slope^-T back^T

In exact arithmetic slope = I. A preconditioner that rounding has spoilt (of nearly full rank, with
a tiny ridge) has no M^-1 in which a basis is orthonormal to more than a few digits. Where that is
found, the basis is made orthonormal as it is, back^T back = t^T t, and what makes the directions
conjugate is measured: p = M^-1 basis - p (p^T A p)^-1 (A p)^T M^-1 basis.

Small matrices are summed over all ranks, and rank 0 computes with them for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.solve.matrices import Matrix
from hpcnk.solve.spread import Array, Spread, gram

# Vectors whose part that is orthogonal to the others is shorter than the square root of this,
# relative to their length, depend on them.
DEPENDENT = 1e-12
# A basis whose inner products differ from I by more is not orthonormal: below 1e-5 where M^-1 is
# sound, above 1e-3 where it is not (measured).
SPOILT = 1e-4


class Group:
    """Columns of one matrix A that search together. Arrays have this rank's rows.

    `basis` (rows, directions) and `weights` (directions, columns), whose product is the residuals;
    `p` (rows, directions) search directions, and what is known of them within a step: `q` = A p,
    `inverse` = (p^T A p)^-1, `slope` = p^T basis.
    """

    def __init__(self, columns: NDArray[np.int64], matrix: Matrix, residuals: Array) -> None:
        self.columns = columns
        self.matrix = matrix
        self.set_residuals(residuals)

    def set_residuals(self, residuals: Array) -> None:
        """Forget all directions; the residuals themselves are the basis."""
        self.basis = np.array(residuals, order="C")
        self.weights = np.eye(residuals.shape[1])
        self.p = self.q = np.empty((len(residuals), 0))
        self.inverse = self.slope = np.empty((0, 0))

    def residuals(self) -> Array:
        """Return the residuals that the search carries along, (rows, columns)."""
        return self.basis @ self.weights


@dataclass(frozen=True)
class Factor:
    """What makes a basis orthonormal: basis `forth` is, and `back` leads from there to the basis;
    `squares` (columns,) are the residuals' squared norms; `spoilt`: whether M^-1 is.
    """

    forth: Array
    back: Array
    squares: Array
    spoilt: bool


def step_length(spread: Spread, groups: Sequence[Group]) -> list[Group]:
    """Measure each group's slope and curvature p^T A p; return those where it is not positive.

    Collective.
    """
    pairs = [pair for group in groups for pair in ((group.p, group.q), (group.p, group.basis))]
    found = spread.inner(pairs)
    curvatures, slopes = found[::2], found[1::2]
    inverses = spread.decide(lambda: list(map(_inverse, curvatures)))
    for group, inverse, slope in zip(groups, inverses, slopes, strict=True):
        group.slope = slope
        group.inverse = np.empty((0, 0)) if inverse is None else inverse
    return [group for group, inverse in zip(groups, inverses, strict=True) if inverse is None]


def factors(spread: Spread, groups: Sequence[Group], z: Sequence[Array]) -> list[Factor]:
    """Return how to make each group's basis orthonormal; `z` is M^-1 times it. Collective."""
    pairs = list(zip(groups, z, strict=True))
    terms = [term for g, part in pairs for term in (gram(g.basis, g.basis), gram(g.basis, part))]
    found = spread.totals(*terms)
    plain, preconditioned = found[::2], found[1::2]
    weights = [group.weights for group in groups]
    return spread.decide(lambda: list(map(_factor, plain, preconditioned, weights)))


def turn(
    spread: Spread, groups: Sequence[Group], z: Sequence[Array], found: Sequence[Factor]
) -> None:
    """Make each basis orthonormal, and the directions conjugate to the last ones. Collective."""
    parts = list(zip(groups, z, found, strict=True))
    couplings = iter(spread.inner([(g.q, part) for g, part, factor in parts if factor.spoilt]))
    measured = [next(couplings) if factor.spoilt else None for factor in found]
    betas = spread.decide(lambda: list(map(_beta, groups, found, measured)))
    for (group, part, factor), beta in zip(parts, betas, strict=True):
        group.basis = group.basis @ factor.forth
        group.weights = factor.back @ group.weights
        group.p = part @ factor.forth + group.p @ beta


def _inverse(curvature: Array) -> Array | None:
    """Return the inverse, None if it is not positive definite."""
    lengths = np.sqrt(np.maximum(curvature.diagonal(), 0.0))
    if not lengths.all():
        return None
    scales = np.outer(lengths, lengths)
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2 / scales)
    return (vectors / values) @ vectors.T / scales if (values > 0).all() else None


def _factor(plain: Array, preconditioned: Array, weights: Array) -> Factor:
    """Factor a basis of these inner products."""
    squares = np.maximum(np.einsum("dc,dc->c", weights, plain @ weights), 0.0)
    forth, back = _roots(preconditioned)
    error = forth.T @ preconditioned @ forth - np.eye(forth.shape[1])
    if np.abs(error).max(initial=0.0) <= SPOILT:
        return Factor(forth, back, squares, spoilt=False)
    return Factor(*_roots(plain), squares, spoilt=True)


def _roots(products: Array) -> tuple[Array, Array]:
    """Return what leads from a basis of these inner products to an orthonormal one, and back;
    vectors that depend on the others are dropped.
    """
    lengths = np.sqrt(np.maximum(products.diagonal(), 0.0))
    scales = np.where(lengths > 0, lengths, 1.0)
    values, vectors = np.linalg.eigh((products + products.T) / 2 / np.outer(scales, scales))
    kept = values > DEPENDENT * values.max(initial=0.0)
    roots, vectors = np.sqrt(values[kept]), vectors[:, kept]
    return vectors / roots / scales[:, None], (roots * vectors).T * scales


def _beta(group: Group, factor: Factor, coupling: Array | None) -> Array:
    """Return what of the last directions belongs to the new ones."""
    if not group.q.shape[1]:
        return np.empty((0, factor.forth.shape[1]))
    if coupling is not None:
        return -group.inverse @ coupling @ factor.forth
    return np.asarray(np.linalg.lstsq(group.slope.T, factor.back.T)[0], np.float64)
