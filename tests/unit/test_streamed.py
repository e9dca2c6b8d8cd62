"""Tiles read ahead by threads, in memory, computed, and merged: one order, the same bits."""

import errno
import os
import threading
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from hpcnk import store
from hpcnk.comm import FixedPointSums, FloatSums, world
from hpcnk.engine.device.tiles import pass_bytes
from hpcnk.errors import StorageError
from hpcnk.run.tile_places import spread_evenly
from hpcnk.solve import PlainProducts, ResidentTiles, TileOperator, streamed
from hpcnk.solve.merged import MergedTiles
from hpcnk.solve.on_device import DeviceTiles
from hpcnk.solve.streamed import StreamedTiles, read_ahead, ring_bytes, tiles_ahead
from hpcnk.solve.tiles import every
from hpcnk.store import files
from hpcnk.store import reader as reading
from hpcnk.store.files import PAGE, aligned_empty, read_at
from hpcnk.tiling import TriangleGrid
from tests.support.arrays_as_device import HostMemory
from tests.support.dense import Single, kernel_matrix, tiles_of

N, TILE = 150, 16
GRID = TriangleGrid(N, TILE)
PRODUCTS = PlainProducts()
K = kernel_matrix(N).astype(np.float32)


@pytest.fixture
def stored(tmp_path):
    """The layout of a complete file with the tiles of K."""
    return write(tmp_path / "kernel.h5", K, GRID)


def write(path, k, grid):
    store.create(path, grid, "float32", {})
    layout = store.read_layout(path)
    with store.TileWriter(layout, "posix", world()) as writer:
        for tile, entries in tiles_of(k, grid):
            writer.put(tile.number, entries)
    found = store.read_journals(layout)
    store.mark_complete(layout, np.array([found[k] for k in range(grid.count)], np.uint32))
    return store.read_layout(path)


def streamed_tiles(layout, reader, numbers=None):
    def fill(number, stored):
        if not reader.fill(number, stored):
            raise StorageError(f"tile {number} changed", "look at it")

    tiles = [GRID.at(number) for number in numbers or range(GRID.count)]
    return StreamedTiles(tiles, fill, TILE, layout.dtype, PRODUCTS)


def threads():
    return [thread for thread in threading.enumerate() if "hpcnk-tiles" in thread.name]


# --- reading ahead


def test_tiles_come_in_order_with_their_own_bytes(stored):
    with store.TileReader(stored) as reader:
        source = streamed_tiles(stored, reader)
        for _ in range(3):  # the ring is used again
            found = [(tile.number, entries.copy()) for tile, entries in source.tiles(every)]
            assert [number for number, _ in found] == list(range(GRID.count))
            for number, entries in found:
                tile = GRID.at(number)
                np.testing.assert_array_equal(entries, K[tile.rows, tile.columns])
    assert not threads()


