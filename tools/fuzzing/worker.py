"""One process that tries damaged files on one reader; a crash of it is seen by its parent.

    python -m tools.fuzzing.worker TARGET SEED FIRST COUNT SECONDS FOLDER

It notes in FOLDER/progress where it is, leaves the damaged file in FOLDER, and ends by printing a
JSON object: how many inputs it tried, and what fell out.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

MEMORY = 4 << 30  # bytes; no tiny file is worth more
PATIENCE = 20  # seconds for one input


@dataclass
class Tally:
    """`read` and `refused` inputs; `fallen`: (what, number of the input, file kept) of others."""

    tried: int = 0
    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    fallen: list[tuple[str, int, str]] | None = None


def main(arguments: list[str]) -> None:
    """Try inputs FIRST, FIRST + 1, ... until COUNT are done or SECONDS over."""
    name, seed, first, count, seconds, folder = arguments
    faulthandler.enable()  # where Python was when a library crashed
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _too_slow)
    warnings.simplefilter("ignore")
    tally = run(name, seed, int(first), int(count), float(seconds), Path(folder))
    print(json.dumps(asdict(tally)))


def run(name: str, seed: str, first: int, count: int, seconds: float, folder: Path) -> Tally:
    """Damage one of the target's files at a time and read them all."""
    from tools.fuzzing.targets import TARGETS

    target = TARGETS[name]
    files = {path: path.read_bytes() for path in target.make(folder)}
    target.read(folder)  # the sound files must be read
    tally, end = Tally(fallen=[]), time.monotonic() + seconds
    progress = os.open(folder / "progress", os.O_RDWR | os.O_CREAT)
    for number in range(first, first + count):
        if time.monotonic() > end:
            break
        generator = Random(f"{seed} {name} {number}")
        path = generator.choice(list(files))
        path.write_bytes(target.mutate(bytearray(files[path]), generator))
        os.pwrite(progress, f"{number:020d} {path}".ljust(4096).encode(), 0)
        _try(target, folder, number, path, tally)
        path.write_bytes(files[path])
    return tally


def _try(target, folder: Path, number: int, path: Path, tally: Tally) -> None:
    from hpcnk.errors import HpcnkError

    start = time.monotonic()
    signal.alarm(PATIENCE)
    try:
        target.read(folder)
        tally.read += 1
    except HpcnkError as error:
        str(error).encode("utf-8", "backslashreplace")
        tally.refused += 1
    except Exception as error:  # whatever else comes is what we look for
        _keep(error, number, path, tally)
    signal.alarm(0)
    tally.tried += 1
    tally.slowest = max(tally.slowest, time.monotonic() - start)


def _keep(error: Exception, number: int, path: Path, tally: Tally) -> None:
    """Note an exception once for each place that raises it, with the input that led there."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "hpcnk" in f.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    what = f"{type(error).__name__} at {place}: {str(error)[:100]!a}"
    if all(known.split(": ")[0] != what.split(": ")[0] for known, _, _ in tally.fallen):
        kept = path.with_name(f"fallen-{number}-{path.name}")
        kept.write_bytes(path.read_bytes())
        tally.fallen.append((what, number, str(kept)))


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"not done after {PATIENCE} seconds")


if __name__ == "__main__":
    main(sys.argv[1:])
