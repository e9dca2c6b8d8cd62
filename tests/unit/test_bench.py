"""The benchmark's own arithmetic, and a run of it on tiny networks without a peer."""

import json
import os
import platform
import shutil
import sys
from contextlib import ExitStack
from datetime import datetime

import numpy as np
import pytest

from hpcnk.kernels import parse
from hpcnk.tiling import TriangleGrid
from tools.bench import kernels, machine, solver
from tools.bench.cases import CASES, REFERENCE, SCALED, Case, Target, chosen
from tools.bench.channel import neutral
from tools.bench.client import Client, WorkerError, engine_client
from tools.bench.measure import (
    Disagreement,
    Peer,
    Settings,
    _checked_agreement,
    _too_slow,
    measured_case,
    open_session,
)
from tools.bench.results import figure, judged, quantities, result_path, table, write_json
from tools.bench.scaling import efficiency, process_scaling, steps, thread_scaling
from tools.bench.systems.kernels import CONDITION, Synthetic
from tools.bench.timing import Block, best, calibrated, repeated

CORES = tuple(machine.usable_cores()[:2])
TINY = Settings(CORES, seconds=0.005, rounds=2)
SMALL_CASE = Case(
    "small",
    [{"conv": {"filter": 3}}, "relu", "global_avg_pool", "dense"],
    (4, 4, 2),
    (1,),
    (1,),
    (Target("peer_ratio", 2.0), Target("pairs_per_core", 1.0)),
    product=True,
)


def test_a_block_doubles_its_pairs_until_it_is_as_large_as_it_may_be():
    block, pairs = Block(1, 1), []
    for _ in range(6):
        pairs.append((block.rows, block.columns, block.calls))
        block = block.doubled(4)
    assert pairs == [(1, 1, 1), (1, 2, 1), (2, 2, 1), (2, 4, 1), (4, 4, 1), (4, 4, 2)]
    assert block.pairs == 64


def test_a_block_never_exceeds_a_limit_that_is_no_power_of_two():
    block = Block(2, 2)
    for _ in range(5):
        block = block.doubled(3)
    assert (block.rows, block.columns, block.calls) == (3, 3, 8)


@pytest.mark.parametrize("seconds_a_pair", [1e-4, 0.02, 0.7, 5.0])
def test_calibration_stops_between_once_and_twice_the_asked_duration(seconds_a_pair):
    block = calibrated(lambda block: block.pairs * seconds_a_pair, 1.0, 64)
    taken = block.pairs * seconds_a_pair
    assert taken >= 1.0
    assert block.pairs == 1 or taken < 2.0


def test_work_is_repeated_until_the_time_has_passed():
    calls, passed = repeated(lambda: None, 0.002)
    assert calls > 1
    assert passed >= 0.002
    assert repeated(lambda: None, 0.0)[0] == 1


def test_the_best_rate_ignores_what_was_not_measured():
    assert best([None, 2.0, 3.0, 1.0]) == 3.0
    assert best([None]) is None
    assert best([]) is None


def test_quantities_follow_from_the_measured_rates():
    row = {
        "pairs_per_s": 100.0,
        "operations": 1000,
        "peer_pairs_per_s": 4.0,
        "product_pairs_per_s": 150.0,
    }
    found = quantities(SMALL_CASE, row, cores=2, clock=3e9, reference=2e5)
    assert found == {
        "pairs_per_s": 100.0,
        "pairs_per_core": 50.0,
        "el_layers_per_s": 1e5,
        "cycles_per_el_layer": 6e4,
        "peer_ratio": 25.0,
        "relative_rate": 0.5,
        "product_ratio": 1.5,
    }


def test_what_was_not_measured_gives_no_quantity():
    row = {
        "pairs_per_s": 1.0,
        "operations": 1,
        "peer_pairs_per_s": None,
        "product_pairs_per_s": None,
    }
    found = quantities(SMALL_CASE, row, cores=1, clock=None, reference=None)
    missing = {name for name, value in found.items() if value is None}
    assert missing == {"cycles_per_el_layer", "peer_ratio", "relative_rate", "product_ratio"}


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (Target("q", 200), 200.0, True),
        (Target("q", 200), 199.9, False),
        (Target("q", 1.3, at_least=False), 1.3, True),
        (Target("q", 1.3, at_least=False), 1.31, False),
        (Target("q", 1.3), None, None),
    ],
)
def test_a_target_is_judged_by_its_sense(target, value, met):
    (judgement,) = judged([target], {"q": value})
    assert judgement["met"] is met
    assert judgement["value"] == value


