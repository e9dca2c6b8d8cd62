"""The rank of a preconditioner that makes the whole solve shortest, by a model of its cost.

The lengths of a pivoted factor's columns fall as the eigenvalues of the kernel do. From the newest
columns and those at half the rank follow the largest eigenvalues that are left, about `length`, and
the power of the rank by which they fall; that power leads on to other ranks, and to the smallest
eigenvalue at rank n. Iterations grow as the square root of the ratio of the two, each with the
ridge.

All work is counted as that of one core, with measured speeds, so the choice does not depend on the
number of ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from hpcnk.run.plan.rates import FACTOR, product_seconds
from hpcnk.solve import Matrix, Progress, RowSet

LARGEST_SHARE = 4  # a rank is at most n over this: beyond, a dense solve is as cheap
FIRST = 32  # columns before which nothing is concluded
STEP = 1.2  # between the ranks that are compared
LEAST, SLOPE = 4.0, 0.9  # iterations: LEAST + SLOPE sqrt(ratio) log(2 / tolerance) / 2


@dataclass(frozen=True)
class Work:
    """What the solve has to do. `pass_seconds(columns)`: one core's for a pass over the kernel."""

    n: int
    row_sets: Sequence[RowSet]
    matrices: Sequence[Matrix]
    tolerance: float
    max_iterations: int
    pass_seconds: Callable[[int], float]


@dataclass
class RankChoice:
    """Told of the progress of a factor, says whether it has enough columns."""

    work: Work
    _seen: list[Progress] = field(default_factory=list)

    def __call__(self, progress: Progress) -> bool:
        """Return whether no larger rank is expected to be faster."""
        self._seen.append(progress)
        if progress.rank < FIRST:
            return False
        spectrum = self._spectrum()
        here = predicted_seconds(self.work, progress.rank, spectrum)
        rank = progress.rank * STEP
        while rank < self.work.n / LARGEST_SHARE:
            if predicted_seconds(self.work, int(rank), spectrum) < here:
                return False
            rank *= STEP
        return True

    def _spectrum(self) -> Spectrum:
        now = self._seen[-1]
        past = min(self._seen, key=lambda one: abs(one.rank - now.rank / 2))
        tiny = np.finfo(float).tiny
        fall = np.log(max(past.length, tiny) / max(now.length, tiny)) / np.log(now.rank / past.rank)
        return Spectrum(now.rank, now.length, float(np.clip(fall, 0.0, 20.0)), now.least)


@dataclass(frozen=True)
class Spectrum:
    """A power law: about `length` is left at `rank`, and falls with this power of the rank.

    `least`: an upper bound of the smallest eigenvalue.
    """

    rank: int
    length: float
    power: float
    least: float

    def largest(self, rank: int) -> float:
        """Return about what the largest eigenvalues are that a factor of this rank leaves."""
        return self.length * (self.rank / rank) ** self.power

    def smallest(self, n: int) -> float:
        """Return about what the smallest eigenvalue of the kernel is."""
        return min(self.largest(n), self.least)


def predicted_seconds(work: Work, rank: int, spectrum: Spectrum) -> float:
    """Return the time of one core for the set-up and all passes with a factor of this rank."""
    columns = Counter(work.matrices)
    passes = {matrix: _passes(work, rank, matrix.ridge, spectrum) for matrix in columns}
    seconds, done = set_up_seconds(work, rank), 0.0
    left = sum(columns.values())
    for matrix in sorted(columns, key=lambda matrix: passes[matrix]):
        application = work.n * float(rank) * product_seconds(FACTOR.application, left)
        seconds += (passes[matrix] - done) * (work.pass_seconds(left) + application)
        done, left = passes[matrix], left - columns[matrix]
    return seconds


def _passes(work: Work, rank: int, ridge: float, spectrum: Spectrum) -> float:
    largest, smallest = spectrum.largest(rank), spectrum.smallest(work.n)
    ratio = (largest + ridge) / max(smallest + ridge, np.finfo(float).eps * largest)
    passes = LEAST + SLOPE * np.sqrt(ratio) * np.log(2 / work.tolerance) / 2
    return float(min(passes, work.n, work.max_iterations))


def set_up_seconds(work: Work, rank: int) -> float:
    """Return the time of one core for the factor, and the core of each matrix."""
    used = {matrix.rows for matrix in work.matrices}
    grams = max(work.row_sets[number].count for number in used) * float(rank) ** 2
    if not _nested([work.row_sets[number] for number in used]):
        grams = sum(work.row_sets[number].count for number in used) * float(rank) ** 2
    cores = len(set(work.matrices)) * float(rank) ** 3 / 3
    products = work.n * float(rank) ** 2 + grams + cores
    return products / FACTOR.building + work.n * float(rank) / FACTOR.columns


def _nested(row_sets: Sequence[RowSet]) -> bool:
    inner = sorted(row_sets, key=lambda one: one.count)
    return all(b.keep[a.keep].all() for a, b in pairwise(inner))


def largest_rank(
    n: int, rows: int, row_sets: int, matrices: int, memory: float | None = None
) -> int:
    """Return the largest rank that `auto` may choose, for a rank of MPI with so many rows.

    `matrices`: those whose cores it holds; `memory`: bytes that all of this may take.
    """
    most = max(1, n // LARGEST_SHARE)
    if memory is None:
        return most
    squares = 8.0 * (row_sets + matrices + 3)  # bytes for rank^2
    linear = 8.0 * rows
    fits = (np.sqrt(linear**2 + 4 * squares * memory) - linear) / (2 * squares)
    return max(1, min(most, int(fits)))
