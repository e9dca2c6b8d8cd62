"""Which columns of the kernel a partial Cholesky factor takes, the pivots: greedy, or at random.

Greedy: those where what is left of the diagonal is largest (Harbrecht, Peters, Schneider 2012). At
random: in proportion to what is left of it (Chen, Epperly, Tropp, Webber, arXiv 2304.12465), by the
accelerated form that draws a block of candidates at once and rejects some, so that the pivots have
the distribution of those drawn one by one (Epperly, Tropp, Webber, arXiv 2410.03969, algorithm
2.2). For that a candidate drawn again is a new trial, which may be accepted where the first was
rejected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.solve.spread import Array

ENOUGH_LEFT = 0.5  # of the largest entry elsewhere: a greedy pivot has at least that
SEED = 2304  # of the stream of random pivots, beside the deck's

Indices = NDArray[np.int64]
Chosen = tuple[Indices, Array]  # positions in the block, and the Cholesky factor of their part


class Pivoting(Protocol):
    """How pivots are chosen. Rank 0 decides for all."""

    def propose(self, left: Array, count: int) -> Indices:
        """Return at most `count` candidates, given what is left of the diagonal, (n,)."""

    def choose(self, block: Array, turns: Indices, largest: float) -> Chosen:
        """Choose among different candidates, whose part of what is left of K is `block`.

        `turns`: their positions in the block in the order in which they were proposed; `largest`:
        what is left of the diagonal anywhere else, at most.
        """


class Greedy:
    """The largest entries of what is left of the diagonal."""

    def propose(self, left: Array, count: int) -> Indices:
        """Return the largest entries; of equal ones the first."""
        return np.argsort(-left, kind="stable")[:count]

    def choose(self, block: Array, turns: Indices, largest: float) -> Chosen:
        """Take the largest in turn, while what they have left is comparable to that elsewhere."""

        def best(left: Array, taken: int) -> int | None:
            first = int(left.argmax())
            enough = 0.0 if taken == 0 else ENOUGH_LEFT * largest
            return first if left[first] > 0 and left[first] >= enough else None

        return _eliminate(block, best)


class Random:
    """Entries drawn in proportion to what is left of the diagonal."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng([SEED, seed])

    def propose(self, left: Array, count: int) -> Indices:
        """Draw candidates with replacement."""
        return self._random.choice(len(left), size=count, p=left / left.sum())

    def choose(self, block: Array, turns: Indices, largest: float) -> Chosen:
        """Accept each candidate in turn with the share of its diagonal that is still left."""
        needed = self._random.random(len(turns)) * block.diagonal()[turns]
        trials = iter(zip(turns.tolist(), needed.tolist(), strict=True))

        def accepted(left: Array, taken: int) -> int | None:
            return next((at for at, need in trials if left[at] > max(need, 0.0)), None)

        return _eliminate(block, accepted)


def _eliminate(block: Array, choice: Callable[[Array, int], int | None]) -> Chosen:
    """Eliminate one candidate after the other; return them and their Cholesky factor."""
    size, rest = len(block), block.copy()
    rounding = np.finfo(float).eps * size * block.diagonal().max(initial=0.0)
    chosen: list[int] = []
    factor = np.zeros((size, size))
    while len(chosen) < size:
        left = np.where(rest.diagonal() > rounding, rest.diagonal(), 0.0)
        left[chosen] = 0.0
        pivot = choice(left, len(chosen))
        if pivot is None:
            break
        column = rest[:, pivot] / np.sqrt(rest[pivot, pivot])
        factor[:, len(chosen)] = column
        rest -= np.outer(column, column)
        chosen.append(pivot)
    picked = np.array(chosen, np.int64)
    return picked, factor[picked, : len(chosen)]
