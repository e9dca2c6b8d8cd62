import shutil

import pytest

from tests.conftest import small_deck
from tests.support.mpi import hpcnk


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """The output folder of a small finished run."""
    folder = tmp_path_factory.mktemp("finished")
    ended = hpcnk(2, "run", small_deck(folder))
    assert ended.code == 0, ended.output
    return folder / "small"


@pytest.fixture
def done(finished_run, tmp_path):
    """A finished small run of this test's own: its deck and its folder."""
    shutil.copytree(finished_run, tmp_path / "small")
    return small_deck(tmp_path), tmp_path / "small"
