"""The plan against what a run really takes."""

import subprocess
import sys

import numpy as np
import pytest

from hpcnk.run.check import check
from hpcnk.run.plan import describe_plan, plan
from tests.support.mpi import HPCNK, hpcnk


def vectors(folder, train, test):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(train + test, 64)).astype(np.float32)
    y = rng.integers(0, 2, train + test)
    path = folder / f"vectors{train}.npz"
    np.savez(path, x_train=x[:train], y_train=y[:train], x_test=x[train:], y_test=y[train:])
    return {"path": str(path)}


KERNEL = {"layers": "fc1", "dtype": "float64", "tile": 250}
SOLVE = {"preconditioner": {"kind": "pivoted_cholesky", "rank": 50}}


@pytest.fixture
def deck(write_deck, tmp_path):
    return write_deck(data=vectors(tmp_path, 2000, 200), kernel=KERNEL, solve=SOLVE)


def test_files_are_as_large_as_planned(deck, tmp_path):
    planned = plan(*check(deck), ranks=1)
    assert hpcnk(0, "kernel", deck).code == 0
    slack = 40 << 20  # alignment, sparse
    for name, size in (
        ("kernel.h5", planned.disk_kernel),
        ("test_kernel.h5", planned.disk_test_kernel),
        ("inputs.h5", planned.disk_inputs),
    ):
        stat = (tmp_path / "small" / name).stat()
        assert size <= stat.st_size <= size + slack
        assert stat.st_blocks * 512 <= 1.05 * size + (1 << 20)
    assert planned.tiles == 36 and planned.tiles_per_rank == 36 and planned.test_tiles == 8
    assert planned.pairs == 2000 * 2001 // 2 + 200 * 2000
    assert planned.systems == 4


def test_memory_of_the_solve_is_as_planned(write_deck, tmp_path):
    """Peak resident memory of `solve`, less that of a tiny one, within 20 % of the plan."""
    large, tiny = (
        write_deck(f"of{n}", data=vectors(tmp_path, n, 10), kernel=KERNEL, solve=SOLVE)
        for n in (6000, 60)
    )
    planned = plan(*check(large), ranks=1).solve_memory_per_rank
    for deck in (large, tiny):
        assert hpcnk(0, "kernel", deck).code == 0
    peak = _peak([*HPCNK, "solve", large]) - _peak([*HPCNK, "solve", tiny])
    assert 0.8 * planned < peak < 1.2 * planned, (peak, planned)


def _peak(command):
    """Peak resident bytes of a child process."""
    code = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=True
    )
    return int(ended.stdout.split()[-1]) * 1024


def test_the_plan_in_words(deck):
    text = describe_plan(plan(*check(deck), ranks=3), 3)
    assert "36 of 250 x 250" in text and "at most 12 on 3 rank(s)" in text
    assert "2.401 million" in text


def test_more_ranks_need_less_memory_each(deck):
    one, four = (plan(*check(deck), ranks=r) for r in (1, 4))
    assert four.solve_memory_per_rank < 0.5 * one.solve_memory_per_rank
    assert four.tiles_per_rank == 9