def test_copies_stand_on_pages_of_their_own():
    copies, found = store.Copies(4 * PAGE), []
    rng = np.random.default_rng(5)
    for shape in [(3, 5), (0, 7), (64, 64), (100, 41), (64, 65), (200, 100), (1, 1)]:
        entries = rng.standard_normal(shape).astype("float32" if shape[0] % 3 else "float64")
        found.append((entries, copies.add(entries.T)))
    for entries, copy in found:
        assert copy.ctypes.data % PAGE == 0 and copy.flags.c_contiguous
        np.testing.assert_array_equal(copy, entries.T)
    pages = [range(c.ctypes.data // PAGE, -(-(c.ctypes.data + c.nbytes) // PAGE)) for _, c in found]
    assert len(set().union(*pages)) == sum(map(len, pages))


def test_tiles_on_pages_are_read_past_the_cache(tmp_path, stored, monkeypatch):
    k, grid = kernel_matrix(700).astype(np.float32), TriangleGrid(700, 128)
    layout, handles = write(tmp_path / "large.h5", k, grid), []
    spy = lambda handle, *rest: handles.append(handle) or read_at(handle, *rest)  # noqa: E731
    monkeypatch.setattr(reading, "read_at", spy)
    on_page = aligned_empty((128, 128), "float32")
    off_page = aligned_empty((128 * 128 + 1,), "float32")[1:].reshape(128, 128)
    assert on_page.ctypes.data % PAGE == 0 != off_page.ctypes.data % PAGE
    with store.TileReader(layout, direct=True) as direct, store.TileReader(layout) as plain:
        if not direct.direct:
            pytest.skip("this file system has no direct reads")
        for number in (0, 8, 20):
            for place in (on_page, off_page):
                assert direct.fill(number, place)
                np.testing.assert_array_equal(place, padded(plain, number))
        assert [handle == direct._direct for handle in handles[:4]] == [True, False, False, False]
        with open(layout.path, "r+b") as file:
            file.seek(layout.tiles_offset + 8 * layout.tile_bytes + 77)
            file.write(b"!!")
        assert not direct.fill(8, on_page) and direct.fill(9, on_page)
    with store.TileReader(stored, direct=True) as small:
        assert not small.direct, "its tiles are no whole pages"


def test_a_file_system_that_refuses_direct_reads_is_read_through_its_cache(tmp_path, monkeypatch):
    grid = TriangleGrid(700, 128)
    layout = write(tmp_path / "large.h5", kernel_matrix(700).astype(np.float32), grid)

    def refused(*asked):
        raise OSError(errno.EINVAL, "Invalid argument")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "preadv", refused)
        found = store.TileReader(layout, direct=True)
    assert not found.direct and found.fill(3, aligned_empty((128, 128), "float32"))
    found.close()
    assert len(os.listdir("/proc/self/fd")) == before


def padded(reader, number):
    found = reader._empty()
    assert reader.fill(number, found)
    return found


def test_the_ring_begins_on_pages(stored):
    with store.TileReader(stored) as reader:
        source = streamed_tiles(stored, reader)
        assert all(buffer.ctypes.data % PAGE == 0 for buffer in source._make_ring())


def test_only_wanted_tiles_are_read(stored):
    with store.TileReader(stored) as reader:
        seen = []
        real = reader.fill
        reader.fill = lambda number, buffer: seen.append(number) or real(number, buffer)
        source = streamed_tiles(stored, reader)
        wanted = [tile.number for tile, _ in source.tiles(lambda tile: tile.symmetric)]
        assert sorted(seen) == wanted == [GRID.number(j, j) for j in range(GRID.blocks)]


def test_reading_goes_on_ahead_of_the_use_but_not_further_than_the_ring():
    begun, asked, block = [], [], threading.Event()

    def numbers():
        for number in range(20):
            begun.append(number)
            yield number

    with closing(read_ahead(numbers(), lambda k, b: (asked.append(k), block.wait()), int, 4)) as it:
        block.set()
        assert next(it)[0] == 0
        assert begun == [0, 1, 2, 3, 4]
        assert next(it)[0] == 1
        assert begun == [0, 1, 2, 3, 4, 5]
    assert not threads()
    assert len(asked) <= 6


def test_buffers_come_again_only_after_their_tile_was_used(stored, monkeypatch):
    """Two iterators at once do not share a ring either."""
    monkeypatch.setattr(streamed, "AHEAD_BYTES", 0)
    with store.TileReader(stored) as reader:
        source = streamed_tiles(stored, reader)
        with closing(source.tiles(every)) as one, closing(source.tiles(every)) as two:
            for (tile, first), (_, second) in zip(one, two, strict=True):
                np.testing.assert_array_equal(first, K[tile.rows, tile.columns])
                assert first.base is not second.base
        assert len(source._rings) == 2 and len(source._rings[0]) == 3


@pytest.mark.parametrize("after", [0, 1, 7])
def test_an_iteration_that_is_left_leaves_no_thread(stored, after):
    with store.TileReader(stored) as reader:
        source = streamed_tiles(stored, reader)
        with closing(source.tiles(every)) as tiles:
            for _ in range(after):
                next(tiles)
        assert not threads()
        with pytest.raises(ZeroDivisionError), closing(source.tiles(every)) as tiles:
            for _ in tiles:
                raise ZeroDivisionError
        assert not threads()
        assert sum(1 for _ in source.tiles(every)) == GRID.count


def test_an_error_of_a_thread_reaches_the_user(stored):
    def fill(number, stored):
        if number == 5:
            raise StorageError("reading failed: input/output error", "look at the disk")

    tiles = [GRID.at(number) for number in range(GRID.count)]
    source = StreamedTiles(tiles, fill, TILE, stored.dtype, PRODUCTS)
    seen = []
    with pytest.raises(StorageError, match="input/output"):
        seen.extend(tile.number for tile, _ in source.tiles(every))
    with pytest.raises(StorageError, match="input/output"):
        operator(source).apply(np.ones((N, 2)))
    assert not threads()


def test_a_bit_that_flips_between_passes_is_found(stored):
    v = np.ones((N, 2))
    with store.TileReader(stored) as reader:
        source = operator(streamed_tiles(stored, reader))
        np.testing.assert_allclose(source.apply(v), K.astype(float) @ v)
        with open(stored.path, "r+b") as file:
            file.seek(stored.tiles_offset + 9 * stored.tile_bytes + 40)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 16]))
        with pytest.raises(StorageError, match="tile 9 changed"):
            source.apply(v)
    assert not threads()


