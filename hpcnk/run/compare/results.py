"""What a comparison leaves in the output folder: compare.json, compare.csv and the plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcnk.comm import on_root
from hpcnk.report import comparison_csv, comparison_plot
from hpcnk.run.session import Session
from hpcnk.store import write_text
from hpcnk.store.files import published

FORMATS = ("svg", "png")


def publish(session: Session, content: dict[str, Any]) -> bool:
    """Write the table and the plot; return whether all items could be solved. Collective.

    Times of the plot have the kernel's part from the pairs per second in the report, where it is
    there. Raises StorageError.
    """
    folder = session.folder

    def write() -> None:
        rate = folder.read_report().get("kernel", {}).get("pairs_per_second")
        write_text(folder.path / "compare.csv", comparison_csv(content, rate))
        for kind in FORMATS:
            _write_bytes(folder.path / f"compare.{kind}", comparison_plot(content, rate, kind))

    on_root(session.comm, write)
    session.say(f"results: {folder.path / 'compare.csv'}, {folder.path / 'compare.png'}")
    failed = [entry for entry in content["entries"] if entry["test"] is None]
    for entry in failed:
        session.warn(
            "compare",
            f"{entry['method']} on {entry['rows']} rows could not be solved with any ridge: add "
            "larger ones to solve.ridge",
        )
    return not failed


def _write_bytes(path: Path, content: bytes) -> None:
    """Write a file, replacing `path` in one step."""
    with published(path) as temporary:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
