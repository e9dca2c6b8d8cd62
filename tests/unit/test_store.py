import errno
import os
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from hpcnk import store
from hpcnk.errors import StorageError, UsageError
from hpcnk.store import files, writer
from hpcnk.store.drivers import DRIVERS, choose_driver
from hpcnk.store.journal import LINE_BYTES
from hpcnk.tiling import CrossGrid, TriangleGrid

ONE = SimpleNamespace(rank=0, size=1)
TWO = SimpleNamespace(rank=1, size=2)


def matrix(n, dtype="float32"):
    return np.arange(n * n, dtype=dtype).reshape(n, n)


def fill(path, grid, numbers, comm=ONE, dtype="float32"):
    layout = store.read_layout(path)
    tiles = store.TileWriter(layout, "posix", comm)
    whole = matrix(grid.n, dtype)
    for number in numbers:
        tile = grid.at(number)
        tiles.put(number, whole[tile.rows, tile.columns])
    tiles.close()
    return layout


@pytest.fixture
def created(tmp_path):
    grid = TriangleGrid(11, 4)
    path = tmp_path / "kernel.h5"
    store.create(path, grid, "float32", {"kernel.tile": 4})
    return path, grid


def test_layout_survives_the_round_trip(created):
    path, grid = created
    layout = store.read_layout(path)
    assert layout.grid == grid
    assert layout.dtype == np.float32
    assert layout.provenance == {"kernel.tile": 4}
    assert not layout.complete
    with h5py.File(path) as file:
        properties = file["tiles"].id.get_create_plist()
        assert properties.get_layout() == h5py.h5d.CONTIGUOUS
        assert properties.get_alloc_time() == h5py.h5d.ALLOC_TIME_EARLY
        assert properties.get_fill_time() == h5py.h5d.FILL_TIME_NEVER
        assert file["tiles"].shape == (6, 4, 4)


def test_cross_grid_and_float64(tmp_path):
    grid = CrossGrid(5, 7, 3)
    store.create(tmp_path / "t.h5", grid, "float64", {})
    layout = store.read_layout(tmp_path / "t.h5")
    assert layout.grid == grid and layout.dtype == np.float64


def test_tiles_are_padded_with_zeros_and_read_back_without(created):
    path, grid = created
    layout = fill(path, grid, range(grid.count))
    with h5py.File(path) as file:
        raw = file["tiles"][:]
    whole = matrix(11)
    with store.TileReader(layout) as reader:
        for number in range(grid.count):
            tile = grid.at(number)
            np.testing.assert_array_equal(reader.read(number), whole[tile.rows, tile.columns])
            height, width = tile.shape
            assert not raw[number, height:].any() and not raw[number, :, width:].any()


def test_only_journalled_tiles_count_and_two_ranks_add_up(created):
    path, grid = created
    layout = fill(path, grid, [0, 3])
    fill(path, grid, [4], TWO)
    assert set(store.read_journals(layout)) == {0, 3, 4}
    assert store.finished_tiles(layout.journal) == 3


def test_torn_and_foreign_journal_lines_are_ignored(created):
    path, grid = created
    layout = fill(path, grid, [0, 1, 2])
    journal = next(layout.journal.glob("*.log"))
    data = journal.read_bytes()
    assert len(data) == 3 * LINE_BYTES
    for cut in range(2 * LINE_BYTES, 3 * LINE_BYTES):
        journal.write_bytes(data[:cut])
        assert set(store.read_journals(layout)) == {0, 1}
    assert store.read_journals(replace(layout, id="0" * 32)) == {}


