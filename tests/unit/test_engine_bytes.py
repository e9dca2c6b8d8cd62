"""An entry has the same bytes however many threads, and whatever else is computed with it."""

import numpy as np
import pytest

from hpcnk.errors import UsageError
from tests.support.engines import BACKENDS, COMPILED, engine_for, images
from tests.support.networks import PATHS

# Right rows go in vectors of 4, 8 or 16; these cuts begin and end within one and between two.
CUTS = [
    (slice(0, 1), slice(0, 1)),
    (slice(8, 9), slice(20, 21)),
    (slice(0, 23), slice(3, 4)),
    (slice(2, 19), slice(1, 18)),
    (slice(5, 6), slice(0, 21)),
    (slice(0, 16), slice(0, 16)),
    (slice(22, 23), slice(13, 21)),
]
WITH_PIXELS = sorted(set(PATHS) - {"fc"})
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.mark.parametrize("backend", BACKENDS)
@DTYPES
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", PATHS)
def test_any_number_of_threads(name, kind, dtype, backend):
    x, y = images(23), images(17, seed=1)
    made = []
    for threads in (1, 2, 3):
        engine = engine_for(PATHS[name], kind, dtype, backend, threads)
        left, right = engine.prepare(x), engine.prepare(y)
        described = left.described
        arrays = (
            described.variances,
            described.diagonal,
            engine.block(left, right),
            engine.symmetric_block(left),
        )
        made.append([array.tobytes() for array in arrays])
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("backend", BACKENDS)
@DTYPES
def test_any_number_of_threads_for_long_vectors(dtype, backend):
    """Matrix products: what the library makes of them must not depend on its threads."""
    x, y = images(300, (700,)), images(290, (700,), seed=1)
    made = set()
    for threads in (1, 2, 3):
        engine = engine_for(PATHS["fc"], "ntk", dtype, backend, threads)
        made.add(engine.block(engine.prepare(x), engine.prepare(y)).tobytes())
    assert len(made) == 1


@pytest.mark.parametrize("backend", COMPILED)
@DTYPES
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", WITH_PIXELS)
def test_any_cut(name, kind, dtype, backend):
    engine = engine_for(PATHS[name], kind, dtype, backend)
    x, y = images(23), images(21, seed=1)
    left, right = engine.prepare(x), engine.prepare(y)
    whole = engine.block(left, right)
    for rows, columns in CUTS:
        expected = whole[rows, columns].tobytes()
        assert engine.block(left[rows], right[columns]).tobytes() == expected
        again = engine.block(engine.prepare(x[rows]), engine.prepare(y[columns]))
        assert again.tobytes() == expected


@pytest.mark.parametrize("backend", BACKENDS)
@DTYPES
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("name", PATHS)
def test_the_cut_changes_rounding_only(name, kind, dtype, backend):
    """Also where a matrix product is involved, which sums in an order of its library's choice."""
    engine = engine_for(PATHS[name], kind, dtype, backend)
    left, right = engine.prepare(images(23)), engine.prepare(images(21, seed=1))
    whole = engine.block(left, right)
    for rows, columns in CUTS:
        part = engine.block(left[rows], right[columns])
        np.testing.assert_allclose(part, whole[rows, columns], rtol=50 * np.finfo(dtype).eps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PATHS)
def test_slices_of_all_kinds(name, backend):
    engine = engine_for(PATHS[name], backend=backend)
    rows = engine.prepare(images(19))
    whole = engine.block(rows, rows)
    parts = [slice(2, 6), slice(5, None), slice(None, -3), slice(9, 9)]
    if backend == "gpu":
        with pytest.raises(UsageError, match="without a step"):
            rows[::3]
    else:
        parts.append(slice(0, 19, 3))
    with pytest.raises(UsageError, match="expected a slice"):
        rows[3]
    for part in parts:
        indices = range(19)[part]
        cut = rows[part]
        assert len(cut) == len(indices)
        assert np.array_equal(cut.diagonal, rows.diagonal[part])
        # Where an image meets itself, rounding of its scalar product comes out as its root.
        away = np.array(indices, int)[:, None] != np.arange(19)
        for found, expected, others in (
            (engine.block(cut, rows), whole[part], away),
            (engine.block(rows, cut), whole[:, part], away.T),
            (engine.symmetric_block(cut), whole[part, part], away[:, part]),
        ):
            np.testing.assert_allclose(found[others], expected[others], rtol=1e-12)
            np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("backend", COMPILED)
@DTYPES
@pytest.mark.parametrize("name", WITH_PIXELS)
def test_above_the_diagonal_a_symmetric_block_is_the_block(name, dtype, backend):
    engine = engine_for(PATHS[name], "ntk", dtype, backend)
    rows = engine.prepare(images(21))
    above = np.triu_indices(21, 1)
    own, block = engine.symmetric_block(rows), engine.block(rows, rows)
    assert own[above].tobytes() == block[above].tobytes()


@pytest.mark.parametrize("backend", COMPILED)
def test_the_layout_of_the_input_does_not_matter(backend):
    engine = engine_for(PATHS["gap"], "ntk", "float32", backend)
    x = images(9).astype(np.float32)
    expected = engine.symmetric_block(engine.prepare(x)).tobytes()
    wide = np.zeros((9, 6, 6, 4), np.float32)
    wide[..., ::2] = x
    for other in (np.asfortranarray(x), wide[..., ::2], x[::-1].copy()[::-1], x.astype(float)):
        assert engine.symmetric_block(engine.prepare(other)).tobytes() == expected


@pytest.mark.parametrize("backend", COMPILED)
def test_engines_of_other_shapes_and_networks_may_be_used_in_turn(backend):
    """They share the library, the threads and the workspaces."""
    makers = [(name, shape) for name in ("gap", "residual") for shape in ((6, 6, 2), (9, 4, 1))]
    expected = {}
    for _ in range(2):
        for name, shape in makers:
            engine = engine_for(PATHS[name], "ntk", "float32", backend, 2)
            rows = engine.prepare(images(9, shape))
            matrix = engine.symmetric_block(rows).tobytes()
            assert expected.setdefault((name, shape), matrix) == matrix
