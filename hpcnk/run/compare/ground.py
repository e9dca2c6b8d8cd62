"""What all fits of a comparison share: the kernel, the labels, the rows held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import SolveError, UsageError
from hpcnk.run.session import Session
from hpcnk.solve import Matrix, Problem, RowSet
from hpcnk.solve.approximations import Regression
from hpcnk.solve.operator import Operator

Array = NDArray[np.float64]
Columns = NDArray[np.int64]


@dataclass(frozen=True)
class Ground:
    """The kernel K as an operator with its diagonal (n,), labels (n, outputs), with zeros where
    there are none, and which of them are there; the numbers of the rows held out.
    """

    session: Session
    operator: Operator
    diagonal: Array
    labels: Array
    there: NDArray[np.bool_]
    held: NDArray[np.int64]

    @property
    def outputs(self) -> int:
        """Number of columns that are solved for."""
        return self.labels.shape[1]

    def without_held(self) -> Ground:
        """Return the same without the labels of the rows held out."""
        there = self.there.copy()
        there[self.held] = False
        return replace(self, there=there)

    def training(self, rows: int) -> Training:
        """Return the leading rows as a training set. Raises UsageError, SolveError."""
        patterns, inverse = np.unique(self.there[:rows], axis=1, return_inverse=True)
        groups = []
        for number, pattern in enumerate(patterns.T):
            keep = np.zeros(len(self.there), bool)
            keep[:rows] = pattern
            columns = np.flatnonzero(np.ravel(inverse) == number)
            groups.append(Group(columns, RowSet(rows, keep), self._scale(rows, keep)))
        return Training(self, rows, groups)

    def _scale(self, rows: int, keep: NDArray[np.bool_]) -> float:
        """Return the mean of the kernel's diagonal over the rows in use."""
        if not keep.any():
            raise UsageError(
                f"of the leading {rows} training rows none is left with a label of some output",
                "set larger compare.sizes, or data.shuffle: true where the data are sorted",
            )
        mean = float(self.diagonal[keep].mean())
        if not (np.isfinite(mean) and mean > 0):
            raise SolveError(
                f"trace(K)/n is {mean}, expected a positive number",
                "check the layers (b_std and w_std) and the data; `hpcnk verify` checks the tiles",
            )
        return mean


@dataclass(frozen=True)
class Group:
    """Outputs that have labels on the same rows; `scale`: what their ridges are relative to."""

    columns: Columns
    rows: RowSet
    scale: float


@dataclass(frozen=True)
class Training:
    """A training set: the leading `rows`, its outputs in groups."""

    ground: Ground
    rows: int
    groups: list[Group]

    @property
    def scale(self) -> float:
        """The mean over the outputs of what a ridge is relative to."""
        parts = [group.scale * len(group.columns) for group in self.groups]
        return float(sum(parts)) / self.ground.outputs

    def regressions(self, ridges: Sequence[float]) -> list[tuple[Columns, Regression]]:
        """Return a regression for each group of outputs; `ridges` are relative."""
        operator, labels = (
            self.ground.operator,
            self.ground.labels[self.ground.operator.spread.mine],
        )
        return [
            (
                group.columns,
                Regression(
                    operator,
                    group.rows,
                    np.ascontiguousarray(labels[:, group.columns]),
                    tuple(ridge * group.scale for ridge in ridges),
                ),
            )
            for group in self.groups
        ]


def joint_problem(trainings: Sequence[Training], ridges: Sequence[Sequence[float]]) -> Problem:
    """Return the systems of several training sets, each with its relative ridges, as one block.

    Columns stand by training set, ridge and output.
    """
    row_sets: list[RowSet] = []
    matrices: list[Matrix] = []
    columns: list[Array] = []
    for training, some in zip(trainings, ridges, strict=True):
        ground, mine = training.ground, training.ground.operator.spread.mine
        group_of = np.empty(ground.outputs, np.int64)
        for number, group in enumerate(training.groups):
            group_of[group.columns] = number
        for ridge in some:
            for output in range(ground.outputs):
                group = training.groups[group_of[output]]
                matrices.append(Matrix(len(row_sets) + group_of[output], ridge * group.scale))
                columns.append(np.where(group.rows.keep, ground.labels[:, output], 0.0)[mine])
        row_sets += [group.rows for group in training.groups]
    solve = trainings[0].ground.session.deck.solve
    return Problem(np.stack(columns, axis=1), matrices, row_sets, solve.block)