def test_the_data_is_durable_before_its_journal_line(created, monkeypatch):
    path, _ = created
    order = []
    real = os.fsync
    journal_bytes = store.read_layout(path).journal

    def fsync(handle):
        name = os.readlink(f"/proc/self/fd/{handle}")
        order.append("journal" if str(journal_bytes) in name else "data")
        real(handle)

    monkeypatch.setattr(writer, "COMMIT_SECONDS", 0.0)
    tiles = store.TileWriter(store.read_layout(path), "posix", ONE)
    monkeypatch.setattr(os, "fsync", fsync)
    tiles.put(0, matrix(4))
    tiles._tasks.join()
    assert order == ["data", "journal"]
    tiles.close()


def test_nothing_is_journalled_before_the_commit(created, monkeypatch):
    path, _ = created
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 1e9)
    layout = store.read_layout(path)
    tiles = store.TileWriter(layout, "posix", ONE)
    tiles.put(0, matrix(4))
    tiles._tasks.join()
    assert store.read_journals(layout) == {}
    tiles.close()
    assert set(store.read_journals(layout)) == {0}


def test_complete_files_carry_their_checksums(created):
    path, grid = created
    layout = fill(path, grid, range(grid.count))
    sums = store.read_journals(layout)
    before = path.stat().st_size
    store.mark_complete(layout, np.array([sums[k] for k in range(grid.count)], np.uint32))
    assert path.stat().st_size == before
    for journal in layout.journal.glob("*.log"):
        journal.unlink()
    layout = store.read_layout(path)
    assert layout.complete
    with store.TileReader(layout) as reader:
        assert reader.checksums == sums
        assert all(reader.intact(number) for number in range(grid.count))


def test_a_flipped_bit_is_found(created):
    path, grid = created
    layout = fill(path, grid, range(grid.count))
    with open(path, "r+b") as file:
        file.seek(layout.tiles_offset + 2 * layout.tile_bytes + 5)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    with store.TileReader(layout) as reader:
        assert [k for k in range(grid.count) if not reader.intact(k)] == [2]
        with pytest.raises(StorageError, match=r"tile 2 .* damaged"):
            reader.read(2)


def test_large_transfers_go_in_pieces(created, monkeypatch):
    path, grid = created
    monkeypatch.setattr(files, "MAX_TRANSFER", 7)
    layout = fill(path, grid, range(grid.count))
    with store.TileReader(layout) as reader:
        tile = grid.at(4)
        np.testing.assert_array_equal(reader.read(4), matrix(11)[tile.rows, tile.columns])


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "a.h5"
    store.write_arrays(path, {"x": np.ones(3)}, {})
    with pytest.raises(TypeError):
        store.write_arrays(path, {"x": np.zeros(3)}, {"bad": object()})
    np.testing.assert_array_equal(store.read_arrays(path, "x")[0], np.ones(3))
    assert list(tmp_path.iterdir()) == [path]


def test_reading_what_is_not_there_says_so(tmp_path):
    with pytest.raises(StorageError, match="missing"):
        store.read_layout(tmp_path / "missing.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(StorageError, match="text"):
        store.read_layout(tmp_path / "text.h5")
    store.write_arrays(tmp_path / "a.h5", {"x": np.ones(3)}, {"format": "other"})
    with pytest.raises(StorageError, match="no tile file"):
        store.read_layout(tmp_path / "a.h5")
    with pytest.raises(StorageError, match="failed"):
        store.read_arrays(tmp_path / "a.h5", "y")


def test_differences_name_both_values():
    lines = store.differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "d": 4})
    assert lines == [
        "b: was 2, is now 5",
        "c: was 3, is now (nothing)",
        "d: was (nothing), is now 4",
    ]


def test_differences_go_down_into_lists():
    was, now = ["relu", {"dense": {"b_std": 0.1}}, "relu"], ["relu", {"dense": {"b_std": 0.2}}]
    assert store.differences({"layers": was}, {"layers": now}) == [
        'layers[1]: was {"dense": {"b_std": 0.1}}, is now {"dense": {"b_std": 0.2}}'
    ]
    assert store.differences({"layers": was}, {"layers": was[:2]}) == [
        "layers[2]: was relu, is now (nothing)"
    ]


