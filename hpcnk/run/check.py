"""Reading a deck with everything that can be checked before MPI starts."""

from __future__ import annotations

from pathlib import Path

from hpcnk.data import Description, describe
from hpcnk.deck import Deck, read_deck
from hpcnk.errors import ArchitectureError
from hpcnk.kernels import find_problems, parse


def check(path: Path) -> tuple[Deck, Description]:
    """Return the deck and a description of its data set.

    Needs no compiler and no GPU. Raises DeckError with all problems of the deck, DataError for a
    data set that cannot be read.
    """
    deck = read_deck(path, find_problems)
    data = describe(deck.data)
    architecture = parse(deck.kernel.layers)
    try:
        architecture.check_kind(deck.kernel.kind)
        architecture.check(data.input_shape)
    except ArchitectureError as error:
        shape = " x ".join(map(str, data.input_shape))
        what = f"{error.what} (the data have the shape {shape})"
        raise deck.error_at(("kernel", "layers", *error.path), what, error.advice) from error
    return deck, data
