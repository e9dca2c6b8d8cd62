"""The times of a plan: rates as they were measured, counts as the engine's, sums as they should."""

import argparse
import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpcnk.cli import _gigabytes, _rate
from hpcnk.data import Description
from hpcnk.deck import read_deck
from hpcnk.kernels import find_problems, parse
from hpcnk.run.needs.filesystem import FileSystem
from hpcnk.run.plan import hazards as hazards_module
from hpcnk.run.plan import rates
from hpcnk.run.plan.cost import PairCost, pair_cost
from hpcnk.run.plan.estimate import estimate
from hpcnk.run.plan.hazards import Ground, hazards
from hpcnk.run.plan.sizes import Place, _most_pairs, plan, resized
from hpcnk.run.plan.text import describe_plan
from hpcnk.tiling import CrossGrid, TriangleGrid, deal
from tests.support.mpi import HPCNK, launch
from tools.bench import solve as solve_bench

RESULTS = Path(__file__).resolve().parents[2] / "tools" / "bench" / "results"
MANY_RIDGES = {"ridge": [i * 1e-3 for i in range(1, 20)]}
IMAGES = Description((32, 32, 3), 5_000_000, 10_000, 10, "classification")


def measured(name):
    """Rows of a file of measurements, and its cores."""
    record = json.loads((RESULTS / name).read_text())
    return {row["name"]: row for row in record["rows"]}, record.get("threads", 1)


def cost(row):
    return pair_cost(parse(row["layers"]).plan(tuple(row["shape"])))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_rates_of_the_kernel_are_those_of_the_file(dtype):
    """Three rows give the three rates of networks with pixels, one those of vectors."""
    rows, cores = measured(rates.KERNEL_SOURCES[dtype])
    fitted = [rows[name] for name in ("myrtle10", "residual", "sequence735")]
    counts = [(c.convolutions, c.others, c.inputs) for c in map(cost, fitted)]
    found = 1 / np.linalg.solve(counts, [cores / row["pairs_per_s"] for row in fitted])
    table = rates.KERNEL[dtype]
    np.testing.assert_allclose((table.convolutions, table.others, table.inputs), found, rtol=0.005)
    fc3 = rows["fc3"]
    product = cores / fc3["product_pairs_per_s"]
    layers = cost(fc3).layers / (cores / fc3["pairs_per_s"] - product)
    np.testing.assert_allclose(table.products, fc3["shape"][0] / product, rtol=0.005)
    np.testing.assert_allclose(table.layers, layers, rtol=0.005)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_measured_network_is_predicted_within_15_percent(dtype):
    rows, cores = measured(rates.KERNEL_SOURCES[dtype])
    networks = {k: row for k, row in rows.items() if isinstance(row["pairs_per_s"], float)}
    assert len(networks) >= 6
    for name, row in networks.items():
        ratio = cost(row).seconds(rates.KERNEL[dtype]) * row["pairs_per_s"] / cores
        assert 0.85 < ratio < 1.15, (name, ratio)


def test_the_rates_of_the_solve_are_those_of_the_file():
    rows, _ = measured(rates.SOLVE_SOURCE)
    found = {name: row["entries_per_s"] for name, row in rows.items()}
    for dtype, table in rates.PRODUCTS.items():
        for key, values in (
            ("pass", table.triangle),
            ("pass, reproducible", table.reproducible),
            ("cross", table.cross),
        ):
            expected = {columns: found[f"{key} {dtype} {columns}"] for columns in (10, 50)}
            assert values == pytest.approx(expected, rel=0.005), (key, dtype)
        assert table.read == pytest.approx(found[f"read {dtype}"], rel=0.005)
    assert pytest.approx(found["vectors"], rel=0.005) == rates.VECTORS


def test_the_benchmark_of_the_solve_still_measures_what_the_plan_uses(tmp_path, monkeypatch):
    small = {"TILE": 32, "BLOCKS": 2, "VECTOR_ROWS": 100, "SECONDS": 0.0, "ROUNDS": 1}
    for name, value in small.items():
        monkeypatch.setattr(solve_bench, name, value)
    monkeypatch.setattr(solve_bench.machine, "pin", lambda cores: None)
    assert solve_bench.main(["--output", str(tmp_path)]) == 0
    record = json.loads(next(tmp_path.glob("solve-cpu-*.json")).read_text())
    assert {row["name"] for row in record["rows"]} == set(measured(rates.SOLVE_SOURCE)[0])
    assert all(row["entries_per_s"] > 0 for row in record["rows"])


