"""Sizes that no test machine holds: a file of 50 TB, 2^31 elements, more tiles than 32 bits."""

import os
import tempfile
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hpcnk import store
from hpcnk.comm import assemble_rows, broadcast, reduce, sum_over_ranks, world
from hpcnk.run.needs.available import available_memory
from hpcnk.store import files
from hpcnk.store.journal import LINE_BYTES, MOST_TILES, Journal
from hpcnk.store.layout import Layout
from hpcnk.tiling import CrossGrid, TriangleGrid, deal

FIVE_MILLION = TriangleGrid(5_000_000, 8192)
ONE = SimpleNamespace(rank=0, size=1)


class Recorder:
    """One of two ranks, alone: it keeps what would have been sent."""

    rank, size = 0, 2

    def __init__(self):
        self.sent = []

    def bcast(self, value, root):
        return value

    def Bcast(self, piece, root):  # noqa: N802
        self.sent.append(piece)

    def Allreduce(self, place, piece):  # noqa: N802
        self.sent.append(piece)


# --- transfers between ranks


def test_more_than_two_billion_elements_are_sent_in_counts_of_31_bits():
    """The array is real; its memory is not touched, so it takes none."""
    array = np.zeros(2**31 + 5, np.int8)
    comm = Recorder()
    assert sum_over_ranks(comm, array) is array
    assert max(piece.size for piece in comm.sent) <= 2**30
    assert sum(piece.size for piece in comm.sent) == array.size
    starts = [piece.ctypes.data - array.ctypes.data for piece in comm.sent]
    assert starts == [0, 2**30, 2**31]


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 5)])
def test_a_broadcast_goes_in_pieces(shape, monkeypatch):
    monkeypatch.setattr(reduce, "MAX_BYTES", 24)
    array = np.random.default_rng(0).normal(size=shape)
    comm = Recorder()
    assert broadcast(comm, array) is array or np.array_equal(broadcast(comm, array), array)
    assert all(piece.nbytes <= 24 for piece in comm.sent)
    assert b"".join(piece.tobytes() for piece in comm.sent) == array.tobytes()


def test_assembled_rows_go_in_pieces(monkeypatch):
    monkeypatch.setattr(reduce, "MAX_BYTES", 16)
    comm = Recorder()
    whole = assemble_rows(comm, np.ones((3, 2)), slice(4, 7), 9)
    assert [piece.nbytes for piece in comm.sent] == [16] * 9
    assert whole.sum() == 6 and whole[4:7].all()


# --- transfers to files


