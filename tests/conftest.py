"""Fixtures for all tests."""

import os
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=["posix", "mpio"])
def driver(request):
    """Both store drivers, as far as this h5py has them."""
    if request.param == "mpio" and not h5py.get_config().mpi:
        pytest.skip("h5py is a serial build: no mpio driver here")
    return request.param


@pytest.fixture(scope="session")
def data_folder():
    """The folder with real data sets, laid out as their publishers do."""
    folder = os.environ.get("HPCNK_DATA")
    if not folder:
        pytest.skip("HPCNK_DATA is not set: no real data sets here")
    return Path(folder)


@pytest.fixture
def write_deck(tmp_path):
    """Return a function that writes a small deck on arrays data, its sections overridden."""
    return partial(small_deck, tmp_path)


def small_deck(folder, name="small", data=None, kernel=None, solve=None, store=None):
    """Write a deck of this name, whose output is a folder of this name beside it."""
    deck = {
        "name": name,
        "output": str(folder / name),
        "data": {"dataset": "arrays", "path": str(_arrays(folder)), **(data or {})},
        "kernel": {"layers": {"preset": "fc", "depth": 1}, "tile": 8, **(kernel or {})},
        "solve": {"ridge": [0.001, 0.1], "preconditioner": "none", **(solve or {})},
        "store": store or {"driver": "auto"},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(deck))
    return path


def _arrays(folder: Path) -> Path:
    """Three classes of noisy 6 x 6 images in two channels: 44 to train on, 13 to test."""
    path = folder / "arrays.npz"
    if not path.exists():
        rng = np.random.default_rng(7)
        centres = rng.normal(size=(3, 6, 6, 2))
        y = rng.integers(0, 3, 57)
        y[:3] = [0, 1, 2]
        x = centres[y] + 0.8 * rng.normal(size=(57, 6, 6, 2))
        np.savez(path, x_train=x[:44], y_train=y[:44], x_test=x[44:], y_test=y[44:])
    return path
