"""What one kernel entry costs the CPU engine, counted from the tables that the engine works by."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from hpcnk.engine.program import POINT_OF, Program, make_program
from hpcnk.engine.tables import IMAGES, Operation, Stage
from hpcnk.kernels.plan import Plan
from hpcnk.run.plan.rates import KernelRates

UNMEASURED = ("Erf", "Gelu")  # layers whose speed is in no file of measurements
USUAL_FILTER = 3 + 3  # taps along two axes: what `others` is counted in


@dataclass(frozen=True)
class PairCost:
    """What the engine does for one pair of rows.

    `convolutions`: covariance entries through a convolution of 3 and a ReLU; `others`: through
    any other layer, in units of a filter of 3 x 3; `inputs`: multiply-adds for the covariances of
    the inputs. Rows without pixels: `products`, multiply-adds of the matrix product, and `layers`.
    """

    convolutions: int = 0
    others: float = 0.0
    inputs: int = 0
    products: int = 0
    layers: int = 0

    def seconds(self, rates: KernelRates) -> float:
        """Return the time of one core.

        Within 15 % of what was measured for ten networks in float32 and six in float64: the three
        Myrtles, Myrtle5 on 64 x 64, CV8, fc3, sequences of 28 and 735, a residual net, and one
        with strides and a filter of 5.
        """
        return (
            self.convolutions / rates.convolutions
            + self.others / rates.others
            + self.inputs / rates.inputs
            + self.products / rates.products
            + self.layers / rates.layers
        )


def pair_cost(plan: Plan) -> PairCost:
    """Count what a pair of rows costs. The engine's program says which entries are computed."""
    program = make_program(plan)
    if not plan.spatial:
        return PairCost(products=plan.channels, layers=len(program.operations))
    costs = [_stage_cost(program, stage, plan.channels) for stage in program.stages]
    return PairCost(
        convolutions=sum(cost.convolutions for cost in costs),
        others=sum(cost.others for cost in costs),
        inputs=sum(cost.inputs for cost in costs),
    )


def unmeasured_layers(plan: Plan) -> list[str]:
    """Name the kinds of layers in a network whose speed nobody has measured."""
    points = {operation.point for operation in make_program(plan).operations}
    return [name.lower() for name in UNMEASURED if POINT_OF[name] in points]


def _stage_cost(program: Program, stage: Stage, channels: int) -> PairCost:
    convolutions, others = 0, 0.0
    for operation in program.operations[stage.first : stage.first + stage.operations]:
        entries = _entries(stage, operation)
        if operation.conv3_relu:
            convolutions += entries
        else:
            others += entries * (operation.y.filter + operation.x.filter) / USUAL_FILTER
    inputs = 0
    if stage.source == IMAGES:
        inputs = channels * prod(
            _overlaps(size, reach, step)
            for size, reach, step in (
                (stage.height, stage.reach_y, stage.stride_y),
                (stage.width, stage.reach_x, stage.stride_x),
            )
        )
    return PairCost(convolutions, others, inputs)


def _entries(stage: Stage, operation: Operation) -> int:
    """Count the covariance entries at the output of an operation, over all offsets wanted."""
    y, x = operation.y, operation.x
    return _overlaps(y.out, stage.reach_y, y.scale) * _overlaps(x.out, stage.reach_x, x.scale)


def _overlaps(size: int, reach: int, step: int) -> int:
    """Count the pairs of positions on one axis at offsets -reach .. reach, times `step`."""
    return sum(max(0, size - abs(offset) * step) for offset in range(-reach, reach + 1))
