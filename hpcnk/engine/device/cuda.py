"""CUDA through CuPy: the only module that imports it beside `problem.py`.

All work goes to one stream in the order it is asked for; results leave through a second one, into
pinned memory, so that a copy runs beside the next block's kernels. No kernel of CuPy's own is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.device.kinds import DeviceArray
from hpcnk.engine.device.problem import require_device
from hpcnk.engine.device.source import OPTIONS, Compiled
from hpcnk.errors import BackendError

MEMORY_ADVICE = "use a smaller `tile`, or start fewer ranks for each GPU"
OTHER_ADVICE = "see that the GPU works (nvidia-smi), or use `backend: cpu`"
BUILD_ADVICE = (
    "see that CuPy and its CUDA libraries belong together (pip install 'cupy-cuda12x[ctk]'), or "
    "use `backend: cpu`"
)


def cupy_device(local_rank: int) -> CupyDevice:
    """Open the GPU of a rank: its number on the node modulo the number of GPUs that it sees.

    Raises BackendError, saying why, if there is no usable GPU.
    """
    require_device()
    import cupy

    with _errors(cupy):
        return CupyDevice(cupy, local_rank % int(cupy.cuda.runtime.getDeviceCount()))


class CupyDevice:
    """One GPU; see kinds.py for what the methods promise."""

    def __init__(self, cupy: Any, number: int) -> None:
        self._cupy = cupy
        self._device = cupy.cuda.Device(number)
        self._functions: dict[tuple[Compiled, str], Any] = {}
        self._staged: list[tuple[Any, Any]] = []
        with self._device:
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._copies = cupy.cuda.Stream(non_blocking=True)
            name = cupy.cuda.runtime.getDeviceProperties(number)["name"]
            limits = self._device.attributes
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self.multiprocessors = int(limits["MultiProcessorCount"])
        self.shared_bytes = int(limits["MaxSharedMemoryPerBlock"])

    def upload(self, array: NDArray) -> DeviceArray:
        """Copy by way of pinned memory, behind the work asked for so far."""
        with self._on_stream():
            made = self._cupy.empty(array.shape, array.dtype)
            if made.nbytes:
                pinned = self._pinned(array)
                made.data.copy_from_host_async(pinned.ptr, made.nbytes, self._stream)
                self._keep(pinned)
            return made

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """Allocate without a value."""
        with self._on_stream():
            return self._cupy.empty(shape, dtype)

    def clear(self, array: DeviceArray) -> None:
        """Fill with zeros."""
        with self._on_stream():
            array.data.memset_async(0, array.nbytes, self._stream)

    def address(self, array: DeviceArray) -> int:
        """Where the first number lies."""
        return int(array.data.ptr)

    def products(self, left: DeviceArray, right: DeviceArray) -> DeviceArray:
        """Scalar products of all rows with all rows, by cuBLAS."""
        with self._on_stream():
            return self._cupy.matmul(left, right.T)

    def launch(
        self, module: Compiled, kernel: str, blocks: int, threads: int, work: Any, shared: int = 0
    ) -> None:
        """Run a kernel; `work` is passed by value."""
        argument = np.frombuffer(bytearray(work), [("work", f"V{len(bytes(work))}")])
        with self._on_stream():
            self._function(module, kernel)((blocks,), (threads,), (argument,), shared_mem=shared)

    def download(self, array: DeviceArray) -> CupyCopied:
        """Begin to copy to the host."""
        with self._on_stream():
            pinned = self._cupy.cuda.alloc_pinned_memory(array.nbytes)
            self._copies.wait_event(self._stream.record())
            array.data.copy_to_host_async(pinned.ptr, array.nbytes, self._copies)
            return CupyCopied(self, array, pinned, self._copies.record())

    def wait(self, event: Any) -> None:
        """Wait for an event, from any thread."""
        with self.errors(), self._device:
            event.synchronize()

    def errors(self) -> Any:
        """Turn what CuPy raises into BackendError."""
        return _errors(self._cupy)

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        with self.errors(), self._device, self._stream:
            yield

    def _function(self, module: Compiled, kernel: str) -> Any:
        found = self._functions.get((module, kernel))
        if found is None:
            made = self._cupy.RawModule(code=module.text, options=OPTIONS, backend="nvrtc")
            found = self._functions[module, kernel] = made.get_function(kernel)
        return found

    def _pinned(self, array: NDArray) -> Any:
        pinned = self._cupy.cuda.alloc_pinned_memory(array.nbytes)
        np.frombuffer(pinned, array.dtype, array.size).reshape(array.shape)[...] = array
        return pinned

    def _keep(self, pinned: Any) -> None:
        """Keep pinned memory until the copy out of it is done."""
        self._staged = [held for held in self._staged if not held[0].done]
        self._staged.append((self._stream.record(), pinned))


@dataclass
class CupyCopied:
    """A block on its way to the host; holds the device's and the pinned memory."""

    device: CupyDevice
    array: Any
    pinned: Any
    done: Any

    def result(self) -> NDArray:
        """Wait for the copy. Raises BackendError if a kernel before it failed."""
        self.device.wait(self.done)
        shape, dtype = self.array.shape, self.array.dtype
        return np.frombuffer(self.pinned, dtype, self.array.size).reshape(shape)


@contextmanager
def _errors(cupy: Any) -> Iterator[None]:
    cuda = cupy.cuda
    try:
        yield
    except cuda.memory.OutOfMemoryError as error:
        raise BackendError(f"the GPU's memory is full: {error}", MEMORY_ADVICE) from error
    except cuda.compiler.CompileException as error:
        raise BackendError(f"the GPU engine did not compile: {error}", BUILD_ADVICE) from error
    except ImportError as error:
        raise BackendError(f"a library of CUDA is missing: {error}", BUILD_ADVICE) from error
    except RuntimeError as error:  # of the driver, the runtime, cuBLAS and the compiler
        advice = MEMORY_ADVICE if "emoryAllocation" in str(error) else OTHER_ADVICE
        raise BackendError(f"CUDA failed: {error}", advice) from error


def cupy_memory(local_rank: int) -> CupyMemory:
    """Open the memory of a rank's GPU, chosen as for its engine. Raises BackendError."""
    require_device()
    import cupy

    with _errors(cupy):
        count = int(cupy.cuda.runtime.getDeviceCount())
        return CupyMemory(cupy, local_rank % count, count)


class CupyMemory:
    """The memory of one GPU; see tiles.py for what the methods promise."""

    def __init__(self, cupy: Any, number: int, count: int) -> None:
        self.count = count
        self._cupy = cupy
        self._device = cupy.cuda.Device(number)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the current GPU."""
        with _errors(self._cupy), self._device:
            yield

    def upload(self, array: NDArray) -> DeviceArray:
        """Copy an array to the device."""
        with self.active():
            return self._cupy.asarray(array)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """Allocate without a value."""
        with self.active():
            return self._cupy.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...]) -> DeviceArray:
        """Allocate float64 zeros."""
        with self.active():
            return self._cupy.zeros(shape)

    def write(self, array: NDArray, target: DeviceArray) -> None:
        """Copy an array into contiguous device memory of its shape and type."""
        with self.active():
            target.set(array)

    def download(self, array: DeviceArray) -> NDArray:
        """Copy an array back."""
        with self.active():
            return self._cupy.asnumpy(array)

    def free_bytes(self) -> int:
        """Return the bytes that the driver has left."""
        with self.active():
            return int(self._cupy.cuda.runtime.memGetInfo()[0])
