"""The peer: Neural Tangents' kernels, compiled by JAX, timed in a process of their own.

Runs under a Python that has `neural_tangents` and `jax`, and needs nothing of hpcnk. Started as
`python -m tools.bench.peer_neural_tangents`; threads, precision and device come from the
environment (affinity mask, XLA_FLAGS, JAX_ENABLE_X64, JAX_PLATFORMS).
"""

from __future__ import annotations

import importlib.util
import platform
import sys
import time
import types
import warnings
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from tools.bench.channel import serve
from tools.bench.machine import usable_cores
from tools.bench.timing import repeated, seconds_of


def import_stax() -> Any:
    """Import `neural_tangents.stax` alone, without what the package imports at its top.

    Its empirical kernels and experiments need names that JAX dropped in 0.4.31 and later, so the
    whole package does not import there; `stax` itself works unchanged with any of these versions.
    """
    found = importlib.util.find_spec("neural_tangents")
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError("this Python has no neural_tangents")
    package = types.ModuleType("neural_tangents")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["neural_tangents"] = package
    return importlib.import_module("neural_tangents.stax")


stax = import_stax()
CORES = len(usable_cores())
# Products in full float32 also on GPUs that would round them to TF32.
jax.config.update("jax_default_matmul_precision", "highest")
warnings.filterwarnings("ignore", message=".*FanIn.*")


def translated(layers: list[Any], axes: int) -> Any:
    """Translate a canonical list of layers to one stax layer, for data of `axes` spatial axes."""
    return stax.serial(*(_layer(item, axes) for item in layers))


def _layer(item: Any, axes: int) -> Any:
    name, options = (item, {}) if isinstance(item, str) else next(iter(item.items()))
    return LAYERS[name](options, axes)


def _sizes(value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _conv(options: dict[str, Any], axes: int) -> Any:
    return stax.Conv(
        1,
        _sizes(options["filter"], axes),
        _sizes(options["strides"], axes),
        options["padding"].upper(),
        W_std=options["w_std"],
        b_std=options["b_std"],
        parameterization="ntk",
    )


def _dense(options: dict[str, Any], axes: int) -> Any:
    return stax.Dense(1, options["w_std"], options["b_std"], parameterization="ntk")


def _pool(window: Any, axes: int) -> Any:
    sizes = _sizes(window, axes)
    return stax.AvgPool(sizes, sizes, "VALID")


def _residual(sides: dict[str, Any], axes: int) -> Any:
    branch, shortcut = (
        translated(sides[side], axes) if sides[side] else stax.Identity()
        for side in ("branch", "shortcut")
    )
    return stax.serial(stax.FanOut(2), stax.parallel(branch, shortcut), stax.FanInSum())


LAYERS = {
    "conv": _conv,
    "dense": _dense,
    "avg_pool": _pool,
    "residual": _residual,
    "relu": lambda options, axes: stax.Relu(),
    "erf": lambda options, axes: stax.Erf(),
    "gelu": lambda options, axes: stax.Gelu(),
    "layer_norm": lambda options, axes: stax.LayerNorm(axis=-1),
    "flatten": lambda options, axes: stax.Flatten(),
    "global_avg_pool": lambda options, axes: stax.GlobalAvgPool(),
}


class Peer:
    """One network at a time; compiled code is kept for every batch size tried."""

    def versions(self) -> dict[str, str]:
        device = jax.devices()[0]
        names = ("neural-tangents", "jax", "jaxlib", "numpy")
        return {
            "python": platform.python_version(),
            **{name: version(name) for name in names},
            "platform": device.platform,
            "device": device.device_kind,
        }

    def network(self, layers: list[Any], shape: list[int], dtype: str) -> dict[str, str]:
        """Take a network for the requests that follow."""
        kernel_fn = translated(layers, len(shape) - 1)[2]
        self._kernel = jax.jit(lambda x1, x2: kernel_fn(x1, x2, "ntk"))
        self._shape, self._dtype = shape, dtype
        return {}

    def values(self, x1: list[Any], x2: list[Any]) -> dict[str, Any]:
        """The kernel of some rows."""
        rows = [jax.numpy.asarray(np.asarray(x, self._dtype)) for x in (x1, x2)]
        return {"values": np.asarray(self._kernel(*rows), np.float64).tolist()}

    def compiled(self, batch: int) -> dict[str, float]:
        """Compile for batches of `batch` x `batch` rows; then time one call."""
        rng = np.random.default_rng(batch)
        rows = rng.standard_normal((2, batch, *self._shape)).astype(self._dtype)
        self._batch = batch
        self._rows = [jax.device_put(part) for part in rows]
        first = seconds_of(self._call)
        return {"first_call_s": first, "seconds": seconds_of(self._call)}

    def measured(self, seconds: float) -> dict[str, float]:
        """Time calls with the batch last compiled; `busy` as in the engine's worker."""
        processor = time.process_time()
        calls, passed = repeated(self._call, seconds)
        busy = (time.process_time() - processor) / (passed * CORES)
        return {"pairs": calls * self._batch**2, "seconds": passed, "busy": busy}

    def _call(self) -> None:
        self._kernel(*self._rows).block_until_ready()


if __name__ == "__main__":
    peer = Peer()
    serve(
        {
            "versions": peer.versions,
            "network": peer.network,
            "values": peer.values,
            "compiled": peer.compiled,
            "measured": peer.measured,
        }
    )