def test_a_file_cut_short_is_an_error_of_the_disk(stored):
    with store.TileReader(stored) as reader:
        with open(stored.path, "r+b") as file:
            file.truncate(stored.tiles_offset + 3 * stored.tile_bytes)
        with pytest.raises(StorageError, match="ends at byte"):
            list(streamed_tiles(stored, reader).tiles(every))


def test_the_ring_has_the_memory_that_it_says():
    for side in (16, 512, 4096, 8192):
        tile_bytes = 4 * side**2
        assert ring_bytes(tile_bytes) == (tiles_ahead(tile_bytes) + 1) * tile_bytes
        assert tiles_ahead(tile_bytes) >= streamed.LEAST_AHEAD
        assert ring_bytes(tile_bytes) <= max(3 * tile_bytes, 2 * streamed.AHEAD_BYTES)


# --- products


def operator(*sources, sums=FloatSums):
    return TileOperator(sums(Single()), N, sources)


def merged(*sources, going=lambda: True):
    return MergedTiles(sources, PRODUCTS, going)


def resident(numbers):
    return ResidentTiles(tiles_of(K, GRID, numbers), PRODUCTS)


@pytest.mark.parametrize("sums", [FloatSums, FixedPointSums])
@pytest.mark.parametrize("held", [0, 1, 20, GRID.count])
def test_any_mix_gives_the_same_bits(stored, sums, held):
    numbers = list(range(GRID.count))
    kept = spread_evenly(numbers, held)
    rest = [number for number in numbers if number not in kept]
    v = np.random.default_rng(0).normal(size=(N, 5))
    sizes = np.array([N, N, 100, 33, 2])
    for column, size in enumerate(sizes):
        v[size:, column] = 0
    with store.TileReader(stored) as reader:
        sources = [resident(kept)] + ([streamed_tiles(stored, reader, rest)] if rest else [])
        mixed, pure = operator(merged(*sources), sums=sums), operator(resident(numbers), sums=sums)
        np.testing.assert_array_equal(mixed.apply(v, sizes), pure.apply(v, sizes))
        np.testing.assert_array_equal(mixed.diagonal(), K.diagonal())
        np.testing.assert_array_equal(mixed.columns(np.array([3, 149])), K[:, [3, 149]])
    assert not threads()


