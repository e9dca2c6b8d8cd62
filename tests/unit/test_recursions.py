"""The vectorised recursions against the slow twin, and their exactness at the edges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcnk.engine import cuts, make_engine
from hpcnk.errors import ArchitectureError
from hpcnk.kernels import pairs, parse
from hpcnk.kernels.arccos import angle_and_sine

from .slow_kernel import slow_kernel

POOLED = [
    {"conv": {"filter": 3}},
    "relu",
    {"avg_pool": 2},
    {"conv": {"filter": 3}},
    "relu",
    "global_avg_pool",
    "dense",
]
NETWORKS = {"fc": {"preset": "fc", "depth": 3}, "cv": {"preset": "cv", "depth": 3}, "gap": POOLED}


def images(count, shape=(6, 6, 2), seed=0):
    return np.random.default_rng(seed).standard_normal((count, *shape))


def engine_for(spec, kind="ntk", dtype="float64", threads=1):
    return make_engine(parse(spec), kind, dtype, threads=threads)


def block(spec, x, y, **options):
    engine = engine_for(spec, **options)
    return engine.block(engine.prepare(x), engine.prepare(y))


def self_block(spec, x, **options):
    engine = engine_for(spec, **options)
    return engine.symmetric_block(engine.prepare(x))


# ---- against the slow twin


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


@settings(max_examples=150, deadline=None)
@given(problems())
def test_random_network_agrees_with_the_slow_twin(problem):
    layers, shape, seed = problem
    architecture = parse(layers)
    try:
        architecture.check(shape)
    except ArchitectureError:
        return
    x, y = images(3, shape, seed)[:2], images(2, shape, seed + 1)
    expected = np.array([[slow_kernel(architecture.canonical(), a, b) for b in y] for a in x])
    # Pixels of one channel can be exactly parallel, where arccos halves the digits of T.
    np.testing.assert_allclose(block(layers, x, y, kind="nngp"), expected[..., 0], 1e-10, 1e-13)
    np.testing.assert_allclose(block(layers, x, y, kind="ntk"), expected[..., 1], 1e-6, 1e-8)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (4, 5, 3)])
def test_dense_layers_before_the_readout_act_on_each_pixel(shape):
    layers = (
        ["dense", "relu", "dense", "gelu"] + (["flatten"] if len(shape) > 1 else []) + ["dense"]
    )
    x = images(2, shape)
    full = parse(layers).canonical()
    expected = np.array([[slow_kernel(full, a, b)[1] for b in x] for a in x])
    got = block(layers, x, x)
    assert abs(got[0, 1] / expected[0, 1] - 1) < 1e-12


def test_leading_flatten_is_the_mean_over_equal_pixels():
    x = images(3, (3, 4, 2))
    layers = ["flatten", "dense", "relu", "dense"]
    expected = slow_kernel(parse(layers).canonical(), x[0], x[1])[1]
    assert block(layers, x, x)[0, 1] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("pooled", ["branch", "shortcut"])
def test_sides_of_a_residual_sum_may_need_different_entries(pooled):
    strided = ["relu", {"conv": {"filter": 3, "strides": 2}}]
    pool = ["relu", {"conv": {"filter": 3}}, {"avg_pool": 2}]
    sides = {"branch": strided, "shortcut": strided, pooled: pool}
    layers = [{"conv": {"filter": 3}}, {"residual": sides}, "relu", "flatten", "dense"]
    x = images(2, (4, 4, 2))
    expected = slow_kernel(parse(layers).canonical(), x[0], x[1])
    assert block(layers, x, x)[0, 1] == pytest.approx(expected[1], rel=1e-12)


def test_pool_drops_an_incomplete_window():
    layers = [{"conv": {"filter": 1}}, {"avg_pool": 2}, "flatten", "dense"]
    x = images(2, (5, 5, 1))
    changed = x.copy()
    changed[:, 4, :], changed[:, :, 4] = 7.0, -7.0
    np.testing.assert_array_equal(self_block(layers, x), self_block(layers, changed))


# ---- exactness


@pytest.mark.parametrize("name", NETWORKS)
def test_symmetric_with_the_exact_diagonal(name):
    x = images(7)
    matrix = self_block(NETWORKS[name], x, dtype="float32")
    engine = engine_for(NETWORKS[name])
    exact = engine.prepare(x).diagonal
    assert np.array_equal(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), exact, rtol=1e-6)
    pairs_only = block(NETWORKS[name], x, x)
    np.testing.assert_allclose(np.diag(pairs_only), exact, rtol=1e-7)
    away = ~np.eye(7, dtype=bool)
    np.testing.assert_allclose(self_block(NETWORKS[name], x)[away], pairs_only[away], rtol=1e-12)


POINT = {"conv": {"filter": 1, "w_std": 1.5, "b_std": 0.3}}
TOP = {"dense": {"w_std": 1.5, "b_std": 0.3}}
CLOSED_FORM_CASES = [
    ({"preset": "fc3", "w_std": 1.5, "b_std": 0.3}, (9,)),
    ([*[POINT, "relu"] * 3, "global_avg_pool", TOP], (1, 1, 9)),
    ([*[POINT, "relu"] * 3, "flatten", TOP], (1, 9)),
]


@pytest.mark.parametrize(("spec", "shape"), CLOSED_FORM_CASES)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_diagonal_of_a_relu_network_has_a_closed_form(kind, spec, shape):
    x = images(4, (9,))
    q = (x**2).mean(axis=1)
    t = np.zeros_like(q)
    for layer in range(4):
        if layer:
            q, t = q / 2, t / 2
        q = 1.5**2 * q + 0.3**2
        t = q + 1.5**2 * t
    diagonal = engine_for(spec, kind=kind).prepare(x.reshape(4, *shape)).diagonal
    np.testing.assert_allclose(diagonal, t if kind == "ntk" else q, rtol=1e-14)


@pytest.mark.parametrize("layer", ["relu", "erf", "gelu", "layer_norm"])
def test_exact_self_formula_is_the_limit_of_the_pair_formula(layer):
    spec = ["flatten", "dense", layer, "dense"]
    x = images(5, (40,))
    np.testing.assert_allclose(
        engine_for(spec).prepare(x).diagonal, np.diag(block(spec, x, x)), rtol=5e-8
    )


# Near c = 1 arccos turns a rounding error e into sqrt(2 e); half of it in pi, once for every ReLU.
def near_duplicate_bound(dtype, relus):
    return relus * math.sqrt(2 * 8 * np.finfo(dtype).eps) / math.pi


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_duplicates_stay_within_the_stated_bound(name, dtype):
    x = images(4)
    got = np.diag(block(NETWORKS[name], x, x.copy(), dtype=dtype))
    exact = engine_for(NETWORKS[name]).prepare(x).diagonal
    assert np.abs(got / exact - 1).max() <= near_duplicate_bound(dtype, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_cauchy_schwarz_holds_for_scaled_copies(name, dtype):
    x = images(4)
    x = np.concatenate([x, 3.0 * x, -x, 1e-3 * x])
    matrix = self_block(NETWORKS[name], x, dtype=dtype).astype(float)
    assert np.isfinite(matrix).all()
    root = np.sqrt(np.diag(matrix))
    assert (np.abs(matrix) <= np.outer(root, root) * (1 + near_duplicate_bound(dtype, 3))).all()


@pytest.mark.parametrize("b_std", [0.0, 0.1])
@pytest.mark.parametrize("layer", ["relu", "erf", "gelu", "layer_norm"])
@pytest.mark.parametrize("readout", ["flatten", "global_avg_pool"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zero_and_constant_patches_are_finite(b_std, layer, readout, dtype):
    conv = {"conv": {"filter": 3, "b_std": b_std}}
    spec = [conv, layer, conv, layer] if layer != "layer_norm" else [conv, layer, "relu", conv]
    x = images(6)
    x[0] = 0.0
    x[1, :4] = 0.0
    x[2] = 1.0
    x[3] = 1e-30
    x[4] *= 1e-25
    for kind in ("ntk", "nngp"):
        matrix = self_block([*spec, readout, "dense"], x, dtype=dtype, kind=kind)
        assert np.isfinite(matrix).all()
        assert (np.diag(matrix) >= 0).all()


def test_blank_image_without_bias_has_the_kernel_zero():
    conv = {"conv": {"filter": 3, "b_std": 0.0}}
    spec = [conv, "relu", conv, "relu", "global_avg_pool", {"dense": {"b_std": 0.0}}]
    x = images(2)
    x[0] = 0.0
    matrix = self_block(spec, x)
    assert matrix[0, 0] == matrix[0, 1] == 0.0
    assert matrix[1, 1] > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_angle_and_sine(dtype):
    h = np.concatenate([np.linspace(0, 1, 20001), 1 - np.logspace(-7, -1, 1000)]).astype(dtype)
    angle, sine = angle_and_sine(h)
    tolerance = 4 * np.finfo(dtype).eps
    wide = h.astype(np.longdouble)
    assert angle.dtype == dtype
    assert np.abs(angle - np.arccos(wide)).max() <= tolerance
    assert np.abs(sine - np.sqrt((1 - wide) * (1 + wide))).max() <= tolerance


# ---- sub-blocks and threads


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


def test_rows_can_be_sliced():
    engine = engine_for(POOLED)
    x = images(9)
    prepared = engine.prepare(x)
    assert len(prepared[2:6]) == 4
    whole = engine.block(prepared, prepared)
    np.testing.assert_allclose(
        engine.block(prepared[2:6], prepared[5:]), whole[2:6, 5:], rtol=1e-13
    )
    assert np.array_equal(prepared[2:6].diagonal, prepared.diagonal[2:6])


def test_operands_can_be_exchanged():
    x, y = images(4), images(3, seed=1)
    for spec in NETWORKS.values():
        np.testing.assert_allclose(block(spec, x, y), block(spec, y, x).T, rtol=1e-12)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_matrix_is_positive_definite(name, kind):
    matrix = self_block(NETWORKS[name], images(20), kind=kind)
    assert np.linalg.eigvalsh(matrix).min() > 0
