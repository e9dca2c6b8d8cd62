"""What a measurement must say of the machine and the code, without naming either's place."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOTABLE_FLAGS = ("avx2", "fma", "avx512f", "avx512dq", "avx512vl", "avx512_bf16", "asimd", "sve")
CHAINS, CHAIN = 10, 40_000_000

# Each addition waits for the one before: one cycle each, on every processor of the last decades.
# The addend is opaque to compiler and processor alike, so that no two additions become one. The
# fastest of some chains, in processor time, is the one that nothing disturbed.
CLOCK_SOURCE = f"""
#include <stdio.h>
#include <time.h>
#define ADD x += y; __asm__ volatile("" : "+r"(x), "+r"(y));
#define ADD8 ADD ADD ADD ADD ADD ADD ADD ADD
int main(void) {{
    unsigned long x = 1, y = 3;
    double best = 0;
    for (int chain = 0; chain < {CHAINS}; chain++) {{
        struct timespec a, b;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
        for (long i = 0; i < {CHAIN // 16}; i++) {{ ADD8 ADD8 }}
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
        double hertz = {CHAIN}.0 / ((b.tv_sec - a.tv_sec) + (b.tv_nsec - a.tv_nsec) * 1e-9);
        if (hertz > best) best = hertz;
    }}
    printf("%.6e\\n", best);
    return 0;
}}
"""


def usable_cores() -> list[int]:
    """List the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(cores: list[int]) -> None:
    """Bind this process to some cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


class Clock:
    """Cycles a second: measured by dependent additions, or what the system says."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._program = _built(Path(self._folder.name))
        self.method = "dependent additions" if self._program else "/proc/cpuinfo"

    def read(self, cores: list[int]) -> float | None:
        """Measure on all of `cores` at once and return the mean, in Hz; None where unknown."""
        if self._program is None:
            return _stated_clock(_cpuinfo())
        running = [self._start(core) for core in cores]
        return sum(float(process.communicate()[0]) for process in running) / len(running)

    def _start(self, core: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self._program)],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: pin([core]),
        )


def _built(folder: Path) -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    source, program = folder / "clock.c", folder / "clock"
    source.write_text(CLOCK_SOURCE)
    ended = subprocess.run(
        [compiler, "-O2", str(source), "-o", str(program)], capture_output=True, check=False
    )
    return program if ended.returncode == 0 else None


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _stated_clock(cpuinfo: str) -> float | None:
    found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", cpuinfo, re.MULTILINE)
    return max(map(float, found)) * 1e6 if found else None


def processor(cpuinfo: str | None = None) -> dict[str, Any]:
    """Describe the processor: model, family and the instruction sets of note."""
    text = _cpuinfo() if cpuinfo is None else cpuinfo
    fields = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "model": fields.get("model name", platform.machine()),
        "family": "/".join(fields.get(key, "?") for key in ("vendor_id", "cpu family", "model")),
        "cores": os.cpu_count(),
        "flags": [flag for flag in NOTABLE_FLAGS if flag in flags],
    }


def graphics() -> str | None:
    """Name the GPUs and their driver, as nvidia-smi tells them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = ["--query-gpu=name,driver_version", "--format=csv,noheader"]
    ended = subprocess.run([program, *query], capture_output=True, text=True, check=False)
    return "; ".join(ended.stdout.split("\n")).strip("; ") or None


def code() -> dict[str, Any]:
    """Tell the commit, and whether the tree differs from it outside of the results."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", ":!tools/bench/results")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    if shutil.which("git") is None:
        return None
    ended = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return ended.stdout.strip() if ended.returncode == 0 else None


def load() -> float | None:
    """Processes that wanted to compute in the last minute, those of the benchmark included."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
