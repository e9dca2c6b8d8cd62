"""Preconditioned conjugate gradients for many systems that share the passes over the kernel.

Column c solves (P K P + ridge I) x_c = b_c with its matrix: a row set and a ridge. All columns go
through K as one block. Columns of one matrix form a group, which searches in the space that all
its directions span (block CG, O'Leary 1980), in a form that survives rounding and dependent columns
(see `directions`). With groups of one column this is the usual CG.

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
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import SolveError
from hpcnk.solve.directions import Group, factors, step_length, turn
from hpcnk.solve.matrices import Matrix, sizes_of
from hpcnk.solve.operator import Operator
from hpcnk.solve.precondition import Precondition
from hpcnk.solve.problem import Integers, Limits, Problem, Solution, Status
from hpcnk.solve.spread import Array, Spread, dots

NO_STATUS = -1  # in a snapshot
NO_GROUP = -1  # of a column that has ended
RESTARTS_WITHOUT_GAIN = 3  # a restart must at least halve the true residual

Snapshot = Mapping[str, NDArray[Any]]  # what `Systems.snapshot` gives
_CARRIED = ("relative", "checked", "gainless", "iterations")
SPREAD = ("x", "basis", "p")  # arrays of a snapshot with this rank's rows


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
        self._begin(begun)
        self._groups = sorted(
            [*self._groups, *begun], key=lambda group: -self._sizes[group.columns[0]]
        )

    def _begin(self, groups: Sequence[Group]) -> None:
        z = self._precondition([(group.matrix, group.basis) for group in groups])
        turn(self._spread, groups, z, factors(self._spread, groups, z))

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
            columns = group.columns[moves]
            step = group.inverse @ group.slope
            self._x[:, columns] += group.p @ (step @ group.weights[:, moves])
            group.basis -= group.q @ step
            self._iterations[columns] += 1
        z = self._precondition([(group.matrix, group.basis) for group in groups])
        found = factors(self._spread, groups, z)
        for group, moves, factor in zip(groups, moving, found, strict=True):
            columns = group.columns[moves]
            self._relative[columns] = np.sqrt(factor.squares[moves]) / self._scale[columns]
        on = [self._moving(group.columns).any() for group in groups]
        for group, moves_on in zip(groups, on, strict=True):
            if not moves_on:
                self._send_to_check(group)
        z, found = list(compress(z, on)), list(compress(found, on))
        turn(self._spread, list(compress(groups, on)), z, found)

    def _moving(self, columns: Integers) -> NDArray[np.bool_]:
        """Tell which columns do not rest: not done by what CG carries, with iterations left."""
        unknown = self._relative[columns] > self._limits.tolerance
        unknown &= self._iterations[columns] < self._limits.max_iterations
        return unknown & np.isin(columns, self.left)

    def _left_of(self, columns: Integers) -> Integers:
        """Return those of the columns that have not ended."""
        return columns[np.isin(columns, self.left)]

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
            wrong, carried = np.isin(group.columns, failed), group.residuals()
            group.set_residuals(np.where(wrong, residuals[:, group.columns], carried))
        if again:
            self._begin(again)
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
        """Return all that changes from pass to pass; x, basis, p with this rank's rows.

        Each group has a number in `group`; its basis and directions stand in place of its first
        columns, `width` of them, and its weights in the first rows of its columns.
        """
        columns = len(self._scale)
        basis, p = np.zeros_like(self._x), np.zeros_like(self._x)
        weights = np.zeros((columns, columns))
        number, width = np.full(columns, NO_GROUP), np.zeros(columns, np.int64)
        for i, group in enumerate(self._groups):
            directions = group.p.shape[1]
            basis[:, group.columns[:directions]] = group.basis
            p[:, group.columns[:directions]] = group.p
            weights[:directions, group.columns] = group.weights
            number[group.columns], width[group.columns] = i, directions
        codes = [NO_STATUS if s is None else list(Status).index(s) for s in self._status]
        return {
            **{name: getattr(self, f"_{name}") for name in _CARRIED},
            "x": self._x,
            "basis": basis,
            "p": p,
            "weights": weights,
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
            basis, p = (snapshot[name][:, columns[:directions]] for name in ("basis", "p"))
            group = Group(columns, self._problem.matrices[columns[0]], basis)
            group.p = np.ascontiguousarray(p)
            group.weights = np.ascontiguousarray(snapshot["weights"][:directions, columns])
            self._groups.append(group)
        self._reopen()

    def _reopen(self) -> None:
        """Check and go on with columns that a lower limit had ended; their groups wait for it."""
        ended = np.array([status is Status.MAX_ITERATIONS for status in self._status])
        again = np.flatnonzero(ended & (self._iterations < self._limits.max_iterations))
        for column in again.tolist():
            self._status[column] = None
        self._checked[again], self._gainless[again] = np.inf, 0
        self.left = np.union1d(self.left, again)
        self._checking = np.concatenate([self._checking, again])


def _norms(spread: Spread, a: Array) -> Array:
    return np.sqrt(spread.totals(dots(a, a))[0])
