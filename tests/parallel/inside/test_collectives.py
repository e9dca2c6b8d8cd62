"""What only several ranks can show; run under mpirun by test_under_mpirun.py."""

import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.linalg import solve as dense_solve

from hpcnk import store
from hpcnk.comm import (
    FixedPointSums,
    FloatSums,
    agreement,
    any_rank,
    assemble_rows,
    broadcast,
    gather_rows,
    on_root,
    reduce,
    rows_from_root,
    rows_to_root,
    share_sum,
    sum_over_ranks,
)
from hpcnk.engine import usable_cores
from hpcnk.errors import StorageError
from hpcnk.run.threads import threads_per_rank
from hpcnk.solve import (
    Limits,
    PlainProducts,
    Spread,
    conjugate_gradient,
    cross_product,
    dense_solution,
    identity,
    leading_rows,
    spread,
)
from hpcnk.store import files
from hpcnk.tiling import CrossGrid, TriangleGrid, deal, share
from tests.support.dense import (
    Single,
    kernel_matrix,
    low_rank,
    systems,
    tile_operator,
    tiles_of,
)

pytestmark = pytest.mark.mpi


def test_sums_go_in_pieces(comm, monkeypatch):
    monkeypatch.setattr(reduce, "MAX_BYTES", 24)
    array = np.arange(35.0).reshape(7, 5) + comm.rank
    expected = comm.size * np.arange(35.0).reshape(7, 5) + sum(range(comm.size))
    np.testing.assert_array_equal(sum_over_ranks(comm, array), expected)


@pytest.mark.parametrize("array", [np.arange(35.0).reshape(7, 5), np.zeros((0, 3), "f4")])
def test_an_array_is_broadcast_in_pieces(comm, array, monkeypatch):
    monkeypatch.setattr(reduce, "MAX_BYTES", 24)
    found = broadcast(comm, array if comm.rank == 0 else None)
    assert found.shape == array.shape and found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_rows_are_assembled_also_from_empty_ranks(comm, n):
    whole = np.random.default_rng(0).normal(size=(n, 3))
    rows = share(n, comm.size, comm.rank)
    np.testing.assert_array_equal(assemble_rows(comm, whole[rows], rows, n), whole)


def test_an_error_on_one_rank_is_raised_by_all(comm):
    with (
        pytest.raises(StorageError, match=f"rank {comm.size - 1} said so") as caught,
        agreement(comm),
    ):
        if comm.rank == comm.size - 1:
            raise StorageError(f"rank {comm.rank} said so", "advice")
    assert caught.value.agreed and caught.value.advice == "advice"
    with agreement(comm):
        pass


def test_the_error_of_the_lowest_rank_is_the_one(comm):
    with pytest.raises(StorageError, match="rank 0 said so"), agreement(comm):
        raise StorageError(f"rank {comm.rank} said so")


@pytest.mark.skipif(not h5py.get_config().mpi, reason="h5py is a serial build: no mpio driver")
def test_mpio_writes_in_pieces_and_makes_them_durable(comm, monkeypatch):
    grid = TriangleGrid(23, 5)
    path = Path(os.environ["HPCNK_INSIDE"]) / "kernel.h5"  # one folder for all ranks
    on_root(comm, lambda: store.create(path, grid, "float64", {}))
    monkeypatch.setattr(files, "MAX_TRANSFER", 90)
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), real(handle)))
    matrix, layout = np.arange(23.0 * 23).reshape(23, 23), store.read_layout(path)
    mine = deal(grid, comm.size, comm.rank)
    with store.TileWriter(layout, "mpio", comm) as tiles:
        for number in mine:
            tiles.put(number, matrix[grid.at(number).rows, grid.at(number).columns])
        synced.clear()
        tiles.commit()
        assert len(synced) == (2 if mine else 0)  # the data, then the journal
    comm.barrier()
    with store.TileReader(layout) as reader:
        assert len(reader.checksums) == grid.count
        for number in range(grid.count):
            tile = grid.at(number)
            np.testing.assert_array_equal(reader.read(number), matrix[tile.rows, tile.columns])


def test_the_root_works_for_all(comm):
    assert on_root(comm, lambda: comm.rank + 41) == 41

    def fail():
        raise StorageError("the root failed")

    with pytest.raises(StorageError, match="root failed"):
        on_root(comm, fail)


@pytest.mark.parametrize("sums", [FixedPointSums, FloatSums])
def test_sums_over_the_ranks_are_the_sum(comm, sums, monkeypatch):
    monkeypatch.setattr(reduce, "MAX_BYTES", 64)
    addends = np.random.default_rng(0).normal(size=(11, 5, 3)) * [1.0, 1e-9, 1e12]
    found = sums(comm).begin((8, 3), lambda: 60 * np.array([1.0, 1e-9, 1e12]))
    alone = sums(Single()).begin((8, 3), lambda: 60 * np.array([1.0, 1e-9, 1e12]))
    for number, addend in enumerate(addends):
        rows = slice(number % 4, number % 4 + 5)
        alone.add(rows, addend)
        if number % comm.size == comm.rank:
            found.add(rows, addend)
    expected, total = alone.total(), found.total()
    np.testing.assert_allclose(total, expected, rtol=1e-12)
    assert sums is FloatSums or total.tobytes() == expected.tobytes()


