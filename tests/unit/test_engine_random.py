"""The compiled engines against the NumPy engine on random networks."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.engines import COMPILED, engine_for, guarded, images
from tests.support.networks import PATHS
from tests.support.random_networks import Problem, problems

EXAMPLES = 150
FLOAT64 = 1e-10  # of sqrt(K(x, x) K(y, y))
# In float32 a relu's angle has the error e of c over sqrt(1 - c^2): with e = 1e-7 that is below
# 1e-5 a relu for nearly all pairs of unlike rows. Rows of one or two channels can be parallel by
# chance, and then the bound of test_engine_near_one.py holds.
FLOAT32 = 2e-5
FLOAT32_PARALLEL = math.sqrt(2 * 4 * np.finfo(np.float32).eps) / math.pi  # a relu


def compare(problem, kind, dtype, backend):
    """Give the errors of both kinds of block, after comparing what is known of each row."""
    x = images(problem.rows[0], problem.shape, problem.seed)
    y = images(problem.rows[1], problem.shape, problem.seed + 1)
    mine = engine_for(problem.layers, kind, dtype, backend)
    twin = engine_for(problem.layers, kind, "float64", "reference")
    assert mine.backend != twin.backend
    rows = [[engine.prepare(part) for part in (x, y)] for engine in (mine, twin)]
    if dtype == "float64":
        for own, expected in zip(*rows, strict=True):
            check_described(own.described, expected.described)
    blocks = [engine.block(*both) for engine, both in zip((mine, twin), rows, strict=True)]
    own = [engine.symmetric_block(a) for engine, (a, _) in zip((mine, twin), rows, strict=True)]
    assert blocks[0].dtype == own[0].dtype == dtype
    left, right = (np.sqrt(part.diagonal) for part in rows[1])
    return np.concatenate(
        [relative(*blocks, np.outer(left, right)), relative(*own, np.outer(left, left))]
    )


def relative(got, expected, scale):
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    return (np.abs(got - expected) / scale).reshape(-1)


def check_described(got, expected):
    """Rows of pixels that a stride skips need no variance, and in a compiled engine have none."""
    assert got.variances.shape == expected.variances.shape
    known = np.where(got.variances == 0, got.variances, expected.variances)
    np.testing.assert_allclose(got.variances, known, rtol=1e-12)
    np.testing.assert_allclose(got.diagonal, expected.diagonal, rtol=1e-10)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@settings(max_examples=EXAMPLES, deadline=None)
@given(problem=problems())
def test_random_network_float64(backend, kind, problem):
    with guarded():
        errors = compare(problem, kind, "float64", backend)
    assert errors.max() <= FLOAT64


@pytest.mark.parametrize("backend", COMPILED)
@settings(max_examples=EXAMPLES, deadline=None)
@given(problem=problems())
def test_random_network_float32(backend, problem):
    with guarded():
        errors = compare(problem, "ntk", "float32", backend)
    assert np.median(errors) <= FLOAT32
    assert errors.max() <= FLOAT32 + FLOAT32_PARALLEL * str(problem.layers).count("relu")


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", PATHS)
def test_every_way_through_the_engine(name, kind, backend):
    problem = Problem(PATHS[name], (6, 6, 2), (9, 17), 0)
    with guarded():
        assert compare(problem, kind, "float64", backend).max() <= 1e-13
        assert compare(problem, kind, "float32", backend).max() <= 3e-6


def test_random_networks_are_of_every_kind():
    """A strategy that no longer draws something would make the tests above pass all the same."""
    seen = Counter()

    @settings(max_examples=3 * EXAMPLES, deadline=None, database=None, derandomize=True)
    @given(problem=problems())
    def draw(problem):
        text = str(problem.layers)
        seen[f"{len(problem.shape) - 1} axes"] += 1
        seen["nested"] += text.count("residual") > 1
        seen["empty shortcut"] += "'shortcut': []" in text
        seen["pool first"] += "avg_pool" in str(problem.layers[0])
        pools = [isinstance(layer, dict) and "avg_pool" in layer for layer in problem.layers]
        seen["pools in a row"] += any(a and b for a, b in pairwise(pools))
        for part in ("avg_pool", "residual", "layer_norm", "erf", "gelu", "relu", "valid"):
            seen[part] += part in text
        for part in ("flatten", "global_avg_pool"):
            seen[part] += part in text
        seen["one pixel"] += len(problem.shape) > 1 and max(problem.shape[:-1]) == 1
        for branch in sides(problem.layers):
            seen["pool inside a side"] += "avg_pool" in str(branch)
            seen["readout inside a side"] += any(r in branch for r in READOUTS)
        seen["list of filters"] += "'filter': [" in text
        seen["list of strides"] += "'strides': [" in text
        seen["list of windows"] += "'avg_pool': [" in text

    draw()
    assert len(seen) == 22
    assert min(seen.values()) >= 3, seen


READOUTS = ("flatten", "global_avg_pool")


def sides(layers):
    for layer in layers:
        if isinstance(layer, dict) and "residual" in layer:
            for side in layer["residual"].values():
                yield side
                yield from sides(side)
