"""Reading a deck with everything that can be checked before MPI starts."""

from __future__ import annotations

from pathlib import Path

from hpcnk.data import Description, describe
from hpcnk.deck import Deck, read_deck
from hpcnk.engine import make_engine
from hpcnk.errors import ArchitectureError
from hpcnk.kernels import find_problems, parse


def check(path: Path, computes: bool = True) -> tuple[Deck, Description]:
    """Return the deck and a description of its data set.

    `computes`: tiles will be computed, so there must be a back end. Raises DeckError with all
    problems of the deck, DataError for a data set that cannot be read, BackendError for a back end
    that is not there.
    """
    deck = read_deck(path, find_problems)
    data = describe(deck.data)
    architecture = parse(deck.kernel.layers)
    kernel = deck.kernel
    try:
        architecture.check_kind(kernel.kind)
        architecture.check(data.input_shape)
        if computes:
            make_engine(architecture, kernel.kind, kernel.dtype, kernel.backend)
    except ArchitectureError as error:
        shape = " x ".join(map(str, data.input_shape))
        what = f"{error.what} (the data have the shape {shape})"
        raise deck.error_at(("kernel", "layers", *error.path), what, error.advice) from error
    return deck, data
