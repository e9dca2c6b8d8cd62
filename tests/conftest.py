"""Fixtures for all tests."""

import os
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

    def write(name="small", data=None, kernel=None, solve=None, store=None):
        deck = {
            "name": name,
            "output": str(tmp_path / name),
            "data": {"dataset": "arrays", "path": str(_arrays(tmp_path)), **(data or {})},
            "kernel": {"layers": {"preset": "fc", "depth": 1}, "tile": 8, **(kernel or {})},
            "solve": {"ridge": [0.001, 0.1], "preconditioner": "none", **(solve or {})},
            "store": store or {"driver": "auto"},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(deck))
        return path

    return write


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
