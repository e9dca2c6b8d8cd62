"""What holds exactly for every engine: closed forms, symmetry, edges."""

import numpy as np
import pytest

from hpcnk.engine import make_engine
from hpcnk.errors import DataError
from hpcnk.kernels import parse
from tests.support.engines import BACKENDS, COMPILED, block, engine_for, images, self_block
from tests.support.networks import CONV, NETWORKS, PATHS

POINT = {"conv": {"filter": 1, "w_std": 1.5, "b_std": 0.3}}
TOP = {"dense": {"w_std": 1.5, "b_std": 0.3}}
CLOSED_FORM_CASES = [
    ({"preset": "fc3", "w_std": 1.5, "b_std": 0.3}, (9,)),
    ([*[POINT, "relu"] * 3, "global_avg_pool", TOP], (1, 1, 9)),
    ([*[POINT, "relu"] * 3, "flatten", TOP], (1, 9)),
]

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.mark.parametrize(("spec", "shape"), CLOSED_FORM_CASES)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_diagonal_of_a_relu_network_has_a_closed_form(kind, spec, shape, backend):
    x = images(4, (9,))
    q = (x**2).mean(axis=1)
    t = np.zeros_like(q)
    for layer in range(4):
        if layer:
            q, t = q / 2, t / 2
        q = 1.5**2 * q + 0.3**2
        t = q + 1.5**2 * t
    engine = engine_for(spec, kind, backend=backend)
    diagonal = engine.prepare(x.reshape(4, *shape)).diagonal
    np.testing.assert_allclose(diagonal, t if kind == "ntk" else q, rtol=1e-14)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_symmetric_with_the_exact_diagonal(kind, name, backend):
    x = images(19)
    exact = engine_for(PATHS[name], kind, backend=backend).prepare(x).diagonal
    single = self_block(PATHS[name], x, kind=kind, dtype="float32", backend=backend)
    np.testing.assert_allclose(np.diag(single), exact, rtol=1e-6)
    matrix = self_block(PATHS[name], x, kind=kind, backend=backend)
    assert np.array_equal(single, single.T)
    assert np.array_equal(matrix, matrix.T)
    assert np.array_equal(np.diag(matrix), exact)
    pairs = block(PATHS[name], x, x, kind=kind, backend=backend)
    np.testing.assert_allclose(np.diag(pairs), exact, rtol=1e-7)
    away = ~np.eye(19, dtype=bool)
    np.testing.assert_allclose(matrix[away], pairs[away], rtol=1e-12)


def test_the_diagonal_of_a_large_block_is_mirrored_right(backend):
    x = images(600, (20,))
    matrix = self_block({"preset": "fc", "depth": 1}, x, backend=backend)
    pairs = block({"preset": "fc", "depth": 1}, x, x, backend=backend)
    away = ~np.eye(600, dtype=bool)
    assert np.array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix[away], pairs[away], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", PATHS)
def test_operands_can_be_exchanged(name, backend):
    x, y = images(4), images(3, seed=1)
    forth = block(PATHS[name], x, y, backend=backend)
    back = block(PATHS[name], y, x, backend=backend)
    np.testing.assert_allclose(forth, back.T, rtol=1e-12)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_matrix_is_positive_definite(name, kind, backend):
    matrix = self_block(NETWORKS[name], images(20), kind=kind, backend=backend)
    assert np.linalg.eigvalsh(matrix).min() > 0


@pytest.mark.parametrize("layer", ["relu", "erf", "gelu", "layer_norm"])
def test_exact_self_formula_is_the_limit_of_the_pair_formula(layer, backend):
    spec = ["flatten", "dense", layer, "dense"]
    x = images(5, (40,))
    exact = engine_for(spec, backend=backend).prepare(x).diagonal
    np.testing.assert_allclose(exact, np.diag(block(spec, x, x, backend=backend)), rtol=5e-8)


def test_blank_image_without_bias_has_the_kernel_zero(backend):
    conv = {"conv": {"filter": 3, "b_std": 0.0}}
    spec = [conv, "relu", conv, "relu", "global_avg_pool", {"dense": {"b_std": 0.0}}]
    x = images(2)
    x[0] = 0.0
    matrix = self_block(spec, x, backend=backend)
    assert matrix[0, 0] == matrix[0, 1] == 0.0
    assert matrix[1, 1] > 0


