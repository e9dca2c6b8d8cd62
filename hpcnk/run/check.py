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
    _check_rows(deck, data.train_rows)
    return deck, data


def _check_rows(deck: Deck, rows: int) -> None:
    """Refuse what needs more training rows than there are. Raises DeckError."""
    asked, known = deck.solve.preconditioner, f"expected at most {rows}, the training rows"
    if asked is not None and asked.rank != "auto" and asked.rank > rows:
        what = f"{known}, got {asked.rank}"
        raise deck.error_at(("solve", "preconditioner", "rank"), what, "or auto")
    for i, size in enumerate(deck.solve.sizes):
        if size > rows:
            raise deck.error_at(("solve", "sizes", i), f"{known}, got {size}")
