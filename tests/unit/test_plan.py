"""The plan against what a run really takes."""

import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpcnk.comm import FixedPointSums, FloatSums
from hpcnk.errors import UsageError
from hpcnk.run.check import check
from hpcnk.run.needs import available, solve_memory
from hpcnk.run.needs import kernel_memory as memory
from hpcnk.run.needs.prepare_memory import require_prepare_memory
from hpcnk.run.plan import rates, sizes
from hpcnk.run.plan.estimate import estimate
from hpcnk.run.plan.hazards import Ground, hazards
from hpcnk.run.plan.sizes import Place, plan
from hpcnk.run.plan.text import describe_plan
from hpcnk.solve import (
    Greedy,
    Limits,
    LowRank,
    Matrix,
    PlainProducts,
    Problem,
    ResidentTiles,
    TileOperator,
    conjugate_gradient,
    identity,
    leading_rows,
    pivoted_cholesky,
)
from hpcnk.tiling import TriangleGrid
from tests.support.dense import Single, kernel_matrix, tiles_of
from tests.support.mpi import HPCNK, hpcnk, launch

PROJECT = Path(__file__).resolve().parents[2]


def arrays(folder, train, test, shape=(64,)):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(train + test, *shape)).astype(np.float32)
    y = np.arange(train + test) % 2
    path = folder / f"arrays{train}.npz"
    np.savez(path, x_train=x[:train], y_train=y[:train], x_test=x[train:], y_test=y[train:])
    return {"path": str(path)}


KERNEL = {"layers": "fc1", "dtype": "float64", "tile": 250}
SOLVE = {"preconditioner": {"kind": "pivoted_cholesky", "rank": 50}}


@pytest.fixture
def deck(write_deck, tmp_path):
    return write_deck(data=arrays(tmp_path, 2000, 200), kernel=KERNEL, solve=SOLVE)


def test_files_are_as_large_as_planned(deck, tmp_path):
    planned = plan(*check(deck), Place())
    assert hpcnk(0, "run", deck).code == 0
    slack = 40 << 20  # alignment, sparse
    sizes = {
        "kernel.h5": planned.disk_kernel,
        "test_kernel.h5": planned.disk_test_kernel,
        "inputs.h5": planned.disk_inputs,
        "variances.h5": planned.disk_variances,
    }
    files = {name: (tmp_path / "small" / name).stat() for name in sizes}
    for name, size in sizes.items():
        assert size <= files[name].st_size <= size + slack
        assert files[name].st_blocks * 512 <= 1.05 * size + (1 << 20)
    results = sum(
        (tmp_path / "small" / f"{n}.h5").stat().st_size for n in ("solution", "predictions")
    )
    assert planned.disk_results <= results <= planned.disk_results + slack
    assert planned.tiles == 36 and planned.tiles_per_rank == 36 and planned.test_tiles == 8
    assert planned.pairs == 2000 * 2001 // 2 + 200 * 2000
    assert planned.systems == 4


def test_memory_of_the_solve_is_as_planned(write_deck, tmp_path):
    """Peak resident memory of `solve`, less that of a tiny one, within 20 % of the plan."""
    large, tiny = (
        write_deck(f"of{n}", data=arrays(tmp_path, n, 10), kernel=KERNEL, solve=SOLVE)
        for n in (6000, 60)
    )
    planned = plan(*check(large), Place()).solve_memory_per_rank
    for deck in (large, tiny):
        assert hpcnk(0, "kernel", deck).code == 0
    peak = _peak([*HPCNK, "solve", large]) - _peak([*HPCNK, "solve", tiny])
    assert 0.8 * planned < peak < 1.2 * planned, (peak, planned)


