"""Tiles that are read from their file in each pass, by threads that read ahead of the products.

A thread fills one buffer of a ring while the tile in another one is multiplied. Reading from a file
and taking checksums both leave the interpreter to others, so they cost the products only cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpcnk.comm import Sum
from hpcnk.solve.merged import closing_products
from hpcnk.solve.products import Products
from hpcnk.solve.tiles import Array, HeldTile, Sizes, Wanted, within
from hpcnk.store import aligned_empty
from hpcnk.tiling import Tile

Buffer = NDArray[Any]
T = TypeVar("T")
Fill = Callable[[int, Buffer], T]  # puts one stored tile, (tile, tile), into a buffer

THREADS = 4  # some wait for the disk, which serves several at once, while one takes a checksum
LEAST_AHEAD = 2  # tiles
AHEAD_BYTES = 32 << 20  # more tiles than that are read ahead only if they fit into this


def tiles_ahead(tile_bytes: int) -> int:
    """Return how many tiles are read ahead of the one that is used."""
    return max(LEAST_AHEAD, AHEAD_BYTES // max(1, tile_bytes))


def ring_bytes(tile_bytes: int) -> int:
    """Return the memory of the buffers, in bytes."""
    return (tiles_ahead(tile_bytes) + 1) * tile_bytes


def read_ahead(
    numbers: Iterable[int], fill: Fill[T], buffer: Callable[[int], Buffer], ahead: int
) -> Generator[tuple[int, Buffer, T], None, None]:
    """Give each number, its filled buffer, and what `fill` returned, in this order.

    `buffer` gives the one for the k-th number; after `ahead` + 1 more were asked for it may come
    again. Numbers are taken as reading begins. What `fill` raises in its thread is raised here; no
    thread is left when the iterator is closed.
    """
    begun: deque[tuple[int, Buffer, Future[T]]] = deque()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="hpcnk-tiles") as pool:
        try:
            for k, number in enumerate(numbers):
                place = buffer(k)
                begun.append((number, place, pool.submit(fill, number, place)))
                if len(begun) > ahead:
                    yield _taken(begun)
            while begun:
                yield _taken(begun)
        finally:
            for *_, future in begun:
                future.cancel()


def _taken(begun: deque[tuple[int, Buffer, Future[T]]]) -> tuple[int, Buffer, T]:
    number, place, future = begun.popleft()
    return number, place, future.result()


class StreamedTiles:
    """Tiles in a file, read in the order of their numbers, which is that of their places.

    `fill` puts a stored tile of `side` rows, padding included, into a buffer; threads call it, and
    it may raise StorageError.
    """

    def __init__(
        self,
        tiles: Iterable[Tile],
        fill: Fill[Any],
        side: int,
        dtype: np.dtype,
        products: Products,
    ) -> None:
        self._tiles = sorted(tiles, key=lambda tile: tile.number)
        self._fill, self._side, self._dtype = fill, side, dtype
        self._products = products
        self._rings: list[Sequence[Buffer]] = []  # those that no iterator uses

    def tiles(self, wanted: Wanted) -> Generator[HeldTile, None, None]:
        """Read the tiles wanted, each valid until the next one is taken. Raises as `fill` does."""
        chosen = {tile.number: tile for tile in self._tiles if wanted(tile)}
        ring = self._rings.pop() if self._rings else self._make_ring()
        place = lambda k: ring[k % len(ring)]  # noqa: E731
        try:
            with closing(read_ahead(chosen, self._fill, place, len(ring) - 1)) as reading:
                for number, buffer, _ in reading:
                    height, width = chosen[number].shape
                    yield chosen[number], buffer[:height, :width]
        finally:
            self._rings.append(ring)

    def add_products(self, v: Array, sizes: Sizes, product: Sum) -> None:
        """Add the tiles' products with v to a sum. Raises as `fill` does."""
        closing_products(self.tiles(within(sizes)), v, sizes, product, self._products)

    def _make_ring(self) -> Sequence[Buffer]:
        ahead = tiles_ahead(self._side**2 * self._dtype.itemsize)
        count = max(1, min(ahead + 1, len(self._tiles)))
        return [aligned_empty((self._side, self._side), self._dtype) for _ in range(count)]
