"""A disk that fills, for real: a small tmpfs, and a limit on the size of files."""

import os
import resource
import shutil
import subprocess

import pytest

from tests.support.folders import digest
from tests.support.mpi import HPCNK, hpcnk

KERNEL = {"layers": {"preset": "fc", "depth": 1}, "dtype": "float64", "tile": 128}


@pytest.fixture(params=["48k", "280k"])
def small_disk(request, tmp_path):
    """A file system that is full before the inputs are written, or while tiles are."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "hpcnk-test", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_and_a_resume_after_space_is_made(small_disk, write_deck, tmp_path, driver):
    whole, deck = (
        write_deck(name, kernel=KERNEL, store={"driver": driver}) for name in ("whole", "small")
    )
    assert hpcnk(2, "run", whole).code == 0
    deck.write_text(deck.read_text().replace(str(tmp_path / "small"), str(small_disk / "run")))
    ended = hpcnk(2, "run", deck)
    assert ended.code == 74, ended.output
    assert "the file system is full" in ended.output and "Traceback" not in ended.output, (
        ended.output
    )
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    ended = hpcnk(3, "run", deck)
    assert ended.code == 0, ended.output
    assert digest(small_disk / "run") == digest(tmp_path / "whole")


def test_a_limit_on_file_sizes(write_deck, tmp_path):
    deck = write_deck(kernel={**KERNEL, "tile": 2500})

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000_000, 30_000_000))

    ended = subprocess.run(
        [*HPCNK, "run", str(deck)], capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert ended.returncode == 74, ended.stderr
    assert "Traceback" not in ended.stderr
    shutil.rmtree(tmp_path / "small")
    assert hpcnk(0, "run", deck).code == 0
