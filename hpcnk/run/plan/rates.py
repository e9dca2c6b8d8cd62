"""Measured speeds of one core of an AMD EPYC (third generation, AVX2), for plans.

They are taken from the files named here, in tools/bench/results; a test derives them anew. Another
processor has other speeds: the measurements are made by tools/bench/kernels.py and solve.py.
"""

from __future__ import annotations

from dataclasses import dataclass

KERNEL_SOURCES = {
    "float32": "kernels-cpu-20261123-0600.json",
    "float64": "kernels-cpu-20261123-0713.json",
}
SOLVE_SOURCE = "solve-cpu-20261123-1211.json"
PROCESSOR = "one core of an AMD EPYC with AVX2"


@dataclass(frozen=True)
class KernelRates:
    """What `hpcnk.run.plan.cost.PairCost` counts, a second. Kernels ntk; nngp takes less time.

    From the rows myrtle10, residual and sequence735 of a file, and fc3 for what has no pixels.
    """

    convolutions: float
    others: float
    inputs: float
    products: float
    layers: float


@dataclass(frozen=True)
class ProductRates:
    """Entries of tiles a second, by the number of columns that they are multiplied with.

    `triangle`: a pass of the solve, in which a tile serves both triangles; `reproducible`: the
    same with sums in fixed point; `cross`: test tiles.
    """

    triangle: dict[int, float]
    reproducible: dict[int, float]
    cross: dict[int, float]
    read: float  # checked on the way, from the system's cache: disks are slower


KERNEL = {
    "float32": KernelRates(
        convolutions=7.89e8, others=6.00e8, inputs=1.14e10, products=4.33e10, layers=3.70e8
    ),
    "float64": KernelRates(
        convolutions=2.71e8, others=2.70e8, inputs=6.07e9, products=2.19e10, layers=2.46e8
    ),
}

PRODUCTS = {
    "float32": ProductRates(
        triangle={10: 9.62e8, 50: 2.52e8},
        reproducible={10: 8.53e8, 50: 2.2e8},
        cross={10: 1.08e9, 50: 3.67e8},
        read=3.45e8,
    ),
    "float64": ProductRates(
        triangle={10: 8.47e8, 50: 2.4e8},
        reproducible={10: 7.7e8, 50: 2.07e8},
        cross={10: 9.39e8, 50: 3.44e8},
        read=1.79e8,
    ),
}

# Entries of one block of vectors a second, all that an iteration does with them beside products.
VECTORS = 1.65e7


def product_seconds(rates: dict[int, float], columns: int) -> float:
    """Return the seconds of one entry with so many columns, on the line through those measured."""
    (few, fast), (many, slow) = sorted(rates.items())
    slope = (1 / slow - 1 / fast) / (many - few)
    return max(1 / fast + slope * (columns - few), 0.25 / fast)


@dataclass(frozen=True)
class FactorRates:
    """What a low-rank preconditioner costs a core, by tools/bench/factor.py.

    `building`: floating-point operations a second of its matrix products; `columns`: entries of
    kernel columns fetched a second from resident tiles; `application`: entries of the factor a
    second, each used twice, by the number of columns that it is applied to.
    """

    building: float
    columns: float
    application: dict[int, float]


FACTOR = FactorRates(building=2.33e10, columns=1.05e8, application={10: 3.21e8, 50: 1.46e8})
