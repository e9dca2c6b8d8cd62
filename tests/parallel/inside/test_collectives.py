"""What only several ranks can show; run under mpirun by test_under_mpirun.py."""

import os
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
    on_root,
    reduce,
    sum_over_ranks,
)
from hpcnk.engine import usable_cores
from hpcnk.errors import StorageError
from hpcnk.run.threads import threads_per_rank
from hpcnk.solve import (
    Limits,
    TileOperator,
    conjugate_gradient,
    cross_product,
    identity,
    pivoted_cholesky,
    preconditioner,
)
from hpcnk.store import files
from hpcnk.tiling import CrossGrid, TriangleGrid, deal, share
from tests.support.dense import Single, kernel_matrix, tiles_of

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


@pytest.mark.parametrize("n,tile", [(5, 8), (40, 7), (61, 16)])
def test_solve_and_predict_are_the_dense_ones(comm, n, tile, monkeypatch):
    monkeypatch.setattr(preconditioner, "ROWS", 8)  # so that several ranks have some
    k = kernel_matrix(n + 9)
    train, test = k[:n, :n], np.ascontiguousarray(k[n:, :n])
    y = np.random.default_rng(3).normal(size=(n, 2))
    ridges = np.array([1e-2, 1e-2, 1e-4, 1e-4])
    grid, cross = TriangleGrid(n, tile), CrossGrid(9, n, tile)
    mine = deal(grid, comm.size, comm.rank)
    operator = TileOperator(FloatSums(comm), n, tiles_of(train, grid, mine))
    y4 = np.tile(y, (1, 2))
    np.testing.assert_allclose(operator.apply(y4), train @ y4, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(operator.column(n - 1), train[:, n - 1])
    np.testing.assert_array_equal(operator.diagonal(), train.diagonal())
    exact = np.hstack([dense_solve(train + r * np.eye(n), y) for r in (1e-2, 1e-4)])
    for rank in (0, 3, n):
        factor = pivoted_cholesky(operator, rank) if rank else identity
        solution = conjugate_gradient(operator, y4, ridges, factor, Limits(1e-10, 1000))
        assert solution.converged
        np.testing.assert_allclose(solution.x, exact, rtol=1e-5, atol=1e-5)
        assert len({x.tobytes() for x in comm.allgather(solution.x)}) == 1
    tiles = tiles_of(test, cross, deal(cross, comm.size, comm.rank))
    product = cross_product(operator.sums, 9, tiles, exact)
    np.testing.assert_allclose(product, test @ exact, rtol=1e-10, atol=1e-10)
