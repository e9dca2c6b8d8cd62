"""The training rows held out for validation, and what must be there without them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcnk.data import require_labels, validation_rows
from hpcnk.deck import Deck
from hpcnk.run.problem import training_sizes


def draw_held_rows(deck: Deck, target: NDArray[Any]) -> NDArray[np.int64]:
    """Return the positions of the rows held out, of training rows with these raw labels.

    Raises DataError unless every output has a label in each training-set size without them.
    """
    held = validation_rows(target, deck.data.validation, deck.data.seed)
    require_labels(target, held, training_sizes(deck, len(target)))
    return held
