"""The plan against what a run really takes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpcnk.errors import UsageError
from hpcnk.run.check import check
from hpcnk.run.needs import available, solve_memory
from hpcnk.run.needs import kernel_memory as memory
from hpcnk.run.needs.prepare_memory import require_prepare_memory
from hpcnk.run.plan.estimate import estimate
from hpcnk.run.plan.sizes import Place, plan
from hpcnk.run.plan.text import describe_plan
from hpcnk.tiling import TriangleGrid, deal
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


@pytest.mark.parametrize("reproducible", [False, True])
def test_memory_of_many_systems_is_as_planned(reproducible, write_deck, tmp_path):
    """As above, where vectors take the most: 600 systems."""
    kernel = {**KERNEL, "layers": "fc1"}
    decks, planned = [], []
    for count in (2, 300):
        solve = {**SOLVE, "ridge": [0.01 * k for k in range(1, count + 1)], "tolerance": 1e-5}
        solve |= {"reproducible": reproducible, "checkpoint": "none"}
        data = arrays(tmp_path, 1000, 10)
        decks.append(write_deck(f"of{count}", data=data, kernel=kernel, solve=solve))
        planned.append(plan(*check(decks[-1]), Place()).solve_memory_per_rank)
        assert hpcnk(0, "kernel", decks[-1]).code == 0
    few, many = (_peak([*HPCNK, "solve", deck]) for deck in decks)
    assert 0.8 * (planned[1] - planned[0]) < many - few < 1.2 * (planned[1] - planned[0])


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
    assert "WARNING          something is amiss" in text
    assert "GPU" not in text


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
    assert one.tiles == len(deal(TriangleGrid(2000, 250), 1, 0)) * 250**2 * 8
    assert one.vectors == 12 * 2000 * 4 * 8
    assert one.factor == 2 * 2000 * 50 * 8
    large = {"tile": 2000, "reproducible": True}  # a tile's products count as much as vectors
    assert solve_memory.solve_memory(solve_job(**large)).vectors == 14 * 2000 * 4 * 8
    three = solve_memory.solve_memory(solve_job(ranks=3))
    assert three.tiles == one.tiles // 3 and three.vectors == one.vectors
    assert one.factor / 3 <= three.factor < one.factor / 2


def test_a_solve_that_needs_too_much_is_refused_with_what_would_fit():
    job = solve_job()
    need = solve_memory.solve_memory(job)
    solve_memory.check_solve_memory(job, need.total, 1)
    with pytest.raises(UsageError) as caught:
        solve_memory.check_solve_memory(job, 10_000_000, 2)
    assert "10 MB is there for each of 2 ranks" in caught.value.what
    assert "18 MB for 36 tiles of 250" in caught.value.what
    ranks = int(caught.value.advice.split("start ")[1].split()[0])
    for number, fits in ((ranks, True), (ranks - 1, False)):
        total = solve_memory.solve_memory(solve_job(ranks=number)).total
        assert (total <= 10_000_000) == fits
    with pytest.raises(UsageError) as caught:
        solve_memory.check_solve_memory(job, need.total - 1, 1)
    assert "at most 3 systems" in caught.value.advice and "rank to at most 49" in (
        caught.value.advice
    )


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
