"""Opening a deck's data set, describing it, and loading the rows that the deck asks for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from hpcnk.data.arrays import Arrays
from hpcnk.data.cifar10 import Cifar10
from hpcnk.data.digits import Digits
from hpcnk.data.select import select, shuffled_order
from hpcnk.data.source import Array, Description, Part, RowNumbers, Source, Task, rows_per_block
from hpcnk.deck import DataSection
from hpcnk.errors import DataError

_READERS: dict[str, Callable[[Path], Source]] = {"cifar10": Cifar10, "arrays": Arrays}


@dataclass(frozen=True)
class Examples:
    """The selected rows as stored.

    `x_*` (rows, *input_shape) in the stored type; `y_*` classes (rows,) int64 or targets
    (rows, outputs) float64, NaN where there is no label; `train_rows`, `test_rows` their row
    numbers in the data set: ascending, but with `data.shuffle` the training rows in random order.
    `x_fit` are the inputs that whitening is fitted on, `fit_rows` their numbers.
    `classes` is None for regression. The digests are SHA-256, in hexadecimal, of shapes, types
    and bytes of x and y: of each part, and of the two part digests together.
    """

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    train_rows: RowNumbers
    test_rows: RowNumbers
    x_fit: Array
    fit_rows: RowNumbers
    task: Task
    classes: int | None
    digest_train: str
    digest_test: str
    digest: str


def open_source(section: DataSection) -> Source:
    """Return the reader of the deck's data set. Raises DataError when it cannot be read."""
    if section.dataset == "digits":
        return Digits()
    if section.dataset not in _READERS:
        known = ", ".join(["digits", *_READERS])
        raise DataError(f"there is no data set {section.dataset!r}", f"choose one of {known}")
    if section.path is None:
        raise DataError(f"data set {section.dataset} needs a path", "set data.path")
    return _READERS[section.dataset](Path(section.path))


def describe(section: DataSection) -> Description:
    """Shape and size of what `load` would return, at little cost: no inputs are read.

    Labels are read where the answer depends on them: for `per_class`, and in `arrays` for the
    number of classes. CIFAR-10's Python version must be unpickled. Raises DataError.
    """
    source = open_source(section)
    available = source.describe()
    return replace(
        available,
        train_rows=len(_rows(section, source, available, "train")),
        test_rows=len(_rows(section, source, available, "test")),
        fit_rows=available.train_rows if _fits_all(section) else 0,
    )


def load(section: DataSection) -> Examples:
    """Read the rows that the deck selects.

    Raises DataError for infinite values, NaN in inputs, and images that are zero everywhere.
    """
    source = open_source(section)
    available = source.describe()
    train = _rows(section, source, available, "train")
    test = _rows(section, source, available, "test")
    x_train, y_train = _read(source, "train", train)
    if section.shuffle:  # readers take ascending rows only
        order = shuffled_order(len(train), section.seed)
        x_train, y_train, train = x_train[order], y_train[order], train[order]
    x_test, y_test = _read(source, "test", test)
    fit, x_fit = train, x_train
    if _fits_all(section) and len(train) < available.train_rows:
        fit = np.arange(available.train_rows)
        x_fit = _read(source, "train", fit)[0]
    digests = _digest(x_train, y_train), _digest(x_test, y_test)
    if x_fit is not x_train:  # what whitening is fitted on is part of the training data
        digests = _joined(digests[0], _digest(x_fit, fit)), digests[1]
    return Examples(
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        train_rows=train,
        test_rows=test,
        x_fit=x_fit,
        fit_rows=fit,
        task=available.task,
        classes=available.outputs if available.task == "classification" else None,
        digest_train=digests[0],
        digest_test=digests[1],
        digest=_joined(*digests),
    )


def _fits_all(section: DataSection) -> bool:
    return section.whitening is not None and section.whitening.fit == "all"


def _rows(section: DataSection, source: Source, available: Description, part: Part) -> RowNumbers:
    classes = available.outputs if available.task == "classification" else None
    wanted = section.train if part == "train" else section.test
    return select(wanted, part, available.rows(part), classes, partial(source.labels, part))


def _read(source: Source, part: Part, rows: RowNumbers) -> tuple[Array, Array]:
    x, y = source.read(part, rows)
    _refuse_infinite(x, rows, f"x_{part}", may_miss=False)
    _refuse_infinite(y, rows, f"y_{part}", may_miss=True)
    if x.ndim == 4:
        _refuse_blank(x, rows, part)
    return x, y


def _refuse_infinite(values: Array, rows: RowNumbers, name: str, may_miss: bool) -> None:
    """Refuse infinite values, and NaN unless values may be missing."""
    if values.dtype.kind != "f":
        return
    held = "infinite values" if may_miss else "NaN or infinite values"
    step = rows_per_block(values[0].nbytes)
    for start in range(0, len(values), step):
        block = values[start : start + step].reshape(len(values[start : start + step]), -1)
        wrong = np.isinf(block) if may_miss else ~np.isfinite(block)
        bad = np.flatnonzero(wrong.any(axis=1))
        if bad.size:
            row = rows[start + bad[0]]
            advice = "; NaN stands for a label that is missing" if may_miss else ""
            raise DataError(f"row {row} of {name} holds {held}", f"repair or drop this row{advice}")


def _refuse_blank(images: Array, rows: RowNumbers, part: Part) -> None:
    blank = np.flatnonzero(~images.any(axis=(1, 2, 3)))
    if blank.size:
        raise DataError(
            f"row {rows[blank[0]]} of x_{part} is an image of zeros alone, "
            f"as are {blank.size - 1} more",
            "drop such rows: no kernel is defined for them",
        )


def _joined(*digests: str) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _digest(x: Array, y: Array) -> str:
    digest = hashlib.sha256()
    for values in (x, y):
        digest.update(f"{values.shape} {values.dtype.str}\n".encode())
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
