"""All CUDA sources compile for every GPU that is promised, on a machine without one."""

import numpy as np
import pytest

from hpcnk.engine.device.program import device_program
from hpcnk.engine.device.source import KERNELS, SOURCE, STREAM, Compiled, stream_module
from hpcnk.kernels import parse
from tests.support.cuda_compilers import ABSENT, CudaError, find_nvcc, find_nvrtc

ARCHITECTURES = ("sm_70", "sm_80", "sm_90", "sm_100")
CONV = {"conv": {"filter": 3}}
RESIDUAL = {"branch": [CONV, "relu", {"avg_pool": 2}, CONV], "shortcut": [{"avg_pool": 2}, CONV]}
# Networks whose fast stages differ: sources, ends, depths, pixels of a lane.
NETWORKS = {
    "myrtle10": ("myrtle10", (32, 32, 3)),
    "myrtle5 64": ("myrtle5", (64, 64, 3)),
    "myrtle5 96": ("myrtle5", (96, 96, 1)),
    "cv8": ("cv8", (32, 32, 3)),
    "odd": ([CONV, "relu", {"avg_pool": 3}, CONV, "relu", "flatten", "dense"], (9, 33, 20)),
    "sequence": ([CONV, "relu", {"avg_pool": 2}, "flatten", "dense"], (28, 20)),
    "tensor": ([CONV, "relu", {"residual": RESIDUAL}, "global_avg_pool", "dense"], (8, 8, 3)),
}


def compilers():
    return [found for found in (find_nvrtc(), find_nvcc()) if found]


def compiler_for(architecture):
    """Return a compiler, or skip the test: CUDA 13 no longer knows sm_70, CUDA 12.7 not sm_100."""
    if not compilers():
        pytest.skip(ABSENT)
    for compiler in compilers():
        if architecture in compiler.architectures:
            return compiler
    versions = ", ".join(compiler.version for compiler in compilers())
    return pytest.skip(f"{versions} does not compile for {architecture}")


def stream_modules(name, dtype, tangent=True):
    """Name a module for each fast stage of a network."""
    spec, shape = NETWORKS[name]
    program = device_program(parse(spec).plan(shape), tangent, dtype == "float64")
    shapes = [call.shape for call in program.calls if call.shape is not None]
    assert shapes
    return [stream_module(np.dtype(dtype), shape) for shape in shapes]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels(architecture, dtype):
    binary = compiler_for(architecture).compile(Compiled(dtype), architecture)
    assert all(kernel.encode() in binary for kernel in KERNELS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fast_kernel_for_myrtle10(architecture, dtype):
    compiler = compiler_for(architecture)
    for module in stream_modules("myrtle10", dtype):
        assert STREAM.encode() in compiler.compile(module, architecture)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"myrtle10"}))
def test_fast_kernel_for_other_stages(name):
    compiler = compiler_for("sm_90")
    for module in stream_modules(name, "float32"):
        assert STREAM.encode() in compiler.compile(module, "sm_90")


@pytest.mark.parametrize("name", ["cv8", "odd"])
def test_fast_kernel_without_tangents(name):
    compiler = compiler_for("sm_90")
    for module in stream_modules(name, "float64", tangent=False):
        assert STREAM.encode() in compiler.compile(module, "sm_90")


def test_messages_point_into_the_sources():
    compiler = compiler_for("sm_90")
    with pytest.raises(CudaError, match=r'device_stage\.cuh[":(]'):
        compiler.compile(Broken("float32"), "sm_90")


class Broken(Compiled):
    @property
    def text(self):
        return super().text.replace("struct Area {", "struct Area { nonsense here;")


def test_every_source_of_the_gpu_is_compiled():
    text = Compiled("float32").text
    for path in SOURCE.glob("device*"):
        assert path.name in text
    assert "#include" not in text
