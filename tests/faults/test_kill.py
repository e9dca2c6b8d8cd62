"""SIGKILL at random moments: nothing that was finished is lost, and the end is the same."""

import shutil

import numpy as np
import pytest

from tests.support.folders import finished, tiles
from tests.support.hold import hold, release
from tests.support.kill_loop import kill_loop
from tests.support.mpi import HPCNK, Job, hpcnk, launch

KILLS = 6  # of the 100 and more that `bash tools/faults.sh` takes
LAYERS = [{"conv": {"filter": 3}}, "relu", {"conv": {"filter": 3}}, "relu", "global_avg_pool"]
KERNEL = {"layers": LAYERS, "kind": "nngp", "dtype": "float32", "tile": 5}
LONG = {**KERNEL, "layers": [*[{"conv": {"filter": 3}}, "relu"] * 8, "global_avg_pool"]}


@pytest.fixture
def data(tmp_path):
    """Images enough for a kernel phase of some seconds with LONG."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 16, 16, 1))
    y = rng.integers(0, 2, 80)
    path = tmp_path / "images.npz"
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return {"path": str(path)}


@pytest.mark.timeout(600)
def test_a_loop_of_kills_changes_nothing(tmp_path):
    found = kill_loop(tmp_path, KILLS, seed=0)
    assert not found.problems, found
    assert {"kernel", "solve", "predict"} <= set(found.kills), found.kills
    assert found.ends


@pytest.mark.parametrize("ranks,signalled", [(1, 1), (2, 2), (2, 1)])
def test_a_signal_stops_cleanly_and_the_run_resumes(write_deck, tmp_path, data, ranks, signalled):
    import signal

    deck = write_deck("stopped", data=data, kernel=LONG)
    job = Job(ranks, [*HPCNK, "kernel", deck])
    path = tmp_path / "stopped" / "kernel.h5"
    held = hold(job, path)
    for rank in held[:signalled]:
        rank.send_signal(signal.SIGUSR1)
    release(held)
    ended = job.wait()
    assert ended.code == 75, ended.output
    assert "resume" in ended.output
    done = len(finished(path))
    assert 0 < done < len(tiles(path))
    again = hpcnk(3, "run", deck)
    assert again.code == 0, again.output
    assert f"{done} of {len(tiles(path))} tiles are there, resuming" in again.output


def test_a_signal_to_one_rank_stops_the_others_in_the_kernel_phase(write_deck, tmp_path, data):
    """The other rank does not compute all of its share first."""
    deck = write_deck("stopped", data=data, kernel=LONG)
    fault = {"HPCNK_FAULT": "rank=1,phase=kernel,after=3,what=sigterm"}
    ended = hpcnk(2, "kernel", deck, environment=fault)
    assert ended.code == 75, ended.output
    path = tmp_path / "stopped" / "kernel.h5"
    assert len(finished(path)) < len(tiles(path)) / 4
    assert hpcnk(2, "kernel", deck).code == 0  # the word to stop does not outlive the run


def test_a_job_goes_on_when_nobody_reads_what_it_says(write_deck, tmp_path, data):
    deck = write_deck("mute", data=data, kernel=KERNEL)
    line = f"{HPCNK[0]} -m hpcnk run {deck} > >(head -n 1)"
    ended = launch(2, ["bash", "-c", line])
    assert ended.code == 0 and "Traceback" not in ended.output, ended.output
    shutil.rmtree(tmp_path / "mute")
    ended = launch(0, ["bash", "-c", f"{HPCNK[0]} -m hpcnk run {deck} > /dev/full"])
    assert ended.code == 0 and "Traceback" not in ended.output, ended.output


def test_status_while_the_job_runs(write_deck, tmp_path, data):
    deck = write_deck("watched", data=data, kernel=LONG)
    job = Job(2, [*HPCNK, "run", deck])
    path = tmp_path / "watched" / "kernel.h5"
    held = hold(job, path)
    status = hpcnk(0, "status", tmp_path / "watched")
    release(held)
    assert status.code == 0, status.output
    assert "kernel.h5: " in status.output and "solve: not yet" in status.output
    assert "at work: process " in status.output
    assert job.wait().code == 0
    assert "kernel.h5: complete" in hpcnk(0, "status", tmp_path / "watched").output
