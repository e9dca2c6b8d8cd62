"""Preconditioned conjugate gradients for many systems that share the passes over the kernel.

Each column c solves (K + ridge_c I) x_c = b_c on its own (Hestenes and Stiefel 1952), but all
columns go through K as one block. The residual that CG carries along drifts from the true one, so
it is not believed: when it falls below the tolerance the column pauses, its solution takes part in
the next pass in place of a search direction, and the residual computed from it decides. A column
that fails the test starts again from its true residual.

All that the iteration carries along is a dictionary of arrays, `Systems.snapshot`; started from
one, it goes on as if it had never stopped.

Vectors are replicated on all ranks. The few numbers that decide (dot products, norms) are those of
rank 0, so that ranks on unlike processors cannot come to different decisions and wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import SolveError
from hpcnk.solve.operator import Array, Operator
from hpcnk.solve.preconditioner import Precondition

NO_STATUS = -1  # in a snapshot
RESTARTS_WITHOUT_GAIN = 3  # a restart must at least halve the true residual

_CARRIED = (
    "x", "r", "p", "rz", "relative", "checked", "gainless", "checking", "iterations",
)  # fmt: skip
Snapshot = Mapping[str, NDArray[Any]]  # what `Systems.snapshot` gives


@dataclass(frozen=True)
class Limits:
    """When a column ends: its true residual norm relative to that of b, and its iterations."""

    tolerance: float
    max_iterations: int


class Status(Enum):
    """How a column ended; the value is a sentence of advice."""

    CONVERGED = "converged"
    MAX_ITERATIONS = (
        "not converged within max_iterations: raise it, raise the preconditioner's rank, "
        "or raise the ridge"
    )
    STAGNATED = (
        "stagnated: rounding keeps the true residual above the tolerance; "
        "raise the tolerance or the ridge, or use kernel.dtype float64"
    )
    INDEFINITE = (
        "indefinite: the stored kernel plus this ridge is not positive definite to rounding; "
        "raise the ridge or use kernel.dtype float64"
    )


@dataclass(frozen=True)
class Solution:
    """Solutions x, (n, columns), and for each column how it went."""

    x: Array
    iterations: NDArray[np.int64]
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
    b: Array,
    ridges: Array,
    precondition: Precondition,
    limits: Limits,
    observe: Callable[[Systems], None] = lambda systems: None,
    start: Snapshot | None = None,
) -> Solution:
    """Solve (K + ridge_c I) x_c = b_c for all columns at once. Collective.

    `b` has shape (n, columns), `ridges` (columns,), absolute. `observe` is called on all ranks
    after each pass over the kernel, and may end the work by raising on all of them. `start` is what
    a snapshot of the same systems held. Raises SolveError when a product is not finite.
    """
    systems = Systems(operator, b, ridges, precondition, limits)
    systems.begin(start)
    while systems.left.size:
        product = operator.apply(systems.block())
        if not np.isfinite(product).all():
            raise SolveError(
                "the kernel's product with a vector is not finite",
                "run `hpcnk verify` on the output folder; a tile holds NaN or infinity",
            )
        systems.advance(product)
        observe(systems)
    return systems.solution()


class Systems:
    """The state of all columns. Arrays are (n, columns); `left` lists those still in the block."""

    def __init__(
        self,
        operator: Operator,
        b: Array,
        ridges: Array,
        precondition: Precondition,
        limits: Limits,
    ) -> None:
        columns = b.shape[1]
        self._comm = operator.sums.comm
        self._b, self._ridges, self._precondition = b, ridges, precondition
        self._limits = limits
        self._scale = self._norms(b)
        self._x = np.zeros_like(b)
        self._r = b.copy()
        self._p = np.zeros_like(b)
        self._rz = np.zeros(columns)
        self._relative = np.ones(columns)  # of the residual CG carries, or the true one if checked
        self._checked = np.full(columns, np.inf)  # the last true relative residual
        self._gainless = np.zeros(columns, np.int64)
        self._checking = np.zeros(columns, bool)
        self._iterations = np.zeros(columns, np.int64)
        self._status: list[Status | None] = [None] * columns
        self.passes = 0
        self.history: list[float] = []
        self.left = np.arange(columns)

    def begin(self, start: Snapshot | None) -> None:
        """Take the first search directions, or those that a snapshot holds."""
        if start is not None:
            self._restore(start)
            return
        for column in np.flatnonzero(self._scale == 0).tolist():
            self._finish(column, Status.CONVERGED, 0.0)
        self._restart(self.left)

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Return all that changes from pass to pass. The arrays are not copied."""
        codes = [NO_STATUS if s is None else list(Status).index(s) for s in self._status]
        arrays = {name: getattr(self, f"_{name}") for name in _CARRIED}
        arrays["checking"] = arrays["checking"].astype(np.uint8)
        return {
            **arrays,
            "status": np.array(codes, np.int64),
            "left": self.left,
            "history": np.array(self.history),
        }

    def _restore(self, snapshot: Snapshot) -> None:
        for name in _CARRIED:
            setattr(self, f"_{name}", np.array(snapshot[name], getattr(self, f"_{name}").dtype))
        codes = snapshot["status"].tolist()
        self._status = [None if code == NO_STATUS else list(Status)[code] for code in codes]
        self.left = np.array(snapshot["left"])
        self.history = snapshot["history"].tolist()
        self.passes = len(self.history)

    def block(self) -> Array:
        """Return what goes through K next: search directions, or solutions to be checked."""
        directions, solutions = self._p[:, self.left], self._x[:, self.left]
        return np.where(self._checking[self.left], solutions, directions)

    def advance(self, product: Array) -> None:
        """Take K times the block, shape (n, left), and move every column one step."""
        self.passes += 1
        left, checking = self.left, self._checking[self.left]
        product = product + self._ridges[left] * self.block()
        self._check(left[checking], product[:, checking])
        self._step(left[~checking], product[:, ~checking])
        self.history.append(float(self._relative[left].max()))

    def solution(self) -> Solution:
        """Return the result once no column is left."""
        status = [status for status in self._status if status is not None]
        return Solution(
            self._x, self._iterations, self._relative, status, self.passes, self.history
        )

    def _step(self, columns: NDArray[np.int64], q: Array) -> None:
        """One CG iteration of these columns, q = (K + ridge I) p."""
        p = self._p[:, columns]
        curvature = self._dots(p, q)
        good = (curvature > 0) & (self._rz[columns] > 0)
        self._give_up(columns[~good], Status.INDEFINITE)
        columns, p, q = columns[good], p[:, good], q[:, good]
        step = self._rz[columns] / curvature[good]
        self._x[:, columns] += step * p
        self._r[:, columns] -= step * q
        self._iterations[columns] += 1
        self._relative[columns] = self._norms(self._r[:, columns]) / self._scale[columns]
        done = self._relative[columns] <= self._limits.tolerance
        self._checking[columns] = done | (self._iterations[columns] >= self._limits.max_iterations)
        self._turn(columns[~self._checking[columns]])

    def _turn(self, columns: NDArray[np.int64]) -> None:
        """Choose the next search directions, conjugate to the last ones."""
        r = self._r[:, columns]
        z = self._precondition(r, self._ridges[columns])
        rz = self._dots(r, z)
        self._p[:, columns] = z + (rz / self._rz[columns]) * self._p[:, columns]
        self._rz[columns] = rz

    def _restart(self, columns: NDArray[np.int64]) -> None:
        """Forget the search directions and start from the residual at hand."""
        r = self._r[:, columns]
        z = self._precondition(r, self._ridges[columns])
        self._p[:, columns] = z
        self._rz[columns] = self._dots(r, z)
        self._checking[columns] = False

    def _check(self, columns: NDArray[np.int64], product: Array) -> None:
        """Judge paused columns by their true residuals, product = (K + ridge I) x."""
        self._r[:, columns] = self._b[:, columns] - product
        true = self._norms(self._r[:, columns]) / self._scale[columns]
        gain = true <= 0.5 * self._checked[columns]
        self._gainless[columns] = np.where(gain, 0, self._gainless[columns] + 1)
        self._checked[columns] = np.minimum(self._checked[columns], true)
        self._relative[columns] = true
        for column, residual in zip(columns.tolist(), true.tolist(), strict=True):
            verdict = self._verdict(column, residual)
            if verdict is not None:
                self._finish(column, verdict, residual)
        self._restart(columns[np.isin(columns, self.left)])

    def _verdict(self, column: int, residual: float) -> Status | None:
        if residual <= self._limits.tolerance:
            return Status.CONVERGED
        if self._status[column] is not None:  # found indefinite before its residual was taken
            return self._status[column]
        if self._iterations[column] >= self._limits.max_iterations:
            return Status.MAX_ITERATIONS
        if self._gainless[column] >= RESTARTS_WITHOUT_GAIN:
            return Status.STAGNATED
        return None

    def _give_up(self, columns: NDArray[np.int64], status: Status) -> None:
        """Stop iterating these columns; the next pass takes their true residuals."""
        for column in columns:
            self._status[column] = status
        self._checking[columns] = True

    def _finish(self, column: int, status: Status, residual: float) -> None:
        self._status[column] = status
        self._relative[column] = residual
        self.left = self.left[self.left != column]

    def _dots(self, a: Array, b: Array) -> Array:
        dots = np.einsum("nc,nc->c", a, b)
        self._comm.Bcast(dots, root=0)
        return dots

    def _norms(self, a: Array) -> Array:
        return np.sqrt(self._dots(a, a))
