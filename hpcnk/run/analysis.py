"""What the kernel and its preconditioner give beside the solution: leave-one-out errors, evidence.

Both look at every setting, a training-set size and a ridge, on the rows that the final solve has.
Their systems go through the kernel as one block, in as many columns at a time as the solve's own
memory holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from hpcnk.comm import on_root, rows_to_root
from hpcnk.report import passes, score
from hpcnk.run.advice import against_rounding
from hpcnk.run.labels import read_targets
from hpcnk.run.problem import Columns
from hpcnk.run.session import Session
from hpcnk.run.stored import read_labels
from hpcnk.run.watched import between_passes
from hpcnk.solve import (
    Diagonal,
    Estimate,
    Evidence,
    InverseDiagonals,
    Limits,
    LogDeterminants,
    Matrix,
    Nearby,
    Operator,
    Quadrature,
    Solution,
    Status,
    dense_inverse_diagonals,
    dense_log_determinants,
    evidence,
    fits,
    inverse_diagonals,
    left_out,
    log_determinants,
)
from hpcnk.solve.spread import Array

STAGE = "solve"  # which warnings are kept under
SEED = 0  # of the random vectors
COLUMNS = 256  # at a time at most where memory is no concern:
BLOCK_BYTES = 64 << 20  # of one block of whole vectors
QUADRATURE_TOLERANCE = 1e-6  # of the mean log eigenvalue
ROUGH = 0.1  # relative standard error of the diagonal
NO_EVIDENCE = Evidence(np.nan, np.nan, np.nan, np.nan)

Entries = list[dict[str, float]]


@dataclass(frozen=True)
class _Solved:
    """This rank's rows of targets and solutions, (rows, columns), and how each column ended."""

    b: Array
    x: Array
    status: Sequence[Status]

    def converged(self, part: slice) -> bool:
        """Tell whether all of some columns reached the tolerance."""
        return all(status is Status.CONVERGED for status in self.status[part])


def analyse(
    session: Session,
    operator: Operator,
    columns: Columns,
    solution: Solution,
    precondition: Nearby | None,
) -> dict[str, Entries | None]:
    """Return what the deck asks for, `leave_one_out` and `evidence`: an entry a setting.

    Collective. None where it does not ask; NaN for a setting whose systems did not all converge.
    `precondition`: that of the solve, None if it had none. Raises SolveError, Stopped.
    """
    asked = session.deck.solve
    nearby = nearby_of(operator, columns, precondition)
    b = columns.problem(operator.spread.mine, block=True).b
    parts = (session, operator, columns, _Solved(b, solution.x, solution.status), nearby)
    return {
        "leave_one_out": _leave_one_out(*parts, asked.leave_one_out)
        if asked.leave_one_out
        else None,
        "evidence": _evidence(*parts, asked.evidence) if asked.evidence else None,
    }


def nearby_of(operator: Operator, columns: Columns, precondition: Nearby | None) -> Nearby:
    """Return the preconditioner, or the diagonal where there is none. Collective."""
    if precondition is not None:
        return precondition
    return Diagonal(operator.spread, operator.diagonal(), columns.row_sets)


