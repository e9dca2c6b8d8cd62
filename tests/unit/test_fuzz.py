"""A little of tools/fuzz.py, with a fixed seed: damaged files are read or refused, on all readers.

Those of HDF5 files are tried in processes of their own, for damage could end the process.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from hpcnk.errors import StorageError
from tools import fuzz
from tools.fuzzing import mutations, worker
from tools.fuzzing.targets import TARGETS, Target

ROOT = Path(__file__).parents[2]
IN_PROCESS = ("deck", "npz", "cifar10-binary", "cifar10-python", "journal", "report")
OWN_FILES = ("tiles", "arrays", "variances")


@pytest.mark.parametrize("name", IN_PROCESS)
def test_damaged_files_are_read_or_refused(tmp_path, name):
    tally = worker.run(name, "11", 0, 60, 100.0, tmp_path)
    assert tally.fallen == []
    assert tally.tried == 60 and tally.refused + tally.read == 60
    assert tally.refused or name == "journal"  # damaged lines are ignored


def test_damaged_files_of_our_own_neither_crash_nor_hang():
    command = [sys.executable, "tools/fuzz.py", "--seed", "11", "--count", "100", *OWN_FILES]
    done = subprocess.run(
        [*command, "--seconds", "200"], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [(row[0], row[1]) for row in rows] == [(name, "100") for name in OWN_FILES]
    assert all(int(row[3]) > 20 for row in rows)


@pytest.mark.parametrize("name", [*TARGETS])
def test_a_seed_repeats_its_damage(name):
    sound = b"PK\3\4 name: a, HEAP TREE ndarray \x89HDF {x: [1, 2]}" * 9
    mutate = TARGETS[name].mutate if name != "npz" else mutations.anywhere
    results = [[mutate(bytearray(sound), Random(f"{i}")) for i in range(30)] for _ in range(2)]
    assert results[0] == results[1]
    assert len({sound, *results[0]}) > 20


def _sound(folder):
    (folder / "a").write_bytes(bytes(100))
    return [folder / "a"]


def test_what_falls_out_is_kept_once(tmp_path, monkeypatch):
    def read(folder):
        if any((folder / "a").read_bytes()):
            raise ZeroDivisionError("an odd byte")
        if (folder / "a").stat().st_size < 100:
            raise StorageError("short", "longer")

    monkeypatch.setitem(TARGETS, "odd", Target(_sound, read, mutations.anywhere))
    tally = worker.run("odd", "0", 0, 40, 100.0, tmp_path)
    (what, number, kept) = tally.fallen[0]
    assert what.startswith("ZeroDivisionError") and len(tally.fallen) == 1
    assert any(Path(kept).read_bytes()) and f"fallen-{number}-" in kept
    assert tally.refused and tally.tried == 40


def test_a_process_that_dies_is_counted_and_its_input_kept(tmp_path, monkeypatch):
    """The worker is replaced by one that notes where it is and dies."""
    scratch, keep = tmp_path / "scratch", tmp_path / "keep"
    scratch.mkdir()
    (scratch / "a.h5").write_text("the damaged file")

    def die(command, **_):
        (scratch / "progress").write_text(f"{7:020d} {scratch / 'a.h5'}".ljust(4096))
        return subprocess.CompletedProcess(command, -signal.SIGSEGV, "", "")

    monkeypatch.setattr(fuzz.subprocess, "run", die)
    result = fuzz.Result()
    assert fuzz._batch("tiles", "0", 5, 100, 1e12, scratch, result, keep) == 8
    assert result.fallen == {f"the process died of signal {signal.SIGSEGV.value}": 1}
    assert result.tried == 3
    assert [Path(keep, name).read_text() for name in os.listdir(keep)] == ["the damaged file"]
