"""The readers that are tried: how to write a sound file for each, and how it is read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np

from hpcnk import data, store
from hpcnk.deck import DataSection, read_deck
from hpcnk.kernels import find_problems
from hpcnk.report import markdown, printable
from hpcnk.run.folder import Folder
from hpcnk.run.status import status
from hpcnk.tiling import TriangleGrid
from tools.fuzzing import mutations

_ONE = SimpleNamespace(rank=0, size=1)
_DECK = """name: trial
data: &data
  dataset: digits
  train: {per_class: 12, seed: 3}
  validation: 0.1
  whitening: {regularization: 3.0}
kernel:
  layers:
    - conv: {filter: 3, w_std: 1.4, b_std: 0.1, strides: [1, 1], padding: same}
    - residual: {branch: [relu, {conv: {filter: 3}}], shortcut: []}
    - relu
    - global_avg_pool
    - dense: {w_std: 1.5}
  kind: ntk
  tile: 64
solve:
  ridge: [1.0e-6, 1.0e-4]
  preconditioner: {kind: pivoted_cholesky, rank: 20}
store:
  driver: ${DRIVER:-auto}
"""
_METRICS = {"accuracy": 0.9, "mean_squared_error": 0.1}
_SOLVED = {"ridge": 1e-4, "ridge_absolute": 1e-3, "iterations": [3, 4], "converged": True}
_SOLVED |= {
    "rows": 12,
    "true_relative_residual": [1e-9, 1e-9],
    "status": ["converged", "converged"],
}
_KERNEL = {"pairs": 1000, "pairs_computed_in_this_run": 10, "seconds": 1.5, "kind": "ntk"}
_KERNEL |= {"pairs_per_second": 1e3, "engine_share": {"mean": 0.5, "max": 0.6}, "tile": 64}
_KERNEL |= {"train_rows": 12, "test_rows": 5, "dtype": "float32", "backend": "cpu"}
_KERNEL |= {"driver": "posix"}
_REPORT = {
    "warnings": {"solve": ["ridge 1e-09: below 1e-5"], "prepare": []},
    "name": "trial",
    "deck": "trial.yaml",
    "deck_hash": "0" * 64,
    "versions": {"hpcnk": "0.1.0", "h5py_mpi": True},
    "ranks": 2,
    "threads": 1,
    "solve": [_SOLVED, _SOLVED],
    "kernel": _KERNEL,
    "data_hash": {"training": "0" * 64, "test": "1" * 64},
    "selected_ridge": 1e-4,
    "validation": [_METRICS, _METRICS],
    "test": [_METRICS, _METRICS],
}


@dataclass(frozen=True)
class Target:
    """`make` writes sound files below a folder and returns those to damage; `read` reads them."""

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    mutate: mutations.Mutation


def _make_deck(folder: Path) -> list[Path]:
    (folder / "deck.yaml").write_text(_DECK)
    return [folder / "deck.yaml"]


def _read_deck(folder: Path) -> None:
    read_deck(folder / "deck.yaml", find_problems)


def _arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(7)
    return {
        "x_train": generator.normal(size=(12, 4, 2)),
        "y_train": np.arange(12) % 3,
        "x_test": generator.normal(size=(5, 4, 2)),
        "y_test": np.arange(5) % 3,
    }


def _make_npz(folder: Path) -> list[Path]:
    np.savez(folder / "a.npz", allow_pickle=False, **_arrays())
    return [folder / "a.npz"]


def _make_hdf5(**storage: object) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        with h5py.File(folder / "a.h5", "w") as file:
            for name, values in _arrays().items():
                file.create_dataset(name, data=values, **storage)
        return [folder / "a.h5"]

    return make


def _read_data(dataset: str, name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        plain = DataSection(dataset="digits", train=4)
        section = plain.model_copy(update={"dataset": dataset, "path": folder / name})
        data.describe(section)
        data.load(section)

    return read


def _make_cifar10(folder: Path, suffix: str, write: Callable[[np.ndarray], bytes]) -> list[Path]:
    generator = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name in names:
        rows = generator.integers(0, 256, (3, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / (name + suffix)).write_bytes(write(rows))
    return [folder / (name + suffix) for name in names[:2]]


def _pickled(rows: np.ndarray) -> bytes:
    return pickle.dumps({b"labels": rows[:, 0].tolist(), b"data": rows[:, 1:].copy()}, 2)


def _make_tiles(folder: Path) -> list[Path]:
    path, grid = folder / "kernel.h5", TriangleGrid(11, 4)
    store.create(path, grid, "float32", {"kernel.tile": 4, "kernel.layers": ["relu", {"a": 1}]})
    layout = store.read_layout(path)
    with store.TileWriter(layout, "posix", _ONE) as tiles:
        for number in range(grid.count):
            tiles.put(number, np.ones(grid.at(number).shape, np.float32))
    sums = store.read_journals(layout)
    store.mark_complete(layout, np.array([sums[k] for k in range(grid.count)], np.uint32))
    return [path]


def _make_journal(folder: Path) -> list[Path]:
    _make_tiles(folder)
    layout = store.read_layout(folder / "kernel.h5")
    with open(layout.path, "r+b") as file:
        file.seek(layout.complete_offset)
        file.write(b"\0")
    return sorted(layout.journal.iterdir())


def _read_tiles(folder: Path) -> None:
    layout = store.read_layout(folder / "kernel.h5")
    store.finished_tiles(layout.journal)
    with store.TileReader(layout) as reader:
        for number in list(reader.checksums)[:50]:
            if reader.intact(number):
                reader.read(number)


def _make_arrays(folder: Path) -> list[Path]:
    arrays = {"x": np.arange(40.0).reshape(10, 4), "test/0": np.arange(3), "none": np.arange(0)}
    store.write_arrays(folder / "a.h5", arrays, {"task": "regression", "rows": 10})
    return [folder / "a.h5"]


def _read_arrays(folder: Path) -> None:
    path = folder / "a.h5"
    store.read_attributes(path)
    store.read_shape(path, "x")
    store.read_rows(path, "x", slice(2, 5))
    store.read_arrays(path, "x", "test/0", "none")
    store.check_arrays(path)


def _make_variances(folder: Path) -> list[Path]:
    rows = {"x_train": 70, "x_test": 5}
    path = folder / "variances.h5"
    layout = store.create_variances(path, rows, 3, np.dtype("f4"), {"kernel.kind": "ntk"})
    with store.VariancesWriter(layout) as file:
        for part, n in rows.items():
            file.put(part, 0, np.ones((n, 3), np.float32), np.ones(n))
        file.sync()
    store.mark_variances_complete(layout)
    return [path]


def _read_variances(folder: Path) -> None:
    layout = store.read_variances_layout(folder / "variances.h5")
    with store.VariancesReader(layout) as reader:
        reader.read("x_test", slice(0, 5))
        reader.check()


def _make_report(folder: Path) -> list[Path]:
    (folder / "report.json").write_text(json.dumps(_REPORT, indent=2))
    return [folder / "report.json"]


def _read_report(folder: Path) -> None:
    printable("\n".join(status(folder))).encode("utf-8")
    printable(markdown(Folder(folder).read_report())).encode("utf-8")


TARGETS = {
    "deck": Target(_make_deck, _read_deck, mutations.yaml),
    "npz": Target(_make_npz, _read_data("arrays", "a.npz"), mutations.npz),
    "hdf5": Target(_make_hdf5(), _read_data("arrays", "a.h5"), mutations.hdf5),
    "hdf5-chunked": Target(
        _make_hdf5(chunks=True, compression="gzip"), _read_data("arrays", "a.h5"), mutations.hdf5
    ),
    "cifar10-binary": Target(
        lambda folder: _make_cifar10(folder, ".bin", np.ndarray.tobytes),
        _read_data("cifar10", "."),
        mutations.anywhere,
    ),
    "cifar10-python": Target(
        lambda folder: _make_cifar10(folder, "", _pickled),
        _read_data("cifar10", "."),
        mutations.pickled,
    ),
    "tiles": Target(_make_tiles, _read_tiles, mutations.hdf5),
    "arrays": Target(_make_arrays, _read_arrays, mutations.hdf5),
    "variances": Target(_make_variances, _read_variances, mutations.hdf5),
    "journal": Target(_make_journal, _read_tiles, mutations.anywhere),
    "report": Target(_make_report, _read_report, mutations.json),
}
