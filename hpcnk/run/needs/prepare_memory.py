"""The memory of rank 0 while it reads and prepares the data, and whether that is there."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from hpcnk.data import Description, describe
from hpcnk.deck import Deck
from hpcnk.errors import UsageError
from hpcnk.report import size
from hpcnk.run.needs.available import available_memory, process_limits

FLOAT64 = 8  # bytes
COPIES = 2  # of the rows: as read or in the kernel's precision, and in float64
WHITENING_SQUARES = 6  # covariance, eigenvectors, LAPACK's work space, the matrix: at once


@dataclass(frozen=True)
class PrepareMemory:
    """Bytes of the selected rows, of those that whitening alone needs, and of its matrices."""

    rows: int
    fit_rows: int
    whitening: int

    @property
    def total(self) -> int:
        """The peak."""
        return self.rows + self.fit_rows + self.whitening


def prepare_memory(deck: Deck, data: Description) -> PrepareMemory:
    """Return the memory that rank 0 takes to prepare these data."""
    features = prod(data.input_shape)
    return PrepareMemory(
        rows=COPIES * (data.train_rows + data.test_rows) * features * FLOAT64,
        fit_rows=data.fit_rows * features * FLOAT64,
        whitening=WHITENING_SQUARES * features**2 * FLOAT64 if deck.data.whitening else 0,
    )


def require_prepare_memory(deck: Deck) -> None:
    """Raise UsageError if this process cannot have the memory that the data take. One rank calls.

    Nothing has been read then but the data set's shape.
    """
    host = available_memory()
    known = [*([] if host is None else [host]), *process_limits()]
    data = describe(deck.data)
    need = prepare_memory(deck, data)
    if not known or need.total <= min(known):
        return
    shape = " x ".join(map(str, data.input_shape))
    raise UsageError(
        f"rank 0 needs {size(need.total)} of memory to prepare the data, and {size(min(known))} is "
        f"there: {size(need.rows + need.fit_rows)} for {data.train_rows + data.test_rows} rows of "
        f"{shape}, {size(need.whitening)} for whitening",
        "take a host with more memory for rank 0 (the files may be prepared on one rank alone: the "
        "kernel goes on with any number), or select fewer rows",
    )
