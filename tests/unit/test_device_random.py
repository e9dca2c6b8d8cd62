"""The GPU's kernels, emulated, against the NumPy engine on random networks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.emulated_device import EmulatedDevice, device_engine
from tests.support.engines import engine_for, images
from tests.support.random_networks import problems

EXAMPLES = 100
FLOAT64 = 1e-10  # of sqrt(K(x, x) K(y, y))
# As in test_engine_random.py, where these bounds are derived.
FLOAT32 = 2e-5
FLOAT32_PARALLEL = math.sqrt(2 * 4 * np.finfo(np.float32).eps) / math.pi


def errors_of(problem, kind, dtype, shared_bytes):
    x = images(min(4, problem.rows[0]), problem.shape, problem.seed)
    y = images(min(5, problem.rows[1]), problem.shape, problem.seed + 1)
    device = EmulatedDevice(shared_bytes)
    mine = device_engine(problem.layers, kind, dtype, device)
    twin = engine_for(problem.layers, kind, "float64", "reference")
    a, b = mine.prepare(x), mine.prepare(y)
    c, d = twin.prepare(x), twin.prepare(y)
    left, right = np.sqrt(c.diagonal), np.sqrt(d.diagonal)
    cross = relative(mine.block(a, b), twin.block(c, d), np.outer(left, right), dtype)
    own = relative(mine.symmetric_block(a), twin.symmetric_block(c), np.outer(left, left), dtype)
    device.check()
    return np.concatenate([cross, own])


def relative(got, expected, scale, dtype):
    assert got.dtype == dtype and got.shape == expected.shape
    assert np.isfinite(got).all()
    return (np.abs(got - expected) / scale).reshape(-1)


@pytest.mark.parametrize("shared_bytes", [48 * 1024, 0], ids=["shared", "scratch"])
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@settings(max_examples=EXAMPLES, deadline=None)
@given(problem=problems())
def test_random_network_float64(kind, shared_bytes, problem):
    assert errors_of(problem, kind, "float64", shared_bytes).max() <= FLOAT64


@settings(max_examples=EXAMPLES, deadline=None)
@given(problem=problems())
def test_random_network_float32(problem):
    errors = errors_of(problem, "ntk", "float32", 48 * 1024)
    assert np.median(errors) <= FLOAT32
    assert errors.max() <= FLOAT32 + FLOAT32_PARALLEL * str(problem.layers).count("relu")
