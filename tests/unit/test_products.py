"""Products of one tile with many columns: the compiled ones, their plain twin, dense float64."""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcnk.engine import build
from hpcnk.errors import BackendError, UsageError
from hpcnk.solve import CompiledProducts, PlainProducts, make_products
from hpcnk.solve import products as module
from hpcnk.tiling import TriangleGrid

PROJECT = Path(__file__).resolve().parents[2]
DTYPES = (np.float32, np.float64)
SHAPES = ((1, 1), (7, 5), (47, 289), (97, 300), (48, 288), (130, 9), (3, 601))
COLUMNS = (1, 2, 3, 4, 5, 6, 7, 8, 13, 25, 54, 55, 104, 105, 130)
FENCE = 1 << 17  # numbers on each side of a library's working memory


@pytest.fixture(scope="module")
def compiled():
    try:
        return CompiledProducts(1)
    except BackendError as error:
        pytest.skip(error.what)


@pytest.fixture
def fences(monkeypatch):
    """Working memory lies between fences, which must stand at the end, and is NaN at first."""
    places = []

    def empty(shape, dtype=float):
        if dtype is not float:
            return np.zeros(shape, dtype)
        size = int(np.prod(shape))
        places.append(np.full(size + 2 * FENCE, 5.0))
        room = places[-1][FENCE : FENCE + size]
        room[:] = np.nan
        return room.reshape(shape)

    monkeypatch.setattr(module.np, "empty", empty)
    yield
    assert places
    for place in places:
        assert (place[:FENCE] == 5.0).all() and (place[-FENCE:] == 5.0).all()


def problem(height, width, columns, dtype=np.float64, seed=0):
    """Give a tile, v for its rows and columns, and outputs that are not zero; all strided views."""
    random = np.random.default_rng(seed)
    tile = random.standard_normal((height, width + 3)).astype(dtype)[:, 1 : width + 1]
    vectors = random.standard_normal((4, max(height, width), columns + 2))[:, :, 2:]
    v_rows, v_columns, rows, below = vectors
    return tile, v_rows[:height], v_columns[:width], rows[:height], below[:width]


def added(products, symmetric, tile, v_rows, v_columns, rows, below):
    """Give what the outputs are afterwards; the arguments stay as they are."""
    rows, below = rows.copy(), below.copy()
    products.add(tile, symmetric, v_rows, v_columns, rows, below)
    return rows, below


def bounds(tile, v_rows, v_columns, rows, below):
    """Give bounds on the rounding errors of both sums, whatever their order."""
    size = np.abs(tile.astype(np.float64))
    eps = 2 * (sum(tile.shape) + 4) * np.finfo(float).eps
    return (
        eps * (size @ np.abs(v_columns) + np.abs(rows)),
        eps * (size.T @ np.abs(v_rows) + np.abs(below)),
    )


def check(products, arguments, symmetric):
    tile, v_rows, v_columns, rows, below = arguments
    wide = tile.astype(np.float64)
    wanted = rows + wide @ v_columns, below if symmetric else below + wide.T @ v_rows
    for found, right, bound in zip(
        added(products, symmetric, *arguments), wanted, bounds(*arguments), strict=True
    ):
        assert (np.abs(found - right) <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("symmetric", (False, True))
def test_products_are_those_of_dense_float64(compiled, shape, dtype, symmetric):
    for columns in COLUMNS:
        arguments = problem(*shape, columns, dtype)
        check(compiled, arguments, symmetric)
        check(PlainProducts(), arguments, symmetric)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 700),
    columns=st.integers(1, 120),
    dtype=st.sampled_from(DTYPES),
    symmetric=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products_of_any_shape(compiled, height, width, columns, dtype, symmetric, seed):
    check(compiled, problem(height, width, columns, dtype, seed), symmetric)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threads", (1, 2))
def test_the_transposed_product_alone(compiled, shape, dtype, threads, monkeypatch):
    """The same bytes as beside the other product; rows of parts are in the same order."""
    monkeypatch.setattr(module, "PART_ROWS", 48)
    for columns in COLUMNS:
        tile, v_rows, *_, below = arguments = problem(*shape, columns, dtype)
        wide, bound = tile.astype(np.float64), bounds(*arguments)[1]
        both = added(compiled, False, *arguments)[1]
        for products in (CompiledProducts(threads), PlainProducts()):
            found, before = below.copy(), v_rows.copy()
            products.add_transposed(tile, v_rows, found)
            assert (np.abs(found - (below + wide.T @ v_rows)) <= bound).all()
            assert np.array_equal(v_rows, before)
            if isinstance(products, CompiledProducts):
                assert found.tobytes() == both.tobytes()