@pytest.mark.parametrize("sums", [FloatSums, FixedPointSums])
def test_vectors_of_the_solver_take_what_is_planned(sums):
    """The peak of NumPy's memory in conjugate gradients, with and without a preconditioner."""
    n, outputs, ridges = 1000, 4, 20
    k = kernel_matrix(n)
    grid = TriangleGrid(n, 500)
    held = ResidentTiles(tiles_of(k, grid), PlainProducts())
    operator = TileOperator(sums(Single()), n, [held])
    everything = [leading_rows(n, n)]
    matrices = [Matrix(0, 10.0 ** (1 - i / 6)) for i in range(ridges) for _ in range(outputs)]
    factor = pivoted_cholesky(operator, 10, Greedy())
    low_rank = LowRank(
        operator.spread, operator.sums, factor, everything, matrices, PlainProducts()
    )
    peaks = []
    for precondition in (identity, low_rank):
        tracemalloc.start()
        b = np.random.default_rng(0).normal(size=(n, len(matrices)))
        problem = Problem(b, matrices, everything)
        conjugate_gradient(operator, problem, precondition, Limits(1e-9, 8))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    fixed = sums is FixedPointSums
    job = solve_job(n=n, tile=500, systems=len(matrices), rank=10, reproducible=fixed)
    planned = solve_memory.solve_memory(job).vectors
    assert 0.8 * planned < max(peaks) < 1.05 * planned, (peaks, planned)


def _peak(command):
    """Peak resident bytes of a child process."""
    code = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=True
    )
    return int(ended.stdout.split()[-1]) * 1024


GELU = [{"conv": {"filter": 3}}, "gelu", {"conv": {"filter": 3}}, "gelu", "flatten", {"dense": {}}]
PEAKS = {
    "cv": ((32, 32, 3), 600, 20, {"layers": "cv8", "tile": 128}),
    "myrtle": ((8, 8, 192), 320, 40, {"layers": "myrtle5", "tile": 80}),
    "gelu": ((12, 12, 40), 500, 100, {"layers": GELU, "tile": 100}),
    "fc": ((2000,), 4096, 100, {"layers": "fc3", "tile": 512}),
}