@pytest.mark.parametrize("b_std", [0.0, 0.1])
@pytest.mark.parametrize("layer", ["relu", "erf", "gelu", "layer_norm"])
@pytest.mark.parametrize("readout", ["flatten", "global_avg_pool"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zero_and_constant_patches_are_finite(b_std, layer, readout, dtype, backend):
    conv = {"conv": {"filter": 3, "b_std": b_std}}
    spec = [conv, layer, conv, layer] if layer != "layer_norm" else [conv, layer, "relu", conv]
    x = images(6)
    x[0] = 0.0
    x[1, :4] = 0.0
    x[2] = 1.0
    x[3] = 1e-30
    x[4] *= 1e-25
    for kind in ("ntk", "nngp"):
        matrix = self_block([*spec, readout, "dense"], x, dtype=dtype, kind=kind, backend=backend)
        assert np.isfinite(matrix).all()
        assert (np.diag(matrix) >= 0).all()


ALTERNATING = np.array([1.0, -1.0, 1.0, -1.0]).reshape(4, 1)
DEGENERATE = {
    "a pool cancels": [{"avg_pool": 2}, CONV, "relu", "global_avg_pool", "dense"],
    "a readout cancels": [{"conv": {"filter": 1}}, "global_avg_pool", "dense"],
    "weights of zero": [{"conv": {"filter": 1, "w_std": 0.0}}, "relu", "flatten", "dense"],
    "erf": [CONV, "erf", "flatten", "dense"],
    "gelu": [CONV, "gelu", "flatten", "dense"],
    "layer norm": [CONV, "layer_norm", "flatten", "dense"],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", DEGENERATE)
def test_huge_inputs_give_an_error_or_finite_kernels(name, kind, dtype, backend):
    """The variances and the diagonal may be moderate where S between two rows overflows."""
    engine = engine_for(DEGENERATE[name], kind, dtype, backend)
    for size in (1e15, 1e18, 1e22, 1e30, 1e100, 1e160):
        x = np.stack([ALTERNATING * size, ALTERNATING * size / 2, images(1, (4, 1))[0]])
        try:
            prepared = engine.prepare(x)
        except DataError:
            continue
        assert np.isfinite(engine.block(prepared, prepared)).all(), size
        assert np.isfinite(engine.symmetric_block(prepared)).all(), size


@pytest.mark.parametrize("name", ["linear", "fc", "gap"])
def test_no_rows(name, backend):
    engine = engine_for(PATHS[name], backend=backend)
    some, none = engine.prepare(images(3)), engine.prepare(images(0))
    assert engine.describe(images(0)).diagonal.shape == (0,)
    assert engine.block(none, some).shape == (0, 3)
    assert engine.block(some, none).shape == (3, 0)
    assert engine.symmetric_block(none).shape == (0, 0)
    assert engine.block(some[1:1], some[:2]).shape == (0, 2)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_what_is_known_of_a_row_does_not_depend_on_the_engine(kind, name, backend):
    if backend not in COMPILED:
        pytest.skip("this is the engine that the others are compared with")
    x = images(11)
    for dtype, step in (("float64", 1e-12), ("float32", 1.2e-7)):
        mine = engine_for(PATHS[name], kind, dtype, backend).describe(x)
        twin = make_engine(parse(PATHS[name]), kind, dtype, "reference").describe(x)
        assert mine.variances.dtype == twin.variances.dtype
        assert mine.variances.shape == twin.variances.shape
        np.testing.assert_allclose(mine.variances, twin.variances, rtol=step)
        np.testing.assert_allclose(mine.diagonal, twin.diagonal, rtol=1e-12)


def test_rows_described_elsewhere_are_taken_as_they_are(backend):
    x = images(5)
    engine = engine_for(PATHS["residual"], backend=backend)
    described = engine.describe(x)
    given, own = engine.prepare(x[1:4], described[1:4]), engine.prepare(x)[1:4]
    assert given.described.variances is not None
    assert engine.symmetric_block(given).tobytes() == engine.symmetric_block(own).tobytes()