def test_transposed_other_arrays_are_refused(compiled):
    tile, v_rows, _, _, below = problem(6, 8, 2)
    for bad in ((tile[:5], v_rows, below), (tile, below, v_rows), (tile, v_rows[:, :1], below)):
        with pytest.raises(UsageError, match="expected"):
            compiled.add_transposed(*bad)


def triangle(n, side, columns, dtype):
    """Give tiles of the upper triangle of a matrix, v and a sum that is not zero.

    Tiles farther on are multiplied by fewer columns, as with training sets of several sizes.
    """
    random = np.random.default_rng(1)
    k = random.standard_normal((n, n)).astype(dtype)
    k = k + k.T
    grid = TriangleGrid(n, side)
    tiles = [grid.at(number) for number in range(grid.count)]
    placed = [
        module.Placed(
            tile,
            np.ascontiguousarray(k[tile.rows, tile.columns]),
            columns - columns * tile.columns.start // n,
        )
        for tile in tiles
    ]
    return placed, *random.standard_normal((2, n, columns))


def dense_sum(placed, v, out):
    """Give the sum of the tiles' products and out by dense algebra, and a bound of its rounding."""
    total, size = out.copy(), np.abs(out)
    for tile, entries, columns in placed:
        wide, some = entries.astype(float), slice(columns)
        sides = [(tile.rows, wide, tile.columns), (tile.columns, wide.T, tile.rows)]
        for rows, part, others in sides[: 1 if tile.symmetric else 2]:
            total[rows, some] += part @ v[others, some]
            size[rows, some] += np.abs(part) @ np.abs(v[others, some])
    return total, 4 * len(v) * np.finfo(float).eps * size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("order", (1, -1))  # backwards: narrow tiles and few columns come first
def test_tiles_in_one_call(compiled, dtype, threads, order, fences):
    for n, side, columns in ((70, 32, 3), (300, 97, 13), (64, 64, 1), (50, 49, 130), (9, 5, 105)):
        placed, v, out = triangle(n, side, columns, dtype)
        placed = placed[::order]
        right, bound = dense_sum(placed, v, out)
        single = out.copy()
        module._one_by_one(compiled, placed, v, single)
        for products in (CompiledProducts(threads), PlainProducts()):
            found = out.copy()
            products.add_tiles(placed, v, found)
            assert (np.abs(found - right) <= bound).all()
            if isinstance(products, CompiledProducts):
                assert found.tobytes() == single.tobytes()


