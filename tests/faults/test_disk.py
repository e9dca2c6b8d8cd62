"""A disk that is too small or fills, for real: a small tmpfs, and a limit on the size of files."""

import os
import re
import resource
import subprocess

import numpy as np
import pytest

from tests.conftest import small_deck
from tests.faults.test_kill import LONG
from tests.support.folders import digest, finished, tiles
from tests.support.hold import hold, release
from tests.support.mpi import HPCNK, Job, hpcnk

KERNEL = {"layers": {"preset": "fc", "depth": 1}, "dtype": "float64", "tile": 512}
LACK = (
    r"([\d.]+) MB( is still to be written)? \(.*kernel\.h5.*\),(?: and)? "
    r"([\d.]+) [kM]?B is free on (\S+) \(tmpfs\): ([\d.]+) [kM]B is missing"
)


@pytest.fixture
def disk(tmp_path):
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "hpcnk-test", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(disk, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def used(disk):
    system = os.statvfs(disk)
    return (system.f_blocks - system.f_bfree) * system.f_frsize


def on(disk, deck):
    """Put the output of a deck on the disk."""
    deck.write_text(deck.read_text().replace(f"output: {deck.parent}/", f"output: {disk}/"))
    return deck


def test_a_disk_that_is_too_small_is_refused_before_the_first_tile(disk, write_deck, tmp_path):
    whole, deck = write_deck("whole", kernel=KERNEL), on(disk, write_deck("run", kernel=KERNEL))
    assert hpcnk(2, "run", whole).code == 0
    ended = hpcnk(2, "run", deck)
    assert ended.code == 74 and "Traceback" not in ended.output, ended.output
    told = re.search(f"the job still has to write {LACK}", ended.output)
    assert told and ended.output.count("is missing") == 1, ended.output
    need, _, free, mount, missing = told.groups()
    assert mount == str(disk) and float(need) - float(free) == pytest.approx(
        float(missing), abs=0.01
    )
    assert not (disk / "run" / "kernel.h5").exists() and used(disk) < 200_000
    resize(disk, used(disk) + int(1.001e6 * float(need)) + 4096)  # what it asked for is enough
    ended = hpcnk(3, "run", deck)
    assert ended.code == 0, ended.output
    assert digest(disk / "run") == digest(tmp_path / "whole")


def test_a_disk_that_is_too_small_for_the_inputs(disk, write_deck):
    resize(disk, "48k")
    deck = on(disk, write_deck("run", kernel=KERNEL))
    ended = hpcnk(2, "run", deck)
    assert ended.code == 74 and "Traceback" not in ended.output, ended.output
    assert "inputs.h5" in ended.output and "the file system is full" in ended.output, ended.output
    resize(disk, "20m")
    assert hpcnk(2, "run", deck).code == 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The output folder of a slow run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = hpcnk(2, "run", slow_deck(folder, "whole", "posix"))
    assert ended.code == 0, ended.output
    return folder / "whole"


def slow_deck(folder, name, driver):
    """A deck of some twenty tiles that take long enough to come between them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 16, 16, 1)), rng.integers(0, 2, 80)
    path = folder / "images.npz"
    np.savez(path, x_train=x[:70], y_train=y[:70], x_test=x[70:], y_test=y[70:])
    kernel = {**LONG, "dtype": "float64", "tile": 16}
    return small_deck(folder, name, {"path": str(path)}, kernel, store={"driver": driver})


def fill(disk):
    """Take all space that is left on a disk."""
    with open(disk / "filler", "wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return disk / "filler"


def test_a_disk_that_somebody_else_fills_meanwhile(disk, tmp_path, driver, undisturbed):
    deck = slow_deck(tmp_path, "run", driver)
    resize(disk, "6m")
    kernel = disk / "run" / "kernel.h5"
    job = Job(2, [*HPCNK, "run", on(disk, deck)])
    held = hold(job, kernel)
    filler = fill(disk)
    release(held)
    ended = job.wait()
    assert ended.code == 74 and "Traceback" not in ended.output, ended.output
    assert "the file system is full: free space and start the same" in ended.output, ended.output
    assert re.search(rf"; {LACK}", ended.output), ended.output
    done = finished(kernel)
    assert 0 < len(done) < len(tiles(kernel))
    stored, right = tiles(kernel), tiles(undisturbed / "kernel.h5")
    assert all(stored[number].tobytes() == right[number].tobytes() for number in done)
    ended = hpcnk(2, "run", deck)  # nothing has changed
    assert ended.code == 74 and "Traceback" not in ended.output, ended.output
    filler.unlink()
    ended = hpcnk(3, "run", deck)
    assert ended.code == 0 and "tiles are there, resuming" in ended.output, ended.output
    assert digest(disk / "run") == digest(undisturbed)


def test_a_limit_on_file_sizes(write_deck, tmp_path):
    deck = write_deck(kernel={**KERNEL, "dtype": "float32", "tile": 7200})

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000_000, 200_000_000))

    ended = subprocess.run(
        [*HPCNK, "run", str(deck)], capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert ended.returncode == 74, ended.stderr
    assert "kernel.h5 will have 207.4 MB" in ended.stderr and "at most 200 MB" in ended.stderr
    assert "Traceback" not in ended.stderr and not (tmp_path / "small" / "kernel.h5").exists()
