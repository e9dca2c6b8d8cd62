"""When the watchdog ends a job, and when it does not."""

import faulthandler
import threading
import time

import pytest

from hpcnk.run.guard import watchdog
from hpcnk.run.guard.heartbeat import LINE_BYTES, Heartbeats, Sign, create_heartbeats
from hpcnk.run.guard.watchdog import LOOKS, QUIET, TIMER, Watchdog, open_watchdog

LOOK = 0.02  # seconds
MINUTES = LOOK / 60 * LOOKS


class Alone:
    """A communicator of one rank."""

    rank, size = 0, 1


@pytest.fixture
def timers(monkeypatch):
    """The times that the second line of defence is set to; it is not set."""
    found = []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda seconds, exit, file: found.append(seconds)
    )
    return found


@pytest.fixture
def signs(tmp_path):
    """Signs of a run of three ranks, as each of them sees them."""
    run = create_heartbeats(tmp_path / "heartbeat", 3)
    return [Heartbeats(tmp_path / "heartbeat", run, rank, 3) for rank in range(3)]


class Ended(threading.Event):
    """Takes the message of a watchdog that ends the job."""

    message = ""

    def __call__(self, message):
        self.message = message
        self.set()


@pytest.fixture
def watched(signs, tmp_path, timers, monkeypatch):
    """The watchdog of rank 1, and its end."""
    monkeypatch.setattr(watchdog, "GRACE", 0.1)
    ended = Ended()
    return Watchdog(MINUTES, signs[1], tmp_path / "stacks", ended), ended


def test_signs_are_read_as_they_were_shown(signs):
    assert signs[0].read() == [None, None, None]
    signs[2].show(Sign(12, "kernel"))
    signs[0].show(Sign(10**11, "a phase with a long name", stalled=True))
    for one in signs:
        assert one.read() == [Sign(10**11, "a phase with", stalled=True), None, Sign(12, "kernel")]
    signs[2].show(Sign(13, "solve"))
    assert signs[1].read()[2] == Sign(13, "solve")
    assert signs[0].path.stat().st_size == 3 * LINE_BYTES


def test_signs_of_another_run_and_damaged_ones_count_as_none(signs):
    for one in signs:
        one.show(Sign(1, "kernel", stalled=True))
    later = Heartbeats(signs[0].path, "20990101-000000-0000", 0, 4)
    assert later.read() == [None] * 4
    later.show(Sign(2, "kernel"))
    assert later.read() == [Sign(2, "kernel"), None, None, None]
    with open(later.path, "r+b") as file:
        file.write(b"\xff\x00\n")
    assert later.read() == [None] * 4


def test_a_disk_that_fails_is_no_error(signs, tmp_path):
    signs[0].remove()
    signs[0].remove()
    signs[1].show(Sign(1, "kernel"))
    assert signs[1].read() == [None, None, None] and not signs[1].path.exists()


def test_a_stall_ends_the_job(watched, signs, tmp_path, timers):
    dog, ended = watched
    with dog:
        dog.enter("kernel")
        assert ended.wait(30)
    looks = len(timers) - 2  # for it is set at the start and at the end too
    assert looks > QUIET
    assert "no progress on any of 3 rank(s)" in ended.message and "phase kernel" in ended.message
    assert "rank(s) 0, 2 did not answer" in ended.message
    (written,) = (tmp_path / "stacks").rglob("*.txt")
    assert written.name == "rank-000001.txt"
    text = written.read_text()
    assert text.index("thread MainThread") < text.index("thread hpcnk-watchdog")
    assert "test_a_stall_ends_the_job" in text
    assert signs[0].read() == [None, Sign(1, "kernel", stalled=True), None]


def test_own_beats_are_progress(watched):
    dog, ended = watched
    with dog:
        for _ in range(2 * QUIET):
            dog.beat()
            assert not ended.wait(LOOK)


def test_others_beats_are_progress(watched, signs):
    dog, ended = watched
    with dog:
        for beats in range(2 * QUIET):
            signs[2].show(Sign(beats, "kernel"))
            assert not ended.wait(LOOK)
        assert ended.wait(30)


def test_anothers_stall_ends_the_job(watched, signs):
    dog, ended = watched
    with dog:
        dog.beat()
        signs[0].show(Sign(1, "solve", stalled=True))
        signs[2].show(Sign(1, "solve", stalled=True))
        while not ended.wait(LOOK / 2):
            dog.beat()
    assert "did not answer" not in ended.message


def test_a_disk_that_comes_and_goes_is_no_progress(watched, signs):
    dog, ended = watched
    signs[0].show(Sign(1, "kernel"))
    hidden = signs[0].path.with_name("hidden")
    with dog:
        for _ in range(500):
            signs[0].path.rename(hidden)
            if ended.wait(1.5 * LOOK):
                break
            hidden.rename(signs[0].path)
            if ended.wait(1.5 * LOOK):
                break
    assert ended.is_set()


def test_time_without_looks_does_not_count(watched, monkeypatch):
    """As when all processes of a job are suspended."""
    dog, ended = watched
    pauses = iter([2 * QUIET * LOOK])
    sound = Heartbeats.show

    def show(self, sign):
        time.sleep(next(pauses, 0))
        sound(self, sign)

    monkeypatch.setattr(Heartbeats, "show", show)
    start = time.monotonic()
    with dog:
        assert ended.wait(30)
    assert time.monotonic() - start >= 3 * QUIET * LOOK


def test_the_timer_is_set_at_every_look_and_taken_away(watched, timers, monkeypatch):
    cancelled = []
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: cancelled.append(1))
    dog, ended = watched
    with dog:
        for _ in range(50):
            dog.beat()
            time.sleep(LOOK / 2)
    assert len(timers) > 5 and timers == pytest.approx([TIMER * LOOK] * len(timers))
    assert cancelled and not ended.is_set()
    count = len(timers)
    time.sleep(0.1)
    assert len(timers) == count


def test_rank_0_removes_the_file_at_the_end(signs, tmp_path, timers):
    for rank in (1, 0):
        with Watchdog(MINUTES, signs[rank], tmp_path, Ended()):
            pass
        assert signs[0].path.exists() == (rank == 1)


def test_none_does_nothing(tmp_path, timers):
    before = threading.active_count()
    with open_watchdog(None, tmp_path, Alone()) as dog:
        dog.enter("kernel")
        dog.beat()
        assert threading.active_count() == before
    assert not timers and not list(tmp_path.iterdir())


def test_a_long_list_of_silent_ranks_is_cut(tmp_path, timers, monkeypatch):
    monkeypatch.setattr(watchdog, "GRACE", 0.1)
    run = create_heartbeats(tmp_path / "heartbeat", 500)
    ended = Ended()
    with Watchdog(MINUTES, Heartbeats(tmp_path / "heartbeat", run, 0, 500), tmp_path, ended):
        assert ended.wait(30)
    assert "rank(s) 1, 2, 3, 4, 5, 6, 7, 8 and 491 more did not answer" in ended.message