def test_a_sum_that_one_rank_cannot_add_is_nan_on_all(comm):
    found = FixedPointSums(comm).begin((2, 1), lambda: np.array([10.0]))
    found.add(slice(None), np.full((2, 1), np.inf if comm.rank == comm.size - 1 else 1.0))
    assert np.isnan(found.total()).all()


def test_any_rank(comm):
    assert any_rank(comm, comm.rank == comm.size - 1)
    assert not any_rank(comm, False)


def test_threads_are_shared_by_the_node(comm, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_rank(comm) == min(3, len(usable_cores()))
    monkeypatch.delenv("OMP_NUM_THREADS")
    shares = comm.allgather(threads_per_rank(comm))
    masks = comm.allgather(usable_cores())
    assert all(s == max(1, len(m) // masks.count(m)) for s, m in zip(shares, masks, strict=True))


@pytest.mark.parametrize("n", [1, 9, 40])
def test_spread_rows_go_to_all_ranks_and_back(comm, n, monkeypatch):
    monkeypatch.setattr(reduce, "MAX_BYTES", 200)  # so that columns go in pieces
    blocks = [share(n, comm.size, rank) for rank in range(comm.size)]
    whole = np.random.default_rng(0).normal(size=(n, 7))
    mine = whole[blocks[comm.rank]]
    np.testing.assert_array_equal(gather_rows(comm, mine, blocks), whole)
    found = share_sum(comm, whole * (comm.rank + 1), blocks)
    np.testing.assert_allclose(found, mine * sum(range(comm.size + 1)), rtol=1e-14)
    on_first = rows_to_root(comm, mine, blocks)
    assert (on_first is None) == (comm.rank > 0)
    np.testing.assert_array_equal(rows_from_root(comm, on_first, 7, blocks), mine)


@pytest.mark.parametrize("sums", [FixedPointSums, FloatSums])
def test_totals_are_those_of_all_rows(comm, sums, monkeypatch):
    monkeypatch.setattr(spread, "ROWS", 8)
    a, b = np.random.default_rng(1).normal(size=(2, 61, 3))
    rows = Spread(comm, 61, sums.ordered)
    alone = Spread(Single(), 61, sums.ordered)
    mine = a[rows.mine], b[rows.mine]
    for term in (spread.gram, spread.dots):
        found, expected = rows.totals(term(*mine))[0], alone.totals(term(a, b))[0]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert sums is FloatSums or found.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(rows.rows_at(mine[0], [60, 0, 7, 0]), a[[60, 0, 7, 0]])
    assert rows.decide(lambda: comm.rank) == 0


@pytest.mark.parametrize("sums", [FixedPointSums, FloatSums])
@pytest.mark.parametrize("n,tile", [(5, 8), (40, 7), (61, 16)])
def test_solve_and_predict_are_the_dense_ones(comm, n, tile, sums, monkeypatch):
    monkeypatch.setattr(spread, "ROWS", 8)  # so that several ranks have some
    k = kernel_matrix(n + 9)
    train, test = k[:n, :n], np.ascontiguousarray(k[n:, :n])
    y = np.random.default_rng(3).normal(size=(n, 2))
    grid, cross = TriangleGrid(n, tile), CrossGrid(9, n, tile)
    operator = tile_operator(sums(comm), train, grid, deal(grid, comm.size, comm.rank))
    alone = tile_operator(sums(Single()), train, grid)
    rows = operator.spread
    y4 = np.tile(y, (1, 2))
    np.testing.assert_allclose(operator.apply(y4[rows.mine]), (train @ y4)[rows.mine], atol=1e-12)
    np.testing.assert_array_equal(operator.columns(np.array([n - 1]))[:, 0], train[rows.mine, -1])
    np.testing.assert_array_equal(operator.diagonal(), train.diagonal())
    sets = [leading_rows(n, n), leading_rows(n, n // 2, np.arange(n) % 5 != 1)]
    for rank in (0, 3, n):
        found = [_solved(one, y, sets, rank) for one in (operator, alone)]
        assert found[0].converged
        x = rows.whole(found[0].x)
        np.testing.assert_allclose(x, _exact(train, y, sets), rtol=1e-5, atol=1e-5)
        assert sums is FloatSums or x.tobytes() == found[1].x.tobytes()
    dense = dense_solution(operator, _problem(operator, y, sets), 1e-9)
    np.testing.assert_allclose(rows.whole(dense.x), x, rtol=1e-5, atol=1e-5)
    tiles = tiles_of(test, cross, deal(cross, comm.size, comm.rank))
    product = cross_product(operator.sums, 9, tiles, x, PlainProducts(), largest=1.0)
    np.testing.assert_allclose(product, test @ x, rtol=1e-10, atol=1e-10)


def _problem(operator, y, sets):
    whole = systems(y, (1e-2, 1e-4), sets)
    return replace(whole, b=np.ascontiguousarray(whole.b[operator.spread.mine]))


def _solved(operator, y, sets, rank):
    problem = _problem(operator, y, sets)
    factor = low_rank(operator, problem, rank) if rank else identity
    return conjugate_gradient(operator, problem, factor, Limits(1e-9, 1000))


def _exact(k, y, sets):
    parts = []
    for row_set in sets:
        rows = np.flatnonzero(row_set.keep)
        for ridge in (1e-2, 1e-4):
            part = np.zeros_like(y)
            part[rows] = dense_solve(k[np.ix_(rows, rows)] + ridge * np.eye(len(rows)), y[rows])
            parts.append(part)
    return np.hstack(parts)
