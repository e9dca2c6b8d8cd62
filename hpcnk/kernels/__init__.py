"""The mathematics: architectures, and the plain NumPy recursions of their kernels."""

from hpcnk.kernels.spec import Architecture, find_problems, parse

__all__ = ["Architecture", "find_problems", "parse"]
