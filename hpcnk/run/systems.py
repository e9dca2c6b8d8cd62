"""Solving the systems of all ridges on some of the training rows, with checkpoints on the way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.errors import SolveError, Stopped
from hpcnk.run.checkpoint import Checkpoints
from hpcnk.run.session import Session
from hpcnk.solve import (
    Limits,
    LowRank,
    Solution,
    Status,
    Systems,
    conjugate_gradient,
    identity,
    pivoted_cholesky,
)
from hpcnk.solve.operator import Operator
from hpcnk.solve.preconditioner import Precondition

Array = NDArray[np.float64]
Which = tuple[str, str]  # the name of a solve, and its rows in words


@dataclass(frozen=True)
class SolvedSystems:
    """The solved systems of all ridges on some rows. `x` has shape (ridges, n, outputs).

    `scale` is trace(K)/n of the rows, `ridges` are absolute.
    """

    x: Array
    scale: float
    ridges: Array
    solution: Solution

    def summary(self, relative: tuple[float, ...]) -> list[dict[str, Any]]:
        """One entry a ridge, as report.json has it."""
        outputs = self.x.shape[2]
        columns = [slice(i * outputs, (i + 1) * outputs) for i in range(len(relative))]
        return [
            {
                "ridge": ridge,
                "ridge_absolute": float(absolute),
                "iterations": self.solution.iterations[part].tolist(),
                "true_relative_residual": self.solution.true_relative_residual[part].tolist(),
                "converged": all(s is Status.CONVERGED for s in self.solution.status[part]),
                "status": [s.name.lower() for s in self.solution.status[part]],
            }
            for ridge, absolute, part in zip(relative, self.ridges, columns, strict=True)
        ]


def solve_systems(
    session: Session,
    operator: Operator,
    y: Array,
    keep: NDArray[np.bool_],
    which: Which,
    origin: dict[str, str],
) -> SolvedSystems:
    """Solve for all ridges with the rows `keep`, y (n, outputs). Collective.

    `origin`: what a checkpoint must have been made from. Raises SolveError, StorageError, Stopped.
    """
    deck, (name, rows) = session.deck.solve, which
    scale = _mean_diagonal(operator, int(keep.sum()))
    ridges = np.array(deck.ridge) * scale
    outputs = y.shape[1]
    checkpoints = Checkpoints(session, name, origin)
    start = checkpoints.newest(len(y), len(ridges) * outputs)
    if start is not None:
        session.say(f"solve: {rows}: going on after {len(start['history'])} passes")
    solution = conjugate_gradient(
        operator,
        np.tile(np.where(keep[:, None], y, 0.0), (1, len(ridges))),
        np.repeat(ridges, outputs),
        _preconditioner(session, operator, rows),
        Limits(deck.tolerance, deck.max_iterations),
        lambda systems: _observe(session, which, checkpoints, systems),
        start,
    )
    _warn_of_failures(session, solution, outputs, rows)
    session.say(
        f"solve: {rows}: {solution.x.shape[1]} systems in {solution.passes} passes over the "
        f"kernel, worst true relative residual {solution.true_relative_residual.max():.1e}"
    )
    x = solution.x.reshape(len(y), len(ridges), outputs).transpose(1, 0, 2)
    return SolvedSystems(np.ascontiguousarray(x), scale, ridges, solution)


def _preconditioner(session: Session, operator: Operator, rows: str) -> Precondition:
    """Return what the deck asks for, made at its first use: a solve that is over needs none."""
    asked = session.deck.solve.preconditioner
    if asked is None:
        return identity

    @cache
    def made() -> LowRank:
        factor = pivoted_cholesky(operator, asked.rank, lambda: _between_columns(session))
        session.say(f"solve: {rows}: pivoted Cholesky of rank {factor.rank}")
        return factor

    return lambda residuals, ridges: made()(residuals, ridges)


def _between_columns(session: Session) -> None:
    session.watchdog.beat()
    session.stop.raise_if_requested(session.comm)


def _mean_diagonal(operator: Operator, rows: int) -> float:
    """Return trace(K)/n of the rows in use. Raises SolveError if it cannot scale a ridge."""
    mean = float(operator.diagonal().sum()) / rows
    if not (np.isfinite(mean) and mean > 0):
        raise SolveError(
            f"trace(K)/n is {mean}, expected a positive number",
            "check the layers (b_std and w_std) and the data; `hpcnk verify` checks the tiles",
        )
    return mean


def _observe(session: Session, which: Which, checkpoints: Checkpoints, systems: Systems) -> None:
    """Log a pass; store the state when it is time, at the end, or when a signal came. Collective.

    The last solve is not stored at its end, for the solution is. Raises Stopped, StorageError.
    """
    name, rows = which
    session.watchdog.beat()
    left, worst = systems.left.size, systems.history[-1]
    fields = {"rows": rows, "iteration": systems.passes, "systems_left": left}
    session.events.write("iteration", **fields, worst_residual=worst)
    session.faults.step("solve")
    votes = session.comm.allgather((bool(session.stop.requested), checkpoints.is_due(systems)))
    stopped, due = any(vote[0] for vote in votes), votes[0][1]
    if stopped or due or (not left and name == "validation"):
        checkpoints.write(systems)
    if stopped:
        raise Stopped(
            "solve: stopped by a signal; the state of the solver is stored",
            "start the same command again, on any number of ranks, to go on from there",
        )


def _warn_of_failures(session: Session, solution: Solution, outputs: int, which: str) -> None:
    """Warn once a ridge and kind of failure."""
    for i, ridge in enumerate(session.deck.solve.ridge):
        columns = range(i * outputs, (i + 1) * outputs)
        for status in Status:
            failed = [c for c in columns if solution.status[c] is status]
            if failed and status is not Status.CONVERGED:
                worst = solution.true_relative_residual[failed].max()
                session.warn(
                    "solve",
                    f"{which}, ridge {ridge:g}, {len(failed)} of {outputs} output(s): "
                    f"{status.value} (worst true relative residual {worst:.1e} after at most "
                    f"{solution.iterations[failed].max()} iterations)",
                )
