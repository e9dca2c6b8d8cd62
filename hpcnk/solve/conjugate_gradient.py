"""Preconditioned conjugate gradients for many systems that share the passes over the kernel.

Column c solves (P K P + ridge I) x_c = b_c with its matrix: a row set and a ridge. All columns go
through K as one block. Columns of one matrix form a group, which searches in the space that all
its directions span (block CG, O'Leary 1980), in the form that survives dependent columns: the
directions are orthonormalised in each step, and those that depend on the others are dropped (Ji and
Li, "A breakdown-free block conjugate gradient method", BIT 2017). With groups of one column this is
the usual CG.

A column whose residual falls below the tolerance rests: its solution stays as it is, while its
directions still serve the rest of its group. Left alone, the last column of a group would need as
many passes as a search of one column: up to several times as many (tests/unit/test_solver.py).

The residual that CG carries along drifts from the true one, so it is not believed: when all columns
of a group rest, the next pass takes their solutions in place of the directions, and the residuals
computed from it decide. The group starts again from the true residuals of those that fail the test.
A start from given solutions begins with that test.

Rows of vectors are spread over the ranks. What decides (small matrices, norms) is summed over all
rows, and rank 0 decides for all (see `Spread`). All that the iteration carries along is a
dictionary of arrays, `Systems.snapshot`; started from one, it goes on as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import SolveError
from hpcnk.solve.directions import Group, orthonormal, step_length, turn
from hpcnk.solve.matrices import Matrix, RowSet, sizes_of
from hpcnk.solve.operator import Operator
from hpcnk.solve.precondition import Precondition
from hpcnk.solve.spread import Array, Spread, dots, gram

NO_STATUS = -1  # in a snapshot
NO_GROUP = -1  # of a column that has ended
RESTARTS_WITHOUT_GAIN = 3  # a restart must at least halve the true residual

Integers = NDArray[np.int64]
Snapshot = Mapping[str, NDArray[Any]]  # what `Systems.snapshot` gives
_CARRIED = ("relative", "checked", "gainless", "iterations")
SPREAD = ("x", "r", "p")  # arrays of a snapshot with this rank's rows; the others are on all ranks


@dataclass(frozen=True)
class Limits:
    """When a column ends: its true residual norm relative to that of b, and its iterations."""

    tolerance: float
    max_iterations: int


class Status(Enum):
    """How a column ended, in words."""

    CONVERGED = "converged"
    MAX_ITERATIONS = (
        "not converged within max_iterations: raise it, raise the preconditioner's rank, "
        "or raise the ridge"
    )
    STAGNATED = (
        "stagnated: rounding keeps the true residual above the tolerance, which may be too low"
    )
    INDEFINITE = (
        "indefinite: the stored kernel plus this ridge is not positive definite to rounding"
    )

    @property
    def by_rounding(self) -> bool:
        """Whether a ridge too small for the kernel's rounding is to blame."""
        return self in (Status.STAGNATED, Status.INDEFINITE)


@dataclass(frozen=True)
class Problem:
    """The systems: b has this rank's rows of all columns, (rows, columns).

    Column c has matrix `matrices[c]`, on the rows `row_sets[matrices[c].rows]`; b is zero outside.
    `block`: whether columns of one matrix search together.
    """

    b: Array
    matrices: Sequence[Matrix]
    row_sets: Sequence[RowSet]
    block: bool = True


@dataclass(frozen=True)
class Solution:
    """Solutions x, this rank's rows of all columns, and for each column how it went."""

    x: Array
    iterations: Integers
    true_relative_residual: Array
    status: list[Status]
    passes: int
    history: list[float] = field(default_factory=list)

    @property
    def converged(self) -> bool:
        """Whether all columns converged."""
        return all(status is Status.CONVERGED for status in self.status)


