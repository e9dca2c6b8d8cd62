"""Whether the stored files of a folder fit together: what an array claims is checked once, by its
header, before anything is computed with it. A folder may be damaged, or come from a stranger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.data import labelled
from hpcnk.errors import StorageError
from hpcnk.report import misfit_of_results
from hpcnk.store import (
    Layout,
    parse_mapping,
    read_arrays,
    read_forms,
)
from hpcnk.tiling import CrossGrid, Grid, TriangleGrid

Array = NDArray[np.float64]
_FACTS = ("task", "contents of the training data", "contents of the test data")
_TASKS = ("classification", "regression")
_ADVICE = (
    "the file is damaged or was not written by hpcnk: remove it and run the stage that writes it "
    "again"
)


def refusal(path: Path, what: str) -> StorageError:
    """Return the error that says what does not fit."""
    return StorageError(f"{path} does not fit: {what}", _ADVICE)


def check_inputs(path: Path, facts: Mapping[str, Any]) -> None:
    """Check shapes and types of the inputs file, whose attributes are `facts`.

    Raises StorageError.
    """
    for name in _FACTS:
        if not isinstance(facts.get(name), str):
            raise refusal(path, f"its attribute {name!r} is no text")
    if facts["task"] not in _TASKS:
        raise refusal(path, f"its task is {facts['task']!r:.80}, expected one of {_TASKS}")
    rows = {part: _check_part(path, part) for part in ("train", "test")}
    if rows["train"] != rows["test"]:
        raise refusal(path, f"training rows have shape {rows['train']}, test rows {rows['test']}")
    outputs = _form(path, "y_train", 2, "f8")[1]
    labels = (outputs,) if facts["task"] == "regression" else ()
    for part in ("train", "test"):
        n = _form(path, f"x_{part}", None, "f")[0]
        _require_shape(path, f"y_{part}", (n, outputs), "f8")
        _require_shape(path, f"target_{part}", (n, *labels), "f" if labels else "i")
    for name in ("target_mean", "target_std"):
        _require_shape(path, name, (outputs,), "f8")


def _check_part(path: Path, part: str) -> tuple[int, ...]:
    """Return the shape of one row."""
    shape = _form(path, f"x_{part}", None, "f")
    if len(shape) < 2 or 0 in shape:
        raise refusal(path, f"x_{part} has shape {shape}, expected rows of numbers")
    return shape[1:]


def _form(path: Path, name: str, rank: int | None, kind: str) -> tuple[int, ...]:
    shape, dtype = read_forms(path, name)[0]
    if kind not in (dtype.kind, f"{dtype.kind}{dtype.itemsize}"):
        raise refusal(path, f"{name} holds {dtype}")
    if rank is not None and len(shape) != rank:
        raise refusal(path, f"{name} has shape {shape}")
    return shape


def _require_shape(path: Path, name: str, expected: tuple[int, ...], kind: str) -> None:
    found = _form(path, name, None, kind)
    if found != expected:
        raise refusal(path, f"{name} has shape {found}, expected {expected}")


def read_finite(path: Path, *names: str) -> list[NDArray[Any]]:
    """Return arrays whole. Raises StorageError, also for one with NaN or infinity."""
    arrays = read_arrays(path, *names)
    for name, array in zip(names, arrays, strict=True):
        if not np.isfinite(array).all():
            raise refusal(path, f"{name} holds a value that is not finite")
    return arrays


def read_labels(path: Path, part: str) -> tuple[Array, NDArray[Any]]:
    """Return the encoded and the raw labels of `train` or `test` rows. Raises StorageError.

    NaN in both stands for a real label that is missing; every output has a training row with one.
    """
    encoded, raw = read_arrays(path, f"y_{part}", f"target_{part}")
    if raw.dtype.kind == "i":
        _check_classes(path, part, encoded, raw)
    else:
        _check_targets(path, part, encoded, raw)
    return encoded, raw


def _check_classes(path: Path, part: str, encoded: Array, raw: NDArray[Any]) -> None:
    if not np.isfinite(encoded).all():
        raise refusal(path, f"y_{part} holds a value that is not finite")
    if not ((raw >= 0) & (raw < encoded.shape[1])).all():
        raise refusal(path, f"target_{part} holds a class beyond the {encoded.shape[1]} classes")


def _check_targets(path: Path, part: str, encoded: Array, raw: NDArray[Any]) -> None:
    for name, array in ((f"y_{part}", encoded), (f"target_{part}", raw)):
        if np.isinf(array).any():
            raise refusal(path, f"{name} holds a value that is infinite")
    known = labelled(raw)
    if (labelled(encoded) != known).any():
        raise refusal(path, f"y_{part} lacks other labels than target_{part}")
    if part == "train" and not known.any(axis=0).all():
        raise refusal(path, "y_train holds no label of one of its outputs")


def grid_of(inputs: Path, tile: int, test: bool) -> Grid:
    """Return the grid of the kernel of these inputs, or of their test kernel."""
    (n, *_), (m, *_) = (shape for shape, _ in read_forms(inputs, "x_train", "x_test"))
    return CrossGrid(m, n, tile) if test else TriangleGrid(n, tile)


def require_grid(layout: Layout, grid: Grid, dtype: str | None = None) -> None:
    """Raise StorageError unless a tile file has this grid, and this type of entries."""
    if layout.grid != grid:
        raise refusal(layout.path, f"it holds {layout.grid}, where the inputs make {grid}")
    if dtype is not None and layout.dtype != np.dtype(dtype):
        raise refusal(layout.path, f"it holds {layout.dtype}, where the deck asks for {dtype}")


def read_solution(path: Path, inputs: Path) -> tuple[Array, dict[str, Any]]:
    """Return the coefficients (settings, n, outputs), and what the solver said of them.

    Raises StorageError if they are others, or not finite.
    """
    alpha, said = read_finite(path, "alpha", "results")
    expected = (len(alpha), *_form(inputs, "y_train", 2, "f8")) if alpha.ndim else ()
    if alpha.shape != expected or alpha.dtype != np.float64:
        raise refusal(path, f"alpha is {alpha.dtype} of shape {alpha.shape}, expected {expected}")
    results = parse_mapping(path, said.tobytes().decode("utf-8", "replace"))
    if found := misfit_of_results(results, len(alpha)):
        raise refusal(path, f"its results are none: {found}")
    if not 0 < results["mean_diagonal"] < math.inf:
        raise refusal(path, f"its mean diagonal is {results['mean_diagonal']}")
    return alpha, results
