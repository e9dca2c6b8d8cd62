"""Plans a kernel block for a device and computes it."""

from hpcnk.engine.device.problem import device_problem, require_device
from hpcnk.engine.interface import Engine
from hpcnk.engine.kernel import Kernel
from hpcnk.engine.make import make_engine
from hpcnk.engine.pending import Pending
from hpcnk.engine.prepared import Described
from hpcnk.engine.threads import asked_threads, usable_cores

__all__ = [
    "Described",
    "Engine",
    "Kernel",
    "Pending",
    "asked_threads",
    "device_problem",
    "make_engine",
    "require_device",
    "usable_cores",
]
