"""Every fault in every phase, and SIGKILLs at random moments: prints what was lost and whether the
results are equal. Ends with 1 if a row does not hold.

    python tools/faults.py [--kills N] [--only TEXT] [--folder DIR]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.support.fault_matrix import Matrix, all_cases, drivers
from tests.support.kill_loop import kill_loop

HEADS = ("fault", "phase", "driver", "ranks", "code", "lost work", "equal", "sums", "")
WIDTHS = (8, 8, 7, 7, 5, 30, 6, 13, 0)


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bad = _matrix(Path(folder), options.only)
        bad += _kills(Path(folder), options.kills) if options.kills else 0
    print("all rows hold" if not bad else f"{bad} rows do NOT hold")
    return int(bool(bad))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="random SIGKILLs (default 100)")
    parser.add_argument("--only", default="", help="rows whose text holds this")
    parser.add_argument("--folder", help="where to work (default: the system's temporary folder)")
    return parser.parse_args()


def _matrix(folder: Path, only: str) -> int:
    matrix, bad, start = Matrix(folder), 0, time.monotonic()
    _print(HEADS)
    cases = [case for case in all_cases(drivers()) if only in str(case)]
    for case in cases:
        row = matrix.run(case)
        bad += bool(row.problem)
        sums = "fixed point" if case.reproducible else "float64"
        ranks = f"{case.before} -> {case.after}"
        cells = (
            case.what,
            case.phase,
            case.driver,
            ranks,
            str(row.code),
            row.lost,
            row.equal,
            sums,
        )
        _print((*cells, f"DOES NOT HOLD: {row.problem}" if row.problem else ""))
    print(f"{len(cases) - bad} of {len(cases)} rows hold, {time.monotonic() - start:.0f} s")
    return bad


def _kills(folder: Path, kills: int) -> int:
    start = time.monotonic()
    found = kill_loop(folder, kills, seed=0)
    print(f"{kills} SIGKILLs in {time.monotonic() - start:.0f} s: {found}")
    return len(found.problems)


def _print(cells: tuple[str, ...]) -> None:
    print("  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip())
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
