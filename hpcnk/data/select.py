"""Choosing rows: the first n, a range, so many of each class; shuffling; the validation split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from hpcnk.data.source import Array, Part, RowNumbers
from hpcnk.deck import PerClass, Rows
from hpcnk.errors import DataError

_SHUFFLE = 1  # tells the draw of the order from that of the validation rows, of the same seed
_NAMES = {"train": "training", "test": "test"}


def select(
    wanted: Rows | PerClass | None,
    part: Part,
    available: int,
    classes: int | None,
    labels: Callable[[], Array],
) -> RowNumbers:
    """Return the ascending row numbers that a deck's `train` or `test` asks for.

    `wanted` is None (all rows), a range of rows, or a number of rows of each class, drawn
    without replacement. `available` is the number of rows of this part,
    `classes` None for regression. `labels()` gives all labels of the part; it is called for
    `per_class` only. Raises DataError for rows that do not exist.
    """
    if wanted is None:
        return np.arange(available)
    if isinstance(wanted, PerClass):
        if classes is None:
            raise DataError(
                f"data.{part}: per_class needs classes, and this data set has real targets",
                "give a number of rows, or {start, count}",
            )
        return _per_class(labels(), classes, wanted.per_class, wanted.seed, part)
    return _range(wanted.start, wanted.count, part, available)


def _range(start: int, count: int, part: Part, available: int) -> RowNumbers:
    if start < 0 or count < 1 or start + count > available:
        raise DataError(
            f"data.{part} asks for {count} rows from row {start} on; "
            f"the {_NAMES[part]} set has {available} rows, 0 to {available - 1}",
            f"ask for at least 1 row and for no row after row {available - 1}",
        )
    return np.arange(start, start + count)


def _per_class(y: Array, classes: int, per_class: int, seed: int, part: Part) -> RowNumbers:
    if per_class < 1:
        raise DataError(f"data.{part}: per_class is {per_class}", "ask for at least 1")
    counts = np.bincount(y, minlength=classes)
    short = np.flatnonzero(counts < per_class)
    if short.size:
        listed = ", ".join(f"class {c} has {counts[c]}" for c in short[:10])
        raise DataError(
            f"data.{part} asks for {per_class} rows of each class; "
            f"in the {_NAMES[part]} set {listed}",
            f"ask for at most {counts.min()} rows a class" if counts.min() else "select by rows",
        )
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(np.flatnonzero(y == c))[:per_class] for c in range(classes)]
    return np.sort(np.concatenate(drawn))


def shuffled_order(count: int, seed: int) -> RowNumbers:
    """Return the positions 0 to count - 1 in a random order that depends on `seed` alone."""
    return np.random.default_rng([seed, _SHUFFLE]).permutation(count)


def validation_rows(y: ArrayLike, validation: float, seed: int) -> RowNumbers:
    """Return the ascending positions, among the training rows, held out to choose the ridge.

    `y` holds the raw labels of the training rows: integers are classes and are stratified,
    real targets are not. `validation` is a share (float in [0, 1)) or a count (int) of rows;
    a share is rounded to the nearest count. Stratified: each class gives its share, the counts
    rounded by largest remainder (equal remainders to the lower class), and keeps one training
    row as long as the other classes can give enough. The draw depends on `seed` alone.

    Raises DataError when nothing, or everything, would be held out although some was asked for.
    """
    labels = np.asarray(y)
    total = len(labels)
    held = _held_count(validation, total)
    if held == 0:
        return np.arange(0)
    generator = np.random.default_rng(seed)
    if labels.dtype.kind not in "biu":
        return np.sort(generator.permutation(total)[:held])
    classes, counts = np.unique(labels, return_counts=True)
    shares = _stratify(counts, held)
    drawn = [
        generator.permutation(np.flatnonzero(labels == c))[:share]
        for c, share in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def _held_count(validation: float, total: int) -> int:
    if validation == 0:
        return 0
    is_share = isinstance(validation, float)
    held = round(validation * total) if is_share else int(validation)
    if not 0 < held < total or (is_share and validation >= 1):
        raise DataError(
            f"data.validation is {validation}: {held} of {total} training rows would be held out",
            f"hold out at least 1 and at most {total - 1} rows, or such a share; 0 for none",
        )
    return held


def _stratify(counts: Array, held: int) -> Array:
    """Split `held` rows over classes in proportion to `counts`, by largest remainder."""
    room = counts - 1 if (counts - 1).sum() >= held else counts
    quota = held * counts / counts.sum()
    shares = np.minimum(np.floor(quota).astype(np.int64), room)
    while shares.sum() < held:
        lacking = np.where(shares < room, quota - shares, -np.inf)
        shares[np.argmax(lacking)] += 1
    return shares
