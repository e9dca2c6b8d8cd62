"""The precision in which a network is computed."""

from __future__ import annotations

import numpy as np

from hpcnk.kernels.layers import Erf, Gelu
from hpcnk.kernels.rules import all_layers
from hpcnk.kernels.spec import Architecture


def working_dtype(architecture: Architecture, dtype: np.dtype) -> np.dtype:
    """Give the precision of the recursion: `dtype`, or float64 for networks with erf or gelu.

    Their kernels are near 0 for unlike rows, and a float32 recursion would lose the relative
    accuracy of such entries.
    """
    crosses_zero = any(isinstance(layer, Erf | Gelu) for layer in all_layers(architecture.layers))
    return np.dtype(np.float64) if crosses_zero else dtype
