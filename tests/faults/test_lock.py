"""Two runs on one output folder, and what a dead one leaves."""

import re
import signal
import socket
import sys
import time
from datetime import datetime

import numpy as np
import pytest

from hpcnk.run.guard import lock
from hpcnk.run.guard.lock import FolderLock, read_holder, running_holder
from tests.conftest import small_deck
from tests.faults.test_kill import LONG
from tests.support.folders import report
from tests.support.hold import hold, release
from tests.support.mpi import HPCNK, Job, hpcnk

TOLD = r"process (\d+) on (\S+), started (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d)"

# A run that waits no longer than it must, on a file system without locks if it is told so.
SCRIPT = """
import errno, fcntl, sys
from hpcnk.run.guard import lock
lock.PATIENCE = 0.5
if sys.argv[1] == "without locks":
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
from hpcnk.cli import main
sys.exit(main(["run", sys.argv[2]]))
"""
LOCKS = ("with locks", "without locks")


def start(locks, deck, ranks=2):
    return Job(ranks, [sys.executable, "-c", SCRIPT, locks, deck])


@pytest.fixture
def deck(tmp_path):
    """A deck whose kernel takes long enough to stop it in the middle."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(70, 16, 16, 1)), rng.integers(0, 2, 70)
    path = tmp_path / "images.npz"
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return small_deck(tmp_path, data={"path": str(path)}, kernel=LONG)


@pytest.mark.parametrize("locks", LOCKS)
def test_the_second_run_is_refused_and_told_of_the_first(deck, tmp_path, locks):
    folder = tmp_path / "small"
    first = start(locks, deck)
    ranks = hold(first, folder / "kernel.h5")
    try:
        second = start(locks, deck).wait()
        held = running_holder(folder)
    finally:
        first.kill()
        first.wait()
    assert second.code == 2, second.output
    told = re.search(rf"another run is at work in {folder}: {TOLD}", second.output)
    assert told, second.output
    assert int(told[1]) in [rank.pid for rank in ranks] and told[2] == socket.gethostname()
    age = time.time() - datetime.fromisoformat(told[3]).timestamp()
    assert 0 < age < 60, told[3]
    if locks == "with locks":
        assert held in second.output
    assert not running_holder(folder)


@pytest.mark.parametrize("locks", LOCKS)
def test_a_dead_run_is_recognised(deck, tmp_path, locks):
    folder = tmp_path / "small"
    first = start(locks, deck)
    hold(first, folder / "kernel.h5")
    first.kill()
    first.wait()
    left = read_holder(folder / "lock").told
    assert re.fullmatch(TOLD, left)
    second = start(locks, deck, ranks=1).wait()
    assert second.code == 0, second.output
    assert f"the last run here ({left}) died; going on" in second.output
    assert "tiles are there, resuming" in second.output
    warned = " ".join(report(folder)["warnings"]["start"])
    assert ("no locks that all hosts see" in warned) == (locks == "without locks"), warned
    assert "died" not in warned
    assert (folder / "lock").read_bytes() == b""
    third = hpcnk(1, "run", deck)
    assert third.code == 0 and "the last run here" not in third.output, third.output


def test_a_run_that_was_stopped_has_not_died(deck, tmp_path):
    first = Job(1, [*HPCNK, "kernel", deck])
    (rank,) = hold(first, tmp_path / "small" / "kernel.h5")
    rank.send_signal(signal.SIGTERM)
    release([rank])
    ended = first.wait()
    assert ended.code == 75, ended.output
    again = hpcnk(2, "run", deck)
    assert again.code == 0 and "the last run here" not in again.output, again.output


def test_without_locks_a_run_on_another_host_counts_as_alive(write_deck, tmp_path):
    deck, folder = write_deck(), tmp_path / "small"
    folder.mkdir()
    text = "process 12 on elsewhere, started 2026-01-31T12:00:00+01:00"
    (folder / "lock").write_text(f"{text}\nanother-boot pid:[1] process 12 start 345\n")
    ended = start("without locks", deck).wait()
    assert ended.code == 2 and text in ended.output, ended.output
    assert f"remove {folder / 'lock'} and start again" in ended.output
    assert not (folder / "kernel.h5").exists()
    (folder / "lock").unlink()  # as the message says
    assert start("without locks", deck).wait().code == 0
    (folder / "lock").write_text(text)
    ended = start("with locks", deck).wait()  # there it cannot hold the lock any more
    assert ended.code == 0 and f"({text}) died" in ended.output, ended.output


def test_of_two_that_start_at_once_without_locks_the_last_writer_goes_on(tmp_path, monkeypatch):
    def overtaken(seconds):
        (tmp_path / "lock").write_text("process 12 on elsewhere, started now\n")

    monkeypatch.setattr(FolderLock, "_lock", lambda self: False)
    monkeypatch.setattr(lock.time, "sleep", overtaken)
    with pytest.raises(lock.UsageError, match="process 12 on elsewhere"):
        FolderLock(tmp_path).acquire()


def test_locks_that_other_hosts_do_not_see(tmp_path, monkeypatch):
    local = lock.file_system(tmp_path)
    local = type(local)(local.mount, "lustre", frozenset({"rw", "localflock"}))
    monkeypatch.setattr(lock, "file_system", lambda path: local)
    (tmp_path / "lock").write_text("process 12 on elsewhere, started now\nanother host\n")
    with pytest.raises(lock.UsageError, match="process 12 on elsewhere"):
        FolderLock(tmp_path).acquire()
    assert running_holder(tmp_path) == "process 12 on elsewhere, started now"


def test_a_number_that_another_process_has_now_is_not_the_holder():
    mine = lock._this_process()
    assert not mine.is_gone
    first, _, ticks = mine.process.rpartition(" ")
    assert lock.Holder("", f"{first} {int(ticks) - 1}").is_gone
    place = mine.process.partition(" process ")[0]
    assert lock.Holder("", f"{place} process 99999999 start 1").is_gone
    assert not lock.Holder("", f"x{place} process 99999999 start 1").is_gone
    assert not lock.Holder("", "").is_gone