def test_the_targets_are_those_that_were_set():
    bounds = {
        case.name: [(one.quantity, round(one.bound, 3), one.at_least) for one in case.cpu_targets]
        for case in CASES
    }
    assert bounds == {
        "myrtle10": [("peer_ratio", 200, True), ("pairs_per_core", 165, True)],
        "myrtle5": [("relative_rate", 0.8, True)],
        "myrtle7": [("relative_rate", 0.8, True)],
        "cv8": [("peer_ratio", 15, True)],
        "fc3": [("peer_ratio", 1.3, True), ("product_ratio", 1.3, False)],
        "sequence28": [("peer_ratio", 30, True)],
        "sequence735": [("peer_ratio", 30, True)],
        "myrtle5-64": [("relative_rate", 0.7, True)],
        "residual": [("peer_ratio", 10, True)],
        "strided": [("peer_ratio", 10, True)],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_network_is_valid_for_its_shape(case):
    assert parse(case.layers).operations(case.shape) > 0


def test_the_reference_comes_first_and_scaled_rows_exist():
    assert CASES[0].name == REFERENCE
    assert set(SCALED) <= {case.name for case in CASES}


def test_rows_are_chosen_by_name():
    assert chosen([]) == CASES
    assert [case.name for case in chosen(["fc3", "threads", "cv8"])] == ["cv8", "fc3"]
    with pytest.raises(ValueError, match="no row is called cv9"):
        chosen(["cv9"])


def test_the_table_has_a_line_for_every_row_and_says_what_is_met():
    found = {"pairs_per_s": 12345.6, "el_layers_per_s": 4.567e8, "cycles_per_el_layer": 7.25}
    targets = judged(
        [Target("pairs_per_s", 1e4), Target("peer_ratio", 200), Target("efficiency", 0.95)],
        {"pairs_per_s": 12345.6, "peer_ratio": 150.0},
    )
    lines = table(
        [
            {"name": "a", "found": found, "targets": targets, "peer_pairs_per_s": 1.3},
            {"name": "b", "found": found, "targets": []},
        ]
    ).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert "12,346" in lines[2]
    assert "4.57e8" in lines[2]
    assert "7.25" in lines[2]
    assert "yes (12,346); NO (150); open" in lines[2]
    assert "report" in lines[3]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.123456, "0.123"), (999.4, "999"), (1234.5, "1,234"), (2.5e11, "2.5e+11")],
)
def test_figures_have_three_digits(value, text):
    assert figure(value) == text


def test_slow_batches_end_the_search():
    assert not _too_slow([], 4)
    assert not _too_slow([{"batch": 1, "error": "out of memory"}], 2)
    assert not _too_slow([{"batch": 2, "seconds": 9.9}], 4)
    assert _too_slow([{"batch": 2, "seconds": 10.1}], 4)
    assert _too_slow([{"batch": 2, "seconds": 1.0}, {"batch": 4, "seconds": 6.0}], 5)


def test_counts_of_cores_double_up_to_the_most():
    assert steps(1) == [1]
    assert steps(2) == [1, 2]
    assert steps(6) == [1, 2, 4, 6]
    assert steps(16) == [1, 2, 4, 8, 16]


def test_efficiency_compares_the_largest_count_with_one():
    assert efficiency({1: 100.0, 2: 190.0}) == pytest.approx(0.95)
    assert efficiency({1: 100.0, 2: 150.0, 4: 300.0}) == pytest.approx(0.75)
    assert efficiency({1: 100.0}) is None


def test_messages_name_no_place_of_this_machine():
    message = "cannot read /home/someone/x.py:\n\n  see https://host/a/b or ~/.cache/b.so; 3/4 done"
    assert neutral(message) == "cannot read <path>: see https://host/a/b or <path>; 3/4 done"
    assert neutral("file:///home/someone/x.py (no/such)") == "<path> (no/such)"
    assert len(neutral("x" * 1000)) == 300


def test_a_processor_is_described_without_the_name_of_a_host():
    text = (
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n"
        "model name\t: AMD EPYC\ncpu MHz\t\t: 2445.4\nflags\t\t: fpu sse avx avx2 fma\n"
    )
    found = machine.processor(text)
    assert found["model"] == "AMD EPYC"
    assert found["family"] == "AuthenticAMD/25/1"
    assert found["flags"] == ["avx2", "fma"]
    assert machine._stated_clock(text) == pytest.approx(2.4454e9)
    assert machine._stated_clock("") is None


def test_a_file_is_named_after_back_end_and_time(tmp_path):
    path = result_path(tmp_path, "gpu", datetime(2024, 3, 9, 7, 5))
    assert path.name == "kernels-gpu-20240309-0705.json"
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"rate": float("nan")})


def test_a_row_is_measured_without_a_peer():
    with ExitStack() as stack:
        session = open_session(TINY, [], stack)
        row = measured_case(session, SMALL_CASE, None)
    assert "no peer" in session.notes[0]
    assert len(row["rounds"]) == TINY.rounds
    assert row["operations"] == 256
    assert row["found"]["el_layers_per_s"] == 256 * row["pairs_per_s"]
    assert row["found"]["product_ratio"] > 0
    assert [target["met"] for target in row["targets"]] == [None, True]


