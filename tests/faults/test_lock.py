"""Two runs on one output folder."""

import fcntl

from tests.support.mpi import hpcnk


def test_the_second_run_is_refused_and_told_of_the_first(write_deck, tmp_path):
    deck = write_deck()
    assert hpcnk(2, "run", deck).code == 0
    with open(tmp_path / "small" / "lock") as lock:
        first = lock.read()
        assert "process" in first and "started" in first
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = hpcnk(2, "run", deck)
    assert ended.code == 2, ended.output
    assert "another run is at work" in ended.output and first in ended.output
    assert hpcnk(2, "run", deck).code == 0, "a lock whose holder is gone is no lock"
