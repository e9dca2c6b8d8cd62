"""Where the buffers of a stage lie while a block of the GPU takes a whole plane through it."""

from __future__ import annotations

from collections.abc import Sequence

from hpcnk.engine.tables import NOTHING, Operation, Stage


def last_readers(operations: Sequence[Operation]) -> list[int]:
    """For every buffer the number of the operation (from 1) that reads it last."""
    last = list(range(len(operations) + 1))
    for number, operation in enumerate(operations, 1):
        last[operation.input] = number
        if operation.plus != NOTHING:
            last[operation.plus] = number
    last[-1] = len(operations) + 1
    return last


def place_buffers(sizes: Sequence[int], last: Sequence[int]) -> tuple[list[int], int]:
    """Give every buffer the lowest place that is free while it lives, and the entries in all.

    Buffer k lives from operation k, which writes it, to operation last[k], which reads it last.
    """
    places: list[int] = []
    for number, size in enumerate(sizes):
        living = sorted(
            (places[k], places[k] + sizes[k]) for k in range(number) if last[k] >= number
        )
        place = 0
        for begin, end in living:
            if place + size <= begin:
                break
            place = max(place, end)
        places.append(place)
    return places, max((place + size for place, size in zip(places, sizes, strict=True)), default=0)


def buffer_sizes(stage: Stage, operations: Sequence[Operation]) -> list[int]:
    """Entries of one plane in every buffer."""
    return [stage.height * stage.width, *(op.y.out * op.x.out for op in operations)]
