"""Start one job of the benchmark on some ranks and take its answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.bench.channel import neutral
from tools.bench.machine import ROOT

# More ranks than slots and a start as root (in a container) are refused by Open MPI otherwise.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


class JobError(Exception):
    """A job ended without an answer."""


def mpirun() -> str:
    """Find the launcher: that of this environment, else the machine's. Raises JobError."""
    beside = Path(sys.executable).with_name("mpirun")
    found = os.environ.get("HPCNK_MPIRUN") or (
        str(beside) if beside.exists() else shutil.which("mpirun")
    )
    if found is None:
        raise JobError("no mpirun: install an MPI, or name its launcher in HPCNK_MPIRUN")
    return found


def ask(ranks: int, do: str, **options: Any) -> Any:
    """Run a job of `worker.py` on `ranks` ranks and return its answer. Raises JobError."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        question = json.dumps({"do": do, **options})
        python = [sys.executable, "-m", "tools.bench.systems.worker"]
        run([mpirun(), "-n", str(ranks), *python, question, str(answer)])
        return json.loads(answer.read_text())


def run(command: list[str]) -> None:
    """Run a command to its end. Raises JobError with its last line unless it succeeds."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}
    ended = subprocess.run(
        command, cwd=Path.cwd(), env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise JobError(_told(ended))


def _told(ended: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception): |error: ", line)]
    last = (errors or lines or ["nothing said"])[-1]
    return neutral(f"ended with status {ended.returncode}: {last}")