def test_entries_through_plain_convolutions_are_the_el_layers():
    """Where no layer is strided, filters are 3 wide and ReLUs follow, as in Myrtle and CV8."""
    for name in ("myrtle10", "cv8"):
        architecture, shape = parse(name), (32, 32, 3)
        counted = pair_cost(architecture.plan(shape))
        assert counted.convolutions == architecture.operations(shape)
        assert counted.others < 1
    assert pair_cost(parse("myrtle10").plan((32, 32, 3))).inputs == 32**4 * 3
    assert pair_cost(parse("fc3").plan((30,))) == PairCost(products=30, layers=4)


@pytest.fixture
def planned(write_deck):
    """Return a function that plans a deck of 32 x 32 images at a place."""

    def make(place, kernel=None, solve=None, data=IMAGES):
        deck = write_deck(kernel={"layers": "cv8", "tile": 8192, **(kernel or {})}, solve=solve)
        return plan(read_deck(deck, find_problems), data, place)

    return make


def test_times_follow_from_the_rates(planned, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    place = Place(512, 64)
    made = planned(place)
    found = estimate(made, place, disk_rate=1e11)
    pair = made.pair_cost.seconds(rates.KERNEL["float32"]) / 4
    assert found.kernel_seconds == pytest.approx(made.pairs_per_rank * pair)
    assert found.tile_seconds == pytest.approx(8192**2 * pair)
    held = 366 * 8192**2
    vectors = made.vector_rows * 20 / rates.VECTORS
    assert 5_000_000 / 512 <= made.vector_rows < 5_000_000 / 512 + 256
    twenty = rates.product_seconds(rates.PRODUCTS["float32"].triangle, 20)
    assert found.solve_pass_seconds == pytest.approx(held * twenty / 4 + vectors)
    assert found.vector_seconds == pytest.approx(vectors)
    tiles = 186_966 + 2 * 611
    assert found.write_seconds == pytest.approx(tiles * 8192**2 * 4 / 1e11)
    assert found.solve_seconds(3) == pytest.approx(
        max(found.read_seconds, found.load_seconds) + 3 * found.solve_pass_seconds
    )
    fixed = estimate(planned(place, solve={"reproducible": True}), place)
    assert fixed.solve_pass_seconds > 3 * found.solve_pass_seconds - 3 * vectors  # one thread
    assert fixed.write_seconds is None


def test_seconds_of_a_product_lie_on_the_line_through_those_measured():
    line = {10: 4.0, 50: 1.0}  # 1/4 s and 1 s
    assert rates.product_seconds(line, 10) == 0.25 and rates.product_seconds(line, 50) == 1.0
    assert rates.product_seconds(line, 30) == pytest.approx(0.625)
    assert rates.product_seconds(line, 1) > 0


@pytest.mark.parametrize(
    "kernel,why",
    [
        ({"backend": "gpu"}, "no GPU rate"),
        ({"backend": "reference"}, "no rate of the back end reference"),
        ({"layers": ["flatten", "dense", "gelu", "dense", "erf", "dense"]}, "erf and gelu"),
    ],
)
def test_what_nobody_measured_is_unknown_unless_the_user_knows(kernel, why, planned):
    place = Place(8, 2)
    made = planned(place, kernel)
    unknown = estimate(made, place)
    assert unknown.kernel_seconds is None and unknown.tile_seconds is None and why in made.no_rate
    assert f"unknown: {made.no_rate}; give --pairs-per-second" in describe_plan(
        made, place, unknown
    )
    told = estimate(made, place, pairs_per_second=1e6)
    assert told.kernel_seconds == pytest.approx(made.pairs_per_rank / 1e6)


@pytest.mark.parametrize("rows,tile,ranks", [(100, 10, 7), (101, 8, 3), (64, 64, 2), (5, 8, 1)])
def test_the_work_of_the_busiest_rank_is_bounded_closely(rows, tile, ranks):
    for grid in (TriangleGrid(rows, tile), CrossGrid(13, rows, tile)):
        shares = [sum(grid.at(k).pairs for k in deal(grid, ranks, r)) for r in range(ranks)]
        bound = _most_pairs(grid, ranks)
        assert max(shares) <= bound <= max(shares) + 2 * tile**2


def warnings(planned, place, output, there=None, **changes):
    place = replace(place, host_memory=there)
    made = planned(place, **changes)
    return "\n".join(hazards(made, place, estimate(made, place), Ground(output, there)))


def test_five_million_rows_are_warned_of(planned, tmp_path, monkeypatch):
    kinds = {"ext4": "at most 17.59 TB", "xfs": "no ext4 holds it", "lustre": "3 stripes"}
    for kind, text in kinds.items():
        system = FileSystem("/here", kind)
        monkeypatch.setattr(hazards_module, "file_system", lambda path, system=system: system)
        told = warnings(planned, Place(512, 64), tmp_path / "absent" / "output", 512 * 10**9)
        assert text in told and "is missing" in told and "lfs setstripe" in told
    assert "rank 0 needs" not in told and "hosts would hold all" in told
    assert "the solve needs" not in told  # without its tiles
    assert "of 366 tiles of a rank do not fit into memory and are read in each pass" in told
    tight = warnings(planned, Place(512, 64), tmp_path, 8 * 10**9)
    assert "the solve needs" in tight and "tiles apart" in tight and "do not fit" not in tight


@pytest.mark.parametrize(
    "place,changes,text",
    [
        (Place(512, 64), {"kernel": {"layers": "myrtle10"}}, "more than a week"),
        (Place(512, 64), {"kernel": {"layers": "myrtle10"}}, "tiles in flight are lost"),
        (Place(512, 64), {"kernel": {"tile": 3}}, "more than journals can number"),
        (Place(512, 64), {"kernel": {"tile": 256}}, "a restart some 19"),
        (Place(512, 64), {"kernel": {"tile": 256}}, "small writes are slow"),
        (Place(190_000, 9000), {}, "3034 ranks have none"),
        (Place(190_000, 9000), {}, "380000 journals"),
        (Place(100_000, 9000), {}, "tiles for a rank are few"),
        (
            Place(20_000, 9000),
            {"solve": {"ridge": [i * 1e-3 for i in range(1, 20)]}},
            "whole on every rank",
        ),
    ],
)
def test_each_danger_is_told(place, changes, text, planned, tmp_path):
    assert text in warnings(planned, place, tmp_path, **changes)


def test_a_sound_plan_has_no_warnings(planned, tmp_path):
    small = Description((32, 32, 3), 4000, 400, 10, "classification")
    assert not warnings(planned, Place(2), tmp_path, 10**10, kernel={"tile": 256}, data=small)


def test_rows_can_be_replaced():
    data = Description((3,), 50, 10, 2, "classification", fit_rows=80)
    assert resized(data, None, None) == data
    larger = resized(data, 1000, 7)
    assert (larger.train_rows, larger.test_rows, larger.fit_rows) == (1000, 7, 1000)
    assert larger.input_shape == (3,)


def test_five_million_rows_on_512_ranks_are_planned_in_two_seconds(write_deck):
    """The whole command, Python's start and imports included, in seconds of the processor."""
    deck = write_deck(kernel={"layers": "myrtle10", "tile": 8192})
    size = ["--ranks", "512", "--hosts", "64", "--rows", "5000000"]
    before = _processor_seconds()
    ended = launch(0, [*HPCNK, "plan", deck, *size, "--pairs-per-second", "1e5"])
    assert _processor_seconds() - before < 2
    assert ended.code == 0, ended.output
    for text in ("186966 of 8192", "at most 366", "50.19 TB", "9984 rows", "a pass", "WARNING"):
        assert text in ended.output, text


def _processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "many", ""])
def test_rates_without_sense_are_refused(text):
    for read in (_rate, _gigabytes):
        with pytest.raises(argparse.ArgumentTypeError, match="above 0"):
            read(text)
    assert _rate("2.5e3") == 2500 and _gigabytes("0.5") == 500_000_000