def locked(array):
    """Give a copy that must not be written to."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def test_no_tiles_add_nothing(compiled):
    placed, v, out = triangle(70, 32, 3, np.float32)
    found = out.copy()
    compiled.add_tiles([], v, found)
    compiled.add_tiles([one._replace(columns=0) for one in placed], v, found)
    assert np.array_equal(found, out)


@pytest.mark.parametrize("threads", (1, 2))
def test_tiles_that_do_not_fit_are_refused(compiled, threads):
    placed, v, out = triangle(70, 32, 3, np.float32)
    first, second, *_ = placed
    rest, compiled = placed[1:], CompiledProducts(threads)
    before = replace(second.tile, rows=slice(-32, 0))
    for other in (
        before,
        replace(second.tile, rows=slice(32, 64)),
        replace(first.tile, symmetric=False),
    ):
        with pytest.raises(UsageError, match="expected"):
            compiled.add_tiles([first._replace(tile=other)], v, out)
    for tiles, vectors, sums in (
        ([first._replace(entries=first.entries[:5]), *rest], v, out),
        ([first._replace(entries=first.entries.astype(float)), *rest], v, out),
        ([one._replace(entries=one.entries.astype(np.float16)) for one in placed], v, out),
        ([first._replace(entries=np.asfortranarray(first.entries)), *rest], v, out),
        ([first._replace(columns=4), *rest], v, out),
        ([first._replace(columns=-1), *rest], v, out),
        (placed, v[:-1], out[:-1]),
        (placed[1:2], v[:63], out[:63]),  # rows within, columns not
        (placed, v[:, :2], out),
        (placed, v.astype(np.float32), out),
        (placed, v, np.asfortranarray(out)),
        (placed, v, locked(out)),
    ):
        with pytest.raises(UsageError, match="expected"):
            compiled.add_tiles(tiles, vectors, sums)


@pytest.mark.parametrize("columns", (1, 5, 13, 40))
@pytest.mark.parametrize("threads", (2, 3))
def test_threads_change_nothing(compiled, columns, threads, monkeypatch):
    for rows in (48, 1024):  # several parts, by rows; one part, by columns
        monkeypatch.setattr(module, "PART_ROWS", rows)
        for symmetric in (False, True):
            arguments = problem(290, 300, columns, np.float32)
            check(CompiledProducts(threads), arguments, symmetric)
            one = added(compiled, symmetric, *arguments)
            several = added(CompiledProducts(threads), symmetric, *arguments)
            assert [a.tobytes() for a in one] == [a.tobytes() for a in several]


def test_parts_do_not_depend_on_the_columns(monkeypatch):
    monkeypatch.setattr(module, "PART_ROWS", 48)
    for height, count in ((47, 1), (96, 2), (290, 5), (1000, 7)):
        work = module._Work(np.zeros((height, 3)), True, False, *[np.zeros((height, 2))] * 4)
        heights = [len(part.entries) for part in work.parts()]
        assert (sum(heights), len(heights)) == (height, count)
        assert all(rows % module.BLOCK_ROWS == 0 for rows in heights[:-1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ((50, 295), (97, 301)), ids=str)
def test_a_column_has_the_same_bytes_whatever_is_beside_it(compiled, dtype, shape):
    tile, v_rows, v_columns, rows, below = problem(*shape, 120, dtype)
    whole = added(compiled, False, tile, v_rows, v_columns, rows, below)
    random = np.random.default_rng(3)
    for count in (*range(1, 31), 54, 55, 90, 119):
        kept = random.permutation(120)[:count]
        some = (np.ascontiguousarray(a[:, kept]) for a in (v_rows, v_columns, rows, below))
        for part, all_of_it in zip(added(compiled, False, tile, *some), whole, strict=True):
            assert part.tobytes() == all_of_it[:, kept].tobytes()


@pytest.mark.parametrize("strange", (np.nan, np.inf, -np.inf))
def test_what_is_not_finite_comes_out(compiled, strange):
    tile, *vectors = problem(60, 310, 9, np.float32)
    tile[50, 305] = strange
    for products in (compiled, PlainProducts()):
        rows, below = added(products, False, tile, *vectors)
        assert not np.isfinite(rows[50]).any()
        assert not np.isfinite(below[305]).any()
        assert np.isfinite(np.delete(rows, 50, 0)).all()
        assert np.isfinite(np.delete(below, 305, 0)).all()


@pytest.mark.parametrize("strange", (np.nan, np.inf))
def test_a_column_that_is_not_finite_leaves_the_others_alone(compiled, strange):
    tile, v_rows, v_columns, *outputs = problem(60, 310, 9)
    v_rows[59, 4] = v_columns[309, 4] = strange
    for found in added(compiled, False, tile, v_rows, v_columns, *outputs):
        assert not np.isfinite(found[:, 4]).any()
        assert np.isfinite(np.delete(found, 4, 1)).all()


def test_what_was_in_memory_before_does_not_matter(compiled, monkeypatch):
    problems = [problem(50, 301, 7, dtype) for dtype in DTYPES]
    monkeypatch.setattr(module.np, "empty", lambda size: np.full(size, np.nan))
    for arguments in problems:
        check(compiled, arguments, False)


def test_nothing_outside_is_written(compiled):
    tile, v_rows, v_columns, rows, below = problem(50, 300, 7)
    frames = np.full((2, 302, 9), 5.0)
    out_rows, out_below = frames[0, 1:51, 1:8], frames[1, 1:301, 1:8]
    out_rows[...], out_below[...] = rows, below
    compiled.add(tile, False, v_rows, v_columns, out_rows, out_below)
    out_rows[...] = out_below[...] = 5.0
    assert (frames == 5.0).all()


@pytest.mark.parametrize("height, width, columns", ((0, 5, 3), (5, 0, 3), (5, 4, 0)))
@pytest.mark.parametrize("threads", (1, 2))
def test_empty_arrays_add_nothing(compiled, height, width, columns, threads):
    arguments = problem(height, width, columns)
    for found, before in zip(
        added(CompiledProducts(threads), False, *arguments), arguments[3:], strict=True
    ):
        assert np.array_equal(found, before)


def test_other_arrays_are_refused(compiled):
    tile, v_rows, v_columns, rows, below = problem(6, 8, 2)
    for bad in (
        (tile[:5], v_rows, v_columns, rows, below),
        (tile, v_rows, v_columns[:, :1], rows, below),
        (tile, v_rows.astype(np.float32), v_columns, rows, below),
        (tile, v_rows, v_columns, np.zeros((2, 6)).T, below),
        (tile.astype(np.float16), v_rows, v_columns, rows, below),
        (tile.astype(">f8"), v_rows, v_columns, rows, below),
        (np.zeros((8, 6)).T, v_rows, v_columns, rows, below),
        (tile, v_rows, v_columns, locked(rows), below),
        (tile, v_rows, v_columns, rows, locked(below)),
        (askew(tile, 4, 0), v_rows, v_columns, rows, below),
        (askew(tile, 0, 1), v_rows, v_columns, rows, below),
    ):
        with pytest.raises(UsageError, match="expected"):
            compiled.add(bad[0], False, *bad[1:])
    compiled.add(tile, True, locked(v_rows), locked(v_columns), rows, locked(below))


def askew(tile, between, before):
    """Give a copy with so many bytes more between its rows, and before the first."""
    height, width = tile.shape
    pitch = 8 * width + between
    room = np.zeros(height * pitch + before, np.uint8)
    copy = np.ndarray((height, width), buffer=room, offset=before, strides=(pitch, 8))
    copy[...] = tile
    return copy


def test_the_sign_of_zero_does_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr(module, "PART_ROWS", 24)
    tile, v_rows = np.full((96, 4), -1e-200), np.full((96, 1), 1e-200)
    for threads in (1, 2, 4):
        found = np.full((4, 1), -0.0)
        CompiledProducts(threads).add_transposed(tile, v_rows, found)
        assert np.signbit(found).all()


LEVEL = """
import sys
from hpcnk.errors import BackendError
from tests.unit.test_products import *
try:
    compiled = CompiledProducts(1)
