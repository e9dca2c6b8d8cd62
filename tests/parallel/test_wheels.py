"""The environment of wheels alone (serial h5py, its own MPI) and this one: the same files."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from tests.support.folders import digest, predictions
from tests.support.mpi import hpcnk, launch

DIGEST = """
import sys
from tests.support.folders import digest
print(digest(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def wheel_python():
    python = os.environ.get("HPCNK_WHEEL_PYTHON")
    if not python or not os.path.exists(python):
        pytest.skip("HPCNK_WHEEL_PYTHON names no Python of the wheels' environment")
    if not h5py.get_config().mpi:
        pytest.skip("this h5py is a wheel too: nothing to compare")
    return python


def test_the_same_bytes_and_each_reads_the_other(wheel_python, write_deck, tmp_path):
    kernel = {"layers": "myrtle5", "dtype": "float32", "tile": 10}
    here = write_deck("here", kernel=kernel, store={"driver": "mpio"})
    there = write_deck("there", kernel=kernel, store={"driver": "auto"})
    ended = hpcnk(3, "run", here)
    assert ended.code == 0, ended.output
    arguments = [wheel_python, "-m", "hpcnk", "run", there]
    mpirun = os.environ["HPCNK_WHEEL_MPIRUN"]
    ended = launch(2, arguments, launcher=mpirun)
    assert ended.code == 0, ended.output
    assert "store posix (h5py is a serial build)" in ended.output
    expected = digest(tmp_path / "here")
    assert digest(tmp_path / "there") == expected
    for folder in ("here", "there"):
        for python in (sys.executable, wheel_python):
            command = [python, "-c", DIGEST, str(tmp_path / folder)]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            assert found.stdout.strip() == expected
    np.testing.assert_allclose(
        predictions(tmp_path / "here")[0], predictions(tmp_path / "there")[0], atol=1e-6
    )


def test_a_file_begun_by_one_is_finished_by_the_other(wheel_python, write_deck, tmp_path):
    kernel = {"layers": "myrtle5", "tile": 10}
    whole, mixed = write_deck("whole", kernel=kernel), write_deck("mixed", kernel=kernel)
    assert hpcnk(1, "run", whole).code == 0
    ended = launch(
        2,
        [wheel_python, "-m", "hpcnk", "kernel", mixed],
        launcher=os.environ["HPCNK_WHEEL_MPIRUN"],
    )
    assert ended.code == 0, ended.output
    assert hpcnk(3, "run", mixed).code == 0
    assert digest(tmp_path / "mixed") == digest(tmp_path / "whole")
