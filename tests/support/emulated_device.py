"""A device that is none: the GPU's kernels, compiled for the host, on NumPy arrays."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.build import SOURCE, find_compiler
from hpcnk.engine.device.engine import DeviceEngine
from hpcnk.engine.device.source import Compiled
from hpcnk.engine.device.tables import THREADS, WARP, Shape
from hpcnk.kernels import parse

GUARD = 256
ALIGNMENT = 256  # as CuPy's
NANS = 0xFF  # float32 and float64 alike
HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-Wno-psabi")


@cache
def emulation() -> ctypes.CDLL:
    """Compile tests/support/emulated.cpp, once for each state of the sources."""
    compiler = find_compiler()
    sources = [*SOURCE.glob("*.cuh"), *HERE.glob("emulated.*")]
    text = (
        b"".join(path.read_bytes() for path in sorted(sources)) + repr((compiler, FLAGS)).encode()
    )
    folder = Path(tempfile.gettempdir()) / f"hpcnk-emulation-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{hashlib.sha256(text).hexdigest()[:20]}.so"
    if not path.exists():
        made = path.with_suffix(f".{os.getpid()}")
        command = [
            *compiler,
            *FLAGS,
            "-I",
            str(SOURCE),
            str(HERE / "emulated.cpp"),
            "-o",
            str(made),
        ]
        subprocess.run(command, check=True)
        made.replace(path)
    return ctypes.CDLL(str(path))


@dataclass
class Done:
    """An array that is there already."""

    array: NDArray

    def result(self) -> NDArray:
        return self.array


class EmulatedDevice:
    """Runs warps and blocks one after the other; notes what it is asked for."""

    name = "an emulated GPU"
    multiprocessors = 1

    def __init__(self, shared_bytes: int = 48 * 1024) -> None:
        self.shared_bytes = shared_bytes
        self.launched: list[tuple[str, int]] = []
        self.held = 0
        self._whole: list[NDArray] = []

    def upload(self, array: NDArray) -> NDArray:
        made = self.empty(array.shape, array.dtype)
        made[...] = array
        return made

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
        """Allocate what reads as NaN, with a guard behind it; nothing is ever freed."""
        size = prod(shape) * np.dtype(dtype).itemsize
        whole = np.full(size + GUARD + ALIGNMENT, NANS, np.uint8)
        start = -whole.ctypes.data % ALIGNMENT
        self._whole.append(whole[start + size : start + size + GUARD])
        self.held += size
        return whole[start : start + size].view(dtype).reshape(shape)

    def check(self) -> None:
        """Assert that nothing was written behind an allocation."""
        assert all((guard == NANS).all() for guard in self._whole)

    def clear(self, array: NDArray) -> None:
        array.fill(0)

    def address(self, array: NDArray) -> int:
        return int(array.ctypes.data)

    def products(self, left: NDArray, right: NDArray) -> NDArray:
        return left @ right.T

    def launch(
        self, module: Compiled, kernel: str, blocks: int, threads: int, work: Any, shared: int = 0
    ) -> None:
        name = kernel.removeprefix("hpcnk_")
        self.launched.append((name, blocks))
        function = emulation()[f"{name}_{module.dtype}"]
        function.restype = None
        where = ctypes.byref(work)
        if name == "stream":
            assert threads == WARP
            function(where, ctypes.byref(shape_of(module)), ctypes.c_longlong(blocks))
        elif name == "planes":
            assert threads == THREADS
            function(where, ctypes.c_longlong(blocks), shared)
        else:
            assert blocks == -(-work.count // THREADS)
            function(where)

    def download(self, array: NDArray) -> Done:
        return Done(array)


def shape_of(module: Compiled) -> Shape:
    """Read a shape back from the text that the GPU's compiler gets."""
    fields = (field.split(" = ") for field in module.shape.split(", "))
    return Shape(**{name: int(value) for name, value in fields})


def device_engine(spec: Any, kind: str, dtype: str, device: EmulatedDevice) -> DeviceEngine:
    """Make the GPU engine on an emulated device."""
    return DeviceEngine(parse(spec), kind, np.dtype(dtype), 1, device)
