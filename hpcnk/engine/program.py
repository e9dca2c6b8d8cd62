"""Lays a network out for the compiled engines: stages between pools, tables, places in memory.

Only a pool mixes the offsets between two pixels, so a network is cut there. What lies between is a
list of operations that a plane (all entries of one offset) streams through; a pool's result is a
tensor that the next stage reads. A residual sum with a pool inside of a side is computed on whole
tensors. At last every stage is told how far its offsets reach: a network that ends with `flatten`
needs equal pixels only, and so just a few offsets before its pools.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod

from hpcnk.engine import tables
from hpcnk.engine.reaches import place_tensors, set_reaches
from hpcnk.engine.rings import rows_in_flight
from hpcnk.engine.tables import END_MEAN, END_POOL, END_TENSOR, IMAGES, NOTHING
from hpcnk.errors import ArchitectureError
from hpcnk.kernels.layers import AvgPool, Conv, Dense, Flatten, GlobalAvgPool
from hpcnk.kernels.plan import Form, Plan, Step
from hpcnk.kernels.rules import all_layers
from hpcnk.kernels.shapes import Spatial, Window, conv_windows, pool_windows

MAX_OPERATIONS = 4096  # of one stage: fixed arrays in source/stage.hpp
MAX_FILTER_ROWS = 1024
POINT_OF = {"Relu": 1, "Erf": 2, "Gelu": 3, "LayerNorm": 4}
FACTORS = (0, 2, 1, 3, 1)  # numbers that a pair needs of one row and pixel, by point


@dataclass(frozen=True)
class Program:
    """The tables of one network for rows of one shape; sizes in numbers, not bytes."""

    header: tables.Header
    steps: list[tables.Step]
    stages: list[tables.Stage]
    operations: list[tables.Operation]
    tensors: list[tables.Tensor]

    @property
    def factors(self) -> int:
        """Numbers that pairs need of one row, beside its inputs."""
        return int(self.header.factors)

    @property
    def variances(self) -> int:
        """Variances of one row: one a pixel and pointwise layer."""
        return int(self.header.variances)

    def workspace_bytes(self, lanes: int, itemsize: int, tangent: bool) -> int:
        """Give the bytes that one thread needs for `lanes` pairs at a time."""
        head = self.header
        entries = head.buffer_entries + head.tensor_entries + head.widest
        return entries * (2 if tangent else 1) * lanes * itemsize + 4 * head.widest


@dataclass(frozen=True)
class _Signal:
    """Where S and T are while the layers are walked through: a buffer of the open stage."""

    buffer: int
    spatial: Spatial
    tangent: bool
    stride: tuple[int, int]  # since the stage's source
    shared: bool = False  # another reader keeps a pointwise layer from being fused


@dataclass
class _Open:
    """The stage that is being filled."""

    source: int
    tangent: bool
    size: tuple[int, int]
    scale: float  # of the source's entries: pools only sum
    operations: list[tables.Operation] = field(default_factory=list)
    strides: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class _Whole:
    """A finished tensor, or the images."""

    tensor: int
    tangent: bool
    spatial: Spatial
    scale: float


@lru_cache(maxsize=32)
def make_program(layers_plan: Plan, width: int = 1) -> Program:
    """Lay out a plan. `width`: entries a row of a network without pixels takes at once.

    Raises ArchitectureError for more layers between two pools than the engine's tables hold.
    """
    return _Builder(layers_plan, width).build()


class _Builder:
    def __init__(self, plan: Plan, width: int) -> None:
        self._plan, self._width = plan, width
        self._steps: list[tables.Step] = []
        self._stages: list[tables.Stage] = []
        self._operations: list[tables.Operation] = []
        self._tensors: list[tables.Tensor] = []
        self._factors = self._variances = 0
        self._buffer_entries = 0
        self._widest = width

    def build(self) -> Program:
        images = _Whole(IMAGES, False, self._plan.spatial, 1.0)
        end = self._chain(self._plan.steps, images, last=True)
        set_reaches(end.tensor, self._steps, self._stages, self._tensors)
        entries = place_tensors(self._tensors)
        assert self._plan.spatial or len(self._stages) == 1, "vectors go through one stage"
        header = tables.Header(
            steps=len(self._steps),
            stages=len(self._stages),
            operations=len(self._operations),
            tensors=len(self._tensors),
            pixels=self._plan.pixels,
            channels=self._plan.channels,
            factors=self._factors,
            variances=self._variances,
            result=end.tensor,
            result_tangent=end.tangent,
            buffer_entries=self._buffer_entries,
            tensor_entries=entries,
            widest=self._widest,
        )
        return Program(header, self._steps, self._stages, self._operations, self._tensors)

    # --- walking through the layers

    def _chain(self, steps: tuple[Step, ...], whole: _Whole, last: bool = False) -> _Whole:
        """Lay out steps from a tensor to a tensor; at the `last`, to the kernel itself."""
        stage, signal = self._open(whole)
        for step in steps:
            layer = step.layer
            if isinstance(layer, Flatten) and not step.spatial:
                continue  # of a vector: nothing to do
            if isinstance(layer, AvgPool | GlobalAvgPool | Flatten):
                whole = self._close(stage, signal, step)
                stage, signal = self._open(whole)
            elif step.branch and _pools(step):
                whole = self._wide_sum(step, self._whole(stage, signal, whole))
                stage, signal = self._open(whole)
            else:
                signal = self._within(stage, signal, step)
        return self._close(stage, signal, None) if last else self._whole(stage, signal, whole)

    def _open(self, whole: _Whole) -> tuple[_Open, _Signal]:
        size = _two(whole.spatial)
        stage = _Open(whole.tensor, whole.tangent, size, whole.scale)
        self._widest = max(self._widest, size[1])
        return stage, _Signal(0, whole.spatial, whole.tangent, (1, 1))

    def _whole(self, stage: _Open, signal: _Signal, whole: _Whole) -> _Whole:
        """Have the open stage's signal as a tensor."""
        if not stage.operations and stage.source != IMAGES:
            return whole
        return self._close(stage, signal, None, END_TENSOR)

    def _within(self, stage: _Open, signal: _Signal, step: Step) -> _Signal:
        """Add a layer that keeps the offsets apart."""
        layer = step.layer
        if step.branch:
            return self._sum(stage, signal, step)
        if isinstance(layer, Conv):
            weight = layer.w_std**2 / prod(w.size for w in conv_windows(layer, step.spatial))
            windows = conv_windows(layer, step.spatial)
            return self._add(stage, signal, windows, step.out_spatial, weight, layer.b_std**2)
        if isinstance(layer, Dense):
            windows = _point_windows(signal.spatial)
            return self._add(stage, signal, windows, signal.spatial, layer.w_std**2, layer.b_std**2)
        return self._pointwise(stage, signal, POINT_OF[type(layer).__name__])

    def _add(
        self,
        stage: _Open,
        signal: _Signal,
        windows: tuple[Window, ...],
        out: Spatial,
        weight: float,
        bias: float,
        affine: bool = True,
    ) -> _Signal:
        y, x = _axes(windows, signal.spatial)
        if len(stage.operations) == MAX_OPERATIONS or y.filter > MAX_FILTER_ROWS:
            raise ArchitectureError(
                f"the engine takes up to {MAX_OPERATIONS} layers between two pools and filters of "
                f"{MAX_FILTER_ROWS} rows",
                (),
                "use fewer layers, or `backend: reference`",
            )
        operation = tables.Operation(
            input=signal.buffer,
            plus=NOTHING,
            input_tangent=signal.tangent,
            affine=affine,
            pixels=prod(out),
            y=y,
            x=x,
            weight=weight * (stage.scale if signal.buffer == 0 else 1.0),
            bias=bias,
        )
        stride = (signal.stride[0] * y.stride, signal.stride[1] * x.stride)
        stage.operations.append(operation)
        stage.strides.append(stride)
        self._widest = max(self._widest, x.out)
        return _Signal(len(stage.operations), out, affine or signal.tangent, stride)

    def _identity(self, stage: _Open, signal: _Signal) -> _Signal:
        windows = _point_windows(signal.spatial)
        return self._add(stage, signal, windows, signal.spatial, 1.0, 0.0, affine=False)

    def _pointwise(self, stage: _Open, signal: _Signal, point: int) -> _Signal:
        """Fuse the layer with the operation before it if nobody else reads that one's output."""
        fresh = signal.buffer and not signal.shared
        if not fresh or stage.operations[signal.buffer - 1].point:
            signal = self._identity(stage, signal)
        operation = stage.operations[signal.buffer - 1]
        operation.point = point
        operation.factor, operation.variance = self._factors, self._variances
        self._factors += FACTORS[point] * operation.pixels
        self._variances += operation.pixels
        return signal

    def _sum(self, stage: _Open, signal: _Signal, step: Step) -> _Signal:
        """Add a residual sum; it joins the operation that was made last, where it may."""
        start = replace(signal, shared=True)
        branch, shortcut = start, start
        for inner in step.branch:
            branch = self._within(stage, branch, inner)
        for inner in step.shortcut:
            shortcut = self._within(stage, shortcut, inner)
        here, other = (shortcut, branch) if step.shortcut else (branch, shortcut)
        operation = stage.operations[here.buffer - 1] if here.buffer else None
        free = operation and not here.shared and not operation.point and operation.plus == NOTHING
        if not free:
            here = self._identity(stage, here)
        operation = stage.operations[here.buffer - 1]
        operation.plus, operation.plus_tangent = other.buffer, other.tangent
        operation.plus_weight = stage.scale if other.buffer == 0 else 1.0
        return replace(here, tangent=here.tangent or other.tangent, shared=False)

    # --- what leaves a stage

    def _close(
        self, stage: _Open, signal: _Signal, step: Step | None, end: int = END_MEAN
    ) -> _Whole:
        """End the stage with a pool, a readout, the kernel itself (a mean of one) or a tensor."""
        layer = step.layer if step else None
        windows, out, reach = (1, 1), signal.spatial, None
        scale = 1.0 if stage.operations else stage.scale
        if isinstance(layer, AvgPool):
            assert step
            end, windows, out = (
                END_POOL,
                _two(pool_windows(layer, signal.spatial)),
                step.out_spatial,
            )
            scale /= prod(windows) ** 2
        elif end == END_MEAN:
            form = step.form if step else Form.DIAGONAL
            scale, out = scale / prod(signal.spatial) ** max(1, form), ()
            reach = (0, 0) if form != Form.FULL else None
        target = self._tensor(out)
        self._stage(stage, signal, end, target, windows, scale, reach)
        self._steps.append(tables.Step(stage=len(self._stages) - 1, target=target))
        return _Whole(target, signal.tangent, out, scale if end != END_MEAN else 1.0)

    def _stage(
        self,
        stage: _Open,
        signal: _Signal,
        end: int,
        target: int,
        windows: tuple[int, int],
        scale: float,
        reach: tuple[int, int] | None,
    ) -> None:
        out, to = _two(signal.spatial), self._tensors[target]
        reach = reach or (out[0] - 1, out[1] - 1)
        for operation, stride in zip(stage.operations, stage.strides, strict=True):
            operation.y.scale = signal.stride[0] // stride[0]
            operation.x.scale = signal.stride[1] // stride[1]
            operation.conv3_relu = _is_conv3_relu(operation)
        made = tables.Stage(
            source=stage.source,
            source_tangent=stage.tangent,
            height=stage.size[0],
            width=stage.size[1],
            out_height=out[0],
            out_width=out[1],
            stride_y=signal.stride[0],
            stride_x=signal.stride[1],
            reach_y=reach[0],
            reach_x=reach[1],
            first=len(self._operations),
            operations=len(stage.operations),
            last_tangent=signal.tangent,
            end=end,
            target=target,
            window_y=windows[0],
            window_x=windows[1],
            target_height=to.height,
            target_width=to.width,
            scale=scale,
        )
        self._place_buffers(made, stage.operations)
        self._stages.append(made)
        self._operations += stage.operations

    def _wide_sum(self, step: Step, whole: _Whole) -> _Whole:
        """A residual sum with a pool in it: both sides as tensors."""
        branch = self._chain(step.branch, whole)
        shortcut = self._chain(step.shortcut, whole)
        target = self._tensor(branch.spatial)
        self._steps.append(
            tables.Step(
                stage=NOTHING,
                left=branch.tensor,
                right=shortcut.tensor,
                target=target,
                left_tangent=branch.tangent,
                right_tangent=shortcut.tangent,
                left_weight=branch.scale,
                right_weight=shortcut.scale,
            )
        )
        return _Whole(target, branch.tangent or shortcut.tangent, branch.spatial, 1.0)

    def _tensor(self, spatial: Spatial) -> int:
        height, width = _two(spatial)
        self._tensors.append(tables.Tensor(height=height, width=width, reach_y=-1, reach_x=-1))
        return len(self._tensors) - 1

    def _place_buffers(self, stage: tables.Stage, operations: list[tables.Operation]) -> None:
        """Give each buffer its ring of rows; all stages share the same memory."""
        rings = rows_in_flight(stage, operations)
        place = 0
        if stage.source == IMAGES:
            stage.ring, place = rings[0] - 1, rings[0] * max(stage.width, self._width)
        for operation, rows in zip(operations, rings[1:], strict=True):
            operation.ring, operation.place = rows - 1, place
            place += rows * max(operation.x.out, self._width)
        self._buffer_entries = max(self._buffer_entries, place)


