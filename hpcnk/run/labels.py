"""The label encoding, as the inputs file keeps it."""

from __future__ import annotations

from pathlib import Path

from hpcnk.data import Targets
from hpcnk.run.stored import read_finite
from hpcnk.store import read_attributes


def read_targets(inputs: Path) -> Targets:
    """Return the encoding that was fitted on the training rows. Raises StorageError.

    The inputs must have passed `check_inputs`.
    """
    task = read_attributes(inputs)["task"]
    mean, std = read_finite(inputs, "target_mean", "target_std")
    return Targets(task, len(mean) if task == "classification" else None, mean, std)
