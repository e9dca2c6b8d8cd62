"""What every reader offers: facts that cost little, all labels, and chosen rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Task = Literal["classification", "regression"]
Part = Literal["train", "test"]
Array = NDArray[Any]
RowNumbers = NDArray[np.int64]

# No single read takes more than this; a test may lower it to exercise the loop.
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Description:
    """Shape and size of a data set, before or after rows were selected.

    `input_shape` is (features,), (length, channels) or (height, width, channels);
    `outputs` the number of classes, or of real targets a row. `fit_rows`: rows beside the selected
    ones that are read to fit the whitening on.
    """

    input_shape: tuple[int, ...]
    train_rows: int
    test_rows: int
    outputs: int
    task: Task
    fit_rows: int = 0

    def rows(self, part: Part) -> int:
        """Number of rows of one part."""
        return self.train_rows if part == "train" else self.test_rows


class Source(Protocol):
    """A data set on disk. Every method raises DataError on damaged or unusable data."""

    def describe(self) -> Description:
        """What is available, without reading the inputs."""

    def labels(self, part: Part) -> Array:
        """Classes (rows,) int64, or targets (rows, outputs) float64, of all rows of a part.

        NaN stands for a target that is missing.
        """

    def read(self, part: Part, rows: RowNumbers) -> tuple[Array, Array]:
        """Inputs (len(rows), *input_shape) as stored, and labels, of these ascending rows."""


def rows_per_block(row_bytes: int) -> int:
    """How many rows of this many bytes one read may take: at least one."""
    return max(1, BLOCK_BYTES // max(1, row_bytes))


def gather(read: Callable[[int, int], Array], rows: RowNumbers, out: Array) -> Array:
    """Fill `out` with the ascending `rows`, by reads of contiguous ranges in ascending order.

    `read(start, stop)` returns rows start to stop - 1. Blocks that hold no wanted row are
    never read.
    """
    block = rows_per_block(out.itemsize * int(np.prod(out.shape[1:])))
    done = 0
    while done < len(rows):
        start = int(rows[done])
        end = int(np.searchsorted(rows, start + block))
        stop = int(rows[end - 1]) + 1
        out[done:end] = read(start, stop)[rows[done:end] - start]
        done = end
    return out