def test_mpio_needs_a_parallel_h5py(monkeypatch):
    monkeypatch.setattr(h5py, "get_config", lambda: SimpleNamespace(mpi=False))
    assert choose_driver("auto")[0] == "posix"
    with pytest.raises(UsageError, match="serial"):
        choose_driver("mpio")
    monkeypatch.setattr(h5py, "get_config", lambda: SimpleNamespace(mpi=True))
    assert choose_driver("auto")[0] == "mpio"
    assert choose_driver("posix")[0] == "posix"


def test_the_newest_line_counts_and_impossible_tiles_are_ignored(created):
    path, _ = created
    layout = fill(path, TriangleGrid(11, 4), [0])
    layout.journal.joinpath("99999999999999999999-1-000000.log").write_text(
        f"{0:012d} {0xABC:08x} {layout.id}\n{10**11:012d} {1:08x} {layout.id}\n"
    )
    assert store.read_journals(layout) == {0: 0xABC}


def logged(monkeypatch, log):
    """Note the order of positioned writes, fsyncs and renames."""
    real = {name: getattr(os, name) for name in ("fsync", "pwrite", "replace")}

    def fsync(handle):
        log.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        return real["fsync"](handle)

    def pwrite(handle, data, offset):
        log.append(("pwrite", offset))
        return real["pwrite"](handle, data, offset)

    def rename(source, target):
        log.append(("replace", str(target)))
        return real["replace"](source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "replace", rename)


def test_a_file_is_durable_before_its_name_and_its_name_before_the_end(tmp_path, monkeypatch):
    log = []
    logged(monkeypatch, log)
    store.write_text(tmp_path / "a.txt", "text")
    assert [what for what, _ in log] == ["fsync", "replace", "fsync"]
    assert "tmp" in log[0][1] and log[2][1] == str(tmp_path)


def test_checksums_are_durable_before_the_mark(created, monkeypatch):
    path, grid = created
    layout = fill(path, grid, range(grid.count))
    log = []
    logged(monkeypatch, log)
    store.mark_complete(layout, np.zeros(grid.count, np.uint32))
    assert log == [
        ("pwrite", layout.checksums_offset),
        ("fsync", str(path)),
        ("pwrite", layout.complete_offset),
        ("fsync", str(path)),
    ]


def test_a_replaced_tile_is_durable_before_its_checksum(created, monkeypatch):
    path, grid = created
    layout = fill(path, grid, range(grid.count))
    with store.TileReader(layout) as reader:
        sums = np.array([reader.checksums[k] for k in range(grid.count)], np.uint32)
    store.mark_complete(layout, sums)
    log = []
    logged(monkeypatch, log)
    tile = grid.at(3)
    store.replace_tile(store.read_layout(path), 3, -matrix(grid.n)[tile.rows, tile.columns])
    assert [what for what, _ in log] == ["pwrite", "fsync"] * 2
    with store.TileReader(store.read_layout(path)) as reader:
        np.testing.assert_array_equal(reader.read(3), -matrix(grid.n)[tile.rows, tile.columns])
        other = grid.at(2)
        np.testing.assert_array_equal(reader.read(2), matrix(grid.n)[other.rows, other.columns])


def test_a_journal_is_in_its_folder_before_it_is_used(created, monkeypatch):
    layout, log = store.read_layout(created[0]), []
    logged(monkeypatch, log)
    store.TileWriter(layout, "posix", ONE).close()
    assert ("fsync", str(layout.journal)) in log


def test_damaged_arrays_are_found(tmp_path):
    path = tmp_path / "a.h5"
    store.write_arrays(path, {"x": np.arange(50.0), "y/0": np.arange(3)}, {"name": "trial"})
    store.check_arrays(path)
    assert store.read_attributes(path) == {"name": "trial"}
    data = path.read_bytes()
    place = data.index(np.arange(50.0).tobytes())
    path.write_bytes(data[: place + 9] + b"\x01" + data[place + 10 :])
    for read in (lambda: store.read_arrays(path, "x"), lambda: store.check_arrays(path)):
        with pytest.raises(StorageError, match=r"x in .* damaged"):
            read()
    np.testing.assert_array_equal(store.read_arrays(path, "y/0")[0], np.arange(3))