def columns_at_once(n: int, solved: int) -> int:
    """Return how many columns of n rows go through K at once, after a solve of `solved`."""
    return max(solved, min(COLUMNS, BLOCK_BYTES // (8 * n)))


def distinct(matrices: Sequence[Matrix]) -> list[Matrix]:
    """Return each matrix once, in the order of their first columns."""
    return list(dict.fromkeys(matrices))


def _leave_one_out(
    session: Session,
    operator: Operator,
    columns: Columns,
    solved: _Solved,
    nearby: Nearby,
    vectors: int,
) -> Entries:
    """Score the prediction of every training row without it."""
    matrices = distinct(columns.matrices)
    found = _inverse_diagonals(session, operator, columns, nearby, vectors)
    exact = not found.relative_error.any()
    how = "exactly" if exact else f"estimated with {vectors} random vectors"
    session.say(
        f"leave-one-out: {len(matrices)} diagonals of inverses {how} {_effort(found.passes)}"
    )
    if not found.converged:
        session.warn(STAGE, "leave-one-out: not all of its systems reached the tolerance")
    numbers = [matrices.index(matrix) for matrix in columns.matrices]
    entries = []
    for i in range(len(columns.settings)):
        part = columns.of(i)
        if not solved.converged(part):
            _warn_of_none(session, "leave-one-out", columns, i)
            entries.append({"diagonal_error": np.nan})
            continue
        of = numbers[part]
        error = float(found.relative_error[of].max())
        _warn_of_rough_diagonals(session, columns, i, error, int(found.replaced[of].max()))
        predictions = left_out(solved.b[:, part], solved.x[:, part], found.values[:, of])
        metrics = _score(session, operator, columns, i, predictions)
        entries.append({**metrics, "diagonal_error": error})
        shown = ", ".join(f"{name.replace('_', ' ')} {v:.4g}" for name, v in metrics.items())
        session.say(f"leave-one-out: {_name(columns, i)}: {shown}")
    names = dict.fromkeys(name for entry in entries for name in entry)
    return [{name: entry.get(name, np.nan) for name in names} for entry in entries]


def _inverse_diagonals(
    session: Session, operator: Operator, columns: Columns, nearby: Nearby, vectors: int
) -> InverseDiagonals:
    matrices, deck = distinct(columns.matrices), session.deck.solve
    if deck.method == "dense":
        return dense_inverse_diagonals(operator, matrices, columns.row_sets)
    width = columns_at_once(operator.n, len(columns.matrices))
    return inverse_diagonals(
        operator,
        matrices,
        columns.row_sets,
        nearby,
        Estimate(vectors, SEED, Limits(deck.tolerance, deck.max_iterations), width),
        lambda systems: between_passes(session),
    )


def _effort(number: int) -> str:
    return f"in {passes(number)} over the kernel" if number else "by Cholesky factors"


def _name(columns: Columns, number: int) -> str:
    setting = columns.settings[number]
    return f"{setting.rows} rows, ridge {setting.ridge:g}"


def _warn_of_none(session: Session, what: str, columns: Columns, number: int) -> None:
    why = "for not all of its systems reached the tolerance"
    session.warn(STAGE, f"{what}: {_name(columns, number)}: none, {why}")


def _warn_of_rough_diagonals(
    session: Session, columns: Columns, number: int, error: float, replaced: int
) -> None:
    advice = "raise solve.leave_one_out, or the preconditioner's rank"
    name = f"leave-one-out: {_name(columns, number)}"
    if error > ROUGH:
        session.warn(STAGE, f"{name}: rough, within {100 * error:.0f} % of a residual; {advice}")
    if replaced:
        session.warn(
            STAGE,
            f"{name}: the estimate of {replaced} rows was not positive, the preconditioner's "
            f"own value stands for it; {advice}",
        )


def _score(
    session: Session, operator: Operator, columns: Columns, number: int, predictions: Array
) -> dict[str, float]:
    """Return the metrics of encoded predictions, this rank's rows, on the rows of a setting."""
    spread = operator.spread
    whole = rows_to_root(spread.comm, predictions, spread.blocks)
    sets = [columns.row_sets[matrix.rows].keep for matrix in columns.matrices[columns.of(number)]]

    def metrics() -> dict[str, float]:
        inputs, known = session.folder.inputs, np.stack(sets, axis=1)
        rows, targets = known.any(axis=1), read_targets(inputs)
        encoded, target = (labels[rows] for labels in read_labels(inputs, "train"))
        if targets.task == "regression":
            target = np.where(known[rows], target, np.nan)
        assert whole is not None
        return score(targets.task, targets.decode(whole[rows]), target, encoded, targets.std)

    return on_root(session.comm, metrics)


def _evidence(
    session: Session,
    operator: Operator,
    columns: Columns,
    solved: _Solved,
    nearby: Nearby,
    vectors: int,
) -> Entries:
    """Return the log marginal likelihoods of all outputs together."""
    found = _log_determinants(session, operator, columns, nearby, vectors)
    how = f"estimated with {vectors} random vectors" if found.passes else "exactly"
    session.say(f"evidence: {len(found.matrices)} log determinants {how} {_effort(found.passes)}")
    if not found.converged:
        session.warn(
            STAGE,
            f"evidence: after {session.deck.solve.max_iterations} passes not all log determinants "
            "stand still; raise solve.max_iterations or the preconditioner's rank",
        )
    y_alpha = fits(operator.spread, solved.b, solved.x)
    entries = []
    for i in range(len(columns.settings)):
        part = columns.of(i)
        of = evidence(y_alpha[part], columns.matrices[part], columns.row_sets, found)
        if not np.isfinite(of.profile):
            session.warn(
                STAGE,
                f"evidence: {_name(columns, i)}: none, for the stored kernel plus ridge is not "
                f"positive definite to rounding; {against_rounding(session.deck)}",
            )
            of = NO_EVIDENCE
        elif not solved.converged(part):
            _warn_of_none(session, "evidence", columns, i)
            of = NO_EVIDENCE
        else:
            session.say(
                f"evidence: {_name(columns, i)}: log marginal likelihood {of.profile:.6g} +- "
                f"{of.standard_error:.2g} at the best amplitude, {of.amplitude:.3g}"
            )
        entries.append(asdict(of))
    return entries


def _log_determinants(
    session: Session, operator: Operator, columns: Columns, nearby: Nearby, vectors: int
) -> LogDeterminants:
    matrices, deck = distinct(columns.matrices), session.deck.solve
    if deck.method == "dense":
        return dense_log_determinants(operator, matrices, columns.row_sets)
    width = columns_at_once(operator.n, len(columns.matrices))
    return log_determinants(
        operator,
        matrices,
        columns.row_sets,
        nearby,
        Quadrature(vectors, SEED, deck.max_iterations, QUADRATURE_TOLERANCE, width),
        lambda passes, left: between_passes(session),
    )
