"""The GPU's fast kernel, emulated, against the compiled CPU engine: sizes, depths, ends."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcnk.engine.device.stream import columns_of
from tests.support.emulated_device import EmulatedDevice, device_engine
from tests.support.engines import engine_for, images

CONV = {"conv": {"filter": 3}}


@st.composite
def stages(draw, sizes):
    """A few conv 3 and relu layers, then a pool that fits."""
    layers = [CONV, "relu"] * draw(st.integers(1, 3))
    windows = [draw(st.integers(1, min(4, size))) for size in sizes]
    after = [size // window for size, window in zip(sizes, windows, strict=True)]
    return [*layers, {"avg_pool": windows}], after


@st.composite
def networks(draw):
    """Networks of fast stages: layers, shape."""
    sizes = start = draw(
        st.one_of(
            st.tuples(st.integers(1, 12), st.integers(1, 12)),
            st.tuples(st.integers(1, 3), st.sampled_from([16, 28, 31, 32, 34, 64])),
            st.tuples(st.integers(1, 3), st.sampled_from([33, 63, 93, 100, 116, 124])),
            st.tuples(st.integers(1, 40)),
        )
    )
    layers = []
    for _ in range(draw(st.integers(0, 2))):
        more, sizes = draw(stages(sizes))
        layers += more
    layers += [CONV, "relu"] * draw(st.integers(1, 9 if not layers else 3))
    layers += [draw(st.sampled_from(["flatten", "global_avg_pool"])), "dense"]
    return layers, (*start, draw(st.integers(1, 4)))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 2e-4)])
@settings(max_examples=60, deadline=None)
@given(network=networks(), kind=st.sampled_from(["ntk", "nngp"]), rows=st.integers(1, 5))
def test_fast_stages(dtype, tolerance, network, kind, rows):
    layers, shape = network
    x, y = images(rows, shape, 1), images(3, shape, 2)
    device = EmulatedDevice()
    mine = device_engine(layers, kind, dtype, device)
    host = engine_for(layers, kind, "float64", "cpu")
    got = mine.block(mine.prepare(x), mine.prepare(y))
    np.testing.assert_allclose(got, host.block(host.prepare(x), host.prepare(y)), rtol=tolerance)
    own = mine.symmetric_block(mine.prepare(x))
    np.testing.assert_allclose(own, host.symmetric_block(host.prepare(x)), rtol=tolerance)
    assert (own == own.T).all()
    device.check()


def test_networks_use_the_fast_kernel():
    seen = Counter()

    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(network=networks())
    def draw(network):
        layers, shape = network
        mine = device_engine(layers, "ntk", "float64", EmulatedDevice())
        for call in mine.program(shape).calls:
            seen[call.name] += 1
            if call.shape is not None:
                seen[f"{call.shape.columns} columns"] += 1
                seen[f"end {call.shape.end}"] += 1
                seen["many planes of a warp"] += call.shape.groups > 1
                seen["few offsets"] += call.shape.planes_x < call.shape.width

    draw()
    wanted = ("stream", "1 columns", "2 columns", "3 columns", "4 columns", "end 1", "end 2")
    for name in (*wanted, "many planes of a warp", "few offsets"):
        assert seen[name] >= 3, seen


def test_a_residual_sum_around_a_pool_keeps_a_tensor():
    """The fast kernel's third end: planes as they are."""
    branch = [CONV, "relu", {"avg_pool": 2}, CONV]
    layers = [
        CONV,
        "relu",
        CONV,
        "relu",
        {"residual": {"branch": branch, "shortcut": [{"avg_pool": 2}, CONV]}},
        "relu",
        "global_avg_pool",
        "dense",
    ]
    mine = device_engine(layers, "ntk", "float64", EmulatedDevice())
    host = engine_for(layers, "ntk", "float64", "cpu")
    x = images(3, (6, 8, 3))
    ends = [call.shape.end for call in mine.program((6, 8, 3)).calls if call.shape]
    assert 0 in ends
    got = mine.symmetric_block(mine.prepare(x))
    np.testing.assert_allclose(got, host.symmetric_block(host.prepare(x)), rtol=1e-12)


ODD = [CONV, "layer_norm", {"avg_pool": 2}, CONV, "relu", "global_avg_pool", "dense"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("layers", "shape"),
    [(ODD, (3, 5, 1)), ([CONV, "relu", "flatten", "dense"], (300, 3, 1))],
    ids=["odd number of factors before a fast stage", "taller than a warp's stream of rows"],
)
def test_odd_and_tall_images(layers, shape, dtype):
    mine = device_engine(layers, "ntk", dtype, EmulatedDevice())
    twin = engine_for(layers, "ntk", "float64", "reference")
    assert "stream" in [call.name for call in mine.program(shape).calls]
    x = images(3, shape)
    got, expected = (e.symmetric_block(e.prepare(x)) for e in (mine, twin))
    np.testing.assert_allclose(got, expected, rtol=1e-11 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize(
    ("width", "registers", "columns"),
    [
        (1, 3, 1),
        (7, 3, 1),
        (8, 3, 2),
        (32, 3, 2),
        (32, 8, 2),
        (32, 16, 1),
        (33, 3, 3),
        (33, 6, 0),
        (37, 1, 0),
        (64, 3, 2),
        (64, 16, 0),
        (96, 3, 3),
    ],
)
def test_pixels_of_a_lane(width, registers, columns):
    assert columns_of(width, registers) == columns
    assert not columns or (width % columns == 0 and width // columns <= 32)
