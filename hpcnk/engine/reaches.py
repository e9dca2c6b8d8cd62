"""Which offsets of every stage and tensor are wanted at all, and where the tensors lie."""

from __future__ import annotations

from collections.abc import Sequence

from hpcnk.engine.tables import END_MEAN, IMAGES, NOTHING, Stage, Step, Tensor


def set_reaches(
    result: int, steps: Sequence[Step], stages: Sequence[Stage], tensors: Sequence[Tensor]
) -> None:
    """Go back from the result, and set how far the offsets reach.

    A mean knows its own: all offsets, or none but zero. A pool over windows of p turns offsets up
    to p r + p - 1 into offsets up to r, and a stride of s takes the offsets s d of its input to d.
    """
    _want(tensors[result], 0, 0)
    for step in reversed(steps):
        target = tensors[step.target]
        if step.stage == NOTHING:
            _want(tensors[step.left], target.reach_y, target.reach_x)
            _want(tensors[step.right], target.reach_y, target.reach_x)
            continue
        stage = stages[step.stage]
        if stage.end != END_MEAN:
            stage.reach_y = _before_pool(stage.reach_y, target.reach_y, stage.window_y)
            stage.reach_x = _before_pool(stage.reach_x, target.reach_x, stage.window_x)
        if stage.source != IMAGES:
            source = tensors[stage.source]
            _want(source, stage.reach_y * stage.stride_y, stage.reach_x * stage.stride_x)


def _want(tensor: Tensor, reach_y: int, reach_x: int) -> None:
    tensor.reach_y, tensor.reach_x = max(tensor.reach_y, reach_y), max(tensor.reach_x, reach_x)


def _before_pool(most: int, wanted: int, window: int) -> int:
    return min(most, window * wanted + window - 1)


def place_tensors(tensors: Sequence[Tensor]) -> int:
    """Give every tensor its planes and its place; return the number of entries of all."""
    place = 0
    for tensor in tensors:
        tensor.planes_y = min(tensor.height, 2 * tensor.reach_y + 1)
        tensor.planes_x = min(tensor.width, 2 * tensor.reach_x + 1)
        tensor.place = place
        place += tensor.planes_y * tensor.planes_x * tensor.height * tensor.width
    return place
