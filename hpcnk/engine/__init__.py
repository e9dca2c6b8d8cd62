"""Plans a kernel block for a device and computes it."""

from hpcnk.engine.kernel import Kernel
from hpcnk.engine.make import Engine, make_engine
from hpcnk.engine.prepared import Described
from hpcnk.engine.threads import asked_threads, usable_cores

__all__ = [
    "Described",
    "Engine",
    "Kernel",
    "asked_threads",
    "make_engine",
    "usable_cores",
]
