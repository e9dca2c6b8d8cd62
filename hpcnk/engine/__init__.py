"""Plans a kernel block for a device and computes it."""

from hpcnk.engine.kernel import Kernel
from hpcnk.engine.make import Engine, make_engine
from hpcnk.engine.prepared import Prepared

__all__ = ["Engine", "Kernel", "Prepared", "make_engine"]
