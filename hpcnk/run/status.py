"""What an output folder holds, read without disturbing a running job."""

from __future__ import annotations

from pathlib import Path

from hpcnk.errors import UsageError
from hpcnk.report import passes
from hpcnk.run.checkpoint import PASSES
from hpcnk.run.folder import Folder
from hpcnk.run.guard.lock import running_holder
from hpcnk.store import read_attributes, read_journals, read_layout


def status(path: Path) -> list[str]:
    """Return lines that say how far each stage has come. Raises UsageError, StorageError."""
    folder = Folder(path)
    if not folder.holds(folder.report):
        raise UsageError(
            f"{path} is no output folder of hpcnk: it has no report.json",
            "give the folder that the deck names as `output`",
        )
    report = folder.read_report()
    return [
        f"{report['name']} ({report['deck']}), last started on {report['ranks']} rank(s)",
        f"at work: {running_holder(folder.path) or 'nobody'}",
        f"inputs: {'written' if folder.inputs.exists() else 'not yet'}",
        *(_tiles(file) for file in (folder.kernel, folder.test_kernel)),
        *_results(report),
        *_checkpoints(folder),
        *(f"WARNING: {text}" for texts in report["warnings"].values() for text in texts),
    ]


def _tiles(path: Path) -> str:
    if not path.exists():
        return f"{path.name}: not yet"
    layout = read_layout(path)
    if layout.complete:
        return f"{path.name}: complete, {layout.grid.count} tiles"
    done = len(read_journals(layout))
    return (
        f"{path.name}: {done} of {layout.grid.count} tiles ({100 * done / layout.grid.count:.1f} %)"
    )


def _checkpoints(folder: Folder) -> list[str]:
    """Say how far a solve has come that is not over."""
    paths = sorted(folder.path.glob("checkpoint-*.h5"))
    return [f"{path.name}: after {passes(read_attributes(path)[PASSES])}" for path in paths]


def _results(report: dict) -> list[str]:
    if not report.get("solve"):
        return ["solve: not yet"]
    lines = [
        f"solve: {_setting(entry)}: {'converged' if entry['converged'] else 'NOT converged'}"
        for entry in report["solve"]
    ]
    if not report.get("test"):
        return [*lines, "test: not yet"]
    for entry, metrics in zip(report["solve"], report["test"], strict=True):
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        lines.append(f"test: {_setting(entry)}: {shown}")
    return lines


def _setting(entry: dict) -> str:
    return f"{entry['rows']} rows, ridge {entry['ridge']:g}"