def failing(monkeypatch, name, after=0):
    """Let a call of `os` fail as on a full disk, once it has been made `after` times."""
    real, calls = getattr(os, name), []

    def fail(*arguments):
        calls.append(threading.current_thread().name)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, name, fail)
    return calls


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_what_fails_in_the_writers_thread_is_raised_by_the_next_call(created, monkeypatch, call):
    path, grid = created
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 0.0 if call == "fsync" else 1e9)
    tiles = store.TileWriter(store.read_layout(path), "posix", ONE)
    calls = failing(monkeypatch, call)
    whole = matrix(11)

    def put_all():
        for number in range(grid.count):  # more than the queue holds: nobody waits for ever
            tile = grid.at(number)
            tiles.put(number, whole[tile.rows, tile.columns])
        tiles.close()

    with pytest.raises(StorageError, match="file system is full"):
        put_all()
    assert set(calls) == {"hpcnk-writer"}
    tiles.__exit__(StorageError, None, None)
    assert not tiles._thread.is_alive()


def test_a_failure_of_the_last_commit_closes_the_file(created, monkeypatch):
    path, _ = created
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 1e9)
    tiles = store.TileWriter(store.read_layout(path), "posix", ONE)
    closed = []
    monkeypatch.setattr(tiles._driver, "close", lambda: closed.append(True))
    failing(monkeypatch, "fsync")
    with pytest.raises(StorageError, match="full"), tiles:
        tiles.put(0, matrix(4))
    assert closed
    assert not tiles._thread.is_alive()


def test_tiles_before_a_failure_stay_and_those_after_do_not_count(created, monkeypatch):
    path, _ = created
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 0.0)
    layout = store.read_layout(path)
    tiles = store.TileWriter(layout, "posix", ONE)
    tiles.put(0, matrix(4))
    tiles.commit()
    failing(monkeypatch, "pwrite")
    with pytest.raises(StorageError, match="full"), tiles:
        tiles.put(1, matrix(4))
        tiles.put(2, matrix(4))
    assert set(store.read_journals(layout)) == {0}


def test_the_next_tile_is_computed_while_one_is_written(created, monkeypatch):
    path, _ = created
    tiles = store.TileWriter(store.read_layout(path), "posix", ONE)
    going, real = threading.Event(), os.pwrite

    def slow(*arguments):
        assert going.wait(20)
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", slow)
    for number in range(writer.HELD):  # one is written, the others wait
        tiles.put(number, matrix(4))
    late = threading.Thread(target=tiles.put, args=(5, matrix(3)))
    late.start()
    late.join(0.1)
    assert late.is_alive(), "more tiles are held than planned"
    going.set()
    late.join()
    tiles.close()
    assert set(store.read_journals(store.read_layout(path))) == {0, 1, 5}


def test_a_tile_is_committed_though_none_follows(created, monkeypatch):
    path, _ = created
    monkeypatch.setattr(writer, "COMMIT_SECONDS", 0.2)
    layout = store.read_layout(path)
    tiles = store.TileWriter(layout, "posix", ONE)
    tiles.put(0, matrix(4))
    end = time.monotonic() + 20
    while not store.read_journals(layout) and time.monotonic() < end:
        time.sleep(0.01)
    assert set(store.read_journals(layout)) == {0}
    tiles.close()


