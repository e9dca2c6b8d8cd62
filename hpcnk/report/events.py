"""events.jsonl: one JSON object a line, for machines.

The log is a convenience; the tiles and the report are what must be kept. So trouble with it ends
the log, not the run. Only a link or the like in its place is refused, before the run begins.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from hpcnk.errors import StorageError


class EventLog:
    """Appends events to a file; without a path (every rank but the first) it does nothing.

    Raises StorageError if the path is there and is no regular file.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            from hpcnk.store import require_regular, storage_errors  # see `write`

            with storage_errors("looking for", path):
                require_regular(path)

    def write(self, event: str, **fields: Any) -> None:
        """Add one event with the time in seconds since 1970. A full disk does not stop a run."""
        if self._path is None:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields})
        from hpcnk.store import open_own  # with it comes h5py, which may start MPI

        try:
            handle = open_own(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            with open(handle, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except (OSError, StorageError):
            self._path = None
