"""Checking stored tiles: all checksums, and some tiles computed once more in float64.

A checksum finds bits that changed after they were written. Computing anew finds tiles that were
wrong from the start: a faulty processor, a faulty build. Differences are taken relative to
sqrt(K(x, x) K(x', x')), for entries themselves may be near 0. Between almost equal rows a float32
tangent kernel loses half its digits, so entries are held to two bounds: nearly all (99 %) to the
rounding of the precision, and every one to the loss that almost equal rows can cause.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine import Engine, asked_threads, make_engine, usable_cores
from hpcnk.errors import ArchitectureError, DataError, StorageError, UsageError
from hpcnk.kernels import parse
from hpcnk.report import size
from hpcnk.run.blocks import Blocks
from hpcnk.run.folder import Folder
from hpcnk.run.needs.available import available_memory
from hpcnk.run.needs.kernel_memory import FLOAT64
from hpcnk.run.stored import check_inputs, grid_of, refusal, require_grid
from hpcnk.store import (
    Layout,
    TileReader,
    VariancesReader,
    check_arrays,
    read_attributes,
    read_layout,
    read_variances_layout,
)
from hpcnk.tiling import Tile

BOUNDS = {"float32": (5e-6, 2e-3), "float64": (1e-11, 1e-6)}  # relative: nearly all, every entry
NEARLY_ALL = 0.99
_REMEDY = (
    "damaged tiles are computed anew when they are next read: remove solution.h5, if it is there, "
    "and start `hpcnk run` again; wrong ones only if you remove the file"
)
COPIES = 5  # of a tile in float64, while it is compared


@dataclass(frozen=True)
class Verdict:
    """What was found in one tile file. `damaged` fail their checksum, `wrong` the recomputation."""

    path: Path
    finished: int
    total: int
    damaged: list[int]
    recomputed: int
    wrong: list[int]
    worst: float

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return not self.damaged and not self.wrong

    def __str__(self) -> str:
        head = f"{self.path.name}: {self.finished} of {self.total} tiles are there"
        if self.damaged:
            head += f"; DAMAGED, by their checksums: {_listed(self.damaged)}"
        else:
            head += ", all checksums hold"
        text = f"{head}; {self.recomputed} computed again in float64, "
        text += f"largest relative difference {self.worst:.1e}"
        text += f"; WRONG: {_listed(self.wrong)}" if self.wrong else ""
        return text + ("" if self.good else f"\n  -> {_REMEDY}")


@dataclass(frozen=True)
class FileVerdict:
    """What was found in a file of arrays; `problem` is empty when all is well."""

    path: Path
    problem: str

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return not self.problem

    def __str__(self) -> str:
        return f"{self.path.name}: {self.problem or 'all checksums hold'}"


def verify(path: Path, sample: int, seed: int) -> list[Verdict | FileVerdict]:
    """Check all arrays and tiles in an output folder; compute `sample` tiles of each file anew.

    Raises UsageError when there is nothing to check or too little memory for a tile, StorageError
    where the tile files cannot be read or do not fit.
    """
    folder = Folder(path)
    files = [file for file in (folder.kernel, folder.test_kernel) if folder.holds(file)]
    if not files:
        raise UsageError(f"{path} holds no kernel.h5", "give the folder that the deck names")
    arrays = (folder.inputs, folder.variances, folder.solution, folder.predictions)
    found: list[Verdict | FileVerdict] = [
        _verify_arrays(folder, file) for file in arrays if file.exists()
    ]
    if not all(verdict.good for verdict in found[:1]):
        sample = 0  # nothing can be computed from damaged inputs
    return found + [_verify(folder, read_layout(file), sample, seed) for file in files]


def _verify_arrays(folder: Folder, path: Path) -> FileVerdict:
    """Check one file of arrays; damage is for the verdict, not raised."""
    try:
        if path == folder.variances:
            _check_variances(path)
        else:
            check_arrays(path)
        if path == folder.inputs:
            check_inputs(path, read_attributes(path))
    except StorageError as error:
        return FileVerdict(path, str(error))
    return FileVerdict(path, "")


def _check_variances(path: Path) -> None:
    """Read a complete file whole; one that is not complete is never used."""
    layout = read_variances_layout(path)
    if layout.complete:
        with VariancesReader(layout) as reader:
            reader.check()


def _verify(folder: Folder, layout: Layout, sample: int, seed: int) -> Verdict:
    _require_memory(layout, sample)
    with TileReader(layout) as reader:
        finished = sorted(reader.checksums)
        damaged = [number for number in finished if not reader.intact(number)]
        sound = [number for number in finished if number not in set(damaged)]
        chosen = np.random.default_rng(seed).permutation(sound)[:sample].tolist()
        if chosen:
            test = layout.path == folder.test_kernel
            require_grid(layout, grid_of(folder.inputs, layout.grid.tile, test))
        compute = _Recomputation(folder, layout)
        differences = {
            number: compute.difference(layout.grid.at(number), reader.read(number))
            for number in chosen
        }
    nearly_all, every = BOUNDS[layout.dtype.name]
    wrong = [k for k, (most, worst) in differences.items() if most > nearly_all or worst > every]
    worst = max((worst for _, worst in differences.values()), default=0.0)
    return Verdict(
        layout.path, len(finished), layout.grid.count, damaged, len(chosen), sorted(wrong), worst
    )


class _Recomputation:
    """Computes tiles of one file in float64 from the stored inputs alone."""

    def __init__(self, folder: Folder, layout: Layout) -> None:
        threads = asked_threads() or len(usable_cores())
        self._engine: Engine = _engine(layout, threads)
        self._path = layout.path
        self._left = "x_train" if layout.path == folder.kernel else "x_test"
        self._blocks = Blocks(self._engine, folder.inputs)

    def difference(self, tile: Tile, stored: NDArray) -> tuple[float, float]:
        """Return the 99 % quantile and the largest of |stored - exact| / sqrt(K(x,x) K(x',x')).

        Raises StorageError if the network cannot take the inputs.
        """
        try:
            return self._difference(tile, stored)
        except (ArchitectureError, DataError) as error:
            what = f"it cannot be computed again from the inputs: {error.what}"
            raise refusal(self._path, what) from error

    def _difference(self, tile: Tile, stored: NDArray) -> tuple[float, float]:
        left = self._blocks.at(self._left, tile.rows)
        right = self._blocks.at("x_train", tile.columns)
        engine = self._engine
        exact = engine.symmetric_block(left) if tile.symmetric else engine.block(left, right)
        scale = np.sqrt(np.outer(left.diagonal, right.diagonal))
        relative = np.abs(stored - exact) / np.maximum(scale, np.finfo(float).tiny)
        relative[~np.isfinite(relative)] = np.inf
        return float(np.quantile(relative, NEARLY_ALL, method="lower")), float(relative.max())


def _engine(layout: Layout, threads: int) -> Engine:
    """Return the engine for the network that a tile file names. Raises StorageError if none."""
    made = layout.provenance
    layers, kind = made.get("kernel.layers"), made.get("kernel.kind")
    if not isinstance(layers, list) or not isinstance(kind, str):
        raise refusal(layout.path, "it does not say of which network it is")
    backend = "reference" if made.get("kernel.backend") == "reference" else "cpu"
    try:
        architecture = parse(layers)
        architecture.check_kind(kind)
    except ArchitectureError as error:
        raise refusal(layout.path, f"it is of no network: {error.what}") from error
    return make_engine(architecture, kind, "float64", backend, threads)


def _require_memory(layout: Layout, sample: int) -> None:
    """Raise UsageError if a tile, and the same in float64, do not go into memory."""
    copies = COPIES if sample else 0
    need, there = layout.tile_bytes + copies * FLOAT64 * layout.grid.tile**2, available_memory()
    if there is not None and need > there:
        raise UsageError(
            f"{layout.path} has tiles of {layout.grid.tile}: checking one needs {size(need)} of "
            f"memory, and {size(there)} are free",
            "verify it on a larger machine, with --tiles 0 if its checksums are enough",
        )


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"tile{'s' if len(numbers) > 1 else ''} {shown}{more}"
