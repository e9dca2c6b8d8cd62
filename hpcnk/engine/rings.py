"""How many rows of a buffer somebody still needs while a plane streams through a stage."""

from __future__ import annotations

from collections.abc import Sequence

from hpcnk.engine.tables import END_POOL, NOTHING, Operation, Stage

POOLED_ROWS = 2  # that source/stage.hpp pools at a time


def rows_in_flight(stage: Stage, operations: Sequence[Operation]) -> list[int]:
    """Give the ring size of every buffer, a power of two, by going through one plane's rows.

    The plane of the zero offset is the highest; the others are its shifts, cut short.
    """
    sizes = [stage.height, *(op.y.out for op in operations)]
    most = [1] * len(sizes)
    before = [-1] * len(sizes)
    for row in range(stage.out_height):
        made = _demand(row, sizes, operations)
        for number, op in enumerate(operations, 1):
            next_row = before[number] + 1
            _note(most, op.input, made, next_row * op.y.stride - op.y.pad)
            if op.plus != NOTHING:
                _note(most, op.plus, made, next_row)
        before = made
    if stage.end == END_POOL:
        most[-1] = max(most[-1], POOLED_ROWS)
    return [1 << (rows - 1).bit_length() for rows in most]


def _demand(row: int, sizes: list[int], operations: Sequence[Operation]) -> list[int]:
    """Give the last row of every buffer that the stage's output row `row` asks for."""
    last = [-1] * len(sizes)
    last[-1] = row
    for number in range(len(operations), 0, -1):
        op = operations[number - 1]
        wanted = last[number] * op.y.stride - op.y.pad + op.y.filter - 1
        last[op.input] = max(last[op.input], min(wanted, sizes[op.input] - 1))
        if op.plus != NOTHING:
            last[op.plus] = max(last[op.plus], last[number])
    return last


def _note(most: list[int], buffer: int, made: list[int], oldest: int) -> None:
    most[buffer] = max(most[buffer], made[buffer] + 1 - max(0, oldest))
