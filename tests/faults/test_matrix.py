"""A part of the fault matrix; `bash tools/faults.sh` runs all of it."""

import pytest

from tests.support.fault_matrix import Case, Matrix, drivers

QUICK = [
    Case("sigkill", "kernel", "mpio", 3, 2, False),
    Case("half", "kernel", "posix", 2, 3, True),
    Case("raise", "kernel", "posix", 2, 3, True),
    Case("error", "kernel", "mpio", 2, 3, True),
    Case("flip", "kernel", "posix", 2, 3, True),
    Case("sigkill", "solve", "posix", 2, 3, True),
    Case("sigusr1", "solve", "mpio", 2, 2, False),
    Case("half", "solve", "posix", 2, 3, True),
    Case("memory", "solve", "posix", 3, 2, False),
    Case("flip", "solve", "mpio", 2, 2, False),
    Case("full", "predict", "posix", 2, 3, True),
    Case("sigterm", "predict", "mpio", 2, 3, True),
    Case("flip", "predict", "posix", 3, 2, False),
]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    return Matrix(tmp_path_factory.mktemp("matrix"))


@pytest.mark.parametrize("case", QUICK, ids=lambda c: f"{c.what}-{c.phase}-{c.before}to{c.after}")
def test_nothing_is_lost(matrix, case):
    if case.driver not in drivers():
        pytest.skip("h5py is a serial build: no mpio driver here")
    row = matrix.run(case)
    assert not row.problem, row.problem
