"""events.jsonl: one JSON object a line, for machines."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class EventLog:
    """Appends events to a file; without a path (every rank but the first) it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, event: str, **fields: Any) -> None:
        """Add one event with the time in seconds since 1970. A full disk does not stop a run."""
        if self._path is None:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields})
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:  # the log is a convenience; the tiles and the report are what must be kept
            self._path = None
