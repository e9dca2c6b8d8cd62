"""compare.json: the entries of a comparison, kept so that none is computed twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcnk.comm import on_root
from hpcnk.errors import StorageError
from hpcnk.report import misfit_of_comparison
from hpcnk.run.compare.items import Item
from hpcnk.run.session import Session
from hpcnk.store import differences, read_mapping, storage_errors, write_text

Entry = dict[str, Any]


def comparison_file(session: Session) -> Path:
    """Return the path of compare.json."""
    return session.folder.path / "compare.json"


class Record:
    """The entries that are there, for one origin, on all ranks; rank 0 writes them. Collective.

    `facts` are what the file says besides, such as the task. Its methods are collective and raise
    StorageError.
    """

    def __init__(self, session: Session, origin: Mapping[str, str], facts: Entry) -> None:
        self._session, self._path = session, comparison_file(session)
        self._head = {**facts, "origin": dict(origin)}
        entries = on_root(session.comm, lambda: _usable(session, self._path, origin))
        self._entries = {_item_of(entry): entry for entry in entries}

    def holds(self, item: Item) -> bool:
        """Return whether an item is there."""
        return item in self._entries

    def add(self, item: Item, entry: Entry) -> None:
        """Add an entry, and write the file."""
        self._entries[item] = entry
        self.write(list(self._entries))

    def write(self, items: list[Item]) -> Entry:
        """Write the entries of these items, in this order; return the content."""
        entries = [self._entries[item] for item in items if item in self._entries]
        content = {**self._head, "entries": entries}
        text = json.dumps(content, indent=2) + "\n"
        on_root(self._session.comm, lambda: write_text(self._path, text))
        return content


def _usable(session: Session, path: Path, origin: Mapping[str, str]) -> list[Entry]:
    """Return the stored entries, none if they are of another origin."""
    stored = _read(session, path)
    if stored is None:
        return []
    changed = differences(stored["origin"], dict(origin))
    if changed:
        session.say(f"compare: anew, for {'; '.join(changed)}")
    return [] if changed else stored["entries"]


def _item_of(entry: Entry) -> Item:
    return Item(entry["method"], entry["rows"], entry["budget"])


def _read(session: Session, path: Path) -> Entry | None:
    """Return what is stored; None if there is nothing, or nothing of use."""
    try:
        with storage_errors("reading", path):
            if not path.exists():
                return None
            content = read_mapping(path)
    except StorageError as error:
        session.warn("compare", f"compared anew, for {error.what}")
        return None
    if found := misfit_of_comparison(content):
        session.warn("compare", f"compared anew, for {path} is no comparison of hpcnk: {found}")
        return None
    return content
