"""Products of one stored tile with many columns: source/products.cpp, and its plain NumPy twin.

A tile off the diagonal serves both triangles, so it is read once for two products: A times the
columns' part of the vectors and its transpose times the rows' part. Entries are float32 or float64,
vectors and sums float64.

Of the compiled ones, a column's products do not depend on the columns beside it, nor on the number
of threads: a tile is cut by its height alone, and the parts are added in order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from ctypes import c_int, c_longlong, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcnk.engine.build import built_library
from hpcnk.engine.threads import for_each
from hpcnk.errors import BackendError, UsageError
from hpcnk.tiling import Tile

Array = NDArray[np.float64]

SOURCE = Path(__file__).parent / "source" / "products.cpp"
STRIP_BYTES = 1 << 20  # of the float64 buffer: within the second-level cache of one core
# Rows of a part of a tile, at least: the columns' sums of a part are added once, so the more the
# better; and at most so many parts, each of whole blocks (ROWS in source/panels.hpp).
PART_ROWS, MOST_PARTS, BLOCK_ROWS = 1024, 8, 24
GROUP = 4  # columns that a thread should have at least: those of a panel


class Products(Protocol):
    """Adds the products of tiles."""

    def add(
        self,
        entries: NDArray[Any],
        symmetric: bool,
        v_rows: Array,
        v_columns: Array,
        rows_out: Array,
        columns_out: Array,
    ) -> None:
        """Add A v_columns to rows_out and, unless symmetric, A^T v_rows to columns_out.

        `entries` is A, (height, width) in float32 or float64 with whole rows in memory; the others
        are (height or width, columns) in float64, likewise. One product of a `symmetric` tile
        serves both, so `v_rows` and `columns_out` are not looked at.
        """

    def add_transposed(self, entries: NDArray[Any], v_rows: Array, columns_out: Array) -> None:
        """Add A^T v_rows to columns_out; the arrays are those of `add`."""

    def add_tiles(self, placed: Sequence[Placed], v: Array, out: Array) -> None:
        """Add the products of tiles of one type, and of their mirror images, with v to `out`.

        Both are (n, columns) in float64 with whole rows in memory; the tiles lie in the upper
        triangle of a matrix (n, n). One after the other, so the sums are those of `add`.
        """


class Placed(NamedTuple):
    """A tile of the upper triangle, its entries, and the leading columns it is multiplied by."""

    tile: Tile
    entries: NDArray[Any]
    columns: int


class PlainProducts:
    """Products by NumPy: strips of a tile are widened and given to BLAS."""

    def add(
        self,
        entries: NDArray[Any],
        symmetric: bool,
        v_rows: Array,
        v_columns: Array,
        rows_out: Array,
        columns_out: Array,
    ) -> None:
        """Add the products of one tile, see Products."""
        for part, strip in _strips(entries):
            rows_out[part] += strip @ v_columns
            if not symmetric:
                columns_out += strip.T @ v_rows[part]

    def add_transposed(self, entries: NDArray[Any], v_rows: Array, columns_out: Array) -> None:
        """Add the product of a transposed tile, see Products."""
        for part, strip in _strips(entries):
            columns_out += strip.T @ v_rows[part]

    def add_tiles(self, placed: Sequence[Placed], v: Array, out: Array) -> None:
        """Add the products of tiles of a triangle, see Products."""
        _one_by_one(self, placed, v, out)


class CompiledProducts:
    """Products by source/products.cpp. Raises BackendError if it cannot be built or loaded."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._library = _library()

    def add(
        self,
        entries: NDArray[Any],
        symmetric: bool,
        v_rows: Array,
        v_columns: Array,
        rows_out: Array,
        columns_out: Array,
    ) -> None:
        """Add the products of one tile, see Products. Raises UsageError for other arrays."""
        if symmetric:
            v_rows, columns_out = rows_out, v_columns  # never read or written
        self._add(_Work(entries, True, not symmetric, v_rows, v_columns, rows_out, columns_out))

    def add_transposed(self, entries: NDArray[Any], v_rows: Array, columns_out: Array) -> None:
        """Add the product of a transposed tile, see Products. Raises UsageError likewise."""
        v_columns, rows_out = columns_out, v_rows  # never read or written
        self._add(_Work(entries, False, True, v_rows, v_columns, rows_out, columns_out))

    def add_tiles(self, placed: Sequence[Placed], v: Array, out: Array) -> None:
        """Add the products of tiles of a triangle, see Products. Raises UsageError likewise.

        One thread does them in one call: a call takes as long as a few hundred rows of a tile.
        """
        _check_placed(placed, v, out)
        wanted = [one for one in placed if one.entries.size and one.columns]
        if self.threads > 1:
            _one_by_one(self, wanted, v, out)
        elif wanted:
            self._library.add_tiles(wanted, v, out)

    def _add(self, whole: _Work) -> None:
        whole.check()
        if not whole.entries.size or not whole.v_columns.shape[1]:
            return
        parts = whole.parts()
        if self.threads == 1:
            for part in parts:
                self._library.add(part)
        elif len(parts) < self.threads:
            self._by_columns(parts)
        else:
            self._by_rows(parts, whole.columns_out)

    def _by_columns(self, parts: Sequence[_Work]) -> None:
        """Give each thread some of the columns."""
        columns = parts[0].v_columns.shape[1]
        groups = max(1, min(self.threads, columns // GROUP))
        bounds = [columns * k // groups for k in range(groups + 1)]

        def work(group: slice) -> None:
            for part in parts:
                self._library.add(part.with_columns(group))

        for_each(work, map(slice, bounds[:-1], bounds[1:]), self.threads)

    def _by_rows(self, parts: Sequence[_Work], columns_out: Array) -> None:
        """Give each thread one part at a time, with sums of its own for the tile's columns."""
        for start in range(0, len(parts), self.threads):
            running = parts[start : start + self.threads]
            if running[0].down:
                running = [part.with_own_sums() for part in running]
            for_each(self._library.add, running, self.threads)
            for part in running:
                if part.down:
                    columns_out += part.columns_out


def _one_by_one(products: Products, placed: Sequence[Placed], v: Array, out: Array) -> None:
    for tile, entries, columns in placed:
        upper, lower = v[tile.rows, :columns], v[tile.columns, :columns]
        above, below = out[tile.rows, :columns], out[tile.columns, :columns]
        products.add(entries, tile.symmetric, upper, lower, above, below)


def make_products(backend: str, threads: int) -> Products:
    """Return the products for a deck's `kernel.backend`. Raises BackendError."""
    return PlainProducts() if backend == "reference" else CompiledProducts(threads)


def built_products() -> Path:
    """Return the path of the compiled library, built if need be. Raises BackendError."""
    return built_library(SOURCE)


@dataclass(frozen=True)
class _Work:
    """Arguments of `Products.add`: of the product `across` the tile, and that of its transpose."""

    entries: NDArray[Any]
    across: bool
    down: bool
    v_rows: Array
    v_columns: Array
    rows_out: Array
    columns_out: Array

    def check(self) -> None:
        """Raise UsageError unless shapes and types fit."""
        entries = self.entries
        height, width = entries.shape
        columns = self.v_columns.shape[1]
        for array, rows in (
            (self.v_rows, height),
            (self.v_columns, width),
            (self.rows_out, height),
            (self.columns_out, width),
        ):
            if not _is_matrix(array, (rows, columns)):
                raise UsageError(
                    f"a vector or product of {array.shape} in {array.dtype}, a tile of "
                    f"{entries.shape}: expected {(rows, columns)} in float64, numbers of a row "
                    "beside each other",
                    "give np.ascontiguousarray(...) of the rows that belong to the tile",
                )
        if not all(array.flags.writeable for array in self._outputs()):
            raise UsageError(
                "a product that may not be written to: expected one that may",
                "give an array whose flags.writeable is true",
            )
        if entries.dtype not in (np.float32, np.float64) or not _in_rows(entries):
            raise UsageError(
                f"a tile in {entries.dtype} with strides {entries.strides}: expected float32 or "
                "float64, numbers of a row beside each other",
                "give np.ascontiguousarray(...) of it",
            )

    def _outputs(self) -> list[Array]:
        return [self.rows_out] * self.across + [self.columns_out] * self.down

    def parts(self) -> list[_Work]:
        """Cut by rows, the same for any number of columns and threads."""
        height = len(self.entries)
        count = max(1, min(MOST_PARTS, height // PART_ROWS))
        rows = -(-height // (count * BLOCK_ROWS)) * BLOCK_ROWS
        if count == 1:
            return [self]
        return [self._rows(slice(k, k + rows)) for k in range(0, height, rows)]

    def _rows(self, rows: slice) -> _Work:
        return _Work(
            self.entries[rows],
            self.across,
            self.down,
            self.v_rows[rows],
            self.v_columns,
            self.rows_out[rows],
            self.columns_out,
        )

    def with_columns(self, group: slice) -> _Work:
        """Return the work on some columns of the vectors."""
        arrays = (self.v_rows, self.v_columns, self.rows_out, self.columns_out)
        return _Work(self.entries, self.across, self.down, *(array[:, group] for array in arrays))

    def with_own_sums(self) -> _Work:
        """Return the work with new sums for the tile's columns, -0.0, which changes no addend."""
        sums = np.full(self.columns_out.shape, -0.0)
        arrays = (self.v_rows, self.v_columns, self.rows_out, sums)
        return _Work(self.entries, self.across, self.down, *arrays)


class _Library:
    """The entry points of source/products.cpp. None checks its arguments."""

    def __init__(self, path: Path) -> None:
        library = _loaded(path)
        matrix: list[Any] = [c_void_p, c_longlong]
        self._tiles = {}
        self._memory = library["hpcnk_memory"]
        self._memory.argtypes, self._memory.restype = [c_longlong] * 2, c_longlong
        self._products = {}
        for name in ("float32", "float64"):
            product = library[f"hpcnk_product_{name}"]
            sizes: list[Any] = [c_longlong, c_longlong, c_int, c_int, c_longlong]
            product.argtypes, product.restype = [*matrix, *sizes, *matrix * 4, c_void_p], None
            self._products[name] = product
            several = library[f"hpcnk_products_{name}"]
            several.argtypes, several.restype = [*matrix, *matrix * 2, c_void_p], None
            self._tiles[name] = several

    def add(self, work: _Work) -> None:
        """Do the work; other threads run meanwhile."""
        (height, width), columns = work.entries.shape, work.v_columns.shape[1]
        memory = np.empty(self._memory(width, columns))
        self._products[work.entries.dtype.name](
            *_matrix(work.entries), height, width, work.across, work.down, columns,
            *_matrix(work.v_rows), *_matrix(work.v_columns), *_matrix(work.rows_out),
            *_matrix(work.columns_out), memory.ctypes.data,
        )  # fmt: skip

    def add_tiles(self, placed: Sequence[Placed], v: Array, out: Array) -> None:
        """Do the work of several tiles, one after the other; other threads run meanwhile."""
        described = np.array([_described(*one) for one in placed], np.int64)
        widest = max(one.entries.shape[1] for one in placed)
        memory = np.empty(self._memory(widest, v.shape[1]))
        self._tiles[placed[0].entries.dtype.name](
            described.ctypes.data, len(placed), *_matrix(v), *_matrix(out), memory.ctypes.data
        )


def _described(tile: Tile, entries: NDArray[Any], columns: int) -> tuple[int, ...]:
    """Return what the struct Placed of source/products.cpp holds."""
    return (*_matrix(entries), *entries.shape, tile.rows.start, tile.columns.start, columns)


@cache
def _library() -> _Library:
    return _Library(built_products())


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(
            f"the compiled products cannot be loaded: {error}", f"remove {path}; it is built anew"
        ) from error


def _matrix(array: NDArray[Any]) -> tuple[int, int]:
    """Return a matrix's address, and the numbers from one row to the next."""
    return array.ctypes.data, array.strides[0] // array.itemsize


def _check_placed(placed: Sequence[Placed], v: Array, out: Array) -> None:
    """Raise UsageError unless shapes and types fit."""
    if not all(_is_matrix(array, v.shape) for array in (v, out)) or not out.flags.writeable:
        raise UsageError(
            f"vectors {v.shape} in {v.dtype} and products {out.shape} in {out.dtype}: expected "
            "the same shape and float64, numbers of a row beside each other, products that may be "
            "written to",
            "give np.ascontiguousarray(...) of both",
        )
    types = {one.entries.dtype for one in placed}
    fits = all(
        one.entries.shape == one.tile.shape
        and one.tile.symmetric == (one.tile.rows.start == one.tile.columns.start)
        and all(
            0 <= side.start <= side.stop <= len(v) for side in (one.tile.rows, one.tile.columns)
        )
        and 0 <= one.columns <= v.shape[1]
        and _in_rows(one.entries)
        for one in placed
    )
    if not fits or len(types) > 1 or not types <= {np.dtype("f4"), np.dtype("f8")}:
        raise UsageError(
            f"tiles in {', '.join(map(str, types))} for vectors {v.shape}: expected float32 or "
            "float64, one type for all, the shapes and places of their tiles, numbers of a row "
            "beside each other",
            "give np.ascontiguousarray(...) of the entries of each tile",
        )


def _is_matrix(array: NDArray[Any], shape: tuple[int, ...]) -> bool:
    return array.shape == shape and array.dtype == np.float64 and _in_rows(array)


def _in_rows(array: NDArray[Any]) -> bool:
    """Tell whether the numbers of a row are beside each other, and rows whole numbers apart."""
    if not array.size:
        return True
    beside = array.strides[1] == array.itemsize or array.shape[1] <= 1
    return beside and array.flags.aligned


def _strips(entries: NDArray[Any]) -> Iterator[tuple[slice, Array]]:
    """Yield (rows, the same in float64) of a tile; a strip is valid until the next one is taken."""
    height = max(1, STRIP_BYTES // (8 * max(1, entries.shape[1])))
    buffer = np.empty((min(height, len(entries)), entries.shape[1]))
    for start in range(0, len(entries), height):
        rows = entries[start : start + height]
        strip = buffer[: len(rows)]
        strip[...] = rows
        yield slice(start, start + len(rows)), strip
