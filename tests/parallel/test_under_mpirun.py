"""Run the tests of tests/parallel/inside under mpirun, on 1 to 4 ranks."""

import sys
from pathlib import Path

import pytest

from tests.support.mpi import launch

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_inside(ranks, tmp_path):
    arguments = [
        *(sys.executable, "-m", "pytest", "--with-mpi", "-q", "-p", "no:cacheprovider"),
        "tests/parallel/inside",
    ]
    environment = {"HPCNK_INSIDE": str(tmp_path)}
    ended = launch(ranks, arguments, limit=240, cwd=PROJECT, environment=environment)
    assert ended.code == 0, ended.output
    assert ended.output.count(" passed") == ranks, ended.output
