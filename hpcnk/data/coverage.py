"""Which rows have labels, and whether some of them have one of every class or output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcnk.data.labels import labelled
from hpcnk.data.source import Array, RowNumbers
from hpcnk.errors import DataError

_MOST_NAMED = 10


def label_notes(y_train: Array, y_test: Array) -> list[str]:
    """Return what a user should know of rows without any label; raw labels of the two parts."""
    known = {"training": labelled(y_train), "test": labelled(y_test)}
    notes = []
    without = int((~known["training"].any(axis=1)).sum())
    if without:
        notes.append(
            f"{without} of {len(y_train)} training rows have no label at all (only NaN): "
            "their part of the kernel is computed, but no solution uses them"
        )
    if not known["test"].any():
        notes.append("no test row has a label: there will be predictions, and no metrics of them")
    return notes


def require_labels(y: Array, held: RowNumbers, sizes: Sequence[int]) -> None:
    """Check that the rows held out have a label, and that the others have one of every output, in
    each of the training-set sizes too.

    `y` holds the raw labels of the training rows, `held` positions among them. An output without
    any label is not for this to refuse. Raises DataError.
    """
    known = labelled(y)
    if len(held) and not known[held].any():
        raise DataError(
            f"none of the {len(held)} training rows held out for validation has a label",
            "raise data.validation, or draw other rows with another data.seed",
        )
    has_labels = known.any(axis=0)
    known[held] = False
    lost = np.flatnonzero(has_labels & ~known.any(axis=0))
    if lost.size:
        raise DataError(
            f"all rows with a label of output {_listed(lost)} are among the "
            f"{len(held)} rows held out for validation",
            "lower data.validation, or draw other rows with another data.seed",
        )
    for size in sizes:
        missing = np.flatnonzero(has_labels & ~known[:size].any(axis=0))
        if missing.size:
            outputs = f" of output {_listed(missing)}" if y.ndim > 1 else ""
            apart = " apart from those held out for validation" if len(held) else ""
            raise DataError(
                f"the leading {size} of {len(y)} training rows have no label{outputs}{apart}",
                "set a larger size, or data.shuffle to true, to store the rows in random order",
            )


def unlike_leading_rows(y: Array, size: int) -> str:
    """Say which classes the leading `size` training rows lack and all have; empty if none.

    `y` holds the raw labels: classes (n,), or reals, of which `require_labels` looks after.
    """
    lacking = np.setdiff1d(y, y[:size]) if y.ndim == 1 else y[:0]
    if not len(lacking):
        return ""
    return (
        f"the leading {size} of {len(y)} training rows have no label of class "
        f"{_listed(lacking)}: set data.shuffle to true, to store the rows in random order, or "
        "take more of them"
    )


def _listed(numbers: Sequence[int] | Array) -> str:
    named = ", ".join(str(number) for number in numbers[:_MOST_NAMED])
    more = len(numbers) - _MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named