except BackendError as error:
    sys.exit(f"{error.what}: {error.advice}")
for shape in SHAPES:
    for columns in COLUMNS:
        for dtype in DTYPES:
            check(compiled, problem(*shape, columns, dtype), False)
print("right")
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64 processors")
@pytest.mark.parametrize("level", ("x86-64", "x86-64-v3"))
def test_products_of_lesser_processors(level):
    if level.endswith("v3") and not {"avx2", "fma"} <= instructions():
        pytest.skip("this processor has no AVX2")
    environment = {**os.environ, "HPCNK_CXXFLAGS": f"-march={level}"}
    command = [sys.executable, "-c", LEVEL]
    ended = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120
    )
    if "did not compile" in ended.stderr:
        pytest.skip(f"this compiler knows no -march={level}")
    assert ended.stdout == "right\n", ended.stderr


def instructions():
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return set(text.split())


def test_the_plain_and_the_compiled_are_two(compiled):
    assert isinstance(make_products("reference", 2), PlainProducts)
    assert isinstance(make_products("cpu", 2), CompiledProducts)
    assert CompiledProducts.add is not PlainProducts.add
    assert CompiledProducts.add_tiles is not PlainProducts.add_tiles
    assert CompiledProducts.add_transposed is not PlainProducts.add_transposed


def test_the_library_has_a_name_of_its_own(monkeypatch, tmp_path):
    engine, own = build._key(), build._key(module.SOURCE.parent)
    folder = shutil.copytree(module.SOURCE.parent, tmp_path / "source")
    assert build._key(folder) == own != engine
    for path in folder.iterdir():
        path.write_text(path.read_text() + "\n")
        assert build._key(folder) != own
    assert build._key() == engine


def test_a_library_that_cannot_be_loaded(tmp_path):
    bad = tmp_path / "bad.so"
    bad.write_text("bad")
    with pytest.raises(BackendError, match="cannot be loaded"):
        module._Library(bad)
