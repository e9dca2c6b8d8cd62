"""Sums over ranks of products computed piece by piece, in floating or in fixed point.

Floating-point sums depend on the order of the addends, so on the number of ranks, in the last bits;
conjugate gradients then take other paths to the same solution. A fixed-point sum is one of
integers, which does not depend on any order: the same addends give the same bits on 1 or 100 ranks.

An addend a of a column is cut into two limbs, a = high * unit + low * unit * 2^-LOW_BITS + rest,
with a unit of 2^-HIGH_BITS of the column's bound. The bound must be at least the sum of all
addends' absolute values, so `high` cannot overflow; `low` cannot for 2^(62 - LOW_BITS) addends. The
rest is under 2^-(HIGH_BITS + LOW_BITS) of the bound: with bounds that are 2^40 too large it is
still less than float64's own rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm.agree import any_rank
from hpcnk.comm.reduce import sum_over_ranks
from hpcnk.comm.rows import share_sum
from hpcnk.comm.world import Communicator

Array = NDArray[np.float64]
Bound = Callable[[], Array]  # (columns,): at least the sum of all addends' absolute values

HIGH_BITS = 60
LOW_BITS = 40


class Sum(Protocol):
    """A matrix that grows by addends, on each rank, and is then added up over the ranks.

    `in_place`: whether an addend is the sum itself, so that one may take the terms of many.
    """

    in_place: bool

    def add(self, rows: slice, addend: Array) -> None:
        """Add to these rows; an addend may have some of the columns, the leading ones."""

    def addend(self, rows: slice, columns: int) -> AbstractContextManager[Array]:
        """Give an array (rows, columns) for these rows and leading columns, to be added to."""

    def share(self, blocks: Sequence[slice]) -> Array:
        """Return this rank's rows of the sum of all ranks' addends. Collective; once.

        `blocks` lists the rows of every rank.
        """

    def total(self) -> Array:
        """Return the sum of all ranks' addends, equal on all ranks. Collective; once."""


class Sums(Protocol):
    """How sums over the ranks of one communicator are made."""

    comm: Communicator
    ordered: bool  # whether a sum has the same bits for any number of ranks

    def begin(self, shape: tuple[int, int], bound: Bound) -> Sum:
        """Begin a sum of this shape. `bound` is asked for, on all ranks, if it is needed."""


class FloatSums:
    """Sums in float64, in the order in which addends come and ranks are joined."""

    ordered = False

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm

    def begin(self, shape: tuple[int, int], bound: Bound) -> Sum:
        """Begin a sum of this shape; `bound` is not needed."""
        return _FloatSum(self.comm, shape)


class FixedPointSums:
    """Sums that have the same bits for any order of addends and any number of ranks."""

    ordered = True

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm

    def begin(self, shape: tuple[int, int], bound: Bound) -> Sum:
        """Begin a sum of this shape. Collective."""
        limits = np.array(bound())
        self.comm.Bcast(limits, root=0)  # unlike processors could differ in the last bit
        return _FixedPointSum(self.comm, shape, limits)


class _FloatSum:
    in_place = True

    def __init__(self, comm: Communicator, shape: tuple[int, int]) -> None:
        self._comm = comm
        self._sum = np.zeros(shape)

    def add(self, rows: slice, addend: Array) -> None:
        self._sum[rows, : addend.shape[1]] += addend

    @contextmanager
    def addend(self, rows: slice, columns: int) -> Iterator[Array]:
        yield self._sum[rows, :columns]

    def share(self, blocks: Sequence[slice]) -> Array:
        return share_sum(self._comm, self._sum, blocks)

    def total(self) -> Array:
        return sum_over_ranks(self._comm, self._sum)


class _FixedPointSum:
    """Two limbs. An addend above the bound, or one or a bound not finite, makes the total NaN."""

    in_place = False

    def __init__(self, comm: Communicator, shape: tuple[int, int], bound: Array) -> None:
        self._comm, self._bound, self._good = comm, bound, bool(np.isfinite(bound).all())
        self._high, self._low = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._units = _exponents(bound) - HIGH_BITS

    def add(self, rows: slice, addend: Array) -> None:
        columns = addend.shape[1]
        self._good = self._good and bool((np.abs(addend) <= self._bound[:columns]).all())
        if not self._good:
            return
        units = self._units[:columns]
        high = np.rint(np.ldexp(addend, -units))
        rest = addend - np.ldexp(high, units)  # exact, as all steps but the last are
        low = np.rint(np.ldexp(rest, LOW_BITS - units))
        self._high[rows, :columns] += high.astype(np.int64)
        self._low[rows, :columns] += low.astype(np.int64)

    @contextmanager
    def addend(self, rows: slice, columns: int) -> Iterator[Array]:
        addend = np.zeros((rows.stop - rows.start, columns))
        yield addend
        self.add(rows, addend)

    def share(self, blocks: Sequence[slice]) -> Array:
        return self._joined(lambda limb: share_sum(self._comm, limb, blocks))

    def total(self) -> Array:
        return self._joined(lambda limb: sum_over_ranks(self._comm, limb))

    def _joined(self, summed: Callable[[NDArray], NDArray]) -> Array:
        """Sum both limbs over the ranks and put them together."""
        good = not any_rank(self._comm, not self._good)
        high, low = summed(self._high), summed(self._low)
        if not good:
            return np.full(high.shape, np.nan)
        return np.ldexp(high + np.ldexp(low.astype(float), -LOW_BITS), self._units)


def _exponents(bound: Array) -> NDArray[np.intc]:
    """Return e with bound <= 2^e; for a bound of 0, or one that is not finite, any will do."""
    return np.frexp(np.where(np.isfinite(bound), bound, 0.0))[1]
