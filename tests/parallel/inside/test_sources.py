"""Ranks whose tiles come from unlike places solve the same systems; run under mpirun."""

import numpy as np
import pytest

from hpcnk import store
from hpcnk.comm import FixedPointSums, FloatSums, on_root
from hpcnk.engine import make_engine
from hpcnk.kernels import parse
from hpcnk.run.blocks import Blocks
from hpcnk.run.recomputed import ComputedTiles
from hpcnk.run.work import Work
from hpcnk.solve import PlainProducts, ResidentTiles, TileOperator
from hpcnk.solve.merged import MergedTiles
from hpcnk.solve.streamed import StreamedTiles
from hpcnk.store import write_arrays
from hpcnk.tiling import TriangleGrid, deal

pytestmark = pytest.mark.mpi

N, TILE = 90, 16
GRID = TriangleGrid(N, TILE)
PRODUCTS = PlainProducts()


def engine():
    return make_engine(parse("fc2"), "ntk", "float64", "cpu", 1)


@pytest.fixture
def files(comm, tmp_path):
    """The inputs and the complete kernel file, made by rank 0; and the whole matrix."""
    folder = comm.bcast(tmp_path, root=0)

    def make():
        x = np.random.default_rng(0).normal(size=(N, 7))
        write_arrays(folder / "inputs.h5", {"x_train": x}, {})
        k = engine().symmetric_block(engine().prepare(x))
        store.create(folder / "kernel.h5", GRID, "float64", {})
        layout = store.read_layout(folder / "kernel.h5")
        checksums = np.zeros(GRID.count, np.uint32)
        with Blocks(engine(), folder / "inputs.h5") as blocks:
            for tile, entries in computed(folder / "inputs.h5", range(GRID.count), blocks).tiles(
                lambda tile: True
            ):
                store.replace_tile(layout, tile.number, entries)
                checksums[tile.number] = store.tile_checksum(layout, entries)
        store.mark_complete(layout, checksums)
        return k

    k = on_root(comm, make)
    return folder / "inputs.h5", store.read_layout(folder / "kernel.h5"), k


def computed(inputs, numbers, blocks):
    work = Work("kernel", inputs, GRID, {}, "x_train", "x_train")
    return ComputedTiles([GRID.at(number) for number in numbers], work, engine(), blocks, PRODUCTS)


def source_of(kind, files, mine, opened):
    """Make this rank's source. `opened` closes what it holds."""
    inputs, layout, _ = files
    if kind == "computed":
        blocks = Blocks(engine(), inputs)
        opened.append(lambda: blocks.__exit__())
        return computed(inputs, mine, blocks)
    reader = store.TileReader(layout)
    opened.append(reader.close)
    if kind == "resident":
        return ResidentTiles([(GRID.at(k), reader.read(k)) for k in mine], PRODUCTS)
    fill = lambda number, stored: reader.fill(number, stored) or pytest.fail("damaged")  # noqa: E731
    return StreamedTiles([GRID.at(k) for k in mine], fill, TILE, layout.dtype, PRODUCTS)


@pytest.mark.parametrize("sums", [FloatSums, FixedPointSums])
def test_ranks_may_have_their_tiles_in_unlike_places(comm, files, sums):
    """Rank 0 in memory, rank 1 in the file, rank 2 computes them: as if all were in memory."""
    mine = sorted(deal(GRID, comm.size, comm.rank))
    v = np.random.default_rng(1).normal(size=(N, 4))
    sizes = np.array([N, N, 40, 7])
    for column, size in enumerate(sizes):
        v[size:, column] = 0
    opened, found = [], []
    for kinds in (("resident", "streamed", "computed"), ("resident",)):
        kind = kinds[comm.rank % len(kinds)]
        source = source_of(kind, files, mine, opened)
        operator = TileOperator(sums(comm), N, [MergedTiles([source], PRODUCTS, lambda: True)])
        part = operator.spread.mine
        found.append(
            (
                operator.apply(np.ascontiguousarray(v[part]), sizes),
                operator.columns(np.array([2, 88])),
                operator.diagonal(),
            )
        )
        expected = files[2] @ v
        for column, size in enumerate(sizes):
            rows = slice(part.start, min(part.stop, size))
            np.testing.assert_allclose(
                found[-1][0][: max(0, size - part.start), column],
                expected[rows, column],
                rtol=1e-10,
            )
    for mixed, pure in zip(*found, strict=True):
        np.testing.assert_array_equal(mixed, pure)
    for close in opened:
        close()
