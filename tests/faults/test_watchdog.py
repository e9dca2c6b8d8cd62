"""Jobs that stand still are ended with all stacks, and go on when started again."""

import json
import sys

import numpy as np
import pytest
import yaml

from hpcnk.run.guard.heartbeat import Heartbeats, Sign, create_heartbeats
from tests.support.folders import digest, edit, predictions
from tests.support.hold import hold, release
from tests.support.mpi import HPCNK, Job, hpcnk, launch

MINUTES = 0.04


@pytest.fixture
def watched_deck(write_deck):
    """Return a function that writes a small deck with a watchdog."""

    def write(minutes=MINUTES, **sections):
        deck = write_deck(**sections)
        content = yaml.safe_load(deck.read_text())
        watchdog = "none" if minutes is None else {"minutes": minutes}
        deck.write_text(yaml.safe_dump({**content, "watchdog": watchdog}))
        return deck

    return write


def images(folder, train, test):
    """Write data that take the engine a while."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(train + test, 16, 16, 1))
    y = np.arange(train + test) % 2
    path = folder / "images.npz"
    np.savez(path, x_train=x[:train], y_train=y[:train], x_test=x[train:], y_test=y[train:])
    return {"path": str(path)}


def stacks(folder):
    """What every rank has written down, by file name."""
    (written,) = (folder / "stacks").iterdir()
    return {path.name: path.read_text() for path in sorted(written.iterdir())}


def assert_resumes(ranks, deck, folder, whole):
    """Start the job again on so many ranks, in its own time; it must end as an unbroken one."""
    edit(deck, "watchdog", minutes=10)
    ended = hpcnk(ranks, "run", deck)
    assert ended.code == 0, ended.output
    assert digest(folder) == digest(whole)
    np.testing.assert_allclose(predictions(folder)[0], predictions(whole)[0], atol=1e-6)
    assert not (folder / "heartbeat").exists()


@pytest.mark.parametrize(
    "ranks,victim,phase,kind,after",
    [
        (0, 0, "solve", "posix", 2),
        (2, 1, "solve", "mpio", 2),
        (3, 0, "kernel", "mpio", 2),
        (3, 1, "predict", "posix", 2),
    ],
)
def test_a_hang_ends_the_job(
    ranks, victim, phase, kind, after, watched_deck, tmp_path, finished_run
):
    import h5py

    if kind == "mpio" and not h5py.get_config().mpi:
        pytest.skip("h5py is a serial build: no mpio driver here")
    deck, folder = watched_deck(store={"driver": kind}), tmp_path / "small"
    fault = f"rank={victim},phase={phase},after={after},what=hang"
    ended = hpcnk(ranks, "run", deck, environment={"HPCNK_FAULT": fault})
    assert ended.code == 1, ended.output
    count = max(1, ranks)
    assert ended.output.count("no progress on any of") == 1, ended.output
    assert f"any of {count} rank(s)" in ended.output and f"in the phase {phase}" in ended.output
    assert "start the same command again" in ended.output and "did not answer" not in ended.output
    written = stacks(folder)
    assert list(written) == [f"rank-{rank:06d}.txt" for rank in range(count)]
    for rank, text in enumerate(written.values()):
        assert "thread MainThread" in text and "thread hpcnk-watchdog" in text
        assert ("faults.py" in text) == (rank == victim), text
    assert_resumes(5 - count if ranks else 2, deck, folder, finished_run)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_suspended_ends_the_job(victim, watched_deck, tmp_path):
    layers = [*[{"conv": {"filter": 3}}, "relu"] * 6, "global_avg_pool"]
    kernel = {"layers": layers, "kind": "nngp", "tile": 5}
    deck = watched_deck(data=images(tmp_path, 80, 5), kernel=kernel)
    job, folder = Job(2, [*HPCNK, "kernel", deck]), tmp_path / "small"
    held = hold(job, folder / "kernel.h5")
    release([held[1 - victim]])
    ended = job.wait()
    assert ended.code == 1, ended.output
    (silent,) = {"rank(s) 0 did not answer", "rank(s) 1 did not answer"} & {
        line.strip().split(":")[0] for line in ended.output.split("\n")
    }
    # The other one may write its own too, when the launcher wakes it to end it.
    assert f"rank-{1 - int(silent[8]):06d}.txt" in stacks(folder)


HOLDING = """
import ctypes, sys
from hpcnk.run.session import Session
sound = Session.enter
def enter(session, stage):
    sound(session, stage)
    if stage == "solve" and session.comm.rank == session.comm.size - 1:
        ctypes.PyDLL(None).pause()