def test_a_peer_that_cannot_be_imported_is_told_and_left_out():
    with ExitStack() as stack:
        session = open_session(TINY, [sys.executable, "no-such-python"], stack)
    assert session.peers == []
    assert [note[:15] for note in session.notes] == ["peer 1 left out", "peer 2 left out"]
    assert "ModuleNotFoundError" in session.notes[0]


def test_no_usable_gpu_is_one_clear_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code = kernels.main(["--backend", "gpu", "--only", "fc3", "--output", str(tmp_path)])
    lines = capsys.readouterr().err.splitlines()
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("error: backend gpu")
    assert list(tmp_path.iterdir()) == []


def test_more_threads_than_cores_are_refused(capsys):
    with pytest.raises(SystemExit):
        kernels.main(["--threads", "100000"])
    assert "cores can be used here, got 100000" in capsys.readouterr().err


def engines_of(small, other, stack):
    """A session with one network loaded, and a stand-in for a peer with another."""
    network = {"shape": small.shape, "dtype": "float32", "backend": "cpu", "threads": 1}
    session = open_session(TINY, [], stack)
    session.engine.ask("network", layers=small.layers, **network)
    client = stack.enter_context(engine_client([CORES[0]]))
    client.ask("network", layers=other, **network)
    return session, Peer("stand-in", client, {})


def test_another_kernel_than_the_peer_s_is_an_error():
    wider = [{"conv": {"filter": 5}}, *SMALL_CASE.layers[1:]]
    with ExitStack() as stack:
        session, peer = engines_of(SMALL_CASE, wider, stack)
        with pytest.raises(Disagreement, match="small: hpcnk and stand-in differ by"):
            _checked_agreement(session, SMALL_CASE, peer)


def test_the_command_writes_a_record_of_every_row(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "CASES", (SMALL_CASE,))
    monkeypatch.setattr(kernels, "SCALED", ("small",))
    monkeypatch.setattr(kernels, "chosen", lambda names: (SMALL_CASE,))
    arguments = ["--rounds", "1", "--seconds", "0.005", "--output", str(tmp_path)]
    assert kernels.main(arguments) == 0
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    record = json.loads(text)
    names = [row["name"] for row in record["rows"]]
    assert names[0] == "small"
    assert len(names) == (3 if len(CORES) > 1 else 1)
    assert {"commit", "dirty"} == set(record["code"])
    assert record["threads"] == len(machine.usable_cores())
    assert "no peer" in record["notes"][0]
    for private in (str(machine.ROOT), platform.node(), os.path.expanduser("~")):
        assert f"{private}/" not in text
    printed = capsys.readouterr().out
    assert all(f"| {name} " in printed for name in names)
    assert "no peer: pass --peer" in printed


def test_scaling_is_measured_with_threads_and_with_processes():
    for measure in (thread_scaling, process_scaling):
        row = measure(SMALL_CASE, TINY)
        assert list(row["rounds"]) == [str(count) for count in steps(len(CORES))]
        assert row["found"]["efficiency"] is None or row["found"]["efficiency"] > 0


def test_a_worker_that_dies_is_told_and_started_again():
    script = "import sys; sys.stdin.readline(); print('{}', flush=True); sys.stdin.readline(); 1/0"
    with Client([sys.executable, "-c", script], list(CORES), {}) as client:
        assert client.ask("anything") == {}
        with pytest.raises(WorkerError, match="ZeroDivisionError"):
            client.ask("anything")
        assert client.ask("anything") == {}


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun here")
def test_the_table_of_the_solver_is_printed_and_kept(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("HPCNK_DATA", raising=False)
    monkeypatch.setattr(solver, "QUICK", 256)
    folders = ["--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "results")]
    assert solver.main(["--quick", "--only", "a,c", *folders]) == 0
    (path,) = (tmp_path / "results").iterdir()
    rows = json.loads(path.read_text())["rows"]
    assert [row["row"] for row in rows] == ["a", "a", "a", "c", "c"]
    assert all(row["found"] > 0 and row["verdict"] in ("holds", "MISSES") for row in rows)
    assert rows[3]["raw"]["many"]["converged"]
    assert "320 systems against 10" in capsys.readouterr().out


def test_an_unknown_row_of_the_solver_s_table_is_refused(capsys):
    assert solver.main(["--only", "a,z"]) == 2
    assert "rows are a, b" in capsys.readouterr().err


def test_the_synthetic_kernel_has_the_spectrum_it_should():
    n = 64
    k = Synthetic(n).entries(TriangleGrid(n, n).at(0))
    expected = np.arange(1.0, n + 1) ** -(np.log(CONDITION) / np.log(n))
    np.testing.assert_allclose(np.linalg.eigvalsh(k)[::-1], expected, rtol=1e-4)
