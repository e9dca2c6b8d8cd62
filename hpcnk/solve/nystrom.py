"""Randomised Nystrom factor: K ~ L L^T from the products of K with random vectors.

With Gaussian vectors W and Y = K W, K is approximated by Y (W^T Y)^-1 Y^T (Frangella, Tropp, Udell,
"Randomized Nystrom preconditioning", SIAM J. Matrix Anal. Appl. 2023, algorithm 2.1). For the sake
of rounding K is shifted by a little, which is taken off again at the end.

W is not held: its rows and columns are drawn in pieces, each from a stream of its own, so they are
the same for any number of ranks, and drawn again where they are needed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from hpcnk.solve.cholesky import factorise
from hpcnk.solve.operator import SLACK, Operator
from hpcnk.solve.precondition import Factor
from hpcnk.solve.spread import ROWS, Array, Spread

STRIP = 32  # random vectors drawn from one stream
STREAM = 2110  # of random vectors, beside the deck's seed
EPS = np.finfo(float).eps

Rows = Callable[[slice], Array]  # some of this rank's rows of a spread matrix


def nystrom(
    operator: Operator,
    rank: int,
    seed: int,
    observe: Callable[[], None] = lambda: None,
    most: int = 128,
) -> Factor:
    """Return a factor of `rank` columns, at most n, from as many products with K. Collective.

    Its columns are orthogonal, the longest first, and zero where K has no such rank. `most` vectors
    go through K at once; `observe` is called on all ranks before each product, and may end the work
    by raising on all. Besides the factor a rank holds a few matrices (rank, rank).
    """
    from scipy.linalg import solve_triangular

    spread = operator.spread
    vectors = _Vectors(spread, seed, min(rank, operator.n))
    y = np.empty((spread.count, vectors.count), order="F")
    for columns in vectors.strips(most):
        observe()
        y[:, columns] = operator.apply(vectors.draw(slice(0, spread.count), columns))
    observe()
    images = _moment(operator, vectors.draw, lambda rows: y[rows])
    among = _moment(operator, vectors.draw, vectors.draw)
    shift, root = spread.decide(lambda: _shifted_root(images, among))
    for rows in spread.parts():
        shifted = y[rows] + shift * vectors.draw(rows)
        y[rows] = solve_triangular(root, shifted.T, lower=True).T
    observe()
    gram = _moment(operator, lambda rows: y[rows], lambda rows: y[rows])
    turn = spread.decide(lambda: _orthogonal(gram, shift))
    for rows in spread.parts():
        y[rows] = y[rows] @ turn
    return _factor(operator, y)


class _Vectors:
    """Gaussian vectors, this rank's rows."""

    def __init__(self, spread: Spread, seed: int, count: int) -> None:
        self._spread, self._seed = spread, seed
        self.count = count

    def strips(self, most: int) -> Iterator[slice]:
        """Cut the vectors into groups of at most `most`, which is rounded to whole streams."""
        width = max(STRIP, most // STRIP * STRIP)
        return (slice(at, min(at + width, self.count)) for at in range(0, self.count, width))

    def draw(self, rows: slice, columns: slice | None = None) -> Array:
        """Return these rows, in whole blocks, of all vectors or of those of whole streams."""
        columns = slice(0, self.count) if columns is None else columns
        height = min(rows.stop, self._spread.count) - rows.start
        drawn = np.empty((height, columns.stop - columns.start))
        for at in range(0, len(drawn), ROWS):
            block = (self._spread.mine.start + rows.start + at) // ROWS
            for first in range(0, drawn.shape[1], STRIP):
                number = (columns.start + first) // STRIP
                stream = np.random.default_rng([STREAM, self._seed, number, block])
                piece = drawn[at : at + ROWS, first : first + STRIP]
                piece[:] = stream.standard_normal((ROWS, STRIP))[: len(piece), : piece.shape[1]]
        return drawn


def _moment(operator: Operator, a: Rows, b: Rows) -> Array:
    """Return a^T b summed over the rows of all ranks. Collective."""
    spread, nothing = operator.spread, slice(0, 0)

    def bound() -> Array:
        squares = spread.totals(
            lambda rows: (a(rows) ** 2).sum(), lambda rows: (b(rows) ** 2).sum()
        )
        return np.full(b(nothing).shape[1], SLACK * np.sqrt(np.prod(squares)))

    total = operator.sums.begin((a(nothing).shape[1], b(nothing).shape[1]), bound)
    for rows in spread.parts():
        total.add(slice(None), a(rows).T @ b(rows))
    return total.total()


def _shifted_root(images: Array, among: Array) -> tuple[float, Array]:
    """Return a shift, and the lower factor of W^T (Y + shift W), for W^T Y and W^T W.

    The shift is what rounding does to K, and more if K itself carries larger errors.
    """
    images = (images + images.T) / 2
    shift = EPS * float(np.abs(images).max(initial=0.0))
    shift = max(shift, np.finfo(float).tiny)
    while True:
        root = images + shift * among
        try:
            factorise(root)
        except np.linalg.LinAlgError:
            shift *= 10
        else:
            return shift, root


def _orthogonal(gram: Array, shift: float) -> Array:
    """Return T with B T = U sqrt(S^2 - shift), for B = U S V^T with B^T B = gram.

    Columns that rounding has made are zero.
    """
    squares, v = (part[..., ::-1] for part in np.linalg.eigh(gram))
    kept = squares > shift + len(gram) * EPS * squares.max(initial=0.0)
    return v * np.sqrt(np.where(kept, 1 - shift / np.where(kept, squares, 1.0), 0.0))


def _factor(operator: Operator, rows: Array) -> Factor:
    lengths = operator.spread.totals(lambda part: (rows[part] ** 2).sum(axis=0))[0]
    trace = float(np.maximum(operator.diagonal(), 0.0).sum())
    left = max(trace - float(lengths.sum()), EPS * trace)
    return Factor(rows, left / operator.n, 1 - left / trace if trace > 0 else 1.0)
