"""Where the tiles of a solve come from: what is chosen, what is refused, the same bits."""

import json
import shutil
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from hpcnk.comm import world
from hpcnk.deck import read_deck
from hpcnk.errors import BackendError, Stopped, StorageError, UsageError
from hpcnk.kernels import find_problems, parse
from hpcnk.run import first_reading, operators, recomputing, tile_places, watched
from hpcnk.run.first_reading import read_all
from hpcnk.run.folder import Folder
from hpcnk.run.needs import solve_memory
from hpcnk.run.operators import open_operator
from hpcnk.run.repair import repair
from hpcnk.solve import streamed
from hpcnk.store import TileReader, read_attributes, read_layout
from hpcnk.store.attributes import write_attributes
from tests.conftest import small_deck
from tests.faults.test_repair import flip
from tests.support.arrays_as_device import HostMemory
from tests.support.folders import whole
from tests.support.mpi import hpcnk

DATA = {"train": 40, "test": 12}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The output folder of a small kernel."""
    folder = tmp_path_factory.mktemp("made")
    ended = hpcnk(0, "kernel", small_deck(folder))
    assert ended.code == 0, ended.output
    return folder / "small"


@pytest.fixture
def kernel(made, tmp_path):
    """Return a function that opens a session on a copy of the kernel, with `solve` changed."""
    shutil.copytree(made, tmp_path / "small")

    def make(ridge=(0.1,), room=None, kernel=None, **solve):
        path = small_deck(tmp_path, kernel=kernel, solve={"ridge": list(ridge), **solve})
        deck, folder = read_deck(path, find_problems), Folder(tmp_path / "small")
        return Opened(deck, folder)

    return make


class Opened:
    """A session on one rank, what it said, and its kernel."""

    def __init__(self, deck, folder):
        self.said, self.reported, self.warned = [], {}, []
        self.folder, self.layout = folder, read_layout(folder.kernel)
        self.contents = read_attributes(folder.inputs)
        self.session = SimpleNamespace(
            deck=deck, folder=folder, comm=world(), architecture=parse(deck.kernel.layers),
            root=True, threads=1, say=self.said.append, update_report=self.report,
            warn=lambda stage, text: self.warned.append(text),
            watchdog=SimpleNamespace(beat=lambda: None),
            events=SimpleNamespace(write=lambda *a, **k: None),
            faults=SimpleNamespace(flip=lambda *a: None),
            stop=Stop(),
        )  # fmt: skip

    def report(self, tiles):
        self.reported = {kind: tiles[kind] for kind in tile_places.KINDS if tiles[kind]}

    def open(self):
        return open_operator(self.session, self.layout, self.contents)

    def products(self, v):
        with self.open() as operator:
            return operator.apply(v)


class Stop:
    requested = ""

    def raise_if_requested(self, comm):
        if self.requested:
            raise Stopped("stopped")

    def is_requested_of_any(self):
        return bool(self.requested)


@pytest.fixture
def room(monkeypatch):
    """Return a function that sets the bytes that a rank has for tiles."""

    def set_room(tiles_bytes):
        def needed(session):
            return tiles_bytes

        monkeypatch.setattr("hpcnk.run.operators.require_solve_memory", needed)

    return set_room


V = np.random.default_rng(0).normal(size=(44, 3))


def test_what_fits_is_resident_and_said(kernel):
    opened = kernel()
    with opened.open() as operator:
        k = whole(opened.folder.kernel).astype(float)
        np.testing.assert_allclose(operator.apply(V), k @ V, rtol=1e-12)
        np.testing.assert_array_equal(operator.diagonal(), k.diagonal())
    assert opened.reported == {"resident": 21}
    assert any("tiles: 21 of 21 resident" in line and "a rank has" in line for line in opened.said)


def test_what_does_not_fit_is_streamed(kernel, room, monkeypatch):
    monkeypatch.setattr(recomputing, "predicted_seconds", lambda *a: 1e3)
    opened = kernel()
    room(8 * opened.layout.tile_bytes + 3)
    expected = kernel(operator="resident").products(V)
    np.testing.assert_array_equal(opened.products(V), expected)
    assert opened.reported == {"resident": 8, "streamed": 13}
    assert "8 of 21 resident (2.048 kB of 2.051 kB a rank has for tiles)" in opened.said[0]
    assert "13 of 21 streamed (read at" in opened.said[1]
    assert "times as long" in opened.said[1]


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("asked", ["streamed", "recomputed"])
def test_every_source_gives_the_same_bits(kernel, asked, reproducible):
    expected = kernel(operator="resident", reproducible=reproducible).products(V)
    opened = kernel(operator=asked, reproducible=reproducible)
    np.testing.assert_array_equal(opened.products(V), expected)
    assert opened.reported == {asked: 21}


def test_memory_of_the_deck_counts(kernel, monkeypatch):
    monkeypatch.setattr(recomputing, "predicted_seconds", lambda *a: 1e3)
    opened = kernel(memory=1e-9, preconditioner="none")
    with pytest.raises(UsageError, match=r"the solve needs .* and 1 B is there"):
        opened.products(V)
    need = solve_memory.solve_memory(solve_memory.solve_job(opened.session.deck, 44, 3, 1))
    assert need.tiles == 21 * opened.layout.tile_bytes
    memory = (need.least + 10.6 * opened.layout.tile_bytes) * 1e-9
    tight = kernel(memory=memory, preconditioner="none")
    tight.products(V)
    assert tight.reported == {"resident": 10, "streamed": 11}
    forced = kernel(memory=(need.total - 1) * 1e-9, operator="resident")
    with pytest.raises(UsageError, match="for 21 tiles of 8") as caught:
        forced.products(V)
    assert "set solve.operator to auto" in caught.value.advice


# --- computing anew


@pytest.mark.parametrize("computing,kind", [(1e-9, "recomputed"), (1e9, "streamed")])
def test_the_faster_way_is_taken(kernel, room, computing, kind, monkeypatch):
    """Reading takes a second, by a clock that is set."""
    monkeypatch.setattr("hpcnk.run.operators.read_all", slow_reading())
    monkeypatch.setattr(recomputing, "_computing_seconds", lambda computed: computing)
    expected = kernel(operator="resident").products(V)
    opened = kernel()
    room(5 * opened.layout.tile_bytes)
    monkeypatch.setattr(recomputing, "_engine_bytes", lambda *a: 2 * opened.layout.tile_bytes)
    np.testing.assert_array_equal(opened.products(V), expected)
    if kind == "recomputed":
        assert opened.reported == {"resident": 3, "recomputed": 18}
        assert "times as long as reading" in opened.said[-1]
    else:
        assert opened.reported == {"resident": 5, "streamed": 16}
        assert "computing them anew takes" in opened.said[-1]


def slow_reading():
    from hpcnk.run.first_reading import read_all

    def read(*arguments):
        read_all(*arguments)
        return 1.0

    return read


def test_the_engine_is_not_started_where_it_has_no_chance(kernel, room, monkeypatch):
    monkeypatch.setattr(recomputing, "engine_of_rank", lambda session: pytest.fail("started"))
    monkeypatch.setattr(recomputing, "predicted_seconds", lambda *a: 3.1)
    monkeypatch.setattr("hpcnk.run.operators.read_all", slow_reading())
    opened = kernel()
    room(0)
    opened.products(V)
    assert opened.reported == {"streamed": 21}
    assert "predicted to take 3.1 times as long" in opened.said[0]
    monkeypatch.setattr(recomputing, "predicted_seconds", lambda *a: 2.9)
    with pytest.raises(pytest.fail.Exception, match="started"):
        kernel().products(V)


@pytest.mark.parametrize(
    "name,value,text", [("kernel.backend", "gpu", "back end gpu"), ("code", "0.1+old", "0.1+old")]
)
def test_tiles_of_another_maker_are_not_computed_here(kernel, room, name, value, text):
    opened = kernel()
    with h5py.File(opened.folder.kernel, "r+") as file:
        made = json.loads(file.attrs["provenance"])
        write_attributes(file, {"provenance": json.dumps({**made, name: value})})
    room(0)
    auto = kernel()
    auto.products(V)
    assert auto.reported == {"streamed": 21} and text in auto.said[0]
    with pytest.raises(UsageError, match="recomputed is impossible") as caught:
        kernel(operator="recomputed").products(V)
    assert text in caught.value.what


def test_predictions_are_those_of_the_plan(kernel):
    opened = kernel()
    job = solve_memory.solve_job(opened.session.deck, 44, 3, 1)
    one = recomputing.predicted_seconds(opened.session, job)
    opened.session.threads = 2
    assert one > 0 and recomputing.predicted_seconds(opened.session, job) == one / 2
    slow = recomputing.time_ratio(1.0, 0.5, job)
    assert slow > 2 and recomputing.time_ratio(0.1, 0.5, job) < 0.3
    # where products take longer than reading, computing cannot pay
    assert recomputing.time_ratio(1e-12, 1e-12, job) > 1


# --- damage, errors, signals


@pytest.mark.parametrize("held", [21, 4, 0])
def test_damaged_tiles_are_repaired_wherever_they_go(kernel, room, held):
    expected = kernel(operator="resident").products(V)
    opened = kernel()
    room(held * opened.layout.tile_bytes)
    for number in (2, 11, 20):
        flip(opened.folder.kernel, number)
    np.testing.assert_array_equal(opened.products(V), expected)
    assert "tiles 2, 11, 20 had changed on the disk" in opened.warned[0]


@pytest.mark.parametrize("cached,direct", [(None, False), (20, True), (21, False)])
def test_the_cache_is_passed_by_where_it_has_no_room(kernel, monkeypatch, cached, direct):
    opened, asked = kernel(operator="streamed"), []
    room = cached and cached * opened.layout.tile_bytes
    monkeypatch.setattr(operators, "cache_share", lambda session, job: room)

    def reader(layout, direct):
        asked.append(direct)
        return TileReader(layout, direct)

    monkeypatch.setattr(operators, "TileReader", reader)
    opened.products(V)
    assert asked == [direct] and opened.reported == {"streamed": 21}


def test_a_tile_that_changes_later_ends_the_solve(kernel):
    opened = kernel(operator="streamed")
    with opened.open() as operator:
        operator.apply(V)
        flip(opened.folder.kernel, 7)
        with pytest.raises(StorageError, match=r"tile 7 .* changed during the solve") as caught:
            operator.apply(V)
    assert "start the same command again" in caught.value.advice


@pytest.mark.parametrize("asked", ["resident", "streamed", "recomputed"])
def test_a_signal_ends_a_long_pass(kernel, asked, monkeypatch):
    opened = kernel(operator=asked)
    with opened.open() as operator:
        opened.session.stop.requested = "SIGTERM"
        operator.apply(V)  # short: it goes on to its end
        monkeypatch.setattr(watched, "PATIENCE", 0.0)
        for method, arguments in (("apply", [V]), ("columns", [np.array([3])]), ("diagonal", [])):
            with pytest.raises(Stopped, match="within a pass"):
                getattr(operator, method)(*arguments)


def test_a_signal_ends_the_first_reading(kernel):
    opened = kernel()
    opened.session.stop.requested = "SIGTERM"
    with pytest.raises(Stopped):
        opened.products(V)


def test_a_tile_that_is_read_first_stays_until_the_next_is_asked_for(kernel, monkeypatch):
    monkeypatch.setattr(streamed, "AHEAD_BYTES", 0)  # the ring of buffers comes round
    opened, seen = kernel(), []
    expected = whole(opened.folder.kernel)

    def slowly(tile, entries):
        time.sleep(0.01)  # readers that may overwrite it have time to do so
        np.testing.assert_array_equal(entries, expected[tile.rows, tile.columns])
        seen.append(tile.number)

    numbers = list(range(opened.layout.grid.count))
    read_all(opened.session, opened.layout, opened.contents, numbers, slowly)
    assert seen == numbers


def test_the_seconds_of_a_tile_are_those_of_the_first_reading(kernel, monkeypatch):
    """What a repair takes would speak against streaming."""
    opened, clock = kernel(), [5.0]
    numbers = list(range(opened.layout.grid.count))
    flip(opened.folder.kernel, 2)

    def slow_repair(*arguments):
        clock[0] += 1e4
        return repair(*arguments)

    def take(tile, entries):
        clock[0] += 1.0

    monkeypatch.setattr(first_reading, "repair", slow_repair)
    monkeypatch.setattr(first_reading, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    seconds = read_all(opened.session, opened.layout, opened.contents, numbers, take)
    assert opened.warned and seconds == (len(numbers) - 1) / len(numbers)


# --- a GPU


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that puts NumPy in place of a GPU with room for so many tiles."""

    def put(tiles, layout):
        free = (tiles + 0.5) * layout.tile_bytes + tile_places.pass_bytes(44, layout.grid.tile, 3)
        memory = HostMemory(int(free / tile_places.SPARE) + 1)
        monkeypatch.setattr(tile_places, "device_memory", lambda number: memory)
        monkeypatch.setattr(tile_places, "device_problem", lambda: "")
        monkeypatch.setattr(tile_places, "require_device", lambda *asked: None)

    return put


