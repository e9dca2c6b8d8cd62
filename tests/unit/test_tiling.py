from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnk.tiling import CrossGrid, TriangleGrid, deal, share

sizes = st.integers(1, 60)
tiles = st.integers(1, 17)
ranks = st.integers(1, 9)


@given(sizes, tiles)
def test_triangle_covers_every_entry_of_the_upper_triangle_once(n, tile):
    grid = TriangleGrid(n, tile)
    seen = np.zeros((n, n), int)
    for number in range(grid.count):
        t = grid.at(number)
        assert grid.number(t.i, t.j) == number
        seen[t.rows, t.columns] += 1
        assert t.shape == seen[t.rows, t.columns].shape
    assert (seen[np.triu_indices(n)] == 1).all()
    assert sum(grid.at(k).pairs for k in range(grid.count)) == grid.pairs == n * (n + 1) // 2


@given(sizes, sizes, tiles)
def test_cross_grid_covers_every_entry_once(m, n, tile):
    grid = CrossGrid(m, n, tile)
    seen = np.zeros((m, n), int)
    for number in range(grid.count):
        t = grid.at(number)
        seen[t.rows, t.columns] += 1
    assert (seen == 1).all()
    assert sum(grid.at(k).pairs for k in range(grid.count)) == grid.pairs


@given(sizes, tiles, ranks, st.data())
def test_dealing_is_a_partition_balanced_to_one_tile(n, tile, size, data):
    grid = TriangleGrid(n, tile)
    done = data.draw(st.sets(st.integers(0, grid.count - 1)))
    hands = [deal(grid, size, rank, done) for rank in range(size)]
    assert sorted(k for hand in hands for k in hand) == sorted(set(range(grid.count)) - done)
    lengths = [len(hand) for hand in hands]
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(1, 40), ranks)
def test_work_is_balanced_to_one_full_tile(blocks, size):
    grid = TriangleGrid(blocks * 8, 8)
    work = [
        sum(0.5 if grid.at(k).symmetric else 1.0 for k in deal(grid, size, r)) for r in range(size)
    ]
    assert max(work) - min(work) <= 1.0


@given(st.integers(0, 1000), ranks)
def test_share_is_contiguous_and_even(n, size):
    parts = [share(n, size, rank) for rank in range(size)]
    assert parts[0].start == 0 and parts[-1].stop == n
    assert all(a.stop == b.start for a, b in pairwise(parts))
    lengths = [p.stop - p.start for p in parts]
    assert max(lengths) - min(lengths) <= 1


def test_more_tiles_than_32_bits_count():
    grid = TriangleGrid(5_000_000, 16)
    last = grid.at(grid.count - 1)
    assert grid.count > 2**32
    assert (last.i, last.j) == (grid.blocks - 1, grid.blocks - 1)
    assert grid.number(0, grid.blocks - 1) == grid.count - grid.blocks
    for number in (2**31, 2**40 % grid.count, 10**10):
        tile = grid.at(number)
        assert grid.number(tile.i, tile.j) == number


def test_outside_is_refused():
    grid = TriangleGrid(10, 4)
    for number in (-1, grid.count):
        with pytest.raises(IndexError):
            grid.at(number)
    with pytest.raises(IndexError):
        grid.number(2, 1)
    with pytest.raises(ValueError, match="at least 1"):
        TriangleGrid(10, 0)
