"""Start programs under mpirun with a hard time limit, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONFAULTHANDLER": "1",  # SIGABRT then prints every thread's stack
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit code, and what it printed to both streams."""

    code: int
    output: str
    seconds: float


def mpirun() -> str | None:
    beside = Path(sys.executable).with_name("mpirun")
    return os.environ.get("HPCNK_MPIRUN") or (str(beside) if beside.exists() else _on_path())


def _on_path() -> str | None:
    return shutil.which("mpirun")


class Job:
    """A program on `ranks` ranks, in a session of its own; ranks=0 starts it without mpirun."""

    def __init__(self, ranks, arguments, limit=120, environment=None, cwd=None, launcher=None):
        command = [launcher or mpirun(), "-n", str(ranks)] if ranks else []
        self._limit, self._start = limit, time.monotonic()
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**os.environ, **ENVIRONMENT, **(environment or {})},
            cwd=cwd,
        )

    def wait(self) -> Ended:
        """Return how it ended. Past the limit: dump all stacks, kill, and fail the test."""
        left = self._limit - (time.monotonic() - self._start)
        try:
            output, _ = self.process.communicate(timeout=max(left, 0.1))
        except subprocess.TimeoutExpired:
            family = self.family()
            for child in family:
                child.send_signal(signal.SIGABRT)
            psutil.wait_procs(family, timeout=5)  # they print their stacks and end
            self.kill()
            output, _ = self.process.communicate()
            raise AssertionError(f"still running after {self._limit} s:\n{output}") from None
        return Ended(self.process.returncode, output, time.monotonic() - self._start)

    def family(self) -> list[psutil.Process]:
        """The launcher's children and theirs, the ranks among them."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def ranks(self) -> list[psutil.Process]:
        """The Python processes among them."""
        found = []
        for child in self.family():
            try:
                if "python" in Path(child.exe()).name:
                    found.append(child)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def kill(self) -> None:
        """SIGKILL for the launcher and all its children at once."""
        for victim in [*self.family(), self.process]:
            try:
                victim.kill()
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        _clean_shared_memory()


def _clean_shared_memory() -> None:
    """Remove the segments that killed ranks of Open MPI leave behind, and nobody uses.

    They are listed first: one that another job makes meanwhile is not among them.
    """
    there = list(Path("/dev/shm").glob("vader_segment.*"))
    used = set()
    for process in psutil.process_iter():
        try:
            used |= {area.path for area in process.memory_maps() if "vader_segment" in area.path}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    for segment in there:
        if str(segment) not in used:
            segment.unlink(missing_ok=True)


def launch(ranks, arguments, **options) -> Ended:
    """Run a program to its end; see Job."""
    return Job(ranks, arguments, **options).wait()


def hpcnk(ranks, *arguments, **options) -> Ended:
    """Run an hpcnk command to its end; see Job."""
    return launch(ranks, [*HPCNK, *arguments], **options)


HPCNK = (sys.executable, "-m", "hpcnk")
