"""The search directions of groups of columns: step lengths, conjugation, orthonormalisation.

Small matrices (directions by columns) are summed over all ranks, and rank 0 computes with them for
all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpcnk.solve.matrices import Matrix
from hpcnk.solve.spread import Array, Spread

# Directions whose part that is orthogonal to the others is shorter than the square root of this,
# relative to their length, depend on them.
DEPENDENT = 1e-12


class Group:
    """Columns of one matrix that search together. Arrays have this rank's rows.

    `r` (rows, columns) residuals; `p` (rows, directions) orthonormal search directions, no more
    than columns; `q` = (P K P + ridge I) p; `curvature` = p^T q; `step` (directions, columns).
    """

    def __init__(self, columns: NDArray[np.int64], matrix: Matrix, r: Array) -> None:
        self.columns = columns
        self.matrix = matrix
        self.r = np.array(r, order="C")
        self.p = self.q = np.empty((len(r), 0))
        self.curvature = self.step = np.empty((0, 0))


def step_length(spread: Spread, groups: Sequence[Group]) -> list[Group]:
    """Set each group's curvature and step; return those with no positive curvature. Collective."""
    pairs = [pair for group in groups for pair in ((group.p, group.q), (group.p, group.r))]
    found = spread.inner(pairs)
    curvatures, slopes = found[::2], found[1::2]
    steps = spread.decide(lambda: list(map(_step, curvatures, slopes)))
    for group, curvature, step in zip(groups, curvatures, steps, strict=True):
        group.curvature = curvature
        group.step = np.empty((0, 0)) if step is None else step
    return [group for group, step in zip(groups, steps, strict=True) if step is None]


def turn(
    spread: Spread, groups: Sequence[Group], z: Sequence[Array], couplings: Sequence[Array]
) -> None:
    """Take new directions, conjugate to the last ones: z + p beta. Collective.

    `z` preconditioned residuals; `couplings` q^T z.
    """
    if not groups:
        return
    curvatures = [group.curvature for group in groups]
    betas = spread.decide(lambda: list(map(_divided, curvatures, couplings)))
    wanted = [part - g.p @ beta for g, part, beta in zip(groups, z, betas, strict=True)]
    orthonormal(spread, groups, wanted)


def orthonormal(spread: Spread, groups: Sequence[Group], wanted: Sequence[Array]) -> None:
    """Set each group's directions to an orthonormal basis of what is wanted. Collective."""
    grams = spread.inner([(part, part) for part in wanted])
    bases = spread.decide(lambda: list(map(_basis, grams)))
    for group, part, basis in zip(groups, wanted, bases, strict=True):
        group.p = part @ basis


def _step(curvature: Array, slope: Array) -> Array | None:
    """Return curvature^-1 slope, None if the curvature is not positive."""
    positive = (np.linalg.eigvalsh((curvature + curvature.T) / 2) > 0).all()
    return _divided(curvature, slope) if positive else None


def _divided(curvature: Array, right: Array) -> Array:
    """Return curvature^-1 right."""
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    return (vectors / values) @ (vectors.T @ right)


def _basis(gram: Array) -> Array:
    """Return T with orthonormal columns of a T, for a^T a = gram; dependent ones are dropped."""
    lengths = np.sqrt(np.maximum(gram.diagonal(), 0.0))
    scales = np.where(lengths > 0, lengths, 1.0)
    values, vectors = np.linalg.eigh(gram / np.outer(scales, scales))
    kept = values > DEPENDENT * values.max(initial=0.0)
    return vectors[:, kept] / np.sqrt(values[kept]) / scales[:, None]
