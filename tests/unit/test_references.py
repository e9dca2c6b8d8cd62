"""Kernels against float64 references computed by other people's code (Neural Tangents)."""

import json
from pathlib import Path

import numpy as np
import pytest

from hpcnk import Kernel
from tests.support.engines import BACKENDS, COMPILED, engine_for

FOLDER = Path(__file__).parent.parent / "references"
FILES = sorted(set(FOLDER.glob("*.npz")) - set(FOLDER.glob("end_to_end_*.npz")))
# The references' own diagonal is off by up to 4e-9 for the tangent kernel (arccos near 1).
REFERENCE_DIAGONAL = 1e-7
TOLERANCE = {"float64": 1e-12, "float32": 5e-6}
DIAGONAL = {"float64": 1e-12, "float32": 1e-6}


def relative_error(got, expected):
    return np.abs(got - expected) / np.abs(expected)


def load(path):
    with np.load(path, allow_pickle=False) as file:
        reference = dict(file)
    return json.loads(str(reference["layers"])), reference


def test_every_reference_is_here():
    assert len(FILES) == 17


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reference(path, dtype, backend):
    layers, reference = load(path)
    for kind in ("nngp", "ntk"):
        engine = engine_for(layers, kind, dtype, backend)
        x1, x2 = engine.prepare(reference["x1"]), engine.prepare(reference["x2"])
        cross = engine.block(x1, x2)
        assert cross.dtype == dtype
        assert relative_error(cross, reference[kind]).max() <= TOLERANCE[dtype]
        check_self(engine.symmetric_block(x1), reference[f"{kind}_self"], kind, dtype)


def check_self(got, expected, kind, dtype):
    error = relative_error(got, expected)
    away = ~np.eye(len(got), dtype=bool)
    assert error[away].max() <= TOLERANCE[dtype]
    diagonal = DIAGONAL[dtype] if kind == "nngp" else max(DIAGONAL[dtype], REFERENCE_DIAGONAL)
    assert np.diag(error).max() <= diagonal


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_diagonal_is_the_exact_one_of_the_twin(path, backend):
    """The references cannot tell it to 12 digits for the tangent kernel; the twin can."""
    layers, reference = load(path)
    exact = engine_for(layers, "ntk", "float64").prepare(reference["x1"]).diagonal
    for dtype, tolerance in DIAGONAL.items():
        engine = engine_for(layers, "ntk", dtype, backend)
        diagonal = np.diag(engine.symmetric_block(engine.prepare(reference["x1"])))
        assert relative_error(diagonal, exact).max() <= tolerance


@pytest.mark.parametrize("name", ["cv8", "fc1_image", "fc3", "myrtle5", "myrtle7", "myrtle10"])
def test_preset_is_the_list_of_its_reference(name):
    layers, reference = load(FOLDER / f"{name}.npz")
    assert Kernel(json.loads(str(reference["meta"]))).architecture == Kernel(layers).architecture
