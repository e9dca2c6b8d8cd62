"""The output folder: which file is what."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcnk.errors import StorageError
from hpcnk.report import markdown, misfit_of_report, printable
from hpcnk.store import read_mapping, storage_errors, write_text

_REWRITTEN = "remove it; `hpcnk run` writes it anew and computes no tile again"


@dataclass(frozen=True)
class Folder:
    """Paths below one output folder."""

    path: Path

    @property
    def inputs(self) -> Path:
        """Preprocessed data and encoded targets."""
        return self.path / "inputs.h5"

    @property
    def variances(self) -> Path:
        """What is known of each row alone."""
        return self.path / "variances.h5"

    @property
    def kernel(self) -> Path:
        """Tiles of the upper triangle, training rows by training rows."""
        return self.path / "kernel.h5"

    @property
    def test_kernel(self) -> Path:
        """Tiles of test rows by training rows."""
        return self.path / "test_kernel.h5"

    @property
    def solution(self) -> Path:
        """The coefficients alpha of every ridge."""
        return self.path / "solution.h5"

    def checkpoint(self, which: str, number: int) -> Path:
        """One of the two alternating checkpoints of a solve."""
        return self.path / f"checkpoint-{which}-{number}.h5"

    @property
    def predictions(self) -> Path:
        """Test predictions of every ridge, and the targets."""
        return self.path / "predictions.h5"

    @property
    def stop(self) -> Path:
        """There when a rank has been told to stop."""
        return self.path / "stop"

    @property
    def report(self) -> Path:
        """The report for machines."""
        return self.path / "report.json"

    @property
    def events(self) -> Path:
        """The log for machines."""
        return self.path / "events.jsonl"

    def make(self) -> None:
        """Create the folder and its parents. Raises StorageError."""
        self.require_free_way()
        with storage_errors("creating the folder", self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def require_free_way(self) -> None:
        """Raise StorageError if something else stands where the folder or a parent should be."""
        with storage_errors("looking for", self.path):
            obstacle = self._obstacle()
        if obstacle:
            what = f"the output folder {self.path} cannot be made: {obstacle}"
            raise StorageError(what, "move it away, or choose another `output`")

    def _obstacle(self) -> str:
        """Say what is in the way, empty if nothing."""
        for place in reversed((self.path, *self.path.parents)):
            if place.is_symlink() and not place.is_dir():
                return f"{place} is a symbolic link to {os.readlink(place)}, which is no folder"
            if place.exists() and not place.is_dir():
                return f"{place} is a file"
        return ""

    def holds(self, path: Path) -> bool:
        """Return whether one of the files is there. Raises StorageError where that is hidden."""
        with storage_errors("looking for", path):
            return path.exists()

    def read_report(self) -> dict[str, Any]:
        """Return the report as far as it goes, empty before the first stage.

        Raises StorageError if it cannot be read, or is not what hpcnk writes.
        """
        with storage_errors("reading", self.report):
            try:
                report = read_mapping(self.report)
            except FileNotFoundError:
                return {}
        if found := misfit_of_report(report):
            raise StorageError(f"{self.report} is no report of hpcnk: {found}", _REWRITTEN)
        return report

    def update_report(self, **fields: Any) -> dict[str, Any]:
        """Add or replace fields of the report, and write both its forms. One rank calls this."""
        report = {**self.read_report(), **fields}
        write_text(self.report, json.dumps(report, indent=2) + "\n")
        write_text(self.report.with_suffix(".md"), printable(markdown(report)))
        return report
