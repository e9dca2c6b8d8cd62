"""Stage 2: solve for all outputs and ridges at once, and choose the ridge on validation rows.

With validation rows the systems are solved twice: on the rest of the training rows, to score every
ridge on the rows held out; then on all training rows, to predict.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import agreement, on_root
from hpcnk.data import validation_rows
from hpcnk.errors import SolveError, UsageError
from hpcnk.report import better, score
from hpcnk.run.labels import read_targets
from hpcnk.run.prepare import require_inputs
from hpcnk.run.provenance import (
    require_same,
    settings_provenance,
    solution_provenance,
    train_contents,
)
from hpcnk.run.session import Session
from hpcnk.solve import (
    Restricted,
    Solution,
    Status,
    TileOperator,
    conjugate_gradient,
    identity,
    pivoted_cholesky,
)
from hpcnk.solve.operator import Operator
from hpcnk.store import Layout, TileReader, read_arrays, read_layout, write_arrays
from hpcnk.tiling import deal

Array = NDArray[np.float64]
DO_NOT_TRUST = "the chosen solution did not reach the tolerance; do not trust the predictions"
ROUNDING = 2.0**-24  # relative, of a float32 entry


@dataclass(frozen=True)
class _Systems:
    """The solved systems of all ridges on some rows. `x` has shape (ridges, n, outputs)."""

    x: Array
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
    session.begin("solve")
    contents = require_inputs(session)
    layout = require_complete(session, session.folder.kernel, train_contents(contents))
    operator = _load(session, layout)
    _warn_of_rounding(session, layout)
    y, target = read_arrays(session.folder.inputs, "y_train", "target_train")
    validation = _validate(session, operator, y, target)
    everything = np.ones(operator.n, bool)
    systems = _solve(session, operator, y, everything, "all training rows")
    origin = solution_provenance(session.deck, layout.id, contents)
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
    return layout


def _load(session: Session, layout: Layout) -> TileOperator:
    """Read this rank's tiles into memory, checking each against its checksum."""
    comm, grid = session.comm, layout.grid
    with agreement(comm), TileReader(layout) as reader:
        tiles = [(grid.at(k), reader.read(k)) for k in deal(grid, comm.size, comm.rank)]
    return TileOperator(comm, grid.n, tiles)


def _validate(
    session: Session, operator: Operator, y: Array, target: NDArray[Any]
) -> dict[str, Any] | None:
    """Score every ridge on held-out training rows; None if the deck sets none aside."""
    data = session.deck.data
    if not data.validation:
        return None
    held = on_root(session.comm, lambda: validation_rows(target, data.validation, data.seed))
    keep = np.ones(operator.n, bool)
    keep[held] = False
    systems = _solve(session, Restricted(operator, keep), y, keep, f"without {len(held)} rows")
    targets = read_targets(session.folder.inputs)
    predictions = [targets.decode(operator.apply(x)[held]) for x in systems.x]
    metrics = [score(targets.task, scores, target[held], y[held]) for scores in predictions]
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
    session: Session, operator: Operator, y: Array, keep: NDArray[np.bool_], which: str
) -> _Systems:
    """Solve for all ridges with the rows `keep`."""
    deck, comm = session.deck.solve, session.comm
    scale = _mean_diagonal(operator, int(keep.sum()))
    ridges = np.array(deck.ridge) * scale
    outputs = y.shape[1]
    precondition = identity
    if deck.preconditioner is not None:
        stop = session.stop.raise_if_requested
        rank = deck.preconditioner.rank
        precondition = pivoted_cholesky(comm, operator, rank, lambda: stop(comm))
        session.say(f"solve: {which}: pivoted Cholesky of rank {precondition.rank}")
    solution = conjugate_gradient(
        comm,
        operator,
        np.tile(np.where(keep[:, None], y, 0.0), (1, len(ridges))),
        np.repeat(ridges, outputs),
        precondition,
        deck.tolerance,
        deck.max_iterations,
        lambda iteration, left, worst: _observe(session, which, iteration, left, worst),
    )
    _warn_of_failures(session, solution, outputs, which)
    session.say(
        f"solve: {which}: {solution.x.shape[1]} systems in {solution.passes} passes over the "
        f"kernel, worst true relative residual {solution.true_relative_residual.max():.1e}"
    )
    x = solution.x.reshape(len(y), len(ridges), outputs).transpose(1, 0, 2)
    return _Systems(np.ascontiguousarray(x), ridges, solution)


def _mean_diagonal(operator: Operator, rows: int) -> float:
    """Return trace(K)/n of the rows in use. Raises SolveError if it cannot scale a ridge."""
    mean = float(operator.diagonal().sum()) / rows
    if not (np.isfinite(mean) and mean > 0):
        raise SolveError(
            f"trace(K)/n is {mean}, expected a positive number",
            "check the layers (b_std and w_std) and the data; `hpcnk verify` checks the tiles",
        )
    return mean


def _observe(session: Session, which: str, iteration: int, left: int, worst: float) -> None:
    session.events.write(
        "iteration", rows=which, iteration=iteration, systems_left=left, worst_residual=worst
    )
    session.stop.raise_if_requested(session.comm)


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
    origin: dict[str, Any],
) -> bool:
    ridge = session.deck.solve.ridge
    summary = systems.summary(ridge)
    selected = ridge[validation["selected"]] if validation else None
    results = {
        "solve": summary,
        "selected_ridge": selected,
        "validation": validation["metrics"] if validation else None,
        "validation_solve": validation["solve"] if validation else None,
    }
    arrays = {
        "alpha": systems.x,
        "ridge": np.array(ridge),
        "validation_rows": validation["rows"] if validation else np.arange(0),
        "results": np.frombuffer(json.dumps(results).encode(), np.uint8),  # attributes hold 64 kB
    }
    on_root(session.comm, lambda: write_arrays(session.folder.solution, arrays, origin))
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