def test_raw_transfers_are_capped(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_TRANSFER", 10)
    sizes = []
    for name in ("pwrite", "preadv"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, _recorded(real, sizes))
    data = np.arange(33, dtype=np.uint8)
    with open(tmp_path / "raw", "w+b") as file:
        files.write_at(file.fileno(), files.raw(data), 1 << 33)
        back = np.zeros_like(data)
        files.read_at(file.fileno(), files.raw(back), 1 << 33)
    np.testing.assert_array_equal(back, data)
    assert sizes == [10, 10, 10, 3] * 2


def _recorded(real, sizes):
    def transfer(handle, data, offset):
        sizes.append(len(data) if isinstance(data, memoryview) else sum(map(len, data)))
        return real(handle, data, offset)

    return transfer


def test_mpio_transfers_are_capped(tmp_path, monkeypatch, driver):
    """No call of HDF5 under mpio gets more than the cap."""
    if driver != "mpio":
        pytest.skip("of the other driver")
    grid = TriangleGrid(16, 16)
    tile = np.arange(256.0).reshape(16, 16)
    store.create(tmp_path / "k.h5", grid, "float64", {})
    layout = store.read_layout(tmp_path / "k.h5")
    monkeypatch.setattr(files, "MAX_TRANSFER", 300)
    with store.TileWriter(layout, driver, world()) as writer:
        calls = []
        writer._driver._tiles = _recording(writer._driver._tiles, calls)
        writer.put(0, tile)
    assert calls == [256] * 8  # two rows of 128 bytes each
    with store.TileReader(layout) as reader:
        np.testing.assert_array_equal(reader.read(0), tile)


def _recording(tiles, calls):
    class Recording:
        def __setitem__(self, key, rows):
            calls.append(rows.nbytes)
            tiles[key] = rows

    return Recording()


# --- more tiles than 32 bits count

MANY = TriangleGrid(5_000_000, 16)


def test_numbers_of_tiles_are_exact_to_the_last():
    assert MANY.count == 312_500 * 312_501 // 2 > 2**35
    for number in (2**31 - 1, 2**31, 2**32, 2**35, MANY.count - 1):
        tile = MANY.at(number)
        assert MANY.number(tile.i, tile.j) == number
    for j in (92_681, 262_144, 312_499):  # around the corners isqrt could miss
        assert MANY.at(MANY.number(0, j)).i == 0 and MANY.at(MANY.number(j, j)).i == j
    cross = CrossGrid(5_000_000, 5_000_000, 16)
    assert cross.at(cross.count - 1).rows == cross.at(cross.count - 1).columns
    largest = TriangleGrid(2**60, 2**32)  # 8 number + 1 is beyond what float64 tells apart
    for j in (2**27 + 1, largest.blocks - 1):
        tile = largest.at(largest.number(j, j))
        assert tile.i == tile.j == j


def test_tiles_of_a_rank_do_not_need_the_list_of_all():
    assert list(islice(MANY.order(), 3)) == [1, 3, 4]
    small = TriangleGrid(400 * 16, 16)
    assert deal(small, 70_000, 3) == [next(islice(small.order(), 3, None)), *deal_rest(small)]


def deal_rest(grid):
    return list(islice(grid.order(), 70_003, None, 70_000))


def test_journals_keep_numbers_beyond_32_bits(tmp_path):
    layout = Layout(tmp_path / "k.h5", "a" * 32, MANY, np.dtype("f4"), {}, False, 0, 0, 0)
    numbers = [0, 2**32 + 7, MANY.count - 1]
    journal = Journal(layout, 0)
    journal.append([(number, 2**32 - 1 - k) for k, number in enumerate(numbers)])
    journal.append([(MANY.count, 5)])  # no such tile: ignored
    journal.close()
    found = store.read_journals(layout)
    assert found == {number: 2**32 - 1 - k for k, number in enumerate(numbers)}
    assert store.finished_tiles(layout.journal) == 4
    assert len(f"{MOST_TILES - 1:012d} ") + 8 + 1 + 32 + 1 == LINE_BYTES


# --- a file of 50 TB


@pytest.fixture
def roomy(tmp_path):
    """A folder whose file system holds a sparse file of 50 TB."""
    size = FIVE_MILLION.count * 8192**2 * 4 + (1 << 30)
    reasons = []
    for place in (tmp_path, Path("/dev/shm")):
        if not (place.is_dir() and os.access(place, os.W_OK)):
            reasons.append(f"{place} cannot be written to")
            continue
        with tempfile.TemporaryDirectory(dir=place, prefix="hpcnk-") as folder:
            problem = _refused(Path(folder) / "probe", size)
            if not problem:
                yield Path(folder)
                return
            reasons.append(f"{place} holds no sparse file of 50 TB: {problem}")
    pytest.skip("; ".join(reasons))


def _refused(path, size):
    try:
        with open(path, "wb") as file:
            file.truncate(size)
    except OSError as error:
        return error.strerror
    finally:
        path.unlink()
    return ""


def test_the_last_tiles_of_fifty_terabytes(roomy, driver):
    """Laid out in a moment; two tiles at the far end written and read back, the rest a hole."""
    if (available_memory() or 0) < 3 << 30:
        pytest.skip("two tiles of 268 MB, in memory and on a disk in memory, want 3 GB")
    path, count = roomy / "kernel.h5", FIVE_MILLION.count
    store.create(path, FIVE_MILLION, "float32", {})
    layout = store.read_layout(path)
    assert layout.grid.count == count == 186_966
    assert path.stat().st_size > 50e12 and path.stat().st_blocks * 512 < 1 << 20
    tiles = {
        number: _block(FIVE_MILLION.at(number).shape, number) for number in (count - 2, count - 1)
    }
    assert tiles[count - 1].shape == (2880, 2880)
    with store.TileWriter(layout, driver, world()) as writer:
        for number, block in tiles.items():
            writer.put(number, block)
    del block
    assert path.stat().st_blocks * 512 < 3 * layout.tile_bytes
    with store.TileReader(layout) as reader:
        assert sorted(reader.checksums) == sorted(tiles)
        for number, block in tiles.items():
            np.testing.assert_array_equal(reader.read(number), block)
    with open(path, "rb") as file:  # the bytes lie where the last tile must be
        file.seek(layout.tiles_offset + (count - 1) * layout.tile_bytes)
        start = np.frombuffer(file.read(2880 * 4), np.float32)
    np.testing.assert_array_equal(start, tiles[count - 1][0])


def _block(shape, seed):
    return np.random.default_rng(seed).random(shape, np.float32)