def test_the_driver_of_mpi_writes_on_the_main_thread(created, monkeypatch):
    path, _ = created
    seen = []

    class Main(DRIVERS["posix"]):
        any_thread = False

        def write(self, number, tile):
            seen.append(("write", threading.current_thread() is threading.main_thread()))
            super().write(number, tile)

        def sync(self):
            seen.append(("sync", threading.current_thread() is threading.main_thread()))
            super().sync()

    monkeypatch.setitem(DRIVERS, "main", Main)
    layout = store.read_layout(path)
    with store.TileWriter(layout, "main", ONE) as tiles:
        tiles.put(0, matrix(4))
    assert seen == [("write", True), ("sync", False)]
    assert not DRIVERS["mpio"].any_thread
    assert set(store.read_journals(layout)) == {0}


ROWS = {"x_train": 150, "x_test": 5}


def variances_of(path, positions=3, dtype="float32"):
    """A complete file of variances, and what is in it."""
    layout = store.create_variances(path, ROWS, positions, np.dtype(dtype), {"kernel.kind": "ntk"})
    rng = np.random.default_rng(0)
    parts = {
        part: (rng.random((n, positions)).astype(dtype), rng.random(n)) for part, n in ROWS.items()
    }
    with store.VariancesWriter(layout) as file:
        for part, (variances, diagonal) in parts.items():
            for start in range(0, ROWS[part], 128):  # two blocks at a time
                rows = slice(start, start + 128)
                file.put(part, start, variances[rows], diagonal[rows])
        file.sync()
    assert not store.read_variances_layout(path).complete
    store.mark_variances_complete(layout)
    return store.read_variances_layout(path), parts


@pytest.mark.parametrize("positions", [0, 3])
def test_variances_come_back(tmp_path, positions):
    layout, parts = variances_of(tmp_path / "v.h5", positions)
    assert layout.complete and layout.rows == ROWS and layout.positions == positions
    assert layout.provenance == {"kernel.kind": "ntk"} and layout.dtype == np.float32
    with store.VariancesReader(layout) as reader:
        reader.check()
        for name, start, stop in (
            ("x_train", 0, 150),
            ("x_train", 63, 65),
            ("x_train", 70, 71),
            ("x_train", 130, 150),
            ("x_test", 1, 5),
        ):
            found = reader.read(name, slice(start, stop))
            for one, whole in zip(found, parts[name], strict=True):
                np.testing.assert_array_equal(one, whole[start:stop])


@pytest.mark.parametrize("name", ["variances", "diagonal", "checksums"])
def test_damaged_variances_are_found(tmp_path, name):
    layout, _ = variances_of(tmp_path / "v.h5")
    size = {"variances": 12, "diagonal": 8, "checksums": 4 / 64}[name]
    place = layout.offsets[f"x_train/{name}"] + int(70 * size)
    data = bytearray(layout.path.read_bytes())
    data[place] ^= 1
    layout.path.write_bytes(data)
    with store.VariancesReader(layout) as reader:
        reader.read("x_train", slice(0, 64))
        reader.read("x_test", slice(0, 5))
        for read in (lambda: reader.read("x_train", slice(60, 66)), reader.check):
            with pytest.raises(StorageError, match=r"x_train .* rows from 64 on"):
                read()


def test_variances_are_durable_before_the_mark(tmp_path, monkeypatch):
    layout, _ = variances_of(tmp_path / "v.h5")
    log = []
    logged(monkeypatch, log)
    with store.VariancesWriter(layout) as file:
        file.put("x_test", 0, np.zeros((5, 3), np.float32), np.zeros(5))
        file.sync()
    store.mark_variances_complete(layout)
    assert [what for what, _ in log] == ["pwrite"] * 3 + ["fsync", "pwrite", "fsync"]
    assert log[4] == ("pwrite", layout.offsets["complete"])


def test_another_file_is_no_file_of_variances(tmp_path):
    store.write_arrays(tmp_path / "a.h5", {"x": np.ones(3)}, {})
    with pytest.raises(StorageError, match="no file of variances"):
        store.read_variances_layout(tmp_path / "a.h5")
