"""Which stages the fast kernel `stream` takes, and how it cuts them: source/device_stream.cuh."""

from __future__ import annotations

from collections.abc import Sequence

from hpcnk.engine.device.tables import MAX_COLUMNS, MAX_LAYERS, MAX_WINDOW, WARP, Shape
from hpcnk.engine.tables import END_POOL, END_TENSOR, IMAGES, Operation, Stage, Tensor

# Rows that a group of lanes goes through before it ends. Its first `layers` rows leave nothing, so
# many rows waste little; few leave more warps for the multiprocessors.
STREAM_ROWS = 256
LARGEST = 2**31 - 1
MOST_REGISTERS = 16  # layers x pixels of a lane, twice in float64: 255 registers are enough for it


def stream_shape(
    stage: Stage,
    operations: Sequence[Operation],
    tensors: Sequence[Tensor],
    channels: int,
    tangent: bool,
    wide: bool,
) -> Shape | None:
    """Describe the stage for `stream`, or return None where it does not fit.

    `wide`: numbers are float64, which take two registers.
    """
    columns = columns_of(stage.width, len(operations) * (2 if wide else 1))
    target = tensors[stage.target]
    if not columns or not _is_plain(stage, operations, tensors):
        return None
    source = None if stage.source == IMAGES else tensors[stage.source]
    return Shape(
        height=stage.height,
        width=stage.width,
        channels=channels,
        layers=len(operations),
        columns=columns,
        images=source is None,
        tangent=tangent,
        source_tangent=tangent and bool(stage.source_tangent),
        planes_y=min(stage.height, 2 * stage.reach_y + 1),
        planes_x=min(stage.width, 2 * stage.reach_x + 1),
        reach_y=stage.reach_y,
        reach_x=stage.reach_x,
        source_planes_y=source.planes_y if source else 1,
        source_planes_x=source.planes_x if source else 1,
        end=stage.end,
        window_y=stage.window_y,
        window_x=stage.window_x,
        target_height=stage.target_height,
        target_width=stage.target_width,
        target_planes_y=target.planes_y,
        target_planes_x=target.planes_x,
        target_reach_y=target.reach_y,
        target_reach_x=target.reach_x,
        first_factor=operations[0].factor,
        chunk=max(1, STREAM_ROWS // stage.height),
    )


def columns_of(width: int, registers: int) -> int:
    """Give the pixels of a lane, 0 where no number fits.

    Two neighbours in a lane halve the shuffles, as long as there are registers: their number is
    that of the layers, counted twice in float64. More only for images too wide for a warp.
    """
    few = (2, 1) if 2 * registers <= MOST_REGISTERS else (1, 2)
    for columns in (*few, 3, MAX_COLUMNS):
        if width % columns == 0 and width // columns <= WARP:
            return columns if columns * registers <= MOST_REGISTERS else 0
    return 0


def _is_plain(stage: Stage, operations: Sequence[Operation], tensors: Sequence[Tensor]) -> bool:
    """Tell whether the stage is a chain of conv3_relu layers, and its end one that `stream` has."""
    chain = all(op.conv3_relu and op.input == k for k, op in enumerate(operations))
    if not (chain and 1 <= len(operations) <= MAX_LAYERS and stage.stride_y == stage.stride_x == 1):
        return False
    if stage.end == END_POOL and stage.window_x > MAX_WINDOW:
        return False
    target = tensors[stage.target]
    if stage.end == END_TENSOR and not _same_planes(stage, target):
        return False
    used = [target] if stage.source == IMAGES else [target, tensors[stage.source]]
    return all(_entries(tensor) < LARGEST for tensor in used)


def _same_planes(stage: Stage, target: Tensor) -> bool:
    return bool((stage.reach_y, stage.reach_x) == (target.reach_y, target.reach_x))


def _entries(tensor: Tensor) -> int:
    return int(tensor.planes_y * tensor.planes_x * tensor.height * tensor.width)
