"""The compiled host library, called through ctypes (which lets other threads run meanwhile)."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_double, c_int, c_longlong, c_void_p, pointer
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine import tables
from hpcnk.engine.build import built_library
from hpcnk.engine.program import Program
from hpcnk.errors import BackendError

DTYPES = ("float32", "float64")


class _Tables(Structure):
    _fields_ = [
        ("program", POINTER(tables.Header)),
        ("steps", POINTER(tables.Step)),
        ("stages", POINTER(tables.Stage)),
        ("operations", POINTER(tables.Operation)),
        ("tensors", POINTER(tables.Tensor)),
    ]


class Bound:
    """A program's tables laid out for C, kept alive."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._steps = _array(tables.Step, program.steps)
        self._stages = _array(tables.Stage, program.stages)
        self._operations = _array(tables.Operation, program.operations)
        self._tensors = _array(tables.Tensor, program.tensors)
        self._tables = _Tables(
            pointer(program.header), self._steps, self._stages, self._operations, self._tensors
        )
        self.address = ctypes.addressof(self._tables)


class HostLibrary:
    """The entry points of source/host.cpp for one dtype. No entry checks its arguments."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        library = _loaded(path)
        name = dtype.name
        self.lanes = int(_function(library, f"hpcnk_lanes_{name}", c_int)())
        self._pairs = _function(library, f"hpcnk_pairs_{name}")
        self._chain = _function(library, f"hpcnk_chain_{name}")
        self._factors = _function(library, f"hpcnk_factors_{name}")
        self._own = _function(library, "hpcnk_own")

    def pairs(
        self,
        bound: Bound,
        tangent: bool,
        left: tuple[NDArray, NDArray],
        right: tuple[NDArray, NDArray],
        workspace: NDArray,
        out: NDArray,
    ) -> None:
        """Compute out[row, lane] for left rows (x, factors) and one vector of right rows."""
        rows = len(left[0])
        self._pairs(
            bound.address, tangent, _data(left[0]), _data(left[1]), rows, _data(right[0]),
            _data(right[1]), _data(workspace), _data(out), _stride(out),
        )  # fmt: skip

    def chain(
        self,
        bound: Bound,
        tangent: bool,
        left_factors: NDArray,
        right_factors: NDArray,
        workspace: NDArray,
        block: NDArray,
    ) -> None:
        """Turn scalar products (rows, columns) into the kernel, in place."""
        self._chain(
            bound.address, tangent, _data(left_factors), len(block), _data(right_factors),
            _stride(right_factors), block.shape[1], _data(workspace), _data(block), _stride(block),
        )  # fmt: skip

    def factors(self, bound: Bound, variances: NDArray, tiny: float, factors: NDArray) -> None:
        """Fill in the factors of one row from its variances."""
        self._factors(bound.address, _data(variances), tiny, _data(factors))

    def own(
        self,
        bound: Bound,
        tangent: bool,
        x: NDArray,
        tiny: float,
        workspace: NDArray,
        found: tuple[NDArray, NDArray, NDArray],
    ) -> None:
        """Find factors, variances and the exact kernel of a vector of rows with themselves."""
        self._own(bound.address, tangent, _data(x), tiny, _data(workspace), *map(_data, found))


@cache
def host_library(dtype: str) -> HostLibrary:
    """Load the library for a dtype, building it at the first use. Raises BackendError."""
    return HostLibrary(built_library(), np.dtype(dtype))


_ARGUMENTS: dict[str, list[Any]] = {
    "pairs": [c_void_p, c_int, c_void_p, c_void_p, c_int, *[c_void_p] * 4, c_longlong],
    "chain": [c_void_p, c_int, c_void_p, c_int, c_void_p, c_longlong, c_int, c_void_p, c_void_p,
              c_longlong],
    "factors": [c_void_p, c_void_p, c_double, c_void_p],
    "own": [c_void_p, c_int, c_void_p, c_double, *[c_void_p] * 4],
    "lanes": [],
}  # fmt: skip


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(
            f"the compiled CPU engine cannot be loaded: {error}", f"remove {path}; it is built anew"
        ) from error


def _function(library: ctypes.CDLL, name: str, result: Any = None) -> Any:
    function = library[name]
    function.argtypes = _ARGUMENTS[name.split("_")[1]]
    function.restype = result
    return function


def _array(kind: Any, items: list[Any]) -> Any:
    return (kind * max(1, len(items)))(*items)


def _data(array: NDArray) -> int:
    return int(array.ctypes.data)


def _stride(array: NDArray) -> int:
    """Numbers from one row to the next."""
    return int(array.strides[0] // array.itemsize)
