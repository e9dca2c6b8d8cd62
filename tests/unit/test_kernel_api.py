"""`hpcnk.Kernel` and the engine as a user meets them."""

import subprocess
import sys

import numpy as np
import pytest

from hpcnk import Kernel, __version__
from hpcnk.engine import make_engine, threads
from hpcnk.engine.threads import default_threads, for_each, usable_cores
from hpcnk.errors import ArchitectureError, BackendError, DataError, UsageError
from hpcnk.kernels import parse
from tests.support.engines import BACKENDS, device_problem, engine_for

FC = {"preset": "fc", "depth": 2}


def rows(*shape):
    return np.random.default_rng(3).standard_normal(shape)


def test_import_needs_neither_mpi_nor_hdf5():
    code = (
        "import sys, hpcnk; from hpcnk import Kernel; import numpy as np;"
        "Kernel('fc1')(np.eye(3)); print(sorted({'mpi4py', 'h5py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_and_unknown_name():
    import hpcnk

    assert __version__.count(".") == 2
    with pytest.raises(AttributeError, match="Kernal"):
        hpcnk.Kernal  # noqa: B018


@pytest.mark.parametrize("shape", [(5, 7), (5, 9, 3), (5, 6, 4, 2)])
def test_shapes_and_dtypes(shape):
    layers = FC if len(shape) == 2 else ["flatten", "dense", "relu", "dense"]
    for dtype in ("float32", "float64"):
        matrix = Kernel(layers, dtype=dtype)(rows(*shape))
        assert matrix.shape == (5, 5)
        assert matrix.dtype == dtype
    assert Kernel(layers)(rows(*shape), rows(2, *shape[1:])).shape == (5, 2)


def test_integers_and_lists_are_taken():
    x = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(Kernel(FC)(x), Kernel(FC)(x.astype(float).tolist()))


def test_no_rows_give_an_empty_matrix():
    kernel = Kernel({"preset": "cv", "depth": 1})
    assert kernel(rows(0, 4, 4, 1)).shape == (0, 0)
    assert kernel(rows(0, 4, 4, 1), rows(3, 4, 4, 1)).shape == (0, 3)


@pytest.mark.parametrize(
    ("x1", "x2", "match"),
    [
        (rows(3), None, r"expected rows, got shape \(3,\)"),
        (rows(3, 4), rows(3, 5), r"rows of x1 have shape \(4,\), rows of x2 \(5,\)"),
        ([["a", "b"]], None, "expected real numbers"),
        (np.ones((2, 2), complex), None, "expected real numbers"),
        ([[1.0], [1.0, 2.0]], None, "no array can be made"),
    ],
)
def test_wrong_arrays(x1, x2, match):
    with pytest.raises(UsageError, match=match) as caught:
        Kernel(FC)(x1, x2)
    assert caught.value.advice


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_no_kernel_can_take(value):
    x = rows(4, 5)
    x[2, 1] = value
    with pytest.raises(DataError, match="row 2"):
        Kernel(FC)(rows(3, 5), x)


def test_overflowing_kernel_names_the_row():
    x = rows(600, 5)
    x[555] = 1e30
    with pytest.raises(DataError, match=r"row 555.*overflows float32"):
        Kernel(FC)(x)
    assert np.isfinite(Kernel(FC, dtype="float64")(x)).all()


def test_impossible_network_for_the_data():
    with pytest.raises(ArchitectureError, match="without spatial axes"):
        Kernel("cv8")(rows(3, 4))
    with pytest.raises(ArchitectureError, match="no vectors, sequences or images"):
        Kernel(FC)(rows(3, 2, 2, 2, 2))


def test_names_are_checked():
    with pytest.raises(ArchitectureError, match="expected ntk or nngp, got 'nkt'"):
        Kernel(FC, kind="nkt")
    with pytest.raises(UsageError, match="expected float32 or float64, got 'float16'"):
        Kernel(FC, dtype="float16")
    with pytest.raises(UsageError, match="expected one of auto, cpu, gpu, reference, got 'cuda'"):
        Kernel(FC, backend="cuda")
    with pytest.raises(UsageError, match="threads: expected at least 1, got 0"):
        make_engine(parse(FC), threads=0)


def test_gpu_that_cannot_be_used_is_refused_with_advice():
    if not device_problem():
        pytest.skip("there is a usable GPU here")
    with pytest.raises(BackendError, match="backend gpu: ") as caught:
        Kernel(FC, backend="gpu")
    assert "set backend to auto" in caught.value.advice


def test_engine_says_what_it_is():
    for backend in ("cpu", "reference"):
        engine = make_engine(parse(FC), backend=backend)
        assert engine.backend == backend
        assert "asked for" in engine.reason
    assert repr(Kernel("cv8", kind="nngp")) == "Kernel('cv8', kind='nngp', dtype='float32')"


def test_auto_is_a_compiled_engine_and_says_why():
    engine = make_engine(parse(FC))
    assert isinstance(Kernel(FC).engine, type(engine))
    if device_problem():
        assert engine.backend == "cpu"
        assert "GPU" in engine.reason
    else:
        assert engine.backend == "gpu"


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_of_unlike_rows_are_refused(backend):
    engine = engine_for({"preset": "cv", "depth": 1}, backend=backend)
    with pytest.raises(UsageError, match="prepare both"):
        engine.block(engine.prepare(rows(2, 4, 4, 1)), engine.prepare(rows(2, 5, 4, 1)))


def test_threads_from_the_environment(monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: frozenset(range(4)))
    for text, expected in (("3,2", 3), ("4", 4), ("30000", 4)):  # never more than cores
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert default_threads() == expected
    monkeypatch.undo()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert default_threads() == len(usable_cores()) >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(UsageError, match="OMP_NUM_THREADS"):
        Kernel(FC)


def test_an_error_in_a_thread_is_raised_and_ends_the_work():
    done = []

    def work(task):
        if task == 3:
            raise DataError("task 3")
        done.append(task)

    with pytest.raises(DataError, match="task 3"):
        for_each(work, range(5000), 2)
    assert len(done) < 5000
