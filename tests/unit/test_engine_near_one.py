"""Correlations near 1: duplicates, near duplicates, scaled copies, constant and blank images.

The bound. A relu's angle is arccos c, and with w = 1 - c it is sqrt(2 w) near c = 1. Rounding of c
by e turns it into at most sqrt(2 w + 2 e) <= sqrt(2 w) + sqrt(2 e), and T' = T (pi - angle) / 2 pi
is then off by sqrt(2 e) / pi of its value at c = 1, T / 2. Relus add up, so T is right to

    relus * sqrt(2 e) / pi    of sqrt(K(x, x) K(y, y)).

Here e is 4 machine epsilons: a few roundings of the factors and of the sum over channels, filters
and rows. The largest found was 2.1, for constant vectors of 1,024 channels, and 0.6 up to 64
channels. So a tangent entry may be off by 3e-4 for every relu in float32, by 1.3e-8 in float64; S
has no such loss, since its derivative in the angle is 0 there.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcnk.errors import DataError
from tests.support.engines import BACKENDS, block, engine_for, images, self_block
from tests.support.networks import NETWORKS
from tests.support.precise import WIDE, precise_kernel

ROUNDING = 4  # machine epsilons of c
EXTENDED = pytest.mark.skipif(
    np.finfo(WIDE).eps > 1e-18, reason="longdouble is no wider than float64 on this machine"
)


def bound(kind, dtype, relus):
    epsilon = np.finfo(dtype).eps
    return relus * math.sqrt(2 * ROUNDING * epsilon) / math.pi if kind == "ntk" else 20 * epsilon


def network(name, relus, b_std):
    """The same network as a deck has it, and as `precise_kernel` has it."""
    option = {"b_std": b_std}
    conv, dense = {"conv": {"filter": 3, **option}}, {"dense": option}
    numbers = (WIDE(math.sqrt(2.0)) ** 2, WIDE(b_std) ** 2)
    wide = {"conv": ("conv", *numbers), "dense": ("dense", *numbers)}
    if name == "fc":
        return ["flatten", *[dense, "relu"] * relus, dense], [
            *[wide["dense"], "relu"] * relus,
            wide["dense"],
        ]
    body, wide_body = [conv, "relu"] * relus, [wide["conv"], "relu"] * relus
    if name == "pool":
        body[2:2], wide_body[2:2] = [{"avg_pool": 2}], ["pool"]
    end, wide_end = ("flatten", "flatten") if name == "cv" else ("global_avg_pool", "gap")
    return [*body, end, dense], [*wide_body, wide_end, wide["dense"]]


def rounded(x):
    """Values that both precisions hold, so that the truth is the same for both."""
    return x.astype(np.float32).astype(float)


def changed(x, step):
    y = x.copy()
    y.reshape(len(x), -1)[:, 0] += step
    return rounded(y)


def partners(case, x):
    if case == "constant":
        ones = np.ones_like(x[:1])
        return np.concatenate([ones, -ones, ones]), np.concatenate([ones, -ones, 2 * ones])
    if case == "half constant":
        x[:, : x.shape[1] // 2] = 0.25
    others = {"scaled": lambda: 4 * x, "negative": lambda: -x, "duplicate": x.copy}
    others["half constant"] = x.copy
    return x, others[case]() if case in others else changed(x, float(case))


CASES = ["duplicate", "1e-3", "1e-6", "scaled", "negative", "constant", "half constant"]
SHAPES = {"fc": (1024,), "cv": (5, 4, 4), "gap": (4, 5, 1), "pool": (6, 5, 4)}


@EXTENDED
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("b_std", [0.0, 0.1])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SHAPES)
def test_pairs_stay_within_the_bound(name, case, b_std, backend):
    relus = 3
    layers, wide = network(name, relus, b_std)
    x, y = partners(case, rounded(images(3, SHAPES[name])))
    truth = np.array([precise_kernel(wide, a, b) for a, b in zip(x, y, strict=True)])
    own = [[precise_kernel(wide, a, a) for a in rows] for rows in (x, y)]
    scale = np.sqrt(np.prod(np.array(own), axis=0))
    for dtype in ("float32", "float64"):
        for place, kind in enumerate(("nngp", "ntk")):
            got = np.diag(block(layers, x, y, kind=kind, dtype=dtype, backend=backend))
            error = np.abs(got - truth[:, place]) / scale[:, place]
            assert error.max() <= bound(kind, dtype, relus)


@EXTENDED
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SHAPES)
def test_diagonal_where_pixels_of_one_image_are_alike(name, backend):
    """Equal pixels are exact, but a pool reads pairs of pixels that are alike by chance."""
    layers, wide = network(name, 3, 0.1)
    x = rounded(images(3, SHAPES[name]))
    x[0], x[1, :2], x[2] = 1.0, -0.5, 0.0
    truth = np.array([precise_kernel(wide, a, a) for a in x]).astype(float)
    exact = name in ("fc", "cv")
    for dtype in ("float32", "float64"):
        for place, kind in enumerate(("nngp", "ntk")):
            diagonal = engine_for(layers, kind, dtype, backend).prepare(x).diagonal
            tolerance = 1e-13 if exact else bound(kind, "float64", 3)
            np.testing.assert_allclose(diagonal, truth[:, place], rtol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", NETWORKS)
def test_duplicates_are_as_similar_as_the_diagonal_says(name, kind, dtype, backend):
    x = images(4)
    got = np.diag(block(NETWORKS[name], x, x.copy(), kind=kind, dtype=dtype, backend=backend))
    exact = engine_for(NETWORKS[name], kind, backend=backend).prepare(x).diagonal
    assert np.abs(got / exact - 1).max() <= bound(kind, dtype, 3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_cauchy_schwarz_holds_for_scaled_copies(name, dtype, backend):
    x = images(4)
    x = np.concatenate([x, 3.0 * x, -x, 1e-3 * x, np.zeros_like(x[:1]), np.ones_like(x[:1])])
    matrix = self_block(NETWORKS[name], x, dtype=dtype, backend=backend).astype(float)
    assert np.isfinite(matrix).all()
    root = np.sqrt(np.diag(matrix))
    assert (np.abs(matrix) <= np.outer(root, root) * (1 + bound("ntk", dtype, 3))).all()


MAGNITUDES = st.tuples(st.sampled_from([0.0, -1.0, 1.0, 1.0000001, 3.7]), st.integers(-45, 45)).map(
    lambda pair: pair[0] * 10.0 ** pair[1]
)
POINTS = st.sampled_from(["relu", "relu", "erf", "gelu", "layer_norm"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(MAGNITUDES, min_size=18, max_size=18),
    points=st.tuples(POINTS, POINTS),
    b_std=st.sampled_from([0.0, 0.1]),
    pool=st.booleans(),
    kind=st.sampled_from(["ntk", "nngp"]),
)
def test_finite_inputs_give_finite_kernels_or_an_error(
    backend, dtype, values, points, b_std, pool, kind
):
    conv = {"conv": {"filter": 3, "b_std": b_std}}
    layers = [conv, points[0], *[{"avg_pool": 2}] * pool, conv, points[1]]
    engine = engine_for([*layers, "global_avg_pool", "dense"], kind, dtype, backend)
    x = np.array(values).reshape(3, 2, 3, 1)
    try:
        prepared = engine.prepare(x)
    except DataError:
        return
    with np.errstate(over="ignore"):
        assert np.isfinite(engine.block(prepared, prepared)).all()
        assert np.isfinite(engine.symmetric_block(prepared)).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layer", ["erf", "gelu"])
@pytest.mark.parametrize("size", [1e3, 1e7, 1e9, 1e12])
def test_large_duplicates_of_erf_and_gelu_are_finite(layer, size, backend):
    """Their slope has 1 / sqrt(1 - rho^2), and rho rounds to 1 long before it is."""
    x = size * images(20, (7,))
    spec = ["dense", layer, "dense"]
    for kind in ("nngp", "ntk"):
        engine = engine_for(spec, kind, backend=backend)
        rows = engine.prepare(x)
        got = np.diag(engine.block(rows, rows))
        assert np.isfinite(got).all()
        if kind == "nngp":
            np.testing.assert_allclose(got, rows.diagonal, rtol=1e-6)
