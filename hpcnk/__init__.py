"""Kernel regression with infinite-width neural networks, on millions of examples."""

from typing import TYPE_CHECKING

from hpcnk.version import __version__

if TYPE_CHECKING:
    from hpcnk.engine.kernel import Kernel

__all__ = ["Kernel", "__version__"]


def __getattr__(name: str) -> object:
    """Import `Kernel` at its first use, so that `import hpcnk` is quick."""
    if name == "Kernel":
        from hpcnk.engine.kernel import Kernel

        return Kernel
    raise AttributeError(f"module 'hpcnk' has no attribute {name!r}")