@pytest.mark.parametrize("network,threads", [*((name, 2) for name in PEAKS), ("cv", 1)])
def test_memory_of_the_kernel_is_as_planned(network, threads, write_deck, tmp_path, monkeypatch):
    """The peak lies under the plan, by at most 20 % of it."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    shape, train, test, kernel = PEAKS[network]
    decks = [
        write_deck(f"of{n}", data=arrays(tmp_path, n, m, shape), kernel={**kernel, "tile": tile})
        for n, m, tile in ((24, 4, 8), (train, test, kernel["tile"]))
    ]
    for what in ("inputs", "kernel"):
        command = [sys.executable, "-m", "tests.support.peak", what, *decks]
        environment = {"OMP_NUM_THREADS": str(threads)}
        ended = launch(0, command, environment=environment, limit=250, cwd=PROJECT)
        assert ended.code == 0, ended.output
    peak = int(ended.output.split()[-1])
    planned = plan(*check(decks[1]), Place()).kernel_memory_per_rank.total
    assert peak <= planned <= 1.2 * peak, (peak, planned)


def test_the_plan_in_words(deck, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    place = Place(ranks=3, hosts=2)
    planned = plan(*check(deck), place)
    text = describe_plan(planned, place, estimate(planned, place), ["something is amiss"])
    assert "36 of 250 x 250" in text and "at most 12 and 3 on 3 rank(s)" in text
    assert "2.401 million" in text
    assert "for 5 thread(s)" in text and "for 2 rank(s) on 2 host(s)" in text
    assert "variances.h5" in text and "solution.h5" in text
    assert "6 journals a start" in text and "sums 64 kB over all ranks" in text
    assert "gets 64 kB of vectors" in text and "all 12 of a rank resident" in text
    assert "whole on every rank" in text and "of a rank's 768 rows" in text
    assert "WARNING          something is amiss" in text
    assert "GPU" not in text


@pytest.mark.parametrize("asked,held", [("auto", 5), ("streamed", 0), ("recomputed", 0),
                                        ("resident", 12)])  # fmt: skip
def test_the_plan_says_where_tiles_are(asked, held, write_deck, tmp_path):
    solve = {**SOLVE, "operator": asked}
    deck = write_deck(data=arrays(tmp_path, 2000, 200), kernel=KERNEL, solve=solve)
    need = plan(*check(deck), Place(3)).solve
    memory = int((need.least + 5.5 * 250**2 * 8 / sizes.SPARE + sizes.INTERPRETER) * 3) + 3
    place = Place(3, host_memory=memory)
    planned = plan(*check(deck), place)
    assert planned.tiles_in_memory == held
    times = estimate(planned, place, disk_rate=1e6)
    text = describe_plan(planned, place, times)
    warned = "\n".join(hazards(planned, place, times, Ground(tmp_path, memory)))
    if asked in ("auto", "streamed"):
        passed = (12 - held) * 250**2 * 8
        assert planned.streamed_per_pass == passed
        assert times.stream_seconds == pytest.approx(3 * passed / 1e6)
        assert times.solve_pass_seconds >= times.stream_seconds
        assert f"{12 - held} streamed" in text and "those of each pass" in text
        assert f"{12 - held} of 12 tiles of a rank do not fit" in warned
    else:
        assert not planned.streamed_per_pass and "tiles of a rank do not" not in warned
        assert ("12 recomputed" if asked == "recomputed" else "all 12 of a rank") in text


def test_threads_share_the_cores_of_a_host(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("hpcnk.run.plan.sizes.usable_cores", lambda: frozenset(range(12)))
    assert Place().threads == 12
    assert Place(ranks=6, hosts=2).threads == 4
    assert Place(ranks=100).threads == 1


def test_more_ranks_need_less_memory_each(deck):
    one, four = (plan(*check(deck), Place(r)) for r in (1, 4))
    assert four.solve_memory_per_rank < 0.5 * one.solve_memory_per_rank
    assert four.tiles_per_rank == 9


def test_more_threads_and_larger_tiles_need_more_memory(write_deck, tmp_path, monkeypatch):
    def total(threads, tile):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        kernel = {"layers": "myrtle5", "tile": tile}
        deck = write_deck(data=arrays(tmp_path, 300, 10, (16, 16, 3)), kernel=kernel)
        return plan(*check(deck), Place()).kernel_memory_per_rank

    assert total(2, 64).workspace == 2 * total(1, 64).workspace
    assert total(1, 128).tiles == 4 * total(1, 64).tiles
    assert total(1, 128).blocks > total(1, 64).blocks


REFUSED = """
import sys
from hpcnk.run.needs import available
available.available_memory = lambda: int(sys.argv[1])
from hpcnk.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_run_that_needs_too_much_is_refused_with_advice(ranks, write_deck, tmp_path):
    kernel = {"layers": "fc1", "dtype": "float64", "tile": 2000}
    deck = write_deck(data=arrays(tmp_path, 2000, 200), kernel=kernel)
    there = max(1, ranks) * 50_000_000
    command = [sys.executable, "-c", REFUSED, there, "run"]
    ended = launch(ranks, [*command, deck])
    assert ended.code == 2, ended.output
    assert "50 MB is there" in ended.output and "Traceback" not in ended.output
    assert not (tmp_path / "small" / "kernel.h5").exists()
    fitting = int(ended.output.split("set kernel.tile to ")[1].split(",")[0])
    for tile, good in ((fitting + 1, False), (fitting, True)):
        deck.write_text(deck.read_text().replace("tile: 2000", f"tile: {tile}"))
        ended = launch(ranks, [*command, deck])
        assert (ended.code == 0) == good, ended.output
        deck.write_text(deck.read_text().replace(f"tile: {tile}", "tile: 2000"))


