"""Engines for tests: every back end that works here, and guards around what they allocate."""

from contextlib import contextmanager

import numpy as np
import pytest

import hpcnk.engine
from hpcnk.engine import host, make_engine
from hpcnk.kernels import parse

COMPILED = ("cpu", "gpu")
BACKENDS = ("reference", *COMPILED)
GUARD = 256  # bytes behind an allocation that nobody may touch
NANS = 0xFF  # float32 and float64 alike


def device_problem():
    """Say why there is no GPU engine here; empty where there is one."""
    ask = getattr(hpcnk.engine, "device_problem", None)
    return ask() if ask else "this version has no GPU engine"


def engine_for(spec, kind="ntk", dtype="float64", backend="reference", threads=1):
    """Make an engine, or skip the test where the back end cannot work."""
    if backend == "gpu" and (problem := device_problem()):
        pytest.skip(problem)
    engine = make_engine(parse(spec), kind, dtype, backend, threads)
    assert engine.backend == backend
    return engine


def block(spec, x, y, **options):
    engine = engine_for(spec, **options)
    return engine.block(engine.prepare(x), engine.prepare(y))


def self_block(spec, x, **options):
    engine = engine_for(spec, **options)
    return engine.symmetric_block(engine.prepare(x))


def images(count, shape=(6, 6, 2), seed=0):
    return np.random.default_rng(seed).standard_normal((count, *shape))


@contextmanager
def guarded():
    """Fill what the CPU engine allocates with NaN, and check that nothing is written behind it.

    So an entry that is read before it is written turns up as NaN in the kernel. Yields the
    allocations made meanwhile; their bytes are still `NANS` where nobody has written.
    """
    made, allocate = [], host.aligned

    def aligned(size):
        usable = -(-size // host.ALIGNMENT) * host.ALIGNMENT
        whole = allocate(usable + GUARD)
        whole[:] = NANS
        made.append(whole[:usable])
        behind.append(whole[usable:])
        return whole[:usable]

    behind = []
    host.aligned = aligned
    try:
        yield made
    finally:
        host.aligned = allocate
    assert all((guard == NANS).all() for guard in behind), "written beyond an allocation"
