"""Stage 2: solve for all outputs and ridges at once, and choose the ridge on validation rows.

With validation rows the systems are solved twice: on the rest of the training rows, to score every
ridge on the rows held out; then on all training rows, to predict. Each solve has its checkpoints,
which go when the solution is written; a solution that is there is not computed again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import agreement, on_root
from hpcnk.data import validation_rows
from hpcnk.errors import SolveError, Stopped, StorageError, UsageError
from hpcnk.report import better, score
from hpcnk.run.checkpoint import Checkpoints
from hpcnk.run.labels import read_targets
from hpcnk.run.prepare import require_inputs
from hpcnk.run.provenance import (
    require_same,
    settings_provenance,
    solution_provenance,
    solver_settings,
    train_contents,
)
from hpcnk.run.repair import STAGE, repair
from hpcnk.run.session import Session
from hpcnk.run.solve_memory import require_solve_memory
from hpcnk.run.stored import grid_of, read_labels, read_solution, require_grid
from hpcnk.run.sums import make_sums, single_thread_if_reproducible
from hpcnk.solve import (
    Limits,
    LowRank,
    Restricted,
    Solution,
    Status,
    Systems,
    TileOperator,
    conjugate_gradient,
    identity,
    pivoted_cholesky,
)
from hpcnk.solve.operator import Operator
from hpcnk.solve.preconditioner import Precondition
from hpcnk.store import (
    Layout,
    TileReader,
    read_attributes,
    read_layout,
    write_arrays,
)
from hpcnk.tiling import deal

Array = NDArray[np.float64]
Results = dict[str, Any]
SOLVES = ("validation", "all")
DO_NOT_TRUST = "the chosen solution did not reach the tolerance; do not trust the predictions"
ROUNDING = 2.0**-24  # relative, of a float32 entry


@dataclass(frozen=True)
class _Systems:
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


def solve(session: Session) -> bool:
    """Solve (K + ridge trace(K)/n I) alpha = Y and write solution.h5. Collective.

    Return whether the chosen solution, or any if none is chosen, reached the tolerance. Raises
    UsageError when the kernel is not complete, StorageError for a damaged tile, SolveError when no
    system can be solved.
    """
    session.enter("solve")
    contents = require_inputs(session)
    layout = require_complete(session, session.folder.kernel, train_contents(contents))
    origin = solution_provenance(session.deck, layout.id, contents) | solver_settings(session.deck)
    results = on_root(session.comm, lambda: _solved_before(session, origin))
    if results is None:
        session.forget_warnings("solve")
        results = _solve_anew(session, layout, contents, origin)
    return _tell(session, results)


def _solved_before(session: Session, origin: dict[str, str]) -> Results | None:
    """Return what the solver said of a solution that is there, sound, and of this deck."""
    path = session.folder.solution
    if not path.exists():
        return None
    try:
        stored = read_attributes(path)
        if any(stored.get(key) != value for key, value in origin.items()):
            return None
        _, results = read_solution(path, session.folder.inputs, len(session.deck.solve.ridge))
    except StorageError as error:
        session.warn(STAGE, f"solved anew, for {error.what}")
        return None
    session.say("solve: complete already")
    return results


def _solve_anew(
    session: Session, layout: Layout, contents: dict[str, Any], origin: dict[str, str]
) -> Results:
    """Solve on all training rows, and before without the validation rows, if there are any."""
    single_thread_if_reproducible(session)
    require_solve_memory(session)
    session.faults.step("solve")  # the first pass begins; the others do so in `_observe`
    operator = _load(session, layout, contents)
    _warn_of_rounding(session, layout)
    y, target = read_labels(session.folder.inputs, "train")
    validation = _validate(session, operator, y, target, origin)
    everything = np.ones(operator.n, bool)
    systems = _solve(session, operator, y, everything, ("all", "all training rows"), origin)
    return _record(session, systems, validation, origin)


def require_complete(session: Session, path: Path, contents: dict[str, Any]) -> Layout:
    """Return the layout of a complete tile file, made as the deck says from these contents.

    Collective. Raises UsageError if it is not complete, MismatchError if it was made otherwise.
    """
    return on_root(session.comm, lambda: _complete(session, path, contents))


def _complete(session: Session, path: Path, contents: dict[str, Any]) -> Layout:
    layout = read_layout(path) if path.exists() else None
    if layout is None or not layout.complete:
        raise UsageError(
            f"{path} is not complete", f"run `hpcnk kernel {session.deck.source}` first"
        )
    wanted = settings_provenance(session.deck, session.architecture) | contents
    require_same(path, layout.provenance, wanted, complete=True)
    folder, kernel = session.folder, session.deck.kernel
    grid = grid_of(folder.inputs, kernel.tile, test=path == folder.test_kernel)
    require_grid(layout, grid, kernel.dtype)
    return layout


def _load(session: Session, layout: Layout, contents: dict[str, Any]) -> TileOperator:
    """Read this rank's tiles into memory, checking each; those that are damaged are made anew."""
    comm, grid = session.comm, layout.grid
    mine = missing = deal(grid, comm.size, comm.rank)
    held: dict[int, NDArray[Any]] = {}
    for again in (False, True, True):
        with agreement(comm), TileReader(layout) as reader:
            held |= dict(_intact(session, reader, missing))
        missing = [number for number in mine if number not in held]
        if not repair(session, layout, contents, missing, again):
            break
    return TileOperator(make_sums(session), grid.n, [(grid.at(k), held[k]) for k in mine])


