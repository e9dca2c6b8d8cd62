"""A job of the benchmark on the ranks that `mpirun` started: see `launch.ask`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from hpcnk.comm import world
from hpcnk.comm.node import place_on_host
from tools.bench import machine
from tools.bench.systems.device import device_products
from tools.bench.systems.held import THREADS
from tools.bench.systems.products import products, scaling, streamed
from tools.bench.systems.solves import solves

JOBS: Mapping[str, Callable[..., Any]] = {
    job.__name__: job for job in (products, device_products, streamed, scaling, solves)
}


def main(question: str, answer: str) -> None:
    """Do what is asked and leave the answer in a file."""
    comm = world()
    cores = machine.usable_cores()
    place, _ = place_on_host(comm)
    machine.pin([cores[place % len(cores)]])
    asked = json.loads(question)
    with threadpool_limits(THREADS):
        result = JOBS[asked.pop("do")](comm, **asked)
    if comm.rank == 0:
        Path(answer).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
