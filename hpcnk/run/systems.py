"""Solving the systems of all sizes and ridges on some of the training rows, with checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.deck import Deck
from hpcnk.errors import Stopped
from hpcnk.report import passes
from hpcnk.run.advice import against_rounding
from hpcnk.run.checkpoint import Checkpoints
from hpcnk.run.needs.solve_memory import Room
from hpcnk.run.preconditioners import LazyPrecondition, make_preconditioner
from hpcnk.run.problem import Columns
from hpcnk.run.session import Session
from hpcnk.solve import (
    Factor,
    Limits,
    Solution,
    Spread,
    Status,
    Systems,
    conjugate_gradient,
    dense_solution,
)
from hpcnk.solve.operator import Operator

Array = NDArray[np.float64]
GOOD = 1e-4  # a relative residual under which a solution is of some use
Which = tuple[str, str]  # the name of a solve, and its rows in words


@dataclass(frozen=True)
class SolvedSystems:
    """The solved systems, what made them quick, and how each went."""

    columns: Columns
    solution: Solution
    precondition: LazyPrecondition

    def summary(self) -> list[dict[str, Any]]:
        """One entry a setting, as report.json has it."""
        return [self._entry(i) for i in range(len(self.columns.settings))]

    def _entry(self, number: int) -> dict[str, Any]:
        setting, part = self.columns.settings[number], self.columns.of(number)
        status = self.solution.status[part]
        absolute = [matrix.ridge for matrix in self.columns.matrices[part]]
        return {
            "rows": setting.rows,
            "ridge": setting.ridge,
            "ridge_absolute": float(np.mean(absolute)),
            "iterations": self.solution.iterations[part].tolist(),
            "true_relative_residual": self.solution.true_relative_residual[part].tolist(),
            "converged": all(s is Status.CONVERGED for s in status),
            "status": [s.name.lower() for s in status],
        }


def solve_systems(
    session: Session,
    operator: Operator,
    columns: Columns,
    which: Which,
    origin: dict[str, str],
    room: Room,
    guess: Array | None = None,
    factor: Factor | None = None,
) -> SolvedSystems:
    """Solve for all settings. Collective.

    `origin`: what a checkpoint must have been made from; `room`: for the preconditioner; `guess`:
    this rank's rows of solutions to start from; `factor`: that of an earlier solve of this kernel.
    Raises SolveError, StorageError, Stopped.
    """
    rows = which[1]
    checkpoints = Checkpoints(session, which[0], origin)
    start = checkpoints.newest(operator.spread, columns.matrices)
    if start is not None:
        session.say(f"solve: {rows}: going on after {passes(len(start['history']))}")
    parts = (session, operator, columns.row_sets, columns.matrices, rows)
    precondition = make_preconditioner(*parts, checkpoints.rank, room, known=factor)
    deck = session.deck.solve
    problem = columns.problem(operator.spread.mine, deck.block)
    if deck.method == "dense":
        solution = dense_solution(operator, problem, deck.tolerance)
    else:
        observer = _Observer(session, which, checkpoints, operator.spread, precondition)
        with observer.storing_if_stopped():
            limits = Limits(deck.tolerance, deck.max_iterations)
            solution = conjugate_gradient(
                operator, problem, precondition, limits, observer, start, guess
            )
    _warn_of_failures(session, columns, solution, rows)
    session.say(
        f"solve: {rows}: {len(columns.matrices)} systems in {passes(solution.passes)} over the "
        f"kernel, worst true relative residual {solution.true_relative_residual.max():.1e}"
    )
    return SolvedSystems(columns, solution, precondition)


class _Observer:
    """Called on all ranks after each pass: logs it, and stores the state when it is time, at the
    end if more is to come, or when a signal came. Collective; raises Stopped, StorageError.
    """

    def __init__(
        self,
        session: Session,
        which: Which,
        checkpoints: Checkpoints,
        spread: Spread,
        precondition: LazyPrecondition,
    ) -> None:
        self._session, self._which, self._checkpoints = session, which, checkpoints
        self._spread, self._precondition = spread, precondition
        self._systems: Systems | None = None

    def __call__(self, systems: Systems) -> None:
        self._systems = systems
        session, (name, rows) = self._session, self._which
        session.watchdog.beat()
        left, worst = systems.left.size, systems.history[-1]
        fields = {"rows": rows, "iteration": systems.passes, "systems_left": left}
        session.events.write("iteration", **fields, worst_residual=worst)
        session.faults.step("solve")
        mine = (bool(session.stop.requested), self._checkpoints.is_due(systems))
        votes = session.comm.allgather(mine)
        if any(stopped for stopped, _ in votes):
            raise Stopped(
                "solve: stopped by a signal; the state of the solver is stored",
                "start the same command again, on any number of ranks, to go on from there",
            )
        deck = session.deck.solve
        more = name == "validation" or deck.leave_one_out or deck.evidence
        if votes[0][1] or (not left and more):
            self._store(systems)

    @contextmanager
    def storing_if_stopped(self) -> Iterator[None]:
        """Store the state that a signal stops the work at, be it after a pass or within one."""
        try:
            yield
        except Stopped:
            if self._systems is not None:
                self._store(self._systems)
            raise

    def _store(self, systems: Systems) -> None:
        self._checkpoints.write(self._spread, systems, self._precondition.rank)


def _advice(deck: Deck, status: Status, worst: float) -> str:
    """Say what helps against rounding; empty if it is not to blame."""
    if status is Status.STAGNATED and worst < GOOD:
        return f"; set solve.tolerance above {worst:.1e}, or {against_rounding(deck)}"
    rounding = status in (Status.STAGNATED, Status.INDEFINITE)
    return f"; {against_rounding(deck)}" if rounding else ""


def _warn_of_failures(session: Session, columns: Columns, solution: Solution, which: str) -> None:
    """Warn once a setting and kind of failure."""
    several = len({setting.rows for setting in columns.settings}) > 1
    for i, setting in enumerate(columns.settings):
        part = range(len(columns.matrices))[columns.of(i)]
        size = f"{setting.rows} rows: " if several else ""
        for status in Status:
            failed = [c for c in part if solution.status[c] is status]
            if failed and status is not Status.CONVERGED:
                worst = solution.true_relative_residual[failed].max()
                session.warn(
                    "solve",
                    f"{which}: {size}ridge {setting.ridge:g}: {len(failed)} of {len(part)} systems "
                    f"{status.value} (worst true relative residual {worst:.1e})"
                    f"{_advice(session.deck, status, worst)}",
                )
