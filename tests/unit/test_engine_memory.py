"""What an engine says that it will take, against what it takes."""

import tracemalloc

import numpy as np
import pytest

from tests.support.engines import COMPILED, NANS, engine_for, guarded, images
from tests.support.networks import PATHS

KINDS = pytest.mark.parametrize("kind", ["ntk", "nngp"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
SMALL = 256 * 1024  # Python's own objects; threadpoolctl lists libraries at the first product
CASES = {
    "fc": (["flatten", "dense", "gelu", "dense"], (30,), 256),
    "cv8": ("cv8", (12, 12, 3), 512),
    "small myrtle": ("myrtle5", (8, 8, 1), 64),
    "myrtle": ("myrtle5", (20, 20, 3), 2),
    "gap": ([{"conv": {"filter": 3}}, "relu", "global_avg_pool", "dense"], (36, 36, 1), 2),
    "residual": (PATHS["residual"], (9, 9, 2), 20),
}


def measured(engine, x, left):
    """Peaks of `prepare` and of one block beside what they return, in bytes."""
    warm = engine.prepare(x[:2])
    engine.block(
        warm, warm
    )  # what a process makes once, such as handles of libraries, is no matter
    tracemalloc.start()
    try:
        rows = engine.prepare(x)
        described = rows.described.variances.nbytes + rows.described.diagonal.nbytes
        prepare = tracemalloc.get_traced_memory()[1] - rows.x.nbytes - rows.factors.nbytes
        rows.right  # noqa: B018 - kept with the rows from now on
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        block = engine.block(rows[:left], rows)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    return prepare - described, peak - block.nbytes


@DTYPES
@KINDS
@pytest.mark.parametrize("name", CASES)
def test_temporaries_stay_below_the_stated_bound(name, kind, dtype):
    layers, shape, count = CASES[name]
    engine = engine_for(layers, kind, dtype, "cpu")
    x = images(count, shape)
    _, peak = measured(engine, x, left=2)
    result = 2 * (count + 16) * 8  # in vectors, before it is cut
    assert peak <= engine.workspace_bytes(shape) + result + SMALL


@pytest.mark.parametrize(("kind", "dtype"), [("ntk", "float32"), ("nngp", "float64")])
def test_the_bound_is_within_a_fifth_where_memory_matters(kind, dtype):
    engine = engine_for("myrtle5", kind, dtype, "cpu")
    shape = (64, 64, 3)
    bound = engine.workspace_bytes(shape)
    assert bound > 20e6
    with guarded() as made:
        rows = engine.prepare(images(1, shape))
        engine.block(rows, rows)
    space = max(made, key=len)
    touched = np.count_nonzero((space.reshape(-1, 64) != NANS).any(axis=1)) * 64
    assert space.nbytes <= bound <= 1.2 * touched


def test_the_bound_holds_for_all_threads():
    layers, shape, _ = CASES["small myrtle"]
    bounds = [
        engine_for(layers, backend="cpu", threads=threads).workspace_bytes(shape)
        for threads in (1, 3)
    ]
    assert bounds[1] == 3 * bounds[0]


@DTYPES
@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("name", CASES)
def test_prepared_rows_take_what_was_said(name, dtype, backend):
    layers, shape, _ = CASES[name]
    engine = engine_for(layers, "ntk", dtype, backend)
    count = 64
    rows = engine.prepare(images(count, shape))
    engine.block(rows[:1], rows)
    described = rows.described.variances.nbytes + rows.described.diagonal.nbytes
    said = count * engine.prepared_bytes(shape)
    assert 0.8 * said <= rows.nbytes + described <= said
