"""How much memory a kernel phase takes.

    python -m tests.support.peak inputs DECK ...          writes the inputs that the next needs
    python -m tests.support.peak kernel WARM_UP_DECK DECK

prints the peak of resident bytes during the second deck's kernel phase, less what the process had
after that of the first, a tiny one.
"""

import gc
import resource
import sys
from pathlib import Path

from hpcnk.comm import world
from hpcnk.deck import read_deck
from hpcnk.kernels import find_problems
from hpcnk.run import kernel as phase
from hpcnk.run.prepare import prepare
from hpcnk.run.session import open_session

PAGE = resource.getpagesize()


def inputs(*decks):
    for deck in decks:
        prepare(session(deck))


def kernel(warm_up, deck):
    phase.kernel(session(warm_up))
    gc.collect()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    phase.kernel(session(deck))
    print(peak() - before)


def session(deck):
    return open_session(read_deck(Path(deck), find_problems), world())


def peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM in /proc/self/status")


if __name__ == "__main__":
    {"inputs": inputs, "kernel": kernel}[sys.argv[1]](*sys.argv[2:])