def _intact(
    session: Session, reader: TileReader, numbers: list[int]
) -> Iterator[tuple[int, NDArray[Any]]]:
    for number in numbers:
        session.faults.flip("solve", reader.layout, number)
        tile = reader.read_intact(number)
        session.watchdog.beat()
        if tile is not None:
            yield number, tile


def _validate(
    session: Session,
    operator: Operator,
    y: Array,
    target: NDArray[Any],
    origin: dict[str, str],
) -> dict[str, Any] | None:
    """Score every ridge on held-out training rows; None if the deck sets none aside."""
    data = session.deck.data
    if not data.validation:
        return None
    held = on_root(session.comm, lambda: validation_rows(target, data.validation, data.seed))
    keep = np.ones(operator.n, bool)
    keep[held] = False
    which = ("validation", f"without {len(held)} rows")
    systems = _solve(session, Restricted(operator, keep), y, keep, which, origin)
    encoded = [operator.apply(x)[held] for x in systems.x]

    def metrics_of_ridges() -> list[dict[str, float]]:
        targets = read_targets(session.folder.inputs)
        return [
            score(targets.task, targets.decode(part), target[held], y[held]) for part in encoded
        ]

    metrics = on_root(session.comm, metrics_of_ridges)
    summary = systems.summary(session.deck.solve.ridge)
    return {
        "rows": held,
        "metrics": metrics,
        "solve": summary,
        "selected": _select(metrics, [entry["converged"] for entry in summary]),
    }


def _select(metrics: list[dict[str, float]], converged: list[bool]) -> int:
    """Return the index of the best ridge, among the converged ones where there are any."""
    candidates = [i for i, good in enumerate(converged) if good] or list(range(len(metrics)))
    best = candidates[0]
    for i in candidates[1:]:
        if better(metrics[i], metrics[best]):
            best = i
    return best


def _solve(
    session: Session,
    operator: Operator,
    y: Array,
    keep: NDArray[np.bool_],
    which: tuple[str, str],
    origin: dict[str, str],
) -> _Systems:
    """Solve for all ridges with the rows `keep`; `which`: the name of this solve, and the rows."""
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
    return _Systems(np.ascontiguousarray(x), scale, ridges, solution)


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


def _observe(
    session: Session, which: tuple[str, str], checkpoints: Checkpoints, systems: Systems
) -> None:
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


def _warn_of_rounding(session: Session, layout: Layout) -> None:
    """Warn of ridges under the floor that float32 entries set, 2 sigma sqrt(n)."""
    floor = 2 * ROUNDING * np.sqrt(layout.grid.n)
    low = [f"{ridge:g}" for ridge in session.deck.solve.ridge if ridge < floor]
    if layout.dtype == np.float32 and low:
        session.warn(
            "solve",
            f"ridge {', '.join(low)}: below {floor:.1e}, where the rounding of float32 entries "
            "acts like noise on the kernel; use kernel.dtype float64 or a larger ridge",
        )


def _warn_of_failures(session: Session, solution: Solution, outputs: int, which: str) -> None:
    for column, status in enumerate(solution.status):
        if status is not Status.CONVERGED:
            ridge = session.deck.solve.ridge[column // outputs]
            session.warn(
                "solve",
                f"{which}, ridge {ridge:g}, output {column % outputs}: {status.value} "
                f"(true relative residual {solution.true_relative_residual[column]:.1e} after "
                f"{solution.iterations[column]} iterations)",
            )


def _record(
    session: Session,
    systems: _Systems,
    validation: dict[str, Any] | None,
    origin: dict[str, str],
) -> Results:
    """Write the solution; then the checkpoints can go. Collective. Raises StorageError."""
    ridge = session.deck.solve.ridge
    results = {
        "mean_diagonal": systems.scale,
        "solve": systems.summary(ridge),
        "selected_ridge": ridge[validation["selected"]] if validation else None,
        "validation": validation["metrics"] if validation else None,
        "validation_solve": validation["solve"] if validation else None,
    }
    arrays = {
        "alpha": systems.x,
        "ridge": np.array(ridge),
        "validation_rows": validation["rows"] if validation else np.arange(0),
        "results": np.frombuffer(json.dumps(results).encode(), np.uint8),  # attributes hold 64 kB
    }

    def write() -> None:
        write_arrays(session.folder.solution, arrays, origin)
        for name in SOLVES:
            Checkpoints(session, name, origin).remove()

    on_root(session.comm, write)
    return results


def _tell(session: Session, results: Results) -> bool:
    """Put the results into the report; return whether they can be trusted."""
    ridge, selected = session.deck.solve.ridge, results["selected_ridge"]
    if session.root:
        session.folder.update_report(**results, test=None)
    if selected is not None and len(ridge) > 1:
        hint = _edge(ridge, selected)
        session.say(f"solve: ridge {selected:g} is the best on the validation rows{hint}")
    if not usable(results):
        session.warn("solve", DO_NOT_TRUST)
    return usable(results)


def _edge(ridges: tuple[float, ...], selected: float) -> str:
    """Say so when the best ridge may lie outside the list."""
    if selected == min(ridges):
        return "; it is the smallest of the list: a smaller one may be better"
    if selected == max(ridges):
        return "; it is the largest of the list: a larger one may be better"
    return ""


def usable(results: dict[str, Any]) -> bool:
    """Return whether the selected ridge converged, or any ridge if none is selected."""
    selected = results["selected_ridge"]
    return any(e["converged"] for e in results["solve"] if selected in (None, e["ridge"]))
