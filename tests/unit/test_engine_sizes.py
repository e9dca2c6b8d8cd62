"""Large, long, odd and tiny data; deep networks."""

import numpy as np
import pytest

from hpcnk.engine import program
from hpcnk.errors import ArchitectureError
from tests.support.engines import COMPILED, block, engine_for, guarded, images
from tests.support.networks import CONV

ONE_CONV = [CONV, "relu", "global_avg_pool", "dense"]
POOLED = [CONV, "relu", {"avg_pool": 2}, CONV, "relu", "global_avg_pool", "dense"]
STRIDED = [{"conv": {"filter": 7, "strides": [3, 2]}}, "relu", {"avg_pool": 3}, "flatten", "dense"]
CASES = {
    "a long sequence": (ONE_CONV, (2000, 2)),
    "a long sequence, pools": ([CONV, "relu", {"avg_pool": 7}, CONV, "relu", "flatten"], (900, 3)),
    "64 x 64": (ONE_CONV, (64, 64, 1)),
    "33 x 47": (POOLED, (33, 47, 3)),
    "33 x 47, strided": (STRIDED, (33, 47, 3)),
    "one row": (POOLED, (2, 61, 2)),
    "one column": ([CONV, "relu", {"avg_pool": [2, 1]}, CONV, "relu", "flatten"], (61, 1, 2)),
    "one pixel": ([CONV, "relu", {"avg_pool": 1}, CONV, "relu", "global_avg_pool"], (1, 1, 4)),
    "narrower than the filter": (
        [{"conv": {"filter": 7}}, "relu", {"conv": {"filter": [5, 6]}}, "relu", "global_avg_pool"],
        (3, 2, 2),
    ),
    "wider strides than filters": (
        [{"conv": {"filter": 2, "strides": 3}}, "relu", {"avg_pool": 2}, CONV, "flatten"],
        (17, 14, 2),
    ),
    "a filter of 41": ([{"conv": {"filter": 41}}, "relu", "global_avg_pool", "dense"], (11, 13, 1)),
    "many channels": (ONE_CONV, (3, 3, 700)),
}


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("name", CASES)
def test_sizes(name, backend):
    layers, shape = CASES[name]
    x, y = images(1, shape), images(2, shape, seed=1)
    if np.prod(shape[:-1]) > 1800:
        y = y[:1]  # 16.8 million entries a pair: enough for plain NumPy
    with guarded():
        got = block(layers, x, y, backend=backend)
        single = block(layers, x, y, backend=backend, dtype="float32")
    expected = block(layers, x, y)
    np.testing.assert_allclose(got, expected, rtol=1e-11)
    np.testing.assert_allclose(single, expected, rtol=1e-5)


LIGHT = {"w_std": 1.4, "b_std": 0.1}


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize(("preset", "shape"), [("cv", (4, 3, 2)), ("fc", (5,))])
def test_a_deep_network(preset, shape, backend):
    """Many layers make all rows alike, and near a correlation of 1 T has half the digits."""
    layers = {"preset": preset, "depth": 200, **LIGHT}
    x, y = images(3, shape), images(2, shape, seed=1)
    for kind, tolerance in (("nngp", 1e-11), ("ntk", 1e-7)):
        got = block(layers, x, y, kind=kind, backend=backend)
        np.testing.assert_allclose(got, block(layers, x, y, kind=kind), rtol=tolerance)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize(("preset", "shape"), [("cv", (2, 2, 2)), ("fc", (5,))])
def test_the_deepest_preset(preset, shape, backend):
    engine = engine_for({"preset": preset, "depth": 1000, **LIGHT}, "nngp", backend=backend)
    rows = engine.prepare(images(2, shape))
    assert np.isfinite(engine.symmetric_block(rows)).all()


@pytest.mark.parametrize("backend", COMPILED)
def test_a_deeply_nested_residual_sum(backend):
    layers = ["dense"]
    for _ in range(30):
        layers = ["dense", {"residual": {"branch": ["relu", *layers]}}]
    layers = [*layers, "relu", "dense"]
    small = {"dense": {"w_std": 0.5}}
    layers = scaled(layers, small)
    x = images(3, (5,))
    got = block(layers, x, x[::-1], backend=backend)
    np.testing.assert_allclose(got[0, :2], block(layers, x, x[::-1])[0, :2], rtol=1e-10)


def scaled(layers, dense):
    """The same network with other dense layers."""
    made = []
    for layer in layers:
        if layer == "dense":
            made.append(dense)
        elif isinstance(layer, dict):
            made.append({"residual": {"branch": scaled(layer["residual"]["branch"], dense)}})
        else:
            made.append(layer)
    return made


def test_more_layers_between_two_pools_than_the_tables_hold(monkeypatch):
    monkeypatch.setattr(program, "MAX_OPERATIONS", 20)
    x = images(2, (3,))
    engine_for([*["dense", "relu"] * 19, "dense"], backend="cpu").prepare(x)
    engine = engine_for([*["dense", "relu"] * 20, "dense"], backend="cpu")
    with pytest.raises(ArchitectureError, match="20 layers between two pools") as caught:
        engine.prepare(x)
    assert "reference" in caught.value.advice
