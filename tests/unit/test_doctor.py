"""The doctor finds what is wrong, on the real thing if there is one; it leaves nothing behind."""

import ctypes.util
import fcntl
import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import yaml

from hpcnk.engine import device_problem
from hpcnk.run import doctor
from tests.conftest import small_deck
from tests.support.mpi import HPCNK, hpcnk, launch, mpirun

# Starts a program with what Open MPI says of ranks, without what makes them meet.
HIDDEN = r"^(PMIX_[A-Za-z0-9_]*|OMPI_MCA_ess[a-z_]*|OMPI_MCA_orte[a-z_]*)="
STRANGER = f"""
for name in $(env | grep -E '{HIDDEN}' | cut -d= -f1); do unset $name; done
exec "$@"
"""
SECOND = """
import ctypes, sys
ctypes.CDLL(sys.argv[1])
from hpcnk.cli import main
sys.exit(main(["doctor"]))
"""


def problems(output):
    """The subjects and texts of what was found."""
    lines = (line for line in output.splitlines() if line.startswith("PROBLEM"))
    return {line.split()[1]: line for line in lines}


def diagnose(code, *arguments, ranks=0, **options):
    """Run the doctor; return the problems."""
    ended = hpcnk(ranks, "doctor", *arguments, **options)
    assert ended.code == code, ended.output
    assert "Traceback" not in ended.output
    return problems(ended.output)


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_healthy_machine(tmp_path, ranks):
    deck = small_deck(tmp_path)
    before = sorted(tmp_path.iterdir())
    ended = hpcnk(ranks, "doctor", deck, cwd=tmp_path)
    assert ended.code == 0 and not problems(ended.output), ended.output
    assert ended.output.count("hdf5") == 1 and f"{max(1, ranks)} rank(s)" in ended.output
    assert f"{tmp_path / 'small'} on " in ended.output and "there is room" in ended.output
    assert sorted(tmp_path.iterdir()) == before


def test_the_names_of_mpi_libraries():
    maps = ["/usr/lib/libmpi.so.40", "/opt/mpich/lib/libmpi.so.12", "/usr/lib/libmpi_cxx.so.40"]
    finding = doctor._libraries(maps)
    assert finding.advice and "2 MPI libraries" in finding.text
    assert not doctor._libraries(maps[:1]).advice
    assert not doctor._libraries(maps[:1] * 2).advice
    for other in ("libmpich.so.12", "libmpi_cray.so.12", "libmpi_abi.so.1", "libmpi-1f2e.so.40.3"):
        assert doctor._libraries([*maps[:1], f"/opt/a b/{other}"]).advice, other
    for part in (
        "libmpifort.so.12",
        "libmpi_mpifh.so.40",
        "libmpicxx.so.12",
        "libmpi_usempif08.so",
    ):
        assert not doctor._libraries([*maps[:1], f"/usr/lib/{part}"]).advice, part


