"""The GPU engine on an emulated device: references, sub-batches, memory, choice of the device."""

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest

from hpcnk.engine import device_problem, make_engine
from hpcnk.engine.device import launch as device_launch
from hpcnk.engine.device.tables import Shape, Work32, Work64
from hpcnk.errors import BackendError, UsageError
from hpcnk.kernels import parse
from tests.support.emulated_device import EmulatedDevice, device_engine, emulation
from tests.support.engines import engine_for, images
from tests.support.networks import PATHS

FOLDER = Path(__file__).parent.parent / "references"
FILES = sorted(set(FOLDER.glob("*.npz")) - set(FOLDER.glob("end_to_end_*.npz")))
TOLERANCE = {"float64": 1e-12, "float32": 5e-6}
SHAPE = (6, 8, 3)


def shape_for(name):
    return (40,) if name == "fc" else SHAPE


@pytest.fixture
def device():
    return EmulatedDevice()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reference(path, dtype, device):
    with np.load(path, allow_pickle=False) as file:
        reference = dict(file)
    layers = json.loads(str(reference["layers"]))
    for kind in ("nngp", "ntk"):
        engine = device_engine(layers, kind, dtype, device)
        x1, x2 = engine.prepare(reference["x1"][:2]), engine.prepare(reference["x2"][:2])
        expected = reference[kind][:2, :2]
        assert np.abs(engine.block(x1, x2) / expected - 1).max() <= TOLERANCE[dtype]
        own, expected = engine.symmetric_block(x1), reference[f"{kind}_self"][:2, :2]
        assert abs(own[0, 1] / expected[0, 1] - 1) <= TOLERANCE[dtype]
        assert own[1, 0] == own[0, 1]
        assert (np.diag(own) == x1.diagonal.astype(dtype)).all()
    device.check()


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_every_path_agrees_with_the_reference_engine(name, kind, device):
    x, y = images(5, shape_for(name)), images(4, shape_for(name), 1)
    mine = device_engine(PATHS[name], kind, "float64", device)
    twin = engine_for(PATHS[name], kind, "float64", "reference")
    left, right = twin.prepare(x).diagonal, twin.prepare(y).diagonal
    got, expected = (e.block(e.prepare(x), e.prepare(y)) for e in (mine, twin))
    check_close(got, expected, left, right)
    own, expected = (e.symmetric_block(e.prepare(x)) for e in (mine, twin))
    check_close(own, expected, left, left)


def check_close(got, expected, left, right, tolerance=1e-12):
    """Compare on the scale of the diagonal: kernels without biases cross zero."""
    assert (np.abs(got - expected) <= tolerance * np.sqrt(np.outer(left, right))).all()


