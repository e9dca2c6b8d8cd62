"""What all stages of one job share."""

from __future__ import annotations

from dataclasses import dataclass, field

from threadpoolctl import threadpool_limits

from hpcnk.comm import Communicator, agreement, on_root
from hpcnk.deck import Deck
from hpcnk.kernels import Architecture, parse
from hpcnk.report import EventLog, printable
from hpcnk.run.folder import Folder
from hpcnk.run.guard.faults import Faults
from hpcnk.run.guard.output import open_folder
from hpcnk.run.guard.stop import StopFlag
from hpcnk.run.guard.watchdog import Watchdog, open_watchdog
from hpcnk.run.provenance import report_head
from hpcnk.run.threads import threads_per_rank


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
    stop: StopFlag = field(default_factory=StopFlag)

    @property
    def root(self) -> bool:
        """Whether this is the rank that talks."""
        return self.comm.rank == 0

    def say(self, text: str) -> None:
        """Print one line, on rank 0 alone."""
        if self.root:
            print(printable(text), flush=True)

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
            known = self.folder.read_report()["warnings"].get(stage, [])
            if text not in known:
                self._keep_warnings(stage, [*known, text])

    def _keep_warnings(self, stage: str, texts: list[str]) -> None:
        warnings = self.folder.read_report()["warnings"]
        self.folder.update_report(warnings={**warnings, stage: texts})


def open_session(deck: Deck, comm: Communicator) -> Session:
    """Make the output folder, settle threads, start the report. Collective."""
    faults = Faults(comm.rank)
    folder, taken = open_folder(deck, comm)
    threads = threads_per_rank(comm)
    threadpool_limits(threads)
    with agreement(comm):
        events = EventLog(folder.events if comm.rank == 0 else None)
    minutes = deck.watchdog.minutes if deck.watchdog else None
    watchdog = open_watchdog(minutes, folder.path, comm)
    parts = (parse(deck.kernel.layers), threads, events, faults, watchdog)
    session = Session(deck, comm, folder, *parts)
    head = report_head(deck, comm.size, threads)
    on_root(comm, lambda: folder.update_report(**{"warnings": {}, **folder.read_report(), **head}))
    events.write("start", ranks=comm.size, threads=threads)
    ranks = f"{comm.size} rank{'s' if comm.size > 1 else ''}"
    session.say(f"hpcnk: {deck.name} on {ranks} with {threads} thread(s) each, in {deck.output}")
    if taken.died:
        session.say(f"the last run here ({taken.died}) died; going on from what it has stored")
    session.begin("start")
    if taken.warning:
        session.warn("start", taken.warning)
    return session