def test_a_gpu_is_filled_first(kernel, room, gpu, monkeypatch):
    monkeypatch.setattr(recomputing, "predicted_seconds", lambda *a: 1e3)
    expected = kernel(operator="resident").products(V)
    opened = kernel()
    gpu(9, opened.layout)
    room(7 * opened.layout.tile_bytes)
    np.testing.assert_allclose(opened.products(V), expected, rtol=1e-12, atol=1e-13)
    assert opened.reported == {"gpu": 9, "resident": 7, "streamed": 5}
    assert "9 of 21 in the memory of GPUs" in opened.said[0]


def test_a_gpu_that_is_asked_for_must_hold_all(kernel, gpu):
    opened = kernel(operator="gpu")
    gpu(20, opened.layout)
    with pytest.raises(UsageError, match=r"21 tiles take 5.376 kB a rank"):
        opened.products(V)
    gpu(21, opened.layout)
    opened.products(V)
    assert opened.reported == {"gpu": 21}


def test_a_gpu_does_not_go_with_reproducible_sums(kernel, gpu):
    gpu(21, kernel().layout)
    auto = kernel(reproducible=True)
    auto.products(V)
    assert auto.reported == {"resident": 21}


def test_a_gpu_that_is_not_there_is_refused(kernel):
    from hpcnk.engine import device_problem

    if not device_problem():
        pytest.skip("there is one")
    with pytest.raises(BackendError, match="operator gpu: "):
        kernel(operator="gpu").products(V)


def test_a_deck_for_the_cpu_leaves_the_gpu_alone(kernel, gpu):
    opened = kernel(kernel={"backend": "cpu"})
    gpu(21, opened.layout)
    opened.products(V)
    assert opened.reported == {"resident": 21}
