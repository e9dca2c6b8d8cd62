"""What all stages of one job share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from threadpoolctl import threadpool_limits

from hpcnk.comm import Communicator, agreement, on_root
from hpcnk.deck import Deck
from hpcnk.kernels import Architecture, parse
from hpcnk.report import EventLog, speak
from hpcnk.run.folder import Folder
from hpcnk.run.guard.faults import VARIABLE, Faults
from hpcnk.run.guard.output import open_folder
from hpcnk.run.guard.stop import StopFlag
from hpcnk.run.guard.watchdog import Watchdog, open_watchdog
from hpcnk.run.provenance import report_head
from hpcnk.run.threads import threads_per_rank
from hpcnk.store import storage_errors


@dataclass(frozen=True)
class Session:
    """One job of one deck on one communicator. Collective to open."""

    deck: Deck
    comm: Communicator
    folder: Folder
    architecture: Architecture
    threads: int
    events: EventLog
    faults: Faults
    watchdog: Watchdog
    stop: StopFlag
    head: dict[str, Any]  # of the report

    @property
    def root(self) -> bool:
        """Whether this is the rank that talks."""
        return self.comm.rank == 0

    def say(self, text: str) -> None:
        """Print one line, on rank 0 alone."""
        if self.root:
            speak(text)

    def update_report(self, **fields: Any) -> None:
        """Add or replace fields of the report. One rank calls this."""
        known = {"warnings": {}, **self.folder.read_report(), **self.head}
        self.folder.update_report(**(known | fields))

    def enter(self, stage: str) -> None:
        """Tell the log and the watchdog which stage begins."""
        self.events.write("phase", phase=stage)
        self.watchdog.enter(stage)

    def begin(self, stage: str) -> None:
        """Enter a stage, and forget the warnings of its last run."""
        self.enter(stage)
        self.forget_warnings(stage)

    def forget_warnings(self, stage: str) -> None:
        """Drop the warnings of this stage's last run from the report."""
        if self.root:
            self._keep_warnings(stage, [])

    def warn(self, stage: str, text: str) -> None:
        """Print a warning on rank 0 and keep it in the report until the stage is run again."""
        self.say(f"WARNING: {text}")
        if self.root:
            self.events.write("warning", stage=stage, text=text)
            known = self._warnings().get(stage, [])
            if text not in known:
                self._keep_warnings(stage, [*known, text])

    def _keep_warnings(self, stage: str, texts: list[str]) -> None:
        self.update_report(warnings={**self._warnings(), stage: texts})

    def _warnings(self) -> dict[str, list[str]]:
        return self.folder.read_report().get("warnings", {})


def open_session(deck: Deck, comm: Communicator) -> Session:
    """Make the output folder, settle threads, start the report. Collective."""
    stop = StopFlag()
    with agreement(comm):
        faults = Faults(comm.rank)
    folder, taken = open_folder(deck, comm)
    on_root(comm, lambda: _tidy(folder))
    stop.share(folder.stop)
    threads = threads_per_rank(comm)
    threadpool_limits(threads)
    with agreement(comm):
        events = EventLog(folder.events if comm.rank == 0 else None)
    minutes = deck.watchdog.minutes if deck.watchdog else None
    watchdog = open_watchdog(minutes, folder.path, comm)
    head = report_head(deck, comm.size, threads)
    parts = (parse(deck.kernel.layers), threads, events, faults, watchdog, stop, head)
    session = Session(deck, comm, folder, *parts)
    on_root(comm, session.update_report)
    events.write("start", ranks=comm.size, threads=threads)
    ranks = f"{comm.size} rank{'s' if comm.size > 1 else ''}"
    session.say(f"hpcnk: {deck.name} on {ranks} with {threads} thread(s) each, in {deck.output}")
    if taken.died:
        session.say(f"the last run here ({taken.died}) died; going on from what it has stored")
    session.begin("start")
    if VARIABLE in os.environ:
        session.say(f"WARNING: {VARIABLE}={os.environ[VARIABLE]} makes this run fail on purpose")
    if taken.warning:
        session.warn("start", taken.warning)
    return session


def _tidy(folder: Folder) -> None:
    """Remove what runs that were killed have left: the lock is ours, so nobody uses it."""
    with storage_errors("removing files in", folder.path):
        for path in [folder.stop, *folder.path.glob(".*.tmp")]:
            path.unlink(missing_ok=True)
