"""The solve of whole jobs on 3 ranks, every way, against dense algebra on the stored kernel."""

import re
import shutil

import h5py
import numpy as np
import pytest
import yaml
from scipy.linalg import solve as dense_solve

from hpcnk.store import read_arrays
from tests.conftest import small_deck
from tests.support.folders import edit, report, whole
from tests.support.mpi import hpcnk

N, SIZES, RIDGES = 90, (37, 90), (0.1, 0.001)
DECK = {
    "name": "jobs",
    "output": "jobs",
    "data": {"dataset": "arrays", "path": "data.npz", "normalize": False},
    "kernel": {"layers": {"preset": "fc", "depth": 2}, "dtype": "float64", "tile": 16},
    "solve": {"ridge": list(RIDGES), "sizes": [37], "tolerance": 1e-11},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a complete kernel; labels are missing, and one row is there twice."""
    folder = tmp_path_factory.mktemp("made")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(N + 9, 12)), random.normal(size=(N + 9, 3))
    x[80] = x[3]
    y[:N][random.random((N, 3)) < [0.0, 0.4, 0.4]] = np.nan
    np.savez(folder / "data.npz", x_train=x[:N], y_train=y[:N], x_test=x[N:], y_test=y[N:])
    ended = hpcnk(0, "kernel", write(folder), cwd=folder)
    assert ended.code == 0, ended.output
    return folder


def write(folder, **solve):
    path = folder / "jobs.yaml"
    path.write_text(yaml.safe_dump({**DECK, "solve": {**DECK["solve"], **solve}}))
    return path


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def exact(folder):
    """The coefficients of every size and ridge, and the solution of each output on its own rows."""
    kernel = whole(folder / "jobs" / "kernel.h5")
    with h5py.File(folder / "jobs" / "inputs.h5") as file:
        y = file["y_train"][:]
    alpha = np.zeros((len(SIZES), len(RIDGES), N, 3))
    for i, size in enumerate(SIZES):
        for output in range(3):
            rows = np.flatnonzero(~np.isnan(y[:size, output]))
            k = kernel[np.ix_(rows, rows)]
            for j, ridge in enumerate(RIDGES):
                a = k + ridge * k.diagonal().mean() * np.eye(len(rows))
                alpha[i, j, rows, output] = dense_solve(a, y[rows, output], assume_a="pos")
    return alpha.reshape(-1, N, 3)


WAYS = {
    "as it is": {},
    "column by column": {"block": False, "preconditioner": "none"},
    "dense": {"method": "dense"},
    "streamed": {"operator": "streamed", "preconditioner": {"kind": "nystrom", "rank": 20}},
    "recomputed": {"operator": "recomputed", "reproducible": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_dense_solution(folder, way):
    ended = hpcnk(3, "solve", write(folder, **WAYS[way]), cwd=folder)
    assert ended.code == 0, ended.output
    (alpha,) = read_arrays(folder / "jobs" / "solution.h5", "alpha")
    expected = exact(folder)
    assert np.abs(alpha - expected).max() <= 1e-7 * np.abs(expected).max()
    assert not alpha[expected == 0].any()
    solved = report(folder / "jobs")["solve"]
    assert [(entry["rows"], entry["ridge"]) for entry in solved] == [
        (size, ridge) for size in SIZES for ridge in RIDGES
    ]
    if "operator" in WAYS[way]:
        assert report(folder / "jobs")["tiles"][way] == 21


def test_other_ridges_start_from_the_solution_that_is_there(folder):
    assert hpcnk(2, "solve", write(folder), cwd=folder).code == 0
    passes = report(folder / "jobs")["passes"]
    ended = hpcnk(3, "solve", write(folder, ridge=[0.1, 0.0012]), cwd=folder)
    assert ended.code == 0 and "from the earlier solution" in ended.output, ended.output
    assert report(folder / "jobs")["passes"] <= passes
    again = hpcnk(1, "solve", write(folder, leave_one_out=4, ridge=[0.1, 0.0012]), cwd=folder)
    assert again.code == 0 and report(folder / "jobs")["passes"] == 1, again.output


def test_too_little_memory_for_the_solve_is_told_before_the_kernel(write_deck, tmp_path):
    ended = hpcnk(2, "run", write_deck(solve={"ridge": 0.1, "memory": 1e-6}))
    assert ended.code == 2 and "the solve needs" in ended.output, ended.output
    assert not (tmp_path / "small" / "kernel.h5").exists()


def test_the_memory_that_is_asked_for_is_enough(write_deck):
    deck = write_deck(solve={"ridge": 0.1, "memory": 1e-6, "preconditioner": {"rank": "auto"}})
    ended = hpcnk(2, "run", deck)
    number, unit = re.search(r"the solve needs ([\d.]+) (\w+) of memory", ended.output).groups()
    edit(deck, "solve", memory=1.001 * float(number) * {"kB": 1e-6, "MB": 1e-3}[unit])
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and "preconditioner randomly pivoted" in ended.output, ended.output


def test_equal_rows_without_a_ridge_are_told_before_the_kernel_at_every_start(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(9, 4)), np.arange(9.0)
    x[7] = x[2]
    path = tmp_path / "data.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    deck = small_deck(tmp_path, data={"path": str(path)}, solve={"ridge": 0.0})
    for _ in range(2):
        ended = hpcnk(1, "run", deck)
        assert ended.code == 2 and "rows 2 and 7 are equal" in ended.output, ended.output
        assert not (tmp_path / "small" / "kernel.h5").exists()


def test_a_job_that_is_done_needs_no_memory_for_its_solve(write_deck):
    deck = write_deck(solve={"ridge": 0.1})
    assert hpcnk(2, "run", deck).code == 0
    edit(deck, "solve", memory=1e-6)
    ended = hpcnk(2, "run", deck)
    assert ended.code == 0 and "solve: complete already" in ended.output, ended.output


def test_a_size_without_labels_is_told_before_the_kernel(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(9, 4)), np.arange(18.0).reshape(9, 2)
    y[:4, 1] = np.nan
    path = tmp_path / "data.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    deck = small_deck(tmp_path, data={"path": str(path)}, solve={"ridge": 0.1, "sizes": [4]})
    ended = hpcnk(2, "run", deck)
    assert ended.code == 65 and ended.output.count("no label of output 1") == 1, ended.output
    assert not (tmp_path / "small" / "kernel.h5").exists()


@pytest.mark.parametrize(
    "solve,said",
    [
        ({"ridge": [0.1, 0.0]}, "training rows 3 and 80 are equal"),
        ({"ridge": [-0.1]}, "expected a number from 0 to 1e100"),
        ({"preconditioner": {"rank": 91}}, "expected at most 90, the training rows, got 91"),
        ({"sizes": [91]}, "expected at most 90, the training rows, got 91"),
        ({"memory": 1e-6}, "the solve needs"),
        ({"operator": "gpu"}, "GPU"),
    ],
)
def test_what_is_impossible_is_refused(folder, solve, said):
    ended = hpcnk(0, "solve", write(folder, **solve), cwd=folder)
    assert ended.code != 0 and said in ended.output, ended.output
    assert "Traceback" not in ended.output
