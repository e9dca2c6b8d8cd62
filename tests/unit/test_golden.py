"""Stored residual histories of a real solve: broken preconditioners and lost tiles show in them.

A wrong preconditioner still leads to the right solution, only more slowly, so no other test sees
it.
"""

import json

import numpy as np
import pytest

from hpcnk.solve import Factor, LowRank, identity
from tests.support.golden import (
    FACTORS,
    STORED,
    digits,
    history,
    low_rank_of,
    operator_of,
)

TOLERANCE = 1e-6  # in log10 of a residual: rounding of other processors is amplified by CG
BROKEN = 1000 * TOLERANCE
EARLY = 5  # passes in which rounding is not amplified much
WAYS = {"block": True, "single": False}


def distance(found, golden):
    """The largest difference of two histories, in log10; infinite if they are not as long."""
    if abs(len(found) - len(golden)) > 1:
        return np.inf
    early = [np.log10(np.maximum(part[:EARLY], 1e-300)) for part in (found, golden)]
    if not np.isfinite(early[0]).all():
        return np.inf
    return float(np.abs(early[0] - early[1]).max())


@pytest.fixture(scope="module")
def golden():
    return json.loads(STORED.read_text())


@pytest.fixture(scope="module")
def data():
    return digits()


class WrongSign(LowRank):
    def _solve(self, *arguments):
        return -super()._solve(*arguments)


class OtherCore(LowRank):
    """Each ridge gets the core of the other one."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        matrices = list(self._cores)
        self._cores = dict(zip(matrices, reversed(list(self._cores.values())), strict=True))


def without_column(factor, column):
    return Factor(np.delete(factor.rows, column, axis=1), factor.left)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["none", *FACTORS])
def test_history_is_the_stored_one(data, golden, name, way):
    k, y = data
    operator = operator_of(k)
    factor = FACTORS[name](operator) if name in FACTORS else None
    precondition = low_rank_of(operator, y, factor) if factor else identity
    found = history(operator, y, precondition, WAYS[way])
    assert distance(found, golden[f"{name} {way}"]) < TOLERANCE


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FACTORS)
def test_a_broken_preconditioner_shows(data, golden, name, way):
    k, y = data
    operator, stored = operator_of(k), golden[f"{name} {way}"]
    factor = FACTORS[name](operator)
    broken = {
        "first column": low_rank_of(operator, y, without_column(factor, 0)),
        "middle column": low_rank_of(operator, y, without_column(factor, 7)),
        "last column": low_rank_of(operator, y, without_column(factor, -1)),
        "sign": low_rank_of(operator, y, factor, WrongSign),
        "core": low_rank_of(operator, y, factor, OtherCore),
    }
    for what, precondition in broken.items():
        assert distance(history(operator, y, precondition, WAYS[way]), stored) > BROKEN, what


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 5], [1, 2, 3, 4, 5], [0, 1, 1, 2, 3, 4, 5]])
def test_a_lost_or_doubled_tile_shows(data, golden, name, way, numbers):
    k, y = data
    sound = operator_of(k)
    precondition = low_rank_of(sound, y, FACTORS[name](sound))
    found = history(operator_of(k, numbers), y, precondition, WAYS[way])
    assert distance(found, golden[f"{name} {way}"]) > BROKEN
