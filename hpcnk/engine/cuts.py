"""How a block of the kernel is cut into sub-blocks of pairs.

The cut follows from shapes alone, never from the number of threads, so that a block has the same
bytes however many threads compute it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hpcnk.kernels.plan import Form, Plan, Step

# Bytes of one covariance array of a sub-block. Measured on 8 x 8 and 32 x 32 images: half of it
# costs 15 % (many short calls), twice as much gains nothing (it leaves the cache).
SUB_BLOCK_BYTES = 1024 * 1024
# Fully connected networks: pairs come from one matrix product, which large sub-blocks make fast.
DENSE_ROWS = 256
MAX_COLUMNS = 512


@dataclass(frozen=True)
class Rectangle:
    """A sub-block: rows of the left images, columns of the right ones."""

    rows: slice
    columns: slice


@dataclass(frozen=True)
class CutSize:
    """Left and right images of a sub-block."""

    rows: int
    columns: int


def cut_size(plan: Plan, itemsize: int) -> CutSize:
    """Choose the sub-block for this plan. One pair is the least, whatever its size."""
    if plan.form == Form.NONE:
        return CutSize(DENSE_ROWS, DENSE_ROWS)
    pairs = max(1, SUB_BLOCK_BYTES // (itemsize * peak_entries(plan)))
    return CutSize(1, min(pairs, MAX_COLUMNS))


def peak_entries(plan: Plan) -> int:
    """Give the largest number of covariance entries that one pair has at any layer."""
    return max(plan.entries, _peak(plan.steps))


def _peak(steps: tuple[Step, ...]) -> int:
    sizes = [max(step.out_entries, _peak(step.branch + step.shortcut)) for step in steps]
    return max(sizes, default=0)


def cut(rows: int, columns: int, size: CutSize) -> Iterator[Rectangle]:
    """Cut a rectangular block."""
    for row in range(0, rows, size.rows):
        yield from _cut_columns(row, min(row + size.rows, rows), 0, columns, size)


def cut_upper(count: int, size: CutSize) -> Iterator[Rectangle]:
    """Cut what lies above the diagonal of a square block, with as little below it as possible."""
    for row in range(0, count, size.rows):
        yield from _cut_columns(row, min(row + size.rows, count), row + 1, count, size)


def _cut_columns(
    row: int, end_row: int, column: int, end: int, size: CutSize
) -> Iterator[Rectangle]:
    for start in range(column, end, size.columns):
        yield Rectangle(slice(row, end_row), slice(start, min(start + size.columns, end)))
