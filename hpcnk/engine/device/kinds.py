"""What the GPU engine asks of a device: CUDA through CuPy, or the emulation that the tests run."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.device.source import Compiled

DeviceArray = Any  # cupy.ndarray, or numpy.ndarray in the emulation


class Copied(Protocol):
    """An array on its way to the host."""

    def result(self) -> NDArray:
        """Wait for it. Raises BackendError if the work behind it failed."""


class Device(Protocol):
    """One device. Work runs in the order it is asked for; every method may raise BackendError."""

    name: str
    multiprocessors: int
    shared_bytes: int  # of one block

    def upload(self, array: NDArray) -> DeviceArray:
        """Copy an array to the device."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """Allocate without a value."""

    def clear(self, array: DeviceArray) -> None:
        """Fill with zeros."""

    def address(self, array: DeviceArray) -> int:
        """Where the first number lies."""

    def products(self, left: DeviceArray, right: DeviceArray) -> DeviceArray:
        """Scalar products of all rows with all rows, (left, right)."""

    def launch(
        self, module: Compiled, kernel: str, blocks: int, threads: int, work: Any, shared: int = 0
    ) -> None:
        """Run a kernel of a module; `work` is a Work32 or a Work64, `shared` in bytes."""

    def download(self, array: DeviceArray) -> Copied:
        """Begin to copy to the host, behind all work asked for so far; later work need not wait."""
