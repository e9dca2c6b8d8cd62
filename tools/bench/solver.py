"""Measure the solver against what this machine and others can do: one command, one table, one file.

    python tools/bench/solver.py [--peer PYTHON] [--rows N] [--only a,c] [--quick]

PYTHON is the interpreter of an environment with numpy, scipy, scikit-learn, torch and
linear_operator. The kernels are made once and kept under --cache: those of real images need
HPCNK_DATA. Run it with real-time priority on a machine that others use (`chrt -f 50`).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from hpcnk.solve.products import built_products
from tools.bench import machine
from tools.bench.results import write_json
from tools.bench.systems.beside import beside_peers
from tools.bench.systems.kernels import Kernel, made, real_images
from tools.bench.systems.launch import JobError, mpirun
from tools.bench.systems.rows import ROWS, Maker, Settings
from tools.bench.systems.table import Entry, layout

RESULTS = Path(__file__).resolve().parent / "results"
MAKERS: dict[str, Maker] = {**ROWS, "e": beside_peers}
QUICK = 768  # rows


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    options = make_parser().parse_args(arguments)
    letters = sorted(options.only.split(",")) if options.only else sorted(MAKERS)
    unknown = [letter for letter in letters if letter not in MAKERS]
    if unknown:
        print(f"error: --only: rows are {', '.join(sorted(MAKERS))}", file=sys.stderr)
        return 2
    try:
        mpirun()
        built_products()  # before MPI starts: a compiler must not run inside of it
        settings, notes = read_settings(options)
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    entries = measure(settings, letters, options.output, notes)
    print(f"\n{layout(entries)}\n")
    for note in notes:
        print(note)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--peer", action="append", default=[], help="a Python with the peers' packages")
    add("--rows", type=int, default=20_000, help="rows of the real kernels (20000)")
    add("--synthetic", type=int, default=8192, help="rows of the synthetic kernel (8192)")
    add("--kernels", default="cv8,fc3,fc3-plain,synthetic", help="which of them, all by default")
    add("--only", help="only these rows of the table, such as a,c")
    add("--limit", type=float, default=300.0, help="seconds that one solve may take (300)")
    add("--quick", action="store_true", help="the synthetic kernel, small and short: a test")
    add("--cache", type=Path, default=Path("runs/bench"), help="folder for the kernels")
    add("--output", type=Path, default=RESULTS, help="folder for the JSON file")
    return parser


def read_settings(options: argparse.Namespace) -> tuple[Settings, list[str]]:
    """Make the kernels that are not there. Returns notes on what is left out. Raises JobError."""
    notes, kernels = [], list(chosen_kernels(options))
    if any(kernel.layers for kernel in kernels) and not real_images():
        notes.append("HPCNK_DATA is not set: no kernels of real images")
        kernels = [kernel for kernel in kernels if not kernel.layers]
    if not options.peer:
        notes.append("no peer: pass --peer for row e")
    cores = len(machine.usable_cores())
    ranks = min(2, cores)
    files = tuple((kernel, made(kernel, options.cache, ranks)) for kernel in kernels)
    quick = {"seconds": 0.02, "rounds": 1, "limit": 60.0} if options.quick else {}
    settings = {"limit": options.limit, **quick}
    return Settings(files, tuple(options.peer), ranks, cores, **settings), notes


def chosen_kernels(options: argparse.Namespace) -> list[Kernel]:
    """Return the kernels to measure; FC3 in float64, for its ridges lie under float32's floor."""
    if options.quick:
        return [Kernel("synthetic", "", 0.0, "float64", QUICK, 128)]
    every = [
        Kernel("cv8", "cv8", 3.0, "float32", options.rows, 1024),
        Kernel("fc3", "fc3", 0.1, "float64", options.rows, 1024),
        Kernel("fc3-plain", "fc3", 0.0, "float64", options.rows, 1024),
        Kernel("synthetic", "", 0.0, "float64", options.synthetic, 1024),
    ]
    return [kernel for kernel in every if kernel.name in options.kernels.split(",")]


def measure(settings: Settings, letters: list[str], output: Path, notes: list[str]) -> list[Entry]:
    """Measure all rows; the file is written anew after each, so that none is lost."""
    now = datetime.now(timezone.utc)
    path = output / f"solver-cpu-{now:%Y%m%d-%H%M}.json"
    entries: list[Entry] = []
    for letter, kernel in product(letters, settings.kernels):
        try:
            for entry in MAKERS[letter](replace(settings, kernels=(kernel,))):
                entries.append(entry)
                print(layout([entry]).splitlines()[-1], flush=True)
                record = {**header(settings, now), "notes": notes, "rows": _rows(entries)}
                write_json(path, record)
        except JobError as error:
            notes.append(f"row {letter}, {kernel[0].title}: {error}")
            print(notes[-1], flush=True)
    return entries


def _rows(entries: list[Entry]) -> list[dict[str, Any]]:
    return [{**asdict(entry), "verdict": entry.verdict} for entry in entries]


def header(settings: Settings, now: datetime) -> dict[str, Any]:
    """Say when, where and of what the measurement is; no names of hosts, no paths."""
    return {
        "format": 1,
        "what": "solver",
        "date": now.isoformat(timespec="seconds"),
        "ranks": settings.ranks,
        "machine": machine.processor(),
        "load": machine.load(),
        "code": machine.code(),
        "versions": {"python": sys.version.split()[0], "numpy": np.__version__},
    }


if __name__ == "__main__":
    sys.exit(main())
