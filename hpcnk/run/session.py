"""What all stages of one job share."""

from __future__ import annotations

from dataclasses import dataclass, field

from threadpoolctl import threadpool_limits

from hpcnk.comm import Communicator, on_root
from hpcnk.deck import Deck
from hpcnk.kernels import Architecture, parse
from hpcnk.report import EventLog
from hpcnk.run.folder import Folder
from hpcnk.run.lock import FolderLock
from hpcnk.run.provenance import report_head
from hpcnk.run.stop import StopFlag
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
    lock: FolderLock
    stop: StopFlag = field(default_factory=StopFlag)

    @property
    def root(self) -> bool:
        """Whether this is the rank that talks."""
        return self.comm.rank == 0

    def say(self, text: str) -> None:
        """Print one line, on rank 0 alone."""
        if self.root:
            print(text, flush=True)

    def begin(self, stage: str) -> None:
        """Forget the warnings of this stage's last run."""
        if self.root:
            self._keep_warnings(stage, [])

    def warn(self, stage: str, text: str) -> None:
        """Print a warning on rank 0 and keep it in the report until the stage is run again."""
        self.say(f"WARNING: {text}")
        if self.root:
            self.events.write("warning", stage=stage, text=text)
            known = self.folder.read_report()["warnings"].get(stage, [])
            self._keep_warnings(stage, [*known, text])

    def _keep_warnings(self, stage: str, texts: list[str]) -> None:
        warnings = self.folder.read_report()["warnings"]
        self.folder.update_report(warnings={**warnings, stage: texts})


def open_session(deck: Deck, comm: Communicator) -> Session:
    """Make the output folder, settle threads, start the report. Collective."""
    folder = Folder(deck.output)
    lock = FolderLock(folder.path)
    on_root(comm, folder.make)
    note = on_root(comm, lock.acquire)
    threads = threads_per_rank(comm)
    threadpool_limits(threads)
    events = EventLog(folder.events if comm.rank == 0 else None)
    session = Session(deck, comm, folder, parse(deck.kernel.layers), threads, events, lock)
    head = report_head(deck, comm.size, threads)
    on_root(comm, lambda: folder.update_report(**{"warnings": {}, **folder.read_report(), **head}))
    events.write("start", ranks=comm.size, threads=threads)
    ranks = f"{comm.size} rank{'s' if comm.size > 1 else ''}"
    session.say(f"hpcnk: {deck.name} on {ranks} with {threads} thread(s) each, in {deck.output}")
    if note:
        session.warn("kernel", note)
    return session
