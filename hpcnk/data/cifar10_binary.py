"""A batch of CIFAR-10's binary version: rows of 1 label byte and 3,072 pixel bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpcnk.data.damage import damage_reported
from hpcnk.data.source import Array
from hpcnk.errors import DataError

ROW_BYTES = 3073  # one label, then 3 planes of 32 x 32 pixels


class BinaryBatch:
    """One .bin file; opening it looks at its size alone."""

    def __init__(self, path: Path) -> None:
        with damage_reported(path, (OSError,)):
            size = path.stat().st_size
        whole = size // ROW_BYTES
        if size == 0 or size % ROW_BYTES:
            raise DataError(
                f"{path} has {size} bytes, which is no multiple of {ROW_BYTES}: "
                f"the row that starts at byte {whole * ROW_BYTES} is incomplete",
                "the file was cut short or is of another kind: fetch it again",
            )
        self.path = path
        self.rows = whole

    def records(self, start: int, stop: int) -> Array:
        """Rows start to stop - 1, (stop - start, 3073) uint8, read from their bytes alone."""
        with damage_reported(self.path, (OSError,)), open(self.path, "rb") as file:
            file.seek(start * ROW_BYTES)
            content = file.read((stop - start) * ROW_BYTES)
        if len(content) != (stop - start) * ROW_BYTES:
            raise DataError(
                f"{self.path} ends at byte {start * ROW_BYTES + len(content)}, "
                f"before the end of row {stop - 1}",
                "the file became shorter while it was read: fetch it again",
            )
        return np.frombuffer(content, np.uint8).reshape(-1, ROW_BYTES)
