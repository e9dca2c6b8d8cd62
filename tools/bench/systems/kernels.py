"""The kernels that are measured: of real images by hpcnk itself, and one of a known spectrum.

The synthetic kernel is S C^T L C S: C the orthonormal cosine transform, L falling like a power, S
random signs. Products of cosines are sums of two, so an entry is one of a table that depends on
i - j alone plus one that depends on i + j + 1, and tiles of any size are made without the matrix.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpcnk import store
from hpcnk.comm import world
from hpcnk.tiling import Tile, TriangleGrid
from tools.bench.systems.launch import mpirun, run

CONDITION = 1e10
OUTPUTS = 10

DECK = """name: {name}
output: {folder}
data:
  dataset: cifar10
  path: ${{HPCNK_DATA}}/cifar-10-batches-bin
  train: {rows}
  test: 2{whitening}
kernel: {{layers: {layers}, kind: ntk, dtype: {dtype}, tile: {tile}}}
solve: {{ridge: [1.0e-3]}}
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel of so many rows; `layers` is a preset's name, empty for the synthetic one.

    `regularization` is that of the whitening, 0 for none.
    """

    name: str
    layers: str
    regularization: float
    dtype: str
    rows: int
    tile: int

    @property
    def title(self) -> str:
        """What a row of the table says of it."""
        return f"{self.name} {self.rows:,} {self.dtype}"

    def folder(self, cache: Path) -> Path:
        """Where its file is."""
        return cache / f"{self.name}-{self.dtype}-{self.rows}-{self.tile}"

    @property
    def entry_bytes(self) -> int:
        """Bytes of an entry."""
        return np.dtype(self.dtype).itemsize


def made(kernel: Kernel, cache: Path, ranks: int) -> Path:
    """Return the path of the kernel's file, made if it is not in the cache. Raises JobError."""
    folder = kernel.folder(cache)
    path = folder / "kernel.h5"
    if path.exists() and store.read_layout(path).complete:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    if not kernel.layers:
        folder.mkdir(exist_ok=True)
        _write_synthetic(path, kernel)
        return path
    deck = cache / f"{folder.name}.yaml"
    fields = {key: getattr(kernel, key) for key in ("name", "rows", "layers", "dtype", "tile")}
    whitening = f"\n  whitening: {{regularization: {kernel.regularization}}}"
    fields["whitening"] = whitening if kernel.regularization else ""
    deck.write_text(DECK.format(folder=folder, **fields))
    run([mpirun(), "-n", str(ranks), sys.executable, "-m", "hpcnk", "kernel", str(deck)])
    return path


def real_images() -> bool:
    """Tell whether the data set of the real kernels is here."""
    return (Path(os.environ.get("HPCNK_DATA", "")) / "cifar-10-batches-bin").is_dir()


def targets(path: Path, n: int) -> NDArray[np.float64]:
    """Return right-hand sides (n, outputs): encoded classes, or random for the synthetic kernel."""
    inputs = path.with_name("inputs.h5")
    if inputs.exists():
        return store.read_arrays(inputs, "y_train")[0]
    return np.random.default_rng(5).standard_normal((n, OUTPUTS))


def _write_synthetic(path: Path, kernel: Kernel) -> None:
    grid = TriangleGrid(kernel.rows, kernel.tile)
    store.create(path, grid, kernel.dtype, {})
    layout, make = store.read_layout(path), Synthetic(kernel.rows)
    with store.TileWriter(layout, "posix", world()) as writer:
        for number in range(grid.count):
            writer.put(number, make.entries(grid.at(number)).astype(kernel.dtype))
    sums = store.read_journals(layout)
    store.mark_complete(layout, np.array([sums[k] for k in range(grid.count)], np.uint32))


class Synthetic:
    """Entries of the synthetic kernel."""

    def __init__(self, n: int) -> None:
        from scipy.fft import dct

        power = np.log(CONDITION) / np.log(n)
        weights = np.arange(1.0, n + 1) ** -power * 2 / n
        weights[0] /= 2
        # sum over k of weights[k] cos(pi k m / n), m = 0 .. n; what follows mirrors it.
        halved = np.append(weights, 0.0)
        halved[1:] /= 2  # the transform doubles what stands between its ends
        self._table = dct(halved, type=1)
        self._signs = np.random.default_rng(4).choice([-1.0, 1.0], n)
        self._n = n

    def entries(self, tile: Tile) -> NDArray[np.float64]:
        """Return the entries of one tile."""
        i = np.arange(tile.rows.start, tile.rows.stop)[:, None]
        j = np.arange(tile.columns.start, tile.columns.stop)[None, :]
        both = self._at(abs(i - j)) + self._at(i + j + 1)
        return both * (0.5 * self._signs[i] * self._signs[j])

    def _at(self, m: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._table[np.minimum(m, 2 * self._n - m)]
