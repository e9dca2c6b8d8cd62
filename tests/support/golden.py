"""The residual histories of a small real solve, stored to notice what changes them.

`python -m tests.support.golden` writes them anew, after a change that is meant to change them.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from hpcnk import Kernel
from hpcnk.solve import (
    Greedy,
    Limits,
    LowRank,
    PlainProducts,
    Random,
    conjugate_gradient,
    identity,
    nystrom,
    pivoted_cholesky,
)
from hpcnk.tiling import TriangleGrid
from tests.support.dense import SUMS, systems, tile_operator

STORED = Path(__file__).parents[1] / "references" / "residual_histories.json"
ROWS, TILE, RANK = 120, 40, 16
RIDGES = (1e-2, 1e-5)  # relative to the mean diagonal
FACTORS = {
    "greedy": lambda operator: pivoted_cholesky(operator, RANK, Greedy()),
    "random": lambda operator: pivoted_cholesky(operator, RANK, Random(0)),
    "nystrom": lambda operator: nystrom(operator, RANK, 0),
}


def digits():
    """The depth-3 NTK of some digits, by the plain recursion, and their labels."""
    x, y = load_digits(return_X_y=True)
    k = Kernel("fc3", dtype="float64", backend="reference")(x[:ROWS] / 16)
    return k / k.diagonal().mean(), np.eye(10)[y[:ROWS]] - 0.1


def operator_of(k, numbers=None):
    """The operator from all tiles of k, or from some, one of them perhaps twice."""
    return tile_operator(SUMS, k, TriangleGrid(ROWS, TILE), numbers)


def history(operator, y, precondition, block):
    """The worst relative residual after each pass."""
    return conjugate_gradient(
        operator, systems(y, RIDGES, block=block), precondition, Limits(1e-8, 60)
    ).history


def low_rank_of(operator, y, factor, kind=LowRank):
    """The preconditioner of the systems with a factor."""
    problem = systems(y, RIDGES)
    plain = PlainProducts()
    return kind(operator.spread, SUMS, factor, problem.row_sets, problem.matrices, plain)


def histories():
    """All that is stored, by name."""
    k, y = digits()
    operator, found = operator_of(k), {}
    for block in (True, False):
        way = "block" if block else "single"
        found[f"none {way}"] = history(operator, y, identity, block)
        for name, make in FACTORS.items():
            precondition = low_rank_of(operator, y, make(operator))
            found[f"{name} {way}"] = history(operator, y, precondition, block)
    return found


if __name__ == "__main__":
    STORED.write_text(json.dumps(histories(), indent=1) + "\n")
