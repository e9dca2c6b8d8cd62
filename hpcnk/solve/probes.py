"""Random vectors whose rows are spread over the ranks, the same for any number of ranks.

Every block of 256 rows of every vector has a stream of its own, so neither the spread nor the
number of vectors that are drawn at a time changes a number.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hpcnk.solve.spread import ROWS, Array, Spread

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
SIGNS, NORMAL, SHORT = 1995, 1996, 1997  # streams


class Probes:
    """Random vectors of one seed, numbered from 0."""

    def __init__(self, spread: Spread, seed: int) -> None:
        self._spread = spread
        self._seed = seed

    def signs(self, vectors: range) -> Array:
        """Return this rank's rows of vectors of -1 and 1, (rows, vectors)."""
        return self._rows(
            SIGNS,
            vectors,
            lambda random, rows: 2.0 * random.integers(2, size=rows).astype(np.float64) - 1.0,
        )

    def normal(self, vectors: range) -> Array:
        """Return this rank's rows of standard normal vectors, (rows, vectors)."""
        return self._rows(NORMAL, vectors, lambda random, rows: random.standard_normal(rows))

    def short(self, rank: int, vectors: range) -> Array:
        """Return standard normal vectors of another length, (rank, vectors), on all ranks.

        Collective.
        """
        streams = [[SHORT, self._seed, vector] for vector in vectors]
        return self._spread.decide(
            lambda: np.stack([np.random.default_rng(s).standard_normal(rank) for s in streams], 1)
        )

    def _rows(self, stream: int, vectors: range, draw: Draw) -> Array:
        spread = self._spread
        drawn = np.empty((spread.count, len(vectors)))
        for rows in spread.parts():
            block = (spread.mine.start + rows.start) // ROWS
            length = len(drawn[rows])
            for column, vector in enumerate(vectors):
                random = np.random.default_rng([stream, self._seed, vector, block])
                drawn[rows, column] = draw(random, length)
        return drawn
