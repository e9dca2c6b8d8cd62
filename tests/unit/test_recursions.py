"""All engines against slow, independent formulas, and the sub-blocks of the NumPy engine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcnk.engine import cuts
from hpcnk.errors import ArchitectureError
from hpcnk.kernels import pairs, parse
from hpcnk.kernels.arccos import angle_and_sine
from tests.support.engines import BACKENDS, block, images, self_block
from tests.support.networks import NETWORKS

from .slow_kernel import slow_kernel

# ---- against slow formulas


def conv_layers(axes):
    def sizes(high):
        return st.one_of(
            st.integers(1, high), st.lists(st.integers(1, high), min_size=axes, max_size=axes)
        )

    options = {
        "filter": sizes(4),
        "strides": sizes(2),
        "padding": st.sampled_from(["same", "same", "valid"]),
        "w_std": st.floats(0.5, 2.0),
        "b_std": st.sampled_from([0.0, 0.1, 0.7]),
    }
    return st.fixed_dictionaries(options).map(lambda chosen: {"conv": chosen})


NONLINEAR = st.sampled_from(["relu", "relu", "erf", "gelu"])
SAME_CONV = {"conv": {"filter": 3, "b_std": 0.2}}


def stages(axes):
    residual = st.builds(
        lambda name, shortcut: {"residual": {"branch": [name, SAME_CONV], "shortcut": shortcut}},
        NONLINEAR,
        st.sampled_from([[], ["relu", "dense"], ["gelu", SAME_CONV]]),
    )
    middle = st.lists(st.one_of(st.just("layer_norm"), residual), max_size=1)
    pool = st.lists(
        st.sampled_from([{"avg_pool": 1}, {"avg_pool": 2}, {"avg_pool": 3}]), max_size=1
    )
    return st.builds(
        lambda first, inner, name, last: [first, *inner, name, *last],
        conv_layers(axes),
        middle,
        NONLINEAR,
        pool,
    )


@st.composite
def problems(draw):
    axes = draw(st.integers(1, 2))
    chosen = draw(st.lists(stages(axes), min_size=1, max_size=2))
    layers = [layer for stage in chosen for layer in stage]
    top = draw(st.sampled_from([["dense"], ["dense", "relu", "dense"], []]))
    layers += [draw(st.sampled_from(["flatten", "global_avg_pool"])), *top]
    shape = (
        *draw(st.lists(st.integers(1, 5), min_size=axes, max_size=axes)),
        draw(st.integers(1, 3)),
    )
    return layers, shape, draw(st.integers(0, 10**6))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=150, deadline=None)
@given(problem=problems())
def test_random_network_agrees_with_slow_formulas(backend, problem):
    layers, shape, seed = problem
    architecture = parse(layers)
    try:
        architecture.check(shape)
    except ArchitectureError:
        return
    x, y = images(3, shape, seed)[:2], images(2, shape, seed + 1)
    expected = np.array([[slow_kernel(architecture.canonical(), a, b) for b in y] for a in x])
    # Pixels of one channel can be exactly parallel, where arccos halves the digits of T.
    nngp, ntk = (block(layers, x, y, kind=kind, backend=backend) for kind in ("nngp", "ntk"))
    np.testing.assert_allclose(nngp, expected[..., 0], 1e-10, 1e-13)
    np.testing.assert_allclose(ntk, expected[..., 1], 1e-6, 1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(5,), (5, 3), (4, 5, 3)])
def test_dense_layers_before_the_readout_act_on_each_pixel(shape, backend):
    layers = (
        ["dense", "relu", "dense", "gelu"] + (["flatten"] if len(shape) > 1 else []) + ["dense"]
    )
    x = images(2, shape)
    full = parse(layers).canonical()
    expected = np.array([[slow_kernel(full, a, b)[1] for b in x] for a in x])
    got = block(layers, x, x, backend=backend)
    assert abs(got[0, 1] / expected[0, 1] - 1) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_flatten_is_the_mean_over_equal_pixels(backend):
    x = images(3, (3, 4, 2))
    layers = ["flatten", "dense", "relu", "dense"]
    expected = slow_kernel(parse(layers).canonical(), x[0], x[1])[1]
    assert block(layers, x, x, backend=backend)[0, 1] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pooled", ["branch", "shortcut"])
def test_sides_of_a_residual_sum_may_need_different_entries(pooled, backend):
    strided = ["relu", {"conv": {"filter": 3, "strides": 2}}]
    pool = ["relu", {"conv": {"filter": 3}}, {"avg_pool": 2}]
    sides = {"branch": strided, "shortcut": strided, pooled: pool}
    layers = [{"conv": {"filter": 3}}, {"residual": sides}, "relu", "flatten", "dense"]
    x = images(2, (4, 4, 2))
    expected = slow_kernel(parse(layers).canonical(), x[0], x[1])
    got = block(layers, x, x, backend=backend)[0, 1]
    assert got == pytest.approx(expected[1], rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("after", [[], ["relu"]])
def test_pool_drops_an_incomplete_window(after, backend):
    layers = [{"conv": {"filter": 1}}, *after, {"avg_pool": 2}, "flatten", "dense"]
    x = images(2, (5, 5, 1))
    changed = x.copy()
    changed[:, 4, :], changed[:, :, 4] = 7.0, -7.0
    matrices = [self_block(layers, rows, backend=backend) for rows in (x, changed)]
    np.testing.assert_array_equal(*matrices)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_angle_and_sine(dtype):
    h = np.concatenate([np.linspace(0, 1, 20001), 1 - np.logspace(-7, -1, 1000)]).astype(dtype)
    angle, sine = angle_and_sine(h)
    tolerance = 4 * np.finfo(dtype).eps
    wide = h.astype(np.longdouble)
    assert angle.dtype == dtype
    assert np.abs(angle - np.arccos(wide)).max() <= tolerance
    assert np.abs(sine - np.sqrt((1 - wide) * (1 + wide))).max() <= tolerance


# ---- sub-blocks of the NumPy engine


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_do_not_depend_on_threads(name, dtype, monkeypatch):
    monkeypatch.setattr(cuts, "SUB_BLOCK_BYTES", 40_000)
    monkeypatch.setattr(cuts, "DENSE_ROWS", 5)
    x, y = images(23), images(17, seed=1)
    for threads in (2, 3):
        for make in (
            lambda n: block(NETWORKS[name], x, y, dtype=dtype, threads=n),
            lambda n: self_block(NETWORKS[name], x, dtype=dtype, threads=n),
        ):
            assert make(threads).tobytes() == make(1).tobytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cut_changes_rounding_only(name, monkeypatch):
    x, y = images(13), images(11, seed=1)
    whole, own = block(NETWORKS[name], x, y), self_block(NETWORKS[name], x)
    monkeypatch.setattr(cuts, "SUB_BLOCK_BYTES", 1)
    monkeypatch.setattr(cuts, "DENSE_ROWS", 3)
    monkeypatch.setattr(pairs, "PIECE_ENTRIES", 10)
    np.testing.assert_allclose(block(NETWORKS[name], x, y), whole, rtol=1e-13)
    np.testing.assert_allclose(self_block(NETWORKS[name], x), own, rtol=1e-13)


def test_upper_cut_covers_every_pair_once_and_little_more():
    for count, size in [(1, (1, 4)), (10, (1, 4)), (23, (5, 5)), (8, (8, 8))]:
        hits = np.zeros((count, count), int)
        for part in cuts.cut_upper(count, cuts.CutSize(*size)):
            hits[part.rows, part.columns] += 1
        assert (hits[np.triu_indices(count, 1)] == 1).all()
        assert hits.sum() <= count * (count + size[0]) / 2
