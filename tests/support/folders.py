"""Looking into output folders."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import yaml

from hpcnk.store import read_journals, read_layout


def tiles(path):
    """All stored tiles of a file, by plain h5py."""
    with h5py.File(path, "r") as file:
        return file["tiles"][:]


def digest(folder):
    """A hash of the tile bytes of both kernels; both must be complete."""
    sha = hashlib.sha256()
    for name in ("kernel.h5", "test_kernel.h5"):
        with h5py.File(Path(folder) / name, "r") as file:
            assert file["complete"][0] == 1, name
            sha.update(file["tiles"][:].tobytes())
            sha.update(file["checksums"][:].tobytes())
    return sha.hexdigest()


def predictions(folder):
    """Predictions of all ridges, and the target."""
    with h5py.File(Path(folder) / "predictions.h5", "r") as file:
        count = len(file["test"]) - 1
        return np.stack([file[f"test/{i}"][:] for i in range(count)]), file["test/target"][:]


def report(folder):
    return json.loads((Path(folder) / "report.json").read_text())


def finished(path):
    """Numbers of the tiles that the journals vouch for."""
    if not Path(path).exists():
        return set()
    layout = read_layout(Path(path))
    return set(read_journals(layout))


def whole(path):
    """The symmetric matrix that the tiles of kernel.h5 stand for."""
    layout, stored = read_layout(Path(path)), tiles(path)
    k = np.zeros((layout.grid.n, layout.grid.n), layout.dtype)
    for number in range(layout.grid.count):
        tile = layout.grid.at(number)
        block = stored[number][: tile.shape[0], : tile.shape[1]]
        k[tile.rows, tile.columns] = block
        k[tile.columns, tile.rows] = block.T
    return k


def edit(deck, section, **values):
    """Change some values in one section of a deck's file."""
    content = yaml.safe_load(deck.read_text())
    content[section].update(values)
    deck.write_text(yaml.safe_dump(content))
