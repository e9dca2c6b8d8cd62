"""Decks for jobs, their scripts as `hpcnk jobscript` prints them, and ranks held in the middle."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml

from hpcnk.run.check import check
from hpcnk.run.slurm.job_layout import Request
from hpcnk.run.slurm.jobscript import jobscript
from hpcnk.run.slurm.site import read_site
from tests.slurm.cluster import Cluster
from tests.support.folders import finished
from tests.support.hold import hold_ranks, release
from tests.support.mpi import ENVIRONMENT, hpcnk

# A kernel of a few hundred tiles, of which each takes milliseconds.
LAYERS = [*[{"conv": {"filter": 3}}, "relu"] * 8, "global_avg_pool"]
DECK = {
    "data": {"dataset": "digits", "train": 350, "test": 20},
    "kernel": {"layers": LAYERS, "tile": 8},
    "solve": {"ridge": 0.01, "tolerance": 1e-6, "preconditioner": "none"},
}


def write_deck(folder: Path, name: str = "job") -> Path:
    """Write the deck, with its output beside it."""
    path = folder / f"{name}.yaml"
    path.write_text(_yaml({"name": name, "output": str(folder / name), **DECK}))
    return path


def _yaml(content: dict[str, object]) -> str:
    return yaml.safe_dump(content).replace("$", "$$")  # else the name of a variable


def print_script(folder: Path, *arguments: object, site: object = "generic-cpu") -> Path:
    """Let hpcnk print the script for one node into job.sh; logs will be in the same folder."""
    ended = hpcnk(0, "jobscript", *arguments, "--site", site, "--nodes", 1)
    assert ended.code == 0, ended.output
    script = folder / "job.sh"
    script.write_text(ended.output)
    return script


def make_script(folder: Path, decks: list[Path], site: str = "generic-cpu", **request: int) -> Path:
    """The same without the command line, which takes seconds to start."""
    script = folder / "job.sh"
    jobs, asked = [check(deck) for deck in decks], Request(nodes=1, **request)
    script.write_text(jobscript(jobs, read_site(site), asked))
    return script


def swap_program(script: Path, program: str, *arguments: object) -> None:
    """Let the script start another program instead of hpcnk, and leave all else as it is."""
    words = " ".join(shlex.quote(str(word)) for word in (program, *arguments))
    lines = script.read_text().splitlines(keepends=True)
    (which,) = (number for number, line in enumerate(lines) if line.startswith("PROGRAM="))
    lines[which] = f"PROGRAM=({words})\n"
    script.write_text("".join(lines))


def submit(slurm: Cluster, script: Path, *options: str) -> str:
    """Submit; a task counts as one cpu, for the site's many are not here."""
    return slurm.submit(script, "--cpus-per-task=1", *options, **ENVIRONMENT)


def logs(folder: Path) -> str:
    """All that jobs have printed there."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.out")))


class Held:
    """The ranks of a job, stopped (SIGSTOP) after their first tiles, until they are let go."""

    def __init__(self, slurm: Cluster, number: str, output: Path) -> None:
        self._slurm, self._kernel = slurm, output / "kernel.h5"
        lock = output / "lock"
        slurm.until(lambda: lock.exists() and lock.read_text(), f"start of job {number}")
        self._ranks = slurm.ranks(number)
        hold_ranks(self._ranks, self._kernel)

    def release(self) -> None:
        release(self._ranks)

    @property
    def processes(self) -> list[int]:
        """Their numbers."""
        return [rank.pid for rank in self._ranks]

    @property
    def tiles(self) -> int:
        """How many tiles of the kernel are finished."""
        return len(finished(self._kernel))