def test_a_merge_stops_where_it_is_told_to(stored):
    left = iter([True, True, False])
    with store.TileReader(stored) as reader:
        source = merged(
            resident([0, 4]), streamed_tiles(stored, reader, [1, 2, 3]), going=lambda: next(left)
        )
        assert [tile.number for tile, _ in source.tiles(every)] == [0, 1]
    assert not threads()


@pytest.mark.parametrize("count", [0, 1, 3, 7, 10])
def test_tiles_that_stay_are_spread_evenly(count):
    chosen = spread_evenly(list(range(100, 110)), count)
    assert len(set(chosen)) == count
    gaps = np.diff(chosen)
    assert not count or gaps.max(initial=1) - gaps.min(initial=10) <= 1 or count == 1


# --- tiles in the memory of a GPU, for which NumPy stands in


def on_device(memory, numbers):
    source = DeviceTiles(memory, [GRID.at(number) for number in numbers], K.dtype)
    for tile, entries in tiles_of(K, GRID, numbers):
        source.hold(tile, entries)
    return source


# A row at a time, a few tiles at a time, all at once.
@pytest.mark.parametrize("batch", [1, 100_000, 1 << 30])
def test_products_on_a_device(batch, monkeypatch):
    monkeypatch.setattr("hpcnk.engine.device.tiles.BATCH_BYTES", batch)
    memory = HostMemory()
    source = on_device(memory, range(0, GRID.count, 2))
    both = operator(source, resident(range(1, GRID.count, 2)))
    v = np.random.default_rng(0).normal(size=(N, 4))
    sizes = np.array([N, 70, 70, 1])
    for column, size in enumerate(sizes):
        v[size:, column] = 0
    found = both.apply(v, sizes)
    assert memory.downloads == 1
    for column, size in enumerate(sizes):
        expected = K[:size].astype(float) @ v[:, column]
        np.testing.assert_allclose(found[:size, column], expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(both.diagonal(), K.diagonal())
    np.testing.assert_array_equal(both.columns(np.array([7, 80])), K[:, [7, 80]])


def test_a_device_with_no_tile_in_reach_is_not_asked():
    memory = HostMemory()
    source = on_device(memory, [GRID.count - 1])
    source.add_products(np.zeros((N, 1)), np.array([1]), SimpleNamespace())
    assert not memory.uploads


@pytest.mark.parametrize("batch", [1, 30_000])
def test_batches_stay_within_the_memory_that_is_planned(batch, monkeypatch):
    monkeypatch.setattr("hpcnk.engine.device.tiles.BATCH_BYTES", batch)
    memory, columns = HostMemory(), 9
    source = on_device(memory, range(GRID.count))
    sums, v = np.zeros((N, columns)), np.random.default_rng(0).normal(size=(N, columns))
    panels = list(source._held._panels.values())
    for panel in panels:
        for start, stop in panel._batches(columns):
            width = panel.tiles[0].shape[1]
            rows = 8 * (stop - start) * (width + 4 * columns)
            assert rows + 8 * columns * (2 * N + 4 * width) <= pass_bytes(N, TILE, columns)
        with memory.active():
            panel.add_products(v, sums, columns)
    assert len(list(panels[-1]._batches(columns))) > 1
    np.testing.assert_allclose(sums, K.astype(float) @ v, rtol=1e-12, atol=1e-12)


def test_the_memory_of_a_real_gpu():
    from hpcnk.engine import device_problem
    from hpcnk.engine.device.tiles import device_memory

    if device_problem():
        pytest.skip(device_problem())
    memory = device_memory(0)
    before = memory.free_bytes()
    source = on_device(memory, range(GRID.count))
    v = np.random.default_rng(0).normal(size=(N, 4))
    np.testing.assert_allclose(operator(source).apply(v), K.astype(float) @ v, rtol=1e-12)
    assert before > 0
