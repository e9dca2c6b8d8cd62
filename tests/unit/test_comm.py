"""What of the MPI layer needs no partner."""

import subprocess
import sys

import pytest

from hpcnk.comm import Launcher, launcher
from tests.support.mpi import hpcnk, launch


@pytest.mark.parametrize(
    "environment,expected",
    [
        ({}, Launcher("none", 0, 1)),
        (
            {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"},
            Launcher("Open MPI's mpirun", 2, 4),
        ),
        ({"PMI_RANK": "0", "PMI_SIZE": "3"}, Launcher("MPICH's mpiexec", 0, 3)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, Launcher("Slurm's srun", 1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, Launcher("none", 0, 1)),
        ({"PMI_RANK": "x", "PMI_SIZE": "3"}, Launcher("none", 0, 1)),
    ],
)
def test_launchers_are_recognised(environment, expected):
    assert launcher(environment) == expected


def test_importing_hpcnk_starts_no_mpi():
    code = "import hpcnk, hpcnk.cli, sys; sys.exit('mpi4py.MPI' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", ["check", "run", "plan"])
def test_a_bad_deck_starts_no_mpi(write_deck, command):
    for deck in (write_deck(kernel={"tile": 0}), write_deck(kernel={"layers": [{"avg_pool": 9}]})):
        code = (
            "import sys; from hpcnk.cli import main;"
            f"code = main(['{command}', {str(deck)!r}]);"
            "sys.exit(99 if 'mpi4py.MPI' in sys.modules else code)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 2


def test_a_launcher_of_another_mpi_is_found_out(write_deck):
    """Each process would run the whole job on its own: the size that MPI sees gives it away."""
    environment = {"PMI_RANK": "0", "PMI_SIZE": "3"}
    ended = hpcnk(0, "run", write_deck(), environment=environment)
    assert ended.code == 2, ended.output
    assert "started 3 ranks" in ended.output and "sees 1" in ended.output
    assert "Traceback" not in ended.output


FAILING = """
import sys, time
from hpcnk.comm import world
comm = world()
if comm.rank == comm.size - 1:
    raise ValueError("the last rank has had enough")
comm.barrier()
"""


@pytest.mark.parametrize("ranks", [2, 3])
def test_an_exception_on_one_rank_ends_the_job(ranks):
    ended = launch(ranks, [sys.executable, "-c", FAILING], limit=60)
    assert ended.code != 0
    assert "the last rank has had enough" in ended.output
    assert f"rank {ranks - 1} of {ranks}" in ended.output
    assert ended.seconds < 30
