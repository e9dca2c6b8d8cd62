"""Blocks large enough to be timed; standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A kernel block of `rows` x `columns` pairs, computed `calls` times in a measurement."""

    rows: int
    columns: int
    calls: int = 1

    @property
    def pairs(self) -> int:
        """Pairs of one measurement."""
        return self.rows * self.columns * self.calls

    def doubled(self, most: int) -> Block:
        """Twice the pairs: more columns, then more rows, then more calls of the largest block."""
        if self.columns <= self.rows and self.columns < most:
            return Block(self.rows, min(2 * self.columns, most), self.calls)
        if self.rows < most:
            return Block(min(2 * self.rows, most), self.columns, self.calls)
        return Block(self.rows, self.columns, 2 * self.calls)


def calibrated(
    measure: Callable[[Block], float], seconds: float, most: int, start: Block | None = None
) -> Block:
    """Double the block until `measure`, which returns seconds, takes at least `seconds`."""
    block = start or Block(1, 1)
    while measure(block) < seconds:
        block = block.doubled(most)
    return block


def seconds_of(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def repeated(work: Callable[[], object], seconds: float) -> tuple[int, float]:
    """Call until `seconds` have passed, once at least. Returns calls and seconds."""
    calls, passed = 0, 0.0
    while calls == 0 or passed < seconds:
        passed += seconds_of(work)
        calls += 1
    return calls, passed


def best(rates: Iterable[float | None]) -> float | None:
    """Return the highest rate; None where nothing was measured."""
    return max((rate for rate in rates if rate), default=None)
