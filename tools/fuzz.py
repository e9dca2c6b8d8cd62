"""Try damaged files on every reader: each must be read or be refused by an error of hpcnk.

    python tools/fuzz.py --seconds 60 [--seed S] [--count N] [--keep FOLDER] [target ...]

Inputs are tried in processes of their own, with bounded memory and time, so that a crash in the
HDF5 library is seen, counted and repeated. The inputs follow from the seed, but for ids and times
in the sound files. Exit code 1 if anything fell out.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
BATCH = 20.0  # seconds that one process works
GRACE = 60.0  # seconds until a process that hangs is ended
MANY = 10**9


@dataclass
class Result:
    """What came of one target. `fallen` maps a description to a number of cases."""

    tried: int = 0
    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    fallen: dict[str, int] = field(default_factory=dict)

    def add(self, what: str) -> None:
        """Count one more case."""
        self.fallen[what] = self.fallen.get(what, 0) + 1


def main() -> int:
    """Try all targets asked for, print a table, and return whether anything fell out."""
    sys.path.insert(0, str(ROOT))
    from tools.fuzzing.targets import TARGETS

    options = _options(sorted(TARGETS))
    names = options.target or list(TARGETS)
    print(f"{'target':16} {'tried':>8} {'read':>8} {'refused':>8} {'slowest':>8}  fell out")
    fallen = False
    for name in names:
        result = fuzz(name, options.seed, options.seconds / len(names), options.count, options.keep)
        fallen |= bool(result.fallen)
        found = "; ".join(f"{count} x {what}" for what, count in result.fallen.items())
        print(
            f"{name:16} {result.tried:8} {result.read:8} {result.refused:8} "
            f"{result.slowest:7.2f}s  {found or 'nothing'}",
            flush=True,
        )
    return int(fallen)


def fuzz(name: str, seed: str, seconds: float, count: int, keep: Path | None) -> Result:
    """Try inputs on one target until the time is over or `count` are done."""
    result, first, end = Result(), 0, time.monotonic() + seconds
    while first < count and time.monotonic() < end:
        with tempfile.TemporaryDirectory() as scratch:
            first = _batch(name, seed, first, count, end, Path(scratch), result, keep)
    return result


def _batch(
    name: str,
    seed: str,
    first: int,
    count: int,
    end: float,
    scratch: Path,
    result: Result,
    keep: Path | None,
) -> int:
    """Run one worker; return the number of the input to go on with."""
    seconds = max(0.1, min(BATCH, end - time.monotonic()))
    arguments = [name, seed, str(first), str(count - first), str(seconds), str(scratch)]
    command = [sys.executable, "-m", "tools.fuzzing.worker", *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + GRACE, check=False
        )
    except subprocess.TimeoutExpired:
        return _crashed("a hang in a library", scratch, first, result, keep)
    if done.returncode < 0:
        what = f"the process died of signal {-done.returncode}{_place(done.stderr)}"
        return _crashed(what, scratch, first, result, keep)
    if done.returncode:
        raise RuntimeError(f"the worker for {name} failed:\n{done.stderr}")
    tally = json.loads(done.stdout.splitlines()[-1])
    for what, _, kept in tally["fallen"]:
        result.add(what)
        _save(Path(kept), keep)
    result.tried += tally["tried"]
    result.read += tally["read"]
    result.refused += tally["refused"]
    result.slowest = max(result.slowest, tally["slowest"])
    return first + tally["tried"]


def _place(stack: str) -> str:
    """Name the line of hpcnk that was in the library when it crashed."""
    lines = re.findall(r'File "[^"]*/hpcnk/([^"]+)", line (\d+)', stack)
    return f" at {lines[0][0]}:{lines[0][1]}" if lines else ""


def _crashed(what: str, scratch: Path, first: int, result: Result, keep: Path | None) -> int:
    """Count the input that the worker was at; the ones before it have been tried."""
    number, path = (scratch / "progress").read_text().split(maxsplit=1)
    result.add(what)
    result.tried += int(number) - first + 1
    _save(Path(path.strip()), keep)
    return int(number) + 1


def _save(path: Path, keep: Path | None) -> None:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, keep / f"{time.time_ns()}-{path.name}")


def _options(targets: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="*", help=f"of {', '.join(targets)} (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--count", type=int, default=MANY, help="inputs a target, at most")
    parser.add_argument("--seed", default="0", help="repeats the same inputs")
    parser.add_argument(
        "--keep", type=Path, help="folder for the inputs that something fell out of"
    )
    options = parser.parse_args()
    unknown = sorted(set(options.target) - set(targets))
    if unknown:
        parser.error(f"there is no target {', '.join(unknown)}; choose of {', '.join(targets)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
