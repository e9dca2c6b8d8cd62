"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels, 10 classes.

The set comes without a split, so one is fixed here: rows 0, 6, 12, ..., 1794 are the 300 test
images, the other 1,497 the training images, both in the order of the file.

The rows come in sequence from 13 writers. A test set of the last 300 rows would therefore hold
writers that training never saw, and is harder: over five kernel widths an RBF kernel regression
on 1,497 images (inputs as normalised here) reached 94.7 to 96.3 % on the last 300 rows, an RBF
support vector machine at most 95.7 %, the nearest neighbour 94.3 %. On every sixth row the same
methods reached up to 99.7, 99.0 and 99.7 %. So accuracies on this split say how well a writer's
other digits are read, not a new writer's.
"""

from __future__ import annotations

import numpy as np

from hpcnk.data.source import Array, Description, Part, RowNumbers

_TEST_STEP = 6


class Digits:
    """Source of the digits: (8, 8, 1) float64 images with values 0 to 16."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits  # takes a second to import: only where needed

        digits = load_digits()
        is_test = np.arange(len(digits.target)) % _TEST_STEP == 0
        images = digits.images[..., np.newaxis]
        self._x = {"train": images[~is_test], "test": images[is_test]}
        self._y = {"train": digits.target[~is_test], "test": digits.target[is_test]}

    def describe(self) -> Description:
        """1,497 training and 300 test images."""
        shape = self._x["train"].shape[1:]
        return Description(shape, len(self._y["train"]), len(self._y["test"]), 10, "classification")

    def labels(self, part: Part) -> Array:
        """All classes of a part, (rows,) int64."""
        return self._y[part].astype(np.int64)

    def read(self, part: Part, rows: RowNumbers) -> tuple[Array, Array]:
        """Images (len(rows), 8, 8, 1) and classes (len(rows),)."""
        return self._x[part][rows], self.labels(part)[rows]
