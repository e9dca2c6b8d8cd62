"""Choosing the engine for a back end."""

from __future__ import annotations

import numpy as np

from hpcnk.engine.device.cuda import cupy_device
from hpcnk.engine.device.engine import DeviceEngine
from hpcnk.engine.device.problem import device_problem
from hpcnk.engine.host import HostEngine
from hpcnk.engine.interface import Engine
from hpcnk.engine.reference import ReferenceEngine
from hpcnk.errors import UsageError
from hpcnk.kernels.spec import Architecture

BACKENDS = ("auto", "cpu", "gpu", "reference")
DTYPES = ("float32", "float64")


def make_engine(
    architecture: Architecture,
    kind: str = "ntk",
    dtype: str = "float32",
    backend: str = "auto",
    threads: int = 1,
    local_rank: int = 0,
) -> Engine:
    """Make the engine for an architecture. `auto` is a usable GPU, else the CPU.

    `local_rank`: this process's number among those of its node, which share out the node's GPUs.
    Raises ArchitectureError if it has no kernel of this kind, BackendError if the back end cannot
    work here, UsageError for an unknown name or fewer than one thread.
    """
    architecture.check_kind(kind)
    name = np.dtype(dtype).name if isinstance(dtype, type | np.dtype) else dtype
    if name not in DTYPES:
        raise UsageError(f"dtype: expected float32 or float64, got {name!r}", "choose one of them")
    if backend not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise UsageError(f"backend: expected one of {known}, got {backend!r}", "use auto")
    if threads < 1:
        raise UsageError(f"threads: expected at least 1, got {threads}", "use 1 or more")
    rest = (architecture, kind, np.dtype(name), threads)
    if backend == "reference":
        return ReferenceEngine(*rest, "NumPy, as asked for")
    if backend == "cpu":
        return HostEngine(*rest, "as asked for")
    if backend == "auto" and device_problem():
        return HostEngine(*rest, f"no GPU: {device_problem()}")
    return DeviceEngine(*rest, cupy_device(local_rank))
