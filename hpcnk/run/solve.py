"""Stage 2: solve for all outputs and ridges at once, and choose the ridge on validation rows.

With validation rows the systems are solved twice: on the rest of the training rows, to score every
ridge on the rows held out; then on all training rows, to predict. Each solve has its checkpoints,
which go when the solution is written; a solution that is there is not computed again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import agreement, on_root
from hpcnk.errors import StorageError, UsageError
from hpcnk.run.checkpoint import Checkpoints
from hpcnk.run.needs.solve_memory import require_solve_memory
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
from hpcnk.run.stored import grid_of, read_labels, read_solution, require_grid
from hpcnk.run.sums import make_sums, single_thread_if_reproducible
from hpcnk.run.systems import SolvedSystems, solve_systems
from hpcnk.run.validation import VALIDATION, edge, validate
from hpcnk.solve import TileOperator
from hpcnk.store import Layout, TileReader, differences, read_attributes, read_layout, write_arrays
from hpcnk.tiling import deal

Results = dict[str, Any]
ALL = "all"
DO_NOT_TRUST = "the chosen solution did not reach the tolerance; do not trust the predictions"
ROUNDING = 2.0**-24  # relative, of a float32 entry


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
        changed = differences({key: stored.get(key) for key in origin}, origin)
        if changed:
            session.say(f"solve: anew, for {'; '.join(changed)}")
            return None
        _, results = read_solution(path, session.folder.inputs, len(session.deck.solve.ridge))
    except StorageError as error:
        session.warn(STAGE, f"solved anew, for {error.what}")
        return None
    session.say("solve: complete already")
    _remove_checkpoints(session, origin)  # a kill may have come between the two
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
    validation = validate(session, operator, y, target, origin)
    everything = np.ones(operator.n, bool)
    systems = solve_systems(session, operator, y, everything, (ALL, "all training rows"), origin)
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
        session.stop.raise_if_requested(comm)
        missing = [number for number in mine if number not in held]
        if not repair(session, layout, contents, missing, again):
            break
    return TileOperator(make_sums(session), grid.n, [(grid.at(k), held[k]) for k in mine])


def _intact(
    session: Session, reader: TileReader, numbers: list[int]
) -> Iterator[tuple[int, NDArray[Any]]]:
    for number in numbers:
        if session.stop.requested:
            return
        session.faults.flip("solve", reader.layout, number)
        tile = reader.read_intact(number)
        session.watchdog.beat()
        if tile is not None:
            yield number, tile


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


def _record(
    session: Session,
    systems: SolvedSystems,
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
        _remove_checkpoints(session, origin)

    on_root(session.comm, write)
    return results


def _remove_checkpoints(session: Session, origin: dict[str, str]) -> None:
    for name in (VALIDATION, ALL):
        Checkpoints(session, name, origin).remove()


def _tell(session: Session, results: Results) -> bool:
    """Put the results into the report; return whether they can be trusted."""
    ridge, selected = session.deck.solve.ridge, results["selected_ridge"]
    if session.root:
        session.update_report(**results, test=None)
    if selected is not None and len(ridge) > 1:
        hint = edge(ridge, selected)
        session.say(f"solve: ridge {selected:g} is the best on the validation rows{hint}")
    if not usable(results):
        session.warn("solve", DO_NOT_TRUST)
    return usable(results)


def usable(results: dict[str, Any]) -> bool:
    """Return whether the selected ridge converged, or any ridge if none is selected."""
    selected = results["selected_ridge"]
    return any(e["converged"] for e in results["solve"] if selected in (None, e["ridge"]))
