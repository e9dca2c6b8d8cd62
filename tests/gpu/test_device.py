"""The engine on a real GPU; without one, every test is skipped with the reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpcnk.engine import device_problem, make_engine
from hpcnk.errors import BackendError
from hpcnk.kernels import parse
from tests.support.engines import images
from tests.support.networks import PATHS

pytestmark = pytest.mark.skipif(device_problem() != "", reason=device_problem())

FOLDER = Path(__file__).parent.parent / "references"
FILES = sorted(set(FOLDER.glob("*.npz")) - set(FOLDER.glob("end_to_end_*.npz")))
TOLERANCE = {"float64": 1e-12, "float32": 5e-6}
SHAPE = (8, 8, 3)


def gpu(spec, kind="ntk", dtype="float32", local_rank=0):
    engine = make_engine(parse(spec), kind, dtype, "gpu", 1, local_rank)
    assert engine.backend == "gpu"
    return engine


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reference(path, dtype):
    with np.load(path, allow_pickle=False) as file:
        reference = dict(file)
    layers = json.loads(str(reference["layers"]))
    for kind in ("nngp", "ntk"):
        engine = gpu(layers, kind, dtype)
        x1, x2 = engine.prepare(reference["x1"]), engine.prepare(reference["x2"])
        got = engine.block(x1, x2)
        assert np.abs(got / reference[kind] - 1).max() <= TOLERANCE[dtype]
        own = engine.symmetric_block(x1)
        away = ~np.eye(len(own), dtype=bool)
        assert np.abs(own / reference[f"{kind}_self"] - 1)[away].max() <= TOLERANCE[dtype]
        assert (own == own.T).all()
        assert (np.diag(own) == x1.diagonal.astype(dtype)).all()


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_path_agrees_with_the_reference_engine(name, dtype):
    shape = (200,) if name == "fc" else SHAPE
    x, y = images(37, shape), images(20, shape, 1)
    engine = gpu(PATHS[name], "ntk", dtype)
    twin = make_engine(parse(PATHS[name]), "ntk", "float64", "reference")
    a, b = twin.prepare(x), twin.prepare(y)
    scale = np.sqrt(np.outer(a.diagonal, b.diagonal))
    errors = np.abs(engine.block(engine.prepare(x), engine.prepare(y)) - twin.block(a, b)) / scale
    assert errors.max() <= {"float64": 1e-11, "float32": 1e-4}[dtype]
    assert np.median(errors) <= {"float64": 1e-14, "float32": 2e-6}[dtype]


@pytest.mark.parametrize("shape", [(32, 32, 3), (64, 64, 3), (31, 33, 1), (5, 96, 2)])
def test_sizes_of_images(shape):
    layers = PATHS["gap"]
    x = images(3, shape)
    engine, host = gpu(layers), make_engine(parse(layers), backend="cpu")
    own, expected = (e.symmetric_block(e.prepare(x)) for e in (engine, host))
    np.testing.assert_allclose(own, expected, rtol=2e-5)


def test_same_bytes_every_time_where_nothing_is_pooled():
    for name in ("cv", "fc"):
        x = images(50, (40,) if name == "fc" else SHAPE)
        engine = gpu(PATHS[name])
        rows = engine.prepare(x)
        assert engine.block(rows, rows).tobytes() == engine.block(rows, rows).tobytes()


def test_blocks_begun_together_are_those_made_one_by_one():
    engine = gpu(PATHS["cv"])
    parts = [engine.prepare(images(64, SHAPE, seed)) for seed in range(4)]
    begun = [engine.start_block(a, b) for a in parts for b in parts]
    blocks = [engine.block(a, b) for a in parts for b in parts]
    for pending, block in zip(begun, blocks, strict=True):
        assert (pending.result() == block).all()


def test_memory_stays_within_what_is_stated():
    import cupy

    engine, tile = gpu("myrtle5"), 64
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    rows = [engine.prepare(images(tile, (32, 32, 3), seed)) for seed in range(2)]
    engine.block(*rows)
    taken = pool.total_bytes() - before
    assert taken <= 1.2 * engine.device_bytes((32, 32, 3), tile, rows=2 * tile)


def test_every_local_rank_has_a_gpu():
    for local_rank in range(5):
        engine = gpu(PATHS["gap"], local_rank=local_rank)
        assert np.isfinite(engine.symmetric_block(engine.prepare(images(4, SHAPE)))).all()


SCRIPT = """
import sys, numpy as np
from hpcnk.engine import make_engine
from hpcnk.kernels import parse
engine = make_engine(parse("myrtle5"), backend="gpu", local_rank=int(sys.argv[1]))
x = np.random.default_rng(0).standard_normal((40, 16, 16, 3))
print(repr(float(engine.symmetric_block(engine.prepare(x)).astype(float).sum())))
"""


def test_several_processes_on_one_gpu():
    command = [sys.executable, "-c", SCRIPT]
    started = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    sums = [float(process.communicate(timeout=250)[0]) for process in started]
    assert all(process.returncode == 0 for process in started)
    np.testing.assert_allclose(sums, sums[0], rtol=1e-6)


def test_a_full_device_is_an_error_with_advice():
    engine = gpu(PATHS["cv"])
    rows = engine.prepare(images(2, SHAPE))
    with pytest.raises(BackendError, match="memory") as raised:
        engine._device.empty((1 << 50,), np.dtype(np.float32))
    assert "tile" in raised.value.advice
    assert np.isfinite(engine.block(rows, rows)).all()


def test_no_visible_gpu_is_an_error_that_says_so():
    script = "from hpcnk.engine import make_engine\nfrom hpcnk.kernels import parse\n"
    script += "make_engine(parse('myrtle5'), backend='gpu')\n"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode and "BackendError" in done.stderr and "GPU" in done.stderr