def _pools(step: Step) -> bool:
    layers = (*(s.layer for s in step.branch), *(s.layer for s in step.shortcut))
    return any(isinstance(layer, AvgPool | GlobalAvgPool | Flatten) for layer in all_layers(layers))


def _two(spatial: Spatial) -> tuple[int, int]:
    """Height and width; a sequence is an image of one row, a vector one of one pixel."""
    height, width = (1, 1, *spatial)[-2:]
    return height, width


def _point_windows(spatial: Spatial) -> tuple[Window, ...]:
    return tuple(Window(1, 1, 0, size) for size in spatial)


def _axes(windows: tuple[Window, ...], spatial: Spatial) -> list[tables.Axis]:
    """Make the axes y and x of an operation from the filter of every spatial axis."""
    one = (1, Window(1, 1, 0, 1))
    pairs = [one, one, *zip(spatial, windows, strict=True)][-2:]
    return [tables.Axis(size, w.outputs, w.size, w.stride, w.pad) for size, w in pairs]


def _is_conv3_relu(op: tables.Operation) -> bool:
    """Tell whether the fast row of source/rows.hpp may be used."""

    def three(axis: tables.Axis) -> bool:
        return (axis.filter, axis.stride, axis.pad) == (3, 1, 1)

    plain = op.plus == NOTHING and op.affine and op.point == POINT_OF["Relu"]
    return bool(plain and three(op.x) and (three(op.y) or op.y.filter == op.y.out == 1))