@pytest.mark.parametrize("name", PATHS)
def test_sub_batches_change_rounding_at_most(name, monkeypatch):
    x, y = images(7, shape_for(name)), images(3, shape_for(name), 1)
    blocks = []
    for budget in (device_launch.BUDGET_BYTES, 1):
        monkeypatch.setattr(device_launch, "BUDGET_BYTES", budget)
        device = EmulatedDevice()
        engine = device_engine(PATHS[name], "ntk", "float64", device)
        rows, others = engine.prepare(x), engine.prepare(y)
        blocks += [engine.block(rows, others), engine.symmetric_block(rows)]
        batches = sum(name == "deliver" for name, _ in device.launched)
        assert batches == (0 if name == "fc" else 2 if budget > 1 else 7 * 3 + 7 * 6 // 2)
    # Pools are added up in another order.
    check_close(blocks[0], blocks[2], rows.diagonal, others.diagonal, 1e-13)
    check_close(blocks[1], blocks[3], rows.diagonal, rows.diagonal, 1e-13)


@pytest.mark.parametrize("count", range(1, 9))
def test_symmetric_blocks_of_any_size_hold_every_pair(count, device):
    engine = device_engine(PATHS["cv"], "ntk", "float64", device)
    rows = engine.prepare(images(count, (3, 3, 1)))
    full = engine.block(rows, rows)
    np.fill_diagonal(full, rows.diagonal)
    np.testing.assert_allclose(engine.symmetric_block(rows), full, rtol=1e-12)


def test_few_planes_in_scratch_memory(monkeypatch):
    """Where shared memory is too small, few blocks with scratch take all planes in turn."""
    blocks = []
    for shared, scratch in ((48 * 1024, 1 << 28), (0, 1)):
        monkeypatch.setattr(device_launch, "SCRATCH_BYTES", scratch)
        device = EmulatedDevice(shared)
        engine = device_engine(PATHS["residual"], "ntk", "float64", device)
        blocks.append(engine.symmetric_block(engine.prepare(images(4, SHAPE))))
        assert ("planes", 1 if shared == 0 else device_launch.BLOCKS_EACH) in device.launched
    assert (blocks[0] == blocks[1]).all()


def test_slices_and_parts_agree(device):
    engine = device_engine(PATHS["gap"], "ntk", "float64", device)
    rows = engine.prepare(images(6, SHAPE))
    whole = engine.block(rows, rows)
    assert (engine.block(rows[2:5], rows[4:]) == whole[2:5, 4:]).all()
    assert len(rows[2:5]) == 3
    assert rows.nbytes >= rows[1:].nbytes > 0


def test_blocks_may_be_begun_before_others_are_taken(device):
    engine = device_engine(PATHS["gap"], "ntk", "float32", device)
    a, b = (engine.prepare(images(3, SHAPE, seed)) for seed in (0, 1))
    begun = [engine.start_block(a, b), engine.start_block(a), engine.start_block(b, a)]
    blocks = [pending.result() for pending in reversed(begun)]
    np.testing.assert_allclose(blocks[0], blocks[2].T, rtol=1e-5)
    assert (blocks[1] == begun[1].result()).all()
    assert (blocks[1] == engine.symmetric_block(a)).all()


@pytest.mark.parametrize("backend", ["gpu", "cpu", "reference"])
def test_every_back_end_begins_blocks(backend, device):
    if backend == "gpu":
        engine = device_engine(PATHS["cv"], "ntk", "float64", device)
    else:
        engine = engine_for(PATHS["cv"], backend=backend)
    a, b = (engine.prepare(images(3, SHAPE, seed)) for seed in (0, 1))
    assert (engine.start_block(a, b).result() == engine.block(a, b)).all()
    assert (engine.start_block(a).result() == engine.symmetric_block(a)).all()


def test_no_rows(device):
    engine = device_engine(PATHS["gap"], "ntk", "float32", device)
    rows = engine.prepare(images(3, SHAPE))
    assert engine.block(rows[:0], rows).shape == (0, 3)
    assert engine.symmetric_block(rows[:0]).shape == (0, 0)


def test_rows_of_other_shapes_are_refused(device):
    engine = device_engine(PATHS["gap"], "ntk", "float32", device)
    a, b = engine.prepare(images(2, (6, 8, 3))), engine.prepare(images(2, (8, 6, 3)))
    with pytest.raises(UsageError, match="same shape"):
        engine.block(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PATHS)
def test_device_memory_is_stated(name, dtype):
    tile, shape = 9, shape_for(name)
    for shared in (48 * 1024, 0):
        device = EmulatedDevice(shared)
        engine = device_engine(PATHS[name], "ntk", dtype, device)
        rows = [engine.prepare(images(tile, shape, seed)) for seed in range(2)]
        engine.block(*rows)
        stated = engine.device_bytes(shape, tile, rows=2 * tile)
        assert device.held <= stated <= 1.2 * device.held + 2 * tile**2 * 8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["gap", "cv", "fc", "residual"])
def test_near_one_and_unusual_rows(name, dtype, device):
    """Duplicates, scaled copies, constant and zero rows, one pixel changed: finite, and right."""
    shape = shape_for(name)
    base = images(1, shape)[0]
    other = base.copy()
    other.flat[0] += 1e-3
    x = np.stack([base, base, 2 * base, other, np.ones(shape), np.zeros(shape), 1e-12 * base])
    gpu = device_engine(PATHS[name], "ntk", dtype, device)
    got = gpu.block(gpu.prepare(x), gpu.prepare(x))
    cpu = engine_for(PATHS[name], "ntk", "float64", "reference")
    expected = cpu.symmetric_block(cpu.prepare(x))
    assert np.isfinite(got).all()
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    # The angle between parallel rows is the root of a rounding error; see test_engine_near_one.py.
    bound = 3 * np.sqrt(8 * np.finfo(dtype).eps) / np.pi
    assert (np.abs(got - expected) / scale).max() <= bound


def test_structures_are_those_of_the_sources():
    library = emulation()
    assert library.work_bytes_float32() == ctypes.sizeof(Work32)
    assert library.work_bytes_float64() == ctypes.sizeof(Work64)
    assert library.shape_bytes() == ctypes.sizeof(Shape)


# --- choosing the device


@pytest.mark.skipif(device_problem() == "", reason="there is a usable GPU")
def test_gpu_without_a_gpu_says_why():
    with pytest.raises(BackendError) as raised:
        make_engine(parse("myrtle5"), backend="gpu")
    assert device_problem() in raised.value.what
    assert "set backend to auto" in raised.value.advice


@pytest.mark.skipif(device_problem() == "", reason="there is a usable GPU")
def test_auto_without_a_gpu_takes_the_cpu_and_says_why():
    engine = make_engine(parse("myrtle5"))
    assert engine.backend == "cpu"
    assert device_problem() in engine.reason


def test_reason_names_the_device(device):
    engine = device_engine("myrtle5", "ntk", "float32", device)
    assert (engine.backend, engine.reason) == ("gpu", "an emulated GPU")
