"""Measure the kernel engine beside Neural Tangents: one command, one table, one JSON file.

    python tools/bench/kernels.py --peer PYTHON [--peer PYTHON ...] [--backend cpu|gpu]

PYTHON is the interpreter of an environment with `jax` and `neural_tangents`; with several of them
the faster counts, row by row. Without one the table has no ratios.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.bench import machine
from tools.bench.cases import CASES, REFERENCE, SCALED, SCALING, Case, chosen
from tools.bench.client import WorkerError
from tools.bench.measure import (
    Disagreement,
    Session,
    Settings,
    measured_case,
    open_session,
    peer_versions,
)
from tools.bench.results import Row, result_path, table, write_json
from tools.bench.scaling import process_scaling, thread_scaling

FORMAT = 1
RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        cases = chosen(options.only)
        settings = read_settings(options)
    except ValueError as error:
        parser.error(str(error))
    with ExitStack() as stack:
        session = open_session(settings, options.peer, stack)
        try:
            record = run(session, cases, options.only, options.output)
        except (Disagreement, WorkerError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print(f"\n{table(record['rows'])}\n")
    for note in (*differences(record["rows"]), *session.notes):
        print(note)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = ", ".join((*(case.name for case in CASES), *SCALING))
    add = parser.add_argument
    add("--peer", action="append", default=[], help="a Python with jax and neural_tangents")
    add("--backend", choices=("cpu", "gpu"), default="cpu")
    add("--only", action="append", default=[], metavar="ROW", help=f"only this row: {names}")
    add("--threads", type=int, help="cores to use, one thread on each (all usable ones)")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--rounds", type=int, default=3, help="measurements of each, the best counts (3)")
    add("--seconds", type=float, default=1.2, help="least duration of a measurement (1.2)")
    add("--output", type=Path, default=RESULTS, help="folder for the JSON file")
    return parser


def read_settings(options: argparse.Namespace) -> Settings:
    """Choose the cores. Raises ValueError if there are fewer than asked for."""
    usable = machine.usable_cores()
    threads = options.threads or len(usable)
    if not 1 <= threads <= len(usable):
        raise ValueError(f"--threads: {len(usable)} cores can be used here, got {threads}")
    cores = tuple(usable[:threads])
    return Settings(cores, options.backend, options.dtype, options.seconds, options.rounds)


def run(session: Session, cases: tuple[Case, ...], only: list[str], output: Path) -> Row:
    """Measure all rows; the file is written anew after each, so that none is lost."""
    record = header(session)
    path = result_path(output, session.settings.backend, datetime.now(timezone.utc))
    for row in rows_of(session, cases, only):
        record["rows"].append(row)
        record["notes"] = session.notes
        write_json(path, record)
        print(table([row]).splitlines()[-1], flush=True)
    return record


def rows_of(session: Session, cases: tuple[Case, ...], only: list[str]) -> Any:
    """Yield one row after the other."""
    reference = None
    for case in cases:
        row = measured_case(session, case, reference)
        if case.name == REFERENCE:
            reference = row["found"]["el_layers_per_s"]
        yield row
    settings = session.settings
    if settings.backend == "gpu" or len(settings.cores) == 1:
        return
    scaled = [case for case in CASES if case.name in SCALED]
    for name, measure in zip(SCALING, (thread_scaling, process_scaling), strict=True):
        if not only or name in only:
            yield from (measure(case, settings) for case in scaled)


def header(session: Session) -> Row:
    """Say when, where and of what the measurement is; no names of hosts, no paths."""
    settings = session.settings
    return {
        "format": FORMAT,
        "what": "kernels",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "kind": "ntk",
        "backend": settings.backend,
        "dtype": settings.dtype,
        "threads": len(settings.cores),
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "machine": {
            **machine.processor(),
            "gpu": machine.graphics() if settings.backend == "gpu" else None,
            "clock": session.clock.method,
        },
        "code": machine.code(),
        "versions": session.engine.ask("versions"),
        "peers": peer_versions(session),
        "notes": session.notes,
        "rows": [],
    }


def differences(rows: list[Row]) -> list[str]:
    """Say how far the peers' kernels are from the engine's, and what the peers failed at."""
    notes = []
    for row in rows:
        for peer in row.get("peers", []):
            if "difference" in peer:
                notes.append(
                    f"{row['name']}: agrees with {peer['name']} ({peer['difference']:.0e})"
                )
            if "error" in peer:
                notes.append(f"{row['name']}: {peer['name']} failed: {peer['error']}")
    return notes


if __name__ == "__main__":
    sys.exit(main())
