"""A job on two hosts: the same bytes as on one, and nobody left when one is cut off."""

import json
import time

import h5py
import numpy as np
import pytest

from tests.conftest import small_deck
from tests.faults.test_kill import LONG
from tests.hosts.network import NOTICED
from tests.support.folders import digest, finished, predictions
from tests.support.mpi import hpcnk

DRIVERS = ("posix", "mpio") if h5py.get_config().mpi else ("posix",)
GONE = NOTICED + 15  # seconds after the cut in which no process may be left; busy machines are slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the data and a finished run on one host."""
    folder = tmp_path_factory.mktemp("hosts")
    ended = hpcnk(2, "run", deck_of(folder, "whole", DRIVERS[0]))
    assert ended.code == 0, ended.output
    return folder


def deck_of(folder, name, driver):
    """A deck on images enough for a kernel phase of a few seconds."""
    path = folder / "images.npz"
    if not path.exists():
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(60, 16, 16, 1)), rng.integers(0, 2, 60)
        np.savez(path, x_train=x[:52], y_train=y[:52], x_test=x[52:], y_test=y[52:])
    data = {"path": str(path)}
    return small_deck(folder, name, data=data, kernel=LONG, store={"driver": driver})


def iterations(folder):
    """How many passes of the solver the log tells of."""
    path = folder / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(json.loads(line)["event"] == "iteration" for line in lines)


def same(folder, name):
    """Whether a run's kernel and its predictions are those of the run on one host."""
    assert digest(folder / name) == digest(folder / "whole")
    found, whole = predictions(folder / name)[0], predictions(folder / "whole")[0]
    np.testing.assert_allclose(found, whole, atol=1e-6)


def wait_for(job, ready):
    while job.process.poll() is None and not ready():
        time.sleep(0.05)
    assert job.process.poll() is None, job.wait().output


def cut_and_wait(hosts, job):
    """Pull the cable; return how the job ended, in time and everywhere."""
    hosts.cut()
    start = time.monotonic()
    left = hosts.wait_empty(GONE)
    seconds = time.monotonic() - start
    assert not left, [process.cmdline() for process in left]
    print(f"all gone {seconds:.1f} s after the cut")
    ended = job.wait()
    assert ended.code not in (0, 75), ended.output
    hosts.join()
    return ended


@pytest.mark.parametrize("driver", DRIVERS)
def test_cut_off_while_tiles_are_computed(hosts, folder, driver):
    name = f"kernel-{driver}"
    deck = deck_of(folder, name, driver)
    hang = {"HPCNK_FAULT": "rank=3,phase=kernel,after=2,what=hang"}  # so that it does not end
    job = hosts.start("run", deck, environment=hang)
    wait_for(job, lambda: finished(folder / name / "kernel.h5"))
    cut_and_wait(hosts, job)
    before = finished(folder / name / "kernel.h5")
    assert before
    ended = hosts.start("run", deck).wait()
    assert ended.code == 0, ended.output
    assert "on 4 ranks" in ended.output and "tiles are there, resuming" in ended.output
    assert "on host-a, started" in ended.output and ") died" in ended.output, ended.output
    same(folder, name)


def test_cut_off_in_the_middle_of_the_solve(hosts, folder):
    deck = deck_of(folder, "solve", DRIVERS[-1])
    hang = {"HPCNK_FAULT": "rank=3,phase=solve,after=2,what=hang"}  # so that it does not end
    job = hosts.start("run", deck, environment=hang)
    wait_for(job, lambda: iterations(folder / "solve") >= 2)
    cut_and_wait(hosts, job)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and "kernel: complete already" in ended.output, ended.output
    same(folder, "solve")


def test_a_folder_that_the_other_host_does_not_have(hosts, tmp_path):
    (tmp_path / "local").mkdir()
    deck = small_deck(tmp_path)
    text = deck.read_text().replace(str(tmp_path / "small"), str(tmp_path / "local" / "run"))
    deck.write_text(text)
    hide = f"mount -t tmpfs hpcnk-test {tmp_path / 'local'}"
    ended = hosts.start("run", deck, prepare=hide).wait()
    assert ended.code == 74, ended.output
    path = tmp_path / "local" / "run" / "lock"
    told = f"rank 2 on host-b does not see {path}, which rank 0 on host-a has just written"
    assert ended.output.count(told) == 1, ended.output
    assert "Traceback" not in ended.output