def test_two_mpi_libraries_in_one_process(tmp_path):
    """The machine's own, and a copy of it that stands for another."""
    name = ctypes.util.find_library("mpi")
    loaded = subprocess.run(
        [sys.executable, "-c", "from mpi4py import MPI; print(open('/proc/self/maps').read())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    mine = next((path for path in loaded if doctor._LIBMPI.search(path)), None)
    if mine is None:
        pytest.skip(f"this MPI is not visible as a library ({name})")
    second = tmp_path / "libmpi.so.99"
    second.write_bytes(Path(mine).read_bytes())
    ended = launch(0, [sys.executable, "-c", SECOND, second])
    assert ended.code == 1, ended.output
    found = problems(ended.output)
    assert list(found) == ["libmpi"] and "2 MPI libraries" in found["libmpi"], ended.output
    assert str(second) in found["libmpi"] and str(Path(mine).resolve()) in found["libmpi"]


def test_a_foreign_launcher():
    found = diagnose(1, environment={"PMI_RANK": "0", "PMI_SIZE": "2"})
    assert list(found) == ["mpi"] and "started 2 ranks" in found["mpi"] and "sees 1" in found["mpi"]


def test_fewer_ranks_than_the_launcher_started():
    launcher = mpirun()
    if launcher is None or "Open MPI" not in hpcnk(0, "doctor").output:
        pytest.skip("hides the ranks from each other as Open MPI's mpirun makes them meet")
    ended = launch(2, ["sh", "-c", STRANGER, "sh", *HPCNK, "doctor"])
    assert ended.code == 1, ended.output
    found = problems(ended.output)
    assert "started 2 ranks" in found["mpi"] and "sees 1" in found["mpi"], ended.output
    assert ended.output.count("PROBLEM") == 1, "only one of them speaks"


def test_serial_h5py_where_mpio_is_asked_for(tmp_path):
    deck = small_deck(tmp_path, store={"driver": "mpio"})
    if not h5py.get_config().mpi:
        found = diagnose(1, deck, ranks=2)
        assert list(found) == ["store"] and "needs an h5py built with MPI" in found["store"]
        return
    assert not diagnose(0, deck, ranks=2)
    python, launcher = os.environ.get("HPCNK_WHEEL_PYTHON"), os.environ.get("HPCNK_WHEEL_MPIRUN")
    if not python or not os.path.exists(python):
        pytest.skip("HPCNK_WHEEL_PYTHON names no Python of the wheels' environment")
    arguments = [python, "-m", "hpcnk", "doctor", deck]
    ended = launch(2, arguments, launcher=launcher)
    assert ended.code == 1, ended.output
    found = problems(ended.output)
    assert list(found) == ["store"] and "this one is serial" in found["store"], ended.output


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_gpu_that_is_not_there(tmp_path, ranks):
    problem = device_problem()
    if not problem:
        pytest.skip("there is a GPU here")
    found = diagnose(1, small_deck(tmp_path, kernel={"backend": "gpu"}), ranks=ranks)
    assert list(found) == ["backend"] and problem in found["backend"]
    assert "asks for backend gpu" in found["backend"]


@pytest.mark.parametrize("command", ["doctor", "run"])
def test_a_gpu_for_the_solve_that_is_not_there(tmp_path, command):
    problem = device_problem()
    if not problem:
        pytest.skip("there is a GPU here")
    ended = hpcnk(1, command, small_deck(tmp_path, solve={"operator": "gpu"}))
    assert ended.code and f"solve.operator gpu: {problem}" in ended.output, ended.output
    assert "set solve.operator to auto" in ended.output
    assert not (tmp_path / "small" / "kernel.h5").exists()


def test_a_disk_that_is_too_small(tmp_path):
    """More than any disk has: tiles of 10^6 rows, one of which is more than ext4 can hold."""
    found = diagnose(1, small_deck(tmp_path, kernel={"tile": 10**8}), ranks=2)
    assert list(found) == ["disk"], found
    free = "is missing" in found["disk"] and "is free on" in found["disk"]
    assert free or "cannot hold so large a file" in found["disk"]


def test_a_limit_on_the_size_of_files(tmp_path):
    deck = small_deck(tmp_path, kernel={"tile": 2500})

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000))

    ended = subprocess.run(
        [*HPCNK, "doctor", deck], capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert ended.returncode == 1, ended.stderr
    assert "at most 20 MB" in problems(ended.stdout)["disk"], ended.stdout


def test_a_run_that_is_at_work(tmp_path):
    deck = small_deck(tmp_path)
    (tmp_path / "small").mkdir()
    text = "process 12 on elsewhere, started 2026-01-31T12:00:00+01:00"
    (tmp_path / "small" / "lock").write_text(f"{text}\n")
    with open(tmp_path / "small" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = diagnose(1, deck, ranks=2)
    assert list(found) == ["output"] and f"a run is at work in {tmp_path}" in found["output"]
    assert text in found["output"]
    assert not diagnose(0, deck, ranks=2), "a run that died is none"


def test_an_output_that_cannot_be(tmp_path):
    deck = small_deck(tmp_path)
    (tmp_path / "small").write_text("mine")
    found = diagnose(1, deck)
    assert "small is a file" in found["output"]
    content = yaml.safe_load(deck.read_text())
    deck.write_text(yaml.safe_dump({**content, "output": "/proc/run"}))
    found = diagnose(1, deck)
    assert "writing to /proc failed" in found["disk"]


def test_what_one_rank_finds_is_told_by_the_first():
    def finding(text, advice=""):
        return doctor.Finding("gpu", text, advice)

    class Comm:
        def allgather(self, mine):
            return [[finding("usable")], [finding("usable")], [finding("gone", "look")]]

    told = doctor._together([], Comm())
    assert told == [finding("usable"), finding("on rank 2: gone", "look")]


def test_only_the_second_rank_finds_something(tmp_path):
    launcher = mpirun()
    if launcher is None:
        pytest.skip("no mpirun")
    blind = ["env", "CXX=no-such-compiler", f"HPCNK_CACHE={tmp_path / 'cache'}"]
    ranks = ["-n", "1", *HPCNK, "doctor", ":", "-n", "1", *blind, *HPCNK, "doctor"]
    ended = launch(0, [launcher, *ranks])
    assert ended.code == 1, ended.output
    found = problems(ended.output)
    assert list(found) == ["cpu"] and "on rank 1: " in found["cpu"], ended.output
    assert "no-such-compiler" in found["cpu"]


def test_an_invalid_deck_is_a_usage_error(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: [")
    assert hpcnk(2, "doctor", path).code == 2


def test_the_doctor_names_the_compiler_and_the_width_of_vectors():
    ended = hpcnk(0, "doctor")
    assert "engine built by" in ended.output and "lanes of float32" in ended.output
    line = next(line for line in ended.output.splitlines() if " gpu " in line)
    assert "usable" in line or "not used: " in line
