"""Reading a deck with everything that can be checked before MPI starts."""

from __future__ import annotations

from pathlib import Path

from hpcnk.data import Description, describe
from hpcnk.deck import Deck, read_deck
from hpcnk.errors import ArchitectureError, DeckError
from hpcnk.kernels import parse


def check(path: Path) -> tuple[Deck, Description]:
    """Return the deck and a description of its data set.

    Raises DeckError with all problems of the deck, DataError for a data set that cannot be read.
    """
    deck = read_deck(path, lambda layers: _check_layers(layers))
    data = describe(deck.data)
    try:
        architecture = parse(deck.kernel.layers)
        architecture.check_kind(deck.kernel.kind)
        architecture.check(data.input_shape)
    except ArchitectureError as error:
        where = ".".join(map(str, ("kernel.layers", *error.path)))
        shape = " x ".join(map(str, data.input_shape))
        raise DeckError(
            f"{path}: {where}: {error.what} (the data have the shape {shape})", error.advice
        ) from error
    return deck, data


def _check_layers(layers: object) -> None:
    parse(layers)