Session.enter = enter
from hpcnk.cli import main
sys.exit(main(["run", sys.argv[1]]))
"""


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_call_that_keeps_the_interpreters_lock_ends_the_job(
    ranks, watched_deck, tmp_path, finished_run
):
    deck, folder = watched_deck(), tmp_path / "small"
    ended = launch(ranks, [sys.executable, "-c", HOLDING, deck])
    assert ended.code == 1, ended.output
    assert "Timeout" in ended.output and "in enter" in ended.output  # the second line of defence
    if ranks:
        assert list(stacks(folder)) == ["rank-000000.txt"]
        assert_resumes(3, deck, folder, finished_run)


SLOW = """
import sys, time
from hpcnk.engine import host
from hpcnk.run.guard.watchdog import Watchdog
sound = host.for_each
def slowly(work, tasks, threads, beat):
    if work.__name__ != "compute":
        return sound(work, tasks, threads, beat)
    host.for_each, tasks = sound, list(tasks)
    def slow(task):
        time.sleep(5.0 / len(tasks))
        work(task)
    sound(slow, tasks, threads, beat)
host.for_each = slowly
if sys.argv[2] == "deaf":
    Watchdog.beat = lambda self: None
from hpcnk.cli import main
sys.exit(main(["kernel", sys.argv[1]]))
"""


@pytest.mark.parametrize("ranks,hears", [(2, True), (2, False)])
def test_a_long_tile_is_progress_on_all_ranks(ranks, hears, watched_deck, tmp_path):
    """The first tile takes twice the time limit, and the other rank waits for it."""
    kernel = {"layers": [{"conv": {"filter": 3}}, "relu", "flatten"], "tile": 320}
    deck = watched_deck(data=images(tmp_path, 320, 1), kernel=kernel)
    ended = launch(ranks, [sys.executable, "-c", SLOW, deck, "hears" if hears else "deaf"])
    assert ended.code == (0 if hears else 1), ended.output
    assert ("no progress" in ended.output) != hears


def test_it_leaves_nothing_and_changes_nothing(done, watched_deck):
    _, folder = done
    assert not (folder / "heartbeat").exists() and not (folder / "stacks").exists()
    wanted = digest(folder)
    for minutes in (60, None):
        ended = hpcnk(2, "run", watched_deck(minutes))
        assert ended.code == 0 and "kernel: complete already" in ended.output, ended.output
        assert not (folder / "heartbeat").exists()
    assert digest(folder) == wanted
    assert json.loads((folder / "report.json").read_text())["warnings"]["kernel"] == []


def test_a_stop_by_a_signal_leaves_no_heartbeat(watched_deck, tmp_path):
    deck = watched_deck()
    fault = {"HPCNK_FAULT": "rank=1,phase=kernel,after=1,what=sigusr1"}
    ended = hpcnk(2, "kernel", deck, environment=fault)
    assert ended.code == 75, ended.output
    assert not (tmp_path / "small" / "heartbeat").exists()


def test_signs_of_an_earlier_run_do_not_end_the_next(watched_deck, tmp_path, finished_run):
    folder = tmp_path / "small"
    folder.mkdir()
    path = folder / "heartbeat"
    earlier = create_heartbeats(path, 3)
    for rank in range(3):
        Heartbeats(path, earlier, rank, 3).show(Sign(7, "kernel", stalled=True))
    assert_resumes(2, watched_deck(), folder, finished_run)
