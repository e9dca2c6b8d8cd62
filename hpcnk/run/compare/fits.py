"""Fitting one method and predicting with it: what it says of the queries, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcnk.run.compare.ground import Ground, Training, joint_problem
from hpcnk.run.compare.items import COMMITTEE, LOW_RANK, Item
from hpcnk.run.compare.queries import Queries
from hpcnk.run.preconditioners import make_preconditioner
from hpcnk.solve import (
    Limits,
    Problem,
    Solution,
    Status,
    conjugate_gradient,
    dense_solution,
)
from hpcnk.solve.approximations import (
    Fit,
    Regression,
    block_diagonal,
    committee,
    leading_inducing,
    nystrom,
    random_inducing,
    subset_of_regressors,
)

Array = NDArray[np.float64]
Ridges = Sequence[float]
Fitting = Callable[[Regression], Fit]


@dataclass(frozen=True)
class Said:
    """Predictions (ridges, queries, outputs), and whether each ridge's solution can be trusted.

    Seconds of the fit and of the prediction, as rank 0 saw them. `iterations`: of conjugate
    gradients, the most of any column.
    """

    values: Array
    sound: tuple[bool, ...]
    fit: float
    predict: float
    iterations: int | None = None


def say(item: Item, training: Training, ridges: Ridges, queries: Queries) -> Said:
    """Fit an approximation for these relative ridges and predict the queries. Collective.

    A committee fits and predicts in one, which counts as its fit.
    """
    if item.method == COMMITTEE:
        return _ask_committee(item, training, ridges, queries)
    start = time.perf_counter()
    fitting = _fitting(item, training.ground)
    alpha, sound = _in_groups(training, ridges, fitting)
    fitted = time.perf_counter()
    values = _by_ridge(queries.product(alpha), len(ridges))
    return Said(values, sound, fitted - start, time.perf_counter() - fitted)


def _fitting(item: Item, ground: Ground) -> Fitting:
    """Return the method with its budget; inducing rows are drawn here."""
    budget = item.budget or item.rows
    if item.method not in LOW_RANK:
        return lambda regression: block_diagonal(regression, budget)
    method = nystrom if item.method == "nystrom" else subset_of_regressors
    inducing = inducing_rows(ground, item.rows, budget)
    return lambda regression: method(regression, inducing)


def inducing_rows(ground: Ground, rows: int, budget: int) -> NDArray[np.int64]:
    """Choose among the leading rows that are not held out, whether they have labels or not."""
    keep = np.arange(ground.operator.n) < rows
    keep[ground.held] = False
    deck = ground.session.deck
    if deck.compare.inducing == "random":
        return random_inducing(ground.operator, keep, budget, deck.data.seed)
    return leading_inducing(keep, budget)


def _in_groups(
    training: Training, ridges: Ridges, fitting: Fitting
) -> tuple[Array, tuple[bool, ...]]:
    """Fit each group of outputs; return this rank's rows of alpha, (rows, ridges x outputs)."""
    count, outputs = training.ground.operator.spread.count, training.ground.outputs
    alpha = np.zeros((count, len(ridges), outputs))
    sound = np.ones(len(ridges), bool)
    for columns, regression in training.regressions(ridges):
        fit = fitting(regression)
        alpha[:, :, columns] = fit.alpha.reshape(count, len(ridges), len(columns))
        sound &= fit.sound
    return alpha.reshape(count, len(ridges) * outputs), tuple(sound.tolist())


def _ask_committee(item: Item, training: Training, ridges: Ridges, queries: Queries) -> Said:
    start = time.perf_counter()
    prior, outputs = queries.prior(), training.ground.outputs
    values = np.zeros((len(ridges), len(prior), outputs))
    sound = np.ones(len(ridges), bool)
    for columns, regression in training.regressions(ridges):
        said = committee(regression, item.budget or item.rows, queries.columns, prior)
        values[:, :, columns] = said.means
        sound &= said.sound
    return Said(values, tuple(sound.tolist()), time.perf_counter() - start, 0.0)


def say_exactly(
    method: str, trainings: Sequence[Training], ridges: Sequence[Ridges], queries: Queries
) -> list[Said]:
    """Solve several training sets at once, each with its ridges, and predict. Collective.

    They share the passes over the kernel. The seconds are shared out: those of the solve in
    proportion to iterations x rows^2, those of the prediction in proportion to the columns.
    """
    start = time.perf_counter()
    problem = joint_problem(trainings, ridges)
    solution = _solution(method, trainings[0].ground, problem)
    fitted = time.perf_counter()
    product = queries.product(solution.x)
    spent = (fitted - start, time.perf_counter() - fitted)
    outputs = trainings[0].ground.outputs
    ends = np.cumsum([len(some) * outputs for some in ridges])
    parts = [slice(end - len(some) * outputs, end) for end, some in zip(ends, ridges, strict=True)]
    weights = _weights(solution, trainings, parts)
    return [
        _part(solution, product, part, len(some), (weight * spent[0], share * spent[1]))
        for part, some, weight, share in zip(
            parts, ridges, weights, np.diff([0, *ends]) / ends[-1], strict=True
        )
    ]


def _solution(method: str, ground: Ground, problem: Problem) -> Solution:
    session, operator = ground.session, ground.operator
    solve = session.deck.solve
    if method == "dense":
        return dense_solution(operator, problem, solve.tolerance)
    precondition = make_preconditioner(
        session, operator, problem.row_sets, problem.matrices, "compare"
    )
    limits = Limits(solve.tolerance, solve.max_iterations)
    return conjugate_gradient(
        operator, problem, precondition, limits, lambda systems: _between(ground)
    )


def _between(ground: Ground) -> None:
    """Go on after a pass, unless a signal came."""
    session = ground.session
    session.watchdog.beat()
    session.stop.raise_if_requested(session.comm)


def _weights(
    solution: Solution, trainings: Sequence[Training], parts: Sequence[slice]
) -> list[float]:
    """Return each training set's share of the work: its columns' iterations times rows^2."""
    pairs = zip(trainings, parts, strict=True)
    work = [
        float((solution.iterations[part] + 1).sum()) * training.rows**2 for training, part in pairs
    ]
    return [one / sum(work) for one in work]


def _part(
    solution: Solution, product: Array, part: slice, ridges: int, seconds: tuple[float, float]
) -> Said:
    good = np.array([status is Status.CONVERGED for status in solution.status[part]])
    sound = tuple(bool(every.all()) for every in good.reshape(ridges, -1))
    iterations = int(solution.iterations[part].max())
    values = _by_ridge(product[:, part], ridges)
    return Said(values, sound, *seconds, iterations=iterations)


def _by_ridge(product: Array, ridges: int) -> Array:
    return product.reshape(len(product), ridges, -1).transpose(1, 0, 2)
