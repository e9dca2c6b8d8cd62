"""Residuals and search directions of groups of columns, in the form that survives rounding.

A group's residuals are the product of a basis (rows, directions) and weights (directions, columns).
The basis is made orthonormal in each step, in the inner product of the preconditioner M^-1, so that
what makes the columns' residuals nearly dependent, or of different sizes, stands in the weights
alone: a small matrix, that loses nothing. This is the block CG that keeps its pace in rounding
(Dubrulle, "Retooling the method of block conjugate gradients", ETNA 2001; Meurant and Tichy 2025
compare it with the other forms). With one column it is the usual CG.

    step    = (p^T A p)^-1
    x      += p step weights          t = basis - A p step
    basis back = t                    basis^T M^-1 basis = I: back is a square root of t^T M^-1 t
    weights = back weights            p = M^-1 basis + p back^T

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


class Group:
    """Columns of one matrix A that search together. Arrays have this rank's rows.

    `basis` (rows, directions) and `weights` (directions, columns), whose product is the residuals;
    `p` (rows, directions) search directions; `q` = A p; `step` = (p^T A p)^-1.
    """

    def __init__(self, columns: NDArray[np.int64], matrix: Matrix, residuals: Array) -> None:
        self.columns = columns
        self.matrix = matrix
        self.q = self.step = np.empty((0, 0))
        self.set_residuals(residuals)

    def set_residuals(self, residuals: Array) -> None:
        """Forget all directions; the residuals themselves are the basis."""
        self.basis = np.array(residuals, order="C")
        self.weights = np.eye(residuals.shape[1])
        self.p = np.zeros_like(self.basis)

    def residuals(self) -> Array:
        """Return the residuals that the search carries along, (rows, columns)."""
        return self.basis @ self.weights


@dataclass(frozen=True)
class Factor:
    """What makes a basis orthonormal: basis `forth` is, and `back` leads from there to the basis;
    `squares` (columns,) are the residuals' squared norms.
    """

    forth: Array
    back: Array
    squares: Array


def step_length(spread: Spread, groups: Sequence[Group]) -> list[Group]:
    """Set each group's step; return those with no positive curvature p^T A p. Collective."""
    curvatures = spread.inner([(group.p, group.q) for group in groups])
    steps = spread.decide(lambda: [_inverse(curvature) for curvature in curvatures])
    for group, step in zip(groups, steps, strict=True):
        group.step = np.empty((0, 0)) if step is None else step
    return [group for group, step in zip(groups, steps, strict=True) if step is None]


def factors(spread: Spread, groups: Sequence[Group], z: Sequence[Array]) -> list[Factor]:
    """Return how to make each group's basis orthonormal; `z` is M^-1 times it. Collective."""
    pairs = list(zip(groups, z, strict=True))
    terms = [term for g, part in pairs for term in (gram(g.basis, g.basis), gram(g.basis, part))]
    found = spread.totals(*terms)
    plain, preconditioned = found[::2], found[1::2]
    weights = [group.weights for group in groups]
    return spread.decide(lambda: list(map(_factor, plain, preconditioned, weights)))


def turn(group: Group, z: Array, factor: Factor) -> None:
    """Make the basis orthonormal, and the directions conjugate to the last ones."""
    group.basis = group.basis @ factor.forth
    group.weights = factor.back @ group.weights
    group.p = z @ factor.forth + group.p @ factor.back.T


def _inverse(curvature: Array) -> Array | None:
    """Return the inverse, None if it is not positive definite."""
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    return (vectors / values) @ vectors.T if (values > 0).all() else None


def _factor(plain: Array, preconditioned: Array, weights: Array) -> Factor:
    """Factor a basis of these inner products; directions that depend on the others are dropped."""
    lengths = np.sqrt(np.maximum(preconditioned.diagonal(), 0.0))
    scales = np.where(lengths > 0, lengths, 1.0)
    symmetric = (preconditioned + preconditioned.T) / 2
    values, vectors = np.linalg.eigh(symmetric / np.outer(scales, scales))
    kept = values > DEPENDENT * values.max(initial=0.0)
    roots, vectors = np.sqrt(values[kept]), vectors[:, kept]
    squares = np.einsum("dc,dc->c", weights, plain @ weights)
    forth, back = vectors / roots / scales[:, None], (roots * vectors).T * scales
    return Factor(forth, back, np.maximum(squares, 0.0))
