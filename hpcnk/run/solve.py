"""Stage 2: solve for all outputs, ridges and sizes at once, and choose ridges on validation rows.

With validation rows the systems are solved twice: on the rest of the training rows, to score every
setting on the rows held out; then on all training rows, to predict. Each solve has its checkpoints,
which go when the solution is written; a solution that is there is not computed again. The second
solve starts from an earlier one's solution at the nearest ridges, if there is one (from the first
one's it would take as many passes as from zero: measured).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import on_root, rows_to_root
from hpcnk.data import unlike_leading_rows
from hpcnk.errors import StorageError, UsageError
from hpcnk.run.advice import against_rounding
from hpcnk.run.analysis import analyse
from hpcnk.run.checkpoint import Checkpoints
from hpcnk.run.duplicates import require_different_rows
from hpcnk.run.needs.solve_memory import preconditioner_room
from hpcnk.run.operators import open_operator
from hpcnk.run.prepare import require_inputs
from hpcnk.run.problem import columns_of, training_sizes
from hpcnk.run.provenance import (
    require_same,
    settings_provenance,
    solution_provenance,
    solver_settings,
    train_contents,
)
from hpcnk.run.repair import STAGE
from hpcnk.run.session import Session
from hpcnk.run.stored import grid_of, read_labels, read_solution, require_grid
from hpcnk.run.sums import single_thread_if_reproducible
from hpcnk.run.systems import SolvedSystems, solve_systems
from hpcnk.run.validation import VALIDATION, edge, validate
from hpcnk.run.warm import earlier_solution
from hpcnk.solve.operator import Operator
from hpcnk.store import Layout, differences, read_attributes, read_layout, write_arrays

Results = dict[str, Any]
ALL = "all"


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
        _, results = read_solution(path, session.folder.inputs)
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
    y, target = read_labels(session.folder.inputs, "train")
    on_root(session.comm, lambda: _warn_of_leading_rows(session, target))
    on_root(session.comm, lambda: require_different_rows(session))
    session.faults.step("solve")  # the first pass begins; the others do so in `_observe`
    room = preconditioner_room(session)
    with open_operator(session, layout, contents) as operator:
        _warn_of_rounding(session, layout)
        validation = validate(session, operator, y, target, origin, room)
        columns = columns_of(session.deck, y, np.arange(0), operator.diagonal())
        earlier = None
        if session.deck.solve.method == "cg":
            earlier = earlier_solution(session, operator.spread, columns, origin)
        which = (ALL, "all training rows")
        factor = validation["factor"] if validation else None
        systems = solve_systems(session, operator, columns, which, origin, room, earlier, factor)
        near = systems.precondition.low_rank() if _analysed(session) else None
        found = analyse(session, operator, columns, systems.solution, near)
        return _record(session, operator, systems, validation, found, origin)


def _analysed(session: Session) -> bool:
    """Return whether the deck asks for what the preconditioner helps to estimate."""
    asked = session.deck.solve
    return asked.method == "cg" and bool(asked.leave_one_out or asked.evidence)


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


def _warn_of_leading_rows(session: Session, target: NDArray[Any]) -> None:
    """Warn of training-set sizes whose leading rows lack classes."""
    for size in training_sizes(session.deck, len(target)):
        if found := unlike_leading_rows(target, size):
            session.warn("solve", f"size {size}: {found}")


def _warn_of_rounding(session: Session, layout: Layout) -> None:
    """Warn of ridges under the floor that the rounding of entries sets, eps sqrt(n)."""
    floor = np.finfo(layout.dtype).eps * np.sqrt(layout.grid.n)
    low = [f"{ridge:g}" for ridge in session.deck.solve.ridge if ridge < floor]
    if low:
        session.warn(
            "solve",
            f"ridge {', '.join(low)}: below {floor:.1e}, where the rounding of {layout.dtype} "
            f"entries acts like noise on the kernel; {against_rounding(session.deck)}",
        )


def _record(
    session: Session,
    operator: Operator,
    systems: SolvedSystems,
    validation: dict[str, Any] | None,
    found: dict[str, Any],
    origin: dict[str, str],
) -> Results:
    """Write the solution; then the checkpoints can go. Collective. Raises StorageError."""
    columns, spread = systems.columns, operator.spread
    chosen = validation["selected"] if validation else []
    results = {
        "mean_diagonal": columns.scale,
        "preconditioner_rank": systems.precondition.rank,
        "passes": systems.solution.passes,
        "solve": systems.summary(),
        "selected_ridge": chosen[-1].ridge if chosen else None,
        "selected": [{"rows": best.rows, "ridge": best.ridge} for best in chosen],
        "validation": validation["metrics"] if validation else None,
        "validation_solve": validation["solve"] if validation else None,
        **found,
    }
    x = rows_to_root(spread.comm, systems.solution.x, spread.blocks)

    def write() -> None:
        if x is None:
            return
        alpha = x.reshape(len(x), len(columns.settings), columns.outputs).transpose(1, 0, 2)
        arrays = {
            "alpha": alpha,
            "ridge": np.array([setting.ridge for setting in columns.settings]),
            "rows": np.array([setting.rows for setting in columns.settings]),
            "validation_rows": validation["rows"] if validation else np.arange(0),
            "results": np.frombuffer(json.dumps(results).encode(), np.uint8),  # may be over 64 kB
        }
        write_arrays(session.folder.solution, arrays, origin)
        _remove_checkpoints(session, origin)

    on_root(session.comm, write)
    return results


def _remove_checkpoints(session: Session, origin: dict[str, str]) -> None:
    for name in (VALIDATION, ALL):
        Checkpoints(session, name, origin).remove()


def _tell(session: Session, results: Results) -> bool:
    """Put the results into the report; return whether they can be trusted."""
    if session.root:
        session.update_report(**results, test=None)
    several = len(results["selected"]) > 1
    for best in results["selected"]:
        hint = edge(session.deck.solve.ridge, best["ridge"])
        size = f"{best['rows']} rows: " if several else ""
        if len(session.deck.solve.ridge) > 1:
            said = f"ridge {best['ridge']:g} is the best on the validation rows{hint}"
            session.say(f"solve: {size}{said}")
    if not usable(results):
        session.warn("solve", do_not_trust(results))
    return usable(results)


def do_not_trust(results: dict[str, Any]) -> str:
    """Return the warning of solutions that are not usable."""
    what = "the chosen solution did not reach" if results["selected"] else "no solution reached"
    return f"{what} the tolerance; do not trust the predictions"


def usable(results: dict[str, Any]) -> bool:
    """Return whether the selected solutions converged, or any if none is selected."""
    chosen = [(best["rows"], best["ridge"]) for best in results["selected"]]
    good = {(e["rows"], e["ridge"]) for e in results["solve"] if e["converged"]}
    return good.issuperset(chosen) if chosen else bool(good)
