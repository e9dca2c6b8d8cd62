"""A small finished run for the tests that damage one."""

import shutil
from types import SimpleNamespace

import pytest

from hpcnk.deck import read_deck
from hpcnk.kernels import find_problems, parse
from hpcnk.run.folder import Folder
from tests.conftest import small_deck
from tests.support.dense import Single
from tests.support.hostile import DATA
from tests.support.mpi import hpcnk


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The output folder of a small finished run."""
    folder = tmp_path_factory.mktemp("finished")
    ended = hpcnk(0, "run", small_deck(folder, data=DATA))
    assert ended.code == 0, ended.output
    return folder / "small"


@pytest.fixture
def done(finished, tmp_path):
    """A finished small run of this test's own: its deck and its folder."""
    shutil.copytree(finished, tmp_path / "small")
    return small_deck(tmp_path, data=DATA), Folder(tmp_path / "small")


@pytest.fixture
def session(done):
    """What the stages ask of a session, on one rank."""
    path, folder = done
    deck = read_deck(path, find_problems)
    warned: list[str] = []
    return SimpleNamespace(
        deck=deck, folder=folder, comm=Single(), architecture=parse(deck.kernel.layers), root=True,
        warned=warned, warn=lambda stage, text: warned.append(text), say=lambda text: None,
    )  # fmt: skip
