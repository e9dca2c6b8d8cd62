"""What the launcher says of itself in the environment, read without starting MPI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

# name, variable with the rank, variable with the number of ranks
_KNOWN = (
    ("Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPICH's mpiexec", "PMI_RANK", "PMI_SIZE"),
    ("Slurm's srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


@dataclass(frozen=True)
class Launcher:
    """The launcher's name, this process's rank, and how many ranks were started."""

    name: str
    rank: int
    size: int


def launcher(environment: Mapping[str, str] | None = None) -> Launcher:
    """Return who started this process; "none", rank 0 of 1, when nobody of those we know did."""
    environment = os.environ if environment is None else environment
    for name, rank, size in _KNOWN:
        if environment.get(rank, "").isdigit() and environment.get(size, "").isdigit():
            return Launcher(name, int(environment[rank]), int(environment[size]))
    return Launcher("none", 0, 1)