def test_fewer_threads_are_advised_where_they_help():
    need = memory.KernelMemory(blocks=10, tiles=10, workspace=800, describing=0)
    engine = type("Engine", (), {"threads": 8})()
    assert memory._threads_that_fit(engine, need, need.total) == 8
    assert memory._threads_that_fit(engine, need, need.total // 2) == 3
    assert memory._threads_that_fit(engine, need, 30) == 0


def solve_job(**changes):
    job = {"n": 2000, "tile": 250, "systems": 4, "entry": 8, "rank": 50, "reproducible": False}
    return solve_memory.SolveJob(**{**job, "ranks": 1, **changes})


def test_the_memory_of_the_solve_counts_all_its_parts():
    one = solve_memory.solve_memory(solve_job())
    assert one.tiles == 36 * 250**2 * 8
    cores = 6 * 50**2 * 8
    assert one.factor == 2 * 2000 * 50 * 8 + cores
    assert one.replicated == 2000 * 50 * 8 and one.spread == (3 * 50 + 10 * 4) * 2000 * 8  # columns
    many = solve_memory.solve_memory(solve_job(systems=400))
    assert (many.replicated, many.spread) == (0, 11 * 2000 * 400 * 8)  # a step of the solver
    three = solve_memory.solve_memory(solve_job(systems=400, ranks=30))
    assert three.replicated == 3 * 2000 * 400 * 8  # rank 0 writes a state
    assert three.spread == 11 * 256 * 400 * 8
    fixed = solve_memory.solve_memory(solve_job(systems=400, ranks=30, reproducible=True))
    assert fixed.replicated == 3 * 2000 * 400 * 8
    assert fixed.spread == (10 * 256 + 5 * 250) * 400 * 8
    assert three.tiles == 2 * 250**2 * 8
    assert three.factor == 2 * 256 * 50 * 8 + cores
    assert one.least == one.total - one.tiles and one.buffers == (1 << 20) + one.tiles
    assert three.buffers == (1 << 20) + three.tiles  # no more than it has
    large = solve_memory.solve_memory(solve_job(n=200_000))
    assert large.buffers == (1 << 20) + 68 * 250**2 * 8 < large.tiles


def test_a_dense_solution_needs_the_whole_kernel_on_one_rank():
    job = solve_job(n=60_000, systems=10, dense=True, rank=0)
    need = solve_memory.solve_memory(job)
    assert need.dense == (2 * 60_000 + 3 * 1024) * 60_000 * 8
    assert need.of_host(3) == 3 * (need.least - need.dense) + need.dense
    with pytest.raises(UsageError) as caught:
        solve_memory.check_solve_memory(job, 24 << 30, 1)
    assert "for the whole kernel on rank 0" in caught.value.what
    assert "set solve.method to cg" in caught.value.advice


def test_the_deck_says_whether_it_is_dense(write_deck, tmp_path):
    deck = write_deck(data=arrays(tmp_path, 300, 20), kernel=KERNEL, solve={"method": "dense"})
    job = solve_memory.solve_job(check(deck)[0], 300, 2, 1)
    assert job.dense and job.rank == 0


def test_a_dense_solve_takes_the_time_of_its_factors(write_deck, tmp_path):
    solve = {"method": "dense", "ridge": [0.1, 0.2], "sizes": [500, 1000, 2000]}
    data = arrays(tmp_path, 2000, 200)
    dense = write_deck(data=data, kernel=KERNEL, solve=solve)
    planned, place = plan(*check(dense), Place()), Place()
    assert planned.factorised == (500, 500, 1000, 1000, 2000, 2000)
    times = estimate(planned, place)
    products = 2 * (500**3 + 1000**3 + 2000**3) / 6
    rate = rates.KERNEL["float64"].products * place.threads
    assert times.factor_seconds == pytest.approx(products / rate)
    text = describe_plan(planned, place, times)
    assert "6 Cholesky factors on rank 0" in text and "passes" not in text
    iterative = write_deck(data=data, kernel=KERNEL, solve={**solve, "method": "cg"})
    assert estimate(plan(*check(iterative), place), place).factor_seconds == 0


def test_a_rank_that_is_left_open_fits_into_the_memory(write_deck, tmp_path):
    automatic = {"preconditioner": {"rank": "auto"}}
    deck = check(write_deck(data=arrays(tmp_path, 2000, 200), kernel=KERNEL, solve=automatic))[0]
    one = solve_memory.solve_memory(replace(solve_memory.solve_job(deck, 2000, 2, 1), rank=1)).least
    for more in (0, 10**5, 10**6, 10**7):
        job = solve_memory.solve_job(deck, 2000, 2, 1, one + more)
        solve_memory.check_solve_memory(job, one + more, 1)
        if more < 10**6:
            larger = solve_memory.solve_memory(replace(job, rank=job.rank + 1))
            assert larger.least > one + more
    assert job.rank > 50
    for less in (1, one // 2, one):  # what is said to be needed is enough, whatever there is
        job = solve_memory.solve_job(deck, 2000, 2, 1, one - less)
        assert job.rank == 1 and solve_memory.solve_memory(job).least == one


@pytest.mark.parametrize("operator", ["auto", "resident"])
def test_memory_of_the_deck_that_is_too_little_is_told(write_deck, tmp_path, operator):
    def told(memory):
        solve = {"preconditioner": "none", "operator": operator, "memory": memory}
        deck = write_deck(data=arrays(tmp_path, 2000, 200), kernel=KERNEL, solve=solve)
        planned = plan(*check(deck), Place())
        found = hazards(planned, Place(), estimate(planned, Place()), Ground(tmp_path))
        return planned, any("solve.memory is" in text for text in found)

    planned, _ = told(1.0)
    least = planned.solve.total if operator == "resident" else planned.solve.least
    assert not told(least * 1.001e-9)[1]
    assert told(least * 0.999e-9)[1]


@pytest.mark.parametrize("reproducible", [False, True])
@pytest.mark.parametrize("rank", [200, 1000])
def test_five_million_rows_and_fifty_systems_take_less_than_8_gb_of_vectors(rank, reproducible):
    job = {"n": 5_000_000, "tile": 8192, "systems": 50, "entry": 4, "rank": rank, "ranks": 512}
    need = solve_memory.solve_memory(solve_job(**job, matrices=5, reproducible=reproducible))
    assert 4e9 < need.vectors < 8e9
    assert need.least < 10e9 < need.total  # tiles need not fit


def test_sizes_and_ridges_make_systems(write_deck, tmp_path):
    solve = {"ridge": [0.1, 0.2], "sizes": [500, 1000, 2000], "preconditioner": "none"}
    deck = write_deck(data=arrays(tmp_path, 2000, 200), kernel=KERNEL, solve=solve)
    planned = plan(*check(deck), Place())
    assert planned.systems == 2 * 2 * 3
    job = solve_memory.solve_job(check(deck)[0], 2000, 2, 1)
    assert (job.sets, job.matrices, job.rank) == (3, 6, 0)


def test_a_solve_that_needs_too_much_is_refused_with_what_would_fit():
    job = solve_job(n=20000, systems=40)
    need = solve_memory.solve_memory(job)
    solve_memory.check_solve_memory(job, need.least, 1)
    solve_memory.check_solve_memory(job, need.total, 1, resident=True)
    there = int(need.least * 0.9)
    with pytest.raises(UsageError) as caught:
        solve_memory.check_solve_memory(job, there, 2)
    assert "is there for each of 2 ranks" in caught.value.what
    assert "vectors of 20000 rows and 40 systems" in caught.value.what
    assert "tiles of 250" not in caught.value.what
    ranks = int(caught.value.advice.split("start ")[1].split()[0])
    for number, fits in ((ranks, True), (ranks - 1, False)):
        least = solve_memory.solve_memory(solve_job(n=20000, systems=40, ranks=number)).least
        assert (least <= there) == fits
    with pytest.raises(UsageError) as caught:
        solve_memory.check_solve_memory(job, need.least - 1, 1)
    assert "at most 39 systems" in caught.value.advice
    assert "rank to at most 49" in caught.value.advice
    with pytest.raises(UsageError) as caught:
        solve_memory.check_solve_memory(job, need.total - 1, 1, resident=True)
    assert "for 3240 tiles of 250" in caught.value.what
    assert caught.value.advice.startswith("set solve.operator to auto")


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_solve_without_memory_is_refused_before_tiles_are_loaded(ranks, deck, tmp_path):
    assert hpcnk(0, "kernel", deck).code == 0
    there = max(1, ranks) * 8_000_000
    ended = launch(ranks, [sys.executable, "-c", REFUSED, there, "solve", deck])
    assert ended.code == 2, ended.output
    assert "the solve needs" in ended.output and "8 MB is there" in ended.output
    assert "Traceback" not in ended.output
    assert not (tmp_path / "small" / "solution.h5").exists()


def test_data_that_need_too_much_are_refused_before_they_are_read(deck, tmp_path):
    ended = launch(0, [sys.executable, "-c", REFUSED, 2_000_000, "run", deck])
    assert ended.code == 2, ended.output
    assert "rank 0 needs 2.253 MB" in ended.output and "2 MB is there" in ended.output
    assert not (tmp_path / "small" / "inputs.h5").exists()


def test_limits_of_the_process_count(deck, monkeypatch):
    """As `ulimit -v` sets them: what the process has already is taken off."""
    monkeypatch.setattr(available, "available_memory", lambda: None)
    real = available._lines

    def lines(path):
        status = ["VmSize:\t  7000 kB", "VmData:\t 100 kB"]
        return status if str(path) == "/proc/self/status" else real(path)

    limits = {available.resource.RLIMIT_AS: 8_000_000, available.resource.RLIMIT_DATA: -1}
    monkeypatch.setattr(available, "_lines", lines)
    monkeypatch.setattr(available.resource, "getrlimit", lambda limit: (limits[limit], -1))
    assert list(available.process_limits()) == [8_000_000 - 7000 * 1024]
    with pytest.raises(UsageError, match="832 kB is there"):
        require_prepare_memory(check(deck)[0])
    limits[available.resource.RLIMIT_DATA] = 150 * 1024
    assert min(available.process_limits()) == 50 * 1024


def test_a_limited_process_is_refused_in_advance(write_deck, tmp_path):
    """The real thing: the shell's limit on virtual memory, and no traceback."""
    kernel = {"layers": "fc1", "dtype": "float64", "tile": 18000}
    deck = write_deck(data=arrays(tmp_path, 2000, 200), kernel=kernel)
    line = 'ulimit -v 6000000 && exec "$@"'
    ended = launch(0, ["bash", "-c", line, "bash", *HPCNK, "run", deck])
    assert ended.code == 2, ended.output
    assert "the kernel phase needs 8.7" in ended.output and "Traceback" not in ended.output


def test_more_tiles_than_a_journal_numbers_are_refused(monkeypatch):
    job = memory.Job(5_000_000, 10, (3,), 16)
    memory._check_count(job)
    with pytest.raises(UsageError, match=r"kernel.tile 3 cuts the kernel into 1.389 trillion"):
        memory._check_count(memory.replace(job, tile=3))


def test_the_largest_that_fits():
    assert memory.largest(100, lambda number: number <= 37) == 37
    assert memory.largest(100, lambda number: False) == 0
    assert memory.largest(1, lambda number: True) == 0


V1, V2 = "memory.limit_in_bytes memory.usage_in_bytes", "memory.max memory.current"


@pytest.mark.parametrize(
    "line,folder,files,cache",
    [
        ("0::/job/step", "job", V2, "inactive_file 30"),
        ("0::/job/step", "job/step", V2, "inactive_file 30"),
        ("4:memory:/job", "memory/job", V1, "total_inactive_file 30"),
        ("4:memory:/elsewhere", "memory", V1, "total_inactive_file 30"),
    ],
)
def test_the_limits_of_control_groups_count(line, folder, files, cache, tmp_path, monkeypatch):
    (tmp_path / folder).mkdir(parents=True)
    limit, use = files.split()
    (tmp_path / folder / limit).write_text("1000\n")
    (tmp_path / folder / use).write_text("600\n")
    (tmp_path / folder / "memory.stat").write_text(f"anon 5\n{cache}\n")
    monkeypatch.setattr(available, "_CGROUP", tmp_path)
    real = available._lines

    def lines(path):
        return [line] if str(path) == "/proc/self/cgroup" else real(path)

    monkeypatch.setattr(available, "_lines", lines)
    assert available.available_memory() == 430
    (tmp_path / folder / limit).write_text("max\n")
    assert available.available_memory() > 1 << 20