def conjugate_gradient(
    operator: Operator,
    problem: Problem,
    precondition: Precondition,
    limits: Limits,
    observe: Callable[[Systems], None] = lambda systems: None,
    start: Snapshot | None = None,
    guess: Array | None = None,
) -> Solution:
    """Solve all systems of the problem at once. Collective.

    `observe` is called on all ranks after each pass over the kernel, and may end the work by
    raising on all of them. `start` is what a snapshot of the same systems held; without one,
    `guess` may give solutions to start from, of the shape of b and zero outside of each column's
    rows. Raises SolveError when a product is not finite.
    """
    systems = Systems(operator, problem, precondition, limits)
    systems.begin(start, guess)
    while systems.left.size:
        product = operator.apply(systems.block(), systems.sizes())
        systems.advance(product)
        observe(systems)
    return systems.solution()


class Systems:
    """The state of all columns. `left` lists those still in the block."""

    def __init__(
        self, operator: Operator, problem: Problem, precondition: Precondition, limits: Limits
    ) -> None:
        self._spread = operator.spread
        self._problem, self._precondition, self._limits = problem, precondition, limits
        self._sizes = sizes_of(problem.matrices, problem.row_sets)
        mine = self._spread.mine
        self._outside = [~row_set.keep[mine] for row_set in problem.row_sets]
        columns = problem.b.shape[1]
        self._scale = _norms(self._spread, problem.b)
        self._x = np.zeros(problem.b.shape)
        self._groups: list[Group] = []
        self._checking: Integers = np.arange(0)
        self._relative = np.ones(columns)  # of the residual CG carries, or the true one if checked
        self._checked = np.full(columns, np.inf)  # the last true relative residual
        self._gainless = np.zeros(columns, np.int64)
        self._iterations = np.zeros(columns, np.int64)
        self._status: list[Status | None] = [None] * columns
        self.passes = 0
        self.history: list[float] = []
        self.left = np.arange(columns)

    def begin(self, start: Snapshot | None, guess: Array | None) -> None:
        """Take the first search directions, those of a snapshot, or solutions to be checked."""
        if start is not None:
            self._restore(start)
            return
        for column in np.flatnonzero(self._scale == 0).tolist():
            self._finish(column, Status.CONVERGED, 0.0)
        if guess is not None:
            self._x[:, self.left] = guess[:, self.left]
            self._checking = self.left
            return
        self._restart(self._together(self.left), self._problem.b)

    def _together(self, columns: Integers) -> list[Integers]:
        """Group columns by their matrices, those of most rows first."""
        problem = self._problem
        found: dict[Any, list[int]] = {}
        for column in columns.tolist():
            key = problem.matrices[column] if problem.block else column
            found.setdefault(key, []).append(column)
        groups = sorted(found.values(), key=lambda group: -self._sizes[group[0]])
        return [np.array(group) for group in groups]

    def _restart(self, parts: Sequence[Integers], residuals: Array) -> None:
        """Begin groups of these columns from residuals, (rows, all columns)."""
        begun = [
            Group(columns, self._problem.matrices[columns[0]], residuals[:, columns])
            for columns in parts
        ]
        self._search_from_residuals(begun)
        self._groups = sorted(
            [*self._groups, *begun], key=lambda group: -self._sizes[group.columns[0]]
        )

    def _search_from_residuals(self, groups: Sequence[Group]) -> None:
        z = self._precondition([(group.matrix, group.r) for group in groups])
        orthonormal(self._spread, groups, z)

    def _searching(self) -> list[Group]:
        """Return the groups whose columns are not about to be checked."""
        return [g for g in self._groups if not np.isin(g.columns, self._checking).any()]

    def block(self) -> Array:
        """Return what goes through K next: search directions, and solutions to be checked."""
        parts = [group.p for group in self._searching()] + [self._x[:, self._checking]]
        return np.take(np.concatenate(parts, axis=1), self._order(), axis=1)

    def sizes(self) -> Integers:
        """Return the training-set size of each column of the block; they fall."""
        return self._unordered_sizes()[self._order()]

    def _unordered_sizes(self) -> Integers:
        searching = [np.full(g.p.shape[1], self._sizes[g.columns[0]]) for g in self._searching()]
        return np.concatenate([*searching, self._sizes[self._checking]])

    def _order(self) -> Integers:
        return np.argsort(-self._unordered_sizes(), kind="stable")

    def advance(self, product: Array) -> None:
        """Take K times the block, this rank's rows, and move every column one step."""
        self._require_finite(product)
        self.passes += 1
        before, checking, searching = self.left, self._checking, self._searching()
        unordered = np.empty_like(product)
        unordered[:, self._order()] = product
        ends = np.cumsum([group.p.shape[1] for group in searching])
        *parts, checked = np.split(unordered, ends, axis=1) if len(ends) else [unordered]
        for group, q in zip(searching, parts, strict=True):
            group.q = self._plus_ridge(q, group.matrix, group.p)
        self._checking = np.arange(0)
        self._step(searching)
        self._check(checking, checked)
        self.history.append(float(self._relative[before].max()))

    def _plus_ridge(self, product: Array, matrix: Matrix, v: Array) -> Array:
        product[self._outside[matrix.rows]] = 0.0
        return product + matrix.ridge * v

    def _require_finite(self, product: Array) -> None:
        bad = lambda rows: np.array([float(not np.isfinite(product[rows]).all())])  # noqa: E731
        if self._spread.totals(bad)[0][0]:
            raise SolveError(
                "the kernel's product with a vector is not finite",
                "run `hpcnk verify` on the output folder; a tile holds NaN or infinity",
            )

    def solution(self) -> Solution:
        """Return the result once no column is left."""
        status = [status for status in self._status if status is not None]
        return Solution(
            self._x, self._iterations, self._relative, status, self.passes, self.history
        )

    def _step(self, groups: Sequence[Group]) -> None:
        """One CG iteration of these groups, q = (P K P + ridge I) p."""
        lost = step_length(self._spread, groups) if groups else []
        for group in lost:
            self._give_up(group)
        groups = [group for group in groups if group not in lost]
        if not groups:
            return
        moving = [self._moving(group.columns) for group in groups]
        for group, moves in zip(groups, moving, strict=True):
            self._x[:, group.columns[moves]] += group.p @ group.step[:, moves]
            group.r -= group.q @ group.step
            self._iterations[group.columns[moves]] += 1
        z = self._precondition([(group.matrix, group.r) for group in groups])
        squares, couplings = self._measure(groups, z)
        for group, moves, square in zip(groups, moving, squares, strict=True):
            columns = group.columns[moves]
            self._relative[columns] = np.sqrt(square[moves]) / self._scale[columns]
        on = [self._moving(group.columns).any() for group in groups]
        for group, moves_on in zip(groups, on, strict=True):
            if not moves_on:
                self._send_to_check(group)
        z, couplings = list(compress(z, on)), list(compress(couplings, on))
        turn(self._spread, list(compress(groups, on)), z, couplings)

    def _moving(self, columns: Integers) -> NDArray[np.bool_]:
        """Tell which columns do not rest: not done by what CG carries, with iterations left."""
        unknown = self._relative[columns] > self._limits.tolerance
        unknown &= self._iterations[columns] < self._limits.max_iterations
        return unknown & np.isin(columns, self.left)

    def _left_of(self, columns: Integers) -> Integers:
        """Return those of the columns that have not ended."""
        return columns[np.isin(columns, self.left)]

    def _measure(
        self, groups: Sequence[Group], z: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
        """Return the squared norms of the residuals, and q^T z, of each group."""
        squares = [dots(group.r, group.r) for group in groups]
        couplings = [gram(group.q, part) for group, part in zip(groups, z, strict=True)]
        found = self._spread.totals(*squares, *couplings)
        return found[: len(squares)], found[len(squares) :]

    def _send_to_check(self, group: Group) -> None:
        self._checking = np.concatenate([self._checking, self._left_of(group.columns)])

    def _give_up(self, group: Group) -> None:
        """Stop iterating these columns; the next pass takes their true residuals."""
        self._send_to_check(group)
        for column in self._left_of(group.columns):
            self._status[column] = Status.INDEFINITE
        self._groups = [other for other in self._groups if other is not group]

    def _check(self, columns: Integers, product: Array) -> None:
        """Judge columns by their true residuals, product = K x."""
        if not columns.size:
            return
        residuals = np.zeros(self._x.shape)
        for i, column in enumerate(columns.tolist()):
            matrix, x = self._problem.matrices[column], self._x[:, column : column + 1]
            ax = self._plus_ridge(product[:, i : i + 1], matrix, x)
            residuals[:, column : column + 1] = self._problem.b[:, column : column + 1] - ax
        true = _norms(self._spread, residuals[:, columns]) / self._scale[columns]
        worse = (true > 1) & (self._iterations[columns] == 0)  # a guess that zero is better than
        self._x[:, columns[worse]] = 0.0
        residuals[:, columns[worse]] = self._problem.b[:, columns[worse]]
        true = np.where(worse, 1.0, true)
        gain = true <= 0.5 * self._checked[columns]
        self._gainless[columns] = np.where(gain, 0, self._gainless[columns] + 1)
        self._checked[columns] = np.minimum(self._checked[columns], true)
        self._relative[columns] = true
        for column, residual in zip(columns.tolist(), true.tolist(), strict=True):
            verdict = self._verdict(column, residual)
            if verdict is not None:
                self._finish(column, verdict, residual)
        self._go_on(self._left_of(columns), residuals)

    def _go_on(self, failed: Integers, residuals: Array) -> None:
        """Search again with columns that failed their test, from the residuals of all columns."""
        self._groups = [group for group in self._groups if self._left_of(group.columns).size]
        again = [group for group in self._groups if np.isin(group.columns, failed).any()]
        for group in again:
            wrong = np.isin(group.columns, failed)
            group.r[:, wrong] = residuals[:, group.columns[wrong]]
        if again:
            self._search_from_residuals(again)
        alone = np.setdiff1d(failed, [column for group in again for column in group.columns])
        if alone.size:
            self._restart(self._together(alone), residuals)

    def _verdict(self, column: int, residual: float) -> Status | None:
        if residual <= self._limits.tolerance:
            return Status.CONVERGED
        if self._status[column] is not None:  # found indefinite before its residual was taken
            return Status.INDEFINITE
        if self._iterations[column] >= self._limits.max_iterations:
            return Status.MAX_ITERATIONS
        if self._gainless[column] >= RESTARTS_WITHOUT_GAIN:
            return Status.STAGNATED
        return None

    def _finish(self, column: int, status: Status, residual: float) -> None:
        self._status[column] = status
        self._relative[column] = residual
        self.left = self.left[self.left != column]

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return all that changes from pass to pass; x, r, p with this rank's rows.

        Each group has a number in `group`; its directions stand in p in place of its first
        columns, `width` of them.
        """
        columns = len(self._scale)
        r, p = np.zeros_like(self._x), np.zeros_like(self._x)
        number, width = np.full(columns, NO_GROUP), np.zeros(columns, np.int64)
        for i, group in enumerate(self._groups):
            directions = group.p.shape[1]
            r[:, group.columns] = group.r
            p[:, group.columns[:directions]] = group.p
            number[group.columns], width[group.columns] = i, directions
        codes = [NO_STATUS if s is None else list(Status).index(s) for s in self._status]
        return {
            **{name: getattr(self, f"_{name}") for name in _CARRIED},
            "x": self._x,
            "r": r,
            "p": p,
            "group": number,
            "width": width,
            "checking": self._checking,
            "status": np.array(codes, np.int64),
            "left": self.left,
            "history": np.array(self.history),
        }

    def _restore(self, snapshot: Snapshot) -> None:
        for name in (*_CARRIED, "x"):
            setattr(self, f"_{name}", np.array(snapshot[name], getattr(self, f"_{name}").dtype))
        codes = snapshot["status"].tolist()
        self._status = [None if code == NO_STATUS else list(Status)[code] for code in codes]
        self.left, self._checking = np.array(snapshot["left"]), np.array(snapshot["checking"])
        self.history = snapshot["history"].tolist()
        self.passes = len(self.history)
        number = snapshot["group"]
        for i in range(number.max(initial=NO_GROUP) + 1):
            columns = np.flatnonzero(number == i)
            directions = snapshot["width"][columns[0]]
            group = Group(columns, self._problem.matrices[columns[0]], snapshot["r"][:, columns])
            group.p = np.ascontiguousarray(snapshot["p"][:, columns[:directions]])
            self._groups.append(group)


def _norms(spread: Spread, a: Array) -> Array:
    return np.sqrt(spread.totals(dots(a, a))[0])
