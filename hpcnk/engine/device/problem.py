"""Is there a GPU that the engine can use?"""

from __future__ import annotations

from functools import cache
from typing import Any

from hpcnk.errors import BackendError

OLDEST_CAPABILITY = 70  # Volta: the first with independent threads and fast atomics in float64


@cache
def device_problem() -> str:
    """Return "" if a GPU can be used here, else one sentence that says why not."""
    try:
        import cupy
    except ImportError as error:
        return f"CuPy is not installed or cannot be loaded: {_first_line(error)}"
    try:
        return _problem_of(cupy)
    except Exception as error:  # CuPy wraps what drivers say in many classes
        return f"CUDA cannot be started ({_first_line(error)})"


def require_device(asked: str = "backend", instead: str = "auto or cpu") -> None:
    """Raise BackendError, saying why, if there is no usable GPU.

    `asked`: the setting that is gpu; `instead`: what else it may be.
    """
    if device_problem():
        raise BackendError(
            f"{asked} gpu: {device_problem()}",
            "install a driver and CuPy (pip install 'hpcnk[gpu]') on a machine with a GPU, or set "
            f"{asked} to {instead}",
        )


def _problem_of(cupy: Any) -> str:
    """Ask the driver. Raises what CuPy raises."""
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no usable GPU or no driver for it ({_first_line(error)})"
    if count == 0:
        return "no GPU is visible (see CUDA_VISIBLE_DEVICES)"
    capability = int(cupy.cuda.Device(0).compute_capability)
    if capability < OLDEST_CAPABILITY:
        return f"the GPU's compute capability is {capability / 10}, and 7.0 or newer is needed"
    return ""


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
