"""Prepared rows belong to the engine that made them; engines survive forks and bad callers."""

import multiprocessing
import signal

import numpy as np
import pytest

from hpcnk.engine import make_engine
from hpcnk.engine.prepared import Described
from hpcnk.errors import UsageError
from hpcnk.kernels import parse
from tests.support.emulated_device import EmulatedDevice, device_engine

X = np.random.default_rng(0).normal(size=(9, 6, 5, 2))
BACKENDS = ["cpu", "reference"]


def engine(backend, kind="ntk", dtype="float64", threads=1, layers="cv8"):
    return make_engine(parse(layers), kind, dtype, backend, threads)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("other", [{"dtype": "float32"}, {"kind": "nngp"}, {"layers": "myrtle5"}])
def test_rows_of_another_engine_are_refused(backend, other):
    mine, stranger = engine(backend), engine(backend, **other)
    rows, foreign = mine.prepare(X), stranger.prepare(X)
    for pair in ((rows, foreign), (foreign, rows)):
        with pytest.raises(UsageError, match="prepare"):
            mine.block(*pair)
    if "layers" not in other:
        with pytest.raises(UsageError, match="another engine"):
            mine.symmetric_block(foreign)


def test_rows_of_another_back_end_are_refused():
    cpu, reference = engine("cpu"), engine("reference")
    gpu = device_engine("cv8", "ntk", "float64", EmulatedDevice())
    made = [one.prepare(X) for one in (cpu, reference, gpu)]
    for position, one in enumerate((cpu, reference, gpu)):
        for rows in made[:position] + made[position + 1 :]:
            with pytest.raises(UsageError, match="another engine"):
                one.symmetric_block(rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_description_of_something_else_is_refused(backend):
    mine = engine(backend)
    found = mine.describe(X)
    for wrong in (
        found[:4],
        Described(found.variances.astype(np.float32), found.diagonal),
        Described(found.variances[:, 1:], found.diagonal),
    ):
        with pytest.raises(UsageError, match="described"):
            mine.prepare(X, wrong)


def test_slices_of_rows_on_a_device_take_no_step():
    rows = device_engine("cv8", "ntk", "float64", EmulatedDevice()).prepare(X)
    for wrong in (slice(None, None, 2), slice(None, None, -1), 3):
        with pytest.raises(UsageError, match="slice"):
            rows[wrong]


def _block_sum(threads):
    mine = engine("cpu", threads=threads)
    return float(mine.symmetric_block(mine.prepare(X)).sum())


def test_a_forked_child_computes_too():
    """It ends when its pool does, though a job in this process may catch SIGTERM."""
    before, default = _block_sum(2), (signal.SIGTERM, signal.SIG_DFL)
    with multiprocessing.get_context("fork").Pool(1, signal.signal, default) as pool:
        assert pool.apply_async(_block_sum, (2,)).get(timeout=60) == before


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_flatten_does_nothing_to_vectors(kind):
    x = X[:, 0, 0]
    for spec in (["dense", "relu", "flatten", "dense"], ["dense", "flatten", "dense", "relu"]):
        layers = [{"dense": {}} if item == "dense" else item for item in [*spec, "dense"]]
        plain = [item for item in layers if item != "flatten"]
        mine, other = (engine("cpu", kind, layers=one) for one in (layers, plain))
        block = mine.block(mine.prepare(x), mine.prepare(x[:5]))
        assert np.array_equal(block, other.block(other.prepare(x), other.prepare(x[:5])))
